"""Reading WFDB recordings: tolerant of how headers are written in the wild, strict about what is
in them.

Headers (header(5) of the WFDB specification) and the Challenge's MATLAB v4 signal files are read
here, which is fast and gives exact reasons; every other format goes through the wfdb package.  A
RecordError says why a recording cannot be trusted; an OSError or MemoryError may be gone next
time.  Nothing is allocated that the signal file's own size does not cover, and no file outside
the header's folder is opened.
"""

import contextlib
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import RecordError
from util.files import find_files, is_unknown
from util.recordings.recording import (
    MAX_FS,
    MIN_FS,
    OLDEST_AGE,
    Recording,
    check_length,
    check_name,
    checked,
    flat_leads,
    lead_of,
    millivolts_per,
    printable,
)

MAX_HEADER_BYTES = 1 << 20
DEFAULT_GAIN = 200.0  # counts per unit where a header gives 0 (WFDB's own rule)
CODED_AGE = 300  # PTB-XL writes it for "over 89"
SEXES = {"m": "Male", "male": "Male", "f": "Female", "female": "Female"}
# Bits a sample takes on disk, by WFDB format; FLAC (5xx) compresses, at best to about 32 samples
# a byte.
FORMAT_BITS = {
    "8": 8,
    "16": 16,
    "24": 24,
    "32": 32,
    "61": 16,
    "80": 8,
    "160": 16,
    "212": 12,
    "310": 10,
    "311": 10,
    "508": 0.25,
    "516": 0.25,
    "524": 0.25,
}
# MATLAB v4: the type field of a little-endian full matrix, and its sample type; WFDB's formats
# that match.
MAT_TYPES = {0: "float64", 10: "float32", 20: "int32", 30: "int16", 40: "uint16", 50: "uint8"}
MAT_FORMATS = {"16": "int16", "80": "uint8"}
MAT_OFFSET = 24  # five 32-bit integers and the name "val\0"

# name signals fs samples [time] [date]; behind the fs there may be /counter(base)
_RECORD_LINE = re.compile(
    r"""
    (?P<name>\S+) \s+ (?P<signals>[0-9]{1,4})
    (\s+ (?P<fs>[^\s/]*) \S* (\s+ (?P<samples>[0-9]{1,12}) (\s.*)? )? )?""",
    re.VERBOSE,
)
# file format[xframe][:skew][+offset] gain[(baseline)][/unit] resolution zero first checksum block
# name
_SIGNAL_LINE = re.compile(
    r"""
    (?P<file>\S+) \s+ (?P<format>[0-9]{1,4})
    (x(?P<frame>[0-9]{1,4}))? (:(?P<skew>[0-9]{1,9}))? (\+(?P<offset>[0-9]{1,12}))?
    \s+ (?P<gain>[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?)
    (\((?P<baseline>[+-]?[0-9]{1,10})\))? (/(?P<unit>\S{1,20}))?
    (?P<integers>(\s+[+-]?[0-9]{1,10}){0,5}) (\s+(?P<name>.*))?""",
    re.VERBOSE,
)
# Keys in a comment, as in #Age: 74 and in INCART's # <age>: 65 <sex>: F <diagnoses> ...
_KEY = re.compile(r"<(\w+)>\s*:?|\b(age|sex|dx)\s*:", re.IGNORECASE)
_YEARS = re.compile(r"([0-9.]+)\s*(y|yrs?|years?)\.?", re.IGNORECASE)
_SNOMED = re.compile(r"[0-9]{6,18}")
UNDIAGNOSED = "no diagnosis"  # the remark on a record whose Dx line has none
ENDINGS = (".hea", ".HEA")


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header: physical value = (count - baseline) / gain, in ``unit``.

    ``frame`` is how many samples it has for one of the record, ``skew`` its delay in samples.
    """

    file: str
    format: str
    offset: int
    gain: float
    baseline: int
    unit: str
    name: str
    frame: int = 1
    skew: int = 0


@dataclass(frozen=True)
class Header:
    """What a .hea file says.

    Attributes:
        record: the file's name without .hea.
        fs: Hz.
        n_samples: of each lead; None where the header leaves it to the signal file.
        age: years, NaN if unknown; 90 stands for "over 89".
        sex: Male, Female or Unknown.
        dx: SNOMED CT codes, each once, in the header's order.
        unknown_dx: entries of the Dx line that are no SNOMED CT code.
        flags: remarks for the reader of the store.
    """

    path: Path
    record: str
    fs: float
    n_samples: int | None
    signals: tuple[SignalLine, ...]
    age: float
    sex: str
    dx: tuple[str, ...]
    unknown_dx: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def leads(self) -> tuple[str, ...]:
        """Return lead names as written, in the header's order."""
        return tuple(line.name for line in self.signals)

    @property
    def signal_files(self) -> list[Path]:
        """Return the paths of the signal files, each once."""
        names = dict.fromkeys(line.file for line in self.signals)
        return [self.path.parent / name for name in names]


def find_headers(folder: str | Path) -> list[Path]:
    """Return the paths of all headers anywhere under a folder.

    Links are followed; the paths are sorted by their relative POSIX path.
    """
    return [Path(folder) / name for name in find_files(folder, ENDINGS)]


# ============ headers ============
def read_header(path: str | Path) -> Header:
    """Read a .hea file.

    Raises:
        RecordError: it is unreadable, of several segments or empty, or names are unsafe.
    """
    path = Path(path)
    record = check_name(path.stem, "record name")
    lines, comments = _split_lines(_read_text(path))
    if not lines:
        raise RecordError("header unreadable: no record line")
    named, n_signals, fs, n_samples = _parse_record_line(lines[0])
    others = sum(map(bool, map(_SIGNAL_LINE.fullmatch, lines[n_signals + 1 :])))
    if not 0 < n_signals < len(lines) or others:
        there = n_signals + others if others else len(lines) - 1
        raise RecordError(f"header unreadable: {n_signals} signals announced, {there} signal lines")
    signals = tuple(
        _parse_signal_line(line, number) for number, line in enumerate(lines[1 : n_signals + 1], 1)
    )
    flags = [] if named == record else [f"header calls the record {named}"]
    if not all(line.gain for line in signals):
        flags.append("no gain in the header, 200 counts per unit assumed")
    about = _parse_comments(comments, flags)
    return Header(
        path=path,
        record=record,
        fs=fs,
        n_samples=n_samples,
        signals=signals,
        **about,
        flags=tuple(flags),
    )


def _read_text(path: Path) -> bytes:
    _file_size(path, "header")
    with open(path, "rb") as file:
        data = file.read(MAX_HEADER_BYTES + 1)
    if len(data) > MAX_HEADER_BYTES:
        raise RecordError(f"header unreadable: larger than {MAX_HEADER_BYTES} bytes")
    if b"\0" in data:
        raise RecordError("header unreadable: it holds NUL bytes")
    return data.removeprefix(b"\xef\xbb\xbf")


def _file_size(path: Path, what: str) -> int:
    """Size in bytes of a regular file; a pipe or a device in its place would block us for ever."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"{what} missing: {path.name}") from None
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(f"{what} is not a regular file: {path.name}")
    return status.st_size


def _split_lines(data: bytes) -> tuple[list[str], list[str]]:
    """(record and signal lines, comment lines), all stripped, empty ones left out."""
    lines, comments = [], []
    for number, raw in enumerate(re.split(rb"\r\n|\n|\r", data), 1):
        content, hash_sign, comment = raw.strip().partition(b"#")
        if hash_sign:
            comments.append("#" + comment.decode("utf-8", "replace"))
        if content.strip():
            text = _decoded(content)
            if not text.replace("\t", " ").isprintable():
                raise RecordError(f"header unreadable: line {number} is not text")
            lines.append(text.strip())
    return lines, comments


def _decoded(content: bytes) -> str:
    """Text in UTF-8, or in Latin-1, in which units with a micro sign were written."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _parse_record_line(line: str) -> tuple[str, int, float, int | None]:
    """Name, number of signals, fs in Hz, and samples or None."""
    match = _RECORD_LINE.fullmatch(line)
    if not match:
        raise RecordError(f"header unreadable: bad record line {printable(line)}")
    if re.fullmatch(r"[^/]*/[0-9]+", match["name"]):
        raise RecordError("multi-segment record: convert it to a single segment")
    check_name(match["name"], "record name in the header")
    n_samples = int(match["samples"]) if match["samples"] else None
    if n_samples == 0:
        raise RecordError("zero-length record")
    fs = match["fs"] or "none given"
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,20})?", fs) or not MIN_FS <= float(fs) <= MAX_FS:
        raise RecordError(f"invalid sampling rate: {printable(fs)}")
    return match["name"], int(match["signals"]), float(fs), n_samples


def _parse_signal_line(line: str, number: int) -> SignalLine:
    """SignalLine; its gain is 0 where the header says so."""
    match = _SIGNAL_LINE.fullmatch(line)
    integers = match["integers"].split() if match else []
    if not match or match["name"] and len(integers) < 5:
        raise RecordError(f"header unreadable: bad signal line {number}: {printable(line)}")
    file = check_name(match["file"], "signal file name")
    if match["format"] not in FORMAT_BITS:
        raise RecordError(f"unsupported sample format {match['format']}")
    gain = float(match["gain"])
    if not math.isfinite(gain) or not math.isfinite(1 / (gain or 1)):
        raise RecordError(
            f"header unreadable: gain {printable(match['gain'])} in signal line {number}"
        )
    converter_zero = integers[1] if len(integers) > 1 else 0
    return SignalLine(
        file=file,
        format=match["format"],
        offset=int(match["offset"] or 0),
        gain=gain,
        baseline=int(match["baseline"] or converter_zero),
        unit=match["unit"] or "mV",
        name=match["name"] or "",
        frame=int(match["frame"] or 1),
        skew=int(match["skew"] or 0),
    )


def _parse_comments(comments: list[str], flags: list[str]) -> dict[str, Any]:
    """age, sex, dx and unknown_dx of a Header from ``#Key: value`` lines; remarks are added to
    flags.
    """
    values: dict[str, list[str]] = {"age": [], "sex": [], "dx": []}
    for comment in comments:
        keys = list(_KEY.finditer(comment))
        if not keys or comment[: keys[0].start()].strip("# \t"):
            continue  # it is about something else
        ends = [key.start() for key in keys[1:]] + [len(comment)]
        for key, end in zip(keys, ends):
            of_key = values.get((key[1] or key[2]).lower(), [])
            of_key.append(comment[key.end() : end].strip().rstrip(",;").rstrip())
    age = _parse_age("".join(values["age"][:1]), flags)
    dx, unknown_dx = _parse_dx(",".join(values["dx"]))
    if unknown_dx:
        flags.append("unknown Dx " + " ".join(printable(token) for token in unknown_dx[:8]))
    if values["dx"] and not dx:
        flags.append(UNDIAGNOSED)
    sex = SEXES.get("".join(values["sex"][:1]).lower(), "Unknown")
    return {"age": age, "sex": sex, "dx": dx, "unknown_dx": unknown_dx}


def _parse_age(text: str, flags: list[str]) -> float:
    years = _YEARS.fullmatch(text)
    text = years[1] if years else text
    try:
        age = float(text) if len(text) < 20 and text.isascii() else math.nan
    except ValueError:
        age = math.nan
        if not is_unknown(text):
            flags.append(f"unreadable age {printable(text)}")
    if age == CODED_AGE:
        flags.append("age over 89 (300 in the header), 90 noted")
        return 90.0
    if age > OLDEST_AGE:
        flags.append(f"impossible age {printable(text)}")
    return age if 0 <= age <= OLDEST_AGE else math.nan


def _parse_dx(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """SNOMED CT codes, separated by commas or spaces, and entries that are none."""
    codes: list[str] = []
    unknown: list[str] = []
    for entry in text.split(","):
        parts = entry.split()
        if parts and all(_SNOMED.fullmatch(part) for part in parts):
            codes += parts
        elif not is_unknown(entry):
            unknown.append(entry.strip())
    return tuple(dict.fromkeys(codes)), tuple(dict.fromkeys(unknown))


# ============ signals ============
def read_record(
    path: str | Path, min_seconds: float = 0.0, lead_names: Mapping[str, str] | None = None
) -> Recording:
    """Read the checked Recording of the header at this path, flat leads flagged.

    Args:
        min_seconds, lead_names: see ``util.recordings.recording.checked``.

    Raises:
        RecordError: why it cannot be used.
    """
    recording = read_signal(read_header(path), min_seconds, lead_names)
    recording = checked(recording, min_seconds, lead_names)
    return replace(recording, flags=recording.flags + flat_leads(recording.signal, recording.leads))


def read_signal(
    header: Header, min_seconds: float = 0.0, lead_names: Mapping[str, str] | None = None
) -> Recording:
    """Read the leads of a header's recording, unchecked; its other signals are NaN throughout.

    Only leads need a voltage and a signal file that is there.

    Args:
        min_seconds, lead_names: see ``util.recordings.recording.checked``.

    Raises:
        RecordError: why it cannot be read.
    """
    if header.n_samples is not None:
        check_length(header.n_samples, header.fs, min_seconds)
    wanted = [place for place, name in enumerate(header.leads) if lead_of(name, lead_names or {})]
    leads = [header.signals[place] for place in wanted]
    for name in dict.fromkeys(line.file for line in leads):
        if _file_size(header.path.parent / name, "signal file") == 0:
            raise RecordError(f"signal file empty: {name}")
    if any(line.frame != 1 or line.skew for line in leads):
        raise RecordError(
            "unsupported: several samples per frame or skewed signals; convert it with wfdb's xform"
        )
    # (signals, n): lead by lead in memory, which is fastest from here on
    if not wanted:  # for ``checked`` to say so
        rows = np.empty((len(header.signals), 0), np.float32)
    elif _is_challenge_mat(header):
        rows = _read_mat(header, wanted)
    else:
        rows = _read_with_wfdb(header, wanted)
    return Recording(
        signal=rows.T,
        leads=header.leads,
        fs=header.fs,
        age=header.age,
        sex=header.sex,
        dx=header.dx,
        flags=header.flags,
    )


def _millivolts(header: Header, wanted: list[int]) -> np.ndarray:
    """Factor from each signal's unit to mV; NaN for those that are not wanted."""
    factors = np.full(len(header.signals), np.nan)
    for place in wanted:
        line = header.signals[place]
        factor = millivolts_per(line.unit)
        if factor is None:
            raise RecordError(
                f"unit {printable(line.unit)} of lead {printable(line.name)} is no voltage"
            )
        factors[place] = factor
    return factors


def _is_challenge_mat(header: Header) -> bool:
    """All signals in one .mat behind its 24-byte header, in a format read here."""
    lines = header.signals
    layouts = {(line.file, line.format, line.offset, line.frame, line.skew) for line in lines}
    file, kind, offset, frame, skew = layouts.pop()
    plain = not layouts and frame == 1 and not skew
    return plain and file.endswith(".mat") and kind in MAT_FORMATS and offset == MAT_OFFSET


def _read_mat(header: Header, wanted: list[int]) -> np.ndarray:
    """MATLAB v4 matrix ``val`` (signals, samples), stored column by column: float32 (signals, n)
    in mV.
    """
    path, n_signals = header.signal_files[0], len(header.signals)
    size, sample_type = _file_size(path, "signal file"), MAT_FORMATS[header.signals[0].format]
    if size < MAT_OFFSET:
        raise RecordError(f"signal file shorter than the header says: {size} bytes in {path.name}")
    kind, rows, columns, imaginary, name_bytes = np.fromfile(path, "<i4", 5).tolist()
    if kind not in MAT_TYPES:
        raise RecordError(f"signal file is no little-endian MATLAB v4 matrix: {path.name}")
    if MAT_TYPES[kind] != sample_type:
        raise RecordError(
            f"sample type of the .mat does not match the header: {MAT_TYPES[kind]} for "
            f"{sample_type}"
        )
    if rows != n_signals or imaginary or name_bytes != MAT_OFFSET - 20:
        raise RecordError(
            f"signal file does not match the header: {rows} rows for {n_signals} signals"
        )
    if columns == 0:
        raise RecordError("zero-length record")
    there = min(columns, (size - MAT_OFFSET) // (rows * np.dtype(sample_type).itemsize))
    announced = max(columns, header.n_samples or 0)
    if columns < 0 or there < announced:
        raise RecordError(
            f"signal file shorter than the header says: {there} samples of {announced} in "
            f"{path.name}"
        )
    if header.n_samples not in (None, columns):
        raise RecordError(
            f"signal file longer than the header says: {columns} samples of {header.n_samples}"
        )
    counts = np.fromfile(
        path, np.dtype(sample_type).newbyteorder("<"), rows * columns, offset=MAT_OFFSET
    )
    if len(counts) != rows * columns:
        raise RecordError("signal file shorter than the header says: it changed while it was read")
    counts = np.ascontiguousarray(counts.reshape(columns, rows).T)
    return _scale_counts(counts, header, wanted)


def _scale_counts(counts: np.ndarray, header: Header, wanted: list[int]) -> np.ndarray:
    """Counts (signals, n) to float32 mV; WFDB's marker of a missing sample (the lowest count)
    becomes NaN.
    """
    zero = 128 if counts.dtype == np.uint8 else 0  # format 80 is offset binary
    baseline = np.array([line.baseline + zero for line in header.signals], np.float32)
    gain = np.array([line.gain or DEFAULT_GAIN for line in header.signals])
    signal = counts.astype(np.float32)
    if baseline.any():
        signal -= baseline[:, None]
    signal *= (_millivolts(header, wanted) / gain).astype(np.float32)[:, None]
    lowest = np.iinfo(counts.dtype).min
    if counts.min() == lowest:
        signal[counts == lowest] = np.nan
    return signal


@contextlib.contextmanager
def _plainly_named(header: Header) -> Iterator[str]:
    """What wfdb is to call a record: it knows no names with dots, and no .HEA.  Such a record is
    linked under another name for as long.
    """
    if header.path.suffix == ".hea" and "." not in header.record:
        yield os.path.abspath(header.path.with_suffix(""))
        return
    lines, _ = _split_lines(_read_text(header.path))
    with tempfile.TemporaryDirectory() as folder:
        plain = {file: f"s{n}.dat" for n, file in enumerate(header.signal_files)}
        for file, name in plain.items():
            os.symlink(os.path.abspath(file), os.path.join(folder, name))
        lines[0] = re.sub(r"^\S+", "record", lines[0])
        for number, line in enumerate(header.signals, 1):
            name = plain[header.path.parent / line.file]
            lines[number] = re.sub(r"^\S+", name, lines[number])
        Path(folder, "record.hea").write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield os.path.join(folder, "record")


def _read_with_wfdb(header: Header, wanted: list[int]) -> np.ndarray:
    """Anything else that the wfdb package reads: float32 (signals, n) in mV."""
    # here, because it takes a second to import and the Challenge's files do not need it
    import wfdb

    for name in dict.fromkeys(header.signals[place].file for place in wanted):
        path = header.path.parent / name
        lines = [line for line in header.signals if line.file == name]
        bits = sum(FORMAT_BITS[line.format] * line.frame for line in lines)
        bits *= header.n_samples or 1
        size = _file_size(path, "signal file")
        if lines[0].offset + bits / 8 > size + 2:  # formats 212 and 31x pad their last group
            raise RecordError(
                f"signal file shorter than the header says: {size} bytes in {path.name}"
            )
    factors = _millivolts(header, wanted)[wanted]
    try:
        with _plainly_named(header) as name:
            signal = wfdb.rdrecord(name, channels=wanted).p_signal
    except (OSError, MemoryError):
        raise
    except Exception as error:  # wfdb's parser can raise anything
        raise RecordError(
            f"wfdb cannot read it: {type(error).__name__}: {printable(str(error))}"
        ) from None
    if signal is None or not signal.size:
        raise RecordError("wfdb read no usable signal")
    if header.n_samples not in (None, len(signal)):
        raise RecordError(
            f"signal file shorter than the header says: {len(signal)} samples of {header.n_samples}"
        )
    rows = np.full((len(header.signals), len(signal)), np.nan, np.float32)
    rows[wanted] = (signal * factors).T
    return rows
