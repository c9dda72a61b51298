"""The criterion of a supervised job: its loss, over known labels alone, and what its outputs
mean.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from util.console import note
from util.errors import ConfigError

LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": F.binary_cross_entropy_with_logits,
    "cross_entropy": F.cross_entropy,
    "l1": F.l1_loss,
    "mse": F.mse_loss,
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bce": torch.sigmoid,
    "cross_entropy": lambda logits: logits.softmax(dim=-1),
    "l1": lambda logits: logits,
    "mse": lambda logits: logits,
}
TASKS = {
    "bce": "multilabel",
    "cross_entropy": "multiclass",
    "mse": "regression",
    "l1": "regression",
}
DEFAULT_LOSS = {task: loss for loss, task in reversed(TASKS.items())}  # the first of each task


class Criterion(nn.Module):
    """Loss of a batch's outputs; a label that is NaN, unknown, takes no part.

    The sum over known labels is divided by how many a batch holds on average, a constant: what a
    batch's share happens to be must not matter, or the loss of several processes would not be
    that of one.  Regression is learned in standardised units, (label - mean) / std, and read in
    the labels' own.

    Args:
        loss: key of ``LOSSES``.
        classes: names of the outputs.
        share: of the training part's labels that are known.
        mean, std: of the training part's known labels, (classes,), in regression.
    """

    mean: torch.Tensor | None
    std: torch.Tensor | None

    def __init__(
        self,
        loss: str = "bce",
        classes: Sequence[str] = (),
        share: float = 1.0,
        mean: Sequence[float] | np.ndarray | None = None,
        std: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        super().__init__()
        # A plain number: NumPy's would be a tensor to torch.compile, and a break of its graph.
        self.loss, self.classes, self.share = loss, tuple(classes), float(share)
        for name, values in {"mean": mean, "std": std}.items():
            buffer = None if values is None else torch.as_tensor(values, dtype=torch.float32)
            self.register_buffer(name, buffer, persistent=False)  # it follows from the data

    @classmethod
    def fitted(cls, loss: str, classes: Sequence[str], values: np.ndarray) -> "Criterion":
        """Return the criterion of a training part.

        Args:
            values: its labels, see ``util.labels.tables.Labels``.

        Raises:
            ConfigError: a column of numbers from which nothing can be learned.
        """
        if values.ndim == 1:
            return cls(loss, classes)
        known = ~np.isnan(values)
        if TASKS[loss] != "regression":
            return cls(loss, classes, known.mean())
        mean, std = np.empty(values.shape[1]), np.zeros(values.shape[1])
        for c, rows in enumerate(known.T):
            if rows.any():
                mean[c] = values[rows, c].mean(dtype=float)
                std[c] = values[rows, c].std(dtype=float)
        constant = [name for name, spread in zip(classes, std) if not spread > 0]
        if constant:
            raise ConfigError(
                f"dataset.labels: {', '.join(constant)} has no two different known values in the "
                "training part; leave it out of dataset.labels.columns, or train on more records"
            )
        return cls(loss, classes, known.mean(), mean, std)

    @property
    def about(self) -> dict:
        """Return what weights carry of it, as arguments."""
        numbers = {
            name: None if value is None else value.tolist() for name, value in self.named_buffers()
        }
        return {"loss": self.loss, "classes": list(self.classes), **numbers}

    def describe(self) -> None:
        """Say by what the targets are standardised, if they are."""
        if self.mean is None or self.std is None:
            return
        targets = ", ".join(
            f"{name} {mean:.4g} +- {std:.4g}"
            for name, mean, std in zip(self.classes, self.mean.tolist(), self.std.tolist())
        )
        note(
            "targets are standardised by the training part's mean and standard deviation "
            f"({targets}); the loss is in these units, predictions and scores in the labels' own"
        )

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss to learn by, a scalar.

        Args:
            logits: outputs (batch, classes) in float32.
            label: as in a ``Batch``.
        """
        label = self._standardised(label)
        if self.share == 1:
            return LOSSES[self.loss](logits, label)
        return self._known(logits, label).mean() / self.share

    def of_known(self, logits: torch.Tensor, label: torch.Tensor) -> float:
        """Return the loss to report: the mean over the known labels, NaN without any."""
        label = self._standardised(label)
        known = (~label.isnan()).double().mean()
        if known == 1:
            return LOSSES[self.loss](logits, label).item()
        return (self._known(logits, label).mean() / known).item()

    def to_units(self, predictions: np.ndarray) -> np.ndarray:
        """Return predictions (records, classes) in the units of the labels."""
        if self.mean is None or self.std is None:
            return predictions
        return predictions * self.std.double().cpu().numpy() + self.mean.double().cpu().numpy()

    def _standardised(self, label: torch.Tensor) -> torch.Tensor:
        if self.mean is None or self.std is None:
            return label
        return (label - self.mean.to(label)) / self.std.to(label)

    def _known(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss of each label, 0 where it is unknown."""
        known = ~label.isnan()
        return LOSSES[self.loss](logits, label.where(known, 0), reduction="none") * known
