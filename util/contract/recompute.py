"""Activation checkpointing (Chen et al., Training deep nets with sublinear memory cost, 2016)."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from util.contract.encoder import Recomputable
from util.errors import ConfigError


def recompute_blocks(model: nn.Module) -> None:
    """Make every transformer block of ``model``, in place, keep its input alone and compute the
    rest again in the backward pass.

    Loss, gradients, what dropout draws and names in checkpoints stay the same.

    Raises:
        ConfigError: there is none.
    """
    blocks = [module for module in model.modules() if isinstance(module, Recomputable)]
    if not blocks:
        raise ConfigError(
            "train.checkpoint_activations: this model has no transformer blocks; leave it false"
        )
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
