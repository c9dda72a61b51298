"""Files that are whole or not there: whatever is written here takes its place only when it is complete and on the disk."""
import contextlib
import os
from pathlib import Path

TEMPORARY = ".tmp"


@contextlib.contextmanager
def replacing(path, mode="wb"):
    """A file to write in ``path``'s place; until it is complete, and if anything fails, ``path`` stays as it was.

    Args:
        mode: "wb", or "w" for UTF-8 text with line ends as they are written.
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
    sync_folder(path.parent)


def sync(file) -> None:
    """Have an open file's content on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder) -> None:
    """Have a folder's new names on the disk, so that they, too, survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(text: str, path) -> None:
    """Replace a text file, whole or not at all."""
    with replacing(path, "w") as file:
        file.write(text)


def remove_temporary(folder) -> None:
    """Delete what a killed run left half-written.  Only the process that has the folder to itself may call this."""
    for path in Path(folder).glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)
