"""Check a store and its tables of labels and splits: their files fit each other and no byte has changed since they were
written.

    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing
    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing/fs100

Prints a line a store; exits with 0 if all are sound, else with 2.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.errors import ConfigError, StoreError
from util.labels import read_labels
from util.record_tables import find_table, table_names
from util.store import RecordStore


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder of one rate, or the folder that holds fs100, fs250, ...")
    path = parser.parse_args(argv).store
    damaged = 0
    for folder in [path] if (path / "meta.json").exists() else sorted(path.glob("fs*")) or [path]:
        try:
            store = RecordStore(folder)
            store.verify_blocks()
            print(f"sound    {folder}: {len(store)} records, {store.meta['samples'] / store.fs / 3600:.2f} hours at "
                  f"{store.fs} Hz, {len(store.meta['blocks'])} blocks")
            for name in table_names(folder.parent, "labels"):
                labels = read_labels(store, {"labels": name, "classes": None})
                print(f"sound    labels {name}: {labels.kind}, {len(labels.classes)} classes or columns, known of "
                      f"{labels.known.sum()} records")
            for name in table_names(folder.parent, "splits"):
                _, facts = find_table(folder.parent, "splits", name, ("kind", "source"))
                print(f"sound    splits {name}: by {facts['kind']}, from {facts['source']}")
        except (ConfigError, StoreError) as error:
            damaged += 1
            print(f"damaged  {error}")
    return 2 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
