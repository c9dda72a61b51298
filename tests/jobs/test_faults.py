"""What goes wrong around a run: full disks, losses that are not finite, torn files."""

import contextlib
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from data_preparation.building.tables import add_splits
from main_finetune import finetune
from main_pretrain import pretrain
from tests.support import small_store
from tests.support.configs import changed
from tests.support.tiny_jobs import CNN, DATA, ST_MEM, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check, load_config
from util.contract.encoder import Encoder
from util.contract.method import Method
from util.contract.registry import register
from util.data.store import RecordStore, checksum
from util.errors import CheckpointError, ConfigError, ECGError
from util.processes import program
from util.processes.stopping import Preempted
from util.reports.comparison import read_run
from util.reports.run_report import read_folds
from util.training import claim, engine
from util.training.claim import check_folder
from util.training.log.meters import Meters
from util.training.log.run_log import RunLog
from util.training.state import TrainState
from util.weights import checkpoint
from util.weights.checkpoint import parse_checkpoint_every


class MeanEncoder(Encoder):
    """A linear layer on each lead's mean, and a BatchNorm."""

    def __init__(self, width):
        super().__init__()
        self.width, self.head = width, nn.Identity()
        self.layer, self.norm = nn.Linear(12, width), nn.BatchNorm1d(width)

    def forward_features(self, series):
        return self.norm(self.layer(series.mean(2)))


class Fragile(Method):
    """A method whose loss is not finite for chosen records, with a BatchNorm that such records
    would spoil.
    """

    bad_from_now_on = ()

    def __init__(self, bad, width=4):
        super().__init__()
        self.encoder, self.bad = MeanEncoder(width), bad

    def forward(self, batch, drawn):
        signal = batch["signal"]
        for row in (*self.bad, *self.bad_from_now_on):
            signal = torch.where((batch["record"] == row)[:, None, None], math.nan, signal)
        return {
            "loss": self.encoder.forward_features(signal).square().mean() * 1e-3
            + self.encoder.layer.weight.square().mean()
        }


@register
def fragile(bad=()):
    """For tests."""
    return Fragile(bad)


def config_for(folder, *overrides, **model):
    """A config of three epochs of six steps with the fragile method."""
    base = with_store(
        {**ST_MEM, "model_name": "fragile", "model": model}, epochs=3, checkpoint_every=1
    )
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(base))
    return load_config(
        [path], [f"output_dir={folder}", "exp_name=run", *overrides], program=PretrainConfig
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def log(folder, name="log.txt"):
    return [json.loads(line) for line in (folder / "run" / name).read_text().splitlines()]


# ============ losses that are not finite ============
def test_nonfinite_loss_stops_with_step_records_and_checkpoint(tmp_path, monkeypatch):
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 1}))
    monkeypatch.setattr(Fragile, "bad_from_now_on", (5,))
    with pytest.raises(ECGError) as caught:
        pretrain(changed(config, resume="auto"))
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
        pretrain(
            config_for(tmp_path, "train.log_every=100", "train.checkpoint_every=1 step", bad=[5])
        )
    last = tmp_path / "run" / "checkpoint-last.pth"
    if last.exists():
        assert all(value.isfinite().all() for value in checkpoint.load(last)["model"].values())


def test_tolerated_steps_leave_no_trace(tmp_path, capsys):
    """Skipped steps change neither weights nor BatchNorm statistics, and do not pull the mean
    loss to zero.
    """
    pretrain(config_for(tmp_path, "train.skip_nonfinite=3", bad=[5]))
    state = checkpoint.load(tmp_path / "run" / "encoder.pth")["model"]
    assert all(value.isfinite().all() for value in state.values())
    assert state["norm.num_batches_tracked"] == 15  # of 18 steps, one an epoch skipped
    steps = log(tmp_path, "log_steps.txt")
    assert sum(math.isnan(line["loss"]) for line in steps) == 3
    for line in log(tmp_path):
        losses = [
            s["loss"] for s in steps if s["epoch"] == line["epoch"] and not math.isnan(s["loss"])
        ]
        assert line["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert "(3 of 3 tolerated)" in capsys.readouterr().out


def test_one_more_than_tolerated_stops(tmp_path):
    with pytest.raises(ECGError, match="not finite at epoch 2"):
        pretrain(config_for(tmp_path, "train.skip_nonfinite=2", bad=[5]))


def test_scaler_decides_alone_about_overflowing_gradients():
    """float16: gradients that overflow under a finite loss are the scaler's business, and cost no
    tolerance.
    """
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    training = engine.Training.__new__(engine.Training)
    meters = Meters(pd.Series(["A"]), tolerated=1)
    training.config = SimpleNamespace(train=SimpleNamespace(max_norm=None))
    model = SimpleNamespace(before_step=lambda epoch: None)
    training.state = TrainState(model, optimizer, scaler, meters)
    training.batches = SimpleNamespace(steps=1)
    scaler.scale((parameter * torch.tensor([1.0, 3e38])).sum()).backward()
    assert not meters.skips(torch.tensor([1.0]))
    training.update()
    assert (
        torch.equal(parameter.detach(), torch.ones(2))
        and meters.skipped == 0
        and scaler.get_scale() == 2.0**19
    )


# ============ configuration of checkpoints ============
@pytest.mark.parametrize(
    "value, parsed",
    [
        (1, (1, None)),
        (20, (20, None)),
        ("500 steps", (None, 500)),
        ("1 step", (None, 1)),
        ("3", (3, None)),
        ("2 epochs", (2, None)),
    ],
)
def test_checkpoint_every(value, parsed):
    assert parse_checkpoint_every(value) == parsed


@pytest.mark.parametrize(
    "value",
    [0, -1, "0 steps", "-3 steps", "often", "steps", "5 minutes", "1.5 steps", "", "²", True],
)
def test_checkpoint_every_that_means_nothing(value):
    with pytest.raises(ConfigError, match="train.checkpoint_every must be"):
        parse_checkpoint_every(value)


# ============ files of a run ============
def test_two_runs_do_not_share_a_folder(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); "
            "print(1, flush=True); time.sleep(60)",
            tmp_path / "run" / ".lock",
        ],
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    try:
        monkeypatch.setattr(claim, "PATIENCE", 0.3)
        with pytest.raises(ECGError, match="another process is writing to .*run; wait for it"):
            pretrain(config_for(tmp_path))
    finally:
        holder.kill()
        holder.wait()
    config = config_for(tmp_path)
    (tmp_path / "run" / ".checkpoint-last.pth.123.tmp").write_bytes(b"half")
    # the lock died with its holder
    pretrain(changed(config, train={"epochs": 1}))
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_full_disk_ends_a_run_with_one_sentence_and_it_goes_on_later(tmp_path, monkeypatch, capsys):
    config, count, fsync = config_for(tmp_path), [0], os.fsync

    def filling(handle):
        count[0] += 1
        if count[0] > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", filling)
    assert program.run_main(lambda argv: pretrain(config)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: cannot write ") and "No space left on device; the older" in said
    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")
    pretrain(changed(config, resume="auto"))
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["log.txt", "log_steps.txt"])
def test_torn_and_late_lines_go(tmp_path, name):
    """Left by a kill in the middle of a line, or after the last checkpoint."""
    path = tmp_path / name
    good = [
        json.dumps({"epoch": epoch, "step": step, "loss": 1.0})
        for epoch in (0, 1)
        for step in (1, 2)
    ]
    path.write_bytes("\n".join([*good, '{"epoch": 1, "st']).encode() + b"\xff\0\0\n5\n[]\n")
    RunLog(tmp_path, 1, 1).close()
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in kept] == (
        [(0, 1), (0, 2)] if name == "log.txt" else [(0, 1), (0, 2), (1, 1)]
    )


def test_log_that_cannot_be_written(tmp_path, monkeypatch):
    run_log = RunLog(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        ECGError, match="cannot write to the run's folder .*: No space left on device"
    ):
        run_log.line("log.txt", {"epoch": 0})


def test_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(ECGError, match="cannot write to .*choose another --output_dir"):
        pretrain(config_for(tmp_path))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": {}}, "does not fit this model"),
        ({"rng": [1]}, "does not fit"),
        ({"optimizer": {"a": 1}}, "does not fit"),
        ({"metrics": {}}, "does not fit"),
        ({"metrics": 3}, "does not fit"),
        ({"config": {"model_name": "dino"}}, "is of another job, which differs in model_name"),
        ({"step": 99}, "stands at step 99 of an epoch, which now has 6"),
        ({"step": "a"}, "does not fit"),
    ],
)
def test_checkpoint_with_a_wrong_part_is_refused(tmp_path, change, words):
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 1}))
    path = tmp_path / "run" / "checkpoint-last.pth"
    checkpoint.save({**checkpoint.load(path), **change}, path)
    with pytest.raises(CheckpointError, match=words):
        pretrain(changed(config, resume="auto"))


def test_damaged_checkpoint_is_not_silently_passed_over(tmp_path):
    config = config_for(tmp_path, "train.keep_every=1")
    pretrain(changed(config, train={"epochs": 2}))
    path = tmp_path / "run" / "checkpoint-last.pth"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="is damaged.*--resume .*checkpoint-1.pth"):
        pretrain(changed(config, resume="auto"))
    pretrain(changed(config, resume=str(tmp_path / "run" / "checkpoint-1.pth")))
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]


def test_tolerated_steps_are_counted_over_an_interruption(tmp_path):
    """Two of three bad steps are tolerated; the defect would begin to count anew at the resume."""
    config = config_for(tmp_path, "train.skip_nonfinite=2", bad=[5])
    pretrain(changed(config, train={"epochs": 2}))
    with pytest.raises(ECGError, match="not finite at epoch 2"):
        pretrain(changed(config, resume="auto"))


@contextlib.contextmanager
def watched(stop_at=None):
    """{epoch: rows of the store in the order seen} of what trains in here; a checkpoint and a
    stop at (epoch, step).
    """
    seen, step, due = {}, engine.Training.take_step, engine.Training.save_if_due

    def look(self, batches):
        seen.setdefault(self.epoch, []).extend(
            row for batch in batches for row in batch["record"].tolist()
        )
        step(self, batches)

    def save_if_due(self):
        due(self)
        if (self.epoch, self.state.step) == stop_at:
            self.save()
            raise Preempted("")

    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.nullcontext() if stop_at is None else pytest.raises(Preempted),
    ):
        patch.setattr(engine.Training, "take_step", look)
        patch.setattr(engine.Training, "save_if_due", save_if_due)
        yield seen


@pytest.mark.parametrize("batch_size, step", [(4, 8), (5, 6), (7, 4), (40, 0)])
def test_another_batch_size_goes_on_at_the_same_record(tmp_path, capsys, batch_size, step):
    """The defect: with a step that does not divide what has been seen, records were shown twice."""
    config = config_for(tmp_path, "train.log_every=3")
    with watched(stop_at=(1, 4)) as before:
        pretrain(config)
    loader = {"batch_size": batch_size}
    last = checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")
    assert (last["epoch"], last["step"]) == (1, 4)
    if batch_size == 5:  # stopped once more within the epoch
        with watched(stop_at=(1, 7)) as again:
            pretrain(changed(config, resume="auto", dataloader=loader))
        before[1] += again[1]
    with watched() as after:
        pretrain(changed(config, resume="auto", dataloader=loader))
    seen = before[1] + after.get(1, [])
    assert len(seen) == len(set(seen)) == 48 - (48 - 32) % batch_size
    assert len(set(after[2])) == 48 - 48 % batch_size
    said = capsys.readouterr().out
    assert (
        f"a step was 8 records and is now {batch_size}; resuming at the same record of the "
        "epoch, "
        f"step {step}" in said
    )
    assert "these keys differ from the checkpoint's run: dataloader.batch_size" in said
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]
    assert all(math.isfinite(line["train_loss"]) for line in log(tmp_path))


def test_start_epoch_counts_once(tmp_path):
    """The defect: --resume auto began at start_epoch after every interruption."""
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 2}))
    again = changed(config, start_epoch=1, train={"epochs": 5})
    with watched(stop_at=(3, 2)) as seen:
        pretrain(changed(again, resume="auto"))
    assert list(seen) == [1, 2, 3]
    with watched() as seen:
        pretrain(changed(again, resume="auto"))
    assert list(seen) == [3, 4] and len(seen[3]) == 48 - 16
    with watched() as seen:  # named explicitly: as asked
        pretrain(changed(again, resume=str(tmp_path / "run" / "checkpoint-last.pth")))
    assert list(seen) == [1, 2, 3, 4]
    with watched() as seen:  # nothing to resume from
        pretrain(changed(again, resume="auto", exp_name="other"))
    assert list(seen) == [1, 2, 3, 4]


def test_changed_arguments_of_the_optimizer_are_applied(tmp_path, capsys):
    """The defect: announced, then overwritten by the checkpoint's."""
    config = config_for(tmp_path, "train.optimizer_kwargs={betas: [0.9, 0.999]}")
    with watched(stop_at=(0, 3)):
        pretrain(config)
    train = {
        "optimizer_kwargs": {"betas": [0.5, 0.6], "eps": 1e-3},
        "weight_decay": 0.3,
    }
    pretrain(changed(config, resume="auto", train=train))
    assert (
        "train.optimizer_kwargs.betas, train.optimizer_kwargs.eps, train.weight_decay"
        in capsys.readouterr().out
    )
    last = checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")["optimizer"]
    assert [(tuple(group["betas"]), group["eps"]) for group in last["param_groups"]] == [
        ((0.5, 0.6), 1e-3)
    ] * 2
    assert [group["weight_decay"] for group in last["param_groups"]] == [0.3, 0.0]
    assert all(state["step"] == 18 for state in last["state"].values())  # the moments went on
    for change, words in (
        (
            {"optimizer": "sgd", "optimizer_kwargs": {}},
            "is of another job, which differs in train.optimizer;",
        ),
        ({"optimizer_kwargs": {"amsgrad": True}}, "amsgrad cannot change"),
    ):
        with pytest.raises(CheckpointError, match=words):
            pretrain(changed(config, resume="auto", train=change))


# ============ another job's checkpoint ============
@pytest.mark.parametrize(
    "change, key",
    [
        ({"seed": 1}, "seed"),
        ({"model": {"bad": [7]}}, "model.bad"),
        ({"dataset": {"crops_per_record": 2}}, "dataset.crops_per_record"),
        ({"dataset": {"crop": 200}}, "dataset.crop"),
        ({"dataset": {"standardize": "lead"}}, "dataset.standardize"),
        ({"dataset": {"filters": {"highpass": 0.5}}}, "dataset.filters"),
        ({"dataset": {"max_records": 40}}, "dataset.max_records"),
        ({"dataset": {"exclude_folds": [1]}}, "dataset.exclude_folds"),
        ({"train": {"decay_all": True}}, "train.decay_all"),
    ],
)
def test_auto_never_goes_on_with_another_job(tmp_path, change, key):
    """The defect: a note, then the old weights under the new job's name and config.yaml."""
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 1}))
    kept = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "encoder.pth")}
    with pytest.raises(
        CheckpointError, match="is of another job, which differs in (.*);"
    ) as caught:
        pretrain(changed(config, resume="auto", **change))
    assert key in str(caught.value) and "choose another --exp_name" in str(caught.value)
    assert all((tmp_path / "run" / name).read_bytes() == was for name, was in kept.items())


def test_a_loop_over_folds_under_one_name_ends_at_the_second(tmp_path):
    """The defect: fold 3 was tested with the weights of fold 0, which had trained on its records:
    AUROC 1.000 in place of .923.
    """
    config = check(
        {**with_store(CNN), "output_dir": str(tmp_path), "exp_name": "run"}, FinetuneConfig
    )
    looped = changed(config, resume="auto", device="cpu")
    (first,) = finetune(looped)
    (again,) = finetune(looped)
    assert again.scores == first.scores
    before = (tmp_path / "run" / "test_metrics.csv").read_bytes()
    for change, key in (
        ({"fold": 3}, "dataset.fold"),
        ({"label_fraction": 0.5}, "dataset.label_fraction"),
        ({"protocol": "published"}, "dataset.protocol"),
    ):
        with pytest.raises(CheckpointError, match=f"of another job, which differs in {key};"):
            finetune(changed(looped, dataset=change))
    assert (tmp_path / "run" / "test_metrics.csv").read_bytes() == before
    (other,) = finetune(changed(looped, dataset={"fold": 3}, exp_name="run3"))
    assert other.fold == 3


@pytest.mark.parametrize(
    "change",
    [
        {"dataloader": {"num_workers": 1, "pin_memory": False}},
        {"train": {"log_every": 1, "figure_every": 3, "keep_every": 1, "skip_nonfinite": 1}},
        {"device": "cpu"},
    ],
)
def test_what_changes_no_result_may_differ(tmp_path, change):
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 2}))
    pretrain(changed(config, resume="auto", **change))
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"train": {"lr": 1e-4}}, "train.lr can have no effect"),
        ({"train": {"weight_decay": 0.2}}, "train.weight_decay can have no effect"),
        ({"dataloader": {"batch_size": 4}}, "dataloader.batch_size can have no effect"),
        ({"train": {"epochs": 2}}, "3 epochs behind it, more than train.epochs: 2"),
    ],
)
def test_a_finished_run_is_no_result_of_other_settings(tmp_path, change, words):
    """A loop over learning rates under one name printed the first one's result for all."""
    config = config_for(tmp_path)
    pretrain(config)
    with pytest.raises(CheckpointError, match=words):
        pretrain(changed(config, resume="auto", **change))
    pretrain(changed(config, resume="auto", train={"epochs": 4}))
    assert [line["epoch"] for line in log(tmp_path)] == [0, 1, 2, 3]


def test_a_copy_of_the_store_is_no_other_job(tmp_path, capsys):
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 1}))
    (tmp_path / "link").symlink_to(config.dataset.store, target_is_directory=True)
    moved = {"store": str(tmp_path / "link")}
    pretrain(changed(config, resume="auto", dataset=moved, train={"epochs": 2}))
    assert "these keys differ from the checkpoint's run: dataset.store" in capsys.readouterr().out
    path = tmp_path / "run" / "checkpoint-last.pth"
    content = checkpoint.load(path)
    content["metrics"]["data"] = [0 for _ in content["metrics"]["data"]]
    checkpoint.save(content, path)
    with pytest.raises(CheckpointError, match="is of another job, which differs in dataset.store"):
        pretrain(changed(config, resume="auto"))


def split_by_folds(root, shift):
    """Add splits by the folds of a store, fold ``shift`` to test and the one behind it to select."""
    records = RecordStore(root / "fs100").records
    place = (records["fold"] - shift) % 10
    records["split"] = place.map({0: "test", 1: "valid"}).fillna("train")
    records[["record", "split"]].to_csv(root / "mine.csv", index=False)
    add_splits(root, root / "mine.csv")


@pytest.mark.parametrize("run, config", [(pretrain, ST_MEM), (finetune, CNN)])
def test_other_splits_of_the_same_name_are_another_job(tmp_path, run, config):
    """The defect: weights were tested on records that they had trained on by the table before."""
    root = tmp_path / "store"
    root.mkdir()
    (root / "fs100").symlink_to(small_store.store() / "fs100", target_is_directory=True)
    split_by_folds(root, 0)
    data = {**DATA, "max_records": None, "store": str(root), "protocol": "given", "splits": "mine"}
    data |= {"exclude_parts": ["test"]} if run is pretrain else {}
    program = PretrainConfig if run is pretrain else FinetuneConfig
    config = {**config, "dataset": data, "output_dir": str(tmp_path), "exp_name": "run"}
    config = changed(check(config, program), train={"steps_per_epoch": 1}, resume="auto")
    run(config)
    split_by_folds(root, 0)
    run(config)
    split_by_folds(root, 3)
    with pytest.raises(CheckpointError, match="differs in which records train, select and test"):
        run(config)


# ============ a folder with results ============
@pytest.mark.parametrize(
    "change, keys",
    [
        ({"seed": 1}, "seed"),
        ({"model": {"bad": [7]}, "train": {"lr": 1e-4}}, "model.bad, train.lr"),
        ({"train": {"epochs": 2}}, "train.epochs"),
        ({"seed": 1, "resume": "auto"}, "seed"),
    ],
)
def test_results_of_another_job_are_not_overwritten(tmp_path, change, keys):
    """The defect: the same command with another seed replaced encoder.pth without a word."""
    config = config_for(tmp_path)
    pretrain(changed(config, train={"epochs": 1}))
    (tmp_path / "run" / "checkpoint-last.pth").unlink()  # with it, --resume auto says so
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    config = changed(config, train={"epochs": 1})
    with pytest.raises(
        ConfigError, match=f"holds the results of another job.* {keys};.*--exp_name"
    ):
        pretrain(changed(config, **change))
    assert all(path.read_bytes() == was for path, was in before.items())
    pretrain(changed(config, overwrite=True, **change))
    assert (tmp_path / "run" / "encoder.pth").read_bytes() != before[tmp_path / "run/encoder.pth"]


def test_overwriting_leaves_nothing_of_the_other_job(tmp_path):
    """The defect: a new job that was killed early lay beside the other one's scores and weights,
    which a summary then took for its own.
    """
    finetune(tuning(tmp_path, [3]))
    run = tmp_path / "run"
    place = run if (run / "config.yaml").is_file() else run / "fold3"
    assert {"best-loss.pth", "test_metrics.csv"} <= {path.name for path in place.iterdir()}
    config = tuning(tmp_path, [3], train={"lr": 0.01}, overwrite=True)
    resolved = yaml.safe_load((place / "config.yaml").read_text())
    resolved["train"]["lr"] = 0.01
    check_folder(place, config, resolved)
    left = {path.name for path in place.iterdir() if path.is_file()}
    assert left - {".lock"} == {"config.yaml"}


def test_overwriting_leaves_no_published_weights_of_the_other_job(tmp_path):
    """The defect: fold3_bestPRC.pth beside the folder outlived a job that scores no AUPRC, and
    threshold_search.py took it for that job's.
    """
    two = {"target_metrics": ["AUROC", "AUPRC"]}
    finetune(tuning(tmp_path, [3], metric=two), published_names=True)
    assert (tmp_path / "run" / "fold3_bestPRC.pth").is_file()
    change = {"train": {"lr": 0.01}, "metric": {"target_metrics": ["AUROC"]}}
    finetune(tuning(tmp_path, [3], **change, overwrite=True), published_names=True)
    assert [path.name for path in (tmp_path / "run").glob("*.pth")] == ["fold3_bestROC.pth"]


def test_the_same_job_may_be_done_again(tmp_path):
    config = changed(config_for(tmp_path), train={"epochs": 1})
    pretrain(config)
    before = checkpoint.load(tmp_path / "run" / "encoder.pth")["model"]
    pretrain(changed(config, dataloader={"num_workers": 1}))
    after = checkpoint.load(tmp_path / "run" / "encoder.pth")["model"]
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_run_that_left_no_result_is_in_nobodys_way(tmp_path):
    with watched(stop_at=(0, 2)):
        pretrain(config_for(tmp_path))
    (tmp_path / "run" / "checkpoint-last.pth").unlink()
    pretrain(config_for(tmp_path, "seed=4"))


@pytest.mark.parametrize("mode", ["scratch", "probe"])
def test_fine_tuning_does_not_replace_the_pre_training(tmp_path, mode):
    """README's two commands with one ${EXPERIMENT_NAME}, in both orders."""
    pretrain(changed(config_for(tmp_path), train={"epochs": 1}))
    before = (tmp_path / "run" / "encoder.pth").read_bytes()
    mapping = {**with_store(CNN, epochs=1), "mode": mode, "output_dir": str(tmp_path)}
    tuning = check({**mapping, "exp_name": "run", "device": "cpu"}, FinetuneConfig)
    with pytest.raises(ConfigError, match="holds the results of a pre-training; .*--exp_name"):
        finetune(tuning)
    assert (tmp_path / "run" / "encoder.pth").read_bytes() == before
    (result,) = finetune(changed(tuning, exp_name="tuned"))
    assert result.folder == tmp_path / "tuned"
    with pytest.raises(ConfigError, match="holds the results of a fine-tuning; .*--exp_name"):
        pretrain(changed(config_for(tmp_path), exp_name="tuned"))


# ============ folds of several runs ============
def tuning(folder, folds, **change):
    mapping = changed_mapping({**with_store(CNN, epochs=1), "output_dir": str(folder)}, change)
    mapping["dataset"] = {**mapping["dataset"], "fold": folds}
    return check({**mapping, "exp_name": "run", "device": "cpu"}, FinetuneConfig)


def changed_mapping(mapping, change):
    for name, value in change.items():
        both = isinstance(value, dict) and isinstance(mapping.get(name), dict)
        mapping = {**mapping, name: {**mapping[name], **value} if both else value}
    return mapping


def test_a_summary_is_of_all_folds_of_one_job(tmp_path):
    """In two runs; the second one's summary took the place of the first one's."""
    finetune(tuning(tmp_path, [3, 9]))
    finetune(tuning(tmp_path, [1, 2], dataloader={"num_workers": 1}))
    table = pd.read_csv(tmp_path / "run" / "summary.csv", index_col="fold")
    assert list(table.index) == ["1", "2", "3", "9", "mean", "std"]
    assert table["AUROC"]["mean"] == pytest.approx(table["AUROC"][:4].mean(), abs=1e-4)
    said = (tmp_path / "run" / "console.txt").read_text()
    assert "with fold 3, 9, which an earlier run of this job left:" in said


@pytest.mark.parametrize(
    "change, keys",
    [
        ({"train": {"lr": 0.01}}, "train.lr"),
        ({"seed": 1, "model": {"channels": 4}}, "seed, model.channels"),
        ({"dataset": {"label_fraction": 0.5}}, "dataset.label_fraction"),
    ],
)
def test_folds_of_different_jobs_share_no_summary(tmp_path, change, keys):
    finetune(tuning(tmp_path, [3, 9]))
    before = (tmp_path / "run" / "summary.csv").read_bytes()
    wanted = f"fold3 is of another job, which differs in {keys}; a mean"
    with pytest.raises(ConfigError, match=wanted):
        finetune(tuning(tmp_path, [1, 2], **change))
    assert (tmp_path / "run" / "summary.csv").read_bytes() == before
    assert not (tmp_path / "run" / "fold1").exists(), "it trained first"
    finetune(tuning(tmp_path, [1, 2], **change, overwrite=True))
    table = pd.read_csv(tmp_path / "run" / "summary.csv", index_col="fold")
    assert list(table.index) == ["1", "2", "mean", "std"]
    said = (tmp_path / "run" / "console.txt").read_text()
    assert "fold3 is of another job" in said and "in no mean over folds" in said
    with pytest.raises(ECGError, match=f"different jobs, which differ in {keys}; a mean"):
        read_run(tmp_path / "run")
    names = [fold.name for fold in read_folds(read_run(tmp_path / "run", wanted=[1, 2]))]
    assert names == ["fold 1", "fold 2"]


@pytest.mark.parametrize("what", ["labels", "records"])
def test_folds_of_a_store_that_was_made_anew_share_no_summary(what, tmp_path):
    """The configs are the same, and were all that was compared."""
    place = tmp_path / "store"
    shutil.copytree(small_store.store(), place)
    change = {"dataset": {"store": str(place)}}
    finetune(tuning(tmp_path, [3, 9], **change))
    folder = place / "fs100"
    table = pd.read_csv(folder / "records.csv", dtype=str, keep_default_na=False)
    tested = table["fold"] == "3"
    if what == "labels":
        table.loc[tested.idxmax(), "dx"] = "426783006 713427006"
    else:
        table.loc[tested.idxmax(), "fold"] = "4"
    content = table.to_csv(index=False).encode()
    (folder / "records.csv").write_bytes(content)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "records_crc32": checksum(content)}))
    wanted = "fold3 is of another job, which differs in the records that are tested, or their la"
    with pytest.raises(ConfigError, match=wanted):
        finetune(tuning(tmp_path, [1, 2], **change))
    finetune(tuning(tmp_path, [1, 2], **change, overwrite=True))
    table = pd.read_csv(tmp_path / "run" / "summary.csv", index_col="fold")
    assert list(table.index) == ["1", "2", "9", "mean", "std"]


def test_a_report_is_of_the_folds_that_its_job_ran(tmp_path):
    """The defect: report.html pooled the folds of another job that lay beside; and that of a
    single fold showed other folds, whose folders lay within its own.
    """
    finetune(tuning(tmp_path, [3, 9]))
    change = {"train": {"lr": 0.01}, "test": {"report": True}}
    finetune(tuning(tmp_path, [1, 2], **change, overwrite=True))
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert all((f">fold {k}<" in page) == (k < 3) for k in (1, 2, 3, 9))
    finetune(tuning(tmp_path, [5], **change))
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert ">run<" in page and ">fold 1<" not in page
