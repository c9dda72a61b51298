"""Published YAML files and our older ones: keys with an exact counterpart are translated, others
are listed with their new places.
"""

import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from util.config.crops import lists_as_keys
from util.console import note
from util.errors import ConfigError

STORE = "dataset.store (a folder that data_preparation/ makes)"
MOVED = {  # a pattern of dotted keys: what to write instead
    "ddp": "--gpus, --nnodes ... of run_pretrain.sh and run_downstream.sh",
    "*_csv": f"{STORE}, dataset.fold and dataset.protocol",
    "dataset.*_dir": STORE,
    "dataset.*_col": f"{STORE} and dataset.classes",
    "dataset.train_transforms": "dataset.transforms",
    "dataset.valid_transforms": "dataset.eval_transforms",
    "dataset.test_transforms": "dataset.eval_transforms, which serves selection and test",
    "use_amp": "train.amp",
    "train.use_amp": "train.amp",
    "model.encoder_args": "model.encoder: {name: ..., argument: value}",
}
# published as null
NULL = {"output_dir": "./output", "exp_name": "", "resume": "", "encoder_path": ""}
LEFT_OUT = {"train.dist_eval": "evaluation is always shared out, and every record counted once"}


# ============ values with an exact counterpart: [it], or [] where there is none ============
def _null(path: str, value: Any) -> list:
    return [NULL[path]] if value is None else []


def _loss(path: str, value: Any) -> list:
    return [*value.values()] if isinstance(value, dict) and [*value] == ["name"] else []


def _amp(path: str, value: Any) -> list:
    return ["auto" if value else "none"] if isinstance(value, bool) else []


def _same(path: str, value: Any) -> list:
    return [value]


def _rand_augment(path: str, value: Any) -> list:
    if not isinstance(value, dict) or not value.keys() <= {"use", "kwargs"}:
        return []
    if not isinstance(value.get("use"), bool):
        return []
    return [value.get("kwargs") if value["use"] else None]


# published key: (our name in its section, (key, its value) -> [ours] or [])
EXACT: dict[str, tuple[str, Callable[[str, Any], list]]] = {
    **{name: (name, _null) for name in NULL},
    "loss": ("loss", _loss),
    "train.use_amp": ("amp", _amp),
    "dataset.train_transforms": ("transforms", _same),
    "dataset.valid_transforms": ("eval_transforms", _same),
    "dataset.rand_augment": ("rand_augment", _rand_augment),
}


# ============ a layer ============
def translate(layer: dict, where: str | os.PathLike) -> dict:
    """Return a layer of a config with published keys translated into ours; a note lists these.

    Args:
        layer: which stays as it is.
        where: it comes from, for messages.

    Raises:
        ConfigError: keys have moved; it names them all.
    """
    layer = {
        name: dict(value) if isinstance(value, dict) else value for name, value in layer.items()
    }
    sections = [(f"{name}.", value) for name, value in layer.items() if isinstance(value, dict)]
    notes: list[str] = []
    moved: dict[str, list[str]] = {}
    for prefix, content in [("", layer), *sections]:
        for name, value in list(content.items()):
            path = f"{prefix}{name}"
            ours, counterpart = EXACT.get(path, (name, lambda path, value: []))
            values = counterpart(path, value)
            if path in LEFT_OUT:
                del content[name]
                notes.append(f"{path} is left out: {LEFT_OUT[path]}")
            elif values and (ours == name or ours not in content):
                del content[name]
                content[ours] = values[0]
                notes.append(f"{path} is read as {prefix}{ours}: {values[0]!r}")
            else:
                patterns = [pattern for pattern in MOVED if fnmatchcase(path, pattern)]
                if patterns:
                    moved.setdefault(MOVED[patterns[0]], []).append(path)
    if isinstance(layer.get("dataset"), dict):
        layer["dataset"] = lists_as_keys(layer["dataset"])
    if moved:
        advice = [f"instead of {', '.join(paths)} write {new}" for new, paths in moved.items()]
        raise ConfigError(f"{where}: keys have moved: {'; '.join(advice)}")
    if notes:
        note(f"note: {where}: {'; '.join(notes)}")
    return layer
