"""Time to make the views of one batch, for each self-supervised method's default list.

    python benchmarks/views.py
    python benchmarks/views.py --batch_size 1024 --device cuda
"""
import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.views import CONTRASTIVE_VIEWS, DINO_SIGNAL_VIEWS, DINO_SPECTROGRAM_VIEWS, Views  # noqa: E402
from util.keyed_random import KeyedRandom  # noqa: E402

LISTS = {"SimCLR, BYOL: 2 views": CONTRASTIVE_VIEWS, "DINO signal: 2 + 8": DINO_SIGNAL_VIEWS,
         "DINO spectrogram: 2 + 8": DINO_SPECTROGRAM_VIEWS}


def seconds(function, device, repeats):
    """Median seconds of a call, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


def main(argv=None):
    """Print a line for each list of views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=196, help="crops (default: 196)")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--repeats", type=int, default=11, help="timed calls, of which the median counts (default: 11)")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    signal = torch.randn(arguments.batch_size, 12, 250, device=device)
    random = KeyedRandom(torch.arange(arguments.batch_size, device=device))
    for name, specs in LISTS.items():
        views = Views(specs)
        took = seconds(lambda: views(signal, random), device, arguments.repeats)
        print(f"{name:26s} {1000 * took:8.1f} ms a batch of {arguments.batch_size}, "
              f"{1e6 * took / arguments.batch_size:7.1f} us a crop")


if __name__ == "__main__":
    main()
