"""Crops of a RecordStore: which windows, in which order.

The loader's workers only copy int16 samples out of the memmap.  Everything random is decided
beforehand from the samples' keys (util/keyed_random.py), so the numbers of workers and processes
change nothing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_convert

from util.data.store import RecordStore, checksum
from util.errors import ConfigError
from util.keyed_random import KeyedRandom, sample_keys
from util.leads import LEADS, lead_index
from util.processes.stopping import prepare_worker
from util.signals.crops import Cropping

CROP_STREAM = 1  # streams of KeyedRandom: the crop's place, and what the device draws
DEVICE_STREAM = 2
MAX_STATISTICS = 20_000


Item = tuple[int, int, int]  # a crop: row of the store, first sample, key


# ============ reading ============
class CropDataset(Dataset):
    """Batches of crops of a RecordStore, indexed by lists of ``Item``.

    A batch: "counts" int16 (batch, length, leads), "scale" float32 (batch,) mV a count, "key" and
    "record" int64 (batch,), and "label".  Raw counts travel from worker to device at half the
    size of float32.

    Args:
        store: the records.
        leads: names, in the order wanted.
        length: samples a crop.  A shorter record is padded at its end with each lead's mean.
        labels: of ``util.labels.tables.Labels``, of all records of the store, or None.

    Raises:
        ConfigError: while reading, if a record lacks one of the leads.
    """

    def __init__(
        self,
        store: RecordStore,
        leads: Sequence[str],
        length: int,
        labels: np.ndarray | None = None,
    ):
        self.store, self.length, self.labels = store, length, labels
        # All twelve as a slice, which copies nothing
        self.columns = slice(None) if tuple(leads) == LEADS else lead_index(leads)
        self.samples = store.records["length"].to_numpy()
        self.scale = store.records["scale"].to_numpy(np.float32)
        self.complete = store.has_leads(leads)
        self.leads = tuple(leads)

    def __len__(self) -> int:
        return len(self.store)

    @functools.cached_property
    def checksums(self) -> list[str]:
        """Return what a resumed run must find unchanged: the checksums of the table of records and
        of the labels, "" without any.
        """
        labels = "" if self.labels is None else checksum(self.labels.tobytes())
        return [self.store.meta["records_crc32"], labels]

    def __getitems__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        rows = np.array([row for row, _, _ in items])
        if not self.complete[rows].all():
            row = rows[~self.complete[rows]][0]
            raise ConfigError(
                f"dataset.lead: record {row} of the store lacks one of {', '.join(self.leads)}; "
                "leave it out or choose leads that it has"
            )
        counts = np.empty((len(items), self.length, len(self.leads)), np.int16)
        for place, (row, start, _) in enumerate(items):
            samples = min(self.length, self.samples[row] - start)
            crop = self.store.counts(row, start, samples)[:, self.columns]
            counts[place, :samples] = crop
            if samples < self.length:
                counts[place, samples:] = crop.mean(axis=0).round()
        batch = {
            "counts": torch.from_numpy(counts),
            "scale": torch.from_numpy(self.scale[rows]),
            "key": torch.tensor([key for _, _, key in items], dtype=torch.int64),
            "record": torch.from_numpy(rows),
        }
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[rows])
        return batch


def to_device(
    batch: dict[str, Any], device: torch.device, stream: torch.cuda.Stream | None = None
) -> dict[str, Any]:
    """Move a batch and make "signal" float32 (batch, leads, time) in mV and "random" from it.

    Args:
        batch: of a ``CropDataset``.
        device: where it goes.
        stream: on a GPU, copies from pinned memory beside the step before, which the host has
            queued but the device not done; what is queued after this call waits for the copies.
    """
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    if stream:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for value in batch.values():
            value.record_stream(current)  # its memory is not given away before that use
    # Transposed as int16: half the memory traffic of float32
    counts = batch.pop("counts").transpose(1, 2).contiguous()
    batch["signal"] = counts.float().mul_(batch.pop("scale")[:, None, None])
    batch["random"] = KeyedRandom(batch["key"], DEVICE_STREAM)
    return batch


# ============ order ============
class TrainingBatches:
    """Batch sampler of one process: a new order of the records every epoch, with random crops.

    All processes compute the same order; of every global batch of batch_size * world records,
    process r takes the r-th part.  The last records, if they do not fill a step (``accumulate``
    global batches), are left out.

    Args:
        rows: of the store, to visit.
        samples: their lengths.
        length: samples a crop.
        batch_size: records per process and forward pass.
        accumulate: forward passes per step.
        crops: of a record each time it is visited.
        seed: of the orders and of the crops.
        rank: number of this process.
        world: number of processes.
        steps: end an epoch after this many.

    Raises:
        ConfigError: one step needs more records than there are.
    """

    def __init__(
        self,
        rows: np.ndarray,
        samples: np.ndarray,
        length: int,
        *,
        batch_size: int,
        accumulate: int = 1,
        crops: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        steps: int | None = None,
    ):
        self.rows, self.samples, self.length = np.asarray(rows), np.asarray(samples), length
        self.batch_size, self.accumulate, self.crops = batch_size, accumulate, crops
        self.seed, self.rank, self.world = seed, rank, world
        self.per_step = batch_size * accumulate * world  # records a step, over all processes
        self.most_steps = steps
        self.set_epoch(0)
        if not self.steps:
            raise ConfigError(
                f"{len(self.rows)} training records are fewer than one step's batch of "
                f"{self.per_step} (dataloader.batch_size {batch_size} x train.accum_iter "
                f"{accumulate} x {world} processes); make the batch smaller"
            )

    def set_epoch(self, epoch: int, first_step: int = 0, offset: int = 0) -> None:
        """Choose the epoch and, to resume, the step to begin with.

        Args:
            epoch: its number.
            first_step: steps of it that are done.
            offset: records before step 0, fewer than a step, that were seen in steps of another
                size.
        """
        self.epoch, self.first_step, self.offset = epoch, first_step, offset
        steps = (len(self.rows) - offset) // self.per_step
        self.steps = steps if self.most_steps is None else min(steps, self.most_steps)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Item]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.rows))
        for batch in range(self.first_step * self.accumulate, self.steps * self.accumulate):
            begin = self.offset + (batch * self.world + self.rank) * self.batch_size
            yield self.items(np.repeat(order[begin : begin + self.batch_size], self.crops))

    def items(self, places: np.ndarray) -> list[Item]:
        """Return a random crop for each place in ``rows``; a record's crop n is its visit n."""
        rows = self.rows[places]
        keys = sample_keys(self.seed, self.epoch, rows, np.arange(len(rows)) % self.crops)
        spare = torch.from_numpy(np.maximum(self.samples[places] - self.length, 0))
        random = KeyedRandom(torch.from_numpy(keys), CROP_STREAM)
        starts = random.integers(spare[:, None] + 1, 1)[:, 0]
        return list(zip(rows.tolist(), starts.tolist(), keys.tolist()))


class EvaluationBatches:
    """Batch sampler of fixed crops: every window of every record once over all processes.

    Batches are made up alike whatever the number of processes, and dealt out in turn, so that 1
    or 8 processes compute the same numbers.

    Args:
        rows: of the store, to visit.
        samples: their lengths.
        cropping: which windows of each.
        batch_size: crops a batch.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self,
        rows: np.ndarray,
        samples: np.ndarray,
        cropping: Cropping,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.items: list[Item] = [
            (int(row), int(start), int(row))
            for row, n in zip(rows, samples)
            for start in cropping.starts(int(n))
        ]
        self.batches = range(rank, -(-len(self.items) // batch_size), world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        for batch in self.batches:
            yield self.items[batch * self.batch_size : (batch + 1) * self.batch_size]


def make_loader(
    dataset: CropDataset,
    batches: Iterable[list[Item]],
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """Return a DataLoader whose workers return whole batches and live as long as it does."""
    # A generator of its own: the loader would otherwise draw from torch's global one at every
    # epoch.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=default_convert,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        pin_memory=pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=prepare_worker,
    )


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most this many of the rows, spread evenly: the first rows of a store are all of
    one database.
    """
    return np.asarray(rows)[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]


def crops_for_statistics(
    dataset: CropDataset,
    rows: np.ndarray,
    length: int,
    batch_size: int,
    device: torch.device,
    pipeline: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[torch.Tensor]:
    """Yield centre crops of up to MAX_STATISTICS records after the pipeline, the same on every
    process.
    """
    rows = evenly(rows, MAX_STATISTICS)
    batches = EvaluationBatches(
        rows, dataset.samples[rows], Cropping("center", length), batch_size=batch_size
    )
    for batch in make_loader(dataset, batches):
        yield pipeline(to_device(batch, device)["signal"])
