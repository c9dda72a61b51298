"""--gpu of the published scripts: which devices, how many processes.

torch is imported where it is needed: --help does without.
"""

import argparse
import os
from typing import TYPE_CHECKING

from util.console import note
from util.errors import ConfigError
from util.processes.environment import forget_group, in_group
from util.processes.launcher import parse_devices

if TYPE_CHECKING:
    import torch


def add_gpu_flag(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """Add --gpu to a script's command line; without ``several`` for scripts of one process."""
    more = ", 0,1 two, cpu none, cpu,cpu two CPU processes" if several else ", cpu none"
    parser.add_argument(
        "--gpu",
        "--gpus",  # as in run_pretrain.sh
        metavar="IDS" if several else "ID",
        help=f"0 is one GPU{more} (default: the first GPU, or the CPU where there is none)",
    )


def one_device(text: str | None) -> "torch.device":
    """Return the device of --gpu for a script of one process.

    Raises:
        ConfigError: ``text`` names several.
    """
    from util.processes import collectives

    processes, device = choose_devices(text)
    if processes > 1:
        raise ConfigError(f"--gpu {text}: this script runs on one device")
    forget_group()
    return collectives.start(device)


def choose_devices(text: str | None) -> tuple[int, str]:
    """Make the device of --gpu the visible one; return (processes, the config's ``device``).

    Where several processes are asked for, the launcher chooses as it starts them, and nothing is
    left to choose in these.  A machine without any GPU computes on the CPU and says so, so that
    published commands run there, too.

    Raises:
        ConfigError: there is no such GPU, or ``text`` is none of the forms.
    """
    if text is None:
        return 1, "auto"
    import torch

    here = torch.cuda.device_count()
    started = in_group() or "TORCHELASTIC_RUN_ID" in os.environ
    usable = os.environ.get("CUDA_VISIBLE_DEVICES") if here and not started else None
    processes, visible = parse_devices(text, usable)
    if visible and usable is None and not started and 0 < here <= max(map(int, visible.split(","))):
        raise ConfigError(f"--gpu {text}: this machine has {here} GPU(s), numbered from 0")
    if visible and not here:
        note(f"note: --gpu {text}, but PyTorch sees no GPU; computing on the CPU")
    if processes == 1 and not started:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible or ""
    return processes, "auto" if visible else "cpu"
