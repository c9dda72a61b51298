"""BatchNorm over the batches of all processes, on CPUs as on GPUs: 1, 2 or 8 processes train
alike.

PyTorch's own SyncBatchNorm has no CPU kernel.  Counts, means and variances are gathered and
combined by the formula of Chan, Golub and LeVeque (1979), which loses no digits where the mean is
large.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from util.processes import collectives


def convert(model: nn.Module) -> nn.Module:
    """Let every BatchNorm in ``model`` normalise over all processes, in place; of one process
    nothing changes.

    Parameters, buffers and their names stay the same, so that checkpoints fit both.
    """
    if collectives.world() > 1:
        plain: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d)
        for module in model.modules():
            if isinstance(module, plain):
                module.__class__ = SyncBatchNorm
    return model


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d or BatchNorm2d whose statistics, in training, are of the batches of all
    processes together.

    All processes must call it alike.  In evaluation nothing is exchanged.
    """

    def _check_input_dim(self, x):
        """Any (batch, channels, ...)."""

    @torch.compiler.disable  # collectives in a function with a backward pass of its own
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            unbiased = variance * (count / (count - 1))  # as everywhere
            self.running_var.lerp_(unbiased, self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """x -> (x - mean) / sqrt(variance + eps) * weight + bias, mean and variance over all
    processes.

    Gradients of weight and bias are those of this process's part, as of any other layer: DDP
    averages them.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        x = x.contiguous()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean = x.mean(axes, keepdim=True, dtype=weight.dtype)
        variance, mean = (
            (x - mean).square_().mean(axes),
            mean.flatten(),
        )  # ten times as fast as var_mean on a CPU
        own = torch.cat([mean, variance, mean.new_full((1,), x.numel() // x.shape[1])])
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        means, variances, counts = torch.stack(parts).split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return (
            F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps),
            mean,
            variance,
            count,
        )

    @staticmethod
    def backward(ctx, grad, *_):
        x, weight, mean, variance, count = ctx.saved_tensors
        # As if mean and variance were given; what flows through them, over all processes,
        # follows.
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
        sums = torch.stack([to_bias, to_weight])
        dist.all_reduce(sums)
        by_bias, by_weight = sums / count * weight * (variance + ctx.eps).rsqrt()
        by_weight = by_weight * (variance + ctx.eps).rsqrt()
        mean, by_bias, by_weight = (
            each.view(-1, *[1] * (x.ndim - 2)) for each in (mean, by_bias, by_weight)
        )
        through = torch.addcmul(by_bias, x - mean, by_weight)
        return direct - through.to(direct.dtype), to_weight, to_bias, None
