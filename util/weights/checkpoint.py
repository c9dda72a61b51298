"""Checkpoints: plain tensors and numbers, written whole or not at all, never unpickled.

A checkpoint is a dict {"model", "optimizer", "scheduler", "scaler", "epoch", "step", "rng",
"config", "metrics", "version"}; ``epoch`` and ``step`` say where to resume.
"""

import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from util.errors import CheckpointError, ConfigError
from util.files import replacing
from util.weights.other_files import kind_of_other_file
from util.weights.safetensors import SUFFIX, is_safetensors, read_safetensors

VERSION = 1
LAST = "checkpoint-last.pth"


def content(
    model: dict[str, torch.Tensor], config: dict, epoch: int, **more: Any
) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Args:
        model: a state dict.
        config: by which it was trained, resolved.
        epoch: in which these weights were reached, or with which to resume.
        more: what training needs besides; weights alone do without.
    """
    return {
        "model": model,
        "optimizer": None,
        "scaler": None,
        "epoch": epoch,
        "config": config,
        **more,
    }


def parse_checkpoint_every(value: int | str) -> tuple[int | None, int | None]:
    """Read ``train.checkpoint_every`` as (epochs, steps) between checkpoints, one of them None.

    Raises:
        ConfigError: it is neither a number of epochs nor a text such as "500 steps".
    """
    match = re.fullmatch(r"0*([1-9][0-9]*)(?: +(epochs?|steps?))?", str(value).strip())
    if not match:
        raise ConfigError(
            "train.checkpoint_every must be a number of epochs (1 or more), or a text like '500 "
            f"steps', not {value!r}"
        )
    count = int(match[1])
    return (None, count) if "step" in (match[2] or "") else (count, None)


def save(content: dict[str, Any], path: str | os.PathLike) -> None:
    """Write a checkpoint to a temporary file, sync, rename: ``path`` is at any instant the old
    file or the whole new one.

    Raises:
        CheckpointError: it cannot be written.
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


def load(path: str | os.PathLike, what: str = "checkpoint") -> dict[str, Any]:
    """Read a dict of tensors and plain values, on the CPU, by PyTorch's restricted reader.

    Args:
        path: the file, of PyTorch or in the safetensors format.
        what: it should be, for messages.

    Raises:
        CheckpointError: there is none, it is something else, its bytes have changed, or reading it
            could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no {what} at {path}; check the path")
    try:
        other = kind_of_other_file(path)
        if other:
            raise CheckpointError(f"{path} is no checkpoint: it is {other}")
        if path.suffix == SUFFIX or is_safetensors(path):
            return read_safetensors(path)
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: they are read or refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
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


def _check_archive(path: Path) -> None:
    """Verify the checksums that torch.save wrote and torch.load ignores; nothing may swell on
    reading.
    """
    if not zipfile.is_zipfile(path):
        return  # the format of PyTorch before 1.6, which has no checksums
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts claim to be larger than the file")
        bad = archive.testzip()
    if bad:
        raise ValueError(f"the checksum of {bad} is wrong")


def _damaged(path: Path, what: str, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    older = [p for p in _numbered(path.parent) if p != path]
    advice = "Copy it again, or make it again"
    if older and what == "checkpoint":
        advice = f"Go on from an older one: --resume {older[-1]}"
    return CheckpointError(f"{path} is damaged or no {what}: {reason}. {advice}")


def load_training(path: str | os.PathLike) -> dict[str, Any]:
    """Read a training checkpoint, checked for its parts and version.

    Raises:
        CheckpointError: it cannot be resumed from.
    """
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


def find_resume(resume: str, folder: str | os.PathLike) -> Path | None:
    """Return the checkpoint to resume from: None for '', and for 'auto' where the run has none."""
    if resume == "auto":
        last = Path(folder) / LAST
        return last if last.exists() else None
    return Path(resume) if resume else None


def _numbered(folder: str | os.PathLike) -> list[Path]:
    """checkpoint-<epoch>.pth of a folder, oldest first."""
    return sorted(
        (p for p in Path(folder).glob("checkpoint-*.pth") if p.stem[11:].isdigit()),
        key=lambda p: int(p.stem[11:]),
    )


def prune(folder: str | os.PathLike, keep_last: int, *, newest: int) -> None:
    """Delete all but the last ``keep_last`` of checkpoint-<epoch>.pth (0: keep all).

    Those of later epochs than ``newest``, the run's last one, are of another run and do not count.
    """
    numbered = [path for path in _numbered(folder) if int(path.stem[11:]) <= newest]
    for path in numbered[:-keep_last] if keep_last else []:
        path.unlink()
