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
        units: of their samples: mV, uV, V or nV.
        leads: in the order of the arrays; "-" for a column that is no lead and before a lead
            whose sign is turned.
        layout: of the arrays, one of ``LAYOUTS``.
        dataset: of the signals in HDF5 files.
        trim: whether to cut off both ends of a recording, where every lead is 0 or NaN.
        assume: whether to go on where amplitude or limb leads contradict what is said.
        lead_names: {name in lower case: the lead it stands for}.
        derive: whether leads that follow from two others are added.
    """

    fs: float | None = None
    units: str | None = None
    leads: tuple[str, ...] | None = None
    layout: str | None = None
    dataset: str | None = None
    trim: bool = False
    assume: bool = False
    lead_names: dict[str, str] = field(default_factory=dict)
    derive: bool = True

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Given":
        """Return what a command line with the flags of ``add_recording_flags`` says."""
        names = ("fs", "units", "leads", "layout", "dataset", "trim", "assume")
        said = {name: getattr(arguments, name) for name in names}
        return cls(**said, lead_names=dict(arguments.lead_names), derive=not arguments.no_derive)


def add_recording_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags that say something of recordings; see ``Given``."""
    add_array_flags(parser)
    add_shared_flags(parser)


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say something of recordings in whatever format."""
    parser.add_argument(
        "--assume",
        action="store_true",
        help="go on where amplitude, heart rate or limb leads contradict what is said of the "
        "recordings",
    )
    parser.add_argument(
        "--trim",
        "--trim_zeros",
        action="store_true",
        help="cut off both ends of a recording, where every lead is 0 or NaN",
    )
    parser.add_argument(
        "--no_derive",
        action="store_true",
        help="keep limb leads absent that follow from two others (default: III, aVR, aVL and aVF "
        "are computed from two of I, II and III, with a remark)",
    )
    add_lead_names(parser)


def add_array_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what arrays hold."""
    parser.add_argument("--fs", type=_fs, metavar="HZ", help="sampling rate of the arrays")
    parser.add_argument(
        "--leads",
        type=_leads,
        metavar="I,II,...",
        help="in the array's order; - for a column to leave out, -aVR for a lead whose sign is "
        "turned, --leads=-,I where the first begins with - "
        f"(default: {','.join(LEADS)})",
    )
    parser.add_argument(
        "--units",
        type=_units,
        metavar="mV|uV|V|nV",
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


def _leads(text: str) -> tuple[str, ...]:
    """Lead names separated by commas, in standard spelling; "-" stands for a column that is no
    lead, and before a name for a lead whose sign is turned.
    """
    names = [name.strip() for name in text.split(",")]
    plain = [standard_lead(name.removeprefix("-")) for name in names]
    wrong = [name for name, lead in zip(names, plain) if not lead and name != "-"]
    if wrong:
        raise argparse.ArgumentTypeError(
            f"{wrong[0]!r} is none of {' '.join(LEADS)}, nor - for a column to leave out"
        )
    leads = tuple("-" * name.startswith("-") + (lead or "") for name, lead in zip(names, plain))
    twice = [lead for lead in plain if lead and plain.count(lead) > 1]
    if twice or set(leads) == {"-"}:
        raise argparse.ArgumentTypeError(
            f"{twice[0]} is named twice" if twice else "no lead is left"
        )
    return leads


def _units(text: str) -> str:
    from util.recordings.recording import usual_unit

    unit = usual_unit(text)
    if not unit:
        raise argparse.ArgumentTypeError(f"{text!r} is no voltage; use mV, uV, V or nV")
    return unit


def _fs(text: str) -> float:
    from util.recordings.recording import MAX_FS, MIN_FS

    value = float(text)
    if not MIN_FS <= value <= MAX_FS:
        raise argparse.ArgumentTypeError(f"{text} Hz is not from {MIN_FS:g} to {MAX_FS:g}")
    return value
