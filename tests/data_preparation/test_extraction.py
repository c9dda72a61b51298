import csv
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import wfdb

from data_preparation import data_extraction_without_preprocessing as extraction
from data_preparation import reformat_memmap
from data_preparation.building import reformat as building
from data_preparation.importing import shards, sources, wfdb_source
from data_preparation.importing.plan import plan_shards
from data_preparation.importing.wfdb_source import database_of, extract
from tests.support.wfdb_files import SHARED, ecg_counts, needs_broken, needs_real, write_record
from util.data.store import RecordStore, quantise
from util.errors import ConfigError, StoreError
from util.formats import wfdb_files
from util.formats.wfdb_files import read_record
from util.leads import LEADS
from util.processes.program import run_main

ROOT = Path(__file__).resolve().parents[2]


def build(folder, out, target_fs=(100, 250), workers=1, patients=None):
    """Both steps; returns {fs: RecordStore} and skipped.csv as {path: reason}."""
    extract(folder, out / "extracted", list(target_fs), workers)
    building.reformat(out / "extracted", out / "store", patients=patients)
    return {fs: RecordStore(out / "store" / f"fs{fs}") for fs in target_fs}, skipped(
        out / "extracted"
    )


def skipped(folder):
    with open(folder / "skipped.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def row_of(store, record):
    return int(np.flatnonzero(store.records["record"] == record)[0])


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_records(folder, n, samples=1500):
    for i in range(n):
        dx = ["426783006", "164889003", "427084000", "111"][i % 4]
        write_record(
            folder / f"db{i % 2}",
            f"R{i:04d}",
            ecg_counts(samples, seed=i),
            comments=(f"#Dx: {dx}",),
        )


# ------------------------------------------------------------------------------------------------
# defects


def test_defect_1_every_lead_comes_from_itself(tmp_path):
    """The published extraction resampled lead I into all twelve leads."""
    leads = [LEADS[k] for k in np.random.default_rng(3).permutation(12)]
    counts = ecg_counts(5000)
    write_record(tmp_path / "in", "A1", counts, leads=leads)
    stores, _ = build(tmp_path / "in", tmp_path)
    for fs, store in stores.items():
        for k, lead in enumerate(LEADS):
            own = counts[:, leads.index(lead)] / 1000
            expected = scipy.signal.resample(own, 5000 * fs // 500)
            assert np.abs(store.read(0)[:, k] - expected).max() < 0.5e-3 + 1e-5, lead


def test_defect_16_the_second_step_reads_where_the_first_wrote(tmp_path, monkeypatch):
    """The published default folders differed: with no arguments at all the two commands
    must fit.
    """
    make_records(tmp_path / "data_folder" / "datasets", 3)
    monkeypatch.chdir(tmp_path)
    assert run_main(extraction.main, ["--workers", "1"]) == 0
    assert run_main(reformat_memmap.main, []) == 0
    store = RecordStore("./data_folder/data_summary_without_preprocessing/fs100")
    assert len(store) == 3 and store.fs == 100
    assert RecordStore("./data_folder/data_summary_without_preprocessing/fs250").fs == 250


# ------------------------------------------------------------------------------------------------
# what is stored


def test_equal_rate_is_stored_sample_for_sample(tmp_path):
    counts = ecg_counts(2500)
    counts[7] = 32767
    counts[8] = -32767
    write_record(tmp_path / "in", "A1", counts, fs="250")
    store = build(tmp_path / "in", tmp_path)[0][250]
    np.testing.assert_array_equal(store.counts(0), counts)
    assert store.records["scale"][0] == 0.001


def test_a_record_beyond_32_millivolts_gets_a_larger_scale_and_is_not_clipped(tmp_path):
    counts = ecg_counts(2500)
    write_record(tmp_path / "in", "A1", counts, fs="250", gain="100/mV")
    store = build(tmp_path / "in", tmp_path)[0][250]
    expected = counts / 100
    assert np.abs(expected).max() > 33
    assert store.records["scale"][0] == np.ceil(np.abs(expected).max() / 32.7674) / 1000
    assert np.abs(store.read(0) - expected).max() <= store.records["scale"][0] / 2 * 1.001
    assert "peak" in store.records["flags"][0]


@pytest.mark.parametrize(
    "peak_uv, scale_uv",
    [(1, 1), (32767, 1), (32767.3, 1), (32767.5, 2), (65534, 2), (65536, 3), (1e7, 306)],
)
def test_scale_is_the_smallest_that_does_not_clip(peak_uv, scale_uv):
    signal = np.array([[0.0, peak_uv / 1000], [-peak_uv / 1000, 0]], np.float32)
    counts, scale = quantise(signal)
    assert scale == scale_uv and counts.dtype == np.int16 and counts.flags.c_contiguous
    assert np.abs(counts * (scale / 1000) - signal).max() <= scale / 1000 * 0.501


def test_records_table(tmp_path):
    """Every column of the store's table, for a record with everything and one with nothing."""
    write_record(
        tmp_path / "in/training/georgia/g1",
        "E1",
        ecg_counts(5000),
        comments=("# Age: 300", "# Sex: F", "# Dx: 426783006, 67741000119109"),
    )
    write_record(tmp_path / "in/training/mine", "X1", ecg_counts(2570), fs="257", comments=())
    stores, _ = build(tmp_path / "in", tmp_path)
    row = stores[100].records.iloc[0]
    assert (
        row.record,
        row.database,
        row.fs_original,
        row.start,
        row.length,
        row.age,
        row.sex,
        row.dx,
    ) == ("E1", "georgia", 500, 0, 1000, 90, "Female", "426783006 67741000119109")
    assert (
        row.path == "training/georgia/g1/E1.hea"
        and 0 <= row.fold < 10
        and "over 89" in row["flags"]
    )
    row = stores[250].records.iloc[1]
    assert row["leads"] == ""
    assert (row.record, row.database, row.fs_original, row.start, row.length) == (
        "X1",
        "mine",
        257,
        2500,
        2500,
    )
    assert (row.sex, row.dx, row["flags"]) == ("Unknown", "", "") and 0 <= row.fold < 10
    assert np.isnan(row.age)


def test_records_with_fewer_leads_are_kept_and_counted(tmp_path, capsys):
    """PhysioNet 2017: one lead, called ECG; beside them a recording of three leads and one of
    twelve.
    """
    own, three, twelve = (
        ecg_counts(3000, 1, leads=1),
        ecg_counts(2500, 2, leads=3),
        ecg_counts(2500, 3),
    )
    write_record(tmp_path / "in", "A00001", own, leads=("ECG",), fs="300")
    write_record(tmp_path / "in", "B1", three, leads=("V2", "II", "I"), fs="250")
    write_record(tmp_path / "in", "C1", twelve, fs="250")
    flags = [
        "--input_dir",
        str(tmp_path / "in"),
        "--output_dir",
        str(tmp_path / "extracted"),
        "--workers",
        "1",
    ]
    assert run_main(extraction.main, flags) == 0
    assert skipped(tmp_path / "extracted")["A00001.hea"].startswith(
        "none of the twelve leads: ECG; "
    )
    assert run_main(extraction.main, [*flags, "--lead_names", "ECG=I"]) == 0
    assert "2 kept records have fewer than twelve leads" in capsys.readouterr().out
    building.reformat(tmp_path / "extracted", tmp_path / "store")
    store = RecordStore(tmp_path / "store" / "fs250")
    assert store.records["leads"].tolist() == ["I", "I II III aVR aVL aVF V2", ""]
    assert store.meta["command"][0].endswith("--lead_names ecg=I")
    np.testing.assert_array_equal(store.counts(1)[:, [7, 1, 0]], three)
    np.testing.assert_array_equal(store.counts(2), twelve)
    expected = scipy.signal.resample(own[:, 0] / 1000, 2500)
    assert np.abs(store.read(0, leads=["I"])[:, 0] - expected).max() < 0.5e-3 + 1e-5
    assert store.has_leads(["I"]).tolist() == [True, True, True] and store.has_leads(
        LEADS
    ).tolist() == [0, 0, 1]
    with pytest.raises(SystemExit):
        run_main(extraction.main, [*flags, "--lead_names", "ECG=MLII"])
    assert "ECG=MLII is not NAME=LEAD with one of the leads I II" in capsys.readouterr().err


def test_rates_share_rows_and_folds(tmp_path):
    make_records(tmp_path / "in", 40)
    stores, _ = build(tmp_path / "in", tmp_path)
    same = [column for column in stores[100].records if column not in ("start", "length", "scale")]
    assert stores[100].records[same].equals(stores[250].records[same])


def test_patients_share_a_fold(tmp_path):
    make_records(tmp_path / "in", 60)
    (tmp_path / "patients.csv").write_text(
        "record,patient_id\n" + "".join(f"R{i:04d},p{i % 2}-{i // 8}\n" for i in range(60))
    )
    store = build(tmp_path / "in", tmp_path, [100], patients=tmp_path / "patients.csv")[0][
        100
    ].records
    assert store["fold"].min() >= 0 and (store.groupby("patient")["fold"].nunique() == 1).all()
    assert store["patient"][0] == "p0-0"
    assert (
        run_main(
            reformat_memmap.main,
            [
                "--input_dir",
                str(tmp_path / "extracted"),
                "--output_dir",
                str(tmp_path / "s"),
                "--patients",
                str(tmp_path / "none.csv"),
            ],
        )
        == 2
    )


def test_a_record_with_two_patients_is_refused(tmp_path):
    (tmp_path / "patients.csv").write_text("record,patient_id\na,p1\nb,\na,p2\n")
    with pytest.raises(
        ConfigError, match="patients.csv names 1 records more than once, such as a; keep one row"
    ):
        building.read_patients(tmp_path / "patients.csv")


@pytest.mark.parametrize(
    "path, name",
    [
        ("ptb-xl/g3/HR02001.hea", "ptb-xl"),
        ("training/ptb-xl/g3/HR02001.hea", "ptb-xl"),
        ("PTB-XL/a.hea", "ptb-xl"),
        ("WFDB_PTBXL/a.hea", "ptb-xl"),
        ("ICBEB2018/A0001.hea", "cpsc_2018"),
        ("ICBEB2018_2/Q1.hea", "cpsc_2018_extra"),
        ("cpsc_2018_extra/Q1.hea", "cpsc_2018_extra"),
        ("INCART/I1.hea", "st_petersburg_incart"),
        ("PTB/S1.hea", "ptb"),
        ("Georgia/WFDB/E1.hea", "georgia"),
        ("PhysioNetChallenge2020_Training_E/WFDB/E1.hea", "georgia"),
        ("download/training/cpsc_2018/g1/A1.hea", "cpsc_2018"),
        ("training/my data/g1/a.hea", "my_data"),
        ("=cmd/a.hea", "_cmd"),
        ("a.hea", "input"),
        ("g1/a.hea", "input"),
        ("my/ptb_backup/a.hea", "my"),
    ],
)
def test_database_names(path, name):
    assert database_of(path, "input") == name


def test_one_database_folder_as_input_keeps_its_name():
    assert database_of("g1/HR00001.hea", "PTB-XL") == "ptb-xl"


# ------------------------------------------------------------------------------------------------
# bad records


def test_duplicate_names_keep_the_first_and_name_it(tmp_path):
    for folder, seed in (("b", 1), ("a", 2), ("c", 3)):
        write_record(tmp_path / "in" / folder, "X1", ecg_counts(seed=seed), fs="250")
    stores, out = build(tmp_path / "in", tmp_path, [250])
    np.testing.assert_array_equal(stores[250].counts(0), ecg_counts(seed=2))
    reason = "duplicate record name: the first is a/X1.hea; import each database by itself"
    assert [*out] == ["b/X1.hea", "c/X1.hea"]
    assert all(text.startswith(reason) for text in out.values())


def failing_reader(monkeypatch, record, error):
    """From here on, reading this record fails."""
    read = wfdb_source.read_signal

    def fail(header, *rest):
        if header.record == record:
            raise error
        return read(header, *rest)

    monkeypatch.setattr(wfdb_source, "read_signal", fail)


def test_unexpected_failures_are_reasons_too(tmp_path, monkeypatch):
    make_records(tmp_path / "in", 4)
    failing_reader(monkeypatch, "R0002", ZeroDivisionError("by zero"))
    stores, out = build(tmp_path / "in", tmp_path, [100])
    assert len(stores[100]) == 3 and out == {
        "db0/R0002.hea": "unexpected failure: ZeroDivisionError: by zero"
    }


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (MemoryError(), "out of memory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_a_read_error_that_passes_is_tried_again(tmp_path, monkeypatch, capsys, error, words):
    """It was kept as a reason to skip the record, and no later run looked again."""
    make_records(tmp_path / "in", 4)
    build(tmp_path / "in", tmp_path / "sound", [100])
    command = [
        "--input_dir",
        str(tmp_path / "in"),
        "--output_dir",
        str(tmp_path / "extracted"),
        "--target_fs",
        "100",
        "--workers",
        "1",
    ]
    with monkeypatch.context() as patch:
        failing_reader(patch, "R0002", error)
        assert run_main(extraction.main, command) == 75
    assert "records not read this time: 1;" in capsys.readouterr().err
    assert skipped(tmp_path / "extracted") == {"db0/R0002.hea": f"not read this time: {words}"}
    assert (
        run_main(
            reformat_memmap.main,
            ["--input_dir", str(tmp_path / "extracted"), "--output_dir", str(tmp_path / "s")],
        )
        == 0
    )
    assert (
        "which are not in the store: 1;" in capsys.readouterr().out
        and len(RecordStore(tmp_path / "s" / "fs100")) == 3
    )
    assert run_main(extraction.main, command) == 0
    assert skipped(tmp_path / "extracted") == {}
    assert contents(tmp_path / "extracted") == contents(tmp_path / "sound" / "extracted")


def test_a_signal_that_cannot_be_read_now_is_no_bad_record(tmp_path, monkeypatch):
    """At each place where a record's files are touched."""
    path = write_record(tmp_path, "A1")
    wfdb.wrsamp(
        "r1",
        fs=360,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        p_signal=ecg_counts() / 1000.0,
        fmt=["16"] * 12,
        write_dir=str(tmp_path),
    )

    def stale(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    for record, target, name in (
        (path, np, "fromfile"),
        (path, os, "stat"),
        (tmp_path / "r1.hea", wfdb, "rdrecord"),
        (path, wfdb_files, "open"),
    ):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="Stale"):
            patch.setattr(target, name, stale, raising=False)
            read_record(record)


def test_a_folder_that_cannot_be_listed_is_an_error_not_an_empty_one(tmp_path, monkeypatch, capsys):
    make_records(tmp_path / "in", 4)
    scan = os.scandir

    def stale(folder):
        if str(folder).endswith("db1"):
            raise OSError(errno.ESTALE, "Stale file handle", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", stale)
    assert (
        run_main(
            extraction.main,
            [
                "--input_dir",
                str(tmp_path / "in"),
                "--output_dir",
                str(tmp_path / "e"),
                "--workers",
                "1",
            ],
        )
        == 2
    )
    assert "cannot list the folder" in capsys.readouterr().err


def test_two_extractions_do_not_share_a_folder(tmp_path, monkeypatch, capsys):
    """The second one used to end with a bare errno, or took away what the first one wrote."""
    make_records(tmp_path / "in", 4)
    extract(tmp_path / "in", tmp_path / "extracted", [100], 1)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from util.files import FolderLock; lock = FolderLock(sys.argv[1], "
            "0); print(1, flush=True); time.sleep(60)",
            tmp_path / "out",
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    holder.stdout.readline()
    monkeypatch.setattr(shards, "PATIENCE", 0.1)
    try:
        for main, folder in ((extraction.main, "in"), (reformat_memmap.main, "extracted")):
            assert (
                run_main(
                    main,
                    ["--input_dir", str(tmp_path / folder), "--output_dir", str(tmp_path / "out")],
                )
                == 2
            )
            assert "another process is writing to" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()


def test_tables_hold_no_formulas(tmp_path):
    """Folder names and Dx entries are untrusted; a spreadsheet must not execute them."""
    write_record(tmp_path / "in" / "@x", "A1", comments=("#Dx: =HYPERLINK(1),+1",))
    write_record(tmp_path / "in" / "=cmd", "A2", leads=("=1+1", *LEADS[1:]))
    (tmp_path / "in" / "-odd\nname").mkdir()
    write_record(tmp_path / "in" / "-odd\nname", "=bad")
    _, out = build(tmp_path / "in", tmp_path)
    assert "'=cmd/A2.hea" not in out and "'-odd name/=bad.hea" in out
    for path in tmp_path.rglob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [
            cell
            for cell in cells
            if cell[:1] in ("=", "+", "@", "\t") or cell[:1] == "-" and cell != "-1"
        ]
        assert not [cell for cell in cells if "\n" in cell]


def test_file_names_that_are_no_utf8(tmp_path):
    folder = os.fsencode(tmp_path / "in") + b"/caf\xe9"
    os.makedirs(folder)
    path = write_record(tmp_path, "A1")
    for name in ("A1.hea", "A1.mat"):
        shutil.copy(os.fsencode(tmp_path / name), folder + b"/" + name.encode())
    assert path.exists()
    stores, out = build(tmp_path / "in", tmp_path / "out", [100])
    assert out == {} and stores[100].records["database"][0] == "caf_"


def test_no_input_is_one_sentence(tmp_path, capsys):
    assert (
        run_main(
            extraction.main,
            ["--input_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "o")],
        )
        == 2
    )
    (tmp_path / "empty").mkdir()
    assert (
        run_main(
            extraction.main,
            ["--input_dir", str(tmp_path / "empty"), "--output_dir", str(tmp_path / "o")],
        )
        == 2
    )
    assert (
        run_main(
            reformat_memmap.main,
            ["--input_dir", str(tmp_path / "o"), "--output_dir", str(tmp_path / "s")],
        )
        == 2
    )
    errors = capsys.readouterr().err
    assert "no folder" in errors and "no .hea file" in errors and "no finished extraction" in errors
    assert "Traceback" not in errors


def test_only_bad_records_are_an_error_of_both_steps(tmp_path, capsys):
    write_record(tmp_path / "in", "A1", ecg_counts(300))
    assert (
        run_main(
            extraction.main,
            [
                "--input_dir",
                str(tmp_path / "in"),
                "--output_dir",
                str(tmp_path / "e"),
                "--workers",
                "1",
            ],
        )
        == 2
    )
    said = capsys.readouterr()
    assert "1 skipped: shorter than the minimum length" in said.out
    assert (
        "error: no recording was kept, of A1.hea because: shorter than the minimum length: 0.6 s "
        "of 2 s; all are too short: lower --min_seconds" in said.err
    )
    assert (
        run_main(
            reformat_memmap.main,
            ["--input_dir", str(tmp_path / "e"), "--output_dir", str(tmp_path / "s")],
        )
        == 2
    )
    assert "no usable record" in capsys.readouterr().err


def test_summary_counts_by_database(tmp_path, capsys):
    make_records(tmp_path / "in", 8)
    write_record(tmp_path / "in" / "db1", "bad", ecg_counts(10))
    assert (
        run_main(
            extraction.main,
            [
                "--input_dir",
                str(tmp_path / "in"),
                "--output_dir",
                str(tmp_path / "e"),
                "--workers",
                "1",
            ],
        )
        == 0
    )
    table = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line
    }
    assert table["db0"] == ["4", "4", "0", "0.00", "4"]
    assert table["db1"] == ["5", "4", "1", "0.00", "2"]
    assert table["all"] == ["9", "8", "1", "0.01", "6"]


# ------------------------------------------------------------------------------------------------
# segments


def segmented(tmp_path, *more):
    """Both steps with --segment_seconds 10 from <tmp_path>/in; returns the stores by rate."""
    folders = str(tmp_path / "extracted"), str(tmp_path / "store")
    assert (
        run_main(
            extraction.main,
            [
                "--input_dir",
                str(tmp_path / "in"),
                "--output_dir",
                folders[0],
                "--segment_seconds",
                "10",
                "--workers",
                "1",
            ],
        )
        == 0
    )
    assert (
        run_main(
            reformat_memmap.main, ["--input_dir", folders[0], "--output_dir", folders[1], *more]
        )
        == 0
    )
    return {fs: RecordStore(tmp_path / "store" / f"fs{fs}") for fs in (100, 250)}


def test_segments_are_the_records_own_pieces(tmp_path, capsys):
    """As ST-MEM's published preparation: records under 10 s dropped, longer ones cut into pieces
    of 10 s.
    """
    long, exact = ecg_counts(9000, seed=1), ecg_counts(2570, seed=2)
    write_record(tmp_path / "in", "long", long, fs="257")
    write_record(tmp_path / "in", "exact", exact, fs="257")
    write_record(tmp_path / "in", "short", ecg_counts(2569), fs="257")
    stores = segmented(tmp_path)
    assert stores[250].records["record"].tolist() == ["exact", "long_1", "long_2", "long_3"]
    assert set(stores[250].records["length"]) == {2500} and set(stores[100].records["length"]) == {
        1000
    }
    for i, piece in enumerate((exact, long[:2570], long[2570:5140], long[5140:7710])):
        expected = scipy.signal.resample(piece / 1000, 1000, axis=0)
        assert np.abs(stores[100].read(i) - expected).max() < 0.5e-3 + 1e-5
    assert stores[100].records["flags"].tolist() == [
        "",
        "",
        "",
        "the last 5.02 s of the recording are left out",
    ]
    assert skipped(tmp_path / "extracted") == {
        "short.hea": "shorter than the minimum length: 9.99611 s of 10 s"
    }
    assert (
        stores[100]
        .meta["command"][0]
        .endswith("--target_fs 100 250 --min_seconds 10 --segment_seconds 10")
    )
    table = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line
    }
    assert table["all"][:3] == ["3", "4", "1"]


def test_pieces_of_a_record_and_of_a_patient_share_a_fold(tmp_path):
    for i in range(24):
        write_record(
            tmp_path / "in" / "db",
            f"R{i:02d}",
            ecg_counts(1000 * (1 + i % 5) + 3, seed=i),
            fs="100",
        )
    records = segmented(tmp_path)[100].records
    assert len(records) == 70 and (records.groupby("path")["fold"].nunique() == 1).all()
    assert records.groupby("path")["fold"].first().nunique() == 10
    (tmp_path / "patients.csv").write_text("record,patient_id\nR03,p\nR04,p\nR07,p\n")
    records = segmented(tmp_path, "--patients", str(tmp_path / "patients.csv"))[100].records
    mine = records[records["patient"] == "p"]
    assert len(mine) == 4 + 5 + 3 and mine["fold"].nunique() == 1


def test_a_piece_in_which_nothing_was_measured_is_skipped_alone(tmp_path):
    counts = ecg_counts(3000)
    counts[1000:2000] = 5
    counts[2000:, 7] = 9
    write_record(tmp_path / "in", "A", counts, fs="100")
    records = segmented(tmp_path)[100].records
    assert records["record"].tolist() == ["A_1", "A_3"] and records["flags"].tolist() == [
        "",
        "flat lead V2",
    ]
    assert skipped(tmp_path / "extracted") == {"A.hea": "piece 2: every lead is flat"}


def test_a_piece_called_like_another_record_is_an_error(tmp_path, capsys):
    write_record(tmp_path / "in", "A", ecg_counts(2000), fs="100")
    write_record(tmp_path / "in", "A_1", ecg_counts(1000), fs="100")
    assert (
        run_main(
            extraction.main,
            [
                "--input_dir",
                str(tmp_path / "in"),
                "--output_dir",
                str(tmp_path / "e"),
                "--segment_seconds",
                "10",
                "--workers",
                "1",
            ],
        )
        == 2
    )
    assert "A_1.hea and a piece of A.hea would both be called A_1" in capsys.readouterr().err


@needs_broken
def test_half_an_hour_makes_180_pieces(tmp_path):
    for name in ("I9114.hea", "I9114.mat"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(SHARED / "broken/14_long_257hz" / name, tmp_path / "in")
    records = segmented(tmp_path)[250].records
    assert (
        len(records) == 180 and set(records["length"]) == {2500} and records["fold"].nunique() == 1
    )


# ------------------------------------------------------------------------------------------------
# restart


@pytest.mark.parametrize("alone", [0.0, 0.03])
def test_processes_do_not_change_the_bytes(alone, tmp_path, monkeypatch):
    """From the start, or from some shard on."""
    make_records(tmp_path / "in", 150, samples=1000)
    build(tmp_path / "in", tmp_path / "1")
    monkeypatch.setattr(shards, "ALONE", alone)
    build(tmp_path / "in", tmp_path / "2", workers=2)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    build(tmp_path / "in", tmp_path / "1")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_workers_are_started_where_there_is_work_for_them(tmp_path, monkeypatch):
    """The defect: two workers imported 600 records at half the rate of one process, as they import
    all of the program first.
    """
    make_records(tmp_path / "in", 300, samples=1000)

    def no_pool(*given):
        raise RuntimeError("workers")

    monkeypatch.setattr(shards, "ProcessPoolExecutor", no_pool)
    made = count_extracted(monkeypatch)
    build(tmp_path / "in", tmp_path / "few", workers=2)
    few = len(made)
    assert few >= 3
    clock = iter(range(0, 10_000, 1))  # a second at every look
    monkeypatch.setattr(shards.time, "monotonic", lambda: next(clock))
    with pytest.raises(RuntimeError, match="workers"):
        build(tmp_path / "in", tmp_path / "slow", workers=2)
    assert len(made) == few + 1  # and nothing is left of that one shard
    assert not list((tmp_path / "slow" / "extracted" / "shards").glob("*"))


def count_extracted(monkeypatch):
    """Names of the shards that are made from here on."""
    made, real = [], shards.extract_shard
    monkeypatch.setattr(
        shards,
        "extract_shard",
        lambda shard, *rest: (made.append(shard["name"]), real(shard, *rest))[1],
    )
    return made


def test_a_second_run_redoes_only_what_changed(tmp_path, monkeypatch):
    make_records(tmp_path / "in", 300, samples=1000)
    source = wfdb_source.wfdb_source(tmp_path / "in")
    planned = plan_shards(source, [100])
    assert len(planned) > 3
    args = (tmp_path / "in", tmp_path / "out", [100], 1)
    made = count_extracted(monkeypatch)
    extract(*args)
    assert len(made) == len(planned)
    made.clear()
    extract(*args)
    assert made == []
    write_record(tmp_path / "in" / "db1", "R0151", ecg_counts(1100), comments=())  # changed
    extract(*args)
    place = [item.file for item in source.items].index("db1/R0151.hea")
    assert made == [shard["name"] for shard in planned if shard["start"] <= place < shard["stop"]]
    made.clear()
    write_record(tmp_path / "in" / "db0", "R0150b", ecg_counts(1000))  # new
    extract(*args)
    assert len(made) == 1
    made.clear()
    (tmp_path / "in" / "db0" / "R0004.mat").unlink()  # signal gone
    _, out, _ = extract(*args)
    assert len(made) == 1 and [row["reason"] for row in out] == ["signal file missing: R0004.mat"]
    made.clear()
    extract(tmp_path / "in", tmp_path / "out", [250], 1)  # other settings
    assert len(made) == len(planned)
    assert len(list((tmp_path / "out" / "shards").glob("*.json"))) == len(planned)
    fresh = tmp_path / "fresh"
    extract(tmp_path / "in", fresh, [250], 1)
    assert contents(fresh) == contents(tmp_path / "out")


def test_a_plan_takes_few_bytes_a_record(tmp_path):
    """30,000 names and their plan; as a list of items they took 250 bytes a record.  Names of
    shards are what an interrupted import resumes by.
    """
    n = 30_000
    tracemalloc.start()
    items, duplicates = sources.without_duplicates(
        sources.Lazy(n, lambda row: sources.Item(f"a-{row}", "a", "a.npy", row))
    )
    planned = plan_shards(sources.Source(tmp_path, items, None, "x.py"), [100])
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 12 * n and peak < 24 * n and not duplicates
    assert [shard["start"] for shard in planned] == [0, *(shard["stop"] for shard in planned[:-1])]
    assert planned[-1]["stop"] == n
    own = [
        [f"a-{row}", "a", "a.npy", row] for row in range(planned[1]["start"], planned[1]["stop"])
    ]
    text = json.dumps(
        {
            "items": own,
            "settings": {"version": 2, "target_fs": [100], "min_seconds": 2.0, "derive": True},
        }
    )
    assert planned[1]["name"] == hashlib.sha256(text.encode()).hexdigest()[:20]


def test_repeated_names():
    names = ["a", "b", "a", "c", "b", "a", ""]
    assert sources.repeated(lambda: iter(names)) == {"a", "b"}
    assert sources.repeated(lambda: iter(())) == sources.repeated(lambda: iter("abc")) == set()


def test_a_shard_that_changes_while_a_store_is_made_is_refused(tmp_path):
    make_records(tmp_path / "in", 5)
    extract(tmp_path / "in", tmp_path / "e", [100], 1)
    _, found = building.load_extraction(tmp_path / "e")
    assert found[0] == found[0]
    path = next((tmp_path / "e" / "shards").glob("*.json"))
    path.write_text(path.read_text().replace("R0001", "R9999"))
    with pytest.raises(StoreError, match="was changed just now"):
        found[0]


def test_an_unfinished_extraction_is_not_reformatted(tmp_path, monkeypatch):
    make_records(tmp_path / "in", 5)
    extract(tmp_path / "in", tmp_path / "e", [100], 1)

    def stop(*_):
        raise KeyboardInterrupt

    write_record(tmp_path / "in" / "db0", "new")
    monkeypatch.setattr(shards, "extract_shard", stop)
    assert (
        run_main(
            extraction.main,
            [
                "--input_dir",
                str(tmp_path / "in"),
                "--output_dir",
                str(tmp_path / "e"),
                "--target_fs",
                "100",
                "--workers",
                "1",
            ],
        )
        == 130
    )
    assert (
        run_main(
            reformat_memmap.main,
            ["--input_dir", str(tmp_path / "e"), "--output_dir", str(tmp_path / "s")],
        )
        == 2
    )


def test_a_damaged_shard_is_refused(tmp_path, capsys):
    make_records(tmp_path / "in", 5)
    extract(tmp_path / "in", tmp_path / "e", [100], 1)
    shard = next((tmp_path / "e" / "shards").glob("*.dat"))
    shard.write_bytes(shard.read_bytes()[:-2])
    assert (
        run_main(
            reformat_memmap.main,
            ["--input_dir", str(tmp_path / "e"), "--output_dir", str(tmp_path / "s")],
        )
        == 2
    )
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_started_again_gives_the_same_bytes(tmp_path, workers):
    make_records(tmp_path / "in", 300, samples=1000)
    build(tmp_path / "in", tmp_path / "undisturbed")
    # so small an input would be read without workers
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "from data_preparation.importing import shards; shards.ALONE = 0.0; "
        "from data_preparation.data_extraction_without_preprocessing import main; sys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(ROOT),
        "--input_dir",
        str(tmp_path / "in"),
        "--output_dir",
        str(tmp_path / "killed" / "extracted"),
        "--workers",
        str(workers),
    ]
    folder = tmp_path / "killed/extracted/shards"
    planned = len(plan_shards(wfdb_source.wfdb_source(tmp_path / "in"), [100, 250]))
    for _ in range(5):  # on a busy machine the run may be over before the blow
        kill_after_first_shard(command, folder)
        finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
        if len(finished) < planned:
            break
        shutil.rmtree(tmp_path / "killed")
    assert 0 < len(finished) < planned
    assert (
        subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
        == 0
    )
    assert {
        name: (folder / name).stat().st_mtime_ns for name in finished
    } == finished  # not done again
    build(tmp_path / "in", tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_a_full_disk_is_one_sentence_and_leaves_the_old_store(tmp_path):
    """A limit on file size stands for a full disk; both steps stop with code 2, and the store of
    before stays.
    """
    make_records(tmp_path / "in", 12)
    build(tmp_path / "in", tmp_path, [100])
    before = contents(tmp_path / "store")
    for script, arguments in (
        ("reformat_memmap.py", f"--input_dir {tmp_path}/extracted --output_dir {tmp_path}/store"),
        (
            "data_extraction_without_preprocessing.py",
            f"--input_dir {tmp_path}/in --output_dir {tmp_path}/again --workers 1",
        ),
    ):
        run = subprocess.run(
            [
                "bash",
                "-c",
                f"ulimit -f 32; {sys.executable} {ROOT}/data_preparation/{script} {arguments}",
            ],
            capture_output=True,
            text=True,
        )
        assert (
            run.returncode == 2 and "File too large" in run.stderr and "Traceback" not in run.stderr
        )
    assert contents(tmp_path / "store") == before
    assert (
        not list((tmp_path / "store").glob(".*.tmp"))
        and not (tmp_path / "again" / "extraction.json").exists()
    )


def kill_after_first_shard(command, shards):
    """Start a run and kill its main process alone when one shard is finished; its workers must
    end by themselves.
    """
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while process.poll() is None and not (shards.exists() and list(shards.glob("*.json"))):
            time.sleep(0.002)
        process.kill()  # no error where it is over already
    wait_until_gone(process.pid)


def wait_until_gone(session):
    """No process of this session is left after a while."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        alive = [stat for stat in Path("/proc").glob("[0-9]*/stat") if in_session(stat, session)]
        if not alive:
            return
        time.sleep(0.05)
    pytest.fail("worker processes outlive the main process")


def in_session(stat, session):
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == session and fields[0] != "Z"


# ------------------------------------------------------------------------------------------------
# shared data


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    out = tmp_path_factory.mktemp("broken")
    before = {path: path.stat().st_mtime_ns for path in (SHARED / "broken").rglob("*")}
    stores, reasons = build(SHARED / "broken", out, workers=2)
    assert before == {path: path.stat().st_mtime_ns for path in (SHARED / "broken").rglob("*")}
    return stores, reasons


EXPECTED_SKIPS = {
    "01_truncated_mat/A9001": "signal file shorter than the header says",
    "02_missing_mat/A9002": "signal file missing",
    "03_nan_samples/A9003": "non-finite samples",
    "03_nan_samples/A9103": "sample type of the .mat does not match the header",
    "08_zero_length/A9008": "zero-length record",
    "08_zero_length/A9108": "signal file empty",
    "09_zero_sampling_rate/A9009": "invalid sampling rate",
    "10_duplicate_name/g2/A9010": "duplicate record name",
    "11_garbage_header/A9011": "header unreadable",
    "12_one_second/A9012": "shorter than the minimum length",
}


@needs_broken
def test_broken_records_are_skipped_for_the_expected_reasons(broken):
    _, reasons = broken
    assert reasons.keys() == {f"{path}.hea" for path in EXPECTED_SKIPS}
    for path, words in EXPECTED_SKIPS.items():
        assert words in reasons[f"{path}.hea"]
    assert "10_duplicate_name/g1/A9010.hea" in reasons["10_duplicate_name/g2/A9010.hea"]


@needs_broken
def test_the_table_above_is_the_pack_s_own():
    with open(SHARED / "broken" / "expected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = {"04_eleven_leads/A9004"}  # the pack is older than stores of records with fewer leads
    assert {
        row["record"] for row in rows if row["expected"] == "skip"
    } - kept == EXPECTED_SKIPS.keys()


@needs_broken
def test_usable_broken_records_are_kept(broken):
    stores, _ = broken
    for fs, store in stores.items():
        rows = store.records.set_index("record")
        assert set(rows.index) == {
            "A9000",
            "A9004",
            "A9005",
            "A9006",
            "A9007",
            "A9010",
            "A9013",
            "I9014",
            "I9114",
        }
        for i in range(len(store)):
            leads = LEADS[:11] if store.records["record"][i] == "A9004" else LEADS
            assert np.abs(store.read(i, leads=leads)).max() < 20 and store.has_leads(leads)[i]
        assert np.isnan(store.read(row_of(store, "A9004"), leads=["V6"])).all()
        assert store.has_leads(LEADS).sum() == len(store) - 1
        assert rows["dx"]["A9006"] == "" and rows["fold"].between(0, 9).all()
        assert (rows["dx"]["A9007"], rows["flags"]["A9007"]) == (
            "426783006",
            "unknown Dx AFIB RBBB",
        )
        assert rows["flags"]["A9013"] == "flat lead V3" and rows["dx"]["A9010"] == "270492004"
        assert (store.read(row_of(store, "A9013"), leads=["V3"]) == 0).all()
        assert (rows["length"]["I9014"], rows["length"]["I9114"]) == (1200 * fs, 1800 * fs)


@needs_broken
@needs_real
def test_reversed_lower_case_leads_equal_the_source_sample_for_sample(broken):
    source = read_record(next((SHARED / "real_ecg").rglob("A0025.hea"))).signal
    assert np.array_equal(
        read_record(SHARED / "broken/05_lead_order_lowercase/A9005.hea").signal, source
    )
    store = broken[0][100]
    expected = scipy.signal.resample(source.astype(np.float64), 1000, axis=0)
    assert np.abs(store.read(row_of(store, "A9005")) - expected).max() < 0.5e-3 + 1e-5


@needs_real
def test_real_records(tmp_path):
    """A slice of each database: kept, right labels, and resampled as scipy does."""
    for path in (SHARED / "real_ecg/training").glob("*/g1"):
        for header in sorted(path.glob("*.hea"))[:4]:
            target = tmp_path / "in" / header.parent.relative_to(SHARED / "real_ecg")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(header, target)
            shutil.copy(header.with_suffix(".mat"), target)
    stores, out = build(tmp_path / "in", tmp_path)
    assert out == {} and set(stores[100].records["database"]) == {
        "cpsc_2018",
        "chapman_shaoxing",
        "georgia",
        "ptb-xl",
    }
    for i, row in stores[100].records.iterrows():
        signal = read_record(tmp_path / "in" / row["path"]).signal.astype(np.float64)
        for fs, store in stores.items():
            expected = scipy.signal.resample(
                signal, int(len(signal) * fs / row["fs_original"]), axis=0
            )
            assert np.abs(store.read(i) - expected).max() < 0.5e-3 + 1e-5


def test_extraction_json_names_no_path_of_this_machine(tmp_path):
    make_records(tmp_path / "in", 5)
    build(tmp_path / "in", tmp_path / "out")
    for path in tmp_path.glob("out/**/*.json"):
        assert str(tmp_path) not in path.read_text() and json.loads(path.read_text())
