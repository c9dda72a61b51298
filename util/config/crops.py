"""Crops and what is done to them, said once: ``dataset.crop``, ``filters``, ``standardize`` and
``augment``; and the published lists of transforms, which say the same.

    transforms:                                       crop: 2250
      - random_crop: {crop_length: 2250}              filters: {highpass: 0.67, lowpass: 40}
      - highpass_filter: {fs: 250, cutoff: 0.67}      standardize: crop
      - lowpass_filter: {fs: 250, cutoff: 40}
      - standardize: {axis: [-1, -2]}
"""

from typing import Any

from util.errors import ConfigError

AXES = {"crop": [-1, -2], "lead": -1}  # of standardize, as (leads, time) counts
FILTERS = ("highpass", "lowpass")
FILTER_KEYS = (*FILTERS, "order", "fs")
NO_TRAINING_KEYS = {"crop": None, "filters": None, "standardize": None, "augment": []}
NO_EVALUATION_KEYS = {"eval_crops": 1, "eval_stride": None, "eval_crop": None}


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
    shared = {name: filters[name] for name in ("order", "fs") if name in filters}
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
    """filters, standardize and augment of the steps behind the cropping; None as above."""
    filters: dict[str, Any] = dict.fromkeys(FILTER_KEYS)
    standardize, augment = None, []
    for step in steps:
        name, arguments = _named(step)
        kind = name.removesuffix("_filter")
        late = standardize is not None or augment
        if name in ("highpass_filter", "lowpass_filter"):
            shared = {key: value for key, value in arguments.items() if key != "cutoff"}
            known = {key: filters[key] for key in ("order", "fs") if filters[key] is not None}
            first = filters["highpass"] is None and filters["lowpass"] is None
            if late or filters[kind] is not None or "cutoff" not in arguments:
                return None
            if not shared.keys() <= {"order", "fs"} or not (first or known == shared):
                return None
            filters = {**{key: value for key, value in filters.items() if key != kind}}
            filters |= {kind: arguments["cutoff"], **shared}
        elif name == "standardize":
            axis = arguments.get("axis", AXES["crop"])
            axis = sorted(axis, reverse=True) if isinstance(axis, list) else axis
            names = {"crop": [[-1, -2]], "lead": [-1, [-1]]}
            found = [choice for choice, axes in names.items() if axis in axes]
            if late or not found or not arguments.keys() <= {"axis"}:
                return None
            standardize = found[0]
        else:
            augment.append(step)
    some = any(value is not None for value in filters.values())
    return {"filters": filters if some else None, "standardize": standardize, "augment": augment}


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
