"""A heart dipole that beats according to a list of findings, seen through the twelve leads.

The heart is one moving current dipole (McSharry et al. 2003, A dynamical model for generating
synthetic electrocardiogram signals, IEEE Trans. Biomed. Eng. 50; Sameni et al. 2007, Multichannel
ECG and noise modeling, EURASIP J. Adv. Signal Process.).  Its path over a beat is a sum of
Gaussians, here in time relative to the beat rather than in phase, so that PR, QRS and QT are
exact.  Dower's matrix turns the dipole into potentials (Dower, Machado and Osborne 1980, On
deriving the electrocardiogram from vectorcardiographic leads, Clin. Cardiol. 3).  Noise enters at
the ten electrodes, before the leads are formed, so that Einthoven's and Goldberger's identities
hold for noise as well.

    findings = Findings(rhythm="sinus", rate=72, pr=0.16, ...)
    # mV (samples, 12)
    signal = simulate(findings, fs=500, samples=5000, mains=50, rng=np.random.default_rng(0))

Wave tables give vectors as (I, A, Z): what the wave writes in lead I, in lead aVF times
2/sqrt(3), and Frank's Z (to the back), in mV.  In (I, A) an angle is the frontal axis as it is
read from the leads.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.signal import butter, lfilter

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


@dataclass(frozen=True)
class Findings:
    """What is drawn for one patient; the diagnoses follow from it (see ``diagnoses``).  Sites are
    anterior, lateral or inferior.
    """

    rhythm: str = "sinus"  # or fibrillation, flutter, junctional, paced
    rate: float = 72.0  # mean ventricular rate, beats a minute
    swing: float = 0.04  # peak-to-peak respiratory change of the sinus RR interval, seconds
    conduction: str = "normal"  # or rbbb, irbbb, lbbb, nsivcb, lafb
    pr: float = 0.16  # seconds
    qrs: float = 0.09  # seconds
    qtc: float = 0.41  # QT at one beat a second with a narrow QRS (Bazett), seconds
    axis: float = 45.0  # frontal QRS axis from the net QRS areas in I and aVF, degrees
    voltage: float = 1.2  # largest peak-to-peak QRS among the limb leads, mV
    t_wave: str = "normal"  # or inverted, flat, biphasic
    t_site: str = "anterior"  # where an inverted T lies
    q_site: str = "none"  # where there is a pathological Q wave, with normal conduction only
    st: str = "none"  # or depressed, elevated
    st_site: str = "lateral"
    ectopy: str = "none"  # or pac, pvc
    ectopics: int = 0  # how many of them in 10 seconds
    fibrillating_atria: bool = False  # of a paced heart
    atrial_rate: float = 300.0  # flutter waves a minute
    noise: float = 1.0  # factor on every disturbance
    age: int = 60  # years
    male: bool = True

    @property
    def has_p_waves(self):
        return self.rhythm not in ("fibrillation", "flutter") and not self.fibrillating_atria


class Waves(NamedTuple):
    """Gaussians: centre and standard deviations before and after it in seconds (k,),
    vectors (k, 3).
    """

    centre: np.ndarray
    before: np.ndarray
    after: np.ndarray
    vector: np.ndarray


class Beats(NamedTuple):
    """Ventricular beats: QRS onset in seconds, QT interval in seconds, kind (0 the rhythm's
    own, 1 PAC, 2 PVC).
    """

    onset: np.ndarray
    qt: np.ndarray
    kind: np.ndarray


# ---- Wave tables
# --------------------------------------------------------------------------------- QRS rows:
# centre and standard deviation as shares of the QRS duration, then (I, A, Z) in mV at the normal
# axis.
QRS = {
    "normal": [
        (0.18, 0.075, -0.10, -0.05, -0.30),
        (0.41, 0.115, 0.62, 0.75, 0.08),
        (0.61, 0.10, 0.15, 0.20, 0.55),
        (0.79, 0.085, -0.12, -0.10, 0.36),
    ],
    "lafb": [
        (0.17, 0.07, -0.08, 0.28, -0.20),
        (0.44, 0.10, 0.55, -0.55, 0.15),
        (0.64, 0.10, 0.10, -0.55, 0.50),
        (0.82, 0.07, 0.0, -0.12, 0.25),
    ],
    "rbbb": [
        (0.13, 0.05, -0.10, -0.05, -0.32),
        (0.29, 0.070, 0.62, 0.75, 0.05),
        (0.41, 0.06, 0.15, 0.20, 0.45),
    ],
    "irbbb": [
        (0.16, 0.06, -0.10, -0.05, -0.30),
        (0.36, 0.085, 0.62, 0.75, 0.10),
        (0.51, 0.07, 0.15, 0.20, 0.50),
    ],
    "lbbb": [
        (0.17, 0.07, 0.15, 0.12, 0.05),
        (0.37, 0.085, 0.80, 0.50, 0.60),
        (0.62, 0.105, 0.70, 0.35, 0.90),
        (0.82, 0.075, 0.25, 0.10, 0.40),
    ],
    "nsivcb": [
        (0.14, 0.055, -0.05, -0.02, -0.22),
        (0.33, 0.075, 0.55, 0.60, 0.05),
        (0.57, 0.085, 0.45, 0.50, 0.45),
        (0.80, 0.08, -0.22, -0.15, 0.42),
    ],
    "infarcted": [
        (0.58, 0.11, 0.55, 0.66, 0.08),
        (0.75, 0.085, 0.15, 0.20, 0.45),
        (0.87, 0.06, -0.10, -0.08, 0.28),
    ],
}
# Late right and anterior forces of a blocked right bundle; they keep their direction whatever the
# axis.
TERMINAL = {
    "rbbb": [(0.64, 0.10, -0.24, 0.02, -0.55), (0.80, 0.09, -0.17, 0.0, -0.26)],
    "irbbb": [(0.76, 0.085, -0.14, 0.02, -0.42)],
}
# Dead muscle: for the first 40 ms and more the forces point away from it.
Q_WAVE = {
    "anterior": [(0.24, 0.10, 0.02, 0.0, 0.55), (0.56, 0.13, 0.03, 0.0, 0.80)],
    "lateral": [(0.27, 0.11, -0.42, 0.05, 0.02)],
    "inferior": [(0.27, 0.11, 0.06, -0.50, 0.0)],
}
# Ventricular origins: right outflow tract, left ventricle, apex of the right ventricle (where the
# pacing lead lies).
ECTOPIC = {
    "outflow": [(0.36, 0.13, 0.10, 1.20, 0.55), (0.66, 0.14, 0.12, 0.70, 0.95)],
    "left": [(0.34, 0.13, -0.35, -1.0, -0.50), (0.64, 0.14, -0.55, -0.60, -1.0)],
    "apex": [(0.33, 0.12, 0.60, -0.50, 0.50), (0.64, 0.14, 0.40, -0.90, 0.90)],
}
T_NORMAL = (0.17, 0.18, -0.15)
T_INVERTED = {
    "anterior": (0.06, 0.14, 0.36),
    "lateral": (-0.24, 0.02, -0.02),
    "inferior": (0.10, -0.27, -0.16),
}
ST = {
    "elevated": {
        "anterior": (0.03, 0.02, -0.22),
        "lateral": (0.14, 0.04, -0.05),
        "inferior": (0.0, 0.20, -0.03),
    },
    "depressed": {
        "anterior": (-0.04, -0.05, 0.20),
        "lateral": (-0.14, -0.12, 0.02),
        "inferior": (-0.05, -0.20, 0.04),
    },
}
P_SINUS = [
    (0.038, 0.0165, 0.025, 0.085, -0.04),
    (0.066, 0.0175, 0.04, 0.05, 0.05),
]  # right, then left atrium; seconds
P_ECTOPIC = [(0.036, 0.015, -0.02, 0.06, 0.03), (0.062, 0.016, 0.02, 0.09, -0.04)]
P_RETROGRADE = [(0.040, 0.018, 0.01, -0.11, 0.02)]


def _waves(rows, scale=1.0) -> Waves:
    rows = np.asarray(rows, float)
    return Waves(rows[:, 0] * scale, rows[:, 1] * scale, rows[:, 1] * scale, rows[:, 2:])


def _join(*parts: Waves) -> Waves:
    return Waves(*(np.concatenate(column) for column in zip(*parts)))


def _vary(waves: Waves, rng, spread) -> Waves:
    """No two hearts alike: every wave a little larger or smaller, and turned a little."""
    size = np.exp(spread * rng.standard_normal((len(waves.centre), 1)))
    turn = (
        0.5
        * spread
        * rng.standard_normal(waves.vector.shape)
        * np.linalg.norm(waves.vector, axis=1)[:, None]
    )
    return waves._replace(vector=waves.vector * size + turn)


def _net(waves: Waves) -> np.ndarray:
    """Net area (I, A, Z) in mV s."""
    return ((waves.before + waves.after)[:, None] * np.sqrt(np.pi / 2) * waves.vector).sum(axis=0)


def _turn_to_axis(movable: Waves, fixed: Waves, axis: float) -> Waves:
    """Rotate ``movable`` in the frontal plane so that movable and fixed together have this
    axis (degrees).
    """
    target = np.deg2rad(axis)
    area, rest = _net(movable)[:2], _net(fixed)[:2]
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
    """Largest peak-to-peak deflection of these waves among the six limb leads, mV."""
    time = np.arange(-0.05, 0.3, 0.002)
    offset = time[:, None] - waves.centre
    width = np.where(offset < 0, waves.before, waves.after)
    path = np.exp(-0.5 * (offset / width) ** 2) @ (waves.vector @ TO_FRANK)
    return np.ptp(path @ TO_ELECTRODES[:, :3] @ TO_LEADS[:3, :6], axis=0).max()


def qrs_waves(findings: Findings, rng) -> Waves:
    """The QRS of the rhythm's own beats, with onset at 0, the drawn duration, axis and voltage."""
    rows = QRS[findings.conduction if findings.q_site == "none" else "infarcted"]
    late = TERMINAL.get(findings.conduction, []) + Q_WAVE.get(findings.q_site, [])
    if findings.rhythm == "paced":
        rows, late = ECTOPIC["apex"], []
    movable = _vary(_waves(rows, findings.qrs), rng, 0.15)
    fixed = _vary(_waves(np.reshape(late, (-1, 5)), findings.qrs), rng, 0.12)
    waves = _join(_turn_to_axis(movable, fixed, findings.axis), fixed)
    return waves._replace(vector=waves.vector * (findings.voltage / limb_voltage(waves)))


def t_waves(findings: Findings, qrs: Waves, rng) -> Waves:
    """ST segment and T wave with the end of T at time 0, at a heart rate of 60 a minute."""
    size = (findings.voltage / 1.2) ** 0.7 * np.exp(0.25 * rng.standard_normal())
    width = np.clip(findings.qtc / 0.41, 0.9, 1.25) * rng.uniform(0.95, 1.15)
    if findings.conduction == "lbbb" or findings.rhythm == "paced":
        return secondary_t(qrs, width)
    vector = np.array(T_NORMAL) * [1, 1, rng.uniform(0.5, 1.4)]
    if findings.conduction in (
        "rbbb",
        "irbbb",
    ):  # T turns away from the terminal forces: V1, V2 inverted
        vector += [0.05, 0.0, 0.36 if findings.conduction == "rbbb" else 0.10]
    if findings.t_wave == "inverted":
        vector = np.array(T_INVERTED[findings.t_site])
        size = max(size, 0.75)
    elif findings.t_wave == "flat":
        size *= 0.12
    after = 0.034 * width  # the ST segment leads into a slow rise, then a faster fall
    waves = Waves(
        np.array([-EDGE * after, -4.3 * after]),
        np.array([1.5, 1.8]) * after,
        np.array([1.0, 1.8]) * after,
        np.outer([1, 0.16], vector) * size,
    )
    if findings.t_wave == "biphasic":
        early = waves._replace(centre=waves.centre - 0.075, vector=waves.vector * 0.5)
        waves = _join(early, waves._replace(vector=-0.6 * waves.vector))
    if findings.st != "none":
        vector = np.array(ST[findings.st][findings.st_site]) * min(1.2, max(0.7, size))
        plateau = np.linspace(
            findings.qrs - 0.39 + 0.02, -0.14, 3
        )  # between the J point and the T wave
        vectors = np.outer([0.55, 0.6, 0.6], vector)
        waves = _join(waves, Waves(plateau, np.full(3, 0.022), np.full(3, 0.035), vectors))
    return waves


def secondary_t(qrs: Waves, width=1.0) -> Waves:
    """T wave and sloping ST segment of a ventricle that was activated abnormally: against
    the QRS.
    """
    span = np.ptp(np.concatenate([qrs.centre - EDGE * qrs.before, qrs.centre + EDGE * qrs.after]))
    vector = -0.65 * _net(qrs) / span
    after = 0.036 * width
    return Waves(
        np.array([-EDGE * after, -0.16]),
        np.array([0.050 * width, 0.05]),
        np.array([after, 0.06]),
        np.stack([vector, 0.45 * vector]),
    )


# ---- Rhythm
# --------------------------------------------------------------------------------------
def _intervals(findings: Findings, count: int, breath: float, rng) -> np.ndarray:
    """RR intervals (count,) in seconds, without ectopic beats."""
    mean = 60 / findings.rate
    if findings.rhythm == "fibrillation":  # irregularly irregular: no memory from beat to beat
        variation = rng.uniform(0.19, 0.28)
        rr = np.maximum(mean * rng.gamma(variation**-2, variation**2, count), 0.32)
        return rr * mean / rr[: int(count / 1.6)].mean()
    if findings.rhythm == "flutter":  # whole numbers of flutter waves
        cycle, ratio = 60 / findings.atrial_rate, findings.atrial_rate / findings.rate
        steps = np.floor(ratio + 1e-9) + (rng.random(count) < (ratio + 1e-9) % 1)
        return steps * cycle * (1 + 0.004 * rng.standard_normal(count))
    if findings.rhythm == "paced":
        return np.full(count, mean)
    time = mean * np.arange(count)
    # Mayer waves
    slow = 0.012 * mean * np.sin(2 * np.pi * 0.1 * time + rng.uniform(0, 2 * np.pi))
    wander = 0.008 * mean * rng.standard_normal(count)
    if findings.rhythm == "junctional":
        return mean + wander
    return (
        mean
        + findings.swing / 2 * np.sin(2 * np.pi * breath * time + rng.uniform(0, 2 * np.pi))
        + slow
        + wander
    )


def beats(findings: Findings, duration: float, breath: float, rng) -> Beats:
    """All beats whose waves may touch the record of ``duration`` seconds."""
    count = int(duration / 60 * findings.rate * 1.6) + 8
    rr = _intervals(findings, count, breath, rng)
    start = -rng.uniform(0.6, 1.6) * rr[0]
    rr, kind = _ectopic_beats(findings, rr, start, duration, rng)
    onset = start + np.concatenate([[0], np.cumsum(rr)])
    mean = 60 / findings.rate
    before = np.concatenate([[mean], rr])
    wide = 0.485 * max(0.0, findings.qrs - 0.10)  # Bogossian's allowance for a wide QRS
    qt = findings.qtc * np.sqrt(0.85 * mean + 0.15 * np.minimum(before, 1.5 * mean)) + wide
    keep = (onset > -1.2) & (onset < duration + 0.6)
    return Beats(onset[keep], qt[keep], np.concatenate([[0], kind])[keep])


def _ectopic_beats(findings: Findings, rr, start, duration, rng):
    """Let some beats (never two in a row) come early.  Returns the intervals and the kind
    of beat that ends each.
    """
    kind = np.zeros(len(rr), int)
    if findings.ectopy == "none":
        return rr, kind
    time = start + np.cumsum(rr)
    first = np.searchsorted(time, 0.5) + 1
    slots = np.arange(first, max(np.searchsorted(time, duration - 1.2), first + 1), 2)
    wanted = int(np.clip(round(findings.ectopics * duration / 10), 1, len(slots)))
    where = np.sort(rng.choice(slots, wanted, replace=False))
    atrial = findings.ectopy == "pac"
    early = rng.uniform(*((0.56, 0.70) if atrial else (0.52, 0.66))) + 0.02 * rng.standard_normal(
        wanted
    )
    pause = 1.08 if atrial else 2 - early  # a PVC leaves the sinus node alone: full pause
    rr[where], rr[where + 1] = rr[where] * early, rr[where] * pause
    kind[where] = 1 if atrial else 2
    return rr, kind


def flutter_or_fibrillation(
    findings: Findings, first_beat: float, time: np.ndarray, rng
) -> np.ndarray:
    """Atrial activity without P waves, as a dipole (n, 3) in mV: sawtooth waves whose amplitude
    and period wander (Stridh and Sornmo 2001, Spatiotemporal QRST cancellation techniques for
    analysis of atrial fibrillation).
    """
    if findings.rhythm == "flutter":
        phase = 2 * np.pi * findings.atrial_rate / 60 * (time - first_beat + 0.05)
        harmonics, size = 5, rng.uniform(0.10, 0.17)
        vector = np.array([0.05, 0.95, 0.45])
        envelope = 1.0
    else:
        frequency = rng.uniform(4.8, 7.5)
        drift = sum(
            rng.uniform(0.3, 1.0) / f * np.sin(2 * np.pi * f * time + rng.uniform(0, 6.3)) * 0.35
            for f in (0.13, 0.31, 0.83, 1.7)
        )
        phase = 2 * np.pi * frequency * time + 2 * np.pi * drift
        harmonics, size = 3, rng.uniform(0.04, 0.11)
        vector = np.array([-0.12, 0.40, -1.0])
        envelope = (
            1
            + 0.35 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * time)
            + 0.25 * np.sin(2 * np.pi * rng.uniform(0.7, 1.3) * time)
        )
    saw = sum(np.sin(k * phase) / k * 0.85**k for k in range(1, harmonics + 1))
    turned = sum(np.sin(k * phase + 0.9) / k * 0.85**k for k in range(1, 3))
    path = np.outer(envelope * saw, vector) + np.outer(envelope * turned, 0.25 * vector[::-1])
    return size * _product(path, TO_FRANK)


# ---- From beats to leads
# -------------------------------------------------------------------------
def place(waves: Waves, at: np.ndarray, stretch=1.0) -> Waves:
    """The same waves at every time of ``at`` (b,); ``stretch`` (scalar or (b,)) widens them."""
    stretch = np.broadcast_to(stretch, at.shape)[:, None]
    return Waves(
        (at[:, None] + stretch * waves.centre).ravel(),
        (stretch * waves.before).ravel(),
        (stretch * waves.after).ravel(),
        np.tile(waves.vector, (len(at), 1)),
    )


def render(waves: Waves, samples: int, fs: float) -> np.ndarray:
    """Sum of the Gaussians on the sample grid (samples, 3).  Each is computed on its own +-5
    standard deviations only: all of them at once, as one ragged array.
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


def _atrial_waves(findings: Findings, beat: Beats, rng) -> list[Waves]:
    """P waves of the beats that have one."""
    size = np.exp(0.2 * rng.standard_normal())
    if findings.rhythm == "junctional":
        delay = rng.choice([0.09, -0.11])  # after the QRS or shortly before it
        return [place(_waves(P_RETROGRADE), beat.onset + delay)] if rng.random() < 0.6 else []
    if not findings.has_p_waves:
        return []
    sinus = _vary(_waves(P_SINUS), rng, 0.15)
    return [
        place(sinus._replace(vector=size * sinus.vector), beat.onset[beat.kind == 0] - findings.pr),
        place(_vary(_waves(P_ECTOPIC), rng, 0.2), beat.onset[beat.kind == 1] - findings.pr - 0.01),
    ]


def _ventricular_waves(findings: Findings, beat: Beats, rng) -> list[Waves]:
    """QRS, ST and T of all beats, and the pacing spikes."""
    qrs = qrs_waves(findings, rng)
    t = t_waves(findings, qrs, rng)
    own = beat.kind < 2
    rate_factor = np.clip(np.sqrt(60 / findings.rate), 0.65, 1.15)
    parts = [place(qrs, beat.onset[own]), place(t, (beat.onset + beat.qt)[own], rate_factor)]
    if findings.rhythm == "paced":
        tip = Waves(
            np.array([-0.004]),
            np.array([0.0008]),
            np.array([0.0016]),
            np.array([[0.30, -0.75, 0.45]]) * rng.uniform(0.8, 2.0),
        )
        parts.append(place(tip, beat.onset[own]))
    if findings.ectopy == "pvc":
        origin = ECTOPIC[rng.choice(list(ECTOPIC))]
        wide = _vary(_waves(origin, rng.uniform(0.14, 0.17)), rng, 0.12)
        wide = wide._replace(
            vector=wide.vector * rng.uniform(0.9, 1.4) * (max(findings.voltage, 0.6) / 1.2) ** 0.5
        )
        early = beat.onset[beat.kind == 2]
        parts += [
            place(wide, early),
            place(
                secondary_t(wide), early + np.minimum(0.44, 0.95 * beat.qt[beat.kind == 2] + 0.05)
            ),
        ]
    return parts


def _breathing(waves: Waves, breath: float, rng) -> Waves:
    """Breathing turns and moves the heart; every beat also differs a little.  Vectors leave
    as (X, Y, Z).
    """
    phase = 2 * np.pi * breath * waves.centre
    size = 1 + rng.uniform(0.01, 0.05) * np.sin(phase) + 0.012 * rng.standard_normal(len(phase))
    turn = np.deg2rad(rng.uniform(1, 4)) * np.sin(phase + 1)
    x, y, z = (waves.vector @ TO_FRANK).T * size
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return waves._replace(vector=np.stack([x, y, z], axis=1))


def _disturbances(findings: Findings, samples, fs, mains, breath, rng) -> np.ndarray:
    """Noise of the nine electrodes (samples, 9) in mV: baseline wander, mains hum, muscles
    (15 to 100 Hz).
    """
    time = np.arange(samples) / fs
    hum_level = 0.004 * np.exp(0.7 * rng.standard_normal(9)) * (rng.random() < 0.7)
    hum = np.sin(
        2 * np.pi * mains * (1 + 1e-4 * rng.standard_normal()) * time + rng.uniform(0, 6.3)
    )
    band = butter(1, [15, min(100, 0.45 * fs)], "bandpass", fs=fs)
    muscle = lfilter(*band, rng.standard_normal((samples, 9), dtype=np.float32), axis=0)
    muscle /= muscle.std()
    envelope = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * time + rng.uniform(0, 6.3))
    strength = 0.006 * np.exp(0.45 * rng.standard_normal() + 0.25 * rng.standard_normal(9))
    wander = _baseline_wander(time, breath, rng)
    return findings.noise * (
        wander + hum[:, None] * hum_level + muscle * envelope[:, None] * strength
    )


def _baseline_wander(time, breath, rng):
    """Slow movements and breathing, which reach all electrodes in different strength (samples,
    9).  Nothing here is faster than 0.5 Hz, so a grid of 25 Hz and straight lines between its
    points will do.
    """
    frequency = np.concatenate([[breath], rng.uniform(0.04, 0.5, 5)])
    level = np.concatenate([[0.025], 0.012 / (frequency[1:] / 0.1).clip(0.5)]) * np.exp(
        0.4 * rng.standard_normal(6)
    )
    weight = level[:, None] * rng.standard_normal((2, 6, 9))
    grid = np.arange(0, time[-1] + 0.08, 0.04)
    angle = 2 * np.pi * np.outer(grid, frequency)
    coarse = _product(np.sin(angle), weight[0]) + _product(np.cos(angle), weight[1])
    return np.stack([np.interp(time, grid, electrode) for electrode in coarse.T], axis=1)


def _product(tall, small):
    """Matrix product of (n, a) and (a, b) without BLAS, whose threads cost thin matrices more
    than they save and whose rounding depends on their number.
    """
    return np.einsum("na,ab->nb", tall, small)


def simulate(
    findings: Findings, fs: float, samples: int, mains: float, rng: np.random.Generator
) -> np.ndarray:
    """One recording: float64 (samples, 12) in mV, leads in the order of ``util.leads.LEADS``.

    ``fs`` and the frequency of the ``mains`` are in Hz; every random number of the record comes
    from ``rng``.
    """
    breath = rng.uniform(0.2, 0.33) if findings.swing < 0.12 else rng.uniform(0.13, 0.22)
    beat = beats(findings, samples / fs, breath, rng)
    waves = _join(*_atrial_waves(findings, beat, rng), *_ventricular_waves(findings, beat, rng))
    dipole = render(_breathing(waves, breath, rng), samples, fs)
    if not findings.has_p_waves:
        dipole += flutter_or_fibrillation(findings, beat.onset[0], np.arange(samples) / fs, rng)
    gain = np.concatenate(
        [rng.uniform(0.98, 1.02, 3), rng.uniform(0.88, 1.12, 6)]
    )  # contact and placement
    electrodes = _product(dipole, TO_ELECTRODES * gain)
    electrodes += _disturbances(findings, samples, fs, mains, breath, rng)
    return _product(electrodes, TO_LEADS)


# ---- What a reader would write under it
# ----------------------------------------------------------
MEANING = {
    "fibrillation": "AF",
    "flutter": "AFL",
    "junctional": "JR",
    "paced": "PR",
    "rbbb": "CRBBB",
    "irbbb": "IRBBB",
    "lbbb": "LBBB",
    "nsivcb": "NSIVCB",
    "lafb": "LAnFB",
    "inverted": "TInv",
    "flat": "TAb",
    "biphasic": "TAb",
    "elevated": "MI",
    "depressed": "STD",
    "pac": "PAC",
    "pvc": "PVC",
}


def diagnoses(findings: Findings) -> list[str]:
    """Abbreviations of the Challenge's diagnoses (and a few unscored ones: MI, STD, JR)
    that these findings mean.
    """
    f, slow, fast, irregular = (
        findings,
        findings.rate < 60,
        findings.rate > 100,
        findings.swing >= 0.12,
    )
    if f.rhythm == "paced":  # hides everything else
        found = {f.rhythm: True, "AF": f.fibrillating_atria, f.ectopy: True}
    else:
        sinus = f.rhythm == "sinus"
        found = {
            f.rhythm: True,
            "NSR": sinus and not (slow or fast or irregular),
            "SB": sinus and slow,
            "STach": sinus and fast,
            "SA": sinus and irregular,
            "IAVB": sinus and f.pr > 0.20,
            "LPR": sinus and f.pr > 0.24,
            "Brady": slow and not sinus,
            f.conduction: True,
            "LAD": -90 <= f.axis < -30,
            "RAD": 90 < f.axis <= 180,
            "LQRSV": f.voltage < 0.5,
            "LQT": f.qtc > 0.46,
            "QAb": f.q_site != "none",
            f.t_wave: True,
            f.st: True,
            f.ectopy: True,
        }
    return [
        MEANING.get(name, name)
        for name, applies in found.items()
        if applies and name not in ("sinus", "normal", "none")
    ]
