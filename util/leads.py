"""The twelve standard leads and how people name subsets of them."""

import argparse

from util.errors import ConfigError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_BY_LOWER = {lead.lower(): lead for lead in LEADS}
SUBSETS = {"12lead": LEADS, "limb_lead": LEADS[:6], "lead1": ("I",), "lead2": ("II",)}


def standard_lead(name: str) -> str | None:
    """The standard spelling of a lead name in any case ("avr" -> "aVR"); None if it is none of
    the twelve.
    """
    return _BY_LOWER.get(name.strip().lower())


def _lead_name(text):
    """(name in lower case, standard lead) of NAME=LEAD."""
    name, _, lead = text.rpartition("=")
    if not name.strip() or not standard_lead(lead):
        raise argparse.ArgumentTypeError(
            f"{text} is not NAME=LEAD with one of the leads {' '.join(LEADS)}"
        )
    return name.strip().lower(), standard_lead(lead)


def add_lead_names(parser) -> None:
    """--lead_names of programs that read recordings: [(name in lower case, standard lead)]."""
    parser.add_argument(
        "--lead_names",
        type=_lead_name,
        nargs="+",
        default=[],
        metavar="NAME=LEAD",
        help="the lead that a name in the recordings stands for, where it is not one of "
        f"{' '.join(LEADS)}: ECG=I MLII=II",
    )


def parse_leads(value, key: str = "dataset.lead") -> tuple[str, ...]:
    """Lead names from the config's ``key``: a published word (12lead, limb_lead, lead1, lead2),
    one lead name, or a list of lead names, whose order is kept.  Unknown or repeated names are a
    ConfigError.
    """
    if isinstance(value, str) and value in SUBSETS:
        return SUBSETS[value]
    names = [value] if isinstance(value, str) else list(value)
    leads = tuple(standard_lead(str(name)) for name in names)
    unknown = [str(name) for name, lead in zip(names, leads) if lead is None]
    if unknown or not leads:
        raise ConfigError(
            f"{key}: unknown lead {', '.join(unknown) or '(none given)'}; use one of "
            f"{', '.join(SUBSETS)} or a list of {', '.join(LEADS)}"
        )
    if len(set(leads)) < len(leads):
        raise ConfigError(f"{key} names a lead twice: {', '.join(leads)}")
    return leads


def lead_cell(leads) -> str:
    """The cell of records.csv that names the leads a record has, in standard order: empty for all
    twelve.
    """
    return "" if len(leads) == len(LEADS) else " ".join(leads)


def leads_of_cell(cell: str) -> tuple[str, ...] | None:
    """The leads that a cell made by ``lead_cell`` names; None if it is not made by it."""
    leads = tuple(cell.split(" ")) if cell else LEADS
    named = tuple(lead for lead in LEADS if lead in leads)
    return named if lead_cell(named) == cell else None


def lead_index(leads) -> list[int]:
    """Rows of these leads among the twelve."""
    return [LEADS.index(lead) for lead in leads]
