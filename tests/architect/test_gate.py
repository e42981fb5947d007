import dataclasses

import numpy as np
import pytest
from scipy import stats

from automem_jax.architect.gate import Gate, check_disjoint, judge
from automem_jax.architect.sequential import AlphaWealth
from automem_jax.config import ConfigError, GateConfig, SeedsConfig

SEEDS = list(range(40))


def wins(*indices, n=40):
    return {s: float(s in indices) for s in range(n)}


def progression(difficulty, noise, rng):
    """Achievements unlocked of 22: skewed, and the noisier the smaller `noise` is."""
    p = np.clip(difficulty, 1e-3, 1 - 1e-3)
    return np.round(22 * rng.beta(noise * p + 1e-3, noise * (1 - p) + 1e-3)) / 22


def gated(base, candidate, level, config=None):
    gate = Gate(range(len(base)), level, config)
    while gate.kept is None:
        gate.add(dict(enumerate(base)), dict(enumerate(candidate)))
    return gate


def test_a_clear_gain_is_kept_before_all_pairs_are_played():
    result = judge(wins(), wins(*range(20)), SEEDS)
    assert result.kept and result.n == 8 < result.most == 40
    assert (result.wins, result.losses, result.discordant, result.looks) == (8, 0, 8, 1)
    assert result.mean_difference == 1.0 and result.interval[0] > 0
    assert result.capital >= 1 / result.level


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
    result = judge(baseline, candidate, SEEDS)
    assert not result.kept and result.interval[0] <= 0


def test_a_loss_is_dropped_after_few_pairs():
    result = judge(wins(*range(20)), wins(), SEEDS)
    assert result.n == 8 and "+0.01 or more is ruled out" in result.reason


def test_what_has_little_chance_left_is_dropped_early():
    result = judge(wins(*range(0, 40, 3)), wins(*range(1, 40, 3)), SEEDS)
    assert result.n < 40 and "with a chance of" in result.reason


def test_a_gain_that_is_surely_too_small_ends_it():
    rng = np.random.default_rng(0)
    base = rng.random(400) * 0.5 + 0.2
    tiny = base + 0.001 * rng.standard_normal(400)
    gate = gated(base, tiny, 0.05, GateConfig(min_gain=0.1, futility=0.0))
    assert not gate.kept and gate.bet.n < 400 and "ruled out" in gate.reason


def test_a_handful_of_differing_pairs_cannot_decide():
    result = judge(wins(n=4), wins(0, 1, 2, 3, n=4), range(4))
    assert not result.kept and result.bootstrap == (1.0, 1.0)


def test_one_pair_cannot_decide():
    result = judge({0: 0.0}, {0: 1.0}, [0])
    assert not result.kept and result.to_data()["bootstrap"] is None


def test_a_template_that_gains_a_little_often_and_loses_much_seldom_is_not_kept():
    # A normal approximation keeps it as long as no loss has come.
    rng = np.random.default_rng(1)
    kept = 0
    for _ in range(200):
        loss = rng.random(64) < 0.1
        kept += gated(np.full(64, 0.5), np.where(loss, 0.05, 0.55), 0.05).kept
    assert kept / 200 <= 0.05


def test_failed_episodes_count_at_what_they_reached_and_missing_ones_at_nothing():
    played = {s: 0.5 for s in range(8)}
    assert judge({s: 0.25 for s in SEEDS}, played, SEEDS).candidate_mean < 0.5


def test_a_crashed_candidate_loses_whatever_it_scored():
    result = judge(wins(), wins(*range(40)), SEEDS, crashed="ValueError: bad slot")
    assert not result.kept and result.reason == "crashed: ValueError: bad slot"


def test_a_missing_baseline_seed_is_an_error():
    with pytest.raises(ValueError, match="gate seed 7"):
        judge(wins(n=7), wins(), SEEDS)
    with pytest.raises(ValueError, match="no gate seeds"):
        judge({}, {}, [])


def test_without_an_effect_a_family_of_revisions_is_seldom_kept():
    """1,000 families of 3 candidates without an effect, gated on the same parent's episodes."""
    rng = np.random.default_rng(67)
    wrong, pairs = 0, 0
    for _ in range(1000):
        difficulty = 0.85 * rng.beta(2, 4, 64)
        base = progression(difficulty, 2.1, rng)  # paired differences: sd 0.34
        wealth = AlphaWealth(0.05, 3)
        for _ in range(3):
            gate = gated(base, progression(difficulty, 2.1, rng), wealth.stake())
            wealth.settle(gate.kept, gate.bet.capital)
            pairs += gate.bet.n
            if gate.kept:
                wrong += 1
                break
    assert wrong / 1000 <= 0.05
    assert pairs / 1000 < 0.55 * 3 * 64


@pytest.mark.parametrize("noise", [5.0, 2.8, 2.1], ids=["sd 0.26", "sd 0.32", "sd 0.36"])
def test_a_true_gain_is_kept_with_fewer_pairs_than_a_fixed_number(noise):
    """Of a t-test that keeps as often; tools/gate_power.py has more of this."""
    rng = np.random.default_rng(3)
    gates, gaps, level = [], [], AlphaWealth(0.05, 3).stake()
    for _ in range(200):
        difficulty = 0.85 * rng.beta(2, 4, 64)
        base = progression(difficulty, noise, rng)
        candidate = progression(difficulty + 0.15, noise, rng)
        gates.append(gated(base, candidate, level))
        gaps.append(candidate - base)
    kept = np.mean([gate.kept for gate in gates])
    deviations = stats.norm.ppf(1 - level) + stats.norm.ppf(kept)
    fixed = (deviations * np.std(gaps) / np.mean(gaps)) ** 2
    assert kept >= 0.8
    assert np.mean([gate.bet.n for gate in gates]) < fixed < 64


def won_or_lost(base, shared):
    def draw(rng):
        luck = rng.random(64)
        own = np.where(rng.random(64) < shared, luck, rng.random(64))
        return (luck < base).astype(float), (own < base).astype(float)

    return draw


def drawn_from(values, chances):
    def draw(rng):
        d = rng.choice(values, p=chances, size=64)
        return np.maximum(0.0, -d), np.maximum(0.0, d)

    return draw


def fading_loss(rng):
    base = 0.4 + 0.4 * rng.random(64)
    return base, base + np.linspace(-0.2, 0.0, 64) + 0.3 * (rng.random(64) - 0.5)


@pytest.mark.parametrize(
    "draw",
    [
        won_or_lost(0.45, 0.5),
        won_or_lost(0.03, 0.0),
        drawn_from((1.0, -1.0), (0.5, 0.5)),
        drawn_from((-0.05, 0.45), (0.9, 0.1)),
        fading_loss,
    ],
    ids=["won", "seldom-won", "coin", "rare-gain", "drift"],
)
def test_awkward_episodes_without_an_effect_are_seldom_kept(draw):
    rng = np.random.default_rng(11)
    kept = sum(gated(*draw(rng), 0.05).kept for _ in range(300))
    assert kept / 300 <= 0.05


def test_near_the_verdict_batches_are_halved():
    gate, sizes, near = Gate(range(64), 0.05), [], []
    while gate.kept is None:
        batch = gate.next_batch()
        assert batch == gate.next_batch()
        sizes.append(len(batch))
        near.append(gate.bet.capital >= 0.2 / gate.bet.level)
        gate.add(dict.fromkeys(batch, 0.5), {seed: 0.5 + 0.5 * (seed % 2) for seed in batch})
    assert gate.kept and sizes == [4 if close else 8 for close in near]
    assert near[-1] and not near[0]


def test_seed_sets_must_be_disjoint_and_the_overlap_is_named():
    check_disjoint(SeedsConfig())
    overlapping = dataclasses.replace(SeedsConfig(), gate_start=10_060, gate=10)
    with pytest.raises(ConfigError, match=r"seeds.search and seeds.gate overlap in 10060..10063"):
        check_disjoint(overlapping)
    with pytest.raises(ConfigError, match=r"seeds.gate and seeds.heldout overlap in 20000..20000"):
        check_disjoint(dataclasses.replace(SeedsConfig(), heldout_start=20_000, heldout=1))
    check_disjoint(dataclasses.replace(SeedsConfig(), gate=0, gate_start=42))
