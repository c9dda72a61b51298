"""report.html: one page that needs nothing else and says what the run's files say."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from experiments import report
from tests.support import chromium, small_store
from tests.support.small_store import TINY, run
from util.errors import ConfigError, ECGError
from util.evaluation.figures import plot_reconstruction, save_figure
from util.evaluation.report import SELECTION
from util.jobs.setup import store_at
from util.reports.comparison import read_run
from util.reports.run_report import read_folds, write_report
from util.scoring.calibration import LabelSets
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
    rows = {row[0]: row for row in reversed(tables.rows) if row}  # of two tables the first
    assert rows["mode"][1] == "scratch"
    store = store_at(small_store.store(), 100)
    assert rows["its records"][1] == f"80 at 100 Hz, checksum {store.meta['records_crc32']}"
    metrics = pd.read_csv(trained / "fold3" / "test_metrics.csv").iloc[0]
    assert f"{metrics['AUROC']:.4f}" in rows["fold 3"] and "mean" in rows and "std" in rows
    folds = read_folds(read_run(trained))
    test = Predictions.join([fold.test for fold in folds])
    pooled = float(np.nanmean(auroc(test.labels, test.outputs)))
    assert f"{pooled:.4f}" in rows["pooled"] and rows["pooled"][1] == str(len(test))
    areas = dict(zip(test.classes, auroc(test.labels, test.outputs)))
    assert rows["AF"][3] == f"{areas['AF']:.3f}"
    assert rows["AF"][2] == str(int((test.labels[:, test.classes.index("AF")] == 1).sum()))
    assert text.count("<svg") == 3 and "Expected calibration error" in text
    assert "ECE, tempered" in text and "Brier, tempered" in text
    af = [row for row in tables.rows if row and row[0] == "AF"]
    c = test.classes.index("AF")
    brier = np.mean((test.outputs[:, c] - test.labels[:, c]) ** 2)
    assert len(af) == 3 and af[1][3] == f"{brier:.3f}"
    held = [
        fold.test.outputs[:, c]
        >= LabelSets.fitted(fold.chosen.labels, fold.chosen.outputs, 0.9).present[c]
        for fold in folds
    ]
    assert af[2][2] == f"{np.concatenate(held)[test.labels[:, c] == 1].mean():.3f}"
    y, p = test.labels, np.clip(test.outputs, 1e-7, 1 - 1e-7)
    losses = -(np.nan_to_num(y) * np.log(p) + np.nan_to_num(1 - y) * np.log(1 - p)).sum(axis=1)
    losses /= (~np.isnan(y)).sum(axis=1)
    worst = [f"loss {losses[n]:.2f}; labelled " for n in np.argsort(-losses)[:3]]
    assert text.count("data:image/png") == len(worst) == 3
    places = [text.index(words) for words in worst]
    assert places == sorted(places)


def test_folds_that_test_the_same_records_or_lack_a_score_are_said(trained, tmp_path):
    """The defect: intervals of pooled records counted each once a fold, and means were of fewer
    folds, without a word.
    """
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.copytree(folder / "fold3", folder / "fold7")
    file = folder / "fold7" / "test_metrics.csv"
    pd.read_csv(file).assign(AUROC=np.nan).to_csv(file, index=False)
    text = write_report(folder).read_text("utf-8")
    count = len(Predictions.load(folder / "fold7" / "test_predictions.npz"))
    assert f"{count} are repeated, as several folds test the same" in text
    assert "AUROC has no value on fold fold 7" not in text and "no value on fold 7" in text
    text = write_report(trained).read_text("utf-8")
    assert "repeated" not in text and "no value" not in text


def test_intervals_of_records_say_how_many_patients_there_are(trained, tmp_path):
    """The defect: Wilson's intervals counted a patient's records as independent, without a word."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    file = folder / "fold3" / "test_predictions.npz"
    test = Predictions.load(file)
    replace(test, patients=test.patients // 2).save(file)
    (folder / "fold9" / SELECTION).unlink()
    text = write_report(folder).read_text("utf-8")
    both = sum(len(fold.test) for fold in read_folds(read_run(folder)))
    fewer = both - len(test) // 2
    assert f"too narrow here as its {both} records are of {fewer} patients" in text
    assert "1 folds kept no selection records: of 0.5" in text
    assert "too narrow here" not in write_report(trained).read_text("utf-8")


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


def test_a_store_that_is_gone_is_said(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run").rglob("config.yaml"):
        path.write_text(path.read_text().replace(str(small_store.store()), "gone"))
    text = write_report(tmp_path / "run").read_text("utf-8")
    assert "The store gone is not there any more" in text and "data:image" not in text
    assert "Class by class" in text


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a pre-training that rebuilds."""
    folder = tmp_path_factory.mktemp("pre")
    config = {"model_name": "st_mem", "seed": 0, "dataset": {"store": "S"}, "train": {"epochs": 3}}
    (folder / "config.yaml").write_text(json.dumps(config))
    lines = [{"epoch": e, "train_loss": 3.0 - e, "probe_auroc": 0.6 + e / 10} for e in range(3)]
    (folder / "log.txt").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "figures").mkdir()
    waves = np.sin(np.arange(24).reshape(2, 12))
    figure = plot_reconstruction(waves, -waves, waves > 0, 10, ("I", "II"))
    for epoch in (1, 2, 3):
        save_figure(figure, folder / "figures" / f"reconstruction-{epoch:04d}.png")
    return folder


def test_a_pre_training_has_a_page_with_its_reconstructions(pretrained):
    text = write_report(pretrained).read_text("utf-8")
    assert "train loss" in text and "probe auroc" in text
    assert text.count("data:image/png") == 2
    assert "after epoch 1<" in text and "after epoch 3<" in text
    with pytest.raises(ConfigError, match="a pre-training, which has no thresholds: no --rule"):
        write_report(pretrained, "f1")
    with pytest.raises(ECGError, match="no scores to compare"):
        run(report.main, pretrained, "--markdown")
    with pytest.raises(ConfigError, match="--rule: no effect on a table of runs"):
        run(report.main, pretrained, "--markdown", "--rule", "f1")


@chromium.needs_chromium
def test_pages_fit_a_screen_a_phone_and_paper(trained, pretrained, tmp_path):
    for folder in (trained, pretrained):
        page = write_report(folder)
        with chromium.Tab(tmp_path / f"profile-{folder.name}") as tab:
            for width, media in ((1000, "screen"), (390, "screen"), (718, "print")):
                tab.open(page, width, media)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                hidden = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
                assert tab.evaluate(hidden) == 0
                picture = tmp_path / "page.png"
                tab.screenshot(picture)
                ink = matplotlib.image.imread(picture)[..., :3].min(axis=2) < 0.5
                assert ink.mean() > 0.005, "the page is empty"
            tab.print(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
