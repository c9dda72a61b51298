"""How a frozen class becomes a section of a config: fields with bounds and help, and their checks.

A section is a dataclass whose fields are made by ``key``; a field that is itself such a class is a
section within it.
"""

import contextlib
import copy
import dataclasses
import datetime
import difflib
import json
import math
import os
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from util.errors import ConfigError
from util.named_arguments import fits

Section = typing.TypeVar("Section")
REQUIRED = object()
WORDS = {
    None: "null",
    str: "text",
    dict: "a mapping",
    list: "a list",
    float: "a number",
    bool: "true or false",
    int: "a whole number",
}
ELSEWHERE = {  # what keys are called in other projects
    "learning_rate": "lr",
    "base_lr": "blr",
    "lr_rate": "lr",
    "clip_grad": "max_norm",
    "grad_clip": "max_norm",
    "gradient_clip_val": "max_norm",
    "accumulate_grad_batches": "accum_iter",
    "gradient_accumulation_steps": "accum_iter",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "warmup": "warmup_epochs",
    "wd": "weight_decay",
    "precision": "amp",
    "workers": "num_workers",
    "sampling_rate": "fs",
    "pretrained": "encoder_path",
}
RESUMED = {  # whether a resumed run may change a key
    "fixed": "never: it would be another job",
    "unfinished": "while there are steps left to train",
    "free": "always",
}


@dataclass(frozen=True)
class Key:
    """One configuration key.

    Attributes:
        name: within its section.
        types: of its values; None among them allows null.
        default: its value where the config says nothing; ``REQUIRED`` for none.
        help: one line of advice.
        choices: the allowed values, () for any.
        least: the smallest allowed number.
        most: the largest allowed number.
        above: a number below all that are allowed.
        path: whether it names a file or a folder, in which ~ is the home folder.
        resumed: what a resumed run may do to it, a key of ``RESUMED``.
    """

    name: str
    types: tuple
    default: object
    help: str
    choices: tuple = ()
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    path: bool = False
    resumed: str = "fixed"

    @property
    def default_text(self) -> str:
        """Return the default as YAML writes it, "required" where there is none."""
        return "required" if self.default is REQUIRED else json.dumps(self.default)

    @property
    def options(self) -> str:
        """Return the choices as YAML writes them."""
        words = {True: "true", False: "false"}
        return ", ".join(words.get(choice, choice) for choice in self.choices)

    @property
    def kinds(self) -> str:
        """Return the types, in words."""
        return " or ".join(WORDS[kind] for kind in self.types)

    @property
    def bounds(self) -> str:
        """Return the allowed numbers, in words."""
        least, most = f"{self.least:g}", f"{self.most:g}"
        if math.isinf(self.most) and math.isfinite(self.above):
            return f"more than {self.above:g}"
        return f"{least} or more" if math.isinf(self.most) else f"between {least} and {most}"


def key(
    default: typing.Any,
    help: str,
    *,
    choices: tuple = (),
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    path: bool = False,
    resumed: str = "fixed",
) -> typing.Any:
    """Declare a field of a section; arguments as in ``Key``."""
    facts = {"help": help, "choices": choices, "least": least, "most": most, "default": default}
    facts |= {"above": above, "path": path, "resumed": resumed}
    if default is REQUIRED:
        return dataclasses.field(metadata=facts)
    return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=facts)


def keys_of(section: type) -> dict[str, Key | type]:
    """Return the keys of a section by name; a section within it is its class."""
    return _keys_of(section)


@cache
def _keys_of(section: typing.Any) -> dict[str, Key | type]:
    annotations = typing.get_type_hints(section)
    keys: dict[str, Key | type] = {}
    for field in dataclasses.fields(section):
        annotation = annotations[field.name]
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            keys[field.name] = annotation
            continue
        several = isinstance(annotation, types.UnionType)
        kinds = typing.get_args(annotation) if several else (annotation,)
        plain = tuple(None if kind is type(None) else kind for kind in kinds)
        keys[field.name] = Key(field.name, plain, **field.metadata)
    return keys


# ============ from a mapping to a section ============
def parse(
    section: type[Section],
    given: dict,
    prefix: str = "",
    places: dict[str, str] | None = None,
) -> Section:
    """Check a mapping and return it as a section, defaults filled in and numbers converted.

    Args:
        section: the class of the section.
        given: its keys, out of YAML.
        prefix: what stands before its names in messages, such as ``train.``.
        places: the dotted name of every key of the program by its last part, for hints.

    Raises:
        ConfigError: an unknown or missing key, or a value of a wrong type or out of bounds.
    """
    keys, places = keys_of(section), places or dict(_places(section))
    unknown = [name for name in given if name not in keys]
    if unknown:
        name = str(unknown[0])
        close = [prefix + key for key in difflib.get_close_matches(name, keys, 1)]
        meant = [places[key] for key in (ELSEWHERE.get(name, name),) if key in places]
        hint = f"; did you mean {(meant + close)[0]}" if meant or close else ""
        raise ConfigError(
            f"unknown key {prefix + name!r}{hint}? Known keys here: {', '.join(keys)}"
        )
    values: dict[str, object] = {}
    for name, spec in keys.items():
        if not isinstance(spec, Key):
            inner = given.get(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{prefix}{name} must be a mapping of keys, not {inner!r}")
            values[name] = parse(spec, inner, f"{prefix}{name}.", places)
        elif name in given:
            values[name] = _convert(prefix + name, given[name], spec)
        elif spec.default is REQUIRED:
            raise ConfigError(f"the config lacks the key '{prefix}{name}': {spec.help}")
    return section(**values)


def _places(section: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, spec in keys_of(section).items():
        if isinstance(spec, Key):
            yield name, prefix + name
        else:
            yield from _places(spec, f"{prefix}{name}.")


def _convert(name: str, value: typing.Any, spec: Key) -> object:
    """``value`` in the key's type, within its bounds."""
    if value is None and None in spec.types:
        return None
    if float in spec.types and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            value = float(value) if isinstance(value, str) or abs(value) < 1e300 else math.inf
    if not fits(value, spec.types) or isinstance(value, float) and not math.isfinite(value):
        scalar = isinstance(value, (bool, int, float, datetime.date))
        quoted = "; text that looks so wants quotes" if str in spec.types and scalar else ""
        raise ConfigError(f"{name} must be {spec.kinds}, not {value!r}{quoted} ({spec.help})")
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{name}: {value!r} is not one of {spec.options}")
    if isinstance(value, (int, float)) and not (
        spec.above < value and spec.least <= value <= spec.most
    ):
        raise ConfigError(f"{name} must be {spec.bounds}, not {value!r} ({spec.help})")
    if isinstance(value, str):
        _check_text(name, value)
    return os.path.expanduser(value) if spec.path else copy.deepcopy(value)


def _check_text(name: str, value: str) -> None:
    """Raise a ConfigError where no file can have a text as its name or content."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{name}: {ascii(value)} is not UTF-8; choose another name") from None
    if "\0" in value:
        raise ConfigError(f"{name}: {value!r} has a zero character in it; leave it out")


def to_mapping(section: typing.Any) -> dict:
    """Return a section as the plain mapping that ``parse`` takes."""
    return {
        name: to_mapping(value) if dataclasses.is_dataclass(value) else copy.deepcopy(value)
        for name, value in vars(section).items()
    }
