"""Tables of labels beside a store, what a config makes of them, and the criterion that learns
known labels alone.
"""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_preparation import add_labels, add_splits, check_store, reformat_memmap
from tests.support import small_store
from tests.support.small_store import add_table
from tests.support.tiny_jobs import CNN, with_store
from util.config.keys import FinetuneConfig, FinetuneDataset
from util.config.load import check
from util.data.store import RecordStore
from util.errors import ConfigError, StoreError
from util.evaluation.evaluator import gate_table
from util.jobs.job import LabelledJob
from util.labels.tables import note_rare_classes, note_unknown_labels, read_labels
from util.processes.program import run_main
from util.scoring.criterion import Criterion
from util.scoring.predictions import Predictions

ONES = ["record,AF,LBBB,patient", "E003,1,0,p1", "E001,,1,p1", "E000,0,,", "E002,,,p2"]


@pytest.fixture
def store():
    return RecordStore(small_store.store() / "fs100")


def read(store, choice, classes=None, task=None):
    return read_labels(store, FinetuneDataset(transforms=[], labels=choice, classes=classes), task)


def job_of(**changes):
    """The job of a fine-tuning config with dotted keys changed."""
    config = with_store(CNN)
    config = {
        **config,
        "metric": {},
        "dataset": {**config["dataset"], "labels": changes.pop("labels", None)},
    }
    for key, value in changes.items():
        section, _, name = key.partition("_")
        if section in ("metric", "dataset", "test"):
            config[section] = {**config[section], name: value}
        else:
            config[key] = value
    return LabelledJob(check(config, FinetuneConfig))


# ============ tables ============
def test_a_table_gives_labels_in_the_stores_order_with_unknown_ones(store, tmp_path, capsys):
    labels = read(store, add_table(tmp_path, "ones", ONES))
    assert (labels.name, labels.kind, labels.classes) == ("ones", "multilabel", ("AF", "LBBB"))
    assert labels.values.dtype == np.float32 and labels.values.shape == (80, 2)
    np.testing.assert_array_equal(
        labels.values[:4], [[0, np.nan], [np.nan, 1], [np.nan, np.nan], [1, 0]]
    )
    assert np.isnan(labels.values[4:]).all()
    assert labels.known.tolist() == [True, True, False, True] + [False] * 76
    told = capsys.readouterr().out
    assert "labels ones: 4 of 80 records, 0/1 (multi-label): AF, LBBB" in told
    assert "records of the store without a row, whose labels are unknown: 76 of 80" in told
    assert (small_store.store() / "labels" / "ones.csv").read_text().splitlines() == [
        "record,AF,LBBB,patient",
        "E000,0,,",
        "E001,,1,p1",
        "E002,,,p2",
        "E003,1,0,p1",
    ]
    about = json.loads((small_store.store() / "labels" / "ones.json").read_text())
    assert about["source"] == "ones.csv" and about["command"] == [
        "python data_preparation/add_labels.py STORE ones.csv --name ones"
    ]


def test_words_and_numbers_come_back_as_they_went_in(store, tmp_path):
    words = read(
        store, add_table(tmp_path, "words", ["record,rhythm", "E000,sinus", "E001,AF", "E003,"])
    )
    assert (words.kind, words.classes, words.values.dtype) == (
        "multiclass",
        ("AF", "sinus"),
        np.int64,
    )
    assert words.values[:4].tolist() == [1, 0, -1, -1] and words.known.sum() == 2
    numbers = read(
        store, add_table(tmp_path, "numbers", ["record,age,pr", "E000,61.25,0.1", "E001,,-2e3"])
    )
    assert (numbers.kind, numbers.classes) == (
        "regression",
        ("age", "pr"),
    ) and numbers.known.sum() == 2
    np.testing.assert_array_equal(
        numbers.values[:2], np.array([[61.25, 0.1], [np.nan, -2000]], np.float32)
    )


def test_columns_are_chosen_by_name_in_the_order_given(store, tmp_path):
    name = add_table(tmp_path, "three", ["record,a,b,c", "E000,1,0,", "E001,,,1"])
    labels = read(store, {"name": name, "columns": ["c", "a"]})
    assert labels.classes == ("c", "a") and labels.known[:3].tolist() == [True, True, False]
    np.testing.assert_array_equal(labels.values[:2], [[np.nan, 1], [1, np.nan]])
    assert read(store, {"name": name, "columns": ["b"]}).known[:2].tolist() == [True, False]
    with pytest.raises(ConfigError, match="three has no d, x; its columns are a, b, c"):
        read(store, {"name": name, "columns": ["d", "a", "x"]})
    with pytest.raises(ConfigError, match="names a column twice"):
        read(store, {"name": name, "columns": ["a", "a"]})


@pytest.mark.parametrize(
    "choice",
    [
        {"columns": ["a"]},
        {"name": "x", "column": "a"},
        {"name": "x", "columns": []},
        {"name": "x", "columns": "a"},
        {"name": 5},
    ],
)
def test_a_wrong_choice_has_a_sentence(store, choice):
    with pytest.raises(ConfigError, match=r"must be a table's name, or \{name: NAME, columns"):
        read(store, choice)


def test_labels_and_classes_at_once_and_tables_that_are_not_there(store, tmp_path):
    name = add_table(tmp_path, "ones", ONES)
    with pytest.raises(ConfigError, match="dataset.labels and dataset.classes both say"):
        read(store, name, "challenge2020")
    with pytest.raises(
        ConfigError, match=r"no table of labels 'other' \(it has .*ones.*\); add one with"
    ):
        read(store, "other")
    with pytest.raises(ConfigError, match="cannot be called '../ones'"):
        read(store, "../ones")


def test_a_changed_or_damaged_table_is_refused(store, tmp_path):
    add_table(tmp_path, "spoilt", ONES)
    table, about = (small_store.store() / "labels" / f"spoilt.{kind}" for kind in ("csv", "json"))
    text, description = table.read_text(), about.read_text()
    table.write_text(text.replace("E003,1,0", "E003,0,0"))
    with pytest.raises(
        StoreError, match=r"spoilt.csv is missing or was changed .* add the table again"
    ):
        read(store, "spoilt")
    table.write_text(text)
    for damaged in (
        "{",
        "[]",
        description.replace('"version": 1', '"version": 2'),
        description.replace('"kind"', '"k"'),
    ):
        about.write_text(damaged)
        with pytest.raises(
            StoreError, match="spoilt.json is damaged or of another version; add the table again"
        ):
            read(store, "spoilt")
    about.write_text(description)
    smaller = SimpleNamespace(path=store.path, records=store.records.iloc[:2])
    with pytest.raises(
        ConfigError, match="names 2 records that the store lacks.*add the table again"
    ):
        read(smaller, "spoilt")


# ============ the command lines ============
def test_add_labels_takes_one_rates_folder_replaces_and_names(tmp_path, capsys):
    (tmp_path / "age.csv").write_text("record,age\nE000,61\nE001,50\nX,3\n")
    place = small_store.store() / "fs250"
    assert run_main(add_labels.main, [str(place), str(tmp_path / "age.csv")]) == 2
    assert "age.csv names 1 records that the store lacks, such as X" in capsys.readouterr().err
    flags = [str(place), str(tmp_path / "age.csv"), "--name", "years", "--ignore_unknown"]
    assert run_main(add_labels.main, flags) == 0
    told = capsys.readouterr().out
    assert (
        "labels years: 2 of 80 records, numbers (regression): age" in told
        and "replaces" not in told
    )
    assert (
        "numbers are taken as regression; if they are codes of classes, write words instead" in told
    )
    assert "rows left out, whose records the store lacks: 1 of 3, such as X" in told
    assert run_main(add_labels.main, flags) == 0
    assert "labels years, which replaces an earlier table: 2 of 80" in capsys.readouterr().out
    assert run_main(add_labels.main, [str(tmp_path), str(tmp_path / "age.csv")]) == 2
    assert "no store at" in capsys.readouterr().err
    (tmp_path / "my labels.csv").write_text("record,AF\nE000,1\n")
    assert run_main(add_labels.main, [str(place), str(tmp_path / "my labels.csv")]) == 2
    assert "cannot be called 'my labels'" in capsys.readouterr().err


def test_reformat_takes_labels_along(tmp_path, capsys):
    extracted = small_store.store().parent / "extracted"
    (tmp_path / "seen.csv").write_text("record,AF\nE000,1\nE001,0\nskipped,0\n")
    flags = [
        "--input_dir",
        str(extracted),
        "--output_dir",
        str(tmp_path / "store"),
        "--labels",
        str(tmp_path / "seen.csv"),
    ]
    assert run_main(reformat_memmap.main, flags) == 2 and not list((tmp_path / "store").glob("fs*"))
    assert "names 1 records that the store lacks, such as skipped" in capsys.readouterr().err
    assert run_main(reformat_memmap.main, [*flags, "--ignore_unknown"]) == 0
    assert "labels seen: 2 of 80 records" in capsys.readouterr().out
    made = RecordStore(tmp_path / "store" / "fs250")
    assert read(made, "seen").values[:2].tolist() == [[1], [0]]
    assert (
        made.meta["command"][-1]
        == "python data_preparation/reformat_memmap.py --labels seen.csv --ignore_unknown"
    )


def test_check_store_looks_at_tables_of_labels(tmp_path, capsys):
    root = tmp_path / "store"
    shutil.copytree(small_store.store(), root, ignore=shutil.ignore_patterns("labels", "fs250"))
    (tmp_path / "seen.csv").write_text("record,AF\nE000,1\nE001,0\n")
    assert run_main(add_labels.main, [str(root), str(tmp_path / "seen.csv")]) == 0
    assert run_main(check_store.main, [str(root)]) == 0
    assert (
        "sound    labels seen: multilabel, 1 classes or columns, known of 2 records"
        in capsys.readouterr().out
    )
    (root / "labels" / "seen.csv").write_text("record,AF\nE000,1\nE001,1\n")
    assert run_main(check_store.main, [str(root)]) == 2
    assert "damaged" in capsys.readouterr().out


# ============ what a config makes of them ============
def test_task_loss_and_scores_follow_from_the_columns(tmp_path):
    add_table(tmp_path, "ones", ONES)
    add_table(tmp_path, "words", ["record,rhythm", "E000,sinus", "E001,AF"])
    add_table(tmp_path, "numbers", ["record,age", "E000,61", "E001,50"])
    for name, task, loss, scores in (
        ("ones", "multilabel", "bce", ["AUROC"]),
        ("words", "multiclass", "cross_entropy", ["AUROC"]),
        ("numbers", "regression", "mse", ["MAE", "R2"]),
    ):
        job = job_of(labels=name)
        assert (job.task, job.loss, list(job.scores)) == (task, loss, scores)
        assert (job.config.metric.task, job.config.loss) == (task, loss)
        again = LabelledJob(job.config)
        assert again.config == job.config, "the saved config repeats it"
    default = job_of()
    assert (default.task, default.loss, len(default.classes)) == ("multilabel", "bce", 24)
    assert default.config.dataset.classes == "challenge2020"
    assert job_of(loss="cross_entropy").task == "multiclass"
    assert job_of(labels="numbers", loss="l1").loss == "l1"


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"labels": "ones", "metric_task": "multiclass"},
            "metric.task is for multiclass labels but the table ones is multi",
        ),
        (
            {"labels": "ones", "loss": "mse"},
            "loss is for regression labels but the table ones is multilabel",
        ),
        (
            {"labels": "ones", "loss": "mse", "metric_task": "multilabel"},
            "loss mse does not go with metric.task multilabel",
        ),
        ({"labels": "ones", "metric_num_labels": 3}, "metric.num_labels is 3 but ones has 2"),
        (
            {"labels": "ones", "metric_target_metrics": ["MAE"]},
            "MAE is defined for metric.task regression, not multilabel",
        ),
        (
            {"labels": "ones", "metric_target_metrics": ["ChallengeScore"]},
            "needs dataset.classes: challenge2020",
        ),
        (
            {"labels": "ones", "test_target_metric": "R2"},
            "'R2' is not measured; choose loss, AUROC",
        ),
        ({"loss": "mse"}, "regression needs numbers, and dataset.classes gives none"),
        ({"metric_task": "regression"}, "regression needs numbers"),
    ],
)
def test_contradictions_have_a_sentence(tmp_path, changes, words):
    add_table(tmp_path, "ones", ONES)
    with pytest.raises(ConfigError, match=words):
        job_of(**changes)


# ============ unknown is not negative ============
def test_unknown_labels_are_counted_and_said(sentences):
    labels = np.array([[1, np.nan], [0, np.nan], [1, np.nan]])
    note_unknown_labels(labels, ("a", "b"), "test", ["F2", "G2"])
    assert sentences() == [
        "unknown labels in the test part, which take no part in loss and scores: 3 of 6",
        "the test part has no known label of b: no output for it is learned or scored there",
        "F2, G2 cannot count 3 of 3 records of the test part, which have an unknown label",
    ]
    note_unknown_labels(labels, ("a", "b"), "training", ["F2"])
    assert len(sentences()) == 2
    note_unknown_labels(labels[:, :1], ("a",), "test", ["F2"])
    note_unknown_labels(np.array([0, 1, 1]), ("a", "b"), "test", [])
    assert sentences() == []
    unknown_too = np.array([[1, np.nan], [0, np.nan], [np.nan, np.nan], [1, np.nan]])
    note_rare_classes(unknown_too, ("a", "b"), "test")
    assert "of a (2), b (0): " in sentences()[0]


def test_classes_of_which_training_has_no_record_are_said(tmp_path, sentences):
    labels = np.array([[1, np.nan, 0], [0, np.nan, 0], [0, 1, 1]])
    note_rare_classes(labels[:2], ("a", "b", "c"), "training")
    (sentence,) = sentences()
    assert sentence.startswith(
        "the training part has no record of b, c: nothing is learned of these"
    )
    note_rare_classes(labels, ("a", "b", "c"), "training")
    assert sentences() == []
    note_rare_classes(np.array([1, 1]), ("a", "b", "c"), "training")
    assert "no record of a, c" in sentences()[0]
    cells = [f"E{i:03d},{i % 2},0" if i else "E000,1,1" for i in range(80)]
    add_table(tmp_path, "rare", ["record,odd,rare", *cells])
    job = job_of(labels="rare", dataset_max_records=None)
    home = int(job.store.records["fold"][0])
    for fold, learned in ((home, False), ((home + 5) % 10, True)):
        sentences()
        job.fold(fold).describe()
        assert any("training part has no record of rare" in each for each in sentences()) != learned


def predicted(labels, outputs, task, classes, gate=None):
    """Predictions of as many records of one database."""
    n = len(labels)
    return Predictions(
        records=np.array([f"r{i}" for i in range(n)]),
        databases=np.array(["d"] * n),
        labels=labels,
        outputs=outputs,
        logits=outputs,
        patients=np.arange(n),
        classes=classes,
        task=task,
        gate=gate,
    )


def test_an_unknown_label_makes_no_member_of_the_gates_table():
    gate, labels = np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([[1, np.nan], [np.nan, 1]])
    predictions = predicted(labels, np.zeros((2, 2)), "multilabel", ("a", "b"), gate)
    table = gate_table(predictions).set_index("class")
    assert table["records"].to_dict() == {"all": 2, "a": 1, "b": 1} and table["signal"]["a"] == 0.1
    numbers = replace(predictions, task="regression")
    assert gate_table(numbers)["class"].tolist() == ["all"], "numbers have no members"


@pytest.mark.parametrize(
    "task, cells", [("multilabel", [1.0, np.nan]), ("regression", [61.5, np.nan])]
)
def test_an_unknown_label_is_an_empty_cell_of_the_predictions(tmp_path, task, cells):
    labels, outputs = np.array([cells], np.float32), np.array([[0.2, 0.8]])
    predicted(labels, outputs, task, ("one", "two")).write_csv(tmp_path / "t.csv")
    header, row = (tmp_path / "t.csv").read_text().splitlines()
    what = "prediction" if task == "regression" else "probability"
    assert header == f"record,database,label_one,label_two,{what}_one,{what}_two"
    assert row == f"r0,d,{'61.5' if task == 'regression' else '1'},,0.2,0.8"


@pytest.mark.parametrize("loss", ["bce", "mse", "l1"])
def test_the_loss_is_a_sum_over_known_labels_divided_by_a_constant(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(16, 3), torch.rand(16, 3).round()
    known = torch.rand(16, 3) < 0.6
    labels = target.where(known, torch.nan)
    criterion = Criterion(loss, share=0.5)
    z, y = logits.double(), target.double()
    each = {
        "bce": lambda: -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)),
        "mse": lambda: (z - y) ** 2,
        "l1": lambda: (z - y).abs(),
    }[loss]()
    expected = sum(each[i, c].item() for i in range(16) for c in range(3) if known[i, c])
    assert criterion(logits, labels).item() == pytest.approx(expected / (16 * 3 * 0.5), rel=1e-6)
    assert criterion.of_known(logits, labels) == pytest.approx(
        expected / known.sum().item(), rel=1e-6
    )
    parts = [criterion(logits[part], labels[part]).item() for part in (slice(0, 8), slice(8, 16))]
    assert criterion(logits, labels).item() == pytest.approx(np.mean(parts), rel=1e-6), (
        "however records are dealt out"
    )
    logits.requires_grad_()
    criterion(logits, labels).backward()
    assert (
        logits.grad.isfinite().all()
        and (logits.grad[~known] == 0).all()
        and (logits.grad[known] != 0).all()
    )
    assert np.isnan(criterion.of_known(logits[:2], labels[:2] * torch.nan))


def test_where_all_is_known_the_loss_is_the_plain_one_to_the_last_bit():
    torch.manual_seed(0)
    logits, labels = torch.randn(16, 24), torch.rand(16, 24).round()
    criterion = Criterion.fitted("bce", ("a",) * 24, labels.numpy())
    assert torch.equal(
        criterion(logits, labels), F.binary_cross_entropy_with_logits(logits, labels)
    )
    assert (
        criterion.of_known(logits, labels)
        == F.binary_cross_entropy_with_logits(logits, labels).item()
    )
    assert criterion.share == 1 and not criterion.state_dict()
    number = torch.arange(16) % 24
    assert torch.equal(
        Criterion.fitted("cross_entropy", (), number.numpy())(logits, number),
        F.cross_entropy(logits, number),
    )


def test_regression_is_learned_standardised_and_read_in_its_own_units(sentences):
    values = np.array([[10, 1], [20, np.nan], [60, 3], [np.nan, 5]], np.float32)
    criterion = Criterion.fitted("mse", ("age", "pr"), values)
    assert criterion.share == 6 / 8
    np.testing.assert_allclose(criterion.mean, [30, 3])
    np.testing.assert_allclose(criterion.std, [np.std([10, 20, 60]), np.std([1, 3, 5])], rtol=1e-6)
    standard = (torch.from_numpy(values) - criterion.mean) / criterion.std
    known = ~standard.isnan()
    zeros = torch.zeros(4, 2)
    assert criterion(zeros, torch.from_numpy(values)).item() == pytest.approx(
        (standard[known] ** 2).sum().item() / (8 * 6 / 8), rel=1e-6
    )
    np.testing.assert_allclose(
        criterion.to_units(np.array([[0.0, 0], [1, -1]])),
        [[30, 3], [30 + criterion.std[0], 3 - criterion.std[1]]],
        rtol=1e-6,
    )
    again = Criterion(**criterion.about)
    assert torch.equal(again.mean, criterion.mean) and again.classes == ("age", "pr")
    criterion.describe()
    Criterion().describe()
    (sentence,) = sentences()
    assert "age 30 +- 21.6" in sentence
    for nothing in (values[:1], values[1:2]):
        with pytest.raises(
            ConfigError, match="pr has no two different known values in the training part"
        ):
            Criterion.fitted("mse", ("age", "pr"), nothing)


def test_unknown_labels_are_counted_when_a_table_is_added(store, tmp_path, capsys):
    (tmp_path / "aged.csv").write_text("record,years,pr\nE000,61,0.5\nE001,,0.25\nE002,40.5,1\n")
    assert run_main(add_labels.main, [str(store.path.parent), str(tmp_path / "aged.csv")]) == 0
    said = capsys.readouterr().out
    assert (
        "labels aged: 3 of 80 records" in said
        and "records with a known label, of these 3: years 2\n" in said
    )


def test_patients_that_the_folds_did_not_know_are_told_of(store, tmp_path, capsys):
    (tmp_path / "sex.csv").write_text(
        "record,sex,patient\n" + "".join(f"E{i:03d},{'fm'[i % 2]},{i // 2}\n" for i in range(80))
    )
    flags = [str(store.path.parent), str(tmp_path / "sex.csv")]
    assert run_main(add_labels.main, flags) == 0
    folds = store.records["fold"].to_numpy()
    apart = (folds[::2] != folds[1::2]).sum()
    assert (
        f"note: patients with records in several folds of this store: {apart}, such as"
        in capsys.readouterr().out
    )


def test_patients_of_a_table_of_labels_count_where_the_store_knows_none(store, tmp_path, sentences):
    """Pairs of records are of one patient: a share takes both, splits that part them are counted,
    and so are folds.
    """
    names = store.records["record"].tolist()
    add_table(
        tmp_path,
        "whose",
        [
            "record,low,patient",
            *(f"{name},{i % 3 == 0:d},{i // 2}" for i, name in enumerate(names)),
        ],
    )
    (tmp_path / "apart.csv").write_text(
        "record,split\n"
        + "".join(
            f"{name},{'train' if i < 41 else 'valid' if i < 60 else 'test'}\n"
            for i, name in enumerate(names)
        )
    )
    assert run_main(add_splits.main, [str(store.path.parent), str(tmp_path / "apart.csv")]) == 0
    sentences()
    job = job_of(
        labels="whose",
        dataset_protocol="given",
        dataset_splits="apart",
        dataset_label_fraction=0.3,
        dataset_max_records=None,
    )
    assert (
        "patients who are on several sides of the splits apart: 1; scores may be too good"
        in sentences()
    )
    rows = job.fold(0).parts["train"]
    assert len(set(rows // 2)) < len(rows) and (np.bincount(rows // 2)[:20] % 2 == 0).all()
    folds = store.records["fold"].to_numpy()
    apart = (folds[::2] != folds[1::2]).sum()
    job_of(labels="whose")
    wanted = f"patients who are in several folds of the store: {apart}; scores may be too good"
    assert apart and any(wanted in each for each in sentences())
