"""What every encoder and method of models/ keeps of the contracts, and how models are built."""

from pathlib import Path

import pytest
import torch

import models
from util.contract.registry import MODELS, DataFacts, build, register
from util.errors import ConfigError

ROOT = Path(models.__file__).resolve().parents[1]
PATCH_ENCODERS = {  # options, samples of a crop, its patches
    "vit_tiny": (dict(seq_len=300, patch_size=75), 225, 3),
    "mean_vit_tiny": (dict(seq_len=300, patch_size=50), 150, 3),
    "st_mem_vit_tiny": (dict(seq_len=300, patch_size=75), 225, 3),
    "mlae_vit_tiny": (dict(seq_len=100), 100, 12),
}


# ============ encoders ============
@pytest.mark.parametrize("name", PATCH_ENCODERS)
def test_a_patch_encoder_keeps_its_contract(name):
    options, samples, count = PATCH_ENCODERS[name]
    encoder = build(name, **options).eval()
    assert isinstance(encoder, models.PatchEncoder)
    assert encoder.in_time is (name != "mlae_vit_tiny")
    series = torch.randn(2, 12, samples)
    patches = encoder.patchify(series)
    assert patches.shape[-2:] == (count, encoder.patch_width)
    assert encoder.patch_count(samples) == count
    assert torch.equal(encoder.unpatchify(patches), series)
    tokens = encoder.patch_tokens(encoder.tokens(series))
    assert tokens.shape == (*patches.shape[:-1], encoder.width)
    keep = torch.arange(2).expand(*patches.shape[:-2], 2)
    kept = encoder.patch_tokens(encoder.tokens(series, keep))
    assert kept.shape == (*patches.shape[:-2], 2, encoder.width)
    table = encoder.position_table(64)
    assert table.shape == (1, encoder.pos_embedding.shape[1], 64)
    rows = encoder.patch_positions(table, count)
    assert rows.shape == (count, 64) and rows.any(dim=1).all()
    encoder.fix_positions()
    assert torch.equal(encoder.pos_embedding, encoder.position_table(encoder.width))
    assert not encoder.pos_embedding.requires_grad


@pytest.mark.parametrize("name", ["cpc_lstm", "cpc_s4"])
@pytest.mark.parametrize("samples", [40, 41])
def test_a_sequence_encoder_keeps_its_contract(name, samples):
    encoder = build(name, channels=8)
    assert isinstance(encoder, models.SequenceEncoder)
    steps = encoder.steps(torch.randn(2, 12, samples))
    assert steps.shape == (2, encoder.step_count(samples), encoder.step_width)
    assert encoder.contexts(steps).shape == steps.shape


@pytest.mark.parametrize(
    "name, options",
    [
        ("vit_tiny", {}),
        ("st_mem_vit_tiny", {}),
        ("xresnet1d18", {"channels": 4}),
        ("cpc_lstm", {"channels": 4}),
        ("fusion", {"gating": True, "three_head": True, "signal": {"name": "xresnet1d18"}}),
    ],
)
def test_fresh_parts_are_at_level_0(name, options):
    encoder = build(name, num_classes=3, **options)
    names = [key for key, _ in encoder.named_parameters()]
    fresh = [key for key in names if key.partition(".")[0] in encoder.fresh_parts]
    assert fresh and {encoder.level_of(key) for key in fresh} == {0}
    assert max(encoder.level_of(key) for key in names) > 0


def test_models_and_contracts_leave_collectives_to_processes():
    """One place knows how many processes there are."""
    for folder in ("models", "util/contract"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "torch.distributed" not in path.read_text("utf-8"), path


# ============ registry ============
@pytest.fixture
def listed():
    """A factory whose argument is annotated as a list."""

    def listed_argument(parts: list[str] = (), share: float | None = None):
        return torch.nn.Linear(len(parts) or 1, 1)

    register(listed_argument)
    yield "listed_argument"
    del MODELS["listed_argument"]


def test_an_argument_annotated_as_a_list_takes_a_list(listed):
    """The defect: list[str] was read as text."""
    assert build(listed, parts=["a", "b"]).in_features == 2
    with pytest.raises(ConfigError, match="share must be of type float or null"):
        build(listed, share="much")


@pytest.mark.parametrize(
    "leads, message",
    [
        (["II", "V9"], "model.leads: unknown lead V9"),
        (["II", "II"], "model.leads names a lead twice"),
    ],
)
@pytest.mark.parametrize("name", ["vit_tiny", "st_mem_vit_tiny_dec128d2b"])
def test_wrong_leads_of_a_model_are_not_blamed_on_the_data_set(name, leads, message):
    with pytest.raises(ConfigError, match=message):
        build(name, leads=leads)


def test_leads_that_contradict_the_data_are_refused():
    with pytest.raises(ConfigError, match="leads is .* but that of the dataset is"):
        build("vit_tiny", DataFacts(("II", "V1"), 250), leads=["V1", "II"])
