"""What benchmarks/run.py times: this project's ways against a small reference, which agree before
they are timed.

A contest is a generator ``f(device, small)`` of ``Contest``; what it makes stays until the next
one is asked for.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.signal
import torch

from benchmarks.reference.challenge import loop_score, loop_search
from benchmarks.reference.crops import CROP, scipy_sample
from benchmarks.reference.spectrogram import scipy_spectrogram
from benchmarks.reference.st_mem import LEADS as LEAD_COUNT
from benchmarks.reference.st_mem import PATCH, PATCHES, plain_forward
from benchmarks.reference.views import signal_views
from util.challenge import CLASSES
from util.config.fields import parse
from util.config.keys import TrainConfig
from util.contract.registry import build
from util.data.dataset import CropDataset, TrainingBatches, make_loader, to_device
from util.data.store import RecordStore, write_store
from util.keyed_random import KeyedRandom
from util.leads import LEADS
from util.processes.speed import FlopCounter, product_rate
from util.scoring.scores import challenge_score
from util.scoring.thresholds import apply_thresholds, search_ascent, search_published
from util.signals.spectrogram import Spectrogram
from util.signals.transforms import build_pipeline
from util.signals.views import Views
from util.training.optimizer import autocast, make_optimizer, set_matmul_precision

TRANSFORMS = [
    {"random_crop": {"crop_length": CROP}},
    {"highpass_filter": {"cutoff": 0.67}},
    {"lowpass_filter": {"cutoff": 40}},
    {"standardize": {"axis": [-1, -2]}},
]
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
LR = 1e-5
TRAIN = parse(
    TrainConfig,
    {
        "epochs": 1,
        "optimizer_kwargs": {"betas": [0.9, 0.95]},
        "weight_decay": 0.01,
        "decay_all": True,
    },
)


@dataclass
class Contest:
    """``amount`` of ``unit`` a call, for each of ``ways``: (amount, function) by name, the
    reference first.

    ``least``: seconds for one of them at this machine's rate of matrix products, by way, where
    that is known.
    """

    title: str
    unit: str
    ways: dict[str, tuple[float, Callable]]
    agreement: str
    least: dict[str, float] = field(default_factory=dict)


# ============ a pre-training step ============
def gradients(forward, parameters):
    """Loss, prediction and gradients of one forward and backward pass."""
    out = forward()
    return out["loss"].detach(), out["pred"].detach(), torch.autograd.grad(out["loss"], parameters)


def step_agreement(model, weights, series, noise):
    """Reference and model agree on the same weights, or there is nothing to compare."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    want_loss, want_pred, want = gradients(
        lambda: plain_forward(weights, series, noise), parameters
    )
    loss, pred, got = gradients(lambda: model({"signal": series}, {"noise": noise}), parameters)
    scale = max(g.norm() for g in want)
    worst = max(float((a - b).norm() / scale) for a, b in zip(got, want))
    assert abs(loss - want_loss) < 1e-5 and (pred - want_pred).abs().max() < 1e-4 and worst < 1e-4
    return (
        f"loss {abs(loss - want_loss):.0e}, predictions {(pred - want_pred).abs().max():.0e}, "
        f"gradients {worst:.0e}"
    )


def st_mem_step(device, small):
    """Forward, backward and update of ST-MEM base."""
    torch.manual_seed(0)
    name, batch = ("st_mem_vit_tiny_dec128d2b", 1) if small else ("st_mem_vit_base_dec256d4b", 4)
    model = build(name).to(device)
    series, noise = (
        torch.randn(batch, LEAD_COUNT, PATCHES * PATCH),
        torch.rand(batch, LEAD_COUNT, PATCHES),
    )
    series, noise, weights = (
        series.to(device),
        noise.to(device),
        dict(model.state_dict(keep_vars=True)),
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    agreement = step_agreement(model, weights, series, noise)
    plain = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad),
        lr=LR,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        foreach=False,
        fused=False,
    )
    ours = make_optimizer(model, TRAIN, LR)

    def step(forward, optimizer, precision, amp=None):
        torch.set_float32_matmul_precision(precision)
        with autocast(device, amp):
            loss = forward()["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def reference():
        return plain_forward(weights, series, noise)

    def project():
        return model({"signal": series}, {"noise": noise})

    set_matmul_precision("auto", device)  # says what it chose
    chosen = torch.get_float32_matmul_precision()
    ways = {
        "reference, float32": (reference, plain, "highest"),
        "reference, matmul 'medium'": (reference, plain, "medium"),
        "ours, no flag given": (project, ours, chosen),
        "ours, float32": (project, ours, "highest"),
        "ours, matmul 'medium'": (project, ours, "medium"),
        "ours, bf16": (project, ours, "highest", torch.bfloat16),
    }
    with FlopCounter() as counter:
        project()["loss"].backward()
    ours.zero_grad(set_to_none=True)
    least = {}
    for way, (_, _, precision, *amp) in ways.items():
        torch.set_float32_matmul_precision(precision)
        least[way] = counter.total / batch / product_rate(device, amp[0] if amp else None)
    yield Contest(
        f"{name}, {batch} a step",
        "ECGs",
        {way: (batch, lambda of=of: step(*of)) for way, of in ways.items()},
        agreement,
        least,
    )
    torch.set_float32_matmul_precision(before)


# ============ crops ============
def make_store(folder, fs, records):
    """A store of recordings that beat and drift, in a new folder."""
    t = np.arange(10 * fs) / fs
    gain = np.linspace(-0.6, 1.5, len(LEADS))

    def rows():
        for number in range(records):
            random = np.random.default_rng(number)
            beat = np.exp(-((((t * random.uniform(0.8, 1.6)) % 1 - 0.4) / 0.012) ** 2) / 2)
            drift, noise = (
                0.5 * np.sin(t + number)[:, None],
                0.02 * random.standard_normal((len(t), 12)),
            )
            millivolts = beat[:, None] * gain + drift + noise
            yield (
                {
                    "record": f"R{number}",
                    "database": "made",
                    "fs_original": fs,
                    "scale_uv": 1,
                    "age": None,
                    "sex": "",
                    "dx": [],
                    "fold": -1,
                },
                (1000 * millivolts).astype(np.int16),
            )

    write_store(folder / f"fs{fs}", fs, rows(), ["benchmark"])
    return RecordStore(folder / f"fs{fs}")


def batched(loader, pipeline, device):
    """All crops of an epoch by this project, batch by batch."""
    for batch in loader:
        batch = to_device(batch, device)
        yield pipeline(batch["signal"], batch["random"])


def dataset(device, small):
    """Training crops, from the store to what a model sees."""
    with tempfile.TemporaryDirectory() as name:
        store, store500 = (make_store(Path(name), fs, 16 if small else 256) for fs in (250, 500))
        crops = CropDataset(store, LEADS, CROP)
        batches = TrainingBatches(np.arange(len(store)), crops.samples, CROP, batch_size=16)
        loader, items = (
            make_loader(crops, batches),
            [item for batch in batches for item in batch][:64],
        )
        plain, augmented = (
            build_pipeline(TRANSFORMS, length=CROP, fs=250, rand_augment=more).to(device)
            for more in (None, AUGMENT)
        )
        got = next(batched(loader, plain, device)).cpu().numpy()
        error = max(
            np.abs(x - scipy_sample(store, row, start)).max()
            for x, (row, start, _) in zip(got, items)
        )
        assert error < 1e-5, error
        yield Contest(
            "crops, filtered and standardised",
            "crops",
            {
                "reference: scipy, one by one, from 500 Hz": (
                    len(items),
                    lambda: [scipy_sample(store500, row, start) for row, start, _ in items],
                ),
                "scipy, one by one, from 250 Hz": (
                    len(items),
                    lambda: [scipy_sample(store, row, start) for row, start, _ in items],
                ),
                "ours, reading alone": (
                    len(store),
                    lambda: sum(len(batch["key"]) for batch in loader),
                ),
                "ours": (len(store), lambda: sum(map(len, batched(loader, plain, device)))),
                "ours, with RandAugment": (
                    len(store),
                    lambda: sum(map(len, batched(loader, augmented, device))),
                ),
            },
            f"{error:.0e} standard deviations",
        )


# ============ scores ============
def simulated_scores(records, seed=0):
    """Labels and scores, each (records, 24)."""
    random = np.random.default_rng(seed)
    share = random.uniform(0.005, 0.15, len(CLASSES))
    labels = random.random((records, len(CLASSES))) < share
    evidence = 2 * labels + random.normal(size=labels.shape) + np.log(share / (1 - share)) - 1
    return labels, 1 / (1 + np.exp(-evidence))


def challenge(device, small):
    """The Challenge score, and searches of its thresholds; on the CPU in any case."""
    labels, scores = simulated_scores(100 if small else 4300)
    outputs = apply_thresholds(
        scores, np.full(len(CLASSES), 0.15)
    )  # about as many outputs as labels
    error = abs(challenge_score(labels, outputs) - loop_score(labels, outputs))
    assert error < 1e-12
    yield Contest(
        f"Challenge score of {len(labels)} records",
        "scores",
        {
            "reference: loop": (1, lambda: loop_score(labels, outputs)),
            "ours": (20, lambda: [challenge_score(labels, outputs) for _ in range(20)]),
        },
        f"{error:.0e}",
    )
    some = slice(60 if small else 1000)
    few = labels[some], scores[some]
    assert np.array_equal(search_published(*few).thresholds, loop_search(*few))
    yield Contest(
        f"threshold search on {len(few[0])} records",
        "searches",
        {
            "reference: loop": (1, lambda: loop_search(*few)),
            "ours": (1, lambda: search_published(*few)),
            "ours, ascent from 7 starts": (1, lambda: search_ascent(*few)),
        },
        "same thresholds",
    )


# ============ extraction ============
def generate(folder, n_records):
    """Write Challenge records of smooth noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n_records):
        steps = rng.normal(0, 12, (5000, len(LEADS)))
        counts = scipy.signal.lfilter([1], [1, -0.98], steps, axis=0).round().astype("<i2")
        name = f"B{i:05d}"
        (folder / f"{name}.mat").write_bytes(
            np.array([30, len(LEADS), 5000, 0, 4], "<i4").tobytes() + b"val\0" + counts.tobytes()
        )
        lines = [f"{name} 12 500 5000"] + [
            f"{name}.mat 16+24 1000/mV 16 0 {counts[0, k]} 0 0 {lead}"
            for k, lead in enumerate(LEADS)
        ]
        (folder / f"{name}.hea").write_text(
            "\n".join(lines) + "\n#Age: 50\n#Sex: Male\n#Dx: 426783006\n"
        )


def extraction(device, small):
    """Recordings of 10 s at 500 Hz to shards; on the CPU in any case.  The start of workers is
    included.
    """
    from benchmarks.reference.extraction import plain_extraction
    from data_preparation.importing.wfdb_source import extract

    count = 4 if small else 600
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name) / "ecgs", Path(name) / "output"
        generate(folder, count)

        def into_new(work):
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            work()

        for fs in ([100], [100, 250]):
            ways = {"reference: wfdb and scipy": lambda fs=fs: plain_extraction(folder, fs, output)}
            ways |= {
                f"ours, {n} worker(s)": lambda fs=fs, n=n: extract(folder, output, fs, n)
                for n in (1, 2)
            }
            yield Contest(
                f"extraction from 500 Hz to {fs} Hz",
                "records",
                {way: (count, lambda work=work: into_new(work)) for way, work in ways.items()},
                "tests/data_preparation/test_extraction.py",
            )


# ============ spectrograms and views ============
def spectrogram(device, small):
    """Spectrograms of the published crop."""
    module, batch = Spectrogram(100).to(device), 8 if small else 128
    x = torch.randn(batch, 12, 250, generator=torch.Generator().manual_seed(0))
    on_device = x.to(device)

    def reference():
        return np.stack([scipy_spectrogram(crop, 100, module.segment) for crop in x.numpy()])

    error = np.abs(module(on_device).cpu().numpy() - reference()).max()
    assert error < 1e-5, error
    yield Contest(
        "spectrograms of 12 x 250",
        "crops",
        {
            "reference: scipy, one by one": (batch, reference),
            "ours": (batch, lambda: module(on_device)),
        },
        f"{error:.0e} mV",
    )


def views(device, small):
    """DINO's ten views of a signal."""
    batch = 8 if small else 196
    x = torch.randn(batch, 12, 250, generator=torch.Generator().manual_seed(0))
    on_device, random = x.to(device), KeyedRandom(torch.arange(batch, device=device))
    make, rng = Views("dino_signal"), np.random.default_rng(0)

    def reference():
        return [signal_views(crop, rng) for crop in x.numpy()]

    spreads = [
        float(np.std(found))
        for found in (reference(), [view.cpu().numpy() for view in make(on_device, random)])
    ]
    assert abs(spreads[0] / spreads[1] - 1) < 0.1, spreads  # other draws: alike on average
    yield Contest(
        "DINO's 10 views of 12 x 250",
        "crops",
        {
            "reference: NumPy, one by one": (batch, reference),
            "ours": (batch, lambda: make(on_device, random)),
        },
        f"standard deviation {spreads[0]:.3f}, {spreads[1]:.3f}",
    )


CONTESTS = {
    function.__name__: function
    for function in (st_mem_step, dataset, challenge, extraction, spectrogram, views)
}
