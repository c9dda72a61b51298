"""CPC: which samples it is told apart from, the loss, and the LSTM's causality."""

import math

import pytest
import torch

from models.encoder.s4 import StateSpace
from tests.support.tiny_encoder import assert_every_parameter_learns, run_step
from util.contract.registry import build
from util.errors import ConfigError
from util.keyed_random import KeyedRandom


def make(encoder="cpc_lstm", **arguments):
    torch.manual_seed(0)
    return build(
        "cpc", encoder={"name": encoder, "channels": 8}, **{"ahead": 3, "negatives": 5, **arguments}
    )


def crops(samples=3, length=40):
    signal = torch.randn(samples, 12, length, generator=torch.Generator().manual_seed(0))
    return {"signal": signal, "random": KeyedRandom(torch.arange(samples))}


def test_negatives_are_other_samples_of_the_record():
    batch = crops(2)
    negatives = make(negatives=2000).draw(batch)["negatives"]
    assert negatives.shape == (2, 37, 2000)
    for now in range(37):
        assert set(negatives[0, now].tolist()) == set(range(40)) - {now + 3}
    alone = make(negatives=2000).draw(
        {"signal": batch["signal"][1:], "random": KeyedRandom(torch.tensor([1]))}
    )
    assert torch.equal(alone["negatives"], negatives[1:])


@pytest.mark.parametrize("encoder, length", [("cpc_lstm", 40), ("cpc_s4", 80), ("cpc_s4", 79)])
def test_the_loss_is_the_cross_entropy_of_each_step_by_itself(encoder, length):
    model = make(encoder).eval()
    batch = crops(length=length)
    drawn = model.draw(batch)
    steps = model.encoder.steps(batch["signal"])
    contexts = model.encoder.contexts(steps)
    losses, first = [], []
    for row in range(3):
        for now in range(37):
            guess = model.predict(contexts[row, now])
            candidates = [now + 3, *drawn["negatives"][row, now].tolist()]
            likeness = torch.stack([guess @ steps[row, place] for place in candidates])
            losses.append(-likeness.log_softmax(0)[0])
            first.append(float((likeness[0] > likeness[1:]).all()))
    out = model(batch, drawn)
    assert out["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert out["accuracy"].item() == pytest.approx(sum(first) / len(first), abs=0.02)  # ties


@pytest.mark.parametrize("encoder", ["cpc_lstm", "cpc_s4"])
def test_a_guess_costs_the_logarithm_of_the_candidates_and_is_where_it_starts(encoder):
    torch.manual_seed(0)
    model = build("cpc", encoder={"name": encoder, "channels": 128}, negatives=50)
    assert run_step(model, crops(length=100))["loss"].item() == pytest.approx(
        math.log(51), rel=0.15
    )
    torch.nn.init.zeros_(model.predict.weight)
    assert run_step(model, crops(length=100))["loss"].item() == pytest.approx(
        math.log(51), rel=1e-5
    )


@pytest.mark.parametrize("encoder", ["cpc_lstm", "cpc_s4"])
def test_contexts_know_nothing_of_what_follows(encoder):
    model, batch = make(encoder).eval(), crops(length=40 * (1 + (encoder == "cpc_s4")))
    later = batch["signal"].clone()
    later[:, :, later.shape[-1] // 2 + (encoder == "cpc_s4") :] += (
        1  # its convolution reaches one sample ahead
    )
    before, after = (
        model.encoder.contexts(model.encoder.steps(signal)) for signal in (batch["signal"], later)
    )
    assert torch.allclose(before[:, :20], after[:, :20], atol=1e-5)
    assert not torch.allclose(before[:, 21], after[:, 21], atol=1e-5)


def test_a_state_space_is_its_recurrence():
    torch.manual_seed(1)
    space = StateSpace(5, 8).double()
    inputs = torch.randn(2, 50, 5, dtype=torch.float64)
    step, gain = space.discrete()
    state, want = torch.zeros(2, 5, 4, dtype=torch.complex128), []
    for now in inputs.unbind(1):
        state = step.exp() * state + now[..., None]
        want.append(2 * (gain * state).sum(-1).real + space.skip * now)
    assert torch.allclose(space(inputs), torch.stack(want, 1), atol=1e-9)
    # of the equation itself: an input held at 1 settles at the answer to x' = 0
    pole = torch.complex(-space.log_decay.exp(), space.frequency)
    settled = 2 * (torch.view_as_complex(space.read) * -1 / pole).sum(-1).real
    assert torch.allclose(space.kernel(60000).sum(-1), settled, rtol=1e-6)


def test_features_are_mean_maximum_and_last_of_the_states():
    encoder = make().eval().encoder
    signal = crops()["signal"]
    states = encoder.contexts(encoder.steps(signal))
    assert encoder.forward_features(signal).shape == (3, encoder.width) == (3, 24)
    expected = torch.cat([states.mean(1), states.max(1).values, states[:, -1]], dim=1)
    assert torch.allclose(encoder.forward_features(signal), expected)


@pytest.mark.parametrize("encoder", ["cpc_lstm", "cpc_s4"])
def test_every_parameter_learns_and_it_learns_to_tell_steps_apart(encoder):
    model, batch = make(encoder), crops(8, 60)
    model.fit_statistics([batch["signal"]])
    assert model.encoder.standardize.fitted
    time = torch.arange(60)
    batch["signal"] = torch.sin(time / 3 + torch.arange(12)[:, None]).expand(8, 12, 60).clone()
    run_step(model, batch)["loss"].backward()
    assert_every_parameter_learns(model)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for number in range(60):
        out = run_step(model, {**batch, "random": KeyedRandom(torch.arange(8) + 100 * number)})
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.8 * losses[0]


def test_depths_of_the_encoder():
    encoder = build("cpc_lstm", num_classes=3, channels=4)
    names = {
        name.partition(".")[0]: encoder.level_of(name) for name, _ in encoder.named_parameters()
    }
    assert names == {"head": 0, "lstm": 1, "convolutions": 2}
    encoder = build("cpc_s4", num_classes=3, channels=4, layers=2)
    names = {
        ".".join(name.split(".")[:2]): encoder.level_of(name)
        for name, _ in encoder.named_parameters()
    }
    assert {names[key] for key in names if key.startswith("convolutions")} == {3}
    assert (names["head.weight"], names["layers.1"], names["layers.0"]) == (0, 1, 2)


def test_what_cannot_be_predicted_is_said():
    with pytest.raises(
        ConfigError, match="needs an encoder with steps and contexts .* not XResNet1d"
    ):
        build("cpc", encoder={"name": "xresnet1d50", "channels": 4})
    with pytest.raises(ConfigError, match="ahead must be a whole number of 1 or more, not 0"):
        make(ahead=0)
    with pytest.raises(ConfigError, match="crops of 12 steps have none 12 ahead"):
        make(ahead=12).draw(crops(2, 12))
