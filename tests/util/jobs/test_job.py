"""Supervised jobs: what a fold holds depends on the fold, not on which others the job has."""

import numpy as np
import pytest

from tests.support.small_store import blank_store
from tests.support.tiny_jobs import CNN
from util.config.keys import FinetuneConfig
from util.config.load import check
from util.errors import ConfigError
from util.jobs.job import LabelledJob

SINUS, BRADY = "426783006", "426177001"


def job_of(place, fold, **dataset):
    given = {
        **CNN["dataset"],
        "store": str(place),
        "fs": 250,
        "max_records": None,
        "classes": {"sinus": [SINUS], "slow": [BRADY]},
        "fold": fold,
        **dataset,
    }
    return LabelledJob(check({**CNN, "dataset": given}, FinetuneConfig))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three hospitals of twenty records; but for b's, slow hearts are in fold 0 alone."""
    folder = tmp_path_factory.mktemp("hospitals")
    records = [
        ("abc"[i // 20], "", [SINUS, BRADY] if i // 20 == 1 or i % 10 == 0 else [SINUS], i % 10)
        for i in range(60)
    ]
    blank_store(folder, records)
    return folder


LEFT_OUT = {"protocol": "leave_one_database", "test_database": "b"}


@pytest.mark.parametrize("folds", ["all", [3, 0]])
def test_a_fold_has_the_same_labels_alone_and_among_others(place, folds, sentences):
    """Fold 0 selects on all slow hearts that are not of the hospital left out, so that none is
    trained on.  The defect: of several folds, none masked what its training part never saw.
    """
    alone = job_of(place, 0, **LEFT_OUT).fold(0)
    among = {fold.number: fold for fold in job_of(place, folds, **LEFT_OUT)}
    assert np.isnan(alone.labels_of("test")).tolist() == [[False, True]] * 20
    np.testing.assert_array_equal(among[0].labels, alone.labels)
    for part, rows in alone.parts.items():
        np.testing.assert_array_equal(among[0].parts[part], rows)
    assert not np.isnan(among[3].labels).any()
    masked = [sentence for sentence in sentences() if "not scored on" in sentence]
    assert len(masked) == 2 and all(sentence.endswith(": slow") for sentence in masked)


def test_records_without_a_label_that_a_fold_can_know_take_no_part_in_it_alone(tmp_path):
    """The hospital left out annotated slow hearts alone, which nobody learns of in fold 0."""
    records = [("ac"[i % 2], "", [SINUS, BRADY] if i == 0 else [SINUS], i % 10) for i in range(40)]
    records += [("b", "", [BRADY], i) for i in range(10)]
    blank_store(tmp_path, records)
    job = job_of(tmp_path, "all", **LEFT_OUT)
    with pytest.raises(ConfigError, match="no labelled records for the test part of b left out"):
        job.fold(0)
    labels = job.fold(1).labels_of("test")
    assert np.isnan(labels[:, 0]).all() and (labels[:, 1] == 1).all() and len(labels) == 10


def test_folds_of_other_protocols_share_their_labels(place):
    job = job_of(place, "all")
    first, second = job.fold(0), job.fold(1)
    assert first.labels is second.labels and first.title == "fold 0"
    assert first.labels_of("test").shape == (6, 2)
    assert first.patients_of("test").tolist() == [""] * 6
    assert job.folds == list(range(10)) and [fold.number for fold in job] == job.folds
