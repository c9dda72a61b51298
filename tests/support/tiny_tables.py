"""A table of two rows that takes seconds to run, and the command line that runs it."""

import pandas as pd
import yaml

from experiments import reproduce
from tests.support.small_store import run, store

TINY = {
    "about": "Tiny.",
    "config": "downstream/signal",
    "folds": [3, 9],
    "set": [
        "train.epochs=1",
        "model.channels=4",
        "dataloader.num_workers=0",
        "dataloader.batch_size=8",
        "dataset.crops_per_record=1",
        "test.report=false",
    ],
    "rows": [{"name": "ours"}, {"name": "published start", "model": {"init": "published"}}],
}


def write(folder, **changes):
    """Write the table, with changes, as tiny.yaml of a folder that stands for configs/tables."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **changes}))


def reproduced(folder, *flags):
    """Run the table; return its CSV."""
    run(
        reproduce.main,
        "tiny",
        "--device",
        "cpu",
        "--output_dir",
        folder / "out",
        "--set",
        f"dataset.store={store()}",
        *flags,
    )
    return pd.read_csv(folder / "results" / "tiny.csv", keep_default_na=False)
