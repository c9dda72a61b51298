"""The cells of a comparison: which there are, by which config each is run, and what made it."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mergedeep

from experiments.evaluation.candidates import RANDOM, SCRATCH, Candidate
from experiments.tables.fingerprints import fingerprint, meta_of, store_of, what_matters
from util.config.fields import to_mapping
from util.config.keys import FinetuneConfig, FinetuneDataset, PretrainDataset
from util.config.load import find_overlay, load_config
from util.console import note, quietly
from util.contract.encoder import Encoder
from util.data.splits import run_numbers
from util.data.store import checksum
from util.errors import ConfigError
from util.evaluation.probes import SCORE
from util.jobs.job import LabelledJob, note_chance

FROZEN = ("knn", "linear", "attention")  # modes that leave the encoder as it is
FITTED = ("knn", "linear")  # of these, without a training
TRAINED = ("finetune", "linear-then-finetune")
MODES = (*FROZEN, *TRAINED)
OWN = "own"  # the store's own labels, as a task
KEY = ["encoder", "task", "mode", "labels", "seed", "fold"]
SELECTIONS = 5  # times that a training is tested on its selection fold
NEIGHBOURS = (5, 10, 20, 50)  # the selection fold chooses among these
PENALTIES = (0.003, 0.03, 0.3)  # and these, of a linear probe's squared weights


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
        output_dir: the folder of everything.
        device: auto, cuda or cpu.
        overlays: merged over the budget's.
        overrides: texts KEY=VALUE, merged over these.
        steps: of every training.
        bootstrap: resamples of the test patients.
    """

    output_dir: str
    device: str = "auto"
    overlays: Sequence[str] = ()
    overrides: Sequence[str] = ()
    steps: int = 200
    bootstrap: int = 1000


@dataclass(frozen=True)
class Cell:
    """One number of the comparison.

    Attributes:
        candidate: the encoder.
        task: a table of labels, or "own".
        mode: of ``MODES``.
        labels: per cent of the training labels.
        seed: of random first weights, else 0.
        fold: that is tested.
    """

    candidate: Candidate
    task: str
    mode: str
    labels: float
    seed: int
    fold: int

    @property
    def key(self) -> dict[str, Any]:
        """Return what tells it from others, by ``KEY``."""
        named = {**vars(self), "encoder": self.candidate.name}
        return {name: named[name] for name in KEY}

    @property
    def encoder(self) -> tuple[str, str, int, int]:
        """Return what tells its encoder from those of others; the input of a random one is
        standardised by the training records of its task.
        """
        task = self.task if self.candidate.name == RANDOM else ""
        return self.candidate.name, task, self.seed, self.fold


# ============ which there are ============
def all_cells(
    candidates: Sequence[Candidate],
    tasks: Sequence[str],
    modes: Sequence[str],
    labels: Sequence[float],
    settings: Settings,
) -> list[Cell]:
    """Return the cells: random weights in the modes that leave them as they are, from scratch in
    those that train; an encoder without tokens has none of mode attention, which is said.

    Raises:
        ConfigError: a config is wrong, or weights would be chosen on the test fold.
    """
    cells = []
    for candidate in candidates:
        data = config_of(candidate, tasks[0], settings).dataset
        _note_seen(candidate, data)
        if data.protocol == "published":
            raise ConfigError(
                "dataset.protocol: published chooses on the fold that it tests, and a comparison "
                "must not; leave it out (nested)"
            )
        if data.protocol == "leave_one_database" and len(run_numbers(data)) > 1:
            raise ConfigError(
                "dataset.fold: under dataset.protocol leave_one_database every fold tests the same "
                "records, which intervals would count as others; choose one, e.g. dataset.fold=0"
            )
        chosen = [mode for mode in modes if mode in modes_of(candidate)]
        cells += [
            Cell(candidate, task, mode, share, seed, fold)
            for task in tasks
            for share in labels
            for mode in chosen
            for seed in candidate.seeds or (0,)
            for fold in run_numbers(data)
        ]
        if {*FITTED} & {*chosen}:
            note_chance(candidate.untrained(0), candidate.name)
        if "attention" in modes and candidate.name != SCRATCH and "attention" not in chosen:
            note(f"note: {candidate.name} has no tokens to attend to, so no mode attention")
    return cells


def _note_seen(candidate: Candidate, data: FinetuneDataset) -> None:
    """Say so if an encoder's pre-training has read tested records, without their labels, or if
    that is not known.
    """
    there = candidate.source.dataset
    if candidate.weights is None or not isinstance(there, PretrainDataset):
        return
    if candidate.store is None:  # an older file
        same = Path(there.store).resolve() == Path(data.store).resolve()
    else:
        same = candidate.store == meta_of(data.store, data.fs)["records_crc32"]
    by_database = data.protocol == "leave_one_database"
    tested = [data.test_database] if by_database else data.databases
    if same and tested and there.databases and not {*tested} & {*there.databases}:
        return
    seen = [fold for fold in run_numbers(data) if fold not in there.exclude_folds]
    by_folds = data.protocol == "nested"
    if not same:
        note(
            f"note: {candidate.name} was pre-trained on another store, {there.store}; whether "
            "records that are tested here were among its records is not known"
        )
    elif (seen or not by_folds) and not there.exclude_parts:
        which = f"the records of fold {', '.join(map(str, seen))}, too," if by_folds else "records"
        cure = "exclude_folds" if by_folds else "exclude_parts"
        note(
            f"note: {candidate.name} was pre-trained on this store, without labels, and on "
            f"{which} which are tested here (dataset.{cure})"
        )


def modes_of(candidate: Candidate) -> tuple[str, ...]:
    """Return the modes in which a candidate is compared."""
    if candidate.name == SCRATCH:
        return TRAINED
    has_tokens = type(candidate.untrained(0)).tokens is not Encoder.tokens
    frozen = FROZEN if has_tokens else FITTED
    return frozen if candidate.name == RANDOM else (*frozen, *TRAINED)


# ============ how each is run ============
def config_of(
    candidate: Candidate,
    task: str,
    settings: Settings,
    more: dict[str, Any] | None = None,
    *,
    attention: bool = False,
) -> FinetuneConfig:
    """Return the config of a candidate on a task, with ``more`` merged over it."""
    layer = candidate.layer
    if attention:
        inner = {"name": layer["model_name"], **layer["model"]}
        layer |= {"model_name": "attention_pool", "model": {"encoder": inner}}
    layers: list[dict | Path] = [layer, *map(find_overlay, ("evaluation", *settings.overlays))]
    shared: dict[str, Any] = {"device": settings.device, "mode": "scratch"}
    if task != OWN:
        shared["dataset"] = {"labels": task}
    extra = mergedeep.merge({}, shared, more or {})
    return load_config(layers, settings.overrides, dict(extra), program=FinetuneConfig)


def job_of(cell: Cell, settings: Settings) -> FinetuneConfig:
    """Return the config by which a cell is run."""
    modes = {"linear": "probe", "knn": "probe", "attention": "linprobe"}
    scratch, weights = cell.candidate.name == SCRATCH, weights_of(cell, settings)
    more: dict[str, Any] = {
        "mode": "scratch" if scratch else modes.get(cell.mode, "finetune"),
        "encoder_path": "" if weights is None else str(weights),
        "dataset": {"fold": cell.fold, "label_fraction": cell.labels / 100},
        "train": {"head_init": "probe" if cell.mode == "linear-then-finetune" else "random"},
    }
    if scratch:  # where nothing was learnt before, nothing is to be kept
        more["train"] |= {"layer_decay": 1.0, "layer_rates": []}
    attention = cell.mode == "attention"
    config = config_of(cell.candidate, cell.task, settings, more, attention=attention)
    task, records = _facts(config)
    score = SCORE[task]
    measured = {"metric": {"target_metrics": [score]}, "test": {"target_metric": score}}
    more = mergedeep.merge({}, more, measured, {"resume": "auto"})
    if cell.mode not in FITTED:
        more = mergedeep.merge({}, more, _budget(config, records, settings.steps))
    return config_of(cell.candidate, cell.task, settings, more, attention=attention)


def _budget(config: FinetuneConfig, records: int, steps: int) -> dict[str, Any]:
    """The keys by which a training takes this many steps, or a few more: epochs are whole."""
    step = config.dataloader.batch_size * config.train.accum_iter
    most = max(records // step, 1)
    epochs = math.ceil(steps / most)
    every = max(epochs // SELECTIONS, 1)
    train = {
        "epochs": epochs,
        "steps_per_epoch": math.ceil(steps / epochs),
        "warmup_epochs": epochs / 10,
        "checkpoint_every": every,
    }
    return {"train": train, "test": {"select_every": every}}


_KNOWN: dict[str, tuple[str, int]] = {}


def _facts(config: FinetuneConfig) -> tuple[str, int]:
    """The kind of a job's labels and how many training records its fold has."""
    kind = fingerprint(to_mapping(config.dataset), config.seed)
    if kind not in _KNOWN:
        with quietly():
            job = LabelledJob(replace(config, encoder_path="", mode="scratch"))
            fold = job.fold(job.folds[0])
        _KNOWN[kind] = job.task, len(fold.parts["train"])
    return _KNOWN[kind]


def weights_of(cell: Cell, settings: Settings) -> Path | None:
    """Return the file of a cell's encoder, there or, if random, not yet; None from scratch."""
    candidate = cell.candidate
    if candidate.name != RANDOM:
        return candidate.weights
    config = config_of(candidate, cell.task, settings)
    # what it reads, and how, as its input is standardised by that
    made_by = fingerprint(candidate.layer, what_matters(config.dataset), store_of(config))
    name = f"{made_by}-{cell.task}-seed{cell.seed}-fold{cell.fold}.pth"
    return Path(settings.output_dir) / RANDOM / name


# ============ what made it ============
def origin_of(cell: Cell, config: FinetuneConfig, settings: Settings) -> dict[str, str]:
    """Return what a row of the CSV must say of its origin to be today's."""
    tried = {"knn": NEIGHBOURS, "linear": PENALTIES}.get(cell.mode)
    file = cell.candidate.weights
    drawn = fingerprint(cell.candidate.layer, cell.seed) if cell.candidate.name == RANDOM else ""
    return {
        "definition": fingerprint(what_matters(config), config.seed, tried),
        "store": store_of(config),
        "weights": _checksum(file) if file else drawn,
    }


@functools.cache
def _checksum(file: Path) -> str:
    return checksum(file.read_bytes())


def place_of(cell: Cell, origin: dict[str, str], settings: Settings) -> Path:
    """Return the folder of a cell's files; another origin has another."""
    encoder = re.sub(r"[^\w.-]+", "_", cell.candidate.name)
    name = f"{cell.mode}-{cell.labels:g}-{fingerprint(origin)}"
    return Path(settings.output_dir) / "cells" / encoder / cell.task / name / f"seed{cell.seed}"
