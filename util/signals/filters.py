"""Zero-phase filters of whole crops as one exact linear map."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.signal
import torch
import torch.nn as nn
import torch.nn.functional as F

from util.errors import ConfigError
from util.keyed_random import KeyedRandom

# of leads that a CPU filters at a time: fewer pay more for calls, more leave its cache
ROWS = 192

# kind "highpass" | "lowpass", cutoff in Hz, fs in Hz, order
Filter = tuple[str, float, float, int]


class FilterParts(NamedTuple):
    """The linear map of filters on crops of ``length`` samples, as FFT plus low rank, in float64.

    The map is M = C(H) + U V^T, C(H) the circular convolution of the zero-padded crop.

    Attributes:
        padded: length of the padded crop, n.
        response: H, (n//2 + 1,).
        v, u: (length, rank).
        passes: whether the filters pass constants; else they remove them.
        ramps: M times ``_ramps``, less these themselves where M passes constants.
    """

    padded: int
    response: torch.Tensor
    v: torch.Tensor
    u: torch.Tensor
    passes: bool
    ramps: torch.Tensor


def _fast_length(length: int) -> int:
    """The next length of which FFTs are fast: a power of two, or 3, 5 or 9 times one."""
    return min(odd << max(0, (length - 1) // odd).bit_length() for odd in (1, 3, 5, 9))


@functools.lru_cache(maxsize=16)
def _crop_filter_parts(length: int, filters: tuple[Filter, ...]) -> FilterParts:
    """The exact linear map of zero-phase ``filters`` on crops of ``length`` samples.

    The map M (sosfiltfilt of the identity, one filter after the other) differs from the circular
    convolution of the zero-padded crop, with response H = product of |response|^2, only near the
    ends, by a matrix of rank about 20.

    Raises:
        ConfigError: the rank is large, because the crop is short for the filters.
    """
    map_, padded = np.eye(length), _fast_length(length)
    frequency = np.fft.rfftfreq(padded) * 2 * np.pi
    response = np.ones_like(frequency)
    for kind, cutoff, fs, order in filters:
        sos = scipy.signal.butter(order, cutoff, kind, fs=fs, output="sos")
        map_ = scipy.signal.sosfiltfilt(sos, map_, axis=0)
        response *= np.abs(scipy.signal.sosfreqz(sos, frequency)[1]) ** 2
    rest = map_ - scipy.linalg.toeplitz(np.fft.irfft(response, padded)[:length])
    # svd_lowrank draws: leave the caller's random state alone
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        u, s, v = torch.svd_lowrank(torch.from_numpy(rest), q=min(96, length), niter=6)
    rank = int((s > 1e-8).sum())
    if rank == len(s) < length:
        raise ConfigError(
            f"the filters {filters} need more than {rank} corrections on crops of {length} "
            "samples; use longer crops or a higher cut-off"
        )
    passes, ramps = bool(map_[0].sum() > 0.5), _ramps(length)
    return FilterParts(
        padded=padded,
        response=torch.from_numpy(response),
        v=v[:, :rank],
        u=u[:, :rank] * s[:rank],
        passes=passes,
        ramps=torch.from_numpy(map_ @ ramps - passes * ramps),
    )


def _ramps(length: int) -> np.ndarray:
    """What a baseline is a sum of, beside its first knot: (length, lines), from 0 at one knot to
    1 at the next.
    """
    knots = np.arange(0, length, _spacing(length))
    return np.clip((np.arange(length)[:, None] - knots) / _spacing(length), 0, 1)


class CropFilter(nn.Module):
    """Zero-phase Butterworth filters on a crop, equal to scipy.signal.sosfiltfilt one after the
    other.

    A baseline that lies or drifts many times higher than what is left of the signal would cost
    float32 its digits: a chain of lines, whose filtered form is known, is first taken from each
    lead (see ``_baseline``).

    Args:
        length: samples a crop.
        filters: (kind "highpass" | "lowpass", cutoff in Hz, fs in Hz, order), applied in this
            order.
    """

    response: torch.Tensor
    v: torch.Tensor
    u: torch.Tensor

    def __init__(self, length: int, filters: Sequence[Filter]) -> None:
        super().__init__()
        shortest = 3 * (1 + max(order for *_, order in filters))  # sosfiltfilt's padding
        if length <= shortest:
            raise ConfigError(
                f"crops of {length} samples are too short for the filters; take more than "
                f"{shortest}"
            )
        for kind, cutoff, fs, _ in filters:
            if not 0 < cutoff < fs / 2:
                raise ConfigError(
                    f"{kind}_filter: the cut-off {cutoff} Hz must lie between 0 and fs / 2 = "
                    f"{fs / 2} Hz"
                )
        parts = _crop_filter_parts(length, tuple(filters))
        self.length, self.padded, self.passes = length, parts.padded, parts.passes
        self.filters = tuple(filters)
        buffers = {
            "response": parts.response[:, None].expand(-1, 2),
            "v": parts.v,
            "u": torch.cat([parts.u, parts.ramps], dim=1).mT,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)

    def forward(self, x: torch.Tensor, random: KeyedRandom | None = None) -> torch.Tensor:
        """Return x (..., length), filtered."""
        if x.shape[-1] != self.length:
            raise ValueError(f"the filter was made for {self.length} samples, not {x.shape[-1]}")
        rows = x.reshape(-1, self.length).float()
        out = torch.empty_like(rows)
        together = ROWS if x.device.type == "cpu" else max(len(rows), 1)
        with _exact_products():
            for part, place in zip(rows.split(together), out.split(together)):
                self._filter(part, place)
        return out.view(x.shape).to(x.dtype)

    def matrix(self) -> torch.Tensor:
        """Return the map from a crop to the filtered one, float64 (length, length)."""
        map_ = np.eye(self.length)
        for kind, cutoff, fs, order in self.filters:
            sos = scipy.signal.butter(order, cutoff, kind, fs=fs, output="sos")
            map_ = scipy.signal.sosfiltfilt(sos, map_, axis=0)
        return torch.from_numpy(map_.copy())

    def _filter(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Filter ``rows`` (rows, length) into ``out``."""
        steps, baseline = _baseline(rows, self.padded)
        # In place: fresh memory takes as long as an FFT, and so does rfft's own padding.
        padded = torch.empty_like(baseline) if self.passes else baseline
        rest = torch.sub(rows, baseline[:, : self.length], out=padded[:, : self.length])
        padded[:, self.length :] = 0
        spectrum = torch.fft.rfft(padded)
        torch.view_as_real(spectrum).mul_(self.response)
        circular = torch.fft.irfft(spectrum, self.padded)[:, : self.length]
        torch.addmm(circular, torch.cat([rest @ self.v, steps], dim=1), self.u, out=out)
        if self.passes:
            out.add_(baseline[:, : self.length])


def _spacing(length: int) -> int:
    """Samples between the knots of ``_baseline``: a power of two, for 8 to 16 lines a crop."""
    return 1 << max(0, (length // 8).bit_length() - 1)


def _baseline(x: torch.Tensor, padded: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A wandering baseline of float32 x (rows, n), a chain of lines: its steps from knot to knot
    (rows, lines), and itself (rows, padded), 0 on the lines behind n.

    No rounding is in it, so that x less it is rounded like a small number, however high the
    baseline: knots are whole numbers of a unit that makes every value on the lines one of less
    than 2**24 steps.  A constant row is its own baseline.
    """
    spacing = _spacing(x.shape[1])
    knots = torch.cat([x[:, ::spacing], x[:, -1:]], dim=1)
    highest = knots.abs().amax(1, keepdim=True).clamp(min=1e-30)
    # a power of two: division is exact
    unit = highest / highest.frexp().mantissa * (spacing * 2.0**-23)
    flat = (knots == knots[:, :1]).all(1, keepdim=True)
    knots = torch.where(flat, knots, (knots / unit).round() * unit)
    steps = knots.diff(dim=1)
    # lengths of fast FFTs are multiples of the spacing
    behind = padded // spacing - steps.shape[1]
    ends = torch.stack([F.pad(knots[:, :-1], (0, behind)), F.pad(steps, (0, behind))], dim=2)
    part = torch.arange(spacing, device=x.device, dtype=x.dtype) / spacing
    # exact, as the sums of two are
    lines = ends.view(-1, 2) @ torch.stack([torch.ones_like(part), part])
    return steps, lines.view(len(x), padded)


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products in full float32, whatever ``train.matmul_precision`` says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
