"""Device transforms: batches (batch, leads, time), vectorised over samples and leads, on CPU or
GPU alike.

Preprocessing is fixed (filters, standardisation); augmentations draw from the samples' own random
numbers. In a config a transform is ``name`` or ``{name: {argument: value}}``; the names are those
of ``TRANSFORMS``, and those of ``AUGMENTATIONS`` (util/signals/augmentations.py) that make a
signal of a signal.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
import torch.nn as nn
from torch import Tensor

from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.named_arguments import COUNT, LIST, NUMBER, SHARE, WHOLE, Kind, is_number, parse_named
from util.signals.augmentations import AUGMENTATIONS
from util.signals.crops import CROPPINGS
from util.signals.filters import CropFilter, Filter

AXIS = Annotated[
    int | list[int] | tuple[int, ...],
    Kind(
        "-1 (time), -2 (leads) or a list of both",
        lambda value: value in (-1, -2) or value in ([-1], [-2], [-1, -2], [-2, -1]),
    ),
]
# RandAugment's longest windows are 0.03 level of the crop, and must be shorter than it
MAX_LEVEL = 33
LEVEL = Annotated[
    float,
    Kind(
        f"a number from 0 to {MAX_LEVEL}",
        lambda value: is_number(value) and 0 <= value <= MAX_LEVEL,
    ),
]


# ============ standardisation ============
class Standardize(nn.Module):
    """(x - mean) / std over ``axis`` of each sample, population std, 0 where a std is 0.

    ``axis`` counts (leads, time) as the published configs do: [-1, -2] for all leads together, -1
    for each.
    """

    def __init__(self, axis: AXIS = (-1, -2)) -> None:
        super().__init__()
        self.axis = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)

    def forward(self, x: Tensor, random: KeyedRandom | None = None) -> Tensor:
        """Return x (batch, leads, time), standardised."""
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

    def __init__(self, name: str, arguments: dict[str, Any], position: int) -> None:
        super().__init__()
        self.name, self.arguments, self.position = name, arguments, position
        self.draws = AUGMENTATIONS[name].draws

    def forward(self, x: Tensor, random: KeyedRandom | None = None) -> Tensor:
        """Return x (batch, leads, time), augmented."""
        step_random = random.fork("augment", self.position) if random else None
        return AUGMENTATIONS[self.name](x, step_random, **self.arguments)


class RandAugment(nn.Module):
    """Each sample: ``num_layers`` distinct operations in random order, each applied with
    probability ``prob`` (Cubuk et al. 2020, with the published operations for ECGs).  Level 0
    changes nothing.

    Args:
        op_names: keys of ``AUGMENTATIONS`` that have a level.
        level: strength, 10 for the published one.
        num_layers: operations a sample.
        prob: chance of each.
    """

    draws, name = True, "rand_augment"

    def __init__(
        self, op_names: LIST, level: LEVEL = 10, num_layers: WHOLE = 2, prob: SHARE = 0.5
    ) -> None:
        super().__init__()
        levels = {name: entry.at_level(level) for name, entry in AUGMENTATIONS.items()}
        known = {name: arguments for name, arguments in levels.items() if arguments is not None}
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
            functools.partial(AUGMENTATIONS[name], **known[name]) for name in op_names
        ]
        self.level, self.num_layers, self.prob = level, num_layers, prob

    def forward(self, x: Tensor, random: KeyedRandom) -> Tensor:
        """Return x (batch, leads, time), augmented."""
        if not self.level:
            return x
        count = len(self.operations)
        own = random.fork("rand_augment")
        choice = own.permutation(count)[:, : self.num_layers]
        choice = choice.where(own.uniform(self.num_layers) < self.prob, -1)
        x = x.clone()
        for layer in range(self.num_layers):
            # of this layer and operation; stream 0 is taken, and 1 left to those not chosen
            keys = random.fork("rand_augment", 2 + layer * count + choice[:, layer]).keys
            for number, operation in enumerate(self.operations):
                self._where_chosen(operation, x, choice[:, layer] == number, keys)
        return x

    def _where_chosen(
        self, operation: Callable[..., Tensor], x: Tensor, chosen: Tensor, keys: Tensor
    ) -> None:
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
def _filter(kind: str, cutoff: NUMBER, fs: NUMBER = math.nan, order: COUNT = 5) -> Filter:
    """A config may give ``fs``; ``build_pipeline`` always does."""
    return kind, float(cutoff), float(fs), order


FILTERS = {f"{kind}_filter": functools.partial(_filter, kind) for kind in ("highpass", "lowpass")}
TRANSFORMS: dict[str, Callable[..., Any]] = {**FILTERS, "standardize": Standardize}


class Pipeline(nn.Module):
    """The device transforms of a config, in order, then RandAugment.

    Always float32, also under autocast.
    """

    def __init__(self, steps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @property
    def random_steps(self) -> list[nn.Module]:
        """Return the steps that need random numbers."""
        return [step for step in self.steps if getattr(step, "draws", False)]

    @property
    def fixed(self) -> "Pipeline":
        """Return the same without its random steps.

        It is for evaluation, and for the statistics of an encoder's input.
        """
        return Pipeline(step for step in self.steps if step not in self.random_steps)

    def refuse_random_steps(self, where: str) -> None:
        """Raise a ConfigError if there is a random step."""
        for step in self.random_steps:
            raise ConfigError(
                f"{where}: {step.name} draws at random, which an evaluation must not; leave it "
                "to dataset.transforms"
            )

    def forward(self, x: Tensor, random: KeyedRandom | None = None) -> Tensor:
        """Transform x (batch, leads, time).

        Args:
            random: the samples' numbers; may be left out where no step draws, as in ``fixed``.

        Raises:
            ConfigError: a step draws, and there is no ``random``.
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
    rand_augment: dict | None = None,
    where: str = "dataset.transforms",
    evaluation: bool = False,
) -> Pipeline:
    """Build the ``Pipeline`` of a config's list of transforms.

    The cropping that leads the list is the dataset's job.  Neighbouring filters are fused into
    one linear map.

    Args:
        length: samples a crop.
        fs: their rate in Hz.
        rand_augment: arguments of RandAugment, which comes last; None: without it.
        where: the config's key, for messages.
        evaluation: random steps are an error.

    Raises:
        ConfigError: a name or an argument is unknown or wrong.
    """
    steps = [_parse_step(item, length, fs, where) for item in transforms[1:]]
    modules: list[nn.Module] = []
    numbered = enumerate(steps)  # a step's number is its stream of random numbers
    for is_filter, group in itertools.groupby(numbered, lambda entry: entry[1][0] in FILTERS):
        if is_filter:
            filters = [FILTERS[name](**{**given, "fs": fs}) for _, (name, given) in group]
            modules.append(CropFilter(length, filters))
            continue
        for position, (name, arguments) in group:
            if name in AUGMENTATIONS:
                modules.append(Augment(name, arguments, position))
            else:
                modules.append(Standardize(**arguments))
    if rand_augment is not None:
        _, arguments = parse_named(
            {"rand_augment": rand_augment}, {"rand_augment": RandAugment}, "dataset"
        )
        modules.append(RandAugment(**arguments))
    pipeline = Pipeline(modules)
    if evaluation:
        pipeline.refuse_random_steps(where)
    return pipeline


def _parse_step(item: object, length: int, fs: float, where: str) -> tuple[str, dict[str, Any]]:
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
