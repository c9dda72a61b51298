"""Files that are no weights of a classifier are named as what they are."""

import pytest

from util.errors import CheckpointError
from util.evaluation.trained import load_trained, read_weights
from util.weights import checkpoint


@pytest.mark.parametrize(
    "config, more",
    [
        ({"mode": "finetune"}, {"leads": ["I"]}),  # encoder.pth of fine-tuning
        ({"model_name": "st_mem"}, {"leads": ["I"]}),  # of pre-training
        ({"model_name": "st_mem"}, {"metrics": {}}),  # checkpoint-last.pth of pre-training
    ],
)
def test_what_does_not_classify(tmp_path, config, more):
    """The defect: a list of missing keys, or words about factories."""
    checkpoint.save(checkpoint.content({}, config, 3, **more), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="x.pth is an encoder or .*; fine-tune it first"):
        load_trained(tmp_path / "x.pth")


def test_weights_of_a_classifier(tmp_path):
    content = checkpoint.content({}, {"mode": "scratch"}, 3, metrics={"loss": 1.0})
    checkpoint.save(content, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth")["epoch"] == 3
