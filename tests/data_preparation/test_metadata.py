"""A set's own table, given with --metadata to an import: age, sex, patient, folds and labels of its
recordings reach the store.
"""

import ast
import json

import numpy as np
import pandas as pd
import pytest

from data_preparation import benchmark_labels, data_extraction_without_preprocessing, import_arrays
from data_preparation.building.reformat import reformat
from tests.support.wfdb_files import SHARED, ecg_counts, write_record
from util.config.keys import FinetuneDataset
from util.data.store import RecordStore
from util.errors import ConfigError
from util.labels.tables import read_labels

PTBXL = SHARED / "ptbxl_raw"
HEAD = "ecg_id,patient_id,age,sex,scp_codes,strat_fold"


@pytest.fixture
def bring(tmp_path):
    """An import of WFDB recordings {path: ...} with a table; returns the store's records."""

    def bring_in(names, table, *flags, folder="ptb-xl", samples=300):
        for i, name in enumerate(names):
            place = tmp_path / "in" / folder
            if not (place / f"{name}.hea").exists():
                write_record(place, name, ecg_counts(samples, seed=i), fs="100", comments=())
        if isinstance(table, list):
            (tmp_path / "mine.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
            table = tmp_path / "mine.csv"
        given = ["--metadata", str(table)] * bool(table)
        given += f"--input_dir {tmp_path}/in --output_dir {tmp_path}/x --workers 1".split()
        given += ["--target_fs", "100", *flags]
        assert data_extraction_without_preprocessing.main(given) == 0
        reformat(tmp_path / "x", tmp_path / "store")
        return RecordStore(tmp_path / "store" / "fs100").records

    return bring_in


def splits(tmp_path, name="mine"):
    return pd.read_csv(tmp_path / "store" / "splits" / f"{name}.csv", dtype=str).set_index("record")


# ------------------------------------------------------------------------------------------------
# PTB-XL


@pytest.mark.skipif(not PTBXL.is_dir(), reason="no ../shared/data/ptbxl_raw by the checkout")
def test_ptbxl_as_published_equals_a_count_by_hand(bring, tmp_path):
    hand = pd.read_csv(PTBXL / "ptbxl_database.csv")
    hand.index = hand["filename_hr"].str.rpartition("/")[2]
    records = bring(hand.index, PTBXL / "ptbxl_database.csv")
    hand = hand.loc[records["record"]]
    np.testing.assert_array_equal(records["age"], hand["age"])
    assert records["sex"].tolist() == hand["sex"].map({0: "Male", 1: "Female"}).tolist()
    assert records["patient"].tolist() == hand["patient_id"].astype(int).astype(str).tolist()
    assert records.groupby("patient")["fold"].nunique().max() == 1
    fold = splits(tmp_path, "ptbxl_database")["fold"].astype(int).reindex(hand.index)
    assert fold.tolist() == hand["strat_fold"].tolist()

    store = str(tmp_path / "store")
    benchmark_labels.main(["ptbxl", "--store", store, "--metadata", str(PTBXL)])
    statements = pd.read_csv(PTBXL / "scp_statements.csv", index_col=0)
    superclass = statements[statements["diagnostic"] == 1]["diagnostic_class"]
    given = hand["scp_codes"].map(ast.literal_eval)
    tasks = {"all": pd.Series(statements.index, statements.index), "superdiagnostic": superclass}
    for task, class_of in tasks.items():
        table = pd.read_csv(f"{store}/labels/ptbxl_{task}.csv", index_col="record")
        classes = sorted(set(class_of))
        assert set(classes) == set(table) - {"patient"}
        for name in classes:
            codes = set(class_of.index[class_of == name])
            counted = given.map(lambda present, codes=codes: bool(codes & set(present)))
            ours = (table[name] == 1).reindex(hand.index, fill_value=False)
            pd.testing.assert_series_equal(
                ours.groupby(fold).sum(),
                counted.groupby(hand["strat_fold"]).sum(),
                check_names=False,
            )


def test_ptbxl_by_number_with_ages_of_over_89(bring, tmp_path, capsys):
    table = [HEAD, "1,7.0,300.0,0,{},1", "2,7.0,61.0,1,{},1", "3,8.0,,,{},10", "4,9.0,5.5,1,{},2"]
    records = bring(["00001_hr", "00002_hr", "00003_hr"], table)
    assert records["age"].fillna(-1).tolist() == [90, 61, -1]
    assert records["sex"].tolist() == ["Male", "Female", "Unknown"]
    assert records["patient"].tolist() == ["7", "7", "8"]
    assert "age over 89 (300 in the metadata), 90 noted" in records["flags"].iloc[0]
    assert splits(tmp_path)["fold"].tolist() == ["1", "1", "10"]
    said = capsys.readouterr().out
    assert "rows that name a recording: 3 of 4; recordings with a row: 3 of 3" in said
    assert "they go by the number in a name: 1 is 00001_hr" in said
    assert (
        "rows by ecg_id; age from age, sex from sex, patient from patient_id, fold from strat_fold"
        in said
    )
    assert "sex 0 is taken as male, 1 as female" in said
    assert "ages of over 89 (300 in the file), 90 noted: 1" in said


def test_of_both_rates_of_a_recording_the_one_that_is_kept_has_its_row(bring):
    records = bring(["00001_lr", "00001_hr"], [HEAD, "1,7.0,50,0,{},1"])
    assert records["record"].tolist() == ["00001_hr"] and records["patient"].tolist() == ["7"]


# ------------------------------------------------------------------------------------------------
# any set


def test_any_set_with_columns_that_are_asked_for(bring, tmp_path):
    table = [
        "exam,Alter,is_male,SubjectID,Split,AF,LBBB,remark",
        "a,61,True,S1,val,1,0,x",
        "b,300,False,S1,Validation,0,,y",
        "c,unknown,,nan,TRAIN,1,1,z",
    ]
    flags = ["--id_column", "exam", "--columns", "Alter,is_male,SubjectID", "Split", "AF", "LBBB"]
    records = bring("abcd", table, *flags, folder="lab")
    assert records["age"].fillna(-1).tolist() == [61, 90, -1, -1]
    assert records["sex"].tolist() == ["Male", "Female", "Unknown", "Unknown"]
    assert records["patient"].tolist() == ["S1", "S1", "", ""]
    assert splits(tmp_path)["split"].to_dict() == {"a": "valid", "b": "valid", "c": "train"}
    labels = read_labels(RecordStore(tmp_path / "store" / "fs100"), FinetuneDataset(labels="mine"))
    assert labels.classes == ("AF", "LBBB") and labels.known.tolist() == [True] * 3 + [False]
    np.testing.assert_array_equal(labels.values[:3], [[1, 0], [0, np.nan], [1, 1]])
    command = json.loads((tmp_path / "store/fs100/meta.json").read_text())["command"][0]
    assert command.endswith(
        "--metadata mine.csv --id_column exam --columns Alter is_male SubjectID Split AF LBBB"
    )


def test_rows_may_go_by_the_path_of_a_file(bring):
    records = bring(["r1", "r2"], ["filename,patient", "lab/r1.hea,1", "lab/r2,1"], folder="lab")
    assert records["patient"].tolist() == ["1", "1"]


def test_arrays_take_a_table_and_pieces_that_of_their_recording(tmp_path):
    np.save(tmp_path / "ecgs.npy", np.stack([ecg_counts(700, seed=i) for i in range(3)]))
    (tmp_path / "mine.csv").write_text("record,age,mrn,fold,AF\necgs-0,61,7,3,1\necgs-2,62,7,3,0\n")
    flags = f"--input {tmp_path}/ecgs.npy --fs 100 --units uV --workers 1 --target_fs 100"
    flags += f" --segment_seconds 3 --output_dir {tmp_path}/x --metadata {tmp_path}/mine.csv"
    assert import_arrays.main([*flags.split(), "--columns", "age", "mrn", "fold", "AF"]) == 0
    reformat(tmp_path / "x", tmp_path / "store")
    records = RecordStore(tmp_path / "store" / "fs100").records.set_index("record")
    assert records["age"].fillna(0).tolist() == [61, 61, 0, 0, 62, 62]
    assert records["patient"].tolist() == ["7", "7", "", "", "7", "7"]
    assert splits(tmp_path).index.tolist() == ["ecgs-0_1", "ecgs-0_2", "ecgs-2_1", "ecgs-2_2"]
    labels = read_labels(RecordStore(tmp_path / "store" / "fs100"), FinetuneDataset(labels="mine"))
    assert labels.known.tolist() == [True, True, False, False, True, True]


def test_another_table_needs_no_new_extraction_and_none_takes_it_away(bring, tmp_path):
    names = ["a", "b"]
    assert bring(names, ["record,age", "a,50", "b,60"])["age"].tolist() == [50, 60]
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "x" / "shards").iterdir()}
    assert bring(names, ["record,age", "a,51", "b,60"])["age"].tolist() == [51, 60]
    assert bring(names, None)["age"].isna().all()
    assert shards == {path: path.stat().st_mtime_ns for path in shards}


def test_numbers_of_sexes_without_a_meaning_stay_unknown(bring, capsys):
    records = bring(["a", "b"], ["record,sex,age", "a,1,-5", "b,2,200"])
    assert set(records["sex"]) == {"Unknown"} and records["age"].isna().all()
    said = capsys.readouterr().out
    assert (
        "cells of sex that are no sex, which stays unknown: 2, such as 1, 2; write M and F" in said
    )
    assert "cells of age that are no age, which stays unknown: 2, such as -5, 200" in said


@pytest.mark.parametrize(
    "table, flags, words",
    [
        (
            ["record,age", "x,50"],
            [],
            "none of its 1 rows is of one of the 2 recordings: the column ",
        ),
        (["who,age", "a,50"], [], "name the column of the records' names by --id_column; there"),
        (["name,age", "a,50"], ["--id_column", "id"], "has no column id for --id_column; it has n"),
        (["record,age", "a,50"], ["--columns", "sex"], "has no column sex for --columns; it has"),
        (["record,age", "a,50", "a,60"], [], "names 1 records more than once, such as a; keep"),
        (["record,AF", "a,1"], [], "no column is known as age, sex, patient or fold; choose by"),
        (["record,strat_fold,split", "a,1,test"], [], "several columns could be .* --columns"),
        (["record,subject,mrn", "a,1,2"], [], "several columns could be the patient: subject, mrn"),
        (["record,split", "a,first"], [], "column split holds 'first', which is neither a fold"),
        (["record,patient", "A,1"], [], "; 1 differ in writing alone: A is a"),
    ],
)
def test_what_does_not_fit_is_a_sentence_before_the_work(bring, tmp_path, table, flags, words):
    with pytest.raises(ConfigError, match=words) as error:
        bring(["a", "b"], table, *flags)
    assert "mine.csv" in str(error.value) and not (tmp_path / "x").exists()


def test_numbers_never_go_to_several_databases_or_names(bring, tmp_path):
    write_record(tmp_path / "in" / "code15", "3", ecg_counts(300), fs="100", comments=())
    with pytest.raises(ConfigError, match="recordings of several databases, code15, sph; import"):
        bring(["4"], ["exam_id,age", "3,50", "4,60"], folder="sph")
    for path in (tmp_path / "in" / "code15").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="7 may be A0007 or B0007; write the recordings' names"):
        bring(["A0007", "B0007"], ["ecg_id,age", "7,50"])


def test_two_writings_of_one_number_are_an_error(bring):
    """The defect: the last of these rows won without a word."""
    with pytest.raises(ConfigError, match="012 and 12 are one number, and both are rows"):
        bring(["00012_hr"], ["ecg_id,age", "12,50", "012,60"])


@pytest.mark.parametrize(
    "column, rows",
    [
        ("ecg_id", ["1,50", "2,60", "3,70"]),  # the array's order, from 1
        ("ecg_id", ["2,50", "1,60", "7,70"]),  # PTB-XL's numbers have gaps
        ("exam_id", ["0.0,50", "2.0,60", "4.0,70"]),
    ],
)
def test_places_in_an_array_are_no_numbers_of_a_set(tmp_path, column, rows):
    """The defect: 1 was taken for the recording at place 1, which is the second, and every age,
    patient, fold and label went to another recording.
    """
    np.save(tmp_path / "ecgs.npy", np.stack([ecg_counts(300, seed=i) for i in range(3)]))
    (tmp_path / "mine.csv").write_text("\n".join([f"{column},age", *rows]))
    flags = f"--input {tmp_path}/ecgs.npy --fs 100 --units uV --workers 1 --target_fs 100"
    flags += f" --output_dir {tmp_path}/x --metadata {tmp_path}/mine.csv"
    with pytest.raises(ConfigError, match="ecgs-0, ecgs-1, ecgs-2 are places.* by --ids"):
        import_arrays.main(flags.split())
    (tmp_path / "mine.csv").write_text("place,age\n2,50\n0,60\n1,70\n")  # all places there are
    assert import_arrays.main([*flags.split(), "--id_column", "place"]) == 0
    records = pd.read_csv(tmp_path / "x" / "records.csv")
    assert records["age"].tolist() == [60, 70, 50]


def test_names_from_0_and_rows_from_1_are_an_error(bring):
    with pytest.raises(ConfigError, match="the recordings count from 0, the rows from 1"):
        bring(["ecg0", "ecg1", "ecg2"], ["ecg_id,age", "1,50", "2,60", "3,70"])
    records = bring(["ecg0", "ecg1", "ecg2"], ["ecg_id,age", "0,50", "1,60", "2,70"])
    assert records["age"].tolist() == [50, 60, 70]


def test_a_name_with_a_dot_is_no_file_with_an_ending(bring):
    """The defect: record 100.2 got the age of 100."""
    records = bring(["100", "100.2"], ["record,age", "100,50"], folder="lab")
    assert records.set_index("record")["age"].fillna(-1).to_dict() == {"100": 50, "100.2": -1}


@pytest.mark.parametrize("name", ["age_days", "AgeGroup", "age in months"])
def test_ages_that_are_no_years_are_not_taken_for_them(bring, name):
    with pytest.raises(ConfigError, match="no column is known as age, sex, patient or fold"):
        bring(["a", "b"], [f"record,{name}", "a,3", "b,90"])


def test_a_patient_in_two_folds_needs_the_word(bring, tmp_path):
    with pytest.raises(ConfigError, match="puts 1 patients on more than one side"):
        bring(["a", "b"], ["record,patient,fold", "a,1,3", "b,1,4"])
    reformat(tmp_path / "x", tmp_path / "store", allow_patient_overlap=True)
    assert splits(tmp_path)["fold"].tolist() == ["3", "4"]


def test_an_import_again_without_its_table_says_what_goes(bring, capsys):
    rows = ["record,patient,age", "a,p1,50", "b,p1,60"]
    assert bring(["a", "b"], rows)["patient"].tolist() == ["p1", "p1"]
    bring(["a", "b"], rows)
    assert "no longer there" not in capsys.readouterr().out
    assert bring(["a", "b"], None)["patient"].tolist() == ["", ""]
    said = capsys.readouterr().out
    assert "had --metadata mine.csv --id_column record --columns age patient, this one has" in said
    assert "ages, patients, folds and labels are no longer there" in said


@pytest.mark.parametrize(
    "rows, words",
    [
        (["record;patient;age", "a;p1;50"], "mine.csv: semicolons are between its columns"),
        (["record\tpatient\tage", "a\tp1\t50"], "mine.csv: tabs are between its columns"),
        (["record,patient,age"], "mine.csv: no row below its header names a record in column rec"),
        (["record,patient,fold", "a,p1,1", "b,p1,2"], "^--metadata mine.csv puts 1 patients on"),
    ],
)
def test_files_that_are_wrong_are_named(bring, rows, words):
    with pytest.raises(ConfigError, match=words):
        bring(["a", "b"], rows)
