"""Whose labels weights have seen: a supervised training writes it into its files, and a job that
starts from such a file looks there for the records that it tests.

A record is known by a hash of its database and name, and one of its patient, so that weights can
be compared across folds, protocols and stores.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from util.errors import CheckpointError
from util.weights import checkpoint

KEY = "seen_labels"
LEARNS = ("finetune", "scratch")  # modes in which labels reach the encoder
NONE = torch.zeros(0, dtype=torch.int64)
# keys of section dataset that choose a fold's test records
CHOOSE = ("store", "fold", "protocol", "splits", "given", "test_database", "databases")


@dataclass(frozen=True)
class SeenLabels:
    """The records whose labels some weights have seen.

    Attributes:
        jobs: the trainings, in words.
        trained: hashes of the records that they trained on, and of their patients.
        selected: the same of those by which the weights were chosen.
        datasets: sections ``dataset`` of trainings of an earlier version, whose files do not keep
            hashes.
    """

    jobs: tuple[str, ...] = ()
    trained: torch.Tensor = NONE
    selected: torch.Tensor = NONE
    datasets: tuple[Mapping[str, Any], ...] = ()

    def content(self) -> dict[str, Any]:
        """Return it as plain types, which ``of`` reads."""
        return {
            "jobs": list(self.jobs),
            "trained": self.trained.numpy().tobytes().hex(),
            "selected": self.selected.numpy().tobytes().hex(),
            "datasets": [dict(each) for each in self.datasets],
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "SeenLabels":
        """Undo ``content``."""
        trained, selected = (
            torch.from_numpy(np.frombuffer(bytes.fromhex(content[name]), np.int64).copy())
            for name in ("trained", "selected")
        )
        return cls(tuple(content["jobs"]), trained, selected, tuple(content["datasets"]))

    def joined(self, other: "SeenLabels") -> "SeenLabels":
        """Return what weights have seen after both trainings."""
        return SeenLabels(
            tuple(dict.fromkeys([*self.jobs, *other.jobs])),
            torch.cat([self.trained, other.trained]).unique(),
            torch.cat([self.selected, other.selected]).unique(),
            (*self.datasets, *other.datasets),
        )

    def among(self, tested: torch.Tensor, dataset: Mapping[str, Any]) -> int:
        """Return how many records were seen.

        Args:
            tested: hashes (records, 2), as of ``hashes``.
            dataset: section ``dataset`` of the job that tests them.
        """
        seen = torch.isin(tested, self.trained).any(dim=1)
        if dataset["protocol"] != "published":  # which selects on what it tests in any case
            seen |= torch.isin(tested, self.selected).any(dim=1)
        if not all(_same_test(old, dataset) for old in self.datasets):
            seen[:] = True
        return int(seen.sum())


def _same_test(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two sections test the same records, or share no database."""
    databases = [set(each.get("databases") or ()) for each in (old, new)]
    apart = all(databases) and not databases[0] & databases[1]
    return apart or all(old.get(key) == new.get(key) for key in CHOOSE)


def hashes(records: pd.DataFrame, patients: np.ndarray) -> torch.Tensor:
    """Return int64 (records, 2): a hash of each record, and one of its patient (of the record
    again where unknown).

    Args:
        records: columns database and record.
        patients: texts (records,), "" where unknown.
    """
    names = (records["database"] + "/" + records["record"]).tolist()
    pairs = [
        (_hash(f"record {name}"), _hash(f"patient {patient}" if patient else f"record {name}"))
        for name, patient in zip(names, patients)
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def seen_by(paths: Iterable[str | os.PathLike]) -> SeenLabels:
    """Return what the weights in files of encoders have seen.

    Raises:
        CheckpointError: a file is unreadable.
    """
    seen = SeenLabels()
    for path in paths:
        seen = seen.joined(_seen_by(path))
    return seen


def _seen_by(path: str | os.PathLike) -> SeenLabels:
    content = checkpoint.load(path, "encoder file")
    about, config = content.get(KEY), content.get("config")
    if isinstance(about, dict):
        try:
            return SeenLabels.of(about)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not say whose labels it has seen ({error})"
            ) from None
    if not isinstance(config, dict) or config.get("mode") not in LEARNS:
        return SeenLabels()
    data = config.get("dataset") or {}
    return SeenLabels((described(config["mode"], data.get("fold")),), datasets=(data,))


def described(mode: str, fold: object) -> str:
    """Return a training in words."""
    return f"mode {mode}, test fold {fold}"
