"""BatchNorm over the batches of all processes, on CPUs as on GPUs, so that 1, 2 or 8 processes
train alike.

PyTorch's own SyncBatchNorm has no CPU kernel.  Counts, means and variances are gathered and
combined by the formula of Chan, Golub and LeVeque (1979), which loses no digits where the mean is
large.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from util.processes import collectives


def convert(model: nn.Module) -> nn.Module:
    """Make every BatchNorm in ``model`` normalise over all processes, in place, and return it.

    Parameters, buffers and their names stay the same, so that checkpoints fit both.  Of one
    process nothing changes.
    """
    if collectives.world() > 1:
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.__class__ = SyncBatchNorm  # type: ignore[assignment]
    return model


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm1d or BatchNorm2d that trains on the batches of all processes together.

    All processes must call it alike.  In evaluation nothing is exchanged.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Take any (batch, channels, ...)."""

    @torch.compiler.disable  # collectives in a function with a backward pass of its own
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        unbiased = variance * (count / (count - 1))  # which every BatchNorm keeps
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """x -> (x - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of all
    processes.

    Gradients of weight and bias are those of this process's part, as of any other layer: DDP
    averages them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x = x.contiguous()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean = x.mean(axes, keepdim=True, dtype=weight.dtype)
        # Ten times as fast as torch.var_mean on a CPU.
        variance, mean = (x - mean).square_().mean(axes), mean.flatten()
        count = mean.new_full((1,), x.numel() // x.shape[1])
        parts = collectives.gather_plain(torch.cat([mean, variance, count]))
        means, variances, counts = parts.split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # The kernel takes mean and variance as given.  What flows through them, over all
        # processes, follows below.
        direct, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(),
            x,
            weight,
            mean,
            variance,
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        sums = collectives.total(torch.stack([to_bias, to_weight]))
        by_bias, by_weight = sums / count * weight * (variance + ctx.eps).rsqrt()
        by_weight = by_weight * (variance + ctx.eps).rsqrt()
        ones = [1] * (x.ndim - 2)
        mean, by_bias, by_weight = (each.view(-1, *ones) for each in (mean, by_bias, by_weight))
        through = torch.addcmul(by_bias, x - mean, by_weight)
        return direct - through.to(direct.dtype), to_weight, to_bias, None
