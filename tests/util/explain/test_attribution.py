"""Explanations: true where the truth is known, complete, and not of a network without learning."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.support import small_store
from util.config.keys import FinetuneConfig
from util.config.load import ROOT, load_config
from util.contract.encoder import Encoder
from util.errors import ConfigError
from util.explain.attribution import (
    by_attention,
    by_gradients,
    by_occlusion,
    column_of,
    integrated_gradients,
    score_of,
    seen_by,
    shuffled,
)
from util.explain.occlusion import SeenCrops
from util.handover.load import AppliedClassifier, AppliedEncoder, load_classifier
from util.jobs.setup import build_configured, evaluation_transforms
from util.leads import LEADS
from util.scoring.criterion import Criterion

V2 = LEADS.index("V2")


class OnlyV2(Encoder):
    """Smooth features of lead V2 alone."""

    def __init__(self, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.width, self.head = 8, nn.Linear(8, classes)
        self.conv = nn.Conv1d(1, 8, 9)

    def forward_features(self, series):
        return torch.tanh(self.conv(series[:, V2 : V2 + 1])).mean(2)


def applied(network=None, name="signal", loss="bce", classes=("AF", "NSR"), **more):
    file = ROOT / "configs" / "downstream" / f"{name}.yaml"
    overrides = [f"{key}={value}" for key, value in more.items()]
    config = load_config([file], overrides, {"mode": "scratch"}, program=FinetuneConfig)
    cropping, pipeline = evaluation_transforms(config)
    network = network or build_configured(config, len(classes))
    return AppliedClassifier(
        network, config, cropping, pipeline, criterion=Criterion(loss, classes), codes=("1", "2")
    )


def signal(fs=100, seconds=6):
    return np.random.default_rng(0).standard_normal((12, fs * seconds)).astype(np.float32)


@pytest.mark.parametrize("method", [by_occlusion, by_gradients])
def test_a_network_that_looks_only_at_v2_is_explained_by_v2(method):
    of = applied(OnlyV2())
    found = method(of, seen_by(of, signal()), 0)
    others = np.arange(12) != V2
    assert np.abs(found.leads[V2]) > 1e-3
    np.testing.assert_allclose(found.leads[others], 0, atol=1e-7)
    assert np.nanmax(np.abs(found.trace[V2])) > 1e-5
    np.testing.assert_allclose(found.trace[others][~np.isnan(found.trace[others])], 0, atol=1e-7)


@pytest.mark.parametrize("loss", ["bce", "cross_entropy", "mse"])
def test_integrated_gradients_sum_to_the_change_of_the_answer(loss):
    of = applied(OnlyV2(), loss=loss)
    found = by_gradients(of, seen_by(of, signal()), 1)
    assert abs(found.change) > 1e-3
    assert found.total == pytest.approx(found.change, rel=1e-4)
    assert np.nansum(found.trace) == pytest.approx(found.total, rel=1e-3)


def test_a_trained_network_is_explained_almost_completely():
    of = load_classifier(next(small_store.trained_signal().rglob("fold3_bestROC.pth")))
    found = by_gradients(of, seen_by(of, signal(seconds=5)), 0)
    assert found.total == pytest.approx(found.change, abs=0.05 * abs(found.change) + 0.005)


def test_gradients_of_a_network_that_first_normalises_patches_are_complete():
    """At even speed the rule missed nearly all of it: the network is the same for faint waves."""
    of = applied(name="st_mem", model_name="st_mem_vit_tiny")
    record = seen_by(of, signal(of.fs, 10))
    found = by_gradients(of, record, 0)
    assert found.total == pytest.approx(found.change, rel=0.03)


def test_what_is_explained_is_the_log_odds_of_the_probability():
    of = applied(OnlyV2(), loss="cross_entropy")
    record = seen_by(of, signal())
    score = score_of(of, of.network, record, 1)
    with torch.no_grad():
        odds = score(record.crops, torch.arange(len(record.crops)))
        probability = of.network(record.crops).softmax(1)[:, 1]
    torch.testing.assert_close(odds.sigmoid(), probability)


class TwelveLeads(OnlyV2):
    """A network of all leads, of which learning left V2; or which learned nothing, and whose
    weights are equal: shuffling them changes nothing.
    """

    def __init__(self, *, learned):
        super().__init__()
        self.conv = nn.Conv1d(12, 8, 9)
        with torch.no_grad():
            self.conv.weight[:, torch.arange(12) != V2] = 0
        for parameter in () if learned else self.parameters():
            nn.init.constant_(parameter, 0.1)

    def forward_features(self, series):
        return torch.tanh(self.conv(series)).mean(2)


@pytest.mark.parametrize("method", [by_occlusion, by_gradients])
def test_a_map_that_needs_no_learning_is_found_out(method):
    unlearned = applied(TwelveLeads(learned=False))
    assert method(unlearned, seen_by(unlearned, signal()), 0).random == pytest.approx(1)
    learned = applied(TwelveLeads(learned=True))
    assert method(learned, seen_by(learned, signal()), 0).random < 0.7


def test_shuffling_keeps_values_and_leaves_the_network_alone():
    network = OnlyV2()
    before = network.conv.weight.clone()
    other = shuffled(network)
    assert torch.equal(network.conv.weight, before)
    assert not torch.equal(other.conv.weight, before)
    assert torch.equal(other.conv.weight.flatten().sort()[0], before.flatten().sort()[0])


def test_an_encoder_is_explained_by_how_far_its_features_turn():
    whole = applied(OnlyV2())
    of = AppliedEncoder(whole.network, whole.config, whole.cropping, whole.pipeline)
    record = seen_by(of, signal())
    for method in (by_occlusion, by_gradients):
        found = method(of, record, None)
        assert int(np.abs(found.leads).argmax()) == V2
    assert found.total == pytest.approx(found.change, abs=2e-3)


def test_classes_go_by_name_or_code_and_wrong_ones_are_said():
    of, outputs = applied(OnlyV2()), np.array([0.2, 0.7])
    assert [column_of(of, name, outputs) for name in (None, "AF", "2")] == [1, 0, 1]
    with pytest.raises(ConfigError, match="--class VF: the weights know AF, NSR"):
        column_of(of, "VF", outputs)


# ============ attention ============
@pytest.mark.parametrize("name", ["st_mem", "mtae", "mlae"])
def test_attention_is_shared_out_over_what_is_attended_to(name):
    of = applied(name=name, model_name=f"{'vit' if name == 'mtae' else name + '_vit'}_tiny")
    record = seen_by(of, signal(of.fs, 10))
    weights = of.network.attention(record.crops)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    found = by_attention(of, record)
    assert np.nansum(found.trace) == pytest.approx(1, rel=1e-4) and (found.leads > 0).all()
    assert found.trace.shape == (12, record.samples)
    if name == "mtae":  # patches of all leads together
        assert found.between is None and np.ptp(found.leads) < 1e-6
    else:
        np.testing.assert_allclose(found.between.sum(axis=1), 1, rtol=1e-4)
    if name == "st_mem":
        np.testing.assert_allclose(found.between.mean(axis=0), found.leads, rtol=0.01)


def test_attention_weights_are_those_of_the_forward_pass():
    of = applied(name="st_mem", model_name="st_mem_vit_tiny")
    attention = of.network.get_submodule("block0.attn.fn")
    x = torch.randn(2, 10, of.network.width)
    with torch.no_grad():
        value = attention.to_qkv(x).chunk(3, dim=-1)[2]
        value = value.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        mixed = (attention.weights(x) @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.to_out(mixed), attention(x), rtol=1e-4, atol=1e-5)


def test_attention_of_a_fusion_is_that_of_its_transformer():
    arguments = {"model.signal.name": "st_mem_vit_tiny", "model.spectrogram.channels": 2}
    of = applied(name="fusion_st_mem", **arguments)
    found = by_attention(of, seen_by(of, signal(of.fs, 10)))
    assert found.between.shape == (12, 12) and np.nansum(found.trace) == pytest.approx(1, rel=1e-4)


def test_networks_without_attention_have_no_such_picture():
    of = applied(OnlyV2())
    assert by_attention(of, seen_by(of, signal())) is None


def test_the_rule_integrates_a_polynomial_exactly():
    record = SeenCrops(torch.tensor([[[0.0, 4.0]]]), torch.zeros(1, dtype=torch.int64), 2)
    got = integrated_gradients(record, lambda x, which: x.pow(5).sum((1, 2)), batch=5)
    torch.testing.assert_close(got, torch.tensor([[[-32.0, 1024 - 32.0]]]))
