"""What a fold leaves behind: best weights, scores and predictions of its test."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from util.console import print_once
from util.data.strata import patient_numbers
from util.evaluation.evaluator import Evaluator
from util.processes import collectives
from util.scoring.intervals import Predicted, estimate
from util.scoring.scores import compute_scores, lower_is_better
from util.training import checkpoint
from util.training.transfer import save_encoder

PUBLISHED_BEST = {"AUROC": "ROC", "AUPRC": "PRC"}  # fold0_bestROC.pth, as published


@dataclass(frozen=True)
class FoldFiles:
    """Where the files of one fold go: into ``folder``; if ``published``, weights go beside it."""

    folder: Path
    published: bool = False

    def best(self, metric: str) -> Path:
        """The best weights by this metric."""
        if self.published and metric in PUBLISHED_BEST:
            return self.folder.with_name(f"{self.folder.name}_best{PUBLISHED_BEST[metric]}.pth")
        return self.folder / f"best-{metric}.pth"


def save_best(training, values: dict[str, float], files: FoldFiles) -> None:
    """Write the weights for every metric that improved (strictly).  NaN, a metric that is not
    defined on these records, is the worst value; the first epoch is always written.
    """
    for name, value in values.items():
        better = -math.inf if math.isnan(value) else -value if lower_is_better(name) else value
        if name in training.best and better <= training.best[name]:
            continue
        training.best[name] = better
        if collectives.is_main():
            weights = training.model.classifier.state_dict()
            store = training.dataset.store.meta["records_crc32"]  # whose folds these are
            checkpoint.save(
                checkpoint.content(
                    weights,
                    training.config,
                    training.epoch - 1,
                    metrics=values,
                    store=store,
                    labels=training.model.criterion.about,
                ),
                files.best(name),
            )


def report_test(evaluator: Evaluator, training, files: FoldFiles) -> dict[str, float]:
    """Score the selected checkpoint on the test records; write test_metrics.csv,
    test_predictions.csv, encoder.pth and, where there is a gate, test_gate.csv.  Returns the
    scores.
    """
    collectives.barrier()
    classifier = training.model.classifier
    chosen = files.best(evaluator.records.config["test"]["target_metric"])
    best = collectives.on_main(lambda: checkpoint.load(chosen))
    classifier.load_state_dict(best["model"])
    probabilities, logits, gate = evaluator.predict(classifier, "test")
    values = evaluator.scores("test", probabilities, logits)
    print_once(
        f"test ({chosen.name} of epoch {best['epoch'] + 1}, {len(probabilities)} records): "
        + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    )
    collectives.on_main(
        lambda: _write_test(evaluator, training, files, best["epoch"], values, probabilities, gate)
    )
    return values


def write_scores(evaluator: Evaluator, folder, values: dict, probabilities) -> None:
    """test_metrics.csv, with intervals where test.bootstrap asks for them, and
    test_predictions.csv.
    """
    table = {
        "records": len(probabilities),
        **{name: round(value, 4) for name, value in values.items()},
        **intervals(evaluator, probabilities),
        **by_column(evaluator, probabilities),
    }
    pd.DataFrame([table]).to_csv(folder / "test_metrics.csv", index=False)
    write_predictions(
        evaluator.records, evaluator.parts["test"], probabilities, folder / "test_predictions.csv"
    )


def _write_test(evaluator, training, files, epoch, values, probabilities, gate):
    records = evaluator.records
    write_scores(evaluator, files.folder, values, probabilities)
    if gate is not None:
        gates = evaluator.gates("test", gate)
        gates.to_csv(files.folder / "test_gate.csv", index=False, float_format="%.4f")
        print_once(
            f"gate: mean weight of the signal branch {gates['signal'][0]:.3f}, by class in "
            "test_gate.csv"
        )
    save_encoder(
        training.model.classifier,
        files.folder / "encoder.pth",
        epoch=epoch,
        config=training.config,
        leads=records.leads,
    )


def intervals(evaluator: Evaluator, probabilities) -> dict[str, float]:
    """<metric>_low and <metric>_high of the test records by test.bootstrap resamples; nothing
    without any.
    """
    records, found = evaluator.records, {}
    n, rows = records.config["test"]["bootstrap"], evaluator.parts["test"]
    test = Predicted(
        evaluator.labels["test"], probabilities, patient_numbers(records.splits.patients[rows])
    )
    for name, score in records.scores.items() if n else ():
        interval = estimate(name, score, [test], records.task, n=n, seed=records.config["seed"])
        found |= {f"{name}_low": round(interval.low, 4), f"{name}_high": round(interval.high, 4)}
        print_once(f"{name}: 95 % interval {interval.low:.4f} to {interval.high:.4f}")
    return found


def by_column(evaluator: Evaluator, predictions) -> dict[str, float]:
    """<score>_<column> of the test records where a regression has several columns, whose units
    may differ.
    """
    records, found = evaluator.records, {}
    columns = records.classes if records.task == "regression" and len(records.classes) > 1 else ()
    for c, column in enumerate(columns):
        one = slice(c, c + 1)
        values = compute_scores(
            predictions[:, one], evaluator.labels["test"][:, one], records.scores, records.task
        )
        found |= {f"{name}_{column}": round(value, 4) for name, value in values.items()}
        print_once(
            f"{column}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        )
    return found


def write_predictions(records, rows, probabilities, path) -> None:
    """One row a record: its name, true labels, empty where unknown, and probability for each
    class; in regression its prediction for each column.
    """
    table, labels = records.store.records.iloc[rows], records.labels[rows]
    if records.task == "multiclass":
        labels = np.eye(len(records.classes))[labels]
    numbers = records.task == "regression"
    kind, found = ("Float64", "prediction") if numbers else ("Int64", "probability")
    columns = {
        "record": table["record"].to_numpy(),
        "database": table["database"].to_numpy(),
        **{f"label_{name}": pd.array(labels[:, c], kind) for c, name in enumerate(records.classes)},
        **{f"{found}_{name}": probabilities[:, c] for c, name in enumerate(records.classes)},
    }
    pd.DataFrame(columns).to_csv(path, index=False, float_format="%.6g")


def write_summary(results: list[dict], path: Path) -> None:
    """Scores of all folds, their mean and their standard deviation, as CSV and for people."""
    table = pd.DataFrame(results).set_index("fold")
    summary = pd.concat([table, table.agg(["mean", "std"])])
    summary.index.name = "fold"
    summary.round(4).to_csv(path)
    print_once(summary.round(4).to_string())
