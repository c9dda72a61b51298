"""Supervised jobs: the labelled records that a config asks for, and a classifier with its criterion."""
import torch
import torch.nn.functional as F

from models.contract import Batch, Method
from util.annotated import mask_unannotated, mask_untrained
from util.errors import ConfigError
from util.labels import make_labels, parse_classes
from util.leads import parse_leads
from util.scores import parse_scores
from util.setup import evaluation_transforms, open_store, usable_rows
from util.splits import labelled_rows, make_splits, run_numbers, split_rows
from util.subsets import label_strata

LOSSES = {"bce": F.binary_cross_entropy_with_logits, "cross_entropy": F.cross_entropy}
ACTIVATIONS = {"bce": torch.sigmoid, "cross_entropy": lambda logits: logits.softmax(dim=-1)}
TASKS = {"bce": "multilabel", "cross_entropy": "multiclass"}


class LabelledRecords:
    """The labelled records that a config asks for, and how they are scored; all folds share them.

    Attributes:
        classes: names; labels: of all records of the store; rows: of the labelled records; notes: sentences
        about the others; splits: who trains, selects and tests; folds: the runs, by their test folds;
        eval_cropping, eval_pipeline: how a trained model sees a record.
    """

    def __init__(self, config):
        self.config, data = config, config["dataset"]
        self.task, self.loss = config["metric"]["task"], config["loss"]
        if TASKS[self.loss] != self.task:
            raise ConfigError(f"loss {self.loss} does not go with metric.task {self.task}; "
                              "bce goes with multilabel, cross_entropy with multiclass")
        classes = parse_classes(data["classes"])
        self.classes = tuple(classes)
        for key in ("num_labels", "num_classes"):
            if config["metric"][key] not in (None, len(classes)):
                raise ConfigError(f"metric.{key} is {config['metric'][key]} but dataset.classes has {len(classes)}")
        self.scores = parse_scores(config["metric"]["target_metrics"], self.classes, self.task)
        if config["test"]["target_metric"] not in ("loss", *self.scores):
            raise ConfigError(f"test.target_metric: {config['test']['target_metric']!r} is not measured; "
                              f"choose loss, {', '.join(self.scores)}")
        self.folds = run_numbers(data)
        if len(self.folds) > 1 and config["resume"] not in ("", "auto"):
            raise ConfigError(f"resume: {config['resume']} is of one fold but dataset.fold names {len(self.folds)}; "
                              "give 'auto' to resume all of them")
        self.eval_cropping, self.eval_pipeline = evaluation_transforms(config)
        self.leads = parse_leads(data["lead"])
        self.store = open_store(config)
        self.labels, labelled = make_labels(self.store, classes, self.task)
        self.splits, masking = make_splits(self.store, data), self._mask(classes)
        self.rows, self.notes = labelled_rows(usable_rows(self.store, config), labelled, self.splits)
        self.notes += masking

    def _mask(self, classes):
        """Make labels of classes that a record's database never annotated unknown, where the config asks for it;
        sentences about these."""
        data = self.config["dataset"]
        wanted = data["mask_unannotated"]
        if wanted is None:
            wanted = self.task == "multilabel" and data["protocol"] == "leave_one_database"
        if wanted and self.task != "multilabel":
            raise ConfigError(f"dataset.mask_unannotated has no effect with metric.task {self.task}; multi-label "
                              "labels alone can be unknown class by class")
        if not wanted and data["annotated"] is not None:
            raise ConfigError("dataset.annotated has no effect without dataset.mask_unannotated")
        if not wanted:
            return []
        databases = self.store.records["database"].to_numpy()
        self.labels, notes = mask_unannotated(self.labels, databases, classes, data["annotated"])
        if data["test_database"] is None:
            return notes
        self.labels, more = mask_untrained(self.labels, databases == data["test_database"], classes)
        return notes + more

    def parts(self, run: int) -> dict:
        """Rows of train, valid and test in a run, with the share of the training labels that the config asks for."""
        fraction = self.config["dataset"]["label_fraction"]
        return split_rows(self.splits, self.rows, run, strata=label_strata(self.labels, self.task),
                          label_fraction=fraction, seed=self.config["seed"])


class SupervisedTask(Method):
    """A classifier and its criterion, as the engine trains it.

    Args:
        classifier: an ``Encoder`` with a head; the losses of all its outputs are summed.
        loss: key of ``LOSSES``.
        mode: linprobe trains the heads alone and keeps the rest in evaluation mode; else everything learns.
    """

    def __init__(self, classifier, loss="bce", mode="scratch"):
        super().__init__()
        self.classifier, self.criterion = classifier, LOSSES[loss]
        self.frozen = False
        self.learning = [p for p in classifier.parameters() if p.requires_grad]
        if mode == "linprobe":
            self.freeze(True)

    @property
    def encoder(self):
        return self.classifier

    def freeze(self, frozen: bool) -> bool:
        """Train the heads alone (True) or everything (False); returns whether this changed anything."""
        if frozen == self.frozen:
            return False
        self.frozen = frozen
        for parameter in self.learning:
            parameter.requires_grad_(not frozen)
        for head in self.classifier.heads.values():
            head.requires_grad_(True)
        return True

    def train(self, mode=True):
        super().train(mode)
        if mode and self.frozen:
            self.classifier.eval()  # a frozen BatchNorm keeps its statistics
            for head in self.classifier.heads.values():
                head.train()
        return self

    def forward(self, batch: Batch):
        out, label = self.classifier.outputs(batch["signal"]), batch["label"]
        loss = sum(self.criterion(logits.float(), label) for logits in (out["logits"], *out.get("extra_logits", ())))
        gate = {"gate_signal": out["gate"][:, 0].float().mean()} if "gate" in out else {}
        return {"loss": loss, **gate}
