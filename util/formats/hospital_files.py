"""Recordings as hospitals export them (GE MUSE XML, Philips Sierra XML, HL7 aECG, EDF+ and more),
read by the package ecgdatakit.
"""

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import ECGError, MissingPackage, RecordError
from util.formats.wfdb_files import SEXES
from util.leads import standard_lead
from util.recordings.recording import OLDEST_AGE, Recording, millivolts_per, own_patient, printable

ENDINGS = (".xml", ".edf", ".scp", ".ecg", ".mwf", ".mfer")
MOST_WORDS = 160  # characters of the package's reasons and warnings
INSTALL = "python -m pip install 'ecgdatakit>=2.0.3,<3'"
# Its parsers whose recordings were compared with their source; others leave a remark.
PROVEN = ("ge_muse_xml", "sierra_xml", "hl7_aecg", "edf", "edf_plus")
_OTHERS = (
    "DICOM",
    "WFDB",
    "EDAN",
)  # formats of which it opens further files, or that are read here
# What its warnings say of files whose samples are not what they should be.
_DAMAGED = re.compile(r"truncated|gaps between|checksum|CRC|mismatch", re.IGNORECASE)


def read_hospital(path: str | Path, row: object, note: object) -> Recording:
    """Read an export of a hospital's system; a reader of data_preparation/importing/shards.py.

    Args:
        path: of the file.
        row, note: what the caller knows of it; not needed here.

    Raises:
        RecordError: why it cannot be used.
        ECGError: ecgdatakit is missing.
    """
    record, warned = _parse(Path(path))
    damage = [text for text in warned if _DAMAGED.search(text)]
    if damage:
        raise RecordError(f"damaged: {printable(damage[0], MOST_WORDS)}")
    leads = [lead for lead in record.leads if standard_lead(lead.label)]
    # others may be known by --lead_names; ``checked`` leaves out those that are not
    others = [lead for lead in record.leads if not standard_lead(lead.label) and _is_voltage(lead)]
    if not leads:
        leads, others = others, []
    if not leads:
        names = ", ".join(printable(lead.label) for lead in record.leads[:4])
        raise RecordError(f"none of the twelve leads: {names or 'no lead at all'}")
    fs = _common([_rate(record, lead) for lead in leads], "sampling rates")
    length = _common([len(lead.samples) for lead in leads], "lengths")
    leads += [lead for lead in others if (_rate(record, lead), len(lead.samples)) == (fs, length)]
    rows = np.stack([_millivolts(lead) for lead in leads])
    taken = [id(lead) for lead in leads]
    left_out = [lead.label.strip() for lead in record.leads if id(lead) not in taken]
    remarks = [f"left out: {', '.join(left_out[:4])}"] if left_out else []
    if record.source_format not in PROVEN:
        remarks.append(f"read as {record.source_format}, in which the reader is not proven")
    age = record.patient.age
    return Recording(
        rows.T,
        tuple(lead.label for lead in leads),
        fs,
        float(age) if age is not None and 0 <= age <= OLDEST_AGE else math.nan,
        SEXES.get(record.patient.sex.lower(), "Unknown"),
        flags=tuple(printable(text, MOST_WORDS) for text in [*remarks, *warned]),
        patient=own_patient(record.patient.patient_id),
    )


def _parse(path: Path) -> tuple[Any, list[str]]:
    """The record that ecgdatakit makes of a file, in mV, and its warnings."""
    try:
        from ecgdatakit import ECGDataKitError, FileParser
    except ImportError as error:
        raise ECGError(
            f"hospital exports ({', '.join(ENDINGS)}) need the package ecgdatakit with all that "
            f"it needs ({error}): {INSTALL}"
        ) from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            known = FileParser.detect_format(path)
            if known is None or known["name"].startswith(_OTHERS):
                raise RecordError("no hospital export in a format that ecgdatakit knows")
            record = FileParser.parse(path, units="mV")
        except (OSError, MemoryError, RecordError):
            raise
        except ECGDataKitError as error:
            raise RecordError(f"damaged: {_reason(error, path)}") from None
        except ImportError as error:
            raise MissingPackage(f"ecgdatakit is not whole ({error}): {INSTALL}") from None
        except Exception as error:  # its parsers can raise anything
            raise RecordError(
                f"ecgdatakit cannot read it: {type(error).__name__}: {_reason(error, path)}"
            ) from None
    return record, list(dict.fromkeys(str(one.message) for one in caught))


def _reason(error: Exception, path: Path) -> str:
    """What an error says, without the folder of the file."""
    return printable(str(error).replace(str(path), path.name), MOST_WORDS)


def _rate(record: Any, lead: Any) -> float:
    """Hz; the package rounds it, and keeps the exact one of EDF beside it."""
    exact = record.raw_metadata.get("exact_sampling_rates") or {}
    return float(exact.get(lead.label, lead.sampling_rate))


def _common(values: Sequence[float], what: str) -> float:
    """The one value of all leads."""
    if len(set(values)) > 1:
        several = ", ".join(f"{value:g}" for value in sorted(set(values)))
        raise RecordError(f"its leads have several {what}: {several}")
    return values[0]


def _is_voltage(lead: Any) -> bool:
    return not lead.is_raw and millivolts_per(lead.units) is not None


def _millivolts(lead: Any) -> np.ndarray:
    """Samples of a lead, float32 in mV."""
    factor = None if lead.is_raw else millivolts_per(lead.units)
    if factor is None:
        unit = printable(lead.units or lead.resolution_unit) or "none given"
        raise RecordError(f"unit {unit} of lead {lead.label} is no voltage")
    return (lead.samples * factor).astype(np.float32)
