"""Many recordings predicted, in pieces that fit into memory, with a summary of all."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from util.console import progress_bar
from util.errors import RecordError
from util.files import safe_cell, write_frame, write_json
from util.predicting.answers import Answer, Model
from util.predicting.ensemble import leads_of, longest_crop, probabilities_of, rates_of
from util.predicting.recordings import (
    Entry,
    Source,
    chunked,
    read_entry,
    why_unread,
)
from util.recordings.flags import Given

SUMMARY = "summary"


@dataclass
class PredictionJob:
    """Predictions of recordings, and where they go.

    Attributes:
        model: that predicts.
        device: where it is.
        said: what the command line says of recordings.
        folder: of all files.
        pages: endings of the pages to draw, .png and .pdf.
        json: whether JSON files lie beside the CSV files.
        stop: set where no further recording is to be predicted.
        rows: of the summary, by the recording's place.
        failed: those that could not be read, likewise.
    """

    model: Model
    device: torch.device
    said: Given
    folder: Path
    pages: Sequence[str] = ()
    json: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=lambda: {SUMMARY: ""})

    def run(self, sources: Sequence[Source]) -> None:
        """Predict recordings and write their files and the summary."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with progress_bar(total=len(sources), unit="record", desc="predicting") as bar:
            for entries in chunked(self._entries(sources, bar)):
                probabilities = probabilities_of(entries, self.model.ensemble, self.device)
                for entry, values in zip(entries, probabilities):
                    self._write(self.model.answer(entry, values))
                    bar.update()
        self._write_summary()

    def _entries(self, sources: Sequence[Source], bar: tqdm) -> Iterator[Entry]:
        """Entries of the recordings that can be read, until asked to stop."""
        for source in sources:
            if self.stop.is_set():
                break
            entry = self._read(source)
            if entry is None:
                bar.update()
            else:
                yield entry

    def _read(self, source: Source) -> Entry | None:
        """The entry of a recording; None where it cannot be read, as the summary then says."""
        place, ensemble = str(source), self.model.ensemble
        self.rows.pop(place, None)
        self.failed.pop(place, None)
        try:
            if self.names.setdefault(source.name, place) != place:
                raise RecordError(
                    f"the name {source.name} is taken; give the recording another one"
                )
            return read_entry(
                source, rates_of(ensemble), longest_crop(ensemble), leads_of(ensemble), self.said
            )
        except Exception as error:
            # An untrusted file can raise anything, which must not stop the rest.
            row = {"record": source.name, "file": place, "remark": why_unread(error)}
            self.failed[place] = {name: safe_cell(value) for name, value in row.items()}
            return None

    def _write(self, answer: Answer) -> None:
        """Write the files of one recording."""
        answer.write_challenge_csv(self.folder)
        if self.pages:
            answer.write_pages(self.folder, self.pages)
        place = str(answer.entry.path)
        if self.json:
            answer.write_json(self.folder)
            self.facts[place] = answer.facts()
        self.rows[place] = answer.row()

    def _write_summary(self) -> None:
        table = pd.DataFrame([*self.rows.values(), *self.failed.values()])
        write_frame(self.folder / f"{SUMMARY}.csv", table, float_format="%.6g")
        if self.json:
            told = [self.facts[place] for place in self.rows]
            write_json(self.folder / f"{SUMMARY}.json", [*told, *self.failed.values()])

    def report(self) -> None:
        """Print what was done."""
        for row in self.failed.values():
            print(f"{row['file']}: {row['remark']}")
        print(
            f"{len(self.rows)} recordings predicted, {len(self.failed)} not read; "
            f"{self.folder / SUMMARY}.csv lists them all"
        )
        odd = sum(bool(row.get("contradictions")) for row in self.rows.values())
        if odd:
            print(
                f"{odd} recordings have diagnoses that exclude each other; see the column "
                "contradictions"
            )
