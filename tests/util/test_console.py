"""What a run says: once, at once, and kept in its folder."""

import time

import pytest

from util import console
from util.console import begin_job, keep_in, note, progress_bar, quietly, said
from util.errors import ECGError


@pytest.fixture(autouse=True)
def job():
    """A job that has said nothing, and leaves nothing behind for the next test."""
    begin_job()
    yield
    begin_job()


def kept(folder):
    return (folder / console.FILE).read_text(encoding="utf-8").splitlines()


def test_a_sentence_is_said_at_once_and_kept_when_there_is_a_folder(tmp_path, capsys):
    note("before")
    assert capsys.readouterr().out == "before\n" and said() == ["before"]
    keep_in(tmp_path)
    assert kept(tmp_path) == ["before"] and capsys.readouterr().out == ""
    note("afterwards: 3 µV")
    assert kept(tmp_path) == ["before", "afterwards: 3 µV"]
    assert capsys.readouterr().out == "afterwards: 3 µV\n"


def test_a_resumed_run_adds_to_what_was_said(tmp_path):
    for number in range(2):
        begin_job()
        note(f"start {number}")
        keep_in(tmp_path)
        note(f"end {number}")
    assert kept(tmp_path) == ["start 0", "end 0", "start 1", "end 1"]


def test_what_a_job_says_before_its_folds_is_in_each_of_them(tmp_path):
    note("the store")
    for fold in "01":
        (tmp_path / fold).mkdir()
        keep_in(tmp_path / fold)
        note(f"fold {fold}")
    assert kept(tmp_path / "0") == ["the store", "fold 0"]
    assert kept(tmp_path / "1") == ["the store", "fold 1"]


def test_another_job_begins_with_nothing_and_writes_into_no_earlier_folder(tmp_path):
    note("first job")
    keep_in(tmp_path)
    begin_job()
    note("second job")
    assert kept(tmp_path) == ["first job"] and said() == ["second job"]


def test_nothing_is_said_or_kept_quietly_not_even_after_an_error(tmp_path, capsys):
    keep_in(tmp_path)
    with quietly():
        note("a look ahead")
        with quietly():
            note("within another")
        note("and on")
    with pytest.raises(KeyError), quietly():
        raise KeyError
    note("aloud")
    assert capsys.readouterr().out == "aloud\n" and kept(tmp_path) == ["aloud"]


def test_process_0_alone_speaks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    note("unheard")
    keep_in(tmp_path)
    note("unheard")
    assert capsys.readouterr().out == "" and said() == [] and not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    keep_in(tmp_path)
    note("heard")
    assert capsys.readouterr().out == "heard\n" and kept(tmp_path) == ["heard"]


def test_a_file_that_cannot_be_written_is_an_error_with_advice(tmp_path):
    note("before")
    with pytest.raises(ECGError, match="cannot write .*console.txt: .*choose another --output_dir"):
        keep_in(tmp_path / "nowhere")


def test_a_bar_in_a_log_file_is_written_seldom_and_by_process_0_alone(monkeypatch, capsys):
    for _ in progress_bar(range(1000), desc="counting", unit="step"):
        time.sleep(0.0002)
    written = capsys.readouterr().err
    assert "1000/1000" in written and written.count("counting") <= 3
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert list(progress_bar(range(3))) == [0, 1, 2] and not capsys.readouterr().err
