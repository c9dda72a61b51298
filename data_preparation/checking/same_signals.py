"""Whether recordings are in a store twice, by a check that costs next to nothing: those whose
leads begin with about the same amplitudes are compared on their signals.

It finds copies of the same seconds, exact or resampled, as a rule.  ``duplicates.py`` looks for
all kinds, and takes minutes.
"""

import os

import numpy as np

from util.console import note
from util.data.store import ABSENT, RecordStore
from util.files import safe_cell
from util.leads import LEADS, lead_index

INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # the others follow from I and II
ROW_BYTES = 2 * len(LEADS)  # of the file of signals, an instant
FIRST_SECONDS = 2
FEW_SAMPLES = 1 << 12  # read at a time: they fit into a processor's cache
ALIKE = 0.1  # amplitudes that differ by less, as natural logarithms
CELL = 0.3  # of a grid of amplitudes; copies share a cell of one of the grids
GRIDS = 3
STEPS = 2  # as many recordings behind each in its cell are looked at
ONE_IN = 50  # as many pairs as every so many recordings are compared, those most alike
AT_LEAST = 100  # pairs, in any store
CLOSE = 0.7  # correlation of one lead from which two recordings are worth an exact comparison


def note_same_signals(store: RecordStore, root: str | os.PathLike) -> None:
    """Print how many recordings of a store are in it twice, if any are.

    Args:
        store: of the lowest rate.
        root: the folder that the store goes to, for the message.
    """
    pairs = same_signals(store)
    if not pairs:
        return
    first, second = (list(rows) for rows in zip(*pairs))
    one, other = store.records.iloc[first], store.records.iloc[second]

    def differ(column: str) -> int:
        return int((one[column].to_numpy() != other[column].to_numpy()).sum())

    note(
        f"warning: recordings that are in the store twice, by their signals: {len(pairs)}, such "
        f"as {safe_cell(other['record'].iloc[0])}, which is {safe_cell(one['record'].iloc[0])}; "
        f"{differ('fold')} are in another fold, {differ('database')} in another database than "
        f"their copy. check_store.py {root} --duplicates lists them for --drop, and finds "
        "shifted and rescaled ones, too"
    )


def same_signals(store: RecordStore) -> list[tuple[int, int]]:
    """Return pairs of rows a < b that hold the same recording; each b comes once."""
    points, found = amplitudes(store), {}
    largest = np.array(lead_index(INDEPENDENT))[points.argmax(axis=1)]
    with open(store.path / "signals.dat", "rb") as file:
        for a, b in _alike(points, AT_LEAST + len(store) // ONE_IN).tolist():
            if b not in found and _is_same(store, file, a, b, largest[a]):
                found[b] = a
    return sorted((a, b) for b, a in found.items())


def amplitudes(store: RecordStore) -> np.ndarray:
    """Return log of the standard deviation of each independent lead in the first FIRST_SECONDS,
    float32 (records, 8); that of 1 microvolt for those that are flat or absent.
    """
    columns, most = lead_index(INDEPENDENT), FIRST_SECONDS * store.fs
    starts, sizes = store.records["start"].tolist(), store.records["length"].clip(upper=most)
    few, parts = max(1, FEW_SAMPLES // most), []
    with open(store.path / "signals.dat", "rb") as file:
        for first in range(0, len(store), few):
            size = sizes.to_numpy()[first : first + few]
            places = zip(starts[first : first + few], size.tolist())
            signal = np.concatenate([_counts(file, *place) for place in places])
            signal, at = signal.astype(np.float32), np.cumsum(size) - size
            size = size[:, None].astype(np.float32)
            mean = np.add.reduceat(signal, at, axis=0) / size
            signal *= signal
            variance = np.add.reduceat(signal, at, axis=0) / size - mean * mean
            parts.append(variance[:, columns])
    scale = store.records["scale"].to_numpy(np.float32)[:, None]
    return np.log(np.maximum(np.sqrt(np.maximum(np.concatenate(parts), 0)) * scale, 1e-3))


def _counts(file, start, length):
    """int16 (length, 12) of a store's file, read and not mapped, which would count as memory."""
    data = os.pread(file.fileno(), length * ROW_BYTES, start * ROW_BYTES)
    return np.frombuffer(data, "<i2").reshape(-1, len(LEADS))


def _alike(points, most):
    """int64 (n, 2): pairs of rows of points that are alike in all coordinates, and equal ones or
    else at most ``most``, those that are most alike.
    """
    random, pairs = np.random.default_rng(0), []
    for _ in range(GRIDS):
        cell = np.zeros(len(points), np.int64)
        for column in points.T:
            place = np.floor(column / CELL + random.random(dtype=np.float32)).astype(np.int64)
            cell = cell * 6364136223846793005 + place  # Knuth's multiplier
        order = np.argsort(cell, kind="stable")
        for step in range(1, STEPS + 1):
            a, b = order[:-step], order[step:]
            together = cell[a] == cell[b]
            a, b = a[together], b[together]  # a < b, for the sort is stable
            far = np.abs(points[a] - points[b]).max(axis=1, initial=0)
            best = np.argsort(far, kind="stable")[: max((far == 0).sum(), most)]
            best = best[far[best] < ALIKE]
            pairs.append(np.stack([far[best], a[best], b[best]], axis=1))
    far, a, b = np.unique(np.concatenate(pairs), axis=0).T
    return np.stack([a, b], axis=1).astype(np.int64)[: max((far == 0).sum(), most)]


def _is_same(store, file, a, b, lead):
    """Whether two recordings hold the same signal; ``lead``, a column, is looked at first."""
    start, length, scale = (store.records[name] for name in ("start", "length", "scale"))
    x, y = (_counts(file, int(start.iat[row]), int(length.iat[row])) for row in (a, b))
    if abs(len(x) - len(y)) > 1 or _correlation(x[:, lead], y[:, lead]) < CLOSE:
        return False
    if np.array_equal(x, y) and scale.iat[a] == scale.iat[b]:
        return True
    from data_preparation.checking.duplicates import compare  # late: it takes memory

    return compare(store, a, b, [0], (x[0] != ABSENT) & (y[0] != ABSENT)) is not None


def _correlation(x, y):
    """The correlation of two signals (n,) whose lengths differ by little, 0 for flat ones."""
    n = min(len(x), len(y))
    x, y = (signal[:n] - signal[:n].mean(dtype=np.float32) for signal in (x, y))
    return float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-9))
