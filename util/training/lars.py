"""LARS: layer-wise adaptive rate scaling (You, Gitman, Ginsburg, Large batch training of
convolutional networks, 2017), for batches of thousands.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step, for every weight, is scaled by the weight's length over that of
    its gradient.

    Algorithm 1 of the paper, with its equation 6 for the local rate::

        local = trust * |w| / (|g| + weight_decay * |w|)
        v = momentum * v + lr * local * (g + weight_decay * w);    w = w - v

    Parameters of one dimension (biases, normalisation) take local = 1, as does a weight or
    gradient of length zero.  The parameter groups say whether they are decayed.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the loss of the closure, which computes the gradients, if any."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        update = parameter.grad.add(parameter, alpha=group["weight_decay"])
        if parameter.ndim > 1:
            weight, gradient = parameter.norm(), parameter.grad.norm()
            local = group["trust"] * weight / (gradient + group["weight_decay"] * weight)
            # On the device, so that nothing waits for it
            update *= torch.where((weight > 0) & (gradient > 0), local, 1.0)
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        state["velocity"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
        parameter.sub_(state["velocity"])
