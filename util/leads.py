"""The twelve standard leads and how people name subsets of them."""

import argparse
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from util.errors import ConfigError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# A - behind a blank is the sign of a lead that is turned.
_BEFORE = re.compile(r"(mdc[ _-])?(ecg([ _]+|-))?(lead([ _]+|-))?", re.IGNORECASE)
_BY_LOWER = {lead.lower(): lead for lead in LEADS}
SUBSETS = {"12lead": LEADS, "limb_lead": LEADS[:6], "lead1": ("I",), "lead2": ("II",)}


@lru_cache(maxsize=1 << 12)  # every record has the same names
def standard_lead(name: str) -> str | None:
    """Return the standard spelling of a lead name in any case ("avr", "Lead aVR", "ECG aVR",
    "MDC_ECG_LEAD_AVR" -> "aVR").

    None if it is none of the twelve.
    """
    return _BY_LOWER.get(_BEFORE.sub("", name.strip(), count=1).lower())


def _lead_name(text: str) -> tuple[str, str]:
    """(name in lower case, standard lead) of NAME=LEAD."""
    name, _, lead = text.rpartition("=")
    standard = standard_lead(lead)
    if not name.strip() or not standard:
        raise argparse.ArgumentTypeError(
            f"{text} is not NAME=LEAD with one of the leads {' '.join(LEADS)}"
        )
    return name.strip().lower(), standard


def add_lead_names(parser: argparse.ArgumentParser) -> None:
    """Add --lead_names to a program that reads recordings: [(name in lower case, lead)]."""
    parser.add_argument(
        "--lead_names",
        type=_lead_name,
        nargs="+",
        default=[],
        metavar="NAME=LEAD",
        help="the lead that a name in the recordings stands for, where it is not one of "
        f"{' '.join(LEADS)}: ECG=I MLII=II",
    )


def parse_leads(value: str | Iterable[str], key: str = "dataset.lead") -> tuple[str, ...]:
    """Read a key of the config as lead names.

    Args:
        value: a published word (12lead, limb_lead, lead1, lead2), one lead name, or a list of
            lead names, whose order is kept.
        key: its name, for messages.

    Raises:
        ConfigError: a name is unknown or repeated.
    """
    if isinstance(value, str) and value in SUBSETS:
        return SUBSETS[value]
    names = [value] if isinstance(value, str) else [str(name) for name in value]
    leads = tuple(lead for lead in map(standard_lead, names) if lead)
    unknown = [name for name in names if not standard_lead(name)]
    if unknown or not leads:
        raise ConfigError(
            f"{key}: unknown lead {', '.join(unknown) or '(none given)'}; use one of "
            f"{', '.join(SUBSETS)} or a list of {', '.join(LEADS)}"
        )
    if len(set(leads)) < len(leads):
        raise ConfigError(f"{key} names a lead twice: {', '.join(leads)}")
    return leads


def lead_cell(leads: Sequence[str]) -> str:
    """Return the cell of records.csv that names a record's leads, in standard order.

    It is empty for all twelve.
    """
    return "" if len(leads) == len(LEADS) else " ".join(leads)


def leads_of_cell(cell: str) -> tuple[str, ...] | None:
    """Return the leads that a cell made by ``lead_cell`` names, None for any other text."""
    leads = tuple(cell.split(" ")) if cell else LEADS
    named = tuple(lead for lead in LEADS if lead in leads)
    return named if lead_cell(named) == cell else None


def lead_index(leads: Iterable[str]) -> list[int]:
    """Return the rows of these leads among the twelve."""
    return [LEADS.index(lead) for lead in leads]
