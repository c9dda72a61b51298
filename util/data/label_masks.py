"""Which database annotated which class: where it never did, a label is unknown, not negative.

The CPSC 2018 records of the Challenge carry nine kinds of label; that none of them has a left
axis deviation says nothing about their axes.
"""

import re
from dataclasses import replace

import numpy as np

from util.data.labels import Labels, parse_classes
from util.data.record_tables import read_cells
from util.data.splits import run_numbers, selection_fold
from util.errors import ConfigError

CODE_COLUMNS = ("snomedctcode", "code", "class")  # in lower case, letters and digits alone
# The Challenge's names of its databases, in the same way, where they are not ours
_DATABASES = {
    "cpsc": "cpsc2018",
    "cpscextra": "cpsc2018extra",
    "stpetersburg": "stpetersburgincart",
}


def mask_labels(labels: Labels, store, data: dict) -> tuple[Labels, list[str]]:
    """Labels of a store with what nobody annotated unknown, where ``dataset.mask_unannotated``
    asks for it or, if it is null, with dataset.protocol: leave_one_database; and sentences about
    these.

    Raises:
        ConfigError: a key has no effect, or the file of ``dataset.annotated`` is wrong.
    """
    multilabel, left_out = labels.kind == "multilabel", data["test_database"]
    wanted = data["mask_unannotated"]
    if wanted and not multilabel:
        raise ConfigError(
            f"dataset.mask_unannotated has no effect on {labels.kind} labels: multi-label ones "
            "alone are unknown class by class"
        )
    wanted = multilabel and left_out is not None if wanted is None else wanted
    if not wanted and data["annotated"] is not None:
        raise ConfigError(
            "dataset.annotated has no effect without dataset.mask_unannotated: true (multi-label "
            "alone)"
        )
    if not wanted:
        return labels, []
    classes = (
        {name: {name} for name in labels.classes}
        if data["labels"]
        else parse_classes(data["classes"])
    )
    databases, values = store.records["database"].to_numpy(), labels.values.copy()
    used = (
        np.isin(databases, data["databases"])
        if data["databases"] is not None
        else np.ones(len(databases), bool)
    )
    values[used], notes = mask_unannotated(
        values[used], databases[used], classes, data["annotated"]
    )
    if left_out is not None:
        runs = run_numbers(data)
        selects = (
            store.records["fold"] == selection_fold(data["protocol"], runs[0])
        ).to_numpy() & (len(runs) == 1)
        own = databases == left_out
        values[used], more = mask_untrained(
            values[used], own[used], labels.classes, ~(own | selects)[used]
        )
        notes += more
    return replace(labels, values=values, known=labels.known & ~np.isnan(values).all(axis=1)), notes


def mask_unannotated(labels, databases, classes: dict, path=None) -> tuple[np.ndarray, list[str]]:
    """Multi-label labels with NaN, unknown, where the record's database never annotated the
    class.

    Args:
        labels: float (records, classes) of 0, 1 and NaN, of all records of the store.
        databases: names (records,).
        classes: {name: codes}; classes of a table of labels have their name as a code.
        path: CSV file of counts, ``read_annotated``; None, and for databases and classes that it
            does not have: a class without a positive record in a database was not annotated
            there.

    Returns:
        the labels, and a sentence a database.  Raises a ConfigError for a wrong file.
    """
    databases, labels, notes = np.asarray(databases, str), labels.copy(), []
    counts = read_annotated(path) if path else {}
    absent = sorted(
        set(databases.tolist())
        - {name for name in set(databases.tolist()) if _plain(name) in counts}
    )
    if path and absent:
        notes.append(
            f"{path} has no column for {', '.join(absent)}: there, a class without a positive "
            "record in the store counts as not annotated"
        )
    for database in sorted(set(databases.tolist())):
        own = databases == database
        annotated = (labels[own] > 0).any(axis=0)
        known = counts.get(_plain(database), {})
        for number, codes in enumerate(classes.values()):
            if known.keys() & codes:
                annotated[number] = any(known.get(code, 0) > 0 for code in codes)
        labels[np.ix_(own, ~annotated)] = np.nan
        missing = [name for name, yes in zip(classes, annotated) if not yes]
        if missing:
            notes.append(
                f"classes that {database} never annotated, unknown for its {own.sum()} records: "
                f"{len(missing)} of {len(classes)} ({', '.join(missing)})"
            )
    return labels, notes


def mask_untrained(labels, left_out, classes, training) -> tuple[np.ndarray, list[str]]:
    """Labels with NaN on the records that are left out where no training record is positive: what
    nobody could learn is not scored.

    Args:
        labels: float (records, classes), from ``mask_unannotated``; left_out, training: bool
            (records,).
        classes: names.
    """
    untrained = ~(labels[training] > 0).any(axis=0) & ~np.isnan(labels[left_out]).all(axis=0)
    labels = labels.copy()
    labels[np.ix_(left_out, untrained)] = np.nan
    names = [name for name, yes in zip(classes, untrained) if yes]
    return labels, [
        "classes without a positive training record, not scored on the database left out: "
        f"{', '.join(names)}"
    ] if names else []


def read_annotated(path) -> dict[str, dict[str, float]]:
    """{database, in lower case, letters and digits alone: {code: number of its records}} of a CSV
    file.

    It has a row a class with its SNOMED CT code (column SNOMED CT Code, SNOMEDCTCode or code) or
    its name (column class), and a column a database with the number of its records of that class;
    columns without numbers are passed over.  The Challenge's dx_mapping_scored.csv is such a
    file.
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
            "or "
            "class) and a column a database with the numbers of its records"
        )
    return counts


def _plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())
