"""Every model by the name used in YAML (``model_name`` and nested ``name`` keys).

A factory is a plain function with keyword arguments, marked by ``@register``; its name is the YAML name and its
arguments are the keys allowed under ``model:``.  Adding a model is one file anywhere under ``models/``.
"""
import importlib
import inspect
import pkgutil
from difflib import get_close_matches

from util.errors import ConfigError

MODELS = {}


def register(factory):
    """Decorator: make ``factory`` known by its own name."""
    if factory.__name__ in MODELS and MODELS[factory.__name__].__module__ != factory.__module__:
        raise ValueError(f"two models are called {factory.__name__}")
    MODELS[factory.__name__] = factory
    return factory


def _import_all():
    import models
    for module in pkgutil.walk_packages(models.__path__, "models."):
        importlib.import_module(module.name)


def find_model(name: str):
    """The factory of this name.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    _import_all()
    if name not in MODELS:
        close = get_close_matches(str(name), MODELS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"unknown model '{name}'{hint}; known models: {', '.join(sorted(MODELS))}")
    return MODELS[name]


def model_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments that the factory ``name`` takes."""
    return {key: p for key, p in inspect.signature(find_model(name)).parameters.items()
            if p.kind is not inspect.Parameter.VAR_KEYWORD}


def build_model(name: str, **kwargs):
    """Build the model ``name``; an argument it does not take is an error that lists those it does.

    Raises:
        ConfigError: unknown model or argument, or a value of another type than the argument's default.
    """
    known = model_arguments(name)
    unknown = sorted(set(kwargs) - set(known))
    missing = sorted(key for key, p in known.items() if p.default is inspect.Parameter.empty and key not in kwargs)
    if unknown or missing:
        problem = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise ConfigError(f"model {name} {problem}; its arguments are {', '.join(known)}")
    for key, value in kwargs.items():
        wanted = next((kind for kind in (bool, int, float, str) if isinstance(known[key].default, kind)), None)
        # a whole number may stand for a float; True, which Python counts among the numbers, may not
        allowed = {bool: bool, int: int, float: (int, float), str: str}.get(wanted, object)
        if not isinstance(value, allowed) or (wanted in (int, float) and isinstance(value, bool)):
            raise ConfigError(f"model {name}: {key} must be of type {wanted.__name__}, such as {known[key].default!r}, "
                              f"not {value!r}")
    return find_model(name)(**kwargs)
