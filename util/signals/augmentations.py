"""Augmentations: functions ``f(signal, random, **arguments) -> signal``, vectorised over samples
and leads.

``signal`` is (batch, leads, time), after ``spectrogram`` a magnitude (batch, leads, frequencies,
frames); ``random`` is the samples' ``KeyedRandom``.  None of them changes its input.  Each can be
an operation of RandAugment, a step of a view, or a step of ``dataset.transforms``.  Amplitudes
are in the unit of the signal at that place: mV, or standard deviations after ``standardize``.

To add one, write a function here and decorate it with ``@augmentation()``.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.named_arguments import COUNT, FLAG, NUMBER, SHARES, SIZES, arguments_of, parse_named
from util.signals.spectrogram import Spectrogram

Fill = (
    float | Tensor
)  # what stands where a spectrogram is hidden: a number, or one a lead, (leads,)

# What RandAugment's level makes of an argument: windows of up to 0.3 level/10 of the crop, as
# many standard deviations of noise, and waves of level/5 cycles a crop.
LEVELS: dict[str, Callable[[float], Any]] = {
    "ratio": lambda level: [0, 0.3 * level / 10],
    "sigma": lambda level: 0.3 * level / 10,
    "amplitude": lambda level: 0.3 * level / 10,
    "cycles": lambda level: 0.2 * level,
}


@dataclass(frozen=True)
class Augmentation:
    """An entry of ``AUGMENTATIONS``.

    Attributes:
        function: (x, random, **arguments) -> x; those of a config are annotated with a ``Kind``.
        draws: takes random numbers, and so has no place in an evaluation.
        takes: "signal", "spectrogram", or "any" for one that takes both and gives what it got.
        gives: as ``takes``.
        levels: {argument: level of RandAugment -> value}.
    """

    function: Callable[..., Tensor]
    draws: bool = True
    takes: str = "signal"
    gives: str = "signal"
    levels: dict[str, Callable[[float], Any]] = field(default_factory=lambda: LEVELS)

    def __call__(self, x: Tensor, random: KeyedRandom | None, **arguments: Any) -> Tensor:
        return self.function(x, random, **arguments)

    def at_level(self, level: float) -> dict[str, Any] | None:
        """Return its arguments at a level of RandAugment.

        None where one has no level, or it is for spectrograms.
        """
        needed = [name for name, p in arguments_of(self.function).items() if p.default is p.empty]
        if "spectrogram" in (self.takes, self.gives) or not set(needed) <= set(self.levels):
            return None
        return {name: self.levels[name](level) for name in needed}

    @property
    def fills(self) -> bool:
        """Return whether it takes ``fill``, see ``Fill``."""
        return "fill" in inspect.signature(self.function).parameters


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(
    *names: str,
    draws: bool = True,
    takes: str = "signal",
    gives: str | None = None,
    levels: dict[str, Callable[[float], Any]] = LEVELS,
    **preset: Any,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function by these names, as a decorator.

    Args:
        names: by default the function's name.
        draws, takes, gives, levels: see ``Augmentation``; ``gives`` is by default what it takes.
        preset: other defaults of the function's arguments.

    Raises:
        ValueError: a name is registered already.
    """

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        made = Augmentation(
            functools.partial(function, **preset) if preset else function,
            draws,
            takes,
            gives or takes,
            levels,
        )
        for name in names or [function.__name__]:
            if AUGMENTATIONS.get(name):
                raise ValueError(
                    f"{name} is registered already: an augmentation has its name alone"
                )
            AUGMENTATIONS[name] = made
        return function

    return add


def parse_augmentations(items: list, where: str) -> list[tuple[Augmentation, dict[str, Any]]]:
    """Read a list from a config, beginning with a signal, as (augmentation, arguments).

    Raises:
        ConfigError: unknown names or arguments, bad values, or a signal where a spectrogram is
            needed.
    """
    functions = {name: entry.function for name, entry in AUGMENTATIONS.items()}
    steps, kind = [], "signal"
    for item in items:
        name, arguments = parse_named(item, functions, where)
        step = AUGMENTATIONS[name]
        if step.takes not in ("any", kind):
            raise ConfigError(
                f"{where}: {name} works on a {step.takes}, not on a {kind}; put "
                + ("spectrogram before it" if kind == "signal" else "it before spectrogram")
            )
        kind = kind if step.gives == "any" else step.gives
        steps.append((step, arguments))
    return steps


# ============ draws and places that several share ============
def _uniform(random: KeyedRandom, bounds: Sequence[float], *shape: int) -> Tensor:
    """Uniform draws (batch, *shape) between the two bounds."""
    low, high = bounds
    return low + (high - low) * random.uniform(*shape)


def _between(random: KeyedRandom, size: float | Sequence[float], *shape: int) -> float | Tensor:
    """The number itself, which draws nothing, or uniform draws (batch, *shape) between bounds."""
    return _uniform(random, size, *shape) if isinstance(size, Sequence) else size


def _longest(x: Tensor, ratio: Sequence[float]) -> int:
    """Samples of x that a share within the bounds ``ratio`` never exceeds; at least 1."""
    return max(1, math.ceil(x.shape[-1] * max(ratio)))


def _time(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device)


def _by_lead(fill: Fill, x: Tensor) -> Fill:
    """``fill`` as something that broadcasts over x."""
    return fill.to(x).view(-1, *[1] * (x.ndim - 2)) if isinstance(fill, Tensor) else fill


def _hide(x: Tensor, where: Tensor, fill: Fill = 0.0) -> Tensor:
    """x with ``fill`` where ``where`` is True."""
    return torch.where(where, _by_lead(fill, x), x)


def _content(x: Tensor, fill: Fill) -> tuple[int | Tensor, int | Tensor]:
    """First sample and number of samples that are not padding, which a signal has none of; of a
    spectrogram (batch, 1) each, where its padding equals ``fill`` in every lead and frequency.
    """
    if x.ndim == 3:
        return 0, x.shape[-1]
    filled = (x != _by_lead(fill, x)).any(dim=2).any(dim=1).int()
    first, behind = filled.argmax(dim=1), filled.flip(1).argmax(dim=1)
    return first[:, None], (x.shape[-1] - first - behind)[:, None]


def _windows(
    x: Tensor,
    random: KeyedRandom,
    ratio: Sequence[float],
    *,
    each_lead: bool = False,
    fill: Fill = 0.0,
) -> tuple[Tensor, Tensor]:
    """One window of ratio U(ratio) of the content, for all leads alike or for each lead: where it
    is, bool (batch, leads or 1, time), and its first sample (batch, leads or 1).
    """
    rows = x.shape[1] if each_lead else 1
    first, length = _content(x, fill)
    width = length * _uniform(random, ratio, rows)
    if each_lead:
        width = width.round().long()
        start = first + random.integers(length - width + 1, rows)
    else:  # as RandAugment's published operations: rounded down, and never over the last sample
        width = width.long()
        start = first + random.integers(length - width, rows)
    place = _time(x)
    return (place >= start[..., None]) & (place < (start + width)[..., None]), start


# ============ hiding ============
@augmentation("time_out", "time_cutout", takes="any", each_lead=True)
@augmentation(takes="any")
def cutout(
    x: Tensor, random: KeyedRandom, ratio: SHARES, each_lead: FLAG = False, fill: Fill = 0.0
) -> Tensor:
    """Zero one window of ratio U(ratio) of the crop, of all leads alike.

    A spectrogram gets ``fill`` in the frames of the window at all frequencies; the window is a
    share of its content, and always inside it.

    Args:
        each_lead: every lead has a width and a place of its own (time_out, time_cutout).
    """
    window, _ = _windows(x, random, ratio, each_lead=each_lead, fill=fill)
    return _hide(x, window if x.ndim == 3 else window[:, :, None], fill)


@augmentation()
def drop(x: Tensor, random: KeyedRandom, ratio: SHARES) -> Tensor:
    """Zero scattered samples of all leads.

    As published, their number is below ratio[1] * time.
    """
    least, most = (int(share * x.shape[-1]) for share in ratio)
    count = least + random.integers(max(most - least, 1), 1)
    return _hide(x, (random.permutation(x.shape[-1]) < count)[:, None])


@augmentation()
def erase(x: Tensor, random: KeyedRandom) -> Tensor:
    """Zero one random lead."""
    lead = random.integers(x.shape[1], 1, 1)
    return _hide(x, torch.arange(x.shape[1], device=x.device)[:, None] == lead)


@augmentation("rlm")
def random_lead_mask(x: Tensor, random: KeyedRandom) -> Tensor:
    """Zero each lead with probability 0.3, and standardise the others again together."""
    keep = (random.uniform(x.shape[1], 1) >= 0.3).to(x.dtype)
    count = (keep.sum(dim=(1, 2), keepdim=True) * x.shape[-1]).clamp(min=1)
    mean = (x * keep).sum(dim=(1, 2), keepdim=True) / count
    x = (x - mean) * keep
    std = (x.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    return torch.where(std > 0, x / torch.where(std > 0, std, 1.0), 0.0)


# ============ moving and turning ============
@augmentation()
def shift(x: Tensor, random: KeyedRandom, ratio: SHARES) -> Tensor:
    """Shift all leads left or right by floor(U(ratio) * time) samples, zeros filled in."""
    by = (_uniform(random, ratio, 1) * x.shape[-1]).long()
    by = torch.where(random.uniform(1) < 0.5, by, -by)
    most = _longest(x, ratio)
    every_shift = F.pad(x, (most, most)).unfold(-1, x.shape[-1], 1)  # a view
    return every_shift[torch.arange(len(x), device=x.device), :, most - by[:, 0]]


@augmentation(draws=False)
def flip(x: Tensor, random: KeyedRandom | None) -> Tensor:
    """Change the sign."""
    return -x


@augmentation()
def random_resized_crop(x: Tensor, random: KeyedRandom, ratio: SHARES, length: COUNT) -> Tensor:
    """Stretch a random sub-window of ratio U(ratio) of the crop to ``length`` samples, linearly.

    All leads share the window, whose ends need not fall on samples.  Output j lies at the centre
    of the j-th of ``length`` equal parts of the window, so that ratio 1 and the crop's own length
    give the crop itself.
    """
    samples = x.shape[-1]
    width = samples * _uniform(random, ratio, 1)
    start = (samples - width) * random.uniform(1)
    centre = torch.arange(length, device=x.device) + 0.5
    # (batch, length), in samples
    place = (start + centre * width / length - 0.5).clamp(0, samples - 1)
    left = place.floor().long()
    right = (left + 1).clamp(max=samples - 1)
    part = rearrange(place - left, "batch time -> batch 1 time").to(x.dtype)
    left, right = (index[:, None].expand(-1, x.shape[1], -1) for index in (left, right))
    return x.gather(2, left).lerp(x.gather(2, right), part)


# ============ adding ============
@augmentation("white_noise", "gaussian_noise")
def white_noise(x: Tensor, random: KeyedRandom, sigma: SIZES) -> Tensor:
    """Add white noise to each lead.

    Args:
        sigma: its standard deviation, or bounds between which one is drawn for each sample.
    """
    return x + _noise(x, random, sigma)


def _noise(
    x: Tensor, random: KeyedRandom, sigma: float | Sequence[float], first: int | None = None
) -> Tensor:
    """What ``white_noise`` adds to x, or to its ``first`` samples."""
    scale = _between(random, sigma, 1, 1)
    return (scale * random.normal(*x.shape[1:], first=first)).to(x.dtype)


@augmentation(draws=False)
def sine(x: Tensor, random: KeyedRandom | None, amplitude: NUMBER, cycles: NUMBER) -> Tensor:
    """Add a sine to all leads, with this many cycles per crop."""
    return x + amplitude * (2 * math.pi * (_time(x) / x.shape[-1] * cycles)).sin()


@augmentation(draws=False)
def square(x: Tensor, random: KeyedRandom | None, amplitude: NUMBER, cycles: NUMBER) -> Tensor:
    """Add a square wave to all leads, with this many cycles per crop."""
    return x + amplitude * torch.where(_time(x) / x.shape[-1] * cycles % 1 < 0.5, 1.0, -1.0)


def _partial(x: Tensor, noise: Tensor, random: KeyedRandom, ratio: Sequence[float]) -> Tensor:
    """Add the beginning of ``noise`` (batch, leads or 1, at least a window) inside a random
    window: its phase restarts there.
    """
    inside, start = _windows(x, random, ratio)
    index = (_time(x) - start).clamp(0, noise.shape[-1] - 1)[:, None]
    return x + noise.gather(-1, index.expand(-1, noise.shape[1], -1)) * inside


@augmentation()
def partial_sine(
    x: Tensor, random: KeyedRandom, amplitude: NUMBER, cycles: NUMBER, ratio: SHARES
) -> Tensor:
    """Add a sine in a random window of ratio U(ratio) of the crop, alike in all leads."""
    return _partial(x, sine(torch.zeros_like(x[:, :1]), random, amplitude, cycles), random, ratio)


@augmentation()
def partial_square(
    x: Tensor, random: KeyedRandom, amplitude: NUMBER, cycles: NUMBER, ratio: SHARES
) -> Tensor:
    """Add a square wave in a random window of ratio U(ratio) of the crop, alike in all leads."""
    return _partial(x, square(torch.zeros_like(x[:, :1]), random, amplitude, cycles), random, ratio)


@augmentation()
def partial_white_noise(x: Tensor, random: KeyedRandom, sigma: SIZES, ratio: SHARES) -> Tensor:
    """Add white noise in a random window of ratio U(ratio) of the crop, alike in all leads."""
    return _partial(x, _noise(x, random, sigma, first=_longest(x, ratio)), random, ratio)


# ============ of spectrograms ============
@functools.lru_cache
def _spectrogram_on(device: torch.device, fs: float) -> Spectrogram:
    return Spectrogram(fs).to(device)


@augmentation(draws=False, gives="spectrogram")
def spectrogram(x: Tensor, random: KeyedRandom | None, fs: NUMBER = 100) -> Tensor:
    """Turn a signal sampled at ``fs`` Hz into its magnitude spectrogram.

    Returns:
        (batch, leads, frequencies, frames).
    """
    return _spectrogram_on(x.device, fs)(x)


@augmentation(takes="spectrogram")
def frame_crop(
    x: Tensor, random: KeyedRandom, ratio: SHARES, frames: COUNT, fill: Fill = 0.0
) -> Tensor:
    """Take consecutive frames, of ratio U(ratio) of all, from a random place.

    They are put in the middle of ``frames`` frames, whose rest is ``fill``.  All leads and
    frequencies share the window.
    """
    given = x.shape[-1]
    width = (given * _uniform(random, ratio, 1)).round().long().clamp(1, frames)
    start = random.integers(given - width + 1, 1)
    # in the window, (batch, frames)
    place = torch.arange(frames, device=x.device) - (frames - width) // 2
    source = rearrange((start + place).clamp(0, given - 1), "batch frame -> batch 1 1 frame")
    padding = rearrange((place < 0) | (place >= width), "batch frame -> batch 1 1 frame")
    return _hide(x.gather(3, source.expand(-1, *x.shape[1:3], -1)), padding, fill)


@augmentation(takes="spectrogram")
def frequency_cutout(x: Tensor, random: KeyedRandom, fill: Fill = 0.0) -> Tensor:
    """Hide one frequency, drawn for each lead separately, in all frames."""
    row = random.integers(x.shape[2], x.shape[1], 1)  # (batch, leads, 1)
    cut = torch.arange(x.shape[2], device=x.device) == row
    return _hide(x, cut[..., None], fill)
