"""Augmentations: functions ``f(signal, random, **arguments) -> signal``, vectorised over samples
and leads.

``signal`` is (batch, leads, time), after ``spectrogram`` (util/signals/views.py) a magnitude
(batch, leads, frequencies, frames); ``random`` is the samples' ``KeyedRandom``.  None of them
changes its input.  Each can be an operation of RandAugment, a step of a view, or a step of
``dataset.transforms``.  Amplitudes are in the unit of the signal at that place: mV, or standard
deviations after ``standardize``.

A new one is a function here that says ``@augmentation()``.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange

from util.errors import ConfigError
from util.named_arguments import COUNT, FLAG, NUMBER, SHARES, SIZES, arguments_of, parse_named

# What RandAugment's level makes of an argument: windows of up to 0.3 level/10 of the crop, as
# many standard deviations of noise, and waves of level/5 cycles a crop.
LEVELS = {
    "ratio": lambda level: [0, 0.3 * level / 10],
    "sigma": lambda level: 0.3 * level / 10,
    "amplitude": lambda level: 0.3 * level / 10,
    "cycles": lambda level: 0.2 * level,
}


@dataclass(frozen=True)
class Augmentation:
    """An entry of ``AUGMENTATIONS``."""

    function: (
        Callable  # (x, random, **arguments) -> x; those of a config are annotated with a ``Kind``
    )
    draws: bool = True  # takes random numbers, and so has no place in an evaluation
    takes: str = (
        "signal"  # or "spectrogram", or "any" for one that takes both and gives what it got
    )
    gives: str = "signal"
    levels: dict = field(
        default_factory=lambda: LEVELS
    )  # {argument: level of RandAugment -> value}

    def __call__(self, x, random, **arguments):
        return self.function(x, random, **arguments)

    def at_level(self, level: float) -> dict | None:
        """Its arguments at a level of RandAugment; None where one has no level, or it is for
        spectrograms.
        """
        needed = [name for name, p in arguments_of(self.function).items() if p.default is p.empty]
        if "spectrogram" in (self.takes, self.gives) or not set(needed) <= set(self.levels):
            return None
        return {name: self.levels[name](level) for name in needed}

    @property
    def fills(self) -> bool:
        """Whether it takes ``fill``, what stands where a spectrogram is hidden: a number, or one
        a lead.
        """
        return "fill" in inspect.signature(self.function).parameters


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(*names, draws=True, takes="signal", gives=None, levels=LEVELS, **preset):
    """Decorator: register a function by these names (default: its own); ``preset`` changes its
    defaults.
    """

    def add(function):
        made = Augmentation(
            functools.partial(function, **preset) if preset else function,
            draws,
            takes,
            gives or takes,
            levels,
        )
        AUGMENTATIONS.update(dict.fromkeys(names or [function.__name__], made))
        return function

    return add


def parse_augmentations(items, where: str) -> list[tuple[Augmentation, dict]]:
    """A list from a config, beginning with a signal, as (augmentation, arguments); a ConfigError
    for unknown names or arguments, bad values, or a signal where a spectrogram is needed.
    """
    steps, kind = [], "signal"
    for item in items:
        name, arguments = parse_named(
            item, {key: a.function for key, a in AUGMENTATIONS.items()}, where
        )
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
def _between(random, bounds, *shape):
    """Uniform draws (batch, *shape) between the two bounds; a plain number is itself and draws
    nothing.
    """
    if not isinstance(bounds, (list, tuple)):
        return bounds
    low, high = bounds
    return low + (high - low) * random.uniform(*shape)


def _longest(x, ratio):
    """Samples of x that a share of ``ratio``, bounds or a number, never exceeds; at least 1."""
    return max(
        1, math.ceil(x.shape[-1] * (max(ratio) if isinstance(ratio, (list, tuple)) else ratio))
    )


def _time(x):
    return torch.arange(x.shape[-1], device=x.device)


def _by_lead(fill, x):
    """``fill``, a number or a tensor (leads,), as something that broadcasts over x."""
    return fill.to(x).view(-1, *[1] * (x.ndim - 2)) if torch.is_tensor(fill) else fill


def _hide(x, where, fill=0.0):
    """x with ``fill``, a number or one for each lead (leads,), where ``where`` is True."""
    return torch.where(where, _by_lead(fill, x), x)


def _content(x, fill):
    """First sample and number of samples that are not padding, which a signal has none of; of a
    spectrogram (batch, 1) each, where its padding equals ``fill`` in every lead and frequency.
    """
    if x.ndim == 3:
        return 0, x.shape[-1]
    filled = (x != _by_lead(fill, x)).any(dim=2).any(dim=1).int()
    first, behind = filled.argmax(dim=1), filled.flip(1).argmax(dim=1)
    return first[:, None], (x.shape[-1] - first - behind)[:, None]


def _windows(x, random, ratio, each_lead=False, fill=0.0):
    """One window of ratio U(ratio) of the content, for all leads alike or for each lead: where it
    is, bool (batch, leads or 1, time), and its first sample (batch, leads or 1).
    """
    rows = x.shape[1] if each_lead else 1
    first, length = _content(x, fill)
    width = length * _between(random, ratio, rows)
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
def cutout(x, random, ratio: SHARES, each_lead: FLAG = False, fill=0.0):
    """Zero one window of ratio U(ratio) of the crop, of all leads alike; ``each_lead`` (time_out,
    time_cutout): every lead has its own width and place.  A spectrogram gets ``fill``, a number
    or one a lead, in the frames of the window at all frequencies; the window is a share of its
    content, and always inside it.
    """
    window, _ = _windows(x, random, ratio, each_lead, fill)
    return _hide(x, window if x.ndim == 3 else window[:, :, None], fill)


@augmentation()
def drop(x, random, ratio: SHARES):
    """Scattered samples of all leads set to zero; as published, their number is below ratio[1] *
    time.
    """
    least, most = (int(share * x.shape[-1]) for share in ratio)
    count = least + random.integers(max(most - least, 1), 1)
    return _hide(x, (random.permutation(x.shape[-1]) < count)[:, None])


@augmentation()
def erase(x, random):
    """One random lead set to zero."""
    lead = random.integers(x.shape[1], 1, 1)
    return _hide(x, torch.arange(x.shape[1], device=x.device)[:, None] == lead)


@augmentation("rlm")
def random_lead_mask(x, random):
    """Each lead set to zero with probability 0.3, the others standardised again together."""
    keep = (random.uniform(x.shape[1], 1) >= 0.3).to(x.dtype)
    count = (keep.sum(dim=(1, 2), keepdim=True) * x.shape[-1]).clamp(min=1)
    mean = (x * keep).sum(dim=(1, 2), keepdim=True) / count
    x = (x - mean) * keep
    std = (x.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    return torch.where(std > 0, x / torch.where(std > 0, std, 1.0), 0.0)


# ============ moving and turning ============
@augmentation()
def shift(x, random, ratio: SHARES):
    """Left or right by floor(U(ratio) * time) samples, zeros filled in, all leads alike."""
    by = (_between(random, ratio, 1) * x.shape[-1]).long()
    by = torch.where(random.uniform(1) < 0.5, by, -by)
    most = _longest(x, ratio)
    every_shift = F.pad(x, (most, most)).unfold(-1, x.shape[-1], 1)  # a view
    return every_shift[torch.arange(len(x), device=x.device), :, most - by[:, 0]]


@augmentation(draws=False)
def flip(x, random):
    """Sign change."""
    return -x


@augmentation()
def random_resized_crop(x, random, ratio: SHARES, length: COUNT):
    """A random sub-window of ratio U(ratio) of the crop, linearly interpolated to ``length``
    samples.

    All leads share the window, whose ends need not fall on samples.  Output j lies at the centre
    of the j-th of ``length`` equal parts of the window, so that ratio 1 and the crop's own length
    give the crop itself.
    """
    samples = x.shape[-1]
    width = samples * _between(random, ratio, 1)
    start = (samples - width) * random.uniform(1)
    centre = torch.arange(length, device=x.device) + 0.5
    place = (start + centre * width / length - 0.5).clamp(
        0, samples - 1
    )  # (batch, length), in samples
    left = place.floor().long()
    right = (left + 1).clamp(max=samples - 1)
    part = rearrange(place - left, "batch time -> batch 1 time").to(x.dtype)
    left, right = (place[:, None].expand(-1, x.shape[1], -1) for place in (left, right))
    return x.gather(2, left).lerp(x.gather(2, right), part)


# ============ adding ============
@augmentation("white_noise", "gaussian_noise")
def white_noise(x, random, sigma: SIZES):
    """White noise in each lead, of standard deviation ``sigma`` or, drawn once a sample,
    U(sigma).
    """
    return x + _noise(x, random, sigma)


def _noise(x, random, sigma, first=None):
    """What ``white_noise`` adds to x, or to its ``first`` samples."""
    scale = _between(random, sigma, 1, 1)
    return (scale * random.normal(*x.shape[1:], first=first)).to(x.dtype)


@augmentation(draws=False)
def sine(x, random, amplitude: NUMBER, cycles: NUMBER):
    """A sine of so many cycles a crop added to all leads."""
    return x + amplitude * (2 * math.pi * (_time(x) / x.shape[-1] * cycles)).sin()


@augmentation(draws=False)
def square(x, random, amplitude: NUMBER, cycles: NUMBER):
    """A square wave of so many cycles a crop added to all leads."""
    return x + amplitude * torch.where(_time(x) / x.shape[-1] * cycles % 1 < 0.5, 1.0, -1.0)


def _partial(x, noise, random, ratio):
    """Add the beginning of ``noise`` (batch, leads or 1, at least a window) inside a random
    window: its phase restarts there.
    """
    inside, start = _windows(x, random, ratio)
    index = (_time(x) - start).clamp(0, noise.shape[-1] - 1)[:, None]
    return x + noise.gather(-1, index.expand(-1, noise.shape[1], -1)) * inside


@augmentation()
def partial_sine(x, random, amplitude: NUMBER, cycles: NUMBER, ratio: SHARES):
    """A sine in a random window of ratio U(ratio) of the crop, alike in all leads."""
    return _partial(x, sine(torch.zeros_like(x[:, :1]), random, amplitude, cycles), random, ratio)


@augmentation()
def partial_square(x, random, amplitude: NUMBER, cycles: NUMBER, ratio: SHARES):
    """A square wave in a random window of ratio U(ratio) of the crop, alike in all leads."""
    return _partial(x, square(torch.zeros_like(x[:, :1]), random, amplitude, cycles), random, ratio)


@augmentation()
def partial_white_noise(x, random, sigma: SIZES, ratio: SHARES):
    """White noise in a random window of ratio U(ratio) of the crop, alike in all leads."""
    return _partial(x, _noise(x, random, sigma, first=_longest(x, ratio)), random, ratio)


# ============ of spectrograms ============
@augmentation(takes="spectrogram")
def frame_crop(x, random, ratio: SHARES, frames: COUNT, fill=0.0):
    """Consecutive frames, of ratio U(ratio) of all, from a random place, in the middle of
    ``frames`` frames whose rest is ``fill``.  All leads and frequencies share the window.
    """
    given = x.shape[-1]
    width = (given * _between(random, ratio, 1)).round().long().clamp(1, frames)
    start = random.integers(given - width + 1, 1)
    place = (
        torch.arange(frames, device=x.device) - (frames - width) // 2
    )  # in the window, (batch, frames)
    source = rearrange((start + place).clamp(0, given - 1), "batch frame -> batch 1 1 frame")
    padding = rearrange((place < 0) | (place >= width), "batch frame -> batch 1 1 frame")
    return _hide(x.gather(3, source.expand(-1, *x.shape[1:3], -1)), padding, fill)


@augmentation(takes="spectrogram")
def frequency_cutout(x, random, fill=0.0):
    """Hide one frequency, drawn for each lead on its own, in all frames."""
    row = random.integers(x.shape[2], x.shape[1], 1)  # (batch, leads, 1)
    cut = torch.arange(x.shape[2], device=x.device) == row
    return _hide(x, cut[..., None], fill)
