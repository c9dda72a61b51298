"""The engine of every import: recordings -> checked, resampled, written in shards that a killed
run resumes from.

An import is a list of items and a reader.  An Item names one recording and where it lies; the
reader is one function

    read(file, row, note) -> Recording

that reads it: ``file`` is the item's file (a Path), ``row`` its place in a file of many
recordings (None where it has the file to itself), and ``note(path)`` must be told of every other
file that the recording depends on before that is opened.  A RecordError says why a recording
cannot be used: it goes to skipped.csv.  An OSError or a MemoryError may be gone next time.  The
reader is sent to worker processes, so it is a function of a module, perhaps in functools.partial.

All that follows is the same for every format: leads by name, checks, resampling, flags, shards,
tables, restart. Items are made when they are asked for, see ``Lazy``: what an import holds in
memory hardly grows with their number.
"""

import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import os
import re
import signal as signals
import sys
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from util.challenge import CODE_TO_CLASS
from util.data.store import quantise, spread
from util.errors import ECGError, RecordError
from util.files import FolderLock, remove_temporary, replacing, safe_cell, write_json, write_table
from util.leads import add_lead_names, lead_cell
from util.recordings.recording import Recording, checked, flat_leads, resample_to

OUTPUT_DIR = "./data_folder/extracted_data_without_preprocessing"
SHARD_VERSION = 2  # 1 left out recordings with fewer than twelve leads
SHARD_RECORDS = 64  # on average; at most twice as many
MIN_SECONDS = 2.0
PATIENCE = 5  # seconds to wait for an earlier run into the same folder to end
AGAIN = 75  # exit status (EX_TEMPFAIL): the same command would find more
RECORD_COLUMNS = (
    "record",
    "database",
    "path",
    "fs_original",
    "seconds",
    "age",
    "sex",
    "dx",
    "leads",
    "flags",
)


class Item(NamedTuple):
    """One recording: its name, unlike all others; its database; its file, relative to the input
    folder (POSIX); and its row in that file, None where it is the file's only one.
    """

    record: str
    database: str
    file: str
    row: int | None = None

    @property
    def path(self):
        """Where it came from, for tables: the file, and behind it the record's name where the
        file has many.
        """
        return self.file if self.row is None else f"{self.file}/{self.record}"

    @property
    def about(self):
        """Its cells in tables."""
        return {"record": self.record, "database": self.database, "path": self.path}


class Lazy(Sequence):
    """A sequence of ``number`` things, ``make(place)`` each, made when it is asked for: it takes
    no memory.
    """

    def __init__(self, number, make):
        self.number, self.make = number, make

    def __len__(self):
        return self.number

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self.make(one) for one in range(self.number)[place]]
        return self.make(range(self.number)[place])


@dataclass(frozen=True)
class Source:
    """What to import.

    Attributes:
        folder: what the items' files are relative to.
        items: in the order of the store; a list, or ``Lazy`` where they are many.
        read: the reader, see above.
        options: plain values by flag that the recordings depend on besides the files; where one
            changes, all is made again.  They stand in the store's ``meta.json``, so they name no
            path of this machine.
        program: the script, for the command in ``meta.json``.
        lead_names: {name in lower case: the lead it stands for}.
        skipped: rows of skipped.csv that the plan left out.
    """

    folder: Path
    items: Sequence[Item]
    read: Callable[[Path, int | None, Callable], Recording]
    program: str
    options: dict = field(default_factory=dict)
    lead_names: dict = field(default_factory=dict)
    skipped: list[dict] = field(default_factory=list)


def database_name(text):
    """A name for a database, of letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip("-.") or "unnamed"


def without_duplicates(items):
    """(items whose name no earlier one has, rows of skipped.csv for the others) of a sequence of
    items.
    """
    twice = repeated(lambda: (item.record for item in items))
    if not twice:
        return items, []
    kept, duplicates, first = [], [], {}
    for place, item in enumerate(items):
        if item.record in first:
            duplicates.append(
                item.about
                | {"reason": f"duplicate record name: the first is {first[item.record].path}"}
            )
        else:
            kept.append(place)
            if item.record in twice:
                first[item.record] = item
    return Lazy(len(kept), lambda place: items[kept[place]]), duplicates


def repeated(names):
    """The names that come more than once, a set; ``names()`` starts to iterate over them.  Of
    each name some 10 bytes are in memory, whatever its length: a number that hardly two names
    share.
    """
    hashes = np.fromiter(map(hash, names()), np.int64)
    hashes.sort()
    doubtful = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    counts = Counter(name for name in names() if hash(name) in doubtful) if doubtful else {}
    return {name for name, count in counts.items() if count > 1}


# -------------------------------------------------------------------------------- plan


def plan_shards(source, target_fs, min_seconds, segment_seconds=None):
    """Shards: dicts with name, settings, and the places start to stop - 1 of their items in the
    source.

    A shard ends where an item's path hashes to a multiple of SHARD_RECORDS: a new record changes
    one shard alone.
    """
    settings = {"version": SHARD_VERSION, "target_fs": target_fs, "min_seconds": min_seconds}
    if segment_seconds:
        settings |= {
            "min_seconds": max(min_seconds, segment_seconds),
            "segment_seconds": segment_seconds,
        }
    settings |= {
        name: value
        for name, value in [("lead_names", source.lead_names), ("options", source.options)]
        if value
    }
    shards, items = [], []
    for stop, item in enumerate(source.items, 1):
        items.append(item)
        if (
            stop == len(source.items)
            or len(items) == 2 * SHARD_RECORDS
            or zlib.crc32(os.fsencode(item.path)) % SHARD_RECORDS == 0
        ):
            about = json.dumps({"items": items, "settings": settings})
            shards.append(
                {
                    "name": hashlib.sha256(about.encode()).hexdigest()[:20],
                    "settings": settings,
                    "start": stop - len(items),
                    "stop": stop,
                }
            )
            items = []
    return shards


def command_line(source, settings):
    """The command that made the shards, without paths, for the store's ``meta.json``."""
    flags = {
        "target_fs": " ".join(map(str, settings["target_fs"])),
        "min_seconds": f"{settings['min_seconds']:g}",
    }
    if "segment_seconds" in settings:
        flags["segment_seconds"] = f"{settings['segment_seconds']:g}"
    if source.lead_names:
        flags["lead_names"] = " ".join(f"{name}={lead}" for name, lead in source.lead_names.items())
    return " ".join(
        ["python", source.program, *(_flag(*item) for item in {**source.options, **flags}.items())]
    )


def _flag(name, value):
    """A flag of the command line, as one types it."""
    if value is True:
        return f"--{name}"
    text = (
        f"{value:g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else ",".join(value)
    )
    return f"--{name} {text}"


def shard_files(folder, shard):
    """(json file, {fs: signal file}) of a shard."""
    return (
        folder / f"{shard['name']}.json",
        {fs: folder / f"{shard['name']}-fs{fs}.dat" for fs in shard["settings"]["target_fs"]},
    )


def is_finished(folder, shard, input_dir):
    """Whether a shard is complete and its input files are what they were."""
    table_file, signal_files = shard_files(folder, shard)
    with contextlib.suppress(
        OSError, ValueError, LookupError, TypeError, AttributeError
    ):  # none, or not ours
        table = json.loads(table_file.read_text("utf-8"))
        sizes = {str(fs): file.stat().st_size for fs, file in signal_files.items()}
        return (
            not table.get("unread")
            and table["bytes"] == sizes
            and all(
                _file_state(input_dir, path) == state for path, state in table["inputs"].items()
            )
        )
    return False


def _file_state(input_dir, path):
    """Size and time of change of an input file; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(Path(input_dir) / path)
        return [status.st_size, status.st_mtime_ns]


# -------------------------------------------------------------------------------- one shard


def extract_shard(shard, items, input_dir, read, folder):
    """Read, resample and write the records of one shard, its items; returns how many it had.  The
    signal files take their places first and the table last: a shard with a table is complete.
    """
    table_file, signal_files = shard_files(folder, shard)
    table = {"inputs": {}, "records": [], "skipped": []}
    with contextlib.ExitStack() as stack:
        outputs = {fs: stack.enter_context(replacing(file)) for fs, file in signal_files.items()}
        for item in items:
            try:
                pieces = _extract_record(input_dir, item, read, shard["settings"], table["inputs"])
            except RecordError as error:
                table["skipped"].append(item.about | {"reason": str(error)})
                continue
            except (OSError, MemoryError) as error:  # may pass; the files themselves can be sound
                reason = getattr(error, "strerror", None) or "out of memory"
                table.setdefault("unread", []).append(
                    item.about | {"reason": f"not read this time: {reason}"}
                )
                continue
            except (
                Exception
            ) as error:  # a record nobody has foreseen must not end a run over all the others
                table["skipped"].append(
                    item.about | {"reason": f"unexpected failure: {type(error).__name__}: {error}"}
                )
                continue
            for piece, counts in pieces:
                table["records" if counts else "skipped"].append(item.about | piece)
                for fs, count in counts.items():
                    outputs[fs].write(count.data)
        table["bytes"] = {str(fs): file.tell() for fs, file in outputs.items()}
    write_json(table_file, table)
    return len(items)


def _note(inputs, input_dir, path):
    """Remember the state of an input file before it is first read for this shard."""
    name = Path(path).relative_to(input_dir).as_posix()
    if name not in inputs:
        inputs[name] = _file_state(input_dir, name)


def _extract_record(input_dir, item, read, settings, inputs):
    """[(row, counts by rate)] of a record or of its pieces, no counts but a reason for unusable
    ones; the files that it depends on are noted in ``inputs``.
    """
    note = functools.partial(_note, inputs, input_dir)
    note(input_dir / item.file)
    recording = checked(
        read(input_dir / item.file, item.row, note),
        settings["min_seconds"],
        settings.get("lead_names"),
    )
    about = {
        "leads": lead_cell(recording.leads),
        "fs_original": recording.fs,
        "age": None if math.isnan(recording.age) else recording.age,
        "sex": recording.sex,
        "dx": recording.dx,
    }
    samples, seconds = len(recording.signal), settings.get("segment_seconds")
    size = int(seconds * recording.fs) if seconds else samples
    number, rest = divmod(samples, size)
    pieces = []
    for n in range(number):
        signal = recording.signal[n * size : (n + 1) * size]
        named = about | (
            {"record": f"{item.record}_{n + 1}", "recording": item.record} if number > 1 else {}
        )
        try:
            flags = recording.flags + flat_leads(signal, recording.leads)
        except RecordError as error:
            pieces.append(({"reason": f"piece {n + 1}: {error}"}, {}))
            continue
        if rest and n == number - 1:
            flags += (f"the last {rest / recording.fs:.3g} s of the recording are left out",)
        pieces.append(_stored(signal, recording.leads, named, flags, settings))
    return pieces


def _stored(signal, leads, about, flags, settings):
    """(row, counts by rate) of a signal, float32 (n, leads) in mV."""
    counts, scales, fs_original = {}, {}, about["fs_original"]
    for fs, resampled in resample_to(signal, fs_original, settings["target_fs"]).items():
        own, scales[str(fs)] = quantise(resampled)
        counts[fs] = spread(own, leads)
    if max(scales.values()) > 1:
        flags += (f"peak {np.abs(signal).max():.1f} mV",)
    return about | {
        "n_original": len(signal),
        "flags": "; ".join(flags),
        "scale_uv": scales,
        "length": {str(fs): len(count) for fs, count in counts.items()},
    }, counts


# -------------------------------------------------------------------------------- the run


def _start_worker():
    """A worker leaves Ctrl-C to the main process and ends when the main process is gone, however
    that died.
    """
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_shards(shards, source, folder, workers, progress):
    """Extract shards, in this process (workers 1) or in several."""
    work = (
        (shard, source.items[shard["start"] : shard["stop"]], source.folder, source.read, folder)
        for shard in shards
    )
    if workers == 1:
        for arguments in work:
            progress.update(extract_shard(*arguments))
        return
    pool = ProcessPoolExecutor(
        min(workers, len(shards)), multiprocessing.get_context("spawn"), _start_worker
    )
    try:
        jobs = {pool.submit(extract_shard, *arguments) for arguments in islice(work, 2 * workers)}
        while jobs:
            done, jobs = wait(jobs, return_when=FIRST_COMPLETED)
            jobs |= {
                pool.submit(extract_shard, *arguments) for arguments in islice(work, len(done))
            }
            for job in done:
                progress.update(job.result())
    except BrokenProcessPool:
        raise ECGError(
            "a worker process was killed, perhaps for want of memory; the same command resumes "
            "where it stopped, --workers 1 needs least"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def import_recordings(
    source, output_dir, target_fs, workers, min_seconds=MIN_SECONDS, segment_seconds=None
):
    """Import every item of a source; with ``segment_seconds`` in pieces of so many seconds.

    Returns:
        {database: Counter of found, kept, seconds, scored, flagged, fewer_leads}; rows of
        skipped.csv; how many of these were not read this time.

    Raises:
        ECGError: nothing to import, or the folder holds another import; it is left as it was.
    """
    output_dir, shard_dir = Path(output_dir), Path(output_dir) / "shards"
    if not source.items:
        raise ECGError(f"no recording to import from {source.folder}")
    shards, skipped = (
        plan_shards(source, target_fs, min_seconds, segment_seconds),
        list(source.skipped),
    )
    with FolderLock(output_dir, PATIENCE):
        remove_temporary(output_dir)
        shard_dir.mkdir(parents=True, exist_ok=True)
        _look_at_replaced(shard_dir, shards, source.items)
        (output_dir / "extraction.json").unlink(
            missing_ok=True
        )  # from here on the folder is incomplete
        todo = [shard for shard in shards if not is_finished(shard_dir, shard, source.folder)]
        total = len(source.items)
        done = total - sum(shard["stop"] - shard["start"] for shard in todo)
        with tqdm(total=total, initial=done, unit="record", desc="extracting") as progress:
            if todo:
                run_shards(todo, source, shard_dir, workers, progress)
        _remove_leftovers(shard_dir, shards)
        found = Counter(row["database"] for row in skipped)
        found.update(item.database for item in source.items)
        totals = defaultdict(
            Counter, {database: Counter(found=count) for database, count in found.items()}
        )
        write_table(
            output_dir / "records.csv", RECORD_COLUMNS, _finish(shard_dir, shards, totals, skipped)
        )
        unread = sum(row["reason"].startswith("not read this time") for row in skipped)
        skipped.sort(key=lambda row: row["path"])
        write_table(output_dir / "skipped.csv", ("record", "path", "reason"), skipped)
        settings = shards[0]["settings"]
        write_json(
            output_dir / "extraction.json",
            settings
            | {
                "command": command_line(source, settings),
                "unread": unread,
                "shards": [shard["name"] for shard in shards],
            },
        )
    return totals, skipped, unread


def _finish(shard_dir, shards, totals, skipped):
    """Rows of records.csv, one shard's table in memory at a time; adds to ``totals`` and
    ``skipped`` on the way.
    """
    tables = Lazy(
        len(shards), lambda n: json.loads(shard_files(shard_dir, shards[n])[0].read_text("utf-8"))
    )
    if (
        "segment_seconds" in shards[0]["settings"]
    ):  # whole recordings have names of their own by the plan
        twice = repeated(lambda: (row["record"] for table in tables for row in table["records"]))
        if twice:
            name = min(twice)
            other, path = [
                row["path"] for table in tables for row in table["records"] if row["record"] == name
            ][:2]
            raise ECGError(
                f"{path} and a piece of {other} would both be called {name}; rename one of the "
                "two "
                "files"
            )
    for table in tables:
        skipped += table["skipped"] + table.get("unread", [])
        for row in table["records"]:
            seconds = row["n_original"] / row["fs_original"]
            totals[row["database"]].update(
                kept=1,
                seconds=seconds,
                flagged=bool(row["flags"]),
                fewer_leads=bool(row["leads"]),
                scored=any(code in CODE_TO_CLASS for code in row["dx"]),
            )
            yield row | {
                "seconds": f"{seconds:g}",
                "fs_original": f"{row['fs_original']:g}",
                "age": "" if row["age"] is None else f"{row['age']:g}",
                "dx": " ".join(row["dx"]),
            }


def _look_at_replaced(folder, shards, items):
    """Say how many recordings of finished shards are none of ``items``; an ECGError where all of
    them are not: they are of another import, whose shards this one would delete.
    """
    planned = {shard["name"] for shard in shards}
    there = sorted(
        file for file in folder.glob("*.json") if re.fullmatch("[0-9a-f]{20}", file.stem)
    )
    leftovers = [file for file in there if file.stem not in planned]

    def names():
        for file in leftovers:
            with contextlib.suppress(
                OSError, ValueError, LookupError, TypeError
            ):  # not ours, or damaged
                rows = json.loads(file.read_text("utf-8"))["records"]
                yield from [row.get("recording", row["record"]) for row in rows]

    had = np.unique(np.fromiter(map(hash, names()), np.int64))  # as in ``repeated``
    gone = (
        set(np.setdiff1d(had, np.fromiter((hash(item.record) for item in items), np.int64)))
        if len(had)
        else ()
    )
    if not gone:
        return
    one = next(name for name in names() if hash(name) in gone)
    if len(gone) == len(had) and len(leftovers) == len(there):
        raise ECGError(
            f"{folder.parent} holds {len(had)} recordings of another import, such as "
            f"{safe_cell(one)}, none of which is in this input; choose another --output_dir, or "
            "delete that folder"
        )
    print(
        f"{len(gone)} recordings of an earlier import, such as {safe_cell(one)}, are no longer "
        "in "
        f"the input and are taken out of {folder.parent}"
    )


def _remove_leftovers(folder, shards):
    """Delete what earlier runs left behind: unfinished files, shards of other inputs or
    settings.
    """
    names = {shard["name"] for shard in shards}
    wanted = {".json", *(f"-fs{fs}.dat" for fs in shards[0]["settings"]["target_fs"])}
    with os.scandir(folder) as files:
        for file in files:
            ours = re.fullmatch(r"([.]?[0-9a-f]{20})((-fs[0-9]+)?\..+)", file.name)
            if ours and not (ours[1] in names and ours[2] in wanted):
                os.unlink(file)


# -------------------------------------------------------------------------------- the command
# line


def run_import(parser, argv, make_source) -> int:
    """Import what ``make_source(args)`` finds, print what came of it, and return the exit status;
    ``parser`` has the flags of one format, those of all are added.
    """
    args = _parse(parser, argv)
    try:
        totals, skipped, unread = import_recordings(
            make_source(args),
            args.output_dir,
            args.target_fs,
            args.workers,
            args.min_seconds,
            args.segment_seconds,
        )
    except (ECGError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 130
    print(summary(totals, skipped))
    total = sum(totals.values(), Counter())
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
        print(
            f"error: no recording was kept, of {safe_cell(skipped[0]['path'])} because: "
            f"{safe_cell(skipped[0]['reason'])}" + f"; all are too short: lower {flag}" * short,
            file=sys.stderr,
        )
        return 2
    return 0


def _parse(parser, argv):
    """The command line with the flags that every import has, which are checked."""
    parser.add_argument("--output_dir", default=OUTPUT_DIR, help="default: %(default)s")
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
        help="processes with one record each in memory (default: %(default)s, your cores)",
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
    add_lead_names(parser)
    args = parser.parse_args(argv)
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
    args.target_fs = sorted(set(args.target_fs))
    return args


def summary(totals, skipped):
    """Table of found, kept, skipped, hours and scored records by database, as text."""
    out = Counter(row["database"] for row in skipped)
    lines = [f"{'database':<24}{'found':>8}{'kept':>8}{'skipped':>9}{'hours':>10}{'scored':>8}"]
    rows = [(name, totals[name], out[name]) for name in sorted({*totals, *out})]
    for name, total, n_out in [*rows, ("all", sum(totals.values(), Counter()), len(skipped))]:
        lines.append(
            f"{name:<24}{total['found']:>8}{total['kept']:>8}{n_out:>9}"
            f"{total['seconds'] / 3600:>10.2f}{total['scored']:>8}"
        )
    return "\n".join(lines)
