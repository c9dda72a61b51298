"""Time to make the views of one batch, for each preset of models/views.py.

    python benchmarks/views.py
    python benchmarks/views.py --batch_size 1024 --device cuda
"""
import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.views import VIEW_PRESETS, Views  # noqa: E402
from util.keyed_random import KeyedRandom  # noqa: E402

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
    for name in VIEW_PRESETS:
        views = Views(name)
        took = seconds(lambda: views(signal, random), device, arguments.repeats)
        print(f"{name:18s} {1000 * took:8.1f} ms a batch of {arguments.batch_size}, "
              f"{1e6 * took / arguments.batch_size:7.1f} us a crop")


if __name__ == "__main__":
    main()
