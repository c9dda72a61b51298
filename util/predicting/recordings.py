"""Recordings to be predicted, out of files or a store, at the rates of the weights."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from util.data.store import RecordStore, quantise, spread
from util.errors import ConfigError, ECGError, RecordError, StoreError
from util.formats.any_file import Place, check_fs, find_places, needless_flags, read_recording
from util.formats.wfdb_files import UNDIAGNOSED
from util.jobs.setup import store_at
from util.leads import leads_of_cell
from util.predicting.heart_rate import heart_rate
from util.recordings.derived_leads import with_derived_leads
from util.recordings.flags import Given
from util.recordings.plausible import LOOKED_AT_SECONDS
from util.recordings.recording import Recording, resample_to

SHOWN_SECONDS = 10  # on a page
CHUNK_SAMPLES = 2_000_000  # samples a lead held in memory at a time: an hour of ECG at 500 Hz


@dataclass
class Entry:
    """One recording that could be read.

    Attributes:
        record: its name.
        path: of its file.
        remarks: what readers of its prediction should know.
        counts: by sampling rate, int16 (n, 12) as a store keeps them.
        scale: by sampling rate, mV a count.
        shown: its first ten seconds at its own rate, in mV.
        seconds: how long it is.
        beats: its heart rate a minute, None where it is not clear.
    """

    record: str
    path: Path
    remarks: list[str]
    counts: dict[int, np.ndarray]
    scale: dict[int, float]
    shown: Recording
    seconds: float
    beats: float | None


class Stored(NamedTuple):
    """A record of a store, as a ``Place`` is one of a file.

    Attributes:
        stores: the store at each rate of the weights.
        row: of the record.
        finest: the store at its highest rate, which people are shown.
    """

    stores: dict[int, RecordStore]
    row: int
    finest: RecordStore

    @property
    def about(self) -> pd.Series:
        """Its row of records.csv, the same for all rates but for start and length."""
        return next(iter(self.stores.values())).records.iloc[self.row]

    @property
    def name(self) -> str:
        """The record's name."""
        return self.about["record"]

    def __str__(self) -> str:
        return self.about["path"] or self.name


Source = Place | Stored  # of a recording


def find_sources(given: str, rates: list[int], said: Given) -> list[Source]:
    """Return the recordings of a file, a folder or a store.

    Raises:
        ConfigError: flags say of a store what it says itself, or --fs is missing.
    """
    if not is_store(given):
        places = find_places(given, said)
        check_fs(places, said)
        return [*places]
    refuse_flags(said, derives=True)
    stores = {fs: store_at(given, fs, "--input") for fs in rates}
    finest = finest_store(given)
    return [Stored(stores, row, finest) for row in range(len(finest))]


def finest_store(place: str | Path) -> RecordStore:
    """Open the store of the highest rate in a folder; a StoreError where there is none."""
    rates = [int(path.parent.name[2:]) for path in Path(place).glob("fs*/meta.json")]
    if not rates:
        raise StoreError(f"{place} holds no store")
    return store_at(place, max(rates))


def is_store(place: str | Path) -> bool:
    """Return whether a folder holds stores, fs100/, fs250/, ..."""
    return any(Path(place).glob("fs*/meta.json"))


def refuse_flags(said: Given, *, derives: bool = False) -> None:
    """Raise a ConfigError where flags say of a store what it says itself.

    Args:
        said: by them.
        derives: whether leads are derived of the store's records, as --no_derive forbids.
    """
    others = [name for name in ("lead_names", "trim", "assume") if getattr(said, name)]
    needless = [*needless_flags(said), *(f"--{name}" for name in others)]
    needless += ["--no_derive"] * (not said.derive and not derives)
    if needless:
        raise ConfigError(
            f"{', '.join(needless)}: no effect on a store, whose records are millivolts of named "
            "leads; leave it out"
        )


def chunked(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield lists of entries, each of about CHUNK_SAMPLES at most."""
    chunk: list[Entry] = []
    samples = 0
    for entry in entries:
        chunk.append(entry)
        samples += max(len(counts) for counts in entry.counts.values())
        if samples > CHUNK_SAMPLES:
            yield chunk
            chunk, samples = [], 0
    if chunk:
        yield chunk


def read_entry(
    source: Source,
    rates: list[int],
    longest_crop: float,
    leads: Iterable[str],
    said: Given,
) -> Entry:
    """Read a recording at several rates, with the rounding of a store.

    Args:
        source: where it lies, in a file or a store.
        rates: sampling rates in Hz.
        longest_crop: seconds; a shorter recording gets a remark.
        leads: which it must have.
        said: what the command line says of recordings.

    Raises:
        RecordError: the recording cannot be read, or lacks a lead.
    """
    if isinstance(source, Stored):
        entry = _read_stored(source, said)
    else:
        entry = _read_file(source, rates, said)
    missing = [lead for lead in leads if lead not in entry.shown.leads]
    if missing:
        raise RecordError(f"lead {', '.join(missing)} missing, which the model needs")
    if UNDIAGNOSED in entry.remarks:
        entry.remarks.remove(UNDIAGNOSED)  # it is why we are asked
    if entry.seconds < longest_crop:
        entry.remarks.append(
            f"{entry.seconds:g} s is shorter than the model's crop of {longest_crop:g} s: padded "
            "with the mean"
        )
    return entry


def _read_file(place: Place, rates: list[int], said: Given) -> Entry:
    """The entry of a recording in a file."""
    recording = read_recording(place, said)
    resampled = resample_to(recording.signal, recording.fs, rates)
    recordings = {fs: replace(recording, fs=fs, signal=resampled[fs]) for fs in rates}
    return _entry(place, recording, recordings)


def _entry(source: Source, shown: Recording, recordings: dict[int, Recording]) -> Entry:
    """The entry of a recording at several rates, and as it is shown."""
    counts, scale = {}, {}
    for fs, recording in recordings.items():
        columns, microvolts = quantise(recording.signal)
        counts[fs] = spread(columns, recording.leads)
        scale[fs] = microvolts / 1000
    return Entry(
        record=source.name,
        path=Path(str(source)),
        remarks=[*shown.flags],
        counts=counts,
        scale=scale,
        shown=replace(shown, signal=shown.signal[: int(SHOWN_SECONDS * shown.fs)].copy()),
        seconds=len(shown.signal) / shown.fs,
        beats=heart_rate(shown.signal[: int(LOOKED_AT_SECONDS * shown.fs)], shown.fs),
    )


def _read_stored(stored: Stored, said: Given) -> Entry:
    """The entry of a record of a store, whose counts stay as they are but for derived leads."""
    about = stored.about
    leads = leads_of_cell(about["leads"]) or ()
    flags = tuple(flag for flag in about["flags"].split("; ") if flag)
    recordings = {
        fs: Recording(
            store.read(stored.row, leads=leads),
            leads,
            fs,
            age=math.nan if pd.isna(about["age"]) else float(about["age"]),
            sex=str(about["sex"]),
            flags=flags,
        )
        for fs, store in {**stored.stores, stored.finest.fs: stored.finest}.items()
    }
    if said.derive:
        recordings = {fs: with_derived_leads(one) for fs, one in recordings.items()}
    shown = recordings[stored.finest.fs]
    entry = _entry(stored, shown, {fs: recordings[fs] for fs in stored.stores})
    if shown.leads == leads:
        for fs, store in stored.stores.items():
            entry.counts[fs] = store.counts(stored.row)
            entry.scale[fs] = store.records["scale"].iloc[stored.row]
    return entry


def why_unread(error: Exception) -> str:
    """Return the remark on a recording that could not be read."""
    kind = "" if isinstance(error, ECGError) else f"unexpected {type(error).__name__}: "
    return f"not read: {kind}{error}"


class MemoryStore:
    """Entries at one rate, with as much of a RecordStore as a CropDataset needs.

    Args:
        entries: the recordings.
        fs: sampling rate in Hz.
    """

    def __init__(self, entries: Sequence[Entry], fs: int):
        self.entries, self.fs = entries, fs
        self.records = pd.DataFrame(
            {
                "length": [len(entry.counts[fs]) for entry in entries],
                "scale": [entry.scale[fs] for entry in entries],
            }
        )

    def __len__(self) -> int:
        return len(self.entries)

    def has_leads(self, leads: Sequence[str]) -> np.ndarray:
        """Return that all entries have the leads, as ``read_entry`` saw to it."""
        return np.ones(len(self), bool)

    def counts(self, i: int, start: int, length: int) -> np.ndarray:
        """Return int16 (length, 12) of recording i."""
        return self.entries[i].counts[self.fs][start : start + length]
