"""Memory of a long pre-training: resident size of the training process and of its loader's
workers, epoch by epoch.

    python benchmarks/soak.py
    python benchmarks/soak.py --epochs 1000 --steps 10 --workers 4

The pre-training of a tiny ST-MEM on simulated records, with short epochs, a checkpoint every
fifth and a figure every tenth.  After a warm-up the mean over 20 epochs must stay within 5 %.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_injection import simulate
from util.flags import Parser

LIMIT = 0.05
WARM_UP = 10


def resident(pid) -> float:
    """Resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def children(pid) -> list[int]:
    """Ids of a process's children: here the loader's workers."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def watch(process, log, console):
    """[(epoch, MB of the process, MB of its workers together)] at the end of every epoch."""
    seen, samples = 0, []
    while process.poll() is None:
        lines = len(log.read_bytes().splitlines()) if log.exists() else 0
        if lines > seen:
            seen = lines
            try:
                samples.append(
                    (seen, resident(process.pid), sum(map(resident, children(process.pid))))
                )
            except (OSError, StopIteration):
                break  # it is ending
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(
            f"the training ended with status {process.returncode}:\n{console.read_text()[-2000:]}"
        )
    return samples


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200, help="default: 200")
    parser.add_argument("--steps", type=int, default=2, help="steps an epoch (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--records", type=int, default=80, help="simulated recordings (default: 80)"
    )
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = simulate(folder, arguments.records, 250)
        settings = {
            "model_name": "st_mem_vit_tiny_dec128d2b",
            "dataset.store": store,
            "train.epochs": arguments.epochs,
            "train.steps_per_epoch": arguments.steps,
            "dataloader.num_workers": arguments.workers,
            "dataloader.batch_size": 4,
            "train.figure_every": 10,
            "train.checkpoint_every": 5,
            "train.keep_last": 1,
        }
        command = [
            sys.executable,
            str(ROOT / "main_pretrain.py"),
            "--config_path",
            str(ROOT / "configs/pretrain/st_mem.yaml"),
            "--overlay",
            "demo",
            "--output_dir",
            str(folder),
            "--exp_name",
            "soak",
        ]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        began = time.monotonic()
        with open(folder / "console.txt", "w") as console:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=console,
                stderr=console,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                samples = watch(process, folder / "soak" / "log.txt", folder / "console.txt")
            finally:
                process.kill()
    return report(samples, time.monotonic() - began)


def report(samples, seconds) -> int:
    """Print some epochs and the growth after the warm-up; returns 0 where both stay within the
    limit.
    """
    warm = [sample for sample in samples if sample[0] > WARM_UP] or samples
    print("| epoch | training process, MB | workers, MB |\n|---|---|---|")
    for epoch, own, workers in warm[:: max(1, len(warm) // 8)][:8] + warm[-1:]:
        print(f"| {epoch} | {own:.1f} | {workers:.1f} |")
    cycle = min(
        20, len(warm)
    )  # checkpoints and figures make memory swing, so whole cycles of them are compared
    means = [
        [sum(sample[column] for sample in part) / cycle for column in (1, 2)]
        for part in (warm[:cycle], warm[-cycle:])
    ]
    growths = [last / first - 1 for first, last in zip(*means) if first]
    print(
        f"\n{samples[-1][0]} epochs in {seconds:.0f} s; growth after epoch {warm[0][0]}: "
        f"{', '.join(f'{growth:+.1%}' for growth in growths)} (limit {LIMIT:.0%})"
    )
    return 0 if all(abs(growth) <= LIMIT for growth in growths) else 1


if __name__ == "__main__":
    sys.exit(main())
