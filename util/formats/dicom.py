"""Waveforms out of DICOM files (12-lead and general ECG storage), read by pydicom."""

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import ECGError, RecordError
from util.formats.wfdb_files import SEXES
from util.leads import standard_lead
from util.recordings.recording import OLDEST_AGE, Recording, millivolts_per, own_patient, printable

WHOLE_SECONDS = 5.0  # of a group: shorter ones are strips or median beats, if there is another
# The number of a lead in the codes of MDC (2:61) and SCP-ECG (5.6.3-9-61).
_CODE = re.compile(r"(?:2:|5\.6\.3-9-)([0-9]{1,3})")
# -aVR is none of the twelve, and aVR follows from others.
_BY_NUMBER = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 65: "-aVR"}
_BY_NUMBER |= {n + 2: f"V{n}" for n in range(1, 7)}

_TURNED = re.compile(r"(?<!\w)-\s*aVR|\bneg(ative)?\b|\binverted\b", re.IGNORECASE)
COMPANDED = ("MB", "AB")  # mu-law and A-law


def read_dicom(path: str | Path, row: object, note: object) -> Recording:
    """Read a DICOM file; a reader of data_preparation/importing/shards.py.

    Groups of channels of equal rate, length and start are joined.  Of those that differ the ones
    with most leads are read that last 5 s or more, else the longest, which are the rhythm and not
    the median beat.

    Args:
        path: of the file.
        row, note: what the caller knows of it; not needed here.

    Raises:
        RecordError: why it cannot be used.
        ECGError: pydicom is missing.
    """
    try:
        import pydicom
    except ImportError:
        raise ECGError(
            "DICOM files need the package pydicom: python -m pip install 'pydicom>=3,<4'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are unusual, and are read below
            return _recording(pydicom.dcmread(path))
    except (OSError, MemoryError, RecordError):
        raise
    except pydicom.errors.InvalidDicomError:
        raise RecordError("no DICOM file") from None
    except Exception as error:  # its parser can raise anything
        raise RecordError(
            f"damaged DICOM file: {type(error).__name__}: {printable(str(error), 160)}"
        ) from None


def _recording(dataset: Any) -> Recording:
    """The recording of a data set of pydicom."""
    groups = dataset.get("WaveformSequence")
    if not groups:
        raise RecordError("a DICOM file without waveforms")
    chosen, strips = _together(groups)
    signal = np.concatenate([_samples(dataset, index) for index in chosen], axis=1)
    names = [name for index in chosen for name in _leads(groups[index])]
    if len(chosen) > 1:  # groups may share a lead
        once = [place for place, name in enumerate(names) if names.index(name) == place]
        signal, names = signal[:, once], [names[place] for place in once]
    group = groups[chosen[0]]
    _check_skews([groups[index] for index in chosen])
    others = [_described(other, names) for k, other in enumerate(groups) if k not in chosen]
    if strips:
        others = [f"{strips} strips that follow one another", *others]
    return Recording(
        np.ascontiguousarray(signal.T, np.float32).T,
        tuple(names),
        float(group.SamplingFrequency),
        _age(dataset),
        SEXES.get(str(dataset.get("PatientSex") or "").strip().lower()[:1], "Unknown"),
        flags=(f"other waveforms left out: {', '.join(map(printable, others[:4]))}",)
        if others
        else (),
        patient=own_patient(str(dataset.get("PatientID") or "")),
    )


def _check_skews(groups: Sequence[Any]) -> None:
    """A RecordError where leads were sampled at times that differ by half a sample or more."""
    skews = [
        float(channel.get("ChannelSampleSkew") or 0)
        + float(channel.get("ChannelTimeSkew") or 0) * float(group.SamplingFrequency)
        for group in groups
        for channel in group.ChannelDefinitionSequence
        if standard_lead(_lead(channel))
    ]
    apart = max(skews, default=0) - min(skews, default=0)
    if apart >= 0.5:
        raise RecordError(
            f"leads that were sampled at different times, up to {apart:.3g} samples apart (channel "
            "skew), which are not put right here"
        )


def _described(group: Any, names: Sequence[str]) -> str:
    """The label of a group, and the leads that it alone has."""
    lost = [lead for lead in _leads(group) if standard_lead(lead) and lead not in names]
    return str(group.get("MultiplexGroupLabel") or "without a name") + (
        f" ({' '.join(lost)})" if lost else ""
    )


def _together(groups: Any) -> tuple[list[int], int]:
    """Places of the groups that were sampled together and make the recording, each lead once, and
    the number of strips that are left out.

    Raises:
        RecordError: they are strips of other leads that follow one another.
    """
    sets: dict[tuple[float, int, float], list[int]] = {}
    for place, group in enumerate(groups):
        start = float(group.get("MultiplexGroupTimeOffset") or 0)
        kind = float(group.SamplingFrequency), int(group.NumberOfWaveformSamples), start
        known = {lead for other in sets.get(kind, ()) for lead in _leads(groups[other])}
        if not {*_leads(group)} <= known:
            sets.setdefault(kind, []).append(place)

    def seconds(kind: tuple[float, int, float]) -> float:
        return kind[1] / kind[0]

    def number(kind: tuple[float, int, float]) -> int:
        names = [name for place in sets[kind] for name in _leads(groups[place])]
        return sum(standard_lead(name) is not None for name in names)

    strips = {kind for kind in sets if _follow(kind, sets, groups)}
    whole = [kind for kind in sets if kind not in strips] or [*sets]
    enough = min(WHOLE_SECONDS, max(map(seconds, whole)))
    chosen = max(
        (kind for kind in whole if seconds(kind) >= enough),
        key=lambda kind: (number(kind), seconds(kind)),
    )
    longest = max(sets, key=seconds)
    if chosen in strips or seconds(chosen) < WHOLE_SECONDS and longest in strips:
        raise RecordError(
            f"{len(strips)} strips of {seconds(longest):g} s that follow one another, each of "
            "other leads: they are no recording of all leads at one time"
        )
    return sets[chosen], len(strips)


def _follow(kind: tuple, sets: dict[tuple, list[int]], groups: Any) -> bool:
    """Whether another set of groups is as long, begins at another time and has other leads."""

    def leads(of: tuple) -> set[str]:
        return {lead for place in sets[of] for lead in _leads(groups[place])}

    return any(
        other[2] != kind[2]
        and math.isclose(other[1] / other[0], kind[1] / kind[0], rel_tol=0.05)
        and not leads(other) & leads(kind)
        for other in sets
    )


def _samples(dataset: Any, index: int) -> np.ndarray:
    """Samples (n, channels) of a group in mV, NaN where one is missing."""
    import pydicom

    group = dataset.WaveformSequence[index]
    channels = group.ChannelDefinitionSequence
    if group.WaveformSampleInterpretation in COMPANDED:
        raise RecordError(
            f"samples in the companded form {group.WaveformSampleInterpretation}, which is not read"
        )
    signal = dataset.waveform_array(index) * [_millivolts(channel) for channel in channels]
    if "WaveformPaddingValue" in group:  # marks samples that are missing
        raw = pydicom.waveforms.numpy_handler.multiplex_array(dataset, index, as_raw=True)
        signal[raw == np.frombuffer(group.WaveformPaddingValue, raw.dtype)[0]] = np.nan
    return signal


def _leads(group: Any) -> list[str]:
    """Names of the leads of a group."""
    return [_lead(channel) for channel in group.ChannelDefinitionSequence]


def _lead(channel: Any) -> str:
    """Name of a channel's lead, by its code (MDC 2:1, MDC_ECG_LEAD_I, SCP-ECG 5.6.3-9-1), else by
    its meaning or label: "Lead I (Einthoven)" and "aVR, augmented voltage, right" name one lead of
    the twelve.
    """
    sources = channel.get("ChannelSourceSequence")
    source = sources[0] if sources else {}
    value = str(source.get("CodeValue") or "").strip()
    scheme = re.sub("[^A-Z]", "", str(source.get("CodingSchemeDesignator") or "").upper())
    code = _CODE.fullmatch(value)
    if code and scheme in ("MDC", "SCPECG") and int(code[1]) in _BY_NUMBER:
        return _BY_NUMBER[int(code[1])]
    by_name = standard_lead(value.upper().removeprefix("MDC_ECG_LEAD_"))
    if by_name:
        return by_name
    texts = [str(source.get("CodeMeaning") or ""), str(channel.get("ChannelLabel") or "")]
    turned = next(filter(_TURNED.search, texts), None)
    if turned:
        return turned
    for text in texts:
        words = re.findall(r"[A-Za-z0-9]+", re.sub(r"\(.*?\)", "", text))
        named = {lead for lead in map(standard_lead, words) if lead}
        if len(named) == 1:
            return named.pop()
    return texts[0] or texts[1]


def _millivolts(channel: Any) -> float:
    """Factor from a channel's unit to mV; NaN for a channel of another unit that is no lead."""
    units = channel.get("ChannelSensitivityUnitsSequence")
    unit = str(units[0].CodeValue) if units else "none given"
    factor = millivolts_per(unit)
    if factor is None and not standard_lead(_lead(channel)):
        return math.nan
    if factor is None:
        raise RecordError(
            f"unit {printable(unit)} of lead {printable(_lead(channel))} is no voltage"
        )
    return factor


def _age(dataset: Any) -> float:
    """Years, of "042Y", "18M", "61" and the like, else between the dates of birth and recording;
    NaN if not known.
    """
    text = str(dataset.get("PatientAge") or "").strip().upper()
    match = re.fullmatch(r"(\d{1,3})\s*([DWMY]?)", text)
    if match:
        years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2] or "Y"]
    else:
        names = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate")
        days = (_day(dataset.get(name)) for name in names)
        born, day = _day(dataset.get("PatientBirthDate")), next(filter(None, days), None)
        years = (day - born) // 10_000 if born and day else math.nan
    return years if 0 <= years <= OLDEST_AGE else math.nan


def _day(value: object) -> int | None:
    """A date of DICOM as the number YYYYMMDD."""
    match = re.match(r"[12]\d{7}", str(value or ""))
    return int(match[0]) if match else None
