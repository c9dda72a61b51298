"""What names tell of public data sets: which set a folder or a file is of, and which recordings
are copies of one another.
"""

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class KnownSet(NamedTuple):
    """How a set is published.

    Attributes:
        folders: a pattern of its folders' names, in lower case without signs.
        layout: a pattern of the end of a recording's path, where that is the set's own.
    """

    folders: str
    layout: str = ""


# The six databases of the Challenge 2020 first, by every folder name under which they are
# published; then those of later years and of their own homes.
SETS = {
    "cpsc_2018": KnownSet(
        r"cpsc2018|icbeb2018|physionetchallenge2020trainingcpsc", r"TrainingSet\d/A\d{4}\.\w+"
    ),
    "cpsc_2018_extra": KnownSet(
        r"cpsc2018extra|cpsc20182|icbeb20182|physionetchallenge2020training2"
    ),
    "st_petersburg_incart": KnownSet(
        r"stpetersburg|stpetersburgincart(12lead.*)?|incart"
        r"|physionetchallenge2020trainingstpetersburg"
    ),
    "ptb": KnownSet(
        r"ptb|ptbdiagnosticecg.*|physionetchallenge2020trainingptb", r"patient\d{3}/s\d{4}\w*\.\w+"
    ),
    "ptb-xl": KnownSet(
        r"ptbxl(alargepublicly.*)?|physionetchallenge2020trainingptbxl",
        r"(\d{5}|records[15]00)/\d{5}_[hl]r\.\w+",
    ),
    "georgia": KnownSet(r"georgia|ga|physionetchallenge2020traininge"),
    "chapman_shaoxing": KnownSet(r"chapman(shaoxing)?"),
    "ningbo": KnownSet(r"ningbo"),
    "chapman_ningbo": KnownSet(
        r"chapmanningbo|alargescale12leadelectrocardiogram.*", r"\d\d/\d{3}/JS\d{5}\.\w+"
    ),
    "code15": KnownSet(r"code15", r"exams_part\d+\.hdf5"),
    "sph": KnownSet(r"sph", r"records/A\d{5}\.h5"),
    "physionet2017": KnownSet(
        r"physionet2017|training2017|afclassificationfromashort.*",
        r"(training2017|A\d\d)/A\d{5}\.\w+",
    ),
    "mimic_iv_ecg": KnownSet(r"mimicivecg(diagnostic.*)?", r"p\d{4}/p\d{8}/s\d{8}/\d{8}\.\w+"),
}


class CopyRule(NamedTuple):
    """Names under which the same recordings are published.

    Attributes:
        names: patterns, that of the best copy first; the first group is the recording.
        databases: those that share their recordings; none: each has its own.
    """

    names: tuple[str, ...]
    databases: tuple[str, ...] = ()


COPIES = (
    # PTB-XL: the Challenge's (500 Hz, with diagnoses), its own at 500 and at 100 Hz
    CopyRule((r"HR(\d{5})", r"(\d{5})_hr", r"(\d{5})_lr")),
    # Chapman and Ningbo: the Challenge 2021 and their own home
    CopyRule((r"(JS\d{5})",), ("chapman_ningbo", "chapman_shaoxing", "ningbo")),
)
_COPY_NAMES = re.compile("|".join(name for rule in COPIES for name in rule.names))


# ============ sets ============
def _one_of(patterns):
    """A pattern of any of several, {set: pattern}, in which each is a group by its place."""
    places = enumerate(SETS)
    return re.compile(
        "|".join(f"(?P<s{n}>{patterns[name]})" for n, name in places if patterns[name])
    )


_FOLDERS = _one_of({name: known.folders for name, known in SETS.items()})
_LAYOUTS = _one_of({name: known.layout and f".*/{known.layout}" for name, known in SETS.items()})
_NAMES = tuple(SETS)


def set_of_folder(name: str) -> str | None:
    """Return the known set that a folder, or a database, of this name is of."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("wfdb_"))
    match = _FOLDERS.fullmatch(plain)
    return _NAMES[int(match.lastgroup[1:])] if match else None


def set_of_layout(path: str) -> str | None:
    """Return the known set whose own layout a recording's path (POSIX) ends in."""
    match = _LAYOUTS.fullmatch(f"/{path}")
    return _NAMES[int(match.lastgroup[1:])] if match else None


# ============ copies ============
def find_copies(names: Iterable[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Find recordings whose names say that they are copies of another.

    Args:
        names: (database, recording) of all records; pieces of a recording have it in common.

    Returns:
        int64 (n,) twice: the places of the copies, and of a record of the recording that each is
        one of, which has the highest rate or else comes first.
    """
    rows = (
        (place, *known, hash((database, recording)))
        for place, (database, recording) in enumerate(names)
        if _COPY_NAMES.fullmatch(recording) and (known := _known(database, recording))
    )
    flat = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
    place, rank, same, name = flat.reshape(-1, 4).T
    order = np.lexsort((place, rank, same))
    place, same, name = place[order], same[order], name[order]
    first = np.searchsorted(same, same)  # the best of those that are the same
    copies = np.flatnonzero(name != name[first])
    copies = copies[np.argsort(place[copies])]  # hashes are others in every process
    return place[copies], place[first][copies]


def _known(database, recording):
    """(rank, number of the recording) by the rule that knows such names; None without one."""
    for rule in COPIES:
        matches = [re.fullmatch(name, recording) for name in rule.names]
        if any(matches) and (not rule.databases or database in rule.databases):
            rank, match = next((rank, match) for rank, match in enumerate(matches) if match)
            return rank, hash((rule.databases or database, match[1]))
    return None
