"""Variables of clusters and of torchrun: used where they are whole, named where they are not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from util.console import group, is_first
from util.errors import ConfigError, ECGError
from util.processes import collectives, devices, launcher
from util.processes.environment import (
    check_group,
    check_interfaces,
    forget_group,
    in_group,
    note_tasks,
)

ROOT = Path(__file__).resolve().parents[3]
WHOLE = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "12345"}
NAMES = (*WHOLE, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture
def environment(monkeypatch):
    """A function that sets the variables anew; a value None is one that is not set."""

    def set_to(**values):
        for name in (*NAMES, "TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    set_to()
    return set_to


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, (0, 1)),
        ({"WORLD_SIZE": "2"}, (0, 1)),
        ({"RANK": "3"}, (0, 1)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, (3, 4)),
        ({"WORLD_SIZE": "two", "RANK": "1"}, (0, 1)),
        ({"WORLD_SIZE": "", "RANK": ""}, (0, 1)),
    ],
)
def test_number_of_this_process(environment, values, expected):
    environment(**values)
    assert group() == expected and in_group() == (expected[1] > 1)
    assert is_first() == (expected[0] == 0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"RANK": None}, "WORLD_SIZE is 2 but RANK is not set.*unset WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"RANK": "2"}, "RANK is '2', but must be a number from 0 to 1"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "no such machine"}, "MASTER_ADDR is 'no such machine', which is no name"),
        ({"MASTER_ADDR": "a" * 70}, "MASTER_ADDR"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000'.*from 1 to 65535"),
        ({"GLOO_SOCKET_IFNAME": "nosuch0"}, "GLOO_SOCKET_IFNAME is 'nosuch0'.* lo"),
    ],
)
def test_what_is_missing_or_wrong_is_named(environment, change, words):
    environment(**{**WHOLE, **change})
    with pytest.raises(ConfigError, match=words):
        check_group()


def test_what_is_right_passes(environment):
    for values in ({}, WHOLE, {"WORLD_SIZE": "1"}, {"RANK": "3"}, {**WHOLE, "LOCAL_RANK": "1"}):
        environment(**values)
        check_group()


@pytest.mark.parametrize(
    "variable, value, passes",
    [
        ("GLOO_SOCKET_IFNAME", "lo", True),
        ("GLOO_SOCKET_IFNAME", "", True),
        ("GLOO_SOCKET_IFNAME", "lo,eth7", False),
        ("GLOO_SOCKET_IFNAME", "l", False),
        ("NCCL_SOCKET_IFNAME", "l", True),
        ("NCCL_SOCKET_IFNAME", "ib,lo", True),
        ("NCCL_SOCKET_IFNAME", "=l", False),
        ("NCCL_SOCKET_IFNAME", "^docker", True),
        ("NCCL_SOCKET_IFNAME", "ib", False),
    ],
)
def test_interfaces(environment, monkeypatch, variable, value, passes):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    environment(**{variable: value})
    if passes:
        check_interfaces(variable)
        return
    with pytest.raises(
        ConfigError, match=f"{variable} is .*interfaces of this machine are lo, eth"
    ):
        check_interfaces(variable)


def test_a_port_that_another_program_has(environment):
    """The defect: 76, as if another process had ended; a job script started it again for ever."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        environment(**{**WHOLE, "RANK": "0", "MASTER_PORT": str(taken.getsockname()[1])})
        collectives._store.cache_clear()
        with pytest.raises(ECGError, match="no meeting at MASTER_ADDR 127.0.0.1, MASTER_PORT"):
            collectives.start("cpu")


def test_gpus_without_local_rank(environment, monkeypatch):
    """All processes of a machine would take its first GPU."""
    environment(**WHOLE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="LOCAL_RANK is not set.*2 GPUs"):
        collectives.start("auto")


@pytest.mark.parametrize(
    "captured, chosen, found", [(True, None, "0"), (False, None, None), (True, "3", "3")]
)
def test_nccl_is_told_of_captures_before_it_joins(
    environment, monkeypatch, captured, chosen, found
):
    """It reads the variable once; one that somebody has set stays, and the step is plain."""
    environment(**WHOLE, LOCAL_RANK="0")
    monkeypatch.setenv(collectives.WATCHED, chosen or "")
    if not chosen:
        monkeypatch.delenv(collectives.WATCHED)
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(collectives, "_store", lambda: None)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda *given, **named: seen.append(os.environ.get(collectives.WATCHED)),
    )
    collectives.start("cuda", captured=captured)
    assert seen == [found]


def test_a_program_of_one_process_does_without(environment):
    environment(**WHOLE)
    assert devices.one_device("cpu") == torch.device("cpu")
    assert not in_group() and is_first()


def test_a_launcher_forgets_what_a_cluster_says(environment, monkeypatch):
    environment(**WHOLE, LOCAL_RANK="1", PET_RDZV_BACKEND="c10d")
    forget_group()
    assert not {"WORLD_SIZE", "RANK", "LOCAL_RANK", "PET_RDZV_BACKEND"} & set(os.environ)


def test_a_launcher_names_a_wrong_interface(environment):
    environment(GLOO_SOCKET_IFNAME="nosuch0")
    options = launcher.launch_parser("x").parse_args(["--gpus", "cpu,cpu"])
    with pytest.raises(ConfigError, match="GLOO_SOCKET_IFNAME is 'nosuch0'"):
        launcher.launch("main_pretrain.py", options, [])


def test_tasks_of_srun_are_said(environment, capsys):
    environment(SLURM_STEP_NUM_TASKS="4")
    note_tasks()
    assert "srun started 4 tasks" in capsys.readouterr().out
    environment(SLURM_STEP_NUM_TASKS="4", RANK="0", WORLD_SIZE="4")
    note_tasks()
    environment(SLURM_STEP_NUM_TASKS="1")
    note_tasks()
    assert capsys.readouterr().out == ""


def test_a_training_program_ends_with_2(environment, tmp_path):
    """The defect: a traceback about RANK, on each machine."""
    environment(WORLD_SIZE="2")
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from util.processes.collectives import start; from "
            "util.processes.program import run_main; sys.exit(run_main(lambda argv: start('cpu')))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("error: WORLD_SIZE is 2 but RANK")
