"""The published training scripts: flags, files, folds, transfer of weights, devices."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main_finetune
from data_preparation.places import STORE
from experiments import run_ensembled, run_signal, run_spectrogram
from experiments.baselines import BASELINES, baseline_config, baseline_parser
from tests.support.configs import changed
from tests.support.double import in_double
from tests.support.made_predictions import made
from tests.support.small_store import (
    TINY,
    TINY_FUSION,
    run,
    same_environment,
    store,
    trained_signal,
)
from tests.support.two_processes import run_processes
from util.config.keys import FinetuneConfig
from util.config.load import load_config
from util.contract.registry import build
from util.data.store import RecordStore
from util.errors import CheckpointError, ConfigError
from util.evaluation.evaluator import Evaluator, gate_table
from util.evaluation.report import FoldFiles, save_best
from util.evaluation.trained import load_trained
from util.jobs.job import LabelledJob, SupervisedTask
from util.jobs.setup import build_configured
from util.processes.devices import choose_devices
from util.scoring.criterion import DEFAULT_LOSS
from util.weights.transfer import load_pretrained

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "downstream"


SCRIPTS = {"signal": "run_signal", "spectrogram": "run_spectrogram", "fusion": "run_ensembled"}


def config_of(baseline, command):
    baseline = BASELINES[SCRIPTS[baseline]]
    return baseline_config(
        baseline, baseline_parser(baseline, "").parse_args(command.split()), "cpu"
    )


# ============ flags -> config ============
@pytest.mark.parametrize(
    "baseline, command, epochs, batch, floor",
    [
        (
            "signal",
            "--batch_size 128 --lr_rate 5e-3 --num_epoches 100 --gpu 0 --save_folder "
            "./checkpoints/base_signal",
            100,
            128,
            1e-5,
        ),
        (
            "spectrogram",
            "--batch_size 256 --lr_rate 5e-3 --num_epoches 200 --gpu 0 --save_folder "
            "./checkpoints/base_spectrogram",
            200,
            256,
            1e-6,
        ),
        (
            "fusion",
            "--batch_size 128 --lr_rate 5e-3 --num_epoches 100 --gpu 0 --save_folder "
            "./checkpoints/base_ensemble_wogating",
            100,
            128,
            1e-5,
        ),
    ],
)
def test_published_commands_give_the_published_settings(baseline, command, epochs, batch, floor):
    config = config_of(baseline, command)
    bare = config_of(baseline, command.split(" --gpu 0 ")[1])
    assert changed(bare, device="") == changed(config, device=""), (
        "the YAML's own numbers are the published ones"
    )
    train, data = config.train, config.dataset
    assert config.dataloader.batch_size == batch
    assert (train.epochs, train.lr, train.min_lr, train.lr_update) == (
        epochs,
        5e-3,
        floor,
        "epoch",
    )
    assert (train.optimizer, train.weight_decay, train.warmup_epochs) == ("adam", 0, 0)
    assert (data.fs, data.crops_per_record, data.fold, data.protocol) == (
        100,
        5,
        "all",
        "nested",
    )
    assert (data.crop, data.filters, data.standardize, data.augment) == (250, None, None, [])
    assert (data.eval_stride, data.eval_crop) == (125, None)
    assert data.transforms is None and data.eval_transforms is None
    assert (config.loss or DEFAULT_LOSS["multilabel"]) == "bce" and config.mode == "scratch"
    assert Path(config.output_dir) / config.exp_name == Path(command.split()[-1])


def test_flags_win_over_set_and_overlays():
    config = config_of(
        "signal", "--num_epoches 3 --set train.epochs=7 --set train.lr=1 --overlay demo --fold 4 5"
    )
    assert config.train.epochs == 3 and config.train.lr == 1
    assert config.dataset.max_records == 240 and config.dataset.fold == [4, 5]


def test_a_batch_means_the_same_in_scripts_and_launchers(capsys):
    """Records a process: the scripts used to share --batch_size out, the launchers to
    multiply it.
    """
    assert config_of("signal", "--batch_size 96 --gpu cpu,cpu").dataloader.batch_size == 96
    for main in (run_signal.main, main_finetune.main):
        with pytest.raises(SystemExit):
            main(["--help"])
        assert "records per process and forward pass" in " ".join(capsys.readouterr().out.split())


def test_gating_and_three_heads_reach_the_model():
    sizes = "--set model.signal.channels=4 --set model.spectrogram.channels=2"
    config = config_of("fusion", f"{sizes} --gating --three_head")
    assert config.output_dir == "./checkpoints/base_ensemble_wgating"
    fusion = build_configured(config, 24)
    assert fusion.gate is not None and set(fusion.extra_heads) == {"signal", "spectrogram"}
    assert build_configured(config_of("fusion", "--set model.signal.channels=4"), 24).gate is None
    gated = load_config([CONFIGS / "fusion_gated.yaml"], program=FinetuneConfig)
    plain = load_config([CONFIGS / "fusion.yaml"], ["model.gating=true"], program=FinetuneConfig)
    assert gated == plain, "run_ensembled.py --gating and fusion_gated.yaml are the same"


def test_defect_16_every_config_reads_where_preparation_writes():
    for path in CONFIGS.glob("*.yaml"):
        assert load_config([path], program=FinetuneConfig).dataset.store == STORE, path


def test_encoders_in_a_fusion_follow_the_data():
    config = load_config(
        [CONFIGS / "fusion_st_mem.yaml"],
        [
            "dataset.lead=lead2",
            "model.signal.name=st_mem_vit_small",
            "model.spectrogram.channels=2",
        ],
        program=FinetuneConfig,
    )
    fusion = build_configured(config, 24)
    assert (
        fusion.spectrogram.spectrogram.segment == 62
        and len(fusion.spectrogram.standardize.mean) == 1
    )
    assert fusion.signal.leads == ("II",)
    config.model["spectrogram"]["fs"] = 100
    with pytest.raises(ConfigError, match="fs is 100 but that of the dataset is 250"):
        build_configured(config, 24)


def test_st_mem_fusion_takes_an_st_mem_encoder(tmp_path):
    config = load_config(
        [CONFIGS / "fusion_st_mem.yaml"],
        ["model.signal.name=st_mem_vit_small", "model.spectrogram.channels=2"],
        program=FinetuneConfig,
    )
    encoder = build("st_mem_vit_small", num_classes=None)
    torch.save({"model": encoder.state_dict()}, tmp_path / "encoder.pth")
    fusion = build_configured(config, 24).eval()
    text = load_pretrained(fusion, tmp_path / "encoder.pth")
    count = len(encoder.state_dict())
    assert (
        f"loaded {count} of {count}" in text
        and "spectrogram branch, gate and heads start anew" in text
    )
    x = torch.randn(2, 12, 2250)
    with torch.no_grad():
        torch.testing.assert_close(
            fusion.signal.forward_features(x), encoder.eval().forward_features(x)
        )
        assert fusion(x).shape == (2, 24)


# ============ devices ============
def test_devices():
    with same_environment():
        assert choose_devices("cpu") == (1, "cpu")
        assert choose_devices("cpu,cpu") == (2, "cpu")
        assert choose_devices(None) == (1, "auto")
        with pytest.raises(ConfigError, match="cpu,cpu"):
            choose_devices("first")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_published_gpu_flag_runs_on_a_machine_without_one_and_says_so(capsys):
    with same_environment():
        assert choose_devices("0") == (1, "auto")
    assert "computing on the CPU" in capsys.readouterr().out


# ============ what training leaves ============
def test_defect_8_weights_lie_exactly_where_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(
        run_signal.main,
        "--fold",
        0,
        "--num_epoches",
        1,
        "--save_folder",
        "./checkpoints/base_signal",
        *TINY,
        "--set",
        f"dataset.store={store()}",
    )
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.pth")}
    assert {
        "checkpoints/base_signal/fold0_bestROC.pth",
        "checkpoints/base_signal/fold0_bestPRC.pth",
    } <= written
    assert not [name for name in written if name.count("checkpoints") > 1]


def test_folds_one_after_the_other_with_mean_and_deviation():
    folder = trained_signal()
    assert {p.name for p in folder.glob("*.pth")} == {
        f"fold{k}_best{n}.pth" for k in (3, 9) for n in ("ROC", "PRC")
    }
    summary = pd.read_csv(folder / "summary.csv", index_col="fold")
    folds = summary.loc[["3", "9"]]
    np.testing.assert_allclose(summary.loc["mean"], folds.mean(), atol=1e-4)
    np.testing.assert_allclose(summary.loc["std"], folds.std(), atol=1e-4)
    for fold in (3, 9):
        metrics = pd.read_csv(folder / f"fold{fold}" / "test_metrics.csv").iloc[0]
        assert metrics["AUROC"] == pytest.approx(summary.loc[str(fold), "AUROC"], abs=1e-4)


def test_each_fold_keeps_what_was_said_of_the_job_and_of_itself():
    for fold, other in ((3, 9), (9, 3)):
        said = (trained_signal() / f"fold{fold}" / "console.txt").read_text().splitlines()
        assert said.count(f"==== fold {fold} ====") == 1 and f"==== fold {other} ====" not in said
        assert sum(line.startswith("scratch, ") for line in said) == 1
        assert sum(line.startswith("epoch 2: ") for line in said) == 1


def test_the_job_keeps_its_summary_and_what_was_said_of_all_folds():
    said = (trained_signal() / "console.txt").read_text()
    summary = pd.read_csv(trained_signal() / "summary.csv", index_col="fold")
    assert said.count(summary.to_string()) == 1 and "====" not in said and "epoch" not in said


def test_defect_10_first_epoch_trains_at_the_peak_then_a_cosine_step_an_epoch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2, eta_min=1e-5)
    expected = []
    for _ in range(2):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    lines = [
        json.loads(line)
        for line in (trained_signal() / "fold3" / "log.txt").read_text().splitlines()
    ]
    assert [line["train_lr"] for line in lines] == pytest.approx(expected, rel=1e-7)


def test_defect_15_a_checkpoint_holds_every_tensor_once():
    for baseline, sets in (
        ("signal", "--set model.channels=4"),
        ("fusion", "--set model.signal.channels=4"),
    ):
        model = build_configured(config_of(baseline, sets), 24)
        kept = model.state_dict(keep_vars=True)
        assert len({id(tensor) for tensor in kept.values()}) == len(kept)
    weights = load_trained(trained_signal() / "fold3_bestROC.pth")
    assert len(weights.classifier.state_dict()) == len(list(weights.classifier.parameters())) + len(
        list(weights.classifier.buffers())
    )


def test_defect_9_standardisation_and_selection_keep_out_of_the_test_fold():
    trained = load_trained(trained_signal() / "fold3_bestROC.pth")
    small = RecordStore(store() / "fs100")
    folds = small.records["fold"].to_numpy()
    rows = np.flatnonzero((folds >= 0) & (folds != 3) & (folds != 4))
    crops = []
    for i in rows:
        record = small.read(i).astype(np.float64)
        spare = max(len(record) - 250, 0) // 2
        record = np.vstack(
            [record, np.repeat(record.mean(0, keepdims=True), max(250 - len(record), 0), axis=0)]
        )
        crops.append(record[spare : spare + 250])
    np.testing.assert_allclose(
        trained.classifier.standardize.mean, np.concatenate(crops).mean(0), atol=2e-5
    )
    stds = np.mean([crop.std(0) for crop in crops], axis=0)
    np.testing.assert_allclose(trained.classifier.standardize.std, stds, rtol=1e-4)
    tested = pd.read_csv(trained_signal() / "fold3" / "test_predictions.csv")["record"]
    assert set(tested) == set(small.records["record"][folds == 3])


def test_resume_goes_on_at_fold_and_epoch(tmp_path, capsys):
    first = trained_signal()
    capsys.readouterr()
    shutil.copytree(first, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "fold9")  # fold 9 was not begun
    (tmp_path / "run" / "fold9_bestROC.pth").unlink()
    after_one = first / "fold3" / "checkpoint-0.pth"
    shutil.copy(after_one, tmp_path / "run" / "fold3" / "checkpoint-last.pth")
    (tmp_path / "run" / "summary.csv").unlink()
    run(
        run_signal.main,
        "--fold",
        3,
        9,
        "--num_epoches",
        2,
        "--save_folder",
        tmp_path / "run",
        "--resume",
        "auto",
        *TINY,
        "--set",
        f"dataset.store={store()}",
        "--set",
        "train.matmul_precision=highest",  # as ``trained_signal``
    )
    third, ninth = capsys.readouterr().out.split("==== fold 9 ====")
    assert (
        "epoch 1, step 0" in third
        and "epoch 2: train_lr" in third
        and "epoch 1: train_lr" not in third
    )
    assert "resumed" not in ninth and "epoch 1: train_lr" in ninth
    assert (tmp_path / "run" / "summary.csv").read_text() == (first / "summary.csv").read_text()
    again, before = (
        load_trained(folder / "fold3_bestPRC.pth").classifier.state_dict()
        for folder in (tmp_path / "run", first)
    )
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_one_checkpoint_cannot_be_resumed_by_several_folds(tmp_path):
    with pytest.raises(ConfigError, match="auto"):
        run(
            run_signal.main,
            "--fold",
            3,
            9,
            "--resume",
            trained_signal() / "fold3" / "checkpoint-last.pth",
            "--save_folder",
            tmp_path,
            *TINY,
            "--set",
            f"dataset.store={store()}",
        )


def test_best_weights_exist_even_where_a_metric_is_never_defined(tmp_path):
    class Training:
        dataset = type("Dataset", (), {"store": RecordStore(store() / "fs100")})
        best, epoch, resolved, about = {}, 1, {}, {}
        model = SupervisedTask(build("xresnet1d50", channels=2))

    files = FoldFiles(tmp_path / "fold0", published=True)
    save_best(Training, {"AUROC": float("nan")}, files)
    path = tmp_path / "fold0_bestROC.pth"
    first = path.read_bytes()
    for value, changes in (
        (float("nan"), False),
        (0.4, True),
        (0.4, False),
        (0.3, False),
        (0.5, True),
    ):
        Training.epoch += 1
        save_best(Training, {"AUROC": value}, files)
        assert (path.read_bytes() != first) == changes, value
        first = path.read_bytes()


# ============ fusion ============
def test_gated_fusion_reports_its_gate(tmp_path, capsys):
    run(
        run_ensembled.main,
        "--gating",
        "--three_head",
        "--fold",
        2,
        "--num_epoches",
        1,
        "--save_folder",
        tmp_path,
        *TINY_FUSION,
        "--set",
        f"dataset.store={store()}",
    )
    table = pd.read_csv(tmp_path / "fold2" / "test_gate.csv").set_index("class")
    np.testing.assert_allclose(table["signal"] + table["spectrogram"], 1, atol=2e-4)
    assert table.loc["all", "records"] == len(
        pd.read_csv(tmp_path / "fold2" / "test_predictions.csv")
    )
    assert "mean weight of the signal branch" in capsys.readouterr().out
    log = EventAccumulator(str(tmp_path / "fold2" / "tensorboard")).Reload()
    assert "gate/signal" in log.Tags()["histograms"]
    assert {"gate_signal/all", "gate_signal/NSR"} <= set(log.Tags()["scalars"])


def test_gate_table_against_a_loop():
    gate = np.random.default_rng(0).dirichlet([1, 1], 9)
    labels = np.random.default_rng(1).integers(0, 2, (9, 3))
    labels[:, 2] = 0
    found = made(np.zeros((9, 3)), labels, ("a", "b", "never"), gate=gate)
    table = gate_table(found).set_index("class")
    assert list(table.index) == ["all", "a", "b"]
    for c, name in enumerate("ab"):
        mine = [gate[i] for i in range(9) if labels[i, c]]
        assert table.loc[name, "signal"] == pytest.approx(sum(g[0] for g in mine) / len(mine))
        assert table.loc[name, "records"] == len(mine)
    labels = np.array([0, 1, 1, 0, 1, 1, 1, 1, 1])
    found = made(np.zeros((9, 2)), labels, ("a", "b"), task="multiclass", gate=gate)
    classes = gate_table(found).set_index("class")
    assert classes.loc["a", "signal"] == pytest.approx(gate[[0, 3], 0].mean())


def test_frozen_epochs_freeze_the_branches_and_train_the_rest():
    fusion = build(
        "fusion",
        signal={"name": "xresnet1d50", "channels": 4},
        gating=True,
        three_head=True,
        spectrogram={"name": "spectrogram_se_resnet34", "channels": 2},
    )
    task = SupervisedTask(fusion, mode="linprobe").train()
    learning = {name.split(".")[0] for name, p in fusion.named_parameters() if p.requires_grad}
    assert learning == {"head", "gate", "extra_heads"}
    assert not fusion.signal.training and fusion.head.training and fusion.gate.training
    task.freeze(frozen=False)
    assert (
        all(p.requires_grad for p in fusion.parameters())
        and task.train().classifier.signal.training
    )


# ============ transfer ============
def tiny_branches():
    return {
        "signal": {"name": "xresnet1d50", "channels": 4},
        "spectrogram": {"name": "spectrogram_se_resnet34", "channels": 2},
    }


def pretrained_folder(folder, names):
    """Stand-ins for what self-supervision leaves; returns the state dicts by branch."""
    states = {}
    for seed, (branch, file) in enumerate(names.items()):
        torch.manual_seed(100 + seed)
        encoder = build(tiny_branches()[branch], num_classes=None)
        encoder.standardize.mean.fill_(0.5)
        states[branch] = encoder.state_dict()
        torch.save({"model": states[branch]}, folder / file)
    return states


DINO = {"signal": "DINO_signal_student.pth", "spectrogram": "DINO_spectrogram_student.pth"}


def test_defect_2_dino_weights_reach_the_branches_of_the_fusion(tmp_path):
    states = pretrained_folder(tmp_path, DINO)
    fusion = build("fusion", **tiny_branches(), gating=True)
    text = load_pretrained(fusion, tmp_path)
    for name, branch in fusion.branches.items():
        loaded, count = branch.state_dict(), len(states[name])
        assert count > 100 and f"{name}: loaded {count} of {count} encoder tensors" in text
        assert all(torch.equal(loaded[key], states[name][key]) for key in states[name])


def test_defect_2_nothing_transferred_is_an_error(tmp_path):
    pretrained_folder(tmp_path, DINO)
    for file in DINO.values():
        content = torch.load(tmp_path / file, weights_only=True)
        renamed = {key.replace(".", "_"): value for key, value in content["model"].items()}
        torch.save({"model": renamed}, tmp_path / file)
    with pytest.raises(CheckpointError, match="no weights were transferred"):
        load_pretrained(build("fusion", **tiny_branches()), tmp_path)
    with pytest.raises(CheckpointError, match="0 of"):
        load_pretrained(build("fusion", **tiny_branches()), tmp_path / DINO["signal"])
    with pytest.raises(CheckpointError, match="holds none of DINO_signal_student.pth"):
        (tmp_path / "empty").mkdir()
        load_pretrained(build("fusion", **tiny_branches()), tmp_path / "empty")


def test_a_fusion_takes_simclr_where_dino_is_absent_and_says_what_starts_anew(tmp_path):
    states = pretrained_folder(tmp_path, {"signal": "SIMCLR_signal.pth"})
    fusion = build("fusion", **tiny_branches())
    before = {key: value.clone() for key, value in fusion.spectrogram.state_dict().items()}
    text = load_pretrained(fusion, tmp_path)
    assert (
        "SIMCLR_signal.pth" in text
        and "spectrogram branch: no DINO_spectrogram_student.pth" in text
    )
    assert torch.equal(fusion.signal.stem[0][0].weight, states["signal"]["stem.0.0.weight"])
    assert all(
        torch.equal(value, before[key]) for key, value in fusion.spectrogram.state_dict().items()
    )


def test_of_several_published_files_the_best_is_taken(tmp_path):
    """DINO's before SimCLR's before BYOL's, by a fusion's branch and by an encoder alone;
    the folder is not a queue.
    """
    states = []
    for file in (
        "BYOL_signal.pth",
        "SIMCLR_signal.pth",
        "DINO_signal_student.pth",
    ):  # from the last to the first
        encoder = build(tiny_branches()["signal"], num_classes=None)
        torch.nn.init.constant_(encoder.stem[0][0].weight, len(states))
        states.append(encoder.state_dict())
        torch.save({"model": states[-1]}, tmp_path / file)
        for model in (build("fusion", **tiny_branches()), build(tiny_branches()["signal"])):
            assert file in load_pretrained(model, tmp_path)
            loaded = model.branches.get("signal", model).state_dict()
            assert all(torch.equal(loaded[name], value) for name, value in states[-1].items())


def test_a_file_goes_where_it_fits(tmp_path):
    states = pretrained_folder(tmp_path, DINO)
    fusion = build("fusion", **tiny_branches())
    assert load_pretrained(fusion, tmp_path / DINO["spectrogram"]).startswith("spectrogram: loaded")
    torch.save({"model": fusion.state_dict()}, tmp_path / "fusion.pth")
    other = build("fusion", **tiny_branches())
    assert load_pretrained(other, tmp_path / "fusion.pth").startswith("fusion: loaded")
    assert torch.equal(other.spectrogram.stem[0].weight, states["spectrogram"]["stem.0.weight"])
    alone = build(tiny_branches()["spectrogram"])
    assert "DINO_spectrogram_student.pth" in load_pretrained(alone, tmp_path)
    assert torch.equal(alone.stem[0].weight, states["spectrogram"]["stem.0.weight"])


def test_finetune_flag_transfers_and_prints_the_count(tmp_path, capsys):
    count = len(pretrained_folder(tmp_path, DINO)["spectrogram"])
    run(
        run_spectrogram.main,
        "--fold",
        1,
        "--num_epoches",
        1,
        "--finetune",
        tmp_path / DINO["spectrogram"],
        "--lr_rate",
        1e-9,
        "--save_folder",
        tmp_path / "run",
        *TINY,
        "--set",
        "model.channels=2",
        "--set",
        f"dataset.store={store()}",
    )
    assert f"loaded {count} of {count} encoder tensors" in capsys.readouterr().out
    trained = load_trained(tmp_path / "run" / "fold1_bestROC.pth").classifier
    given = torch.load(tmp_path / DINO["spectrogram"], weights_only=True)["model"]
    torch.testing.assert_close(
        trained.stem[0].weight.data, given["stem.0.weight"], atol=1e-6, rtol=0
    )
    assert torch.equal(trained.standardize.mean, given["standardize.mean"]), (
        "the scale of the weights"
    )


# ============ several processes ============
def evaluate(path):
    """Probabilities of the selection records, computed by this process group in float64 and
    batches of 2 crops, and how many batches were this process's.
    """
    with in_double():
        trained = load_trained(path)
        config = changed(
            trained.config, dataset={"crops_per_record": 1}, dataloader={"batch_size": 2}
        )
        evaluator = Evaluator(LabelledJob(config).fold(3), torch.device("cpu"))
        predictions = evaluator.predict(trained.classifier, "valid")
        return torch.from_numpy(predictions.outputs), len(evaluator.loaders["valid"])


def test_defect_11_two_processes_give_the_numbers_of_one():
    path = str(trained_signal() / "fold3_bestROC.pth")
    alone, batches = evaluate(path)
    (first, mine), (second, yours) = run_processes(evaluate, 2, path)
    torch.testing.assert_close(first, alone, atol=1e-12, rtol=0)
    assert torch.equal(first, second)
    assert batches > 4 and mine + yours == batches and abs(mine - yours) <= 1, (
        "the work is shared out"
    )


@pytest.mark.slow
def test_gpu_cpu_cpu_trains_on_two_processes_and_hands_on_exit_codes(tmp_path):
    command = [
        sys.executable,
        ROOT / "experiments" / "run_signal.py",
        "--fold",
        "5",
        "--num_epoches",
        "1",
        *TINY[:-2],  # all but --gpu cpu
        "--set",
        f"dataset.store={store()}",
        "--save_folder",
        tmp_path / "run",
        "--gpu",
        "cpu,cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (
        "2 process(es) on cpu" in done.stdout and (tmp_path / "run" / "fold5_bestROC.pth").is_file()
    )
    failed = subprocess.run(
        [*command, "--set", "model.channels=0.5"], capture_output=True, text=True, timeout=300
    )
    assert failed.returncode != 0


def finetune_where_one_process_sees_the_encoder(folder, encoder):
    rank = torch.distributed.get_rank()
    config = load_config(
        [CONFIGS / "signal.yaml"],
        [
            f"dataset.store={store()}",
            f"output_dir={folder}/{rank}",
            "exp_name=run",
            "mode=linprobe",
            "dataset.fold=0",
            "model.channels=4",
            "train.epochs=1",
            "train.steps_per_epoch=1",
            "dataloader.batch_size=4",
            "dataloader.num_workers=0",
            "device=cpu",
            f"encoder_path={encoder if rank == 0 else '/not/there.pth'}",
        ],
        program=FinetuneConfig,
    )
    main_finetune.finetune(config)
    return True


def test_the_encoder_is_read_by_process_0_alone(tmp_path):
    torch.manual_seed(3)
    encoder = build("xresnet1d50", channels=4, num_classes=None)
    torch.save({"model": encoder.state_dict()}, tmp_path / "encoder.pth")
    assert run_processes(
        finetune_where_one_process_sees_the_encoder, 2, str(tmp_path), str(tmp_path / "encoder.pth")
    )
    kept = torch.load(tmp_path / "0" / "run" / "checkpoint-last.pth", weights_only=True)["model"]
    assert torch.equal(kept["classifier.stem.0.0.weight"], encoder.state_dict()["stem.0.0.weight"])
