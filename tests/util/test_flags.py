"""A flag that is given twice is an error in every program of the project."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from util.config.command_line import argument_parser
from util.config.keys import PretrainConfig
from util.flags import Parser

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data_preparation", "experiments", "benchmarks", "util", "models")


def parser():
    made = Parser(prog="program")
    made.add_argument("names", nargs="*")
    made.add_argument("--input_dir", default="data")
    made.add_argument("-n", "--number", type=int)
    made.add_argument("--rates", nargs="+", type=int)
    made.add_argument("--assume", action="store_true")
    made.add_argument("--set", action="append", default=[])
    return made


@pytest.mark.parametrize(
    "words",
    [
        "--input_dir a --input_dir b",
        "--input_dir a --input_dir a",
        "--input_dir=a --input_dir b",
        "--input_dir a --number 1 --input b",
        "-n 1 --number 2",
        "--rates 1 2 --rates 3",
        "--assume --assume",
    ],
)
def test_a_flag_that_comes_twice_is_an_error(capsys, words):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words.split())
    assert ended.value.code == 2
    assert (
        "is given twice, and one would be without effect; give it once" in capsys.readouterr().err
    )


def test_once_and_flags_that_are_meant_to_repeat():
    made = parser()
    for _ in range(2):  # a second command line starts anew
        given = made.parse_args(
            ["a", "b", "--set", "x=1", "--set", "y=2", "--rates", "1", "2", "-n", "3", "--assume"]
        )
        assert vars(given) == {
            "names": ["a", "b"],
            "input_dir": "data",
            "number": 3,
            "rates": [1, 2],
            "assume": True,
            "set": ["x=1", "y=2"],
        }


def test_the_mains(capsys):
    made = argument_parser("text", "x.yaml", PretrainConfig)
    assert made.parse_args(
        ["--overlay", "a", "--overlay", "b", "--set", "c=1", "--set", "d=2"]
    ).overlay == ["a", "b"]
    for flag in ("--exp_name", "--output_dir", "--config_path", "--resume"):
        with pytest.raises(SystemExit):
            made.parse_args([flag, "a", flag, "b"])
        assert f"{flag} is given twice" in capsys.readouterr().err


def test_no_program_has_another_parser():
    for path in [*ROOT.glob("*.py"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]:
        if path != ROOT / "util" / "flags.py":
            calls = [
                node.func
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
            ]
            assert not any("ArgumentParser" in ast.unparse(call) for call in calls), path


@pytest.mark.parametrize(
    "script, flag",
    [
        ("data_extraction_without_preprocessing", "--input_dir"),
        ("import_arrays", "--input"),
        ("reformat_memmap", "--patients"),
        ("check_store", "--output"),
    ],
)
def test_scripts(capsys, script, flag):
    main = importlib.import_module(f"data_preparation.{script}").main
    with pytest.raises(SystemExit):
        main([flag, "a", flag, "b"])
    assert f"{flag} is given twice" in capsys.readouterr().err


def test_the_launcher():
    done = subprocess.run(
        [sys.executable, "-m", "util.processes.launcher", "main_pretrain.py"]
        + ["--gpus", "cpu", "--gpus", "cpu,cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 2 and "--gpus is given twice" in done.stderr


def test_the_demo():
    words = ["--data", "a", "--records", "1", "--data", "b"]
    done = subprocess.run(
        ["bash", "run_demo.sh", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--data is given twice; give it once" in done.stderr


def test_a_name_that_stands_for_two_leads(capsys):
    main = importlib.import_module("data_preparation.import_arrays").main
    with pytest.raises(SystemExit):
        main(["--input", "a", "--lead_names", "ECG=I", "ecg=II"])
    assert "--lead_names says of one name twice" in capsys.readouterr().err
