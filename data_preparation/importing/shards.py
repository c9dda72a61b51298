"""The engine of every import: recordings -> checked, resampled, written in shards that a killed
run resumes from.

What is here is the same for every format: leads by name, checks, resampling, flags, shards,
tables, restart.  ``sources.py`` says what is imported.
"""

import contextlib
import functools
import json
import math
import multiprocessing
import os
import re
import signal as signals
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data_preparation.importing.flags import MIN_SECONDS
from data_preparation.importing.plan import (
    command_line,
    file_state,
    is_finished,
    plan_shards,
    shard_files,
)
from data_preparation.importing.sources import Item, Lazy, Reader, Source, repeated, without_copies
from data_preparation.metadata.about import About
from util.challenge import CODE_TO_CLASS
from util.console import progress_bar
from util.data.store import quantise, spread
from util.errors import ECGError, MissingPackage, RecordError
from util.files import FolderLock, remove_temporary, replacing, safe_cell, write_json, write_table
from util.leads import lead_cell
from util.recordings.derived_leads import with_derived_leads
from util.recordings.recording import checked, flat_leads, resample_to

UNREAD = "not read this time"  # a reason that may pass
PATIENCE = 5  # seconds to wait for an earlier run into the same folder to end
# Seconds of one process's work above which workers, who import everything anew, are started.
ALONE = 5.0
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


class TooSlow(Exception):
    """A shard is left to other processes."""


class Imported(NamedTuple):
    """What came of an import.

    Attributes:
        totals: {database: Counter of found, kept, seconds, scored, diagnosed, flagged,
            fewer_leads, patients, trimmed and trimmed_seconds}.
        skipped: rows of skipped.csv.
        unread: how many of these were not read this time.
    """

    totals: dict[str, Counter]
    skipped: list[dict]
    unread: int


# ============ the run ============
def import_recordings(
    source: Source,
    output_dir: str | os.PathLike,
    target_fs: list[int],
    workers: int,
    *,
    min_seconds: float = MIN_SECONDS,
    segment_seconds: float | None = None,
    derive: bool = True,
    trim: bool = False,
    about: About | None = None,
) -> Imported:
    """Import every item of a source.

    Args:
        source: what to import.
        output_dir: where shards and tables go.
        target_fs: sampling rates to make, in Hz.
        workers: number of processes; 1 is this one.
        min_seconds: shorter recordings are skipped.
        segment_seconds: length of the pieces to cut; None keeps recordings whole.
        derive: whether limb leads that follow from two others are added.
        trim: whether to cut off both ends of a recording, where every lead is 0 or NaN.
        about: what the set's own table says of the recordings.

    Raises:
        ECGError: nothing to import, or the folder holds another import; it is left as it was.
    """
    output_dir, shard_dir = Path(output_dir), Path(output_dir) / "shards"
    if not source.items:
        raise ECGError(f"no recording to import from {source.folder}")
    source = without_copies(source)
    shards = plan_shards(
        source,
        target_fs,
        min_seconds=min_seconds,
        segment_seconds=segment_seconds,
        derive=derive,
        trim=trim,
    )
    skipped = list(source.skipped)
    with FolderLock(output_dir, PATIENCE):
        remove_temporary(output_dir)
        shard_dir.mkdir(parents=True, exist_ok=True)
        _look_at_replaced(shard_dir, shards, source.items)
        _note_lost_table(output_dir, about)
        # From here on the folder is incomplete.
        (output_dir / "extraction.json").unlink(missing_ok=True)
        todo = [shard for shard in shards if not is_finished(shard_dir, shard, source.folder)]
        total = len(source.items)
        done = total - sum(shard["stop"] - shard["start"] for shard in todo)
        with progress_bar(total=total, initial=done, unit="record", desc="extracting") as progress:
            if todo:
                run_shards(todo, source, shard_dir, workers, progress)
        _remove_leftovers(shard_dir, shards)
        counts = Counter(row["database"] for row in skipped)
        counts.update(item.database for item in source.items)
        totals: dict[str, Counter] = defaultdict(
            Counter, {database: Counter(found=count) for database, count in counts.items()}
        )
        write_table(
            output_dir / "records.csv",
            RECORD_COLUMNS,
            _finish(shard_dir, shards, totals, skipped, about),
        )
        unread = sum(row["reason"].startswith(UNREAD) for row in skipped)
        skipped.sort(key=lambda row: row["path"])
        write_table(output_dir / "skipped.csv", ("record", "path", "reason"), skipped)
        settings = shards[0]["settings"]
        write_json(
            output_dir / "extraction.json",
            settings
            | {
                "command": command_line(source, settings) + (f" {about.flags}" if about else ""),
                "unread": unread,
                "shards": [shard["name"] for shard in shards],
            }
            | ({"about": about.write(output_dir)} if about else {}),
        )
    return Imported(totals, skipped, unread)


def _finish(shard_dir, shards, totals, skipped, about):
    """Rows of records.csv, one shard's table in memory at a time; adds to ``totals`` and
    ``skipped`` on the way.
    """
    tables = Lazy(
        len(shards), lambda n: json.loads(shard_files(shard_dir, shards[n])[0].read_text("utf-8"))
    )
    # Names of whole recordings differ by the plan; a piece may be called like one of them.
    if "segment_seconds" in shards[0]["settings"]:
        twice = repeated(lambda: (row["record"] for table in tables for row in table["records"]))
        if twice:
            name = min(twice)
            other, path = [
                row["path"] for table in tables for row in table["records"] if row["record"] == name
            ][:2]
            raise ECGError(
                f"{path} and a piece of {other} would both be called {name}; rename one of the "
                "two files"
            )
    for table in tables:
        skipped += table["skipped"] + table.get("unread", [])
        for row in map(about.row_of, table["records"]) if about else table["records"]:
            seconds = row["n_original"] / row["fs_original"]
            totals[row["database"]].update(
                kept=1,
                seconds=seconds,
                flagged=bool(row["flags"]),
                fewer_leads=bool(row["leads"]),
                patients="patient" in row,
                scored=any(code in CODE_TO_CLASS for code in row["dx"]),
                diagnosed=bool(row["dx"]),
                trimmed="trimmed" in row,
                trimmed_seconds=row.get("trimmed", 0),
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
            # It may be damaged, or not ours.
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
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
        f"in the input and are taken out of {folder.parent}"
    )


def _note_lost_table(folder, about):
    """Say that an earlier import had --metadata, if it had and this one has not."""
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        before = json.loads((folder / "extraction.json").read_text("utf-8")).get("about")
        if before and not about:
            print(
                f"warning: the earlier import into {folder} had {before['flags']}, this one has "
                "no such table: its ages, patients, folds and labels are no longer there"
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


def run_shards(
    shards: list[dict], source: Source, folder: Path, workers: int, progress: tqdm
) -> None:
    """Extract shards: in this process, and in several where that pays.

    Workers import everything anew.  So this process begins by itself, and leaves the rest to
    workers where it would take longer than ``ALONE``.

    Raises:
        ECGError: a worker was killed.
    """

    def arguments_of(shard: dict) -> tuple:
        items = source.items[shard["start"] : shard["stop"]]
        return shard, items, source.folder, source.read, folder

    began, done = time.monotonic(), 0
    patience = ALONE if workers > 1 and len(shards) > 1 else math.inf
    while done < len(shards):
        deadline = math.inf if done else began + patience
        try:
            progress.update(extract_shard(*arguments_of(shards[done]), deadline))
        except TooSlow:
            break
        done += 1
        if (time.monotonic() - began) / done * (len(shards) - done) > patience:
            break
    if done == len(shards):
        return
    shards = shards[done:]
    work = map(arguments_of, shards)
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


def _start_worker():
    """A worker leaves Ctrl-C to the main process and ends when the main process is gone, however
    that died.
    """
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


# ============ one shard ============
def extract_shard(
    shard: dict,
    items: Sequence[Item],
    input_dir: Path,
    read: Reader,
    folder: Path,
    deadline: float = math.inf,
) -> int:
    """Read, resample and write the items of one shard; return how many it had.

    The signals take their places first and the table last: a shard with a table is complete.

    Raises:
        TooSlow: it is past ``deadline``, of time.monotonic(); nothing is left of the shard.
    """
    table_file, signal_files = shard_files(folder, shard)
    table: dict[str, Any] = {"inputs": {}, "records": [], "skipped": []}
    with contextlib.ExitStack() as stack:
        outputs = {fs: stack.enter_context(replacing(file)) for fs, file in signal_files.items()}
        for item in items:
            if time.monotonic() > deadline:
                raise TooSlow
            try:
                pieces = _extract_record(input_dir, item, read, shard["settings"], table["inputs"])
            except (OSError, MemoryError, MissingPackage) as error:
                # May pass; the files themselves can be sound.
                reason = getattr(error, "strerror", None) or "out of memory"
                if isinstance(error, MissingPackage):
                    reason = str(error)
                table.setdefault("unread", []).append(
                    item.about | {"reason": f"{UNREAD}: {reason}"}
                )
                continue
            except RecordError as error:
                table["skipped"].append(item.about | {"reason": str(error)})
                continue
            except Exception as error:
                # An unforeseen error in one record must not end the run over all the others.
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
    # as Path.relative_to would, in a tenth of the time
    name = os.fspath(path).removeprefix(os.path.join(input_dir, "")).replace(os.sep, "/")
    if name not in inputs:
        inputs[name] = file_state(input_dir, name)


def _extract_record(input_dir, item, read, settings, inputs):
    """[(row, counts by rate)] of a record or of its pieces, no counts but a reason for unusable
    ones; the files that it depends on are noted in ``inputs``.
    """
    note = functools.partial(_note, inputs, input_dir)
    note(input_dir / item.file)
    whole = read(input_dir / item.file, item.row, note)
    recording = checked(
        whole,
        settings["min_seconds"],
        settings.get("lead_names"),
        trim=settings.get("trim", False),
    )
    if settings.get("derive"):
        recording = with_derived_leads(recording)
    about = {
        "leads": lead_cell(recording.leads),
        "fs_original": recording.fs,
        "age": None if math.isnan(recording.age) else recording.age,
        "sex": recording.sex,
        "dx": recording.dx,
    } | ({"patient": recording.patient} if recording.patient else {})
    samples, seconds = len(recording.signal), settings.get("segment_seconds")
    size = int(seconds * recording.fs) if seconds else samples
    number, rest = divmod(samples, size)
    trimmed = (len(whole.signal) - samples) / recording.fs
    pieces: list[tuple[dict, dict]] = []
    for n in range(number):
        signal = recording.signal[n * size : (n + 1) * size]
        named = about | (
            {"record": f"{item.record}_{n + 1}", "recording": item.record} if number > 1 else {}
        )
        if trimmed and not n:
            named["trimmed"] = trimmed
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
    counts: dict[int, np.ndarray] = {}
    scales: dict[str, int] = {}
    fs_original = about["fs_original"]
    for fs, resampled in resample_to(signal, fs_original, settings["target_fs"]).items():
        present, scales[str(fs)] = quantise(resampled)
        counts[fs] = spread(present, leads)
    if max(scales.values()) > 1:
        flags += (f"peak {np.abs(signal).max():.1f} mV",)
    return about | {
        "n_original": len(signal),
        "flags": "; ".join(flags),
        "scale_uv": scales,
        "length": {str(fs): len(count) for fs, count in counts.items()},
    }, counts
