"""The GPU machine's acceptance run, on a CPU in small: what it will do there is tried before
there is one.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_acceptance
from benchmarks.acceptance import decide, harness, several
from tests.support import small_store

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = {"golden", "random", "accumulation"}  # the quick parts, one of each kind


def rows(folder):
    return json.loads((folder / "acceptance.json").read_text())


def test_a_few_parts_pass_and_are_told_in_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness.Run, "store", small_store.store())
    with small_store.same_environment():
        status = gpu_acceptance.main(["--device", "cpu", "--out", str(tmp_path), "--only", *ALWAYS])
    found = rows(tmp_path)
    assert (
        status == 0
        and {row["part"] for row in found} == ALWAYS
        and all(row["passed"] for row in found)
    ), found
    assert (tmp_path / "acceptance.md").read_text().count("| pass |") == len(found) > 15
    assert "0 failed" in capsys.readouterr().out


# ============ which defaults pay ============
def test_the_first_minutes_of_a_gpu_run_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.Run, "store", small_store.store())
    with small_store.same_environment():
        status = gpu_acceptance.main(
            ["--device", "cpu", "--out", str(tmp_path), "--only", "decide"]
        )
    found = rows(tmp_path)
    assert status == 0 and [row["part"] for row in found if row["passed"] is False] == []
    assert list(dict.fromkeys(row["part"] for row in found)) == list(decide.PARTS)
    ways = [row["what"] for row in found if row["part"] == "step"]
    assert all(any(way in what for what in ways) for way in decide.WAYS)
    assert found[-1]["number"] == "a CPU decides nothing; the parts before it ran in small"


@pytest.mark.parametrize(
    "gain, predictions, losses, taken",
    [
        (1.15, 5e-3, 1e-3, True),
        (1.14, 0.0, 0.0, False),
        (2.0, 6e-3, 0.0, False),
        (2.0, 0.0, 2e-3, False),
    ],
)
def test_a_way_of_the_step_becomes_the_default_by_its_rule(
    gain, predictions, losses, taken, tmp_path, monkeypatch
):
    way, found = "whole compiled, graph", dict.fromkeys(decide.WAYS, 1.0)
    monkeypatch.setattr(decide, "turns", lambda *given: {**found, way: 1 / gain})
    monkeypatch.setattr(decide, "predictions_gap", lambda *given: predictions)
    monkeypatch.setattr(decide, "losses", lambda *given: [1 + losses * (given[-1] == way)])
    run = harness.Run(torch.device("cuda"), False, tmp_path, 0.0)
    decide.step_ways(run)
    decide.decision(run)
    (change,) = [row.number for row in run.rows if row.what == "default to change"]
    assert (way in change and "'compile': 'true'" in change) == taken
    assert taken or change == "none"


@pytest.mark.parametrize("gain, off, taken", [(1.06, 1e-6, 2), (1.04, 0.0, 0), (3.0, 1e-4, 0)])
def test_a_graph_becomes_the_default_by_its_rule(gain, off, taken, tmp_path, monkeypatch):
    seconds = {"eager": 1.0, "eager, graph": 1 / gain}
    monkeypatch.setattr(decide, "turns", lambda *given: seconds)
    monkeypatch.setattr(decide, "losses", lambda *given: [2.0, 1 + off * (given[-1] == "eager")])
    run = harness.Run(torch.device("cuda"), False, tmp_path, 0.0)
    decide.graph_ways(run)
    assert len(run.changes) == taken


# ============ several GPUs ============
def exchanged(tmp_path, monkeypatch, loss=1.0, said="the step runs as one CUDA graph on each"):
    """Rows of the part where a step takes 40 ms on one GPU, 50 on two."""
    found = {
        (1, False): several.Found(0.04, 0.0, [1.0], ""),
        (2, False): several.Found(0.05, 0.045, [1.0], ""),
        (2, True): several.Found(0.05, 0.045, [loss], said),
    }
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(several, "launched", lambda run, *how: found[how])
    monkeypatch.setattr(harness.Run, "store", tmp_path)
    run = harness.Run(torch.device("cuda"), False, tmp_path, 0.0)
    several.exchange(run)
    return run.rows


def test_two_gpus_are_held_against_one(tmp_path, monkeypatch):
    plain, graph, losses = exchanged(tmp_path, monkeypatch)
    number = "40.0, 50.0 ms a step: efficiency 80%; an exchange alone 45.0 ms"
    assert plain.number == graph.number == number and losses.passed


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.01}, {"said": "the step takes the plain path, not one CUDA graph"}]
)
def test_another_loss_or_the_plain_path_is_a_failure_on_two_gpus(wrong, tmp_path, monkeypatch):
    *_, losses = exchanged(tmp_path, monkeypatch, **wrong)
    assert losses.passed is False


def test_one_gpu_skips_what_needs_two(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(harness.Skip, match="one GPU here"):
        several.exchange(harness.Run(torch.device("cuda"), False, tmp_path, 0.0))


def fails(run):
    raise RuntimeError("first line\nlast line")


def hangs(run):
    while True:
        pass


def test_what_fails_hangs_or_does_not_fit_stops_no_other_part(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gpu_acceptance,
        "PARTS",
        {
            "fails": (fails, 1, 1),
            "hangs": (hangs, 0.1, 0.1),
            "long": (fails, 1, 1e6),
            "lacks": (lambda run: __import__("no_such_package"), 1, 1),
            "good": (lambda run: run.row("x", "1", True, "1"), 1, 1),
        },
    )
    assert gpu_acceptance.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert [(row["part"], row["verdict"]) for row in rows(tmp_path)] == [
        ("fails", "FAIL"),
        ("hangs", "FAIL"),
        ("long", "skipped"),
        ("lacks", "skipped"),
        ("good", "pass"),
    ]
    text = (tmp_path / "acceptance.md").read_text()
    assert "last line" in text and "stopped after" in text and "no_such_package" in text
    assert "in fails" in (tmp_path / "log").read_text()


def test_a_wrong_number_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gpu_acceptance.right.golden,
        "rule_value",
        lambda name, shape: torch.full(tuple(shape), 0.02),
    )
    assert gpu_acceptance.main(["--device", "cpu", "--out", str(tmp_path), "--only", "golden"]) == 1
    assert {row["verdict"] for row in rows(tmp_path)} == {"FAIL"}


@pytest.mark.slow
def test_everything_passes_on_a_cpu(tmp_path):
    done = subprocess.run(
        [
            "bash",
            str(ROOT / "benchmarks" / "gpu_acceptance.sh"),
            "--device",
            "cpu",
            "--out",
            str(tmp_path),
            "--minutes",
            "20",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert {row["part"] for row in rows(tmp_path)} == set(gpu_acceptance.PARTS) and (
        tmp_path / "loss.png"
    ).stat().st_size
