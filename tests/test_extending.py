"""The worked examples of docs/extending.md work as they stand there: nobody has to guess what is
missing.
"""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.tiny_encoder import assert_every_parameter_learns, tiny_batch
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import ROOT, load_config
from util.contract.registry import MODELS, DataFacts, build, find_model
from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.leads import LEADS
from util.scoring import scores
from util.signals import augmentations
from util.signals.transforms import build_pipeline

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
CROP = torch.randn(4, 12, 250, generator=torch.Generator().manual_seed(0))
FACTS = DataFacts(tuple(LEADS), 100.0, 24)


def block(heading: str, language: str) -> str:
    """The block of code of one section."""
    section = PAGE.split(f"## A new {heading}\n")[1].split("\n## ")[0]
    return re.search(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(autouse=True)
def registries_as_before():
    find_model(
        "simclr"
    )  # the modules of models/ register themselves once, when one is first asked for
    registries = (MODELS, augmentations.AUGMENTATIONS, scores.SCORES)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def test_the_method_takes_a_step_and_every_parameter_learns():
    exec(block("method", "python"), {"__name__": "models.my_vicreg"})
    torch.manual_seed(0)
    method = build("my_vicreg", encoder="tiny_encoder", head_width=32, head_out=8)
    out = method(tiny_batch())
    out["loss"].backward()
    assert_every_parameter_learns(method)
    terms = {"invariance": 25, "variance": 25, "covariance": 1}
    assert out["loss"].item() == pytest.approx(
        sum(weight * out[name].item() for name, weight in terms.items())
    )


def test_its_terms_are_worked_out_by_hand():
    names = {"__name__": "models.my_vicreg"}
    exec(block("method", "python"), names)
    # Both dimensions: variance 0.5, covariance 0.5.
    variance, covariance = names["spread"](torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert variance.item() == pytest.approx(1 - 0.5001**0.5)
    assert covariance.item() == pytest.approx(2 * 0.25 / 2)


def test_the_encoder_classifies_and_has_features():
    exec(block("encoder", "python"), {"__name__": "models.encoder.my_gru"})
    assert build("my_gru", FACTS)(CROP).shape == (4, 24)
    encoder = build(
        "simclr", replace(FACTS, num_classes=None), encoder={"name": "my_gru", "channels": 8}
    ).encoder
    encoder.fit_statistics([CROP])
    assert encoder.standardize.fitted and encoder(CROP).shape == (4, encoder.width)


def test_a_model_that_cannot_classify_says_so():
    with pytest.raises(ConfigError, match="model simclr does not classify"):
        build("simclr", FACTS)


def test_the_augmentation_is_a_step_and_an_operation_of_rand_augment():
    exec(
        block("augmentation", "python"), {**vars(augmentations)}
    )  # a function among the others of its file
    transforms = [
        {"random_crop": {"crop_length": 250}},
        {"my_wander": {"amplitude": 0.3, "cycles": [0.2, 1]}},
    ]
    pipeline = build_pipeline(
        transforms, length=250, fs=100, rand_augment={"op_names": ["my_wander"], "num_layers": 1}
    )
    plain = build_pipeline(transforms, length=250, fs=100)
    added = plain(CROP, KeyedRandom(torch.arange(4))) - CROP
    assert 0 < added.abs().max() <= 0.3 + 1e-5
    # slow: no step between neighbouring samples is larger than that of one cycle a crop
    assert added.diff().abs().max() <= 0.3 * 2 * np.pi / 250 + 1e-5
    assert pipeline(CROP, KeyedRandom(torch.arange(4))).shape == CROP.shape and not len(
        pipeline.fixed.steps
    )


def test_the_score_is_computed_and_the_lowest_is_the_best():
    exec(block("score", "python"), {**vars(scores)})
    labels, probabilities = np.array([[1.0, 0.0]]), np.array([[0.5, 0.1]])
    values = scores.compute_scores(
        probabilities, labels, scores.parse_scores(["MyBrier"]), "multilabel"
    )
    assert values["MyBrier"] == pytest.approx((0.25 + 0.01) / 2)
    assert scores.lower_is_better("MyBrier") and scores.lower_is_better("loss")
    assert not scores.lower_is_better("AUROC") and not scores.lower_is_better("F1Score_micro")


@pytest.mark.parametrize(
    "heading, folder",
    [
        ("method", "pretrain"),
        ("encoder", "downstream"),
        ("augmentation", "downstream"),
        ("score", "downstream"),
    ],
)
def test_the_configs_are_taken(heading, folder, tmp_path):
    shutil.copytree(ROOT / "configs" / folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "my.yaml").write_text(block(heading, "yaml"))
    load_config(
        [tmp_path / "my.yaml"], program=PretrainConfig if folder == "pretrain" else FinetuneConfig
    )
