"""Changed copies of frozen configs, for tests."""

from dataclasses import is_dataclass, replace


def changed(config, **keys):
    """A config with other values: ``changed(config, seed=1, train={"epochs": 2})``."""
    values = {}
    for name, value in keys.items():
        section = getattr(config, name)
        values[name] = replace(section, **value) if is_dataclass(section) else value
    return replace(config, **values)
