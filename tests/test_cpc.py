"""CPC: which samples it is told apart from, the loss, and the LSTM's causality."""
import math

import pytest
import torch

from models.registry import build
from tiny_encoder import assert_every_parameter_learns
from util.errors import ConfigError
from util.keyed_random import KeyedRandom


def make(**arguments):
    torch.manual_seed(0)
    return build("cpc", encoder={"name": "cpc_lstm", "channels": 8}, **{"ahead": 3, "negatives": 5, **arguments})


def crops(samples=3, length=40):
    signal = torch.randn(samples, 12, length, generator=torch.Generator().manual_seed(0))
    return {"signal": signal, "random": KeyedRandom(torch.arange(samples))}


def test_negatives_are_other_samples_of_the_record():
    batch = make(negatives=2000).prepare(crops(2))
    negatives = batch["negatives"]
    assert negatives.shape == (2, 37, 2000)
    for step in range(37):
        assert set(negatives[0, step].tolist()) == set(range(40)) - {step + 3}
    alone = make(negatives=2000).prepare({"signal": batch["signal"][1:], "random": KeyedRandom(torch.tensor([1]))})
    assert torch.equal(alone["negatives"], negatives[1:])


def test_the_loss_is_the_cross_entropy_of_each_sample_by_itself():
    model = make()
    batch = model.prepare(crops())
    steps = model.encoder.steps(batch["signal"])
    contexts = model.encoder.contexts(steps)
    losses, first = [], []
    for row in range(3):
        for now in range(37):
            guess = model.predict(contexts[row, now])
            candidates = [now + 3, *batch["negatives"][row, now].tolist()]
            likeness = torch.stack([guess @ steps[row, place] for place in candidates])
            losses.append(-likeness.log_softmax(0)[0])
            first.append(float((likeness[0] > likeness[1:]).all()))
    out = model(batch)
    assert out["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert out["accuracy"].item() == pytest.approx(sum(first) / len(first), abs=0.02)    # ties


def test_a_guess_costs_the_logarithm_of_the_candidates():
    model = make(negatives=50)
    torch.nn.init.zeros_(model.predict.weight)
    assert model(crops())["loss"].item() == pytest.approx(math.log(51), rel=1e-5)


def test_contexts_know_nothing_of_what_follows():
    model, batch = make().eval(), crops()
    later = batch["signal"].clone()
    later[:, :, 20:] += 1
    before, after = (model.encoder.contexts(model.encoder.steps(signal)) for signal in (batch["signal"], later))
    assert torch.allclose(before[:, :20], after[:, :20], atol=1e-6) and not torch.allclose(before[:, 20], after[:, 20])


def test_features_are_mean_maximum_and_last_of_the_states():
    encoder = make().eval().encoder
    signal = crops()["signal"]
    states = encoder.contexts(encoder.steps(signal))
    assert encoder.forward_features(signal).shape == (3, encoder.width) == (3, 24)
    expected = torch.cat([states.mean(1), states.max(1).values, states[:, -1]], dim=1)
    assert torch.allclose(encoder.forward_features(signal), expected)


def test_every_parameter_learns_and_it_learns_to_tell_samples_apart():
    model, batch = make(), crops(8, 60)
    model.fit_statistics([batch["signal"]])
    assert model.encoder.standardize.fitted
    time = torch.arange(60)
    batch["signal"] = torch.sin(time / 3 + torch.arange(12)[:, None]).expand(8, 12, 60).clone()
    model(batch)["loss"].backward()
    assert_every_parameter_learns(model)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for step in range(60):
        out = model({**batch, "random": KeyedRandom(torch.arange(8) + 100 * step)})
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.8 * losses[0]


def test_depths_of_the_encoder():
    encoder = build("cpc_lstm", num_classes=3, channels=4)
    names = {name.partition(".")[0]: encoder.steps_below_head(name) for name, _ in encoder.named_parameters()}
    assert names == {"head": 0, "lstm": 1, "convolutions": 2}


def test_what_cannot_be_predicted_is_said():
    with pytest.raises(ConfigError, match="needs an encoder with steps and contexts .* not XResNet1d"):
        build("cpc", encoder={"name": "xresnet1d50", "channels": 4})
    with pytest.raises(ConfigError, match="ahead 0 and negatives 5 must be 1 or more"):
        make(ahead=0)
    with pytest.raises(ConfigError, match="crops of 12 samples have none 12 ahead"):
        make(ahead=12)(crops(2, 12))
