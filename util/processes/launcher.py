"""Start a main program on the devices asked for: one process, or one for each through torchrun.

    python -m util.processes.launcher main_pretrain.py --gpus 0,1,2,3
        [--nnodes N --node_rank R --master_addr HOST --master_port P]
        [flags of the main program ...]

run_pretrain.sh and run_downstream.sh call this.  --gpus 0,1 takes these two GPUs; cpu is one
process without a GPU, cpu,cpu two.

On several machines the same command is given on each, with its own --node_rank; they wait for
each other, and when one of them is preempted or fails for good, all end.

Exit status: 0; 2 after an error with a sentence that says what to do; 75 after SIGTERM or SIGUSR1
(to this process, to its whole group, or both, on any machine), when a checkpoint is written and
--resume auto goes on; 76 when another machine's processes have gone; 128 + n where a training
process was killed by signal n.
"""

import argparse
import importlib.util
import logging
import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from util.console import group
from util.errors import ConfigError, ECGError
from util.flags import Parser
from util.processes.environment import check_interfaces, forget_group
from util.processes.program import run_main
from util.processes.stopping import LOST, PREEMPTED, SIGNALS, Preempted, StopRequest

# for the step in hand and its checkpoint; a cluster's own limit is shorter
SHUTDOWN_SECONDS = 600
# exit statuses of a run that was stopped on request, which is not started again
STOPPED = (PREEMPTED, 128 + signal.SIGINT, 128 + signal.SIGHUP, 128 + signal.SIGQUIT)
LOOPBACK = "127.0.0.1"


def parse_devices(text: str, usable: str | None = None) -> tuple[int, str | None]:
    """Return (processes on this node, CUDA_VISIBLE_DEVICES or None for the CPU).

    Args:
        text: "0,1", "cpu" or "cpu,cpu".
        usable: CUDA_VISIBLE_DEVICES as a scheduler has set it: where it is 6,7 (or names of GPUs
            or MIG slices), 0 is the first of these.

    Raises:
        ConfigError: ``text`` has none of these forms, or names a GPU that is not usable.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names and all(name == "cpu" for name in names):
        return len(names), None
    numbers = [int(name) for name in names if name.isdecimal()]
    if not numbers or len(set(numbers)) < len(names):
        raise ConfigError(
            f"--gpus {text}: write GPU numbers (0 or 0,1,2,3), or cpu, or cpu,cpu for two CPU "
            "processes"
        )
    if usable is None:
        return len(names), ",".join(names)
    offered = [name.strip() for name in usable.split(",") if name.strip()]
    if max(numbers) >= len(offered):
        count = f"only {len(offered)}" if offered else "none"
        numbered = ", numbered from 0" if offered else ""
        raise ConfigError(
            f"--gpus {text}: {count} may be used here{numbered} (CUDA_VISIBLE_DEVICES={usable})"
        )
    return len(names), ",".join(offered[number] for number in numbers)


def launch_parser(program: str) -> argparse.ArgumentParser:
    """Return a parser of the launcher's flags; all others go to the program."""
    parser = Parser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--gpus",
        "--gpu",  # as in experiments/
        metavar="IDS",
        help="required: GPU numbers (0,1,2,3), cpu, or cpu,cpu for two CPU processes",
    )
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument(
        "--node_rank",
        type=int,
        default=0,
        metavar="R",
        help="number of this machine, from 0 (default 0)",
    )
    parser.add_argument(
        "--master_addr",
        metavar="HOST",
        help="name or address of machine 0 (needed with several machines)",
    )
    parser.add_argument(
        "--master_port",
        type=int,
        metavar="PORT",
        help="port on machine 0 (default: a free one; 12345 with several machines)",
    )
    parser.add_argument(
        "--max_restarts",
        type=int,
        default=0,
        metavar="N",
        help="after a failure start again, on all machines, from the last checkpoint, at most N "
        "times (default 0)",
    )
    return parser


def torchrun_arguments(
    options: argparse.Namespace, processes: int, port: int, attempt: int
) -> list[str]:
    """Return torchrun's flags for ``processes`` on this node, which connect to machine 0's port."""
    return [
        f"--nproc_per_node={processes}",
        f"--nnodes={options.nnodes}",
        f"--node_rank={options.node_rank}",
        f"--master_addr={options.master_addr or LOOPBACK}",
        f"--master_port={port}",
        f"--rdzv_id=attempt{attempt}",
        "--signals_to_handle=none",  # see TorchrunStop
        f"--shutdown_timeout={SHUTDOWN_SECONDS}",
    ]


def handled_signals() -> list[signal.Signals]:
    """Return the signals that end torchrun: not those that are ignored, as SIGHUP under nohup."""
    return [
        number
        for number in (*SIGNALS, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]


def launch(script: str, options: argparse.Namespace, arguments: list[str]) -> int:
    """Run ``script`` with ``arguments`` and return the exit status.

    Raises:
        ConfigError: the launcher's flags contradict each other or the machine.
    """
    processes, visible = parse_devices(options.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if options.nnodes > 1 and not options.master_addr:
        raise ConfigError("--nnodes above 1 needs --master_addr, the name or address of machine 0")
    if not 0 <= options.node_rank < options.nnodes:
        raise ConfigError(
            f"--node_rank {options.node_rank}: {options.nnodes} machine(s) are numbered from 0"
        )
    forget_group()
    os.environ["CUDA_VISIBLE_DEVICES"] = visible or ""
    # A GPU that was asked for and is not there must be an error, not a slow run on the CPU.
    arguments = ["--set", f"device={'cuda' if visible else 'cpu'}", *arguments]
    if processes * options.nnodes == 1 and not options.max_restarts:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        return 0
    # One process must not take all cores from the others.
    check_interfaces()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if options.nnodes > 1:
        from util.processes.machines import choose_interface

        choose_interface(options.master_addr)
    if options.max_restarts and "--resume" not in arguments:
        arguments = [*arguments, "--resume", "auto"]
    return run_attempts(options, processes, [script, *arguments])


def run_attempts(options: argparse.Namespace, processes: int, command: list[str]) -> int:
    """Run ``command`` on ``processes`` of this machine and return the exit status.

    After a failure it is run again, up to --max_restarts times; a preempted run is not, on any
    machine.
    """
    from util.processes.machines import Meeting  # with torch, which --help does without

    port = options.master_port or (0 if options.nnodes == 1 else 12345)
    meeting = Meeting(options.nnodes, options.node_rank, options.master_addr or LOOPBACK, port)
    status = LOST
    try:
        while meeting.join(last=options.max_restarts):
            with meeting.watch() as called:
                flags = torchrun_arguments(options, processes, meeting.port, meeting.attempt)
                status = run_torchrun([*flags, *command], called)
            if status in (0, *STOPPED):
                return status
            # Where another machine's processes were the first to end, its launcher says how a
            # moment later.
            wait = status == LOST and options.nnodes > 1 and not called.is_set()
            if meeting.ended(5 if wait else 0) is not None:
                break
            if meeting.attempt < options.max_restarts:
                print(
                    "note: starting again from the last checkpoint (--max_restarts: "
                    f"{meeting.attempt + 1} of {options.max_restarts})",
                    file=sys.stderr,
                    flush=True,
                )
            meeting.advance()
        if status == LOST and meeting.ended() == PREEMPTED:
            status = PREEMPTED
        if status == LOST:
            print(
                "error: other processes of the run have ended or cannot be reached; what they, "
                "or the launcher of their machine, said tells why. Go on from the last "
                "checkpoint with --resume auto",
                file=sys.stderr,
            )
        return status
    except Preempted:
        status = PREEMPTED
        raise
    finally:
        meeting.leave(status)


class TorchrunStop:
    """End torchrun, on a signal or when the other machines call, at a moment that loses nothing.

    torchrun's handler raises wherever the program stands: what it raises in a destructor is lost,
    and a process that is being started remains unknown to torchrun, which does not pass the
    signal on to it.  This one raises where torchrun reports a measurement: it is given to torchrun
    as the receiver of its metrics.
    """

    def __init__(self, called: threading.Event):
        self.called = called
        # A signal from before may have been lost in a destructor, too.
        self.number: int | None = signal.SIGTERM if StopRequest.ever else None

    def notice(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first counts, on which the training processes save themselves."""
        self.number = self.number or number

    def emit(self, measured: Any) -> None:
        """Take a measurement of torchrun: ten times a second while the processes run.

        Raises:
            SignalException: to end torchrun.
        """
        from torch.distributed.elastic.multiprocessing.api import SignalException

        if self.number or self.called.is_set():
            raise SignalException(
                "stopped on request", signal.Signals(self.number or signal.SIGTERM)
            )


def run_torchrun(arguments: list[str], called: threading.Event) -> int:
    """Run torchrun, with one message at most, until ``called`` is set; return the exit status."""
    stop, status = TorchrunStop(called), LOST
    before = {number: signal.signal(number, stop.notice) for number in handled_signals()}
    try:
        from torch.distributed import DistError
        from torch.distributed.elastic import metrics
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        logging.disable(logging.ERROR)  # torchrun's; the training processes print their errors
        metrics.configure(stop)  # type: ignore[arg-type]  # has emit, the one method asked for
        try:
            run(parse_args(arguments))
            return 0
        except ChildFailedError as error:
            failures = error.failures.items()
            status = status_of(
                [(failure.exitcode, failure.timestamp, rank) for rank, failure in failures]
            )
        except (SignalException, DistError):
            pass  # asked to stop, or LOST: the other launchers have called or cannot be reached
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.number is None:
        return status
    return PREEMPTED if stop.number in SIGNALS else 128 + stop.number


def status_of(failures: list[tuple[int, int, int]]) -> int:
    """Return the exit status of a run from its failed processes.

    What failed first is the cause.  That torchrun ended the others, or that they lost contact,
    says nothing.

    Args:
        failures: (exit code, negative where a signal of that number killed it; time; rank) each.
    """
    causes = [
        failure for failure in failures if failure[0] != LOST and -failure[0] not in SIGNALS
    ] or failures
    code, _, rank = min(causes, key=lambda failure: (failure[1], failure[0]))
    if code > 0:
        return code
    if -code in SIGNALS:
        return PREEMPTED  # so early that there was nothing to save
    hint = "; most often out of memory" if -code == signal.SIGKILL else ""
    print(
        f"\nerror: training process {rank} was killed by {signal.Signals(-code).name}{hint}. The "
        "others were ended; resume from the last checkpoint with --resume auto",
        file=sys.stderr,
    )
    return 128 - code


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m util.processes.launcher SCRIPT FLAGS`` and return the exit status."""
    script, *flags = (sys.argv[1:] if argv is None else argv) or [""]
    if not script.endswith(".py"):
        parser = launch_parser(
            "python -m util.processes.launcher main_pretrain.py|main_finetune.py"
        )
        print(parser.format_help(), file=sys.stdout if script in ("-h", "--help") else sys.stderr)
        return 0 if script in ("-h", "--help") else 2
    if importlib.util.find_spec("torch") is None:
        raise ECGError(
            f"PyTorch is not installed for {sys.executable}; install requirements.txt there, "
            "activate an environment that has it, or deactivate this one and let bash "
            "run_tests.sh make .venv, which is taken where no other is active"
        )
    parser = launch_parser(
        f"bash {'run_pretrain.sh' if 'pretrain' in script else 'run_downstream.sh'}"
    )
    if "-h" in flags or "--help" in flags:
        print(f"{parser.format_help()}\nAll other flags go to {script}:\n", flush=True)
        sys.argv = [script, "--help"]
        runpy.run_path(script, run_name="__main__")
    options, rest = parser.parse_known_args(flags)
    given = {"--config_path" if flag == "-f" else flag.split("=")[0] for flag in rest}
    needed = ["--config_path", "--exp_name"]
    missing = ["--gpus"] * (not options.gpus) + [name for name in needed if name not in given]
    if missing:
        print(
            f"error: missing {', '.join(missing)}. {parser.format_usage().strip()} --config_path "
            "YAML --exp_name NAME [--output_dir DIR] (-h explains)",
            file=sys.stderr,
        )
        return 2
    return launch(script, options, rest)


if __name__ == "__main__":
    if group()[1] > 1 and not any(flag.startswith("--nnodes") for flag in sys.argv):
        print(
            f"note: WORLD_SIZE={os.environ['WORLD_SIZE']} and RANK={os.environ['RANK']} have no "
            "effect here; --nnodes and --node_rank say how many machines a run has",
            file=sys.stderr,
        )
    forget_group()
    # At once: a thread that waits for a machine out of reach may abort an interpreter that ends
    # in order.
    run_main(main, at_once=True)
