"""Trained networks as functions of signals: equal to what evaluation computes from a store."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import main_pretrain
from tests.support import small_store
from tests.support.tiny_jobs import CNN, ST_MEM, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import ROOT, check
from util.data.dataset import CropDataset
from util.errors import CheckpointError, ConfigError, RecordError
from util.evaluation.inference import predict, record_loader
from util.evaluation.probes import features
from util.evaluation.trained import load_trained
from util.handover.load import cut, load_classifier, load_encoder
from util.jobs.setup import build_configured, store_at
from util.leads import LEADS
from util.recordings.recording import resample_to
from util.signals.crops import Cropping
from util.signals.resampling import resample
from util.training.resolved import resolved
from util.weights.transfer import save_encoder

FUSED = {
    "signal": {"name": "xresnet1d50", "channels": 2},
    "spectrogram": {"name": "spectrogram_se_resnet34", "channels": 2},
}


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    config = {**with_store(ST_MEM, epochs=1), "output_dir": str(folder), "exp_name": "run"}
    main_pretrain.pretrain(check(config, PretrainConfig))
    return folder / "run" / "encoder.pth"


@pytest.fixture(scope="module")
def classifier_file():
    return next(small_store.trained_signal().rglob("*best*.pth"))


@pytest.mark.parametrize("rate", [100, 250, 499.5, 1000])
def test_resampling_is_that_of_importing(rate):
    x = np.random.default_rng(0).standard_normal((5001, 3)).astype(np.float32)
    ours = resample(torch.from_numpy(x.T.copy()), 500, rate).numpy().T
    np.testing.assert_allclose(ours, resample_to(x, 500, [rate])[rate], atol=1e-5)


def test_cover_takes_as_many_windows_as_cover_the_record():
    assert Cropping("cover", 4).starts(3).tolist() == [0]
    assert Cropping("cover", 4).starts(8).tolist() == [0, 4]
    assert Cropping("cover", 4).starts(9).tolist() == [0, 2, 5]


def test_a_short_signal_is_padded_with_the_mean_of_each_lead():
    crops = cut(torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]), Cropping("center", 3))
    assert crops.tolist() == [[[[1, 3, 2], [0, 4, 2]]]]


def test_features_are_those_of_the_store(encoder_file):
    encoder = load_encoder(encoder_file)
    store, rows = store_at(small_store.store(), encoder.fs), np.arange(5)
    dataset = CropDataset(store, encoder.leads, encoder.cropping.length)
    loader = record_loader(dataset, rows, encoder.cropping, 4)
    wanted = features(encoder.network, loader, encoder.pipeline, rows, torch.device("cpu"))
    for row, features_of_row in zip(rows, wanted):
        signal = store.read(row).T[None]
        turned = signal[:, ::-1].copy()
        for given, leads in ((signal, None), (turned, LEADS[::-1])):
            ours = encoder(given, fs=encoder.fs, leads=leads)
            assert isinstance(ours, np.ndarray) and ours.shape == (1, encoder.width)
            np.testing.assert_allclose(ours[0], features_of_row, atol=1e-5)
    assert isinstance(encoder(torch.from_numpy(signal), fs=encoder.fs), torch.Tensor)


def test_probabilities_are_those_of_the_evaluation(classifier_file):
    classifier, trained = load_classifier(classifier_file), load_trained(classifier_file)
    store, rows = store_at(small_store.store(), classifier.fs), np.arange(5)
    dataset = CropDataset(store, classifier.leads, trained.cropping.length)
    wanted, _, _ = predict(
        trained.classifier,
        record_loader(dataset, rows, trained.cropping, 4),
        trained.pipeline,
        rows,
        classes=len(trained.classes),
        loss=trained.criterion.loss,
        device=torch.device("cpu"),
    )
    for row, probabilities in zip(rows, wanted):
        ours = classifier(store.read(row).T[None], fs=classifier.fs)
        np.testing.assert_allclose(ours[0], probabilities, atol=1e-6)
    assert len(classifier.classes) == len(classifier.codes) == wanted.shape[1]
    whole = load_encoder(classifier_file)(store.read(0).T[None], fs=classifier.fs)
    assert whole.shape == (1, trained.classifier.width)


def test_wrong_signals_are_said(classifier_file):
    classifier = load_classifier(classifier_file)
    signal = np.zeros((2, 12, 1000), np.float32)
    with pytest.raises(ConfigError, match=r"\(records, 12 leads, time\), not \(12, 1000\)"):
        classifier(signal[0], fs=500)
    with pytest.raises(ConfigError, match="lead V6 missing"):
        classifier(signal[:, :11], fs=500, leads=LEADS[:11])
    signal[1, 3, 7] = np.nan
    with pytest.raises(RecordError, match="record 1, lead aVR"):
        classifier(signal, fs=500)
    bare = classifier_file.with_name("bare.pth")
    torch.save({"model": {"weight": torch.zeros(1)}}, bare)
    with pytest.raises(CheckpointError, match="config of its training"):
        load_encoder(bare)


def test_torch_hub_loads_where_the_caller_has_packages_of_these_names(tmp_path, classifier_file):
    for name in ("util", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"whose = 'the caller of {name}'\n")
    program = f"""
import sys
import numpy as np, torch, util
load = dict(source="local", trust_repo=True)
encoder = torch.hub.load({str(ROOT)!r}, "encoder", {str(classifier_file)!r}, **load)
classifier = torch.hub.load({str(ROOT)!r}, "classifier", {str(classifier_file)!r}, **load)
import models
assert util.whose and models.whose and sys.modules["util"] is util
assert not any(name.startswith("util.") for name in sys.modules)
signal = np.random.default_rng(0).standard_normal((2, 12, 5000)).astype(np.float32)
print(encoder(signal, fs=500).shape, classifier(signal, fs=500).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(2, ") and done.stdout.rstrip().endswith(")")


FEATURES_THROUGH = {
    "gate": ("fusion", {**FUSED, "gating": True}),
    "pool": ("attention_pool", {"encoder": {"name": "nano_vit"}}),
    "": ("fusion", FUSED),
}


@pytest.mark.parametrize("part", FEATURES_THROUGH)
def test_an_encoder_file_without_what_features_pass_through_is_refused(part, tmp_path):
    """The defect: they passed through a gate, or a query, of random numbers, in silence."""
    name, model = FEATURES_THROUGH[part]
    mapping = {**with_store(CNN), "model_name": name, "model": model}
    config = check(mapping, FinetuneConfig)
    classifier, path = build_configured(config, 24), tmp_path / "encoder.pth"
    kept = resolved(config, 0.0, 3)
    save_encoder(classifier, path, epoch=0, config=kept, leads=LEADS)
    if not part:
        load_encoder(path)
        return
    with pytest.raises(CheckpointError, match=f"holds no {part}, .*; name the weights of the clas"):
        load_encoder(path)
