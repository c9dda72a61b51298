"""Where the tensors of an encoder stand in a file: under which key, behind which prefix.

DDP, torch.compile, Lightning and others put prefixes before names and files into wrappers.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch

# Where several fit alike, the first of these is taken: ours before the others', and JEPA's teacher
# before its student, which is called encoder
WRAPPERS = ("", "model", "state_dict", "model_state_dict", "encoder", "teacher", "student")
PREFIXES = ("", "teacher", "encoder", "classifier", "backbone", "model", "module", "student")
# what wrapped submodules put into the middle of names
INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
DEEPEST = 4  # wrappers within wrappers
SHOWN = 3  # names that a message quotes


@dataclass(frozen=True)
class Part:
    """Tensors of a file.

    Attributes:
        state: by name, without the prefix.
        key: under which they stand, with dots between nested keys; "" for the file itself.
        prefix: that their names in the file begin with.
        others: further places in the file that fit as well.
    """

    state: dict[str, torch.Tensor]
    key: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Return key and prefix in words, "" for the plain place."""
        key = "" if self.key in ("", "model") else self.key
        words = [f"under '{key}'"] * bool(key)
        words += [f"whose names begin with {self.prefix}"] * bool(self.prefix)
        return ", ".join(words)

    @property
    def said(self) -> str:
        """Return ``place`` as the rest of a sentence, with the places that fit as well."""
        fitting = f" ({' and '.join(self.others)} would fit as well)" if self.others else ""
        return f", {self.place}{fitting}" if self.place or fitting else ""


def find_part(content: Mapping[str, Any], wanted: Set[str]) -> Part:
    """Return the tensors of a file that have most of the wanted names behind some prefix; where
    none does, all of the fullest wrapper.
    """
    found: list[tuple[int, Part]] = []
    for key, state in _wrapped(content):
        for names in (list(state), [_plain(name) for name in state]):
            tensors = dict(zip(names, state.values()))
            for prefix, count in _prefixes(names, wanted).items():
                found.append((count, _behind(tensors, key, prefix)))
    if not found:
        wrapped = [Part(state, key) for key, state in _wrapped(content)]
        return max(wrapped, key=lambda part: len(part.state), default=Part({}))
    most = max(count for count, _ in found)
    best, *others = sorted((part for count, part in found if count == most), key=_preference)
    # A wrapped module that hands its names on twice is one place
    places = {part.place for part in others if part.state.keys() == best.state.keys()}
    return Part(best.state, best.key, best.prefix, tuple(sorted(places - {best.place, ""})))


def quote_names(state: Mapping[str, Any], wanted: Sequence[str]) -> str:
    """Return a sentence with the first names of a file beside the model's."""
    there, here = (", ".join(list(names)[:SHOWN]) + ", ..." for names in (state, wanted))
    return f"the file's names begin with {there}; this model's with {here}"


def _wrapped(
    content: Mapping[str, Any], key: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every dict in a file that holds tensors by name, with the keys that lead to it."""
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield key, tensors
    for name, value in named.items():
        if isinstance(value, dict) and depth < DEEPEST:
            yield from _wrapped(value, f"{key}.{name}" if key else name, depth + 1)


def _plain(name: str) -> str:
    for inserted in INSERTED:
        name = name.replace(inserted, "")
    return name


def _prefixes(names: Sequence[str], wanted: Set[str]) -> Counter[str]:
    """How many of the names are wanted ones behind each prefix, "" or one that ends in a dot."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    return counts


def _behind(tensors: dict[str, torch.Tensor], key: str, prefix: str) -> Part:
    state = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    return Part(state, key, prefix)


def _preference(part: Part) -> tuple[int, int, int]:
    """The smaller, the sooner a part is taken."""
    last = part.prefix.removesuffix(".").rpartition(".")[2]
    return _rank(part.key, WRAPPERS), _rank(last, PREFIXES), len(part.prefix)


def _rank(name: str, known: Sequence[str]) -> int:
    return known.index(name) if name in known else len(known)
