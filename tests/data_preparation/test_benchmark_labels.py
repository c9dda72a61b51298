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
from data_preparation.building.tables import add_labels, add_splits
from data_preparation.importing.wfdb_source import extract
from tests.support import benchmark_files, small_store
from tests.support.tiny_jobs import CNN, LOADER
from tests.support.wfdb_files import ecg_counts, write_record
from util.config.keys import FinetuneConfig
from util.config.load import ROOT, load_config
from util.contract.encoder import Encoder
from util.data.store import RecordStore
from util.errors import ConfigError
from util.jobs.setup import build_configured
from util.labels.tables import read_labels
from util.scoring.scores import parse_scores

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


# ------------------------------------------------------------------------------------------------
# the set's own database alone


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    """A store of PTB-XL's 1 to 40 in ptb-xl and of exams 3, 7, 11, ... in code15."""
    folder = tmp_path_factory.mktemp("two_sets")
    for i in range(1, 41):
        write_record(folder / "in" / "ptb-xl", f"{i:05d}_hr", ecg_counts(1000, seed=i))
    for i in range(3, 40, 4):
        write_record(folder / "in" / "code15", f"{i}", ecg_counts(1000, seed=100 + i))
    extract(folder / "in", folder / "extracted", [100], workers=1)
    reformat(folder / "extracted", folder / "store")
    benchmark_files.ptbxl(folder / "metadata", range(1, 41))
    return folder


def tables_of(folder, *names):
    return [
        pd.read_csv(folder / "store" / f"{name}.csv", dtype=str, keep_default_na=False)
        for name in names
    ]


def test_labels_patients_and_folds_go_to_the_sets_database_alone(two_sets, capsys):
    make(two_sets)
    for table in tables_of(two_sets, "splits/ptbxl", "labels/ptbxl_all"):
        given = table[table.drop(columns=["record", "patient"], errors="ignore").ne("").any(axis=1)]
        assert len(given) == 40 and given["record"].str.endswith("_hr").all()
    said = capsys.readouterr().out
    assert "10 records of other databases (code15) have names as those of ptbxl" in said
    assert "40 of 50 records of the store are of ptbxl (database ptb-xl)" in said


@pytest.fixture(scope="module")
def other_name(tmp_path_factory):
    """The same, but PTB-XL's records are in databases mine and more."""
    folder = tmp_path_factory.mktemp("other_name")
    for i in range(1, 21):
        place = folder / "in" / ("mine" if i < 15 else "more")
        write_record(place, f"{i:05d}_hr", ecg_counts(1000, seed=i), comments=())
    write_record(folder / "in" / "code15", "3", ecg_counts(1000, seed=103))
    extract(folder / "in", folder / "extracted", [100], workers=1)
    reformat(folder / "extracted", folder / "store")
    benchmark_files.ptbxl(folder / "metadata", range(1, 41))
    return folder


def test_a_match_in_databases_of_other_names_is_an_error(other_name):
    with pytest.raises(
        ConfigError, match="Records with names as there: 14 of mine, 6 of more"
    ) as e:
        tables.make_tables("ptbxl", other_name / "store", other_name / "metadata")
    assert "1 of code15; say with --database which of these is ptbxl" in str(e.value)
    with pytest.raises(ConfigError, match="the store has no ptb; it has code15, mine, more"):
        tables.make_tables("ptbxl", other_name / "store", other_name / "metadata", ["ptb"])


def test_a_named_database_gets_the_labels(other_name):
    for databases, count in ((["mine"], 14), (["mine", "more"], 20)):
        tables.make_tables("ptbxl", other_name / "store", other_name / "metadata", databases)
        assert len(tables_of(other_name, "splits/ptbxl")[0]) == count


def test_one_record_of_the_metadata_in_two_databases_is_an_error(other_name):
    with pytest.raises(ConfigError, match="for 1 records: 3 of code15, 00003_hr of mine; name"):
        databases = ["code15", "mine"]
        tables.make_tables("ptbxl", other_name / "store", other_name / "metadata", databases)


@pytest.mark.parametrize("form", ["{}", "{:05d}", "{:05d}_hr"])
def test_names_that_count_from_0_are_not_those_of_the_set(ptbxl, tmp_path, form):
    """The defect: 0.npy, 1.npy, ... of the first, second, ... recording got the labels of 1, 2, ...,
    which are others'.
    """
    for k in range(4):
        write_record(tmp_path / "in" / "ptb-xl", form.format(k), ecg_counts(300, seed=k), fs="100")
    extract(tmp_path / "in", tmp_path / "extracted", [100], workers=1)
    reformat(tmp_path / "extracted", tmp_path / "store")
    with pytest.raises(ConfigError, match="called 0*(_hr)?, which ptbxl has not: names that count"):
        tables.make_tables("ptbxl", tmp_path / "store", ptbxl / "metadata")


def test_unknown_patients_of_the_metadata_are_not_one_patient(other_name, tmp_path):
    benchmark_files.ptbxl(tmp_path, range(1, 41))
    path = tmp_path / "ptbxl_database.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[:29, "patient_id"] = ["nan", "unknown", "-1"] * 10
    table.to_csv(path, index=False)
    tables.make_tables("ptbxl", other_name / "store", tmp_path, ["mine"])
    assert set(tables_of(other_name, "splits/ptbxl")[0]["patient"]) == {""}


def test_a_patient_with_a_large_share_is_said_where_tables_are_added(other_name, tmp_path, capsys):
    names = RecordStore(other_name / "store" / "fs100").records["record"]
    for column, add in (("AF", add_labels), ("split", add_splits)):
        cells = [["0", "1", "0"], ["train"] * 3][column == "split"]
        rows = (f"{name},anonymous,{cells[n % 3]}\n" for n, name in enumerate(names))
        path = tmp_path / f"{column}.csv"
        path.write_text(f"record,patient,{column}\n" + "".join(rows))
        capsys.readouterr()
        add(other_name / "store", path)
        assert "patient anonymous of mine has 14 of 21 records" in capsys.readouterr().out
