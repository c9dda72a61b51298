"""Requests to a server, repeated where that may help."""

import errno
import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from util.errors import ECGError

TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 6  # in a row without a new byte, before we give up
BACK_OFF = 1.0  # seconds before the second attempt; doubles
LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
MAX_LISTING = 1 << 30  # bytes: MIMIC-IV-ECG lists 1.6 million files
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone next time


class Stopped(Exception):
    """Another file failed, or Ctrl-C: this one is left as it is."""


class Connection:
    """Ask a server, again and again where that may help.

    Attributes:
        stop: ends all that is under way; all files of a download share it.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()

    def retrying(
        self, url: str, attempt: Callable[[], Any], position: Callable[[], int] = lambda: 0
    ) -> Any:
        """Return ``attempt()``, repeated until it succeeds.

        Args:
            url: what is asked for, for messages.
            attempt: one try.
            position: how many bytes are here; failures after progress are not counted.

        Raises:
            ECGError: a lasting refusal, or ATTEMPTS failures in a row without progress.
            Stopped: ``stop`` was set while waiting.
        """
        failures, before = 0, position()
        cause: Exception
        while True:
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in PASSING:
                    raise ECGError(_refused(url, error.code)) from None
                cause = error
            except (http.client.HTTPException, OSError) as error:
                # URLErrors, timeouts and resets are OSErrors.
                _raise_if_local(error, url)
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

    def read(self, url: str) -> bytes:
        """Return a listing."""

        def attempt() -> bytes:
            with open_url(url) as answer:
                data = answer.read(MAX_LISTING + 1)
                check_whole(answer)
                return data

        data = self.retrying(url, attempt)
        if len(data) > MAX_LISTING:
            raise ECGError(f"{url} is no listing: larger than {MAX_LISTING} bytes")
        return data

    def read_json(self, url: str) -> Any:
        """Return a listing that is JSON."""
        try:
            return json.loads(self.read(url))
        except (ValueError, RecursionError):
            raise ECGError(
                f"{url} is not the JSON of its home's interface; look up the address"
            ) from None


def open_url(url: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    """Ask for a URL once."""
    request = urllib.request.Request(
        url, headers={"User-Agent": "ecg-download/1", **(headers or {})}
    )
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def check_whole(answer: http.client.HTTPResponse) -> None:
    """Raise a ConnectionError if an answer ended early.

    To http.client that is no error where the size of a read was given.
    """
    if answer.length:
        raise ConnectionError(f"the connection broke off {answer.length} bytes before the end")


def _raise_if_local(error, url):
    """Raise an ECGError for an error of this machine, which no second attempt mends."""
    if error.__class__ is not urllib.error.URLError and isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ECGError(
                f"the disk is full while downloading {url}; make room, then give the same "
                "command again: it goes on where it stopped"
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
            "-N -c -np --user NAME --ask-password), and give the next step their folder"
        )
    return (
        f"{url} answers {status}: the set or this version of it is not there any more; look up "
        "its present address and give it with --url"
    )
