"""Evaluation of a classifier on a fold: predictions gathered from all processes, scores, tables
of a test.
"""

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from util.data.dataset import CropDataset
from util.evaluation.inference import predict, record_loader
from util.processes import collectives
from util.scoring.scores import compute_scores
from util.training.optimizer import resolve_amp

# ============ where the files of a fold go ============


# ============ predictions and scores ============


class Evaluator:
    """Predictions and scores of the selection ("valid") and the test records of one fold, out of
    ``LabelledRecords`` and rows by name (``util.data.splits.split_rows``)."""

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
            disable=not collectives.is_main(),
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
