"""The real launcher on a tiny pre-training run, on this machine or in a network namespace of its
own.

process = start(folder, "cpu,cpu", "--max_restarts", "2")
wait_for(folder / "run" / "log_steps.txt", process, lines=2)
os.kill(process.pid, signal.SIGTERM)
status, text = end(process)
"""

import os
import subprocess
import time
from pathlib import Path

import yaml

from benchmarks.fault_injection import kill_tree
from tests.support import small_store

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "model_name": "st_mem_vit_tiny_dec128d2b",
    "model": {"seq_len": 150, "patch_size": 75, "mask_ratio": 0.5},
    "dataset": {
        "fs": 100,
        "max_records": 48,
        "transforms": [{"random_crop": {"crop_length": 150}}, {"standardize": {"axis": [-1, -2]}}],
    },
    "train": {
        "epochs": 200,
        "lr": 1e-3,
        "warmup_epochs": 1,
        "log_every": 1,
        "checkpoint_every": "2 steps",
        "keep_every": 100,
        "keep_last": 1,
        "figure_every": 100,
    },
    "dataloader": {"batch_size": 8, "num_workers": 0},
}


def start(folder, gpus, *flags, namespace=None, environment=None):
    """Start run_pretrain.sh on a run of 200 epochs with results in ``folder/run``; returns its
    process.
    """
    folder.mkdir(exist_ok=True)
    config = {**CONFIG, "dataset": {**CONFIG["dataset"], "store": str(small_store.store())}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [
        "bash",
        str(ROOT / "run_pretrain.sh"),
        "--gpus",
        gpus,
        "--config_path",
        str(folder / "config.yaml"),
        "--output_dir",
        str(folder),
        "--exp_name",
        "run",
        *flags,
    ]
    within = (
        ["ip", "netns", "exec", namespace] if namespace else []
    )  # becomes the command, under the same process id
    return subprocess.Popen(
        [*within, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def wait_for(path, process, lines=1, seconds=600):
    """Until a file has so many lines."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and len(path.read_bytes().splitlines()) >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(
        f"{path} never had {lines} lines: {process.communicate()[0] if process.poll() else ''}"
    )


def end(process, seconds=600):
    """(exit status, what it printed, without progress bars); fails if it does not end in time or
    leaves children.
    """
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        raise AssertionError(
            f"still running after {seconds} s: {process.communicate()[0]}"
        ) from None
    lines = [
        line
        for line in text.replace("\r", "\n").splitlines()
        if line.strip() and "epoch " not in line[:8]
    ]
    return process.returncode, "\n".join(lines)


def children(process) -> list[int]:
    """Process ids of a launcher's training processes, in rank order."""
    return [
        int(child)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
