"""mode: probe fits heads on frozen features and trains nothing."""

import pandas as pd
import pytest
import torch

from experiments import predict
from main_finetune import finetune
from main_pretrain import pretrain
from tests.support import small_store
from tests.support.jobs import run_job
from tests.support.tiny_jobs import CNN, DATA, ST_MEM, VIT, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check
from util.evaluation.evaluator import Evaluator
from util.evaluation.head_start import fit_heads
from util.evaluation.probes import features, make_probe
from util.jobs.job import LabelledJob, SupervisedTask, make_classifier
from util.weights import checkpoint

STILL = {"epochs": 1, "warmup_epochs": 0, "steps_per_epoch": 1, "lr": 0.0, "freeze_epochs": 0}
ALL = {**DATA, "max_records": None}


def job(config, folder, program=FinetuneConfig, **more):
    config = {**config, **more, "output_dir": str(folder), "device": "cpu"}
    return check({"exp_name": "run", **config}, program)


def probing(config, **more):
    return {**with_store({**config, "dataset": ALL}, freeze_epochs=0), "mode": "probe", **more}


def test_a_probe_is_a_fitted_head_that_is_not_trained(tmp_path):
    """The demo's way before: a training of one step at rate 0."""
    (probe,) = finetune(job(probing(VIT), tmp_path, exp_name="probe"))
    still = with_store({**VIT, "dataset": ALL}, **STILL, head_init="probe")
    (trained,) = finetune(job(still, tmp_path, exp_name="still"))
    assert probe.scores == trained.scores and probe.selection == trained.selection


NETWORKS = {
    "xresnet1d50": {"channels": 2},
    "spectrogram_se_resnet34": {"channels": 2},
    "cpc_lstm": {"channels": 8},
    "cpc_s4": {"channels": 8, "layers": 1},
    "fusion": {
        "signal": {"name": "xresnet1d50", "channels": 2},
        "spectrogram": {"name": "spectrogram_se_resnet34", "channels": 2},
        "gating": True,
        "gate_norm": True,
        "three_head": True,
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_running_statistics_stay_as_they_are(name, tmp_path):
    """The defect: the step at rate 0 moved BatchNorm's statistics after the head was fitted."""
    config = {**CNN, "model_name": name, "model": NETWORKS[name]}
    (result,) = finetune(job(probing(config), tmp_path))
    state = checkpoint.load(result.folder / "best-loss.pth")["model"]
    running = [name for name in state if name.endswith("running_mean")]
    assert running and all(not state[name].any() for name in running), "of an untrained network"
    assert all(int(state[name]) == 0 for name in state if name.endswith("num_batches_tracked"))
    assert not (result.folder / "checkpoint-last.pth").exists()
    assert "nothing is trained but the heads" in (result.folder / "console.txt").read_text()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", ["head_init", "neighbours", "pre-training's probe"])
def test_nothing_that_reads_features_moves_running_statistics(name, how, tmp_path, monkeypatch):
    """Of a network in training mode, which it is in afterwards."""
    config = {**CNN, "model_name": name, "model": NETWORKS[name]}
    config = job(with_store({**config, "dataset": ALL}), tmp_path)
    fold = LabelledJob(config).fold(0)
    evaluator = Evaluator(fold, torch.device("cpu"))
    task = SupervisedTask(make_classifier(fold.job), fold.criterion, "scratch")
    task.train()
    before = {key: value.clone() for key, value in task.named_buffers()}
    if how == "head_init":
        fit_heads(task, evaluator)
    elif how == "neighbours":
        loader, rows = evaluator.loader_of(fold.parts["test"]), fold.parts["test"]
        features(
            task.classifier, loader, evaluator.pipeline, rows, torch.device("cpu"), evaluator.amp
        )
    else:
        pre = with_store(ST_MEM, probe_every=1)
        probe = make_probe(fold.job.store, job(pre, tmp_path, PretrainConfig), torch.device("cpu"))
        assert probe is not None
        probe(task.classifier, None)
    assert all(torch.equal(before[key], value) for key, value in task.named_buffers())
    assert all(module.training for module in task.modules())


def test_products_are_as_precise_as_the_config_says(tmp_path):
    """The defect: a probe said that matmul_precision has an effect, and never set it."""
    config = with_store({**VIT, "dataset": ALL}, freeze_epochs=0, matmul_precision="medium")
    finetune(job({**config, "mode": "probe"}, tmp_path))
    assert torch.get_float32_matmul_precision() == "medium"


def test_two_processes_probe_as_one(tmp_path):
    config = {**probing(VIT), "dataloader": {"batch_size": 4, "num_workers": 0}}
    for world in (1, 2):
        run_job("main_finetune", config, tmp_path / str(world), world=world)
    one, two = (pd.read_csv(tmp_path / str(world) / "run" / "test_metrics.csv") for world in (1, 2))
    # L-BFGS amplifies the rounding of sums over other batches
    pd.testing.assert_frame_equal(one, two, atol=5e-3, rtol=0)


def test_a_probe_of_a_pre_trained_encoder_predicts(tmp_path):
    pretrain(job(with_store(ST_MEM), tmp_path, PretrainConfig, exp_name="pre"))
    config = job(probing(VIT), tmp_path, encoder_path=str(tmp_path / "pre" / "encoder.pth"))
    (result,) = finetune(config)
    loaded = torch.load(tmp_path / "pre" / "encoder.pth", weights_only=True)["model"]
    kept = checkpoint.load(result.folder / "encoder.pth")["model"]
    assert loaded.keys() == kept.keys()
    assert all(torch.equal(loaded[name], kept[name]) for name in kept)
    weights = result.folder / "best-loss.pth"
    words = ["--weights", str(weights), "--input", str(small_store.store())]
    predict.main([*words, "--output", str(tmp_path / "out"), "--gpu", "cpu"])
    assert (tmp_path / "out" / "summary.csv").exists()
