"""Trained weights: finding them in a folder, and rebuilding the classifier that they belong to."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from util.challenge import ABBREVIATIONS, CLASSES
from util.config.keys import FinetuneConfig
from util.config.load import load_config
from util.console import note
from util.contract.encoder import Encoder
from util.data.store import FOLDS
from util.errors import CheckpointError
from util.evaluation.report import PUBLISHED_BEST, FoldFiles
from util.jobs.setup import build_configured, evaluation_transforms
from util.labels.tables import parse_classes
from util.scoring.calibration import LabelSets
from util.scoring.criterion import TASKS, Criterion
from util.signals.crops import Cropping
from util.signals.transforms import Pipeline
from util.weights.encoder_file import EncoderFile, check_numbers, read_encoder
from util.weights.names import quote_names

METRIC = {name: metric for metric, name in PUBLISHED_BEST.items()}  # --best-type ROC -> AUROC


def find_weights(
    folder: str | os.PathLike, best: str, folds: Sequence[int] | None = None
) -> dict[int, Path]:
    """Return the weights that training left in a folder, by test fold: those of an experiment
    (fold<k>_best<ROC|PRC>.pth) or of main_finetune.py (fold<k>/best-<metric>.pth, or
    best-<metric>.pth of a single fold).

    Args:
        folder: of the training.
        best: ROC or PRC, the metric of the selection.
        folds: those wanted; None for all that are there.

    Raises:
        CheckpointError: there are none, or not those wanted.
    """
    folder, metric = Path(folder), METRIC[best]
    weights: dict[int, Path] = {}
    for fold in range(FOLDS):
        for files in (
            FoldFiles(folder / f"fold{fold}"),
            FoldFiles(folder / f"fold{fold}", published=True),
        ):
            if files.best(metric).is_file():
                weights[fold] = files.best(metric)
    lone = FoldFiles(folder).best(metric)
    if not weights and lone.is_file():
        weights[read_weights(lone)["config"]["dataset"]["fold"]] = lone
    missing = [fold for fold in folds or () if fold not in weights]
    if not weights or missing:
        what = f"for fold {', '.join(map(str, missing))}" if weights else "at all"
        raise CheckpointError(
            f"{folder} holds no weights chosen by {metric} {what} (looked for "
            f"fold<k>_best{best}.pth, fold<k>/best-{metric}.pth, best-{metric}.pth); name the "
            "--save_folder of the training"
        )
    return {fold: weights[fold] for fold in folds or weights}


def read_weights(path: str | os.PathLike) -> dict[str, Any]:
    """Return the content of a checkpoint that carries the config it was trained by.

    Raises:
        CheckpointError: the file is unreadable or carries none.
    """
    return _content(read_encoder(path, "weights"))


def _content(file: EncoderFile, *, config_needed: bool = True) -> dict[str, Any]:
    ours = all(isinstance(file.content.get(key), dict) for key in ("config", "model"))
    if config_needed and not ours:
        raise CheckpointError(
            f"{file.path} does not carry the config of its training; take the weights that this "
            "project's training wrote, e.g. fold0_bestROC.pth"
        )
    return file.content


def _refuse_encoder(content: dict[str, Any], path: str | os.PathLike) -> None:
    """Raise a CheckpointError for weights that do not classify."""
    encoder_alone = "leads" in content and "metrics" not in content
    if encoder_alone or "mode" not in content["config"]:
        raise CheckpointError(
            f"{path} is an encoder or a checkpoint of pre-training, which does not classify; "
            "fine-tune it first (run_downstream.sh --encoder_path), then give that run's "
            "best-loss.pth"
        )


@dataclass(frozen=True)
class Trained:
    """A trained classifier and all that it takes to use it, rebuilt from its weights file.

    Attributes:
        path: of the file.
        config: by which it was trained, as far as using it goes.
        stored: the config that the file carries, whole; empty where it has none.
        classifier: in evaluation mode.
        store: checksum of records.csv of the store that it was trained on, if known.
        cropping: which windows of a record it sees.
        pipeline: the transforms of these windows.
        criterion: what its outputs mean.
        codes: SNOMED CT codes of the classes, or their names where labels come from a table.
        thresholds: of the selection records, a number for each class by rule (see
            ``util.scoring.operating_points``); empty where the file has none.
        positives: how many of these records have each class; empty likewise.
        temperature: that fits these records best; None where the file has none.
        sets: limits of label sets by coverage, of these records; empty likewise.
    """

    path: Path
    config: FinetuneConfig
    stored: dict[str, Any]
    classifier: Encoder
    store: str | None
    cropping: Cropping
    pipeline: Pipeline
    criterion: Criterion
    codes: tuple[str, ...]
    thresholds: dict[str, list[float]] = field(default_factory=dict)
    positives: tuple[int, ...] = ()
    temperature: float | None = None
    sets: dict[float, LabelSets] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names; in regression, the columns'."""
        return self.criterion.classes

    @property
    def task(self) -> str:
        """Return multilabel, multiclass or regression."""
        return TASKS[self.criterion.loss]


def load_trained(
    path: str | os.PathLike,
    overrides: Iterable[str] = (),
    config_path: str | os.PathLike | None = None,
) -> Trained:
    """Rebuild the classifier of a weights file.

    Args:
        path: the file.
        overrides: ``--set`` texts, such as dataset.store=... where the store has moved.
        config_path: a config to use instead of the file's own.

    Raises:
        CheckpointError: the file cannot be used, its tensors do not fit the config's model, or it
            was trained on other leads or at another sampling rate than the config says.
    """
    file = read_encoder(path, "weights")
    content = _content(file, config_needed=config_path is None)
    if config_path is None:
        _refuse_encoder(content, path)
    weights_are_there = {"mode": "scratch", "encoder_path": "", "resume": ""}
    config = load_config(
        [config_path or content["config"]], overrides, weights_are_there, program=FinetuneConfig
    )
    criterion = _criterion(content.get("labels"), config, path)
    classifier = build_configured(config, len(criterion.classes))
    here = classifier.state_dict()
    part = file.part(here)
    try:
        classifier.load_state_dict(file.fit_to(classifier, part.state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} does not fit {config.model_name}: {reason}; {quote_names(part.state, [*here])}"
        ) from None
    check_numbers(path, part.state, here)
    said = [f"its weights are those {part.place}"] * bool(part.place)
    said += [each for each in file.said_of_leads(classifier).split("; ") if each]
    if said:
        note(f"{path}: {'; '.join(said)}")
    if content.get("label_overlap"):
        note(
            f"note: {path} was started from weights that had seen labels of "
            f"{content['label_overlap']} of its test records; scores on these are too good"
        )
    cropping, pipeline = evaluation_transforms(config)
    return Trained(
        path=Path(path),
        config=config,
        stored=content.get("config") or {},
        classifier=classifier.eval(),
        store=content.get("store"),
        cropping=cropping,
        pipeline=pipeline,
        criterion=criterion,
        codes=class_codes(config, criterion.classes),
        thresholds=_thresholds(content.get("thresholds"), len(criterion.classes), path),
        positives=tuple(content.get("positives") or ()),
        **_calibration(content.get("calibration"), len(criterion.classes), path),
    )


def _thresholds(kept: Any, classes: int, path: str | os.PathLike) -> dict[str, list[float]]:
    """The thresholds that weights carry, checked."""
    if kept is None:
        return {}
    try:
        return {str(rule): _probabilities(values, classes) for rule, values in kept.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its thresholds cannot be used ({error}); train anew"
        ) from None


def _calibration(kept: Any, classes: int, path: str | os.PathLike) -> dict[str, Any]:
    """Temperature and label sets that weights carry, checked."""
    if not kept:
        return {}
    try:
        by = kept.get("temperature")
        if by is not None and not 0 < float(by) < math.inf:
            raise ValueError(f"temperature {by}")
        sets = {}
        for coverage, limits in kept["sets"].items():
            sides = [np.array(_probabilities(limits[n], classes)) for n in ("present", "absent")]
            sets[float(coverage)] = LabelSets(float(coverage), *sides)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its calibration cannot be used ({error}); train anew"
        ) from None
    return {"temperature": None if by is None else float(by), "sets": sets}


def _probabilities(values: Any, classes: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != classes or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"not {classes} numbers between 0 and 1")
    return numbers


def _criterion(about: Any, config: FinetuneConfig, path: str | os.PathLike) -> Criterion:
    """The criterion that weights carry; earlier ones follow from their config."""
    if isinstance(about, dict):
        try:
            return Criterion(**about)
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} does not say what its outputs mean ({error}); train anew"
            ) from None
    if config.dataset.labels is not None:
        raise CheckpointError(
            f"{path} does not say which labels it was trained on; take weights that training wrote"
        )
    return Criterion(config.loss or "bce", tuple(parse_classes(config.dataset.classes)))


def class_codes(config: FinetuneConfig, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the SNOMED CT code that stands for each class: the Challenge's, or the first one
    listed in the config; its name where labels come from a table.

    Args:
        config: says where the labels come from.
        names: of the classes.
    """
    classes = config.dataset.classes
    if config.dataset.labels is not None:
        return CLASSES if tuple(names) == ABBREVIATIONS else tuple(names)
    if not isinstance(classes, dict):  # challenge2020, or null
        return CLASSES
    return tuple(str(codes[0] if isinstance(codes, list) else codes) for codes in classes.values())
