"""Who trains, selects and tests: protocols, splits by file, what is left out, shares of the
labels.
"""

import json

import numpy as np
import pytest

from data_preparation import add_labels, add_splits, check_store, reformat_memmap
from data_preparation.metadata.split_files import read_splits
from tests.support import small_store
from tests.support.small_store import blank_store
from util.config.keys import PretrainDataset
from util.data.splits import (
    choose_rows,
    labelled_rows,
    make_splits,
    parse_folds,
    rows_left,
    run_numbers,
    selection_fold,
    split_rows,
)
from util.data.store import RecordStore
from util.data.strata import fraction_of, label_strata
from util.errors import ConfigError, ECGError, StoreError
from util.labels.tables import make_labels, parse_classes
from util.processes.program import run_main

AF, SINUS, BRADY, UNSCORED = "164889003", "426783006", "426177001", "999999"
DX = [[SINUS], [AF], [SINUS, BRADY], [UNSCORED], [AF, BRADY]]
RECORDS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Sixty records of two databases, those without a scored code without a fold."""
    return blank_store(
        tmp_path_factory.mktemp("store"),
        [
            ("ab"[i % 2], "", DX[i % 5], -1 if DX[i % 5] == [UNSCORED] else i % 10)
            for i in range(RECORDS)
        ],
    )


def choice(**keys):
    """The section ``dataset`` of a config."""
    return PretrainDataset(transforms=[], **keys)


def splits_of(store, **keys):
    return make_splits(store, choice(**keys))


# ============ folds ============
@pytest.mark.parametrize("protocol", ["nested", "published"])
@pytest.mark.parametrize("fold", [0, 4, 9])
def test_splits_follow_the_protocol(store, protocol, fold):
    rows, folds = np.arange(RECORDS), store.records["fold"].to_numpy()
    parts = split_rows(splits_of(store, protocol=protocol), rows, fold)
    select = (fold + 1) % 10 if protocol == "nested" else fold
    assert selection_fold(protocol, fold) == select
    assert np.array_equal(parts["test"], rows[folds == fold])
    assert np.array_equal(parts["valid"], rows[folds == select])
    assert np.array_equal(parts["train"], rows[(folds >= 0) & (folds != fold) & (folds != select)])
    assert set(folds[parts["train"]]) == {0, 1, 2, 4, 5, 6, 7, 9} - {
        fold,
        select,
    }  # the unscored ones have no fold
    assert not set(parts["train"]) & (set(parts["valid"]) | set(parts["test"]))
    if protocol == "nested":
        assert not set(parts["valid"]) & set(parts["test"])


def test_an_empty_part_is_a_config_error(store):
    with pytest.raises(ConfigError, match="no labelled records for the valid part of fold 0"):
        split_rows(splits_of(store), np.flatnonzero(store.records["fold"].to_numpy() != 1), 0)


def test_databases_and_subsets(store):
    assert choose_rows(store, databases=["b"]).tolist() == list(range(1, RECORDS, 2))
    some = choose_rows(store, max_records=7, seed=5)
    assert len(some) == 7 and sorted(some) == some.tolist()
    assert np.array_equal(some, choose_rows(store, max_records=7, seed=5))
    assert not np.array_equal(some, choose_rows(store, max_records=7, seed=6))
    assert len(choose_rows(store, max_records=1000)) == RECORDS
    with pytest.raises(ConfigError, match="has no ptb-xl; it holds a, b"):
        choose_rows(store, databases=["a", "ptb-xl"])


def test_folds_of_a_config():
    assert (
        parse_folds(3) == [3]
        and parse_folds([0, 9]) == [0, 9]
        and parse_folds("all") == list(range(10))
    )
    assert (
        parse_folds(11) == parse_folds([11]) == parse_folds("all")
    )  # the original's word for all of them
    for wrong in (10, -1, [], [3, 3.5], "3", True, None, [0, 0], [0, 11], 12):
        with pytest.raises(ConfigError, match="dataset.fold"):
            parse_folds(wrong)


def test_keys_of_another_protocol_are_config_errors():
    assert run_numbers(choice(fold=[2, 3])) == [2, 3]
    assert run_numbers(choice(protocol="given", fold="all", splits="lab")) == [0]
    for key, value, owner in (
        ("splits", "lab", "given"),
        ("given", {}, "given"),
        ("test_database", "a", "leave_one_d"),
    ):
        with pytest.raises(
            ConfigError, match=f"dataset.{key} has no effect .*: published; it belongs to {owner}"
        ):
            run_numbers(choice(**{key: value}, protocol="published"))


# ============ a database that is left out ============
@pytest.mark.parametrize("fold", [0, 5])
def test_one_database_tests_and_a_fold_of_the_others_selects(tmp_path, fold):
    mine = blank_store(
        tmp_path, [("abc"[i % 3], "", [SINUS], -1 if i in (3, 4) else i % 10) for i in range(60)]
    )
    database, folds = mine.records["database"].to_numpy(), mine.records["fold"].to_numpy()
    splits = splits_of(mine, protocol="leave_one_database", test_database="b")
    parts = split_rows(splits, np.arange(60), fold)
    assert (
        set(database[parts["test"]]) == {"b"} and len(parts["test"]) == 20
    )  # record 4, without a fold, too
    assert parts["valid"].tolist() == np.flatnonzero((database != "b") & (folds == fold)).tolist()
    assert (
        parts["train"].tolist()
        == np.flatnonzero((database != "b") & (folds != fold) & (folds >= 0)).tolist()
    )
    assert (
        np.flatnonzero(~splits.in_use).tolist() == [3]
        and selection_fold("leave_one_database", fold) == fold
    )


def test_a_database_to_leave_out_must_be_there_and_not_alone(store, tmp_path):
    for name, words in (
        (None, "needs dataset.test_database: one of a, b"),
        ("c", "has no c; it holds a, b"),
    ):
        with pytest.raises(ConfigError, match=words):
            splits_of(store, protocol="leave_one_database", test_database=name)
    alone = blank_store(tmp_path, [("a", "", [SINUS], 0)])
    with pytest.raises(ConfigError, match="holds a alone"):
        splits_of(alone, protocol="leave_one_database", test_database="a")


# ============ records that take no part ============
@pytest.mark.parametrize("wrong", [["0"], [10], ["all"], [True], [1, 1], "0", [-1], 3])
def test_folds_to_leave_out_that_mean_nothing_are_config_errors(store, wrong):
    with pytest.raises(
        ConfigError, match="dataset.exclude_folds must be a list of different folds 0-9"
    ):
        rows_left(store, np.arange(RECORDS), choice(exclude_folds=wrong))


def test_folds_are_left_out_with_their_patients_other_records(tmp_path, sentences):
    """A store of before: the unscored records have no fold, and those of an excluded patient
    stayed in pre-training.
    """
    mine = blank_store(
        tmp_path,
        [
            ("a", "p", [SINUS], 0),
            ("a", "p", [UNSCORED], -1),
            ("b", "p", [UNSCORED], -1),
            ("a", "", [SINUS], 0),
            ("a", "", [], -1),
            ("a", "q", [SINUS], 3),
            ("b", "r", [AF], 0),
        ],
    )
    rows = rows_left(mine, np.arange(7), choice(exclude_folds=[0]))
    notes = sentences()
    assert rows.tolist() == [2, 4, 5]
    assert (
        notes[0] == "dataset.exclude_folds [0]: 3 records left out, and 1 more of the same patients"
    )
    assert (
        "stay in" in notes[1]
        and ": 2; data_preparation/reformat_memmap.py" in notes[1]
        and len(notes) == 2
    )
    rows = rows_left(
        mine, np.array([1, 2, 5]), choice(exclude_folds=[0, 7])
    )  # in the fold, used here or not
    assert rows.tolist() == [2, 5] and "[0, 7]: 0 records left out, and 1 more" in sentences()[0]
    rows = rows_left(mine, np.arange(7), choice())
    assert rows.tolist() == list(range(7)) and sentences() == []


def test_leaving_out_everything_is_a_config_error(store):
    scored = np.flatnonzero(store.records["fold"].to_numpy() >= 0)
    with pytest.raises(ConfigError, match=r"dataset.exclude_folds \[0, .* leaves no record"):
        rows_left(store, scored, choice(exclude_folds=list(range(10))))


def test_parts_are_left_out_as_the_protocol_makes_them(tmp_path, sentences):
    mine = blank_store(
        tmp_path,
        [
            ("a", "p", [SINUS], 0),
            ("b", "", [SINUS], 0),
            ("a", "p", [], 5),
            ("a", "", [AF], 1),
            ("b", "", [AF], 2),
        ],
    )
    rows = rows_left(mine, np.arange(5), choice(exclude_parts=["test", "valid"]))
    assert rows.tolist() == [4]
    assert sentences() == [
        "dataset.exclude_parts ['test', 'valid']: 3 records left out, and 1 more of the same "
        "patients"
    ]
    hospital = {"exclude_parts": ["test"], "protocol": "leave_one_database", "test_database": "b"}
    assert rows_left(mine, np.arange(5), choice(**hospital)).tolist() == [0, 2, 3]
    both = {"exclude_parts": ["test"], "exclude_folds": [2]}
    assert rows_left(mine, np.arange(5), choice(**both)).tolist() == [3]
    for wrong in ({"exclude_parts": ["tests"]}, {"exclude_parts": ["test"], "fold": [0, 1]}):
        with pytest.raises(
            ConfigError, match="dataset.exclude_parts must be a list of train, valid, test"
        ):
            rows_left(mine, np.arange(5), choice(**wrong))


def test_parts_are_left_out_with_the_patients_of_a_table_of_labels(tmp_path):
    """Which the store does not know: R1 is of R0's patient, R3 of R2's."""
    mine = blank_store(tmp_path, [("a", "", [SINUS], i) for i in range(6)])
    patients = np.array(["u", "u", "v", "v", "", ""], object)
    for keys in ({"exclude_parts": ["test"]}, {"exclude_folds": [0]}):
        assert rows_left(mine, np.arange(6), choice(**keys), patients).tolist() == [2, 3, 4, 5]
    assert rows_left(mine, np.arange(6), choice(exclude_parts=["test"])).tolist() == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_records_that_take_no_part_are_counted(tmp_path, sentences):
    mine = blank_store(
        tmp_path,
        [
            ("a", "", [SINUS], 0),
            ("a", "", [UNSCORED], 1),
            ("a", "", [AF], -1),
            ("a", "", [], -1),
            ("a", "", [AF], 2),
            ("a", "", [AF, SINUS], 2),
        ],
    )
    classes, splits = parse_classes({"sinus": [SINUS], "fibrillation": [AF]}), splits_of(mine)
    rows = labelled_rows(np.arange(6), make_labels(mine, classes, "multilabel")[1], splits)
    notes = sentences()
    assert rows.tolist() == [0, 4, 5]
    assert notes[0] == "records without a known label, which take no part: 2 of 6"
    assert (
        notes[1].startswith("labelled records without a fold, which take no part: 1; ")
        and len(notes) == 2
    )
    rows = labelled_rows(np.array([0, 4]), make_labels(mine, classes, "multilabel")[1], splits)
    assert rows.tolist() == [0, 4] and sentences() == []
    rows = labelled_rows(np.arange(6), make_labels(mine, classes, "multiclass")[1], splits)
    assert rows.tolist() == [0, 4]


# ============ a file of splits ============
RECORDS_CSV = {
    "record": [f"R{i}" for i in range(6)],
    "database": list("aaabbb"),
    "patient": ["p", "p", "", "p", "", ""],
}


def written(folder, text, encoding="utf-8"):
    path = folder / "lab.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_splits_are_read_as_they_stand(tmp_path, sentences):
    path = written(
        tmp_path,
        "\ufeffrecord, split ,hospital\r\nR5,test,x\r\n R0 "
        ",train,y\r\n\r\nR1,train,\r\nR4,nan,x\r\nR3,valid,x\r\n",
    )
    found = read_splits(path, RECORDS_CSV)
    assert found.kind == "split" and {
        name: list(cells) for name, cells in found.columns.items()
    } == {"record": ["R0", "R1", "R3", "R5"], "split": ["train", "train", "valid", "test"]}
    assert found.sizes == {"train": 2, "valid": 1, "test": 1}
    assert sentences() == [
        "records of the store without a row, which take no part: 1 of 6",
        "records whose split is empty or unknown, which take no part: 1",
        "columns without effect: hospital",
    ]


def test_folds_may_be_any_whole_numbers(tmp_path):
    found = read_splits(written(tmp_path, "fold,record\n12,R2\n-1,R3\n3.0,R4\n"), RECORDS_CSV)
    assert found.kind == "fold" and list(found.columns["fold"]) == ["12", "-1", "3"]
    assert found.sizes == {"-1": 1, "3": 1, "12": 1}


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "record,split\nR0,train\nR9,test\nR8,test\n",
            "names 2 records that the store lacks, such as R9, R8; .*--ignore_unknown",
        ),
        ("record,split\nR9,train\n", "names 1 records that the store lacks"),
        ("record,split\nR0,train\nR0,train\n", "names 1 records more than once, such as R0"),
        ("record,part\nR0,train\n", r"has no column split \(train, valid, test\) or fold"),
        ("name,split\nR0,train\n", "lacks the column record; its columns are name, split"),
        ("record;split\nR0;train\n", "semicolons are between its columns"),
        ("record,split,fold\nR0,train,1\n", "has both columns split and fold; leave out one"),
        ("record,split,split\nR0,train,test\n", "two columns named split"),
        (
            "record,split\nR0,train\nR2,5\n",
            "the split of record R2 is '5', not one of train, valid, test",
        ),
        (
            "record,split\nR0,training\n",
            "the split of record R0 is 'training', not one of train, valid, test",
        ),
        ("record,fold\nR0,1\nR2,test\n", "the fold of record R2 is 'test', not a whole number"),
        ("record,fold\nR0,1.5\n", "the fold of record R0 is '1.5', not a whole number"),
        ("", "is empty"),
        ("record,split\n", "no row below its header"),
        ("record,split\nR0,\n", "the column split is empty"),
        ("record,split\nR0,train,x\n", "line 2 has 3 cells, but the first line names 2 columns"),
        ("record,split\n,train\n", "1 rows name no record"),
        (
            "record,split,patient,patient_id\nR0,train,1,1\nR1,train,1,2\n",
            "both columns patient and patient_id, which tell patients apart in two ways",
        ),
    ],
)
def test_a_wrong_file_of_splits_is_a_sentence(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_splits(written(tmp_path, text), RECORDS_CSV)
    assert "lab.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_encodings_and_missing_files_are_sentences(tmp_path):
    with pytest.raises(ConfigError, match="not UTF-8 text; save it as CSV in UTF-8"):
        read_splits(
            written(tmp_path, "record,split,who\nR0,train,Müller\n", "latin-1"), RECORDS_CSV
        )
    with pytest.raises(ConfigError, match="cannot read .*none.csv: No such file"):
        read_splits(tmp_path / "none.csv", RECORDS_CSV)


def test_unknown_records_may_be_ignored_and_are_counted(tmp_path, sentences):
    path = written(tmp_path, "record,split\nR0,train\nR9,test\n")
    found = read_splits(path, RECORDS_CSV, ignore_unknown=True)
    assert list(found.columns["record"]) == ["R0"]
    assert any("1 of 2" in sentence for sentence in sentences())
    with pytest.raises(ConfigError, match="names none of the store's 6 records"):
        read_splits(written(tmp_path, "record,split\nR9,train\n"), RECORDS_CSV, ignore_unknown=True)


@pytest.mark.parametrize("kind, one, other", [("split", "train", "test"), ("fold", "1", "10")])
def test_a_patient_on_two_sides_is_an_error(tmp_path, sentences, kind, one, other):
    """R0 and R1 are one patient of the store; R3's, of the same id, is another one, of another
    database.
    """
    path = written(tmp_path, f"record,{kind}\nR0,{one}\nR1,{other}\nR3,{other}\n")
    where = "fold " * (kind == "fold")
    with pytest.raises(
        ConfigError,
        match="puts 1 patients on more than one side, such as a/p "
        rf"\(R0 in {where}{one}, R1 in {where}{other}\).*--allow_patient_overlap",
    ):
        read_splits(path, RECORDS_CSV)
    read_splits(path, RECORDS_CSV, allow_patient_overlap=True)
    assert "patients on more than one side, as allowed: 1" in sentences()
    read_splits(written(tmp_path, f"record,{kind}\nR0,{one}\nR1,{one}\nR3,{other}\n"), RECORDS_CSV)


@pytest.mark.parametrize("column", ["patient", "patient_id"])
def test_patients_of_the_file_count_before_the_stores(tmp_path, column):
    path = written(tmp_path, f"record,split,{column}\nR0,train,u\nR1,test,v\nR2,train,v\n")
    with pytest.raises(ConfigError, match="puts 1 patients on more than one side, such as a/v"):
        read_splits(path, RECORDS_CSV)
    found = read_splits(
        written(tmp_path, f"record,split,{column}\nR0,train,u\nR1,test,v\n"), RECORDS_CSV
    )
    assert list(found.columns["patient"]) == ["u", "v"]


def test_a_blank_patient_is_the_stores_under_the_files_name(tmp_path, capsys, sentences):
    """R0, R1 and R4 are one patient of the store: the file calls R0's 77 and leaves R1's and R4's
    blank.
    """
    text = "record,split,patient\nR0,train,77\nR1,test,\nR2,valid,\n"
    with pytest.raises(ConfigError, match="puts 1 patients on more than one side, such as a/77"):
        read_splits(written(tmp_path, text), RECORDS_CSV)
    mine = blank_store(
        tmp_path, [("a", patient, [SINUS], i) for i, patient in enumerate(["p", "p", "", "p"])]
    )
    added(mine, text, "--allow_patient_overlap")
    sentences()
    splits = splits_of(mine, protocol="given")
    assert splits.patients.tolist() == ["a/77", "a/77", "", "a/77"]
    assert (
        "patients who are on several sides of the splits lab: 1; scores may be too good"
        in sentences()
    )
    (tmp_path / "af.csv").write_text("record,AF,patient\nR0,1,77\nR1,0,\nR2,0,\nR3,1,78\n")
    capsys.readouterr()
    add_labels.main([str(mine.path.parent), str(tmp_path / "af.csv")])
    assert (
        "patients with records in several folds of this store: 1, such as a/77"
        in capsys.readouterr().out
    )


def added(store, text, *flags, name="lab"):
    """The splits of a text in the store."""
    path = store.path.parent / "given.csv"
    path.write_text(text)
    assert add_splits.main([str(store.path.parent), str(path), "--name", name, *flags]) is None


def test_given_splits_are_taken_as_they_stand(tmp_path, capsys, sentences):
    mine = blank_store(tmp_path, [("a", "", [SINUS], i % 10) for i in range(6)])
    added(mine, "record,split\nR3,train\nR0,train\nR1,valid\nR5,test\n")
    assert (
        "splits lab: records by split: train 2, valid 1, test 1" in capsys.readouterr().out
        and not list(tmp_path.glob("splits/.*"))
    )
    facts = json.loads((tmp_path / "splits" / "lab.json").read_text())
    assert (
        facts["kind"] == "split"
        and facts["source"] == "given.csv"
        and "add_splits.py STORE given.csv" in facts["command"][0]
    )
    splits = splits_of(mine, protocol="given")  # the only one there is
    parts = split_rows(splits, np.arange(6), 0)
    assert {name: rows.tolist() for name, rows in parts.items()} == {
        "train": [0, 3],
        "valid": [1],
        "test": [5],
    }
    sentences()
    rows = labelled_rows(np.arange(6), np.ones(6, bool), splits)
    assert rows.tolist() == [0, 1, 3, 5]
    assert sentences() == [
        "labelled records without a part in the splits lab, which take no part: 2"
    ]
    splits_of(mine, protocol="given", fold="all")
    assert "dataset.fold all has no effect: the splits lab make one run" in sentences()
    assert rows_left(
        mine, np.arange(6), choice(protocol="given", exclude_parts=["valid", "test"])
    ).tolist() == [0, 2, 3, 4]


def test_given_folds_need_to_be_told_what_they_are_for(tmp_path, sentences):
    mine = blank_store(tmp_path, [("a", "", [SINUS], 0) for _ in range(6)])
    added(mine, "record,fold\nR0,1\nR1,2\nR2,9\nR3,10\nR4,11\n")
    given = {"train": [1, 2], "valid": [9], "test": [10]}
    sentences()
    splits = splits_of(mine, protocol="given", splits="lab", given=given)
    parts = split_rows(splits, np.arange(6), 0)
    assert {name: rows.tolist() for name, rows in parts.items()} == {
        "train": [0, 1],
        "valid": [2],
        "test": [3],
    }
    assert sentences() == [
        "records of fold 11 of the splits lab, which no part of dataset.given names: 1"
    ]
    for wrong, words in (
        (None, "dataset.given must say which part"),
        ({"train": [1], "test": [10]}, "must say which"),
        (given | {"more": [1]}, "must say"),
        (given | {"test": 10}, "must say"),
        (given | {"test": ["10"]}, "must say"),
        (given | {"valid": [2]}, "names the fold 2 twice"),
        (given | {"test": [12]}, "have no fold 12; they have 1, 2, 9, 10, 11"),
    ):
        with pytest.raises(ConfigError, match=words):
            splits_of(mine, protocol="given", given=wrong)


def test_tables_go_by_name(tmp_path, capsys):
    mine = blank_store(tmp_path, [("a", "", [SINUS], 0) for _ in range(3)])
    with pytest.raises(
        ConfigError,
        match=r"no table of splits \(it has none\); .*add one with "
        r"data_preparation/add_splits.py",
    ):
        splits_of(mine, protocol="given")
    text = "record,split\nR0,train\nR1,valid\nR2,test\n"
    added(mine, text)
    added(mine, text, name="other")
    with pytest.raises(ConfigError, match="several tables of splits; name one of lab, other"):
        splits_of(mine, protocol="given")
    with pytest.raises(ConfigError, match=r"no table of splits 'ptb' \(it has lab, other\)"):
        splits_of(mine, protocol="given", splits="ptb")
    with pytest.raises(ConfigError, match="dataset.given has no effect"):
        splits_of(
            mine, protocol="given", splits="lab", given={"train": [1], "valid": [2], "test": [3]}
        )
    added(mine, text)
    assert "which replaces an earlier table" in capsys.readouterr().out
    assert add_splits.main.__module__ and (tmp_path / "splits" / "lab.csv").read_text() == text
    with pytest.raises(ConfigError, match="cannot be called '../x'"):
        added(mine, text, name="../x")


def test_a_changed_or_broken_table_is_a_store_error(tmp_path, capsys):
    mine = blank_store(tmp_path, [("a", "", [SINUS], 0) for _ in range(3)])
    added(mine, "record,split\nR0,train\nR1,valid\nR2,test\n")
    assert (
        run_main(check_store.main, [str(tmp_path)]) == 0
        and "sound    splits lab: by split, from given" in capsys.readouterr().out
    )
    path = tmp_path / "splits" / "lab.csv"
    path.write_text(path.read_text().replace("R1,valid", "R1,train"))
    with pytest.raises(
        StoreError,
        match="lab.csv is missing or was changed .*add the table again with "
        "data_preparation/add_splits.py",
    ):
        splits_of(mine, protocol="given")
    assert run_main(check_store.main, [str(tmp_path)]) == 2
    path.with_suffix(".json").write_text("{")
    with pytest.raises(StoreError, match="lab.json is damaged or of another version"):
        splits_of(mine, protocol="given")


def test_a_table_may_be_older_than_the_store(tmp_path, sentences):
    old = blank_store(tmp_path / "old", [("a", "", [SINUS], 0) for _ in range(5)])
    added(
        old,
        "record,split,patient\nR0,train,p\nR1,valid,p\nR2,test,q\nR4,test,r\n",
        "--allow_patient_overlap",
    )
    new = blank_store(tmp_path / "new", [("a", "", [SINUS], 0) for _ in range(4)])
    (tmp_path / "old" / "splits").rename(tmp_path / "new" / "splits")
    sentences()
    splits_of(new, protocol="given")
    assert sentences() == [
        "rows of the splits lab whose records this store lacks: 1 of 4",
        "patients who are on several sides of the splits lab: 1; scores may be too good",
    ]


def test_a_store_is_needed_to_add_splits_to(tmp_path):
    (tmp_path / "x.csv").write_text("record,split\nR0,train\n")
    with pytest.raises(ECGError, match="no store at"):
        add_splits.main([str(tmp_path), str(tmp_path / "x.csv")])


# ============ with the store ============
def reformatted(folder, text, *flags):
    """The stores of the eighty small recordings, made with a file of splits: (exit status,
    records.csv at 100 Hz).
    """
    (folder / "lab.csv").write_text(text)
    status = run_main(
        reformat_memmap.main,
        [
            "--input_dir",
            str(small_store.store().parent / "extracted"),
            "--output_dir",
            str(folder / "out"),
            "--splits",
            str(folder / "lab.csv"),
            *flags,
        ],
    )
    return status, None if status else RecordStore(folder / "out" / "fs100").records


def test_splits_come_with_the_store_and_their_patients_keep_together(tmp_path, capsys):
    text = "record,split,patient\n" + "".join(
        f"E{i:03d},{'train' if i % 8 else 'test'},p{i % 8}\n" for i in range(60)
    )
    status, records = reformatted(tmp_path, text)
    assert (
        status == 0 and "splits lab: records by split: train 52, test 8" in capsys.readouterr().out
    )
    assert records["patient"].tolist() == [f"p{i % 8}" if i < 60 else "" for i in range(80)]
    assert (records[records["patient"] != ""].groupby("patient")["fold"].nunique() == 1).all()
    mine = RecordStore(tmp_path / "out" / "fs250")
    assert mine.meta["command"][1] == (
        "python data_preparation/reformat_memmap.py --splits lab.csv"
    )
    with pytest.raises(
        ConfigError,
        match="no labelled records for the valid part of the splits lab: the store has 80",
    ):
        split_rows(splits_of(mine, protocol="given"), np.arange(80), 0)


def test_folds_of_a_store_are_spread_over_the_labels_that_come_with_it(tmp_path):
    rare = [3, 4, 5, 6, 33, 34, 35, 36, 63, 64]
    (tmp_path / "word.csv").write_text(
        "record,word,patient\n"
        + "".join(
            f"E{i:03d},{'rare' if i in rare else 'common'},{'p' if i in (70, 71, 72) else ''}\n"
            for i in range(75)
        )
    )
    status, records = reformatted(
        tmp_path, "record,split\nE000,train\n", "--labels", str(tmp_path / "word.csv")
    )
    assert status == 0 and sorted(records["fold"][rare]) == list(range(10))
    assert records["fold"][70:73].nunique() == 1 and records["patient"][70:73].tolist() == ["p"] * 3
    assert (
        RecordStore(tmp_path / "out" / "fs100")
        .meta["command"][1]
        .endswith("--labels word.csv --splits lab.csv")
    )


def test_a_wrong_file_of_splits_makes_no_store(tmp_path, capsys):
    status, _ = reformatted(tmp_path, "record,split\nE000,train\nE999,test\n")
    assert status == 2 and "names 1 records that the store lacks" in capsys.readouterr().err
    assert not (tmp_path / "out" / "fs100").exists()
    status, records = reformatted(
        tmp_path, "record,split\nE000,train\nE999,test\n", "--ignore_unknown"
    )
    assert status == 0 and len(records) == 80
    (tmp_path / "patients.csv").write_text("record,patient_id\nE000,a\nE001,a\n")
    flags = ("--patients", str(tmp_path / "patients.csv"))
    status, _ = reformatted(tmp_path, "record,split\nE000,train\nE001,test\n", *flags)
    assert (
        status == 2
        and "such as recordings/a (E000 in train, E001 in test): scores would be too good"
        in capsys.readouterr().err
    )
    status, records = reformatted(
        tmp_path, "record,split\nE000,train\nE001,test\n", *flags, "--allow_patient_overlap"
    )
    assert status == 0 and records["patient"][:2].tolist() == ["a", "a"]
    status, _ = reformatted(tmp_path, "record,split,patient\nE000,train,b\n", *flags)
    assert (
        status == 2
        and "says that E000 is of patient b, another file that it is of a"
        in capsys.readouterr().err
    )


# ============ a share of the labels ============
def cohort(n=2000, seed=0):
    """(strata, patients) of n records: five classes from half of them to five records, three
    records a patient.
    """
    random = np.random.default_rng(seed)
    labels = random.random((n, 5)) < np.array([0.5, 0.2, 0.1, 0.02, 0])
    labels[random.choice(n, 5, replace=False), 4] = True
    return labels, np.array([f"p{i // 3}" for i in random.permutation(n)], object)


def test_a_smaller_share_is_part_of_a_larger_one():
    labels, patients = cohort()
    rows = np.flatnonzero(np.arange(2000) % 10 > 1)
    for ids in (patients, np.full(2000, "", object)):
        shares = [
            fraction_of(rows, share, labels, ids, 0)
            for share in (1e-9, 0.01, 0.05, 0.1, 0.5, 0.999)
        ]
        for small, large in zip(shares, shares[1:]):
            assert set(small) < set(large) < set(rows) and sorted(small) == small.tolist()


def test_a_share_has_its_part_of_every_class():
    labels, _ = cohort()
    for seed in range(5):
        for share in (0.01, 0.05, 0.2):
            rows = fraction_of(np.arange(2000), share, labels, np.full(2000, "", object), seed)
            assert len(rows) == round(2000 * share)
            found, wanted = labels[rows].sum(axis=0), labels.sum(axis=0) * share
            assert (found >= 1).all() and (
                np.abs(found - wanted) <= np.maximum(3, 0.1 * wanted)
            ).all(), (found, wanted)
    by_lot = np.random.default_rng(0).permutation(2000)[:20]
    assert labels[by_lot, 4].sum() == 0  # what happened before


def test_a_share_takes_whole_patients():
    labels, patients = cohort()
    rows = fraction_of(np.arange(2000), 0.1, labels, patients, 0)
    assert 200 <= len(rows) <= 202
    assert not set(patients[rows]) & set(np.delete(patients, rows))


def test_a_share_is_drawn_by_the_seed_alone():
    """Two folds draw mostly the same records of those that both train on."""
    labels, patients = cohort()[0], np.full(2000, "", object)
    first, again, other = (
        fraction_of(np.arange(2000), 0.1, labels, patients, seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and len(set(first) & set(other)) < 60
    one, two = (
        fraction_of(np.flatnonzero(np.arange(2000) % 10 != k), 0.1, labels, patients, 0)
        for k in (3, 4)
    )
    assert len(set(one) & set(two)) > 0.7 * len(one)


def test_records_without_a_class_have_their_share():
    labels = np.arange(1000)[:, None] < np.array([[100]])
    rows = fraction_of(np.arange(1000), 0.1, labels, np.full(1000, "", object), 0)
    assert (rows < 100).sum() == 10


def test_labels_as_strata():
    assert label_strata(np.array([[1, 0], [np.nan, 1]]), "multilabel").tolist() == [
        [True, False],
        [False, True],
    ]
    assert label_strata(np.array([2, -1, 0]), "multiclass").tolist() == [
        [False, False, True],
        [False] * 3,
        [True, False, False],
    ]
    ages = np.append(np.arange(100.0), np.nan)
    strata = label_strata(np.column_stack([ages, np.full(101, 7.0)]), "regression")
    assert strata[:, :5].sum(axis=0).tolist() == [20] * 5 and not strata[100, :5].any()
    assert strata[:20, 0].all() and strata[80:100, 4].all() and strata[:, 5:].any(axis=1).all()


def test_a_share_of_the_training_records_alone(store):
    rows, splits = np.arange(RECORDS), splits_of(store)
    labels = make_labels(store, parse_classes("challenge2020"), "multilabel")[0]
    whole = split_rows(splits, rows, 0)
    half = split_rows(splits, rows, 0, strata=labels > 0, label_fraction=0.5, seed=1)
    assert len(half["train"]) == round(len(whole["train"]) / 2) and set(half["train"]) < set(
        whole["train"]
    )
    assert np.array_equal(half["test"], whole["test"]) and np.array_equal(
        half["valid"], whole["valid"]
    )
