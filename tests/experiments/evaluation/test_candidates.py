"""Which network is in a file of weights, and what it is called."""

from pathlib import Path

import pytest

from experiments.evaluation.candidates import Candidate, names_of, network_of, read_candidates
from util.config.keys import PretrainConfig
from util.config.load import check
from util.contract.registry import DataFacts, build
from util.errors import ConfigError
from util.leads import LEADS

MASKED = [f"{method}_vit_tiny_dec128d2b" for method in ("st_mem", "mtae", "mlae")]


def config_of(name, **model):
    data = {"fs": 250, "crop": 300}
    return check(
        {"model_name": name, "model": model, "dataset": data, "train": {"epochs": 1}},
        PretrainConfig,
    )


@pytest.mark.parametrize("name", MASKED)
def test_the_network_of_a_masked_method_is_its_encoder(name):
    config = config_of(name, mask_ratio=0.5, seq_len=300)
    spec, model = network_of(config)
    assert "mask_ratio" not in model and model["seq_len"] == 300
    network = build({"name": spec, **model}, DataFacts(LEADS, 250, 1, 300))
    own = Candidate("x", config).untrained(0)
    shapes = [
        {key: value.shape for key, value in one.state_dict().items() if "head" not in key}
        for one in (network, own)
    ]
    assert shapes[0] == shapes[1] and type(network) is type(own)


def test_the_network_of_other_methods_is_named_in_them():
    config = config_of("cpc", encoder={"name": "cpc_lstm", "channels": 4})
    assert network_of(config) == ("cpc_lstm", {"channels": 4})


def test_a_method_that_does_not_say_needs_a_config(monkeypatch):
    from util.contract.registry import MODELS

    monkeypatch.setitem(MODELS, "mystery", lambda: None)
    with pytest.raises(ConfigError, match="mystery does not say which encoder .*--config_path"):
        network_of(config_of("mystery"))


def test_names_are_short_and_no_two_alike():
    paths = [
        Path(text) for text in ("a/x/encoder.pth", "b/x/encoder.pth", "c/other.pth", "random.pth")
    ]
    assert names_of(paths) == ["a/x/encoder.pth", "b/x/encoder.pth", "other", "random.pth"]


def test_weights_of_others_take_their_network_from_a_config(tmp_path):
    import torch

    torch.save({"weight": torch.zeros(2)}, tmp_path / "theirs.pth")
    with pytest.raises(ConfigError, match="theirs.pth does not say its network"):
        read_candidates([str(tmp_path / "theirs.pth")], None)
    candidates = read_candidates([str(tmp_path / "theirs.pth")], "configs/downstream/st_mem.yaml")
    assert [one.name for one in candidates] == ["theirs", "random", "scratch"]
    assert candidates[1].layer["model_name"] == "st_mem_vit_base" and len(candidates[1].seeds) == 16
