"""Records with fewer than twelve leads in training: who takes part, and PhysioNet 2017's one lead
from end to end.
"""

import pandas as pd
import pytest
import torch
import yaml

import main_finetune
import main_pretrain
from data_preparation import benchmark_labels
from data_preparation.building.reformat import reformat
from data_preparation.importing.wfdb_source import extract
from experiments import predict
from models.encoder.st_mem_vit import ST_MEM_ViT
from tests.support import benchmark_files, small_store
from tests.support.tiny_jobs import CNN, DATA, ST_MEM
from tests.support.wfdb_files import ecg_counts, write_record
from util.config.keys import PretrainConfig
from util.config.load import check
from util.contract.registry import register
from util.data.splits import choose_rows
from util.data.store import RecordStore
from util.errors import ConfigError
from util.jobs.setup import note_rows
from util.leads import LEADS


@register
def nano_lead_vit(num_classes=None, seq_len=150, patch_size=75, leads=None):
    """The encoder of ``nano_st_mem`` for some of its twelve leads."""
    return ST_MEM_ViT(
        num_classes=num_classes,
        seq_len=seq_len,
        patch_size=patch_size,
        num_leads=12,
        leads=leads,
        width=64,
        depth=2,
        heads=1,
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store of 40 recordings with twelve leads, 40 with lead I and 20 with leads I and V5."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(100):
        leads = LEADS if i < 40 else ("I",) if i < 80 else ("I", "V5")
        write_record(
            folder / "in" / f"db{i % 2}",
            f"E{i:03d}",
            ecg_counts(1500, i, len(leads)),
            leads=leads,
            comments=("#Age: 50", "#Sex: Male", f"#Dx: {small_store.DX[i % len(small_store.DX)]}"),
        )
    extract(folder / "in", folder / "extracted", [100], workers=1)
    reformat(folder / "extracted", folder / "store")
    return folder / "store"


def run(main, config, folder, store, **dataset):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        **config,
        "dataset": {**config["dataset"], "store": str(store), "max_records": None, **dataset},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    small_store.run(
        main, "--config_path", folder / "config.yaml", "--output_dir", folder, "--exp_name", "run"
    )
    return folder / "run"


def test_rows_are_those_that_have_all_of_the_leads(mixed, capsys):
    store = RecordStore(mixed / "fs100")
    names = store.records["record"].to_numpy()
    assert len(choose_rows(store)) == 100
    assert sorted(names[choose_rows(store, leads=LEADS)]) == [f"E{i:03d}" for i in range(40)]
    assert len(choose_rows(store, leads=("I",))) == 100
    assert sorted(names[choose_rows(store, leads=("V5", "I"), databases=["db1"])]) == [
        f"E{i:03d}" for i in range(100) if i % 2 and not 40 <= i < 80
    ]
    # a subset is drawn from the records that take part
    assert set(choose_rows(store, leads=LEADS, max_records=30)) <= set(
        choose_rows(store, leads=LEADS)
    )
    assert len(choose_rows(store, leads=LEADS, max_records=30)) == 30
    for most in (30, 40):
        config = check({**ST_MEM, "dataset": {**DATA, "max_records": most}}, PretrainConfig)
        note_rows(store, config)
        lacking, *drawn = capsys.readouterr().out.splitlines()
        assert "which take no part: 60 of 100" in lacking
        assert drawn == [
            f"dataset.max_records: {most} of 40 records, drawn by the seed, take part"
        ] * (most < 40)


def test_leads_that_no_record_has_are_an_error(mixed, tmp_path):
    lead_i_alone = tmp_path / "in"
    for i in range(3):
        write_record(lead_i_alone, f"E{i}", ecg_counts(1500, i, 1), leads=("I",))
    extract(lead_i_alone, tmp_path / "extracted", [100], workers=1)
    reformat(tmp_path / "extracted", tmp_path / "store")
    with pytest.raises(
        ConfigError,
        match="none of 3 records has all of the leads I II .* the first has I; .* lead1",
    ):
        choose_rows(RecordStore(tmp_path / "store" / "fs100"), leads=LEADS)


@pytest.mark.parametrize(
    "main, config", [(main_pretrain, ST_MEM), (main_finetune, CNN)], ids=["pretrain", "finetune"]
)
def test_what_lacks_a_lead_takes_no_part_and_is_counted(mixed, tmp_path, capsys, main, config):
    config = {**config, "train": {**config["train"], "epochs": 1, "warmup_epochs": 0}}
    run(main.main, config, tmp_path, mixed)
    assert (
        "which take no part: 60 of 100" in (text := capsys.readouterr().out)
        and "lack a lead" in text
    )
    if main is main_finetune:
        run(main.main, config, tmp_path / "one", mixed, lead="lead1")
        assert "lack a lead" not in capsys.readouterr().out


# ============ PhysioNet 2017, from recordings to predictions ============
@pytest.mark.slow
def test_physionet2017_from_a_12_lead_encoder_through_lead_i(tmp_path, capsys):
    """Extraction, store, labels, fine-tuning, linear probe and prediction, as docs/benchmarks.md
    has it.
    """
    given = benchmark_files.physionet2017_recordings(tmp_path / "in", 72, seconds=(9, 14))
    totals, skipped, _ = extract(
        tmp_path / "in", tmp_path / "extracted", [100], workers=1, lead_names={"ecg": "I"}
    )
    reformat(tmp_path / "extracted", tmp_path / "store")
    records = RecordStore(tmp_path / "store" / "fs100").records
    assert (
        not skipped
        and len(records) == 72
        and set(records["leads"]) == {"I"}
        and set(records["fs_original"]) == {300}
    )
    small_store.run(
        benchmark_labels.main,
        "physionet2017",
        "--store",
        tmp_path / "store",
        "--metadata",
        tmp_path / "in",
    )
    assert "warning: records: expected 8528 (version" in (text := capsys.readouterr().out)
    assert "72 of 72 records of the store are of physionet2017 (database physionet2017)" in text

    pretrained = run(main_pretrain.main, ST_MEM, tmp_path / "pretrain", small_store.store())
    before = torch.load(pretrained / "encoder.pth", weights_only=True)["model"]
    config = {
        **CNN,
        "model_name": "nano_lead_vit",
        "model": {},
        "mode": "linprobe",
        "metric": {},
        "encoder_path": str(pretrained / "encoder.pth"),
        "test": {"target_metric": "loss"},
    }
    data = {
        "lead": "lead1",
        "labels": "physionet2017",
        "splits": "physionet2017",
        "protocol": "given",
        "given": {"train": [0, 1, 2, 3, 4, 5, 6, 7], "valid": [8], "test": [9]},
    }
    for mode in ("linprobe", "finetune"):
        folder = run(
            main_finetune.main,
            {**config, "mode": mode},
            tmp_path / mode,
            tmp_path / "store",
            **data,
        )
        table = pd.read_csv(folder / "test_predictions.csv").set_index("record")
        assert 6 <= len(table) <= 9 and {given[name] for name in table.index} >= {"N", "A", "O"}
        after = torch.load(folder / "best-loss.pth", weights_only=True)["model"]
        lead_i = [key for key in after if key.endswith("lead_embeddings.0")][0]
        # a linear probe leaves it as it was pre-trained; fine-tuning moves lead I's and no other
        assert torch.equal(after[lead_i], before["lead_embeddings.0"]) == (mode == "linprobe")
        assert all(
            torch.equal(after[lead_i[:-1] + str(row)], before[f"lead_embeddings.{row}"])
            for row in range(1, 12)
        )

    small_store.run(
        predict.main,
        "--weights",
        folder / "best-loss.pth",
        "--input",
        tmp_path / "in" / "training2017",
        "--output",
        tmp_path / "out",
        "--lead_names",
        "ECG=I",
        "--gpu",
        "cpu",
    )
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("record")
    names = [column for column in table if column.startswith("probability_")]
    assert len(summary) == 72
    for record, row in table.iterrows():
        for name in names:
            assert summary.loc[record, name.removeprefix("probability_")] == pytest.approx(
                row[name], abs=1e-5
            )
