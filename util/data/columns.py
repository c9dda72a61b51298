"""What a column of somebody's table holds, by its name in any writing: patients, ids, folds."""

import re
import unicodedata
from collections.abc import Container, Iterable

_ID = "(id|ids|uid|uuid|guid|identifier|nr|no|num|number|nummer|code|key|hash|name|pseudonym)"
_PERSON = "(patient(s|en)?|subjects?|persons?|participants?|individuals?|probands?)"
_PATIENTS = re.compile(rf"(anon|id)?{_PERSON}{_ID}*|(pat|subj|pt){_ID}|pid|mrn|medicalrecord{_ID}")
_THING = "(ecg|exam|study|records?|recording|row|case|visit|admission|hadm|stay|sample|event)"
_NUMBER = "(id|ids|uid|uuid|guid|identifier|nr|no|number|nummer|name|index)"
# "" and Unnamed: 0 are pandas' index, written without a name and read again.
_IDS = re.compile(rf"{_THING}{_NUMBER}|unnamed[0-9].*|level[0-9]+|")
_LAST_WORDS = {"id", "ids", "uid", "uuid", "guid", "idx", "index", "identifier", "file", "filename"}
_NO_YEARS = {"day", "days", "week", "weeks", "month", "months", "hours"}  # beside the word age
_NO_YEARS |= {"group", "groups", "bin", "bins", "class", "category", "range", "decade"}
_FIRST_WORDS = {"file", "filename", "filepath", "path"}
_FOLDS = re.compile(
    "(strat|stratified|cv|k|train|test|data|traintest|trainval)?"
    "(folds?|splits?|partition|subset)[0-9]*"
)


def split_names(names: Iterable[str], known: Container[str]) -> list[str]:
    """Return the names of a flag, those apart that are joined by commas and not known so."""
    return [
        part.strip() for name in names for part in ([name] if name in known else name.split(","))
    ]


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case: PatientID, patient_id and "Patient ID" are two."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return re.sub(r"[\W_]+", " ", text).casefold().split()


def holds_patients(name: str) -> bool:
    """Say whether a column of this name holds the ids of patients."""
    return bool(_PATIENTS.fullmatch("".join(words_of(name))))


def holds_folds(name: str) -> bool:
    """Say whether a column of this name holds folds or parts of a split."""
    return bool(_FOLDS.fullmatch("".join(words_of(name))))


def holds_ids(name: str) -> bool:
    """Say whether a column of this name tells records apart: an id, an index, a file."""
    words = words_of(name)
    if _IDS.fullmatch("".join(words)):
        return True
    return words[-1] in _LAST_WORDS or words[0] in _FIRST_WORDS


def holds_ages(name: str) -> bool:
    """Say whether a column of this name holds ages in years."""
    words = set(words_of(name))
    return bool({"age", "ages", "alter"} & words) and not words & _NO_YEARS
