"""The folder of a run: held for it alone, and not with the results of another job."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from util.config.fields import to_mapping
from util.config.keys import FinetuneConfig, JobConfig, PretrainConfig
from util.config.load import load_yaml
from util.console import FILE, note, quietly
from util.data.store import FOLDS
from util.errors import ConfigError
from util.files import FolderLock, remove_temporary
from util.scoring.predictions import Predictions
from util.training.log import trackers
from util.training.resolved import different_job
from util.weights import checkpoint

PATIENCE = 30  # seconds to wait while another run of the same name still holds the folder
METRICS = "test_metrics.csv"
PREDICTIONS = "test_predictions.npz"
RESULTS = (checkpoint.LAST, "encoder.pth", METRICS)
OVERWRITTEN = (
    *("checkpoint-*.pth", "best-*.pth", "encoder*.pth", "test_*", "selection_predictions.npz"),
    *("report.html", "log*.txt", FILE, trackers.FILE),
)
# first line of config.yaml where neighbours were asked and nothing was trained
ASKED = "by {} nearest neighbours (experiments/knn.py --k)"
SHOWN = 4  # keys that a message names


def claim_folder(folder: str | os.PathLike, config: JobConfig, resolved: dict) -> FolderLock:
    """Return the lock that holds a folder for this run, after ``check_folder``.

    What a killed run left half-written there is removed.
    """
    lock = FolderLock(folder, PATIENCE, "--output_dir or --exp_name")
    check_folder(folder, config, resolved)
    remove_temporary(folder)
    return lock


def check_folder(
    folder: str | os.PathLike, config: JobConfig, resolved: dict, remark: str | None = None
) -> None:
    """Refuse a folder that holds the results of another job; with ``config.overwrite`` remove
    them, as some would outlive the new job's, and be taken for its own.

    The same job may write its results once more, and a run that resumes from this folder is
    checked against its checkpoint instead.

    Args:
        folder: of the results.
        config: of the job.
        resolved: the same, as config.yaml keeps it.
        remark: ``ASKED``, of a job that asks neighbours and trains nothing.

    Raises:
        ConfigError: it holds such results; the message names what differs.
    """
    folder = Path(folder)
    written = folder / "config.yaml"
    if not written.is_file() or not any((folder / n).exists() for n in RESULTS):
        return
    resumed = checkpoint.find_resume(config.resume, folder)
    if resumed and resumed.resolve().parent == folder.resolve() and not config.overwrite:
        return
    stored, program = load_yaml(written), type(config)
    of = FinetuneConfig if "mode" in stored else PretrainConfig
    asked = _asked(written)
    job, names = f"a {of.title}" if asked is None else f"a score {asked}", []
    if of is program and asked == remark:
        names = different_job(stored, resolved, config, str(written))
        if config.train.lr is None and "train.lr" in names:  # it follows from blr and the processes
            names.remove("train.lr")
        if not names:
            return
        more = f" and {len(names) - SHOWN} more keys" * (len(names) > SHOWN)
        job = f"another job, which differs in {', '.join(names[:SHOWN])}{more}"
    if config.overwrite:
        _remove_results(folder, job, keep=getattr(config, "encoder_path", ""))
        return
    raise ConfigError(
        f"{folder} holds the results of {job}; choose another --exp_name (or --output_dir), or "
        "give --overwrite to replace them"
    )


def _remove_results(folder: Path, job: str, keep: str) -> None:
    """Remove the files of a run but for ``keep``, the encoder from which the new one starts."""
    found = {path for pattern in OVERWRITTEN for path in folder.glob(pattern)}
    published = (f"{folder.name}_best{name}.pth" for name in ("ROC", "PRC"))  # lie beside it
    found |= {path for path in map(folder.with_name, published) if path.is_file()}
    files = sorted(path for path in found if path.resolve() != Path(keep).resolve())
    for path in files:
        path.unlink()
    note(f"--overwrite: removed the results of {job} from {folder}: {len(files)} files")


def folds_beside(
    folder: str | os.PathLike,
    config: FinetuneConfig,
    folds: Collection[int],
    tests: Callable[[int, Predictions], bool],
    remark: str | None = None,
) -> list[int]:
    """Return the further folds of which earlier runs of the same job left results, in fold<k>/.

    An encoder of their own is no other job: pre-training must leave out the tested fold.

    Args:
        folder: of all folds.
        config: of the job.
        folds: which it runs itself.
        tests: whether predictions are of the records, and their labels, that the job tests in a
            fold: the store and its tables may be others by now.
        remark: as for ``check_folder``.

    Raises:
        ConfigError: some are of another job, of which a mean over the folds would be, too; with
            ``config.overwrite`` they are named and left out.
    """
    found, mine = [], to_mapping(config)
    for number in sorted({*range(FOLDS)} - {*folds}):
        place = Path(folder) / f"fold{number}"
        written = place / "config.yaml"
        if not (place / METRICS).is_file() or not written.is_file():
            continue
        asked = _asked(written)
        names = [f"what was scored ({asked or 'a training'})"]
        if asked == remark:
            theirs = load_yaml(written)
            names = different_job(theirs, mine, config, str(written))
            free = ["dataset.fold"]
            # it follows from blr, or nothing is trained
            free += ["train.lr"] * (config.train.lr is None or not theirs["train"]["lr"])
            free += ["encoder_path"] * bool(theirs.get("encoder_path") and config.encoder_path)
            names = [name for name in names if name not in free]
        predicted = place / PREDICTIONS
        if not names and predicted.is_file():
            with quietly():
                same = tests(number, Predictions.load(predicted))
            names = [] if same else ["the records that are tested, or their labels"]
        if not names:
            found.append(number)
        elif config.overwrite:
            note(f"{place} is of another job ({', '.join(names[:SHOWN])}): in no mean over folds")
        else:
            raise ConfigError(
                f"{place} is of another job, which differs in {', '.join(names[:SHOWN])}; a mean "
                "over the folds of both would be of neither. Choose another folder "
                "(--output_dir, --exp_name or --save_folder), or give --overwrite to leave out "
                "those folds"
            )
    return found


def _asked(written: Path) -> str | None:
    """The ``ASKED`` of a config.yaml, None where a training left it."""
    remark = written.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    start, end = ASKED.split("{}")
    return remark if remark.startswith(start) and remark.endswith(end) else None
