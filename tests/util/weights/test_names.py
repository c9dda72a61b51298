"""Weights as DDP, torch.compile, Lightning, DINO and others write them."""

import pytest
import torch

from tests.support import jobs  # noqa: F401  (registers the tiny models)
from util.contract.registry import build
from util.errors import CheckpointError
from util.weights.names import find_part
from util.weights.transfer import load_encoder, load_pretrained

SIZES = {"seq_len": 150, "patch_size": 75}


def encoder(seed=0):
    torch.manual_seed(seed)
    return build("vit_tiny", num_classes=3, **SIZES)


@pytest.fixture(scope="module")
def state():
    return {k: v for k, v in encoder().state_dict().items() if not k.startswith("head.")}


def loaded(content, path):
    """The sentence of a load, after which all weights are those of seed 0."""
    torch.save(content, path)
    model = encoder(seed=5)
    said = load_encoder(model, path)
    for name, value in encoder().state_dict().items():
        assert name.startswith("head.") or torch.equal(model.state_dict()[name], value), name
    return said


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "backbone.",
        "model.",
        "encoder.",
        "module._orig_mod.",
        "_orig_mod.module.model.encoder.",
        "net.base_encoder.",
    ],
)
def test_prefixes_in_any_nesting_load_and_are_said(state, prefix, tmp_path):
    said = loaded({prefix + name: value for name, value in state.items()}, tmp_path / "w.pth")
    assert "loaded 58 of 58" in said and f"begin with {prefix}" in said


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "encoder", "teacher", "model", "net"]
)
def test_wrappers_load_and_are_said(state, key, tmp_path):
    said = loaded({"epoch": 3, key: state, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    assert f"under '{key}'" in said or key == "model"


def test_wrapper_and_prefix_together_as_lightning_and_dino_write_them(state, tmp_path):
    inner = {f"model.encoder.{name}": value for name, value in state.items()}
    inner |= {"model.decoder.weight": torch.zeros(2), "criterion.pos_weight": torch.ones(3)}
    content = {"state_dict": inner, "global_step": 5, "hyper_parameters": {"lr": 0.1}}
    said = loaded(content, tmp_path / "w.pth")
    assert "under 'state_dict', whose names begin with model.encoder." in said
    deep = {"checkpoint": {"model": {f"module.{name}": value for name, value in state.items()}}}
    assert "under 'checkpoint.model'" in loaded(deep, tmp_path / "v.pth")


def test_blocks_that_were_compiled_or_wrapped_one_by_one(state, tmp_path):
    for inserted in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        content = {
            name.replace(".", f".{inserted}", 1) if name.startswith("block") else name: value
            for name, value in state.items()
        }
        assert "loaded 58 of 58" in loaded(content, tmp_path / "w.pth")


def test_of_two_that_fit_the_taken_one_and_the_other_are_said(state, tmp_path):
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    said = loaded({"student": other, "teacher": state}, tmp_path / "w.pth")
    assert "under 'teacher' (under 'student' would fit as well)" in said
    # a checkpoint of JEPA, whose teacher is what is handed on
    both = {f"encoder.{name}": value for name, value in other.items()}
    both |= {f"teacher.{name}": value for name, value in state.items()}
    assert "begin with teacher." in loaded({"model": both}, tmp_path / "v.pth")


def test_names_of_another_network_are_quoted_beside_ours(tmp_path):
    timm = {f"blocks.{i}.attn.qkv.kernel": torch.zeros(2) for i in range(4)}
    torch.save({"state_dict": timm}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load_encoder(encoder(), tmp_path / "w.pth")
    assert "0 of 58 encoder tensors match" in str(error.value)
    assert "begin with blocks.0.attn.qkv.kernel, blocks.1.attn.qkv.kernel" in str(error.value)
    assert "this model's with pos_embedding, cls_embedding" in str(error.value)


def test_half_of_an_encoder_is_still_refused(state, tmp_path):
    half = {f"module.{name}": value for name, value in [*state.items()][:30]}
    torch.save(half, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="30 of 58 .*is missing in the file"):
        load_encoder(encoder(), tmp_path / "w.pth")


def test_a_whole_fusion_that_does_not_fit_is_not_taken_for_one_of_its_branches(tmp_path):
    def fusion(channels):
        branches = {
            "signal": {"name": "xresnet1d18", "channels": 2},
            "spectrogram": {"name": "spectrogram_se_resnet34", "channels": channels},
        }
        return build("fusion", num_classes=3, **branches)

    model = fusion(2)
    whole = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": whole}, tmp_path / "w.pth")
    assert load_pretrained(fusion(2), tmp_path / "w.pth").startswith("fusion: loaded")
    with pytest.raises(CheckpointError, match="spectrogram.* in the file but"):
        load_pretrained(fusion(4), tmp_path / "w.pth")


def test_what_is_no_tensor_or_has_no_name_is_passed_over():
    part = find_part({"a": 1, "b": {0: torch.zeros(1)}, "c": {"x.w": torch.ones(1)}}, {"w"})
    assert part.state.keys() == {"w"} and part.place == "under 'c', whose names begin with x."
    assert find_part({"a": 1}, {"w"}).state == {}
