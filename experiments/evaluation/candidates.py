"""The encoders that are compared: files of weights, a grid of random ones, and from scratch."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

from util.config.keys import FinetuneConfig, JobConfig
from util.config.load import load_config
from util.contract.encoder import Encoder
from util.contract.registry import find_model
from util.errors import ConfigError
from util.handover.load import config_of
from util.jobs.setup import build_configured
from util.weights.encoder_file import read_encoder

RANDOM, SCRATCH = "random", "scratch"  # names of the candidates that no file holds
SEEDS = 16  # of the random grid, unless --weights says otherwise
DATA = ("fs", "lead", "crop", "filters", "standardize", "transforms")  # that go with an encoder


@dataclass(frozen=True)
class Candidate:
    """A row of the comparison.

    Attributes:
        name: as the tables print it.
        source: the config of the training that its network comes from.
        weights: the file; None of random ones.
        seeds: of first weights; None where these are not drawn.
        store: checksum of the records of the store of its training; None where no file says it.
    """

    name: str
    source: JobConfig
    weights: Path | None = None
    seeds: tuple[int, ...] | None = None
    store: str | None = None

    @property
    def layer(self) -> dict[str, Any]:
        """Return the network and its preprocessing, as a layer of a supervised config."""
        name, model = network_of(self.source)
        data = self.source.dataset
        chosen = {key: getattr(data, key) for key in DATA}
        given = {key: value for key, value in chosen.items() if value is not None}
        return {"model_name": name, "model": model, "dataset": given}

    def untrained(self, seed: int) -> Encoder:
        """Return the network as its training would start it by this seed."""
        config = replace(self.source, seed=seed)
        if isinstance(config, FinetuneConfig):
            return build_configured(config, 1)
        return build_configured(config).handed_on


def network_of(config: JobConfig) -> tuple[str, dict[str, Any]]:
    """Return model_name and model of the encoder that a training leaves.

    Raises:
        ConfigError: the method does not say.
    """
    name, model = config.model_name, dict(config.model)
    if isinstance(config, FinetuneConfig):
        return name, model
    if "encoder" in signature(find_model(name)).parameters:
        inner = dict(model["encoder"])
        return inner.pop("name"), inner
    encoder = name.rpartition("_dec")[0].removeprefix("mtae_")
    if not encoder:
        raise ConfigError(
            f"the method {name} does not say which encoder is in it; name a config of "
            "configs/downstream by --config_path"
        )
    takes = signature(find_model(encoder)).parameters
    return encoder, {key: value for key, value in model.items() if key in takes}


def read_candidates(given: Sequence[str], config_path: str | None) -> list[Candidate]:
    """Return the candidates of --weights: files in their order, then random, then scratch.

    Random weights and training from scratch are always among them, of the first file's network.

    Args:
        given: paths, and at most one "random:N".
        config_path: a file of configs/downstream, of networks whose files do not say theirs.

    Raises:
        ConfigError: an encoder's network is not known, or a word is wrong.
    """
    grids = [text for text in given if re.fullmatch(rf"{RANDOM}(:[0-9]+)?", text)]
    paths = [Path(text) for text in given if text not in grids]
    if len(grids) > 1 or any(text.endswith(":0") for text in grids):
        raise ConfigError(f"--weights {' '.join(grids)}: give one {RANDOM}:N, with N from 1")
    count = int(grids[0].partition(":")[2] or SEEDS) if grids else SEEDS
    files = [_of_file(path, name, config_path) for path, name in zip(paths, names_of(paths))]
    if not files and not config_path:
        raise ConfigError(
            "--weights names no encoder, whose network the random ones would have; name one, or a "
            "config of configs/downstream by --config_path"
        )
    source = files[0].source if files else _read(config_path)
    return [
        *files,
        Candidate(RANDOM, source, seeds=tuple(range(count))),
        Candidate(SCRATCH, source),
    ]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return short names of files, no two alike: of the file, or of the folder of an encoder.pth.

    Raises:
        ConfigError: a file is named twice.
    """
    stems = [path.parent.resolve().name if path.stem == "encoder" else path.stem for path in paths]
    taken = [RANDOM, SCRATCH, *stems]
    names = [stem if taken.count(stem) == 1 else str(path) for stem, path in zip(stems, paths)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--weights names {name} twice; leave out one")
    return names


def _of_file(path: Path, name: str, config_path: str | None) -> Candidate:
    content = read_encoder(path).content
    config = content.get("config")
    if isinstance(config, dict) and "model_name" in config:
        return Candidate(name, config_of(config), path, store=content.get("store"))
    if config_path is None:
        raise ConfigError(
            f"{path} does not say its network; name its config by --config_path, e.g. "
            "configs/downstream/st_mem.yaml"
        )
    return Candidate(name, _read(config_path), path)


def _read(config_path: str | os.PathLike | None) -> FinetuneConfig:
    assert config_path is not None, "asked for where it is given"
    return load_config([config_path], [], {"mode": "scratch"}, program=FinetuneConfig)
