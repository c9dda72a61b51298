"""The files of a public data set, as its home lists them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from data_preparation.importing.connection import Connection
from data_preparation.importing.homes import Home
from util.errors import ECGError
from util.files import replacing


@dataclass(frozen=True)
class File:
    """A file of a set.

    Attributes:
        path: where it goes, relative to the folder of the set.
        url: where it comes from.
        size: in bytes; None where the listing does not say.
        algorithm: of the checksum, md5 or sha256.
        checksum: in hexadecimal digits.
    """

    path: str
    url: str
    size: int | None
    algorithm: str
    checksum: str


def list_files(home: Home, output: Path, connection: Connection) -> list[File]:
    """Return the files of a set, by the listing of its home.

    Raises:
        ECGError: the listing cannot be read or trusted.
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
                for entry in connection.read_json(home.url)["files"]
            ]
        elif "/collections/" in home.url:
            files = list(_figshare_files(home.url, connection))
        else:
            files = _physionet_files(home.url, output, connection)
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


def _figshare_files(url: str, connection: Connection) -> Iterator[File]:
    """A collection is a list of articles, each with its files."""
    articles = url.split("/collections/")[0] + "/articles/"
    for article in connection.read_json(url):
        for entry in connection.read_json(f"{articles}{int(article['id'])}")["files"]:
            yield File(
                entry["name"],
                entry["download_url"],
                int(entry["size"]),
                *_checksum("md5:" + entry["computed_md5"]),
            )


def _physionet_files(url: str, output: Path, connection: Connection) -> list[File]:
    """SHA256SUMS.txt has a checksum and a path a line; it is kept beside the files."""
    base = url if url.endswith("/") else url + "/"
    data = connection.read(base + "SHA256SUMS.txt")
    files = []
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
