"""The vocabulary of configs: every key with its type, default, allowed values and advice.

The program is the class: ``PretrainConfig`` for main_pretrain.py, ``FinetuneConfig`` for
main_finetune.py.  docs/configs.md is made from these fields.
"""

from dataclasses import dataclass
from typing import ClassVar

from util.config.fields import REQUIRED, key


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Section ``dataset``: which records, and what is done to their signals."""

    store: str = key("./data_folder/data_summary_without_preprocessing", "holds fs100/ and fs250/")
    fs: int = key(250, "sampling rate in Hz; picks the store's folder", least=1)
    lead: str | list = key("12lead", "12lead, limb_lead, lead1, lead2, a lead's name or several")
    crop: int | None = key(None, "samples of a crop; training takes them at random places", least=1)
    filters: dict | None = key(
        None,
        "zero-phase Butterworth filters of each crop: {highpass: Hz, lowpass: Hz}, order: 5",
    )
    standardize: str | None = key(
        None,
        "to mean 0 and deviation 1: crop, over leads and time together, or lead, each by itself",
        choices=("crop", "lead"),
    )
    augment: list = key([], "augmentations of training crops, in this order, after the above")
    transforms: list | None = key(
        None, "in place of the four above, as published: a cropping, then steps in any order"
    )
    rand_augment: dict | None = key(None, "then RandAugment: op_names, level, num_layers, prob")
    crops_per_record: int = key(1, "random crops of a record each time it is visited", least=1)
    databases: list | None = key(None, "only these source databases (null: all)")
    max_records: int | None = key(
        None, "a seeded subset of so many records, to try things out", least=1
    )
    fold: int | list | str = key(
        0, "test fold 0-9, a list, 'all' or 11 (the same); pre-training: the probe's"
    )
    protocol: str = key(
        "nested",
        "nested: test on k, select on k+1, train on the other eight; published: select and report "
        "on k (optimistic); given: a table of splits; leave_one_database: test on test_database, "
        "select on k of the others",
        choices=("nested", "published", "given", "leave_one_database"),
    )
    splits: str | None = key(
        None, "protocol given: name of the table of splits (null: the only one)"
    )
    given: dict | None = key(
        None, "protocol given, a table of folds: {train: [1, ..., 8], valid: [9], test: [10]}"
    )
    test_database: str | None = key(None, "protocol leave_one_database: the database to test on")
    labels: str | dict | None = key(
        None,
        "a table of labels beside the store (docs/data.md), or {name: ..., columns: [...]}; in "
        "pre-training the probe's",
    )
    classes: str | dict | None = key(
        None, "challenge2020 (as null is, without labels): 24 classes; or {name: [SNOMED CT codes]}"
    )


@dataclass(frozen=True, kw_only=True)
class PretrainDataset(DatasetConfig):
    """What pre-training alone asks of its records."""

    exclude_folds: list = key([], "folds to leave out, e.g. those a downstream test will use")
    exclude_parts: list = key(
        [],
        "leave out what protocol (and fold, splits, given, test_database) makes these parts, e.g. "
        "[valid, test]",
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneDataset(DatasetConfig):
    """What supervised jobs alone ask of their records."""

    eval_crops: int = key(
        1, "crops of a record, spread evenly, whose outputs are averaged", least=1
    )
    eval_stride: int | None = key(None, "or a crop every so many samples", least=1)
    eval_crop: int | None = key(None, "samples of these crops (null: as in training)", least=1)
    eval_transforms: list | None = key(
        None, "in place of these three, as published: a cropping, then steps without chance"
    )
    mask_unannotated: bool | None = key(
        None,
        "labels of classes that a record's database never annotated are unknown, not negative "
        "(null: with protocol leave_one_database)",
    )
    annotated: str | None = key(
        None,
        "CSV file of which database annotated which class, such as the Challenge's "
        "dx_mapping_scored.csv (null: those with a positive record in the store)",
    )
    label_fraction: float = key(
        1.0,
        "share of the training records to use, stratified, whole patients: 0.01 for 1 % of the "
        "labels",
        least=0,
        most=1,
    )


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Section ``dataloader``: batches and who reads them."""

    batch_size: int = key(16, "records a process and forward pass", least=1)
    num_workers: int = key(8, "loader processes a training process", least=0)
    pin_memory: bool = key(True, "faster copies to the GPU")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Section ``train``: the optimiser, its schedules, and what a run keeps."""

    epochs: int = key(REQUIRED, "passes over the data", least=1)
    accum_iter: int = key(
        1, "forward passes a step; effective batch: batch_size * accum_iter * processes", least=1
    )
    warmup_epochs: float = key(0.0, "epochs of linear warm-up from 0", least=0)
    lr: float | None = key(None, "peak learning rate; null: blr * effective batch / 256", least=0)
    blr: float | None = key(None, "base learning rate for an effective batch of 256", least=0)
    min_lr: float = key(0.0, "floor of the cosine", least=0)
    lr_update: str = key(
        "iteration",
        "the schedule moves every iteration, or once an epoch (warm-up epoch n of w then has n/w "
        "of the peak)",
        choices=("iteration", "epoch"),
    )
    optimizer: str = key("adamw", "one of util/training/optimizer.py's OPTIMIZERS")
    optimizer_kwargs: dict = key({}, "further arguments, e.g. betas: [0.9, 0.95]")
    weight_decay: float = key(0.0, "decoupled weight decay", least=0)
    weight_decay_end: float | None = key(
        None, "the weight decay goes there on a cosine (DINO)", least=0
    )
    decay_all: bool = key(False, "published: decay biases, norms and embeddings as well")
    max_norm: float | None = key(None, "clip the gradient's norm", least=0)
    amp: str = key(
        "auto",
        "autocast: auto (bf16 on GPUs that have it, else fp16; none on the CPU), bf16, fp16 or "
        "none",
        choices=("auto", "bf16", "fp16", "none"),
    )
    matmul_precision: str = key(
        "auto",
        "of float32 products: auto (high on a GPU; on a CPU medium where a trial finds it faster "
        "and as exact, else highest), highest, high or medium",
        choices=("auto", "highest", "high", "medium"),
    )
    compile: bool = key(False, "torch.compile the model: slow first step, faster ones after")
    checkpoint_activations: bool = key(
        False,
        "compute transformer blocks again in the backward pass: a third more work, memory for "
        "longer crops or larger batches",
    )
    sync_bn: bool = key(
        True, "BatchNorm over the batches of all processes: as many give the same numbers as one"
    )
    steps_per_epoch: int | None = key(None, "cut epochs short, for trying things out", least=1)
    log_every: int = key(10, "steps between progress updates and TensorBoard points", least=1)
    checkpoint_every: int | str = key(
        1, "epochs, or '500 steps', between checkpoint-last.pth's", least=1
    )
    keep_every: int = key(20, "epochs between kept checkpoints (checkpoint-<epoch>.pth)", least=1)
    keep_last: int = key(0, "keep only so many of these (0: all)", least=0)
    skip_nonfinite: int = key(0, "how many steps without a finite loss to tolerate", least=0)


@dataclass(frozen=True, kw_only=True)
class PretrainTrain(TrainConfig):
    """What the training of pre-training alone takes."""

    figure_every: int = key(10, "epochs between figures of a reconstruction", least=1)
    probe_every: int = key(0, "epochs between linear probes on labelled records; 0: none", least=0)


@dataclass(frozen=True, kw_only=True)
class FinetuneTrain(TrainConfig):
    """What the training of supervised jobs alone takes."""

    head_init: str = key(
        "random",
        "how heads start: at random, or as a linear probe of the frozen encoder, which keeps what "
        "pre-training learnt (not with resume)",
        choices=("random", "probe"),
    )
    layer_decay: float = key(
        1.0,
        "factor of the learning rate from each level of the encoder to the one below it, the heads "
        "having the full one",
        least=0.01,
        most=1,
    )
    freeze_epochs: int = key(0, "train the head alone for the first epochs", least=0)


@dataclass(frozen=True, kw_only=True)
class MetricConfig:
    """Section ``metric``: what is measured."""

    task: str | None = key(
        None,
        "kind of labels (null: as a table says; of dataset.classes multilabel)",
        choices=("multilabel", "multiclass", "regression"),
    )
    num_labels: int | None = key(None, "checked against the labels when given", least=1)
    num_classes: int | None = key(None, "checked against the labels when given", least=1)
    target_metrics: list | None = key(
        None,
        "names, or {name: {average: macro}}: docs/scores.md (null: AUROC, in regression MAE and "
        "R2)",
    )


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """Section ``test``: how the test is done."""

    target_metric: str = key("loss", "tests the checkpoint that is best by this in selection")
    bootstrap: int = key(0, "resamples of the test records for 95 % intervals (0: none)", least=0)


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every job has; see ``PretrainConfig`` and ``FinetuneConfig``."""

    program: ClassVar[str]
    title: ClassVar[str]
    seed: int = key(
        0, "of data order, crops, views, masks and initialisation", least=0, most=2**63 - 1
    )
    output_dir: str = key("./output", "runs are written to <output_dir>/<exp_name>")
    exp_name: str = key("", "name of the run")
    resume: str = key(
        "", "checkpoint to resume from; 'auto': this run's checkpoint-last.pth if it is there"
    )
    start_epoch: int = key(
        0, "first epoch (0-based) when it shall differ from the checkpoint's", least=0
    )
    device: str = key(
        "auto", "auto takes the GPU where there is one", choices=("auto", "cuda", "cpu")
    )
    model_name: str = key(REQUIRED, "a model of models/, e.g. st_mem_vit_base_dec256d4b")
    model: dict = key({}, "arguments of the model's factory")
    dataset: DatasetConfig
    dataloader: LoaderConfig
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(JobConfig):
    """A self-supervised job: main_pretrain.py."""

    program: ClassVar[str] = "pretrain"
    title: ClassVar[str] = "pre-training"
    dataset: PretrainDataset
    train: PretrainTrain


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(JobConfig):
    """A supervised job: main_finetune.py."""

    program: ClassVar[str] = "finetune"
    title: ClassVar[str] = "fine-tuning"
    encoder_path: str = key(
        "", "encoder.pth of a pre-training run (modes finetune, linprobe and probe)"
    )
    mode: str = key(
        "scratch",
        "what is trained and from where; probe: nothing, heads are fitted on frozen features, of "
        "an untrained encoder where no encoder_path is given",
        choices=("finetune", "linprobe", "probe", "scratch"),
    )
    loss: str | None = key(
        None,
        "criterion (null: bce, cross_entropy or mse, as the labels are)",
        choices=("bce", "cross_entropy", "mse", "l1"),
    )
    dataset: FinetuneDataset
    train: FinetuneTrain
    metric: MetricConfig
    test: TestConfig


PROGRAMS = {config.program: config for config in (PretrainConfig, FinetuneConfig)}


def other_program(program: type[JobConfig]) -> type[JobConfig]:
    """Return the other one of the two programs."""
    return FinetuneConfig if program is PretrainConfig else PretrainConfig
