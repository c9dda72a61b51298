"""Labels of records: which classes there are, and who has them."""
import numpy as np

from util.challenge import CLASS_CODES, labels_from_dx
from util.errors import ConfigError

MIN_POSITIVES = 10    # with fewer records of a class its scores are mostly chance


def parse_classes(value) -> dict[str, set[str]]:
    """``dataset.classes``, challenge2020 or {name: codes}, as {name: SNOMED CT codes}; else a ConfigError."""
    if value == "challenge2020":
        return CLASS_CODES
    if not isinstance(value, dict) or len(value) < 2:
        raise ConfigError("dataset.classes must be challenge2020 or a mapping of at least two classes, "
                          "{name: [SNOMED CT codes]}")
    classes = {str(name): {str(code) for code in (codes if isinstance(codes, list) else [codes])}
               for name, codes in value.items()}
    for name, codes in classes.items():
        if not codes:
            raise ConfigError(f"dataset.classes: {name!r} has no code")
        for code in codes:
            if not code.isdigit():
                raise ConfigError(f"dataset.classes: {code!r} is not a SNOMED CT code (digits only)")
    return classes


def make_labels(store, classes: dict, task: str):
    """Labels of every record and which records have one.

    Returns:
        multilabel: float32 (records, classes), and True where at least one class applies;
        multiclass: int64 (records,), and True where exactly one class applies.
    """
    matrix = labels_from_dx(store.records["dx"], classes)
    if task == "multiclass":
        return matrix.argmax(axis=1), matrix.sum(axis=1) == 1
    return matrix.astype(np.float32), matrix.any(axis=1)


def few_positives(labels, rows, classes, part: str) -> list[str]:
    """A sentence, if need be, that names the classes of which ``rows``, the ``part``, hold few records.

    Args:
        labels: from ``make_labels``; classes: their names.
    """
    own = labels[rows]
    counts = own.sum(axis=0).astype(int) if own.ndim == 2 else np.bincount(own, minlength=len(classes))
    few = [f"{name} ({count})" for name, count in zip(classes, counts) if count < MIN_POSITIVES]
    return [f"the {part} part has fewer than {MIN_POSITIVES} records of {', '.join(few)}: their scores, and "
            "means over classes, say little"] if few else []
