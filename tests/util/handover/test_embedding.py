"""Embeddings of a store: the encoder's features, in pieces, whatever the number of processes."""

import numpy as np
import pandas as pd
import pytest

from experiments import embed
from tests.support import small_store
from tests.support.small_store import run
from tests.support.two_processes import run_processes
from util.errors import ConfigError
from util.handover import embedding
from util.handover.load import load_encoder
from util.training.setup import store_at


@pytest.fixture(scope="module")
def weights():
    return next(small_store.trained_signal().rglob("*best*.pth"))


def embedded(weights, output, *flags):
    given = ("--weights", weights, "--input", small_store.store(), "--output", output)
    run(embed.main, *given, "--device", "cpu", *flags)


def test_embeddings_are_the_features_of_each_record(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PIECE", 30)  # three pieces
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
    monkeypatch.setattr(embedding, "PIECE", 30)
    write, written = embedding._write_array, []

    def stop_after_one(path, values):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, values)

    monkeypatch.setattr(embedding, "_write_array", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        embedded(weights, tmp_path / "f.npy")
    assert not (tmp_path / "f.npy").exists()
    monkeypatch.setattr(
        embedding, "_write_array", lambda p, v: (written.append(p.name), write(p, v))
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


def test_two_processes_write_what_one_writes(weights, tmp_path):
    embedded(weights, tmp_path / "one.npy")
    output = str(tmp_path / "two.npy")
    run_processes(_on_one_of_two, 2, str(weights), str(small_store.store()), output)
    one, two = np.load(tmp_path / "one.npy"), np.load(output)
    np.testing.assert_allclose(two, one, atol=1e-6)
