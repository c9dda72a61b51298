"""Jobs with augmentations in dataset.transforms and RandAugment: what trains draws, what
evaluates does not.
"""

import json
from pathlib import Path

import pytest

import main_finetune
import main_pretrain
from tests.support import small_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import load_config
from util.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
AUGMENT = [
    "dataset.transforms=[random_crop: {crop_length: 250}, time_out: {ratio: [0.2, 0.4]}]",
    "dataset.rand_augment={op_names: [shift, flip, white_noise]}",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with small_store.same_environment():
        yield


def config(name, folder, *overrides):
    return load_config(
        [ROOT / "configs" / f"{name}.yaml"],
        [
            f"dataset.store={small_store.store()}",
            f"output_dir={folder}",
            "exp_name=run",
            "dataloader.num_workers=0",
            "device=cpu",
            "dataloader.batch_size=8",
            "train.steps_per_epoch=1",
            "train.epochs=1",
            *overrides,
        ],
        program=PretrainConfig if name.startswith("pretrain") else FinetuneConfig,
    )


def test_pretraining_with_rand_augment_fits_statistics_and_probes_without_it(tmp_path):
    """Was a traceback: the probe and the input's statistics have no random numbers."""
    overrides = ["model.encoder.channels=4", "train.probe_every=1"]
    plain, augmented = (
        main_pretrain.pretrain(config("pretrain/simclr_signal", tmp_path / kind, *overrides, *more))
        for kind, more in (("plain", []), ("augmented", AUGMENT))
    )
    before, after = (
        json.loads((folder / "log.txt").read_text().splitlines()[0])
        for folder in (plain, augmented)
    )
    assert (
        after["probe_auroc_untrained"] == before["probe_auroc_untrained"]
    )  # the same crops, statistics, weights
    assert after["train_loss"] != before["train_loss"]


def test_finetuning_with_rand_augment_evaluates_on_crops_of_another_length(tmp_path):
    """Was a traceback: the statistics were then read through the training's transforms."""
    job = config(
        "downstream/signal",
        tmp_path,
        "model.channels=4",
        "dataset.fold=0",
        *AUGMENT,
        "dataset.eval_transforms=[center_crop: {crop_length: 200}]",
    )
    main_finetune.finetune(job)
    assert (tmp_path / "run" / "test_metrics.csv").is_file()


def test_a_random_step_in_eval_transforms_is_said_before_any_work(tmp_path):
    job = config(
        "downstream/signal",
        tmp_path,
        "model.channels=4",
        "dataset.fold=0",
        "dataset.eval_transforms=[center_crop: {crop_length: 250}, time_out: {ratio: [0.2, 0.4]}]",
    )
    with pytest.raises(ConfigError, match="dataset.eval_transforms: time_out draws at random"):
        main_finetune.finetune(job)
    assert not (tmp_path / "run").exists()
