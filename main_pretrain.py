"""Pre-train a self-supervised method on unlabelled ECGs: config -> store -> model -> training loop -> encoder.pth.

    python main_pretrain.py --config_path configs/pretrain/st_mem.yaml --output_dir output --exp_name st_mem
    bash run_pretrain.sh --gpus 0,1,2,3 ...            the same on four GPUs (see run_pretrain.sh -h)

Leaves in <output_dir>/<exp_name>: config.yaml, log.txt, tensorboard/, figures/, checkpoint-last.pth,
checkpoint-<epoch>.pth, and encoder.pth at the end.
"""
import math
import sys
from pathlib import Path

import numpy as np
import torch

from models.registry import build_model, model_arguments
from util import checkpoint, distributed
from util.config import save_config
from util.dataset import (Cropping, CropDataset, EvaluationBatches, TrainingBatches, crops_for_statistics, make_labels,
                          make_loader, parse_classes, parse_cropping, parse_folds, split_rows, to_device)
from util.engine import Training
from util.errors import ConfigError
from util.figures import plot_reconstruction
from util.job import (argument_parser, check_input, config_from, describe_run, lead_arguments, open_store, run_main,
                      seed_everything, usable_rows)
from util.leads import parse_leads
from util.optim import resolve_lr
from util.probe import features, linear_probe
from util.run_log import print_once
from util.stop import StopRequest
from util.transforms import build_pipeline


def pretrain(config: dict) -> Path:
    """Run the job that ``config`` describes; returns the folder of its results."""
    # ============ data ============
    data, train = config["dataset"], config["train"]
    cropping = parse_cropping(data["transforms"], "dataset.transforms")
    pipeline = build_pipeline(data["transforms"], length=cropping.length, fs=data["fs"],
                              rand_augment=data["rand_augment"])
    store = open_store(config)
    rows = usable_rows(store, config)
    rows = rows[~np.isin(store.records["fold"].to_numpy()[rows], data["exclude_folds"])]
    leads = parse_leads(data["lead"])
    dataset = CropDataset(store, leads, cropping.length)

    # ============ model ============
    device = distributed.start(config["device"])
    batches = TrainingBatches(rows, dataset.samples[rows], cropping.length, seed=config["seed"],
                              batch_size=config["dataloader"]["batch_size"], accumulate=train["accum_iter"],
                              crops=data["crops_per_record"], rank=distributed.rank(), world=distributed.world(),
                              steps=train["steps_per_epoch"])
    train["lr"] = resolve_lr(train, batches.batch_size, distributed.world())
    torch.manual_seed(config["seed"])
    arguments = model_arguments(config["model_name"])
    model = build_model(config["model_name"], **{**config["model"], **lead_arguments(arguments, config)}).to(device)
    check_input(model.encoder, len(leads), cropping.length)
    pipeline = pipeline.to(device)
    seed_everything(config["seed"])

    # ============ where it stands ============
    folder = Path(config["output_dir"]) / config["exp_name"]
    describe_run(config, device, model)
    print_once(f"{len(rows)} records at {store.fs} Hz, {batches.steps} steps an epoch, peak learning rate {train['lr']:.3g}")
    training = Training(model, config, dataset, batches, pipeline, device, folder)
    if not training.resumed and hasattr(model, "fit_statistics"):
        model.fit_statistics(crops_for_statistics(dataset, rows, cropping.length, batches.batch_size, device, pipeline))
    if distributed.is_main():
        save_config(config, folder / "config.yaml")

    # ============ train ============
    probe = make_probe(store, config, dataset, cropping, pipeline, device) if train["probe_every"] else None
    if probe and not training.resumed:
        # What random weights reach is the yardstick of the curve; kept with the checkpoints.
        training.best["probe_auroc_untrained"] = probe(model.encoder, training.amp)
        training.log.scalars({"probe/auroc": training.best["probe_auroc_untrained"]}, 0)
    with StopRequest() as stop:
        while training.epoch < train["epochs"]:
            line = {"epoch": training.epoch, **training.train_epoch(stop)}
            done = training.epoch
            if done % train["figure_every"] == 0 or done == train["epochs"]:
                draw_reconstruction(training, rows[0], leads)
            if probe and (done % train["probe_every"] == 0 or done == train["epochs"]):
                line["probe_auroc"] = probe(model.encoder, training.amp)
                line.update(training.best)
                training.log.scalars({"probe/auroc": line["probe_auroc"]}, done)
                print_once(f"epoch {done}: linear probe AUROC {line['probe_auroc']:.4f} on {probe.described}, "
                    f"{training.best.get('probe_auroc_untrained', math.nan):.4f} before training")
            training.log.line("log.txt", line)
            training.save_epoch()

    distributed.on_main(lambda: save_encoders(training, leads))
    training.log.close()
    print_once(f"encoder: {folder / 'encoder.pth'}")
    return folder


@torch.no_grad()
def draw_reconstruction(training: Training, row: int, leads) -> None:
    """For masked autoencoders: one ECG, its masked patches and their reconstruction, in TensorBoard and as PNG."""
    model = training.model
    if not hasattr(model, "reconstruct") or not distributed.is_main():
        return
    start = int(Cropping("center", training.dataset.length).starts(int(training.dataset.samples[row]))[0])
    batch = to_device(training.dataset.__getitems__([(int(row), start, 0)]), training.device)
    batch["signal"] = training.pipeline(batch["signal"], batch["random"])
    model.eval()
    signal, reconstruction, mask = (part[0].cpu().numpy() for part in model.reconstruct(batch))
    model.train()
    training.log.figure("reconstruction", plot_reconstruction(signal, reconstruction, mask, training.dataset.store.fs,
                                                              lead_names=leads), training.epoch)


def save_encoders(training: Training, leads) -> None:
    """encoder.pth, and encoder-<name>.pth for each of a method's ``exports``: what fine-tuning starts from."""
    model = training.model
    encoders = {"encoder.pth": model.encoder, **{f"encoder-{name}.pth": encoder for name, encoder
                                                 in getattr(model, "exports", {}).items()}}
    for name, encoder in encoders.items():
        checkpoint.save(checkpoint.content(encoder.state_dict(), training.config, training.epoch - 1, leads=list(leads)),
                        training.folder / name)


def make_probe(*arguments):
    """A ``Probe``, or None and a word about why where the store has too few labels for one."""
    try:
        return Probe(*arguments)
    except ConfigError as error:
        print_once(f"note: no linear probe ({error})")


class Probe:
    """Linear-probe AUROC of an encoder on the selection fold, from one centre crop a record.

    Args:
        store, config, dataset, cropping, pipeline, device: of the pre-training run.

    Raises:
        ConfigError: too few labelled records in the folds that dataset.fold and dataset.protocol choose.
    """

    def __init__(self, store, config, dataset, cropping, pipeline, device):
        data = config["dataset"]
        self.device, self.pipeline, self.parts = device, pipeline, []
        labels, labelled = make_labels(store, parse_classes(data["classes"]), "multilabel")
        rows = usable_rows(store, config)
        parts = split_rows(store, rows[labelled[rows]], parse_folds(data["fold"])[0], protocol=data["protocol"])
        for rows in (parts["train"][:5000], parts["valid"]):
            batches = EvaluationBatches(rows, dataset.samples[rows], Cropping("center", cropping.length),
                                        batch_size=config["dataloader"]["batch_size"], rank=distributed.rank(),
                                        world=distributed.world())
            self.parts.append((rows, make_loader(dataset, batches), labels[rows]))
        self.described = f"{len(parts['valid'])} records of the selection fold"

    def __call__(self, encoder, amp=None) -> float:
        (train_x, train_y), (valid_x, valid_y) = (
            (features(encoder, loader, self.pipeline, rows, self.device, amp), labels)
            for rows, loader, labels in self.parts)
        return linear_probe(train_x, train_y, valid_x, valid_y)


def main(argv=None):
    """Command line; see the module's docstring."""
    config = config_from(argument_parser(__doc__, "configs/pretrain/st_mem.yaml").parse_args(argv))
    if config["encoder_path"]:
        raise ConfigError("encoder_path belongs to fine-tuning (run_downstream.sh); to go on pre-training use --resume")
    pretrain(config)


if __name__ == "__main__":
    sys.exit(run_main(main))
