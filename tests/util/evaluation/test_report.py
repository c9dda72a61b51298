"""The summary of several folds, from results made by hand."""

import numpy as np
import pandas as pd
import pytest

from tests.support.made_predictions import made
from util.evaluation.report import FoldResult, summarise


def result(fold, folder, **scores):
    predictions = made(np.full((4, 1), 0.5), np.zeros((4, 1)))
    return FoldResult(fold, folder, scores, {}, {}, predictions)


def test_a_fold_without_a_value_is_said_to_be_left_out_of_the_mean(tmp_path, capsys):
    """The defect: the mean was of fewer folds, without a word."""
    values = {0: 0.6, 1: np.nan, 2: 0.9}
    summarise([result(k, tmp_path, loss=0.1, AUROC=v) for k, v in values.items()], tmp_path)
    assert "AUROC has no value on fold 1: means and deviations are of the other folds" in (
        capsys.readouterr().out
    )
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("fold")
    assert summary.loc["mean", "AUROC"] == pytest.approx(0.75)
    summarise([result(k, tmp_path, loss=0.1, AUROC=0.5) for k in range(2)], tmp_path)
    assert "no value" not in capsys.readouterr().out
