"""What a weights file is, as a page of Markdown that can travel with it."""

import os
from pathlib import Path
from typing import Any

from util.config.keys import FinetuneConfig, JobConfig, PretrainConfig
from util.evaluation.trained import class_codes, read_weights
from util.handover.load import config_of
from util.jobs.setup import crop_length
from util.leads import parse_leads

MOST_CLASSES = 40  # in a card


def card(path: str | os.PathLike) -> str:
    """Return the card of a weights file in Markdown: what it takes and gives, and what made it.

    Raises:
        CheckpointError: the file does not carry the config of its training.
    """
    content = read_weights(path)
    config = config_of(content["config"])
    sections = {
        "Takes": _input(config),
        "Gives": _output(content, config),
        "Made by": _origin(content, config),
    }
    lines = [f"# {Path(path).name}: {config.model_name}"]
    for title, facts in sections.items():
        lines += ["", f"## {title}", ""]
        lines += [f"- {name}: {value}" for name, value in facts.items() if value not in ("", None)]
    return "\n".join(lines) + "\n"


def _input(config: JobConfig) -> dict[str, Any]:
    data = config.dataset
    length = crop_length(data)
    filters = data.filters and ", ".join(f"{name} {value}" for name, value in data.filters.items())
    return {
        "signals": "(records, leads, time) in millivolts, of any rate and length",
        "leads": " ".join(parse_leads(data.lead)),
        "resampled to": f"{data.fs} Hz",
        "crops": f"{length} samples, {length / data.fs:g} s",
        "filters (Hz)": filters,
        "standardised": data.standardize and f"each {data.standardize}",
        "steps of the crops": data.transforms,
    }


def _output(content: dict[str, Any], config: JobConfig) -> dict[str, Any]:
    if not isinstance(config, FinetuneConfig):
        return {"features": "the mean over crops, one vector a record"}
    about = content.get("labels") or {}
    names = about.get("classes", [])
    codes = class_codes(config, names)
    classes = [name if name == code else f"{name} ({code})" for name, code in zip(names, codes)]
    more = f" and {len(classes) - MOST_CLASSES} more" * (len(classes) > MOST_CLASSES)
    scores = content.get("metrics") or {}
    return {
        "loss": about.get("loss"),
        "classes": ", ".join(classes[:MOST_CLASSES]) + more,
        "scores on the selection fold": ", ".join(f"{k} {v:.4f}" for k, v in scores.items()),
    }


def _origin(content: dict[str, Any], config: JobConfig) -> dict[str, Any]:
    data = config.dataset
    folds: dict[str, Any] = {"test fold": data.fold}
    if isinstance(config, PretrainConfig):
        folds = {"folds left out": config.dataset.exclude_folds or "none"}
    count = sum(value.numel() for value in content["model"].values())
    return {
        "model": f"{config.model_name} {config.model or ''}".strip(),
        "numbers": f"{count:,} in {len(content['model'])} tensors",
        "program": config.title,
        "epochs": content.get("epoch", -1) + 1,
        "seed": config.seed,
        **folds,
        "databases": data.databases and ", ".join(data.databases),
        "checksum of the store's records": content.get("store"),
        "licence": config.licence or "not stated",
    }
