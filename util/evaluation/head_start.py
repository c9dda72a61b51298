"""``train.head_init: probe``: the heads start as a linear probe of the encoder, not at random.

A random head sends random gradients into a pre-trained encoder and spoils it before it has learnt
anything itself. A head that is first fitted on frozen features does not: Kumar et
al., Fine-tuning can distort pretrained features and underperform out-of-distribution (ICLR 2022).
"""

import numpy as np
import torch
from torch import nn

from util.console import note
from util.contract.encoder import Encoder
from util.data.dataset import evenly
from util.errors import ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.inference import record_means
from util.jobs.job import SupervisedTask
from util.processes import collectives
from util.scoring.criterion import Criterion
from util.training.optimizer import autocast

MAX_RECORDS = 20_000  # training records that a head is fitted on, spread evenly over all
PENALTY = 0.03  # of squared weights on standardised features; best of 0.01 to 3 on the demo


def fit_heads(task: SupervisedTask, evaluator: Evaluator) -> None:
    """Fit the last layer of every head of ``task.classifier`` on what enters it; what precedes
    keeps its weights.

    Each record counts once, by the mean over the crops by which evaluation sees it.
    Deterministic, and the same on every process; each computes a share of the features.

    Args:
        task: whose heads.
        evaluator: of the fold whose training records they are fitted on.
    """
    fold, classifier, device = evaluator.fold, task.classifier, evaluator.device
    rows = fold.parts["train"]
    chosen = evenly(rows, MAX_RECORDS)
    layers = last_layers(classifier)
    targets = torch.from_numpy(fold.labels[chosen])
    targets = targets.double() if targets.is_floating_point() else targets
    widths = [layer.in_features for layer in layers]
    inputs = inputs_of(layers, evaluator, classifier, chosen).split(widths, dim=1)
    losses = [fit_layer(layer, x, targets, task.criterion) for layer, x in zip(layers, inputs)]
    collectives.same_tensors([tensor for layer in layers for tensor in (layer.weight, layer.bias)])
    few = "" if len(chosen) == len(rows) else f" of {len(rows)}"
    changes = ", ".join(f"{before:.4f} to {after:.4f}" for before, after in losses)
    note(
        f"head fitted on frozen features of {len(chosen)}{few} training records on "
        f"{device.type}: loss {changes}"
    )


def last_layers(classifier: Encoder) -> list[nn.Linear]:
    """Return the Linear that ends each head of the classifier.

    Raises:
        ConfigError: something else ends one.
    """
    layers = []
    for head in classifier.classifiers:
        layer = head[-1] if isinstance(head, nn.Sequential) else head
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            raise ConfigError(
                "train.head_init: probe fits heads that end in a Linear with a bias, not in "
                f"{type(layer).__name__}; choose head_init: random for this model"
            )
        layers.append(layer)
    return layers


def inputs_of(
    layers: list[nn.Linear], evaluator: Evaluator, classifier: Encoder, rows: np.ndarray
) -> torch.Tensor:
    """Return what enters the layers, side by side, mean over the crops of each record: float64
    (records, sum of widths).
    """
    seen: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, x: seen.update({layer: x[0].float()}))
        for layer in layers
    ]

    def vectors(signal: torch.Tensor) -> torch.Tensor:
        with autocast(evaluator.device, evaluator.amp):
            classifier.outputs(signal)
        return torch.cat([seen[layer] for layer in layers], dim=1)

    loader = evaluator.loader_of(rows)
    try:
        means = record_means(
            classifier,
            loader,
            evaluator.pipeline,
            rows,
            evaluator.device,
            vectors=vectors,
            width=sum(layer.in_features for layer in layers),
        )
    finally:
        for hook in hooks:
            hook.remove()
    return torch.from_numpy(means)


@torch.no_grad()
def fit_layer(
    layer: nn.Linear, x: torch.Tensor, targets: torch.Tensor, criterion: Criterion
) -> tuple[float, float]:
    """Set a layer to ``fit_linear`` of its inputs; return the criterion before and after."""

    def loss() -> float:
        weight, bias = layer.weight.double().cpu(), layer.bias.double().cpu()
        return criterion(x @ weight.T + bias, targets).item()

    before = loss()
    weight, bias = fit_linear(x, targets, criterion, layer.out_features)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return before, loss()


@torch.enable_grad()
def fit_linear(
    x: torch.Tensor,
    targets: torch.Tensor,
    criterion: Criterion,
    outputs: int,
    penalty: float = PENALTY,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights (outputs, width) and biases (outputs,) of a linear classifier, float64.

    They minimise, by L-BFGS from zero, the weights taken on standardised features,

        criterion + (penalty |weights|^2 + |biases|^2 / records) / (2 outputs)

    where the term of the biases keeps that of a class without a positive record finite.

    Args:
        x: float64 (records, width).
        targets: as the criterion takes them.
        criterion: (logits (records, outputs), targets) -> mean loss over records, and over
            outputs if these are classified one by one, so that the penalty is the same for each
            of them.
        outputs: how many there are.
        penalty: of squared weights.

    Raises:
        ConfigError: the features are not finite.
    """
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    # A constant feature says nothing: divided by inf, it is 0
    std = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, torch.inf)
    x = (x - mean) / std
    weight = torch.zeros(outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=300,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        squares = penalty * weight.square().sum() + bias.square().sum() / len(x)
        loss = criterion(x @ weight.T + bias, targets) + squares / (2 * outputs)
        loss.backward()
        return loss

    optimizer.step(closure)
    weight = weight.detach() / std
    bias = bias.detach() - weight @ mean
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ConfigError(
            "train.head_init: probe found no finite head: the encoder's features are not finite; "
            "check encoder_path"
        )
    return weight, bias
