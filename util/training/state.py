"""What a training checkpoint holds, and how a run resumes from one as if nothing had happened."""

import math
import random
import zlib

import numpy as np
import torch

from util.console import note
from util.errors import CheckpointError
from util.processes import collectives
from util.training import checkpoint
from util.training.optimizer import load_optimizer

IRRELEVANT = {
    "resume",
    "start_epoch",
    "output_dir",
    "exp_name",
    "device",
}  # keys that change no result


def training_state(training) -> dict:
    """A checkpoint's content, everything that changes from step to step; every process must call
    this.
    """
    training.meters.gather(training.last_saved)
    return checkpoint.content(
        training.model.state_dict(),
        training.resolved,
        training.epoch,
        step=training.step,
        optimizer=training.optimizer.state_dict(),
        scaler=training.scaler.state_dict(),
        scheduler={"position": training.position()},  # schedules are functions of the position
        rng=collectives.gather_objects(random_state()),
        metrics={
            "best": training.best,
            "data": training.dataset.checksums,
            "per_step": training.batches.per_step,
            "offset": training.batches.offset,
            "matmul_precision": torch.get_float32_matmul_precision(),
            **training.meters.state(),
        },
    )


def resume(training) -> str | None:
    """Put a ``Training`` where the checkpoint stands that ``config.resume`` names; returns its
    path, or None where there is none and the run starts afresh, at ``config.start_epoch``.

    Process 0 looks for it, reads and checks it; all take over what it read.  So other processes
    need not see the folder, and none can begin elsewhere.
    """
    config = training.config
    path, state = collectives.on_main(lambda: _read(config.resume, training.folder))
    if path is None:
        training.epoch = config.start_epoch
        training.batches.set_epoch(training.epoch)
        return None
    try:
        _check_kind(state["config"], training.resolved, path)
        _restore(training, state)
        _place(training, state, path)
        changed = differences(state["config"], training.resolved)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} does not fit this model or optimizer ({reason}); resume with the run's own "
            "config.yaml, or choose another --exp_name"
        ) from None
    check_agreement(training)
    if state["metrics"].get("data", training.dataset.checksums) != training.dataset.checksums:
        note(
            "note: the store or the labels are not those of the checkpoint's run; start anew, "
            "under another --exp_name, for scores of one data set"
        )
    if changed:
        note(f"note: these keys differ from the checkpoint's run: {', '.join(changed)}")
    note(f"resumed from {path}: epoch {training.epoch}, step {training.step}")
    return path


def _read(choice, folder):
    path = checkpoint.find_resume(choice, folder)
    return (None, None) if path is None else (str(path), checkpoint.load_training(path))


def check_agreement(training) -> None:
    """CheckpointError on every process, unless all go on at the same place with the same
    weights.
    """
    weights = 0
    for value in training.model.state_dict().values():
        weights = zlib.crc32(
            value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy(), weights
        )
    places = collectives.gather_objects([training.epoch, training.step, weights])
    if any(place != places[0] for place in places):
        found = "; ".join(
            f"process {rank}: epoch {epoch}, step {step}, weights {crc:08x}"
            for rank, (epoch, step, crc) in enumerate(places)
        )
        raise CheckpointError(
            f"the processes did not resume alike ({found}); start all of them with the same "
            "code, "
            "config and data"
        )


def _check_kind(old, new, path):
    old = {"train": new["train"], **old}
    for key, was, now in (
        ("model_name", old.get("model_name"), new["model_name"]),
        ("train.optimizer", old["train"]["optimizer"], new["train"]["optimizer"]),
    ):
        if was != now:
            raise CheckpointError(
                f"{path} is of {was}, not {now}; choose another --exp_name or the same {key}"
            )


def _restore(training, state):
    training.model.load_state_dict(state["model"])
    load_optimizer(training.optimizer, state["optimizer"])
    training.scaler.load_state_dict(state["scaler"])
    training.best = state["metrics"]["best"]
    training.meters.restore(state["metrics"])
    precision = state["metrics"].get("matmul_precision")
    if precision and training.train_config.matmul_precision == "auto":
        # Its trial may end otherwise at another time; a resumed run must not.
        torch.set_float32_matmul_precision(precision)
        note(f"float32 products: matmul_precision {precision}, as before the interruption")
    if len(state["rng"]) == collectives.world():
        set_random_state(state["rng"][collectives.rank()])
    else:
        note(
            f"note: the checkpoint is of {len(state['rng'])} processes; what dropout draws will "
            "differ"
        )


def _place(training, state, path):
    """Go on with the first record that the epoch has not shown, or with
    ``config.start_epoch``.  That counts once: a checkpoint of a run that began there has it
    behind itself, unless it is named explicitly.
    """
    config, batches, metrics = training.config, training.batches, state["metrics"]
    epoch, step, offset = state["epoch"], state["step"], metrics.get("offset", 0)
    if step and metrics["per_step"] != batches.per_step:
        step, offset = divmod(offset + step * metrics["per_step"], batches.per_step)
        note(
            f"note: a step was {metrics['per_step']} records and is now {batches.per_step}; "
            f"resuming at the same record of the epoch, step {step}"
        )
    if config.start_epoch and (
        config.resume != "auto" or state["config"].get("start_epoch") != config.start_epoch
    ):
        epoch, step, offset = config.start_epoch, 0, 0
        training.meters.window, training.meters.sums = [], []
    batches.set_epoch(epoch, step, offset)
    if step > batches.steps:
        raise CheckpointError(
            f"{path} stands at step {step} of an epoch, which now has {batches.steps}; resume "
            "with "
            "the same data and batch size, or give --start_epoch"
        )
    training.epoch, training.step = epoch, step


def differences(old: dict, new: dict, prefix="") -> list[str]:
    """Names of config keys that differ and matter to the result."""
    names = []
    for key in sorted({*old, *new} - (set() if prefix else IRRELEVANT)):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            names += differences(was, now, f"{prefix}{key}.")
        elif was != now:
            names.append(prefix + key)
    return names


# ============ random states ============
def random_state() -> dict:
    """State of this process's generators (Python, NumPy, torch) as tensors.  Data, views and
    masks need none of them; dropout, drop path and what a user's model draws do.
    """
    _, python, left_over = random.getstate()
    _, numbers, position, has_gauss, gauss = np.random.get_state()
    state = {
        "cpu": torch.get_rng_state(),
        "python": torch.tensor(python),
        "numpy": torch.tensor([*numbers.tolist(), position, has_gauss]),
        # Both keep the second number of a normal pair for the next call.
        "normal": torch.tensor(
            [math.nan if left_over is None else left_over, gauss], dtype=torch.float64
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
    *numbers, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(numbers, np.uint32), position, has_gauss, gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
