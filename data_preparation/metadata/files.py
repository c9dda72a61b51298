"""Finding what a set's own CSV file says of the recordings of an import.

The file has a row a recording, under the name that the set gives it.  Columns of ages, sexes,
patients and folds are known by their names; others become labels where they are asked for.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import pandas as pd

from data_preparation.metadata.about import About
from data_preparation.metadata.split_files import part_of
from util.console import note
from util.data.columns import (
    holds_ages,
    holds_folds,
    holds_ids,
    holds_patients,
    split_names,
    words_of,
)
from util.data.record_tables import first_few, known_ids, near_matches, plain_name, read_cells
from util.data.splits import PARTS
from util.errors import ConfigError
from util.files import is_unknown
from util.formats.any_file import name_of
from util.formats.wfdb_files import CODED_AGE, SEXES
from util.recordings.recording import OLDEST_AGE

# Of several columns that could be the records' names, the first of these.
_IDS = ("record", "recordname", "recordid", "recording", "ecgid", "examid", "studyid", "filename")
_IDS += ("filenamehr", "file", "name", "ecg", "exam")
_WHOLE = re.compile(r"0*([0-9]+)(\.0*)?")
_NUMBERED = re.compile(r"([^\W\d]*[-_]?)0*([0-9]+)(_[hl]r)?")  # 00012_hr, HR00012, JS00012, 12
_SIDES = {"ismale": ("Female", "Male"), "male": ("Female", "Male")}
_SIDES |= {"isfemale": ("Male", "Female"), "female": ("Male", "Female")}
_PTBXL = {"ecg_id", "scp_codes", "strat_fold"}  # columns of a file in which sex 1 is female
_OVER_89 = "age over 89 (300 in the metadata), 90 noted"
_TRUTH = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class Named(Protocol):
    """A recording as the plan of an import has it."""

    @property
    def record(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def row(self) -> int | None: ...


def read_metadata(
    path: Path,
    recordings: Sequence[Named],
    *,
    id_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> About:
    """Read a CSV file and find the row of every recording.

    Args:
        path: the file.
        recordings: of the import.
        id_column: the column of the recordings' names; None for the usual one.
        columns: those to take; None for the ones of age, sex, patient and fold.

    Raises:
        ConfigError: the file or a column is wrong, or no row is of one of the recordings.
    """
    table = read_cells(path)
    key = id_column_of(path, table, id_column)
    roles, others = _roles(path, table.drop(columns=key), columns)
    ids = table[key].str.strip()
    table, ids = table[ids != ""], ids[ids != ""]
    if not len(ids):
        raise ConfigError(f"{path}: no row below its header names a record in column {key}")
    twice = ids[ids.duplicated()]
    if len(twice):
        raise ConfigError(
            f"{path}: the column {key} names {len(twice)} records more than once, such as "
            f"{first_few(twice)}; keep one row a record, or name another column by --id_column"
        )
    found = _find_rows(path, key, ids, recordings)
    known: dict[str, pd.Series] = {}
    for role, column in roles.items():
        known |= _READERS[role](path, table[column].str.strip(), table.columns)
    rows = pd.DataFrame(known, table.index).to_dict("index")
    cells = {
        name: {kind: text for kind, text in rows[row].items() if text}
        for name, row in found.items()
    }
    taken = [f"{role} from {column}" for role, column in roles.items()]
    taken += ["labels from " + ", ".join(others)] * bool(others)
    note(f"--metadata {path}: rows by {key}; {', '.join(taken)}")
    labels = table.loc[list(found.values()), others].set_axis(list(found)) if others else None
    flags = {"metadata": [path.name], "id_column": [key], "columns": [*roles.values(), *others]}
    typed = " ".join(f"--{flag} {shlex.join(values)}" for flag, values in flags.items())
    return About(plain_name(path, "metadata"), typed, cells, labels)


# ============ columns ============
def id_column_of(path: Path, table: pd.DataFrame, wanted: str | None = None) -> str:
    """Return the column of a table that names its records.

    Args:
        path: the file, for messages.
        table: what it holds.
        wanted: the column that was asked for; None for the usual one, or the only one.

    Raises:
        ConfigError: there is none, or several could be it.
    """
    if wanted is not None:
        if wanted not in table:
            raise ConfigError(
                f"{path} has no column {wanted} for --id_column; it has {', '.join(table)}"
            )
        return wanted
    glued = {"".join(words_of(name)): name for name in table}
    able = [glued[name] for name in _IDS if name in glued][:1]
    able = able or [name for name in table if holds_ids(name) and not holds_patients(name)]
    able = able if len(able) == 1 else [name for name in table if not holds_patients(name)]
    if len(able) != 1:
        raise ConfigError(
            f"{path}: name the column of the records' names by --id_column; there are "
            f"{', '.join(table)}"
        )
    return able[0]


def _roles(
    path: Path, table: pd.DataFrame, wanted: Sequence[str] | None
) -> tuple[dict[str, str], list[str]]:
    """({role: its column}, columns of labels)."""
    names = list(table) if wanted is None else split_names(wanted, table)
    missing = [name for name in names if name not in table]
    if missing:
        raise ConfigError(
            f"{path} has no column {', '.join(missing)} for --columns; it has {', '.join(table)}"
        )
    roles: dict[str, str] = {}
    for role, holds in _HOLDS.items():
        able = [name for name in names if holds(name)]
        able = [name for name in able if "".join(words_of(name)) == role] or able
        if len(able) > 1:
            raise ConfigError(
                f"{path}: several columns could be the {role}: {', '.join(able)}; choose by "
                "--columns"
            )
        if able:
            roles[role] = able[0]
    others = [] if wanted is None else [name for name in names if name not in roles.values()]
    if not roles and not others:
        raise ConfigError(
            f"{path}: no column is known as age, sex, patient or fold; choose by --columns among "
            f"{', '.join(table)}"
        )
    return roles, others


def _holds_sexes(name: str) -> bool:
    words = words_of(name)
    return bool({"sex", "gender"} & set(words)) or "".join(words) in _SIDES


_HOLDS = {"age": holds_ages, "sex": _holds_sexes, "patient": holds_patients, "fold": holds_folds}


# ============ rows ============
def _find_rows(path: Path, key: str, ids: pd.Series, recordings: Sequence[Named]) -> dict[str, int]:
    """{recording: label of its row}, by its name, its path, or the number in its name."""
    found, by_number = _by_name(ids, recordings), False
    are_numbers = bool(ids.map(lambda text: bool(_WHOLE.fullmatch(text))).all())
    if not found and are_numbers:
        found, by_number = _by_number(path, ids, recordings), True
    rows = set(found.values())
    lone = ids[~ids.index.isin(rows)]
    near = near_matches(lone, [one.record for one in recordings]) if len(lone) else []
    hint = f"; {len(near)} differ in writing alone: {near[0][0]} is {near[0][1]}" if near else ""
    if not found:
        raise ConfigError(
            f"--metadata {path}: none of its {len(ids)} rows is of one of the {len(recordings)} "
            f"recordings: the column {key} has {first_few(ids.tolist())}, they are called "
            f"{first_few([one.record for one in recordings[:4]])}{hint}; name another column by "
            "--id_column"
        )
    databases = sorted({one.database for one in recordings if one.record in found})
    if len(databases) > 1 and are_numbers:
        raise ConfigError(
            f"--metadata {path}: the numbers in column {key} name recordings of several "
            f"databases, {', '.join(databases)}; import the one that the file belongs to by itself"
        )
    record, row = next(iter(found.items()))
    note(
        f"--metadata {path}: rows that name a recording: {len(rows)} of {len(ids)}; recordings "
        f"with a row: {len(found)} of {len(recordings)}{hint}"
        + f"; they go by the number in a name: {ids[row]} is {record}"
        * by_number
    )
    return found


def _by_name(ids: pd.Series, recordings: Sequence[Named]) -> dict[str, int]:
    """By the recording's name, else by its path or its file's name, with or without the ending."""
    row_of = dict(zip(ids, ids.index))
    found = {}
    for one in recordings:
        way = PurePosixPath(one.path)
        # endings of files alone: 100.2 is a name, and no file 100
        stem = name_of(way)
        names = (one.record, one.path, way.with_name(stem).as_posix(), way.name, stem)
        row = next((row_of[name] for name in names if name in row_of), None)
        if row is not None:
            found[one.record] = row
    return found


def _by_number(path: Path, ids: pd.Series, recordings: Sequence[Named]) -> dict[str, int]:
    """By the number in the recording's name, where each stands for one name alone."""
    numbers = ids.str.replace(_WHOLE, r"\1", regex=True)
    twice = ids[numbers.duplicated(keep=False) & ids.str.fullmatch(_WHOLE)]
    if len(twice):
        one, other = sorted(twice[numbers == numbers[twice.index[0]]])[:2]
        raise ConfigError(
            f"--metadata {path}: {one} and {other} are one number, and both are rows; write the "
            "recordings' names into a column, and name it by --id_column"
        )
    row_of = dict(zip(numbers, ids.index))
    _refuse_places(path, numbers, recordings)
    found: dict[str, int] = {}
    first: dict[int, tuple[str, str]] = {}
    for one in recordings:
        match = _NUMBERED.fullmatch(one.record)
        row = row_of.get(match[2]) if match else None
        if match and row is not None:
            found[one.record] = row
            letters, other = first.setdefault(row, (match[1], one.record))
            if letters != match[1]:
                raise ConfigError(
                    f"--metadata {path}: {ids[row]} may be {other} or {one.record}; write the "
                    "recordings' names into a column, and name it by --id_column"
                )
    return found


def _refuse_places(path: Path, numbers: pd.Series, recordings: Sequence[Named]) -> None:
    """A ConfigError where recordings are called by their places, which rows do not go by.

    They do where they have the numbers of all places, from 0.
    """
    matches = [_NUMBERED.fullmatch(one.record) for one in recordings]
    named = {int(match[2]) for match in matches if match}
    rows = set(map(int, numbers))
    placed = [
        one.record
        for one in recordings
        if one.row is not None and one.record.endswith(f"-{one.row}")
    ]
    if placed and rows != named:
        raise ConfigError(
            f"--metadata {path}: {first_few(placed)} are places in an array, from 0, and the rows "
            f"have other numbers, such as {first_few(numbers.tolist())}: give the recordings their "
            "names by --ids"
        )
    if len(named) > 1 and min(named) == 0 and rows == {place + 1 for place in named}:
        raise ConfigError(
            f"--metadata {path}: the recordings count from 0, the rows from 1, so that their "
            "numbers are of different ones; write the recordings' names into a column, and name it "
            "by --id_column"
        )


# ============ cells ============
def _ages(path: Path, cells: pd.Series, _: pd.Index) -> dict[str, pd.Series]:
    """Years; PTB-XL's 300 becomes 90, as in the Challenge's headers."""
    ages = pd.to_numeric(cells, errors="coerce")
    coded = ages == CODED_AGE
    ages = ages.mask(coded, 90.0)
    wrong = ~cells.map(is_unknown) & ~ages.between(0, OLDEST_AGE)
    if coded.any():
        note(f"{path}: ages of over 89 (300 in the file), 90 noted: {coded.sum()}")
    if wrong.any():
        note(
            f"warning: {path}: cells of {cells.name} that are no age, which stays unknown: "
            f"{wrong.sum()}, such as {first_few(sorted(set(cells[wrong])))}"
        )
    texts = ages.where(ages.between(0, OLDEST_AGE)).map("{:g}".format).replace("nan", "")
    return {"age": texts, "remark": coded.map({True: _OVER_89, False: ""})}


def _sexes(path: Path, cells: pd.Series, columns: pd.Index) -> dict[str, pd.Series]:
    """Male and Female, of words, of columns such as is_male, and of PTB-XL's numbers."""
    words = cells.str.casefold()
    sides = _SIDES.get("".join(words_of(str(cells.name))))
    if sides is None and words.isin(_TRUTH).any() and set(columns) >= _PTBXL:
        sides = ("Male", "Female")
        note(f"{path}: {cells.name} 0 is taken as male, 1 as female, as PTB-XL has it")
    sexes = words.map(SEXES if sides is None else {text: sides[n] for text, n in _TRUTH.items()})
    wrong = sexes.isna() & ~cells.map(is_unknown)
    if wrong.any():
        note(
            f"warning: {path}: cells of {cells.name} that are no sex, which stays unknown: "
            f"{wrong.sum()}, such as {first_few(sorted(set(cells[wrong])))}; write M and F"
        )
    return {"sex": sexes.fillna("")}


def _patients(path: Path, cells: pd.Series, _: pd.Index) -> dict[str, pd.Series]:
    """Ids; whole numbers lose the .0 that programs write behind them."""
    known = known_ids(path, cells)
    if known[known != ""].str.fullmatch(_WHOLE).all():
        known = known.str.replace(r"\.0*$", "", regex=True)
    return {"patient": known}


def folds_in(path: Path, cells: pd.Series) -> tuple[str, pd.Series]:
    """Return "fold" and whole numbers, or "split" and parts, as texts, "" where unknown.

    Args:
        path: the file, for messages.
        cells: a column of it.

    Raises:
        ConfigError: a cell is neither.
    """
    known = cells.mask(cells.map(is_unknown) & ~cells.str.fullmatch("-1"), "")
    if known[known != ""].str.fullmatch(r"[+-]?[0-9]+(\.0*)?").all():
        return "fold", known.str.replace(r"\.0*$", "", regex=True)
    parts = known.map(part_of)
    wrong = parts.isna()
    if wrong.any():
        raise ConfigError(
            f"{path}: column {cells.name} holds {cells[wrong].iloc[0]!r}, which is neither a fold "
            f"(a whole number) nor one of {', '.join(PARTS)}"
        )
    return "split", parts


def _folds(path: Path, cells: pd.Series, _: pd.Index) -> dict[str, pd.Series]:
    return dict([folds_in(path, cells)])


_READERS: dict[str, Callable[[Path, pd.Series, pd.Index], dict[str, pd.Series]]]
_READERS = {"age": _ages, "sex": _sexes, "patient": _patients, "fold": _folds}
