"""Files that are whole or not there, and folders that one process has to itself."""

import errno
import fcntl
import subprocess
import sys

import pytest

from util.errors import ECGError
from util.files import FolderLock

HOLD = (
    "import sys, time; from util.files import FolderLock; lock = FolderLock(sys.argv[1], 0); "
    "print(1, flush=True); time.sleep(float(sys.argv[2]))"
)


def holder(folder, seconds):
    """Another process that has the folder, for so long."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, str(seconds)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def test_one_process_at_a_time_has_a_folder(tmp_path):
    process = holder(tmp_path / "run", 60)
    try:
        with pytest.raises(
            ECGError, match="another process is writing to .*run; .* choose another --exp_name"
        ):
            FolderLock(tmp_path / "run", 0.3, "--exp_name")
    finally:
        process.kill()  # the lock dies with its holder
        process.wait()
    FolderLock(tmp_path / "run", 0)


def test_the_next_one_waits_for_the_first_to_end(tmp_path):
    process = holder(tmp_path, 0.5)
    FolderLock(tmp_path, 120).release()
    process.wait()


def test_released_is_free(tmp_path):
    FolderLock(tmp_path, 0).release()
    process = holder(tmp_path, 0)
    assert process.wait() == 0


def test_a_file_system_without_locks_lets_everybody_pass(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    FolderLock(tmp_path, 0).release()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ECGError, match="cannot write to .*file/run: Not a directory; choose another --output_dir"
    ):
        FolderLock(tmp_path / "file" / "run", 0)
