import numpy as np
import pytest

from automem_jax.architect.budget import Budget, BudgetSpent, Limits, Spend
from automem_jax.architect.ledger import Ledger
from automem_jax.architect.sequential import AlphaWealth, MeanBet
from automem_jax.policies.prices import ModelUsage, Price


def test_capital_never_goes_negative_and_the_interval_covers():
    rng = np.random.default_rng(0)
    missed = 0
    for run in range(100):
        truth = [-0.2, 0.0, 0.1, 0.3][run % 4]
        d = np.clip(rng.normal(truth, 0.4, 60), -1, 1)
        bet = MeanBet(60, 0.05)
        for value in d:
            bet.add([value])
            assert bet.capital >= 0
        low, high = bet.interval()
        assert low <= high and (low > 0) == bet.positive
        missed += not low - 0.03 <= truth <= high + 0.03
    assert missed <= 10


def test_the_interval_narrows_around_the_mean():
    rng = np.random.default_rng(1)
    bet = MeanBet(200, 0.025)
    widths = []
    for chunk in np.split(np.clip(rng.normal(0.1, 0.3, 200), -1, 1), 4):
        bet.add(chunk)
        low, high = bet.interval()
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.2
    assert bet.positive and bet.chance(0.0) == 1.0


def test_more_pairs_than_announced_or_out_of_range_are_errors():
    bet = MeanBet(2, 0.05)
    with pytest.raises(ValueError, match="outside"):
        bet.add([1.5])
    with pytest.raises(ValueError, match="more than the 2 pairs"):
        bet.add([0.1, 0.1, 0.1])


def test_wealth_is_lost_by_what_the_bettors_lost_and_never_grows():
    wealth = AlphaWealth(0.05, 3)
    assert wealth.stake() == pytest.approx(0.03)
    wealth.settle(False, 0.25)
    assert wealth.wealth == pytest.approx(0.05 - 0.03 * 0.75)
    wealth.settle(True, 50.0)  # a keep returns its stake
    assert wealth.wealth == pytest.approx(0.0275)
    wealth.settle(False, 7.0)
    assert wealth.wealth == pytest.approx(0.0275) and wealth.stake() == wealth.wealth


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl")


def test_a_key_is_charged_once_and_a_new_process_knows_what_was_spent(ledger):
    prices = {"m": Price(input=3.0, output=15.0, cached_input=0.3, cache_write=3.0)}
    budget = Budget(Limits(dollars=1.0), ledger, prices)
    usage = ModelUsage(calls=1, prompt_tokens=1000, cached_tokens=400, completion_tokens=100)
    for _ in range(2):
        budget.charge_call("a/call1", "m", usage)
    expected = (600 * 3.0 + 400 * 0.3 + 100 * 15.0) / 1e6
    again = Budget(Limits(dollars=1.0), Ledger(ledger.path), prices)
    again.charge_call("a/call1", "m", usage)
    assert again.spent().dollars == budget.spent().dollars == pytest.approx(expected)
    assert again.spent().tokens == 1100 and again.spent().calls == 1


@pytest.mark.parametrize(
    ("limits", "estimate", "named"),
    [
        (Limits(dollars=0.01), Spend(dollars=0.02), "dollars"),
        (Limits(tokens=100), Spend(prompt_tokens=60, completion_tokens=50), "tokens"),
        (Limits(episodes=7), Spend(episodes=8), "episodes"),
        (Limits(wall_s=5.0), Spend(), "wall_s"),
    ],
)
def test_every_cap_stops_before_it_is_passed(ledger, limits, estimate, named):
    times = iter([0.0, 6.0, 6.0, 6.0])
    budget = Budget(limits, ledger, clock=lambda: next(times))
    with pytest.raises(BudgetSpent, match=f"architect.budget.{named}"):
        budget.require(estimate)


def test_seconds_of_earlier_processes_count(ledger, tmp_path):
    clock = tmp_path / "clock.json"
    times = iter([0.0, 8.0, 100.0, 101.0])
    Budget(Limits(), ledger, clock_file=clock, clock=lambda: next(times)).save_clock()
    later = Budget(Limits(), ledger, clock_file=clock, clock=lambda: next(times))
    assert later.spent().wall_s == 9.0
    assert not ledger.rows
