"""Testing by betting: is a mean above m, asked again after every pair, at a level that holds throughout.

A bettor starts with capital 1 and stakes a share of it on every paired difference d in [-1, 1] being
above m. Where the true mean is at most m the capital is a nonnegative supermartingale whatever the
stakes are, as long as each is chosen before its pair is seen; so it ever reaches 1 / level with
probability at most `level` (Ville). No normality, no fixed sample, any stopping rule. All m whose
bettor never got there form a confidence sequence. (Waudby-Smith & Ramdas, "Estimating means of bounded
random variables by betting", JRSS-B 2024.)

What is ours is the stake. There is a known most number of pairs, so the bettor does not maximise
growth but the chance of being there in time, and would rather be there early. With r pairs left,
capital K and a standard deviation s it stakes what keeps K on the price of a bet that pays as soon as a
sum of normal increments first touches a line:

    p = K level = 2 (1 - Phi(c)),   stake = 2 phi(c) / (p s sqrt(r))

(c is how many standard deviations of what is left the line lies away; the delta of a one-touch option.)
Against normal increments it wins nearly as surely as the best test of a fixed number of pairs (Kulldorff
1993; Browne 1999), and needs fewer of them; and it never stakes less than GROWTH of what would make K
grow fastest, so that a clear case ends early. Whether s is right bears on the chance of winning, never
on the level. It is overestimated at first, for a stake too high loses more than one too low.

Axis legend: M means on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

MAX_STAKE = 0.99  # of what the worst difference could lose
PRIOR_SD = 0.4  # of a paired difference, until the data tell
PRIOR_PAIRS = 8  # that PRIOR_SD is worth
GROWTH = 0.6  # of the growth-optimal stake: the least that is staked
LEAST_MEAN = 0.1  # gain that a growth bet reckons with before the data tell
LEAST_SHARE = 0.3  # of the wealth that a test gets, however many candidates may come
_GRID = 401
_MEANS = np.linspace(-1.0, 1.0, _GRID)  # M


class MeanBet:
    """Bets on a mean difference lying above 0, and against its reaching `least`.

    Attributes:
      n: pairs seen. total, squares: sums of d and d^2.

    Args:
      pairs: most pairs there will be.
      level: of each direction.
      least: mean that `small` speaks of.
    """

    def __init__(self, pairs: int, level: float, least: float = 0.0):
        if pairs < 1 or not 0.0 < level < 1.0:
            raise ValueError(f"pairs is {pairs}, level {level}; need at least 1, and 0 < level < 1")
        self.pairs, self.level = pairs, level
        self.n, self.total, self.squares = 0, 0.0, 0.0
        self._ahead: list[tuple[float, int, float, float]] = []  # what the grid has yet to see
        self._grid = _Bettors(_MEANS, _MEANS, pairs, level)
        self._bettors = _Bettors(np.array([0.0]), np.array([least]), pairs, level)

    def add(self, differences: Iterable[float]) -> None:
        """Takes paired differences in the order they were asked for.

        Raises:
          ValueError: one lies outside [-1, 1], or there are more than `pairs`.
        """
        for d in map(float, differences):
            if not -1.0 <= d <= 1.0:
                raise ValueError(f"difference {d} lies outside [-1, 1]")
            if self.n >= self.pairs:
                raise ValueError(f"more than the {self.pairs} pairs that were announced")
            pair = (d, self.n, self.total, self.sd)
            self._bettors.bet(*pair)
            self._ahead.append(pair)
            self.n += 1
            self.total += d
            self.squares += d * d

    @property
    def mean(self) -> float:
        """Mean difference so far; 0 before the first pair."""
        return self.total / self.n if self.n else 0.0

    @property
    def sd(self) -> float:
        """Standard deviation of a difference, from the pairs so far and the prior."""
        return _spread(self.n, self.total, self.squares)

    @property
    def capital(self) -> float:
        """Of the bettor against a mean of at most 0."""
        return float(self._bettors.capital[0])

    @property
    def positive(self) -> bool:
        """Whether a mean of at most 0 is ruled out at this level."""
        return bool(self._bettors.won[0])

    @property
    def small(self) -> bool:
        """Whether a mean of `least` or more is ruled out at this level."""
        return bool(self._bettors.won[1])

    def interval(self) -> tuple[float, float]:
        """Least and greatest mean not ruled out so far, each end at `level`, on a grid of 0.005.

        The lower end lies above 0 exactly where `positive`.
        """
        for pair in self._ahead:
            self._grid.bet(*pair)
        self._ahead.clear()
        above, below = self._grid.won[:_GRID], self._grid.won[_GRID:]
        low, high = _first_standing(above), _GRID - 1 - _first_standing(below[::-1])
        middle = _GRID // 2
        if self.positive:
            # With 0 every mean below it is ruled out: a mean of at most -m is a mean of at most 0.
            low = middle + max(1, _first_standing(above[middle:]))
        else:
            low = min(low, middle)
        return float(_MEANS[low]), float(_MEANS[max(low, high)])

    def chance(self, mean: float) -> float:
        """About the chance that `positive` becomes true in the pairs left, were `mean` the true one."""
        if self.positive:
            return 1.0
        left = self.pairs - self.n
        if left <= 0:
            return 0.0
        # A drifting sum touches a line c deviations away: reflection principle.
        c = float(_deviations_away(self.capital * self.level))
        drift = mean * math.sqrt(left) / self.sd
        later = (
            log_ndtr(-c - drift) + 2.0 * c * drift
        )  # was below the line at the end, but touched it
        return min(1.0, float(ndtr(drift - c)) + math.exp(min(0.0, float(later))))


class _Bettors:
    """Bettors side by side: one a mean in `above` on the true mean lying above it, then one a mean in
    `below` on its lying below."""

    def __init__(self, above: np.ndarray, below: np.ndarray, pairs: int, level: float):
        self.pairs, self.level = pairs, level
        self._sign = np.repeat([1.0, -1.0], [len(above), len(below)])
        self._means = self._sign * np.concatenate([above, below])  # M, of sign * d
        self._most = MAX_STAKE / np.maximum(1.0 + self._means, 1e-2)  # the worst d - m is -1 - m
        self.capital = np.ones_like(self._means)  # M
        self.won = np.zeros(self._means.shape, bool)  # M, capital once reached 1 / level

    def bet(self, d: float, n: int, total: float, sd: float) -> None:
        price = _bounded(self.capital * self.level)
        c = _deviations_away(price)
        delta = 2.0 * np.exp(-0.5 * c * c) / (sd * math.sqrt((self.pairs - n) * 2.0 * math.pi))
        gain = np.maximum(self._sign * (total / (n + 1)) - self._means, LEAST_MEAN)
        stake = np.maximum(delta / price, GROWTH * gain / (sd * sd + gain * gain))
        stake = np.where(self.won, 0.0, np.minimum(stake, self._most))
        self.capital = self.capital * (1.0 + stake * (self._sign * d - self._means))
        self.won |= self.capital >= 1.0 / self.level


def _bounded(price: Any) -> Any:
    return np.clip(price, 1e-12, 1.0 - 1e-9)


def _deviations_away(price: Any) -> Any:
    """Of a line that a driftless sum touches with the chance `price`."""
    return -ndtri(_bounded(price) / 2.0)


def _spread(n: int, total: float, squares: float) -> float:
    count = n + PRIOR_PAIRS
    return math.sqrt((PRIOR_PAIRS * PRIOR_SD**2 + squares - total**2 / count) / count)


def _first_standing(won: np.ndarray) -> int:
    """Index of the first mean not ruled out; the last index where all are."""
    standing = np.flatnonzero(~won)
    return int(standing[0]) if standing.size else len(won) - 1


class AlphaWealth:
    """Shares the chance of a wrong keep over a known number of candidates.

    The wealth starts at the family's level. Each candidate is tested at a stake taken from it. A kept
    candidate returns its stake, for a right keep errs in nothing. A dropped one returns what its
    bettor had left of it, at most the stake: what the bettor lost paid for its chance to err, and the
    rest paid for none. So the chances of a wrong keep telescope to at most the first wealth. That is
    exact where the candidates' pairs are independent; candidates gated on the same parent's episodes
    are not quite, and the simulation in the tests has them share those.

    Args:
      level: chance of keeping any candidate without an effect, at most.
      candidates: most candidates there will be.
    """

    def __init__(self, level: float, candidates: int):
        if candidates < 1 or not 0.0 < level < 1.0:
            raise ValueError(
                f"level is {level}, candidates {candidates}; need 0 < level < 1 and at least 1"
            )
        self.wealth, self.left = level, candidates

    def stake(self) -> float:
        """The level of the next candidate's test: all for the last one, the more the fewer are left."""
        return self.wealth * min(1.0, max(LEAST_SHARE, 3.0 / (max(1, self.left) + 2.0)))

    def settle(self, kept: bool, capital: float) -> None:
        """Takes the outcome of the test at `stake()`: its bettor's last capital."""
        if not kept:
            self.wealth -= self.stake() * (1.0 - min(1.0, max(0.0, capital)))
        self.left = max(1, self.left - 1)

    def skip(self) -> None:
        """A candidate that was not tested: its share stays."""
        self.left = max(1, self.left - 1)
