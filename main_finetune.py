"""Train and test a classifier on labelled ECGs: fine-tune, linear probe or from scratch, over one or more folds.

    python main_finetune.py --config_path configs/downstream/st_mem.yaml --encoder_path output/st_mem/encoder.pth
    bash run_downstream.sh --gpus 0,1,2,3 ...          the same on four GPUs (see run_downstream.sh -h)

Leaves in <output_dir>/<exp_name> (with several folds, in fold<k>/ there): config.yaml, log.txt, tensorboard/,
checkpoint-last.pth, best-loss.pth and best-<metric>.pth chosen on the selection fold, encoder.pth, and of the
checkpoint that test.target_metric names: test_metrics.csv, test_predictions.csv, test_gate.csv where there is a gate.
Several folds also leave summary.csv.
"""
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from models.registry import build_model, model_arguments
from util import checkpoint, distributed
from util.config import save_config
from util.dataset import (Cropping, CropDataset, EvaluationBatches, TrainingBatches, crops_for_statistics, make_labels,
                          make_loader, parse_classes, parse_cropping, parse_folds, split_rows)
from util.engine import Training
from util.errors import ConfigError
from util.job import (argument_parser, check_input, config_from, describe_run, lead_arguments, open_store, run_main,
                      seed_everything, usable_rows)
from util.leads import parse_leads
from util.metrics import compute_metrics, parse_metrics
from util.optim import resolve_lr
from util.precision import resolve_amp
from util.run_log import print_once
from util.scores import bootstrap_interval
from util.stop import StopRequest
from util.supervised import SupervisedTask, mean_loss, predict
from util.transfer import check_pretrained, load_pretrained
from util.transforms import build_pipeline

PUBLISHED_BEST = {"AUROC": "ROC", "AUPRC": "PRC"}  # fold0_bestROC.pth, as the published fusion scripts name them


@dataclass(frozen=True)
class Places:
    """Where the files of one fold go.

    Attributes:
        folder: logs, checkpoints and scores.
        weights: {metric: path} of the best weights by a metric, where that is not folder/best-<metric>.pth.
    """
    folder: Path
    weights: dict = field(default_factory=dict)

    def best(self, metric: str) -> Path:
        """The best weights by this metric."""
        return self.weights.get(metric, self.folder / f"best-{metric}.pth")

    @classmethod
    def published(cls, folder: Path, fold: int) -> "Places":
        """Weights straight in ``folder``, whatever else in fold<k>/."""
        return cls(folder / f"fold{fold}",
                   {metric: folder / f"fold{fold}_best{name}.pth" for metric, name in PUBLISHED_BEST.items()})


class Job:
    """What all folds share: config, store, labels, transforms and metrics, checked before any work starts.

    Attributes:
        classes: names; labels: of all records of the store; rows: of the labelled records.
    """

    def __init__(self, config):
        self.config, data = config, config["dataset"]
        self.task, self.loss = config["metric"]["task"], config["loss"]
        if (self.task == "multiclass") != (self.loss == "cross_entropy"):
            raise ConfigError(f"loss {self.loss} does not go with metric.task {self.task}; "
                              "bce goes with multilabel, cross_entropy with multiclass")
        classes = parse_classes(data["classes"])
        self.classes = tuple(classes)
        for key in ("num_labels", "num_classes"):
            if config["metric"][key] not in (None, len(classes)):
                raise ConfigError(f"metric.{key} is {config['metric'][key]} but dataset.classes has {len(classes)}")
        self.metrics = parse_metrics(config["metric"]["target_metrics"], self.classes)
        if config["test"]["target_metric"] not in ("loss", *self.metrics):
            raise ConfigError(f"test.target_metric: {config['test']['target_metric']!r} is not measured; "
                              f"choose loss, {', '.join(self.metrics)}")
        if config["mode"] == "scratch" and config["encoder_path"]:
            raise ConfigError("mode scratch loads no encoder: choose mode finetune or linprobe, or leave out "
                              "encoder_path")
        if config["mode"] != "scratch" and not config["encoder_path"]:
            raise ConfigError(f"mode {config['mode']} needs --encoder_path, the encoder.pth of a pre-training run")
        if config["encoder_path"]:
            check_pretrained(config["encoder_path"])  # missing or damaged: say so before any work
        self.folds = parse_folds(data["fold"])
        if len(self.folds) > 1 and config["resume"] not in ("", "auto"):
            raise ConfigError(f"resume: {config['resume']} is of one fold but dataset.fold names {len(self.folds)}; "
                              "give 'auto' to go on with all of them")
        self.cropping = parse_cropping(data["transforms"], "dataset.transforms")
        self.pipeline = build_pipeline(data["transforms"], length=self.cropping.length, fs=data["fs"],
                                       rand_augment=data["rand_augment"])
        self.eval_cropping, self.eval_pipeline = evaluation_transforms(config)
        self.store = open_store(config)
        self.labels, labelled = make_labels(self.store, classes, self.task)
        rows = usable_rows(self.store, config)
        self.rows = rows[labelled[rows]]
        self.leads = parse_leads(data["lead"])


def evaluation_transforms(config: dict):
    """(Cropping, Pipeline) by which a trained model sees a record: dataset.eval_transforms, else those of training with
    the centre crop for a random one."""
    data = config["dataset"]
    where, transforms = "dataset.eval_transforms", data["eval_transforms"] or data["transforms"]
    cropping = parse_cropping(transforms, where)
    if cropping.kind == "random":
        cropping = Cropping("center", cropping.length)
    return cropping, build_pipeline(transforms, length=cropping.length, fs=data["fs"], where=where)


def build_classifier(config: dict, num_classes: int):
    """The config's model with a head for ``num_classes``, initialised by the config's seed.

    Raises:
        ConfigError: unknown model or argument, or a contradiction between model and dataset.
    """
    torch.manual_seed(config["seed"])
    arguments = data_arguments(config["model_name"], config["model"], config)
    if arguments.setdefault("num_classes", num_classes) != num_classes:
        raise ConfigError(f"model.num_classes is {arguments['num_classes']} but dataset.classes has {num_classes}; "
                          "leave it out")
    return build_model(config["model_name"], **arguments)


def data_arguments(name: str, given: dict, config: dict) -> dict:
    """``given`` with what follows from the data, leads and sampling rate, also for encoders nested in it.

    Raises:
        ConfigError: ``given`` says otherwise.
    """
    known, fs = model_arguments(name), config["dataset"]["fs"]
    arguments = {**given, **lead_arguments(known, {**config, "model": given})}
    if "fs" in known and arguments.setdefault("fs", fs) != fs:
        raise ConfigError(f"{name} is told of {arguments['fs']} Hz but dataset.fs is {fs}; leave out its fs")
    return {key: value if not (isinstance(value, dict) and "name" in value)
            else data_arguments(value["name"], value, config) for key, value in arguments.items()}


def finetune(config: dict, load_weights=load_pretrained, published_names=False) -> Path:
    """Run the job that ``config`` describes, fold after fold; returns the folder of its results.

    Args:
        load_weights: (model, encoder_path) -> a line saying what was loaded; raises if it does not fit.
        published_names: lay out the files by ``Places.published``.
    """
    job = Job(config)
    device = distributed.start(config["device"])
    folder = Path(config["output_dir"]) / config["exp_name"]
    results = []
    for fold in job.folds:
        several = len(job.folds) > 1
        places = Places.published(folder, fold) if published_names else \
            Places(folder / f"fold{fold}" if several else folder)
        if several:
            print_once(f"==== fold {fold} ====")
        results.append({"fold": fold, **run_fold(job, fold, places, device, load_weights)})
    if len(results) > 1 and distributed.is_main():
        write_summary(results, folder / "summary.csv")
    return folder


def run_fold(job: Job, fold: int, places: Places, device, load_weights) -> dict[str, float]:
    """Train, select and test on one fold; returns the test metrics."""
    # ============ data ============
    config, data, train, folder = job.config, job.config["dataset"], {**job.config["train"]}, places.folder
    parts = split_rows(job.store, job.rows, fold, protocol=data["protocol"], label_fraction=data["label_fraction"],
                       seed=config["seed"])
    dataset = CropDataset(job.store, job.leads, job.cropping.length, job.labels)
    batches = TrainingBatches(parts["train"], dataset.samples[parts["train"]], job.cropping.length, seed=config["seed"],
                              batch_size=config["dataloader"]["batch_size"], accumulate=train["accum_iter"],
                              crops=data["crops_per_record"], rank=distributed.rank(), world=distributed.world(),
                              steps=train["steps_per_epoch"])
    train["lr"] = resolve_lr(train, batches.batch_size, distributed.world())
    config = {**config, "train": train, "dataset": {**data, "fold": fold}}
    pipeline, evaluator = job.pipeline.to(device), Evaluator(job, parts, device)

    # ============ model ============
    classifier = build_classifier(config, len(job.classes))
    loaded = load_weights(classifier, config["encoder_path"]) if config["mode"] != "scratch" else ""
    check_input(classifier.to(device), len(job.leads), job.cropping.length)
    check_input(classifier, len(job.leads), job.eval_cropping.length)
    task = SupervisedTask(classifier, job.loss, config["mode"])
    seed_everything(config["seed"])

    # ============ where it stands ============
    describe_run(config, device, task)
    print_once(f"{config['mode']}, fold {fold}: {len(parts['train'])} training, {len(parts['valid'])} selection, "
        f"{len(parts['test'])} test records, {len(job.classes)} classes; peak learning rate {train['lr']:.3g}")
    if loaded:
        print_once(loaded)
    if data["protocol"] == "published":
        print_once("note: protocol 'published' selects and reports on the same fold; its numbers are optimistic")
    training = Training(task, config, dataset, batches, pipeline, device, folder)
    if not training.resumed:
        plain = job.eval_pipeline if job.eval_cropping.length == job.cropping.length else pipeline
        task.fit_statistics(crops_for_statistics(dataset, parts["train"], job.cropping.length, batches.batch_size,
                                                 device, plain))
    if distributed.is_main():
        save_config(config, folder / "config.yaml")

    # ============ train ============
    with StopRequest() as stop:
        while training.epoch < train["epochs"]:
            if train["freeze_epochs"] and config["mode"] != "linprobe" and \
                    task.freeze(training.epoch < train["freeze_epochs"]):
                training.build_runner()
            epoch = training.epoch
            line = {"epoch": epoch, **training.train_epoch(stop)}
            values = evaluator(task.classifier, "valid", training)
            keep_best(training, values, places)
            line.update({f"valid_{name}": value for name, value in values.items()})
            training.log.scalars({f"valid/{name}": value for name, value in values.items()}, training.epoch)
            training.log.line("log.txt", line)
            print_once(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in list(line.items())[1:]))
            training.save_epoch()

    # ============ test ============
    result = test(job, task, evaluator, training, places)
    training.log.close()
    return result


class Evaluator:
    """Predictions and metrics of the selection and the test records of one fold."""

    def __init__(self, job, parts, device):
        self.job, self.parts, self.device = job, parts, device
        self.amp = resolve_amp(job.config["train"]["amp"], device)
        self.pipeline = job.eval_pipeline.to(device)
        dataset = CropDataset(job.store, job.leads, job.eval_cropping.length)
        options = job.config["dataloader"]
        self.loaders = {}
        for name in ("valid", "test"):
            batches = EvaluationBatches(parts[name], dataset.samples[parts[name]], job.eval_cropping,
                                        # as many crops at a time as in training
                                        batch_size=options["batch_size"] * job.config["dataset"]["crops_per_record"],
                                        rank=distributed.rank(), world=distributed.world())
            self.loaders[name] = make_loader(dataset, batches, num_workers=min(options["num_workers"], 2),
                                             pin_memory=options["pin_memory"])

    def predict(self, classifier, part):
        """(probabilities, logits, gate) of a part's records; see util.supervised.predict."""
        loader = self.loaders[part]
        with tqdm(total=len(loader), desc=part, unit="batch", disable=not distributed.is_main(), leave=False,
                  dynamic_ncols=True, mininterval=0.5) as bar:
            return predict(classifier, loader, self.pipeline, self.parts[part], len(self.job.classes), self.job.loss,
                           self.device, self.amp, bar)

    def __call__(self, classifier, part, training) -> dict[str, float]:
        """Loss and metrics of a part; the gate's mean is logged where there is one."""
        probabilities, logits, gate = self.predict(classifier, part)
        labels = self.job.labels[self.parts[part]]
        if gate is not None:
            log_gate(training, gate, labels, self.job.classes)
        return {"loss": mean_loss(logits, labels, self.job.loss),
                **compute_metrics(probabilities, labels, self.job.metrics, self.job.task)}


def log_gate(training, gate, labels, classes) -> None:
    """What the gate learnt: histogram of the signal branch's weight, and its mean for each class."""
    training.log.histogram("gate/signal", gate[:, 0], training.epoch)
    means = gate_table(gate, labels, classes).set_index("class")["signal"]
    training.log.scalars({f"gate_signal/{name}": value for name, value in means.items()}, training.epoch)


def gate_table(gate, labels, classes) -> pd.DataFrame:
    """Mean weight of each branch over the records of each class that occurs, and over all records.

    Args:
        gate: (records, 2), signal's weight first; labels: (records, classes) of 0 and 1, or (records,) class numbers.

    Returns:
        columns class, records, signal, spectrogram.
    """
    members = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(len(classes))
    rows = [("all", np.ones(len(gate), bool)), *zip(classes, members.T)]
    return pd.DataFrame([{"class": name, "records": int(mine.sum()), "signal": gate[mine, 0].mean(),
                          "spectrogram": gate[mine, 1].mean()} for name, mine in rows if mine.any()])


def keep_best(training: Training, values: dict[str, float], places: Places) -> None:
    """Write the weights for every metric that improved (strictly).  NaN, a metric that is not defined on these
    records, is the worst value; the first epoch is always written."""
    for name, value in values.items():
        better = -math.inf if math.isnan(value) else value if name != "loss" else -value
        if name in training.best and better <= training.best[name]:
            continue
        training.best[name] = better
        if distributed.is_main():
            best = checkpoint.content(training.model.classifier.state_dict(), training.config, training.epoch - 1,
                                      metrics=values,
                                      store=training.dataset.store.meta["records_crc32"])  # whose folds these are
            checkpoint.save(best, places.best(name))


def test(job, task, evaluator, training, places) -> dict[str, float]:
    """Evaluate the selected checkpoint on the test fold; write test_metrics.csv, test_predictions.csv and, where there
    is a gate, test_gate.csv."""
    distributed.barrier()
    folder, chosen = places.folder, places.best(job.config["test"]["target_metric"])
    best = distributed.from_main(lambda: checkpoint.load(chosen))
    task.classifier.load_state_dict(best["model"])
    probabilities, logits, gate = evaluator.predict(task.classifier, "test")
    labels = job.labels[evaluator.parts["test"]]
    values = {"loss": mean_loss(logits, labels, job.loss),
              **compute_metrics(probabilities, labels, job.metrics, job.task)}
    print_once(f"test ({chosen.name} of epoch {best['epoch'] + 1}, {len(labels)} records): "
        + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    if distributed.is_main():
        table = {"records": len(labels), **{name: round(value, 4) for name, value in values.items()}}
        samples = job.config["test"]["bootstrap"]
        for name in job.metrics if samples else ():
            low, high = bootstrap_interval(
                lambda y, p, name=name: compute_metrics(p, y, {name: job.metrics[name]}, job.task)[name],
                labels, probabilities, n=samples, seed=job.config["seed"])
            table[f"{name}_low"], table[f"{name}_high"] = round(low, 4), round(high, 4)
            print_once(f"{name}: 95 % interval {low:.4f} to {high:.4f}")
        pd.DataFrame([table]).to_csv(folder / "test_metrics.csv", index=False)
        write_predictions(job, evaluator.parts["test"], probabilities, folder / "test_predictions.csv")
        if gate is not None:
            gates = gate_table(gate, labels, job.classes)
            gates.to_csv(folder / "test_gate.csv", index=False, float_format="%.4f")
            print_once(f"gate: mean weight of the signal branch {gates['signal'][0]:.3f}, by class in test_gate.csv")
        state = {name: value for name, value in task.classifier.state_dict().items() if not name.startswith("head.")}
        checkpoint.save(checkpoint.content(state, training.config, best["epoch"], leads=list(job.leads)),
                        folder / "encoder.pth")
    return values


def write_predictions(job, rows, probabilities, path) -> None:
    """One row a record: its name, true labels and probability for each class."""
    records = job.store.records.iloc[rows]
    labels = job.labels[rows]
    if job.task == "multiclass":
        labels = np.eye(len(job.classes))[labels]
    table = {"record": records["record"].to_numpy(), "database": records["database"].to_numpy(),
             **{f"label_{name}": labels[:, c].astype(int) for c, name in enumerate(job.classes)},
             **{f"probability_{name}": probabilities[:, c] for c, name in enumerate(job.classes)}}
    pd.DataFrame(table).to_csv(path, index=False, float_format="%.6g")


def write_summary(results: list[dict], path: Path) -> None:
    """All folds, their mean and their standard deviation, as CSV and for people."""
    table = pd.DataFrame(results).set_index("fold")
    summary = pd.concat([table, table.agg(["mean", "std"])])
    summary.index.name = "fold"
    summary.round(4).to_csv(path)
    print_once(summary.round(4).to_string())


def main(argv=None):
    """Command line; see the module's docstring."""
    finetune(config_from(argument_parser(__doc__, "configs/downstream/st_mem.yaml").parse_args(argv)))


if __name__ == "__main__":
    sys.exit(run_main(main))
