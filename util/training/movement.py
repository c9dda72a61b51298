"""Does it train?  What should learn has gradients and moves, what is frozen stays as it is.

A published benchmark chose the parameters of an encoder by a prefix that their names did not have:
what it called fine-tuned had trained its head alone, and nothing said so.
"""

from collections.abc import Iterable

import torch
from torch import nn

from util.console import note
from util.contract.method import Method
from util.errors import ECGError

SHOWN = 4  # names that a message quotes
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Movement:
    """What a model's tensors were at a moment of its training.

    Args:
        model: in training; what takes a gradient is said to learn, ``frozen_tensors`` to stay.

    Attributes:
        waiting: parameters that should learn and have had no gradient yet, by name.
    """

    def __init__(self, model: Method):
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.waiting, self.said = dict(learning), False
        self.resting = dict(learning)  # not seen to have moved
        self.frozen = model.frozen_tensors()
        self.before = dict(zip(learning, digests(learning.values())))
        self.kept = digests(self.frozen.values())

    def see_gradients(self) -> None:
        """Look, after a backward pass, who has a gradient; the device need not be waited for."""
        if self.waiting:
            self.waiting = {name: p for name, p in self.waiting.items() if p.grad is None}

    def check(self, *, last: bool) -> None:
        """Look, after an epoch, who has moved; what should have and has not is said.

        Args:
            last: no epoch follows.

        Raises:
            ECGError: a frozen tensor has changed.
        """
        now = digests(self.frozen.values())
        moved = [name for name, old, new in zip(self.frozen, self.kept, now) if old != new]
        if moved:
            raise ECGError(
                f"{_counted(moved, len(self.frozen))} were to stay frozen and have changed: the "
                "result would be no linear probe; look at train() and forward() of the model, and "
                "at BatchNorm in training mode"
            )
        now = digests(self.resting.values())
        self.resting = {
            name: parameter
            for (name, parameter), new in zip(self.resting.items(), now)
            if self.before[name] == new
        }
        if self.waiting and not self.said:
            note(
                f"note: {_counted(self.waiting, len(self.before))} should learn and never got a "
                "gradient: they stay as they started. The model's forward() does not use them"
            )
        elif last and self.resting:
            note(
                f"note: {_counted(self.resting, len(self.before))} should learn and have not "
                "moved: their gradients are 0, or the learning rate is too low"
            )
        self.said = True


def _counted(names: Iterable[str], total: int) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    return f"{len(names)} of {total} tensors ({', '.join(names[:SHOWN])}{more})"


@torch.no_grad()
def digests(tensors: Iterable[torch.Tensor]) -> list[int]:
    """Return a number for each tensor's bits: another one if any bit of it differs, but for a
    chance of 2 ** -64 where several do.
    """
    numbers = [_digest(tensor) for tensor in tensors]
    return torch.stack(numbers).tolist() if numbers else []


def _digest(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all bits times odd numbers, modulo 2 ** 64."""
    flat = tensor.detach().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    bits = flat.contiguous().view(WHOLE[flat.element_size()]).long()
    return (bits * (2 * torch.arange(len(bits), device=bits.device) + 1)).sum()


# ============ in words ============
def trained_of(model: Method) -> str:
    """Return how many parameters of a model learn, and which parts are frozen, in words."""
    every = list(model.parameters())
    learning = sum(p.numel() for p in every if p.requires_grad)
    text = f"trains {learning:,} of {sum(p.numel() for p in every):,} parameters"
    names = model.frozen_parts
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    return f"{text}; frozen: {', '.join(names[:SHOWN])}{more}" if names else text


def frozen_below(module: nn.Module, prefix: str = "") -> list[str]:
    """Return the names of the largest parts of a module, single parameters among them, of which
    no parameter takes a gradient.
    """
    names = [
        prefix + name for name, p in module.named_parameters(recurse=False) if not p.requires_grad
    ]
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            names.append(prefix + name)
        else:
            names += frozen_below(child, f"{prefix}{name}.")
    return names
