"""Checking that a store is what was written, and listing the recordings that are in it twice."""

from collections import Counter
from pathlib import Path

from data_preparation.checking.duplicates import COLUMNS, SAME, find_duplicates
from util.config.keys import FinetuneDataset
from util.data.record_tables import find_table, table_names
from util.data.store import RecordStore
from util.errors import ConfigError, StoreError
from util.files import write_table
from util.labels.tables import read_labels


def check_store(place: Path, pairs: Path | None = None) -> bool:
    """Check the stores of all rates in a folder, or the one of a rate; print a line about each.

    Args:
        place: folder of one rate, or the folder that holds fs100, fs250, ...
        pairs: where to list recordings that occur twice, at the lowest rate; None not to look for
            them.

    Returns:
        whether all are sound.

    Raises:
        ConfigError: there is no folder for ``pairs``.
    """
    rates = sorted(place.glob("fs*"), key=lambda folder: (len(folder.name), folder.name))
    folders = [place] if (place / "meta.json").exists() or not rates else rates
    sound = [is_sound(folder) for folder in folders]  # a line about each
    if not all(sound):
        return False
    if pairs:
        if not pairs.parent.is_dir():  # before the search, not after it
            raise ConfigError(f"there is no folder {pairs.parent} for --output")
        list_duplicates(folders[0], pairs)
    return True


def is_sound(folder: Path) -> bool:
    """Say whether the store in a folder and the tables beside it are what was written.

    Prints a line about each.
    """
    try:
        store = RecordStore(folder)
        store.verify_blocks()
        print(
            f"sound    {folder}: {len(store)} records, "
            f"{store.meta['samples'] / store.fs / 3600:.2f} hours at {store.fs} Hz, "
            f"{len(store.meta['blocks'])} blocks"
        )
        for name in table_names(folder.parent, "labels"):
            labels = read_labels(store, FinetuneDataset(labels=name))
            print(
                f"sound    labels {name}: {labels.kind}, {len(labels.classes)} classes or "
                f"columns, known of {labels.known.sum()} records"
            )
        for name in table_names(folder.parent, "splits"):
            _, facts = find_table(folder.parent, "splits", name, ("kind", "source"))
            print(f"sound    splits {name}: by {facts['kind']}, from {facts['source']}")
    except (ConfigError, StoreError) as error:
        print(f"damaged  {error}")
        return False
    return True


def list_duplicates(folder: Path, output: Path) -> None:
    """Write the pairs of a store's recordings with the same signal, and print what they are."""
    search = find_duplicates(RecordStore(folder))
    write_table(output, COLUMNS, search.pairs)
    kinds = Counter(row["kind"] for row in search.pairs)
    print(
        f"pairs of recordings with the same signal: {len(search.pairs)}"
        + (
            f" ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})"
            if kinds
            else ""
        )
        + f"; {search.compared} candidates were compared, those from a correlation of {SAME} "
        "listed"
    )
    if search.pairs:
        across = sum(row["database_a"] != row["database_b"] for row in search.pairs)
        folds, patients = (
            sum(what in row["leak"] for row in search.pairs) for what in ("fold", "patient")
        )
        print(
            f"of these, {across} are across databases, {folds} across folds (leakage) and "
            f"{patients} across patients"
        )
        print(
            f"reformat_memmap.py --drop {output} leaves out "
            f"{len({row['drop'] for row in search.pairs})} records"
        )
    if search.blind:
        print(
            "recordings too short (less than 2.7 s) or too flat for anything but exact copies: "
            f"{search.blind}"
        )
    print(f"pairs: {output}")
