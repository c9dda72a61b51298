"""A file of labels: CSV, one row a record, checked from the first to the last cell before
anything is made of it.

    record,AF,LBBB        0 and 1: multi-label; an empty cell is unknown, not 0
    record,rhythm         one column of words: multi-class
    record,age,pr_ms      numbers: regression

A column ``patient`` (``PatientID``, ``subject_id``, ...) is no label: it says whose record it is.
Nor are columns of ids, row numbers, folds and files, unless they are asked for.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from util.console import note
from util.data.columns import holds_ages, holds_folds, holds_ids, split_names
from util.data.record_tables import alike, first_few, match_rows, note_unmatched, read_text
from util.errors import ConfigError
from util.files import is_unknown, safe_cell
from util.recordings.recording import OLDEST_AGE

LOOKS = {
    "multilabel": "0/1 (multi-label)",
    "multiclass": "words (multi-class)",
    "regression": "numbers (regression)",
}
FEW_ROWS = 10  # fewer that count up by one may be chance
MOST_CLASSES = 1000  # words of one column; more are rather names or free text
_FLAGS = {"true": 1.0, "false": 0.0}
_INFINITE = re.compile(r"[+-]?(nan|inf(inity)?)", re.IGNORECASE)
# Numbers with a decimal comma, signs between thousands, or a percent sign.
_NOT_PLAIN = re.compile(r"[+-]?[0-9]+([ .,_'\u2019][0-9]{3})*(,[0-9]+)?\s*%?")


@dataclass(frozen=True)
class LabelFile:
    """The labels that a file gives the records it was read for, in their order.

    Attributes:
        kind: a key of ``LOOKS``.
        columns: their names.
        classes: the same, or the words of a multi-class column.
        values: multilabel float64 (records, classes) of 1, 0 and NaN; multiclass int64
            (records,), -1 unknown; regression float64 (records, columns), NaN unknown.
        patients: their ids, "" where unknown, or None without such a column.
        has_row: bool (records,), which of them have a row.
    """

    kind: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    values: np.ndarray
    patients: list[str] | None
    has_row: np.ndarray


def load_label_file(
    path: str | os.PathLike,
    records: Sequence[str],
    *,
    ignore_unknown: bool = False,
    wanted: Sequence[str] | None = None,
    known_as: tuple[str, tuple[str, ...]] | None = None,
) -> LabelFile:
    """Read a CSV file of labels.

    Args:
        path: the file.
        records: names of the records that it is read for.
        ignore_unknown: leave out rows of other records, which are an error otherwise.
        wanted: the columns to take, whatever they are called; None for all but those that tell
            records apart, which a note names.
        known_as: (kind, classes) of a table that is already in a store, which was checked when it
            was added; otherwise both follow from all cells of the file.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong; the message says what
            and how to mend it.
    """
    table = read_text(path, keep=[*(wanted or ()), *split_names(wanted or (), ())])
    names = _columns_of_labels(path, table, wanted)
    for name in names:
        check_name(path, "column", name)
    columns = {name: _Column(table[name]) for name in names}
    kind, classes = known_as or _kind_and_classes(path, columns)
    row_of, has_row = match_rows(path, table["record"], records, ignore_unknown=ignore_unknown)
    if known_as is None:
        note_unmatched(table["record"], records, without="whose labels are unknown")
        _note_doubtful(path, kind, classes, columns)
    of_rows = _values(kind, classes, columns)
    unknown = -1 if kind == "multiclass" else np.nan
    values = np.full((len(row_of), *of_rows.shape[1:]), unknown, of_rows.dtype)
    values[has_row] = of_rows[row_of[has_row]]
    patients = None
    if "patient" in table:
        of_records = np.full(len(row_of), "", object)
        of_records[has_row] = table["patient"].to_numpy(object)[row_of[has_row]]
        patients = of_records.tolist()
    return LabelFile(kind, tuple(columns), classes, values, patients, has_row)


# ============ columns ============
def _columns_of_labels(
    path: str | os.PathLike, table: pd.DataFrame, wanted: Sequence[str] | None
) -> list[str]:
    """Names of the columns that are labels."""
    others = [name for name in table if name not in ("record", "patient")]
    if wanted is not None:
        wanted = split_names(wanted, table)
        missing = [name for name in wanted if name not in others]
        if missing:
            raise ConfigError(
                f"{path} has no column of labels {', '.join(missing)}; it has {', '.join(table)}"
            )
        return wanted
    no_labels = [
        name
        for name in others
        if holds_ids(name) or holds_folds(name) or _numbers_rows(table[name])
    ]
    names = [name for name in others if name not in no_labels]
    shown = ", ".join(name or "(a column without a name)" for name in no_labels)
    if no_labels and names:
        note(
            f"{path}: columns of ids, row numbers, folds or files are no labels and are left out: "
            f"{shown}; --columns takes one all the same"
        )
    if not names:
        raise ConfigError(
            f"{path} has no column of labels beside record and patient; add one"
            + f" ({shown}: ids, row numbers, folds or files; --columns takes one all the same)"
            * bool(no_labels)
        )
    return names


def _numbers_rows(cells: pd.Series) -> bool:
    """Say whether a column counts its rows, one by one."""
    if len(cells) < FEW_ROWS or not cells.str.strip().str.fullmatch(r"[0-9]{1,15}(\.0*)?").all():
        return False
    return bool((np.diff(cells.astype(float)) == 1).all())


def _note_doubtful(
    path: str | os.PathLike, kind: str, classes: Sequence[str], columns: dict[str, "_Column"]
) -> None:
    """Say which classes differ in writing alone, which ages nobody has, and which numbers will
    mean that one is unknown.
    """
    same = alike(classes)
    if same:
        note(
            f"warning: {path}: classes that differ in writing alone, and count as several: "
            f"{len(same)}, such as {' and '.join(same[0])}; write each in one way if they are one"
        )
    if kind != "regression":
        return
    for name, column in columns.items():
        ages = column.numbers[column.cell]
        if not holds_ages(name):
            _note_far_numbers(f"{path}: column {name}", ages[np.isfinite(ages)])
            continue
        strange = ages[(ages < 0) | (ages > OLDEST_AGE)]
        if len(strange):
            note(
                f"warning: {path}: column {name}: {len(strange)} of {np.isfinite(ages).sum()} ages "
                f"are below 0 or above {OLDEST_AGE}, such as {strange[0]:g}; empty the cell where "
                "an age is unknown (PTB-XL writes 300 for over 89)"
            )


def _note_far_numbers(where: str, numbers: np.ndarray) -> None:
    """Say which number lies further from all others than these from one another: -9999, 29999."""
    for far in (numbers.min(), numbers.max()):
        rest = numbers[numbers != far]
        if len(rest) >= FEW_ROWS and np.abs(rest - far).min() > np.ptp(rest) > 0:
            note(
                f"warning: {where}: {len(numbers) - len(rest)} of {len(numbers)} numbers are "
                f"{far:g}, all others lie from {rest.min():g} to {rest.max():g}; empty the cell "
                "where a value is unknown"
            )


# ============ names ============
def check_name(path: str | os.PathLike, what: str, name: str) -> None:
    """Check that a class of this name can be used in a table's header, a config and a file of
    predictions.

    Raises:
        ConfigError: it cannot.
    """
    if not name or safe_cell(name) != name or set(name) & set(",\"'"):
        raise ConfigError(
            f"{path}: a {what} cannot be called {name!r}: a class needs a name without commas, "
            "quotes, line ends and leading = + - @; give it another one"
        )


# ============ kinds and values ============
class _Column:
    """The cells of a column of labels: ``cell``, the number of each one's word, and the different
    ``words``.
    """

    def __init__(self, cells: pd.Series):
        self.cell, words = pd.factorize(cells)
        self.words = [word.strip() for word in words]  # two may differ in blanks alone
        flags = pd.Series(self.words, dtype=object)
        flags = flags.where(~flags.str.lower().isin(_FLAGS), flags.str.lower().map(_FLAGS))
        # of each word; NaN for other texts
        self.numbers = pd.to_numeric(flags, errors="coerce").to_numpy(float)

    def kind(self, where: str) -> str:
        """Return a key of ``LOOKS``; ``where`` names the column in a ConfigError."""
        finite = np.isfinite(self.numbers)
        others = [word for word in (self.words[place] for place in np.flatnonzero(~finite)) if word]
        if not others and not finite.any():
            raise ConfigError(f"{where} is empty throughout; fill it or leave it out")
        no_value = [word for word in others if is_unknown(word) or _INFINITE.fullmatch(word)]
        if no_value:
            raise ConfigError(
                f"{where} holds {no_value[0]!r}, which is no label; leave the cell empty where a "
                "label is unknown, and write another word where it is a class"
            )
        numbers = set(self.numbers[finite])
        if numbers == {-1, 0, 1}:
            raise ConfigError(
                f"{where} holds -1 beside 0 and 1; leave the cell empty where a label is unknown, "
                "and write words if these are three classes"
            )
        if numbers in ({-1, 0}, {-1, 1}):
            raise ConfigError(
                f"{where} holds -1 beside {max(numbers):g} alone; write 0 and 1, and leave the "
                "cell empty where a label is unknown"
            )
        if not others:
            return "multilabel" if np.isin(self.numbers[finite], (0, 1)).all() else "regression"
        odd = [word for word in others if _NOT_PLAIN.fullmatch(word)]
        if odd:
            raise ConfigError(
                f"{where} holds numbers that are not plain, such as {odd[0]!r}; write digits and a "
                "decimal point alone"
            )
        digits = [
            self.words[place]
            for place in np.flatnonzero(finite)
            if self.words[place].lower() not in _FLAGS
        ]
        if digits:
            raise ConfigError(
                f"{where} mixes numbers, such as {digits[0]!r}, and words, such as "
                f"{others[0]!r}; leave the cell empty where a label is unknown, and write "
                "classes as words"
            )
        return "multiclass"


def _kind_and_classes(
    path: str | os.PathLike, columns: dict[str, _Column]
) -> tuple[str, tuple[str, ...]]:
    """What kind of labels all columns hold, and the names of their classes."""
    kinds = {name: column.kind(f"{path}: column {name}") for name, column in columns.items()}
    if len(set(kinds.values())) > 1:
        parts = [
            f"{', '.join(name for name in columns if kinds[name] == kind)}: {look}"
            for kind, look in LOOKS.items()
            if kind in kinds.values()
        ]
        raise ConfigError(
            f"{path} mixes kinds of labels ({'; '.join(parts)}); write a file for each kind"
        )
    first, kind = next(iter(kinds.items()))
    if kind != "multiclass":
        return kind, tuple(columns)
    if len(columns) > 1:
        raise ConfigError(
            f"{path} has {len(columns)} columns of words, {', '.join(columns)}; one file holds "
            "one, whose words are the classes: write a file for each, or 0/1 columns"
        )
    classes = tuple(sorted(set(columns[first].words) - {""}))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ConfigError(
            f"{path}: column {first} holds {len(classes)} different words, such as "
            f"{first_few(classes)}, but classes are 2 to {MOST_CLASSES}; leave such a column out"
        )
    for word in classes:
        check_name(path, f"class of column {first}", word)
    return kind, classes


def _values(kind: str, classes: Iterable[str], columns: dict[str, _Column]) -> np.ndarray:
    """The labels of every row; see ``LabelFile``."""
    if kind == "multiclass":
        (column,) = columns.values()
        place = {name: number for number, name in enumerate(classes)}
        return np.array([place.get(word, -1) for word in column.words], np.int64)[column.cell]
    return np.stack([column.numbers[column.cell] for column in columns.values()], axis=1)
