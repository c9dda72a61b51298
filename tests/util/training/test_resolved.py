"""config.yaml shows every argument of the model, and runs of earlier versions, whose configs show
those alone that were given, resume all the same.
"""

import pytest
import yaml

from main_finetune import finetune
from main_pretrain import pretrain
from tests.support.tiny_jobs import ST_MEM, VIT, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check, load_config
from util.contract.registry import DataFacts, build, complete
from util.errors import CheckpointError
from util.leads import LEADS
from util.training.resolved import data_facts, resolved
from util.weights import checkpoint

STEPS = {"epochs": 1, "warmup_epochs": 0, "steps_per_epoch": 1, "freeze_epochs": 0}
FACTS = DataFacts(LEADS[:3], 100, None, 300)


def job(folder, **more):
    config = {**with_store(VIT, **{**STEPS, **more.pop("train", {})}), "output_dir": str(folder)}
    return check({**config, "exp_name": "run", "device": "cpu", **more}, FinetuneConfig)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    finetune(job(folder))
    return folder


# ============ every argument ============
@pytest.mark.parametrize(
    "spec, expected",
    [
        ({"name": "vit_tiny"}, {"patch_size": 75, "seq_len": 300, "num_leads": 12}),
        ({"name": "vit_tiny", "seq_len": 600}, {"seq_len": 600, "drop_path_rate": 0.0}),
        ({"name": "xresnet1d18", "channels": 8}, {"channels": 8, "init": "shortcut"}),
        ({"name": "fusion"}, {"frozen": [], "gating": False}),
    ],
)
def test_defaults_and_lengths_are_filled_in(spec, expected):
    full = complete(spec, FACTS)
    assert full.items() >= expected.items()
    assert not {"leads", "fs", "num_classes"} & full.keys(), "these are keys of dataset"
    first, again = (build(each, FACTS).state_dict() for each in (spec, full))
    shapes = {name: value.shape for name, value in first.items()}
    assert shapes == {name: value.shape for name, value in again.items()}


def test_encoders_inside_models_are_filled_in_too():
    full = complete({"name": "jepa", "encoder": {"name": "mean_vit_tiny"}}, FACTS)
    assert full["encoder"]["patch_size"] == 75 and full["encoder"]["seq_len"] == 300
    assert complete({"name": "simclr"}, FACTS)["encoder"]["channels"] == 64
    assert complete({"name": "simclr", "encoder": "cpc_lstm"}, FACTS)["encoder"]["layers"] == 2


def test_config_yaml_shows_them_and_makes_the_same_model(done):
    written = yaml.safe_load((done / "run" / "config.yaml").read_text())
    assert written["model"]["drop_out_rate"] == 0.2 and written["model"]["seq_len"] == 150
    again = load_config([done / "run" / "config.yaml"], program=FinetuneConfig)
    spec = {"name": again.model_name, **again.model}
    assert complete(spec, data_facts(again)) == spec
    assert checkpoint.load(done / "run" / "best-loss.pth")["config"]["model"] == written["model"]


def test_one_fold_of_several_is_kept_by_its_number(tmp_path):
    """Also fold 0: scores of its weights would be of records that they were trained on."""
    several = job(tmp_path, dataset={**with_store(VIT)["dataset"], "fold": "all"})
    kept = [resolved(several, 0.1, fold)["dataset"]["fold"] for fold in (0, 3, None)]
    assert kept == [0, 3, "all"]


def test_a_pretraining_shows_them_too(tmp_path):
    config = with_store(ST_MEM, **STEPS)
    del config["train"]["freeze_epochs"]
    more = {"output_dir": str(tmp_path), "exp_name": "run", "device": "cpu"}
    pretrain(check({**config, **more}, PretrainConfig))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"].items() >= {"seq_len": 150, "patch_size": 75}.items()


# ============ resuming ============
def shorten(done, folder):
    """A copy of the run as an earlier version left it: with the arguments that were given."""
    (folder / "run").mkdir(parents=True)
    for name in ("config.yaml", "checkpoint-last.pth", "encoder.pth"):
        (folder / "run" / name).write_bytes((done / "run" / name).read_bytes())
    content = checkpoint.load(folder / "run" / "checkpoint-last.pth")
    content["config"]["model"] = dict(VIT["model"])
    checkpoint.save(content, folder / "run" / "checkpoint-last.pth")
    written = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    written["model"] = dict(VIT["model"])
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(written))


def test_a_run_of_an_earlier_version_resumes_and_may_be_made_again(done, tmp_path):
    shorten(done, tmp_path)
    finetune(job(tmp_path, train={"epochs": 2}, resume="auto"))
    shorten(done, tmp_path / "again")
    finetune(job(tmp_path / "again"))


def test_another_argument_of_the_model_is_still_another_job(done, tmp_path):
    shorten(done, tmp_path)
    other = {**VIT["model"], "patch_size": 50}
    with pytest.raises(CheckpointError, match="differs in model.patch_size"):
        finetune(job(tmp_path, model=other, train={"epochs": 2}, resume="auto"))


@pytest.mark.parametrize(
    "change, key",
    [
        ({"train": {"epochs": 2, "layer_decay": 0.5}}, "train.layer_decay"),
        ({"train": {"epochs": 2}, "mode": "linprobe"}, "mode"),
        ({"train": {"epochs": 2, "decay_all": True}}, "train.decay_all"),
        ({"train": {"epochs": 2, "optimizer": "sgd"}}, "train.optimizer"),
    ],
)
def test_what_divides_parameters_otherwise_is_named_by_its_key(done, change, key, tmp_path):
    """The defect: "zip() argument 2 is longer than argument 1"."""
    if key == "mode":
        change = {**change, "encoder_path": str(done / "run" / "encoder.pth")}
    last = done / "run" / "checkpoint-last.pth"
    with pytest.raises(CheckpointError, match=f"is of another job, which differs in.* {key}"):
        finetune(job(tmp_path, **change, resume=str(last)))


@pytest.mark.parametrize("before, after", [("none", "fp16"), ("fp16", "bf16"), ("bf16", "fp16")])
def test_another_number_format_has_a_new_loss_scale_and_says_so(before, after, tmp_path):
    """The defect: "the source state dict is empty"."""
    finetune(job(tmp_path, train={"amp": before}))
    finetune(job(tmp_path, train={"amp": after, "epochs": 2}, resume="auto"))
    words = "loss scale to find anew" if after == "fp16" else "loss scale is dropped"
    assert words in (tmp_path / "run" / "console.txt").read_text()
    scaler = checkpoint.load(tmp_path / "run" / "checkpoint-last.pth")["scaler"]
    assert bool(scaler) == (after == "fp16")


def test_weights_that_are_not_finite_are_not_resumed_from(done, tmp_path):
    shorten(done, tmp_path)
    path = tmp_path / "run" / "checkpoint-last.pth"
    content = checkpoint.load(path)
    content["model"]["classifier.norm.weight"][0] = float("nan")
    checkpoint.save(content, path)
    with pytest.raises(CheckpointError, match="the tensor classifier.norm.weight holds NaN"):
        finetune(job(tmp_path, train={"epochs": 2}, resume="auto"))
