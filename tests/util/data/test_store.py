import json
import os
import pickle
import zlib

import numpy as np
import pytest

from data_preparation import check_store, reformat_memmap
from data_preparation.building import reformat as building
from util.challenge import CLASSES, labels_from_dx
from util.data.store import (
    ABSENT,
    BLOCK_BYTES,
    RecordStore,
    publish,
    quantise,
    spread,
    write_store,
)
from util.errors import StoreError
from util.leads import LEADS
from util.processes.program import run_main

LENGTHS = (300, 17, 1000, 250)
SCALES = (1, 1, 3, 40)
FOLDS = (0, 1, -1, 1)


def record_counts(i, length=None):
    return (
        np.random.default_rng(i)
        .integers(-32767, 32768, (length or LENGTHS[i], 12))
        .astype(np.int16)
    )


def row(i, **changes):
    return {
        "record": f"{i:03d}",
        "database": "ptb-xl",
        "fs_original": 500.0,
        "scale_uv": SCALES[i % 4],
        "age": [61.0, None, 0.5, 90.0][i % 4],
        "sex": "Male",
        "fold": FOLDS[i % 4],
        "dx": [["426783006", "1"], [CLASSES[3]], [], ["59118001"]][i % 4],
    } | changes


@pytest.fixture
def folder(tmp_path):
    write_store(
        tmp_path / "fs100", 100, ((row(i), record_counts(i)) for i in range(4)), ["made by a test"]
    )
    return tmp_path / "fs100"


# ------------------------------------------------------------------------------------------------
# reading


def test_read_counts_and_attributes(folder):
    store = RecordStore(folder)
    assert (len(store), store.fs, store.leads) == (4, 100, LEADS)
    assert store.records["record"].tolist() == ["000", "001", "002", "003"]  # text, not numbers
    assert store.records["age"].fillna(-1).tolist() == [61, -1, 0.5, 90]
    for i in range(4):
        expected = record_counts(i)
        np.testing.assert_array_equal(store.counts(i), expected)
        signal = store.read(i)
        assert signal.dtype == np.float32
        np.testing.assert_allclose(signal, expected * (SCALES[i] / 1000), rtol=2e-7)
        part = store.read(i, start=5, length=9, leads=["V6", "II"])
        np.testing.assert_array_equal(part, signal[5:14][:, [11, 1]])
    np.testing.assert_array_equal(store.counts(2, start=990), record_counts(2)[990:])
    assert [np.flatnonzero(labels).tolist() for labels in labels_from_dx(store.records["dx"])] == [
        [CLASSES.index("426783006")],
        [3],
        [],
        [CLASSES.index("713427006")],
    ]


def test_a_crop_never_reaches_into_the_next_record(folder):
    store = RecordStore(folder)
    for start, length in ((0, 301), (300, 1), (-1, 5), (301, None), (5, -1)):
        with pytest.raises(IndexError, match="of record 0"):
            store.counts(0, start, length)
    assert store.counts(0, 300, 0).shape == (0, 12)


def test_signals_are_read_only_views(folder):
    store = RecordStore(folder)
    view = store.counts(1)
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    assert not view.flags.owndata


def test_pickles_as_its_path(folder):
    store = RecordStore(folder)
    data = pickle.dumps(store)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).read(3), store.read(3))


# ------------------------------------------------------------------------------------------------
# opening


def edit_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


def edit_table(folder, old, new):
    """Change records.csv and its checksum: somebody who meant it."""
    text = (folder / "records.csv").read_text()
    assert old in text
    text = text.replace(old, new, 1)
    (folder / "records.csv").write_text(text)
    edit_meta(folder, records_crc32=f"{zlib.crc32(text.encode()):08x}")


def truncate(folder):
    os.truncate(folder / "signals.dat", 1000)


def extend(folder):
    with open(folder / "signals.dat", "ab") as file:
        file.write(b"\0" * 24)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: (f / "meta.json").unlink(), "is not a store"),
        (lambda f: (f / "signals.dat").unlink(), "signals.dat is missing"),
        (lambda f: (f / "records.csv").unlink(), "records.csv is missing"),
        (truncate, "truncated or changed"),
        (extend, "truncated or changed"),
        (lambda f: (f / "meta.json").write_text("{"), "unreadable"),
        (lambda f: (f / "meta.json").write_bytes(b"\xff"), "unreadable"),
        (lambda f: (f / "meta.json").write_text("[" * 100_000), "unreadable"),
        (lambda f: (f / "meta.json").write_text("[1]"), "does not describe"),
        (lambda f: edit_meta(f, version=3), "store version 3, this code reads 1 to 2"),
        (lambda f: edit_meta(f, fs=250), "fs is 250"),
        (lambda f: edit_meta(f, fs="100"), "fs is not"),
        (lambda f: edit_meta(f, leads=list(LEADS[::-1])), "leads is not"),
        (lambda f: edit_meta(f, dtype="float32"), "dtype"),
        (lambda f: edit_meta(f, classes=[]), "classes"),
        (lambda f: edit_meta(f, samples=1 << 60), "samples"),
        (lambda f: edit_meta(f, samples=1566), "truncated"),
        (lambda f: edit_meta(f, blocks=[]), "blocks"),
        (lambda f: edit_meta(f, records=5), "4 rows for 5 records"),
        (lambda f: edit_meta(f, records=True), "records is not"),
        (
            lambda f: (f / "records.csv").write_text(
                (f / "records.csv").read_text().replace("Male", "Female")
            ),
            "records.csv was changed",
        ),
        (lambda f: edit_table(f, "001,ptb-xl,500,300,", "001,ptb-xl,500,299,"), "end to end"),
        (
            lambda f: edit_table(f, "003,ptb-xl,500,1317,250", "003,ptb-xl,500,1317,251"),
            "end to end",
        ),
        (
            lambda f: edit_table(
                f, "003,ptb-xl,500,1317,250", "003,ptb-xl,500,1317,9223372036854775807"
            ),
            "outside of signals.dat",
        ),
        (
            lambda f: edit_table(f, "000,ptb-xl,500,0,300", "000,ptb-xl,500,0,0"),
            "outside of signals.dat",
        ),
        (lambda f: edit_table(f, "0.003", "-0.003"), "scale"),
        (lambda f: edit_table(f, "0.003", "inf"), "scale"),
        (lambda f: edit_table(f, "0.003", "1e300"), "scale"),
        (lambda f: edit_table(f, "0.003", "abc"), "unreadable"),
        (lambda f: edit_table(f, "Male,,-1", "Male,,10"), "fold"),
        (lambda f: edit_table(f, "Male,,-1", "Male,,-2"), "fold"),
        (lambda f: edit_table(f, "Male,,-1", "Male,,1.5"), "unreadable"),
        (lambda f: edit_table(f, "fold", "felt"), "no column fold"),
        (lambda f: edit_table(f, "ptb-xl,500,300", "ptb-xl,0,300"), "fs_original"),
        (lambda f: edit_table(f, "003,ptb", "001,ptb"), "001 appears twice"),
        (
            lambda f: edit_table(f, "Male,,-1,,,,", "Male,,-1,,,,II I"),
            "leads 'II I' are not some of I II III",
        ),
        (
            lambda f: edit_table(f, "Male,,-1,,,,", "Male,,-1,,,,I MLII"),
            "leads 'I MLII' are not some of",
        ),
        (lambda f: edit_table(f, "Male,,-1,,,,", "Male,,-1,,,,I I"), "leads 'I I' are not some of"),
        (
            lambda f: edit_table(f, "Male,,-1,,,,", f"Male,,-1,,,,{' '.join(LEADS)}"),
            "are not some of",
        ),
        (lambda f: edit_table(f, "path,leads", "path,cables"), "no column leads"),
    ],
)
def test_a_damaged_store_is_refused_with_a_cure(folder, damage, words):
    damage(folder)
    with pytest.raises(StoreError, match=words) as error:
        RecordStore(folder)
    assert str(folder) in str(error.value) and "reformat_memmap.py" in str(error.value)


def test_a_store_of_before_opens(folder):
    """Earlier versions of this code also wrote sums of every fold, which nobody reads any more."""
    edit_meta(
        folder,
        sums={"0": {"samples": 300, "sum": [1] * 12, "squares": [2] * 12}},
        mean_mv=[0.0] * 12,
    )
    assert len(RecordStore(folder)) == 4


def test_a_store_of_version_1_opens(folder):
    """It knew no column ``leads``: all its records have twelve."""
    table = (folder / "records.csv").read_text()
    edit_table(
        folder, table, "".join(line.rpartition(",")[0] + "\n" for line in table.splitlines())
    )
    edit_meta(folder, version=1)
    store = RecordStore(folder)
    assert store.records["leads"].tolist() == [""] * 4 and store.has_leads(LEADS).all()
    np.testing.assert_array_equal(store.counts(3), record_counts(3))


def test_wrong_folders_are_explained(folder, tmp_path):
    with pytest.raises(StoreError, match="no store at .*none: make one with"):
        RecordStore(tmp_path / "none")
    with pytest.raises(StoreError, match="name the folder of one rate: .*fs100"):
        RecordStore(tmp_path)
    os.rename(folder, tmp_path / "fs250")
    with pytest.raises(StoreError, match="fs is 100 in a folder named fs250"):
        RecordStore(tmp_path / "fs250")
    os.rename(tmp_path / "fs250", tmp_path / "mine")
    assert len(RecordStore(tmp_path / "mine")) == 4


def test_the_writer_refuses_what_is_no_record(tmp_path):
    for counts in (
        record_counts(0)[:, :11],
        record_counts(0).astype(np.float32),
        record_counts(0)[:0],
    ):
        with pytest.raises(StoreError, match="int16"):
            write_store(tmp_path / f"{counts.shape}{counts.dtype}", 100, [(row(0), counts)], [])
    with pytest.raises(StoreError, match="no record"):
        write_store(tmp_path / "empty", 100, [], [])
    with pytest.raises(StoreError, match="appears twice"):
        write_store(tmp_path / "twice", 100, [(row(0), record_counts(0))] * 2, [])


# ------------------------------------------------------------------------------------------------
# fewer leads


def test_leads_that_a_record_lacks_are_never_signal(tmp_path):
    cells = ["", "I", "I II V2", "V6"]
    leads = [LEADS, ("I",), ("I", "II", "V2"), ("V6",)]
    own = [record_counts(i)[:, : len(leads[i])] for i in range(4)]
    write_store(
        tmp_path / "fs100",
        100,
        ((row(i, leads=cells[i]), spread(own[i], leads[i])) for i in range(4)),
        [],
    )
    store = RecordStore(tmp_path / "fs100")
    assert store.records["leads"].tolist() == cells
    for wanted in (["I"], ["V6"], ["V2", "I"], LEADS, ["II", "V6"]):
        np.testing.assert_array_equal(
            store.has_leads(wanted), [set(wanted) <= set(there) for there in leads]
        )
    for i in range(4):
        signal = store.read(i)
        for k, lead in enumerate(LEADS):
            if lead in leads[i]:
                np.testing.assert_allclose(
                    signal[:, k], own[i][:, leads[i].index(lead)] * (SCALES[i] / 1000), rtol=2e-7
                )
            else:
                assert np.isnan(signal[:, k]).all() and (store.counts(i)[:, k] == ABSENT).all()
    np.testing.assert_array_equal(
        store.read(2, 3, 4, ["V2", "V1", "I"]), store.read(2)[3:7][:, [7, 6, 0]]
    )


@pytest.mark.parametrize(
    "leads, change",
    [
        ("I II", lambda c: c[:5, 2].fill(0)),
        ("I II", lambda c: c[4:5, 1].fill(ABSENT)),
        ("", lambda c: None),
        ("I", lambda c: None),
        ("II I", lambda c: None),
        ("MLII", lambda c: None),
    ],
)
def test_the_writer_refuses_absent_leads_that_are_signal_and_the_reverse(tmp_path, leads, change):
    counts = spread(record_counts(0)[:, :2], ("I", "II"))
    change(counts)
    with pytest.raises(
        StoreError, match="record 000: its column leads and what is absent from its counts differ"
    ):
        write_store(tmp_path / "fs100", 100, [(row(0, leads=leads), counts)], [])


def test_no_signal_is_stored_as_absent():
    """For peaks on both sides of every step of the scale, as float32 rounds them."""
    peaks = np.float32([32.7673, 32.7674, 32.7675, 65.5348, 1e4, 9999.9995, 98.3022])
    for peak in np.concatenate(
        [np.nextafter(peaks, np.float32(0)), peaks, np.nextafter(peaks, np.float32(1e9))]
    ):
        counts, _ = quantise(np.array([[-peak], [0]], np.float32))
        assert ABSENT < counts.min() < -16000


# ------------------------------------------------------------------------------------------------
# checksums


@pytest.fixture(scope="module")
def long_store(tmp_path_factory):
    """Three records over three checksum blocks; the middle one lies in the first two."""
    rows, folder = BLOCK_BYTES // 24, tmp_path_factory.mktemp("long") / "fs100"
    lengths = (rows // 2, rows, rows)
    write_store(
        folder, 100, ((row(i), record_counts(i, length)) for i, length in enumerate(lengths)), []
    )
    return folder


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize(
    "position, records",
    [(0, "000 to 001"), (BLOCK_BYTES + 7, "001 to 002"), (2 * BLOCK_BYTES + 1, "002 to 002")],
)
def test_one_changed_bit_is_found_and_the_records_named(long_store, position, records, capsys):
    assert run_main(check_store.main, [str(long_store)]) == 0
    flip(long_store / "signals.dat", position)
    try:
        with pytest.raises(StoreError, match=f"1 of 3 blocks .*records {records}"):
            RecordStore(long_store).verify_blocks()
        assert run_main(check_store.main, [str(long_store)]) == 2
        assert "damaged" in capsys.readouterr().out
    finally:
        flip(long_store / "signals.dat", position)
    RecordStore(long_store).verify_blocks()


def test_check_store_reports_every_rate(folder, tmp_path, capsys):
    write_store(tmp_path / "fs250", 250, [(row(0), record_counts(0))], [])
    assert run_main(check_store.main, [str(tmp_path)]) == 0
    truncate(folder)
    assert run_main(check_store.main, [str(tmp_path)]) == 2
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "sound",
        "sound",
        "damaged",
        "sound",
    ]
    assert run_main(check_store.main, [str(tmp_path / "nothing")]) == 2


# ------------------------------------------------------------------------------------------------
# writing


def test_same_rows_same_bytes(folder, tmp_path):
    again = tmp_path / "again"
    write_store(again, 100, ((row(i), record_counts(i)) for i in range(4)), ["made by a test"])
    assert sorted(os.listdir(folder)) == ["meta.json", "records.csv", "signals.dat"]
    for name in os.listdir(folder):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_publish_replaces_a_store_and_nothing_else(folder, tmp_path):
    write_store(tmp_path / "new", 100, [(row(0), record_counts(0))], [])
    publish(tmp_path / "new", folder)
    assert len(RecordStore(folder)) == 1 and not (tmp_path / "new").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("months of work")
    write_store(tmp_path / "new", 100, [(row(0), record_counts(0))], [])
    with pytest.raises(StoreError, match="not a store; move it away"):
        publish(tmp_path / "new", tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "months of work"


def test_a_failed_rebuild_leaves_the_old_store(tmp_path, monkeypatch):
    """The disk fills up while the second rate is written: both old stores are as they were,
    nothing half-made stays.
    """
    shards = [
        (
            "s",
            [
                row(
                    0,
                    length={"100": 300, "250": 300},
                    scale_uv={"100": 1, "250": 1},
                    flags="",
                    path="a.hea",
                )
            ],
        )
    ]
    monkeypatch.setattr(
        building,
        "load_extraction",
        lambda _: ({"target_fs": [100, 250], "command": "made by a test"}, shards),
    )
    (tmp_path / "shards").mkdir()
    for fs in (100, 250):
        record_counts(0).tofile(tmp_path / "shards" / f"s-fs{fs}.dat")
    building.reformat(tmp_path, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write = building.write_store

    def full(folder, fs, rows, command):
        store = write(folder, fs, rows, command)
        if fs == 250:
            raise StoreError("No space left on device")
        return store

    monkeypatch.setattr(building, "write_store", full)
    assert (
        run_main(
            reformat_memmap.main,
            ["--input_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")],
        )
        == 2
    )
    assert before == {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
