"""Which records an encoder may see."""

import pytest

from experiments.tables.definition import read_table
from experiments.tables.trainings import (
    Settings,
    definition_of,
    fine_tuning,
    origin_of,
    pretraining,
)
from tests.support.small_store import store
from tests.support.tiny_tables import write
from util.errors import ConfigError


def test_each_group_of_folds_has_an_encoder_that_saw_none_of_them(tables):
    encoder = {"config": "pretrain/simclr_signal", "overlay": ["reduced_ssl"]}
    write(
        tables,
        folds=[[3, 9], [5]],
        rows=[
            {"name": "ours", "pretrain": encoder},
            {"name": "few", "pretrain": encoder, "folds": [9]},
        ],
    )
    settings = Settings(str(tables), overrides=[f"dataset.store={store()}"])
    ours, few = read_table("tiny").rows
    unseen = {
        fold: pretraining(ours, 0, fold, settings).dataset.exclude_folds for fold in (3, 9, 5)
    }
    assert unseen == {3: [0, 3, 4, 9], 9: [0, 3, 4, 9], 5: [5, 6]}
    assert pretraining(few, 0, 9, settings).dataset.exclude_folds == [0, 9]
    write(tables, folds=[[3, 9], [9]])
    with pytest.raises(ConfigError, match="a list of different ones"):
        read_table("tiny")


def test_nothing_and_zero_make_two_definitions_where_they_are_two_things(tables):
    """The defect: a weight decay that ends at 0 counted as one that does not change, and no
    transforms in evaluation as those of training, so that old rows stood for them.
    """
    write(tables)
    (row, _) = read_table("tiny").rows
    changes = (
        [],
        ["train.weight_decay_end=0"],
        ["dataset.eval_transforms=[]"],
        ["dataset.mask_unannotated=false"],
    )
    found = [definition_of(row, Settings(str(tables), overrides=each)) for each in changes]
    assert len(set(found)) == len(found)
    null = Settings(str(tables), overrides=["train.weight_decay_end=null"])
    assert definition_of(row, null) == found[0]


@pytest.mark.parametrize(
    "change, same",
    [
        ("train.epochs=7", False),
        ("train.lr=0.5", False),
        ("dataset.label_fraction=0.5", False),
        ("dataloader.num_workers=3", True),
        ("train.log_every=3", True),
    ],
)
def test_what_changes_results_changes_the_definition_of_a_row(tables, change, same):
    write(tables)
    row, _ = read_table("tiny").rows
    before, after = (definition_of(row, Settings("", overrides=more)) for more in ([], [change]))
    assert (before == after) == same


def test_what_a_config_has_to_say_its_training_says_and_no_fingerprint(tables, capsys):
    other = {"config": "downstream/st_mem", "set": ["model_name=st_mem_vit_tiny"]}
    write(tables, rows=[{"name": "ours", **other}])
    table = read_table("tiny")
    settings = Settings(str(tables), overrides=[f"dataset.store={store()}"])
    origin_of(table.rows[0], 0, 1, settings)
    assert "has no effect" not in capsys.readouterr().out
    fine_tuning(table, table.rows[0], 0, 1, settings)
    assert capsys.readouterr().out.count("has no effect") == 1
