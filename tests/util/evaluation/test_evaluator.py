"""Predictions of a record from those of its crops, and the table that keeps them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from util.contract.encoder import Encoder
from util.evaluation.inference import predict
from util.evaluation.report import write_predictions
from util.scoring.intervals import Predicted, estimate
from util.scoring.scores import parse_scores


class Means(Encoder):
    """Logits: a crop's mean of the first lead, and twice that; the gate is (logit, 1 - logit)."""

    def __init__(self, gated):
        super().__init__()
        self.width, self.head, self.gated = 1, nn.Identity(), gated

    @property
    def fresh_parts(self):
        return {"head": self.head, **({"gate": nn.Identity()} if self.gated else {})}

    def outputs(self, series):
        mean = series[:, :1].mean(dim=2)
        gate = {"gate": torch.cat([mean, 1 - mean], dim=1)} if self.gated else {}
        return {"logits": torch.cat([mean, 2 * mean], dim=1), **gate}


def batch(counts, records):
    return {
        "counts": torch.tensor(counts, dtype=torch.int16)[:, :, None],
        "scale": torch.full((len(records),), 0.5),
        "key": torch.tensor(records),
        "record": torch.tensor(records),
    }


@pytest.mark.parametrize(
    "loss, activate",
    [
        ("bce", lambda z: 1 / (1 + np.exp(-z))),
        ("cross_entropy", lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)),
    ],
)
@pytest.mark.parametrize("gated", [False, True])
def test_a_records_prediction_is_the_mean_of_its_crops_activated_outputs(loss, activate, gated):
    """Not of the last crop, and not the activation of the mean."""
    loader = [
        batch([[0, 4], [2, 2]], [7, 3]),
        batch([[8, 0], [-10, -14]], [7, 7]),
    ]  # of record 7 in mV: 1, 2, -6
    crops = {3: np.array([[1.0, 2]]), 7: np.array([[1.0, 2], [2, 4], [-6, -12]])}
    found, logits, gate = predict(
        Means(gated), loader, nn.Identity(), np.array([3, 7]), 2, loss, torch.device("cpu")
    )
    np.testing.assert_allclose(
        found, [activate(crops[row]).mean(axis=0) for row in (3, 7)], rtol=1e-6
    )
    np.testing.assert_allclose(logits, [crops[row].mean(axis=0) for row in (3, 7)], rtol=1e-6)
    if gated:
        np.testing.assert_allclose(gate, [[1, 0], [-1, 2]], rtol=1e-6)
    assert gated or gate is None
    assert np.abs(found[1] - activate(logits)[1]).max() > 0.1


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_the_table_of_predictions_keeps_records_labels_and_probabilities_together(tmp_path, task):
    labels = (
        np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
        if task == "multilabel"
        else np.array([0, 1, 1, 0])
    )
    store = SimpleNamespace(
        records=pd.DataFrame({"record": list("abcd"), "database": list("wxyz")})
    )
    records = SimpleNamespace(store=store, labels=labels, task=task, classes=("one", "two"))
    write_predictions(
        records, np.array([2, 1]), np.array([[0.2, 0.8], [0.4, 0.6]]), tmp_path / "t.csv"
    )
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


def test_patients_of_the_splits_table_count_in_intervals():
    """Benchmarks know patients by their splits alone: an interval by records would be too
    narrow.
    """
    random, labels = np.random.default_rng(0), np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    probabilities = np.repeat(random.random((20, 2)), 2, axis=0)
    patients = np.array([f"a/{i // 4}" for i in range(40)], object)
    table = pd.DataFrame({"database": ["a"] * 40, "patient": [""] * 40})
    records = SimpleNamespace(
        store=SimpleNamespace(records=table),
        splits=SimpleNamespace(patients=patients),
        scores=parse_scores(["AUROC"]),
        task="multilabel",
        config={"seed": 0, "test": {"bootstrap": 200}},
    )
    evaluator = SimpleNamespace(
        records=records, parts={"test": np.arange(40)}, labels={"test": labels}
    )
    found = evaluator.intervals(evaluator, probabilities)
    test = Predicted(labels, probabilities, np.arange(40) // 4)
    wanted = estimate("AUROC", records.scores["AUROC"], [test], "multilabel", n=200, seed=0)
    assert (found["AUROC_low"], found["AUROC_high"]) == (
        round(wanted.low, 4),
        round(wanted.high, 4),
    )
