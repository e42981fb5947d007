"""What one memory decision changed: the same episode gone on from it with and without it.

An episode is played again from its trace up to a decision; there environment and agent are copied. The
turn is then executed twice. "As was": as recorded. Altered, one of:
  drop      its operations run on a scratch copy of memory, without the lines that its reads returned,
            and the copy is thrown away: its writes never happened and its reads found nothing. The
            words stay in the conversation, which ends with the phase.
  resample  the policy is asked again: the decision against what else it would have done.
  consult   a turn without a read is answered, as if by the model, with one of a file.
Both then go on under the policy, `continuations` times. The i-th continuation of both draws with the same
random numbers (requests carry the same keys), so what the decision does not touch cancels out. The
difference of their progressions is an unbiased estimate of what the decision was worth.

Finished decisions go to a JSONL file at once and are never measured twice.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.budget import CountTokens
from automem_jax.agent.grammar import format_operation
from automem_jax.agent.memory import MemoryStore, Result
from automem_jax.agent.template import operations_of, template_hash
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.policies.base import Policy
from automem_jax.rollout.engine import PolicyDown, RolloutSpec
from automem_jax.text.messages import Completion, Request
from automem_jax.traces.measured import MeasuredTable, settings_hash
from automem_jax.traces.schema import Step, Trace, TraceError
from automem_jax.traces.store import read_trace

ALTERATIONS = ("drop", "resample", "consult")


@dataclass(frozen=True)
class BranchPoint:
    """One turn of a trace, and how it is altered (one of ALTERATIONS)."""

    trace: str
    t: int
    phase: str
    turn: int
    alteration: str = "drop"


@dataclass(frozen=True)
class BranchSettings:
    """How a decision is measured.

    Attributes:
      continuations: how often each side goes on.
      horizon: steps after which a continuation is judged by the progression it has; 0: at its end.
      max_calls: model calls after which no further decision is begun; 0: no limit.
    """

    continuations: int = 8
    horizon: int = 0
    max_calls: int = 0


@dataclass
class BranchResult:
    """The table's rows for the points asked for, in their order, and what was left undone.

    A row: episode, seed, t, phase, turn, sha256 (of the reply), alteration, as_was and altered (final
    progressions, one a continuation; pairs that broke are left out and counted in `broken`); of resample
    also `answers`, what the policy said instead, one a continuation.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    new: int = 0
    unmeasured: int = 0
    calls: int = 0
    steps: int = 0


def measure(
    env: TextEnv,
    policy: Policy,
    spec: RolloutSpec,
    points: Sequence[BranchPoint],
    table: str | Path,
    settings: BranchSettings | None = None,
    *,
    count_tokens: CountTokens | None = None,
    context_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BranchResult:
    """Measures decisions, the first ones first, and appends a row each to `table`.

    Args:
      env, policy, spec: as the traces were made.
      points: best first: the budget is spent on them in this order.
      count_tokens, context_tokens: as the traces were made; see Agent.
      progress: called with decisions measured and decisions to measure.

    Raises:
      TraceError: a trace was made with another template, or does not play again as it was recorded.
      PolicyDown: the model's server answers nothing.
      ValueError: `table` was made with other settings, memory is carried between episodes, or there is
        none.
    """
    settings = settings or BranchSettings()
    if spec.kind != "memory":
        raise ValueError(f"agent.kind {spec.kind!r} makes no memory decisions; use 'memory'")
    if spec.carry_memory:
        raise ValueError("counterfactuals need episodes of their own; set agent.carry_memory=False")
    for point in points:
        if point.alteration not in ALTERATIONS:
            raise ValueError(f"{point}: alteration must be one of {', '.join(ALTERATIONS)}")
    known = MeasuredTable(table, table_settings(policy, spec, settings), ("alteration",))
    wanted = list(dict.fromkeys(points))
    todo = [point for point in wanted if _name(point) not in known]
    run = _Branching(env, policy, spec, settings, count_tokens, context_tokens)
    result = BranchResult()
    for row in run.measure(todo):
        known.append(row)
        result.new += 1
        if progress is not None:
            progress(result.new, len(todo))
    result.rows = [known[name] for name in map(_name, wanted) if name in known]
    result.unmeasured = len(wanted) - len(result.rows)
    result.calls, result.steps = run.calls, run.steps
    return result


def table_name(policy: Policy, spec: RolloutSpec, settings: BranchSettings) -> str:
    """A file name for a table that differs where anything differs that its figures depend on."""
    return f"counterfactual-{settings_hash(table_settings(policy, spec, settings))}.jsonl"


def table_settings(policy: Policy, spec: RolloutSpec, settings: BranchSettings) -> dict[str, Any]:
    """What a table's figures depend on besides the traces."""
    described = policy.describe()
    return {
        "task": spec.task,
        "template": template_hash(spec.template),
        "policy": {k: v for k, v in described.items() if k not in ("base_url", "slots")},
        "two_model": spec.two_model,
        "run_seed": spec.run_seed,
        "sampling": dataclasses.asdict(spec.sampling) | {"stop": list(spec.sampling.stop)},
        "continuations": settings.continuations,
        "horizon": settings.horizon,
    }


def _name(point: BranchPoint) -> tuple:
    return Path(point.trace).stem, point.t, point.phase, point.turn, point.alteration


@dataclass
class _Fork:
    """An episode before a step that holds decisions to measure."""

    step: Step
    agent: Agent
    snapshot: Any
    seed: int
    trace: str


@dataclass
class _Measured:
    """A decision under way: final progressions by (side, number), None where one broke; and what was said
    in its place, by number, where the policy was asked again."""

    point: BranchPoint
    fork: _Fork
    values: dict[tuple[str, int], float | None] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    ended: int = 0


@dataclass
class _Continuation:
    """One side of one pair, running in a slot."""

    measured: _Measured
    side: str
    number: int
    agent: Agent
    out: Request | Decision | None = None
    broken: bool = False


class _Branching:
    """Replays episodes in groups of as many as the environment has slots, then plays their branches."""

    def __init__(
        self,
        env: TextEnv,
        policy: Policy,
        spec: RolloutSpec,
        settings: BranchSettings,
        count_tokens: CountTokens | None,
        context_tokens: int | None,
    ) -> None:
        self.env, self.policy, self.spec, self.settings = env, policy, spec, settings
        self.count_tokens, self.context_tokens = count_tokens, context_tokens
        self.calls = self.steps = 0

    def measure(self, points: Sequence[BranchPoint]) -> Iterator[dict[str, Any]]:
        """Rows as they get done."""
        for group in _groups(points, self.env.num_slots):
            if self._is_spent():
                return
            yield from self._play(group, self._replay(group))

    def _is_spent(self) -> bool:
        return bool(self.settings.max_calls) and self.calls >= self.settings.max_calls

    # --- up to the decisions --------------------------------------------------------------------

    def _replay(self, group: Sequence[BranchPoint]) -> dict[tuple[str, int], _Fork]:
        """Plays the group's episodes again, side by side, and copies them where they branch."""
        wanted: dict[str, set[int]] = {}
        for point in group:
            wanted.setdefault(point.trace, set()).add(point.t)
        traces = {path: read_trace(path) for path in wanted}
        for path, trace in traces.items():
            self._check(path, trace, max(wanted[path]))
        slots = dict(enumerate(traces))
        seeds = [traces[path].header["seed"] for path in slots.values()]
        percepts = self.env.reset(list(slots), seeds)
        agents = {slot: self._agent(seed) for slot, seed in zip(slots, seeds, strict=True)}
        forks: dict[tuple[str, int], _Fork] = {}
        t = 0
        while slots:
            actions: dict[int, str] = {}
            for slot, path in list(slots.items()):
                step = traces[path].steps[t]
                self._compare(path, step, percepts[slot])
                if t in wanted[path]:
                    forks[path, t] = _Fork(
                        step,
                        agents[slot].fork(),
                        self.env.snapshot(slot),
                        traces[path].header["seed"],
                        path,
                    )
                if t == max(wanted[path]):
                    del slots[slot]
                    continue
                actions[slot] = self._repeat(path, agents[slot], percepts[slot], step)
            if actions:
                percepts = self.env.step(actions)
            t += 1
        return forks

    def _check(self, path: str, trace: Trace, last: int) -> None:
        header, spec = trace.header, self.spec
        for name, found, expected in (
            ("template", (header.get("template") or {}).get("hash"), template_hash(spec.template)),
            ("task", header.get("task"), spec.task),
            ("two_model", header.get("two_model"), spec.two_model),
        ):
            if found != expected:
                raise TraceError(
                    f"{path}: this trace was made with {name} = {found!r}, now it is {expected!r}; "
                    "measure with what the traces were made with"
                )
        if last >= len(trace.steps):
            raise TraceError(f"{path}: has {len(trace.steps)} steps, asked for step {last}")

    def _agent(self, seed: int) -> Agent:
        return self.spec.agent(
            seed,
            self.env.instructions,
            count_tokens=self.count_tokens,
            context_tokens=self.context_tokens,
        )

    def _compare(self, path: str, step: Step, percept: Percept) -> None:
        if percept.done or percept.long_text != step.percept["long_text"]:
            raise TraceError(
                f"{path}: playing it again shows another observation at step {step.t}; the "
                "environment or its version is not the one that the trace was made with"
            )

    def _repeat(self, path: str, agent: Agent, percept: Percept, step: Step) -> str:
        """The recorded step once more."""
        out: Request | Decision = agent.observe(percept)
        completions = [turn.completion for phase in step.phases for turn in phase.turns]
        for completion in completions:
            if isinstance(out, Decision):
                break
            out = agent.receive(completion)
        if not isinstance(out, Decision) or out.action != step.action:
            raise TraceError(
                f"{path}: the agent does not repeat step {step.t}; its code is not the one that the "
                "trace was made with"
            )
        return out.action

    # --- from the decisions on ------------------------------------------------------------------

    def _play(
        self, group: Sequence[BranchPoint], forks: Mapping[tuple[str, int], _Fork]
    ) -> Iterator[dict[str, Any]]:
        waiting = self._continuations(group, forks)
        running: dict[int, _Continuation] = {}
        free = list(range(self.env.num_slots))
        while True:
            for one in itertools.islice(waiting, len(free)):
                slot = free.pop(0)
                percept = self.env.restore(slot, one.measured.fork.snapshot)
                one.out = self._decide(one, percept)
                running[slot] = one
            if not running:
                return
            for slot in self._wave(running):
                measured = running.pop(slot).measured
                free.append(slot)
                measured.ended += 1
                if measured.ended == 2 * self.settings.continuations:
                    yield self._row(measured)

    def _continuations(
        self, group: Sequence[BranchPoint], forks: Mapping[tuple[str, int], _Fork]
    ) -> Iterator[_Continuation]:
        for point in group:
            if self._is_spent():
                return
            fork = forks[point.trace, point.t]
            measured = _Measured(point, fork)
            for number in range(self.settings.continuations):
                key = f"{fork.seed} {point.t} {point.phase} {point.turn} {number}"
                episode = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
                for side in ("as_was", "altered"):
                    yield _Continuation(measured, side, number, fork.agent.fork(episode))

    def _decide(self, one: _Continuation, percept: Percept) -> Request | Decision:
        """Repeats the step's turns up to the decision, and the decision itself, altered or not."""
        point, agent = one.measured.point, one.agent
        out: Request | Decision = agent.observe(percept)
        for phase in one.measured.fork.step.phases:
            for turn in phase.turns:
                if isinstance(out, Decision):
                    break
                decided = (phase.phase, turn.index) == (point.phase, point.turn)
                if not decided or one.side == "as_was":
                    out = agent.receive(turn.completion)
                elif point.alteration == "drop":
                    hidden = {i for o in turn.operations for i in o.get("read") or ()}
                    with _scratch_memory(agent, hidden):
                        out = agent.receive(turn.completion)
                elif point.alteration == "consult":
                    out = agent.receive(Completion(self._consultation(agent)))
                if decided:
                    return out
        raise TraceError(
            f"{point.trace}: step {point.t} has no turn {point.turn} in {point.phase.upper()}"
        )

    def _consultation(self, agent: Agent) -> str:
        """A read of the template's first file that can be read."""
        template = agent.template
        for name, file in template.files.items():
            for op in ("READ", "TAIL"):
                if op in operations_of(file):
                    args = (name, "10") if op == "TAIL" else (name,)
                    return format_operation(op, *args, spelling=template.operations.get(op, ""))
        raise ValueError(f"template {template.id}: no file can be read; consult does not apply")

    def _wave(self, running: Mapping[int, _Continuation]) -> list[int]:
        """Asks the policy once for everyone who asks, steps everyone who acts; slots that are over."""
        asking = [one for one in running.values() if isinstance(one.out, Request)]
        if asking:
            completions = self.policy.complete([one.out for one in asking])
            self.calls += len(asking)
            if all(completion.outage for completion in completions):
                raise PolicyDown(
                    f"no model call is answered: {completions[0].error}; mend that and run the same "
                    "command again, it goes on from here"
                )
            for one, completion in zip(asking, completions, strict=True):
                one.broken |= completion.finish_reason == "error"
                if one.side == "altered" and one.measured.point.alteration == "resample":
                    one.measured.answers.setdefault(one.number, completion.text)
                one.out = one.agent.receive(completion)
        actions = {s: o.out.action for s, o in running.items() if isinstance(o.out, Decision)}
        self.steps += len(actions)
        over = []
        for slot, percept in (self.env.step(actions) if actions else {}).items():
            one, horizon = running[slot], self.settings.horizon
            if percept.done or 0 < horizon <= percept.step - one.measured.point.t:
                broken = one.broken or percept.failed
                value = None if broken else float(percept.progression)
                one.measured.values[one.side, one.number] = value
                over.append(slot)
            else:
                one.out = one.agent.observe(percept)
        return over

    def _row(self, measured: _Measured) -> dict[str, Any]:
        point, fork, values = measured.point, measured.fork, measured.values
        text = next(
            turn.completion.text
            for phase in fork.step.phases
            for turn in phase.turns
            if (phase.phase, turn.index) == (point.phase, point.turn)
        )
        numbers = range(self.settings.continuations)
        whole = [
            n
            for n in numbers
            if values["as_was", n] is not None and values["altered", n] is not None
        ]
        row = {
            "episode": Path(point.trace).stem,
            "seed": fork.seed,
            "t": point.t,
            "phase": point.phase,
            "turn": point.turn,
            "sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            "alteration": point.alteration,
            "as_was": [values["as_was", n] for n in whole],
            "altered": [values["altered", n] for n in whole],
            "broken": len(numbers) - len(whole),
        }
        if point.alteration == "resample":
            row["answers"] = [measured.answers[n] for n in whole]
        return row


class _scratch_memory:
    """While it is open, the agent's operations run on a copy of its memory without some lines."""

    def __init__(self, agent: Agent, hidden: set[int]) -> None:
        self._store = agent.store
        self._scratch: MemoryStore = copy.deepcopy(agent.store)
        self._scratch.hide(hidden)

    def __enter__(self) -> None:
        self._store.execute = self._execute  # shadows the method, on this instance alone

    def __exit__(self, *_: object) -> None:
        del self._store.execute

    def _execute(self, op: str, args: Sequence[str], allowed: Any = None) -> Result:
        return self._scratch.execute(op, args, allowed)


def _groups(points: Sequence[BranchPoint], traces: int) -> Iterator[list[BranchPoint]]:
    """Points in their order, cut where the next one would need one trace more than there are slots."""
    group: list[BranchPoint] = []
    paths: set[str] = set()
    for point in points:
        if point.trace not in paths and len(paths) == traces:
            yield group
            group, paths = [], set()
        group.append(point)
        paths.add(point.trace)
    if group:
        yield group
