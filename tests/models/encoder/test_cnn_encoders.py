"""The CNN branches against a second forward pass written from the published description, and
their statistics.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.encoder.se_resnet import SEBlock, SqueezeExcite
from models.encoder.xresnet1d import DEPTHS, Block
from util.contract.registry import build
from util.errors import ConfigError, ECGError
from util.signals.standardize import LeadStandardize

NAMES = ("xresnet1d50", "spectrogram_se_resnet34")
torch.set_num_threads(1)


def small(name, **arguments):
    """A narrow network with nothing left at a value that hides a mistake: running statistics,
    zeroed weights.
    """
    torch.manual_seed(0)
    model = build(name, **{"channels": 16, **arguments})
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.uniform_(model.standardize.mean, -1, 1)
    nn.init.uniform_(model.standardize.std, 0.5, 2)
    return model


def crops(batch=2, samples=250, leads=12, seed=1):
    return torch.randn(batch, leads, samples, generator=torch.Generator().manual_seed(seed))


class Literal:
    """Functional layers that read a state dict, for forward passes written out from the papers."""

    def __init__(self, model):
        self.weights = model.state_dict()

    def conv(self, x, key, stride=1):
        w = self.weights[key + ".weight"]
        convolve = F.conv1d if w.ndim == 3 else F.conv2d
        return convolve(x, w, self.weights.get(key + ".bias"), stride, w.shape[-1] // 2)

    def norm(self, x, key):
        w = {
            part: self.weights[f"{key}.{part}"].view((1, -1) + (1,) * (x.ndim - 2))
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        return (x - w["running_mean"]) / (w["running_var"] + 1e-5).sqrt() * w["weight"] + w["bias"]

    def conv_norm(self, x, key, stride=1):
        return self.norm(self.conv(x, key + ".0", stride), key + ".1")

    def standardize(self, x):
        lead = (1, -1) + (1,) * (x.ndim - 2)
        return (x - self.weights["standardize.mean"].view(lead)) / self.weights[
            "standardize.std"
        ].view(lead)


def literal_xresnet1d(model, x, depths=(3, 4, 6, 3), strided=1, last=2):
    """``strided``, ``last``: which convolution of a block's path strides, which is followed by no
    ReLU.
    """
    net = Literal(model)
    x = net.standardize(x)
    for index, stride in enumerate((2, 1, 1)):
        x = net.conv_norm(x, f"stem.{index}", stride).relu()
    x = F.max_pool1d(x, 3, 2, 1)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            key = f"stages.{stage}.{block}"
            path = x
            for i in range(last + 1):
                path = net.conv_norm(path, f"{key}.path.{i}", stride if i == strided else 1)
                path = path if i == last else path.relu()
            if stride == 2:  # mean of neighbours; an odd last one stands alone
                pairs = [x[..., i : i + 2].mean(-1) for i in range(0, x.shape[-1], 2)]
                x = torch.stack(pairs, -1)
            if f"{key}.shortcut.0.0.weight" in net.weights:
                x = net.conv_norm(x, f"{key}.shortcut.0")
            x = (path + x).relu()
    features = torch.cat([x.max(-1).values, x.mean(-1)], 1)
    for layer in ("head.0", "head.1"):
        features = features @ net.weights[layer + ".weight"].T + net.weights[layer + ".bias"]
    return features


def literal_se_resnet34(model, x):
    net = Literal(model)
    x = net.standardize(model.spectrogram(x))
    x = net.norm(net.conv(x, "stem.0", 2), "stem.1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            key = f"stages.{stage}.{block}"
            path = net.norm(net.conv(x, f"{key}.path.0", stride), f"{key}.path.1").relu()
            path = net.norm(net.conv(path, f"{key}.path.3"), f"{key}.path.4")
            hidden = (path.mean((2, 3)) @ net.weights[f"{key}.path.5.squeeze.weight"].T).relu()
            scale = 1 / (1 + torch.exp(-hidden @ net.weights[f"{key}.path.5.excite.weight"].T))
            if stride == 2:
                x = net.conv_norm(x, f"{key}.shortcut", 2)
            x = (path * scale[:, :, None, None] + x).relu()
    features = x.mean((2, 3))
    for layer in ("head.0", "head.1"):
        features = features @ net.weights[layer + ".weight"].T + net.weights[layer + ".bias"]
    return features


@pytest.mark.parametrize(
    "name, literal",
    [("xresnet1d50", literal_xresnet1d), ("spectrogram_se_resnet34", literal_se_resnet34)],
)
def test_equals_the_literal_network(name, literal):
    model = small(name).double().eval()
    x = crops().double()
    torch.testing.assert_close(model(x), literal(model, x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "name, depths", [("xresnet1d18", (2, 2, 2, 2)), ("xresnet1d34", (3, 4, 6, 3))]
)
def test_basic_blocks_equal_the_literal_network(name, depths):
    model = small(name).double().eval()
    x = crops(samples=117).double()
    assert model.width == 32 and not [key for key in model.state_dict() if "shortcut" in key]
    expected = literal_xresnet1d(model, x, depths, strided=0, last=1)
    torch.testing.assert_close(model(x), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "name, depths", [("xresnet1d101", (3, 4, 23, 3)), ("xresnet1d152", (3, 8, 36, 3))]
)
def test_deep_networks_equal_the_literal_network(name, depths):
    model = small(name, channels=4).double().eval()
    x = crops(samples=100).double()
    torch.testing.assert_close(model(x), literal_xresnet1d(model, x, depths), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_has_the_published_sizes(name):
    """Kernels of a path, features, and the layers that the name counts: stem (as one), paths,
    head.
    """
    with torch.device("meta"):
        model = build(name, num_classes=None)
    basic = name in ("xresnet1d18", "xresnet1d34")
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        assert [part[0].kernel_size[0] for part in block.path] == ([5, 5] if basic else [1, 5, 1])
    assert model.width == (128 if basic else 512)
    assert 1 + len(blocks) * (2 if basic else 3) + 1 == int(name.removeprefix("xresnet1d"))


def stage_shapes(model, x):
    shapes = []
    for module in (model.stem, *model.stages):
        module.register_forward_hook(
            lambda _module, _inputs, output: shapes.append(tuple(output.shape))
        )
    model.eval()(x)
    return shapes


def test_xresnet1d50_has_the_published_shapes():
    shapes = stage_shapes(build("xresnet1d50"), crops(2))
    assert shapes == [(2, 64, 63), (2, 256, 63), (2, 256, 32), (2, 256, 16), (2, 256, 8)]


def test_se_resnet34_has_the_published_shapes():
    shapes = stage_shapes(build("spectrogram_se_resnet34"), crops(2))
    assert shapes == [(2, 64, 4, 6), (2, 64, 4, 6), (2, 128, 2, 3), (2, 256, 1, 2), (2, 512, 1, 1)]


def test_xresnet1d50_stem_is_the_published_one():
    stem = [m for m in build("xresnet1d50").stem.modules() if isinstance(m, nn.Conv1d)]
    described = [
        (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.bias is not None)
        for c in stem
    ]
    assert described == [(12, 32, 5, 2, True), (32, 32, 5, 1, False), (32, 64, 5, 1, False)]


def test_parameter_counts_follow_from_the_description():
    stem = 12 * 32 * 5 + 32 + 32 * 32 * 5 + 32 * 64 * 5 + 2 * (32 + 32 + 64)
    # middle and last convolution, three norms
    inner = 64 * 64 * 5 + 64 * 256 + 2 * (64 + 64 + 256)
    blocks = (
        16 * inner + 64 * 64 + 15 * 256 * 64 + 64 * 256 + 2 * 256
    )  # first convolutions, the one shortcut
    head = 512 * 256 + 256 + 256 * 24 + 24
    count = sum(p.numel() for p in build("xresnet1d50").parameters())
    assert count == stem + blocks + head

    total = 12 * 64 * 49 + 2 * 64 + head
    inputs = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        total += depth * (2 * 2 * width + 2 * width * width // 16)  # norms, squeeze and excite
        total += 9 * (inputs * width + (2 * depth - 1) * width * width)
        total += inputs * width + 2 * width if inputs != width else 0  # shortcut
        inputs = width
    assert sum(p.numel() for p in build("spectrogram_se_resnet34").parameters()) == total


@pytest.mark.parametrize(
    "name, tensors",
    [
        ("xresnet1d50", 2 + (3 * 6 + 1) + 16 * 18 + 6 + 4),
        ("spectrogram_se_resnet34", 2 + 6 + 16 * 14 + 3 * 6 + 4),
    ],
)
def test_defect_15_no_module_under_two_names(name, tensors):
    """A tensor a key: statistics, stem, blocks, shortcuts and head, nothing twice."""
    state = build(name).state_dict()
    assert len(state) == tensors
    assert len({value.data_ptr() for value in state.values()}) == tensors
    assert {key.split(".")[0] for key in state} == {"standardize", "stem", "stages", "head"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [100, 101, 117, 250, 1000])
def test_any_length_from_a_local_crop_up(name, samples):
    model = small(name)
    assert model(crops(2, samples)).shape == (2, 24)  # in training mode, as DINO's student
    assert model.eval().forward_features(crops(2, samples)).shape == (2, model.width)


@pytest.mark.parametrize("name", NAMES)
def test_defect_7_a_batch_of_one_keeps_its_dimension(name):
    model = small(name).eval()
    x = crops(3)
    alone = torch.cat([model(row[None]) for row in x])
    assert model(x[:1]).shape == (1, 24) and model.forward_features(x[:1]).shape == (1, model.width)
    torch.testing.assert_close(alone, model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_without_classes_the_forward_pass_gives_features(name):
    model = build(name, num_classes=None).eval()
    x = crops(1)
    assert model.width == 512 and isinstance(model.head, nn.Identity)
    torch.testing.assert_close(model(x), model.forward_features(x))


@pytest.mark.parametrize("name", NAMES)
def test_maxima_stand_before_averages_and_pooling_is_over_everything(name):
    model = small(name).eval()
    caught = []
    model.stages.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    features = model.forward_features(crops())
    x = caught[0].flatten(2)
    expected = torch.cat([x.amax(2), x.mean(2)], 1) if name == "xresnet1d50" else x.mean(2)
    torch.testing.assert_close(features, expected)


def test_squeeze_and_excitation_formula():
    torch.manual_seed(0)
    module = SqueezeExcite(32)
    assert module.squeeze.weight.shape == (2, 32)  # reduction 16
    x = torch.randn(2, 32, 3, 5)
    w1, w2 = module.squeeze.weight, module.excite.weight
    for b in range(2):
        z = torch.stack([x[b, c].sum() / 15 for c in range(32)])
        s = torch.sigmoid(w2 @ torch.clamp(w1 @ z, min=0))
        for c in range(32):
            torch.testing.assert_close(module(x)[b, c], x[b, c] * s[c])


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name):
    model = small(name)
    model(crops(4)).square().sum().backward()
    assert [
        key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


# ---- weights from scratch


def test_every_signal_block_starts_as_its_shortcut():
    torch.manual_seed(0)
    block = build("xresnet1d50", channels=16).stages[1][0].eval()
    x = crops(2, 31, leads=64).relu()
    assert isinstance(block, Block) and block.path[1][1].weight.std() > 0
    torch.testing.assert_close(block(x), F.avg_pool1d(x, 2, ceil_mode=True))


@pytest.mark.parametrize("name", NAMES)
def test_weights_from_scratch_are_xavier_normal(name):
    torch.manual_seed(0)
    model = build(name)
    zeroed = {
        id(block.last_norm) for block in model.modules() if isinstance(block, Block | SEBlock)
    }
    assert len(zeroed) == 16
    scales, norms = [], []
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)) and module.weight.numel() > 5000:
            fan_out, fan_in = np.array(module.weight.shape[:2]) * np.prod(module.weight.shape[2:])
            scales.append(module.weight.std().item() / np.sqrt(2 / (fan_in + fan_out)))
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.bias.eq(0).all()
            if id(module) in zeroed:
                assert module.weight.eq(0).all()
            else:
                norms.append(module.weight)
    np.testing.assert_allclose(scales, 1, atol=0.05)
    norms = torch.cat(norms)
    assert abs(norms.mean() - 1) < 0.002 and abs(norms.std() - 0.02) < 0.002


def starts(name, init):
    """A network under seed 0 and the weights of its blocks' last BatchNorms."""
    torch.manual_seed(0)
    model = build(name, channels=16, init=init)
    blocks = [module for module in model.modules() if isinstance(module, Block | SEBlock)]
    return model, torch.cat([block.last_norm.weight for block in blocks])


@pytest.mark.parametrize("name", NAMES)
def test_published_start_redraws_the_last_norm_of_each_block(name):
    """Issue: published scratch, SimCLR and DINO lose the zeros; ours keeps them unless asked."""
    model, norms = starts(name, "published")
    assert abs(norms.mean() - 1) < 0.005 and abs(norms.std() - 0.02) < 0.005
    assert starts(name, "shortcut")[1].abs().max() == 0
    biases = [
        m.bias
        for m in model.modules()
        if isinstance(m, (nn.Conv1d, nn.Conv2d)) and m.bias is not None
    ]
    assert len(biases) == (name == "xresnet1d50")
    assert all(0.5 < bias.std() < 1.6 for bias in biases)  # N(0, 1), the stem's
    assert not any(
        m.bias.any() for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("init", ["shortcut", "published"])
def test_biases_of_linear_layers_start_as_pytorchs(name, init):
    for layer in starts(name, init)[0].head:
        bound = layer.in_features**-0.5
        assert 0.5 * bound < layer.bias.abs().max() <= bound


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_starts_as_its_shortcut_does_so_by_its_last_norm(name):
    """``last_norm`` is the one whose zero silences the path, in every kind of block."""
    model = small(name).eval()
    for block in model.modules():
        if isinstance(block, Block | SEBlock):
            nn.init.zeros_(block.last_norm.weight)
            nn.init.zeros_(block.last_norm.bias)
            size = (6, 5) if isinstance(block, SEBlock) else (11,)
            x = torch.randn(2, next(block.parameters()).shape[1], *size)
            torch.testing.assert_close(block(x), block.shortcut(x).relu())
            nn.init.ones_(block.last_norm.weight)
            assert not block(x).equal(block.shortcut(x).relu())


def test_another_start_is_a_config_error():
    with pytest.raises(ConfigError, match="init: 'zeros' is not one of shortcut, published"):
        build("xresnet1d18", init="zeros")


# ---- standardisation


def test_statistics_equal_numpy_over_the_joined_batches():
    """Batches of different sizes; offsets of 1000 mV would cost a float32 sum, or a sum of
    squares, its digits.
    """
    rng = np.random.default_rng(0)
    batches = [
        rng.normal(
            loc=np.linspace(-1000, 1000, 12)[:, None],
            scale=np.linspace(0.01, 2, 12)[:, None],
            size=(n, 12, 250),
        ).astype(np.float32)
        for n in (7, 1, 32)
    ]
    model = build("xresnet1d50", channels=16).double()
    model.fit_statistics(torch.from_numpy(b) for b in batches)  # a generator: one pass
    joined = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(model.standardize.mean, joined.mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(model.standardize.std, joined.std(2).mean(0), rtol=1e-9)


def test_one_artefact_hardly_moves_the_statistics():
    """400 records of 0.2 mV, one of which swings by 20 mV: pooled, the standard deviation would
    be five times as large.
    """
    x = crops(400) * 0.2
    clean, spoilt = build("xresnet1d50", channels=16), build("xresnet1d50", channels=16)
    clean.fit_statistics([x])
    x[7, 2] = torch.where(torch.arange(250) % 50 < 25, 20.0, -20.0)
    spoilt.fit_statistics([x])
    assert 1.1 < spoilt.standardize.std[2] / clean.standardize.std[2] < 1.3
    assert x[:, 2].std() > 4 * clean.standardize.std[2]


def test_spectrogram_statistics_are_per_lead_over_frequencies_and_frames():
    batches = [crops(n, seed=n) * torch.arange(1.0, 13)[:, None] for n in (3, 5)]
    model = build("spectrogram_se_resnet34", channels=8)
    model.fit_statistics(iter(batches))
    joined = torch.cat([model.spectrogram(b) for b in batches]).double().numpy()
    np.testing.assert_allclose(model.standardize.mean, joined.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(model.standardize.std, joined.std((2, 3)).mean(0), rtol=1e-6)


def test_a_fitted_model_standardises_its_training_crops():
    x = crops(16) * 3 + 5
    model = build("xresnet1d50", channels=16)
    model.fit_statistics([x])
    y = model.standardize(x)
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(2, correction=0).mean(0), torch.ones(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_flat_lead_never_divides_by_zero(name):
    x = crops(4)
    x[:, 3] = 0.7 if name == "xresnet1d50" else 0.0  # the spectrogram of 0.7 mV has edges
    model = build(name, channels=8)
    model.fit_statistics([x])
    assert model.standardize.std[3] == 1 and model.standardize.std[2] != 1
    assert model.eval()(x).isfinite().all()
    assert model.standardize(model.unstandardized(x))[:, 3].abs().max() < 1e-6
    assert model(crops(4)).isfinite().all()  # and one that is not flat there


def test_statistics_are_saved_with_the_weights():
    model, other = build("xresnet1d50", channels=16), build("xresnet1d50", channels=16)
    model.fit_statistics([crops() + 4])
    other.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(crops()), model.eval()(crops()), atol=0, rtol=0)
    assert (other.standardize.mean - 4).abs().max() < 0.5


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "no training crops"),
        ([torch.zeros(2, 8, 250)], "8 leads for a model of 12"),
        ([torch.full((2, 12, 250), float("nan"))], "not finite"),
    ],
)
def test_statistics_of_unusable_crops_are_refused(batches, message):
    model = build("xresnet1d50", channels=16)
    with pytest.raises(ECGError, match=message):
        model.fit_statistics(batches)
    assert model.standardize.mean.eq(0).all() and model.standardize.std.eq(1).all()


def test_a_single_lead_model_refuses_twelve():
    with pytest.raises(ValueError, match="num_leads"):
        LeadStandardize(1)(crops())
    assert build("xresnet1d50", num_leads=1, channels=16).eval()(crops(leads=1)).shape == (2, 24)


# ---- input of the spectrogram branch


def test_a_ready_spectrogram_gives_the_same_features():
    model = small("spectrogram_se_resnet34").eval()
    x = crops()
    torch.testing.assert_close(
        model.forward_features(model.spectrogram(x)), model.forward_features(x), atol=0, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_forward_under_autocast_is_close(name):
    model = small(name).eval()
    x = crops()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(x)
    full = model(x)
    assert (low.float() - full).norm() < 0.1 * full.norm()


def test_se_block_halves_only_where_it_strides():
    assert SEBlock(16, 16, 1)(torch.randn(2, 16, 4, 6)).shape == (2, 16, 4, 6)
    assert SEBlock(16, 32, 2)(torch.randn(2, 16, 5, 7)).shape == (2, 32, 3, 4)
