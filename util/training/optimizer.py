"""Optimisers, parameter groups, schedules (pure functions of the position in the run) and number
formats.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from util.config.keys import TrainConfig
from util.console import note
from util.contract.encoder import Encoder
from util.errors import ConfigError
from util.processes import collectives
from util.training.lars import LARS

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "lars": LARS,
}
FUSED = ("adamw", "adam", "sgd")  # one kernel for all parameters


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_all: bool = False,
    layer_decay: float = 1.0,
    layer_rates: Sequence[float] = (),
) -> list[dict]:
    """Return the parameters by how they learn: weight matrices and kernels are decayed; biases,
    norms, tokens and position embeddings are not.

    Frozen parameters may be thawed later (freeze_epochs), so all of them are listed except those
    that never learn (no gradient at construction).

    Args:
        model: whose parameters; with a ``layer_decay`` or ``layer_rates`` it has an ``encoder``.
        weight_decay: of those that are decayed.
        decay_all: decay everything, as the published ST-MEM scripts did.
        layer_decay: the learning rate's factor from one level of ``model.encoder`` to the next,
            from the heads down (Bao et al., BEiT, ICLR 2022); a group has it as "lr_scale".
        layer_rates: instead of it the factors of the heads, and of as many equal shares of the
            levels, from the top.
    """
    levels: dict[nn.Parameter, int] = {}
    if layer_decay != 1 or layer_rates:
        encoder = model.encoder
        assert isinstance(encoder, Encoder)
        levels = {
            parameter: encoder.level_of(name) for name, parameter in encoder.named_parameters()
        }
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and "weight" in name.rpartition(".")[2]
            spared = not (matrix or decay_all)
            groups.setdefault((levels.get(parameter, 0), spared), []).append(parameter)
    return [
        {
            "params": groups[level, spared],
            "weight_decay": 0.0 if spared else weight_decay,
            "decayed": not spared,
            "lr_scale": _rate_of(level, max(levels.values(), default=0), layer_decay, layer_rates),
        }
        for level, spared in sorted(groups)
    ]


def _rate_of(level: int, deepest: int, decay: float, rates: Sequence[float]) -> float:
    """The factor of the learning rate at a level, see ``parameter_groups``."""
    if not rates:
        return decay**level
    return rates[level and 1 + (level - 1) * (len(rates) - 1) // deepest]


def make_optimizer(
    model: nn.Module,
    train: TrainConfig,
    lr: float,
    layer_decay: float = 1.0,
    layer_rates: Sequence[float] = (),
) -> torch.optim.Optimizer:
    """Make the optimiser of the config's ``train`` section.

    Raises:
        ConfigError: it is unknown, or refuses its arguments, or nothing is to be trained.
    """
    if layer_rates:
        _check_rates(layer_rates, layer_decay)
    name = train.optimizer
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"train.optimizer: unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}"
        )
    groups = parameter_groups(
        model,
        train.weight_decay,
        decay_all=train.decay_all,
        layer_decay=layer_decay,
        layer_rates=layer_rates,
    )
    if not groups:
        raise ConfigError("nothing to train: no parameter of the model takes a gradient")
    kwargs = dict(train.optimizer_kwargs)
    if name in FUSED and not kwargs.get("foreach") and not kwargs.get("dampening"):
        kwargs.setdefault("fused", True)
    try:
        optimizer = OPTIMIZERS[name](groups, lr=lr, **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"train.optimizer_kwargs {train.optimizer_kwargs}: {error}") from None
    _start_momentum(optimizer)
    return optimizer


def _check_rates(rates: Sequence[float], decay: float) -> None:
    """A ConfigError where train.layer_rates are no factors, or train.layer_decay is given, too."""
    numbers = all(isinstance(rate, int | float) and rate > 0 for rate in rates)
    if len(rates) < 2 or not numbers:
        raise ConfigError(
            f"train.layer_rates: {rates}: give a factor above 0 of the heads and one or more of "
            "the encoder, e.g. [1, 0.1, 0.01]"
        )
    if decay != 1:
        raise ConfigError(
            "train.layer_rates and train.layer_decay both say how rates fall with depth; leave "
            "out one, e.g. by --set train.layer_decay=1"
        )


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD a momentum of 0 from the start: its fused kernel fails where some parameters of a
    group have one and others, thawed later, not yet.
    """
    for group in optimizer.param_groups:
        # With dampening, the first step is another one than from 0, and no kernel is fused.
        if isinstance(optimizer, torch.optim.SGD) and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's moments, but not its ``optimizer_kwargs``: those of the config apply.

    Raises:
        ValueError: the state is of other parameter groups, or of another choice of amsgrad.
    """
    groups, scheduled = [], ("params", "lr", "weight_decay")
    there, here = len(state["param_groups"]), len(optimizer.param_groups)
    if there != here:
        raise ValueError(f"{there} groups of parameters in the checkpoint, {here} in this run")
    for old, new in zip(state["param_groups"], optimizer.param_groups):
        if old.get("amsgrad") != new.get("amsgrad"):
            raise ValueError("amsgrad cannot change in the middle of a run")
        kept = {name: value for name, value in new.items() if name not in scheduled}
        groups.append({**old, **kept})
    optimizer.load_state_dict({**state, "param_groups": groups})
    _start_momentum(optimizer)


# ============ schedules ============
def resolve_lr(train: TrainConfig, batch_size: int, world: int) -> float:
    """Return lr, or blr * effective batch / 256 where lr is null (linear scaling, Goyal et al.
    2017).
    """
    if train.lr is not None:
        return train.lr
    if train.blr is None:
        raise ConfigError("give train.lr, or train.blr to scale with the batch size")
    return train.blr * batch_size * train.accum_iter * world / 256


def lr_at(epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Return the learning rate at a position in epochs: linear from 0 over the warm-up, then half
    a cosine down to min_lr, where it stays (the published schedule rose again past its end).
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    done = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def weight_decay_at(epoch: float, *, start: float, end: float | None, epochs: float) -> float:
    """Return the weight decay at a position in epochs: half a cosine from ``start`` to ``end`` over
    the run, constant if ``end`` is None (DINO, section A).
    """
    if end is None:
        return start
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(epoch / epochs, 1.0)))


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay as functions of the position in the run; they need no state.

    Attributes:
        lr: the peak.
        min_lr: where the cosine ends.
        warmup_epochs: of linear warm-up.
        epochs: of the run.
        by_epoch: the rate moves once an epoch.  An epoch of the warm-up then has the rate of its
            end, (epoch + 1) / warmup_epochs of the peak, so that the first one trains at all;
            every other epoch has the rate of its beginning.
        weight_decay: at the start.
        weight_decay_end: at the end; None: it stays.
    """

    lr: float
    min_lr: float
    warmup_epochs: float
    epochs: float
    by_epoch: bool
    weight_decay: float
    weight_decay_end: float | None

    @classmethod
    def of(cls, train: TrainConfig, lr: float) -> "Schedule":
        """Return the schedule of the config's ``train`` section with this peak."""
        return cls(
            lr=lr,
            min_lr=train.min_lr,
            warmup_epochs=train.warmup_epochs,
            epochs=train.epochs,
            by_epoch=train.lr_update == "epoch",
            weight_decay=train.weight_decay,
            weight_decay_end=train.weight_decay_end,
        )

    def note_oddities(self) -> None:
        """Say so where the rate stays at 0, never reaches its peak, or rises after it."""
        if max(self.lr, self.min_lr) == 0:
            note("note: the peak learning rate is 0 (train.lr, train.blr): the weights stay as set")
        elif self.warmup_epochs >= self.epochs + self.by_epoch:
            note(
                f"note: train.warmup_epochs: {self.warmup_epochs:g} is as long as the run "
                f"(train.epochs: {self.epochs:g}); the learning rate ends at "
                f"{self.lr * self.epochs / self.warmup_epochs:.3g} and never reaches its peak"
            )
        elif self.min_lr > self.lr:
            note(
                f"note: train.min_lr: {self.min_lr:g} is above the peak learning rate, to which "
                "the rate rises in the end"
            )

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a position in epochs."""
        if self.by_epoch:
            epoch = math.floor(epoch)
            if epoch < self.warmup_epochs:
                epoch = min(epoch + 1, self.warmup_epochs)
        return lr_at(
            epoch,
            lr=self.lr,
            min_lr=self.min_lr,
            warmup_epochs=self.warmup_epochs,
            epochs=self.epochs,
        )

    def mean_lr(self, epoch: int, steps: int) -> float:
        """Return the mean learning rate over the steps of an epoch."""
        steps = max(steps, 1)
        return float(np.mean([self.lr_at(epoch + step / steps) for step in range(steps)]))

    def apply(self, optimizer: torch.optim.Optimizer, epoch: float) -> float:
        """Set learning rate and weight decay for a position in epochs; return the rate."""
        lr = self.lr_at(epoch)
        decay = weight_decay_at(
            epoch, start=self.weight_decay, end=self.weight_decay_end, epochs=self.epochs
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            if group["decayed"]:
                group["weight_decay"] = decay
        return lr


# ============ number formats ============
def resolve_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast type for ``train.amp`` on this device, None for plain float32."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "none": None}[amp]


def set_matmul_precision(choice: str, device: torch.device) -> None:
    """Set ``train.matmul_precision``; for ``auto``, say which precision was chosen."""
    if choice == "auto":
        choice, why = "high", "on a GPU"
        if device.type != "cuda":  # measured: process 0 decides for all
            choice, why = collectives.on_main(_best_on_cpu)
        note(f"float32 products: matmul_precision {choice}, {why}")
    torch.set_float32_matmul_precision(choice)


@functools.lru_cache(maxsize=1)  # once a process
def _best_on_cpu() -> tuple[str, str]:
    """ "medium" where it is much faster than "highest" and as exact, else that; and the
    measurement in words.

    "medium" leaves products to oneDNN.  This doubles the speed where the BLAS has no good kernels
    for the processor, rounds to bf16 where that is fast, and costs time elsewhere.
    """
    before = torch.get_float32_matmul_precision()
    error = {precision: _products_error(precision) for precision in ("highest", "medium")}
    seconds = dict.fromkeys(error, math.inf)
    # In turns, and the fastest counts: other work on the machine only slows them
    for precision in [*error] * 4:
        seconds[precision] = min(seconds[precision], _products_seconds(precision))
    torch.set_float32_matmul_precision(before)
    ratio = seconds["highest"] / seconds["medium"]
    exact = error["medium"] < max(2e-6, 2 * error["highest"])
    why = (
        f"as on this processor medium is {ratio:.1f} times as fast and errs by "
        f"{error['medium']:.0e} ({error['highest']:.0e} with highest)"
    )
    return "medium" if exact and ratio > 1.5 else "highest", why


def _products(dtype: torch.dtype = torch.float32) -> Callable[[], tuple[torch.Tensor, ...]]:
    """The three products of a linear layer: forward, and both of backward."""
    numbers = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(rows, 768, generator=numbers).to(dtype) for rows in (192, 768, 192)
    )
    return lambda: (x @ weight.T, gradient @ weight, gradient.T @ x)


def _products_error(precision: str) -> float:
    """Largest relative error of ``_products`` at this precision."""
    torch.set_float32_matmul_precision(precision)
    return max(
        float((a - b).norm() / b.norm()) for a, b in zip(_products()(), _products(torch.float64)())
    )


def _products_seconds(precision: str) -> float:
    """CPU seconds of ``_products`` at this precision."""
    torch.set_float32_matmul_precision(precision)
    products, start = _products(), time.process_time()
    products()
    return time.process_time() - start


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return a context that casts to ``dtype``; to nothing for None."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
