"""How neighbours and penalties of frozen features are chosen."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.evaluation import frozen
from util.scoring.scores import parse_scores


@pytest.mark.parametrize("mode, options", [("knn", "_neighbours"), ("linear", "_linear")])
def test_the_selection_fold_chooses_and_no_other(mode, options, monkeypatch):
    """Features are right on the selection fold, and turned on the test fold."""
    labels = np.tile([[0.0], [1.0]], (6, 1))
    features = {"train": 1 - labels, "valid": labels, "test": 1 - labels}
    tried = [("as it is", lambda x: (x, x)), ("turned", lambda x: (1 - x, x))]
    monkeypatch.setattr(frozen, options, lambda fold, x: tried)
    evaluator = SimpleNamespace(
        job=SimpleNamespace(scores=parse_scores(["AUROC"]), task="multilabel"),
        fold=SimpleNamespace(labels_of=lambda part: labels),
        predictions=lambda part, outputs, logits: (part, outputs),
    )
    found = SimpleNamespace(of=lambda fold, part: features[part])
    (part, outputs), score, chosen = frozen.frozen_predictions(
        SimpleNamespace(mode=mode), evaluator, found
    )
    assert (part, score, chosen) == ("test", 1.0, "as it is")
    np.testing.assert_array_equal(outputs, 1 - labels)
