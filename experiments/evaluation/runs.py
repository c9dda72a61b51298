"""Run what is missing of a comparison, and write it down: results.csv."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.cells import FITTED, KEY, Cell, Settings, origin_of, place_of
from experiments.evaluation.frozen import Features, frozen_predictions, write_random
from experiments.tables.results import add_rows, read_rows
from experiments.tables.runs import Task, computed, device_name, worker_pool
from main_finetune import finetune
from util.config.keys import FinetuneConfig
from util.console import begin_job, note, quietly
from util.jobs.job import LabelledJob, make_classifier
from util.jobs.setup import revision
from util.processes import collectives
from util.scoring.predictions import Predictions
from util.scoring.scores import compute_scores, parse_scores

ORIGIN = ["definition", "store", "weights"]
TEXT = ["encoder", "task", *ORIGIN]  # in the CSV, also where it looks like a number
ENOUGH = 10  # positive test records of a class that also counts in the second macro mean
TESTED = "test_predictions.npz"
Planned = tuple[Cell, FinetuneConfig]


def results_path(settings: Settings) -> Path:
    """Return the path of the CSV."""
    return Path(settings.output_dir) / "results.csv"


def read_results(settings: Settings) -> pd.DataFrame:
    """Read what has been run."""
    return read_rows(results_path(settings), KEY, TEXT)


def tested(cell: Cell, config: FinetuneConfig, settings: Settings) -> Path:
    """Return the path of a cell's test predictions."""
    place = place_of(cell, origin_of(cell, config, settings), settings)
    return place / f"fold{cell.fold}" / TESTED


# ============ what is missing ============
def check_weights(planned: Sequence[Planned]) -> None:
    """Build each given encoder once for each task and fold.

    Raises:
        CheckpointError: its file does not fit its network.
        ConfigError: it has seen labels of tested records.
    """
    given = {
        (c.candidate.name, c.task, c.fold): config for c, config in planned if c.candidate.weights
    }
    for (_, _, number), config in given.items():
        with quietly():
            make_classifier(LabelledJob(config).fold(number).job)


def missing(planned: Sequence[Planned], settings: Settings) -> list[Planned]:
    """Return the cells that results.csv lacks, or whose definition, store, weights or predictions
    are no longer those of its row; how many of these there are is said.
    """
    rows = read_results(settings).to_dict("records")
    there = {tuple(row[name] for name in KEY): row for row in rows}
    lacking, stale = [], 0
    for cell, config in planned:
        row = there.get(tuple(cell.key.values()))
        origin = origin_of(cell, config, settings)
        same = row is not None and all(row[name] == origin[name] for name in ORIGIN)
        if not same or not tested(cell, config, settings).is_file():
            lacking.append((cell, config))
            stale += row is not None
    if stale:
        note(f"{stale} results are of another definition, store or encoder: they are run again")
    return lacking


def run_all(planned: Sequence[Planned], settings: Settings, jobs: int) -> None:
    """Run the missing cells, ``jobs`` at a time; the CSV gets each as it is done."""
    lacking = missing(planned, settings)
    shared: dict[tuple, list[Planned]] = {}  # cells of mode knn and linear, by their encoder
    for cell, config in lacking:
        if cell.mode in FITTED:
            shared.setdefault(cell.encoder, []).append((cell, config))
    tasks: list[Task] = [partial(run_frozen, cells, settings) for cells in shared.values()]
    for cell, config in lacking:
        if cell.mode not in FITTED:
            tasks.append(partial(run_trained, cell, config, settings))
    pool = worker_pool(jobs) if jobs > 1 else None
    done = 0
    try:
        for result in computed(tasks, None, pool):
            rows = result["rows"] if result else []
            add_rows(results_path(settings), rows, KEY, TEXT)
            done += len(rows)
            name = ", ".join(f"{key} {rows[-1][key]}" for key in KEY)
            note(f"{done} of {len(lacking)} cells done; the last: {name}")
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


# ============ one of them ============
def run_frozen(cells: Sequence[Planned], settings: Settings) -> dict[str, Any]:
    """Run the cells of one encoder that need nothing but its features."""
    began = time.monotonic()
    begin_job()
    with quietly():
        write_random(cells[0][0], settings)
        device = collectives.start(cells[0][1].device)
        folds = [LabelledJob(config).fold(cell.fold) for cell, config in cells]
        found = Features(folds, device)
    shared, rows = (time.monotonic() - began) / len(cells), []
    for (cell, config), evaluator in zip(cells, found.evaluators):
        began = time.monotonic()
        predictions, selection, chosen = frozen_predictions(cell, evaluator, found)
        path = tested(cell, config, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        predictions.save(path)
        seconds = shared + time.monotonic() - began
        counted = {"training_records": len(evaluator.fold.parts["train"]), "steps": 0}
        more = {"selection": selection, "chosen": chosen, "seconds": round(seconds, 1), **counted}
        rows.append(row_of(cell, config, predictions, more, settings))
    return {"rows": rows}


def run_trained(cell: Cell, config: FinetuneConfig, settings: Settings) -> dict[str, Any]:
    """Run one training."""
    began = time.monotonic()
    place = tested(cell, config, settings).parent
    with quietly():
        write_random(cell, settings)
    (result,) = finetune(replace(config, output_dir=str(place.parent), exp_name=place.name))
    for path in place.glob("checkpoint-*.pth"):  # a cell that is done is not resumed
        path.unlink()
    with quietly():
        records = len(LabelledJob(config).fold(cell.fold).parts["train"])
    train = config.train
    more = {
        "selection": result.selection[config.test.target_metric],
        "chosen": "epoch",
        "seconds": round(time.monotonic() - began, 1),
        "training_records": records,
        "steps": train.epochs * (train.steps_per_epoch or 0),
    }
    return {"rows": [row_of(cell, config, result.predictions, more, settings)]}


def row_of(
    cell: Cell,
    config: FinetuneConfig,
    predictions: Predictions,
    more: dict[str, Any],
    settings: Settings,
) -> dict[str, Any]:
    """Return a cell's row of the CSV."""
    name = config.test.target_metric
    common = with_enough(predictions)
    return {
        **cell.key,
        "score": name,
        "value": score_of(predictions, name),
        "value_common": score_of(common, name) if common else np.nan,
        "classes": len(predictions.classes),
        "classes_common": len(common.classes) if common else 0,
        "records": len(predictions),
        **more,
        "device": device_name(settings.device),
        **origin_of(cell, config, settings),
        "revision": revision(),
    }


def score_of(predictions: Predictions, name: str) -> float:
    """Return a score of predictions."""
    scores = parse_scores([name], (), predictions.task)
    return compute_scores(predictions.outputs, predictions.labels, scores, predictions.task)[name]


def with_enough(predictions: Predictions) -> Predictions | None:
    """Return the classes with ten or more positive test records, each against all others; None
    where there are none, as in regression.
    """
    labels = predictions.labels
    if predictions.task == "regression":
        return None
    if predictions.task == "multiclass":
        labels = (labels[:, None] == np.arange(len(predictions.classes))).astype(float)
    kept = np.flatnonzero((labels == 1).sum(axis=0) >= ENOUGH)
    if not len(kept):
        return None
    return replace(
        predictions,
        labels=labels[:, kept],
        outputs=predictions.outputs[:, kept],
        logits=predictions.logits[:, kept],
        classes=tuple(predictions.classes[c] for c in kept),
        task="multilabel",
    )
