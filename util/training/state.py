"""What changes from step to step, what a checkpoint keeps of it, and how a run resumes from one and
ends with the same result as without the interruption.
"""

import math
import os
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from util.config.keys import JobConfig
from util.console import note
from util.contract.method import Method
from util.data.dataset import CropDataset, TrainingBatches
from util.errors import CheckpointError
from util.processes import collectives
from util.scoring.scores import lower_is_better
from util.training.log.meters import Meters
from util.training.optimizer import load_optimizer
from util.training.resolved import changes
from util.weights import checkpoint
from util.weights.encoder_file import check_numbers

# keys whose change is not said
UNSAID = {
    "resume",
    "overwrite",
    "allow_label_overlap",
    "start_epoch",
    "output_dir",
    "exp_name",
    "device",
}
CONTENT = {  # checksums that the files of a run keep, and what another one is of
    "encoder_checksum": "encoder_path (the content of the file)",
    "rows_checksum": "which records train, select and test (the table of splits, or patients)",
}
CURE = "choose another --exp_name, or resume with the run's own config.yaml"


@dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
        model: what is trained.
        optimizer: its optimiser.
        scaler: of fp16's losses; it does nothing in other formats.
        meters: values of steps that are not in the log yet.
        epoch: epochs that are done.
        step: steps of the current one that are done.
        best: numbers by name that the caller wants checkpoints to keep, such as best scores.
    """

    model: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meters: Meters
    epoch: int = 0
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict:
        """Return it as plain types and tensors, once the meters have gathered."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "metrics": {"best_scores": self.best, **self.meters.state_dict()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Undo ``state_dict``.  Checkpoints of earlier versions kept scores negated where lower
        ones are better, and those of a pre-training's probe as they were.
        """
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        elif self.scaler.is_enabled():
            note("note: fp16 has its loss scale to find anew; the checkpoint is of another format")
        elif state["scaler"]:
            note("note: the checkpoint's loss scale is dropped; it was of fp16, this run is not")
        self.meters.load_state_dict(state["metrics"])
        self.epoch, self.step = state["epoch"], state["step"]
        best = state["metrics"].get("best_scores")
        if best is None:
            best = {
                name: -value if not name.startswith("probe_") and lower_is_better(name) else value
                for name, value in state["metrics"]["best"].items()
            }
        self.best = best


class Run(Protocol):
    """What of a training (util/training/engine.py) a checkpoint is made of and restored to."""

    state: TrainState
    config: JobConfig
    resolved: dict
    dataset: CropDataset
    batches: TrainingBatches
    folder: Path
    last_saved: str | None
    about: dict

    def position(self) -> float:
        """Return where the run stands, in epochs."""
        ...


# ============ checkpoints ============
def content_of(run: Run) -> dict:
    """Return a checkpoint's content; every process must call this."""
    run.state.meters.gather(run.last_saved)
    state = run.state.state_dict()
    state["metrics"] |= {
        "data": run.dataset.checksums,
        "per_step": run.batches.per_step,
        "offset": run.batches.offset,
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    return {
        **state,
        **run.about,
        "config": run.resolved,
        "scheduler": {"position": run.position()},  # schedules are functions of the position
        "rng": collectives.gather_objects(random_state()),
    }


def resume(run: Run) -> str | None:
    """Load the checkpoint that ``config.resume`` names into a run and return its path; None where
    there is none and the run starts afresh, at ``config.start_epoch``.

    Process 0 finds, reads and checks it and sends it to the others, which need not see the folder
    and cannot start from another one.

    Raises:
        CheckpointError: it is of another job, or does not fit this run.
    """
    config, state = run.config, run.state
    path, content = collectives.on_main(lambda: _read(config.resume, run.folder))
    if path is None:
        state.epoch = config.start_epoch
        run.batches.set_epoch(state.epoch)
        return None
    try:
        changed = changes(content["config"], run.resolved, config, path)
        other_data = content["metrics"].get("data", run.dataset.checksums) != run.dataset.checksums
        others = [
            what
            for name, what in CONTENT.items()
            if content.get(name, run.about.get(name)) != run.about.get(name)
        ]
        _refuse_another_job(changed, path, other_data=other_data, others=others)
        check_numbers(path, content["model"], state.model.state_dict())
        state.load_state_dict(content)
        _restore_surroundings(run, content)
        _place(run, content, path)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} does not fit this model or optimizer ({reason}); {CURE}"
        ) from None
    check_agreement(state)
    _refuse_changes_at_the_end(run, changed, path)
    said = [name for name in changed if name not in UNSAID]
    if said:
        note(f"note: these keys differ from the checkpoint's run: {', '.join(said)}")
    note(f"resumed from {path}: epoch {state.epoch}, step {state.step}")
    return path


def _read(choice: str, folder: str | os.PathLike) -> tuple[str | None, dict]:
    path = checkpoint.find_resume(choice, folder)
    return (None, {}) if path is None else (str(path), checkpoint.load_training(path))


def check_agreement(state: TrainState) -> None:
    """Raise a CheckpointError on every process, unless all go on at the same place with the same
    weights.
    """
    weights = 0
    for value in state.model.state_dict().values():
        numbers = value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
        weights = zlib.crc32(numbers, weights)
    places = collectives.gather_objects([state.epoch, state.step, weights])
    if any(place != places[0] for place in places):
        listed = "; ".join(
            f"process {rank}: epoch {epoch}, step {step}, weights {crc:08x}"
            for rank, (epoch, step, crc) in enumerate(places)
        )
        raise CheckpointError(
            f"the processes did not resume alike ({listed}); start all of them with the same "
            "code, config and data"
        )


def _refuse_another_job(
    changed: dict[str, str], path: str, *, other_data: bool, others: list[str]
) -> None:
    """Raise a CheckpointError where keys differ that no resumed run may change, or where the
    store holds other records, folds or labels by now (it would test what it has trained on), or
    where what a checksum of ``CONTENT`` is of is another by now.
    """
    fixed = [name for name, resumed in changed.items() if resumed == "fixed"]
    if other_data:
        fixed.append("dataset.store (the records, folds or labels that it holds)")
    fixed = fixed or others  # which follow from keys that differ
    if fixed:
        raise CheckpointError(
            f"{path} is of another job, which differs in {', '.join(fixed)}; {CURE}"
        )


def _refuse_changes_at_the_end(run: Run, changed: dict[str, str], path: str) -> None:
    """Raise a CheckpointError where keys differ that could only act on steps which are all done."""
    train, epoch = run.config.train, run.state.epoch
    if epoch > train.epochs:
        raise CheckpointError(
            f"{path} has {epoch} epochs behind it, more than train.epochs: {train.epochs}; {CURE}"
        )
    late = [name for name, resumed in changed.items() if resumed == "unfinished"]
    if train.lr is None and "train.lr" in late:  # it follows from blr and the effective batch
        late.remove("train.lr")
    if epoch == train.epochs and late:
        raise CheckpointError(
            f"{path} is of a run that has finished, on which {', '.join(late)} can have no effect "
            f"any more; {CURE}"
        )


def _restore_surroundings(run: Run, content: dict) -> None:
    """The precision of products and the random generators of this process."""
    precision = content["metrics"].get("matmul_precision")
    if precision and run.config.train.matmul_precision == "auto":
        # Another trial might choose differently; a resumed run has to keep its precision.
        torch.set_float32_matmul_precision(precision)
        note(f"float32 products: matmul_precision {precision}, as before the interruption")
    if len(content["rng"]) == collectives.world():
        set_random_state(content["rng"][collectives.rank()])
    else:
        note(
            f"note: the checkpoint is of {len(content['rng'])} processes; what dropout draws will "
            "differ"
        )


def _place(run: Run, content: dict, path: str) -> None:
    """Set the epoch and step to go on with: the checkpoint's, or ``config.start_epoch``.

    With ``resume: auto`` start_epoch is ignored if the checkpoint's own run already used it: that
    run has gone further since.
    """
    config, batches, metrics = run.config, run.batches, content["metrics"]
    state = run.state
    epoch, step, offset = content["epoch"], content["step"], metrics.get("offset", 0)
    if step and metrics["per_step"] != batches.per_step:
        step, offset = divmod(offset + step * metrics["per_step"], batches.per_step)
        note(
            f"note: a step was {metrics['per_step']} records and is now {batches.per_step}; "
            f"resuming at the same record of the epoch, step {step}"
        )
    began_there = content["config"].get("start_epoch") == config.start_epoch
    if config.start_epoch and not (config.resume == "auto" and began_there):
        epoch, step, offset = config.start_epoch, 0, 0
        state.meters.forget()
    batches.set_epoch(epoch, step, offset)
    if step > batches.steps:
        raise CheckpointError(
            f"{path} stands at step {step} of an epoch, which now has {batches.steps}; resume "
            "with the same data and batch size, or give --start_epoch"
        )
    state.epoch, state.step = epoch, step


# ============ random states ============
def random_state() -> dict:
    """Return the state of this process's generators (Python, NumPy, torch) as tensors.  Data,
    views and masks need none of them; dropout, drop path and what a user's model draws do.
    """
    _, python, left_over = random.getstate()
    numpy = np.random.get_state(legacy=False)
    words, place = numpy["state"]["key"], numpy["state"]["pos"]
    state = {
        "cpu": torch.get_rng_state(),
        "python": torch.tensor(python),
        "numpy": torch.tensor([*words.tolist(), place, numpy["has_gauss"]]),
        # Both keep the second number of a normal pair for the next call.
        "normal": torch.tensor(
            [math.nan if left_over is None else left_over, numpy["gauss"]], dtype=torch.float64
        ),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Undo ``random_state``."""
    torch.set_rng_state(state["cpu"])
    left_over, gauss = state["normal"].tolist()
    random.setstate(
        (3, tuple(state["python"].tolist()), None if math.isnan(left_over) else left_over)
    )
    *words, place, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, np.uint32), place, has_gauss, gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
