"""Diagnoses that cannot hold of one recording together, so that a reader is warned of them."""

from collections.abc import Iterable, Sequence

import numpy as np

from util.challenge import ABBREVIATIONS, CLASSES, CODE_TO_CLASS

SINUS, SINUS_TACHYCARDIA, SINUS_BRADYCARDIA = "426783006", "427084000", "426177001"
BRADYCARDIA, SINUS_ARRHYTHMIA = "426627000", "427393009"
FIBRILLATION, FLUTTER = "164889003", "164890007"
SUPRAVENTRICULAR, VENTRICULAR = "426761007", "164895002"  # tachycardias
VENTRICULAR_FIBRILLATION = "164896001"
FIRST_DEGREE, THIRD_DEGREE, LONG_PR = "270492004", "27885002", "164947007"
PREMATURE_ATRIAL = "284470004"
RIGHT, RIGHT_INCOMPLETE, LEFT = "713427006", "713426002", "164909002"  # bundle branch blocks
LEFT_INCOMPLETE = "251120003"
LEFT_AXIS, RIGHT_AXIS = "39732003", "47665007"
NORMAL = "normal"  # of tables without codes: no other class holds with it

_SINUS = (SINUS, SINUS_TACHYCARDIA, SINUS_BRADYCARDIA, SINUS_ARRHYTHMIA)
_SLOW = (SINUS_BRADYCARDIA, BRADYCARDIA)
_WITHOUT_SINUS = (
    FIBRILLATION,
    FLUTTER,
    SUPRAVENTRICULAR,
    VENTRICULAR,
    VENTRICULAR_FIBRILLATION,
)


def _each(ones: Iterable[str], others: Iterable[str]) -> set[frozenset[str]]:
    others = tuple(others)
    return {frozenset((one, other)) for one in ones for other in others}


PAIRS = (
    _each([SINUS], [SINUS_TACHYCARDIA, *_SLOW])  # its rate is normal
    | _each([SINUS_TACHYCARDIA, SUPRAVENTRICULAR, VENTRICULAR], _SLOW)
    | _each(_WITHOUT_SINUS, _SINUS)
    | _each([FIBRILLATION], [FIRST_DEGREE, LONG_PR, PREMATURE_ATRIAL])  # which need P waves
    | _each([VENTRICULAR_FIBRILLATION], [FIBRILLATION, FLUTTER, SUPRAVENTRICULAR])
    | _each([THIRD_DEGREE], [FIRST_DEGREE])
    | _each([RIGHT], [RIGHT_INCOMPLETE, LEFT])
    | _each([LEFT], [LEFT_INCOMPLETE])
    | _each([LEFT_AXIS], [RIGHT_AXIS])
)
# names of classes in tables of labels, in upper case: PTB-XL's, and the Challenge's
CODES = dict(zip(map(str.upper, ABBREVIATIONS), CLASSES)) | {
    "SR": SINUS,
    "STACH": SINUS_TACHYCARDIA,
    "SBRAD": SINUS_BRADYCARDIA,
    "SARRH": SINUS_ARRHYTHMIA,
    "AFIB": FIBRILLATION,
    "AFLT": FLUTTER,
    "SVTAC": SUPRAVENTRICULAR,
    "PSVT": SUPRAVENTRICULAR,
    "1AVB": FIRST_DEGREE,
    "3AVB": THIRD_DEGREE,
    "LPR": LONG_PR,
    "CRBBB": RIGHT,
    "IRBBB": RIGHT_INCOMPLETE,
    "CLBBB": LEFT,
    "ILBBB": LEFT_INCOMPLETE,
    "NORM": NORMAL,
}


def contradictions(codes: Sequence[str], outputs: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of a recording's outputs that exclude each other, as numbers of classes.

    Args:
        codes: of the classes, SNOMED CT, or their names.
        outputs: bool (classes,).
    """
    known = [_code(code) for code in codes]
    named = np.flatnonzero(outputs).tolist()
    return [
        (one, other)
        for place, one in enumerate(named)
        for other in named[place + 1 :]
        if _exclude(known[one], known[other])
    ]


def _code(code: str) -> str:
    """The code that stands for a class, of two that mean the same the Challenge's."""
    code = CODES.get(code.upper(), code)
    return CLASSES[CODE_TO_CLASS[code]] if code in CODE_TO_CLASS else code


def _exclude(one: str, other: str) -> bool:
    if NORMAL in (one, other):
        return one != other
    return frozenset((one, other)) in PAIRS
