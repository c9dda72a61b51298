import csv

import numpy as np
import pytest

from benchmarks.duplicates import COPIES
from data_preparation import check_store, reformat_memmap
from data_preparation.building import reformat as building
from data_preparation.checking.duplicates import (
    COLUMNS,
    compare,
    find_duplicates,
    missing_leads,
    probe_leads,
)
from data_preparation.importing.wfdb_source import extract
from data_preparation.simulator.challenge_files import simulated_record
from data_preparation.simulator.ecg_model import simulate
from data_preparation.simulator.patients import draw_findings
from tests.support.wfdb_files import SHARED, needs_real, write_record
from util.data.store import RecordStore, quantise, spread, write_store
from util.leads import LEADS, lead_cell, lead_index
from util.processes.program import run_main
from util.recordings.recording import resample_to

KINDS = {
    "exact": "exact",
    "shifted": "shifted",
    "cut": "shifted",
    "halved": "rescaled",
    "doubled": "rescaled",
    "offset": "rescaled",
    "resampled": "near",
    "noisy": "near",
}


def make_store(folder, recordings, fs=100):
    """A store of (name, float mV (n, 12) at fs, {column: value}) in an ``fs100`` under
    ``folder``.
    """

    def rows():
        for name, signal, columns in recordings:
            counts, scale = quantise(signal.astype(np.float32))
            has = columns.pop("has", LEADS)
            counts = spread(counts[:, lead_index(has)], has)
            yield (
                {
                    "record": name,
                    "database": "a",
                    "fs_original": fs,
                    "scale_uv": scale,
                    "age": None,
                    "sex": "",
                    "dx": ["426783006"],
                    "fold": 0,
                    "leads": lead_cell(has),
                }
                | columns,
                counts,
            )

    write_store(folder / f"fs{fs}", fs, rows(), ["a test"])
    return RecordStore(folder / f"fs{fs}")


def at_100_hz(signal, fs):
    return resample_to(np.asarray(signal, np.float32), fs, [100])[100]


def heart(index, seconds=10):
    """A simulated recording at 500 Hz of that many seconds, float (n, 12) mV."""
    random = np.random.default_rng([7, index])
    return simulate(draw_findings(random), 500, 500 * seconds, 50, random)


def names(found):
    return {(row["record_a"], row["record_b"]) for row in found.pairs}


def plant(signals, fs, count, random):
    """[(number of the original, kind, copy)] of ``count`` of the signals, each kind in turn."""
    originals = random.choice(len(signals), count, replace=False)
    return [
        (int(i), COPIES[k % len(COPIES)].__name__, COPIES[k % len(COPIES)](signals[i], fs, random))
        for k, i in enumerate(originals)
    ]


def test_fifty_planted_copies_of_all_kinds_are_found_and_no_others(tmp_path):
    signals = []
    for i in range(6, 106):  # without the first six, one of each database, of up to a minute
        database, _, _, _, counts = simulated_record(3, i)
        signals.append(at_100_hz(counts / 1000, 1000 if database == "ptb" else 500))
    planted = plant(signals, 100, 50, np.random.default_rng(0))
    assert {kind for _, kind, _ in planted} == set(KINDS) == {copy.__name__ for copy in COPIES}
    recordings = [(f"R{i}", signal, {}) for i, signal in enumerate(signals)]
    recordings += [(f"C{i}", copy, {}) for i, _, copy in planted]
    found = find_duplicates(make_store(tmp_path, recordings))
    assert names(found) == {(f"R{i}", f"C{i}") for i, _, _ in planted}
    kinds = {row["record_b"]: row["kind"] for row in found.pairs}
    assert kinds == {f"C{i}": KINDS[kind] for i, kind, _ in planted}
    assert found.blind == 0


def test_two_recordings_of_one_heart_are_not_one(tmp_path):
    """The next ten seconds of the same heart, electrodes and rhythm, and the same heart on
    another day.
    """
    recordings = []
    for i in range(25):
        findings = draw_findings(np.random.default_rng([5, i]))
        minute = at_100_hz(simulate(findings, 500, 10000, 50, np.random.default_rng([6, i])), 500)
        later = at_100_hz(simulate(findings, 500, 5000, 50, np.random.default_rng([8, i])), 500)
        recordings += [
            (f"now{i}", minute[:1000], {}),
            (f"next{i}", minute[1000:], {}),
            (f"later{i}", later, {}),
        ]
    assert find_duplicates(make_store(tmp_path, recordings)).pairs == []


def test_what_is_told_of_a_pair(tmp_path):
    """b begins 2.335 s into a, lasts 6 s, three times as high, in another fold, database and
    patient.
    """
    signal, there = heart(1), {"fold": 3, "database": "b", "patient": "p2", "dx": []}
    store = make_store(
        tmp_path,
        [
            ("a", at_100_hz(signal, 500), {"patient": "p1"}),
            ("b", 3 * at_100_hz(signal[1167:4167], 500), there),
        ],
    )
    [row] = find_duplicates(store).pairs
    assert list(row) == list(COLUMNS)
    assert (row["kind"], row["leak"], row["drop"]) == ("shifted", "fold patient", "b")
    assert float(row["shift"]) == pytest.approx(2.334, abs=0.003)
    assert float(row["overlap"]) == pytest.approx(6, abs=0.02)
    assert float(row["gain"]) == pytest.approx(3, rel=0.02)
    assert float(row["correlation"]) > 0.99


def test_compare_is_the_correlation_of_the_overlap(tmp_path):
    """Against a slow loop; noise of half the variance must be told from the same."""
    a, b = at_100_hz(heart(2), 500), at_100_hz(heart(2), 500)[150:]
    store = make_store(
        tmp_path,
        [
            ("a", a, {}),
            ("b", b, {}),
            ("c", a + np.random.default_rng(0).normal(0, 1, a.shape) * 0.5 * a.std(axis=0), {}),
        ],
    )
    assert compare(store, 0, 1, [152], np.ones(12, bool))["correlation"] > 0.999
    assert compare(store, 0, 1, [100], np.ones(12, bool)) is None
    assert compare(store, 0, 2, [0], np.ones(12, bool)) is None
    assert compare(store, 0, 1, [700], np.ones(12, bool)) is None  # an overlap of less than 4 s


@pytest.mark.parametrize("seconds", [0.9, 1.0, 1.05, 1.4])
def test_nothing_is_confirmed_by_a_few_samples(tmp_path, seconds):
    """A second at the ends is not compared: what is left of these is alike by chance."""
    short = at_100_hz(heart(3), 500)[: round(100 * seconds)]
    store = make_store(tmp_path, [("a", short, {}), ("b", short + 0.01, {})])
    with np.errstate(all="raise"):
        assert compare(store, 0, 1, [0], np.ones(12, bool)) is None


def test_the_copy_that_goes_has_no_diagnosis_or_is_shorter_or_later(tmp_path):
    signals = [at_100_hz(heart(i), 500) for i in range(3)]
    store = make_store(
        tmp_path,
        [
            ("no_dx", signals[0], {"dx": []}),
            ("dx", signals[0][:800], {}),
            ("short", signals[1][:700], {}),
            ("long", signals[1], {}),
            ("first", signals[2], {}),
            ("second", 2 * signals[2], {}),
            ("exact", signals[2], {}),
        ],
    )
    found = find_duplicates(store)
    assert {row["drop"] for row in found.pairs} == {"no_dx", "short", "second", "exact"}
    assert {(row["record_a"], row["record_b"]) for row in found.pairs} >= {
        ("first", "exact"),
        ("first", "second"),
    }


def test_recordings_are_compared_on_the_leads_they_share(tmp_path):
    """One lead of a twelve-lead recording is found again; recordings that share no lead are not
    compared.
    """
    signal, other = at_100_hz(heart(3), 500), at_100_hz(heart(4), 500)
    store = make_store(
        tmp_path,
        [
            ("twelve", signal, {}),
            ("other", other, {}),
            ("one", signal[200:], {"has": ("I",)}),
            ("two", signal[100:], {"has": ("II",)}),
        ],
    )
    assert missing_leads(store).sum(axis=1).tolist() == [0, 0, 11, 11]
    assert names(find_duplicates(store)) == {("twelve", "one"), ("twelve", "two")}


def test_probe_leads_are_shared_by_all_that_share_leads():
    def lacking(*has):
        return [lead not in has for lead in LEADS]

    assert probe_leads(np.array([lacking(*LEADS)])) == ["II", "I"]
    assert probe_leads(np.array([lacking("V3")])) == ["V3"]
    assert set(probe_leads(np.array([lacking(*LEADS), lacking("I"), lacking("V1", "V2")]))) == {
        "I",
        "V1",
        "V2",
    }


def test_what_only_a_hash_can_find_is_counted(tmp_path):
    short, flat = at_100_hz(heart(5), 500)[:220], np.full((1000, 12), 0.2)
    found = find_duplicates(
        make_store(
            tmp_path,
            [
                ("s1", short, {}),
                ("s2", short, {}),
                ("s3", 2 * short, {}),
                ("flat", flat, {}),
                ("whole", at_100_hz(heart(6), 500), {}),
            ],
        )
    )
    assert names(found) == {("s1", "s2")}
    assert found.blind == 3  # s1 and s2 are one


def test_a_flat_lead_hides_no_copy(tmp_path):
    signal = at_100_hz(heart(8), 500)
    broken = signal[150:].copy()
    broken[:, 1] = 0
    assert names(find_duplicates(make_store(tmp_path, [("a", signal, {}), ("b", broken, {})]))) == {
        ("a", "b")
    }


def test_a_long_recording_holds_a_short_one(tmp_path):
    signal = at_100_hz(heart(9, seconds=120), 500)
    [row] = find_duplicates(
        make_store(tmp_path, [("long", signal, {}), ("short", signal[9000:9500], {})])
    ).pairs
    assert (row["kind"], row["shift"], row["overlap"]) == ("shifted", "90.000", "5.00")


# ---- the commands
@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Extraction of 12 recordings, of which b0 to b3 are a0 to a3: the same, twice as high, cut,
    and 2 s later.
    """
    folder = tmp_path_factory.mktemp("duplicates")
    for i in range(8):
        counts = (1000 * heart(20 + i)).astype("<i2")
        write_record(folder / "in" / "A", f"a{i}", counts)
        copy = (counts, 2 * counts, counts[:3500], counts[1000:])[i % 4]
        if i < 4:
            write_record(folder / "in" / "B", f"b{i}", copy)
    extract(folder / "in", folder / "extracted", [250, 100], workers=1)
    return folder


def reformat(folder, output, *flags):
    return run_main(
        reformat_memmap.main,
        ["--input_dir", str(folder / "extracted"), "--output_dir", str(output), *flags],
    )


def check(*words):
    return run_main(check_store.main, [str(word) for word in words])


def test_found_listed_left_out_and_gone(prepared, tmp_path, capsys):
    assert reformat(prepared, tmp_path / "store") == 0
    before = {
        row.record: row.fold for row in RecordStore(tmp_path / "store/fs100").records.itertuples()
    }
    assert check(tmp_path / "store", "--duplicates", "--output", tmp_path / "pairs.csv") == 0
    said = capsys.readouterr().out
    assert "pairs of recordings with the same signal: 4 (1 exact, 1 rescaled, 2 shifted)" in said
    assert "4 are across databases" in said and "leaves out 4 records" in said
    with open(tmp_path / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["record_a"], row["record_b"], row["drop"]) for row in rows] == [
        (f"a{i}", f"b{i}", f"b{i}") for i in range(4)
    ]
    assert [row["leak"] == "fold" for row in rows] == [
        before[f"a{i}"] != before[f"b{i}"] for i in range(4)
    ]

    assert reformat(prepared, tmp_path / "clean", "--drop", str(tmp_path / "pairs.csv")) == 0
    assert (
        f"left out, as --drop {tmp_path / 'pairs.csv'} says: 4 records" in capsys.readouterr().out
    )
    for fs in (100, 250):
        clean, whole = (
            RecordStore(tmp_path / f"clean/fs{fs}"),
            RecordStore(tmp_path / f"store/fs{fs}"),
        )
        assert sorted(clean.records["record"]) == [f"a{i}" for i in range(8)]
        rows = {name: i for i, name in enumerate(whole.records["record"])}
        for i, name in enumerate(clean.records["record"]):
            assert (clean.read(i) == whole.read(rows[name])).all()
        assert clean.meta["command"][-1].endswith("--drop pairs.csv")
    assert check(tmp_path / "clean", "--duplicates", "--output", tmp_path / "none.csv") == 0
    assert "pairs of recordings with the same signal: 0;" in capsys.readouterr().out
    assert (tmp_path / "none.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert reformat(prepared, tmp_path / "again", "--drop", str(tmp_path / "none.csv")) == 0


def test_a_plain_list_of_records_is_left_out(prepared, tmp_path):
    (tmp_path / "list.csv").write_text("why,record\nnoise, a7\nnoise,a7\n,\n")
    assert reformat(prepared, tmp_path / "store", "--drop", str(tmp_path / "list.csv")) == 0
    assert "a7" not in set(RecordStore(tmp_path / "store/fs100").records["record"])


def test_labels_of_records_left_out_need_ignore_unknown(prepared, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("record\na7\n")
    rows = [f"{side}{i},{i % 2}\n" for side, n in (("a", 8), ("b", 4)) for i in range(n)]
    (tmp_path / "mine.csv").write_text("record,ill\n" + "".join(rows))
    flags = ["--drop", str(tmp_path / "list.csv"), "--labels", str(tmp_path / "mine.csv")]
    assert reformat(prepared, tmp_path / "store", *flags) == 2
    assert "a7" in capsys.readouterr().err
    assert reformat(prepared, tmp_path / "store", *flags, "--ignore_unknown") == 0
    assert len(RecordStore(tmp_path / "store/fs100")) == 11
    assert check(tmp_path / "store") == 0 and "labels mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content,words",
    [
        (b"record\nzz9\na1\n", "names 1 records that the extraction has not: zz9"),
        (b"name\na1\n", "needs a column record, or drop"),
        (b"", "is empty"),
        (b"record\n\xff\xfe\n", "is not UTF-8 text"),
        (None, "cannot read"),
        (
            ("record\n" + "".join(f"a{i}\n" for i in range(8)) + "b0\nb1\nb2\nb3\n").encode(),
            "names all 12 records",
        ),
    ],
)
def test_a_wrong_list_is_a_sentence(prepared, tmp_path, capsys, content, words):
    path = tmp_path / "wrong.csv"
    if content is not None:
        path.write_bytes(content)
    assert reformat(prepared, tmp_path / "store", "--drop", str(path)) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: ")
        and str(path) in said
        and words in said
        and "Traceback" not in said
    )
    assert not (tmp_path / "store").exists()


def test_a_damaged_store_is_not_searched(prepared, tmp_path, capsys):
    assert reformat(prepared, tmp_path / "store") == 0
    with open(tmp_path / "store/fs100/signals.dat", "r+b") as file:
        file.write(b"damage")
    assert check(tmp_path / "store", "--duplicates", "--output", tmp_path / "pairs.csv") == 2
    assert "damaged" in capsys.readouterr().out and not (tmp_path / "pairs.csv").exists()


def test_wrong_output_is_a_sentence(prepared, tmp_path, capsys):
    assert reformat(prepared, tmp_path / "store") == 0
    assert check(tmp_path / "store", "--duplicates", "--output", tmp_path / "no/pairs.csv") == 2
    assert "no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        check(tmp_path / "store", "--output", "pairs.csv")
    assert ended.value.code == 2 and "--duplicates" in capsys.readouterr().err


@needs_real
@pytest.mark.slow
def test_the_real_recordings_hold_one_pair(tmp_path):
    extract(SHARED / "real_ecg/training", tmp_path / "extracted", [100], workers=1)
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    found = find_duplicates(RecordStore(tmp_path / "store/fs100"))
    assert names(found) == {("E07509", "E07510")} and found.pairs[0]["kind"] == "exact"
