"""What makes a step fast on a GPU, as far as a CPU can tell: it never waits, and it compiles to
one graph.
"""

import contextlib
from collections import Counter

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from main_finetune import finetune
from main_pretrain import pretrain
from models.layers.blocks import Block
from tests.support import (
    jobs,  # noqa: F401  (registers the tiny models)
    small_store,
    tiny_encoder,  # noqa: F401  (registers plain_encoder)
)
from tests.support.tiny_encoder import run_step
from tests.support.tiny_jobs import CNN, DINO, ST_MEM, accumulating, with_store
from util.config.keys import FinetuneConfig, PretrainConfig, TrainConfig
from util.config.load import check
from util.contract.recompute import recompute_blocks
from util.contract.registry import DataFacts, build
from util.data.dataset import CropDataset, TrainingBatches, make_loader, to_device
from util.data.store import RecordStore
from util.errors import ConfigError
from util.jobs.job import SupervisedTask
from util.leads import LEADS
from util.scoring.criterion import Criterion
from util.training import engine
from util.training.engine import Training
from util.training.optimizer import autocast, make_optimizer

VIEWS = {"head_width": 16, "encoder": "plain_encoder"}
DINO = {**DINO, "model": {**VIEWS, "bottleneck": 8, "head_out": 32, "freeze_last_layer": 1}}
BYOL = {
    **DINO,
    "model_name": "byol",
    "train": {**DINO["train"], "optimizer": "adamw", "optimizer_kwargs": {}},
    "model": {"encoder": "plain_encoder", "head_width": 16, "head_out": 8},
}
FUSION = {
    **CNN,
    "model_name": "fusion",
    "model": {
        "signal": {"name": "plain_encoder"},
        "gating": True,
        "spectrogram": {"name": "spectrogram_se_resnet34", "channels": 2},
    },
}
JEPA = {
    "encoder": {"name": "mean_vit_tiny", "seq_len": 150, "patch_size": 15},
    "block": 1,
    "predictor_depth": 1,
}
CPC = {"encoder": {"name": "cpc_s4", "channels": 8, "layers": 1}, "ahead": 3}


def run(program, config, folder, **train):
    kind = PretrainConfig if program is pretrain else FinetuneConfig
    config = with_store(config, epochs=1, **train)
    return program(
        check({**config, "output_dir": str(folder), "exp_name": "run", "device": "cpu"}, kind)
    )


# ============ no waiting ============
class NoWaiting(TorchDispatchMode):
    """Fails at what, on a GPU, lets the host wait for the device: reading a value, and shapes
    that depend on values.
    """

    WAITING = (
        "aten._local_scalar_dense",
        "aten.nonzero",
        "aten.equal",
        "aten.is_nonzero",
        "aten.masked_select",
        "aten._unique2",
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not str(function).startswith(self.WAITING), f"{function} lets the host wait"
        return function(*args, **(kwargs or {}))


def forbid_waiting(monkeypatch):
    """From a step's first copy to the device until its end; returns a list with an item a step."""
    step, prepare, steps, armed = Training.take_step, Training.prepare, [], []

    def guarded(name, original):
        def call(value, *args, **kwargs):
            harmless = name == "as_tensor" and torch.is_tensor(value)
            assert harmless or not armed, f"{name} lets the host wait"
            return original(value, *args, **kwargs)

        return call

    def preparing(self, batch):
        armed.append(True)
        return prepare(self, batch)

    def stepping(self, batches):
        with NoWaiting():
            step(self, batches)
        armed.clear()
        steps.append(1)

    # The dispatcher does not see these on a CPU: copies to the host (numpy() needs cpu() before
    # it), and tensors of Python numbers, whose copy to a GPU waits.
    for place, names in (
        (torch.Tensor, ("tolist", "cpu", "new_tensor")),
        (torch, ("tensor", "as_tensor")),
    ):
        for name in names:
            monkeypatch.setattr(place, name, guarded(name, getattr(place, name)))
    monkeypatch.setattr(Training, "prepare", preparing)
    monkeypatch.setattr(Training, "take_step", stepping)
    return steps


JOBS = {
    "st_mem, bf16": (pretrain, ST_MEM, {"amp": "bf16"}),
    "st_mem, fp16, accumulated, clipped": (
        pretrain,
        accumulating(ST_MEM),
        {"amp": "fp16", "max_norm": 1.0},
    ),
    "dino, sgd": (pretrain, DINO, {"amp": "bf16", "max_norm": 1.0}),
    "byol": (pretrain, BYOL, {"amp": "bf16"}),
    "simclr, lars": (
        pretrain,
        {**DINO, "model_name": "simclr", "model": VIEWS},
        {"optimizer": "lars", "optimizer_kwargs": {}},
    ),
    "fusion": (finetune, FUSION, {"amp": "bf16"}),
    "jepa": (pretrain, {**ST_MEM, "model_name": "jepa", "model": JEPA}, {"amp": "bf16"}),
    "cpc": (pretrain, {**ST_MEM, "model_name": "cpc", "model": CPC}, {"amp": "bf16"}),
}


@pytest.mark.parametrize("name", JOBS)
def test_no_step_waits_for_the_device(name, tmp_path, monkeypatch):
    """The defect: the run's place, and the number of values in a SyncBatchNorm, were copied from
    the host, which then waited for all that was queued, at every step.
    """
    program, config, train = JOBS[name]
    steps = forbid_waiting(monkeypatch)
    run(program, config, tmp_path, **{"steps_per_epoch": 2, **train})
    assert len(steps) == 2


def test_a_step_that_waits_is_noticed(tmp_path, monkeypatch):
    for change, message in (
        ({"skip_nonfinite": 1}, "_local_scalar_dense"),
        ({"amp": "fp16", "optimizer_kwargs": {"foreach": True}}, "_local_scalar_dense"),
    ):
        with monkeypatch.context() as patch:
            forbid_waiting(patch)
            with pytest.raises(AssertionError, match=message):
                run(pretrain, ST_MEM, tmp_path / str(len(change)), **change)
    place = Training.prepare

    def copying(self, batch):
        return {**place(self, batch), "epoch": torch.tensor(0.5)}

    monkeypatch.setattr(Training, "prepare", copying)
    forbid_waiting(monkeypatch)
    with pytest.raises(AssertionError, match="tensor lets the host wait"):
        run(pretrain, ST_MEM, tmp_path / "copying")


# ============ no needless traffic ============
class WeightCasts(TorchDispatchMode):
    """Counts casts of these parameters."""

    def __init__(self, parameters):
        super().__init__()
        self.places = {parameter.data_ptr() for parameter in parameters}
        self.cast = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith("aten._to_copy") and args[0].data_ptr() in self.places:
            self.cast[args[0].data_ptr()] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [ST_MEM, BYOL], ids=["st_mem", "byol"])
def test_weights_are_cast_once_an_update_whatever_is_accumulated(config, tmp_path, monkeypatch):
    """The defect: once a micro-batch."""
    step, counts = Training.take_step, []

    def counting(self, batches):
        assert len(batches) == 2
        with WeightCasts(p for p in self.model.parameters() if p.requires_grad) as casts:
            step(self, batches)
        counts.append(casts.cast)

    monkeypatch.setattr(Training, "take_step", counting)
    config, train = accumulating(config), {"amp": "bf16", "steps_per_epoch": 2}
    once = run(pretrain, config, tmp_path / "once", **train)
    monkeypatch.undo()
    none = contextlib.nullcontext()
    monkeypatch.setattr(
        engine, "autocast", lambda device, dtype: autocast(device, dtype) if dtype else none
    )
    often = run(pretrain, config, tmp_path / "often", **train)
    assert (once / "log_steps.txt").read_text() == (often / "log_steps.txt").read_text()
    assert len(counts) == 2
    for cast in counts:
        assert len(cast) >= 10 and set(cast.values()) == {1}


# ============ one graph ============
def small_batch(length=150):
    """A batch of the small store as the engine hands it to a method."""
    store = RecordStore(small_store.store() / "fs100")
    rows = np.arange(8)
    dataset = CropDataset(store, LEADS, length)
    loader = make_loader(
        dataset, TrainingBatches(rows, dataset.samples[rows], length, batch_size=8)
    )
    place = torch.tensor(0.5, dtype=torch.float64)
    batch = to_device(next(iter(loader)), torch.device("cpu"))
    return {**batch, "epoch": place, "progress": place}


PATCHES = {"seq_len": 150, "patch_size": 15}
METHODS = {
    "nano_st_mem": {},
    "mtae_vit_tiny_dec128d2b": PATCHES,
    "mlae_vit_tiny_dec128d2b": {"seq_len": 150, "mask_ratio": 0.5},
    "simclr": VIEWS,
    "byol": VIEWS,
    "dino": {**VIEWS, "head_out": 32},
    "jepa": {**JEPA, "encoder": {"name": "nano_vit", "patch_size": 15}},
    "cpc": CPC,
    "dino, two lengths": {**VIEWS, "head_out": 32, "views": "dino_signal_short"},
}
CLASSIFIERS = {
    "plain_encoder": {},
    "nano_vit": {"drop_out_rate": 0.1},
    "fusion": FUSION["model"],
}
WHOLE = ("st_mem", "mtae", "mlae", "jepa")  # crops of 150


def compiled_steps(method, length, label=None):
    """Four of the engine's steps of a compiled method, of which a break or a recompilation is an
    error; (graphs forward, graphs backward).
    """
    batch, graphs = small_batch(length), ([], [])
    if label is not None:
        batch["label"] = label

    def compiler(kept):
        def compile_graph(graph, inputs):
            kept.append(graph)
            return make_boxed_func(graph.forward)

        return compile_graph

    forward, backward = map(compiler, graphs)
    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=forward, bw_compiler=backward)
    compiled = torch.compile(method, backend=backend, fullgraph=True)
    optimizer = make_optimizer(method, TrainConfig(epochs=1), 1e-3)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(4):
            place = torch.full((), step / 4, dtype=torch.float64)
            random = type(batch["random"])(batch["random"].keys + step)
            ready = {**batch, "random": random, "epoch": place, "progress": place}
            with torch.autocast("cpu", torch.bfloat16):
                loss = compiled(ready, method.draw(ready))["loss"]
            loss.backward()
            method.before_step(step / 4)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step(step / 4)
    return tuple(map(len, graphs))


@pytest.mark.parametrize("name", METHODS)
def test_a_compiled_method_is_one_graph_forward_and_one_backward(name):
    """The defect: the masks' and views' 64-bit integers, which Inductor cannot print, cut it in
    two.
    """
    method = build({"name": name.partition(",")[0], **METHODS[name]}, DataFacts(LEADS, 100))
    length = 150 if any(part in name for part in WHOLE) else 250
    assert compiled_steps(method, length) == (1, 1)


@pytest.mark.parametrize("loss", ["bce", "mse", "cross_entropy"])
@pytest.mark.parametrize(
    "name", [*list(CLASSIFIERS)[:2], pytest.param("fusion", marks=pytest.mark.slow)]
)
def test_a_compiled_classifier_is_one_graph_forward_and_one_backward(name, loss):
    """The defect: the share of known labels was a number of NumPy's, on which the loss branches."""
    if loss != "bce" and name != "plain_encoder":
        pytest.skip("the criterion is the same")
    facts, values = DataFacts(LEADS, 100, num_classes=3), np.arange(24.0).reshape(8, 3) % 5 % 2
    if loss == "cross_entropy":
        values = np.arange(8) % 3
    else:
        values[0, 0] = np.nan
    criterion = Criterion.fitted(loss, ["a", "b", "c"], values)
    task = SupervisedTask(build({"name": name, **CLASSIFIERS[name]}, facts), criterion)
    label = torch.from_numpy(values) if values.ndim == 1 else torch.tensor(values).float()
    assert compiled_steps(task, 150, label) == (1, 1)


def test_an_lstm_cuts_the_graph():
    """Dynamo leaves it out: what docs/training.md says of CPC's."""
    config = {"encoder": {"name": "cpc_lstm", "channels": 8}, "ahead": 3}
    method = build({"name": "cpc", **config}, DataFacts(LEADS, 100))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="LSTM"):
        compiled_steps(method, 250)


@pytest.mark.parametrize("name", ["nano_st_mem", "simclr", "jepa", "cpc"])
def test_what_is_drawn_is_a_function_of_the_samples_keys(name):
    method = build({"name": name, **METHODS[name]}, DataFacts(LEADS, 100)).eval()
    batch = small_batch(150 if name in ("nano_st_mem", "jepa") else 250)
    keys, losses = batch["random"].keys, []
    for _ in range(2):
        losses.append(run_step(method, {**batch, "random": type(batch["random"])(keys)})["loss"])
    assert torch.equal(*losses)
    other = {**batch, "random": type(batch["random"])(keys + 1)}
    assert not torch.equal(run_step(method, other)["loss"], losses[0])


# ============ activation checkpointing, fused updates ============
def saved_bytes(method, batch):
    """(gradients by name, bytes that autograd kept for the backward pass)."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = {**batch, "random": type(batch["random"])(batch["random"].keys)}  # the same mask
    torch.manual_seed(3)  # drop path draws
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run_step(method, batch)["loss"]
    kept = sum(kept.values())
    loss.backward()
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad(set_to_none=True)
    return found, kept


def test_recomputed_blocks_give_the_same_gradients_from_less_memory():
    method = build("nano_st_mem")
    batch, names = small_batch(), list(method.state_dict())
    plain, much = saved_bytes(method, batch)
    recompute_blocks(method)
    again, little = saved_bytes(method, batch)
    assert list(plain) == list(again) and all(
        torch.equal(again[name], plain[name]) for name in plain
    )
    parameters = sum(p.numel() * 4 for p in method.parameters())
    assert little - parameters < (much - parameters) / 2 and list(method.state_dict()) == names


def test_a_run_with_recomputed_blocks_equals_one_without(tmp_path):
    lines = [
        (
            run(
                pretrain,
                ST_MEM,
                tmp_path / str(flag),
                steps_per_epoch=2,
                checkpoint_activations=flag,
            )
            / "log_steps.txt"
        ).read_text()
        for flag in (False, True)
    ]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 2
    with pytest.raises(ConfigError, match="no transformer blocks"):
        run(pretrain, BYOL, tmp_path / "none", checkpoint_activations=True)


def test_fused_and_single_updates_keep_the_same_state():
    """So that a checkpoint fits both."""
    states = []
    for fused in (True, False):
        torch.manual_seed(0)
        block = Block(64, 1)
        train = TrainConfig(epochs=1, weight_decay=0.1, optimizer_kwargs={"fused": fused})
        optimizer = make_optimizer(block, train, 1e-3)
        block(torch.ones(2, 3, 64)).square().sum().backward()
        optimizer.step()
        states.append(optimizer.state_dict())
    first, second = states
    assert [sorted(state) for state in first["state"].values()] == [
        sorted(s) for s in second["state"].values()
    ]
    assert [sorted(group) for group in first["param_groups"]] == [
        sorted(g) for g in second["param_groups"]
    ]
    for number, state in first["state"].items():
        for key, value in state.items():
            assert value.dtype == second["state"][number][key].dtype
            assert torch.allclose(value, second["state"][number][key], rtol=1e-5)
