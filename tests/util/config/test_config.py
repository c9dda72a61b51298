"""Configuration: merging, overrides, checks, and every YAML file of configs/."""

import contextlib
import copy
import json
from dataclasses import replace

import pytest
import torch

from util.config.command_line import argument_parser, config_from
from util.config.fields import REQUIRED, Key, keys_of, to_mapping
from util.config.keys import (
    PROGRAMS,
    FinetuneConfig,
    LoaderConfig,
    PretrainConfig,
    other_program,
)
from util.config.load import (
    ROOT,
    check,
    find_overlay,
    load_config,
    load_yaml,
    merge,
    parse_override,
    read_yaml,
    save_config,
)
from util.config.page import describe_keys, page
from util.contract.encoder import Encoder
from util.contract.method import Method
from util.errors import ConfigError
from util.jobs.setup import build_configured, evaluation_transforms, training_transforms
from util.labels.tables import parse_classes
from util.leads import parse_leads
from util.named_arguments import fits
from util.scoring.scores import parse_scores
from util.training.optimizer import OPTIMIZERS, resolve_lr

PRETRAIN = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))
DOWNSTREAM = sorted((ROOT / "configs" / "downstream").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "overlay").glob("*.yaml"))
LEAST = {
    "model_name": "st_mem_vit_tiny",
    "dataset": {"transforms": [{"random_crop": {"crop_length": 2250}}]},
    "train": {"epochs": 3},
}


def _with(overrides):
    """The checked config of LEAST with ``a.b=c`` texts over it, for fine-tuning."""
    return load_config([LEAST], overrides, program=FinetuneConfig)


def program_of(path):
    """The program that a file of configs/ is for."""
    return {"pretrain": PretrainConfig, "downstream": FinetuneConfig}[path.parent.name]


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ============ unknown, missing, mistyped ============
@pytest.mark.parametrize(
    "override, words",
    [
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean train.epochs?"),
        ("dataset.leads=I", "unknown key 'dataset.leads'; did you mean dataset.lead?"),
        ("modelname=x", "unknown key 'modelname'; did you mean model_name?"),
        ("train.xyzzy=1", "unknown key 'train.xyzzy'? Known keys here: epochs, accum_iter"),
        ("train.learning_rate=1", "unknown key 'train.learning_rate'; did you mean train.lr?"),
        ("lr=1", "unknown key 'lr'; did you mean train.lr?"),
        ("train.batch_size=1", "did you mean dataloader.batch_size?"),
        ("train.max_epochs=1", "did you mean train.epochs?"),
        ("train..epochs=3", "unknown key 'train.'"),
        ("5=3", "unknown key '5'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(override, words):
    with pytest.raises(ConfigError) as error:
        _with([override])
    assert words in str(error.value)


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.epochs=many", "train.epochs must be a whole number, not 'many'"),
        ("train.epochs=2.5", "train.epochs"),
        ("train.epochs=null", "train.epochs"),
        ("train.epochs=true", "train.epochs must be a whole number, not True"),
        ("train.lr=fast", "train.lr must be a number or null, not 'fast'"),
        ("train.lr=.nan", "train.lr"),
        ("train.lr=.inf", "train.lr"),
        ("train.lr=[1]", "train.lr"),
        ("train.lr=true", "train.lr"),
        ("train.compile=1", "train.compile must be true or false or text, not 1"),
        ("train.compile=maybe", "train.compile: 'maybe' is not one of auto, true, false"),
        ("train.cuda_graph=yes please", "is not one of auto, trial, true, false"),
        ("exp_name=5", "exp_name must be text"),
        ("dataset.transforms=standardize", "dataset.transforms must be a list"),
        ("model=[1]", "model must be a mapping"),
        ("train=5", "train must be a mapping of keys, not 5"),
        ("mode=fine", "mode: 'fine' is not one of finetune, linprobe, probe, scratch"),
        ("train.amp=fp32", "not one of auto, bf16"),
        ("train.matmul_precision=low", "not one of auto, highest"),
        ("dataset.fold=null", "dataset.fold must be"),
        ("seed=-1", "seed must be between 0 and"),
        ("dataloader.batch_size=0", "dataloader.batch_size must be 1 or more, not 0"),
        ("dataloader.num_workers=-1", "dataloader.num_workers"),
        ("train.accum_iter=0", "train.accum_iter must be 1 or more"),
        ("train.figure_every=0", "train.figure_every"),
        ("train.keep_every=0", "train.keep_every"),
        ("train.epochs=0", "train.epochs must be 1 or more"),
        ("train.log_every=0", "train.log_every"),
        ("dataset.label_fraction=1.5", "dataset.label_fraction must be between 0 and 1, not 1.5"),
        ("dataset.max_records=0", "dataset.max_records"),
        ("train.warmup_epochs=-1", "train.warmup_epochs"),
        ("train.steps_per_epoch=0", "train.steps_per_epoch"),
        ("train.lr=-1e-3", "train.lr must be 0 or more"),
    ],
)
def test_a_wrong_type_or_value_is_one_clear_sentence(override, words):
    with pytest.raises(ConfigError) as error:
        _with([override])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["model_name", "dataset", "train"])
def test_a_required_key_that_is_missing_is_named_with_its_meaning(missing):
    name = {"dataset": "dataset.crop", "train": "train.epochs"}.get(missing, missing)
    with pytest.raises(ConfigError, match=f"lacks the key '{name}': "):
        check({key: value for key, value in LEAST.items() if key != missing}, FinetuneConfig)


def test_defaults_are_filled_in_and_are_nobodys_but_ones_own():
    config = check(LEAST, PretrainConfig)
    assert config.dataloader == LoaderConfig(batch_size=16, num_workers=8, pin_memory=True)
    assert config.seed == 0 and config.dataset.fs == 250 and config.model == {}
    config.dataset.exclude_folds.append(3)
    config.model["x"] = 1
    again = check(LEAST, PretrainConfig)
    assert again.dataset.exclude_folds == [] and again.model == {}


def walk(section, prefix=""):
    """(dotted name, Key) of every key of a section."""
    for name, spec in keys_of(section).items():
        if isinstance(spec, Key):
            yield prefix + name, spec
        else:
            yield from walk(spec, f"{prefix}{name}.")


@pytest.mark.parametrize("program", PROGRAMS.values())
def test_every_default_is_allowed_by_its_own_rule(program):
    for _, spec in walk(program):
        assert spec.help and (
            spec.default is REQUIRED
            or spec.default is None
            and None in spec.types
            or isinstance(spec.default, tuple(t for t in spec.types if t))
        )
        assert not spec.choices or spec.default in (None, *spec.choices)
        assert not isinstance(spec.default, (int, float)) or spec.least <= spec.default <= spec.most


# ============ numbers ============
@pytest.mark.parametrize(
    "text, value", [("010", 10), ("08", 8), ("-07", -7), ("1_000", 1000), ("0x10", 16)]
)
def test_whole_numbers_are_what_they_look_like(text, value):
    """YAML 1.1 reads 010 as eight: a loop over padded numbers would run another fold."""
    assert read_yaml(text) == value


def test_a_text_that_looks_like_a_number_wants_quotes(tmp_path):
    assert read_yaml("1:30") == "1:30"
    with pytest.raises(ConfigError, match="exp_name must be text, not 7; .* wants quotes"):
        load_config([PRETRAIN[0]], ["exp_name=007"], program=PretrainConfig)
    named = load_config([PRETRAIN[0]], ["exp_name='007'"], program=PretrainConfig)
    save_config(named, tmp_path / "config.yaml")
    assert load_config([tmp_path / "config.yaml"], program=PretrainConfig) == named


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'1e-3'", "1E-3", "+1e-03"])
def test_1e_3_is_a_number_however_it_is_written(text):
    """YAML 1.1 reads 1e-3 as text."""
    assert _with([f"train.blr={text}"]).train.blr == 0.001


def test_numbers_among_a_models_own_arguments_are_numbers_too():
    assert _with(["model.mask_ratio=5e-1"]).model["mask_ratio"] == 0.5
    assert _with(["train.optimizer_kwargs={eps: 1e-8}"]).train.optimizer_kwargs == {"eps": 1e-8}


def test_whole_numbers_become_floats_where_floats_are_due():
    value = _with(["train.warmup_epochs=5"]).train.warmup_epochs
    assert value == 5 and isinstance(value, float)
    assert _with(["train.lr=null"]).train.lr is None


# ============ merging ============
def test_files_are_merged_left_to_right_then_overrides_then_flags(tmp_path):
    base = write(tmp_path, "base.yaml", json.dumps(LEAST))
    first = write(
        tmp_path, "first.yaml", "train: {epochs: 10, lr: 1e-3}\nseed: 1\nmodel: {num_leads: 6}\n"
    )
    second = write(tmp_path, "second.yaml", "train: {epochs: 20}\nseed: 2\n")
    config = load_config(
        [base, first, second],
        ["train.epochs=30", "model.patch_size=50"],
        {"exp_name": "x"},
        program=FinetuneConfig,
    )
    assert config.train.epochs == 30 and config.train.lr == 0.001 and config.seed == 2
    assert config.model == {"num_leads": 6, "patch_size": 50} and config.exp_name == "x"
    assert load_config([base, second, first], program=FinetuneConfig).train.epochs == 10
    assert load_config([base], ["seed=3"], {"seed": 4}, program=PretrainConfig).seed == 4
    assert load_config([base], ["seed=3", "seed=5"], program=PretrainConfig).seed == 5


def test_lists_are_replaced_not_merged(tmp_path):
    base = write(
        tmp_path,
        "base.yaml",
        json.dumps({**LEAST, "dataset": {**LEAST["dataset"], "exclude_folds": [1, 2]}}),
    )
    assert load_config(
        [base], ["dataset.exclude_folds=[7]"], program=PretrainConfig
    ).dataset.exclude_folds == [7]
    assert (
        load_config(
            [base], ["dataset.exclude_folds=[]"], program=PretrainConfig
        ).dataset.exclude_folds
        == []
    )


@pytest.mark.parametrize(
    "text, want",
    [
        ("train.lr=1e-3", {"train": {"lr": 0.001}}),
        ("seed=5", {"seed": 5}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
        ("dataset.lead=[II, V1]", {"dataset": {"lead": ["II", "V1"]}}),
        ("train.lr=null", {"train": {"lr": None}}),
        ("train.lr=", {"train": {"lr": None}}),
        ("exp_name=a=b", {"exp_name": "a=b"}),
        ("train.compile=true", {"train": {"compile": True}}),
        ("model={signal: {channels: 16}}", {"model": {"signal": {"channels": 16}}}),
        (" seed =5", {"seed": 5}),
        ("dataset.store=/data/my store", {"dataset": {"store": "/data/my store"}}),
    ],
)
def test_overrides_are_read_as_yaml(text, want):
    assert parse_override(text) == want


@pytest.mark.parametrize(
    "text, words",
    [
        ("train.epochs", "write key=value"),
        ("=5", "write key=value"),
        ("seed=[1", "not valid YAML"),
        ("seed={a: 1, a: 2}", "not valid YAML"),
    ],
)
def test_overrides_that_cannot_be_read_are_config_errors(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_override(text)


# ============ files ============
@pytest.mark.parametrize(
    "text, words",
    [
        ("train: {epochs: 3", "is not valid YAML"),
        ("- a\n- b\n", "must hold a mapping of keys, not list"),
        ("text", "mapping"),
        ("seed: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("train:\n  epochs: 3\ntrain:\n  lr: 1\n", "the key 'train' is given twice"),
        ("a: \x00", "is not valid YAML"),
        ("{" * 2000, "is not valid YAML"),
    ],
)
def test_files_that_are_no_config_are_config_errors(tmp_path, text, words):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(ConfigError) as error:
        load_config([path], program=FinetuneConfig)
    assert words in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_a_folder_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00train")
    with pytest.raises(ConfigError, match="binary.yaml"):
        load_yaml(tmp_path / "binary.yaml")
    assert load_yaml(write(tmp_path, "empty.yaml", "# nothing\n")) == {}


def test_overlays_are_found_by_bare_name_or_path(tmp_path, monkeypatch):
    assert find_overlay("demo") == ROOT / "configs" / "overlay" / "demo.yaml"
    own = write(tmp_path, "own.yaml", "seed: 1\n")
    assert find_overlay(str(own)) == own
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match="no such file, nor one of this name in configs/overlay/$"
    ):
        find_overlay("nowhere")
    with pytest.raises(ConfigError, match="did you mean own_labels"):
        find_overlay("own_lables")
    with pytest.raises(ConfigError, match="elsewhere/own.yaml"):
        load_yaml(find_overlay("elsewhere/own.yaml"))


# ============ saving ============
def test_a_saved_config_fed_back_is_the_same(tmp_path):
    config = _with(
        [
            "train.lr=1e-7",
            "exp_name='1e5'",
            "dataset.classes={a: ['164889003'], b: [426783006]}",
            "seed=3",
            "dataset.lead=[II, aVR]",
            "output_dir='yes'",
            "resume='null'",
            "train.optimizer_kwargs={betas: [0.9, 0.95]}",
        ]
    )
    save_config(config, tmp_path / "config.yaml")
    again = load_config([tmp_path / "config.yaml"], program=FinetuneConfig)
    assert again == config and again.exp_name == "1e5" and again.output_dir == "yes"
    save_config(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "config.yaml").read_bytes()


@pytest.mark.parametrize(
    "path", [*PRETRAIN, *DOWNSTREAM], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_config_survives_saving(path, tmp_path):
    program = program_of(path)
    config = load_config([path], program=program)
    save_config(config, tmp_path / "config.yaml")
    assert load_config([tmp_path / "config.yaml"], program=program) == config


# ============ the configs of this project ============
def check_job(config, downstream):
    """What a job looks at before it starts: transforms, leads, classes, metrics, learning rate,
    the model itself.
    """
    data = config.dataset
    training_transforms(config)
    leads, classes = parse_leads(data.lead), parse_classes(data.classes)
    if downstream:
        evaluation_transforms(config)
        parse_scores(
            config.metric.target_metrics,
            tuple(classes),
            config.metric.task or "multilabel",
        )
    assert resolve_lr(config.train, config.dataloader.batch_size, 1) > 0
    assert config.train.optimizer in OPTIMIZERS
    with torch.device("meta"):
        model = build_configured(config, len(classes) if downstream else None)
    assert any(p.requires_grad for p in model.parameters())
    assert isinstance(model, Encoder if downstream else Method)
    return model, leads


@pytest.mark.parametrize("overlay", [None, "demo"])
@pytest.mark.parametrize(
    "path", [*PRETRAIN, *DOWNSTREAM], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_config_builds_its_transforms_and_its_model(path, overlay):
    config = load_config(
        [path, *([find_overlay(overlay)] if overlay else [])], program=program_of(path)
    )
    check_job(config, path.parent.name == "downstream")
    if overlay == "demo":
        assert config.train.epochs <= 3 and config.dataset.max_records <= 500


MADE_FOR = {
    "moments": ["pretrain/simclr_signal"],
    "moments_dino_signal": ["pretrain/dino_signal"],
    "moments_dino_spectrogram": ["pretrain/dino_spectrogram"],
    "published_simclr": ["pretrain/simclr_signal"],
    "published_byol": ["pretrain/byol_signal"],
    "reduced_ssl": ["pretrain/simclr_signal"],
    "simclr_large_batch": ["pretrain/simclr_signal"],
    "published_dino": ["pretrain/dino_signal", "pretrain/dino_spectrogram"],
    "published_scratch": ["downstream/signal", "downstream/spectrogram"],
    "published_fusion": ["downstream/fusion", "downstream/fusion_gated"],
}  # others: ST-MEM's


@pytest.mark.parametrize(
    "name, overlay",
    [
        (name, overlay)
        for overlay in OVERLAYS
        for name in MADE_FOR.get(overlay.stem, ["downstream/st_mem"])
    ],
    ids=lambda part: getattr(part, "stem", part),
)
def test_every_overlay_merges_over_a_config_it_is_made_for(name, overlay):
    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config([path, overlay], program=program_of(path))
    assert config != load_config([path], program=program_of(path)), "the overlay changes nothing"
    check_job(config, name.startswith("downstream"))


@pytest.mark.parametrize(
    "overlay, attributes",
    [
        ("published_simclr", {"joint_views": False}),
        ("published_byol", {"joint_views": False, "momentum": (0.9, 0.9)}),
        ("published_dino", {"freeze_last_layer": 0, "momentum": (0.996, 0.996)}),
        ("published_scratch", {}),
        ("published_fusion", {}),
    ],
)
def test_a_published_overlay_turns_on_all_published_choices(overlay, attributes):
    """Point 21 of the departures: what is not the default, and reaches the model."""
    small = {
        "published_scratch": ["model.channels=8"],
        "published_fusion": ["model.signal.channels=8", "model.spectrogram.channels=8"],
        "published_dino": ["model.encoder.channels=8", "model.head_out=64"],
    }
    small = small.get(overlay, ["model.encoder.channels=8"])
    for name in MADE_FOR[overlay]:
        path = ROOT / "configs" / f"{name}.yaml"
        config = load_config([path, find_overlay(overlay)], small, program=program_of(path))
        model, plain = (
            build_configured(c, 24 if "downstream" in name else None)
            for c in (config, load_config([path], small, program=program_of(path)))
        )
        for attribute, value in attributes.items():
            assert getattr(model, attribute) == value != getattr(plain, attribute)
        redrawn, zeros = (
            [
                bool(module.last_norm.weight.any())
                for module in network.modules()
                if hasattr(module, "last_norm")
            ]
            for network in (model, plain)
        )
        assert set(redrawn) == {overlay != "published_byol"} and set(zeros) == {False}
        if overlay == "published_dino":
            assert model.head.mlp[0].weight.std() > 2 * plain.head.mlp[0].weight.std()
            assert config.train.optimizer == "adam"
        assert name.startswith("downstream") == (config.dataset.protocol == "published")
        assert config.train.lr_update == "epoch"


def test_linear_probing_keeps_randaugment_as_published():
    st_mem = ROOT / "configs/downstream/st_mem.yaml"
    plain = load_config([st_mem], program=FinetuneConfig)
    probed = load_config([st_mem, find_overlay("linprobe")], program=FinetuneConfig)
    assert probed == replace(plain, mode="linprobe")


@pytest.mark.parametrize(
    "name, model",
    [("st_mem", "st_mem_vit_base"), ("mtae", "mtae_vit_base"), ("mlae", "mlae_vit_base")],
)
def test_the_published_settings_stand_in_the_configs(name, model):
    """Specification, published config keys and values."""
    config = load_config([ROOT / "configs" / "pretrain" / f"{name}.yaml"], program=PretrainConfig)
    assert config.model_name == f"{model}_dec256d4b" and config.model["norm_pix_loss"] is True
    data = config.dataset
    assert (data.crop, data.filters, data.standardize, data.transforms) == (
        2250,
        {"highpass": 0.67, "lowpass": 40},
        "crop",
        None,
    )
    train = config.train
    assert (train.blr, train.lr, train.min_lr, train.weight_decay) == (
        1.5e-4,
        None,
        0.0,
        0.01,
    )
    assert train.optimizer == "adamw" and train.optimizer_kwargs == {"betas": [0.9, 0.95]}
    assert config.dataloader == LoaderConfig(batch_size=16, num_workers=8, pin_memory=True)
    tuned = load_config([ROOT / "configs" / "downstream" / f"{name}.yaml"], program=FinetuneConfig)
    assert (tuned.dataset.crop, tuned.dataset.eval_crops) == (2250, 3)
    assert tuned.dataset.rand_augment == {
        "op_names": [
            "shift",
            "cutout",
            "drop",
            "flip",
            "erase",
            "sine",
            "partial_sine",
            "partial_white_noise",
        ],
        "level": 10,
        "num_layers": 2,
        "prob": 0.5,
    }
    assert (tuned.train.blr, tuned.train.weight_decay) == (1e-3, 0.05)
    assert tuned.test.target_metric == "loss"


# ============ command line ============
def parse(*words):
    parser = argument_parser("test", str(ROOT / "configs/pretrain/st_mem.yaml"), PretrainConfig)
    return config_from(parser.parse_args(list(words)), PretrainConfig)


def test_flags_win_over_set_over_overlays_over_the_config(tmp_path):
    config = parse(
        "--overlay",
        "demo",
        "--set",
        "train.epochs=7",
        "--set",
        "exp_name=from_set",
        "--exp_name",
        "from_flag",
    )
    assert config.train.epochs == 7 and config.dataset.max_records == 240
    assert config.exp_name == "from_flag"
    again = write(tmp_path, "o.yaml", "train: {epochs: 4}\n")
    assert parse("--overlay", "demo", "--overlay", str(again)).train.epochs == 4


def test_start_epoch_0_overrides():
    """The published scripts ignored it: 0 counted as not given."""
    assert parse("--set", "start_epoch=5", "--start_epoch", "0").start_epoch == 0


def test_an_experiment_may_have_a_number_for_a_name():
    assert parse("--exp_name", "2024").exp_name == "2024"


def test_help_lists_every_key_with_its_default():
    text = describe_keys(PretrainConfig)
    assert "train.blr: peak learning rate for an effective batch of 256" in text
    assert "; scales with the batch if lr is null [default null]" in text
    assert (
        "model_name: " in text
        and "[required]" in text
        and "figure_every" in text
        and "[default 10]" in text
    )
    assert "exclude_folds" in text and "exclude_folds" not in describe_keys(FinetuneConfig)


def test_the_page_of_all_keys_is_up_to_date():
    text = (ROOT / "docs/configs.md").read_text(encoding="utf-8")
    assert text == page(), "python -m util.config > docs/configs.md"


@pytest.mark.parametrize(
    "options, words",
    [
        (["model.num_leads=6"], "num_leads 6 does not fit the leads"),
        (["dataset.lead=lead2", "model.num_leads=6"], "num_leads"),
        (["model.sequence=3"], "does not take sequence"),
        (["model_name=st_mem_vit_bass_dec256d4b"], "did you mean"),
        (["model.seq_len=2260"], "multiple of patch_size"),
        (["model.mask_ratio=0"], "mask_ratio 0 keeps 30 of 30"),
        (["model.seq_len=abc"], "seq_len must be of type int, such as 2250, not 'abc'"),
        (["model.num_leads=true"], "num_leads must be of type int"),
        (["model.mask_ratio=much"], "must be of type float"),
        (["model.norm_pix_loss=1"], "norm_pix_loss must be of type bool"),
    ],
)
def test_a_wrong_model_section_is_one_clear_sentence(options, words):
    config = load_config([ROOT / "configs/pretrain/st_mem.yaml"], options, program=PretrainConfig)
    with pytest.raises(ConfigError) as error:
        check_job(config, False)
    assert words in str(error.value)


# ============ keys of one program ============
def put(path, value):
    """{"a": {"b": value}} for "a.b"."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


ONE_PROGRAM = [
    (FinetuneConfig, path)
    for path in (
        "encoder_path",
        "allow_label_overlap",
        "mode",
        "dataset.eval_transforms",
        "dataset.eval_crops",
        "dataset.eval_stride",
        "dataset.eval_crop",
        "dataset.label_fraction",
        "dataset.annotated",
        "dataset.mask_unannotated",
        "train.freeze_epochs",
        "train.head_init",
        "train.layer_decay",
        "train.layer_rates",
        "loss",
        "metric.task",
        "metric.num_labels",
        "metric.num_classes",
        "metric.target_metrics",
        "test.target_metric",
        "test.bootstrap",
        "test.report",
        "test.select_every",
    )
] + [
    (PretrainConfig, path)
    for path in (
        "dataset.exclude_folds",
        "dataset.exclude_parts",
        "train.figure_every",
        "train.probe_every",
    )
]


def test_the_list_of_keys_of_one_program():
    names = {program: {name for name, _ in walk(program)} for program in PROGRAMS.values()}
    alone = {
        (program, name)
        for program in names
        for name in names[program] - names[other_program(program)]
    }
    assert alone == set(ONE_PROGRAM)


@pytest.mark.parametrize("program, path", ONE_PROGRAM)
def test_a_key_without_effect_is_an_error_that_names_its_program(program, path):
    other = other_program(program)
    with pytest.raises(ConfigError) as error:
        load_config([], [], merge([LEAST, put(path, 1)]), program=other)
    assert f"no effect in {other.title}: {path}; that belongs to {program.title}" in str(
        error.value
    )
    with contextlib.suppress(ConfigError):  # 1 may be no value for it
        load_config([], [], merge([LEAST, put(path, 1)]), program=program)


def test_all_keys_without_effect_are_named_at_once():
    texts = ["mode=scratch", "dataset.label_fraction=0.1", "metric.task=multilabel"]
    with pytest.raises(
        ConfigError, match="mode, dataset.label_fraction, metric.task; that belongs to"
    ):
        load_config([], texts, LEAST, program=PretrainConfig)
    with pytest.raises(ConfigError, match="encoder_path.*belongs to fine-tuning"):
        parse("--encoder_path", "encoder.pth")


def test_sections_of_a_file_serve_one_program(tmp_path):
    base = write(tmp_path, "base.yaml", json.dumps(LEAST))
    both = write(
        tmp_path,
        "both.yaml",
        "train: {epochs: 5}\npretrain: {train: {epochs: 7, figure_every: 2}}\n"
        "finetune:\n  loss: bce\n",
    )
    first, second = (
        load_config([base, both], program=program) for program in (PretrainConfig, FinetuneConfig)
    )
    assert (first.train.epochs, first.train.figure_every) == (
        7,
        2,
    ) and not hasattr(first, "loss")
    assert second.train.epochs == 5 and not hasattr(second.train, "figure_every")
    with pytest.raises(ConfigError, match="the section finetune must be a mapping"):
        load_config([base, write(tmp_path, "bad.yaml", "finetune: 5\n")], program=PretrainConfig)
    with pytest.raises(ConfigError, match="unknown key 'train.epoch'; did you mean"):
        load_config(
            [base, write(tmp_path, "bad.yaml", "finetune: {train: {epoch: 5}}\n")],
            program=FinetuneConfig,
        )


def test_a_config_stored_by_an_earlier_version_still_loads():
    """Checkpoints carried the keys of both programs, and dist_eval."""
    stored = merge(
        [
            LEAST,
            {
                "mode": "finetune",
                "dataset": {"exclude_folds": []},
                "metric": {"task": "multilabel"},
                "train": {"figure_every": 1, "dist_eval": True},
            },
        ]
    )
    assert load_config([stored], program=FinetuneConfig).mode == "finetune"
    assert not hasattr(load_config([stored], program=PretrainConfig), "mode")


# ============ base ============
def test_a_file_holds_what_differs_from_its_base(tmp_path):
    write(tmp_path, "base.yaml", json.dumps({**LEAST, "seed": 4, "model": {"num_leads": 6}}))
    (tmp_path / "sub").mkdir()
    path = write(
        tmp_path / "sub",
        "own.yaml",
        "base: ../base.yaml\ntrain: {epochs: 9}\nmodel: {seq_len: 750}\n",
    )
    config = load_config([path], program=PretrainConfig)
    assert (config.seed, config.train.epochs) == (4, 9)
    assert config.model == {"num_leads": 6, "seq_len": 750}
    named = write(tmp_path, "named.yaml", "base: base.yaml\nmodel_name: gru\nmodel: {width: 8}\n")
    assert load_config([named], program=PretrainConfig).model == {"width": 8}


@pytest.mark.parametrize(
    "text, words",
    [
        ("base: own.yaml\n", "has a base itself"),
        ("base: child.yaml\n", "has a base itself"),
        ("base: none.yaml\n", "cannot read the config .*none.yaml"),
        ("base: [a]\n", "base must be the name"),
        ("base: {a: 1}\n", "base must be the name"),
    ],
)
def test_a_base_has_no_base_and_must_be_there(tmp_path, text, words):
    write(tmp_path, "base.yaml", json.dumps(LEAST))
    write(tmp_path, "child.yaml", "base: base.yaml\n")
    with pytest.raises(ConfigError, match=words):
        load_config([write(tmp_path, "own.yaml", text)], program=PretrainConfig)


def test_no_config_repeats_a_default_or_its_base():
    def repeated(own, below, prefix=""):
        for name, value in own.items():
            if isinstance(value, dict) and isinstance(below.get(name), dict):
                yield from repeated(value, below[name], f"{prefix}{name}.")
            elif name in below and below[name] == value:
                yield prefix + name

    least = {**LEAST, "dataset": {"crop": 1}}
    for path in [*PRETRAIN, *DOWNSTREAM]:
        own = read_yaml(path.read_text(encoding="utf-8"))
        below = (
            load_config([path.parent / own["base"]], program=program_of(path))
            if "base" in own
            else check({**least, "model_name": "none"}, program_of(path))
        )
        below = to_mapping(below)
        if "base" in own and own.get("model_name", below["model_name"]) != below["model_name"]:
            below["model"] = {}  # dropped
        assert list(repeated(own, below)) == [], path


# ============ names and their arguments ============
A = {"model_name": "a", "model": {"x": 1, "signal": {"name": "s", "width": 2}}}


@pytest.mark.parametrize(
    "layers, want",
    [
        ([A, {"model_name": "b"}], {}),  # arguments go with their name
        ([A, {"model_name": "b", "model": {"y": 2}}], {"y": 2}),
        ([A, {"model": {"y": 2}}], {**A["model"], "y": 2}),  # no name: to whatever is chosen
        ([A, {"model": {"y": 2}}, {"model_name": "b"}], {"y": 2}),
        ([A, {"model_name": "b"}, {"model": {"y": 2}}], {"y": 2}),
        (
            [A, {"model_name": "a", "model": {"y": 2}}],
            {**A["model"], "y": 2},
        ),  # the same name again merges
        ([A, {"model_name": "b", "model": {"y": 2}}, {"model_name": "a"}], A["model"]),
        ([A, {"model": {"signal": {"width": 3}}}], {"x": 1, "signal": {"name": "s", "width": 3}}),
        ([A, {"model": {"signal": {"name": "t"}}}], {"x": 1, "signal": {"name": "t"}}),
        (
            [A, {"model": {"signal": {"name": "t", "depth": 1}}}],
            {"x": 1, "signal": {"name": "t", "depth": 1}},
        ),
        (
            [A, {"model": {"signal": {"depth": 1}}}, {"model": {"signal": {"name": "t"}}}],
            {"x": 1, "signal": {"name": "t", "depth": 1}},
        ),
        ([A, {"model": {"signal": "t"}}], {"x": 1, "signal": {"name": "t"}}),  # a text is a name
        (
            [{"model_name": "a", "model": {"signal": "s"}}, {"model": {"signal": {"width": 3}}}],
            {"signal": {"name": "s", "width": 3}},
        ),
        ([A, {"model": {"signal": None}}], {"x": 1, "signal": None}),
    ],
)
def test_arguments_go_with_their_name(layers, want):
    before = copy.deepcopy(layers)
    assert merge(layers)["model"] == want if want else not merge(layers).get("model")
    assert layers == before, "the layers stay as they are"


def test_set_chooses_another_model_over_a_published_config():
    path = ROOT / "configs/downstream/st_mem.yaml"
    config = load_config([path], ["model_name=xresnet1d50"], program=FinetuneConfig)
    assert config.model == {} and config.dataset.crop == 2250
    config = load_config(
        [path], ["model.channels=4", "model_name=xresnet1d50"], program=FinetuneConfig
    )
    assert config.model == {"channels": 4}


@pytest.mark.parametrize(
    "program, name",
    [(PretrainConfig, "st_mem_vit_tiny_dec128d2b"), (FinetuneConfig, "st_mem_vit_tiny")],
)
def test_the_demo_keeps_the_overlays_crops_under_its_small_model(program, name):
    """run_demo.sh names a small model by --set; the crop's length reaches it by itself."""
    folder = {"pretrain": "pretrain", "finetune": "downstream"}[program.program]
    config = load_config(
        [ROOT / f"configs/{folder}/st_mem.yaml", find_overlay("demo"), find_overlay("short_crops")],
        [f"model_name={name}"],
        program=program,
    )
    assert config.model == {} and config.model_name == name
    model, _ = check_job(config, program is FinetuneConfig)
    assert getattr(model, "encoder", model).seq_len == 750


def test_classes_may_be_called_name():
    config = load_config(
        [LEAST],
        ["dataset.classes={name: ['1'], b: ['2']}", "dataset.classes={name: ['3']}"],
        program=FinetuneConfig,
    )
    assert config.dataset.classes == {"name": ["3"], "b": ["2"]}


# ============ published files ============
PUBLISHED = """
seed: 0
output_dir: null
exp_name: null
resume: null
start_epoch: 0
encoder_path: null
model_name: st_mem_vit_base
mode: scratch
device: cuda
model: {seq_len: 2250, patch_size: 75, num_leads: 12, num_classes: 24}
dataset:
  lead: 12lead
  fs: 250
  train_transforms: [{random_crop: {crop_length: 2250}}]
  valid_transforms: [{n_crop: {crop_length: 2250, num_segments: 3}}]
  rand_augment: {use: true, kwargs: {op_names: [shift, cutout], level: 10, num_layers: 2, prob: 0.5}}
dataloader: {batch_size: 16, num_workers: 8, pin_memory: true}
train: {epochs: 10, accum_iter: 1, warmup_epochs: 3, min_lr: 0.0, blr: 1.e-3, lr: null, weight_decay: 0.05,
        dist_eval: true, use_amp: false, max_norm: null, optimizer: adamw, optimizer_kwargs: {betas: [0.9, 0.95]}}
loss: {name: bce}
metric: {task: multilabel, num_labels: 24, target_metrics: [Accuracy, F1Score: {average: macro}]}
test: {target_metric: loss}
"""


def test_a_published_file_is_translated_where_that_is_exact_and_says_so(tmp_path, capsys):
    config = load_config([write(tmp_path, "published.yaml", PUBLISHED)], program=FinetuneConfig)
    assert (config.resume, config.exp_name, config.encoder_path) == ("", "", "")
    assert config.output_dir == "./output" and config.loss == "bce" and config.train.amp == "none"
    assert (config.dataset.crop, config.dataset.eval_crops) == (2250, 3)
    assert config.dataset.transforms is None and config.dataset.eval_transforms is None
    assert config.dataset.rand_augment == {
        "op_names": ["shift", "cutout"],
        "level": 10,
        "num_layers": 2,
        "prob": 0.5,
    }
    note = capsys.readouterr().out
    assert note.count("note: ") == 1 and "published.yaml" in note
    for words in (
        "train.dist_eval is left out: evaluation is always shared out",
        "loss is read as loss: 'bce'",
        "resume is read as resume: ''",
        "dataset.train_transforms is read as dataset.transforms",
        "train.use_amp is read as train.amp: 'none'",
    ):
        assert words in note
    check_job(config, True)


def test_one_message_names_every_key_that_moved(tmp_path):
    more = PUBLISHED.replace(
        "  lead: 12lead",
        "  lead: 12lead\n  train_csv: a\n  valid_csv: b\n  ecg_dir: c\n"
        "  label_col: d\n  transforms: []",
    )
    path = write(tmp_path, "published.yaml", more + "ddp: {world_size: 1}\n")
    with pytest.raises(ConfigError) as error:
        load_config([path], program=FinetuneConfig)
    text = str(error.value)
    assert "instead of ddp write --gpus" in text
    assert "dataset.train_csv, dataset.valid_csv write dataset.store" in text
    assert "dataset.ecg_dir" in text and "dataset.label_col" in text and "published.yaml" in text
    assert "instead of dataset.train_transforms write dataset.transforms" in text, "both are there"


@pytest.mark.parametrize(
    "override, words",
    [
        ("loss={name: bce, weight: 2}", "loss must be text"),
        ("dataset.rand_augment={use: false}", None),
        ("train.use_amp=maybe", "instead of train.use_amp write train.amp"),
        ("train.use_amp=true", None),
        ("model.encoder_args.channels=4", "write model.encoder: {name: ..., argument: value}"),
        ("use_amp=true", "instead of use_amp write train.amp"),
        ("train.dist_eval=false", None),
    ],
)
def test_published_keys_by_set(override, words):
    with pytest.raises(ConfigError, match=words) if words else contextlib.nullcontext():
        config = load_config(
            [LEAST], ["dataset.rand_augment={level: 5}", override], program=FinetuneConfig
        )
        assert config.train.amp == "auto"
        if "use: false" in override:
            assert config.dataset.rand_augment is None


# ============ kinds ============
@pytest.mark.parametrize(
    "value, kinds, want",
    [
        (True, (int,), False),
        (True, (bool,), True),
        (1, (bool,), False),
        (1, (int,), True),
        (1, (float,), True),
        (1.0, (int,), False),
        (None, (int, None), True),
        (None, (int, type(None)), True),
        (None, (int,), False),
        ("a", (str, list), True),
        ([], (str, list), True),
        (True, (float,), False),
        (object(), (), False),
    ],
)
def test_a_bool_is_no_number_and_a_whole_number_may_stand_for_a_float(value, kinds, want):
    assert fits(value, kinds) is want


# ============ crops said once ============
FILTERED = [
    {"highpass_filter": {"fs": 250, "cutoff": 0.67}},
    {"lowpass_filter": {"fs": 250, "cutoff": 40}},
    {"standardize": {"axis": [-1, -2]}},
]
LISTS = {
    "transforms": [{"random_crop": {"crop_length": 2250}}, *FILTERED],
    "eval_transforms": [{"n_crop": {"crop_length": 2250, "num_segments": 3}}, *FILTERED],
}
KEYS = {
    "crop": 2250,
    "filters": {"highpass": 0.67, "lowpass": 40},
    "standardize": "crop",
    "eval_crops": 3,
}


def transforms_of(dataset):
    """What training and evaluation do to a record, by the config of this section."""
    config = check({**LEAST, "dataset": dataset}, FinetuneConfig)
    whole = []
    for cropping, pipeline in (training_transforms(config), evaluation_transforms(config)):
        steps = [(type(step).__name__, str(vars(step))) for step in pipeline.steps]
        whole.append((cropping, [name for name, _ in steps]))
        x = torch.randn(2, 12, cropping.length, generator=torch.Generator().manual_seed(0))
        whole.append(pipeline(x) if not pipeline.random_steps else steps)
    return whole


@pytest.mark.parametrize(
    "lists, keys",
    [
        (LISTS, KEYS),
        (
            {
                "transforms": [{"random_crop": {"crop_length": 250}}],
                "eval_transforms": [
                    {"moving_window_crop": {"crop_length": 250, "crop_stride": 125}}
                ],
            },
            {"crop": 250, "eval_stride": 125},
        ),
        (
            {
                "transforms": [
                    {"random_crop": {"crop_length": 250}},
                    {"standardize": {"axis": -1}},
                ],
                "eval_transforms": [
                    {"center_crop": {"crop_length": 500}},
                    {"standardize": {"axis": [-1]}},
                ],
            },
            {"crop": 250, "standardize": "lead", "eval_crop": 500},
        ),
        (
            {
                "transforms": [
                    {"random_crop": {"crop_length": 250}},
                    "standardize",
                    {"gaussian_noise": {"sigma": 0.1}},
                    "flip",
                ]
            },
            {
                "crop": 250,
                "standardize": "crop",
                "augment": [{"gaussian_noise": {"sigma": 0.1}}, "flip"],
            },
        ),
    ],
)
def test_lists_of_transforms_and_keys_are_the_same_job(lists, keys):
    by_list, by_keys = transforms_of(lists), transforms_of(keys)
    for one, other in zip(by_list, by_keys, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    config = check({**LEAST, "dataset": lists}, FinetuneConfig)
    assert config.dataset.transforms is None and config.dataset.eval_transforms is None


@pytest.mark.parametrize(
    "steps",
    [
        ["standardize", {"highpass_filter": {"cutoff": 1}}],  # another order
        [{"gaussian_noise": {"sigma": 0.1}}, "standardize"],
        [{"highpass_filter": {"cutoff": 1}}, {"highpass_filter": {"cutoff": 2}}],
        [{"standardize": {"axis": -2}}],
    ],
)
def test_a_list_that_keys_cannot_say_stays_and_counts_alone(steps):
    lists = {"transforms": [{"random_crop": {"crop_length": 250}}, *steps]}
    layers = [{**LEAST, "dataset": KEYS}, {"dataset": lists}]
    config = load_config(layers, program=FinetuneConfig)
    assert config.dataset.transforms == lists["transforms"] and config.dataset.crop is None
    cropping, pipeline = training_transforms(config)
    assert cropping.length == 250 and len(pipeline.steps) in (1, 2)
    with pytest.raises(ConfigError, match="dataset.crop has no effect beside dataset.transforms"):
        training_transforms(load_config(layers, ["dataset.crop=500"], program=FinetuneConfig))


@pytest.mark.parametrize(
    "keys, words",
    [
        (["dataset.filters={band: 1}"], "dataset.filters takes highpass, lowpass, order, fs"),
        (["dataset.filters={highpass: 0.5, fs: 500}"], "says fs 500 but dataset.fs is 250"),
        (["dataset.standardize=time"], "not one of crop, lead"),
        (["dataset.augment=[no_such]"], "unknown name 'no_such'"),
        (["dataset.eval_crops=3", "dataset.eval_stride=100"], "either dataset.eval_crops or"),
    ],
)
def test_wrong_crops_are_one_clear_sentence(keys, words):
    with pytest.raises(ConfigError, match=words):
        config = load_config([LEAST], ["dataset.crop=500", *keys], program=FinetuneConfig)
        training_transforms(config)
        evaluation_transforms(config)


def test_shorter_crops_are_one_key():
    path = ROOT / "configs/downstream/st_mem.yaml"
    config = load_config([path], ["dataset.crop=750"], program=FinetuneConfig)
    model, _ = check_job(config, True)
    assert model.seq_len == 750 and evaluation_transforms(config)[0].length == 750


@pytest.mark.parametrize(
    "words, sentences",
    [
        (
            ["--set", "train.lr=1", "--set", "train.lr=2"],
            ["--set train.lr=1: no effect, as --set train.lr=2 comes later"],
        ),
        (
            ["--set", "train={lr: 1, epochs: 3}", "--set", "train.lr=2"],
            ["--set train={lr: 1, epochs: 3}: no effect, as --set train.lr=2 comes later"],
        ),
        (
            ["--set", "exp_name=a", "--exp_name", "b"],
            ["--set exp_name=a: no effect, as a flag says exp_name: b"],
        ),
        (["--set", "train.lr=1", "--set", "train.lr=1.0", "--set", "train.epochs=2"], []),
        (["--set", "exp_name=b", "--exp_name", "b"], []),
    ],
)
def test_a_key_that_is_set_twice_is_said(words, sentences, capsys):
    parser = argument_parser("", "configs/pretrain/st_mem.yaml", PretrainConfig)
    config = config_from(parser.parse_args(words), PretrainConfig)
    said = [line for line in capsys.readouterr().out.splitlines() if "no effect, as" in line]
    assert said == sentences
    if "train.lr=2" in words:
        assert config.train.lr == 2
