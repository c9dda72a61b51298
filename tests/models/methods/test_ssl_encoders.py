"""SimCLR, BYOL and DINO around the real encoders: signal branch, spectrogram branch, ST-MEM's
ViT.
"""

import pytest
import torch

from tests.support.tiny_encoder import assert_every_parameter_learns, run_step
from util.contract.registry import DataFacts, build
from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.leads import LEADS

VIT_VIEWS = [
    {
        "count": 2,
        "global": True,
        "transforms": [{"random_resized_crop": {"ratio": [0.5, 1.0], "length": 150}}],
    },
    {"count": 2, "transforms": [{"random_resized_crop": {"ratio": [0.1, 0.5], "length": 75}}]},
]
ENCODERS = {  # arguments (small), crop length, DINO's views
    "xresnet1d50": ({"channels": 16}, 250, "dino_signal"),
    "spectrogram_se_resnet34": ({"channels": 8}, 250, "dino_spectrogram"),
    "st_mem_vit_tiny": ({"seq_len": 150}, 150, VIT_VIEWS),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("method", ["simclr", "byol", "dino"])
def test_every_method_trains_every_encoder(method, encoder):
    """One optimiser step: all parameters learn, none twice; standardisation is fitted and equal
    in the slow copy.
    """
    torch.manual_seed(0)
    arguments, length, views = ENCODERS[encoder]
    extra = {"views": views, "head_out": 64} if method == "dino" else {}
    model = build(method, encoder={"name": encoder, **arguments}, head_width=32, **extra)
    signal, keys = torch.randn(2, 12, length), torch.arange(2)
    model.fit_statistics(iter([3 * signal + 1]))
    batch = {
        "signal": signal,
        "key": keys,
        "random": KeyedRandom(keys),
        "epoch": 1.0,
        "progress": 0.5,
    }
    out = run_step(model, batch)
    out["loss"].backward()
    assert all(value.ndim == 0 and value.isfinite() for value in out.values())
    assert_every_parameter_learns(model)
    assert all(part.fitted for part, _ in model.encoder.standardizers())
    slow = {"byol": "target_encoder", "dino": "teacher_encoder"}.get(method)
    if slow:
        for name in ("standardize.mean", "standardize.std"):
            if name in model.encoder.state_dict():
                assert torch.equal(
                    model.encoder.state_dict()[name], getattr(model, slow).state_dict()[name]
                )
        before = [p.clone() for p in getattr(model, slow).parameters()]
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        model.after_step(0.5)
        assert any(not torch.equal(a, b) for a, b in zip(before, getattr(model, slow).parameters()))


def test_default_models_are_the_published_ones():
    """512 features of the signal branch into each method's default head."""
    for method in ("simclr", "byol", "dino"):
        model = build(method)
        assert model.encoder.width == 512 and isinstance(model.encoder.head, torch.nn.Identity)
        assert model.views.count == (10 if method == "dino" else 2)


@pytest.mark.parametrize(
    "encoder",
    [{"name": "xresnet1d50", "channels": 16}, {"name": "st_mem_vit_tiny", "num_leads": 2}],
)
def test_an_encoder_is_built_for_the_leads_of_the_data(encoder):
    model = build("simclr", DataFacts(("II", "V1"), 100), encoder=encoder)
    assert model.encoder.forward_features(torch.randn(2, 2, 75)).shape == (2, model.encoder.width)


@pytest.mark.parametrize("method", ["simclr", "byol", "dino"])
def test_an_encoder_is_told_the_sampling_rate(method):
    """At 250 Hz a spectrogram's windows of 0.25 s have 62 samples; pre-training used to take 25,
    as at 100 Hz.
    """
    spec = {"name": method, "encoder": {"name": "spectrogram_se_resnet34", "channels": 8}}
    assert build(spec, DataFacts(LEADS, 250)).encoder.spectrogram.segment == 62
    with pytest.raises(ConfigError, match="fs is 100 but that of the dataset is 250"):
        build({**spec, "encoder": {**spec["encoder"], "fs": 100}}, DataFacts(LEADS, 250))
