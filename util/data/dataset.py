"""Crops of a RecordStore: which windows, in which order.

The loader's workers only copy int16 samples out of the memmap.  Everything random is decided
beforehand from the samples' keys (util/keyed_random.py), so the numbers of workers and processes
change nothing.
"""

import contextlib
import functools
import zlib

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_convert

from util.errors import ConfigError
from util.keyed_random import KeyedRandom, sample_keys
from util.leads import LEADS, lead_index
from util.processes.stopping import ignore_signals
from util.signals.crops import Cropping

CROP_STREAM = 1  # streams of KeyedRandom: the crop's place, and what the device draws
DEVICE_STREAM = 2
MAX_STATISTICS = 20_000


# ============ which windows of a record ============


# ============ reading ============
class CropDataset(Dataset):
    """Batches of crops of a RecordStore, indexed by a list of (row of the store, first sample,
    key).

    A batch: "counts" int16 (batch, length, leads), "scale" float32 (batch,) mV a count, "key" and
    "record" int64 (batch,), and "label".  Raw counts travel from worker to device at half the
    size of float32.

    Args:
        leads: names, in the order wanted.
        length: samples a crop.  A shorter record is padded at its end with each lead's mean.
        labels: from ``make_labels``, of all records of the store, or None.

    A crop of a record that lacks one of the leads is a ConfigError: what stands in its place is
    no signal.
    """

    def __init__(self, store, leads, length, labels=None):
        self.store, self.length, self.labels = store, length, labels
        self.columns = slice(None) if tuple(leads) == LEADS else lead_index(leads)
        self.channels = len(leads)
        self.samples = store.records["length"].to_numpy()
        self.scale = store.records["scale"].to_numpy(np.float32)
        self.complete = store.has_leads(leads)
        self.leads = tuple(leads)

    def __len__(self):
        return len(self.store)

    @functools.cached_property
    def checksums(self) -> list[str]:
        """Of the table of records and of the labels, "" without any: what a resumed run must find
        unchanged.
        """
        labels = (
            "" if self.labels is None else f"{zlib.crc32(np.ascontiguousarray(self.labels)):08x}"
        )
        return [self.store.meta["records_crc32"], labels]

    def __getitems__(self, items):
        rows = np.array([row for row, _, _ in items])
        if not self.complete[rows].all():
            row = rows[~self.complete[rows]][0]
            raise ConfigError(
                f"dataset.lead: record {row} of the store lacks one of {', '.join(self.leads)}; "
                "leave it out or choose leads that it has"
            )
        counts = np.empty((len(items), self.length, self.channels), np.int16)
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


def to_device(batch: dict, device, stream=None) -> dict:
    """Move a batch and make "signal" float32 (batch, leads, time) in mV and "random" from it.

    On a GPU a ``stream`` (torch.cuda.Stream) copies from pinned memory beside the step before,
    which the host has queued but the device not done; what is queued after this call waits for
    the copies.
    """
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    if stream:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for value in batch.values():
            value.record_stream(current)  # its memory is not given away before that use
    counts = (
        batch.pop("counts").transpose(1, 2).contiguous()
    )  # half the memory of a float32's transposition
    batch["signal"] = counts.float().mul_(batch.pop("scale")[:, None, None])
    batch["random"] = KeyedRandom(batch["key"], DEVICE_STREAM)
    return batch


# ============ order ============
class TrainingBatches:
    """Batch sampler of one process: every epoch a new order of the records, each with ``crops``
    random crops.

    All processes compute the same order; of every global batch of batch_size * world records,
    process r takes the r-th part.  The last records, if they do not fill a step (``accumulate``
    global batches), are left out.

    Args:
        rows: rows of the store to visit; samples: their lengths; length: samples a crop.
        steps: at most so many an epoch.  Fewer records than one step needs are a ConfigError.
    """

    def __init__(
        self,
        rows,
        samples,
        length,
        *,
        batch_size,
        accumulate=1,
        crops=1,
        seed=0,
        rank=0,
        world=1,
        steps=None,
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

    def set_epoch(self, epoch: int, first_step: int = 0, offset: int = 0):
        """Choose the epoch and, to resume, the step to begin with; the ``offset`` records before
        step 0, fewer than a step, were seen in steps of another size.
        """
        self.epoch, self.first_step, self.offset = epoch, first_step, offset
        steps = (len(self.rows) - offset) // self.per_step
        self.steps = steps if self.most_steps is None else min(steps, self.most_steps)

    def __len__(self):
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.rows))
        for batch in range(self.first_step * self.accumulate, self.steps * self.accumulate):
            begin = self.offset + (batch * self.world + self.rank) * self.batch_size
            yield self.items(np.repeat(order[begin : begin + self.batch_size], self.crops))

    def items(self, places):
        """(row, start, key) of a random crop for each place in ``rows``; a record's crop n is its
        visit n.
        """
        rows = self.rows[places]
        keys = sample_keys(self.seed, self.epoch, rows, np.arange(len(rows)) % self.crops)
        spare = torch.from_numpy(np.maximum(self.samples[places] - self.length, 0))
        starts = KeyedRandom(torch.from_numpy(keys), CROP_STREAM).integers(spare[:, None] + 1, 1)[
            :, 0
        ]
        return list(zip(rows.tolist(), starts.tolist(), keys.tolist()))


class EvaluationBatches:
    """Batch sampler of fixed crops: every window of every record once over all processes.

    Batches are made up alike whatever the number of processes, and dealt out in turn, so that 1
    or 8 processes compute the same numbers.
    """

    def __init__(self, rows, samples, cropping, *, batch_size, rank=0, world=1):
        self.items = [
            (int(row), int(start), int(row))
            for row, n in zip(rows, samples)
            for start in cropping.starts(int(n))
        ]
        self.batches = range(rank, -(-len(self.items) // batch_size), world)
        self.batch_size = batch_size

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            yield self.items[batch * self.batch_size : (batch + 1) * self.batch_size]


def make_loader(dataset, batches, *, num_workers=0, pin_memory=False) -> DataLoader:
    """A DataLoader whose workers return whole batches and live as long as it does."""
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
        worker_init_fn=ignore_signals,
    )


def evenly(rows, most: int) -> np.ndarray:
    """At most this many of the rows, spread evenly: the first rows of a store are all of one
    database.
    """
    return np.asarray(rows)[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]


def crops_for_statistics(dataset, rows, length, batch_size, device, pipeline):
    """Centre crops of up to MAX_STATISTICS records after the pipeline: the same on every
    process.
    """
    rows = evenly(rows, MAX_STATISTICS)
    batches = EvaluationBatches(
        rows, dataset.samples[rows], Cropping("center", length), batch_size=batch_size
    )
    for batch in make_loader(dataset, batches):
        yield pipeline(to_device(batch, device)["signal"])
