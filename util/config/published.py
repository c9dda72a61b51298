"""Published YAML files and older ones of ours: counterparts are put in, what moved is named with
its place.
"""

from fnmatch import fnmatchcase

from util.config.crops import lists_as_keys
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
NULL = {
    "output_dir": "./output",
    "exp_name": "",
    "resume": "",
    "encoder_path": "",
}  # published: null
LEFT_OUT = {"train.dist_eval": "evaluation is always shared out, and every record counted once"}


def _rand_augment(value):
    if (
        isinstance(value, dict)
        and value.keys() <= {"use", "kwargs"}
        and isinstance(value.get("use"), bool)
    ):
        return [value.get("kwargs") if value["use"] else None]
    return []


# published key: (our name in its section, its value -> [ours], or [] where there is no exact
# counterpart)
EXACT = {
    **{
        name: (name, lambda value, ours=ours: [ours] if value is None else [])
        for name, ours in NULL.items()
    },
    "loss": (
        "loss",
        lambda value: [*value.values()] if isinstance(value, dict) and [*value] == ["name"] else [],
    ),
    "train.use_amp": (
        "amp",
        lambda value: ["auto" if value else "none"] if isinstance(value, bool) else [],
    ),
    "dataset.train_transforms": ("transforms", lambda value: [value]),
    "dataset.valid_transforms": ("eval_transforms", lambda value: [value]),
    "dataset.rand_augment": ("rand_augment", _rand_augment),
}


def translate(layer: dict, where) -> dict:
    """A layer of a config out of ``where``, be it published or ours, in this project's words; a
    note says what was said in others, and one ConfigError names all keys that have moved.
    """
    layer = {
        name: dict(value) if isinstance(value, dict) else value for name, value in layer.items()
    }
    sections = [(f"{name}.", value) for name, value in layer.items() if isinstance(value, dict)]
    notes, moved = [], {}
    for prefix, content in [("", layer), *sections]:
        for name, value in list(content.items()):
            path = f"{prefix}{name}"
            ours, counterpart = EXACT.get(path, (name, lambda value: []))
            found = counterpart(value)
            if path in LEFT_OUT:
                del content[name]
                notes.append(f"{path} is left out: {LEFT_OUT[path]}")
            elif found and (ours == name or ours not in content):
                del content[name]
                content[ours] = found[0]
                notes.append(f"{path} is read as {prefix}{ours}: {found[0]!r}")
            else:
                for instead in [MOVED[pattern] for pattern in MOVED if fnmatchcase(path, pattern)][
                    :1
                ]:
                    moved.setdefault(instead, []).append(path)
    if isinstance(layer.get("dataset"), dict):
        layer["dataset"] = lists_as_keys(layer["dataset"])
    if moved:
        raise ConfigError(
            f"{where}: keys have moved: "
            + "; ".join(
                f"instead of {', '.join(paths)} write {new}" for new, paths in moved.items()
            )
        )
    if notes:
        from util.console import note

        note(f"note: {where}: {'; '.join(notes)}")
    return layer
