"""Trained classifiers that answer together: the mean of their probabilities."""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch

from util.data.dataset import CropDataset, EvaluationBatches, make_loader
from util.data.store import RecordStore
from util.errors import CheckpointError
from util.evaluation.inference import predict
from util.evaluation.trained import Trained, load_trained
from util.leads import parse_leads
from util.predicting.recordings import Entry, MemoryStore
from util.training.optimizer import resolve_amp


def load_ensemble(weights: Iterable[str]) -> list[Trained]:
    """Load trained classifiers; a CheckpointError where they do not predict the same classes."""
    ensemble = [load_trained(path) for path in weights]
    for trained in ensemble[1:]:
        if (trained.codes, trained.task) != (ensemble[0].codes, ensemble[0].task):
            raise CheckpointError(
                f"{trained.path} predicts other classes than {ensemble[0].path}; an ensemble "
                "needs the same"
            )
    return ensemble


def probabilities_of(
    entries: Sequence[Entry], ensemble: Sequence[Trained], device: torch.device
) -> np.ndarray:
    """Return the ensemble's mean probabilities, or a regression's predictions: float64 (records,
    classes).
    """
    rows, answers = np.arange(len(entries)), []
    for trained in ensemble:
        config, data = trained.config, trained.config.dataset
        store = cast(RecordStore, MemoryStore(entries, data.fs))
        dataset = CropDataset(store, parse_leads(data.lead), trained.cropping.length)
        batches = EvaluationBatches(
            rows,
            dataset.samples,
            trained.cropping,
            batch_size=config.dataloader.batch_size * data.crops_per_record,
        )
        outputs, _, _ = predict(
            trained.classifier,
            make_loader(dataset, batches),
            trained.pipeline,
            rows,
            classes=len(trained.classes),
            loss=trained.criterion.loss,
            device=device,
            amp=resolve_amp(config.train.amp, device),
        )
        answers.append(trained.criterion.to_units(outputs))
    return sum(answers, np.zeros_like(answers[0])) / len(ensemble)


def leads_of(ensemble: Iterable[Trained]) -> tuple[str, ...]:
    """Return the leads that a recording must have for all weights."""
    leads = [lead for trained in ensemble for lead in parse_leads(trained.config.dataset.lead)]
    return tuple(dict.fromkeys(leads))


def longest_crop(ensemble: Iterable[Trained]) -> float:
    """Return the seconds of the longest crop of the weights."""
    return max(trained.cropping.length / trained.config.dataset.fs for trained in ensemble)


def rates_of(ensemble: Iterable[Trained]) -> list[int]:
    """Return the sampling rates of the weights in Hz."""
    return sorted({trained.config.dataset.fs for trained in ensemble})
