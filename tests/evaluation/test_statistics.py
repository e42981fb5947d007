import math

import numpy as np
import pytest

from automem_jax.evaluation.statistics import (
    bootstrap_interval,
    mean,
    paired_difference,
    standard_error,
    summarise_scores,
)


def test_mean_and_standard_error_follow_their_formulas():
    scores = [0.0, 0.5, 1.0, 1.0]
    spread = sum((x - 0.625) ** 2 for x in scores) / 3
    assert mean(scores) == 0.625
    assert standard_error(scores) == pytest.approx(math.sqrt(spread) / 2)


def test_one_score_has_a_mean_but_no_known_spread():
    summary = summarise_scores([0.3])
    assert (summary.n, summary.mean) == (1, 0.3)
    assert summary.standard_error is None and summary.interval is None


def test_equal_scores_have_zero_spread():
    summary = summarise_scores([0.1] * 7)
    assert summary.standard_error == pytest.approx(0.0, abs=1e-12)
    assert summary.interval == (0.1, 0.1)


@pytest.mark.parametrize("scores", [[], [float("nan"), 1.0], [[1.0], [2.0]]])
def test_what_is_no_list_of_scores_is_refused(scores):
    with pytest.raises(ValueError):
        summarise_scores(scores)


@pytest.mark.parametrize("settings", [{"confidence": 1.0}, {"confidence": 0.0}, {"samples": 0}])
def test_bootstrap_settings_are_checked(settings):
    with pytest.raises(ValueError, match="confidence|samples"):
        bootstrap_interval([0.0, 1.0], **settings)


def test_the_interval_repeats_for_a_seed_and_moves_with_it():
    scores = np.random.default_rng(3).random(40)
    first = bootstrap_interval(scores, seed=1, samples=500)
    assert first == bootstrap_interval(scores, seed=1, samples=500)
    assert first != bootstrap_interval(scores, seed=2, samples=500)


def test_the_interval_agrees_with_the_normal_one_on_many_scores():
    scores = np.random.default_rng(0).normal(0.4, 0.2, size=1000)
    low, high = bootstrap_interval(scores, samples=4000)
    half = 1.96 * standard_error(scores)
    assert low == pytest.approx(scores.mean() - half, abs=0.0015)
    assert high == pytest.approx(scores.mean() + half, abs=0.0015)


def test_the_interval_is_wider_at_higher_confidence():
    scores = np.random.default_rng(0).random(30)
    narrow, wide = (bootstrap_interval(scores, confidence=c) for c in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_chunked_drawing_gives_what_one_draw_gives(monkeypatch):
    scores = np.random.default_rng(0).random(10)
    whole = bootstrap_interval(scores, samples=300)
    monkeypatch.setattr("automem_jax.evaluation.statistics._CHUNK_INDICES", 1000)
    assert bootstrap_interval(scores, samples=300) == whole


def test_paired_difference_uses_shared_seeds_only_and_counts_discordant_pairs():
    a = {1: 1.0, 2: 0.0, 3: 1.0, 4: 0.5, 99: 1.0}
    b = {4: 0.5, 3: 0.0, 2: 1.0, 1: 0.0, 55: 1.0}
    difference = paired_difference(a, b)
    assert (difference.n, difference.mean) == (4, 0.25)
    assert (difference.wins, difference.losses, difference.ties) == (2, 1, 1)
    assert difference.discordant == 3
    assert difference.standard_error == pytest.approx(np.std([1, -1, 1, 0], ddof=1) / 2)


def test_pairing_does_not_depend_on_the_order_of_reading():
    a = {seed: float(seed % 3) for seed in range(30)}
    b = {seed: float(seed % 2) for seed in range(30)}
    backwards = dict(reversed(list(a.items())))
    assert paired_difference(a, b, samples=200) == paired_difference(backwards, b, samples=200)


def test_pairing_removes_what_seeds_have_in_common():
    base = dict(enumerate(np.random.default_rng(0).random(50)))
    better = {seed: score + 0.05 for seed, score in base.items()}
    low, _ = paired_difference(better, base).interval
    assert low == pytest.approx(0.05)


def test_arms_without_a_shared_seed_cannot_be_compared():
    with pytest.raises(ValueError, match="share no seed"):
        paired_difference({1: 0.0}, {2: 0.0})
