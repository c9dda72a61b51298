"""Downloading the files of a data set: resumable, several at a time, each checked."""

import hashlib
import os
import re
import shutil
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from data_preparation.importing.connection import (
    Connection,
    Stopped,
    check_whole,
    open_url,
)
from data_preparation.importing.homes import Home
from data_preparation.importing.listings import File, list_files
from util.console import progress_bar
from util.errors import ECGError
from util.files import FolderLock, sync

CHUNK = 1 << 18  # bytes read at a time


# ============ the whole set ============
def download(home: Home, output: Path, *, connections: int = 4, verify: bool = False) -> list[Path]:
    """Download a set into a folder that no other download uses; return the paths of its files.

    Args:
        home: where it is published.
        output: the folder.
        connections: how many files at a time.
        verify: whether to compute the checksums of finished files, too.

    Raises:
        ECGError: the set cannot be had or written; it says what to do.
    """
    output, connection = Path(output), Connection()
    with FolderLock(output, 1, "--output"):
        files = list_files(home, output, connection)
        missing = sum(file.size or 0 for file in files if not (output / file.path).exists())
        if missing > shutil.disk_usage(output).free:
            raise ECGError(
                f"{output} has {shutil.disk_usage(output).free / 1e9:.1f} GB free, the set takes "
                f"{missing / 1e9:.1f} GB more; make room or choose another --output"
            )
        progress = Progress(files)
        pool = ThreadPoolExecutor(connections)
        try:
            for job in as_completed(
                [
                    pool.submit(fetch, file, output, connection, progress, verify=verify)
                    for file in files
                ]
            ):
                job.result()
        except OSError as error:
            raise ECGError(
                f"cannot write to {output}: {error}; the same command goes on where it stopped"
            ) from None
        finally:
            connection.stop.set()
            pool.shutdown(cancel_futures=True)
            progress.close()
    return [output / file.path for file in files]


def unpack(path: Path) -> None:
    """Unpack an archive beside itself; the library refuses members that would lie elsewhere."""
    print(f"unpacking {path}")
    try:
        shutil.unpack_archive(path, path.parent, filter=None if path.suffix == ".zip" else "data")
    except (OSError, ValueError, shutil.ReadError, EOFError) as error:
        raise ECGError(f"cannot unpack {path}: {error}") from None


# ============ one file ============
def fetch(
    file: File,
    output: Path,
    connection: Connection,
    progress: "Progress",
    *,
    verify: bool = False,
) -> None:
    """Download a file into its place.

    One that is there is left alone; with ``verify`` only if its checksum is right.

    Raises:
        ECGError: a second download, too, has another checksum than the published one.
    """
    target = output / file.path
    if (
        target.is_file()
        and file.size in (None, target.stat().st_size)
        and (not verify or _hash(target, file.algorithm) == file.checksum)
    ):
        return progress.reached(file, target.stat().st_size, done=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for _ in range(3):  # what was left of an earlier run, then two fresh downloads
        connection.retrying(
            file.url, lambda: _fetch_rest(file, part, connection, progress), lambda: _size(part)
        )
        if _hash(part, file.algorithm) == file.checksum:
            os.replace(part, target)
            return progress.reached(file, target.stat().st_size, done=True)
        part.unlink()
    raise ECGError(
        f"{file.url}: its checksum differs from the published one ({file.algorithm} "
        f"{file.checksum}) however often it is downloaded; the copy there is damaged or was "
        "changed: try another --url"
    )


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(file, part, connection, progress):
    """Append to a .part file what it lacks; start over if the server sends all of it.

    The checksum will show whether the pieces fit.
    """
    have = _size(part)
    if have and have == file.size:
        return
    try:
        answer = open_url(file.url, {"Range": f"bytes={have}-"} if have else None)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies behind what we have
            return error.close()
        raise
    with answer:
        begins = re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")) is not None
        if answer.status == 206 and not begins:
            raise ConnectionError("the server sent another part of the file than was asked for")
        have = have if answer.status == 206 else 0
        with open(part, "ab" if have else "wb") as out:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                have += len(chunk)
                progress.reached(file, have)
                if connection.stop.is_set():
                    raise Stopped
            sync(out)
        check_whole(answer)


def _hash(path, algorithm):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class Progress:
    """A bar with the time left: over bytes where all sizes are known, else over files."""

    def __init__(self, files: list[File]) -> None:
        self._in_bytes = all(file.size is not None for file in files)
        self._lock = threading.Lock()
        self._at: dict[str, int] = {}
        self._received = 0
        self._bar = progress_bar(
            total=sum(file.size or 0 for file in files) if self._in_bytes else len(files),
            desc="downloading",
            unit="B" if self._in_bytes else "file",
            unit_scale=self._in_bytes,
        )

    def reached(self, file: File, size: int, *, done: bool = False) -> None:
        """Show that ``size`` bytes of a file are here."""
        with self._lock:
            step, self._at[file.path] = size - self._at.get(file.path, 0), size
            self._received += step
            self._bar.update(step if self._in_bytes else int(done))
            if not self._in_bytes:
                self._bar.set_postfix_str(f"{self._received / 1e6:.1f} MB", refresh=False)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
