"""The files of a run, TensorBoard's hyper-parameters, and trackers by stand-ins."""

import sys
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from util.errors import ConfigError
from util.training.log.run_log import RunLog
from util.training.log.trackers import flattened

CONFIG = {"seed": 3, "model": {"channels": 4, "widths": [1, 2]}, "train": {"lr": None, "extra": {}}}
FLAT = {
    "seed": 3,
    "model.channels": 4,
    "model.widths": "[1, 2]",
    "train.lr": "None",
    "train.extra": "{}",
}


class StandIn:
    """A tracker's package and its run, of any of the three."""

    def __init__(self, fail_at=()):
        self.calls, self.fail_at = [], fail_at

    def __getattr__(self, name):
        def call(*given, **named):
            self.calls.append((name, given, named))
            if name in self.fail_at:
                raise ConnectionError("no network")
            return self

        return call


def run_with(kind, package, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, kind, package)
    log = RunLog(folder)
    log.describe(CONFIG, ["valid/loss"], kind)
    log.scalars({"valid/loss": 0.5}, 1.5)
    log.close()
    return package.calls


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_tracker_gets_the_config_and_the_curves(kind, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    calls = run_with(kind, StandIn(), monkeypatch, tmp_path / "study" / "run" / "fold3")
    begin = {"project": "study", "name": "run/fold3", "config": FLAT}
    assert calls == [
        ("init", (), begin),
        ("log", ({"valid/loss": 0.5}, 1500), {}),
        ("finish", (), {}),
    ]


def test_mlflow_gets_them_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert run_with("mlflow", StandIn(), monkeypatch, tmp_path / "study" / "run") == [
        ("set_experiment", ("study",), {}),
        ("start_run", (), {"run_name": "run"}),
        ("log_params", (FLAT,), {}),
        ("log_metrics", ({"valid/loss": 0.5},), {"step": 1500}),
        ("end_run", (), {}),
    ]


class Kept(StandIn):
    """One whose runs have ids, as the packages' have."""

    id, name = "r1", "run-r1"
    info = SimpleNamespace(run_id="r1")


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "trackio"])
def test_a_resumed_run_goes_on_with_its_run_at_the_tracker(kind, tmp_path, monkeypatch, capsys):
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    package, folder = Kept(), tmp_path / "study" / "run"
    run_with(kind, package, monkeypatch, folder)
    package.calls.clear()
    log = RunLog(folder, epoch=1, step=4, position=1.0)
    log.describe(CONFIG, [], kind)
    log.close()
    begun = [(name, named) for name, _, named in package.calls if name in ("init", "start_run")]
    config = {"project": "study", "config": FLAT}
    assert (
        begun
        == {
            "wandb": [("init", {**config, "name": "run", "id": "r1", "resume": "allow"})],
            "mlflow": [("start_run", {"run_id": "r1"})],
            "trackio": [("init", {**config, "name": "run-r1", "resume": "allow"})],
        }[kind]
    )
    assert "log_params" not in [name for name, *_ in package.calls]
    assert "train.tracker: goes on with run " in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", '{"tracker": "mlflow", "run": "r1"}', "[]"])
def test_a_resumed_run_without_one_begins_another_and_says_so(
    content, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "study" / "run"
    folder.mkdir(parents=True)
    if content:
        (folder / "tracker.json").write_text(content)
    package = Kept()
    monkeypatch.setitem(sys.modules, "wandb", package)
    log = RunLog(folder, epoch=1, step=4, position=1.0)
    log.describe(CONFIG, [], "wandb")
    log.close()
    assert "id" not in package.calls[0][2]
    assert "names no run of wandb; another one begins there" in capsys.readouterr().out


def test_a_run_from_the_start_is_a_new_one(tmp_path, monkeypatch):
    package, folder = Kept(), tmp_path / "study" / "run"
    for _ in range(2):
        run_with("wandb", package, monkeypatch, folder)
    assert [set(named) for name, _, named in package.calls if name == "init"] == [
        {"project", "name", "config"}
    ] * 2


def test_a_tracker_that_fails_is_left_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    calls = run_with("wandb", StandIn(fail_at=["log"]), monkeypatch, tmp_path / "a" / "run")
    assert [name for name, *_ in calls] == ["init", "log"]
    assert (
        "train.tracker failed and is left (ConnectionError: no network)" in capsys.readouterr().out
    )


def test_a_tracker_that_is_not_there_or_does_not_begin_has_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb, or leave the key out"):
        RunLog(tmp_path / "a").describe(CONFIG, [], "wandb")
    with pytest.raises(ConfigError, match="mlflow does not begin .*no network"):
        run_with("mlflow", StandIn(fail_at=["start_run"]), monkeypatch, tmp_path / "b")


def test_hyper_parameters_are_in_tensorboard_and_no_folder_is_empty(tmp_path):
    log = RunLog(tmp_path / "run")
    log.describe(CONFIG, ["valid/loss"], None)
    log.scalars({"valid/loss": 0.25}, 1)
    log.close()
    assert not (tmp_path / "run" / "figures").exists()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    plugin = events.summary_metadata
    assert "_hparams_/session_start_info" in plugin and "_hparams_/experiment" in plugin
    content = plugin["_hparams_/session_start_info"].plugin_data.content
    assert b"model.channels" in content
    assert [point.value for point in events.Scalars("valid/loss")] == [0.25]


def test_a_figure_makes_its_folder(tmp_path):
    log = RunLog(tmp_path / "run")
    log.figure("reconstruction", Figure(), 2)
    log.close()
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == [
        "reconstruction-0002.png"
    ]


def test_flattened_keys_are_dotted():
    assert flattened(CONFIG) == FLAT
    assert flattened(vars(SimpleNamespace(a={"b": {"c": True}}))) == {"a.b.c": True}
