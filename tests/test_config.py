"""Configuration: merging, overrides, checks, and every YAML file of configs/."""
import json
from pathlib import Path

import mergedeep
import pytest
import torch

from models.contract import Encoder, Method
from util.config import (KEYS, REQUIRED, check, describe_keys, find_overlay, load_config, load_yaml, parse_override,
                         save_config)
from util.dataset import parse_classes, parse_cropping
from util.errors import ConfigError
from util.command_line import argument_parser, config_from
from util.leads import parse_leads
from util.metrics import parse_metrics
from util.optim import OPTIMIZERS, resolve_lr
from util.setup import build_configured
from util.transforms import build_pipeline

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))
DOWNSTREAM = sorted((ROOT / "configs" / "downstream").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "overlay").glob("*.yaml"))
LEAST = {"model_name": "st_mem_vit_tiny", "dataset": {"transforms": [{"random_crop": {"crop_length": 2250}}]},
         "train": {"epochs": 3}}


def _with(overrides):
    """The checked config of LEAST with ``a.b=c`` texts over it."""
    return check(mergedeep.merge({}, LEAST, *map(parse_override, overrides)))


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ============ unknown, missing, mistyped ============
@pytest.mark.parametrize("override, words", [
    ("train.epoch=3", "unknown key 'train.epoch'; did you mean train.epochs?"),
    ("dataset.leads=I", "unknown key 'dataset.leads'; did you mean dataset.lead?"),
    ("modelname=x", "unknown key 'modelname'; did you mean model_name?"),
    ("train.xyzzy=1", "unknown key 'train.xyzzy'? Known keys here: epochs, accum_iter"),
    ("train..epochs=3", "unknown key 'train.'"), ("5=3", "unknown key '5'"),
])
def test_an_unknown_key_is_named_with_the_nearest_known_one(override, words):
    with pytest.raises(ConfigError) as error:
        _with([override])
    assert words in str(error.value)


@pytest.mark.parametrize("override, words", [
    ("train.epochs=many", "train.epochs must be a whole number, not 'many'"), ("train.epochs=2.5", "train.epochs"),
    ("train.epochs=null", "train.epochs"), ("train.epochs=true", "train.epochs must be a whole number, not True"),
    ("train.lr=fast", "train.lr must be a number or null, not 'fast'"), ("train.lr=.nan", "train.lr"),
    ("train.lr=.inf", "train.lr"), ("train.lr=[1]", "train.lr"), ("train.lr=true", "train.lr"),
    ("train.compile=1", "train.compile must be true or false, not 1"), ("train.compile=maybe", "train.compile"),
    ("exp_name=5", "exp_name must be text"), ("dataset.transforms=standardize", "dataset.transforms must be a list"),
    ("model=[1]", "model must be a mapping"), ("train=5", "train must be a mapping of keys, not 5"),
    ("mode=fine", "mode: 'fine' is not one of finetune, linprobe, scratch"),
    ("train.amp=fp32", "not one of auto, bf16"),
    ("train.matmul_precision=low", "not one of highest"), ("dataset.fold=null", "dataset.fold must be"),
    ("seed=-1", "seed must be between 0 and"),
    ("dataloader.batch_size=0", "dataloader.batch_size must be 1 or more, not 0"),
    ("dataloader.num_workers=-1", "dataloader.num_workers"),
    ("train.accum_iter=0", "train.accum_iter must be 1 or more"),
    ("train.figure_every=0", "train.figure_every"), ("train.keep_every=0", "train.keep_every"),
    ("train.epochs=0", "train.epochs must be 1 or more"), ("train.log_every=0", "train.log_every"),
    ("dataset.label_fraction=1.5", "dataset.label_fraction must be between 0 and 1, not 1.5"),
    ("dataset.max_records=0", "dataset.max_records"), ("train.warmup_epochs=-1", "train.warmup_epochs"),
    ("train.steps_per_epoch=0", "train.steps_per_epoch"), ("train.lr=-1e-3", "train.lr must be 0 or more"),
])
def test_a_wrong_type_or_value_is_one_clear_sentence(override, words):
    with pytest.raises(ConfigError) as error:
        _with([override])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["model_name", "dataset", "train"])
def test_a_required_key_that_is_missing_is_named_with_its_meaning(missing):
    name = {"dataset": "dataset.transforms", "train": "train.epochs"}.get(missing, missing)
    with pytest.raises(ConfigError, match=f"lacks the key '{name}': "):
        check({key: value for key, value in LEAST.items() if key != missing})


def test_defaults_are_filled_in_and_are_nobodys_but_ones_own():
    config = check(LEAST)
    assert config["dataloader"] == {"batch_size": 16, "num_workers": 8, "pin_memory": True}
    assert config["seed"] == 0 and config["dataset"]["fs"] == 250 and config["model"] == {}
    config["dataset"]["exclude_folds"].append(3)
    config["model"]["x"] = 1
    config["metric"]["target_metrics"].append("F1Score")
    again = check(LEAST)
    assert again["dataset"]["exclude_folds"] == [] and again["model"] == {}
    assert again["metric"]["target_metrics"] == ["AUROC"]


def test_every_default_is_allowed_by_its_own_rule():
    def walk(keys):
        for spec in keys.values():
            if isinstance(spec, dict):
                yield from walk(spec)
            else:
                yield spec
    for spec in walk(KEYS):
        assert spec.help and (spec.default is REQUIRED or spec.default is None and None in spec.types
                              or isinstance(spec.default, tuple(t for t in spec.types if t)))
        assert not spec.choices or spec.default in spec.choices
        assert not isinstance(spec.default, (int, float)) or spec.least <= spec.default <= spec.most


# ============ numbers ============
@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'1e-3'", "1E-3", "+1e-03"])
def test_1e_3_is_a_number_however_it_is_written(text):
    """YAML 1.1 reads 1e-3 as text."""
    assert _with([f"train.blr={text}"])["train"]["blr"] == 0.001


def test_numbers_among_a_models_own_arguments_are_numbers_too():
    assert _with(["model.mask_ratio=5e-1"])["model"]["mask_ratio"] == 0.5
    assert _with(["train.optimizer_kwargs={eps: 1e-8}"])["train"]["optimizer_kwargs"] == {"eps": 1e-8}


def test_whole_numbers_become_floats_where_floats_are_due():
    value = _with(["train.warmup_epochs=5"])["train"]["warmup_epochs"]
    assert value == 5 and isinstance(value, float)
    assert _with(["train.lr=null"])["train"]["lr"] is None


# ============ merging ============
def test_files_are_merged_left_to_right_then_overrides_then_flags(tmp_path):
    base = write(tmp_path, "base.yaml", json.dumps(LEAST))
    first = write(tmp_path, "first.yaml", "train: {epochs: 10, lr: 1e-3}\nseed: 1\nmodel: {num_leads: 6}\n")
    second = write(tmp_path, "second.yaml", "train: {epochs: 20}\nseed: 2\n")
    config = load_config([base, first, second], ["train.epochs=30", "model.patch_size=50"], {"exp_name": "x"})
    assert config["train"]["epochs"] == 30 and config["train"]["lr"] == 0.001 and config["seed"] == 2
    assert config["model"] == {"num_leads": 6, "patch_size": 50} and config["exp_name"] == "x"
    assert load_config([base, second, first])["train"]["epochs"] == 10
    assert load_config([base], ["seed=3"], {"seed": 4})["seed"] == 4
    assert load_config([base], ["seed=3", "seed=5"])["seed"] == 5


def test_lists_are_replaced_not_merged(tmp_path):
    base = write(tmp_path, "base.yaml", json.dumps({**LEAST, "dataset": {**LEAST["dataset"], "exclude_folds": [1, 2]}}))
    assert load_config([base], ["dataset.exclude_folds=[7]"])["dataset"]["exclude_folds"] == [7]
    assert load_config([base], ["dataset.exclude_folds=[]"])["dataset"]["exclude_folds"] == []


@pytest.mark.parametrize("text, want", [
    ("train.lr=1e-3", {"train": {"lr": 0.001}}), ("seed=5", {"seed": 5}), ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
    ("dataset.lead=[II, V1]", {"dataset": {"lead": ["II", "V1"]}}), ("train.lr=null", {"train": {"lr": None}}),
    ("train.lr=", {"train": {"lr": None}}), ("exp_name=a=b", {"exp_name": "a=b"}),
    ("train.compile=true", {"train": {"compile": True}}),
    ("model={signal: {channels: 16}}", {"model": {"signal": {"channels": 16}}}), (" seed =5", {"seed": 5}),
    ("dataset.store=/data/my store", {"dataset": {"store": "/data/my store"}}),
])
def test_overrides_are_read_as_yaml(text, want):
    assert parse_override(text) == want


@pytest.mark.parametrize("text, words", [("train.epochs", "write key=value"), ("=5", "write key=value"),
                                         ("seed=[1", "not valid YAML"), ("seed={a: 1, a: 2}", "not valid YAML")])
def test_overrides_that_cannot_be_read_are_config_errors(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_override(text)


# ============ files ============
@pytest.mark.parametrize("text, words", [
    ("train: {epochs: 3", "is not valid YAML"), ("- a\n- b\n", "must hold a mapping of keys, not list"),
    ("text", "mapping"),
    ("seed: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ("train:\n  epochs: 3\ntrain:\n  lr: 1\n", "the key 'train' is given twice"),
    ("a: \x00", "is not valid YAML"), ("{" * 2000, "is not valid YAML"),
])
def test_files_that_are_no_config_are_config_errors(tmp_path, text, words):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(ConfigError) as error:
        load_config([path])
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
    with pytest.raises(ConfigError, match="nowhere"):
        load_yaml(find_overlay("nowhere"))


# ============ saving ============
def test_a_saved_config_fed_back_is_the_same(tmp_path):
    config = _with(["train.lr=1e-7", "exp_name='1e5'", "dataset.classes={a: ['164889003'], b: [426783006]}", "seed=3",
                    "dataset.lead=[II, aVR]", "output_dir='yes'", "resume='null'",
                    "train.optimizer_kwargs={betas: [0.9, 0.95]}"])
    save_config(config, tmp_path / "config.yaml")
    again = load_config([tmp_path / "config.yaml"])
    assert again == config and again["exp_name"] == "1e5" and again["output_dir"] == "yes"
    save_config(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "config.yaml").read_bytes()


@pytest.mark.parametrize("path", [*PRETRAIN, *DOWNSTREAM], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_survives_saving(path, tmp_path):
    config = load_config([path])
    save_config(config, tmp_path / "config.yaml")
    assert load_config([tmp_path / "config.yaml"]) == config


# ============ the configs of this project ============
def check_job(config, downstream):
    """What a job looks at before it starts: transforms, leads, classes, metrics, learning rate, the model itself."""
    data = config["dataset"]
    cropping = parse_cropping(data["transforms"], "dataset.transforms")
    build_pipeline(data["transforms"], length=cropping.length, fs=data["fs"], rand_augment=data["rand_augment"])
    if data["eval_transforms"]:
        evaluation = parse_cropping(data["eval_transforms"], "dataset.eval_transforms")
        build_pipeline(data["eval_transforms"], length=evaluation.length, fs=data["fs"])
    leads, classes = parse_leads(data["lead"]), parse_classes(data["classes"])
    parse_metrics(config["metric"]["target_metrics"], tuple(classes))
    assert resolve_lr(config["train"], config["dataloader"]["batch_size"], 1) > 0
    assert config["train"]["optimizer"] in OPTIMIZERS
    with torch.device("meta"):
        model = build_configured(config, len(classes) if downstream else None)
    assert any(p.requires_grad for p in model.parameters())
    assert isinstance(model, Encoder if downstream else Method)
    return model, leads


@pytest.mark.parametrize("overlay", [None, "demo"])
@pytest.mark.parametrize("path", [*PRETRAIN, *DOWNSTREAM], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_builds_its_transforms_and_its_model(path, overlay):
    config = load_config([path, *([find_overlay(overlay)] if overlay else [])])
    check_job(config, path.parent.name == "downstream")
    if overlay == "demo":
        assert config["train"]["epochs"] <= 3 and config["dataset"]["max_records"] <= 500


MADE_FOR = {"moments": ["pretrain/simclr_signal"], "moments_dino_signal": ["pretrain/dino_signal"],
            "moments_dino_spectrogram": ["pretrain/dino_spectrogram"],
            "published_simclr": ["pretrain/simclr_signal"], "published_byol": ["pretrain/byol_signal"],
            "published_dino": ["pretrain/dino_signal", "pretrain/dino_spectrogram"],
            "published_scratch": ["downstream/signal", "downstream/spectrogram"],
            "published_fusion": ["downstream/fusion", "downstream/fusion_gated"]}   # others: ST-MEM's


@pytest.mark.parametrize("name, overlay", [(name, overlay) for overlay in OVERLAYS
                                           for name in MADE_FOR.get(overlay.stem, ["downstream/st_mem"])],
                         ids=lambda part: getattr(part, "stem", part))
def test_every_overlay_merges_over_a_config_it_is_made_for(name, overlay):
    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config([path, overlay])
    assert config != load_config([path]), "the overlay changes nothing"
    check_job(config, name.startswith("downstream"))


@pytest.mark.parametrize("overlay, attributes", [
    ("published_simclr", {"joint_views": False}),
    ("published_byol", {"joint_views": False, "momentum": (0.9, 0.9)}),
    ("published_dino", {"freeze_last_layer": 0, "momentum": (0.996, 0.996)}),
    ("published_scratch", {}), ("published_fusion", {})])
def test_a_published_overlay_turns_on_all_published_choices(overlay, attributes):
    """Point 21 of the departures: what is not the default, and reaches the model."""
    small = {"published_scratch": ["model.channels=8"],
             "published_fusion": ["model.signal.channels=8", "model.spectrogram.channels=8"],
             "published_dino": ["model.encoder.channels=8", "model.head_out=64"]}
    small = small.get(overlay, ["model.encoder.channels=8"])
    for name in MADE_FOR[overlay]:
        config = load_config([ROOT / "configs" / f"{name}.yaml", find_overlay(overlay)], small)
        model, plain = (build_configured(c, 24 if "downstream" in name else None)
                        for c in (config, load_config([ROOT / "configs" / f"{name}.yaml"], small)))
        for attribute, value in attributes.items():
            assert getattr(model, attribute) == value != getattr(plain, attribute)
        redrawn, zeros = ([bool(module.last_norm.weight.any()) for module in network.modules()
                           if hasattr(module, "last_norm")] for network in (model, plain))
        assert set(redrawn) == {overlay != "published_byol"} and set(zeros) == {False}
        if overlay == "published_dino":
            assert model.head.mlp[0].weight.std() > 2 * plain.head.mlp[0].weight.std()
            assert config["train"]["optimizer"] == "adam"
        assert name.startswith("downstream") == (config["dataset"]["protocol"] == "published")
        assert config["train"]["lr_update"] == "epoch"


def test_linear_probing_keeps_randaugment_as_published():
    st_mem = ROOT / "configs/downstream/st_mem.yaml"
    assert load_config([st_mem, find_overlay("linprobe")]) == {**load_config([st_mem]), "mode": "linprobe"}


@pytest.mark.parametrize("name, model",
                         [("st_mem", "st_mem_vit_base"), ("mtae", "mtae_vit_base"), ("mlae", "mlae_vit_base")])
def test_the_published_settings_stand_in_the_configs(name, model):
    """Specification, published config keys and values."""
    config = load_config([ROOT / "configs" / "pretrain" / f"{name}.yaml"])
    assert config["model_name"] == f"{model}_dec256d4b" and config["model"]["norm_pix_loss"] is True
    assert config["dataset"]["transforms"] == [
        {"random_crop": {"crop_length": 2250}}, {"highpass_filter": {"fs": 250, "cutoff": 0.67}},
        {"lowpass_filter": {"fs": 250, "cutoff": 40}}, {"standardize": {"axis": [-1, -2]}}]
    train = config["train"]
    assert (train["blr"], train["lr"], train["min_lr"], train["weight_decay"]) == (1.5e-4, None, 0.0, 0.01)
    assert train["optimizer"] == "adamw" and train["optimizer_kwargs"] == {"betas": [0.9, 0.95]}
    assert config["dataloader"] == {"batch_size": 16, "num_workers": 8, "pin_memory": True}
    tuned = load_config([ROOT / "configs" / "downstream" / f"{name}.yaml"])
    assert tuned["dataset"]["eval_transforms"][0] == {"n_crop": {"crop_length": 2250, "num_segments": 3}}
    assert tuned["dataset"]["rand_augment"] == {
        "op_names": ["shift", "cutout", "drop", "flip", "erase", "sine", "partial_sine", "partial_white_noise"],
        "level": 10, "num_layers": 2, "prob": 0.5}
    assert (tuned["train"]["blr"], tuned["train"]["weight_decay"]) == (1e-3, 0.05)
    assert tuned["test"]["target_metric"] == "loss"


# ============ command line ============
def parse(*words):
    return config_from(argument_parser("test", str(ROOT / "configs/pretrain/st_mem.yaml")).parse_args(list(words)))


def test_flags_win_over_set_over_overlays_over_the_config(tmp_path):
    config = parse("--overlay", "demo", "--set", "train.epochs=7", "--set", "exp_name=from_set", "--exp_name",
                   "from_flag")
    assert config["train"]["epochs"] == 7 and config["dataset"]["max_records"] == 240
    assert config["exp_name"] == "from_flag"
    again = write(tmp_path, "o.yaml", "train: {epochs: 4}\n")
    assert parse("--overlay", "demo", "--overlay", str(again))["train"]["epochs"] == 4


def test_start_epoch_0_overrides():
    """The published scripts ignored it: 0 counted as not given."""
    assert parse("--set", "start_epoch=5", "--start_epoch", "0")["start_epoch"] == 0


def test_an_experiment_may_have_a_number_for_a_name():
    assert parse("--exp_name", "2024")["exp_name"] == "2024"


def test_help_lists_every_key_with_its_default():
    text = describe_keys()
    assert "train.blr: base learning rate for an effective batch of 256 [default None]" in text
    assert "model_name: " in text and "[required]" in text


@pytest.mark.parametrize("options, words", [
    (["model.num_leads=6"], "num_leads 6 does not fit the leads"),
    (["dataset.lead=lead2", "model.num_leads=6"], "num_leads"),
    (["model.sequence=3"], "does not take sequence"), (["model_name=st_mem_vit_bass_dec256d4b"], "did you mean"),
    (["model.seq_len=2260"], "multiple of patch_size"), (["model.mask_ratio=0"], "mask_ratio 0 keeps 30 of 30"),
    (["model.seq_len=abc"], "seq_len must be of type int, such as 2250, not 'abc'"),
    (["model.num_leads=true"], "num_leads must be of type int"), (["model.mask_ratio=much"], "must be of type float"),
    (["model.norm_pix_loss=1"], "norm_pix_loss must be of type bool"),
])
def test_a_wrong_model_section_is_one_clear_sentence(options, words):
    config = load_config([ROOT / "configs/pretrain/st_mem.yaml"], options)
    with pytest.raises(ConfigError) as error:
        check_job(config, False)
    assert words in str(error.value)
