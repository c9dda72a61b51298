"""Recordings out of .npy, HDF5 and CSV files.

Files are untrusted: nothing is unpickled, no other file is opened, and what is wrong with a file
is a RecordError.  One recording is in memory at a time, however many a file holds.
"""

import contextlib
import csv
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import RecordError
from util.leads import LEADS
from util.recordings.flags import LAYOUTS
from util.recordings.recording import (
    MILLIVOLTS,
    Recording,
    lead_of,
    millivolts_per,
    printable,
)

DATASETS = ("tracings", "ecg")  # of CODE-15 % and of SPH
EIGHT_LEADS = ",".join(LEADS[:2] + LEADS[6:])  # from which the other four follow
MOST_WORDS = 1000  # that are looked at in a CSV file
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
POSSIBLE_MV = (0.02, 50.0)  # outside, the unit is wrong unless it was said
USUAL_MV = (0.1, 20.0)  # peak to peak, the median of leads: outside, the unit is in doubt
CHUNKS_BYTES = 1 << 25  # decompressed chunks of HDF5 that are kept: neighbours share one


# ============ files of arrays ============
class NpyFile:
    """An .npy file: its shape and dtype, and its rows by index.

    These are read, not mapped: pages of a map would count as our memory, and a file cut short
    under a map would kill us.
    """

    def __init__(self, path: Path) -> None:
        array = self._map(path)
        self.path, self.offset = path, array.offset
        self.shape, self.dtype = array.shape, array.dtype
        # In Fortran order a row lies all over the file.
        self.interleaved = not array.flags.c_contiguous

    @staticmethod
    def _map(path: Path) -> np.memmap:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # numpy's parser of headers can raise anything
            raise RecordError(
                f"no .npy file of numbers, or cut short ({error}); nothing is unpickled: save "
                "one array of numbers with numpy.save"
            ) from None
        if not isinstance(array, np.memmap):
            raise RecordError("an archive of several arrays: save one array with numpy.save")
        return array

    def __getitem__(self, row: int) -> np.ndarray:
        size = int(np.prod(self.shape[1:]))
        values = np.fromfile(
            self.path, self.dtype, size, offset=self.offset + row * size * self.dtype.itemsize
        )
        if len(values) != size:
            raise RecordError("the file became shorter while it was read")
        return values.reshape(self.shape[1:])

    def whole(self) -> np.ndarray:
        """Return all of it."""
        return np.array(self._map(self.path))


class HDF5File:
    """One dataset of an HDF5 file, as NpyFile.

    It is ``dataset``, else tracings or ecg, else the only array there is.
    """

    interleaved = False

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        import h5py  # a third of a second that others need not spend

        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401  filters beyond gzip register themselves
        with _hdf5_errors():
            self.file = h5py.File(path, "r", rdcc_nbytes=CHUNKS_BYTES)
            self.names: list[str] = []
            self.file.visititems(
                lambda name, node: self.names.append(name) if hasattr(node, "shape") else None
            )
            arrays = [name for name in self.names if len(self.file[name].shape or ()) in (2, 3)]
            known = [name for name in ([dataset] if dataset else DATASETS) if name in self.names]
            if not known and (dataset or len(arrays) != 1):
                what = (
                    f"no dataset {dataset}"
                    if dataset
                    else "name the dataset of the signals with --dataset"
                )
                raise RecordError(f"{what}; there are {', '.join(self.names) or 'none'}")
            self.values = self.file[(known or arrays)[0]]
            self.shape, self.dtype = self.values.shape, self.values.dtype

    def __getitem__(self, row: int) -> np.ndarray:
        with _hdf5_errors(self.values):
            return self.values[row]

    def whole(self) -> np.ndarray:
        """Return all of it."""
        with _hdf5_errors(self.values):
            return self.values[()]

    def column(self, name: str) -> np.ndarray:
        """Return a dataset with one value a record."""
        if name not in self.names:
            raise RecordError(f"no dataset {name}; there are {', '.join(self.names)}")
        with _hdf5_errors():
            return self.file[name][()].ravel()


@contextlib.contextmanager
def _hdf5_errors(dataset: Any = None) -> Iterator[None]:
    """What HDF5 finds wrong in a file, or while it reads a dataset of it, is a RecordError; an
    OSError that the system gives a number may pass.
    """
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        lacking = [] if dataset is None else _lacking_filters(dataset)
        if lacking:
            raise RecordError(
                f"compressed by a filter that HDF5 lacks here ({', '.join(lacking)}): python -m "
                "pip install hdf5plugin, or compress it anew with gzip"
            ) from None
        raise RecordError(
            f"no HDF5 file, or damaged or cut short ({error}): fetch it again"
        ) from None


def _lacking_filters(dataset: Any) -> list[str]:
    """Number and name of each filter that a dataset needs and this machine has not."""
    import h5py

    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(place) for place in range(plan.get_nfilters())]
    return [
        f"{number} {printable(name.decode('utf-8', 'replace'))}".strip()
        for number, _, _, name in filters
        if not h5py.h5z.filter_avail(number)
    ]


def row_names(array: NpyFile | HDF5File, dataset: str | None, stem: str) -> Callable[[int], str]:
    """Return the function from a row of an array to its recording's name.

    That is what a dataset beside it says, or ``stem`` and its place.

    Args:
        array: of many recordings.
        dataset: of their names; None: exam_id, if there is one.
        stem: of the names by place.
    """
    beside = getattr(array, "names", ())
    if dataset is None and "exam_id" not in beside:
        return lambda row: f"{stem}-{row}"
    if not isinstance(array, HDF5File):
        raise RecordError(f"--ids {dataset} is no .csv file, and an .npy file has no datasets")
    names = array.column(dataset or "exam_id")
    if len(names) != array.shape[0]:
        raise RecordError(
            f"{len(names)} values in {dataset or 'exam_id'} for {array.shape[0]} recordings"
        )
    return lambda row: _text(names[row])


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def shape_of(
    array: NpyFile | HDF5File, leads: Sequence[str], layout: str | None
) -> tuple[bool, int]:
    """Return whether an array has many recordings, and the axis of its leads: see ``lead_axis``."""
    many = (
        len(array.shape) == 3 or len(array.shape) == 2 and len(leads) == 1 and 1 not in array.shape
    )
    if many and array.interleaved:
        raise RecordError(
            "its recordings lie interleaved (Fortran order): save numpy.ascontiguousarray(array)"
        )
    return many, lead_axis(array.shape[1:] if many else array.shape, leads, layout)


_opened: dict[tuple, NpyFile | HDF5File] = {}


def open_array(path: Path, dataset: str | None = None) -> NpyFile | HDF5File:
    """Open a file of arrays, and keep it open for its next record as long as it does not change."""
    status = os.stat(path)
    key = path, dataset, status.st_size, status.st_mtime_ns
    if key not in _opened:
        _opened.clear()  # first: HDF5 takes a file that is still open for unchanged
        _opened[key] = NpyFile(path) if _is_npy(path) else HDF5File(path, dataset)
    return _opened[key]


def _is_npy(path: Path) -> bool:
    """By its ending, or by its first bytes where that is none of an array."""
    if path.suffix.lower() in (".npy", ".h5", ".hdf5"):
        return path.suffix.lower() == ".npy"
    with open(path, "rb") as file:
        return file.read(6) == b"\x93NUMPY"


# ============ readers ============
def read_array(
    path: Path,
    row: int | None,
    note: object,
    *,
    fs: float,
    units: str | None,
    leads: Sequence[str],
    layout: str | None = None,
    dataset: str | None = None,
    trim_zeros: bool = False,
) -> Recording:
    """Read a recording of an .npy or HDF5 file; arguments as in ``Given``."""
    array = open_array(path, dataset)
    if array.dtype.kind == "i" and not units:
        raise RecordError(f"whole numbers ({array.dtype}): say --units uV or --units mV")
    values = array.whole() if row is None else array[row]
    axis = lead_axis(values.shape, leads, layout)
    signal = _millivolts(values if values.ndim == 2 else values[None], units)
    used = [k for k, lead in enumerate(leads) if lead != "-"]
    rows, flags = _trimmed((signal if axis == 0 else signal.T)[used], fs, trim_zeros)
    return Recording(rows.T, tuple(leads[k] for k in used), fs, flags=flags)


def read_csv(
    path: Path,
    row: int | None,
    note: object,
    *,
    fs: float,
    units: str | None,
    trim_zeros: bool = False,
) -> Recording:
    """Read a CSV file: the first line names the leads, every other holds one instant."""
    import pandas as pd

    names, comma, above = csv_header(path)
    try:
        with warnings.catch_warnings():
            # It warns when it drops cells that have no name.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=comma,
                header=None,
                skiprows=above,
                names=range(len(names)),
                index_col=False,
                encoding="utf-8-sig",
                encoding_errors="replace",  # a micro sign in Latin-1, among words
                low_memory=False,
                skip_blank_lines=False,  # each is a sample that was lost
            )
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        raise RecordError(f"CSV unreadable: {_wide(path, above, comma, names) or error}") from None
    # Text becomes NaN, which is refused.
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    missing = np.isnan(values)
    if missing.any():
        _look_at_words(table.to_numpy(object)[missing][:MOST_WORDS])
        if missing.all(1).any():
            values = values[_without_blank_ends(_lines(path)[above:][: len(values)], above + 1)]
    rows, flags = _trimmed(_millivolts(values, units).T, fs, trim_zeros)
    return Recording(rows.T, tuple(names), fs, flags=flags)


def csv_header(path: Path) -> tuple[list[str], str, int]:
    """Return the names in the first line of a CSV file that is not blank, the sign between them,
    and the number of lines down to it.
    """
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        number, first = 1, file.readline(1 << 16)
        while first and not first.strip():
            number, first = number + 1, file.readline(1 << 16)
    comma = max(",;\t", key=first.count)
    return next(csv.reader([first], delimiter=comma), []), comma, number


def names_a_lead(path: Path, lead_names: Mapping[str, str]) -> bool:
    """Return whether the first line of a CSV file names a lead: otherwise it is a table."""
    return any(lead_of(name, lead_names) for name in csv_header(path)[0])


def _lines(path: Path) -> list[str]:
    """All lines of a text file, a blank one behind the last."""
    return re.split(r"\r\n|\n|\r", path.read_text("utf-8-sig", "replace"))


def _without_blank_ends(lines: Sequence[str], first: int) -> slice:
    """Slice of lines without blank ones at both ends; a RecordError where one is between samples.

    ``first`` is the number of the first line, from 1.
    """
    blank = np.array([not line.strip(' \t",;') for line in lines], bool)
    full = np.flatnonzero(~blank)
    kept = slice(full[0], full[-1] + 1) if len(full) else slice(0, 0)
    inside = np.flatnonzero(blank[kept])
    if len(inside):
        raise RecordError(
            f"blank lines between samples: {len(inside)}, the first is line "
            f"{first + kept.start + inside[0]}; each is a sample that was lost: fill them in, or "
            "cut the recording there"
        )
    return kept


def _look_at_words(cells: Iterable[object]) -> None:
    """A RecordError for words in place of samples that tell what is wrong with the file."""
    for word in (cell.strip() for cell in cells if isinstance(cell, str)):
        if _DECIMAL_COMMA.fullmatch(word):
            raise RecordError(
                f"numbers with a decimal comma, such as {printable(word)}: write decimal points"
            )
        unit = word.strip("()[] ")
        if millivolts_per(unit) is not None:
            raise RecordError(
                f"a line of units, such as {printable(word)}, among the samples: take it out, and "
                f"say --units {printable(unit)}"
            )


def _wide(path: Path, above: int, comma: str, names: Sequence[str]) -> str:
    """What a first line of samples with twice as many cells as names means, "" for any other."""
    line = (*_lines(path)[above:], "")[0]
    cells = line.split(comma)
    if comma == "," and len(cells) == 2 * len(names) and all(cell.strip() for cell in cells):
        return f"numbers with a decimal comma, such as {cells[0]},{cells[1]}: write decimal points"
    return ""


def lead_axis(shape: tuple[int, ...], leads: Sequence[str], layout: str | None = None) -> int:
    """Return 0 where the leads of one recording come before the time, 1 where behind.

    Raises:
        RecordError: it is neither, or both are possible.
    """
    if len(shape) == 1:
        shape = (1, *shape)
    if len(shape) != 2:
        raise RecordError(f"shape {shape} is not that of a recording with leads and time")
    fitting = [
        axis for axis in (0, 1) if shape[axis] == len(leads) and layout in (None, LAYOUTS[axis])
    ]
    if len(fitting) == 2:
        raise RecordError(
            f"shape {shape}: both could be the {len(leads)} leads; say --layout "
            f"{' or '.join(LAYOUTS)}"
        )
    if not fitting:
        eight = f" {EIGHT_LEADS} if they are the eight that hospitals keep" * (8 in shape)
        raise RecordError(
            f"shape {shape} has no axis of {len(leads)} "
            f"leads{f' as {layout} means' if layout else ''}; name the leads that there are with "
            f"--leads{eight}"
        )
    return fitting[0]


def _millivolts(values: np.ndarray, units: str | None) -> np.ndarray:
    if values.dtype.kind not in "fi" or values.dtype.itemsize > 8:
        raise RecordError(f"samples of type {values.dtype}; use float16, float32, float64 or int16")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        signal = values.astype(np.float32)
    factor = MILLIVOLTS[(units or "mV").lower()]
    return signal if factor == 1 else signal * np.float32(factor)


def _trimmed(rows: np.ndarray, fs: float, trim_zeros: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows (leads, time) without the instants at both ends where every lead is 0, or a remark on
    these.
    """
    signal = np.flatnonzero(rows.any(axis=0))
    if not len(signal):
        return rows, ()
    first, end = signal[0], signal[-1] + 1
    if trim_zeros:
        return rows[:, first:end], ()
    padding = (rows.shape[1] - (end - first)) / fs
    if padding <= 0.1:
        return rows, ()
    return rows, (f"{padding:.3g} s of zeros at its ends (see --trim_zeros)",)


# ============ their unit ============
def amplitude_of(recording: Recording) -> float:
    """Return the usual amplitude of a recording: from peak to peak in mV, the median of leads."""
    return float(np.median(np.ptp(recording.signal, axis=0)))


def unit_doubt(typical: float) -> str | None:
    """Return why an amplitude (see ``amplitude_of``) cannot be millivolts; None if it can."""
    low, high = USUAL_MV
    if POSSIBLE_MV[0] <= typical <= POSSIBLE_MV[1]:
        return None
    likely = [
        unit for unit, factor in (("uV", 1e-3), ("V", 1e3)) if low <= typical * factor <= high
    ]
    return (
        f"peak to peak {typical:.3g} mV, if the samples are millivolts: no ECG has that (usual are "
        f"{low:g} to {high:g} mV); say --units {likely[0] if likely else 'uV or --units V'}, or "
        "--units mV if it is right"
    )
