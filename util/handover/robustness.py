"""What a classifier scores when its test records are disturbed, as they are in hospitals.

Every disturbance is a function of one record in millivolts; its random numbers follow from the
seed and the record's name, so that all models see the same disturbed records.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from util.console import progress_bar
from util.handover.load import AppliedClassifier
from util.leads import LEADS
from util.scoring.predictions import Predictions
from util.signals.resampling import resample

SHORT = "shorter"
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


def panel(fs: float) -> list[Disturbance]:
    """Return all disturbances, the undisturbed records first.

    Args:
        fs: rate of the records in Hz: lower rates alone change anything.
    """
    rows = [Disturbance("none", "", lambda x, fs, leads, random: x)]
    rows += [_muscle(sigma) for sigma in (0.05, 0.1, 0.2)]
    rows += [_wave("wander", 0.3, size) for size in (0.2, 0.5, 1.0)]
    rows += [_wave("mains", 50.0, size) for size in (0.05, 0.1, 0.2)]
    rows += [_gain(factor) for factor in (0.5, 2.0)]
    rows += [_rate(rate) for rate in (100, 250, 500) if rate < fs]
    rows += [_part(seconds) for seconds in (5.0, 2.5)]
    rows += [_without(leads) for leads in (("V1",), ("V6",), ("I",), LEADS[6:])]
    return [*rows, *swaps()]


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


def swaps() -> list[Disturbance]:
    """Return electrodes taken for one another: both arms, and V1 with V2."""
    # with RA and LA exchanged, I turns its sign, II and III change places, and so do aVR and aVL
    arms = {"I": ("I", -1), "II": ("III", 1), "III": ("II", 1)}
    arms |= {"aVR": ("aVL", 1), "aVL": ("aVR", 1)}
    chest = {"V1": ("V2", 1), "V2": ("V1", 1)}

    def exchange(places: dict[str, tuple[str, int]]) -> Callable[..., np.ndarray]:
        def apply(
            x: np.ndarray, fs: float, leads: tuple[str, ...], random: RandomSource
        ) -> np.ndarray:
            swapped = x.copy()
            for lead, (source, sign) in places.items():
                if lead in leads and source in leads:
                    swapped[leads.index(lead)] = sign * x[leads.index(source)]
            return swapped

        return apply

    return [
        Disturbance("swapped", "left and right arm", exchange(arms)),
        Disturbance("swapped", "V1 and V2", exchange(chest)),
    ]


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
    """Return a row for each disturbance: kind, strength, score, and the difference to none."""
    rows = []
    for disturbance in progress_bar(panel(classifier.fs), unit="disturbance"):
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
