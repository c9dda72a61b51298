"""The acceptance run's first parts: a GPU computes what a CPU computes, alone and together, to
the end and resumed.
"""

import functools
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.acceptance.harness import Skip, exact_products, logged_losses, relative
from benchmarks.fault_injection import differences
from main_pretrain import pretrain
from models.methods.mae import draw_mask
from tests.support import golden_models as golden
from util.config.load import save_config
from util.data.dataset import to_device
from util.keyed_random import KeyedRandom
from util.processes import batch_norm, collectives
from util.processes.stopping import StopRequest
from util.signals.transforms import build_pipeline
from util.signals.views import VIEW_PRESETS, Views

ROOT = Path(__file__).resolve().parents[2]
AUGMENT = {
    "op_names": [
        "shift",
        "cutout",
        "drop",
        "flip",
        "erase",
        "sine",
        "partial_sine",
        "partial_white_noise",
    ]
}
FILTERS = ["random_crop", {"highpass_filter": {"cutoff": 0.67}}, {"lowpass_filter": {"cutoff": 40}}]
NARROW = {
    "signal": ["model.channels=4"],
    "spectrogram": ["model.channels=2"],
    "fusion_gated": ["model.signal.channels=4", "model.spectrogram.channels=2"],
}


def data(run):
    """The simulated ECGs that the other parts train on."""
    run.row(
        "simulated, extracted and stored at 100 and 250 Hz",
        run.store.name + " made",
        True,
        "runs to its end",
    )


# ============ golden ============
def golden_parity(run):
    """The published code's numbers (tests/golden): loss, every predicted value, gradients'
    norms.
    """
    for name in ["mtae_vit_base_dec256d4b"] if run.small else golden.GOLDEN["pretrain_forward"]:
        case, noise = (
            golden.GOLDEN["pretrain_forward"][name],
            golden.recorded_noise(name)["noise"].to(run.device),
        )
        model = golden.filled(name, norm_pix_loss=False, mask_ratio=case["mask_ratio"])
        model = model.to(run.device).train()
        series = golden.normal_input(case["input"]).to(run.device)
        recorded = torch.from_numpy(golden.arrays("pred_float32.npz")[name])
        want = case["float32"]["norm_pix_false"]
        with exact_products():
            out = model({"signal": series}, {"noise": noise})
            out["loss"].backward()
        gap = float((out["pred"].detach().cpu() - recorded).abs().max())
        run.row(
            f"{name}, float32, TF32 off: largest difference of a predicted value",
            f"{gap:.1e}",
            gap < 2e-5,
            "2e-5",
        )
        off = abs(out["loss"].item() - want["loss"])
        run.row(f"{name}, float32: difference of the loss", f"{off:.1e}", off < 5e-6, "5e-6")
        gradients = dict(model.named_parameters())
        worst = max(
            abs(gradients[key].grad.double().norm().item() / value - 1)
            for key, value in want["grad_l2"].items()
        )
        run.row(
            f"{name}, float32: largest difference of a gradient's norm",
            f"{worst:.1e}",
            worst < 5e-4,
            "5e-4, relative",
        )
        for dtype, bound in ((torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
            with torch.no_grad(), torch.autocast(run.device.type, dtype):
                pred = model({"signal": series}, {"noise": noise})["pred"]
            gap = relative(pred, recorded)
            run.row(
                f"{name}, {str(dtype)[6:]}: predictions",
                f"{gap:.1e}",
                gap < bound,
                f"{bound:.0e}, relative L2",
            )


# ============ random numbers and what is made of them ============
def random_numbers(run):
    """Integer arithmetic is exact: equal to the CPU's bit for bit.  Logarithms, cosines, sums and
    Fourier transforms are other programs on a GPU, which may round the last bit another way.
    """
    keys = torch.arange(64, dtype=torch.int64) * 7919 - 100
    here, there = (lambda: KeyedRandom(keys)), (lambda: KeyedRandom(keys.to(run.device)))
    for name, draw in {
        "uniform": lambda r: r.uniform(12, 30),
        "integers": lambda r: r.integers(10**9, 50),
        "permutation": lambda r: r.permutation(100),
        "masks": lambda r: torch.cat(draw_mask(r.uniform(12, 30), 0.75)[1:], -1),
    }.items():
        same = torch.equal(draw(here()), draw(there()).cpu())
        run.row(f"{name} as on the CPU", "equal" if same else "different", same, "every bit")
    gap = float((here().normal(500) - there().normal(500).cpu()).abs().max())
    run.row("normal (logarithm, cosine): largest difference", f"{gap:.1e}", gap < 5e-6, "5e-6")
    counts = torch.randint(
        -3000, 3000, (64, 2250, 12), dtype=torch.int16, generator=torch.Generator().manual_seed(0)
    )
    batch = {"counts": counts, "scale": torch.rand(64) / 1000, "key": keys}
    cpu, stream = to_device(batch, torch.device("cpu")), None
    if run.device.type == "cuda":
        batch, stream = (
            {name: value.pin_memory() for name, value in batch.items()},
            torch.cuda.Stream(run.device),
        )
    moved = to_device(batch, run.device, stream)
    same = torch.equal(cpu["signal"], moved["signal"].cpu())
    run.row(
        "crops in mV, copied on a stream of their own",
        "equal" if same else "different",
        same,
        "every bit",
    )
    made = {
        "filters (Fourier transform)": (build_pipeline(FILTERS, length=2250, fs=250), 1e-5),
        "filters, standardised, RandAugment": (
            build_pipeline([*FILTERS, "standardize"], length=2250, fs=250, rand_augment=AUGMENT),
            1e-4,
        ),
    }
    for name, (pipeline, bound) in made.items():
        want = pipeline(cpu["signal"], here())
        gap = relative(pipeline.to(run.device)(moved["signal"], there()), want)
        run.row(
            f"{name}: difference from the CPU",
            f"{gap:.1e}",
            gap < bound,
            f"{bound:.0e}, relative L2",
        )
    for name in VIEW_PRESETS:
        parts = (
            Views(name)(part["signal"][..., :250], draws)
            for part, draws in ((cpu, here()), (moved, there()))
        )
        gap = max(relative(ours, want) for want, ours in zip(*parts, strict=True))
        # A resized crop interpolates at places up to 250, which float32 rounds by 1.5e-5 of a
        # sample; this is white noise.
        bound = 1e-4 if "dino_signal" in name else 1e-5
        run.row(
            f"views {name}: largest difference from the CPU",
            f"{gap:.1e}",
            gap < bound,
            f"{bound:.0e}, relative L2",
        )


# ============ training jobs ============
def jobs(small):
    """{config: overrides} of every method and branch: as published on a GPU, narrow on a CPU."""
    encoder = [
        f"model.encoder.channels={2 if small else 64}",
        "train.optimizer=adamw",
        "train.lr=1e-3",
    ]
    dino = [*encoder, f"model.head_out={64 if small else 65536}", "train.weight_decay_end=null"]
    found = {
        f"pretrain/{name}": dino if "dino" in name else encoder
        for name in ("simclr_signal", "byol_signal", "dino_signal", "dino_spectrogram")
    }
    size = "tiny_dec128d2b" if small else "base_dec256d4b"
    found |= {
        f"pretrain/{name}": [f"model_name={name}_vit_{size}", "train.lr=3e-4"]
        for name in ("st_mem", "mtae", "mlae")
    }
    found["pretrain/jepa"] = [
        f"model.encoder.name=mean_vit_{'tiny' if small else 'small'}",
        "train.lr=3e-4",
    ]
    found["pretrain/cpc"] = found["pretrain/cpc_s4"] = [
        f"model.encoder.channels={32 if small else 512}",
        "train.lr=3e-3",
    ]
    for name in ("signal", "spectrogram", "fusion_gated"):
        found[f"downstream/{name}"] = ["train.lr=1e-3", *NARROW[name] * small]
    tiny = ["model.signal.name=st_mem_vit_tiny", "model.spectrogram.channels=2"] if small else []
    return found | {"downstream/fusion_st_mem": [*tiny, "train.lr=3e-4"]}


RESTLESS = (
    "simclr",
    "byol",
    "dino",
    "jepa",
    "cpc_s4",
)  # a new batch, or a target that moves, changes their loss more than 20 steps do


def methods(run):
    """Twenty steps in bf16 and fp16: finite, falling, and the first as a CPU in float32 has it.
    On a CPU transformers are left out in fp16, which it emulates slowly.
    """
    steps = 3 if run.small else 20
    for path, own in jobs(run.small).items():
        own, free = (
            [*own, f"dataloader.batch_size={8 if run.small else 16}"],
            any(name in path for name in RESTLESS),
        )
        exact = [*own, "train.amp=none", "train.matmul_precision=highest"]
        want = run.losses(path, *exact, steps=1, device=torch.device("cpu"))[0]
        bounds = {"bf16": 0.03, "fp16": 0.01}
        if run.small and any(name in path for name in ("mem", "mtae", "mlae", "jepa")):
            del bounds["fp16"]
        for amp, bound in bounds.items():
            got = run.losses(path, *own, f"train.amp={amp}", steps=steps)
            off, falls = abs(got[0] - want) / abs(want), free or sum(got[-2:]) / 2 < got[0]
            run.row(
                f"{path}, {amp}: first loss against float32 on a CPU; {steps} losses",
                f"{off:.1e}; {got[0]:.4f} to {got[-1]:.4f}",
                off < bound and all(map(math.isfinite, got)) and falls,
                f"{bound:g}, finite" + ", falling" * (not free),
            )


def accumulation(run):
    """Two micro-batches are the joint batch, under fp16 autocast, a GradScaler and clipping."""
    found = []
    for batch, accumulate in ((8, 1), (4, 2)):
        training = run.training(
            "downstream/mtae",
            "model_name=vit_tiny",
            "train.amp=fp16",
            "train.lr=0.1",
            "train.max_norm=0.1",
            "train.optimizer=sgd",
            "train.steps_per_epoch=3",
            f"dataloader.batch_size={batch}",
            f"train.accum_iter={accumulate}",
            overlays=["short_crops"],
        )
        before = nn.utils.parameters_to_vector(training.model.parameters()).detach().clone()
        training.train_epoch(StopRequest())
        found.append(nn.utils.parameters_to_vector(training.model.parameters()).detach() - before)
    gap, scale = relative(*found), training.state.scaler.get_scale()
    run.row(
        "3 steps of 2 x 4 against 8, fp16, GradScaler, clipped: difference of the change",
        f"{gap:.1e}",
        gap < 2e-2 and found[0].norm() > 0,
        "2e-2, relative L2",
    )
    run.row("GradScaler's scale after them", f"{scale:g}", scale > 0, "above 0")


def compiled(run):
    """train.compile: graphs, breaks and what is compiled after the second step."""
    from torch._dynamo.utils import counters

    original = torch.compile
    if run.device.type == "cpu":  # what is counted is Dynamo's; Inductor takes minutes here
        torch.compile = functools.partial(original, backend="eager")
    try:
        for path in ("pretrain/st_mem", "pretrain/dino_signal")[: 1 if run.small else 2]:
            torch._dynamo.reset()
            counters.clear()
            training = run.training(
                path,
                *jobs(True)[path],
                "dataloader.batch_size=8",
                "train.compile=true",
                "train.steps_per_epoch=6",
            )
            counts, step = [], training.take_step
            training.take_step = lambda batches, step=step: (
                step(batches),
                counts.append(counters["stats"]["unique_graphs"]),
            )
            training.train_epoch(StopRequest())
            breaks = sum(counters["graph_break"].values())
            run.row(
                f"{path}: graphs, breaks, graphs compiled after step 2",
                f"{counts[-1]}, {breaks}, {counts[-1] - counts[1]}",
                counts[1] > 0 and not breaks and counts[-1] == counts[1],
                "1 or more, 0, 0",
            )
    finally:
        torch.compile = original


def flash(run):
    """Flash attention takes the encoder's heads of 64 in bf16."""
    if run.device.type == "cpu":
        raise Skip("flash attention is a GPU's")
    from models.layers.blocks import Attention

    attention = Attention(768, 12).to(run.device)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", torch.bfloat16):
        attention(torch.randn(4, 108, 768, device=run.device)).float().sum().backward()
    run.row(
        "attention of 12 heads of 64, bf16, flash kernel alone allowed", "runs", True, "no error"
    )


def no_waiting(run):
    """Twenty of the engine's own steps, in which the driver's complaint about a host that waits
    is an error.
    """
    if run.device.type == "cpu":
        raise Skip("a GPU's; tests/util/training/test_gpu_step.py looks for the same on a CPU")
    for path, amp in (
        ("pretrain/st_mem", "bf16"),
        ("pretrain/st_mem", "fp16"),
        ("pretrain/dino_signal", "bf16"),
        ("downstream/fusion_gated", "bf16"),
        ("downstream/st_mem", "bf16"),
    ):
        training = run.training(
            path,
            *jobs(False).get(path, []),
            f"train.amp={amp}",
            "dataloader.batch_size=16",
            "train.max_norm=1.0",
            "train.log_every=1000",
            "train.steps_per_epoch=22",
            "train.cuda_graph=false",  # of a graph nothing is queued step by step
        )
        step = training.take_step

        def strict(batches, training=training, step=step):
            torch.cuda.set_sync_debug_mode(
                "error" if training.state.step > 1 else "default"
            )  # the first two warm up
            try:
                step(batches)
                training.model.after_step(training.progress())
            finally:
                torch.cuda.set_sync_debug_mode("default")

        training.take_step = strict
        training.train_epoch(StopRequest())
        run.row(f"{path}, {amp}, clipped: 20 steps", "no wait", True, "no synchronisation")


# ============ several processes ============
def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def normalised(device, world=1, rank=0):
    """A BatchNorm between two layers on this process's part of a batch: [output's and parameters'
    gradients ...].
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(12, 8, 5), nn.BatchNorm1d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 96, 3)
    ).to(device)
    x = torch.randn(16, 12, 100, generator=torch.Generator().manual_seed(1)).to(device)
    if dist.is_initialized():
        model[1].__class__ = batch_norm.SyncBatchNorm  # convert() leaves one process alone
        x = x.chunk(world)[rank]
        model = collectives.averaging(model)
    with exact_products():
        model(x).square().mean().backward()
    return torch.cat(
        [value.flatten() for value in (*(p.grad for p in model.parameters()), *model.buffers())]
    ).cpu()


def one_rank(rank, world, port, device, config, folder):
    """A process of the group: SyncBatchNorm, and on several processes the training job
    ``config``.
    """
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    where = torch.device(device, rank) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        rank=rank,
        world_size=world,
        init_method=f"tcp://127.0.0.1:{port}",
    )
    torch.save(normalised(where, world, rank), folder / f"rank{rank}.pt")
    dist.destroy_process_group()
    if world > 1:
        pretrain(config)
    collectives.stop()


def several_processes(run):
    """One process a GPU by nccl (two by gloo on a CPU) against one process alone."""
    most = torch.cuda.device_count() if run.device.type == "cuda" else 2
    for world in sorted({1, min(most, 2)} if run.device.type == "cuda" else {2}):
        folder, context, port = (
            run.out / f"world{world}",
            multiprocessing.get_context("spawn"),
            free_port(),
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        overrides = [
            *jobs(True)["pretrain/byol_signal"],
            "train.steps_per_epoch=4",
            "train.amp=none",
            "train.matmul_precision=highest",
        ]
        config = run.config(
            "pretrain/byol_signal",
            *overrides,
            f"dataloader.batch_size={16 // world}",
            name=f"world{world}",
        )
        ranks = [
            context.Process(
                target=one_rank, args=(rank, world, port, run.device.type, config, folder)
            )
            for rank in range(world)
        ]
        try:
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()  # the part's time limit ends it
        finally:
            for process in ranks:
                process.kill()
        backend = "nccl" if run.device.type == "cuda" else "gloo"
        gaps = [
            relative(
                torch.load(folder / f"rank{rank}.pt", weights_only=True), normalised(run.device)
            )
            for rank in range(world)
        ]
        run.row(
            f"{world} process(es), {backend}: SyncBatchNorm and DDP against one process",
            f"{max(gaps):.1e}",
            max(gaps) < 1e-4 and not any(process.exitcode for process in ranks),
            "1e-4, relative L2",
        )
        if world > 1:
            alone = run.losses(
                "pretrain/byol_signal", *overrides, "dataloader.batch_size=16", steps=4
            )
            gap = max(
                abs(a / b - 1)
                for a, b in zip(
                    logged_losses(Path(config.output_dir) / f"world{world}"), alone, strict=True
                )
            )
            run.row(
                f"BYOL's losses on {world} processes against one",
                f"{gap:.1e}",
                gap < 1e-3,
                "1e-3, relative",
            )
    if most < 2:
        run.row("2 processes by nccl", "one GPU here", None, "-")


# ============ killed and resumed ============
def resumed(run):
    """SIGKILL after a checkpoint, then --resume auto, against an undisturbed run.  A CPU repeats
    every bit; a GPU adds gradients of gathered tokens in any order.
    """
    overrides = [
        "model_name=st_mem_vit_tiny_dec128d2b",
        "dataloader.batch_size=4",
        "train.steps_per_epoch=9",
        "train.lr=1e-3",
        "train.checkpoint_every=3 steps",
        "resume=auto",
    ]
    whole, killed = (
        run.config("pretrain/st_mem", *overrides, name=name, overlays=["short_crops"])
        for name in ("undisturbed", "killed")
    )
    folders = [Path(config.output_dir) / config.exp_name for config in (whole, killed)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    pretrain(whole)
    save_config(killed, run.out / "killed.yaml")
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "main_pretrain.py"),
            "--config_path",
            str(run.out / "killed.yaml"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (folders[1] / "checkpoint-last.pth").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(
            f"the run was over, or failed, before it could be killed (status {process.returncode})"
        )
    before = len(logged_losses(folders[1]))
    pretrain(killed)
    a, b = map(logged_losses, folders)
    gap = max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))
    different = differences(*folders) if run.device.type == "cpu" else []
    run.row(
        f"killed after {before} of {len(a)} steps, resumed: losses, files that differ",
        f"{gap:.1e}, {len(different)}",
        gap < (1e-12 if run.device.type == "cpu" else 1e-3) and not different,
        "every bit" if run.device.type == "cpu" else "1e-3, relative",
    )
