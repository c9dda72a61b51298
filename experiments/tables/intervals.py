"""Intervals of a table's scores and differences: results/<table>.intervals.csv."""

import numpy as np
import pandas as pd

from experiments.tables.definition import Row, Table
from experiments.tables.results import current_rows, path_of, read_results
from experiments.tables.trainings import Settings, place
from util.challenge import ABBREVIATIONS
from util.errors import ConfigError
from util.files import write_frame
from util.scoring.intervals import Predicted, estimate
from util.scoring.predictions import Predictions
from util.scoring.scores import parse_scores
from util.scoring.thresholds import load_thresholds

ROUNDING = 5e-4  # of scores in CSV files, which have 4 digits
COMPARED = ("difference", "difference_low", "difference_high", "p")


def tested(table: Table, row: Row, method: str, settings: Settings) -> list[Predicted] | None:
    """Return the predictions of a row on all its folds, by all seeds; None where a file of them
    is gone.

    Those of a method are of the weights that it was searched for, which are not always those
    that the training tested.
    """
    tests = []
    for seed in table.seeds:
        for fold in row.folds:
            folder = place(table, row, seed, fold, settings)
            searched = folder / "predictions" / f"best-AUPRC_fold{fold}.npz"
            path = searched if method else folder / f"fold{fold}" / "test_predictions.npz"
            if not path.is_file():
                return None
            with np.load(path, allow_pickle=False) as file:
                predictions = Predictions.from_arrays(dict(file), "test" if method else "")
            outputs = predictions.outputs
            if method:
                chosen = folder / f"thresholds_PRC_{method}" / f"thresholds_fold{fold}.json"
                outputs = load_thresholds(chosen).decide(outputs).astype(float)
            labels = predictions.labels.astype(float)
            tests.append(Predicted(labels, outputs, predictions.patients, fold, seed))
    return tests


def write_intervals(table: Table, settings: Settings) -> None:
    """Write the interval of every complete row's score, and of its difference to the row with
    which it is compared, on the folds of both; with methods, to the first of its own.

    Raises:
        ConfigError: predictions are not those of the CSV's scores.
    """
    name, results = table.score, read_results(table)
    score = parse_scores([name], ABBREVIATIONS)[name]
    rows: list[dict] = []
    first: dict[str, list[Predicted]] = {}  # of each row, by the first method
    for row in table.rows:
        for method in table.methods or [""]:
            runs = current_rows(results, row, method, settings)
            complete = len(runs) == len(row.folds) * len(table.seeds)
            tests = tested(table, row, method, settings) if complete else None
            if tests is None:
                continue
            alone = estimate(name, score, tests, "multilabel")
            mean = runs[name].astype(float).mean()
            if abs(alone.value - mean) > ROUNDING:
                folder = place(table, row, table.seeds[0], row.folds[0], settings)
                raise ConfigError(
                    f"{folder}: its predictions give {name} "
                    f"{alone.value:.4f}, but results/{table.runs}.csv says {mean:.4f} of "
                    f"{row.name} {method}; take the row out of the CSV, or name the --output_dir "
                    "that it is of"
                )
            others = first.get(row.name if table.methods else row.against, [])
            both = set(row.folds) & {other.fold for other in others}
            cells: dict[str, str | float] = {"row": row.name, "method": method, "against": ""}
            cells |= {"value": alone.value, "low": alone.low, "high": alone.high}
            if both:
                shared, references = (
                    [one for one in side if one.fold in both] for side in (tests, others)
                )
                gap = estimate(name, score, shared, "multilabel", references)
                cells["against"] = table.methods[0] if table.methods else row.against
                cells |= dict(zip(COMPARED, (gap.value, gap.low, gap.high, gap.p), strict=True))
            first.setdefault(row.name, tests)
            rows.append(cells)
    if rows:
        path = path_of(table.name, "intervals.csv")
        write_frame(path, pd.DataFrame(rows), float_format="%.6g", na_rep="nan")
