"""A class that a database never annotated is unknown there, not negative."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from util.config.keys import FinetuneDataset
from util.errors import ConfigError
from util.labels.masks import LabelMasks, mask_unannotated, mask_untrained, read_annotated
from util.labels.tables import Labels

CLASSES = {"LAD": {"39732003"}, "CRBBB": {"713427006", "59118001"}, "AF": {"164889003"}}
DATABASES = ["cpsc_2018", "ptb-xl", "cpsc_2018", "ptb-xl", "own"]
LABELS = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 1]], np.float32)
DX_MAPPING = """Dx,SNOMED CT Code,Abbreviation,CPSC,CPSC-Extra,PTB-XL,Georgia,Total,Notes
left axis deviation,39732003,LAD,0,0,5146,940,6086,
"complete right bundle branch block",713427006,CRBBB,0,113,542,28,683,"We score 713427006 and 59118001 as the same"
right bundle branch block,59118001,RBBB,1857,1,0,542,2400,
atrial fibrillation,164889003,AF,1221,153,1514,570,3475,
"""


def test_the_store_itself_tells_what_was_annotated(sentences):
    labels = mask_unannotated(LABELS, DATABASES, CLASSES)
    nan = np.nan
    np.testing.assert_array_equal(
        labels, np.array([[nan, 1, 0], [1, nan, 1], [nan, 0, 1], [0, nan, 0], [nan, nan, 1]])
    )
    assert labels.dtype == np.float32 and not np.isnan(LABELS).any()
    assert sentences() == [
        "classes that cpsc_2018 never annotated, unknown for its 2 records: 1 of 3 (LAD)",
        "classes that own never annotated, unknown for its 1 records: 2 of 3 (LAD, CRBBB)",
        "classes that ptb-xl never annotated, unknown for its 2 records: 1 of 3 (CRBBB)",
    ]


def test_the_challenges_table_tells_what_was_annotated(tmp_path, sentences):
    """PTB-XL has right bundle branch blocks, though none of these two records has: 542 of
    713427006.
    """
    path = tmp_path / "dx_mapping_scored.csv"
    path.write_text(DX_MAPPING)
    counts = read_annotated(path)
    assert counts["ptbxl"] == {"39732003": 5146, "713427006": 542, "59118001": 0, "164889003": 1514}
    assert counts["cpsc2018"]["59118001"] == 1857 and counts["cpsc2018extra"]["713427006"] == 113
    assert set(counts) == {"cpsc2018", "cpsc2018extra", "ptbxl", "georgia", "total"}
    labels = mask_unannotated(LABELS, DATABASES, CLASSES, path)
    nan = np.nan
    np.testing.assert_array_equal(
        labels, np.array([[nan, 1, 0], [1, 0, 1], [nan, 0, 1], [0, 0, 0], [nan, nan, 1]])
    )
    assert "has no column for own" in sentences()[0]


def test_classes_of_a_table_of_labels_go_by_name(tmp_path):
    (tmp_path / "counts.csv").write_text("class,own,PTB_XL\nlarge,0,12\n")
    assert read_annotated(tmp_path / "counts.csv") == {"own": {"large": 0}, "ptbxl": {"large": 12}}
    classes, labels = (
        {"large": {"large"}, "small": {"small"}},
        np.array([[1.0, 0], [0, 1], [0, np.nan]]),
    )
    masked = mask_unannotated(labels, ["own", "own", "ptb-xl"], classes, tmp_path / "counts.csv")
    np.testing.assert_array_equal(masked, [[np.nan, 0], [np.nan, 1], [0, np.nan]])


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "class,own\n", "class,own\nlarge,many\n", "class\nlarge\n"]
)
def test_a_wrong_file_is_a_config_error(tmp_path, text):
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(
        ConfigError, match="dataset.annotated: .*counts.csv needs a column of codes or names"
    ):
        read_annotated(tmp_path / "counts.csv")
    with pytest.raises(ConfigError, match="cannot read .*none.csv: "):
        read_annotated(tmp_path / "none.csv")


def test_what_only_selection_records_have_is_not_scored_on_the_database_left_out(
    tmp_path, sentences
):
    """Nor what a file of counts calls annotated where no training record of the store has it."""
    (tmp_path / "counts.csv").write_text("class,a,b\nAF,5,5\nslow,5,5\nlong,5,5\n")
    values = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    records = pd.DataFrame({"database": ["a", "a", "a", "b", "b"], "fold": [0, 1, 2, 0, 1]})
    data = FinetuneDataset(
        transforms=[], labels="mine", protocol="leave_one_database", test_database="b"
    )
    labels = Labels("mine", "multilabel", ("AF", "slow", "long"), values, np.ones(5, bool))
    store = SimpleNamespace(records=records)
    masks = LabelMasks(labels, store, data, counts_file=str(tmp_path / "counts.csv"))
    assert masks.by_fold and not np.isnan(masks.labels.values).any()
    fold = records["fold"].to_numpy()
    found = masks.of_fold(fold == 0)
    assert (
        np.isnan(found.values[3:]).tolist() == [[False, True, True]] * 2
        and not np.isnan(found.values[:3]).any()
    )
    assert sentences()[-1].endswith("not scored on the database left out: slow, long")
    found = masks.of_fold(fold == 2)
    assert np.isnan(found.values[3:]).tolist() == [[False, False, True]] * 2


def test_what_nobody_could_learn_is_not_scored(sentences):
    labels = mask_unannotated(LABELS, DATABASES, CLASSES)
    sentences()
    left_out = np.array(DATABASES) == "cpsc_2018"
    masked = mask_untrained(labels, left_out, CLASSES, ~left_out)
    assert sentences() == [
        "classes without a positive training record, not scored on the database left out: CRBBB"
    ]
    assert np.isnan(masked[left_out][:, 1]).all() and np.array_equal(
        masked[:, [0, 2]], labels[:, [0, 2]], equal_nan=True
    )
    mask_untrained(masked, left_out, CLASSES, ~left_out)
    assert sentences() == []


def test_databases_may_be_called_by_years():
    """YAML reads [2020] as a number."""
    values = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    labels = Labels("mine", "multilabel", ("AF", "slow"), values, np.ones(3, bool))
    store = SimpleNamespace(records=pd.DataFrame({"database": ["2020", "2020", "2021"]}))
    data = FinetuneDataset(transforms=[], labels="mine", databases=[2020])
    found = LabelMasks(labels, store, data, wanted=True).labels.values
    np.testing.assert_array_equal(found, [[1, np.nan], [0, np.nan], [1, 1]])
