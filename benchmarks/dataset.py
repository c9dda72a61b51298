"""Training crops per second: store, device transforms and all, against the usual pipeline, sample by sample with scipy.

    python benchmarks/dataset.py                            # 256 ECGs of 10 s, one thread
    python benchmarks/dataset.py --records 1000 --batch 128 --threads 2 --workers 2
    python benchmarks/dataset.py --cpu_time                 # on a busy machine: CPU seconds (with --workers 0)

The reference is the published pipeline, one sample after the other in float64: read a recording at 500 Hz, resample it
to 250 Hz by FFT, crop 2250 samples, high-pass 0.67 Hz and low-pass 40 Hz (order 5, zero-phase), standardise.  The
second line leaves out the resampling: it reads a recording prepared at 250 Hz.  This project does the same on batches;
its crops are compared with the reference's.  Prints samples a second and the ratio to the reference.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.signal
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util import distributed  # noqa: E402
from util.dataset import CropDataset, TrainingBatches, make_loader, to_device  # noqa: E402
from util.leads import LEADS  # noqa: E402
from util.store import RecordStore, write_store  # noqa: E402
from util.transforms import build_pipeline  # noqa: E402

CROP, SECONDS = 2250, 10
TRANSFORMS = [{"random_crop": {"crop_length": CROP}}, {"highpass_filter": {"cutoff": 0.67}},
              {"lowpass_filter": {"cutoff": 40}}, {"standardize": {"axis": [-1, -2]}}]
AUGMENT = {"op_names": ["shift", "cutout", "drop", "flip", "erase", "sine", "partial_sine", "partial_white_noise"]}
HIGH, LOW = (scipy.signal.butter(5, cutoff, kind, fs=250, output="sos")
             for kind, cutoff in (("highpass", 0.67), ("lowpass", 40)))


def make_store(folder, fs, records):
    """A store of recordings that beat and drift, in a new folder."""
    t = np.arange(SECONDS * fs) / fs
    gain = np.linspace(-0.6, 1.5, len(LEADS))

    def rows():
        for number in range(records):
            random = np.random.default_rng(number)
            beat = np.exp(-(((t * random.uniform(0.8, 1.6)) % 1 - 0.4) / 0.012) ** 2 / 2)
            drift, noise = 0.5 * np.sin(t + number)[:, None], 0.02 * random.standard_normal((len(t), 12))
            millivolts = beat[:, None] * gain + drift + noise
            yield {"record": f"R{number}", "database": "made", "fs_original": fs, "scale_uv": 1, "age": None, "sex": "",
                   "dx": [], "fold": -1}, (1000 * millivolts).astype(np.int16)
    write_store(folder / f"fs{fs}", fs, rows(), ["benchmark"])
    return RecordStore(folder / f"fs{fs}")


def scipy_sample(store, row, start):
    """One crop, (12, 2250) float64, by the published steps."""
    x = store.read(row).T.astype(np.float64)
    if store.fs != 250:
        x = scipy.signal.resample(x, int(x.shape[1] * 250 / store.fs), axis=1)
    x = x[:, start:start + CROP]
    x = scipy.signal.sosfiltfilt(LOW, scipy.signal.sosfiltfilt(HIGH, x))
    return (x - x.mean()) / x.std()


def one_by_one(store, items):
    """These crops by scipy; how many there were."""
    return len([scipy_sample(store, row, start) for row, start, _ in items])


def batched(loader, pipeline):
    """All crops of an epoch by this project, batch by batch."""
    for batch in loader:
        batch = to_device(batch, torch.device("cpu"))
        yield pipeline(batch["signal"], batch["random"])


def samples_per_second(function, repeats, clock):
    """Best of several epochs; ``function()`` returns how many samples it made."""
    function()
    rates = []
    for _ in range(repeats):
        start = clock()
        rates.append(function() / (clock() - start))
    return max(rates)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (("records", 256, "ECGs in the store"), ("batch", 16, "samples a batch"),
                                ("threads", 1, "CPU threads"), ("workers", 0, "loader processes"),
                                ("repeats", 3, "epochs each way, of which the best counts")):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default %(default)s)")
    parser.add_argument("--cpu_time", action="store_true", help="count the process's CPU seconds, not the wall's")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    distributed.start("cpu")     # as every program does
    with tempfile.TemporaryDirectory() as name:
        compare(args, *(make_store(Path(name), fs, args.records) for fs in (250, 500)))


def compare(args, store, store500):
    """Agreement first, then the contest."""
    dataset = CropDataset(store, LEADS, CROP)
    batches = TrainingBatches(np.arange(len(store)), dataset.samples, CROP, batch_size=args.batch)
    loader = make_loader(dataset, batches, num_workers=args.workers)
    plain = build_pipeline(TRANSFORMS, length=CROP, fs=250)
    augmented = build_pipeline(TRANSFORMS, length=CROP, fs=250, rand_augment=AUGMENT)
    items = [item for batch in batches for item in batch]
    got = torch.cat(list(batched(loader, plain))).numpy()
    error = max(np.abs(got[n] - scipy_sample(store, row, start)).max() for n, (row, start, _) in enumerate(items[:64]))
    print(f"{len(items)} crops of 12 x {CROP}, {args.threads} thread(s), {args.workers} loader worker(s); largest "
          f"difference from scipy {error:.1e} standard deviations")
    assert error < 1e-5
    some = items[:64]
    ways = {"scipy, one by one, from 500 Hz": lambda: one_by_one(store500, some),
            "scipy, one by one, from 250 Hz": lambda: one_by_one(store, some),
            "reading alone (int16 batches)": lambda: sum(len(batch["key"]) for batch in loader),
            "this project": lambda: sum(len(x) for x in batched(loader, plain)),
            "this project, with RandAugment": lambda: sum(len(x) for x in batched(loader, augmented))}
    clock = time.process_time if args.cpu_time else time.perf_counter
    base = None
    for name, way in ways.items():
        rate = samples_per_second(way, args.repeats, clock)
        base = base or rate
        print(f"{name:34s} {rate:9.0f} samples/s   {rate / base:6.1f} x")


if __name__ == "__main__":
    main()
