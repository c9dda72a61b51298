"""Which records are explained, of a store or of files."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from util.console import note
from util.data.store import RecordStore
from util.errors import ConfigError, ECGError
from util.formats.any_file import Place
from util.handover.load import Applied
from util.leads import lead_index
from util.predicting.recordings import read_entry, why_unread
from util.recordings.flags import Given

RECORDS = 3  # where none is named


class Chosen(NamedTuple):
    """A record to explain.

    Attributes:
        name: of its files.
        row: its place among the records, which decides what reconstructions hide.
        signal: (leads, samples) in mV, with the leads of the network, at its rate.
    """

    name: str
    row: int
    signal: np.ndarray


def of_store(store: RecordStore, applied: Applied, names: Sequence[str] | None) -> list[Chosen]:
    """Return the records of these names; None: a few of those that have all leads.

    Raises:
        ConfigError: a record is not there or lacks a lead.
    """
    leads, known = applied.leads, [str(name) for name in store.records["record"]]
    usable = np.flatnonzero(store.has_leads(leads))
    if names is None:
        if not len(usable):
            raise ConfigError(f"no record of {store.path} has leads {' '.join(leads)}")
        rows = _spread(usable)
    else:
        rows = _named(names, known, str(store.path))
        short = [known[row] for row in rows if row not in usable]
        if short:
            raise ConfigError(
                f"--records {' '.join(short)}: without all of the leads {' '.join(leads)}"
            )
    return [Chosen(known[row], row, store.read(row, leads=leads).T) for row in rows]


def of_files(
    given: str, places: Sequence[Place], applied: Applied, names: Sequence[str] | None, said: Given
) -> list[Chosen]:
    """Return the recordings of these names; None: a few, with a note where one cannot be read.

    Args:
        given: where they lie, for errors.
        places: all of them.
        applied: the network.
        names: of some.
        said: what the command line says of recordings.

    Raises:
        ConfigError: one that was named is not there, cannot be read or lacks a lead; or none can.
    """
    known = [place.name for place in places]
    rows = _spread(np.arange(len(places))) if names is None else _named(names, known, given)
    twice = [name for name, count in Counter(known[row] for row in rows).items() if count > 1]
    if twice or names and any(known.count(name) > 1 for name in names):
        raise ConfigError(
            f"{given}: several recordings are called {(twice or names or [''])[0]}; give the file "
            "of one as --input"
        )
    found = []
    for row in rows:
        try:
            signal = _read(places[row], applied, said)
        except ECGError as error:
            why = f"{places[row]}: {why_unread(error)}"
            if names is not None or len(rows) == 1:
                raise ConfigError(why) from None
            note(why)
            continue
        found.append(Chosen(known[row], row, signal))
    if not found:
        raise ConfigError(f"{given}: none of {len(rows)} recordings could be read, as said above")
    return found


def _read(place: Place, applied: Applied, said: Given) -> np.ndarray:
    """The signal of a recording, with the rounding of a store."""
    entry = read_entry(place, [applied.fs], 0.0, applied.leads, said)
    counts = entry.counts[applied.fs][:, lead_index(applied.leads)]
    return (counts * np.float32(entry.scale[applied.fs])).T


def _spread(rows: np.ndarray) -> list[int]:
    """A few of the rows, and that they are."""
    if len(rows) > RECORDS:
        note(f"no --records given: {RECORDS} of {len(rows)}, spread evenly")
    places = np.linspace(0, len(rows) - 1, min(RECORDS, len(rows))).astype(int)
    return rows[places].tolist()


def _named(names: Sequence[str], known: Sequence[str], where: str) -> list[int]:
    """The rows of these names."""
    rows = {name: row for row, name in enumerate(known)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise ConfigError(
            f"--records {' '.join(missing)}: not in {where}; its first are {', '.join(known[:3])}"
        )
    return [rows[name] for name in dict.fromkeys(names)]
