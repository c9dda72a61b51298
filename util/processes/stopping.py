"""Preemption: on SIGTERM or SIGUSR1 a run finishes its step, saves itself and exits with 75."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time

# exit status after a stop on request (EX_TEMPFAIL): start again with --resume auto
PREEMPTED = 75
# exit status of a process that could not continue because another process of its run is gone
LOST = 76
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
RESUME = "nothing was lost, resume with --resume auto"
STUCK_SECONDS = 20  # that a process which was asked to stop waits for the others


class Preempted(BaseException):
    """The run was asked to stop and everything it has done is saved.  No Exception: it comes
    anywhere, in the middle of an import too, and there are many who catch those.
    """


class StopRequest:
    """Notices SIGTERM and SIGUSR1 while in its ``with`` block.

    With ``raise_immediately``, where nothing needs saving, Preempted is raised wherever the
    program stands; it says how to go on: ``again``.  Else ``requested`` is set and the program
    looks at it when it can save itself. After a request both signals are ignored: a cluster,
    torchrun and a shell may each send their own, and the second must not kill what the first has
    asked to save itself.
    """

    ever = False  # whether this process was asked to stop at any time

    def __init__(self, raise_immediately: bool = False, again: str = RESUME):
        self.raise_immediately, self.again, self.noticed = raise_immediately, again, None
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def requested(self) -> bool:
        """True after a signal, be it long ago and what it raised lost in a destructor, and when
        torchrun is gone (killed outright): nobody would end this process in time.
        """
        return StopRequest.ever or self._launcher not in (None, os.getppid())

    def _notice(self, number, frame):
        self.noticed, StopRequest.ever = number, True
        if self.raise_immediately:
            ignore_signals()
            raise Preempted(f"stopped on request; {self.again}")

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in SIGNALS}
        return self

    def __exit__(self, kind, *error):
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.noticed and kind else handler)
        if self.noticed and not kind:
            signal.raise_signal(
                self.noticed
            )  # it came after the last look: those outside shall know


def ignore_signals(worker: int | None = None) -> None:
    """Be deaf to both signals.  A loader's worker must be: it would leave its training process
    without data for the step that is to be finished.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


# ============ a stop request while the process waits for another one ============
_working_alone = threading.Event()


@contextlib.contextmanager
def working_alone():
    """Long work that waits for no other process: ``end_when_stuck`` leaves it in peace."""
    _working_alone.set()
    try:
        yield
    finally:
        _working_alone.clear()


def end_when_stuck() -> None:
    """From a stop request on, end this process with PREEMPTED if it waits for another one for
    STUCK_SECONDS.

    A collective waits outside of Python, where no handler runs.  So a thread looks whether the
    main thread moves.  What the run has done since its last checkpoint is lost.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(
        writer.fileno(), warn_on_full_buffer=False
    )  # written to wherever the main thread is
    threading.Thread(target=_watch, args=(reader, writer), daemon=True, name="stop request").start()


def _watch(reader, writer):
    while reader.recv(1)[0] not in SIGNALS:
        pass
    stands: tuple | None = None
    since = 0.0
    main = threading.main_thread().ident or 0
    while True:
        frame = sys._current_frames().get(main)
        # holding the frame keeps another one from looking the same
        now = (frame, frame and frame.f_lasti)
        if now != stands or _working_alone.is_set():
            stands, since = now, time.monotonic()
        elif time.monotonic() - since > STUCK_SECONDS:
            print(
                f"stopped on request while waiting {STUCK_SECONDS} s for another process; resume "
                "from the last checkpoint with --resume auto",
                file=sys.stderr,
                flush=True,
            )
            os._exit(PREEMPTED)
        time.sleep(0.5)


def in_group() -> bool:
    """True if torchrun started several processes, be they joined yet or not."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1
