"""Files that are whole or not there: what is written takes its place when it is complete and on
the disk.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from util.errors import ECGError

TEMPORARY = ".tmp"


class FolderLock:
    """A folder that one process has to itself, from here until ``release`` or its end, however
    that comes.

    The folder is made if there is none.  A file system without locks lets everybody pass.
    ``option`` is what the message of an ECGError advises to choose another of: after
    ``patience_seconds`` another process still has the folder, or it cannot be written to.
    """

    def __init__(self, folder, patience_seconds, option="--output_dir"):
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / ".lock", "a")
        except OSError as error:
            raise ECGError(
                f"cannot write to {folder}: {error.strerror}; choose another {option}"
            ) from None
        deadline = time.monotonic() + patience_seconds
        while not self._taken():
            if time.monotonic() >= deadline:
                self.release()
                raise ECGError(
                    f"another process is writing to {folder}; wait for it, end it, or choose "
                    f"another {option}"
                )
            time.sleep(0.2)

    def _taken(self):
        try:
            fcntl.lockf(
                self._file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # the kernel ends it if we are killed
        except (
            BlockingIOError,
            PermissionError,
        ):  # either is allowed for a lock that another process holds
            return False
        except OSError:
            pass  # a file system without locks
        return True

    def release(self) -> None:
        """Let others in; the file stays: without it two processes could lock two files of one
        name.
        """
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


@contextlib.contextmanager
def replacing(path, mode="wb"):
    """A file to write in ``path``'s place; until it is complete, and if anything fails, ``path``
    stays as it was. ``mode`` is "wb", or "w" for UTF-8 text with line ends as they are written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            sync(file)
        os.replace(temporary, path)
    except Exception:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the folder's new name, too, shall survive a power failure
    finally:
        os.close(descriptor)


def find_files(folder, endings) -> list[str]:
    """Relative POSIX paths of all files with these endings (str or tuple) anywhere under a
    folder, links followed, sorted; an ECGError for a folder that cannot be listed.
    """
    found, seen = [], set()

    def complain(error):
        raise ECGError(f"cannot list the folder {error.filename}: {error.strerror}") from None

    for root, folders, files in os.walk(folder, onerror=complain, followlinks=True):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen:  # a link back to a folder we have been in
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        above = Path(root).relative_to(folder).as_posix() + "/"
        found += [above.removeprefix("./") + name for name in files if name.endswith(endings)]
    found.sort()
    return found


def sync(file) -> None:
    """Have an open file's content on the disk."""
    file.flush()
    os.fsync(file.fileno())


def remove_temporary(folder) -> None:
    """Delete what a killed run left half-written.  Only who has the folder to oneself may call
    this.
    """
    for path in Path(folder).glob(f".*{TEMPORARY}"):
        if path.is_file():
            path.unlink(missing_ok=True)
