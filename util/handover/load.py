"""A trained network as one function of signals: any rate, any length, raw millivolts.

    encoder = load_encoder("encoder.pth")
    features = encoder(signal, fs=500, leads=["I", "II", ...])        # (records, width)

    classifier = load_classifier("best-AUROC.pth")
    probabilities = classifier(signal, fs=500)                        # (records, classes)

Resampling, crops, filters and standardisation are those of the training, as the file says.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from util.config.keys import FinetuneConfig, JobConfig, PretrainConfig
from util.config.load import load_config
from util.contract.encoder import Encoder
from util.errors import CheckpointError, ConfigError, RecordError
from util.evaluation.trained import Trained, load_trained, read_weights
from util.jobs.setup import build_configured, crop_length, training_transforms
from util.leads import parse_leads
from util.scoring.criterion import ACTIVATIONS, Criterion
from util.signals.crops import Cropping
from util.signals.resampling import resample
from util.signals.transforms import Pipeline
from util.weights.transfer import load_encoder as load_weights

CROPS = 64  # computed at a time
Signals = TypeVar("Signals", np.ndarray, torch.Tensor)


class Applied(nn.Module):
    """A trained network and what comes before it, in evaluation mode.

    Args:
        network: an encoder, perhaps with a head.
        config: by which it was trained.
        cropping: which windows of a record it sees; the result is the mean over them.
        pipeline: the transforms of these windows.

    Attributes:
        leads: names of those that the network takes, in its order.
        fs: the sampling rate in Hz at which it takes them.
    """

    def __init__(
        self, network: Encoder, config: JobConfig, cropping: Cropping, pipeline: Pipeline
    ) -> None:
        super().__init__()
        self.network, self.pipeline, self.cropping = network, pipeline, cropping
        self.config = config
        self.leads, self.fs = parse_leads(config.dataset.lead), config.dataset.fs
        self.eval()

    def vectors(self, crops: torch.Tensor) -> torch.Tensor:
        """Return what is averaged over the crops of a record, (crops, width)."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, signal: Signals, fs: float, leads: Sequence[str] | None = None) -> Signals:
        """Return the mean over the crops of each record, (records, width).

        Args:
            signal: (records, leads, time) in mV, NumPy or torch; the result is of the same kind.
            fs: its sampling rate in Hz.
            leads: names of its leads, in order; None: those of ``self.leads``.

        Raises:
            ConfigError: a lead that the network takes is missing, or the shape is another.
            RecordError: there are samples that are no numbers.
        """
        place = next(self.network.parameters())
        x = torch.as_tensor(signal).to(place.device, torch.float32)
        x = resample(self._chosen(x, leads), fs, self.fs)
        crops = cut(x, self.cropping)
        batch = crops.flatten(0, 1)
        vectors = torch.cat([self.vectors(self.pipeline(part)) for part in batch.split(CROPS)])
        means = vectors.double().unflatten(0, crops.shape[:2]).mean(dim=1).float()
        return means.cpu().numpy() if isinstance(signal, np.ndarray) else means

    def _chosen(self, x: torch.Tensor, leads: Sequence[str] | None) -> torch.Tensor:
        """The leads of the network, in its order."""
        names = self.leads if leads is None else parse_leads(leads, "leads")
        if x.ndim != 3 or x.shape[1] != len(names) or not x.shape[2]:
            raise ConfigError(
                f"signals must be (records, {len(names)} leads, time), not {tuple(x.shape)}; name "
                "the leads in their order by leads=[...]"
            )
        missing = [lead for lead in self.leads if lead not in names]
        if missing:
            raise ConfigError(
                f"lead {', '.join(missing)} missing; the network takes {' '.join(self.leads)}"
            )
        if not x.isfinite().all():
            bad = torch.nonzero(~x.isfinite().all(dim=2))[0]
            raise RecordError(f"record {bad[0]}, lead {names[bad[1]]}: samples that are no numbers")
        return x[:, [names.index(lead) for lead in self.leads]]


def cut(x: torch.Tensor, cropping: Cropping) -> torch.Tensor:
    """Return the crops (records, crops, leads, length) of signals (records, leads, time).

    Signals shorter than a crop are padded at their end with each lead's mean, as the dataset does.
    """
    spare = cropping.length - x.shape[-1]
    if spare > 0:
        x = torch.cat([x, x.mean(dim=-1, keepdim=True).expand(-1, -1, spare)], dim=-1)
    starts = torch.as_tensor(cropping.starts(x.shape[-1]), device=x.device)
    windows = x.unfold(-1, cropping.length, 1)
    return windows.index_select(2, starts).transpose(1, 2)


class AppliedEncoder(Applied):
    """Features of signals: what the network makes of them before its head.

    Attributes:
        width: length of the features.
    """

    @property
    def width(self) -> int:
        """Return the length of the features."""
        return self.network.width

    def vectors(self, crops: torch.Tensor) -> torch.Tensor:
        """Return features (crops, width)."""
        return self.network.forward_features(crops).float()


class AppliedClassifier(Applied):
    """Probabilities of classes, or a regression's values in the labels' units.

    Attributes:
        classes: names of the columns.
        codes: their SNOMED CT codes, or names again where labels come from a table.
    """

    def __init__(self, *parts: Any, criterion: Criterion, codes: tuple[str, ...]) -> None:
        super().__init__(*parts)
        self.criterion, self.classes, self.codes = criterion, criterion.classes, codes

    def vectors(self, crops: torch.Tensor) -> torch.Tensor:
        """Return outputs (crops, classes)."""
        outputs = ACTIVATIONS[self.criterion.loss](self.network(crops).float())
        std, mean = self.criterion.std, self.criterion.mean
        return outputs if std is None or mean is None else outputs * std + mean


# ============ from files ============
def load_encoder(path: str | os.PathLike, device: str | torch.device = "cpu") -> AppliedEncoder:
    """Load an encoder with its preprocessing.

    A record's features are the mean over crops of the length of its training, as many as cover
    the record, spread evenly.

    Args:
        path: encoder.pth of a pre-training, or the weights of a classifier.
        device: where it computes.

    Raises:
        CheckpointError: the file does not carry the config of its training, or does not fit it.
    """
    content = read_weights(path)
    config = config_of(content["config"])
    cropping = Cropping("cover", crop_length(config.dataset))
    _, pipeline = training_transforms(config)
    if _classifies(content):
        network = load_trained(path).classifier
    elif isinstance(config, FinetuneConfig):  # the encoder.pth of a fine-tuned run
        network = build_configured(config, 1)
        load_weights(network, path)
        if network.fresh_on_the_way:
            raise CheckpointError(
                f"{path} holds no {' and '.join(network.fresh_on_the_way)}, through which features "
                "pass, as the next training starts that anew; name the weights of the classifier, "
                "best-<metric>.pth beside it"
            )
    else:
        network = build_configured(config).handed_on
        load_weights(network, path)
    return AppliedEncoder(network, config, cropping, pipeline.fixed).to(device)


def load_classifier(
    path: str | os.PathLike, device: str | torch.device = "cpu"
) -> AppliedClassifier:
    """Load a classifier with its preprocessing; its crops are those of its evaluation.

    Args:
        path: weights that fine-tuning left, such as best-AUROC.pth.
        device: where it computes.

    Raises:
        CheckpointError: the file is no such file.
    """
    return classifier_of(load_trained(path)).to(device)


def classifier_of(trained: Trained) -> AppliedClassifier:
    """Return a rebuilt classifier as a function of signals."""
    return AppliedClassifier(
        trained.classifier,
        trained.config,
        trained.cropping,
        trained.pipeline,
        criterion=trained.criterion,
        codes=trained.codes,
    )


def is_classifier(path: str | os.PathLike) -> bool:
    """Return whether a file holds the weights of a classifier, not of an encoder alone."""
    return _classifies(read_weights(path))


def _classifies(content: dict[str, Any]) -> bool:
    return "mode" in content["config"] and "labels" in content


def config_of(mapping: dict) -> JobConfig:
    """Return the config that weights carry, of the program that wrote them."""
    weights_are_there = {"resume": ""}
    if "mode" not in mapping:
        return load_config([mapping], [], weights_are_there, program=PretrainConfig)
    weights_are_there |= {"mode": "scratch", "encoder_path": ""}
    return load_config([mapping], [], weights_are_there, program=FinetuneConfig)
