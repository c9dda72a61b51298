"""One reader a public data set: how its metadata become labels and splits.

A reader takes the folder of the metadata and the records of a store, and returns ``Metadata``.
Classes go by name, sorted.  Nothing is taken by position.
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from data_preparation.benchmarks.metadata import (
    Metadata,
    by_key,
    indicator,
    made_folds,
    patient_texts,
    read_flags,
    read_numbers,
    read_table,
    tenths,
    whole_texts,
    with_a_class,
)
from util.errors import ConfigError

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
RHYTHMS = {"N": "normal", "A": "AF", "O": "other", "~": "noisy"}
CODE15 = ("1dAVb", "AF", "LBBB", "RBBB", "SB", "ST")


# ============ the sets ============
def _ptbxl(folder, _) -> Metadata:
    """Strodthoff et al. 2021: a label is present if its statement is a key of scp_codes, whatever
    its likelihood.
    """
    path, notes = folder / "ptbxl_database.csv", []
    database = by_key(
        read_table(path, ("ecg_id", "patient_id", "scp_codes", "strat_fold")), "ecg_id", path
    )
    columns = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    statements = read_table(folder / "scp_statements.csv", columns, index_col=0)
    given = [_scp_codes(text, key, path) for key, text in database["scp_codes"].items()]
    strange = sorted(set().union(*given) - set(statements.index))
    if strange:
        notes.append(
            "statements that scp_statements.csv does not know, which are ignored: "
            f"{', '.join(strange)}"
        )
    of = {
        kind: statements[read_flags(statements[kind], "scp_statements.csv") == 1]
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
        sets = [{class_of[name] for name in present if class_of.get(name)} for present in given]
        table = indicator(database.index, sets, filter(None, class_of.values()))
        labels[f"ptbxl_{task}"] = (
            table if task == "all" else with_a_class(table, f"ptbxl_{task}", notes)
        )
    folds = read_numbers(database["strat_fold"], path)
    if not folds.isin(range(1, 11)).all():
        raise ConfigError(
            f"{path}: a strat_fold is not 1 to 10: {folds[~folds.isin(range(1, 11))].iloc[0]}"
        )
    return Metadata(
        labels,
        pd.DataFrame({"fold": folds.astype(int), "patient": patient_texts(database["patient_id"])}),
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
    exams = by_key(read_table(path, ("exam_id", "patient_id", *CODE15)), "exam_id", path)
    labels = pd.DataFrame({name: read_flags(exams[name], path) for name in CODE15})
    patients = patient_texts(exams["patient_id"])
    return Metadata({"code15": labels}, made_folds(labels, patients))


def _cpsc2018(folder, records) -> Metadata:
    """Liu et al. 2018: nine classes, from REFERENCE.csv or from the Challenge's Dx codes in the
    store.
    """
    path, notes = folder / "REFERENCE.csv", []
    if path.is_file():
        keys, sets = _cpsc_reference(path)
    else:
        of_set = records[records["record"].str.fullmatch(r"A\d{4}(_\d+)?")]
        keys, sets = (
            of_set["record"],
            [
                {name for name, (_, codes) in CPSC.items() if codes & set(text.split())}
                for text in of_set["dx"]
            ],
        )
        notes.append(
            f"no {path}: the labels are the Dx codes of {len(of_set)} records of cpsc_2018 in the "
            "store"
        )
    labels = with_a_class(indicator(keys, sets, CPSC), "cpsc2018", notes)
    return Metadata({"cpsc2018": labels}, made_folds(labels), notes)


def _cpsc_reference(path):
    """(records, sets of their classes) of REFERENCE.csv, whose columns First_label to Third_label
    hold numbers.
    """
    table = by_key(read_table(path, ("Recording", "First_label")), "Recording", path)
    columns = [column for column in table if str(column).lower().endswith("_label")]
    names = {str(number): name for name, (number, _) in CPSC.items()}
    given = [set(map(str.strip, row)) - {""} for row in table[columns].to_numpy()]
    strange = sorted(set().union(*given) - set(names))
    if strange:
        raise ConfigError(f"{path}: labels are numbers from 1 to 9, not {', '.join(strange)}")
    return table.index, [{names[number] for number in numbers} for numbers in given]


def _chapman_ningbo(folder, records) -> Metadata:
    """Zheng et al. 2022: the Dx codes of the headers, as ConditionNames_SNOMED-CT.csv names
    them.
    """
    path, notes = folder / "ConditionNames_SNOMED-CT.csv", []
    table = read_table(path, ("Acronym Name", "Snomed_CT"))
    names = (
        table.groupby(whole_texts(table["Snomed_CT"]))["Acronym Name"]
        .agg(lambda names: "/".join(sorted({name.strip() for name in names})))
        .to_dict()
    )
    of_set = records[records["record"].str.fullmatch(r"JS\d+(_\d+)?")]
    sets = [{names[code] for code in text.split() if code in names} for text in of_set["dx"]]
    labels = indicator(of_set["record"], sets, names.values())
    strange = sorted({code for text in of_set["dx"] for code in text.split()} - set(names))
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
    labels = with_a_class(labels.drop(columns=empty), "chapman_ningbo", notes)
    return Metadata({"chapman_ningbo": labels}, made_folds(labels), notes)


def _sph(folder, _) -> Metadata:
    """Liu et al. 2022: primary statements.  Patients with several records are the test part, as
    published; a tenth of the others, stratified, is our selection part.
    """
    path = folder / "metadata.csv"
    table = by_key(read_table(path, ("ECG_ID", "AHA_Code", "Patient_ID")), "ECG_ID", path)
    codes = read_table(folder / "code.csv", ("Code", "Description"))
    names = dict(zip(whole_texts(codes["Code"]), codes["Description"].str.strip()))
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
        "part is ours to select on"
    )
    sets = [{names.get(code, code) for code in codes_of} for codes_of in primary]
    labels = with_a_class(indicator(table.index, sets, set().union(*sets)), "sph", notes)
    patients = patient_texts(table["Patient_ID"])
    several = patients.duplicated(keep=False) & (patients != "")
    split = pd.Series(np.where(several, "test", "train"), table.index)
    training = labels[(split[labels.index] == "train").to_numpy()]
    if len(training):
        split[training.index[tenths(training, patients[training.index]) == 9]] = "valid"
    return Metadata({"sph": labels}, pd.DataFrame({"split": split, "patient": patients}), notes)


def _physionet2017(folder, _) -> Metadata:
    """Clifford et al. 2017: normal, AF, other rhythm, noisy; the revised labels (v3) where they
    are there.
    """
    paths = [folder / "REFERENCE-v3.csv", *sorted(folder.glob("**/REFERENCE.csv"))]
    path = next(filter(Path.is_file, paths), folder / "REFERENCE-v3.csv")
    table = by_key(
        read_table(path, ("record", "label"), header=None, names=["record", "label"]),
        "record",
        path,
    )
    labels = table["label"].str.strip().map(RHYTHMS)
    if labels.isna().any():
        raise ConfigError(
            f"{path}: the label of {labels.index[labels.isna()][0]} is not one of "
            f"{' '.join(RHYTHMS)}: {table['label'][labels.isna()].iloc[0]!r}"
        )
    notes = [f"labels of {path.name}; REFERENCE-v3.csv holds the Challenge's last revision"]
    splits = made_folds(indicator(table.index, labels.map(lambda name: {name}), RHYTHMS.values()))
    return Metadata({"physionet2017": labels.to_frame("rhythm")}, splits, notes)


def _mimic_iv_ecg(folder, _) -> Metadata:
    """Gow et al. 2023, age and sex from MIMIC-IV's patients.csv, which has ages over 89 as 91
    (m).
    """
    path = folder / "record_list.csv"
    records = read_table(path, ("subject_id", "study_id", "ecg_time"))
    records = by_key(records, "study_id", path)
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
            "credentialed) beside record_list.csv; MIMIC-IV-ECG itself has neither age nor sex"
        )
    patients = by_key(
        read_table(people, ("subject_id", "gender", "anchor_age", "anchor_year")),
        "subject_id",
        people,
    )
    subjects = patient_texts(records["subject_id"])
    person_of = patients.reindex(subjects).set_axis(records.index).fillna("")
    unknown = int((person_of["anchor_age"] == "").sum())
    notes = [
        f"{unknown} records of patients that {people.name} does not know: age and sex unknown"
    ] * bool(unknown)
    year = read_numbers(records["ecg_time"].str[:4], path)
    age = read_numbers(person_of["anchor_age"], people) + (
        year - read_numbers(person_of["anchor_year"], people)
    )
    male = person_of["gender"].str.strip().str.upper().map({"M": 1.0, "F": 0.0})
    male_or_not = pd.DataFrame({"male": male})
    labels = {"mimic_age": age.to_frame("age"), "mimic_sex": male_or_not}
    return Metadata(labels, made_folds(male_or_not, subjects), notes)


READERS = {
    "ptbxl": _ptbxl,
    "code15": _code15,
    "cpsc2018": _cpsc2018,
    "chapman_ningbo": _chapman_ningbo,
    "sph": _sph,
    "physionet2017": _physionet2017,
    "mimic_iv_ecg": _mimic_iv_ecg,
}


def read_metadata(name: str, folder: Path, records: pd.DataFrame) -> Metadata:
    """Read the metadata of a data set.

    Args:
        name: a key of ``published.BENCHMARKS``.
        folder: of its metadata files.
        records: of the set in the store; some sets keep their labels in the headers.

    Raises:
        ConfigError: a file is missing or not the published one.
    """
    return READERS[name](folder, records)
