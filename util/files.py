"""Files that are whole or not there: what is written takes its place when it is complete and on
the disk.
"""

import contextlib
import csv
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from util.errors import ECGError

if TYPE_CHECKING:
    import pandas as pd

TEMPORARY = ".tmp"
# What people and programs write for "not known" in tables and headers; compared in lower case.
UNKNOWN_WORDS = frozenset(
    ("", "-", "--", "?", "-1", "-1.0", "nan", "nat", "na", "n/a", "#n/a", "<na>", "none", "null")
    + ("nil", "unknown", "unk", "missing", "not available", "undefined")
)
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.IGNORECASE)


# ============ a folder for one process ============
class FolderLock:
    """Hold a folder for this process alone, until ``release`` or the end of the process.

    The lock is the kernel's: it ends with the process, however that ends.  The folder is made if
    there is none.  On a file system without locks nothing is locked and no process waits.

    The package filelock was tried in place of this class and is not as exact (4.3).  Where a file
    system has no locks it raises an error or leaves a marker file, which outlives a run that was
    killed.  And it locks by ``flock``, which also shuts out a later job of the same process, as
    long as the traceback of a failed one still refers to its lock.

    Args:
        folder: path of the folder.
        patience_seconds: how long to wait for another process.
        option: the flag whose value the message of an error advises to change.

    Raises:
        ECGError: another process still has the folder, or it cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        patience_seconds: float,
        option: str = "--output_dir",
    ) -> None:
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / ".lock", "a")
        except OSError as error:
            raise ECGError(
                f"cannot write to {folder}: {error.strerror}; choose another {option}"
            ) from None
        deadline = time.monotonic() + patience_seconds
        while not self._acquire():
            if time.monotonic() >= deadline:
                self.release()
                raise ECGError(
                    f"another process is writing to {folder}; wait for it, end it, or choose "
                    f"another {option}"
                )
            time.sleep(0.2)

    def _acquire(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            # POSIX allows either for a lock that another process holds.
            return False
        except OSError:
            pass  # a file system without locks
        return True

    def release(self) -> None:
        """Give the folder up.

        The file stays: if it were deleted, two processes could lock two files of one name.
        """
        self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


# ============ writing ============
@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` when it is complete.

    Until then, and if anything fails, ``path`` stays as it was.

    Args:
        path: the file to replace or to make.
        mode: "wb", or "w" for UTF-8 text with line ends as they are written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            sync(file)
        os.replace(temporary, path)
    except Exception as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # which people know
        raise
    # The new name in the folder must survive a power failure, too.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(file: IO[Any]) -> None:
    """Bring the content of an open file onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text, complete or not at all; line ends stay as they are."""
    with replacing(path, "w") as file:
        file.write(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write plain values as JSON, complete or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_frame(
    path: str | os.PathLike, frame: "pd.DataFrame", *, index: bool = False, **options: Any
) -> None:
    """Write a DataFrame as a CSV file, complete or not at all.

    The folder is made if there is none.

    Args:
        path: the file.
        frame: the table.
        index: whether its index becomes the first column.
        options: further ones of ``DataFrame.to_csv``.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "w") as file:
        frame.to_csv(file, index=index, lineterminator="\n", **options)


def write_table(
    path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows as a CSV file with safe cells, complete or not at all.

    Args:
        path: the file.
        columns: their names, in order.
        rows: one at a time, so that they need not be in memory together; each has every column.
    """
    with replacing(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([safe_cell(row[column]) for column in columns] for row in rows)


def safe_cell(value: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet takes for a formula, nor spans lines.

    Text that starts with = + - or @ and is no number gets an apostrophe in front; control
    characters become blanks.
    """
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    is_formula = text[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(text)
    return "'" + text if is_formula else text


def is_unknown(text: str) -> bool:
    """Return whether a cell says that its value is not known: empty, or one of UNKNOWN_WORDS."""
    return text.strip().lower() in UNKNOWN_WORDS


# ============ folders ============
def find_files(folder: str | os.PathLike, endings: str | tuple[str, ...]) -> list[str]:
    """Return the relative POSIX paths of all files with these endings anywhere under a folder.

    They are sorted; links are followed.  Not among them are files ._*, in which macOS keeps what
    it knows of a file, under that file's ending.

    Raises:
        ECGError: a folder cannot be listed.
    """
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()

    def complain(error: OSError) -> None:
        raise ECGError(f"cannot list the folder {error.filename}: {error.strerror}") from None

    for root, folders, files in os.walk(os.fspath(folder), onerror=complain, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in visited:  # a link back to where we have been
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        above = Path(root).relative_to(folder).as_posix() + "/"
        paths += [
            above.removeprefix("./") + name
            for name in files
            if name.endswith(endings) and not name.startswith("._")
        ]
    paths.sort()
    return paths


def remove_temporary(folder: str | os.PathLike) -> None:
    """Delete what a killed run left half-written in a folder that this process has locked."""
    for path in Path(folder).glob(f".*{TEMPORARY}"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Turn what the file system refuses into an ECGError that says the same."""
    try:
        yield
    except OSError as error:
        raise ECGError(str(error)) from error
