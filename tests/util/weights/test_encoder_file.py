"""A file of weights knows its leads and its sampling rate: what goes by name is put in order, the
rest is an error or is said.
"""

import inspect

import pytest
import torch

from tests.support import jobs  # noqa: F401  (registers the tiny models)
from util.contract.registry import DataFacts, build, find_model
from util.errors import CheckpointError
from util.leads import LEADS
from util.weights import checkpoint
from util.weights.transfer import load_pretrained, save_encoder

SIZES = {"channels": 8, "seq_len": 150, "hidden": 8}
BY_ORDER = ["xresnet1d18", "spectrogram_se_resnet34", "cpc_lstm", "cpc_s4", "vit_tiny"]
BY_ORDER += ["mean_vit_tiny"]
BY_NAME = ["st_mem_vit_tiny", "mlae_vit_tiny"]
THREE = ("I", "II", "V5")


def make(name, leads, fs=100, seed=1, **more):
    known = inspect.signature(find_model(name)).parameters
    sizes = {key: value for key, value in SIZES.items() if key in known}
    torch.manual_seed(seed)
    return build({"name": name, **sizes, **more}, DataFacts(tuple(leads), fs, 4)).eval()


def saved(model, folder, config=None):
    for part, _ in model.standardizers():  # statistics that tell the leads apart
        part.mean.copy_(torch.arange(len(part.mean)) / 10)
        part.std.copy_(1 + torch.arange(len(part.std)) / 5)
    path = folder / "encoder.pth"
    save_encoder(model, path, epoch=0, config=config or {}, leads=model.facts.leads)
    return path


def features(model, leads):
    torch.manual_seed(0)
    ecg = {lead: torch.randn(2, 150) for lead in LEADS}
    with torch.no_grad():
        return model.forward_features(torch.stack([ecg[lead] for lead in leads], dim=1))


@pytest.mark.parametrize("name", BY_ORDER + BY_NAME)
@pytest.mark.parametrize("old, new", [(LEADS, LEADS[::-1]), (THREE, ("V5", "I", "II"))])
def test_leads_in_another_order_give_the_same_features(name, old, new, tmp_path):
    source = make(name, old)
    target = make(name, new, seed=2)
    load_pretrained(target, saved(source, tmp_path))
    assert torch.allclose(features(source, old), features(target, new), atol=1e-5)


@pytest.mark.parametrize("name", BY_ORDER)
@pytest.mark.parametrize("old, new", [(THREE, ("I", "II", "V1")), (("I",), ("II",))])
def test_other_leads_are_an_error_where_nothing_goes_by_name(name, old, new, tmp_path):
    path = saved(make(name, old), tmp_path)
    with pytest.raises(
        CheckpointError,
        match=f"encoder.pth: it was trained on the leads {', '.join(old)}, but .* takes "
        rf"{', '.join(new)}, .*dataset.lead=\[{', '.join(old)}\]",
    ):
        load_pretrained(make(name, new, seed=2), path)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_lead_whose_embedding_was_never_trained_is_named(name, tmp_path):
    path = saved(make(name, THREE), tmp_path)
    said = load_pretrained(make(name, ("V1", "II"), seed=2), path)
    assert "trained on the leads I, II, V5 alone" in said
    assert "what belongs to lead V1 has never been trained" in said
    assert "its leads I, V5 have no use here" in said
    assert "never been" not in load_pretrained(make(name, ("II",), seed=2), path)


def test_a_vit_without_one_of_the_leads_of_the_file_sees_zeros_there(tmp_path):
    source = make("vit_tiny", THREE)
    target = make("vit_tiny", ("V5", "I"), seed=2)
    assert "its leads II have no use here" in load_pretrained(target, saved(source, tmp_path))
    series = torch.randn(2, 2, 150)
    full = torch.stack([series[:, 1], torch.zeros(2, 150), series[:, 0]], dim=1)
    with torch.no_grad():
        assert torch.allclose(target.forward_features(series), source.forward_features(full))


def test_a_vit_of_few_leads_alone_goes_by_name(tmp_path):
    source = make("vit_tiny", THREE, num_leads=3)
    target = make("vit_tiny", ("V5", "I", "II"), num_leads=3, seed=2)
    load_pretrained(target, saved(source, tmp_path))
    found = features(target, ("V5", "I", "II"))
    assert torch.allclose(features(source, THREE), found, atol=1e-5)


def test_another_length_of_patches_is_never_cut_to_fit(tmp_path):
    path = saved(make("vit_tiny", LEADS, patch_size=50), tmp_path)
    with pytest.raises(CheckpointError, match="to_patch_embedding.* in the file but"):
        load_pretrained(make("vit_tiny", LEADS[::-1], patch_size=25), path)


def test_both_branches_of_a_fusion_go_by_name(tmp_path):
    branches = {
        "signal": {"name": "st_mem_vit_tiny", "seq_len": 150, "num_leads": 3},
        "spectrogram": {"name": "spectrogram_se_resnet34", "channels": 2},
    }
    source = make("fusion", THREE, **branches)
    target = make("fusion", ("V5", "I", "II"), seed=2, **branches)
    load_pretrained(target, saved(source, tmp_path))
    found = features(target, ("V5", "I", "II"))
    assert torch.allclose(features(source, THREE), found, atol=1e-5)


def test_an_encoder_that_does_not_say_what_belongs_to_a_lead_refuses_another_order(tmp_path):
    source = make("xresnet1d18", THREE)
    path = saved(source, tmp_path)
    target = make("xresnet1d18", ("II", "I", "V5"))
    type(target).lead_axes, before = property(lambda self: {}), type(target).lead_axes
    try:
        with pytest.raises(CheckpointError, match="nothing in it goes from one lead to another"):
            load_pretrained(target, path)
    finally:
        type(target).lead_axes = before


# ============ sampling rate ============
@pytest.mark.parametrize("name", ["xresnet1d18", "st_mem_vit_tiny", "cpc_lstm"])
def test_another_sampling_rate_is_an_error_that_says_how_to_go_on(name, tmp_path):
    path = saved(make(name, LEADS, fs=250), tmp_path)
    with pytest.raises(
        CheckpointError, match="trained at 250 Hz, but dataset.fs is 100 Hz.*--set dataset.fs=250"
    ):
        load_pretrained(make(name, LEADS, fs=100), path)


def test_files_that_keep_their_config_alone_are_compared_by_it(tmp_path):
    """checkpoint-last.pth and best-loss.pth, and what earlier versions wrote."""
    source = make("xresnet1d18", THREE)
    config = {"dataset": {"lead": list(THREE), "fs": 500}}
    content = checkpoint.content(source.state_dict(), config, 0)
    checkpoint.save(content, tmp_path / "best-loss.pth")
    with pytest.raises(CheckpointError, match="500 Hz"):
        load_pretrained(make("xresnet1d18", THREE), tmp_path / "best-loss.pth")
    with pytest.raises(CheckpointError, match="leads I, II, V5, but"):
        load_pretrained(make("xresnet1d18", ("I", "II", "III"), fs=500), tmp_path / "best-loss.pth")


def test_what_a_file_does_not_say_is_said(tmp_path):
    torch.save(make("xresnet1d18", LEADS).state_dict(), tmp_path / "w.pth")
    said = load_pretrained(make("xresnet1d18", LEADS), tmp_path / "w.pth")
    assert "the file does not say its leads and sampling rate" in said
