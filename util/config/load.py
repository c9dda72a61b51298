"""Configuration: YAML files merged left to right, then ``--set a.b=c``, checked against one table
of keys.

``util/config/keys.py`` is the whole vocabulary.  Under ``model:`` stand the factory's own
arguments, checked when the model is built; transforms likewise by their own signatures.
docs/configs.md has the rules.
"""

import contextlib
import copy
import difflib
import math
import os
import re
from itertools import takewhile
from pathlib import Path

import yaml

from util.config.keys import PROGRAMS, REQUIRED, divide, keys_of
from util.config.published import translate
from util.errors import ConfigError
from util.named_arguments import fits

ROOT = Path(__file__).resolve().parents[2]


# ============ YAML ============
class _Loader(yaml.SafeLoader):
    """The safe loader; it reads 1e-3 as a number (YAML 1.1 wants 1.0e-3), and refuses a key given
    twice.
    """

    def construct_mapping(self, node, deep=False):
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            problem = f"the key {twice[0]!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads: a text like 1e-3 in quotes."""


_FLOAT = re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$")
for _rules in (_Loader, _Dumper):
    _rules.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, "-+0123456789")


def read_yaml(text: str):
    """A YAML text's value.  ValueError: not YAML, or of a kind that the safe loader does not
    make.
    """
    try:
        return yaml.load(text, _Loader)
    except (
        Exception
    ) as error:  # besides YAMLError, a wrong date or tag makes the loader stumble in many ways
        raise ValueError(" ".join(str(error).split())) from None


def load_yaml(path, program: str | None = None, base=True) -> dict:
    """The mapping of a YAML file, merged over the one that its key ``base`` names (where it may
    have one).

    ``program`` is whose section (``pretrain:`` or ``finetune:``) is merged over the file's other
    keys.
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
    sections = {name: value.pop(name, None) or {} for name in PROGRAMS}
    below = value.pop("base", None)
    if below is not None and not (base and isinstance(below, str)):
        raise ConfigError(
            f"{path}: base must be the name of a YAML file, not {below!r}"
            if base
            else f"{path} is another file's base and has a base itself; put the keys of both in one"
        )
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{path}: the section {name} must be a mapping of keys, not {section!r}"
            )
    own = merge([translate(layer, path) for layer in (value, sections.get(program, {}))])
    return merge([load_yaml(Path(path).parent / below, program, base=False), own]) if below else own


def find_overlay(name) -> Path:
    """An overlay by path, or by its bare name in configs/overlay/."""
    named = ROOT / "configs" / "overlay" / f"{name}.yaml"
    if os.path.exists(name) or "/" in str(name):  # Path.exists() may raise
        return Path(name)
    if not os.path.exists(named):
        close = difflib.get_close_matches(
            str(name), [path.stem for path in named.parent.glob("*.yaml")], 1
        )
        raise ConfigError(
            f"--overlay {name}: there is no such file, nor one of this name in "
            f"configs/overlay/{f'; did you mean {close[0]}?' if close else ''}"
        )
    return named


def parse_override(text: str) -> dict:
    """``a.b=c`` as {"a": {"b": c}}, c read as YAML."""
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


# ============ merging ============
def merge(layers: list[dict]) -> dict:
    """Layers of a config in one mapping: mappings merge, lists and values are replaced by the
    later layer's.

    Arguments given beside a model's name go with it: the last layer with a ``model_name``
    decides, and the ``model`` sections of layers that name another are dropped; so with mappings
    under ``model`` by ``name``.
    """
    named = [layer["model_name"] for layer in layers if "model_name" in layer][-1:]
    layers = [
        {name: value for name, value in layer.items() if name != "model"}
        if named and layer.get("model_name", named[0]) != named[0]
        else layer
        for layer in layers
    ]
    try:
        return _merge(layers)
    except RecursionError:
        raise ConfigError(
            "a mapping of the config contains itself (an alias in its own anchor)"
        ) from None


def _merge(layers, in_model=False):
    """The same for any mapping; ``in_model``: one under ``model``, where a text stands for {name:
    text}.
    """
    if len(layers) == 1:
        return copy.deepcopy(layers[0])
    named = [layer["name"] for layer in layers if in_model and "name" in layer][-1:]
    layers = [layer for layer in layers if not named or layer.get("name", named[0]) == named[0]]
    merged = {}
    for name in dict.fromkeys(name for layer in layers for name in layer):
        values = [layer[name] for layer in layers if name in layer]
        if in_model and any(isinstance(value, dict) for value in values):
            values = [{"name": value} if isinstance(value, str) else value for value in values]
        mappings = list(takewhile(lambda value: isinstance(value, dict), reversed(values)))[::-1]
        deeper = in_model or name == "model"
        merged[name] = _merge(mappings, deeper) if mappings else copy.deepcopy(values[-1])
    return merged


def load_config(sources, overrides=(), extra=None, *, program: str) -> dict:
    """Merge layers, ``overrides`` (texts ``a.b=c``) and the mapping ``extra``; check; fill in
    defaults.

    Args:
        sources: YAML files, or configs out of checkpoints: earlier versions stored keys of the
            other program in these, which are left out.
        program: "pretrain" or "finetune".
    """
    layers = [
        divide(translate(source, "the stored config"), program)[0]
        if isinstance(source, dict)
        else load_yaml(source, program)
        for source in sources
    ]
    layers += [translate(parse_override(text), f"--set {text!r}") for text in overrides]
    return check(merge([*layers, extra or {}]), program)


# ============ checking ============
def check(config: dict, program: str) -> dict:
    """A copy with a program's defaults filled in and numbers converted; ConfigError for whatever
    is wrong.
    """
    config, others = divide(config, program)
    if others:
        other = next(name for name in PROGRAMS if name != program)
        raise ConfigError(
            f"no effect in {PROGRAMS[program]}: {', '.join(others)}; that belongs to "
            f"{PROGRAMS[other]}: leave it out, or put it under '{other}:' in a file for both"
        )
    return _check(config, keys_of(program))


def _check(config, keys, prefix=""):
    unknown = [name for name in config if name not in keys]
    if unknown:
        name = str(unknown[0])
        close = difflib.get_close_matches(name, keys, 1)
        hint = f"; did you mean {prefix}{close[0]}" if close else ""
        raise ConfigError(
            f"unknown key {prefix + name!r}{hint}? Known keys here: {', '.join(keys)}"
        )
    checked = {}
    for name, spec in keys.items():
        if isinstance(spec, dict):
            section = config.get(name, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{prefix}{name} must be a mapping of keys, not {section!r}")
            checked[name] = _check(section, spec, f"{prefix}{name}.")
        elif name in config:
            checked[name] = _convert(prefix + name, config[name], spec)
        elif spec.default is REQUIRED:
            raise ConfigError(f"the config lacks the key '{prefix}{name}': {spec.help}")
        else:
            checked[name] = copy.deepcopy(spec.default)
    return checked


def _convert(name, value, spec):
    """``value`` in the key's type, within its bounds."""
    if value is None and None in spec.types:
        return None
    if float in spec.types and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            value = float(value) if isinstance(value, str) or abs(value) < 1e300 else math.inf
    if not fits(value, spec.types) or isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be {spec.kinds}, not {value!r} ({spec.help})")
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(map(str, spec.choices))}")
    if isinstance(value, (int, float)) and not spec.least <= value <= spec.most:
        raise ConfigError(f"{name} must be {spec.bounds}, not {value!r} ({spec.help})")
    return value


def save_config(config: dict, path) -> None:
    """Write the resolved config; feeding it back repeats the run."""
    Path(path).write_text(yaml.dump(config, Dumper=_Dumper, sort_keys=False), encoding="utf-8")
