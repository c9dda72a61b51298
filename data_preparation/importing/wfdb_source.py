"""WFDB recordings under a folder, as the source of an import."""

import functools
import os
import re
from pathlib import Path

from data_preparation.importing.flags import MIN_SECONDS
from data_preparation.importing.shards import Imported, import_recordings
from data_preparation.importing.sources import (
    Item,
    Lazy,
    Note,
    Source,
    database_name,
    endings_there,
    without_duplicates,
)
from data_preparation.known_sets import set_of_folder, set_of_layout
from util.errors import ECGError
from util.files import find_files
from util.formats.wfdb_files import ENDINGS, read_header, read_signal
from util.recordings.plausible import Told
from util.recordings.recording import Recording


def wfdb_source(
    input_dir: str | os.PathLike,
    *,
    min_seconds: float = MIN_SECONDS,
    lead_names: dict[str, str] | None = None,
    assume: bool = False,
    database: str | None = None,
) -> Source:
    """Return all WFDB recordings under a folder.

    Args:
        input_dir: the folder.
        min_seconds: the samples of shorter records are not read.
        lead_names: {name in lower case: the lead it stands for}.
        assume: whether to go on where recordings cannot be what their headers say.
        database: of all of them; None: as folders and layouts say, see ``database_of``.

    Raises:
        ECGError: there is none.
    """
    input_dir = Path(input_dir)
    if not input_dir.is_dir():
        raise ECGError(
            f"no folder {input_dir}: put the databases there or name another with --input_dir"
        )
    paths = find_files(input_dir, ENDINGS)
    if not paths:
        raise ECGError(
            f"no .hea file under {input_dir}: put WFDB recordings there or name another "
            f"--input_dir{endings_there(input_dir)}"
        )
    name = input_dir.resolve().name

    def item(place: int) -> Item:
        path = paths[place]
        stem = os.path.splitext(os.path.basename(path))[0]  # a Path takes ten times as long
        return Item(stem, database or database_of(path, name), path)

    items, duplicates = without_duplicates(Lazy(len(paths), item))
    return Source(
        input_dir,
        items,
        functools.partial(read_wfdb, min_seconds=min_seconds, lead_names=lead_names),
        "data_preparation/data_extraction_without_preprocessing.py",
        options={
            **({"assume": True} if assume else {}),
            **({"database": database} if database else {}),
        },
        lead_names=lead_names or {},
        skipped=duplicates,
        told=Told(assume=assume),
    )


def read_wfdb(
    path: Path,
    row: int | None,
    note: Note,
    *,
    min_seconds: float = 0.0,
    lead_names: dict[str, str] | None = None,
) -> Recording:
    """Read a WFDB recording by its .hea file: a reader, see ``sources.py``."""
    header = read_header(path)
    for file in header.signal_files:
        note(file)
    return read_signal(header, min_seconds, lead_names)


def database_of(relative_path: str, input_name: str) -> str:
    """Return the database of a record.

    It is the first folder above it that is one of a known set's; else the set whose own layout
    the path has; else the top folder ("training" and the Challenge's g1, g2, ... do not count),
    or the input folder's name.
    """
    folders = relative_path.split("/")[:-1]
    known = next(filter(None, map(set_of_folder, [*folders, input_name])), None)
    known = known or set_of_layout(f"{input_name}/{relative_path}")
    if known:
        return known
    others = [name for name in folders if not re.fullmatch(r"training|g[0-9]+", name.lower())]
    return database_name(others[0] if others else input_name)


def extract(
    input_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    target_fs: list[int],
    workers: int,
    *,
    lead_names: dict[str, str] | None = None,
) -> Imported:
    """Import every recording under a folder; see ``import_recordings``."""
    source = wfdb_source(input_dir, lead_names=lead_names)
    return import_recordings(source, output_dir, target_fs, workers)
