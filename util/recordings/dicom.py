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
# The number of a lead in the codes of MDC (2:61) and SCP-ECG (5.6.3-9-61).
_CODE = re.compile(r"(?:2:|5\.6\.3-9-)([0-9]{1,3})")
_BY_NUMBER = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
_BY_NUMBER |= {n + 2: f"V{n}" for n in range(1, 7)}


def read_dicom(path: str | Path, row: object, note: object) -> Recording:
    """Read a DICOM file; a reader of data_preparation/importing/shards.py.

    Groups of channels of equal rate, length and start are joined.  Of those that differ the
    longest are read, which are the rhythm and not the median beat.

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
    chosen = _together(groups)
    signal = np.concatenate([_samples(dataset, index) for index in chosen], axis=1)
    group = groups[chosen[0]]
    others = [
        str(other.get("MultiplexGroupLabel", "without a name"))
        for k, other in enumerate(groups)
        if k not in chosen
    ]
    flags = (f"other waveforms left out: {printable(' '.join(others))}",) if others else ()
    return Recording(
        np.ascontiguousarray(signal.T, np.float32).T,
        tuple(name for index in chosen for name in _leads(groups[index])),
        float(group.SamplingFrequency),
        _age(dataset),
        SEXES.get(str(dataset.get("PatientSex") or "")[:1].upper(), "Unknown"),
        flags=flags,
    )


def _together(groups: Any) -> list[int]:
    """Places of the groups that were sampled together, the longest, each lead once.

    Raises:
        RecordError: they are strips of other leads that follow one another.
    """

    def kind(group: Any) -> tuple[float, int, float]:
        start = float(group.get("MultiplexGroupTimeOffset") or 0)
        return float(group.SamplingFrequency), int(group.NumberOfWaveformSamples), start

    def seconds(place: int) -> float:
        return groups[place].NumberOfWaveformSamples / groups[place].SamplingFrequency

    places = range(len(groups))
    first = max(places, key=seconds)
    strips = [
        place
        for place in places
        if math.isclose(seconds(place), seconds(first), rel_tol=0.05)
        and kind(groups[place])[2] != kind(groups[first])[2]
        and not set(_leads(groups[place])) & set(_leads(groups[first]))
    ]
    if strips:
        raise RecordError(
            f"{len(strips) + 1} strips of {seconds(first):g} s that follow one another, each of "
            "other leads: they are no recording of all leads at one time"
        )
    chosen: list[int] = []
    leads: set[str] = set()
    for place in places:
        names = set(_leads(groups[place]))
        if kind(groups[place]) == kind(groups[first]) and not leads & names:
            chosen.append(place)
            leads |= names
    return chosen


def _samples(dataset: Any, index: int) -> np.ndarray:
    """Samples (n, channels) of a group in mV, NaN where one is missing."""
    import pydicom

    group = dataset.WaveformSequence[index]
    channels = group.ChannelDefinitionSequence
    signal = dataset.waveform_array(index) * [_millivolts(channel) for channel in channels]
    if "WaveformPaddingValue" in group:  # marks samples that are missing
        raw = pydicom.waveforms.numpy_handler.multiplex_array(dataset, index, as_raw=True)
        signal[raw == np.frombuffer(group.WaveformPaddingValue, raw.dtype)[0]] = np.nan
    return signal


def _leads(group: Any) -> list[str]:
    """Names of the leads of a group."""
    return [_lead(channel) for channel in group.ChannelDefinitionSequence]


def _lead(channel: Any) -> str:
    """Name of a channel's lead, by its code (MDC 2:1, SCP-ECG 5.6.3-9-1), else by its meaning:
    "Lead I (Einthoven)" and "aVR, augmented voltage, right" name one lead of the twelve.
    """
    source = channel.ChannelSourceSequence[0]
    code = _CODE.fullmatch(str(source.get("CodeValue") or "").strip())
    scheme = str(source.get("CodingSchemeDesignator") or "").upper()
    if code and scheme in ("MDC", "SCPECG"):
        lead = _BY_NUMBER.get(int(code[1]))
        if lead:
            return lead
    meaning = str(source.get("CodeMeaning") or "")
    words = re.findall(r"[A-Za-z0-9]+", re.sub(r"\(.*?\)", "", meaning))
    named = {lead for lead in map(standard_lead, words) if lead}
    return named.pop() if len(named) == 1 else meaning


def _millivolts(channel: Any) -> float:
    """Factor from a channel's unit to mV; NaN for a channel that is no lead."""
    if not standard_lead(_lead(channel)):
        return math.nan
    units = channel.get("ChannelSensitivityUnitsSequence")
    unit = str(units[0].CodeValue) if units else "none given"
    factor = millivolts_per(unit)
    if factor is None:
        raise RecordError(
            f"unit {printable(unit)} of lead {printable(_lead(channel))} is no voltage"
        )
    return factor


def _age(dataset: Any) -> float:
    """Years, of "042Y", "18M", "61" and the like; NaN if not known."""
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", str(dataset.get("PatientAge") or "").upper())
    if not match:
        return math.nan
    return int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2] or "Y"]
