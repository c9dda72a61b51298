"""The trainings of a table: their configs and their folders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.tables.definition import Row, Table, resolved
from experiments.tables.fingerprints import fingerprint, store_of, what_matters
from util.config.keys import FinetuneConfig, PretrainConfig
from util.console import quietly
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
    kind = fingerprint(what_matters(config), unseen, seed, store_of(config))
    return replace(config, exp_name=f"{config.model_name}-{kind}")


def encoder_of(config: PretrainConfig) -> Path:
    """Return the path of a pre-training's encoder.pth, there or not yet."""
    return Path(config.output_dir) / config.exp_name / "encoder.pth"


def fine_tuning(table: Table, row: Row, seed: int, fold: int, settings: Settings) -> FinetuneConfig:
    """Return the config of one row on one fold, from its encoder where it has one."""
    more = {
        "seed": seed,
        "output_dir": str(place(table, row, seed, fold, settings)),
        "exp_name": f"fold{fold}",
        "resume": "auto",
        "device": settings.device,
        "dataset": {"fold": fold},
    }
    if row.pretrain:
        more["encoder_path"] = str(encoder_of(pretraining(row, seed, fold, settings)))
        if not _says_mode(row):
            more["mode"] = "finetune"
    return resolved(row, FinetuneConfig, more, settings.overrides)


def place(table: Table, row: Row, seed: int, fold: int, settings: Settings) -> Path:
    """Return the folder in which a row's training by one seed on one fold is fold<k>.

    Folds that share an encoder share the folder, as do all folds of a row without one.  What
    another definition of the row, another store or another encoder made lies in another folder.
    """
    origin = origin_of(row, seed, fold, settings)
    name = f"{row.name.replace(' ', '_')}-{fingerprint(*origin.values())}"
    return Path(settings.output_dir) / table.runs / name / f"seed{seed}"


# ============ what made a result: what its configs have to say, a training says ============
@quietly()
def definition_of(row: Row, settings: Settings) -> str:
    """Return the fingerprint of a row's configs and of how it is scored, whatever its fold, its
    seed and the store.
    """
    encoder = None
    if row.pretrain:
        encoder = what_matters(resolved(row.pretrain, PretrainConfig, {}, settings.overrides))
    return fingerprint(what_matters(base_of(row, settings)), row.knn, encoder)


@quietly()
def origin_of(row: Row, seed: int, fold: int, settings: Settings) -> dict[str, str]:
    """Return what a cell of the CSV must say of its origin to be today's: the definition of its
    row, the store, and the pre-training of its encoder, empty without one.
    """
    encoder = pretraining(row, seed, fold, settings).exp_name if row.pretrain else ""
    return {
        "definition": definition_of(row, settings),
        "store": store_of(base_of(row, settings)),
        "encoder": encoder,
    }


@quietly()
def base_of(row: Row, settings: Settings) -> FinetuneConfig:
    """Return the config of a row, on any fold."""
    more = {} if _says_mode(row) or not row.pretrain else {"mode": "finetune"}
    return resolved(row, FinetuneConfig, more, settings.overrides)


def _says_mode(row: Row) -> bool:
    return any(text.startswith("mode=") for text in row.overrides)
