"""Episodes that this population search and the gepa package need for the same gain, on a made-up problem.

Templates are sets of edits out of EDITS; each edit adds to some seeds and takes from others, and an
episode's progression is the sum plus noise. Both searches ask the same proposer (a random edit more, and
seldom one less) and merge; both are told the same number of episodes. What counts is the true gain, over
all seeds and without noise, of the template each would hand out after so many episodes.

    pip install gepa; python tools/compare_search.py --runs=40
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import dataclass
from functools import partial

from automem_jax.architect.gate import Gate
from automem_jax.architect.pool import Member, Pool, lead
from automem_jax.architect.search import CLEAR_LEAD
from automem_jax.architect.sequential import AlphaWealth
from automem_jax.config import GateConfig

EDITS, SEARCH, GATE, NOISE, MINIBATCH = 24, 32, 64, 0.2, 8
LEVEL, PROPOSALS = 0.05, 60  # of the gate: chance of any wrong keep, and among how many
PARTS = 6
CHECKPOINTS = (200, 400, 600, 800, 1200, 1600)


class Problem:
    """What every edit does at every seed."""

    def __init__(self, seed: int):
        rng = random.Random(f"problem {seed}")
        self.seed = seed
        self.base = [rng.betavariate(2, 4) for _ in range(SEARCH + GATE)]
        self.effect = []
        for edit in range(EDITS):
            helps, size = rng.random(), 0.25 if edit < EDITS // 4 else 0.05
            self.effect.append(
                [size * (1 if rng.random() < helps * 0.5 + 0.3 else -0.6) for _ in self.base]
            )

    def true(self, edits: frozenset[int], seed: int) -> float:
        return min(1.0, max(0.0, self.base[seed] + sum(self.effect[e][seed] for e in edits)))

    def gain(self, edits: frozenset[int]) -> float:
        seeds = range(SEARCH + GATE)
        return statistics.fmean(self.true(edits, s) - self.true(frozenset(), s) for s in seeds)

    def episode(self, edits: frozenset[int], seed: int) -> float:
        """Noisy, and the same whenever it is played again."""
        rng = random.Random(f"{self.seed} {sorted(edits)} {seed}")
        return min(1.0, max(0.0, self.true(edits, seed) + rng.gauss(0.0, NOISE)))


def propose(edits: frozenset[int], rng: random.Random) -> frozenset[int]:
    if edits and rng.random() < 0.15:
        return edits - {rng.choice(sorted(edits))}
    return edits | {rng.choice([e for e in range(EDITS) if e not in edits])}


@dataclass(frozen=True)
class State:
    """Episodes so far, what is handed out, what leads on the search seeds, the level to judge it at."""

    episodes: int
    best: frozenset[int]
    leader: frozenset[int]
    level: float = LEVEL


class _Named:
    def __init__(self, name: str, edits: frozenset[int]):
        self.id, self.edits = name, edits


def ours(problem: Problem, clear_lead: float) -> list[State]:
    """The search as it is; with a clear lead of 0 nothing is gated."""
    rng, pool, episodes = random.Random(f"ours {problem.seed}"), Pool(problem.seed), SEARCH
    seeds = range(SEARCH)

    def play(edits: frozenset[int], few) -> dict[int, float]:
        return {s: problem.episode(edits, s) for s in few}

    start = _Named("s", frozenset())
    pool.add(Member(start, play(start.edits, seeds)))
    best, wealth, out = (
        start,
        AlphaWealth(LEVEL, PROPOSALS),
        [State(SEARCH, start.edits, start.edits)],
    )
    gate_played = {"s": set()}
    number = 0
    while episodes < CHECKPOINTS[-1] and number < 400:
        number += 1
        pair = pool.pair_to_merge(number)
        if pair:
            a, b, base = (m.template.edits for m in pair)
            edits = (a | b) - (base - a) - (base - b)
            parents, parent = (pair[0].template.id, pair[1].template.id), pair[0]
        else:
            parent = pool.draw_parent(number)
            edits, parents = propose(parent.template.edits, rng), (parent.template.id,)
        candidate = _Named(f"p{number}", edits)
        row = {"parents": parents, "pooled": False}
        few = pool.screen(list(seeds), MINIBATCH, number)
        scores = play(edits, few)
        episodes += len(few)
        if sum(scores.values()) > sum(parent.scores[s] for s in few):
            scores = play(edits, seeds)
            episodes += SEARCH - len(few)
            member = Member(candidate, scores, parents)
            row["pooled"] = True
            ahead = lead(member, pool.members[best.id])
            if ahead > 0 and ahead >= clear_lead:
                kept = True
                if clear_lead:
                    gate = Gate(range(SEARCH, SEARCH + GATE), wealth.stake(), GateConfig())
                    mine = gate_played.setdefault(candidate.id, set())
                    while gate.kept is None:
                        batch = gate.next_batch()
                        episodes += len(batch) + len(set(batch) - gate_played[best.id])
                        gate_played[best.id].update(batch)
                        mine.update(batch)
                        gate.add(play(best.edits, batch), play(edits, batch))
                    wealth.settle(gate.kept, gate.bet.capital)
                    kept = gate.kept
                best = candidate if kept else best
            pool.add(member)
        pool.tried(row)
        leader = max(pool.members.values(), key=lambda member: member.mean).template
        out.append(State(episodes, best.edits, leader.edits, wealth.wealth))
    return out


def gepa_run(problem: Problem) -> list[State]:
    """The same from gepa's engine: its own Pareto selection, merge, minibatch acceptance and budget."""
    import gepa
    from gepa.core.adapter import EvaluationBatch

    rng = random.Random(f"gepa {problem.seed}")

    def read(candidate: dict[str, str]) -> frozenset[int]:
        return frozenset(int(e) for text in candidate.values() for e in text.split())

    def write(edits: frozenset[int]) -> dict[str, str]:  # in parts, for its merge takes whole parts
        parts = {part: sorted(e for e in edits if e % PARTS == part) for part in range(PARTS)}
        return {f"part{part}": " ".join(map(str, held)) for part, held in parts.items()}

    class Adapter:
        episodes = 0
        propose_new_texts = None

        def evaluate(self, batch, candidate, capture_traces=False):
            scores = [problem.episode(read(candidate), s) for s in batch]
            Adapter.episodes += len(batch)
            return EvaluationBatch(scores, scores, scores if capture_traces else None)

        def make_reflective_dataset(self, candidate, evaluation, components):
            return {name: [{"score": s} for s in evaluation.scores] for name in components}

    out: list[State] = []

    class Watch:
        def on_valset_evaluated(self, event):
            if event["is_best_program"]:
                edits = read(event["candidate"])
                out.append(State(Adapter.episodes, edits, edits))

    def proposer(candidate, dataset, components):
        return write(propose(read(candidate), rng))

    class Silent:
        def log(self, message):
            pass

    adapter = Adapter()
    gepa.optimize(
        write(frozenset()), list(range(SEARCH)), list(range(SEARCH)), adapter,
        custom_candidate_proposer=proposer, reflection_minibatch_size=MINIBATCH, use_merge=True,
        max_merge_invocations=100, module_selector="all",
        max_metric_calls=CHECKPOINTS[-1], seed=problem.seed, skip_perfect_score=False,
        cache_evaluation=True, callbacks=[Watch()], logger=Silent(),
    )  # fmt: skip
    return out


def at(history: list[State], episodes: int) -> State:
    start = State(0, frozenset(), frozenset())
    return next((state for state in reversed(history) if state.episodes <= episodes), start)


def handed_out(problem: Problem, history: list[State], episodes: int) -> frozenset[int]:
    return at(history, episodes).best


def judged_last(
    problem: Problem, history: list[State], episodes: int, ungated: bool
) -> frozenset[int]:
    """What is handed out if the search ends so early that its leader can be judged on all gate seeds."""
    state = at(history, episodes - 2 * GATE)
    best = frozenset() if ungated else state.best
    if state.leader == best:
        return best
    gate = Gate(range(SEARCH, SEARCH + GATE), state.level, GateConfig())
    while gate.kept is None:
        batch = gate.next_batch()
        gate.add(*({s: problem.episode(edits, s) for s in batch} for edits in (best, state.leader)))
    return state.leader if gate.kept else best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--first", type=int, default=1000, help="number of the first problem")
    parser.add_argument("--leads", type=float, nargs="*", default=[CLEAR_LEAD])
    arguments = parser.parse_args()
    runs = arguments.runs
    searches = {"gepa": gepa_run, "ours": lambda p: ours(p, 0.0)} | {
        f"ours, judged on a lead of {clear:g}": lambda p, clear=clear: ours(p, clear)
        for clear in arguments.leads
    }
    problems = [Problem(arguments.first + run) for run in range(runs)]
    print(
        f"true gain of the template handed out, mean over {runs} problems; episodes:", *CHECKPOINTS
    )
    for name, search in searches.items():
        histories = [search(problem) for problem in problems]
        ungated = name in ("gepa", "ours")
        rows = {name: handed_out} if ungated else {}
        rows[f"{name}, and last"] = partial(judged_last, ungated=ungated)
        for told, choose in rows.items():
            pairs = list(zip(problems, histories, strict=True))
            gains = [
                statistics.fmean(p.gain(choose(p, h, n)) for p, h in pairs) for n in CHECKPOINTS
            ]
            print(f"{told:36s}", *(f"{gain:+.4f}" for gain in gains), flush=True)


if __name__ == "__main__":
    main()
