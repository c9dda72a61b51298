"""A table as Markdown."""

import pandas as pd

from experiments.tables.definition import read_table
from experiments.tables.page import markdown, optimism
from experiments.tables.results import add_results
from experiments.tables.trainings import Settings
from tests.support.small_store import store
from tests.support.tiny_tables import write


def test_seeds_of_a_fold_are_no_further_folds():
    test, selection = [0.1, 0.2, 0.3, 0.2, 0.1, 0.3], [0.3, 0.2, 0.4, 0.5, 0.1, 0.4]
    once = pd.DataFrame({"fold": range(6), "AUROC": test, "selection_AUROC": selection})
    assert optimism(pd.concat([once, once]), "AUROC") == optimism(once, "AUROC") != ""


def test_an_interval_of_other_runs_is_not_shown(tables):
    """The defect: beside a new mean stood the interval of an earlier one, until all its folds had
    been run again.
    """
    write(tables)
    table = read_table("tiny")
    (tables / "results").mkdir()
    cell = {"row": "ours", "method": "", "seed": 0}
    add_results(table, [{**cell, "fold": fold, table.score: 0.7} for fold in (3, 9)])
    file = tables / "results" / "tiny.intervals.csv"
    settings = Settings(str(tables), overrides=[f"dataset.store={store()}"])
    for value, shown in ((0.7002, True), (0.75, False)):
        file.write_text(f"row,method,value,low,high,difference\nours,,{value},0.651,0.762,\n")
        assert ("0.651 to 0.762" in markdown(table, settings)) == shown
