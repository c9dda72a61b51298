"""A trained network and its preprocessing as one graph: raw millivolts of one rate in.

Resampling and filters are linear, so here they are matrix products, which every runtime knows.
A file is written only if it computes what the network computes here.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from util.errors import ConfigError, ECGError
from util.files import replacing
from util.handover.load import Applied, AppliedClassifier
from util.signals.filters import CropFilter
from util.signals.resampling import resample

TOLERANCE = 1e-4
SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
NEEDS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch": (),
    "safetensors": ("safetensors",),
}
OPSET = 20


class Portable(nn.Module):
    """The same function as ``applied`` for signals of one rate and length.

    Args:
        applied: the network with its preprocessing.
        fs: rate of the signals, in Hz.
        samples: their length.
    """

    def __init__(self, applied: Applied, fs: float, samples: int) -> None:
        super().__init__()
        self.applied = applied
        self.resampling = None
        here = samples
        if fs != applied.fs:
            eye = torch.eye(samples, dtype=torch.float64)
            matrix = resample(eye, fs, applied.fs)
            self.resampling = _product(matrix)
            here = matrix.shape[1]
        self.length = applied.cropping.length
        self.padding = max(self.length - here, 0)
        self.starts: list[int] = applied.cropping.starts(here + self.padding).tolist()
        self.steps = nn.ModuleList(
            _product(step.matrix().T) if isinstance(step, CropFilter) else step
            for step in applied.pipeline.steps
        )

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Return (records, width) of signals (records, leads, samples) in mV."""
        x = signal if self.resampling is None else self.resampling(signal)
        if self.padding:
            mean = x.mean(dim=-1, keepdim=True)
            x = torch.cat([x, mean.expand(-1, -1, self.padding)], dim=-1)
        crops = torch.stack([x[..., start : start + self.length] for start in self.starts], dim=1)
        batch = crops.flatten(0, 1)
        for step in self.steps:
            batch = step(batch)
        return self.applied.vectors(batch).unflatten(0, (-1, len(self.starts))).mean(dim=1)


def _product(matrix: torch.Tensor) -> nn.Linear:
    """The product with a matrix (in, out), float64, as a layer."""
    layer = nn.Linear(matrix.shape[0], matrix.shape[1], bias=False)
    layer.weight = nn.Parameter(matrix.T.float().contiguous(), requires_grad=False)
    return layer


def about(applied: Applied, fs: float, samples: int) -> dict[str, Any]:
    """Return what a user of the exported file must know of it, as texts."""
    facts = {
        "input": f"signal: float32 (batch, {len(applied.leads)}, {samples}) in millivolts",
        "leads": " ".join(applied.leads),
        "fs": f"{fs:g}",
        "seconds": f"{samples / fs:g}",
        "output": "features (batch, width)",
        "model": applied.config.model_name,
        "licence": applied.config.licence or "not stated",
    }
    if isinstance(applied, AppliedClassifier):
        facts["output"] = "outputs (batch, classes)"
        facts["classes"] = json.dumps(applied.classes)
        facts["codes"] = json.dumps(applied.codes)
    return facts


def export(
    applied: Applied, path: Path, kind: str, *, fs: float, samples: int, check: np.ndarray
) -> float:
    """Write a network with its preprocessing to a file; return the largest deviation on ``check``.

    Args:
        applied: on the CPU.
        path: the file.
        kind: onnx or torch.
        fs: rate of the signals that it will take, in Hz.
        samples: their length.
        check: float32 (records, leads, samples), signals on which the file must agree.

    Raises:
        ConfigError: a package is missing.
        ECGError: the file computes something else; it is not kept.
    """
    check_format(path, kind)
    graph, facts = Portable(applied, fs, samples).eval(), about(applied, fs, samples)
    example = torch.from_numpy(check[:2])
    content, run = (_onnx if kind == "onnx" else _torch)(graph, example, facts)
    wanted = applied(check, fs=fs)
    got = np.concatenate([run(check[i : i + 10]) for i in range(0, len(check), 10)])
    deviation = float(np.abs(got - wanted).max())
    if not deviation <= TOLERANCE:
        raise ECGError(
            f"{path} is not written: on {len(check)} recordings the exported graph differs by up "
            f"to {deviation:.2g} from the network, more than {TOLERANCE:g}"
        )
    with replacing(path) as file:
        file.write(content)
    return deviation


def check_format(path: Path, kind: str) -> None:
    """Check that a file can be written.

    Raises:
        ConfigError: a package is missing, or the name ends otherwise than files of this kind.
    """
    missing = [name for name in NEEDS[kind] if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"--format {kind} needs {', '.join(missing)}: pip install -r requirements-export.txt"
        )
    if path.suffix != SUFFIX[kind]:
        raise ConfigError(f"--output {path}: files of --format {kind} end in {SUFFIX[kind]}")


Run = Callable[[np.ndarray], np.ndarray]


def _onnx(graph: Portable, example: torch.Tensor, facts: dict[str, Any]) -> tuple[bytes, Run]:
    import onnxruntime

    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["signal"],
        output_names=["output"],
        dynamic_shapes={"signal": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None, "the exporter of this kind returns one"
    model = program.model_proto
    for name, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda signal: session.run(None, {"signal": signal})[0]


def _torch(graph: Portable, example: torch.Tensor, facts: dict[str, Any]) -> tuple[bytes, Run]:
    import io

    with torch.no_grad():
        program = torch.export.export(
            graph, (example,), dynamic_shapes={"signal": {0: torch.export.Dim("batch")}}
        )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"about.json": json.dumps(facts)})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), lambda signal: loaded(torch.from_numpy(signal)).detach().numpy()


def export_weights(content: dict[str, Any], path: Path, card: str) -> None:
    """Write the tensors of a weights file as safetensors, with all else of it in the metadata.

    Args:
        content: of the weights file.
        path: the file.
        card: of the weights.

    Raises:
        ConfigError: the package is missing.
    """
    check_format(path, "safetensors")
    import safetensors.torch

    tensors = {name: value.contiguous() for name, value in content["model"].items()}
    rest = {name: value for name, value in content.items() if name != "model"}
    metadata = {"format": "pt", "content": json.dumps(rest), "card": card}
    with replacing(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))
