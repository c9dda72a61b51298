"""Exported networks: one graph from raw millivolts, equal to the network, or no file."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from experiments import export as script
from tests.support import small_store
from tests.support.small_store import run
from util.config.keys import FinetuneConfig
from util.config.load import ROOT, load_config
from util.data.store import write_store
from util.errors import ConfigError, ECGError
from util.handover import exporting
from util.handover.exporting import Portable
from util.handover.load import AppliedClassifier, load_classifier
from util.jobs.setup import build_configured, evaluation_transforms
from util.scoring.criterion import Criterion
from util.signals.filters import CropFilter


def untrained(name, *overrides):
    file = ROOT / "configs" / "downstream" / f"{name}.yaml"
    config = load_config([file], overrides, {"mode": "scratch"}, program=FinetuneConfig)
    cropping, pipeline = evaluation_transforms(config)
    criterion = Criterion("bce", ("AF", "NSR"))
    network = build_configured(config, 2)
    return AppliedClassifier(network, config, cropping, pipeline, criterion=criterion, codes=())


def signals(fs, seconds, records=3):
    return np.random.default_rng(0).standard_normal((records, 12, fs * seconds), np.float32)


def test_the_matrix_of_filters_is_what_they_do_to_a_crop():
    filters = CropFilter(200, [("highpass", 0.67, 100, 5), ("lowpass", 40, 100, 5)])
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(filters(x), x @ filters.matrix().float().T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fs, seconds", [(500, 10), (250, 4)])  # padded, as its crops are of 9 s
def test_the_graph_is_the_function_of_signals_of_one_rate_and_length(fs, seconds):
    applied = untrained("st_mem", "model_name=st_mem_vit_tiny", "dataset.eval_crops=2")
    x = signals(fs, seconds)
    with torch.no_grad():
        ours = Portable(applied, fs, fs * seconds).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, applied(x, fs=fs), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_exported_file_computes_what_the_network_computes(kind, tmp_path):
    if not all(map(find_spec, exporting.NEEDS[kind])):
        pytest.skip(f"{kind} needs packages of requirements-export.txt")
    weights = next(small_store.trained_signal().rglob("fold3_bestROC.pth"))
    output = tmp_path / f"ecg{exporting.SUFFIX[kind]}"
    given = ("--weights", weights, "--format", kind, "--fs", 250, "--seconds", 5)
    run(script.main, *given, "--output", output)
    x = signals(250, 5, records=7)
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(output.read_bytes())
        got = session.run(None, {"signal": x})[0]
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["leads"].startswith("I II III") and facts["fs"] == "250"
    else:
        got = torch.export.load(output).module()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got, load_classifier(weights)(x, fs=250), atol=1e-4)
    assert "- input: signal: float32 (batch, 12, 1250)" in output.with_suffix(".md").read_text()


def test_a_file_that_computes_something_else_is_not_left(tmp_path, monkeypatch):
    applied = untrained("signal", "model.channels=2")
    x = signals(100, 5)
    monkeypatch.setattr(
        exporting, "_torch", lambda graph, *rest: (b"wrong", lambda part: np.ones((len(part), 2)))
    )
    with pytest.raises(ECGError, match="is not written: on 3 recordings the exported graph"):
        exporting.export(applied, tmp_path / "f.pt2", "torch", fs=100, samples=500, check=x)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    applied = untrained("signal", "model.channels=2")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs onnx, onnxscript, onnxruntime: pip install -r"):
        exporting.export(
            applied, tmp_path / "f.onnx", "onnx", fs=100, samples=500, check=signals(100, 5)
        )


def test_a_file_is_checked_on_recordings_that_are_long_enough(tmp_path):
    """Zeros behind a shorter one are only noise to a network that standardises patches."""
    applied = untrained("signal", "model.channels=2", "dataset.fs=250")
    counts = [np.ones((n, 12), np.int16) for n in (500, 1250, 2500)]
    about = {"database": "A", "fs_original": 250.0, "scale_uv": 1, "age": None, "sex": "Unknown"}
    rows = [({"record": f"R{len(one)}", **about, "dx": [], "fold": 0}, one) for one in counts]
    write_store(tmp_path / "fs250", 250, rows, [])
    for fs, seconds, found in ((500, 5, 2), (250, 10, 1), (250, 12, 3)):
        check = script.recordings(applied, str(tmp_path), fs, fs * seconds)
        assert len(check) == found and (seconds == 12 or check.all())


def test_simulated_recordings_serve_where_there_is_no_store():
    applied = untrained("signal", "model.channels=2", "dataset.lead=[II, V5]")
    check = script.recordings(applied, None, 200, 400)
    assert check.shape == (100, 2, 400) and 0.05 < np.abs(check).max() < 20
