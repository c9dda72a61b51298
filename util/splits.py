"""Which records a job uses, and for what: databases, folds and splits."""
import numpy as np

from util.errors import ConfigError
from util.store import FOLDS, NO_FOLD

ALL_FOLDS = 11        # the fusion original's number for all ten folds
_NEW_FOLDS = "data_preparation/reformat_memmap.py makes a store in which every record has one"


def choose_rows(store, *, databases=None, max_records=None, seed=0) -> np.ndarray:
    """Rows of these databases, else of all; with ``max_records`` a seeded subset, in store order.  A database
    that the store does not hold is a ConfigError."""
    rows = np.arange(len(store))
    if databases is not None:
        wanted, known = set(map(str, databases)), set(store.records["database"])
        if not wanted <= known:
            raise ConfigError(f"dataset.databases: the store has no {', '.join(sorted(wanted - known))}; "
                              f"it holds {', '.join(sorted(known))}")
        rows = np.flatnonzero(store.records["database"].isin(wanted))
    if max_records is not None and len(rows) > max_records:
        rows = np.sort(np.random.default_rng([seed, 1]).permutation(rows)[:max_records])
    return rows


def _are_folds(value) -> bool:
    return isinstance(value, list) and all(type(fold) is int and 0 <= fold < FOLDS for fold in value) \
        and len(set(value)) == len(value)


def parse_folds(value) -> list[int]:
    """``dataset.fold`` as a list of test folds: a fold 0-9, a list of different ones, or all of them: 'all',
    or 11 as published.  Anything else is a ConfigError."""
    if value in ("all", ALL_FOLDS, [ALL_FOLDS]):
        return list(range(FOLDS))
    folds = value if isinstance(value, list) else [value]
    if not folds or not _are_folds(folds):
        raise ConfigError(f"dataset.fold must be a fold 0-{FOLDS - 1}, a list of different ones, or 'all' "
                          f"(or {ALL_FOLDS}, the same), not {value!r}")
    return folds


def rows_outside_folds(store, rows, exclude_folds) -> tuple[np.ndarray, list[str]]:
    """Rows without those of ``dataset.exclude_folds`` and of the same patients, and sentences about these.  A
    ConfigError unless these are different folds 0-9 and some row stays."""
    if not _are_folds(exclude_folds):
        raise ConfigError(f"dataset.exclude_folds must be a list of different folds 0-{FOLDS - 1}, "
                          f"not {exclude_folds!r}")
    if not exclude_folds:
        return rows, []
    records = store.records
    excluded = records["fold"].isin(exclude_folds).to_numpy()
    patient = records["database"] + "/" + records["patient"]
    theirs = ((records["patient"] != "") & patient.isin(patient[excluded])).to_numpy() & ~excluded
    kept = rows[~(excluded | theirs)[rows]]
    if not len(kept):
        raise ConfigError("dataset.exclude_folds leaves no record; leave out fewer folds")
    notes = [f"dataset.exclude_folds {exclude_folds}: {excluded[rows].sum()} records left out, and "
             f"{theirs[rows].sum()} more of the same patients"]
    without = (records["fold"].to_numpy()[kept] == NO_FOLD).sum()
    if without:
        notes.append("records without a fold, which stay in even if their patients, unknown here, are left "
                     f"out: {without}; {_NEW_FOLDS}")
    return kept, notes


def labelled_rows(store, rows, labelled) -> tuple[np.ndarray, list[str]]:
    """Rows that a supervised job can use, those with a label (``labelled``, from ``read_labels``) and a fold,
    and sentences about the others."""
    has_fold, notes = (store.records["fold"] != NO_FOLD).to_numpy()[rows], []
    unlabelled, without = (~labelled[rows]).sum(), (labelled[rows] & ~has_fold).sum()
    if unlabelled:
        notes.append(f"records without a known label, which take no part: {unlabelled} of {len(rows)}")
    if without:
        notes.append(f"labelled records without a fold, which take no part: {without}; {_NEW_FOLDS}")
    return rows[labelled[rows] & has_fold], notes


def split_rows(store, rows, fold: int, *, protocol="nested", label_fraction=1.0, seed=0) -> dict[str, np.ndarray]:
    """Rows of train, valid (selection) and test for test fold ``fold``.

    nested: test on ``fold``, select on fold + 1 (mod 10), train on the other eight.  published: select and
    report on ``fold``, train on the other nine.  Records without a fold are in none.  ``label_fraction``
    keeps that share of the training rows, drawn by ``seed``.  An empty part is a ConfigError.
    """
    folds = store.records["fold"].to_numpy()[rows]
    select = (fold + 1) % FOLDS if protocol == "nested" else fold
    train = rows[(folds >= 0) & (folds != fold) & (folds != select)]
    if label_fraction < 1:
        count = max(1, round(len(train) * label_fraction))
        train = np.sort(np.random.default_rng([seed, 2]).permutation(train)[:count])
    parts = {"train": train, "valid": rows[folds == select], "test": rows[folds == fold]}
    for name, part in parts.items():
        if not len(part):
            raise ConfigError(f"no labelled records for the {name} part of fold {fold}: the store has "
                              f"{len(rows)} usable records; prepare more data or choose another fold")
    return parts
