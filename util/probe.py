"""A linear probe of frozen features: how much an encoder knows, without fine-tuning it."""
import numpy as np
import torch

from util import distributed
from util.dataset import to_device
from util.precision import autocast
from util.scores import auroc, macro


@torch.no_grad()
def features(encoder, loader, pipeline, rows, device, amp=None) -> np.ndarray:
    """Mean feature vector of each record over its crops, float64 (records, width), in the order of ``rows``."""
    training = encoder.training
    encoder.eval()
    place = {int(row): i for i, row in enumerate(rows)}
    sums = torch.zeros(len(rows), encoder.width + 1, dtype=torch.float64)
    for batch in loader:
        batch = to_device(batch, device)
        with autocast(device, amp):
            vectors = encoder.forward_features(pipeline(batch["signal"]))
        vectors = torch.cat([vectors.double(), vectors.new_ones(len(vectors), 1, dtype=torch.float64)], dim=1).cpu()
        sums.index_add_(0, torch.tensor([place[int(r)] for r in batch["record"]]), vectors)
    encoder.train(training)
    sums = distributed.total(sums).numpy()
    return sums[:, :-1] / sums[:, -1:]


def linear_probe(train_x, train_y, valid_x, valid_y, ridge=1e-2) -> float:
    """Macro AUROC on the selection records of a ridge regression fitted on the training records.

    Args:
        train_x, valid_x: (records, width) features; train_y, valid_y: (records, classes) of 0 and 1.
        ridge: penalty as a share of the mean feature variance times the number of records.

    Least squares on 0/1 labels is a linear discriminant; it has a closed form, so the probe adds no randomness.
    """
    mean, std = train_x.mean(axis=0), train_x.std(axis=0) + 1e-9
    a, b = (train_x - mean) / std, (valid_x - mean) / std
    gram = a.T @ a + ridge * len(a) * np.eye(a.shape[1])
    weights = np.linalg.solve(gram, a.T @ (train_y - train_y.mean(axis=0)))
    return macro(auroc(valid_y > 0.5, b @ weights))
