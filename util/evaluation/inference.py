"""Predictions of whole records: means over their crops, gathered from all processes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from util.contract.encoder import Encoder
from util.data.dataset import CropDataset, EvaluationBatches, make_loader, to_device
from util.processes import collectives
from util.scoring.criterion import ACTIVATIONS
from util.signals.crops import Cropping
from util.training.optimizer import autocast

Transform = Callable[[torch.Tensor], torch.Tensor]


def record_loader(
    dataset: CropDataset, rows: np.ndarray, cropping: Cropping, batch_size: int, **options: Any
) -> DataLoader:
    """Return a loader of the crops of ``rows``, dealt out to all processes.

    Args:
        dataset: reads them.
        rows: of the store.
        cropping: which windows of each.
        batch_size: crops a batch.
        options: of ``make_loader``.
    """
    batches = EvaluationBatches(
        rows,
        dataset.samples[rows],
        cropping,
        batch_size=batch_size,
        rank=collectives.rank(),
        world=collectives.world(),
    )
    return make_loader(dataset, batches, **options)


@torch.no_grad()
def record_means(
    model: torch.nn.Module,
    loader: DataLoader,
    pipeline: Transform,
    rows: np.ndarray,
    device: torch.device,
    *,
    vectors: Transform,
    width: int,
) -> np.ndarray:
    """Return means over the crops of each record, gathered from all processes: float64 (records,
    width).

    Args:
        model: what ``vectors`` computes with, in evaluation mode meanwhile.
        loader: ``record_loader`` of ``rows``.
        pipeline: what is done to the crops.
        rows: of the store, each once; the results' order.
        device: where it is computed.
        vectors: signals on the device (crops, leads, samples) -> (crops, width).
        width: of the vectors.
    """
    # The crops of a record may be in several batches and on several processes.  So sum the vectors
    # of its crops, with a 1 added to each to count them.
    place = torch.full((int(max(rows)) + 1,), -1, dtype=torch.int64)
    place[torch.as_tensor(np.asarray(rows))] = torch.arange(len(rows))
    place = place.to(device)
    sums = torch.zeros(len(rows), width + 1, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        for batch in loader:
            batch = to_device(batch, device)
            values = vectors(pipeline(batch["signal"])).double()
            counted = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
            sums.index_add_(0, place[batch["record"]], counted)
    finally:
        model.train(training)
    totals = collectives.total(sums).cpu().numpy()
    return totals[:, :-1] / totals[:, -1:]


def predict(
    classifier: Encoder,
    loader: DataLoader,
    pipeline: Transform,
    rows: np.ndarray,
    classes: int,
    loss: str,
    device: torch.device,
    amp: torch.dtype | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the outputs for every record, means over its crops; see ``record_means``.

    Args:
        classifier: an encoder with a head.
        loader: ``record_loader`` of ``rows``.
        pipeline: what is done to the crops.
        rows: of the store.
        classes: how many outputs there are.
        loss: a key of ``ACTIVATIONS``.
        device: where it is computed.
        amp: the type to compute in; None: float32.

    Returns:
        probabilities: float64 (records, classes), mean of the activated outputs (in regression
            standardised);
        logits: float64 (records, classes), mean of the raw outputs;
        gate: float64 (records, 2) mean gate, or None for a classifier without one.
    """
    gated = classifier.gated

    def vectors(signal: torch.Tensor) -> torch.Tensor:
        with autocast(device, amp):
            out = classifier.outputs(signal)
        logits = out["logits"].float()
        gate = [out["gate"].float()] if gated else []
        return torch.cat([ACTIVATIONS[loss](logits), logits, *gate], dim=1)

    width = 2 * classes + 2 * gated
    means = record_means(classifier, loader, pipeline, rows, device, vectors=vectors, width=width)
    outputs, logits, gate = np.split(means, [classes, 2 * classes], axis=1)
    return outputs, logits, gate if gated else None
