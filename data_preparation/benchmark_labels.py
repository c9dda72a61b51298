"""Labels and splits of a public data set, from its own metadata files into a store that holds its
recordings.

    python data_preparation/benchmark_labels.py ptbxl --store STORE --metadata DIR

Writes tables of labels and one of splits beside the store's sampling rates, prints how many
records of every class each part has, and compares the metadata with what is known of the
published versions: where they differ, a warning says what was expected and what was found.  What
each set does: docs/benchmarks.md.
"""

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation import add_labels, add_splits
from data_preparation.benchmarks.sets import BENCHMARKS
from data_preparation.download import OUTPUT_DIR as DOWNLOADS
from data_preparation.reformat_memmap import OUTPUT_DIR as STORE
from util.data.splits import PARTS
from util.errors import ConfigError
from util.processes.program import run_main


# ============ metadata and store ============
def keys_of(records, benchmark, known) -> np.ndarray:
    """The key in the metadata of each record of a store, "" for those that it does not know.

    A record goes by its own name, else by the name of the file that it is a piece of.
    """
    pattern, known = re.compile(benchmark.name_of), set(known)

    def key(text):
        match = pattern.fullmatch(text)
        found = match[1].lstrip("0") if match and benchmark.numbered else match and match[1]
        return text if text in known else found if found in known else ""

    names = zip(records["record"], records["path"])
    return np.array([key(name) or key(Path(path).stem) for name, path in names], object)


def parts_of(splits, given) -> pd.Series:
    """train, valid or test of every row of a table of splits, "" for folds that belong to none."""
    if given is None:
        return splits["split"]
    return (
        splits["fold"]
        .map({fold: part for part, folds in given.items() for fold in folds})
        .fillna("")
    )


# ============ sizes ============
def has_words(table) -> bool:
    """Whether a table has one column of words, multi-class."""
    return table.shape[1] == 1 and not pd.api.types.is_numeric_dtype(table.iloc[:, 0])


def count(metadata, parts) -> dict[str, int]:
    """Quantities by name: records, patients, and of each table its classes, records by part,
    records by class.
    """
    patients = metadata.splits["patient"]
    counts = {"records": len(patients), "patients": patients[patients != ""].nunique()}
    for name, table in metadata.labels.items():
        own = parts.reindex(table.index)
        counts |= {f"{name} {part}": int((own == part).sum()) for part in PARTS}
        if has_words(table):
            counts |= {
                f"{name} {word}": int(n) for word, n in table.iloc[:, 0].value_counts().items()
            }
        else:
            counts |= {f"{name} {column}": int((table[column] == 1).sum()) for column in table}
            counts[f"{name} classes"] = table.shape[1]
    return counts


def compare(counts, versions) -> list[str]:
    """Sentences: a warning for every quantity that differs from the nearest known version, or
    that all agree.
    """
    version = min(
        versions,
        key=lambda name: (
            abs(versions[name]["records"] - counts["records"]) * 1000
            + sum(counts.get(quantity) != known for quantity, known in versions[name].items())
        ),
    )
    differ = [
        f"warning: {quantity}: expected {known} (version {version}), found "
        f"{counts.get(quantity, 0)}"
        for quantity, known in versions[version].items()
        if counts.get(quantity, 0) != known
    ]
    agree = len(versions[version]) - len(differ)
    return [*differ, f"{agree} of {len(versions[version])} known counts of version {version} agree"]


def sizes(name, table, parts) -> str:
    """Records of every class and part, as text; of numbers their mean and standard deviation."""
    columns = pd.get_dummies(table.iloc[:, 0], dtype=float) if has_words(table) else table
    lines = [
        f"{name:<32}" + "".join(f"{part:>10}" for part in PARTS),
        f"{'  records':<32}" + "".join(f"{(parts == part).sum():>10}" for part in PARTS),
    ]
    for column in columns:
        values = [columns.loc[parts == part, column].dropna() for part in PARTS]
        if columns[column].dropna().isin((0, 1)).all():
            lines.append(
                f"{'  ' + column + ' ':<32}" + "".join(f"{int(own.sum()):>10}" for own in values)
            )
        else:
            lines += [
                f"{'  ' + what + ' of ' + column:<32}"
                + "".join(f"{own.agg(what):>10.1f}" for own in values)
                for what in ("mean", "std")
            ]
    return "\n".join(lines)


# ============ the tables ============
def make_tables(name, root, folder) -> list[str]:
    """Write the tables of a benchmark into a store; returns what there is to say."""
    benchmark, records = BENCHMARKS[name], add_labels.open_any_rate(root).records
    metadata = benchmark.read(Path(folder), records)
    parts = parts_of(metadata.splits, benchmark.given)
    said, written = list(metadata.notes), []
    keys = keys_of(records, benchmark, metadata.splits.index)
    own = pd.Series(keys, records["record"])[keys != ""]
    if own.empty:
        known = (
            metadata.splits.index[0] if len(metadata.splits) else f"of the form {benchmark.name_of}"
        )
        raise ConfigError(
            f"no record of {root} is in the metadata of {name}: they have names like "
            f"{records['record'].iloc[0]}, the metadata {known}"
        )
    databases = ", ".join(sorted(set(records["database"][keys != ""])))
    said.append(
        f"{len(own)} of {len(records)} records of the store are of {name} (database {databases})"
    )
    absent, shared = len(metadata.splits) - own.nunique(), int(own.duplicated().sum())
    if absent:
        said.append(
            f"{absent} of {len(metadata.splits)} records of the metadata are not in the store"
        )
    if shared:
        said.append(
            f"{shared} records share their row of the metadata with another: pieces of one "
            "recording, or the same recording at two rates, which the store should not hold twice"
        )
    with tempfile.TemporaryDirectory() as scratch:
        for program, label, table in (
            (add_splits, name, metadata.splits),
            *((add_labels, *item) for item in metadata.labels.items()),
        ):
            mine = own[own.isin(table.index)]
            if mine.empty:
                said.append(
                    f"warning: {label}: no record of the store has a label of this task; no "
                    "table "
                    "was written"
                )
                continue
            table = table.loc[mine].set_axis(mine.index)
            said += add(
                program,
                root,
                label,
                table.assign(patient=metadata.splits.loc[mine, "patient"].array),
                scratch,
            )
            if program is add_labels:
                written.append(label)
                said.append(sizes(label, table, parts.loc[mine].to_numpy()))
    said += compare(count(metadata, parts), benchmark.versions)
    given = json.dumps(benchmark.given).replace('"', "") if benchmark.given else "null"
    said.append(
        f"in a config: dataset: {{labels: NAME, protocol: given, splits: {name}, given: "
        f"{given}}}; "
        f"NAME is {' or '.join(written)}"
    )
    return list(dict.fromkeys(said))  # what is true of every table is said once


def add(program, root, name, table, scratch) -> list[str]:
    """Add a table to the store by the program that adds a user's own file; returns what that
    says.
    """
    path = Path(scratch) / f"{name}.csv"
    whole = [
        column
        for column in table
        if column != "patient" and table[column].dropna().isin((0, 1)).all()
    ]
    table.astype(dict.fromkeys(whole, "Int64")).to_csv(
        path, index_label="record", lineterminator="\n"
    )
    with contextlib.redirect_stdout(io.StringIO()) as said:
        # A benchmark goes by splits of its own: patients in several folds of the store are no
        # matter.
        program.main(
            [str(root), str(path)], **({"by_folds": False} if program is add_labels else {})
        )
    return said.getvalue().splitlines()


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(STORE),
        metavar="STORE",
        help="the folder that holds fs100, fs250, ... (default: %(default)s)",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="DIR",
        help="folder of the set's own CSV files (default: where download.py puts them, "
        f"{DOWNLOADS}/NAME)",
    )
    args = parser.parse_args(argv)
    print(
        "\n".join(make_tables(args.name, args.store, args.metadata or Path(DOWNLOADS) / args.name))
    )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
