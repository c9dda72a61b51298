"""Weights that were trained with labels of the records that a job tests: an error, unless allowed,
and then said in the results.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import knn
from main_finetune import finetune, main
from tests.support.tiny_jobs import DATA, VIT, with_store
from util.config.keys import FinetuneConfig
from util.config.load import check, save_config
from util.errors import CheckpointError, ConfigError
from util.evaluation.neighbours import score_neighbours
from util.evaluation.trained import load_trained
from util.weights import checkpoint
from util.weights.seen_labels import KEY, SeenLabels, hashes, seen_by

STEPS = {"epochs": 1, "warmup_epochs": 0, "steps_per_epoch": 1, "freeze_epochs": 0}


def job(folder, fold, mode="finetune", start="", name="run", data=None, **more):
    config = with_store({**VIT, "dataset": {**DATA, "max_records": None}}, **STEPS)
    config["dataset"] = {**config["dataset"], "fold": fold, **(data or {})}
    config |= {"mode": mode, "encoder_path": str(start), "output_dir": str(folder), **more}
    return check({**config, "exp_name": name, "device": "cpu"}, FinetuneConfig)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """The folder of a training from scratch that tests fold 0."""
    folder = tmp_path_factory.mktemp("supervised")
    finetune(job(folder, 0, "scratch"))
    return folder / "run"


ERROR = "was trained with labels .mode scratch, test fold 0.*test records of fold 3.*too good"


@pytest.mark.parametrize("file", ["encoder.pth", "best-loss.pth", "checkpoint-last.pth"])
@pytest.mark.parametrize("mode", ["finetune", "linprobe", "probe"])
def test_weights_that_saw_the_labels_of_the_test_records_are_refused(
    supervised, file, mode, tmp_path
):
    with pytest.raises(ConfigError, match=ERROR):
        finetune(job(tmp_path, 3, mode, supervised / file))
    assert not list(tmp_path.rglob("*.pth"))


def test_nearest_neighbours_refuse_them_too(supervised, tmp_path):
    with pytest.raises(ConfigError, match=ERROR):
        score_neighbours(job(tmp_path, 3, start=supervised / "encoder.pth"), 3)


def test_a_second_stage_on_the_same_fold_goes_on_and_says_so(supervised, tmp_path, capsys):
    finetune(job(tmp_path, 0, start=supervised / "encoder.pth"))
    assert "none of them of the test records of fold 0" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "run" / "test_metrics.csv")
    assert "label_overlap" not in table


def test_allowed_overlap_is_carried_by_all_results(supervised, tmp_path, capsys):
    start = supervised / "encoder.pth"
    config = job(tmp_path, [0, 3], start=start, allow_label_overlap=True)
    finetune(config)
    assert "their scores are too good" in capsys.readouterr().out
    folder = tmp_path / "run" / "fold3"
    table = pd.read_csv(folder / "test_metrics.csv")
    assert table["label_overlap"][0] == table["records"][0]
    summary = pd.read_csv(tmp_path / "run" / "summary.csv").set_index("fold")
    assert summary["label_overlap"]["3"] == table["records"][0]
    assert summary["label_overlap"]["0"] == 0
    assert "allow_label_overlap: true" in (folder / "config.yaml").read_text()
    load_trained(folder / "best-loss.pth")
    assert "had seen labels of" in capsys.readouterr().out
    (neighbours,) = score_neighbours(
        job(tmp_path, 3, start=start, name="knn", allow_label_overlap=True), 3
    )
    assert neighbours.overlap == table["records"][0]


def test_the_flag_of_the_command_line(supervised, tmp_path):
    save_config(job(tmp_path, 3, start=supervised / "encoder.pth"), tmp_path / "job.yaml")
    with pytest.raises(ConfigError, match=ERROR):
        main(["-f", str(tmp_path / "job.yaml")])
    main(["-f", str(tmp_path / "job.yaml"), "--allow_label_overlap"])
    knn.main(["-f", str(tmp_path / "job.yaml"), "--allow_label_overlap", "--exp_name", "b"])


def test_a_probe_in_between_hides_nothing(supervised, tmp_path):
    """Its encoder is that of its start, with what this has seen."""
    finetune(job(tmp_path, 0, "probe", supervised / "encoder.pth"))
    with pytest.raises(ConfigError, match=ERROR):
        finetune(job(tmp_path, 3, start=tmp_path / "run" / "encoder.pth", name="b"))


def test_a_probe_of_an_untrained_encoder_has_seen_nothing(tmp_path):
    finetune(job(tmp_path, 0, "probe"))
    path = tmp_path / "run" / "encoder.pth"
    assert seen_by([path]).jobs == ()
    finetune(job(tmp_path, 3, "probe", path, name="b"))


def test_files_of_earlier_versions_go_by_fold_and_protocol(supervised, tmp_path):
    content = checkpoint.load(supervised / "encoder.pth")
    del content[KEY]
    checkpoint.save(content, tmp_path / "old.pth")
    with pytest.raises(ConfigError, match=ERROR):
        finetune(job(tmp_path, 3, start=tmp_path / "old.pth"))
    finetune(job(tmp_path, 0, start=tmp_path / "old.pth"))
    with pytest.raises(ConfigError, match="test fold 0"):
        finetune(job(tmp_path, 3, start=tmp_path / "run" / "encoder.pth", name="b"))


def test_the_overlap_of_earlier_folds_is_in_the_summary_of_later_ones(supervised, tmp_path):
    start = supervised / "encoder.pth"
    finetune(job(tmp_path, [2, 3], start=start, allow_label_overlap=True))
    finetune(job(tmp_path, [0, 1], start=start, allow_label_overlap=True))
    summary = pd.read_csv(tmp_path / "run" / "summary.csv").set_index("fold")
    metrics = pd.read_csv(tmp_path / "run" / "fold3" / "test_metrics.csv")
    assert summary["label_overlap"]["3"] == metrics["label_overlap"][0] > 0


def test_a_run_is_not_resumed_from_another_encoder_under_the_same_name(supervised, tmp_path):
    """The defect: it printed the scores of the encoder before as those of the new one."""
    start = tmp_path / "encoder.pth"
    shutil.copy(supervised / "encoder.pth", start)
    finetune(job(tmp_path, 0, start=start))
    finetune(job(tmp_path, 0, start=start, resume="auto"))
    content = checkpoint.load(start)
    name = next(name for name, value in content["model"].items() if value.is_floating_point())
    content["model"][name] = content["model"][name] + 1
    checkpoint.save(content, start)
    with pytest.raises(CheckpointError, match=r"differs in encoder_path \(the content"):
        finetune(job(tmp_path, 0, start=start, resume="auto"))


def test_several_old_files_are_all_asked():
    """The defect: of two files without hashes, the second one's training was forgotten."""
    tested = {"protocol": "nested", "fold": 3}
    of_3, of_0 = (
        SeenLabels((f"fold {k}",), datasets=({"protocol": "nested", "fold": k},)) for k in (3, 0)
    )
    records = hashes(pd.DataFrame({"database": ["a"], "record": ["1"]}), np.array([""], object))
    assert of_3.among(records, tested) == 0
    assert of_3.joined(of_0).among(records, tested) == of_0.joined(of_3).among(records, tested) == 1


def test_records_are_known_by_name_and_by_patient():
    records = pd.DataFrame({"database": ["a", "a", "b"], "record": ["1", "2", "1"]})
    known = hashes(records, np.array(["", "a/p", "b/p"], object))
    assert len(known.unique()) == 5
    tested = pd.DataFrame({"database": ["a", "a", "c"], "record": ["2", "9", "1"]})
    others = hashes(tested, np.array(["", "a/p", ""], object))
    seen = SeenLabels(("x",), known.flatten())
    assert seen.among(others, {"protocol": "nested"}) == 2
    selected = SeenLabels(("x",), selected=known.flatten())
    assert selected.among(others, {"protocol": "nested"}) == 2
    assert selected.among(others, {"protocol": "published"}) == 0
    assert hashes(records[:0], np.array([], object)).shape == (0, 2)
    assert torch.equal(known, hashes(records, np.array(["", "a/p", "b/p"], object)))
