"""The one training loop: self-supervised methods and supervised tasks alike.

The engine knows of a model only its contract: ``draw(batch) -> drawn`` (masks, views),
``forward(batch, drawn) -> {"loss": scalar, ...more to log}`` and ``after_step(progress)`` (slow
teachers).  ``main_pretrain.py`` hands it a
self-supervised method; ``main_finetune.py`` a ``SupervisedTask`` (util/training/job.py)::

    # resumed, where asked for
    training = Training(model, config, dataset, batches, pipeline, device, folder)
    while training.epoch < epochs:
        line = training.train_epoch(stop)  # steps, their log lines, checkpoints in mid-epoch
        ...                                              # evaluate, log
        training.save_epoch()

Nothing in a step waits for the device: losses stay there until ``train.log_every`` steps have
gathered, batches are copied on a stream of their own.  Two choices do wait at every step:
``train.skip_nonfinite`` looks at each loss, and fp16 with an optimiser that is not fused (LARS,
or ``foreach``) asks its GradScaler for overflows.
"""

import contextlib
import os
import time
from pathlib import Path

import torch

from util.config.keys import FinetuneTrain, JobConfig
from util.console import keep_in
from util.contract.method import Method
from util.data.dataset import CropDataset, TrainingBatches, make_loader, to_device
from util.files import FolderLock, remove_temporary
from util.processes import batch_norm, collectives
from util.processes.stopping import Preempted, StopRequest
from util.signals.transforms import Pipeline
from util.training import checkpoint
from util.training.checkpoint import parse_checkpoint_every
from util.training.meters import Meters
from util.training.optimizer import (
    Schedule,
    autocast,
    make_optimizer,
    resolve_amp,
    set_matmul_precision,
)
from util.training.recompute import recompute_blocks
from util.training.run_log import RunLog
from util.training.state import resume, training_state

PATIENCE = 30  # seconds that a run waits for an earlier one of the same name to end


class Training:
    """A model in training: all that changes from step to step, and how it is saved.

    Ready when made: the folder is this run's alone until the process ends, the checkpoint that
    ``config.resume`` names has been resumed from, and the log continues where the run stands.

    Args:
        model: see the module's docstring; already on ``device``.
        config: of the job.
        dataset, batches: a CropDataset and its TrainingBatches.
        pipeline: device transforms of the signal.
        device: where the model is.
        folder: of the results.
        schedule: of learning rate and weight decay.
        resolved: the config as checkpoints keep it.

    Attributes:
        epoch, step: where the run stands (0-based; steps within the epoch).
        best: whatever the caller wants kept over interruptions, plain numbers by name.
        last_saved: path of the newest checkpoint of this run, or None.
    """

    def __init__(
        self,
        model: Method,
        config: JobConfig,
        dataset: CropDataset,
        batches: TrainingBatches,
        pipeline: Pipeline,
        device: torch.device,
        folder: str | os.PathLike,
        *,
        schedule: Schedule,
        resolved: dict,
    ):
        self.model, self.config, self.train_config = model, config, config.train
        self.schedule, self.resolved = schedule, resolved
        self.dataset, self.batches, self.pipeline = dataset, batches, pipeline
        self.device, self.folder, self.stop = device, Path(folder), StopRequest()
        self.loader = make_loader(
            dataset,
            batches,
            num_workers=config.dataloader.num_workers,
            pin_memory=config.dataloader.pin_memory,
        )
        self.save_epochs, self.save_steps = parse_checkpoint_every(
            self.train_config.checkpoint_every
        )
        self.amp = resolve_amp(self.train_config.amp, device)
        set_matmul_precision(self.train_config.matmul_precision, device)
        if self.train_config.checkpoint_activations:
            recompute_blocks(model)
        if self.train_config.sync_bn:
            batch_norm.convert(model)
        layer_decay = 1.0
        if isinstance(self.train_config, FinetuneTrain):
            layer_decay = self.train_config.layer_decay
        self.optimizer = make_optimizer(model, self.train_config, schedule.lr, layer_decay)
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.epoch, self.step, self.best = 0, 0, {}
        self.meters = Meters(dataset.store.records["record"], self.train_config.skip_nonfinite)
        collectives.on_main(self._claim_folder)
        self.last_saved = resume(self)
        self.resumed = self.last_saved is not None
        keep_in(self.folder)
        self.log = RunLog(self.folder, self.epoch, self.step, self.position())
        self.build_runner()

    def _claim_folder(self):
        self._lock = FolderLock(self.folder, PATIENCE, "--output_dir or --exp_name")
        remove_temporary(self.folder)  # what a killed run left half-written

    def build_runner(self) -> None:
        """(Re)build what runs a step: compiled where asked, and averaging gradients over
        processes.  To be called again whenever parameters have been frozen or thawed.
        """
        self.runner = torch.compile(self.model) if self.train_config.compile else self.model
        if collectives.world() > 1:
            # Buffers are made equal at the ends of epochs; a checkpoint keeps those of process 0.
            # Gradients are views of the messages' buffers: one copy, and their memory, saved.
            self.runner = collectives.averaging(self.runner)

    def position(self) -> float:
        """Where the run stands, in epochs."""
        return self.epoch + self.step / max(
            self.batches.steps, 1
        )  # 0: none was left to a resumed epoch

    def progress(self) -> float:
        """Where the run stands, in [0, 1]."""
        return self.position() / self.train_config.epochs

    # ============ an epoch ============
    def train_epoch(self, stop: StopRequest) -> dict[str, float]:
        """Train from the current step to the epoch's end; returns the epoch's mean of all logged
        values.

        Raises Preempted when the process was asked to stop, once a checkpoint has been written.
        """
        self.stop, steps = stop, self.batches.steps
        collectives.same_tensors(self.model.buffers())
        self.model.train()
        batches, self.started = iter(self.loader), (self.step, time.perf_counter())
        with self.log.bar(
            steps, f"epoch {self.epoch + 1}/{self.train_config.epochs}", self.step
        ) as bar:
            while self.step < steps:
                lr = self.schedule.apply(self.optimizer, self.position())
                self._step([next(batches) for _ in range(self.batches.accumulate)])
                self.step += 1
                self.model.after_step(self.progress())
                bar.update()
                if self.step % self.train_config.log_every == 0 or self.step == steps:
                    self._log_steps(bar, lr)
                self._save_if_due()
        collectives.same_tensors(self.model.buffers())
        means = {f"train_{name}": value for name, value in self.meters.close_epoch().items()}
        self.epoch, self.step = self.epoch + 1, 0
        self.batches.set_epoch(self.epoch)
        return {"train_lr": self.schedule.mean_lr(self.epoch - 1, steps), **means}

    def _step(self, micro_batches):
        """Forward, backward and update over the micro-batches of one step."""
        values, count = 0, len(micro_batches)
        records = [
            row for batch in micro_batches for row in batch["record"].tolist()
        ]  # while they are on the host
        # A loss that is not finite may have spoilt running statistics and centres on its way.
        buffers = (
            [buffer.clone() for buffer in self.model.buffers()] if self.meters.tolerated else []
        )
        for number, batch in enumerate(micro_batches, 1):
            wait = number < count and collectives.world() > 1  # gradients travel once a step
            with self.runner.no_sync() if wait else contextlib.nullcontext():
                with autocast(self.device, self.amp):
                    batch = self._prepare(batch)
                    out = self.runner(batch, self.model.draw(batch))
                self.scaler.scale(out["loss"] / count).backward()
            values = values + self.meters.scalars(out) / count
        if self.meters.skips(values):
            for buffer, before in zip(self.model.buffers(), buffers):
                buffer.copy_(before)
        else:
            self._update()
        self.optimizer.zero_grad(set_to_none=True)
        self.meters.add(self.epoch, self.step, values, records)

    def _prepare(self, batch):
        """A loader's batch as the model sees it: on the device, transformed, with the run's
        place.
        """
        batch = to_device(batch, self.device, self.copies)
        batch["signal"] = self.pipeline(batch["signal"], batch["random"])
        # Tensors: of a number, a compiled model would make a constant and be compiled anew at
        # every step.  Filled on the device: a number copied there would make the host wait.
        for name, value in (("epoch", self.position()), ("progress", self.progress())):
            batch[name] = torch.full((), value, dtype=torch.float64, device=self.device)
        return batch

    def _update(self):
        if self.train_config.max_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train_config.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _log_steps(self, bar, lr):
        """Show, and write a line for, the steps since the last one."""
        means = self.meters.close_window(self.last_saved)
        step, began = self.started
        rate = self.batches.per_step * (self.step - step) / (time.perf_counter() - began)
        shown = {"loss": f"{means['loss']:.4f}", "lr": f"{lr:.2e}", "samples/s": f"{rate:.1f}"}
        bar.set_postfix(shown, refresh=False)
        self.log.line("log_steps.txt", {"epoch": self.epoch, "step": self.step, "lr": lr, **means})
        self.log.scalars(
            {
                "train/lr": lr,
                "train/samples_per_second": rate,
                **{f"train/{name}": value for name, value in means.items()},
            },
            self.position(),
        )

    # ============ saving ============
    def _save_if_due(self):
        """In mid-epoch: save every so many steps, or because the process was asked to stop."""
        if collectives.any_process(self.stop.requested):
            self.save()
            self._leave()
        if self.save_steps and self.step % self.save_steps == 0 and self.step < self.batches.steps:
            self.save()

    def save_epoch(self) -> None:
        """After an epoch: the periodic checkpoint-<epoch>.pth, and checkpoint-last.pth as often
        as asked, or when the process was asked to stop; then raises Preempted.
        """
        done, last = self.epoch - 1, self.epoch >= self.train_config.epochs
        # checkpoint-last.pth comes last: a run killed in between does this epoch again, and
        # misses no file.
        if done % self.train_config.keep_every == 0 or last:
            self.save(f"checkpoint-{done}.pth")
            collectives.on_main(lambda: checkpoint.prune(self.folder, self.train_config.keep_last))
        stop = collectives.any_process(self.stop.requested)
        if self.save_steps or self.epoch % self.save_epochs == 0 or last or stop:
            self.save()
        if stop:
            self._leave()

    def save(self, name: str = checkpoint.LAST) -> None:
        """Write a checkpoint (process 0) and wait until it is there (all)."""
        state = training_state(self)
        self.log.flush()  # the points before a checkpoint are as safe as it is
        collectives.on_main(lambda: checkpoint.save(state, self.folder / name))
        self.last_saved = self.folder / name

    def _leave(self):
        raise Preempted(
            f"stopped on request at epoch {self.epoch}, step {self.step}; {self.last_saved} is "
            "written, resume with --resume auto"
        )
