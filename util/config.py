"""Configuration: YAML files merged left to right, then ``--set a.b=c`` overrides, checked against one table of keys.

``KEYS`` below is the whole vocabulary.  What stands under ``model:`` is the factory's own arguments and is checked
when the model is built; transforms likewise by their own signatures.
"""
import contextlib
import copy
import difflib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import mergedeep
import yaml

from util.errors import ConfigError

REQUIRED = object()
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Key:
    """One configuration key: its types (None in ``types`` allows null), default, one line of advice, and what values
    are allowed (numbers from ``least`` to ``most``)."""
    types: tuple
    default: object
    help: str
    choices: tuple = ()
    least: float = -math.inf
    most: float = math.inf


def key(types, default, help, choices=(), least=-math.inf, most=math.inf):
    return Key(types if isinstance(types, tuple) else (types,), default, help, choices, least, most)


KEYS = {
    "seed": key(int, 0, "seed of data order, crops, views, masks and initialisation", least=0, most=2 ** 63 - 1),
    "output_dir": key(str, "./output", "runs are written to <output_dir>/<exp_name>"),
    "exp_name": key(str, "", "name of the run"),
    "resume": key(str, "", "checkpoint to go on from; 'auto' takes checkpoint-last.pth of this run if there is one"),
    "start_epoch": key(int, 0, "first epoch (0-based) when it shall differ from the checkpoint's", least=0),
    "encoder_path": key(str, "", "encoder.pth of a pre-training run (modes finetune and linprobe)"),
    "device": key(str, "auto", "auto takes the GPU where there is one", ("auto", "cuda", "cpu")),
    "model_name": key(str, REQUIRED, "a model of models/, e.g. st_mem_vit_base_dec256d4b"),
    "model": key(dict, {}, "arguments of the model's factory"),
    "mode": key(str, "scratch", "downstream: what is trained and from where", ("finetune", "linprobe", "scratch")),
    "dataset": {
        "store": key(str, "./data_folder/data_summary_without_preprocessing", "folder that holds fs100/ and fs250/"),
        "fs": key(int, 250, "sampling rate in Hz; picks the store's folder", least=1),
        "lead": key((str, list), "12lead", "12lead, limb_lead, lead1, lead2, a lead's name or a list of names"),
        "transforms": key(list, REQUIRED, "training crops: a cropping first, then device transforms, in order"),
        "eval_transforms": key((list, None), None, "the same for evaluation (downstream)"),
        "rand_augment": key((dict, None), None, "RandAugment after the transforms: op_names, level, num_layers, prob"),
        "crops_per_record": key(int, 1, "random crops of a record each time it is visited", least=1),
        "databases": key((list, None), None, "only these source databases (null: all)"),
        "exclude_folds": key(list, [], "pre-training: folds to leave out, e.g. those a downstream test will use"),
        "max_records": key((int, None), None, "a seeded subset of this many records, for trying things out", least=1),
        "fold": key((int, list, str), 0, "downstream: test fold 0-9, a list of them, or 'all'"),
        "protocol": key(str, "nested", "nested: test on k, select on k+1, train on the other eight; "
                        "published: select and report on k (optimistic)", ("nested", "published")),
        "label_fraction": key(float, 1.0, "share of the training records that is used (0.01 for 1 % of the labels)",
                              least=0, most=1),
        "classes": key((str, dict), "challenge2020", "challenge2020 (24 classes), or {name: [SNOMED CT codes]}"),
    },
    "dataloader": {
        "batch_size": key(int, 16, "records a process and forward pass", least=1),
        "num_workers": key(int, 8, "loader processes a training process", least=0),
        "pin_memory": key(bool, True, "faster copies to the GPU"),
    },
    "train": {
        "epochs": key(int, REQUIRED, "passes over the data", least=1),
        "accum_iter": key(int, 1, "forward passes a step; the effective batch is batch_size * accum_iter * processes",
                          least=1),
        "warmup_epochs": key(float, 0.0, "epochs of linear warm-up from 0", least=0),
        "lr": key((float, None), None, "peak learning rate; null: blr * effective batch / 256", least=0),
        "blr": key((float, None), None, "base learning rate for an effective batch of 256", least=0),
        "min_lr": key(float, 0.0, "floor of the cosine", least=0),
        "lr_update": key(str, "iteration", "the schedule moves every iteration, or once an epoch (warm-up epoch n of w "
                         "then has n/w of the peak)",
                         ("iteration", "epoch")),
        "optimizer": key(str, "adamw", "one of util/optim.py's OPTIMIZERS"),
        "optimizer_kwargs": key(dict, {}, "further arguments, e.g. betas: [0.9, 0.95]"),
        "weight_decay": key(float, 0.0, "decoupled weight decay", least=0),
        "weight_decay_end": key((float, None), None, "cosine schedule of the weight decay towards this (DINO)",
                                least=0),
        "decay_all": key(bool, False, "published: decay biases, norms and embeddings as well"),
        "max_norm": key((float, None), None, "clip the gradient's norm", least=0),
        "amp": key(str, "auto", "autocast: auto (bf16 on GPUs that have it, else fp16; none on the CPU), "
                   "bf16, fp16 or none", ("auto", "bf16", "fp16", "none")),
        "matmul_precision": key(str, "high", "torch.set_float32_matmul_precision; 'medium' is faster on some CPUs",
                                ("highest", "high", "medium")),
        "compile": key(bool, False, "torch.compile the model: slow first step, faster ones after"),
        "sync_bn": key(bool, True, "BatchNorm over the batches of all processes: as many give the same numbers as one"),
        "freeze_epochs": key(int, 0, "downstream: train the head alone for the first epochs", least=0),
        "steps_per_epoch": key((int, None), None, "cut epochs short, for trying things out", least=1),
        "log_every": key(int, 10, "steps between progress updates and TensorBoard points", least=1),
        "figure_every": key(int, 10, "epochs between figures of a reconstruction", least=1),
        "probe_every": key(int, 0, "pre-training: epochs between linear probes on labelled records (0: never)",
                           least=0),
        "checkpoint_every": key((int, str), 1, "epochs, or '500 steps', between writes of checkpoint-last.pth",
                                least=1),
        "keep_every": key(int, 20, "epochs between checkpoints that are kept (checkpoint-<epoch>.pth)", least=1),
        "keep_last": key(int, 0, "keep only so many of these (0: all)", least=0),
        "skip_nonfinite": key(int, 0, "steps with a loss that is not finite to tolerate before stopping", least=0),
        "dist_eval": key(bool, True, "published key; evaluation is always shared out, every record counted once"),
    },
    "loss": key(str, "bce", "downstream criterion", ("bce", "cross_entropy")),
    "metric": {
        "task": key(str, "multilabel", "kind of labels", ("multilabel", "multiclass")),
        "num_labels": key((int, None), None, "checked against dataset.classes when given", least=1),
        "num_classes": key((int, None), None, "checked against dataset.classes when given", least=1),
        "target_metrics": key(list, ["AUROC"], "names, or {name: {average: macro}}; util/metrics.py lists them"),
    },
    "test": {
        "target_metric": key(str, "loss", "the checkpoint to test: best by this metric on the selection fold"),
        "bootstrap": key(int, 0, "resamples of the test records for 95 % intervals (0: none)", least=0),
    },
}


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads 1e-3 as a number (YAML 1.1 wants 1.0e-3) and refuses a key given twice."""

    def construct_mapping(self, node, deep=False):
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads: a text like 1e-3 in quotes."""


for _rules in (_Loader, _Dumper):
    _rules.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), "-+0123456789")


def read_yaml(text: str):
    """A YAML text's value.

    Raises:
        ValueError: not YAML, or of a kind the safe loader does not make.
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # besides YAMLError, a wrong date or tag makes the loader stumble in many ways
        raise ValueError(" ".join(str(error).split())) from None


def load_yaml(path) -> dict:
    """A YAML mapping from a file, by the safe loader.

    Raises:
        ConfigError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        value = read_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {type(value).__name__}")
    return value


def find_overlay(name) -> Path:
    """An overlay by path, or by its bare name in configs/overlay/."""
    named = ROOT / "configs" / "overlay" / f"{name}.yaml"
    if not os.path.exists(name) and os.path.exists(named):  # which, unlike Path's, take any name
        return named
    return Path(name)


def parse_override(text: str) -> dict:
    """``a.b=c`` as {"a": {"b": c}}, c read as YAML.

    Raises:
        ConfigError: no ``=``, or a value that is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text!r}: write key=value, e.g. --set train.epochs=5")
    try:
        value = read_yaml(value)
    except ValueError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None
    for part in reversed(path.strip().split(".")):
        value = {part: value}
    return value


def load_config(paths, overrides=(), extra=None) -> dict:
    """Merge files, then ``overrides`` (texts ``a.b=c``), then the mapping ``extra``; check; fill in defaults.

    Raises:
        ConfigError: see ``check``.
    """
    merged = {}
    for layer in [*map(load_yaml, paths), *map(parse_override, overrides), extra or {}]:
        try:
            mergedeep.merge(merged, layer)  # mappings are merged, lists and values replaced
        except RecursionError:
            raise ConfigError("a mapping of the config contains itself (a YAML alias inside its own anchor)") from None
    return check(merged)


def check(config: dict, keys=KEYS, prefix="") -> dict:
    """A copy with defaults filled in and numbers converted.

    Raises:
        ConfigError: unknown key (the nearest known one is suggested), wrong type, value not among the choices,
            or a required key that is missing.
    """
    unknown = [name for name in config if name not in keys]
    if unknown:
        name = str(unknown[0])
        close = difflib.get_close_matches(name, keys, 1)
        hint = f"; did you mean {prefix}{close[0]}" if close else ""
        raise ConfigError(f"unknown key {prefix + name!r}{hint}? Known keys here: {', '.join(keys)}")
    checked = {}
    for name, spec in keys.items():
        if isinstance(spec, dict):
            section = config.get(name)
            section = {} if section is None else section
            if not isinstance(section, dict):
                raise ConfigError(f"{prefix}{name} must be a mapping of keys, not {section!r}")
            checked[name] = check(section, spec, f"{prefix}{name}.")
        elif name in config:
            checked[name] = _convert(prefix + name, config[name], spec)
        elif spec.default is REQUIRED:
            raise ConfigError(f"the config lacks the key '{prefix}{name}': {spec.help}")
        else:
            checked[name] = copy.deepcopy(spec.default)
    return checked


def _convert(name, value, spec):
    """``value`` in the key's type, within its bounds.

    Raises:
        ConfigError: another type, or a value that is not allowed.
    """
    if value is None and None in spec.types:
        return None
    if float in spec.types and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)
    # a bool is an int to Python, but no number to people
    fits = bool in spec.types if isinstance(value, bool) else isinstance(value, tuple(t for t in spec.types if t))
    if not fits or isinstance(value, float) and not math.isfinite(value):
        words = {"str": "text", "dict": "a mapping", "list": "a list", "float": "a number", "int": "a whole number",
                 "bool": "true or false"}
        kinds = " or ".join("null" if t is None else words[t.__name__] for t in spec.types)
        raise ConfigError(f"{name} must be {kinds}, not {value!r} ({spec.help})")
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(map(str, spec.choices))}")
    if isinstance(value, (int, float)) and not spec.least <= value <= spec.most:
        bounds = f"{spec.least:g} or more" if math.isinf(spec.most) else f"between {spec.least:g} and {spec.most:g}"
        raise ConfigError(f"{name} must be {bounds}, not {value!r} ({spec.help})")
    return value


def save_config(config: dict, path) -> None:
    """Write the resolved config; feeding it back repeats the run."""
    Path(path).write_text(yaml.dump(config, Dumper=_Dumper, sort_keys=False), encoding="utf-8")


def describe_keys(keys=KEYS, prefix="") -> str:
    """All keys with defaults and advice, for ``--help``."""
    lines = []
    for name, spec in keys.items():
        if isinstance(spec, dict):
            lines.append(describe_keys(spec, f"{prefix}{name}."))
        else:
            default = "required" if spec.default is REQUIRED else f"default {spec.default!r}"
            lines.append(f"  {prefix}{name}: {spec.help} [{default}]")
    return "\n".join(lines)
