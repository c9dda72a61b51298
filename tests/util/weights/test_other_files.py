"""What people save under the name of a checkpoint that is none, and the safetensors format."""

import gzip
import json
import zipfile

import numpy as np
import pytest
import torch

from util.contract.registry import build
from util.errors import CheckpointError
from util.weights import checkpoint
from util.weights.encoder_file import check_numbers
from util.weights.transfer import load_encoder

OTHERS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 343\n",
    "web page": b"<!DOCTYPE html><html><title>Quota exceeded</title></html>\n",
    "web page ": b"\xef\xbb\xbf\n  <html><body>Sign in</body></html>",
    "JSON": b'{"message": "Not Found"}\n',
    "JSON ": b"[1, 2]",
    "begins 'Entry not found'": b"Entry not found",
    "begins 'accès refusé": "accès refusé ".encode() * 200,
    "gzip": gzip.compress(b"weights"),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50),
    "empty": b"",
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["encoder.pth", "encoder.safetensors"])
def test_what_is_no_checkpoint_is_called_by_its_name(what, name, tmp_path):
    """The defect: "could run code", and advice to trust its author."""
    (tmp_path / name).write_bytes(OTHERS[what])
    with pytest.raises(
        CheckpointError, match=f"{name} is no checkpoint: it is .*{what.strip()}"
    ) as e:
        checkpoint.load(tmp_path / name)
    assert "run code" not in str(e.value) and "author" not in str(e.value)


def test_archives_of_other_programs(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name in ("b/data.pkl", "b/code/__torch__.py", "b/constants.pkl"):
            archive.writestr(name, "x")
    for name, words in {"a.npz": r"other files \(x.npy\)", "b.pth": "TorchScript"}.items():
        with pytest.raises(CheckpointError, match=f"is no checkpoint: it is .*{words}"):
            checkpoint.load(tmp_path / name)


# ============ safetensors ============
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.float16: "F16"}


def write_safetensors(tensors, path, *, metadata=None, **change):
    """Written from the format's description, for lack of the package."""
    header, body = {"__metadata__": {"format": "pt", **(metadata or {})}}, b""
    for name, value in tensors.items():
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        place = [len(body), len(body) + len(raw)]
        entry = {"dtype": NAMES[value.dtype], "shape": [*value.shape], "data_offsets": place}
        header[name] = {**entry, **change}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_safetensors_are_read_whatever_the_suffix(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.tensor(7),
        "d": torch.zeros(0, 2),
        "e": torch.randn(1, 2, 3).half(),
    }
    for name in ("w.safetensors", "w.pth"):
        write_safetensors(tensors, tmp_path / name)
        read = checkpoint.load(tmp_path / name)
        assert read.keys() == tensors.keys()
        for key, value in tensors.items():
            assert read[key].dtype == value.dtype and torch.equal(read[key], value)


def test_an_encoder_of_safetensors_loads(tmp_path):
    source = build("vit_tiny", seq_len=150)
    state = {f"model.{name}": value for name, value in source.state_dict().items()}
    write_safetensors(state, tmp_path / "w.safetensors")
    model = build("vit_tiny", seq_len=150, num_classes=2)
    assert "loaded 58 of 58" in load_encoder(model, tmp_path / "w.safetensors")
    assert torch.equal(model.cls_embedding, source.cls_embedding)


def test_what_a_checkpoint_said_is_read_from_the_metadata(tmp_path):
    metadata = {"content": json.dumps({"config": {"dataset": {"fs": 250}}, "epoch": 3})}
    write_safetensors({"a": torch.ones(2)}, tmp_path / "w.safetensors", metadata=metadata)
    read = checkpoint.load(tmp_path / "w.safetensors")
    assert read["config"]["dataset"]["fs"] == 250 and torch.equal(read["model"]["a"], torch.ones(2))


@pytest.mark.parametrize(
    "change", [{"dtype": "F8_E4M3"}, {"shape": [9]}, {"data_offsets": [0, 99]}, {"shape": None}]
)
def test_a_damaged_safetensors_file_is_an_error(tmp_path, change):
    write_safetensors({"a": torch.zeros(3)}, tmp_path / "w.safetensors", **change)
    with pytest.raises(CheckpointError, match="w.safetensors is damaged"):
        checkpoint.load(tmp_path / "w.safetensors")


def test_a_cut_off_safetensors_file_is_an_error(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors({"a": torch.zeros(30)}, path)
    for size in (4, 20, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(CheckpointError, match="w.safetensors is"):
            checkpoint.load(path)
        write_safetensors({"a": torch.zeros(30)}, path)


# ============ numbers that are no weights ============
@pytest.mark.parametrize(
    "value, words",
    [
        (torch.tensor([[1.0, float("nan")], [0, float("nan")]]), r"holds NaN or inf \(2 of 4"),
        (torch.tensor([[1.0, 0], [0, float("-inf")]]), r"holds NaN or inf \(1 of 4"),
        (torch.full((2, 2), 1e300, dtype=torch.float64), "holds NaN or inf"),
        (torch.ones(2, 2, dtype=torch.int8), "is of the type int8"),
        (torch.ones(2, 2, dtype=torch.bool), "is of the type bool"),
        (torch.ones(2, 2).to_sparse(), "is of the type float32"),
    ],
)
def test_tensors_that_are_no_weights_are_named(value, words):
    state = {"head.weight": torch.ones(1), "stem.weight": value}
    with pytest.raises(CheckpointError, match=rf"w.pth: the tensor stem.weight {words}"):
        check_numbers("w.pth", state, {"stem.weight": torch.zeros(2, 2)})


def test_an_encoder_with_nan_is_not_loaded(tmp_path):
    model = build("vit_tiny", seq_len=150)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["norm.bias"][3] = float("nan")
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="w.pth: the tensor norm.bias holds NaN"):
        load_encoder(model, tmp_path / "w.pth")
    assert model.norm.bias.isfinite().all()


def test_half_and_double_weights_and_whole_counters_are_weights():
    here = {"w": torch.zeros(2), "count": torch.tensor(0)}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        check_numbers("x", {"w": torch.ones(2, dtype=dtype), "count": torch.tensor(3)}, here)
    check_numbers("x", {"w": torch.ones(2), "count": torch.tensor(3.0)}, here)
