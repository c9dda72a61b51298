"""JEPA: which patches the encoder sees, what is predicted from them, and the teacher."""

import pytest
import torch
from torch.nn import functional as F

from models.methods.jepa import draw_context, hidden_patches
from tests.support.small_store import store
from tests.support.tiny_encoder import assert_every_parameter_learns, run_step
from util.contract.registry import build
from util.errors import ConfigError
from util.keyed_random import KeyedRandom

ENCODERS = {
    "patches of all leads": {"name": "mean_vit_tiny", "seq_len": 600, "patch_size": 30},
    "patches of single leads": {"name": "st_mem_vit_tiny", "seq_len": 600, "patch_size": 30},
}


def make(encoder="patches of all leads", **arguments):
    torch.manual_seed(0)
    return build(
        "jepa",
        encoder=encoder if isinstance(encoder, dict) else ENCODERS[encoder],
        **{"block": 2, "predictor_depth": 1, **arguments},
    )


def crops(samples=3, length=600, seed=0):
    signal = torch.randn(samples, 12, length, generator=torch.Generator().manual_seed(seed))
    return {
        "signal": signal,
        "random": KeyedRandom(torch.arange(samples)),
        "progress": torch.tensor(0.25),
    }


# ============ context ============
@pytest.mark.parametrize(
    "n, kept, block", [(150, 30, 10), (50, 10, 10), (20, 5, 3), (20, 8, 5), (10, 9, 1), (2, 1, 1)]
)
def test_patches_are_hidden_in_blocks_that_lie_anywhere(n, kept, block):
    """The defect: it was the patches seen that came in runs of ten."""
    keep = draw_context(KeyedRandom(torch.arange(2000)), n, kept, block)
    assert (
        keep.shape == (2000, kept)
        and (keep.diff(dim=1) > 0).all()
        and keep.min() >= 0
        and keep.max() < n
    )
    hidden = hidden_patches(keep, n)
    both = torch.cat([keep, hidden], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(n).expand(2000, n)) and (hidden.diff(dim=1) > 0).all()
    assert min(len(run) for row in hidden.tolist() for run in split(row)) == block
    assert set(keep.unique().tolist()) == set(range(n)), "some patch is never seen"
    counts = {len(split(row)) for row in hidden.tolist()}
    assert counts >= {1, min(2, (n - kept) // block)}, "always the same number of blocks"


def split(places):
    """Runs of neighbours."""
    runs = [[places[0]]]
    for before, place in zip(places, places[1:]):
        if place == before + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def test_the_first_block_is_as_likely_of_any_length():
    """As in Weimann and Conrad's code: of 12 patches, 2 seen, a block hides 5 to 10 at once, with
    the rest where that is shorter than a block; 5 and 5 are two, one time of six, and they touch
    one time of three.
    """
    keep = draw_context(KeyedRandom(torch.arange(30_000)), 12, 2, 5)
    runs = [len(split(row)) for row in hidden_patches(keep, 12).tolist()]
    assert runs.count(2) / len(runs) == pytest.approx(1 / 6 * 2 / 3, abs=0.01)
    # one block of all ten: before, between or after the two that are seen
    for first, share in ((0, 1 / 3), (10, 1 / 3)):
        one = 5 / 6 + 1 / 6 * 1 / 3
        found = (keep == torch.tensor([first, first + 1])).all(dim=1).float().mean().item()
        assert found == pytest.approx(one * share, abs=0.015)


def test_the_context_is_the_samples_own():
    model, batch = make(), crops(4)
    keep = model.draw(batch)["keep"]
    alone = {"signal": batch["signal"][2:3], "random": KeyedRandom(torch.tensor([2]))}
    assert torch.equal(model.draw(alone)["keep"], keep[2:3])


# ============ loss ============
def test_the_loss_is_that_of_predicting_one_hidden_token_after_the_other():
    """Literally: sample by sample and, for single leads, lead by lead."""
    for name in ENCODERS:
        model, batch = make(name), crops()
        with torch.no_grad():  # else each token of the teacher is standardised already
            for weight in model.teacher.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        drawn, losses = model.draw(batch), []
        for row in range(3):
            keep, series = drawn["keep"][row], batch["signal"][row : row + 1]
            hidden = [place for place in range(20) if place not in keep.tolist()]
            with torch.no_grad():
                target = model.teacher.patch_tokens(model.teacher.tokens(series))
            leads = 12 if target.ndim == 4 else 1
            shared = keep.expand(1, 12, -1) if leads == 12 else keep[None]
            context = model.encoder.patch_tokens(model.encoder.tokens(series, shared))
            for lead in range(leads):
                theirs, ours = (x[0, lead] if leads == 12 else x[0] for x in (target, context))
                predicted = model.predictor(ours[None], keep[None], torch.tensor([hidden]))[0]
                for place, guess in zip(hidden, predicted):
                    token = theirs[place]
                    token = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()
                    losses.append(F.l1_loss(guess, token))
        assert model(batch, drawn)["loss"].item() == pytest.approx(
            torch.stack(losses).mean().item(), rel=1e-4
        )


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_sees_the_context_alone_and_the_teacher_everything(name):
    model, batch = make(name), crops(2)
    drawn = model.draw(batch)
    hidden = hidden_patches(drawn["keep"], 20)
    series = batch["signal"].clone().unflatten(2, (20, 30))
    series[0, :, hidden[0]] = torch.randn(12, len(hidden[0]), 30)
    changed = {**batch, "signal": series.flatten(2)}
    seen = []
    model.predictor.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    losses = [model(given, drawn)["loss"].item() for given in (batch, changed)]
    assert torch.allclose(seen[0], seen[1], atol=1e-6) and losses[0] != pytest.approx(
        losses[1], rel=1e-4
    )


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_learns_and_the_teacher_follows(name):
    model = make(name, momentum=0.9, momentum_end=0.9)
    start = [p.detach().clone() for p in model.teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(start, model.encoder.parameters()))
    out = run_step(model, crops())
    out["loss"].backward()
    assert_every_parameter_learns(model)
    assert set(out) == {"loss", "embedding_std", "momentum"} and all(
        value.ndim == 0 for value in out.values()
    )
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    model.after_step(0.5)
    for old, fast, slow in zip(start, model.encoder.parameters(), model.teacher.parameters()):
        assert torch.allclose(slow, 0.9 * old + 0.1 * fast, atol=1e-6)
    assert model.handed_on is model.teacher
    assert model.exports == {"student": model.encoder, "teacher": model.teacher}


def test_the_spread_of_embeddings_is_zero_after_collapse():
    model, batch = make(), crops()
    assert run_step(model, batch)["embedding_std"].item() > 0.1
    batch["signal"] = batch["signal"][:1].expand(
        3, -1, -1
    )  # all records say the same at the same place
    assert run_step(model, batch)["embedding_std"].item() < 1e-5


def test_it_learns_to_predict_crops_that_repeat():
    model, batch = make(), crops(8)
    wave = torch.sin(torch.arange(600) / 10 * torch.linspace(0.5, 2, 8)[:, None])
    batch["signal"] = wave[:, None] * torch.linspace(-1, 1, 12)[:, None]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for number in range(40):
        out = run_step(model, {**batch, "random": KeyedRandom(torch.arange(8) + 100 * number)})
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.after_step(number / 40)
        losses.append(out["loss"].item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5]) and out["embedding_std"].item() > 0.1


# ============ what is wrong ============
def test_what_cannot_be_predicted_is_said():
    with pytest.raises(ConfigError, match="needs an encoder of patches in time .* not XResNet1d"):
        make({"name": "xresnet1d50", "channels": 4})
    with pytest.raises(ConfigError, match="not MLAE_ViT"):
        make({"name": "mlae_vit_tiny"})
    with pytest.raises(ConfigError, match="keeps 0 of 20 patches"):
        make(context=0.01)
    with pytest.raises(ConfigError, match="context must be a number from 0 to below 1, not 1.0"):
        make(context=1.0)
    with pytest.raises(ConfigError, match="block must be a whole number of 1 or more, not 0"):
        make(block=0)
    with pytest.raises(ConfigError, match="keeps 4 of 20 patches and hides 16, .* at least 17"):
        make(block=17)
    with pytest.raises(ConfigError, match="loss must be l1 or smooth_l1, not 'l2'"):
        make(loss="l2")


def test_kims_loss_is_there_too():
    plain, smooth = make(), make(loss="smooth_l1")
    batch = crops()
    drawn = plain.draw(batch)
    assert smooth(batch, drawn)["loss"].item() < 0.9 * plain(batch, drawn)["loss"].item()


def test_the_teacher_is_what_is_handed_on(tmp_path, capsys):
    """encoder.pth, and the part of a checkpoint that is read, hold it.  The defect: they held the
    student, the authors fine-tune the teacher.
    """
    from main_finetune import finetune
    from main_pretrain import pretrain
    from util.config.keys import FinetuneConfig, PretrainConfig
    from util.config.load import check
    from util.weights.transfer import read_encoder

    transforms = [{"random_crop": {"crop_length": 150}}, {"standardize": {"axis": [-1, -2]}}]
    shared = {
        "output_dir": str(tmp_path),
        "device": "cpu",
        "dataloader": {"batch_size": 8, "num_workers": 0},
        "dataset": {"store": str(store()), "fs": 100, "transforms": transforms, "max_records": 48},
    }
    encoder = {"seq_len": 150, "patch_size": 15}
    train = {"epochs": 1, "lr": 1e-3, "warmup_epochs": 0}
    folder = pretrain(
        check(
            {
                **shared,
                "exp_name": "jepa",
                "model_name": "jepa",
                "train": train,
                "model": {"encoder": {"name": "mean_vit_tiny", **encoder}, "block": 1},
            },
            PretrainConfig,
        )
    )
    files = ("encoder.pth", "encoder-teacher.pth", "encoder-student.pth", "checkpoint-last.pth")
    names = read_encoder(folder / "encoder.pth").content["model"].keys()
    handed_on, teacher, student, saved = (
        read_encoder(folder / name).part(names).state for name in files
    )
    assert handed_on.keys() == teacher.keys() == student.keys() <= saved.keys()
    moved = [name for name in handed_on if not torch.equal(handed_on[name], student[name])]
    assert moved
    for name, tensor in handed_on.items():
        assert torch.equal(tensor, teacher[name]) and torch.equal(tensor, saved[name])
    finetune(
        check(
            {
                **shared,
                "exp_name": "tuned",
                "model_name": "mean_vit_tiny",
                "model": encoder,
                "mode": "finetune",
                "encoder_path": str(folder / "encoder.pth"),
                "train": train,
                "metric": {"target_metrics": ["AUROC"]},
                "test": {"target_metric": "loss", "bootstrap": 0},
            },
            FinetuneConfig,
        )
    )
    said = capsys.readouterr().out
    assert "encoder.pth; the head starts anew" in said and "test (best-loss.pth" in said


def test_the_teacher_starts_with_the_encoders_standardisation():
    model = make()
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    model.fit_statistics([torch.randn(4, 12, 600)])
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, model.teacher.state_dict()[name])
