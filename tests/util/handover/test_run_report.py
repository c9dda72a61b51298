"""report.html: one page that needs nothing else and says what the run's files say."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from experiments import report
from tests.support import small_store
from tests.support.small_store import TINY, run
from util.errors import ConfigError, ECGError
from util.evaluation.report import SELECTION
from util.handover.comparison import read_run
from util.handover.run_report import read_folds, write_report
from util.scoring.predictions import Predictions
from util.scoring.scores import auroc


class Tables(HTMLParser):
    """The cells of all tables of a page."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def trained():
    return small_store.trained_signal()


def test_the_page_says_what_the_files_say(trained, capsys):
    capsys.readouterr()
    run(report.main, trained)
    path = trained / "report.html"
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text("utf-8")
    assert not re.search(r'(src|href)="?(http|//|\.)', text), "it needs another file"
    tables = Tables()
    tables.feed(text)
    rows = {row[0]: row for row in tables.rows if row}
    assert rows["mode"][1] == "scratch"
    metrics = pd.read_csv(trained / "fold3" / "test_metrics.csv").iloc[0]
    assert f"{metrics['AUROC']:.4f}" in rows["fold 3"] and "mean" in rows and "std" in rows
    folds = read_folds(read_run(trained))
    test = Predictions.join([fold.test for fold in folds])
    areas = dict(zip(test.classes, auroc(test.labels, test.outputs)))
    assert rows["AF"][3] == f"{areas['AF']:.3f}"
    assert rows["AF"][2] == str(int((test.labels[:, test.classes.index("AF")] == 1).sum()))
    assert text.count("<svg") == 3 and "Expected calibration error" in text


def test_thresholds_are_those_of_the_selection_fold(trained):
    folds = read_folds(read_run(trained))
    for fold in folds:
        chosen = Predictions.load(trained / fold.name.replace(" ", "") / SELECTION)
        assert np.array_equal(fold.chosen.outputs, chosen.outputs)
        assert set(chosen.records).isdisjoint(fold.test.records)
        decided = fold.decided("sensitivity=1.0")
        c = fold.test.classes.index("AF")
        positive = chosen.labels[:, c] == 1
        lowest = chosen.outputs[positive, c].min()
        assert (decided[:, c] >= (fold.test.outputs[:, c] >= lowest)).all()


def test_runs_are_compared_in_one_table(trained, capsys):
    capsys.readouterr()
    run(report.main, trained, trained / "fold3", "--markdown")
    head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| run | folds | records |") and len(rows) == 2
    metrics = pd.read_csv(trained / "fold3" / "test_metrics.csv").iloc[0]
    assert f"| {metrics['AUROC']:.4f} |" in rows[1]
    run(report.main, trained, "--latex")
    assert "\\begin{tabular}" in capsys.readouterr().out


def test_a_training_leaves_its_page_unless_told_not_to(tmp_path, capsys):
    from experiments import run_signal

    for name, flags in {"with": (), "without": ("--set", "test.report=false")}.items():
        given = ("--fold", 3, "--num_epoches", 1, "--save_folder", tmp_path / name)
        store = ("--set", f"dataset.store={small_store.store()}")
        run(run_signal.main, *given, *TINY, *store, "--set", "test.report=true", *flags)
    assert (tmp_path / "with" / "fold3" / "report.html").is_file()
    assert not list((tmp_path / "without").rglob("report.html"))
    with pytest.raises(ECGError, match="holds no run"):
        write_report(tmp_path)
    (tmp_path / "with" / "fold3" / "test_predictions.npz").unlink()
    with pytest.raises(ConfigError, match="with holds no tested run"):
        write_report(tmp_path / "with")
