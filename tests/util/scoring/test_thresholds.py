"""Threshold searches against brute force and the published loop."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.challenge import ABBREVIATIONS, CLASSES
from util.errors import ECGError
from util.evaluation.threshold_figures import plot_score_curves
from util.scoring import thresholds as module
from util.scoring.decoding import expected_outputs
from util.scoring.scores import challenge_score
from util.scoring.thresholds import (
    apply_thresholds,
    candidate_thresholds,
    default_starts,
    load_thresholds,
    no_search,
    save_thresholds,
    score_curve,
    search_ascent,
    search_published,
    search_single,
)

SEEDS = st.integers(0, 2**32 - 1)


def predictions(seed, records=60, ties=False):
    """Labels and the scores of a fair classifier; with ties there are 10 distinct scores, the
    candidates among them.
    """
    rng = np.random.default_rng(seed)
    share = rng.uniform(0, 0.25, 24)
    labels = rng.random((records, 24)) < share
    scores = 1 / (1 + np.exp(3 - 2.5 * labels - rng.normal(size=(records, 24))))
    return labels, np.round(scores, 1) if ties else scores


def published_loop(labels, scores):
    """The published search, each candidate scored anew."""
    result = np.full(24, 0.1)
    for c in range(24):
        results = []
        for candidate in (0.1, 0.2, 0.3, 0.4, 0.5):
            trial = np.full(24, 0.1)
            trial[c] = candidate
            results.append(challenge_score(labels, scores >= trial))
        result[c] = (0.1, 0.2, 0.3, 0.4, 0.5)[int(np.argmax(np.round(results, 12)))]
    return result


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.booleans())
def test_published_search_equals_the_loop(seed, ties):
    labels, scores = predictions(seed, ties=ties)
    result = search_published(labels, scores)
    np.testing.assert_array_equal(result.thresholds, published_loop(labels, scores))
    assert result.score == challenge_score(labels, apply_thresholds(scores, result.thresholds))
    assert result.n_records == 60


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.booleans())
def test_score_curve_equals_scoring_anew(seed, ties):
    labels, scores = predictions(seed, ties=ties)
    thresholds = np.random.default_rng(seed).uniform(0, 0.6, 24)
    candidates = np.array([0, 0.1, 0.1, 0.35, 0.5, 1.1])
    expected = np.empty((6, 24))
    for (k, c), _ in np.ndenumerate(expected):
        trial = np.where(np.arange(24) == c, candidates[k], thresholds)
        expected[k, c] = challenge_score(labels, scores >= trial)
    np.testing.assert_allclose(
        score_curve(labels, scores, thresholds, candidates), expected, atol=1e-12
    )
    each = np.tile(candidates[:, None], 24)
    np.testing.assert_allclose(score_curve(labels, scores, thresholds, each), expected, atol=1e-12)
    with pytest.raises(ValueError, match="rise"):
        score_curve(labels, scores, thresholds, candidates[::-1])


def all_changes(labels, scores, result):
    """Challenge scores after every single change of a class's threshold or of the shared one,
    each scored anew.
    """
    groups = [[c] for c in range(24) if c not in result.shared] + (
        [list(result.shared)] if result.shared else []
    )
    for group in groups:
        for candidate in candidate_thresholds(scores[:, group], None):
            trial = result.thresholds.copy()
            trial[group] = candidate
            yield challenge_score(labels, apply_thresholds(scores, trial))


@pytest.mark.parametrize(
    "seed, ties, min_positives", [(0, False, 0), (1, True, 0), (2, False, 3), (3, True, 3)]
)
def test_no_single_change_improves_the_ascent(seed, ties, min_positives):
    labels, scores = predictions(seed, records=40, ties=ties)
    result = search_ascent(labels, scores, min_positives=min_positives)
    assert max(all_changes(labels, scores, result)) <= result.score + 1e-11
    assert bool(result.shared) == bool(min_positives)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.booleans(), st.sampled_from([0, 6]))
def test_ascent_reports_its_own_score_and_is_never_below_published(seed, ties, min_positives):
    labels, scores = predictions(seed, ties=ties)
    result = search_ascent(labels, scores, min_positives=min_positives)
    assert result.score == challenge_score(labels, apply_thresholds(scores, result.thresholds))
    assert result.score >= search_published(labels, scores).score
    assert result.n_records == 60 and result.sweeps >= 1


def test_ascent_is_never_below_published_even_with_a_bad_start_or_few_candidates():
    labels, scores = predictions(5, records=300)
    published = search_published(labels, scores)
    never = np.full(24, 2.0)
    for result in (
        search_ascent(labels, scores, starts=[]),
        search_ascent(labels, scores, starts=[never]),
        search_ascent(labels, scores, starts=[never], max_candidates=2),
    ):
        assert result.score >= published.score
    assert search_ascent(labels, scores).score > published.score + 0.02


def test_several_starts_are_tried():
    labels, scores = predictions(5, records=300)
    best = search_ascent(labels, scores)
    every = [
        search_ascent(labels, scores, starts=[start]).score
        for start in default_starts(labels, scores)
    ]
    assert best.score == pytest.approx(max(every), abs=1e-12)
    assert max(every) > min(every)


def test_default_starts_output_a_class_as_often_as_it_is_present():
    labels, scores = predictions(6, records=200)
    starts = default_starts(labels, scores)
    assert np.all(starts[0] == 0.5) and len(starts) == 6
    np.testing.assert_array_equal(
        apply_thresholds(scores, starts[1]).sum(0), np.maximum(labels.sum(0), 1)
    )
    outputs = np.array([apply_thresholds(scores, start).sum(0) for start in starts[2:]])
    assert np.all(outputs <= 3 * labels.sum(0) + 1) and np.all(outputs >= labels.sum(0) // 3)


def test_order_of_records_does_not_matter_and_seeds_repeat():
    labels, scores = predictions(7, records=150)
    result = search_ascent(labels, scores, min_positives=5)
    order = np.random.default_rng(0).permutation(150)
    for again in (
        search_ascent(labels[order], scores[order], min_positives=5),
        search_ascent(labels, scores, min_positives=5),
    ):
        np.testing.assert_array_equal(again.thresholds, result.thresholds)
        assert (
            again.score == pytest.approx(result.score, abs=1e-12) and again.shared == result.shared
        )


def test_rare_classes_share_one_threshold():
    labels, scores = predictions(8, records=200)
    result = search_ascent(labels, scores, min_positives=20)
    assert (
        result.shared == tuple(np.flatnonzero(labels.sum(axis=0) < 20).tolist())
        and len(result.shared) > 2
    )
    assert len(set(result.thresholds[list(result.shared)])) == 1
    assert len(set(result.thresholds)) > 10
    fewest, second = np.sort(labels.sum(axis=0))[:2].tolist()
    assert (
        search_ascent(labels, scores, min_positives=fewest + 1).shared == ()
    )  # one alone has no like
    assert (
        fewest < second and search_ascent(labels, scores, min_positives=second).shared == ()
    )  # "fewer than"


def test_shared_search_below_published_falls_back():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 24), bool)
    labels[np.arange(60), rng.integers(0, 24, 60)] = True
    low = (
        rng.random(24) < 0.5
    )  # the right thresholds differ: half of the classes score about 0.15, others 0.45
    scores = np.where(low, 0.05, 0.35) + 0.1 * labels + 0.01 * rng.random((60, 24))
    published = search_published(labels, scores)
    result = search_ascent(labels, scores, min_positives=1000)
    assert result.method == "ascent, rare classes as published" and result.shared == ()
    assert result.score == published.score
    np.testing.assert_array_equal(result.thresholds, published.thresholds)


def test_candidates_separate_every_pair_of_distinct_scores():
    one = np.float64(0.7)
    values = np.array([0.2, 0.3, 0.3, one, np.nextafter(one, 1)])
    candidates = candidate_thresholds(values)
    assert sorted(set((values[:, None] >= candidates).sum(0))) == [0, 1, 2, 4, 5]
    assert candidates[1] == pytest.approx(0.25) and candidates[0] == 0 and candidates[-1] > 1
    assert candidate_thresholds(np.array([-3.0, 4.0]))[[0, -1]] == pytest.approx([-3, 4])


def test_candidates_are_thinned_and_keep_the_highest():
    scores = np.random.default_rng(0).random(5000)
    every, kept = candidate_thresholds(scores, None), candidate_thresholds(scores, 512)
    assert len(every) == 5001 and len(kept) == 512
    assert np.all(np.diff(kept) > 0) and np.all(np.isin(kept, every))
    np.testing.assert_array_equal(kept[-256:], every[-256:])
    assert kept[0] == every[0] and np.diff(np.searchsorted(every, kept[:257])).max() <= 19
    with pytest.raises(ValueError, match="max_candidates is 1"):
        candidate_thresholds(scores, 1)


def test_a_score_at_the_threshold_is_output_in_every_precision():
    for kind in (np.float32, np.float64):
        assert apply_thresholds(np.array([[0.5, 0.25]], kind), [0.5, 0.3]).tolist() == [
            [True, False]
        ]
    labels, scores = predictions(9)
    single = scores.astype(np.float32)
    result = search_ascent(labels, single)
    assert result.score == challenge_score(labels, apply_thresholds(single, result.thresholds))


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.booleans())
def test_single_threshold_is_the_best_of_all(seed, ties):
    labels, scores = predictions(seed, ties=ties)
    result = search_single(labels, scores)
    every = [challenge_score(labels, scores >= t) for t in (*np.unique(scores), 2)]
    assert result.score == pytest.approx(max(every), abs=1e-12)
    assert len(set(result.thresholds)) == 1
    assert result.score == challenge_score(labels, result.decide(scores))


def test_no_search_decodes_by_expected_score(tmp_path):
    labels, scores = predictions(13, records=200)
    result = no_search(labels, scores)
    assert result.thresholds is None and result.score == challenge_score(
        labels, expected_outputs(scores)
    )
    save_thresholds(tmp_path / "t.json", result)
    loaded = load_thresholds(tmp_path / "t.json")
    assert (loaded.thresholds, loaded.score, loaded.n_records, loaded.method) == (
        None,
        result.score,
        200,
        result.method,
    )
    np.testing.assert_array_equal(loaded.decide(scores), expected_outputs(scores))
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["version"] == 2 and content["rule"] == "decoded by expected Challenge score"


def test_only_sinus_rhythm_gives_a_score_of_zero():
    labels = np.zeros((5, 24), bool)
    labels[:, CLASSES.index("426783006")] = True
    assert search_ascent(labels, np.random.default_rng(0).random((5, 24))).score == 0


def test_nan_scores_are_refused():
    labels, scores = predictions(10)
    scores[3, 1] = np.nan
    for search in (search_published, search_ascent):
        with pytest.raises(ECGError, match="record 3, class 1"):
            search(labels, scores)


def test_file_round_trip(tmp_path):
    labels, scores = predictions(11, records=200)
    result = search_ascent(labels, scores, min_positives=20)
    save_thresholds(tmp_path / "thresholds.json", result)
    loaded = load_thresholds(tmp_path / "thresholds.json")
    np.testing.assert_array_equal(loaded.thresholds, result.thresholds)
    assert (loaded.score, loaded.n_records, loaded.method, loaded.sweeps, loaded.shared) == (
        result.score,
        result.n_records,
        result.method,
        result.sweeps,
        result.shared,
    )
    entry = json.loads((tmp_path / "thresholds.json").read_text())["classes"][1]
    assert entry["code"] == "164889003" and entry["abbreviation"] == "AF"


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda content: content["classes"].reverse(), "Challenge's order"),
        (lambda content: content["classes"].pop(), "Challenge's 24"),
        (
            lambda content: content["classes"][3].update(threshold=float("nan")),
            "Brady is not a number",
        ),
        (lambda content: content["classes"][3].update(threshold="high"), "high"),
        (lambda content: content["classes"][3].pop("threshold"), "no 'threshold'"),
        (lambda content: content.update(version=7), "version is 7"),
        (lambda content: content.clear(), "no 'version'"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, reason):
    path = tmp_path / "thresholds.json"
    save_thresholds(path, module.Thresholds(np.full(24, 0.5), 0.1, 10, "published"))
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ECGError, match=reason) as error:
        load_thresholds(path)
    assert str(path) in str(error.value) and "threshold_search.py" in str(error.value)


def test_files_that_are_not_there_or_not_json_are_refused(tmp_path):
    with pytest.raises(ECGError, match="cannot be read"):
        load_thresholds(tmp_path / "thresholds.json")
    (tmp_path / "thresholds.json").write_text("[1, 2]")
    with pytest.raises(ECGError, match="not a usable"):
        load_thresholds(tmp_path / "thresholds.json")
    (tmp_path / "thresholds.json").write_text("0.5 0.5")
    with pytest.raises(ECGError, match="not a usable"):
        load_thresholds(tmp_path / "thresholds.json")


def test_figure_has_a_panel_for_each_class(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text)
    )
    labels, scores = predictions(12, records=200)
    plot_score_curves(
        labels,
        scores,
        search_ascent(labels, scores, min_positives=15),
        tmp_path / "curves.png",
        "fold 0",
    )
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [title.split(":")[0].strip("*") for title in titles] == list(ABBREVIATIONS)
    assert any("*" in title for title in titles)
