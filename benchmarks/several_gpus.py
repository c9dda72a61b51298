"""What several GPUs should give for a pre-training, on paper: reckoned, not measured.

    python benchmarks/several_gpus.py                  # ST-MEM base, 128 a GPU, 8 to 64 GPUs
    python benchmarks/several_gpus.py --step 29 --gpus 16 --between 40

Every process sends the float32 gradient of each parameter once a step.  A ring of n moves
2 (n - 1) / n of their bytes through its slowest link: that within a machine of eight, or, of
several machines, all network cards of a machine together if they are slower.  DDP sends gradients
in buckets while the backward pass makes more: what takes longer than that pass, and at least the
last bucket, is added to the step.  Left out: what NCCL takes from the GPU while it sends, waiting
for the slowest of n, and reading data.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MACHINE = 8  # GPUs


def gradient_bytes(name):
    """Bytes of the float32 gradients of a masked autoencoder."""
    from util.contract.registry import build

    return sum(4 * p.numel() for p in build(name).parameters() if p.requires_grad)


def exchange(gradients, gpus, within, between):
    """(bytes that a GPU sends a step, seconds that this takes) at so many bytes a second within
    a machine and between machines.
    """
    sent = 2 * (gpus - 1) / gpus * gradients
    return sent, sent / (within if gpus <= MACHINE else min(within, between))


def exposed(seconds, backward, last):
    """Seconds of an exchange that no backward pass of so many seconds hides; ``last`` is the
    share of the last bucket.
    """
    return max(seconds - backward, last * seconds)


def main(argv=None):
    from util.flags import Parser

    parser = Parser(description=__doc__)
    parser.add_argument("model", nargs="?", default="st_mem_vit_base_dec256d4b")
    parser.add_argument("--batch", type=int, default=128, help="ECGs a step and GPU (default: 128)")
    parser.add_argument(
        "--step", type=float, default=44.3, help="ms of a step of one GPU (default: an H100's)"
    )
    parser.add_argument(
        "--backward", type=float, default=0.6, help="share of the backward pass (default: 0.6)"
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument(
        "--within", type=float, default=300.0, help="GB/s within a machine (default: 300)"
    )
    parser.add_argument(
        "--between",
        type=float,
        nargs="+",
        default=[320.0, 80.0, 10.0],
        help="GB/s of all network cards of a machine (default: 80 %% of eight of 400 Gb/s, of "
        "eight of 100 Gb/s, of one of 100 Gb/s)",
    )
    parser.add_argument("--bucket", type=float, default=25, help="MiB of DDP's buckets")
    arguments = parser.parse_args(argv)
    gradients, step = gradient_bytes(arguments.model), arguments.step / 1000
    last = min(arguments.bucket * 2**20 / gradients, 1)
    print(
        f"{arguments.model}, {arguments.batch} a GPU, {arguments.step:g} ms a step of one: "
        f"{gradients / 1e6:.0f} MB of gradients; reckoned, not measured\n\n"
        "| GPUs | between machines | sent a step and GPU | exchange | added to a step | "
        "efficiency | samples/s |\n|---|---|---|---|---|---|---|"
    )
    for gpus in arguments.gpus:
        for between in arguments.between if gpus > MACHINE else [None]:
            sent, seconds = exchange(gradients, gpus, arguments.within * 1e9, (between or 0) * 1e9)
            added = exposed(seconds, arguments.backward * step, last)
            efficiency = step / (step + added)
            print(
                f"| {gpus} | {f'{between:g} GB/s' if between else '-'} | {sent / 1e6:.0f} MB | "
                f"{1000 * seconds:.1f} ms | {1000 * added:.1f} ms | {efficiency:.0%} | "
                f"{gpus * arguments.batch / (step + added):,.0f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
