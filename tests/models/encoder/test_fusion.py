"""Fusion: the gate and the joined features recomputed by hand, three heads, branches of any
width.
"""

import numpy as np
import pytest
import torch
from torch import nn

from models.encoder.cnn import CNNEncoder
from util.config.keys import TrainConfig
from util.contract.encoder import Encoder
from util.contract.registry import MODELS, build
from util.errors import ConfigError
from util.evaluation.inference import predict
from util.jobs.job import SupervisedTask, note_chance
from util.training.optimizer import make_optimizer
from util.weights.transfer import without_heads

torch.set_num_threads(1)
SMALL = {"signal": {"channels": 16}, "spectrogram": {"channels": 8}}  # 128 and 64 features
VARIANTS = [{"gating": g, "three_head": t} for g in (False, True) for t in (False, True)]


def small(**arguments):
    torch.manual_seed(0)
    return build("fusion", **{**SMALL, **arguments})


def crops(batch=3, samples=250, seed=1):
    return torch.randn(batch, 12, samples, generator=torch.Generator().manual_seed(seed))


class Tiny(Encoder):
    """Somebody's own encoder: 5 features, no standardisation."""

    def __init__(self, num_classes, scale):
        super().__init__()
        self.width, self.scale = 5, scale
        self.layer = nn.Linear(12, 5)
        self.head = nn.Identity() if num_classes is None else nn.Linear(5, num_classes)

    def forward_features(self, x):
        return self.layer(x.mean(-1)) * self.scale


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", lambda num_classes=24, scale=1.0: Tiny(num_classes, scale))


def linear(state, key, x):
    return x @ state[key + ".weight"].T + state[key + ".bias"]


@pytest.mark.parametrize("gating", [False, True])
def test_logits_and_features_equal_the_formula(gating):
    model = small(gating=gating).eval()
    x, state = crops(), model.state_dict()
    s, p = model.signal.forward_features(x), model.spectrogram.forward_features(x)
    joined = torch.cat([s, p], 1)
    if gating:
        score = linear(state, "gate", joined).exp()
        g = score / (score[:, :1] + score[:, 1:])
        joined = torch.cat([s * g[:, 0, None], p * g[:, 1, None]], 1)
        torch.testing.assert_close(model.outputs(x)["gate"], g)
    torch.testing.assert_close(model.forward_features(x), joined)
    torch.testing.assert_close(model(x), linear(state, "head.1", linear(state, "head.0", joined)))


def test_published_sizes():
    model = build("fusion", gating=True, three_head=True)
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if "head" in key or "gate" in key
    }
    assert model.width == 1024 and shapes == {
        "gate.weight": (2, 1024),
        "gate.bias": (2,),
        "head.0.weight": (512, 1024),
        "head.0.bias": (512,),
        "head.1.weight": (24, 512),
        "head.1.bias": (24,),
        **{
            f"extra_heads.{name}.{key}": shape
            for name in ("signal", "spectrogram")
            for key, shape in {
                "0.weight": (256, 512),
                "0.bias": (256,),
                "1.weight": (24, 256),
                "1.bias": (24,),
            }.items()
        },
    }


@pytest.mark.parametrize("open_branch", ["signal", "spectrogram"])
def test_the_gate_scales_the_right_branch(open_branch):
    model = small(gating=True).eval()
    nn.init.zeros_(model.gate.weight)
    model.gate.bias.data = torch.tensor([50.0, -50.0] if open_branch == "signal" else [-50.0, 50.0])
    signal, spectrogram = model.forward_features(crops()).split([128, 64], dim=1)
    kept, shut = (signal, spectrogram) if open_branch == "signal" else (spectrogram, signal)
    torch.testing.assert_close(kept, model.branches[open_branch].forward_features(crops()))
    assert shut.abs().max() < 1e-30


def test_the_gate_sums_to_one_and_belongs_to_the_crop():
    model = small(gating=True).eval()
    nn.init.normal_(model.gate.weight)
    gate = model.outputs(crops(8))["gate"]
    assert gate.shape == (8, 2) and gate.min() >= 0
    torch.testing.assert_close(gate.sum(1), torch.ones(8))
    assert gate[:, 0].std() > 0
    torch.testing.assert_close(model.outputs(crops(8)[5:6])["gate"], gate[5:6])


@pytest.mark.parametrize("variant", VARIANTS)
def test_return_all_names_what_there_is(variant):
    model = small(**variant).eval()
    out = model.outputs(crops())
    expected = {"logits"} | ({"gate"} if variant["gating"] else set())
    assert set(out) == expected | ({"extra_logits"} if variant["three_head"] else set())
    torch.testing.assert_close(model(crops()), out["logits"])


@pytest.mark.parametrize("gating", [False, True])
def test_extra_heads_classify_each_branch_alone(gating):
    """Alone means untouched by the gate and by the other branch."""
    model = small(gating=gating, three_head=True).eval()
    out = model.outputs(crops())["extra_logits"]
    assert len(out) == 2
    for logits, (name, branch) in zip(out, model.branches.items()):
        features, key = branch.forward_features(crops()), f"extra_heads.{name}"
        expected = linear(
            model.state_dict(), f"{key}.1", linear(model.state_dict(), f"{key}.0", features)
        )
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_forward_call_uses_every_parameter(variant):
    """DistributedDataParallel waits for ever for the gradient of a parameter that a step did not
    use.
    """
    model = small(**variant)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)  # zeroed ones hide what is behind them
    out = model.outputs(crops(8))
    sum(
        logits.square().sum() for logits in [out["logits"], *out.get("extra_logits", [])]
    ).backward()
    assert [
        key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_defect_7_a_batch_of_one_keeps_its_dimension(variant):
    model = small(**variant).eval()
    out, x = model.outputs(crops()[:1]), crops()
    assert out["logits"].shape == (1, 24) and model.forward_features(x[:1]).shape == (1, 192)
    assert out.get("gate", torch.zeros(1, 2)).shape == (1, 2)
    assert all(logits.shape == (1, 24) for logits in out.get("extra_logits", []))
    torch.testing.assert_close(out["logits"], model(x)[:1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_defect_15_no_module_under_two_names(variant):
    model = small(**variant)
    state = model.state_dict()
    branches = sum(len(branch.state_dict()) for branch in model.branches.values())
    assert len(state) == branches + 4 + 2 * variant["gating"] + 8 * variant["three_head"]
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    names = {key.split(".")[0] for key in state}
    assert names == {
        "signal",
        "spectrogram",
        "head",
        *["gate"] * variant["gating"],
        *["extra_heads"] * variant["three_head"],
    }


@pytest.mark.parametrize(
    "role, name, arguments",
    [
        ("signal", "xresnet1d50", {"channels": 16}),
        ("spectrogram", "spectrogram_se_resnet34", {"channels": 8}),
    ],
)
def test_defect_2_a_branch_takes_the_weights_of_a_lone_encoder(role, name, arguments):
    """Strictly: the same keys, and the features afterwards are those of the encoder."""
    torch.manual_seed(7)
    encoder = build(name, num_classes=None, **arguments).eval()
    encoder.fit_statistics([crops() * 3])
    model = small().eval()
    assert not torch.allclose(
        model.branches[role].forward_features(crops()), encoder.forward_features(crops())
    )
    model.branches[role].load_state_dict(encoder.state_dict(), strict=True)
    torch.testing.assert_close(
        model.branches[role].forward_features(crops()), encoder.forward_features(crops())
    )


def test_any_encoder_can_be_a_branch(tiny):
    model = build(
        "fusion",
        signal={"name": "tiny", "scale": 2.0},
        spectrogram={"channels": 8},
        gating=True,
        three_head=True,
        num_classes=4,
    ).eval()
    assert model.width == 5 + 64
    assert model(crops()).shape == (3, 4) and model.extra_heads["signal"][0].in_features == 5
    tail = model.forward_features(crops())[:, :5] / model.outputs(crops())["gate"][:, :1]
    torch.testing.assert_close(tail, 2 * model.signal.layer(crops().mean(-1)))
    swapped = build("fusion", signal={"channels": 16}, spectrogram={"name": "tiny"}).eval()
    assert swapped.width == 128 + 5 and swapped(crops()).shape == (3, 24)


def test_st_mem_can_be_the_signal_branch():
    """The two published systems joined: ViT tokens at 250 Hz and the spectrogram of the same
    crop.
    """
    model = build(
        "fusion",
        signal={"name": "st_mem_vit_small", "seq_len": 225, "patch_size": 75},
        spectrogram={"channels": 8, "fs": 250},
        gating=True,
    ).eval()
    out = model.outputs(crops(2, 225))
    assert (
        model.width == 384 + 64 and out["logits"].shape == (2, 24) and out["gate"].shape == (2, 2)
    )


def test_statistics_reach_both_branches_in_one_pass():
    model, seen = small(), []
    batches = [crops(4, seed=n) * 2 + 1 for n in range(3)]
    model.fit_statistics(seen.append(n) or batch for n, batch in enumerate(batches))
    assert seen == [0, 1, 2]
    for branch in model.branches.values():
        alone = branch.unstandardized(torch.cat(batches))
        torch.testing.assert_close(branch.standardize.mean, alone.flatten(2).mean((0, 2)))
        torch.testing.assert_close(
            branch.standardize.std, alone.flatten(2).std(2, correction=0).mean(0)
        )


def test_statistics_pass_by_a_branch_without_any(tiny):
    model = build("fusion", signal={"name": "tiny"}, spectrogram={"channels": 8})
    model.fit_statistics([crops()])
    assert not model.spectrogram.standardize.std.eq(1).any()


def test_statistics_that_came_with_weights_stay():
    """Only what is not fitted yet is; a frozen encoder keeps the scale that its weights were
    trained on.
    """
    model, loaded = small(), build("xresnet1d50", channels=16, num_classes=None)
    loaded.fit_statistics([crops() * 3])
    model.signal.load_state_dict(loaded.state_dict())
    before = loaded.standardize.std.clone()
    model.fit_statistics([crops()])
    assert (
        torch.equal(model.signal.standardize.std, before) and model.spectrogram.standardize.fitted
    )
    model.fit_statistics(iter(()))  # nothing is left to fit, so nothing is read


def test_without_classes_the_forward_pass_gives_joined_features():
    model = small(num_classes=None, gating=True).eval()
    torch.testing.assert_close(model(crops()), model.forward_features(crops()))


def test_double_precision_and_autocast():
    model = small(gating=True, three_head=True).eval()
    full = model(crops())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(crops()).float() - full).norm() < 0.1 * full.norm()
    torch.testing.assert_close(model.double()(crops().double()).float(), full, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"three_head": True, "num_classes": None}, "three_head needs num_classes"),
        (
            {"signal": {"num_classes": 3}},
            "model.signal: an encoder inside another model has no num_classes",
        ),
        (
            {"spectrogram": ["spectrogram_se_resnet34"]},
            "model.spectrogram is an encoder: write its name, or",
        ),
        ({"signal": {"name": "xresnet1d5"}}, "did you mean xresnet1d50"),
        ({"signal": {"chanels": 3}}, "does not take chanels"),
        ({"frozen": ["gate"]}, "give a list of signal, spectrogram$"),
        ({"frozen": "signal"}, "frozen is 'signal'; give a list"),
        ({"frozen": [{}], "gating": True}, "give a list of signal, spectrogram, gate"),
    ],
)
def test_mistakes_in_the_config_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build("fusion", **arguments)


# ---- frozen parts


def moved(frozen, mode="finetune", thaw=False, **variant):
    """Names of the parts of which a tensor changed in two training steps, as the engine makes
    them.
    """
    model = small(frozen=frozen, **variant)
    task = SupervisedTask(model, mode=mode)
    if thaw:  # freeze_epochs, then everything
        task.freeze(frozen=True)
        task.freeze(frozen=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train = TrainConfig(epochs=1, optimizer="sgd", weight_decay=0.1, decay_all=True)
    optimizer = make_optimizer(task, train, 0.1)
    for _ in range(2):
        task.train()
        optimizer.zero_grad()
        task({"signal": crops(8), "label": torch.ones(8, 24)}, {})["loss"].backward()
        optimizer.step()
    listed = {id(p) for group in optimizer.param_groups for p in group["params"]}
    learns = {id(p) for p in task.parameters() if p.requires_grad}
    assert learns <= listed and all(
        p.grad is not None for p in task.parameters() if p.requires_grad
    )
    after = model.state_dict()
    return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("thaw", [False, True])
@pytest.mark.parametrize(
    "frozen", [[], ["signal"], ["spectrogram"], ["gate"], ["signal", "spectrogram", "gate"]]
)
def test_frozen_parts_stay_bit_for_bit_and_the_others_learn(frozen, thaw):
    """Running statistics included, decay of everything or not, also after freeze_epochs."""
    parts = {"signal", "spectrogram", "gate", "head", "extra_heads"}
    assert moved(frozen, gating=True, three_head=True, thaw=thaw) == parts - set(frozen)


def test_linear_probing_trains_a_gate_unless_it_is_frozen():
    assert moved([], "linprobe", gating=True) == {"gate", "head"}
    assert moved(["gate"], "linprobe", gating=True) == {"head"}


def test_a_frozen_gate_is_loaded_with_the_branches():
    """Else it would stay at the random numbers that it started from."""
    trained, model = small(gating=True), small(gating=True, frozen=["gate"])
    nn.init.normal_(trained.gate.weight)
    assert "gate.weight" in without_heads(model, trained.state_dict())
    assert "gate.weight" not in without_heads(trained, trained.state_dict())


@pytest.mark.parametrize("variant", [{}, {"gating": True}, {"gating": True, "frozen": ["gate"]}])
def test_what_a_gate_weighs_is_predicted_whether_it_learns_or_not(variant):
    """The defect: test_gate.csv was missing where the gate was frozen."""
    model = small(**variant).eval()
    signal = crops(2)
    batch = {"counts": (1000 * signal).to(torch.int16).transpose(1, 2), "record": torch.arange(2)}
    batch["key"], batch["scale"] = batch["record"], torch.full((2,), 1e-3)
    cpu = torch.device("cpu")
    _, _, gate = predict(model, [batch], lambda x: x, np.arange(2), 24, "bce", cpu)
    assert ("gate" in model.outputs(signal)) == ("gating" in variant) == (gate is not None)


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ({}, []),
        ({"gating": True, "three_head": True}, ["gate"]),
        ({"gating": True, "frozen": ["gate"]}, []),
        ({"gating": True, "num_classes": None}, ["gate"]),
    ],
)
def test_a_gate_of_chance_is_said_where_heads_alone_are_fitted(variant, parts, capsys):
    model = small(**variant)
    assert model.fresh_on_the_way == parts
    note_chance(model)
    said = capsys.readouterr().out
    assert ("features of the encoder pass through its gate, which no file" in said) == bool(parts)


def test_branches_are_cnn_encoders_by_default():
    assert all(isinstance(branch, CNNEncoder) for branch in small().branches.values())


# ============ the gate on normalised features ============
def test_gate_norm_normalises_what_the_gate_sees_and_nothing_else():
    model = small(gating=True, gate_norm=True).eval()
    x, state = crops(), model.state_dict()
    s, p = model.signal.forward_features(x), model.spectrogram.forward_features(x)
    normal = [
        (f - f.mean(1, keepdim=True))
        / (f.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        / f.shape[1] ** 0.5
        for f in (s, p)
    ]
    assert all((each.norm(dim=1) - 1).abs().max() < 0.05 for each in normal)  # of length 1
    gate = linear(state, "gate", torch.cat(normal, 1)).softmax(1)
    torch.testing.assert_close(model.outputs(x)["gate"], gate)
    torch.testing.assert_close(
        model.forward_features(x), torch.cat([s * gate[:, :1], p * gate[:, 1:]], 1)
    )
    assert state.keys() == small(gating=True).state_dict().keys()  # weights fit both


def test_gate_norm_keeps_a_branch_of_large_features_from_ruling(tiny):
    torch.manual_seed(0)
    gates = []
    for gate_norm in (False, True):
        model = build(
            "fusion",
            signal={"name": "tiny", "scale": 1e4},
            spectrogram={"channels": 8},
            gating=True,
            gate_norm=gate_norm,
        ).eval()
        gates.append(model.outputs(crops(batch=64))["gate"][:, 0])
    saturated = [((gate < 0.01) | (gate > 0.99)).float().mean() for gate in gates]
    assert saturated[0] > 0.9 and saturated[1] < 0.1


def test_gate_norm_without_a_gate_is_refused():
    with pytest.raises(ConfigError, match="gate_norm.*set gating"):
        build("fusion", gate_norm=True)
