"""The cheap look at equal signals while a store is made."""

import numpy as np
import pytest
from scipy.signal import resample

from data_preparation.building.reformat import reformat
from data_preparation.checking.same_signals import same_signals
from data_preparation.importing.wfdb_source import extract
from tests.support.wfdb_files import ecg_counts, write_record
from util.data.store import RecordStore
from util.leads import LEADS


@pytest.fixture
def build(tmp_path, capsys):
    """Write {path: (counts, fs)}, build a store at 100 Hz; returns (pairs of names, said)."""

    def build_from(recordings, leads=LEADS):
        for path, (counts, fs) in recordings.items():
            folder, name = path.split("/")
            counts = np.rint(counts).clip(-32000, 32000).astype("<i2")
            write_record(tmp_path / "in" / folder, name, counts, fs=str(fs), leads=leads)
        extract(tmp_path / "in", tmp_path / "x", [100], 1)
        capsys.readouterr()
        reformat(tmp_path / "x", tmp_path / "store")
        store = RecordStore(tmp_path / "store" / "fs100")
        names = store.records["record"]
        return [(names[a], names[b]) for a, b in same_signals(store)], capsys.readouterr().out

    return build_from


def different(n=20, leads=12):
    """{path: recording} of as many, with beats at times of their own."""
    recordings = {}
    for seed in range(n):
        rng = np.random.default_rng(seed)
        beats = np.zeros((5000, leads))
        beats[np.cumsum(rng.integers(300, 500, 9))] = rng.normal(0, 1000, leads)
        wave = np.exp(-(np.linspace(-3, 3, 60) ** 2))
        signal = np.apply_along_axis(np.convolve, 0, beats, wave, "same")
        recordings[f"a/R{seed:02d}"] = signal + ecg_counts(5000, seed, leads) / 20, 500
    return recordings


def test_different_recordings_are_none_twice(build):
    pairs, said = build(different())
    assert pairs == [] and "twice" not in said


def test_an_exact_copy_of_another_name_in_another_database(build):
    recordings = different()
    pairs, said = build(recordings | {"b/copy": recordings["a/R07"]})
    assert pairs == [("R07", "copy")]
    assert "twice, by their signals: 1, such as copy, which is R07;" in said
    assert "1 in another database" in said and "--duplicates" in said


def test_a_copy_at_another_rate(build):
    """Its samples differ by rounding, so that a checksum does not find it."""
    recordings = different()
    copies = {f"a/S{n}": (resample(recordings[f"a/R{n:02d}"][0], 1000), 100) for n in range(5)}
    pairs, said = build(recordings | copies)
    assert pairs == [(f"R{n:02d}", f"S{n}") for n in range(5)]
    assert "by their signals: 5" in said


def test_three_of_one_and_of_a_single_lead(build):
    recordings = different(leads=1)
    copies = {f"a/S{n}": recordings["a/R03"] for n in range(2)}
    pairs, _ = build(recordings | copies, leads=("I",))
    assert [copy for _, copy in pairs] == ["S0", "S1"]


def test_a_louder_copy_is_left_to_the_thorough_search(build):
    recordings = different()
    signal, fs = recordings["a/R03"]
    assert build(recordings | {"a/loud": (2 * signal, fs)})[0] == []
