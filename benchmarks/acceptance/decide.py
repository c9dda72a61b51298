"""The first ten minutes of a GPU: which of the ways of a step should be the default there.

Each part is one of the questions in order: what the card can do; which way of ST-MEM's step is the
fastest, and whether it computes the same; whether a CUDA graph pays for fusion and DINO; and what
else the defaults and docs/reproduce.md need to know.  ``decision`` applies the rules to what the
parts before it have found.
"""

import contextlib
import functools
import gc
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.acceptance import fast
from benchmarks.acceptance.harness import Skip, logged_losses, relative
from benchmarks.acceptance.right import jobs
from benchmarks.timing import interleaved
from models.layers.blocks import Block
from tests.support import golden_models as golden
from util.contract.registry import build
from util.processes.stopping import StopRequest
from util.training.optimizer import autocast
from util.training.step_graph import AGREEMENT, GAIN

# A way of ST-MEM's step becomes the default where it is so much faster, and so near.
STEP_GAIN, STEP_PREDICTIONS, STEP_LOSSES = 1.15, 5e-3, 1e-3
WAYS = {  # of a step: (what is compiled, whether as a CUDA graph)
    "eager": ("", False),
    "eager, graph": ("", True),
    "blocks compiled, graph": ("blocks", True),
    "whole compiled, graph": ("whole", True),
}


def step_rule(gain, predictions, losses) -> bool:
    """Whether a way of ST-MEM's step should be the default."""
    return gain >= STEP_GAIN and predictions <= STEP_PREDICTIONS and losses <= STEP_LOSSES


def graph_rule(gain, losses) -> bool:
    """Whether a CUDA graph should be the default: the rule of train.cuda_graph: trial."""
    return gain >= GAIN and losses <= AGREEMENT


# ============ ways of a step ============
def st_mem(run) -> tuple[str, list, int]:
    """(config, overrides, batch) of ST-MEM's step, base on a GPU."""
    path, overrides, batch = next(iter(fast.models(run.small).values()))
    return path, [*overrides, *["dataset.crop=750", "model.mask_ratio=0.5"] * run.small], batch


@contextlib.contextmanager
def cheap_compiler(run):
    """On a CPU, where Inductor takes minutes, what is compiled is traced and runs as it was."""
    original = torch.compile
    if run.device.type == "cpu":
        torch.compile = functools.partial(original, backend="eager")
    try:
        yield
    finally:
        torch.compile = original


def compile_blocks(run, model) -> None:
    """Compile each transformer block by itself."""
    options = {"backend": "eager"} if run.device.type == "cpu" else {}
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=False, **options)


def keys_of(way) -> dict[str, str]:
    """The keys of ``train`` for a way."""
    compiled, graph = WAYS[way]
    return {"compile": str(compiled == "whole").lower(), "cuda_graph": str(graph).lower()}


def turns(run, path, overrides, batch, ways) -> dict[str, float]:
    """Seconds of a step of this config, way by way in turns, and a row for each."""
    steppers, count = {}, 0
    with cheap_compiler(run):
        for way in ways:
            steps = 1 if run.small else 20
            go, count, training = fast.stepping(
                run, path, overrides, batch, steps=steps, **keys_of(way)
            )
            if WAYS[way][0] == "blocks":
                compile_blocks(run, training.model)
            steppers[way] = go
        times = interleaved(steppers, 1 if run.small else 3, run.device)
    found = {way: times[way].best / count for way in ways}
    for way, seconds in found.items():
        run.row(
            f"{path}, {batch} a step, {way}",
            f"{1000 * seconds:.1f} ms, {batch / seconds:.0f} samples/s "
            f"(spread {times[way].spread:.0%}), {found['eager'] / seconds:.2f} x eager",
        )
    return found


def losses(run, path, overrides, batch, way) -> list[float]:
    """The first losses of this config, by one way."""
    steps = 2 if run.small else 20
    own = [f"train.{key}={value}" for key, value in keys_of(way).items()]
    with cheap_compiler(run):
        training = run.training(
            path,
            *overrides,
            *own,
            f"dataloader.batch_size={batch}",
            f"train.steps_per_epoch={steps}",
        )
        if WAYS[way][0] == "blocks":
            compile_blocks(run, training.model)
        training.train_epoch(StopRequest())
    return logged_losses(training.folder)


def gap(got, want) -> float:
    """The largest relative difference of two lists of losses."""
    return max(abs(a / b - 1) for a, b in zip(got, want, strict=True))


# ============ parts ============
class Shapes(TorchDispatchMode):
    """Counts products by their shapes."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith(("aten.mm.", "aten.addmm.", "aten.bmm.")):
            a, b = args[-2:]
            self.found[tuple(a.shape), tuple(b.shape), a.dtype] += 1
        return function(*args, **(kwargs or {}))


def ceilings(run):
    """What the card can do: a large product, a copy, and the products of ST-MEM's step alone."""
    rate = fast.matmul_rate(run)
    run.row("large product", f"{rate / 1e12:.2f} TFLOP/s")
    source = torch.empty(2**24 if run.small else 2**30, dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    seconds = interleaved({"": lambda: target.copy_(source)}, 5, run.device)[""].best
    run.row("copy, read and written", f"{2 * len(source) / seconds / 1e9:.0f} GB/s")
    path, overrides, batch = st_mem(run)
    _, _, training = fast.stepping(run, path, overrides, batch, cuda_graph="false")
    inputs = training.inputs(next(iter(training.loader)))
    with Shapes() as shapes:
        training.passes([inputs])
    total = 0.0
    for (left, right, dtype), count in shapes.found.items():
        a, b = (torch.ones(shape, dtype=dtype, device=run.device) for shape in (left, right))
        product = {"": lambda a=a, b=b: a @ b}
        total += count * interleaved(product, 3, run.device)[""].best
    run.row(
        f"{path}: its {shapes.found.total()} products of {len(shapes.found)} shapes, one by one",
        f"{1000 * total:.2f} ms: no step is shorter",
    )


def predictions_gap(run, compiled) -> float:
    """bf16 predictions of the golden ST-MEM, compiled or not, against the published float32 ones;
    on a CPU of a tiny one against its own.
    """
    if run.small:
        torch.manual_seed(0)
        model = build("st_mem_vit_tiny_dec128d2b")
        series, noise = torch.randn(2, 12, 2250), torch.rand(2, 12, 30)
        with torch.no_grad():
            want = model({"signal": series}, {"noise": noise})["pred"]
    else:
        name = "st_mem_vit_base_dec256d4b"
        case = golden.GOLDEN["pretrain_forward"][name]
        model = golden.filled(name, norm_pix_loss=False, mask_ratio=case["mask_ratio"]).train()
        series, noise = golden.normal_input(case["input"]), golden.recorded_noise(name)["noise"]
        want = torch.from_numpy(golden.arrays("pred_float32.npz")[name])
    model, series, noise = (each.to(run.device) for each in (model, series, noise))
    if compiled == "blocks":
        compile_blocks(run, model)
    with cheap_compiler(run), torch.no_grad(), autocast(run.device, torch.bfloat16):
        runner = torch.compile(model) if compiled == "whole" else model
        return relative(runner({"signal": series}, {"noise": noise})["pred"], want)


def step_ways(run):
    """ST-MEM's step in four ways; the fastest is held against eager."""
    path, overrides, batch = st_mem(run)
    seconds = turns(run, path, overrides, batch, WAYS)
    gc.collect()
    fastest = min(WAYS, key=seconds.__getitem__)
    gain = seconds["eager"] / seconds[fastest]
    predictions = predictions_gap(run, WAYS[fastest][0])
    off = gap(*(losses(run, path, overrides, batch, way) for way in (fastest, "eager")))
    run.row(
        f"{fastest}: bf16 predictions against float32; losses against eager",
        f"{predictions:.1e}; {off:.1e}",
        None if run.small else predictions <= STEP_PREDICTIONS and off <= STEP_LOSSES,
        "" if run.small else f"{STEP_PREDICTIONS:g}, {STEP_LOSSES:g}, relative",
    )
    if fastest != "eager" and step_rule(gain, predictions, off):
        run.changes.append(f"ST-MEM, MTAE, MLAE: {fastest} ({gain:.2f} x): {keys_of(fastest)}")


def graph_ways(run):
    """Gated fusion and DINO, where the host is the limit: eager against a CUDA graph."""
    for name in ("gated fusion", "DINO signal"):
        path, overrides, batch = fast.models(run.small)[name]
        ways = ("eager", "eager, graph")
        seconds = turns(run, path, overrides, batch, ways)
        off = gap(*(losses(run, path, overrides, batch, way) for way in ways))
        gain = seconds["eager"] / seconds["eager, graph"]
        run.row(f"{name}: losses of the graph against eager", f"{off:.1e}")
        if graph_rule(gain, off):
            run.changes.append(f"{name}: CUDA graph ({gain:.2f} x)")


def published(run):
    """Times the published form at 128 a step, and ours at 256."""
    if not run.small:  # it is a part of its own there
        fast.against_published(run)
    path, overrides, batch = st_mem(run)
    turns(run, path, overrides, 2 * batch, ("eager", "eager, graph"))


def layouts(run):
    """Channels-last for the SE-ResNet, and DINO's loss compiled."""
    fast.layout(run)
    path, overrides, batch = fast.models(run.small)["DINO signal"]
    steppers, count = {}, 0
    for way in ("plain", "loss compiled"):
        steppers[way], count, training = fast.stepping(
            run, path, overrides, batch, cuda_graph="true"
        )
        if way != "plain":
            options = {"backend": "eager"} if run.device.type == "cpu" else {}
            training.model.loss.compile(dynamic=False, **options)
    times = interleaved(steppers, 1 if run.small else 3, run.device)
    rates = {way: count * batch / times[way].best for way in times}
    run.row(
        "DINO signal, plain and with its loss compiled",
        ", ".join(f"{rate:.0f}" for rate in rates.values()) + " samples/s",
    )
    if rates["loss compiled"] >= GAIN * rates["plain"]:
        run.changes.append("DINO: its loss compiled by itself")


def rates(run):
    """Samples a second of what docs/reproduce.md has no GPU number for."""
    tiny = ["model_name=st_mem_vit_tiny"] if run.small else []
    found = {"downstream/st_mem": [*tiny, "train.lr=1e-3"], **jobs(run.small)}
    names = ("simclr_signal", "byol_signal", "jepa", "cpc")
    for path in ("downstream/st_mem", *(f"pretrain/{name}" for name in names)):
        batch = 4 if run.small else 128
        go, steps, _ = fast.stepping(run, path, found[path], batch)
        seconds = interleaved({path: go}, 1 if run.small else 2, run.device)[path].best
        run.row(f"{path}, {batch} a step, defaults", f"{steps * batch / seconds:.0f} samples/s")


def decision(run):
    """Which defaults should change, by the rules."""
    if run.device.type == "cpu":
        raise Skip("a CPU decides nothing; the parts before it ran in small")
    for change in run.changes or ["none"]:
        run.row("default to change", change)


PARTS = {  # name: (function, seconds on a GPU, seconds on a CPU)
    "ceilings": (ceilings, 25, 5),
    "step": (step_ways, 150, 30),
    "graph": (graph_ways, 60, 20),
    "ratio": (published, 40, 15),
    "layouts": (layouts, 60, 10),
    "rates": (rates, 60, 20),
    "decision": (decision, 1, 1),
}
