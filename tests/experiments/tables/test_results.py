"""The CSV of a table."""

from experiments.tables.definition import read_table
from experiments.tables.results import add_results, read_results
from tests.support.tiny_tables import write


def test_a_revision_is_no_number(tables):
    """The defect: the revision 39e4096 was read as 39 times 10 to the 4096th, and written
    as inf.
    """
    write(tables)
    table = read_table("tiny")
    (tables / "results").mkdir(exist_ok=True)
    for fold in (3, 9):
        add_results(
            table, [{"row": "ours", "method": "", "seed": 0, "fold": fold, "revision": "39e4096"}]
        )
    assert list(read_results(table)["revision"]) == ["39e4096"] * 2
