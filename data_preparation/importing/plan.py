"""Which records go into which shard of an import, and which shards are finished."""

import contextlib
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from data_preparation.importing.flags import MIN_SECONDS
from data_preparation.importing.sources import Item, Source

SHARD_VERSION = 2  # 1 left out recordings with fewer than twelve leads
SHARD_RECORDS = 64  # on average; at most twice as many


def plan_shards(
    source: Source,
    target_fs: list[int],
    *,
    min_seconds: float = MIN_SECONDS,
    segment_seconds: float | None = None,
    derive: bool = True,
    trim: bool = False,
) -> list[dict]:
    """Return shards: dicts with name, settings, and the places start to stop - 1 of their items.

    A shard ends where an item's path hashes to a multiple of SHARD_RECORDS: a new record changes
    one shard alone.
    """
    settings: dict[str, Any] = {
        "version": SHARD_VERSION,
        "target_fs": target_fs,
        "min_seconds": min_seconds,
    }
    if segment_seconds:
        settings |= {
            "min_seconds": max(min_seconds, segment_seconds),
            "segment_seconds": segment_seconds,
        }
    if derive:
        settings["derive"] = True
    others = {"lead_names": source.lead_names, "options": source.options, "trim": trim}
    settings |= {name: value for name, value in others.items() if value}
    shards: list[dict] = []
    items: list[Item] = []
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


def command_line(source: Source, settings: dict[str, Any]) -> str:
    """Return the command that made the shards, without paths, for the store's ``meta.json``."""
    flags: dict[str, Any] = {
        "target_fs": " ".join(map(str, settings["target_fs"])),
        "min_seconds": f"{settings['min_seconds']:g}",
    }
    if "segment_seconds" in settings:
        flags["segment_seconds"] = f"{settings['segment_seconds']:g}"
    if "derive" not in settings:
        flags["no_derive"] = True
    if settings.get("trim"):
        flags["trim"] = True
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


def shard_files(folder: Path, shard: dict) -> tuple[Path, dict[int, Path]]:
    """Return the table of a shard and {fs: its signals}."""
    return (
        folder / f"{shard['name']}.json",
        {fs: folder / f"{shard['name']}-fs{fs}.dat" for fs in shard["settings"]["target_fs"]},
    )


def is_finished(folder: Path, shard: dict, input_dir: Path) -> bool:
    """Say whether a shard is complete and its input files are what they were."""
    table_file, signal_files = shard_files(folder, shard)
    # There is none, or it is not ours.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        table = json.loads(table_file.read_text("utf-8"))
        sizes = {str(fs): file.stat().st_size for fs, file in signal_files.items()}
        return (
            not table.get("unread")
            and table["bytes"] == sizes
            and all(file_state(input_dir, path) == state for path, state in table["inputs"].items())
        )
    return False


def file_state(input_dir: Path, path: str) -> list[int] | None:
    """Return size and time of change of an input file; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(Path(input_dir) / path)
        return [status.st_size, status.st_mtime_ns]
    return None
