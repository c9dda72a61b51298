"""Sentences for errors that a person can act on, whoever raised them."""

import errno
import os
import re

from util.errors import ECGError

MORE_FILES = "raise the limit (ulimit -n), or lower dataloader.num_workers"
MORE_MEMORY = (
    "lower dataloader.batch_size, and raise train.accum_iter to keep the effective batch, or lower "
    "dataloader.num_workers"
)
MORE_SHARED = "most often memory or /dev/shm is full: lower dataloader.num_workers"
RIGHTS = "allow it, or choose another folder"
IN_THE_WAY = "move away what is in its place, or choose another folder"
CURES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another folder",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: RIGHTS,
    errno.EISDIR: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EEXIST: IN_THE_WAY,
    errno.ENOTEMPTY: IN_THE_WAY,
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: MORE_FILES,
    errno.ENFILE: MORE_FILES,
    errno.ENOMEM: MORE_MEMORY,
    errno.EIO: "check the disk, or choose another folder",
    errno.ESTALE: "check the network drive, or choose another folder",
    errno.EPIPE: "what read the output has ended",
}


def explain(error: BaseException) -> str | None:
    """Return a sentence for an error that a person can act on, None for a bug of ours."""
    text = _own_words(error)
    if isinstance(error, ECGError):
        return text
    if isinstance(error, OSError):
        return _of_the_system(error, text)
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({text})' if text else ''}; {MORE_MEMORY}"
    if isinstance(error, UnicodeEncodeError) and "surrogates" in text:
        name = ascii(error.object[:200])
        return f"the name {name} is not UTF-8; rename the file or folder, or choose another name"
    if isinstance(error, ValueError) and "more than 1 value per channel" in text:
        return "a BatchNorm of the model sees one record a step; raise dataloader.batch_size"
    return _of_torch(error, text) if isinstance(error, RuntimeError) else None


def _own_words(error: BaseException) -> str:
    """An error's text.  One out of a loader's worker brings that worker's traceback with it; its
    last line is the error's own.
    """
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def _of_the_system(error: OSError, text: str) -> str:
    """What the system refuses, with the file and the cure."""
    number, reason = error.errno, error.strerror
    told = re.search(r"\[Errno (\d+)\]", text)
    if number is None and told:  # out of a worker
        number, reason = int(told[1]), text
    if number not in CURES or not reason:
        return text or type(error).__name__
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{place}{reason}; {CURES[number]}"


def _of_torch(error: RuntimeError, text: str) -> str | None:
    """What torch says of memory, files and its workers."""
    first = (text.splitlines() or [""])[0]
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the GPU is out of memory; lower dataloader.batch_size, and raise train.accum_iter "
            "to keep the effective batch"
        )
    if "Too many open files" in text or "ancdata" in text:
        return f"too many open files; {MORE_FILES}"
    if "can't allocate memory" in text:
        return f"out of memory ({first}); {MORE_MEMORY}"
    if "DataLoader worker" in text:
        status = re.search(r"exit code (\d+)", text)
        if status and int(status[1]) in CURES:
            number = int(status[1])
            return f"a loader process ended: {os.strerror(number)}; {CURES[number]}"
        return f"a loader process died ({first}); {MORE_SHARED} and resume with --resume auto"
    if "shared memory" in text:
        return f"a loader process cannot hand on its batch ({first}); {MORE_SHARED}"
    if isinstance(error.__context__, OSError):  # a write failed within torch.save
        return explain(error.__context__)
    return None
