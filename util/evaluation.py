"""Evaluation of a classifier on a fold: predictions gathered from all processes, scores, tables
of a test.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from util import checkpoint, distributed
from util.criterion import ACTIVATIONS
from util.dataset import CropDataset, EvaluationBatches, make_loader, to_device
from util.intervals import Predicted, estimate
from util.optim import autocast, resolve_amp
from util.run_log import print_once
from util.scores import compute_scores, lower_is_better
from util.subsets import patient_numbers
from util.transfer import save_encoder

PUBLISHED_BEST = {"AUROC": "ROC", "AUPRC": "PRC"}  # fold0_bestROC.pth, as published


# ============ where the files of a fold go ============
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
        if distributed.is_main():
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


# ============ predictions and scores ============
def record_loader(dataset, rows, cropping, batch_size: int, **options):
    """A loader of the crops of ``rows``, dealt out to all processes."""
    batches = EvaluationBatches(
        rows,
        dataset.samples[rows],
        cropping,
        batch_size=batch_size,
        rank=distributed.rank(),
        world=distributed.world(),
    )
    return make_loader(dataset, batches, **options)


@torch.no_grad()
def record_means(model, loader, pipeline, rows, device, vectors, width: int) -> np.ndarray:
    """Means over the crops of each record, gathered from all processes: float64 (records, width).

    Args:
        model: what ``vectors`` computes with, in evaluation mode meanwhile.
        loader: ``record_loader`` of ``rows``.
        rows: rows of the store, each once; the results' order.
        vectors: device signals (crops, leads, samples) -> (crops, width).
    """
    place = torch.full((int(max(rows)) + 1,), -1, dtype=torch.int64)
    place[torch.as_tensor(np.asarray(rows))] = torch.arange(len(rows))
    place = place.to(device)
    sums = torch.zeros(len(rows), width + 1, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        for batch in loader:
            batch = to_device(batch, device)
            found = vectors(pipeline(batch["signal"])).double()
            counted = torch.cat([found, torch.ones_like(found[:, :1])], dim=1)
            sums.index_add_(0, place[batch["record"]], counted)
    finally:
        model.train(training)
    sums = distributed.total(sums).cpu().numpy()
    return sums[:, :-1] / sums[:, -1:]


def predict(classifier, loader, pipeline, rows, classes: int, loss: str, device, amp=None):
    """Outputs of every record, means over its crops; see ``record_means``.

    Returns:
        probabilities: float64 (records, classes), mean of the activated outputs (in regression
            standardised);
        logits: float64 (records, classes), mean of the raw outputs;
        gate: float64 (records, 2) mean gate, or None for a classifier without one.
    """
    gated = "gate" in classifier.heads

    def vectors(signal):
        with autocast(device, amp):
            out = classifier.outputs(signal)
        logits = out["logits"].float()
        gate = [out["gate"].float()] if gated else []
        return torch.cat([ACTIVATIONS[loss](logits), logits, *gate], dim=1)

    means = record_means(
        classifier, loader, pipeline, rows, device, vectors, 2 * classes + 2 * gated
    )
    return (
        means[:, :classes],
        means[:, classes : 2 * classes],
        means[:, 2 * classes :] if gated else None,
    )


class Evaluator:
    """Predictions and scores of the selection ("valid") and the test records of one fold, out of
    ``LabelledRecords`` and rows by name (``util.splits.split_rows``)."""

    def __init__(self, records, parts, device):
        self.records, self.parts, self.device = records, parts, device
        self.labels = {name: records.labels[rows] for name, rows in parts.items()}
        self.criterion = records.criterion(parts["train"])
        config = records.config
        self.amp = resolve_amp(config["train"]["amp"], device)
        self.pipeline = records.eval_pipeline.to(device)
        dataset = CropDataset(records.store, records.leads, records.eval_cropping.length)
        options = config["dataloader"]
        # As many crops at a time as in training.
        batch_size = options["batch_size"] * config["dataset"]["crops_per_record"]
        self.loaders = {
            name: record_loader(
                dataset,
                parts[name],
                records.eval_cropping,
                batch_size,
                num_workers=min(options["num_workers"], 2),
                pin_memory=options["pin_memory"],
            )
            for name in ("valid", "test")
        }

    def predict(self, classifier, part):
        """(probabilities, logits, gate) of a part's records, see ``predict``; in regression the
        first are predictions in the labels' own units.
        """
        loader = tqdm(
            self.loaders[part],
            desc=part,
            unit="batch",
            disable=not distributed.is_main(),
            leave=False,
            dynamic_ncols=True,
            mininterval=0.5,
        )
        found, logits, gate = predict(
            classifier,
            loader,
            self.pipeline,
            self.parts[part],
            len(self.records.classes),
            self.records.loss,
            self.device,
            self.amp,
        )
        return self.criterion.to_units(found), logits, gate

    def scores(self, part, probabilities, logits) -> dict[str, float]:
        """The criterion and metrics of a part's predictions."""
        labels = self.labels[part]
        target = torch.from_numpy(labels if labels.ndim == 1 else labels.astype(float))
        return {
            "loss": self.criterion.of_known(
                torch.from_numpy(logits), target
            ),  # of the records' mean logits
            **compute_scores(probabilities, labels, self.records.scores, self.records.task),
        }

    def select(self, training) -> dict[str, float]:
        """Scores of the selection records; the gate's mean is logged where there is one."""
        probabilities, logits, gate = self.predict(training.model.classifier, "valid")
        if gate is not None:
            table = self.gates("valid", gate)
            means = {
                f"gate_signal/{name}": mean for name, mean in zip(table["class"], table["signal"])
            }
            training.log.histogram("gate/signal", gate[:, 0], training.epoch)
            training.log.scalars(means, training.epoch)
        return self.scores("valid", probabilities, logits)

    def gates(self, part, gate) -> pd.DataFrame:
        """``gate_table`` of a part; of all records alone where there are no classes."""
        if self.records.task == "regression":
            return gate_table(gate, self.labels[part][:, :0], ())
        return gate_table(gate, self.labels[part], self.records.classes)


# ============ the test ============
def report_test(evaluator: Evaluator, training, files: FoldFiles) -> dict[str, float]:
    """Score the selected checkpoint on the test records; write test_metrics.csv,
    test_predictions.csv, encoder.pth and, where there is a gate, test_gate.csv.  Returns the
    scores.
    """
    distributed.barrier()
    classifier = training.model.classifier
    chosen = files.best(evaluator.records.config["test"]["target_metric"])
    best = distributed.on_main(lambda: checkpoint.load(chosen))
    classifier.load_state_dict(best["model"])
    probabilities, logits, gate = evaluator.predict(classifier, "test")
    values = evaluator.scores("test", probabilities, logits)
    print_once(
        f"test ({chosen.name} of epoch {best['epoch'] + 1}, {len(probabilities)} records): "
        + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    )
    distributed.on_main(
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


def gate_table(gate, labels, classes) -> pd.DataFrame:
    """Mean weight of each branch over the records of each class that occurs, and over all
    records, in columns class, records, signal, spectrogram.

    Args:
        gate: (records, 2), signal's weight first.
        labels: (records, classes) of 0, 1 and NaN, which makes no member, or (records,) class
            numbers.
    """
    members = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(len(classes))
    rows = [("all", np.ones(len(gate), bool)), *zip(classes, members.T)]
    return pd.DataFrame(
        [
            {
                "class": name,
                "records": int(mine.sum()),
                "signal": gate[mine, 0].mean(),
                "spectrogram": gate[mine, 1].mean(),
            }
            for name, mine in rows
            if mine.any()
        ]
    )


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
