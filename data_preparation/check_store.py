"""Check a store and its tables of labels and splits: their files fit each other and no byte has
changed since they were written; and, where asked, find the recordings that are in it twice.

    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing
    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing/fs100
    python data_preparation/check_store.py ./data_folder/data_summary_without_preprocessing \\
        --duplicates

Prints a line a store; exits with 0 if all are sound, else with 2.

--duplicates looks for recordings that share at least 4 s of their signal: exact copies, and
copies that were shifted, cut, rescaled, resampled, filtered or have a little noise, within and
across databases.  What it finds is no fault of the store: the exit status stays 0.  Each pair is
a row of the CSV file:

    record_a, database_a, fold_a, patient_a    the earlier one in the store; and the same of b
    kind          exact      the same samples
                  rescaled   the same seconds, another gain (2 % and more) or offset (0.02 mV)
                  near       the same seconds, resampled, filtered or with noise
                  shifted    they overlap in part, whatever the gain
    correlation   of what they share, the median over leads; 0.98 and more
    shift         seconds by which b starts after a
    overlap       seconds that they share
    gain          amplitude of b over that of a
    leak          "fold": a and b are in different folds (a test recording seen in training);
                  "patient": they have different patients; "fold patient": both
    drop          the one to leave out: without diagnoses, else the shorter, else the later

Give the file to reformat_memmap.py --drop, and the store is made again without them, with new
folds.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.building.duplicates import COLUMNS, SAME, find_duplicates
from util.config.keys import FinetuneDataset
from util.data.labels import read_labels
from util.data.record_tables import find_table, table_names
from util.data.store import RecordStore, write_table
from util.errors import ConfigError, ECGError, StoreError


def is_sound(folder):
    """Whether the store in a folder and the tables beside it are what was written; prints a
    line about each.
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
            labels = read_labels(store, FinetuneDataset(transforms=[], labels=name))
            print(
                f"sound    labels {name}: {labels.kind}, {len(labels.classes)} classes or "
                "columns, "
                f"known of {labels.known.sum()} records"
            )
        for name in table_names(folder.parent, "splits"):
            _, facts = find_table(folder.parent, "splits", name, ("kind", "source"))
            print(f"sound    splits {name}: by {facts['kind']}, from {facts['source']}")
    except (ConfigError, StoreError) as error:
        print(f"damaged  {error}")
        return False
    return True


def list_duplicates(folder, output):
    """Write the pairs of a store's recordings with the same signal to ``output`` and print
    what they are.
    """
    found = find_duplicates(RecordStore(folder))
    write_table(output, COLUMNS, found.pairs)
    kinds = Counter(row["kind"] for row in found.pairs)
    print(
        f"pairs of recordings with the same signal: {len(found.pairs)}"
        + (
            f" ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})"
            if kinds
            else ""
        )
        + f"; {found.compared} candidates were compared, those from a correlation of {SAME} "
        "listed"
    )
    if found.pairs:
        across = sum(row["database_a"] != row["database_b"] for row in found.pairs)
        folds, patients = (
            sum(what in row["leak"] for row in found.pairs) for what in ("fold", "patient")
        )
        print(
            f"of these, {across} are across databases, {folds} across folds (leakage) and "
            f"{patients} across patients"
        )
        print(
            f"reformat_memmap.py --drop {output} leaves out "
            f"{len({row['drop'] for row in found.pairs})} records"
        )
    if found.blind:
        print(
            "recordings too short (less than 2.7 s) or too flat for anything but exact copies: "
            f"{found.blind}"
        )
    print(f"pairs: {output}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "store", type=Path, help="folder of one rate, or the folder that holds fs100, fs250, ..."
    )
    parser.add_argument(
        "--duplicates",
        action="store_true",
        help="list recordings that occur twice, at the lowest "
        "rate (all rates hold the same records); minutes for 100,000 recordings",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.csv", help="of --duplicates (default: duplicates.csv)"
    )
    args = parser.parse_args(argv)
    if args.output and not args.duplicates:
        parser.error("--output is the file of --duplicates: give that, too")
    rates = sorted(args.store.glob("fs*"), key=lambda folder: (len(folder.name), folder.name))
    folders = [args.store] if (args.store / "meta.json").exists() or not rates else rates
    if [folder for folder in folders if not is_sound(folder)]:  # a line about each
        return 2
    if args.duplicates:
        output = args.output or Path("duplicates.csv")
        try:
            if not output.parent.is_dir():  # before the search, not after it
                raise ConfigError(f"there is no folder {output.parent} for --output")
            list_duplicates(folders[0], output)
        except (ECGError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
