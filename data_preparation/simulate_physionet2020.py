"""Simulated 12-lead ECGs, written as the files of the PhysioNet/CinC Challenge 2020.

Everything in this project runs on a machine without data: simulate, then prepare the folder as if
it were PhysioNet's.

    python data_preparation/simulate_physionet2020.py --output_dir data_folder/datasets \\
        --records 400 --seed 0

writes six databases with their own sampling rates and lengths, 1000 records a sub folder, each
record a text header (.hea: rate, leads, checksums, age, sex, SNOMED CT codes) and a MATLAB v4
file (.mat: int16 ``val``, 12 x samples). Record i depends on (seed, i) alone: more records later
leave the first ones as they were, and the number of processes changes nothing.  The hearts are
those of ``ecg_model.py``; the diagnoses follow from their parameters.
"""

import argparse
import json
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data_preparation.simulator.ecg_model import Findings, diagnoses, simulate
from util.challenge import ABBREVIATIONS, CLASSES, CODE_TO_CLASS
from util.errors import ECGError
from util.leads import LEADS
from util.processes.program import run_main

COUNTS_PER_MV = 1000
RECORDS_A_FOLDER = 1000


class Database(NamedTuple):
    """How one source database looks."""

    share: float  # of all records
    fs: int  # Hz
    seconds: tuple[float, float]  # shortest and longest record
    ten_seconds: float  # share of records of exactly 10 s
    name: str  # of a record, from its number
    codes: dict[str, str] = {}  # that it prefers to the Challenge's
    mains: int = 50  # Hz
    terse: bool = True  # leaves sinus rhythm unsaid beside ischaemia
    comment: str = "#"  # how a comment in its headers begins


_RBBB, _PAC_SB = {"CRBBB": "59118001"}, {"PAC": "63593006", "SB": "426627000"}
DATABASES = {
    "cpsc_2018": Database(0.16, 500, (6, 60), 0.7, "A{:04d}", _RBBB),
    "cpsc_2018_extra": Database(0.08, 500, (8, 60), 0.7, "Q{:04d}", _PAC_SB),
    "st_petersburg_incart": Database(0.0035, 257, (30, 60), 0, "I{:04d}", _PAC_SB | _RBBB),
    "ptb": Database(0.012, 1000, (30, 60), 0, "S{:04d}"),
    "ptb-xl": Database(0.5045, 500, (10, 10), 1, "HR{:05d}", terse=False, comment="# "),
    "georgia": Database(0.24, 500, (10, 10), 1, "E{:05d}", _RBBB | {"PVC": "17338001"}, mains=60),
}
FULL_INCART_SECONDS = 1800
UNSCORED = {"MI": "164865005", "STD": "429622005", "JR": "426995002"}
CODES = dict(zip(ABBREVIATIONS, CLASSES)) | UNSCORED


# ---- Patients
# ------------------------------------------------------------------------------------
def _choose(rng, usual, **shares) -> str:
    """One of the names, by their shares of 1, or the usual one."""
    return str(rng.choice([usual, *shares], p=[1 - sum(shares.values()), *shares.values()]))


def draw_findings(rng: np.random.Generator) -> Findings:
    """One patient: nearly a third is healthy, the others have one or several findings that
    can go together.
    """
    healthy = rng.random() < 0.28
    rhythm = "sinus"
    if not healthy:
        rhythm = _choose(
            rng, "sinus", fibrillation=0.13, flutter=0.04, paced=0.04, junctional=0.025
        )
    known = {
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
    rate = {"slow": (41, 58), "fast": (103, 145)}.get(kind, (62, 97 if kind == "normal" else 84))
    rate = (
        rng.uniform(*rate)
        if kind != "normal"
        else float(np.clip(74 + 9 * rng.standard_normal(), *rate))
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
    found = {"qtc": qtc}
    if known["conduction"] in ("rbbb", "lbbb", "nsivcb"):
        return found
    site = ("anterior", "lateral", "inferior")[rng.integers(3)]
    found |= {"t_site": site, "st_site": site}
    if rng.random() < 0.08 and known["conduction"] == "normal":
        found["qrs"] = rng.uniform(0.094, 0.112)
        found |= {"q_site": site, "t_wave": "inverted" if rng.random() < 0.35 else "normal"}
    elif rng.random() < 0.22:
        found["t_wave"] = _choose(rng, "flat", biphasic=0.15, inverted=0.45)
    elif rng.random() < 0.18:
        found["st"] = "elevated" if rng.random() < 0.5 else "depressed"
    return found


def dx_codes(names: list[str], database: Database) -> list[str]:
    """SNOMED CT codes of the diagnoses as this database writes them."""
    if database.terse and {"MI", "STD"} & set(names):
        names = [name for name in names if name != "NSR"]
    return [(CODES | database.codes)[name] for name in names]


# ---- Records
# -------------------------------------------------------------------------------------
def database_of(index: int) -> str:
    """Source database of record i: the first six are one of each, then the golden ratio
    spreads them by share.
    """
    if index < len(DATABASES):
        return list(DATABASES)[index]
    edges = np.cumsum([database.share for database in DATABASES.values()])
    place = np.searchsorted(edges, index * 0.6180339887498949 % 1.0, side="right")
    return list(DATABASES)[min(place, len(DATABASES) - 1)]


def simulated_record(seed: int, index: int, full_length: bool = False):
    """Record i: its database, Findings, age as text, SNOMED CT codes and int16 counts
    (samples, 12).
    """
    rng = np.random.default_rng([seed, index])
    name = database_of(index)
    database = DATABASES[name]
    findings = draw_findings(rng)
    low, high = database.seconds
    seconds = 10.0 if rng.random() < database.ten_seconds else low * (high / low) ** rng.random()
    if full_length and name == "st_petersburg_incart":
        seconds = FULL_INCART_SECONDS
    signal = simulate(findings, database.fs, int(seconds * database.fs), database.mains, rng)
    counts = np.clip(np.rint(signal * COUNTS_PER_MV), -32767, 32767).astype("<i2")
    age = (
        "300" if name == "ptb-xl" and findings.age > 89 else str(findings.age)
    )  # as PTB-XL hides great age
    age = "NaN" if rng.random() < 0.01 else age
    return name, findings, age, dx_codes(diagnoses(findings), database), counts


def header_text(
    record: str, database: Database, counts: np.ndarray, age: str, sex: str, dx: list[str]
) -> str:
    """The WFDB header, with every lead's first sample and 16-bit checksum."""
    lines = [f"{record} 12 {database.fs} {len(counts)} 05-Feb-2020 11:39:16"]
    checksum = counts.sum(axis=0, dtype=np.int64).astype(np.int16)
    for lead, first, total in zip(LEADS, counts[0], checksum):
        lines.append(f"{record}.mat 16+24 {COUNTS_PER_MV}/mV 16 0 {first} {total} 0 {lead}")
    about = {
        "Age": age,
        "Sex": sex,
        "Dx": ",".join(dx),
        "Rx": "Unknown",
        "Hx": "Unknown",
        "Sx": "Unknown",
    }
    return (
        "\n".join(lines + [f"{database.comment}{key}: {value}" for key, value in about.items()])
        + "\n"
    )


def write_record(index: int, number: int, seed: int, folder: Path, full_length: bool) -> list[str]:
    """Simulate record i, which is the ``number``-th of its database, and write its two
    files.  Returns its codes.
    """
    name, findings, age, dx, counts = simulated_record(seed, index, full_length)
    record = DATABASES[name].name.format(number)
    place = folder / name / f"g{number // RECORDS_A_FOLDER + 1}"
    place.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(place / f"{record}.mat", {"val": counts.T}, format="4")
    sex = "Male" if findings.male else "Female"
    (place / f"{record}.hea").write_text(
        header_text(record, DATABASES[name], counts, age, sex, dx), encoding="ascii"
    )
    return dx


def prepare_folder(folder: Path, settings: dict):
    """Create the folder, or resume in one that a run with the same settings has begun."""
    note = folder / "simulation.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ECGError(
            f"cannot make the folder {folder} ({error.strerror}); choose another"
        ) from None
    if any(folder.iterdir()) and (not note.is_file() or json.loads(note.read_text()) != settings):
        raise ECGError(
            f"{folder} already holds other files; give an empty --output_dir or remove it"
        )
    note.write_text(json.dumps(settings, indent=1) + "\n")


def simulate_folder(
    folder: Path, records: int, seed: int, workers: int, full_length: bool = False
) -> Counter:
    """Write all records with this many processes.  Returns how many records carry each code."""
    prepare_folder(folder, {"records": records, "seed": seed, "full_length": full_length})
    work = partial(write_record, seed=seed, folder=folder, full_length=full_length)
    seen, numbers, totals = Counter(), [], Counter()
    for name in map(database_of, range(records)):
        seen[name] += 1
        numbers.append(seen[name])  # the running number, from 1, of a record within its database
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        written = (partial(pool.map, chunksize=8) if pool else map)(work, range(records), numbers)
        for dx in tqdm(written, total=records, unit="record", desc="simulating"):
            totals.update(dx)
    return totals


def summary(totals: Counter) -> str:
    """How many records carry each diagnosis, equivalent codes taken together."""
    names = {code: f"{name} (unscored)" for name, code in UNSCORED.items()}
    names |= {code: ABBREVIATIONS[number] for code, number in CODE_TO_CLASS.items()}
    merged = Counter(names[code] for code in totals.elements())
    return ", ".join(f"{name} {count}" for name, count in merged.most_common())


def main(argv=None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="empty folder to fill")
    parser.add_argument(
        "--records", type=int, default=400, help="how many; 400 make a demo (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)"
    )
    parser.add_argument(
        "--full_length", action="store_true", help="INCART's 30 minutes instead of 30 to 60 s"
    )
    args = parser.parse_args(argv)
    if args.records < 1 or args.seed < 0:
        raise ECGError("--records must be at least 1 and --seed at least 0")
    totals = simulate_folder(
        args.output_dir, args.records, args.seed, args.workers, args.full_length
    )
    print(f"{args.records} records in {args.output_dir}: {summary(totals)}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
