"""The acceptance run's frame: parts with time limits, rows of one table, and jobs of the
project's own programs.
"""

import contextlib
import functools
import gc
import json
import signal
import time
import traceback
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.fault_injection import simulate
from util.config.keys import FinetuneConfig, JobConfig, PretrainConfig
from util.config.load import find_overlay, load_config
from util.files import replacing
from util.jobs.job import LabelledJob, SupervisedTask
from util.jobs.setup import build_configured, open_store, set_up_training, usable_rows
from util.processes.stopping import StopRequest
from util.training.engine import Training

VERDICTS = {True: "pass", False: "FAIL", None: "skipped"}


class Skip(Exception):
    """A part, or one row of it, has nothing to measure here; the text says why."""


class OutOfTime(Exception):
    """A part has used up its time."""


@dataclass
class Row:
    """A line of the table: ``passed`` is None where nothing could be measured, or there is no
    bound.
    """

    part: str
    what: str
    passed: bool | None
    number: str
    bound: str = ""

    @property
    def verdict(self) -> str:
        """pass, FAIL, skipped, or measured for a number without a bound."""
        return (
            "measured"
            if self.passed is None and self.number and not self.bound
            else VERDICTS[self.passed]
        )


@dataclass
class Run:
    """What parts are given, and what they have found.

    Args:
        device: torch.device; small: sizes for a CPU; out: folder of the results; deadline:
            time.monotonic().
    """

    device: torch.device
    small: bool
    out: Path
    deadline: float
    rows: list = field(default_factory=list)
    changes: list = field(default_factory=list)  # of defaults, by what has been measured
    part: str = ""
    jobs: int = 0

    def row(self, what: str, number: str, passed: bool | None = None, bound: str = "") -> None:
        """Add a line and show it."""
        self.rows.append(
            Row(self.part, what, passed if passed is None else bool(passed), number, bound)
        )
        print(
            f"  {self.rows[-1].verdict:8} {what}: {number}{f'  (bound: {bound})' if bound else ''}",
            flush=True,
        )

    @functools.cached_property
    def store(self) -> Path:
        """A store of simulated ECGs at 100 and 250 Hz; the same for all parts, and for a second
        run into ``out``.
        """
        folder = self.out / "simulated"
        folder.mkdir(exist_ok=True)
        done = (folder / "store" / "fs250" / "meta.json").exists()
        return folder / "store" if done else simulate(folder, 200 if self.small else 3000, 100, 250)

    # ============ jobs of the project's programs ============
    def config(self, path: str, *overrides: str, overlays=(), name="job") -> JobConfig:
        """A config of configs/ for this store and device: no warm-up, one epoch, no checkpoints
        but the last.
        """
        program = PretrainConfig if path.startswith("pretrain") else FinetuneConfig
        own = [
            f"dataset.store={self.store}",
            f"output_dir={self.out / 'runs'}",
            f"exp_name={name}",
            f"device={self.device.type}",
            "dataloader.num_workers=0",
            "train.epochs=1",
            "train.warmup_epochs=0",
            "train.log_every=1",
        ]
        own += {
            PretrainConfig: ["train.probe_every=0", "train.figure_every=1000"],
            FinetuneConfig: ["mode=scratch", "dataset.fold=0"],
        }[program]
        root = Path(__file__).resolve().parents[2]
        return load_config(
            [root / "configs" / f"{path}.yaml", *map(find_overlay, overlays)],
            [*own, *overrides],
            program=program,
        )

    def training(self, path: str, *overrides, device=None, **options) -> Training:
        """The engine of such a config, ready for its first step, in a folder of its own."""
        self.jobs += 1
        config = self.config(path, *overrides, name=f"job{self.jobs}", **options)
        device, folder = device or self.device, Path(config.output_dir) / config.exp_name
        if isinstance(config, PretrainConfig):
            store = open_store(config)
            return set_up_training(
                config,
                store,
                usable_rows(store, config),
                lambda: build_configured(config),
                device,
                folder,
            )
        job = LabelledJob(config)
        fold = job.fold(job.folds[0])
        return set_up_training(
            job.config,
            job.store,
            fold.parts["train"],
            lambda: SupervisedTask(build_configured(config, len(job.classes)), fold.criterion),
            device,
            folder,
            labels=fold.labels,
        )

    def losses(self, path: str, *overrides, steps=20, **options) -> list[float]:
        """Losses of the first steps of such a config."""
        training = self.training(path, f"train.steps_per_epoch={steps}", *overrides, **options)
        training.train_epoch(StopRequest())
        return logged_losses(training.folder)


def logged_losses(folder) -> list[float]:
    """Loss of every line of a run's log_steps.txt."""
    return [
        json.loads(line)["loss"]
        for line in (Path(folder) / "log_steps.txt").read_text().splitlines()
    ]


def relative(a, b) -> float:
    """|a - b| / |b| of two tensors, in float64 on the CPU."""
    a, b = (x.detach().double().cpu() for x in (a, b))
    return float((a - b).norm() / b.norm())


@contextlib.contextmanager
def exact_products():
    """float32 products in float32: TF32 off."""
    before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# ============ parts ============
@contextlib.contextmanager
def time_limit(seconds: float):
    """OutOfTime after so many seconds, as soon as Python runs again."""

    def ring(*_):
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(run: Run, name: str, part, budget: float) -> None:
    """One part within its time; its failure is a row, its traceback in ``out``/log, its results
    are written.
    """
    run.part, left = name, run.deadline - time.monotonic()
    print(f"== {name} (at most {min(4 * budget, left):.0f} s)", flush=True)
    began = time.monotonic()
    try:
        if left < budget:
            raise Skip(f"it needs about {budget:.0f} s and {max(left, 0):.0f} s are left")
        with time_limit(min(4 * budget, left)):
            part(run)
    except Skip as reason:
        run.row(name, str(reason), None, "-")
    except ImportError as error:
        run.row(name, f"this python lacks a package: {error}", None, "-")
    except (Exception, SystemExit) as error:
        with open(run.out / "log", "a") as file:
            file.write(f"==== {name}\n{traceback.format_exc()}\n")
        last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        run.row(name, last[:200], False, "runs to its end")
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    print(f"   {time.monotonic() - began:.0f} s", flush=True)
    write(run)


def table(rows) -> str:
    """Rows in Markdown."""
    lines = ["| part | what | result | number | bound |", "|---|---|---|---|---|"]
    cells = [(row.part, row.what, row.verdict, row.number, row.bound) for row in rows]
    return "\n".join(
        lines
        + ["| " + " | ".join(cell.replace("|", "/") for cell in each) + " |" for each in cells]
    )


def write(run: Run) -> None:
    """acceptance.json and acceptance.md, whole or as before."""
    with replacing(run.out / "acceptance.json", "w") as file:
        json.dump([{**asdict(row), "verdict": row.verdict} for row in run.rows], file, indent=1)
    with replacing(run.out / "acceptance.md", "w") as file:
        file.write(describe(run.device) + "\n\n" + table(run.rows) + "\n")


def describe(device) -> str:
    """The machine in a line."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} thread(s)"
    )
    packages = ", ".join(
        f"{package} {metadata.version(package)}"
        for package in ("numpy", "scipy", "einops", "pandas")
    )
    return f"{name}; torch {torch.__version__}; CUDA {torch.version.cuda}; {packages}"
