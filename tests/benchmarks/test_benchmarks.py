"""benchmarks/run.py and scaling.py in small: they run, compare, and say what they found."""

import json

import numpy as np
import pytest

from benchmarks import run, scaling, timing
from benchmarks.contests import CONTESTS
from tests.support import small_store

QUICK = ["challenge", "spectrogram", "views", "dataset"]


def lines(path):
    return json.loads(path.read_text())["rows"]


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(sorted(set(CONTESTS) - set(QUICK)), marks=pytest.mark.slow)]
)
def test_every_benchmark_compares_ours_with_a_reference(names, tmp_path, capsys):
    with small_store.same_environment():
        run.main(
            [
                *names,
                "--small",
                "--repeats",
                "1",
                "--threads",
                "1",
                "--json",
                str(tmp_path / "found.json"),
            ]
        )
    found = lines(tmp_path / "found.json")
    for benchmark in {row["benchmark"] for row in found}:
        rows = [row for row in found if row["benchmark"] == benchmark]
        assert (
            "reference" in rows[0]["way"]
            and rows[0]["ratio"] == 1
            and any("ours" in row["way"] for row in rows)
        )
        assert all(
            row["rate"] > 0 and row["ratio"] == pytest.approx(row["rate"] / rows[0]["rate"])
            for row in rows
        )
    assert capsys.readouterr().out.count("\n| ") == len(found) + 1


def test_a_step_says_its_share_of_the_machines_products(tmp_path, capsys):
    run.main(["st_mem_step", "--small", "--repeats", "1", "--json", str(tmp_path / "found.json")])
    shares = [row["mfu"] for row in lines(tmp_path / "found.json")]
    assert all(0 < share <= 1 for share in shares if share is not None) and any(shares)
    assert "| MFU |" in capsys.readouterr().out
    assert run.share(0.0) is run.share(1.2) is None


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["st_mem"])
    assert "no benchmark st_mem; known: st_mem_step" in capsys.readouterr().err


def test_ways_take_turns_and_the_first_round_does_not_count():
    calls, ticks = [], iter(range(100))
    found = timing.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        2,
        clock=lambda: float(next(ticks)),
    )
    assert calls == list("ababab") and found["a"].seconds == [1.0, 1.0]
    assert timing.Timed([2.0, 1.0, 4.0]).best == 1.0 and timing.Timed([2.0, 1.0, 4.0]).spread == 1.0


def test_an_exponent_is_the_slope_of_the_logarithms():
    sizes = np.array([1e3, 1e4, 1e5])
    assert scaling.exponent(sizes, 3e-6 * sizes**1.5) == pytest.approx(1.5)


def test_the_growth_of_cost_is_measured(tmp_path):
    with small_store.same_environment():
        assert (
            scaling.main(
                ["--small", "--out", str(tmp_path), "--only", "records", "leads", "length"]
            )
            == 0
        )
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert set(found) == {"records", "leads", "length"}
    assert all(point["seconds"] > 0 for points in found.values() for point in points)
    assert 1000 < (tmp_path / "scaling.png").stat().st_size < 150_000
