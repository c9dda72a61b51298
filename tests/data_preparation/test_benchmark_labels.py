"""PTB-XL's labels in a store with PTB-XL's record names, and training on them, from the metadata
files to the score.
"""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

import main_finetune
from data_preparation import benchmark_labels
from data_preparation.benchmarks import tables
from data_preparation.benchmarks.published import BENCHMARKS
from data_preparation.building.reformat import reformat
from data_preparation.importing.wfdb_source import extract
from tests.support import benchmark_files, small_store
from tests.support.tiny_jobs import CNN, LOADER
from tests.support.wfdb_files import ecg_counts, write_record
from util.config.keys import FinetuneConfig
from util.config.load import ROOT, load_config
from util.contract.encoder import Encoder
from util.data.labels import read_labels
from util.data.store import RecordStore
from util.errors import ConfigError
from util.scoring.scores import parse_scores
from util.training.setup import build_configured

CONFIGS = sorted((ROOT / "configs" / "downstream" / "benchmarks").glob("*.yaml"))


@pytest.fixture(scope="module")
def ptbxl(tmp_path_factory):
    """A store of 160 recordings named as the Challenge and PTB-XL name them, and metadata
    of 168.
    """
    folder = tmp_path_factory.mktemp("ptbxl")
    for i in range(1, 161):
        name = f"HR{i:05d}" if i % 2 else f"{i:05d}_hr"
        write_record(folder / "in" / "ptb-xl", name, ecg_counts(1000, seed=i), comments=())
    extract(folder / "in", folder / "extracted", [100], workers=1)
    reformat(folder / "extracted", folder / "store")
    benchmark_files.ptbxl(folder / "metadata", range(1, 169))
    return folder


def make(ptbxl, name="ptbxl"):
    small_store.run(
        benchmark_labels.main, name, "--store", ptbxl / "store", "--metadata", ptbxl / "metadata"
    )


@pytest.mark.parametrize("name", ["cpsc2018", "chapman_ningbo"])
def test_a_store_of_other_records_is_a_sentence(ptbxl, name, tmp_path):
    """Also where the labels are the store's own Dx codes."""
    (tmp_path / "ConditionNames_SNOMED-CT.csv").write_text(
        "Acronym Name,Full Name,Snomed_CT\nAF,fibrillation,164889003\n"
    )
    with pytest.raises(
        ConfigError,
        match=f"is in the metadata of {name}: they have names like .*, the metadata of the form",
    ):
        small_store.run(
            benchmark_labels.main, name, "--store", ptbxl / "store", "--metadata", tmp_path
        )


def test_tables_sizes_and_warnings(ptbxl, capsys):
    make(ptbxl)
    text = capsys.readouterr().out
    assert "warning: records: expected 21799 (version 1.0.3), found 168" in text
    assert "160 of 160 records of the store are of ptbxl (database ptb-xl)" in text
    assert "8 of 168 records of the metadata are not in the store" in text
    sizes = [
        line.split() for line in text.partition("ptbxl_superdiagnostic    ")[2].splitlines()[1:7]
    ]
    assert sizes == [
        ["records", "96", "12", "12"],
        ["CD", "32", "4", "4"],
        ["HYP", "16", "2", "2"],
        ["MI", "32", "4", "4"],
        ["NORM", "16", "2", "2"],
        ["STTC", "32", "4", "4"],
    ]
    store = RecordStore(ptbxl / "store" / "fs100")
    labels = read_labels(store, SimpleNamespace(labels="ptbxl_superdiagnostic", classes=None))
    assert labels.classes == ("CD", "HYP", "MI", "NORM", "STTC") and labels.kind == "multilabel"
    for name, values, known in zip(store.records["record"], labels.values, labels.known):
        number = int("".join(c for c in name if c.isdigit()))
        statements = benchmark_files.SETS[(number - 1) // 2 % 8]
        classes = {benchmark_files.STATEMENTS[s][3] for s in statements} - {""}
        assert known == bool(classes)
        if known:
            assert {c for c, value in zip(labels.classes, values) if value == 1} == classes


def test_a_task_that_no_record_of_the_store_has_leaves_the_others_and_says_so(
    ptbxl, tmp_path, capsys
):
    benchmark_files.ptbxl(
        tmp_path, range(1, 161), [{"NORM": 100.0}, {"IMI": 0.0}] * 80
    )  # no form, no rhythm
    small_store.run(
        benchmark_labels.main, "ptbxl", "--store", ptbxl / "store", "--metadata", tmp_path
    )
    text = capsys.readouterr().out
    for task in ("form", "rhythm"):
        assert (
            f"warning: ptbxl_{task}: no record of the store has a label of this task; no table "
            "was "
            "written" in text
        )
    assert "labels ptbxl_superdiagnostic" in text and "NAME is ptbxl_all or" in text
    assert "or ptbxl_form" not in text
    assert "several folds of this store" not in text, "the benchmark has splits of its own"


def test_superdiagnostic_from_metadata_to_score(ptbxl, tmp_path, capsys):
    make(ptbxl)
    shared = load_config(
        [ROOT / "configs/downstream/benchmarks/ptbxl_superdiagnostic.yaml"], program=FinetuneConfig
    ).dataset
    data = {key: getattr(shared, key) for key in ("labels", "protocol", "splits", "given")}
    config = {
        **CNN,
        "dataset": {**CNN["dataset"], **data, "store": str(ptbxl / "store"), "max_records": None},
        "dataloader": LOADER,
        "train": {**CNN["train"], "epochs": 1, "warmup_epochs": 0},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    small_store.run(
        main_finetune.main,
        "--config_path",
        tmp_path / "config.yaml",
        "--output_dir",
        tmp_path,
        "--exp_name",
        "run",
    )
    text = capsys.readouterr().out
    assert "96 training, 12 selection, 12 test records, 5 classes" in text
    table = pd.read_csv(tmp_path / "run" / "test_predictions.csv")
    numbers = table["record"].str.extract(r"(\d{5})")[0].astype(int)
    assert set(numbers) <= set(range(145, 161))  # strat_fold 10
    assert pd.read_csv(tmp_path / "run" / "test_metrics.csv").shape[0]


def test_a_store_of_other_records_has_a_sentence(ptbxl, tmp_path):
    benchmark_files.ptbxl(tmp_path, range(1000, 1010))
    with pytest.raises(
        ConfigError,
        match="no record of .* is in the metadata of ptbxl: they have names like 00002_hr, the "
        "metadata 1000",
    ):
        tables.make_tables("ptbxl", ptbxl / "store", tmp_path)


# ============ the configs ============
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_fit_the_tables_and_build_their_models(path):
    config = load_config([path], program=FinetuneConfig)
    data = config.dataset
    assert data.protocol == "given" and data.given == BENCHMARKS[data.splits].given
    assert path.read_text().startswith("# ") and "not yet run" in path.read_text()
    task = {"physionet2017": "multiclass", "mimic_age": "regression"}.get(path.stem, "multilabel")
    scores = parse_scores(config.metric.target_metrics, ("a", "b"), task)
    assert config.test.target_metric in scores
    with torch.device("meta"):
        assert isinstance(build_configured(config, 5), Encoder)


def test_every_table_of_ptbxl_has_a_config():
    assert {path.stem for path in CONFIGS} == {
        "code15",
        "cpsc2018",
        "chapman_ningbo",
        "sph",
        "physionet2017",
        "mimic_age",
        "ptbxl_all",
        "ptbxl_diagnostic",
        "ptbxl_subdiagnostic",
        "ptbxl_superdiagnostic",
        "ptbxl_form",
        "ptbxl_rhythm",
    }
