"""Challenge score and threshold searches against a loop written from the definition, side by side.

    python benchmarks/challenge_score.py [--records 4300] [--repeats 5]

The loop goes over records and over the pairs of true and given classes, as the Challenge's own scorer does, and its
published search scores every candidate (24 classes x 5 thresholds) anew.  Scores are simulated: 24 classes as frequent
as 0.5 to 15 % of the records, seen by a fair classifier.  Times are the best of the repeats (the loop's search runs
once), and what both sides compute is compared before it is timed.

Targets: the score at least 200 times faster, the published search at least 100 times, and the ascent, which finds
better thresholds, faster than the loop's published search.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util.challenge import ABBREVIATIONS, CLASSES, NORMAL, WEIGHTS
from util.intervals import Predicted, estimate
from util.scores import REPORT, challenge_score, compute_scores, parse_scores
from util.thresholds import PUBLISHED_CANDIDATES, apply_thresholds, search_ascent, search_published


def simulate(records, seed=0):
    """Labels and scores, each (records, 24)."""
    random = np.random.default_rng(seed)
    share = random.uniform(0.005, 0.15, len(CLASSES))
    labels = random.random((records, len(CLASSES))) < share
    evidence = 2 * labels + random.normal(size=labels.shape) + np.log(share / (1 - share)) - 1
    return labels, 1 / (1 + np.exp(-evidence))


def loop_numerator(labels, outputs):
    """s(O) of the definition: the matrix A, record by record, then its product with the weights."""
    matrix = np.zeros(WEIGHTS.shape)
    for truth, answer in zip(labels, outputs):
        share = 1 / max(np.sum(truth | answer), 1)
        for j in np.flatnonzero(truth):
            for k in np.flatnonzero(answer):
                matrix[j, k] += share
    return np.sum(WEIGHTS * matrix)


def loop_score(labels, outputs):
    """The Challenge score by ``loop_numerator`` of the outputs, of the labels and of sinus rhythm for all."""
    inactive = np.zeros_like(labels)
    inactive[:, NORMAL] = True
    nothing, perfect = loop_numerator(labels, inactive), loop_numerator(labels, labels)
    return (loop_numerator(labels, outputs) - nothing) / (perfect - nothing)


def loop_search(labels, scores):
    """The published search by ``loop_score``, each candidate anew: thresholds (24,)."""
    found = np.full(len(CLASSES), PUBLISHED_CANDIDATES[0])
    for c in range(len(CLASSES)):
        results = []
        for candidate in PUBLISHED_CANDIDATES:
            thresholds = np.full(len(CLASSES), PUBLISHED_CANDIDATES[0])
            thresholds[c] = candidate
            results.append(loop_score(labels, apply_thresholds(scores, thresholds)))
        found[c] = PUBLISHED_CANDIDATES[int(np.argmax(results))]
    return found


def held_out(search, labels, scores):
    """Mean Challenge score of either half at the thresholds found on the other."""
    halves = np.arange(len(labels)) % 2 == 0
    return np.mean([challenge_score(labels[~half], apply_thresholds(scores[~half], found.thresholds))
                    for half in (halves, ~halves) for found in [search(labels[half], scores[half])]])


def seconds(function, repeats):
    """Least time of ``function()`` over the repeats, and its result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def row(name, slow, fast, target):
    """Print one comparison; True if it meets its target."""
    ratio = slow / fast
    verdict = "met" if ratio >= target else "MISSED"
    print(f"{name:18} loop {slow * 1e3:9.1f} ms   ours {fast * 1e3:8.2f} ms   {ratio:7.0f} x   "
          f"target {target} x: {verdict}")
    return ratio >= target


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=4300, help="records in the fold (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest of so many runs counts (default: 5)")
    args = parser.parse_args(argv)
    labels, scores = simulate(args.records)
    thresholds = np.full(len(CLASSES), 0.15)  # about as many outputs as labels
    outputs = apply_thresholds(scores, thresholds)

    slow_score, expected = seconds(lambda: loop_score(labels, outputs), min(args.repeats, 3))
    fast_score, score = seconds(lambda: challenge_score(labels, outputs), 20 * args.repeats)
    slow_search, loop_found = seconds(lambda: loop_search(labels, scores), 1)
    fast_search, published = seconds(lambda: search_published(labels, scores), args.repeats)
    fast_ascent, ascent = seconds(lambda: search_ascent(labels, scores), args.repeats)
    assert abs(score - expected) < 1e-12 and np.array_equal(published.thresholds, loop_found)

    print(f"{args.records} records, {len(CLASSES)} classes, {labels.sum(1).mean():.1f} labels and "
          f"{outputs.sum(1).mean():.1f} outputs a record")
    met = [row("Challenge score", slow_score, fast_score, 200),
           row("published search", slow_search, fast_search, 100),
           row("ascent", slow_search, fast_ascent, 1)]
    print(f"on the search set: published {published.score:.4f}, ascent {ascent.score:.4f} in {ascent.sweeps} sweeps")
    print("searched on one half, scored on the other: published {:.4f}, ascent {:.4f}".format(
        *(held_out(search, labels, scores) for search in (search_published, search_ascent))))
    names = parse_scores(REPORT, ABBREVIATIONS)
    report, _ = seconds(lambda: compute_scores(scores, labels, names, "multilabel", thresholds), args.repeats)
    test = Predicted(labels, outputs.astype(float))
    bootstrap, _ = seconds(lambda: estimate("ChallengeScore", names["ChallengeScore"], [test], "multilabel"), 1)
    print(f"every score of a report {report * 1e3:.1f} ms; "
          f"1000 bootstrap resamples of the Challenge score {bootstrap:.2f} s")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
