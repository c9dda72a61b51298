"""Tables by their command: what a YAML asks for is run once, written down, and put into RESULTS.md."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from experiments.tables.definition import read_table
from experiments.tables.page import markdown, write_markdown
from experiments.tables.results import path_of
from experiments.tables.trainings import Settings, encoder_of, pretraining
from tests.support.small_store import store
from tests.support.tiny_tables import TINY, reproduced, write
from util.errors import ConfigError


def test_a_table_is_run_once_and_goes_on_where_it_stopped(tables, capsys):
    write(tables)
    first = reproduced(tables, "--only", "ours", "--fold", 3)
    assert first[["row", "seed", "fold", "epochs"]].values.tolist() == [["ours", 0, 3, 1]]
    assert "interval" not in {path.suffix for path in (tables / "results").iterdir()}
    reproduced(tables, "--budget", 0)
    assert "3 trainings were not started" in capsys.readouterr().out
    every = reproduced(tables)
    assert every.iloc[0].to_dict() == first.iloc[0].to_dict() and len(every) == 4
    (folder,) = (tables / "out" / "tiny").glob("published_start-*")
    metrics = pd.read_csv(folder / "seed0" / "fold9" / "test_metrics.csv")
    assert (
        every.query("row == 'published start' and fold == 9")["AUROC"].item()
        == metrics["AUROC"].item()
    )
    intervals = pd.read_csv(tables / "results" / "tiny.intervals.csv", keep_default_na=False)
    assert list(intervals["row"]) == ["ours", "published start"] and list(intervals["against"]) == [
        "",
        "ours",
    ]
    page = tables / "RESULTS.md"
    page.write_text("before\n<!-- table tiny: begin -->\nold\n<!-- table tiny: end -->\nafter\n")
    for _ in range(2):  # the same again
        write_markdown(read_table("tiny"), page)
        text = page.read_text()
        mean = every[every["row"] == "ours"]["AUROC"].mean()
        assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
        assert (
            f"| ours | 2 | {mean:.3f} | {intervals['low'][0]:.3f} to {intervals['high'][0]:.3f} |"
            in text
        )
    (folder,) = (tables / "out" / "tiny").glob("ours-*")
    lines = (folder / "seed0" / "fold3" / "log.txt").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    assert every.iloc[0]["selection_AUROC"] == pytest.approx(log[0]["valid_AUROC"], abs=1e-4)
    view = {"about": "How much too high.", "runs": "tiny", "score": "AUPRC"}
    (tables / "view.yaml").write_text(yaml.safe_dump(view))
    gap = (every["selection_AUPRC"] - every["AUPRC"])[every["row"] == "ours"].mean()
    assert f"| {gap:+.3f} |" in markdown(read_table("view")).splitlines()[4]


def test_methods_of_thresholds_are_rows_of_their_own(tables):
    write(
        tables,
        rows=TINY["rows"][:1],
        methods=["published", "pooled", "expected"],
        score="ChallengeScore",
    )
    every = reproduced(tables)
    assert every["method"].tolist() == ["", ""] + [
        name for name in ("published", "pooled", "expected") for _ in "12"
    ]
    (folder,) = (tables / "out" / "tiny").glob("ours-*")
    scores = pd.read_csv(folder / "seed0" / "thresholds_PRC_expected" / "scores.csv")
    expected = scores.query("part == 'test' and fold == '9'")["ChallengeScore"].item()
    assert every.query("method == 'expected' and fold == 9")[
        "ChallengeScore"
    ].item() == pytest.approx(expected)
    assert len(reproduced(tables)) == len(every)
    every.query("method == '' or fold == 3").to_csv(tables / "results" / "tiny.csv", index=False)
    again = reproduced(tables)  # of a fold more than the methods were run on: all anew
    assert again.drop(columns=["seconds"]).equals(every.drop(columns=["seconds"]))
    with pytest.raises(
        ConfigError, match="seed0: its predictions give ChallengeScore .* of ours expected"
    ):
        every.loc[every["method"] == "expected", "ChallengeScore"] += 0.1
        every.to_csv(tables / "results" / "tiny.csv", index=False)
        reproduced(tables)
    intervals = pd.read_csv(tables / "results" / "tiny.intervals.csv", keep_default_na=False)
    assert list(intervals["method"]) == ["published", "pooled", "expected"]


def test_rows_and_tables_share_an_encoder_and_trainings_run_side_by_side(tables):
    encoder = {
        "config": "pretrain/simclr_signal",
        "overlay": ["reduced_ssl"],
        "set": [
            "model.encoder.channels=4",
            "train.epochs=1",
            "train.steps_per_epoch=1",
            "train.probe_every=0",
            "dataloader.batch_size=8",
            "dataloader.num_workers=0",
        ],
    }
    frozen = ["mode=linprobe", "train.head_init=probe", "train.lr=0"]
    write(
        tables,
        folds=[3],
        rows=[
            {"name": "linear", "pretrain": encoder, "set": frozen},
            {"name": "neighbours", "pretrain": encoder, "knn": 3},
            {"name": "scratch"},
        ],
    )
    every = reproduced(tables, "--jobs", 2).set_index("row")
    assert sorted(every.index) == ["linear", "neighbours", "scratch"] and set(every["device"]) == {
        "CPU"
    }
    (folder,) = (tables / "out" / "pretrained").iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["dataset"]["exclude_folds"] == [3, 4]
    row = {"rows": TINY["rows"][:1], "pretrain": encoder}
    (tables / "other.yaml").write_text(yaml.safe_dump({**TINY, **row, "folds": [3]}))
    settings = Settings(str(tables / "out"), "cpu", [f"dataset.store={store()}"])
    other = read_table("other").rows[0]
    assert encoder_of(pretraining(other, 0, 3, settings)).is_file()


def test_a_row_gets_further_folds_by_another_encoder_and_keeps_its_interval(tables):
    """The defect: trainings of the earlier folds lay in another folder than those of a group that
    was added, so the row lost its interval, and its folds their thresholds.
    """
    encoder = {
        "config": "pretrain/simclr_signal",
        "overlay": ["reduced_ssl"],
        "set": [
            "model.encoder.channels=4",
            "train.epochs=1",
            "train.steps_per_epoch=1",
            "train.probe_every=0",
            "dataloader.batch_size=8",
            "dataloader.num_workers=0",
        ],
    }
    row = {"name": "from SimCLR", "pretrain": encoder}
    changes = {"rows": [row], "methods": ["expected"], "score": "ChallengeScore"}
    write(tables, folds=[[3]], **changes)
    first = reproduced(tables)
    write(tables, folds=[[3], [9]], **changes)
    every = reproduced(tables)
    assert every.query("fold == 3 and method == ''").drop(columns="seconds").values.tolist() == (
        first.query("method == ''").drop(columns="seconds").values.tolist()
    )
    assert every[["method", "fold"]].values.tolist() == [
        *(["", 3], ["", 9]),
        *(["expected", 3], ["expected", 9]),
    ]
    assert len([*(tables / "out" / "tiny").iterdir()]) == every["encoder"].nunique() == 2
    intervals = pd.read_csv(tables / "results" / "tiny.intervals.csv")
    assert intervals["value"].item() == pytest.approx(
        every.query("method == 'expected'")["ChallengeScore"].mean(), abs=1e-3
    )


def test_a_row_is_compared_with_the_one_it_names(tables):
    third = {"name": "third", "model": {"init": "published"}, "against": "published start"}
    write(tables, rows=[*TINY["rows"], third], folds=[3])
    every = reproduced(tables).set_index("row")
    gap = every.loc["third", "AUROC"] - every.loc["published start", "AUROC"]
    table = markdown(read_table("tiny"))
    assert "difference to the row named" in table and f"| published start: {gap:+.3f}" in table


def test_a_row_on_fewer_folds_is_compared_on_those(tables):
    write(tables, rows=[TINY["rows"][0], {**TINY["rows"][1], "folds": [9]}])
    every = reproduced(tables)
    assert every[["row", "fold"]].values.tolist() == [
        ["ours", 3],
        ["ours", 9],
        ["published start", 9],
    ]
    gap = (
        every.query("row == 'published start'")["AUROC"].item()
        - every.query("row == 'ours' and fold == 9")["AUROC"].item()
    )
    intervals = pd.read_csv(tables / "results" / "tiny.intervals.csv", keep_default_na=False)
    assert float(intervals["difference"][1]) == pytest.approx(gap, abs=1e-4)
    assert f"| ours: {gap:+.3f}" not in markdown(read_table("tiny"))  # all against the same
    with pytest.raises(ConfigError, match=r"tested on \[3, 9\]"):
        reproduced(tables, "--fold", 4)


def test_what_another_definition_or_store_made_is_stale_and_run_again(tables, tmp_path, capsys):
    write(tables, folds=[3])
    first = reproduced(tables).set_index("row")
    assert reproduced(tables, "--stale").set_index("row").equals(first)
    assert "nothing is stale" in capsys.readouterr().out
    changed = {"name": "ours", "set": ["train.weight_decay=0.5"]}
    write(tables, folds=[3], rows=[changed, TINY["rows"][1]])
    assert "| ours (stale) | 1 |" in markdown(read_table("tiny"))
    reproduced(tables, "--stale")
    out = capsys.readouterr().out
    assert "row ours seed 0 fold 3: another definition\n" in out and "published" not in out
    again = reproduced(tables).set_index("row")
    assert "1 results are stale" in capsys.readouterr().out
    assert again.loc["ours", "definition"] != first.loc["ours", "definition"]
    assert again.loc["published start"].equals(first.loc["published start"])
    assert len([*(tables / "out" / "tiny").glob("ours-*")]) == 2
    assert "(stale)" not in markdown(read_table("tiny"))
    other = tmp_path / "other"
    shutil.copytree(store(), other)
    meta = json.loads((other / "fs100" / "meta.json").read_text())
    changed_meta = {**meta, "blocks": ["of other signals"]}
    (other / "fs100" / "meta.json").write_text(json.dumps(changed_meta))
    third = reproduced(tables, "--only", "ours", "--set", f"dataset.store={other}")
    assert set(third["store"]) == {*again["store"], third.set_index("row").loc["ours", "store"]}
    assert third["store"].nunique() == 2
    assert "Runs of 2 different stores" in capsys.readouterr().out


def test_every_row_is_checked_before_the_first_training(tables):
    write(tables, folds=[3], rows=[TINY["rows"][0], {"name": "late", "set": ["train.epoch=3"]}])
    with pytest.raises(ConfigError, match="unknown key 'train.epoch'"):
        reproduced(tables)
    assert not (tables / "out").exists()


def test_two_rates_of_one_store_are_one_store(tables):
    """The defect: a table of rows at 100 and 250 Hz was said to be of two stores."""
    small = {**TINY["rows"][0], "name": "at 100 Hz"}
    rows = [small, {**small, "name": "at 250 Hz", "set": [*small.get("set", ()), "dataset.fs=250"]}]
    write(tables, rows=rows)
    table = read_table("tiny")
    results = pd.DataFrame(
        {"row": ["at 100 Hz", "at 250 Hz"], "method": "", "seed": 0, "fold": 3, "AUROC": 0.8}
    ).assign(definition="d", store=["one", "other"], encoder="", selection_AUROC=0.8)
    path_of("tiny").parent.mkdir()
    results.to_csv(path_of("tiny"), index=False)
    assert "different stores" not in markdown(table)
