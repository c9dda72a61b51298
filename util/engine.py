"""The one training loop: self-supervised methods and supervised tasks alike.

The engine knows of a model only its contract: ``forward(batch) -> {"loss": scalar, ...more to log}``, an optional
``after_step(progress)`` (slow teachers) and an optional ``fit_statistics(batches)``.  ``main_pretrain.py`` hands it a
self-supervised method; ``main_finetune.py`` a ``SupervisedTask`` (util/supervised.py).

Nothing in a step waits for the device: losses stay there until ``train.log_every`` steps have gathered.
"""
import contextlib
import fcntl
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from util import checkpoint, distributed
from util.dataset import Cropping, EvaluationBatches, make_loader, to_device
from util.errors import CheckpointError, ConfigError, ECGError
from util.files import remove_temporary
from util.optim import apply_schedules, make_optimizer, schedule_lr
from util.run_log import RunLog, print_once
from util.stop import Preempted, StopRequest

MAX_STATISTICS = 20_000
PATIENCE = 30         # seconds that a run waits for an earlier one of the same name to end


# ============ precision ============
def resolve_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """The autocast type for ``train.amp`` on this device, None for plain float32."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "none": None}[amp]


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Autocast context, or nothing for None."""
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


def crops_for_statistics(dataset, rows, length, batch_size, device, pipeline):
    """Centre crops of up to MAX_STATISTICS records, evenly chosen, after the pipeline: the same on every process."""
    rows = np.asarray(rows)[np.linspace(0, len(rows) - 1, min(len(rows), MAX_STATISTICS)).astype(int)]
    batches = EvaluationBatches(rows, dataset.samples[rows], Cropping("center", length), batch_size=batch_size)
    for batch in make_loader(dataset, batches):
        yield pipeline(to_device(batch, device)["signal"])


def parse_checkpoint_every(value) -> tuple[int | None, int | None]:
    """``train.checkpoint_every`` as (epochs, steps) between checkpoints, one of them None.

    Raises:
        ConfigError: neither a positive whole number nor such a number and the word steps.
    """
    number, _, unit = str(value).strip().partition(" ")
    steps = unit.strip() in ("step", "steps")
    if number.isascii() and number.isdigit() and int(number) and (steps or unit.strip() in ("", "epoch", "epochs")):
        return (None, int(number)) if steps else (int(number), None)
    raise ConfigError(f"train.checkpoint_every must be a number of epochs (1 or more), or a text like '500 steps', "
                      f"not {value!r}")


class Training:
    """A model in training: all that changes from step to step, and how it is saved and resumed.

    Args:
        model: see the module's docstring; already on ``device``.
        config: the resolved config (``train.lr`` is a number).
        dataset, batches: a CropDataset and its TrainingBatches.
        pipeline: device transforms of the signal.
        device, folder: where to compute and where the run's files go; no other run may be writing there.

    ``open_log`` must be called before training.

    Attributes:
        epoch, step: where the run stands (0-based; steps within the epoch).
        best: whatever the caller wants kept over interruptions, plain numbers by name.
    """

    def __init__(self, model, config, dataset, batches, pipeline, device, folder):
        self.model, self.config, self.train_config = model, config, config["train"]
        self.dataset, self.batches, self.pipeline = dataset, batches, pipeline
        self.device, self.folder = device, Path(folder)
        self.save_epochs, self.save_steps = parse_checkpoint_every(self.train_config["checkpoint_every"])
        self.amp = resolve_amp(self.train_config["amp"], device)
        torch.set_float32_matmul_precision(self.train_config["matmul_precision"])
        self.optimizer = make_optimizer(model, self.train_config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.epoch, self.step, self.best, self.skipped = 0, 0, {}, 0
        self.window, self.sums, self.names = [], [], None  # global means of recent steps; (count, sums) over the epoch
        self.pending = []  # not yet gathered: (step, local values on the device, records)
        self.last_saved, self.log, self.stop = None, None, StopRequest()
        self.loader = make_loader(dataset, batches, num_workers=config["dataloader"]["num_workers"],
                                  pin_memory=config["dataloader"]["pin_memory"])
        distributed.on_main(self._claim)
        self.wrap()

    def _claim(self):
        """Have the run's folder to oneself until this process ends, and clear away what a killed run left behind."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "a")
        except OSError as error:
            raise ECGError(f"cannot write to the run's folder {self.folder}: {error.strerror}; "
                           "choose another --output_dir") from None
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it if we are killed
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ECGError(f"another process is writing to {self.folder}; wait for it, end it, or choose "
                                   "another --exp_name") from None
                time.sleep(0.2)
            except OSError:
                break  # a file system without locks
        remove_temporary(self.folder)

    def open_log(self) -> None:
        """Start, or go on with, the run's log files from where the run stands."""
        self.log = RunLog(self.folder, self.epoch, self.step, self.position())

    def wrap(self):
        """(Re)build what runs a step: compiled where asked, and averaging gradients over processes."""
        runner = torch.compile(self.model) if self.train_config["compile"] else self.model
        if distributed.world() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            runner = DistributedDataParallel(runner, device_ids=ids)
        self.runner = runner

    # ============ one epoch ============
    def train_epoch(self, stop: "StopRequest") -> dict[str, float]:
        """Train from the current step to the epoch's end; returns the epoch's mean of all logged values.

        Raises:
            Preempted: the process was asked to stop; a checkpoint has been written.
            ECGError: more losses than tolerated were not finite.
        """
        self.stop = stop
        self.batches.set_epoch(self.epoch, self.step)
        self.model.train()
        loader = iter(self.loader)
        self.started = self.step, time.perf_counter()
        bar = self.log.bar(self.batches.steps, f"epoch {self.epoch + 1}/{self.train_config['epochs']}", self.step)
        with bar:
            while self.step < self.batches.steps:
                lr = apply_schedules(self.optimizer, self.train_config, self.position())
                self._step([next(loader) for _ in range(self.batches.accumulate)])
                self.step += 1
                if hasattr(self.model, "after_step"):
                    self.model.after_step(self.position() / self.train_config["epochs"])
                bar.update()
                if self.step % self.train_config["log_every"] == 0 or self.step == self.batches.steps:
                    self._flush(bar, lr)
                self._save_if_due()
        distributed.same_buffers(self.model)
        count, *sums = self.sums
        means = {f"train_{name}": total / max(count, 1) for name, total in zip(self.names, sums)}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, []
        return {"train_lr": self._mean_lr(self.epoch - 1), **means}

    def _mean_lr(self, epoch):
        steps = self.batches.steps
        return float(np.mean([schedule_lr(self.train_config, epoch + step / steps) for step in range(steps)]))

    def position(self) -> float:
        """Where the run stands, in epochs."""
        return self.epoch + self.step / self.batches.steps

    def _step(self, micro_batches):
        """Forward, backward and update over the micro-batches of one step."""
        values, records = 0, []
        # A loss that is not finite may have spoilt running statistics and centres on its way.
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.train_config["skip_nonfinite"] else []
        for number, batch in enumerate(micro_batches):
            records += batch["record"].tolist()
            batch = to_device(batch, self.device)
            batch["signal"] = self.pipeline(batch["signal"], batch["random"])
            batch["epoch"] = self.position()
            batch["progress"] = batch["epoch"] / self.train_config["epochs"]
            last = number == len(micro_batches) - 1
            with contextlib.nullcontext() if last or distributed.world() == 1 else self.runner.no_sync():
                with autocast(self.device, self.amp):
                    out = self.runner(batch)
                self.scaler.scale(out["loss"] / len(micro_batches)).backward()
            scalars = {name: value.detach() for name, value in out.items()
                       if isinstance(value, torch.Tensor) and value.ndim == 0}
            self.names = ["loss", *(name for name in scalars if name != "loss")]
            values = values + torch.stack([scalars[name].float() for name in self.names]) / len(micro_batches)
        if self._tolerable(values):
            self._update()
        else:
            for buffer, before in zip(self.model.buffers(), buffers):
                buffer.copy_(before)
        self.optimizer.zero_grad(set_to_none=True)
        self.pending.append((self.step, values, records))

    def _tolerable(self, values):
        """False for a loss that is not finite and shall be skipped.  Looks (and so waits for the device) only where
        skipping is allowed; otherwise ``_gather`` notices."""
        if not self.train_config["skip_nonfinite"]:
            return True
        if not distributed.any_process(not bool(values[0].isfinite())):
            return True
        self.skipped += 1
        return False

    def _update(self):
        if self.train_config["max_norm"] is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train_config["max_norm"])
        self.scaler.step(self.optimizer)
        self.scaler.update()

    # ============ telling ============
    def _gather(self):
        """Average pending values over processes, check them, and append them to the window; skipped steps are left out.
        """
        if not self.pending:
            return
        values = torch.stack([row for _, row, _ in self.pending]).double().cpu()
        bad = ~values[:, 0].isfinite()  # the loss comes first
        if distributed.any_process(bool(bad.any())):
            self._report_nonfinite(bad)
            bad = distributed.total(bad.int()) > 0
        values = distributed.total(values) / distributed.world()
        self.window += values[~bad].tolist()
        self.pending = []

    def _report_nonfinite(self, bad):
        """Say which steps and records had no finite loss.

        Raises:
            ECGError: more than train.skip_nonfinite tolerates.
        """
        mine = [(step, sorted(set(records))) for (step, _, records), flag in zip(self.pending, bad) if flag]
        found = sorted(item for part in distributed.gather_objects(mine) for item in part)
        tolerated = self.train_config["skip_nonfinite"]
        for step in sorted({step for step, _ in found}):
            rows = sorted({row for at, rows in found for row in rows if at == step})
            names = ", ".join(self.dataset.store.records["record"].iloc[rows[:32]].astype(str))
            text = (f"the loss was not finite at epoch {self.epoch}, step {step}; records of the batch: {names}"
                    f"{' ...' if len(rows) > 32 else ''}")
            if self.skipped > tolerated or not tolerated:
                raise ECGError(f"{text}. Last good checkpoint: {self.last_saved or 'none yet'}. Lower train.lr or "
                               "train.blr, set train.max_norm, look at these records, or tolerate some steps with "
                               "train.skip_nonfinite")
            print_once(f"skipped: {text} ({self.skipped} of {tolerated} tolerated)")

    def _flush(self, bar, lr):
        """Gather, show, and write a line for the steps since the last one."""
        self._gather()
        rows = torch.tensor(self.window, dtype=torch.float64).reshape(-1, len(self.names))
        means = dict(zip(self.names, rows.mean(dim=0).tolist()))  # NaN where all steps were skipped
        counted = torch.cat([torch.tensor([len(rows)], dtype=torch.float64), rows.sum(dim=0)])
        self.sums = (counted + torch.tensor(self.sums, dtype=torch.float64)).tolist() if self.sums else counted.tolist()
        self.window = []
        rate = self._per_step() * (self.step - self.started[0]) / (time.perf_counter() - self.started[1])
        bar.set_postfix({"loss": f"{means['loss']:.4f}", "lr": f"{lr:.2e}", "samples/s": f"{rate:.1f}"}, refresh=False)
        self.log.line("log_steps.txt", {"epoch": self.epoch, "step": self.step, "lr": lr, **means})
        self.log.scalars({"train/lr": lr, "train/samples_per_second": rate,
                          **{f"train/{name}": value for name, value in means.items()}}, self.position())

    # ============ saving ============
    def _save_if_due(self):
        """In mid-epoch: save every so many steps, or because the process was asked to stop."""
        if distributed.any_process(self.stop.requested):
            self.save()
            self._leave()
        if self.save_steps and self.step % self.save_steps == 0 and self.step < self.batches.steps:
            self.save()

    def _leave(self):
        raise Preempted(f"stopped on request at epoch {self.epoch}, step {self.step}; {self.last_saved} is written, "
                        "go on with --resume auto")

    def state(self) -> dict:
        """The checkpoint's content; every process must call this."""
        self._gather()
        states = _gather_random_states()
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scheduler": {"position": self.position()},  # schedules are functions of the position
                "scaler": self.scaler.state_dict(), "epoch": self.epoch, "step": self.step, "rng": states,
                "config": self.config,
                "metrics": {"best": self.best, "window": self.window, "sums": self.sums, "names": self.names,
                            "skipped": self.skipped, "per_step": self._per_step()}}

    def _per_step(self):
        """Records a step, over all processes."""
        return self.batches.batch_size * self.batches.accumulate * distributed.world()

    def save(self, name: str = checkpoint.LAST) -> None:
        """Write a checkpoint (process 0) and wait until it is there (all)."""
        state = self.state()
        distributed.on_main(lambda: checkpoint.save(state, self.folder / name))
        self.last_saved = str(self.folder / name)

    def save_epoch(self) -> None:
        """After an epoch: the periodic checkpoint-<epoch>.pth, and checkpoint-last.pth as often as asked.

        Raises:
            Preempted: the process was asked to stop; a checkpoint has been written.
        """
        done, last = self.epoch - 1, self.epoch >= self.train_config["epochs"]
        # checkpoint-last.pth comes last: a run killed in between does this epoch again, and misses none of the others.
        if done % self.train_config["keep_every"] == 0 or last:
            self.save(f"checkpoint-{done}.pth")
            distributed.on_main(lambda: checkpoint.prune(self.folder, self.train_config["keep_last"]))
        stop = distributed.any_process(self.stop.requested)
        if self.save_steps or self.epoch % self.save_epochs == 0 or last or stop:
            self.save()
        if stop:
            self._leave()

    def resume(self, path) -> None:
        """Go on from a checkpoint as if nothing had happened.

        Raises:
            CheckpointError: damaged, or of another model.
        """
        state = checkpoint.load_training(path)
        try:
            changed = self._restore(state, path)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path} does not fit this model or optimizer ({reason}); "
                                  "resume with the run's own config.yaml, or choose another --exp_name") from None
        self.last_saved = str(path)
        if changed:
            print_once(f"note: these keys differ from the checkpoint's run: {', '.join(changed)}")
        print_once(f"resumed from {path}: epoch {self.epoch}, step {self.step}")

    def _restore(self, state, path):
        """Take over a checkpoint's content; returns the names of config keys that differ."""
        if state["config"].get("model_name") != self.config["model_name"]:
            raise CheckpointError(f"{path} is of {state['config'].get('model_name')}, not {self.config['model_name']}; "
                                  "choose another --exp_name or the same model_name")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        metrics = state["metrics"]
        self.best, self.window, self.sums = metrics["best"], metrics["window"], metrics["sums"]
        self.names, self.skipped = metrics["names"], metrics["skipped"]
        if len(state["rng"]) == distributed.world():
            checkpoint.set_random_state(state["rng"][distributed.rank()])
        else:
            print_once(f"note: the checkpoint is of {len(state['rng'])} processes: what dropout draws will differ")
        if self.step and metrics["per_step"] != self._per_step():
            self.step = self.step * metrics["per_step"] // self._per_step()
            print_once(f"note: a step was {metrics['per_step']} records and is now {self._per_step()}; going on at the same "
                f"place in the data, step {self.step}")
        if self.config["start_epoch"]:
            self.epoch, self.step, self.window, self.sums = self.config["start_epoch"], 0, [], []
        if self.step > self.batches.steps:
            raise CheckpointError(f"{path} stands at step {self.step} of an epoch, which now has {self.batches.steps}; "
                                  "resume with the same data and batch size, or give --start_epoch")
        return _differences(state["config"], self.config)


def _differences(old, new, prefix=""):
    """Names of config keys that differ and matter to the result."""
    ignored = {"resume", "start_epoch", "output_dir", "exp_name", "device"}
    names = []
    for key in sorted(set(old) | set(new)):
        if not prefix and key in ignored:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def _gather_random_states():
    """The random state of every process, in rank order."""
    mine = checkpoint.random_state()
    if distributed.world() == 1:
        return [mine]
    parts = {}
    for name, value in mine.items():
        everyone = [torch.empty_like(value) for _ in range(distributed.world())]
        torch.distributed.all_gather(everyone, value)
        parts[name] = everyone
    return [{name: parts[name][rank] for name in parts} for rank in range(distributed.world())]
