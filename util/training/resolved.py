"""The config as a run keeps it, in config.yaml and in checkpoints, and how another one differs."""

import contextlib

from util.config.compare import differences
from util.config.fields import to_mapping
from util.config.keys import DatasetConfig, JobConfig
from util.config.load import divide
from util.config.published import translate
from util.contract.registry import DataFacts, complete
from util.errors import ConfigError
from util.leads import parse_leads
from util.signals.crops import parse_cropping

MATTERS = ("dataset.store", "train.epochs")  # which a resumed run may change, but not a new one


def crop_length(data: DatasetConfig) -> int:
    """Return the samples of a training crop."""
    if data.transforms is not None:
        return parse_cropping(data.transforms, "dataset.transforms").length
    assert data.crop is not None, "a checked config has one or the other"
    return data.crop


def data_facts(config: JobConfig, num_classes: int | None = None) -> DataFacts:
    """Return what the config's model has to know of its data."""
    data = config.dataset
    return DataFacts(parse_leads(data.lead), data.fs, num_classes, crop_length(data))


def resolved(config: JobConfig, lr: float, fold: int | None) -> dict:
    """Return the config as config.yaml and checkpoints keep it: with every argument of the model,
    and with the learning rate and the fold of this run.
    """
    mapping = to_mapping(config)
    mapping["model"] = _arguments({"name": config.model_name, **config.model}, config)
    mapping["train"]["lr"] = lr
    if fold is not None:
        mapping["dataset"]["fold"] = fold
    return mapping


def changes(old: dict, new: dict, config: JobConfig, where: str) -> dict[str, str]:
    """Return the dotted keys in which an earlier run's config differs from this run's, as
    ``differences`` does; arguments of the model that were not given have their defaults.

    Args:
        old: the earlier run's, resolved.
        new: this run's, resolved.
        config: of this run.
        where: the old one comes from, for messages.
    """
    return differences(_full(old, config), _full(new, config), type(config), where)


def different_job(old: dict, new: dict, config: JobConfig, where: str) -> list[str]:
    """Return the dotted keys by which two runs are of different jobs: those that a resumed run may
    not change whenever it likes, and ``MATTERS``.

    Args: as for ``changes``, but both configs may be of an earlier version.
    """
    today, _ = divide(translate(new, where), type(config))
    changed = changes(old, today, config, where)
    return [name for name, may in changed.items() if may != "free" or name in MATTERS]


def _full(mapping: dict, config: JobConfig) -> dict:
    """A config with every argument of its model, if this is the model of ``config``."""
    model = mapping.get("model")
    if isinstance(model, dict) and mapping.get("model_name") == config.model_name:
        with contextlib.suppress(ConfigError):  # a part of it is of a model that is gone
            return {**mapping, "model": _arguments({**model, "name": config.model_name}, config)}
    return mapping


def _arguments(spec: dict, config: JobConfig) -> dict:
    full = complete(spec, data_facts(config))
    return {name: value for name, value in full.items() if name != "name"}
