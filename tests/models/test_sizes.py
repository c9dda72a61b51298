"""Arguments of models that are 0, negative or too small: a sentence, never a traceback."""

import inspect

import pytest

from util.contract.facts import DataFacts
from util.contract.registry import MODELS, build, find_model
from util.errors import ConfigError
from util.leads import LEADS
from util.named_arguments import kind_of

FACTS = DataFacts(leads=LEADS, fs=250.0, num_classes=3, length=750)
METHODS = DataFacts(leads=LEADS, fs=250.0, length=750)


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ({"name": "xresnet1d50", "channels": 1}, "channels must be a whole number of 2 or more"),
        ({"name": "xresnet1d18", "channels": 0}, "channels must be a whole number of 2 or more"),
        (
            {"name": "fusion", "signal": {"name": "xresnet1d50", "channels": 1}},
            "model xresnet1d50: channels must be a whole number of 2 or more, not 1",
        ),
        ({"name": "spectrogram_se_resnet34", "channels": 0}, "a whole number of 1 or more, not 0"),
        ({"name": "spectrogram_se_resnet34", "segment_seconds": 0}, "must be a number above 0"),
        ({"name": "cpc_lstm", "layers": 0}, "layers must be a whole number of 1 or more, not 0"),
        ({"name": "cpc_s4", "state": -1}, "state must be a whole number of 1 or more, not -1"),
        ({"name": "vit_tiny", "patch_size": 0}, "patch_size must be a whole number of 1 or more"),
        ({"name": "vit_tiny", "drop_out_rate": 2}, "must be a number from 0 to below 1, not 2"),
        ({"name": "vit_tiny", "drop_path_rate": 1.0}, "must be a number from 0 to below 1"),
    ],
)
def test_sizes_that_make_no_network_are_said(spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(spec, FACTS)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "simclr", "temperature": 0},
        {"name": "byol", "head_out": 0},
        {"name": "dino", "head_init_std": 0.0},
        {"name": "dino", "momentum": 7},
        {"name": "cpc", "ahead": 0},
        {"name": "jepa", "block": 0},
        {"name": "jepa", "predictor_depth": 0},
    ],
    ids=str,
)
def test_methods_refuse_what_teaches_nothing(spec):
    (key,) = set(spec) - {"name"}
    with pytest.raises(ConfigError, match=f"model {spec['name']}: {key} must be "):
        build(spec, METHODS)


def test_every_number_of_a_model_says_which_values_it_takes():
    with pytest.raises(ConfigError):
        find_model("none")  # all modules have been imported then
    facts = ("num_classes", "num_leads", "fs", "seq_len", "mask_ratio")  # checked elsewhere
    own = [name for name, model in MODELS.items() if model.__module__.startswith("models.")]
    loose = [
        f"{name}.{key}"
        for name in own
        for key, parameter in inspect.signature(MODELS[name]).parameters.items()
        if parameter.annotation in (int, float) and key not in facts
    ]
    assert not loose, f"annotate by util.named_arguments (COUNT, SHARE, RATE ...): {loose}"
    channels = inspect.signature(MODELS["xresnet1d50"]).parameters["channels"].annotation
    assert not kind_of(channels).fits(1)
