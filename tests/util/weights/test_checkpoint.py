"""Checkpoints: whole or not at all, never unpickled, never half loaded."""

import errno
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from util import files
from util.config.keys import PretrainConfig
from util.config.load import load_config
from util.contract.registry import build
from util.errors import CheckpointError, ConfigError
from util.files import remove_temporary
from util.jobs.job import SupervisedTask
from util.training import state as run_state
from util.weights.checkpoint import find_resume, load, load_training, prune, save
from util.weights.transfer import check_pretrained, load_encoder, read_encoder

CONTENT = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
    "epoch": 4,
    "names": ["loss"],
}
SIZES = {"seq_len": 150, "patch_size": 75}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoint-last.pth"
    save(CONTENT, path)
    return path


def test_saved_content_comes_back(saved):
    found = load(saved)
    assert (
        torch.equal(found["model"]["a"], CONTENT["model"]["a"])
        and found["epoch"] == 4
        and found["version"] == 1
    )
    # no temporary file stays
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# ============ writing ============
def failing_fsync(code):
    def fsync(handle):
        raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize(
    "code, words",
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_failed_write_is_one_sentence_and_the_older_checkpoint_survives(
    saved, monkeypatch, code, words
):
    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", failing_fsync(code))
    with pytest.raises(
        CheckpointError, match=f"cannot write .*{words}; the older checkpoint-last.pth is intact"
    ):
        save({**CONTENT, "epoch": 5}, saved)
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


def test_read_only_folder(saved, monkeypatch):
    def refuse(path, mode="r", *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(
        files, "open", refuse, raising=False
    )  # root may write anywhere, so it is told it may not
    with pytest.raises(CheckpointError, match="Permission denied.*older.*intact"):
        save(CONTENT, saved)


LIMITED_SAVE = """
import resource, signal, sys, torch
from util.weights.checkpoint import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
save({"model": {"a": torch.zeros(1_000_000)}}, sys.argv[1])
"""


def limited_save(path, limit):
    """What a process says that saves 4 MB and may write files of ``limit`` bytes only."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED_SAVE, str(path), str(limit)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stderr


@pytest.mark.parametrize("limit", [1, 1000, 2_000_000])
def test_disk_that_fills_while_writing(saved, limit):
    """The defect: PyTorch's 'unexpected pos' instead of the reason."""
    before = saved.read_bytes()
    assert (
        "CheckpointError: cannot write" in (said := limited_save(saved, limit))
        and "File too large" in said
    )
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


@pytest.mark.slow
def test_full_file_system(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=300k tmpfs {disk}"):
        pytest.skip("mounting a small file system needs root")
    try:
        path = disk / "checkpoint-last.pth"
        save({"model": {"a": torch.zeros(10_000)}, "epoch": 1}, path)
        with pytest.raises(
            CheckpointError,
            match="No space left on device; the older checkpoint-last.pth is intact",
        ):
            save({"model": {"a": torch.zeros(100_000)}, "epoch": 2}, path)
        assert load(path)["epoch"] == 1 and len(list(disk.iterdir())) == 1
        os.system(f"mount -o remount,ro {disk}")
        with pytest.raises(CheckpointError, match="Read-only file system"):
            save({"model": {}, "epoch": 3}, path)
    finally:
        os.system(f"umount {disk}")


def test_killed_write_leaves_the_older_checkpoint_and_is_cleared_away(saved, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*paths):
        raise Killed

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        save({**CONTENT, "epoch": 5}, saved)
    assert load(saved)["epoch"] == 4
    left = [path for path in saved.parent.iterdir() if path != saved]
    assert len(left) == 1 and find_resume("auto", saved.parent) == saved
    remove_temporary(saved.parent)
    assert list(saved.parent.iterdir()) == [saved]


def test_keep_last(tmp_path):
    for epoch in (0, 5, 10, 100):
        save(CONTENT, tmp_path / f"checkpoint-{epoch}.pth")
    for name in ("checkpoint-last.pth", "checkpoint-best.pth"):
        save(CONTENT, tmp_path / name)
    prune(tmp_path, 0, newest=100)
    assert len(list(tmp_path.iterdir())) == 6
    prune(tmp_path, 2, newest=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-10.pth",
        "checkpoint-100.pth",
        "checkpoint-best.pth",
        "checkpoint-last.pth",
    ]


def test_checkpoints_of_a_longer_run_before_do_not_count(tmp_path):
    """The defect: epoch 60 of an older run stayed, and the new run's epoch 1 was deleted."""
    for epoch in (0, 1, 60):
        save(CONTENT, tmp_path / f"checkpoint-{epoch}.pth")
    prune(tmp_path, 1, newest=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-1.pth",
        "checkpoint-60.pth",
    ]


# ============ hostile and damaged files ============
class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("reader", [load, load_training, read_encoder, check_pretrained])
@pytest.mark.parametrize("old_format", [False, True])
def test_file_that_would_run_code_is_refused(tmp_path, reader, old_format):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    torch.save(
        {"model": {"a": torch.zeros(2)}, "x": Bomb(marker)},
        path,
        _use_new_zipfile_serialization=not old_format,
    )
    with pytest.raises(
        CheckpointError, match="holds more than tensors and plain values, so it was not opened"
    ):
        reader(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file does what this test fears
    assert marker.exists()


def test_plain_pickle_is_refused(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(CheckpointError):
        load(path)
    assert not marker.exists()


def test_yaml_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "marker"
    text = f"!!python/object/apply:os.mkdir ['{marker}']"
    (tmp_path / "evil.yaml").write_text(f"model_name: {text}\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config([tmp_path / "evil.yaml"], program=PretrainConfig)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config([], [f"model_name={text}"], program=PretrainConfig)
    assert not marker.exists()


def test_a_changed_bit_is_noticed(saved):
    """The defect: torch.load ignores the archive's checksums, so a flipped bit became another
    weight.
    """
    raw = saved.read_bytes()
    place = raw.find(torch.arange(6.0).numpy().tobytes())
    saved.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
    torch.load(saved, weights_only=True)
    with pytest.raises(CheckpointError, match="is damaged.*checksum"):
        load(saved)


def test_files_that_swell_are_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    torch.load(saved, weights_only=True)
    with pytest.raises(CheckpointError, match="larger than the file"):
        load(saved)


def damage(raw, rng):
    """Cut, flip, overwrite or repeat bytes."""
    kind, place = rng.randrange(4), rng.randrange(len(raw))
    if kind == 0:
        return raw[:place]
    if kind == 1:
        return raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :]
    if kind == 2:
        return raw[:place] + rng.randbytes(rng.randrange(1, 60)) + raw[place + 30 :]
    return raw[:place] + raw[max(0, place - rng.randrange(200)) :]


def check_damaged(path, cases, seed=0):
    """Whatever happened to the bytes: the content as it was, or a CheckpointError."""
    raw, rng, refused = path.read_bytes(), random.Random(seed), 0
    for _ in range(cases):
        path.write_bytes(damage(raw, rng))
        try:
            found = load(path)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(found["model"]["a"], CONTENT["model"]["a"])
    return refused


def test_damaged_files(saved):
    assert check_damaged(saved, 300) > 200


@pytest.mark.slow
def test_many_damaged_files(saved, tmp_path):
    assert check_damaged(saved, 10_000, seed=1) > 7000
    torch.save(CONTENT, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    raw, rng = (tmp_path / "old.pth").read_bytes(), random.Random(2)
    for _ in range(3000):  # no checksums there: an error of ours, or some dict
        (tmp_path / "old.pth").write_bytes(damage(raw, rng))
        try:
            assert isinstance(load(tmp_path / "old.pth"), dict)
        except CheckpointError:
            continue


def test_damaged_checkpoint_names_an_older_one(saved):
    save(CONTENT, saved.parent / "checkpoint-3.pth")
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged.*--resume .*checkpoint-3.pth"):
        load(saved)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {1: torch.zeros(2)}, "text"])
def test_other_contents_are_no_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a dict by names"):
        load(tmp_path / "x.pth")


def test_what_cannot_be_resumed_from(saved, tmp_path):
    with pytest.raises(
        CheckpointError,
        match="cannot be resumed from: it lacks .*encoder.pth goes to --encoder_path",
    ):
        load_training(saved)
    save(
        {
            "model": {},
            "optimizer": {},
            "epoch": 0,
            "step": 0,
            "rng": [],
            "metrics": {},
            "config": {},
        },
        saved,
    )
    load_training(saved)
    content = {**torch.load(saved), "version": 7}
    torch.save(content, saved)
    with pytest.raises(CheckpointError, match="version 7; this code reads 1"):
        load_training(saved)
    with pytest.raises(CheckpointError, match="no checkpoint at .*nowhere.pth"):
        load_training(tmp_path / "nowhere.pth")


# ============ encoders ============
@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    return build("st_mem_vit_tiny_dec128d2b", mask_ratio=0.5, **SIZES)


def classifier(**options):
    return build("st_mem_vit_tiny", **{"num_classes": 3, **SIZES, **options})


@pytest.mark.parametrize(
    "kind",
    [
        "encoder.pth",
        "pre-training checkpoint",
        "bare state dict",
        "best of fine-tuning",
        "fine-tuning checkpoint",
        "published, without a version",
    ],
)
def test_every_kind_of_file_gives_the_same_encoder(tmp_path, method, kind):
    """The defect: checkpoint-last.pth of a fine-tuning run matched nothing (its names begin with
    classifier.).
    """
    path, model = tmp_path / "x.pth", classifier(num_classes=5)
    load_encoder(model, _saved(tmp_path / "first.pth", {"model": method.encoder.state_dict()}))
    contents = {
        "encoder.pth": {"model": method.encoder.state_dict(), "leads": list(method.encoder.leads)},
        "pre-training checkpoint": {"model": method.state_dict(), "epoch": 3},
        "bare state dict": method.encoder.state_dict(),
        "best of fine-tuning": {"model": model.state_dict()},
        "fine-tuning checkpoint": {"model": SupervisedTask(model).state_dict()},
        "published, without a version": {
            "model": method.encoder.state_dict(),
            "optimizer": None,
            "epoch": 800,
        },
    }
    torch.save(contents[kind], path)
    other = classifier()
    own_head = other.head.weight.clone()
    line = load_encoder(other, path)
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert torch.equal(other.head.weight, own_head)
    count = len(method.encoder.state_dict())
    assert f"loaded {count} of {count} encoder tensors" in line


def _saved(path, content):
    torch.save(content, path)
    return path


def test_encoder_of_another_size_is_refused(tmp_path, method):
    path = _saved(tmp_path / "encoder.pth", {"model": method.encoder.state_dict()})
    model = classifier(seq_len=300)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError,
        match=r"pos_embedding is \(1, 4, 192\) in the file but \(1, 6, 192\) "
        r"here",
    ):
        load_encoder(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_encoder_that_lacks_a_tensor_or_matches_nothing_is_refused(tmp_path, method):
    state = method.encoder.state_dict()
    del state["norm.weight"]
    with pytest.raises(CheckpointError, match="norm.weight is missing in the file"):
        load_encoder(classifier(), _saved(tmp_path / "a.pth", {"model": state}))
    with pytest.raises(CheckpointError, match="0 of .* encoder tensors match"):
        load_encoder(classifier(), _saved(tmp_path / "b.pth", {"model": {"x": torch.zeros(2)}}))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_encoder(classifier(), _saved(tmp_path / "c.pth", {"model": {}, "epoch": 1}))


# ============ random states ============
def test_every_generator_goes_on_where_it_was():
    random.gauss(0, 1), np.random.standard_normal()  # both keep half a pair
    state = run_state.random_state()

    def draw():
        return [
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.standard_normal(),
            torch.rand(3).tolist(),
        ]

    first = draw()
    draw()
    run_state.set_random_state(state)
    assert draw() == first
    assert all(isinstance(value, torch.Tensor) for value in state.values())
