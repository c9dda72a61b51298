"""Which windows of a record a job sees: their places, not yet their samples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from util.named_arguments import COUNT, parse_named


@dataclass(frozen=True)
class Cropping:
    """Windows of ``length`` samples.

    Attributes:
        kind: random, center, segments (``count`` spread evenly from the start to the end), cover
            (as many segments as cover the record) or moving (every ``stride`` samples; a last
            window that does not fit is left out).
        length, count, stride: in samples, windows and samples.
    """

    kind: str
    length: int
    count: int = 1
    stride: int = 0

    def starts(self, samples: int) -> np.ndarray:
        """Return the first samples of the fixed windows of a record.

        A record shorter than the window has the one window at 0, which the dataset pads.
        """
        spare = samples - self.length
        if spare <= 0:
            return np.zeros(1, np.int64)
        if self.kind == "moving":
            return np.arange(0, spare + 1, self.stride)
        if self.kind == "cover":
            count = -(-samples // self.length)
            return np.linspace(0, spare, count).astype(np.int64)
        if self.kind == "segments":
            # Equals the published arange(0, L-crop+1, (L-crop)//(n-1)) where that gives n
            # segments.
            step = spare // (self.count - 1) if self.count > 1 else 0
            return np.unique(np.minimum(np.arange(self.count) * step, spare))
        return np.array([spare // 2])


def random_crop(crop_length: COUNT) -> Cropping:
    """Take one window at a random place, in evaluation the centre."""
    return Cropping("random", crop_length)


def center_crop(crop_length: COUNT) -> Cropping:
    """Take the window in the middle."""
    return Cropping("center", crop_length)


def n_crop(crop_length: COUNT, num_segments: COUNT) -> Cropping:
    """Take several windows, spread evenly."""
    return Cropping("segments", crop_length, count=num_segments)


def moving_window_crop(crop_length: COUNT, crop_stride: COUNT) -> Cropping:
    """Take a window every ``crop_stride`` samples."""
    return Cropping("moving", crop_length, stride=crop_stride)


CROPPINGS: dict[str, Callable[..., Cropping]] = {
    make.__name__: make for make in (random_crop, center_crop, n_crop, moving_window_crop)
}


def parse_cropping(transforms: list, where: str) -> Cropping:
    """Read the cropping that must stand first in a list of transforms.

    Raises:
        ConfigError: none does.
    """
    first = transforms[0] if transforms else None
    name, arguments = parse_named(first, CROPPINGS, f"{where} must begin with a cropping")
    return CROPPINGS[name](**arguments)
