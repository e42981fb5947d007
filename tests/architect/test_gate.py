import dataclasses

import numpy as np
import pytest

from automem_jax.architect.gate import check_disjoint, judge, least_discordant
from automem_jax.config import ConfigError, SeedsConfig

SEEDS = list(range(40))


def wins(*indices, n=40):
    return {s: float(s in indices) for s in range(n)}


def test_a_clear_gain_is_kept_with_its_figures():
    result = judge(wins(), wins(*range(10)), SEEDS, samples=500)
    assert result.kept
    assert (result.n, result.wins, result.losses, result.discordant) == (40, 10, 0, 10)
    assert result.mean_difference == 0.25
    assert result.interval[0] > 0


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (wins(), wins()),
        (wins(*range(10)), wins()),
        (wins(*range(10)), wins(*range(5, 15))),
        (wins(*range(6)), wins(*range(4, 14))),  # better on average, but not beyond doubt
    ],
    ids=["same", "worse", "as-good", "doubtful"],
)
def test_what_is_not_clearly_better_is_dropped(baseline, candidate):
    result = judge(baseline, candidate, SEEDS, samples=500)
    assert not result.kept
    assert "not above 0" in result.reason


def test_a_handful_of_differing_pairs_cannot_decide():
    # The bootstrap alone would keep this: every resample of four equal gains is a gain.
    result = judge(wins(n=4), wins(0, 1, 2, 3, n=4), range(4), samples=200)
    assert result.interval == (1.0, 1.0)
    assert not result.kept and "6 are needed" in result.reason


def test_one_pair_cannot_decide():
    result = judge({0: 0.0}, {0: 1.0}, [0])
    assert not result.kept and result.interval is None
    assert result.to_data()["interval"] is None


def test_least_discordant_is_where_a_coin_could_no_longer_do_it():
    assert [least_discordant(c) for c in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]


def test_seeds_without_a_candidate_score_count_zero():
    result = judge(wins(*range(40)), wins(*range(40), n=30), SEEDS, samples=200)
    assert result.losses == 10 and not result.kept


def test_a_crashed_candidate_loses_whatever_it_scored():
    result = judge(wins(), wins(*range(40)), SEEDS, samples=200, crashed="ValueError: bad slot")
    assert not result.kept and result.reason == "crashed: ValueError: bad slot"


def test_a_missing_baseline_seed_is_an_error():
    with pytest.raises(ValueError, match="gate seed 39"):
        judge(wins(n=39), wins(), SEEDS)
    with pytest.raises(ValueError, match="no gate seeds"):
        judge({}, {}, [])


def test_without_an_effect_few_candidates_are_kept():
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(400):
        a, b = (rng.random((2, 40)) < 0.5).astype(float)
        kept += judge(dict(enumerate(a)), dict(enumerate(b)), SEEDS, samples=300).kept
    assert kept / 400 <= 0.05  # 2.5 % expected of a two-sided 95 % interval


def test_seed_sets_must_be_disjoint_and_the_overlap_is_named():
    check_disjoint(SeedsConfig())
    overlapping = dataclasses.replace(SeedsConfig(), gate_start=10_060, gate=10)
    with pytest.raises(ConfigError, match=r"seeds.search and seeds.gate overlap in 10060..10063"):
        check_disjoint(overlapping)
    with pytest.raises(ConfigError, match=r"seeds.gate and seeds.heldout overlap in 20000..20000"):
        check_disjoint(dataclasses.replace(SeedsConfig(), heldout_start=20_000, heldout=1))
    check_disjoint(dataclasses.replace(SeedsConfig(), gate=0, gate_start=42))
