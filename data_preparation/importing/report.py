"""An import as a command: what came of it, in words and as an exit status."""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_preparation.importing.shards import UNREAD, import_recordings
from data_preparation.importing.sources import COPY, Source
from data_preparation.metadata.files import read_metadata
from util.errors import ECGError, RecordError
from util.files import safe_cell
from util.leads import LEADS
from util.recordings.derived_leads import DERIVED
from util.recordings.plausible import Looks, judge
from util.recordings.recording import checked, flat_leads

LOOKED_AT = 100  # recordings, before an import begins
MOST_SAMPLES = 36_000_000  # of these: a hundred minutes of twelve leads at 500 Hz
MOST_KINDS = 8  # of remarks, in what is printed
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
    overruled = look(source)
    totals, skipped, unread = import_recordings(
        source,
        args.output_dir,
        args.target_fs,
        args.workers,
        min_seconds=args.min_seconds,
        segment_seconds=args.segment_seconds,
        derive=not args.no_derive,
        trim=args.trim,
        about=about,
    )
    print(summary(totals, skipped))
    total: Counter[str] = sum(totals.values(), Counter())
    remarks = _remarks(Path(args.output_dir) / "records.csv")
    assumed = [kind for kind in remarks if kind.endswith("assumed")]
    left_out = [kind for kind in remarks if "left out" in kind]
    others = [kind for kind in remarks if kind not in assumed and kind not in left_out]
    _print_block(
        "assumed, as nobody said otherwise:", [*source.assumed, *_counted(remarks, assumed)]
    )
    _print_block("gone on with all the same (--assume):", overruled)
    trimmed = (
        f"{total['trimmed_seconds']:.3g} s of zeros or NaN at the ends of {total['trimmed']} "
        "recordings (--trim)"
    )
    _print_block(
        "left out:",
        [
            *(f"{count} skipped: {safe_cell(reason)}" for reason, count in _reasons(skipped)),
            *source.left_out,
            *_lost_copies(skipped),
            *([trimmed] if total["trimmed"] else []),
            *_counted(remarks, left_out),
        ],
    )
    kept = f"{total['flagged']} kept records carry a remark: see the column flags of "
    _print_block(f"{kept}{args.output_dir}/records.csv", _counted(remarks, others))
    if total["fewer_leads"]:
        print(
            f"{total['fewer_leads']} kept records have fewer than twelve leads: see the column "
            "leads there"
        )
    if total["patients"]:
        print(
            f"{total['patients']} kept records name their patient in their file: those of one "
            "share a fold, and the ids go into the store; a table of patients takes their place"
        )
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
            f"{safe_cell(skipped[0]['reason'])}"
            + f"; all are too short: lower {flag}, unless the sampling rate is wrong"
            * short
        )
    return 0


def look(source: Source) -> list[str]:
    """Look at some recordings of a source before it is imported, and say what is seen.

    Returns:
        The doubts that --assume overrules.

    Raises:
        ECGError: unit, sampling rate, order or sign of the leads cannot be what was said.
    """
    looks, samples = Looks(), 0
    for item in source.items[:: -(-len(source.items) // LOOKED_AT) or 1]:
        try:
            recording = checked(
                source.read(source.folder / item.file, item.row, lambda path: None),
                lead_names=source.lead_names,
                trim=True,
            )
            flat_leads(recording.signal, recording.leads)
        except ECGError as error:
            if not isinstance(error, RecordError):
                raise
            continue  # it will be counted with its reason
        except Exception:
            continue
        looks.add(item.record, item.database, recording)
        samples += recording.signal.size
        if samples > MOST_SAMPLES:
            break
    return judge(looks, source.told)


def _print_block(title: str, sentences: Sequence[str]) -> None:
    if sentences:
        print("\n  ".join([title, *sentences]))


def _reasons(skipped: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Reasons without their details, the most common first; the rarest together."""
    kinds = Counter(_reason(row["reason"]) for row in skipped).most_common()
    rest = sum(count for _, count in kinds[MOST_KINDS:])
    return kinds[:MOST_KINDS] + [("for other reasons", rest)] * (rest > 0)


def _reason(text: str) -> str:
    """A reason without its details: names in it, and what follows a colon."""
    kind, _, detail = text.partition(":")
    if kind == UNREAD:
        return f"{kind}:{detail.partition(':')[0]}"
    return re.sub(r"^(unsafe (file|record) name) .*", r"\1", kind)


def _lost_copies(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on copies of recordings that themselves could not be kept: of them nothing is."""
    paths = {row["path"] for row in skipped}
    lost = [
        (row["path"], better)
        for row in skipped
        for kind, _, better in [row["reason"].partition(": ")]
        if kind == COPY and better in paths
    ]
    if not lost:
        return []
    path, better = lost[0]
    return [
        f"{len(lost)} of these copies are of recordings that were skipped themselves, such as "
        f"{path} of {better}: import the folder of the copies by itself, and join the two"
    ]


def _remarks(path: Path) -> Counter[str]:
    """How many records of a records.csv carry each kind of remark."""
    kinds: Counter[str] = Counter()
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            flags = [_kind(flag) for flag in row["flags"].split("; ") if flag]
            kinds.update(list(dict.fromkeys(flags)))
    return kinds


def _kind(flag: str) -> str:
    """A remark without names of leads, numbers and what follows a colon."""
    if DERIVED in flag:
        return "limb leads that follow from two others (--no_derive keeps them absent)"
    if flag.endswith("assumed") or flag.startswith(("left out", "other waveforms left out")):
        return flag
    text = flag.partition(":")[0]
    text = re.sub(r"(?<![\w.])[0-9.]+(e[+-]?[0-9]+)?(?!\w)", "...", text)
    return re.sub(rf"\b({'|'.join(LEADS)})\b(, )?", "", text).strip()


def _counted(remarks: Counter[str], kinds: Sequence[str]) -> list[str]:
    """Sentences on some kinds of remarks, the most common first."""
    counts = Counter({kind: remarks[kind] for kind in kinds}).most_common()
    sentences = [f"{count} with the remark: {kind}" for kind, count in counts[:MOST_KINDS]]
    more = len(counts) - MOST_KINDS
    return sentences + [f"and {more} other remarks"] * (more > 0)


def summary(totals: Mapping[str, Counter], skipped: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of found, kept, skipped, hours and scored records by database, as text.

    The last column is there where records have diagnoses by code.
    """
    left_out = Counter(row["database"] for row in skipped)
    coded = any(total["diagnosed"] for total in totals.values())
    head = f"{'database':<24}{'found':>8}{'kept':>8}{'skipped':>9}{'hours':>10}"
    lines = [head + f"{'scored':>8}" * coded]
    rows = [(name, totals[name], left_out[name]) for name in sorted({*totals, *left_out})]
    for name, total, number in [*rows, ("all", sum(totals.values(), Counter()), len(skipped))]:
        lines.append(
            f"{name:<24}{total['found']:>8}{total['kept']:>8}{number:>9}"
            f"{total['seconds'] / 3600:>10.2f}" + f"{total['scored']:>8}" * coded
        )
    return "\n".join(lines)
