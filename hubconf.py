"""Trained models for ``torch.hub.load``, from a clone of this project:

    encoder = torch.hub.load("CLONE", "encoder", "encoder.pth", source="local")
    features = encoder(signal, fs=500, leads=["I", "II", ...])

The caller may have packages called ``util`` and ``models`` of its own: this project's are imported
while those are put aside, and are known to this project's functions alone.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

dependencies = ["einops", "matplotlib", "mergedeep", "numpy", "pandas", "scipy", "tensorboard"]
dependencies += ["torch", "torchmetrics", "tqdm", "yaml"]
ROOT = str(Path(__file__).resolve().parent)
PACKAGES = ("util", "models")
_ours: dict = {}


@contextlib.contextmanager
def our_packages() -> Iterator[None]:
    """Make ``util`` and ``models`` this project's, and the caller's again afterwards."""
    theirs = _taken_out()
    sys.modules.update(_ours)
    sys.path.insert(0, ROOT)
    try:
        yield
    finally:
        sys.path.remove(ROOT)
        _ours.update(_taken_out())
        sys.modules.update(theirs)


def _taken_out() -> dict:
    """The modules of these names, which are imported no longer."""
    names = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    return {name: sys.modules.pop(name) for name in names}


def encoder(path: str, device: str = "cpu") -> nn.Module:
    """Load an encoder: signals (records, leads, time) in mV to features (records, width).

    Args:
        path: encoder.pth of a pre-training, or the weights of a classifier.
        device: where it computes.
    """
    with our_packages():
        return importlib.import_module("util.handover.load").load_encoder(path, device)


def classifier(path: str, device: str = "cpu") -> nn.Module:
    """Load a classifier: signals (records, leads, time) in mV to probabilities (records, classes).

    Args:
        path: weights that fine-tuning left, such as best-AUROC.pth.
        device: where it computes.
    """
    with our_packages():
        return importlib.import_module("util.handover.load").load_classifier(path, device)
