"""Records with fewer than twelve leads in training: who takes part, and PhysioNet 2017's one lead from end to end."""
import pytest
import small_store
import yaml
from tiny_jobs import CNN, ST_MEM
from wfdb_files import ecg_counts, write_record

import main_finetune
import main_pretrain
from data_preparation.data_extraction_without_preprocessing import extract
from data_preparation.reformat_memmap import reformat
from util.errors import ConfigError
from util.leads import LEADS
from util.splits import choose_rows
from util.store import RecordStore


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store of 40 recordings with twelve leads, 40 with lead I and 20 with leads I and V5."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(100):
        leads = LEADS if i < 40 else ("I",) if i < 80 else ("I", "V5")
        write_record(folder / "in" / f"db{i % 2}", f"E{i:03d}", ecg_counts(1500, i, len(leads)), leads=leads,
                     comments=("#Age: 50", "#Sex: Male", f"#Dx: {small_store.DX[i % len(small_store.DX)]}"))
    extract(folder / "in", folder / "extracted", [100], workers=1)
    reformat(folder / "extracted", folder / "store")
    return folder / "store"


def run(main, config, folder, store, **dataset):
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "dataset": {**config["dataset"], "store": str(store), "max_records": None, **dataset}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    small_store.run(main, "--config_path", folder / "config.yaml", "--output_dir", folder, "--exp_name", "run")
    return folder / "run"


def test_rows_are_those_that_have_all_of_the_leads(mixed):
    store = RecordStore(mixed / "fs100")
    names = store.records["record"].to_numpy()
    assert len(choose_rows(store)) == 100
    assert sorted(names[choose_rows(store, leads=LEADS)]) == [f"E{i:03d}" for i in range(40)]
    assert len(choose_rows(store, leads=("I",))) == 100
    assert sorted(names[choose_rows(store, leads=("V5", "I"), databases=["db1"])]) == [
        f"E{i:03d}" for i in range(100) if i % 2 and not 40 <= i < 80]
    # a subset is drawn from the records that take part
    assert set(choose_rows(store, leads=LEADS, max_records=30)) <= set(choose_rows(store, leads=LEADS))
    assert len(choose_rows(store, leads=LEADS, max_records=30)) == 30


def test_leads_that_no_record_has_are_an_error(mixed, tmp_path):
    lead_i_alone = tmp_path / "in"
    for i in range(3):
        write_record(lead_i_alone, f"E{i}", ecg_counts(1500, i, 1), leads=("I",))
    extract(lead_i_alone, tmp_path / "extracted", [100], workers=1)
    reformat(tmp_path / "extracted", tmp_path / "store")
    with pytest.raises(ConfigError, match="none of 3 records has all of the leads I II .* the first has I; .* lead1"):
        choose_rows(RecordStore(tmp_path / "store" / "fs100"), leads=LEADS)


@pytest.mark.parametrize("main, config", [(main_pretrain, ST_MEM), (main_finetune, CNN)], ids=["pretrain", "finetune"])
def test_what_lacks_a_lead_takes_no_part_and_is_counted(mixed, tmp_path, capsys, main, config):
    config = {**config, "train": {**config["train"], "epochs": 1, "warmup_epochs": 0}}
    run(main.main, config, tmp_path, mixed)
    assert "which take no part: 60 of 100" in (text := capsys.readouterr().out) and "lack a lead" in text
    run(main.main, config, tmp_path / "one", mixed, lead="lead1")
    assert "lack a lead" not in capsys.readouterr().out
