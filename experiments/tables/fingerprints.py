"""What made a result, as short hashes: the definition of its row, its store, its encoder."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from util.config.fields import Key, keys_of
from util.config.keys import FinetuneConfig, JobConfig
from util.data.record_tables import find_table
from util.data.store import checksum
from util.jobs.setup import store_at

# Of one row, or kept apart: what the files hold is a part of the store's fingerprint.
BY_RUN = ("seed", "store", "fold", "exclude_folds", "encoder_path", "annotated")
MATTERS = ("epochs",)  # though a resumed run may change it
HOW_MADE = "command"  # of meta.json; the checksums beside it say what came of it


def fingerprint(*facts: Any) -> str:
    """Return eight hexadecimal digits of what JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def what_matters(section: Any) -> dict[str, Any]:
    """Return the values of a config on which results depend, whatever the fold and the seed.

    Keys that are off (null, false, zero, empty) are left out: a key that a later version of the
    code adds, off by default, makes no other definition.  Where null is the default and means
    something else than zero, false or empty, these stay.
    """
    values: dict[str, Any] = {}
    for name, spec in sorted(keys_of(type(section)).items()):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            value = what_matters(value)
        elif isinstance(spec, Key) and spec.resumed == "free" and name not in MATTERS:
            continue
        null_alone = isinstance(spec, Key) and spec.default is None
        is_off = value is None if null_alone else not value
        if not is_off and name not in BY_RUN:
            values[name] = value
    return values


def store_of(config: JobConfig) -> str:
    """Return the fingerprint of what a config reads: the records of the store with their folds and
    patients, the tables of labels and of splits that it names, and what database annotated what.
    """
    data = config.dataset
    named = {}
    if data.labels is not None:
        named["labels"] = data.labels if isinstance(data.labels, str) else data.labels.get("name")
    if data.protocol == "given":
        named["splits"] = data.splits
    tables: list[Any] = [find_table(data.store, kind, name, ())[1] for kind, name in named.items()]
    if isinstance(config, FinetuneConfig) and config.dataset.annotated:
        tables.append(checksum(Path(config.dataset.annotated).read_bytes()))
    meta = {key: value for key, value in meta_of(data.store, data.fs).items() if key != HOW_MADE}
    return fingerprint(meta, tables)


@functools.cache
def meta_of(root: str, fs: int) -> dict:
    """Return a store's meta.json, which holds checksums of all else."""
    return store_at(root, fs).meta
