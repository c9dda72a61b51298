"""Waveforms out of DICOM files (12-lead and general ECG storage), for import_arrays.py, read by
pydicom.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import ECGError, RecordError
from util.leads import standard_lead
from util.recordings.recording import Recording, millivolts_per, printable

SEXES = {"M": "Male", "F": "Female"}


def read_dicom(path: str | Path, row: object, note: object) -> Recording:
    """Read a DICOM file; a reader of data_preparation/importing/shards.py.

    Of several groups of channels that were sampled together the longest is read, which is the
    rhythm and not the median beat.

    Args:
        path: of the file.
        row, note: what the caller knows of it; not needed here.
    """
    try:
        import pydicom
    except ImportError:
        raise ECGError(
            "DICOM files need the package pydicom: python -m pip install 'pydicom>=3,<4'"
        ) from None
    try:
        dataset = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError:
        raise RecordError("no DICOM file") from None
    groups = dataset.get("WaveformSequence")
    if not groups:
        raise RecordError("a DICOM file without waveforms")
    index = max(
        range(len(groups)),
        key=lambda k: groups[k].NumberOfWaveformSamples / groups[k].SamplingFrequency,
    )
    group = groups[index]
    channels = group.ChannelDefinitionSequence
    signal = dataset.waveform_array(index) * [_millivolts(channel) for channel in channels]
    if "WaveformPaddingValue" in group:  # marks samples that are missing
        raw = pydicom.waveforms.numpy_handler.multiplex_array(dataset, index, as_raw=True)
        signal[raw == np.frombuffer(group.WaveformPaddingValue, raw.dtype)[0]] = np.nan
    others = [
        str(other.get("MultiplexGroupLabel", "without a name"))
        for k, other in enumerate(groups)
        if k != index
    ]
    flags = (f"other waveforms left out: {printable(' '.join(others))}",) if others else ()
    return Recording(
        np.ascontiguousarray(signal.T, np.float32).T,
        tuple(map(_lead, channels)),
        float(group.SamplingFrequency),
        _age(dataset),
        SEXES.get(dataset.get("PatientSex"), "Unknown"),
        flags=flags,
    )


def _lead(channel: Any) -> str:
    """Name of a channel's lead: "Lead I (Einthoven)" -> "I"."""
    meaning = str(channel.ChannelSourceSequence[0].CodeMeaning)
    words = re.sub(r"\(.*?\)", "", meaning).split()
    return words[-1] if words and standard_lead(words[-1]) else meaning


def _millivolts(channel: Any) -> float:
    """Factor from a channel's unit to mV."""
    units = channel.get("ChannelSensitivityUnitsSequence")
    unit = str(units[0].CodeValue) if units else "none given"
    factor = millivolts_per(unit)
    if factor is None:
        raise RecordError(
            f"unit {printable(unit)} of lead {printable(_lead(channel))} is no voltage"
        )
    return factor


def _age(dataset: Any) -> float:
    """Years, of "042Y", "018M" and the like; NaN if not known."""
    match = re.fullmatch(r"(\d{3})([DWMY])", dataset.get("PatientAge") or "")
    if not match:
        return math.nan
    return int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]]
