"""All figures and numbers that explain some records of a store: the work of explain.py."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from util.config.keys import FinetuneConfig
from util.console import keep_in, note, progress_bar
from util.data.dataset import CropDataset
from util.data.store import RecordStore
from util.errors import ConfigError
from util.evaluation.evaluator import gate_table
from util.evaluation.figures import plot_reconstruction, save_figure
from util.evaluation.inference import predict, record_loader
from util.explain.attribution import (
    Explanation,
    by_attention,
    by_gradients,
    by_occlusion,
    column_of,
    seen_by,
)
from util.explain.chosen import Chosen
from util.explain.embedding_map import (
    classes_of,
    diagnoses_of,
    draw_map,
    layouts,
    main_names,
)
from util.explain.occlusion import SeenCrops
from util.explain.pages import draw_between, draw_explanation
from util.explain.reconstructing import load_methods, reconstruct
from util.files import replacing, write_frame
from util.handover.embedding import compute
from util.handover.load import CROPS, Applied, AppliedClassifier, AppliedEncoder
from util.labels.tables import read_labels
from util.reports.figures import plot_gate
from util.scoring.criterion import TASKS
from util.scoring.predictions import Predictions

FILES = {
    "occlusion": "occlusion",
    "integrated gradients": "gradients",
    "attention": "attention",
}


@dataclass(frozen=True)
class ExplainJob:
    """Explains records by one network.

    Attributes:
        applied: the network.
        weights: its file.
        output: the folder for figures and numbers.
        wanted: name or code of the class; None: each record's likeliest.
        window: seconds that occlusion hides at a time.
        ratios: shares of patches that reconstructions hide.
        pdf: each figure as PDF, too.
    """

    applied: Applied
    weights: Path
    output: Path
    wanted: str | None = None
    window: float = 0.2
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    pdf: bool = False

    def __post_init__(self) -> None:
        if not self.window > 0:
            raise ConfigError(f"--window {self.window:g}: seconds, more than 0")
        if self.wanted is not None and not isinstance(self.applied, AppliedClassifier):
            raise ConfigError(
                f"--class {self.wanted}: {self.weights} is an encoder, which knows no classes; "
                "leave it out, or name the weights of a classifier"
            )
        if isinstance(self.applied, AppliedClassifier):
            column_of(self.applied, self.wanted, np.zeros(1))

    def explain(self, records: Sequence[Chosen]) -> None:
        """Explain these records."""
        device = next(self.applied.parameters()).device
        methods = load_methods(self.weights, self.ratios, device)
        self.output.mkdir(parents=True, exist_ok=True)
        keep_in(self.output)
        table: list[dict[str, Any]] = []
        for name, row, signal in progress_bar(records, unit="record", desc="explaining"):
            record = seen_by(self.applied, signal)
            table += self._explain(name, signal, record)
            for made in reconstruct(methods, record, row):
                title = f"{name}   {made.title}"
                figure = plot_reconstruction(
                    made.signal,
                    made.rebuilt,
                    made.hidden,
                    self.applied.fs,
                    self.applied.leads,
                    title,
                )
                self._save(figure, f"{name}.rebuilt-{made.name}")
        write_frame(self.output / "explained.csv", pd.DataFrame(table))
        note(f"{self.output}: {len(records)} records explained; explained.csv has a row a picture")

    def _explain(self, name: str, signal: np.ndarray, record: SeenCrops) -> list[dict[str, Any]]:
        """Draw all explanations of a record and return their rows of explained.csv."""
        column, what, unit, about = self._answer(signal)
        found = [
            by_occlusion(self.applied, record, column, self.window),
            by_gradients(self.applied, record, column),
            by_attention(self.applied, record),
        ]
        made = [explanation for explanation in found if explanation is not None]
        leads, fs = self.applied.leads, self.applied.fs
        title = f"{name}   {what}   {self.applied.config.model_name}, {self.weights.name}"
        numbers: dict[str, np.ndarray] = {
            "signal": signal,
            "leads": np.array(leads),
            "fs": np.array(fs),
        }
        for explanation in made:
            file = FILES[explanation.method]
            figure = draw_explanation(signal, fs, leads, explanation, title=title, unit=unit)
            self._save(figure, f"{name}.{file}")
            if explanation.between is not None:
                self._save(draw_between(explanation.between, leads, title), f"{name}.leads")
                numbers["attention_between_leads"] = explanation.between
            for part in ("trace", "leads", "profile"):
                numbers[f"{file}_{part}"] = getattr(explanation, part)
        with replacing(self.output / f"{name}.npz") as handle:
            np.savez_compressed(handle, **numbers)  # type: ignore[arg-type]  # NumPy's own flag
        return [{"record": name, **about, **self._row(explanation)} for explanation in made]

    def _answer(self, signal: np.ndarray) -> tuple[int | None, str, str, dict[str, Any]]:
        """The class's column, what the network says, the unit of what is explained, and cells."""
        applied = self.applied
        if not isinstance(applied, AppliedClassifier):
            return None, "features", "cosine to the features of the whole record", {}
        outputs = applied(signal[None], fs=applied.fs)[0]
        column = column_of(applied, self.wanted, outputs)
        name, value = applied.classes[column], float(outputs[column])
        about = {"class": name, "output": value}
        if TASKS[applied.criterion.loss] == "regression":
            return column, f"{name}: {value:.4g}", f"value of {name}", about
        return column, f"{name}: probability {value:.2f}", f"log-odds of {name}", about

    def _row(self, explanation: Explanation) -> dict[str, Any]:
        strongest = int(np.argmax(np.abs(explanation.leads)))
        time = int(np.nanargmax(np.abs(explanation.profile)))
        return {
            "method": explanation.method,
            "strongest_lead": self.applied.leads[strongest],
            "strongest_second": round(time / self.applied.fs, 2),
            "sum": explanation.total,
            "change": explanation.change,
            "correlation_with_shuffled_weights": explanation.random,
        }

    def map(self, store: RecordStore) -> None:
        """Draw a map of all records of the store by their features."""
        applied = self.applied
        encoder = AppliedEncoder(
            applied.network, applied.config, applied.cropping, applied.pipeline
        )
        rows = np.flatnonzero(store.has_leads(applied.leads))
        records = store.records.iloc[rows]
        table = records[["record", "database"]]
        groups = {"by database": records["database"].tolist()}
        what, found = self._names(store, rows)
        if any(found):
            named = main_names(found)
            words = f"by {what}: of the eight commonest, the rarest that a record has"
            groups = {words: named, **groups}
            table = table.assign(**{what: named})
        else:
            note(f"{store.path} has no {what} of these records: the map goes by database")
        for method, (points, names) in layouts(compute(encoder, store, rows)).items():
            title = f"{method} of the features of {len(rows)} records   {self.weights.name}"
            self._save(draw_map(points, names, groups, title), f"map-{method.lower()}")
            table[f"{method}_1"], table[f"{method}_2"] = points.T
        write_frame(self.output / "map.csv", table)

    def _names(self, store: RecordStore, rows: np.ndarray) -> tuple[str, list[set[str]]]:
        """What records are grouped by, and each one's: classes of the table of labels that the
        weights were trained on, where the store has it, else diagnoses.
        """
        config = self.applied.config
        if isinstance(config, FinetuneConfig) and config.dataset.labels:
            with contextlib.suppress(ConfigError):  # another store may lack it
                return "label", classes_of(read_labels(store, config.dataset), rows)
        return "diagnosis", diagnoses_of(store.records["dx"].iloc[rows].tolist())

    def gate(self, store: RecordStore) -> None:
        """Draw what the gate weighs, class by class, over all labelled records of the store.

        Raises:
            ConfigError: the network has no gate, or the store lacks the labels of its training.
        """
        applied, data = self.applied, self.applied.config.dataset
        if not isinstance(applied, AppliedClassifier) or not applied.network.gated:
            raise ConfigError(f"--gate: {self.weights} is of no classifier with a gate")
        task = TASKS[applied.criterion.loss]
        labels = read_labels(store, data, task)
        rows = np.flatnonzero(store.has_leads(applied.leads) & labels.known)
        if not len(rows):
            raise ConfigError(f"--gate: no record of {store.path} has labels and leads")
        dataset = CropDataset(store, applied.leads, applied.cropping.length)
        outputs, logits, gate = predict(
            applied.network,
            record_loader(dataset, rows, applied.cropping, CROPS),
            applied.pipeline,
            rows,
            len(applied.classes),
            applied.criterion.loss,
            next(applied.parameters()).device,
        )
        records = store.records.iloc[rows]
        table = gate_table(
            Predictions(
                records=records["record"].to_numpy(),
                databases=records["database"].to_numpy(),
                labels=labels.values[rows],
                outputs=outputs,
                logits=logits,
                patients=rows,
                classes=labels.classes,
                task=task,
                gate=gate,
            )
        )
        self._save(plot_gate(table), "gate")
        write_frame(self.output / "gate.csv", table, float_format="%.6g")
        note(f"{self.output}/gate.csv: what the gate weighs in {len(rows)} records, by class")

    def _save(self, figure: Figure, name: str) -> None:
        for ending in (".png", ".pdf")[: 1 + self.pdf]:
            save_figure(figure, self.output / f"{name}{ending}")
