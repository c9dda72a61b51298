"""What names tell: the set of a folder, its layout, and copies of one recording."""

import numpy as np
import pytest
from scipy.signal import resample

from data_preparation import data_extraction_without_preprocessing as extraction
from data_preparation import import_arrays
from data_preparation.building.reformat import reformat
from data_preparation.importing.wfdb_source import database_of
from data_preparation.known_sets import SETS, find_copies, set_of_folder
from tests.data_preparation.test_extraction import skipped
from tests.support.wfdb_files import ecg_counts, write_record
from util.data.store import RecordStore

LEFT_OUT = "copy of a recording that is kept: "


def imported(folder, *more):
    """Import ``folder``/in at 100 Hz and build the store; returns (its records, skipped.csv)."""
    flags = f"--input_dir {folder}/in --output_dir {folder}/x --target_fs 100 --workers 1"
    assert extraction.main([*flags.split(), *more]) == 0
    reformat(folder / "x", folder / "store")
    return RecordStore(folder / "store" / "fs100").records, skipped(folder / "x")


def write_ptbxl(folder, numbers, rates=(500, 100)):
    """PTB-XL as its zip unpacks, 3 s each."""
    for number in numbers:
        counts = ecg_counts(1500, seed=number)
        for fs, tag in ((500, "hr"), (100, "lr")):
            signal = counts if fs == 500 else resample(counts, 300).clip(-32000, 32000)
            if fs in rates:
                place = folder / f"records{fs}" / "00000"
                name = f"{number:05d}_{tag}"
                write_record(place, name, np.rint(signal).astype("<i2"), fs=str(fs), comments=())


# ============ sets ============
@pytest.mark.parametrize(
    "folder, name",
    [
        ("ptb-xl", "ptb-xl"),
        ("ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3", "ptb-xl"),
        ("WFDB_ChapmanShaoxing", "chapman_shaoxing"),
        ("mimic-iv-ecg-diagnostic-electrocardiogram-matched-subset-1.0", "mimic_iv_ecg"),
        ("CODE-15%", "code15"),
        ("ptb_backup", None),
        ("records500", None),
    ],
)
def test_sets_of_folders(folder, name):
    assert set_of_folder(folder) == name


def test_every_set_is_found_by_its_own_name():
    assert [set_of_folder(name) for name in SETS] == list(SETS)


@pytest.mark.parametrize(
    "path, name",
    [
        ("records500/00000/00001_hr.hea", "ptb-xl"),
        ("download/records100/21000/21837_lr.hea", "ptb-xl"),
        ("WFDBRecords/01/010/JS00001.hea", "chapman_ningbo"),
        ("files/p1000/p10000032/s40689238/40689238.hea", "mimic_iv_ecg"),
        ("training2017/A00001.hea", "physionet2017"),
        ("patient001/s0010_re.hea", "ptb"),
        ("mine/records500/00001.hea", "mine"),
        ("files/p1/00001_hr.hea", "files"),
        ("georgia/records500/00000/00001_hr.hea", "georgia"),  # the folder's name comes first
    ],
)
def test_layouts_give_the_name_of_the_set(path, name):
    assert database_of(path, "input") == name


def test_a_part_of_a_layout_given_as_the_input():
    assert database_of("00001_hr.hea", "00000") == database_of("00001_hr.hea", "records500")
    assert database_of("00001_hr.hea", "00000") == "ptb-xl"


def test_database_names_all_recordings(tmp_path):
    write_ptbxl(tmp_path / "in", [1, 2], rates=(500,))
    write_record(tmp_path / "in" / "georgia", "E00001", ecg_counts(seed=9))
    records, _ = imported(tmp_path, "--database", "own")
    assert set(records["database"]) == {"own"} and len(records) == 3


def test_arrays_of_a_known_set_have_its_name(tmp_path):
    (tmp_path / "records").mkdir()
    for number in (1, 2):
        signal = ecg_counts(1500, seed=number).astype("f4") / 1000
        np.save(tmp_path / "records" / f"0000{number}.npy", signal)
    flags = f"--fs 500 --target_fs 100 --workers 1 --output_dir {tmp_path}/x"
    for folder, name in (("records", "records"), ("CODE-15", "code15")):
        (tmp_path / "records").rename(tmp_path / folder)
        assert import_arrays.main([*flags.split(), "--input", f"{tmp_path}/{folder}"]) == 0
        reformat(tmp_path / "x", tmp_path / "store")
        assert set(RecordStore(tmp_path / "store" / "fs100").records["database"]) == {name}
        (tmp_path / folder).rename(tmp_path / "records")


# ============ copies ============
def test_of_both_rates_the_higher_enters(tmp_path, capsys):
    """PTB-XL's zip holds every recording twice: 37 of 40 had their copy in another fold."""
    write_ptbxl(tmp_path / "in", range(1, 13))
    records, left_out = imported(tmp_path)
    assert records["record"].tolist() == [f"{n:05d}_hr" for n in range(1, 13)]
    assert set(records["database"]) == {"ptb-xl"} and set(records["fs_original"]) == {500}
    assert left_out == {
        f"records100/00000/{n:05d}_lr.hea": f"{LEFT_OUT}records500/00000/{n:05d}_hr.hea"
        for n in range(1, 13)
    }
    said = capsys.readouterr().out
    assert "12 skipped: copy of a recording that is kept" in said and "twice" not in said


def test_copies_of_what_cannot_be_read_are_counted(tmp_path, capsys):
    """The defect: they were called copies of a recording that is kept."""
    write_ptbxl(tmp_path / "in", range(1, 5))
    for number in (2, 3):
        (signal,) = (tmp_path / "in" / "records500" / "00000").glob(f"{number:05d}_hr.[dm]at")
        signal.unlink()
    records, _ = imported(tmp_path)
    assert records["record"].tolist() == ["00001_hr", "00004_hr"]
    said = capsys.readouterr().out
    assert "2 of these copies are of recordings that were skipped themselves, such as " in said


def test_the_challenge_beside_both_rates(tmp_path):
    write_ptbxl(tmp_path / "in" / "ptb-xl", [1, 2, 3])
    write_ptbxl(tmp_path / "in" / "ptb-xl", [4], rates=(100,))
    write_record(tmp_path / "in" / "ptb-xl" / "g1", "HR00002", ecg_counts(1500, seed=2))
    records, left_out = imported(tmp_path)
    assert sorted(records["record"]) == ["00001_hr", "00003_hr", "00004_lr", "HR00002"]
    assert len(left_out) == 4


def test_copies_under_a_name_of_the_users_own(tmp_path):
    write_ptbxl(tmp_path / "in", [1, 2])
    records, left_out = imported(tmp_path, "--database", "mine")
    assert sorted(records["record"]) == ["00001_hr", "00002_hr"] and len(left_out) == 2


def test_names_that_only_look_alike_stay(tmp_path):
    for n, name in enumerate(["00001", "1_hr", "1_lr", "00001_hr_x", "HR1", "00002_lr"]):
        write_record(tmp_path / "in" / "a", name, ecg_counts(seed=n))
    write_record(tmp_path / "in" / "b", "00002_hr", ecg_counts(seed=9))  # another database
    records, left_out = imported(tmp_path)
    assert len(records) == 7 and not left_out


def test_copies_in_a_folder_of_arrays(tmp_path):
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        signal = ecg_counts(1500, seed=number).astype("f4") / 1000
        for tag in ("hr", "lr"):
            np.save(tmp_path / "in" / f"0000{number}_{tag}.npy", signal)
    flags = f"--input {tmp_path}/in --fs 500 --target_fs 100 --workers 1 --output_dir {tmp_path}/x"
    assert import_arrays.main(flags.split()) == 0
    assert sorted(skipped(tmp_path / "x")) == ["00001_lr.npy", "00002_lr.npy"]


def test_pieces_of_a_recording_are_no_copies(tmp_path):
    write_ptbxl(tmp_path / "in", [1, 2])
    records, left_out = imported(tmp_path, "--segment_seconds", "1")
    assert records["record"].tolist() == [f"0000{n}_hr_{k}" for n in (1, 2) for k in (1, 2, 3)]
    assert len(left_out) == 2


def test_find_copies_keeps_the_best_and_then_the_first():
    names = ["00007_lr", "x", "HR00007", "00007_hr", "00008_lr", "JS00001", "JS00001"]
    databases = ["ptb-xl"] * 5 + ["ningbo", "chapman_ningbo"]
    copies, kept = find_copies(zip(databases, names))
    assert dict(zip(copies.tolist(), kept.tolist())) == {0: 2, 3: 2, 6: 5}
    assert [len(found) for found in find_copies([])] == [0, 0]
