"""The safetensors format: eight bytes that hold a length, so much JSON, then the tensors' bytes.

The JSON gives {name: {"dtype", "shape", "data_offsets": [begin, end]}}, offsets counted from the
end of the JSON, and texts under "__metadata__".  All numbers are little-endian.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

SUFFIX = ".safetensors"
METADATA = "__metadata__"
TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def is_safetensors(path: str | os.PathLike) -> bool:
    """Return whether a file is in this format, whatever its name is."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length, start = int.from_bytes(file.read(8), "little"), file.read(1)
    return start == b"{" and 0 < length <= size - 8


def read_safetensors(path: str | os.PathLike) -> dict[str, Any]:
    """Return the tensors of a file by name; of one that experiments/export.py wrote, what the
    checkpoint held from which they came.

    Raises:
        ValueError: the file is damaged, or holds a type of number that PyTorch lacks.
    """
    content = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:start])
        entries = {name: entry for name, entry in header.items() if name != METADATA}
        tensors = {name: _tensor(content, start, entry) for name, entry in entries.items()}
        about = header.get(METADATA, {}).get("content")
        return {**json.loads(about), "model": tensors} if about else tensors
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"its header is none of safetensors ({error})") from None


def _tensor(content: bytearray, start: int, entry: dict[str, Any]) -> torch.Tensor:
    kind, shape = TYPES.get(entry["dtype"]), [int(size) for size in entry["shape"]]
    if kind is None:
        raise ValueError(f"it holds numbers of the type {entry['dtype']}")
    begin, end = entry["data_offsets"]
    count = math.prod(shape)
    if not 0 <= begin <= end <= len(content) - start or end - begin != count * kind.itemsize:
        raise ValueError("its tensors do not lie where its header says; it may be cut off")
    if not count:
        return torch.zeros(shape, dtype=kind)
    whole = torch.frombuffer(content, dtype=torch.uint8, count=end - begin, offset=start + begin)
    return whole.clone().view(kind).reshape(shape)
