"""Kill training at random instants, resume it, and compare with an undisturbed run, bit for bit.

    python benchmarks/fault_injection.py --kills 50
    python benchmarks/fault_injection.py --kills 6 --scenario "DINO, 2 processes" \\
        --folder /tmp/faults --seed 7

Everything is as on a cluster: the shell launchers, their own processes, SIGKILL to the whole tree
of them, and the same command again with --resume auto.  A run is killed several times: while it
starts, between steps, while a checkpoint is being written (its temporary file is there), and
during evaluation.  At its end all that it left is compared with the undisturbed run's: tensors of
every .pth by their bytes, logs and tables by their text, and the names of the files.  The data
are simulated.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from util.flags import Parser  # noqa: E402
from util.processes.speed import SPEEDS  # noqa: E402

MOMENTS = ("starting", "step", "checkpoint", "evaluation")
EPOCHS = 3
NOT_COMPARED = (".lock", "config.yaml", "console.txt")  # a resumed run says that it is one

# ============ scenarios ============
DATA = {
    "fs": 100,
    "transforms": [{"random_crop": {"crop_length": 150}}, {"standardize": {"axis": [-1, -2]}}],
}
TRAIN = {
    "epochs": EPOCHS,
    "lr": 1e-3,
    "warmup_epochs": 1,
    "log_every": 1,
    "checkpoint_every": "3 steps",
    "keep_every": 1,
    "keep_last": 2,
    "matmul_precision": "highest",
}
ST_MEM = {
    "model_name": "st_mem_vit_tiny_dec128d2b",
    "dataset": DATA,
    "train": TRAIN,
    "model": {"seq_len": 150, "patch_size": 75, "mask_ratio": 0.5, "drop_path_rate": 0.2},
    "dataloader": {"batch_size": 8, "num_workers": 0},
}
DINO = {
    "model_name": "dino",
    "dataset": DATA,
    "train": {**TRAIN, "optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.9}},
    "model": {
        "encoder": {"name": "xresnet1d50", "channels": 4},
        "head_width": 32,
        "bottleneck": 16,
        "head_out": 64,
    },
    "dataloader": {"batch_size": 8, "num_workers": 0},
}
CLASSIFIER = {
    "dataset": DATA,
    "train": {**TRAIN, "optimizer": "adamw", "weight_decay": 0.01},
    "loss": "bce",
    "metric": {"task": "multilabel", "target_metrics": ["AUROC", "AUPRC"]},
    "test": {"target_metric": "loss", "bootstrap": 20},
    "dataloader": {"batch_size": 8, "num_workers": 0},
}
VIT = {
    **CLASSIFIER,
    "model_name": "st_mem_vit_tiny",
    "mode": "finetune",
    "model": {"seq_len": 150, "patch_size": 75, "drop_out_rate": 0.1},
}
CNN = {**CLASSIFIER, "model_name": "xresnet1d50", "mode": "scratch", "model": {"channels": 4}}
FREEZE = {"train": {**CLASSIFIER["train"], "freeze_epochs": 1}}
WORKERS = {"dataloader": {"batch_size": 4, "num_workers": 2}}


def accumulating(config):
    """The same with two micro-batches a step."""
    return {
        **config,
        "train": {**config["train"], "accum_iter": 2},
        "dataloader": {"batch_size": 4, "num_workers": 0},
    }


# name: (launcher, processes, config)
SCENARIOS = {
    "ST-MEM, 1 process": ("run_pretrain.sh", 1, ST_MEM),
    "ST-MEM, 2 processes, 2 workers each": ("run_pretrain.sh", 2, {**ST_MEM, **WORKERS}),
    "ST-MEM, accumulation": ("run_pretrain.sh", 1, accumulating(ST_MEM)),
    "ST-MEM, accumulation, 2 processes": ("run_pretrain.sh", 2, accumulating(ST_MEM)),
    "DINO, 1 process": ("run_pretrain.sh", 1, DINO),
    "DINO, 2 processes": (
        "run_pretrain.sh",
        2,
        {**DINO, "dataloader": {"batch_size": 4, "num_workers": 0}},
    ),
    "DINO, accumulation, 2 processes": ("run_pretrain.sh", 2, accumulating(DINO)),
    "fine-tuning, ViT, head first": ("run_downstream.sh", 1, {**VIT, **FREEZE}),
    "fine-tuning, ViT, 2 processes": (
        "run_downstream.sh",
        2,
        {**VIT, "dataloader": {"batch_size": 4, "num_workers": 0}},
    ),
    "from scratch, CNN, 2 processes": ("run_downstream.sh", 2, accumulating(CNN)),
}


class Run:
    """One command, started again and again in the same output folder.

    Args:
        launcher, processes, config: see ``SCENARIOS``; the store and the encoder are in the
            config.
        folder: of this run alone; results go to ``folder/run``.
    """

    def __init__(self, launcher, processes, config, folder):
        self.output, self.console = folder / "run", folder / "console.txt"
        folder.mkdir(parents=True)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        self.command = [
            "bash",
            str(ROOT / launcher),
            "--gpus",
            ",".join(["cpu"] * processes),
            "--config_path",
            str(path),
            "--output_dir",
            str(folder),
            "--exp_name",
            "run",
            "--resume",
            "auto",
        ]

    def start(self):
        """Start the command."""
        with open(self.console, "w") as console:
            self.process = subprocess.Popen(
                self.command,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def finish(self):
        """Wait for the end.

        Raises:
            RuntimeError: exit status other than 0.
        """
        if self.process.wait():
            raise RuntimeError(
                f"exit status {self.process.returncode}:\n{self.console.read_text()[-3000:]}"
            )

    def kill_at(self, moment, rng) -> str | None:
        """Start, wait for the moment, kill every process; returns the moment, or None if
        the run ended before it.
        """
        self.start()
        {
            "starting": self._starting,
            "step": self._step,
            "checkpoint": self._checkpoint,
            "evaluation": self._evaluation,
        }[moment](rng)
        if self.process.poll() is not None:
            self.finish()
            return None
        kill_tree(self.process.pid)
        self.process.wait()
        if any(self.output.glob(".*.tmp")):
            return "checkpoint"
        return "step" if moment == "checkpoint" else moment

    def _until(self, condition, seconds=120):
        """Poll until the condition holds, the command has ended or time is up."""
        deadline = time.monotonic() + seconds
        while not condition() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)

    def _said(self, *words):
        text = self.console.read_text(errors="replace")
        return any(word in text for word in words)

    def _starting(self, rng):
        time.sleep(rng.uniform(0, 6))

    def _step(self, rng):
        self._until(lambda: self._said("step/s", "s/step"))
        time.sleep(rng.uniform(0, 2))

    def _checkpoint(self, rng):
        self._until(lambda: self._said("step/s", "s/step"))
        for _ in range(rng.randint(0, 2)):  # let some pass
            self._until(lambda: any(self.output.glob(".*.pth.*")))
            self._until(lambda: not any(self.output.glob(".*.pth.*")))
        self._until(lambda: any(self.output.glob(".*.pth.*")))
        time.sleep(rng.uniform(0, 0.02))

    def _evaluation(self, rng):
        if rng.random() < 0.4:
            self._until(lambda: self._said("test:"))
        else:
            self._until(lambda: self._said("valid:"))
        time.sleep(rng.uniform(0, 0.02))


def kill_tree(pid):
    """SIGKILL to a process and all its descendants."""
    tree, waiting = [], [pid]
    while waiting:
        tree.append(waiting.pop())
        try:
            for task in Path(f"/proc/{tree[-1]}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it ended meanwhile
    for each in tree:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


# ============ comparison ============
def same(a, b) -> bool:
    """Whether two contents of .pth files are equal to the last bit (NaN equals NaN)."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def timeless(path) -> list[dict]:
    """The lines of a log.txt without how fast their epochs were."""
    lines, times = path.read_text().splitlines(), {f"train_{name}" for name in SPEEDS}
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def differences(folder, other) -> list[str]:
    """Names of a run's files that are not the same in another's folder."""
    names = [
        {
            path.relative_to(place).as_posix()
            for path in place.rglob("*")
            if path.is_file() and "tensorboard" not in path.parts and path.name not in NOT_COMPARED
        }
        for place in (folder, other)
    ]
    different = sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        if name.endswith(".pth"):
            a, b = (torch.load(place / name, weights_only=True) for place in (folder, other))
            equal = same(
                {**a, "config": None}, {**b, "config": None}
            )  # the folders' names are in it
        elif name.endswith("log.txt"):
            equal = timeless(folder / name) == timeless(other / name)
        else:
            equal = (folder / name).read_bytes() == (other / name).read_bytes()
        if not equal:
            different.append(name)
    return different


# ============ the whole ============
def simulate(folder, records, *fs) -> Path:
    """A store of simulated records at these sampling rates in Hz (default 100)."""
    steps = (
        (
            "simulate_physionet2020.py",
            "--output_dir",
            "sim",
            "--records",
            str(records),
            "--seed",
            "3",
        ),
        (
            "data_extraction_without_preprocessing.py",
            "--input_dir",
            "sim",
            "--output_dir",
            "shards",
            "--target_fs",
            *map(str, fs or (100,)),
        ),
        ("reformat_memmap.py", "--input_dir", "shards", "--output_dir", "store"),
    )
    for script, *arguments in steps:
        subprocess.run(
            [sys.executable, str(ROOT / "data_preparation" / script), *arguments],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder / "store"


def moments_for(launcher, kills, rng) -> list[str]:
    """As many moments as kills, every kind in turn."""
    kinds = ["step", "checkpoint", "starting"]
    if "downstream" in launcher:
        kinds.insert(1, "evaluation")
    moments = [kinds[number % len(kinds)] for number in range(kills)]
    rng.shuffle(moments)
    return moments


def run_scenario(name, kills, folder, store, rng, chain=5):
    """Kill ``kills`` times, in runs of at most ``chain`` kills; returns (moments of the
    kills, identical kills).
    """
    launcher, processes, config = SCENARIOS[name]
    config = {**config, "dataset": {**config["dataset"], "store": str(store)}}
    if config.get("mode") == "finetune":
        config["encoder_path"] = str(folder / "encoder.pth")
    folder = folder / "".join(c if c.isalnum() else "_" for c in name)
    undisturbed = Run(launcher, processes, config, folder / "undisturbed")
    undisturbed.start()
    undisturbed.finish()
    done, identical, number = [], 0, 0
    while len(done) < kills:
        run = Run(launcher, processes, config, folder / f"killed{number}")
        mine = []
        for moment in moments_for(launcher, min(chain, kills - len(done)), rng):
            hit = run.kill_at(moment, rng)
            if hit is None:
                break
            mine.append(hit)
        else:
            run.start()
            run.finish()
        different = differences(undisturbed.output, run.output)
        identical += 0 if different else len(mine)
        done += mine
        number += 1
        print(
            f"  {name}: killed at {', '.join(mine) or 'no moment'}: "
            f"{'DIFFERENT: ' + ', '.join(different) if different else 'identical'}",
            flush=True,
        )
        if not different:
            shutil.rmtree(run.output.parent)
    return done, identical


def pretrained_encoder(folder, store) -> None:
    """folder/encoder.pth for the fine-tuning scenarios."""
    launcher, processes, config = SCENARIOS["ST-MEM, 1 process"]
    config = {**config, "dataset": {**DATA, "store": str(store)}, "train": {**TRAIN, "epochs": 1}}
    run = Run(launcher, processes, config, folder / "encoder")
    run.start()
    run.finish()
    shutil.copy(run.output / "encoder.pth", folder / "encoder.pth")


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="altogether (default: 50)")
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="repeatable (default: all)"
    )
    parser.add_argument(
        "--records", type=int, default=60, help="simulated recordings (default: 60)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--folder", type=Path, help="keep everything here (default: a temporary folder)"
    )
    arguments = parser.parse_args(argv)
    names = arguments.scenario or list(SCENARIOS)
    rng = random.Random(arguments.seed)
    rows, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        store = simulate(folder, arguments.records)
        if any(SCENARIOS[name][2].get("mode") == "finetune" for name in names):
            pretrained_encoder(folder, store)
        for number, name in enumerate(names):
            kills = arguments.kills // len(names) + (number < arguments.kills % len(names))
            if kills:
                rows.append((name, *run_scenario(name, kills, folder, store, rng)))
    print_table(rows, time.monotonic() - began)
    return 0 if all(len(done) == identical for _, done, identical in rows) else 1


def print_table(rows, seconds):
    """One row a scenario, in Markdown."""
    print(f"\n| scenario | kills | {' | '.join(MOMENTS)} | resumed bit-identically |")
    print(f"|---|{'---|' * (len(MOMENTS) + 2)}")
    for name, done, identical in rows:
        count = Counter(done)
        print(
            f"| {name} | {len(done)} | {' | '.join(str(count[moment]) for moment in MOMENTS)} | "
            f"{identical} |"
        )
    kills, identical = sum(len(done) for _, done, _ in rows), sum(row[2] for row in rows)
    print(f"\n{identical} of {kills} resumed bit-identically, in {seconds / 60:.0f} minutes")


if __name__ == "__main__":
    sys.exit(main())
