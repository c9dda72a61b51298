"""What a person says of recordings whose files do not say it themselves, on the command line."""

import argparse
from dataclasses import dataclass, field

from util.leads import LEADS, add_lead_names, standard_lead

LAYOUTS = ("leads_time", "time_leads")


@dataclass(frozen=True)
class Given:
    """What is said of recordings; None or nothing where it is to be inferred.

    Attributes:
        fs: sampling rate of arrays and CSV files in Hz.
        units: of their samples: mV, uV or V.
        leads: in the order of the arrays; "-" for a column that is no lead.
        layout: of the arrays, one of ``LAYOUTS``.
        dataset: of the signals in HDF5 files.
        trim_zeros: whether zeros at both ends of a recording are cut off.
        lead_names: {name in lower case: the lead it stands for}.
        derive: whether leads that follow from two others are added.
    """

    fs: float | None = None
    units: str | None = None
    leads: tuple[str, ...] | None = None
    layout: str | None = None
    dataset: str | None = None
    trim_zeros: bool = False
    lead_names: dict[str, str] = field(default_factory=dict)
    derive: bool = True

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Given":
        """Return what a command line with the flags of ``add_recording_flags`` says."""
        names = ("fs", "units", "leads", "layout", "dataset", "trim_zeros")
        said = {name: getattr(arguments, name) for name in names}
        return cls(**said, lead_names=dict(arguments.lead_names), derive=not arguments.no_derive)


def add_recording_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags that say something of recordings; see ``Given``."""
    add_array_flags(parser)
    add_lead_names(parser)
    add_no_derive(parser)


def add_no_derive(parser: argparse.ArgumentParser) -> None:
    """Add --no_derive to a program that reads recordings."""
    parser.add_argument(
        "--no_derive",
        action="store_true",
        help="keep limb leads absent that follow from two others (default: III, aVR, aVL and aVF "
        "are computed from two of I, II and III, with a remark)",
    )


def add_array_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what arrays hold."""
    parser.add_argument("--fs", type=_fs, metavar="HZ", help="sampling rate of the arrays")
    parser.add_argument(
        "--leads",
        type=_leads,
        metavar="I,II,...",
        help="in the array's order; - for a column to leave out, --leads=-,I if it is the first "
        f"(default: {','.join(LEADS)})",
    )
    parser.add_argument(
        "--units",
        choices=("mV", "uV", "V"),
        help="unit of the samples (default: mV; required if they are whole numbers)",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="which of the last two axes comes first (default: the axis "
        "that is as long as there are leads is the leads', if only one is)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="of an HDF5 file (default: tracings, ecg, or the only array)",
    )
    parser.add_argument(
        "--trim_zeros",
        action="store_true",
        help="cut off zeros at both ends of a recording, where every lead is 0",
    )


def _leads(text: str) -> tuple[str, ...]:
    """Lead names separated by commas, in standard spelling; "-" stands for a column that is no
    lead.
    """
    names = [name.strip() for name in text.split(",")]
    leads = tuple("-" if name == "-" else standard_lead(name) or "" for name in names)
    if "" in leads:
        raise argparse.ArgumentTypeError(
            f"{names[leads.index('')]!r} is none of {' '.join(LEADS)}, nor - for a column to "
            "leave out"
        )
    twice = [lead for lead in leads if lead != "-" and leads.count(lead) > 1]
    if twice or set(leads) == {"-"}:
        raise argparse.ArgumentTypeError(
            f"{twice[0]} is named twice" if twice else "no lead is left"
        )
    return leads


def _fs(text: str) -> float:
    from util.recordings.recording import MAX_FS, MIN_FS

    value = float(text)
    if not MIN_FS <= value <= MAX_FS:
        raise argparse.ArgumentTypeError(f"{text} Hz is not from {MIN_FS:g} to {MAX_FS:g}")
    return value
