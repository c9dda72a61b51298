"""Sentences that a run prints: at once, on process 0 alone, and kept in the run's console.txt.

    note("records without a fold, which take no part: 12")

Call ``begin_job`` at the start of a job and ``keep_in`` when its folder is known: sentences printed
before that, while the data were being read, are then written there first.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.errors import ECGError

if TYPE_CHECKING:
    from tqdm import tqdm

FILE = "console.txt"
_said: list[str] = []  # of this job
_folder: list[Path] = []  # where they are kept: none, or one
_jobs: list[bool] = []  # not empty once a job has begun
_quiet: list[bool] = []  # not empty while nothing is to be said


def group() -> tuple[int, int]:
    """Return the number of this process and how many there are, as torchrun or a cluster says.

    WORLD_SIZE without RANK may be a cluster's number of machines: this process is alone.
    """
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world)) if rank.isdecimal() and world.isdecimal() else (0, 1)


def is_first() -> bool:
    """Return whether this is process 0 of a run, or a process that runs alone."""
    number, processes = group()
    return processes == 1 or number == 0


def begin_job() -> None:
    """Start a job: forget the sentences and the folder of an earlier one in this process.

    What was said before the first job, while its config was read, belongs to it.
    """
    if _jobs:
        _said.clear()
    _folder.clear()
    _jobs[:] = [True]


def note(sentence: str) -> None:
    """Print a sentence on process 0, without breaking a progress bar, and keep it in console.txt.

    Raises:
        ECGError: the file cannot be written.
    """
    if _quiet or not is_first():
        return
    from tqdm import tqdm  # here: the launcher must be able to say that packages are missing

    tqdm.write(sentence)
    if _folder:
        _append([sentence])
    else:
        _said.append(sentence)


def progress_bar(iterable: Iterable | None = None, **options: Any) -> "tqdm":
    """Return tqdm's bar of process 0; where no terminal shows it, as in the log file of a cluster's
    job, it writes every thirty seconds."""
    from tqdm import tqdm  # as above

    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        iterable, disable=not is_first(), dynamic_ncols=True, mininterval=interval, **options
    )


def keep_in(folder: str | os.PathLike) -> None:
    """Keep the job's sentences in a folder of results from here on, those so far included."""
    if is_first():
        _folder[:] = [Path(folder)]
        _append(_said)


@contextlib.contextmanager
def fold_of_job() -> Iterator[None]:
    """Return a context for one fold: the console.txt of its folder gets the sentences that the job
    printed before any fold, then those of this fold alone.
    """
    shared = len(_said)
    try:
        yield
    finally:
        del _said[shared:]
        _folder.clear()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Return a context in which ``note`` prints nothing: for work that the job will repeat."""
    _quiet.append(True)
    try:
        yield
    finally:
        _quiet.pop()


def said() -> list[str]:
    """Return the sentences since ``begin_job``, up to ``keep_in``."""
    return list(_said)


def _append(sentences: list[str]) -> None:
    path = _folder[0] / FILE
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{sentence}\n" for sentence in sentences)
    except OSError as error:
        raise ECGError(
            f"cannot write {path}: {error.strerror}. Free some space or make it writable, resume "
            "with --resume auto, or choose another --output_dir"
        ) from None
