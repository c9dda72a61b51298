"""ST-MEM, MTAE, MLAE and their encoders against numbers recorded from the published code
(tests/golden).

The numbers were measured on torch 2.13 on a CPU; limits are a few times their rounding.  ``pred``
is compared element by element: dropping the lead embeddings or taking another LayerNorm eps moves
the loss by less than 1e-5.
"""

import json
from functools import lru_cache

import numpy as np
import pytest
import torch

from models.encoder.vit import SIZES
from models.methods.mae import draw_mask, kept_tokens
from tests.support import literal_mae
from tests.support.golden_models import (
    GOLDEN,
    HERE,
    arrays,
    filled,
    normal_input,
    recorded_noise,
    rule_value,
)
from util.contract.registry import build
from util.errors import ConfigError

KEYS = json.loads((HERE / "state_dict_keys.json").read_text())
PRETRAIN, ENCODERS = list(GOLDEN["pretrain_models"]), list(GOLDEN["encoders"])
LIMITS = {  # loss, pred, gradient norm (relative), logits
    "float32": (2e-6, 5e-6, 1e-4, 1e-5),
    "float64": (2e-7, 2e-6, 1e-6, 1e-6),
}


@pytest.fixture(autouse=True, scope="module")
def exact_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    pretrained.cache_clear()


# ============ models filled by the recorded rule ============
@lru_cache(maxsize=1)
def pretrained(name, dtype):
    """The filled model, after one forward pass: (model, series, output)."""
    case = GOLDEN["pretrain_forward"][name]
    model = filled(name, norm_pix_loss=False, mask_ratio=case["mask_ratio"])
    model = model.to(getattr(torch, dtype)).train()
    series = normal_input(case["input"]).to(getattr(torch, dtype))
    return model, series, model({"signal": series}, {"noise": recorded_noise(name)["noise"]})


def test_the_fill_rule_is_the_recorded_one():
    for name, sample in GOLDEN["fill_rule_samples"].items():
        value = rule_value(name, sample["shape"])
        assert value.flatten()[:4].tolist() == pytest.approx(sample["first4"], abs=1e-7)
        assert value.sum().item() == pytest.approx(sample["sum"], abs=2e-3)


# ============ names, shapes, counts, tables ============
@pytest.mark.parametrize("name", KEYS)
def test_state_dict_keys_shapes_order_and_frozen_tensors(name):
    with torch.device("meta"):
        model = build(name, **({} if name.endswith("_dec256d4b") else {"num_classes": 5}))
    state = model.state_dict(keep_vars=True)
    assert [[key, list(value.shape), value.requires_grad] for key, value in state.items()] == [
        row[:3] for row in KEYS[name]
    ]
    places = {id(value): key for key, value in reversed(state.items())}
    aliases = {key: places[id(value)] for key, value in state.items() if places[id(value)] != key}
    assert aliases == {row[0]: row[3] for row in KEYS[name] if row[3]}
    facts = {**GOLDEN["pretrain_models"], **GOLDEN["encoders"]}.get(name)
    if facts:
        assert sum(p.numel() for p in model.parameters()) == facts["n_params_total"]
        assert (
            sum(p.numel() for p in model.parameters() if p.requires_grad)
            == facts["n_params_trainable"]
        )
        eps = [module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
        for value, entry in facts["layernorm_eps"].items():
            # the patch embedding's two norms are one module under two names
            assert eps.count(float(value)) == entry["count"]


@pytest.mark.parametrize("name", [name for name in KEYS if name.endswith("_dec256d4b")])
def test_position_tables_are_the_recorded_ones(name):
    model = build(name)
    family = name.split("_vit")[0]
    tables = arrays("pos_embed.npz")
    for part, table in (("enc", model.encoder.pos_embedding), ("dec", model.decoder_pos_embed)):
        np.testing.assert_allclose(
            table[0].numpy(), tables[f"{family}_{part}_w{table.shape[-1]}"], atol=2e-6
        )
        assert not table.requires_grad
    assert sorted(n for n, p in model.named_parameters() if not p.requires_grad) == [
        "decoder_pos_embed",
        "encoder.pos_embedding",
    ]


# ============ masks ============
def test_kept_tokens_follow_the_recorded_table():
    """30 tokens at ratio 0.8 keep 5, not 6: the published code truncates a rounding error (spec,
    trap 6).
    """
    for label, table in GOLDEN["pretrain_probes"]["kept_tokens_by_mask_ratio"].items():
        n = int(label.removeprefix("n="))
        for ratio, kept in table.items():
            if kept:
                assert kept_tokens(n, float(ratio)) == kept
            else:
                with pytest.raises(ConfigError, match="keeps 0 of 12"):
                    kept_tokens(n, float(ratio))


@pytest.mark.parametrize("ratio", [0, 0.99, 1, -0.5, 2])
def test_a_mask_ratio_that_keeps_or_masks_nothing_is_refused(ratio):
    """Trap 6: the published loss was NaN at mask_ratio 0."""
    with pytest.raises(ConfigError, match="mask_ratio"):
        build("st_mem_vit_tiny_dec128d2b", mask_ratio=ratio)


@pytest.mark.parametrize("name", PRETRAIN)
def test_mask_and_restoring_order_are_the_recorded_ones(name):
    recorded = recorded_noise(name)
    keep, restore, mask = draw_mask(
        recorded["noise"], GOLDEN["pretrain_forward"][name]["mask_ratio"]
    )
    assert torch.equal(restore, recorded["ids_restore"].long())
    assert torch.equal(mask, recorded["mask"].float()) and mask.dtype == torch.float32
    assert torch.equal(
        recorded["noise"].gather(-1, keep), recorded["noise"].sort(dim=-1)[0][..., : keep.shape[-1]]
    )


# ============ pre-training ============
def check_statistics(got, want, limit):
    assert list(got.shape) == want["shape"]
    got = got.detach().double()
    for value, key in ((got.mean(), "mean"), (got.std(correction=0), "std")):
        assert value.item() == pytest.approx(want[key], abs=limit)
    assert got.norm().item() == pytest.approx(want["l2"], rel=1e-6)
    assert got.flatten()[:16].tolist() == pytest.approx(want["first16"], abs=limit)


def check_forward(name, dtype):
    model, series, out = pretrained(name, dtype)
    case, limits = GOLDEN["pretrain_forward"][name][dtype], LIMITS[dtype]
    assert torch.equal(out["mask"], recorded_noise(name)["mask"].float())
    assert out["loss"].item() == pytest.approx(case["norm_pix_false"]["loss"], abs=limits[0])
    model.norm_pix_loss = True
    loss = model.loss(model.encoder.patchify(series), out["pred"], out["mask"])
    assert loss.item() == pytest.approx(case["norm_pix_true"]["loss"], abs=limits[0])
    assert str(out["loss"].dtype) == case["loss_dtype"]
    recorded = arrays("pred_float32.npz")[name].astype(np.float64)
    assert np.abs(out["pred"].detach().double().numpy() - recorded).max() < limits[1]
    check_statistics(out["pred"], case["pred"], limits[1])
    keep, _, _ = draw_mask(recorded_noise(name)["noise"], 0.75)
    with torch.no_grad():
        latent = model.encoder.tokens(series, keep)
    check_statistics(latent, case["latent"], limits[1])


def check_gradients(name, dtype, flag):
    """Norms of single gradients, of all of them together, and which tensors have none."""
    model, series, out = pretrained(name, dtype)
    case, limits = (
        GOLDEN["pretrain_forward"][name][dtype][f"norm_pix_{str(flag).lower()}"],
        LIMITS[dtype],
    )
    model.norm_pix_loss = flag
    loss = model.loss(model.encoder.patchify(series), out["pred"], out["mask"])
    assert loss.item() == pytest.approx(case["loss"], abs=limits[0])
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = dict(zip(named, torch.autograd.grad(loss, named.values(), retain_graph=True)))
    for key, value in {**case["grad_l2"], **case["grad_l2_extra"]}.items():
        assert gradients[key].double().norm().item() == pytest.approx(value, rel=limits[2]), key
    total = sum(g.double().square().sum() for g in gradients.values()).sqrt().item()
    assert total == pytest.approx(case["grad_l2_total_all_trainable"], rel=limits[2])
    assert sorted(set(dict(model.named_parameters())) - set(named)) == case["params_with_no_grad"]


@pytest.mark.parametrize("name", PRETRAIN)
def test_pretraining_equals_the_published_code_in_float32(name):
    check_forward(name, "float32")
    check_gradients(name, "float32", name != "mtae_vit_base_dec256d4b")  # the other flag: below


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAIN)
def test_gradients_of_both_losses_equal_the_published_ones_in_float32(name):
    check_gradients(name, "float32", False)
    check_gradients(name, "float32", True)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAIN)
def test_pretraining_equals_the_published_code_in_float64(name):
    check_forward(name, "float64")
    check_gradients(name, "float64", False)
    check_gradients(name, "float64", True)


@pytest.mark.parametrize("flag", [False, True])
def test_the_factory_hands_on_norm_pix_loss(flag):
    assert build("mlae_vit_tiny_dec128d2b", norm_pix_loss=flag).norm_pix_loss is flag


# ============ encoders ============
def check_encoder(name, dtype):
    case = GOLDEN["encoders"][name]
    model = filled(name, **case["constructor"]).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        features = model.forward_features(normal_input(case["input"]).to(getattr(torch, dtype)))
    logits = model.head(features)
    limit = LIMITS[dtype][3]
    np.testing.assert_allclose(
        logits.detach().double().numpy(), case[dtype]["logits"], atol=limit, rtol=0
    )
    recorded = arrays("encoder_outputs_float32.npz")[f"{name}_encoding"]
    np.testing.assert_allclose(features.double().numpy(), recorded, atol=1e-5, rtol=0)
    check_statistics(features, case[dtype]["forward_encoding"], limit)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_equal_the_published_ones_in_float32(name):
    check_encoder(name, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_equal_the_published_ones_in_float64(name):
    check_encoder(name, "float64")


def check_loaded_encoder(pair, dtype):
    """A pre-trained encoder's state dict in the downstream encoder: only the head is missing, and
    its logits.
    """
    source, target = pair.split(" -> ")
    case = GOLDEN["encoder_load"][pair]
    with torch.device("meta"):
        shapes = build(source).state_dict()
    family = source.split("_vit")[0]
    state = {}
    for name, tensor in shapes.items():
        if not name.startswith("encoder."):
            continue
        own = name.removeprefix("encoder.")
        state[own] = (
            torch.from_numpy(arrays("pos_embed.npz")[f"{family}_enc_w768"])[None]
            if own == "pos_embedding"
            else rule_value(own if own.startswith("to_patch_embedding.") else name, tensor.shape)
        )
    with torch.device("meta"):
        model = build(target, num_classes=5)
    missing, unexpected = model.load_state_dict(
        model.adapt_leads(state, None), strict=False, assign=True
    )
    assert missing == case["encoder_state_dict"]["missing"] and unexpected == []
    model.head.load_state_dict(
        {
            part: rule_value(f"head.{part}", tensor.shape)
            for part, tensor in model.head.state_dict().items()
        },
        assign=True,
    )
    model = model.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        logits = model(
            normal_input({"shape": [2, 12, 2250], "seed": 301}).to(getattr(torch, dtype))
        )
    want = case["encoder_state_dict"][
        "logits_float64"
        if dtype == "float64"
        else "logits_after_load_head_by_rule_input_seed_301_float32"
    ]
    np.testing.assert_allclose(logits.double().numpy(), want, atol=LIMITS[dtype][3], rtol=0)


@pytest.mark.parametrize("pair", GOLDEN["encoder_load"])
def test_a_pretrained_encoder_gives_the_recorded_logits(pair):
    check_loaded_encoder(pair, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("pair", GOLDEN["encoder_load"])
def test_a_pretrained_encoder_gives_the_recorded_logits_in_float64(pair):
    check_loaded_encoder(pair, "float64")


# ============ a fresh model ============
@pytest.mark.parametrize("name", ["st_mem_vit_small", "vit_small", "mlae_vit_small"])
def test_a_bare_encoder_starts_with_the_published_statistics(name):
    """Embeddings normal(1.0), positions trainable, Linear layers by PyTorch's default."""
    torch.manual_seed(0)
    model = build(name, num_classes=5)
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad
        if "embedding" in key and "to_patch" not in key:
            assert parameter.std().item() == pytest.approx(
                1, abs=5 / (2 * parameter.numel()) ** 0.5
            )
    weight = model.block3.ff.fn.net[0].weight
    assert weight.abs().max().item() == pytest.approx(weight.shape[1] ** -0.5, rel=1e-3)


@pytest.mark.parametrize("name", [n for n in KEYS if n.endswith("small_dec256d4b")])
def test_a_pretraining_model_starts_with_the_published_statistics(name):
    """Xavier-uniform weights, zero biases, LayerNorm 1 and 0, learned tokens normal(0.02)."""
    torch.manual_seed(0)
    model = build(name)
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5
            largest = module.weight.abs().max().item()
            assert 0.97 * bound < largest < 1.000001 * bound, module_name
            assert not module.bias.any()
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any()
    tokens = [
        p
        for n, p in model.named_parameters()
        if n.rpartition(".")[2] in ("mask_embedding", "sep_embedding", "cls_embedding")
        or "lead_embeddings" in n
    ]
    assert len(tokens) == (14 if name.startswith("st_mem") else 2)
    for token in tokens:
        assert token.std().item() == pytest.approx(0.02, abs=0.02 * 5 / (2 * token.numel()) ** 0.5)


# ============ other sizes: against the literal definition ============
SETTINGS = {
    "st_mem": dict(seq_len=300, patch_size=75),
    "mtae": dict(seq_len=750, patch_size=75),
    "mlae": dict(seq_len=150),
}


def literal(family, model, series, noise):
    """(pred of each record, target patches) by tests/support/literal_mae.py."""
    state, heads = model.state_dict(), model.encoder.width // 64
    rows = list(range(12))
    if family == "st_mem":
        target = series.reshape(*series.shape[:2], -1, 75)
        return [
            literal_mae.st_mem_pred(state, x, n, rows, heads) for x, n in zip(series, noise)
        ], target
    target = series
    if family == "mtae":
        target = torch.stack(
            [
                torch.stack([x[:, n * 75 : n * 75 + 75].T.flatten() for n in range(10)])
                for x in series
            ]
        )
    rows = list(range(target.shape[1]))
    return [
        literal_mae.class_token_pred(state, x, n, rows, heads) for x, n in zip(target, noise)
    ], target


@pytest.mark.parametrize(
    "size", ["tiny_dec128d2b", pytest.param("small_dec256d4b", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("family", SETTINGS)
def test_prediction_and_loss_equal_the_literal_definition(family, size):
    torch.manual_seed(1)
    model = build(f"{family}_vit_{size}", **SETTINGS[family]).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    series = torch.randn(2, 12, SETTINGS[family]["seq_len"], dtype=torch.float64)
    noise = torch.rand(
        2, *((12, 4) if family == "st_mem" else (10,) if family == "mtae" else (12,))
    )
    with torch.no_grad():
        out = model({"signal": series}, {"noise": noise})
        preds, target = literal(family, model, series, noise)
    assert torch.allclose(out["pred"], torch.stack(preds), atol=1e-10)
    for flag in (False, True):
        model.norm_pix_loss = flag
        want = literal_mae.masked_loss(target, out["pred"], out["mask"], flag)
        got = model.loss(model.encoder.patchify(series), out["pred"], out["mask"])
        assert got.item() == pytest.approx(want.item(), rel=1e-12)


def test_sizes_are_the_published_ones():
    assert SIZES["base"] == {"width": 768, "depth": 12, "heads": 12}
    assert SIZES["small"] == {"width": 384, "depth": 12, "heads": 6}
