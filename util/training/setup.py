"""From a config to the first step: store, records, transforms, model and device, alike for all
trainings.
"""

import contextlib
import random
import subprocess
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from util.config.load import ROOT, save_config
from util.console import print_once
from util.contract.registry import DataFacts, build
from util.data.dataset import CropDataset, TrainingBatches, crops_for_statistics
from util.data.splits import choose_rows
from util.data.store import RecordStore
from util.errors import ConfigError
from util.leads import parse_leads
from util.processes import collectives
from util.signals.crops import Cropping, parse_cropping
from util.signals.transforms import build_pipeline
from util.training.engine import Training
from util.training.optimizer import resolve_lr


# ============ data ============
def open_store(config: dict) -> RecordStore:
    """The store of dataset.store and dataset.fs."""
    root = Path(config["dataset"]["store"])
    folder = root / f"fs{config['dataset']['fs']}"
    if not folder.is_dir():
        there = sorted(p.name for p in root.glob("fs*")) if root.is_dir() else []
        hint = (
            f"it holds {', '.join(there)}"
            if there
            else "prepare it with data_preparation/ (see docs/data.md)"
        )
        raise ConfigError(f"dataset.store: no store at {folder}; {hint}")
    return RecordStore(folder)


def usable_rows(store, config) -> np.ndarray:
    """Rows left by dataset.databases, dataset.lead and dataset.max_records; ``row_notes`` speaks
    of the last two.
    """
    data = config["dataset"]
    return choose_rows(
        store,
        databases=data["databases"],
        leads=parse_leads(data["lead"]),
        max_records=data["max_records"],
        seed=config["seed"],
    )


def row_notes(store, config) -> list[str]:
    """Sentences, if need be, about records that take no part: those that lack one of the leads of
    dataset.lead, and those above dataset.max_records.
    """
    data = config["dataset"]
    leads, rows = parse_leads(data["lead"]), choose_rows(store, databases=data["databases"])
    complete = int(store.has_leads(leads)[rows].sum())
    notes = []
    if complete < len(rows):
        notes.append(
            f"records that lack a lead of dataset.lead ({' '.join(leads)}), which take no part: "
            f"{len(rows) - complete} of {len(rows)}"
        )
    if data["max_records"] is not None and complete > data["max_records"]:
        notes.append(
            f"dataset.max_records: {data['max_records']} of {complete} records, drawn by the "
            "seed, "
            "take part"
        )
    return notes


def training_transforms(config: dict):
    """(Cropping, Pipeline) of the training crops; ``Pipeline.fixed`` leaves out what draws random
    numbers.
    """
    data = config["dataset"]
    cropping = parse_cropping(data["transforms"], "dataset.transforms")
    return cropping, build_pipeline(
        data["transforms"], length=cropping.length, fs=data["fs"], rand_augment=data["rand_augment"]
    )


def evaluation_transforms(config: dict):
    """(Cropping, Pipeline) by which a trained model sees a record: dataset.eval_transforms, else
    those of training with the centre crop for a random one and without augmentations that draw.
    """
    data = config["dataset"]
    name = "eval_transforms" if data["eval_transforms"] else "transforms"
    where, transforms = f"dataset.{name}", data[name]
    cropping = parse_cropping(transforms, where)
    if cropping.kind == "random":
        cropping = Cropping("center", cropping.length)
    pipeline = build_pipeline(
        transforms,
        length=cropping.length,
        fs=data["fs"],
        where=where,
        evaluation=name == "eval_transforms",
    )
    return cropping, pipeline.fixed


# ============ model ============
def build_configured(config: dict, num_classes: int | None = None) -> nn.Module:
    """The config's model, made for its data, initialised by its seed; a classifier if there are
    classes.
    """
    torch.manual_seed(config["seed"])
    facts = DataFacts(parse_leads(config["dataset"]["lead"]), config["dataset"]["fs"], num_classes)
    return build({"name": config["model_name"], **config["model"]}, facts)


@torch.no_grad()
def check_input(encoder, leads: int, length: int) -> None:
    """Put one blank crop through the encoder: a ConfigError before any work starts where sizes do
    not fit.
    """
    training = encoder.training
    try:
        device = next(encoder.parameters()).device
        encoder.eval().forward_features(torch.zeros(1, leads, length, device=device))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the model does not take crops of {leads} leads and {length} samples: {error}. Make "
            "model.* and the crop_length of dataset.transforms agree"
        ) from None
    finally:
        encoder.train(training)


def seed_everything(seed: int) -> None:
    """Seeds of Python, NumPy and torch, another for each process; models are built before."""
    seed = seed + 1000 * collectives.rank()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def revision() -> str:
    """The code's git revision, with a + where it has been changed since; "unknown" where git has
    none.
    """

    def git(*words):
        command = ["git", "-C", str(ROOT), *words]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ":!results", ":!RESULTS.md"
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown").strip() + ("+" if changed else "")


def describe_run(config, device, model) -> None:
    """The head of a run's output: code version, device, size of the model."""
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print_once(
        f"{config['model_name']}: {learning / 1e6:.1f} M trainable parameters; "
        f"{collectives.world()} process(es) on {device.type}; torch {torch.__version__}; code "
        f"{revision()}"
    )


# ============ training ============
def set_up_training(config: dict, store, rows, make_model, device, folder, labels=None) -> Training:
    """Everything up to the first step, or to where a resumed run stands; tells of it and saves
    the config.

    Args:
        rows: of the store, to train on; labels: of all its records, None for a self-supervised
            job.
        make_model: () -> Method; called under the config's seed.
    """
    # ============ data ============
    data, train = config["dataset"], {**config["train"]}
    cropping, pipeline = training_transforms(config)
    pipeline = pipeline.to(device)
    leads = parse_leads(data["lead"])
    dataset = CropDataset(store, leads, cropping.length, labels)
    batches = TrainingBatches(
        rows,
        dataset.samples[rows],
        cropping.length,
        seed=config["seed"],
        batch_size=config["dataloader"]["batch_size"],
        accumulate=train["accum_iter"],
        crops=data["crops_per_record"],
        steps=train["steps_per_epoch"],
        rank=collectives.rank(),
        world=collectives.world(),
    )
    train["lr"] = resolve_lr(train, batches.batch_size, collectives.world())
    config = {**config, "train": train}

    # ============ model ============
    model = make_model()
    check_input(model.to(device).encoder, len(leads), cropping.length)
    seed_everything(config["seed"])

    # ============ where it stands ============
    training = Training(model, config, dataset, batches, pipeline, device, folder)
    describe_run(config, device, model)
    print_once(
        f"{len(rows)} training records at {store.fs} Hz, {batches.steps} steps an epoch, peak "
        f"learning rate {train['lr']:.3g}"
    )
    if not training.resumed:
        model.fit_statistics(
            crops_for_statistics(
                dataset, rows, cropping.length, batches.batch_size, device, pipeline.fixed
            )
        )
    if collectives.is_main():
        save_config(config, training.folder / "config.yaml")
    return training
