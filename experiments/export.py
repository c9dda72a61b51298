"""Write a trained network with all its preprocessing into one file for other programs.

    python experiments/export.py --weights best-AUROC.pth --format onnx --fs 500 --output ecg.onnx
    python experiments/export.py --weights encoder.pth --format torch --fs 500 --output ecg.pt2
    python experiments/export.py --weights encoder.pth --format safetensors --output e.safetensors

The file takes signals (batch, leads, fs * seconds) in raw millivolts at that rate and gives
probabilities, or the features of an encoder: resampling, filters, standardisation, crops and their
mean are inside.  It is written only if it agrees with the network here to 1e-4 on up to a hundred
recordings of --check (default: the store that the weights were trained on, else simulated ones).
safetensors holds the weights alone, with the config of their training; this project reads it
wherever it reads the .pth.  <output>.md beside it is the card of the weights.

onnx needs `pip install -r requirements-export.txt`; so does safetensors.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.program import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weights", required=True, metavar="PTH", help="weights of a classifier, or encoder.pth"
    )
    parser.add_argument(
        "--format", required=True, choices=("onnx", "torch", "safetensors"), help="of the file"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--fs", type=float, metavar="HZ", help="rate of the signals that the file will take"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=10,
        metavar="S",
        help="their length (default: %(default)s)",
    )
    parser.add_argument(
        "--features", action="store_true", help="features of a classifier's encoder instead"
    )
    parser.add_argument("--check", metavar="STORE", help="recordings on which the file must agree")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

import numpy as np
import torch

from data_preparation.simulator.ecg_model import simulate
from data_preparation.simulator.patients import draw_findings
from util.console import note
from util.errors import ConfigError
from util.evaluation.trained import read_weights
from util.files import write_text
from util.handover.card import card
from util.handover.exporting import about, export, export_weights
from util.handover.load import Applied, is_classifier, load_classifier, load_encoder
from util.jobs.setup import store_at
from util.leads import lead_index
from util.signals.resampling import resample

RECORDS = 100


def recordings(applied: Applied, store: str | None, fs: float, samples: int) -> np.ndarray:
    """Return recordings on which an exported file must agree, float32 (records, leads, samples);
    of a store those that are as long, if there are any: others end in zeros.

    Args:
        applied: says which leads.
        store: the folder of a store; None for that of the training, if it is there.
        fs: their rate in Hz.
        samples: their length.
    """
    place = store or applied.config.dataset.store
    if store is None and not (Path(place) / f"fs{applied.fs}").is_dir():
        note(f"the training's store {place} is not here: the file is checked on simulated ECGs")
        return simulated(applied, fs, samples)
    records = store_at(place, applied.fs, "--check" if store else "dataset.store")
    rows = np.flatnonzero(records.has_leads(applied.leads))
    if not len(rows):
        raise ConfigError(f"{place}: no record has the leads {' '.join(applied.leads)}")
    whole = records.records["length"].to_numpy()[rows] * fs >= samples * applied.fs
    rows = rows[whole] if whole.any() else rows
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), RECORDS)).astype(int)]
    signals = np.zeros((len(rows), len(applied.leads), samples), np.float32)
    for signal, row in zip(signals, rows):
        given = torch.from_numpy(records.read(row, leads=applied.leads).T.copy())
        here = resample(given, applied.fs, fs)[:, :samples]
        signal[:, : here.shape[1]] = here
    return signals


def simulated(applied: Applied, fs: float, samples: int) -> np.ndarray:
    """Return simulated recordings, as ``recordings`` does."""
    chosen = lead_index(applied.leads)
    random = np.random.default_rng(0)
    signals = [
        simulate(draw_findings(random), fs, samples, mains=50, rng=random).T[chosen]
        for _ in range(RECORDS)
    ]
    return np.stack(signals).astype(np.float32)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    output, weights = Path(arguments.output), arguments.weights
    page = card(weights)
    if arguments.format == "safetensors":
        if arguments.fs or arguments.features or arguments.check:
            raise ConfigError(
                "--fs, --features and --check have no effect on safetensors, which hold the "
                "weights alone; leave them out"
            )
        export_weights(read_weights(weights), output, page)
    else:
        if not arguments.fs:
            raise ConfigError("--fs is missing: the rate in Hz of the signals that it will take")
        encoder_alone = arguments.features or not is_classifier(weights)
        applied = load_encoder(weights) if encoder_alone else load_classifier(weights)
        samples = round(arguments.fs * arguments.seconds)
        check = recordings(applied, arguments.check, arguments.fs, samples)
        deviation = export(
            applied, output, arguments.format, fs=arguments.fs, samples=samples, check=check
        )
        facts = about(applied, arguments.fs, samples)
        page += "\n## This file\n\n" + "".join(f"- {k}: {v}\n" for k, v in facts.items())
        note(f"on {len(check)} recordings it differs from the network by at most {deviation:.1e}")
    write_text(output.with_suffix(".md"), page)
    note(f"{output}: {output.stat().st_size / 1e6:.1f} MB; its card: {output.with_suffix('.md')}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
