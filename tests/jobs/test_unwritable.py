"""Whatever the system refuses ends a run at once, with status 2, a sentence and no half file."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from main_finetune import finetune
from main_pretrain import pretrain
from tests.support.configs import changed
from tests.support.tiny_jobs import CNN, ST_MEM, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check, save_config
from util.processes import program

ROOT = Path(__file__).resolve().parents[2]
PRETRAINING = (
    *("config.yaml", "console.txt", "log.txt", "log_steps.txt"),
    *("checkpoint-last.pth", "checkpoint-0.pth", "encoder.pth", "figures/reconstruction-0001.png"),
)
FINETUNING = (
    *("config.yaml", "best-loss.pth", "best-AUROC.pth", "checkpoint-last.pth"),
    *("test_metrics.csv", "test_predictions.csv", "test_predictions.npz", "encoder.pth"),
)


def job(kind, folder, **train):
    """(main function, config) of a job of one epoch."""
    base, config, main = (
        (ST_MEM, PretrainConfig, pretrain)
        if kind == "pretrain"
        else (CNN, FinetuneConfig, finetune)
    )
    short = {"epochs": 1, "steps_per_epoch": 2, "warmup_epochs": 0, **train}
    mapping = {**with_store(base, **short), "output_dir": str(folder), "exp_name": "run"}
    return main, check(mapping, config)


def ends_with_a_sentence(main, config, capsys, *words):
    """The job ends with status 2 and one sentence with these words, without leaving half files."""
    assert program.run_main(lambda argv: main(config) and None) == 2
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if "error: " in line]
    assert len(errors) == 1 and "Traceback" not in said, said
    assert all(word in errors[0] for word in words), errors
    assert not [*Path(config.output_dir).rglob(".*.tmp")]


@pytest.mark.parametrize(
    "kind, name",
    [("pretrain", name) for name in PRETRAINING] + [("finetune", name) for name in FINETUNING],
)
def test_a_folder_in_the_place_of_a_file(tmp_path, capsys, kind, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    # config.yaml is read, too, where results lie beside it
    ends_with_a_sentence(*job(kind, tmp_path), capsys, Path(name).name.split("-0")[0])


@pytest.mark.parametrize("name", ["tensorboard", "figures", ""])
def test_a_file_in_the_place_of_a_folder(tmp_path, capsys, name):
    place = tmp_path / "run" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    ends_with_a_sentence(*job("pretrain", tmp_path), capsys, str(tmp_path))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_a_test_leaves_cannot_be_written(tmp_path, capsys, monkeypatch, code):
    """The defect: a traceback, after which the process never ended."""

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("pandas.DataFrame.to_csv", refuse)
    words = ("test_metrics.csv", os.strerror(code))
    ends_with_a_sentence(*job("finetune", tmp_path), capsys, *words)


def test_tensorboard_on_a_full_disk_prints_no_traceback_of_its_thread(
    tmp_path, capsys, monkeypatch
):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", refuse)
    words = ("cannot write to the run's folder", "No space left on device")
    ends_with_a_sentence(*job("pretrain", tmp_path), capsys, *words)


JOB = """
import resource, sys
from main_finetune import finetune
from util.config.keys import FinetuneConfig
from util.config.load import load_config
from util.processes.program import run_main
from util.weights import checkpoint

held, save = [], checkpoint.save

def hold(content, path):
    try:
        save(content, path)
    except Exception as error:
        held.append(error)  # and so all frames below, with their loaders, to the very end
        raise

checkpoint.save = hold
kind, limit = sys.argv[1:]
resource.setrlimit(getattr(resource, kind), (int(limit),) * 2)
sys.exit(run_main(lambda argv: finetune(load_config(["job.yaml"], program=FinetuneConfig)) and 0))
"""


@pytest.mark.parametrize(
    "kind, limit, words",
    [
        ("RLIMIT_FSIZE", 60_000, "File too large"),
        ("RLIMIT_NOFILE", 40, "raise the limit (ulimit -n)"),
    ],
)
def test_a_process_with_workers_ends(tmp_path, kind, limit, words):
    """The defect: workers ignored SIGTERM, by which Python ends its children, for ever."""
    _, config = job("finetune", tmp_path)
    save_config(changed(config, dataloader={"num_workers": 4}), tmp_path / "job.yaml")
    ended = subprocess.run(
        [sys.executable, "-c", JOB, kind, str(limit)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert words in ended.stderr.splitlines()[-1], ended.stderr


PRINT = """
import sys
from util.processes.program import run_main
sys.exit(run_main(lambda argv: print("a line")))
"""


def test_standard_output_on_a_full_disk():
    """The defect: status 120 with 'Exception ignored in' at Python's end."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PRINT],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and "No space left on device" in line
