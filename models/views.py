"""Views of a crop: batched, on the crop's device, every draw keyed by the sample.

A view list is plain data, as in YAML::

    views:
      - {count: 2, global: true, transforms: [{random_resized_crop: {ratio: [0.5, 1.0], length: 250}},
                                              {time_out: {ratio: [0.2, 0.4]}}]}
      - {count: 8, transforms: [...]}

``count`` (default 1) is how many views are made so; ``global`` (default false) marks those that DINO's teacher sees.
A transform is a function ``(x, random, **config) -> x``; x is a signal (batch, leads, time) in mV or, after
``spectrogram``, a magnitude (batch, leads, frequencies, frames).  None of them changes its input.  Standardisation
comes later, inside the encoder: a zero below is 0 mV.
"""
import inspect
from functools import lru_cache

import torch
from einops import rearrange

from models.spectrogram import Spectrogram
from util.errors import ConfigError
from util.keyed_random import KeyedRandom

CONTRASTIVE_VIEWS = [
    {"count": 2, "transforms": [{"time_out": {"ratio": [0.2, 0.4]}}, {"gaussian_noise": {"sigma": [0.005, 0.025]}}]},
]
DINO_SIGNAL_VIEWS = [
    {"count": 2, "global": True, "transforms": [{"random_resized_crop": {"ratio": [0.5, 1.0], "length": 250}},
                                                {"time_out": {"ratio": [0.2, 0.4]}},
                                                {"gaussian_noise": {"sigma": [0.005, 0.025]}}]},
    {"count": 8, "transforms": [{"random_resized_crop": {"ratio": [0.1, 0.5], "length": 100}},
                                {"time_out": {"ratio": [0.2, 0.4]}},
                                {"gaussian_noise": {"sigma": [0.005, 0.025]}}]},
]
DINO_SPECTROGRAM_VIEWS = [
    {"count": 2, "global": True, "transforms": [{"spectrogram": {"fs": 100}},
                                                {"frame_crop": {"ratio": [0.6, 1.0], "frames": 21}},
                                                "frequency_cutout", {"time_cutout": {"ratio": [0.1, 0.35]}}]},
    {"count": 8, "transforms": [{"spectrogram": {"fs": 100}},
                                {"frame_crop": {"ratio": [0.3, 0.6], "frames": 21}},
                                "frequency_cutout", {"time_cutout": {"ratio": [0.1, 0.35]}}]},
]


# ============ draws that several transforms share ============
def _between(random, bounds, *shape):
    """Uniform draws (batch, *shape) between the two bounds."""
    low, high = bounds
    return low + (high - low) * random.uniform(*shape)


def _windows(random, ratio, length, *shape):
    """(batch, *shape, length) bool, True inside one window a row: its width is round(length * U(ratio)) samples, its
    place uniform over all where it fits."""
    width = (length * _between(random, ratio, *shape)).round().long()
    start = random.integers(length - width + 1, *shape)
    place = torch.arange(length, device=width.device)
    return (place >= start[..., None]) & (place < (start + width)[..., None])


# ============ transforms of a signal ============
def random_resized_crop(x, random, ratio, length):
    """A random sub-window of ratio U(ratio) of the crop, resized to ``length`` samples by linear interpolation.

    All leads share the window, whose ends need not fall on samples.  Output j lies at the centre of the j-th of
    ``length`` equal parts of the window, so that ratio 1 and the crop's own length give the crop itself.
    """
    samples = x.shape[-1]
    width = samples * _between(random, ratio, 1)
    start = (samples - width) * random.uniform(1)
    centre = torch.arange(length, device=x.device) + 0.5
    place = (start + centre * width / length - 0.5).clamp(0, samples - 1)       # (batch, length), in samples
    left = place.floor().long()
    right = (left + 1).clamp(max=samples - 1)
    part = rearrange(place - left, "batch time -> batch 1 time").to(x.dtype)
    left, right = (rearrange(i, "batch time -> batch 1 time").expand(-1, x.shape[1], -1) for i in (left, right))
    return x.gather(2, left).lerp(x.gather(2, right), part)


def time_out(x, random, ratio):
    """Zero one window of every lead: each lead has its own width, of ratio U(ratio) of the crop, and its own place.

    A spectrogram loses the frames of the window at all frequencies (its ``time_cutout``).
    """
    window = _windows(random, ratio, x.shape[-1], x.shape[1])                   # (batch, leads, time)
    if x.ndim == 4:
        window = rearrange(window, "batch lead frame -> batch lead 1 frame")
    return x.masked_fill(window, 0)


def gaussian_noise(x, random, sigma):
    """Add white noise; its standard deviation, U(sigma) mV, is drawn once a sample."""
    scale = rearrange(_between(random, sigma, 1), "batch 1 -> batch 1 1")
    return x + (scale * random.normal(*x.shape[1:])).to(x.dtype)


# ============ transforms of a spectrogram ============
@lru_cache
def _spectrogram_on(device, fs):
    return Spectrogram(fs).to(device)


def spectrogram(x, random, fs):
    """The magnitude spectrogram (batch, leads, frequencies, frames) of a signal sampled at ``fs`` Hz."""
    return _spectrogram_on(x.device, fs)(x)


def frame_crop(x, random, ratio, frames):
    """Consecutive frames, of ratio U(ratio) of all, from a random place; moved to the front of ``frames`` frames of
    which the rest is zero.  All leads and frequencies share the window."""
    given = x.shape[-1]
    width = (given * _between(random, ratio, 1)).round().long().clamp(1, frames)
    start = random.integers(given - width + 1, 1)
    place = torch.arange(frames, device=x.device)
    source = rearrange((start + place).clamp(max=given - 1), "batch frame -> batch 1 1 frame")
    padding = rearrange(place >= width, "batch frame -> batch 1 1 frame")
    return x.gather(3, source.expand(-1, *x.shape[1:3], -1)).masked_fill(padding, 0)


def frequency_cutout(x, random):
    """Zero one frequency, drawn for each lead on its own, in all frames."""
    row = random.integers(x.shape[2], x.shape[1])                               # (batch, leads)
    cut = torch.arange(x.shape[2], device=x.device) == row[..., None]
    return x.masked_fill(rearrange(cut, "batch lead frequency -> batch lead frequency 1"), 0)


VIEWS = {
    "random_resized_crop": random_resized_crop,
    "time_out": time_out,
    "gaussian_noise": gaussian_noise,
    "spectrogram": spectrogram,
    "frame_crop": frame_crop,
    "frequency_cutout": frequency_cutout,
    "time_cutout": time_out,        # the same operation by the name it has on spectrograms
}


# ============ from configuration to views ============
def _check_bounds(name, key, value):
    """A ratio is two numbers with 0 <= low <= high <= 1, a sigma two with 0 <= low <= high."""
    top = 1 if key == "ratio" else float("inf")
    try:
        low, high = value
        fits = 0 <= low <= high <= top
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ConfigError(f"view transform {name}: {key} is {value!r}; give [low, high] with 0 <= low <= high"
                          + (" <= 1" if key == "ratio" else ""))


def parse_transform(entry):
    """``{"time_out": {"ratio": [0.2, 0.4]}}`` or a bare name -> (function, arguments).

    Raises:
        ConfigError: unknown name, unknown or missing argument (the message lists the known ones), or a bad range.
    """
    if isinstance(entry, dict) and len(entry) == 1:
        (name, arguments), = entry.items()
        arguments = arguments or {}
    else:
        name, arguments = entry, {}
    if not isinstance(name, str) or name not in VIEWS:
        raise ConfigError(f"unknown view transform {name!r}; known ones: {', '.join(VIEWS)}")
    known = list(inspect.signature(VIEWS[name]).parameters)[2:]
    if not isinstance(arguments, dict) or set(arguments) != set(known):
        raise ConfigError(f"view transform {name} takes {', '.join(known) or 'no arguments'}; given: {arguments!r}")
    for key in ("ratio", "sigma"):
        if key in arguments:
            _check_bounds(name, key, arguments[key])
    return VIEWS[name], arguments


class Views:
    """All views of a method.

    Args:
        specs: list of ``{"count", "transforms", "global"}``, see the module's docstring.

    Attributes:
        count: number of views.
        global_count: how many of them are global; they come first.

    Calling it with a signal (batch, leads, time) and its ``KeyedRandom`` gives the list of views.  View n draws from
    ``random.fork(1 + n)``, whichever views are made beside it.

    Raises:
        ConfigError: unknown keys or transforms; the message lists the known ones.
    """

    def __init__(self, specs):
        known = ("count", "global", "transforms")
        for spec in specs:
            unknown = sorted(set(spec) - set(known)) if isinstance(spec, dict) else [spec]
            if unknown or "transforms" not in spec or spec.get("count", 1) < 1:
                raise ConfigError(f"a view is {{{', '.join(known)}}} with its transforms and a count of 1 or more; "
                                  f"given: {spec!r}")
        ordered = sorted(specs, key=lambda spec: not spec.get("global", False))     # stable: global ones first
        self.groups = [(spec.get("count", 1), [parse_transform(entry) for entry in spec["transforms"]])
                       for spec in ordered]
        self.count = sum(count for count, _ in self.groups)
        self.global_count = sum(spec.get("count", 1) for spec in ordered if spec.get("global", False))

    @torch.compiler.disable     # Inductor cannot print the wrapping 64-bit integers of KeyedRandom
    def __call__(self, signal, random):
        views = []
        for count, transforms in self.groups:
            # equal views are made together: the batch is repeated, each copy with the keys of its own fork
            forks = [random.fork(1 + len(views) + n).keys for n in range(count)]
            draws = KeyedRandom(torch.cat(forks))
            x = signal.repeat(count, 1, 1)
            for transform, arguments in transforms:
                x = transform(x, draws, **arguments)
            views.extend(x.chunk(count))
        return views


def encode_views(encoder, views):
    """Features (view, batch, width) of a list of views, one encoder call for each shape among them."""
    features = {}
    for shape in dict.fromkeys(view.shape for view in views):
        members = [i for i, view in enumerate(views) if view.shape == shape]
        out = encoder.forward_features(torch.cat([views[i] for i in members]))
        features.update(zip(members, out.chunk(len(members))))
    return torch.stack([features[i] for i in range(len(views))])
