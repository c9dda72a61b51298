"""Encoders compared by one command, on the small store."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from data_preparation import add_splits
from experiments import evaluate
from experiments.evaluation import frozen
from experiments.evaluation.candidates import read_candidates
from experiments.evaluation.cells import Cell, Settings, weights_of
from main_finetune import finetune
from main_pretrain import pretrain
from tests.support.small_store import add_table, run, store
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check, load_config
from util.data.store import checksum
from util.errors import ConfigError
from util.evaluation.neighbours import score_neighbours

METHODS = {
    "cpc": {
        "model_name": "cpc",
        "model": {"encoder": {"name": "cpc_lstm", "channels": 8}, "ahead": 2, "negatives": 4},
    },
    "simclr": {
        "model_name": "simclr",
        "model": {"encoder": {"name": "xresnet1d18", "channels": 4}},
    },
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """encoder.pth of one step of a pre-training, by method: one with tokens, one without."""
    folder = tmp_path_factory.mktemp("pretrained")
    for name, method in METHODS.items():
        config = {
            **method,
            "output_dir": str(folder),
            "exp_name": name,
            "device": "cpu",
            "dataset": {"store": str(store()), "fs": 100, "crop": 250, "exclude_folds": [3, 4]},
            "dataloader": {"batch_size": 8, "num_workers": 0},
            "train": {"epochs": 1, "steps_per_epoch": 1, "lr": 1e-3},
        }
        pretrain(check(config, PretrainConfig))
    return {name: folder / name / "encoder.pth" for name in METHODS}


def evaluated(folder, weights, *flags, fold=3):
    run(
        evaluate.main,
        *("--weights", *weights, "--device", "cpu", "--output_dir", folder, "--bootstrap", 50),
        *("--set", f"dataset.store={store()}", "--set", f"dataset.fold={fold}", *flags),
    )
    text = {"task": str, "definition": str, "store": str, "weights": str}
    return pd.read_csv(folder / "results.csv", dtype=text)


def test_one_command_compares_encoders_by_modes_tasks_and_labels(encoders, tmp_path, capsys):
    names = [f"E{i:03d},{int(i % 3 == 0)},{int(i % 4 == 0)}" for i in range(80)]
    task = add_table(tmp_path, "compared", ["record,beats,late", *names])
    given = [*encoders.values(), "random:2"]
    flags = ("--tasks", task, "--labels", 50, 100, "--steps", 2)
    table = evaluated(tmp_path / "out", given, *flags)
    said = capsys.readouterr().out
    assert "simclr has no tokens to attend to, so no mode attention" in said
    rows = table.groupby(["encoder", "mode"]).size().to_dict()
    ours = dict.fromkeys(["knn", "linear", "finetune", "linear-then-finetune"], 2)
    wanted = {("simclr", mode): n for mode, n in ours.items()}
    wanted |= {("cpc", mode): n for mode, n in (ours | {"attention": 2}).items()}
    wanted |= {("random", mode): 4 for mode in ("knn", "linear", "attention")}
    wanted |= {("scratch", mode): 2 for mode in ("finetune", "linear-then-finetune")}
    assert rows == wanted
    assert table["value"].between(0, 1).all() and table["seed"].max() == 1
    trained = table[table["mode"].isin(["attention", "finetune", "linear-then-finetune"])]
    assert trained["steps"].nunique() == 1 and set(table["steps"]) == {0, 2}
    assert set(table["training_records"].groupby(table["labels"]).nunique()) == {1}
    compared = pd.read_csv(tmp_path / "out" / "table.csv", keep_default_na=False)
    assert set(compared["against"]) == {"", "random", "scratch", "cpc"}
    page = (tmp_path / "out" / "table.md").read_text()
    assert page.rstrip() in said and "- note: simclr has no tokens to attend to" in page
    assert r"\begin{tabular}" in (tmp_path / "out" / "table.tex").read_text()

    before = (tmp_path / "out" / "results.csv").read_bytes()
    again = evaluated(tmp_path / "out", given, *flags)
    assert "cells done" not in capsys.readouterr().out
    assert (tmp_path / "out" / "results.csv").read_bytes() == before and len(again) == len(table)

    changed = evaluated(tmp_path / "out", given, *flags[:-1], 4)
    said = capsys.readouterr().out
    assert f"{len(trained)} results are of another definition, store or encoder" in said
    frozen_modes = changed["mode"].isin(["knn", "linear"])
    assert set(changed[~frozen_modes]["steps"]) == {4} and len(changed) == len(table)
    pd.testing.assert_frame_equal(
        changed[frozen_modes].reset_index(drop=True),
        table[table["mode"].isin(["knn", "linear"])].reset_index(drop=True),
    )
    gone = next((tmp_path / "out" / "cells" / "cpc").rglob("linear-50-*")) / "seed0" / "fold3"
    (gone / "test_predictions.npz").unlink()
    evaluated(tmp_path / "out", given, *flags[:-1], 4)
    assert "1 of 1 cells done" in capsys.readouterr().out


def test_frozen_numbers_are_those_of_knn_py_and_of_mode_probe(encoders, tmp_path, monkeypatch):
    """With one crop a record: a probability is that of the mean of several crops' logits here."""
    monkeypatch.setattr(frozen, "NEIGHBOURS", (7,))
    monkeypatch.setattr(frozen, "PENALTIES", (0.03,))
    one = "dataset.eval_crops=1"
    modes = ("--modes", "knn", "linear", "--set", one)
    table = evaluated(tmp_path / "out", [encoders["cpc"], "random:1"], *modes, fold="[3, 9]")
    values = table[table["encoder"] == "cpc"].set_index(["mode", "fold"])["value"]
    candidate = read_candidates([str(encoders["cpc"])], None)[0]
    more = {
        "mode": "probe",
        "encoder_path": str(encoders["cpc"]),
        "output_dir": str(tmp_path),
        "exp_name": "probe",
        "device": "cpu",
        "metric": {"target_metrics": ["AUROC"]},
        "test": {"target_metric": "AUROC"},
    }
    overlay = "configs/overlay/evaluation.yaml"
    given = [f"dataset.store={store()}", "dataset.fold=[3, 9]", one]
    config = load_config([candidate.layer, overlay], given, more, program=FinetuneConfig)
    for result in finetune(config):
        assert values["linear", result.fold] == pytest.approx(result.scores["AUROC"], abs=1e-6)
    asked = load_config(
        [candidate.layer, overlay], given, {**more, "exp_name": "asked"}, program=FinetuneConfig
    )
    for result in score_neighbours(asked, 7):
        assert values["knn", result.fold] == pytest.approx(result.scores["AUROC"], abs=1e-6)


def test_tasks_of_numbers_and_of_one_class_a_record(encoders, tmp_path, capsys):
    numbers = add_table(
        tmp_path, "2020", ["record,years", *(f"E{i:03d},{i * 7 % 50}.5" for i in range(80))]
    )
    words = [f"E{i:03d},{'abc'[i % 3]}" for i in range(80)]
    kinds = add_table(tmp_path, "kinds", ["record,kind", *words])
    weights = [encoders["cpc"], "random:2"]
    modes = ("--modes", "knn", "linear", "finetune", "--steps", 2)
    table = evaluated(tmp_path / "out", weights, "--tasks", numbers, kinds, *modes)
    scores = table.groupby("task")["score"].unique().map(list).to_dict()
    assert scores == {"kinds": ["AUROC"], "2020": ["R2"]}
    assert table[table["task"] == "2020"]["value_common"].isna().all()
    assert table["value"].notna().all()
    capsys.readouterr()
    evaluated(tmp_path / "out", weights, "--tasks", numbers, kinds, *modes)
    assert "cells done" not in capsys.readouterr().out, "a name of digits is a name"


def test_random_weights_are_the_network_before_its_training(encoders, tmp_path):
    """Of each seed another, the same again; with the statistics of the training folds."""
    from util.weights import checkpoint

    evaluated(tmp_path / "out", [encoders["cpc"], "random:2"], "--modes", "knn")
    files = sorted((tmp_path / "out" / "random").glob("*.pth"))
    states = [checkpoint.load(file)["model"] for file in files]
    trained = checkpoint.load(encoders["cpc"])["model"]
    assert len(files) == 2 and states[0].keys() == trained.keys()
    name = "lstm.weight_ih_l0"
    assert not np.allclose(states[0][name], states[1][name])
    assert np.allclose(states[0][name], trained[name], atol=0.01), "seed 0, one step away"
    assert states[0]["standardize.std"].ne(1).any()


def test_what_is_wrong_is_said_before_anything_is_run(encoders, tmp_path):
    first = str(encoders["cpc"])
    for flags, message in (
        (["--labels", 0], "above 0 and up to 100"),
        (["--steps", 0], "whole numbers from 1"),
        (["--tasks", "nothing"], "has no table of labels 'nothing'"),
        (["--set", "dataset.protocol=published"], "chooses on the fold that it tests"),
        (
            ["--set", "dataset.protocol=leave_one_database", "--set", "dataset.fold=all"],
            "every fold tests the same records",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluated(tmp_path / "out", [first], "--modes", "knn", *flags)
    with pytest.raises(ConfigError, match="no encoder has a mode attention"):
        evaluated(tmp_path / "out", [encoders["simclr"]], "--modes", "attention")
    with pytest.raises(ConfigError, match="names no encoder"):
        evaluated(tmp_path / "out", ["random:2"], "--modes", "knn")
    with pytest.raises(ConfigError, match="give one random:N"):
        evaluated(tmp_path / "out", [first, "random:0"], "--modes", "knn")
    with pytest.raises(ConfigError, match="twice"):
        evaluated(tmp_path / "out", [first, first], "--modes", "knn")
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_has_seen_tested_labels_is_refused_first(encoders, tmp_path):
    candidate = read_candidates([str(encoders["simclr"])], None)[0]
    more = {"mode": "scratch", "output_dir": str(tmp_path), "exp_name": "seen", "device": "cpu"}
    given = [f"dataset.store={store()}", "dataset.fold=4", "train.steps_per_epoch=1"]
    layers = [candidate.layer, "configs/overlay/evaluation.yaml"]
    (seen,) = finetune(load_config(layers, given, more, program=FinetuneConfig))
    with pytest.raises(ConfigError, match="was trained with labels .*--allow_label_overlap"):
        evaluated(tmp_path / "out", [seen.folder / "encoder.pth"], "--modes", "knn", fold=3)
    assert not (tmp_path / "out").exists()


def test_a_pre_training_that_read_the_tested_records_is_named(encoders, tmp_path, capsys):
    evaluated(tmp_path / "a", [encoders["cpc"], "random:1"], "--modes", "knn", fold=3)
    assert "pre-trained on this store" not in capsys.readouterr().out
    evaluated(tmp_path / "b", [encoders["cpc"], "random:1"], "--modes", "knn", fold=5)
    assert "cpc was pre-trained on this store, without labels, and on the records of fold 5" in (
        capsys.readouterr().out
    )
    rows = [f"E{i:03d},{('train', 'train', 'valid', 'test')[i % 4]}" for i in range(80)]
    (tmp_path / "parts.csv").write_text("\n".join(["record,split", *rows]))
    run(add_splits.main, store(), tmp_path / "parts.csv", "--name", "evaluated_parts")
    flags = ["dataset.protocol=given", "dataset.splits=evaluated_parts"]
    given = ("--modes", "knn", *(word for flag in flags for word in ("--set", flag)))
    evaluated(tmp_path / "c", [encoders["cpc"], "random:1"], *given, fold=0)
    assert "on records which are tested here (dataset.exclude_parts)" in capsys.readouterr().out


def test_records_of_a_pre_training_elsewhere_are_not_known(encoders, tmp_path, capsys):
    """The defect: a store under another path was taken for one of other records, in silence."""
    moved, other = tmp_path / "moved", tmp_path / "other"
    for place in (moved, other):
        shutil.copytree(store(), place)
    meta = other / "fs100" / "meta.json"
    stored = json.loads(meta.read_text())
    table = (other / "fs100" / "records.csv").read_text().replace("Female", "Male")
    (other / "fs100" / "records.csv").write_text(table)
    meta.write_text(json.dumps({**stored, "records_crc32": checksum(table.encode())}))
    for place, said in ((moved, "on this store"), (other, "on another store")):
        flags = ("--modes", "knn", "--set", f"dataset.store={place}")
        evaluated(place / "out", [encoders["cpc"], "random:1"], *flags, fold=5)
        assert f"cpc was pre-trained {said}" in capsys.readouterr().out


def test_random_weights_are_of_one_task_and_one_store(encoders, tmp_path):
    """The defect: their input was standardised by the task, and the store, that came first."""
    rows = [f"E{i:03d},{i % 2}" for i in range(80)]
    task = add_table(tmp_path, "halves", ["record,half", *rows])
    random = read_candidates([str(encoders["simclr"])], None)[1]

    def path_of(task, place):
        cell = Cell(random, task, "knn", 100.0, 0, 3)
        return weights_of(cell, Settings(str(tmp_path), overrides=[f"dataset.store={place}"]))

    other = tmp_path / "other"
    shutil.copytree(store(), other)
    meta = other / "fs100" / "meta.json"
    stored = json.loads(meta.read_text())
    meta.write_text(json.dumps({**stored, "blocks": ["of other signals"]}))
    paths = [path_of("own", store()), path_of(task, store()), path_of("own", other)]
    assert len(set(paths)) == 3 and paths[0] == path_of("own", store())


def test_random_weights_are_of_one_way_to_read_records(encoders, tmp_path):
    """The defect: in an old folder their input stayed standardised as under earlier --set, by
    records that are now tested, or at another scale.
    """
    random = read_candidates([str(encoders["simclr"])], None)[1]
    cell = Cell(random, "own", "knn", 100.0, 0, 3)
    given = ((), ("dataset.databases=[EX]",))
    paths = {
        weights_of(cell, Settings(str(tmp_path), overrides=[f"dataset.store={store()}", *more]))
        for more in given
    }
    same = Cell(random, "own", "linear", 10.0, 0, 3)
    again = weights_of(same, Settings(str(tmp_path), overrides=[f"dataset.store={store()}"]))
    assert len(paths) == 2 and again in paths
