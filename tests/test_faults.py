"""What goes wrong around a run: signals, killed processes, full disks, losses that are not finite, torn files."""
import contextlib
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import small_store
import torch
import yaml
from jobs import run_job
from tiny_jobs import ST_MEM, with_store
from torch import nn

from benchmarks.fault_injection import kill_tree
from main_pretrain import pretrain
from models.registry import register
from util import checkpoint, distributed, engine, job, launch
from util.checkpoint import parse_checkpoint_every
from util.config import load_config
from util.errors import CheckpointError, ConfigError, ECGError
from util.launch import launch_parser, status_of, torchrun_arguments
from util.meters import Meters
from util.run_log import RunLog
from util.stop import LOST, PREEMPTED, SIGNALS, Preempted, StopRequest

ROOT = Path(__file__).resolve().parents[1]


class Fragile(nn.Module):
    """A method whose loss is not finite for chosen records, with a BatchNorm that such records would spoil."""

    def __init__(self, bad, width=4):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layer, self.encoder.norm = nn.Linear(12, width), nn.BatchNorm1d(width)
        self.encoder.forward_features = lambda x: self.encoder.norm(self.encoder.layer(x.mean(2)))
        self.bad = bad

    def after_step(self, progress):
        """The contract's."""

    def forward(self, batch):
        signal = batch["signal"]
        for row in self.bad:
            signal = torch.where((batch["record"] == row)[:, None, None], math.nan, signal)
        return {"loss": self.encoder.forward_features(signal).square().mean() * 1e-3 +
                self.encoder.layer.weight.square().mean()}


@register
def fragile(bad=()):
    """For tests."""
    return Fragile(bad)


def config_for(folder, *overrides, **model):
    """A config of three epochs of six steps with the fragile method."""
    base = with_store({**ST_MEM, "model_name": "fragile", "model": model}, epochs=3, checkpoint_every=1)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(base))
    return load_config([path], [f"output_dir={folder}", "exp_name=run", *overrides])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def log(folder, name="log.txt"):
    return [json.loads(line) for line in (folder / "run" / name).read_text().splitlines()]


# ============ losses that are not finite ============
def test_nonfinite_loss_stops_with_step_records_and_checkpoint(tmp_path):
    config = config_for(tmp_path)
    pretrain({**config, "train": {**config["train"], "epochs": 1}})
    with pytest.raises(ECGError) as caught:
        pretrain(config_for(tmp_path, "resume=auto", bad=[5]))
    text = str(caught.value)
    step = int(text.split("epoch 1, step ")[1].split(";")[0])
    assert "the loss was not finite at epoch 1" in text and 0 <= step < 6
    assert "E005" in text and text.count("E0") == 8  # the eight records of that batch
    assert f"Last good checkpoint: {tmp_path / 'run' / 'checkpoint-last.pth'}" in text
    found = checkpoint.load(tmp_path / "run" / "checkpoint-last.pth")
    assert found["epoch"] == 1 and all(value.isfinite().all() for value in found["model"].values())


def test_nonfinite_loss_is_never_saved(tmp_path):
    """Looked at only every log_every steps, but always before a checkpoint is written."""
    with pytest.raises(ECGError, match="Last good checkpoint: none yet|checkpoint-last"):
        pretrain(config_for(tmp_path, "train.log_every=100", "train.checkpoint_every=1 step", bad=[5]))
    last = tmp_path / "run" / "checkpoint-last.pth"
    if last.exists():
        assert all(value.isfinite().all() for value in checkpoint.load(last)["model"].values())


def test_tolerated_steps_leave_no_trace(tmp_path, capsys):
    """Skipped steps change neither weights nor BatchNorm statistics, and do not pull the mean loss to zero."""
    pretrain(config_for(tmp_path, "train.skip_nonfinite=3", bad=[5]))
    state = checkpoint.load(tmp_path / "run" / "encoder.pth")["model"]
    assert all(value.isfinite().all() for value in state.values())
    assert state["norm.num_batches_tracked"] == 15  # of 18 steps, one an epoch skipped
    steps = log(tmp_path, "log_steps.txt")
    assert sum(math.isnan(line["loss"]) for line in steps) == 3
    for line in log(tmp_path):
        losses = [s["loss"] for s in steps if s["epoch"] == line["epoch"] and not math.isnan(s["loss"])]
        assert line["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert "(3 of 3 tolerated)" in capsys.readouterr().out


def test_one_more_than_tolerated_stops(tmp_path):
    with pytest.raises(ECGError, match="not finite at epoch 2"):
        pretrain(config_for(tmp_path, "train.skip_nonfinite=2", bad=[5]))


def test_tolerated_steps_are_counted_over_an_interruption(tmp_path):
    """Two of three bad steps are tolerated; the defect would begin to count anew at the resume."""
    config = config_for(tmp_path, "train.skip_nonfinite=2", bad=[5])
    pretrain({**config, "train": {**config["train"], "epochs": 2}})
    with pytest.raises(ECGError, match="not finite at epoch 2"):
        pretrain({**config, "resume": "auto"})


def test_scaler_decides_alone_about_overflowing_gradients():
    """float16: gradients that overflow under a finite loss are the scaler's business, and cost no tolerance."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 20)
    training = engine.Training.__new__(engine.Training)
    training.train_config, training.scaler, training.optimizer = {"max_norm": None}, scaler, optimizer
    meters = Meters(pd.Series(["A"]), tolerated=1)
    scaler.scale((parameter * torch.tensor([1.0, 3e38])).sum()).backward()
    assert not meters.skips(torch.tensor([1.0]))
    training._update()
    assert torch.equal(parameter.detach(), torch.ones(2)) and meters.skipped == 0 and scaler.get_scale() == 2.0 ** 19


# ============ configuration of checkpoints ============
@pytest.mark.parametrize("value, parsed", [(1, (1, None)), (20, (20, None)), ("500 steps", (None, 500)), ("1 step", (None, 1)),
                                           ("3", (3, None)), ("2 epochs", (2, None))])
def test_checkpoint_every(value, parsed):
    assert parse_checkpoint_every(value) == parsed


@pytest.mark.parametrize("value", [0, -1, "0 steps", "-3 steps", "often", "steps", "5 minutes", "1.5 steps", "", "²", True])
def test_checkpoint_every_that_means_nothing(value):
    with pytest.raises(ConfigError, match="train.checkpoint_every must be"):
        parse_checkpoint_every(value)


# ============ files of a run ============
def test_two_runs_do_not_share_a_folder(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen([sys.executable, "-c", "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, "
                               "fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)", tmp_path / "run" / ".lock"],
                              stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        monkeypatch.setattr(engine, "PATIENCE", 0.3)
        with pytest.raises(ECGError, match="another process is writing to .*run; wait for it"):
            pretrain(config_for(tmp_path))
    finally:
        holder.kill()
        holder.wait()
    config = config_for(tmp_path)
    (tmp_path / "run" / ".checkpoint-last.pth.123.tmp").write_bytes(b"half")
    pretrain({**config, "train": {**config["train"], "epochs": 1}})  # the lock died with its holder
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_full_disk_ends_a_run_with_one_sentence_and_it_goes_on_later(tmp_path, monkeypatch, capsys):
    config, count, fsync = config_for(tmp_path), [0], os.fsync

    def filling(handle):
        count[0] += 1
        if count[0] > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", filling)
    assert job.run_main(lambda argv: pretrain(config)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: cannot write ") and "No space left on device; the older" in said
    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")
    pretrain({**config, "resume": "auto"})
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["log.txt", "log_steps.txt"])
def test_torn_and_late_lines_go(tmp_path, name):
    """Left by a kill in the middle of a line, or after the last checkpoint."""
    path = tmp_path / name
    good = [json.dumps({"epoch": epoch, "step": step, "loss": 1.0}) for epoch in (0, 1) for step in (1, 2)]
    path.write_bytes("\n".join([*good, '{"epoch": 1, "st']).encode() + b"\xff\0\0\n5\n[]\n")
    RunLog(tmp_path, 1, 1).close()
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in kept] == \
        ([(0, 1), (0, 2)] if name == "log.txt" else [(0, 1), (0, 2), (1, 1)])


def test_log_that_cannot_be_written(tmp_path, monkeypatch):
    run_log = RunLog(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ECGError, match="cannot write to the run's folder .*: No space left on device"):
        run_log.line("log.txt", {"epoch": 0})


def test_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(ECGError, match="cannot write to .*choose another --output_dir"):
        pretrain(config_for(tmp_path))


@pytest.mark.parametrize("change, words", [
    ({"model": {}}, "does not fit this model"), ({"rng": [1]}, "does not fit"), ({"optimizer": {"a": 1}}, "does not fit"),
    ({"metrics": {}}, "does not fit"), ({"metrics": 3}, "does not fit"), ({"config": {"model_name": "dino"}}, "is of dino"),
    ({"step": 99}, "stands at step 99 of an epoch, which now has 6"), ({"step": "a"}, "does not fit")])
def test_checkpoint_with_a_wrong_part_is_refused(tmp_path, change, words):
    config = config_for(tmp_path)
    pretrain({**config, "train": {**config["train"], "epochs": 1}})
    path = tmp_path / "run" / "checkpoint-last.pth"
    checkpoint.save({**checkpoint.load(path), **change}, path)
    with pytest.raises(CheckpointError, match=words):
        pretrain({**config, "resume": "auto"})


def test_damaged_checkpoint_is_not_silently_passed_over(tmp_path):
    config = config_for(tmp_path, "train.keep_every=1")
    pretrain({**config, "train": {**config["train"], "epochs": 2}})
    path = tmp_path / "run" / "checkpoint-last.pth"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="is damaged.*--resume .*checkpoint-1.pth"):
        pretrain({**config, "resume": "auto"})
    pretrain({**config, "resume": str(tmp_path / "run" / "checkpoint-1.pth")})
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]


@contextlib.contextmanager
def watched(stop_at=None):
    """{epoch: rows of the store in the order seen} of what trains in here; a checkpoint and a stop at (epoch, step)."""
    seen, step, due = {}, engine.Training._step, engine.Training._save_if_due

    def look(self, batches):
        seen.setdefault(self.epoch, []).extend(row for batch in batches for row in batch["record"].tolist())
        step(self, batches)

    def save_if_due(self):
        due(self)
        if (self.epoch, self.step) == stop_at:
            self.save()
            raise Preempted("")
    with pytest.MonkeyPatch.context() as patch, contextlib.nullcontext() if stop_at is None else pytest.raises(Preempted):
        patch.setattr(engine.Training, "_step", look)
        patch.setattr(engine.Training, "_save_if_due", save_if_due)
        yield seen


@pytest.mark.parametrize("batch_size, step", [(4, 8), (5, 6), (7, 4), (40, 0)])
def test_another_batch_size_goes_on_at_the_same_record(tmp_path, capsys, batch_size, step):
    """The defect: with a step that does not divide what has been seen, records were shown twice."""
    config = config_for(tmp_path, "train.log_every=3")
    with watched(stop_at=(1, 4)) as before:
        pretrain(config)
    loader = {**config["dataloader"], "batch_size": batch_size}
    last = checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")
    assert (last["epoch"], last["step"]) == (1, 4)
    if batch_size == 5:  # stopped once more within the epoch
        with watched(stop_at=(1, 7)) as again:
            pretrain({**config, "resume": "auto", "dataloader": loader})
        before[1] += again[1]
    with watched() as after:
        pretrain({**config, "resume": "auto", "dataloader": loader})
    seen = before[1] + after.get(1, [])
    assert len(seen) == len(set(seen)) == 48 - (48 - 32) % batch_size
    assert len(set(after[2])) == 48 - 48 % batch_size
    said = capsys.readouterr().out
    assert f"a step was 8 records and is now {batch_size}; going on at the same record of the epoch, step {step}" in said
    assert "these keys differ from the checkpoint's run: dataloader.batch_size" in said
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]
    assert all(math.isfinite(line["train_loss"]) for line in log(tmp_path))


def test_start_epoch_counts_once(tmp_path):
    """The defect: --resume auto began at start_epoch after every interruption."""
    config = config_for(tmp_path)
    pretrain({**config, "train": {**config["train"], "epochs": 2}})
    again = {**config, "start_epoch": 1, "train": {**config["train"], "epochs": 5}}
    with watched(stop_at=(3, 2)) as seen:
        pretrain({**again, "resume": "auto"})
    assert list(seen) == [1, 2, 3]
    with watched() as seen:
        pretrain({**again, "resume": "auto"})
    assert list(seen) == [3, 4] and len(seen[3]) == 48 - 16
    with watched() as seen:  # named explicitly: as asked
        pretrain({**again, "resume": str(tmp_path / "run" / "checkpoint-last.pth")})
    assert list(seen) == [1, 2, 3, 4]
    with watched() as seen:  # nothing to resume from
        pretrain({**again, "resume": "auto", "exp_name": "other"})
    assert list(seen) == [1, 2, 3, 4]


def test_changed_arguments_of_the_optimizer_are_applied(tmp_path, capsys):
    """The defect: announced, then overwritten by the checkpoint's."""
    config = config_for(tmp_path, "train.optimizer_kwargs={betas: [0.9, 0.999]}")
    with watched(stop_at=(0, 3)):
        pretrain(config)
    train = {**config["train"], "optimizer_kwargs": {"betas": [0.5, 0.6], "eps": 1e-3}, "weight_decay": 0.3}
    pretrain({**config, "resume": "auto", "train": train})
    assert "train.optimizer_kwargs.betas, train.optimizer_kwargs.eps, train.weight_decay" in capsys.readouterr().out
    last = checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")["optimizer"]
    assert [(tuple(group["betas"]), group["eps"]) for group in last["param_groups"]] == [((0.5, 0.6), 1e-3)] * 2
    assert [group["weight_decay"] for group in last["param_groups"]] == [0.3, 0.0]
    assert all(state["step"] == 18 for state in last["state"].values())  # the moments went on
    for change, words in (({"optimizer": "sgd", "optimizer_kwargs": {}}, "is of adamw, not sgd"),
                          ({"optimizer_kwargs": {"amsgrad": True}}, "amsgrad cannot change")):
        with pytest.raises(CheckpointError, match=words):
            pretrain({**config, "resume": "auto", "train": {**config["train"], **change}})


# ============ signals ============
@pytest.fixture
def handlers():
    """Handlers of the test's own process are put back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    StopRequest.ever = False
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    StopRequest.ever = False


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noticed_and_a_second_does_no_harm(handlers, number):
    with pytest.raises(Preempted):
        with StopRequest() as stop:
            assert not stop.requested
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert stop.requested
            raise Preempted("saved")
    signal.raise_signal(number)  # while the process ends


def test_a_signal_where_nothing_needs_saving_ends_at_once(handlers):
    with pytest.raises(Preempted, match="nothing was lost"):
        with StopRequest(at_once=True):
            signal.raise_signal(signal.SIGTERM)
            assert False
    signal.raise_signal(signal.SIGTERM)


def test_a_signal_after_the_last_look_reaches_those_outside(handlers):
    """Between the last epoch's checkpoint and the test: the defect would be a run that cannot be stopped."""
    with pytest.raises(Preempted):
        with StopRequest(at_once=True):
            with StopRequest():
                signal.raise_signal(signal.SIGUSR1)
            assert False


def test_run_main_turns_endings_into_exit_statuses(handlers, capsys, monkeypatch):
    def raising(error):
        def main(argv):
            raise error
        return main
    assert job.run_main(lambda argv: None) == 0
    assert job.run_main(raising(ConfigError("no such key"))) == 2
    assert capsys.readouterr().err == "error: no such key\n"
    worker = "Caught StoreError in DataLoader worker process 0.\nOriginal Traceback ...\nutil.errors.StoreError: it is torn\n"
    assert job.run_main(raising(ECGError(worker))) == 2
    assert capsys.readouterr().err == "error: it is torn\n"
    assert job.run_main(raising(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))) == 2
    assert "a loader process died (DataLoader worker (pid 7) is killed" in capsys.readouterr().err
    assert job.run_main(raising(Preempted("stopped"))) == PREEMPTED
    assert job.run_main(raising(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):
        job.run_main(raising(ZeroDivisionError()))
    capsys.readouterr()
    monkeypatch.setattr(distributed, "in_group", lambda: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert job.run_main(raising(RuntimeError("[../gloo/pair.cc] Connection closed by peer [127.0.0.1]:9"))) == LOST
    assert capsys.readouterr().err.count("\n") == 1


def test_launcher_reports_what_failed_first(capsys):
    assert status_of([(1, 10, 0)]) == 1
    assert status_of([(LOST, 10, 0), (-9, 11, 1)]) == 137
    assert "process 1 was killed by SIGKILL; most often its memory ran out" in capsys.readouterr().err
    assert status_of([(1, 10, 0), (-15, 11, 1)]) == 1   # torchrun ended the other
    assert status_of([(2, 10, 1), (LOST, 10, 0)]) == 2
    assert status_of([(PREEMPTED, 10, 0), (-15, 10, 1)]) == PREEMPTED
    assert status_of([(-15, 10, 0), (-10, 10, 1)]) == PREEMPTED
    assert status_of([(-11, 10, 0), (LOST, 10, 1)]) == 139
    assert status_of([(-9, 10, 0), (PREEMPTED, 10, 1)]) == 137  # torchrun's SIGTERM looked like a request to the other
    assert status_of([(LOST, 10, 1)]) == LOST


@pytest.mark.parametrize("given, want", [([], ["--resume", "auto"]), (["--resume", "x.pth"], ["--resume", "x.pth"])])
def test_a_restart_resumes(monkeypatch, given, want):
    """Unless another checkpoint is asked for."""
    told = []
    monkeypatch.setattr(launch, "run_torchrun", lambda arguments: told.append(arguments) or 0)
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):  # put back what the launcher sets
        monkeypatch.setenv(name, "1")
    options = launch_parser("x").parse_args(["--gpus", "cpu", "--max_restarts", "2"])
    assert launch.launch("main_pretrain.py", options, given) == 0
    place = told[0].index("--resume")
    assert told[0][place:place + 2] == want and told[0].count("--resume") == 1 and "--max_restarts=2" in told[0]


def test_torchrun_is_told_of_both_signals_and_gives_time_to_save():
    flags = torchrun_arguments(launch_parser("x").parse_args(["--gpus", "cpu,cpu"]), 2)
    handled = next(flag for flag in flags if "signals" in flag)
    assert "SIGTERM" in handled and "SIGUSR1" in handled
    assert int(next(flag for flag in flags if "shutdown" in flag).partition("=")[2]) >= 120


def test_preempted_with_workers_on_two_processes(tmp_path):
    """A loader's workers get the group's signal, too, and must not die of it: exit 75 in good time, both processes."""
    config = with_store({**ST_MEM, "dataloader": {"batch_size": 4, "num_workers": 1}})
    stopped = run_job("main_pretrain", config, tmp_path, world=2, stop_at=("step", 2), number=signal.SIGUSR1)
    assert stopped.statuses == [PREEMPTED, PREEMPTED], stopped.text
    found = checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")
    assert (found["epoch"], found["step"]) == (0, 3)


# ============ the real launcher (slow: every process imports torch) ============
def launched(folder, gpus, *flags):
    """Start run_pretrain.sh on a long run; returns its process."""
    config = with_store({**ST_MEM, "model_name": "st_mem_vit_tiny_dec128d2b", "model": {
        "seq_len": 150, "patch_size": 75, "mask_ratio": 0.5}}, epochs=200, keep_every=100, figure_every=100)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["bash", str(ROOT / "run_pretrain.sh"), "--gpus", gpus, "--config_path", str(folder / "config.yaml"),
               "--output_dir", str(folder), "--exp_name", "run", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(path, process, lines=1, seconds=120):
    """Until a file has so many lines."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and len(path.read_bytes().splitlines()) >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {lines} lines: {process.communicate()[0] if process.poll() else ''}")


def end(process, seconds=60):
    """(exit status, what it printed, without progress bars); fails if it does not end in time or leaves children."""
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        raise
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip() and "epoch " not in line[:8]]
    return process.returncode, "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("to", ["launcher", "group", "group, then launcher"])
def test_preemption_through_the_launcher(tmp_path, gpus, number, to):
    process = launched(tmp_path, gpus)
    wait_for(tmp_path / "run" / "log_steps.txt", process, 2)
    if "group" in to:
        os.killpg(process.pid, number)
    if "launcher" in to:
        os.kill(process.pid, number)
    status, text = end(process)
    assert status == PREEMPTED, text
    assert "Traceback" not in text and text.count("go on with --resume auto") == 1
    checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_killed_process_ends_all_with_one_message(tmp_path, rank):
    process = launched(tmp_path, "cpu,cpu")
    wait_for(tmp_path / "run" / "log_steps.txt", process, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)
    began = time.monotonic()
    status, text = end(process)
    assert status == 137 and time.monotonic() - began < 60
    assert text.count("error:") == 1 and f"process {rank} was killed by SIGKILL" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_killed_launcher_does_not_leave_processes_training(tmp_path):
    process = launched(tmp_path, "cpu,cpu")
    wait_for(tmp_path / "run" / "log_steps.txt", process, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    status, text = process.wait(), process.stdout.read()  # until every process has closed it
    assert status == -9 and "stopped on request" in text
    assert not any(Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]
                   for child in children)


@pytest.mark.slow
def test_restart_goes_on_from_the_checkpoint(tmp_path):
    process = launched(tmp_path, "cpu,cpu", "--max_restarts", "2", "--set", "train.epochs=8")
    for lines in (8, 20):  # steps
        wait_for(tmp_path / "run" / "log_steps.txt", process, lines)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
    status, text = end(process, 180)
    assert status == 0 and text.count("resumed from") == 2 and "Traceback" not in text, text
    assert [line["epoch"] for line in log(tmp_path)] == list(range(8))


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("flag, words", [
    ("train.checkpoint_every=often", "train.checkpoint_every"), ("dataset.store=nowhere", "no store at"),
    ("model.depth=3", "does not take depth"), ("train.epoch=3", "did you mean train.epochs")])
def test_errors_are_one_sentence_and_status_2(tmp_path, gpus, flag, words):
    status, text = end(launched(tmp_path, gpus, "--set", flag))
    assert status == 2 and text.count("error:") == 1 and words in text and "Traceback" not in text, text
