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
from typing import Any, TypedDict

import torch

from util.contract.encoder import Encoder
from util.errors import CheckpointError
from util.training import checkpoint

# What the self-supervised scripts leave in ./checkpoints, best first.
PUBLISHED_FILES: dict[str, tuple[str, ...]] = {
    "signal": ("DINO_signal_student.pth", "SIMCLR_signal.pth", "BYOL_signal.pth"),
    "spectrogram": ("DINO_spectrogram_student.pth",),
}


class EncoderFile(TypedDict):
    """The content of an encoder file.

    Attributes:
        state: tensors by name.
        leads: names of those that it was trained on, None if the file does not say.
    """

    state: dict[str, torch.Tensor]
    leads: list[str] | None


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
) -> None:
    """Write an encoder file.

    Args:
        encoder: whose weights are written, without the heads.
        path: the file.
        epoch: in which they were reached.
        config: of the training, resolved.
        leads: names of those that it was trained on.
    """
    state = without_heads(encoder, encoder.state_dict())
    checkpoint.save(checkpoint.content(state, config, epoch, leads=list(leads)), path)


def read_encoder(path: str | os.PathLike) -> EncoderFile:
    """Read the tensors of an encoder, and the names of its leads.

    Args:
        path: encoder.pth, a pre-training checkpoint (of which the ``teacher.`` part is read,
            JEPA's, or the ``encoder.`` part), a fine-tuned checkpoint, or a bare state dict.

    Raises:
        CheckpointError: it is unreadable or holds no tensors.
    """
    content = checkpoint.load(path, "encoder file")
    state = content["model"] if isinstance(content.get("model"), dict) else content
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for prefix in ("teacher.", "encoder.", "classifier."):
        part = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        state = part or state
    if not state:
        raise CheckpointError(f"{path} holds no tensors")
    leads = content.get("leads")
    return {"state": state, "leads": leads if isinstance(leads, list) else None}


def load_encoder(model: Encoder, path: str | os.PathLike) -> str:
    """Load pre-trained weights into ``model``: everything but the heads must be there and fit.

    Returns:
        a sentence: how many tensors matched, and which start from random weights.

    Raises:
        CheckpointError: something does not fit; the model stays as it is.
    """
    file = read_encoder(path)
    given = without_heads(model, model.adapt_leads(file["state"], file["leads"]))
    here = model.state_dict()
    wanted = set(without_heads(model, here))
    matched = sorted(wanted & set(given))
    problems = [
        f"{name} is {tuple(given[name].shape)} in the file but {tuple(here[name].shape)} here"
        for name in matched
        if here[name].shape != given[name].shape
    ]
    problems += [f"{name} is missing in the file" for name in sorted(wanted - set(given))]
    problems += [f"{name} of the file has no place here" for name in sorted(set(given) - wanted)]
    if not matched or problems:
        listed = "; ".join(problems[:4]) + (" ..." if len(problems) > 4 else "")
        raise CheckpointError(
            f"{path} does not fit the model: {len(matched)} of {len(wanted)} encoder tensors "
            f"match; {listed}. Check model_name, model.* and dataset.lead against the "
            "pre-training run's config.yaml"
        )
    model.load_state_dict({**here, **given})
    return (
        f"loaded {len(matched)} of {len(wanted)} encoder tensors from {path}; the head starts anew"
    )


# ============ into any model ============
def check_pretrained(path: str | os.PathLike) -> None:
    """Raise an error early if a path holds no readable encoder.

    Raises:
        CheckpointError: it does not.
    """
    files = [Path(path)]
    if files[0].is_dir():
        files = _present(path, *PUBLISHED_FILES)
    if not files:
        wanted = ", ".join(name for names in PUBLISHED_FILES.values() for name in names)
        raise CheckpointError(
            f"the folder {path} holds none of {wanted}; name a file, or pre-train first with "
            "experiments/DINO_signal.py and its like"
        )
    for file in files:
        read_encoder(file)


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
    check_pretrained(path)
    branches, is_folder = model.branches, Path(path).is_dir()
    if not branches:
        if is_folder:
            return _first_fit({"encoder": model}, _present(path, *PUBLISHED_FILES))
        return load_encoder(model, path)
    if not is_folder:
        return _first_fit({"fusion": model, **branches}, [path])
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
            others = [name for name in models if name not in (role, "fusion")]
            if role == "fusion" or not others:
                return f"{role}: {line}"
            return f"{role}: {line}; {', '.join(others)} branch, gate and heads start anew"
    raise CheckpointError("\n  ".join(["no weights were transferred:", *reasons]))
