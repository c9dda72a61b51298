"""A headless Chromium for tests that look at pages: driven by its DevTools protocol over a pipe.

It is the program of the variable CHROMIUM, or one of the usual names on the path.
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-zygote",
    "--single-process",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
SECONDS = 60  # until an answer


def program() -> str | None:
    """The path of a Chromium, None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


needs_chromium = pytest.mark.skipif(
    not program(), reason="no Chromium: install one, or name its program by CHROMIUM"
)


class Tab:
    """One page in a headless Chromium; closes with its ``with``.

    Args:
        folder: for what the browser writes.
    """

    def __init__(self, folder: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()

        def as_3_and_4() -> None:
            # The numbers that the pipe must have in the browser; either may be the other's now.
            first, second = os.dup(commands), os.dup(answers)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._browser = subprocess.Popen(
            [str(program()), *FLAGS, f"--user-data-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=as_3_and_4,
        )
        os.close(commands)
        os.close(answers)
        self._numbers, self._rest, self._session = itertools.count(1), b"", ""

    def __enter__(self) -> "Tab":
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self._ask("Page.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._browser.kill()
        self._browser.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, path: Path, width: int, media: str = "screen") -> None:
        """Open a file in a window of so many pixels, or as on paper (media "print")."""
        self._ask("Emulation.setEmulatedMedia", media=media)
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._ask("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def evaluate(self, script: str) -> object:
        """The value of a JavaScript expression."""
        result = self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"]
        return result.get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        data = self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self, path: Path) -> None:
        """Write the page as PDF, on A4."""
        data = self._ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"]
        path.write_bytes(base64.b64decode(data))

    def _ask(self, method: str, **parameters: object) -> dict:
        number = next(self._numbers)
        message: dict = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._answer()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _wait_for(self, event: str) -> None:
        while self._answer().get("method") != event:
            pass

    def _answer(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], SECONDS)
            assert ready, "Chromium does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)
