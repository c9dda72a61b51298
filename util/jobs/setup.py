"""From a config to the first step: store, records, transforms, model and device, alike for all
trainings.
"""

import contextlib
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from util.config.crops import steps_after_crop
from util.config.fields import Key, keys_of
from util.config.keys import DatasetConfig, FinetuneConfig, JobConfig
from util.config.load import ROOT, save_config
from util.console import note
from util.contract.encoder import Encoder
from util.contract.method import Method
from util.contract.registry import build
from util.data.dataset import CropDataset, TrainingBatches, crops_for_statistics
from util.data.splits import choose_rows
from util.data.store import RecordStore
from util.errors import ConfigError
from util.leads import parse_leads
from util.processes import collectives
from util.signals.crops import Cropping, parse_cropping
from util.signals.transforms import Pipeline, build_pipeline
from util.training.engine import Training
from util.training.movement import trained_of
from util.training.optimizer import Schedule, resolve_lr
from util.training.resolved import crop_length, data_facts, resolved


# ============ data ============
def open_store(config: JobConfig) -> RecordStore:
    """Open the store of dataset.store and dataset.fs; errors as of ``store_at``."""
    return store_at(config.dataset.store, config.dataset.fs)


def store_at(place: str | os.PathLike, fs: int, said_by: str = "dataset.store") -> RecordStore:
    """Open the store of a sampling rate in the folder that holds one for each.

    Args:
        place: that folder.
        fs: the rate in Hz.
        said_by: the key or flag that named the folder, for errors.

    Raises:
        ConfigError: there is none; StoreError: it is damaged.
    """
    root = Path(place)
    folder = root / f"fs{fs}"
    if not folder.is_dir():
        there = sorted(p.name for p in root.glob("fs*")) if root.is_dir() else []
        hint = "prepare it with data_preparation/ (see docs/data.md)"
        if there:
            hint = f"it holds {', '.join(there)}"
        raise ConfigError(f"{said_by}: no store at {folder}; {hint}")
    return RecordStore(folder)


def usable_rows(store: RecordStore, config: JobConfig) -> np.ndarray:
    """Return the rows left by dataset.databases, dataset.lead and dataset.max_records;
    ``note_rows`` says what the last two leave out.
    """
    data = config.dataset
    return choose_rows(
        store,
        databases=data.databases,
        leads=parse_leads(data.lead),
        max_records=data.max_records,
        seed=config.seed,
    )


def note_rows(store: RecordStore, config: JobConfig) -> None:
    """Say which records take no part: those that lack one of the leads of dataset.lead, and those
    above dataset.max_records.
    """
    data = config.dataset
    leads, rows = parse_leads(data.lead), choose_rows(store, databases=data.databases)
    complete = int(store.has_leads(leads)[rows].sum())
    if complete < len(rows):
        note(
            f"records that lack a lead of dataset.lead ({' '.join(leads)}), which take no part: "
            f"{len(rows) - complete} of {len(rows)}"
        )
    if data.max_records is not None and complete > data.max_records:
        note(
            f"dataset.max_records: {data.max_records} of {complete} records, drawn by the seed, "
            "take part"
        )


def training_transforms(config: JobConfig) -> tuple[Cropping, Pipeline]:
    """Return how training crops are cut and transformed; ``Pipeline.fixed`` leaves out what draws
    random numbers.
    """
    data = config.dataset
    if data.transforms is None:
        cropping, where = Cropping("random", crop_length(data)), "dataset.filters and its like"
        steps = steps_after_crop(data.filters, data.standardize, data.augment)
    else:
        where = "dataset.transforms"
        _refuse_both(where, data, ("crop", "filters", "standardize", "augment"))
        cropping, steps = parse_cropping(data.transforms, where), data.transforms[1:]
    return cropping, build_pipeline(
        [None, *steps],
        length=cropping.length,
        fs=data.fs,
        rand_augment=data.rand_augment,
        where=where,
    )


def evaluation_transforms(config: FinetuneConfig) -> tuple[Cropping, Pipeline]:
    """Return how a trained model sees a record: by the crops of dataset.eval_crops and its like,
    transformed as in training but without what draws random numbers; or by eval_transforms.
    """
    data, where = config.dataset, "dataset.eval_transforms"
    if data.eval_transforms:
        _refuse_both(where, data, ("eval_crops", "eval_stride", "eval_crop"))
        cropping = parse_cropping(data.eval_transforms, where)
        if cropping.kind == "random":
            cropping = Cropping("center", cropping.length)
        return cropping, build_pipeline(
            data.eval_transforms,
            length=cropping.length,
            fs=data.fs,
            where=where,
            evaluation=True,
        )
    training, _ = training_transforms(config)
    length = data.eval_crop or training.length
    if data.eval_stride is not None:
        if data.eval_crops > 1:
            raise ConfigError("give either dataset.eval_crops or dataset.eval_stride")
        cropping = Cropping("moving", length, stride=data.eval_stride)
    elif data.eval_crops > 1:
        cropping = Cropping("segments", length, count=data.eval_crops)
    else:
        cropping = Cropping("center", length)
    same = replace(data, crop=length) if data.transforms is None else data
    _, pipeline = training_transforms(replace(config, dataset=same))
    return cropping, pipeline.fixed


def _refuse_both(lists: str, data: DatasetConfig, keys: tuple[str, ...]) -> None:
    """A ConfigError where a list of transforms and a key say the same thing."""
    for name, spec in keys_of(type(data)).items():
        changed = isinstance(spec, Key) and getattr(data, name) != spec.default
        if name in keys and changed:
            raise ConfigError(
                f"dataset.{name} has no effect beside {lists}, which says all of it; leave out one"
            )


# ============ model ============
@overload
def build_configured(config: JobConfig) -> Method: ...
@overload
def build_configured(config: JobConfig, num_classes: int) -> Encoder: ...


def build_configured(config: JobConfig, num_classes: int | None = None) -> nn.Module:
    """Build the config's model for its data, initialised by its seed; an encoder with a head if
    there are classes.
    """
    torch.manual_seed(config.seed)
    return build({"name": config.model_name, **config.model}, data_facts(config, num_classes))


@torch.no_grad()
def check_input(encoder: Encoder, leads: int, length: int) -> None:
    """Put one blank crop through the encoder before any work starts.

    Raises:
        ConfigError: sizes do not fit.
    """
    training = encoder.training
    try:
        device = next(encoder.parameters()).device
        encoder.eval().forward_features(torch.zeros(1, leads, length, device=device))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the model does not take crops of {leads} leads and {length} samples: {error}. Make "
            "model.* and dataset.crop agree"
        ) from None
    finally:
        encoder.train(training)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, each process differently; models are built before."""
    seed = seed + 1000 * collectives.rank()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def revision() -> str:
    """Return the code's git revision, with a + where it has been changed since; "unknown" where
    git has none.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
        return ""

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ":!results", ":!RESULTS.md"
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown").strip() + ("+" if changed else "")


def describe_run(config: JobConfig, device: torch.device, model: Method) -> None:
    """Print what runs: code version, device, size of the model and what of it learns."""
    note(
        f"{config.model_name}: {trained_of(model)}; "
        f"{collectives.world()} process(es) on {device.type}; torch {torch.__version__}; "
        f"code {revision()}"
    )


# ============ training ============
def fitting_batch(config: JobConfig, records: int) -> int:
    """Return dataloader.batch_size, or less where the training records do not fill one step."""
    wanted = config.dataloader.batch_size
    most = records // (config.train.accum_iter * collectives.world())
    if wanted <= most or most == 0:
        return wanted
    note(
        f"note: dataloader.batch_size {wanted} is lowered to {most}, as there are only {records} "
        "training records"
    )
    return most


def set_up_training(
    config: JobConfig,
    store: RecordStore,
    rows: np.ndarray,
    make_model: Callable[[], Method],
    device: torch.device,
    folder: Path,
    *,
    labels: np.ndarray | None = None,
    fold: int | None = None,
    about: dict[str, Any] | None = None,
) -> Training:
    """Do everything up to the next step of a new or resumed run, and save the config.

    Args:
        config: of the job.
        store: the records.
        rows: of the store, to train on.
        make_model: called under the config's seed.
        device: where the model is trained.
        folder: of the results.
        labels: of all records of the store, None for a self-supervised job.
        fold: the one of a supervised job that this run is.
        about: more that the files of its weights say of the training.
    """
    # ============ data ============
    data, train = config.dataset, config.train
    cropping, pipeline = training_transforms(config)
    pipeline = pipeline.to(device)
    leads = parse_leads(data.lead)
    dataset = CropDataset(store, leads, cropping.length, labels)
    batches = TrainingBatches(
        rows,
        dataset.samples[rows],
        cropping.length,
        seed=config.seed,
        batch_size=fitting_batch(config, len(rows)),
        accumulate=train.accum_iter,
        crops=data.crops_per_record,
        steps=train.steps_per_epoch,
        rank=collectives.rank(),
        world=collectives.world(),
    )
    lr = resolve_lr(train, batches.batch_size, collectives.world())
    schedule = Schedule.of(train, lr)

    # ============ model ============
    model = make_model()
    check_input(model.to(device).encoder, len(leads), cropping.length)
    seed_everything(config.seed)

    # ============ where it stands ============
    training = Training(
        model,
        config,
        dataset=dataset,
        batches=batches,
        pipeline=pipeline,
        device=device,
        folder=folder,
        schedule=schedule,
        resolved=resolved(config, lr, fold),
        about=about,
    )
    describe_run(config, device, model)
    note(
        f"{len(rows)} training records at {store.fs} Hz, {batches.steps} steps an epoch, peak "
        f"learning rate {lr:.3g}"
    )
    schedule.note_oddities()
    if not training.resumed:
        crops = crops_for_statistics(
            dataset, rows, cropping.length, batches.batch_size, device, pipeline.fixed
        )
        model.fit_statistics(crops)
    if collectives.is_main():
        save_config(training.resolved, training.folder / "config.yaml")
    return training
