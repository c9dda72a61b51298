"""The records that a model got most wrong, by task, and the gate's bars."""

import re

import numpy as np
import pytest

from tests.support import small_store
from tests.support.made_predictions import made
from util.evaluation.evaluator import gate_table
from util.predicting.recordings import finest_store
from util.reports.figures import plot_confusion, plot_gate, plot_predicted
from util.reports.page import Page
from util.reports.recordings import add_worst, answer_of, losses
from util.reports.run_report import FoldReport, _multiclass


def predicted(task, labels, outputs, gate=None):
    names = np.array(["E000", "E001", "E002"])
    classes = "abc"[: len(outputs[0])]
    outputs = np.asarray(outputs, float)
    return made(outputs, np.asarray(labels), classes, records=names, task=task, gate=gate)


MULTICLASS = predicted("multiclass", [0, 1, 2], [[0.9, 0.1, 0], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
MULTILABEL = predicted(
    "multilabel", [[1, np.nan], [0, 1], [np.nan] * 2], [[0.5, 0.9], [0.9, 0.9], [0.1, 0.1]]
)
REGRESSION = predicted("regression", [[30.0], [50.0], [np.nan]], [[30.0], [90.0], [7.0]])


def test_losses_are_those_of_each_task_over_known_labels():
    np.testing.assert_allclose(losses(MULTICLASS), -np.log([0.9, 0.2, 0.8]))
    own = [-np.log(0.5), -(np.log(0.1) + np.log(0.9)) / 2, np.nan]
    np.testing.assert_allclose(losses(MULTILABEL), own)
    np.testing.assert_allclose(losses(REGRESSION), [0, 40**2 / 100, np.nan])


@pytest.mark.parametrize("test", [MULTICLASS, MULTILABEL, REGRESSION], ids=lambda test: test.task)
def test_the_worst_come_first_and_unknown_ones_not_at_all(test):
    page = Page("p")
    add_worst(page, test, finest_store(small_store.store()))
    text = page.html()
    assert text.count("data:image/png") == (3 if test is MULTICLASS else 2)
    values = losses(test)
    first = int(np.nanargmax(values))
    assert text.index(f"loss {values[first]:.2f}; {answer_of(test, first)}") < text.index(
        f"loss {values[0]:.2f}; "
    )


def test_answers_are_said_in_words():
    assert answer_of(MULTICLASS, 1) == (
        "labelled b (0.20); likeliest a (0.50), c (0.30), b (0.20), in brackets the probability"
    )
    assert answer_of(MULTILABEL, 2).startswith("labelled none; ")
    assert answer_of(REGRESSION, 1) == "a: labelled 50, predicted 90"


def test_the_gate_is_drawn_by_class():
    gate = np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]])
    table = gate_table(predicted("multiclass", MULTICLASS.labels, MULTICLASS.outputs, gate))
    (axis,) = plot_gate(table).axes
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["0.50", "0.20", "0.40", "0.90"]
    assert [label.get_text() for label in axis.get_yticklabels()][:2] == ["all (3)", "a (1)"]


def test_a_regression_is_drawn_against_its_labels():
    (axis,) = plot_predicted(REGRESSION).axes
    points = axis.collections[0].get_offsets()
    np.testing.assert_array_equal(points[:2], [[30, 30], [50, 90]])
    assert axis.get_title() == "a"


def test_confusion_counts_every_record():
    figure = plot_confusion(MULTICLASS.labels, MULTICLASS.outputs.argmax(axis=1), "abc")
    assert [text.get_text() for text in figure.axes[0].texts] == list("100100001")


def test_classes_that_exclude_each_other_have_a_row_each():
    page = Page("p")
    _multiclass(page, [FoldReport("fold 0", MULTICLASS, None, [], {})], MULTICLASS)
    text = page.html()
    assert "Which class is taken for which" in text and "each class against the others" in text
    (row,) = re.findall(r"<td>b</td>\s*(.*?)</tr>", text, re.DOTALL)
    assert re.findall(r"<td>(.*?)</td>", row)[:2] == ["3", "1"] and "0.00 (0.00 to" in row
