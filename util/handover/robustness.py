"""What a classifier scores when its test records are disturbed, as they are in hospitals.

Every disturbance is a function of one record in millivolts; its random numbers follow from the
seed and the record's name, so that all models see the same disturbed records.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from util.console import note, progress_bar
from util.handover.load import AppliedClassifier
from util.leads import LEADS
from util.recordings.derived_leads import limb_leads
from util.recordings.lead_order import LIMB
from util.scoring.predictions import Predictions
from util.signals.resampling import resample

SHORT = "shorter"
# Electrodes taken for one another: the lead, and its sign, that a lead then shows.  With the arms
# exchanged I turns its sign, II and III change places, and so do aVR and aVL.
SWAPS = {
    "left and right arm": {
        "I": ("I", -1),
        "II": ("III", 1),
        "III": ("II", 1),
        "aVR": ("aVL", 1),
        "aVL": ("aVR", 1),
    },
    "V1 and V2": {"V1": ("V2", 1), "V2": ("V1", 1)},
}
RandomSource = np.random.Generator


@dataclass(frozen=True)
class Disturbance:
    """One row of the panel.

    Attributes:
        kind: what is done.
        strength: how much of it, in words.
        apply: (signal float64 (leads, time) in mV, fs, leads, random) -> the same of any length.
    """

    kind: str
    strength: str
    apply: Callable[[np.ndarray, float, tuple[str, ...], RandomSource], np.ndarray]

    @property
    def title(self) -> str:
        """Return kind and strength in words."""
        return f"{self.kind} {self.strength}"


def panel(fs: float, leads: Sequence[str] = LEADS) -> list[Disturbance]:
    """Return the disturbances that such records can show, the undisturbed records first.

    Args:
        fs: rate of the records in Hz: lower rates alone change anything.
        leads: names of theirs.
    """
    rows = [Disturbance("none", "", lambda x, fs, leads, random: x)]
    rows += [_muscle(sigma) for sigma in (0.05, 0.1, 0.2)]
    rows += [_wave("wander", 0.3, size) for size in (0.2, 0.5, 1.0)]
    rows += [_wave("mains", 50.0, size) for size in (0.05, 0.1, 0.2)]
    rows += [_gain(factor) for factor in (0.5, 2.0)]
    rows += [_rate(rate) for rate in (100, 250, 500) if rate < fs]
    rows += [_part(seconds) for seconds in (5.0, 2.5)]
    lost = (("V1",), ("V6",), ("I",), LEADS[6:])
    rows += [_without(some) for some in lost if {*some} & {*leads}]
    return rows + [_swapped(name) for name in SWAPS if _shows(name, leads)]


def _muscle(sigma: float) -> Disturbance:
    def apply(x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource) -> np.ndarray:
        return x + sigma * random.standard_normal(x.shape)

    return Disturbance("muscle noise", f"{sigma:g} mV", apply)


def _wave(kind: str, frequency: float, size: float) -> Disturbance:
    def apply(x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource) -> np.ndarray:
        # mains above half the rate would appear as another frequency, as in a real recorder
        phase = random.uniform(0, 2 * np.pi, (len(x), 1))
        return x + size * np.sin(2 * np.pi * frequency * np.arange(x.shape[1]) / fs + phase)

    return Disturbance(kind, f"{size:g} mV, {frequency:g} Hz", apply)


def _gain(factor: float) -> Disturbance:
    return Disturbance("gain", f"x {factor:g}", lambda x, fs, leads, random: x * factor)


def _rate(rate: float) -> Disturbance:
    def apply(x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource) -> np.ndarray:
        return resample(resample(torch.from_numpy(x), fs, rate), rate, fs).numpy()

    return Disturbance("recorded at", f"{rate:g} Hz", apply)


def _part(seconds: float) -> Disturbance:
    def apply(x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource) -> np.ndarray:
        samples = min(int(seconds * fs), x.shape[1])
        start = random.integers(x.shape[1] - samples + 1)
        return x[:, start : start + samples]

    return Disturbance(SHORT, f"{seconds:g} s", apply)


def _without(lost: tuple[str, ...]) -> Disturbance:
    def apply(x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource) -> np.ndarray:
        x = x.copy()
        x[[leads.index(lead) for lead in lost if lead in leads]] = 0
        return x

    name = " ".join(lost) if len(lost) < 3 else f"{lost[0]} to {lost[-1]}"
    return Disturbance("flat", name, apply)


def _swapped(name: str) -> Disturbance:
    def apply(x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource) -> np.ndarray:
        known = dict(zip(leads, x))
        if pair := _sources(leads):
            known = limb_leads({lead: known[lead] for lead in pair}) | known
        taken = (SWAPS[name].get(lead, (lead, 1)) for lead in leads)
        return np.stack([sign * known[source] for source, sign in taken])

    return Disturbance("swapped", name, apply)


def _sources(leads: Sequence[str]) -> list[str]:
    """Two of I, II and III, from which the other limb leads follow; [] without two."""
    found = [lead for lead in LIMB[:3] if lead in leads]
    return found[:2] if len(found) > 1 else []


def _shows(name: str, leads: Sequence[str]) -> bool:
    """Whether a swap changes one of the leads, and all that it changes are known after it."""
    known = {*leads, *(LIMB if _sources(leads) else ())}
    sources = [SWAPS[name][lead][0] for lead in leads if lead in SWAPS[name]]
    return bool(sources) and known.issuperset(sources)


def disturbed(
    classifier: AppliedClassifier,
    test: Predictions,
    signals: list[np.ndarray],
    disturbance: Disturbance,
    seed: int = 0,
) -> Predictions:
    """Return the predictions of test records after a disturbance.

    Args:
        classifier: whose predictions.
        test: names and labels of the records.
        signals: (leads, time) in mV of each, leads and rate of the classifier.
        disturbance: what is done to each.
        seed: with the record's name, of its random numbers.
    """
    by_length: dict[int, list[tuple[int, np.ndarray]]] = {}
    for row, (name, signal) in enumerate(zip(test.records, signals)):
        random = np.random.default_rng([seed, zlib.crc32(str(name).encode())])
        changed = disturbance.apply(
            signal.astype(np.float64), classifier.fs, classifier.leads, random
        )
        by_length.setdefault(changed.shape[1], []).append((row, changed))
    outputs = np.empty(test.outputs.shape)
    for group in by_length.values():
        rows = [row for row, _ in group]
        batch = np.stack([changed for _, changed in group]).astype(np.float32)
        outputs[rows] = classifier(batch, fs=classifier.fs)
    return test.with_outputs(outputs)


def measure(
    classifier: AppliedClassifier,
    test: Predictions,
    signals: list[np.ndarray],
    score: Callable[[Predictions], float],
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row for each disturbance: kind, strength, score, and the difference to none.

    What the network's leads cannot show is left out, and said.
    """
    rows, tried = [], panel(classifier.fs, classifier.leads)
    there = [each.title for each in tried]
    missing = [each.title for each in panel(classifier.fs) if each.title not in there]
    if missing:
        note(f"not tried, as {' '.join(classifier.leads)} cannot show it: {', '.join(missing)}")
    for disturbance in progress_bar(tried, unit="disturbance"):
        value = score(disturbed(classifier, test, signals, disturbance, seed))
        rows.append({"kind": disturbance.kind, "strength": disturbance.strength, "score": value})
    table = pd.DataFrame(rows)
    table["difference"] = table["score"] - table["score"].iloc[0]
    return table


def plot_robustness(table: pd.DataFrame, score: str) -> Figure:
    """Draw the score of each disturbance beside that of none."""
    figure = Figure(figsize=(6.5, 0.8 + 0.24 * len(table)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = [f"{row.kind} {row.strength}".strip() for row in table.itertuples()]
    names[0] = "undisturbed"
    places = np.arange(len(table))[::-1]
    axis.barh(places, table["score"], color="#7aa6d1", height=0.7)
    axis.axvline(table["score"].iloc[0], color="#444", linewidth=0.8, linestyle=":")
    for place, row in zip(places, table.itertuples()):
        axis.text(0.01, place, f"{row.score:.3f}", va="center", fontsize=7, color="white")
    axis.set_yticks(places, names, fontsize=8)
    axis.set(xlabel=score, xlim=(0, 1.05 * table["score"].max()))
    axis.grid(axis="x", color="#eee")
    axis.set_axisbelow(True)
    return figure
