"""Trained weights: finding them in a folder, and rebuilding the classifier that they belong to."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from util.challenge import ABBREVIATIONS, CLASSES
from util.config.keys import FinetuneConfig
from util.config.load import load_config
from util.data.labels import parse_classes
from util.data.store import FOLDS
from util.errors import CheckpointError
from util.evaluation.report import PUBLISHED_BEST, FoldFiles
from util.scoring.criterion import TASKS, Criterion
from util.signals.crops import Cropping
from util.signals.transforms import Pipeline
from util.training import checkpoint
from util.training.setup import build_configured, evaluation_transforms

METRIC = {name: metric for metric, name in PUBLISHED_BEST.items()}  # --best-type ROC -> AUROC


def find_weights(folder, best: str, folds=None) -> dict[int, Path]:
    """Weights that training left in ``folder``, by test fold: those of an experiment
    (fold<k>_best<ROC|PRC>.pth) or of main_finetune.py (fold<k>/best-<metric>.pth, or
    best-<metric>.pth of a single fold).

    Args:
        best: ROC or PRC, the metric of the selection.
        folds: those wanted, or a CheckpointError; None for all that are there.
    """
    folder, metric = Path(folder), METRIC[best]
    found = {}
    for fold in range(FOLDS):
        for files in FoldFiles(folder / f"fold{fold}"), FoldFiles(folder / f"fold{fold}", True):
            if files.best(metric).is_file():
                found[fold] = files.best(metric)
    lone = FoldFiles(folder).best(metric)
    if not found and lone.is_file():
        found[read_weights(lone)["config"]["dataset"]["fold"]] = lone
    missing = [fold for fold in folds or () if fold not in found]
    if not found or missing:
        what = f"for fold {', '.join(map(str, missing))}" if found else "at all"
        raise CheckpointError(
            f"{folder} holds no weights chosen by {metric} {what} (looked for "
            f"fold<k>_best{best}.pth, fold<k>/best-{metric}.pth, best-{metric}.pth); name the "
            "--save_folder of the training"
        )
    return {fold: found[fold] for fold in folds or found}


def read_weights(path) -> dict:
    """Content of a checkpoint that carries the config it was trained by."""
    content = checkpoint.load(path, "weights")
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(
            f"{path} does not carry the config of its training; take the weights that this "
            "project's training wrote, e.g. fold0_bestROC.pth"
        )
    return content


@dataclass
class Trained:
    """A trained classifier and all that it takes to use it, rebuilt from its weights file."""

    path: Path
    config: FinetuneConfig
    classifier: nn.Module  # in evaluation mode
    store: str | None  # checksum of records.csv of the store that it was trained on, if known
    cropping: Cropping  # how it sees a record
    pipeline: Pipeline
    criterion: Criterion  # what its outputs mean
    codes: tuple[
        str, ...
    ]  # SNOMED CT codes of the classes, or their names where labels come from a table

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; in regression, of the columns."""
        return self.criterion.classes

    @property
    def task(self) -> str:
        """multilabel, multiclass or regression."""
        return TASKS[self.criterion.loss]


def load_trained(path, overrides=(), config_path=None) -> Trained:
    """Rebuild the classifier of a weights file.

    Args:
        overrides: ``--set`` texts, such as dataset.store=... where the store has moved.
        config_path: a config to use instead of the file's own.

    Raises:
        CheckpointError: the file cannot be used, or its tensors do not fit the config's model.
    """
    content = checkpoint.load(path, "weights") if config_path else read_weights(path)
    weights_are_there = {"mode": "scratch", "encoder_path": "", "resume": ""}
    config = load_config(
        [config_path or content["config"]], overrides, weights_are_there, program=FinetuneConfig
    )
    criterion = _criterion(content.get("labels"), config, path)
    classifier = build_configured(config, len(criterion.classes))
    try:
        classifier.load_state_dict(content["model"])
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit {config.model_name}: {reason}") from None
    cropping, pipeline = evaluation_transforms(config)
    return Trained(
        Path(path),
        config,
        classifier.eval(),
        content.get("store"),
        cropping,
        pipeline,
        criterion,
        class_codes(config, criterion.classes),
    )


def _criterion(about, config, path) -> Criterion:
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


def class_codes(config, names=()) -> tuple[str, ...]:
    """The SNOMED CT code that stands for each class: the Challenge's, or the first one listed in
    the config; its name among ``names`` where labels come from a table.
    """
    classes = config.dataset.classes
    if config.dataset.labels is not None:
        return CLASSES if tuple(names) == ABBREVIATIONS else tuple(names)
    if classes in (None, "challenge2020"):
        return CLASSES
    return tuple(str(codes[0] if isinstance(codes, list) else codes) for codes in classes.values())
