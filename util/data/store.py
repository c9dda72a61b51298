"""RecordStore: all recordings of one sampling rate in one folder, read through a memory map.

A store is three files.  ``signals.dat`` holds the records end to end, int16, time-major, twelve
columns in the order of LEADS; a lead that a record lacks is ABSENT in every sample, which is no
signal.  ``records.csv`` has one readable row a record.  ``meta.json`` holds the format version,
fs and checksums.  Opening costs no signal memory, and processes share the pages.
"""

import functools
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.challenge import CLASSES
from util.errors import StoreError
from util.files import sync, write_json, write_table
from util.leads import LEADS, lead_index, leads_of_cell

if TYPE_CHECKING:  # half a second, which those who only write tables need not spend
    import pandas as pd

FORMAT = "ECG record store"
VERSION = 2  # 1 knew no records with fewer than twelve leads
ABSENT = -32768  # every sample of a lead that a record lacks; ``quantise`` never makes it
BLOCK_BYTES = 1 << 24  # signals.dat is checksummed in blocks of 16 MiB
_ROW_BYTES = 2 * len(LEADS)  # one instant, all leads
FOLDS = 10
NO_FOLD = -1  # in stores of before: records without a scored diagnosis
_TYPES = {
    "record": str,
    "database": str,
    "fs_original": float,
    "start": np.int64,
    "length": np.int64,
    "scale": float,
    "age": float,
    "sex": str,
    "dx": str,
    "fold": np.int64,
    "patient": str,
    "flags": str,
    "path": str,
    "leads": str,
}
COLUMNS = tuple(_TYPES)  # of records.csv
_FIXED = {
    "leads": list(LEADS),
    "dtype": "int16",
    "classes": list(CLASSES),
    "block_bytes": BLOCK_BYTES,
}
_REMAKE = "make the store again with data_preparation/reformat_memmap.py"


class RecordStore:
    """A store, opened read-only.  It pickles as its path: DataLoader workers map the same pages.

    Args:
        path: the folder of one sampling rate, for example
            ``data_summary_without_preprocessing/fs100``.

    Attributes:
        path: its folder.
        fs: sampling rate in Hz.
        leads: names, in the order of the columns.
        records: pandas DataFrame, one row a record, columns COLUMNS.  ``start`` and ``length``
            are in samples at fs, ``scale`` is mV per count, ``dx`` is space separated SNOMED CT
            codes, ``fold`` is -1 for records without a scored diagnosis in stores of before;
            ``flags`` and ``patient`` may be empty; ``leads`` names the leads that there are, in
            standard order, and is empty for all twelve.
        meta: the contents of meta.json.

    Raises:
        StoreError: missing, damaged, of another version, or records.csv and signals.dat disagree.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.fs: int = self.meta["fs"]
        self.leads = LEADS
        self.records = _read_records(self.path, self.meta)
        self._start = self.records["start"].to_numpy()
        self._length = self.records["length"].to_numpy()
        self._scale = self.records["scale"].to_numpy(np.float32)
        self._leads = _lead_bits(self.records["leads"].to_numpy(object))
        signals = np.memmap(
            self.path / "signals.dat", "<i2", "r", shape=(self.meta["samples"], len(LEADS))
        )
        # The same pages, without what numpy.memmap costs at every slice
        self._signals = signals.view(np.ndarray)

    def __reduce__(self) -> tuple:
        return RecordStore, (self.path,)

    def __len__(self) -> int:
        return len(self._length)

    def has_leads(self, leads: Sequence[str]) -> np.ndarray:
        """Return which records have all of these leads, bool (records,)."""
        wanted = _bits(leads)
        return self._leads & wanted == wanted

    def counts(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Return a read-only view of record i, int16 (length, 12); leads that it lacks are ABSENT.

        Args:
            i: row of the store.
            start: the first sample.
            length: samples; None: to the record's end.

        Raises:
            IndexError: the samples are outside of the record.
        """
        size = int(self._length[i])
        length = size - start if length is None else length
        if not 0 <= start <= start + length <= size:
            raise IndexError(f"samples {start} to {start + length} of record {i}, which has {size}")
        first = int(self._start[i]) + start
        return self._signals[first : first + length]

    def stretch(self, first: int, last: int) -> np.ndarray:
        """Return a read-only view of records first to last - 1 as they lie, end to end, int16
        (samples, 12).
        """
        start = int(self._start[first])
        return self._signals[start : int(self._start[last - 1] + self._length[last - 1])]

    def read(
        self,
        i: int,
        start: int = 0,
        length: int | None = None,
        leads: Sequence[str] = LEADS,
    ) -> np.ndarray:
        """Return record i, or a part of it as ``counts`` does, float32 (length, leads) in mV; NaN
        for a lead that it lacks.
        """
        signal = self.counts(i, start, length)[:, lead_index(leads)] * self._scale[i]
        if self._leads[i] != _ALL_LEADS:
            signal[:, [not self._leads[i] & _bits([lead]) for lead in leads]] = np.nan
        return signal

    def verify_blocks(self) -> None:
        """Compare signals.dat with its checksums.

        Raises:
            StoreError: some differ; it names the records in damaged blocks.
        """
        blocks = _block_checksums(self.path / "signals.dat")
        damaged = [block for block, (a, b) in enumerate(zip(blocks, self.meta["blocks"])) if a != b]
        if damaged:
            rows = BLOCK_BYTES / _ROW_BYTES
            ends = self._start + self._length
            hit = [
                name
                for name, start, end in zip(self.records["record"], self._start, ends)
                if any(start < (block + 1) * rows and end > block * rows for block in damaged)
            ]
            raise StoreError(
                f"{self.path}/signals.dat was changed or damaged: {len(damaged)} of {len(blocks)} "
                f"blocks differ from their checksums (records {hit[0]} to {hit[-1]}); {_REMAKE}"
            )


def quantise(signal: np.ndarray) -> tuple[np.ndarray, int]:
    """Return a signal, float32 in mV, as int16 counts, and how many microvolts one count is.

    That is 1 unless the signal needs more range: nothing is clipped.
    """
    peak_uv = 1000 * float(max(signal.max(), -signal.min()))
    scale_uv = int(peak_uv / 32767.4) + 1  # 32767.4 still rounds to the largest int16
    counts = np.rint(signal * np.float32(1000 / scale_uv)).astype("<i2")
    return np.ascontiguousarray(counts), scale_uv


def spread(counts: np.ndarray, leads: Sequence[str]) -> np.ndarray:
    """Return counts (n, leads) as int16 (n, 12): each in its lead's column, else ABSENT."""
    if len(leads) == len(LEADS):
        return counts
    columns = np.full((len(counts), len(LEADS)), ABSENT, "<i2")
    columns[:, lead_index(leads)] = counts
    return columns


def _bits(leads: Iterable[str]) -> np.uint16:
    """These leads as a number with one bit a lead."""
    return np.uint16(sum(1 << column for column in lead_index(leads)))


_ALL_LEADS = _bits(LEADS)


def _lead_bits(cells: np.ndarray) -> np.ndarray:
    """The column ``leads`` as numbers, uint16 (records,)."""
    bits = {cell: _bits(leads_of_cell(cell) or ()) for cell in set(cells)}
    if len(bits) == 1:  # as nearly always, and quick
        return np.full(len(cells), next(iter(bits.values())))
    return np.fromiter((bits[cell] for cell in cells), np.uint16, len(cells))


# ============ opening ============
def _read_meta(folder: Path) -> dict[str, Any]:
    """The contents of meta.json, checked."""
    if not folder.is_dir():
        raise StoreError(f"no store at {folder}: make one with data_preparation/reformat_memmap.py")
    if not (folder / "meta.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("fs*/meta.json"))
        cure = f"name the folder of one rate: {folder / inside[0]}" if inside else _REMAKE
        raise StoreError(f"{folder} is not a store (no meta.json); {cure}")
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder}/meta.json is unreadable ({error}); {_REMAKE}") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise StoreError(f"{folder}/meta.json does not describe a record store; {_REMAKE}")
    if meta.get("version") not in (1, VERSION):
        raise StoreError(
            f"{folder} has store version {meta.get('version')}, this code reads 1 to {VERSION}; "
            f"{_REMAKE}"
        )
    problem = _meta_problem(meta, folder)
    if problem:
        raise StoreError(f"{folder}/meta.json is damaged ({problem}); {_REMAKE}")
    if not (folder / "signals.dat").is_file():
        raise StoreError(f"{folder}/signals.dat is missing; {_REMAKE}")
    size, wanted = (folder / "signals.dat").stat().st_size, meta["samples"] * _ROW_BYTES
    if size != wanted:
        raise StoreError(
            f"{folder}/signals.dat has {size} bytes where meta.json says {wanted}: truncated or "
            f"changed; {_REMAKE}"
        )
    return meta


def _meta_problem(meta: dict, folder: Path) -> str | None:
    """What is wrong with the entries of meta.json, or None."""
    for key, value in _FIXED.items():
        if meta.get(key) != value:
            return f"{key} is not what this code writes"
    for key in ("fs", "samples", "records", "folds"):
        if type(meta.get(key)) is not int or not 0 < meta[key] < 1 << 53:
            return f"{key} is not a positive integer"
    blocks = -(-meta["samples"] * _ROW_BYTES // BLOCK_BYTES)
    if not isinstance(meta.get("blocks"), list) or len(meta["blocks"]) != blocks:
        return "blocks does not fit the number of samples"
    if re.fullmatch(r"fs[0-9]+", folder.name) and int(folder.name[2:]) != meta["fs"]:
        return f"fs is {meta['fs']} in a folder named {folder.name}"
    return None


def _read_records(folder: Path, meta: dict) -> "pd.DataFrame":
    """The table records.csv, checked."""
    import pandas as pd  # late, see above

    path = folder / "records.csv"
    if not path.is_file():
        raise StoreError(f"{path} is missing; {_REMAKE}")
    if checksum(path.read_bytes()) != meta.get("records_crc32"):
        raise StoreError(
            f"{path} was changed after the store was made (its checksum differs); {_REMAKE}"
        )
    try:
        records = pd.read_csv(
            path, dtype=_TYPES, keep_default_na=False, na_values={"age": [""]}, encoding="utf-8"
        )
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{path} is unreadable ({error}); {_REMAKE}") from None
    if meta["version"] == 1:
        records["leads"] = ""
    problem = _records_problem(records, meta)
    if problem:
        raise StoreError(f"{path} does not fit the store: {problem}; {_REMAKE}")
    return records


def _records_problem(records: "pd.DataFrame", meta: dict) -> str | None:
    """Where records.csv contradicts itself or signals.dat, or None."""
    missing = [column for column in COLUMNS if column not in records]
    if missing:
        return f"no column {', '.join(missing)}"
    if len(records) != meta["records"]:
        return f"{len(records)} rows for {meta['records']} records"
    start, length = records["start"].to_numpy(), records["length"].to_numpy()
    scale, fold = records["scale"].to_numpy(), records["fold"].to_numpy()
    if length.min() < 1 or length.max() > meta["samples"] or start.min() < 0:
        return "a start or length is outside of signals.dat"
    if (
        start[0] != 0
        or (start[1:] != (start + length)[:-1]).any()
        or start[-1] + length[-1] != meta["samples"]
    ):
        return f"the records do not lie end to end from 0 to {meta['samples']}"
    if not ((scale >= 1e-9) & (scale <= 1e3)).all():
        return "a scale is not a plausible number of millivolts per count"
    if not ((records["fs_original"] > 0) & np.isfinite(records["fs_original"])).all():
        return "an fs_original is not a positive number"
    if fold.min() < NO_FOLD or fold.max() >= meta["folds"]:
        return f"a fold is outside of {NO_FOLD} to {meta['folds'] - 1}"
    for cell in set(records["leads"].to_numpy(object)):
        if leads_of_cell(cell) is None:
            return f"leads {cell!r} are not some of {' '.join(LEADS)} in this order"
    if records["record"].duplicated().any():
        return f"record {records['record'][records['record'].duplicated()].iloc[0]} appears twice"
    return None


def checksum(data: bytes) -> str:
    """Return the CRC-32 of bytes, as files keep it."""
    return f"{zlib.crc32(data):08x}"


def _block_checksums(path: Path) -> list[str]:
    with open(path, "rb") as file:
        return [checksum(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")]


# ============ writing ============
def write_store(
    folder: str | os.PathLike,
    fs: int,
    rows: Iterable[tuple[dict[str, Any], np.ndarray]],
    command: Sequence[str],
) -> RecordStore:
    """Write a store into a new folder, record by record, in memory that does not grow with their
    number, and return it.

    Args:
        folder: must not exist.
        fs: sampling rate in Hz.
        rows: iterable of (row, counts): ``counts`` int16 (n, 12); ``row`` a dict with record,
            database, fs_original, scale_uv (integer microvolts per count), age (years or None),
            sex, dx (list of codes), fold and, if known, patient, flags, path, leads (as
            ``lead_cell`` names them).
        command: the command lines that made it; no times and no paths of this
            machine in them, so that the same input gives the same bytes.

    Raises:
        StoreError: no record, it cannot be written, or counts are ABSENT other than where
            ``leads`` says so.
    """
    folder, number, start = Path(folder), 0, 0

    def written(file: Any) -> Iterator[dict[str, Any]]:
        """Write the signals, and yield the row of each record."""
        nonlocal number, start
        for row, counts in rows:
            if (
                counts.dtype != np.int16
                or counts.ndim != 2
                or counts.shape[1] != len(LEADS)
                or not len(counts)
            ):
                raise StoreError(f"record {row['record']}: counts must be int16 (n, 12) with n > 0")
            _check_absent(row, counts)
            file.write(np.ascontiguousarray(counts, "<i2").data)
            yield _table_row(row, start, len(counts))
            number, start = number + 1, start + len(counts)
        sync(file)

    try:
        folder.mkdir(parents=True)
        with open(folder / "signals.dat", "wb") as file:
            write_table(folder / "records.csv", COLUMNS, written(file))
        if not number:
            raise StoreError(f"{folder}: no record to write")
        write_json(
            folder / "meta.json",
            {
                "format": FORMAT,
                "version": VERSION,
                "fs": fs,
                **_FIXED,
                "records": number,
                "samples": start,
                "folds": FOLDS,
                "command": command,
                "records_crc32": checksum((folder / "records.csv").read_bytes()),
                "blocks": _block_checksums(folder / "signals.dat"),
            },
        )
    except OSError as error:
        raise StoreError(f"cannot write the store {folder}: {error}") from error
    return RecordStore(folder)  # what was written must be what we read


@functools.cache
def _absent_columns(cell: str) -> np.ndarray | None:
    """bool (12,): the columns that are absent by a cell of the column ``leads``; None if the cell
    is none.
    """
    leads = leads_of_cell(cell)
    return None if leads is None else np.array([lead not in leads for lead in LEADS])


def _check_absent(row: dict[str, Any], counts: np.ndarray) -> None:
    absent = _absent_columns(row.get("leads", ""))
    if absent is None:
        right = False
    elif absent.any():
        right = ((counts == ABSENT) == absent).all()
    else:
        right = counts.min() != ABSENT  # the same, and quick
    if not right:
        raise StoreError(
            f"record {row['record']}: its column leads and what is absent from its counts differ"
        )


def _table_row(row: dict[str, Any], start: int, length: int) -> dict[str, Any]:
    """A record's row of records.csv."""
    cells = {
        "fs_original": f"{row['fs_original']:.12g}",
        "start": start,
        "length": length,
        "scale": repr(row["scale_uv"] / 1000),
        "age": "" if row["age"] is None else f"{row['age']:g}",
        "dx": " ".join(row["dx"]),
    }
    return {"patient": "", "flags": "", "path": "", "leads": "", **row, **cells}


def publish(new: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Put the complete folder ``new`` in the place of ``folder``, whose contents are removed.

    Raises:
        StoreError: these are not a store.
    """
    new, folder = Path(new), Path(folder)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed between the renames
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "meta.json").exists():
            raise StoreError(
                f"{folder} exists and is not a store; move it away or choose another --output_dir"
            )
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)
