"""How every main program ends: immediately, with one sentence and an exit status in place of a
traceback.
"""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from util.errors import ECGError
from util.processes.stopping import (
    LOST,
    PREEMPTED,
    RESUME,
    Preempted,
    StopRequest,
    end_when_stuck,
    in_group,
)


def run_main(
    main: Callable[[Any], int | None],
    argv: Sequence[str] | None = None,
    again: str | None = None,
    *,
    at_once: bool = False,
) -> int:
    """Call ``main(argv)`` and return its exit status; print a sentence if it ended early.

    The status is what ``main`` returns, or 0; 2 after an ECGError, 75 after a stop on request
    (SIGTERM, SIGUSR1), 76 when another process of the run is gone, 130 after Ctrl-C.  Any other
    error passes through.

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
            # Lets go of the loaders.  Their workers ignore SIGTERM, by which Python would end
            # them at its own end.
            traceback.clear_frames(error.__traceback__)
            raise
        if sentence is None:
            traceback.print_exception(error)
        elif sentence and (not several or _distributed().first_to_say(sentence)):
            print(sentence, file=sys.stderr, flush=True)
    if at_once:
        for child in multiprocessing.active_children():
            child.kill()  # workers of loaders would live on for seconds
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


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
    sentence = _explain(error)
    return (1, None) if sentence is None else (2, f"error: {sentence}")


def _explain(error: BaseException) -> str | None:
    """A sentence for an error that a person can act on, None for one of ours."""
    text = str(error)
    if isinstance(error, ECGError):
        # An error out of a loader's worker brings that worker's traceback with it; its last line
        # is ours.
        return (
            text
            if not text.startswith("Caught ")
            else text.strip().splitlines()[-1].partition(": ")[2]
        )
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return (
            "the GPU is out of memory; lower dataloader.batch_size, and raise train.accum_iter "
            "to keep the effective batch"
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return (
            f"a loader process died ({text.splitlines()[0]}); most often memory or /dev/shm is "
            "full: lower dataloader.num_workers and resume with --resume auto"
        )
    return None
