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
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.importing.flags import LAYOUTS, parse_import
from util.files import file_errors
from util.leads import LEADS, standard_lead
from util.processes.program import run_main


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
    from util.recordings.recording import MAX_FS, MIN_FS

    value = float(text)
    if not MIN_FS <= value <= MAX_FS:
        raise argparse.ArgumentTypeError(f"{text} Hz is not from {MIN_FS:g} to {MAX_FS:g}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's docstring."""
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
        "--units",
        choices=("mV", "uV", "V"),
        help="unit of the samples (default: mV; required if they are whole numbers)",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="which of the last two axes comes first (default: the axis "
        "that is as long as there are leads is the leads', if only one is)",
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
        "--assume",
        action="store_true",
        help="go on where the limb leads contradict the order of the leads",
    )
    args = parse_import(parser, argv)

    from data_preparation.importing.array_source import ArrayInput, array_source
    from data_preparation.importing.report import run_import

    names = ("fs", "units", "leads", "layout", "trim_zeros", "dataset", "ids", "database")
    given = ArrayInput(
        Path(args.input),
        lead_names=dict(args.lead_names),
        assume=args.assume,
        **{name: getattr(args, name) for name in names},
    )
    with file_errors():
        return run_import(array_source(given), args)


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
