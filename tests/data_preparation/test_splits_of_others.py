"""Splits of public data sets that others made: from their CSV files into a store."""

import pandas as pd
import pytest

from data_preparation import benchmark_labels
from data_preparation.benchmarks.others import key_of, read_others
from data_preparation.benchmarks.published import BENCHMARKS
from data_preparation.building.reformat import reformat
from data_preparation.importing.wfdb_source import extract
from tests.support import benchmark_files
from tests.support.wfdb_files import ecg_counts, write_record
from util.config.keys import FinetuneDataset
from util.data.splits import make_splits
from util.data.store import RecordStore
from util.errors import ConfigError

DX = ("426783006", "164889003", "164909002")
FOLDERS = {"code15": "code15", "cpsc2018": "cpsc_2018", "chapman_ningbo": "chapman"}
NAMES = {
    "code15": [str(1_169_160 + 7 * i) for i in range(20)],
    "cpsc2018": [f"A{i:04d}" for i in range(1, 21)],
    "chapman_ningbo": [f"JS{i:05d}" for i in range(1, 21)],
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """{name: folder with a store of 20 records and the set's metadata}."""
    folders = {}
    for name, records in NAMES.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        for i, record in enumerate(records):
            place, dx = folder / "in" / FOLDERS[name], f"#Dx: {DX[i % 3]}"
            write_record(place, record, ecg_counts(300, seed=i), fs="100", comments=(dx,))
        extract(folder / "in", folder / "extracted", [100], workers=1)
        reformat(folder / "extracted", folder / "store")
    benchmark_files.code15(folders["code15"], 20)
    rows = [["SR", "sinus", DX[0]], ["AFIB", "fibrillation", DX[1]], ["LBBB", "block", DX[2]]]
    benchmark_files.write_csv(
        folders["chapman_ningbo"] / "ConditionNames_SNOMED-CT.csv",
        ["Acronym Name", "Full Name", "Snomed_CT"],
        rows,
    )
    return folders


def add(folder, name, rows, *flags):
    (folder / "theirs.csv").write_text("\n".join(rows) + "\n")
    given = [name, "--store", folder / "store", "--metadata", folder]
    benchmark_labels.main([*map(str, given), "--splits", f"{folder}/theirs.csv", *flags])
    return pd.read_csv(folder / "store" / "splits" / "theirs.csv", dtype=str).set_index("record")


def parts_of(folder, **choice):
    store = RecordStore(folder / "store" / "fs100")
    data = FinetuneDataset(protocol="given", splits="theirs", **choice)
    return {part: int(mask.sum()) for part, mask in make_splits(store, data).masks(0).items()}


def test_code15_by_folds(sets, capsys):
    rows = ["exam_id,fold", *(f"{n}.0,{i // 2 % 5}.0" for i, n in enumerate(NAMES["code15"]))]
    table = add(sets["code15"], "code15", rows)
    assert table["fold"].tolist() == [str(i // 2 % 5) for i in range(20)]
    assert table["patient"].nunique() == 10
    given = {"train": [0, 1, 2], "valid": [3], "test": [4]}
    assert parts_of(sets["code15"], given=given) == {"train": 12, "valid": 4, "test": 4}
    said = capsys.readouterr().out
    assert "theirs.csv: 20 of 20 records are in the store" in said
    assert "splits: theirs, given: {train: [...], valid: [...], test: [...]}" in said
    head = said[said.index("code15 by theirs") :].splitlines()
    assert head[0].split()[-5:] == ["0", "1", "2", "3", "4"]
    assert head[1].split() == ["records", *["4"] * 5]


def test_cpsc2018_by_parts_and_names_of_files(sets, capsys):
    parts = ["Training", "train", "val", "TEST"]
    rows = ["Recording,set,partition"]
    rows += [f"{n}.mat,x,{parts[i % 4]}" for i, n in enumerate(NAMES["cpsc2018"])]
    table = add(sets["cpsc2018"], "cpsc2018", [*rows, "A6000.mat,x,test"])
    assert table["split"].tolist() == ["train", "train", "valid", "test"] * 5
    assert parts_of(sets["cpsc2018"]) == {"train": 10, "valid": 5, "test": 5}
    said = capsys.readouterr().out
    assert "theirs.csv: 20 of 21 records are in the store" in said
    line = next(line for line in said[said.index("by theirs") :].splitlines() if " LBBB" in line)
    assert sum(map(int, line.split()[1:])) == 6 and "given: {train: [0" in said


def test_chapman_by_paths_and_columns_that_are_named(sets):
    rows = ["who,id2,where"]
    rows += [f"WFDBRecords/01/{n}.hea,{i},{i % 3}" for i, n in enumerate(NAMES["chapman_ningbo"])]
    flags = ["--id_column", "who", "--fold_column", "where"]
    table = add(sets["chapman_ningbo"], "chapman_ningbo", rows[:11], *flags)
    assert table["fold"].tolist() == [str(i % 3) for i in range(10)]


@pytest.mark.parametrize(
    "rows, flags, words",
    [
        (["exam_id,group", "1,2"], [], "name the column of folds or parts by --fold_column; there"),
        (["exam_id,fold,split", "1,2,test"], [], "name the column of folds or parts by --fold_c"),
        (["a,b,fold", "1,2,3"], [], "name the column of the records' names by --id_column"),
        (["exam_id,fold", "1,2", "01,3"], [], "1 records are in several folds, such as 1; keep"),
        (["exam_id,split", "1,first"], [], "holds 'first', which is neither a fold .* nor one of"),
        (["exam_id,fold", "1,2"], [], "none of its 1 records is in the metadata and in the store"),
        (
            ["exam_id,fold", *(f"{n},{i}" for i, n in enumerate(NAMES["code15"]))],
            [],
            "theirs.csv puts 10 patients on more than one side",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(sets, rows, flags, words):
    with pytest.raises(ConfigError, match=words) as error:
        add(sets["code15"], "code15", rows, *flags)
    assert str(sets["code15"] / "theirs.csv") in str(error.value)


def test_no_table_of_splits_replaces_the_sets_own_or_another(sets, tmp_path):
    """The defect: a file called ptbxl.csv took the place of PTB-XL's ten folds."""
    folder, texts = sets["code15"], ["exam_id,fold", *(f"{n},0" for n in NAMES["code15"])]
    given = ["code15", "--store", str(folder / "store"), "--metadata", str(folder), "--splits"]
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "code15.csv", tmp_path / "b.csv", tmp_path / "a" / "b.csv"):
        path.write_text("\n".join(texts) + "\n")
    before = sorted((folder / "store" / "splits").glob("*"))
    with pytest.raises(ConfigError, match="would be called code15, as that of code15 is; rename"):
        benchmark_labels.main([*given, str(tmp_path / "code15.csv")])
    with pytest.raises(ConfigError, match="would be called b, as that of another file is; rename"):
        benchmark_labels.main([*given, str(tmp_path / "b.csv"), str(tmp_path / "a" / "b.csv")])
    assert sorted((folder / "store" / "splits").glob("*")) == before


def test_patients_on_two_sides_if_allowed(sets):
    rows = ["exam_id,fold", *(f"{n},{i % 3}" for i, n in enumerate(NAMES["code15"]))]
    table = add(sets["code15"], "code15", rows, "--allow_patient_overlap")
    assert table["fold"].tolist() == [str(i % 3) for i in range(20)]


@pytest.mark.parametrize(
    "name, text, key",
    [
        ("ptbxl", "records500/00000/00012_hr", "12"),
        ("ptbxl", "HR00012", "12"),
        ("ptbxl", "12.0", "12"),
        ("code15", "00007", "7"),
        ("cpsc2018", r"C:\data\A0001.mat", "A0001"),
        ("chapman_ningbo", "JS00001.hea", "JS00001"),
        ("sph", "A00001.h5", "A00001"),
        ("mimic_iv_ecg", "files/p1000/p10000032/s40689238/40689238", "40689238"),
    ],
)
def test_a_record_goes_by_name_number_or_path(name, text, key):
    assert key_of(text, BENCHMARKS[name]) == key


def test_a_row_that_comes_twice_alike_does_no_harm(tmp_path):
    (tmp_path / "t.csv").write_text("filename,fold\nA0001.mat,1\nA0001.hea,1.0\nA0002.mat,\n")
    found = read_others(tmp_path / "t.csv", BENCHMARKS["cpsc2018"])
    assert found.name == "fold" and found.to_dict() == {"A0001": "1", "A0002": ""}
