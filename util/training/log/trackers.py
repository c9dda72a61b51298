"""Trackers of experiments, optional packages: wandb, mlflow, trackio."""

import contextlib
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from util.console import note
from util.errors import ConfigError
from util.files import write_json

FILE = "tracker.json"


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
        run: id of the run to go on with; None: a new one.
    """

    def __init__(
        self, package: Any, project: str, name: str, config: dict[str, Any], run: str | None
    ) -> None:
        self.package = package
        package.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or project)
        begun = package.start_run(**({"run_id": run} if run else {"run_name": name}))
        self.id = getattr(getattr(begun, "info", None), "run_id", run)
        if not run:
            package.log_params(config)  # which MLflow lets nobody change

    def log(self, values: dict[str, float], step: int) -> None:
        """Add points of curves."""
        self.package.log_metrics(values, step=step)

    def finish(self) -> None:
        """End the run."""
        self.package.end_run()


def _wandb(
    package: Any, project: str, name: str, config: dict[str, Any], run: str | None
) -> Tracker:
    project = os.environ.get("WANDB_PROJECT") or project
    again = {"id": run, "resume": "allow"} if run else {}
    return package.init(project=project, name=name, config=config, **again)


def _trackio(
    package: Any, project: str, name: str, config: dict[str, Any], run: str | None
) -> Tracker:
    again = {"resume": "allow"} if run else {}
    return package.init(project=project, name=run or name, config=config, **again)


# What begins or resumes a run, and the name of its attribute that tells the run.
TRACKERS: dict[str, tuple[Callable[..., Tracker], str]] = {
    "wandb": (_wandb, "id"),
    "mlflow": (MLflowRun, "id"),
    "trackio": (_trackio, "name"),
}


def open_tracker(
    kind: str, folder: Path, config: dict[str, Any], *, resumed: bool = False
) -> Tracker:
    """Begin a run at a tracker: its project is the folder above the run's.

    Args:
        kind: a key of ``TRACKERS``.
        folder: of the run; FILE there keeps which run of the tracker it is.
        config: its parameters, flat.
        resumed: go on with that run, where FILE is of this tracker.

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
    begin, identity = TRACKERS[kind]
    run = _kept(folder, kind) if resumed else None
    try:
        tracker = begin(package, above, name, config, run)
    except Exception as error:  # whatever a service or its network can raise
        anew = f"remove {folder / FILE} to begin another run there, " if run else ""
        raise ConfigError(
            f"train.tracker: {kind} does not begin ({type(error).__name__}: {error}); mend it, "
            f"{anew}or leave the key out (train.tracker=null)"
        ) from None
    if run:
        note(f"train.tracker: goes on with run {run} of {kind}")
    told = getattr(tracker, identity, None)
    if isinstance(told, str):
        write_json(folder / FILE, {"tracker": kind, "run": told})
    return tracker


def _kept(folder: Path, kind: str) -> str | None:
    """The run of a tracker that a folder's run is; None, with a note, where it is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads((folder / FILE).read_text("utf-8"))
        if kept["tracker"] == kind and isinstance(kept["run"], str):
            return kept["run"]
    note(f"train.tracker: {folder / FILE} names no run of {kind}; another one begins there")
    return None


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
