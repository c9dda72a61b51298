"""Is this machine right and fast?  One table of what was checked and measured.

    bash benchmarks/gpu_acceptance.sh                           # some nine minutes on one GPU
    bash benchmarks/gpu_acceptance.sh --device cpu              # everything in small
    python benchmarks/gpu_acceptance.py --only golden random    # some parts
    bash benchmarks/gpu_acceptance.sh --only decide             # which defaults pay on this GPU

Parts run in the order of their value, each within its time; one that would not fit is left out
and named.  A part that fails is a row of the table, its traceback is in DIR/log.  After every
part DIR/acceptance.md and DIR/acceptance.json hold what is known by then.  Exit status 1 if
anything failed.
"""

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch

from benchmarks.acceptance import decide, fast, right, several
from benchmarks.acceptance.harness import Run, describe, run_part, table
from util.flags import Parser

OLDEST = (2, 9)  # torch that this run is written for
# name: (function, seconds on a GPU, seconds on a CPU); what compiles comes last, as it takes
# longest
PARTS = {
    "golden": (right.golden_parity, 10, 15),
    "random": (right.random_numbers, 5, 5),
    "data": (right.data, 20, 30),
    "waiting": (right.no_waiting, 20, 1),
    "speed": (fast.speed, 30, 30),
    "methods": (right.methods, 60, 60),
    "published": (fast.against_published, 20, 20),
    "profile": (fast.profile, 20, 10),
    "resume": (right.resumed, 30, 30),
    "processes": (right.several_processes, 40, 40),
    "exchange": (several.exchange, 90, 60),
    "accumulation": (right.accumulation, 10, 10),
    "flash": (right.flash, 3, 1),
    "memory": (fast.memory, 15, 1),
    "layout": (fast.layout, 20, 10),
    "learning": (fast.learning, 60, 40),
    "compile": (right.compiled, 60, 40),
    "compiled": (fast.compiled_speed, 60, 1),
}


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=9, help="for everything (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder of the results (default: a new one)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"]
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*PARTS, *decide.PARTS, "decide"],
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all of these); or decide, which is "
        f"{', '.join(decide.PARTS)}",
    )
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; take --device cpu")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        parser.error(
            f"torch {torch.__version__} is older than {'.'.join(map(str, OLDEST))}; name another "
            "with PYTHON="
        )
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="acceptance-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    device = (
        torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    )
    run = Run(device, arguments.device == "cpu", out, began + 60 * arguments.minutes)
    print(f"{describe(device)}; results in {out}", flush=True)
    parts = {**PARTS, **decide.PARTS}
    for name in [
        part for each in arguments.only for part in (decide.PARTS if each == "decide" else [each])
    ]:
        part, on_gpu, on_cpu = parts[name]
        run_part(run, name, part, on_cpu if run.small else on_gpu)
    failed = sum(row.passed is False for row in run.rows)
    print(
        f"\n{table(run.rows)}\n\n{len(run.rows)} rows, {failed} failed, in "
        f"{(time.monotonic() - began) / 60:.1f} minutes; {out}/acceptance.md"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
