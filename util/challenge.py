"""The PhysioNet/CinC Challenge 2020's scored diagnoses and its weight matrix.

27 SNOMED CT codes are scored; three pairs mean the same and are merged, the first code standing for both, which leaves
24 classes in the order of the Challenge's weight table.  The tables are CSV files in ``util/tables``.

Perez Alday et al.: Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge 2020,
Physiological Measurement 41 (2020) 124003.
"""
import csv
from pathlib import Path

import numpy as np

TABLES = Path(__file__).parent / "tables"


def _read_weights(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Class codes and the square weight matrix of a CSV whose first row and first column are the codes."""
    with open(path, newline="", encoding="utf-8") as file:
        (_, *columns), *rows = csv.reader(file)
    if [row[0] for row in rows] != columns:
        raise ValueError(f"{path}: the codes of the rows and of the columns differ")
    return tuple(columns), np.array([[float(weight) for weight in row[1:]] for row in rows])


def _read_classes(path: Path) -> list[dict[str, str]]:
    """One dict a scored code: code, abbreviation, name, and class (the code of the class that it belongs to)."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


CLASSES, WEIGHTS = _read_weights(TABLES / "challenge_weights.csv")  # 24 codes; (24, 24), [true class, output class]
WEIGHTS.flags.writeable = False                                     # shared by everyone who imports it
_ROWS = _read_classes(TABLES / "challenge_classes.csv")
_BY_CODE = {row["code"]: row for row in _ROWS}
ABBREVIATIONS = tuple(_BY_CODE[code]["abbreviation"] for code in CLASSES)
NAMES = tuple(_BY_CODE[code]["name"] for code in CLASSES)
CODE_TO_CLASS = {row["code"]: CLASSES.index(row["class"]) for row in _ROWS}  # all 27 codes
CLASS_CODES = {name: {row["code"] for row in _ROWS if row["class"] == code}
               for name, code in zip(ABBREVIATIONS, CLASSES)}
NORMAL = CLASSES.index("426783006")  # sinus rhythm: what the Challenge's "inactive" classifier always answers


def labels_from_dx(dx, classes=CLASS_CODES) -> np.ndarray:
    """Labels from diagnoses.

    Args:
        dx: one string a record, SNOMED CT codes separated by spaces or commas, as in ``records.csv`` or a header.
        classes: {name: codes}; a code may belong to several.

    Returns:
        bool (records, classes).  Other codes are ignored; a record may have no label at all.
    """
    codes = [text.replace(",", " ").split() for text in dx]
    known, numbers = np.unique([code for own in codes for code in own], return_inverse=True)
    belongs = np.array([[code in wanted for wanted in classes.values()] for code in known.tolist()], bool)
    labels = np.zeros((len(codes), len(classes)), bool)
    np.logical_or.at(labels, np.repeat(np.arange(len(codes)), list(map(len, codes))),
                     belongs.reshape(len(known), len(classes))[numbers])
    return labels
