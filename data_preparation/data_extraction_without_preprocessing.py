"""WFDB recordings -> resampled shards.  First of the two steps from downloaded databases to a store.

    python data_preparation/data_extraction_without_preprocessing.py
    python data_preparation/data_extraction_without_preprocessing.py --input_dir my_ecgs --target_fs 100 --workers 8

Every .hea under the input folder, at any depth, is read; its leads are put in standard order by name, and each is
resampled from itself (FFT).  Nothing is filtered.  A recording with fewer than the twelve leads is kept with those it
has; a lead under another name is kept where --lead_names says which it is, in PhysioNet 2017's recordings by

    --lead_names ECG=I

The output folder holds

    shards/         the signals, int16, one count = 1 microvolt unless a record needs more range
    records.csv     what was kept, one row a record
    skipped.csv     what was left out, with the reason
    extraction.json written last: the next step, reformat_memmap.py, starts from it

A run that was killed resumes where it stopped when the same command is given again; of a changed input only the
shards that hold changed, new or removed records are made again.  Exit status 75: some records could not be read
this time (a stale file handle, out of memory); the same command tries them again.
"""
import argparse
import contextlib
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
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.challenge import CODE_TO_CLASS
from util.errors import ECGError, RecordError
from util.files import FolderLock, remove_temporary, replacing
from util.leads import add_lead_names, lead_cell
from util.store import quantise, safe_cell, spread, write_json, write_table
from util.wfdb_io import find_headers, flat_leads, read_header, read_signal, resample_to

INPUT_DIR = "./data_folder/datasets"
OUTPUT_DIR = "./data_folder/extracted_data_without_preprocessing"
SHARD_VERSION = 2               # 1 left out recordings with fewer than twelve leads
SHARD_RECORDS = 64              # on average; at most twice as many
MIN_SECONDS = 2.0
PATIENCE = 5                    # seconds to wait for an earlier run into the same folder to end
AGAIN = 75                      # exit status (EX_TEMPFAIL): the same command would find more
# The six databases of the Challenge, by every folder name under which they are published, without case and signs.
DATABASES = {
    "cpsc_2018": ("cpsc2018", "icbeb2018", "physionetchallenge2020trainingcpsc"),
    "cpsc_2018_extra": ("cpsc2018extra", "cpsc20182", "icbeb20182", "physionetchallenge2020training2"),
    "st_petersburg_incart": ("stpetersburgincart", "stpetersburg", "incart",
                             "physionetchallenge2020trainingstpetersburg"),
    "ptb": ("ptb", "physionetchallenge2020trainingptb"),
    "ptb-xl": ("ptbxl", "physionetchallenge2020trainingptbxl"),
    "georgia": ("georgia", "ga", "physionetchallenge2020traininge"),
}
_BY_ALIAS = {alias: name for name, aliases in DATABASES.items() for alias in aliases}


def database_of(relative_path, input_name):
    """Database of a record: the first folder above it that is one of the Challenge's; else the top folder
    ("training" and the Challenge's g1, g2, ... do not count), or the input folder's own name."""
    folders = relative_path.split("/")[:-1]
    for folder in [*folders, input_name]:
        known = _BY_ALIAS.get(re.sub(r"[^a-z0-9]", "", folder.lower().removeprefix("wfdb_")))
        if known:
            return known
    own = [name for name in folders if not re.fullmatch(r"training|g[0-9]+", name.lower())]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", own[0] if own else input_name).lstrip("-.") or "unnamed"


# -------------------------------------------------------------------------------- plan

def plan_shards(input_dir, target_fs, min_seconds, segment_seconds=None, lead_names=None):
    """Shards, dicts with name, paths, databases and settings; and the duplicates, rows for skipped.csv.

    A shard ends where a record's path hashes to a multiple of SHARD_RECORDS: a new record changes one shard alone.
    """
    input_dir = Path(input_dir)
    if not input_dir.is_dir():
        raise ECGError(f"no folder {input_dir}: put the databases there or name another with --input_dir")
    paths = [path.relative_to(input_dir).as_posix() for path in find_headers(input_dir)]
    if not paths:
        raise ECGError(f"no .hea file under {input_dir}: put WFDB recordings there or name another --input_dir")
    shards, duplicates, first, name = [[]], [], {}, input_dir.resolve().name
    for path in paths:
        record = Path(path).stem
        if first.setdefault(record, path) != path:
            duplicates.append({"record": record, "database": database_of(path, name), "path": path,
                               "reason": f"duplicate record name: the first is {first[record]}"})
            continue
        shards[-1].append(path)
        if len(shards[-1]) == 2 * SHARD_RECORDS or zlib.crc32(os.fsencode(path)) % SHARD_RECORDS == 0:
            shards.append([])
    settings = {"version": SHARD_VERSION, "target_fs": target_fs, "min_seconds": min_seconds}
    if segment_seconds:
        settings |= {"min_seconds": max(min_seconds, segment_seconds), "segment_seconds": segment_seconds}
    if lead_names:
        settings["lead_names"] = lead_names
    shards = [{"paths": paths, "databases": [database_of(path, name) for path in paths], "settings": settings}
              for paths in shards if paths]
    for shard in shards:
        shard["name"] = hashlib.sha256(json.dumps(shard).encode()).hexdigest()[:20]
    return shards, duplicates


def shard_files(folder, shard):
    """(json file, {fs: signal file}) of a shard."""
    return (folder / f"{shard['name']}.json",
            {fs: folder / f"{shard['name']}-fs{fs}.dat" for fs in shard["settings"]["target_fs"]})


def is_finished(folder, shard, input_dir):
    """Whether a shard is complete and its input files are what they were."""
    table_file, signal_files = shard_files(folder, shard)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or not ours
        table = json.loads(table_file.read_text("utf-8"))
        sizes = {str(fs): file.stat().st_size for fs, file in signal_files.items()}
        return not table.get("unread") and table["bytes"] == sizes and \
            all(_file_state(input_dir, path) == state for path, state in table["inputs"].items())
    return False


def _file_state(input_dir, path):
    """Size and time of change of an input file; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(Path(input_dir) / path)
        return [status.st_size, status.st_mtime_ns]


# -------------------------------------------------------------------------------- one shard

def extract_shard(shard, input_dir, folder):
    """Read, resample and write the records of one shard; returns how many it had.  The signal files take their
    places first and the table last: a shard with a table is complete."""
    table_file, signal_files = shard_files(folder, shard)
    table = {"inputs": {}, "records": [], "skipped": []}
    with contextlib.ExitStack() as stack:
        outputs = {fs: stack.enter_context(replacing(file)) for fs, file in signal_files.items()}
        for path, database in zip(shard["paths"], shard["databases"]):
            row = {"record": Path(path).stem, "database": database, "path": path}
            try:
                pieces = _extract_record(Path(input_dir), path, shard["settings"], table["inputs"])
            except RecordError as error:
                table["skipped"].append(row | {"reason": str(error)})
                continue
            except (OSError, MemoryError) as error:     # may pass; the files themselves can be sound
                reason = getattr(error, "strerror", None) or "out of memory"
                table.setdefault("unread", []).append(row | {"reason": f"not read this time: {reason}"})
                continue
            except Exception as error:  # a record nobody has foreseen must not end a run over all the others
                table["skipped"].append(row | {"reason": f"unexpected failure: {type(error).__name__}: {error}"})
                continue
            for piece, counts in pieces:
                table["records" if counts else "skipped"].append(row | piece)
                for fs, count in counts.items():
                    outputs[fs].write(count.data)
        table["bytes"] = {str(fs): file.tell() for fs, file in outputs.items()}
    write_json(table_file, table)
    return len(shard["paths"])


def _extract_record(input_dir, path, settings, inputs):
    """[(row, counts by rate)] of a record or of its pieces, no counts but a reason for unusable ones; the files
    that it depends on are noted in ``inputs``."""
    inputs[path] = _file_state(input_dir, path)
    header = read_header(input_dir / path)
    for file in header.signal_files:
        file = file.relative_to(input_dir).as_posix()
        inputs[file] = _file_state(input_dir, file)
    recording = read_signal(header, settings["min_seconds"], settings.get("lead_names"))
    about = {"leads": lead_cell(recording.leads), "fs_original": header.fs,
             "age": None if math.isnan(header.age) else header.age, "sex": header.sex, "dx": header.dx}
    samples, seconds = len(recording.signal), settings.get("segment_seconds")
    size = int(seconds * header.fs) if seconds else samples
    number, rest = divmod(samples, size)
    pieces = []
    for n in range(number):
        signal = recording.signal[n * size:(n + 1) * size]
        named = about | {"record": f"{header.record}_{n + 1}" if number > 1 else header.record}
        try:
            flags = recording.remarks + flat_leads(signal.min(0), signal.max(0), recording.leads)
        except RecordError as error:
            pieces.append(({"reason": f"piece {n + 1}: {error}"}, {}))
            continue
        if rest and n == number - 1:
            flags += (f"the last {rest / header.fs:.3g} s of the recording are left out",)
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
    return about | {"n_original": len(signal), "flags": "; ".join(flags), "scale_uv": scales,
                    "length": {str(fs): len(count) for fs, count in counts.items()}}, counts


# -------------------------------------------------------------------------------- the run

def _start_worker():
    """A worker leaves Ctrl-C to the main process and ends when the main process is gone, however that died."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_shards(shards, input_dir, folder, workers, progress):
    """Extract shards, in this process (workers 1) or in several."""
    if workers == 1:
        for shard in shards:
            progress.update(extract_shard(shard, input_dir, folder))
        return
    pool = ProcessPoolExecutor(min(workers, len(shards)), multiprocessing.get_context("spawn"), _start_worker)
    try:
        jobs = [pool.submit(extract_shard, shard, input_dir, folder) for shard in shards]
        for job in as_completed(jobs):
            progress.update(job.result())
    except BrokenProcessPool:
        raise ECGError("a worker process was killed, perhaps for want of memory; the same command resumes where it "
                       "stopped, --workers 1 needs least") from None
    finally:
        pool.shutdown(cancel_futures=True)


def extract(input_dir, output_dir, target_fs, workers, min_seconds=MIN_SECONDS, segment_seconds=None,
            lead_names=None):
    """Extract every record under ``input_dir``; with ``segment_seconds`` in pieces of so many seconds.

    Returns:
        {database: Counter of found, kept, seconds, scored, flagged}; rows of skipped.csv; how many of these
        were not read this time.
    """
    output_dir, shard_dir = Path(output_dir), Path(output_dir) / "shards"
    shards, skipped = plan_shards(input_dir, target_fs, min_seconds, segment_seconds, lead_names)
    with FolderLock(output_dir, PATIENCE):
        remove_temporary(output_dir)
        shard_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "extraction.json").unlink(missing_ok=True)    # from here on the folder is incomplete
        todo = [shard for shard in shards if not is_finished(shard_dir, shard, input_dir)]
        total = sum(len(shard["paths"]) for shard in shards)
        done = total - sum(len(shard["paths"]) for shard in todo)
        with tqdm(total=total, initial=done, unit="record", desc="extracting") as progress:
            if todo:
                run_shards(todo, input_dir, shard_dir, workers, progress)
        _remove_leftovers(shard_dir, shards)
        found = Counter(row["database"] for row in skipped)
        found.update(database for shard in shards for database in shard["databases"])
        totals = defaultdict(Counter, {database: Counter(found=count) for database, count in found.items()})
        write_table(output_dir / "records.csv", RECORD_COLUMNS, _finish(shard_dir, shards, totals, skipped))
        unread = sum(row["reason"].startswith("not read this time") for row in skipped)
        skipped.sort(key=lambda row: row["path"])
        write_table(output_dir / "skipped.csv", ("record", "path", "reason"), skipped)
        write_json(output_dir / "extraction.json", shards[0]["settings"] | {
            "unread": unread, "shards": [shard["name"] for shard in shards]})
    return totals, skipped, unread


RECORD_COLUMNS = ("record", "database", "path", "fs_original", "seconds", "age", "sex", "dx", "leads", "flags")


def _finish(shard_dir, shards, totals, skipped):
    """Rows of records.csv, one shard's table in memory at a time; adds to ``totals`` and ``skipped`` on the way."""
    seen = {}
    for shard in shards:
        table = json.loads(shard_files(shard_dir, shard)[0].read_text("utf-8"))
        skipped += table["skipped"] + table.get("unread", [])
        for row in table["records"]:
            if row["record"] in seen:
                raise ECGError(f"{row['path']} and a piece of {seen[row['record']]} would both be called "
                               f"{row['record']}; rename one of the two files")
            seen[row["record"]] = row["path"]
            seconds = row["n_original"] / row["fs_original"]
            totals[row["database"]].update(kept=1, seconds=seconds, flagged=bool(row["flags"]),
                                           fewer_leads=bool(row["leads"]),
                                           scored=any(code in CODE_TO_CLASS for code in row["dx"]))
            yield row | {"seconds": f"{seconds:g}", "fs_original": f"{row['fs_original']:g}",
                         "age": "" if row["age"] is None else f"{row['age']:g}", "dx": " ".join(row["dx"])}


def _remove_leftovers(folder, shards):
    """Delete what earlier runs left behind: unfinished files, shards of other inputs or settings."""
    places = [shard_files(folder, shard) for shard in shards]
    wanted = {file for table_file, signal_files in places for file in (table_file, *signal_files.values())}
    for file in folder.iterdir():
        if file not in wanted and re.fullmatch(r"[.]?[0-9a-f]{20}(-fs[0-9]+)?\..+", file.name):
            file.unlink()


def summary(totals, skipped):
    """Table of found, kept, skipped, hours and scored records by database, as text."""
    out = Counter(row["database"] for row in skipped)
    lines = [f"{'database':<24}{'found':>8}{'kept':>8}{'skipped':>9}{'hours':>10}{'scored':>8}"]
    rows = [(name, totals[name], out[name]) for name in sorted({*totals, *out})]
    for name, total, n_out in [*rows, ("all", sum(totals.values(), Counter()), len(skipped))]:
        lines.append(f"{name:<24}{total['found']:>8}{total['kept']:>8}{n_out:>9}"
                     f"{total['seconds'] / 3600:>10.2f}{total['scored']:>8}")
    return "\n".join(lines)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", default=INPUT_DIR, help="folder with the databases (default: %(default)s)")
    parser.add_argument("--output_dir", default=OUTPUT_DIR, help="default: %(default)s")
    parser.add_argument("--target_fs", type=int, nargs="+", default=[100, 250], metavar="HZ",
                        help="sampling rates to make; CNNs use 100, ST-MEM 250 (default: 100 250)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, metavar="N",
                        help="processes with one record each in memory (default: %(default)s, your cores)")
    parser.add_argument("--min_seconds", type=float, default=MIN_SECONDS, metavar="S",
                        help="shorter records are skipped (default: %(default)s)")
    parser.add_argument("--segment_seconds", type=float, metavar="S",
                        help="cut records into pieces of S seconds, each a record <record>_<n> of the store, and skip "
                        "shorter ones; ST-MEM's published preparation has 10 (default: records stay whole)")
    add_lead_names(parser)
    args = parser.parse_args(argv)
    if args.workers < 1 or not all(20 <= fs <= 10_000 for fs in args.target_fs) or not args.min_seconds >= 0 \
            or not 1 <= (args.segment_seconds or 1) < math.inf:
        parser.error("--workers must be at least 1, --target_fs 20 to 10000 Hz, --min_seconds at least 0, "
                     "--segment_seconds at least 1")
    args.target_fs = sorted(set(args.target_fs))
    return args


def main(argv=None):
    args = parse_arguments(argv)
    try:
        totals, skipped, unread = extract(args.input_dir, args.output_dir, args.target_fs, args.workers,
                                          args.min_seconds, args.segment_seconds, dict(args.lead_names))
    except (ECGError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 130
    print(summary(totals, skipped))
    flagged = sum(total["flagged"] for total in totals.values())
    print(f"{flagged} kept records carry a remark: see the column flags of {args.output_dir}/records.csv")
    fewer = sum(total["fewer_leads"] for total in totals.values())
    if fewer:
        print(f"{fewer} kept records have fewer than twelve leads: see the column leads there")
    for reason, count in Counter(row["reason"].partition(":")[0] for row in skipped).most_common():
        print(f"{count} skipped: {safe_cell(reason)}")
    print(f"every skipped record with its reason: {args.output_dir}/skipped.csv")
    if unread:
        print(f"records not read this time: {unread}; the same command tries again", file=sys.stderr)
    return AGAIN if unread else 0


if __name__ == "__main__":
    sys.exit(main())
