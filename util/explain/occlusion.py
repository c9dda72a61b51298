"""Occlusion: how a network's answer changes where it cannot see a stretch of the recording.

A stretch of a lead is replaced by the straight line between its neighbours, which no filter and
no convolution takes for a wave; a lead throughout, by its mean.  (Zeiler and Fergus, Visualizing
and understanding convolutional networks, ECCV 2014, with a line in place of their grey square.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

BATCH = 64  # crops computed at a time
# crops (n, leads, time), and which of the record's crops each is (n,) -> one number each (n,)
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SeenCrops:
    """The crops of one record as the network sees them, after filters and standardisation.

    Attributes:
        crops: (crops, leads, time).
        starts: (crops,), the first sample of each in the record.
        samples: of the record; what a crop has beyond is padding.
    """

    crops: torch.Tensor
    starts: torch.Tensor
    samples: int

    def to_record(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of values (crops, leads, time) where they lie in the record, (leads,
        samples).
        """
        count, leads, length = values.shape
        places = (self.starts[:, None] + torch.arange(length, device=values.device)).flatten()
        total = values.new_zeros(leads, max(self.samples, int(places.max()) + 1))
        total.index_add_(1, places, values.transpose(0, 1).flatten(1))
        return total[:, : self.samples]

    @property
    def seen(self) -> torch.Tensor:
        """Return in how many crops each sample of the record is, (samples,)."""
        return self.to_record(torch.ones_like(self.crops[:, :1]))[0]


@dataclass(frozen=True)
class Stretches:
    """What is hidden, in one way after another.

    Attributes:
        first, last: int64 (n,), samples of the record; ``last`` is not hidden any more.
        leads: bool (n, leads), where.
    """

    first: torch.Tensor
    last: torch.Tensor
    leads: torch.Tensor


@dataclass(frozen=True)
class Occlusion:
    """How much the score falls where something is hidden; negative where it rises.

    Attributes:
        windows: (leads, windows), a window of one lead.
        times: (windows,), a window of all leads.
        leads: (leads,), a whole lead.
        everything: all leads throughout.
        edges: int64 (windows + 1,), samples at which windows begin and end.
    """

    windows: torch.Tensor
    times: torch.Tensor
    leads: torch.Tensor
    everything: float
    edges: torch.Tensor

    @property
    def trace(self) -> torch.Tensor:
        """Return ``windows`` for every sample, (leads, samples)."""
        return self.windows.repeat_interleave(self.edges.diff(), dim=1)

    @property
    def profile(self) -> torch.Tensor:
        """Return ``times`` for every sample, (samples,)."""
        return self.times.repeat_interleave(self.edges.diff())


def occlude(record: SeenCrops, score: Score, window: int, batch: int = BATCH) -> Occlusion:
    """Hide each window of each lead, each window of all leads, and each lead.

    Args:
        record: its crops.
        score: of crops.
        window: samples of a window.
        batch: crops computed at a time.
    """
    leads, device = record.crops.shape[1], record.crops.device
    edges = torch.arange(0, record.samples + window, window, device=device)
    edges = edges.clamp(max=record.samples)
    count = len(edges) - 1
    everywhere = torch.tensor([record.samples + record.crops.shape[2]], device=device)
    beginnings, ends = edges[:-1], edges[1:]
    eye = torch.eye(leads, dtype=torch.bool, device=device)
    all_leads = eye.any(dim=0, keepdim=True)
    stretches = Stretches(
        torch.cat([beginnings.repeat(leads + 1), torch.zeros_like(everywhere).repeat(leads + 1)]),
        torch.cat([ends.repeat(leads + 1), everywhere.repeat(leads + 1)]),
        torch.cat(
            [
                eye.repeat_interleave(count, dim=0),
                all_leads.repeat(count, 1),
                eye,
                all_leads,
            ]
        ),
    )
    falls = falls_without(record, score, stretches, batch)
    windows, times, whole = falls.split([leads * count, count, leads + 1])
    return Occlusion(
        windows.unflatten(0, (leads, count)), times, whole[:-1], whole[-1].item(), edges
    )


@torch.no_grad()
def falls_without(
    record: SeenCrops, score: Score, stretches: Stretches, batch: int = BATCH
) -> torch.Tensor:
    """Return how much the mean score of the crops falls without each stretch, (n,)."""
    crops, starts = record.crops, record.starts
    length, number = crops.shape[2], torch.arange(len(crops), device=crops.device)
    whole = torch.cat([score(crops[part], part) for part in number.split(batch)])
    first = (stretches.first[:, None] - starts).clamp(0, length)
    last = (stretches.last[:, None] - starts).clamp(0, length)
    values = whole.repeat(len(first), 1)
    for pairs in (last > first).nonzero().split(batch):  # a stretch, and a crop that it touches
        way, crop = pairs.unbind(1)
        hidden = without(crops[crop], first[way, crop], last[way, crop], stretches.leads[way])
        values[way, crop] = score(hidden, crop)
    return (whole - values).mean(dim=1)


def without(
    crops: torch.Tensor, first: torch.Tensor, last: torch.Tensor, leads: torch.Tensor
) -> torch.Tensor:
    """Return crops with a stretch of each replaced by a straight line.

    Args:
        crops: (n, leads, time).
        first, last: (n,), samples first to last - 1 are replaced.
        leads: bool (n, leads), in these.
    """
    length = crops.shape[2]

    def sample(place: torch.Tensor) -> torch.Tensor:
        index = place.clamp(0, length - 1)[:, None, None].expand(-1, crops.shape[1], 1)
        return crops.gather(2, index)

    before, after = sample(first - 1), sample(last)
    from_start, to_end = (first <= 0)[:, None, None], (last >= length)[:, None, None]
    mean = crops.mean(dim=2, keepdim=True)
    left = torch.where(from_start, torch.where(to_end, mean, after), before)
    right = torch.where(to_end, torch.where(from_start, mean, before), after)
    time, first, last = torch.arange(length, device=crops.device), first[:, None], last[:, None]
    share = (time - first + 1) / (last - first + 1)
    line = left + share[:, None] * (right - left)
    inside = (time >= first) & (time < last)
    return torch.where(inside[:, None] & leads[:, :, None], line, crops)
