"""In which keys two configs of a program differ, and which of them a resumed run may change."""

from typing import Any

from util.config.fields import REQUIRED, Key, keys_of
from util.config.keys import JobConfig
from util.config.load import divide
from util.config.published import translate

MATTERS = ("dataset.store", "train.epochs")  # which a resumed run may change, but not a new one
ORDERED = "dataset.classes"  # a mapping whose order is that of the outputs


def differences(old: dict, new: dict, program: type[JobConfig], where: str) -> dict[str, str]:
    """Return the dotted keys in which two resolved configs differ, with ``Key.resumed`` of each.

    A key that the old config lacks has its default there; keys that are no longer known do not
    count.

    Args:
        old: as a checkpoint keeps it, perhaps one of an earlier version.
        new: of this version.
        program: of both.
        where: the old one comes from, for messages.
    """
    old, _ = divide(translate(old, where), program)
    return _differences(old, new, program, "")


def different_job(old: dict, new: dict, program: type[JobConfig], where: str) -> list[str]:
    """Return the dotted keys by which two runs are of different jobs: those that a resumed run may
    not change whenever it likes, and ``MATTERS``.

    Args: as for ``differences``, but both configs may be of an earlier version.
    """
    changed = differences(old, divide(translate(new, where), program)[0], program, where)
    return [name for name, may in changed.items() if may != "free" or name in MATTERS]


def _differences(old: dict, new: dict, section: type, prefix: str) -> dict[str, str]:
    changed: dict[str, str] = {}
    for name, spec in keys_of(section).items():
        path = prefix + name
        if not isinstance(spec, Key):
            changed |= _differences(old.get(name) or {}, new.get(name) or {}, spec, f"{path}.")
        elif name in old or spec.default is not REQUIRED:
            names = _names(path, old.get(name, spec.default), new.get(name, spec.default))
            changed |= dict.fromkeys(names, spec.resumed)
    return changed


def _names(path: str, was: Any, now: Any) -> list[str]:
    """The dotted names in which two values of a key differ, [] where they are equal."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return [] if was == now else [path]
    inner = sorted({*was, *now}, key=str)
    names = [name for key in inner for name in _names(f"{path}.{key}", was.get(key), now.get(key))]
    reordered = path == ORDERED and [*was] != [*now]
    return names or [path] * reordered
