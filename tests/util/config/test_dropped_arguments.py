"""Arguments that are lost because a later layer names another model are said, name and value."""

import pytest

from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import load_config
from util.console import begin_job, keep_in

JEPA = "configs/pretrain/jepa.yaml"
LOST = "model.encoder.patch_size: 15 (given for mean_vit_small)"


def said(capsys, sources, overrides=(), program=PretrainConfig):
    config = load_config(sources, overrides, program=program)
    return capsys.readouterr().out, config


@pytest.mark.parametrize(
    "text", ["model.encoder.name=mean_vit_tiny", "model.encoder=mean_vit_tiny"]
)
def test_an_encoder_of_another_name(text, capsys):
    """The defect: four rows of a table ran with patches of 300 ms, not the 60 ms they stated."""
    out, config = said(capsys, [JEPA], [text])
    assert LOST in out and config.model["encoder"] == {"name": "mean_vit_tiny"}


def test_another_model_name_by_flag_or_overlay(capsys, tmp_path):
    (tmp_path / "other.yaml").write_text("model_name: simclr\n")
    for sources, texts in (([JEPA], ["model_name=simclr"]), ([JEPA, tmp_path / "other.yaml"], [])):
        out, _ = said(capsys, sources, texts)
        assert "model.encoder: {name: mean_vit_small, patch_size: 15} (given for jepa)" in out
        assert "model.context: 0.2 (given for jepa)" in out


def test_an_encoder_of_another_name_over_a_base(capsys, tmp_path):
    inner = "model: {encoder: {name: mean_vit_small, patch_size: 15}}\ndataset: {crop: 150}\n"
    (tmp_path / "base.yaml").write_text(f"model_name: jepa\n{inner}train: {{epochs: 1}}\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nmodel: {encoder: {name: vit_tiny}}\n")
    assert LOST in said(capsys, [tmp_path / "mine.yaml"])[0]


def test_a_branch_of_a_fusion(capsys, tmp_path):
    text = "model_name: fusion\nmodel: {signal: {name: xresnet1d50, channels: 8}, gating: true}\n"
    (tmp_path / "a.yaml").write_text(text + "dataset: {crop: 100}\ntrain: {epochs: 1}\n")
    out, config = said(
        capsys, [tmp_path / "a.yaml"], ["model.signal.name=cpc_lstm"], FinetuneConfig
    )
    assert "model.signal.channels: 8 (given for xresnet1d50)" in out and "gating" not in out
    assert config.model == {"signal": {"name": "cpc_lstm"}, "gating": True}


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["model.encoder.patch_size=25"],
        ["model.encoder.name=mean_vit_small"],
        ["model.encoder.name=mean_vit_tiny", "model.encoder.patch_size=15"],
    ],
)
def test_nothing_is_said_where_nothing_is_lost(texts, capsys):
    assert said(capsys, [JEPA], texts)[0] == ""


def test_what_is_said_of_a_config_is_kept_with_the_first_job(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("util.console._jobs", [])
    monkeypatch.setattr("util.console._said", [])
    load_config([JEPA], ["model.encoder=mean_vit_tiny"], program=PretrainConfig)
    begin_job()
    keep_in(tmp_path)
    assert LOST in (tmp_path / "console.txt").read_text()
    begin_job()
