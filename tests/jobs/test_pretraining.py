"""The self-supervised baselines end to end: scripts, files, probes, transfer into every
downstream script, processes.
"""

import json
from pathlib import Path

import pytest
import torch

import main_pretrain
from experiments import (
    BYOL_signal,
    BYOL_signal_finetune,
    DINO_signal,
    DINO_spectrogram,
    SIMCLR_signal,
)
from experiments.baselines import BASELINES, baseline_config, baseline_parser
from tests.support import small_store
from tests.support.double import in_double
from tests.support.two_processes import run_processes
from util.config.keys import PretrainConfig
from util.config.load import load_config
from util.weights import checkpoint, transfer

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--set",
    "model.head_width=16",
    "--set",
    "dataset.crops_per_record=1",
    "--set",
    "train.log_every=1",
]
SCRIPTS = {
    "SIMCLR_signal": (SIMCLR_signal, ["SIMCLR_signal.pth"], "channels=4"),
    "BYOL_signal": (BYOL_signal, ["BYOL_signal.pth"], "channels=4"),
    "DINO_signal": (
        DINO_signal,
        ["DINO_signal_student.pth", "DINO_signal_teacher.pth"],
        "channels=4",
    ),
    "DINO_spectrogram": (
        DINO_spectrogram,
        ["DINO_spectrogram_student.pth", "DINO_spectrogram_teacher.pth"],
        "channels=2",
    ),
}


@pytest.fixture(scope="module")
def store():
    """dataset.store of eighty small recordings; torch on one thread meanwhile."""
    with small_store.same_environment():
        yield small_store.store()


def flags(store, folder, channels, *more):
    method = ["--set", "model.head_out=32", "--set", f"model.encoder.{channels}"]
    return [
        "--gpu",
        "cpu",
        "--batch_size",
        "8",
        "--num_epoches",
        "2",
        "--save_folder",
        str(folder),
        "--set",
        f"dataset.store={store}",
        "--set",
        "dataloader.num_workers=0",
        "--set",
        "train.steps_per_epoch=2",
        "--set",
        "train.probe_every=1",
        *method,
        *SMALL,
        *more,
    ]


@pytest.fixture(scope="module")
def checkpoints(store, tmp_path_factory):
    """A ./checkpoints folder as the four scripts leave it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for module, _, channels in SCRIPTS.values():
        module.main(flags(store, folder, channels))
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_leave_the_published_files_and_tell_how_it_went(checkpoints, name):
    _, files, _ = SCRIPTS[name]
    for file in files:
        state = transfer.read_encoder(checkpoints / file).part(()).state
        assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
        assert not any(key.startswith(("head.", "encoder.")) for key in state)
    lines = [
        json.loads(line)
        for line in (checkpoints / name.lower() / "log.txt").read_text().splitlines()
    ]
    wanted = {
        "train_loss",
        "train_embedding_std",
        "train_alignment",
        "train_uniformity",
        "probe_auroc",
        "probe_auroc_untrained",
    }
    if name != "SIMCLR_signal":
        wanted.add("train_momentum")
    if name.startswith("DINO"):
        wanted |= {"train_teacher_entropy", "train_kl"}
    assert len(lines) == 2 and all(wanted <= set(line) for line in lines)
    assert not list(checkpoints.glob("checkpoints")), "--save_folder is taken as it is, not doubled"


def test_teacher_and_student_are_two(checkpoints):
    student, teacher = (
        transfer.read_encoder(checkpoints / f"DINO_signal_{role}.pth").part(()).state
        for role in ("student", "teacher")
    )
    assert student.keys() == teacher.keys()
    assert any(not torch.equal(student[key], teacher[key]) for key in student)


@pytest.mark.parametrize(
    "script, source",
    [
        ("run_signal", "DINO_signal_student.pth"),
        ("run_signal", "DINO_signal_teacher.pth"),
        ("run_signal", "SIMCLR_signal.pth"),
        ("run_signal", "BYOL_signal.pth"),
        ("run_spectrogram", "DINO_spectrogram_student.pth"),
        ("run_ensembled", ""),
    ],
)
def test_encoders_transfer_into_the_supervised_scripts(
    checkpoints, store, tmp_path, capsys, script, source
):
    """Defect 2: DINO weights for the fusion matched nothing and nobody noticed."""
    from experiments import run_ensembled, run_signal, run_spectrogram

    module = {
        "run_signal": run_signal,
        "run_spectrogram": run_spectrogram,
        "run_ensembled": run_ensembled,
    }[script]
    channels = {
        "run_signal": ["model.channels=4"],
        "run_spectrogram": ["model.channels=2"],
        "run_ensembled": ["model.signal.channels=4", "model.spectrogram.channels=2"],
    }[script]
    sets = [
        f"dataset.store={store}",
        "dataloader.num_workers=0",
        "train.steps_per_epoch=1",
        *channels,
    ]
    module.main(
        [
            "--gpu",
            "cpu",
            "--fold",
            "0",
            "--batch_size",
            "8",
            "--num_epoches",
            "1",
            "--save_folder",
            str(tmp_path),
            "--finetune",
            str(checkpoints / source),
            *[part for text in sets for part in ("--set", text)],
        ]
    )
    out = capsys.readouterr()
    told = [line for line in (out.out + out.err).splitlines() if "encoder tensors" in line]
    assert len(told) == (2 if script == "run_ensembled" else 1)
    for line in told:
        matched, wanted = line.split("loaded ")[1].split(" encoder tensors")[0].split(" of ")
        assert int(matched) == int(wanted) > 50


def test_run_downstream_takes_a_pretrained_signal_encoder(checkpoints, store, tmp_path, capsys):
    import main_finetune

    main_finetune.main(
        [
            "--config_path",
            str(ROOT / "configs/downstream/signal.yaml"),
            "--encoder_path",
            str(checkpoints / "SIMCLR_signal.pth"),
            "--output_dir",
            str(tmp_path),
            "--exp_name",
            "a",
            "--set",
            "mode=linprobe",
            "--set",
            f"dataset.store={store}",
            "--set",
            "dataset.fold=0",
            "--set",
            "model.channels=4",
            "--set",
            "train.epochs=1",
            "--set",
            "train.steps_per_epoch=1",
            "--set",
            "dataloader.batch_size=8",
            "--set",
            "dataloader.num_workers=0",
            "--set",
            "device=cpu",
        ]
    )
    assert (tmp_path / "a" / "test_metrics.csv").is_file()


def default_config(script):
    baseline = BASELINES[script]
    return baseline_config(baseline, baseline_parser(baseline, "").parse_args([]), "cpu")


@pytest.mark.parametrize("name, epochs_frozen", [("SIMCLR", 10), ("BYOL", 5)])
def test_finetuning_scripts_have_the_published_settings(name, epochs_frozen):
    config = default_config(f"{name}_signal_finetune")
    train = config.train
    assert (train.lr, train.min_lr, train.epochs, train.freeze_epochs) == (
        5e-3,
        1e-4,
        80,
        epochs_frozen,
    )
    assert config.dataloader.batch_size == 256 and config.mode == "finetune"
    assert config.encoder_path == f"./checkpoints/{name}_signal.pth"


def test_frozen_epochs_freeze_the_backbone_and_train_the_classifier(checkpoints, store, tmp_path):
    """Defect 14: the published scripts opened the backbone and froze the classifier."""
    sets = [
        f"dataset.store={store}",
        "dataloader.num_workers=0",
        "train.steps_per_epoch=2",
        "model.channels=4",
        "train.freeze_epochs=1",
    ]
    BYOL_signal_finetune.main(
        [
            "--gpu",
            "cpu",
            "--fold",
            "0",
            "--batch_size",
            "8",
            "--num_epoches",
            "2",
            "--save_folder",
            str(tmp_path),
            "--finetune",
            str(checkpoints / "BYOL_signal.pth"),
            "--set",
            "train.keep_every=1",
            *[part for text in sets for part in ("--set", text)],
        ]
    )
    start = transfer.read_encoder(checkpoints / "BYOL_signal.pth").part(()).state
    frozen, opened = (
        checkpoint.load(tmp_path / "fold0" / f"checkpoint-{epoch}.pth")["model"] for epoch in (0, 1)
    )
    backbone = [key for key in start if key.startswith("stages.") and key.endswith("weight")]
    assert backbone
    assert all(torch.equal(frozen[f"classifier.{key}"], start[key]) for key in backbone), (
        "the backbone stays as it was"
    )
    heads = [key for key in frozen if key.startswith("classifier.head.")]
    assert any(not torch.equal(opened[f"classifier.{key}"], start[key]) for key in backbone), (
        "then everything learns"
    )
    assert all(not torch.equal(frozen[key], opened[key]) for key in heads)


@pytest.mark.parametrize(
    "script, batch, epochs, optimizer, lr, floor",
    [
        ("SIMCLR_signal", 1024, 1000, "adam", 1e-3, 1e-4),
        ("BYOL_signal", 1024, 400, "adam", 1e-3, 1e-4),
        ("DINO_signal", 196, 301, "adamw", 5e-4 * 196 / 256, 1e-6),
        ("DINO_spectrogram", 256, 301, "adamw", 5e-4, 1e-6),
    ],
)
def test_no_argument_means_the_published_settings(script, batch, epochs, optimizer, lr, floor):
    from util.training.optimizer import resolve_lr

    config = default_config(script)
    train = config.train
    assert (config.dataloader.batch_size, train.epochs, train.optimizer) == (
        batch,
        epochs,
        optimizer,
    )
    assert resolve_lr(train, batch, 1) == pytest.approx(lr) and train.min_lr == floor
    assert config.output_dir == "./checkpoints" and config.dataset.fs == 100
    if script.startswith("DINO"):
        assert (train.weight_decay, train.weight_decay_end, train.warmup_epochs) == (
            0.04,
            0.4,
            10,
        )


def st_mem_losses(store, folder, batch, accumulate):
    torch.set_num_threads(1)
    config = load_config(
        [ROOT / "configs/pretrain/st_mem.yaml"],
        [
            "model_name=st_mem_vit_tiny_dec128d2b",
            f"dataset.store={store}",
            f"output_dir={folder}",
            "train.epochs=1",
            "train.steps_per_epoch=5",
            "train.log_every=1",
            "train.lr=1.0e-3",
            "dataloader.num_workers=0",
            "device=cpu",
            "train.warmup_epochs=0",
            "model.seq_len=450",
            "dataset.transforms=[random_crop: {crop_length: 450}, highpass_filter: {cutoff: "
            "0.67}, "
            "lowpass_filter: {cutoff: 40}, standardize: {axis: [-1, -2]}]",
            f"dataloader.batch_size={batch}",
            f"train.accum_iter={accumulate}",
        ],
        program=PretrainConfig,
    )
    with in_double():
        folder = main_pretrain.pretrain(config)
    return [
        json.loads(line)["loss"] for line in (folder / "log_steps.txt").read_text().splitlines()
    ]


def test_first_losses_do_not_depend_on_processes_or_accumulation(store, tmp_path):
    """One process of batch 8, two of batch 4 and one of batch 4 accumulated twice see the
    same records, crops and masks.
    """
    one = st_mem_losses(store, tmp_path / "one", 8, 1)
    folded = st_mem_losses(store, tmp_path / "folded", 4, 2)
    two = run_processes(st_mem_losses, 2, str(store), str(tmp_path / "two"), 4, 1)[0]
    assert len(one) == 5 and one[0] != one[4]
    assert one == pytest.approx(two, rel=1e-7) and one == pytest.approx(folded, rel=1e-7)
