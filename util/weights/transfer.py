"""Pre-trained weights, out of a method and into any model, from a file or a published folder.

``encoder.pth`` holds {"model": state dict of the encoder without its heads, ...} under the
published names.

A fusion is a model with ``branches``, encoders by name.  They are filled one by one under their
own key names: in the whole fusion DINO's keys match none, which the published scripts did not
notice.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from util.contract.encoder import Encoder
from util.errors import CheckpointError
from util.weights import checkpoint
from util.weights.encoder_file import EncoderFile, check_numbers, read_encoder
from util.weights.names import quote_names

# What the self-supervised scripts leave in ./checkpoints, best first.
PUBLISHED_FILES: dict[str, tuple[str, ...]] = {
    "signal": ("DINO_signal_student.pth", "SIMCLR_signal.pth", "BYOL_signal.pth"),
    "spectrogram": ("DINO_spectrogram_student.pth",),
}


# ============ one encoder ============
def without_heads(encoder: Encoder, state: dict[str, Any]) -> dict[str, Any]:
    """Return the pre-trained part of a state dict: all but the encoder's heads."""
    prefixes = tuple(f"{name}." for name in encoder.fresh_parts)
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def save_encoder(
    encoder: Encoder,
    path: str | os.PathLike,
    *,
    epoch: int,
    config: dict,
    leads: Iterable[str],
    **about: Any,
) -> None:
    """Write an encoder file.

    Args:
        encoder: whose weights are written, without the heads.
        path: the file.
        epoch: in which they were reached.
        config: of the training, resolved.
        leads: names of those that it was trained on.
        about: more that the file says of its training.
    """
    state = without_heads(encoder, encoder.state_dict())
    if encoder.facts:
        about["fs"] = encoder.facts.fs
    checkpoint.save(checkpoint.content(state, config, epoch, leads=list(leads), **about), path)


def load_encoder(model: Encoder, path: str | os.PathLike) -> str:
    """Load pre-trained weights into ``model``: everything but the heads must be there and fit.

    Returns:
        a sentence: how many tensors matched, and which start from random weights.

    Raises:
        CheckpointError: something does not fit; the model stays as it is.
    """
    return _load_file(model, read_encoder(path))


def _load_file(model: Encoder, file: EncoderFile) -> str:
    path, here = file.path, model.state_dict()
    wanted = without_heads(model, here)
    part = file.part(wanted)
    if not wanted.keys() & part.state.keys():
        raise CheckpointError(
            f"{path} does not fit the model: 0 of {len(wanted)} encoder tensors match; "
            f"{quote_names(part.state, [*wanted])}. Take weights of this model, or rename them"
        )
    given = without_heads(model, file.fit_to(model, part.state))
    matched = sorted(wanted.keys() & given.keys())
    problems = [
        f"{name} is {tuple(given[name].shape)} in the file but {tuple(here[name].shape)} here"
        for name in matched
        if here[name].shape != given[name].shape
    ]
    problems += [f"{name} is missing in the file" for name in sorted(wanted.keys() - given.keys())]
    problems += [
        f"{name} of the file has no place here" for name in sorted(given.keys() - wanted.keys())
    ]
    if problems:
        listed = "; ".join(problems[:4]) + (" ..." if len(problems) > 4 else "")
        raise CheckpointError(
            f"{path} does not fit the model: {len(matched)} of {len(wanted)} encoder tensors "
            f"match; {listed}. Check model_name, model.* and dataset.lead against the "
            "pre-training run's config.yaml"
        )
    check_numbers(path, given, wanted)
    model.load_state_dict({**here, **given})
    return (
        f"loaded {len(matched)} of {len(wanted)} encoder tensors from {path}{part.said}; the head "
        f"starts anew{file.said_of_leads(model)}"
    )


# ============ into any model ============
def pretrained_files(path: str | os.PathLike) -> list[Path]:
    """Return the files that pre-trained weights are taken from: ``path`` itself, or of a folder
    those of ``PUBLISHED_FILES``.

    Raises:
        CheckpointError: the folder holds none.
    """
    files = _present(path, *PUBLISHED_FILES) if Path(path).is_dir() else [Path(path)]
    if not files:
        wanted = ", ".join(name for names in PUBLISHED_FILES.values() for name in names)
        raise CheckpointError(
            f"the folder {path} holds none of {wanted}; name a file, or pre-train first with "
            "experiments/DINO_signal.py and its like"
        )
    return files


def check_pretrained(path: str | os.PathLike) -> None:
    """Raise an error early if a path holds no readable encoder.

    Raises:
        CheckpointError: it does not.
    """
    for file in pretrained_files(path):
        read_encoder(file).part(())


def load_pretrained(model: Encoder, path: str | os.PathLike) -> str:
    """Load pre-trained weights into ``model``, every tensor of an encoder or none.

    Args:
        model: an encoder with a head, or a fusion.
        path: a file (encoder.pth, DINO_signal_student.pth, ...) or a folder with
            ``PUBLISHED_FILES``, of which an encoder takes the first that fits and a fusion the
            first of each branch.  A single file goes to the branch that it fits, or to the whole
            fusion if it is the encoder.pth of a fusion.

    Returns:
        sentences: how many tensors matched, and what starts from random weights.

    Raises:
        CheckpointError: nothing fits.
    """
    files, branches, is_folder = pretrained_files(path), model.branches, Path(path).is_dir()
    if not branches:
        return _first_fit({"encoder": model}, files) if is_folder else load_encoder(model, path)
    if not is_folder:
        file = read_encoder(path)
        whole = without_heads(model, model.state_dict())
        if whole.keys() & file.part(whole).state.keys():
            return f"fusion: {_load_file(model, file)}"
        return _first_fit(branches, files)
    lines = []
    for role, branch in branches.items():
        files = _present(path, role)
        if files:
            lines.append(_first_fit({role: branch}, files[:1]))
        else:
            wanted = " or ".join(PUBLISHED_FILES.get(role, ["file"]))
            lines.append(f"{role} branch: no {wanted} in {path}, it starts anew")
    return "\n".join(lines)


def _present(folder: str | os.PathLike, *roles: str) -> list[Path]:
    """The published files of these branches that are in ``folder``, best first."""
    files = [Path(folder) / name for role in roles for name in PUBLISHED_FILES.get(role, ())]
    return [file for file in files if file.is_file()]


def _first_fit(models: Mapping[str, Encoder], files: Sequence[str | os.PathLike]) -> str:
    """Load the first file into the first model that it fits; a line that says so."""
    reasons = []
    for file in files:
        for role, model in models.items():
            try:
                line = load_encoder(model, file)
            except CheckpointError as error:
                reasons.append(f"as {role}: {error}")
                continue
            others = [name for name in models if name != role]
            if not others:
                return f"{role}: {line}"
            return f"{role}: {line}; {', '.join(others)} branch, gate and heads start anew"
    raise CheckpointError("\n  ".join(["no weights were transferred:", *reasons]))
