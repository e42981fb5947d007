"""How often the gate keeps what is better and what is not, and how many pairs it plays, on made-up episodes.

    python tools/gate_power.py --runs=1000

Beside it stands the one-sided t-test of the same level over all pairs. It knows more than it may: its
level holds for normal differences and large samples, that of the gate for whatever episodes give.
`same` is the number of pairs with which a t-test would keep as often as the gate does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy import stats

from automem_jax.architect.gate import Gate
from automem_jax.architect.sequential import AlphaWealth

CONFIDENCE, PAIRS, GAIN = 0.95, 64, 0.15
Pairs = tuple[np.ndarray, np.ndarray]  # progression of parent and candidate by seed
Scenario = Callable[[np.random.Generator, float], Pairs]


def graded(precision: float) -> Scenario:
    """Achievements of 22 unlocked; the smaller `precision` the noisier. Seeds differ in difficulty."""

    def draw(rng: np.random.Generator, gain: float) -> Pairs:
        base = 0.85 * rng.beta(2, 4, PAIRS)
        return _beta(base, precision, rng), _beta(base + gain, precision, rng)

    return draw


def _beta(mean: np.ndarray, precision: float, rng: np.random.Generator) -> np.ndarray:
    p = np.clip(mean, 1e-3, 1 - 1e-3)
    return np.round(22 * rng.beta(precision * p + 1e-3, precision * (1 - p) + 1e-3)) / 22


def won(base: float, shared: float) -> Scenario:
    """Won or lost; with the chance `shared` luck is the same for both."""

    def draw(rng: np.random.Generator, gain: float) -> Pairs:
        luck = rng.random(PAIRS)
        own = np.where(rng.random(PAIRS) < shared, luck, rng.random(PAIRS))
        return (luck < base).astype(float), (own < base + gain).astype(float)

    return draw


def differences(values: tuple[float, ...], chances: tuple[float, ...]) -> Scenario:
    """Differences drawn from a few values, on top of `gain`."""

    def draw(rng: np.random.Generator, gain: float) -> Pairs:
        d = np.clip(rng.choice(values, p=chances, size=PAIRS) + gain, -1.0, 1.0)
        return np.maximum(0.0, -d), np.maximum(0.0, d)

    return draw


def drifting(rng: np.random.Generator, gain: float) -> Pairs:
    """Ever less of a loss, none at the end."""
    base = 0.4 + 0.4 * rng.random(PAIRS)
    shift = np.linspace(-0.2, 0.0, PAIRS) + gain
    return base, np.clip(base + shift + 0.3 * (rng.random(PAIRS) - 0.5), 0.0, 1.0)


BETTER = {
    "graded, sd 0.26": graded(5.0),
    "graded, sd 0.32": graded(2.8),
    "graded, sd 0.36": graded(2.05),
    "graded, sd 0.40": graded(1.5),
    "won 0.45 -> 0.60, always the same luck": won(0.45, 1.0),
    "won 0.45 -> 0.60, 0.85 the same luck": won(0.45, 0.85),
    "won 0.45 -> 0.60, half the same luck": won(0.45, 0.5),
    "won 0.45 -> 0.60, independent": won(0.45, 0.0),
}
NO_BETTER = {
    "graded, sd 0.34": graded(2.1),
    "won 0.45, independent": won(0.45, 0.0),
    "won 0.45, half the same luck": won(0.45, 0.5),
    "won 0.9, half the same luck": won(0.9, 0.5),
    "won 0.03, independent": won(0.03, 0.0),
    "every pair won by one of the two": differences((1.0, -1.0), (0.5, 0.5)),
    "small gains, seldom a great loss": differences((0.05, -0.45), (0.9, 0.1)),
    "small losses, seldom a great gain": differences((-0.05, 0.45), (0.9, 0.1)),
    "small noise": differences((0.02, -0.02, 0.0), (0.3, 0.3, 0.4)),
    "a loss that fades": drifting,
}


def gated(pairs: Pairs, level: float) -> Gate:
    """The gate after its verdict."""
    base, candidate = (dict(enumerate(scores)) for scores in pairs)
    gate = Gate(range(PAIRS), level)
    while gate.kept is None:
        gate.add(base, candidate)
    return gate


def fixed(pairs: Pairs, level: float) -> bool:
    """Whether a t-test over all pairs keeps it."""
    d = pairs[1] - pairs[0]
    error = d.std(ddof=1) / np.sqrt(len(d))
    return bool(d.mean() > stats.t.ppf(1 - level, len(d) - 1) * error) if error else d.mean() > 0


def power(name: str, scenario: Scenario, gain: float, level: float, runs: int) -> None:
    rng = np.random.default_rng(2024)
    drawn = [scenario(rng, gain) for _ in range(runs)]
    gates = [gated(pairs, level) for pairs in drawn]
    kept, pairs = np.mean([g.kept for g in gates]), np.mean([g.bet.n for g in gates])
    every = np.concatenate([b - a for a, b in drawn])
    told = f"{name:40s} {every.std():6.3f} {100 * kept:6.1f} {pairs:6.1f}"
    told += f" {100 * np.mean([fixed(p, level) for p in drawn]):8.1f}"
    if gain:
        z = stats.norm.ppf(1 - level) + stats.norm.ppf(min(kept, 0.999))
        told += f" {(z * every.std() / every.mean()) ** 2:6.0f}"
    print(told, flush=True)


def family(name: str, scenario: Scenario, candidates: int, runs: int) -> None:
    """Candidates without an effect, one after another, until one is kept or all were tried."""
    rng = np.random.default_rng(7)
    wrong = pairs = 0
    for _ in range(runs):
        wealth = AlphaWealth(1 - CONFIDENCE, candidates)
        base, _ = scenario(rng, 0.0)
        for _ in range(candidates):
            other, candidate = scenario(rng, 0.0)
            if scenario in _SAME_PARENT:  # the parent's episodes are played once
                other = base
            gate = gated((other, candidate), wealth.stake())
            wealth.settle(gate.kept, gate.bet.capital)
            pairs += gate.bet.n
            if gate.kept:
                wrong += 1
                break
    print(f"{name:40s} {candidates:3d} {100 * wrong / runs:6.2f} {pairs / runs:7.1f}", flush=True)


# Their seeds are alike: one parent's scores go with any candidate's.
_SAME_PARENT = (NO_BETTER["won 0.45, independent"], NO_BETTER["won 0.03, independent"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    arguments = parser.parse_args()
    levels = {1: 1 - CONFIDENCE, 3: AlphaWealth(1 - CONFIDENCE, 3).stake()}
    for candidates, level in levels.items():
        print(f"\nfirst of {candidates} candidates, level {level:.3g}; a true gain of {GAIN:+}")
        print(f"{'':40s}     sd   kept  pairs  t-test %   same")
        for name, scenario in BETTER.items():
            power(name, scenario, GAIN, level, arguments.runs)
        print("no gain")
        for name, scenario in NO_BETTER.items():
            power(name, scenario, 0.0, level, arguments.runs)
    print("\nfamilies without an effect: candidates, % of families with a wrong keep, pairs")
    for candidates in (3, 9):
        for name, scenario in NO_BETTER.items():
            family(name, scenario, candidates, arguments.runs)


if __name__ == "__main__":
    main()
