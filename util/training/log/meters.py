"""What steps log, until it is a line of the log: kept on the device, then averaged over processes
and steps.

Nothing here waits for the device before a window of steps is closed, unless skipping steps is
allowed.
"""

import math

import pandas as pd
import torch

from util.console import note
from util.errors import ECGError
from util.processes import collectives

KEPT = ("window", "sums", "names", "skipped")  # in checkpoints
SHOWN = 32  # records named in a message


class Meters:
    """Means of all scalars that a model returns, over windows of steps and over the epoch.

    Args:
        record_names: of all rows of the store, for messages.
        tolerated: steps with a loss that is not finite that may be skipped
            (train.skip_nonfinite).

    Attributes:
        names: of the scalars, the loss first.
        skipped: steps skipped so far.
        pending: steps not yet gathered: (epoch, step, this process's values, records).
        window: values of the steps since the last line, means over processes.
        sums: over the windows of the epoch: number of steps, then the sum of each value.
    """

    def __init__(self, record_names: pd.Series, tolerated: int = 0):
        self.record_names, self.tolerated = record_names, tolerated
        self.names: list[str] = []
        self.skipped = 0
        self.pending: list[tuple[int, int, torch.Tensor, list[int]]] = []
        self.window: list[list[float]] = []
        self.sums: list[float] = []

    # ============ a step ============
    def scalars(self, out: dict) -> torch.Tensor:
        """Return the scalars among a forward pass's outputs as one float32 tensor, in the order
        of ``names``.
        """
        scalars = {
            name: value.detach()
            for name, value in out.items()
            if isinstance(value, torch.Tensor) and value.ndim == 0
        }
        self.names = ["loss", *(name for name in scalars if name != "loss")]
        return torch.stack([scalars[name].float() for name in self.names])

    def skips(self, values: torch.Tensor) -> bool:
        """Return whether to leave out this step's update, because the loss of some process is not
        finite.  Looks, and so waits for the device, only where skipping is allowed; otherwise
        ``gather`` notices.
        """
        skip = self.tolerated > 0 and collectives.any_process(not values[0].isfinite())
        self.skipped += skip
        return skip

    def add(self, epoch: int, step: int, values: torch.Tensor, records: list[int]) -> None:
        """Add the scalars of a step, with the rows of the store that its records have."""
        self.pending.append((epoch, step, values, records))

    # ============ over processes ============
    def gather(self, last_saved: str | None = None) -> None:
        """Average what is pending over processes and append it to the window, without the skipped
        steps; every process must call this.

        Raises:
            ECGError: more losses than tolerated were not finite.
        """
        if not self.pending:
            return
        values = torch.stack([row for _, _, row, _ in self.pending]).double().cpu()
        bad = ~values[:, 0].isfinite()
        if collectives.any_process(bool(bad.any())):
            self._report(bad, last_saved)
            bad = collectives.total(bad.int()) > 0
        values = collectives.total(values) / collectives.world()
        self.window += values[~bad].tolist()
        self.pending = []

    def _report(self, bad: torch.Tensor, last_saved: str | None) -> None:
        """Say at which steps, and with which records, the loss was not finite."""
        mine = [
            (epoch, step, records)
            for (epoch, step, _, records), is_bad in zip(self.pending, bad)
            if is_bad
        ]
        rows: dict[tuple[int, int], set[int]] = {}
        for part in collectives.gather_objects(mine):
            for epoch, step, records in part:
                rows.setdefault((epoch, step), set()).update(records)
        for (epoch, step), members in sorted(rows.items()):
            names = ", ".join(self.record_names.iloc[sorted(members)[:SHOWN]].astype(str))
            text = (
                f"the loss was not finite at epoch {epoch}, step {step}; records of the batch: "
                f"{names}{' ...' if len(members) > SHOWN else ''}"
            )
            if self.skipped > self.tolerated or not self.tolerated:
                raise ECGError(
                    f"{text}. Last good checkpoint: {last_saved or 'none yet'}. Lower train.lr or "
                    "train.blr, set train.max_norm, look at these records, or tolerate some steps "
                    "with train.skip_nonfinite"
                )
            note(f"skipped: {text} ({self.skipped} of {self.tolerated} tolerated)")

    # ============ means ============
    def close_window(self, last_saved: str | None = None) -> dict[str, float]:
        """Return the means over the steps since the last call, NaN where all were skipped; see
        ``gather``.
        """
        self.gather(last_saved)
        rows = torch.tensor(self.window, dtype=torch.float64).reshape(-1, len(self.names))
        sums = [len(rows), *rows.sum(dim=0).tolist()]
        self.sums = [before + more for before, more in zip(self.sums, sums)] if self.sums else sums
        self.window = []
        return dict(zip(self.names, rows.mean(dim=0).tolist()))

    def close_epoch(self) -> dict[str, float]:
        """Return the means over all windows since the last call, NaN where every step of them was
        skipped.
        """
        if self.window:  # resumed at the very end of an epoch, in steps of another size
            self.close_window()
        count, *sums = self.sums
        self.sums = []
        return {name: total / count if count else math.nan for name, total in zip(self.names, sums)}

    def forget(self) -> None:
        """Forget the values of the epoch so far."""
        self.window, self.sums = [], []

    # ============ checkpoints ============
    def state_dict(self) -> dict:
        """Return what a checkpoint keeps, after ``gather``."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state: dict) -> None:
        """Undo ``state_dict``."""
        for name in KEPT:
            setattr(self, name, state[name])
