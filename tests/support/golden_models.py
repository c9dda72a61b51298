"""Models filled by the rule by which the published ones were, when their numbers in tests/golden
were recorded.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from util.contract.registry import build

HERE = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((HERE / "st_mem.json").read_text())
KEPT = ("pos_embedding", "encoder.pos_embedding", "decoder_pos_embed")


def arrays(name):
    return np.load(HERE / name, allow_pickle=False)


def rule_value(name, shape):
    """0.02 * normal from a generator seeded by the name; 1 is added to LayerNorm weights."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    value = 0.02 * torch.randn(tuple(shape), generator=generator)
    return value + 1 if len(shape) == 1 and name.endswith(".weight") else value


def filled(name, **options):
    """The model ``name`` with every tensor by the rule, its position tables as recorded (their
    own test is below).
    """
    with torch.device("meta"):
        model = build(name, **options)
    family = "mtae" if name.startswith("vit") else name.split("_vit")[0]
    state, full = {}, {}
    for key, tensor in model.state_dict().items():
        outer = (
            key.removeprefix("encoder.") if key.startswith("encoder.to_patch_embedding.") else key
        )
        if key in KEPT:
            part = "dec" if key == "decoder_pos_embed" else "enc"
            full[key] = torch.from_numpy(
                arrays("pos_embed.npz")[f"{family}_{part}_w{tensor.shape[-1]}"]
            )[None]
        state[key] = (
            full[outer]
            if outer in full
            else full.setdefault(outer, rule_value(outer, tensor.shape))
        )
    model.load_state_dict(state, assign=True)
    return model


def normal_input(case):
    return torch.randn(case["shape"], generator=torch.Generator().manual_seed(case["seed"]))


def recorded_noise(name):
    family = GOLDEN["pretrain_forward"][name]["noise"]["key"].removesuffix("_noise")
    return {
        part: torch.from_numpy(arrays("noise.npz")[f"{family}_{part}"])
        for part in ("noise", "mask", "ids_restore")
    }
