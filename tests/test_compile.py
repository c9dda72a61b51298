"""train.compile: a method is compiled once, not at every step."""
import functools

import pytest
import torch
from tiny_jobs import DINO, LOADER, ST_MEM, with_store
from torch import nn

import jobs  # noqa: F401  (registers the tiny models)
from main_pretrain import pretrain
from models.registry import register
from util.config import check
from util.engine import Training


class Plain(nn.Module):
    """The smallest encoder: compiled in no time."""

    def __init__(self, width=8):
        super().__init__()
        self.width, self.head = width, nn.Identity()
        self.conv, self.norm = nn.Conv1d(12, width, 5), nn.BatchNorm1d(width)

    def forward_features(self, series):
        return self.norm(self.conv(series)).relu().mean(2)


@register
def plain_encoder(num_classes=None):
    """For tests."""
    return Plain()


def method(name, **arguments):
    return {**DINO, "model_name": name, "model": {"encoder": "plain_encoder", "head_width": 16, **arguments}}


CONFIGS = {"simclr": method("simclr"), "byol": method("byol"),
           "dino": method("dino", bottleneck=8, head_out=32, freeze_last_layer=1, warmup_teacher_epochs=1,
                          teacher_temperature=0.07)}


@pytest.mark.parametrize("name", [*CONFIGS, pytest.param("st_mem", marks=pytest.mark.slow)])
def test_no_step_after_the_second_compiles_anything(name, tmp_path, monkeypatch):
    """Twelve steps over two epochs: past DINO's frozen prototypes and its temperature's warm-up.  The defect: DINO and
    BYOL were compiled at every step, and after eight of them no longer at all."""
    graphs, counts, step = [], [], Training._step

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def counting(self, batches):
        step(self, batches)
        counts.append(len(graphs))
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(Training, "_step", counting)
    config = with_store({**CONFIGS, "st_mem": ST_MEM}[name], compile=True)
    pretrain(check({**config, "output_dir": str(tmp_path), "exp_name": "run", "dataloader": LOADER, "device": "cpu"}))
    assert len(counts) == 12 and 0 < counts[1] == counts[-1], counts
