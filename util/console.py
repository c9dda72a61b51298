"""What a run says to people: each sentence at once, by process 0, and kept in the run's folder.

    note("records without a fold, which take no part: 12")

``begin`` starts a job and ``keep_in`` says where its sentences belong: those that were said before
there was a folder, while the data were being read, are written there first.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from util.errors import ECGError

FILE = "console.txt"
_said: list[str] = []  # of this job
_folder: list[Path] = []  # where they are kept: none, or one
_quiet: list[bool] = []  # not empty while nothing is to be said


def is_first() -> bool:
    """Return whether this is process 0 of a run, or a process that runs alone."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return not several or int(os.environ["RANK"]) == 0


def begin() -> None:
    """Start a job, which has said nothing yet and has no folder."""
    _said.clear()
    _folder.clear()


def note(sentence: str) -> None:
    """Say a sentence once, outside of a progress bar, and keep it in the run's console.txt.

    Raises:
        ECGError: the file cannot be written.
    """
    if _quiet or not is_first():
        return
    tqdm.write(sentence)
    if _folder:
        _append([sentence])
    else:
        _said.append(sentence)


def keep_in(folder: str | os.PathLike) -> None:
    """Keep the job's sentences in a folder of results from here on, those so far included."""
    if is_first():
        _folder[:] = [Path(folder)]
        _append(_said)


@contextlib.contextmanager
def fold_of_job() -> Iterator[None]:
    """Keep what is said meanwhile in the fold's folder alone, after what the job said before."""
    shared = len(_said)
    try:
        yield
    finally:
        del _said[shared:]
        _folder.clear()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Say nothing meanwhile: for a look ahead at what a job will say itself."""
    _quiet.append(True)
    try:
        yield
    finally:
        _quiet.pop()


def said() -> list[str]:
    """Return what has been said since ``begin`` and before there was a folder."""
    return list(_said)


def _append(sentences: list[str]) -> None:
    path = _folder[0] / FILE
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{sentence}\n" for sentence in sentences)
    except OSError as error:
        raise ECGError(
            f"cannot write {path}: {error.strerror}. Free some space or make it writable, resume "
            "with --resume auto, or choose another --output_dir"
        ) from None
