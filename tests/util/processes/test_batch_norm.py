"""BatchNorm over two processes against one process with both their batches."""

import copy
import functools
import json

import pytest
import torch
from torch import nn

from tests.support.double import compute_in_double
from tests.support.jobs import run_job
from tests.support.tiny_jobs import CNN, DATA, DINO, with_store
from tests.support.two_processes import run_processes
from util.processes import collectives
from util.processes.batch_norm import SyncBatchNorm, convert

SHAPES = {"flat": (6, 5), "signal": (6, 5, 11), "image": (6, 5, 4, 3)}


def network(ndim):
    """A layer, a BatchNorm with weights of its own, another layer."""
    torch.manual_seed(0)
    layer = {
        2: nn.Linear,
        3: functools.partial(nn.Conv1d, kernel_size=3),
        4: functools.partial(nn.Conv2d, kernel_size=2),
    }
    norm = nn.BatchNorm2d if ndim == 4 else nn.BatchNorm1d
    model = nn.Sequential(layer[ndim](5, 7), norm(7), nn.Tanh(), layer[ndim](7, 2))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    return model.double()


def batch(shape, mean):
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + mean
    )


def gradients(model, x, start=0):
    """Gradients of parameters and input, and buffers, of a loss that weighs every record
    differently.
    """
    x = x.clone().requires_grad_()
    weights = torch.arange(start, start + len(x)) + 1.0
    (model(x).square().flatten(1).mean(1) * weights).mean().backward()
    return [x.grad, *(p.grad for p in model.parameters()), *(b.double() for b in model.buffers())]


def half(kind, mean):
    """The same on this process's half of the batch."""
    x = batch(SHAPES[kind], mean)
    rank, size = torch.distributed.get_rank(), len(x) // 2
    model = collectives.averaging(convert(network(x.ndim)))
    assert isinstance(model.module[1], SyncBatchNorm)
    return gradients(model, x[rank * size : (rank + 1) * size], rank * size)


@pytest.mark.parametrize("mean", [0, 50])
@pytest.mark.parametrize("kind", SHAPES)
def test_two_processes_equal_one_with_both_batches(kind, mean):
    want = gradients(network(len(SHAPES[kind])), batch(SHAPES[kind], mean))
    parts = run_processes(half, 2, kind, mean)
    inputs = torch.cat([parts[0][0], parts[1][0]]) / 2  # each loss is the mean over half as many
    for got in ([inputs, *parts[0][1:]], [inputs, *parts[1][1:]]):
        for a, b in zip(got, want, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-11), (a - b).abs().max()


def uneven():
    model = convert(nn.BatchNorm1d(3).double())
    model(batch((6, 3), 0)[:4] if torch.distributed.get_rank() == 0 else batch((6, 3), 0)[4:])
    before = copy.deepcopy(model.state_dict())
    model.eval()(batch((2, 3), 0))  # nothing is exchanged, nothing changes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = batch((4, 3), 0).bfloat16().requires_grad_()
    y = model.float().train()(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16 and model.weight.grad.dtype == torch.float32
    return before


def test_batches_of_different_size_and_evaluation():
    want = nn.BatchNorm1d(3).double()
    want(batch((6, 3), 0))
    for got in run_processes(uneven, 2):
        assert list(got) == list(want.state_dict())
        for name, value in want.state_dict().items():
            assert torch.allclose(got[name].double(), value.double(), atol=1e-12), name


def test_one_process_keeps_the_plain_layer():
    model = network(3)
    assert convert(model) is model and type(model[1]) is nn.BatchNorm1d


def losses(folder, name="log_steps.txt"):
    return [json.loads(line)["loss"] for line in (folder / "run" / name).read_text().splitlines()]


BYOL = {
    **DINO,
    "model_name": "byol",
    "model": {"encoder": {"name": "xresnet1d50", "channels": 2}, "head_width": 16, "head_out": 8},
}
CPC = {
    **DINO,
    "model_name": "cpc",
    "model": {"encoder": {"name": "cpc_lstm", "channels": 8}, "ahead": 3, "negatives": 5},
}


@pytest.mark.parametrize(
    "program, config",
    [
        ("main_finetune", CNN),
        ("main_pretrain", DINO),
        ("main_pretrain", BYOL),
        ("main_pretrain", CPC),
    ],
    ids=["cnn", "dino", "byol", "cpc"],
)
def test_a_cnn_trains_alike_on_one_and_two_processes(program, config, tmp_path):
    """Eight steps in float64 and what is kept; teachers, which see their views in training
    mode, too.
    """
    config = with_store({**config, "dataset": {**DATA, "max_records": 32}})
    one = run_job(program, config, tmp_path / "1", patch=compute_in_double)
    config = {**config, "dataloader": {"batch_size": 4, "num_workers": 0}}
    two = run_job(program, config, tmp_path / "2", world=2, patch=compute_in_double)
    assert one.statuses == [0] and two.statuses == [0, 0], one.text + two.text
    a, b = losses(tmp_path / "1"), losses(tmp_path / "2")
    # of float32 labels, torch's cross-entropy is float32 once more; what it hands back is not
    assert len(a) >= 4 and a == pytest.approx(b, rel=1e-6)
    apart = run_job(
        program, with_store(config, sync_bn=False), tmp_path / "3", world=2, patch=compute_in_double
    )
    assert apart.statuses == [0, 0] and losses(tmp_path / "3") != pytest.approx(b, rel=1e-4)
