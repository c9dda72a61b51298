"""Several imports as one: what they must have in common, and names that two of them use."""

import bisect
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_preparation.building.extraction import Shards
from data_preparation.importing.sources import Lazy, repeated
from data_preparation.known_sets import find_copies
from util.data.record_tables import first_few
from util.data.store import ABSENT
from util.errors import StoreError
from util.leads import LEADS

Import = tuple[dict[str, Any], Shards]  # see ``load_extraction``
LOOKED_AT = 100  # recordings of an import
FAR_APART = 10  # times: usual amplitudes that differ by more are hardly in one unit
TOLD = {  # settings that may differ, by the flag that says so
    "min_seconds": "--min_seconds",
    "segment_seconds": "--segment_seconds",
    "lead_names": "--lead_names",
    "derive": "derived limb leads (--no_derive)",
}


def join(folders: Sequence[Path], imports: Sequence[Import]) -> tuple[dict[str, Any], Shards]:
    """Return what all imports have in common, and their shards one after the other.

    Args:
        folders: of the imports.
        imports: settings and shards of each.

    Returns:
        {target_fs, unread, commands}; (path without ending, rows) of each shard, read on demand.

    Raises:
        StoreError: the rates differ, or a folder is named twice.
    """
    settings = [one for one, _ in imports]
    ends = np.cumsum([len(shards) for _, shards in imports]).tolist()

    def shard(place: int) -> tuple[Path, list[dict]]:
        which = bisect.bisect_right(ends, place)
        shards = imports[which][1]
        name, rows = shards[place - ends[which] + len(shards)]
        return folders[which] / "shards" / name, rows

    if len(imports) > 1:
        _check_settings(folders, settings)
        _look_at_amplitudes(folders, imports)
    together = {
        "target_fs": settings[0]["target_fs"],
        "unread": sum(one.get("unread", 0) for one in settings),
        "commands": [one["command"] for one in settings],
    }
    return together, Lazy(ends[-1], shard)


def _check_settings(folders, settings):
    """A StoreError where imports cannot be joined; prints what else differs."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise StoreError("--input_dir names a folder twice; name each import once")

    def each(setting):
        return ", ".join(
            f"{_words(one.get(setting))} ({folder})" for folder, one in zip(folders, settings)
        )

    if len({tuple(one["target_fs"]) for one in settings}) > 1:
        raise StoreError(
            f"the imports have different sampling rates: {each('target_fs')} Hz; make one again "
            "with the --target_fs of the other"
        )
    for setting, flag in TOLD.items():
        if len({_words(one.get(setting)) for one in settings}) > 1:
            print(f"note: the imports differ in {flag}: {each(setting)}")


def _words(value):
    if isinstance(value, dict):
        return " ".join(f"{name}={lead}" for name, lead in sorted(value.items()))
    if value is True:
        return "yes"
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value or 'none'}"


def _look_at_amplitudes(folders, imports):
    """Print the usual amplitude of every import; warn where they are hardly in one unit."""
    usual = [usual_amplitude(folder, *one) for folder, one in zip(folders, imports)]
    for folder, amplitude in zip(folders, usual):
        print(f"{folder}: amplitudes are usually {amplitude:.3g} mV, peak to peak")
    if max(usual) > FAR_APART * min(usual):
        print(
            f"warning: these differ by more than {FAR_APART} times: is the unit of one import "
            "wrong? make it again with the right --units"
        )


def usual_amplitude(folder: Path, settings: dict[str, Any], shards: Shards) -> float:
    """Return the median amplitude, peak to peak in mV, of some recordings of an import."""
    fs, amplitudes = settings["target_fs"][0], []
    step = -(-len(shards) // LOOKED_AT)
    for name, rows in shards[::step]:
        with open(folder / "shards" / f"{name}-fs{fs}.dat", "rb") as file:
            for row in rows[: max(1, LOOKED_AT * step // len(shards))]:
                size = row["length"][str(fs)] * len(LEADS)
                counts = np.fromfile(file, "<i2", size).reshape(-1, len(LEADS)).astype(int)
                there = (counts != ABSENT).all(axis=0)
                spans = np.ptp(counts[:, there], axis=0)
                amplitudes.append(np.median(spans) * row["scale_uv"][str(fs)] / 1000)
    return float(np.median(amplitudes))


# ============ names ============
def copies_of(columns: dict[str, list]) -> pd.DataFrame:
    """Return a row a copy: its place, record, database and copy_of, the record that is kept."""
    names, databases = columns["record"], columns["database"]
    recordings = [recording or name for recording, name in zip(columns["recording"], names)]
    place, first = (places.tolist() for places in find_copies(zip(databases, recordings)))
    return pd.DataFrame(
        {
            "place": place,
            "record": [names[row] for row in place],
            "database": [databases[row] for row in place],
            "copy_of": [names[row] for row in first],
        }
    )


def tell_apart(columns: dict[str, list], kept: np.ndarray) -> None:
    """Put its database in front of every name that records of two imports have, and say so.

    Args:
        columns: of the records; the column record changes.
        kept: bool (records,): those that need a name of their own.

    Raises:
        StoreError: they have the database in common, too.
    """
    names, databases = columns["record"], columns["database"]
    twice = repeated(lambda: compress(names, kept))
    if not twice:
        return
    rows = [int(row) for row in np.flatnonzero(kept) if names[row] in twice]
    counts = Counter((databases[row], names[row]) for row in rows)
    same = sorted(pair for pair, count in counts.items() if count > 1)
    if same:
        raise StoreError(
            f"{len(same)} records are in two of the imports under one name and database, such as "
            f"{same[0][1]} of {same[0][0]}; leave one import out, or make it again with another "
            "--database"
        )
    for row in rows:
        names[row] = f"{databases[row]}_{names[row]}"
    clash = sorted(repeated(lambda: compress(names, kept)))
    if clash:
        raise StoreError(
            f"two records would be called {clash[0]}; make one of the imports again with another "
            "--database"
        )
    print(
        f"names that two databases use: {len(twice)}, such as {first_few(sorted(twice))}; each "
        f"record of these gets its database in front, such as {names[rows[0]]}"
    )
