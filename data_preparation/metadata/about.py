"""What a set's own table says of its recordings (age, sex, patient, fold, labels), on its way from
an import's --metadata into the store: it lies beside the shards as metadata.csv and, where other
columns are asked for, metadata_labels.csv.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from data_preparation.metadata.split_files import SplitFile, read_splits, write_splits
from util.console import note
from util.data.record_tables import first_few, read_cells
from util.errors import ConfigError, StoreError
from util.files import write_frame
from util.labels.files import LabelFile, load_label_file
from util.labels.tables import write_labels

FILE, LABELS_FILE = "metadata.csv", "metadata_labels.csv"
CELLS = ("age", "sex", "patient", "fold", "split", "remark")


@dataclass(frozen=True)
class About:
    """What a table says of the recordings of an import.

    Attributes:
        name: of the tables of labels and splits that come of it.
        flags: those that chose it, as one types them, without folders.
        cells: {recording: {one of CELLS: text}}, known ones alone.
        labels: texts by recording, None without such columns.
    """

    name: str
    flags: str
    cells: Mapping[str, Mapping[str, str]]
    labels: pd.DataFrame | None

    def row_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row of an import's table with age, sex, patient and remark as this has them."""
        said = self.cells.get(row.get("recording") or row["record"])
        if not said:
            return row
        new: dict[str, Any] = {kind: said[kind] for kind in ("sex", "patient") if kind in said}
        if "age" in said:
            new["age"] = float(said["age"])
        if "remark" in said:
            new["flags"] = "; ".join(filter(None, (row["flags"], said["remark"])))
        return row | new

    def values(self, kind: str) -> dict[str, str]:
        """Return {recording: text} of one of CELLS."""
        return {name: said[kind] for name, said in self.cells.items() if kind in said}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the files into an import's folder; return what its extraction.json must say."""
        cells = pd.DataFrame.from_dict(dict(self.cells), orient="index", columns=list(CELLS))
        write_frame(folder / FILE, cells, index=True, index_label="record")
        if self.labels is not None:
            write_frame(folder / LABELS_FILE, self.labels, index=True, index_label="record")
        return {"name": self.name, "flags": self.flags, "labels": self.labels is not None}


def read_about(folder: Path, facts: Mapping[str, Any] | None) -> About | None:
    """Return what an import kept; None where it had no such table.

    Args:
        folder: of the import.
        facts: what its extraction.json says of it.

    Raises:
        StoreError: a file is gone.
    """
    if not facts:
        return None
    tables = [folder / FILE] + [folder / LABELS_FILE] * facts["labels"]
    for path in tables:
        if not path.is_file():
            raise StoreError(f"{path} is gone: give the command of the import again")
    cells, *labels = [read_cells(path).set_index("record") for path in tables]
    rows = {
        name: {kind: text for kind, text in row.items() if text}
        for name, row in cells.to_dict("index").items()
    }
    return About(facts["name"], facts["flags"], rows, labels[0] if labels else None)


# ============ tables beside the store ============
class AboutTables(NamedTuple):
    """Tables that go into the store, None where there is none."""

    name: str
    records: Sequence[str]
    labels: LabelFile | None
    splits: SplitFile | None

    def write(self, root: Path, command: str) -> None:
        """Write them beside the rates of a store that holds these records."""
        if self.labels:
            write_labels(root, self.name, self.labels, self.records, f"{self.name}.csv", command)
        if self.splits:
            write_splits(root, self.splits, self.name, command)


def tables_of(
    about: About, columns: Mapping[str, Sequence[str]], *, allow_patient_overlap: bool = False
) -> AboutTables:
    """Return the tables of labels and splits for the records of a store.

    Args:
        about: what is known of the recordings.
        columns: record, recording ("" unless it is a piece of one), database and patient of the
            records.
        allow_patient_overlap: take splits that put a patient on two sides.

    Raises:
        ConfigError: a label or a part is wrong.
    """
    recording_of = pd.Series(
        [whole or record for record, whole in zip(columns["record"], columns["recording"])],
        pd.Index(columns["record"], name="record"),
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{about.name}.csv"
        try:
            labels, splits = _read_tables(path, about, columns, recording_of, allow_patient_overlap)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), f"--metadata {path.name}")) from None
    return AboutTables(about.name, columns["record"], labels, splits)


def _read_tables(path, about, columns, recording_of, allow_patient_overlap):
    """Labels and splits of the records, by way of a file at ``path``."""
    labels = splits = None
    if about.labels is not None:
        of_records = recording_of[recording_of.isin(about.labels.index)]
        write_frame(path, about.labels.loc[of_records].set_axis(of_records.index), index=True)
        labels = load_label_file(path, columns["record"], wanted=list(about.labels))
    for kind in ("fold", "split"):
        parts = recording_of.map(about.values(kind)).dropna()
        if len(parts):
            write_frame(path, parts.to_frame(kind), index=True)
            splits = read_splits(path, columns, allow_patient_overlap=allow_patient_overlap)
    return labels, splits


def named_apart(tables: Sequence[AboutTables]) -> list[AboutTables]:
    """Return the tables of several imports, those of one name with a number behind it, and say so:
    each would replace the one before.
    """
    counts, named = Counter(one.name for one in tables), []
    for one in tables:
        if counts[one.name] > 1:
            taken = {other.name for other in (*tables, *named)}
            names = (f"{one.name}_{n}" for n in range(1, len(tables) + len(taken) + 2))
            new = next(name for name in names if name not in taken)
            note(
                f"--metadata of several imports are called {one.name}; the tables of "
                f"{first_few(one.records)} are called {new}"
            )
            one = one._replace(name=new)
        named.append(one)
    return named
