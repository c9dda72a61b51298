"""Predictions: chosen, joined, kept in files and shown as a table, with nothing lost."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from util.errors import StoreError
from util.scoring.predictions import Predictions


def predicted(task="multilabel", n=6, gate=True, fold=2, seed=7):
    """Random predictions of two classes, with unknown labels where a task has some."""
    random = np.random.default_rng(n)
    labels = (random.random((n, 2)) < 0.5).astype(np.float32)
    if task == "multiclass":
        labels = random.integers(0, 2, n)
    if task == "regression":
        labels = random.standard_normal((n, 2)).astype(np.float32)
    if task != "multiclass":
        labels[1, 1] = np.nan
    return Predictions(
        records=np.array([f"r{i}" for i in range(n)], object),
        databases=np.array(["a", "b"] * (n // 2), object),
        labels=labels,
        outputs=random.random((n, 2)),
        logits=random.standard_normal((n, 2)),
        patients=np.arange(n) // 2,
        classes=("one", "two"),
        task=task,
        gate=random.random((n, 2)) if gate else None,
        fold=fold,
        seed=seed,
    )


def assert_same(found, wanted):
    """Every field, to the last bit."""
    for name in (field.name for field in fields(Predictions)):
        one, other = getattr(found, name), getattr(wanted, name)
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert other.dtype == object or one.dtype == other.dtype, name
        else:
            assert one == other and type(one) is type(other), name


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "regression"])
@pytest.mark.parametrize("gate", [True, False])
def test_a_file_gives_back_what_was_saved_in_full_precision(tmp_path, task, gate):
    wanted = predicted(task, gate=gate)
    wanted.save(tmp_path / "p.npz")
    assert_same(Predictions.load(tmp_path / "p.npz"), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"], "nothing temporary stays"


def test_a_file_may_hold_several_by_prefix():
    first, second = predicted(), predicted("regression", n=4, gate=False)
    arrays = {**first.arrays("valid_"), **second.arrays("test_")}
    assert_same(Predictions.from_arrays(arrays, "valid_"), first)
    assert_same(Predictions.from_arrays(arrays, "test_"), second)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other arrays", "pickle"])
def test_a_file_that_holds_none_is_a_store_error(tmp_path, damage):
    path = tmp_path / "p.npz"
    if damage == "cut":
        predicted().save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("record,database\n")
    elif damage == "other arrays":
        np.savez(path, outputs=np.zeros(3))
    elif damage == "pickle":
        np.savez(path, **predicted().arrays() | {"records": np.array([{}], object)})
    with pytest.raises(StoreError, match="p.npz holds no predictions .*; run the test again"):
        Predictions.load(path)


def test_some_of_them_keep_all_their_fields():
    whole, chosen = predicted(), np.array([True, False, False, True, True, False])
    part = whole.where(chosen)
    assert len(part) == 3 and part.records.tolist() == ["r0", "r3", "r4"]
    for name in ("databases", "labels", "outputs", "logits", "patients", "gate"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[chosen])
    assert (part.classes, part.task, part.fold, part.seed) == (("one", "two"), "multilabel", 2, 7)
    assert predicted(gate=False).where(chosen).gate is None and len(whole) == 6


@pytest.mark.parametrize("gate", [True, False])
def test_parts_join_to_the_whole(gate):
    whole, odd = predicted(gate=gate), np.arange(6) % 2 == 1
    joined = Predictions.join([whole.where(~odd), replace(whole.where(odd), fold=9)])
    order = [0, 2, 4, 1, 3, 5]
    assert joined.records.tolist() == [f"r{i}" for i in order] and joined.fold == 2
    for name in ("databases", "labels", "outputs", "logits", "patients", *["gate"] * gate):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name)[order])
    assert gate or joined.gate is None


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_the_table_keeps_records_labels_and_probabilities_together(tmp_path, task):
    labels = np.array([[1, 1], [0, 1]]) if task == "multilabel" else np.array([1, 1])
    predictions = Predictions(
        records=np.array(["c", "b"]),
        databases=np.array(["y", "x"]),
        labels=labels,
        outputs=np.array([[0.2, 0.8], [0.4, 0.6]]),
        logits=np.zeros((2, 2)),
        patients=np.arange(2),
        classes=("one", "two"),
        task=task,
    )
    predictions.write_csv(tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv").set_index("record")
    assert list(table.index) == ["c", "b"] and list(table["database"]) == ["y", "x"]
    assert table[["label_one", "label_two"]].to_numpy().tolist() == [
        [int(task == "multilabel"), 1],
        [0, 1],
    ]
    assert table[["probability_one", "probability_two"]].to_numpy().tolist() == [
        [0.2, 0.8],
        [0.4, 0.6],
    ]
