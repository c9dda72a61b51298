"""Device transforms: batches (batch, leads, time), vectorised over samples and leads, on CPU or GPU alike.

Preprocessing is fixed (filters, standardisation); augmentations draw from the samples' own random numbers.
In a config a transform is ``name`` or ``{name: {argument: value}}``; the names are those of ``TRANSFORMS``,
and those of ``AUGMENTATIONS`` (util/augmentations.py) that make a signal of a signal.
"""
import functools
import itertools

import numpy as np
import scipy.linalg
import scipy.signal
import torch
import torch.nn as nn

from util.arguments import COUNT, LIST, NUMBER, SHARE, WHOLE, Kind, parse_named
from util.augmentations import AUGMENTATIONS
from util.dataset import CROPPINGS
from util.errors import ConfigError
from util.keyed_random import KeyedRandom

AXIS = Kind("-1 (time), -2 (leads) or a list of both",
            lambda value: value in (-1, -2) or value in ([-1], [-2], [-1, -2], [-2, -1]))
MAX_LEVEL = 33   # RandAugment's longest windows are 0.03 level of the crop, and must be shorter than it
LEVEL = Kind(f"a number from 0 to {MAX_LEVEL}", lambda value: NUMBER.fits(value) and 0 <= value <= MAX_LEVEL)
PLAIN_STREAM = 1 << 20  # from here on: streams of plain steps, apart from views, masks and RandAugment


# ============ filters ============
@functools.lru_cache(maxsize=16)
def _crop_filter_parts(length: int, filters: tuple):
    """The exact linear map of zero-phase ``filters`` on crops of ``length`` samples, as FFT plus low rank.

    The map M (sosfiltfilt of the identity, one filter after the other) differs from the circulant matrix with
    response H = product of |response|^2 only near the ends, by a matrix of rank about 20; a ConfigError if the rank is
    large, because the crop is short for the filters.

    Returns:
        H (length//2 + 1,), and V (length, rank), U (length, rank) with M = circulant(H) + U V^T on zero-mean input;
        and the response to a constant 1 (length,), exactly 0 for a high-pass.  float64.
    """
    map_ = np.eye(length)
    frequency = np.fft.rfftfreq(length) * 2 * np.pi
    response = np.ones_like(frequency)
    for kind, cutoff, fs, order in filters:
        sos = scipy.signal.butter(order, cutoff, kind, fs=fs, output="sos")
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
    return torch.from_numpy(response), v[:, :rank], u[:, :rank] * s[:rank], torch.from_numpy(constant)


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
        for name, value in {"response": response, "v": v, "u": u.mT.contiguous(), "constant": constant}.items():
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

    def __init__(self, axis: AXIS = (-1, -2)):
        super().__init__()
        self.axis = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)

    def forward(self, x, random=None):
        std, mean = torch.std_mean(x, dim=self.axis, correction=0, keepdim=True)
        # A constant's standard deviation is rounding noise, not zero: compare with the level.
        flat = std <= 1e-6 * mean.abs()
        return (x - mean).mul_(torch.where(flat, 0.0, 1 / std))


# ============ augmentations ============
class Augment(nn.Module):
    """One augmentation with its arguments, as the step number ``position`` of a list."""

    def __init__(self, name, arguments, position):
        super().__init__()
        self.name, self.arguments, self.stream = name, arguments, PLAIN_STREAM + position
        self.draws = AUGMENTATIONS[name].draws

    def forward(self, x, random=None):
        return AUGMENTATIONS[self.name](x, random and random.fork(self.stream), **self.arguments)


class RandAugment(nn.Module):
    """Each sample: ``num_layers`` distinct operations in random order, each applied with probability ``prob``
    (Cubuk et al. 2020, with the published operations for ECGs).  Level 0 changes nothing.

    Args:
        op_names: keys of ``AUGMENTATIONS`` that have a level; level: strength, 10 for the published one.
    """

    draws, name = True, "rand_augment"

    def __init__(self, op_names: LIST, level: LEVEL = 10, num_layers: WHOLE = 2, prob: SHARE = 0.5):
        super().__init__()
        known = {name: made for name, made in AUGMENTATIONS.items() if made.at_level(level) is not None}
        unknown = [name for name in op_names if name not in known]
        if unknown:
            raise ConfigError(f"rand_augment: unknown operation {unknown[0]!r}; known: {', '.join(known)}")
        if num_layers > len(op_names):
            raise ConfigError(f"rand_augment: num_layers is {num_layers} for {len(op_names)} operations")
        self.operations = [functools.partial(known[name], **known[name].at_level(level)) for name in op_names]
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
        """Put operation(x) into the chosen rows of ``result``; draws belong to samples: both ways give the same."""
        if x.device.type == "cpu":
            rows = chosen.nonzero()[:, 0]
            result[rows] = operation(x[rows], KeyedRandom(draws.keys[rows]))
        else:  # the host would wait for the device to learn the rows: cheaper to compute all of them
            result.copy_(torch.where(chosen[:, None, None], operation(x, draws), result))


# ============ from config to module ============
def _filter(kind, cutoff: NUMBER, fs: NUMBER = None, order: COUNT = 5):
    return kind, float(cutoff), fs, order


FILTERS = {f"{kind}_filter": functools.partial(_filter, kind) for kind in ("highpass", "lowpass")}
TRANSFORMS = {**FILTERS, "standardize": Standardize}


class Pipeline(nn.Module):
    """The device transforms of a config, in order, then RandAugment.  Always float32, also under autocast."""

    def __init__(self, steps):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @property
    def random_steps(self) -> list:
        """The steps that need random numbers."""
        return [step for step in self.steps if getattr(step, "draws", False)]

    @property
    def fixed(self) -> "Pipeline":
        """The same without its random steps: for evaluation, and for the statistics of an encoder's input."""
        return Pipeline(step for step in self.steps if step not in self.random_steps)

    def refuse_random_steps(self, where: str) -> None:
        """Raise a ConfigError if there is a random step."""
        for step in self.random_steps:
            raise ConfigError(f"{where}: {step.name} draws at random, which an evaluation must not; "
                              "leave it to dataset.transforms")

    def forward(self, x, random=None):
        """Transform x (batch, leads, time); ``random``, the samples' ``KeyedRandom``, may be left out where no step
        draws, as in ``fixed``; else that is a ConfigError."""
        if random is None:
            self.refuse_random_steps("transforms called without random numbers")
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for step in self.steps:
                x = step(x, random)
        return x


def build_pipeline(transforms: list, *, length: int, fs: float, rand_augment=None, where="dataset.transforms",
                   evaluation=False) -> Pipeline:
    """``Pipeline`` of a config's list of transforms (the cropping that leads it is the dataset's job).

    Neighbouring filters are fused into one linear map.

    Args:
        length: samples a crop; fs: their rate in Hz; evaluation: random steps are an error.

    Raises:
        ConfigError: unknown name or argument.
    """
    steps = [_parse_step(item, length, where) for item in transforms[1:]]
    modules = []
    for filtering, group in itertools.groupby(enumerate(steps), lambda entry: entry[1][0] in FILTERS):
        if filtering:
            modules.append(CropFilter(length, [_checked_filter(name, arguments, fs, where)
                                               for _, (name, arguments) in group]))
        else:
            modules += [Augment(name, arguments, position) if name in AUGMENTATIONS else Standardize(**arguments)
                        for position, (name, arguments) in group]
    if rand_augment is not None:
        _, arguments = parse_named({"rand_augment": rand_augment}, {"rand_augment": RandAugment}, "dataset")
        modules.append(RandAugment(**arguments))
    pipeline = Pipeline(modules)
    if evaluation:
        pipeline.refuse_random_steps(where)
    return pipeline


def _parse_step(item, length, where):
    """(name, arguments) of a transform, or of an augmentation that leaves a signal of ``length`` samples."""
    plain = {name: made.function for name, made in AUGMENTATIONS.items() if made.gives != "spectrogram"}
    name, arguments = parse_named(item, {**CROPPINGS, **TRANSFORMS, **plain}, where)
    if name in CROPPINGS:
        raise ConfigError(f"{where}: {name} must come first and only once")
    if arguments.get("length", length) != length:
        raise ConfigError(f"{where}: the length of {name} must be that of the crops, {length}, "
                          f"not {arguments['length']}")
    return name, arguments


def _checked_filter(name, arguments, fs, where):
    """A filter as ``CropFilter`` takes it."""
    kind, cutoff, own_fs, order = FILTERS[name](**arguments)
    if own_fs not in (None, fs):
        raise ConfigError(f"{where}: {name} says fs {own_fs} but dataset.fs is {fs}")
    return kind, cutoff, float(fs), order
