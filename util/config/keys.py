"""Every configuration key with its type, default, allowed values and help text.

Each main program has one class: main_pretrain.py ``PretrainConfig``, main_finetune.py
``FinetuneConfig``.  The help texts become docs/configs.md and the end of ``--help``: run
``python -m util.config > docs/configs.md`` after a change.
"""

from dataclasses import dataclass
from typing import ClassVar

from util.config.fields import REQUIRED, key


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Section ``dataset``: which records, and what is done to their signals."""

    store: str = key(
        "./data_folder/data_summary_without_preprocessing",
        "folder of the prepared records; it holds fs100/ and fs250/",
        path=True,
        resumed="free",
    )
    fs: int = key(250, "sampling rate in Hz; chooses the store's folder fs<rate>/", least=1)
    lead: str | list = key(
        "12lead", "12lead, limb_lead, lead1, lead2, the name of a lead, or a list of names"
    )
    crop: int | None = key(None, "samples of a crop; training takes them at random places", least=1)
    filters: dict | None = key(
        None,
        "zero-phase Butterworth filters of each crop: {highpass: Hz, lowpass: Hz, order: N} (order "
        "5 if not given)",
    )
    standardize: str | None = key(
        None,
        "scale to mean 0 and deviation 1: crop, all leads together; lead, each lead alone",
        choices=("crop", "lead"),
    )
    augment: list = key(
        [], "augmentations of training crops, in order, after filters and standardize"
    )
    transforms: list | None = key(
        None,
        "instead of crop, filters, standardize and augment, as published: a cropping, then steps "
        "in any order",
    )
    rand_augment: dict | None = key(
        None, "RandAugment, after all others: {op_names, level, num_layers, prob}"
    )
    crops_per_record: int = key(
        1, "random crops taken from a record each time it is visited", least=1
    )
    databases: list | None = key(None, "only these source databases (null: all)")
    max_records: int | None = key(
        None, "use only this many records, drawn by the seed; for quick trials (null: all)", least=1
    )
    fold: int | list | str = key(
        0,
        "the test fold k, 0-9, a list of them, or 'all' (11 means the same); in pre-training, of "
        "the probe of train.probe_every",
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
        "pre-training, for the probe of train.probe_every",
    )
    classes: str | dict | None = key(
        None,
        "labels from the diagnoses: challenge2020 (24 classes; also null, without dataset.labels), "
        "or {name: [SNOMED CT codes]}",
    )


@dataclass(frozen=True, kw_only=True)
class PretrainDataset(DatasetConfig):
    """Keys of section ``dataset`` that only pre-training has."""

    exclude_folds: list = key([], "folds to leave out, e.g. those a downstream test will use")
    exclude_parts: list = key(
        [],
        "parts to leave out, e.g. [valid, test], as protocol (with fold, splits, given, "
        "test_database) defines them",
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneDataset(DatasetConfig):
    """Keys of section ``dataset`` that only supervised jobs have."""

    eval_crops: int = key(
        1, "crops of a record in evaluation, spread evenly; their outputs are averaged", least=1
    )
    eval_stride: int | None = key(
        None, "instead of eval_crops: samples from the start of a crop to the next", least=1
    )
    eval_crop: int | None = key(None, "samples of an evaluation crop (null: dataset.crop)", least=1)
    eval_transforms: list | None = key(
        None, "instead of these three, as published: a cropping, then steps without random numbers"
    )
    mask_unannotated: bool | None = key(
        None,
        "labels of classes that a record's database never annotated are unknown, not negative "
        "(null: with protocol leave_one_database)",
    )
    annotated: str | None = key(
        None,
        "CSV file that says which database annotated which class, such as the Challenge's "
        "dx_mapping_scored.csv (null: each those with a positive record in the store)",
        path=True,
    )
    label_fraction: float = key(
        1.0,
        "share of the training records to use, stratified, without dividing patients: 0.01 for "
        "1 % of the labels",
        least=0,
        most=1,
    )


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Section ``dataloader``: batches and who reads them."""

    batch_size: int = key(16, "records per process and forward pass", least=1, resumed="unfinished")
    num_workers: int = key(
        8, "processes that load data, per training process", least=0, resumed="free"
    )
    pin_memory: bool = key(
        True, "load into pinned memory, which the GPU copies faster", resumed="free"
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Section ``train``: the optimiser, its schedules, and what a run keeps."""

    epochs: int = key(REQUIRED, "passes over the data", least=1, resumed="free")
    accum_iter: int = key(
        1,
        "forward passes per step (gradient accumulation); effective batch: batch_size * accum_iter "
        "* processes",
        least=1,
        resumed="unfinished",
    )
    warmup_epochs: float = key(
        0.0,
        "epochs in which the learning rate rises linearly from 0",
        least=0,
        resumed="unfinished",
    )
    lr: float | None = key(
        None,
        "peak learning rate (null: blr * effective batch / 256)",
        least=0,
        resumed="unfinished",
    )
    blr: float | None = key(
        None,
        "peak learning rate for an effective batch of 256; scales with the batch if lr is null",
        least=0,
        resumed="unfinished",
    )
    min_lr: float = key(
        0.0,
        "learning rate at the end; after the warm-up it falls to this on a cosine",
        least=0,
        resumed="unfinished",
    )
    lr_update: str = key(
        "iteration",
        "when the learning rate changes: every iteration, or once an epoch (warm-up epoch n of w "
        "then has n/w of the peak)",
        choices=("iteration", "epoch"),
        resumed="unfinished",
    )
    optimizer: str = key("adamw", "adamw, adam, sgd or lars (for batches of thousands)")
    optimizer_kwargs: dict = key(
        {}, "further arguments of the optimiser, e.g. {betas: [0.9, 0.95]}", resumed="unfinished"
    )
    weight_decay: float = key(0.0, "decoupled weight decay", least=0, resumed="unfinished")
    weight_decay_end: float | None = key(
        None,
        "weight decay at the end, reached on a cosine (DINO; null: it stays the same)",
        least=0,
        resumed="unfinished",
    )
    decay_all: bool = key(False, "decay biases, norms and embeddings as well, as published")
    max_norm: float | None = key(
        None, "clip the gradient to this norm (null: no clipping)", above=0, resumed="unfinished"
    )
    amp: str = key(
        "auto",
        "mixed precision: auto (bf16 on GPUs that have it, else fp16; none on the CPU), bf16, fp16 "
        "or none",
        choices=("auto", "bf16", "fp16", "none"),
        resumed="free",
    )
    matmul_precision: str = key(
        "auto",
        "precision of float32 matrix products in PyTorch: auto (high on a GPU; on a CPU medium "
        "where a trial finds it faster and as exact, else highest), highest, high or medium",
        choices=("auto", "highest", "high", "medium"),
        resumed="free",
    )
    compile: bool | str = key(
        "auto",
        "torch.compile the model, forward and backward pass one graph each: a slow first step, "
        "faster ones after it (auto: where a measurement on a GPU has shown that it pays, so far "
        "nowhere)",
        choices=("auto", True, False),
        resumed="free",
    )
    cuda_graph: bool | str = key(
        "auto",
        "replay the whole step (forward, backward, clipping, update) as one CUDA graph, so that "
        "the GPU does not wait for the host: true (wherever the step allows it, on several "
        "processes, too), trial (where the first steps of one process find it 1.05 times as fast, "
        "with the same losses), false, or auto (where a measurement on a GPU has shown that it "
        "pays, so far nowhere)",
        choices=("auto", "trial", True, False),
        resumed="free",
    )
    checkpoint_activations: bool = key(
        False,
        "recompute transformer blocks in the backward pass: a third more work, but less memory, "
        "for longer crops or larger batches",
        resumed="free",
    )
    sync_bn: bool = key(
        True,
        "BatchNorm over all processes together, so that their number changes no result",
        resumed="unfinished",
    )
    steps_per_epoch: int | None = key(
        None,
        "end each epoch after this many steps; for quick trials",
        least=1,
        resumed="unfinished",
    )
    log_every: int = key(
        10, "steps between progress updates and TensorBoard points", least=1, resumed="free"
    )
    checkpoint_every: int | str = key(
        1,
        "how often to write checkpoint-last.pth: a number of epochs, or e.g. '500 steps'",
        least=1,
        resumed="free",
    )
    keep_every: int = key(
        20,
        "epochs between checkpoints that are kept (checkpoint-<epoch>.pth)",
        least=1,
        resumed="free",
    )
    keep_last: int = key(
        0, "how many of these to keep, the newest (0: all)", least=0, resumed="free"
    )
    tracker: str | None = key(
        None,
        "send curves and config to a tracker of experiments, too, whose package must be there: "
        "wandb, mlflow or trackio (null: to none)",
        choices=("wandb", "mlflow", "trackio"),
        resumed="free",
    )
    skip_nonfinite: int = key(
        0,
        "steps whose loss is not finite to skip before the run ends with an error",
        least=0,
        resumed="free",
    )


@dataclass(frozen=True, kw_only=True)
class PretrainTrain(TrainConfig):
    """Keys of section ``train`` that only pre-training has."""

    figure_every: int = key(
        10,
        "epochs between figures of a reconstruction, for methods that rebuild their input",
        least=1,
        resumed="free",
    )
    probe_every: int = key(
        0, "epochs between linear probes on labelled records (0: none)", least=0, resumed="free"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneTrain(TrainConfig):
    """Keys of section ``train`` that only supervised jobs have."""

    head_init: str = key(
        "random",
        "how heads start: at random, or fitted on frozen features (a linear probe), which keeps a "
        "random head from spoiling the encoder; no effect on a resumed run",
        choices=("random", "probe"),
    )
    layer_decay: float = key(
        1.0,
        "factor of the learning rate from each level of the encoder to the one below; heads have "
        "the full rate",
        least=0.01,
        most=1,
    )
    layer_rates: list = key(
        [],
        "instead of layer_decay: factors of the learning rate of the heads and of equal shares of "
        "the encoder's levels from the top, e.g. [1, 0.1, 0.01]",
    )
    freeze_epochs: int = key(
        0,
        "train only the heads for this many epochs, then everything",
        least=0,
        resumed="unfinished",
    )


@dataclass(frozen=True, kw_only=True)
class MetricConfig:
    """Section ``metric``: what is measured."""

    task: str | None = key(
        None,
        "kind of labels (null: as the table of labels says; multilabel with dataset.classes)",
        choices=("multilabel", "multiclass", "regression"),
    )
    num_labels: int | None = key(
        None,
        "an error if the labels have another number of classes (null: not checked)",
        least=1,
        resumed="free",
    )
    num_classes: int | None = key(
        None,
        "an error if the labels have another number of classes (null: not checked)",
        least=1,
        resumed="free",
    )
    target_metrics: list | None = key(
        None,
        "scores to compute: names, or {name: {average: macro}}, see docs/scores.md (null: AUROC; "
        "in regression MAE and R2)",
        resumed="free",
    )


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """Section ``test``: how the test is done."""

    report: bool = key(
        True, "leave report.html in the run's folder: all results on one page", resumed="free"
    )

    target_metric: str = key(
        "loss", "loss or a score; the weights that are best by it on the selection fold are tested"
    )
    select_every: int | None = key(
        None,
        "epochs between tests on the selection fold, from which weights are chosen (null: every "
        "epoch is tested); for epochs of few steps",
        least=1,
        resumed="unfinished",
    )
    bootstrap: int = key(
        0,
        "resamples of the test patients for 95 % intervals, e.g. 1000 (0: no intervals)",
        least=0,
        resumed="free",
    )


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The keys of every job; see ``PretrainConfig`` and ``FinetuneConfig``."""

    program: ClassVar[str]
    title: ClassVar[str]
    seed: int = key(
        0, "seed of data order, crops, views, masks and initial weights", least=0, most=2**63 - 1
    )
    output_dir: str = key(
        "./output", "runs are written to <output_dir>/<exp_name>", path=True, resumed="free"
    )
    exp_name: str = key("", "name of the run", resumed="free")
    resume: str = key(
        "",
        "checkpoint to resume from; 'auto': this run's checkpoint-last.pth if it is there",
        path=True,
        resumed="free",
    )
    overwrite: bool = key(
        False,
        "replace the results of another job that lie in the run's folder (false: that is an error)",
        resumed="free",
    )
    start_epoch: int = key(
        0,
        "first epoch, from 0, when it should differ from the checkpoint's",
        least=0,
        resumed="free",
    )
    device: str = key(
        "auto",
        "cuda, cpu, or auto: the GPU if there is one",
        choices=("auto", "cuda", "cpu"),
        resumed="free",
    )
    licence: str = key(
        "",
        "under which the weights may be used, kept in them and shown on their card",
        resumed="free",
    )
    model_name: str = key(REQUIRED, "a model of models/, e.g. st_mem_vit_base_dec256d4b")
    model: dict = key({}, "arguments of the function that model_name names")
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
        "", "encoder.pth of a pre-training run (modes finetune, linprobe and probe)", path=True
    )
    mode: str = key(
        "scratch",
        "finetune: train everything, from encoder_path; linprobe: train only the heads, from "
        "encoder_path; probe: fit the heads on frozen features without a training loop, of an "
        "untrained encoder if no encoder_path is given; scratch: train everything from random "
        "weights",
        choices=("finetune", "linprobe", "probe", "scratch"),
    )
    allow_label_overlap: bool = key(
        False,
        "test even where encoder_path was trained with labels of the test records; the results say "
        "so (false: that is an error)",
        resumed="free",
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
