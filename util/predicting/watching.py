"""A folder that is watched: recordings are predicted as they arrive."""

import contextlib
import glob
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from util.console import note, quietly
from util.errors import ConfigError, ECGError
from util.formats.any_file import Place, find_places
from util.predicting.job import PredictionJob

POLL_SECONDS = 2.0
Signature = tuple[tuple[str, int, int], ...]  # of a recording's files: name, bytes, time of change


def watch(job: PredictionJob, folder: str | Path) -> None:
    """Predict the recordings of a folder, and new and changed ones, until asked to stop.

    A recording is read once its files have stayed as they are from one look to the next, so that
    none is taken half-copied; one that could not be read is tried again when they change.

    Args:
        job: that predicts.
        folder: looked at every ``POLL_SECONDS``.

    Raises:
        ConfigError: there is no such folder, or flags do not fit what is in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"--watch {folder}: there is no such folder; make it first")
    note(f"watching {folder}; end it by Ctrl-C or SIGTERM")
    before: dict[Place, Signature] = {}
    done: dict[Place, Signature] = {}
    with _until_stopped(job.stop):
        while not job.stop.is_set():
            now = {place: _signature(place.file) for place in _places(job, folder)}
            settled = [place for place in now if now[place] == before.get(place)]
            fresh = [place for place in settled if now[place] != done.get(place)]
            if fresh:
                job.run(fresh)
                done |= {place: now[place] for place in fresh}
            before = now
            job.stop.wait(POLL_SECONDS)
    note(f"stopped watching {folder}")


def _places(job: PredictionJob, folder: Path) -> list[Place]:
    """The recordings that are there now; a folder that is empty, or gone for a while, has none."""
    try:
        with quietly():
            places = find_places(folder, job.said)
    except ConfigError:
        raise
    except (ECGError, OSError):
        return []
    own = job.folder.resolve()
    return [place for place in places if own not in place.file.resolve().parents]


def _signature(file: Path) -> Signature:
    """What tells whether a recording's files, all those of its name, have changed."""
    found = []
    for path in sorted(file.parent.glob(f"{glob.escape(file.stem)}.*")):
        with contextlib.suppress(OSError):  # gone meanwhile
            status = path.stat()
            found.append((path.name, status.st_size, status.st_mtime_ns))
    if not found:
        with contextlib.suppress(OSError):  # a name without an ending
            status = file.stat()
            found.append((file.name, status.st_size, status.st_mtime_ns))
    return tuple(found)


@contextlib.contextmanager
def _until_stopped(stop: threading.Event) -> Iterator[None]:
    """Within it, SIGTERM and Ctrl-C set ``stop`` and do nothing else."""

    def notice(number: int, frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, notice) for number in numbers if is_main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
