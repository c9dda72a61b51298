"""A watched folder: what is there and what arrives is predicted, and a signal ends it cleanly."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.small_store import recordings, trained_signal
from tests.support.wfdb_files import ecg_counts, write_record
from util.formats.any_file import Place
from util.predicting import watching

ROOT = Path(__file__).resolve().parents[3]


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.1)


def text_of(path):
    """The summary follows the files of its recordings: it may not be there yet."""
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_new_files_are_predicted_until_a_signal(tmp_path, number):
    inbox, out = tmp_path / "in", tmp_path / "out"
    write_record(inbox, "first", ecg_counts(2500))
    command = [sys.executable, "experiments/predict.py", "--gpu", "cpu", "--json"]
    command += ["--weights", trained_signal() / "fold3_bestROC.pth"]
    command += ["--watch", inbox, "--output", out]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for((out / "first.csv").exists)
        (inbox / "late.hea").write_bytes((recordings() / "g1" / "E001.hea").read_bytes())
        wait_for(lambda: "late" in text_of(out / "summary.csv"))  # its signal is not there
        source = recordings() / "g1"
        for path in source.glob("E002.*"):
            (inbox / path.name).write_bytes(path.read_bytes())
        wait_for((out / "E002.json").exists)
    finally:
        process.send_signal(number)
        said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "stopped watching" in said and "2 recordings predicted, 1 not read" in said
    table = pd.read_csv(out / "summary.csv").set_index("record")
    assert set(table.index) == {"first", "E002", "late"}
    assert table.loc["late", "remark"].startswith("not read")


class Job:
    """Stands in for a PredictionJob: counts what it is given."""

    def __init__(self, folder, looks):
        self.folder, self.said, self.given, self.stop = folder, None, [], self
        self.looks = looks

    def run(self, places):
        self.given.append([place.name for place in places])

    def is_set(self):
        return not self.looks

    def wait(self, seconds):
        self.looks.pop(0)()


def test_a_file_is_taken_once_it_rests_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"

    def write(length):
        np.save(path, np.zeros(length))

    write(1)
    monkeypatch.setattr(
        watching, "find_places", lambda folder, said: [Place(path, "npy", "a")] * path.exists()
    )
    nothing = lambda: None  # noqa: E731
    steps = [lambda: write(5), nothing, nothing, lambda: write(9), nothing, nothing, path.unlink]
    job = Job(tmp_path / "out", steps)
    watching.watch(job, tmp_path)
    assert job.given == [["a"], ["a"]]
