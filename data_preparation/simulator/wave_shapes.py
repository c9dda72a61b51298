"""The waves of a simulated beat: P, QRS, ST and T, as the findings make them.

Wave tables give vectors as ``dipole.py`` says.
"""

import numpy as np

from data_preparation.simulator.dipole import (
    EDGE,
    Waves,
    join,
    limb_voltage,
    net_area,
    place,
    to_waves,
    turn_to_axis,
    vary,
)
from data_preparation.simulator.findings import Findings
from data_preparation.simulator.rhythm import Beats

# QRS rows: centre and standard deviation as shares of the QRS duration, then (I, A, Z) in mV at
# the normal axis.
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


def qrs_waves(findings: Findings, rng: np.random.Generator) -> Waves:
    """Return the QRS of the rhythm, with onset at 0, the drawn duration, axis and voltage."""
    rows = QRS[findings.conduction if findings.q_site == "none" else "infarcted"]
    late = TERMINAL.get(findings.conduction, []) + Q_WAVE.get(findings.q_site, [])
    if findings.rhythm == "paced":
        rows, late = ECTOPIC["apex"], []
    movable = vary(to_waves(rows, findings.qrs), rng, 0.15)
    fixed = vary(to_waves(np.reshape(late, (-1, 5)), findings.qrs), rng, 0.12)
    waves = join(turn_to_axis(movable, fixed, findings.axis), fixed)
    return waves._replace(vector=waves.vector * (findings.voltage / limb_voltage(waves)))


def t_waves(findings: Findings, qrs: Waves, rng: np.random.Generator) -> Waves:
    """Return ST segment and T wave, with the end of T at time 0, at a rate of 60 a minute."""
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
        waves = join(early, waves._replace(vector=-0.6 * waves.vector))
    if findings.st != "none":
        vector = np.array(ST[findings.st][findings.st_site]) * min(1.2, max(0.7, size))
        plateau = np.linspace(
            findings.qrs - 0.39 + 0.02, -0.14, 3
        )  # between the J point and the T wave
        vectors = np.outer([0.55, 0.6, 0.6], vector)
        waves = join(waves, Waves(plateau, np.full(3, 0.022), np.full(3, 0.035), vectors))
    return waves


def secondary_t(qrs: Waves, width: float = 1.0) -> Waves:
    """Return T wave and ST segment of an abnormally activated ventricle: against the QRS."""
    span = np.ptp(np.concatenate([qrs.centre - EDGE * qrs.before, qrs.centre + EDGE * qrs.after]))
    vector = -0.65 * net_area(qrs) / span
    after = 0.036 * width
    return Waves(
        np.array([-EDGE * after, -0.16]),
        np.array([0.050 * width, 0.05]),
        np.array([after, 0.06]),
        np.stack([vector, 0.45 * vector]),
    )


def atrial_waves(findings: Findings, beat: Beats, rng: np.random.Generator) -> list[Waves]:
    """Return the P waves of the beats that have one."""
    size = np.exp(0.2 * rng.standard_normal())
    if findings.rhythm == "junctional":
        delay = rng.choice([0.09, -0.11])  # after the QRS or shortly before it
        return [place(to_waves(P_RETROGRADE), beat.onset + delay)] if rng.random() < 0.6 else []
    if not findings.has_p_waves:
        return []
    sinus = vary(to_waves(P_SINUS), rng, 0.15)
    return [
        place(sinus._replace(vector=size * sinus.vector), beat.onset[beat.kind == 0] - findings.pr),
        place(vary(to_waves(P_ECTOPIC), rng, 0.2), beat.onset[beat.kind == 1] - findings.pr - 0.01),
    ]


def ventricular_waves(findings: Findings, beat: Beats, rng: np.random.Generator) -> list[Waves]:
    """Return QRS, ST and T of all beats, and the pacing spikes."""
    qrs = qrs_waves(findings, rng)
    t = t_waves(findings, qrs, rng)
    of_rhythm = beat.kind < 2
    rate_factor = np.clip(np.sqrt(60 / findings.rate), 0.65, 1.15)
    parts = [
        place(qrs, beat.onset[of_rhythm]),
        place(t, (beat.onset + beat.qt)[of_rhythm], rate_factor),
    ]
    if findings.rhythm == "paced":
        tip = Waves(
            np.array([-0.004]),
            np.array([0.0008]),
            np.array([0.0016]),
            np.array([[0.30, -0.75, 0.45]]) * rng.uniform(0.8, 2.0),
        )
        parts.append(place(tip, beat.onset[of_rhythm]))
    if findings.ectopy == "pvc":
        origin = ECTOPIC[rng.choice(list(ECTOPIC))]
        wide = vary(to_waves(origin, rng.uniform(0.14, 0.17)), rng, 0.12)
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
