"""Published YAML files: what has an exact counterpart here is translated, and what moved is named with its new place."""
from fnmatch import fnmatchcase

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
}
NULL = {"output_dir": "./output", "exp_name": "", "resume": "", "encoder_path": ""}  # published: null


def _amp(value):
    return ["auto" if value else "none"] if isinstance(value, bool) else []


def _loss(value):
    return [value["name"]] if isinstance(value, dict) and list(value) == ["name"] else []


def _rand_augment(value):
    if isinstance(value, dict) and value.keys() <= {"use", "kwargs"} and isinstance(value.get("use"), bool):
        return [value.get("kwargs") if value["use"] else None]
    return []


# published key: (ours, its value -> [ours], or [] where there is no exact counterpart)
EXACT = {
    **{name: (name, lambda value, ours=ours: [] if value is not None else [ours]) for name, ours in NULL.items()},
    "loss": ("loss", _loss),
    "dataset.rand_augment": ("dataset.rand_augment", _rand_augment),
    "dataset.train_transforms": ("dataset.transforms", lambda value: [value]),
    "dataset.valid_transforms": ("dataset.eval_transforms", lambda value: [value]),
    "use_amp": ("train.amp", _amp),
    "train.use_amp": ("train.amp", _amp),
}
LEFT_OUT = {"train.dist_eval": "evaluation is always shared out, and every record counted once"}


def translate(layer: dict) -> tuple[dict, list[str], dict[str, list[str]]]:
    """A layer of a config, be it published or ours, in this project's words.

    Returns:
        the layer; what was translated, a text each; {what to write instead: the keys that cannot be translated}.
    """
    layer = {name: dict(value) if isinstance(value, dict) else value for name, value in layer.items()}
    notes, moved = [], {}
    for path in _dotted(layer):
        content, name = _place(layer, path)
        ours, counterpart = EXACT.get(path, (path, lambda value: []))
        values, (target, new) = counterpart(content[name]), _place(layer, ours)
        if path in LEFT_OUT:
            del content[name]
            notes.append(f"{path} is left out: {LEFT_OUT[path]}")
        elif values and (ours == path or new not in target):
            del content[name]
            target[new] = values[0]
            notes.append(f"{path} is read as {ours}" + ("" if isinstance(values[0], list) else f": {values[0]!r}"))
        else:
            for instead in [MOVED[pattern] for pattern in MOVED if fnmatchcase(path, pattern)][:1]:
                moved.setdefault(instead, []).append(path)
    return layer, notes, moved


def _dotted(layer):
    """Names of its keys and of those in its sections."""
    return [path for name, value in layer.items() if isinstance(name, str)
            for path in [name, *(f"{name}.{inner}" for inner in (value if isinstance(value, dict) else ())
                                 if isinstance(inner, str))] if "." not in name]


def _place(layer, path):
    """(the mapping that holds a dotted key, its name there)."""
    section, _, name = path.partition(".")
    if not name:
        return layer, section
    content = layer.setdefault(section, {})
    return (content if isinstance(content, dict) else {name: None}), name  # a section of a wrong kind: checked later
