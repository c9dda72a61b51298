"""No two users of a sample's random numbers draw the same ones: crop, steps of the pipeline,
RandAugment, views and masks, in whole training steps.
"""

import collections

import numpy as np
import pytest
import torch

from tests.support.tiny_encoder import run_step
from util.contract.registry import build
from util.data.dataset import TrainingBatches, to_device
from util.keyed_random import KeyedRandom
from util.signals.augmentations import AUGMENTATIONS
from util.signals.transforms import build_pipeline
from util.signals.views import Views

OPERATIONS = [name for name, entry in AUGMENTATIONS.items() if entry.at_level(10) is not None]
PATCHES = {"seq_len": 250, "patch_size": 25}
METHODS = {
    "simclr": ("simclr", {"encoder": "tiny_encoder"}),
    "byol": ("byol", {"encoder": "tiny_encoder"}),
    "dino": ("dino", {"encoder": "tiny_encoder", "head_out": 8}),
    "dino, spectrograms": (
        "dino",
        {"encoder": "tiny_encoder", "head_out": 8, "views": "dino_spectrogram"},
    ),
    "st_mem": ("st_mem_vit_tiny_dec128d2b", {"mask_ratio": 0.5, **PATCHES}),
    "jepa": ("jepa", {"encoder": {"name": "mean_vit_tiny", **PATCHES}, "block": 2}),
    "cpc": ("cpc", {"encoder": {"name": "cpc_lstm", "channels": 4}, "ahead": 2}),
}


class Drawn(collections.Counter):
    """How often each sample's key was drawn from at each place of its stream."""

    def watch(self, monkeypatch):
        bits = KeyedRandom._bits

        def counted(random, *arguments, **named):
            self.update((key, random.draws) for key in random.keys.tolist())
            return bits(random, *arguments, **named)

        monkeypatch.setattr(KeyedRandom, "_bits", counted)
        return self


def pipeline(**rand_augment):
    steps = ["standardize", {"white_noise": {"sigma": 0.1}}, {"time_out": {"ratio": [0.2, 0.4]}}]
    return build_pipeline(
        [{"random_crop": {"crop_length": 250}}, *steps],
        length=250,
        fs=100,
        rand_augment=rand_augment,
    )


@pytest.mark.parametrize("name", METHODS)
def test_everything_that_a_step_draws_is_drawn_once(name, monkeypatch):
    """The defect: operation k of RandAugment and view k had the same stream."""
    torch.manual_seed(0)
    method = build(METHODS[name][0], **METHODS[name][1])
    drawn = Drawn().watch(monkeypatch)
    samples = np.full(64, 1000)
    batches = TrainingBatches(np.arange(64), samples, 250, batch_size=64)
    items = batches.items(np.arange(64))
    batch = {
        "counts": torch.randint(-99, 99, (64, 250, 12), dtype=torch.int16),
        "scale": torch.ones(64),
        "key": torch.tensor([key for _, _, key in items]),
        "record": torch.arange(64),
    }
    ready = to_device(batch, torch.device("cpu"))
    steps = pipeline(op_names=OPERATIONS, num_layers=3, prob=1.0)
    ready |= {"signal": steps(ready["signal"], ready["random"]), "epoch": 1.0, "progress": 0.5}
    before = len(drawn)
    run_step(method, ready)
    assert before > 64 * 6 and len(drawn) > before
    assert set(drawn.values()) == {1}, "two users draw the same numbers"


def test_windows_of_rand_augment_and_of_views_lie_apart():
    """The same operation in both, for all twelve leads: where it hides once says nothing of
    where it hides the other time.
    """
    random = KeyedRandom(torch.arange(4000))
    x = torch.ones(4000, 1, 250)
    hide = pipeline(op_names=["cutout"], num_layers=1, prob=1.0).steps[-1]
    level = AUGMENTATIONS["cutout"].at_level(10)
    views = Views([{"count": 3, "transforms": [{"cutout": level}]}])(x, random)
    starts = [(made == 0).int().argmax(-1)[:, 0].double() for made in (hide(x, random), *views)]
    for number, one in enumerate(starts):
        for other in starts[:number]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 4000**0.5
