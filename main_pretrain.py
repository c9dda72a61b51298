"""Pre-train a self-supervised method on unlabelled ECGs: config -> store -> model -> training
loop -> encoder.pth.

    python main_pretrain.py --config_path configs/pretrain/st_mem.yaml --output_dir output \\
        --exp_name st_mem
    bash run_pretrain.sh --gpus 0,1,2,3 ...  the same on four GPUs (see run_pretrain.sh -h)

Leaves in <output_dir>/<exp_name>: config.yaml, console.txt, log.txt, tensorboard/,
figures/, checkpoint-last.pth, checkpoint-<epoch>.pth, and encoder.pth at the end.
"""

import math
import sys
from pathlib import Path
from typing import Any

from util.config.command_line import argument_parser, config_from
from util.config.keys import PretrainConfig
from util.processes.program import run_main

parser = argument_parser(__doc__, "configs/pretrain/st_mem.yaml", PretrainConfig)
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

import numpy as np
import torch

from util.console import begin_job, note
from util.data.dataset import to_device
from util.data.splits import rows_left
from util.data.store import checksum
from util.evaluation.figures import plot_reconstruction
from util.evaluation.probes import make_probe
from util.jobs.setup import (
    build_configured,
    note_rows,
    open_store,
    set_up_training,
    training_transforms,
    usable_rows,
)
from util.labels.tables import read_labels
from util.leads import parse_leads
from util.processes import collectives
from util.processes.stopping import StopRequest
from util.signals.crops import Cropping
from util.training.engine import Training
from util.weights.transfer import save_encoder


def pretrain(config: PretrainConfig) -> Path:
    """Run the job that ``config`` describes; return the folder of its results."""
    # ============ data and model ============
    begin_job()
    folder = Path(config.output_dir) / config.exp_name
    training_transforms(config)  # built here only to report a mistake before the store is read
    store = open_store(config)
    usable = usable_rows(store, config)  # row numbers: of dataset.databases, with the leads
    data = config.dataset
    # Without the folds that a downstream test will use, nor other records of the same patients.
    patients = read_labels(store, data).patients if data.labels else None
    rows = rows_left(store, usable, data, patients)
    note_rows(store, config)
    device = collectives.start(config.device, captured=config.train.cuda_graph is True)
    about = {"rows_checksum": checksum(rows.tobytes())}
    training = set_up_training(
        config, store, rows, lambda: build_configured(config), device, folder, about=about
    )
    method, train = training.model, config.train
    for remark in method.remarks(training.dataset.length):
        note(remark)

    # ============ train ============
    probe = make_probe(store, config, device)
    if probe and not training.resumed:
        # What random weights reach, to compare the curve with; checkpoints keep training.best.
        seen = probe.look(method.handed_on, training.amp)
        training.best[f"{probe.key}_untrained"] = seen[probe.key]
        training.log.scalars(probe.points(seen), 0)
    with StopRequest() as stop:
        while training.epoch < train.epochs:
            line = {"epoch": training.epoch, **training.train_epoch(stop)}
            done = training.epoch
            if done % train.figure_every == 0 or done == train.epochs:
                collectives.on_main(lambda: draw_reconstruction(training, usable, rows))
            if probe and (done % train.probe_every == 0 or done == train.epochs):
                seen = probe.look(method.handed_on, training.amp)
                line.update(seen)
                line.update(training.best)  # the score before training, on every line
                training.log.scalars(probe.points(seen), done)
                note(
                    f"epoch {done}: linear probe {probe.score} {line[probe.key]:.4f} on "
                    f"{probe.described}, "
                    f"{training.best.get(f'{probe.key}_untrained', math.nan):.4f} before training; "
                    f"RankMe {seen['probe_rankme']:.1f}, spread {seen['probe_spread']:.2f}"
                )
            training.log.line("log.txt", line)
            training.save_epoch()

    # ============ what is left behind ============
    collectives.on_main(lambda: save_encoders(training))
    training.log.close()
    note(f"encoder: {folder / 'encoder.pth'}")
    return folder


@torch.no_grad()
def draw_reconstruction(training: Training, usable: np.ndarray, rows: np.ndarray) -> None:
    """Draw one ECG, what was masked and its reconstruction, in TensorBoard and as PNG.

    Methods that do not rebuild their input draw nothing.

    Args:
        training: whose model rebuilds it.
        usable: all rows of the store that could be trained on.
        rows: those that are; the ECG is one of the others, where dataset.exclude_folds or
            exclude_parts leaves any.
    """
    left_out = np.setdiff1d(usable, rows)
    row = int(left_out[0] if len(left_out) else rows[0])
    start = int(
        Cropping("center", training.dataset.length).starts(int(training.dataset.samples[row]))[0]
    )
    batch: Any = to_device(training.dataset.__getitems__([(row, start, 0)]), training.device)
    batch["signal"] = training.pipeline.fixed(batch["signal"])
    training.model.eval()
    rebuilt = training.model.reconstruct(batch)
    training.model.train()
    if rebuilt is not None:
        signal, reconstruction, mask = (part[0].cpu().numpy() for part in rebuilt)
        figure = plot_reconstruction(
            signal,
            reconstruction,
            mask,
            fs=training.dataset.store.fs,
            lead_names=parse_leads(training.config.dataset.lead),
            title=None if len(left_out) else "a training record: none is left out",
        )
        training.log.figure("reconstruction", figure, training.epoch)


def save_encoders(training: Training) -> None:
    """Write what fine-tuning starts from: encoder.pth, and encoder-<name>.pth for each further
    encoder in the method's ``exports`` (DINO's teacher, JEPA's student).
    """
    exports = {f"encoder-{name}.pth": encoder for name, encoder in training.model.exports.items()}
    for name, encoder in {"encoder.pth": training.model.handed_on, **exports}.items():
        save_encoder(
            encoder,
            training.folder / name,
            epoch=training.epoch - 1,
            config=training.resolved,
            leads=parse_leads(training.config.dataset.lead),
            store=training.dataset.store.meta["records_crc32"],
        )


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    pretrain(config_from(parser.parse_args(argv), PretrainConfig))


if __name__ == "__main__":
    sys.exit(run_main(main))
