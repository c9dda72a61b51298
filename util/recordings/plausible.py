"""Whether recordings are what is said of them: their amplitude, the rate of their heart beats, and
the relations of their limb leads, looked at before an import begins.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.fft

from util.console import note
from util.errors import ECGError
from util.recordings.lead_order import (
    LIMB,
    gram,
    likely_limb,
    likely_turned,
    relations_hold,
    turned_lead,
)
from util.recordings.recording import Recording, printable

POSSIBLE_MV = (0.02, 50.0)  # outside, the unit is wrong unless it was said
USUAL_MV = (0.1, 20.0)  # peak to peak, the median of recordings: outside, the unit is in doubt
ANOTHER_UNIT = 300.0  # times: a lead that is smaller is no mere low voltage
POSSIBLE_BEATS = (15.0, 300.0)  # a minute: outside, the sampling rate is wrong
USUAL_BEATS = (40.0, 150.0)  # the median of recordings: outside, the rate is in doubt
FEWEST_RHYTHMS = 5  # recordings with a clear rhythm that say something of the rate
CLEAR = 0.3  # autocorrelation of beats, from which on a rhythm is clear
COMMON_FS = (100, 125, 128, 200, 240, 250, 257, 300, 360, 400, 500, 1000, 2000)  # Hz
LOOKED_AT_SECONDS = 60  # of a recording
_RELATIONS = "III = II - I, aVR = -(I + II) / 2"


@dataclass(frozen=True)
class Told:
    """What is told of recordings by flags, their files being silent; for the cures in messages.

    Attributes:
        flags: those of units, fs and leads by which a person says it.
        units: whether the unit was said.
        leads: order of the leads, "-" for a column that is none and before one whose sign is
            turned; empty where the files name them.
        assume: whether to go on whatever is found.
    """

    flags: frozenset[str] = frozenset()
    units: bool = False
    leads: tuple[str, ...] = ()
    assume: bool = False


@dataclass
class Looks:
    """What is seen of some recordings.

    Attributes:
        spans: their amplitudes, peak to peak, in mV.
        by_lead: {lead: its amplitudes} in mV.
        beats: their beats a minute, of those with a clear rhythm.
        rates: their sampling rates in Hz.
        names: of all.
        grams: {(database, leads): [(name, Gram matrix)]} of those whose limb leads can be compared.
    """

    spans: list[float] = field(default_factory=list)
    by_lead: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    beats: list[float] = field(default_factory=list)
    rates: set[float] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    grams: dict[tuple[str, tuple[str, ...]], list[tuple[str, np.ndarray]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, name: str, database: str, recording: Recording) -> None:
        """Look at a checked recording."""
        signal = recording.signal[: int(LOOKED_AT_SECONDS * recording.fs)]
        self.names.append(name)
        self.rates.add(recording.fs)
        by_lead = np.ptp(signal, axis=0).tolist()
        self.spans.append(float(np.median(by_lead)))
        for lead, span in zip(recording.leads, by_lead):
            self.by_lead[lead].append(span)
        beats = beats_a_minute(signal, recording.fs)
        if beats:
            self.beats.append(beats)
        leads = recording.leads
        if {"I", "II"} <= set(leads) and set(LIMB[2:]) & set(leads):
            self.grams[database, leads].append((name, gram(signal)))


def beats_a_minute(signal: np.ndarray, fs: float) -> float | None:
    """Return the heart rate of a signal (n, leads) at fs Hz, None where its rhythm is not clear.

    The period is the lag at which the slopes of all leads resemble themselves most.  Nothing in
    it depends on what is said of fs.
    """
    slopes = np.sqrt(np.square(np.diff(signal, axis=0)).sum(1))
    if len(slopes) < 10:
        return None
    slopes = np.minimum(slopes, np.quantile(slopes, 0.98))
    likeness = _autocorrelation(slopes)
    wide = 4 * int(np.argmax(likeness < 0.5)) + 1  # as a QRS complex, by which beats may differ
    likeness = _autocorrelation(np.convolve(slopes, np.ones(wide), "same"))
    beyond = int(np.argmax(likeness < 0))
    lag = beyond + int(np.argmax(likeness[beyond:]))
    return 60 * fs / lag if beyond and likeness[lag] > CLEAR else None


def _autocorrelation(values: np.ndarray) -> np.ndarray:
    """By lag, 1 at lag 0; less the fewer samples a lag has in common."""
    values = values - values.mean()
    size = scipy.fft.next_fast_len(2 * len(values), real=True)
    power = np.abs(scipy.fft.rfft(values, size)) ** 2
    likeness = scipy.fft.irfft(power, size)[: len(values)]
    return likeness / max(likeness[0], 1e-30)


def judge(looks: Looks, told: Told) -> list[str]:
    """Print what was seen of recordings, and return the doubts that ``told.assume`` overrules.

    Raises:
        ECGError: unit, sampling rate, order or sign of the leads cannot be what was said.
    """
    overruled: list[str] = []

    def refuse(doubt: str, cure: str) -> None:
        if not told.assume:
            raise ECGError(f"{doubt}; {cure}")
        note(f"warning: {doubt}")
        overruled.append(doubt)

    if looks.spans:
        _judge_amplitude(looks, told, refuse)
    if len(looks.beats) >= FEWEST_RHYTHMS:
        _judge_beats(looks, told, refuse)
    for (database, leads), grams in looks.grams.items():
        of = f" of {database}" if len({key[0] for key in looks.grams}) > 1 else ""
        _judge_leads(grams, leads, of, told, refuse)
    return overruled


Refuse = Callable[[str, str], None]


def _judge_amplitude(looks: Looks, told: Told, refuse: Refuse) -> None:
    spans, typical = np.array(looks.spans), float(np.median(looks.spans))
    note(f"peak to peak {typical:.3g} mV, the median of {len(spans)} recordings looked at")
    (low, high), (least, most) = USUAL_MV, POSSIBLE_MV
    by_flag = "units" in told.flags
    is_possible = least <= typical <= most
    if not is_possible and not told.units:
        likely = [
            unit for unit, factor in (("uV", 1e-3), ("V", 1e3)) if low <= typical * factor <= high
        ]
        what, cure = (
            "by the units and gains of the files",
            "mend them, or --assume to go on as it is",
        )
        if by_flag:
            what = "if the samples are millivolts"
            unit = likely[0] if likely else "uV or --units V"
            cure = f"say --units {unit}, or --units mV if it is right"
        refuse(
            f"peak to peak {typical:.3g} mV, {what}: no ECG has that (usual are {low:g} to "
            f"{high:g} mV)",
            cure,
        )
    elif not low <= typical <= high:
        what = "is --units right?" if by_flag else "are units and gains of the files right?"
        note(f"warning: an ECG has {low:g} to {high:g} mV from peak to peak; {what}")
    for lead, seen in looks.by_lead.items():
        of_lead = float(np.median(seen))
        if is_possible and (of_lead > most or 0 < of_lead < typical / ANOTHER_UNIT):
            refuse(
                f"lead {lead} has {of_lead:.3g} mV from peak to peak, the median of all leads is "
                f"{typical:.3g} mV: it is in another unit",
                "bring all leads to one unit, or --assume to go on as it is",
            )
    odd = np.flatnonzero((spans < least) | (spans > most))
    if is_possible and len(odd):
        note(
            f"warning: {len(odd)} of {len(spans)} recordings looked at, such as "
            f"{printable(looks.names[odd[0]])} with {spans[odd[0]]:.3g} mV, have an amplitude that "
            "no ECG has; are all of one unit?"
        )


def _judge_beats(looks: Looks, told: Told, refuse: Refuse) -> None:
    typical = float(np.median(looks.beats))
    note(
        f"{typical:.0f} heart beats a minute, the median of {len(looks.beats)} recordings with a "
        "clear rhythm"
    )
    by_flag, rates = "fs" in told.flags, sorted(looks.rates)
    low, high = USUAL_BEATS
    if POSSIBLE_BEATS[0] <= typical <= POSSIBLE_BEATS[1]:
        if not low <= typical <= high:
            what = "--fs" if by_flag else "the sampling rate in the files"
            note(f"warning: usual are {low:g} to {high:g} heart beats a minute; is {what} right?")
        return
    at = f"at {rates[0]:g} Hz" if len(rates) == 1 else "at the rates of the files"
    fitting = [fs for fs in COMMON_FS if 55 <= typical * fs / rates[0] <= 100]
    likely = (
        f" ({' or '.join(map(str, fitting))} would make it "
        f"{' or '.join(f'{typical * fs / rates[0]:.0f}' for fs in fitting)})"
        if fitting and len(rates) == 1
        else ""
    )
    what = "--fs is" if by_flag else "the sampling rate in the files is"
    cure = "give the right one" if by_flag else "mend it"
    refuse(
        f"{typical:.0f} heart beats a minute {at}: no heart beats so, {what} wrong{likely}",
        f"{cure}, or --assume to go on as it is",
    )


def _judge_leads(
    grams: Sequence[tuple[str, np.ndarray]],
    leads: tuple[str, ...],
    of: str,
    told: Told,
    refuse: Refuse,
) -> None:
    limb = [leads.index(lead) if lead in leads else None for lead in LIMB]
    odd = [(name, matrix) for name, matrix in grams if not relations_hold(matrix, limb)]
    if not odd:
        return
    matrix = np.mean([one / max(np.trace(one), 1e-12) for _, one in odd], axis=0)
    order, turned = _explained(matrix, leads, limb)
    said = _said(order, leads, told.leads or leads)
    if turned:
        doubt = (
            f"the sign of lead {turned}{of} is turned: the limb leads follow from one another "
            f"({_RELATIONS}, ...) only with the other"
        )
    else:
        doubt = (
            f"the leads{of} are not in this order: {_RELATIONS} and the like hold if they are "
            f"{' '.join(said)}"
        )
    if 2 * len(odd) < len(grams):
        likely = f"; they would if they were {' '.join(said)}" if order != list(leads) else ""
        note(
            f"warning: the limb leads of {len(odd)} of {len(grams)} recordings looked at{of}, such "
            f"as {printable(odd[0][0])}, do not follow from one another ({_RELATIONS}, ...){likely}"
        )
    elif order == list(leads):
        note(
            f"warning: the limb leads{of} do not follow from one another ({_RELATIONS}, ...); are "
            "the leads in this order, of one unit and sign?"
        )
    else:
        flag = f"--leads{'=' if said[0].startswith('-') else ' '}{','.join(said)}"
        cure = f"give {flag}" if "leads" in told.flags else "mend the files"
        refuse(doubt, f"{cure}, or --assume to go on as it is")


def _explained(
    matrix: np.ndarray, leads: tuple[str, ...], limb: Sequence[int | None]
) -> tuple[list[str], str | None]:
    """What leads with this Gram matrix are by their relations, a - before a turned one, and the
    lead that is turned if no other order explains it; ``leads`` where nothing does.
    """
    order = list(leads)
    turned = turned_lead(matrix, limb)
    if turned is not None:
        order[leads.index(LIMB[turned])] = f"-{LIMB[turned]}"
        return order, LIMB[turned]
    if None in limb:
        return order, None
    likely, sign = likely_limb(matrix), None
    if likely is None:
        likely, sign = likely_turned(matrix)
    if likely is not None:
        places = dict(zip(likely, LIMB))
        chest = iter([lead for lead in leads if lead not in LIMB])
        order = [places.get(place) or next(chest) for place in range(len(leads))]
    if sign is not None:
        order[sign] = f"-{order[sign]}"
    return order, None


def _said(order: Sequence[str], leads: Sequence[str], told: Sequence[str]) -> list[str]:
    """What was told of the columns, mended: ``leads`` are ``order``."""
    true = dict(zip(leads, order))
    names = []
    for lead in told:
        name = true.get(lead.removeprefix("-"), lead)
        if lead != "-" and lead.startswith("-"):
            name = name.removeprefix("-") if name.startswith("-") else f"-{name}"
        names.append(name)
    return names
