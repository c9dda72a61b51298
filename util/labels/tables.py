"""Labels of records: a table with a name and a kind, and three values for each label: yes, no and
unknown.

They come from the diagnoses of a store (``dataset.classes``) or from a table beside it
(``dataset.labels``): ``<store>/labels/<name>.csv``, made by data_preparation/add_labels.py, with
its kind and classes in ``<name>.json``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from util.challenge import CLASS_CODES, labels_from_dx
from util.console import note
from util.data.record_tables import find_table, first_few, save_table, table_name
from util.data.store import RecordStore
from util.errors import ConfigError
from util.files import safe_cell
from util.labels.files import LOOKS, LabelFile, load_label_file

MIN_POSITIVES = 10  # with fewer records of a class its scores are mostly chance


@dataclass(frozen=True)
class Labels:
    """Labels of all records of a store, in its order.

    Attributes:
        name: of the table, or dataset.classes.
        kind: multilabel, multiclass or regression.
        classes: names of classes or, in regression, of columns.
        values: multilabel float32 (records, classes) of 1, 0 and NaN = unknown; multiclass int64
            (records,) of class numbers, -1 = unknown; regression float32 (records, columns), NaN
            = unknown.
        known: bool (records,), which records can be learned from: those with a known label; of
            ``dataset.classes`` those to which at least one class applies, in multi-class exactly
            one.
        patients: ids (records,) that a table gives, "" where it does not; None without such a
            column.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray
    patients: np.ndarray | None = None


class LabelChoice(Protocol):
    """The keys of section ``dataset`` that choose the labels."""

    @property
    def labels(self) -> str | dict | None: ...
    @property
    def classes(self) -> str | dict | None: ...


def read_labels(store: RecordStore, data: LabelChoice, task: str | None = None) -> Labels:
    """Read the labels that a config's section ``dataset`` asks for: the one way in.

    Args:
        store: whose records they are of.
        data: the config's choices.
        task: of ``dataset.classes``: multilabel (None, too) or multiclass; the columns of a table
            say it themselves.

    Raises:
        ConfigError: both are given, there is no such table, or the choice is wrong.
        StoreError: the table is damaged.
    """
    if data.labels is not None:
        if data.classes is not None:
            raise ConfigError(
                "dataset.labels and dataset.classes both say what the labels are; leave one of "
                "them null"
            )
        return _read_table(store, data.labels)
    classes = parse_classes(data.classes)
    if task == "regression":
        raise ConfigError(
            "regression needs numbers, and dataset.classes gives none; name a table in "
            "dataset.labels"
        )
    task = task or "multilabel"
    values, known = make_labels(store, classes, task)
    return Labels("dataset.classes", task, tuple(classes), values, known)


# ============ from diagnoses ============
def parse_classes(value: str | dict | None) -> Mapping[str, set[str]]:
    """Read ``dataset.classes`` as {name: SNOMED CT codes}.

    Args:
        value: challenge2020, None for the same, or {name: code or codes}.

    Raises:
        ConfigError: it is anything else.
    """
    if value in (None, "challenge2020"):
        return CLASS_CODES
    if not isinstance(value, dict) or len(value) < 2:
        raise ConfigError(
            "dataset.classes must be challenge2020 or a mapping of at least two classes, {name: "
            "[SNOMED CT codes]}"
        )
    classes = {
        str(name): {str(code) for code in (codes if isinstance(codes, list) else [codes])}
        for name, codes in value.items()
    }
    for name, codes in classes.items():
        if not codes:
            raise ConfigError(f"dataset.classes: {name!r} has no code")
        for code in codes:
            if not code.isdigit():
                raise ConfigError(
                    f"dataset.classes: {code!r} is not a SNOMED CT code (digits only)"
                )
    return classes


def make_labels(
    store: RecordStore, classes: Mapping[str, set[str]], task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return every record's label by its diagnoses, and which records have one; see ``Labels``."""
    matrix = labels_from_dx(store.records["dx"], classes)
    counts: np.ndarray = matrix.sum(axis=1)
    if task == "multiclass":
        return matrix.argmax(axis=1), np.equal(counts, 1)
    return matrix.astype(np.float32), np.greater(counts, 0)


# ============ tables beside a store ============
def write_labels(
    root: str | os.PathLike,
    name: str,
    file: LabelFile,
    records: Sequence[str],
    source: str,
    command: str,
) -> None:
    """Write ``root/labels/<name>.csv`` and ``.json``, replacing a table of that name, and say
    what it is.

    Args:
        root: the folder that holds fs100/ and others.
        name: of the table.
        file: the labels of ``records``.
        records: names of the store's records.
        source: name of the labels' file.
        command: the command line that made it.
    """
    cells: dict[str, Any] = {"record": np.asarray(records, object)}
    if file.kind == "multiclass":
        cells[file.columns[0]] = np.array([*file.classes, ""], object)[file.values]
    else:
        whole = "Int64" if file.kind == "multilabel" else "Float64"
        cells |= {
            column: pd.array(file.values[:, c], whole) for c, column in enumerate(file.columns)
        }
    if file.patients is not None:
        cells["patient"] = [safe_cell(patient) for patient in file.patients]
    new = save_table(
        root,
        "labels",
        name,
        pd.DataFrame(cells)[file.has_row],
        {
            "kind": file.kind,
            "columns": list(file.columns),
            "classes": list(file.classes),
            "source": source,
            "command": [command],
        },
    )
    print(
        f"{new}: {file.has_row.sum()} of {len(file.has_row)} records, {LOOKS[file.kind]}: "
        + ", ".join(file.classes)
    )
    known = file.values >= 0 if file.kind == "multiclass" else ~np.isnan(file.values)
    counts = known[file.has_row].reshape(-1, len(file.columns)).sum(axis=0)
    partly = [
        f"{column} {count}"
        for column, count in zip(file.columns, counts)
        if count < file.has_row.sum()
    ]
    if partly:
        print(f"records with a known label, of these {file.has_row.sum()}: {first_few(partly, 20)}")
    if file.kind == "regression":
        print(
            "note: numbers are taken as regression; if they are codes of classes, write words "
            "instead"
        )


def _read_table(store: RecordStore, choice: str | dict) -> Labels:
    """The table of ``dataset.labels``: its name, or {name: ..., columns: [...]}."""
    name, wanted = _parse_choice(choice)
    path, about = find_table(store.path.parent, "labels", name, ("kind", "columns", "classes"))
    try:
        file = load_label_file(
            path,
            store.records["record"],
            wanted=about["columns"],
            known_as=(about["kind"], tuple(about["classes"])),
        )
    except ConfigError as error:
        raise ConfigError(
            f"dataset.labels: {error}; add the table again with data_preparation/add_labels.py"
        ) from None
    if file.kind == "multiclass":
        values, known = file.values, file.values >= 0
    else:
        values = file.values.astype(np.float32)
        known = ~np.isnan(values).all(axis=1)
    patients = None if file.patients is None else np.array(file.patients, object)
    labels = Labels(name, file.kind, file.classes, values, known, patients)
    return labels if wanted is None else _choose_columns(labels, file.columns, wanted)


def _parse_choice(choice: str | dict) -> tuple[str, list[str] | None]:
    """The table's name, and its wanted columns, None for all."""
    given = {"name": choice} if isinstance(choice, str) else choice
    columns = given.get("columns")
    if (
        set(given) - {"name", "columns"}
        or not isinstance(given.get("name"), str)
        or not (columns is None or isinstance(columns, list) and columns)
    ):
        raise ConfigError(
            f"dataset.labels must be a table's name, or {{name: NAME, columns: [...]}}, not "
            f"{choice!r}"
        )
    name = table_name("labels", given["name"], given["name"])
    return name, None if columns is None else [str(column) for column in columns]


def _choose_columns(labels: Labels, columns: tuple[str, ...], wanted: list[str]) -> Labels:
    """The labels of these columns alone."""
    unknown = [column for column in wanted if column not in columns]
    if unknown:
        raise ConfigError(
            f"dataset.labels.columns: the table {labels.name} has no {', '.join(unknown)}; its "
            f"columns are {', '.join(columns)}; add_labels.py --columns takes others of its file"
        )
    if len(set(wanted)) < len(wanted):
        raise ConfigError("dataset.labels.columns names a column twice")
    if labels.kind == "multiclass":
        return labels
    values = labels.values[:, [columns.index(column) for column in wanted]]
    known = ~np.isnan(values).all(axis=1)
    return replace(labels, classes=tuple(wanted), values=values, known=known)


# ============ notes on unknown and rare labels ============
def note_unknown_labels(
    values: np.ndarray, classes: tuple[str, ...], part: str, whole: list[str]
) -> None:
    """Print how many labels of a part are unknown, if any are.

    Args:
        values: of ``Labels``, of the part's records.
        classes: their names.
        part: training, selection or test.
        whole: names of the scores that judge a record as a whole.
    """
    known = ~np.isnan(values)
    if known.ndim == 1 or known.all():
        return
    note(
        f"unknown labels in the {part} part, which take no part in loss and scores: "
        f"{(~known).sum()} of {known.size}"
    )
    none = [name for name, any_known in zip(classes, known.any(axis=0)) if not any_known]
    if none:
        note(
            f"the {part} part has no known label of {', '.join(none)}: no output for it is "
            "learned or scored there"
        )
    if whole and part != "training":
        partly = (~known.all(axis=1)).sum()
        note(
            f"{', '.join(whole)} cannot count {partly} of {len(known)} records of the {part} "
            "part, which have an unknown label"
        )


def note_rare_classes(values: np.ndarray, classes: tuple[str, ...], part: str) -> None:
    """Name the classes of which a training part holds no record, or a test part few.

    Args:
        values: of ``Labels`` (none of regression), of the part's records.
        classes: their names.
        part: training, selection or test.
    """
    counts = dict(zip(classes, _positives(values, classes)))
    none = [name for name, count in counts.items() if not count]
    if none and part == "training":
        note(
            f"the training part has no record of {', '.join(none)}: nothing is learned of these, "
            "and scores of other parts that have some include them all the same"
        )
    few = [f"{name} ({count})" for name, count in counts.items() if count < MIN_POSITIVES]
    if few and part == "test":
        note(
            f"the {part} part has fewer than {MIN_POSITIVES} records of {', '.join(few)}: their "
            "scores, and means over classes, say little"
        )


def _positives(values: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Number of records of each class, int64 (classes,)."""
    if values.ndim == 2:
        return np.nansum(values, axis=0).astype(int)
    return np.bincount(values, minlength=len(classes))
