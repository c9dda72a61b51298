"""What a cluster, torchrun or a user says by environment variables about the processes of a run,
checked before any process waits for another.
"""

import os
import socket

from util.console import group, note
from util.errors import ConfigError

# What a launcher decides anew; PET_* are defaults of torchrun's flags
OF_A_GROUP = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")


def in_group() -> bool:
    """Return whether several processes of this run were started, joined yet or not."""
    return group()[1] > 1


def forget_group() -> None:
    """Remove what a cluster says of processes that this program starts itself, or does without."""
    for name in list(os.environ):
        if name in OF_A_GROUP or name.startswith("PET_"):
            del os.environ[name]


def note_tasks() -> None:
    """Say so where srun started several tasks, each of which is a run of its own."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" not in os.environ and tasks != "1":
        note(
            f"note: srun started {tasks} tasks (SLURM_STEP_NUM_TASKS), and each is a run of its "
            "own; for one run on several devices start one task a "
            "machine, with run_pretrain.sh or run_downstream.sh --gpus ..."
        )


def check_group() -> None:
    """Check the variables by which the processes of a run find each other.

    Raises:
        ConfigError: one is missing, is no such number, or leads nowhere.
    """
    world = _number("WORLD_SIZE", least=1, default="1")
    if world == 1:
        return
    if "RANK" not in os.environ:
        raise ConfigError(
            f"WORLD_SIZE is {world} but RANK is not set, so the other processes cannot be found; "
            "unset WORLD_SIZE for one process, or start several with run_pretrain.sh or "
            "run_downstream.sh (--gpus, --nnodes)"
        )
    _number("RANK", most=world - 1)
    _number("LOCAL_RANK", default="0")
    _number("MASTER_PORT", least=1, most=65535)
    try:
        socket.getaddrinfo(_text("MASTER_ADDR"), None)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"MASTER_ADDR is {os.environ['MASTER_ADDR']!r}, which is no name or address of a "
            f"machine ({getattr(error, 'strerror', None) or error}); set it to process 0's"
        ) from None
    check_interfaces()


def check_interfaces(variable: str = "GLOO_SOCKET_IFNAME") -> None:
    """Check that a variable names network interfaces of this machine.

    Args:
        variable: gloo's, whose names are exact, or nccl's, whose names are beginnings unless they
            follow "=" and are those to leave out after "^".

    Raises:
        ConfigError: it names another.
    """
    names = os.environ.get(variable, "")
    if not names or names.startswith("^"):
        return
    here = [name for _, name in socket.if_nameindex()]
    exact = variable == "GLOO_SOCKET_IFNAME" or names.startswith("=")
    wanted = [name.partition(":")[0] for name in names.removeprefix("=").split(",")]
    known = [
        any(name == each or (each.startswith(name) and not exact) for each in here)
        for name in wanted
    ]
    if all(known) if variable == "GLOO_SOCKET_IFNAME" else any(known):
        return
    raise ConfigError(
        f"{variable} is {names!r}, but the network interfaces of this machine are "
        f"{', '.join(here)}; correct it, or unset it: the one that leads to machine 0 is taken"
    )


def _text(name: str, default: str | None = None) -> str:
    value = os.environ.get(name, default)
    if value:
        return value
    raise ConfigError(
        f"{name} is not set, but WORLD_SIZE and RANK are; set it as on the other processes, or "
        "start them with run_pretrain.sh or run_downstream.sh"
    )


def _number(name: str, least: int = 0, most: int = 2**31, default: str | None = None) -> int:
    text = _text(name, default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ConfigError(f"{name} is {text!r}, but must be a number from {least} to {most}")
    return int(text)
