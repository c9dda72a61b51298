"""Arguments in a config, ``name`` or ``{name: {argument: value}}``, checked against what a
function takes.

A function declares each argument of the config by one of the annotations below::

    def cutout(x, random, ratio: SHARES, each_lead: FLAG = False): ...

Each is a type with the ``Kind`` of values that a config may give.  Parameters without one (``x``,
``random``) are the program's and cannot be set from a config.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_args

from util.errors import ConfigError


def fits(value: object, kinds: Collection) -> bool:
    """Return whether a value out of YAML is of one of ``kinds``.

    A bool is an int to Python, but no number to people; a whole number is accepted as a float.

    Args:
        kinds: types, and None (or its type) for null.
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
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Return whether a value out of YAML is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_range(value: Any, top: float = math.inf) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(map(is_number, value))
        and 0 <= value[0] <= value[1] <= top
    )


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_size(value: Any) -> bool:
    return _is_range(value) or is_number(value) and value >= 0


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


NUMBER = Annotated[float, Kind("a number", is_number)]
SHARE = Annotated[float, Kind("a number from 0 to 1", _is_share)]
POSITIVE = Annotated[float, Kind("a number above 0", lambda value: is_number(value) and value > 0)]
RATE = Annotated[
    float, Kind("a number from 0 to below 1", lambda value: _is_share(value) and value < 1)
]
WHOLE = Annotated[int, Kind("a whole number of 0 or more", _is_whole)]
COUNT = Annotated[
    int, Kind("a whole number of 1 or more", lambda value: _is_whole(value) and value > 0)
]
FLAG = Annotated[bool, Kind("true or false", lambda value: isinstance(value, bool))]
LIST = Annotated[list, Kind("a list", lambda value: isinstance(value, list))]
SHARES = Annotated[
    Sequence[float],
    Kind("[low, high] with 0 <= low <= high <= 1", lambda value: _is_range(value, top=1)),
]
SIZES = Annotated[
    float | Sequence[float],
    Kind("a number of 0 or more, or [low, high] with 0 <= low <= high", _is_size),
]


def kind_of(annotation: object) -> Kind | None:
    """Return the ``Kind`` in an annotation such as ``COUNT`` or ``NUMBER | None``, if any."""
    if isinstance(annotation, Kind):
        return annotation
    return next(filter(None, map(kind_of, get_args(annotation))), None)


def check_arguments(
    given: object, taken: Mapping[str, object], required: Collection[str], what: str
) -> None:
    """Check the arguments that a config gives.

    Args:
        given: out of the config.
        taken: the annotation of each argument, such as ``COUNT``.
        required: names of those that must be given.
        what: whose arguments they are, for messages.

    Raises:
        ConfigError: ``given`` is no mapping, an argument in it is unknown, missing (the message
            lists all) or of a wrong value.
    """
    if not isinstance(given, dict) or set(given) - set(taken) or set(required) - set(given):
        raise ConfigError(f"{what} takes {', '.join(taken) or 'no arguments'}; given: {given!r}")
    for name, value in given.items():
        kind = kind_of(taken[name])
        if kind and not kind.fits(value):
            raise ConfigError(f"{what}: {name} must be {kind.words}, not {value!r}")


def arguments_of(function: Callable) -> dict[str, inspect.Parameter]:
    """Return the arguments of a function or class that a config may set."""
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if kind_of(p.annotation)}


def parse_named(
    item: object, known: Mapping[str, Callable], where: str
) -> tuple[str, dict[str, Any]]:
    """Read ``name`` or ``{name: {argument: value}}`` as (name, arguments).

    Args:
        known: the functions whose names and arguments are taken.
        where: the config's key, for messages.

    Raises:
        ConfigError: an unknown name (the message lists the known ones) or, as in
            ``check_arguments``, wrong arguments.
    """
    name, given = item, None
    if isinstance(item, dict) and len(item) == 1:
        [(name, given)] = item.items()
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
