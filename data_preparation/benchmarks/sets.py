"""One entry a public data set: how its metadata become labels and splits, and how many of each
its version has.

A reader takes the folder of the metadata and the records of a store, and returns ``Metadata``,
whose tables go by the key of a record: its name in the metadata.  Classes go by name, sorted.
Nothing is taken by position.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data_preparation.building.folds import stratify
from util.errors import ConfigError

TENTHS = {"train": [0, 1, 2, 3, 4, 5, 6, 7], "valid": [8], "test": [9]}  # of folds that we make
# CPSC 2018: numbers in REFERENCE.csv (m: from memory; the counts below tell), and the Challenge's
# SNOMED CT codes.
CPSC = {
    "normal": (1, {"426783006"}),
    "AF": (2, {"164889003"}),
    "I-AVB": (3, {"270492004"}),
    "LBBB": (4, {"164909002"}),
    "RBBB": (5, {"59118001", "713427006"}),
    "PAC": (6, {"284470004"}),
    "PVC": (7, {"164884008", "427172004", "17338001"}),
    "STD": (8, {"429622005"}),
    "STE": (9, {"164931005"}),
}
CPSC_COUNTS = {
    "cpsc2018 normal": 918,
    "cpsc2018 AF": 1221,
    "cpsc2018 I-AVB": 722,
    "cpsc2018 LBBB": 236,
    "cpsc2018 RBBB": 1857,
    "cpsc2018 PAC": 616,
    "cpsc2018 PVC": 700,
    "cpsc2018 STD": 869,
    "cpsc2018 STE": 220,
}
RHYTHMS = {"N": "normal", "A": "AF", "O": "other", "~": "noisy"}
FLAGS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "": np.nan}
CODE15 = ("1dAVb", "AF", "LBBB", "RBBB", "SB", "ST")


@dataclass(frozen=True)
class Metadata:
    """What a set says of its records.

    Attributes:
        labels: {name of a table: DataFrame by key}; columns are classes of 0, 1 and NaN
            (unknown), one column of words, or one of numbers.  A record that a table lacks takes
            no part in its task.
        splits: DataFrame by key, one row a record of the set: ``fold`` or ``split``, and
            ``patient`` ("" unknown).
        notes: sentences about what was left out or decided.
    """

    labels: dict[str, pd.DataFrame]
    splits: pd.DataFrame
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Benchmark:
    """A data set.

    Attributes:
        read: (folder of the metadata, records of the store) -> Metadata.
        name_of: a pattern; its first group, without leading zeros where ``numbered``, is the key
            of a record of that name.
        versions: {version: {quantity: count}}, quantities as ``count`` names them.
        given: folds of each part, None where the splits say train, valid and test themselves.
    """

    read: Callable
    name_of: str
    versions: dict[str, dict[str, int]]
    given: dict[str, list[int]] | None = None
    numbered: bool = False


# ============ reading ============
def _table(path, columns, **options) -> pd.DataFrame:
    """A CSV file as text, its columns found without regard to case; a ConfigError names what is
    missing.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except FileNotFoundError:
        raise ConfigError(
            f"no {path.name} in {path.parent}: it comes with the data set; name its folder with "
            "--metadata"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is unreadable: {error}") from None
    known = {str(column).strip().lower(): column for column in table.columns}
    missing = [column for column in columns if column.lower() not in known]
    if missing or not len(table):
        what = f"has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
        raise ConfigError(f"{path} {what if missing else 'has no row'}: is it the published file?")
    return table.rename(columns={known[column.lower()]: column for column in columns})


def _by_key(table, key, path):
    """The table by its key, whole numbers without .0; a ConfigError if a key occurs twice."""
    table = table.set_index(_whole(table[key]))
    if table.index.duplicated().any():
        raise ConfigError(f"{path}: {key} {table.index[table.index.duplicated()][0]} occurs twice")
    return table


def _whole(column):
    return column.str.strip().str.removesuffix(".0")


def _numbers(column, path):
    """float64, NaN where empty; a ConfigError for a word."""
    numbers = pd.to_numeric(column.replace("", np.nan), errors="coerce")
    bad = numbers.isna() & (column.str.strip() != "")
    if bad.any():
        raise ConfigError(
            f"{path}: {column.name} of {column.index[bad][0]} is no number: {column[bad].iloc[0]!r}"
        )
    return numbers.astype(float)


def _flags(column, path):
    """0.0 and 1.0, NaN where empty, of True and False or 1 and 0; a ConfigError for anything
    else.
    """
    values = {text: FLAGS.get(text.strip().lower()) for text in column.unique()}
    strange = [text for text, value in values.items() if value is None]
    if strange:
        raise ConfigError(
            f"{path}: {column.name} of {column.index[column == strange[0]][0]} is neither true "
            "nor "
            f"false: {strange[0]!r}"
        )
    return column.map(values).astype(float)


def _indicator(keys, sets, classes) -> pd.DataFrame:
    """0 and 1 by key and class, classes sorted by name; others in the sets are ignored."""
    number = {name: n for n, name in enumerate(sorted(set(classes)))}
    matrix = np.zeros((len(keys), len(number)))
    hits = [
        (row, number[name]) for row, names in enumerate(sets) for name in names if name in number
    ]
    matrix[tuple(np.array(hits, int).reshape(-1, 2).T)] = 1
    return pd.DataFrame(matrix, pd.Index(keys), list(number))


def _tenths(labels, patients) -> np.ndarray:
    """Folds 0 to 9 for a set that comes without any: stratified over the labels, seed 0, whole
    patients and, where these are unknown, whole recordings (pieces of one are called
    <recording>_<n>).
    """
    recordings = labels.index.str.replace(r"_\d+$", "", regex=True)
    owner = np.where(
        patients.to_numpy() == "", recordings, "patient " + patients.to_numpy().astype(object)
    )
    groups = np.unique(owner.astype(str), return_inverse=True)[1]
    return stratify(labels.to_numpy() == 1, groups, 10, np.random.default_rng(0))


def _without(table, name, notes) -> pd.DataFrame:
    """Without the records that have no class of the task."""
    kept = table[(table == 1).any(axis=1)]
    if len(kept) < len(table):
        notes.append(
            f"{name}: {len(table) - len(kept)} records have no label of this task and take no "
            "part "
            "in it"
        )
    return kept


# ============ the sets ============
def _ptbxl(folder, _) -> Metadata:
    """Strodthoff et al. 2021: a label is present if its statement is a key of scp_codes, whatever
    its likelihood.
    """
    path, notes = folder / "ptbxl_database.csv", []
    database = _by_key(
        _table(path, ("ecg_id", "patient_id", "scp_codes", "strat_fold")), "ecg_id", path
    )
    columns = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    statements = _table(folder / "scp_statements.csv", columns, index_col=0)
    given = [_scp_codes(text, key, path) for key, text in database["scp_codes"].items()]
    strange = sorted(set().union(*given) - set(statements.index))
    if strange:
        notes.append(
            "statements that scp_statements.csv does not know, which are ignored: "
            f"{', '.join(strange)}"
        )
    of = {
        kind: statements[_flags(statements[kind], "scp_statements.csv") == 1]
        for kind in columns[:3]
    }
    names = {
        "all": dict(zip(statements.index, statements.index)),  # of each task: {statement: class}
        **{kind: dict(zip(table.index, table.index)) for kind, table in of.items()},
        "subdiagnostic": of["diagnostic"]["diagnostic_subclass"].to_dict(),
        "superdiagnostic": of["diagnostic"]["diagnostic_class"].to_dict(),
    }
    labels = {}
    for task, class_of in names.items():
        sets = [{class_of[name] for name in found if class_of.get(name)} for found in given]
        table = _indicator(database.index, sets, filter(None, class_of.values()))
        labels[f"ptbxl_{task}"] = (
            table if task == "all" else _without(table, f"ptbxl_{task}", notes)
        )
    folds = _numbers(database["strat_fold"], path)
    if not folds.isin(range(1, 11)).all():
        raise ConfigError(
            f"{path}: a strat_fold is not 1 to 10: {folds[~folds.isin(range(1, 11))].iloc[0]}"
        )
    return Metadata(
        labels,
        pd.DataFrame({"fold": folds.astype(int), "patient": _whole(database["patient_id"])}),
        notes,
    )


def _scp_codes(text, key, path) -> set[str]:
    """Statements of the text of a dict {statement: likelihood}, which is parsed and never
    executed.
    """
    try:
        codes = ast.literal_eval(text)
        sound = isinstance(codes, dict) and all(
            isinstance(name, str) and type(likelihood) in (int, float)
            for name, likelihood in codes.items()
        )
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        sound = False
    if not sound:
        raise ConfigError(
            f"{path}: scp_codes of ecg_id {key} is not the text of a dict of statements: "
            f"{text[:60]!r}"
        )
    return set(codes)


def _code15(folder, _) -> Metadata:
    """Ribeiro et al. 2021.  No split is published: ours is stratified, whole patients."""
    path = folder / "exams.csv"
    exams = _by_key(_table(path, ("exam_id", "patient_id", *CODE15)), "exam_id", path)
    labels = pd.DataFrame({name: _flags(exams[name], path) for name in CODE15})
    patients = _whole(exams["patient_id"])
    return Metadata({"code15": labels}, _own_folds(labels, patients))


def _cpsc2018(folder, records) -> Metadata:
    """Liu et al. 2018: nine classes, from REFERENCE.csv or from the Challenge's Dx codes in the
    store.
    """
    path, notes = folder / "REFERENCE.csv", []
    if path.is_file():
        keys, sets = _cpsc_reference(path)
    else:
        own = records[
            records["record"].str.fullmatch(r"A\d{4}(_\d+)?") & (records["database"] == "cpsc_2018")
        ]
        keys, sets = (
            own["record"],
            [
                {name for name, (_, codes) in CPSC.items() if codes & set(text.split())}
                for text in own["dx"]
            ],
        )
        notes.append(
            f"no {path}: the labels are the Dx codes of {len(own)} records of cpsc_2018 in the "
            "store"
        )
    labels = _without(_indicator(keys, sets, CPSC), "cpsc2018", notes)
    return Metadata({"cpsc2018": labels}, _own_folds(labels), notes)


def _cpsc_reference(path):
    """(records, sets of their classes) of REFERENCE.csv, whose columns First_label to Third_label
    hold numbers.
    """
    table = _by_key(_table(path, ("Recording", "First_label")), "Recording", path)
    columns = [column for column in table if str(column).lower().endswith("_label")]
    names = {str(number): name for name, (number, _) in CPSC.items()}
    given = [set(map(str.strip, row)) - {""} for row in table[columns].to_numpy()]
    strange = sorted(set().union(*given) - set(names))
    if strange:
        raise ConfigError(f"{path}: labels are numbers from 1 to 9, not {', '.join(strange)}")
    return table.index, [{names[number] for number in numbers} for numbers in given]


def _own_folds(labels, patients=None) -> pd.DataFrame:
    """Splits of a set that tells no folds and perhaps no patients."""
    patients = pd.Series("", labels.index) if patients is None else patients
    return pd.DataFrame({"fold": _tenths(labels, patients), "patient": patients})


def _chapman_ningbo(folder, records) -> Metadata:
    """Zheng et al. 2022: the Dx codes of the headers, as ConditionNames_SNOMED-CT.csv names
    them.
    """
    path, notes = folder / "ConditionNames_SNOMED-CT.csv", []
    table = _table(path, ("Acronym Name", "Snomed_CT"))
    names = (
        table.groupby(_whole(table["Snomed_CT"]))["Acronym Name"]
        .agg(lambda names: "/".join(sorted({name.strip() for name in names})))
        .to_dict()
    )
    own = records[records["record"].str.fullmatch(r"JS\d+(_\d+)?")]
    sets = [{names[code] for code in text.split() if code in names} for text in own["dx"]]
    labels = _indicator(own["record"], sets, names.values())
    strange = sorted({code for text in own["dx"] for code in text.split()} - set(names))
    empty = [name for name in labels if not labels[name].any()]
    if strange:
        notes.append(
            f"{len(strange)} codes in the headers without a name in {path.name}, which make no "
            f"class: {', '.join(strange)}"
        )
    if empty:
        notes.append(
            f"{len(empty)} names in {path.name} that no record has, which make no class: "
            f"{', '.join(empty)}"
        )
    labels = _without(labels.drop(columns=empty), "chapman_ningbo", notes)
    return Metadata({"chapman_ningbo": labels}, _own_folds(labels), notes)


def _sph(folder, _) -> Metadata:
    """Liu et al. 2022: primary statements.  Patients with several records are the test part, as
    published; a tenth of the others, stratified, is our selection part.
    """
    path = folder / "metadata.csv"
    table = _by_key(_table(path, ("ECG_ID", "AHA_Code", "Patient_ID")), "ECG_ID", path)
    codes = _table(folder / "code.csv", ("Code", "Description"))
    names = dict(zip(_whole(codes["Code"]), codes["Description"].str.strip()))
    primary = [
        {code.partition("+")[0].strip() for code in text.split(";")} - {""}
        for text in table["AHA_Code"]
    ]
    strange = sorted(set().union(*primary) - set(names))
    notes = [
        f"codes without a description in code.csv, which keep their number: {', '.join(strange)}"
    ] * bool(strange)
    notes.append(
        "sph: modifiers (after + in AHA_Code) are left out; a tenth of the published training "
        "part "
        "is ours to select on"
    )
    sets = [{names.get(code, code) for code in found} for found in primary]
    labels = _without(_indicator(table.index, sets, set().union(*sets)), "sph", notes)
    patients = _whole(table["Patient_ID"])
    split = pd.Series(np.where(patients.duplicated(keep=False), "test", "train"), table.index)
    training = labels[(split[labels.index] == "train").to_numpy()]
    if len(training):
        split[training.index[_tenths(training, patients[training.index]) == 9]] = "valid"
    return Metadata({"sph": labels}, pd.DataFrame({"split": split, "patient": patients}), notes)


def _physionet2017(folder, _) -> Metadata:
    """Clifford et al. 2017: normal, AF, other rhythm, noisy; the revised labels (v3) where they
    are there.
    """
    paths = [folder / "REFERENCE-v3.csv", *sorted(folder.glob("**/REFERENCE.csv"))]
    path = next(filter(Path.is_file, paths), folder / "REFERENCE-v3.csv")
    table = _by_key(
        _table(path, ("record", "label"), header=None, names=["record", "label"]), "record", path
    )
    labels = table["label"].str.strip().map(RHYTHMS)
    if labels.isna().any():
        raise ConfigError(
            f"{path}: the label of {labels.index[labels.isna()][0]} is not one of "
            f"{' '.join(RHYTHMS)}: {table['label'][labels.isna()].iloc[0]!r}"
        )
    notes = [f"labels of {path.name}; REFERENCE-v3.csv holds the Challenge's last revision"]
    splits = _own_folds(_indicator(table.index, labels.map(lambda name: {name}), RHYTHMS.values()))
    return Metadata({"physionet2017": labels.to_frame("rhythm")}, splits, notes)


def _mimic_iv_ecg(folder, _) -> Metadata:
    """Gow et al. 2023, age and sex from MIMIC-IV's patients.csv, which has ages over 89 as 91
    (m).
    """
    path = folder / "record_list.csv"
    records = _table(path, ("subject_id", "study_id", "ecg_time"))
    records = _by_key(records, "study_id", path)
    people = next(
        (
            folder / name
            for name in ("patients.csv", "patients.csv.gz")
            if (folder / name).is_file()
        ),
        None,
    )
    if people is None:
        raise ConfigError(
            f"no patients.csv or patients.csv.gz in {folder}: put that of MIMIC-IV (hosp/, "
            "credentialed) beside record_list.csv; MIMIC-IV-ECG itself tells neither age nor sex"
        )
    patients = _by_key(
        _table(people, ("subject_id", "gender", "anchor_age", "anchor_year")), "subject_id", people
    )
    subjects = _whole(records["subject_id"])
    own = patients.reindex(subjects).set_axis(records.index).fillna("")
    unknown = int((own["anchor_age"] == "").sum())
    notes = [
        f"{unknown} records of patients that {people.name} does not know: age and sex unknown"
    ] * bool(unknown)
    year = _numbers(records["ecg_time"].str[:4], path)
    age = _numbers(own["anchor_age"], people) + (year - _numbers(own["anchor_year"], people))
    male = own["gender"].str.strip().str.upper().map({"M": 1.0, "F": 0.0})
    male_or_not = pd.DataFrame({"male": male})
    labels = {"mimic_age": age.to_frame("age"), "mimic_sex": male_or_not}
    return Metadata(labels, _own_folds(male_or_not, subjects), notes)


_PTBXL_CLASSES = {
    "ptbxl_all classes": 71,
    "ptbxl_diagnostic classes": 44,
    "ptbxl_subdiagnostic classes": 23,
    "ptbxl_superdiagnostic classes": 5,
    "ptbxl_form classes": 19,
    "ptbxl_rhythm classes": 12,
}
_PTBXL_PARTS = {
    "superdiagnostic": (17084, 2146, 2158),
    "subdiagnostic": (17084, 2146, 2158),
    "form": (7197, 901, 880),
    "rhythm": (16832, 2100, 2098),
}

BENCHMARKS = {
    "ptbxl": Benchmark(
        _ptbxl,
        r"(?:HR)?(\d+)(?:_[hl]r)?",
        {
            "1.0.3": {
                "records": 21799,
                **_PTBXL_CLASSES,
                **{
                    f"ptbxl_{task} {part}": count
                    for task, counts in _PTBXL_PARTS.items()
                    for part, count in zip(("train", "valid", "test"), counts)
                },
            },
            "1.0.1": {"records": 21837, "patients": 18885, **_PTBXL_CLASSES},
        },
        {"train": [1, 2, 3, 4, 5, 6, 7, 8], "valid": [9], "test": [10]},
        numbered=True,
    ),
    "code15": Benchmark(
        _code15, r"(\d+)", {"2021": {"records": 345779, "patients": 233770}}, TENTHS, True
    ),
    "cpsc2018": Benchmark(
        _cpsc2018, r"(A\d{4})", {"2018": {"records": 6877, **CPSC_COUNTS}}, TENTHS
    ),
    "chapman_ningbo": Benchmark(_chapman_ningbo, r"(JS\d+)", {"1.0.0": {"records": 45152}}, TENTHS),
    "sph": Benchmark(
        _sph, r"(A\d{5})", {"1": {"records": 25770, "patients": 24666, "sph classes": 44}}
    ),
    "physionet2017": Benchmark(
        _physionet2017,
        r"(A\d{5})",
        {
            # by class (m); both sum to the 8,528 records
            "v3": {
                "records": 8528,
                "physionet2017 normal": 5076,
                "physionet2017 AF": 758,
                "physionet2017 other": 2415,
                "physionet2017 noisy": 279,
            },
            "v1": {
                "records": 8528,
                "physionet2017 normal": 5154,
                "physionet2017 AF": 771,
                "physionet2017 other": 2557,
                "physionet2017 noisy": 46,
            },
        },
        TENTHS,
    ),
    "mimic_iv_ecg": Benchmark(_mimic_iv_ecg, r"(\d+)", {"1.0": {"records": 800035}}, TENTHS),
}
