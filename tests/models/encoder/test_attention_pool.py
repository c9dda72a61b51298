"""A learnt query over tokens: its formula, what learns, and where its weights come from."""

import pytest
import torch

from tests.support.tiny_jobs import CNN, DATA, with_store
from util.config.keys import FinetuneConfig
from util.config.load import check
from util.contract.registry import DataFacts, build
from util.errors import ConfigError
from util.jobs.job import SupervisedTask
from util.leads import LEADS
from util.weights.transfer import load_pretrained, save_encoder

ENCODERS = {
    "vit_tiny": {"patch_size": 75},
    "st_mem_vit_tiny": {"patch_size": 75},
    "mlae_vit_tiny": {},
    "cpc_lstm": {"channels": 12},
    "cpc_s4": {"channels": 8, "layers": 1},
}
FACTS = DataFacts(LEADS, 100, 3, 150)


def pooled(name):
    torch.manual_seed(0)
    return build("attention_pool", FACTS, encoder={"name": name, **ENCODERS[name]})


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_the_attended_mean_of_the_tokens(name):
    model = pooled(name).eval()
    x, pool = torch.randn(2, 12, 150), model.pool
    tokens = pool.norm(model.encoder.tokens(x))
    assert tokens.shape[2] == model.width == model.encoder.token_width
    query, key, value = (
        part @ weight.T + bias
        for part, weight, bias in zip(
            (pool.query.expand(2, 1, -1), tokens, tokens),
            pool.attend.in_proj_weight.chunk(3),
            pool.attend.in_proj_bias.chunk(3),
        )
    )
    heads = pool.attend.num_heads
    assert model.width % heads == 0 and 16 % heads == 0
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=3)
    joined = (weights @ v).transpose(1, 2).flatten(2)
    want = pool.attend.out_proj(joined)[:, 0]
    torch.testing.assert_close(model.forward_features(x), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_linear_probe_trains_the_query_and_leaves_the_encoder(name):
    task = SupervisedTask(pooled(name), mode="linprobe").train()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1.0)
    batch = {"signal": torch.randn(4, 12, 150), "label": torch.eye(4)[:, :3]}
    task(batch, {})["loss"].backward()
    optimizer.step()
    for key, value in task.state_dict().items():
        inside = key.startswith("classifier.encoder.")
        unmoved = torch.equal(value, before[key])
        assert unmoved == inside or "in_proj_bias" in key, key


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_come_from_the_encoder_s_own_file_and_go_back(name, tmp_path):
    torch.manual_seed(7)
    own = build({"name": name, **ENCODERS[name]}, FACTS)
    about = {"epoch": 0, "config": {}, "leads": LEADS}
    save_encoder(own, tmp_path / "own.pth", **about)
    model = pooled(name)
    said = load_pretrained(model, tmp_path / "own.pth")
    assert "encoder: loaded" in said
    state = own.state_dict()
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[key]), key
    save_encoder(model, tmp_path / "pooled.pth", **about)
    for other in (pooled(name), build({"name": name, **ENCODERS[name]}, FACTS)):
        load_pretrained(other, tmp_path / "pooled.pth")


def test_an_encoder_without_tokens_says_so(tmp_path):
    from main_finetune import finetune

    config = {
        **with_store({**CNN, "dataset": DATA}),
        "model_name": "attention_pool",
        "model": {"encoder": {"name": "xresnet1d18", "channels": 4}},
        "output_dir": str(tmp_path),
        "device": "cpu",
    }
    with pytest.raises(ConfigError, match="XResNet1d has no tokens"):
        finetune(check(config, FinetuneConfig))
