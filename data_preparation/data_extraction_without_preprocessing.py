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
some records could not be read this time (a stale file handle, out of memory); the same command
tries them again.  Exit status 2: none was kept.
"""

import argparse
import functools
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.importing.shards import (
    MIN_SECONDS,
    Item,
    Lazy,
    Source,
    database_name,
    import_recordings,
    run_import,
    without_duplicates,
)
from util.errors import ECGError
from util.files import find_files
from util.recordings.wfdb_files import read_header, read_signal

INPUT_DIR = "./data_folder/datasets"
# The six databases of the Challenge, by every folder name under which they are published, without
# case and signs.
DATABASES = {
    "cpsc_2018": ("cpsc2018", "icbeb2018", "physionetchallenge2020trainingcpsc"),
    "cpsc_2018_extra": (
        "cpsc2018extra",
        "cpsc20182",
        "icbeb20182",
        "physionetchallenge2020training2",
    ),
    "st_petersburg_incart": (
        "stpetersburgincart",
        "stpetersburg",
        "incart",
        "physionetchallenge2020trainingstpetersburg",
    ),
    "ptb": ("ptb", "physionetchallenge2020trainingptb"),
    "ptb-xl": ("ptbxl", "physionetchallenge2020trainingptbxl"),
    "georgia": ("georgia", "ga", "physionetchallenge2020traininge"),
}
_BY_ALIAS = {alias: name for name, aliases in DATABASES.items() for alias in aliases}


def database_of(relative_path, input_name):
    """Database of a record: the first folder above it that is one of the Challenge's; else the
    top folder ("training" and the Challenge's g1, g2, ... do not count), or the input folder's
    own name.
    """
    folders = relative_path.split("/")[:-1]
    for folder in [*folders, input_name]:
        known = _BY_ALIAS.get(re.sub(r"[^a-z0-9]", "", folder.lower().removeprefix("wfdb_")))
        if known:
            return known
    own = [name for name in folders if not re.fullmatch(r"training|g[0-9]+", name.lower())]
    return database_name(own[0] if own else input_name)


def read_wfdb(path, row, note, min_seconds=0.0):
    """The reader of WFDB recordings, see data_preparation/importing/shards.py; ``path`` is a .hea
    file.
    """
    header = read_header(path)
    for file in header.signal_files:
        note(file)
    return read_signal(header, min_seconds)


def wfdb_source(input_dir, min_seconds=MIN_SECONDS, lead_names=None) -> Source:
    """All WFDB recordings under a folder; an ECGError if there is none."""
    input_dir = Path(input_dir)
    if not input_dir.is_dir():
        raise ECGError(
            f"no folder {input_dir}: put the databases there or name another with --input_dir"
        )
    paths = find_files(input_dir, ".hea")
    if not paths:
        raise ECGError(
            f"no .hea file under {input_dir}: put WFDB recordings there or name another --input_dir"
        )
    name = input_dir.resolve().name
    items, duplicates = without_duplicates(
        Lazy(len(paths), lambda n: Item(Path(paths[n]).stem, database_of(paths[n], name), paths[n]))
    )
    return Source(
        input_dir,
        items,
        functools.partial(read_wfdb, min_seconds=min_seconds),
        "data_preparation/data_extraction_without_preprocessing.py",
        lead_names=dict(lead_names or {}),
        skipped=duplicates,
    )


def extract(
    input_dir,
    output_dir,
    target_fs,
    workers,
    min_seconds=MIN_SECONDS,
    segment_seconds=None,
    lead_names=None,
):
    """``import_recordings`` of every recording under ``input_dir``."""
    source = wfdb_source(input_dir, max(min_seconds, segment_seconds or 0), lead_names)
    return import_recordings(source, output_dir, target_fs, workers, min_seconds, segment_seconds)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input_dir", default=INPUT_DIR, help="folder with the databases (default: %(default)s)"
    )
    return run_import(
        parser,
        argv,
        lambda args: wfdb_source(
            args.input_dir, max(args.min_seconds, args.segment_seconds or 0), args.lead_names
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
