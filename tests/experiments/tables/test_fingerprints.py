"""What the fingerprint of a store is of."""

import json

import pytest

from data_preparation.building.tables import add_labels, add_splits
from experiments.tables.fingerprints import store_of, what_matters
from tests.support.small_store import store
from tests.support.tiny_jobs import CNN, DATA
from util.config.keys import FinetuneConfig
from util.config.load import check
from util.data.store import RecordStore


@pytest.mark.parametrize(
    "add, column, parts, keys",
    [
        (add_splits, "split", ["test", "valid", *["train"] * 8], {"protocol": "given"}),
        (add_labels, "ill", [1, 1, *[0] * 8], {"labels": "mine"}),
        (add_labels, "ill", [1, 1, *[0] * 8], {"labels": {"name": "mine", "columns": ["ill"]}}),
    ],
)
def test_another_table_of_the_same_name_is_another_store(tmp_path, add, column, parts, keys):
    (tmp_path / "fs100").symlink_to(store() / "fs100", target_is_directory=True)
    records, found = RecordStore(tmp_path / "fs100").records, []
    for shift in (0, 0, 3):
        values = [parts[place] for place in (records["fold"] - shift) % 10]
        table = records[["record"]].assign(**{column: values})
        table.to_csv(tmp_path / "mine.csv", index=False)
        add(tmp_path, tmp_path / "mine.csv")
        config = {**CNN, "dataset": {**DATA, "store": str(tmp_path), **keys}}
        found.append(store_of(check(config, FinetuneConfig)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "key, value, same", [("command", ["another line"], True), ("blocks", ["0"], False)]
)
def test_the_command_line_that_made_a_store_is_no_part_of_it(tmp_path, key, value, same):
    (tmp_path / "fs100").mkdir()
    for name in ("records.csv", "signals.dat"):
        (tmp_path / "fs100" / name).symlink_to(store() / "fs100" / name)
    meta = json.loads((store() / "fs100" / "meta.json").read_text())
    (tmp_path / "fs100" / "meta.json").write_text(json.dumps({**meta, key: value}))
    first, second = (
        store_of(check({**CNN, "dataset": {**DATA, "store": str(root)}}, FinetuneConfig))
        for root in (store(), tmp_path)
    )
    assert (first == second) == same


def test_another_content_of_the_file_of_annotations_is_another_store(tmp_path):
    found = []
    for folder, count in (("a", 1), ("b", 1), ("c", 0)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "counts.csv"
        path.write_text(f"Dx,code,cpsc\nAF,164889003,{count}\n")
        data = {**DATA, "store": str(store()), "annotated": str(path)}
        config = check({**CNN, "dataset": {**data, "mask_unannotated": True}}, FinetuneConfig)
        found.append((store_of(config), what_matters(config.dataset)))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0] and found[0][1] == found[2][1]
