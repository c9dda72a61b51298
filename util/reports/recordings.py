"""Recordings on a report's page: those that a model got most wrong, on ECG paper."""

from typing import cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from util.data.store import RecordStore
from util.evaluation.figures import plot_ecg
from util.leads import leads_of_cell
from util.reports.page import Page
from util.scoring.predictions import Predictions

WORST = 3  # records drawn
LEAST = 1e-7  # probability


def losses(test: Predictions) -> np.ndarray:
    """Return the loss of each record, float64 (records,), NaN where no label is known.

    Multi-label: the mean cross-entropy of its known labels; multi-class: that of its class;
    regression: the mean squared error, in variances of each column.
    """
    outputs, labels = test.outputs, test.labels
    if test.task == "multiclass":
        return -np.log(np.clip(outputs[np.arange(len(test)), labels], LEAST, 1))
    if test.task == "regression":
        each = (outputs - labels) ** 2 / np.maximum(np.nanvar(labels, axis=0), LEAST)
    else:
        p = np.clip(outputs, LEAST, 1 - LEAST)
        each = -np.log(np.where(labels == 1, p, 1 - p))
    known = ~np.isnan(labels)
    sums, counts = np.where(known, each, 0).sum(axis=1), known.sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def add_worst(page: Page, test: Predictions, store: RecordStore) -> None:
    """Draw the test records with the largest loss, with what was labelled and what was said.

    Args:
        page: they are added to.
        test: of the test records.
        store: that holds them.
    """
    values = losses(test)
    order = [n for n in np.argsort(-values, kind="stable") if not np.isnan(values[n])]
    rows = {name: row for row, name in enumerate(store.records["record"])}
    worst = [n for n in order if test.records[n] in rows][:WORST]
    if not worst:
        return
    page.section("The records with the largest loss")
    page.text(
        f"{len(worst)} of {len(test)} test records. A large loss is a wrong answer, a wrong label "
        "or a poor recording; it is worth looking which."
    )
    for n in worst:
        row = rows[test.records[n]]
        title = f"{test.records[n]}   {_person(store.records.iloc[row])}"
        caption = f"loss {values[n]:.2f}; {answer_of(test, n)}"
        page.figure(_drawn(store, row, title), caption, paper=True)


def answer_of(test: Predictions, n: int) -> str:
    """Return what a record is labelled, and what the model says of it, in words."""
    outputs = test.outputs[n]
    if test.task == "regression":
        pairs = zip(test.classes, test.labels[n], outputs)
        return "; ".join(f"{name}: labelled {y:.4g}, predicted {p:.4g}" for name, y, p in pairs)

    def named(columns: np.ndarray) -> str:
        return ", ".join(f"{test.classes[c]} ({outputs[c]:.2f})" for c in columns) or "none"

    is_label = np.arange(len(outputs)) == test.labels[n]
    if test.task == "multilabel":
        is_label = test.labels[n] == 1
    likeliest = np.argsort(-outputs, kind="stable")[:3]
    return (
        f"labelled {named(np.flatnonzero(is_label))}; likeliest {named(likeliest)}, in brackets "
        "the probability"
    )


def _person(about: pd.Series) -> str:
    """Database, sex and age of a record, as far as known."""
    age = "" if pd.isna(about["age"]) else f"{about['age']:.0f} years"
    sex = about["sex"] if about["sex"] in ("Female", "Male") else ""
    return "   ".join(filter(None, [about["database"], sex, age]))


def _drawn(store: RecordStore, row: int, title: str) -> Figure:
    """The leads that a record has, on ECG paper."""
    leads = leads_of_cell(store.records["leads"].iloc[row]) or ()
    axes = plot_ecg(store.read(row, leads=leads), store.fs, title=title, lead_names=leads)
    return cast(Figure, axes.get_figure(root=True))
