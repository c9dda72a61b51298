"""Checkpoints: plain tensors and numbers, written whole or not at all, never unpickled.

A checkpoint is a dict {"model", "optimizer", "scheduler", "scaler", "epoch", "step", "rng",
"config", "metrics", "version"}; ``epoch`` and ``step`` say where to resume.
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch

from util.errors import CheckpointError, ConfigError
from util.files import replacing

VERSION = 1
LAST = "checkpoint-last.pth"


def content(model: dict, config: dict, epoch: int, **more) -> dict:
    """A checkpoint of a model's state dict; of weights alone unless ``more`` brings what training
    needs. ``epoch`` is that in which these weights were reached, or with which to resume.
    """
    return {
        "model": model,
        "optimizer": None,
        "scaler": None,
        "epoch": epoch,
        "config": config,
        **more,
    }


def parse_checkpoint_every(value) -> tuple[int | None, int | None]:
    """``train.checkpoint_every`` as (epochs, steps) between checkpoints, one of them None."""
    found = re.fullmatch(r"0*([1-9][0-9]*)(?: +(epochs?|steps?))?", str(value).strip())
    if not found:
        raise ConfigError(
            "train.checkpoint_every must be a number of epochs (1 or more), or a text like '500 "
            f"steps', not {value!r}"
        )
    count = int(found[1])
    return (None, count) if "step" in (found[2] or "") else (count, None)


def save(content: dict, path) -> None:
    """Write to a temporary file, sync, rename: ``path`` is at any instant the old file or the
    whole new one.
    """
    path = Path(path)
    try:
        with replacing(path) as file:
            torch.save({**content, "version": VERSION}, file)
    except (OSError, RuntimeError) as error:
        # Where a write fails, PyTorch's own complaint hides the reason.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        older = [name for name in (path.name, LAST) if path.with_name(name).exists()]
        kept = f"; the older {older[0]} is intact" if older else ""
        raise CheckpointError(
            f"cannot write {path}: {reason}{kept}. Free some space or choose another "
            "--output_dir and resume with --resume auto"
        ) from error


def load(path, what="checkpoint") -> dict:
    """A dict of tensors and plain values from ``path``, on the CPU, by PyTorch's restricted
    reader: a file that would run code is refused, and so is one whose bytes have changed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no {what} at {path}; check the path")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: they are read or refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Unsupported" not in text and "global" not in text.lower():
            raise _damaged(path, what, error) from None
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, so it was not opened: loading it "
            "could run code. If you trust its author, save its state dict anew"
        ) from None
    except Exception as error:  # untrusted bytes make the reader stumble in any way
        raise _damaged(path, what, error) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        kind = type(content).__name__
        raise CheckpointError(f"{path} is no {what}: it holds a {kind}, not a dict by names")
    return content


def _check_archive(path):
    """Verify the checksums that torch.save wrote and torch.load ignores; nothing may swell on
    reading.
    """
    if not zipfile.is_zipfile(path):
        return  # the format of PyTorch before 1.6, which has no checksums
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if (
            any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            or sum(entry.file_size for entry in entries) > path.stat().st_size
        ):
            raise ValueError("its parts claim to be larger than the file")
        bad = archive.testzip()
    if bad:
        raise ValueError(f"the checksum of {bad} is wrong")


def _damaged(path, what, error):
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    older = [p for p in _numbered(path.parent) if p != path]
    advice = (
        f"Go on from an older one: --resume {older[-1]}"
        if older and what == "checkpoint"
        else "Copy it again, or make it again"
    )
    return CheckpointError(f"{path} is damaged or no {what}: {reason}. {advice}")


def load_training(path) -> dict:
    """A training checkpoint, checked for its parts and version."""
    content = load(path)
    needed = ("model", "optimizer", "epoch", "step", "rng", "metrics", "config")
    missing = [key for key in needed if key not in content]
    if missing or content["optimizer"] is None:
        raise CheckpointError(
            f"{path} cannot be resumed from: it lacks {', '.join(missing) or 'the optimizer'}. "
            "Give a checkpoint-*.pth of this project; encoder.pth goes to --encoder_path"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {content.get('version')}; this code reads {VERSION}"
        )
    return content


def find_resume(resume: str, folder) -> Path | None:
    """The checkpoint to resume from: None for '', and for 'auto' where the run has none yet."""
    path = Path(folder) / LAST if resume == "auto" else Path(resume)
    return path if resume and (resume != "auto" or path.exists()) else None


def _numbered(folder) -> list[Path]:
    """checkpoint-<epoch>.pth of a folder, oldest first."""
    return sorted(
        (p for p in Path(folder).glob("checkpoint-*.pth") if p.stem[11:].isdigit()),
        key=lambda p: int(p.stem[11:]),
    )


def prune(folder, keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` of checkpoint-<epoch>.pth (0: keep all)."""
    for path in _numbered(folder)[:-keep_last] if keep_last else []:
        path.unlink()
