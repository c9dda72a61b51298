"""In which keys two resolved configs differ, and which of them a resumed run may change."""

import pytest

from tests.support.configs import changed
from util.config.compare import differences
from util.config.fields import RESUMED, Key, keys_of, to_mapping
from util.config.keys import PROGRAMS, FinetuneConfig, PretrainConfig
from util.config.load import check

JOB = {
    "model_name": "xresnet1d50",
    "model": {"channels": 16, "kernel": {"size": 5}},
    "dataset": {"crop": 500, "classes": {"AF": ["164889003"], "NSR": ["426783006"]}},
    "train": {"epochs": 3, "lr": 1e-3, "optimizer_kwargs": {"betas": [0.9, 0.95]}},
}

FIXED = """
seed model_name model dataset.fs dataset.lead dataset.crop dataset.filters
dataset.standardize dataset.augment dataset.transforms dataset.rand_augment
dataset.crops_per_record dataset.databases dataset.max_records dataset.fold dataset.protocol
dataset.splits dataset.given dataset.test_database dataset.labels dataset.classes
dataset.mask_unannotated dataset.annotated dataset.label_fraction dataset.eval_crops
dataset.eval_stride dataset.eval_crop dataset.eval_transforms encoder_path mode loss
train.optimizer train.head_init train.layer_decay train.layer_rates train.decay_all metric.task
test.target_metric
"""


def keys(section, prefix=""):
    for name, spec in keys_of(section).items():
        if isinstance(spec, Key):
            yield prefix + name, spec
        else:
            yield from keys(spec, f"{prefix}{name}.")


def compare(old, **change):
    return differences(
        old, to_mapping(changed(check(JOB, FinetuneConfig), **change)), FinetuneConfig, "here"
    )


def stored():
    return to_mapping(check(JOB, FinetuneConfig))


def test_every_key_says_whether_a_resumed_run_may_change_it():
    for program in PROGRAMS.values():
        assert {spec.resumed for _, spec in keys(program)} == set(RESUMED)


@pytest.mark.parametrize(
    "name",
    FIXED.split(),
)
def test_what_makes_another_result_is_fixed(name):
    assert dict(keys(FinetuneConfig))[name].resumed == "fixed"


def test_the_dotted_names_of_what_differs():
    assert compare(stored()) == {}
    assert compare(
        stored(),
        seed=1,
        model={"channels": 16, "kernel": {"size": 7}},
        dataset={"fold": 3},
        dataloader={"num_workers": 2},
        train={"lr": 1e-2, "optimizer_kwargs": {"betas": [0.9, 0.95], "eps": 1e-6}},
    ) == {
        "seed": "fixed",
        "model.kernel.size": "fixed",
        "dataset.fold": "fixed",
        "dataloader.num_workers": "free",
        "train.lr": "unfinished",
        "train.optimizer_kwargs.eps": "unfinished",
    }


def test_the_order_of_classes_counts_and_that_of_arguments_does_not():
    classes = {"NSR": ["426783006"], "AF": ["164889003"]}
    assert compare(stored(), dataset={"classes": classes}) == {"dataset.classes": "fixed"}
    assert compare(stored(), model={"kernel": {"size": 5}, "channels": 16}) == {}


def test_a_config_of_an_earlier_version():
    """It lacks keys, has others, keys of the other program, and lists of transforms."""
    old = stored()
    for name in ("crop", "filters", "standardize", "augment", "eval_crops", "eval_stride"):
        del old["dataset"][name]
    del old["dataset"]["eval_crop"], old["dataset"]["mask_unannotated"], old["seed"]
    old["dataset"] |= {
        "transforms": [{"random_crop": {"crop_length": 500}}],
        "eval_transforms": [{"center_crop": {"crop_length": 500}}],
        "exclude_folds": [3],
    }
    old |= {"gone": 3, "loss": {"name": "bce"}}
    assert compare(old, loss="bce") == {}
    assert compare(old, loss="bce", seed=2, dataset={"crop": 250}) == {
        "seed": "fixed",
        "dataset.crop": "fixed",
    }


def test_a_config_of_the_other_program_differs():
    old = to_mapping(check({**JOB, "model_name": "dino"}, PretrainConfig))
    assert "model_name" in compare(old)
