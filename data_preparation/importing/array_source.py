"""Recordings in arrays, CSV and DICOM files, as the source of an import."""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_preparation.importing.sources import (
    Item,
    Lazy,
    Source,
    database_name,
    endings_there,
    repeated,
    without_duplicates,
)
from data_preparation.known_sets import set_of_folder, set_of_layout
from util.data.columns import holds_ids
from util.data.record_tables import read_text
from util.errors import ECGError, RecordError
from util.formats.any_file import (
    ARRAYS,
    CSV,
    HOSPITAL,
    KINDS,
    READERS,
    SELF_DESCRIBED,
    WFDB,
    kind_of,
    kinds_in,
    name_of,
)
from util.formats.array_files import (
    csv_header,
    names_a_lead,
    open_array,
    row_names,
    shape_of,
)
from util.formats.hospital_files import ENDINGS as HOSPITAL_ENDINGS
from util.leads import LEADS
from util.recordings.flags import LAYOUTS
from util.recordings.plausible import Told
from util.recordings.recording import check_name, is_safe_name, printable

ENDINGS = [ending for ending, kind in KINDS.items() if kind != WFDB]
BESIDE = {  # kinds of files that are no recordings where there are others
    CSV: "CSV files beside the others, taken for tables and not for recordings",
    HOSPITAL: f"files {', '.join(HOSPITAL_ENDINGS)} beside the others, which are not read",
}
WFDB_CURE = "WFDB (.hea) goes to data_extraction_without_preprocessing.py"
FEW_ROWS = 10  # of --ids: fewer may be numbered by chance
NO_SIGNAL = "no signal: every sample is 0 or NaN"


@dataclass(frozen=True)
class ArrayInput:
    """What is said of arrays to import; None or nothing where it is to be inferred.

    Attributes:
        path: a file, or a folder of files of one kind.
        fs: sampling rate in Hz.
        units: mV, uV or V.
        leads: in the order of the arrays; "-" for a column that is no lead.
        layout: one of ``LAYOUTS``.
        dataset: of the signals in HDF5 files.
        ids: a CSV file or an HDF5 dataset with the names of the recordings.
        database: its name.
        lead_names: {name in lower case: the lead it stands for}.
        assume: whether to go on where the limb leads contradict the order.
    """

    path: Path
    fs: float | None = None
    units: str | None = None
    leads: tuple[str, ...] | None = None
    layout: str | None = None
    dataset: str | None = None
    ids: str | None = None
    database: str | None = None
    lead_names: dict[str, str] = field(default_factory=dict)
    assume: bool = False


def array_source(given: ArrayInput) -> Source:
    """Return the recordings of a file or folder, and print how they are understood.

    Raises:
        ECGError: something is missing, contradictory or in doubt.
    """
    folder, kind, files, left_out = find_input(given.path)
    assumed: list[str] = []
    name = given.path.resolve()
    own = name.stem if name.is_file() else name.name
    known = set_of_folder(own) or set_of_layout(f"{folder.resolve().name}/{files[0]}")
    database = given.database or known or database_name(own)
    many = False
    options: dict[str, Any] = {}
    if kind in SELF_DESCRIBED:
        needless = [
            f"--{name}"
            for name in ("fs", "units", "leads", "layout", "dataset")
            if getattr(given, name)
        ]
        if needless:
            raise ECGError(
                f"{', '.join(needless)}: {kind} files say themselves what they hold; leave it out"
            )
    else:
        if given.fs is None:
            raise ECGError(
                f"--fs is missing: {kind} files do not say at how many Hz they were sampled"
            )
        units = given.units or "mV"
        options = {"fs": given.fs}
        if given.units or kind not in ARRAYS:  # an array of whole numbers is refused without it
            options["units"] = units
        print(f"{given.fs:g} Hz, {units}{'' if given.units else ' (assumed; --units)'}")
        if not given.units:
            assumed.append("the samples are millivolts (--units)")
    if kind in ARRAYS:
        many, how = _understand(folder, files, given, assumed)
        options |= how
    if kind == "CSV" and len(files) == 1:
        _doubt_table(folder / files[0], given.lead_names)
    if given.ids and not many:
        raise ECGError(
            "--ids names the recordings of an array of many; a file of one is named by its file "
            "name"
        )
    items, skipped = (
        _rows(folder, files, database, given, options) if many else _one_each(files, database)
    )
    flags = ("fs", "units", "leads") if kind in ARRAYS else ("fs", "units")
    if kind in SELF_DESCRIBED:
        flags = ()
    if not given.database:
        assumed.append(f"the database is called {database} (--database)")
    return Source(
        folder,
        items,
        functools.partial(READERS[kind], **options),
        "data_preparation/import_arrays.py",
        options | ({"assume": True} if given.assume else {}),
        given.lead_names,
        skipped,
        Told(frozenset(flags), bool(given.units), options.get("leads", ()), given.assume),
        assumed,
        left_out,
    )


def find_input(path: Path) -> tuple[Path, str, list[str], list[str]]:
    """Return the folder of --input, the kind of its files and their names, relative to it, and
    sentences on files that are left out.
    """
    if path.is_file():
        kind = kind_of(path)
        if kind == WFDB:
            raise ECGError(f"--input {path}: {WFDB_CURE}")
        return path.parent, kind, [path.name], []
    if not path.is_dir():
        raise ECGError(f"--input {path}: there is no such file or folder")
    by_kind: dict[str, list[str]] = {}
    for name, kind in kinds_in(path).items():
        by_kind.setdefault(kind, []).append(name)
    if WFDB in by_kind and len(by_kind) == 1:
        raise ECGError(f"--input {path}: {WFDB_CURE}")
    by_kind.pop(WFDB, None)
    left_out = []
    for kind, what in BESIDE.items():
        if len(by_kind) > 1 and kind in by_kind:
            others = by_kind.pop(kind)
            left_out.append(f"{what}: {len(others)}, such as {printable(others[0])}")
            print(left_out[-1])
    if len(by_kind) != 1:
        raise ECGError(
            f"--input {path}: "
            + (
                f"files of several kinds ({', '.join(by_kind)}); move them apart"
                if by_kind
                else f"no file with ending {', '.join(ENDINGS)}{endings_there(path)}"
            )
        )
    return path, *by_kind.popitem(), left_out


def _doubt_table(path, lead_names):
    """An ECGError for a CSV file whose first line names no lead: it will be a table of labels."""
    try:
        names = [name.strip() for name in csv_header(path)[0]]
    except RecordError as error:
        raise ECGError(f"{path}: {error}") from None
    if not names_a_lead(path, lead_names):
        raise ECGError(
            f"{path}: its first line names no lead "
            f"({', '.join(map(printable, names[:4])) or 'it is empty'}), so it is no recording. "
            "Say by --lead_names which lead a name stands for; a table of labels goes to "
            "reformat_memmap.py --labels"
        )


def _understand(folder, files, given, assumed):
    """Whether files hold many recordings each, and {leads, layout, dataset}, from the first that
    leaves no doubt.  No layout, where it is not given, of several files: they may differ.
    """
    leads, doubt = given.leads or LEADS, None
    for name in files:
        try:
            array = open_array(folder / name, given.dataset)
            many, axis = shape_of(array, leads, given.layout)
            break
        except RecordError as error:
            doubt = doubt or f"{name}: {error}"
    else:
        raise ECGError(doubt)
    if array.dtype.kind == "i" and not given.units:
        raise ECGError(f"{name} holds whole numbers ({array.dtype}): say --units uV or --units mV")
    how = " (inferred, for each file by itself)" if len(files) > 1 else " (inferred)"
    print(
        f"{name}: {array.dtype} of shape {array.shape}, "
        f"{'a recording a row' if many else 'one recording'}, read as "
        f"{LAYOUTS[axis]}{'' if given.layout else how}; leads "
        f"{' '.join(leads)}{'' if given.leads else ' (assumed; --leads)'}"
    )
    if not given.leads:
        assumed.append(f"the leads come in the order {' '.join(leads)} (--leads)")
    if not given.layout:
        each = ", of each file by itself" if len(files) > 1 else f", {LAYOUTS[axis]}"
        assumed.append(f"the axis of {len(leads)} is that of the leads{each} (--layout)")
    if len(getattr(array, "names", ())) > 1 and not given.dataset:
        assumed.append(f"the signals are the dataset {array.values.name.strip('/')} (--dataset)")
    if many and not given.ids:
        by = "exam_id" if "exam_id" in getattr(array, "names", ()) else "their places"
        assumed.append(f"recordings are named by {by} (--ids)")
    options = {"leads": leads, "layout": given.layout, "dataset": given.dataset}
    if len(files) == 1:
        options["layout"] = LAYOUTS[axis]
    return many, {name: value for name, value in options.items() if value}


def _one_each(files, database):
    """Items of files with one recording each, named by their file names, and rows of
    skipped.csv.
    """
    usable, skipped = [], []
    for name in files:
        try:
            check_name(name_of(name), "file name")
            usable.append(name)
        except RecordError as error:
            skipped.append(Item(name_of(name), database, name).about | {"reason": str(error)})
    items, duplicates = without_duplicates(
        Lazy(len(usable), lambda n: Item(name_of(usable[n]), database, usable[n]))
    )
    if not items:
        raise ECGError(f"{files[0]}: {skipped[0]['reason']}")
    return items, skipped + duplicates


def _rows(folder, files, database, given, options):
    """Items of files with many recordings each, named by --ids, by the dataset exam_id, or by
    their place.
    """
    listed = _read_ids(given.ids, files) if given.ids and given.ids.endswith(".csv") else None
    # Of each file: the names of its recordings, and how many there are with those before.
    names: list[Sequence[str]] = []
    ends: list[int] = []
    for name in files:
        try:
            array = open_array(folder / name, given.dataset)
            if not shape_of(array, options["leads"], options.get("layout"))[0]:
                raise RecordError(
                    f"shape {array.shape} is that of one recording, others hold many: move it away"
                )
            stem = database if len(files) == 1 else database_name(name_of(name))
            of_file = _of_rows(array, given.ids, stem) if listed is None else listed[name]
            if len(of_file) != array.shape[0]:
                raise RecordError(
                    f"--ids {given.ids} names {len(of_file)} recordings of it, it holds "
                    f"{array.shape[0]}: one line a recording, in the order of the array"
                )
        except RecordError as error:
            raise ECGError(f"{name}: {error}") from None
        names.append(of_file)
        ends.append(len(of_file) + (ends[-1] if ends else 0))

    def item(place):
        file = bisect.bisect_right(ends, place)
        row = place - (ends[file - 1] if file else 0)
        return Item(names[file][row], database, files[file], row)

    items, skipped = _with_signal(folder, Lazy(ends[-1], item), given)
    if not items:
        raise ECGError(f"--input {given.path}: no recording in it")
    return items, skipped


def _with_signal(folder, items, given):
    """Items without the empty rows among those whose name is unusable or comes twice, and rows of
    skipped.csv for these.  CODE-15 % ends each file with rows of zeros that are all called 0.

    An ECGError where such a name stands for a signal.
    """
    twice = repeated(lambda: (item.record for item in items))
    empty: list[int] = []
    first: dict[str, Item] = {}
    for place, item in enumerate(items):
        if is_safe_name(item.record) and item.record not in twice:
            continue
        if not _has_signal(open_array(folder / item.file, given.dataset), item.row):
            empty.append(place)
            continue
        try:
            check_name(item.record, "record name")
        except RecordError as error:
            raise ECGError(f"{item.file}: {error}") from None
        if item.record in first:
            raise ECGError(
                f"--input {given.path}: {item.record} is the name of two recordings; every one "
                "needs its own"
            )
        first[item.record] = item
    if not empty:
        return items, []
    print(
        f"rows without a signal, which are left out: {len(empty)}, such as "
        f"{printable(items[empty[0]].path)}"
    )
    rows = [items[place].about | {"reason": NO_SIGNAL} for place in empty]
    kept = np.delete(np.arange(len(items)), empty)
    return Lazy(len(kept), lambda place: items[int(kept[place])]), rows


def _has_signal(array, row):
    """Whether a row of an array has a sample that is neither 0 nor NaN."""
    try:
        values = np.asarray(array[row])
    except RecordError:
        return True  # a damaged one is a recording
    return bool(((values != 0) & (values == values)).any())


def _of_rows(array, dataset, stem):
    """Names of an array's recordings, in its order."""
    return Lazy(array.shape[0], row_names(array, dataset, stem))


def _read_ids(path, files):
    """{file: names of its recordings, in its order} of a CSV file's columns record and, of
    several files, file.
    """
    table = read_text(path)
    if (
        len(files) > 1 and "file" not in table
    ):  # their order is not to be guessed: part10 comes before part2
        raise ECGError(
            f"--ids {path} names recordings of {len(files)} files, such as "
            f"{', '.join(files[:3])}: "
            "say in a column file which one each is of"
        )
    _check_order(path, table.drop(columns=["record", "patient", "file"], errors="ignore"))
    file_of = table["file"].str.strip() if "file" in table else files[0]
    names: dict[str, list[str]] = {name: [] for name in files}
    for record, name in zip(table["record"], np.broadcast_to(file_of, len(table))):
        if name not in names:
            raise ECGError(
                f"--ids {path}: there is no file {name!r} in the input; it has "
                f"{', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"
            )
        names[name].append(record)
    return names


def _check_order(path, others):
    """An ECGError where a column numbers the lines of --ids in another order than theirs."""
    for name, cells in others.items():
        numbers = pd.to_numeric(cells, errors="coerce")
        count = np.arange(len(numbers)) + numbers.min()
        by_chance = len(numbers) < FEW_ROWS and not holds_ids(name)
        if by_chance or (numbers == count).all() or not (numbers.sort_values() == count).all():
            continue
        raise ECGError(
            f"--ids {path}: its lines are not in the order of its column {name!r}, but names go by "
            "their order, that of the array: sort them, or leave the column out"
        )
