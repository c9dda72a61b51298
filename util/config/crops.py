"""Crops and their transforms, given once: ``dataset.crop``, ``filters``, ``standardize`` and
``augment``; and the published lists of transforms, which say the same.

    transforms:                                       crop: 2250
      - random_crop: {crop_length: 2250}              filters: {highpass: 0.67, lowpass: 40}
      - highpass_filter: {fs: 250, cutoff: 0.67}      standardize: crop
      - lowpass_filter: {fs: 250, cutoff: 40}
      - standardize: {axis: [-1, -2]}
"""

import itertools
from typing import Any

from util.errors import ConfigError

AXES = {"crop": [-1, -2], "lead": -1}  # of standardize, as (leads, time) counts
FILTERS = ("highpass", "lowpass")
FILTER_STEPS = ("highpass_filter", "lowpass_filter")
FILTER_OPTIONS = ("order", "fs")
FILTER_KEYS = (*FILTERS, *FILTER_OPTIONS)
NO_TRAINING_KEYS: dict[str, Any] = {
    "crop": None,
    "filters": None,
    "standardize": None,
    "augment": [],
}
NO_EVALUATION_KEYS: dict[str, Any] = {"eval_crops": 1, "eval_stride": None, "eval_crop": None}


# ============ keys to a list ============
def steps_after_crop(filters: dict | None, standardize: str | None, augment: list) -> list:
    """Return the transforms that these keys of ``dataset`` name, in order.

    Raises:
        ConfigError: an unknown key of ``filters``.
    """
    filters = {name: value for name, value in (filters or {}).items() if value is not None}
    unknown = [name for name in filters if name not in FILTER_KEYS]
    if unknown:
        raise ConfigError(f"dataset.filters takes {', '.join(FILTER_KEYS)}; given: {unknown[0]!r}")
    shared = {name: filters[name] for name in FILTER_OPTIONS if name in filters}
    steps: list = [
        {f"{name}_filter": {"cutoff": cutoff, **shared}}
        for name, cutoff in filters.items()
        if name in FILTERS
    ]
    if standardize is not None:
        steps.append({"standardize": {"axis": AXES[standardize]}})
    return steps + augment


# ============ a list to keys ============
def lists_as_keys(dataset: dict) -> dict:
    """Return a layer's section ``dataset`` with its lists of transforms as keys, where keys can
    say the same; else the lists stay, and what lower layers say by keys is taken back.  A layer
    that has both is left as it is: that is an error of its own.
    """
    dataset = dict(dataset)
    training, evaluation = dataset.get("transforms"), dataset.get("eval_transforms")
    keys: dict[str, Any] | None = None
    if isinstance(training, list) and not dataset.keys() & NO_TRAINING_KEYS.keys():
        keys = _training_keys(training)
        dataset |= keys | {"transforms": None} if keys else NO_TRAINING_KEYS
    if isinstance(evaluation, list) and not dataset.keys() & NO_EVALUATION_KEYS.keys():
        eval_keys = _evaluation_keys(evaluation, keys)
        dataset |= eval_keys | {"eval_transforms": None} if eval_keys else NO_EVALUATION_KEYS
    return dataset


def _named(step: Any) -> tuple[str, dict]:
    """(name, arguments) of a step; ("", {}) for what is none."""
    if isinstance(step, str):
        return step, {}
    if isinstance(step, dict) and len(step) == 1:
        ((name, arguments),) = step.items()
        if isinstance(name, str) and isinstance(arguments, (dict, type(None))):
            return name, arguments or {}
    return "", {}


def _training_keys(steps: list) -> dict | None:
    """What a list for training says, as keys; None where keys cannot say it."""
    name, arguments = _named(steps[0]) if steps else ("", {})
    rest = _keys_after_crop(steps[1:])
    if name != "random_crop" or arguments.keys() != {"crop_length"} or rest is None:
        return None
    return {"crop": arguments["crop_length"], **rest}


def _keys_after_crop(steps: list) -> dict | None:
    """filters, standardize and augment of the steps behind the cropping; None as above.

    Keys can say filters, then standardize, then anything else, and nothing in another order.
    """
    named = [_named(step) for step in steps]
    filters = list(itertools.takewhile(lambda step: step[0] in FILTER_STEPS, named))
    filter_keys = _filter_keys(filters)
    if filter_keys is None:
        return None
    first, standardize = len(filters), None
    if first < len(steps) and named[first][0] == "standardize":
        standardize = _standardize_key(named[first][1])
        if standardize is None:
            return None
        first += 1
    if any(name in (*FILTER_STEPS, "standardize") for name, _ in named[first:]):
        return None
    return {
        "filters": filter_keys if filters else None,
        "standardize": standardize,
        "augment": steps[first:],
    }


def _filter_keys(filters: list[tuple[str, dict]]) -> dict | None:
    """The key ``filters`` of filter steps: at most one of each, alike but for their cutoffs.

    What the steps do not say is null, so that what lower layers say of it is taken back.
    """
    cutoffs = {name.removesuffix("_filter"): given.get("cutoff") for name, given in filters}
    others = [
        {key: value for key, value in given.items() if key != "cutoff"} for _, given in filters
    ]
    if len(cutoffs) < len(filters) or None in cutoffs.values():
        return None
    if any(other != others[0] or not other.keys() <= set(FILTER_OPTIONS) for other in others):
        return None
    said = {**cutoffs, **(others[0] if others else {})}
    return {**{key: None for key in FILTER_KEYS if key not in said}, **said}


def _standardize_key(arguments: dict) -> str | None:
    """The key ``standardize`` of a step of this name."""
    axis = arguments.get("axis", AXES["crop"])
    if arguments.keys() <= {"axis"}:
        for choice, same in {"crop": ([-1, -2], [-2, -1]), "lead": (-1, [-1])}.items():
            if axis in same:
                return choice
    return None


def _evaluation_keys(steps: list, training: dict | None) -> dict | None:
    """What a list for evaluation says, as keys; None where keys cannot say it, as where it filters
    otherwise than training.
    """
    name, arguments = _named(steps[0]) if steps else ("", {})
    rest = _keys_after_crop(steps[1:])
    length = arguments.get("crop_length")
    if training is None or rest is None or rest["augment"] or length is None:
        return None
    if any(rest[key] != training[key] for key in ("filters", "standardize")):
        return None
    count, stride = 1, None
    # A random crop is evaluated as a centre crop
    if name == "n_crop" and arguments.keys() == {"crop_length", "num_segments"}:
        count = arguments["num_segments"]
        if not isinstance(count, int) or count < 2:
            return None
    elif name == "moving_window_crop" and arguments.keys() == {"crop_length", "crop_stride"}:
        stride = arguments["crop_stride"]
    elif name not in ("center_crop", "random_crop") or len(arguments) > 1:
        return None
    other = None if length == training["crop"] else length
    return {"eval_crops": count, "eval_stride": stride, "eval_crop": other}
