"""Pre-trained weights, out of a method and into any model, from a file or a published folder.

``encoder.pth`` holds {"model": state dict of the encoder without its heads, ...} under the
published names.

A fusion is a model with ``branches``, encoders by name.  They are filled one by one under their
own key names: in the whole fusion DINO's keys match none, which the published scripts did not
notice.
"""

from pathlib import Path

import torch

from util.errors import CheckpointError
from util.training import checkpoint

# What the self-supervised scripts leave in ./checkpoints, best first.
PUBLISHED_FILES = {
    "signal": ("DINO_signal_student.pth", "SIMCLR_signal.pth", "BYOL_signal.pth"),
    "spectrogram": ("DINO_spectrogram_student.pth",),
}


# ============ one encoder ============
def without_heads(encoder, state: dict) -> dict:
    """What of a state dict pre-training knows: all but the encoder's heads."""
    prefixes = tuple(f"{name}." for name in encoder.fresh_parts)
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def save_encoder(encoder, path, *, epoch: int, config: dict, leads) -> None:
    """Write an encoder file; ``leads`` are the names of those that it was trained on."""
    state = without_heads(encoder, encoder.state_dict())
    checkpoint.save(checkpoint.content(state, config, epoch, leads=list(leads)), path)


def read_encoder(path) -> dict:
    """{"state": tensors by name, "leads": names, or None if the file does not say} of
    encoder.pth, a pre-training checkpoint (its ``encoder.`` part), a fine-tuned checkpoint, or a
    bare state dict.
    """
    content = checkpoint.load(path, "encoder file")
    state = content["model"] if isinstance(content.get("model"), dict) else content
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for prefix in ("encoder.", "classifier."):
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


def load_encoder(model, path) -> str:
    """Load pre-trained weights into ``model``: everything but the heads must be there and fit.
    Returns a line for people: how many tensors matched, and which were left to train anew.
    """
    found = read_encoder(path)
    given = without_heads(model, model.adapt_leads(found["state"], found["leads"]))
    own = model.state_dict()
    wanted = set(without_heads(model, own))
    matched = sorted(wanted & set(given))
    problems = [
        f"{name} is {tuple(given[name].shape)} in the file but {tuple(own[name].shape)} here"
        for name in matched
        if own[name].shape != given[name].shape
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
    model.load_state_dict({**own, **given})
    return (
        f"loaded {len(matched)} of {len(wanted)} encoder tensors from {path}; the head starts anew"
    )


# ============ into any model ============
def check_pretrained(path) -> None:
    """Fail early for a path that holds no readable encoder at all."""
    files = _present(path, *PUBLISHED_FILES) if Path(path).is_dir() else [path]
    if not files:
        wanted = ", ".join(name for names in PUBLISHED_FILES.values() for name in names)
        raise CheckpointError(
            f"the folder {path} holds none of {wanted}; name a file, or pre-train first with "
            "experiments/DINO_signal.py and its like"
        )
    for file in files:
        read_encoder(file)


def load_pretrained(model, path) -> str:
    """Load pre-trained weights into ``model``, every tensor of an encoder or none.

    Args:
        model: an encoder with a head, or a fusion.
        path: a file (encoder.pth, DINO_signal_student.pth, ...) or a folder with
            ``PUBLISHED_FILES``, of which an encoder takes the first that fits and a fusion the
            first of each branch.  A single file goes to the branch that it fits, or to the whole
            fusion if it is one's own encoder.pth.

    Returns lines for people: how many tensors matched, and what starts anew.
    """
    check_pretrained(path)
    branches = model.branches
    if not Path(path).is_dir():
        return (
            _first_fit({"fusion": model, **branches}, [path])
            if branches
            else load_encoder(model, path)
        )
    if not branches:
        return _first_fit({"encoder": model}, _present(path, *PUBLISHED_FILES))
    lines = []
    for role, branch in branches.items():
        files = _present(path, role)
        wanted = " or ".join(PUBLISHED_FILES.get(role, ["file"]))
        lines.append(
            _first_fit({role: branch}, files[:1])
            if files
            else f"{role} branch: no {wanted} in {path}, it starts anew"
        )
    return "\n".join(lines)


def _present(folder, *roles) -> list[Path]:
    """The published files of these branches that are in ``folder``, best first."""
    files = [Path(folder) / name for role in roles for name in PUBLISHED_FILES.get(role, ())]
    return [file for file in files if file.is_file()]


def _first_fit(models: dict, files: list) -> str:
    """Load the first file into the first model that it fits; a line that says so."""
    reasons = []
    for file in files:
        for role, model in models.items():
            try:
                line = load_encoder(model, file)
            except CheckpointError as error:
                reasons.append(f"as {role}: {error}")
                continue
            others = ", ".join(
                name for name in models if role != "fusion" and name not in (role, "fusion")
            )
            return f"{role}: {line}" + (
                f"; {others} branch, gate and heads start anew" if others else ""
            )
    raise CheckpointError("\n  ".join(["no weights were transferred:", *reasons]))
