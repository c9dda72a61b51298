"""Simulated patients: which findings go together, and how often."""

import numpy as np

from data_preparation.simulator.findings import Findings


def draw_findings(rng: np.random.Generator) -> Findings:
    """Draw one patient.

    Nearly a third is healthy, the others have one or several findings that can go together.
    """
    healthy = rng.random() < 0.28
    rhythm = "sinus"
    if not healthy:
        rhythm = _choose(
            rng, "sinus", fibrillation=0.13, flutter=0.04, paced=0.04, junctional=0.025
        )
    known: dict = {
        "rhythm": rhythm,
        "noise": float(np.exp(0.35 * rng.standard_normal())),
        "male": bool(rng.random() < 0.53),
    }
    known |= _draw_rate(rng, rhythm, healthy)
    known |= _draw_conduction(rng, rhythm, healthy, known["rate"])
    known |= _draw_repolarisation(rng, known, healthy)
    low = not healthy and rhythm != "paced" and rng.random() < 0.05
    usual = 0.9 if known.get("conduction") == "lbbb" else 1.15
    known["voltage"] = float(
        rng.uniform(0.27, 0.44)
        if low
        else np.clip(usual * np.exp(0.26 * rng.standard_normal()), 0.65, 2.0)
    )
    if not healthy:
        early = {"pac": 0.08} if rhythm == "sinus" and known["rate"] < 105 else {}
        known["ectopy"] = _choose(rng, "none", pvc=0.07, **early)
        known["ectopics"] = 0 if known["ectopy"] == "none" else int(1 + rng.poisson(0.8))
    old = rhythm in ("fibrillation", "flutter", "paced") or known.get("conduction") in (
        "lbbb",
        "rbbb",
    )
    age = (73 if old else 48 if healthy else 62) + (10 if old else 16) * rng.standard_normal()
    return Findings(**known, age=int(np.clip(age, 18, 97)))


def _draw_rate(rng, rhythm, healthy) -> dict:
    if rhythm == "fibrillation":
        return {"rate": rng.uniform(45, 57) if rng.random() < 0.08 else rng.uniform(63, 140)}
    if rhythm == "flutter":
        atrial = rng.uniform(250, 330)
        ratio = rng.choice([2, 3, 4, 2.5, 3.4], p=[0.35, 0.15, 0.25, 0.1, 0.15])
        return {"atrial_rate": atrial, "rate": atrial / ratio}
    if rhythm == "paced":
        return {
            "rate": rng.choice([60.5, 65, 70, 75, 80]),
            "fibrillating_atria": bool(rng.random() < 0.25),
        }
    if rhythm == "junctional":
        return {"rate": rng.uniform(38, 56)}
    kind = "normal" if healthy else _choose(rng, "normal", slow=0.16, fast=0.14, irregular=0.09)
    usual = (62, 97 if kind == "normal" else 84)
    low, high = {"slow": (41, 58), "fast": (103, 145)}.get(kind, usual)
    rate = (
        rng.uniform(low, high)
        if kind != "normal"
        else float(np.clip(74 + 9 * rng.standard_normal(), low, high))
    )
    if kind == "irregular":
        return {"rate": rate, "swing": rng.uniform(0.22, 0.38) * 60 / rate}
    return {"rate": rate, "swing": rng.uniform(0.01, 0.07) * 60 / max(rate, 60)}


def _draw_conduction(rng, rhythm, healthy, rate) -> dict:
    """PR, bundle branches, QRS duration, axis."""
    if rhythm == "paced":
        return {
            "qrs": rng.uniform(0.15, 0.18),
            "axis": rng.uniform(-85, -55),
            "pr": rng.uniform(0.15, 0.19),
        }
    pr = float(np.clip(0.155 + 0.018 * rng.standard_normal(), 0.12, 0.192))
    if not healthy and rhythm == "sinus" and rng.random() < 0.13 and rate < 105:
        pr = 0.205 + min(rng.exponential(0.035), 0.14 if rate < 90 else 0.035)
    kind = (
        "normal"
        if healthy
        else _choose(rng, "normal", rbbb=0.09, irbbb=0.055, lbbb=0.06, nsivcb=0.05, lafb=0.06)
    )
    low, high = {
        "rbbb": (0.125, 0.155),
        "irbbb": (0.104, 0.118),
        "lbbb": (0.130, 0.170),
        "nsivcb": (0.116, 0.138),
        "lafb": (0.092, 0.112),
    }.get(kind, (0.078, 0.102))
    axis = float(np.clip(42 + 24 * rng.standard_normal(), -22, 82))
    deviation = "none" if healthy else _choose(rng, "none", left=0.09, right=0.05)
    if kind == "lafb":
        axis = rng.uniform(-75, -47)
    elif deviation == "left" or (kind == "lbbb" and rng.random() < 0.3):
        axis = rng.uniform(-70, -35)
    elif deviation == "right" and kind != "lbbb":
        axis = rng.uniform(97, 140)
    return {"pr": pr, "conduction": kind, "qrs": rng.uniform(low, high), "axis": axis}


def _draw_repolarisation(rng, known, healthy) -> dict:
    """QT, T wave, Q wave, ST segment.  Where the ventricle is activated abnormally, T and
    ST say nothing more.
    """
    qtc = float(np.clip(0.408 + 0.016 * rng.standard_normal(), 0.370, 0.440))
    if healthy or known["rhythm"] == "paced":
        return {"qtc": qtc}
    if rng.random() < 0.06 and known["rate"] < 100:
        qtc = rng.uniform(0.485, 0.56)
    drawn: dict = {"qtc": qtc}
    if known["conduction"] in ("rbbb", "lbbb", "nsivcb"):
        return drawn
    site = ("anterior", "lateral", "inferior")[rng.integers(3)]
    drawn |= {"t_site": site, "st_site": site}
    if rng.random() < 0.08 and known["conduction"] == "normal":
        drawn["qrs"] = rng.uniform(0.094, 0.112)
        drawn |= {"q_site": site, "t_wave": "inverted" if rng.random() < 0.35 else "normal"}
    elif rng.random() < 0.22:
        drawn["t_wave"] = _choose(rng, "flat", biphasic=0.15, inverted=0.45)
    elif rng.random() < 0.18:
        drawn["st"] = "elevated" if rng.random() < 0.5 else "depressed"
    return drawn


def _choose(rng, usual, **shares) -> str:
    """One of the names, by their shares of 1, or the usual one."""
    return str(rng.choice([usual, *shares], p=[1 - sum(shares.values()), *shares.values()]))
