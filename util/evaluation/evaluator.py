"""Predictions and scores of the records of a fold, gathered from all processes."""

import math
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from util.console import progress_bar
from util.contract.encoder import Encoder
from util.data.dataset import CropDataset
from util.data.strata import patient_numbers
from util.errors import ConfigError
from util.evaluation.inference import predict, record_loader
from util.jobs.job import Fold, SupervisedTask
from util.scoring.predictions import Predictions
from util.scoring.scores import compute_scores
from util.training.engine import Training
from util.training.optimizer import resolve_amp


class Evaluator:
    """Predictions and scores of the selection ("valid") and the test records of a fold.

    Args:
        fold: whose records.
        device: where the classifier is.

    Attributes:
        selected: the predictions that ``select`` scored last.
    """

    def __init__(self, fold: Fold, device: torch.device):
        self.fold, self.job, self.device = fold, fold.job, device
        self.selected: Predictions | None = None
        config = self.job.config
        self.amp = resolve_amp(config.train.amp, device)
        self.pipeline = self.job.eval_pipeline.to(device)
        self.dataset = CropDataset(self.job.store, self.job.leads, self.job.eval_cropping.length)
        self.loaders = {
            part: self.loader_of(
                fold.parts[part],
                num_workers=min(config.dataloader.num_workers, 2),
                pin_memory=config.dataloader.pin_memory,
            )
            for part in ("valid", "test")
        }

    def loader_of(self, rows: np.ndarray, **options: Any) -> torch.utils.data.DataLoader:
        """Return a loader of the evaluation crops of these records, in batches as large as in
        training.
        """
        config = self.job.config
        batch_size = config.dataloader.batch_size * config.dataset.crops_per_record
        return record_loader(self.dataset, rows, self.job.eval_cropping, batch_size, **options)

    def predict(self, classifier: Encoder, part: str) -> Predictions:
        """Return a classifier's predictions of a part's records, the same on every process."""
        job, fold = self.job, self.fold
        loader = progress_bar(
            self.loaders[part],
            desc=part,
            unit="batch",
            leave=False,
        )
        outputs, logits, gate = predict(
            classifier,
            loader,
            self.pipeline,
            fold.parts[part],
            classes=len(job.classes),
            loss=job.loss,
            device=self.device,
            amp=self.amp,
        )
        return self.predictions(part, fold.criterion.to_units(outputs), logits, gate)

    def predictions(
        self,
        part: str,
        outputs: np.ndarray,
        logits: np.ndarray,
        gate: np.ndarray | None = None,
    ) -> Predictions:
        """Return these outputs, joined with the names, labels and patients of a part's records."""
        job, fold = self.job, self.fold
        records = job.store.records.iloc[fold.parts[part]]
        return Predictions(
            records=records["record"].to_numpy(),
            databases=records["database"].to_numpy(),
            labels=fold.labels_of(part),
            outputs=outputs,
            logits=logits,
            patients=patient_numbers(fold.patients_of(part)),
            classes=job.classes,
            task=job.task,
            gate=gate,
            fold=fold.number,
            seed=job.config.seed,
        )

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Return "loss", the criterion of the records' mean logits, and the job's scores."""
        labels = predictions.labels
        target = torch.from_numpy(labels if labels.ndim == 1 else labels.astype(float))
        loss = self.fold.criterion.of_known(torch.from_numpy(predictions.logits), target)
        values = compute_scores(predictions.outputs, labels, self.job.scores, self.job.task)
        return {"loss": loss, **values}

    def check_target(self) -> None:
        """Check that weights can be selected by test.target_metric.

        Raises:
            ConfigError: it is not defined on the selection records, whatever a model predicts.
        """
        records, target = len(self.fold.parts["valid"]), self.job.config.test.target_metric
        made_up = np.random.default_rng(0).random((records, len(self.job.classes)))
        values = self.scores(self.predictions("valid", made_up, made_up))
        if math.isnan(values[target]):
            defined = [name for name, value in values.items() if not math.isnan(value)]
            raise ConfigError(
                f"test.target_metric: {target} is not defined on the {records} selection records "
                f"({self.fold.title}): their labels lack what it needs, such as a positive record; "
                f"choose {', '.join(defined) or 'another fold'}"
            )

    def select(self, training: Training) -> dict[str, float]:
        """Score the selection records; where there is a gate, log its weights."""
        task = cast(SupervisedTask, training.model)
        predictions = self.predict(task.classifier, "valid")
        if predictions.gate is not None:
            table = gate_table(predictions)
            means = {
                f"gate_signal/{name}": mean for name, mean in zip(table["class"], table["signal"])
            }
            training.log.histogram("gate/signal", predictions.gate[:, 0], training.epoch)
            training.log.scalars(means, training.epoch)
        self.selected = predictions
        return self.scores(predictions)


def gate_table(predictions: Predictions) -> pd.DataFrame:
    """Return the gate's mean weights: a row for all records and one for each class that occurs.

    Columns: class, records (how many), signal, spectrogram (mean weights of the branches).
    """
    labels, gate = predictions.labels, predictions.gate
    assert gate is not None, "predictions of a model with a gate"
    members = [np.ones(len(gate), np.bool_)]
    if predictions.task == "multiclass":
        members += [labels == c for c in range(len(predictions.classes))]
    elif predictions.task == "multilabel":
        members += list((labels > 0).T)  # an unknown label, NaN, counts as no
    rows = []
    for name, chosen in zip(("all", *predictions.classes), members):
        if chosen.any():
            means = {"signal": gate[chosen, 0].mean(), "spectrogram": gate[chosen, 1].mean()}
            rows.append({"class": name, "records": int(chosen.sum()), **means})
    return pd.DataFrame(rows)
