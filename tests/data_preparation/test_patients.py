"""Files beside the recordings, of patients first: what they say of which records, and
what a user hears where they do not fit.
"""

import numpy as np
import pandas as pd
import pytest

from data_preparation import (
    add_labels,
    add_splits,
    data_extraction_without_preprocessing,
    import_arrays,
)
from data_preparation.building.extraction import add_patients
from data_preparation.building.reformat import reformat
from tests.support.wfdb_files import ecg_counts, write_record
from util.config.keys import FinetuneDataset
from util.data.splits import make_splits
from util.data.store import RecordStore
from util.data.strata import fraction_of, patient_numbers
from util.errors import ConfigError
from util.labels.tables import read_labels
from util.scoring.intervals import Predicted, estimate
from util.scoring.scores import parse_scores

NAMES = [f"{i:05d}" for i in range(1, 61)]  # three records in a row are of one patient


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """An import of 60 records called 00001 to 00060."""
    folder = tmp_path_factory.mktemp("patients")
    np.save(folder / "ecgs.npy", np.stack([ecg_counts(300, seed=i) for i in range(60)]))
    (folder / "ids.csv").write_text("record\n" + "".join(f"{name}\n" for name in NAMES))
    flags = f"--input {folder}/ecgs.npy --fs 100 --units uV --ids {folder}/ids.csv --workers 1"
    flags += f" --target_fs 100 --output_dir {folder}/extracted"
    assert import_arrays.main(flags.split()) == 0
    return folder / "extracted"


@pytest.fixture
def build(extracted, tmp_path, capsys):
    """(records of the store, what was said) of a column of patients, by record."""

    def build_with(patients, names=NAMES, **more):
        path = tmp_path / "patients.csv"
        rows = (f"{name},{patient}\n" for name, patient in zip(names, patients))
        path.write_text("record,patient_id\n" + "".join(rows), encoding="utf-8")
        capsys.readouterr()
        reformat(extracted, tmp_path / "store", patients=path, **more)
        return RecordStore(tmp_path / "store" / "fs100").records, capsys.readouterr().out

    return build_with


# ------------------------------------------------------------------------------------------------
# unknown patients


@pytest.mark.parametrize(
    "word", ["", "nan", "NA", "None", "null", "unknown", "-1", "<NA>", "N/A", "-1.0", " NaN "]
)
def test_unknown_patients_are_not_one_patient(build, word):
    records, said = build([f"p{i // 2}" for i in range(20)] + [word] * 40)
    assert records["fold"].value_counts().max() <= 8
    assert (records["patient"] == "").sum() == 40
    assert "records without a patient: 40 of 60; each counts as a patient of its own" in said
    if word.strip():
        assert f"unknown, written as {word.strip()}: 40 of 60" in said


def test_a_file_in_which_no_patient_is_known_is_an_error(build):
    with pytest.raises(ConfigError, match="gives no patient: every cell of its column is empty"):
        build(["unknown"] * 60)


def test_unknown_patients_in_labels_and_splits_are_not_one_patient(extracted, tmp_path, capsys):
    labels, splits = tmp_path / "labels.csv", tmp_path / "splits.csv"
    parts = ("train", "valid", "test")
    for path, column, cells in ((labels, "AF", "01"), (splits, "split", parts)):
        rows = (f"{name},null,{cells[i % len(cells)]}\n" for i, name in enumerate(NAMES))
        path.write_text(f"record,patient,{column}\n" + "".join(rows))
    reformat(extracted, tmp_path / "store", labels=labels, splits=splits)
    records = RecordStore(tmp_path / "store" / "fs100").records
    assert set(records["patient"]) == {""} and records["fold"].value_counts().max() <= 8
    # The defect: said where some are known, but not of a store without any
    assert "records without a patient: 60 of 60; each counts as a pat" in capsys.readouterr().out


def test_one_patient_with_a_large_share_is_named(build):
    _, said = build(["anonymous"] * 40 + [f"p{i // 2}" for i in range(20)])
    assert "warning: patient anonymous of ecgs has 40 of 60 records (67%)" in said
    _, said = build([f"p{i // 3}" for i in range(60)])
    assert "warning" not in said and "without a patient" not in said


# ------------------------------------------------------------------------------------------------
# names that match nothing


def test_rows_that_name_no_record_are_counted(build):
    names = ["00001", *(str(int(name)) for name in NAMES[1:])]
    _, said = build([f"p{i // 3}" for i in range(60)], names)
    assert "that name no record: 59 of 60, such as 2, 3, 4, ...; 59 of them differ" in said
    assert "such as 2, which is 00002 there" in said
    assert "records without a patient: 59 of 60" in said


@pytest.mark.parametrize("write", [lambda n: n.lstrip("0"), lambda n: f"{int(n)}.0", "x{}".format])
def test_nothing_matched_is_an_error(build, write):
    with pytest.raises(ConfigError, match="names none of the 60 records: its rows are of") as error:
        build(["p"] * 60, [write(name) for name in NAMES])
    assert ("differ in writing alone" in str(error.value)) == (not write("0").startswith("x"))


def test_rows_of_other_records_are_no_warning(build):
    _, said = build([f"p{i // 3}" for i in range(120)], NAMES + [f"other{i}" for i in range(60)])
    assert "that name no record: 60 of 120, such as other0" in said and "warning" not in said


@pytest.mark.parametrize(
    "one, other", [("7", "00007"), ("12", "12.0"), ("P1", "p1"), ("\u00e9", "e\u0301")]
)
def test_patients_that_differ_in_writing_alone_are_named(build, one, other):
    _, said = build([one, other] + [f"q{i // 3}" for i in range(58)])
    assert "warning: patients that differ in writing alone, and count as several: 1" in said
    assert f"such as {' and '.join(sorted((one, other)))};" in said


def test_a_label_file_says_which_names_differ_in_writing_alone(extracted, tmp_path):
    (tmp_path / "labels.csv").write_text("record,AF\n00001,1\n2,0\n3,1\n")
    with pytest.raises(ConfigError, match=r"\(2 differ in writing alone: 2 is 00002 there\)"):
        reformat(extracted, tmp_path / "store", labels=tmp_path / "labels.csv")


def test_dropped_records_are_no_strangers(build, tmp_path):
    (tmp_path / "drop.csv").write_text("record\n00001\n")
    _, said = build([f"p{i // 3}" for i in range(60)], drop=tmp_path / "drop.csv")
    assert "name no record" not in said


# ------------------------------------------------------------------------------------------------
# pieces of a recording


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A store of 24 recordings in 4 pieces each; the first two are of a known patient, and two
    whole recordings that are only called like pieces.
    """
    folder = tmp_path_factory.mktemp("pieces")
    for i in range(26):
        name, samples = (f"r{i}", 900) if i < 24 else (f"whole_{i - 23}", 230)
        write_record(folder / "in" / "lab", name, ecg_counts(samples, seed=i), fs="100")
    flags = f"--input_dir {folder}/in --output_dir {folder}/x --target_fs 100 --workers 1"
    flags += " --segment_seconds 2.25"
    assert data_extraction_without_preprocessing.main(flags.split()) == 0
    (folder / "p.csv").write_text("record,patient_id\nr0,P\nr1,P\n")
    reformat(folder / "x", folder / "store", patients=folder / "p.csv")
    return RecordStore(folder / "store" / "fs100")


def test_without_a_known_patient_the_recording_is_the_patient(pieces):
    records = pieces.records
    whose = make_splits(pieces, FinetuneDataset()).patients
    recording = records["record"].str.replace(r"_[0-9]+$", "", regex=True)
    by_recording = pd.Series(whose).groupby(recording).nunique()
    assert by_recording.drop("whole").eq(1).all()
    assert set(whose[recording == "whole"]) == {""}
    assert set(whose[recording.isin(["r0", "r1"])]) == {"lab/P"} and len(set(whose)) == 1 + 22 + 1


def test_a_share_of_the_labels_takes_whole_recordings(pieces):
    whose = make_splits(pieces, FinetuneDataset()).patients
    rows = np.arange(len(pieces))
    strata = np.arange(len(pieces))[:, None] % 3 == np.arange(3)
    taken = np.isin(rows, fraction_of(rows, 0.2, strata, whose, seed=0))
    shares = pd.Series(taken)[whose != ""].groupby(whose[whose != ""]).mean()
    assert set(shares) == {0.0, 1.0} and shares.sum() > 2


def test_intervals_draw_whole_recordings(pieces):
    """Pieces of one recording err alike: as many records, but less evidence."""
    whose = patient_numbers(make_splits(pieces, FinetuneDataset()).patients)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(whose.max() + 1) % 2)[whose][:, None].astype(float)
    outputs = labels + 1.5 * rng.normal(size=whose.max() + 1)[whose][:, None]
    outputs += 0.1 * rng.normal(size=outputs.shape)
    score = parse_scores(["AUROC"])["AUROC"]
    widths = []
    for patients in (None, whose):
        test = Predicted(labels, outputs, patients)
        found = estimate("AUROC", score, [test], "multilabel", n=300)
        widths.append(found.high - found.low)
    assert widths[1] > 1.5 * widths[0]


def test_splits_that_tear_a_recording_apart_are_refused(pieces, tmp_path):
    (tmp_path / "s.csv").write_text("record,split\nr5_1,train\nr5_2,test\nwhole_1,valid\n")
    flags = [f"{pieces.path.parent}", f"{tmp_path}/s.csv"]
    with pytest.raises(ConfigError, match="such as lab/recording r5 \\(r5_1 in train, r5_2 in te"):
        add_splits.main(flags)
    add_splits.main([*flags, "--allow_patient_overlap"])
    (tmp_path / "s.csv").write_text("record,split\nwhole_1,train\nwhole_2,test\nr5_1,valid\n")
    add_splits.main(flags)


# ------------------------------------------------------------------------------------------------
# columns of ids beside labels


def test_ids_in_a_label_file_are_patients_or_left_out_and_never_targets(
    extracted, tmp_path, capsys
):
    path, rates = tmp_path / "ages.csv", tmp_path / "store"
    rows = (f"{i},{n},{i // 3},P{i // 3},{i % 10},{40 + i % 7}\n" for i, n in enumerate(NAMES))
    path.write_text("Unnamed: 0,record,subject_id,PatientID,strat_fold,age\n" + "".join(rows))
    reformat(extracted, rates, labels=path)
    said = capsys.readouterr().out
    store = RecordStore(rates / "fs100")
    assert read_labels(store, FinetuneDataset(labels="ages")).classes == ("age",)
    assert store.records.groupby("patient")["fold"].nunique().eq(1).all()
    assert store.records["patient"].nunique() == 20
    assert "are left out: Unnamed: 0, strat_fold;" in said
    assert "the column subject_id says whose record it is; PatientID, which says" in said
    reformat(extracted, rates, labels=path, label_columns=["strat_fold"])
    assert read_labels(store, FinetuneDataset(labels="ages")).classes == ("strat_fold",)
    meta = (rates / "fs100" / "meta.json").read_text()
    assert "--labels ages.csv --columns strat_fold" in meta


def test_add_labels_takes_the_columns_that_are_asked_for(extracted, tmp_path, capsys):
    reformat(extracted, tmp_path / "store")
    rows = (f"{n},p{i // 3},{i % 10}\n" for i, n in enumerate(NAMES))
    (tmp_path / "mine.csv").write_text("record,mrn,fold\n" + "".join(rows))
    with pytest.raises(ConfigError, match="no column of labels beside record and patient"):
        add_labels.main([f"{tmp_path}/store", f"{tmp_path}/mine.csv"])
    add_labels.main([f"{tmp_path}/store", f"{tmp_path}/mine.csv", "--columns", "fold"])
    store = RecordStore(tmp_path / "store" / "fs100")
    labels = read_labels(store, FinetuneDataset(labels="mine"))
    assert labels.classes == ("fold",) and labels.patients[:4].tolist() == ["p0", "p0", "p0", "p1"]


def test_patients_of_a_table_that_differ_from_the_stores_in_writing_are_named(
    extracted, tmp_path, capsys
):
    (tmp_path / "p.csv").write_text(
        "record,patient_id\n" + "".join(f"{n},P{i // 3}\n" for i, n in enumerate(NAMES))
    )
    reformat(extracted, tmp_path / "store", patients=tmp_path / "p.csv")
    (tmp_path / "mine.csv").write_text("record,patient,AF\n00001,p7,1\n00004,P1,0\n")
    add_labels.main([f"{tmp_path}/store", f"{tmp_path}/mine.csv"])
    assert (
        "in writing alone, and count as several: 1, such as P7 and p7;" in capsys.readouterr().out
    )


# ------------------------------------------------------------------------------------------------
# names of files


@pytest.mark.parametrize("flag", ["labels", "splits"])
@pytest.mark.parametrize(
    "name, plain",
    [
        ("mine (1).csv", "mine_1.csv"),
        ("my table.csv", "my_table.csv"),
        ("\u00e9t\u00e9.csv", "t.csv"),
        ("-.csv", None),
    ],
)
def test_a_file_whose_name_is_no_name_of_a_table_is_refused_before_the_work(
    extracted, tmp_path, flag, name, plain
):
    column = {"labels": "AF", "splits": "fold"}[flag]
    rows = "".join(f"{record},{i % 2}\n" for i, record in enumerate(NAMES))
    (tmp_path / name).write_text(f"record,{column}\n{rows}")
    with pytest.raises(ConfigError, match="cannot be called") as error:
        reformat(extracted, tmp_path / "store", **{flag: tmp_path / name})
    assert str(error.value).endswith(f"rename the file, for example to {plain or flag + '.csv'}")
    assert not (tmp_path / "store").exists()


def test_row_of_a_recording_is_not_that_of_another_database():
    columns = {
        "record": ["da_5_1", "db_5_1", "6_1", "6"],
        "recording": ["5", "5", "6", ""],
        "database": ["da", "db", "da", "db"],
        "patient": [""] * 4,
    }
    with pytest.raises(ConfigError, match="names 5, of which da and db have pieces"):
        add_patients(columns, {"5": "A"}, "patients.csv")
    columns["patient"] = [""] * 4
    add_patients(columns, {"da_5_1": "A", "6": "B"}, "patients.csv")
    assert columns["patient"] == ["A", "", "", "B"]
