"""Nearest neighbours of frozen features: a score that trains nothing."""

from pathlib import Path

import numpy as np
import torch

from util.config.keys import FinetuneConfig
from util.config.load import save_config
from util.console import begin_job, fold_of_job, keep_in, note
from util.errors import ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.probes import features
from util.evaluation.report import FoldResult, in_words, summarise, write_scores
from util.jobs.job import Fold, LabelledJob, check_start, make_classifier, note_chance
from util.jobs.setup import resolved
from util.processes import collectives
from util.scoring.scores import compute_scores
from util.training.claim import ASKED, check_folder, folds_beside

# as Caron et al., DINO (ICCV 2021), after Wu et al. (CVPR 2018)
NEIGHBOURS, TEMPERATURE = 20, 0.07


def neighbours(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    k: int,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Return the mean label of the k nearest training records, weighted by exp(cosine /
    temperature): float64 (records, outputs).

    Args:
        train_x: features (records, width); each is standardised over the training records first,
            as what all records have in common tells none apart; one that does not vary there
            takes no part.
        train_y: (records, outputs), NaN where unknown, which is ignored; where no neighbour
            has a known label, the result is the mean of all known ones.
        test_x: features (records, width).
        k: how many.
        temperature: the lower, the more the nearest count.
    """
    mean, std = train_x.mean(axis=0), train_x.std(axis=0)
    std = np.where(std > 1e-6 * std.max(), std, np.inf)
    a, b = ((x - mean) / std for x in (train_x, test_x))
    a, b = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9) for x in (a, b))
    cosine = b @ a.T
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1) / temperature)[..., None]
    known = ~np.isnan(train_y[nearest])
    total = (weight * known).sum(axis=1)
    sums = (weight * np.where(known, train_y[nearest], 0)).sum(axis=1)
    return np.where(total > 0, sums / np.where(total > 0, total, 1), np.nanmean(train_y, axis=0))


def score_neighbours(config: FinetuneConfig, k: int = NEIGHBOURS) -> list[FoldResult]:
    """Score the encoder of ``config``, pre-trained or, in mode scratch, untrained, on each fold of
    the job.
    """
    begin_job()
    check_start(config)
    job, device = LabelledJob(config), collectives.start(config.device)
    folder = Path(config.output_dir) / config.exp_name
    several, results = len(job.folds) > 1, []
    beside: list[int] = []
    if several:
        asked = ASKED.format(k)
        beside = collectives.on_main(
            lambda: folds_beside(folder, job.config, job.folds, job.tests, asked)
        )
    for number in job.folds:
        place = folder / f"fold{number}" if several else folder
        with fold_of_job():
            results.append(_score_fold(job.fold(number), k, place, device))
    if several:
        collectives.on_main(lambda: summarise(results, folder, beside))
    return results


def _score_fold(fold: Fold, k: int, place: Path, device: torch.device) -> FoldResult:
    job = fold.job
    count = len(fold.parts["train"])
    if not 0 < k <= count:
        raise ConfigError(f"--k {k}: fold {fold.number} has {count} training records to ask")
    kept = resolved(job.config, 0.0, fold.number)
    collectives.on_main(lambda: check_folder(place, job.config, kept, ASKED.format(k)))
    encoder = make_classifier(job).to(device)
    note_chance(encoder)
    encoder.fit_statistics(fold.crops(device))  # of the input, unless the weights have them
    evaluator = Evaluator(fold, device)
    train, test = (
        features(
            encoder,
            evaluator.loader_of(fold.parts[part]),
            evaluator.pipeline,
            fold.parts[part],
            device,
            evaluator.amp,
        )
        for part in ("train", "test")
    )
    labels = fold.labels_of("train")
    if job.task == "multiclass":
        labels = np.eye(len(job.classes))[labels]
    outputs = neighbours(train, labels.astype(float), test, k)
    predictions = evaluator.predictions("test", outputs, outputs)
    values = compute_scores(outputs, predictions.labels, job.scores, job.task)
    note(f"fold {fold.number}, {len(outputs)} test records, {k} neighbours: {in_words(values)}")

    def write() -> dict[str, float]:
        place.mkdir(parents=True, exist_ok=True)
        save_config(kept, place / "config.yaml", ASKED.format(k))
        keep_in(place)
        return write_scores(evaluator, place, values, predictions)

    return FoldResult(
        fold=fold.number,
        folder=place,
        scores=values,
        intervals=collectives.on_main(write),
        selection={},
        predictions=predictions,
        overlap=fold.overlap,
    )
