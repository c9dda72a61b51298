"""What a model said of the records of one part of one fold: the one form of predictions."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from util.errors import StoreError
from util.files import replacing


@dataclass(frozen=True)
class Predictions:
    """Predictions of records, each the mean over its crops, in full precision.

    Attributes:
        records: names (n,).
        databases: names (n,).
        labels: multilabel float (n, classes) of 1, 0 and NaN = unknown; multiclass int (n,);
            regression float (n, columns).
        outputs: float64 (n, classes), probabilities; in regression predictions in the labels' own
            units.
        logits: float64 (n, classes), raw.
        patients: int64 (n,), equal numbers for records of one patient.
        classes: names of the classes or columns.
        task: multilabel, multiclass or regression.
        gate: float64 (n, 2), the signal branch's weight first; None without a gate.
        fold: that was tested or, of selection records, whose run selects on them.
        seed: of the training.
    """

    records: np.ndarray
    databases: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray
    logits: np.ndarray
    patients: np.ndarray
    classes: tuple[str, ...]
    task: str
    gate: np.ndarray | None = None
    fold: int = 0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.records)

    # ============ parts of them, several together ============
    def where(self, chosen: np.ndarray) -> "Predictions":
        """Return those of some records; ``chosen``: bool (n,)."""
        return replace(self, **{name: value[chosen] for name, value in self._by_record().items()})

    def with_outputs(self, outputs: np.ndarray) -> "Predictions":
        """Return other outputs (n, classes) for the same records; their logits are not known."""
        return replace(self, outputs=outputs, logits=np.full_like(outputs, np.nan), gate=None)

    @classmethod
    def join(cls, several: list["Predictions"]) -> "Predictions":
        """Return the predictions of several folds as one, of the classes and task of the first."""
        columns = [predictions._by_record() for predictions in several]
        joined: dict[str, Any] = {
            name: np.concatenate([each[name] for each in columns]) for name in columns[0]
        }
        return replace(several[0], **joined)

    def _by_record(self) -> dict[str, Any]:
        """The fields that have a row a record."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    # ============ files ============
    def arrays(self, prefix: str = "") -> dict[str, Any]:
        """Return them as numpy arrays for an .npz file, without objects."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("records", "databases", "classes"):
            fields[name] = np.asarray(fields[name], str)
        return {prefix + name: np.asarray(value) for name, value in fields.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> "Predictions":
        """Undo ``arrays``; KeyError and TypeError for arrays that are not of it."""
        fields = {
            name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)
        }
        plain: dict[str, Any] = {
            name: fields.pop(name).tolist() for name in ("classes", "task", "fold", "seed")
        }
        plain["classes"] = tuple(plain["classes"])
        return cls(**plain, **cast(dict[str, Any], fields))

    def save(self, path: str | os.PathLike) -> None:
        """Write them as .npz, in full precision."""
        with replacing(path) as file:
            np.savez_compressed(file, **self.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Predictions":
        """Read what ``save`` wrote.

        Raises:
            StoreError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.from_arrays(dict(file))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"{path} holds no predictions ({error}); run the test again") from None

    def table(self) -> pd.DataFrame:
        """Return them for people: a row a record with its name, its true labels, empty where
        unknown, and its probability for each class; in regression its prediction for each column.
        """
        labels = self.labels
        if self.task == "multiclass":
            labels = np.eye(len(self.classes))[labels]
        regression = self.task == "regression"
        kind, what = ("Float64", "prediction") if regression else ("Int64", "probability")
        columns = {"record": self.records, "database": self.databases}
        for c, name in enumerate(self.classes):
            columns[f"label_{name}"] = pd.array(labels[:, c], kind)
        for c, name in enumerate(self.classes):
            columns[f"{what}_{name}"] = self.outputs[:, c]
        return pd.DataFrame(columns)

    def write_csv(self, path: str | os.PathLike) -> None:
        """Write ``table`` with six digits."""
        with replacing(Path(path), "w") as file:
            self.table().to_csv(file, index=False, float_format="%.6g")
