"""The PhysioNet/CinC Challenge 2020's scored diagnoses and its weight matrix.

27 SNOMED CT codes are scored; three pairs mean the same and are merged, the first code standing
for both, which leaves 24 classes in the order of the Challenge's weight table.  The tables lie in
``util/tables``.

Perez Alday et al.: Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology
Challenge 2020, Physiological Measurement 41 (2020) 124003.
"""

import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

TABLES = Path(__file__).parent / "tables"


def _read(name: str) -> list[dict[str, str]]:
    with open(TABLES / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


_WEIGHTS = _read("challenge_weights.csv")  # a row a true class, in the order of the columns
CLASSES = tuple(_WEIGHTS[0])[1:]  # 24 codes
# [true, output class]
WEIGHTS = np.array([[float(row[code]) for code in CLASSES] for row in _WEIGHTS])
WEIGHTS.flags.writeable = False  # shared by everyone who imports it
_ROWS = _read("challenge_classes.csv")  # of 27 codes: code, abbreviation, name, code of its class
_BY_CODE = {row["code"]: row for row in _ROWS}
ABBREVIATIONS = tuple(_BY_CODE[code]["abbreviation"] for code in CLASSES)
NAMES = tuple(_BY_CODE[code]["name"] for code in CLASSES)
CODE_TO_CLASS = {row["code"]: CLASSES.index(row["class"]) for row in _ROWS}  # all 27 codes
CLASS_CODES = {
    name: {row["code"] for row in _ROWS if row["class"] == code}
    for name, code in zip(ABBREVIATIONS, CLASSES)
}
# sinus rhythm: what the Challenge's "inactive" classifier always answers
NORMAL = CLASSES.index("426783006")


def labels_from_dx(
    dx: Iterable[str], classes: Mapping[str, Collection[str]] = CLASS_CODES
) -> np.ndarray:
    """Return labels from diagnoses, bool (records, classes); other codes are ignored.

    Args:
        dx: one string a record, SNOMED CT codes separated by spaces or commas.
        classes: {name: codes}; a code may belong to several.
    """
    dx = list(dx)
    known = {
        code: [number for number, wanted in enumerate(classes.values()) if code in wanted]
        for code in set().union(*classes.values())
    }
    # most records share their text with others
    place = {text: n for n, text in enumerate(dict.fromkeys(dx))}
    labels = np.zeros((len(place), len(classes)), bool)
    for text, n in place.items():
        for code in text.replace(",", " ").split():
            labels[n, known.get(code, [])] = True
    return labels[np.array([place[text] for text in dx], int)]
