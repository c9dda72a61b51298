"""Several imports in one store: reformat_memmap.py --input_dir A B C."""

import numpy as np
import pandas as pd
import pytest

from data_preparation import import_arrays, reformat_memmap
from data_preparation.building.reformat import reformat
from data_preparation.importing.wfdb_source import extract
from tests.support.wfdb_files import ecg_counts, write_record
from util.data.store import RecordStore
from util.errors import ConfigError, StoreError


def wfdb(folder, names, database="chapman_ningbo", rates=(100, 250), first=0):
    """An import of WFDB records of 3 s; returns its folder."""
    place = folder / "in" / database
    for seed, name in enumerate(names, first):
        write_record(place, name, ecg_counts(1500, seed=seed))
    extract(folder / "in", folder / "x", list(rates), 1)
    return folder / "x"


def arrays(folder, ids, database="code15", units="uV", scale=1, rates=("100", "250"), first=50):
    """An import of an .npy file of as many recordings at 400 Hz; returns its folder."""
    folder.mkdir()
    signals = np.stack([ecg_counts(1200, seed=first + n) for n in range(len(ids))]) * scale
    np.save(folder / "ecgs.npy", signals.astype("f4"))
    pd.DataFrame({"record": ids}).to_csv(folder / "ids.csv", index=False)
    flags = f"--input {folder}/ecgs.npy --fs 400 --units {units} --ids {folder}/ids.csv"
    flags += f" --database {database} --workers 1 --output_dir {folder}/x --target_fs"
    assert import_arrays.main([*flags.split(), *rates]) == 0
    return folder / "x"


def contents(store):
    return {
        name: (row.database, row.fs_original, store.counts(i).tobytes())
        for i, (name, row) in enumerate(zip(store.records["record"], store.records.itertuples()))
    }


def test_wfdb_and_arrays_in_one_store(tmp_path, capsys):
    """ST-MEM's own set is of this kind: Chapman and Ningbo as WFDB, CODE-15 % as HDF5."""
    a = wfdb(tmp_path / "a", [f"JS{n:05d}" for n in range(1, 31)])
    b = arrays(tmp_path / "b", [str(1000 + n) for n in range(40)])
    capsys.readouterr()
    out = tmp_path / "store"
    reformat_memmap.main(["--input_dir", f"{a}", f"{b}", "--output_dir", f"{out}"])
    said = capsys.readouterr().out
    assert f"{a}: amplitudes are usually" in said and "warning" not in said
    for fs in (100, 250):
        reformat(a, tmp_path / "one")
        one = contents(RecordStore(tmp_path / "one" / f"fs{fs}"))
        reformat(b, tmp_path / "one")
        both = one | contents(RecordStore(tmp_path / "one" / f"fs{fs}"))
        store = RecordStore(out / f"fs{fs}")
        assert contents(store) == both and len(store) == 70
        assert len(store.meta["command"]) == 3 and "--input_dir x x" in store.meta["command"][2]
    folds = store.records.groupby("database")["fold"].value_counts().unstack(fill_value=0)
    assert folds.min(axis=None) >= 2


def test_a_repeated_flag_takes_both(tmp_path):
    a, b = wfdb(tmp_path / "a", ["A1"]), arrays(tmp_path / "b", ["1", "2"])
    flags = ["--input_dir", f"{a}", "--input_dir", f"{b}", "--output_dir", f"{tmp_path}/store"]
    reformat_memmap.main(flags)
    assert len(RecordStore(tmp_path / "store" / "fs100")) == 3


def test_a_name_twice_gets_its_database_in_front(tmp_path, capsys):
    a = wfdb(tmp_path / "a", ["A00001", "A00002"], "physionet2017")
    b = arrays(tmp_path / "b", ["A00002", "A00003"], "sph")
    (tmp_path / "patients.csv").write_text("record,patient_id\nA00002,p\nA00003,q\n")
    reformat([a, b], tmp_path / "store", patients=tmp_path / "patients.csv")
    names = RecordStore(tmp_path / "store" / "fs100").records["record"].tolist()
    assert names == ["A00001", "physionet2017_A00002", "sph_A00002", "A00003"]
    said = capsys.readouterr().out
    assert "names that two databases use: 1, such as A00002; each record of these gets" in said
    assert "such as physionet2017_A00002" in said
    assert "warning: rows of --patients" in said and "such as A00002, which is " in said


def test_names_that_no_database_tells_apart_are_an_error(tmp_path):
    a = wfdb(tmp_path / "a", ["A1", "A2"], "mine")
    b = arrays(tmp_path / "b", ["A2", "A3"], "mine")
    with pytest.raises(StoreError, match="1 records are in two of the imports .* A2 of mine"):
        reformat([a, b], tmp_path / "store")
    c = arrays(tmp_path / "c", ["A1", "mine_A1"], "other")
    with pytest.raises(StoreError, match="two records would be called mine_A1"):
        reformat([a, c], tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_copies_across_imports_are_left_out_and_listed(tmp_path, capsys):
    a = wfdb(tmp_path / "a", ["HR00001", "HR00002"], "ptb-xl")
    b = arrays(tmp_path / "b", ["00002_lr", "00003_lr"], "ptb-xl")
    c = wfdb(tmp_path / "c", ["JS00001"], "ningbo", first=20)
    d = wfdb(tmp_path / "d", ["JS00001", "JS00002"], "chapman_ningbo", first=20)
    (tmp_path / "patients.csv").write_text("record,patient_id\n00002_lr,p\nHR00001,q\n")
    capsys.readouterr()
    reformat([a, b, c, d], tmp_path / "store", patients=tmp_path / "patients.csv")
    names = RecordStore(tmp_path / "store" / "fs100").records["record"].tolist()
    assert names == ["HR00001", "HR00002", "00003_lr", "JS00001", "JS00002"]
    said = capsys.readouterr().out
    assert "copies of other records by their names, which are left out: 2" in said
    assert "name no record" not in said  # of --patients: the copy is known
    table = pd.read_csv(tmp_path / "store" / "copies.csv", dtype=str)
    assert table["copy_of"].tolist() == ["HR00002", "JS00001"]
    reformat(a, tmp_path / "store")
    assert not (tmp_path / "store" / "copies.csv").exists()


def test_imports_that_do_not_fit(tmp_path):
    a = wfdb(tmp_path / "a", ["A1"])
    b = arrays(tmp_path / "b", ["1"], rates=("100", "500"))
    with pytest.raises(StoreError, match=r"different sampling rates: 100 250 \(.*100 500 \("):
        reformat([a, b], tmp_path / "store")
    with pytest.raises(StoreError, match="names a folder twice"):
        reformat([a, tmp_path / "a" / "." / "x"], tmp_path / "store")
    with pytest.raises(StoreError, match=f"no finished extraction in {tmp_path}/none"):
        reformat([a, tmp_path / "none"], tmp_path / "store")


def test_another_unit_is_said(tmp_path, capsys):
    a = wfdb(tmp_path / "a", ["A1", "A2"])
    b = arrays(tmp_path / "b", ["1", "2"], units="mV", scale=1 / 40)  # in mV: 25 times too large
    reformat([a, b], tmp_path / "store")
    said = capsys.readouterr().out
    assert "warning: these differ by more than 10 times: is the unit of one import wrong?" in said


def test_patients_and_settings_of_several_imports(tmp_path, capsys):
    a = wfdb(tmp_path / "a", ["A1", "A2", "A3"], "one")
    b = arrays(tmp_path / "b", ["1", "2", "3"], "two")
    rows = "".join(f"{name},p\n" for name in ("A1", "A2", "1", "2"))
    (tmp_path / "patients.csv").write_text("record,patient_id\n" + rows)
    reformat([a, b], tmp_path / "store", patients=tmp_path / "patients.csv")
    said = capsys.readouterr().out
    assert (
        "patients of several databases with one name, which count as several: 1, such as p" in said
    )
    assert "records without a patient: 2 of 6" in said
    with pytest.raises(ConfigError, match="names all"):
        (tmp_path / "drop.csv").write_text("record\nA1\nA2\nA3\n1\n2\n3\n")
        reformat([a, b], tmp_path / "store", drop=tmp_path / "drop.csv")
    (tmp_path / "drop.csv").write_text("record\nA1\n3\n")
    reformat([a, b], tmp_path / "store", drop=tmp_path / "drop.csv")
    names = RecordStore(tmp_path / "store" / "fs250").records["record"].tolist()
    assert names == ["A2", "A3", "1", "2"]


def test_the_memory_of_a_join_is_that_of_its_parts(tmp_path):
    """Shards are read on demand: those of all imports are never in memory together."""
    from data_preparation.building.extraction import load_extraction
    from data_preparation.building.joining import join

    a, b = wfdb(tmp_path / "a", ["A1"]), arrays(tmp_path / "b", ["1", "2"])
    settings, shards = join([a, b], [load_extraction(a), load_extraction(b)])
    assert settings["target_fs"] == [100, 250] and settings["unread"] == 0
    assert [row["record"] for _, rows in shards for row in rows] == ["A1", "1", "2"]
    assert shards[0] is not shards[0]


def with_table(folder, ids, column, folds, first):
    """An import of arrays with its own meta.csv; returns its folder."""
    folder.mkdir()
    cells = {"record": ids, column: [k % 2 for k in range(len(ids))], "fold": folds}
    cells["patient"] = [f"p{fold}" for fold in folds]
    pd.DataFrame(cells).to_csv(folder / "meta.csv", index=False)
    place = arrays(folder / "in", ids, database=folder.name, first=first)
    flags = (
        f"--input {folder}/in/ecgs.npy --fs 400 --units uV --ids {folder}/in/ids.csv --workers 1"
    )
    flags += f" --database {folder.name} --output_dir {place} --metadata {folder}/meta.csv"
    flags += f" --columns {column} fold patient"
    assert import_arrays.main(flags.split()) == 0
    return place


def test_metadata_of_one_name_keep_both_tables(tmp_path, capsys):
    """Names of records, patients and columns meet, too."""
    ids = ["r1", "r2", "r3", "r4"]
    a = with_table(tmp_path / "a", ids, "AF", [1, 1, 2, 2], 1)
    b = with_table(tmp_path / "b", ids, "LBBB", [5, 5, 6, 6], 11)
    c = with_table(tmp_path / "c", ["s1", "s2", "s3", "s4"], "AF", [1, 2, 3, 4], 21)
    reformat([a, b, c], tmp_path / "store")
    assert "of several imports are called meta; the tables of b_r1" in capsys.readouterr().out
    names = sorted(path.stem for path in (tmp_path / "store" / "labels").glob("*.csv"))
    assert names == ["meta_1", "meta_2", "meta_3"]
    for number, column, first in ((1, "AF", "a_r1"), (2, "LBBB", "b_r1"), (3, "AF", "s1")):
        for kind, value in (("labels", column), ("splits", "fold")):
            table = pd.read_csv(tmp_path / "store" / kind / f"meta_{number}.csv", dtype=str)
            assert list(table) == ["record", value] and first in set(table["record"])


@pytest.mark.parametrize("kind", ["labels", "splits"])
def test_a_file_called_as_the_metadata_is_refused(tmp_path, kind):
    a = with_table(tmp_path / "a", ["r1", "r2", "r3"], "AF", [1, 1, 2], 1)
    column = {"labels": "LBBB", "splits": "fold"}[kind]
    (tmp_path / "meta.csv").write_text(f"record,{column}\nr1,1\nr2,1\nr3,0\n")
    with pytest.raises(ConfigError, match=f"the {kind} of an import's --metadata are called meta"):
        reformat(a, tmp_path / "store", **{kind: tmp_path / "meta.csv"})
    (tmp_path / "meta.csv").rename(tmp_path / "mine.csv")
    reformat(a, tmp_path / "store", **{kind: tmp_path / "mine.csv"})


def test_a_name_twice_in_one_import_has_a_cure(tmp_path):
    for database in ("one", "two"):
        write_record(tmp_path / "in" / database, "r1", ecg_counts(1500))
    extract(tmp_path / "in", tmp_path / "x", [100], 1)
    skipped = pd.read_csv(tmp_path / "x" / "skipped.csv")["reason"].tolist()
    assert skipped == [
        "duplicate record name: the first is one/r1.hea; import each database by itself and join "
        "them"
    ]


def test_imports_that_differ_in_derived_leads_are_said(tmp_path, capsys):
    a = wfdb(tmp_path / "a", ["r1"], rates=(100,))
    np.save(tmp_path / "s1.npy", ecg_counts(1500, seed=3) / 1000)
    flags = f"--input {tmp_path}/s1.npy --fs 500 --no_derive --workers 1 --target_fs 100"
    assert import_arrays.main(f"{flags} --output_dir {tmp_path}/b/x".split()) == 0
    reformat([a, tmp_path / "b" / "x"], tmp_path / "store")
    said = capsys.readouterr().out
    assert f"differ in derived limb leads (--no_derive): yes ({a}), none ({tmp_path}/b/x)" in said
