"""Add a table of labels to a store that exists: a CSV file with the column record, then columns
of labels.

    python data_preparation/add_labels.py ./data_folder/data_summary_without_preprocessing
        labels.csv
    python data_preparation/add_labels.py STORE labels.csv --name rhythm --ignore_unknown

0/1 columns are multi-label, one column of words multi-class, columns of other numbers regression;
an empty cell is unknown.  A column patient says whose record it is.  The table goes to
STORE/labels/<name>.csv and serves every sampling rate; configs choose it by dataset.labels:
<name>.  See docs/data.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.data.label_file import load_label_file
from util.data.labels import write_labels
from util.data.record_tables import table_name
from util.data.splits import known_patients, patients_on_several_sides, with_patients
from util.data.store import FOLDS, RecordStore
from util.errors import StoreError
from util.processes.program import run_main


def open_any_rate(place) -> RecordStore:
    """The store in a folder, or that of the first rate in its root: all rates hold the same
    records.
    """
    place = Path(place)
    inside = sorted(place.glob("fs*/meta.json"))
    if not (place / "meta.json").exists() and not inside:
        raise StoreError(
            f"no store at {place}: name the folder that holds fs100/, fs250/, ... or one of these"
        )
    return RecordStore(place if (place / "meta.json").exists() else inside[0].parent)


def main(argv=None, by_folds=True):
    """Command line; see the module's docstring.  ``by_folds``: whether the store's folds may
    serve the table.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "store", type=Path, help="the folder that holds fs100, fs250, ..., or one of these"
    )
    parser.add_argument(
        "labels", type=Path, metavar="CSV", help="column record, then columns of labels"
    )
    parser.add_argument("--name", help="of the table (default: as the file is called)")
    parser.add_argument(
        "--ignore_unknown",
        action="store_true",
        help="leave out rows of records that the store lacks, which are an error otherwise",
    )
    args = parser.parse_args(argv)
    store, name = open_any_rate(args.store), table_name("labels", args.labels, args.name)
    file = load_label_file(args.labels, store.records["record"], args.ignore_unknown)
    if file.patients and by_folds:
        patients = known_patients(with_patients(store.records, file.patients))
        several = patients_on_several_sides(
            patients, np.stack([store.records["fold"] == n for n in range(FOLDS)])
        )
        if len(several):
            print(
                f"note: patients with records in several folds of this store: {len(several)}, "
                "such "
                f"as {several[0]}; it did not know them, so test scores by its folds will be too "
                "good: make it again by data_preparation/reformat_memmap.py --labels, or go by a "
                "table of splits (dataset.protocol: given)"
            )
    command = f"python data_preparation/add_labels.py STORE {args.labels.name} --name {name}"
    write_labels(
        store.path.parent,
        name,
        file,
        store.records["record"],
        args.labels.name,
        command + " --ignore_unknown" * args.ignore_unknown,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
