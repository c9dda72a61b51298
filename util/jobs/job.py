"""Supervised jobs: the labelled records that a config asks for, fold by fold, and the classifier
with its criterion that the engine trains on them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from util.config.fields import to_mapping
from util.config.keys import FinetuneConfig
from util.console import note
from util.contract.encoder import Encoder
from util.contract.method import Batch, Method
from util.data.dataset import CropDataset, crops_for_statistics
from util.data.splits import labelled_rows, make_splits, run_numbers, selection_fold, split_rows
from util.data.store import RecordStore, checksum
from util.data.strata import label_strata
from util.errors import ConfigError
from util.jobs.setup import (
    build_configured,
    check_input,
    evaluation_transforms,
    note_rows,
    open_store,
    training_transforms,
    usable_rows,
)
from util.labels.masks import LabelMasks
from util.labels.tables import Labels, note_rare_classes, note_unknown_labels, read_labels
from util.leads import parse_leads
from util.processes import collectives
from util.scoring.criterion import DEFAULT_LOSS, TASKS, Criterion
from util.scoring.predictions import Predictions
from util.scoring.scores import parse_scores
from util.training.movement import frozen_below
from util.weights.seen_labels import (
    KEY,
    LEARNS,
    SeenLabels,
    described,
    hashes,
    seen_by,
)
from util.weights.transfer import check_pretrained, load_pretrained, pretrained_files

PARTS = {"train": "training", "valid": "selection", "test": "test"}


def check_start(config: FinetuneConfig) -> None:
    """Check what training starts from, before any work.

    Raises:
        ConfigError: mode and encoder_path contradict each other.
        CheckpointError: the encoder file is unusable.
    """
    if config.mode == "scratch" and config.encoder_path:
        raise ConfigError(
            "mode scratch loads no encoder: choose mode finetune or linprobe, or leave out "
            "encoder_path"
        )
    if config.mode in ("finetune", "linprobe") and not config.encoder_path:
        raise ConfigError(
            f"mode {config.mode} needs --encoder_path, the encoder.pth of a pre-training run"
        )
    if config.mode in ("finetune", "scratch") and config.train.freeze_epochs >= config.train.epochs:
        note(
            f"note: train.freeze_epochs: {config.train.freeze_epochs} is the whole run "
            f"(train.epochs: {config.train.epochs}); only the heads are trained"
        )
    if config.encoder_path and collectives.is_main():
        check_pretrained(config.encoder_path)


class LabelledJob:
    """The labelled records that a config asks for, how they are scored, and the folds of the job.

    Attributes:
        config: with loss, task and classes filled in from the labels.
        store: the records.
        leads: names of the crops' leads.
        task: multilabel, multiclass or regression.
        classes: names of the classes or, in regression, of the columns.
        loss: name of the criterion.
        scores: what to measure, by printed name.
        splits: which records train, select and test, for each run.
        folds: numbers of the test folds, one run each.
        eval_cropping: which windows of a record evaluation uses.
        eval_pipeline: the transforms of these windows.
    """

    def __init__(self, config: FinetuneConfig):
        data = config.dataset
        self.folds = run_numbers(data)
        if len(self.folds) > 1 and config.resume not in ("", "auto"):
            raise ConfigError(
                f"resume: {config.resume} is of one fold but dataset.fold names "
                f"{len(self.folds)}; give 'auto' to resume all of them"
            )
        self.eval_cropping, self.eval_pipeline = evaluation_transforms(config)
        self.leads = parse_leads(data.lead)
        self.store: RecordStore = open_store(config)
        labels = self._read_labels(config)
        self.scores = parse_scores(config.metric.target_metrics, self.classes, self.task)
        if config.test.target_metric not in ("loss", *self.scores):
            raise ConfigError(
                f"test.target_metric: {config.test.target_metric!r} is not measured; choose "
                f"loss, {', '.join(self.scores)}"
            )
        self.splits = make_splits(self.store, data, labels.patients)
        self._masks = LabelMasks(
            labels,
            self.store,
            data,
            wanted=data.mask_unannotated,
            counts_file=data.annotated,
        )
        self._usable = usable_rows(self.store, config)
        # Where labels are masked fold by fold, ``fold`` finds the labelled rows of each.
        self._rows = None if self._masks.by_fold else self._labelled(self._masks.labels)
        note_rows(self.store, config)

    def _read_labels(self, config: FinetuneConfig) -> Labels:
        """Read the labels, check the config by them, and set task, classes, loss and config."""
        data, metric, loss = config.dataset, config.metric, config.loss
        task = metric.task or (TASKS[loss] if loss else None)
        if loss and TASKS[loss] != task:
            raise ConfigError(
                f"loss {loss} does not go with metric.task {task}; "
                + ", ".join(f"{name} goes with {kind}" for name, kind in TASKS.items())
            )
        labels = read_labels(self.store, data, task)
        if task not in (None, labels.kind):
            raise ConfigError(
                f"{'metric.task' if metric.task else 'loss'} is for {task} labels but the table "
                f"{labels.name} is {labels.kind}; leave metric.task and loss null"
            )
        for key in ("num_labels", "num_classes"):
            wanted = getattr(metric, key)
            if wanted not in (None, len(labels.classes)):
                raise ConfigError(
                    f"metric.{key} is {wanted} but {labels.name} has {len(labels.classes)}"
                )
        self.task, self.classes = labels.kind, labels.classes
        self.loss = loss or DEFAULT_LOSS[self.task]
        classes = data.classes or ("challenge2020" if data.labels is None else None)
        self.config = replace(
            config,
            loss=self.loss,
            metric=replace(metric, task=self.task),
            dataset=replace(data, classes=classes),
        )
        return labels

    def _labelled(self, labels: Labels) -> np.ndarray:
        return labelled_rows(self._usable, labels.known, self.splits)

    def fold(self, number: int) -> "Fold":
        """Return one fold of the job.

        Raises:
            ConfigError: a part of it is empty, or nothing can be learned from its labels.
        """
        parts, labels = self._parts(number)
        return Fold(
            job=self,
            number=number,
            title=self.splits.title(number),
            parts=parts,
            labels=labels.values,
            criterion=Criterion.fitted(self.loss, self.classes, labels.values[parts["train"]]),
            overlap=self._overlap(number, parts["test"]),
        )

    def _parts(self, number: int) -> tuple[dict[str, np.ndarray], Labels]:
        """The rows of a fold's parts, and the labels of all records as this fold masks them."""
        data = self.config.dataset
        selects = self.store.records["fold"] == selection_fold(data.protocol, number)
        labels = self._masks.of_fold(selects.to_numpy())
        rows = self._labelled(labels) if self._rows is None else self._rows
        parts = split_rows(
            self.splits,
            rows,
            number,
            strata=label_strata(labels.values, self.task),
            label_fraction=data.label_fraction,
            seed=self.config.seed,
        )
        return parts, labels

    def tests(self, number: int, predictions: Predictions) -> bool:
        """Return whether predictions are of the records that a fold tests, and of their labels."""
        parts, labels = self._parts(number)
        rows = parts["test"]
        names = self.store.records["record"].iloc[rows].to_numpy(str)
        return np.array_equal(predictions.records, names) and np.array_equal(
            predictions.labels, labels.values[rows], equal_nan=True
        )

    @cached_property
    def seen(self) -> SeenLabels:
        """Return whose labels the weights of encoder_path have seen; every process must ask."""
        path = self.config.encoder_path
        if not path:
            return SeenLabels()
        return SeenLabels.of(collectives.on_main(lambda: seen_by(pretrained_files(path)).content()))

    @cached_property
    def encoder_checksum(self) -> str:
        """Return that of the files of encoder_path, "" without any; every process must ask."""
        path = self.config.encoder_path
        if not path:
            return ""
        return collectives.on_main(
            lambda: " ".join(checksum(file.read_bytes()) for file in pretrained_files(path))
        )

    def hashes(self, rows: np.ndarray) -> torch.Tensor:
        """Return by which records of the store, and their patients, are known to ``seen``."""
        return hashes(self.store.records.iloc[rows], self.splits.patients[rows])

    def _overlap(self, number: int, tested: np.ndarray) -> int:
        """How many of the records to test were trained or selected on with their labels.

        Raises:
            ConfigError: some were, and ``allow_label_overlap`` is not set.
        """
        config, seen = self.config, self.seen
        if not seen.jobs:
            return 0
        dataset = {**to_mapping(config.dataset), "fold": number}
        count = seen.among(self.hashes(tested), dataset)
        jobs = f"{config.encoder_path} was trained with labels ({'; '.join(seen.jobs)})"
        found = f"{jobs}, those of {count} of the {len(tested)} test records of fold {number} or"
        if count and not config.allow_label_overlap:
            raise ConfigError(
                f"{found} of their patients among them: their scores would be too good. Start from "
                "a pre-training's encoder.pth or from a training of the same fold; with "
                "--allow_label_overlap they are tested all the same, and the results say so"
            )
        if count:
            note(f"note: {found} of their patients among them; their scores are too good")
        else:
            note(f"{jobs}, none of them of the test records of fold {number} or of their patients")
        return count

    def __iter__(self) -> Iterator["Fold"]:
        return (self.fold(number) for number in self.folds)


@dataclass(frozen=True)
class Fold:
    """One run of a supervised job, which all code that trains, scores, probes or tests takes.

    Attributes:
        job: what all its folds share.
        number: of the test fold.
        title: its description in printed sentences.
        parts: rows of the store by part: train, valid (selection) and test.
        labels: of all records of the store, in row order; those that this fold masks are unknown.
        criterion: the loss, fitted to the labels of its training part.
        overlap: how many test records the weights of encoder_path have seen with their labels.
    """

    job: LabelledJob
    number: int
    title: str
    parts: dict[str, np.ndarray]
    labels: np.ndarray
    criterion: Criterion
    overlap: int = 0

    @cached_property
    def about(self) -> dict[str, Any]:
        """Return what files of this fold's weights say of the labels that these have seen."""
        job, seen = self.job, self.job.seen
        mode = job.config.mode
        if mode in LEARNS:
            trained, selected = (job.hashes(self.parts[part]) for part in ("train", "valid"))
            jobs = (described(mode, self.number),)
            seen = seen.joined(SeenLabels(jobs, trained.flatten(), selected.flatten()))
        about: dict[str, Any] = {KEY: seen.content(), "encoder_checksum": job.encoder_checksum}
        about["rows_checksum"] = " ".join(checksum(rows.tobytes()) for rows in self.parts.values())
        return about | ({"label_overlap": self.overlap} if self.overlap else {})

    def labels_of(self, part: str) -> np.ndarray:
        """Return the labels of a part's records, in its order."""
        return self.labels[self.parts[part]]

    def patients_of(self, part: str) -> np.ndarray:
        """Return the patients of a part's records, "" where unknown."""
        return self.job.splits.patients[self.parts[part]]

    def crops(self, device: torch.device) -> Iterator[torch.Tensor]:
        """Yield crops of the training records, by which the input's statistics are fitted."""
        job, config = self.job, self.job.config
        cropping, pipeline = training_transforms(config)
        return crops_for_statistics(
            CropDataset(job.store, job.leads, cropping.length),
            self.parts["train"],
            cropping.length,
            config.dataloader.batch_size,
            device,
            pipeline.to(device).fixed,
        )

    def describe(self) -> None:
        """Say how many records and labels its parts have, and what is unknown or rare in them."""
        job, counts = self.job, {name: len(rows) for name, rows in self.parts.items()}
        what = f"{len(job.classes)} classes"
        if job.task == "regression":
            what = "regression of " + ", ".join(job.classes)
        note(
            f"{job.config.mode}, {self.title}: {counts['train']} training, {counts['valid']} "
            f"selection, {counts['test']} test records, {what}"
        )
        whole = [name for name, score in job.scores.items() if score.whole_records]
        for part, name in PARTS.items():
            if job.task != "regression":
                note_rare_classes(self.labels_of(part), job.classes, name)
            note_unknown_labels(self.labels_of(part), job.classes, name, whole)
        if job.config.dataset.protocol == "published":
            note(
                "note: protocol 'published' selects and reports on the same fold; its numbers are "
                "optimistic"
            )
        self.criterion.describe()


def make_classifier(job: LabelledJob) -> Encoder:
    """Build the job's classifier, with the weights of encoder_path where there is one.

    Raises:
        ConfigError: its sizes do not fit the crops.
        CheckpointError: the weights do not fit it.
    """
    config = job.config
    classifier = build_configured(config, len(job.classes))
    if config.encoder_path:
        # Process 0 reads the file, which the others may be unable to see, and sends the weights.
        note(collectives.on_main(lambda: load_pretrained(classifier, config.encoder_path)))
        collectives.same_tensors(classifier.state_dict().values())
    check_input(classifier, len(job.leads), job.eval_cropping.length)
    return classifier


def note_chance(encoder: Encoder, name: str = "the encoder") -> None:
    """Say which parts features pass through as chance made them, where only heads are fitted."""
    parts = " and ".join(encoder.fresh_on_the_way)
    if parts:
        note(
            f"note: features of {name} pass through its {parts}, which no file of an encoder holds "
            "and nothing trains here: it is as chance made it; mode linprobe trains it"
        )


class SupervisedTask(Method):
    """A classifier and its criterion, as the engine trains it.

    Args:
        classifier: an ``Encoder`` with a head; the losses of all its outputs are summed.
        criterion: its loss.
        mode: linprobe and probe freeze all but the heads, in evaluation mode; otherwise
            everything learns.
    """

    def __init__(
        self, classifier: Encoder, criterion: Criterion | None = None, mode: str = "scratch"
    ):
        super().__init__()
        self.classifier, self.criterion = classifier, criterion or Criterion()
        self.frozen = False
        self.learning = [p for p in classifier.parameters() if p.requires_grad]
        if mode in ("linprobe", "probe"):
            self.freeze(frozen=True)

    # A property, as an attribute would put its weights into the state dict twice.
    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """Return the classifier, which is an encoder with a head."""
        return self.classifier

    def freeze(self, *, frozen: bool) -> bool:
        """Train the heads alone (True) or everything (False); return whether this changed
        anything.
        """
        if frozen == self.frozen:
            return False
        self.frozen = frozen
        for parameter in self.learning:
            parameter.requires_grad_(not frozen)
        for part in self.classifier.fresh_parts.values():
            part.requires_grad_(True)
        return True

    @property
    def frozen_parts(self) -> list[str]:
        return ["encoder"] if self.frozen else frozen_below(self.classifier)

    def frozen_tensors(self) -> dict[str, torch.Tensor]:
        model = self.classifier
        every = dict([*model.named_parameters(), *model.named_buffers()])
        if self.frozen:
            fresh = tuple(f"{name}." for name in model.fresh_parts)
            return {name: t for name, t in every.items() if not name.startswith(fresh)}
        parts = frozen_below(model)
        inside = tuple(f"{part}." for part in parts)
        return {name: t for name, t in every.items() if name in parts or name.startswith(inside)}

    def train(self, mode: bool = True) -> "SupervisedTask":
        """Set training mode, except for a frozen encoder: its BatchNorm keeps its statistics."""
        super().train(mode)
        if mode and self.frozen:
            self.classifier.eval()
            for part in self.classifier.fresh_parts.values():
                part.train()
        return self

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the loss, and the mean weight of the signal branch where there is a gate."""
        out, label = self.classifier.outputs(batch["signal"]), batch["label"]
        logits = (out["logits"], *out.get("extra_logits", ()))
        loss = sum(self.criterion(each.float(), label) for each in logits)
        losses: dict[str, torch.Tensor] = {"loss": loss}
        if "gate" in out:
            losses["gate_signal"] = out["gate"][:, 0].float().mean()
        return losses
