"""Tables of labels and splits of a public data set, for a store that holds its recordings."""

import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data_preparation.benchmarks.metadata import Metadata
from data_preparation.benchmarks.published import BENCHMARKS, Benchmark
from data_preparation.benchmarks.sets import read_metadata
from data_preparation.building.tables import add_labels, add_splits, open_any_rate
from data_preparation.known_sets import set_of_folder
from util.console import note
from util.data.record_tables import first_few, plain_name
from util.data.splits import PARTS
from util.errors import ConfigError
from util.files import write_frame


@dataclass(frozen=True)
class Matched:
    """Records of a store and the rows of a benchmark's metadata that they are.

    Attributes:
        name: of the benchmark.
        root: the folder that holds fs100 and others.
        metadata: of all recordings of the set.
        parts: train, valid or test of each row of the metadata.
        key_of: by record of the store, its row.
        notes: sentences about those that belong together, and those that do not.
    """

    name: str
    root: str | os.PathLike
    metadata: Metadata
    parts: pd.Series
    key_of: pd.Series
    notes: list[str]


def make_tables(
    name: str,
    root: str | os.PathLike,
    folder: str | os.PathLike,
    databases: Sequence[str] | None = None,
    *,
    others: Mapping[Path, pd.Series] | None = None,
    allow_patient_overlap: bool = False,
) -> None:
    """Write the tables of a benchmark into a store, and say what they hold.

    Args:
        name: a key of ``BENCHMARKS``.
        root: the folder that holds fs100 and others.
        folder: of the metadata.
        databases: of the store that hold its recordings; None: found by their names.
        others: folds or parts that others made, see ``others.read_others``, by their files.
        allow_patient_overlap: take those that put a patient on two sides.

    Raises:
        ConfigError: the metadata are wrong, or of none of the records of these databases.
    """
    names = _names_of_others(others or {}, name)
    matched = _match(name, root, folder, databases)
    say = _once(matched.notes)
    with tempfile.TemporaryDirectory() as scratch:
        about_others: list[str] = []
        for path, sides in (others or {}).items():  # first, as they may be wrong
            about_others += _of_others(
                matched, path, names[path], sides, Path(scratch), allow=allow_patient_overlap
            )
        _write_own(matched, None, matched.metadata.splits, Path(scratch), say)
        written = [
            label
            for label, table in matched.metadata.labels.items()
            if _write_own(matched, label, table, Path(scratch), say)
        ]
    benchmark = BENCHMARKS[name]
    say(*about_others, *compare(count(matched.metadata, matched.parts), benchmark.versions))
    given = json.dumps(benchmark.given).replace('"', "") if benchmark.given else "null"
    say(
        f"in a config: dataset: {{labels: NAME, protocol: given, splits: {name}, given: "
        f"{given}}}; NAME is {' or '.join(written)}"
    )


def _once(first: Iterable[str]) -> Callable[..., None]:
    """A function that says each sentence once, however many tables it is true of."""
    said: set[str] = set()

    def say(*sentences: str) -> None:
        for sentence in sentences:
            if sentence not in said:
                said.add(sentence)
                note(sentence)

    say(*first)
    return say


def _match(name, root, folder, databases) -> Matched:
    """The records of a store that are of a benchmark; a ConfigError where there are none."""
    benchmark, everything = BENCHMARKS[name], _with_own_names(open_any_rate(root).records)
    is_of_set = _is_of_set(everything, benchmark, databases)
    records = everything[is_of_set]
    if records.empty:
        raise ConfigError(_no_database(name, root, benchmark, everything))
    _refuse_places(name, benchmark, records)
    metadata = read_metadata(name, Path(folder), records.assign(record=records["own"]))
    keys = keys_of(records, benchmark, metadata.splits.index)
    key_of = pd.Series(keys, records["record"])[keys != ""]
    if key_of.empty:
        known = (
            metadata.splits.index[0] if len(metadata.splits) else f"of the form {benchmark.name_of}"
        )
        raise ConfigError(
            f"no record of {root} is in the metadata of {name}: they have names like "
            f"{records['record'].iloc[0]}, the metadata {known}"
        )
    _check_one_database(name, records, key_of)
    notes = [*metadata.notes, *_coverage(name, metadata, everything, key_of)]
    rest = everything[~is_of_set]
    strangers = rest["database"][keys_of(rest, benchmark, metadata.splits.index) != ""]
    if len(strangers):
        notes.append(
            f"{len(strangers)} records of other databases ({', '.join(sorted(set(strangers)))}) "
            f"have names as those of {name}, and get no label; --database says otherwise"
        )
    parts = parts_of(metadata.splits, benchmark.given)
    return Matched(name, root, metadata, parts, key_of, notes)


def _write_own(matched, label, table, scratch, say) -> bool:
    """Add a table of labels of the benchmark, or its splits (``label`` None), to the store and
    say so; return whether there was anything to add.
    """
    name, key_of = label or matched.name, matched.key_of
    in_table = key_of[key_of.isin(table.index)]
    if in_table.empty:
        say(
            f"warning: {name}: no record of the store has a label of this task; no table was "
            "written"
        )
        return False
    table = table.loc[in_table].set_axis(in_table.index)
    patients = matched.metadata.splits.loc[in_table, "patient"].array
    path = scratch / f"{name}.csv"
    _write_file(path, table.assign(patient=patients))
    say(*_added(matched.root, path, is_labels=label is not None))
    if label is not None:
        say(sizes(label, table, matched.parts.loc[in_table].to_numpy()))
    return True


def _names_of_others(others, benchmark) -> dict[Path, str]:
    """What the tables of splits of these files are called, each by its file; a ConfigError where
    one would replace another, or the set's own.
    """
    names = {path: plain_name(path, "others") for path in others}
    for path, name in names.items():
        if name == benchmark or [*names.values()].count(name) > 1:
            raise ConfigError(
                f"--splits {path}: the table would be called {name}, as that of "
                f"{benchmark if name == benchmark else 'another file'} is; rename the file"
            )
    return names


def _of_others(matched, path, name, sides, scratch, *, allow) -> list[str]:
    """Sentences about the splits of a file of others, which are added to the store."""
    metadata, key_of = matched.metadata, matched.key_of
    # Keys that come from the store may be those of pieces, <recording>_<n>.
    theirs = key_of.where(key_of.isin(sides.index), key_of.str.replace(r"_\d+$", "", regex=True))
    theirs = theirs[theirs.isin(sides.index)]
    if theirs.empty:
        raise ConfigError(
            f"{path}: none of its {len(sides)} records is in the metadata and in the store: it "
            f"has {first_few(sides.index.tolist())}, these {first_few(key_of.tolist())}; name the "
            "column of ids by --id_column"
        )
    splits = sides[theirs].set_axis(theirs.index).to_frame()
    splits["patient"] = metadata.splits.loc[key_of[theirs.index], "patient"].array
    write_frame(scratch / f"{name}.csv", splits, index=True, index_label="record")
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            add_splits(matched.root, scratch / f"{name}.csv", allow_patient_overlap=allow)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{scratch}/{name}.csv", str(path))) from None
    notes = [
        f"{path}: {sides.index.isin(theirs).sum()} of {len(sides)} records are in the store",
        *printed.getvalue().splitlines(),
    ]
    known = sorted(set(sides) - {""}, key=PARTS.index if sides.name == "split" else int)
    for label, table in metadata.labels.items():
        rows = key_of[theirs.index]
        rows = rows[rows.isin(table.index)]
        if len(rows):
            of_parts = splits.loc[rows.index, sides.name].to_numpy()
            notes.append(sizes(f"{label} by {name}", table.loc[rows], of_parts, known))
    given = ", given: {train: [...], valid: [...], test: [...]}" * (sides.name == "fold")
    notes.append(f"in a config: dataset: {{labels: NAME, protocol: given, splits: {name}{given}}}")
    return notes


def _with_own_names(records):
    """The records with a column own: their names without the database that was put in front where
    two databases used one name.
    """
    pairs = zip(records["database"], records["record"])
    return records.assign(own=[record.removeprefix(f"{database}_") for database, record in pairs])


def _is_of_set(records, benchmark, databases):
    """bool (records,): of the databases that are named, else of those called as the set is."""
    there = sorted(set(records["database"]))
    absent = sorted(set(databases or ()) - set(there))
    if absent:
        raise ConfigError(
            f"--database: the store has no {', '.join(absent)}; it has {', '.join(there)}"
        )
    if not databases:
        known = set(benchmark.databases)
        databases = [one for one in there if {one, set_of_folder(one)} & known]
    return records["database"].isin(databases)


def _no_database(name, root, benchmark, records):
    """The message where no database of a store is called as the set is."""
    names = zip(records["own"], records["path"])
    is_alike = [
        any(re.fullmatch(benchmark.name_of, text) for text in (own, Path(path).stem))
        for own, path in names
    ]
    alike = records["database"][is_alike].value_counts()
    if alike.empty:
        return (
            f"no record of {root} is in the metadata of {name}: they have names like "
            f"{records['record'].iloc[0]}, the metadata of the form {benchmark.name_of}"
        )
    counts = ", ".join(f"{count} of {database}" for database, count in alike.items())
    return (
        f"no database of {root} is called as {name} is ({', '.join(benchmark.databases)}). Records "
        f"with names as there: {counts}; say with --database which of these is {name}"
    )


def _refuse_places(name, benchmark, records):
    """A ConfigError where the records of a set that counts from 1 are counted from 0."""
    matches = (re.fullmatch(benchmark.name_of, own) for own in records["own"])
    zero = [match[0] for match in matches if match and not match[1].strip("0")]
    if benchmark.numbered and zero:
        raise ConfigError(
            f"a record of the store is called {zero[0]}, which {name} has not: names that count "
            "recordings from 0 are not its numbers; import them under their own"
        )


def _check_one_database(name, records, key_of):
    """A ConfigError where records of two databases share a row of the metadata."""
    database_of = records.set_index("record")["database"][key_of.index]
    several = database_of.groupby(key_of.to_numpy()).nunique()
    shared = several[several > 1]
    if len(shared):
        one = key_of[key_of == shared.index[0]].index
        raise ConfigError(
            f"records of several databases are one record of {name}, for {len(shared)} records: "
            f"{', '.join(f'{record} of {database_of[record]}' for record in one[:3])}; name the "
            "right one with --database"
        )


def _coverage(name, metadata, records, key_of) -> list[str]:
    """Sentences about the records of the store and of the metadata that belong together."""
    databases = ", ".join(sorted(set(records["database"][records["record"].isin(key_of.index)])))
    absent = len(metadata.splits) - key_of.nunique()
    shared = int(key_of.duplicated().sum())
    notes = [
        f"{len(key_of)} of {len(records)} records of the store are of {name} (database {databases})"
    ]
    if absent:
        notes.append(
            f"{absent} of {len(metadata.splits)} records of the metadata are not in the store"
        )
    if shared:
        notes.append(
            f"{shared} records share their row of the metadata with another: pieces of one "
            "recording, or the same recording at two rates, which the store should not hold twice"
        )
    return notes


def _write_file(path, table) -> None:
    """Write a table as the CSV file that a user would give; 0 and 1 as whole numbers."""
    flags = [
        column
        for column in table
        if column != "patient" and table[column].dropna().isin((0, 1)).all()
    ]
    table = table.astype(dict.fromkeys(flags, "Int64"))
    write_frame(path, table, index=True, index_label="record")


def _added(root, path, *, is_labels) -> list[str]:
    """Add a file to the store as a user's is; return what that says."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if is_labels:
            # A benchmark has its own splits, so patients in several folds of the store do no harm.
            add_labels(root, path, by_folds=False)
        else:
            add_splits(root, path)
    return printed.getvalue().splitlines()


# ============ metadata and store ============
def keys_of(records: pd.DataFrame, benchmark: Benchmark, known: Iterable[str]) -> np.ndarray:
    """Return the key in the metadata of each record of a store, "" where there is none.

    A record goes by its name, else by the name of the file that it is a piece of.

    Args:
        records: of the store; the column own has their names without their database.
        benchmark: says how records are called.
        known: the keys of the metadata.
    """
    pattern, keys = re.compile(benchmark.name_of), set(known)

    def key(text: str) -> str:
        match = pattern.fullmatch(text)
        inner = match[1] if match else ""
        if benchmark.numbered:
            inner = inner.lstrip("0")
        return text if text in keys else inner if inner in keys else ""

    names = zip(records["own"], records["path"])
    return np.array([key(name) or key(Path(path).stem) for name, path in names], object)


def parts_of(splits: pd.DataFrame, given: Mapping[str, list[int]] | None) -> pd.Series:
    """Return train, valid or test of every row of a table of splits, "" for folds of none."""
    if given is None:
        return splits["split"]
    return (
        splits["fold"]
        .map({fold: part for part, folds in given.items() for fold in folds})
        .fillna("")
    )


# ============ sizes ============
def has_words(table: pd.DataFrame) -> bool:
    """Say whether a table has one column of words, multi-class."""
    return table.shape[1] == 1 and not pd.api.types.is_numeric_dtype(table.iloc[:, 0])


def count(metadata: Metadata, parts: pd.Series) -> dict[str, int]:
    """Count records and patients, and of each table classes, records by part and by class."""
    patients = metadata.splits["patient"]
    counts = {"records": len(patients), "patients": patients[patients != ""].nunique()}
    for name, table in metadata.labels.items():
        part_of = parts.reindex(table.index)
        counts |= {f"{name} {part}": int((part_of == part).sum()) for part in PARTS}
        if has_words(table):
            counts |= {
                f"{name} {word}": int(n) for word, n in table.iloc[:, 0].value_counts().items()
            }
        else:
            counts |= {f"{name} {column}": int((table[column] == 1).sum()) for column in table}
            counts[f"{name} classes"] = table.shape[1]
    return counts


def compare(counts: Mapping[str, int], versions: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a warning for every count that differs from the nearest known version, and a sum."""
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


def sizes(name: str, table: pd.DataFrame, parts: np.ndarray, known: Sequence[str] = PARTS) -> str:
    """Return the records of every class and part, as text; of numbers mean and deviation.

    Args:
        name: of the table.
        table: labels by record.
        parts: of the same records.
        known: all parts, or folds, in order.
    """
    columns = pd.get_dummies(table.iloc[:, 0], dtype=float) if has_words(table) else table
    lines = [
        f"{name:<32}" + "".join(f"{part:>10}" for part in known),
        f"{'  records':<32}" + "".join(f"{(parts == part).sum():>10}" for part in known),
    ]
    for column in columns:
        values = [columns.loc[parts == part, column].dropna() for part in known]
        if columns[column].dropna().isin((0, 1)).all():
            lines.append(
                f"{'  ' + column + ' ':<32}"
                + "".join(f"{int(cells.sum()):>10}" for cells in values)
            )
        else:
            lines += [
                f"{'  ' + what + ' of ' + column:<32}"
                + "".join(f"{cells.agg(what):>10.1f}" for cells in values)
                for what in ("mean", "std")
            ]
    return "\n".join(lines)
