"""An import as a command: what came of it, in words and as an exit status."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_preparation.building.metadata import read_metadata
from data_preparation.importing.shards import import_recordings
from data_preparation.importing.sources import Source
from util.errors import ECGError
from util.files import safe_cell

AGAIN = 75  # exit status (EX_TEMPFAIL): the same command would find more


def run_import(source: Source, args: argparse.Namespace) -> int:
    """Import a source, print what came of it and return the exit status.

    Args:
        source: what to import.
        args: the command line, see ``flags.parse_import``.

    Raises:
        ECGError: nothing could be imported, or no recording was kept.
    """
    about = None
    if args.metadata:
        about = read_metadata(
            Path(args.metadata), source.items, id_column=args.id_column, columns=args.columns
        )
    totals, skipped, unread = import_recordings(
        source,
        args.output_dir,
        args.target_fs,
        args.workers,
        min_seconds=args.min_seconds,
        segment_seconds=args.segment_seconds,
        about=about,
    )
    print(summary(totals, skipped))
    total: Counter[str] = sum(totals.values(), Counter())
    print(
        f"{total['flagged']} kept records carry a remark: see the column flags of "
        f"{args.output_dir}/records.csv"
    )
    if total["fewer_leads"]:
        print(
            f"{total['fewer_leads']} kept records have fewer than twelve leads: see the column "
            "leads there"
        )
    for reason, count in Counter(row["reason"].partition(":")[0] for row in skipped).most_common():
        print(f"{count} skipped: {safe_cell(reason)}")
    print(f"every skipped record with its reason: {args.output_dir}/skipped.csv")
    if unread:
        print(
            f"records not read this time: {unread}; the same command tries again", file=sys.stderr
        )
        return AGAIN
    if not total["kept"]:
        flag = (
            "--segment_seconds"
            if (args.segment_seconds or 0) > args.min_seconds
            else "--min_seconds"
        )
        short = all(row["reason"].startswith("shorter than the minimum length") for row in skipped)
        raise ECGError(
            f"no recording was kept, of {safe_cell(skipped[0]['path'])} because: "
            f"{safe_cell(skipped[0]['reason'])}" + f"; all are too short: lower {flag}" * short
        )
    return 0


def summary(totals: Mapping[str, Counter], skipped: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of found, kept, skipped, hours and scored records by database, as text."""
    left_out = Counter(row["database"] for row in skipped)
    lines = [f"{'database':<24}{'found':>8}{'kept':>8}{'skipped':>9}{'hours':>10}{'scored':>8}"]
    rows = [(name, totals[name], left_out[name]) for name in sorted({*totals, *left_out})]
    for name, total, number in [*rows, ("all", sum(totals.values(), Counter()), len(skipped))]:
        lines.append(
            f"{name:<24}{total['found']:>8}{total['kept']:>8}{number:>9}"
            f"{total['seconds'] / 3600:>10.2f}{total['scored']:>8}"
        )
    return "\n".join(lines)
