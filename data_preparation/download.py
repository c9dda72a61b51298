"""Download a public data set from its own home: resumable, every file checked against its
published checksum.

    python data_preparation/download.py ptbxl
    python data_preparation/download.py code15 --output ./data_folder/code15 --unpack
    python data_preparation/download.py ptbxl \\
        --only records100/ ptbxl_database.csv scp_statements.csv

A file lies as <name>.part until it is complete and its checksum is right.  After a stop, the same
command goes on from there.  Sets that ask for a signed agreement cannot be had this way: the
error says what to do.
"""

import argparse
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.errors import ECGError
from util.files import FolderLock, replacing, sync
from util.processes.program import run_main

OUTPUT_DIR = "./data_folder/datasets"
CHUNK = 1 << 18
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 6  # in a row without a new byte, before we give up
BACK_OFF = 1.0  # seconds before the second attempt; doubles
LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
MAX_LISTING = 1 << 30  # bytes: MIMIC-IV-ECG lists 1.6 million files
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone next time
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Home:
    """Where a set is published.

    Attributes:
        url: of a folder with a SHA256SUMS.txt (PhysioNet), of a record in Zenodo's API, or of a
            collection's articles in figshare's.
        only: beginnings of the paths that are wanted, all where empty.
    """

    url: str
    only: tuple[str, ...] = ()


SETS = {
    "ptbxl": Home(
        "https://physionet.org/files/ptb-xl/1.0.3/",
        ("records500/", "ptbxl_database.csv", "scp_statements.csv", "LICENSE.txt"),
    ),
    "challenge2020": Home("https://physionet.org/files/challenge-2020/1.0.2/", ("training/",)),
    "challenge2021": Home("https://physionet.org/files/challenge-2021/1.0.3/", ("training/",)),
    "cpsc2018": Home("https://physionet.org/files/challenge-2021/1.0.3/", ("training/cpsc_2018/",)),
    "chapman_ningbo": Home("https://physionet.org/files/ecg-arrhythmia/1.0.0/"),
    "physionet2017": Home(
        "https://physionet.org/files/challenge-2017/1.0.0/",
        ("training2017.zip", "REFERENCE-v3.csv"),
    ),
    "mimic_iv_ecg": Home("https://physionet.org/files/mimic-iv-ecg/1.0/"),
    "code15": Home("https://zenodo.org/api/records/4916206"),
    "sph": Home("https://api.figshare.com/v2/collections/5779802/articles?page_size=100"),
}


@dataclass(frozen=True)
class File:
    """A file of a set: where it goes, relative; its URL; its size in bytes, None if not
    told; its checksum.
    """

    path: str
    url: str
    size: int | None
    algorithm: str
    checksum: str


# ============ talking to a server ============
class Stopped(Exception):
    """Another file failed, or Ctrl-C: this one is left as it is."""


class Line:
    """How we ask: with patience, until told to stop.  ``stop`` is shared by all files of a
    download.
    """

    def __init__(self):
        self.stop = threading.Event()

    def retrying(self, url, attempt, position=lambda: 0):
        """``attempt()`` until it succeeds.  An ECGError after a lasting refusal, or ATTEMPTS
        failures in a row between which ``position()``, the bytes we have, did not grow.
        """
        failures, before = 0, position()
        while True:
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in PASSING:
                    raise ECGError(_refused(url, error.code)) from None
                cause = error
            except (
                http.client.HTTPException,
                OSError,
            ) as error:  # URLErrors, timeouts and resets are OSErrors
                _raise_own(error, url)
                cause = error
            failures, before = (1 if position() > before else failures + 1), position()
            if failures >= ATTEMPTS:
                raise ECGError(
                    f"cannot reach {url} ({getattr(cause, 'reason', None) or cause}), tried "
                    f"{failures} times; check the network, or name a mirror with --url; the same "
                    "command goes on where it stopped"
                ) from None
            if self.stop.wait(
                min(LONGEST_WAIT, max(BACK_OFF * 2 ** (failures - 1), _asked_to_wait(cause)))
            ):
                raise Stopped

    def read(self, url) -> bytes:
        """A listing."""

        def attempt():
            with _open(url) as answer:
                data = answer.read(MAX_LISTING + 1)
                _check_whole(answer)
                return data

        data = self.retrying(url, attempt)
        if len(data) > MAX_LISTING:
            raise ECGError(f"{url} is no listing: larger than {MAX_LISTING} bytes")
        return data

    def read_json(self, url):
        """A listing in JSON."""
        try:
            return json.loads(self.read(url))
        except (ValueError, RecursionError):
            raise ECGError(
                f"{url} is not the JSON of its home's interface; look up the address"
            ) from None


def _open(url, headers=None):
    request = urllib.request.Request(
        url, headers={"User-Agent": "ecg-download/1", **(headers or {})}
    )
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _check_whole(answer):
    """A connection that ends early is no error to http.client where the size of a read was
    given.
    """
    if answer.length:
        raise ConnectionError(f"the connection broke off {answer.length} bytes before the end")


def _raise_own(error, url):
    """Errors of this machine, which no second attempt mends."""
    if error.__class__ is not urllib.error.URLError and isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ECGError(
                f"the disk is full while downloading {url}; make room, then give the same "
                "command "
                "again: it goes on where it stopped"
            ) from None
        if error.filename:
            raise ECGError(
                f"cannot write {error.filename}: {error.strerror}; choose another --output"
            ) from None


def _asked_to_wait(error):
    text = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return float(text) if text.isdecimal() else 0.0


def _refused(url, status):
    if status in (401, 403):
        page = url.replace("/files/", "/content/").split("/SHA256SUMS.txt")[0]
        return (
            f"{url} answers {status}: its home asks for a login or a signed data use agreement. "
            f"Sign it at {page}, download the files there with your account (PhysioNet: wget -r "
            "-N "
            "-c -np --user NAME --ask-password), and give the next step their folder"
        )
    return (
        f"{url} answers {status}: the set or this version of it is not there any more; look up "
        "its "
        "present address and give it with --url"
    )


# ============ what a set consists of ============
def list_files(home, output, line) -> list[File]:
    """The files of a set, by its own listing.  An ECGError for a listing that we cannot
    read or trust.
    """
    if urlsplit(home.url).scheme not in ("http", "https"):
        raise ECGError(f"--url {home.url}: it must begin with https:// or http://")
    try:
        if "/api/records/" in home.url:
            files = [
                File(
                    entry["key"],
                    entry["links"]["self"],
                    int(entry["size"]),
                    *_checksum(entry["checksum"]),
                )
                for entry in line.read_json(home.url)["files"]
            ]
        elif "/collections/" in home.url:
            files = list(_figshare_files(home.url, line))
        else:
            files = _physionet_files(home.url, output, line)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise ECGError(
            f"{home.url} does not describe files as its home does; look up the address"
        ) from None
    wanted = [file for file in files if not home.only or file.path.startswith(home.only)]
    if not wanted:
        raise ECGError(
            f"{home.url} lists {len(files)} files, none that begins with {', '.join(home.only)}"
        )
    for file in wanted:
        _check_file(file, home.url)
    if len({file.path.lower() for file in wanted}) < len(wanted):
        raise ECGError(f"{home.url} lists a file twice")
    print(f"{len(wanted)} of {len(files)} files listed at {home.url}")
    return wanted


def _checksum(text):
    """("md5", "0a...") of "md5:0a..."."""
    algorithm, checksum = text.lower().split(":")
    if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", checksum):
        raise ValueError(text)
    return {"md5": "md5", "sha256": "sha256"}[algorithm], checksum


def _figshare_files(url, line):
    """A collection is a list of articles, each with its files."""
    articles = url.split("/collections/")[0] + "/articles/"
    for article in line.read_json(url):
        for entry in line.read_json(f"{articles}{int(article['id'])}")["files"]:
            yield File(
                entry["name"],
                entry["download_url"],
                int(entry["size"]),
                *_checksum("md5:" + entry["computed_md5"]),
            )


def _physionet_files(url, output, line):
    """SHA256SUMS.txt has a checksum and a path a line; it is kept beside the files."""
    base = url if url.endswith("/") else url + "/"
    data, files = line.read(base + "SHA256SUMS.txt"), []
    for text in filter(None, map(str.strip, data.decode("utf-8", "replace").splitlines())):
        match = re.fullmatch(r"([0-9a-fA-F]{64})\s+\*?(.+)", text)
        if not match:
            raise ECGError(f"{base}SHA256SUMS.txt: this is no checksum with a path: {text[:80]!r}")
        files.append(File(match[2], base + quote(match[2]), None, "sha256", match[1].lower()))
    with replacing(output / "SHA256SUMS.txt") as file:
        file.write(data)
    return files


def _check_file(file, listing):
    """A listing comes from another machine: plain paths inside the folder and web
    addresses, or nothing is fetched.
    """
    parts = file.path.split("/")
    if (
        not file.path.isprintable()
        or re.search(r"[\\:]", file.path)
        or {"", ".", ".."} & set(parts)
    ):
        raise ECGError(f"{listing} lists the unsafe path {file.path!r}; nothing was downloaded")
    if urlsplit(file.url).scheme not in ("http", "https"):
        raise ECGError(f"{listing} lists the unsafe address {file.url!r}; nothing was downloaded")


# ============ one file ============
def fetch(file, output, line, progress, verify=False):
    """Download a file into its place; one that is there is left alone, with ``verify`` only if
    its checksum is right.

    An ECGError where a second download, too, has another checksum than the published one.
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
        line.retrying(
            file.url, lambda: _fetch_rest(file, part, line, progress), lambda: _size(part)
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


def _fetch_rest(file, part, line, progress):
    """Append to a .part file what it lacks; begin anew where the server sends all of it.  Whether
    the pieces fit, the checksum says.
    """
    have = _size(part)
    if have and have == file.size:
        return
    try:
        answer = _open(file.url, {"Range": f"bytes={have}-"} if have else None)
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
                if line.stop.is_set():
                    raise Stopped
            sync(out)
        _check_whole(answer)


def _hash(path, algorithm):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class Progress:
    """A bar with the time left: over bytes where all sizes are known, else over files."""

    def __init__(self, files):
        self._in_bytes, self._lock, self._at = (
            all(file.size is not None for file in files),
            threading.Lock(),
            {},
        )
        self._received = 0
        self._bar = tqdm(
            total=sum(file.size for file in files) if self._in_bytes else len(files),
            desc="downloading",
            unit="B" if self._in_bytes else "file",
            unit_scale=self._in_bytes,
        )

    def reached(self, file, size, done=False):
        """``size`` bytes of a file are here."""
        with self._lock:
            step, self._at[file.path] = size - self._at.get(file.path, 0), size
            self._received += step
            self._bar.update(step if self._in_bytes else int(done))
            if not self._in_bytes:
                self._bar.set_postfix_str(f"{self._received / 1e6:.1f} MB", refresh=False)

    def close(self):
        self._bar.close()


# ============ the whole set ============
def download(home, output, connections=4, verify=False) -> list[Path]:
    """Download a set into a folder that no other download uses; returns the paths of its files."""
    output, line = Path(output), Line()
    with FolderLock(output, 1, "--output"):
        files = list_files(home, output, line)
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
                [pool.submit(fetch, file, output, line, progress, verify) for file in files]
            ):
                job.result()
        except OSError as error:
            raise ECGError(
                f"cannot write to {output}: {error}; the same command goes on where it stopped"
            ) from None
        finally:
            line.stop.set()
            pool.shutdown(cancel_futures=True)
            progress.close()
    return [output / file.path for file in files]


def unpack(path):
    """Unpack an archive beside itself; members that would lie elsewhere are refused by the
    library.
    """
    print(f"unpacking {path}")
    try:
        shutil.unpack_archive(
            path, path.parent, **({} if path.suffix == ".zip" else {"filter": "data"})
        )
    except (OSError, ValueError, shutil.ReadError, EOFError) as error:
        raise ECGError(f"cannot unpack {path}: {error}") from None


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SETS, help=", ".join(SETS), metavar="NAME")
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"default: {OUTPUT_DIR}/NAME")
    parser.add_argument("--url", help="another address of the set: a mirror with the same listing")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="BEGINNING",
        help="files whose path begins so, instead of those "
        "that training needs; --only records100/ for PTB-XL at 100 Hz",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=4,
        metavar="N",
        help="files at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compute the checksums of finished files, too"
    )
    parser.add_argument(
        "--unpack", action="store_true", help="unpack archives beside themselves when all is here"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.connections <= 16:
        parser.error("--connections must be 1 to 16")
    home, output = SETS[args.name], args.output or Path(OUTPUT_DIR) / args.name
    home = Home(args.url or home.url, tuple(args.only or home.only))
    paths = download(home, output, args.connections, args.verify)
    for path in paths if args.unpack else ():
        if path.name.endswith(ARCHIVES):
            unpack(path)
    print(f"{len(paths)} files with the right checksum in {output}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
