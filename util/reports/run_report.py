"""report.html of a run: what ran, its curves and scores, class by class, on one page.

It is made of the files in the run's folder alone, so it can be made again at any time.
"""

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from util.data.store import RecordStore
from util.errors import ConfigError, ECGError
from util.evaluation.evaluator import gate_table
from util.evaluation.report import SELECTION, without_value
from util.files import write_text
from util.jobs.setup import store_at
from util.predicting.recordings import finest_store
from util.reports.comparison import Run, read_run
from util.reports.figures import (
    plot_confusion,
    plot_curves,
    plot_discrimination,
    plot_gate,
    plot_predicted,
    plot_reliability,
)
from util.reports.page import Page
from util.reports.pretraining import pretraining_page
from util.reports.recordings import add_worst
from util.scoring.calibration import (
    LabelSets,
    calibration_error,
    class_errors,
    fewest,
    one_against_others,
    reliability,
    set_table,
    temperature,
    tempered,
)
from util.scoring.operating_points import by_class, choose_thresholds
from util.scoring.predictions import Predictions
from util.scoring.scores import auroc, compute_scores, macro, parse_scores

FILE = "report.html"
AGES = (0, 18, 40, 60, 75, 200)  # years; edges of subgroups
FEW = 20  # records of a subgroup without a row
RULE = "youden"
COVERAGE = 0.9  # of label sets


@dataclass(frozen=True)
class FoldReport:
    """The files of one fold.

    Attributes:
        name: of the fold.
        test: predictions of the test records.
        chosen: of the selection records, None if the run kept none.
        log: lines of log.txt.
        metrics: the row of test_metrics.csv.
    """

    name: str
    test: Predictions
    chosen: Predictions | None
    log: list[dict]
    metrics: dict[str, float]

    def decided(self, rule: str) -> np.ndarray:
        """Return the decisions on the test records by thresholds of the selection records, or by
        0.5 where there are none: bool (records, classes).
        """
        if self.chosen is None:
            return self.test.outputs >= 0.5
        return self.test.outputs >= choose_thresholds(self.chosen.labels, self.chosen.outputs, rule)


def read_fold(folder: Path, name: str) -> FoldReport:
    """Read the files of a fold.

    Raises:
        StoreError: it holds no predictions.
    """
    chosen = folder / SELECTION
    metrics = pd.read_csv(folder / "test_metrics.csv").iloc[0].to_dict()
    return FoldReport(
        name=name,
        test=Predictions.load(folder / "test_predictions.npz"),
        chosen=Predictions.load(chosen) if chosen.is_file() else None,
        log=read_log(folder),
        metrics=metrics,
    )


def read_log(folder: Path) -> list[dict]:
    """Return the lines of a run's log.txt, none where there is none."""
    log = folder / "log.txt"
    return (
        [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    )


def read_folds(run: Run) -> list[FoldReport]:
    """Read the tested folds of a run.

    Raises:
        ConfigError: none has been tested.
    """
    alone = len(run.folds) == 1
    folds = [
        read_fold(path, run.name if alone else f"fold {fold}")
        for fold, path in run.folds.items()
        if (path / "test_predictions.npz").is_file()
    ]
    if not folds:
        raise ConfigError(
            f"{run.name} holds no tested run (test_predictions.npz); train it to the end first"
        )
    return folds


# ============ the page ============
def write_report(
    folder: str | os.PathLike, rule: str | None = None, wanted: Collection[int] | None = None
) -> Path:
    """Write report.html of a run into its folder; return its path.

    Args:
        folder: of the run; its folds are in fold<k>/ there, or it is a fold itself.
        rule: of thresholds, see ``util.scoring.operating_points``; None: RULE.
        wanted: folds of one job, as ``read_run`` takes them; None: all that are there.

    Raises:
        ECGError: there is no run, folds are of different jobs, or nothing has been tested.
    """
    folder = Path(folder)
    path, run = folder / FILE, read_run(folder, pretraining=True, wanted=wanted)
    title = f"{run.name}: {run.config['model_name']}"
    if run.pretrained:
        if rule:
            raise ConfigError(f"{folder} is a pre-training, which has no thresholds: no --rule")
        page = pretraining_page(title, what_ran(run, [], folder), read_log(folder), folder)
        write_text(path, page.html())
        return path
    folds = read_folds(run)
    page = Page(title)
    page.facts(what_ran(run, folds, folder))
    test = Predictions.join([fold.test for fold in folds])
    _scores(page, folds, test)
    if any(fold.log for fold in folds):
        page.section("Training")
        page.figure(plot_curves({fold.name: fold.log for fold in folds if fold.log}))
    if test.task == "multilabel":
        _multilabel(page, folds, test, rule or RULE)
        if run.config["dataset.protocol"] == "published":
            page.text(
                "The protocol is the published one: the selection fold is the test fold, so "
                "thresholds and temperature were chosen on these records, and all scores are too "
                "good."
            )
    elif test.task == "multiclass":
        _multiclass(page, folds, test)
    else:
        page.section("Predicted and labelled")
        page.figure(plot_predicted(test), "a point a test record; dotted: equal")
    if test.gate is not None:
        page.section("What the gate weighs")
        page.figure(plot_gate(gate_table(test)), "in brackets the test records of each class")
    _by_store(page, test, run)
    write_text(path, page.html())
    return path


def what_ran(run: Run, folds: list[FoldReport], folder: Path) -> dict[str, object]:
    """Return the facts of a run, for people."""
    config = run.config
    consoles = [path for path in sorted(folder.rglob("console.txt")) if path.is_file()]
    lines = [line for path in consoles for line in path.read_text("utf-8").splitlines()]
    ran = [line for line in lines if "process(es) on" in line]
    model = {n.removeprefix("model."): v for n, v in config.items() if n.startswith("model.")}
    given = ("dataset.labels", "dataset.classes")
    labels = [f"{v}" for n, v in config.items() if n.startswith(given) and v != "None"]
    return {
        "model": ", ".join([config["model_name"], *(f"{n}: {v}" for n, v in model.items())]),
        "mode": config.get("mode", "pre-training"),
        "store": config["dataset.store"],
        "its records": _records(config),
        "labels": "" if run.pretrained else ", ".join(labels) or "challenge2020",
        "protocol": "" if run.pretrained else config["dataset.protocol"],
        "test records": sum(len(fold.test) for fold in folds) or "",
        "epochs": "" if config.get("mode") == "probe" else config["train.epochs"],
        "seed": config["seed"],
        "trained as": ran[-1] if ran else "",
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "page made by": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _records(config: dict) -> str:
    """How many records the store has and their checksum, "" where it is not there any more."""
    try:
        store = store_at(config["dataset.store"], config["dataset.fs"])
    except (ECGError, KeyError):
        return ""
    return f"{len(store):,} at {store.fs:g} Hz, checksum {store.meta['records_crc32']}"


def _scores(page: Page, folds: list[FoldReport], test: Predictions) -> None:
    """Scores of each fold, their mean and deviation, and those of all records as one set."""
    page.section("Scores on the test records")
    table = pd.DataFrame([{"fold": fold.name, **fold.metrics} for fold in folds])
    table["records"] = table["records"].astype(int).astype(object)
    if len(folds) > 1:
        ends = [name for name in table if name.endswith(("_low", "_high"))]  # of intervals
        scores = table.set_index("fold").drop(columns=["records", *ends])
        numbers = scores.agg(["mean", "std"])
        pooled = pd.DataFrame([{"fold": "pooled", "records": len(test), **_pooled(test, table)}])
        table = pd.concat([table, numbers.rename_axis("fold").reset_index(), pooled])
        page.text("Mean and deviation over the folds; pooled: all test records as one set.")
        if missing := without_value(scores):
            page.text(f"{missing}.")
        twice = len(test) - len(np.unique(test.records))
        if twice:
            page.text(
                f"Of the {len(test)} records that are pooled, {twice} are repeated, as several "
                "folds test the same: intervals of what is pooled are too narrow."
            )
    page.table(table, 4)


def _pooled(test: Predictions, names: Iterable[str]) -> dict[str, float]:
    """The scores of all test records, of those names that are scores."""
    values: dict[str, float] = {}
    for name in names:
        with contextlib.suppress(ConfigError):  # such as loss, or the ends of an interval
            scores = parse_scores([name], test.classes, test.task)
            values |= compute_scores(test.outputs, test.labels, scores, test.task)
    return values


def _multilabel(page: Page, folds: list[FoldReport], test: Predictions, rule: str) -> None:
    """Tables and curves, class by class, of all folds together."""
    decided = np.concatenate([fold.decided(rule) for fold in folds])
    page.section("Class by class")
    chosen = [fold.chosen for fold in folds if fold.chosen is not None]
    how = f"chosen on the selection fold ({rule})" if chosen else "of 0.5"
    if 0 < len(chosen) < len(folds):
        how += f" ({len(folds) - len(chosen)} folds kept no selection records: of 0.5)"
    page.text(
        f"All folds together, known labels alone. Sensitivity, specificity and precision at "
        f"thresholds {how}; in brackets Wilson's 95 % interval{_of_records(folds)}."
    )
    page.table(for_people(by_class(test, decided)))
    page.figure(plot_discrimination(test), "the classes with the most positive records")
    _calibration(page, folds, test)
    if len(chosen) == len(folds):
        _label_sets(page, folds, test)


def _multiclass(page: Page, folds: list[FoldReport], test: Predictions) -> None:
    """Each class against the others, and which is taken for which, of all folds together."""
    taken, each = test.outputs.argmax(axis=1), np.eye(len(test.classes))
    page.section("Class by class")
    page.text(
        "All folds together, each class against the others; a record goes to its likeliest class. "
        f"In brackets Wilson's 95 % interval{_of_records(folds)}."
    )
    apart = replace(test, labels=each[test.labels], task="multilabel")
    page.table(for_people(by_class(apart, each[taken] == 1)))
    if all(fold.chosen is not None for fold in folds):
        _label_sets(page, folds, test)
    page.section("Which class is taken for which")
    page.figure(plot_confusion(test.labels, taken, test.classes), "records of the test")


def _of_records(folds: list[FoldReport]) -> str:
    """What to say of an interval that takes records for independent, where some are not."""
    records = sum(len(fold.test) for fold in folds)
    patients = sum(len(np.unique(fold.test.patients)) for fold in folds)
    if patients == records:
        return ""
    return f", too narrow here as its {records} records are of {patients} patients"


# ============ calibration ============
def _calibration(page: Page, folds: list[FoldReport], test: Predictions) -> None:
    """How far probabilities can be taken at their word, before and after a temperature."""
    page.section("Calibration")
    outputs = {"as they are": test.outputs}
    chosen = [fold.chosen for fold in folds if fold.chosen is not None]
    said = f"Expected calibration error {calibration_error(test.labels, test.outputs):.3f}"
    if len(chosen) == len(folds):
        by = [temperature(each.labels, each.outputs) for each in chosen]
        outputs["tempered"] = np.concatenate(
            [tempered(fold.test.outputs, t) for fold, t in zip(folds, by)]
        )
        said += (
            f"; {calibration_error(test.labels, outputs['tempered']):.3f} with logits divided by "
            f"{', '.join(f'{t:.2f}' for t in by)} (temperature, from the selection fold)"
        )
    page.text(said + ".")
    page.figure(plot_reliability({n: reliability(test.labels, p) for n, p in outputs.items()}))
    table = pd.DataFrame({"class": test.classes, "positive": (test.labels == 1).sum(axis=0)})
    for name, probabilities in outputs.items():
        errors = class_errors(test.labels, probabilities)
        table = table.join(errors if name == "as they are" else errors.add_suffix(f", {name}"))
    page.table(table)


def _label_sets(page: Page, folds: list[FoldReport], test: Predictions) -> None:
    """What conformal label sets of the selection folds hold on the test records."""
    page.section("Label sets")
    present, absent = [], []
    for fold in folds:
        assert fold.chosen is not None, "asked for where every fold has selection records"
        labels = one_against_others(fold.chosen)
        sets = LabelSets.fitted(labels, fold.chosen.outputs, COVERAGE)
        present.append(sets.may_be_present(fold.test.outputs))
        absent.append(sets.may_be_absent(fold.test.outputs))
    page.text(
        f"Of each class the set says present, absent, or leaves it open, and is to hold the truth "
        f"for {COVERAGE:.0%} of the records with the class and of those without (split conformal, "
        "limits from the selection fold, which also chose the weights, so that they are a little "
        "too narrow). A class with fewer than "
        f"{fewest(COVERAGE)} selection records is never ruled out."
    )
    page.table(set_table(test, np.concatenate(present), np.concatenate(absent)))


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of classes with each interval in the cell of its share."""
    table = table.copy()
    for name in ("sensitivity", "specificity"):
        low, high = table.pop(f"{name}_low"), table.pop(f"{name}_high")
        table[name] = [
            "" if np.isnan(share) else f"{share:.2f} ({a:.2f} to {b:.2f})"
            for share, a, b in zip(table[name], low, high)
        ]
    return table


# ============ what the store knows of the records ============
def _by_store(page: Page, test: Predictions, run: Run) -> None:
    """Subgroups, and the records with the largest loss, where the store is still there."""
    try:
        store = finest_store(run.config["dataset.store"])
    except ECGError:
        store = None
    if test.task == "multilabel":
        _subgroups(page, test, store)
    if store is None:
        page.text(
            f"The store {run.config['dataset.store']} is not there any more: no groups by age and "
            "sex, and no records drawn."
        )
    else:
        add_worst(page, test, store)


def _subgroups(page: Page, test: Predictions, store: RecordStore | None) -> None:
    """Macro AUROC by database and, where there is a store, by age and sex."""
    groups = {f"database {name}": test.databases == name for name in np.unique(test.databases)}
    if store:
        groups |= patients_of(test, store)
    rows = [
        {"group": name, "records": int(is_in.sum()), "AUROC (macro)": _macro(test.where(is_in))}
        for name, is_in in groups.items()
        if is_in.sum() >= FEW
    ]
    if len(rows) > 1:
        page.section("Subgroups")
        page.text(f"Groups of {FEW} records or more; classes that a group has both sides of.")
        page.table(pd.DataFrame(rows))


def patients_of(test: Predictions, store: RecordStore) -> dict[str, np.ndarray]:
    """Return groups of test records by age and by sex, bool (records,) by their names."""
    about = store.records.set_index("record").reindex(test.records)
    ages, groups = about["age"].to_numpy(float), {}
    for low, high in zip(AGES, AGES[1:]):
        name = f"age {low} to {high - 1}" if high < AGES[-1] else f"age {low} and above"
        groups[name] = (ages >= low) & (ages < high)
    return groups | {sex: (about["sex"] == sex).to_numpy() for sex in ("Female", "Male")}


def _macro(test: Predictions) -> float:
    return macro(auroc(test.labels, test.outputs))
