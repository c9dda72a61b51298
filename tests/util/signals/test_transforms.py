"""Device transforms against scipy's per-sample pipeline, recorded numbers, and literal
augmentations.

``tests/golden/st_mem.json`` holds what the published transforms gave for numpy's standard
normals, and the ranges that 20,000 of their random draws covered.
"""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch

from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.named_arguments import COUNT
from util.signals.augmentations import AUGMENTATIONS, Augmentation
from util.signals.crops import Cropping
from util.signals.filters import CropFilter, _baseline, _ramps
from util.signals.transforms import RandAugment, Standardize, build_pipeline

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "st_mem.json").read_text())[
    "transforms"
]
MEASURED = GOLDEN["stochastic_measured"]
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real_ecg"
HIGH, LOW = ("highpass", 0.67, 250.0, 5), ("lowpass", 40.0, 250.0, 5)
PUBLISHED = [
    {"random_crop": {"crop_length": 2250}},
    {"highpass_filter": {"fs": 250, "cutoff": 0.67}},
    {"lowpass_filter": {"fs": 250, "cutoff": 40}},
    {"standardize": {"axis": [-1, -2]}},
]
PUBLISHED_OPS = [
    "shift",
    "cutout",
    "drop",
    "flip",
    "erase",
    "sine",
    "square",
    "white_noise",
    "partial_sine",
    "partial_square",
    "partial_white_noise",
    "rlm",
]
OPS = ["shift", "cutout", "drop", "flip", "erase", "sine", "partial_sine", "partial_white_noise"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def augmented(name, x, random, level):
    """The operation of RandAugment at this level."""
    entry = AUGMENTATIONS[name]
    return entry(x, random, **entry.at_level(level))


def keyed(n, seed=0):
    return KeyedRandom(torch.arange(n) * 7919 + seed)


# ============ signals ============
def simple_ecg(leads=12, samples=2500, fs=250):
    """Beats of Gaussian waves, another gain for each lead, in mV."""
    t = np.arange(samples) / fs
    phase = (t * 1.2) % 1
    waves = sum(
        a * np.exp(-(((phase - m) / s) ** 2) / 2)
        for a, m, s in [
            (0.1, 0.2, 0.03),
            (-0.1, 0.37, 0.01),
            (1.0, 0.4, 0.012),
            (-0.2, 0.43, 0.012),
            (0.3, 0.65, 0.05),
        ]
    )
    return waves * np.linspace(-0.6, 1.5, leads)[:, None]


def signals(length):
    """{kind: float64 (12, length)}."""
    random, t = np.random.default_rng(1), np.arange(length) / 250
    ecg = simple_ecg(samples=length)
    return {
        "noise": random.standard_normal((12, length)),
        "drift": ecg + 2 * np.sin(2 * np.pi * 0.1 * t + np.arange(12)[:, None]) + 0.3 * t,
        "wild drift": ecg + 15 * np.sin(2 * np.pi * 0.1 * t + np.arange(12)[:, None]),
        "offset": ecg + np.linspace(-5, 5, 12)[:, None],
        "step": ecg + 3 * (t > t[-1] / 2),
        "ecg": ecg,
    }


def with_scipy(x, filters):
    for kind, cutoff, fs, order in filters:
        x = scipy.signal.sosfiltfilt(
            scipy.signal.butter(order, cutoff, kind, fs=fs, output="sos"), x, axis=-1
        )
    return x


def standardized(x):
    return (x - x.mean()) / x.std()


def filtered(x, filters):
    return CropFilter(x.shape[-1], filters)(torch.from_numpy(x)[None].float())[0].double().numpy()


# ============ filters ============
@pytest.mark.parametrize(
    "filters", [[HIGH], [LOW], [HIGH, LOW], [LOW, HIGH]], ids=["high", "low", "both", "low-high"]
)
@pytest.mark.parametrize("length", [19, 60, 250, 1000, 2250, 2251])
def test_filters_equal_scipys_on_every_kind_of_signal(length, filters):
    """Within 2e-6 of the signal's size: float32 rounds the input."""
    for kind, x in signals(length).items():
        want = with_scipy(x, filters)
        assert np.abs(filtered(x, filters) - want).max() < 2e-6 * max(1, np.abs(x).max()), kind


@pytest.mark.parametrize(
    "fs, cutoffs, length", [(100, (0.67, 40), 250), (100, (0.5, 45), 1000), (500, (0.5, 100), 2500)]
)
def test_filters_at_other_rates_and_cutoffs(fs, cutoffs, length):
    filters = [("highpass", cutoffs[0], float(fs), 5), ("lowpass", cutoffs[1], float(fs), 5)]
    for kind, x in signals(length).items():
        assert np.abs(filtered(x, filters) - with_scipy(x, filters)).max() < 2e-5 * max(
            1, np.abs(x).max()
        ), kind


@pytest.mark.parametrize("order", [1, 2, 4])
def test_filters_of_other_orders(order):
    filters = [("highpass", 0.67, 250.0, order), ("lowpass", 40.0, 250.0, order)]
    x = signals(1000)["drift"]
    assert np.abs(filtered(x, filters) - with_scipy(x, filters)).max() < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("length", [4500, 5000])
def test_filters_on_long_crops(length):
    for x in signals(length).values():
        assert np.abs(filtered(x, [HIGH, LOW]) - with_scipy(x, [HIGH, LOW])).max() < 1e-5 * max(
            1, np.abs(x).max()
        )


def test_the_crop_is_filtered_not_the_record():
    """Filtering before cropping differs by 31 % in the first and last second (spec): the ends
    must show it.
    """
    x = signals(2500)["drift"]
    whole = with_scipy(x, [HIGH, LOW])[:, 125:2375]
    crop = filtered(x[:, 125:2375], [HIGH, LOW])
    difference = np.linalg.norm(whole - crop, axis=0)
    assert difference[:250].mean() > 5 * difference[1000:1250].mean()


def test_a_flat_lead_comes_out_as_exact_zeros():
    """A constant's rounding error, standardised lead by lead, would be noise of standard
    deviation 1.
    """
    x = torch.from_numpy(signals(2250)["ecg"]).float()[None].clone()
    x[0, 3], x[0, 7] = 1.2345, 0.0
    for step in ("highpass_filter", "lowpass_filter"):
        transforms = [PUBLISHED[0], {step: {"cutoff": 5}}, {"standardize": {"axis": -1}}]
        out = build_pipeline(transforms, length=2250, fs=250)(x)
        assert not out[0, 3].any() and not out[0, 7].any()
        assert out[0, 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "transforms", [[{"highpass_filter": {"cutoff": 0.67}}], [{"lowpass_filter": {"cutoff": 40}}]]
)
def test_an_electrode_offset_of_hundred_millivolts_costs_no_digits(transforms):
    x = signals(2250)["ecg"]
    out = build_pipeline([PUBLISHED[0], *transforms], length=2250, fs=250)
    level = torch.from_numpy(x)[None].float()
    moved = (level + 128) - 128  # what float32 keeps beside the offset
    assert (
        out(level + 128) - 128 * (transforms[0].get("lowpass_filter") is not None) - out(moved)
    ).abs().max() < 2e-5


@pytest.mark.parametrize("filters", [[HIGH, LOW], [HIGH]], ids=["both", "high"])
@pytest.mark.parametrize(
    "kind, bound",
    [
        ("none", 4e-6),
        ("line of 10 mV", 4e-6),
        ("wave of 0.1 Hz", 4e-6),
        ("wave of 0.3 Hz", 1.5e-5),
        ("offset of 100 mV", 4e-6),
        ("all", 1.5e-5),
        ("step of 10 mV", 4e-6),
        ("step of 100 mV", 4e-6),
    ],
)
def test_a_wandering_baseline_costs_float32_no_digits(filters, kind, bound):
    """The largest error, as a share of the standard deviation of what the filter leaves.
    Computed in float32 without the split of the baseline it is 2e-5 for a line or a wave of 10
    mV, and 3e-4 for an offset of 100 mV.
    """
    t, lead = np.arange(2250) / 250, np.arange(12)[:, None]
    wander = {
        "none": 0 * t,
        "line of 10 mV": 10 * t / 9 * (lead - 5) / 6,
        "offset of 100 mV": lead - 100,
        **{f"wave of {f} Hz": 5 * np.sin(2 * np.pi * f * t + lead) for f in (0.1, 0.3)},
    }
    wander["all"] = sum(wander.values())
    wander |= {f"step of {size} mV": size * (t > 4.5) for size in (10, 100)}
    x = (simple_ecg(samples=2250) + wander[kind]).astype(np.float32)
    want = with_scipy(x.astype(float), filters)
    assert np.abs(filtered(x, filters) - want).max() < bound * want.std()


def test_the_baseline_that_is_taken_out_is_exact():
    """In float32 as in float64: it is the chain of lines through the knots, without any
    rounding.
    """
    drifting = np.stack(
        [*signals(2250)["wild drift"], *(signals(2250)["drift"] + 100), np.full(2250, 0.1)]
    )
    x = torch.from_numpy(drifting).float()
    steps, baseline = _baseline(x, 2304)
    baseline = baseline[:, :2250]
    first = baseline[:, :1].double().numpy()
    assert np.array_equal(
        first + steps.double().numpy() @ _ramps(2250).T, baseline.double().numpy()
    )
    assert torch.equal(baseline[-1], x[-1]) and (x - baseline).abs().max() < 3


def test_the_filter_is_exact_under_autocast_and_reduced_matrix_precision():
    x = torch.from_numpy(signals(2250)["drift"])[None].float()
    pipeline = build_pipeline(PUBLISHED, length=2250, fs=250)
    want = pipeline(x)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(pipeline(x), want)
        assert torch.get_float32_matmul_precision() == "medium"  # and left as it was
    finally:
        torch.set_float32_matmul_precision(before)
    assert (
        np.abs(want[0].numpy() - standardized(with_scipy(x[0].double().numpy(), [HIGH, LOW]))).max()
        < 1e-5
    )


def test_the_filter_leaves_torchs_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    CropFilter(777, [HIGH, LOW])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_filter_refuses_another_length():
    with pytest.raises(ValueError, match="made for 500 samples, not 400"):
        CropFilter(500, [HIGH])(torch.zeros(1, 12, 400))


# ============ whole preprocessing ============
@pytest.mark.parametrize("kind", ["noise", "drift", "wild drift", "offset", "step", "ecg"])
def test_published_preprocessing_equals_scipys_per_sample_result(kind):
    x = signals(2250)[kind].astype(np.float32).astype(float)
    got = (
        build_pipeline(PUBLISHED, length=2250, fs=250)(torch.from_numpy(x)[None].float())[0]
        .double()
        .numpy()
    )
    assert np.abs(got - standardized(with_scipy(x, [HIGH, LOW]))).max() < 1e-5


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the real recordings (../shared/data/real_ecg) are not here"
)
def test_published_preprocessing_equals_scipys_on_real_recordings():
    from util.formats.wfdb_files import find_headers, read_record

    pipeline = build_pipeline(PUBLISHED, length=2250, fs=250)
    checked = 0
    for path in sorted(map(str, find_headers(REAL)))[::40]:
        record = read_record(path)
        x, fs = record.signal.T.astype(float), record.fs
        x = scipy.signal.resample(x, int(x.shape[1] * 250 / fs), axis=-1) if fs != 250 else x
        x = x[:, :2250].astype(np.float32)
        got = pipeline(torch.from_numpy(x)[None])[0].double().numpy()
        assert np.abs(got - standardized(with_scipy(x.astype(float), [HIGH, LOW]))).max() < 1e-5, (
            path
        )
        checked += 1
    assert checked > 30


def golden_signal():
    """The recorded input at 250 Hz, float64 (12, 2500)."""
    return scipy.signal.resample(
        np.random.default_rng(0).standard_normal((12, 5000)), 2500, axis=-1
    )


def check_golden(name, got, atol=1e-5):
    want = GOLDEN["ops"][name]
    want = want.get("output", want)
    got = np.asarray(got, dtype=float)
    assert list(got.shape) == want["shape"]
    first, last = (got, got) if got.ndim == 2 else (got[0], got[0])
    for key, values in (
        ("row0_first8", first[0, :8]),
        ("row0_last8", last[0, -8:]),
        ("row7_first8", first[7, :8]),
        ("row7_last8", last[7, -8:]),
    ):
        np.testing.assert_allclose(values, want[key], atol=atol, rtol=0, err_msg=f"{name} {key}")
    if got.ndim == 3:
        np.testing.assert_allclose(got[-1][0, :8], want["last_segment_row0_first8"], atol=atol)
        np.testing.assert_allclose(got[-1][7, -8:], want["last_segment_row7_last8"], atol=atol)
        np.testing.assert_allclose(got.mean(axis=(1, 2)), want["segment_means"], atol=atol)
        np.testing.assert_allclose(got.std(axis=(1, 2)), want["segment_stds"], atol=atol)
    assert got.mean() == pytest.approx(want["mean"], abs=1e-6) and got.std() == pytest.approx(
        want["std"], abs=1e-5
    )


@pytest.mark.parametrize(
    "name, transforms",
    [
        ("highpass_0.67_on_resampled", [{"highpass_filter": {"cutoff": 0.67}}]),
        ("lowpass_40_on_resampled", [{"lowpass_filter": {"cutoff": 40}}]),
        (
            "highpass_then_lowpass_on_resampled",
            [{"highpass_filter": {"cutoff": 0.67}}, {"lowpass_filter": {"cutoff": 40}}],
        ),
        ("standardize_axis_-1_-2_after_filters", [*PUBLISHED[1:3], "standardize"]),
        ("standardize_axis_-1_after_filters", [*PUBLISHED[1:3], {"standardize": {"axis": -1}}]),
        ("standardize_axis_-1_-2_on_resampled", [{"standardize": {"axis": [-1, -2]}}]),
    ],
)
def test_preprocessing_equals_the_recorded_arrays(name, transforms):
    pipeline = build_pipeline(
        [{"random_crop": {"crop_length": 2500}}, *transforms], length=2500, fs=250
    )
    check_golden(name, pipeline(torch.from_numpy(golden_signal())[None].float())[0])


@pytest.mark.parametrize(
    "name, cropping, filters",
    [
        ("center_crop_2250", Cropping("center", 2250), False),
        ("center_crop_hp_lp_std_on_resampled", Cropping("center", 2250), True),
        ("moving_window_crop_1000_stride_300", Cropping("moving", 1000, stride=300), False),
        ("eval_pipeline_ncrop_hp_lp_std_on_resampled", Cropping("segments", 2250, count=3), True),
    ],
)
def test_evaluation_crops_equal_the_recorded_arrays(name, cropping, filters):
    x = torch.from_numpy(golden_signal()).float()
    starts = cropping.starts(2500).tolist()
    assert starts == GOLDEN["ops"][name].get("starts", starts)
    crops = torch.stack([x[:, start : start + cropping.length] for start in starts])
    if filters:
        crops = build_pipeline(PUBLISHED, length=cropping.length, fs=250)(crops)
    check_golden(name, crops[0] if cropping.kind == "center" else crops)


# ============ standardisation ============
@pytest.mark.parametrize("axis", [[-1, -2], -1, -2, [-1]])
def test_standardisation_by_its_definition(axis):
    x = torch.randn(3, 4, 50, dtype=torch.float64) * 2 + 1
    got = Standardize(axis)(x)
    along = tuple(axis) if isinstance(axis, list) else axis
    for sample, out in zip(x.numpy(), got.numpy()):
        want = (sample - sample.mean(axis=along, keepdims=True)) / sample.std(
            axis=along, keepdims=True
        )
        np.testing.assert_allclose(out, want, atol=1e-12)


def test_a_constant_becomes_zero_alone_and_all_together():
    assert GOLDEN["ops"]["standardize_axis_-1_with_constant_row_3"]["row3_all_zero"]
    x = torch.randn(2, 12, 100)
    x[:, 3] = 1e4 / 3
    assert not Standardize(-1)(x)[:, 3].any() and Standardize(-1)(x)[:, 2].std() > 0.9
    assert not Standardize()(torch.full((2, 12, 100), 0.1)).any()


@pytest.mark.parametrize("axis", [[-1, -3], 0, [], "time", None])
def test_standardisation_refuses_other_axes(axis):
    with pytest.raises(ConfigError, match="axis must be -1"):
        build_pipeline([PUBLISHED[0], {"standardize": {"axis": axis}}], length=2250, fs=250)


# ============ augmentations: the recorded deterministic ones ============
@pytest.mark.parametrize("level", [5, 10])
@pytest.mark.parametrize("name", ["sine", "square"])
def test_sine_and_square_equal_the_recorded_arrays(name, level):
    x = torch.from_numpy(golden_signal())[None]
    got = augmented(name, x, keyed(1), level)[0].numpy()
    want = GOLDEN["ops"][f"{name}_level_{level}"]
    check_golden(f"{name}_level_{level}", got, atol=1e-6)
    noise = got - golden_signal()
    np.testing.assert_allclose(noise[5, :8], want["noise_first8"], atol=1e-6)
    assert noise[5, 625] == pytest.approx(want["noise_at_625"], abs=1e-6)
    assert np.abs(noise[0] - noise[11]).max() < 1e-12
    assert noise[0].sum() == pytest.approx(want["noise_sum"], abs=1e-3)


def test_flip_equals_the_recorded_array():
    check_golden("flip", augmented("flip", torch.from_numpy(golden_signal())[None], keyed(1), 3)[0])


# ============ augmentations: literal, given the same draws ============
def literal(name, x, r, level):
    """One sample (leads, time) by the published words; ``r`` holds this sample's own draws, in
    the order of drawing.
    """
    leads, length = x.shape
    ratio = amplitude = 0.3 * level / 10
    period = 0.5 / (level / 10)
    t = np.arange(length) / length
    waves = {
        "sine": np.sin(2 * np.pi * t / period),
        "square": scipy.signal.square(2 * np.pi * t / period),
    }
    out = x.copy()

    def window():
        count = int(np.floor(float(r.uniform(1)) * ratio * length))
        return int(r.integers(length - count, 1)), count

    if name == "shift":
        count, right = int(float(r.uniform(1)) * ratio * length), float(r.uniform(1)) < 0.5
        out[:] = 0
        for k in range(length):
            source = k - count if right else k + count
            if 0 <= source < length:
                out[:, k] = x[:, source]
    elif name == "cutout":
        start, count = window()
        out[:, start : start + count] = 0
    elif name == "drop":
        count, order = int(r.integers(int(ratio * length), 1)), r.permutation(length)[0].tolist()
        for k in range(length):
            if order[k] < count:
                out[:, k] = 0
    elif name == "erase":
        out[int(r.integers(leads, 1))] = 0
    elif name == "flip":
        out = -x
    elif name in waves:
        out = x + amplitude * waves[name]
    elif name == "white_noise":
        out = x + amplitude * r.normal(leads, length)[0].double().numpy()
    elif name.startswith("partial_"):
        kind = name.removeprefix("partial_")
        noise = (
            amplitude * r.normal(leads, length)[0].double().numpy()
            if kind == "white_noise"
            else np.tile(amplitude * waves[kind], (leads, 1))
        )
        start, count = window()
        out[:, start : start + count] += noise[:, :count]
    elif name == "rlm":
        keep = r.uniform(leads, 1)[0, :, 0].numpy() >= 0.3
        out[~keep] = 0
        if keep.any():
            out[keep] = (x[keep] - x[keep].mean()) / x[keep].std()
    return out


@pytest.mark.parametrize("level", [1, 5, 10, 15])
@pytest.mark.parametrize("name", PUBLISHED_OPS)
def test_augmentations_equal_their_literal_definition(name, level):
    x = torch.randn(12, 3, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(12) * 31 + level
    got = augmented(name, x, KeyedRandom(keys), level).numpy()
    for n in range(12):
        want = literal(name, x[n].numpy(), KeyedRandom(keys[n : n + 1]), level)
        np.testing.assert_allclose(got[n], want, atol=1e-6, err_msg=f"{name} sample {n}")


@pytest.mark.parametrize("name", PUBLISHED_OPS)
def test_augmentations_change_nothing_in_place_and_keep_shape_and_type(name):
    x = torch.randn(5, 12, 100)
    before = x.clone()
    out = augmented(name, x, keyed(5), 10)
    assert torch.equal(x, before) and out.shape == x.shape and out.dtype == x.dtype


@pytest.mark.parametrize("name", PUBLISHED_OPS)
def test_augmentations_belong_to_the_sample_not_to_its_place_or_company(name):
    x, keys = torch.randn(8, 12, 100), torch.arange(8) + 50
    rows = [6, 1, 3]
    whole = augmented(name, x, KeyedRandom(keys), 10)
    assert torch.equal(augmented(name, x[rows], KeyedRandom(keys[rows]), 10), whole[rows])
    assert torch.equal(augmented(name, x, KeyedRandom(keys), 10), whole)
    changed = x.clone()
    changed[0] += 1
    assert torch.equal(augmented(name, changed, KeyedRandom(keys), 10)[1:], whole[1:])


# ============ augmentations: distributions, against 20,000 recorded draws ============
DRAWS = 4000


def hidden(name, level, length=2250):
    """Where ones became zeros, bool (DRAWS, length); the same in both leads."""
    out = augmented(name, torch.ones(1, 2, 1).expand(DRAWS, 2, length), keyed(DRAWS, level), level)
    zero = (out == 0).numpy()
    assert (zero[:, 0] == zero[:, 1]).all()
    return zero[:, 0]


def check_uniform(values, most):
    """Integers 0..most, all alike."""
    assert values.min() == 0 and values.max() <= most and values.max() > 0.99 * most - 2
    random = np.random.default_rng(0).random(
        len(values)
    )  # spread over the unit interval for the test
    assert scipy.stats.kstest((values + random) / (most + 1), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("level", [1, 5, 10])
def test_cutout_windows_are_distributed_as_published(level):
    zero, seen = hidden("cutout", level), MEASURED[f"Cutout_level_{level}"]
    count = zero.sum(axis=1)
    assert count.max() <= seen["count_max"]
    assert count.mean() == pytest.approx(seen["count_mean"], abs=5 * count.std() / DRAWS**0.5)
    check_uniform(count, seen["count_max"])
    assert not zero[:, -1].any()  # the published start never reaches the last sample
    zero, count = zero[count > 0], count[count > 0]
    start = zero.argmax(axis=1)
    assert all(row[s : s + c].all() for row, s, c in zip(zero, start, count))  # one window
    assert scipy.stats.kstest((start + 0.5) / (2250 - count), "uniform").pvalue > 1e-3
    assert seen["last_zero_max"] == 2248


@pytest.mark.parametrize("level", [1, 5, 10])
def test_dropped_samples_are_distributed_as_published(level):
    zero, seen = hidden("drop", level), MEASURED[f"RandomMask_level_{level}"]
    count = zero.sum(axis=1)
    check_uniform(count, seen["count_max"])
    assert count.mean() == pytest.approx(seen["count_mean"], abs=6 * count.std() / DRAWS**0.5)
    each = zero.sum(axis=0)  # every sample as often, the last one included
    assert each[-1] > 0 and abs(each - each.mean()).max() < 5 * each.mean() ** 0.5


@pytest.mark.parametrize("level, length", [(0, 100), (10, 3)])
def test_drop_of_less_than_one_sample_drops_none(level, length):
    """The published operation failed here (high <= 0)."""
    assert MEASURED["RandomMask_level10_L_3"].startswith("ValueError")
    x = torch.randn(4, 2, length)
    assert torch.equal(augmented("drop", x, keyed(4), level), x)


@pytest.mark.parametrize("level", [5, 10])
def test_shifts_are_distributed_as_published(level):
    seen = MEASURED[f"RandomShift_level_{level}"]
    x = torch.arange(1.0, 2251).expand(DRAWS, 2, 2250)
    out = augmented("shift", x, keyed(DRAWS, level), level)
    assert torch.equal(out[:, 0], out[:, 1])
    moved = (
        out[:, 0, 1125] - x[:, 0, 1125]
    ).numpy()  # +k: the signal came from k samples later, a shift left
    check_uniform(np.abs(moved), max(seen["left_or_none_max"], seen["right_max"]))
    assert (moved < 0).mean() == pytest.approx(seen["right_fraction"], abs=4 * 0.5 / DRAWS**0.5)
    for n in range(0, DRAWS, 400):
        by = int(moved[n])
        assert not (out[n, 0, 2250 - by :] if by >= 0 else out[n, 0, :-by]).any()


@pytest.mark.parametrize("level", [5, 10])
@pytest.mark.parametrize("kind", ["sine", "square", "white_noise"])
def test_partial_noise_is_distributed_as_published(kind, level):
    published = {"sine": "Sine", "square": "Square", "white_noise": "White"}[kind]
    seen = MEASURED[f"RandomPartial{published}Noise_level_{level}"]
    noise = augmented(
        f"partial_{kind}", torch.zeros(1, 2, 1).expand(DRAWS, 2, 2250), keyed(DRAWS, level), level
    )
    noise = noise.numpy()
    alike = (noise[:, 0] == noise[:, 1]).all(axis=1).mean()
    assert alike == pytest.approx(seen["fraction_same_noise_on_both_leads"], abs=0.01)
    rows = np.flatnonzero((noise[:, 0] != 0).any(axis=1))
    first = (noise[rows, 0] != 0).argmax(axis=1)
    last = 2249 - (noise[rows, 0, ::-1] != 0).argmax(axis=1)
    assert last.max() <= 2248 and (last - first + 1).max() <= seen["span_max"] + 1
    beginning = noise[
        rows, 0, first
    ]  # the phase restarts: always the first sample of the noise that is not zero
    assert beginning.mean() == pytest.approx(
        seen["first_nonzero_noise_sample_mean"], abs=0.02 if "white" in kind else 1e-6
    )
    assert beginning.std() == pytest.approx(
        seen["first_nonzero_noise_sample_std"], abs=0.01 if "white" in kind else 1e-6
    )
    if "white" not in kind:
        assert np.abs(noise).max() == pytest.approx(seen["abs_noise_max"], rel=5e-3)


def test_white_noise_is_white_and_independent_between_leads():
    noise = (
        augmented("white_noise", torch.zeros(4, 12, 2250), keyed(4), 10).numpy().reshape(48, 2250)
    )
    assert noise.std() == pytest.approx(MEASURED["WhiteNoise_level_10"]["std"], rel=0.01)
    assert scipy.stats.kstest(noise.ravel() / 0.3, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise) - np.eye(48)).max() < 6 / 2250**0.5


def test_erase_takes_every_lead_as_often():
    zero = (augmented("erase", torch.ones(6000, 12, 2), keyed(6000), 10) == 0).all(dim=2)
    assert (zero.sum(dim=1) == 1).all()
    assert scipy.stats.chisquare(zero.sum(dim=0).numpy()).pvalue > 1e-3


def test_random_lead_mask_hides_three_in_ten_and_standardises_the_rest_together():
    seen = MEASURED["RandomLeadMask_default"]
    x = torch.randn(DRAWS, 12, 20, dtype=torch.float64) * 3 + torch.arange(12.0)[:, None]
    out = augmented("rlm", x, keyed(DRAWS), 10)
    masked = (out == 0).all(dim=2)
    assert masked.sum(dim=1).double().mean().item() == pytest.approx(
        seen["mean_masked_leads_of_12"], abs=0.1
    )
    for sample, gone in zip(out[:50], masked[:50]):
        assert (
            sample[~gone].mean().abs() < 1e-12 and abs(sample[~gone].std(correction=0) - 1) < 1e-12
        )


# ============ RandAugment ============
def test_rand_augment_draws_two_distinct_operations_and_applies_each_half_of_the_time(monkeypatch):
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    for digit, name in enumerate(
        names, start=1
    ):  # a trace in base 10: the operations applied, in order

        def append(x, random, digit: COUNT):
            return 10 * x + digit

        monkeypatch.setitem(
            AUGMENTATIONS, name, Augmentation(append, levels={"digit": lambda level, d=digit: d})
        )
    out = RandAugment(names)(torch.zeros(6000, 1, 1), keyed(6000))[:, 0, 0].long().tolist()
    traces = [str(value).replace("0", "") for value in out]
    seen = MEASURED["RandAugment_level10_layers2_prob0.5_8_ops"]
    histogram = np.bincount([len(trace) for trace in traces], minlength=3)
    assert scipy.stats.chisquare(histogram, [1500, 3000, 1500]).pvalue > 1e-3
    recorded = [seen["number_of_ops_applied_histogram"][k] for k in "012"]
    assert scipy.stats.chi2_contingency([histogram, recorded])[1] > 1e-3
    assert not any(len(set(trace)) < len(trace) for trace in traces) and seen["same_op_twice"] == 0
    assert (
        scipy.stats.chisquare([sum(str(d) in t for t in traces) for d in range(1, 9)]).pvalue > 1e-3
    )
    pairs = [trace for trace in traces if len(trace) == 2]
    assert len(set(pairs)) == 56  # every ordered pair
    assert scipy.stats.binomtest(sum(p[0] < p[1] for p in pairs), len(pairs)).pvalue > 1e-3


def test_rand_augment_defaults_are_the_published_ones():
    defaults = {
        k: p.default
        for k, p in inspect.signature(RandAugment).parameters.items()
        if k != "op_names"
    }
    assert defaults == MEASURED["RandAugment_defaults"]


@pytest.mark.parametrize("names", [["sine"], ["drop"], OPS])
def test_level_0_changes_nothing(names):
    """The published noise operations divided by zero at level 0."""
    assert MEASURED["RandAugment_level_0_with_sine"].startswith("ZeroDivisionError")
    x = torch.randn(50, 12, 30)
    assert torch.equal(RandAugment(names, level=0, num_layers=1, prob=1.0)(x, keyed(50)), x)


def test_rand_augment_belongs_to_the_sample_and_repeats():
    pipeline = build_pipeline(
        [{"random_crop": {"crop_length": 60}}], length=60, fs=250, rand_augment={"op_names": OPS}
    )
    x, keys = torch.randn(40, 12, 60), torch.arange(40)
    whole = pipeline(x, KeyedRandom(keys))
    assert torch.equal(pipeline(x, KeyedRandom(keys)), whole)
    rows = [33, 2, 7]
    assert torch.equal(pipeline(x[rows], KeyedRandom(keys[rows])), whole[rows])
    assert 0.5 < (whole != x).any(dim=2).any(dim=1).float().mean() < 0.95


def test_rand_augment_comes_last():
    x = torch.from_numpy(signals(2250)["ecg"])[None].float().expand(8, -1, -1)
    plain = build_pipeline(PUBLISHED, length=2250, fs=250)(x)
    augmented = build_pipeline(
        PUBLISHED,
        length=2250,
        fs=250,
        rand_augment={"op_names": ["flip"], "num_layers": 1, "prob": 1.0},
    )(x, keyed(8))
    assert torch.equal(augmented, -plain)


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"op_names": ["shift", "jitter"]}, "unknown operation 'jitter'"),
        ({"op_names": ["shift"], "num_layers": 2}, "num_layers"),
        ({"op_names": ["shift"], "num_layers": 0.5}, "num_layers"),
        ({"op_names": ["shift"], "num_layers": 1, "level": -1}, "level"),
        ({"op_names": ["shift"], "num_layers": 1, "level": 40}, "level"),
        ({"op_names": ["shift"], "num_layers": 1, "level": "ten"}, "level must be a number"),
        ({"op_names": ["shift"], "num_layers": 1, "prob": 1.5}, "prob"),
        ({"op_names": ["shift"], "strength": 1}, "takes op_names, level, num_layers, prob"),
        ({}, "op_names"),
    ],
)
def test_wrong_rand_augment_arguments_are_config_errors(arguments, word):
    with pytest.raises(ConfigError, match=word):
        build_pipeline(PUBLISHED, length=2250, fs=250, rand_augment=arguments)


# ============ plain steps, and evaluation ============
def plain(*steps, length=250, **more):
    """A pipeline of these steps on crops of 250 samples."""
    return build_pipeline(
        [{"random_crop": {"crop_length": length}}, *steps], length=length, fs=250, **more
    )


TIME_OUT, NOISE = {"time_out": {"ratio": [0.2, 0.4]}}, {"white_noise": {"sigma": [0.1, 0.3]}}


@pytest.mark.parametrize(
    "step",
    [
        *({name: AUGMENTATIONS[name].at_level(10)} for name in PUBLISHED_OPS),
        TIME_OUT,
        {"random_resized_crop": {"ratio": [0.5, 1.0], "length": 250}},
    ],
    ids=lambda step: next(iter(step)),
)
def test_an_augmentation_is_a_step_like_any_other(step):
    x, keys = torch.randn(20, 12, 250), torch.arange(20)
    out = plain(step)(x, KeyedRandom(keys))
    assert out.shape == x.shape and not torch.equal(out, x)
    rows = [13, 2, 7]
    assert torch.equal(plain(step)(x[rows], KeyedRandom(keys[rows])), out[rows])


def test_steps_draw_apart_from_each_other_and_from_rand_augment():
    """Neither a step before it nor one behind changes what RandAugment, or a mask made later,
    draws.
    """
    x = torch.randn(40, 12, 250)
    twice = plain(NOISE, NOISE)(x, keyed(40)) - x
    once = plain(NOISE)(x, keyed(40)) - x
    correlation = np.corrcoef((twice - once).flatten(), once.flatten())[0, 1]
    assert abs(correlation) < 0.02
    alone, behind = keyed(40), keyed(40)
    rand_augment = {"op_names": ["white_noise", "cutout"], "prob": 1.0}
    want = plain(rand_augment=rand_augment)(x, alone)
    got = plain({"gaussian_noise": {"sigma": 0}}, rand_augment=rand_augment)(x, behind)
    assert torch.equal(got, want) and torch.equal(alone.uniform(1), behind.uniform(1))


def test_twins_are_one_implementation():
    """cutout is time_out for all leads, white_noise is gaussian_noise of a fixed size; each takes
    the other's way.
    """
    x, draws = torch.randn(30, 12, 250), {"ratio": [0.2, 0.4]}
    alike, each = (
        AUGMENTATIONS[name](x, keyed(30), **draws) == 0 for name in ("cutout", "time_out")
    )
    assert (alike == alike[:, :1]).all() and not (each == each[:, :1]).all()
    other = AUGMENTATIONS["cutout"](x, keyed(30), **draws, each_lead=True) == 0
    assert torch.equal(other, each) and torch.equal(
        AUGMENTATIONS["time_cutout"](x, keyed(30), **draws) == 0, each
    )
    fixed, drawn = (
        AUGMENTATIONS[name](x, keyed(30), sigma=sigma) - x
        for name, sigma in (("gaussian_noise", 0.3), ("white_noise", [0.1, 0.5]))
    )
    assert (
        torch.equal(x + fixed, augmented("white_noise", x, keyed(30), 10))
        and drawn.std((1, 2)).std() > 0.05
    )


def test_an_evaluation_takes_no_random_step():
    for step in (TIME_OUT, NOISE, "erase", {"shift": {"ratio": [0, 0.3]}}):
        with pytest.raises(
            ConfigError,
            match="eval_transforms: .* draws at random, .* leave it to dataset.transforms",
        ):
            plain(step, where="dataset.eval_transforms", evaluation=True)
    wave = {
        "sine": {"amplitude": 0.3, "cycles": 2}
    }  # without a draw: the same disturbance for every record
    x = torch.randn(3, 12, 250)
    assert not torch.equal(plain(wave, evaluation=True)(x), x)


def test_without_random_numbers_a_random_step_is_an_error_and_fixed_has_none():
    steps, x = ["standardize", TIME_OUT, "flip"], torch.randn(6, 12, 250)
    for pipeline in (plain(*steps), plain(rand_augment={"op_names": OPS})):
        with pytest.raises(ConfigError, match="draws at random, which an evaluation must not"):
            pipeline(x)
    both = plain(*steps, rand_augment={"op_names": OPS})
    assert torch.equal(both.fixed(x), plain("standardize", "flip")(x))
    assert len(both.steps) == 4, "the training's own pipeline was changed"


@pytest.mark.parametrize(
    "item, word",
    [
        (
            {"random_resized_crop": {"ratio": [0.5, 1.0], "length": 100}},
            "must be that of the crops, 250, not 100",
        ),
        ("frequency_cutout", "unknown name"),
        ({"spectrogram": {"fs": 100}}, "unknown name"),
        ({"time_out": {"ratio": 0.3}}, "low <= high"),
        ({"cutout": {"ratio": [0, 1], "each_lead": 1}}, "true or false"),
        ({"cutout": {"ratio": [0, 1], "random": 1}}, "takes ratio, each_lead"),
    ],
)
def test_wrong_arguments_of_a_plain_step_are_config_errors(item, word):
    with pytest.raises(ConfigError, match=word):
        plain(item)


# ============ from config to module ============
@pytest.mark.parametrize(
    "item, word",
    [
        ("highpass", "unknown name 'highpass'"),
        ({"resample": {"fs": 250}}, "unknown name"),
        (7, "unknown"),
        ({"random_crop": {"crop_length": 3}}, "must come first and only once"),
        ({"standardize": {"axes": -1}}, "takes axis"),
        ({"standardize": -1}, "takes axis"),
        ({"standardize": {"axis": 0}}, "axis"),
        ({"highpass_filter": {}}, "takes cutoff, fs, order"),
        ({"highpass_filter": None}, "takes cutoff, fs, order"),
        ({"highpass_filter": {"cutoff": "0.67"}}, "cutoff must be a number"),
        ({"highpass_filter": {"cutoff": 0.67, "fs": 500}}, "says fs 500 but dataset.fs is 250"),
        ({"highpass_filter": {"cutoff": 0}}, "between 0 and"),
        ({"lowpass_filter": {"cutoff": 125}}, "between 0 and"),
        ({"lowpass_filter": {"cutoff": 40, "order": 0}}, "order"),
        ({"lowpass_filter": {"cutoff": 40, "order": 2.5}}, "order"),
        ({"lowpass_filter": {"cutoff": 40, "kind": "fir"}}, "takes cutoff, fs, order"),
    ],
)
def test_wrong_transforms_are_config_errors(item, word):
    with pytest.raises(ConfigError, match=word):
        build_pipeline(
            [{"random_crop": {"crop_length": 2250}}, item],
            length=2250,
            fs=250,
            where="dataset.transforms",
        )


def test_the_shortest_crop_is_scipys():
    assert GOLDEN["filter"]["min_length_accepted_hp"] == 19
    CropFilter(19, [HIGH])
    with pytest.raises(ConfigError, match="too short"):
        CropFilter(18, [HIGH])


def test_neighbouring_filters_are_one_step():
    pipeline = build_pipeline(PUBLISHED, length=250, fs=250)
    assert [type(step).__name__ for step in pipeline.steps] == ["CropFilter", "Standardize"]
    assert not list(pipeline.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpu_gives_the_same_views():
    x = torch.from_numpy(signals(2250)["drift"])[None].float().repeat(16, 1, 1)
    pipeline = build_pipeline(PUBLISHED, length=2250, fs=250, rand_augment={"op_names": OPS})
    here = pipeline(x, keyed(16))
    there = pipeline.cuda()(x.cuda(), KeyedRandom(keyed(16).keys.cuda())).cpu()
    assert (here - there).abs().max() < 2e-5


def test_choosing_rows_on_a_cpu_gives_what_a_gpu_computes(monkeypatch):
    """Both ways of applying an operation to some samples, on the CPU."""

    class Elsewhere(torch.Tensor):
        device = property(lambda self: torch.device("meta"))

    x, augment = torch.randn(60, 12, 64), RandAugment(PUBLISHED_OPS, prob=0.7)
    here = augment(x, keyed(60))
    apply = RandAugment._where_chosen
    monkeypatch.setattr(
        RandAugment,
        "_where_chosen",
        lambda self, operation, x, *rest: apply(
            self,
            lambda y, *args: operation(y.as_subclass(torch.Tensor), *args),
            x.as_subclass(Elsewhere),
            *rest,
        ),
    )
    assert torch.allclose(torch.Tensor(augment(x, keyed(60))), here, atol=1e-6)


def test_pipelines_move_and_change_type_like_any_module():
    """A method of RandAugment once hid nn.Module's own: no pipeline with augmentation could be
    moved to a device.
    """
    pipeline = build_pipeline(
        [
            {"random_crop": {"crop_length": 300}},
            {"highpass_filter": {"cutoff": 0.67}},
            {"standardize": {"axis": [-1, -2]}},
        ],
        length=300,
        fs=250,
        rand_augment={"op_names": PUBLISHED_OPS},
    )
    assert pipeline.to("cpu") is pipeline
    for module in pipeline.modules():
        assert not [
            name
            for name in vars(type(module))
            if name != "__init__"
            and not name.startswith("__")
            and hasattr(torch.nn.Module, name)
            and name != "forward"
        ]
