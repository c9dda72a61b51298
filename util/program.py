"""How every main program ends: one sentence and an exit status instead of a traceback."""
import signal
import sys
import time

import torch

from util import distributed
from util.errors import ECGError
from util.stop import LOST, PREEMPTED, Preempted, StopRequest


def run_main(main, argv=None) -> int:
    """Call ``main(argv)``; errors a person can act on become one sentence and an exit status.

    Returns:
        0; 2 after an ECGError; 75 after a stop on request (SIGTERM, SIGUSR1); 76 when another process of the run is
        gone; 130 after Ctrl-C.
    """
    try:
        with StopRequest(at_once=True):
            main(argv)
        return 0
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except Preempted as stop:
        if _lost_contact(stop.__context__):
            return LOST  # torchrun's signal came on top of it
        if distributed.is_main():
            print(stop, file=sys.stderr)
        return PREEMPTED
    except Exception as error:
        if _lost_contact(error):
            if not StopRequest.ever:  # else torchrun is ending the run already, and what began it has been said
                _complain("error: another process of this run is gone; its own message, or torchrun's, says why", wait=15)
            return LOST
        sentence = _explain(error)
        if sentence is None:
            raise
        _complain(f"error: {sentence}", wait=0 if distributed.is_main() else 10)
        return 2
    finally:
        distributed.stop()


def _explain(error) -> str | None:
    """A sentence for errors that a person can act on, None for those that are ours."""
    text = str(error)
    if isinstance(error, ECGError):
        # An error out of a loader's worker brings that worker's traceback with it; its last line is ours.
        return text if not text.startswith("Caught ") else text.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, torch.OutOfMemoryError):
        return ("the GPU's memory is full; lower dataloader.batch_size, and raise train.accum_iter to keep the "
                "effective batch")
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return (f"a loader process died ({text.splitlines()[0]}); most often memory or /dev/shm is full: lower "
                "dataloader.num_workers and go on with --resume auto")
    return None


def _lost_contact(error) -> bool:
    """Whether a collective failed because another process ended."""
    signs = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket timeout",
             "connection refused", "connectfullmesh failed", "remote process exited", "heartbeat", "nccl communicator was aborted")
    return isinstance(error, RuntimeError) and distributed.in_group() and \
        any(sign in str(error).lower() for sign in signs)


def _complain(text, wait=0):
    """Print an error.  Where every process fails alike, process 0 speaks and the launcher ends the others while they
    ``wait`` (seconds); where one fails alone, it is heard after that."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    if distributed.in_group():
        time.sleep(wait)
    print(text, file=sys.stderr, flush=True)
