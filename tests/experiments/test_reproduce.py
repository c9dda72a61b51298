"""Tables: what a YAML asks for is run once, written down, and put into RESULTS.md."""

import json

import pandas as pd
import pytest
import yaml

from experiments import reproduce
from tests.support.small_store import run, store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.errors import ConfigError
from util.evaluation import threshold_search

TINY = {
    "about": "Tiny.",
    "config": "downstream/signal",
    "folds": [3, 9],
    "set": [
        "train.epochs=1",
        "model.channels=4",
        "dataloader.num_workers=0",
        "dataloader.batch_size=8",
        "dataset.crops_per_record=1",
    ],
    "rows": [{"name": "ours"}, {"name": "published start", "model": {"init": "published"}}],
}


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "TABLES", tmp_path)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(threshold_search, "plot_score_curves", lambda *arguments: None)
    return tmp_path


def write(folder, **changes):
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **changes}))


def reproduced(folder, *flags):
    run(
        reproduce.main,
        "tiny",
        "--device",
        "cpu",
        "--output_dir",
        folder / "out",
        "--set",
        f"dataset.store={store()}",
        *flags,
    )
    return pd.read_csv(folder / "results" / "tiny.csv", keep_default_na=False)


def test_a_table_is_run_once_and_goes_on_where_it_stopped(tables, capsys):
    write(tables)
    first = reproduced(tables, "--only", "ours", "--fold", 3)
    assert first[["row", "seed", "fold", "epochs"]].values.tolist() == [["ours", 0, 3, 1]]
    assert "interval" not in {path.suffix for path in (tables / "results").iterdir()}
    reproduced(tables, "--budget", 0)
    assert "3 trainings were not started" in capsys.readouterr().out
    every = reproduced(tables)
    assert every.iloc[0].to_dict() == first.iloc[0].to_dict() and len(every) == 4
    metrics = pd.read_csv(
        tables / "out" / "tiny" / "published_start" / "seed0" / "fold9" / "test_metrics.csv"
    )
    assert (
        every.query("row == 'published start' and fold == 9")["AUROC"].item()
        == metrics["AUROC"].item()
    )
    intervals = pd.read_csv(tables / "results" / "tiny.intervals.csv", keep_default_na=False)
    assert (
        list(intervals["row"]) == ["ours", "published start"] and intervals["difference"][0] == ""
    )
    assert "95 % interval" in intervals["difference"][1]
    page = tables / "RESULTS.md"
    page.write_text("before\n<!-- table tiny: begin -->\nold\n<!-- table tiny: end -->\nafter\n")
    for _ in range(2):  # the same again
        reproduce.write_markdown(reproduce.read_table("tiny"), page)
        text = page.read_text()
        mean = every[every["row"] == "ours"]["AUROC"].mean()
        assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
        assert (
            f"| ours | 2 | {mean:.3f} | {intervals['low'][0]:.3f} to {intervals['high'][0]:.3f} |"
            in text
        )
    log = [
        json.loads(line)
        for line in (tables / "out/tiny/ours/seed0/fold3/log.txt").read_text().splitlines()
    ]
    assert every.iloc[0]["selection_AUROC"] == pytest.approx(log[0]["valid_AUROC"], abs=1e-4)
    view = {"about": "How much too high.", "runs": "tiny", "score": "AUPRC"}
    (tables / "view.yaml").write_text(yaml.safe_dump(view))
    gap = (every["selection_AUPRC"] - every["AUPRC"])[every["row"] == "ours"].mean()
    assert f"| {gap:+.3f} |" in reproduce.markdown(reproduce.read_table("view")).splitlines()[4]


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
    scores = pd.read_csv(
        tables / "out" / "tiny" / "ours" / "seed0" / "thresholds_PRC_expected" / "scores.csv"
    )
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
    arguments = reproduce.parse_arguments(
        [
            "other",
            "--output_dir",
            str(tables / "out"),
            "--device",
            "cpu",
            "--set",
            f"dataset.store={store()}",
        ]
    )
    other = reproduce.read_table("other")["rows"][0]
    assert reproduce.encoder_of(reproduce.pretraining(other, 0, 3, arguments)).is_file()


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
    arguments = reproduce.parse_arguments(
        ["tiny", "--output_dir", str(tables), "--set", f"dataset.store={store()}"]
    )
    ours, few = reproduce.read_table("tiny")["rows"]
    unseen = {
        fold: reproduce.pretraining(ours, 0, fold, arguments).dataset.exclude_folds
        for fold in (3, 9, 5)
    }
    assert unseen == {3: [0, 3, 4, 9], 9: [0, 3, 4, 9], 5: [5, 6]}
    assert reproduce.pretraining(few, 0, 9, arguments).dataset.exclude_folds == [0, 9]
    write(tables, folds=[[3, 9], [9]])
    with pytest.raises(ConfigError, match="a list of different ones"):
        reproduce.read_table("tiny")


def test_a_row_is_compared_with_the_one_it_names(tables):
    third = {"name": "third", "model": {"init": "published"}, "against": "published start"}
    write(tables, rows=[*TINY["rows"], third], folds=[3])
    every = reproduced(tables).set_index("row")
    gap = every.loc["third", "AUROC"] - every.loc["published start", "AUROC"]
    table = reproduce.markdown(reproduce.read_table("tiny"))
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
    assert intervals["difference"][1].startswith(f"{gap:+.3f}")
    assert f"| ours: {gap:+.3f}" not in reproduce.markdown(
        reproduce.read_table("tiny")
    )  # all against the same
    with pytest.raises(ConfigError, match=r"tested on \[3, 9\]"):
        reproduced(tables, "--fold", 4)


def test_a_revision_is_no_number(tables):
    """The defect: the revision 39e4096 was read as 39 times 10 to the 4096th, and written
    as inf.
    """
    write(tables)
    table = reproduce.read_table("tiny")
    (tables / "results").mkdir(exist_ok=True)
    for fold in (3, 9):
        reproduce.add_results(
            table, [{"row": "ours", "method": "", "seed": 0, "fold": fold, "revision": "39e4096"}]
        )
    assert list(reproduce.read_results(table)["revision"]) == ["39e4096"] * 2


def test_seeds_of_a_fold_are_no_further_folds():
    test, selection = [0.1, 0.2, 0.3, 0.2, 0.1, 0.3], [0.3, 0.2, 0.4, 0.5, 0.1, 0.4]
    once = pd.DataFrame({"fold": range(6), "AUROC": test, "selection_AUROC": selection})
    assert (
        reproduce.optimism(pd.concat([once, once]), "AUROC")
        == reproduce.optimism(once, "AUROC")
        != ""
    )


def test_gates_are_weighed_by_records(tables):
    write(tables)
    table, arguments = (
        reproduce.read_table("tiny"),
        reproduce.parse_arguments(["tiny", "--output_dir", str(tables)]),
    )
    for fold, (weight, af) in {3: (0.2, 0.4), 9: (0.6, 0.8)}.items():
        folder = reproduce.place(table, table["rows"][1], 0, arguments) / f"fold{fold}"
        folder.mkdir(parents=True)
        gates = pd.DataFrame(
            {
                "class": ["all", "AF", "rare"],
                "records": [10 * fold, fold, 1],
                "signal": [weight, af, 0.9],
            }
        )
        gates.to_csv(folder / "test_gate.csv", index=False)
    reproduce.write_gates(table, arguments)
    line = reproduce.markdown(table).splitlines()[-1]
    assert (
        line == "| published start | 0.500 | AF 0.70, AF 0.70 |"
    )  # (3 * 0.2 + 9 * 0.6) / 12; rare has 2 records


def test_what_is_wrong_in_a_table_is_said(tables):
    write(tables, colour="red")
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        reproduce.read_table("tiny")
    with pytest.raises(ConfigError, match="no table huge; known: tiny"):
        reproduce.read_table("huge")
    write(tables, rows=[{"name": "ours", "against": "theirs"}])
    with pytest.raises(
        ConfigError, match="ours is compared with 'theirs', which is no row above it"
    ):
        reproduce.read_table("tiny")
    write(tables)
    with pytest.raises(ConfigError, match="rows are ours, published start"):
        reproduced(tables, "--only", "theirs")
    (tables / "RESULTS.md").write_text("nothing")
    with pytest.raises(ConfigError, match="lacks the lines"):
        reproduce.write_markdown(reproduce.read_table("tiny"), tables / "RESULTS.md")


def test_the_tables_here_are_of_configs_that_exist():
    for path in reproduce.TABLES.glob("*.yaml"):
        table = reproduce.read_table(path.stem)
        for row in table["rows"]:
            config = reproduce.resolved(row, FinetuneConfig, {})
            assert table["score"] in reproduce.config_scores(config)
            if row["pretrain"]:
                reproduce.resolved(row["pretrain"], PretrainConfig, {})
