"""Configuration: YAML files merged left to right, then ``--set a.b=c``, checked against one table
of keys.

``util/config/keys.py`` has all keys.  Those under ``model:`` are the arguments of the model's
factory and are checked when the model is built; so are transforms, by their own arguments.
docs/configs.md has the rules.
"""

import difflib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import mergedeep
import yaml

from util.config.crops import lists_as_keys
from util.config.fields import Key, keys_of, parse, to_mapping
from util.config.keys import PROGRAMS, JobConfig, other_program
from util.config.published import translate
from util.console import note
from util.errors import ConfigError
from util.files import write_text

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 100  # characters of a value in a note
Job = TypeVar("Job", bound=JobConfig)


# ============ YAML ============
class _Loader(yaml.SafeLoader):
    """The safe loader, but for some surprises of YAML 1.1: it reads 1e-3 as a number (there: text),
    010 as ten (there: eight) and 1:30 as text (there: ninety), and refuses a key given twice.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Make the dict of a mapping."""
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            problem = f"the key {twice[0]!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int | str:
        """Make what YAML 1.1 takes for a whole number."""
        text = node.value
        if ":" in text:
            return text
        return (
            int(text.replace("_", "")) if _DECIMAL.match(text) else super().construct_yaml_int(node)
        )


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads: a text like 1e-3 in quotes."""


_COMMENT = re.compile(r"\s*([^\s'\"\[{].*\s)?#.*", re.DOTALL)  # plain text, then a comment
_DECIMAL = re.compile(r"^[-+]?[0-9][0-9_]*$")
_FLOAT = re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$")
for _rules in (_Loader, _Dumper):
    _rules.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, "-+0123456789")
    _rules.add_implicit_resolver("tag:yaml.org,2002:int", _DECIMAL, "-+0123456789")
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is not YAML, or of a kind that the safe loader does not make.
    """
    try:
        return yaml.load(text, _Loader)
    # Besides YAMLError, a wrong date or tag makes the loader stumble in many ways
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from None


def load_yaml(
    path: str | os.PathLike, program: type[JobConfig] | None = None, *, base: bool = True
) -> dict:
    """Read the mapping of a YAML file, merged over that of the file which its key ``base`` names.

    Args:
        path: the file.
        program: whose section (``pretrain:`` or ``finetune:``) is merged over the file's other
            keys; None for neither.
        base: whether the file may have a base.

    Raises:
        ConfigError: it cannot be read, or does not hold such a mapping.
    """
    try:
        value = read_yaml(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
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
    if below is not None and not base:
        raise ConfigError(
            f"{path} is another file's base and has a base itself; put the keys of both in one"
        )
    if below is not None and not isinstance(below, str):
        raise ConfigError(f"{path}: base must be the name of a YAML file, not {below!r}")
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{path}: the section {name} must be a mapping of keys, not {section!r}"
            )
    section = sections[program.program] if program else {}
    layers = [merge([translate(layer, path) for layer in (value, section)])]
    if below:
        under = Path(path).parent / os.path.expanduser(below)
        layers.insert(0, load_yaml(under, program, base=False))
    return merge(layers, one_file=True)


def find_overlay(name: str | os.PathLike) -> Path:
    """Return the path of an overlay, which is given by path or by its bare name in
    configs/overlay/.

    Raises:
        ConfigError: there is no such file.
    """
    named = ROOT / "configs" / "overlay" / f"{name}.yaml"
    if os.path.exists(name) or "/" in str(name):  # Path.exists() may raise
        return Path(name)
    if not os.path.exists(named):
        names = [path.stem for path in named.parent.glob("*.yaml")]
        close = difflib.get_close_matches(str(name), names, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"--overlay {name}: there is no such file, nor one of this name in "
            f"configs/overlay/{hint}"
        )
    return named


def parse_override(text: str) -> dict:
    """Return ``a.b=c`` as {"a": {"b": c}}, c read as YAML; a ConfigError for any other text.

    The shell has handed over c as one word: a "#" in plain text begins no comment.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text!r}: write key=value, e.g. --set train.epochs=5")
    try:
        nested: Any = value.strip() if _COMMENT.fullmatch(value) else read_yaml(value)
    except ValueError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None
    for part in reversed(path.strip().split(".")):
        nested = {part: nested}
    return nested


# ============ merging ============
def merge(layers: list[dict], *, one_file: bool = False) -> dict:
    """Merge the layers of a config: mappings merge, lists and values are replaced by the later
    layer's.

    Arguments given beside a model's name go with it: the last layer with a ``model_name`` decides,
    and the ``model`` sections of layers that name another are dropped; so with mappings under
    ``model`` by ``name``.  A note names arguments that are lost so.

    Args:
        layers: the first one lowest.
        one_file: they are a file and its base, whose model it may replace as a whole unsaid.
    """
    try:
        contains_itself = _contains_itself(layers, set(), set())
    except RecursionError:
        contains_itself = True
    if contains_itself:
        raise ConfigError("a mapping of the config contains itself (an alias in its own anchor)")
    given = layers
    layers = [dict(layer) for layer in layers]
    chosen = [layer["model_name"] for layer in layers if "model_name" in layer][-1:]
    for layer in layers:
        if chosen and layer.get("model_name", chosen[0]) != chosen[0]:
            layer.pop("model", None)
    with_model = [layer for layer in layers if isinstance(layer.get("model"), dict)]
    models = _of_the_last_name([layer["model"] for layer in with_model])
    for layer, model in zip(with_model, models):
        layer["model"] = model
    merged = dict(mergedeep.merge({}, *layers))
    name = merged.get("model_name")
    said = [each for each in given if not one_file or each.get("model_name", name) == name]
    _note_dropped(said, merged)
    return merged


def _note_dropped(layers: list[dict], merged: dict) -> None:
    """Say which arguments of models a config lost because a later layer names another model."""
    dropped: dict[str, str] = {}
    for layer in layers:
        if isinstance(layer.get("model"), dict):
            owner = str(layer.get("model_name", "the model"))
            dropped |= _dropped(layer["model"], merged.get("model"), "model", owner, set())
    if dropped:
        note(
            f"note: the config names another model than a file or flag before it, so "
            f"{', '.join(dropped.values())} has no effect; give it again if it is to hold"
        )


def _dropped(
    given: dict, kept: object, path: str, owner: str, passed: set[tuple[int, int]]
) -> dict[str, str]:
    """In words, by dotted name, the arguments in a mapping of which ``kept`` has none.

    ``passed``: ids of the pairs that were compared, as a mapping may have many aliases.
    """
    if (id(given), id(kept)) in passed:
        return {}
    passed.add((id(given), id(kept)))
    owner, kept = str(given.get("name", owner)), kept if isinstance(kept, dict) else {}
    found: dict[str, str] = {}
    for name, value in given.items():
        place = f"{path}.{name}"
        if isinstance(value, dict) and isinstance(kept.get(name), dict):
            found |= _dropped(value, kept[name], place, owner, passed)
        elif name != "name" and name not in kept:
            found[place] = f"{place}: {_in_a_line(value)} (given for {owner})"
    return found


def _in_a_line(value: object) -> str:
    try:
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=math.inf)
    except yaml.YAMLError:  # out of a checkpoint, of a type that YAML does not have
        return type(value).__name__
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


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
    """Merge the layers of a config, and check it.

    Args:
        sources: YAML files, or configs out of checkpoints: earlier versions stored keys of the
            other program in these, which are left out.
        overrides: texts ``a.b=c``, merged over these.
        extra: a mapping, merged over all.
        program: ``PretrainConfig`` or ``FinetuneConfig``.
    """
    layers = []
    for source in sources:
        if isinstance(source, dict):
            layer, _ = divide(translate(source, "the stored config"), program)
        else:
            layer = load_yaml(source, program)
        layers.append(layer)
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
    if checked.start_epoch >= checked.train.epochs:
        raise ConfigError(
            f"start_epoch: {checked.start_epoch} leaves nothing to train, as train.epochs is "
            f"{checked.train.epochs}; epochs are numbered from 0"
        )
    return checked


def divide(config: dict, program: type[JobConfig]) -> tuple[dict, list[str]]:
    """Return the config without the keys of the other program, and the dotted names of those."""
    return _divide(config, program, other_program(program), "")


def _divide(
    config: dict, section: type | None, others_section: type | None, prefix: str
) -> tuple[dict, list[str]]:
    """The same for a section of two programs; None for a program that has no such section."""
    known = keys_of(section) if section else {}
    foreign = keys_of(others_section) if others_section else {}
    kept: dict = {}
    others: list[str] = []
    for name, value in config.items():
        here, there = known.get(name), foreign.get(name)
        if here is None and isinstance(there, Key):
            others.append(prefix + name)
            continue
        is_section = isinstance(here or there, type) and isinstance(value, (dict, type(None)))
        if is_section and not isinstance(here, Key) and not isinstance(there, Key):
            value, more = _divide(value or {}, here, there, f"{prefix}{name}.")
            others += more
            if not value:
                continue
        kept[name] = value
    return kept, others


def save_config(config: JobConfig | dict, path: str | os.PathLike, remark: str = "") -> None:
    """Write the resolved config, after a remark of one line; feeding it back repeats the run."""
    mapping = config if isinstance(config, dict) else to_mapping(config)
    text = yaml.dump(mapping, Dumper=_Dumper, sort_keys=False)
    write_text(path, f"# {remark}\n{text}" if remark else text)
