"""Recordings in arrays -> resampled shards: .npy, HDF5, CSV or DICOM instead of WFDB.

    python data_preparation/import_arrays.py --input ecgs.npy --fs 500
    python data_preparation/reformat_memmap.py

Writes what data_extraction_without_preprocessing.py writes, into the same folder and by the same
checks (finite, plausible amplitude, flat leads, long enough); records.csv, skipped.csv and the
restart are described there.

--input is one .npy or HDF5 file of many recordings: (records, leads, time) or (records, time,
    leads) a folder of .npy, .h5/.hdf5, .csv or .dcm files, at any depth, each with one recording
    or with many as above

A CSV file is one recording, its first line the leads' names.  DICOM (needs pydicom) says itself
what --fs, --units, --leads and --layout say of the others.  What can be inferred without doubt
is, and is printed; the rest must be said.

Examples:
    own array of 8 leads in microvolts, names in ids.csv (column record, in the array's order)
        --input mine.npy --fs 1000 --units uV --leads I,II,V1,V2,V3,V4,V5,V6 --ids ids.csv
    CODE-15 %: the folder with exams_part0.hdf5 ... exams_part17.hdf5; records are named by
        exam_id --input code15 --fs 400 --database code15 --trim_zeros
    SPH: a file a record
        --input sph/records --fs 500 --database sph
"""

import argparse
import bisect
import functools
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.importing.array_readers import (
    LAYOUTS,
    csv_header,
    lead_axis,
    open_array,
    read_array,
    read_csv,
)
from data_preparation.importing.shards import (
    Item,
    Lazy,
    Source,
    database_name,
    run_import,
    without_duplicates,
)
from util.data.record_tables import read_text
from util.errors import ECGError, RecordError
from util.files import find_files
from util.leads import LEADS, standard_lead
from util.recordings.dicom import read_dicom
from util.recordings.recording import MAX_FS, MIN_FS, check_name, checked, printable

KINDS = {".npy": "npy", ".h5": "HDF5", ".hdf5": "HDF5", ".dcm": "DICOM", ".csv": "CSV"}
ARRAYS = ("npy", "HDF5")
USUAL_MV = (0.1, 20.0)  # peak to peak, the median of recordings: outside, the unit is in doubt


# -------------------------------------------------------------------------------- plan
def array_source(args) -> Source:
    """What the command line names; prints how it is understood."""
    folder, kind, files = find_input(Path(args.input))
    name = Path(args.input).resolve()
    database = args.database or database_name(name.stem if name.is_file() else name.name)
    many, options = False, {}
    if kind == "DICOM":
        given = [
            f"--{name}"
            for name in ("fs", "units", "leads", "layout", "trim_zeros")
            if getattr(args, name)
        ]
        if given:
            raise ECGError(
                f"{', '.join(given)}: DICOM files say themselves what they hold; leave it out"
            )
    else:
        if args.fs is None:
            raise ECGError(
                f"--fs is missing: {kind} files do not say at how many Hz they were sampled"
            )
        options = {"fs": args.fs, "units": args.units or "mV"} | (
            {"trim_zeros": True} if args.trim_zeros else {}
        )
        print(f"{args.fs:g} Hz, {options['units']}{'' if args.units else ' (assumed; --units)'}")
    if kind in ARRAYS:
        many, how = _understand(folder, files, args)
        options |= how
    if kind == "CSV" and len(files) == 1:
        _doubt_table(folder / files[0], dict(args.lead_names))
    if args.ids and not many:
        raise ECGError(
            "--ids names the recordings of an array of many; a file of one is named by its file "
            "name"
        )
    items, skipped = (
        _rows(folder, files, database, args, options) if many else _one_each(files, database)
    )
    read = read_dicom if kind == "DICOM" else read_csv if kind == "CSV" else read_array
    source = Source(
        folder,
        items,
        functools.partial(read, **options),
        "data_preparation/import_arrays.py",
        options,
        dict(args.lead_names),
        skipped,
    )
    _look(source)
    return source


def find_input(given):
    """(folder, kind, names of its files relative to it) of --input."""
    if given.is_file():
        if given.suffix.lower() not in KINDS:
            raise ECGError(f"--input {given}: its ending is none of {', '.join(KINDS)}")
        return given.parent, KINDS[given.suffix.lower()], [given.name]
    if not given.is_dir():
        raise ECGError(f"--input {given}: there is no such file or folder")
    by_kind = {}
    for name in find_files(given, (*KINDS, *map(str.upper, KINDS))):
        by_kind.setdefault(KINDS[name[name.rindex(".") :].lower()], []).append(name)
    if len(by_kind) > 1 and "CSV" in by_kind:
        print(
            "CSV files beside the others, taken for tables and not for recordings: "
            f"{len(by_kind.pop('CSV'))}"
        )
    if len(by_kind) != 1:
        raise ECGError(
            f"--input {given}: "
            + (
                f"files of several kinds ({', '.join(by_kind)}); move them apart"
                if by_kind
                else f"no file with ending {', '.join(KINDS)}"
            )
        )
    return given, *by_kind.popitem()


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


def _understand(folder, files, args):
    """Whether files hold many recordings each, and {leads, layout, dataset}, from the first that
    leaves no doubt.
    """
    leads, doubt = args.leads or LEADS, None
    for name in files:
        try:
            array = open_array(folder / name, args.dataset)
            many, axis = _shape(array, leads, args.layout)
            break
        except RecordError as error:
            doubt = doubt or f"{name}: {error}"
    else:
        raise ECGError(doubt)
    if array.dtype.kind == "i" and not args.units:
        raise ECGError(f"{name} holds whole numbers ({array.dtype}): say --units uV or --units mV")
    print(
        f"{name}: {array.dtype} of shape {array.shape}, "
        f"{'a recording a row' if many else 'one recording'}, read as "
        f"{LAYOUTS[axis]}{'' if args.layout else ' (inferred)'}; leads "
        f"{' '.join(leads)}{'' if args.leads else ' (assumed; --leads)'}"
    )
    return many, {"leads": leads, "layout": LAYOUTS[axis]} | (
        {"dataset": args.dataset} if args.dataset else {}
    )


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


def _rows(folder, files, database, args, options):
    """Items of files with many recordings each, named by --ids, by the dataset exam_id, or by
    their place.
    """
    given = _read_ids(args.ids, files) if args.ids and args.ids.endswith(".csv") else None
    names, ends = (
        [],
        [],
    )  # of each file: names of its recordings, and how many there are with those before
    for name in files:
        try:
            array = open_array(folder / name, args.dataset)
            if not _shape(array, options["leads"], options["layout"])[0]:
                raise RecordError(
                    f"shape {array.shape} is that of one recording, others hold many: move it away"
                )
            stem = database if len(files) == 1 else database_name(Path(name).stem)
            own = _own_names(array, args.ids, stem) if given is None else given[name]
            if len(own) != array.shape[0]:
                raise RecordError(
                    f"--ids {args.ids} names {len(own)} recordings of it, it holds "
                    f"{array.shape[0]}: one line a recording, in the order of the array"
                )
            for record in own:
                check_name(record, "record name")
        except RecordError as error:
            raise ECGError(f"{name}: {error}") from None
        names.append(own)
        ends.append(len(own) + (ends[-1] if ends else 0))

    def item(place):
        file = bisect.bisect_right(ends, place)
        row = place - (ends[file - 1] if file else 0)
        return Item(names[file][row], database, files[file], row)

    kept, duplicates = without_duplicates(Lazy(ends[-1], item))
    if duplicates or not kept:
        raise ECGError(
            f"--input {args.input}: "
            + (
                f"{duplicates[0]['record']} is the name of two recordings; every one needs its own"
                if duplicates
                else "no recording in it"
            )
        )
    return kept, []


def _own_names(array, dataset, stem):
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
    own = table["file"].str.strip() if "file" in table else files[0]
    names = {name: [] for name in files}
    for record, name in zip(table["record"], np.broadcast_to(own, len(table))):
        if name not in names:
            raise ECGError(
                f"--ids {path}: there is no file {name!r} in the input; it has "
                f"{', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"
            )
        names[name].append(record)
    return names


def _look(source):
    """Print the usual amplitude of some recordings, and doubt the unit where it is none of an
    ECG.
    """
    spans = []
    for item in source.items[:: max(1, len(source.items) // 16)]:
        try:
            recording = checked(
                source.read(source.folder / item.file, item.row, lambda path: None),
                lead_names=source.lead_names,
            )
            spans.append(np.median(np.ptp(recording.signal, axis=0)))
        except (RecordError, OSError):
            continue  # it will be counted with its reason
    if spans:
        typical = float(np.median(spans))
        print(f"peak to peak {typical:.3g} mV, the median of {len(spans)} recordings looked at")
        if not USUAL_MV[0] <= typical <= USUAL_MV[1]:
            print(
                f"warning: an ECG has {USUAL_MV[0]:g} to {USUAL_MV[1]:g} mV from peak to peak; "
                "is "
                "--units right?"
            )


# -------------------------------------------------------------------------------- the command
# line
def _leads(text):
    """Lead names separated by commas, in standard spelling; "-" stands for a column that is no
    lead.
    """
    names = [name.strip() for name in text.split(",")]
    leads = tuple("-" if name == "-" else standard_lead(name) for name in names)
    if None in leads:
        raise argparse.ArgumentTypeError(
            f"{names[leads.index(None)]!r} is none of {' '.join(LEADS)}, nor - for a column to "
            "leave out"
        )
    twice = [lead for lead in leads if lead != "-" and leads.count(lead) > 1]
    if twice or set(leads) == {"-"}:
        raise argparse.ArgumentTypeError(
            f"{twice[0]} is named twice" if twice else "no lead is left"
        )
    return leads


def _fs(text):
    value = float(text)
    if not MIN_FS <= value <= MAX_FS:
        raise argparse.ArgumentTypeError(f"{text} Hz is not from {MIN_FS:g} to {MAX_FS:g}")
    return value


def _database(text):
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits, _ . and -")
    return text


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", required=True, metavar="PATH", help="a file or a folder, see above"
    )
    parser.add_argument("--fs", type=_fs, metavar="HZ", help="sampling rate of the arrays")
    parser.add_argument(
        "--leads",
        type=_leads,
        metavar="I,II,...",
        help="in the array's order; - for a column to leave out, --leads=-,I if it is the first "
        f"(default: {','.join(LEADS)})",
    )
    parser.add_argument(
        "--units", choices=("mV", "uV"), help="default: mV; whole numbers need to be told"
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="which of the last two axes comes first (default: the axis "
        "with as many places as leads is theirs, if only one has)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="of an HDF5 file (default: tracings, ecg, or the only array)",
    )
    parser.add_argument(
        "--ids",
        metavar="FILE.csv|DATASET",
        help="names of the recordings: a CSV file with a column "
        "record, in the array's order, and of several arrays a column file, or an HDF5 dataset "
        "(default: exam_id if there is one, else <database>-<index>, with several files "
        "<file>-<index>)",
    )
    parser.add_argument(
        "--trim_zeros",
        action="store_true",
        help="cut off zeros at both ends of a recording, where every lead is 0",
    )
    parser.add_argument(
        "--database", type=_database, metavar="NAME", help="default: the name of --input"
    )
    return run_import(parser, argv, array_source)


if __name__ == "__main__":
    sys.exit(main())
