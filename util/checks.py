"""Checks that configs and models share."""


def fits(value, kinds) -> bool:
    """Whether a value out of YAML is of one of ``kinds``: types, and None (or its type) for null.

    A bool is an int to Python, but no number to people; a whole number may stand for a float.
    """
    if value is None:
        return None in kinds or type(None) in kinds
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, tuple(kind for kind in kinds if kind))
