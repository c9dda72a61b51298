"""Files that are whole or not there, and folders that one process has to itself."""

import errno
import fcntl
import math
import subprocess
import sys

import pandas as pd
import pytest

from util.errors import ECGError
from util.files import (
    FolderLock,
    file_errors,
    safe_cell,
    write_frame,
    write_json,
    write_table,
    write_text,
)

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


def test_on_a_file_system_without_locks_nobody_waits(tmp_path, monkeypatch):
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


# ============ writing ============
class Unwritable:
    """A cell that fails while it is written."""

    def __str__(self):
        raise ValueError("no text")


def failing_rows():
    yield {"a": 1}
    raise ValueError("no second row")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "half \udcff"),
        lambda path: write_json(path, [1, math.nan]),
        lambda path: write_frame(path, pd.DataFrame({"a": [1, Unwritable()]})),
        lambda path: write_table(path, ("a",), failing_rows()),
    ],
    ids=["text", "json", "frame", "table"],
)
def test_what_cannot_be_written_whole_leaves_the_file_as_it_was(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ValueError):
        write(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_what_is_written(tmp_path):
    write_text(tmp_path / "a.txt", "é\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n".encode()
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'
    table = pd.DataFrame({"a": [1.23456]}, index=["x"])
    write_frame(tmp_path / "new" / "a.csv", table, float_format="%.2f")
    assert (tmp_path / "new" / "a.csv").read_bytes() == b"a\n1.23\n"
    write_frame(tmp_path / "new" / "a.csv", table, index=True)
    assert (tmp_path / "new" / "a.csv").read_bytes() == b",a\nx,1.23456\n"
    write_table(tmp_path / "b.csv", ("b", "a"), [{"a": 1, "b": "=1"}])
    assert (tmp_path / "b.csv").read_bytes() == b"b,a\n'=1,1\n"


def test_what_the_file_system_refuses_is_one_sentence(tmp_path):
    with pytest.raises(ECGError, match="Is a directory"), file_errors():
        write_text(tmp_path, "")


@pytest.mark.parametrize(
    "text, cell",
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'=1"),
        ("a=b", "a=b"),
        ("-1", "-1"),
        ("-1.5e-3", "-1.5e-3"),
        ("a\r\nb", "a  b"),
        ("x\udcff", "x\\udcff"),
        ("", ""),
        (" =1", "'=1"),
        (-1, -1),
        ("V3", "V3"),
        ("-1+cmd", "'-1+cmd"),
    ],
)
def test_safe_cells(text, cell):
    assert safe_cell(text) == cell
