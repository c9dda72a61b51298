"""The launcher and how processes end: signals, exit statuses, what is said, restarts, waiting for
one another.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.support.jobs import PRELOAD, run_job
from tests.support.launched import ROOT, children, end, start, wait_for
from tests.support.tiny_jobs import ST_MEM, with_store
from tests.support.two_processes import _free_port, limit_collectives
from util.errors import ConfigError, ECGError
from util.processes import collectives, program, stopping
from util.processes.launcher import (
    launch,
    launch_parser,
    main,
    parse_devices,
    status_of,
    torchrun_arguments,
)
from util.processes.stopping import LOST, PREEMPTED, SIGNALS, Preempted, StopRequest
from util.weights import checkpoint


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
        with StopRequest() as stopping:
            assert not stopping.requested
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert stopping.requested
            raise Preempted("saved")
    signal.raise_signal(number)  # while the process ends


def test_a_signal_where_nothing_needs_saving_ends_at_once(handlers):
    with pytest.raises(Preempted, match="nothing was lost"):
        with StopRequest(raise_immediately=True):
            signal.raise_signal(signal.SIGTERM)
            assert False
    signal.raise_signal(signal.SIGTERM)


def test_a_stop_request_passes_those_who_catch_all_exceptions(handlers):
    """As many do while they are imported.  The defect: the signal was lost, and later ones were
    ignored.
    """
    with pytest.raises(Preempted):
        with StopRequest(raise_immediately=True):
            with contextlib.suppress(Exception):
                signal.raise_signal(signal.SIGTERM)


def test_a_stop_request_lost_in_a_destructor_is_found_later(handlers, monkeypatch):
    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    with pytest.raises(Preempted):
        with StopRequest(raise_immediately=True):
            Dying()
            with StopRequest() as request:
                assert request.requested
                raise Preempted("saved")


def test_a_signal_after_the_last_look_reaches_those_outside(handlers):
    """Between the last epoch's checkpoint and the test: the defect would be a run that cannot be
    stopped.
    """
    with pytest.raises(Preempted):
        with StopRequest(raise_immediately=True):
            with StopRequest():
                signal.raise_signal(signal.SIGUSR1)
            assert False


def test_a_traceback_ends_a_program_whose_loader_has_workers(tmp_path):
    """The defect: they ignore SIGTERM, so Python, which ends its children by it, waited for them
    for ever.
    """
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from util.data.dataset import make_loader
from util.processes.program import run_main


class Records:
    def __getitem__(self, place):
        return place


def main(argv):
    for batch in make_loader(Records(), [[0], [1], [2], [3]], num_workers=1):
        raise ValueError("a bug of one's own")


sys.exit(run_main(main))
""")
    ended = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 1 and ended.stderr.count("Traceback") == 1, ended.stderr
    assert ended.stderr.endswith("ValueError: a bug of one's own\n")


# Without --resume: the same command goes on.
RESUMING = (
    "data_extraction_without_preprocessing",
    "download",
    "import_arrays",
    "reproduce",
    "embed",
)
NEEDED = ["--config_path", "x.yaml", "--output_dir", "x", "--exp_name", "x"]
SCRIPTS = [
    path
    for folder in (".", "data_preparation", "experiments")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "run_main(main" in path.read_text()
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_stopped_program_advises_no_flag_that_it_lacks(handlers, monkeypatch, capsys, path):
    """The defect: download.py, for one, said: resume with --resume auto."""
    parse = argparse.ArgumentParser.parse_args

    def parse_given(self, args=None, namespace=None):
        """Pass over a script's first look at its command line, which is that of the tests."""
        return None if args is None else parse(self, args, namespace)

    def stopped(main, argv=None, **options):
        called.append(path)
        with pytest.raises(SystemExit):
            main(["--help"])
        text = capsys.readouterr().out
        assert (
            run_main(lambda argv: signal.raise_signal(signal.SIGTERM), argv, **options) == PREEMPTED
        )
        said = capsys.readouterr().err
        assert ("--resume auto" in said) == ("--resume PTH" in text) and said.startswith(
            "stopped on request; "
        )
        assert (
            said.endswith(
                "resume with --resume auto\n" if "--resume PTH" in text else "starts again\n"
            )
            or path.stem in RESUMING
            and said.endswith("goes on where it stopped\n")
        )

    run_main, called = program.run_main, []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_given)
    monkeypatch.setattr(program, "run_main", stopped)
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    assert called == [path]


def test_run_main_turns_endings_into_exit_statuses(handlers, capsys):
    def raising(error):
        def main(argv):
            raise error

        return main

    assert program.run_main(lambda argv: None) == 0
    assert program.run_main(raising(ConfigError("no such key"))) == 2
    assert capsys.readouterr().err == "error: no such key\n"
    worker = (
        "Caught StoreError in DataLoader worker process 0.\nOriginal Traceback "
        "...\nutil.errors.StoreError: it is torn\n"
    )
    assert program.run_main(raising(ECGError(worker))) == 2
    assert capsys.readouterr().err == "error: it is torn\n"
    assert (
        program.run_main(
            raising(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
        )
        == 2
    )
    assert "a loader process died (DataLoader worker (pid 7) is killed" in capsys.readouterr().err
    assert program.run_main(raising(Preempted("stopped"))) == PREEMPTED
    assert program.run_main(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "stopped\ninterrupted\n"
    assert program.run_main(raising(KeyboardInterrupt()), again="give it again") == 130
    assert capsys.readouterr().err == "interrupted; give it again\n"
    with pytest.raises(ZeroDivisionError):
        program.run_main(raising(ZeroDivisionError()))


def test_errors_of_collectives_are_told_from_those_of_ours():
    """By torch's types; gloo has none, but its errors say where in gloo they come from."""
    gloo = (
        "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by "
        "peer "
        "[127.0.0.1]:9"
    )
    assert collectives.lost_contact(RuntimeError(gloo))
    assert collectives.lost_contact(dist.DistNetworkError("x")) and collectives.lost_contact(
        dist.DistBackendError("x")
    )
    assert not collectives.lost_contact(
        RuntimeError("mat1 and mat2 shapes cannot be multiplied; broken pipe")
    )
    assert not collectives.lost_contact(
        ConnectionResetError("connection reset by peer")
    ) and not collectives.lost_contact(None)


def test_launcher_reports_what_failed_first(capsys):
    assert status_of([(1, 10, 0)]) == 1
    assert status_of([(LOST, 10, 0), (-9, 11, 1)]) == 137
    assert "process 1 was killed by SIGKILL; most often out of memory" in capsys.readouterr().err
    assert status_of([(1, 10, 0), (-15, 11, 1)]) == 1  # torchrun ended the other
    assert status_of([(2, 10, 1), (LOST, 10, 0)]) == 2
    assert status_of([(PREEMPTED, 10, 0), (-15, 10, 1)]) == PREEMPTED
    assert status_of([(-15, 10, 0), (-10, 10, 1)]) == PREEMPTED
    assert status_of([(-11, 10, 0), (LOST, 10, 1)]) == 139
    assert (
        status_of([(-9, 10, 0), (PREEMPTED, 10, 1)]) == 137
    )  # torchrun's SIGTERM looked like a request to the other
    assert status_of([(LOST, 10, 1)]) == LOST


def test_the_launcher_asks_for_what_has_no_default_alone(capsys):
    """The defect: it demanded --output_dir, for which a config has ./output."""
    assert main(["main_pretrain.py", "--gpus", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: missing --config_path, --exp_name. ")
    assert "[--output_dir DIR]" in said


def test_torchrun_gives_time_to_save():
    flags = torchrun_arguments(launch_parser("x").parse_args(["--gpus", "cpu,cpu"]), 2, 1234, 0)
    assert int(next(flag for flag in flags if "shutdown" in flag).partition("=")[2]) >= 120


@pytest.mark.parametrize(
    "usable, gpus, chosen",
    [
        (None, "0,1", "0,1"),
        (None, "3", "3"),
        ("6,7", "0", "6"),
        ("6,7", "1,0", "7,6"),
        (" 6 , 7", "1", "7"),
        ("MIG-a,MIG-b", "1", "MIG-b"),
        ("GPU-5e,GPU-6f", "0,1", "GPU-5e,GPU-6f"),
        ("6,7", "cpu", None),
        ("", "cpu,cpu", None),
    ],
)
def test_gpu_numbers_count_what_a_scheduler_gave(usable, gpus, chosen):
    assert parse_devices(gpus, usable) == (len(gpus.split(",")), chosen)


@pytest.mark.parametrize(
    "usable, gpus, words",
    [
        ("6,7", "2", "only 2 may be used here, numbered from 0 .CUDA_VISIBLE_DEVICES=6,7."),
        ("", "0", "none may be used here"),
        ("MIG-a", "0,1", "CUDA_VISIBLE_DEVICES=MIG-a"),
        (None, "0,00", "write GPU numbers"),
        (None, "0,cpu", "write GPU numbers"),
        (None, "", "write GPU numbers"),
        (None, "-1", "write GPU numbers"),
    ],
)
def test_gpus_that_are_not_there(usable, gpus, words):
    with pytest.raises(ConfigError, match=words):
        parse_devices(gpus, usable)


def test_the_launcher_leaves_a_scheduler_its_say(monkeypatch, tmp_path):
    """The defect: --gpus 0 under CUDA_VISIBLE_DEVICES=6,7 took GPU 0, another job's."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib\n"
        "pathlib.Path(__file__).with_name('seen').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setattr(sys, "argv", [])
    assert launch(str(script), launch_parser("x").parse_args(["--gpus", "1"]), []) == 0
    assert (tmp_path / "seen").read_text() == "7"


def test_scripts_started_again_by_the_launcher_choose_no_second_time(monkeypatch):
    """--gpu 2,3 under 4,5,6,7 is 6,7; in the processes started on these, 2 and 3 would be out of
    range.
    """
    from util.processes.devices import choose_devices

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert choose_devices("2,3") == (2, "auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7", "the launcher does that"
    assert choose_devices("3") == (1, "auto") and os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_devices("2,3") == (2, "auto") and os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"
    assert choose_devices("cpu,cpu") == (2, "cpu")


@pytest.mark.parametrize(
    "statuses, restarts, status",
    [
        ([0], 2, 0),
        ([137, 137, 0], 2, 0),
        ([137, 1, 2, 0], 2, 2),
        ([PREEMPTED, 0], 2, PREEMPTED),
        ([137, PREEMPTED, 0], 2, PREEMPTED),
        ([130, 0], 2, 130),
        ([LOST, 0], 1, 0),
        ([1, 0], 0, 1),
    ],
)
def test_failures_are_started_again_and_stops_are_not(monkeypatch, statuses, restarts, status):
    """The defect: torchrun took the 75 of a preempted run for a failure.  A restart resumes from
    the last checkpoint.
    """
    started, left = [], list(statuses)
    monkeypatch.setattr(
        "util.processes.launcher.run_torchrun",
        lambda arguments, called: started.append(arguments) or left.pop(0),
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = launch_parser("x").parse_args(["--gpus", "cpu,cpu", "--max_restarts", str(restarts)])
    assert launch("script.py", options, ["--a"]) == status
    assert len(started) == len(statuses) - len(left)
    for attempt, arguments in enumerate(started):
        assert f"--rdzv_id=attempt{attempt}" in arguments and not any(
            "max_restarts" in word for word in arguments
        )
        assert (arguments[-2:] == ["--resume", "auto"]) == bool(restarts)


@pytest.mark.parametrize("statuses, status", [([PREEMPTED, 0], PREEMPTED), ([LOST, 0], 0)])
def test_a_stop_counts_though_other_machines_begin_another_attempt(monkeypatch, statuses, status):
    """The defect: their call, a signal, too, was taken for what had ended this machine's
    processes, and they trained on.
    """
    called = threading.Event()
    called.set()
    monkeypatch.setattr(
        "util.processes.machines.Meeting.watch", lambda meeting: contextlib.nullcontext(called)
    )
    monkeypatch.setattr("util.processes.launcher.run_torchrun", lambda *_: statuses.pop(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (
        launch(
            "x.py", launch_parser("x").parse_args(["--gpus", "cpu,cpu", "--max_restarts", "1"]), []
        )
        == status
    )


def test_resume_that_was_given_stays(monkeypatch):
    started = []
    monkeypatch.setattr(
        "util.processes.launcher.run_torchrun",
        lambda arguments, called: started.append(arguments) or 0,
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch(
        "script.py",
        launch_parser("x").parse_args(["--gpus", "cpu", "--max_restarts", "1"]),
        ["--resume", "a.pth"],
    )
    assert started[0][-2:] == ["--resume", "a.pth"]


def test_launcher_and_run_main_do_without_torch():
    """Importing it takes seconds, and a wrong flag or --help needs none."""
    code = (
        "import sys, util.processes.launcher, util.processes.program; sys.exit('torch' in "
        "sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "script",
    [
        "main_pretrain.py",
        "main_finetune.py",
        "experiments/run_signal.py",
        "experiments/DINO_signal.py",
        "experiments/compare_runs.py",
        "experiments/knn.py",
        "experiments/leave_one_hospital_out.py",
        "experiments/predict.py",
        "experiments/reproduce.py",
        "experiments/threshold_search.py",
        *sorted(f"data_preparation/{path.name}" for path in SCRIPTS if path.parent.name[0] == "d"),
    ],
)
@pytest.mark.parametrize(
    "flag, status, words", [("--help", 0, "usage: "), ("--no_such_flag", 2, "error: ")]
)
def test_scripts_explain_themselves_before_anything_slow_is_imported(script, flag, status, words):
    """torch, pandas and matplotlib take seconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, flag], cwd=ROOT, capture_output=True, text=True
    )
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.returncode == status and words in done.stdout + done.stderr
    assert "util.processes.program" in imported and not imported & {
        "torch",
        "pandas",
        "scipy",
        "matplotlib",
        "torchmetrics",
    }


@pytest.mark.parametrize(
    "flags", [["--gpus", "cpu", *NEEDED], ["--gpus", "cpu,cpu", *NEEDED], ["-h"]]
)
@pytest.mark.parametrize("script", ["run_pretrain.sh", "run_downstream.sh"])
def test_a_python_without_torch_is_one_sentence(tmp_path, script, flags):
    """The defect: a traceback.  It is what the system's python or conda's base environment is."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    python.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CONDA_PREFIX": "base",
        "PYTHONPATH": "",
    }
    done = subprocess.run(
        ["bash", ROOT / script, *flags], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith(
        "error: PyTorch is not installed for "
    ), done.stderr
    assert "requirements.txt" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [["-h"], []])
def test_launcher_without_a_script_explains_itself(flags):
    done = subprocess.run(
        [sys.executable, "-m", "util.processes.launcher", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "--max_restarts" in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert done.returncode == (0 if flags else 2)


@pytest.fixture
def torchrun_in_this_process(handlers, monkeypatch):
    """``launch`` leaves the environment, and what is logged, as they were."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    yield
    logging.disable(logging.NOTSET)


class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [lambda: signal.raise_signal(signal.SIGUSR1), Dying])
@pytest.mark.parametrize("process", [1, 2])
def test_a_stop_while_torchrun_starts_processes_reaches_them(
    torchrun_in_this_process, monkeypatch, tmp_path, stop, process
):
    """The defects: torchrun's handler raised before torchrun knew the process that it had just
    started, which was never told, and trained on while the launcher waited for it; what it raised
    in a destructor was lost.
    """

    class Popen(subprocess.Popen):
        started = []

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.started.append(self)
            if len(self.started) == process:
                stop()

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    monkeypatch.setattr(
        "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.Popen",
        Popen,
    )
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(20)")
    options = launch_parser("x").parse_args(["--gpus", "cpu,cpu", "--max_restarts", "1"])
    assert launch(str(script), options, []) == PREEMPTED
    number = signal.SIGTERM if stop is Dying else signal.SIGUSR1
    assert [started.returncode for started in Popen.started] == [-number] * 2


def test_a_launcher_whose_threads_wait_for_a_lost_machine_ends_in_order(tmp_path):
    """The defect: a thread that came back from the store while the interpreter ended aborted it,
    status -6.
    """
    code = """
import datetime, runpy, sys, threading, time, types
from torch.distributed import TCPStore
from util.processes import machines

class Ending:
    def __del__(self, sleep=time.sleep):
        sleep(3)

class Meeting(machines.Meeting):
    def join(self, last):
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=1))
        threading.Thread(target=store.get, args=["never"], daemon=True).start()

machines.Meeting = Meeting
sys.modules["last"] = types.ModuleType("last")
sys.modules["last"].one = Ending()
sys.argv[1:] = "x.py --gpus cpu,cpu --config_path x --output_dir x --exp_name x".split()
runpy.run_module("util.processes.launcher", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == LOST and "cannot be reached" in done.stderr, done


# ============ one process of several ends ============
def fail_on_one(error_rank):
    """One process fails while the other waits for it in a collective."""

    def main(argv):
        collectives.start("cpu")
        if collectives.rank() == error_rank:
            raise ZeroDivisionError("a bug")
        collectives.total(torch.ones(2))

    program.run_main(main)


def end_processes(function, *args, timeout=600, until=2):
    """Exit statuses (None: not within ``timeout`` seconds) and what was printed of two processes
    that join the group themselves, when the first ``until`` of them have ended.
    """
    began = time.monotonic()
    context, port = multiprocessing.get_context("forkserver"), _free_port()
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_one, args=(function, args, rank, port, folder))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes[:until]:
            process.join(max(0.1, timeout - (time.monotonic() - began)))
        statuses = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
        text = "".join((Path(folder) / f"{rank}.txt").read_text() for rank in range(2))
    return statuses, text


def _one(function, args, rank, port, folder):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    with open(Path(folder) / f"{rank}.txt", "w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        function(*args)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_at_once_and_so_does_its_peer(rank):
    statuses, text = end_processes(fail_on_one, rank)
    assert statuses[rank] == 1 and statuses[1 - rank] == LOST and "ZeroDivisionError: a bug" in text
    assert (
        rank == 0 or "ending, as another process of this run is gone" in text
    )  # else the store has gone, too


def fail_on_both():
    def main(argv):
        collectives.start("cpu")
        # who fails before another has joined leaves it without contact, which is another case
        collectives.barrier()
        raise ConfigError("no such key")

    program.run_main(main)


def test_where_all_fail_alike_one_speaks():
    statuses, text = end_processes(fail_on_both)
    assert statuses == [2, 2] and text.count("error: no such key") == 1


def fail_on_main(kind):
    def main(argv):
        collectives.start("cpu")
        collectives.on_main(lambda: (_ for _ in ()).throw(kind("the disk is full")))

    program.run_main(main)


@pytest.mark.parametrize("kind, status", [(ConfigError, 2), (OSError, 2), (Preempted, PREEMPTED)])
def test_what_process_0_fails_at_alone_ends_all_with_its_words(kind, status):
    statuses, text = end_processes(fail_on_main, kind)
    assert statuses == [status, status] and text.count("the disk is full") == 1


def wait_for_a_stopped_peer(kind):
    """Process 1 is stopped (SIGSTOP) while process 0 waits for it; then process 0 is asked to
    stop.
    """
    stopping.STUCK_SECONDS = 2

    def main(argv):
        collectives.start("cpu")
        model = DistributedDataParallel(torch.nn.Linear(2, 2))
        collectives.barrier()
        if collectives.rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with StopRequest() if kind != "immediate" else contextlib.nullcontext():
            if kind == "gradients":
                model(torch.ones(1, 2)).sum().backward()
            elif kind == "barrier":
                collectives.barrier()
            else:
                collectives.total(torch.ones(2))

    program.run_main(main)


@pytest.mark.parametrize("kind", ["gradients", "total", "barrier", "immediate"])
def test_a_stop_request_reaches_a_process_that_waits_for_another(kind):
    """The defect: a collective waits outside of Python, where no handler runs, up to 30 minutes."""
    statuses, text = end_processes(wait_for_a_stopped_peer, kind, until=1)
    assert statuses == [PREEMPTED, None]
    assert "stopped on request while waiting 2 s for another process" in text


def lose_process_0():
    """Process 0 is killed while it works alone and the other waits for it."""

    def main(argv):
        collectives.start("cpu")
        collectives.on_main(lambda: os.kill(os.getpid(), signal.SIGKILL))

    program.run_main(main)


def test_who_waits_for_process_0_sees_that_it_has_gone():
    statuses, _ = end_processes(lose_process_0)
    assert statuses == [-signal.SIGKILL, LOST]


def come_too_late():
    """Process 0 enters a collective, which all should enter at about the same time, after its
    time limit.
    """

    def main(argv):
        collectives.start("cpu")
        limit_collectives(2)
        time.sleep(0 if collectives.rank() else 4)
        collectives.total(torch.ones(1))

    program.run_main(main)


def test_other_collectives_have_a_time_limit():
    assert end_processes(come_too_late)[0] == [LOST, LOST]


def save_for_long():
    """Process 0 writes for longer than the other may be stuck."""
    stopping.STUCK_SECONDS = 1

    def work():
        time.sleep(5)
        stopping.STUCK_SECONDS = 60  # the other may take its time to answer

    def main(argv):
        collectives.start("cpu")
        with StopRequest() as request:
            if collectives.rank() == 0:
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            collectives.on_main(work)
            assert collectives.any_process(request.requested)
            raise Preempted("saved")

    program.run_main(main)


def test_a_process_that_works_for_all_is_left_to_finish():
    statuses, text = end_processes(save_for_long)
    assert statuses == [PREEMPTED, PREEMPTED] and "saved\n" in text


def test_preempted_with_workers_on_two_processes(tmp_path):
    """A loader's workers get the group's signal, too, and must not die of it: exit 75 in good
    time, both processes.
    """
    config = with_store({**ST_MEM, "dataloader": {"batch_size": 4, "num_workers": 1}})
    stopped = run_job(
        "main_pretrain", config, tmp_path, world=2, stop_at=("step", 2), number=signal.SIGUSR1
    )
    assert stopped.statuses == [PREEMPTED, PREEMPTED], stopped.text
    found = checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")
    assert (found["epoch"], found["step"]) == (0, 3)


# ============ the real launcher (slow: every process imports torch) ============
@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("to", ["launcher", "group", "group, then launcher"])
def test_preemption_through_the_launcher(tmp_path, gpus, number, to):
    process = start(tmp_path, gpus)
    wait_for(tmp_path / "run" / "log_steps.txt", process, 2)
    if "group" in to:
        os.killpg(process.pid, number)
    if "launcher" in to:
        os.kill(process.pid, number)
    status, text = end(process)
    assert status == PREEMPTED, text
    assert "Traceback" not in text and text.count("resume with --resume auto") == 1
    checkpoint.load_training(tmp_path / "run" / "checkpoint-last.pth")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_killed_process_ends_all_with_one_message(tmp_path, rank):
    process = start(tmp_path, "cpu,cpu")
    wait_for(tmp_path / "run" / "log_steps.txt", process, 2)
    os.kill(children(process)[rank], signal.SIGKILL)
    status, text = end(process)
    assert status == 137
    assert (
        text.count("error:") == 1
        and f"process {rank} was killed by SIGKILL" in text
        and "Traceback" not in text
    )


@pytest.mark.slow
def test_a_killed_launcher_does_not_leave_processes_training(tmp_path):
    process = start(tmp_path, "cpu,cpu")
    wait_for(tmp_path / "run" / "log_steps.txt", process, 2)
    started = children(process)
    os.kill(process.pid, signal.SIGKILL)
    status, text = process.wait(), process.stdout.read()  # until every process has closed it
    assert status == -9 and "stopped on request" in text
    assert not any(
        Path(f"/proc/{child}").exists()
        and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]
        for child in started
    )


@pytest.mark.slow
def test_restart_goes_on_from_the_checkpoint(tmp_path):
    process = start(tmp_path, "cpu,cpu", "--max_restarts", "2", "--set", "train.epochs=8")
    for lines in (8, 20):  # steps
        wait_for(tmp_path / "run" / "log_steps.txt", process, lines)
        os.kill(children(process)[1], signal.SIGKILL)
    status, text = end(process)
    assert status == 0 and text.count("resumed from") == 2 and "Traceback" not in text, text
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(8))


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize(
    "flag, words",
    [
        ("train.checkpoint_every=often", "train.checkpoint_every"),
        ("dataset.store=nowhere", "no store at"),
        ("model.depth=3", "does not take depth"),
        ("train.epoch=3", "did you mean train.epochs"),
    ],
)
def test_errors_are_one_sentence_and_status_2(tmp_path, gpus, flag, words):
    status, text = end(start(tmp_path, gpus, "--set", flag))
    assert (
        status == 2 and text.count("error:") == 1 and words in text and "Traceback" not in text
    ), text
