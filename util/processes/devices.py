"""--gpu of the published scripts: which devices, how many processes.  Imports torch where it is
needed: --help does without.
"""

import os

from util.errors import ConfigError
from util.processes.launcher import parse_devices


def add_gpu_flag(parser, several=True) -> None:
    """--gpu as everywhere; without ``several`` for scripts of one process."""
    more = ", 0,1 two, cpu none, cpu,cpu two CPU processes" if several else ", cpu none"
    parser.add_argument(
        "--gpu",
        metavar="IDS" if several else "ID",
        help=f"0 is one GPU{more} (default: the first GPU, or the CPU where there is none)",
    )


def one_device(text: str | None):
    """The torch.device of --gpu for a script of one process; a ConfigError where it names
    several.
    """
    from util.processes import collectives

    processes, device = choose_devices(text)
    if processes > 1:
        raise ConfigError(f"--gpu {text}: this script runs on one device")
    return collectives.start(device)


def choose_devices(text: str | None) -> tuple[int, str]:
    """Make the device of --gpu the visible one: (processes, value for the config's ``device``).
    Where it asks for several processes, the launcher chooses as it starts them, and in these
    nothing is left to choose.

    A machine without any GPU computes on the CPU and says so, so that published commands run
    there, too.
    """
    if text is None:
        return 1, "auto"
    import torch

    here, started = torch.cuda.device_count(), "RANK" in os.environ
    usable = os.environ.get("CUDA_VISIBLE_DEVICES") if here and not started else None
    processes, visible = parse_devices(text, usable)
    if visible and usable is None and not started and 0 < here <= max(map(int, visible.split(","))):
        raise ConfigError(f"--gpu {text}: this machine has {here} GPU(s), numbered from 0")
    if visible and not here and os.environ.get("RANK", "0") == "0":
        from util.console import note

        note(f"note: --gpu {text}, but PyTorch sees no GPU; computing on the CPU")
    if processes == 1 and not started:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible or ""
    return processes, "auto" if visible else "cpu"
