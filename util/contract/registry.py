"""Every model by the name used in YAML, and the one way to build it.

A factory is a plain function with keyword arguments, marked by ``@register``; its name is the
YAML name and its arguments are the keys allowed under ``model:``.  An argument annotated as
``Encoder`` is itself given as a spec.  Adding a model is one file anywhere under ``models/``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from torch import nn

from util.contract.encoder import Encoder
from util.contract.facts import DataFacts
from util.errors import ConfigError
from util.named_arguments import fits, kind_of

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
MODELS: dict[str, Callable[..., nn.Module]] = {}


def register(factory: Factory) -> Factory:
    """Make ``factory`` known by its name; a decorator."""
    name = factory.__name__
    if name in MODELS and MODELS[name].__module__ != factory.__module__:
        raise ValueError(f"two models are called {name}")
    MODELS[name] = factory
    return factory


def find_model(name: str) -> Callable[..., nn.Module]:
    """Return the factory of this name; a ConfigError lists the known ones."""
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


def build(
    spec: str | Mapping[str, Any], facts: DataFacts | None = None, **arguments: Any
) -> nn.Module:
    """Build a model.

    Args:
        spec: ``{"name": ..., **arguments}``, or the name alone; an argument that is an encoder is
            such a spec, too.
        facts: fills in leads, fs, seq_len and num_classes wherever a factory takes them, at any
            depth.
        arguments: more of the spec's.

    Raises:
        ConfigError: an unknown model, an argument that its factory does not take, of another type
            than its annotation or default, or that contradicts the facts.
    """
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ConfigError(
            f"a model is a name, or a mapping {{name: ..., argument: value}}, not {spec!r}"
        )
    given = {**spec, **arguments}
    name = given.pop("name")
    factory = find_model(name)
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    _check_names(name, given, parameters)
    for key, parameter in parameters.items():
        if parameter.annotation is Encoder:
            given[key] = _encoder(key, given.get(key), parameter.default, facts)
    given |= _from_facts(name, given, parameters, facts)
    for key, value in given.items():
        _check_type(name, key, value, parameters[key])
    model = factory(**given)
    if isinstance(model, Encoder):
        model.facts = facts
    return model


def complete(spec: Mapping[str, Any], facts: DataFacts) -> dict[str, Any]:
    """Return a spec with every argument by which ``build`` makes its model, at any depth, but for
    those that say again what the facts say; building it makes the same model.

    Args:
        spec: ``{"name": ..., **arguments}``, one that ``build`` takes.
        facts: of the data.
    """
    parameters = inspect.signature(find_model(spec["name"])).parameters
    full = dict(spec)
    for key, parameter in parameters.items():
        value = spec.get(key, parameter.default)
        if parameter.annotation is Encoder:
            inner = {"name": value} if isinstance(value, str) else value or {}
            if isinstance(inner, Mapping):
                full[key] = complete({"name": parameter.default, **inner}, facts)
        elif key == "seq_len" and facts.length is not None:
            full.setdefault(key, facts.length)
        elif key not in (*_known(facts, parameters), "num_classes") and _is_plain(value):
            full.setdefault(key, [*value] if isinstance(value, tuple) else value)
    return full


def _is_plain(value: Any) -> bool:
    """Whether YAML can write a value."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and _is_plain([*value.values()])
    return value is None or isinstance(value, bool | int | float | str)


def _encoder(key: str, spec: Any, default: Any, facts: DataFacts | None) -> nn.Module:
    """Return the encoder, without a head of its own, that the argument ``key`` asks for."""
    if isinstance(spec, nn.Module):
        return spec
    spec = {"name": spec} if isinstance(spec, str) else {} if spec is None else spec
    if not isinstance(spec, Mapping):
        raise ConfigError(
            f"model.{key} is an encoder: write its name, or {{name: {default}, argument: value}}, "
            f"not {spec!r}"
        )
    if "num_classes" in spec:
        raise ConfigError(
            f"model.{key}: an encoder inside another model has no num_classes of its own; leave "
            "it out"
        )
    inner = {"name": default, **spec}
    if "num_classes" in inspect.signature(find_model(inner["name"])).parameters:
        inner["num_classes"] = None
    return build(inner, facts and replace(facts, num_classes=None))


def _from_facts(
    name: str,
    given: dict[str, Any],
    parameters: dict[str, inspect.Parameter],
    facts: DataFacts | None,
) -> dict[str, Any]:
    """Return the arguments that follow from the facts; a ConfigError where the spec says
    otherwise.
    """
    if facts is None:
        return {}
    if facts.num_classes is not None and "num_classes" not in parameters:
        raise ConfigError(
            f"model {name} does not classify: its factory takes no num_classes; choose an encoder "
            "or a fusion of models/, or give the factory that argument (None: no head)"
        )
    known = _known(facts, parameters)
    for key, value in known.items():
        if given.get(key, value) != value:
            raise ConfigError(
                f"model {name}: {key} is {given[key]} but that of the dataset is {value}; leave "
                "it out"
            )
    # A table of positions may be longer than the crops, as that of an encoder pre-trained on
    # longer ones is: what the spec says of it stands.
    if "seq_len" in parameters and facts.length is not None:
        known["seq_len"] = given.get("seq_len", facts.length)
    return known


def _known(facts: DataFacts, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The arguments of a factory that say again what the facts say."""
    known: dict[str, Any] = {
        "leads": list(facts.leads),
        "num_leads": len(facts.leads),
        "fs": facts.fs,
        "num_classes": facts.num_classes,
    }
    if "leads" in parameters:
        # An encoder that goes by the leads' names may know more of them than the data has.
        del known["num_leads"]
    return {key: value for key, value in known.items() if key in parameters and value is not None}


def _check_names(
    name: str, given: dict[str, Any], parameters: dict[str, inspect.Parameter]
) -> None:
    unknown = sorted(set(given) - set(parameters))
    missing = sorted(
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in given
    )
    if unknown or missing:
        problem = (
            f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        )
        raise ConfigError(
            f"model {name} {problem}; its arguments are {', '.join(parameters) or '(none)'}"
        )


def _kinds(parameter: inspect.Parameter) -> tuple[type, ...]:
    """Return the plain types that an argument takes, from its annotation or its default; () where
    these do not say.
    """
    plain = (bool, int, float, str)
    if parameter.annotation is parameter.empty:
        if not isinstance(parameter.default, plain):
            return ()
        # num_classes may always be None: no head
        none = (type(None),) if parameter.name == "num_classes" else ()
        return (type(parameter.default), *none)
    kinds = (parameter.annotation,)
    if get_origin(parameter.annotation) in (Union, UnionType):
        kinds = get_args(parameter.annotation)
    # COUNT and its like are a type with the values that it takes
    kinds = tuple(get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds)
    return kinds if set(kinds) <= {*plain, type(None)} else ()


def _check_type(name: str, key: str, value: Any, parameter: inspect.Parameter) -> None:
    kinds = _kinds(parameter)
    if kinds and not fits(value, kinds):
        words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(
            f"model {name}: {key} must be of type {words}, such as {parameter.default!r}, not "
            f"{value!r}"
        )
    allowed = kind_of(parameter.annotation)
    if allowed and value is not None and not allowed.fits(value):
        raise ConfigError(f"model {name}: {key} must be {allowed.words}, not {value!r}")
