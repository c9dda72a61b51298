"""A table as Markdown."""

import pandas as pd
import pytest

from experiments import reproduce
from experiments.tables.definition import read_table
from experiments.tables.page import gap_cell, latex, markdown, numbers
from experiments.tables.results import add_results
from experiments.tables.summary import optimism
from experiments.tables.trainings import Settings, definition_of
from tests.support.small_store import run, store
from tests.support.tiny_tables import write


def test_seeds_of_a_fold_are_no_further_folds():
    test, selection = [0.1, 0.2, 0.3, 0.2, 0.1, 0.3], [0.3, 0.2, 0.4, 0.5, 0.1, 0.4]
    once = pd.DataFrame({"fold": range(6), "AUROC": test, "selection_AUROC": selection})
    gap = optimism(once, "AUROC")
    assert optimism(pd.concat([once, once]), "AUROC") == gap
    assert gap_cell(gap) == f"+0.117 ({gap.low:+.3f} to {gap.high:+.3f})" and gap.low < 0.1


HEAD = "row,method,value,low,high,against,difference,difference_low,difference_high,p\n"
OURS = "ours,,0.7002,0.651,0.762,,nan,nan,nan,nan\n"
OTHER = "published start,,0.75,0.7,0.8,ours,0.05,-0.01,0.11,0.09\n"


def cells(table, settings, name):
    """The cells of a row of the table in Markdown."""
    lines = markdown(table, settings).splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def made(tables):
    """A table of two rows of known scores, its settings, and its file of intervals."""
    write(tables)
    table = read_table("tiny")
    (tables / "results").mkdir()
    settings = Settings(str(tables), overrides=[f"dataset.store={store()}"])
    results = [
        {
            "row": row.name,
            "method": "",
            "seed": 0,
            "fold": fold,
            table.score: score,
            "definition": definition_of(row, settings),
        }
        for row, score in zip(table.rows, (0.7, 0.75), strict=True)
        for fold in (3, 9)
    ]
    add_results(table, results)
    return table, settings, tables / "results" / "tiny.intervals.csv"


def test_an_interval_of_other_runs_is_not_shown_and_said(made):
    """The defect: beside a new mean stood the interval of an earlier one, until all its folds had
    been run again; a file without the column ``value`` was taken for one of any runs.
    """
    table, settings, file = made
    assert cells(table, settings, "ours")[3] == "(no predictions kept)"
    file.write_text(HEAD + OURS + OTHER)
    assert cells(table, settings, "ours")[3:5] == ["0.651 to 0.762", ""]
    difference = "+0.050 (95 % interval -0.010 to +0.110: no difference seen)"
    assert cells(table, settings, "published start")[3:5] == ["0.700 to 0.800", difference]
    file.write_text(HEAD + OURS.replace("0.7002", "0.75") + OTHER)
    assert cells(table, settings, "ours")[3] == "(of other runs)"
    file.write_text("row,method,low,high,difference\nours,,0.651,0.762,\n")
    assert cells(table, settings, "ours")[3] == "(of other runs)"


def test_a_difference_to_earlier_runs_of_the_other_row_is_not_shown(made):
    table, settings, file = made
    file.write_text(HEAD + OURS + OTHER.replace("0.05,", "0.02,"))
    assert cells(table, settings, "published start")[3:5] == ["0.700 to 0.800", ""]


def test_why_there_is_no_interval_is_said(made):
    table, settings, file = made
    file.write_text(HEAD + OURS.replace("0.651,0.762", "nan,nan"))
    assert cells(table, settings, "ours")[3] == "(nothing can be drawn)"
    results = pd.read_csv(file.with_name("tiny.csv"))
    results[:3].to_csv(file.with_name("tiny.csv"), index=False)
    assert cells(table, settings, "published start")[3] == "(1 of 2 runs)"


def test_numbers_and_latex_are_those_of_the_page(made, capsys):
    table, _, file = made
    file.write_text(HEAD + OURS + OTHER)
    ours, other = numbers(table).to_dict("records")
    assert (ours["AUROC"], ours["AUROC_low"], ours["no_interval"]) == (0.7, 0.651, "")
    assert (other["against"], other["difference"], other["p"]) == ("ours", 0.05, 0.09)
    assert r"published start & 2 & 0.750 & 0.700 to 0.800" in latex(table)
    target = file.with_name("tiny.tex")
    run(reproduce.main, "tiny", "--latex", target, "--csv")
    assert target.read_text() == latex(table) + "\n"
    assert capsys.readouterr().out.startswith("row,method,runs,stale,AUROC,AUROC_low,AUROC_high")
