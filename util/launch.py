"""Start a main program on the devices asked for: one process, or one for each through torchrun.

    python -m util.launch main_pretrain.py --gpus 0,1,2,3 [--nnodes N --node_rank R --master_addr HOST --master_port P]
                                           [flags of the main program ...]

run_pretrain.sh and run_downstream.sh call this.  --gpus 0,1 takes these two GPUs; cpu is one process without a GPU,
cpu,cpu two.  The exit status is that of the training process that failed first.
"""
import argparse
import os
import runpy
import sys

from util.errors import ConfigError, ECGError


def parse_devices(text: str) -> tuple[int, str | None]:
    """(processes on this node, CUDA_VISIBLE_DEVICES or None for the CPU) of "0,1", "cpu" or "cpu,cpu".

    Raises:
        ConfigError: anything else.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names and all(name == "cpu" for name in names):
        return len(names), None
    if names and all(name.isdigit() for name in names) and len(set(names)) == len(names):
        return len(names), ",".join(names)
    raise ConfigError(f"--gpus {text}: write GPU numbers (0 or 0,1,2,3), or cpu, or cpu,cpu for two CPU processes")


def launch_parser(program: str) -> argparse.ArgumentParser:
    """The launcher's own flags; what it does not know goes to the program."""
    parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("--gpus", metavar="IDS", help="GPU numbers (0,1,2,3), cpu, or cpu,cpu for two CPU processes")
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument("--node_rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    parser.add_argument("--master_addr", metavar="HOST", help="machine 0 (needed with several machines)")
    parser.add_argument("--master_port", type=int, metavar="PORT", help="default: a free port; 12345 with several machines")
    parser.add_argument("--max_restarts", type=int, default=0, metavar="N",
                        help="start again so often after a failure, going on from the last checkpoint")
    return parser


def torchrun_arguments(options, processes: int) -> list[str]:
    """torchrun's flags for ``processes`` on this node."""
    flags = [f"--nproc_per_node={processes}", f"--nnodes={options.nnodes}", f"--max_restarts={options.max_restarts}"]
    if options.nnodes == 1 and options.master_port is None:
        return [*flags, "--standalone"]  # picks a free port
    return [*flags, f"--node_rank={options.node_rank}", f"--master_addr={options.master_addr or '127.0.0.1'}",
            f"--master_port={options.master_port or 12345}"]


def launch(script: str, options, arguments: list[str]) -> int:
    """Run ``script`` with ``arguments``; returns the exit status."""
    processes, visible = parse_devices(options.gpus)
    if options.nnodes > 1 and not options.master_addr:
        raise ConfigError("--nnodes above 1 needs --master_addr, the name or address of machine 0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible or ""
    # A GPU that was asked for and is not there must be an error, not a slow run on the CPU.
    arguments = ["--set", f"device={'cuda' if visible else 'cpu'}", *arguments]
    if processes * options.nnodes == 1 and not options.max_restarts:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        return 0
    # One process must not take all cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if options.max_restarts and "--resume" not in arguments:
        arguments = [*arguments, "--resume", "auto"]
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run
    try:
        run(parse_args([*torchrun_arguments(options, processes), script, *arguments]))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status  # killed by a signal: as a shell says it
    return 0


def main(argv=None) -> int:
    """``python -m util.launch SCRIPT FLAGS``."""
    script, *flags = sys.argv[1:] if argv is None else argv
    parser = launch_parser(f"bash {'run_pretrain.sh' if 'pretrain' in script else 'run_downstream.sh'}")
    if "-h" in flags or "--help" in flags:
        print(f"{parser.format_help()}\nFlags of {script}, which are handed on:\n", flush=True)
        sys.argv = [script, "--help"]
        runpy.run_path(script, run_name="__main__")
    options, rest = parser.parse_known_args(flags)
    given = {flag.split("=")[0] for flag in rest}
    missing = [name for name, there in (("--gpus", options.gpus), ("--config_path", given & {"--config_path", "-f"}),
                                        ("--output_dir", "--output_dir" in given), ("--exp_name", "--exp_name" in given))
               if not there]
    if missing:
        print(f"error: missing {', '.join(missing)}. {parser.format_usage().strip()} --config_path YAML --output_dir DIR "
              "--exp_name NAME (-h explains)", file=sys.stderr)
        return 2
    try:
        return launch(script, options, rest)
    except ECGError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
