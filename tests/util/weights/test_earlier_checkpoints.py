"""Checkpoints of earlier versions, which kept the best scores under another name."""

import pandas as pd
import torch

from util.training.log.meters import Meters
from util.training.state import TrainState


def resumed_best(best: dict[str, float]) -> dict[str, float]:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    meters = Meters(pd.Series(["A"]))
    state = TrainState(model, optimizer, torch.amp.GradScaler(enabled=False), meters)
    kept = state.state_dict()
    del kept["metrics"]["best_scores"]
    kept["metrics"]["best"] = best
    state.load_state_dict(kept)
    return state.best


def test_scores_that_were_negated_are_turned_back():
    assert resumed_best({"loss": -0.5, "AUROC": 0.7}) == {"loss": 0.5, "AUROC": 0.7}


def test_the_probe_of_an_untrained_encoder_is_kept_as_it_was():
    for best in ({"probe_auroc_untrained": 0.6}, {"probe_r2_untrained": -0.1}):
        assert resumed_best(best) == best
