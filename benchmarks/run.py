"""How fast, against what: every benchmark of this project in one table.

    python benchmarks/run.py  # all of them, some minutes on 2 cores
    python benchmarks/run.py st_mem_step views --device cuda --json speed.json
    # on a busy machine: CPU seconds of one thread
    python benchmarks/run.py dataset --threads 1 --cpu_time

Before they are timed, this project and a small independent reference (benchmarks/reference/) have
to agree.  Ways take turns; the best of the repeats counts, since other work of the machine can
only slow them; the spread says how far a usual repeat is from it.  MFU is the share of this
machine's rate of matrix products that a training step's products are.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def measure(contest, repeats, device, clock):
    """A dict a way: benchmark, way, rate a second, ratio to the reference, spread, MFU."""
    from benchmarks.timing import interleaved

    times = interleaved(
        {name: way for name, (_, way) in contest.ways.items()}, repeats, device, clock
    )
    rates = {name: amount / times[name].best for name, (amount, _) in contest.ways.items()}
    reference = next(iter(rates.values()))
    return [
        {
            "benchmark": contest.title,
            "way": name,
            "rate": rate,
            "unit": f"{contest.unit}/s",
            "ratio": rate / reference,
            "spread": times[name].spread,
            "mfu": share(rate * contest.least.get(name, 0.0)),
        }
        for name, rate in rates.items()
    ]


def share(found):
    """A share of the machine's rate of products; None where it is not known, or cannot be."""
    return found if 0 < found <= 1 else None


def main(argv=None):
    import torch  # here, not at the top: every worker of the extraction imports this file first

    from benchmarks.contests import CONTESTS
    from util.flags import Parser
    from util.processes import collectives

    parser = Parser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(CONTESTS)} (default: all)"
    )
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each way (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="CPU threads (default: %(default)s)",
    )
    parser.add_argument(
        "--cpu_time", action="store_true", help="count the process's CPU seconds, not the wall's"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(
        "--small", action="store_true", help="sizes that only show that everything runs"
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in CONTESTS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; known: {', '.join(CONTESTS)}")
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    device, rows = collectives.start(arguments.device), []  # as every program does
    print(
        f"{arguments.device}, {arguments.threads} thread(s), torch {torch.__version__}\n\n"
        "| benchmark | way | rate | ratio to reference | spread | MFU |\n|---|---|---|---|---|---|"
    )
    for name in arguments.names or CONTESTS:
        for contest in CONTESTS[name](device, arguments.small):
            for row in measure(contest, arguments.repeats, device, clock):
                mfu = "" if row["mfu"] is None else f"{row['mfu']:.0%}"
                print(
                    "| {benchmark} | {way} | {rate:.4g} {unit} | {ratio:.2f} | {spread:.0%} |".format(
                        **row
                    ),
                    f"{mfu} |",
                    flush=True,
                )
                rows.append({**row, "agreement": contest.agreement})
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {"device": arguments.device, "threads": arguments.threads, "rows": rows}, indent=1
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
