"""Reconstructions: by the checkpoint beside an encoder file, at each mask ratio."""

import numpy as np
import pytest
import torch

from util.config.fields import to_mapping
from util.config.keys import PretrainConfig
from util.config.load import ROOT, load_config
from util.errors import CheckpointError, ConfigError
from util.explain.occlusion import SeenCrops
from util.explain.reconstructing import load_methods, reconstruct
from util.jobs.setup import build_configured
from util.weights import checkpoint

CPU = torch.device("cpu")
SMALL = ("dataset.crop=750", "model_name=st_mem_vit_tiny_dec128d2b")


def files(folder, name="st_mem", overrides=SMALL):
    """encoder.pth and checkpoint-last.pth of an untrained method; the former's path."""
    file = ROOT / "configs" / "pretrain" / f"{name}.yaml"
    config = load_config([file], overrides, {}, program=PretrainConfig)
    method, about = build_configured(config), to_mapping(config)
    for module, file in ((method, checkpoint.LAST), (method.encoder, "encoder.pth")):
        checkpoint.save(checkpoint.content(module.state_dict(), about, 0), folder / file)
    return folder / "encoder.pth"


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    return files(tmp_path_factory.mktemp("pretrained"))


def test_a_crop_is_rebuilt_at_each_ratio_and_always_alike(encoder_file, capsys):
    methods = load_methods(encoder_file, (0.3, 0.625), CPU)
    assert "holds no decoder" in capsys.readouterr().out
    crops = torch.randn(3, 12, 750, generator=torch.Generator().manual_seed(0))
    record = SeenCrops(crops, torch.arange(3), 752)
    found = reconstruct(methods, record, row=7)
    assert [made.name for made in found] == ["30", "62.5"]
    for made, share in zip(found, (0.3, 0.7)):  # of ten patches
        assert made.hidden.mean() == pytest.approx(share)
        np.testing.assert_array_equal(made.signal, crops[1].numpy())
        assert f"{share:.0%} hidden" in made.title
    again = reconstruct(methods, record, row=7)
    np.testing.assert_array_equal(again[0].rebuilt, found[0].rebuilt)


def test_a_checkpoint_itself_has_a_decoder(encoder_file, capsys):
    methods = load_methods(encoder_file.with_name(checkpoint.LAST), (0.5,), CPU)
    assert list(methods) == ["50"] and not capsys.readouterr().out


def test_methods_that_rebuild_nothing_have_no_pictures(tmp_path):
    small = ("model.encoder.channels=4",)
    assert not load_methods(files(tmp_path, "simclr_signal", small), (0.5,), CPU)


def test_wrong_ratios_and_a_foreign_checkpoint_are_said(encoder_file, tmp_path):
    with pytest.raises(ConfigError, match="mask_ratio 1.0 keeps 0 of 10 tokens"):
        load_methods(encoder_file, (1.0,), CPU)
    other = files(tmp_path, overrides=(*SMALL, "model.patch_size=50"))
    (tmp_path / "encoder.pth").write_bytes(encoder_file.read_bytes())
    with pytest.raises(CheckpointError, match="of another model"):
        load_methods(other, (0.5,), CPU)
