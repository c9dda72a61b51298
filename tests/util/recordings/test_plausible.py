"""What recordings show of their unit, sampling rate, and the order and signs of their leads."""

import numpy as np
import pytest

from util.errors import ECGError
from util.leads import LEADS
from util.recordings.plausible import Looks, Told, beats_a_minute, judge
from util.recordings.recording import Recording

FLAGS = Told(frozenset(("units", "fs", "leads")), leads=LEADS)
FILES = Told()


def ecg(beats=70.0, fs=500.0, seconds=10.0, seed=0):
    """Float32 (n, 12) in mV: a spike a beat, whose places vary by 5 %, and slow waves."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * fs)) / fs
    gaps = 60 / beats * (1 + 0.05 * rng.normal(size=int(seconds * beats / 20) + 9))
    spikes = sum(np.exp(-(((time - place) / 0.012) ** 2)) for place in gaps.cumsum())
    waves = sum(np.exp(-(((time - place - 0.25) / 0.05) ** 2)) for place in gaps.cumsum())
    axes = rng.normal(size=(8, 2)) + [[1.2, 0.3]] * 8
    two = np.stack([spikes, waves], 1) @ axes.T + rng.normal(0, 0.01, (len(time), 8))
    one, second = two[:, 0], two[:, 1]
    limb = [one, second, second - one, -(one + second) / 2, one - second / 2, second - one / 2]
    return np.stack([*limb, *two[:, 2:].T], 1).astype(np.float32)


def looks_at(signals, leads=LEADS, fs=500.0, database="mine"):
    looks = Looks()
    for number, signal in enumerate(signals):
        looks.add(f"r{number}", database, Recording(signal, tuple(leads), fs))
    return looks


@pytest.mark.parametrize("beats", [40, 72, 110, 180])
@pytest.mark.parametrize("fs", [100, 500])
def test_beats_a_minute(beats, fs):
    assert beats_a_minute(ecg(beats, fs), fs) == pytest.approx(beats, rel=0.1)


def test_noise_and_silence_have_no_rhythm():
    rng = np.random.default_rng(0)
    for signal in (rng.normal(size=(5000, 12)), np.zeros((5000, 12)), np.ones((3, 12))):
        assert beats_a_minute(signal, 500) is None


@pytest.mark.parametrize(
    "true, said, words",
    [
        (100, 500, "at 500 Hz: no heart beats so, --fs is wrong (100 or 125 "),
        (500, 100, "at 100 Hz: no heart beats so, --fs is wrong (400 or 500 "),
        (125, 1000, "at 1000 Hz: no heart beats so, --fs is wrong (100 or 125 or 128 "),
    ],
)
def test_a_wrong_rate(true, said, words):
    signals = [ecg(fs=true, seed=seed) for seed in range(8)]
    with pytest.raises(ECGError, match="heart beats a minute") as error:
        judge(looks_at(signals, fs=said), FLAGS)
    assert words in str(error.value)
    assert "give the right one, or --assume to go on as it is" in str(error.value)
    with pytest.raises(ECGError, match="the sampling rate in the files is wrong"):
        judge(looks_at(signals, fs=said), FILES)
    assert len(judge(looks_at(signals, fs=said), Told(assume=True))) == 1


def test_a_usual_rate_is_said_and_an_odd_one_is_a_warning(capsys):
    assert judge(looks_at([ecg(seed=seed) for seed in range(8)]), FLAGS) == []
    out = capsys.readouterr().out
    assert "heart beats a minute, the median of 8 recordings" in out and "warning" not in out
    judge(looks_at([ecg(fs=200, seed=seed) for seed in range(8)]), FLAGS)
    assert "is --fs right?" in capsys.readouterr().out


def test_few_recordings_prove_nothing_of_the_rate(capsys):
    assert judge(looks_at([ecg(fs=100)] * 4), FLAGS) == []


@pytest.mark.parametrize("factor", [1000.0, 1e-3])
@pytest.mark.parametrize(
    "told, words", [(FLAGS, "say --units "), (FILES, "mend them, or --assume to go on")]
)
def test_an_amplitude_that_no_ecg_has(factor, told, words):
    looks = looks_at([ecg() * np.float32(factor)])
    with pytest.raises(ECGError, match="no ECG has that") as error:
        judge(looks, told)
    assert words in str(error.value)
    assert judge(looks, Told(frozenset(("units",)), units=True)) == []  # it was said
    assert len(judge(looks, Told(assume=True))) == 1


def test_a_few_recordings_of_another_unit_are_a_warning(capsys):
    signals = [ecg(seed=seed) * np.float32(1e-3 if seed == 3 else 1) for seed in range(6)]
    assert judge(looks_at(signals), FLAGS) == []
    assert "1 of 6 recordings looked at, such as r3 with" in capsys.readouterr().out


def test_another_order_names_the_leads_by_what_was_told():
    leads = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    mixed = ecg()[:, [LEADS.index(lead) for lead in leads]]
    told = Told(frozenset(("leads",)), leads=("V6", "-", *LEADS[:11]))
    with pytest.raises(ECGError) as error:
        judge(looks_at([mixed]), told)
    assert "--leads V6,-,I,II,III,aVR,aVF,aVL,V1,V2,V3,V4,V5, or --assume" in str(error.value)
    with pytest.raises(ECGError, match="mend the files, or --assume"):
        judge(looks_at([mixed]), FILES)


def test_cabrera_s_order_has_a_turned_lead():
    leads = ["aVL", "I", "aVR", "II", "aVF", "III", "V1", "V2", "V3", "V4", "V5", "V6"]
    signal = ecg()[:, [LEADS.index(lead) for lead in leads]]
    signal[:, 2] *= -1
    with pytest.raises(ECGError) as error:
        judge(looks_at([signal]), FLAGS)
    assert "--leads aVL,I,-aVR,II,aVF,III,V1,V2,V3,V4,V5,V6" in str(error.value)


@pytest.mark.parametrize("lead", LEADS[:6])
def test_a_turned_sign_has_a_cure(lead):
    signal = ecg()
    signal[:, LEADS.index(lead)] *= -1
    with pytest.raises(ECGError, match=f"the sign of lead {lead} is turned") as error:
        judge(looks_at([signal]), FLAGS)
    cure = ",".join(f"-{name}" if name == lead else name for name in LEADS)
    assert f"--leads{'=' if lead == 'I' else ' '}{cure}, or" in str(error.value)


def test_three_leads_are_compared_too():
    signal = ecg()[:, :3]
    assert judge(looks_at([signal], LEADS[:3]), FLAGS) == []
    signal[:, 2] *= -1
    with pytest.raises(ECGError, match="the sign of lead III is turned"):
        judge(looks_at([signal], LEADS[:3]), FLAGS)


def test_a_few_recordings_that_do_not_follow_are_counted(capsys):
    signals = [ecg(seed=seed) for seed in range(6)]
    signals[4][:, 3] *= -1
    assert judge(looks_at(signals), FLAGS) == []
    out = capsys.readouterr().out
    assert "the limb leads of 1 of 6 recordings looked at, such as r4, do not follow" in out
    assert "they would if they were I II III -aVR aVL" in out


def test_databases_are_judged_apart():
    looks = looks_at([ecg(seed=seed) for seed in range(6)])
    signal = ecg()
    signal[:, 3] *= -1
    looks.add("x", "other", Recording(signal, LEADS, 500.0))
    with pytest.raises(ECGError, match="the sign of lead aVR of other is turned"):
        judge(looks, FILES)
