"""Configuration: YAML files merged left to right, then ``--set a.b=c``, checked against one table
of keys.

``util/config/keys.py`` is the whole vocabulary.  Under ``model:`` stand the factory's own
arguments, checked when the model is built; transforms likewise by their own signatures.
docs/configs.md has the rules.
"""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import mergedeep
import yaml

from util.config.crops import lists_as_keys
from util.config.fields import Key, keys_of, parse, to_mapping
from util.config.keys import PROGRAMS, JobConfig, other_program
from util.config.published import translate
from util.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
Job = TypeVar("Job", bound=JobConfig)


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


def load_yaml(path, program: type[JobConfig] | None = None, *, base: bool = True) -> dict:
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
    section = sections[program.program] if program else {}
    own = merge([translate(layer, path) for layer in (value, section)])
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
        nested = read_yaml(value)
    except ValueError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None
    for part in reversed(path.strip().split(".")):
        nested = {part: nested}
    return nested


# ============ merging ============
def merge(layers: list[dict]) -> dict:
    """Merge the layers of a config: mappings merge, lists and values are replaced by the later
    layer's.

    Arguments given beside a model's name go with it: the last layer with a ``model_name`` decides,
    and the ``model`` sections of layers that name another are dropped; so with mappings under
    ``model`` by ``name``.
    """
    try:
        contains_itself = _contains_itself(layers, set(), set())
    except RecursionError:
        contains_itself = True
    if contains_itself:
        raise ConfigError("a mapping of the config contains itself (an alias in its own anchor)")
    layers = [dict(layer) for layer in layers]
    chosen = [layer["model_name"] for layer in layers if "model_name" in layer][-1:]
    for layer in layers:
        if chosen and layer.get("model_name", chosen[0]) != chosen[0]:
            layer.pop("model", None)
    with_model = [layer for layer in layers if isinstance(layer.get("model"), dict)]
    models = _of_the_last_name([layer["model"] for layer in with_model])
    for layer, model in zip(with_model, models):
        layer["model"] = model
    return dict(mergedeep.merge({}, *layers))


def _contains_itself(value: object, around: set[int], passed: set[int]) -> bool:
    """Return whether a YAML value holds itself, at any depth.

    A value that many aliases name is looked at once: written out, forty of them are billions.

    Args:
        value: of any kind.
        around: ids of the values that hold it.
        passed: ids of the values that are known not to hold themselves.
    """
    if not isinstance(value, (dict, list)) or id(value) in passed:
        return False
    if id(value) in around:
        return True
    inner = value.values() if isinstance(value, dict) else value
    if any(_contains_itself(each, around | {id(value)}, passed) for each in inner):
        return True
    passed.add(id(value))
    return False


def _of_the_last_name(mappings: list[dict]) -> list[dict]:
    """The mappings that describe one model, layer by layer: empty where a later layer gives another
    ``name``, and a text as ``{name: text}`` where other layers have a mapping; at every depth.
    """
    if len(mappings) < 2:
        return mappings
    chosen = [mapping["name"] for mapping in mappings if "name" in mapping][-1:]
    mappings = [
        dict(mapping) if not chosen or mapping.get("name", chosen[0]) == chosen[0] else {}
        for mapping in mappings
    ]
    for name in {name for mapping in mappings for name in mapping}:
        holders = [mapping for mapping in mappings if name in mapping]
        if not any(isinstance(mapping[name], dict) for mapping in holders):
            continue
        for mapping in holders:
            if isinstance(mapping[name], str):
                mapping[name] = {"name": mapping[name]}
        nested = [mapping for mapping in holders if isinstance(mapping[name], dict)]
        parts = _of_the_last_name([mapping[name] for mapping in nested])
        for mapping, part in zip(nested, parts):
            mapping[name] = part
    return mappings


def load_config(
    sources: Iterable[str | os.PathLike | dict],
    overrides: Iterable[str] = (),
    extra: dict | None = None,
    *,
    program: type[Job],
) -> Job:
    """Merge layers, ``overrides`` (texts ``a.b=c``) and the mapping ``extra``, and check them.

    Args:
        sources: YAML files, or configs out of checkpoints: earlier versions stored keys of the
            other program in these, which are left out.
        program: ``PretrainConfig`` or ``FinetuneConfig``.
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
def check(config: dict, program: type[Job]) -> Job:
    """Return a mapping as a program's config; a ConfigError says what is wrong with it."""
    if isinstance(config.get("dataset"), dict):
        config = {**config, "dataset": lists_as_keys(config["dataset"])}
    config, others = divide(config, program)
    if others:
        other = other_program(program)
        raise ConfigError(
            f"no effect in {program.title}: {', '.join(others)}; that belongs to {other.title}: "
            f"leave it out, or put it under '{other.program}:' in a file for both"
        )
    checked = parse(program, config)
    if checked.dataset.crop is None and checked.dataset.transforms is None:
        raise ConfigError(
            "the config lacks the key 'dataset.crop': samples of a crop; training takes them at "
            "random places"
        )
    return checked


def divide(config: dict, program: type[JobConfig]) -> tuple[dict, list[str]]:
    """Return the config without the keys of the other program, and the dotted names of those."""
    return _divide(config, program, other_program(program), "")


def _divide(config: dict, mine: type | None, theirs: type | None, prefix: str):
    """The same for a section of two programs; None for a program that has no such section."""
    known, foreign = (keys_of(section) if section else {} for section in (mine, theirs))
    kept, others = {}, []
    for name, value in config.items():
        spec = known.get(name, foreign.get(name))
        if isinstance(spec, Key) and name not in known:
            others.append(prefix + name)
            continue
        if isinstance(spec, type) and isinstance(value, (dict, type(None))):
            here, there = known.get(name), foreign.get(name)
            value, more = _divide(value or {}, here, there, f"{prefix}{name}.")
            others += more
            if not value:
                continue
        kept[name] = value
    return kept, others


def save_config(config: JobConfig | dict, path: str | os.PathLike) -> None:
    """Write the resolved config; feeding it back repeats the run."""
    mapping = config if isinstance(config, dict) else to_mapping(config)
    text = yaml.dump(mapping, Dumper=_Dumper, sort_keys=False)
    Path(path).write_text(text, encoding="utf-8")
