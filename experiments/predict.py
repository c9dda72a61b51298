"""Diagnose recordings with trained weights: recordings of any format or a store in, one
Challenge-format CSV a record out.

    python experiments/predict.py --weights ./checkpoints/base_signal/fold0_bestPRC.pth \\
        --input RECORDINGS --output OUT
    python experiments/predict.py --weights fold*_bestPRC.pth --thresholds thresholds.json \\
        --input A0001.hea \\
        --output OUT --plot
    python experiments/predict.py --weights fold0/best-loss.pth --input ecgs.npy --fs 500 \\
        --output OUT
    python experiments/predict.py --weights fold0/best-loss.pth --input STORE --output OUT

Formats: WFDB (.hea), DICOM (.dcm, needs pydicom), hospital exports (GE MUSE, Philips and HL7 XML,
EDF+; need ecgdatakit), .npy, HDF5 and CSV, of which --fs must be said, and perhaps --units,
--leads, --layout.  A folder may hold several.  STORE is the folder that holds fs100/, fs250/, ...
Limb leads that are missing are computed where two of I, II and III are there, with a remark.

Several weights are an ensemble: the mean of their probabilities.  Recordings of any sampling rate
and length are resampled, cropped and transformed as in the evaluation after training, as the
weights themselves say; one shorter than a crop is padded, with a remark.  A recording that cannot
be read is reported and does not stop the rest.

Leaves in OUT: <record>.csv (line 1 #<record>, line 2 SNOMED CT codes, line 3 outputs 0 or 1, line
4 probabilities), <record>.png with --plot, and summary.csv: record, file, remark, the diagnoses
in words, a probability for each class. A class is output where its probability is at least its
threshold, 0.5 without --thresholds; with a file that threshold_search.py --method expected left,
outputs are decoded by their expected Challenge score instead.  Classes without codes, of a table of
labels, go by name.  Weights of a regression leave their predictions in the labels' own units, in
<record>.csv on line 3.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.devices import add_gpu_flag, one_device
from util.processes.program import run_main
from util.recordings.flags import Given, add_recording_flags


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weights",
        required=True,
        nargs="+",
        metavar="PTH",
        help="fold<k>_best<ROC|PRC>.pth, best-<metric>.pth; several are an ensemble",
    )
    parser.add_argument(
        "--thresholds",
        metavar="JSON",
        help="of experiments/threshold_search.py (default: 0.5 for all)",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a folder, searched at any depth, one file, or a store",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="made if missing")
    parser.add_argument(
        "--plot",
        action="store_true",
        help="draw each recording on ECG paper with what was predicted",
    )
    add_recording_flags(parser)
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from util.challenge import CLASSES, NAMES
from util.data.dataset import CropDataset, EvaluationBatches, make_loader
from util.data.store import RecordStore, quantise, spread
from util.errors import CheckpointError, ConfigError, ECGError, RecordError
from util.evaluation.figures import plot_ecg
from util.evaluation.inference import predict
from util.evaluation.trained import Trained, load_trained
from util.files import safe_cell, write_frame, write_text
from util.leads import leads_of_cell, parse_leads
from util.recordings.any_file import Place, find_places, needless_flags, read_recording
from util.recordings.derived_leads import with_derived_leads
from util.recordings.recording import Recording, resample_to
from util.recordings.wfdb_files import UNDIAGNOSED
from util.scoring.thresholds import Thresholds, apply_thresholds, load_thresholds
from util.training.optimizer import resolve_amp
from util.training.setup import store_at

CHUNK_SAMPLES = 2_000_000  # samples a lead held in memory at a time: an hour of ECG at 500 Hz
SUMMARY = "summary"


# ============ recordings ============
@dataclass
class Entry:
    """One recording that could be read.

    Attributes:
        record: its name.
        path: of its file.
        remarks: what readers of its prediction should know.
        counts: by sampling rate, int16 (n, 12) as a store keeps them.
        scale: by sampling rate, mV a count.
        picture: arguments of ``plot_ecg`` for its first ten seconds.
    """

    record: str
    path: Path
    remarks: list[str]
    counts: dict[int, np.ndarray]
    scale: dict[int, float]
    picture: dict[str, Any]


class Stored(NamedTuple):
    """A record of a store, as a ``Place`` is one of a file: its row and the store at each rate."""

    stores: dict[int, RecordStore]
    row: int

    @property
    def about(self) -> pd.Series:
        """Its row of records.csv, the same for all rates but for start and length."""
        return next(iter(self.stores.values())).records.iloc[self.row]

    @property
    def name(self) -> str:
        """The record's name."""
        return self.about["record"]

    def __str__(self) -> str:
        return self.about["path"] or self.name


Source = Place | Stored  # of a recording


def stored_records(place: str, rates: list[int]) -> list[Stored]:
    """Return all records of the store at a place."""
    stores = {fs: store_at(place, fs) for fs in rates}
    return [Stored(stores, row) for row in range(len(stores[rates[0]]))]


def read_entry(
    source: Source,
    rates: list[int],
    longest_crop: float,
    leads: Iterable[str],
    said: Given,
) -> Entry:
    """Read a recording at several rates, with the rounding of a store.

    Args:
        source: where it lies, in a file or a store.
        rates: sampling rates in Hz.
        longest_crop: seconds; a shorter recording gets a remark.
        leads: which it must have.
        said: what the command line says of recordings.

    Raises:
        RecordError: the recording cannot be read, or lacks a lead.
    """
    if isinstance(source, Stored):
        entry, seconds = _read_stored(source, said)
    else:
        entry, seconds = _read_file(source, rates, said)
    missing = [lead for lead in leads if lead not in entry.picture["lead_names"]]
    if missing:
        raise RecordError(f"lead {', '.join(missing)} missing, which the model needs")
    if UNDIAGNOSED in entry.remarks:
        entry.remarks.remove(UNDIAGNOSED)  # it is why we are asked
    if seconds < longest_crop:
        entry.remarks.append(
            f"{seconds:g} s is shorter than the model's crop of {longest_crop:g} s: padded with "
            "the mean"
        )
    return entry


def _read_file(place: Place, rates: list[int], said: Given) -> tuple[Entry, float]:
    """(Entry, seconds) of a recording in a file."""
    recording = read_recording(place, said)
    resampled = resample_to(recording.signal, recording.fs, rates)
    recordings = {fs: replace(recording, fs=fs, signal=resampled[fs]) for fs in rates}
    entry = _entry(place, recording, recordings)
    return entry, len(recording.signal) / recording.fs


def _entry(source: Source, shown: Recording, recordings: dict[int, Recording]) -> Entry:
    """The entry of a recording at several rates, and as it is shown."""
    counts, scale = {}, {}
    for fs, recording in recordings.items():
        columns, microvolts = quantise(recording.signal)
        counts[fs] = spread(columns, recording.leads)
        scale[fs] = microvolts / 1000
    picture = {
        "signal_mv": shown.signal[: int(10 * shown.fs)].copy(),
        "fs": shown.fs,
        "lead_names": shown.leads,
    }
    return Entry(source.name, Path(str(source)), [*shown.flags], counts, scale, picture)


def _read_stored(stored: Stored, said: Given) -> tuple[Entry, float]:
    """(Entry, seconds) of a record of a store, whose counts stay as they are but for leads that
    are derived.
    """
    leads = leads_of_cell(stored.about["leads"]) or ()
    flags = tuple(flag for flag in stored.about["flags"].split("; ") if flag)
    recordings = {
        fs: Recording(store.read(stored.row, leads=leads), leads, fs, flags=flags)
        for fs, store in stored.stores.items()
    }
    if said.derive:
        recordings = {fs: with_derived_leads(one) for fs, one in recordings.items()}
    shown = recordings[max(recordings)]
    entry = _entry(stored, shown, recordings)
    if shown.leads == leads:
        for fs, store in stored.stores.items():
            entry.counts[fs] = store.counts(stored.row)
            entry.scale[fs] = store.records["scale"].iloc[stored.row]
    return entry, len(shown.signal) / shown.fs


def read_all(
    sources: Sequence[Source], failed: list[dict[str, str]], read: Callable[[Source], Entry]
) -> Iterator[list[Entry]]:
    """Yield lists of entries, each of about CHUNK_SAMPLES at most.

    Args:
        sources: of the recordings.
        failed: where the summary's row of each is added that cannot be read.
        read: reads one.
    """
    chunk: list[Entry] = []
    samples, seen = 0, {SUMMARY}  # summary.csv is ours
    for source in tqdm(sources, unit="record", desc="predicting"):
        try:
            if source.name in seen:
                raise RecordError(
                    f"the name {source.name} is taken; give the recording another one"
                )
            entry = read(source)
        except Exception as error:
            # An untrusted file can raise anything, which must not stop the rest.
            kind = "" if isinstance(error, ECGError) else f"unexpected {type(error).__name__}: "
            failed.append(
                {"record": source.name, "file": str(source), "remark": f"not read: {kind}{error}"}
            )
            continue
        seen.add(source.name)
        chunk.append(entry)
        samples += max(len(counts) for counts in entry.counts.values())
        if samples > CHUNK_SAMPLES:
            yield chunk
            chunk, samples = [], 0
    if chunk:
        yield chunk


class MemoryStore:
    """Entries at one rate, with as much of a RecordStore as a CropDataset needs.

    Args:
        entries: the recordings.
        fs: sampling rate in Hz.
    """

    def __init__(self, entries: Sequence[Entry], fs: int):
        self.entries, self.fs = entries, fs
        self.records = pd.DataFrame(
            {
                "length": [len(entry.counts[fs]) for entry in entries],
                "scale": [entry.scale[fs] for entry in entries],
            }
        )

    def __len__(self) -> int:
        return len(self.entries)

    def has_leads(self, leads: Sequence[str]) -> np.ndarray:
        """Return that all entries have the leads, as ``read_entry`` saw to it."""
        return np.ones(len(self), bool)

    def counts(self, i: int, start: int, length: int) -> np.ndarray:
        """Return int16 (length, 12) of recording i."""
        return self.entries[i].counts[self.fs][start : start + length]


# ============ prediction ============
def load_ensemble(weights: Iterable[str]) -> list[Trained]:
    """Load trained classifiers; a CheckpointError where they do not predict the same classes."""
    ensemble = [load_trained(path) for path in weights]
    for trained in ensemble[1:]:
        if (trained.codes, trained.task) != (ensemble[0].codes, ensemble[0].task):
            raise CheckpointError(
                f"{trained.path} predicts other classes than {ensemble[0].path}; an ensemble "
                "needs "
                "the same"
            )
    return ensemble


def probabilities_of(
    entries: Sequence[Entry], ensemble: Sequence[Trained], device: torch.device
) -> np.ndarray:
    """Return the ensemble's mean probabilities, or a regression's predictions: float64 (records,
    classes).
    """
    rows, answers = np.arange(len(entries)), []
    for trained in ensemble:
        config, data = trained.config, trained.config.dataset
        store = cast(RecordStore, MemoryStore(entries, data.fs))
        dataset = CropDataset(store, parse_leads(data.lead), trained.cropping.length)
        batches = EvaluationBatches(
            rows,
            dataset.samples,
            trained.cropping,
            batch_size=config.dataloader.batch_size * data.crops_per_record,
        )
        outputs, _, _ = predict(
            trained.classifier,
            make_loader(dataset, batches),
            trained.pipeline,
            rows,
            classes=len(trained.classes),
            loss=trained.criterion.loss,
            device=device,
            amp=resolve_amp(config.train.amp, device),
        )
        answers.append(trained.criterion.to_units(outputs))
    return sum(answers, np.zeros_like(answers[0])) / len(ensemble)


def decide(probabilities: np.ndarray, thresholds: Thresholds | None, task: str) -> np.ndarray:
    """Return outputs, bool (records, classes): by thresholds of a search, or at 0.5 and above;
    the likeliest class where classes exclude each other; all in regression, where each is an
    answer.
    """
    if task == "regression":
        return np.ones_like(probabilities, bool)
    if task == "multiclass":
        return np.eye(probabilities.shape[1], dtype=bool)[probabilities.argmax(axis=1)]
    if thresholds:
        return thresholds.decide(probabilities)
    return apply_thresholds(probabilities, np.array(0.5))


# ============ output ============
def in_words(
    classes: Sequence[str], outputs: np.ndarray, probabilities: np.ndarray, most: int = 8
) -> str:
    """Return the classes that are output, the likeliest first, for a figure's title."""
    named = sorted(np.flatnonzero(outputs).tolist(), key=lambda c: -probabilities[c])
    text = ", ".join(f"{classes[c]} {probabilities[c]:.2f}" for c in named[:most])
    return (text or "nothing") + (f" and {len(named) - most} more" if len(named) > most else "")


def write_entry(
    entry: Entry,
    folder: Path,
    first: Trained,
    outputs: np.ndarray,
    probabilities: np.ndarray,
    *,
    plot: bool,
) -> dict[str, Any]:
    """Write the files of one recording; return its row of the summary.

    Args:
        entry: the recording.
        folder: of all files.
        first: of the ensemble, whose classes all of it have.
        outputs: bool (classes,).
        probabilities: (classes,).
        plot: draw it, too.
    """
    decided = (
        [] if first.task == "regression" else [",".join(str(int(output)) for output in outputs)]
    )
    lines = [
        f"#{entry.record}",
        ",".join(first.codes),
        *decided,
        ",".join(f"{probability:.6g}" for probability in probabilities),
    ]  # what the Challenge's scorer reads
    write_text(folder / f"{entry.record}.csv", "\n".join(lines) + "\n")
    if plot:
        plot_ecg(
            path=folder / f"{entry.record}.png",
            **entry.picture,
            title=f"{entry.record}   predicted: {in_words(first.classes, outputs, probabilities)}",
        )
    names = NAMES if first.codes == CLASSES else first.classes
    diagnoses = (
        {"diagnoses": "; ".join(names[c] for c in np.flatnonzero(outputs))} if decided else {}
    )
    return {
        "record": entry.record,
        "file": safe_cell(str(entry.path)),
        "remark": "; ".join(entry.remarks),
        **diagnoses,
        **dict(zip(first.classes, probabilities)),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    device, ensemble = one_device(arguments.gpu), load_ensemble(arguments.weights)
    if arguments.thresholds and (ensemble[0].codes != CLASSES or ensemble[0].task != "multilabel"):
        raise ConfigError(
            "--thresholds are for the Challenge's 24 classes, multi-label, which these weights do "
            "not predict"
        )
    thresholds = load_thresholds(arguments.thresholds) if arguments.thresholds else None
    folder = Path(arguments.output)
    rates = sorted({trained.config.dataset.fs for trained in ensemble})
    said = Given.of(arguments)
    is_store = any(Path(arguments.input).glob("fs*/meta.json"))
    others = [name for name in ("lead_names", "trim", "assume") if getattr(said, name)]
    needless = [*needless_flags(said), *(f"--{name}" for name in others)]
    if is_store and needless:
        raise ConfigError(
            f"{', '.join(needless)}: no effect on a store, whose records are millivolts of named "
            "leads; leave it out"
        )
    sources: Sequence[Source] = (
        stored_records(arguments.input, rates) if is_store else find_places(arguments.input, said)
    )
    for trained in ensemble:
        trained.classifier.to(device)
        trained.pipeline.to(device)
    longest = max(trained.cropping.length / trained.config.dataset.fs for trained in ensemble)
    leads = dict.fromkeys(
        lead for trained in ensemble for lead in parse_leads(trained.config.dataset.lead)
    )
    folder.mkdir(parents=True, exist_ok=True)
    read = partial(
        read_entry,
        rates=rates,
        longest_crop=longest,
        leads=leads,
        said=said,
    )
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for entries in read_all(sources, failed, read):
        probabilities = probabilities_of(entries, ensemble, device)
        outputs = decide(probabilities, thresholds, ensemble[0].task)
        rows += [
            write_entry(entry, folder, ensemble[0], *answer, plot=arguments.plot)
            for entry, *answer in zip(entries, outputs, probabilities)
        ]
    failed = [{name: safe_cell(value) for name, value in row.items()} for row in failed]
    write_frame(folder / f"{SUMMARY}.csv", pd.DataFrame(rows + failed), float_format="%.6g")
    for row in failed:
        print(f"{row['file']}: {row['remark']}")
    print(
        f"{len(rows)} recordings predicted, {len(failed)} not read; {folder / SUMMARY}.csv lists "
        "them all"
    )
    if not rows:
        raise ECGError(
            f"none of the {len(sources)} recordings could be read; the first: {failed[0]['remark']}"
        )


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
