"""Which database annotated which class: where it never did, a label is unknown, not negative.

The CPSC 2018 records of the Challenge carry nine kinds of label; that none of them has a left
axis deviation says nothing about their axes.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from util.console import note
from util.data.record_tables import read_cells
from util.data.store import RecordStore
from util.errors import ConfigError
from util.labels.tables import Labels, parse_classes

CODE_COLUMNS = ("snomedctcode", "code", "class")  # in lower case, letters and digits alone
# The Challenge's names of its databases, in the same way, where they are not ours
_DATABASES = {
    "cpsc": "cpsc2018",
    "cpscextra": "cpsc2018extra",
    "stpetersburg": "stpetersburgincart",
}


class MaskChoice(Protocol):
    """The keys of section ``dataset`` that say which database annotated what."""

    @property
    def labels(self) -> str | dict | None: ...
    @property
    def classes(self) -> str | dict | None: ...
    @property
    def databases(self) -> list | None: ...
    @property
    def test_database(self) -> str | None: ...


class LabelMasks:
    """Which labels to treat as unknown.

    A label is unknown where a record's database never annotated its class.  Under protocol
    leave_one_database a class without a positive training record is not scored on the database
    that is left out.

    Args:
        labels: of all records of the store.
        store: the one that the labels belong to.
        data: the config's choices.
        wanted: ``dataset.mask_unannotated``; None: under protocol leave_one_database.
        counts_file: ``dataset.annotated``.

    Attributes:
        labels: with the labels of classes that were not annotated unknown.

    Raises:
        ConfigError: a key has no effect, or the file of counts is wrong.
    """

    def __init__(
        self,
        labels: Labels,
        store: RecordStore,
        data: MaskChoice,
        *,
        wanted: bool | None = None,
        counts_file: str | None = None,
    ):
        multilabel = labels.kind == "multilabel"
        if wanted and not multilabel:
            raise ConfigError(
                f"dataset.mask_unannotated has no effect on {labels.kind} labels: multi-label "
                "ones alone are unknown class by class"
            )
        self.left_out = data.test_database
        if wanted is None:
            wanted = multilabel and self.left_out is not None
        if not wanted and counts_file is not None:
            raise ConfigError(
                "dataset.annotated has no effect without dataset.mask_unannotated: true "
                "(multi-label alone)"
            )
        self.wanted, self.labels, self.store = wanted, labels, store
        self.databases = store.records["database"].to_numpy()
        self.used = np.ones(len(self.databases), bool)
        if data.databases is not None:
            self.used = np.isin(self.databases, list(map(str, data.databases)))
        if wanted:
            codes = parse_classes(data.classes)
            if data.labels is not None:  # a table's classes have their name as a code
                codes = {name: {name} for name in labels.classes}
            values, used = labels.values.copy(), self.used
            values[used] = mask_unannotated(values[used], self.databases[used], codes, counts_file)
            self.labels = with_values(labels, values)

    @property
    def by_fold(self) -> bool:
        """Return whether the labels depend on the fold."""
        return self.wanted and self.left_out is not None

    def of_fold(self, selects: np.ndarray) -> Labels:
        """Return the labels of the fold that selects on these records, bool (records,)."""
        if not self.by_fold:
            return self.labels
        values, used = self.labels.values.copy(), self.used
        tested = self.databases == self.left_out
        values[used] = mask_untrained(
            values[used], tested[used], self.labels.classes, ~(tested | selects)[used]
        )
        return with_values(self.labels, values)


def with_values(labels: Labels, values: np.ndarray) -> Labels:
    """Return multi-label labels with these values; records all of whose labels are unknown are no
    longer known.
    """
    return replace(labels, values=values, known=labels.known & ~np.isnan(values).all(axis=1))


def mask_unannotated(
    labels: np.ndarray,
    databases: np.ndarray,
    classes: Mapping[str, set[str]],
    path: str | os.PathLike | None = None,
) -> np.ndarray:
    """Return multi-label labels with NaN, unknown, where a record's database never annotated the
    class; a note for each database says which.

    Args:
        labels: float (records, classes) of 0, 1 and NaN, of all records of the store.
        databases: names (records,).
        classes: {name: codes}; classes of a table of labels have their name as a code.
        path: CSV file of counts, ``read_annotated``; None, and for databases and classes that it
            does not have: a class without a positive record in a database was not annotated
            there.

    Raises:
        ConfigError: the file is wrong.
    """
    databases, labels = np.asarray(databases, str), labels.copy()
    names = sorted(set(databases.tolist()))
    counts = read_annotated(path) if path else {}
    absent = [name for name in names if _plain(name) not in counts]
    if path and absent:
        note(
            f"{path} has no column for {', '.join(absent)}: there, a class without a positive "
            "record in the store counts as not annotated"
        )
    for database in names:
        members = databases == database
        annotated = (labels[members] > 0).any(axis=0)
        known = counts.get(_plain(database), {})
        for number, codes in enumerate(classes.values()):
            if known.keys() & codes:
                annotated[number] = any(known.get(code, 0) > 0 for code in codes)
        labels[np.ix_(members, ~annotated)] = np.nan
        missing = [name for name, yes in zip(classes, annotated) if not yes]
        if missing:
            note(
                f"classes that {database} never annotated, unknown for its {members.sum()} "
                f"records: {len(missing)} of {len(classes)} ({', '.join(missing)})"
            )
    return labels


def mask_untrained(
    labels: np.ndarray, left_out: np.ndarray, classes: tuple[str, ...], training: np.ndarray
) -> np.ndarray:
    """Return labels with NaN, on the records that are left out, for classes without a positive
    training record: they cannot be learned, so they are not scored.  A note names them.

    Args:
        labels: float (records, classes), from ``mask_unannotated``.
        left_out: bool (records,).
        classes: names.
        training: bool (records,).
    """
    untrained = ~(labels[training] > 0).any(axis=0) & ~np.isnan(labels[left_out]).all(axis=0)
    labels = labels.copy()
    labels[np.ix_(left_out, untrained)] = np.nan
    names = [name for name, yes in zip(classes, untrained) if yes]
    if names:
        note(
            "classes without a positive training record, not scored on the database left out: "
            f"{', '.join(names)}"
        )
    return labels


def read_annotated(path: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Read {database: {code: number of its records}} from a CSV file; databases in lower case,
    letters and digits alone.

    It has a row a class with its SNOMED CT code (column SNOMED CT Code, SNOMEDCTCode or code) or
    its name (column class), and a column a database with the number of its records of that class;
    columns without numbers are passed over.  The Challenge's dx_mapping_scored.csv is such a
    file.

    Raises:
        ConfigError: it is unreadable or lacks these columns.
    """
    table = read_cells(path)
    header = {_plain(name): name for name in table if name}
    code = next((header[name] for name in CODE_COLUMNS if name in header), None)
    counts = {
        _DATABASES.get(plain, plain): dict(zip(table[code].str.strip(), table[name].astype(float)))
        for plain, name in header.items()
        if code and name != code and table[name].str.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*").all()
    }
    if not counts or not len(table):
        raise ConfigError(
            f"dataset.annotated: {path} needs a column of codes or names (SNOMED CT Code, code "
            "or class) and a column a database with the numbers of its records"
        )
    return counts


def _plain(name: str) -> str:
    """A name in lower case, letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
