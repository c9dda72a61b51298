"""Eighty small recordings, the store made of them, and weights of a tiny signal branch,
made once for all tests.
"""

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from data_preparation import add_labels
from data_preparation.building.reformat import reformat
from data_preparation.importing.wfdb_source import extract
from tests.support.wfdb_files import ecg_counts, write_record
from util.data.store import RecordStore, write_store

DX = (
    "426783006",
    "164889003",
    "426783006,39732003",
    "713427006",
    "164889003,164934002",
    "59118001,270492004",
)
TINY = (
    "--set",
    "model.channels=4",
    "--set",
    "dataloader.num_workers=0",
    "--set",
    "test.report=false",
    "--batch_size",
    "8",
    "--gpu",
    "cpu",
)
TINY_FUSION = (
    "--set",
    "model.signal.channels=4",
    "--set",
    "model.spectrogram.channels=2",
    *TINY[2:],
)


@contextlib.contextmanager
def same_environment():
    """What a script does to the environment and to torch's threads is undone."""
    before, threads = dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(before)


def run(main, *argv):
    """``main(argv)`` of a script in this process."""
    with same_environment():
        main([str(word) for word in argv])


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ecg-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def recordings() -> Path:
    """A folder of 80 recordings of 5 s at 500 Hz; the last is shorter than a crop of 2.5 s."""
    folder = _folder() / "recordings"
    for i in range(80):
        counts = ecg_counts(1100 if i == 79 else 2500, seed=i) * np.int16(1 + i % len(DX))
        comments = ("#Age: 50", "#Sex: Female", f"#Dx: {DX[i % len(DX)]}")
        write_record(folder / "g1", f"E{i:03d}", counts, comments=comments)
    return folder


@functools.cache
def store() -> Path:
    """dataset.store of those recordings at 100 and 250 Hz."""
    extract(recordings(), _folder() / "extracted", [100, 250], workers=1)
    reformat(_folder() / "extracted", _folder() / "store")
    return _folder() / "store"


@functools.cache
def trained_signal() -> Path:
    """The --save_folder of run_signal.py on folds 3 and 9, two epochs."""
    from experiments import run_signal

    run(
        run_signal.main,
        "--fold",
        3,
        9,
        "--num_epoches",
        2,
        "--save_folder",
        _folder() / "base_signal",
        *TINY,
        "--set",
        f"dataset.store={store()}",
        "--set",
        "train.matmul_precision=highest",
    )  # as they are used
    return _folder() / "base_signal"


def add_table(folder, name, rows, *flags) -> str:
    """Add labels, CSV rows with a header, to the store as the table ``name`` by
    data_preparation/add_labels.py.
    """
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    run(add_labels.main, store(), folder / f"{name}.csv", *flags)
    return name


def blank_store(folder, records) -> RecordStore:
    """A store at 250 Hz of (database, patient, dx, fold) a record."""
    write_store(
        folder / "fs250",
        250,
        [
            (
                {
                    "record": f"R{i}",
                    "database": database,
                    "fs_original": 250.0,
                    "scale_uv": 1,
                    "age": None,
                    "sex": "Unknown",
                    "patient": patient,
                    "dx": dx,
                    "fold": fold,
                },
                np.zeros((5, 12), np.int16),
            )
            for i, (database, patient, dx, fold) in enumerate(records)
        ],
        [],
    )
    return RecordStore(folder / "fs250")
