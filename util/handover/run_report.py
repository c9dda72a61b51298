"""report.html of a supervised run: what ran, its curves and scores, class by class, on one page.

It is made of the files in the run's folder alone, so it can be made again at any time.
"""

import contextlib
import json
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from util.config.keys import FinetuneConfig
from util.config.load import load_config, load_yaml
from util.data.store import FOLDS, RecordStore
from util.errors import ConfigError, ECGError
from util.evaluation.report import SELECTION
from util.files import write_text
from util.handover.page import Page
from util.handover.report_figures import (
    plot_confusion,
    plot_curves,
    plot_discrimination,
    plot_reliability,
)
from util.scoring.operating_points import (
    by_class,
    calibration_error,
    choose_thresholds,
    reliability,
    temperature,
    tempered,
)
from util.scoring.predictions import Predictions
from util.scoring.scores import auroc, macro
from util.training.setup import open_store

FILE = "report.html"
AGES = (0, 18, 40, 60, 75, 200)  # years; edges of subgroups
FEW = 20  # records of a subgroup without a row
RULE = "youden"


@dataclass(frozen=True)
class FoldReport:
    """The files of one fold.

    Attributes:
        name: of the fold.
        test: predictions of the test records.
        chosen: of the selection records, None if the run kept none.
        log: lines of log.txt.
        metrics: the row of test_metrics.csv.
        mode: of the training.
    """

    name: str
    mode: str
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
    chosen, log = folder / SELECTION, folder / "log.txt"
    metrics = pd.read_csv(folder / "test_metrics.csv").iloc[0].to_dict()
    return FoldReport(
        name=name,
        mode=load_yaml(folder / "config.yaml").get("mode", ""),
        test=Predictions.load(folder / "test_predictions.npz"),
        chosen=Predictions.load(chosen) if chosen.is_file() else None,
        log=[json.loads(line) for line in log.read_text("utf-8").splitlines()]
        if log.is_file()
        else [],
        metrics=metrics,
    )


def read_run(folder: str | os.PathLike) -> tuple[list[FoldReport], FinetuneConfig]:
    """Read the tested folds of a run, and its config.

    Raises:
        ConfigError: nothing has been tested in this folder.
    """
    folder = Path(folder)
    places = {f"fold {k}": folder / f"fold{k}" for k in range(FOLDS)} | {folder.name: folder}
    tested = {n: p for n, p in places.items() if (p / "test_predictions.npz").is_file()}
    if not tested:
        raise ConfigError(f"{folder} holds no tested run (test_predictions.npz); train one first")
    first = next(iter(tested.values())) / "config.yaml"
    mapping = load_yaml(first)
    there = {"mode": "scratch", "encoder_path": "", "resume": ""}
    config = load_config([mapping], [], there, program=FinetuneConfig)
    return [read_fold(path, name) for name, path in tested.items()], config


# ============ the page ============
def write_report(folder: str | os.PathLike, rule: str = RULE) -> Path:
    """Write report.html of a run into its folder; return its path.

    Args:
        folder: of the run; its folds are in fold<k>/ there, or it is a fold itself.
        rule: of thresholds, see ``util.scoring.operating_points``.

    Raises:
        ConfigError: nothing has been tested in this folder.
    """
    folder = Path(folder)
    folds, config = read_run(folder)
    page = Page(f"{folder.name}: {config.model_name}")
    page.facts(what_ran(config, folds, folder))
    _scores(page, folds)
    if any(fold.log for fold in folds):
        page.section("Training")
        page.figure(plot_curves({fold.name: fold.log for fold in folds if fold.log}))
    test = Predictions.join([fold.test for fold in folds])
    if test.task == "multilabel":
        _multilabel(page, folds, test, rule)
    elif test.task == "multiclass":
        page.section("Which class is taken for which")
        page.figure(plot_confusion(test.labels, test.outputs.argmax(axis=1), test.classes))
    _subgroups(page, test, config)
    path = folder / FILE
    write_text(path, page.html())
    return path


def what_ran(config: FinetuneConfig, folds: list[FoldReport], folder: Path) -> dict[str, object]:
    """Return the facts of a run, for people."""
    data = config.dataset
    consoles = [path for path in sorted(folder.rglob("console.txt")) if path.is_file()]
    lines = [line for path in consoles for line in path.read_text("utf-8").splitlines()]
    ran = [line for line in lines if "process(es) on" in line]
    return {
        "model": f"{config.model_name} {config.model or ''}".strip(),
        "mode": folds[0].mode,
        "store": data.store,
        "labels": data.labels or data.classes or "challenge2020",
        "protocol": data.protocol,
        "test records": sum(len(fold.test) for fold in folds),
        "epochs": config.train.epochs,
        "seed": config.seed,
        "trained as": ran[-1] if ran else "",
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "page made by": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _scores(page: Page, folds: list[FoldReport]) -> None:
    """Scores of each fold, and their mean and deviation."""
    page.section("Scores on the test records")
    table = pd.DataFrame([{"fold": fold.name, **fold.metrics} for fold in folds])
    table["records"] = table["records"].astype(int).astype(object)
    if len(folds) > 1:
        numbers = table.drop(columns=["fold", "records"]).agg(["mean", "std"])
        table = pd.concat([table, numbers.rename_axis("fold").reset_index()])
    page.table(table, 4)


def _multilabel(page: Page, folds: list[FoldReport], test: Predictions, rule: str) -> None:
    """Tables and curves, class by class, of all folds together."""
    decided = np.concatenate([fold.decided(rule) for fold in folds])
    page.section("Class by class")
    chosen = [fold.chosen for fold in folds if fold.chosen is not None]
    how = f"chosen on the selection fold ({rule})" if chosen else "of 0.5"
    page.text(
        f"All folds together, known labels alone. Sensitivity, specificity and precision at "
        f"thresholds {how}; in brackets Wilson's 95 % interval."
    )
    page.table(for_people(by_class(test, decided)))
    page.figure(plot_discrimination(test), "the classes with the most positive records")
    page.section("Calibration")
    tables = {"as they are": reliability(test.labels, test.outputs)}
    errors = f"Expected calibration error {calibration_error(test.labels, test.outputs):.3f}"
    if len(chosen) == len(folds):
        by = [temperature(each.labels, each.outputs) for each in chosen]
        outputs = np.concatenate([tempered(f.test.outputs, t) for f, t in zip(folds, by)])
        tables["tempered"] = reliability(test.labels, outputs)
        errors += (
            f"; {calibration_error(test.labels, outputs):.3f} with logits divided by "
            f"{', '.join(f'{t:.2f}' for t in by)} (temperature, from the selection fold)"
        )
    page.text(errors + ".")
    page.figure(plot_reliability(tables))


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


# ============ subgroups ============
def _subgroups(page: Page, test: Predictions, config: FinetuneConfig) -> None:
    """Macro AUROC by database, and by age and sex where the store is still there."""
    if test.task != "multilabel":
        return
    groups = {f"database {name}": test.databases == name for name in np.unique(test.databases)}
    with contextlib.suppress(ECGError):  # the store may have moved
        groups |= patients_of(test, open_store(config))
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
