"""Names of files and folders, as a shell hands them over and as YAML has them."""

import os

import pytest

from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import load_config, load_yaml, parse_override
from util.errors import ConfigError

BASE = {"model_name": "vit_tiny", "dataset": {"crop": 100}, "train": {"epochs": 1}}


@pytest.mark.parametrize(
    "text, value",
    [
        ("/data/cohort #2", "/data/cohort #2"),
        ("#2", "#2"),
        (" a  # b # c ", "a  # b # c"),
        ("a\t#b", "a\t#b"),
        ("a#b", "a#b"),
        ("'/data/cohort #2'", "/data/cohort #2"),
        ('"a #b"', "a #b"),
        ("[a, b] # c", ["a", "b"]),
        ("{a: 'b #c'}", {"a": "b #c"}),
        ("1e-3", 1e-3),
        ("", None),
    ],
)
def test_no_comment_begins_in_plain_text(text, value):
    """The defect: YAML read a comment, and another store was trained on."""
    assert parse_override(f"dataset.store={text}") == {"dataset": {"store": value}}


def test_a_number_with_a_comment_is_no_number():
    with pytest.raises(ConfigError, match="train.epochs must be a whole number, not '5 # five'"):
        load_config([BASE], ["train.epochs=5 # five"], program=PretrainConfig)


def test_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("seed: 3\n")
    (tmp_path / "job.yaml").write_text(
        "base: ~/base.yaml\nmodel_name: vit_tiny\noutput_dir: ~/out\nencoder_path: ~/e.pth\n"
        "resume: ~/c.pth\ndataset: {crop: 100, store: ~/data, annotated: ~/map.csv}\n"
        "train: {epochs: 1}\n"
    )
    config = load_config(["~/job.yaml"], program=FinetuneConfig)
    home = str(tmp_path)
    assert config.seed == 3 and config.dataset.store == f"{home}/data"
    assert config.output_dir == f"{home}/out" and config.encoder_path == f"{home}/e.pth"
    assert config.resume == f"{home}/c.pth" and config.dataset.annotated == f"{home}/map.csv"
    config = load_config([BASE], ["dataset.store=~/data", "exp_name=~x"], program=PretrainConfig)
    assert config.dataset.store == f"{home}/data" and config.exp_name == "~x"


@pytest.mark.parametrize(
    "name, words",
    [
        (os.fsdecode(b"caf\xe9"), r"exp_name: 'caf\\udce9' is not UTF-8"),
        ("a\0b", "exp_name: .* has a zero character"),
    ],
)
def test_names_that_no_file_can_have(name, words):
    """The defect: a traceback when the name was first printed or written."""
    with pytest.raises(ConfigError, match=words):
        load_config([BASE], extra={"exp_name": name}, program=PretrainConfig)


@pytest.mark.parametrize("name", ["исследование 1", "x[1]*?", "a/b", "a=b", "2024", "a #2", "é\n"])
def test_odd_names_are_names(name):
    assert load_config([BASE], extra={"exp_name": name}, program=PretrainConfig).exp_name == name


def test_a_config_under_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.yaml")
    path.write_text("seed: 3\n")
    assert load_yaml(path) == {"seed": 3}
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_yaml(tmp_path / os.fsdecode(b"\xe9.yaml"))
