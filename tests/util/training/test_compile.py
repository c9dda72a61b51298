"""train.compile: a method is compiled once, not at every step."""

import functools

import pytest
import torch

from main_pretrain import pretrain
from tests.support import (
    jobs,  # noqa: F401  (registers the tiny models)
    tiny_encoder,  # noqa: F401  (registers plain_encoder)
)
from tests.support.tiny_jobs import DINO, LOADER, ST_MEM, with_store
from util.config.keys import PretrainConfig
from util.config.load import check
from util.training.engine import Training


def method(name, **arguments):
    return {
        **DINO,
        "model_name": name,
        "model": {"encoder": "plain_encoder", "head_width": 16, **arguments},
    }


CONFIGS = {
    "simclr": method("simclr"),
    "byol": method("byol"),
    "dino": method(
        "dino",
        bottleneck=8,
        head_out=32,
        freeze_last_layer=1,
        warmup_teacher_epochs=1,
        teacher_temperature=0.07,
    ),
    "jepa": {
        **DINO,
        "model_name": "jepa",
        "model": {
            "block": 1,
            "predictor_depth": 1,
            "encoder": {"name": "mean_vit_tiny", "seq_len": 150, "patch_size": 15},
        },
    },
}


@pytest.mark.parametrize("name", [*CONFIGS, pytest.param("st_mem", marks=pytest.mark.slow)])
def test_no_step_after_the_second_compiles_anything(name, tmp_path, monkeypatch):
    """Twelve steps over two epochs: past DINO's frozen prototypes and its temperature's warm-up.
    The defect: DINO and BYOL were compiled at every step, and after eight of them no longer at
    all.
    """
    graphs, counts, step = [], [], Training.take_step

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def counting(self, batches):
        step(self, batches)
        counts.append(len(graphs))

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(Training, "take_step", counting)
    config = with_store({**CONFIGS, "st_mem": ST_MEM}[name], compile=True)
    pretrain(
        check(
            {
                **config,
                "output_dir": str(tmp_path),
                "exp_name": "run",
                "dataloader": LOADER,
                "device": "cpu",
            },
            PretrainConfig,
        )
    )
    assert len(counts) == 12 and 0 < counts[1] == counts[-1], counts
