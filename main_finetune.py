"""Train and test a classifier on labelled ECGs: fine-tune, linear probe or from scratch, over one or more folds.

    python main_finetune.py --config_path configs/downstream/st_mem.yaml --encoder_path output/st_mem/encoder.pth
    bash run_downstream.sh --gpus 0,1,2,3 ...          the same on four GPUs (see run_downstream.sh -h)

Leaves in <output_dir>/<exp_name> (with several folds, in fold<k>/ there): config.yaml, log.txt, tensorboard/,
checkpoint-last.pth, best-loss.pth and best-<metric>.pth chosen on the selection fold, encoder.pth, and of the checkpoint
that test.target_metric names: test_metrics.csv, test_predictions.csv.  Several folds also leave summary.csv.
"""
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn as nn

from models.registry import build_model, model_arguments
from util import checkpoint, distributed
from util.config import save_config
from util.dataset import (Cropping, CropDataset, EvaluationBatches, TrainingBatches, make_labels, make_loader,
                          parse_classes, parse_cropping, parse_folds, split_rows)
from util.engine import StopRequest, Training, crops_for_statistics
from util.errors import ConfigError
from util.job import (argument_parser, check_input, config_from, describe_run, lead_arguments, open_store, run_main,
                      seed_everything, usable_rows)
from util.leads import parse_leads
from util.metrics import compute_metrics, parse_metrics
from util.optim import resolve_lr
from util.run_log import RunLog, say
from util.scores import bootstrap_interval
from util.supervised import LOSSES, SupervisedTask, mean_loss, predict
from util.transforms import build_pipeline


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
            raise ConfigError("mode scratch loads no encoder: choose mode finetune or linprobe, or leave out encoder_path")
        if config["mode"] != "scratch" and not config["encoder_path"]:
            raise ConfigError(f"mode {config['mode']} needs --encoder_path, the encoder.pth of a pre-training run")
        if config["encoder_path"]:
            checkpoint.read_encoder(config["encoder_path"])  # missing or damaged: say so before any work
        self.folds = parse_folds(data["fold"])
        self.cropping = parse_cropping(data["transforms"], "dataset.transforms")
        evaluation = data["eval_transforms"] or data["transforms"]
        self.eval_cropping = parse_cropping(evaluation, "dataset.eval_transforms")
        if self.eval_cropping.kind == "random":
            self.eval_cropping = Cropping("center", self.eval_cropping.length)
        self.pipeline = build_pipeline(data["transforms"], length=self.cropping.length, fs=data["fs"],
                                       rand_augment=data["rand_augment"])
        self.eval_pipeline = build_pipeline(evaluation, length=self.eval_cropping.length, fs=data["fs"],
                                            where="dataset.eval_transforms")
        self.store = open_store(config)
        self.labels, labelled = make_labels(self.store, classes, self.task)
        rows = usable_rows(self.store, config)
        self.rows = rows[labelled[rows]]
        self.leads = parse_leads(data["lead"])

    def build_classifier(self):
        """The model with a head for these classes, initialised by the config's seed."""
        torch.manual_seed(self.config["seed"])
        known = model_arguments(self.config["model_name"])
        arguments = {**self.config["model"], **lead_arguments(known, self.config)}
        if arguments.setdefault("num_classes", len(self.classes)) != len(self.classes):
            raise ConfigError(f"model.num_classes is {arguments['num_classes']} but dataset.classes has "
                              f"{len(self.classes)}; leave it out")
        return build_model(self.config["model_name"], **arguments)


def finetune(config: dict, load_weights=checkpoint.load_encoder) -> Path:
    """Run the job that ``config`` describes, fold after fold; returns the folder of its results.

    Args:
        load_weights: (model, encoder_path) -> a line saying what was loaded; raises if it does not fit.
    """
    job = Job(config)
    device = distributed.start(config["device"])
    folder = Path(config["output_dir"]) / config["exp_name"]
    results = []
    for fold in job.folds:
        place = folder / f"fold{fold}" if len(job.folds) > 1 else folder
        if len(job.folds) > 1:
            say(f"==== fold {fold} ====")
        results.append({"fold": fold, **run_fold(job, fold, place, device, load_weights)})
    if len(results) > 1 and distributed.is_main():
        write_summary(results, folder / "summary.csv")
    return folder


def run_fold(job: Job, fold: int, folder: Path, device, load_weights) -> dict[str, float]:
    """Train, select and test on one fold; returns the test metrics."""
    # ============ data ============
    config, data, train = job.config, job.config["dataset"], {**job.config["train"]}
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
    classifier = job.build_classifier()
    if train["sync_bn"] and distributed.world() > 1 and device.type == "cuda":
        classifier = nn.SyncBatchNorm.convert_sync_batchnorm(classifier)
    loaded = load_weights(classifier, config["encoder_path"]) if config["mode"] != "scratch" else ""
    check_input(classifier.to(device), len(job.leads), job.cropping.length)
    check_input(classifier, len(job.leads), job.eval_cropping.length)
    task = SupervisedTask(classifier, job.loss, config["mode"])
    seed_everything(config["seed"])

    # ============ where it stands ============
    training = Training(task, config, dataset, batches, pipeline, device, folder)
    describe_run(config, device, task)
    say(f"{config['mode']}, fold {fold}: {len(parts['train'])} training, {len(parts['valid'])} selection, "
        f"{len(parts['test'])} test records, {len(job.classes)} classes; peak learning rate {train['lr']:.3g}")
    if loaded:
        say(loaded)
    if data["protocol"] == "published":
        say("note: protocol 'published' selects and reports on the same fold; its numbers are optimistic")
    resume = checkpoint.find_resume(config["resume"], folder)
    if resume:
        training.resume(resume)
    else:
        task.fit_statistics(crops_for_statistics(dataset, parts["train"], job.cropping.length, batches.batch_size, device,
                                                 job.eval_pipeline if job.eval_cropping.length == job.cropping.length
                                                 else pipeline))
    training.log = RunLog(folder, training.epoch, training.step)
    if distributed.is_main():
        save_config(config, folder / "config.yaml")

    # ============ train ============
    with StopRequest() as stop:
        while training.epoch < train["epochs"]:
            if train["freeze_epochs"] and config["mode"] != "linprobe" and \
                    task.freeze(training.epoch < train["freeze_epochs"]):
                training.wrap()
            epoch = training.epoch
            line = {"epoch": epoch, **training.train_epoch(stop)}
            values = evaluator(task.classifier, "valid", training)
            keep_best(training, values, folder)
            line.update({f"valid_{name}": value for name, value in values.items()})
            training.log.scalars({f"valid/{name}": value for name, value in values.items()}, training.epoch)
            training.log.line("log.txt", line)
            say(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in line.items() if name != "epoch"))
            training.save_epoch()

    # ============ test ============
    result = test(job, task, evaluator, training, folder)
    training.log.close()
    return result


class Evaluator:
    """Predictions and metrics of the selection and the test records of one fold."""

    def __init__(self, job, parts, device):
        self.job, self.parts, self.device = job, parts, device
        self.pipeline = job.eval_pipeline.to(device)
        dataset = CropDataset(job.store, job.leads, job.eval_cropping.length)
        options = job.config["dataloader"]
        self.loaders = {}
        for name in ("valid", "test"):
            batches = EvaluationBatches(parts[name], dataset.samples[parts[name]], job.eval_cropping,
                                        batch_size=options["batch_size"], rank=distributed.rank(),
                                        world=distributed.world())
            self.loaders[name] = make_loader(dataset, batches, num_workers=min(options["num_workers"], 2),
                                             pin_memory=options["pin_memory"])

    def predict(self, classifier, part, training):
        """(probabilities, logits, gate) of a part's records; see util.supervised.predict."""
        loader = self.loaders[part]
        with training.log.bar(len(loader), part, unit="batch") as bar:
            return predict(classifier, loader, self.pipeline, self.parts[part], len(self.job.classes), self.job.loss,
                           self.device, training.amp, bar)

    def __call__(self, classifier, part, training) -> dict[str, float]:
        """Loss and metrics of a part; the gate's mean is logged where there is one."""
        probabilities, logits, gate = self.predict(classifier, part, training)
        labels = self.job.labels[self.parts[part]]
        if gate is not None:
            log_gate(training, gate, labels, self.job.classes)
        return {"loss": mean_loss(logits, labels, self.job.loss),
                **compute_metrics(probabilities, labels, self.job.metrics, self.job.task)}


def log_gate(training, gate, labels, classes) -> None:
    """What the gate learnt: histogram of the signal branch's weight, and its mean for each class."""
    training.log.histogram("gate/signal", gate[:, 0], training.epoch)
    if labels.ndim == 2:
        means = {f"gate_signal/{name}": gate[labels[:, c] > 0, 0].mean() for c, name in enumerate(classes)
                 if labels[:, c].any()}
        training.log.scalars(means, training.epoch)


def keep_best(training: Training, values: dict[str, float], folder: Path) -> None:
    """Write best-<metric>.pth for every metric that improved (strictly; NaN never does)."""
    for name, value in values.items():
        better = value if name != "loss" else -value
        best = training.best.get(name, -math.inf)
        if not better > best:
            continue
        training.best[name] = better
        if distributed.is_main():
            checkpoint.save({"model": training.model.classifier.state_dict(), "optimizer": None, "scaler": None,
                             "epoch": training.epoch - 1, "config": training.config, "metrics": values}, folder / f"best-{name}.pth")


def test(job, task, evaluator, training, folder) -> dict[str, float]:
    """Evaluate the selected checkpoint on the test fold; write test_metrics.csv and test_predictions.csv."""
    distributed.barrier()
    chosen = folder / f"best-{job.config['test']['target_metric']}.pth"
    best = checkpoint.load(chosen)
    task.classifier.load_state_dict(best["model"])
    probabilities, logits, gate = evaluator.predict(task.classifier, "test", training)
    labels = job.labels[evaluator.parts["test"]]
    values = {"loss": mean_loss(logits, labels, job.loss),
              **compute_metrics(probabilities, labels, job.metrics, job.task)}
    say(f"test ({chosen.name} of epoch {best['epoch'] + 1}, {len(labels)} records): "
        + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    if distributed.is_main():
        table = {"records": len(labels), **{name: round(value, 4) for name, value in values.items()}}
        samples = job.config["test"]["bootstrap"]
        for name in job.metrics if samples else ():
            low, high = bootstrap_interval(
                lambda y, p, name=name: compute_metrics(p, y, {name: job.metrics[name]}, job.task)[name],
                labels, probabilities, n=samples, seed=job.config["seed"])
            table[f"{name}_low"], table[f"{name}_high"] = round(low, 4), round(high, 4)
            say(f"{name}: 95 % interval {low:.4f} to {high:.4f}")
        pd.DataFrame([table]).to_csv(folder / "test_metrics.csv", index=False)
        write_predictions(job, evaluator.parts["test"], probabilities, folder / "test_predictions.csv")
        state = {name: value for name, value in task.classifier.state_dict().items() if not name.startswith("head.")}
        checkpoint.save({"model": state, "optimizer": None, "scaler": None, "epoch": best["epoch"],
                         "config": training.config, "leads": list(job.leads)}, folder / "encoder.pth")
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
    say(summary.round(4).to_string())


def main(argv=None):
    """Command line; see the module's docstring."""
    finetune(config_from(argument_parser(__doc__, "configs/downstream/st_mem.yaml").parse_args(argv)))


if __name__ == "__main__":
    sys.exit(run_main(main))
