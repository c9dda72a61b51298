"""data_preparation/benchmarks/sets.py: labels, splits and counts of public sets, against numbers
worked out by hand.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_preparation.benchmarks import tables
from data_preparation.benchmarks.published import BENCHMARKS
from data_preparation.benchmarks.sets import READERS, read_metadata
from tests.support import benchmark_files
from util.errors import ConfigError


def read(name, folder, records=None):
    return read_metadata(name, folder, records)


def store_records(names, dx=None, database="any"):
    return pd.DataFrame(
        {"record": names, "dx": dx or [""] * len(names), "database": database, "path": names}
    )


# ============ PTB-XL ============
def test_ptbxl_tasks_by_hand(tmp_path):
    benchmark_files.ptbxl(
        tmp_path,
        [7, 20000, 3, 12],
        codes=[
            {"NORM": 100.0, "SR": 0.0},
            {"IMI": 15.0, "ASMI": 0.0, "PVC": 0.0},
            {"SR": 0.0},
            {"NDT": 100.0, "NEW": 1.0},
        ],
    )
    metadata = read("ptbxl", tmp_path)
    superclass = metadata.labels["ptbxl_superdiagnostic"]
    assert list(superclass) == ["CD", "HYP", "MI", "NORM", "STTC"]  # by name
    assert superclass.loc["7"].tolist() == [0, 0, 0, 1, 0]
    # likelihood 0 counts as well, once
    assert superclass.loc["20000"].tolist() == [0, 0, 1, 0, 0]
    assert superclass.loc["12"].tolist() == [0, 0, 0, 0, 1]
    assert "3" not in superclass.index  # it has a rhythm alone
    subclass = metadata.labels["ptbxl_subdiagnostic"]
    assert subclass.columns[subclass.loc["20000"] == 1].tolist() == ["AMI", "IMI"]
    assert metadata.labels["ptbxl_form"].index.tolist() == ["20000", "12"]
    assert metadata.labels["ptbxl_rhythm"].index.tolist() == ["7", "3"]
    assert (
        metadata.labels["ptbxl_all"].loc["3"].sum() == 1 and len(metadata.labels["ptbxl_all"]) == 4
    )
    assert len(metadata.labels["ptbxl_all"].columns) == len(benchmark_files.STATEMENTS)
    assert metadata.splits.loc["20000"].to_dict() == {"fold": 1, "patient": "15000"}
    assert any("NEW" in note for note in metadata.notes)
    assert any("ptbxl_superdiagnostic: 1 records have no label" in note for note in metadata.notes)


def test_classes_do_not_depend_on_the_order_of_the_files(tmp_path):
    benchmark_files.ptbxl(tmp_path / "a", range(1, 60))
    benchmark_files.ptbxl(tmp_path / "b", range(1, 60))
    path = tmp_path / "b" / "scp_statements.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    for name, table in read("ptbxl", tmp_path / "a").labels.items():
        pd.testing.assert_frame_equal(table, read("ptbxl", tmp_path / "b").labels[name])


@pytest.mark.parametrize(
    "text",
    ["__import__('os').getcwd()", "{'NORM': 'x'}", "['NORM']", "{1: 2.0}", "{", "", "{" * 500],
)
def test_scp_codes_are_parsed_and_never_executed(tmp_path, text):
    benchmark_files.ptbxl(tmp_path, [1, 2])
    path = tmp_path / "ptbxl_database.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[1, "scp_codes"] = text
    table.to_csv(path, index=False)
    with pytest.raises(ConfigError, match="scp_codes of ecg_id 2 is not the text of a dict"):
        read("ptbxl", tmp_path)


def test_record_names_of_both_layouts_and_pieces():
    names = ["HR00007", "00012_hr", "00003_lr", "HR20000_2", "E00007", "7x", "HR00099"]
    records = store_records(names).assign(
        path=[
            "HR00007.hea",
            "a/00012_hr.hea",
            "b/00003_lr.hea",
            "HR20000.hea",
            "E00007.hea",
            "7x.hea",
            "HR00099.hea",
        ],
        own=names,
    )
    keys = tables.keys_of(records, BENCHMARKS["ptbxl"], ["7", "12", "3", "20000"])
    assert keys.tolist() == ["7", "12", "3", "20000", "", "", ""]


# ============ the others ============
def test_code15_goes_by_exam_id_and_keeps_patients_together(tmp_path):
    benchmark_files.code15(tmp_path)
    metadata = read("code15", tmp_path)
    labels, splits = metadata.labels["code15"], metadata.splits
    assert list(labels) == ["1dAVb", "AF", "LBBB", "RBBB", "SB", "ST"]
    for i in range(60):  # the file's columns have another order: 1dAVb RBBB LBBB SB ST AF
        assert (
            labels.loc[str(1_169_160 + 7 * i)].idxmax()
            == ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"][i % 6]
        )
    assert (splits.groupby("patient")["fold"].nunique() == 1).all() and splits[
        "fold"
    ].nunique() == 10


def test_cpsc2018_from_its_reference_and_from_the_challenge(tmp_path):
    benchmark_files.write_csv(
        tmp_path / "REFERENCE.csv",
        ["Recording", "First_label", "Second_label", "Third_label"],
        [["A0001", "5", "", ""], ["A0002", "1", "", ""], ["A0003", "2", "5", "8"]],
    )
    own = read("cpsc2018", tmp_path).labels["cpsc2018"]
    records = store_records(
        ["A0001", "A0002", "A0003", "A0004", "Q0001", "A00001"],
        ["59118001", "426783006", "164889003 59118001 429622005", "111", "164889003", "164889003"],
        "cpsc_2018",
    )
    theirs = read("cpsc2018", tmp_path / "none", records)
    assert list(own) == ["AF", "I-AVB", "LBBB", "PAC", "PVC", "RBBB", "STD", "STE", "normal"]
    pd.testing.assert_frame_equal(own, theirs.labels["cpsc2018"], check_names=False)
    assert own.columns[own.loc["A0003"] == 1].tolist() == ["AF", "RBBB", "STD"]
    assert any("1 records have no label" in note for note in theirs.notes)


def test_pieces_of_a_recording_share_a_fold():
    names = [f"A{i:04d}_{piece}" for i in range(1, 41) for piece in (1, 2, 3)]
    records = store_records(names, ["164889003", "426783006", "270492004"] * 40, "cpsc_2018")
    splits = read("cpsc2018", Path("none"), records).splits
    assert (splits["fold"].groupby(splits.index.str[:5]).nunique() == 1).all() and splits[
        "fold"
    ].nunique() == 10


def test_labels_that_are_no_number_of_a_class_have_a_sentence(tmp_path):
    benchmark_files.write_csv(
        tmp_path / "REFERENCE.csv", ["Recording", "First_label"], [["A0001", "10"]]
    )
    with pytest.raises(ConfigError, match="labels are numbers from 1 to 9, not 10"):
        read("cpsc2018", tmp_path)


def test_chapman_ningbo_names_codes_and_says_which_it_cannot(tmp_path):
    benchmark_files.write_csv(
        tmp_path / "ConditionNames_SNOMED-CT.csv",
        ["Acronym Name", "Full Name", "Snomed_CT"],
        [
            ["SB", "Sinus Bradycardia", "426177001"],
            ["AF", "Atrial Flutter", "164890007"],
            ["AFIB", "Atrial Fibrillation", "164889003"],
            ["STTC", "ST-T Change", "55827005"],
            ["ST-T", "same code", "55827005"],
            ["JPT", "never", "251164006"],
        ],
    )
    records = store_records(
        ["JS00001", "JS00002", "JS00004", "HR00001"],
        ["426177001 55827005", "164889003", "999999", "164889003"],
    )
    metadata = read("chapman_ningbo", tmp_path, records)
    labels = metadata.labels["chapman_ningbo"]
    assert list(labels) == ["AFIB", "SB", "ST-T/STTC"] and labels.index.tolist() == [
        "JS00001",
        "JS00002",
    ]
    notes = " ".join(metadata.notes)
    assert "999999" in notes and "AF, JPT" in notes and "1 records have no label" in notes


def test_sph_statements_without_modifiers_and_its_published_test_part(tmp_path):
    benchmark_files.sph(tmp_path)
    metadata = read("sph", tmp_path)
    labels, splits = metadata.labels["sph"], metadata.splits
    assert labels.columns[labels.loc["A00004"] == 1].tolist() == [
        "Sinus bradycardia",
        "T-wave abnormality",
    ]
    assert labels.columns[labels.loc["A00003"] == 1].tolist() == [
        "Ventricular premature complex(es)"
    ]
    assert "Frequent" not in labels
    assert splits.index[splits["split"] == "test"].tolist() == ["A00040", "A00041", "A00042"]
    assert {"train", "valid", "test"} == set(splits["split"]) and 2 <= (
        splits["split"] == "valid"
    ).sum() <= 6


@pytest.mark.parametrize("name", ["REFERENCE-v3.csv", "training2017/REFERENCE.csv"])
def test_physionet2017(tmp_path, name):
    benchmark_files.physionet2017(tmp_path, [f"A{i:05d}" for i in range(1, 41)], name)
    metadata = read("physionet2017", tmp_path)
    table = metadata.labels["physionet2017"]
    assert table["rhythm"].tolist()[:4] == ["normal", "AF", "other", "noisy"]
    assert (
        pd.crosstab(metadata.splits["fold"], table["rhythm"]).to_numpy().tolist()
        == [[1, 1, 1, 1]] * 10
    )
    assert name.rpartition("/")[2] in metadata.notes[0]


def test_mimic_age_at_the_time_of_the_ecg(tmp_path):
    benchmark_files.mimic(tmp_path)
    metadata = read("mimic_iv_ecg", tmp_path)
    age, sex = metadata.labels["mimic_age"]["age"], metadata.labels["mimic_sex"]["male"]
    assert (
        age["40689240"] == 51 + 2180 - 2178
        and age["40689241"] == 51 + 2181 - 2178
        and sex["40689240"] == 1
    )
    assert (
        np.isnan(age["40689277"])
        and np.isnan(sex["40689277"])
        and "2 records of patients" in metadata.notes[0]
    )
    (tmp_path / "patients.csv").unlink()
    with pytest.raises(ConfigError, match="no patients.csv"):
        read("mimic_iv_ecg", tmp_path)


# ============ counts and wrong files ============
def test_counts_that_differ_are_warnings_that_name_them(tmp_path):
    benchmark_files.ptbxl(tmp_path, range(1, 161))
    metadata = read("ptbxl", tmp_path)
    parts = tables.parts_of(metadata.splits, BENCHMARKS["ptbxl"].given)
    counts = tables.count(metadata, parts)
    assert counts["records"] == 160 and counts["patients"] == 80
    # 6 of 8 sets have a diagnosis, 16 records a fold
    assert [counts[f"ptbxl_superdiagnostic {part}"] for part in ("train", "valid", "test")] == [
        96,
        12,
        12,
    ]
    assert counts["ptbxl_superdiagnostic MI"] == 40
    said = tables.compare(counts, BENCHMARKS["ptbxl"].versions)
    assert "warning: records: expected 21799 (version 1.0.3), found 160" in said
    assert "warning: ptbxl_superdiagnostic train: expected 17084 (version 1.0.3), found 96" in said
    assert said[-1] == "1 of 19 known counts of version 1.0.3 agree"  # five superclasses


def test_the_version_is_the_one_that_fits_best():
    versions = BENCHMARKS["physionet2017"].versions
    first = {
        "records": 8528,
        "physionet2017 normal": 5154,
        "physionet2017 AF": 771,
        "physionet2017 other": 2557,
        "physionet2017 noisy": 46,
    }
    assert tables.compare(first, versions) == ["5 of 5 known counts of version v1 agree"]
    assert tables.compare({"records": 21837, "patients": 18885}, BENCHMARKS["ptbxl"].versions)[
        -1
    ].startswith("2 of 8 known counts of version 1.0.1")
    for benchmark in BENCHMARKS.values():  # classes that exclude each other sum to the records
        for counts in benchmark.versions.values():
            if "physionet2017 noisy" in counts:
                assert sum(counts.values()) == 2 * counts["records"]


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"cpsc2018"}))
def test_metadata_that_are_not_there_have_a_sentence(tmp_path, name):
    with pytest.raises(ConfigError, match="no .* in .*--metadata"):
        read(name, tmp_path, store_records(["JS00001"]))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("strat_fold", "fold"), "no column strat_fold"),
        (lambda text: text.replace("\n2,", "\n1,"), "ecg_id 1 occurs twice"),
        (lambda text: text.splitlines()[0] + "\n", "has no row"),
        (
            lambda text: text.replace(",1,records100/00000/00001", ",11,records100/00000/00001"),
            "strat_fold is not 1 to 10",
        ),
        (
            lambda text: text.replace(",1,records100/00000/00001", ",x,records100/00000/00001"),
            "is no number",
        ),
        (lambda text: "\0\xff" + text, "is it the published file"),
    ],
)
def test_other_files_than_the_published_have_a_sentence(tmp_path, change, message):
    benchmark_files.ptbxl(tmp_path, [1, 2, 3])
    path = tmp_path / "ptbxl_database.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=message):
        read("ptbxl", tmp_path)


def test_a_flag_that_is_none_has_a_sentence(tmp_path):
    benchmark_files.code15(tmp_path)
    path = tmp_path / "exams.csv"
    path.write_text(path.read_text().replace("True,False", "maybe,False", 1))
    with pytest.raises(ConfigError, match="neither true nor false: 'maybe'"):
        read("code15", tmp_path)


def test_every_published_set_has_a_reader():
    assert list(READERS) == list(BENCHMARKS)
