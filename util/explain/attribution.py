"""What a network looked at in a record: occlusion, integrated gradients, attention, and how far
each of them can be trusted.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from util.contract.encoder import Encoder
from util.contract.patch_encoder import PatchEncoder
from util.errors import ConfigError
from util.explain.occlusion import BATCH, Occlusion, Score, SeenCrops, occlude
from util.handover.load import Applied, AppliedClassifier, cut
from util.scoring.criterion import TASKS

STEPS = 32  # of the integral
WINDOW = 0.2  # seconds that occlusion hides at a time


@dataclass(frozen=True)
class Explanation:
    """What spoke for an answer, and where.

    Attributes:
        method: for people.
        trace: (leads, samples), at the network's rate; NaN where the network saw nothing.
        leads: (leads,), each lead as a whole.
        profile: (samples,), each time over all leads.
        total: sum of the parts.
        change: of the answer where all leads are flat; ``total`` should be near it for gradients.
        random: correlation of the absolute values of ``trace`` with those for the same network
            with shuffled weights; near 1 it shows the signal rather than what was learned.
        between: (leads, leads), attention from a lead to a lead; None elsewhere.
    """

    method: str
    trace: np.ndarray
    leads: np.ndarray
    profile: np.ndarray
    total: float
    change: float
    random: float
    between: np.ndarray | None = None


# ============ what is explained ============
def seen_by(applied: Applied, signal: np.ndarray) -> SeenCrops:
    """Return the crops that a network sees of a signal (leads, time) in mV, which has its leads
    and its rate.
    """
    place = next(applied.network.parameters()).device
    x = torch.as_tensor(np.ascontiguousarray(signal), dtype=torch.float32, device=place)
    starts = torch.as_tensor(applied.cropping.starts(x.shape[1]), device=place)
    with torch.no_grad():
        crops = applied.pipeline(cut(x[None], applied.cropping)[0].contiguous())
    return SeenCrops(crops, starts, x.shape[1])


def column_of(applied: AppliedClassifier, name: str | None, outputs: np.ndarray) -> int:
    """Return which class to explain: that of this name or code, or the likeliest.

    Raises:
        ConfigError: there is none of this name.
    """
    if name is None:
        return int(np.argmax(outputs))
    for names in (applied.classes, applied.codes):
        if name in names:
            return names.index(name)
    known = ", ".join(applied.classes[:30]) + ", ..." * (len(applied.classes) > 30)
    raise ConfigError(f"--class {name}: the weights know {known}")


def score_of(applied: Applied, network: Encoder, record: SeenCrops, column: int | None) -> Score:
    """Return the number that is explained: of a class the log-odds, of a regression its value, of
    an encoder the cosine between the features of what is shown and those of the record.

    Args:
        applied: whose network it is, or whose weights were shuffled.
        network: it, or the one with shuffled weights.
        record: its crops.
        column: the class; None for an encoder.
    """
    if column is None or not isinstance(applied, AppliedClassifier):
        with torch.no_grad():
            whole = torch.cat(
                [network.forward_features(part) for part in record.crops.split(BATCH)]
            )
        return lambda crops, which: torch.cosine_similarity(
            network.forward_features(crops), whole[which], dim=1
        )
    criterion = applied.criterion
    if TASKS[criterion.loss] == "regression":
        scale = 1.0 if criterion.std is None else float(torch.as_tensor(criterion.std)[column])
        return lambda crops, which: network(crops)[:, column] * scale
    if criterion.loss == "bce":
        return lambda crops, which: network(crops)[:, column]
    others = [number for number in range(len(criterion.classes)) if number != column]

    def log_odds(crops: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        logits = network(crops)
        return logits[:, column] - logits[:, others].logsumexp(dim=1)

    return log_odds


def shuffled(network: Encoder, seed: int = 0) -> Encoder:
    """Return the network with the numbers of each of its parameters in random order: of the same
    scales, but without what was learned (Adebayo et al., Sanity checks for saliency maps, 2018).
    """
    other = copy.deepcopy(network)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=random).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


# ============ methods ============
def by_occlusion(
    applied: Applied, record: SeenCrops, column: int | None, seconds: float = WINDOW
) -> Explanation:
    """Explain by hiding windows and leads.

    Args:
        applied: the network.
        record: its crops.
        column: the class; None for an encoder.
        seconds: of a window.
    """
    window = max(1, round(seconds * applied.fs))

    def hide(network: Encoder) -> Occlusion:
        return occlude(record, score_of(applied, network, record, column), window)

    ours, theirs = hide(applied.network), hide(shuffled(applied.network))
    return Explanation(
        "occlusion",
        _where_seen(ours.trace, record),
        ours.leads.cpu().numpy(),
        _where_seen(ours.profile, record),
        total=float(ours.windows.sum()),
        change=ours.everything,
        random=_correlation(ours.trace, theirs.trace),
    )


def by_gradients(applied: Applied, record: SeenCrops, column: int | None) -> Explanation:
    """Explain by integrated gradients from flat leads to the record."""

    def integrate(network: Encoder) -> torch.Tensor:
        return integrated_gradients(record, score_of(applied, network, record, column))

    ours = integrate(applied.network)
    trace = record.to_record(ours) / len(ours)
    theirs = record.to_record(integrate(shuffled(applied.network)))
    score, which = score_of(applied, applied.network, record, column), _numbers(record)
    with torch.no_grad():
        change = (score(record.crops, which) - score(_flat(record), which)).mean()
    return Explanation(
        "integrated gradients",
        _where_seen(trace, record),
        trace.sum(dim=1).cpu().numpy(),
        _where_seen(trace.sum(dim=0), record),
        total=float(ours.sum() / len(ours)),
        change=float(change),
        random=_correlation(trace, theirs),
    )


def integrated_gradients(
    record: SeenCrops, score: Score, steps: int = STEPS, batch: int = BATCH
) -> torch.Tensor:
    """Return integrated gradients of each crop, (crops, leads, time), from its leads' means.

    They sum to the score's change (Sundararajan, Taly and Yan, Axiomatic attribution for deep
    networks, ICML 2017), as far as ``steps`` of the Gauss-Legendre rule go.

    The way from flat to the crop is gone as t^4, slowly at first: patches pass through a LayerNorm,
    which brings out the faintest wave, so that nearly all happens in the first hundredth.  At even
    speed, as Captum goes it, the rule missed 80 to 90 % of the change of an ST-MEM; so, a few.

    Args:
        record: its crops.
        score: of crops.
        steps: of the integral.
        batch: crops computed at a time.
    """
    crops, base = record.crops, _flat(record)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    time, device = (nodes + 1) / 2, crops.device
    share = torch.as_tensor(time**4, dtype=torch.float32, device=device)
    weight = torch.as_tensor(weights / 2 * 4 * time**3, dtype=torch.float32, device=device)
    pairs = torch.cartesian_prod(_range(len(crops), crops), _range(steps, crops))
    total, way = torch.zeros_like(crops), crops - base
    with torch.backends.cudnn.flags(enabled=False):  # its LSTM has gradients in training alone
        for part in pairs.split(batch):
            which, step = part.unbind(1)
            between = base[which] + share[step][:, None, None] * way[which]
            between.requires_grad_()
            (gradient,) = torch.autograd.grad(score(between, which).sum(), between)
            total.index_add_(0, which, weight[step][:, None, None] * gradient)
    return total * way


def _range(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, device=like.device)


def _numbers(record: SeenCrops) -> torch.Tensor:
    return _range(len(record.crops), record.crops)


def _flat(record: SeenCrops) -> torch.Tensor:
    """Each lead of each crop at its mean."""
    return record.crops.mean(dim=2, keepdim=True).expand_as(record.crops).contiguous()


@torch.no_grad()
def by_attention(applied: Applied, record: SeenCrops) -> Explanation | None:
    """Explain by what patches attend to in the last block, the mean over its heads, as ST-MEM's
    paper shows it (Na et al., ICLR 2024); None for networks without attention.

    ``trace`` holds shares, which sum to 1.
    """
    ours = _attended(applied.network, record.crops)
    if ours is None:
        return None
    theirs = _attended(shuffled(applied.network), record.crops)
    assert theirs is not None
    traces = [_patches_to_trace(part[0], record) for part in (ours, theirs)]
    return Explanation(
        "attention",
        _where_seen(traces[0], record),
        traces[0].sum(dim=1).cpu().numpy(),
        _where_seen(traces[0].sum(dim=0), record),
        total=float(traces[0].sum()),
        change=np.nan,
        random=_correlation(*traces),
        between=None if ours[1] is None else ours[1].cpu().numpy(),
    )


def _attended(
    network: Encoder, crops: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """What each patch gets from all patches, (crops, leads or 1, patches), and what leads get from
    leads, (leads, leads), where patches are of single leads.
    """
    parts = (network, *network.branches.values())
    patches = (part for part in parts if isinstance(part, PatchEncoder))
    network = next(patches, network)
    weights = network.attention(crops)
    if weights is None or not isinstance(network, PatchEncoder):
        return None
    # ``patch_tokens`` leaves out what is no patch: first of those who attend, then of the others.
    by_query = network.patch_tokens(weights.mean(dim=1))
    leads = by_query.shape[1] if by_query.ndim == 4 or not network.in_time else 1
    by_query = by_query.reshape(len(crops), -1, by_query.shape[-1])
    shares = network.patch_tokens(by_query.transpose(1, 2)).reshape(
        len(crops), leads, -1, len(by_query[0])
    )
    shares = shares / shares.sum(dim=(1, 2), keepdim=True)
    got = shares.mean(dim=3)
    if leads == 1:
        return got, None
    between = shares.unflatten(3, (leads, -1)).sum(dim=2).mean(dim=(0, 3))
    return got, between.T


def _patches_to_trace(got: torch.Tensor, record: SeenCrops) -> torch.Tensor:
    """Shares of patches, (crops, leads or 1, patches), as shares of samples, (leads, samples),
    which sum to 1: means where crops overlap.
    """
    length = record.crops.shape[2]
    over, leads = got.repeat_interleave(length // got.shape[2], dim=2), record.crops.shape[1]
    over = record.to_record(over.expand(-1, leads, -1).contiguous()) / record.seen.clamp(min=1)
    return over / over.sum()


# ============ numbers ============
def _where_seen(values: torch.Tensor, record: SeenCrops) -> np.ndarray:
    """Values (..., samples), NaN where no crop is."""
    return torch.where(record.seen > 0, values, torch.nan).cpu().numpy()


def _correlation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Pearson's, of absolute values; NaN where one is constant."""
    a, b = (values.abs().double().flatten().cpu().numpy() for values in (ours, theirs))
    if a.std() < 1e-12 or b.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
