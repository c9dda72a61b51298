"""Preemption: on SIGTERM or SIGUSR1 a run finishes its step, saves itself and exits with 75."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from types import FrameType, TracebackType
from typing import Any

# exit status after a stop on request (EX_TEMPFAIL): start again with --resume auto
PREEMPTED = 75
# exit status of a process that could not continue because another process of its run is gone
LOST = 76
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
RESUME = "nothing was lost, resume with --resume auto"
STUCK_SECONDS = 20  # that a process which was asked to stop waits for the others


class Preempted(BaseException):
    """The run was asked to stop, and all that it has done is saved.

    No Exception: it may be raised anywhere, in the middle of an import too, and much code catches
    every Exception.
    """


class StopRequest:
    """Notice SIGTERM and SIGUSR1 within a ``with`` block.

    After a request both signals are ignored: a cluster, torchrun and a shell may each send one,
    and the second must not kill what is saving itself because of the first.

    Args:
        raise_immediately: raise Preempted wherever the program stands, as nothing needs saving;
            else set ``requested``, at which the program looks when it can save itself.
        again: how to go on, for the message of that Preempted.
    """

    ever = False  # whether this process was asked to stop at any time

    def __init__(self, *, raise_immediately: bool = False, again: str = RESUME):
        self.raise_immediately, self.again = raise_immediately, again
        self.noticed: int | None = None
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def requested(self) -> bool:
        """Whether to stop: after a signal, however long ago, and when torchrun is gone.

        What a signal raised may have been lost in a destructor.  Without torchrun (killed
        outright) nothing would end this process in time.
        """
        return StopRequest.ever or self._launcher not in (None, os.getppid())

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.noticed, StopRequest.ever = number, True
        if self.raise_immediately:
            ignore_signals()
            raise Preempted(f"stopped on request; {self.again}")

    def __enter__(self) -> "StopRequest":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.noticed and kind else handler)
        if self.noticed and not kind:
            # It came after the program's last look: hand it on to an outer block.
            signal.raise_signal(self.noticed)


def ignore_signals() -> None:
    """Ignore both signals from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


# ============ workers of a loader ============
def prepare_worker(number: int) -> None:
    """Prepare this process to be a loader's worker, whose number goes unused.

    A cluster may send SIGTERM to all processes of a run.  If a worker ended, its training process
    would have no data for the step that is to be finished.  Python ends its workers by the same
    signal: it counts where the training process sends it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_heed_parent, daemon=True).start()
    Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _heed_parent() -> None:
    """End this process at a signal from its training process, and no other."""
    parent = multiprocessing.parent_process()
    while parent and signal.sigwaitinfo(SIGNALS).si_pid != parent.pid:
        pass
    os._exit(0)


def _give_up(error: Exception, batch: Any) -> None:
    """End this process where a batch cannot be sent, for which the training process would wait for
    ever; ``explain`` knows the status.
    """
    os._exit(getattr(error, "errno", None) or 1)


# ============ a stop request while the process waits for another one ============
_working_alone = threading.Event()


@contextlib.contextmanager
def working_alone() -> Iterator[None]:
    """Mark long work that waits for no other process, which ``end_when_stuck`` must not end."""
    _working_alone.set()
    try:
        yield
    finally:
        _working_alone.clear()


def end_when_stuck() -> None:
    """End this process with PREEMPTED if, after a stop request, it waits for another process for
    STUCK_SECONDS.

    A collective waits outside of Python, where no handler runs.  So a thread looks whether the
    main thread moves.  What the run has done since its last checkpoint is lost.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Python writes the signal's number to it at once, wherever the main thread is.
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True, name="stop request").start()


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    """The thread of ``end_when_stuck``; ``writer`` is held so that it is not closed."""
    while reader.recv(1)[0] not in SIGNALS:
        pass
    main_thread = threading.main_thread().ident or 0
    place, since = None, 0.0
    while True:
        frame = sys._current_frames().get(main_thread)
        # The frame is held: else a new one at the same address might look like it.
        now = (frame, frame and frame.f_lasti)
        if now != place or _working_alone.is_set():
            place, since = now, time.monotonic()
        elif time.monotonic() - since > STUCK_SECONDS:
            print(
                f"stopped on request while waiting {STUCK_SECONDS} s for another process; resume "
                "from the last checkpoint with --resume auto",
                file=sys.stderr,
                flush=True,
            )
            os._exit(PREEMPTED)
        time.sleep(0.5)
