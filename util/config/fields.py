"""How a frozen class becomes a section of a config: fields with bounds and help, and their checks.

A section is a dataclass whose fields are made by ``key``; a field that is itself such a class is a
section within it.
"""

import contextlib
import copy
import dataclasses
import difflib
import json
import math
import types
import typing
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
        resumed: what a resumed run may do to it, a key of ``RESUMED``.
    """

    name: str
    types: tuple
    default: object
    help: str
    choices: tuple = ()
    least: float = -math.inf
    most: float = math.inf
    resumed: str = "fixed"

    @property
    def default_text(self) -> str:
        """Return the default as YAML writes it, "required" where there is none."""
        return "required" if self.default is REQUIRED else json.dumps(self.default)

    @property
    def kinds(self) -> str:
        """Return the types, in words."""
        return " or ".join(WORDS[kind] for kind in self.types)

    @property
    def bounds(self) -> str:
        """Return the allowed numbers, in words."""
        least, most = f"{self.least:g}", f"{self.most:g}"
        return f"{least} or more" if math.isinf(self.most) else f"between {least} and {most}"


def key(
    default: typing.Any,
    help: str,
    *,
    choices: tuple = (),
    least: float = -math.inf,
    most: float = math.inf,
    resumed: str = "fixed",
) -> typing.Any:
    """Declare a field of a section; arguments as in ``Key``."""
    facts = {"help": help, "choices": choices, "least": least, "most": most, "default": default}
    facts["resumed"] = resumed
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
def parse(section: type[Section], given: dict, prefix: str = "") -> Section:
    """Check a mapping and return it as a section, defaults filled in and numbers converted.

    Args:
        section: the class of the section.
        given: its keys, out of YAML.
        prefix: what stands before its names in messages, such as ``train.``.

    Raises:
        ConfigError: an unknown or missing key, or a value of a wrong type or out of bounds.
    """
    keys = keys_of(section)
    unknown = [name for name in given if name not in keys]
    if unknown:
        name = str(unknown[0])
        close = difflib.get_close_matches(name, keys, 1)
        hint = f"; did you mean {prefix}{close[0]}" if close else ""
        raise ConfigError(
            f"unknown key {prefix + name!r}{hint}? Known keys here: {', '.join(keys)}"
        )
    values: dict[str, object] = {}
    for name, spec in keys.items():
        if not isinstance(spec, Key):
            inner = given.get(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{prefix}{name} must be a mapping of keys, not {inner!r}")
            values[name] = parse(spec, inner, f"{prefix}{name}.")
        elif name in given:
            values[name] = _convert(prefix + name, given[name], spec)
        elif spec.default is REQUIRED:
            raise ConfigError(f"the config lacks the key '{prefix}{name}': {spec.help}")
    return section(**values)


def _convert(name: str, value: typing.Any, spec: Key) -> object:
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
    return copy.deepcopy(value)


def to_mapping(section: typing.Any) -> dict:
    """Return a section as the plain mapping that ``parse`` takes."""
    return {
        name: to_mapping(value) if dataclasses.is_dataclass(value) else copy.deepcopy(value)
        for name, value in vars(section).items()
    }
