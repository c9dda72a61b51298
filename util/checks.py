"""Checks that configs and models share."""


def fits(value, kinds) -> bool:
    """Whether a value out of YAML is of one of ``kinds``: types, and None (or its type) where null is allowed.

    A bool is an int to Python, but no number to people; a whole number may stand for a float.
    """
    if value is None:
        return None in kinds or type(None) in kinds
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kind for kind in kinds if kind)) or isinstance(value, int) and float in kinds
