"""WFDB recordings -> resampled shards.  First of the two steps from downloaded databases to a
store.

    python data_preparation/data_extraction_without_preprocessing.py
    python data_preparation/data_extraction_without_preprocessing.py --input_dir my_ecgs \\
        --target_fs 100 --workers 8

Every .hea under the input folder, at any depth, is read; its leads are put in standard order by
name, and each is resampled from itself (FFT).  Nothing is filtered.  A recording with fewer than
the twelve leads is kept with those it has; a lead under another name is kept where --lead_names
says which it is, in PhysioNet 2017's recordings by

    --lead_names ECG=I

The output folder holds

    shards/         the signals, int16, one count = 1 microvolt unless a record needs more range
    records.csv     what was kept, one row a record
    skipped.csv     what was left out, with the reason
    extraction.json written last: the next step, reformat_memmap.py, starts from it

A run that was killed resumes where it stopped when the same command is given again; of a changed
input only the shards that hold changed, new or removed records are made again.  Exit status 75:
some records could not be read this time (a stale file handle, out of memory, a missing package);
the same command tries them again.  Exit status 2: none was kept.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.importing.flags import parse_import
from data_preparation.places import DOWNLOADS
from util.files import file_errors
from util.flags import Parser
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--input_dir", default=DOWNLOADS, help="folder with the databases (default: %(default)s)"
    )
    args = parse_import(parser, argv)

    from data_preparation.importing.report import run_import
    from data_preparation.importing.wfdb_source import wfdb_source

    shortest = max(args.min_seconds, args.segment_seconds or 0)
    with file_errors():
        source = wfdb_source(
            args.input_dir,
            min_seconds=shortest,
            lead_names=dict(args.lead_names),
            assume=args.assume,
            database=args.database,
        )
        return run_import(source, args)


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
