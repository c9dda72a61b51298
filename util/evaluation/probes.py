"""Frozen features, computed in one place, and linear probes on them: how useful the features of an
encoder are without fine-tuning it.
"""

from collections.abc import Callable

import numpy as np
import torch

from util.config.keys import PretrainConfig
from util.console import note, quietly
from util.contract.encoder import Encoder
from util.data.dataset import CropDataset, evenly
from util.data.splits import labelled_rows, make_splits, run_numbers, split_rows
from util.data.store import RecordStore
from util.errors import ConfigError
from util.evaluation.inference import record_loader, record_means
from util.jobs.setup import training_transforms, usable_rows
from util.labels.masks import LabelMasks
from util.labels.tables import Labels, read_labels
from util.leads import parse_leads
from util.scoring.scores import compute_scores, parse_scores
from util.signals.crops import Cropping
from util.signals.transforms import Pipeline
from util.training.optimizer import autocast

MAX_TRAINING = 5000  # records that the probe is fitted on
SCORE = {"multilabel": "AUROC", "multiclass": "AUROC", "regression": "R2"}


class Probe:
    """What an encoder's features show on the selection fold, from one centre crop a record: linear
    probes of them and of its layers, their rank and their spread.

    Attributes:
        score: AUROC, or R2 where the labels are numbers.
        key: its name in log.txt.
        described: the records that it is of, for people.

    Raises:
        ConfigError: too few labelled records in the folds that dataset.fold and dataset.protocol
            choose.
    """

    def __init__(
        self, store: RecordStore, config: PretrainConfig, labels: Labels, device: torch.device
    ):
        data = config.dataset
        cropping, pipeline = training_transforms(config)
        self.device, self.pipeline, self.parts = device, pipeline.fixed.to(device), []
        leads = parse_leads(data.lead)
        dataset = CropDataset(store, leads, cropping.length)
        self.crop = torch.zeros(1, len(leads), cropping.length)
        self.score = SCORE[labels.kind]
        self.key = f"probe_{self.score.lower()}"
        values = labels.values
        if labels.kind == "multiclass":
            values = np.eye(len(labels.classes))[values]
        splits = make_splits(store, data)
        with quietly():  # records without a label take part in the training all the same
            rows = labelled_rows(usable_rows(store, config), labels.known, splits)
        parts = split_rows(splits, rows, run_numbers(data)[0])
        centre = Cropping("center", cropping.length)
        for rows in (evenly(parts["train"], MAX_TRAINING), parts["valid"]):
            loader = record_loader(dataset, rows, centre, config.dataloader.batch_size)
            self.parts.append((rows, loader, values[rows]))
        self.described = f"{len(parts['valid'])} records of the selection fold"

    def __call__(self, encoder: Encoder, amp: torch.dtype | None = None) -> float:
        """Return the score of the encoder's features."""
        return self.look(encoder, amp)[self.key]

    def look(self, encoder: Encoder, amp: torch.dtype | None = None) -> dict[str, float]:
        """Return what the selection records show, by its name in log.txt: the score of the
        features, of each layer ("<key>_<layer>"), and rank ("probe_rankme") and spread
        ("probe_spread") of the features.
        """
        train, valid = (
            layered_features(encoder, loader, self.pipeline, rows, self.crop, self.device, amp)
            for rows, loader, _ in self.parts
        )
        (_, _, train_y), (_, _, valid_y) = self.parts
        scores = {
            name: linear_probe(train[name], train_y, x, valid_y, score=self.score)
            for name, x in valid.items()
        }
        own = scores.pop("")
        by_layer = {f"{self.key}_{name}": value for name, value in scores.items()}
        shape = {"probe_rankme": rankme(valid[""]), "probe_spread": spread(valid[""])}
        return {self.key: own, **by_layer, **shape}

    @staticmethod
    def points(seen: dict[str, float]) -> dict[str, float]:
        """Return what ``look`` gave by its names in TensorBoard: probe/auroc, probe/rankme ..."""
        return {name.replace("_", "/", 1): value for name, value in seen.items()}


def make_probe(store: RecordStore, config: PretrainConfig, device: torch.device) -> Probe | None:
    """Return the probe of train.probe_every; None, with a note, where there are too few labels."""
    if not config.train.probe_every:
        return None
    masks = LabelMasks(read_labels(store, config.dataset), store, config.dataset)
    labels = masks.labels
    if masks.by_fold:
        selects = store.records["fold"] == run_numbers(config.dataset)[0]
        labels = masks.of_fold(selects.to_numpy())
    try:
        return Probe(store, config, labels, device)
    except ConfigError as error:
        note(f"note: no linear probe ({error})")
        return None


def features(
    encoder: Encoder,
    loader: torch.utils.data.DataLoader,
    pipeline: Pipeline,
    rows: np.ndarray,
    device: torch.device,
    amp: torch.dtype | None = None,
) -> np.ndarray:
    """Return the mean feature vector of each record over its crops, float64 (records, width),
    ordered as ``rows``.
    """

    def vectors(signal: torch.Tensor) -> torch.Tensor:
        with autocast(device, amp):
            return encoder.forward_features(signal)

    return record_means(
        encoder, loader, pipeline, rows, device, vectors=vectors, width=encoder.width
    )


def layered_features(
    encoder: Encoder,
    loader: torch.utils.data.DataLoader,
    pipeline: Pipeline,
    rows: np.ndarray,
    crop: torch.Tensor,
    device: torch.device,
    amp: torch.dtype | None = None,
) -> dict[str, np.ndarray]:
    """Return ``features`` under "", and those of each of the encoder's layers by its name, of one
    pass over the records; ``crop`` is any one (1, leads, time).
    """
    seen: dict[str, torch.Tensor] = {}
    layers = encoder.probed_layers

    def keep(name: str) -> Callable:
        return lambda module, given, output: seen.update({name: encoder.layer_mean(output)})

    def vectors(signal: torch.Tensor) -> torch.Tensor:
        with autocast(device, amp):
            seen[""] = encoder.forward_features(signal)
        return torch.cat([seen[name].float() for name in ("", *layers)], dim=1)

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()
            vectors(crop.to(device))
        widths = [seen[name].shape[1] for name in ("", *layers)]
        means = record_means(
            encoder, loader, pipeline, rows, device, vectors=vectors, width=sum(widths)
        )
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return dict(zip(("", *layers), np.split(means, np.cumsum(widths)[:-1], axis=1)))


def rankme(x: np.ndarray) -> float:
    """Return the smooth rank of features (records, width): exp of the entropy of their singular
    values (Garrido et al., RankMe, ICML 2023); between 1, collapsed, and the smaller side.
    """
    values = np.linalg.svd(x, compute_uv=False)
    shares = values / values.sum() if values.any() else np.ones(1)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spread(x: np.ndarray) -> float:
    """Return the deviation over records of features (records, width) of length 1, mean over the
    dimensions, times sqrt(width): near 1 where they spread over the sphere, 0 where all are one.
    """
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return float(unit.std(axis=0).mean() * x.shape[1] ** 0.5)


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    valid_x: np.ndarray,
    valid_y: np.ndarray,
    ridge: float = 1e-2,
    score: str = "AUROC",
) -> float:
    """Return the macro AUROC, or R2, on the selection records of a ridge regression fitted on the
    training records.

    Args:
        train_x: features (records, width).
        train_y: (records, classes) of 0 and 1, or numbers; NaN where unknown.
        valid_x: as ``train_x``, of the selection records.
        valid_y: as ``train_y``.
        ridge: penalty as a share of the mean feature variance times the number of records.
        score: AUROC or R2.

    Least squares on 0/1 labels is a linear discriminant; it has a closed form, so the probe adds
    no randomness.
    """
    mean, std = train_x.mean(axis=0), train_x.std(axis=0) + 1e-9
    a, b = (train_x - mean) / std, (valid_x - mean) / std
    known = ~np.isnan(train_y)
    if known.all():
        outputs = _ridge(a, train_y, b, ridge)
    else:  # each class learns from the records whose label is known
        outputs = np.zeros((len(b), known.shape[1]))
        for c, rows in enumerate(known.T):
            if rows.any():
                outputs[:, c] = _centred_ridge(a[rows], train_y[rows, c], b, ridge)
    task = "multilabel" if score == "AUROC" else "regression"
    return compute_scores(outputs, valid_y, parse_scores([score], task=task), task)[score]


def _centred_ridge(a: np.ndarray, y: np.ndarray, b: np.ndarray, ridge: float) -> np.ndarray:
    """``_ridge`` where ``a`` was standardised over more records than these."""
    centre = a.mean(axis=0)
    return _ridge(a - centre, y, b - centre, ridge)


def _ridge(a: np.ndarray, y: np.ndarray, b: np.ndarray, ridge: float) -> np.ndarray:
    """Outputs for the features ``b`` of the ridge regression of ``y`` on the features ``a``, both
    standardised.
    """
    gram = a.T @ a + ridge * len(a) * np.eye(a.shape[1])
    return b @ np.linalg.solve(gram, a.T @ (y - y.mean(axis=0))) + y.mean(axis=0)
