"""How every main program ends: immediately, with one sentence and an exit status in place of a
traceback.
"""

import contextlib
import io
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from util.processes.environment import in_group
from util.processes.explain import explain
from util.processes.stopping import (
    LOST,
    PREEMPTED,
    RESUME,
    Preempted,
    StopRequest,
    end_when_stuck,
)


def run_main(
    main: Callable[[Any], int | None],
    argv: Sequence[str] | None = None,
    again: str | None = None,
    *,
    at_once: bool = False,
) -> int:
    """Call ``main(argv)`` and return its exit status; print a sentence if it ended early.

    The status is what ``main`` returns, or 0; 2 after an error that ``explain`` has a sentence
    for, 75 after a stop on request (SIGTERM, SIGUSR1), 76 when another process of the run is
    gone, 130 after Ctrl-C.  Any other error passes through.

    One process of several ends here, without returning, unless all went well: the others may be
    waiting for it in a collective that it will never enter, and leaving the group in order would
    wait for them.

    Args:
        main: the program.
        argv: its command line; None for that of the process.
        again: how to go on after a stop or Ctrl-C; None for a program with --resume, of which
            Ctrl-C can lose a step.
        at_once: end here whatever the status, without Python's own clearing up.
    """
    several = in_group()
    threading.excepthook = _in_thread
    _print_any_name()
    try:
        with StopRequest(raise_immediately=True, again=again or RESUME):
            if several:
                end_when_stuck()
            status = main(argv) or 0
        if several:
            _distributed().stop()
    except (KeyboardInterrupt, Preempted, Exception) as error:
        at_once = at_once or several
        status, sentence = _ending(error, again)
        if sentence is None and not several:
            raise
        if sentence is None:
            traceback.print_exception(error)
        elif sentence and (not several or _distributed().first_to_say(sentence)):
            _say(sentence)
    status = _flush(status)
    if at_once:
        for child in multiprocessing.active_children():
            child.kill()  # workers of loaders would live on for seconds
        os._exit(status)
    return status


def _in_thread(failure: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, unless files failed it: TensorBoard's passes that on."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


# ============ standard output ============
def _print_any_name() -> None:
    """Have the output print names that it cannot encode with backslashes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # a full disk, which the status must tell of
        print(sentence, file=sys.stderr, flush=True)


def _flush(status: int) -> int:
    """Write out what was printed; return the exit status, 2 in place of 0 where that fails.

    Python would try again at its end, and end with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            _say(f"error: the output cannot be written: {error.strerror or error}")
            status = status or 2
    return status


# ============ endings ============
def _distributed() -> ModuleType:
    from util.processes import collectives

    return collectives


def _ending(error: BaseException, again: str | None = None) -> tuple[int, str | None]:
    """(exit status, what to say) for what ended a main program; None for an error that needs a
    traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted" + (f"; {again}" if again else "")
    preempted = isinstance(error, Preempted)
    if in_group() and _distributed().lost_contact(error.__context__ if preempted else error):
        # After a request to stop there is nothing to add: the process that ended first has
        # printed the reason.
        return (
            LOST,
            "" if StopRequest.ever else "note: ending, as another process of this run is gone",
        )
    if preempted:
        return PREEMPTED, str(error) if not in_group() or _distributed().is_main() else ""
    sentence = explain(error)
    return (1, None) if sentence is None else (2, f"error: {sentence}")
