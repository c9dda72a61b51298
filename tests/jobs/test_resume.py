"""A run that is killed at any point and started again leaves what an undisturbed one leaves, to
the last bit.
"""

import functools
import os
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.fault_injection import differences
from main_finetune import finetune
from tests.support.jobs import run_job
from tests.support.small_store import same_environment
from tests.support.tiny_jobs import SCENARIOS, VIT, with_store
from tests.support.two_processes import run_processes
from util.config.fields import parse
from util.config.keys import FinetuneConfig, TrainConfig
from util.config.load import check
from util.errors import CheckpointError
from util.jobs.setup import seed_everything
from util.processes import collectives
from util.processes.stopping import LOST, PREEMPTED
from util.training import state as run_state
from util.training.log.meters import Meters
from util.training.optimizer import make_optimizer
from util.training.state import check_agreement

KILL, TERM, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1


def check_stopped_run(name, tmp_path, stops):
    """Stop a run at each of ``stops``, ((kind, count), signal), resume it every time, and
    compare.
    """
    program, config, world = SCENARIOS[name]
    config = with_store(config)
    undisturbed = run_job(program, config, tmp_path / "a", world=world)
    assert undisturbed.statuses == [0] * world, undisturbed.text
    reached = 0
    for stop_at, number in stops:
        stopped = run_job(
            program, config, tmp_path / "b", world=world, stop_at=stop_at, number=number
        )
        reached += stopped.statuses[0] != 0
        if stopped.statuses[0]:  # else the run was over before
            expected = -KILL if number == KILL else PREEMPTED
            assert stopped.statuses[0] == expected, stopped.text
            if number != KILL:
                # Before the first step and after the last, process 0 stops at once: another may be
                # through already, or finds it gone.
                assert set(stopped.statuses[1:]) <= {PREEMPTED, 0, LOST}, stopped.text
                assert (
                    stopped.text.count("stopped on request") == 1
                    and "Traceback" not in stopped.text
                )
    final = run_job(program, config, tmp_path / "b", world=world)
    assert final.statuses == [0] * world, final.text
    assert differences(tmp_path / "a" / "run", tmp_path / "b" / "run") == []
    assert not list((tmp_path / "b" / "run").rglob("*.tmp"))
    return reached


def test_st_mem_killed_between_steps_and_while_writing(tmp_path):
    """Among them the defect that a kill between the two checkpoints of an epoch lost
    checkpoint-<epoch>.pth.
    """
    stops = [(("step", 3), KILL), (("rename", 1), KILL), (("sync", 8), KILL), (("line", 4), KILL)]
    assert check_stopped_run("st_mem", tmp_path, stops) == len(stops)


def test_dino_on_two_processes_killed_and_preempted(tmp_path):
    """EMA teacher, centre, BatchNorm of two processes, two micro-batches a step."""
    stops = [(("step", 1), USR1), (("step", 1), KILL), (("sync", 3), KILL)]
    assert check_stopped_run("dino accumulation 2", tmp_path, stops) == len(stops)


def test_fine_tuning_on_two_processes_stopped_in_evaluation(tmp_path):
    """BatchNorm statistics are process 0's on both when they evaluate: the defect would differ
    after resuming.
    """
    stops = [(("evaluation", 0), TERM), (("evaluation", 0), KILL), (("step", 1), TERM)]
    assert check_stopped_run("cnn 2", tmp_path, stops) == len(stops)


def draws():
    return [random.random(), np.random.rand(), torch.rand(()).item()]


def training_with(best, matmul_precision="auto"):
    """As much of a Training as a checkpoint is made of and restored to."""
    model = torch.nn.Linear(2, 2)
    given = {"epochs": 1, "optimizer": "sgd", "matmul_precision": matmul_precision}
    train = parse(TrainConfig, given)
    state = run_state.TrainState(
        model=model,
        optimizer=make_optimizer(model, train, lr=0.1),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        meters=Meters(None),
        best=best,
    )
    return SimpleNamespace(
        state=state,
        config=SimpleNamespace(train=train),
        resolved={},
        last_saved=None,
        about={},
        dataset=SimpleNamespace(checksums=[]),
        batches=SimpleNamespace(per_step=8, offset=0),
        position=lambda: 0.0,
    )


def test_every_process_draws_and_resumes_random_numbers_of_its_own(monkeypatch):
    """Dropout would else be alike in all parts of a batch, from the start or after an
    interruption.
    """
    before, states, drawn = run_state.random_state(), [], []
    for rank in range(2):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        seed_everything(7)
        states.append(run_state.random_state())
        drawn.append(draws())
    assert not set(drawn[0]) & set(drawn[1])
    content = {**run_state.content_of(training_with({"loss": 0.5})), "rng": states}
    monkeypatch.setattr(collectives, "world", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        training = training_with({})
        training.state.load_state_dict(content)
        run_state._restore_surroundings(training, content)
        assert draws() == drawn[rank] and training.state.best == {"loss": 0.5}
    run_state.set_random_state(before)


@pytest.mark.parametrize("asked, resumed", [("auto", "medium"), ("highest", "highest")])
def test_a_resumed_run_multiplies_as_before_whatever_a_new_trial_says(asked, resumed):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        content = run_state.content_of(training_with({}))
        torch.set_float32_matmul_precision("highest")
        training = training_with({}, asked)
        run_state._restore_surroundings(training, content)
        assert torch.get_float32_matmul_precision() == resumed
    finally:
        torch.set_float32_matmul_precision(before)


def in_a_folder_of_its_own(places):
    """Work where no other process looks, as machines without a common disk do."""
    place = Path(places) / f"node{os.environ['RANK']}"
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)


def test_processes_that_share_no_folder_go_on_together(tmp_path):
    """Process 0 alone reads and writes.  The defect: process 1, which finds nothing, began anew
    in the same collectives.

    BatchNorm apart: in mid-epoch each process has running statistics of its own, and the
    checkpoint those of process 0.
    """
    program, config, world = SCENARIOS["cnn 2"]
    config = with_store(config, sync_bn=False)
    undisturbed = run_job(program, config, tmp_path / "a", world=world)
    assert undisturbed.statuses == [0, 0], undisturbed.text
    apart = functools.partial(in_a_folder_of_its_own, str(tmp_path / "b"))
    killed = run_job(
        program,
        config,
        tmp_path / "b",
        "--output_dir",
        "out",
        world=world,
        stop_at=("step", 6),
        patch=apart,
    )
    assert killed.statuses[0] == -KILL, killed.text
    final = run_job(
        program, config, tmp_path / "b", "--output_dir", "out", world=world, patch=apart
    )
    assert final.statuses == [0, 0] and "checkpoint-last.pth: epoch 1, step 2" in final.text, (
        final.text
    )
    assert differences(tmp_path / "a" / "run", tmp_path / "b" / "node0" / "out" / "run") == []
    assert not list((tmp_path / "b" / "node1").iterdir())


def disagreement(differ):
    """What check_agreement says where processes stand at different steps, or have different
    running statistics.
    """
    model = torch.nn.BatchNorm1d(3)
    model.running_mean += torch.distributed.get_rank() if differ == "weights" else 0
    step = torch.distributed.get_rank() if differ == "step" else 0
    try:
        check_agreement(SimpleNamespace(model=model, epoch=1, step=step))
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("differ", ["", "step", "weights"])
def test_processes_that_resumed_differently_end_with_an_error(differ):
    said = run_processes(disagreement, 2, differ)
    assert said[0] == said[1] and (
        "did not resume alike (process 0: epoch 1, step 0, " in said[0]
    ) == bool(differ)


def test_a_run_that_goes_back_tests_no_weights_of_the_epochs_it_gave_up(tmp_path, capsys):
    """The defect: best-loss.pth was of the epochs after the checkpoint, as first trained, wherever
    the new ones were worse than one before it.
    """
    folder = tmp_path / "run"
    places = {"output_dir": str(tmp_path), "exp_name": "run", "device": "cpu"}

    def best(resume, **train):
        train = {"epochs": 3, "warmup_epochs": 0, "freeze_epochs": 0, "keep_last": 0} | train
        config = {**with_store(VIT, **train), **places, "resume": resume}
        with same_environment():
            finetune(check(config, FinetuneConfig))
        kept = torch.load(folder / "checkpoint-last.pth")["metrics"]["best_scores"]
        weights = torch.load(folder / "best-loss.pth")
        assert weights["metrics"]["loss"] == kept["loss"]
        return weights["config"]["train"]["lr"], kept["loss"]

    _, first = best("", lr=1e-3)
    gone_back = best(str(folder / "checkpoint-0.pth"), lr=0.5, min_lr=0.5)
    assert gone_back[0] == 0.5 and gone_back[1] > first
    assert "note: best-loss.pth" in capsys.readouterr().out
    best("auto", lr=0.5, min_lr=0.5, epochs=4)
    assert "note: best-loss.pth" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_stopped_at_random_points(name, tmp_path):
    rng = random.Random(name)
    kinds = [
        "step",
        "line",
        "sync",
        "rename",
        "evaluation" if "main_finetune" in SCENARIOS[name][0] else "step",
    ]
    stops = [
        ((rng.choice(kinds), rng.randrange(6)), rng.choice([KILL, KILL, TERM, USR1]))
        for _ in range(12)
    ]
    assert check_stopped_run(name, tmp_path, stops) >= 3


@pytest.mark.slow
def test_killed_at_every_single_point(tmp_path):
    program, config, _ = SCENARIOS["vit"]
    points = run_job(program, with_store(config), tmp_path / "a").points
    for number, kind in enumerate(points):
        folder = tmp_path / str(number)
        killed = run_job(
            program, with_store(config), folder, stop_at=(kind, points[:number].count(kind))
        )
        assert killed.statuses == [-KILL]
        assert run_job(program, with_store(config), folder).statuses == [0]
        assert differences(tmp_path / "a" / "run", folder / "run") == [], (number, kind)
        shutil.rmtree(folder)
