"""Several runs side by side: what differs between them, and their scores."""

import json
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from util.config.compare import differences
from util.config.keys import FinetuneConfig
from util.config.load import load_yaml
from util.console import note
from util.data.store import FOLDS
from util.errors import ECGError
from util.evaluation.report import FoldFiles, improved, without_value
from util.scoring.scores import lower_is_better
from util.training.log.trackers import flattened
from util.training.resolved import MATTERS
from util.weights import checkpoint

# keys that say where and how a run was done, and not what
ASIDE = ("exp_name", "output_dir", "resume", "overwrite", "start_epoch", "device", "dataset.fold")
VALID = "valid_"


@dataclass(frozen=True)
class Run:
    """A supervised run, or a pre-training.

    Attributes:
        name: of its folder.
        folds: their folders by number; of a run of one fold that itself.
        config: dotted keys, of the first fold.
    """

    name: str
    folds: dict[int, Path]
    config: dict[str, Any]

    @property
    def pretrained(self) -> bool:
        """Return whether it is a pre-training, which has no scores."""
        return "test.target_metric" not in self.config

    @property
    def target(self) -> str:
        """Return the metric by which its weights are chosen."""
        return str(self.config.get("test.target_metric", "loss"))

    def selection(self) -> pd.DataFrame:
        """Return a row for each fold: scores of the chosen weights on the selection records.

        Raises:
            ECGError: no epoch has ended.
        """
        rows = {fold: _selection(path, self.target) for fold, path in self.folds.items()}
        return pd.DataFrame(rows).T

    def test(self) -> pd.DataFrame:
        """Return a row for each fold: what its test_metrics.csv holds.

        Raises:
            ECGError: a fold has none.
        """
        rows = {}
        for fold, path in self.folds.items():
            file = path / "test_metrics.csv"
            if not file.is_file():
                raise ECGError(f"{file} is missing: the run has not finished; leave out --test")
            rows[fold] = pd.read_csv(file).iloc[0]
        return pd.DataFrame(rows).T


def read_run(
    folder: str | os.PathLike,
    *,
    pretraining: bool = False,
    wanted: Collection[int] | None = None,
) -> Run:
    """Read what a run is, of one fold or several.

    Args:
        folder: of the run.
        pretraining: whether it may be one.
        wanted: folds known to be of one job, in fold<k>/; none of them: the folder's own run;
            None: all that are there.

    Raises:
        ECGError: the folder holds no such run, or folds of different jobs.
    """
    folder = Path(folder)
    folds = {k: folder / f"fold{k}" for k in sorted(range(FOLDS) if wanted is None else wanted)}
    folds = {k: path for k, path in folds.items() if (path / "config.yaml").is_file()}
    if wanted is None:
        _check_one_job(folds)
    alone = folder / "config.yaml"
    if not folds and not alone.is_file():
        raise ECGError(f"{folder} holds no run: neither config.yaml nor fold<k>/config.yaml")
    config = flattened(load_yaml(next(iter(folds.values())) / "config.yaml" if folds else alone))
    if not folds:
        folds = {int(config.get("dataset.fold", 0)): folder}
    run = Run(folder.resolve().name, folds, config)
    if run.pretrained and not pretraining:
        raise ECGError(f"{folder} is a run of pre-training, which has no scores to compare")
    return run


def _check_one_job(folds: dict[int, Path]) -> None:
    """Raise an ECGError where folds are of different jobs, whose mean would be of neither."""
    configs = [(path, load_yaml(path / "config.yaml")) for path in folds.values()]
    for path, config in configs[1:]:
        beside, first = configs[0]
        apart = ["dataset.fold"]
        # pre-training leaves out the tested fold; a rate may follow from the processes
        apart += ["encoder_path"] * bool(first.get("encoder_path") and config.get("encoder_path"))
        apart += ["train.lr"] * (first.get("train", {}).get("blr") is not None)
        changed = differences(config, first, FinetuneConfig, str(path / "config.yaml"))
        names = [name for name, may in changed.items() if may != "free" or name in MATTERS]
        names = [name for name in names if name not in apart]
        if names:
            raise ECGError(
                f"{beside} and {path} are of different jobs, which differ in {', '.join(names)}; "
                "a mean over them would be of neither. Move one job's folds into another folder"
            )


def _selection(folder: Path, target: str) -> dict[str, float]:
    """Scores of the best epoch by ``target``, out of log.txt or else of the weights."""
    log, best = folder / "log.txt", FoldFiles(folder).best(target)
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    chosen: dict[str, float] = {}
    for line in map(json.loads, lines):
        values = {n.removeprefix(VALID): v for n, v in line.items() if n.startswith(VALID)}
        if target in values and improved(target, values[target], chosen.get(target)):
            chosen = values
    if not chosen and best.is_file():
        chosen = checkpoint.load(best)["metrics"]
    if not chosen:
        raise ECGError(f"{folder} has no scores yet: no epoch of it has ended")
    return chosen


def differing(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each run: its values of the keys that are not the same in all."""
    names = {name for run in runs for name in run.config} - set(ASIDE)
    rows = [{name: run.config.get(name) for name in sorted(names)} for run in runs]
    table = pd.DataFrame(rows, dtype=object)
    different = [name for name in table if table[name].map(str).nunique() > 1]
    return table[different]


def compare(runs: Sequence[Run], by: str | None = None, *, test: bool = False) -> pd.DataFrame:
    """Return a row for each run, the best first: folds, scores, and the keys that differ.

    Scores of several folds are means, with the deviation in <score>_std.

    Args:
        runs: to compare.
        by: the score to sort by, in either case on the selection records; None for the target
            of the first run.
        test: scores of the test records instead.

    Raises:
        ECGError: a run lacks this score.
    """
    by = by or runs[0].target
    rows, quality = [], []
    for run in runs:
        selection = run.selection()
        if by not in selection:
            raise ECGError(f"{run.name} has no {by}; it has {', '.join(selection)}")
        quality.append(float(selection[by].mean()))
        folds, shown = ",".join(map(str, run.folds)), run.test() if test else selection
        if missing := without_value(shown):
            note(f"note: {run.name}: {missing}")
        rows.append({"run": run.name, "folds": folds, **_means(shown)})
    table = pd.concat([pd.DataFrame(rows), differing(runs)], axis=1)
    turned = [value if lower_is_better(by) else -value for value in quality]
    order = sorted(range(len(runs)), key=lambda n: (math.isnan(turned[n]), turned[n]))
    return table.iloc[order].set_index("run")


def _means(table: pd.DataFrame) -> dict[str, float]:
    """Means over folds, deviations, and how many records there are in all."""
    row: dict[str, float] = {}
    for name in table:
        values = table[name].astype(float)
        row[str(name)] = values.mean() if name != "records" else int(values.sum())
        if len(table) > 1 and name != "records":
            row[f"{name}_std"] = values.std()
    return row
