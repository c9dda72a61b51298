"""Recordings in arrays: the same store as from WFDB, and a sentence for everything that is wrong
with them.
"""

import base64
import csv
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_preparation import data_extraction_without_preprocessing as extraction
from data_preparation import import_arrays
from data_preparation.building import reformat as building
from data_preparation.importing import shards
from data_preparation.importing.report import AGAIN
from data_preparation.importing.wfdb_source import extract
from tests.support.dicom_files import CODED, made_dicom
from tests.support.hospital_files import made_lead, made_record, stand_in
from tests.support.wfdb_files import ecg_counts, write_record
from util.data.store import RecordStore
from util.errors import ECGError
from util.leads import LEADS
from util.processes.program import run_main

h5py = pytest.importorskip("h5py")
ROOT = Path(__file__).resolve().parents[2]
N, SAMPLES = 14, 1500
NAMES = [f"R{i:02d}" for i in range(N)]


def counts(i, samples=SAMPLES):
    """int16 (samples, 12) in microvolts."""
    return ecg_counts(samples, seed=i)


def millivolts(array, dtype="f4"):
    """As the reader of WFDB makes them of microvolts: to the last bit."""
    return (array.astype(np.float32) * np.float32(1e-3)).astype(dtype)


@pytest.fixture(scope="module")
def array():
    """int16 (records, leads, time) in microvolts."""
    return np.stack([counts(i).T for i in range(N)])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The store of the same signals as WFDB."""
    folder = tmp_path_factory.mktemp("wfdb")
    for i, name in enumerate(NAMES):
        write_record(folder / "mine", name, counts(i), comments=())
    extract(folder / "mine", folder / "extracted", [100, 250], 1)
    building.reformat(folder / "extracted", folder / "store")
    return folder / "store"


def run(given, out, *flags):
    """Exit status of the import into <out>/extracted."""
    workers = () if "--workers" in flags else ("--workers", 1)
    words = ("--input", given, "--output_dir", out / "extracted", *workers, *flags)
    return run_main(import_arrays.main, [str(word) for word in words])


def imported(given, out, *flags):
    """The store at 250 Hz of an import that succeeds."""
    assert run(given, out, *flags) == 0
    building.reformat(out / "extracted", out / "store")
    return RecordStore(out / "store" / "fs250")


def fails(capsys, given, out, *flags):
    """The one sentence of an import that does not begin."""
    assert run(given, out, *flags) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ") and error.count("\n") == 1 and not (out / "extracted").exists()
    )
    return error


def skipped(out):
    with open(out / "extracted" / "skipped.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def write_ids(folder, names=NAMES):
    (folder / "ids.csv").write_text("record,site\n" + "".join(f"{name},x\n" for name in names))
    return folder / "ids.csv"


def write_csv(path, signal, names=LEADS, comma=","):
    lines = [comma.join(names)] + [
        comma.join(repr(float(value)) for value in row) for row in signal
    ]
    path.write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------
# the same store


def as_npy(folder, array):
    np.save(folder / "mine.npy", array)
    return folder / "mine.npy", "--units", "uV", "--ids", write_ids(folder)


def as_npy_time_leads_float64_millivolts(folder, array):
    np.save(folder / "mine.npy", millivolts(array.swapaxes(1, 2), "f8"))
    return folder / "mine.npy", "--ids", write_ids(folder)


def as_npy_big_endian_in_another_order(folder, array):
    order = [5, 0, 3, 11, 1, 2, 4, 6, 7, 8, 9, 10]
    np.save(folder / "mine.npy", np.insert(millivolts(array[:, order], ">f4"), 2, 7, axis=1))
    names = [LEADS[k].upper() for k in order]
    return (
        folder / "mine.npy",
        "--leads",
        ",".join([*names[:2], "-", *names[2:]]),
        "--ids",
        write_ids(folder),
    )


def as_folder_of_npy(folder, array):
    (folder / "mine" / "deep").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        with open(folder / "mine" / "deep" / f"{name}.{'NPY' if i % 2 else 'npy'}", "wb") as file:
            np.save(
                file, np.asfortranarray(millivolts(array[i]))
            )  # of one recording, either order will do
    return (folder / "mine",)


def as_code15(folder, array):
    """Several files, gzip, exam_id beside them, tables beside the files."""
    (folder / "mine").mkdir()
    for part, rows in enumerate((slice(0, 5), slice(5, N))):
        with h5py.File(folder / "mine" / f"exams_part{part}.hdf5", "w") as file:
            values = millivolts(array[rows].swapaxes(1, 2))
            file.create_dataset(
                "tracings", data=values, chunks=(2, SAMPLES, 12), compression="gzip"
            )
            file["exam_id"] = NAMES[rows]
    write_csv(folder / "mine" / "exams.csv", [[1, 2]], ["exam_id", "age"])
    return folder / "mine", "--trim", "--database", "mine"  # code15 by its files' names


def as_sph(folder, array):
    (folder / "mine").mkdir()
    for i, name in enumerate(NAMES):
        with h5py.File(folder / "mine" / f"{name}.h5", "w") as file:
            file["ecg"] = millivolts(array[i], "f8")
    return (folder / "mine",)


def as_csv(folder, array):
    (folder / "mine").mkdir()
    for i, name in enumerate(NAMES):
        signal, order = array[i].T, [*range(11, -1, -1)]
        write_csv(
            folder / "mine" / f"{name}.csv",
            signal[:, order],
            [LEADS[k].lower() for k in order],
            ",;\t"[i % 3],
        )
    return folder / "mine", "--units", "uV"


@pytest.mark.parametrize(
    "form",
    [
        as_npy,
        as_npy_time_leads_float64_millivolts,
        as_npy_big_endian_in_another_order,
        as_folder_of_npy,
        as_code15,
        as_sph,
        as_csv,
    ],
)
def test_every_form_makes_the_store_of_wfdb(tmp_path, array, reference, form):
    given, *flags = form(tmp_path, array)
    imported(given, tmp_path, "--fs", 500, *flags)
    for fs in (100, 250):
        expected, store = (
            RecordStore(root / f"fs{fs}") for root in (reference, tmp_path / "store")
        )
        same = [column for column in expected.records if column not in ("path", "flags")]
        assert store.records[same].equals(expected.records[same])
        assert set(store.records["flags"]) == {""} and store.records["path"].is_unique
        assert (store.path / "signals.dat").read_bytes() == (
            expected.path / "signals.dat"
        ).read_bytes()


@pytest.mark.parametrize("dtype, tolerance", [("f2", 4e-3), ("f4", 6e-4), ("f8", 6e-4)])
def test_float_types(tmp_path, array, dtype, tolerance):
    np.save(tmp_path / "a.npy", (array / 1000).clip(-4, 4).astype(dtype))
    store = imported(tmp_path / "a.npy", tmp_path, "--fs", 250)
    assert store.records["record"].tolist() == [f"a-{i}" for i in range(N)]
    assert np.abs(store.read(3) - (array[3].T / 1000).clip(-4, 4)).max() < tolerance


def test_processes_do_not_change_the_bytes_and_a_second_run_does_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.stack([ecg_counts(250, seed=i) for i in range(300)]))
    flags = ["--fs", 100, "--units", "uV", "--min_seconds", 1]
    monkeypatch.setattr(shards, "ALONE", 0.0)
    for workers in (1, 2):
        imported(tmp_path / "a.npy", tmp_path / str(workers), *flags, "--workers", workers)
    for path in (tmp_path / "1").rglob("*.*"):
        assert (
            path.is_dir()
            or path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()
        )
    made, real = [], shards.extract_shard
    monkeypatch.setattr(
        shards,
        "extract_shard",
        lambda shard, *rest: (made.append(shard["name"]), real(shard, *rest))[1],
    )
    assert run(tmp_path / "a.npy", tmp_path / "1", *flags) == 0 and made == []
    next((tmp_path / "1" / "extracted" / "shards").glob("*.json")).unlink()
    assert run(tmp_path / "a.npy", tmp_path / "1", *flags) == 0 and len(made) == 1
    made.clear()
    assert (
        run(tmp_path / "a.npy", tmp_path / "1", *flags, "--trim") == 0 and len(made) > 3
    )  # other options
    made.clear()
    os.utime(tmp_path / "a.npy", ns=(1, 1))  # other array
    assert run(tmp_path / "a.npy", tmp_path / "1", *flags, "--trim") == 0 and len(made) > 3


def test_the_command_in_the_store_repeats_the_import(tmp_path, array):
    np.save(tmp_path / "a.npy", array[:, :2])
    store = imported(
        tmp_path / "a.npy",
        tmp_path,
        "--fs",
        500.5,
        "--units",
        "uV",
        "--leads",
        "V1,i",
        "--trim",
        "--segment_seconds",
        1,
    )
    assert store.meta["command"][0] == (
        "python data_preparation/import_arrays.py --fs 500.5 --units uV --leads "
        "V1,I "
        "--layout leads_time --target_fs 100 250 --min_seconds 2 --segment_seconds 1 --trim"
    )
    assert store.records["record"].tolist()[:4] == ["a-0_1", "a-0_2", "a-0_3", "a-1_1"]
    assert (
        store.records.groupby("path")["fold"].nunique().max() == 1
    )  # pieces of a recording stay together


def test_patients_go_by_the_name_of_the_recording(tmp_path, array):
    """Ids with dots, as DICOM has them, and pieces."""
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "patients.csv").write_text("record,patient_id\n1.2.0,p\n1.2.7,p\n")
    assert (
        run(
            tmp_path / "a.npy",
            tmp_path,
            "--fs",
            500,
            "--units",
            "uV",
            "--segment_seconds",
            1,
            "--ids",
            write_ids(tmp_path, [f"1.2.{i}" for i in range(N)]),
        )
        == 0
    )
    building.reformat(
        tmp_path / "extracted", tmp_path / "store", patients=tmp_path / "patients.csv"
    )
    records = RecordStore(tmp_path / "store" / "fs100").records
    mine = records[records["patient"] == "p"]
    assert mine["record"].tolist() == [f"1.2.{i}_{k}" for i in (0, 7) for k in (1, 2, 3)]
    assert mine["fold"].nunique() == 1


# ------------------------------------------------------------------------------------------------
# leads


@pytest.mark.parametrize("kind", ["npy", "h5", "csv", "wfdb"])
def test_leads_in_any_order_land_in_their_columns(tmp_path, kind):
    """Whatever the order, every lead's own signal is in its column of the store, and no other."""
    random = np.random.default_rng(3)
    for trial in range(6):
        folder = tmp_path / f"{kind}{trial}"
        folder.mkdir()
        order = random.permutation(12)[: random.integers(2, 13)]
        signal, names = counts(trial), [LEADS[k] for k in order]
        flags = ("--fs", 500, "--units", "uV", "--layout", "leads_time", "--leads", ",".join(names))
        if kind == "npy":
            np.save(folder / "a.npy", signal[:, order].T)
        elif kind == "h5":
            with h5py.File(folder / "a.h5", "w") as file:
                file["x"] = signal[:, order].T
        elif kind == "csv":
            write_csv(folder / "a.csv", signal[:, order], names)
            flags = flags[:4]
        if kind == "wfdb":
            write_record(
                folder, "a", np.ascontiguousarray(signal[:, order]), leads=names, comments=()
            )
            extract(folder, folder / "out" / "extracted", [500], 1)
        else:
            assert run(folder, folder / "out", "--target_fs", 500, *flags) == 0
        building.reformat(folder / "out" / "extracted", folder / "out" / "store")
        store = RecordStore(folder / "out" / "store" / "fs500")
        assert store.fs == 500 and len(store) == 1
        got = store.read(0)
        np.testing.assert_allclose(got[:, order], signal[:, order] / 1000, atol=2e-6)
        chest = [k for k in range(6, 12) if k not in order]
        assert np.isnan(got[:, chest]).all()


def test_fewer_leads_and_leads_without_a_sample(tmp_path, array, capsys):
    eight = (array[:, [0, 1, *range(6, 12)]] / 1000).astype(np.float32)
    eight[2, 7] = np.nan
    np.save(tmp_path / "a.npy", eight)
    flags = ("--fs", 250, "--leads", "I,II,V1,V2,V3,V4,V5,V6", "--no_derive")
    store = imported(tmp_path / "a.npy", tmp_path, *flags)
    assert store.meta["command"][0].endswith("--no_derive")
    assert f"{N} kept records have fewer than twelve leads" in capsys.readouterr().out
    assert (
        store.records["leads"][0] == "I II V1 V2 V3 V4 V5 V6"
        and store.has_leads(["V6", "I"]).sum() == N - 1
    )
    assert (store.records["leads"][2], store.records["flags"][2]) == (
        "I II V1 V2 V3 V4 V5",
        "no sample of V6",
    )
    np.testing.assert_array_equal(
        store.counts(5)[:, [0, 1, *range(6, 12)]], counts(5)[:, [0, 1, *range(6, 12)]]
    )


def test_one_lead_in_a_table_of_two_axes(tmp_path, array):
    np.save(tmp_path / "a.npy", array[:, 4])
    store = imported(tmp_path / "a.npy", tmp_path, "--fs", 250, "--units", "uV", "--leads", "aVL")
    assert len(store) == N and set(store.records["leads"]) == {"aVL"}
    np.testing.assert_array_equal(store.counts(3)[:, 4], array[3, 4])


def test_other_columns_of_a_csv_are_left_out_with_a_remark(tmp_path, array):
    (tmp_path / "in").mkdir()
    text = "time;ECG;II;comment\n" + "".join(
        f"{i / 250};{array[0, 0, i]};{array[0, 1, i]};x\n" for i in range(SAMPLES)
    )
    (tmp_path / "in" / "r1.csv").write_text("\ufeff" + text, encoding="utf-8")
    store = imported(
        tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV", "--lead_names", "ECG=I"
    )
    assert (store.records["leads"][0], store.records["flags"][0]) == (
        "I II III aVR aVL aVF",
        "left out: time, comment; III, aVR, aVL, aVF derived from I and II",
    )
    np.testing.assert_array_equal(store.counts(0)[:, :2], array[0, :2].T)


# ------------------------------------------------------------------------------------------------
# padding and checks


def test_zero_padding(tmp_path, array, capsys):
    padded = np.zeros((3, 2000, 12), np.float32)
    padded[0, 300:1800] = array[0].T / 1000
    padded[1] = ecg_counts(2000) / 1000
    np.save(tmp_path / "a.npy", padded)
    store = imported(tmp_path / "a.npy", tmp_path / "kept", "--fs", 250)
    assert store.records["length"].tolist() == [2000, 2000]
    assert store.records["flags"].tolist() == ["2 s of zeros at its ends (see --trim)", ""]
    assert skipped(tmp_path / "kept") == {"a.npy/a-2": "every lead is flat"}
    store = imported(tmp_path / "a.npy", tmp_path / "cut", "--fs", 250, "--trim")
    assert store.records["length"].tolist() == [1500, 2000] and set(store.records["flags"]) == {""}
    np.testing.assert_array_equal(store.counts(0), counts(0))


@pytest.mark.parametrize("form", ["npy", "hdf5", "csv", "wfdb"])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_both_ends_without_a_signal(tmp_path, array, capsys, form, fill):
    """Every importer says how much there is, and --trim takes it off."""
    signal = np.full((2000, 12), fill, np.float32)
    signal[300:1800] = array[0].T / 1000
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / f"a.{form}"
    if form == "npy":
        np.save(file, signal)
    elif form == "hdf5":
        with h5py.File(file, "w") as opened:
            opened["ecg"] = signal
    elif form == "csv":
        write_csv(file, signal)
    else:
        in_counts = np.nan_to_num(signal * 1000, nan=-32768).round().astype(np.int16)
        write_record(tmp_path / "in", "a", in_counts, comments=())

    def lengths(out, *flags):
        if form == "wfdb":
            where = ("--input_dir", tmp_path / "in", "--output_dir", out / "extracted")
            status = run_main(extraction.main, [str(word) for word in (*where, *flags)])
        else:
            status = run(tmp_path / "in", out, "--fs", 500, *flags)
        if status:
            return skipped(out)
        building.reformat(out / "extracted", out / "store")
        store = RecordStore(out / "store" / "fs250")
        return store.records["length"].tolist(), store.records["flags"].tolist()

    cut = lengths(tmp_path / "cut", "--trim")
    assert cut == ([750], [""])
    assert "1 s of zeros or NaN at the ends of 1 recordings (--trim)" in capsys.readouterr().out
    assert "--trim" in (tmp_path / "cut" / "store" / "fs250" / "meta.json").read_text()
    left = lengths(tmp_path / "left")
    if fill == 0:
        assert left == ([1000], ["1 s of zeros at its ends (see --trim)"])
    else:
        reason = "; 1 s of zeros or NaN at its ends: see --trim"
        assert len(left) == 1 and next(iter(left.values())).endswith(reason)


def test_bad_recordings_are_skipped_with_the_reasons_of_wfdb(tmp_path, array):
    values = (array / 1000).astype(np.float32)
    values[1, 3, 5:9] = np.nan
    values[2, 0, 0] = np.inf
    values[3] = 1
    values[4] *= 1e5
    values[5] = np.nan
    values[6, 8] = 0.25
    values[7, :, 100:] = 0
    np.save(tmp_path / "a.npy", values)
    store = imported(tmp_path / "a.npy", tmp_path, "--fs", 250, "--trim")
    reasons = skipped(tmp_path)
    assert {path: reason.partition(":")[0] for path, reason in reasons.items()} == {
        "a.npy/a-1": "non-finite samples",
        "a.npy/a-2": "non-finite samples",
        "a.npy/a-3": "every lead is flat",
        "a.npy/a-4": "impossible amplitude",
        "a.npy/a-5": "non-finite samples",
        "a.npy/a-7": "shorter than the minimum length",
    }
    assert reasons["a.npy/a-1"] == "non-finite samples: 4 in aVR"
    assert len(store) == N - 6 and store.records["flags"].tolist()[1] == "flat lead V3"


def test_bad_files_of_one_recording_are_skipped(tmp_path, array):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    np.save(folder / "good.npy", array[0] / 1000)
    np.save(folder / "sub" / "good.npy", array[1] / 1000)
    np.save(folder / "a_turned.npy", array[0].T / 1000)
    np.save(folder / "short.npy", array[0, :, :10] / 1000)
    np.save(folder / "eleven.npy", array[0, :11] / 1000)
    np.save(folder / "=cmd.npy", array[0] / 1000)
    np.save(folder / "complex.npy", array[0] * 1j)
    (folder / "text.npy").write_text("I,II\n1,2\n")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "header.npy").write_bytes((folder / "good.npy").read_bytes().replace(b"}", b" "))
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:3000])
    (folder / "pickled.npy").write_bytes(pickle.dumps({"signal": 1}))
    np.save(folder / "objects.npy", np.array([{"signal": 1}], object), allow_pickle=True)
    np.savez(folder / "many", array[0])
    os.rename(folder / "many.npz", folder / "many.npy")
    store = imported(folder, tmp_path, "--fs", 500, "--layout", "leads_time")
    assert store.records["record"].tolist() == ["good"]
    reasons = skipped(tmp_path)
    assert reasons.pop("sub/good.npy") == "duplicate record name: the first is good.npy"
    assert "unsafe file name" in reasons.pop(
        "'=cmd.npy"
    ) and "shorter than the minimum" in reasons.pop("short.npy")
    assert (
        reasons.pop("complex.npy")
        == "samples of type complex128; use float16, float32, float64 or int16"
    )
    assert reasons.pop("a_turned.npy").startswith(
        "shape (1500, 12) has no axis of 12 leads as leads_time means"
    )
    assert reasons.pop("eleven.npy").startswith(
        "shape (11, 1500) has no axis of 12 leads as leads_time means; name"
    )
    assert "archive of several arrays" in reasons.pop("many.npy")
    assert (
        {path for path in reasons if "nothing is unpickled" in reasons[path]}
        == {"text.npy", "empty.npy", "header.npy", "cut.npy", "pickled.npy", "objects.npy"}
        == reasons.keys()
    )


def test_bad_csv_files_are_skipped(tmp_path, array):
    folder = tmp_path / "in"
    folder.mkdir()
    write_csv(folder / "good.csv", array[0].T)
    write_csv(folder / "nameless.csv", array[0].T[1:], [str(value) for value in array[0].T[0]])
    write_csv(folder / "twice.csv", array[0].T, [*LEADS[:11], "I"])
    text = (folder / "good.csv").read_text()
    (folder / "hole.csv").write_text(text.replace("\n", "\n,", 1))
    (folder / "word.csv").write_text(text.replace(repr(float(array[0, 0, 7])), "x", 1))
    (folder / "empty.csv").write_text("")
    store = imported(folder, tmp_path, "--fs", 500, "--units", "uV")
    assert store.records["record"].tolist() == ["good"]
    reasons = skipped(tmp_path)
    assert reasons["nameless.csv"].startswith("none of the twelve leads: ")
    assert reasons["twice.csv"] == "lead I appears twice"
    assert (
        "non-finite samples: 1 in I" in reasons["word.csv"]
        and "CSV unreadable" in reasons["empty.csv"]
    )
    assert reasons["hole.csv"].startswith("CSV unreadable: ") and len(reasons) == 5


# ------------------------------------------------------------------------------------------------
# CSV files as loggers and spreadsheets write them


def write_lines(folder, signal, name="r1", header="I,II", between="", at=None, end=""):
    """A recording of two leads whose lines ``at`` are ``between`` instead of a sample."""
    folder.mkdir(exist_ok=True)
    lines = [f"{one},{two}" for one, two in signal.tolist()]
    for row in at or ():
        lines[row] = between
    (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n" + end)
    return folder


def csv_lines(signal, form="{}", comma=","):
    return [comma.join(form.format(value) for value in row) for row in signal.tolist()]


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda a: [a[0], "mV,(mV)", *a[1:]], "a line of units, such as mV, among the samples"),
        (lambda a: [a[0], "[µV],[µV]", *a[1:]], "take it out, and say --units uV"),
        (lambda a: [a[0], "microvolts,microvolts", *a[1:]], "take it out, and say --units uV"),
        (lambda a: ["I (uV),II (uV)", *a[1:]], "units behind the names of the leads, such as I (u"),
        (lambda a: ["I[mV],II[mV]", *a[1:]], "write the names alone, and say --units mV"),
        (lambda a: [*a[:9], "NaN,nan", *a[9:]], "non-finite samples: 2 in I, II"),
        (lambda a: [*a[:9], "-,-", *a[9:]], "non-finite samples: 2 in I, II"),
        (lambda a: [*a[:9], a[9] + ",", *a[10:]], "CSV unreadable"),
        (lambda a: [*a[:9], "lost", *a[9:]], "non-finite samples: 1 in I: text, such as lost in"),
        (lambda a: [a[0], "start,start", *a[1:]], "2 in I, II: text, such as start in line 2"),
        (lambda a: [a[0], "1.234,5;1,0", *a[2:]], "CSV unreadable"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--trim",)])
def test_lines_that_are_no_samples_are_named(tmp_path, array, change, reason, flags):
    (tmp_path / "in").mkdir()
    lines = ["I,II", *csv_lines(array[0, :2].T)]
    write_lines(tmp_path / "in", array[1, :2].T, "whole")
    (tmp_path / "in" / "a.csv").write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    store = imported(tmp_path / "in", tmp_path, "--fs", 500, "--units", "uV", *flags)
    assert store.records["record"].tolist() == ["whole"]
    assert reason in skipped(tmp_path)["a.csv"]


@pytest.mark.parametrize("above", ["# of 2020\n\n# by me", "sep=,"])
def test_comments_above_the_names_are_passed_over(tmp_path, array, above):
    folder = write_lines(tmp_path / "in", array[0, :2].T, header=f"{above}\nI,II")
    store = imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    np.testing.assert_array_equal(store.counts(0)[:, :2], array[0, :2].T)


@pytest.mark.parametrize(
    "name, step, digits, fs",
    [("time", 0.004, 3, 250), ("Time (s)", 1 / 360, 3, 360), ("sample", 1, 0, 250)],
)
def test_a_column_of_time_tells_of_lost_lines(tmp_path, array, name, step, digits, fs):
    signal = array[0, :2].T
    lines = [f"{k * step:.{digits}f},{line}" for k, line in enumerate(csv_lines(signal))]
    (tmp_path / "in").mkdir()
    for record, kept in (("whole", lines), ("lost", lines[:500] + lines[503:])):
        text = "\n".join([f"{name},I,II", *kept]) + "\n"
        (tmp_path / "in" / f"{record}.csv").write_text(text)
    store = imported(tmp_path / "in", tmp_path, "--fs", fs, "--units", "uV")
    assert store.records["record"].tolist() == ["whole"]
    assert skipped(tmp_path)["lost.csv"].startswith(
        f"samples were lost: the column {name} jumps at 1 places, the first is line 502"
    )


@pytest.mark.parametrize(
    "name, step, digits, words",
    [
        ("time", 0.002, 3, "counts in steps of 0.002, so it has 500 Hz, but --fs says 250"),
        ("t [ms]", 2, 0, "counts in steps of 2, so it has 500 Hz, but --fs says 250"),
        ("Time", 1000 / 300, 0, "so it has 300 Hz, but --fs says 250"),  # rounded to 3, 3, 4
        ("time", 4, 0, None),
        ("ms", 4, 1, None),
        ("timestamp", 4e6, 0, None),  # ns
        ("sample", 2, 0, None),
        ("t", 1, 0, None),  # may count samples
    ],
)
def test_a_column_of_time_of_another_rate_is_refused(tmp_path, array, name, step, digits, words):
    signal = array[0, :2].T
    lines = [f"{k * step:.{digits}f},{line}" for k, line in enumerate(csv_lines(signal))]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("\n".join([f"{name},I,II", *lines]) + "\n")
    write_lines(tmp_path / "in", array[1, :2].T, "whole")
    imported(tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV")
    assert list(skipped(tmp_path)) == ["a.csv"] * bool(words)
    assert (words or "") in skipped(tmp_path).get("a.csv", "")


@pytest.mark.parametrize("name, step", [("time", 0.004), ("sample", 1), ("t", 4)])
@pytest.mark.parametrize("turn", ["back", "mixed", "part"])
def test_lines_out_of_the_order_of_time_are_refused(tmp_path, array, name, step, turn):
    """The defect: a column whose usual step is backwards was thought to be rounded."""
    lines = [f"{k * step:g},{line}" for k, line in enumerate(csv_lines(array[0, :2].T))]
    order = np.arange(len(lines))[::-1]
    if turn != "back":
        first = 0 if turn == "mixed" else 700
        order = np.concatenate(
            [np.arange(first), np.random.default_rng(0).permutation(800) + first]
        )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("\n".join([f"{name},I,II", *(lines[k] for k in order)]))
    write_lines(tmp_path / "in", array[1, :2].T, "whole")
    imported(tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV")
    assert f"lines out of order: the column {name} goes back" in skipped(tmp_path)["a.csv"]


@pytest.mark.parametrize(
    "name, form, step, words",
    [
        ("time", "2020-01-31 23:59:5{:.3f}", 0.002, "so it has 500 Hz, but --fs says 250"),
        ("timestamp", "2020-01-31T10:00:0{:.6f}", 0.002, "so it has 500 Hz, but --fs says 250"),
        ("Zeit [s]", "{:.3f}", 0.002, "so it has 500 Hz, but --fs says 250"),
        ("Elapsed time", "00:00:0{:.4f}", 0.002, "so it has 500 Hz, but --fs says 250"),
        ("elapsed_time", "00:00:0{:.3f}", 0.004, None),
        ("datetime", "2020-01-31 10:00:0{:.3f}", 0.004, None),
        ("time", "23:59:5{:.3f}", 0.004, None),
        ("time", "started at {:.3f}", 0.002, None),
    ],
)
def test_times_of_day_and_dates_tell_the_rate_too(tmp_path, array, name, form, step, words):
    signal = array[0, :2].T
    lines = [f"{form.format(k * step)},{line}" for k, line in enumerate(csv_lines(signal))]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("\n".join([f"{name},I,II", *lines]) + "\n")
    write_lines(tmp_path / "in", array[1, :2].T, "whole")
    imported(tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV")
    assert list(skipped(tmp_path)) == ["a.csv"] * bool(words)
    assert (words or "") in skipped(tmp_path).get("a.csv", "")


def test_a_recording_over_midnight_is_whole(tmp_path, array):
    times = [f"{'23:59:59' if k < 250 else '00:00:00'}.{k % 250 * 4:03d}" for k in range(500)]
    lines = [",".join(pair) for pair in zip(times, csv_lines(millivolts(array[0, :2, :500].T)))]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("\n".join(["time,I,II", *lines]) + "\n")
    assert len(imported(tmp_path / "in", tmp_path, "--fs", 250)) == 1


@pytest.mark.parametrize("factor, refused", [(1, True), (12, True), (0.2, False)])
def test_points_between_thousands_are_refused(tmp_path, array, factor, refused):
    """The defect: 1.628 microvolts beside 628, a thousandth of what was meant."""
    whole = (array[0, :2].T * factor).astype(int)
    lines = ["I;II", *(";".join(f"{v:,d}".replace(",", ".") for v in row) for row in whole)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "in" / "b.csv").write_text(
        "\n".join(["I,II", *csv_lines(array[0, :2].T * 4.883, "{:.7g}")]) + "\n"
    )
    store = imported(tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV")
    assert (np.abs(whole).max() > 999) == refused
    assert store.records["record"].tolist() == ["a", "b"][refused:]
    reason = skipped(tmp_path).get("a.csv", "numbers with a point between thousands, such as")
    assert reason.startswith("numbers with a point between thousands, such as")


@pytest.mark.parametrize("form", ["{}", "Lead {}", " lead_{} ", "ECG {}", "MDC_ECG_LEAD_{}"])
def test_leads_under_their_usual_names_in_any_order(tmp_path, array, form):
    order = [5, 3, 0, 1, 2, 4, *range(11, 5, -1)]
    header = ",".join(form.format(LEADS[k].upper()) for k in order)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("\n".join([header, *csv_lines(array[0, order].T)]))
    store = imported(tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV")
    np.testing.assert_array_equal(store.counts(0), array[0].T)


def test_units_that_differ_by_column_are_no_unit(tmp_path, array):
    folder = write_lines(tmp_path / "in", array[0, :2].T, header="I (mV),II (uV)")
    write_lines(folder, array[1, :2].T, "whole")
    imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    assert skipped(tmp_path)["r1.csv"].endswith("bring all leads to one unit (there are mV, uV)")


def test_csv_in_utf_16_is_named(tmp_path, array):
    folder = write_lines(tmp_path / "in", array[0, :2].T, "whole")
    (folder / "a.csv").write_text((folder / "whole.csv").read_text(), "utf-16")
    imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    assert skipped(tmp_path)["a.csv"] == "text in UTF-16: save it as CSV in UTF-8"


def test_one_recording_in_fortran_order(tmp_path, array):
    np.save(tmp_path / "a.npy", np.ascontiguousarray(array[0].T).T[None])
    store = imported(tmp_path / "a.npy", tmp_path, "--fs", 250, "--units", "uV")
    assert len(store) == 1
    np.testing.assert_array_equal(store.counts(0), array[0].T)


def test_many_unsafe_names_are_one_line(tmp_path, array, capsys):
    for k in range(5):
        write_lines(tmp_path / "in", array[k, :2].T, f"a b{k}")
    write_lines(tmp_path / "in", array[5, :2].T, "whole")
    imported(tmp_path / "in", tmp_path, "--fs", 250, "--units", "uV")
    assert "left out:\n  5 skipped: unsafe file name\n" in capsys.readouterr().out
    assert "unsafe file name a b3: use letters" in skipped(tmp_path)["a b3.csv"]


def test_what_a_missing_package_could_not_read_is_read_with_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.xml").write_text("x")

    def whole(path):
        return made_record(
            [made_lead(lead, counts(3)[:, k] / 1000) for k, lead in enumerate(LEADS)]
        )

    def parse(path):
        if path.stem == "b":
            raise ModuleNotFoundError("No module named 'xmltodict'")
        return whole(path)

    stand_in(monkeypatch, parse)
    assert run(tmp_path / "in", tmp_path) == AGAIN
    said = capsys.readouterr()
    assert "1 skipped: not read this time: ecgdatakit is not whole (No module named" in said.out
    assert "pip install" in skipped(tmp_path)["b.xml"]
    stand_in(monkeypatch, whole)
    assert imported(tmp_path / "in", tmp_path).records["record"].tolist() == ["a", "b"]


@pytest.mark.parametrize("blank", ["", "   ", ",", '"",""', "\t"])
def test_a_blank_line_between_samples_is_a_lost_sample(tmp_path, array, blank):
    folder = write_lines(tmp_path / "in", array[0, :2].T, between=blank, at=range(400, 500))
    write_lines(folder, array[1, :2].T, "whole")
    store = imported(folder, tmp_path, "--fs", 500, "--units", "uV")
    assert store.records["record"].tolist() == ["whole"]
    assert skipped(tmp_path) == {
        "r1.csv": "blank lines between samples: 100, the first is line 402; each is a sample that "
        "was lost: fill them in, or cut the recording there"
    }


@pytest.mark.parametrize("end", ["\n", "\n\n  \n", ",\n,\n", "\r\n"])
@pytest.mark.parametrize("header", ["I,II", "\n\nI,II\n"])
def test_blank_lines_at_the_ends_are_nothing(tmp_path, array, end, header):
    folder = write_lines(tmp_path / "in", array[0, :2].T, header=header, end=end)
    store = imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    np.testing.assert_array_equal(store.counts(0)[:, :2], array[0, :2].T)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("I;II\n0,1;0,2\n0,3;0,5\n", "numbers with a decimal comma, such as 0,1: write decimal"),
        ('I,II\n"0,1","0,2"\n', "numbers with a decimal comma, such as 0,1: write decimal points"),
        ("I,II\n0,1,0,2\n0,3,0,5\n", "CSV unreadable: numbers with a decimal comma, such as 0,1"),
        ("I\n0,1\n0,3\n", "CSV unreadable: numbers with a decimal comma, such as 0,1: write"),
        ("I\tII\n-1,5\t2\n", "numbers with a decimal comma, such as -1,5: write decimal points"),
        ("I,II\nmV,mV\n1,2\n", "a line of units, such as mV, among the samples: take it out, and"),
        ("t,I,II\ns,(uV),(uV)\n0,1,2\n", "a line of units, such as (uV), among the samples: take"),
        (
            "I,II\n[\u00b5V],[\u00b5V]\n1,2\n",
            "a line of units, such as [\u00b5V], among the samples",
        ),
    ],
)
def test_what_a_csv_holds_instead_of_samples_is_named(tmp_path, array, text, reason):
    folder = write_lines(tmp_path / "in", array[1, :2].T, "whole")
    (folder / "odd.csv").write_text(text, encoding="utf-8")
    imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    assert skipped(tmp_path)["odd.csv"].startswith(reason)


# ------------------------------------------------------------------------------------------------
# order, sign and unit


@pytest.mark.parametrize(
    "order",
    [
        "I II III aVR aVF aVL V1 V2 V3 V4 V5 V6",  # of MIMIC-IV-ECG
        "I II V1 V2 V3 V4 V5 V6 III aVR aVL aVF",
        "V1 V2 V3 V4 V5 V6 I II III aVR aVL aVF",
        "aVL I aVR II aVF III V1 V2 V3 V4 V5 V6",  # Cabrera's, but for the sign of aVR
    ],
)
def test_another_order_is_named_and_the_advice_mends_it(tmp_path, array, capsys, order):
    ecgs = einthoven(array)
    np.save(tmp_path / "a.npy", ecgs[:, [LEADS.index(lead) for lead in order.split()]])
    flags = ("--fs", 250, "--units", "uV")
    error = fails(capsys, tmp_path / "a.npy", tmp_path, *flags)
    advice = f"--leads {order.replace(' ', ',')}"
    assert f"hold if they are {order}; give {advice}, or --assume to go on" in error
    store = imported(tmp_path / "a.npy", tmp_path, *flags, *advice.split())
    assert "warning" not in capsys.readouterr().out
    np.testing.assert_allclose(store.read(0), ecgs[0].T / 1000, atol=6e-4)


def test_a_turned_sign_is_named_and_assume_goes_on(tmp_path, array, capsys):
    ecgs = einthoven(array)
    ecgs[:, 3] *= -1
    np.save(tmp_path / "a.npy", ecgs)
    flags = ("--fs", 250, "--units", "uV")
    error = fails(capsys, tmp_path / "a.npy", tmp_path, *flags)
    assert "the sign of lead aVR is turned" in error
    store = imported(tmp_path / "a.npy", tmp_path, *flags, "--assume")
    np.testing.assert_allclose(store.read(0), ecgs[0].T / 1000, atol=6e-4)
    assert "--assume" in (tmp_path / "store" / "fs250" / "meta.json").read_text()


def test_leads_that_do_not_follow_at_all_are_a_warning(tmp_path, array, capsys):
    np.save(tmp_path / "a.npy", array)
    imported(tmp_path / "a.npy", tmp_path, "--fs", 250, "--units", "uV")
    assert "warning: the limb leads do not follow from one another" in capsys.readouterr().out


@pytest.mark.parametrize("factor, cure", [(1.0, "--units uV"), (1e-6, "--units V,"), (0.1, "uV")])
def test_an_amplitude_that_no_ecg_has_needs_its_unit(tmp_path, array, capsys, factor, cure):
    np.save(tmp_path / "a.npy", array[:4].astype("f8") * factor)
    error = fails(capsys, tmp_path / "a.npy", tmp_path, "--fs", 250)
    assert "no ECG has that (usual are 0.1 to 20 mV); say --units" in error and cure in error


def test_volts_lose_nothing(tmp_path, array):
    np.save(tmp_path / "a.npy", array[:2] / 1e6)
    store = imported(tmp_path / "a.npy", tmp_path, "--fs", 250, "--units", "V")
    np.testing.assert_array_equal(store.counts(1), counts(1))


# ------------------------------------------------------------------------------------------------
# folders as they come


def test_files_of_a_folder_may_differ_in_layout(tmp_path, array, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(4):
        np.save(folder / f"r{k}.npy", array[k].T if k % 2 else array[k])
    np.save(folder / "r4.npy", array[4, :11])
    store = imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    for k in range(4):
        np.testing.assert_array_equal(store.counts(k), counts(k))
    assert "read as leads_time (inferred, for each file by itself)" in capsys.readouterr().out
    assert skipped(tmp_path) == {
        "r4.npy": "shape (11, 1500) has no axis of 12 leads; name the leads that there are with "
        "--leads"
    }


def test_whole_numbers_among_other_files_need_their_unit_too(tmp_path, array, capsys):
    """The defect: the first file alone was asked, and the counts of later ones were millivolts."""
    for i in range(4):
        one = array[i] if i == 3 else millivolts(array[i])
        np.save(tmp_path / f"R{i}.npy", one)
    assert run(tmp_path, tmp_path, "--fs", 500) == 0
    ((name, reason),) = skipped(tmp_path).items()
    assert name == "R3.npy" and "whole numbers (int16): say --units uV or --units mV" in reason


def test_files_of_many_recordings_may_differ_in_layout(tmp_path, array):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", array[:2])
    np.save(folder / "b.npy", array[2:4].swapaxes(1, 2).copy())
    store = imported(folder, tmp_path, "--fs", 250, "--units", "uV")
    for k in range(4):
        np.testing.assert_array_equal(store.counts(k), counts(k))


@pytest.mark.parametrize("kind", ["npy", "csv", "wfdb"])
def test_what_macos_keeps_beside_a_file_is_ignored(tmp_path, array, kind):
    folder = tmp_path / "in"
    (folder / "__MACOSX").mkdir(parents=True)
    if kind == "wfdb":
        write_record(folder, "a", counts(0))
        extract(folder, tmp_path / "extracted", [250], 1)
    else:
        if kind == "npy":
            np.save(folder / "a.npy", array[0])
        else:
            write_csv(folder / "a.csv", array[0].T)
    for place in (folder, folder / "__MACOSX"):
        ending = "hea" if kind == "wfdb" else kind
        (place / f"._a.{ending}").write_bytes(b"\0\5\x16\7Mac OS X")
    if kind == "wfdb":
        extract(folder, tmp_path / "extracted", [250], 1)
    else:
        assert run(folder, tmp_path, "--fs", 250, "--units", "uV") == 0
    assert skipped(tmp_path) == {}


def test_a_missing_filter_of_hdf5_is_named(tmp_path, array):
    ecg = array[0].astype("f4") / 1000
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in" / "a.h5", "w") as file:
        file["ecg"] = ecg
    with h5py.File(tmp_path / "in" / "b.h5", "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk(ecg.shape)
        how.set_filter(499, h5py.h5z.FLAG_OPTIONAL)  # a number that no filter has
        space = h5py.h5s.create_simple(ecg.shape)
        made = h5py.h5d.create(file.id, b"ecg", h5py.h5t.NATIVE_FLOAT, space, how)
        made.write_direct_chunk((0, 0), ecg.tobytes())
    assert run(tmp_path / "in", tmp_path, "--fs", 250) == AGAIN
    reason = skipped(tmp_path)["b.h5"]
    assert (
        reason.startswith("not read this time: compressed by a filter that HDF5 lacks here")
        and "499" in reason
    )
    assert "python -m pip install hdf5plugin" in reason


def test_damaged_chunks_are_skipped_and_truncated_files_refused(tmp_path, array, capsys):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "tracings", data=array / 1000, chunks=(1, 12, SAMPLES), compression="gzip"
        )
        place = file["tracings"].id.get_chunk_info(6).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 50] = bytes(50)
    path.write_bytes(data)
    assert len(imported(path, tmp_path, "--fs", 500)) == N - 1
    assert "damaged or cut short" in skipped(tmp_path)["a.h5/a-6"]
    path.write_bytes(data[: len(data) // 2])
    capsys.readouterr()
    assert "a.h5: no HDF5 file, or damaged or cut short" in fails(
        capsys, path, tmp_path / "2", "--fs", 500
    )
    (tmp_path / "in").mkdir()
    shutil.copy(path, tmp_path / "in" / "exams_part1.hdf5")
    with h5py.File(tmp_path / "in" / "exams_part0.hdf5", "w") as file:
        file["tracings"] = array / 1000
    assert "exams_part1.hdf5: no HDF5 file, or damaged" in fails(
        capsys, tmp_path / "in", tmp_path / "2", "--fs", 500
    )


def test_a_read_error_that_passes_is_tried_again(tmp_path, array, monkeypatch):
    np.save(tmp_path / "a.npy", array)
    flags = ("--fs", 500, "--units", "uV")
    with monkeypatch.context() as patch:
        patch.setattr(
            np,
            "fromfile",
            lambda *_, **__: (_ for _ in ()).throw(OSError(116, "Stale file handle")),
        )
        assert run(tmp_path / "a.npy", tmp_path, *flags) == AGAIN
    assert set(skipped(tmp_path).values()) == {"not read this time: Stale file handle"}
    assert run(tmp_path / "a.npy", tmp_path, *flags) == 0 and skipped(tmp_path) == {}


# ------------------------------------------------------------------------------------------------
# what must be said


def einthoven(array):
    """Arrays (..., 12, time) whose limb leads follow from I and II."""
    array = array.astype("f8")
    one, two = array[..., 0, :], array[..., 1, :]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([np.stack(limb, -2), array[..., 6:, :]], -2)


def test_what_is_inferred_is_said(tmp_path, array, capsys):
    np.save(tmp_path / "a.npy", einthoven(array) / 1000)
    assert run(tmp_path / "a.npy", tmp_path, "--fs", 500) == 0
    out = capsys.readouterr().out
    assert (
        "500 Hz, mV (assumed; --units)" in out
        and "read as leads_time (inferred); leads I II" in out
    )
    assert "(assumed; --leads)" in out and "warning" not in out
    assert run(tmp_path / "a.npy", tmp_path, "--fs", 500, "--units", "uV") == 0
    assert (
        "warning: an ECG has 0.1 to 20 mV from peak to peak; is --units right?"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "make, flags, words",
    [
        (
            lambda a: a[:, :, :12] / 1000,
            [],
            "both could be the 12 leads; say --layout leads_time or time_leads",
        ),
        (
            lambda a: a[:, :8] / 1000,
            [],
            "shape (8, 1500) has no axis of 12 leads; name the leads that there are with --leads",
        ),
        (lambda a: a / 1000, ["--layout", "time_leads"], "no axis of 12 leads as time_leads means"),
        (lambda a: a, [], "holds whole numbers (int16): say --units uV or --units mV"),
        (lambda a: a[None] / 1000, [], "is not that of a recording"),
        (lambda a: a[:0] / 1000, [], "no recording in it"),
        (lambda a: np.asfortranarray(a / 1000), [], "Fortran order"),
        (lambda a: np.asfortranarray(a[:, 0] / 1000), ["--leads", "I"], "Fortran order"),
        (lambda a: a / 1000, ["--ids", "exam_id"], "--ids exam_id is no .csv file"),
        (
            lambda a: a[0] / 1000,
            ["--ids", "x.csv"],
            "--ids names the recordings of an array of many",
        ),
        (lambda a: a[0] / 1000, ["--leads", "I,-,-"], "shape (12, 1500) has no axis of 3 leads"),
    ],
)
def test_arrays_that_leave_a_doubt_are_refused(tmp_path, array, capsys, make, flags, words):
    np.save(tmp_path / "a.npy", make(array))
    assert words in fails(capsys, tmp_path / "a.npy", tmp_path, "--fs", 500, *flags)


@pytest.mark.parametrize(
    "text, words",
    [
        ("record\n" + "\n".join(NAMES[:-1]), "ids.csv names 13 recordings"),
        ("record\n" + "\n".join([*NAMES, "x"]), "names 15"),
        (
            "record\n" + "\n".join([*NAMES[:-1], "R03"]),
            "ids.csv names 1 records more than once, such as R03",
        ),
        ("name\n" + "\n".join(NAMES), "ids.csv lacks the column record"),
        ("", "ids.csv is empty"),
        ("record\n" + "\n".join([*NAMES[:-1], "../x"]), "unsafe record name ../x"),
        (
            "record,x\n" + "\n".join([*(f"{name},1" for name in NAMES[:-1]), ",1"]),
            "1 rows name no record",
        ),
        (b"record\n\xff", "ids.csv is not UTF-8 text"),
    ],
)
def test_wrong_ids_are_one_sentence(tmp_path, array, capsys, text, words):
    np.save(tmp_path / "a.npy", array / 1000)
    (tmp_path / "ids.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert words in fails(
        capsys, tmp_path / "a.npy", tmp_path, "--fs", 500, "--ids", tmp_path / "ids.csv"
    )


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["index", "row", "", "i.0"])
def test_ids_in_another_order_than_their_numbers_are_refused(tmp_path, array, capsys, first, name):
    """The defect: names went by the order of the lines, though a column numbers them otherwise."""
    np.save(tmp_path / "a.npy", millivolts(array))
    places = [f"{place + first}{'.0' * name.endswith('.0')}" for place in range(N)]
    rows = [f"{place},{record}" for place, record in zip(places, NAMES)]
    flags = ("--fs", 500, "--ids", tmp_path / "ids.csv")
    (tmp_path / "ids.csv").write_text("\n".join([f"{name},record", *rows[::-1]]))
    said = fails(capsys, tmp_path / "a.npy", tmp_path, *flags)
    assert "its lines are not in the order of its column" in said and "sort them" in said
    (tmp_path / "ids.csv").write_text("\n".join([f"{name},record", *rows]))
    store = imported(tmp_path / "a.npy", tmp_path, *flags)
    assert store.records["record"].tolist() == NAMES


@pytest.mark.parametrize("name, is_refused", [("index", True), ("sex", False)])
def test_few_numbers_may_be_in_any_order_by_chance(tmp_path, array, name, is_refused):
    np.save(tmp_path / "a.npy", millivolts(array[:2]))
    (tmp_path / "ids.csv").write_text(f"{name},record\n1,a\n0,b\n")
    status = run(tmp_path / "a.npy", tmp_path, "--fs", 500, "--ids", tmp_path / "ids.csv")
    assert (status == 2) == is_refused


def test_ids_of_several_files_say_which_file_they_are_of(tmp_path, array, capsys):
    """part10 stands before part2 in every listing of names: by the order alone, ids would go to
    other recordings.
    """
    (tmp_path / "mine").mkdir()
    for part in (1, 2, 10):
        np.save(tmp_path / "mine" / f"part{part}.npy", array[part : part + 2] / 1000)
    ids = tmp_path / "ids.csv"
    ids.write_text("record\na\nb\nc\nd\ne\nf\n")
    words = "recordings of 3 files, such as part1.npy, part10.npy, part2.npy: say in a column file"
    assert words in fails(capsys, tmp_path / "mine", tmp_path, "--fs", 500, "--ids", ids)
    rows = [f"{name},part{part}.npy\n" for name, part in zip("abcdef", (1, 1, 2, 2, 10, 10))]
    ids.write_text("record,file\n" + "".join(rows))
    store = imported(tmp_path / "mine", tmp_path, "--fs", 500, "--ids", ids)
    where = dict(zip(store.records["record"], store.records["path"]))
    assert where == {
        name: f"part{part}.npy/{name}" for name, part in zip("abcdef", (1, 1, 2, 2, 10, 10))
    }
    capsys.readouterr()
    ids.write_text("record,file\n" + "".join(f"{name},part1.npy\n" for name in "abcdef"))
    for text, words in (
        (
            "".join(f"{name},part1.npy\n" for name in "abcdef"),
            "names 6 recordings of it, it holds 2",
        ),
        ("a,part3.npy\n", "there is no file 'part3.npy' in the input"),
    ):
        ids.write_text("record,file\n" + text)
        assert words in fails(
            capsys, tmp_path / "mine", tmp_path / "other", "--fs", 500, "--ids", ids
        )


@pytest.mark.parametrize(
    "datasets, flags, words",
    [
        ({"a": 2, "b": 2}, [], "name the dataset of the signals with --dataset; there are a, b"),
        ({"x": 0}, [], "name the dataset of the signals with --dataset; there are x"),
        ({"a": 2}, ["--dataset", "c"], "no dataset c; there are a"),
        ({"tracings": 2}, ["--ids", "name"], "no dataset name; there are tracings"),
        ({"tracings": 2, "exam_id": 0}, [], f"5 values in exam_id for {N} recordings"),
    ],
)
def test_wrong_hdf5_is_one_sentence(tmp_path, array, capsys, datasets, flags, words):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, kind in datasets.items():
            file[name] = array / 1000 if kind else np.arange(5)
    assert words in fails(capsys, tmp_path / "a.h5", tmp_path, "--fs", 500, *flags)


def secret_file(folder, array):
    """An HDF5 file that is no part of any input, and the same samples in raw form."""
    values = millivolts(array[:3])
    with h5py.File(folder / "secret.h5", "w") as file:
        file["tracings"] = values
        file["group/tracings"] = values
    (folder / "secret.raw").write_bytes(values.tobytes())
    return values


def external_values(file, folder, values):
    raw = [(str(folder / "secret.raw"), 0, values.nbytes)]
    file.create_dataset("tracings", values.shape, values.dtype, external=raw)


def virtual_values(file, folder, values):
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "tracings", values.shape)
    file.create_virtual_dataset("tracings", layout)


def external_link(file, folder, values):
    file["tracings"] = h5py.ExternalLink(str(folder / "secret.h5"), "/tracings")


def link_to_an_external_link(file, folder, values):
    file["away"] = h5py.ExternalLink(str(folder / "secret.h5"), "/group")
    file["tracings"] = h5py.SoftLink("/away/tracings")


def group_in_another_file(file, folder, values):
    file["group"] = h5py.ExternalLink(str(folder / "secret.h5"), "/group")


@pytest.mark.parametrize(
    "make, flags, words",
    [
        (external_values, (), "the values of dataset tracings lie in other files"),
        (virtual_values, (), "which are not read: copy them into one"),
        (external_link, (), "tracings is a link to /tracings in file "),
        (external_link, ("--dataset", "tracings"), "and links are not followed"),
        (link_to_an_external_link, (), "tracings is a link to /away/tracings, and"),
        (group_in_another_file, ("--dataset", "group/tracings"), "group is a link to /group in"),
    ],
)
def test_hdf5_reads_no_other_file(tmp_path, array, capsys, make, flags, words):
    (tmp_path / "in").mkdir()
    values = secret_file(tmp_path, array)
    with h5py.File(tmp_path / "in" / "a.h5", "w") as file:
        make(file, tmp_path, values)
    error = fails(capsys, tmp_path / "in" / "a.h5", tmp_path, "--fs", 250, *flags)
    assert words in error


def test_names_of_recordings_are_read_in_no_other_file(tmp_path, array, capsys):
    (tmp_path / "ids.raw").write_bytes(np.arange(3).tobytes())
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in" / "a.h5", "w") as file:
        file["tracings"] = millivolts(array[:3])
        external = [(str(tmp_path / "ids.raw"), 0, 24)]
        file.create_dataset("exam_id", (3,), np.int64, external=external)
    error = fails(capsys, tmp_path / "in" / "a.h5", tmp_path, "--fs", 250)
    assert "the values of dataset exam_id lie in other files" in error


def test_a_named_dataset_in_a_group(tmp_path, array):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/beats"], file["x/ecgs"], file["key"] = (
            array[:, :, :5],
            array,
            np.arange(100, 100 + N),
        )
    store = imported(
        tmp_path / "a.h5",
        tmp_path,
        "--fs",
        250,
        "--units",
        "uV",
        "--dataset",
        "x/ecgs",
        "--ids",
        "key",
    )
    assert store.records["record"].tolist() == [str(k) for k in range(100, 100 + N)]
    np.testing.assert_array_equal(store.counts(2), counts(2))


# ------------------------------------------------------------------------------------------------
# rows without a signal


def write_parts(folder, parts):
    """HDF5 files part0, part1, ... of [(name, signal (12, time))]."""
    folder.mkdir()
    for number, rows in enumerate(parts):
        with h5py.File(folder / f"part{number}.hdf5", "w") as file:
            file["tracings"] = np.stack([signal for _, signal in rows])
            file["exam_id"] = [name for name, _ in rows]
    return folder


@pytest.mark.parametrize(
    "name, value, reason",
    [
        (0, 0, "no signal: every sample is 0 or NaN"),  # as CODE-15 % fills its parts
        (0, np.nan, "no signal: every sample is 0 or NaN"),
        (-1, 0, "no signal: every sample is 0 or NaN"),  # a name that no record may have
    ],
)
def test_rows_without_a_signal_are_left_out_before_names_are_compared(
    tmp_path, array, capsys, name, value, reason
):
    ecgs = array.astype("f4") / 1000
    filler = name, np.full_like(ecgs[0], value)
    parts = write_parts(
        tmp_path / "mine",
        [[(7, ecgs[0]), (3, ecgs[1]), filler], [(11, ecgs[2]), filler, filler]],
    )
    store = imported(parts, tmp_path, "--fs", 250)
    assert store.records["record"].tolist() == ["7", "3", "11"]
    np.testing.assert_array_equal(store.counts(2), counts(2))
    assert "rows without a signal, which are left out: 3, such as part0.hdf5/" in (
        capsys.readouterr().out
    )
    assert set(skipped(tmp_path).values()) == {reason}
    with open(tmp_path / "extracted" / "skipped.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_one_row_without_a_signal_does_not_stop_the_import(tmp_path, array):
    ecgs = array.astype("f4") / 1000
    parts = write_parts(tmp_path / "mine", [[(7, ecgs[0]), (0, 0 * ecgs[0])]])
    assert imported(parts, tmp_path, "--fs", 250).records["record"].tolist() == ["7"]
    assert skipped(tmp_path) == {"part0.hdf5/0": "every lead is flat"}


@pytest.mark.parametrize("name, words", [(0, "0 is the name of two recordings"), (-1, "unsafe")])
def test_a_name_for_two_signals_stays_an_error(tmp_path, array, capsys, name, words):
    ecgs = array.astype("f4") / 1000
    rows = [(name, ecgs[0]), (name, 0 * ecgs[0]), (name, ecgs[1])]
    parts = write_parts(tmp_path / "mine", [rows])
    assert words in fails(capsys, parts, tmp_path, "--fs", 250)


def test_a_table_of_labels_is_no_recording(tmp_path, array, capsys):
    path = tmp_path / "labels.csv"
    path.write_text("record,age,ill\na-1,60,0\n")
    said = fails(capsys, path, tmp_path, "--fs", 500)
    assert (
        "labels.csv: its first line names no lead (record, age, ill), so it is no recording" in said
    )
    path.write_text("")
    assert "its first line names no lead (it is empty)" in fails(
        capsys, path, tmp_path, "--fs", 500
    )
    write_csv(path, array[0].T / 1000, [f"channel {lead}" for lead in LEADS])
    assert "names no lead (channel I," in fails(capsys, path, tmp_path, "--fs", 500)
    assert run(path, tmp_path, "--fs", 500, "--lead_names", "channel I=I") == 0


def test_nothing_kept_is_an_error(tmp_path, array, capsys):
    np.save(tmp_path / "a.npy", np.zeros_like(array))
    assert run(tmp_path / "a.npy", tmp_path, "--fs", 500, "--units", "uV") == 2
    assert (
        "error: no recording was kept, of a.npy/a-0 because: every lead is flat\n"
        in capsys.readouterr().err
    )
    assert len(skipped(tmp_path)) == N


def test_another_input_into_the_same_folder_is_an_error_before_anything_is_deleted(
    tmp_path, array, capsys
):
    np.save(tmp_path / "first.npy", array[:8])
    np.save(tmp_path / "other.npy", array[8:])
    flags = ["--fs", 500, "--units", "uV", "--segment_seconds", 1]
    first = imported(tmp_path / "first.npy", tmp_path, *flags).records["record"].tolist()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "extracted").rglob("*")}
    assert run(tmp_path / "other.npy", tmp_path, *flags) == 2
    assert re.search(
        r"error: \S+extracted holds 8 recordings of another import, such as first-\d, none of "
        r"which is in "
        "this input; choose another --output_dir, or delete that folder",
        capsys.readouterr().err,
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "extracted").rglob("*")} == before
    assert (
        imported(tmp_path / "first.npy", tmp_path, *flags, "--target_fs", 250)
        .records["record"]
        .tolist()
        == first
    )
    assert "earlier import" not in capsys.readouterr().out, "other settings, the same recordings"


def test_recordings_that_left_the_input_are_counted(tmp_path, array, capsys):
    np.save(tmp_path / "a.npy", array[:8])
    imported(tmp_path / "a.npy", tmp_path, "--fs", 500, "--units", "uV")
    np.save(tmp_path / "a.npy", array[:6])
    assert len(imported(tmp_path / "a.npy", tmp_path, "--fs", 500, "--units", "uV")) == 6
    said = capsys.readouterr().out
    assert (
        "2 recordings of an earlier import, such as a-6, are no longer in the input and are "
        "taken "
        "out of " in said
    )
    assert (
        "records of the store that is replaced, which the new one lacks: 2 of 8, such as a-6, a-7"
        in said
    )


def test_wrong_input_is_one_sentence(tmp_path, array, capsys):
    assert "there is no such file or folder" in fails(
        capsys, tmp_path / "none", tmp_path, "--fs", 500
    )
    (tmp_path / "in").mkdir()
    assert "no file with ending .npy" in fails(capsys, tmp_path / "in", tmp_path, "--fs", 500)
    (tmp_path / "a.mat").write_text("")
    assert "its ending is none of .hea, .npy" in fails(
        capsys, tmp_path / "a.mat", tmp_path, "--fs", 500
    )
    np.save(tmp_path / "in" / "a.npy", array / 1000)
    assert "--fs is missing: npy files do not say" in fails(capsys, tmp_path / "in", tmp_path)
    np.save(tmp_path / "in" / "b.npy", array[0] / 1000)
    assert "b.npy: shape (12, 1500) is that of one recording" in fails(
        capsys, tmp_path / "in", tmp_path, "--fs", 500
    )
    np.save(tmp_path / "in" / "b.npy", array.swapaxes(1, 2) / 1000)
    assert "b.npy: shape (1500, 12) has no axis of 12 leads as" in fails(
        capsys, tmp_path / "in", tmp_path, "--fs", 500, "--layout", "leads_time"
    )
    (tmp_path / "in" / "c.h5").write_text("")
    assert "files of several kinds (npy, HDF5)" in fails(
        capsys, tmp_path / "in", tmp_path, "--fs", 500
    )


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--leads", "I,MLII"], "'MLII' is none of I II III"),
        (["--leads", "I,II,i"], "I is named twice"),
        (["--leads=-,-"], "no lead is left"),
        (["--fs", "0"], "0 Hz is not from 20"),
        (["--fs", "x"], "--fs"),
        (["--database", "a/b"], "use letters"),
        (["--units", "kV"], "is no voltage"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_wrong_flags(capsys, flags, words):
    with pytest.raises(SystemExit):
        run_main(import_arrays.main, ["--input", "x.npy", "--fs", "500", *flags])
    assert words in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------
# DICOM


def example_dicom(folder):
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
    from pydicom import examples

    folder.mkdir()
    shutil.copy(examples.get_path("waveform"), folder / "ecg.dcm")
    return pydicom.dcmread(folder / "ecg.dcm")


def test_dicom_is_what_pydicom_reads(tmp_path):
    expected = example_dicom(tmp_path / "in").waveform_array(0) / 1000
    (tmp_path / "in" / "none.dcm").write_text("no DICOM")
    assert run(tmp_path / "in", tmp_path, "--target_fs", 1000) == 0
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs1000")
    row = store.records.iloc[0]
    assert (row["record"], row["age"], row["sex"], row["leads"], row["fs_original"]) == (
        "ecg",
        42,
        "Female",
        "",
        1000,
    )
    assert row["flags"] == "other waveforms left out: MEDIAN BEAT"
    # 1.25 microvolts a count there, 1 here
    assert np.abs(store.read(0) - expected).max() < 0.51e-3
    assert skipped(tmp_path) == {"none.dcm": "no DICOM file"}


def test_missing_samples_and_other_units_of_dicom(tmp_path):
    dataset = example_dicom(tmp_path / "in")
    group = dataset.WaveformSequence[0]
    raw = np.frombuffer(group.WaveformData, "<i2").reshape(-1, 12).copy()
    raw[:, 11] = -32768
    group.WaveformData = raw.tobytes()
    group.add_new(0x5400100A, "OW", np.int16(-32768).tobytes())
    dataset.save_as(tmp_path / "in" / "b.dcm")
    group.ChannelDefinitionSequence[3].ChannelSensitivityUnitsSequence[0].CodeValue = "mm[Hg]"
    dataset.save_as(tmp_path / "in" / "c.dcm")
    assert run(tmp_path / "in", tmp_path) == 0
    assert skipped(tmp_path) == {"c.dcm": "unit mm[Hg] of lead aVR is no voltage"}
    text = (tmp_path / "extracted" / "records.csv").read_text()
    assert "no sample of V6" in text and "I II III aVR aVL aVF V1 V2 V3 V4 V5," in text


@pytest.mark.parametrize("names", CODED)
@pytest.mark.parametrize("size", [12, 3, 1])
def test_leads_of_dicom_go_by_codes_and_groups_are_joined(tmp_path, names, size):
    parts = [
        (counts(0)[:, k : k + size], CODED[names][k : k + size], 0) for k in range(0, 12, size)
    ]
    assert run(made_dicom(tmp_path / "in", parts), tmp_path) == 0
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    np.testing.assert_array_equal(RecordStore(tmp_path / "store" / "fs250").counts(0), counts(0))


def test_strips_of_dicom_are_refused_or_kept_by_their_rhythm_strip(tmp_path):
    strips = [
        (counts(0, 625)[:, k : k + 3], CODED["MDC"][k : k + 3], 2500 * (k // 3))
        for k in range(0, 12, 3)
    ]
    made_dicom(tmp_path / "in", strips)
    made_dicom(tmp_path / "in", [*strips, (counts(0)[:, 1:2], CODED["MDC"][1:2], 0)], "b")
    assert run(tmp_path / "in", tmp_path) == 0
    assert skipped(tmp_path)["a.dcm"].startswith("4 strips of 2.5 s that follow one another")
    with open(tmp_path / "extracted" / "records.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["record"], row["leads"]) == ("b", "II")
    assert row["flags"].startswith("other waveforms left out: 4 strips that follow one another")


@pytest.mark.parametrize(
    "age, sex, years, word",
    [
        ("061Y", "F", "61", "Female"),
        ("61Y", "f", "61", "Female"),
        ("061", "female", "61", "Female"),
        ("006M", "m", "0.5", "Male"),
        ("old", "O", "", "Unknown"),
    ],
)
def test_age_and_sex_of_dicom(tmp_path, age, sex, years, word):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made_dicom(tmp_path / "in", [(counts(0), CODED["MDC"], 0)], PatientAge=age, PatientSex=sex)
        assert run(tmp_path / "in", tmp_path) == 0
    with open(tmp_path / "extracted" / "records.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["age"], row["sex"]) == (years, word)


def test_dicom_says_itself_what_others_must_be_told(tmp_path, capsys):
    example_dicom(tmp_path / "in")
    assert "--fs, --units: DICOM files say themselves" in fails(
        capsys, tmp_path / "in", tmp_path, "--fs", 500, "--units", "uV"
    )


def test_dicom_without_pydicom_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    example_dicom(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "python -m pip install 'pydicom>=3,<4'" in fails(capsys, tmp_path / "in", tmp_path)


def test_patients_of_dicom_keep_their_records_together(tmp_path, capsys):
    """The id in the files, unless a table names the patient: then its name, for all records."""
    for i in range(12):
        parts = [(counts(i), CODED["MDC"], 0)]
        made_dicom(tmp_path / "in", parts, f"d{i:02d}", PatientID=f"MRN{i // 4}")
    assert run(tmp_path / "in", tmp_path) == 0
    assert "12 kept records name their patient in their file" in capsys.readouterr().out
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    records = RecordStore(tmp_path / "store" / "fs250").records
    assert records["patient"].tolist() == [f"MRN{i // 4}" for i in range(12)]
    assert (records.groupby("patient")["fold"].nunique() == 1).all()
    (tmp_path / "p.csv").write_text("record,patient_id\nd00,A\nd05,B\n")
    building.reformat(tmp_path / "extracted", tmp_path / "store", patients=tmp_path / "p.csv")
    records = RecordStore(tmp_path / "store" / "fs250").records
    assert records["patient"].tolist() == ["A"] * 4 + ["B"] * 4 + ["MRN2"] * 4
    (tmp_path / "s.csv").write_text("record,split\nd00,train\nd01,test\n")
    with pytest.raises(ECGError, match="1 patients on more than one side"):
        building.reformat(tmp_path / "extracted", tmp_path / "store", splits=tmp_path / "s.csv")


# ------------------------------------------------------------------------------------------------
# hospital exports


def exported(path):
    """What the stand-in makes of a file: eight leads of the recording whose number is in it."""
    signal = counts(int(path.read_text())) / 1000
    leads = [made_lead(LEADS[k], signal[:, k], 250) for k in (0, 1, *range(6, 12))]
    return made_record(leads, patient=path.stem)


def test_hospital_exports_become_a_store(tmp_path, capsys, monkeypatch):
    stand_in(monkeypatch, exported)
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"m{i}.{'XML' if i else 'xml'}").write_text(str(i))
    (tmp_path / "in" / "bad.xml").write_text("no number")
    assert run(tmp_path / "in", tmp_path) == 0
    out = capsys.readouterr().out
    remark = "limb leads that follow from two others (--no_derive keeps them absent)"
    assert f"3 with the remark: {remark}" in out
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs250")
    assert store.records["record"].tolist() == store.records["patient"].tolist()
    assert set(store.records["leads"]) == {""} and set(store.records["age"]) == {63}
    got, own = store.counts(1).astype(int), counts(1).astype(int)
    np.testing.assert_array_equal(got[:, [0, 1, *range(6, 12)]], own[:, [0, 1, *range(6, 12)]])
    np.testing.assert_array_equal(got[:, 2], own[:, 1] - own[:, 0])
    assert np.abs(2 * got[:, 3] + own[:, 0] + own[:, 1]).max() <= 1
    assert skipped(tmp_path)["bad.xml"].startswith("ecgdatakit cannot read it: ValueError")
    capsys.readouterr()
    assert "--fs: hospital files say themselves" in fails(
        capsys, tmp_path / "in", tmp_path / "b", "--fs", 500
    )


def test_hospital_exports_without_the_package_say_how_to_get_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").write_text("<RestingECG/>")
    monkeypatch.setitem(sys.modules, "ecgdatakit", None)
    assert "python -m pip install 'ecgdatakit>=2.0.3,<3'" in fails(
        capsys, tmp_path / "in", tmp_path
    )


def test_wfdb_is_sent_to_its_own_command(tmp_path, capsys):
    path = write_record(tmp_path / "in", "a")
    for given in (path, tmp_path / "in"):
        assert "WFDB (.hea) goes to data_extraction" in fails(capsys, given, tmp_path)


def test_dicom_files_are_known_without_endings_and_beside_xml(tmp_path, capsys):
    made_dicom(tmp_path / "in", [(counts(0), CODED["MDC"], 0)], "1.2.840.17")
    (tmp_path / "in" / "1.2.840.17.dcm").rename(tmp_path / "in" / "1.2.840.17")
    assert run(tmp_path / "in", tmp_path) == 0
    assert (tmp_path / "extracted" / "records.csv").read_text().count(
        "1.2.840.17,in,1.2.840.17"
    ) == 1
    made_dicom(tmp_path / "in", [(counts(1), CODED["MDC"], 0)], "b")
    (tmp_path / "in" / "about.xml").write_text("<about/>")
    assert run(tmp_path / "in", tmp_path / "b") == 0
    assert ".mfer beside the others, which are not read: 1" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# a reader of one's own


def muse_xml(counts, lsb="2.5"):
    """What GE's MUSE exports, as far as a reader needs it: the median beat first, then eight
    leads of rhythm.
    """
    leads = "".join(
        f"<LeadData><LeadID>{LEADS[k]}</LeadID><LeadAmplitudeUnitsPerBit>{lsb}</LeadAmplitudeUnitsPerBit><WaveFormData>\n{base64.encodebytes(counts[:, k].tobytes()).decode()}</WaveFormData></LeadData>"
        for k in (0, 1, *range(6, 12))
    )
    return f"<RestingECG><Waveform><WaveformType>Median</WaveformType></Waveform><Waveform><WaveformType>Rhythm</WaveformType><SampleBase>250</SampleBase>{leads}</Waveform></RestingECG>"


def test_the_reader_in_the_documentation_works(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    code = page.split("### Hospital XML")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "my_muse.py").write_text(code)
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"m{i}.xml").write_text(muse_xml(counts(i)))
    (tmp_path / "in" / "none.xml").write_text("<RestingECG>")
    subprocess.run(
        [sys.executable, tmp_path / "my_muse.py", tmp_path / "in", tmp_path / "extracted"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs250")
    assert store.records["record"].tolist() == ["m0", "m1", "m2"] and set(
        store.records["leads"]
    ) == {""}
    assert skipped(tmp_path)["none.xml"].startswith("no XML: ")
    for i in range(3):
        signal, own = store.read(i), counts(i) * 2.5e-3
        assert np.abs(signal[:, [0, 1, *range(6, 12)]] - own[:, [0, 1, *range(6, 12)]]).max() < 2e-3
        assert np.abs(signal[:, 2] - (own[:, 1] - own[:, 0])).max() < 2e-3
        assert np.abs(signal[:, 3:6].sum(axis=1)).max() < 5e-3  # aVR + aVL + aVF = 0


def test_help_teaches():
    text = subprocess.run(
        [sys.executable, ROOT / "data_preparation/import_arrays.py", "--help"],
        capture_output=True,
        text=True,
    ).stdout
    for word in ("CODE-15 %", "SPH", "--trim", "reformat_memmap.py", "ids.csv", "pydicom"):
        assert word in text
