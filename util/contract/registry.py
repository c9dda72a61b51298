"""Every model by the name used in YAML, and the one way to build it.

A factory is a plain function with keyword arguments, marked by ``@register``; its name is the
YAML name and its arguments are the keys allowed under ``model:``.  An argument annotated as
``Encoder`` is itself given as a spec. Adding a model is one file anywhere under ``models/``.
"""

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import get_args

from torch import nn

from util.contract.encoder import Encoder
from util.errors import ConfigError
from util.named_arguments import fits

MODELS = {}


@dataclass(frozen=True)
class DataFacts:
    """What a model has to know of its data."""

    leads: tuple[str, ...]  # names of the crops' leads, in order
    fs: float  # sampling rate in Hz
    num_classes: int | None = None  # None for no classifier


def register(factory):
    """Decorator: make ``factory`` known by its own name."""
    if factory.__name__ in MODELS and MODELS[factory.__name__].__module__ != factory.__module__:
        raise ValueError(f"two models are called {factory.__name__}")
    MODELS[factory.__name__] = factory
    return factory


def find_model(name: str):
    """The factory of this name; a ConfigError lists the known ones."""
    models = importlib.import_module("models")
    for module in pkgutil.walk_packages(models.__path__, "models."):
        importlib.import_module(module.name)
    if name not in MODELS:
        close = get_close_matches(str(name), MODELS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"unknown model '{name}'{hint}; known models: {', '.join(sorted(MODELS))}"
        )
    return MODELS[name]


def build(spec, data: DataFacts | None = None, **arguments) -> nn.Module:
    """Build a model.

    Args:
        spec: ``{"name": ..., **arguments}``, or the name alone; an argument that is an encoder is
            such a spec, too.
        data: fills in leads, fs and num_classes wherever a factory takes them, at any depth.
        arguments: more of the spec's.

    Raises:
        ConfigError: an unknown model, an argument that its factory does not take, of another type
            than its annotation or default, or that contradicts the data.
    """
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or "name" not in spec:
        raise ConfigError(
            f"a model is a name, or a mapping {{name: ..., argument: value}}, not {spec!r}"
        )
    given = {**spec, **arguments}
    name = given.pop("name")
    factory = find_model(name)
    known = {
        key: p
        for key, p in inspect.signature(factory).parameters.items()
        if p.kind is not p.VAR_KEYWORD
    }
    _check_names(name, given, known)
    for key, parameter in known.items():
        if parameter.annotation is Encoder:
            given[key] = _encoder(key, given.get(key), parameter.default, data)
    given |= _facts(name, given, known, data)
    for key, value in given.items():
        _check_type(name, key, value, known[key])
    return factory(**given)


def _encoder(key, spec, default, data):
    """The encoder, without a head of its own, that the argument ``key`` asks for."""
    if isinstance(spec, nn.Module):
        return spec
    spec = {"name": spec} if isinstance(spec, str) else {} if spec is None else spec
    if not isinstance(spec, dict):
        raise ConfigError(
            f"model.{key} is an encoder: write its name, or {{name: {default}, argument: "
            f"value}}, "
            f"not {spec!r}"
        )
    if "num_classes" in spec:
        raise ConfigError(
            f"model.{key}: an encoder inside another model has no num_classes of its own; leave "
            "it "
            "out"
        )
    inner = {"name": default, **spec}
    if "num_classes" in inspect.signature(find_model(inner["name"])).parameters:
        inner["num_classes"] = None
    return build(inner, data and replace(data, num_classes=None))


def _facts(name, given, known, data):
    """Arguments that follow from the data; a ConfigError where the spec says otherwise."""
    if data is None:
        return {}
    if data.num_classes is not None and "num_classes" not in known:
        raise ConfigError(
            f"model {name} does not classify: its factory takes no num_classes; choose an "
            "encoder "
            "or a fusion of models/, or give the factory that argument (None: no head)"
        )
    # An encoder that goes by the leads' names may know more of them than the data has.
    facts = {"leads": list(data.leads)} if "leads" in known else {"num_leads": len(data.leads)}
    facts |= {"fs": data.fs, "num_classes": data.num_classes}
    facts = {key: value for key, value in facts.items() if key in known and value is not None}
    for key, value in facts.items():
        if given.get(key, value) != value:
            raise ConfigError(
                f"model {name}: {key} is {given[key]} but that of the dataset is {value}; leave "
                "it "
                "out"
            )
    return facts


def _check_names(name, given, known):
    unknown = sorted(set(given) - set(known))
    missing = sorted(key for key, p in known.items() if p.default is p.empty and key not in given)
    if unknown or missing:
        problem = (
            f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        )
        raise ConfigError(
            f"model {name} {problem}; its arguments are {', '.join(known) or '(none)'}"
        )


def _kinds(parameter) -> tuple[type, ...]:
    """Plain types that an argument takes, from its annotation or its default; () where these do
    not say.
    """
    plain = (bool, int, float, str, type(None))
    if parameter.annotation is parameter.empty:
        none = (
            (type(None),) if parameter.name == "num_classes" else ()
        )  # the contract: None for no head
        return (type(parameter.default), *none) if isinstance(parameter.default, plain[:-1]) else ()
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    return kinds if set(kinds) <= set(plain) else ()


def _check_type(name, key, value, parameter):
    kinds = _kinds(parameter)
    if kinds and not fits(value, kinds):
        words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(
            f"model {name}: {key} must be of type {words}, such as {parameter.default!r}, not "
            f"{value!r}"
        )
