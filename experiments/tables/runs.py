"""Run what is missing of a table: pre-trainings first, then what starts from them."""

import contextlib
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial

import pandas as pd
import torch

from experiments.tables.definition import Row, Table
from experiments.tables.results import add_results, current_rows, read_results
from experiments.tables.trainings import (
    Settings,
    encoder_of,
    fine_tuning,
    origin_of,
    place,
    pretraining,
)
from main_finetune import finetune
from main_pretrain import pretrain
from util.challenge import ABBREVIATIONS
from util.config.keys import FinetuneConfig, PretrainConfig
from util.console import quietly
from util.evaluation.neighbours import score_neighbours
from util.evaluation.report import rounded
from util.evaluation.threshold_search import search_folder
from util.jobs.setup import revision
from util.processes.devices import one_device
from util.scoring.scores import parse_scores

Task = Callable[[], dict]  # returns its row of the CSV, empty for none


# ============ trainings ============
def run_all(
    table: Table,
    wanted: Iterable[tuple[Row, int, int]],
    settings: Settings,
    *,
    jobs: int = 1,
    budget: float | None = None,
) -> None:
    """Train what the CSV lacks; each training is added to it as it is done.

    Args:
        table: whose CSV it is.
        wanted: (row, seed, fold).
        settings: of all trainings.
        jobs: trainings at a time.
        budget: minutes after which no further training is started.
    """
    results, wanted = read_results(table), list(wanted)
    in_csv = {
        (row.name, seed): set(current_rows(results, row, "", settings, seed)["fold"])
        for row, seed in {(row.name, seed): (row, seed) for row, seed, _ in wanted}.values()
    }
    missing = [
        (row, seed, fold) for row, seed, fold in wanted if fold not in in_csv[row.name, seed]
    ]
    encoders: dict[str, Task] = {}
    for row, seed, fold in missing:
        fine_tuning(table, row, seed, fold, settings)  # what is wrong in any is said before all
        if row.pretrain:
            config = pretraining(row, seed, fold, settings)
            if not encoder_of(config).is_file():
                encoders[config.exp_name] = partial(pretrained, config)
    first: list[Task] = list(encoders.values())
    second: list[Task] = []  # they start from an encoder
    for row, seed, fold in missing:
        tasks = second if row.pretrain else first
        tasks.append(partial(run, table, row, seed, fold, settings))
    deadline, late = None if budget is None else time.time() + 60 * budget, 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(worker_pool(jobs)) if jobs > 1 else None
        for tasks in (first, second):
            for done in computed(tasks, deadline, pool):
                late += done is None
                if done:
                    add_results(table, [done])
    if late:
        print(
            f"the budget of {budget:g} minutes is spent: {late} trainings were not started; "
            "give the same command again to continue"
        )


def pretrained(config: PretrainConfig) -> dict:
    """Pre-train; there is no row of the CSV."""
    pretrain(config)
    return {}


def run(table: Table, row: Row, seed: int, fold: int, settings: Settings) -> dict:
    """Train and test one row on one fold, from its encoder, which is there; return its row of the
    CSV.
    """
    began = time.monotonic()
    config = fine_tuning(table, row, seed, fold, settings)
    (result,) = score_neighbours(config, row.knn) if row.knn else finetune(config)
    scores, selection = rounded(result.scores), rounded(result.selection)
    names = config_scores(config)
    # Selection scores are of the chosen weights, on the fold that chose them.
    chosen = {} if row.knn else {f"selection_{name}": selection[name] for name in names}
    return {
        "row": row.name,
        "method": "",
        "seed": seed,
        "fold": fold,
        "epochs": 0 if row.knn else config.train.epochs,
        "records": len(result.predictions),
        **{name: scores[name] for name in names},
        **chosen,
        "seconds": round(time.monotonic() - began),
        "device": device_name(settings.device),
        **origin_of(row, seed, fold, settings),
        "revision": revision(),
    }


def config_scores(config: FinetuneConfig) -> list[str]:
    """Return the names under which the config's scores are printed."""
    metric = config.metric
    return list(parse_scores(metric.target_metrics, ABBREVIATIONS, metric.task or "multilabel"))


def gpu(device: str) -> str:
    """Return the ``--gpu`` of a script for a ``device`` of a config."""
    return "0" if device == "cuda" or device == "auto" and torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """Return what a row was computed on."""
    return torch.cuda.get_device_name() if gpu(device) != "cpu" else "CPU"


# ============ several at a time ============
def computed(
    tasks: list[Task], deadline: float | None, pool: ProcessPoolExecutor | None
) -> Iterator[dict | None]:
    """Yield results as they come; None of a task that was not begun before the deadline."""
    if pool is None:
        yield from (timely(deadline, task) for task in tasks)
    else:
        futures = [pool.submit(timely, deadline, task) for task in tasks]
        yield from (future.result() for future in as_completed(futures))


def timely(deadline: float | None, task: Task) -> dict | None:
    """Return what a task returns, or None after the deadline (as of time.time())."""
    return task() if deadline is None or time.time() < deadline else None


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """Make processes that share this one's cores; what they say is in the logs of their runs."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=quieten,
        initargs=(max(torch.get_num_threads() // jobs, 1),),
    )


def quieten(threads: int) -> None:
    """Start a worker process, which prints nothing."""
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # until the process ends


# ============ thresholds ============
def search_thresholds(table: Table, rows: Iterable[Row], settings: Settings) -> None:
    """Add to the CSV what the table's methods make of each row whose folds have all been trained.

    Once for all folds that share an encoder, or have none, as pooled methods join them.
    """
    for row in rows if table.methods else ():
        for seed in table.seeds:
            results = read_results(table)
            trained = current_rows(results, row, "", settings, seed)
            searched = current_rows(results, row, table.methods[0], settings, seed)
            if len(trained) == len(row.folds) != len(searched):
                add_results(table, thresholds_of(table, row, seed, settings, trained))


def thresholds_of(
    table: Table, row: Row, seed: int, settings: Settings, trained: pd.DataFrame
) -> list[dict]:
    """Return the CSV's rows of a row's thresholds; ``trained``: those of its trainings."""
    rows: list[dict] = []
    places = trained["fold"].map(lambda fold: place(table, row, seed, fold, settings))
    groups = list(trained.groupby(places, sort=False))
    for method, (folder, together) in itertools.product(table.methods, groups):
        folds = [str(fold) for fold in together["fold"]]
        began = time.monotonic()
        with quietly():
            device = one_device(gpu(settings.device))
            scores = search_folder(folder, method, device, folds=list(together["fold"]))
        scores = scores.astype({"weights of fold": str})
        test, selection = (
            scores[scores["part"] == part]
            .set_index("weights of fold")
            .loc[folds, table.score]
            .astype(float)
            for part in ("test", "search")
        )
        changed = together.assign(
            method=method,
            seconds=round((time.monotonic() - began) / len(folds)),
            revision=revision(),
            **{table.score: test.array, f"selection_{table.score}": selection.array},
        )
        rows += changed.to_dict("records")
    return rows
