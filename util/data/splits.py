"""Which records a job uses, and for what: databases, folds and splits."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from util.console import note
from util.data.record_tables import find_table
from util.data.store import FOLDS, NO_FOLD, RecordStore
from util.data.strata import fraction_of
from util.errors import ConfigError

ALL_FOLDS = 11  # the fusion original's number for all ten folds
PARTS = ("train", "valid", "test")
_NEW_FOLDS = "data_preparation/reformat_memmap.py makes a store in which every record has one"
# keys to the protocols that they belong to
_BELONGS_TO = {"splits": "given", "given": "given", "test_database": "leave_one_database"}


class SplitChoice(Protocol):
    """The keys of section ``dataset`` that say which records train, select and test."""

    @property
    def fold(self) -> int | list | str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def splits(self) -> str | None: ...
    @property
    def given(self) -> dict | None: ...
    @property
    def test_database(self) -> str | None: ...


class ExcludeChoice(SplitChoice, Protocol):
    """What of it says which records self-supervision leaves out."""

    @property
    def exclude_folds(self) -> list: ...
    @property
    def exclude_parts(self) -> list: ...


def choose_rows(
    store: RecordStore,
    *,
    databases: Collection | None = None,
    leads: Sequence[str] | None = None,
    max_records: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the rows of a store that a job may use, in store order.

    Args:
        store: the records.
        databases: those wanted; None: all.
        leads: names of leads that a record must have.
        max_records: take no more than these, drawn by the seed.
        seed: of the draw.

    Raises:
        ConfigError: the store does not hold a database, or no record has all the leads.
    """
    rows = np.arange(len(store))
    if databases is not None:
        wanted, known = set(map(str, databases)), set(store.records["database"])
        if not wanted <= known:
            raise ConfigError(
                f"dataset.databases: the store has no {', '.join(sorted(wanted - known))}; it "
                f"holds {', '.join(sorted(known))}"
            )
        rows = np.flatnonzero(store.records["database"].isin(wanted))
    if leads is not None:
        complete = rows[store.has_leads(leads)[rows]]
        if not len(complete):
            raise ConfigError(
                f"dataset.lead: none of {len(rows)} records has all of the leads "
                f"{' '.join(leads)}; the first has {store.records['leads'].iloc[rows[0]]}; "
                "choose leads that records have, for lead I alone with --overlay lead1"
            )
        rows = complete
    if max_records is not None and len(rows) > max_records:
        rows = np.sort(np.random.default_rng([seed, 1]).permutation(rows)[:max_records])
    return rows


def _are_folds(values: Any) -> bool:
    """Whether this is a list of different folds."""
    if not isinstance(values, list):
        return False
    valid = all(type(fold) is int and 0 <= fold < FOLDS for fold in values)
    return valid and len(set(values)) == len(values)


def parse_folds(value: int | list | str) -> list[int]:
    """Read ``dataset.fold`` as a list of test folds.

    Args:
        value: a fold 0-9, a list of different ones, or all of them: 'all', or 11 as published.

    Raises:
        ConfigError: it is anything else.
    """
    if value in ("all", ALL_FOLDS, [ALL_FOLDS]):
        return list(range(FOLDS))
    folds: list = value if isinstance(value, list) else [value]
    if not folds or not _are_folds(folds):
        raise ConfigError(
            f"dataset.fold must be a fold 0-{FOLDS - 1}, a list of different ones, or 'all' (or "
            f"{ALL_FOLDS}, the same), not {value!r}"
        )
    return folds


def run_numbers(data: SplitChoice) -> list[int]:
    """Return the runs of a job: the folds of ``dataset.fold``; with given splits one, number 0.

    Raises:
        ConfigError: a key of another protocol is set.
    """
    protocol = data.protocol
    for key, owner in _BELONGS_TO.items():
        if getattr(data, key) is not None and protocol != owner:
            raise ConfigError(
                f"dataset.{key} has no effect with dataset.protocol: {protocol}; it belongs to "
                f"{owner}"
            )
    folds = parse_folds(data.fold)
    return [0] if protocol == "given" else folds


def selection_fold(protocol: str, run: int) -> int | str:
    """Return the fold that a run selects on, "valid" with given splits."""
    if protocol == "given":
        return "valid"
    return (run + 1) % FOLDS if protocol == "nested" else run


# ============ protocols ============
@dataclass(frozen=True)
class Splits:
    """Which records train, select and test.

    Attributes:
        masks: number of a run -> {part: bool (records of the store,)}, parts PARTS.
        title: number of a run -> its description in printed sentences.
        in_use: bool (records,), those that are in some part of some run.
        patients: texts (records,), the same for records of one patient, "" where unknown.
        lack: what the records that are not in use lack.
        checksum: of the table of splits, "" without one.
    """

    masks: Callable[[int], dict[str, np.ndarray]]
    title: Callable[[int], str]
    in_use: np.ndarray
    patients: np.ndarray
    lack: str = f"a fold, which take no part: {{}}; {_NEW_FOLDS}"
    checksum: str = ""


def make_splits(
    store: RecordStore, data: SplitChoice, patients: Sequence[str] | np.ndarray | None = None
) -> Splits:
    """Make the splits that ``dataset.protocol`` and its keys ask for.

    nested: run k tests on fold k, selects on fold k + 1 (mod 10), trains on the other eight.
    published: selects and reports on fold k, trains on the other nine.  given: as a table of
    splits says.  leave_one_database: tests on all records of ``dataset.test_database``, selects
    on fold k of the other databases and trains on their other nine folds.  Records without a
    fold, or without a row in the table, are in no part.

    Args:
        store: the records.
        data: the config's choices.
        patients: ids (records,), "" where unknown, from the table of labels; they replace the
            store's, and those of a table of splits replace both.

    Raises:
        ConfigError: a choice is wrong, or does not fit the store.
    """
    run_numbers(data)  # its checks
    columns = ["record", "path", "database", "patient", "fold"]
    records = with_patients(store.records[columns], patients)
    splits = PROTOCOLS[data.protocol](store, data, records)
    if patients is not None and data.protocol != "given":  # the store's own share their folds
        sides = np.stack([records["fold"] == fold for fold in range(FOLDS)])
        several = patients_on_several_sides(splits.patients, sides)
        if len(several):
            note(
                f"patients who are in several folds of the store: {len(several)}; scores may be "
                "too good; make it again by data_preparation/reformat_memmap.py --labels"
            )
    return splits


def with_patients(
    records: pd.DataFrame, patients: Sequence[str] | np.ndarray | None
) -> pd.DataFrame:
    """Return records with these ids of patients.

    A record whose new id is "" has the new id of another record of the same patient, so that a
    patient has one id, else it keeps its old one; with None all keep their old ones.

    Args:
        records: columns as ``known_patients`` takes them.
        patients: the new ids (records,).
    """
    if patients is None:
        return records
    old, new = known_patients(records), np.asarray(patients, object)
    both = (new != "") & (old != "")
    new_of = pd.Series(new[both], old[both], dtype=object)
    # NaN where no record of the patient has a new id
    renamed = new_of[~new_of.index.duplicated()].reindex(old).to_numpy()
    kept = np.where(pd.isna(renamed), records["patient"], renamed)
    return records.assign(patient=np.where(new != "", new, kept))


def _of_folds(store: RecordStore, data: SplitChoice, records: pd.DataFrame) -> Splits:
    """nested and published."""
    folds = store.records["fold"].to_numpy()

    def masks(run: int) -> dict[str, np.ndarray]:
        test, valid = folds == run, folds == selection_fold(data.protocol, run)
        return {"train": (folds != NO_FOLD) & ~test & ~valid, "valid": valid, "test": test}

    return Splits(masks, "fold {}".format, folds != NO_FOLD, known_patients(records))


def _leave_one_database(store: RecordStore, data: SplitChoice, records: pd.DataFrame) -> Splits:
    folds, databases = store.records["fold"].to_numpy(), store.records["database"]
    name, known = data.test_database, sorted(set(databases))
    if not name:
        raise ConfigError(
            "dataset.protocol leave_one_database needs dataset.test_database: one of "
            f"{', '.join(known)}"
        )
    if name not in known:
        raise ConfigError(
            f"dataset.test_database: the store has no {name}; it holds {', '.join(known)}"
        )
    if len(known) == 1:
        raise ConfigError(
            f"dataset.protocol leave_one_database: the store holds {name} alone, none to train on"
        )
    left_out = (databases == name).to_numpy()
    others = ~left_out & (folds != NO_FOLD)

    def masks(run: int) -> dict[str, np.ndarray]:
        valid = others & (folds == run)
        return {"train": others & ~valid, "valid": valid, "test": left_out}

    return Splits(
        masks,
        lambda run: f"{name} left out, fold {run}",
        left_out | others,
        known_patients(records),
    )


def known_patients(records: pd.DataFrame) -> np.ndarray:
    """Return a text for each record, the same for those of one patient, "" where unknown; the same
    id in two databases is two patients.  Pieces of one recording are of one patient, known or not.

    Args:
        records: columns database and patient, and such as say which records are pieces, see
            ``recordings_of``.
    """
    named = np.where(records["patient"] != "", records["database"] + "/" + records["patient"], "")
    return np.where(named != "", named, recordings_of(records))


def recordings_of(records: pd.DataFrame) -> np.ndarray:
    """Return a text for each piece of a recording (--segment_seconds), the same for pieces of one,
    "" for whole recordings.

    Args:
        records: columns database and either recording ("" for whole ones) or, as a store has
            them, record and path; without these no record is a piece.
    """
    if "recording" in records:
        whole = records["recording"].astype(object)
    elif {"record", "path"} <= set(records):
        # <recording>_1, <recording>_2, ... of one file
        whole = records["record"].str.replace(r"_[0-9]+$", "", regex=True)
        places = records[["database", "path"]].assign(whole=whole)
        is_piece = (whole != records["record"]) & (records["path"] != "")
        whole = whole.where(is_piece & places.duplicated(keep=False), "")
    else:
        return np.full(len(records), "", object)
    return np.where(whole != "", records["database"] + "/recording " + whole, "")


def _given(store: RecordStore, data: SplitChoice, records: pd.DataFrame) -> Splits:
    """As a table of splits says."""
    path, facts = find_table(store.path.parent, "splits", data.splits, ("kind",))
    table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col="record")
    # NaN where the table has no row
    values = table[facts["kind"]].reindex(store.records["record"]).to_numpy()
    where = f"the splits {path.stem}"
    if facts["kind"] == "split":
        if data.given is not None:
            raise ConfigError(
                f"dataset.given has no effect: {where} name train, valid and test themselves"
            )
        belong = {part: values == part for part in PARTS}
    else:
        belong = _given_folds(values, data.given, where)
    stray = len(table) - sum(isinstance(value, str) for value in values)
    if stray:
        note(f"rows of {where} whose records this store lacks: {stray} of {len(table)}")
    if "patient" in table:
        of_table = table["patient"].reindex(store.records["record"]).fillna("").to_numpy()
        records = with_patients(records, of_table)
    patients = known_patients(records)
    several = patients_on_several_sides(patients, np.stack(list(belong.values())))
    if len(several):
        note(
            f"patients who are on several sides of {where}: {len(several)}; scores may be too good"
        )
    if data.fold != 0:
        note(f"dataset.fold {data.fold} has no effect: {where} make one run")
    return Splits(
        lambda run: belong,
        lambda run: where,
        np.any(list(belong.values()), axis=0),
        patients,
        f"a part in {where}, which take no part: {{}}",
        facts["csv_crc32"],
    )


def _given_folds(values: np.ndarray, given: Any, where: str) -> dict[str, np.ndarray]:
    """{part: bool (records,)} of a table of folds."""
    try:
        valid = given.keys() == set(PARTS) and all(
            type(fold) is int for folds in given.values() for fold in folds
        )
    except (AttributeError, TypeError):
        valid = False
    if not valid:
        raise ConfigError(
            f"dataset.protocol given: {where} are folds, so dataset.given must say which part "
            f"they are, {{train: [1, ...], valid: [9], test: [10]}}, not {given!r}"
        )
    named = [fold for folds in given.values() for fold in folds]
    there = {int(value) for value in values if isinstance(value, str)}
    twice = sorted({fold for fold in named if named.count(fold) > 1})
    if twice:
        raise ConfigError(
            f"dataset.given names the fold {twice[0]} twice: a fold belongs to one part"
        )
    absent = sorted(set(named) - there)
    if absent:
        raise ConfigError(
            f"dataset.given: {where} have no fold {absent[0]}; they have "
            f"{', '.join(map(str, sorted(there)))}"
        )
    texts = values.astype(str)
    belong = {part: np.isin(texts, list(map(str, given[part]))) for part in PARTS}
    for fold in sorted(there - set(named)):
        note(
            f"records of fold {fold} of {where}, which no part of dataset.given names: "
            f"{(values == str(fold)).sum()}"
        )
    return belong


PROTOCOLS: dict[str, Callable[[RecordStore, SplitChoice, pd.DataFrame], Splits]] = {
    "nested": _of_folds,
    "published": _of_folds,
    "given": _given,
    "leave_one_database": _leave_one_database,
}


def patients_on_several_sides(patients: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the known patients with records on more than one side.

    Args:
        patients: texts (records,), "" where unknown.
        sides: bool (sides, records).
    """
    known = patients != ""
    ids, number = np.unique(patients[known].astype(str), return_inverse=True)
    present = np.stack([np.bincount(number, side[known], minlength=len(ids)) > 0 for side in sides])
    return ids[present.sum(axis=0) > 1]


# ============ rows of a job ============
def rows_left(
    store: RecordStore,
    rows: np.ndarray,
    data: ExcludeChoice,
    patients: Sequence[str] | np.ndarray | None = None,
) -> np.ndarray:
    """Return the rows without those of ``dataset.exclude_folds`` and ``dataset.exclude_parts``
    and of the same patients; a note counts these.

    Args:
        store: the one that the rows belong to.
        rows: int64, to choose from.
        data: the config's choices.
        patients: those of a table of labels, as ``make_splits`` takes them.

    Raises:
        ConfigError: the choices are not different folds 0-9, or parts, or no row is left.
    """
    exclude_folds, exclude_parts = data.exclude_folds, data.exclude_parts
    if not _are_folds(exclude_folds):
        raise ConfigError(
            f"dataset.exclude_folds must be a list of different folds 0-{FOLDS - 1}, not "
            f"{exclude_folds!r}"
        )
    if not exclude_folds and not exclude_parts:
        return rows
    excluded = store.records["fold"].isin(exclude_folds).to_numpy()
    known = known_patients(with_patients(store.records, patients))
    if exclude_parts:
        runs = run_numbers(data)
        if not set(map(str, exclude_parts)) <= set(PARTS) or len(runs) > 1:
            raise ConfigError(
                f"dataset.exclude_parts must be a list of {', '.join(PARTS)} where dataset.fold "
                f"is one fold, not {exclude_parts!r} of {len(runs)}; exclude_folds takes several "
                "folds"
            )
        splits = make_splits(store, data, patients)
        masks, known = splits.masks(runs[0]), splits.patients
        excluded = excluded | np.any([masks[part] for part in exclude_parts], axis=0)
    related = (known != "") & np.isin(known.astype(str), known[excluded].astype(str)) & ~excluded
    kept = rows[~(excluded | related)[rows]]
    choices = {"exclude_folds": exclude_folds, "exclude_parts": exclude_parts}
    keys = " and ".join(f"dataset.{key} {value}" for key, value in choices.items() if value)
    if not len(kept):
        raise ConfigError(f"{keys} leaves no record; leave out fewer")
    note(
        f"{keys}: {excluded[rows].sum()} records left out, and {related[rows].sum()} more of the "
        "same patients"
    )
    without = (store.records["fold"].to_numpy()[kept] == NO_FOLD).sum()
    if without:
        note(
            "records without a fold, which stay in even if their patients, unknown here, are "
            f"left out: {without}; {_NEW_FOLDS}"
        )
    return kept


def labelled_rows(rows: np.ndarray, labelled: np.ndarray, splits: Splits) -> np.ndarray:
    """Return the rows that a supervised job can use, those with a label and a part in the splits;
    notes count the others.

    Args:
        rows: of the store, to choose from.
        labelled: bool (records of the store,), ``Labels.known``.
        splits: who trains, selects and tests.
    """
    in_use = splits.in_use[rows]
    unlabelled, without = (~labelled[rows]).sum(), (labelled[rows] & ~in_use).sum()
    if unlabelled:
        note(f"records without a known label, which take no part: {unlabelled} of {len(rows)}")
    if without:
        note(f"labelled records without {splits.lack.format(without)}")
    return rows[labelled[rows] & in_use]


def split_rows(
    splits: Splits,
    rows: np.ndarray,
    run: int,
    *,
    strata: np.ndarray | None = None,
    label_fraction: float = 1.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return the rows of train, valid (selection) and test in a run.

    Args:
        splits: who trains, selects and tests.
        rows: usable ones.
        run: its number.
        strata: bool (records of the store, strata), ``util.data.strata.label_strata``; only a
            fraction needs them.
        label_fraction: of the training rows, drawn by ``util.data.strata.fraction_of``.
        seed: of the draw.

    Raises:
        ConfigError: a part is empty.
    """
    masks = splits.masks(run)
    parts = {name: rows[masks[name][rows]] for name in PARTS}
    for name, part in parts.items():
        if not len(part):
            raise ConfigError(
                f"no labelled records for the {name} part of {splits.title(run)}: the store has "
                f"{len(rows)} usable records; prepare more data or choose another fold or other "
                "splits"
            )
    if label_fraction < 1:
        assert strata is not None, "a fraction is spread over strata"
        parts["train"] = fraction_of(parts["train"], label_fraction, strata, splits.patients, seed)
    return parts
