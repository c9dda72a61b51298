"""Whole jobs on labels of one's own: unknown labels, words, numbers; on one and two
processes, resumed, predicting.
"""

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.fault_injection import differences, timeless
from experiments import predict, threshold_search
from main_finetune import finetune
from main_pretrain import pretrain
from tests.support import small_store
from tests.support.double import compute_in_double
from tests.support.jobs import run_job
from tests.support.small_store import add_table, recordings, run
from tests.support.tiny_jobs import CNN, DATA, LOADER, ST_MEM, VIT, with_store
from util.challenge import ABBREVIATIONS, CLASSES
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import check
from util.data.store import RecordStore
from util.errors import ConfigError
from util.evaluation.trained import load_trained
from util.jobs.job import LabelledJob
from util.scoring.operating_points import by_class, choose_thresholds, kept_rule
from util.scoring.predictions import Predictions
from util.scoring.thresholds import Thresholds, load_thresholds, save_thresholds
from util.weights import checkpoint

PLAIN = [
    {"random_crop": {"crop_length": 150}}
]  # amplitudes stay: they tell the recordings of small_store apart


def names():
    return RecordStore(small_store.store() / "fs100").records["record"].tolist()


def amplitude(name):
    """What the recordings of small_store differ in: 1 to 6."""
    return 1 + int(name[1:]) % 6


def some_unknown(folder):
    """Two classes after the amplitude, one label in five unknown."""
    random = np.random.default_rng(0)
    cells = [[amplitude(name) > 3, amplitude(name) % 2] for name in names()]
    rows = [
        ",".join([name, *("" if random.random() < 0.2 else str(int(value)) for value in both)])
        for name, both in zip(names(), cells)
    ]
    return add_table(folder, "some_unknown", ["record,large,odd", *rows])


def numbers(folder):
    """Two numbers after the amplitude, in units of their own; the second is unknown for
    every fourth record.
    """
    rows = [
        f"{name},{1000 + 50 * amplitude(name)},{'' if i % 4 == 3 else amplitude(name) / 100}"
        for i, name in enumerate(names())
    ]
    return add_table(folder, "numbers", ["record,size,small", *rows])


def config_for(labels, config=CNN, **changes):
    """A tiny job on a table of labels."""
    made = with_store(
        {**config, "metric": {}, "dataset": {**DATA, "transforms": PLAIN, "labels": labels}}
    )
    return {**made, **changes}


def job(config, folder, program=FinetuneConfig):
    return check({**config, "output_dir": str(folder), "exp_name": "run", "device": "cpu"}, program)


def folder_of(config):
    """The folder of a job of one fold, once it has been done."""
    (result,) = finetune(config)
    return result.folder


def lines(folder, name="log.txt"):
    return [json.loads(line) for line in (folder / "run" / name).read_text().splitlines()]


def test_patients_that_the_folds_did_not_know_are_counted(tmp_path, capsys):
    """The store knows no patients; the table does, and two records of each are wherever the
    folds put them.
    """
    rows = [f"{name},{amplitude(name) % 2},p{i // 2}" for i, name in enumerate(names())]
    config = job(
        config_for(add_table(tmp_path, "with_patients", ["record,odd,patient", *rows])), tmp_path
    )
    folds = LabelledJob(config).store.records["fold"].tolist()
    apart = sum(folds[i] != folds[i + 1] for i in range(0, len(rows), 2))
    said = capsys.readouterr().out
    assert apart and f"patients who are in several folds of the store: {apart};" in said
    alone = [row.rpartition("p")[0] + row.partition(",")[0] for row in rows]
    config = job(config_for(add_table(tmp_path, "alone", ["record,odd,patient", *alone])), tmp_path)
    LabelledJob(config)
    assert "in several folds" not in capsys.readouterr().out


def test_unknown_labels_take_no_part_from_training_to_predictions(tmp_path, capsys):
    folder = folder_of(
        job(
            config_for(some_unknown(tmp_path), metric={"target_metrics": ["AUROC", "ExactMatch"]}),
            tmp_path,
        )
    )
    told = capsys.readouterr().out
    assert "unknown labels in the training part, which take no part in loss and scores: " in told
    assert "ExactMatch cannot count " in told
    table = pd.read_csv(folder / "test_predictions.csv").set_index("record")
    given = pd.read_csv(tmp_path / "some_unknown.csv").set_index("record").loc[table.index]
    for name in ("large", "odd"):
        pd.testing.assert_series_equal(
            table[f"label_{name}"], given[name], check_names=False, check_dtype=False
        )
    assert table.filter(like="label_").isna().any(axis=None)
    values = lines(tmp_path)[-1]
    assert all(np.isfinite(values[name]) for name in ("train_loss", "valid_loss", "valid_AUROC"))


def test_a_record_whose_labels_are_all_unknown_is_not_trained_on(tmp_path, monkeypatch):
    """And one that is known of a class alone teaches that class alone."""
    some = [f"{name},{'' if i % 2 else 1},{0 if i % 4 else ''}" for i, name in enumerate(names())]
    table = add_table(tmp_path, "holes", ["record,a,b", *some])
    seen = []
    from util.jobs.job import SupervisedTask

    forward = SupervisedTask.forward
    monkeypatch.setattr(
        SupervisedTask,
        "forward",
        lambda self, batch, drawn: seen.append(batch["label"]) or forward(self, batch, drawn),
    )
    finetune(job(config_for(table), tmp_path))
    labels = torch.cat(seen)
    assert not labels.isnan().all(dim=1).any() and labels.isnan().any()


def test_words_make_a_multiclass_job(tmp_path):
    words = {1: "tiny", 2: "tiny", 3: "middling", 4: "middling", 5: "huge", 6: ""}
    table = add_table(
        tmp_path,
        "words",
        ["record,size", *(f"{name},{words[amplitude(name)]}" for name in names())],
    )
    folder = folder_of(job(config_for(table), tmp_path))
    found = pd.read_csv(folder / "test_predictions.csv").set_index("record")
    truth = [words[amplitude(name)] for name in found.index]
    assert "" not in truth
    for name in ("huge", "middling", "tiny"):
        assert found[f"label_{name}"].tolist() == [int(word == name) for word in truth]
    assert np.allclose(found.filter(like="probability_").sum(axis=1), 1, atol=1e-5)
    run(
        predict.main,
        "--weights",
        folder / "best-loss.pth",
        "--input",
        recordings() / "g1" / "E001.hea",
        "--output",
        tmp_path / "out",
        "--gpu",
        "cpu",
    )
    written = (tmp_path / "out" / "E001.csv").read_text().splitlines()
    assert written[1] == "huge,middling,tiny" and sorted(written[2].split(",")) == ["0", "0", "1"]
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["diagnoses"].iloc[0] in (
        "huge",
        "middling",
        "tiny",
    )


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """The folder of a regression of two numbers, and the table it learned."""
    folder = tmp_path_factory.mktemp("regression")
    config = config_for(numbers(folder))
    config = {
        **config,
        "train": {**config["train"], "epochs": 12, "lr": 0.02},
        "dataset": {**config["dataset"], "max_records": None},
    }
    return folder_of(job(config, folder)), pd.read_csv(folder / "numbers.csv").set_index("record")


def test_regression_learns_and_reports_in_the_labels_units(regression):
    folder, given = regression
    found = pd.read_csv(folder / "test_predictions.csv").set_index("record")
    given = given.loc[found.index]
    np.testing.assert_allclose(found["label_size"], given["size"])
    assert found["label_small"].isna().tolist() == given["small"].isna().tolist()
    errors = [np.nanmean(np.abs(found[f"prediction_{name}"] - given[name])) for name in given]
    assert errors[0] < 250 and errors[1] < 0.05, "sizes are 1050 to 1300, and 0.01 to 0.06"
    scores = pd.read_csv(folder / "test_metrics.csv").iloc[0]
    # the scores are those of unrounded predictions, and kept to 4 decimals; the file's
    # predictions have 6 digits: of a size hundredths, which its mean error may be wrong by half
    # of, and of the small ones more than the scores show
    assert 1000 <= found["prediction_size"].abs().max() < 10_000
    assert scores["MAE_size"] == pytest.approx(errors[0], abs=0.005 + 6e-5)
    assert scores["MAE_small"] == pytest.approx(errors[1], abs=6e-5)
    assert scores["MAE"] == pytest.approx(
        np.mean([scores["MAE_size"], scores["MAE_small"]]), abs=1.1e-4
    )
    assert {"loss", "MAE", "R2", "MAE_low", "MAE_high", "R2_low"} <= set(scores.index)
    logged = lines(folder.parent)
    best = checkpoint.load(folder / "best-MAE.pth")
    assert best["metrics"]["MAE"] == pytest.approx(min(line["valid_MAE"] for line in logged)), (
        "the smallest is best"
    )
    assert logged[-1]["train_loss"] < 0.9 * logged[0]["train_loss"]


def test_weights_of_a_regression_predict_in_its_units(regression, tmp_path):
    folder, given = regression
    tested = pd.read_csv(folder / "test_predictions.csv").set_index("record")
    trained = load_trained(folder / "best-loss.pth")
    assert trained.task == "regression" and trained.codes == trained.classes == ("size", "small")
    folds = RecordStore(small_store.store() / "fs100").records["fold"].to_numpy()
    np.testing.assert_allclose(
        trained.criterion.mean, given[(folds != 0) & (folds != 1)].mean(), rtol=1e-6
    )
    run(
        predict.main,
        "--weights",
        folder / "best-loss.pth",
        "--input",
        recordings(),
        "--output",
        tmp_path,
        "--gpu",
        "cpu",
    )
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("record")
    assert "diagnoses" not in summary and len(summary) == 80
    for name in ("size", "small"):
        np.testing.assert_allclose(
            summary.loc[tested.index, name], tested[f"prediction_{name}"], rtol=2e-4
        )
    run(
        predict.main,
        "--weights",
        folder / "best-loss.pth",
        "--input",
        recordings() / "g1" / "E002",
        "--output",
        tmp_path,
        "--gpu",
        "cpu",
        "--plot",
    )
    assert (tmp_path / "E002.png").read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "E002.csv").read_text().splitlines()
    assert written[:2] == ["#E002", "size,small"] and len(written) == 3
    assert [float(cell) for cell in written[2].split(",")] == pytest.approx(
        summary.loc["E002", ["size", "small"]]
    )


def test_a_linear_probe_of_numbers_trains_the_head_alone(regression, tmp_path):
    folder, _ = regression
    config = config_for(
        "numbers", mode="linprobe", encoder_path=str(folder / "encoder.pth"), loss="l1"
    )
    mine = folder_of(job(config, tmp_path))
    before, after = (checkpoint.load(path / "encoder.pth")["model"] for path in (folder, mine))
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert np.isfinite(pd.read_csv(mine / "test_metrics.csv")["MAE"].iloc[0])


@pytest.mark.parametrize(
    "make, key, score", [(some_unknown, "probe_auroc", "AUROC"), (numbers, "probe_r2", "R2")]
)
def test_the_probe_of_pre_training_says_what_it_measures(tmp_path, capsys, make, key, score):
    config = with_store(
        {**ST_MEM, "dataset": {**DATA, "labels": make(tmp_path), "max_records": None}},
        probe_every=1,
    )
    pretrain(job(config, tmp_path, PretrainConfig))
    assert f"epoch 2: linear probe {score} " in capsys.readouterr().out
    assert all(
        np.isfinite(line[key]) and np.isfinite(line[f"{key}_untrained"]) for line in lines(tmp_path)
    )


def test_threshold_search_refuses_other_classes_and_leaves_out_unknown_records(tmp_path, capsys):
    folder = folder_of(
        job(
            config_for(some_unknown(tmp_path), metric={"target_metrics": ["AUROC", "AUPRC"]}),
            tmp_path,
        )
    )
    search = ("--weight_folder", folder, "--gpu", "cpu", "--best-type", "ROC")
    with pytest.raises(ConfigError, match="other classes than the Challenge's 24.*--method f1"):
        run(threshold_search.main, *search)
    random = np.random.default_rng(1)
    cells = np.where(
        random.random((80, 24)) < 0.03, "", random.integers(0, 2, (80, 24)).astype(str)
    )
    table = add_table(
        tmp_path,
        "challenge",
        [
            ",".join(["record", *ABBREVIATIONS]),
            *(",".join([name, *row]) for name, row in zip(names(), cells)),
        ],
    )
    config = config_for(table, metric={"target_metrics": ["AUROC", "AUPRC", "ChallengeScore"]})
    config = {**config, "train": {**config["train"], "epochs": 1}}
    folder = folder_of(job(config, tmp_path / "other"))
    capsys.readouterr()
    run(threshold_search.main, "--weight_folder", folder, "--gpu", "cpu", "--best-type", "ROC")
    told = capsys.readouterr().out
    tested = pd.read_csv(folder / "test_predictions.csv").set_index("record").filter(like="label_")
    left_out = tested.isna().any(axis=1).sum()
    assert (
        left_out
        and f"records with an unknown label, left out of the test part: {left_out} of {len(tested)}"
        in told
    )
    scores = pd.read_csv(folder / "thresholds_ROC_expected" / "scores.csv")
    assert scores["records"].tolist()[1] == len(tested) - left_out
    assert load_trained(folder / "best-loss.pth").codes == CLASSES, (
        "its thresholds serve predict.py"
    )


def test_own_labels_have_thresholds_by_f1_youden_or_a_sensitivity(tmp_path):
    """Of all known labels, also in records with unknown ones; predict.py takes them."""
    folder = folder_of(
        job(
            config_for(some_unknown(tmp_path), metric={"target_metrics": ["AUROC", "AUPRC"]}),
            tmp_path,
        )
    )
    weights = folder / "best-AUROC.pth"
    for rule in ("f1", "youden", "sensitivity=0.9"):
        search = ("--weight_folder", folder, "--gpu", "cpu", "--best-type", "ROC")
        run(threshold_search.main, *search, "--method", rule)
        made = folder / f"thresholds_ROC_{rule}"
        with np.load(folder / "predictions" / "best-AUROC_fold0.npz") as file:
            parts = {p: Predictions.from_arrays(dict(file), p) for p in ("valid", "test")}
        assert np.isnan(parts["test"].labels).any() and len(parts["test"]) == 4
        expected = choose_thresholds(parts["valid"].labels, parts["valid"].outputs, rule)
        found = load_thresholds(made / "thresholds.json")
        np.testing.assert_array_equal(found.thresholds, expected)
        assert (found.codes, found.method) == (("large", "odd"), rule)
        kept = load_trained(weights).thresholds[kept_rule(rule, load_trained(weights).thresholds)]
        np.testing.assert_allclose(kept, expected, atol=1e-6)  # as training chose them
        scores = pd.read_csv(made / "scores.csv").set_index("part")
        decided = parts["test"].outputs >= expected
        sensitivity = by_class(parts["test"], decided)["sensitivity"].mean()
        assert scores.loc["test", "sensitivity"] == pytest.approx(sensitivity, abs=1e-5)
        assert scores.loc["test", "records"] == len(parts["test"])
        table = pd.read_csv(made / "classes_fold0.csv")
        assert table["class"].tolist() == ["large", "odd"]
    words = ["--weights", weights, "--input", recordings(), "--output", tmp_path / "out"]
    run(predict.main, *words, "--gpu", "cpu", "--thresholds", made / "thresholds.json")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv", keep_default_na=False)
    for name, threshold in zip(found.codes, found.thresholds):
        named = summary["diagnoses"].str.split("; ").map(lambda said, name=name: name in said)
        apart = (summary[name] - threshold).abs() > 1e-5
        assert (named == (summary[name] >= threshold))[apart].all()


def test_classes_that_exclude_each_other_have_no_thresholds(tmp_path):
    """Even of the Challenge's 24."""
    config = with_store(
        {**CNN, "metric": {"task": "multiclass", "target_metrics": ["AUROC", "AUPRC"]}}
    )
    folder = folder_of(job({**config, "train": {**config["train"], "epochs": 1}}, tmp_path))
    with pytest.raises(ConfigError, match="24, multi-label"):
        run(threshold_search.main, "--weight_folder", folder, "--gpu", "cpu")
    save_thresholds(tmp_path / "half.json", Thresholds(np.full(24, 0.5), 0.1, 10, "by hand"))
    with pytest.raises(ConfigError, match="24 classes, multi-label"):
        run(
            predict.main,
            "--weights",
            folder / "best-loss.pth",
            "--input",
            recordings(),
            "--output",
            tmp_path / "out",
            "--thresholds",
            tmp_path / "half.json",
            "--gpu",
            "cpu",
        )


# ============ the numbers of one process ============
def test_two_processes_give_the_numbers_of_one(tmp_path):
    """In float64, though one has more known labels than the other."""
    table = some_unknown(tmp_path)
    one = run_job("main_finetune", config_for(table), tmp_path / "1", patch=compute_in_double)
    two = run_job(
        "main_finetune",
        {**config_for(table), "dataloader": {**LOADER, "batch_size": 4}},
        tmp_path / "2",
        world=2,
        patch=compute_in_double,
    )
    assert one.statuses == [0] and two.statuses == [0, 0], one.text + two.text
    for name in ("log_steps.txt", "log.txt"):
        a, b = (timeless(tmp_path / world / "run" / name) for world in ("1", "2"))
        assert len(a) == len(b) > 1
        for mine, yours in zip(a, b):
            # of float32 labels, torch's cross-entropy is float32 once more; what it hands back is
            # not
            assert mine == pytest.approx(yours, rel=1e-6, nan_ok=True)


def test_a_run_is_not_resumed_on_other_labels(tmp_path):
    """A table may be replaced under its name; regression would go on with targets of
    another mean.
    """
    config = config_for(numbers(tmp_path))
    assert run_job("main_finetune", config, tmp_path / "a", stop_at=("step", 7)).statuses == [
        -signal.SIGKILL
    ]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert run_job("main_finetune", config, tmp_path / "a").statuses == [0]
    add_table(
        tmp_path,
        "numbers",
        [
            "record,size,small",
            *(f"{name},{amplitude(name)},{-i}" for i, name in enumerate(names())),
        ],
    )
    resumed = run_job("main_finetune", config, tmp_path / "b")
    numbers(tmp_path)  # as the other tests know it
    words = "which differs in dataset.store (the records, folds or labels that it holds)"
    assert resumed.statuses == [2] and words in resumed.text


def test_a_resumed_regression_equals_an_undisturbed_one(tmp_path):
    config = config_for(numbers(tmp_path), VIT)
    assert run_job("main_finetune", config, tmp_path / "a").statuses == [0]
    stopped = run_job(
        "main_finetune", config, tmp_path / "b", stop_at=("step", 7), number=signal.SIGKILL
    )
    assert stopped.statuses == [-signal.SIGKILL]
    assert run_job("main_finetune", config, tmp_path / "b").statuses == [0]
    assert differences(tmp_path / "a" / "run", tmp_path / "b" / "run") == []
