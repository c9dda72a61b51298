"""Predictions of a record from those of its crops, gathered with their labels."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from util.contract.encoder import Encoder
from util.evaluation.evaluator import Evaluator
from util.evaluation.inference import predict
from util.evaluation.report import intervals
from util.jobs.job import Fold
from util.scoring.criterion import Criterion
from util.scoring.intervals import Predicted, estimate
from util.scoring.scores import parse_scores


class Means(Encoder):
    """Logits: a crop's mean of the first lead, and twice that; the gate is (logit, 1 - logit)."""

    def __init__(self, gated):
        super().__init__()
        self.width, self.head, self.weighs = 1, nn.Identity(), gated

    @property
    def gated(self):
        return self.weighs

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


def evaluator_of(part, labels, *, fold=0, bootstrap=0, **facts):
    """An evaluator without loaders, of a fold whose only part is these rows."""
    config = SimpleNamespace(seed=5, test=SimpleNamespace(bootstrap=bootstrap))
    job = SimpleNamespace(task="multilabel", classes=("one", "two"), config=config, **facts)
    evaluator = Evaluator.__new__(Evaluator)
    evaluator.job = job
    evaluator.fold = Fold(job, fold, f"fold {fold}", {"test": part}, labels, Criterion())
    return evaluator


def test_predictions_are_of_the_parts_records_in_its_order():
    records = pd.DataFrame({"record": list("abcd"), "database": list("wxyz")})
    evaluator = evaluator_of(
        np.array([2, 1]),
        np.array([[1.0, 0], [0, 1], [1, 1], [0, 0]]),
        fold=3,
        store=SimpleNamespace(records=records),
        splits=SimpleNamespace(patients=np.array(["w/p", "", "y/q", "w/p"], object)),
    )
    outputs = np.array([[0.2, 0.8], [0.4, 0.6]])
    found = evaluator.predictions("test", outputs, 2 * outputs)
    assert found.records.tolist() == ["c", "b"] and found.databases.tolist() == ["y", "x"]
    assert found.labels.tolist() == [[1, 1], [0, 1]] and (found.fold, found.seed) == (3, 5)
    assert len(set(found.patients.tolist())) == 2 and found.gate is None
    np.testing.assert_array_equal(found.outputs, outputs)
    np.testing.assert_array_equal(found.logits, 2 * outputs)


def test_patients_of_the_splits_table_count_in_intervals():
    """Benchmarks know patients by their splits alone: an interval by records would be too
    narrow.
    """
    random, labels = np.random.default_rng(0), np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    outputs = np.repeat(random.random((20, 2)), 2, axis=0)
    names = [f"r{i}" for i in range(40)]
    records = pd.DataFrame({"record": names, "database": "a", "patient": ""})
    evaluator = evaluator_of(
        np.arange(40),
        labels,
        bootstrap=200,
        store=SimpleNamespace(records=records),
        splits=SimpleNamespace(patients=np.array([f"a/{i // 4}" for i in range(40)], object)),
        scores=parse_scores(["AUROC"]),
    )
    found = intervals(evaluator, evaluator.predictions("test", outputs, outputs))
    test = Predicted(labels, outputs, np.arange(40) // 4)
    score = evaluator.job.scores["AUROC"]
    wanted = estimate("AUROC", score, [test], "multilabel", n=200, seed=5)
    assert (found["AUROC_low"], found["AUROC_high"]) == (
        round(wanted.low, 4),
        round(wanted.high, 4),
    )
