"""Search for duplicate recordings: time, memory, and how many of the planted ones it finds.

    python benchmarks/duplicates.py --records 10000
    python benchmarks/duplicates.py --records 100000

The recordings (12 leads, 10 s, 100 Hz; 24 kB each, in the system's temporary folder) are beats of
three Gaussian waves seen from the directions of a dipole, with drift and noise, drawn for each.
For every hundred of them a copy is planted, in turn of each kind below.  A pair that was not
planted counts as false.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import scipy.signal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.checking.duplicates import find_duplicates
from util.data.store import RecordStore, quantise, write_store
from util.flags import Parser
from util.leads import LEADS

FS, SECONDS = 100, 10


# ---- copies: f(signal, fs, random) of float (n, 12) mV
def exact(signal, fs, random):
    return signal


def shifted(signal, fs, random):
    """Begins 1 to 4 s later, and goes on with something else."""
    start = int(random.integers(fs, 4 * fs))
    return np.concatenate([signal[start:], signal[start - 1 : 0 : -1]])


def cut(signal, fs, random):
    """Six tenths of it, or more."""
    return signal[: int(len(signal) * random.uniform(0.6, 0.9))]


def halved(signal, fs, random):
    return 0.5 * signal


def doubled(signal, fs, random):
    return 2 * signal


def offset(signal, fs, random):
    return signal + random.uniform(0.1, 1, signal.shape[1])


def resampled(signal, fs, random):
    """From 2.57 times the sampling rate; the last sample was lost in rounding."""
    other = scipy.signal.resample(signal, int(len(signal) * 2.57))
    return scipy.signal.resample(other, len(signal))[:-1]


def noisy(signal, fs, random):
    """With white noise of a twentieth of each lead's standard deviation."""
    return signal + random.normal(size=signal.shape) * 0.05 * signal.std(axis=0)


COPIES = (exact, shifted, cut, halved, doubled, offset, resampled, noisy)


def recording(random):
    """float32 (1000, 12) in mV."""
    time, spread = np.arange(SECONDS * FS) / FS, random.choice([0.02, 0.05, 0.2], p=[0.6, 0.3, 0.1])
    intervals = random.uniform(0.5, 1.2) * (1 + spread * random.normal(size=40)).clip(0.4)
    beats = np.zeros((len(time), 1))
    at = np.rint(np.cumsum(intervals) * FS).astype(int)
    beats[at[at < len(time)]] = 1
    dipole, around = 0, np.arange(-0.4, 0.6, 1 / FS)
    for at, width, height in (
        (-0.16, 0.025, 0.12),
        (-0.02, 0.012, 0.4),
        (0, 0.015, 1.2),
        (0.025, 0.012, 0.4),
        (0.28, 0.05, 0.3),
    ):
        shift, stretch = random.normal(0, 0.02), random.uniform(0.7, 1.5)
        wave = np.exp(-0.5 * ((around - at - shift) / (width * stretch)) ** 2)
        dipole = dipole + wave[:, None] * height * random.normal(size=3)
    dipole = scipy.signal.fftconvolve(beats, dipole, axes=0)[: len(time)]
    noise = scipy.signal.lfilter(
        [1], [1, -0.9], random.normal(0, 0.01, (len(time), len(LEADS))), axis=0
    )
    drift = 0.1 * np.sin(
        2 * np.pi * (random.uniform(0.1, 0.4) * time[:, None] + random.random(len(LEADS)))
    )
    return (dipole @ random.normal(size=(3, len(LEADS))) + noise + drift).astype(np.float32)


def make_store(folder, records):
    """Write the store; returns {(original, copy): kind} of names."""
    random, planted = np.random.default_rng(0), {}

    def rows():
        for i in range(records):
            signal = recording(random)
            yield row(f"R{i:07d}", signal)
            if i % 100 == 0:
                copy = COPIES[i // 100 % len(COPIES)]
                planted[f"R{i:07d}", f"C{i:07d}"] = copy.__name__
                yield row(f"C{i:07d}", copy(signal, FS, random))

    def row(name, signal):
        counts, scale = quantise(np.asarray(signal, np.float32))
        return {
            "record": name,
            "database": "simulated",
            "fs_original": 100,
            "scale_uv": scale,
            "age": None,
            "sex": "",
            "dx": ["426783006"],
            "fold": 0,
        }, counts

    write_store(folder, FS, rows(), ["python benchmarks/duplicates.py"])
    return planted


class PeakMemory(threading.Thread):
    """The most memory of this process in MB while the block runs, without the pages of mapped
    files, ten times a second.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self):
        while not self.done.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.peak = max(
                self.peak,
                next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024,
            )

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--records", type=int, default=10000, help="default: %(default)s")
    records = parser.parse_args(argv).records
    with tempfile.TemporaryDirectory() as temporary:
        planted = make_store(Path(temporary) / "fs100", records)
        store = RecordStore(Path(temporary) / "fs100")
        start, worked = time.perf_counter(), time.process_time()
        with PeakMemory() as memory:
            found = find_duplicates(store)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    pairs = {(row["record_a"], row["record_b"]) for row in found.pairs}
    missed = Counter(kind for pair, kind in planted.items() if pair not in pairs)
    print(
        f"{len(store)} records of {SECONDS} s: {seconds:.0f} s, of which the processor "
        f"{worked:.0f} s; peak memory {memory.peak:.0f} MB; {found.compared} pairs compared"
    )
    print(
        f"planted {len(planted)}, missed {sum(missed.values())} {dict(missed) or ''}, false "
        f"{len(pairs - planted.keys())}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
