"""Errors that a person can act on are sentences with the file and the cure; bugs stay tracebacks."""

import errno
import os

import pytest
import torch
from torch import nn

from util.data.dataset import make_loader
from util.errors import StoreError
from util.processes.explain import explain

WORKER = "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most ...\n{0}: {1}\n"


def of_system(code, place=None):
    return OSError(code, os.strerror(code), place)


@pytest.mark.parametrize(
    "error, words",
    [
        (of_system(errno.ENOSPC, "/x/y.csv"), ("/x/y.csv: No space left", "free some space")),
        (of_system(errno.EDQUOT), ("Disk quota exceeded; free some space",)),
        (of_system(errno.EFBIG, b"/x"), ("/x: File too large; ", "ulimit -f")),
        (of_system(errno.EISDIR, "/x"), ("/x: Is a directory; move away",)),
        (of_system(errno.ENOTDIR, "/x"), ("/x: Not a directory; move away",)),
        (of_system(errno.EROFS, "/x"), ("Read-only file system; allow it",)),
        (of_system(errno.EACCES, "/x"), ("Permission denied; allow it",)),
        (of_system(errno.EMFILE), ("Too many open files; raise the limit (ulimit -n)",)),
        (of_system(errno.ENAMETOOLONG, "/x"), ("choose a shorter name",)),
        (of_system(errno.EPIPE), ("Broken pipe; what read the output",)),
        (of_system(errno.ECONNRESET), ("Connection reset",)),
        (OSError("no HDF5"), ("no HDF5",)),
        (OSError(), ("OSError",)),
        (OSError(WORKER.format("OSError", "[Errno 24] Too many open files")), ("ulimit -n",)),
        (StoreError(WORKER.format("util.errors.StoreError", "it is torn")), ("it is torn",)),
        (MemoryError("Unable to allocate 9 GiB"), ("out of memory", "9 GiB", "batch_size")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), ("out of memory",)),
        (RuntimeError("Too many open files. Communication with"), ("ulimit -n",)),
        (RuntimeError("received 0 items of ancdata"), ("ulimit -n",)),
        (RuntimeError("unable to allocate shared memory(shm) for file"), ("/dev/shm",)),
        (torch.OutOfMemoryError("CUDA out of memory"), ("the GPU is out of memory",)),
        (
            RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 24."),
            ("a loader process ended: Too many open files", "ulimit -n"),
        ),
    ],
)
def test_sentences(error, words):
    text = explain(error)
    assert all(word in text for word in words) and "\n" not in text, text


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("mat1 and mat2"), KeyError(1)])
def test_bugs_stay_bugs(error):
    assert explain(error) is None


def test_names_that_are_not_utf8():
    with pytest.raises(UnicodeEncodeError) as caught:
        "caf\udce9".encode()
    assert "'caf\\udce9' is not UTF-8" in explain(caught.value)
    with pytest.raises(UnicodeEncodeError) as caught:
        "é".encode("ascii")
    assert explain(caught.value) is None


def test_a_failed_write_within_torch_is_told_by_its_cause():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise of_system(errno.ENOSPC, "/x")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  (as torch does)
    assert "No space left" in explain(caught.value)


def test_batch_norm_of_one_record():
    with pytest.raises(ValueError) as caught:
        nn.BatchNorm1d(3)(torch.zeros(1, 3))
    assert "raise dataloader.batch_size" in explain(caught.value)


class Unsendable:
    """What cannot be sent for want of file descriptors."""

    def __reduce__(self):
        raise of_system(errno.EMFILE)


class Records:
    def __getitem__(self, place):
        return Unsendable()


def test_a_batch_that_a_worker_cannot_send_is_not_waited_for():
    """The defect: it was lost, and the training process waited for ever."""
    with pytest.raises(RuntimeError) as caught:
        next(iter(make_loader(Records(), [[0], [1]], num_workers=1)))
    text = explain(caught.value)
    assert "a loader process" in text and "lower dataloader.num_workers" in text
