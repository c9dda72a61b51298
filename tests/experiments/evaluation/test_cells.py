"""What is said of an encoder whose pre-training has read records of the store that is tested."""

from pathlib import Path

import pytest

from experiments.evaluation.candidates import Candidate
from experiments.evaluation.cells import Settings, all_cells
from experiments.tables import fingerprints
from tests.support.small_store import blank_store
from util.config.keys import PretrainConfig
from util.config.load import check


@pytest.fixture
def stored(tmp_path):
    records = [(name, "", ["426783006"], fold) for name in ("A", "B") for fold in range(10)]
    return blank_store(tmp_path, records)


def pretrained(name, stored, databases, **left_out):
    data = {"fs": 250, "crop": 300, "store": str(stored.path.parent), "databases": databases}
    config = check(
        {
            "model_name": "cpc",
            "model": {"encoder": {"name": "cpc_lstm", "channels": 4}},
            "dataset": {**data, **left_out},
            "train": {"epochs": 1},
        },
        PretrainConfig,
    )
    return Candidate(name, config, Path("e.pth"), store=stored.meta["records_crc32"])


def said_of(candidates, stored, tmp_path, capsys, *overrides):
    given = (f"dataset.store={stored.path.parent}", "dataset.fold=3", *overrides)
    settings = Settings(str(tmp_path / "out"), "cpu", overrides=given)
    all_cells(candidates, ["own"], ["knn"], [100.0], settings)
    return "was pre-trained on this store" in capsys.readouterr().out


ONE_LEFT_OUT = ("dataset.protocol=leave_one_database", "dataset.test_database=B")


@pytest.mark.parametrize(
    ("databases", "overrides", "seen"),
    [
        (["A"], ["dataset.databases=[B]"], False),
        (["A"], ["dataset.databases=[A,B]"], True),
        (["A"], [], True),
        (None, ["dataset.databases=[B]"], True),
        (["A"], ONE_LEFT_OUT, False),
        (["A", "B"], ONE_LEFT_OUT, True),
    ],
)
def test_databases_that_are_not_tested_are_no_matter(
    stored, databases, overrides, seen, tmp_path, capsys
):
    candidate = pretrained("cpc", stored, databases)
    assert said_of([candidate], stored, tmp_path, capsys, *overrides) == seen


def test_a_store_is_opened_once_however_many_encoders(stored, tmp_path, capsys, monkeypatch):
    opened, store_at = [], fingerprints.store_at
    fingerprints.meta_of.cache_clear()
    monkeypatch.setattr(
        fingerprints, "store_at", lambda *where: (opened.append(where), store_at(*where))[1]
    )
    three = [pretrained(name, stored, None) for name in ("a", "b", "c")]
    said_of(three, stored, tmp_path, capsys)
    assert len(opened) == 1
