"""What a model says of whole records: means over their crops, gathered from all processes."""

import numpy as np
import torch

from util.data.dataset import EvaluationBatches, make_loader, to_device
from util.processes import collectives
from util.scoring.criterion import ACTIVATIONS
from util.training.optimizer import autocast


def record_loader(dataset, rows, cropping, batch_size: int, **options):
    """A loader of the crops of ``rows``, dealt out to all processes."""
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
    sums = collectives.total(sums).cpu().numpy()
    return sums[:, :-1] / sums[:, -1:]


def predict(classifier, loader, pipeline, rows, classes: int, loss: str, device, amp=None):
    """Outputs of every record, means over its crops; see ``record_means``.

    Returns:
        probabilities: float64 (records, classes), mean of the activated outputs (in regression
            standardised);
        logits: float64 (records, classes), mean of the raw outputs;
        gate: float64 (records, 2) mean gate, or None for a classifier without one.
    """
    gated = "gate" in classifier.fresh_parts

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
