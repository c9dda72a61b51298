"""Recordings in arrays, CSV and DICOM files, as the source of an import."""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_preparation.importing.array_readers import (
    csv_header,
    lead_axis,
    open_array,
    read_array,
    read_csv,
)
from data_preparation.importing.flags import LAYOUTS
from data_preparation.importing.sources import (
    Item,
    Lazy,
    Source,
    database_name,
    repeated,
    without_duplicates,
)
from data_preparation.known_sets import set_of_folder, set_of_layout
from util.data.record_tables import read_text
from util.errors import ECGError, RecordError
from util.files import find_files
from util.leads import LEADS, standard_lead
from util.recordings.dicom import read_dicom
from util.recordings.lead_order import LIMB, gram, likely_limb, relations_hold, turned_lead
from util.recordings.recording import check_name, checked, is_safe_name, printable

KINDS = {".npy": "npy", ".h5": "HDF5", ".hdf5": "HDF5", ".dcm": "DICOM", ".csv": "CSV"}
ARRAYS = ("npy", "HDF5")
NO_SIGNAL = "no signal: every sample is 0 or NaN"
LOOKED_AT = 100  # recordings, before an import begins
POSSIBLE_MV = (0.02, 50.0)  # outside, the unit is wrong unless it was said
USUAL_MV = (0.1, 20.0)  # peak to peak, the median of recordings: outside, the unit is in doubt


@dataclass(frozen=True)
class ArrayInput:
    """What is said of arrays to import; None or nothing where it is to be inferred.

    Attributes:
        path: a file, or a folder of files of one kind.
        fs: sampling rate in Hz.
        units: mV, uV or V.
        leads: in the order of the arrays; "-" for a column that is no lead.
        layout: one of ``LAYOUTS``.
        trim_zeros: whether zeros at both ends of a recording are cut off.
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
    trim_zeros: bool = False
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
    folder, kind, files = find_input(given.path)
    name = given.path.resolve()
    own = name.stem if name.is_file() else name.name
    known = set_of_folder(own) or set_of_layout(f"{folder.resolve().name}/{files[0]}")
    database = given.database or known or database_name(own)
    many = False
    options: dict[str, Any] = {}
    if kind == "DICOM":
        needless = [
            f"--{name}"
            for name in ("fs", "units", "leads", "layout", "trim_zeros")
            if getattr(given, name)
        ]
        if needless:
            raise ECGError(
                f"{', '.join(needless)}: DICOM files say themselves what they hold; leave it out"
            )
    else:
        if given.fs is None:
            raise ECGError(
                f"--fs is missing: {kind} files do not say at how many Hz they were sampled"
            )
        options = {"fs": given.fs, "units": given.units or "mV"} | (
            {"trim_zeros": True} if given.trim_zeros else {}
        )
        print(f"{given.fs:g} Hz, {options['units']}{'' if given.units else ' (assumed; --units)'}")
    if kind in ARRAYS:
        many, how = _understand(folder, files, given)
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
    readers: dict[str, Any] = {"DICOM": read_dicom, "CSV": read_csv}
    source = Source(
        folder,
        items,
        functools.partial(readers.get(kind, read_array), **options),
        "data_preparation/import_arrays.py",
        options | ({"assume": True} if given.assume else {}),
        given.lead_names,
        skipped,
    )
    _look(source, given, kind)
    return source


def find_input(path: Path) -> tuple[Path, str, list[str]]:
    """Return the folder of --input, the kind of its files and their names, relative to it."""
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise ECGError(f"--input {path}: its ending is none of {', '.join(KINDS)}")
        return path.parent, KINDS[path.suffix.lower()], [path.name]
    if not path.is_dir():
        raise ECGError(f"--input {path}: there is no such file or folder")
    by_kind: dict[str, list[str]] = {}
    for name in find_files(path, (*KINDS, *map(str.upper, KINDS))):
        by_kind.setdefault(KINDS[name[name.rindex(".") :].lower()], []).append(name)
    if len(by_kind) > 1 and "CSV" in by_kind:
        print(
            "CSV files beside the others, taken for tables and not for recordings: "
            f"{len(by_kind.pop('CSV'))}"
        )
    if len(by_kind) != 1:
        raise ECGError(
            f"--input {path}: "
            + (
                f"files of several kinds ({', '.join(by_kind)}); move them apart"
                if by_kind
                else f"no file with ending {', '.join(KINDS)}"
            )
        )
    return path, *by_kind.popitem()


def _doubt_table(path, lead_names):
    """An ECGError for a CSV file whose first line names no lead: it will be a table of labels."""
    names = [name.strip() for name in csv_header(path)[0]]
    if not any(standard_lead(name) or name.lower() in lead_names for name in names):
        raise ECGError(
            f"{path}: its first line names no lead "
            f"({', '.join(map(printable, names[:4])) or 'it is empty'}), so it is no recording. "
            "Say by --lead_names which lead a name stands for; a table of labels goes to "
            "reformat_memmap.py --labels"
        )


def _understand(folder, files, given):
    """Whether files hold many recordings each, and {leads, layout, dataset}, from the first that
    leaves no doubt.  No layout, where it is not given, of several files: they may differ.
    """
    leads, doubt = given.leads or LEADS, None
    for name in files:
        try:
            array = open_array(folder / name, given.dataset)
            many, axis = _shape(array, leads, given.layout)
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
    options = {"leads": leads, "layout": given.layout, "dataset": given.dataset}
    if len(files) == 1:
        options["layout"] = LAYOUTS[axis]
    return many, {name: value for name, value in options.items() if value}


def _shape(array, leads, layout):
    """(whether an array has many recordings, the axis of its leads, see ``lead_axis``)."""
    many = (
        len(array.shape) == 3 or len(array.shape) == 2 and len(leads) == 1 and 1 not in array.shape
    )
    if many and array.interleaved:
        raise RecordError(
            "its recordings lie interleaved (Fortran order): save numpy.ascontiguousarray(array)"
        )
    return many, lead_axis(array.shape[1:] if many else array.shape, leads, layout)


def _one_each(files, database):
    """Items of files with one recording each, named by their file names, and rows of
    skipped.csv.
    """
    usable, skipped = [], []
    for name in files:
        try:
            check_name(Path(name).stem, "file name")
            usable.append(name)
        except RecordError as error:
            skipped.append(Item(Path(name).stem, database, name).about | {"reason": str(error)})
    items, duplicates = without_duplicates(
        Lazy(len(usable), lambda n: Item(Path(usable[n]).stem, database, usable[n]))
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
            if not _shape(array, options["leads"], options.get("layout"))[0]:
                raise RecordError(
                    f"shape {array.shape} is that of one recording, others hold many: move it away"
                )
            stem = database if len(files) == 1 else database_name(Path(name).stem)
            of_file = _names_of(array, given.ids, stem) if listed is None else listed[name]
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


def _names_of(array, dataset, stem):
    """Names of an array's recordings: a dataset beside it, or their places."""
    beside = getattr(array, "names", ())
    if dataset is None and "exam_id" not in beside:
        return Lazy(array.shape[0], lambda row: f"{stem}-{row}")
    if not beside:
        raise RecordError(f"--ids {dataset} is no .csv file, and an .npy file has no datasets")
    names = array.column(dataset or "exam_id")
    if len(names) != array.shape[0]:
        raise RecordError(
            f"{len(names)} values in {dataset or 'exam_id'} for {array.shape[0]} recordings"
        )
    return names


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


def _look(source, given, kind):
    """Print the usual amplitude of some recordings; an ECGError where unit or leads are in
    doubt and were not said.
    """
    spans, grams, named = [], [], None
    for item in source.items[:: -(-len(source.items) // LOOKED_AT)]:
        try:
            recording = checked(
                source.read(source.folder / item.file, item.row, lambda path: None),
                lead_names=source.lead_names,
            )
        except (RecordError, OSError):
            continue  # it will be counted with its reason
        spans.append(np.median(np.ptp(recording.signal, axis=0)))
        named = named or recording.leads
        if set(LIMB) <= set(recording.leads) and recording.leads == named:
            matrix = gram(recording.signal)
            grams.append(matrix / max(np.trace(matrix), 1e-12))
    if spans:
        _look_at_amplitude(float(np.median(spans)), len(spans), given, kind)
    if grams and not given.assume:
        _look_at_leads(np.mean(grams, axis=0), named, given, kind)


def _look_at_amplitude(typical, number, given, kind):
    print(f"peak to peak {typical:.3g} mV, the median of {number} recordings looked at")
    low, high = USUAL_MV
    if low <= typical <= high:
        return
    if given.units or kind == "DICOM" or POSSIBLE_MV[0] <= typical <= POSSIBLE_MV[1]:
        print(f"warning: an ECG has {low:g} to {high:g} mV from peak to peak; is --units right?")
        return
    likely = [
        unit for unit, factor in (("uV", 1e-3), ("V", 1e3)) if low <= typical * factor <= high
    ]
    raise ECGError(
        f"peak to peak {typical:.3g} mV, if the samples are millivolts: no ECG has that (usual are "
        f"{low:g} to {high:g} mV); say --units {likely[0] if likely else 'uV or --units V'}, or "
        "--units mV if it is right"
    )


def _look_at_leads(matrix, leads, given, kind):
    """An ECGError where the limb leads follow from one another in another order, or with a sign
    turned; a warning where they do not at all.
    """
    limb = [leads.index(lead) for lead in LIMB]
    if relations_hold(matrix, limb):
        return
    go_on = "or --assume to go on as it is"
    turned = turned_lead(matrix, limb)
    if turned is not None:
        raise ECGError(
            f"the sign of lead {LIMB[turned]} is turned: the limb leads follow from one another "
            f"(III = II - I, aVR = -(I + II) / 2, ...) only with the other; mend it, {go_on}"
        )
    likely = likely_limb(matrix)
    if likely is None:
        print(
            "warning: the limb leads do not follow from one another (III = II - I, aVR = -(I + II) "
            "/ 2, ...); are the leads in this order, of one unit and sign?"
        )
        return
    chest = iter([lead for lead in leads if lead not in LIMB])
    places = dict(zip(likely, LIMB))
    true = dict(zip(leads, [places.get(n) or next(chest) for n in range(len(leads))]))
    order = [true.get(lead, lead) for lead in given.leads or leads]
    cure = f"--leads {','.join(order)}" if kind in ARRAYS else "the leads' names, mended"
    raise ECGError(
        "the leads are not in this order: III = II - I, aVR = -(I + II) / 2 and the like hold if "
        f"they are {' '.join(order)}; give {cure}, {go_on}"
    )
