"""Records to be embedded, a piece at a time: of a store, or of files in any format."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, cast

import numpy as np
import pandas as pd

from util.console import note
from util.data.store import RecordStore, checksum
from util.errors import ConfigError
from util.files import safe_cell
from util.formats.any_file import Place, check_fs, find_places
from util.handover.load import AppliedEncoder
from util.jobs.setup import store_at
from util.leads import parse_leads
from util.predicting.recordings import (
    Entry,
    MemoryStore,
    chunked,
    is_store,
    read_entry,
    refuse_flags,
    why_unread,
)
from util.recordings.flags import Given

STORED, FILES = 4096, 256  # records a piece
UNREAD = ("record", "file", "reason")  # columns of the list of what could not be read


class Part(NamedTuple):
    """Records that are computed together.

    Attributes:
        store: that holds them.
        rows: of the store.
        about: a line a record, for people.
    """

    store: RecordStore
    rows: np.ndarray
    about: pd.DataFrame


class Records(Protocol):
    """What is embedded.

    Attributes:
        size: records a piece.
        fingerprint: changes with the records.
        unread: cells of ``UNREAD`` for each that could not be read, until they are taken away.
    """

    size: int
    fingerprint: str
    unread: list[dict[str, str]]

    def __len__(self) -> int: ...

    def read(self, first: int, last: int) -> Iterator[Part]:
        """Yield records first to last - 1, as many at a time as fit into memory."""
        ...

    def finish(self, about: pd.DataFrame) -> None:
        """Say what is odd about the lines of all that were embedded."""
        ...


def records_at(given: str, encoder: AppliedEncoder, said: Given) -> Records:
    """Return the records of a store, a folder or a file.

    Args:
        given: the place.
        encoder: that will see them.
        said: what the command line says of recordings.

    Raises:
        ECGError: there are none; ConfigError: flags say of them what they say themselves.
    """
    if not is_store(given):
        places = find_places(given, said)
        check_fs(places, said)
        return FileRecords(places, encoder, said)
    refuse_flags(said)
    return StoredRecords(store_at(given, encoder.fs, "--input"), encoder.leads)


class StoredRecords:
    """The records of a store that have some leads.

    Raises:
        ConfigError: none has.
    """

    size = STORED

    def __init__(self, store: RecordStore, leads: tuple[str, ...]) -> None:
        self.store, self.fingerprint = store, store.meta["records_crc32"]
        self.unread: list[dict[str, str]] = []
        self.rows = np.flatnonzero(store.has_leads(leads))
        left_out = len(store) - len(self.rows)
        if left_out:
            note(f"records that lack one of the leads {' '.join(leads)}, left out: {left_out}")
        if not len(self.rows):
            raise ConfigError(f"no record of {store.path} has the leads of the encoder")

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, first: int, last: int) -> Iterator[Part]:
        """Yield records first to last - 1; see ``Records``."""
        rows = self.rows[first:last]
        yield Part(self.store, rows, self.store.records[["record", "database"]].iloc[rows])

    def finish(self, about: pd.DataFrame) -> None:
        """Say nothing more."""


class FileRecords:
    """Recordings in files, with the rounding of a store; what cannot be read is left out.

    Args:
        places: where they lie.
        encoder: that will see them.
        said: what the command line says of them.
    """

    size = FILES

    def __init__(self, places: list[Place], encoder: AppliedEncoder, said: Given) -> None:
        self.places, self.said, self.fs = places, said, encoder.fs
        self.unread: list[dict[str, str]] = []
        self.leads = parse_leads(encoder.leads)
        self.seconds = encoder.cropping.length / encoder.fs
        states = {file: file.stat() for file in dict.fromkeys(place.file for place in places)}
        files = [f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states.items()]
        names = [place.name for place in places]
        self.fingerprint = checksum("\n".join([*files, *names, repr(said)]).encode())

    def __len__(self) -> int:
        return len(self.places)

    def read(self, first: int, last: int) -> Iterator[Part]:
        """Yield records first to last - 1; see ``Records``."""
        for entries in chunked(self._entries(self.places[first:last])):
            store = cast(RecordStore, MemoryStore(entries, self.fs))
            lines = [(entry.record, str(entry.path), "; ".join(entry.remarks)) for entry in entries]
            about = pd.DataFrame(lines, columns=["record", "file", "remark"]).map(safe_cell)
            yield Part(store, np.arange(len(entries)), about)

    def _entries(self, places: list[Place]) -> Iterator[Entry]:
        for place in places:
            try:
                yield read_entry(place, [self.fs], self.seconds, self.leads, self.said)
            except Exception as error:  # as an untrusted file can raise anything
                why = why_unread(error)
                note(f"{place}: {why}")
                self.unread.append({"record": place.name, "file": str(place), "reason": why})

    def finish(self, about: pd.DataFrame) -> None:
        """Say which names several have; see ``Records``."""
        names = about["record"]
        again = names[names.duplicated()]
        if len(again):
            note(
                f"recordings whose name another has, told apart by the column file: {len(again)}, "
                f"such as {again.iloc[0]}"
            )
