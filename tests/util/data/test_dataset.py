"""Crops, their order, labels and splits: the same on any number of processes and workers, every
record counted once.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from main_pretrain import pretrain
from util.challenge import ABBREVIATIONS, CODE_TO_CLASS, labels_from_dx
from util.config.keys import PretrainConfig
from util.config.load import load_config
from util.data.dataset import (
    CropDataset,
    EvaluationBatches,
    TrainingBatches,
    make_loader,
    to_device,
)
from util.data.store import RecordStore, spread, write_store
from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.labels.tables import make_labels, note_rare_classes, parse_classes
from util.leads import LEADS, lead_cell
from util.signals.crops import Cropping, parse_cropping

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "st_mem.json").read_text())[
    "transforms"
]["n_crop"]
AF, SINUS, BRADY, UNSCORED = "164889003", "426783006", "426177001", "999999"
DX = [[SINUS], [AF], [SINUS, BRADY], [UNSCORED], [AF, BRADY]]
RECORDS = 60


def length_of(i):
    """500 to 559 samples; the last record is shorter than a crop of 400."""
    return 300 if i == RECORDS - 1 else 500 + i


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Records whose every sample is known: counts(i), half of them with a scale of 2 microvolts."""
    rows = [
        (
            {
                "record": f"R{i:02d}",
                "database": "ab"[i % 2],
                "fs_original": 250.0,
                "scale_uv": 1 + i % 2,
                "age": 50,
                "sex": "Male",
                "dx": DX[i % 5],
                "fold": -1 if DX[i % 5] == [UNSCORED] else i % 10,
            },
            counts(i),
        )
        for i in range(RECORDS)
    ]
    folder = tmp_path_factory.mktemp("store") / "fs250"
    write_store(folder, 250, rows, ["test"])
    return RecordStore(folder)


def counts(i):
    return np.random.default_rng(i).integers(-3000, 3000, (length_of(i), 12)).astype(np.int16)


def millivolts(i):
    return counts(i).astype(np.float64) * (1 + i % 2) / 1000


def training(store, batch_size=4, length=400, rows=None, **options):
    rows = np.arange(len(store)) if rows is None else rows
    return TrainingBatches(
        rows,
        store.records["length"].to_numpy()[rows],
        length,
        batch_size=batch_size,
        seed=3,
        **options,
    )


# ============ windows of a record ============
REPLACED = {  # where the published code failed or gave another number of windows than asked for
    "L=2500,crop=2250,n=1": [0],
    "L=2250,crop=2250,n=3": [0],
    "L=2251,crop=2250,n=3": [0],
    "L=2253,crop=2250,n=3": [0, 1, 2],
    "L=2249,crop=2250,n=3": [0],
}


@pytest.mark.parametrize("case", GOLDEN["start_indices_by_case"])
def test_evaluation_windows_start_where_the_published_ones_do(case):
    samples, length, count = (int(part.split("=")[1]) for part in case.split(","))
    want = REPLACED.get(case, GOLDEN["start_indices_by_case"][case])
    assert Cropping("segments", length, count=count).starts(samples).tolist() == want


def test_windows_lie_inside_and_are_as_many_as_asked_for():
    for samples in range(100, 160):
        for count in range(1, 8):
            starts = Cropping("segments", 100, count=count).starts(samples)
            assert (
                starts[0] == 0 and starts[-1] <= samples - 100 and len(set(starts)) == len(starts)
            )
            assert len(starts) == count or samples - 100 < count - 1


def test_moving_and_centred_windows():
    assert Cropping("moving", 1000, stride=300).starts(2500).tolist() == [
        0,
        300,
        600,
        900,
        1200,
        1500,
    ]
    assert Cropping("moving", 100, stride=50).starts(100).tolist() == [0]
    assert Cropping("center", 2250).starts(2500).tolist() == [125]
    for kind in ("segments", "moving", "center"):
        assert Cropping(kind, 100, count=2, stride=10).starts(99).tolist() == [
            0
        ]  # padded by the dataset


@pytest.mark.parametrize(
    "transforms, word",
    [
        ([], "must begin with a cropping"),
        (["standardize"], "must begin with a cropping"),
        (["random_crop"], "crop_length"),
        ([{"random_crop": {"crop_length": 0}}], "crop_length must be a whole number of 1 or more"),
        (
            [{"random_crop": {"crop_length": 2250.0}}],
            "crop_length must be a whole number of 1 or more",
        ),
        ([{"random_crop": 2250}], "crop_length"),
        ([{"n_crop": {"crop_length": 2250}}], "num_segments"),
        ([{"random_crop": {"length": 5}}], "crop_length"),
        ([{"moving_window_crop": {"crop_length": 5, "crop_stride": True}}], "crop_stride"),
        ([None], "cropping"),
    ],
)
def test_wrong_croppings_are_config_errors(transforms, word):
    with pytest.raises(ConfigError, match=word):
        parse_cropping(transforms, "dataset.transforms")


# ============ reading ============
@pytest.mark.parametrize("leads", [LEADS, ("II",), ("V6", "aVR", "I")])
def test_crops_are_the_records_own_samples_in_millivolts(store, leads):
    dataset = CropDataset(store, leads, 400)
    items = [(7, 0, 70), (0, 100, 71), (41, 141, 72), (7, 107, 73)]
    batch = to_device(dataset.__getitems__(items), torch.device("cpu"))
    columns = [LEADS.index(lead) for lead in leads]
    for n, (row, start, key) in enumerate(items):
        want = millivolts(row)[start : start + 400, columns].T
        np.testing.assert_allclose(batch["signal"][n].numpy(), want, rtol=2e-7)
        assert batch["record"][n] == row and batch["key"][n] == key
    assert batch["signal"].shape == (4, len(leads), 400) and batch["signal"].dtype == torch.float32
    assert set(batch) == {"signal", "key", "record", "random"}


def test_short_records_are_padded_with_each_leads_mean(store):
    batch = CropDataset(store, LEADS, 400).__getitems__([(RECORDS - 1, 0, 0)])
    assert np.array_equal(batch["counts"][0, :300], counts(RECORDS - 1))
    mean = counts(RECORDS - 1).mean(axis=0).round()
    assert np.array_equal(batch["counts"][0, 300:], np.tile(mean, (100, 1)))


def test_a_window_outside_of_the_record_is_never_read(store):
    with pytest.raises(IndexError):
        CropDataset(store, LEADS, 400).__getitems__([(0, -1, 0)])


def test_a_lead_that_a_record_lacks_is_an_error_and_never_data(tmp_path):
    leads = (("I", "II"), LEADS, ("I",))
    rows = [
        (
            {
                "record": f"R{i}",
                "database": "a",
                "fs_original": 250.0,
                "scale_uv": 1,
                "age": None,
                "sex": "",
                "dx": [],
                "fold": 0,
                "leads": lead_cell(there),
            },
            spread(counts(i)[:, : len(there)], there),
        )
        for i, there in enumerate(leads)
    ]
    write_store(tmp_path / "fs250", 250, rows, ["test"])
    store = RecordStore(tmp_path / "fs250")
    crop = CropDataset(store, ("II",), 100).__getitems__([(0, 5, 0), (1, 5, 1)])["counts"][:, :, 0]
    np.testing.assert_array_equal(crop, [counts(0)[5:105, 1], counts(1)[5:105, 1]])
    with pytest.raises(
        ConfigError, match="dataset.lead: record 2 of the store lacks one of II; leave it out or"
    ):
        CropDataset(store, ("II",), 100).__getitems__([(1, 5, 0), (2, 5, 1)])
    dataset = CropDataset(store, LEADS, 100)
    batches = EvaluationBatches(
        [1, 0], dataset.samples[[1, 0]], Cropping("center", 100), batch_size=2
    )
    with pytest.raises(ConfigError, match="record 0 of the store lacks one of I, II, III, aVR"):
        list(make_loader(dataset, batches))


def test_labels_travel_with_their_records(store):
    labels, _ = make_labels(store, parse_classes("challenge2020"), "multilabel")
    batch = CropDataset(store, LEADS, 400, labels).__getitems__([(1, 0, 0), (2, 0, 0)])
    assert (
        torch.equal(batch["label"], torch.from_numpy(labels[[1, 2]]))
        and batch["label"].dtype == torch.float32
    )


def test_what_the_device_draws_does_not_repeat_where_the_crop_lies(store):
    keys = torch.tensor([key for _, _, key in training(store).items(np.arange(50))])
    batch = {
        "counts": torch.zeros(50, 10, 1, dtype=torch.int16),
        "scale": torch.ones(50),
        "key": keys,
    }
    device = to_device(batch, torch.device("cpu"))["random"].uniform(1)
    assert not torch.isin(device, KeyedRandom(keys, 1).uniform(1)).any()


# ============ order ============
def items_of(batches, steps=None):
    """What a process reads, step by step: [[item, ...] of all its micro-batches]."""
    micro = list(batches)
    assert len(micro) == len(batches)
    return [
        sum(micro[s * batches.accumulate : (s + 1) * batches.accumulate], [])
        for s in range(len(micro) // batches.accumulate)
    ]


@pytest.mark.parametrize(
    "world, batch_size, accumulate",
    [(1, 12, 1), (2, 6, 1), (4, 3, 1), (1, 4, 3), (2, 3, 2), (3, 4, 1)],
)
@pytest.mark.parametrize("crops", [1, 3])
def test_all_processes_together_read_what_one_reads(store, world, batch_size, accumulate, crops):
    """Step by step the same records, windows and keys, however the effective batch of 12 is
    shared out.
    """
    alone = training(store, 12, crops=crops)
    together = [
        training(store, batch_size, accumulate=accumulate, crops=crops, rank=rank, world=world)
        for rank in range(world)
    ]
    for epoch in (0, 5):
        for batches in (alone, *together):
            batches.set_epoch(epoch)
        parts = [items_of(batches) for batches in together]
        steps = items_of(alone)
        assert len(steps) == 5 and {len(part) for part in parts} == {5}
        for step, *mine in zip(steps, *parts):
            assert len(step) == 12 * crops and all(len(part) == len(mine[0]) for part in mine)
            assert sorted(step) == sorted(sum(mine, []))
            if accumulate == 1:
                assert step == sum(mine, [])  # in this order: rank 0's part comes first


def test_every_record_comes_once_an_epoch_in_a_new_order(store):
    batches = training(store, 6)
    orders = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        rows = [row for batch in batches for row, _, _ in batch]
        assert sorted(rows) == list(range(RECORDS))
        orders.append(rows)
    assert len(set(map(tuple, orders))) == 4
    again = training(store, 6)
    again.set_epoch(2)
    assert [row for batch in again for row, _, _ in batch] == orders[2]


def test_leftover_records_differ_from_epoch_to_epoch(store):
    batches, missed = training(store, 7), []
    for epoch in range(30):
        batches.set_epoch(epoch)
        rows = [row for batch in batches for row, _, _ in batch]
        assert len(set(rows)) == len(rows) == 56
        missed.append(frozenset(range(RECORDS)) - set(rows))
    assert len(set(missed)) > 25 and len(frozenset.union(*missed)) > 50


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_in_mid_epoch_goes_on_with_the_same_sequence(store, accumulate):
    whole, rest = (training(store, 4, accumulate=accumulate, rank=1, world=2) for _ in range(2))
    whole.set_epoch(3)
    rest.set_epoch(3, 2)
    assert items_of(rest) == items_of(whole)[2:]
    rest.set_epoch(4)
    whole.set_epoch(4)
    assert items_of(rest) == items_of(whole)


def test_an_epoch_can_be_cut_short_or_prolonged_no_further(store):
    assert training(store, 4, steps=3).steps == 3
    assert training(store, 4, steps=99).steps == 15


def test_too_few_records_for_a_step_is_a_config_error(store):
    with pytest.raises(
        ConfigError,
        match=r"60 training records are fewer than one step's batch of 64.*accum_iter 2",
    ):
        training(store, 8, accumulate=2, world=4)


@pytest.mark.parametrize("samples, length", [(260, 250), (250, 250), (249, 250)])
def test_crops_start_uniformly_from_the_first_to_the_last_possible_sample(samples, length):
    """As RandomCrop_2250_of_2260_starts: 0..10, the last one included."""
    n = 11000
    batches = TrainingBatches(np.arange(n), np.full(n, samples), length, batch_size=n)
    starts = np.array([start for batch in batches for _, start, _ in batch])
    spare = max(samples - length, 0)
    observed = np.bincount(starts, minlength=spare + 1)
    assert len(observed) == spare + 1 and (observed > 0).all()
    if spare:
        assert scipy.stats.chisquare(observed).pvalue > 1e-3


def test_crops_of_a_record_differ_between_visits_and_epochs(store):
    batches = training(store, 60, crops=4)
    seen = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        seen += [item for batch in batches for item in batch]
    assert len({key for _, _, key in seen}) == 3 * 60 * 4
    assert [row for row, _, _ in seen[:8]] == [seen[0][0]] * 4 + [seen[4][0]] * 4
    assert len({start for row, start, _ in seen if row == 20}) > 6
    for row, start, _ in seen:
        assert 0 <= start <= max(length_of(row) - 400, 0)


def batches_of(store, workers):
    """All batches of two epochs, the second one resumed at its third step."""
    batches = training(store, 5)
    loader = make_loader(CropDataset(store, ("II", "V1"), 400), batches, num_workers=workers)
    for epoch, first in ((0, 0), (1, 3)):
        batches.set_epoch(epoch, first)
        yield from loader


def test_the_number_of_workers_does_not_matter_bit_by_bit(store):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    reference = list(batches_of(store, 0))
    assert len(reference) == 12 + 9
    for workers in (1, 2):
        for mine, want in zip(batches_of(store, workers), reference, strict=True):
            assert mine.keys() == want.keys() and all(
                torch.equal(mine[name], want[name]) for name in want
            )
    # nothing is drawn from torch's own generator
    assert torch.equal(torch.get_rng_state(), before)


def first_losses(store, folder, workers):
    """Losses of the first steps of the real pre-training job."""
    overrides = [
        "model_name=st_mem_vit_tiny_dec128d2b",
        "model.seq_len=300",
        "train.epochs=2",
        "train.log_every=1",
        "train.steps_per_epoch=3",
        "dataloader.batch_size=4",
        f"dataloader.num_workers={workers}",
        "device=cpu",
        "dataset.transforms=[random_crop: {crop_length: 300}, highpass_filter: {cutoff: 0.67}, "
        "standardize]",
        f"dataset.store={store.path.parent}",
        f"output_dir={folder}",
        f"exp_name=w{workers}",
    ]
    root = Path(__file__).resolve().parents[3]
    run = pretrain(
        load_config([root / "configs/pretrain/st_mem.yaml"], overrides, program=PretrainConfig)
    )
    return [json.loads(line)["loss"] for line in (run / "log_steps.txt").read_text().splitlines()]


def test_the_first_losses_of_pretraining_do_not_depend_on_the_number_of_workers(store, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = first_losses(store, tmp_path, 0)
        assert len(alone) == 6 and len(set(alone)) == 6
        assert first_losses(store, tmp_path, 2) == alone
    finally:
        torch.set_num_threads(threads)


# ============ evaluation ============
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_counts_each_window_once_on_any_number_of_processes(store, world):
    rows, cropping = np.array([3, 8, 20, 59, 41]), Cropping("segments", 400, count=3)
    lengths = store.records["length"].to_numpy()[rows]
    samplers = [
        EvaluationBatches(rows, lengths, cropping, batch_size=4, rank=rank, world=world)
        for rank in range(world)
    ]
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    seen = sorted((row, start) for part in parts for batch in part for row, start, _ in batch)
    want = [
        (row, start)
        for row in rows
        for start in ([0] if row == 59 else [0, (100 + row) // 2, 2 * ((100 + row) // 2)])
    ]
    assert seen == sorted(want)


def test_evaluation_batches_are_made_up_alike_on_any_number_of_processes(store):
    """So that numbers agree to the last bit: a matrix product may depend on its batch."""
    rows, cropping = np.arange(30), Cropping("moving", 400, stride=40)
    lengths = store.records["length"].to_numpy()[rows]
    alone = list(EvaluationBatches(rows, lengths, cropping, batch_size=4))
    dealt = [
        list(EvaluationBatches(rows, lengths, cropping, batch_size=4, rank=rank, world=3))
        for rank in range(3)
    ]
    assert alone == [dealt[n % 3][n // 3] for n in range(len(alone))]


# ============ labels ============
def test_the_challenges_classes_are_the_default(store):
    classes = parse_classes("challenge2020")
    labels, labelled = make_labels(store, classes, "multilabel")
    assert tuple(classes) == tuple(ABBREVIATIONS) and labels.dtype == np.float32
    assert np.array_equal(labels > 0, labels_from_dx(store.records["dx"]))
    assert np.array_equal(labelled, [DX[i % 5] != [UNSCORED] for i in range(RECORDS)])
    assert {code for codes in classes.values() for code in codes} == set(CODE_TO_CLASS)


def test_own_classes_multilabel_and_multiclass(store):
    classes = parse_classes({"fibrillation": [int(AF)], "sinus": SINUS, "slow": [BRADY, "111"]})
    labels, labelled = make_labels(store, classes, "multilabel")
    assert labels[:5].tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]]
    assert labelled[:5].tolist() == [True, True, True, False, True]
    number, usable = make_labels(store, classes, "multiclass")
    assert number.dtype == np.int64
    assert usable[:5].tolist() == [True, True, False, False, False] and number[:2].tolist() == [
        1,
        0,
    ]


def test_a_code_may_serve_two_classes(store):
    labels, _ = make_labels(
        store, parse_classes({"any rhythm": [AF, SINUS], "fibrillation": [AF]}), "multilabel"
    )
    assert labels[:2].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    "value, word",
    [
        ("challenge2021", "challenge2020 or a mapping"),
        ({"one": [AF]}, "at least two"),
        ([AF, SINUS], "mapping"),
        ({"a": [AF], "b": ["AFIB"]}, "'AFIB' is not a SNOMED"),
        ({"a": [AF], "b": []}, "'b' has no code"),
        ({"a": [AF], "b": None}, "SNOMED"),
    ],
)
def test_wrong_classes_are_config_errors(value, word):
    with pytest.raises(ConfigError, match=word):
        parse_classes(value)


def test_classes_with_few_positives_are_named(sentences):
    labels = np.zeros((40, 3), np.float32)
    labels[:10, 0], labels[5:14, 1] = 1, 1
    note_rare_classes(labels, ("a", "b", "c"), "test")
    assert sentences() == [
        "the test part has fewer than 10 records of b (9), c (0): their scores, and means over "
        "classes, say little"
    ]
    note_rare_classes(labels[:, :1], ("a",), "test")
    assert sentences() == []
    note_rare_classes(np.array([0] * 10 + [1] * 3), ("a", "b"), "test")
    assert sentences()[0].count("b (3)") == 1
    note_rare_classes(labels[[3, 4, 39]], ("a", "b", "c"), "test")
    assert "a (2)" in sentences()[0]
