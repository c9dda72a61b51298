"""Recordings in arrays -> resampled shards: .npy, HDF5, CSV, DICOM or hospital exports instead of
WFDB.

    python data_preparation/import_arrays.py --input ecgs.npy --fs 500
    python data_preparation/reformat_memmap.py

Writes what data_extraction_without_preprocessing.py writes, into the same folder and by the same
checks (finite, plausible amplitude, flat leads, long enough); records.csv, skipped.csv and the
restart are described there.

--input is one .npy or HDF5 file of many recordings: (records, leads, time) or (records, time,
    leads) a folder of .npy, .h5/.hdf5, .csv, .dcm, .xml or .edf files, at any depth, each with
    one recording or with many as above

A CSV file is one recording, its first line the leads' names.  DICOM (needs pydicom) and hospital
exports (GE MUSE, Philips and HL7 XML, EDF+; need ecgdatakit) say themselves what --fs, --units,
--leads and --layout say of the others.  What can be inferred without doubt is, and is printed;
the rest must be said.

Examples:
    own array of 8 leads in microvolts, names in ids.csv (column record, in the array's order)
        --input mine.npy --fs 1000 --units uV --leads I,II,V1,V2,V3,V4,V5,V6 --ids ids.csv
    CODE-15 %: the folder with exams_part0.hdf5 ... exams_part17.hdf5; records are named by
        exam_id --input code15 --fs 400 --database code15 --trim
    SPH: a file a record
        --input sph/records --fs 500 --database sph
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.importing.flags import parse_import
from util.files import file_errors
from util.flags import Parser
from util.processes.program import run_main
from util.recordings.flags import add_array_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--input", required=True, metavar="PATH", help="a file or a folder, see above"
    )
    add_array_flags(parser)
    parser.add_argument(
        "--ids",
        metavar="FILE.csv|DATASET",
        help="names of the recordings: a CSV file with a column "
        "record, in the array's order, and of several arrays a column file, or an HDF5 dataset "
        "(default: exam_id if there is one, else <database>-<index>, with several files "
        "<file>-<index>)",
    )
    args = parse_import(parser, argv)

    from data_preparation.importing.array_source import ArrayInput, array_source
    from data_preparation.importing.report import run_import

    names = ("fs", "units", "leads", "layout", "dataset", "ids", "database")
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
