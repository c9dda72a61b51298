"""Supervised jobs: the labelled records that a config asks for, and a classifier with its
criterion.
"""

from util.contract.method import Batch, Method
from util.data.label_masks import mask_labels
from util.data.labels import few_positives, never_positive, read_labels, unknown_labels
from util.data.splits import labelled_rows, make_splits, run_numbers, split_rows
from util.data.strata import label_strata
from util.errors import ConfigError
from util.leads import parse_leads
from util.scoring.criterion import DEFAULT_LOSS, TASKS, Criterion
from util.scoring.scores import parse_scores
from util.training.setup import evaluation_transforms, open_store, row_notes, usable_rows


class LabelledRecords:
    """The labelled records that a config asks for, and how they are scored; all folds share them.

    Attributes:
        config: with task and loss as they follow from the labels.
        task: kind of the labels; classes: names; labels: values of all records of the store
        (``util.data.labels``); rows: of the labelled records; notes: sentences about the others;
        splits: who trains, selects and tests; folds: the runs, by their test folds;
        eval_cropping, eval_pipeline: how a trained model sees a record.
    """

    def __init__(self, config):
        data = config["dataset"]
        self.folds = run_numbers(data)
        if len(self.folds) > 1 and config["resume"] not in ("", "auto"):
            raise ConfigError(
                f"resume: {config['resume']} is of one fold but dataset.fold names "
                f"{len(self.folds)}; give 'auto' to resume all of them"
            )
        self.eval_cropping, self.eval_pipeline = evaluation_transforms(config)
        self.leads = parse_leads(data["lead"])
        self.store = open_store(config)
        found, masked = mask_labels(self._read_labels(config), self.store, data)
        self.labels = found.values
        self.scores = parse_scores(config["metric"]["target_metrics"], self.classes, self.task)
        if config["test"]["target_metric"] not in ("loss", *self.scores):
            raise ConfigError(
                f"test.target_metric: {config['test']['target_metric']!r} is not measured; "
                "choose "
                f"loss, {', '.join(self.scores)}"
            )
        self.splits = make_splits(self.store, data, found.patients)
        self.rows, self.notes = labelled_rows(
            usable_rows(self.store, config), found.known, self.splits
        )
        self.notes += masked + row_notes(self.store, config)

    def _read_labels(self, config):
        """Set what follows from the labels, which are returned."""
        data, metric, loss = config["dataset"], config["metric"], config["loss"]
        task = metric["task"] or (TASKS[loss] if loss else None)
        if loss and TASKS[loss] != task:
            raise ConfigError(
                f"loss {loss} does not go with metric.task {task}; "
                + ", ".join(f"{name} goes with {kind}" for name, kind in TASKS.items())
            )
        found = read_labels(self.store, data, task)
        if task not in (None, found.kind):
            raise ConfigError(
                f"{'metric.task' if metric['task'] else 'loss'} is for {task} labels but the "
                "table "
                f"{found.name} is {found.kind}; leave metric.task and loss null"
            )
        for key in ("num_labels", "num_classes"):
            if metric[key] not in (None, len(found.classes)):
                raise ConfigError(
                    f"metric.{key} is {metric[key]} but {found.name} has {len(found.classes)}"
                )
        self.task, self.classes = found.kind, found.classes
        self.loss = loss or DEFAULT_LOSS[self.task]
        classes = data["classes"] or ("challenge2020" if data["labels"] is None else None)
        self.config = {
            **config,
            "loss": self.loss,
            "metric": {**metric, "task": self.task},
            "dataset": {**data, "classes": classes},
        }
        return found

    def parts(self, run: int) -> dict:
        """Rows of train, valid and test in a run, with the share of the training labels that the
        config asks for.
        """
        fraction = self.config["dataset"]["label_fraction"]
        return split_rows(
            self.splits,
            self.rows,
            run,
            strata=label_strata(self.labels, self.task),
            label_fraction=fraction,
            seed=self.config["seed"],
        )

    def criterion(self, rows) -> Criterion:
        """The criterion of a training part."""
        return Criterion.fitted(self.loss, self.classes, self.labels[rows])

    def describe(self, part: str, rows) -> list[str]:
        """Sentences, where there is something to say, about the labels of a part of the records."""
        whole = [name for name, score in self.scores.items() if score.whole_records]
        few = []
        if self.task != "regression":
            few = {
                "test": few_positives(self.labels, rows, self.classes, part),
                "training": never_positive(self.labels, rows, self.classes),
            }.get(part, [])
        return [*few, *unknown_labels(self.labels, rows, self.classes, part, whole)]


class SupervisedTask(Method):
    """A classifier and its criterion, as the engine trains it.

    Args:
        classifier: an ``Encoder`` with a head; the losses of all its outputs are summed.
        criterion: its loss.
        mode: linprobe trains the heads alone and keeps the rest in evaluation mode; else
            everything learns.
    """

    def __init__(self, classifier, criterion=None, mode="scratch"):
        super().__init__()
        self.classifier, self.criterion = classifier, criterion or Criterion()
        self.frozen = False
        self.learning = [p for p in classifier.parameters() if p.requires_grad]
        if mode == "linprobe":
            self.freeze(True)

    @property
    def encoder(self):
        return self.classifier

    def freeze(self, frozen: bool) -> bool:
        """Train the heads alone (True) or everything (False); returns whether this changed
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

    def train(self, mode=True):
        super().train(mode)
        if mode and self.frozen:
            self.classifier.eval()  # a frozen BatchNorm keeps its statistics
            for part in self.classifier.fresh_parts.values():
                part.train()
        return self

    def forward(self, batch: Batch, drawn):
        out, label = self.classifier.outputs(batch["signal"]), batch["label"]
        loss = sum(
            self.criterion(logits.float(), label)
            for logits in (out["logits"], *out.get("extra_logits", ()))
        )
        gate = {"gate_signal": out["gate"][:, 0].float().mean()} if "gate" in out else {}
        return {"loss": loss, **gate}
