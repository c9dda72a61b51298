"""Preemption: SIGTERM or SIGUSR1 asks a run to stop.  It finishes its step, writes a checkpoint and exits with 75."""
import os
import signal
import threading

from util.errors import ECGError

PREEMPTED = 75  # exit status after a stop on request (EX_TEMPFAIL): start again with --resume auto
LOST = 76       # exit status of a process that could not go on because another process of its run is gone
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(ECGError):
    """The run was asked to stop and everything it has done is saved."""


class StopRequest:
    """Notices SIGTERM and SIGUSR1 while in its ``with`` block.

    Args:
        at_once: raise Preempted wherever the program stands, for stretches where nothing needs saving; else
            ``requested`` is set and the program looks at it when it can save itself.

    After a request both signals are ignored: a cluster, torchrun and a shell may each send their own, and the second
    must not kill what the first has asked to save itself.

    Attributes:
        ever: whether this process was asked to stop at any time.
    """
    ever = False

    def __init__(self, at_once: bool = False):
        self.at_once, self.noticed = at_once, None
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def requested(self) -> bool:
        """True after a signal, and when torchrun is gone (killed outright): nobody would end this process in time."""
        return self.noticed is not None or self._launcher not in (None, os.getppid())

    def _notice(self, number, frame):
        self.noticed, StopRequest.ever = number, True
        if self.at_once:
            ignore_signals()
            raise Preempted("stopped on request; nothing was lost, go on with --resume auto")

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in SIGNALS}
        return self

    def __exit__(self, kind, *error):
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.noticed and kind else handler)
        if self.noticed and not kind:
            signal.raise_signal(self.noticed)  # it came after the last look: those outside shall know


def ignore_signals(worker: int | None = None) -> None:
    """Be deaf to both signals.  A loader's worker must be: it would leave its training process without data for the
    step that is to be finished."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
