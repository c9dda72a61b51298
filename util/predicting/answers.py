"""What is said of one recording, and the files that say it: CSV, JSON, a page."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from util.challenge import CLASSES, NAMES
from util.evaluation.figures import save_figure
from util.evaluation.trained import Trained
from util.files import safe_cell, write_json, write_text
from util.predicting.certainty import Certainty
from util.predicting.contradictions import contradictions
from util.predicting.decisions import Decision
from util.predicting.page import Bar, Words, draw_page
from util.predicting.recordings import Entry

RESEARCH = "research use only"


@dataclass(frozen=True)
class Model:
    """What an ensemble answers, and how its answers are decided.

    Attributes:
        ensemble: the weights.
        people: how page and summary are decided.
        challenge: how the Challenge's CSV is.
        certainty: what is known of the probabilities.
    """

    ensemble: Sequence[Trained]
    people: Decision
    challenge: Decision
    certainty: Certainty = Certainty()

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the codes of the classes."""
        return self.ensemble[0].codes

    @property
    def names(self) -> tuple[str, ...]:
        """Return the classes in words."""
        return NAMES if self.codes == CLASSES else self.ensemble[0].classes

    @property
    def is_regression(self) -> bool:
        """Return whether the outputs are numbers, and not probabilities."""
        return self.ensemble[0].task == "regression"

    def answer(self, entry: Entry, probabilities: np.ndarray) -> "Answer":
        """Return the answer to one recording, probabilities (classes,)."""
        outputs, challenge = (
            decision.outputs(probabilities[None])[0] for decision in (self.people, self.challenge)
        )
        several = self.ensemble[0].task == "multilabel"
        pairs = contradictions(self.codes, outputs) if several else []
        return Answer(self, entry, probabilities, outputs, challenge, pairs)


@dataclass(frozen=True)
class Answer:
    """The answer to one recording.

    Attributes:
        model: that gives it.
        entry: the recording.
        probabilities: (classes,); in regression numbers in the labels' own units.
        outputs: bool (classes,), for people.
        challenge: bool (classes,), for the Challenge's CSV.
        pairs: of outputs that exclude each other.
    """

    model: Model
    entry: Entry
    probabilities: np.ndarray
    outputs: np.ndarray
    challenge: np.ndarray
    pairs: list[tuple[int, int]]

    @property
    def diagnoses(self) -> list[str]:
        """Return the classes that are output, in words, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [self.model.names[c] for c in order if self.outputs[c]]

    @property
    def contradictions(self) -> list[str]:
        """Return the pairs that exclude each other, in words."""
        names = self.model.names
        return [f"{names[one]} with {names[other]}" for one, other in self.pairs]

    def row(self) -> dict[str, Any]:
        """Return the recording's row of the summary."""
        said = {}
        if not self.model.is_regression:
            said = {
                "diagnoses": "; ".join(self.diagnoses),
                "contradictions": "; ".join(self.contradictions),
            }
        return {
            "record": self.entry.record,
            "file": safe_cell(str(self.entry.path)),
            "remark": "; ".join(self.entry.remarks),
            **said,
            **dict(zip(self.model.ensemble[0].classes, self.probabilities)),
        }

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        entry, model, limits = self.entry, self.model, self.model.people.thresholds
        number = "prediction" if model.is_regression else "probability"
        classes, sure = [], model.certainty.facts(self.probabilities)
        for c, (code, name) in enumerate(zip(model.codes, model.names)):
            about: dict[str, Any] = {"code": code, "name": name}
            about[number] = _finite(float(self.probabilities[c]))
            if limits is not None:
                about["threshold"] = _finite(float(limits[c]))
                about["threshold_of_few"] = c in model.people.unsure
            if not model.is_regression:
                about["output"] = bool(self.outputs[c])
            classes.append(about | sure[c])
        return {
            "record": entry.record,
            "file": str(entry.path),
            "age": _finite(entry.shown.age),
            "sex": entry.shown.sex,
            "heart_rate": entry.beats and round(entry.beats, 1),
            "seconds": round(entry.seconds, 3),
            "fs": entry.shown.fs,
            "diagnoses": [] if model.is_regression else self.diagnoses,
            "contradictions": self.contradictions,
            "remarks": entry.remarks,
            "classes": classes,
            "decided": model.people.words,
            "model": model.ensemble[0].config.model_name,
            "weights": [str(trained.path) for trained in model.ensemble],
            "date": datetime.date.today().isoformat(),
            "use": RESEARCH,
        }

    def write_challenge_csv(self, folder: Path) -> None:
        """Write <record>.csv as the Challenge's scorer reads it; of a regression without line 3."""
        outputs = ",".join(str(int(output)) for output in self.challenge)
        lines = [
            f"#{self.entry.record}",
            ",".join(self.model.codes),
            *([] if self.model.is_regression else [outputs]),
            ",".join(f"{probability:.6g}" for probability in self.probabilities),
        ]
        write_text(folder / f"{self.entry.record}.csv", "\n".join(lines) + "\n")

    def write_json(self, folder: Path) -> None:
        """Write <record>.json."""
        write_json(folder / f"{self.entry.record}.json", self.facts())

    def write_pages(self, folder: Path, endings: Sequence[str]) -> None:
        """Write the page as <record>.png, <record>.pdf."""
        limits = self.model.people.thresholds
        odd = {c for pair in self.pairs for c in pair}
        bars = [
            Bar(
                name,
                float(self.probabilities[c]),
                None if limits is None else float(limits[c]),
                bool(self.outputs[c]),
                c in odd,
            )
            for c, name in enumerate(self.model.names)
        ]
        figure = draw_page(self.entry, self._words(), bars)
        for ending in endings:
            save_figure(figure, folder / f"{self.entry.record}{ending}")

    def _words(self) -> Words:
        model = self.model
        weights = [trained.path.name for trained in model.ensemble]
        named = ", ".join(dict.fromkeys(weights))
        return Words(
            diagnoses=self.diagnoses,
            contradictions=self.contradictions,
            decided=model.people.words,
            model=f"{model.ensemble[0].config.model_name}, "
            + (named if len(weights) == 1 else f"{len(weights)} weights: {named}"),
            date=datetime.date.today().isoformat(),
            is_regression=model.is_regression,
            certainty=model.certainty.lines(self.probabilities, self.outputs, model.names),
            unsure=[model.names[c] for c in sorted(model.people.unsure) if self.outputs[c]],
        )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
