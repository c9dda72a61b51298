"""What a masked autoencoder makes of a record of which it sees a part."""

import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from util.config.keys import PretrainConfig
from util.console import note
from util.contract.method import Batch, Method
from util.contract.registry import find_model
from util.errors import CheckpointError
from util.evaluation.trained import read_weights
from util.explain.occlusion import SeenCrops
from util.handover.load import config_of
from util.jobs.setup import build_configured
from util.keyed_random import KeyedRandom, sample_keys
from util.weights import checkpoint


@dataclass(frozen=True)
class Reconstruction:
    """One crop, hidden in part and rebuilt.

    Attributes:
        name: of the mask, for files: the percentage asked for, or "own".
        signal, rebuilt: (leads, samples), as the network sees them.
        hidden: bool (leads, samples).
    """

    name: str
    signal: np.ndarray
    rebuilt: np.ndarray
    hidden: np.ndarray

    @property
    def title(self) -> str:
        """Return how much was hidden, and how well it was rebuilt."""
        hidden = self.hidden
        likeness = np.corrcoef(self.signal[hidden], self.rebuilt[hidden])[0, 1]
        return f"{hidden.mean():.0%} hidden; correlation of hidden and rebuilt {likeness:.2f}"


def load_methods(
    path: str | os.PathLike, ratios: Iterable[float], device: torch.device
) -> dict[str, Method]:
    """Load a pre-trained method once for each mask ratio; none where it rebuilds nothing.

    A method that takes no ``mask_ratio`` is loaded once, under the name "own".

    Args:
        path: a pre-training's checkpoint, or its encoder.pth, which holds no decoder: then the
            checkpoint beside it is read.
        ratios: shares of patches to hide.
        device: where it computes.

    Raises:
        CheckpointError: the checkpoint is of another model.
        ConfigError: a ratio hides everything or nothing.
    """
    content = read_weights(path)
    config = config_of(content["config"])
    if not isinstance(config, PretrainConfig):
        return {}
    if type(build_configured(config)).reconstruct is Method.reconstruct:
        return {}
    if not any(name.startswith("encoder.") for name in content["model"]):
        beside = Path(path).with_name(checkpoint.LAST)
        if not beside.is_file():
            note(f"no reconstructions: {path} holds no decoder, and there is no {beside}")
            return {}
        note(f"reconstructions are by {beside}, as {Path(path).name} holds no decoder")
        content = read_weights(beside)
    masks: dict[str, dict] = {f"{100 * ratio:g}": {"mask_ratio": ratio} for ratio in ratios}
    if "mask_ratio" not in inspect.signature(find_model(config.model_name)).parameters:
        masks = {"own": {}}
    methods: dict[str, Method] = {}
    for name, mask in masks.items():
        method = build_configured(replace(config, model={**(config.model or {}), **mask}))
        try:
            method.load_state_dict(content["model"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: the checkpoint beside it is of another model "
                f"({' '.join(str(error).split())[:200]})"
            ) from None
        methods[name] = method.to(device).eval()
    return methods


@torch.no_grad()
def reconstruct(methods: dict[str, Method], record: SeenCrops, row: int) -> list[Reconstruction]:
    """Return reconstructions of a record's middle crop, one for each mask ratio.

    Args:
        methods: of ``load_methods``.
        record: its crops.
        row: of the store, which decides what is hidden.
    """
    middle = len(record.crops) // 2
    signal = record.crops[middle : middle + 1]
    found = []
    for name, method in methods.items():
        keys = torch.from_numpy(sample_keys(0, 0, np.array([row]), np.array([0])))
        batch: Batch = {"signal": signal, "random": KeyedRandom(keys.to(signal.device))}
        rebuilt: Any = method.reconstruct(batch)
        arrays = (part[0].cpu().numpy() for part in rebuilt)
        found.append(Reconstruction(name, *arrays))
    return found
