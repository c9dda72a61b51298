"""What frozen features give: neighbours and linear probes, chosen on the selection fold; and the
files of random weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from experiments.evaluation.cells import (
    NEIGHBOURS,
    PENALTIES,
    Cell,
    Settings,
    config_of,
    weights_of,
)
from util.evaluation.evaluator import Evaluator
from util.evaluation.head_start import fit_linear
from util.evaluation.neighbours import neighbours
from util.evaluation.probes import features
from util.jobs.job import Fold, LabelledJob, make_classifier
from util.scoring.criterion import ACTIVATIONS
from util.scoring.predictions import Predictions
from util.scoring.scores import compute_scores
from util.training.resolved import resolved
from util.weights.transfer import save_encoder

Fitted = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # features to outputs and logits


class Features:
    """An encoder's features of the records of several folds, which share the test fold.

    Args:
        folds: of jobs that differ in nothing but their labels.
        device: where they are computed.

    Attributes:
        evaluators: one for each fold.
    """

    def __init__(self, folds: Sequence[Fold], device: torch.device):
        self.evaluators = [Evaluator(fold, device) for fold in folds]
        first = self.evaluators[0]
        self.rows = np.unique(np.concatenate([rows for f in folds for rows in f.parts.values()]))
        self.values = features(
            make_classifier(first.job).to(device),
            first.loader_of(self.rows),
            first.pipeline,
            self.rows,
            device,
            first.amp,
        )

    def of(self, fold: Fold, part: str) -> np.ndarray:
        """Return those of a part's records, (records, width)."""
        return self.values[np.searchsorted(self.rows, fold.parts[part])]


def frozen_predictions(
    cell: Cell, evaluator: Evaluator, found: Features
) -> tuple[Predictions, float, str]:
    """Return the test predictions of a cell of mode knn or linear, its score on the selection
    fold, and what was chosen there.

    Raises:
        ConfigError: the fold has too few training records.
    """
    fold, job = evaluator.fold, evaluator.job
    (target,) = job.scores
    options = _neighbours if cell.mode == "knn" else _linear
    best: tuple[float, str, Fitted] | None = None
    for chosen, fitted in options(fold, found.of(fold, "train")):
        outputs, _ = fitted(found.of(fold, "valid"))
        score = compute_scores(outputs, fold.labels_of("valid"), job.scores, job.task)[target]
        if best is None or score > best[0] or np.isnan(best[0]):
            best = score, chosen, fitted
    assert best is not None, "there are options"
    score, chosen, fitted = best
    return evaluator.predictions("test", *fitted(found.of(fold, "test"))), score, chosen


def _neighbours(fold: Fold, x: np.ndarray) -> list[tuple[str, Fitted]]:
    labels = fold.labels_of("train")
    if fold.job.task == "multiclass":
        labels = np.eye(len(fold.job.classes))[labels]
    counts = [k for k in NEIGHBOURS if k <= len(x)] or [len(x)]

    def fitted(k: int) -> Fitted:
        def outputs(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values = neighbours(x, labels.astype(float), features, k)
            return values, values

        return outputs

    return [(f"k {k}", fitted(k)) for k in counts]


def _linear(fold: Fold, x: np.ndarray) -> list[tuple[str, Fitted]]:
    criterion, classes = fold.criterion, len(fold.job.classes)
    targets = torch.from_numpy(fold.labels_of("train"))
    targets = targets.double() if targets.is_floating_point() else targets

    def fitted(penalty: float) -> Fitted:
        given = torch.from_numpy(x)
        weight, bias = fit_linear(given, targets, criterion, classes, penalty)

        def outputs(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits = torch.from_numpy(features) @ weight.T + bias
            values = ACTIVATIONS[fold.job.loss](logits).numpy()
            return criterion.to_units(values), logits.numpy()

        return outputs

    return [(f"penalty {penalty:g}", fitted(penalty)) for penalty in PENALTIES]


# ============ random weights ============
def write_random(cell: Cell, settings: Settings) -> None:
    """Write the file of a random candidate's weights, if it is not there: drawn by its seed, with
    the input's statistics of the training records of its fold.
    """
    path = weights_of(cell, settings)
    if path is None or path.is_file() or cell.candidate.weights is not None:
        return
    config = config_of(cell.candidate, cell.task, settings, {"dataset": {"fold": cell.fold}})
    encoder = cell.candidate.untrained(cell.seed)
    job = LabelledJob(config)
    encoder.fit_statistics(job.fold(job.folds[0]).crops(torch.device("cpu")))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(
        encoder,
        path,
        epoch=0,
        config=resolved(replace(config, seed=cell.seed), 0.0, cell.fold),
        leads=encoder.input_names or (),
    )
