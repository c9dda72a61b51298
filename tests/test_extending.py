"""The worked examples of docs/extending.md work as they stand there: nobody has to guess what is
missing.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import small_store
from tests.support.tiny_encoder import assert_every_parameter_learns, run_step, tiny_batch
from util.config.load import ROOT
from util.contract.registry import MODELS, DataFacts, build, find_model
from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.leads import LEADS
from util.scoring import scores
from util.signals import augmentations
from util.signals.transforms import build_pipeline

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
CROP = torch.randn(4, 12, 250, generator=torch.Generator().manual_seed(0))
FACTS = DataFacts(tuple(LEADS), 100.0, 24)
HEADINGS = ("encoder", "method", "augmentation", "score")


def section(heading: str) -> str:
    """Return the text of one worked example."""
    return PAGE.split(f"## A new {heading}\n")[1].split("\n## ")[0]


def block(heading: str, language: str) -> str:
    """Return the block of code of one section; of no language: its commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["python", "yaml", ""]
    return dict(blocks)[language]


def file_of(heading: str, suffix: str) -> str:
    """Return the path, in backticks on the page, of the one Python or YAML file of an example."""
    prose = re.sub(r"^```.*?^```", "", section(heading), flags=re.MULTILINE | re.DOTALL)
    return re.search(rf"`((?:models|util|configs)/[\w/]+\.{suffix})`", prose)[1]


@pytest.fixture(autouse=True)
def registries_as_before():
    find_model(
        "simclr"
    )  # the modules of models/ register themselves once, when one is first asked for
    registries = (MODELS, augmentations.AUGMENTATIONS, scores.SCORES)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def test_the_method_takes_a_step_and_every_parameter_learns():
    exec(block("method", "python"), {"__name__": "models.my_vicreg"})
    torch.manual_seed(0)
    method = build("my_vicreg", encoder="tiny_encoder", head_width=32, head_out=8)
    out = run_step(method, tiny_batch())
    out["loss"].backward()
    assert_every_parameter_learns(method)
    terms = {"invariance": 25, "variance": 25, "covariance": 1}
    assert out["loss"].item() == pytest.approx(
        sum(weight * out[name].item() for name, weight in terms.items())
    )


def test_its_terms_are_worked_out_by_hand():
    names = {"__name__": "models.my_vicreg"}
    exec(block("method", "python"), names)
    # Both dimensions: variance 0.5, covariance 0.5.
    variance, covariance = names["spread"](torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert variance.item() == pytest.approx(1 - 0.5001**0.5)
    assert covariance.item() == pytest.approx(2 * 0.25 / 2)


def test_the_encoder_classifies_and_has_features():
    exec(block("encoder", "python"), {"__name__": "models.encoder.my_gru"})
    assert build("my_gru", FACTS)(CROP).shape == (4, 24)
    encoder = build(
        "simclr", replace(FACTS, num_classes=None), encoder={"name": "my_gru", "channels": 8}
    ).encoder
    encoder.fit_statistics([CROP])
    assert encoder.standardize.fitted and encoder(CROP).shape == (4, encoder.width)


def test_a_model_that_cannot_classify_says_so():
    with pytest.raises(ConfigError, match="model simclr does not classify"):
        build("simclr", FACTS)


def test_the_augmentation_is_a_step_and_an_operation_of_rand_augment():
    exec(
        block("augmentation", "python"), {**vars(augmentations)}
    )  # a function among the others of its file
    transforms = [
        {"random_crop": {"crop_length": 250}},
        {"my_wander": {"amplitude": 0.3, "cycles": [0.2, 1]}},
    ]
    pipeline = build_pipeline(
        transforms, length=250, fs=100, rand_augment={"op_names": ["my_wander"], "num_layers": 1}
    )
    plain = build_pipeline(transforms, length=250, fs=100)
    added = plain(CROP, KeyedRandom(torch.arange(4))) - CROP
    assert 0 < added.abs().max() <= 0.3 + 1e-5
    # slow: no step between neighbouring samples is larger than that of one cycle a crop
    assert added.diff().abs().max() <= 0.3 * 2 * np.pi / 250 + 1e-5
    assert pipeline(CROP, KeyedRandom(torch.arange(4))).shape == CROP.shape and not len(
        pipeline.fixed.steps
    )


def test_the_score_is_computed_and_the_lowest_is_the_best():
    exec(block("score", "python"), {**vars(scores)})
    labels, probabilities = np.array([[1.0, 0.0]]), np.array([[0.5, 0.1]])
    values = scores.compute_scores(
        probabilities, labels, scores.parse_scores(["MyBrier"]), "multilabel"
    )
    assert values["MyBrier"] == pytest.approx((0.25 + 0.01) / 2)
    assert scores.lower_is_better("MyBrier") and scores.lower_is_better("loss")
    assert not scores.lower_is_better("AUROC") and not scores.lower_is_better("F1Score_micro")


# ============ the page followed to the letter ============
SMALLER_DEMO = """
dataset: {max_records: 80}
dataloader: {batch_size: 8, num_workers: 0}
train: {epochs: 2, warmup_epochs: 1, steps_per_epoch: 2, log_every: 1}
"""
ENDS_WITH = {
    "my_gru": r"test \(best-AUROC\.pth of epoch \d, .*\): loss [\d.]+, AUROC [\d.]+",
    "simclr_gru": r"encoder: output/simclr_gru/encoder\.pth",
    "my_gru_finetune": r"loaded 12 of 12 encoder tensors",
    "my_vicreg": r"epoch 2: linear probe AUROC [^$]*encoder: output/my_vicreg/encoder\.pth",
    "my_vicreg_finetune": r"loaded \d+ of \d+ encoder tensors",
    "my_wander": r"test \(best-AUROC\.pth of epoch \d",
    "my_brier": r"test \(best-MyBrier\.pth of epoch \d, .*MyBrier [\d.]+",
}


def add_code(path: Path, code: str) -> None:
    """Write a new file, or put code at the end of one, before what it does as a program."""
    path.parent.mkdir(exist_ok=True)
    before, main, after = path.read_text().partition("if __name__") if path.exists() else [""] * 3
    parts = [part.strip() + "\n" for part in (before, code, main + after) if part.strip()]
    path.write_text("\n\n".join(parts))


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of this repository with the files of all examples, data where README puts them, and
    a smaller demo.
    """
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("util", "models", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "main_pretrain.py",
        "main_finetune.py",
        "run_pretrain.sh",
        "run_downstream.sh",
        "pyproject.toml",
    ):
        shutil.copy(ROOT / name, copy)
    (copy / "docs").mkdir()
    for heading in HEADINGS:
        add_code(copy / file_of(heading, "py"), block(heading, "python"))
        yaml = copy / file_of(heading, "yaml")
        assert not yaml.exists()
        yaml.write_text(block(heading, "yaml"))
    (copy / "configs" / "overlay" / "demo.yaml").write_text(SMALLER_DEMO)
    store = copy / "data_folder" / "data_summary_without_preprocessing"  # the default, as in README
    store.parent.mkdir()
    store.symlink_to(small_store.store())
    return copy


def run_line(line: str, folder: Path) -> str:
    """Run a command line in ``folder`` with the Python of this test; return what it printed."""
    python = Path(sys.executable).parent
    ended = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={
            **os.environ,
            "VIRTUAL_ENV": str(python.parent),
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, f"{line}\n{ended.stdout}"
    return ended.stdout


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_command_of_an_example_runs_as_it_stands(heading, repository):
    lines = block(heading, "").splitlines()
    assert lines
    for line in lines:
        text = run_line(line, repository)
        name = re.search(r"--exp_name (\S+)", line)
        if name is None:
            assert line.endswith("> docs/scores.md")
            assert "MyBrier" in (repository / "docs" / "scores.md").read_text()
            continue
        assert re.search(ENDS_WITH[name[1]], text), f"{line}\n{text}"
        log = (repository / "output" / name[1] / "log.txt").read_text()
        results = "encoder.pth" if "pretrain" in line else "test_metrics.csv"
        assert log and (repository / "output" / name[1] / results).is_file()


def test_the_examples_pass_the_linter(repository):
    run_line(f"python -m ruff check --no-cache --config {ROOT}/pyproject.toml .", repository)
    run_line("python -m ruff format --no-cache --check .", repository)
