"""Spectrograms per second: models/spectrogram.py on a batch, against scipy.signal.stft and torch.stft.

    python benchmarks/spectrogram.py                     # the published crop: 12 leads x 250 samples at 100 Hz
    python benchmarks/spectrogram.py --fs 250 --samples 2250 --batch 32 --threads 2

scipy runs crop by crop, as the published data loader called it.  Prints microseconds a crop, the ratio to scipy and the
largest difference from scipy, in mV.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np
import scipy.signal
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.spectrogram import Spectrogram  # noqa: E402


def with_scipy(x, module, fs):
    """The published way: |scipy.signal.stft| of one crop after the other."""
    n = module.segment
    return torch.stack([torch.from_numpy(np.abs(scipy.signal.stft(crop, fs, nperseg=n, noverlap=n // 2)[2]))
                        for crop in x.numpy()])


def with_torch_stft(x, module, fs):
    """The obvious alternative: an FFT of every segment of the batch."""
    n, half, samples = module.segment, module.segment // 2, x.shape[-1]
    tail = (module.frames(samples) - 1) * module.hop + n - samples - half
    window = torch.hann_window(n)
    padded = torch.nn.functional.pad(x.flatten(0, 1), (half, tail))
    spectrum = torch.stft(padded, n, module.hop, window=window, center=False, return_complex=True).abs() / window.sum()
    return spectrum.unflatten(0, x.shape[:2])


def best_seconds(function, repeats):
    """Fastest of several runs, after one to warm up: the other runs measure the machine's other work."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", type=int, default=100, help="sampling rate, Hz (default %(default)s)")
    parser.add_argument("--samples", type=int, default=250, help="samples a crop (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="crops a batch (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="runs, of which the best counts (default %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    module = Spectrogram(args.fs)
    x = torch.randn(args.batch, 12, args.samples, generator=torch.Generator().manual_seed(0))
    ways = {"scipy.signal.stft, crop by crop": lambda: with_scipy(x, module, args.fs),
            "torch.stft, batched": lambda: with_torch_stft(x, module, args.fs),
            "models.spectrogram, batched": lambda: module(x)}
    reference = ways["scipy.signal.stft, crop by crop"]()
    base = None
    print(f"{args.batch} crops of 12 x {args.samples} at {args.fs} Hz, {args.threads} thread(s)")
    for name, way in ways.items():
        seconds = best_seconds(way, args.repeats)
        base = base or seconds
        print(f"{name:34s} {seconds / args.batch * 1e6:8.1f} us/crop   {base / seconds:5.1f} x   "
              f"error {(way() - reference).abs().max():.1e}")


if __name__ == "__main__":
    main()
