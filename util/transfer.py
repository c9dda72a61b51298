"""Pre-trained weights into any model: from a file or from a folder of published layout, into an encoder or a fusion.

A fusion is a model with ``branches``, encoders by name.  Its branches are filled one by one under their own key names;
loading DINO's keys into the whole fusion matches none of them, which the published scripts did not notice.
"""
from pathlib import Path

from util.checkpoint import load_encoder, read_encoder
from util.errors import CheckpointError

# What the self-supervised scripts leave in ./checkpoints, best first.
PUBLISHED_FILES = {"signal": ("DINO_signal_student.pth", "SIMCLR_signal.pth", "BYOL_signal.pth"),
                   "spectrogram": ("DINO_spectrogram_student.pth",)}


def check_pretrained(path) -> None:
    """Fail early for a path that holds no readable encoder at all.

    Raises:
        CheckpointError: nothing there, or damaged.
    """
    files = [path] if not Path(path).is_dir() else [file for role in PUBLISHED_FILES for file in _present(path, role)]
    if not files:
        wanted = ", ".join(name for names in PUBLISHED_FILES.values() for name in names)
        raise CheckpointError(f"the folder {path} holds none of {wanted}; name a file, or pre-train first with "
                              "experiments/DINO_signal.py and its like")
    for file in files:
        read_encoder(file)


def load_pretrained(model, path) -> str:
    """Load pre-trained weights into ``model``, every tensor of an encoder or none.

    Args:
        model: an encoder with a head, or a fusion.
        path: a file (encoder.pth, DINO_signal_student.pth, ...) or a folder with ``PUBLISHED_FILES``.  An encoder takes
            the first of the folder's files that fits.  A fusion takes the first file of each branch; a single file
            goes to the branch that it fits, or to the whole fusion if it is one's own encoder.pth.

    Returns:
        Lines for people: how many tensors matched, and what starts anew.

    Raises:
        CheckpointError: nothing fits; the message says what is wrong with each file.
    """
    check_pretrained(path)
    branches = getattr(model, "branches", None)
    if not Path(path).is_dir():
        return load_encoder(model, path) if branches is None else _first_fit({"fusion": model, **branches}, [path])
    if branches is None:
        return _first_fit({"encoder": model}, [file for role in PUBLISHED_FILES for file in _present(path, role)])
    lines = []
    for role, branch in branches.items():
        files = _present(path, role)
        lines.append(_first_fit({role: branch}, files[:1]) if files else
                     f"{role} branch: no {' or '.join(PUBLISHED_FILES.get(role, ['file']))} in {path}, it starts anew")
    return "\n".join(lines)


def _present(folder, role) -> list[Path]:
    """The published files of a branch that are in ``folder``, best first."""
    return [Path(folder) / name for name in PUBLISHED_FILES.get(role, ()) if (Path(folder) / name).is_file()]


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
            others = [name for name in models if name not in (role, "fusion")]
            left = f"; {', '.join(others)} branch, gate and heads start anew" if role != "fusion" and others else ""
            return f"{role}: {line}{left}"
    raise CheckpointError("\n  ".join(["no weights were transferred:", *reasons]))
