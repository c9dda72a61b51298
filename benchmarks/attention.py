"""Attention on the CPU, forward and backward: written out against PyTorch's fused kernel.
Decides models.layers.blocks.SHORT.

    python benchmarks/attention.py  # base size, 12 heads of 64, float32 and bf16; a minute
    python benchmarks/attention.py --threads 1 --cpu_time

Both ways take turns, and the fastest of their rounds counts.  Prints milliseconds and the ratio
of the two.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.layers.blocks import HEAD_WIDTH, SHORT, written_out  # noqa: E402
from util.flags import Parser  # noqa: E402

WAYS = {"fused": F.scaled_dot_product_attention, "written out": written_out}


def seconds(attend, qkv, clock):
    """One forward and backward pass."""
    start = clock()
    out = attend(*qkv.permute(2, 0, 3, 1, 4), dropout_p=0.0)
    torch.autograd.grad(out, qkv, torch.ones_like(out))
    return clock() - start


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--repeats", type=int, default=10, help="rounds each way (default %(default)s)"
    )
    parser.add_argument(
        "--cpu_time", action="store_true", help="count the process's CPU seconds, not the wall's"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(
        f"{args.threads} thread(s), torch {torch.__version__}; written out is used up to {SHORT} "
        "tokens"
    )
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, batch in ((32, 48), (64, 16), (108, 4), (160, 4), (384, 2)):
            qkv = torch.randn(batch, tokens, 3, 12, HEAD_WIDTH, dtype=dtype, requires_grad=True)
            rounds = [
                {name: seconds(way, qkv, clock) for name, way in WAYS.items()}
                for _ in range(args.repeats)
            ]
            fused, written = (1e3 * min(times[name] for times in rounds) for name in WAYS)
            print(
                f"{str(dtype)[6:]:9s} {batch:3d} x {tokens:3d} tokens   fused {fused:7.2f} ms   "
                f"written out {written:7.2f} ms   {fused / written:5.2f} x"
            )


if __name__ == "__main__":
    main()
