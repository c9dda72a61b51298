"""Trackers of experiments, optional packages: wandb, mlflow, trackio."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from util.errors import ConfigError


class Tracker(Protocol):
    """A run at a tracker."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Add points of curves."""

    def finish(self) -> None:
        """End the run."""


class MLflowRun:
    """A run of MLflow, in the words of the others.

    Args:
        package: mlflow.
        project: its experiment.
        name: of the run.
        config: its parameters.
    """

    def __init__(self, package: Any, project: str, name: str, config: dict[str, Any]) -> None:
        self.package = package
        package.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or project)
        package.start_run(run_name=name)
        package.log_params(config)

    def log(self, values: dict[str, float], step: int) -> None:
        """Add points of curves."""
        self.package.log_metrics(values, step=step)

    def finish(self) -> None:
        """End the run."""
        self.package.end_run()


def _wandb(package: Any, project: str, name: str, config: dict[str, Any]) -> Tracker:
    project = os.environ.get("WANDB_PROJECT") or project
    return package.init(project=project, name=name, config=config)


def _trackio(package: Any, project: str, name: str, config: dict[str, Any]) -> Tracker:
    return package.init(project=project, name=name, config=config)


TRACKERS: dict[str, Callable[..., Tracker]] = {
    "wandb": _wandb,
    "mlflow": MLflowRun,
    "trackio": _trackio,
}


def open_tracker(kind: str, folder: Path, config: dict[str, Any]) -> Tracker:
    """Begin a run at a tracker: its project is the folder above the run's.

    Args:
        kind: a key of ``TRACKERS``.
        folder: of the run.
        config: its parameters, flat.

    Raises:
        ConfigError: the package is missing, or does not begin.
    """
    try:
        package = importlib.import_module(kind)
    except ImportError:
        raise ConfigError(
            f"train.tracker: {kind} needs the package {kind}; pip install {kind}, or leave the "
            "key out (train.tracker=null)"
        ) from None
    above, name = folder.resolve().parts[-2:]
    if name.startswith("fold"):
        above, name = folder.resolve().parts[-3], f"{above}/{name}"
    try:
        return TRACKERS[kind](package, above, name, config)
    except Exception as error:  # whatever a service or its network can raise
        raise ConfigError(
            f"train.tracker: {kind} does not begin ({type(error).__name__}: {error}); mend it, or "
            "leave the key out (train.tracker=null)"
        ) from None


def flattened(config: dict, prefix: str = "") -> dict[str, Any]:
    """Return a config with dotted keys and plain values, others as text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{key}"] = value if plain else str(value)
    return flat
