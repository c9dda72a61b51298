"""How cost grows: with records, leads, crop length and processes; and how long a program takes to
start.

    python benchmarks/scaling.py  # under five minutes on 2 cores; writes docs/scaling.png
    python benchmarks/scaling.py --only records start --out somewhere

records    opening a store whose index has so many rows, the order of an epoch, and its crops;
memory of the process leads, length   a step of a tiny ST-MEM start      --help, and run_demo.sh's
pre-training until its first step processes  epochs of pre-training on one core and on two

Costs are fitted by size ** exponent over the upper half of the sizes.
"""

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
import yaml

from benchmarks.contests import LR, TRAIN
from benchmarks.fault_injection import simulate
from benchmarks.timing import interleaved
from util.contract.registry import DataFacts, build
from util.data.dataset import CropDataset, TrainingBatches
from util.data.store import RecordStore, write_store
from util.flags import Parser
from util.keyed_random import KeyedRandom
from util.leads import LEADS
from util.training.optimizer import make_optimizer

PARTS = ("records", "leads", "length", "start", "processes")


def exponent(sizes, costs) -> float:
    """Slope of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def records(small):
    """A store of 0.1 s records at 100 Hz: seconds to open it, to order an epoch, to read 2,000 of
    its crops; and how many MiB the process holds more at the end of it.
    """
    found, crop = [], 10
    for count in (100, 1000) if small else (10**3, 10**4, 10**5, 10**6):
        with tempfile.TemporaryDirectory() as folder:
            row = {
                "database": "made",
                "fs_original": 100,
                "scale_uv": 1,
                "age": None,
                "sex": "",
                "dx": [],
                "fold": -1,
            }
            counts = np.arange(crop * 12, dtype=np.int16).reshape(crop, 12)
            write_store(
                Path(folder) / "fs100",
                100,
                (({**row, "record": f"R{n}"}, counts) for n in range(count)),
                ["made"],
            )
            gc.collect()
            before, began = resident_mebibytes(), time.perf_counter()
            store = RecordStore(Path(folder) / "fs100")
            opened = time.perf_counter()
            dataset = CropDataset(store, LEADS, crop)
            batches = TrainingBatches(
                np.arange(count), dataset.samples, crop, batch_size=min(100, count)
            )
            order = iter(batches)
            first = next(order)
            ordered = time.perf_counter()
            for items in [first, *(next(order) for _ in range(min(len(batches) - 1, 19)))]:
                dataset.__getitems__(items)
            read = time.perf_counter()
            share = len(batches) / min(len(batches), 20)
            found.append(
                {
                    "size": count,
                    "open": opened - began,
                    "order": ordered - opened,
                    "seconds": ordered - opened + (read - ordered) * share,
                    "MiB": resident_mebibytes() - before,
                }
            )
    return found


def resident_mebibytes() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def step_seconds(leads, length, small):
    """Seconds of a step of a tiny ST-MEM, 4 a batch."""
    torch.manual_seed(0)
    spec = {"name": "st_mem_vit_tiny_dec128d2b", "seq_len": length}
    model = build(spec, DataFacts(LEADS[:leads], 250))
    batch = {"signal": torch.randn(4, leads, length), "random": KeyedRandom(torch.arange(4))}
    optimizer = make_optimizer(model, TRAIN, LR)

    def step():
        model(batch, model.draw(batch))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return interleaved({"": step}, 1 if small else 3)[""].best


def leads(small):
    """Crops of 9 s (in small 1.2 s)."""
    length = 300 if small else 2250
    return [
        {"size": n, "seconds": step_seconds(n, length, small)}
        for n in ((1, 2) if small else (1, 2, 3, 6, 12))
    ]


def length(small):
    """Twelve leads."""
    return [
        {"size": n, "seconds": step_seconds(12, n, small)}
        for n in ((300, 600) if small else (600, 1200, 2400, 4800))
    ]


def pretraining(folder, store, gpus, steps):
    """Start pre-training as the demo does; seconds until its first step and until so many steps."""
    config = {
        "model_name": "st_mem_vit_tiny_dec128d2b",
        "model": {"mask_ratio": 0.5},
        "dataset": {"store": str(store)},
        "train": {"epochs": 100, "log_every": 1, "lr": 1e-3, "warmup_epochs": 1},
        "dataloader": {"num_workers": 0, "batch_size": 16 // len(gpus.split(","))},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "util.processes.launcher",
            str(ROOT / "main_pretrain.py"),
            "--gpus",
            gpus,
            "--config_path",
            str(ROOT / "configs/pretrain/st_mem.yaml"),
            "--overlay",
            "short_crops",
            "--overlay",
            str(folder / "config.yaml"),
            "--output_dir",
            str(folder),
            "--exp_name",
            "run",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    seen, log = {}, folder / "run" / "log_steps.txt"
    while process.poll() is None and steps not in seen:
        lines = len(log.read_bytes().splitlines()) if log.exists() else 0
        for reached in {1, steps}:
            if lines >= reached:
                seen.setdefault(reached, time.perf_counter() - began)
        time.sleep(0.005)
    process.terminate()
    _, text = process.communicate()
    if steps not in seen:
        raise RuntimeError(f"pre-training ended before step {steps}: {text[-500:]}")
    return seen[1], seen[steps]


def start(small):
    """Best of three: --help of both mains, the first step of the demo's pre-training."""
    found = []
    for program in ("main_pretrain.py", "main_finetune.py"):

        def help_(program=program):
            subprocess.run(
                [sys.executable, str(ROOT / program), "--help"],
                stdout=subprocess.DEVNULL,
                check=True,
            )

        found.append(
            {
                "what": f"{program} --help",
                "seconds": interleaved({"": help_}, 1 if small else 3)[""].best,
            }
        )
    with tempfile.TemporaryDirectory() as name:
        store = simulate(Path(name), 60, 250)
        found.append(
            {
                "what": "first step of the demo's pre-training",
                "seconds": min(
                    pretraining(new_folder(name), store, "cpu", 1)[0]
                    for _ in range(1 if small else 3)
                ),
            }
        )
    return found


def new_folder(parent):
    return Path(tempfile.mkdtemp(dir=parent))


def processes(small):
    """Seconds a step of 16 records on one process of one thread, and on two."""
    steps = 4 if small else 30
    with tempfile.TemporaryDirectory() as name:
        store, found = simulate(Path(name), 60, 250), []
        for count in (1, 2):
            first, last = pretraining(new_folder(name), store, ",".join(["cpu"] * count), steps)
            found.append({"size": count, "seconds": (last - first) / (steps - 1)})
    return [
        {**point, "efficiency": found[0]["seconds"] / point["seconds"] / point["size"]}
        for point in found
    ]


def draw(found, path):
    """One panel for each of records, leads and length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {"records": "records", "leads": "leads", "length": "samples a crop"}
    shown = [name for name in names if name in found]
    figure = Figure(figsize=(3.2 * len(shown), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown):
        points = found[name]
        for key in ("seconds", "open", "MiB"):
            if key in points[0]:
                axes.loglog(
                    [p["size"] for p in points],
                    [max(p[key], 1e-6) for p in points],
                    "o-",
                    markersize=3,
                    label={
                        "seconds": "s an epoch" if name == "records" else "s a step",
                        "open": "s to open",
                        "MiB": "MiB",
                    }[key],
                )
        if name != "records":
            axes.xaxis.minorticks_off()
            axes.set_xticks([p["size"] for p in points], [f"{p['size']}" for p in points])
        axes.set_xlabel(names[name])
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help="folder of the figure (default: docs)"
    )
    parser.add_argument(
        "--small", action="store_true", help="sizes that only show that everything runs"
    )
    arguments = parser.parse_args(argv)
    found = {}
    for name in arguments.only:
        found[name] = globals()[name](arguments.small)
        for point in found[name]:
            print(
                f"{name}: "
                + ", ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in point.items()
                ),
                flush=True,
            )
        if name in ("records", "leads", "length"):
            upper = found[name][len(found[name]) // 2 - 1 :]
            sizes = [point["size"] for point in upper]
            for key in [key for key in ("seconds", "open") if key in upper[0]]:
                print(
                    f"{name}: {key} grow with size ** "
                    f"{exponent(sizes, [p[key] for p in upper]):.2f}",
                    flush=True,
                )
    if {"records", "leads", "length"} & set(found):
        draw(found, arguments.out / "scaling.png")
    if arguments.out != ROOT / "docs":
        (arguments.out / "scaling.json").write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
