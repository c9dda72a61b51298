"""What is said to train moves, what is said to be frozen stays bit for bit, and a run says both."""

import pytest
import torch
from torch import nn

from main_finetune import finetune
from main_pretrain import pretrain
from tests.support.tiny_jobs import CNN, DATA, DINO, ST_MEM, VIT, with_store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check
from util.contract.registry import MODELS
from util.errors import ECGError
from util.jobs.job import SupervisedTask
from util.training.engine import Training
from util.training.movement import digests, frozen_below

CPC = {"model_name": "cpc_lstm", "model": {"channels": 8}}
FUSION = {
    "model_name": "fusion",
    "model": {
        "signal": {"name": "xresnet1d18", "channels": 2},
        "spectrogram": {"name": "xresnet1d18", "channels": 2},
        "frozen": ["signal"],
    },
}
POOL = {"model_name": "attention_pool", "model": {"encoder": {"name": "cpc_lstm", "channels": 8}}}
DINO_FASTER = {**DINO, "train": {**DINO["train"], "lr": 1.0}}  # else by less than a bit
NETWORKS = {"cnn": CNN, "vit": VIT, "cpc": CPC, "fusion": FUSION, "pool": POOL}


def job(folder, program, config, **more):
    config = {**config, "output_dir": str(folder), "exp_name": "run", "device": "cpu", **more}
    return check(config, program)


def states_of(monkeypatch, program, config):
    """The model's tensors before the first epoch and after the last, and the model."""
    seen, epoch = [], Training.train_epoch

    def train_epoch(self, stop):
        if not seen:
            seen.append({name: t.clone() for name, t in self.model.state_dict().items()})
        result = epoch(self, stop)
        seen[1:] = [self.model]
        return result

    monkeypatch.setattr(Training, "train_epoch", train_epoch)
    (finetune if program is FinetuneConfig else pretrain)(config)
    before, model = seen
    return before, model


@pytest.mark.parametrize("mode", ["scratch", "finetune", "linprobe"])
@pytest.mark.parametrize("name", NETWORKS)
def test_of_every_network_moves_what_should_and_nothing_else(name, mode, tmp_path, monkeypatch):
    config = with_store({**CNN, **NETWORKS[name], "dataset": DATA}, freeze_epochs=0)
    path = str(tmp_path / "encoder.pth")
    if mode != "scratch":
        (start,) = finetune(job(tmp_path / "start", FinetuneConfig, config))
        (start.folder / "encoder.pth").rename(path)
    more = {"mode": mode} | ({"encoder_path": path} if mode != "scratch" else {})
    config = job(tmp_path, FinetuneConfig, config, allow_label_overlap=True, **more)
    before, model = states_of(monkeypatch, FinetuneConfig, config)
    frozen = {f"classifier.{key}" for key in model.frozen_tensors()}
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    learning = {key for key, p in model.named_parameters() if p.requires_grad}
    assert learning <= moved and not frozen & moved and not frozen & learning
    if mode == "linprobe":
        parts = model.classifier.fresh_parts.items()
        fresh = {f"classifier.{part}" for part, module in parts if [*module.parameters()]}
        assert {".".join(key.split(".")[:2]) for key in learning} == fresh
        assert {key for key in before if key not in learning} == frozen
    elif name == "fusion":
        assert any("signal" in key and "running_mean" in key for key in frozen)
    else:
        assert not frozen
    said = (tmp_path / "run" / "console.txt").read_text()
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trains {count:,} of {sum(p.numel() for p in model.parameters()):,} parameters" in said
    assert ("; frozen: encoder" in said) == (mode == "linprobe")
    assert "never got a gradient" not in said and "have not moved" not in said


@pytest.mark.parametrize("config", [ST_MEM, DINO_FASTER], ids=["st_mem", "dino"])
def test_of_methods_moves_what_should(config, tmp_path, monkeypatch):
    config = job(tmp_path, PretrainConfig, with_store(config))
    before, model = states_of(monkeypatch, PretrainConfig, config)
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    learning = {key for key, p in model.named_parameters() if p.requires_grad}
    assert learning <= moved
    fixed = {key for key in before if key.endswith(("pos_embedding", "decoder_pos_embed"))}
    assert not fixed & moved and bool(fixed) == (config.model_name != "dino")
    said = (tmp_path / "run" / "console.txt").read_text()
    assert "never got a gradient" not in said and "have not moved" not in said


def test_a_parameter_that_no_forward_pass_uses_is_named(tmp_path, monkeypatch):
    factory = MODELS["xresnet1d50"]

    def with_a_spare(*, num_classes=None, num_leads=12, channels=2):
        network = factory(num_classes=num_classes, num_leads=num_leads, channels=channels)
        network.spare = nn.Linear(3, 3)
        return network

    monkeypatch.setitem(MODELS, "forgetful", with_a_spare)
    config = {**with_store({**CNN, "dataset": DATA}), "model_name": "forgetful"}
    finetune(job(tmp_path, FinetuneConfig, config))
    said = (tmp_path / "run" / "console.txt").read_text()
    assert said.count("should learn and never got a gradient") == 1
    assert "note: 2 of " in said and "classifier.spare.weight, classifier.spare.bias" in said


def test_a_parameter_whose_gradient_is_0_is_named_after_the_last_epoch(tmp_path, monkeypatch):
    forward = SupervisedTask.forward

    def without_a_bias(self, batch, drawn):
        out = forward(self, batch, drawn)
        return {**out, "loss": out["loss"] + 0 * self.classifier.spare.sum()}

    factory = MODELS["xresnet1d50"]

    def with_a_spare(*, num_classes=None, num_leads=12, channels=2):
        network = factory(num_classes=num_classes, num_leads=num_leads, channels=channels)
        network.spare = nn.Parameter(torch.zeros(3))
        return network

    monkeypatch.setitem(MODELS, "still", with_a_spare)
    monkeypatch.setattr(SupervisedTask, "forward", without_a_bias)
    config = {**with_store({**CNN, "dataset": DATA}), "model_name": "still"}
    finetune(job(tmp_path, FinetuneConfig, config))
    said = (tmp_path / "run" / "console.txt").read_text()
    assert said.count("(classifier.spare) should learn and have not moved") == 1


def test_batch_norm_that_moves_in_a_frozen_encoder_ends_the_run(tmp_path, monkeypatch):
    """The defect: a linear probe whose frozen encoder was left in training mode."""
    config = with_store({**CNN, "dataset": DATA})
    (start,) = finetune(job(tmp_path / "start", FinetuneConfig, config))
    monkeypatch.setattr(SupervisedTask, "train", nn.Module.train)
    more = {"mode": "linprobe", "encoder_path": str(start.folder / "encoder.pth")}
    with pytest.raises(ECGError, match="running_mean.* were to stay frozen and have changed"):
        finetune(job(tmp_path, FinetuneConfig, config, allow_label_overlap=True, **more))


def test_a_head_trained_alone_at_first_is_followed_into_the_whole(tmp_path):
    config = with_store({**VIT, "dataset": DATA, "mode": "scratch"})
    assert config["train"]["freeze_epochs"] == 1
    finetune(job(tmp_path, FinetuneConfig, config))  # an error where what thaws counted as frozen


def test_a_digest_tells_any_bit():
    for tensor in (
        torch.randn(5, 7),
        torch.randn(5, dtype=torch.float64),
        torch.randn(5, dtype=torch.cfloat),
        torch.zeros((), dtype=torch.int64),
        torch.zeros(4, dtype=torch.bool),
        torch.randn(6).to(torch.bfloat16),
        torch.randn(4, 6),
    ):
        other = tensor.clone()
        assert digests([tensor]) == digests([other])
        if other.is_floating_point() or other.is_complex():
            other.view(-1)[-1] *= 1 + 2 * torch.finfo(other.dtype).eps
        else:
            other.view(-1)[-1] = 1
        assert digests([tensor]) != digests([other])
    zero = torch.zeros(3)
    assert digests([zero]) != digests([-zero]) and digests([]) == []


def test_frozen_parts_are_the_largest():
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    network[1].bias.requires_grad_(False)
    assert frozen_below(network) == ["0", "1.bias"]
