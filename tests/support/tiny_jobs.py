"""Configs of jobs that take seconds: (program, config, processes) by name, and their parts."""

from tests.support import (
    jobs,  # noqa: F401  (registers the tiny models)
    small_store,
)

DATA = {
    "fs": 100,
    "transforms": [{"random_crop": {"crop_length": 150}}, {"standardize": {"axis": [-1, -2]}}],
    "max_records": 48,
}
TRAIN = {
    "epochs": 2,
    "lr": 1e-3,
    "warmup_epochs": 1,
    "log_every": 1,
    "checkpoint_every": "2 steps",
    "keep_every": 1,
    "keep_last": 1,
    "matmul_precision": "highest",
}  # runs are compared: auto may choose otherwise in each
LOADER = {"batch_size": 8, "num_workers": 0}
ST_MEM = {"model_name": "nano_st_mem", "dataset": DATA, "train": TRAIN, "dataloader": LOADER}
DINO = {
    "model_name": "dino",
    "dataset": DATA,
    "dataloader": LOADER,
    "train": {**TRAIN, "optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.9}},
    "model": {
        "encoder": {"name": "xresnet1d50", "channels": 2},
        "head_width": 16,
        "bottleneck": 8,
        "head_out": 32,
        "freeze_last_layer": 1,
    },
}
CNN = {
    "model_name": "xresnet1d50",
    "model": {"channels": 2},
    "mode": "scratch",
    "dataset": DATA,
    "train": TRAIN,
    "dataloader": LOADER,
    "metric": {"target_metrics": ["AUROC"]},
    "test": {"target_metric": "loss", "bootstrap": 5, "report": False},
}
VIT = {
    **CNN,
    "model_name": "nano_vit",
    "model": {"drop_out_rate": 0.2},
    "train": {**TRAIN, "freeze_epochs": 1},
}


def with_store(config, **train):
    return {
        **config,
        "dataset": {**config["dataset"], "store": str(small_store.store())},
        "train": {**config["train"], **train},
    }


def accumulating(config):
    return {
        **config,
        "train": {**config["train"], "accum_iter": 2},
        "dataloader": {**LOADER, "batch_size": 4},
    }


SCENARIOS = {
    "st_mem": ("main_pretrain", ST_MEM, 1),
    "st_mem accumulation": ("main_pretrain", accumulating(ST_MEM), 1),
    "st_mem 2": ("main_pretrain", {**ST_MEM, "dataloader": {"batch_size": 4, "num_workers": 1}}, 2),
    "dino": ("main_pretrain", DINO, 1),
    "dino accumulation 2": (
        "main_pretrain",
        accumulating({**DINO, "dataset": {**DATA, "max_records": 64}}),
        2,
    ),
    "cnn 2": ("main_finetune", {**CNN, "dataloader": {"batch_size": 4, "num_workers": 0}}, 2),
    "vit": ("main_finetune", VIT, 1),
    "vit accumulation 2": ("main_finetune", accumulating(VIT), 2),
}
