"""The step as a CUDA graph, by a stand-in on a CPU: every bit is the plain step's, and nothing
that a graph would repeat changes.
"""

import contextlib
import functools
from types import SimpleNamespace

import pytest
import torch

import main_pretrain
from main_finetune import finetune
from main_pretrain import pretrain
from models.layers.heads import mlp
from tests.support import (
    jobs,  # noqa: F401  (registers the tiny models)
    small_store,
    tiny_encoder,  # noqa: F401  (registers plain_encoder)
)
from tests.support.graph_stand_in import Changed, StandIn
from tests.support.tiny_encoder import Plain
from tests.support.tiny_jobs import CNN, DINO, LOADER, ST_MEM, VIT, accumulating, with_store
from tests.support.two_processes import run_processes
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check
from util.contract.method import Method
from util.contract.registry import register
from util.errors import ECGError
from util.processes import collectives
from util.training import engine, step_graph
from util.weights import checkpoint

STILL = {**ST_MEM, "model": {"drop_path_rate": 0.0}}
VIEWS = {"encoder": "plain_encoder", "head_width": 16}
ADAMW = {**DINO["train"], "optimizer": "adamw", "optimizer_kwargs": {}}
DECAY = {"weight_decay": 0.1, "weight_decay_end": 0.4}
TEACHERS = {
    "byol": {**DINO, "train": ADAMW, "model_name": "byol", "model": {**VIEWS, "head_out": 8}},
    "dino": {
        **DINO,
        "train": {**ADAMW, **DECAY},
        "model": {**VIEWS, "bottleneck": 8, "head_out": 32, "freeze_last_layer": 1},
    },
    "jepa": {
        **ST_MEM,
        "model_name": "jepa",
        "model": {
            "block": 1,
            "predictor_depth": 1,
            "encoder": {"name": "mean_vit_tiny", "seq_len": 150, "patch_size": 15},
        },
    },
}
JOBS = {
    "st_mem": (pretrain, STILL, {}),
    "st_mem, accumulated, clipped": (pretrain, accumulating(STILL), {"max_norm": 0.1}),
    "st_mem, scheduled decay": (pretrain, STILL, {**DECAY, "max_norm": 1.0}),
    "st_mem, bf16": (pretrain, STILL, {"amp": "bf16"}),
    "byol": (pretrain, TEACHERS["byol"], {"max_norm": 1.0}),
    "dino, prototypes thaw": (pretrain, TEACHERS["dino"], {}),
    "dino thaws, sgd": (pretrain, {**TEACHERS["dino"], "train": DINO["train"]}, {}),
    "jepa": (pretrain, TEACHERS["jepa"], DECAY),
    "cnn": (finetune, CNN, {"layer_decay": 0.5, "epochs": 3}),
    "vit thaws": (finetune, {**VIT, "model": {}}, {"max_norm": 1.0, "epochs": 3}),
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(main_pretrain, "draw_reconstruction", lambda *given: None)


def run(program, config, folder, **train):
    """Twelve steps in two epochs; (lines of the log, last checkpoint)."""
    kind = PretrainConfig if program is pretrain else FinetuneConfig
    own = {"output_dir": str(folder), "exp_name": "run", "device": "cpu", "resume": "auto"}
    config = with_store(config, steps_per_epoch=6, **train)
    program(check({**config, **own}, kind))
    saved = checkpoint.load(folder / "run" / "checkpoint-last.pth")
    return (folder / "run" / "log_steps.txt").read_text(), saved


def replayed(monkeypatch, make_recorder=StandIn):
    """From now on, steps on this CPU are replayed by a stand-in."""

    def reasons(run):
        return [each for each in step_graph.plain_reasons(run) if each != "it runs on a CPU"]

    monkeypatch.setattr(engine, "plain_reasons", reasons)
    graph = functools.partial(step_graph.StepGraph, make_recorder=make_recorder)
    monkeypatch.setattr(engine, "StepGraph", graph)
    StandIn.replays = 0


def assert_same(got, want):
    (lines, saved), (wanted_lines, wanted) = got, want
    assert lines == wanted_lines and len(lines.splitlines()) == 12
    for part in ("model", "optimizer"):
        flat, tree = torch.utils._pytree.tree_flatten(saved[part])
        wanted_flat, wanted_tree = torch.utils._pytree.tree_flatten(wanted[part])
        assert tree == wanted_tree
        for a, b in zip(flat, wanted_flat):
            same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            assert same and type(a) is type(b)


@pytest.mark.parametrize("name", JOBS)
def test_twelve_replayed_steps_are_the_plain_ones(name, tmp_path, monkeypatch):
    program, config, train = JOBS[name]
    plain = run(program, config, tmp_path / "plain", **train)
    replayed(monkeypatch)
    got = run(program, config, tmp_path / "graph", cuda_graph=True, **train)
    assert_same(got, plain)
    thaws = "thaw" in name
    most = (12 - step_graph.WARM_UP) * (2 if "dino" in name else 1)
    assert most - 2 * step_graph.WARM_UP * thaws <= StandIn.replays <= most


def test_what_is_logged_of_a_step_outlives_the_next_replay(tmp_path, monkeypatch):
    """Replays write into the same tensors, and a line of the log is a mean over several steps."""
    wanted, _ = run(pretrain, STILL, tmp_path / "plain", log_every=3)
    replayed(monkeypatch)
    lines, _ = run(pretrain, STILL, tmp_path / "graph", log_every=3, cuda_graph=True)
    assert lines == wanted and StandIn.replays == 12 - step_graph.WARM_UP


def test_a_resumed_run_is_captured_anew_and_ends_alike(tmp_path, monkeypatch):
    plain = run(pretrain, STILL, tmp_path / "plain", **DECAY)
    replayed(monkeypatch)
    step, taken = engine.Training.take_step, []

    def killed(self, batches):
        taken.append(1)
        if len(taken) == 6:
            raise InterruptedError
        step(self, batches)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(engine.Training, "take_step", killed)
        run(pretrain, STILL, tmp_path / "graph", cuda_graph=True, **DECAY)
    before = StandIn.replays
    got = run(pretrain, STILL, tmp_path / "graph", cuda_graph=True, **DECAY)
    assert before == 2 and StandIn.replays == before + 8 - step_graph.WARM_UP
    assert_same(got, plain)


def test_what_is_compiled_is_not_compiled_again_for_fixed_tensors(tmp_path, monkeypatch):
    """A compilation within a capture would end it."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    replayed(monkeypatch)
    for number, cuda_graph in enumerate((False, True), 1):
        torch._dynamo.reset()
        folder = tmp_path / str(cuda_graph)
        lines, _ = run(pretrain, TEACHERS["byol"], folder, compile=True, cuda_graph=cuda_graph)
        assert len(graphs) == number and len(lines.splitlines()) == 12
    assert StandIn.replays == 12 - step_graph.WARM_UP


# ============ several processes ============
HALF = {"dataloader": {**LOADER, "batch_size": 4}}  # two processes take as many steps as one
SHARED = {
    "st_mem, accumulated, clipped": (
        {**accumulating(STILL), "dataloader": {**LOADER, "batch_size": 2}},
        {"max_norm": 0.1},
    ),
    "dino, prototypes thaw": ({**TEACHERS["dino"], **HALF}, {}),
    "failing": ({**STILL, **HALF}, {}),
}


@contextlib.contextmanager
def shared_runs(name, store):
    """On one of several processes: a function like ``run`` with this config and store."""
    config, train = SHARED[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_pretrain, "draw_reconstruction", lambda *given: None)
        patch.setattr(small_store, "store", lambda: store)
        patch.setattr(step_graph, "WARM_UP_SHARED", step_graph.WARM_UP)
        yield patch, functools.partial(run, pretrain, config, **train)


def plain_and_replayed(name, store, folder):
    """(what ``run`` returns of the plain steps, of the replayed ones, number of replays)."""
    with shared_runs(name, store) as (patch, run_in):
        plain = run_in(folder / "plain")
        replayed(patch)
        return plain, run_in(folder / "graph", cuda_graph=True), StandIn.replays


@pytest.mark.parametrize(
    "name",
    ["st_mem, accumulated, clipped", pytest.param("dino, prototypes thaw", marks=pytest.mark.slow)],
)
def test_replayed_steps_of_two_processes_are_the_plain_ones(name, tmp_path):
    """DDP's exchange is within what is replayed; gloo's here, which no CUDA graph could hold."""
    results = run_processes(plain_and_replayed, 2, name, small_store.store(), tmp_path)
    for plain, got, replays in results:
        assert_same(got, plain)
        assert replays >= 12 - 2 * step_graph.WARM_UP
    assert head(tmp_path / "graph")[0].endswith(
        " on each of 2 processes, which exchange their gradients within it"
    )


class FailingOnOne(StandIn):
    """Fails on the second of two processes."""

    def record(self, function):
        if collectives.rank() == 1:
            raise RuntimeError("out of memory")
        return super().record(function)


def failing_on_one(store, folder):
    """What is said where one of two processes cannot capture its step."""
    with shared_runs("failing", store) as (patch, run_in), pytest.raises(ECGError) as failure:
        replayed(patch, FailingOnOne)
        run_in(folder, cuda_graph=True)
    return str(failure.value)


def test_a_capture_that_fails_on_one_process_ends_all(tmp_path):
    """It would exchange other gradients than they do, or wait for ever."""
    said = run_processes(failing_on_one, 2, small_store.store(), tmp_path)
    beginning = "the step could be captured as a CUDA graph on 1 of 2 processes: "
    cure = "; resume with --set train.cuda_graph=false"
    assert said == [
        f"{beginning}{why}{cure}"
        for why in ("not on another one", "it cannot be captured (RuntimeError: out of memory)")
    ]


@pytest.mark.parametrize("watched", ["0", "1", ""])
def test_what_nccl_watches_is_not_captured(watched, monkeypatch):
    monkeypatch.setenv(collectives.WATCHED, watched)
    monkeypatch.setattr(collectives, "world", lambda: 2)
    model = torch.nn.Linear(1, 1)
    run = SimpleNamespace(
        config=check({**STILL, "train": {**STILL["train"], "cuda_graph": True}}, PretrainConfig),
        device=torch.device("cuda"),
        state=SimpleNamespace(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), fused=True),
            scaler=SimpleNamespace(is_enabled=lambda: False),
        ),
    )
    reason = "NCCL watches what 2 processes exchange (TORCH_NCCL_ASYNC_ERROR_HANDLING is not 0)"
    assert step_graph.plain_reasons(run) == [reason] * (watched != "0")


@pytest.mark.parametrize("chosen", ["trial", True])
def test_several_processes_capture_where_they_are_asked_to(chosen, tmp_path, monkeypatch):
    """And after eleven steps, as DDP times the first ten."""
    found, make = [], step_graph.StepGraph.__init__

    def making(self, run, reasons, **options):
        monkeypatch.setattr(collectives, "world", lambda: 2)
        found.extend(step_graph.plain_reasons(run))
        make(self, run, reasons, **options)
        found.append(self.warm_up)
        raise InterruptedError

    monkeypatch.setattr(step_graph.StepGraph, "__init__", making)
    with pytest.raises(InterruptedError):
        run(pretrain, STILL, tmp_path, cuda_graph=chosen)
    reason = "train.cuda_graph: trial is for one process, and 2 share it (true captures several)"
    assert found == ["it runs on a CPU", *[reason] * (chosen == "trial"), 11]


# ============ what a graph would get wrong ============
class Counting(Method):
    """Its loss depends on a number of the host's, or on a new tensor, or it draws by itself."""

    def __init__(self, fault):
        super().__init__()
        self.encoder, self.head, self.fault, self.calls = Plain(), mlp(8, 4), fault, 0

    def forward(self, batch, drawn):
        self.calls += 1
        out = self.head(self.encoder.forward_features(batch["signal"])).square().mean()
        if self.fault == "number":
            out = out * (1 + 0.1 * self.calls)
        if self.fault == "tensor":
            self.kept = torch.full((4,), float(self.calls))
            out = out + torch.from_numpy(self.kept.numpy()).mean() * out
        if self.fault == "draw":
            out = out * batch["random"].uniform(1).mean()
        return {"loss": out}


@register
def counting(fault=""):
    """For tests."""
    return Counting(fault)


@pytest.mark.parametrize("fault", ["number", "tensor"])
def test_a_changed_number_or_address_is_noticed(fault, tmp_path, monkeypatch):
    replayed(monkeypatch)
    config = {**ST_MEM, "model_name": "counting", "model": {"fault": fault}}
    with pytest.raises(Changed, match="operation"):
        run(pretrain, config, tmp_path, cuda_graph=True)


@pytest.mark.parametrize("change", ["rate", "batch"])
def test_a_rate_or_a_batch_that_is_not_filled_in_is_noticed(change, tmp_path, monkeypatch):
    replayed(monkeypatch)
    graph, fill = step_graph.StepGraph, step_graph.StepGraph._fill

    def replacing(self, prepared):
        self.buffers = []
        return fill(self, prepared)

    if change == "rate":
        monkeypatch.setattr(graph, "_update", lambda self: self.run.update() or [])
    else:
        monkeypatch.setattr(graph, "_fill", replacing)
    with pytest.raises(Changed, match="_fused_adamw_" if change == "rate" else "operation"):
        run(pretrain, STILL, tmp_path, cuda_graph=True)


class Failing(StandIn):
    """Fails at the recording of this number."""

    fails_at = 1

    def __init__(self, device):
        super().__init__(device)
        self.recorded = 0

    def record(self, function):
        self.recorded += 1
        if self.recorded == self.fails_at:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return super().record(function)


@pytest.mark.parametrize(
    "fails_at, config", [(1, STILL), (1, TEACHERS["dino"]), (2, TEACHERS["dino"])]
)
def test_what_cannot_be_captured_is_said_and_trained_plainly(
    fails_at, config, tmp_path, monkeypatch
):
    plain = run(pretrain, config, tmp_path / "plain")
    monkeypatch.setattr(Failing, "fails_at", fails_at)
    replayed(monkeypatch, Failing)
    assert_same(run(pretrain, config, tmp_path / "graph", cuda_graph=True), plain)
    assert head(tmp_path / "graph")[-1].endswith(
        "it cannot be captured (RuntimeError: operation not permitted when stream is capturing)"
    )


def test_a_forward_pass_that_draws_by_itself_is_not_captured(tmp_path, monkeypatch):
    """It would repeat its numbers: masks and views are drawn by ``draw``, before the replay."""
    config = {**ST_MEM, "model_name": "counting", "model": {"fault": "draw"}}
    plain = run(pretrain, config, tmp_path / "plain")
    replayed(monkeypatch)
    assert_same(run(pretrain, config, tmp_path / "graph", cuda_graph=True), plain)
    assert "it cannot be captured (AttributeError: " in head(tmp_path / "graph")[-1]
    assert StandIn.replays == 0


def test_batches_of_another_shape_are_warmed_up_anew(tmp_path, monkeypatch):
    replayed(monkeypatch)
    inputs, calls = engine.Training.inputs, []

    def shorter(self, batch):
        calls.append(1)
        ready, drawn = inputs(self, batch)
        if len(calls) > 7:
            ready = {**ready, "signal": ready["signal"][:4]}
            drawn = {"noise": drawn["noise"][:4]}
        return ready, drawn

    monkeypatch.setattr(engine.Training, "inputs", shorter)
    run(pretrain, STILL, tmp_path, cuda_graph=True)
    # 4 to 7 replayed; 8 does not fit; plain 8 to 11; 12 replayed
    assert StandIn.replays == 5


# ============ which path, and why ============
def head(folder):
    said = (folder / "run" / "console.txt").read_text()
    return [line for line in said.splitlines() if "CUDA graph" in line]


def test_every_reason_for_the_plain_path_is_said(tmp_path):
    run(
        pretrain,
        ST_MEM,
        tmp_path,
        epochs=1,
        optimizer="lars",
        amp="fp16",
        skip_nonfinite=1,
        checkpoint_activations=True,
        cuda_graph=False,
        **DECAY,
    )
    assert head(tmp_path) == [
        "the step takes the plain path, not one CUDA graph: it runs on a CPU; "
        "train.skip_nonfinite looks at every loss; fp16 scales its losses; "
        "train.optimizer lars is not one fused kernel; lars decays within its kernel, and "
        "train.weight_decay_end changes the decay; dropout or drop path draws random numbers; "
        "train.checkpoint_activations computes blocks twice; train.cuda_graph is false"
    ]


@pytest.mark.parametrize(
    "model, random",
    [
        ({"name": "xresnet1d50", "channels": 2}, False),
        ({"name": "vit_tiny", "seq_len": 150}, False),
        ({"name": "vit_tiny", "seq_len": 150, "attn_drop_out_rate": 0.1}, True),
        ({"name": "vit_tiny", "seq_len": 150, "drop_path_rate": 0.1}, True),
        ({"name": "cpc_s4", "channels": 8, "layers": 1}, True),
        ({"name": "cpc_s4", "channels": 8, "layers": 1, "dropout": 0.0}, False),
    ],
)
def test_modules_that_draw_random_numbers_are_found(model, random):
    from util.contract.registry import DataFacts, build
    from util.leads import LEADS

    built = build(model, DataFacts(LEADS, 100))
    assert any(map(step_graph._draws, built.modules())) == random


class Fast(StandIn):
    """Replays seem to take ``seconds``, plain steps ten."""

    seconds, spoilt = 1.0, 0.0

    def __init__(self, device):
        super().__init__(device)
        self.times = iter([0.0, 10.0, 10.0, 10.0 + self.seconds])
        self.clock = lambda: next(self.times)

    def record(self, function):
        replay = super().record(function)

        def spoiling():
            out = replay()
            return [out[0] * (1 + self.spoilt), *out[1:]]

        return spoiling


@pytest.mark.parametrize(
    "seconds, spoilt, said, taken",
    [
        (5.0, 0.0, "the step runs as one CUDA graph: a trial found it 2.00 times as fast", True),
        (9.8, 0.0, "plain path, not one CUDA graph: a trial found it 1.02 times as fast", False),
        (5.0, 1e-3, "losses within 1e-03 (bounds: 1.05, 1e-05)", False),
    ],
)
def test_a_trial_decides_and_leaves_no_trace(seconds, spoilt, said, taken, tmp_path, monkeypatch):
    plain = run(pretrain, STILL, tmp_path / "plain")
    monkeypatch.setattr(Fast, "seconds", seconds)
    monkeypatch.setattr(Fast, "spoilt", spoilt)
    replayed(monkeypatch, Fast)
    got = run(pretrain, STILL, tmp_path / "trial", cuda_graph="trial")
    first, second = head(tmp_path / "trial")
    assert first == "a trial after 3 steps decides whether the step runs as one CUDA graph"
    assert said in second
    trial = 2 + step_graph.TRIAL
    assert StandIn.replays == trial + (12 - step_graph.WARM_UP) * taken
    assert_same(got, plain)


def test_auto_takes_the_plain_path_until_a_gpu_has_been_measured(tmp_path):
    run(pretrain, STILL, tmp_path, epochs=1)
    assert head(tmp_path) == [
        "the step takes the plain path, not one CUDA graph: it runs on a CPU; train.cuda_graph is "
        "auto, and no GPU has been measured yet (trial tries it)"
    ]


def test_dino_says_that_its_graphs_are_two(tmp_path, monkeypatch):
    replayed(monkeypatch, Fast)
    run(pretrain, TEACHERS["dino"], tmp_path, cuda_graph="trial")
    assert "two CUDA graphs, before and after before_step" in head(tmp_path)[0]


def test_a_capture_that_fails_leaves_the_stream_as_it_was(monkeypatch):
    """The calls of the real recorder, as far as there is no GPU; PyTorch's own context leaves the
    side stream behind.
    """
    calls = []

    class Stream:
        def __init__(self, device="cuda"):
            self.device = device

        def wait_stream(self, other):
            calls.append("wait")

    @contextlib.contextmanager
    def capture(graph, pool, stream, capture_error_mode):
        calls.append(capture_error_mode)
        yield

    current = Stream()
    fakes = {
        "Stream": Stream,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: calls.append("replay")),
        "graph": capture,
        "graph_pool_handle": lambda: (0, 1),
        "current_stream": lambda device: current,
        "set_stream": lambda stream: calls.append(stream is current),
        "stream": lambda stream: contextlib.nullcontext(),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": calls.append,
    }
    for name, fake in fakes.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, fake)
    recorder = step_graph.CudaRecorder("cuda")
    assert recorder.record(lambda: ["out"])() == ["out"]
    with pytest.raises(ZeroDivisionError):
        recorder.record(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), recorder.rehearsing():
        calls.append(1 / 0)
    assert calls == ["thread_local", True, "replay", "thread_local", True, "error", "wait", 0]
