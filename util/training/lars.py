"""LARS: layer-wise adaptive rate scaling (You, Gitman, Ginsburg, Large batch training of
convolutional networks, 2017), for batches of thousands.
"""

import torch


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step, for every weight, is scaled by the weight's length over that of
    its gradient.

    Algorithm 1 of the paper, with its equation 6 for the local rate::

        local = trust * |w| / (|g| + weight_decay * |w|)
        v = momentum * v + lr * local * (g + weight_decay * w);    w = w - v

    Parameters of one dimension (biases, normalisation) take local = 1, as does a weight or
    gradient of length zero.  Whether they are decayed is the parameter groups' business.
    """

    def __init__(self, params, lr=0.1, momentum=0.9, weight_decay=0.0, trust=0.001):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self):
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter, group):
        update = parameter.grad.add(parameter, alpha=group["weight_decay"])
        if parameter.ndim > 1:
            weight, gradient = parameter.norm(), parameter.grad.norm()
            local = group["trust"] * weight / (gradient + group["weight_decay"] * weight)
            update *= torch.where(
                (weight > 0) & (gradient > 0), local, 1.0
            )  # on the device: no wait for it
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        state["velocity"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
        parameter.sub_(state["velocity"])
