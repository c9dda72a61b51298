"""What an import reads: a list of items and a reader.

An Item names one recording and where it lies; the reader is one function

    read(file, row, note) -> Recording

that reads it: ``file`` is the item's file (a Path), ``row`` its place in a file of many
recordings (None where it has the file to itself), and ``note(path)`` must be called with every
other file that the recording depends on, before that is opened.  A RecordError says why a
recording cannot be used: it goes to skipped.csv.  An OSError or a MemoryError may be gone next
time.  The reader is sent to worker processes, so it is a function of a module, perhaps in
functools.partial.

Items are made when they are asked for, see ``Lazy``: what an import holds in memory hardly grows
with their number.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_preparation.known_sets import find_copies
from util.files import find_files
from util.recordings.plausible import Told
from util.recordings.recording import printable

if TYPE_CHECKING:
    from util.recordings.recording import Recording

Note = Callable[[Path], None]
COPY = "copy of a recording that is kept"  # a reason in skipped.csv, before its path
Reader = Callable[[Path, int | None, Note], "Recording"]


class Item(NamedTuple):
    """One recording.

    Attributes:
        record: its name, unlike all others.
        database: where it belongs.
        file: relative to the input folder (POSIX).
        row: its place in that file; None where it is the file's only recording.
    """

    record: str
    database: str
    file: str
    row: int | None = None

    @property
    def path(self) -> str:
        """Where it came from, for tables: the file, and the record's name where that has many."""
        return self.file if self.row is None else f"{self.file}/{self.record}"

    @property
    def about(self) -> dict[str, str]:
        """Its cells in tables."""
        return {"record": self.record, "database": self.database, "path": self.path}


class Lazy(Sequence):
    """A sequence whose things are made when they are asked for, so that it takes no memory.

    Args:
        number: of things.
        make: returns the thing at a place, from 0.
    """

    def __init__(self, number: int, make: Callable[[int], Any]) -> None:
        self.number, self.make = number, make

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.make(one) for one in range(self.number)[place]]
        return self.make(range(self.number)[place])


@dataclass(frozen=True)
class Source:
    """What to import.

    Attributes:
        folder: what the items' files are relative to.
        items: in the order of the store; a list, or ``Lazy`` where they are many.
        read: the reader, see above.
        options: plain values by flag that the recordings depend on besides the files; where one
            changes, all is made again.  They are kept in the store's ``meta.json``, so they
            name no path of this machine.
        program: the script, for the command in ``meta.json``.
        lead_names: {name in lower case: the lead it stands for}.
        skipped: rows of skipped.csv that the plan left out.
        told: what flags say of the recordings.
        assumed: sentences on what nobody said, with the flag that would.
        left_out: sentences on what was not taken for a recording.
    """

    folder: Path
    items: Sequence[Item]
    read: Reader
    program: str
    options: dict = field(default_factory=dict)
    lead_names: dict = field(default_factory=dict)
    skipped: list[dict] = field(default_factory=list)
    told: Told = Told()
    assumed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def database_name(text: str) -> str:
    """Return a name for a database, of letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip("-.") or "unnamed"


def endings_there(folder: Path) -> str:
    """Return a sentence's end on the files of a folder that holds none of those looked for."""
    endings = Counter(Path(name).suffix or "without an ending" for name in find_files(folder, ""))
    kinds = [f"{count} {ending}" for ending, count in endings.most_common(5)]
    return f"; what is there: {printable(', '.join(kinds))}" if kinds else "; it is empty"


def without_duplicates(items: Sequence[Item]) -> tuple[Sequence[Item], list[dict]]:
    """Return the items whose name no earlier one has, and rows of skipped.csv for the others."""
    twice = repeated(lambda: (item.record for item in items))
    if not twice:
        return items, []
    kept: list[int] = []
    duplicates: list[dict] = []
    first: dict[str, Item] = {}
    for place, item in enumerate(items):
        if item.record in first:
            one = first[item.record]
            cure = "; import each database by itself and join them" * (
                one.database != item.database
            )
            duplicates.append(
                item.about | {"reason": f"duplicate record name: the first is {one.path}{cure}"}
            )
        else:
            kept.append(place)
            if item.record in twice:
                first[item.record] = item
    return Lazy(len(kept), lambda place: items[kept[place]]), duplicates


def without_copies(source: Source) -> Source:
    """Return a source without recordings whose names say that they are copies of another; rows
    of skipped.csv name that.
    """
    items = source.items
    places, first = find_copies((item.database, item.record) for item in items)
    if not len(places):
        return source
    rows = [
        items[place].about | {"reason": f"{COPY}: {items[one].path}"}
        for place, one in zip(places.tolist(), first.tolist())
    ]
    kept = np.delete(np.arange(len(items)), places)
    return replace(
        source,
        items=Lazy(len(kept), lambda place: items[int(kept[place])]),
        skipped=[*source.skipped, *rows],
    )


def repeated(names: Callable[[], Iterable[str]]) -> set[str]:
    """Return the names that come more than once; ``names()`` starts to iterate over them.

    Of each name some 10 bytes are in memory, whatever its length: a number that hardly two names
    share.
    """
    hashes = np.fromiter(map(hash, names()), np.int64)
    hashes.sort()
    doubtful = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    counts = Counter(name for name in names() if hash(name) in doubtful) if doubtful else {}
    return {name for name, count in counts.items() if count > 1}
