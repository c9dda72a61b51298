"""Simulated recordings as the files of the PhysioNet/CinC Challenge 2020."""

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io

from data_preparation.simulator.ecg_model import simulate
from data_preparation.simulator.findings import Findings, diagnoses
from data_preparation.simulator.patients import draw_findings
from util.challenge import ABBREVIATIONS, CLASSES, CODE_TO_CLASS
from util.console import progress_bar
from util.errors import ECGError
from util.files import write_json
from util.leads import LEADS

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


def dx_codes(names: list[str], database: Database) -> list[str]:
    """Return the SNOMED CT codes of the diagnoses as this database writes them."""
    if database.terse and {"MI", "STD"} & set(names):
        names = [name for name in names if name != "NSR"]
    return [(CODES | database.codes)[name] for name in names]


def database_of(index: int) -> str:
    """Return the source database of record i.

    The first six are one of each, then the golden ratio spreads them by share.
    """
    if index < len(DATABASES):
        return list(DATABASES)[index]
    edges = np.cumsum([database.share for database in DATABASES.values()])
    place = int(np.searchsorted(edges, index * 0.6180339887498949 % 1.0, side="right"))
    return list(DATABASES)[min(place, len(DATABASES) - 1)]


def simulated_record(
    seed: int, index: int, *, full_length: bool = False
) -> tuple[str, Findings, str, list[str], np.ndarray]:
    """Return record i: database, findings, age as text, SNOMED CT codes, counts (samples, 12)."""
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
    """Return the WFDB header, with every lead's first sample and 16-bit checksum."""
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


def write_record(
    index: int, number: int, seed: int, folder: Path, *, full_length: bool = False
) -> list[str]:
    """Simulate record i, write its two files and return its codes.

    Args:
        index: i, from 0.
        number: of the record within its database, from 1.
        seed: of the folder.
        folder: where the databases go.
        full_length: whether INCART's records last 30 minutes.
    """
    name, findings, age, dx, counts = simulated_record(seed, index, full_length=full_length)
    record = DATABASES[name].name.format(number)
    place = folder / name / f"g{number // RECORDS_A_FOLDER + 1}"
    place.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(place / f"{record}.mat", {"val": counts.T}, format="4")
    sex = "Male" if findings.male else "Female"
    (place / f"{record}.hea").write_text(
        header_text(record, DATABASES[name], counts, age, sex, dx), encoding="ascii"
    )
    return dx


def prepare_folder(folder: Path, settings: dict) -> None:
    """Create the folder, or resume in one that a run with the same settings has begun.

    Raises:
        ECGError: it cannot be made, or holds other files.
    """
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
    write_json(note, settings)


def simulate_folder(
    folder: Path, records: int, seed: int, workers: int, *, full_length: bool = False
) -> Counter:
    """Write all records with this many processes and return how many carry each code."""
    prepare_folder(folder, {"records": records, "seed": seed, "full_length": full_length})
    work = partial(write_record, seed=seed, folder=folder, full_length=full_length)
    seen: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    numbers = []
    for name in map(database_of, range(records)):
        seen[name] += 1
        numbers.append(seen[name])  # the running number, from 1, of a record within its database
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        written = (partial(pool.map, chunksize=8) if pool else map)(work, range(records), numbers)
        for dx in progress_bar(written, total=records, unit="record", desc="simulating"):
            totals.update(dx)
    return totals


def summary(totals: Counter) -> str:
    """Say how many records carry each diagnosis, equivalent codes taken together."""
    names = {code: f"{name} (unscored)" for name, code in UNSCORED.items()}
    names |= {code: ABBREVIATIONS[number] for code, number in CODE_TO_CLASS.items()}
    merged = Counter(names[code] for code in totals.elements())
    return ", ".join(f"{name} {count}" for name, count in merged.most_common())
