"""The training loop of every job, self-supervised or supervised.

The engine knows of a model only its contract: ``draw(batch) -> drawn`` (masks, views),
``forward(batch, drawn) -> {"loss": scalar, ...more to log}``, ``before_step(epoch)`` (frozen
gradients) and ``after_step(progress)`` (slow teachers).  ``main_pretrain.py`` hands it a
self-supervised method, ``main_finetune.py`` a ``SupervisedTask`` (util/jobs/job.py)::

    training = Training(model, config, ...)  # resumed, if config.resume says so
    while training.epoch < config.train.epochs:
        line = training.train_epoch(stop)  # steps, log lines, checkpoints within the epoch
        ...  # evaluate, log
        training.save_epoch()

The host queues work and never waits for the GPU within a step: losses stay on the device until
they are logged, every ``train.log_every`` steps, and batches are copied on a separate CUDA stream.
Two settings make it wait at every step: ``train.skip_nonfinite`` has to look at each loss, and
fp16 with an optimiser that is not fused (LARS, or ``foreach``) asks its GradScaler for overflows.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from util.config.keys import FinetuneConfig, FinetuneTrain, JobConfig
from util.console import keep_in
from util.contract.method import Batch, Method
from util.contract.recompute import recompute_blocks
from util.data.dataset import CropDataset, TrainingBatches, make_loader, to_device
from util.processes import batch_norm, collectives
from util.processes.speed import Speed, cache_folder
from util.processes.stopping import Preempted, StopRequest
from util.signals.transforms import Pipeline
from util.training.claim import claim_folder
from util.training.log.meters import Meters
from util.training.log.run_log import RunLog
from util.training.movement import Movement
from util.training.optimizer import (
    Schedule,
    autocast,
    make_optimizer,
    resolve_amp,
    set_matmul_precision,
)
from util.training.state import TrainState, content_of, resume
from util.training.step_graph import Inputs, StepGraph, plain_reasons
from util.weights import checkpoint
from util.weights.checkpoint import parse_checkpoint_every


class Training:
    """A model in training, and how it is saved.

    The constructor does everything up to the next step: it locks the folder until the process
    ends, loads the checkpoint that ``config.resume`` names, and continues the log from there.

    Args:
        model: see the module's docstring; already on ``device``.
        config: of the job.
        dataset: the crops.
        batches: which of them make a step.
        pipeline: device transforms of the signal.
        device: where the model is.
        folder: of the results.
        schedule: of learning rate and weight decay.
        resolved: the config as checkpoints keep it.
        about: more that the files of its weights say of the training.

    Attributes:
        state: all that changes from step to step.
        resumed: whether it continues from a checkpoint.
        last_saved: path of the newest checkpoint of this run, or None.
        log: its log files and TensorBoard.
    """

    def __init__(
        self,
        model: Method,
        config: JobConfig,
        *,
        dataset: CropDataset,
        batches: TrainingBatches,
        pipeline: Pipeline,
        device: torch.device,
        folder: str | os.PathLike,
        schedule: Schedule,
        resolved: dict,
        about: dict[str, Any] | None = None,
    ):
        train = config.train
        self.config, self.schedule, self.resolved = config, schedule, resolved
        self.about = about or {}
        self.dataset, self.batches, self.pipeline = dataset, batches, pipeline
        self.device, self.folder, self.stop = device, Path(folder), StopRequest()
        self.loader = make_loader(
            dataset,
            batches,
            num_workers=config.dataloader.num_workers,
            pin_memory=config.dataloader.pin_memory,
        )
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.save_epochs, self.save_steps = parse_checkpoint_every(train.checkpoint_every)
        self.amp = resolve_amp(train.amp, device)
        set_matmul_precision(train.matmul_precision, device)
        if train.checkpoint_activations:
            recompute_blocks(model)
        if train.sync_bn:
            batch_norm.convert(model)
        by_depth: dict[str, Any] = {}
        if isinstance(train, FinetuneTrain):
            by_depth = {"layer_decay": train.layer_decay, "layer_rates": train.layer_rates}
        self.state = TrainState(
            model=model,
            optimizer=make_optimizer(model, train, schedule.lr, **by_depth),
            scaler=torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16),
            meters=Meters(dataset.store.records["record"], train.skip_nonfinite),
        )
        collectives.on_main(self._claim_folder)
        self.last_saved = resume(self)
        self.resumed = self.last_saved is not None
        keep_in(self.folder)
        self.log = RunLog(self.folder, self.epoch, self.state.step, self.position())
        curves = ["train/loss"]
        if isinstance(config, FinetuneConfig):
            curves += ["valid/loss", f"valid/{config.test.target_metric}"]
        self.log.describe(resolved, curves, train.tracker)
        self.compiled = train.compile is True
        self.speed = Speed(device, self.amp, batches.per_step, compiled=self.compiled)
        self.graph = StepGraph(self, plain_reasons(self))
        self.build_runner()

    def _claim_folder(self) -> None:
        self._lock = claim_folder(self.folder, self.config, self.resolved)

    def build_runner(self) -> None:
        """Make ``runner``, what a step calls in place of the model: the model itself, compiled if
        train.compile says so, and in DDP if there are several processes; forget what a CUDA graph
        holds of the one before, and its FLOPs.

        Call it again after parameters have been frozen or thawed.
        """
        self.movement: Movement | None = None  # of what is trained from here on
        self.graph.forget()
        self.speed.forget()
        self.runner: Any = self.model
        if self.compiled:
            # The minutes of compiling are paid once a machine.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
            self.runner = torch.compile(self.model)
        if collectives.world() > 1:
            # DDP averages gradients alone: ``train_epoch`` makes the model's buffers equal.
            self.runner = collectives.averaging(self.runner)

    # ============ where the run stands ============
    @property
    def model(self) -> Method:
        """The model in training."""
        return self.state.model

    @property
    def epoch(self) -> int:
        """Number of epochs done, and so the number of the current one, from 0."""
        return self.state.epoch

    @property
    def best(self) -> dict[str, float]:
        """Numbers by name that the caller wants checkpoints to keep, such as best scores."""
        return self.state.best

    def position(self) -> float:
        """Return how far the run is, in epochs: 2.5 is the middle of the third one."""
        steps = max(self.batches.steps, 1)  # 0: a resumed epoch had no step left
        return self.state.epoch + self.state.step / steps

    def progress(self) -> float:
        """Return how far the run is, as a share in [0, 1]."""
        return self.position() / self.config.train.epochs

    # ============ an epoch ============
    def train_epoch(self, stop: StopRequest) -> dict[str, float]:
        """Train from the current step to the end of the epoch; return the means over the epoch of
        all logged values.

        Raises:
            Preempted: the process was asked to stop, and a checkpoint has been written.
        """
        state, steps = self.state, self.batches.steps
        self.stop = stop
        self.speed.start(state.step)
        # Buffers (BatchNorm's running statistics) drift apart between processes: copy process 0's.
        collectives.same_tensors(self.model.buffers())
        self.model.train()
        self.movement = self.movement or Movement(self.model)
        batches = iter(self.loader)
        title = f"epoch {self.epoch + 1}/{self.config.train.epochs}"
        with self.log.bar(steps, title, state.step) as bar:
            while state.step < steps:
                lr = self.schedule.apply(state.optimizer, self.position())
                self.take_step([next(batches) for _ in range(self.batches.accumulate)])
                state.step += 1
                self.model.after_step(self.progress())
                bar.update()
                if state.step % self.config.train.log_every == 0 or state.step == steps:
                    self.log_steps(bar, lr)
                self.save_if_due()
        collectives.same_tensors(self.model.buffers())
        if self.schedule.lr > 0:
            self.movement.check(last=state.epoch + 1 >= self.config.train.epochs)
        means = {**state.meters.close_epoch(), **self.speed.shown(state.step)}
        done = state.epoch
        state.epoch, state.step = done + 1, 0
        self.batches.set_epoch(state.epoch)
        rate = self.schedule.mean_lr(done, steps)
        return {"train_lr": rate, **{f"train_{name}": value for name, value in means.items()}}

    def take_step(self, micro_batches: list[dict]) -> None:
        """Run the forward and backward passes of one step, ``train.accum_iter`` of them, and update
        the weights.
        """
        state = self.state
        # Read on the CPU, before the batches are copied: no wait for the device.
        records = [row for batch in micro_batches for row in batch["record"].tolist()]
        values = self.graph.take(micro_batches)
        if values is None:
            with self.graph.warming_up():
                values = self.take_plain_step(micro_batches)
        state.meters.add(state.epoch, state.step, values, records)

    def take_plain_step(self, micro_batches: list[dict]) -> torch.Tensor:
        """Take a step whose work the host queues bit by bit; return what is logged."""
        model, state, meters = self.model, self.state, self.state.meters
        # A forward pass whose loss is not finite may already have spoilt buffers such as running
        # statistics: keep them, to undo it.
        buffers = [buffer.clone() for buffer in model.buffers()] if meters.tolerated else []
        values = self.passes(map(self.inputs, micro_batches))
        if meters.skips(values):
            for buffer, before in zip(model.buffers(), buffers):
                buffer.copy_(before)
        else:
            model.before_step(self.position())
            self.update()
        state.optimizer.zero_grad(set_to_none=True)
        return values

    def inputs(self, batch: dict) -> Inputs:
        """Return a loader's batch as the model sees it, and what the model draws for it."""
        with autocast(self.device, self.amp):
            ready = self.prepare(batch)
            return ready, self.model.draw(ready)  # draws are neither compiled nor captured

    def passes(self, micro_batches: Iterable[Inputs]) -> torch.Tensor:
        """Run forward and backward passes; return what is logged, means over the micro-batches."""
        state, count, scalars = self.state, self.batches.accumulate, []
        for number, (ready, drawn) in enumerate(micro_batches, 1):
            samples = len(ready["signal"])
            with self.gradients_stay(number < count), self.speed.counting(samples):
                with autocast(self.device, self.amp):
                    out = self.runner(ready, drawn)
                loss = out["loss"] / count
                state.scaler.scale(loss).backward()
            if self.movement:
                self.movement.see_gradients()
            scalars.append(state.meters.scalars(out) / count)
        return sum(scalars[1:], scalars[0])

    def gradients_stay(self, stay: bool) -> contextlib.AbstractContextManager:
        """Return a context for a backward pass; in it, with ``stay``, DDP exchanges no gradients:
        it does so once a step, with the last micro-batch.
        """
        if stay and isinstance(self.runner, DistributedDataParallel):
            return self.runner.no_sync()
        return contextlib.nullcontext()

    def prepare(self, batch: dict) -> Batch:
        """Return a loader's batch as the model sees it: on the device, transformed, with ``epoch``
        and ``progress`` added.
        """
        ready: Any = to_device(batch, self.device, self.copies)
        ready["signal"] = self.pipeline(ready["signal"], ready["random"])
        # As tensors: a compiled model would treat a number as a constant and be recompiled at
        # every step.  Filled on the device: copying a number there would make the host wait.
        for name, value in (("epoch", self.position()), ("progress", self.progress())):
            ready[name] = torch.full((), value, dtype=torch.float64, device=self.device)
        return ready

    def update(self) -> None:
        """Clip the gradients if train.max_norm is given, and take a step of the optimiser."""
        state, most = self.state, self.config.train.max_norm
        if most is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), most)
        state.scaler.step(state.optimizer)
        state.scaler.update()

    def log_steps(self, bar: tqdm, lr: float) -> None:
        """Log the means over the steps since the last log line."""
        state = self.state
        means = state.meters.close_window(self.last_saved)  # which waits for the steps
        speed = self.speed.shown(state.step)
        shown = {"loss": f"{means['loss']:.4f}", "lr": f"{lr:.2e}"}
        shown["samples/s"] = f"{speed['samples_per_second']:.1f}"
        if "mfu" in speed:
            shown["MFU"] = f"{speed['mfu']:.1%}"
        bar.set_postfix(shown, refresh=False)
        line = {"epoch": state.epoch, "step": state.step, "lr": lr, **means}
        self.log.line("log_steps.txt", line)
        points = {"lr": lr, **speed, **means}
        self.log.scalars({f"train/{key}": value for key, value in points.items()}, self.position())

    # ============ saving ============
    def save_if_due(self) -> None:
        """Save within an epoch, if the step is due or the process was asked to stop.

        Raises:
            Preempted: it was asked to stop, and the checkpoint has been written.
        """
        step = self.state.step
        if collectives.any_process(self.stop.requested):
            self.save()
            self._leave()
        if self.save_steps and step % self.save_steps == 0 and step < self.batches.steps:
            self.save()

    def save_epoch(self) -> None:
        """Save after an epoch: checkpoint-<epoch>.pth every train.keep_every epochs, and
        checkpoint-last.pth as often as train.checkpoint_every says.

        Raises:
            Preempted: the process was asked to stop, and both have been written.
        """
        train, done = self.config.train, self.epoch - 1
        last = self.epoch >= train.epochs
        # checkpoint-last.pth comes last: a run killed between the two repeats this epoch and
        # writes both.
        if done % train.keep_every == 0 or last:
            self.save(f"checkpoint-{done}.pth")
            collectives.on_main(lambda: checkpoint.prune(self.folder, train.keep_last, newest=done))
        stop = collectives.any_process(self.stop.requested)
        by_epoch = self.save_epochs is not None and self.epoch % self.save_epochs == 0
        if self.save_steps or by_epoch or last or stop:
            self.save()
        if stop:
            self._leave()

    def save(self, name: str = checkpoint.LAST) -> None:
        """Write a checkpoint on process 0 while the others wait."""
        content = content_of(self)
        self.log.flush()  # TensorBoard must not lack points that the checkpoint counts as done
        collectives.on_main(lambda: checkpoint.save(content, self.folder / name))
        self.last_saved = str(self.folder / name)

    def _leave(self) -> None:
        raise Preempted(
            f"stopped on request at epoch {self.epoch}, step {self.state.step}; "
            f"{self.last_saved} is written, resume with --resume auto"
        )
