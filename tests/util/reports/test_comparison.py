"""Runs side by side, from files made by hand."""

import json

import pandas as pd
import pytest
import yaml

from experiments import compare_runs
from util.errors import ECGError
from util.reports.comparison import compare, differing, read_run


def fold(folder, epochs, *, lr=0.1, target="AUROC", number=0, test=None):
    """A fold of a run: valid scores of its epochs, and perhaps its test score."""
    folder.mkdir(parents=True)
    config = {
        "exp_name": folder.name,
        "model": {"channels": 8},
        "train": {"lr": lr, "optimizer_kwargs": {}},
        "dataset": {"fold": number},
        "test": {"target_metric": target},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"epoch": n, **{f"valid_{k}": v for k, v in e.items()}} for n, e in enumerate(epochs)]
    (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if test is not None:
        table = pd.DataFrame([{"records": 10, "AUROC": test}])
        table.to_csv(folder / "test_metrics.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    """One of two folds, one better on the test fold alone, one by the loss."""
    fold(tmp_path / "two" / "fold3", [{"AUROC": 0.7, "loss": 0.5}], number=3, test=0.6)
    fold(tmp_path / "two" / "fold4", [{"AUROC": 0.9, "loss": 0.4}], number=4, test=0.8)
    fold(tmp_path / "low", [{"AUROC": 0.75, "loss": 0.1}], lr=0.2, number=2, test=0.99)
    epochs = [{"AUROC": 0.6, "loss": 0.3}, {"AUROC": 0.95, "loss": 0.9}]
    fold(tmp_path / "loss", epochs, lr=0.2, target="loss", test=0.5)
    return [tmp_path / name for name in ("low", "two", "loss")]


def test_selection_scores_come_first_and_the_best_run_on_top(runs, capsys):
    table = compare([read_run(folder) for folder in runs])
    assert list(table.index) == ["two", "low", "loss"]
    assert table.loc["two", ["folds", "AUROC"]].tolist() == ["3,4", pytest.approx(0.8)]
    assert table.loc["two", "AUROC_std"] == pytest.approx(0.1414, abs=1e-4)
    assert table.loc["loss", "AUROC"] == 0.6  # of the epoch that its target chose
    assert list(differing([read_run(folder) for folder in runs])) == [
        "test.target_metric",
        "train.lr",
    ]
    compare_runs.main([*map(str, runs)])
    said = capsys.readouterr().out
    assert "selection folds" in said and "test folds" not in said and "0.99" not in said


def test_test_scores_stand_in_the_order_of_the_selection(runs, capsys):
    compare_runs.main([*map(str, runs), "--test", "--by", "loss"])
    said = capsys.readouterr().out
    assert said.index("selection folds") < said.index("test folds")
    table = compare([read_run(folder) for folder in runs], "loss", test=True)
    assert list(table.index) == ["low", "loss", "two"]  # by the loss, the lower the better
    assert table["AUROC"].tolist() == [0.99, 0.5, pytest.approx(0.7)]
    assert table.loc["two", "records"] == 20
    compare_runs.main([*map(str, runs), "--csv"])
    assert capsys.readouterr().out.startswith("run,folds,AUROC")


def test_folders_that_are_no_finished_runs_have_a_sentence(runs, tmp_path):
    with pytest.raises(ECGError, match="holds no run"):
        read_run(tmp_path)
    with pytest.raises(ECGError, match="low has no F1Score; it has AUROC, loss"):
        compare([read_run(runs[0])], "F1Score")
    (runs[0] / "test_metrics.csv").unlink()
    with pytest.raises(ECGError, match="has not finished; leave out --test"):
        compare([read_run(runs[0])], test=True)
    (runs[0] / "log.txt").write_text("")
    with pytest.raises(ECGError, match="no epoch of it has ended"):
        compare([read_run(runs[0])])
    (runs[0] / "config.yaml").write_text("train: {lr: 1}\n")
    with pytest.raises(ECGError, match="a run of pre-training"):
        read_run(runs[0])


def test_a_mean_of_fewer_folds_is_said(runs, capsys):
    """The defect: a fold without a value was left out of the mean, without a word."""
    file = runs[1] / "fold3" / "test_metrics.csv"
    file.write_text("records,AUROC\n10,\n")
    compare([read_run(folder) for folder in runs], test=True)
    assert "two: AUROC has no value on fold 3" in capsys.readouterr().out
