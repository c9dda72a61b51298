"""The acceptance run's second half: how fast, in how much memory, and whether it learns."""

import gc
import json
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.acceptance.harness import Skip, logged_losses
from benchmarks.acceptance.right import jobs
from benchmarks.reference.st_mem import plain_forward
from benchmarks.timing import interleaved
from main_pretrain import pretrain
from models.layers.blocks import Block
from util.contract.registry import build
from util.data.dataset import make_loader
from util.training.optimizer import autocast

BASE_GFLOP = 64  # a step of ST-MEM base, a sample: 21.3 forward, twice that backward


def matmul_rate(run) -> float:
    """Achieved FLOP/s of a large product, in bf16 on a GPU, in float32 on a CPU."""
    n, dtype = (512, torch.float32) if run.small else (8192, torch.bfloat16)
    a, b = (torch.randn(n, n, device=run.device, dtype=dtype) for _ in range(2))

    def products():
        for _ in range(10):
            a @ b

    return 10 * 2 * n**3 / interleaved({"": products}, 3, run.device)[""].best


def models(small):
    """{name: (config, overrides, batch)} whose speed is measured."""
    found = jobs(small)
    st_mem = found["pretrain/st_mem"]
    sized = (
        {}
        if small
        else {"ST-MEM small": ("pretrain/st_mem", ["model_name=st_mem_vit_small_dec256d4b"], 256)}
    )
    first = "ST-MEM tiny" if small else "ST-MEM base"
    return {
        first: ("pretrain/st_mem", st_mem, 4 if small else 128),
        **sized,
        "DINO signal": ("pretrain/dino_signal", found["pretrain/dino_signal"], 4 if small else 196),
        "gated fusion": (
            "downstream/fusion_gated",
            found["downstream/fusion_gated"],
            4 if small else 128,
        ),
    }


def stepping(run, path, overrides, batch, steps=None, **train):
    """(a function that does ``steps`` of the engine's steps on one batch from the loader, their
    number, the engine).
    """
    steps = steps or (2 if run.small else 20)
    training = run.training(
        path,
        *overrides,
        f"dataloader.batch_size={batch}",
        "train.log_every=1000000",
        *(f"train.{key}={value}" for key, value in train.items()),
    )
    training.model.train()
    batches = [next(iter(training.loader))]

    def go():
        for _ in range(steps):
            training.take_step(batches)
            training.model.after_step(training.progress())
        training.state.meters.pending.clear()

    return go, steps, training


def flop(training) -> float:
    """FLOPs a sample of a forward and backward pass: products and convolutions."""
    batch = next(iter(training.loader))
    counter = FlopCounterMode(display=False)
    with counter, autocast(training.device, training.amp):
        prepared = training.prepare(batch)
        training.model(prepared, training.model.draw(prepared))["loss"].backward()
    training.state.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch["key"])


def speed(run):
    """Samples a second of the engine's step; share of the matmul rate; what the loader gives."""
    rate = matmul_rate(run)
    run.row(
        "matrix product, bf16, n = 8192" if not run.small else "matrix product, float32, n = 512",
        f"{rate / 1e12:.2f} TFLOP/s",
    )
    for name, (path, overrides, batch) in models(run.small).items():
        go, steps, training = stepping(run, path, overrides, batch)
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        samples = steps * batch / interleaved({name: go}, 2, run.device)[name].best
        each = flop(training)
        target = 0.45 if name == "ST-MEM base" else None
        run.row(
            f"{name}, {batch} a step, {str(training.amp)[6:] or 'float32'}",
            f"{samples:.0f} samples/s",
        )
        share = samples * (BASE_GFLOP * 1e9 if name == "ST-MEM base" else each) / rate
        run.row(
            f"{name}: share of the matmul rate at {each / 1e9:.3g} GFLOP a sample, counted",
            f"{share:.0%}",
            share >= target if target else None,
            f"{target:.0%}" if target else "",
        )
        if run.device.type == "cuda":
            run.row(f"{name}: peak memory", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        loading(run, name, training, samples)
        del go, training


def loading(run, name, training, samples):
    """The loader alone, with the workers that a machine of this size has."""
    workers = 0 if run.small else 8
    loader = make_loader(training.dataset, training.batches, num_workers=workers, pin_memory=True)
    count = sum(len(batch["key"]) for batch in loader)  # the workers start
    began, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch["key"])
    given = count / (time.perf_counter() - began)
    run.row(
        f"{name}: the loader alone, {workers} workers; the limit is",
        f"{given:.0f} samples/s; {'the loader' if given < samples else 'the step'}",
    )


def published_step(run, batch):
    """A step as published: fp16 autocast, attention written out, decoder lead by lead, the loss
    read every step.
    """
    torch.manual_seed(0)
    model = build(f"st_mem_vit_{'tiny_dec128d2b' if run.small else 'base_dec256d4b'}").to(
        run.device
    )
    weights = dict(model.state_dict(keep_vars=True))
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=1e-4, betas=(0.9, 0.95)
    )
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.device.type == "cuda")
    series = torch.randn(batch, 12, 2250)

    def step():
        x = series.to(run.device)
        with autocast(run.device, torch.float16 if run.device.type == "cuda" else None):
            loss = plain_forward(weights, x, torch.rand(batch, 12, 30, device=run.device))["loss"]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.item()

    return lambda steps: [step() for _ in range(steps)]


def against_published(run):
    """Our step and the published form of it take turns."""
    path, overrides, batch = next(iter(models(run.small).values()))
    ours, steps, _ = stepping(run, path, overrides, batch)
    published, few = published_step(run, batch), max(steps // 4, 1)
    times = interleaved({"published": lambda: published(few), "ours": ours}, 2, run.device)
    seconds = {"published": times["published"].best / few, "ours": times["ours"].best / steps}
    run.row("ST-MEM, published form", f"{batch / seconds['published']:.0f} samples/s")
    ratio, target = seconds["published"] / seconds["ours"], 5 if run.device.type == "cuda" else None
    run.row(
        "ST-MEM: times the published form",
        f"{ratio:.2f} (spread {times['ours'].spread:.0%})",
        ratio >= target if target else None,
        f"{target}" if target else "",
    )


def compiled_speed(run):
    """What ``train.compile`` gains a step and costs at the start: of the whole method, and of
    transformer blocks alone.
    """
    if run.device.type == "cpu":
        raise Skip(
            "Inductor takes minutes on a CPU; tests/util/training/test_gpu_step.py counts its "
            "graphs"
        )
    rate = matmul_rate(run)
    for name in (
        "gated fusion",
        "ST-MEM base",
    ):  # the host is the limit of one, memory traffic of the other
        path, overrides, batch = models(run.small)[name]
        for way in ("blocks", "whole"):
            torch._dynamo.reset()
            go, steps, training = stepping(
                run, path, overrides, batch, compile=str(way == "whole").lower()
            )
            blocks = [module for module in training.model.modules() if isinstance(module, Block)]
            if way == "blocks":
                for block in blocks:
                    block.compile(dynamic=False)
            if way == "blocks" and not blocks:
                continue
            began = time.perf_counter()
            go()
            torch.cuda.synchronize()
            first = time.perf_counter() - began
            samples = steps * batch / interleaved({way: go}, 2, run.device)[way].best
            share = (
                f", {samples * BASE_GFLOP * 1e9 / rate:.0%} of the matmul rate"
                if name == "ST-MEM base"
                else ""
            )
            run.row(
                f"{name}, {batch} a step, compiled: {way}",
                f"{samples:.0f} samples/s{share}; its first {steps} steps take {first:.0f} s",
            )
            del go, training, blocks
            gc.collect()


def profile(run):
    """Where a step's time goes: the share in which the device computes, and its most costly
    kernels in profile.txt.
    """
    from torch.profiler import ProfilerActivity

    on_gpu = run.device.type == "cuda"
    for name, (path, overrides, batch) in models(run.small).items():
        go, steps, _ = stepping(run, path, overrides, batch, steps=2)
        go()
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
        seconds = interleaved({name: go}, 2, run.device)[name].best
        with torch.profiler.profile(activities=activities) as found:
            go()
        averages = found.key_averages()
        own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        busy = (
            sum(
                getattr(each, own)
                for each in averages
                if on_gpu == (each.device_type.name == "CUDA")
            )
            / 1e6
        )
        with open(run.out / "profile.txt", "a") as file:
            file.write(
                f"==== {name}, {steps} steps of "
                f"{batch}\n{averages.table(sort_by=own, row_limit=25)}\n"
            )
        kernels = sum(each.count for each in averages if each.device_type.name == "CUDA")
        run.row(
            f"{name}: a step's time, and how much of it the device computes",
            f"{1000 * seconds / steps:.1f} ms, {busy / seconds:.0%}"
            + (f"; {kernels // steps} kernels" if on_gpu else ""),
        )


def memory(run):
    """Peak memory of a step on long crops, with and without activation checkpointing."""
    if run.device.type == "cpu":
        raise Skip(
            "peak memory is a GPU's; tests/util/training/test_gpu_step.py counts what autograd "
            "keeps"
        )
    peaks = []
    for flag in ("false", "true"):
        go = stepping(
            run,
            "pretrain/st_mem",
            jobs(False)["pretrain/st_mem"],
            64,
            steps=2,
            checkpoint_activations=flag,
        )[0]
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        go()
        peaks.append(torch.cuda.max_memory_allocated() / 2**30)
        del go
    run.row(
        "ST-MEM base, 64 a step: peak without and with checkpoint_activations",
        f"{peaks[0]:.1f}, {peaks[1]:.1f} GiB",
        peaks[1] < peaks[0],
        "less",
    )


def layout(run):
    """Channels-last or not for the SE-ResNet."""
    overrides, batch = jobs(run.small)["downstream/spectrogram"], 4 if run.small else 256
    plain, steps, _ = stepping(run, "downstream/spectrogram", overrides, batch)
    last, _, training = stepping(run, "downstream/spectrogram", overrides, batch)
    training.model.to(memory_format=torch.channels_last)
    times = interleaved({"plain": plain, "channels-last": last}, 3, run.device)
    won = min(times, key=lambda name: times[name].best)
    run.row(
        "SE-ResNet-34 step, plain and channels-last",
        ", ".join(f"{steps * batch / each.best:.0f}" for each in times.values())
        + f" samples/s: {won} wins",
    )


def learning(run):
    """A short real pre-training on simulated ECGs: loss curve as PNG, linear probe before and
    after.
    """
    size, epochs, batch = ("tiny_dec128d2b", 2, 16) if run.small else ("small_dec256d4b", 40, 128)
    config = run.config(
        "pretrain/st_mem",
        f"model_name=st_mem_vit_{size}",
        "model.mask_ratio=0.5",
        f"train.epochs={epochs}",
        f"train.warmup_epochs={epochs / 10}",
        "train.lr=1e-3",
        f"train.probe_every={epochs}",
        f"dataloader.batch_size={batch}",
        "dataset.exclude_folds=[0, 1]",
        overlays=["short_crops"],
        name="learning",
    )
    folder = pretrain(config)
    losses, last = (
        logged_losses(folder),
        json.loads(Path(folder / "log.txt").read_text().splitlines()[-1]),
    )
    draw(losses, run.out / "loss.png")
    before, after = last["probe_auroc_untrained"], last["probe_auroc"]
    run.row(
        f"ST-MEM, {len(losses)} steps: loss, first and last (loss.png)",
        f"{losses[0]:.4f}, {losses[-1]:.4f}",
        losses[-1] < losses[0],
        "falls",
    )
    run.row(
        "linear probe's AUROC before and after",
        f"{before:.4f}, {after:.4f}",
        None if run.small else after > before,
        "" if run.small else "rises",
    )


def draw(losses, path):
    """The curve of the losses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    axes.plot(losses, linewidth=0.8)
    figure.savefig(path, dpi=80)
