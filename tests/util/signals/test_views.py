"""Distribution, independence and keys of every view transform."""

import copy

import pytest
import torch

from models.methods.view_method import ViewMethod, encode_views
from tests.support.tiny_encoder import run_step, tiny_batch, tiny_encoder
from util.contract.registry import build
from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.named_arguments import SIZES
from util.signals import augmentations
from util.signals.augmentations import (
    AUGMENTATIONS,
    frame_crop,
    frequency_cutout,
    random_resized_crop,
)
from util.signals.crops import CROPPINGS
from util.signals.transforms import TRANSFORMS, RandAugment, build_pipeline
from util.signals.views import VIEW_PRESETS, Views

time_out, gaussian_noise = AUGMENTATIONS["time_out"], AUGMENTATIONS["gaussian_noise"]
time_cutout = AUGMENTATIONS["time_cutout"]
ARGUMENTS = {
    "random_resized_crop": {"ratio": [0.1, 0.5], "length": 100},
    "time_out": {"ratio": [0.2, 0.4]},
    "gaussian_noise": {"sigma": [0.005, 0.025]},
    "frame_crop": {"ratio": [0.3, 0.6], "frames": 21},
    "frequency_cutout": {},
    "time_cutout": {"ratio": [0.1, 0.35]},
}


def ones_like_input(name, batch):
    """Input of a transform without a zero in it."""
    shape = (
        (12, 250) if name in ("random_resized_crop", "time_out", "gaussian_noise") else (12, 13, 21)
    )
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(1)) + 1


def random_for(samples, start=0):
    return KeyedRandom(torch.arange(start, start + samples))


def assert_uniform(values, low, high, tolerance=0.03):
    """Mean and standard deviation of U(low, high), and no value outside."""
    values = values.double()
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    assert values.mean() == pytest.approx((low + high) / 2, abs=tolerance * (high - low))
    assert values.std() == pytest.approx((high - low) / 12**0.5, abs=tolerance * (high - low))


def windows_of(zeroed):
    """Start and width of the one run of True in every row (..., length)."""
    steps = torch.diff(
        zeroed.int(), dim=-1, prepend=torch.zeros_like(zeroed[..., :1], dtype=torch.int)
    )
    assert ((steps == 1).sum(-1) == 1).all(), "one window a row"
    return zeroed.int().argmax(-1), zeroed.sum(-1)


# ============ what holds for every transform ============
@pytest.mark.parametrize("name", ARGUMENTS)
def test_rows_depend_on_their_own_key_and_crop_alone(name):
    x = ones_like_input(name, 8)
    before = x.clone()
    whole = AUGMENTATIONS[name](x, random_for(8), **ARGUMENTS[name])
    assert torch.equal(x, before), "the input was changed"
    rows = torch.tensor([5, 2])
    assert torch.equal(
        AUGMENTATIONS[name](x[rows], KeyedRandom(rows), **ARGUMENTS[name]), whole[rows]
    )
    other = x.clone()
    other[3] = torch.randn_like(other[3])
    changed = AUGMENTATIONS[name](other, random_for(8), **ARGUMENTS[name]) != whole
    assert changed[3].any() and not changed[[0, 1, 2, 4, 5, 6, 7]].any()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_samples_with_equal_crops_get_different_views(name):
    x = ones_like_input(name, 1)
    x = x.repeat(64, *[1] * (x.ndim - 1))
    out = AUGMENTATIONS[name](x, random_for(64), **ARGUMENTS[name]).flatten(1)
    assert len(out.unique(dim=0)) > 30  # frame_crop has some 90 windows to choose from


# ============ time-out ============
def test_time_out_windows_are_uniform_in_width_and_place():
    zeroed = time_out(torch.ones(400, 12, 250), random_for(400), ratio=[0.2, 0.4]) == 0
    start, width = windows_of(zeroed)
    assert_uniform(width / 250, 0.2, 0.4)
    assert_uniform(start / (250 - width), 0, 1)


def test_time_out_is_drawn_for_each_lead_on_its_own():
    zeroed = time_out(torch.ones(2000, 12, 250), random_for(2000), ratio=[0.2, 0.4]) == 0
    start, width = windows_of(zeroed)
    place = start / (250 - width)
    for draw in (place, width.float()):
        correlation = torch.corrcoef(draw.T)
        assert (correlation - torch.eye(12)).abs().max() < 0.1
    assert abs(torch.corrcoef(torch.stack([place.flatten(), width.flatten().float()]))[0, 1]) < 0.03


def test_time_cutout_zeroes_frames_of_a_lead_at_all_frequencies():
    zeroed = time_cutout(torch.ones(2000, 12, 13, 21), random_for(2000), ratio=[0.1, 0.35]) == 0
    assert (zeroed == zeroed[:, :, :1]).all()
    start, width = windows_of(zeroed[:, :, 0])
    assert set(width.unique().tolist()) == {2, 3, 4, 5, 6, 7}
    assert_uniform(start / (21 - width), 0, 1, tolerance=0.05)
    assert (torch.corrcoef(start.float().T) - torch.eye(12)).abs().max() < 0.1


# ============ noise ============
def test_gaussian_noise_has_one_sigma_a_sample():
    noise = gaussian_noise(torch.zeros(500, 12, 250), random_for(500), sigma=[0.005, 0.025])
    assert noise.mean().abs() < 1e-4
    sigma = noise.std((1, 2))
    assert_uniform(sigma.clamp(0.005, 0.025), 0.005, 0.025, tolerance=0.06)
    assert sigma.min() > 0.0049 and sigma.max() < 0.0256
    by_lead = noise.std(2) / sigma[:, None]
    assert by_lead.sub(1).abs().max() < 0.25, "a sample's leads share its sigma"
    standard = noise / sigma[:, None, None]
    assert standard.pow(4).mean() == pytest.approx(3, abs=0.05)
    assert (torch.corrcoef(standard.transpose(0, 1).flatten(1)) - torch.eye(12)).abs().max() < 0.02


# ============ random resized crop ============
def test_random_resized_crop_of_a_ramp_shows_windows_of_uniform_width_and_place():
    ramp = torch.arange(250.0).expand(4000, 12, 250)
    out = random_resized_crop(ramp, random_for(4000), [0.1, 0.5], 100)
    assert out.shape == (4000, 12, 100)
    assert (out == out[:, :1]).all(), "leads share the window"
    step = (out[:, 0, 60] - out[:, 0, 40]) / 20  # ratio * 250 / 100
    assert_uniform(step * 100 / 250, 0.1, 0.5)
    start = out[:, 0, 50] - 50.5 * step + 0.5
    place = start / (250 - 100 * step)
    assert_uniform(place.clamp(0, 1), 0, 1)
    assert place.min() > -1e-3 and place.max() < 1 + 1e-3
    inner = out[:, 0, 1:-1].diff(dim=-1)
    assert torch.allclose(inner, step[:, None].expand_as(inner), atol=1e-3), "linear in between"


def test_random_resized_crop_of_everything_is_the_crop():
    x = torch.randn(3, 12, 250)
    assert torch.allclose(random_resized_crop(x, random_for(3), [1, 1], 250), x, atol=2e-4)


def test_random_resized_crop_is_linear_interpolation():
    """Against numpy.interp, row by row; windows and values of a short, irregular signal."""
    import numpy as np

    x = torch.randn(50, 2, 30)
    ramp = torch.arange(30.0).expand(50, 1, 30)
    both = torch.cat([x, ramp], dim=1)
    out = random_resized_crop(both, random_for(50), [0.2, 0.9], 17)
    for sample in range(50):
        for lead in range(2):
            expected = np.interp(out[sample, 2].numpy(), np.arange(30), x[sample, lead].numpy())
            assert np.allclose(out[sample, lead].numpy(), expected, atol=1e-4)


# ============ spectrogram transforms ============
def test_frame_crop_centres_uniform_windows_between_padding():
    frames = torch.arange(1.0, 22).expand(4000, 12, 13, 21)
    out = frame_crop(frames, random_for(4000), [0.3, 0.6], 21)
    assert out.shape == (4000, 12, 13, 21) and (out == out[:, :1, :1]).all()
    row = out[:, 0, 0]
    first, width = windows_of(row > 0)
    assert set(width.unique().tolist()) == set(range(6, 14))  # 6.3 and 12.6 frames, rounded
    assert torch.equal(first, (21 - width) // 2), "in the middle"
    start = row.gather(1, first[:, None])[:, 0] - 1
    place = torch.arange(21)[None] - first[:, None]
    inside = (place >= 0) & (place < width[:, None])
    assert torch.equal(row, torch.where(inside, start[:, None] + 1 + place, 0.0))
    for one in width.unique():
        places = start[width == one]
        assert set(places.int().tolist()) == set(range(21 - one + 1))
        assert places.mean() == pytest.approx((21 - one.item()) / 2, abs=1.2)


def test_time_cutout_is_a_share_of_the_content_and_lies_on_it():
    """Drawn over the padding, too, it left 45 % of the leads of local views whole."""
    content = frame_crop(torch.rand(3000, 12, 13, 21) + 1, random_for(3000), [0.3, 0.6], 21)
    first, frames = windows_of((content != 0)[:, 0, 0])
    out = time_cutout(content, random_for(3000, 9000), ratio=[0.1, 0.35])
    lost = ((out == 0) & (content != 0))[:, :, 0]
    start, width = windows_of(lost)  # one window in every lead
    assert (start >= first[:, None]).all() and (start + width <= (first + frames)[:, None]).all()
    share = width / frames[:, None]
    assert (width >= 1).all() and (width <= (0.35 * frames[:, None]).round()).all()
    assert share.mean() == pytest.approx(0.225, abs=0.01)
    assert_uniform((start - first[:, None]) / (frames[:, None] - width), 0, 1, tolerance=0.05)


def test_hidden_parts_of_spectrograms_are_the_fill_of_their_lead():
    """Also for a crop without content, and whatever the padding's value."""
    fill = torch.rand(12) + 5
    x = frame_crop(torch.rand(200, 12, 13, 21), random_for(200), [0.3, 0.6], 21, fill=fill)
    for out in (
        x,
        time_cutout(x, random_for(200), ratio=[0.1, 0.35], fill=fill),
        frequency_cutout(x, random_for(200), fill=fill),
    ):
        for lead in range(12):
            values = out[:, lead]
            assert ((values < 1) | (values == fill[lead])).all()
        assert (out == fill[:, None, None]).sum() > 0.3 * out.numel()
    lost = (time_cutout(x, random_for(200), ratio=[0.1, 0.35], fill=fill) != x)[:, :, 0]
    windows_of(lost)  # one window a lead, though the padding is not zero
    silent = time_cutout(torch.zeros(4, 12, 13, 21), random_for(4), ratio=[0.1, 0.35])
    assert not silent.any()


@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_after_standardisation_what_is_hidden_is_zero_and_every_lead_lost_content(method):
    """The published views are standardised first, so that padding and cut-outs are the mean."""
    views = VIEW_PRESETS["dino_spectrogram"]
    views = views if method == "dino" else [{**views[1], "count": 2}]
    model = build(method, encoder={"name": "spectrogram_se_resnet34", "channels": 2}, views=views)
    model.fit_statistics(iter([3 * torch.randn(50, 12, 250) + torch.arange(12.0)[:, None]]))
    assert model.encoder.standardize.mean.min() > 0.05
    seen = []
    model.encoder.standardize.register_forward_hook(lambda module, given, out: seen.append(out))
    run_step(model.train(), {**tiny_batch(samples=16), "epoch": 0.0})
    hidden = torch.cat(seen) == 0  # (view and crop, lead, frequency, frame)
    assert len(hidden) == (160 if method == "dino" else 32)
    padding = hidden.all(2).all(1)
    first, width = windows_of(~padding)
    assert torch.equal(first, (21 - width) // 2) and set(width.tolist()) <= set(range(6, 22))
    lost = hidden.all(2) & ~padding[:, None]
    _, window = windows_of(lost)
    assert ((hidden.all(3)).sum(2) == 1).all(), "one frequency a lead"
    assert (window >= 1).all() and (window <= 0.35 * width[:, None] + 0.5).all()
    shown = ~hidden.all(2)[:, :, None] & ~hidden.all(3)[..., None]
    assert not (hidden & shown).any(), "zero nowhere else"


def test_views_make_spectrograms_at_the_signals_rate():
    signal = torch.randn(3, 12, 625)
    slow, fast = (Views("dino_spectrogram", fs=fs)(signal, random_for(3))[0] for fs in (100, 250))
    assert slow.shape[2] == 13 and fast.shape[2] == 32
    with pytest.raises(ConfigError, match="says fs 100 but dataset.fs is 250"):
        Views([{"transforms": [{"spectrogram": {"fs": 100}}]}], fs=250)


def test_defect_6_frequency_cutout_is_applied():
    """One frequency row a lead is zero in all frames, drawn for each lead, each row as
    often as any other.
    """
    x = torch.ones(2000, 12, 13, 21)
    zeroed = frequency_cutout(x, random_for(2000)) == 0
    rows = zeroed.all(-1)
    assert torch.equal(zeroed, rows[..., None].expand_as(zeroed))
    assert (rows.sum(-1) == 1).all()
    row = rows.int().argmax(-1)
    share = torch.bincount(row.flatten(), minlength=13) / row.numel()
    assert (share - 1 / 13).abs().max() < 0.006
    assert (torch.corrcoef(row.float().T) - torch.eye(12)).abs().max() < 0.1


# ============ lists of views ============
@pytest.mark.parametrize(
    "specs, lengths, teacher",
    [
        ("contrastive", [250, 250], 0),
        ("dino_signal", [250] * 10, 2),
        ("dino_signal_short", [250, 250] + [100] * 8, 2),
    ],
)
def test_preset_views(specs, lengths, teacher):
    before = copy.deepcopy(VIEW_PRESETS)
    made = Views(specs)
    signal = torch.randn(4, 12, 250)
    kept = signal.clone()
    views = made(signal, random_for(4))
    assert [view.shape for view in views] == [(4, 12, length) for length in lengths]
    assert made.count == len(views) and made.global_count == teacher
    assert torch.equal(signal, kept) and before == VIEW_PRESETS
    assert all(
        not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i] if a.shape == b.shape
    )


def test_view_n_is_the_transforms_with_stream_n():
    signal, random = torch.randn(4, 12, 250), random_for(4)
    views = Views("contrastive")(signal, random)
    for n, view in enumerate(views):
        draws = random.fork("view", n)
        expected = gaussian_noise(
            time_out(signal, draws, ratio=[0.2, 0.4]), draws, sigma=[0.005, 0.025]
        )
        assert torch.equal(view, expected)
    again = Views("contrastive")(signal, random)
    assert all(torch.equal(a, b) for a, b in zip(views, again)), (
        "the batch's own generator was used up"
    )


def test_view_n_of_all_groups_has_stream_n():
    """The defect: two groups whose forks both began at 1 made the same views twice."""
    group = {"count": 2, "transforms": [{"time_out": {"ratio": [0.2, 0.4]}}]}
    signal, random = torch.randn(4, 12, 250), random_for(4)
    for groups in (
        [group, group],
        [{**group, "global": True}, {**group, "count": 3}],
        [{**group, "count": 1}, group],
    ):
        for n, view in enumerate(Views(groups)(signal, random)):
            assert torch.equal(view, time_out(signal, random.fork("view", n), ratio=[0.2, 0.4])), n


def test_global_views_come_first_whatever_the_order_in_the_file():
    made = Views(VIEW_PRESETS["dino_signal_short"][::-1])
    assert [view.shape[-1] for view in made(torch.randn(2, 12, 250), random_for(2))] == [
        250,
        250,
    ] + [100] * 8


def test_encode_views_calls_the_encoder_once_for_each_shape():
    encoder = tiny_encoder().double()
    views = [
        torch.randn(3, 12, length, dtype=torch.float64) for length in (250, 100, 250, 100, 100)
    ]
    features = encode_views(encoder, views)
    assert encoder.calls == [(6, 12, 250), (9, 12, 100)]
    for view, feature in zip(views, features):
        assert torch.allclose(encoder.forward_features(view), feature, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "entry, words",
    [
        ("cutmix", "time_out"),
        ({"time_out": {"width": 1}}, "ratio"),
        ({"time_out": None}, "ratio"),
        ({"time_out": {"ratio": [0.4, 0.2]}}, "low <= high"),
        ({"time_out": {"ratio": 0.3}}, "low <= high"),
        ({"time_out": {"ratio": [0, 2]}}, "<= 1"),
        ({"frequency_cutout": {"rows": 2}}, "no arguments"),
        ({"time_out": {"ratio": [0, 1]}, "gaussian_noise": {"sigma": [0, 1]}}, "known: cutout"),
        ({"gaussian_noise": {"sigma": "loud"}}, "a number of 0 or more, or"),
        ({"time_cutout": None}, "takes ratio"),
        (
            {"random_resized_crop": {"ratio": [0, 1], "length": 2.5}},
            "length must be a whole number of 1 or more",
        ),
        ("frequency_cutout", "put spectrogram before it"),
    ],
)
def test_a_wrong_transform_is_an_error_that_lists_what_is_known(entry, words):
    with pytest.raises(ConfigError, match=words):
        Views([{"transforms": [entry]}])


@pytest.mark.parametrize("spec", [{"counts": 2, "transforms": []}, {"count": 2}, "two", None])
def test_a_wrong_view_is_an_error_that_lists_the_keys(spec):
    with pytest.raises(ConfigError, match="count, global, transforms"):
        Views([spec])


@pytest.mark.parametrize(
    "value, words",
    [
        ({"count": 0}, "count must be a whole number of 1 or more, not 0"),
        ({"count": "two"}, "not 'two'"),
        ({"count": True}, "count must be"),
        ({"global": 1}, "global must be true or false"),
        ({"transforms": None}, "a list"),
    ],
)
def test_a_wrong_value_of_a_view_is_an_error_that_names_it(value, words):
    with pytest.raises(ConfigError, match=words):
        Views([{"transforms": [], **value}])


@pytest.mark.parametrize("value", [None, "dino", 2, {"count": 2}])
@pytest.mark.parametrize("method", ["simclr", "byol", "dino"])
def test_views_that_are_none_name_the_presets(method, value):
    with pytest.raises(ConfigError, match="dino_signal, .*dino_spectrogram or a list of views"):
        build(method, encoder="tiny_encoder", views=value)


def test_after_the_spectrogram_a_signals_transform_is_an_error():
    entries = [{"spectrogram": {"fs": 100}}, {"time_cutout": {"ratio": [0, 1]}}]
    Views([{"transforms": entries}])
    with pytest.raises(ConfigError, match="gaussian_noise works on a signal, .*before spectrogram"):
        Views([{"transforms": [*entries, {"gaussian_noise": {"sigma": 0.1}}]}])


def test_every_signal_augmentation_makes_views():
    """All entries of the registry, with the arguments of RandAugment's level 10."""
    assert {name for name, entry in AUGMENTATIONS.items() if entry.at_level(10) is None} == {
        "random_resized_crop",
        "spectrogram",
        "frame_crop",
        "frequency_cutout",
    }
    for name, entry in AUGMENTATIONS.items():
        if entry.at_level(10) is not None:
            first, second = Views([{"count": 2, "transforms": [{name: entry.at_level(10)}]}])(
                torch.randn(8, 12, 250), random_for(8)
            )
            assert first.shape == (8, 12, 250) and (
                not entry.draws or not torch.equal(first, second)
            ), name


def test_a_new_augmentation_is_one_function_with_one_decorator(monkeypatch):
    """Known at once as a view, a transform and an operation of RandAugment."""
    monkeypatch.setitem(AUGMENTATIONS, "wander", None)  # taken out again after the test

    @augmentations.augmentation()
    def wander(x, random, amplitude: SIZES):
        return x + random.uniform(1, 1)

    signal = torch.zeros(5, 12, 100)
    (view,) = Views([{"transforms": [{"wander": {"amplitude": [0, 1]}}]}])(signal, random_for(5))
    plain = build_pipeline(["", {"wander": {"amplitude": 1}}], length=100, fs=100)(
        signal, random_for(5)
    )
    chosen = RandAugment(["wander"], num_layers=1, prob=1.0)(signal, random_for(5))
    assert all(out.std() > 0.1 for out in (view, plain, chosen))
    with pytest.raises(ConfigError, match="wander: amplitude must be a number of 0 or more, or"):
        Views([{"transforms": [{"wander": {"amplitude": -1}}]}])
    with pytest.raises(ValueError, match="wander is registered already"):
        augmentations.augmentation()(wander)


def test_a_name_of_a_transform_stands_in_one_registry():
    names = [*CROPPINGS, *TRANSFORMS, *AUGMENTATIONS, RandAugment.name]
    assert len(names) == len(set(names))


def test_local_views_of_signals_are_short_windows_stretched_to_the_length_of_all():
    """Published: 25 to 125 samples shown as 250."""
    ramp = torch.arange(250.0).expand(2000, 12, 250)
    noiseless = [
        {**spec, "transforms": spec["transforms"][:1]} for spec in VIEW_PRESETS["dino_signal"]
    ]
    views = Views(noiseless)(ramp, random_for(2000))
    for number, view in enumerate(views):
        shown = 250 * (view[:, 0, 150] - view[:, 0, 100]) / 50
        assert_uniform(shown, *((125, 250) if number < 2 else (25, 125)), tolerance=0.05)


@pytest.mark.parametrize(
    "views, samples, said",
    [
        ("dino_signal", 250, False),
        ("dino_signal", 625, True),  # 2.5 s at 250 Hz
        ("dino_signal", 100, True),
        ("contrastive", 625, False),
        (
            [{"transforms": [{"random_resized_crop": {"ratio": [0.33, 0.34], "length": 250}}]}],
            750,
            False,
        ),
    ],
)
def test_views_that_never_show_the_pace_of_the_crop_are_said(views, samples, said):
    """Fine-tuning shows it, and nothing else does."""
    method = ViewMethod()
    method.views = Views(views)
    assert bool(method.remarks(samples)) is said
