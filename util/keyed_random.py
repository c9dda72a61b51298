"""Random numbers that belong to the sample, not to the machine.

Every crop carries a 64-bit key made from (seed, epoch, record, visit).  Whatever is drawn for it
(crop start, augmentation, mask) is a pure function of that key and of a counter, evaluated by
integer arithmetic on whatever device holds the batch.  So 1 process or 8, 0 workers or 16, CPU or
GPU, and a resumed run all see the same views.

The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
OOPSLA 2014) used in counter mode: number n of key k is mix(k + (n + 1) * GAMMA).
"""

import functools
import math

import numpy as np
import torch

# as signed 64-bit integers: torch has few operations on unsigned ones
GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MIX2 = 0x94D049BB133111EB - (1 << 64)
DRAW_STRIDE = 1 << 32  # numbers one draw may take for one sample
# Who forks the generator of a batch, and the first stream of each; what a method draws itself
# (masks) is the generator's own.  Two users never meet: each has STREAM_ROOM streams.
STREAM_ROOM = (1 << 20) - 1
STREAMS = {"view": 1, "augment": 1 << 20, "rand_augment": 2 << 20}

# What _here makes of keys: 64 random bits each, unsigned in an array, signed in a tensor.
Bits = np.ndarray | torch.Tensor


def _here(x: torch.Tensor) -> Bits:
    """A tensor on a CPU as an array of unsigned integers: the same numbers in fewer passes."""
    return x.numpy().view(np.uint64) if x.device.type == "cpu" else x


def _tensor(x: Bits) -> torch.Tensor:
    """The int64 tensor of what came from ``_here``."""
    return torch.from_numpy(x.view(np.int64)) if isinstance(x, np.ndarray) else x


def _shift(x: Bits, bits: int) -> Bits:
    """Logical right shift of an unsigned array, or of a signed tensor."""
    return x >> bits if isinstance(x, np.ndarray) else (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Bits) -> Bits:
    """SplitMix64's finaliser; multiplication wraps modulo 2**64."""
    for bits, factor in ((30, MIX1), (27, MIX2)):
        x = x ^ _shift(x, bits)
        x *= factor % (1 << 64) if isinstance(x, np.ndarray) else factor
    return x ^ _shift(x, 31)


def _float(bits: Bits) -> torch.Tensor:
    """float32 tensor of whole numbers below 2**24."""
    if isinstance(bits, np.ndarray):
        return torch.from_numpy(bits.astype(np.float32))
    return bits.float()


def _unit(bits: Bits) -> torch.Tensor:
    """float32 in [0, 1), a multiple of 2**-24, from the upper 24 of 64 bits."""
    return _float(_shift(bits, 40)).mul_(2.0**-24)


@functools.lru_cache(maxsize=32)
def _counters(shape: tuple[int, ...], first: int | None, device: torch.device) -> Bits:
    """GAMMA times 1, 2, ... in this shape, or the first of them along its last axis; on the
    device, as ``_here``.
    """
    numbers = torch.arange(1, math.prod(shape) + 1, device=device).view(shape)
    return _here((numbers[..., :first] * GAMMA).contiguous())


def sample_keys(seed: int, epoch: int, records: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Return keys of crops, int64 (n,), distinct and well mixed.

    Args:
        seed: of the run.
        epoch: from 0.
        records: (n,), each crop's row in the store.
        visits: (n,), which visit of the record in this epoch it is (0, 1, ...).
    """
    key = np.zeros(len(records), np.int64)
    with np.errstate(over="ignore"):
        for part in (np.int64(seed), np.int64(epoch), records, visits):
            bits = _mix(((key ^ part.astype(np.int64)) + np.int64(GAMMA)).view(np.uint64))
            key = np.asarray(bits).view(np.int64)
    return key


class KeyedRandom:
    """Draws for a batch of keys.

    Args:
        keys: int64 tensor (batch,), on the device where numbers are wanted.
        stream: draws of different streams with the same keys are independent; a number for all
            keys or a tensor (batch,), one for each.  See ``fork``.

    Every method returns a tensor (batch, *shape) on that device.  Draws follow each other:
    calling twice gives different numbers, and the n-th call of the same stream always gives the
    same ones.  A row depends on its own key alone, so ``KeyedRandom(keys).uniform(3)[rows] ==
    KeyedRandom(keys[rows]).uniform(3)``.
    """

    def __init__(self, keys: torch.Tensor, stream: int | torch.Tensor | None = None) -> None:
        self.keys = keys
        if stream is not None:
            self.keys = _tensor(_mix(_here(keys ^ (stream * MIX1 & ((1 << 63) - 1)))))
        self.draws = 0

    def fork(self, user: str, number: int | torch.Tensor = 0) -> "KeyedRandom":
        """Return an independent generator for the same samples.

        Args:
            user: who draws from it, a key of ``STREAMS``.
            number: which of its streams, from 0 (one a view, say); or a tensor (batch,), one for
                each sample, whose numbers are not checked.

        Raises:
            ValueError: the user is unknown, or has no stream of that number.
        """
        if user not in STREAMS:
            raise ValueError(f"no streams of {user!r}; there are those of {', '.join(STREAMS)}")
        if isinstance(number, int) and not 0 <= number < STREAM_ROOM:
            raise ValueError(
                f"{user}: streams count from 0 to {STREAM_ROOM - 1}, not {number}, which is "
                "another user's"
            )
        return KeyedRandom(self.keys, STREAMS[user] + number)

    def _bits(self, shape: tuple[int, ...], first: int | None = None) -> Bits:
        count = math.prod(shape)
        if count >= DRAW_STRIDE:
            raise ValueError(f"one draw of {count} numbers a sample is more than {DRAW_STRIDE}")
        half = 1 << 63
        start = (self.draws * DRAW_STRIDE * GAMMA + half) % (1 << 64) - half  # as a signed number
        self.draws += 1
        keys = _here(self.keys + start).reshape(-1, *[1] * len(shape))
        return _mix(keys + _counters(shape, first, self.keys.device))

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw float32 in [0, 1), multiples of 2**-24."""
        return _unit(self._bits(shape))

    def normal(self, *shape: int, first: int | None = None) -> torch.Tensor:
        """Draw standard normal float32 by Box and Muller, both uniforms from one 64-bit number.

        Args:
            first: draw only this many along the last axis: normal(*shape)[..., :first] for
                less work.
        """
        bits = self._bits(shape, first)
        radius = 1 - _unit(bits)  # in (0, 1]
        angle = _float(_shift(bits, 16) & 0xFFFFFF).mul_(2.0**-23 * math.pi)
        return (-2 * radius.log()).sqrt() * angle.cos()

    def integers(self, high: int | torch.Tensor, *shape: int) -> torch.Tensor:
        """Draw int64 in [0, high).

        Args:
            high: an int, or a tensor that broadcasts to (batch, *shape).
        """
        # 53 random bits each, so that every place of an hour's recording is as likely as any
        # other
        return (_tensor(_shift(self._bits(shape), 11)).double() * 2.0**-53 * high).long()

    def permutation(self, n: int) -> torch.Tensor:
        """Draw a random order of 0..n-1 for every sample, (batch, n)."""
        bits = _tensor(self._bits((n,)))  # signed integers; NumPy sorts them faster
        if bits.device.type == "cpu":
            return torch.from_numpy(bits.numpy().argsort(axis=1))
        return bits.argsort(dim=1)
