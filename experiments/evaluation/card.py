"""What a linear map reads from frozen features of simulated ECGs, whose truth is known."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_preparation.simulator.ecg_model import simulate
from data_preparation.simulator.findings import Findings
from data_preparation.simulator.patients import draw_findings
from util.evaluation.head_start import fit_linear
from util.handover.load import AppliedEncoder
from util.leads import LEADS
from util.scoring.criterion import Criterion
from util.scoring.intervals import Predicted, estimate
from util.scoring.scores import compute_scores, parse_scores

UNITS = {"rate": "1/min", "PR": "ms", "QRS": "ms", "QT": "ms", "axis": "degrees"}
FS, SECONDS, MAINS = 500, 10, 50
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # the selection part chooses, for each measure by itself
SCORES = parse_scores(["R2", "MAE"], (), "regression")
BATCH = 64  # records


@dataclass(frozen=True)
class Simulated:
    """Simulated recordings and their truth.

    Attributes:
        signals: float32 (records, 12, samples) in mV at 500 Hz.
        truth: (records, measures), in ``UNITS``; NaN where a heart has none.
    """

    signals: np.ndarray
    truth: np.ndarray

    def parts(self) -> list[slice]:
        """Return which records fit, choose and test: a half, a quarter, a quarter."""
        half, end = len(self.truth) // 2, len(self.truth)
        return [slice(0, half), slice(half, (half + end) // 2), slice((half + end) // 2, end)]


def simulated(records: int, seed: int) -> Simulated:
    """Simulate recordings; record i depends on the seed and i alone."""
    signals, truth = np.empty((records, len(LEADS), FS * SECONDS), np.float32), []
    for i in range(records):
        random = np.random.default_rng([seed, i])
        findings = draw_findings(random)
        signals[i] = simulate(findings, FS, FS * SECONDS, MAINS, random).T
        truth.append(measures_of(findings))
    return Simulated(signals, np.array(truth))


def measures_of(findings: Findings) -> list[float]:
    """Return rate, PR, QRS, QT and axis of a simulated heart; PR is NaN without a sinus rhythm."""
    wide = 0.485 * max(0.0, findings.qrs - 0.10)  # as the simulator's beats have it
    qt = findings.qtc * (60 / findings.rate) ** 0.5 + wide
    pr = findings.pr if findings.rhythm == "sinus" else np.nan
    return [findings.rate, 1000 * pr, 1000 * findings.qrs, 1000 * qt, findings.axis]


def features_of(encoder: AppliedEncoder, signals: np.ndarray) -> np.ndarray:
    """Return features (records, width)."""
    pieces = range(0, len(signals), BATCH)
    return np.concatenate([encoder(signals[i : i + BATCH], FS, LEADS) for i in pieces])


def read_linearly(features: np.ndarray, given: Simulated) -> tuple[pd.DataFrame, np.ndarray]:
    """Fit a linear map from features to the truth, and test it.

    Returns:
        a row for each measure: measure, unit, R2 with its 95 % interval (low, high), MAE, records;
        what was read of the test records (records, measures).
    """
    fit, choose, test = given.parts()
    x = torch.from_numpy(features.astype(float))
    criterion = Criterion.fitted("mse", tuple(UNITS), given.truth[fit].astype(np.float32))
    targets = torch.from_numpy(given.truth[fit])
    read = []
    for penalty in PENALTIES:
        weight, bias = fit_linear(x[fit], targets, criterion, len(UNITS), penalty)
        read.append(criterion.to_units((x @ weight.T + bias).numpy()))
    best, rows = np.empty_like(read[0][test]), []
    for c, (name, unit) in enumerate(UNITS.items()):
        truth = given.truth[:, c : c + 1]
        chosen = max(
            read, key=lambda values: _score("R2", values[choose, c : c + 1], truth[choose])
        )
        best[:, c] = chosen[test, c]
        tested = Predicted(truth[test], best[:, c : c + 1])
        found = estimate("R2", SCORES["R2"], [tested], "regression")
        error = _score("MAE", best[:, c : c + 1], truth[test])
        about = {"measure": name, "unit": unit, "R2": found.value, "low": found.low}
        known = int((~np.isnan(truth[test])).sum())
        rows.append({**about, "high": found.high, "MAE": error, "records": known})
    return pd.DataFrame(rows), best


def _score(name: str, values: np.ndarray, truth: np.ndarray) -> float:
    return compute_scores(values, truth, {name: SCORES[name]}, "regression")[name]


# ============ figure ============
def draw_card(tables: dict[str, pd.DataFrame], read: np.ndarray, truth: np.ndarray) -> Figure:
    """Draw R2 of each measure by encoder, and what the first one reads against the truth.

    Args:
        tables: of ``read_linearly``, by encoder.
        read, truth: of the first one's test records, (records, measures).
    """
    names = list(UNITS)
    figure = Figure(figsize=(2.5 * (len(names) + 1.6), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = {"width_ratios": [1.6] + [1] * len(names)}
    bars, *panels = figure.subplots(1, len(names) + 1, gridspec_kw=ratios)
    width = 0.8 / len(tables)
    for number, (name, table) in enumerate(tables.items()):
        place = np.arange(len(names)) + width * (number - (len(tables) - 1) / 2)
        values = table["R2"].to_numpy()
        reach = [values - table["low"], table["high"] - values]
        bars.bar(place, values, width, yerr=np.nan_to_num(np.abs(reach)), label=name, capsize=2)
    bars.set_xticks(range(len(names)), names)
    bars.set(ylim=(min(0, *(table["R2"].min() for table in tables.values())), 1.02), ylabel="R2")
    bars.legend(fontsize=7)
    for c, (panel, name) in enumerate(zip(panels, names)):
        panel.plot(truth[:, c], read[:, c], ".", markersize=2, color="#1f4e8c")
        ends = [np.nanmin(truth[:, c]), np.nanmax(truth[:, c])]
        panel.plot(ends, ends, color="#bbb", linewidth=0.8)
        panel.set(xlabel=f"true {name} ({UNITS[name]})", title=f"{name}, {next(iter(tables))}")
        panel.title.set_fontsize(8)
    panels[0].set_ylabel("read from the features")
    return figure


def named(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return tables one under the other, with the encoder's name in front."""
    joined = pd.concat(tables, names=["encoder", "row"])
    return joined.reset_index("encoder").reset_index(drop=True)
