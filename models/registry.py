"""Every model by the name used in YAML (``model_name`` and nested ``name`` keys).

A factory is a plain function with keyword arguments, marked by ``@register``; its name is the YAML name and its
arguments are the keys allowed under ``model:``.  Adding a model is one file anywhere under ``models/``.
"""
import importlib
import inspect
import pkgutil
from difflib import get_close_matches
from typing import get_args

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


def _kinds(parameter) -> tuple[type, ...]:
    """Plain types that an argument takes, from its annotation or its default; () where these do not say."""
    plain = (bool, int, float, str, type(None))
    if parameter.annotation is parameter.empty:
        none = (type(None),) if parameter.name == "num_classes" else ()  # the contract: None for no head
        return (type(parameter.default), *none) if isinstance(parameter.default, plain[:-1]) else ()
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    return kinds if set(kinds) <= set(plain) else ()


def build_model(name: str, **kwargs):
    """Build the model ``name``; an argument it does not take is an error that lists those it does.

    Raises:
        ConfigError: unknown model or argument, or a value of another type than the argument's annotation or default.
    """
    known = model_arguments(name)
    unknown = sorted(set(kwargs) - set(known))
    missing = sorted(key for key, p in known.items() if p.default is inspect.Parameter.empty and key not in kwargs)
    if unknown or missing:
        problem = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise ConfigError(f"model {name} {problem}; its arguments are {', '.join(known)}")
    for key, value in kwargs.items():
        kinds = _kinds(known[key])
        # a bool is an int to Python, but no number to people; a whole number may stand for a float
        fits = bool in kinds if isinstance(value, bool) else isinstance(value, (*kinds, int if float in kinds else kinds))
        if kinds and not fits:
            words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ConfigError(f"model {name}: {key} must be of type {words}, such as {known[key].default!r}, not {value!r}")
    return find_model(name)(**kwargs)
