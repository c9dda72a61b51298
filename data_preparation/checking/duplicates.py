"""Recordings that occur twice in a store: exact copies by a hash, all others by fingerprints of
single beats.

A *fingerprint* is the shape of one lead around a steep point of it (a QRS complex, as a rule):
2.4 s, low-passed, without drift, of norm 1.  It does not depend on the recording's start,
gain, offset or sampling rate, so copies that were shifted, cut, rescaled or resampled share
fingerprints wherever they overlap.  Alike ones are found without comparing all with all:
locality-sensitive hashing (Indyk and Motwani 1998; Datar et al. 2004) of whitened principal
components. Each candidate is then compared on the signals themselves, on all leads that both
recordings have.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, uniform_filter1d

from util.console import progress_bar
from util.data.store import NO_FOLD, RecordStore
from util.leads import LEADS

# ---- fingerprints
PROBES = tuple(dict.fromkeys(("II", "I", "V5", *LEADS)))  # leads, in order of preference
# Gaussian low-pass of 6.4 Hz: a copy that lies half a sample off stays alike.
SMOOTH_SECONDS = 0.025
HALF_SECONDS = 1.2  # of a fingerprint
POINT_RATE = 20  # Hz, of its points
APART_SECONDS = 0.4  # a steep point is the steepest as far as this on both sides
SPAN_SAMPLES = 1 << 21  # of the store, read at a time
# ---- near neighbours
COMPONENTS = 24  # principal components of fingerprints
LEAST_VARIANCE = 2e-3  # of a component: in a store of a few recordings most have next to none
TABLES = 6  # of hashes; copies need share a cell in one of them, by one beat of many
CROWD = 32  # of a crowded cell, each fingerprint is compared with this many others
FAR = 0.2  # standard deviations (rms over components) from which fingerprints differ
BATCH = 1 << 16
SHIFTS = 3  # tried a pair
ENOUGH = 1.0  # evidence from which two recordings are compared, see _candidates
# ---- confirmation
SAME = 0.98  # correlation from which two recordings are one; see docs/data.md
BEAT_SECONDS = 0.3  # a recording is compared with itself from this later on
OVERLAP_SECONDS = 4.0  # at least, or nine tenths of the shorter recording
PLACES = ("record", "database", "fold", "patient")
COLUMNS = tuple(f"{place}_{side}" for side in "ab" for place in PLACES) + (
    "kind",
    "correlation",
    "shift",
    "overlap",
    "gain",
    "leak",
    "drop",
)


class Found(NamedTuple):
    """The result of a search.

    Attributes:
        pairs: rows of the CSV file, dicts with COLUMNS.
        compared: how many pairs were compared on their signals.
        blind: how many recordings have no fingerprint, so that only exact copies are found.
    """

    pairs: list[dict]
    compared: int
    blind: int


def find_duplicates(store: RecordStore) -> Found:
    """Find all pairs of recordings of a store with the same signal.

    It takes about 1 kB of memory a recording of 10 s.
    """
    first = _exact_copies(store)
    pairs = [
        (
            int(a),
            b,
            {
                "kind": "exact",
                "correlation": 1.0,
                "shift": 0.0,
                "gain": 1.0,
                "overlap": store.counts(b).shape[0] / store.fs,
            },
        )
        for b, a in enumerate(first)
        if a != b
    ]
    single = first == np.arange(len(store))  # of exact copies, one looks for the others
    missing = missing_leads(store)
    near, seen = [], ~single
    for lead in probe_leads(missing):
        row, sample, shapes = fingerprints(store, lead, single & ~missing[:, LEADS.index(lead)])
        seen[row] = True
        near.append(_neighbours(row, sample, shapes))
    candidates = _candidates(np.concatenate(near))
    for a, b, shifts in progress_bar(candidates, desc="comparing", unit="pair"):
        same = compare(store, a, b, shifts, ~(missing[a] | missing[b]))
        if same:
            pairs.append((a, b, same))
    rows = [_table_row(store, *pair) for pair in sorted(pairs, key=lambda pair: pair[:2])]
    return Found(rows, len(candidates), int((~seen).sum()))


# ============ exact copies ============
def _exact_copies(store):
    """int64 (records,): for each record the best (``_worth``) of those with the very same samples
    in mV.
    """
    scale = store.records["scale"].to_numpy()
    groups: dict[bytes, list[int]] = {}
    for i in progress_bar(range(len(store)), desc="hashing", unit="record"):
        key = hashlib.blake2b(
            store.counts(i).data, digest_size=16, salt=scale[i].tobytes()
        ).digest()
        groups.setdefault(key, []).append(i)
    first = np.arange(len(store))
    for group in groups.values():
        if len(group) > 1:
            first[group] = min(group, key=lambda i: _worth(store, i))
    return first


def _worth(store, i):
    """Of recordings of one signal, the one with the smallest of these is kept: with diagnoses,
    longer, earlier.
    """
    return not store.records["dx"].iat[i], -store.records["length"].iat[i], i


# ============ fingerprints ============
def missing_leads(store: RecordStore) -> np.ndarray:
    """Return the leads that each recording lacks, bool (records, 12)."""
    return np.stack([~store.has_leads([lead]) for lead in LEADS], axis=1)


def probe_leads(missing: np.ndarray) -> list[str]:
    """Return the leads to take fingerprints of.

    Of every two recordings that share leads, two shared ones (or the only one) are among them, so
    that one bad lead hides no copy.
    """
    kinds, probes = np.unique(~missing, axis=0), []
    for one in kinds:
        for other in kinds:
            shared = [lead for lead in PROBES if (one & other)[LEADS.index(lead)]]
            new = [lead for lead in shared if lead not in probes]
            probes += new[: max(0, 2 - (len(shared) - len(new)))]
    return probes


def fingerprints(
    store: RecordStore, lead: str, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fingerprints of a lead of the ``wanted`` recordings, bool (records,).

    Returns:
        their rows (n,), samples (n,) and shapes, int8 (n, 49).
    """
    length = store.records["length"].to_numpy()
    spans = np.flatnonzero(np.diff(np.cumsum(length) // SPAN_SAMPLES, prepend=-1))
    margin = int(np.ceil((HALF_SECONDS + 3 * SMOOTH_SECONDS) * store.fs)) + 2
    parts = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, len(_around())), np.int8))]
    for first, last in progress_bar(
        list(zip(spans, [*spans[1:], len(store)])), desc=f"fingerprints of {lead}", unit="span"
    ):
        signal = store.stretch(first, last)[:, LEADS.index(lead)].astype(np.float32)
        ends = np.cumsum(length[first:last])
        at, part = _steep_points(signal, store.fs)
        row = np.searchsorted(ends, at, "right")
        sample = at - (ends - length[first:last])[row]
        inside = (sample >= margin) & (ends[row] - at > margin) & wanted[first + row]
        shapes = _shapes(signal, (at + part)[inside], store.fs)
        alive = shapes.any(axis=1)
        parts.append(
            (
                (first + row[inside][alive]).astype(np.int32),
                sample[inside][alive].astype(np.int32),
                np.clip(np.rint(254 * shapes[alive]), -127, 127).astype(np.int8),
            )
        )
    rows, samples, shapes = map(np.concatenate, zip(*parts))
    return rows, samples, shapes


def _steep_points(signal, fs):
    """Where the smoothed squared slope is the largest within APART_SECONDS: samples, and parts of
    one (-0.5 to 0.5) that a parabola adds.
    """
    slope = gaussian_filter1d(signal, SMOOTH_SECONDS * fs, order=1, truncate=3)
    steepness = gaussian_filter1d(slope * slope, 0.04 * fs, truncate=3)
    highest = maximum_filter1d(steepness, 2 * round(APART_SECONDS * fs) + 1)
    at = 1 + np.flatnonzero((steepness == highest)[1:-1] & (steepness[1:-1] > 0))
    before, top, after = (steepness[at + k] for k in (-1, 0, 1))
    return at, np.clip(
        0.5 * (before - after) / np.minimum(before - 2 * top + after, -1e-9), -0.5, 0.5
    )


def _around():
    half = round(HALF_SECONDS * POINT_RATE)
    return np.arange(-half, half + 1)


def _shapes(signal, at, fs):
    """float32 (points, 49), each of norm 1 (0 if flat): the low-passed signal around ``at``
    (samples and parts of them, by linear interpolation) without its cubic trend.
    """
    around = _around()
    trend = np.linalg.qr(np.vander(around / around[-1], 4))[0].astype(np.float32)
    low = gaussian_filter1d(signal, SMOOTH_SECONDS * fs, truncate=3)
    place = at[:, None] + around * (fs / POINT_RATE)
    left = place.astype(int)
    part = (place - left).astype(np.float32)
    shapes = (1 - part) * low[left] + part * low[left + 1]
    shapes -= (shapes @ trend) @ trend.T
    norm = np.linalg.norm(shapes, axis=1, keepdims=True)
    return np.where(
        norm > 0.5, shapes / np.maximum(norm, 0.5), 0
    )  # half a count: nothing but rounding


# ============ near neighbours ============
def _neighbours(row, sample, shapes):
    """int32 (n, 4): rows a < b of recordings that share a fingerprint, the samples by which b
    starts after a, and how far (in thousandths of a standard deviation) their fingerprints are
    from each other.
    """
    if len(row) < 2:
        return np.zeros((0, 4), np.int32)
    random, white, pairs = np.random.default_rng(0), _whitened(shapes), np.zeros(0, np.int64)
    for _ in range(TABLES):
        cell = _cells(white, random)
        order = np.argsort(cell, kind="stable")
        cell, new = cell[order], [pairs]
        for step in range(1, CROWD + 1):
            same = np.flatnonzero(cell[:-step] == cell[step:])
            i, j = order[same], order[same + step]  # i < j, for the sort is stable
            near = (row[i] != row[j]) & (_distance(white, i, j) < FAR)
            new.append(i[near] << 32 | j[near])
            if not len(same):
                break
        pairs = np.unique(np.concatenate(new))
    i, j = pairs >> 32, pairs & 0xFFFFFFFF  # fingerprints are in the order of their rows
    far = 1000 * _distance(white, i, j)
    return np.stack([row[i], row[j], sample[i] - sample[j], far.astype(np.int32)], axis=1)


def _batches(n):
    return [slice(start, start + BATCH) for start in range(0, n, BATCH)]


def _whitened(shapes):
    """float16 (n, COMPONENTS): the first principal components of the shapes (norm 1), each of
    variance 1.
    """

    def normed(batch):
        part = shapes[batch].astype(np.float32)
        return part / np.linalg.norm(part, axis=1, keepdims=True)

    total: Any = 0
    square: Any = 0
    for batch in _batches(len(shapes)):
        part = normed(batch).astype(float)
        total, square = total + part.sum(axis=0), square + part.T @ part
    mean = total / len(shapes)
    variance, axes = np.linalg.eigh(square / len(shapes) - np.outer(mean, mean))
    first = slice(None, -COMPONENTS - 1, -1)
    whiten = (axes[:, first] / np.sqrt(np.maximum(variance[first], LEAST_VARIANCE))).astype(
        np.float32
    )
    mean = mean.astype(np.float32)
    return np.concatenate(
        [((normed(batch) - mean) @ whiten).astype(np.float16) for batch in _batches(len(shapes))]
    )


def _cells(white, random):
    """int64 (n,): a hash of each fingerprint's cell in a grid of step 1, turned and moved at
    random.  It has so many dimensions that a cell holds few: normal variates share a cell of each
    with a probability of 1 / 3.5.
    """
    dimensions = int(np.clip(np.ceil(np.log(len(white)) / np.log(3.5)), 4, COMPONENTS))
    turn = np.linalg.qr(random.normal(size=(COMPONENTS, dimensions)))[0].astype(np.float32)
    move = random.random(dimensions, dtype=np.float32)
    factors = random.integers(1 << 62, size=dimensions) | 1
    return np.concatenate(
        [
            np.floor(white[batch].astype(np.float32) @ turn + move).astype(np.int64) @ factors
            for batch in _batches(len(white))
        ]
    )


def _distance(white, i, j):
    """float32 (n,): root mean square over the components of fingerprints i minus j, pair by
    pair.
    """
    parts = [np.zeros(0, np.float32)]
    for batch in _batches(len(i)):
        difference = white[i[batch]].astype(np.float32) - white[j[batch]]
        parts.append(np.sqrt(np.einsum("nc,nc->n", difference, difference) / COMPONENTS))
    return np.concatenate(parts)


def _candidates(near):
    """[(a, b, shifts)] of the rows of ``_neighbours``: pairs whose fingerprints agree on a shift.
    Two equal fingerprints count 1, two as far apart as FAR 0; from a sum of ENOUGH within two
    samples a shift is worth a look: the best SHIFTS of a pair, for in a regular rhythm all beats
    are alike.
    """
    _, pair = np.unique(near[:, :2], axis=0, return_inverse=True)
    place = (pair.astype(np.int64) << 40) + near[:, 2]
    order = np.argsort(place, kind="stable")
    place, near = place[order], near[order]
    total = np.concatenate([[0], np.cumsum(1 - (near[:, 3] / (1000 * FAR)) ** 2)])
    agreed = (
        total[np.searchsorted(place, place + 2, "right")]
        - total[np.searchsorted(place, place - 2, "left")]
    )
    best: dict[tuple[int, int], list[int]] = {}
    for at in np.argsort(-agreed, kind="stable")[: np.count_nonzero(agreed >= ENOUGH)]:
        a, b, shift, _ = near[at].tolist()
        shifts = best.setdefault((a, b), [])
        if len(shifts) < SHIFTS and all(abs(shift - other) > 3 for other in shifts):
            shifts.append(shift)
    return [(*pair, shifts) for pair, shifts in sorted(best.items())]


# ============ confirmation ============
def compare(
    store: RecordStore, a: int, b: int, shifts: list[int], leads: np.ndarray
) -> dict[str, Any] | None:
    """Return how recordings a and b are one (kind, correlation, shift, overlap, gain), or None.

    They are not if the correlation is below SAME, or unless they differ by at most half as much
    as either differs from itself some beats later.  In a regular rhythm that can be less than
    1 - SAME, and so would two recordings of one patient.

    The correlation is that of the overlap, the median over the ``leads`` (bool (12,)) that are
    not flat, after removing drift (a moving mean of 1 s) and mains (Gaussian of 10 ms), where b
    starts one of ``shifts`` (samples) after a, or up to three samples more or less, between
    samples by a parabola.
    """
    x, y = _prepared(store, a)[:, leads], _prepared(store, b)[:, leads]
    least = min(OVERLAP_SECONDS * store.fs, 0.9 * (min(len(x), len(y)) + store.fs)) - store.fs
    least = max(least, store.fs / 2)  # a few samples are alike by chance
    tried = {
        shift + k: _correlation(x, y, shift + k, least) for shift in shifts for k in range(-3, 4)
    }
    best = max(tried, key=lambda shift: tried[shift][0])
    before, top, after = (tried.get(best + k, (0,))[0] for k in (-1, 0, 1))
    bend = before - 2 * top + after
    part = 0.5 * (before - after) / bend if bend < 0 and before > 0 and after > 0 else 0.0
    top -= 0.25 * (before - after) * part
    if top < SAME or 1 - top > 0.5 * (
        1 - max(_likeness_of_beats(x, store.fs), _likeness_of_beats(y, store.fs))
    ):
        return None
    _, overlap, gain = tried[best]
    whole = abs(best) <= 1 and abs(len(x) - len(y)) <= 0.02 * store.fs
    return {
        "kind": _kind(store, a, b, leads, whole, gain),
        "correlation": min(top, 1.0),
        "gain": gain,
        "shift": (best + part) / store.fs,
        "overlap": overlap / store.fs + 1,
    }


@functools.lru_cache(maxsize=2)
def _prepared(store, i):
    """float32 (length - fs, 12) without drift and mains, in mV, nor the half second at both ends,
    where the moving mean would depend on where a recording was cut.
    """
    signal = store.read(i)
    signal -= uniform_filter1d(signal, store.fs, axis=0)
    half = store.fs // 2
    return gaussian_filter1d(signal, 0.01 * store.fs, axis=0)[
        half : len(signal) - (store.fs - half)
    ]


def _correlation(x, y, shift, least):
    """(median correlation over leads, overlap in samples, median gain of y over x) where y starts
    ``shift`` samples after x; a correlation of 0 if they overlap by less than ``least`` or all
    leads are flat.
    """
    start, end = max(0, -shift), min(len(y), len(x) - shift)
    if end - start < least:
        return 0.0, 0, 1.0
    x, y = x[start + shift : end + shift], y[start:end]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    xx, yy, xy = (np.einsum("tl,tl->l", *pair) for pair in ((x, x), (y, y), (x, y)))
    alive = np.minimum(xx, yy) > 1e-6 * (end - start)  # of 1 microvolt and more
    if not alive.any():
        return 0.0, 0, 1.0
    correlation = xy[alive] / np.sqrt(xx[alive] * yy[alive])
    return (
        float(np.median(correlation)),
        end - start,
        float(np.median(np.sqrt(yy[alive] / xx[alive]))),
    )


def _likeness_of_beats(x, fs):
    """The largest correlation, median over leads, of x (n, leads) with itself BEAT_SECONDS or
    more later, where 3 s or more overlap; 0 if it is too short for that.
    """
    n = len(x)
    later = np.arange(round(BEAT_SECONDS * fs), n - 3 * fs + 1)
    x = x[:, np.mean(x * x, axis=0) > 1e-6].astype(float)
    if not len(later) or not x.shape[1]:
        return 0.0
    size = scipy.fft.next_fast_len(2 * n, real=True)
    product = scipy.fft.irfft(np.abs(scipy.fft.rfft(x, size, axis=0)) ** 2, size, axis=0)[later]
    energy = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x * x, axis=0)])
    both = energy[n - later] * (energy[n] - energy[later])
    return float(np.median(product / np.sqrt(np.maximum(both, 1e-12)), axis=1).max())


def _kind(store, a, b, leads, whole, gain):
    """shifted: they overlap in part; rescaled: the gain differs by more than 2 % or the offset by
    more than 0.02 mV; near: neither (resampled, filtered, noise).
    """
    if not whole:
        return "shifted"
    offset = np.abs(store.read(b).mean(axis=0) - gain * store.read(a).mean(axis=0))[leads].max()
    return "rescaled" if abs(gain - 1) > 0.02 or offset > 0.02 else "near"


# ============ the table ============
def _table_row(store, a, b, same):
    one, other = (store.records.iloc[i] for i in sorted((a, b)))
    sign = 1 if a < b else -1
    row = {
        f"{place}_{side}": record[place]
        for side, record in (("a", one), ("b", other))
        for place in PLACES
    }
    leak = [
        place
        for place, unknown in (("fold", NO_FOLD), ("patient", ""))
        if one[place] != other[place] and unknown not in (one[place], other[place])
    ]
    worse = max(a, b, key=lambda i: _worth(store, i))
    return row | {
        "kind": same["kind"],
        "correlation": f"{same['correlation']:.4f}",
        "shift": f"{sign * same['shift']:.3f}",
        "overlap": f"{same['overlap']:.2f}",
        "gain": f"{same['gain'] ** sign:.4g}",
        "leak": " ".join(leak),
        "drop": store.records["record"].iat[worse],
    }
