"""The trainings of a table: their configs and their folders."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.tables.definition import Row, Table, resolved
from util.config.fields import to_mapping
from util.config.keys import FinetuneConfig, PretrainConfig
from util.data.store import FOLDS
from util.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What all trainings share.

    Attributes:
        output_dir: the folder of trainings and predictions.
        device: auto, cuda or cpu.
        overrides: texts KEY=VALUE, merged over every config.
    """

    output_dir: str
    device: str = "auto"
    overrides: Sequence[str] = ()


def pretraining(row: Row, seed: int, fold: int, settings: Settings) -> PretrainConfig:
    """Return the config by which the encoder of a row on one fold is pre-trained.

    Rows and folds that share the encoder have the same one.  It sees no record by which any fold
    of the row's group tests or selects.
    """
    if row.pretrain is None:
        raise ConfigError(f"{row.name} has no pre-training")
    group = next(group for group in row.groups if fold in group)
    unseen = sorted({(tested + step) % FOLDS for tested in group for step in (0, 1)})
    more = {
        "seed": seed,
        "output_dir": str(Path(settings.output_dir) / "pretrained"),
        "resume": "auto",
        "device": settings.device,
        "dataset": {"exclude_folds": unseen},
    }
    config = resolved(row.pretrain, PretrainConfig, more, settings.overrides)
    mapping = to_mapping(config)
    matters = [
        mapping[key] for key in ("model_name", "model", "dataset", "dataloader", "train", "seed")
    ]
    kind = zlib.crc32(json.dumps(matters, sort_keys=True).encode())
    return replace(config, exp_name=f"{config.model_name}-{kind:08x}")


def encoder_of(config: PretrainConfig) -> Path:
    """Return the path of a pre-training's encoder.pth, there or not yet."""
    return Path(config.output_dir) / config.exp_name / "encoder.pth"


def fine_tuning(table: Table, row: Row, seed: int, fold: int, settings: Settings) -> FinetuneConfig:
    """Return the config of one row on one fold, from its encoder where it has one."""
    more = {
        "seed": seed,
        "output_dir": str(place(table, row, seed, settings)),
        "exp_name": f"fold{fold}",
        "resume": "auto",
        "device": settings.device,
        "dataset": {"fold": fold},
    }
    if row.pretrain:
        more["encoder_path"] = str(encoder_of(pretraining(row, seed, fold, settings)))
        if not any(text.startswith("mode=") for text in row.overrides):
            more["mode"] = "finetune"
    return resolved(row, FinetuneConfig, more, settings.overrides)


def place(table: Table, row: Row, seed: int, settings: Settings) -> Path:
    """Return the folder of a row's trainings by one seed, fold<k> for each fold."""
    return Path(settings.output_dir) / table.runs / row.name.replace(" ", "_") / f"seed{seed}"
