"""Embeddings of a store or of files: the encoder's features, in pieces, whatever the number of processes."""

import numpy as np
import pandas as pd
import pytest

from experiments import embed, explain, export
from tests.support import small_store
from tests.support.small_store import run
from tests.support.two_processes import run_processes
from tests.support.wfdb_files import ecg_counts, write_record
from util.errors import ConfigError, ECGError
from util.handover import embedding, to_embed
from util.handover.load import load_encoder
from util.jobs.setup import store_at
from util.predicting import recordings


@pytest.fixture(scope="module")
def weights():
    return next(small_store.trained_signal().rglob("*best*.pth"))


def embedded(weights, output, *flags, given=None):
    place = given or small_store.store()
    words = ("--weights", weights, "--input", place, "--output", output, "--device", "cpu")
    run(embed.main, *words, *flags)


def test_embeddings_are_the_features_of_each_record(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(to_embed.StoredRecords, "size", 30)  # three pieces
    embedded(weights, tmp_path / "f.npy")
    values = np.load(tmp_path / "f.npy")
    records = pd.read_csv(tmp_path / "f.records.csv")
    encoder = load_encoder(weights)
    store = store_at(small_store.store(), encoder.fs)
    assert values.shape == (80, encoder.width) and values.dtype == np.float32
    assert list(records["record"]) == list(store.records["record"])
    # The last is shorter than a crop: the store pads it with a mean that is rounded to a count.
    for row, tolerance in {0: 1e-6, 40: 1e-6, 79: 1e-4}.items():
        ours = encoder(store.read(row).T[None], fs=store.fs)[0]
        np.testing.assert_allclose(values[row], ours, atol=tolerance)
    embedded(weights, tmp_path / "f.csv")
    table = pd.read_csv(tmp_path / "f.csv")
    np.testing.assert_array_equal(table.iloc[:, 2:].to_numpy(np.float32), values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "f.npy", "f.records.csv"]


def test_a_stopped_command_goes_on_and_other_weights_are_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(to_embed.StoredRecords, "size", 30)
    write, written = embedding._write_piece, []

    def stop_after_one(path, *rest):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *rest)

    monkeypatch.setattr(embedding, "_write_piece", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        embedded(weights, tmp_path / "f.npy")
    assert not (tmp_path / "f.npy").exists()
    monkeypatch.setattr(
        embedding, "_write_piece", lambda p, *rest: (written.append(p.name), write(p, *rest))
    )
    with pytest.raises(ConfigError, match="by other weights"):
        embedded(weights.with_name("fold9_bestPRC.pth"), tmp_path / "f.npy")
    embedded(weights, tmp_path / "f.npy")
    assert written == ["000000.npy", "000001.npy", "000002.npy"]


def test_wrong_outputs_are_said_before_anything_is_computed(weights, tmp_path):
    with pytest.raises(ConfigError, match=r"must end in one of \.npy, \.csv, \.parquet"):
        embedded(weights, tmp_path / "f.txt")
    with pytest.raises(ConfigError, match="fit no table; name f.npy"):
        embedded(weights, tmp_path / "f.csv", "--tokens")
    with pytest.raises(ConfigError, match="has no tokens"):
        embedded(weights, tmp_path / "f.npy", "--tokens")


def _on_one_of_two(weights, store, output):
    flags = ["--weights", weights, "--input", store, "--output", output, "--device", "cpu"]
    embed.main(flags)


@pytest.mark.parametrize("given", [small_store.store, small_store.recordings])
def test_two_processes_write_what_one_writes(given, weights, tmp_path):
    embedded(weights, tmp_path / "one.npy", given=given())
    output = str(tmp_path / "two.npy")
    run_processes(_on_one_of_two, 2, str(weights), str(given()), output)
    one, two = np.load(tmp_path / "one.npy"), np.load(output)
    np.testing.assert_allclose(two, one, atol=1e-6)


def test_files_have_the_features_of_the_store_made_of_them(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(to_embed.FileRecords, "size", 30)  # three pieces
    monkeypatch.setattr(recordings, "CHUNK_SAMPLES", 5000)  # of some chunks
    embedded(weights, tmp_path / "store.npy")
    embedded(weights, tmp_path / "files.npy", given=small_store.recordings())
    of_store, of_files = np.load(tmp_path / "store.npy"), np.load(tmp_path / "files.npy")
    names = [pd.read_csv(tmp_path / f"{name}.records.csv") for name in ("store", "files")]
    order = names[1].reset_index().set_index("record").loc[names[0]["record"], "index"]
    np.testing.assert_allclose(of_files[order], of_store, atol=1e-6)
    assert list(names[1].columns) == ["record", "file", "remark"]
    assert "shorter than the model's crop" in names[1].set_index("record")["remark"]["E079"]
    one = small_store.recordings() / "g1" / "E007.hea"
    embedded(weights, tmp_path / "one.csv", given=one)
    table = pd.read_csv(tmp_path / "one.csv")
    assert list(table["record"]) == ["E007"]
    row = list(names[0]["record"]).index("E007")
    np.testing.assert_allclose(table.iloc[0, 3:].to_numpy(float), of_store[row], atol=1e-6)


def test_arrays_are_taken_with_their_flags(weights, tmp_path, capsys):
    signals = np.stack([ecg_counts(2500, seed=seed).T for seed in range(3)]) / 1000
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "ecgs.npy", signals.astype(np.float32))
    embedded(weights, tmp_path / "f.npy", "--fs", 500, given=folder / "ecgs.npy")
    theirs = load_encoder(weights)(signals.astype(np.float32), fs=500)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), theirs, atol=1e-2)  # of rounding
    with pytest.raises(ConfigError, match="^--fs is missing: npy files do not say"):
        embedded(weights, tmp_path / "g.npy", given=folder / "ecgs.npy")
    write_record(folder, "one", ecg_counts(2500))  # beside it, the arrays are said
    embedded(weights, tmp_path / "g.npy", given=folder)
    said = capsys.readouterr().out
    assert "ecgs-0: not read: --fs is missing" in said and "left out: 3 of 4" in said


def test_files_that_cannot_be_read_are_said_and_left_out(weights, tmp_path, capsys):
    folder = tmp_path / "mixed"
    for place in ("a", "b"):
        write_record(folder / place, "same", ecg_counts(2500))
    (folder / "a" / "broken.hea").write_text("broken 12 500")
    embedded(weights, tmp_path / "f.npy", given=folder)
    said = capsys.readouterr().out
    assert "broken.hea: not read: " in said
    assert f"could not be read, left out: 1 of 3, listed in {tmp_path / 'f.unread.csv'}" in said
    unread = pd.read_csv(tmp_path / "f.unread.csv")
    assert list(unread.columns) == ["record", "file", "reason"]
    assert unread["record"].tolist() == ["broken"] and "broken.hea" in unread["file"][0]
    assert unread["reason"][0].startswith("not read: ")
    assert "whose name another has, told apart by the column file: 1, such as same" in said
    assert len(np.load(tmp_path / "f.npy")) == 2
    with pytest.raises(ECGError, match="none of the 1 recordings could be read"):
        embedded(weights, tmp_path / "g.npy", given=folder / "a" / "broken.hea")


def test_the_list_of_what_could_not_be_read_survives_a_stop_and_no_second_output(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(to_embed.FileRecords, "size", 1)  # a piece each
    folder = tmp_path / "in"
    for name in ("a", "c"):
        write_record(folder, name, ecg_counts(2500))
    for name in ("b", "d"):
        (folder / f"{name}.hea").write_text(f"{name} 12 500")
    write = embedding._write_piece

    def stop_after_two(path, *rest):
        write(path, *rest)
        if path.name == "000001.npy":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_write_piece", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            embedded(weights, tmp_path / "f.csv", given=folder)
    embedded(weights, tmp_path / "f.csv", given=folder)
    assert pd.read_csv(tmp_path / "f.unread.csv")["record"].tolist() == ["b", "d"]
    assert pd.read_csv(tmp_path / "f.csv")["record"].tolist() == ["a", "c"]
    for name in ("b", "d"):
        (folder / f"{name}.hea").unlink()
    embedded(weights, tmp_path / "f.csv", given=folder)
    assert not (tmp_path / "f.unread.csv").exists()


def test_sentences_name_the_flag_that_was_given(weights, tmp_path):
    (tmp_path / "fs500").mkdir()
    (tmp_path / "fs500" / "meta.json").write_text("{}")
    with pytest.raises(ConfigError, match="^--input: no store at .*; it holds fs500$"):
        embedded(weights, tmp_path / "f.npy", given=tmp_path)
    explaining = ("--weights", weights, "--input", tmp_path, "--output", tmp_path / "out")
    with pytest.raises(ConfigError, match="^--input: no store at .*; it holds fs500$"):
        run(explain.main, *explaining, "--gpu", "cpu")
    asked = ("--weights", weights, "--format", "torch", "--fs", 500, "--check", tmp_path)
    with pytest.raises(ConfigError, match="^--check: no store at .*; it holds fs500$"):
        run(export.main, *asked, "--output", tmp_path / "e.pt2")
    with pytest.raises(ECGError, match="no recording there"):
        (tmp_path / "empty").mkdir()
        embedded(weights, tmp_path / "f.npy", given=tmp_path / "empty")
    for flags in (["--fs", "500"], ["--no_derive"], ["--trim"]):
        with pytest.raises(ConfigError, match=f"{flags[0]}: no effect on a store"):
            embedded(weights, tmp_path / "f.npy", *flags)
