"""Predictions made by hand, for tests."""

import numpy as np

from util.scoring.predictions import Predictions


def made(outputs, labels, classes=None, *, records=None, task="multilabel", gate=None):
    """Predictions of these outputs and labels; every record is a patient of its own."""
    count = len(labels)
    classes = classes or [f"c{number}" for number in range(np.shape(outputs)[1])]
    return Predictions(
        records=np.array([f"r{i}" for i in range(count)]) if records is None else records,
        databases=np.full(count, "made"),
        labels=labels,
        outputs=outputs,
        logits=outputs,
        patients=np.arange(count),
        classes=tuple(classes),
        task=task,
        gate=gate,
    )
