"""One recording in memory, wherever it came from: what every reader returns, its checks and its
resampling.

A reader is a function from a file to a Recording; ``checked`` turns it into one that a store can
keep, or raises a RecordError that says why it cannot be trusted.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.fft

from util.errors import RecordError
from util.files import is_unknown
from util.leads import LEADS, standard_lead

MIN_FS, MAX_FS = 20.0, 100_000.0  # Hz; outside of it a sampling rate is a typing error
PADDING = 0.1  # seconds without a signal at the ends that are not worth a remark
MAX_PEAK_MV = 10_000.0  # 10 V at the skin is a wrong gain, not an ECG
MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "v": 1e3, "nv": 1e-6}  # see ``millivolts_per``
# What files of which names were taken out have for a patient, all of them.
NOBODY = ("anonymous", "anonymized", "anonymised", "anon", "deidentified", "de-identified")
UNITS = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "nV": 1e-6}  # as --units writes them
OLDEST_AGE = 130  # years
LONGEST_ID = 500  # characters of a patient's id: DICOM has 64, EDF 80
_UNIT_WORDS = {"milli": "m", "micro": "u", "nano": "n"}
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


@dataclass(frozen=True)
class Recording:
    """What a reader makes of a file.

    Attributes:
        signal: float32 (n, leads) in millivolts; fastest where every lead lies in one piece, as
            rows.T does.
        leads: a name for each column, in any order and case; those that are none of the twelve
            are left out.
        fs: sampling rate in Hz.
        age: years, NaN if unknown.
        sex: Male, Female or Unknown.
        dx: SNOMED CT codes.
        flags: remarks for the reader of the store, printable and without semicolons.
        patient: the id that the file gives, "" if it gives none.
        name: of the recording; "" where the reader leaves it to the caller.
    """

    signal: np.ndarray
    leads: tuple[str, ...]
    fs: float
    age: float = math.nan
    sex: str = "Unknown"
    dx: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    patient: str = ""
    name: str = ""


def checked(
    recording: Recording,
    min_seconds: float = 0.0,
    lead_names: Mapping[str, str] | None = None,
    *,
    trim: bool | None = None,
) -> Recording:
    """Return the recording with its standard leads alone, in standard order.

    Every sample of it is finite and at least one lead is not flat.  A lead of which no sample is
    known (NaN throughout) counts as one that is not there.

    Args:
        min_seconds: shorter ones are refused.
        lead_names: {name in lower case: the standard lead it stands for}, for other names than
            the standard ones.
        trim: whether to cut off the instants at both ends at which every lead is 0 or NaN; if
            not, a remark says how long they are, and nothing does if None.

    Raises:
        RecordError: why it cannot be used.
    """
    if not MIN_FS <= recording.fs <= MAX_FS:
        raise RecordError(f"invalid sampling rate: {recording.fs:g}")
    columns, flags = _lead_columns(recording.leads, lead_names or {})
    rows = np.ascontiguousarray(recording.signal.T, np.float32)
    order = list(columns.values())
    if order != list(range(len(rows))):
        rows = rows[order]
    if not rows.shape[1]:
        raise RecordError("zero-length record")
    first, end = (0, rows.shape[1]) if trim is None else _measured(rows)
    padding = (rows.shape[1] - end + first) / recording.fs
    if trim:
        rows = rows[:, first:end]
    elif padding > PADDING:
        flags += (f"{padding:.3g} s of zeros at its ends (see --trim)",)
    check_length(rows.shape[1], recording.fs, min_seconds)
    leads, low, high = tuple(columns), rows.min(1), rows.max(1)
    empty = np.isnan(low)
    empty[empty] = np.isnan(rows[empty]).all(1)
    if empty.any() and not empty.all():
        missing = ", ".join(lead for lead, is_empty in zip(leads, empty) if is_empty)
        flags += (f"no sample of {missing}",)
        leads = tuple(lead for lead, is_empty in zip(leads, empty) if not is_empty)
        rows, low, high = rows[~empty], low[~empty], high[~empty]
    try:
        _check_samples(rows, low, high, leads)
    except RecordError as error:
        if trim is False and np.isnan(rows[:, [0, -1]]).all(0).any() and padding:
            raise RecordError(
                f"{error}; {padding:.3g} s of zeros or NaN at its ends: see --trim"
            ) from None
        raise
    return replace(recording, signal=rows.T, leads=leads, flags=recording.flags + flags)


def _measured(rows: np.ndarray) -> tuple[int, int]:
    """First and end of the instants of rows (leads, time) between which there is a signal; all
    of them where there is none.
    """
    ends = rows[:, [0, -1]]
    if ((ends != 0) & (ends == ends)).any(0).all():  # as nearly always
        return 0, rows.shape[1]
    full = np.flatnonzero((np.nan_to_num(rows) != 0).any(0))
    return (int(full[0]), int(full[-1]) + 1) if len(full) else (0, rows.shape[1])


@lru_cache(maxsize=1 << 12)  # every record has the same units
def millivolts_per(unit: str) -> float | None:
    """Return the factor from a unit, in any case, word or sign (uV, microvolts), to mV.

    None if it is no voltage.
    """
    text = unit.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u").rstrip(".")
    for name, sign in _UNIT_WORDS.items():
        text = re.sub(f"^{name}[ -]?(?=v)", sign, text)
    return MILLIVOLTS.get(re.sub(r"v(olt)?s?$", "v", text))


def usual_unit(unit: str) -> str | None:
    """Return how --units writes a unit, None if it is no voltage."""
    factor = millivolts_per(unit)
    return next((name for name, of_name in UNITS.items() if of_name == factor), None)


def lead_of(name: str, lead_names: Mapping[str, str]) -> str | None:
    """Return the standard lead that a name in a recording stands for, None if it is none.

    Args:
        lead_names: {name in lower case: the standard lead it stands for}.
    """
    return lead_names.get(name.strip().lower()) or standard_lead(name)


def check_length(n_samples: int, fs: float, min_seconds: float) -> None:
    """Raise a RecordError for a recording that is shorter than ``min_seconds``."""
    if n_samples / fs < min_seconds:
        raise RecordError(
            f"shorter than the minimum length: {n_samples / fs:g} s of {min_seconds:g} s"
        )


def flat_leads(signal: np.ndarray, leads: Sequence[str]) -> tuple[str, ...]:
    """Return remarks on leads of a signal (n, leads) whose samples are all equal.

    Raises:
        RecordError: all are flat.
    """
    is_flat = signal.min(0) == signal.max(0)
    if is_flat.all():
        raise RecordError("every lead is flat")
    return tuple(f"flat lead {lead}" for lead, flat in zip(leads, is_flat) if flat)


def _lead_columns(
    names: Sequence[str], lead_names: Mapping[str, str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Columns of the standard leads among these names by lead, in standard order, and a remark on
    the others, which are left out.
    """
    columns: dict[str, int] = {}
    left_out = []
    for column, name in enumerate(names):
        lead = lead_of(name, lead_names)
        if lead in columns:
            raise RecordError(f"lead {lead} appears twice")
        if lead:
            columns[lead] = column
        else:
            left_out.append(printable(name.strip()) or "one without a name")
    more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
    others = ", ".join(left_out[:4]) + more
    if not columns:
        raise RecordError(
            f"none of the twelve leads: {others}; say by --lead_names which lead a name stands for"
        )
    flags = (f"left out: {others}",) if others else ()
    return {lead: columns[lead] for lead in LEADS if lead in columns}, flags


def _check_samples(
    rows: np.ndarray, low: np.ndarray, high: np.ndarray, leads: Sequence[str]
) -> None:
    """``low`` and ``high`` are the extremes of each lead; both are NaN where a lead has a NaN
    anywhere.
    """
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.all():
        bad = ", ".join(lead for lead, ok in zip(leads, finite) if not ok)
        raise RecordError(f"non-finite samples: {np.sum(~np.isfinite(rows))} in {bad}")
    if (low == high).all():
        raise RecordError("every lead is flat")
    peak = max(high.max(), -low.min())
    if peak > MAX_PEAK_MV:
        raise RecordError(f"impossible amplitude: {peak:.3g} mV; check gain and unit")


def is_safe_name(name: str) -> bool:
    """Return whether a name may become a file name; see ``check_name``."""
    return _SAFE_NAME.fullmatch(name) is not None


def check_name(name: str, what: str) -> str:
    """Return a name that may become a file name (``<record>.csv``), plain characters only.

    Raises:
        RecordError: it has other characters; ``what`` says what it names.
    """
    if not is_safe_name(name):
        raise RecordError(
            f"unsafe {what} {printable(name)}: use letters, digits, _ . - and no folder"
        )
    return name


def own_patient(text: str) -> str:
    """Return the patient's id that a recording's file gives, "" where it is of nobody."""
    nobody = is_unknown(text) or text.strip().lower() in NOBODY
    return "" if nobody else printable(text.strip(), LONGEST_ID)


def printable(text: str, most: int = 40) -> str:
    """Return a short, printable, single-line form of text from an untrusted file.

    It is for messages and tables, and holds no semicolon.

    Args:
        text: of any length.
        most: characters to keep.
    """
    text = "".join(c if c.isprintable() and c != ";" else "?" for c in text[: 5 * most])
    return text if len(text) <= most else text[: most - 3] + "..."


def resample_to(signal: np.ndarray, fs: float, rates: Iterable[float]) -> dict[float, np.ndarray]:
    """Resample a signal along time as scipy.signal.resample does (FFT), in float32.

    One forward transform serves all rates; within 2.5e-6 mV of scipy's.

    Args:
        signal: float32 (n, leads) at fs Hz.

    Returns:
        {rate: float32 (int(n * rate / fs), leads)}, lengths as published; the signal itself at
        its present rate.
    """
    n, spectrum = len(signal), None
    resampled: dict[float, np.ndarray] = {}
    for rate in rates:
        m = int(n * rate / fs)
        if rate == fs:
            resampled[rate] = signal
            continue
        if m < 1:
            raise RecordError(f"shorter than one sample at {rate} Hz")
        if spectrum is None:
            spectrum = scipy.fft.rfft(np.ascontiguousarray(signal.T), axis=1)
        kept = min(n, m)
        band = spectrum[:, : kept // 2 + 1] * np.float32(m / n)
        # the highest bin stands for +f and -f in one of the lengths only
        if kept % 2 == 0 and n != m:
            band[:, kept // 2] *= 2.0 if m < n else 0.5
        resampled[rate] = scipy.fft.irfft(band, m, axis=1, overwrite_x=True).T
    return resampled
