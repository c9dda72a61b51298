"""Whether a run may write into its folder: not over the results of another job."""

import os
from pathlib import Path

from util.config.keys import FinetuneConfig, JobConfig, PretrainConfig
from util.config.load import load_yaml
from util.errors import ConfigError
from util.training import checkpoint
from util.training.resolved import changes

RESULTS = (checkpoint.LAST, "encoder.pth", "test_metrics.csv")
MATTERS = ("dataset.store", "train.epochs")  # which a resumed run may change, but not a new one
SHOWN = 4  # keys that a message names


def check_folder(folder: str | os.PathLike, config: JobConfig, resolved: dict) -> None:
    """Refuse a folder that holds the results of another job, unless ``config.overwrite``.

    The same job may write its results once more, and a run that resumes from this folder is
    checked against its checkpoint instead.

    Raises:
        ConfigError: it holds such results; the message names what differs.
    """
    folder = Path(folder)
    written = folder / "config.yaml"
    if config.overwrite or not written.is_file() or not any((folder / n).exists() for n in RESULTS):
        return
    resumed = checkpoint.find_resume(config.resume, folder)
    if resumed and resumed.resolve().parent == folder.resolve():
        return
    stored, program = load_yaml(written), type(config)
    of = FinetuneConfig if "mode" in stored else PretrainConfig
    job, names = f"a {of.title}", []
    if of is program:
        changed = changes(stored, resolved, config, str(written))
        names = [name for name, may in changed.items() if may != "free" or name in MATTERS]
        if config.train.lr is None and "train.lr" in names:  # it follows from blr and the processes
            names.remove("train.lr")
        if not names:
            return
        more = f" and {len(names) - SHOWN} more keys" * (len(names) > SHOWN)
        job = f"another job, which differs in {', '.join(names[:SHOWN])}{more}"
    raise ConfigError(
        f"{folder} holds the results of {job}; choose another --exp_name (or --output_dir), or "
        "give --overwrite to replace them"
    )
