"""Device transforms: batches (batch, leads, time), vectorised over samples and leads, on CPU or
GPU alike.

Preprocessing is fixed (filters, standardisation); augmentations draw from the samples' own random
numbers. In a config a transform is ``name`` or ``{name: {argument: value}}``; the names are those
of ``TRANSFORMS``, and those of ``AUGMENTATIONS`` (util/augmentations.py) that make a signal of a
signal.
"""

import contextlib
import functools
import itertools
import math

import numpy as np
import scipy.linalg
import scipy.signal
import torch
import torch.nn as nn
import torch.nn.functional as F

from util.arguments import COUNT, LIST, NUMBER, SHARE, WHOLE, Kind, parse_named
from util.augmentations import AUGMENTATIONS
from util.dataset import CROPPINGS
from util.errors import ConfigError
from util.keyed_random import KeyedRandom

AXIS = Kind(
    "-1 (time), -2 (leads) or a list of both",
    lambda value: value in (-1, -2) or value in ([-1], [-2], [-1, -2], [-2, -1]),
)
MAX_LEVEL = (
    33  # RandAugment's longest windows are 0.03 level of the crop, and must be shorter than it
)
LEVEL = Kind(
    f"a number from 0 to {MAX_LEVEL}", lambda value: NUMBER.fits(value) and 0 <= value <= MAX_LEVEL
)
PLAIN_STREAM = (
    1 << 20
)  # from here on: streams of plain steps, apart from views, masks and RandAugment


# ============ filters ============
# of leads that a CPU filters at a time: fewer pay more for calls, more leave its cache
ROWS = 192


def _fast_length(length: int) -> int:
    """The next length of which FFTs are fast: a power of two, or 3, 5 or 9 times one."""
    return min(odd << max(0, (length - 1) // odd).bit_length() for odd in (1, 3, 5, 9))


@functools.lru_cache(maxsize=16)
def _crop_filter_parts(length: int, filters: tuple):
    """The exact linear map of zero-phase ``filters`` on crops of ``length`` samples, as FFT plus
    low rank.

    The map M (sosfiltfilt of the identity, one filter after the other) differs from the circular
    convolution of the zero-padded crop, with response H = product of |response|^2, only near the
    ends, by a matrix of rank about 20; a ConfigError if the rank is large, because the crop is
    short for the filters.

    Returns:
        n, the padded length; H (n//2 + 1,); V and U (length, rank) with M = C(H) + U V^T; whether
        the filters pass constants (else they remove them); M times ``_ramps``, less these
        themselves where M passes constants.  float64.
    """
    map_, padded = np.eye(length), _fast_length(length)
    frequency = np.fft.rfftfreq(padded) * 2 * np.pi
    response = np.ones_like(frequency)
    for kind, cutoff, fs, order in filters:
        sos = scipy.signal.butter(order, cutoff, kind, fs=fs, output="sos")
        map_ = scipy.signal.sosfiltfilt(sos, map_, axis=0)
        response *= np.abs(scipy.signal.sosfreqz(sos, frequency)[1]) ** 2
    rest = map_ - scipy.linalg.toeplitz(np.fft.irfft(response, padded)[:length])
    with torch.random.fork_rng(
        devices=[]
    ):  # svd_lowrank draws: leave the caller's random state alone
        torch.default_generator.manual_seed(0)
        u, s, v = torch.svd_lowrank(torch.from_numpy(rest), q=min(96, length), niter=6)
    rank = int((s > 1e-8).sum())
    if rank == len(s) < length:
        raise ConfigError(
            f"the filters {filters} need more than {rank} corrections on crops of {length} "
            "samples; use longer crops or a higher cut-off"
        )
    passes, ramps = bool(map_[0].sum() > 0.5), _ramps(length)
    return (
        padded,
        torch.from_numpy(response),
        v[:, :rank],
        u[:, :rank] * s[:rank],
        passes,
        torch.from_numpy(map_ @ ramps - passes * ramps),
    )


def _spacing(length: int) -> int:
    """Samples between the knots of ``_baseline``: a power of two, for 8 to 16 lines a crop."""
    return 1 << max(0, (length // 8).bit_length() - 1)


def _ramps(length: int) -> np.ndarray:
    """What a baseline is a sum of, beside its first knot: (length, lines), from 0 at one knot to
    1 at the next.
    """
    knots = np.arange(0, length, _spacing(length))
    return np.clip((np.arange(length)[:, None] - knots) / _spacing(length), 0, 1)


def _baseline(x, padded):
    """A wandering baseline of float32 x (rows, n), a chain of lines: its steps from knot to knot
    (rows, lines), and itself (rows, padded), 0 on the lines behind n.

    No rounding is in it, so that x less it is rounded like a small number, however high the
    baseline: knots are whole numbers of a unit that makes every value on the lines one of less
    than 2**24 steps.  A constant row is its own.
    """
    spacing = _spacing(x.shape[1])
    knots = torch.cat([x[:, ::spacing], x[:, -1:]], dim=1)
    highest = knots.abs().amax(1, keepdim=True).clamp(min=1e-30)
    unit = (
        highest / highest.frexp().mantissa * (spacing * 2.0**-23)
    )  # a power of two: division is exact
    flat = (knots == knots[:, :1]).all(1, keepdim=True)
    knots = torch.where(flat, knots, (knots / unit).round() * unit)
    steps = knots.diff(dim=1)
    # lengths of fast FFTs are multiples of the spacing
    behind = padded // spacing - steps.shape[1]
    ends = torch.stack([F.pad(knots[:, :-1], (0, behind)), F.pad(steps, (0, behind))], dim=2)
    part = torch.arange(spacing, device=x.device, dtype=x.dtype) / spacing
    lines = ends.view(-1, 2) @ torch.stack(
        [torch.ones_like(part), part]
    )  # exact, as the sums of two are
    return steps, lines.view(len(x), padded)


@contextlib.contextmanager
def _exact_products():
    """Matrix products in full float32, whatever ``train.matmul_precision`` says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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

    def __init__(self, length, filters):
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
        self.padded, response, v, u, self.passes, ramps = _crop_filter_parts(length, tuple(filters))
        self.length = length
        parts = {
            "response": response[:, None].expand(-1, 2),
            "v": v,
            "u": torch.cat([u, ramps], dim=1).mT,
        }
        for name, value in parts.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)

    def forward(self, x, random=None):
        if x.shape[-1] != self.length:
            raise ValueError(f"the filter was made for {self.length} samples, not {x.shape[-1]}")
        rows = x.reshape(-1, self.length).float()
        out, together = (
            torch.empty_like(rows),
            ROWS if x.device.type == "cpu" else max(len(rows), 1),
        )
        with _exact_products():
            for part, place in zip(rows.split(together), out.split(together)):
                self._filter(part, place)
        return out.view(x.shape).to(x.dtype)

    def _filter(self, rows, out):
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


class Standardize(nn.Module):
    """(x - mean) / std over ``axis`` of each sample, population std, 0 where a std is 0.

    ``axis`` counts (leads, time) as the published configs do: [-1, -2] for all leads together, -1
    for each.
    """

    def __init__(self, axis: AXIS = (-1, -2)):
        super().__init__()
        self.axis = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)

    def forward(self, x, random=None):
        mean = x.mean(dim=self.axis, keepdim=True)
        centred = x - mean  # two passes: torch.std_mean takes five times as long on a CPU
        std = centred
        for axis in self.axis:  # one by one: sums of fewer squares keep more digits
            std = torch.linalg.vector_norm(std, dim=axis, keepdim=True) / math.sqrt(x.shape[axis])
        # A constant's standard deviation is rounding noise, not zero: compare with the level.
        flat = std <= 1e-6 * mean.abs()
        return centred.mul_(torch.where(flat, 0.0, 1 / std))


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
    """Each sample: ``num_layers`` distinct operations in random order, each applied with
    probability ``prob`` (Cubuk et al. 2020, with the published operations for ECGs).  Level 0
    changes nothing.

    Args:
        op_names: keys of ``AUGMENTATIONS`` that have a level; level: strength, 10 for the
            published one.
    """

    draws, name = True, "rand_augment"

    def __init__(self, op_names: LIST, level: LEVEL = 10, num_layers: WHOLE = 2, prob: SHARE = 0.5):
        super().__init__()
        known = {
            name: made for name, made in AUGMENTATIONS.items() if made.at_level(level) is not None
        }
        unknown = [name for name in op_names if name not in known]
        if unknown:
            raise ConfigError(
                f"rand_augment: unknown operation {unknown[0]!r}; known: {', '.join(known)}"
            )
        if num_layers > len(op_names):
            raise ConfigError(
                f"rand_augment: num_layers is {num_layers} for {len(op_names)} operations"
            )
        self.operations = [
            functools.partial(known[name], **known[name].at_level(level)) for name in op_names
        ]
        self.level, self.num_layers, self.prob = level, num_layers, prob

    def forward(self, x, random):
        if not self.level:
            return x
        count = len(self.operations)
        choice = random.permutation(count)[:, : self.num_layers]
        choice = choice.where(random.uniform(self.num_layers) < self.prob, -1)
        x = x.clone()
        for layer in range(self.num_layers):
            keys = KeyedRandom(
                random.keys, 1 + layer * count + choice[:, layer]
            ).keys  # of this layer and operation
            for number, operation in enumerate(self.operations):
                self._where_chosen(operation, x, choice[:, layer] == number, keys)
        return x

    def _where_chosen(self, operation, x, chosen, keys):
        """Put operation(x) into the chosen rows of x, in place; draws belong to samples: both
        ways give the same.
        """
        if x.device.type == "cpu":
            rows = chosen.nonzero()[:, 0]
            if len(rows):  # NumPy writes rows in half the time that index_copy_ takes
                made = operation(x.index_select(0, rows), KeyedRandom(keys.index_select(0, rows)))
                x.numpy()[rows.numpy()] = made.numpy()
        # the host would wait for the device to learn the rows: cheaper to compute all of them
        else:
            x.copy_(torch.where(chosen[:, None, None], operation(x, KeyedRandom(keys)), x))


# ============ from config to module ============
def _filter(kind, cutoff: NUMBER, fs: NUMBER = None, order: COUNT = 5):
    return kind, float(cutoff), float(fs), order


FILTERS = {f"{kind}_filter": functools.partial(_filter, kind) for kind in ("highpass", "lowpass")}
TRANSFORMS = {**FILTERS, "standardize": Standardize}


class Pipeline(nn.Module):
    """The device transforms of a config, in order, then RandAugment.  Always float32, also under
    autocast.
    """

    def __init__(self, steps):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @property
    def random_steps(self) -> list:
        """The steps that need random numbers."""
        return [step for step in self.steps if getattr(step, "draws", False)]

    @property
    def fixed(self) -> "Pipeline":
        """The same without its random steps: for evaluation, and for the statistics of an
        encoder's input.
        """
        return Pipeline(step for step in self.steps if step not in self.random_steps)

    def refuse_random_steps(self, where: str) -> None:
        """Raise a ConfigError if there is a random step."""
        for step in self.random_steps:
            raise ConfigError(
                f"{where}: {step.name} draws at random, which an evaluation must not; leave it to "
                "dataset.transforms"
            )

    def forward(self, x, random=None):
        """Transform x (batch, leads, time); ``random``, the samples' ``KeyedRandom``, may be left
        out where no step draws, as in ``fixed``; else that is a ConfigError.
        """
        if random is None:
            self.refuse_random_steps("transforms called without random numbers")
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for step in self.steps:
                x = step(x, random)
        return x


def build_pipeline(
    transforms: list,
    *,
    length: int,
    fs: float,
    rand_augment=None,
    where="dataset.transforms",
    evaluation=False,
) -> Pipeline:
    """``Pipeline`` of a config's list of transforms (the cropping that leads it is the dataset's
    job).

    Neighbouring filters are fused into one linear map.  An unknown name or argument is a
    ConfigError.

    Args:
        length: samples a crop; fs: their rate in Hz; evaluation: random steps are an error.
    """
    steps = [_parse_step(item, length, fs, where) for item in transforms[1:]]
    modules = []
    for filtering, group in itertools.groupby(
        enumerate(steps), lambda entry: entry[1][0] in FILTERS
    ):
        if filtering:
            modules.append(
                CropFilter(
                    length,
                    [FILTERS[name](**{**arguments, "fs": fs}) for _, (name, arguments) in group],
                )
            )
        else:
            modules += [
                Augment(name, arguments, position)
                if name in AUGMENTATIONS
                else Standardize(**arguments)
                for position, (name, arguments) in group
            ]
    if rand_augment is not None:
        _, arguments = parse_named(
            {"rand_augment": rand_augment}, {"rand_augment": RandAugment}, "dataset"
        )
        modules.append(RandAugment(**arguments))
    pipeline = Pipeline(modules)
    if evaluation:
        pipeline.refuse_random_steps(where)
    return pipeline


def _parse_step(item, length, fs, where):
    """(name, arguments) of a transform, or of an augmentation that leaves a signal of ``length``
    samples.
    """
    plain = {
        name: made.function for name, made in AUGMENTATIONS.items() if made.gives != "spectrogram"
    }
    name, arguments = parse_named(item, {**CROPPINGS, **TRANSFORMS, **plain}, where)
    if name in CROPPINGS:
        raise ConfigError(f"{where}: {name} must come first and only once")
    if arguments.get("length", length) != length:
        raise ConfigError(
            f"{where}: the length of {name} must be that of the crops, {length}, not "
            f"{arguments['length']}"
        )
    if arguments.get("fs", fs) != fs:
        raise ConfigError(f"{where}: {name} says fs {arguments['fs']} but dataset.fs is {fs}")
    return name, arguments
