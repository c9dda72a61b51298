"""Waves of a heart dipole, sums of Gaussians, and the leads that it writes.

Vectors are (I, A, Z): what the wave writes in lead I, in lead aVF times 2/sqrt(3), and Frank's Z
(to the back), in mV.  In (I, A) an angle is the frontal axis as it is read from the leads.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Rows V1..V6, I, II of Dower's matrix; columns Frank's X (to the left), Y (to the feet), Z (to
# the back).
DOWER = np.array(
    [
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
    ]
)
_I, _II = DOWER[6], DOWER[7]


_FRONTAL = np.stack([_I, (_II - _I / 2) * 2 / np.sqrt(3), [0, 0, 1]])  # (X, Y, Z) -> (I, A, Z)
TO_FRANK = np.linalg.inv(_FRONTAL).T  # rows (I, A, Z) @ TO_FRANK = (X, Y, Z)
# Potentials against Wilson's central terminal of the electrodes RA, LA, LL, C1..C6 from the
# dipole ...
TO_ELECTRODES = np.stack(
    [-(_I + _II) / 3, (2 * _I - _II) / 3, (2 * _II - _I) / 3, *DOWER[:6]], axis=1
)  # (3, 9)
# ... and the twelve leads from the potentials of those electrodes.
TO_LEADS = np.zeros((9, 12))
TO_LEADS[:3, :6] = np.array(
    [[-1, 1, 0], [-1, 0, 1], [0, -1, 1], [1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]]
).T


TO_LEADS[:3, 6:] = -1 / 3
TO_LEADS[3:, 6:] = np.eye(6)
EDGE = 2.3  # a Gaussian of the QRS begins and ends this many standard deviations from its centre


class Waves(NamedTuple):
    """Gaussians: times in seconds (k,), vectors in mV (k, 3).

    Attributes:
        centre: where each is largest.
        before: standard deviation on the side before its centre.
        after: standard deviation on the other side.
        vector: its largest value, (I, A, Z).
    """

    centre: np.ndarray
    before: np.ndarray
    after: np.ndarray
    vector: np.ndarray


def to_waves(table: ArrayLike, scale: float = 1.0) -> Waves:
    """Return the waves of a table (k, 5) of centre, standard deviation, I, A, Z.

    Args:
        table: times as shares of ``scale``, vectors in mV.
        scale: seconds.
    """
    rows = np.asarray(table, float)
    return Waves(rows[:, 0] * scale, rows[:, 1] * scale, rows[:, 1] * scale, rows[:, 2:])


def join(*parts: Waves) -> Waves:
    """Return all waves of the parts, in their order."""
    return Waves(*(np.concatenate(column) for column in zip(*parts)))


def vary(waves: Waves, rng: np.random.Generator, spread: float) -> Waves:
    """Make every wave a little larger or smaller and turn it a little: no two hearts are alike."""
    size = np.exp(spread * rng.standard_normal((len(waves.centre), 1)))
    turn = (
        0.5
        * spread
        * rng.standard_normal(waves.vector.shape)
        * np.linalg.norm(waves.vector, axis=1)[:, None]
    )
    return waves._replace(vector=waves.vector * size + turn)


def net_area(waves: Waves) -> np.ndarray:
    """Return the net area (I, A, Z) in mV s."""
    return ((waves.before + waves.after)[:, None] * np.sqrt(np.pi / 2) * waves.vector).sum(axis=0)


def turn_to_axis(movable: Waves, fixed: Waves, axis: float) -> Waves:
    """Rotate ``movable`` in the frontal plane so that with ``fixed`` it has this axis (degrees)."""
    target = np.deg2rad(axis)
    area, rest = net_area(movable)[:2], net_area(fixed)[:2]
    across = rest @ [
        -np.sin(target),
        np.cos(target),
    ]  # the part of ``fixed`` that would tilt the sum
    tilt = np.arcsin(np.clip(-across / np.hypot(*area), -0.9, 0.9))
    angle = target + tilt - np.arctan2(area[1], area[0])
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    vector = movable.vector.copy()
    vector[:, :2] = vector[:, :2] @ rotation
    return movable._replace(vector=vector)


def limb_voltage(waves: Waves) -> float:
    """Return the largest peak-to-peak deflection of these waves among the limb leads, in mV."""
    time = np.arange(-0.05, 0.3, 0.002)
    offset = time[:, None] - waves.centre
    width = np.where(offset < 0, waves.before, waves.after)
    path = np.exp(-0.5 * (offset / width) ** 2) @ (waves.vector @ TO_FRANK)
    return np.ptp(path @ TO_ELECTRODES[:, :3] @ TO_LEADS[:3, :6], axis=0).max()


def place(waves: Waves, at: np.ndarray, stretch: ArrayLike = 1.0) -> Waves:
    """Repeat the waves at every time of ``at`` (b,); ``stretch`` (scalar or (b,)) widens them."""
    stretch = np.broadcast_to(stretch, at.shape)[:, None]
    return Waves(
        (at[:, None] + stretch * waves.centre).ravel(),
        (stretch * waves.before).ravel(),
        (stretch * waves.after).ravel(),
        np.tile(waves.vector, (len(at), 1)),
    )


def render(waves: Waves, samples: int, fs: float) -> np.ndarray:
    """Return the sum of the Gaussians on the sample grid, (samples, 3).

    Each is computed on its +-5 standard deviations only: all at once, as one ragged array.
    """
    low = np.clip(np.ceil((waves.centre - 5 * waves.before) * fs).astype(int), 0, samples)
    high = np.clip(np.floor((waves.centre + 5 * waves.after) * fs).astype(int) + 1, 0, samples)
    count = np.maximum(high - low, 0)
    event = np.repeat(np.arange(len(count)), count)
    sample = np.arange(count.sum()) + np.repeat(low - np.cumsum(count) + count, count)
    offset = sample / fs - waves.centre[event]
    value = np.exp(
        -0.5 * (offset / np.where(offset < 0, waves.before[event], waves.after[event])) ** 2
    )
    axes = [np.bincount(sample, value * waves.vector[event, axis], samples) for axis in range(3)]
    return np.stack(axes, axis=1)


def thin_product(tall: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Return the matrix product of (n, a) and (a, b) without BLAS.

    Its threads cost thin matrices more than they save, and its rounding depends on their number.
    """
    return np.einsum("na,ab->nb", tall, small)
