"""experiments/threshold_search.py on weights that training wrote."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import run_signal, threshold_search
from main_finetune import main as finetune_main
from tests.support.made_predictions import made
from tests.support.small_store import TINY, run, store, trained_signal
from util.challenge import ABBREVIATIONS
from util.config.load import ROOT
from util.data.store import RecordStore
from util.errors import CheckpointError, ConfigError
from util.evaluation import threshold_search as searching
from util.evaluation.trained import find_weights
from util.jobs import job
from util.reports.comparison import read_run
from util.scoring.decoding import expected_outputs
from util.scoring.predictions import Predictions
from util.scoring.scores import REPORT, SCORES, challenge_score, compute_scores, parse_scores
from util.scoring.thresholds import Thresholds, load_thresholds, search_ascent, search_published

SIGNAL = ROOT / "configs" / "downstream" / "signal.yaml"


@pytest.fixture()
def folder(tmp_path):
    """A --save_folder of a training, free to write into."""
    for path in trained_signal().glob("*.pth"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """Figures take seconds; one test draws them."""
    if "finds_what" not in request.node.name:
        monkeypatch.setattr(searching, "plot_score_curves", lambda *arguments: None)


def search(folder, *flags):
    method = () if "--method" in flags else ("--method", "ascent")
    run(threshold_search.main, "--weight_folder", folder, "--gpu", "cpu", *method, *flags)


def saved_part(folder, name, fold, best="PRC"):
    with np.load(
        folder / "predictions" / f"fold{fold}_best{best}_fold{fold}.npz", allow_pickle=False
    ) as file:
        predictions = Predictions.from_arrays(dict(file), name)
    return predictions.records, predictions.labels > 0, predictions.outputs


def test_both_spellings_of_best_type():
    for flag in ("--best-type", "--best_type"):
        assert (
            threshold_search.parse_arguments(["--weight_folder", "F", flag, "ROC"]).best_type
            == "ROC"
        )


def test_defect_8_published_command_finds_what_training_wrote(folder, capsys):
    run(
        threshold_search.main,
        "--weight_folder",
        folder,
        "--gpu",
        "cpu",
        "--model_type",
        "signal",
        "--best-type",
        "ROC",
    )
    made = {"thresholds.json", "thresholds_fold3.json", "thresholds_fold9.json", "scores.csv"}
    assert {path.name for path in (folder / "thresholds_ROC_expected").iterdir()} == made
    search(folder, "--best-type", "ROC")
    assert {path.name for path in (folder / "thresholds_ROC_ascent").iterdir()} == made | {
        "fold3.png",
        "fold9.png",
    }
    text = capsys.readouterr().out
    assert "fold3_bestROC.pth" in text
    assert (
        "part\tfold\trecords\tAUROC\tAUPRC\tExactMatch\tChallengeF1\tF2\tG2\tChallengeScore" in text
    )
    assert "published headings: Acc is ExactMatch, F1 is ChallengeF1, CM is ChallengeScore" in text


@pytest.mark.parametrize("method", ["ascent", "published"])
def test_defect_9_thresholds_come_from_the_selection_fold_alone(folder, method):
    search(folder, "--method", method, "--fold", 9, "--min_positives", 0)
    small = RecordStore(store() / "fs100")
    fold_of = dict(zip(small.records["record"], small.records["fold"]))
    parts = {name: saved_part(folder, name, 9) for name in ("valid", "test")}
    assert {fold_of[record] for record in parts["valid"][0]} == {0}, "fold 9 selects on fold 0"
    assert {fold_of[record] for record in parts["test"][0]} == {9}
    _, labels, probabilities = parts["valid"]
    expected = (search_ascent if method == "ascent" else search_published)(labels, probabilities)
    found = load_thresholds(folder / f"thresholds_PRC_{method}" / "thresholds.json")
    np.testing.assert_array_equal(found.thresholds, expected.thresholds)
    _, labels, probabilities = parts["test"]
    scores = compute_scores(
        probabilities, labels, parse_scores(REPORT, ABBREVIATIONS), "multilabel", found.thresholds
    )
    row = (
        pd.read_csv(folder / f"thresholds_PRC_{method}" / "scores.csv")
        .set_index("part")
        .loc["test"]
    )
    for name, value in scores.items():
        assert row[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_pooled_thresholds_come_from_all_selection_folds_but_the_tested_one():
    """Weights of folds 3, 4 and 9 select on 4, 5 and 0: those of fold 4 must not search on the
    first.
    """
    labels, scores = np.eye(24, dtype=bool), np.full((24, 24), 0.5)
    searched = {
        fold: (select, made(scores, labels, records=np.full(24, f"of {select}")))
        for fold, select in ((3, 4), (4, 5), (9, 0))
    }
    sets = searching.search_sets("pooled", searched)
    assert {fold: sorted(set(part.records)) for fold, part in sets.items()} == {
        3: ["of 0", "of 4", "of 5"],
        4: ["of 0", "of 5"],
        9: ["of 0", "of 4", "of 5"],
    }
    assert len(sets[4].labels) == len(sets[4].outputs) == 48
    assert searching.search_sets("ascent", searched)[4].records[0] == "of 5"
    with pytest.raises(ConfigError, match="weights of several folds"):
        searching.search_sets("pooled", {3: (3, searched[3][1])})  # protocol published, one fold


def test_pooled_thresholds_for_new_patients_are_searched_on_all_selection_folds(folder):
    search(folder, "--method", "pooled", "--min_positives", 0)
    _, labels, probabilities = (
        np.concatenate(both)
        for both in zip(*(saved_part(folder, "valid", fold) for fold in (3, 9)))
    )
    made = folder / "thresholds_PRC_pooled"
    for name in ("thresholds", "thresholds_fold3"):  # neither selects on fold 3 or 9
        np.testing.assert_array_equal(
            load_thresholds(made / f"{name}.json").thresholds,
            search_ascent(labels, probabilities).thresholds,
        )


def test_decoding_by_expected_score_searches_nothing(folder):
    search(folder, "--method", "expected")
    made = folder / "thresholds_PRC_expected"
    assert {path.name for path in made.iterdir()} == {
        "thresholds.json",
        "thresholds_fold3.json",
        "thresholds_fold9.json",
        "scores.csv",
    }
    table = pd.read_csv(made / "scores.csv").set_index(["part", "fold"])
    for part, fold, of in (
        ("search", "4", 3),
        ("search", "0", 9),
        ("test", "3", 3),
        ("test", "9", 9),
    ):
        _, labels, probabilities = saved_part(folder, {"search": "valid"}.get(part, part), of)
        assert table.loc[(part, fold), "ChallengeScore"] == pytest.approx(
            challenge_score(labels, expected_outputs(probabilities)), abs=1e-5
        )
    found = load_thresholds(made / "thresholds.json")
    assert found.thresholds is None and found.method == "expected score"


def test_every_table_gives_the_same_number_under_the_same_name(folder, tmp_path):
    """Of one prediction file: test_metrics.csv, the summary over folds, compare_runs, and the
    threshold report, whose thresholds are set to those of training's test.
    """
    fold3 = trained_signal() / "fold3"
    predictions = pd.read_csv(fold3 / "test_predictions.csv")
    labels, probabilities = (
        predictions.filter(regex=f"^{kind}_").to_numpy() for kind in ("label", "probability")
    )
    multilabel = [name for name, score in SCORES.items() if "multilabel" in score.tasks]
    every = compute_scores(
        probabilities, labels, parse_scores(multilabel, ABBREVIATIONS), "multilabel"
    )
    search(folder, "--fold", 3, "--best-type", "ROC")
    records, truth, outputs = saved_part(folder, "test", 3, "ROC")
    part = made(outputs, truth, ABBREVIATIONS, records=records)
    half = Thresholds(np.full(24, np.nextafter(0.5, 1)), 0.0, 0, "one half")  # on above 0.5
    tables = [
        pd.read_csv(fold3 / "test_metrics.csv").iloc[0],
        pd.read_csv(trained_signal() / "summary.csv").set_index("fold").loc["3"],
        read_run(fold3).test().iloc[0],
        searching.report(3, 4, part, half, part).set_index("part").loc["test"],
    ]
    searched = (
        pd.read_csv(folder / "thresholds_ROC_ascent" / "scores.csv").set_index("part").loc["test"]
    )
    tables.append(searched[["AUROC", "AUPRC"]])  # the others depend on the searched thresholds
    seen = set()
    for table in tables:
        for name in table.index.intersection(every):
            assert table[name] == pytest.approx(every[name], abs=1e-4, nan_ok=True), name
            seen.add(name)
        assert set(table.index) <= {*every, "loss", "fold", "records", "weights of fold"}, (
            "a name of its own"
        )
    assert seen == {*REPORT, "F1Score"}, "what this config and the report ask for"


def test_predictions_are_those_of_training_s_own_test(folder):
    search(folder, "--fold", 3, "--best-type", "ROC")
    records, _, probabilities = saved_part(folder, "test", 3, "ROC")
    table = (
        pd.read_csv(trained_signal() / "fold3" / "test_predictions.csv")
        .set_index("record")
        .loc[records]
    )
    expected = table[[f"probability_{name}" for name in ABBREVIATIONS]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_predictions_are_kept_until_the_weights_change(folder, capsys):
    search(folder, "--fold", 3)
    assert "earlier search" not in capsys.readouterr().out
    search(folder, "--fold", 3, "--method", "published")
    assert "earlier search" in capsys.readouterr().out
    content = torch.load(folder / "fold3_bestPRC.pth", weights_only=True)
    bias = [name for name in content["model"] if name.startswith("head.")][-1]
    content["model"][bias] += 1
    torch.save(content, folder / "fold3_bestPRC.pth")
    before = saved_part(folder, "valid", 3)[2]
    search(folder, "--fold", 3)
    assert "earlier search" not in capsys.readouterr().out
    assert (saved_part(folder, "valid", 3)[2] > before).mean() > 0.99
    (folder / "predictions" / "fold3_bestPRC_fold3.npz").write_bytes(b"torn")
    search(folder, "--fold", 3)


def test_several_folds_are_averaged_and_their_thresholds_joined_by_the_median(folder, capsys):
    search(folder)
    made = folder / "thresholds_PRC_ascent"
    table = pd.read_csv(made / "scores.csv")
    each = table[(table["part"] == "test") & table["fold"].isin(["3", "9"])]
    mean = table[(table["part"] == "test") & (table["fold"] == "mean")].iloc[0]
    assert len(each) == 2 and mean["ChallengeScore"] == pytest.approx(
        each["ChallengeScore"].mean(), abs=1e-5
    )
    folds = [load_thresholds(made / f"thresholds_fold{k}.json").thresholds for k in (3, 9)]
    np.testing.assert_array_equal(
        load_thresholds(made / "thresholds.json").thresholds, np.median(folds, axis=0)
    )
    assert "==== 2 folds ====" in capsys.readouterr().out


def test_ascent_never_ends_below_published_on_the_search_fold(folder):
    for method in ("ascent", "published"):
        search(folder, "--method", method)
    tables = [
        pd.read_csv(folder / f"thresholds_PRC_{method}" / "scores.csv")
        for method in ("ascent", "published")
    ]
    scores = [table.query("part == 'search'")["ChallengeScore"].to_numpy() for table in tables]
    assert (scores[0][:3] >= scores[1][:3] - 1e-6).all()  # both folds and their mean


def test_rare_classes_share_a_threshold_and_the_table_says_so(folder, capsys):
    search(folder, "--fold", 3, "--min_positives", 2)
    found = load_thresholds(folder / "thresholds_PRC_ascent" / "thresholds.json")
    labels = saved_part(folder, "valid", 3)[1]
    text = capsys.readouterr().out
    if found.shared:
        assert set(found.shared) == set(np.flatnonzero(labels.sum(axis=0) < 2))
        assert (
            f"share the threshold {found.thresholds[found.shared[0]]:.4f}" in text
            and "PR (0)" in text
        )
    else:
        assert "rare classes as published" in text


def test_results_of_main_finetune_are_found_too(tmp_path):
    with_config = [
        "--config_path",
        str(SIGNAL),
        "--output_dir",
        str(tmp_path),
        "--exp_name",
        "lone",
        "--set",
        f"dataset.store={store()}",
        "--set",
        "dataset.fold=6",
        "--set",
        "train.epochs=1",
        "--set",
        "dataloader.batch_size=8",
        *TINY[:4],
        "--set",
        "device=cpu",
    ]
    run(finetune_main, *with_config)
    assert find_weights(tmp_path / "lone", "PRC") == {6: tmp_path / "lone" / "best-AUPRC.pth"}
    search(tmp_path / "lone")
    assert (tmp_path / "lone" / "thresholds_PRC_ascent" / "thresholds.json").is_file()


def test_published_protocol_searches_where_it_reports_and_says_so(tmp_path, capsys):
    run(
        run_signal.main,
        "--fold",
        1,
        "--num_epoches",
        1,
        "--save_folder",
        tmp_path,
        *TINY,
        "--set",
        f"dataset.store={store()}",
        "--set",
        "dataset.protocol=published",
    )
    search(tmp_path)
    assert "optimistic" in capsys.readouterr().out.split("==== fold 1")[1]
    np.testing.assert_array_equal(
        saved_part(tmp_path, "valid", 1)[0], saved_part(tmp_path, "test", 1)[0]
    )


def test_weights_under_another_fold_s_name_are_refused(folder):
    """They would be tested on records that they were trained on."""
    (folder / "fold9_bestPRC.pth").rename(folder / "fold4_bestPRC.pth")
    with pytest.raises(CheckpointError, match="fold 9, not 4"):
        search(folder, "--fold", 4)


def changed_weights(path, **change):
    """Change what weights carry; a mapping goes into the section of its name of the config."""
    content = torch.load(path, weights_only=True)
    for name, value in change.items():
        if isinstance(value, dict):
            content["config"][name] |= value
        elif name in content["config"]:
            content["config"][name] = value
        else:
            content[name] = value
    torch.save(content, path)


@pytest.mark.parametrize(
    "change, keys",
    [
        ({"train": {"lr": 0.5}}, "train.lr"),
        ({"train": {"epochs": 9}}, "train.epochs"),
        ({"dataset": {"crop": 99}}, "dataset.crop"),
        ({"dataset": {"label_fraction": 0.5}, "seed": 3}, "seed, dataset.label_fraction"),
        ({"mode": "finetune", "encoder_path": "a.pth"}, "mode, encoder_path"),
        ({"store": "another"}, "the records of dataset.store"),
    ],
)
def test_weights_of_different_jobs_are_not_averaged(folder, change, keys):
    """The defect: one mean of "2 folds" over two jobs whose weights lay in one folder."""
    changed_weights(folder / "fold9_bestPRC.pth", **change)
    with pytest.raises(ConfigError, match="are of different jobs, which differ in ") as error:
        search(folder)
    assert set(keys.split(", ")) == set(
        str(error.value).split("differ in ")[1].split(";")[0].split(", ")
    )
    with pytest.raises(ConfigError, match="are of different jobs"):  # it is no cure
        search(folder, "--set", "train.lr=0.1", "--set", "dataset.crop=250")
    if "train" in change:
        search(folder, "--fold", 9)


def test_folds_may_have_an_encoder_each_and_a_store_that_moved(folder, capsys, monkeypatch):
    """Pre-training leaves out the tested folds; what is the same for all folds is said once."""
    start, read, note_rows = {"mode": "finetune"}, [], job.note_rows
    monkeypatch.setattr(job, "note_rows", lambda *given: read.append(note_rows(*given)))
    changed_weights(folder / "fold3_bestPRC.pth", **start, encoder_path="a.pth")
    changed_weights(
        folder / "fold9_bestPRC.pth", **start, encoder_path="b.pth", dataset={"store": "gone"}
    )
    search(folder, "--set", f"dataset.store={store()}", "--set", "dataset.max_records=400")
    said = capsys.readouterr().out
    assert "fold3_bestPRC.pth and fold9_bestPRC.pth start from different encoders" in said
    assert "==== 2 folds ====" in said
    assert read == [None], "what the job says of its records was said for each weights"


def test_another_store_is_noticed(folder, capsys):
    content = torch.load(folder / "fold3_bestPRC.pth", weights_only=True)
    assert content["store"] == RecordStore(store() / "fs100").meta["records_crc32"]
    torch.save({**content, "store": "of another"}, folder / "fold3_bestPRC.pth")
    search(folder, "--fold", 3)
    assert "not the one that fold3_bestPRC.pth was trained on" in capsys.readouterr().out
    search(folder, "--fold", 9)
    assert "note:" not in capsys.readouterr().out


def test_weights_without_a_config_take_the_one_given(folder):
    content = torch.load(folder / "fold3_bestPRC.pth", weights_only=True)
    torch.save({"model": content["model"]}, folder / "fold3_bestPRC.pth")
    with pytest.raises(CheckpointError, match="does not carry the config"):
        search(folder, "--fold", 3)
    search(
        folder,
        "--fold",
        3,
        "--config_path",
        str(SIGNAL),
        *TINY[:4],
        "--set",
        f"dataset.store={store()}",
    )
    assert (folder / "thresholds_PRC_ascent" / "thresholds_fold3.json").is_file()


def test_wrong_requests_are_explained(folder, tmp_path):
    with pytest.raises(CheckpointError, match="of xresnet1d50"):
        search(folder, "--model_type", "ensemble")
    with pytest.raises(CheckpointError, match="for fold 4 .*fold<k>_bestPRC.pth"):
        search(folder, "--fold", 4)
    with pytest.raises(CheckpointError, match="no weights chosen by AUROC at all"):
        (tmp_path / "empty").mkdir()
        search(tmp_path / "empty", "--best-type", "ROC")
    with pytest.raises(ConfigError, match="one device"):
        run(threshold_search.main, "--weight_folder", folder, "--gpu", "cpu,cpu")
    with pytest.raises(ConfigError, match="no store at"):
        search(folder, "--set", f"dataset.store={tmp_path}/moved")


def test_fold_11_means_every_fold_with_weights(folder):
    search(folder, "--fold", 11)
    table = pd.read_csv(folder / "thresholds_PRC_ascent" / "scores.csv")
    assert {"3", "9"} <= set(table["weights of fold"].astype(str))


def test_a_damaged_predictions_file_is_made_again(folder, capsys):
    """Was a traceback; and a search that is interrupted leaves the older file or none."""
    search(folder, "--fold", 3)
    place = next((folder / "predictions").glob("fold3*.npz"))
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    search(folder, "--fold", 3)
    assert "from an earlier search" not in capsys.readouterr().out
    search(folder, "--fold", 3)
    assert "from an earlier search" in capsys.readouterr().out
    assert [path.name for path in (folder / "predictions").iterdir() if "tmp" in path.name] == []
