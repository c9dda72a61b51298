"""Leads by name: each lead takes its own embedding whichever leads are there, and what that must
not break.

"Defect n" is the n-th entry of the published code's defects in the specification.
"""

import pytest
import torch

from models.methods.mae import draw_mask
from tests.support import literal_mae
from tests.support.tiny_encoder import run_step
from util.contract.registry import build
from util.errors import CheckpointError, ConfigError
from util.keyed_random import KeyedRandom
from util.leads import LEADS, lead_index, parse_leads, standard_lead
from util.weights import checkpoint, transfer

ST_MEM = dict(seq_len=150, patch_size=75)  # two patches a lead
MLAE = dict(seq_len=60)
TIME = {"st_mem_vit_tiny": 150, "mlae_vit_tiny": 60, "vit_tiny": 150}
BY_NAME = ["st_mem_vit_tiny", "mlae_vit_tiny"]
OPTIONS = {"st_mem_vit_tiny": ST_MEM, "vit_tiny": ST_MEM, "mlae_vit_tiny": MLAE}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder(name, seed=0, **options):
    torch.manual_seed(seed)
    return build(name, **{**OPTIONS[name], **options}).double().eval()


def signal(leads=12, time=150, records=2, seed=1):
    return torch.randn(
        records, leads, time, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def keyed(x):
    """A batch of these crops."""
    return {"signal": x, "random": KeyedRandom(torch.arange(len(x)))}


def encoder_file(model, folder, leads=None):
    content = {"model": model.float().state_dict(), "optimizer": None}
    checkpoint.save(
        content if leads is None else {**content, "leads": leads}, folder / "encoder.pth"
    )
    model.double()
    return folder / "encoder.pth"


# ============ names ============
def test_the_published_words_and_names_in_any_case():
    assert parse_leads("12lead") == LEADS and parse_leads("limb_lead") == (
        "I",
        "II",
        "III",
        "aVR",
        "aVL",
        "aVF",
    )
    assert parse_leads("lead1") == ("I",) and parse_leads("lead2") == ("II",) == parse_leads("ii")
    assert parse_leads(["v6", "AVR", "i"]) == ("V6", "aVR", "I")
    assert lead_index(("V6", "aVR", "I")) == [11, 3, 0]
    assert standard_lead(" avl ") == "aVL" and standard_lead("V7") is None
    assert standard_lead("ECG Lead-aVR") == standard_lead("MDC_ECG_LEAD_AVR") == "aVR"
    # The defect: the sign of a lead that is turned went for one more blank
    assert not any(map(standard_lead, ("-aVR", "Lead -aVR", "ECG -aVR", "lead_-aVR")))


@pytest.mark.parametrize(
    "value, word", [("lead3", "lead3"), (["I", "V9"], "V9"), ([], "none"), (["I", "i"], "twice")]
)
def test_unknown_or_repeated_leads_are_named(value, word):
    with pytest.raises(ConfigError, match=word):
        parse_leads(value)


# ============ defect 1: lead II took lead I's embedding ============
def test_defect_1_lead_ii_alone_takes_its_own_embedding_from_a_12_lead_checkpoint(tmp_path):
    """num_leads=1 loaded lead_embeddings.0, which is lead I's."""
    big = encoder("st_mem_vit_tiny")
    path = encoder_file(big, tmp_path)
    small = encoder("st_mem_vit_tiny", seed=5, num_leads=1, leads=["II"])
    assert "loaded" in transfer.load_encoder(small, path)
    assert torch.equal(small.lead_embeddings[0], big.lead_embeddings[1])
    x = signal(1)
    want = torch.stack(
        [literal_mae.st_mem_features(big.state_dict(), record, [1], 3) for record in x]
    )
    assert torch.allclose(small.double().forward_features(x), want, atol=1e-10)
    as_lead_i = torch.stack(
        [literal_mae.st_mem_features(big.state_dict(), record, [0], 3) for record in x]
    )
    assert (want - as_lead_i).abs().max() > 1e-3  # the test can tell them apart


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize(
    "leads", [["II"], ["I"], ["V6", "aVR", "II"], list(LEADS[:6]), list(reversed(LEADS))]
)
def test_a_12_lead_checkpoint_serves_any_leads_in_any_order(name, leads, tmp_path):
    """A small encoder of these leads, a 12-lead encoder told of them, and one told at the call:
    the same features.
    """
    big = encoder(name)
    path = encoder_file(big, tmp_path)
    x = signal(12, TIME[name])[:, lead_index(leads)]
    want = big.forward_features(x, leads=leads)
    told = encoder(name, seed=5, leads=leads)
    transfer.load_encoder(told, path)
    assert torch.allclose(told.double().forward_features(x), want, atol=1e-10)
    if len(leads) < 12:
        own = encoder(name, seed=6, leads=leads, num_leads=len(leads))
        transfer.load_encoder(own, path)
        assert torch.allclose(own.double().forward_features(x), want, atol=1e-10)


@pytest.mark.parametrize("leads", [["II"], ["V6", "aVR", "II"], list(LEADS)])
def test_st_mem_features_of_named_leads_equal_the_literal_definition(leads):
    model, x = encoder("st_mem_vit_tiny"), signal(len(leads))
    want = torch.stack(
        [
            literal_mae.st_mem_features(model.state_dict(), record, lead_index(leads), 3)
            for record in x
        ]
    )
    assert torch.allclose(model.forward_features(x, leads=leads), want, atol=1e-10)


@pytest.mark.parametrize("name", [*BY_NAME, "vit_tiny"])
def test_the_order_of_the_leads_does_not_matter_when_the_names_go_along(name):
    model, x = encoder(name), signal(12, TIME[name])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = model.forward_features(x[:, order], leads=[LEADS[i] for i in order])
    assert torch.allclose(shuffled, model.forward_features(x), atol=1e-10)
    assert not torch.allclose(
        model.forward_features(x[:, order]), model.forward_features(x), atol=1e-3
    )


def test_mtae_without_a_lead_sees_zeros_in_its_place():
    model, x = encoder("vit_tiny"), signal()
    leads = ["II", "V5", "aVL"]
    full = torch.zeros_like(x)
    full[:, lead_index(leads)] = x[:, lead_index(leads)]
    told = encoder("vit_tiny", leads=leads)
    assert torch.allclose(
        told.forward_features(x[:, lead_index(leads)]), model.forward_features(full), atol=1e-12
    )


# ============ checkpoints of fewer leads ============
@pytest.mark.parametrize("name", BY_NAME)
def test_a_checkpoint_of_few_leads_serves_those_by_name(name, tmp_path):
    source = encoder(name, leads=["V2", "II"], num_leads=2)
    path = encoder_file(source, tmp_path, ["V2", "II"])
    target = encoder(name, seed=5, leads=["II"], num_leads=1)
    transfer.load_encoder(target, path)
    x = signal(1, TIME[name])
    assert torch.allclose(
        target.double().forward_features(x), source.forward_features(x, leads=["II"]), atol=1e-10
    )


@pytest.mark.parametrize("name", BY_NAME)
def test_a_lead_that_the_checkpoint_lacks_is_named(name, tmp_path):
    path = encoder_file(encoder(name, leads=["V2", "II"], num_leads=2), tmp_path, ["V2", "II"])
    with pytest.raises(CheckpointError, match=r"V2, II.*not lead I\b"):
        transfer.load_encoder(encoder(name, leads=["I"], num_leads=1), path)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_published_file_of_few_leads_holds_the_first_standard_ones(name, tmp_path):
    source = encoder(name, num_leads=6)
    target = encoder(name, seed=5, leads=["aVR"], num_leads=1)
    transfer.load_encoder(target, encoder_file(source, tmp_path))
    x = signal(1, TIME[name])
    assert torch.allclose(
        target.double().forward_features(x), source.forward_features(x, leads=["aVR"]), atol=1e-10
    )


def test_a_12_lead_encoder_trained_on_limb_leads_still_holds_all_twelve_in_order(tmp_path):
    """Its file names six leads, but has twelve embeddings."""
    source = encoder("st_mem_vit_tiny", leads=["V1", "II"])
    target = encoder("st_mem_vit_tiny", seed=5, leads=["II"], num_leads=1)
    transfer.load_encoder(target, encoder_file(source, tmp_path, ["V1", "II"]))
    assert torch.equal(target.lead_embeddings[0], source.lead_embeddings[1].float())


def test_mtae_refuses_a_checkpoint_of_other_leads(tmp_path):
    path = encoder_file(encoder("vit_tiny"), tmp_path)
    with pytest.raises(CheckpointError, match="to_patch_embedding"):
        transfer.load_encoder(encoder("vit_tiny", num_leads=1, leads=["II"]), path)


# ============ defects 2 to 4: silence about wrong inputs ============
@pytest.mark.parametrize("name", [*BY_NAME, "vit_tiny"])
@pytest.mark.parametrize("leads", [1, 6, 13])
def test_defect_2_another_number_of_leads_without_names_is_an_error(name, leads):
    """One lead was spread over all twelve embeddings."""
    with pytest.raises(ConfigError, match=f"{leads} leads but the encoder was built for 12"):
        encoder(name).forward_features(signal(leads, TIME[name]))


def test_an_unknown_lead_at_the_call_is_an_error():
    with pytest.raises(ConfigError, match="no embedding for lead V1"):
        encoder("st_mem_vit_tiny", num_leads=6).forward_features(signal(1), leads=["V1"])


@pytest.mark.parametrize(
    "options",
    [
        dict(num_leads=0),
        dict(num_leads=13),
        dict(num_leads=6, leads=["II"]),
        dict(num_leads=1, leads=["I", "II"]),
    ],
)
def test_numbers_and_names_of_leads_must_agree(options):
    with pytest.raises(ConfigError, match="num_leads"):
        encoder("st_mem_vit_tiny", **options)


def test_defect_3_mlae_positions_go_by_name_not_by_order():
    """Lead II alone took lead I's row of the position table."""
    model, x = encoder("mlae_vit_tiny"), signal(1, 60)
    state, rows = model.state_dict(), {}
    for lead in ("I", "II"):
        row = 1 + LEADS.index(lead)
        tokens = torch.stack(
            [
                state["cls_embedding"] + state["pos_embedding"][0, 0],
                literal_mae.embed(x[0, 0], state) + state["pos_embedding"][0, row],
            ]
        )
        rows[lead] = literal_mae.norm(
            literal_mae.blocks(tokens, state, "block{}", 3), state, "norm"
        )[0]
    assert torch.allclose(model.forward_features(x[:1], leads=["II"])[0], rows["II"], atol=1e-10)
    assert (rows["II"] - rows["I"]).abs().max() > 1e-3


def test_defect_3_mlae_pretraining_positions_go_by_name():
    torch.manual_seed(0)
    leads = ["V3", "II", "aVF", "I"]
    model = build("mlae_vit_tiny_dec128d2b", **MLAE, leads=leads).double()
    x, noise = signal(4, 60), torch.rand(2, 4)
    want = torch.stack(
        [
            literal_mae.class_token_pred(model.state_dict(), r, n, lead_index(leads), 3)
            for r, n in zip(x, noise)
        ]
    )
    pred = model({"signal": x}, {"noise": noise})["pred"]
    assert torch.allclose(pred, want, atol=1e-10)


def test_defect_3_mlae_refuses_patches_of_several_leads():
    with pytest.raises(ConfigError, match="patch_size"):
        build("mlae_vit_tiny_dec128d2b", patch_size=2)


@pytest.mark.parametrize("name", [*BY_NAME, "vit_tiny"])
@pytest.mark.parametrize("time", [225, 300, 149, 80, 0])
def test_defect_4_a_length_without_positions_is_an_error(name, time):
    """One patch too many took the right separator's row as its position."""
    with pytest.raises(ConfigError, match=f"{time} samples|not {time}"):
        encoder(name).forward_features(signal(12, time))
    pretraining = {"st_mem_vit_tiny": "st_mem", "vit_tiny": "mtae", "mlae_vit_tiny": "mlae"}[name]
    with pytest.raises(ConfigError, match=f"{time} samples|not {time}"):
        model = build(f"{pretraining}_vit_tiny_dec128d2b", **OPTIONS[name], mask_ratio=0.5)
        run_step(model, keyed(signal(12, time).float()))


def test_a_seq_len_that_is_no_multiple_of_the_patch_is_an_error():
    with pytest.raises(ConfigError, match="multiple of patch_size 75"):
        build("st_mem_vit_tiny", seq_len=2260)


def test_shorter_multiples_of_the_patch_run_with_their_own_positions():
    model, x = encoder("st_mem_vit_tiny"), signal(12, 75)
    want = literal_mae.st_mem_features(model.state_dict(), x[0], list(range(12)), 3)
    assert torch.allclose(model.forward_features(x)[0], want, atol=1e-10)


# ============ unused embeddings and distributed training ============
@pytest.mark.parametrize(
    "name", ["st_mem_vit_tiny", "st_mem_vit_tiny_dec128d2b", "mlae_vit_tiny", "vit_tiny"]
)
@pytest.mark.parametrize("leads", [["II"], ["V1", "V2", "II", "I"], None])
def test_every_parameter_that_wants_a_gradient_gets_one(name, leads):
    """DistributedDataParallel stops at a parameter that waits for a gradient in vain."""
    options = OPTIONS[name.removesuffix("_dec128d2b")]
    model = build(
        name,
        **options,
        leads=leads,
        **({"mask_ratio": 0.5} if "dec" in name else {"num_classes": 3}),
    )
    x = signal(len(leads or LEADS), options["seq_len"]).float()
    (run_step(model, keyed(x))["loss"] if "dec" in name else model(x).square().sum()).backward()
    waiting = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not waiting
    if "st_mem" in name:
        frozen = [
            key.rpartition(".")[2]
            for key, p in model.named_parameters()
            if "lead_embeddings" in key and not p.requires_grad
        ]
        assert frozen == [str(i) for i, lead in enumerate(LEADS) if lead not in (leads or LEADS)]


def test_frozen_lead_embeddings_start_like_the_others():
    torch.manual_seed(0)
    model = build("st_mem_vit_tiny_dec128d2b", leads=["II"])
    for embedding in model.encoder.lead_embeddings:
        assert 0.015 < embedding.std().item() < 0.025


# ============ invariants of the masked autoencoders ============
def tiny_mae(family, **options):
    torch.manual_seed(0)
    sizes = {"st_mem": dict(seq_len=300), "mtae": dict(seq_len=300), "mlae": MLAE}[family]
    return build(f"{family}_vit_tiny_dec128d2b", **sizes, **options).double()


@pytest.mark.parametrize("family, time", [("st_mem", 300), ("mtae", 300), ("mlae", 60)])
def test_patches_and_their_inverse(family, time):
    model, x = tiny_mae(family), signal(12, time)
    patches = model.encoder.patchify(x)
    assert torch.equal(model.encoder.unpatchify(patches), x)
    if family == "st_mem":
        assert torch.equal(patches[1, 5, 2], x[1, 5, 150:225])
    if family == "mtae":  # sample-major, lead fastest
        assert torch.equal(patches[1, 2, :24], torch.cat([x[1, :, 150], x[1, :, 151]]))


@pytest.mark.parametrize("leads", [LEADS[::-1], ["II", "V1", "I"]])
@pytest.mark.parametrize("family", ["st_mem", "mtae", "mlae"])
def test_what_is_rebuilt_has_the_leads_of_the_input_in_their_order(family, leads):
    """MTAE's patches have a place for each standard lead, in the standard order."""
    model = tiny_mae(family, leads=list(leads), mask_ratio=0.5)
    x = signal(len(leads), 300 if family != "mlae" else 60)
    encoder = model.encoder
    assert torch.equal(encoder.unpatchify(encoder.patchify(x)), x)
    found = model.reconstruct({"signal": x, "random": KeyedRandom(torch.arange(2))})
    assert [part.shape for part in found] == [x.shape] * 3


@pytest.mark.parametrize("family, shape", [("st_mem", (12, 4)), ("mtae", (4,)), ("mlae", (12,))])
def test_the_loss_does_not_depend_on_visible_patches(family, shape):
    """Changing the target of a visible patch changes nothing, of a masked one it does."""
    model = tiny_mae(family)
    x = signal(12, 300 if family != "mlae" else 60)
    with torch.no_grad():
        out = model({"signal": x}, {"noise": torch.rand(2, *shape)})
        target, hidden = model.encoder.patchify(x), out["mask"].bool()
        moved = target.clone()
        moved[~hidden] += torch.randn_like(moved[~hidden])
        assert model.loss(moved, out["pred"], out["mask"]) == model.loss(
            target, out["pred"], out["mask"]
        )
        moved[hidden] += torch.randn_like(moved[hidden])
        assert model.loss(moved, out["pred"], out["mask"]) != model.loss(
            target, out["pred"], out["mask"]
        )


@pytest.mark.parametrize("family, shape", [("st_mem", (12, 4)), ("mtae", (4,)), ("mlae", (12,))])
def test_the_encoder_never_sees_a_masked_patch(family, shape):
    model = tiny_mae(family)
    x = signal(12, 300 if family != "mlae" else 60)
    drawn = {"noise": torch.rand(2, *shape)}
    with torch.no_grad():
        first = model({"signal": x}, drawn)
        patches = model.encoder.patchify(x).clone()
        patches[first["mask"].bool()] = 7.0
        changed = {"signal": model.encoder.unpatchify(patches)}
        assert torch.equal(model(changed, drawn)["pred"], first["pred"])


def test_the_decoder_rebuilds_each_lead_alone():
    model = tiny_mae("st_mem")
    restore = torch.rand(2, 12, 4, dtype=torch.float64).argsort(dim=-1)
    latent = torch.randn(
        2, 12, 3, model.encoder.width, dtype=torch.float64
    )  # one kept patch and two separators
    with torch.no_grad():
        first = model.decode(latent.flatten(1, 2), restore)
        latent[:, 4] += 1
        change = (model.decode(latent.flatten(1, 2), restore) - first).abs().amax(dim=(0, 2, 3))
    assert change[4] > 1e-3 and not change[torch.arange(12) != 4].any()


def test_masks_of_leads_and_records_are_drawn_independently_with_exact_counts():
    """From the samples' own random numbers: two leads have one mask by chance alone."""
    model, x = tiny_mae("st_mem", mask_ratio=0.5), signal(12, 300, records=40)
    mask = run_step(model, keyed(x))["mask"]
    alike = (
        (mask[:, :, None] == mask[:, None]).all(dim=-1).double().mean()
    )  # a lead with itself: 1 / 12
    assert abs((12 * alike - 1) / 11 - 1 / 6) < 0.04
    assert (mask.sum(dim=-1) == 2).all()
    assert len(mask.flatten(0, 1).unique(dim=0)) == 6  # all ways to hide 2 of 4
    assert abs(mask.mean(dim=(0, 1)) - 0.5).max() < 0.1


def test_the_mask_belongs_to_the_sample_not_to_its_place_in_the_batch():
    model, keys = tiny_mae("st_mem"), torch.arange(6)
    x = signal(12, 300, records=6)
    whole = run_step(model, {"signal": x, "random": KeyedRandom(keys)})
    part = run_step(model, {"signal": x[[4, 1]], "random": KeyedRandom(keys[[4, 1]])})
    assert torch.equal(part["mask"], whole["mask"][[4, 1]])
    assert torch.allclose(part["pred"], whole["pred"][[4, 1]], atol=1e-12)


def test_equal_noise_is_ordered_alike_in_every_batch():
    """24-bit noise has ties; an unstable sort would order them by what else is in the batch."""
    noise = torch.zeros(50, 30)
    keep, restore, _ = draw_mask(noise, 0.75)
    assert (keep == torch.arange(7)).all() and (restore == torch.arange(30)).all()


@pytest.mark.parametrize("family", ["st_mem", "mtae", "mlae"])
def test_reconstruction_has_the_units_of_the_signal(family):
    """Perfect predictions of standardised patches come back as the signal itself."""
    model = tiny_mae(family)
    x = 3 * signal(12, 300 if family != "mlae" else 60) + 1
    target = model.encoder.patchify(x)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    mask = torch.zeros(target.shape[:-1], dtype=torch.float64)
    mask.flatten()[::3] = 1
    pred = (target - mean) / (variance + 1e-6).sqrt()
    model.forward = lambda batch, drawn: {"pred": pred, "mask": mask}
    seen, rebuilt, hidden = model.reconstruct(keyed(x))
    assert seen is x and torch.allclose(rebuilt, x, atol=1e-5)
    assert hidden.dtype == torch.bool and torch.equal(
        model.encoder.patchify(hidden)[..., 0].double(), mask
    )
