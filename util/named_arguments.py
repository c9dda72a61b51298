"""Arguments in a config, ``name`` or ``{name: {argument: value}}``, checked against what a
function takes.

A function declares each argument of the config by a ``Kind`` as its annotation::

    def cutout(x, random, ratio: SHARES, each_lead: FLAG = False): ...

Parameters without one (``x``, ``random``) are the program's own and cannot be set from a config.
"""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

from util.errors import ConfigError


def fits(value, kinds) -> bool:
    """Whether a value out of YAML is of one of ``kinds``: types, and None (or its type) for null.

    A bool is an int to Python, but no number to people; a whole number may stand for a float.
    """
    if value is None:
        return None in kinds or type(None) in kinds
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, tuple(kind for kind in kinds if kind))


class Kind(NamedTuple):
    """The values that an argument takes: in words, and as a test."""

    words: str
    fits: Callable[[object], bool]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_range(value, top=math.inf):
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(map(_is_number, value))
        and 0 <= value[0] <= value[1] <= top
    )


NUMBER = Kind("a number", _is_number)
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
WHOLE = Kind("a whole number of 0 or more", lambda value: type(value) is int and value >= 0)
COUNT = Kind("a whole number of 1 or more", lambda value: type(value) is int and value >= 1)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
LIST = Kind("a list", lambda value: isinstance(value, list))
SHARES = Kind("[low, high] with 0 <= low <= high <= 1", lambda value: _is_range(value, 1))
SIZES = Kind(
    "a number of 0 or more, or [low, high] with 0 <= low <= high",
    lambda value: _is_range(value) or _is_number(value) and value >= 0,
)


def check_arguments(given, kinds: dict[str, Kind], required, what: str) -> None:
    """A ConfigError if ``given``, out of a config, is no mapping, an argument in it is unknown,
    missing (the message lists all) or of a wrong value.
    """
    if not isinstance(given, dict) or set(given) - set(kinds) or set(required) - set(given):
        raise ConfigError(f"{what} takes {', '.join(kinds) or 'no arguments'}; given: {given!r}")
    for name, value in given.items():
        if not kinds[name].fits(value):
            raise ConfigError(f"{what}: {name} must be {kinds[name].words}, not {value!r}")


def arguments_of(function) -> dict[str, inspect.Parameter]:
    """The arguments of a function or class that a config may set."""
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if isinstance(p.annotation, Kind)}


def parse_named(item, known: dict[str, Callable], where: str) -> tuple[str, dict]:
    """``name`` or ``{name: {argument: value}}`` as (name, arguments), checked against
    ``known[name]``; a ConfigError for an unknown name lists the known ones, for the arguments see
    ``check_arguments``.
    """
    name, given = (
        next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, None)
    )
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{where}: unknown name {name!r}; known: {', '.join(known)}")
    taken = arguments_of(known[name])
    given = {} if given is None else given
    check_arguments(
        given,
        {key: p.annotation for key, p in taken.items()},
        [key for key, p in taken.items() if p.default is p.empty],
        f"{where}: {name}",
    )
    return name, given
