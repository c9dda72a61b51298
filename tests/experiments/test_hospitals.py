"""Leave one hospital out, from the command to the matrix; a job on given splits."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from data_preparation import add_splits
from experiments import leave_one_hospital_out
from main_finetune import finetune
from tests.support.small_store import run
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import ROOT, load_config, save_config
from util.data.store import RecordStore, write_store
from util.evaluation.probes import make_probe
from util.jobs.job import LabelledJob
from util.labels.tables import read_labels
from util.scoring.scores import auroc, macro

AF, SINUS, BRADY, LAD = "164889003", "426783006", "426177001", "39732003"
CODES = {
    "north": [AF, SINUS, BRADY],
    "south": [AF, SINUS, BRADY, LAD],
    "west": [AF, SINUS],
    "tiny": [AF, SINUS],
}
SIZES = {"north": 50, "south": 60, "west": 40, "tiny": 4}
CLASSES = {"AF": [AF], "sinus": [SINUS], "slow": [BRADY], "axis": [LAD]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """dataset.store of four databases: north never annotates the axis, west and tiny
    neither this nor slow.
    """
    random, rows = np.random.default_rng(0), []
    for database, size in SIZES.items():
        for i in range(size):
            codes = CODES[database]
            dx = [
                codes[i % len(codes)],
                *([codes[2]] if len(codes) > 2 and i % 5 == 0 and i % len(codes) != 2 else []),
            ]
            row = {
                "record": f"{database}{i}",
                "database": database,
                "fs_original": 100.0,
                "scale_uv": 1,
                "age": 50,
                "sex": "Male",
                "dx": dx,
                "fold": i % 10,
                "patient": f"p{i // 2}",
            }
            rows.append((row, random.integers(-900, 900, (300, 12)).astype(np.int16)))
    folder = tmp_path_factory.mktemp("hospitals")
    write_store(folder / "fs100", 100, rows, ["test"])
    return folder


def config_of(store, folder, *overrides):
    """The config of a tiny network's few steps on this store."""
    overrides = (
        f"dataset.store={store}",
        f"output_dir={folder}",
        f"dataset.classes={json.dumps(CLASSES)}",
        "dataset.fold=0",
        "train.epochs=1",
        "train.steps_per_epoch=4",
        "device=cpu",
        "metric.target_metrics=[AUROC, AUPRC]",
        "dataloader.batch_size=8",
        "model.channels=4",
        "dataloader.num_workers=0",
        *overrides,
    )
    return load_config([ROOT / "configs/downstream/signal.yaml"], overrides, program=FinetuneConfig)


def fold_of(store, folder, *overrides):
    """Fold 0 of the job of ``config_of``."""
    return LabelledJob(config_of(store, folder, *overrides)).fold(0)


def test_labels_that_a_database_never_annotated_are_unknown(store, tmp_path, capsys):
    fold = fold_of(
        store, tmp_path, "dataset.protocol=leave_one_database", "dataset.test_database=south"
    )
    records = RecordStore(store / "fs100")
    database = records.records["database"].to_numpy()
    unknown = np.isnan(fold.labels)
    expected = np.zeros_like(unknown)
    expected[:, 3] = True  # the axis: south alone annotates it, and nobody trains on it
    expected[np.isin(database, ["west", "tiny"]), 2] = True
    assert np.array_equal(unknown, expected)
    plain = read_labels(records, fold.job.config.dataset).values
    assert np.array_equal(fold.labels[~unknown], plain[~unknown])
    assert "not scored on the database left out: axis" in capsys.readouterr().out
    fewer = fold_of(
        store,
        tmp_path,
        "dataset.protocol=leave_one_database",
        "dataset.test_database=south",
        "dataset.databases=[south, west]",
    )
    assert np.isnan(fewer.labels[database == "south"])[
        :, 2:
    ].all()  # slow: nobody who is trained on annotated it
    assert not np.isnan(fold_of(store, tmp_path).labels).any()
    nested = fold_of(store, tmp_path, "dataset.mask_unannotated=true")
    assert np.array_equal(np.isnan(nested.labels), expected & (database != "south")[:, None])


def test_the_probe_of_pre_training_knows_what_a_hospital_never_annotated(store, tmp_path):
    """Its score is that of a fine-tuning on the same protocol: no negatives that nobody
    looked for.
    """
    config = load_config(
        [ROOT / "configs/pretrain/simclr_signal.yaml"],
        (
            f"dataset.store={store}",
            f"dataset.classes={json.dumps(CLASSES)}",
            "dataset.protocol=leave_one_database",
            "dataset.test_database=west",
            "train.probe_every=1",
            "dataset.fold=0",
            "dataset.max_records=null",
        ),
        program=PretrainConfig,
    )
    probe = make_probe(RecordStore(store / "fs100"), config, torch.device("cpu"))
    fold = fold_of(
        store, tmp_path, "dataset.protocol=leave_one_database", "dataset.test_database=west"
    )
    for (rows, _, labels), part in zip(probe.parts, ("train", "valid")):
        assert rows.tolist() == fold.parts[part].tolist() and np.isnan(labels).any()
        np.testing.assert_array_equal(labels, fold.labels_of(part))


def test_the_matrix_of_all_hospitals(store, tmp_path, capsys):
    save_config(config_of(store, tmp_path), tmp_path / "config.yaml")
    argv = [
        "--config_path",
        tmp_path / "config.yaml",
        "--exp_name",
        "matrix",
        "--min_records",
        10,
        "--set",
        "test.bootstrap=20",
        "--resume",
        "auto",
    ]
    run(leave_one_hospital_out.main, *argv)
    table = pd.read_csv(tmp_path / "matrix" / "hospitals.csv").set_index("test_database")
    assert (
        list(table.index) == sorted(SIZES)
        and "skipped: fewer than 10 usable records" in table.loc["tiny", "remark"]
    )
    done = table.drop("tiny")
    assert done["remark"].isna().all() and table["records"].to_dict() == SIZES
    assert done["classes"].to_dict() == {"north": 3, "south": 3, "west": 2}
    assert done.loc["south", "class_names"] == "AF sinus slow"
    for database, row in done.iterrows():
        folder = tmp_path / "matrix" / database
        found = pd.read_csv(folder / "test_predictions.csv")
        assert set(found["database"]) == {database} and len(found) == SIZES[database]
        known = row["class_names"].split()
        dx = RecordStore(store / "fs100").records.set_index("record").loc[found["record"], "dx"]
        truth = np.array([[CLASSES[name][0] in text.split() for name in known] for text in dx])
        written = found[[f"probability_{name}" for name in known]].to_numpy()
        # these have six digits: a pair that differs by one in the last may have been tied, or the
        # other way round, before it was rounded; the score, of four decimals, lies between all
        # such pairs wrong and all of them right
        assert written.min() > 0.1 and written.max() < 1
        worst, best = (macro(auroc(truth, written + step * truth)) for step in (-1.1e-6, 1.1e-6))
        assert worst - 6e-5 <= row["AUROC"] <= best + 6e-5 and best - worst < 0.01
        assert 0 <= row["AUROC_low"] <= row["AUROC_high"] <= 1 and 0 <= row["selection_AUPRC"] <= 1
        assert (
            row["training_records"] + row["selection_records"]
            == sum(SIZES.values()) - SIZES[database]
        )
    printed = capsys.readouterr().out
    assert "tiny: skipped" in printed and f"/ {done.loc['west', 'selection_AUROC']:.3f}" in printed
    logs = [(tmp_path / "matrix" / name / "log.txt").read_text() for name in done.index]
    run(leave_one_hospital_out.main, *argv)  # nothing is trained again
    again = pd.read_csv(tmp_path / "matrix" / "hospitals.csv").set_index("test_database")
    pd.testing.assert_frame_equal(again, table)
    assert logs == [(tmp_path / "matrix" / name / "log.txt").read_text() for name in done.index]


def test_a_job_on_given_splits(store, tmp_path):
    records = RecordStore(store / "fs100").records
    part = np.where(
        records["patient"].isin(["p0", "p3", "p7", "p11"]),
        "test",
        np.where(records["patient"].isin(["p1", "p4", "p9"]), "valid", "train"),
    )
    pd.DataFrame({"record": records["record"], "split": part})[:-6].to_csv(
        tmp_path / "mine.csv", index=False
    )
    add_splits.main([str(store), str(tmp_path / "mine.csv")])
    finetune(
        config_of(
            store, tmp_path, "dataset.protocol=given", "dataset.splits=mine", "exp_name=given"
        )
    )
    found = pd.read_csv(tmp_path / "given" / "test_predictions.csv")
    assert found["record"].tolist() == records["record"][:-6][part[:-6] == "test"].tolist()
