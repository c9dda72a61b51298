"""What an import sees, assumes and leaves out, for every importer: as a user meets it."""

import csv

import numpy as np
import pytest

from data_preparation import data_extraction_without_preprocessing as extraction
from data_preparation import import_arrays
from data_preparation.building.reformat import reformat
from tests.support.wfdb_files import write_record
from tests.util.recordings.test_plausible import ecg
from util.data.store import RecordStore
from util.leads import LEADS
from util.processes.program import run_main

MIMIC = [
    LEADS.index(lead)
    for lead in ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
]
RECORDS = 6


def counts(seed, **options):
    return np.rint(ecg(seed=seed, **options) * 1000).astype("<i2")


def write_all(folder, change=lambda counts: counts, comments=(), fs=500.0, **header):
    for seed in range(RECORDS):
        made = change(counts(seed, fs=fs, seconds=20))
        write_record(folder, f"r{seed}", made, comments=comments, **header)
    return folder


def extract(folder, out, *flags):
    where = ["--input_dir", folder, "--output_dir", out / "extracted", "--workers", 1]
    return run_main(extraction.main, [str(word) for word in (*where, *flags)])


def import_array(given, out, *flags):
    where = ["--input", given, "--output_dir", out / "extracted", "--workers", 1]
    return run_main(import_arrays.main, [str(word) for word in (*where, *flags)])


def refused(capsys, out, status):
    said = capsys.readouterr()
    assert status == 2 and not (out / "extracted").exists()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    "options, words",
    [
        ({"change": lambda counts: counts[:, MIMIC]}, "hold if they are I II III aVR aVF aVL V1"),
        (
            {"change": lambda counts: counts * np.int16([1] * 3 + [-1] + [1] * 8)},
            "sign of lead aVR",
        ),
        ({"fs": 100.0}, "no heart beats so, the sampling rate in the files is wrong (100 or "),
        ({"gain": "1/mV"}, "by the units and gains of the files: no ECG has that"),
        ({"gain": "1000000/mV"}, "by the units and gains of the files: no ECG has that"),
    ],
)
def test_wfdb_is_looked_at_too(tmp_path, capsys, options, words):
    folder = write_all(tmp_path / "in", **options)
    error = refused(capsys, tmp_path, extract(folder, tmp_path))
    assert words in error and "or --assume to go on as it is" in error
    assert extract(folder, tmp_path, "--assume") == 0
    out = capsys.readouterr().out
    block = out.partition("gone on with all the same (--assume):\n  ")[2]
    assert f"warning: {block.splitlines()[0]}\n" in out
    reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs250")
    assert len(store) == RECORDS and store.meta["command"][0].endswith("--min_seconds 2")
    assert "--assume" in store.meta["command"][0]


def test_recordings_as_they_should_be_pass_without_a_warning(tmp_path, capsys):
    assert extract(write_all(tmp_path / "in"), tmp_path) == 0
    out = capsys.readouterr().out
    assert "peak to peak 1." in out and "heart beats a minute, the median of 6" in out
    assert "warning" not in out and "assumed" not in out and "left out" not in out


def test_csv_files_in_another_order(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for seed in range(RECORDS):
        lines = [",".join(f"{value:.4f}" for value in row) for row in ecg(seed=seed)[:, MIMIC]]
        (tmp_path / "in" / f"r{seed}.csv").write_text("\n".join([",".join(LEADS), *lines]) + "\n")
    status = import_array(tmp_path / "in", tmp_path, "--fs", 500)
    assert "mend the files, or --assume" in refused(capsys, tmp_path, status)


def test_a_wrong_fs_of_an_array(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.stack([ecg(fs=100, seed=k) for k in range(RECORDS)]))
    status = import_array(tmp_path / "a.npy", tmp_path, "--fs", 500)
    assert "--fs is wrong (100 or 125 " in refused(capsys, tmp_path, status)
    assert import_array(tmp_path / "a.npy", tmp_path, "--fs", 100) == 0


def test_a_turned_lead_is_mended_by_the_advice(tmp_path, capsys):
    array = np.stack([ecg(seed=k) for k in range(RECORDS)])
    turned = array * np.float32([1, 1, 1, -1] + [1] * 8)
    np.save(tmp_path / "a.npy", turned)
    error = refused(capsys, tmp_path, import_array(tmp_path / "a.npy", tmp_path, "--fs", 500))
    advice = error.partition("give ")[2].partition(", or ")[0].split()
    assert advice == ["--leads", "I,II,III,-aVR,aVL,aVF,V1,V2,V3,V4,V5,V6"]
    assert import_array(tmp_path / "a.npy", tmp_path, "--fs", 500, "--target_fs", 500, *advice) == 0
    reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs500")
    np.testing.assert_allclose(store.read(0), array[0], atol=6e-4)


@pytest.mark.parametrize("unit", ["µV", "μV", "uv", "microvolts", "Microvolt", "UV"])
def test_units_in_any_writing(tmp_path, unit):
    np.save(tmp_path / "a.npy", np.stack([counts(k) for k in range(2)]))
    flags = ("--fs", 500, "--target_fs", 500, "--units", unit)
    assert import_array(tmp_path / "a.npy", tmp_path, *flags) == 0
    reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs500")
    np.testing.assert_array_equal(store.counts(1), counts(1))
    assert "--units uV" in store.meta["command"][0]


def test_no_unit(tmp_path, capsys):
    with pytest.raises(SystemExit):
        import_array(tmp_path / "a.npy", tmp_path, "--fs", 500, "--units", "mmHg")
    assert "'mmHg' is no voltage; use mV, uV, V or nV" in capsys.readouterr().err


def test_what_was_assumed_and_left_out_stands_in_one_block_at_the_end(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for seed in range(RECORDS):
        np.save(tmp_path / "in" / f"r{seed}.npy", ecg(seed=seed))
    np.save(tmp_path / "in" / "short.npy", ecg()[:100])
    (tmp_path / "in" / "labels.csv").write_text("record,AF\nr0,1\n")
    padded = np.concatenate([np.zeros((500, 12), np.float32), ecg()])
    np.save(tmp_path / "in" / "padded.npy", padded)
    assert import_array(tmp_path / "in", tmp_path, "--fs", 500, "--trim") == 0
    end = capsys.readouterr().out.partition("assumed, as nobody said otherwise:\n")[2]
    assert end.splitlines()[:8] == [
        "  the samples are millivolts (--units)",
        f"  the leads come in the order {' '.join(LEADS)} (--leads)",
        "  the axis of 12 is that of the leads, of each file by itself (--layout)",
        "  the database is called in (--database)",
        "left out:",
        "  1 skipped: shorter than the minimum length",
        "  CSV files beside the others, taken for tables and not for recordings: 1, such as "
        "labels.csv",
        "  1 s of zeros or NaN at the ends of 1 recordings (--trim)",
    ]
    assert end.rstrip().endswith("skipped.csv")


def test_remarks_are_counted_by_kind(tmp_path, capsys):
    write_all(tmp_path / "in", gain="0", change=lambda counts: counts // 5)
    flat = counts(9)
    flat[:, 7] = 0
    write_record(tmp_path / "in", "flat", flat, comments=["#Dx: "])
    leads = [*LEADS[:11], "PLETH"]
    write_record(tmp_path / "in", "pleth", counts(8), comments=(), leads=leads)
    assert extract(tmp_path / "in", tmp_path) == 0
    out = capsys.readouterr().out
    assumed, _, rest = out.partition("assumed, as nobody said otherwise:\n")[2].partition("left o")
    assert assumed == "  6 with the remark: no gain in the header, 200 counts per unit assumed\n"
    left_out, _, rest = rest.partition("8 kept records carry a remark: see the column flags of")
    assert left_out == "ut:\n  1 with the remark: left out: PLETH\n"
    assert "\n  1 with the remark: no diagnosis\n  1 with the remark: flat lead\n" in rest


@pytest.mark.parametrize("comments, coded", [((), False), (("#Dx: 426783006",), True)])
def test_the_challenge_is_named_where_there_are_such_codes(tmp_path, capsys, comments, coded):
    assert extract(write_all(tmp_path / "in", comments=comments), tmp_path) == 0
    out = capsys.readouterr().out + reformat(tmp_path / "extracted", tmp_path / "store").summary()
    assert ("scored" in out) == ("Challenge" in out) == coded
    with open(tmp_path / "extracted" / "records.csv", newline="") as file:
        assert {row["flags"] for row in csv.DictReader(file)} == {""}


def test_recordings_too_short_by_a_wrong_rate(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.stack([ecg(fs=100, seed=k) for k in range(4)]))
    assert import_array(tmp_path / "a.npy", tmp_path, "--fs", 1000) == 2
    error = capsys.readouterr().err
    assert "all are too short: lower --min_seconds, unless the sampling rate is wrong" in error


def test_a_folder_without_recordings_says_what_is_there(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.npz", "b.npz", "README"):
        (tmp_path / "in" / name).write_text("x")
    words = "what is there: 2 .npz, 1 without an ending"
    assert words in refused(capsys, tmp_path, extract(tmp_path / "in", tmp_path))
    assert words in refused(capsys, tmp_path, import_array(tmp_path / "in", tmp_path, "--fs", 500))


@pytest.mark.parametrize("lead, factor", [("V1", 1000), ("V6", 1e-3), ("I", 1000)])
def test_a_lead_in_another_unit_stops_an_import(tmp_path, capsys, lead, factor):
    array = np.stack([ecg(seed=k) for k in range(RECORDS)])
    array[:, :, LEADS.index(lead)] *= factor
    np.save(tmp_path / "a.npy", array)
    flags = ("--fs", 500, "--units", "mV")
    error = refused(capsys, tmp_path, import_array(tmp_path / "a.npy", tmp_path, *flags))
    assert f"lead {lead} has " in error and "it is in another unit; bring all leads to one" in error
    assert import_array(tmp_path / "a.npy", tmp_path, *flags, "--assume") == 0


def test_a_lead_that_is_off_or_small_is_no_other_unit(tmp_path):
    array = np.stack([ecg(seed=k) for k in range(RECORDS)])
    array[:, :, 6], array[:, :, 7] = 0, array[:, :, 7] / 50
    array[0, :, 8] *= 1000  # of one recording alone
    np.save(tmp_path / "a.npy", array)
    assert import_array(tmp_path / "a.npy", tmp_path, "--fs", 500) == 0
