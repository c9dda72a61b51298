"""The flags that every import has."""

import argparse
import math
import os
import re
from collections.abc import Sequence

from data_preparation.places import EXTRACTED
from util.recordings.flags import add_shared_flags

MIN_SECONDS = 2.0


def parse_import(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of an import, with the flags of one format and those of all.

    Args:
        parser: has the flags of one format.
        argv: the command line; None for that of the process.
    """
    parser.add_argument("--output_dir", default=EXTRACTED, help="default: %(default)s")
    parser.add_argument(
        "--target_fs",
        type=int,
        nargs="+",
        default=[100, 250],
        metavar="HZ",
        help="sampling rates to make; CNNs use 100, ST-MEM 250 (default: 100 250)",
    )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=cores,
        metavar="N",
        help="processes with one record each in memory, started where there is work for them "
        "(default: %(default)s, your cores)",
    )
    parser.add_argument(
        "--min_seconds",
        type=float,
        default=MIN_SECONDS,
        metavar="S",
        help="shorter records are skipped (default: %(default)s)",
    )
    parser.add_argument(
        "--segment_seconds",
        type=float,
        metavar="S",
        help="cut records into pieces of S seconds, each a record <record>_<n> of the store, "
        "and skip "
        "shorter ones; ST-MEM's published preparation has 10 (default: records stay whole)",
    )
    parser.add_argument(
        "--database",
        type=_database,
        metavar="NAME",
        help="name of the recordings' database (default: the known set that folders and files are "
        "called as, else as the folder or file)",
    )
    add_shared_flags(parser)
    parser.add_argument(
        "--metadata",
        metavar="FILE.csv",
        help="the set's own table, a row a recording: age, sex and patient of the recordings, and "
        "a table of splits of its folds; patients stay whole without a further file",
    )
    parser.add_argument(
        "--id_column",
        metavar="NAME",
        help="of --metadata, with the recordings' names (default: record, ecg_id, exam_id, ...)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="of --metadata, those to take; such as are no age, sex, patient or fold become a "
        "table of labels (default: those of age, sex, patient and fold)",
    )
    args = parser.parse_args(argv)
    if (args.id_column or args.columns) and not args.metadata:
        parser.error("--id_column and --columns are those of --metadata: give that, too")
    if (
        args.workers < 1
        or not all(20 <= fs <= 10_000 for fs in args.target_fs)
        or not args.min_seconds >= 0
        or not 1 <= (args.segment_seconds or 1) < math.inf
    ):
        parser.error(
            "--workers must be at least 1, --target_fs 20 to 10000 Hz, --min_seconds at least 0, "
            "--segment_seconds at least 1"
        )
    names = [name for name, _ in args.lead_names]
    if len(set(names)) < len(names):
        parser.error("--lead_names says of one name twice what it stands for; say it once")
    args.target_fs = sorted(set(args.target_fs))
    return args


def _database(text):
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits, _ . and -")
    return text
