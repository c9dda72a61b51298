"""Embeddings of many records: computed in pieces, kept as they are done, joined at the end.

A piece is a file beside the output, so memory does not grow with the records, and the same command
goes on where it was stopped.
"""

import importlib.util
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from util.console import note, progress_bar
from util.data.dataset import CropDataset
from util.data.store import RecordStore
from util.errors import ConfigError, ECGError
from util.evaluation.inference import record_loader, record_means
from util.files import replacing, write_frame, write_json, write_table
from util.handover.load import AppliedEncoder
from util.handover.to_embed import UNREAD, Records
from util.processes import collectives
from util.signals.crops import Cropping

TOKENS = 64  # records a piece of maps of tokens
FORMATS = (".npy", ".csv", ".parquet")
_UNREAD = ".unread.csv"


@dataclass(frozen=True)
class Embeddings:
    """Where embeddings go, and what has been computed of them.

    Attributes:
        records: what is embedded.
        output: .npy float32 (records, ...), beside it <name>.records.csv with the names; .csv or
            .parquet with these columns and one for each feature.
        tokens: maps of tokens (records, tokens, width) of each record's middle crop instead of
            features, the mean over crops.
    """

    encoder: AppliedEncoder
    records: Records
    output: Path
    tokens: bool = False
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.output.suffix not in FORMATS:
            raise ConfigError(
                f"--output {self.output}: the name must end in one of {', '.join(FORMATS)}"
            )
        if self.tokens and self.output.suffix != ".npy":
            raise ConfigError(f"--tokens are maps, which fit no table; name {self.output.stem}.npy")
        if self.output.suffix == ".parquet" and not importlib.util.find_spec("pyarrow"):
            raise ConfigError(
                "--output .parquet needs pyarrow: pip install pyarrow, or name a .csv"
            )

    @property
    def pieces(self) -> Path:
        """Return the folder of what has been computed."""
        return self.output.with_name(f"{self.output.name}.pieces")

    def write(self, weights: str) -> None:
        """Compute what is missing and write the output; all processes take part.

        Args:
            weights: checksum of the encoder's file; a later command goes on with these pieces
                where this, the records and ``tokens`` are the same.

        Raises:
            ConfigError: the pieces are of other weights or other records.
            ECGError: no record could be read.
        """
        made_by = {"weights": weights, "records": self.records.fingerprint, "tokens": self.tokens}
        collectives.on_main(lambda: self._begin(made_by))
        size = min(self.records.size, TOKENS) if self.tokens else self.records.size
        starts = range(0, len(self.records), size)
        bar = progress_bar(
            total=len(self.records),
            unit="record",
            desc="embedding",
        )
        for number, first in enumerate(starts):
            last = min(first + size, len(self.records))
            path = self.pieces / f"{number:06d}.npy"
            if not collectives.on_main(path.is_file):
                values, about = self._piece(first, last)
                unread, self.records.unread = self.records.unread, []
                collectives.on_main(partial(_write_piece, path, values, about, unread))
            bar.update(last - first)
        bar.close()
        collectives.on_main(lambda: self._join(len(starts)))

    def _piece(self, first: int, last: int) -> tuple[np.ndarray, pd.DataFrame]:
        """The values of some records and a line of each; those that could not be read are not
        among them.
        """
        arrays, tables = [], []
        for store, rows, about in self.records.read(first, last):
            arrays.append(
                compute(self.encoder, store, rows, tokens=self.tokens, batch_size=self.batch_size)
            )
            tables.append(about)
        if not arrays:
            return np.zeros((0, 0), np.float32), pd.DataFrame()
        return np.concatenate(arrays), pd.concat(tables)

    def _begin(self, made_by: dict) -> None:
        """Make the folder of pieces, or see that it is of the same job."""
        about = self.pieces / "about.json"
        if about.is_file() and json.loads(about.read_text("utf-8")) != made_by:
            raise ConfigError(
                f"{self.pieces} holds embeddings by other weights or of other records; remove it, "
                "or choose another --output"
            )
        self.pieces.mkdir(parents=True, exist_ok=True)
        write_json(about, made_by)

    def _join(self, count: int) -> None:
        """Write the output from the pieces, a piece at a time, and remove them."""
        paths = [self.pieces / f"{number:06d}.npy" for number in range(count)]
        self._list_unread(paths)
        full = [path for path in paths if len(np.load(path, mmap_mode="r"))]
        if not full:
            shutil.rmtree(self.pieces)
            raise ECGError(
                f"none of the {len(self.records)} recordings could be read, as said above"
            )
        about = pd.concat([_lines(path) for path in full], ignore_index=True)
        shape = (len(about), *np.load(full[0], mmap_mode="r").shape[1:])
        if self.output.suffix == ".npy":
            write_frame(self.output.with_suffix(".records.csv"), about)
            with replacing(self.output) as file:
                np.lib.format.write_array_header_2_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": shape}
                )
                for path in full:
                    file.write(np.load(path).tobytes())
        elif self.output.suffix == ".csv":
            self._write_csv(full)
        else:
            self._write_parquet(full)
        shutil.rmtree(self.pieces)
        self.records.finish(about)
        note(f"{self.output}: {' x '.join(map(str, shape))}")

    def _list_unread(self, paths: list[Path]) -> None:
        """Write <name>.unread.csv beside the output, and say how many are in it; remove that of an
        earlier output where all were read.
        """
        lines = pd.concat([_lines(path, _UNREAD) for path in paths])
        listed = self.output.with_suffix(_UNREAD)
        if lines.empty:
            listed.unlink(missing_ok=True)
            return
        write_frame(listed, lines)
        note(
            f"recordings that could not be read, left out: {len(lines)} of {len(self.records)}, "
            f"listed in {listed}"
        )

    def _write_csv(self, paths: list[Path]) -> None:
        with replacing(self.output) as file:
            for number, table in enumerate(_tables(paths)):
                table.to_csv(file, index=False, header=number == 0, float_format="%.9g")

    def _write_parquet(self, paths: list[Path]) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = (pyarrow.Table.from_pandas(table, preserve_index=False) for table in _tables(paths))
        first = next(rows)
        with replacing(self.output) as file:
            with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
                for table in itertools.chain([first], rows):
                    writer.write_table(table)


def compute(
    encoder: AppliedEncoder,
    store: RecordStore,
    rows: np.ndarray,
    *,
    tokens: bool = False,
    batch_size: int = 64,
) -> np.ndarray:
    """Return the features of records, float32 (records, width), on every process.

    Args:
        encoder: whose they are.
        store: the records.
        rows: which of them; all have its leads.
        tokens: maps of tokens of each middle crop, (records, tokens, width), instead.
        batch_size: crops computed at a time, on each process.
    """
    cropping, network = encoder.cropping, encoder.network
    if tokens:
        cropping = Cropping("center", cropping.length)

    @torch.no_grad()
    def vectors(crops: torch.Tensor) -> torch.Tensor:
        return network.tokens(crops).float() if tokens else encoder.vectors(crops)

    device = next(network.parameters()).device
    shape = vectors(torch.zeros(1, len(encoder.leads), cropping.length, device=device))
    loader = record_loader(
        CropDataset(store, encoder.leads, cropping.length), rows, cropping, batch_size
    )
    means = record_means(
        network,
        loader,
        encoder.pipeline,
        rows,
        device,
        vectors=lambda crops: vectors(crops).flatten(1),
        width=shape[0].numel(),
    )
    return means.reshape(len(rows), *shape.shape[1:]).astype(np.float32)


def _write_piece(
    path: Path, values: np.ndarray, about: pd.DataFrame, unread: list[dict[str, str]]
) -> None:
    write_frame(path.with_suffix(".csv"), about)
    write_table(path.with_suffix(_UNREAD), UNREAD, unread)
    with replacing(path) as file:
        np.save(file, values)


def _lines(path: Path, suffix: str = ".csv") -> pd.DataFrame:
    """The lines of a piece's records, or of those that could not be read."""
    return pd.read_csv(path.with_suffix(suffix), dtype=str, keep_default_na=False)


def _tables(paths: list[Path]) -> Iterator[pd.DataFrame]:
    """Lines and features of each piece."""
    for path in paths:
        values = np.load(path)
        names = [f"f{column}" for column in range(values.shape[1])]
        yield pd.concat([_lines(path), pd.DataFrame(values, columns=names)], axis=1)
