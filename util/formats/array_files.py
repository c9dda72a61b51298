"""Recordings out of .npy, HDF5 and CSV files.

Files are untrusted: nothing is unpickled, no other file is opened, and what is wrong with a file
is a RecordError.  One recording is in memory at a time, however many a file holds.
"""

import contextlib
import csv
import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.errors import MissingPackage, RecordError
from util.files import is_unknown
from util.leads import LEADS, standard_lead
from util.recordings.flags import LAYOUTS
from util.recordings.recording import (
    Recording,
    lead_of,
    millivolts_per,
    printable,
    usual_unit,
)

if TYPE_CHECKING:
    import pandas as pd

DATASETS = ("tracings", "ecg")  # of CODE-15 % and of SPH
EIGHT_LEADS = ",".join(LEADS[:2] + LEADS[6:])  # from which the other four follow
MOST_WORDS = 1000  # that are looked at for what they mean
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9.]*,[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
_WITH_UNIT = re.compile(r"(.+?)\s*[(\[](.+)[)\]]")
_ABOVE = re.compile(r"\s*#|sep=", re.IGNORECASE)  # comments, and Excel's line on its comma
_TIME = re.compile(
    r"((elapsed|relative|date)[ _]?)?(time|zeit|t|sec|ms|samples?|index)(\W|_|$)"
    "|seconds|timestamp|elapsed",
    re.IGNORECASE,
)
# 628 and 1.628, which is 1628 where a point stands between thousands
_HUNDREDS = re.compile(r"\s*[+-]?[0-9]{1,3}\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9][0-9]{0,2}\.[0-9]{3}\s*")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # its marks
TIMED_FS = (20, 10_000)  # Hz that a column of time is taken to mean
BACKWARDS = 0.02  # of all steps; a column of milliseconds or seconds begins anew more rarely
_COUNTER = re.compile("sample|index", re.IGNORECASE)
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
        # In Fortran order a row lies all over the file, unless it is the only one.
        self.is_turned = not array.flags.c_contiguous
        self.interleaved = self.is_turned and array.shape[0] > 1

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
        if self.is_turned:
            return self.whole()[row]
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
            wanted = [dataset.strip("/")] if dataset else DATASETS
            known = [name for name in wanted if name in self.names]
            if not known and (dataset or len(arrays) != 1):
                what = (
                    f"no dataset {dataset}"
                    if dataset
                    else "name the dataset of the signals with --dataset"
                )
                links = [link for name in wanted for link in _links(self.file, name)]
                also = f"; {links[0]}, and links are not followed" if links else ""
                raise RecordError(f"{what}; there are {', '.join(self.names) or 'none'}{also}")
            self.values = self._own((known or arrays)[0])
            self.shape, self.dtype = self.values.shape, self.values.dtype

    def __getitem__(self, row: int) -> np.ndarray:
        with _hdf5_errors(self.values):
            return self.values[row]

    def whole(self) -> np.ndarray:
        """Return all of it."""
        with _hdf5_errors(self.values):
            return self.values[()]

    def _own(self, name: str) -> Any:
        """A dataset whose values lie in this file: no other is to be read."""
        dataset = self.file[name]
        if dataset.is_virtual or dataset.external:
            raise RecordError(
                f"the values of dataset {name} lie in other files, which are not read: copy them "
                "into one, as h5py does with file.create_dataset(name, data=dataset[:])"
            )
        return dataset

    def column(self, name: str) -> np.ndarray:
        """Return a dataset with one value a record."""
        if name not in self.names:
            raise RecordError(f"no dataset {name}; there are {', '.join(self.names)}")
        with _hdf5_errors():
            return self._own(name)[()].ravel()


def _links(file: Any, name: str) -> list[str]:
    """What the first link on the way to a name in an HDF5 file leads to, which is not looked at;
    nothing where none is on it.
    """
    import h5py

    parts = name.split("/")
    for path in ("/".join(parts[: n + 1]) for n in range(len(parts))):
        link = file.get(path, getlink=True) if path else None
        if isinstance(link, h5py.ExternalLink):
            return [
                f"{path} is a link to {printable(link.path)} in file {printable(link.filename)}"
            ]
        if isinstance(link, h5py.SoftLink):
            return [f"{path} is a link to {printable(link.path)}"]
    return []


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
            raise MissingPackage(
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
    if isinstance(value, np.floating) and value.is_integer():
        value = int(value)
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
    units: str | None = None,
    leads: Sequence[str],
    layout: str | None = None,
    dataset: str | None = None,
) -> Recording:
    """Read a recording of an .npy or HDF5 file; arguments as in ``Given``."""
    array = open_array(path, dataset)
    if array.dtype.kind == "i" and not units:
        raise RecordError(f"whole numbers ({array.dtype}): say --units uV or --units mV")
    values = array.whole() if row is None else array[row]
    axis = lead_axis(values.shape, leads, layout)
    signal = _millivolts(values if values.ndim == 2 else values[None], units)
    used = [k for k, lead in enumerate(leads) if lead != "-"]
    rows = (signal if axis == 0 else signal.T)[used]
    names = [leads[k] for k in used]
    turned = [name.startswith("-") for name in names]
    if any(turned):
        rows[turned] *= -1
    return Recording(rows.T, tuple(name.removeprefix("-") for name in names), fs)


def read_csv(
    path: Path,
    row: int | None,
    note: object,
    *,
    fs: float,
    units: str | None,
) -> Recording:
    """Read a CSV file: the first line names the leads, every other holds one instant."""
    import pandas as pd

    names, comma, above = csv_header(path)
    read = functools.partial(
        pd.read_csv,
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
    try:
        with warnings.catch_warnings():
            # It warns when it drops cells that have no name.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = read()
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        raise RecordError(f"CSV unreadable: {_wide(path, above, comma, names) or error}") from None
    # Words for "missing" become NaN, which is refused, or cut off at the ends.
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64, copy=True)
    _look_at_thousands(values, lambda column: read(usecols=[column], dtype=str)[column])
    missing = np.isnan(values)
    if missing.any():
        _look_at_words(names, table.to_numpy(object), missing, above + 1)
        for column in np.flatnonzero(missing.all(0)):
            if _TIME.match(names[column].strip()):
                values[:, column] = _seconds(table[column])
        if missing.all(1).any():
            values = values[_without_blank_ends(_lines(path)[above:][: len(values)], above + 1)]
    _check_time(names, values, above + 1, fs)
    return Recording(_millivolts(values, units), tuple(names), fs)


def csv_header(path: Path) -> tuple[list[str], str, int]:
    """Return the names in the first line of a CSV file that is neither blank nor a comment,
    the sign between them, and the number of lines down to it.

    Raises:
        RecordError: it holds units, too.
    """
    with open(path, "rb") as file:
        if file.read(2) in _UTF16:
            raise RecordError("text in UTF-16: save it as CSV in UTF-8")
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        number, first = 1, file.readline(1 << 16)
        while first and (not first.strip() or _ABOVE.match(first)):
            number, first = number + 1, file.readline(1 << 16)
    comma = max(",;\t", key=first.count)
    names = next(csv.reader([first], delimiter=comma), [])
    matches = [match for match in map(_WITH_UNIT.fullmatch, names) if match]
    units = {
        match[0]: unit
        for match in matches
        if standard_lead(match[1]) and (unit := usual_unit(match[2].strip()))
    }
    if units:
        several = sorted({*units.values()})
        cure = f"say --units {several[0]}"
        if len(several) > 1:
            cure = f"bring all leads to one unit (there are {', '.join(several)})"
        raise RecordError(
            f"units behind the names of the leads, such as {printable(next(iter(units)))}: write "
            f"the names alone, and {cure}"
        )
    return names, comma, number


def names_a_lead(path: Path, lead_names: Mapping[str, str]) -> bool:
    """Return whether the first line of a CSV file names a lead: otherwise it is a table."""
    try:
        names = csv_header(path)[0]
    except RecordError:
        return True  # and its units
    return any(lead_of(name, lead_names) for name in names)


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


def _look_at_words(
    names: Sequence[str], cells: np.ndarray, missing: np.ndarray, first: int
) -> None:
    """A RecordError for words in place of samples; those that mean "missing" may be.

    Args:
        names: of the columns.
        cells: (lines, columns), of which ``missing`` are no numbers.
        first: number of the first line, from 1.
    """
    words = [
        (line, column, cells[line, column].strip())
        for line, column in np.argwhere(missing)
        if isinstance(cells[line, column], str)
    ]
    for _, _, word in words[:MOST_WORDS]:
        if _DECIMAL_COMMA.fullmatch(word):
            raise RecordError(
                f"numbers with a decimal comma, such as {printable(word)}: write decimal points"
            )
        unit = usual_unit(word.strip("()[] "))
        if unit:
            raise RecordError(
                f"a line of units, such as {printable(word)}, among the samples: take it out, and "
                f"say --units {unit}"
            )
    of_numbers = missing.mean(0) < 0.5  # other columns may hold text
    texts = [word for word in words if of_numbers[word[1]] and not is_unknown(word[2])]
    if texts:
        where = ", ".join(dict.fromkeys(printable(names[column]) for _, column, _ in texts))
        raise RecordError(
            f"non-finite samples: {len(texts)} in {where}: text, such as {printable(texts[0][2])} "
            f"in line {first + texts[0][0]}"
        )


def _look_at_thousands(values: np.ndarray, texts: Callable[[int], "pd.Series"]) -> None:
    """A RecordError where every point in a column stands between thousands.

    ``texts`` returns the cells of a column, which are read again only where its numbers may be so.
    """
    for column, numbers in enumerate(np.abs(values).T):
        whole = numbers == np.rint(numbers)
        small, parts = (numbers[whole] >= 100).any(), numbers[~whole & ~np.isnan(numbers)]
        if not small or not len(parts) or parts.min() < 1:
            continue
        cells = texts(column).dropna()
        thousands = cells.str.fullmatch(_THOUSANDS)
        if thousands.any() and (thousands | cells.str.fullmatch(_HUNDREDS)).all():
            raise RecordError(
                "numbers with a point between thousands, such as "
                f"{cells[thousands].iloc[0].strip()}: write them without"
            )


def _seconds(cells: "pd.Series") -> np.ndarray:
    """Seconds of texts that are times of a day (00:00:01.5), or dates with one; NaN of others."""
    import pandas as pd

    texts = cells.astype(str)
    times = pd.to_timedelta(texts, errors="coerce")
    if times.isna().any():
        moments = pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True)
        return (moments - moments.min()).dt.total_seconds().to_numpy(float)
    return np.unwrap(times.dt.total_seconds(), period=86_400)  # midnight


def _check_time(names: Sequence[str], values: np.ndarray, first: int, fs: float) -> None:
    """A RecordError where a column that counts seconds or samples jumps: some were lost, where it
    is not in order, or where it counts at another rate than ``fs``.
    """
    for name, times in zip(names, values.T):
        if not _TIME.match(name.strip()) or len(times) < 3 or not np.isfinite(times).all():
            continue
        steps = np.diff(times)
        usual, back = np.median(steps), np.flatnonzero(steps < 0)
        if len(back) > BACKWARDS * len(steps):
            raise RecordError(
                f"lines out of order: the column {printable(name)} goes back at {len(back)} "
                f"places, the first is line {first + back[0] + 1}: sort the lines by it"
            )
        if ((steps >= 0) & (steps < 0.6 * usual)).any() or usual <= 0:
            continue  # too coarsely rounded
        jumps = np.flatnonzero((steps < 0) | (steps > 1.6 * usual))
        if len(jumps):
            raise RecordError(
                f"samples were lost: the column {printable(name)} jumps at {len(jumps)} places, "
                f"the first is line {first + jumps[0] + 1}: fill them in, or cut the recording "
                "there"
            )
        rates = _rates_of(name, float(times[-1] - times[0]) / (len(times) - 1))
        if rates and not any(math.isclose(rate, fs, rel_tol=0.02) for rate in rates):
            raise RecordError(
                f"the column {printable(name)} counts in steps of {usual:g}, so it has "
                f"{' or '.join(f'{rate:.4g}' for rate in rates)} Hz, but --fs says {fs:g}: give "
                "the right one, or take the column out"
            )


def _rates_of(name: str, step: float) -> list[float]:
    """Hz that the mean step of a column of time may mean, in s, ms, us or ns; none where it may
    count samples.
    """
    if step == 1 or _COUNTER.match(name.strip()):
        return []
    rates = [unit / step for unit in (1, 1e3, 1e6, 1e9)]
    return [rate for rate in rates if TIMED_FS[0] <= rate <= TIMED_FS[1]]


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
    unit = units or "mV"
    return signal if unit == "mV" else signal * np.float32(millivolts_per(unit) or math.nan)
