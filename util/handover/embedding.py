"""Embeddings of whole stores: computed in pieces, kept as they are done, joined at the end.

A piece is a file of ``PIECE`` records beside the output, so memory does not grow with the store,
and the same command goes on where it was stopped.
"""

import importlib.util
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from util.console import note
from util.data.dataset import CropDataset
from util.data.store import RecordStore
from util.errors import ConfigError
from util.evaluation.inference import record_loader, record_means
from util.files import replacing, write_frame, write_json
from util.handover.load import AppliedEncoder
from util.processes import collectives
from util.signals.crops import Cropping

PIECE = 4096  # records
FORMATS = (".npy", ".csv", ".parquet")


@dataclass(frozen=True)
class Embeddings:
    """Where the embeddings of a store go, and what has been computed of them.

    Attributes:
        output: .npy float32 (records, ...), beside it <name>.records.csv with the names; .csv or
            .parquet with a column record and one for each feature.
        tokens: maps of tokens (records, tokens, width) of each record's middle crop instead of
            features, the mean over crops.
    """

    encoder: AppliedEncoder
    store: RecordStore
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
    def rows(self) -> np.ndarray:
        """Return the rows of the store that have all leads of the encoder."""
        return np.flatnonzero(self.store.has_leads(self.encoder.leads))

    @property
    def pieces(self) -> Path:
        """Return the folder of what has been computed."""
        return self.output.with_name(f"{self.output.name}.pieces")

    def write(self, made_by: dict) -> None:
        """Compute what is missing and write the output; all processes take part.

        Args:
            made_by: what a later command must share with this one to go on with its pieces.

        Raises:
            ConfigError: the pieces are of other weights or another store.
        """
        rows = self.rows
        left_out = len(self.store) - len(rows)
        if left_out:
            leads = " ".join(self.encoder.leads)
            note(f"records that lack one of the leads {leads}, left out: {left_out}")
        if not len(rows):
            raise ConfigError(f"no record of {self.store.path} has the leads of the encoder")
        collectives.on_main(lambda: self._begin(made_by))
        parts = [rows[first : first + PIECE] for first in range(0, len(rows), PIECE)]
        bar = tqdm(
            total=len(rows), unit="record", desc="embedding", disable=not collectives.is_main()
        )
        for number, part in enumerate(parts):
            path = self.pieces / f"{number:06d}.npy"
            if not collectives.on_main(path.is_file):
                collectives.on_main(partial(_write_array, path, self.compute(part)))
            bar.update(len(part))
        bar.close()
        collectives.on_main(lambda: self._join(len(parts), rows))

    def _begin(self, made_by: dict) -> None:
        """Make the folder of pieces, or see that it is of the same job."""
        about = self.pieces / "about.json"
        if about.is_file() and json.loads(about.read_text("utf-8")) != made_by:
            raise ConfigError(
                f"{self.pieces} holds embeddings by other weights or of another store; remove it, "
                "or choose another --output"
            )
        self.pieces.mkdir(parents=True, exist_ok=True)
        write_json(about, made_by)

    def compute(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 (records, ...) of these rows, on every process."""
        encoder, cropping = self.encoder, self.encoder.cropping
        if self.tokens:
            cropping = Cropping("center", cropping.length)
        device = next(encoder.network.parameters()).device
        shape = self._vectors(torch.zeros(1, len(encoder.leads), cropping.length, device=device))
        loader = record_loader(
            CropDataset(self.store, encoder.leads, cropping.length),
            rows,
            cropping,
            self.batch_size,
        )
        means = record_means(
            encoder.network,
            loader,
            encoder.pipeline,
            rows,
            device,
            vectors=lambda crops: self._vectors(crops).flatten(1),
            width=shape[0].numel(),
        )
        return means.reshape(len(rows), *shape.shape[1:]).astype(np.float32)

    @torch.no_grad()
    def _vectors(self, crops: torch.Tensor) -> torch.Tensor:
        """(crops, width), or with ``tokens`` (crops, tokens, width)."""
        if self.tokens:
            return self.encoder.network.tokens(crops).float()
        return self.encoder.vectors(crops)

    def _join(self, count: int, rows: np.ndarray) -> None:
        """Write the output from the pieces, a piece at a time, and remove them."""
        records = self.store.records[["record", "database"]].iloc[rows].reset_index(drop=True)
        paths = [self.pieces / f"{number:06d}.npy" for number in range(count)]
        shape = (len(rows), *np.load(paths[0], mmap_mode="r").shape[1:])
        if self.output.suffix == ".npy":
            write_frame(self.output.with_suffix(".records.csv"), records)
            with replacing(self.output) as file:
                np.lib.format.write_array_header_2_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": shape}
                )
                for path in paths:
                    file.write(np.load(path).tobytes())
        elif self.output.suffix == ".csv":
            self._write_csv(records, paths)
        else:
            self._write_parquet(records, paths)
        for path in (*paths, self.pieces / "about.json"):
            path.unlink()
        self.pieces.rmdir()
        note(f"{self.output}: {' x '.join(map(str, shape))}")

    def _tables(self, records: pd.DataFrame, paths: list[Path]) -> Iterator[pd.DataFrame]:
        """Names and features of each piece."""
        for number, path in enumerate(paths):
            values = np.load(path)
            first = number * PIECE
            names = [f"f{column}" for column in range(values.shape[1])]
            table = pd.DataFrame(values, columns=names)
            about = records.iloc[first : first + len(values)].reset_index(drop=True)
            yield pd.concat([about, table], axis=1)

    def _write_csv(self, records: pd.DataFrame, paths: list[Path]) -> None:
        with replacing(self.output) as file:
            for number, table in enumerate(self._tables(records, paths)):
                table.to_csv(file, index=False, header=number == 0, float_format="%.9g")

    def _write_parquet(self, records: pd.DataFrame, paths: list[Path]) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = (
            pyarrow.Table.from_pandas(table, preserve_index=False)
            for table in self._tables(records, paths)
        )
        first = next(rows)
        with replacing(self.output) as file:
            with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
                for table in itertools.chain([first], rows):
                    writer.write_table(table)


def _write_array(path: Path, values: np.ndarray) -> None:
    with replacing(path) as file:
        np.save(file, values)
