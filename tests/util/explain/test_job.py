"""What experiments/explain.py leaves: pictures, numbers and a table for records of a store."""

import numpy as np
import pandas as pd
import pytest

import main_pretrain
from experiments import explain, run_ensembled
from tests.support import small_store
from tests.support.small_store import run
from tests.support.tiny_jobs import ST_MEM, with_store
from tests.support.wfdb_files import ecg_counts, write_record
from util.config.keys import PretrainConfig
from util.config.load import check
from util.errors import ConfigError
from util.explain.embedding_map import (
    OTHER,
    classes_of,
    diagnoses_of,
    layouts,
    main_names,
    principal_components,
)
from util.handover.load import load_classifier
from util.jobs.setup import store_at
from util.labels.tables import Labels
from util.leads import LEADS

AF = "164889003"


@pytest.fixture(scope="module")
def weights():
    return next(small_store.trained_signal().rglob("fold3_bestROC.pth"))


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    config = {**with_store(ST_MEM, epochs=1), "output_dir": str(folder), "exp_name": "run"}
    main_pretrain.pretrain(check(config, PretrainConfig))
    return folder / "run" / "encoder.pth"


def explained(weights, output, *flags, given=None):
    place = given or small_store.store()
    words = ("--weights", weights, "--input", place, "--output", output, "--gpu", "cpu")
    run(explain.main, *words, *flags)


def test_a_classifier_is_explained_in_pictures_numbers_and_a_table(weights, tmp_path, capsys):
    explained(
        weights, tmp_path, "--records", "E003", "--class", "AF", "--window", 1, "--pdf", "--map"
    )
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {"E003.occlusion", "E003.gradients", "map-pca"}
    files = {f"{name}{ending}" for name in pictures for ending in (".png", ".pdf")}
    assert names == files | {"E003.npz", "explained.csv", "map.csv", "console.txt"}
    assert (tmp_path / "E003.occlusion.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(tmp_path / "explained.csv")
    assert list(table["method"]) == ["occlusion", "integrated gradients"]
    assert set(table["record"]) == {"E003"} and set(table["class"]) == {"AF"}
    with np.load(tmp_path / "E003.npz", allow_pickle=False) as numbers:
        classifier = load_classifier(weights)
        output = classifier(numbers["signal"][None], fs=int(numbers["fs"]))[0]
        assert tuple(numbers["leads"]) == LEADS and numbers["gradients_trace"].shape == (12, 500)
        total = np.nansum(numbers["gradients_trace"])
    assert table["output"][0] == pytest.approx(output[classifier.classes.index("AF")], abs=1e-6)
    assert table["sum"][1] == pytest.approx(total, rel=1e-3, abs=1e-6)
    assert len(pd.read_csv(tmp_path / "map.csv")) == 80
    assert "1 records explained" in capsys.readouterr().out


def test_an_encoder_is_explained_with_attention_and_reconstructions(encoder_file, tmp_path, capsys):
    explained(encoder_file, tmp_path, "--records", "E001", "--window", 1)
    names = {path.name.removeprefix("E001.") for path in tmp_path.iterdir()}
    pictures = ["occlusion", "gradients", "attention", "leads", "rebuilt-own"]
    assert names == {*(f"{name}.png" for name in pictures), "npz", "explained.csv", "console.txt"}
    said = capsys.readouterr().out
    assert "reconstructions are by" in said and "encoder.pth holds no decoder" in said
    assert "reconstructions are by" in (tmp_path / "console.txt").read_text("utf-8")
    alone = tmp_path / "alone" / "encoder.pth"
    alone.parent.mkdir()
    alone.write_bytes(encoder_file.read_bytes())
    explained(alone, tmp_path / "more", "--records", "E001", "--window", 1)
    assert "no reconstructions" in capsys.readouterr().out
    assert not list((tmp_path / "more").glob("*rebuilt*"))


def test_without_names_some_records_are_taken_and_it_is_said(weights, tmp_path, capsys):
    explained(weights, tmp_path, "--window", 2.5)
    assert "no --records given: 3 of 80, spread evenly" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "explained.csv")["record"]) == {"E000", "E039", "E079"}


def test_wrong_arguments_are_said_before_anything_is_computed(weights, encoder_file, tmp_path):
    with pytest.raises(ConfigError, match="--records X1 X2: not in .*its first are E000, E001"):
        explained(weights, tmp_path, "--records", "X1", "E000", "X2")
    with pytest.raises(ConfigError, match="--class VF: the weights know"):
        explained(weights, tmp_path, "--records", "E000", "--class", "VF")
    with pytest.raises(ConfigError, match="an encoder, which knows no classes"):
        explained(encoder_file, tmp_path, "--class", "AF")
    with pytest.raises(ConfigError, match="--window 0: seconds, more than 0"):
        explained(weights, tmp_path, "--window", 0)
    assert not list(tmp_path.iterdir())


# ============ maps ============
def test_principal_components_are_those_of_the_covariance():
    features = np.random.default_rng(0).standard_normal((50, 6)) * np.arange(1, 7)
    points, shares = principal_components(features)
    values = np.linalg.eigvalsh(np.cov(features.T))[::-1]
    np.testing.assert_allclose(points.var(axis=0, ddof=1), values[:2])
    np.testing.assert_allclose(shares, values[:2] / values.sum())
    same, none = principal_components(np.ones((3, 4)))
    assert not same.any() and not none.any()


def test_umap_is_drawn_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr("util.explain.embedding_map.find_spec", lambda name: None)
    assert list(layouts(np.eye(5))) == ["PCA"]


def test_a_record_goes_by_the_rarest_of_the_commonest_diagnoses():
    normal, fibrillation, block = "426783006", "164889003", "270492004"
    cells = [normal] * 3 + [f"{normal} {fibrillation}"] * 2 + [block, "", "12345"]
    wanted = ["NSR"] * 3 + ["AF"] * 2 + [OTHER] * 3
    assert main_names(diagnoses_of(cells), most=2) == wanted


@pytest.mark.parametrize(
    "kind, values, wanted",
    [
        ("multilabel", [[1, 1], [0, np.nan], [0, 1]], [{"a", "b"}, {"b"}]),
        ("multiclass", [1, 0, -1], [{"b"}, set()]),
        ("regression", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [set(), set()]),
    ],
)
def test_a_map_goes_by_the_classes_of_a_table(kind, values, wanted):
    values = np.asarray(values)
    labels = Labels("made", kind, ("a", "b"), values, np.ones(3, bool))
    assert classes_of(labels, np.array([0, 2])) == wanted


def test_the_gate_is_shown_class_by_class(weights, tmp_path, capsys):
    given = ("--fold", 3, "--num_epoches", 1, "--gating", "--save_folder", tmp_path / "gated")
    store = ("--set", f"dataset.store={small_store.store()}")
    run(run_ensembled.main, *given, *small_store.TINY_FUSION, *store)
    (gated,) = (tmp_path / "gated").rglob("fold3_bestROC.pth")
    explained(gated, tmp_path / "out", "--records", "E003", "--window", 2.5, "--gate")
    table = pd.read_csv(tmp_path / "out" / "gate.csv").set_index("class")
    assert (tmp_path / "out" / "gate.png").is_file() and table["records"]["all"] == 80
    np.testing.assert_allclose(table["signal"] + table["spectrogram"], 1, atol=1e-5)
    classifier = load_classifier(gated)
    store = store_at(small_store.store(), classifier.fs)
    rows = [n for n, dx in enumerate(store.records["dx"]) if AF in dx]
    assert len(rows) == table["records"]["AF"]
    with pytest.raises(ConfigError, match="--gate: .* is of no classifier with a gate"):
        explained(weights, tmp_path / "no", "--records", "E003", "--window", 2.5, "--gate")


def test_files_are_explained_as_the_store_made_of_them(weights, tmp_path, capsys):
    quick = ("--class", "AF", "--window", 2.5)
    explained(weights, tmp_path / "store", "--records", "E003", *quick)
    explained(
        weights, tmp_path / "folder", "--records", "E003", *quick, given=small_store.recordings()
    )
    one = small_store.recordings() / "g1" / "E003.hea"
    capsys.readouterr()
    explained(weights, tmp_path / "file", *quick, given=one)
    assert "no --records given" not in capsys.readouterr().out
    with np.load(tmp_path / "store" / "E003.npz") as store:
        for name in ("folder", "file"):
            with np.load(tmp_path / name / "E003.npz") as files:
                for part in ("signal", "occlusion_trace", "gradients_leads"):
                    np.testing.assert_allclose(files[part], store[part], atol=1e-5)


def test_files_that_cannot_be_explained_are_said(weights, tmp_path, capsys):
    folder, quick = tmp_path / "in", ("--window", 2.5)
    for place in ("a", "b"):
        write_record(folder / place, "same", ecg_counts(1500))
    with pytest.raises(ConfigError, match="several recordings are called same; give the file"):
        explained(weights, tmp_path / "out", *quick, given=folder)
    with pytest.raises(ConfigError, match="--records other: not in .*; its first are same"):
        explained(weights, tmp_path / "out", "--records", "other", *quick, given=folder)
    (folder / "b" / "same.hea").rename(folder / "b" / "broken.hea")
    (folder / "b" / "broken.hea").write_text("broken 12 500")
    explained(weights, tmp_path / "out", *quick, given=folder)
    assert "broken.hea: not read: " in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "explained.csv")["record"]) == {"same"}
    with pytest.raises(ConfigError, match="broken.hea: not read: "):
        explained(weights, tmp_path / "no", *quick, given=folder / "b" / "broken.hea")
    for flag in ("--map", "--gate"):
        with pytest.raises(ConfigError, match=f"{flag} needs a store"):
            explained(weights, tmp_path / "no", flag, given=folder)
    with pytest.raises(ConfigError, match="--no_derive: no effect on a store"):
        explained(weights, tmp_path / "no", "--no_derive")
