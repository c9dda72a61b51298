"""Supervised jobs as the engine sees them: a classifier with its criterion, and its evaluation on a fold."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from util import distributed
from util.dataset import to_device
from util.precision import autocast

LOSSES = {"bce": F.binary_cross_entropy_with_logits, "cross_entropy": F.cross_entropy}
ACTIVATIONS = {"bce": torch.sigmoid, "cross_entropy": lambda logits: logits.softmax(dim=-1)}


class SupervisedTask(nn.Module):
    """``forward(batch) -> {"loss", ...}`` around a classifier.

    Args:
        classifier: (batch, leads, time) -> logits; one with ``returns_all`` may add "gate" and "extra_logits",
            whose losses are summed.
        loss: key of ``LOSSES``.
        mode: linprobe trains the head alone and keeps the rest in evaluation mode; else everything learns.
            A fusion's gate and its further heads, which no pre-training knows either, go with the head.
    """

    def __init__(self, classifier, loss="bce", mode="scratch"):
        super().__init__()
        self.classifier, self.criterion = classifier, LOSSES[loss]
        self.frozen = False
        self.learning = [p for p in classifier.parameters() if p.requires_grad]
        self.heads = [part for part in (getattr(classifier, name, None) for name in ("head", "gate", "extra_heads"))
                      if part is not None]
        if mode == "linprobe":
            self.freeze(True)

    def freeze(self, frozen: bool) -> bool:
        """Train the head alone (True) or everything (False); returns whether this changed anything."""
        if frozen == self.frozen:
            return False
        self.frozen = frozen
        for parameter in self.learning:
            parameter.requires_grad_(not frozen)
        for head in self.heads:
            head.requires_grad_(True)
        return True

    def train(self, mode=True):
        super().train(mode)
        if mode and self.frozen:
            self.classifier.eval()  # a frozen BatchNorm keeps its statistics
            for head in self.heads:
                head.train()
        return self

    def after_step(self, progress: float) -> None:
        """Nothing follows a step here."""

    def fit_statistics(self, batches):
        """Standardisation of a classifier that wants it; else nothing is read."""
        if hasattr(self.classifier, "fit_statistics"):
            self.classifier.fit_statistics(batches)

    def forward(self, batch):
        signal, label = batch["signal"], batch["label"]
        if not getattr(self.classifier, "returns_all", False):
            return {"loss": self.criterion(self.classifier(signal).float(), label)}
        out = self.classifier(signal, return_all=True)
        loss = self.criterion(out["logits"].float(), label)
        for logits in out.get("extra_logits", []):
            loss = loss + self.criterion(logits.float(), label)
        if "gate" not in out:
            return {"loss": loss}
        return {"loss": loss, "gate_signal": out["gate"][:, 0].float().mean()}


@torch.no_grad()
def predict(classifier, loader, pipeline, rows, classes: int, loss: str, device, amp=None, bar=None):
    """Outputs of every record, averaged over its crops and gathered from all processes.

    Args:
        loader: over EvaluationBatches of ``rows``.
        rows: rows of the store, each once; the results' order.

    Returns:
        probabilities: float64 (records, classes), mean of the activated outputs of a record's crops;
        logits: float64 (records, classes), mean of the raw outputs;
        gate: float64 (records, 2) mean gate, or None for a classifier without one.
    """
    classifier.eval()
    place = torch.full((int(max(rows)) + 1,), -1, dtype=torch.int64)
    place[torch.as_tensor(np.asarray(rows))] = torch.arange(len(rows))
    place = place.to(device)
    returns_all = getattr(classifier, "returns_all", False)
    sums = torch.zeros(len(rows), 2 * classes + 3, dtype=torch.float64, device=device)
    for batch in loader:
        batch = to_device(batch, device)
        signal = pipeline(batch["signal"])
        with autocast(device, amp):
            out = classifier(signal, return_all=True) if returns_all else {"logits": classifier(signal)}
        logits = out["logits"].float()
        gate = out["gate"].float() if "gate" in out else logits.new_zeros(len(logits), 2)
        row = torch.cat([ACTIVATIONS[loss](logits), logits, gate, torch.ones_like(gate[:, :1])], dim=1)
        sums.index_add_(0, place[batch["record"]], row.double())
        if bar is not None:
            bar.update()
    sums = distributed.total(sums).cpu().numpy()
    means = sums[:, :-1] / sums[:, -1:]
    gate = means[:, 2 * classes:] if returns_all and getattr(classifier, "gate", None) is not None else None
    return means[:, :classes], means[:, classes:2 * classes], gate


def mean_loss(logits: np.ndarray, labels: np.ndarray, loss: str) -> float:
    """The criterion of the records' mean logits."""
    return LOSSES[loss](torch.from_numpy(logits), torch.from_numpy(labels)
                        if loss == "cross_entropy" else torch.from_numpy(labels).double()).item()
