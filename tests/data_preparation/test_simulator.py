"""The simulator's files, and its hearts as an independent eye measures them."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb
from scipy.signal import find_peaks, periodogram

from data_preparation import simulate_physionet2020
from data_preparation.simulator import challenge_files as simulator
from data_preparation.simulator.dipole import DOWER, TO_ELECTRODES, TO_LEADS, Waves, render
from data_preparation.simulator.ecg_model import simulate
from data_preparation.simulator.findings import Findings, diagnoses
from data_preparation.simulator.patients import draw_findings
from data_preparation.simulator.rhythm import flutter_or_fibrillation
from util.challenge import ABBREVIATIONS, labels_from_dx
from util.errors import ECGError
from util.leads import LEADS

FS = 500
SCRIPT = Path(simulate_physionet2020.__file__)
COLUMN = {lead: number for number, lead in enumerate(LEADS)}


# ---- Measuring, without the simulator's own formulas
# -----------------------------------------------------------------
def signal_of(seed=0, seconds=10, **findings):
    """A recording of these findings, without noise unless told."""
    findings = Findings(**{"noise": 0.0, "swing": 0.0} | findings)
    return simulate(findings, FS, int(seconds * FS), 50, np.random.default_rng(seed))


def beat_times(signal, fs=FS, level=0.2):
    """Seconds of the QRS complexes: peaks of the squared slope over 80 ms, after a mean over 12
    ms against noise.
    """
    short, long = (np.ones(max(1, int(seconds * fs))) for seconds in (0.012, 0.08))
    smooth = np.apply_along_axis(np.convolve, 0, signal - signal.mean(axis=0), short, "valid")
    energy = np.convolve((np.diff(smooth, axis=0) ** 2).sum(axis=1), long, "same")
    peaks, _ = find_peaks(energy, height=level * np.percentile(energy, 97), distance=int(0.25 * fs))
    return (peaks + len(short) / 2) / fs


def qrs_window(signal, time, fs=FS):
    """First and last sample of the QRS around a beat: from its fastest moment outwards until the
    path has been slower than 8 % of that for 14 ms.
    """
    low, high = int((time - 0.13) * fs), int((time + 0.16) * fs)
    speed = np.linalg.norm(np.diff(signal[low:high, [0, 1, 6, 7, 8, 9, 10, 11]], axis=0), axis=1)
    fast = np.flatnonzero(speed > 0.08 * speed.max())
    gaps = np.flatnonzero(np.diff(fast) > 0.014 * fs)
    top = np.searchsorted(fast, speed.argmax())
    before, after = gaps[gaps < top], gaps[gaps >= top]
    return low + fast[before[-1] + 1 if len(before) else 0], low + fast[
        after[0] if len(after) else -1
    ] + 1


def inner_beat(signal):
    """A beat that is wholly on record."""
    times = beat_times(signal)
    return times[len(times) // 2]


def net_areas(signal):
    """Net QRS area in every lead, mV s, above the level just before the QRS."""
    start, stop = qrs_window(signal, inner_beat(signal))
    return (signal[start:stop] - signal[start]).sum(axis=0) / FS


def measured_axis(signal):
    area = net_areas(signal)
    return np.rad2deg(np.arctan2(area[COLUMN["aVF"]] * 2 / np.sqrt(3), area[COLUMN["I"]]))


def measured_pr(signal):
    """Seconds from where the clean path leaves rest (4 % of the P wave) to the QRS."""
    start, _ = qrs_window(signal, inner_beat(signal))
    rest = start - int(0.42 * FS)
    path = np.linalg.norm(signal[rest : start - 5] - signal[rest], axis=1)
    return (start - rest - np.flatnonzero(path > 0.04 * path.max())[0]) / FS


def measured_qt(signal, rr):
    """Seconds from the QRS to where the clean path returns to rest (8 % of the T wave), before
    the next P.
    """
    start, stop = qrs_window(signal, inner_beat(signal))
    path = np.linalg.norm(
        signal[stop + 15 : start + int((rr - 0.18) * FS)] - signal[start - int(0.18 * FS)], axis=1
    )
    return (np.flatnonzero(path > 0.08 * path.max())[-1] + stop + 15 - start) / FS


def t_peak(signal, lead):
    """Height of the T wave: the largest deflection from 90 ms after the QRS on, against the level
    before the QRS.
    """
    start, stop = qrs_window(signal, inner_beat(signal))
    wave = (
        signal[stop + int(0.09 * FS) : start + int(0.46 * FS), COLUMN[lead]]
        - signal[start - 5, COLUMN[lead]]
    )
    return wave[np.argmax(np.abs(wave))]


@cache
def population():
    """400 patients of the simulator and the names of their diagnoses."""
    drawn = [draw_findings(np.random.default_rng([5, index])) for index in range(400)]
    return [(index, findings, set(diagnoses(findings))) for index, findings in enumerate(drawn)]


def recordings_with(wanted, unwanted=(), limit=8):
    """20 s with the usual noise of patients who have a diagnosis and not the others."""
    found = [
        (index, findings)
        for index, findings, names in population()
        if wanted in names and not names & set(unwanted)
    ]
    assert len(found) >= 3, wanted
    return [simulate(f, FS, 20 * FS, 50, np.random.default_rng(i)) for i, f in found[:limit]]


# ---- Physics
# ---------------------------------------------------------------------------------------------------------
def test_leads_follow_dower_einthoven_and_goldberger():
    leads = (TO_ELECTRODES @ TO_LEADS).T  # (12, 3)
    first, second = DOWER[6], DOWER[7]
    expected = [
        first,
        second,
        second - first,
        -(first + second) / 2,
        first - second / 2,
        second - first / 2,
    ]
    assert np.allclose(leads, [*expected, *DOWER[:6]], atol=1e-12)


def test_noise_keeps_the_identities_too():
    signal = signal_of(noise=5.0)
    one, two = signal[:, 0], signal[:, 1]
    assert np.std(one) > 0.05
    identities = {
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }
    for lead, expected in identities.items():
        assert np.allclose(signal[:, COLUMN[lead]], expected, atol=1e-12)


def test_render_equals_the_sum_written_out():
    rng = np.random.default_rng(1)
    waves = Waves(
        rng.uniform(-0.1, 1.1, 7),
        rng.uniform(0.005, 0.02, 7),
        rng.uniform(0.005, 0.03, 7),
        rng.standard_normal((7, 3)),
    )
    expected = np.zeros((250, 3))
    for sample in range(250):
        for centre, before, after, vector in zip(*waves):
            offset = sample / 250 - centre
            expected[sample] += vector * np.exp(
                -0.5 * (offset / (before if offset < 0 else after)) ** 2
            )
    assert np.allclose(render(waves, 250, 250), expected, atol=2e-5)


# ---- Rhythm
# ----------------------------------------------------------------------------------------------------------
ECTOPIC = ("PAC", "PVC")


def variation(signal):
    rr = np.diff(beat_times(signal))
    return rr.std() / rr.mean()


def test_sinus_rhythm_is_regular_and_fibrillation_is_not():
    assert all(variation(signal) < 0.09 for signal in recordings_with("NSR", ECTOPIC))
    assert all(variation(signal) > 0.12 for signal in recordings_with("AF", ECTOPIC + ("PR",)))
    assert all(
        variation(signal) < 0.06 for signal in recordings_with("PR", ECTOPIC)
    )  # finds spike or QRS


def test_rates_are_as_labelled():
    def rate(signal):
        return 60 / np.diff(beat_times(signal)).mean()

    assert all(rate(signal) < 60 for signal in recordings_with("SB", ECTOPIC))
    assert all(rate(signal) < 62 for signal in recordings_with("Brady", ECTOPIC))
    assert all(rate(signal) > 100 for signal in recordings_with("STach", ECTOPIC))
    assert all(59 < rate(signal) < 101 for signal in recordings_with("NSR", ECTOPIC))


def test_sinus_arrhythmia_swings_with_the_breath():
    swings = [np.ptp(np.diff(beat_times(signal))) for signal in recordings_with("SA", ECTOPIC)]
    calm = [np.ptp(np.diff(beat_times(signal))) for signal in recordings_with("NSR", ECTOPIC)]
    assert min(swings) > 0.12 and np.median(swings) > 2 * np.median(calm)


def test_fibrillation_has_f_waves_strongest_in_v1_and_no_p():
    signal = signal_of(rhythm="fibrillation", rate=50, seconds=20, seed=3)
    sinus = signal_of(rate=50, seconds=20, seed=3)
    times = [t for t in beat_times(signal) if 0.6 < t < 18]
    quiet = [signal[int((t - 0.4) * FS) :][:150] for t in times]  # where P waves would be
    spread = np.mean([segment.std(axis=0) for segment in quiet], axis=0)
    assert spread[COLUMN["V1"]] > 2 * spread[COLUMN["I"]] and spread[COLUMN["V1"]] > 0.015
    mean_wave = np.mean([segment - segment.mean(axis=0) for segment in quiet], axis=0)[
        :, COLUMN["II"]
    ]
    p = [
        sinus[int((t - 0.4) * FS) :, COLUMN["II"]][:150] for t in beat_times(sinus) if 0.6 < t < 18
    ]
    assert np.ptp(np.mean(p, axis=0)) > 3 * np.ptp(mean_wave)


@pytest.mark.parametrize("rhythm, low, high", [("fibrillation", 4, 9), ("flutter", 4.9, 5.1)])
def test_atrial_waves_have_their_frequency(rhythm, low, high):
    time = np.arange(20 * FS) / FS
    findings = Findings(rhythm=rhythm, atrial_rate=300)
    dipole = flutter_or_fibrillation(findings, 0.0, time, np.random.default_rng(2))
    lead = dipole @ (DOWER[0] if rhythm == "fibrillation" else DOWER[7])
    frequency, power = periodogram(lead, FS)
    assert low <= frequency[np.argmax(power)] <= high
    assert 0.05 < np.ptp(lead) < 0.8


def test_flutter_conducts_every_few_waves():
    rr = np.diff(
        beat_times(signal_of(rhythm="flutter", rate=300 / 2.5, atrial_rate=300, seconds=20))
    )
    ratio = rr / (60 / 300)
    assert set(np.rint(ratio)) == {2, 3} and np.abs(ratio - np.rint(ratio)).max() < 0.12


@pytest.mark.parametrize("kind", ["pac", "pvc"])
def test_premature_beats(kind):
    signal = signal_of(ectopy=kind, ectopics=1, rate=70, seed=4)
    times = beat_times(signal, level=0.06)
    rr = np.diff(times)
    early = int(np.argmin(rr))
    assert rr[early] < 0.75 * 60 / 70
    around = rr[early] + rr[early + 1]
    if kind == "pvc":  # the pause compensates, and the beat is wide
        assert abs(around - 2 * 60 / 70) < 0.08
    else:
        assert around < 1.9 * 60 / 70
    widths = [np.ptp(qrs_window(signal, time)) / FS for time in times[1:-1]]
    wide = np.array(widths) > 0.125
    assert wide.sum() == (kind == "pvc") and (kind == "pac" or np.argmax(wide) == early)


def test_pvc_has_a_discordant_t_wave():
    for seed in range(4):
        signal = signal_of(ectopy="pvc", ectopics=1, rate=60, seed=seed)
        times = beat_times(signal, level=0.06)  # a wide beat has flat slopes
        beat = times[1:][np.argmin(np.diff(times))]
        start, stop = qrs_window(signal, beat)
        level = signal[start - 20]
        area = (signal[start:stop] - level).sum(axis=0)
        lead = np.argmax(np.abs(area))
        wave = signal[stop + 20 : stop + 170, lead] - level[lead]
        assert np.sign(wave[np.argmax(np.abs(wave))]) == -np.sign(area[lead])


def test_pacing_spikes_precede_wide_beats():
    paced = signal_of(rhythm="paced", qrs=0.16, axis=-70, rate=70)
    jump = np.abs(np.diff(paced, axis=0)).max(axis=1)
    spikes, _ = find_peaks(jump, height=0.15, distance=50)
    assert np.allclose(np.diff(spikes) / FS, 60 / 70, atol=0.01)
    # from the apex of the right ventricle
    for lead, sign in (("V1", -1), ("III", -1), ("aVL", 1)):
        beat = paced[spikes[3] : spikes[3] + 90, COLUMN[lead]] - paced[spikes[3] - 10, COLUMN[lead]]
        assert sign * beat[10:80].sum() / FS > 0.02  # and wide: 160 ms are 80 samples
        assert np.abs(beat[60:70]).max() > 0.2 * np.abs(beat[10:]).max()


# ---- Conduction, axis, voltage, repolarisation
# -----------------------------------------------------------------------
@pytest.mark.parametrize("pr", [0.14, 0.18, 0.24, 0.30])
def test_pr_is_as_drawn(pr):
    for seed in range(3):
        assert measured_pr(signal_of(seed, pr=pr, rate=60)) == pytest.approx(pr, abs=0.02)


@pytest.mark.parametrize(
    "conduction, qrs",
    [
        ("normal", 0.08),
        ("normal", 0.10),
        ("lafb", 0.105),
        ("irbbb", 0.112),
        ("nsivcb", 0.13),
        ("rbbb", 0.145),
        ("lbbb", 0.135),
        ("lbbb", 0.165),
    ],
)
def test_qrs_duration_is_as_drawn(conduction, qrs):
    measured = [
        np.ptp(qrs_window(s, inner_beat(s))) / FS
        for s in (signal_of(i, conduction=conduction, qrs=qrs, rate=60) for i in range(4))
    ]
    assert np.median(measured) == pytest.approx(qrs, abs=0.012)


def test_lbbb_is_wider_than_normal_and_looks_left():
    for seed in range(4):
        signal = signal_of(seed, conduction="lbbb", qrs=0.15, axis=20, rate=65)
        start, stop = qrs_window(signal, inner_beat(signal))
        beat = signal[start:stop] - signal[start]
        assert beat[:, COLUMN["V1"]].max() < 0.15 * -beat[:, COLUMN["V1"]].min()  # QS or rS
        for lead in ("I", "V6"):
            assert (
                beat[:, COLUMN[lead]].min() > -0.1 * beat[:, COLUMN[lead]].max()
            )  # R without q or S
            assert t_peak(signal, lead) < 0
        assert t_peak(signal, "V1") > 0


def test_rbbb_has_a_late_r_in_v1_and_a_late_s_in_i_and_v6():
    for conduction, qrs in (("rbbb", 0.14), ("irbbb", 0.114)):
        for seed in range(4):
            signal = signal_of(seed, conduction=conduction, qrs=qrs, rate=65)
            start, stop = qrs_window(signal, inner_beat(signal))
            beat = signal[start:stop] - signal[start]
            early, late = np.split(beat, [int(0.55 * len(beat))])
            v1 = COLUMN["V1"]
            assert late[:, v1].max() > max(0.15, early[:, v1].max())  # r < R'
            assert early[:, v1].argmax() < early[:, v1].argmin()  # rs, then R'
            assert late[:, COLUMN["I"]].min() < -0.05 and late[:, COLUMN["V6"]].min() < -0.05


@pytest.mark.parametrize("axis", [-75, -50, -20, 0, 45, 80, 110, 140])
def test_axis_is_as_drawn(axis):
    for conduction in ("normal", "rbbb", "nsivcb"):
        assert measured_axis(
            signal_of(
                1,
                axis=axis,
                conduction=conduction,
                rate=60,
                qrs=0.09 if conduction == "normal" else 0.13,
            )
        ) == pytest.approx(axis, abs=8)


def test_axis_deviations_lie_in_their_quadrants():
    wanted = {"LAD": (1, -1), "RAD": (-1, 1)}
    for name, (sign_i, sign_avf) in wanted.items():
        found = [
            f
            for _, f, names in population()
            if name in names and "PR" not in names and not names & set(ECTOPIC)
        ]
        assert len(found) >= 5
        for number, findings in enumerate(found[:10]):
            area = net_areas(
                signal_of(number, **{**vars(findings), "noise": 0.0, "rhythm": "sinus", "rate": 60})
            )
            assert (
                np.sign(area[COLUMN["I"]]) == sign_i and np.sign(area[COLUMN["aVF"]]) == sign_avf
            ), findings


def test_anterior_fascicular_block_is_qr_in_avl_and_rs_in_iii():
    signal = signal_of(2, conduction="lafb", axis=-60, qrs=0.10, rate=60)
    start, stop = qrs_window(signal, inner_beat(signal))
    avl, three = (
        signal[start:stop, COLUMN[lead]] - signal[start, COLUMN[lead]] for lead in ("aVL", "III")
    )
    assert avl.argmin() < avl.argmax() and avl.min() < -0.05
    assert three.argmax() < three.argmin() and three.max() > 0.05


@pytest.mark.parametrize("voltage", [0.3, 0.44, 0.7, 1.6])
def test_limb_voltage_is_as_drawn(voltage):
    for seed in range(3):
        signal = signal_of(seed, voltage=voltage, rate=60)
        start, stop = qrs_window(signal, inner_beat(signal))
        largest = np.ptp(signal[start:stop, :6], axis=0).max()
        assert largest == pytest.approx(voltage, rel=0.12)
        assert (largest < 0.5) == ("LQRSV" in diagnoses(Findings(voltage=voltage)))


@pytest.mark.parametrize(
    "site, leads",
    [
        ("anterior", ("V1", "V2", "V3")),
        ("lateral", ("I", "aVL", "V5", "V6")),
        ("inferior", ("II", "III", "aVF")),
    ],
)
def test_inverted_t_waves(site, leads):
    for seed in range(3):
        healthy, ill = (
            signal_of(seed, t_wave=wave, t_site=site, rate=60) for wave in ("normal", "inverted")
        )
        assert all(t_peak(ill, lead) < -0.1 for lead in leads)
        assert all(t_peak(healthy, lead) > 0 for lead in ("I", "II", "V3", "V5"))


def test_flat_t_waves_are_a_tenth_of_normal_ones():
    for seed in range(3):
        normal, flat = (
            t_peak(signal_of(seed, t_wave=wave, rate=60), "V5") for wave in ("normal", "flat")
        )
        assert abs(flat) < 0.2 * normal


@pytest.mark.parametrize("rate", [50, 60, 90])
def test_qt_is_as_drawn_and_long_ones_are_labelled(rate):
    for qtc in (0.40, 0.52):
        qt = measured_qt(signal_of(1, qtc=qtc, rate=rate), 60 / rate)
        assert qt / np.sqrt(60 / rate) == pytest.approx(qtc, abs=0.03)
        assert (qt / np.sqrt(60 / rate) > 0.46) == ("LQT" in diagnoses(Findings(qtc=qtc)))


@pytest.mark.parametrize("site, leads", [("lateral", ("I", "aVL")), ("inferior", ("III", "aVF"))])
def test_pathological_q_waves_are_deep_and_wide(site, leads):
    signal = signal_of(0, q_site=site, qrs=0.105, axis=40, rate=60)
    start, stop = qrs_window(signal, inner_beat(signal))
    for lead in leads:
        beat = signal[start:stop, COLUMN[lead]] - signal[start, COLUMN[lead]]
        q = np.argmin(beat[: len(beat) // 2])
        assert -beat[q] > 0.25 * beat.max()
        assert (beat[: len(beat) // 2] < 0.2 * beat[q]).sum() / FS > 0.025


def test_anterior_infarction_has_qs_in_v1_and_v2_and_q_in_v3():
    for seed in range(3):
        signal = signal_of(seed, q_site="anterior", qrs=0.105, axis=40, rate=60)
        start, stop = qrs_window(signal, inner_beat(signal))
        beat = signal[start:stop] - signal[start]
        v1, v2, v3 = (beat[:, COLUMN[lead]] for lead in ("V1", "V2", "V3"))
        assert v1.max() < -0.05 * v1.min() and v2.max() < -0.05 * v2.min()
        assert v3[: len(v3) // 3].max() < 0.02 and v3.max() < -0.6 * v3.min()  # Q, then a small r


def test_labels_follow_from_the_parameters():
    def names(**findings):
        return set(diagnoses(Findings(**findings)))

    assert names() == {"NSR"}
    assert names(rate=59) == {"SB"} and names(rate=101) == {"STach"} and names(swing=0.2) == {"SA"}
    assert names(pr=0.21) == {"NSR", "IAVB"} and names(pr=0.25) == {"NSR", "IAVB", "LPR"}
    assert (
        names(axis=-31) == {"NSR", "LAD"}
        and names(axis=-29) == {"NSR"}
        and names(axis=91) == {"NSR", "RAD"}
    )
    assert names(rhythm="fibrillation", pr=0.3, rate=50, conduction="rbbb") == {
        "AF",
        "Brady",
        "CRBBB",
    }
    assert names(rhythm="paced", axis=-80, fibrillating_atria=True) == {"PR", "AF"}
    assert names(st="depressed", ectopy="pvc") == {"NSR", "STD", "PVC"}


# ---- Population and files
# --------------------------------------------------------------------------------------------
def test_every_class_occurs_and_some_records_have_none():
    counts, unlabelled = np.zeros(24), 0
    codes = set()
    for index in range(2500):
        database = simulator.DATABASES[simulator.database_of(index)]
        dx = simulator.dx_codes(
            diagnoses(draw_findings(np.random.default_rng([0, index]))), database
        )
        label = labels_from_dx([" ".join(dx)])[0]
        codes |= set(dx)
        counts += label
        unlabelled += not label.any()
    share = dict(zip(ABBREVIATIONS, counts / 2500))
    assert min(share.values()) > 0.01, share
    assert max(share, key=share.get) == "NSR" and 0.4 < share["NSR"] < 0.7
    assert 5 <= unlabelled <= 75
    assert {"713427006", "59118001", "284470004", "63593006", "427172004", "17338001"} <= codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "data"
    simulate_physionet2020.main(
        ["--output_dir", str(folder), "--records", "14", "--seed", "3", "--workers", "1"]
    )
    return folder


def headers(folder):
    return sorted(folder.rglob("*.hea"))


def test_six_databases_with_their_rates_and_lengths(folder):
    expected = {
        "cpsc_2018": (500, 6, 60),
        "cpsc_2018_extra": (500, 6, 60),
        "st_petersburg_incart": (257, 30, 60),
        "ptb": (1000, 30, 60),
        "ptb-xl": (500, 10, 10),
        "georgia": (500, 10, 10),
    }
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(expected)
    for path in headers(folder):
        header = wfdb.rdheader(str(path.with_suffix("")))
        fs, low, high = expected[path.parent.parent.name]
        assert header.fs == fs and low <= header.sig_len / fs <= high and path.parent.name == "g1"
        assert tuple(header.sig_name) == LEADS


def test_wfdb_and_scipy_read_the_same_numbers(folder):
    for path in headers(folder):
        stem = str(path.with_suffix(""))
        values = scipy.io.loadmat(stem + ".mat")["val"]
        record = wfdb.rdrecord(stem, physical=False)
        assert values.dtype == np.int16 and values.shape == (12, record.sig_len)
        assert np.array_equal(record.d_signal.T, values)
        assert path.with_suffix(".mat").stat().st_size == 24 + 2 * values.size
        signal, fields = wfdb.rdsamp(stem)
        assert np.allclose(signal.T, values / 1000) and fields["units"] == ["mV"] * 12
        assert 0.3 < np.ptp(signal, axis=0).max() < 12


def test_headers_carry_checksums_first_values_and_diagnoses(folder):
    for path in headers(folder):
        values = scipy.io.loadmat(path.with_suffix(".mat"))["val"].astype(int)
        record = wfdb.rdheader(str(path.with_suffix("")))
        assert [total % 65536 for total in record.checksum] == [
            int(total) % 65536 for total in values.sum(axis=1)
        ]
        assert record.init_value == values[:, 0].tolist()
        comments = dict(line.split(": ", 1) for line in record.comments)
        assert comments["Sex"] in ("Male", "Female") and (
            comments["Age"] == "NaN" or 18 <= int(comments["Age"]) <= 300
        )
        assert all(code.isdigit() for code in comments["Dx"].split(","))


def test_einthoven_and_goldberger_hold_to_a_count_in_the_files(folder):
    for path in headers(folder):
        one, two, three, avr, avl, avf = scipy.io.loadmat(path.with_suffix(".mat"))["val"][
            :6
        ].astype(int)
        assert np.abs(three - (two - one)).max() <= 1
        for lead, expected in ((avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
            assert np.abs(lead - expected).max() <= 1.25


def test_dx_of_a_file_is_what_was_drawn(folder):
    for index in range(6):
        name, findings, _, dx, counts = simulator.simulated_record(3, index)
        path = next((folder / name).rglob("*0001.hea"))
        assert f"Dx: {','.join(dx)}\n" in path.read_text()
        assert np.array_equal(scipy.io.loadmat(path.with_suffix(".mat"))["val"], counts.T)
        drawn = set(diagnoses(findings)) & set(ABBREVIATIONS)
        # the database's habits change those
        if not {"MI", "STD", "SB"} & set(diagnoses(findings)):
            assert drawn == {
                ABBREVIATIONS[c] for c in np.flatnonzero(labels_from_dx([" ".join(dx)])[0])
            }


def test_bytes_do_not_depend_on_workers_nor_on_how_many_records_follow(folder, tmp_path):
    subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--output_dir",
            tmp_path / "two",
            "--records",
            "18",
            "--seed",
            "3",
            "--workers",
            "2",
        ],
        check=True,
        capture_output=True,
    )
    files = [path for path in folder.rglob("*.*") if path.suffix in (".hea", ".mat")]
    assert len(files) == 28
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(folder)).read_bytes(), path
    other = simulator.simulated_record(4, 0)[-1]
    assert not np.array_equal(other[:500], simulator.simulated_record(3, 0)[-1][:500])


def test_thousand_records_a_folder(tmp_path):
    index = next(i for i in range(100) if simulator.database_of(i) == "georgia")
    for number in (999, 1000):
        simulator.write_record(index, number, 0, tmp_path)
    assert (tmp_path / "georgia/g1/E00999.hea").is_file() and (
        tmp_path / "georgia/g2/E01000.mat"
    ).is_file()


def test_full_length_incart_lasts_half_an_hour():
    name, _, _, _, counts = simulator.simulated_record(0, 2, full_length=True)
    assert name == "st_petersburg_incart" and counts.shape == (1800 * 257, 12)


def test_a_used_folder_is_refused_but_the_same_run_may_be_repeated(folder, tmp_path):
    arguments = ["--output_dir", str(folder), "--records", "14", "--workers", "1", "--seed"]
    before = {path: path.read_bytes() for path in headers(folder)}
    simulate_physionet2020.main(arguments + ["3"])
    assert before == {path: path.read_bytes() for path in headers(folder)}
    with pytest.raises(ECGError, match="already holds other files"):
        simulate_physionet2020.main(arguments + ["9"])
    (tmp_path / "file").write_text("")
    for name, records, words in (
        ("file", "1", "cannot make the folder"),
        ("none", "0", "at least 1"),
    ):
        with pytest.raises(ECGError, match=words):
            simulate_physionet2020.main(
                ["--output_dir", str(tmp_path / name), "--records", records]
            )
    assert not (tmp_path / "none").exists()
