"""Tables of tests, away from those of configs/tables and results/."""

import pytest

from experiments.tables import definition, results
from util.evaluation import threshold_search


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A folder in place of configs/tables; results/ is inside of it."""
    monkeypatch.setattr(definition, "TABLES", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(threshold_search, "plot_score_curves", lambda *arguments: None)
    return tmp_path
