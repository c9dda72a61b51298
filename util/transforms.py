"""Device transforms: batches (batch, leads, time), vectorised over samples and leads, on CPU or GPU alike.

Preprocessing is fixed (filters, standardisation); RandAugment draws from the samples' own random numbers.  In a
config a transform is ``name`` or ``{name: {argument: value}}``; the names are those of ``TRANSFORMS`` and
``AUGMENTATIONS``.
"""
import functools
import inspect
import math

import numpy as np
import scipy.linalg
import scipy.signal
import torch
import torch.nn as nn

from util.errors import ConfigError
from util.keyed_random import KeyedRandom


# ============ filters ============
def butterworth(kind: str, cutoff: float, fs: float, order: int) -> np.ndarray:
    """Second-order sections of a Butterworth filter."""
    return scipy.signal.butter(order, cutoff, kind, fs=fs, output="sos")


@functools.lru_cache(maxsize=16)
def _crop_filter_parts(length: int, filters: tuple):
    """The exact linear map of zero-phase ``filters`` on crops of ``length`` samples, as FFT plus low rank.

    The map M (sosfiltfilt of the identity, one filter after the other) differs from the circulant matrix with
    response H = product of |response|^2 only near the ends, by a matrix of rank about 20.

    Returns:
        H (length//2 + 1,), and V (length, rank), U (length, rank) with M = circulant(H) + U V^T on zero-mean input;
        and the response to a constant 1 (length,), exactly 0 for a high-pass.  float64.

    Raises:
        ConfigError: the rank is large, because the crop is short for the filters.
    """
    map_ = np.eye(length)
    frequency = np.fft.rfftfreq(length) * 2 * np.pi
    response = np.ones(len(frequency))
    for kind, cutoff, fs, order in filters:
        sos = butterworth(kind, cutoff, fs, order)
        map_ = scipy.signal.sosfiltfilt(sos, map_, axis=0)
        response *= np.abs(scipy.signal.sosfreqz(sos, frequency)[1]) ** 2
    rest = map_ - scipy.linalg.circulant(np.fft.irfft(response, length))
    rest = torch.from_numpy(rest - rest.mean(axis=1, keepdims=True))  # zero-mean input has no use for the row means
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws: leave the caller's random state alone
        torch.default_generator.manual_seed(0)
        u, s, v = torch.svd_lowrank(rest, q=min(96, length), niter=6)
    rank = int((s > 1e-8).sum())
    if rank == len(s) < length:
        raise ConfigError(f"the filters {filters} need more than {rank} corrections on crops of {length} samples; "
                          "use longer crops or a higher cut-off")
    constant = map_.sum(axis=1)
    constant[np.abs(constant) < 1e-9] = 0.0  # rounding, which standardisation would blow up on a flat lead
    return response, v[:, :rank], u[:, :rank] * s[:rank], torch.from_numpy(constant)


class CropFilter(nn.Module):
    """Zero-phase Butterworth filters on a crop, equal to scipy.signal.sosfiltfilt one after the other.

    Args:
        length: samples a crop.
        filters: (kind "highpass" | "lowpass", cutoff in Hz, fs in Hz, order), applied in this order.
    """

    def __init__(self, length, filters):
        super().__init__()
        shortest = 3 * (1 + max(order for *_, order in filters))  # sosfiltfilt's padding must be shorter than the crop
        if length <= shortest:
            raise ConfigError(f"crops of {length} samples are too short for the filters; take more than {shortest}")
        for kind, cutoff, fs, _ in filters:
            if not 0 < cutoff < fs / 2:
                raise ConfigError(f"{kind}_filter: the cut-off {cutoff} Hz must lie between 0 and fs / 2 = {fs / 2} Hz")
        response, v, u, constant = _crop_filter_parts(length, tuple(filters))
        self.length = length
        for name, value in (("response", torch.from_numpy(response)), ("v", v), ("u", u.mT.contiguous()),
                            ("constant", constant)):
            self.register_buffer(name, value, persistent=False)
        self.removes_constants = not constant.any()

    def forward(self, x, random=None):
        if x.shape[-1] != self.length:
            raise ValueError(f"the filter was made for {self.length} samples, not {x.shape[-1]}")
        # float64: a wandering baseline is many times larger than what is left, and float32 would lose its fifth digit
        signal = x.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        level = signal[..., :1].clone()
        signal -= level  # differences first: a flat lead gives exactly 0
        mean = signal.mean(dim=-1, keepdim=True)
        signal -= mean
        filtered = torch.fft.irfft(torch.fft.rfft(signal).mul_(self.response), self.length)
        filtered.flatten(0, -2).addmm_(signal.flatten(0, -2) @ self.v, self.u)
        if not self.removes_constants:
            filtered += (level + mean) * self.constant
        return filtered.to(x.dtype)


class Standardize(nn.Module):
    """(x - mean) / std over ``axis`` of each sample, population std, 0 where a std is 0.

    ``axis`` counts (leads, time) as the published configs do: [-1, -2] for all leads together, -1 for each lead.
    """

    def __init__(self, axis=(-1, -2)):
        super().__init__()
        self.axis = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
        if not set(self.axis) <= {-1, -2}:
            raise ConfigError(f"standardize: axis is -1 (time), -2 (leads) or both, not {axis!r}")

    def forward(self, x, random=None):
        std, mean = torch.std_mean(x, dim=self.axis, correction=0, keepdim=True)
        # A constant's standard deviation is rounding noise, not zero: compare with the level.
        flat = std <= 1e-6 * mean.abs()
        return (x - mean).mul_(torch.where(flat, 0.0, 1 / std))


# ============ augmentations: ratio r = amplitude a = 0.3 level/10, period p = 0.5/(level/10) of the window ============
MAX_LEVEL = 33   # r = 0.99: windows must be shorter than the crop


def _ratio(level):
    """r and a: longest window as a share of the crop, and amplitude in standard deviations."""
    return 0.3 * level / 10


def _time(x):
    return torch.arange(x.shape[-1], device=x.device)


def _span(x, random, ratio):
    """A random window, alike for all leads: bool (batch, 1, time), count = floor(U(0, ratio) * time)."""
    length = x.shape[-1]
    count = (random.uniform(1) * ratio * length).long()
    start = random.integers(length - count, 1)
    t = _time(x)
    return ((t >= start) & (t < start + count))[:, None], start


def shift(x, random, level):
    """Left or right by floor(U(0, r) * time) samples, zeros filled in, all leads alike."""
    by = (random.uniform(1) * _ratio(level) * x.shape[-1]).long()
    by = torch.where(random.uniform(1) < 0.5, by, -by)
    source = _time(x) - by
    inside = (source >= 0) & (source < x.shape[-1])
    index = source.clamp(0, x.shape[-1] - 1)[:, None].expand_as(x)
    return x.gather(-1, index) * inside[:, None]


def cutout(x, random, level):
    """A window of all leads set to zero."""
    return x.masked_fill(_span(x, random, _ratio(level))[0], 0.0)


def drop(x, random, level):
    """Scattered samples of all leads set to zero: 0..int(r * time)-1 of them."""
    most = int(_ratio(level) * x.shape[-1])
    if most < 1:
        return x
    count = random.integers(most, 1)
    return x.masked_fill((random.permutation(x.shape[-1]) < count)[:, None], 0.0)


def flip(x, random, level):
    """Sign change."""
    return -x


def erase(x, random, level):
    """One random lead set to zero."""
    lead = random.integers(x.shape[1], 1)
    return x.masked_fill((torch.arange(x.shape[1], device=x.device) == lead)[..., None], 0.0)


def _phase(x, level):
    """Cycles since the window's start, (time,): ``level``/5 cycles a window."""
    return _time(x) / x.shape[-1] * (0.2 * level)


def _sine(x, level):
    return _ratio(level) * (2 * math.pi * _phase(x, level)).sin()


def _square(x, level):
    return _ratio(level) * torch.where(_phase(x, level) % 1 < 0.5, 1.0, -1.0)


def sine(x, random, level):
    """A slow sine added to all leads."""
    return x + _sine(x, level)


def square(x, random, level):
    """A slow square wave added to all leads."""
    return x + _square(x, level)


def white_noise(x, random, level):
    """a * N(0, 1) added, independent for each lead and sample."""
    return x + _ratio(level) * random.normal(*x.shape[1:])


def _partial(x, noise, random, level):
    """Add the beginning of ``noise`` (leads or 1, time) inside a random window: its phase restarts at the window."""
    inside, start = _span(x, random, _ratio(level))
    index = (_time(x) - start).clamp(min=0)[:, None]
    noise = noise.expand(x.shape[0], -1, -1)
    return x + noise.gather(-1, index.expand(-1, noise.shape[1], -1)) * inside


def partial_sine(x, random, level):
    """A sine in a random window."""
    return _partial(x, _sine(x, level)[None], random, level)


def partial_square(x, random, level):
    """A square wave in a random window."""
    return _partial(x, _square(x, level)[None], random, level)


def partial_white_noise(x, random, level):
    """White noise in a random window."""
    return _partial(x, _ratio(level) * random.normal(*x.shape[1:]), random, level)


def random_lead_mask(x, random, level):
    """Each lead set to zero with probability 0.3, the others standardised again together."""
    keep = (random.uniform(x.shape[1], 1) >= 0.3).to(x.dtype)
    count = (keep.sum(dim=(1, 2), keepdim=True) * x.shape[-1]).clamp(min=1)
    mean = (x * keep).sum(dim=(1, 2), keepdim=True) / count
    x = (x - mean) * keep
    std = (x.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    return torch.where(std > 0, x / torch.where(std > 0, std, 1.0), 0.0)


AUGMENTATIONS = {"shift": shift, "cutout": cutout, "drop": drop, "flip": flip, "erase": erase, "sine": sine,
                 "square": square, "white_noise": white_noise, "partial_sine": partial_sine,
                 "partial_square": partial_square, "partial_white_noise": partial_white_noise,
                 "rlm": random_lead_mask}


class RandAugment(nn.Module):
    """Each sample: ``num_layers`` distinct operations in random order, each applied with probability ``prob``
    (Cubuk et al. 2020, with the published operations for ECGs).  Level 0 changes nothing.

    Args:
        op_names: keys of ``AUGMENTATIONS``; level: strength, 10 for the published one.
    """

    def __init__(self, op_names, level=10, num_layers=2, prob=0.5):
        super().__init__()
        unknown = [name for name in op_names if name not in AUGMENTATIONS]
        if unknown:
            raise ConfigError(f"rand_augment: unknown operation {unknown[0]!r}; known: {', '.join(AUGMENTATIONS)}")
        if not isinstance(num_layers, int) or not 0 <= num_layers <= len(op_names):
            raise ConfigError(f"rand_augment: num_layers must be a whole number up to the {len(op_names)} operations, "
                              f"not {num_layers!r}")
        if not 0 <= level <= MAX_LEVEL or not 0 <= prob <= 1:
            raise ConfigError(f"rand_augment: level must lie in [0, {MAX_LEVEL}] and prob in [0, 1]")
        self.operations = [AUGMENTATIONS[name] for name in op_names]
        self.level, self.num_layers, self.prob = level, num_layers, prob

    def forward(self, x, random):
        if not self.level:
            return x
        choice = random.permutation(len(self.operations))[:, :self.num_layers]
        apply = random.uniform(self.num_layers) < self.prob
        for layer in range(self.num_layers):
            result = x.clone()
            for number, operation in enumerate(self.operations):
                chosen = (choice[:, layer] == number) & apply[:, layer]
                draws = random.fork(1 + layer * len(self.operations) + number)
                self._where_chosen(operation, x, result, chosen, draws)
            x = result
        return x

    def _where_chosen(self, operation, x, result, chosen, draws):
        """Put operation(x) into the chosen rows of ``result``; draws belong to samples, so both ways give the same."""
        if x.device.type == "cpu":
            rows = chosen.nonzero()[:, 0]
            result[rows] = operation(x[rows], KeyedRandom(draws.keys[rows]), self.level)
        else:  # the host would wait for the device to learn the rows: cheaper to compute all of them
            result.copy_(torch.where(chosen[:, None, None], operation(x, draws, self.level), result))


# ============ from config to module ============
CROPPINGS = ("random_crop", "center_crop", "n_crop", "moving_window_crop")
FILTERS = {"highpass_filter": "highpass", "lowpass_filter": "lowpass"}
TRANSFORMS = {"standardize": Standardize}


class Pipeline(nn.Module):
    """The device transforms of a config, in order, then RandAugment.  Always float32, also under autocast."""

    def __init__(self, steps):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x, random=None):
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for step in self.steps:
                x = step(x, random)
        return x


def build_pipeline(transforms: list, *, length: int, fs: float, rand_augment=None, where="dataset.transforms"):
    """``Pipeline`` of a config's list of transforms (the cropping that leads it is the dataset's job).

    Neighbouring filters are fused into one linear map.

    Raises:
        ConfigError: unknown name or argument.
    """
    steps, filters = [], []
    for item in [*transforms[1:], None]:
        name, args = (None, {}) if item is None else _name_and_arguments(item, where)
        if name in FILTERS:
            filters.append(_filter_arguments(name, args, fs, where))
            continue
        if filters:
            steps.append(CropFilter(length, filters))
            filters = []
        if name is not None:
            steps.append(_build(TRANSFORMS, name, args, where))
    if rand_augment is not None:
        steps.append(_build({"rand_augment": RandAugment}, "rand_augment", rand_augment, "dataset"))
    return Pipeline(steps)


def _name_and_arguments(item, where):
    name, args = (item, {}) if isinstance(item, str) else next(iter(item.items())) \
        if isinstance(item, dict) and len(item) == 1 else (None, None)
    if name in CROPPINGS:
        raise ConfigError(f"{where}: {name} must come first and only once")
    if name not in {*FILTERS, *TRANSFORMS}:
        known = ", ".join([*CROPPINGS, *FILTERS, *TRANSFORMS])
        raise ConfigError(f"{where}: unknown transform {item!r}; known: {known}")
    if args is not None and not isinstance(args, dict):
        raise ConfigError(f"{where}: the arguments of {name} must be a mapping, not {args!r}")
    return name, args or {}


def _filter_arguments(name, args, fs, where):
    unknown = set(args) - {"cutoff", "fs", "order"}
    numbers = {"fs": fs, "order": 5, **args}
    if unknown or "cutoff" not in args or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in numbers.values()):
        raise ConfigError(f"{where}: {name} takes the numbers cutoff (Hz), and fs and order if not {fs} and 5, "
                          f"not {args!r}")
    if not isinstance(numbers["order"], int) or numbers["order"] < 1:
        raise ConfigError(f"{where}: the order of {name} must be a whole number of at least 1, "
                          f"not {numbers['order']!r}")
    if numbers["fs"] != fs:
        raise ConfigError(f"{where}: {name} says fs {numbers['fs']} but dataset.fs is {fs}")
    return FILTERS[name], float(numbers["cutoff"]), float(fs), numbers["order"]


def _build(registry, name, args, where):
    known = inspect.signature(registry[name]).parameters
    unknown = [arg for arg in args if arg not in known]
    if unknown:
        raise ConfigError(f"{where}: {name} does not take {unknown[0]!r}; it takes {', '.join(known) or 'nothing'}")
    try:
        return registry[name](**args)
    except TypeError as error:
        raise ConfigError(f"{where}: {name}: {error}") from None
