"""Random numbers keyed by the sample: SplitMix64 in Python's own integers, and their statistics."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from util.keyed_random import DRAW_STRIDE, STREAM_ROOM, STREAMS, KeyedRandom, sample_keys

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


# ============ the generator, in unsigned integers of any size ============
def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def splitmix64(seed, count):
    """The published sequential generator."""
    out = []
    for _ in range(count):
        seed = (seed + GAMMA) & MASK
        out.append(mix(seed))
    return out


def unsigned(values):
    return [int(v) & MASK for v in values]


def many(n=20000, seed=0):
    """Keys as the dataset makes them."""
    return KeyedRandom(torch.from_numpy(sample_keys(seed, 3, np.arange(n), np.zeros(n, int))))


def test_the_reference_is_splitmix64():
    """First outputs for seed 1234567, as printed with the public C code."""
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", [0, 1, -1, 1234567, -(1 << 63), (1 << 63) - 1])
def test_numbers_of_a_key_are_those_of_splitmix64(key):
    random = KeyedRandom(torch.tensor([key]))
    assert unsigned(random._bits((5,))[0]) == splitmix64(key & MASK, 5)
    # the second draw continues far behind the first
    start = (key + GAMMA * DRAW_STRIDE) & MASK
    assert unsigned(random._bits((2, 2))[0].flatten()) == splitmix64(start, 4)


def test_uniform_normal_and_integers_are_made_from_those_bits():
    keys = torch.tensor([5, -77])
    bits = np.array([splitmix64(int(key) & MASK, 6) for key in keys], dtype=object)
    uniform = np.array([[int(b) >> 40 for b in row] for row in bits]) / 2**24
    assert KeyedRandom(keys).uniform(6).double().numpy().tolist() == uniform.tolist()
    angle = (
        np.array([[(int(b) >> 16) & 0xFFFFFF for b in row] for row in bits]) / 2**24 * 2 * math.pi
    )
    normal = np.sqrt(-2 * np.log(1 - uniform)) * np.cos(angle)
    np.testing.assert_allclose(KeyedRandom(keys).normal(6).numpy(), normal, atol=2e-6)
    wide = [[(int(b) >> 11) * 1000 >> 53 for b in row] for row in bits]
    assert KeyedRandom(keys).integers(1000, 6).tolist() == wide


def test_the_first_numbers_of_a_draw_cost_only_themselves():
    first, all_ = many(5), many(5)
    for _ in range(2):  # and what follows is the same
        assert torch.equal(first.normal(3, 40, first=7), all_.normal(3, 40)[..., :7])


# ============ statistics ============
def test_uniform_is_uniform_over_samples_and_over_draws():
    by_sample, by_draw = (
        many().uniform(1).flatten(),
        KeyedRandom(torch.tensor([42])).uniform(20000).flatten(),
    )
    for values in (by_sample, by_draw):
        assert scipy.stats.kstest(values.numpy(), "uniform").pvalue > 1e-3
        assert 0 <= values.min() and values.max() < 1


def test_normal_is_normal():
    values = many(4000).normal(6).double().numpy()
    assert np.isfinite(values).all()
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(6)).max() < 5 / math.sqrt(4000)


def test_the_largest_uniform_still_has_a_logarithm():
    """1 - u is in (0, 1]: the radius is finite for every bit pattern."""
    u = torch.tensor([0.0, 1 - 2.0**-24])
    assert torch.isfinite((-2 * (1 - u).log()).sqrt()).all()


@pytest.mark.parametrize("high", [1, 2, 7, 251, 2250])
def test_integers_are_uniform_over_their_whole_range(high):
    values = many().integers(high, 1).flatten()
    counts = torch.bincount(values, minlength=high)
    assert len(counts) == high
    if high > 1:
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_integers_take_a_high_of_their_own_for_each_sample():
    high = torch.arange(1, 20001)[:, None]
    values = many().integers(high, 1)
    assert (values >= 0).all() and (values < high).all()
    assert (
        scipy.stats.kstest(((values + 0.5) / high).flatten().numpy()[1000:], "uniform").pvalue
        > 1e-3
    )


def test_integers_reach_every_place_of_a_long_recording():
    """24 random bits would reach every 64th number below 2**30 alone."""
    values = many(50_000).integers(1 << 30, 1).flatten()
    assert scipy.stats.chisquare(torch.bincount(values % 64, minlength=64).numpy()).pvalue > 1e-3
    assert scipy.stats.kstest(values.numpy() / 2**30, "uniform").pvalue > 1e-3


def test_permutations_are_permutations_all_alike():
    order = many(24000).permutation(4)
    assert (order.sort(dim=1)[0] == torch.arange(4)).all()
    names = (order * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    counts = names.unique(return_counts=True)[1]
    assert len(counts) == 24 and scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def correlation(a, b):
    return abs(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def test_draws_streams_epochs_and_records_are_independent():
    limit = 5 / math.sqrt(20000)
    random = many()
    first, second = random.uniform(1), random.uniform(1)
    streams = [first, second]
    streams += [many().fork(user, n).uniform(1) for user in STREAMS for n in (0, 1, 2)]
    streams += [many().fork("view", n).fork("augment", 1 - n).uniform(1) for n in (0, 1)]
    for number, one in enumerate(streams):
        assert all(correlation(one, other) < limit for other in streams[:number]), number
    other = torch.from_numpy(sample_keys(0, 4, np.arange(20000), np.zeros(20000, int)))
    assert correlation(first, KeyedRandom(other).uniform(1)) < limit
    assert correlation(first[:-1], first[1:]) < limit


# ============ what belongs to the sample ============
def test_a_row_depends_on_its_own_key_alone():
    keys = torch.from_numpy(sample_keys(1, 0, np.arange(50), np.zeros(50, int)))
    rows = torch.tensor([31, 4, 4, 0])
    for draw in (
        lambda r: r.uniform(3, 2),
        lambda r: r.normal(5),
        lambda r: r.integers(9, 4),
        lambda r: r.permutation(6),
    ):
        assert torch.equal(draw(KeyedRandom(keys))[rows], draw(KeyedRandom(keys[rows])))
    assert torch.equal(
        KeyedRandom(keys).fork("view", 3).uniform(2)[rows],
        KeyedRandom(keys[rows]).fork("view", 3).uniform(2),
    )


def test_the_nth_call_always_gives_the_same():
    a, b = many(10), many(10)
    a.normal(100)
    b.uniform(2)  # how many numbers a draw takes does not move the next one
    assert torch.equal(a.uniform(3), b.uniform(3))


def test_a_stream_of_its_parent_or_of_another_user_is_refused():
    """Once, fork(0) repeated the generator's own draws: an augmentation and a mask would have
    been one.
    """
    for number in (-1, STREAM_ROOM):
        with pytest.raises(ValueError, match="another user's"):
            many(3).fork("augment", number)
    with pytest.raises(ValueError, match="no streams of 'mask'; there are those of view, augment"):
        many(3).fork("mask")


def test_users_of_a_generator_have_streams_of_their_own():
    """Apart from each other and from the generator's own, which is stream 0."""
    first = sorted(STREAMS.values())
    assert first[0] > 0 and all(b - a >= STREAM_ROOM for a, b in zip(first, first[1:]))


def test_a_draw_that_would_run_into_the_next_one_is_refused():
    with pytest.raises(ValueError, match="more than"):
        many(1)._bits((DRAW_STRIDE,))


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random = many(10)
    random.normal(3), random.permutation(5)
    assert torch.equal(torch.get_rng_state(), before)


# ============ keys ============
def test_keys_are_the_mixed_chain_of_seed_epoch_record_and_visit():
    def literal(*parts):
        key = 0
        for part in parts:
            key = mix(((key ^ (part & MASK)) + GAMMA) & MASK)
        return key

    keys = sample_keys(7, 2, np.array([0, 5, 9]), np.array([0, 1, 0]))
    assert keys.dtype == np.int64
    assert unsigned(keys) == [literal(7, 2, 0, 0), literal(7, 2, 5, 1), literal(7, 2, 9, 0)]


def test_keys_of_different_samples_differ():
    keys = [
        sample_keys(seed, epoch, np.repeat(np.arange(500), 2), np.tile([0, 1], 500))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(np.unique(np.concatenate(keys))) == 9000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpu_draws_the_same_numbers():
    keys = torch.from_numpy(sample_keys(1, 0, np.arange(500), np.zeros(500, int)))
    here, there = KeyedRandom(keys), KeyedRandom(keys.cuda())
    assert torch.equal(here.uniform(7), there.uniform(7).cpu())
    assert torch.equal(here.integers(999, 3), there.integers(999, 3).cpu())
    assert torch.equal(here.permutation(30), there.permutation(30).cpu())
    assert torch.allclose(here.normal(8), there.normal(8).cpu(), atol=1e-5)
