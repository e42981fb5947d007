"""The exact worth of a decision in the corridor game: every way the episode can go on, weighed."""

from __future__ import annotations

import copy

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.grammar import parse
from automem_jax.agent.template import load_template
from automem_jax.rollout.engine import RolloutSpec
from automem_jax.testing import ToyEnv
from automem_jax.text.messages import Completion, Request, SamplingSettings

OTHER = {"left": "right", "right": "left"}
TRIVIA = ("a long corridor", "bare walls")


def spec(**changes) -> RolloutSpec:
    """How the game is played."""
    fields = {
        "env_name": "toy",
        "task": "toy",
        "template": load_template("memento_v0"),
        "arm": "base",
        "run_seed": 3,
        "sampling": SamplingSettings(max_tokens=8),
        "two_model": False,
        "behaviour_hash": "0" * 16,
    }
    return RolloutSpec(**(fields | changes))


def choices(request: Request) -> list[tuple[str, float]]:
    """A player of mixed habits: what it may answer, with probabilities."""
    told = "\n".join(m.content for m in request.messages)
    first = request.messages[1].content if len(request.messages) > 1 else told
    key = request.key
    if key.phase == "log":
        if key.turn > 0:
            return [("<|DONE|>", 1.0)]
        if "a sign says" in told:
            side = told.split("a sign says ")[1].split()[0]
            return [
                (_note(side), 0.4),
                (_note(OTHER[side]), 0.1),
                (_note(TRIVIA[0]), 0.25),
                ("<|DONE|>", 0.25),
            ]
        return [(_note(TRIVIA[1]), 0.2), ("<|DONE|>", 0.8)]
    if "the fork" in first:
        if key.turn == 0:
            return [("<|READ|>notes<|END|>", 0.6), (_act("left"), 0.2), (_act("right"), 0.2)]
        noted = [side for side in ("left", "right") if f"\n{side}" in told]
        if len(noted) == 1:
            return [(_act(noted[0]), 0.9), (_act(OTHER[noted[0]]), 0.1)]
        return [(_act("left"), 0.5), (_act("right"), 0.5)]
    if key.turn > 0:
        return [(_act("forward"), 1.0)]
    if key.step == 0:
        return [(_act("wait"), 1.0)]
    return [(_act("forward"), 0.8), ("<|READ|>notes<|END|>", 0.2)]


def _note(text: str) -> str:
    return f"<|APPEND|>notes|{text}<|END|><|DONE|>"


def _act(name: str) -> str:
    return f"<|ACTION|>{name}<|END|>"


class Truth:
    """Exact expected progressions, by dynamic programming over memory's content and what is seen."""

    def __init__(self, env: ToyEnv) -> None:
        self._env = env
        self._known: dict[tuple, float] = {}

    def worth(self, agent: Agent, snapshot, step, phase: str, turn: int) -> float:
        """As was less dropped, from `agent` and `snapshot` before the step of a trace."""
        return self._side(agent.fork(), snapshot, step, phase, turn, False) - self._side(
            agent.fork(), snapshot, step, phase, turn, True
        )

    def _side(self, agent: Agent, snapshot, step, phase: str, turn: int, dropped: bool) -> float:
        out = agent.observe(self._env.restore(0, snapshot))
        for record in step.phases:
            for one in record.turns:
                decided = (record.phase, one.index) == (phase, turn)
                reads = [o for o in parse(one.completion.text).operations if o.op == "READ"]
                if not (decided and dropped):
                    out = agent.receive(one.completion)
                elif reads:  # what it would have been told by empty notes
                    real = agent.store.snapshot()["notes"]
                    agent.store.set_lines("notes", "")
                    out = agent.receive(one.completion)
                    agent.store.set_lines("notes", "\n".join(text for _, text in real))
                else:
                    before = {number for number, _ in agent.store.lines("notes")}
                    out = agent.receive(one.completion)
                    after = {number for number, _ in agent.store.lines("notes")}
                    agent.store.hide(after - before)
                if decided:
                    return self._value(agent, snapshot, out)
        raise AssertionError("no such turn")

    def _value(self, agent: Agent, snapshot, out: Request | Decision) -> float:
        if isinstance(out, Request):
            total = 0.0
            for text, probability in choices(out):
                other = copy.deepcopy(agent, {id(agent.template): agent.template})
                total += probability * self._value(other, snapshot, other.receive(Completion(text)))
            return total
        self._env.restore(0, snapshot)
        percept = self._env.step({0: out.action})[0]
        if percept.done:
            return percept.progression
        lines = tuple(text for _, text in agent.store.lines("notes"))
        key = self._env.snapshot(0)[0] % 2, percept.step, percept.long_text, out.action, lines
        if key not in self._known:
            reached = self._env.snapshot(0)
            other = agent.fork()
            self._known[key] = self._value(other, reached, other.observe(percept))
        return self._known[key]
