"""Drives many agents in many environments against one batched policy, and records traces.

Every wave gathers one outstanding request from each running episode and asks the policy once; agents
that committed an action are stepped together. An episode depends on its seed, template, policy and
the run's seed alone, never on what else is running.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.budget import CountTokens
from automem_jax.agent.memory import replay
from automem_jax.agent.template import Template, template_hash
from automem_jax.agent.window import WindowAgent
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.policies.base import Policy
from automem_jax.progress import Progress
from automem_jax.provenance import version
from automem_jax.text.messages import Completion, Request, RequestKey, SamplingSettings
from automem_jax.traces.store import TraceError, TraceWriter, read_trace

MakeProgress = Callable[[str, int, str], Progress]
OUTAGE_WAVES = 3  # whole waves in a row without one answer that end a rollout which had some before
_VERSIONED = ("automem_jax", "jax", "flax", "nle", "minihack", "craftax")


class PolicyDown(ConnectionError):
    """The model's server answers no call. One line; running again goes on from here."""


class PolicyRefuses(RuntimeError):
    """The first wave's requests are all refused, by a policy that works. One line."""


@dataclass(frozen=True)
class RolloutSpec:
    """What, besides the seed, an episode depends on; it is written to every trace's header.

    `two_model` says that the policy's "memory" role is a specialist, so that the base must commit
    the action itself. `behaviour_hash` covers the configuration that shapes an episode.
    `kind` memory plays the template; window and window_cot take its actions and phase_tokens only and
    show `window` earlier steps. `carry_memory`: the template's persistent files go on from episode to
    episode, in the order of the seeds.
    """

    env_name: str
    task: str
    template: Template
    arm: str
    run_seed: int
    sampling: SamplingSettings
    two_model: bool
    behaviour_hash: str
    kind: str = "memory"
    window: int = 16
    carry_memory: bool = False

    @classmethod
    def scripted(cls, env_name: str, task: str, template: Template) -> RolloutSpec:
        """Episodes of a script, which knows neither roles nor sampling."""
        return cls(
            env_name=env_name,
            task=task,
            template=template,
            arm="scripted",
            run_seed=0,
            sampling=SamplingSettings(),
            two_model=False,
            behaviour_hash=template_hash(template),
        )

    def agent(
        self,
        seed: int,
        instructions: str,
        *,
        count_tokens: CountTokens | None = None,
        context_tokens: int | None = None,
        carried: Mapping[str, Sequence[str]] | None = None,
    ) -> Agent | WindowAgent:
        """The agent of one episode; arguments as Agent's."""
        if self.kind == "memory":
            return Agent(
                self.template,
                self.sampling,
                episode=seed,
                two_model=self.two_model,
                instructions=instructions,
                task=self.task,
                count_tokens=count_tokens,
                context_tokens=context_tokens,
                carried=carried,
            )
        template = self.template.for_task(self.task)
        return WindowAgent(
            self.sampling,
            episode=seed,
            instructions=instructions,
            kind=self.kind,
            window=self.window,
            actions_spec=template.actions,
            phase_tokens=template.limits.phase_tokens,
            count_tokens=count_tokens,
            context_tokens=context_tokens,
        )


@dataclass
class _Episode:
    seed: int
    agent: Agent | WindowAgent
    writer: TraceWriter
    recorded: dict[RequestKey, Completion]
    request: Request | None = None
    error: str | None = None

    def is_recorded(self) -> bool:
        """Whether the request in flight was answered in the run that was killed.

        The first one that was not ends the recording: what follows it may have gone another way.
        """
        if self.request.key not in self.recorded:
            self.recorded.clear()
        return bool(self.recorded)


@dataclass
class RolloutResult:
    """Where the traces are, and what making the new ones took.

    Attributes:
      new_episodes: episodes that were not finished before. steps, seconds, prompt_tokens,
        completion_tokens: of those.
      completion_errors: model calls that failed after all retries (the fallback action ran);
        failed_episodes: the new episodes they are in; first_error: the first such message.
      retries: tries beyond the first, also of calls that succeeded in the end.
      broken_environments: new episodes that ended because their environment broke; first_break: how.
    """

    paths: list[Path]
    new_episodes: int = 0
    steps: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_errors: int = 0
    failed_episodes: int = 0
    first_error: str | None = None
    retries: int = 0
    broken_environments: int = 0
    first_break: str | None = None


def run_episodes(
    env: TextEnv,
    policy: Policy,
    spec: RolloutSpec,
    seeds: Sequence[int],
    out_dir: Path,
    *,
    show_progress: bool = True,
    progress: MakeProgress = Progress,
    count_tokens: CountTokens | None = None,
    context_tokens: int | None = None,
) -> RolloutResult:
    """Plays one episode a seed and writes one trace each to `out_dir`; finished ones are kept.

    An episode found half-written is played again from its start with its recorded completions, so no
    model call is paid for twice.

    A failed call costs its episode a fallback action; a policy that fails every call ends the run.

    Args:
      progress: makes what shows how far it is, from title, number and unit.
      count_tokens, context_tokens: the model's tokenizer and longest prompt, for the prompts' budget;
        see Agent. They must follow from what the policy's description holds.

    Raises:
      PolicyDown: the server answered no call of the first wave, or of OUTAGE_WAVES in a row later.
      PolicyRefuses: every call of the first wave failed for the request's own sake (an overlong
        prompt, say), and no episode was finished in an earlier run.
      TraceError: `out_dir` holds traces made with other settings.
      ValueError: a seed is given twice.
    """
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed is listed twice; every episode needs its own")
    out_dir.mkdir(parents=True, exist_ok=True)
    run = _Run(env, policy, spec, out_dir, list(seeds))
    run.count_tokens, run.context_tokens = count_tokens, context_tokens
    paths = [out_dir / f"{run.episode_id(seed)}.jsonl" for seed in seeds]
    waiting = []
    for seed, path in zip(seeds, paths, strict=True):
        if spec.carry_memory and waiting:  # what an episode carries is known when the last one ends
            waiting.append(seed)
        elif not run.is_finished(path, seed):
            waiting.append(seed)
    run.fresh = len(waiting) == len(seeds)
    run.result.paths = paths
    run.result.new_episodes = len(waiting)
    if waiting:
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            bar = None
            if show_progress:
                title = f"rollout {spec.arm}"
                bar = stack.enter_context(progress(title, len(waiting), "episodes"))
            run.play(waiting, bar)
        run.result.seconds = time.monotonic() - started
    return run.result


class _Run:
    """State of one call of run_episodes."""

    def __init__(
        self, env: TextEnv, policy: Policy, spec: RolloutSpec, out_dir: Path, seeds: list[int]
    ):
        self.env, self.policy, self.spec, self.out_dir = env, policy, spec, out_dir
        self.count_tokens: CountTokens | None = None
        self.context_tokens: int | None = None
        self._before = dict(zip(seeds[1:], seeds, strict=False))  # seed -> the one played before it
        self._carried: tuple[int, dict[str, tuple[str, ...]]] | None = None
        self.result = RolloutResult(paths=[])
        self._finished: list[float] = []
        self.fresh = True  # no episode was finished before this run
        self._answered = False
        self._silent_waves = 0
        self._described = policy.describe()
        self._versions = {name: version(name) for name in _VERSIONED}

    def episode_id(self, seed: int) -> str:
        return f"{self.spec.task}-{seed}"

    def header(self, seed: int) -> dict[str, Any]:
        spec = self.spec
        renamed = spec.template.for_task(spec.task).operations
        return {
            "env": spec.env_name,
            "task": spec.task,
            "seed": seed,
            "run_seed": spec.run_seed,
            "arm": spec.arm,
            "template": {"id": spec.template.id, "hash": template_hash(spec.template)}
            | ({"operations": dict(renamed)} if renamed else {}),
            "policy": self._described,
            "two_model": spec.two_model,
            "config_hash": spec.behaviour_hash,
            "versions": self._versions,
            "instructions": self.env.instructions,
        } | self._agent_header(seed)

    def _agent_header(self, seed: int) -> dict[str, Any]:
        """What is out of the ordinary about the agent; nothing for one with memory of its own."""
        spec = self.spec
        if spec.kind != "memory":
            return {"agent": {"kind": spec.kind, "window": spec.window}}
        if not spec.carry_memory:
            return {}
        text = json.dumps(self.carried(seed), sort_keys=True)
        before = self._before.get(seed)
        return {
            "carried": {
                "from": None if before is None else self.episode_id(before),
                "hash": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16],
            }
        }

    def carried(self, seed: int) -> dict[str, tuple[str, ...]]:
        """Lines of persistent files as the episode before left them; read from its trace."""
        before = self._before.get(seed)
        if not self.spec.carry_memory or before is None:
            return {}
        if self._carried is None or self._carried[0] != seed:
            template = self.spec.template.for_task(self.spec.task)
            trace = read_trace(self.out_dir / f"{self.episode_id(before)}.jsonl")
            files = {
                name: tuple(text for _, text in lines)
                for name, lines in replay(trace.changes()).items()
                if name in template.files and template.files[name].persistent
            }
            self._carried = seed, files
        return self._carried[1]

    def is_finished(self, path: Path, seed: int) -> bool:
        if not path.exists():
            return False
        self._check_header(path, read_trace(path).header, seed)
        return True

    def _check_header(self, path: Path, found: dict[str, Any], seed: int) -> None:
        expected = _comparable(self.header(seed))
        found = _comparable(found)
        for name in expected:
            if found.get(name) != expected[name]:
                raise TraceError(
                    f"{path}: this trace was made with {name} = {found.get(name)!r}, now it is "
                    f"{expected[name]!r}; use another --workdir or move the old traces away"
                )

    def play(self, seeds: Sequence[int], progress: Progress | None) -> None:
        """Plays episodes: all at once, or one after the other where memory is carried."""
        if not self.spec.carry_memory:
            self._play(seeds, progress)
            return
        for seed in seeds:
            if not self.is_finished(self.out_dir / f"{self.episode_id(seed)}.jsonl", seed):
                self._play([seed], progress)
            else:
                self.result.new_episodes -= 1

    def _play(self, seeds: Sequence[int], progress: Progress | None) -> None:
        waiting = list(seeds)
        running: dict[int, _Episode] = {}
        free = list(range(self.env.num_slots))
        try:
            while waiting or running:
                starting = {
                    free.pop(0): waiting.pop(0) for _ in range(min(len(free), len(waiting)))
                }
                if starting:
                    percepts = self.env.reset(list(starting), list(starting.values()))
                    for slot, seed in starting.items():
                        running[slot] = self._open(seed)
                    self._observe(running, percepts, free)
                self._wave(running, free)
                if progress is not None:
                    self._report(progress)
        finally:
            for episode in running.values():
                episode.writer.close()

    def _wave(self, running: dict[int, _Episode], free: list[int]) -> None:
        """Answers outstanding requests once, then steps whoever committed an action.

        Recorded completions come first, alone: what a killed run paid for is on disk again before
        anything new is asked.
        """
        actions: dict[int, str] = {}
        replayed = [slot for slot, episode in running.items() if episode.is_recorded()]
        if replayed:
            completions = [
                running[slot].recorded.pop(running[slot].request.key) for slot in replayed
            ]
        else:
            completions = self.policy.complete([e.request for e in running.values()])
            self._check_answered(completions)
        for slot, completion in zip(replayed or list(running), completions, strict=True):
            self._receive(slot, running[slot], completion, actions)
        if actions:
            self.result.steps += len(actions)
            self._observe(running, self.env.step(actions), free)

    def _check_answered(self, completions: Sequence[Completion]) -> None:
        """Ends the run where going on would only fill traces with fallback actions."""
        self.result.retries += sum(completion.tries - 1 for completion in completions)
        if any(completion.finish_reason != "error" for completion in completions):
            self._answered, self._silent_waves = True, 0
            return
        outage = all(completion.outage for completion in completions)
        self._silent_waves = self._silent_waves + 1 if outage else 0
        if outage and self._silent_waves >= (OUTAGE_WAVES if self._answered else 1):
            raise PolicyDown(
                f"no model call is answered: {completions[0].error}; mend that and run the same "
                "command again, it goes on from here"
            )
        if self.fresh and not self._answered:
            raise PolicyRefuses(f"every model call failed from the start: {completions[0].error}")

    def _receive(
        self, slot: int, episode: _Episode, completion: Completion, actions: dict[int, str]
    ) -> None:
        self.result.prompt_tokens += completion.prompt_tokens
        self.result.completion_tokens += completion.completion_tokens
        if completion.finish_reason == "error":
            self.result.completion_errors += 1
            episode.error = episode.error or completion.error or "unknown error"
            self.result.first_error = self.result.first_error or episode.error
        self._advance(slot, episode, episode.agent.receive(completion), actions)

    def _advance(
        self, slot: int, episode: _Episode, out: Request | Decision, actions: dict[int, str]
    ) -> None:
        if isinstance(out, Decision):
            episode.request = None
            episode.writer.step(out.record)
            actions[slot] = out.action
        else:
            episode.request = out

    def _observe(
        self, running: dict[int, _Episode], percepts: dict[int, Percept], free: list[int]
    ) -> None:
        """Hands percepts to agents; episodes that ended are closed. Agents may act without a request."""
        while percepts:
            actions: dict[int, str] = {}
            for slot, percept in percepts.items():
                episode = running[slot]
                if percept.done:
                    self._finish(running.pop(slot), percept)
                    free.append(slot)
                else:
                    self._advance(slot, episode, episode.agent.observe(percept), actions)
            self.result.steps += len(actions)
            percepts = self.env.step(actions) if actions else {}
        free.sort()

    def _open(self, seed: int) -> _Episode:
        episode_id = self.episode_id(seed)
        recorded: dict[RequestKey, Completion] = {}
        partial = self.out_dir / f"{episode_id}.jsonl.partial"
        if partial.exists():
            recorded = self._recorded(partial, seed)
        writer = TraceWriter(self.out_dir, episode_id, self.header(seed))
        return _Episode(seed, self._agent(seed), writer, recorded)

    def _agent(self, seed: int) -> Agent | WindowAgent:
        return self.spec.agent(
            seed,
            self.env.instructions,
            count_tokens=self.count_tokens,
            context_tokens=self.context_tokens,
            carried=self.carried(seed),
        )

    def _recorded(self, partial: Path, seed: int) -> dict[RequestKey, Completion]:
        try:
            trace = read_trace(partial)
        except TraceError:
            return {}  # nothing usable was written before the stop: play it from the start
        self._check_header(partial, trace.header, seed)
        recorded = {}
        for step in trace.steps:
            for phase in step.phases:
                for turn in phase.turns:
                    if turn.completion.finish_reason == "error":
                        return recorded
                    key = RequestKey(seed, step.t, phase.phase, turn.index)
                    recorded[key] = turn.completion
        return recorded

    def _finish(self, episode: _Episode, percept: Percept) -> None:
        episode.writer.end(episode.agent.end_record(percept, error=episode.error))
        self._finished.append(percept.progression)
        self.result.failed_episodes += episode.error is not None
        if percept.failed:
            self.result.broken_environments += 1
            self.result.first_break = self.result.first_break or percept.end_reason

    def _report(self, progress: Progress) -> None:
        elapsed = max(time.monotonic() - progress.started, 1e-9)
        figures = {
            "steps/s": self.result.steps / elapsed,
            "tokens/s": (self.result.prompt_tokens + self.result.completion_tokens) / elapsed,
        }
        if self._finished:
            figures["progression"] = sum(self._finished) / len(self._finished)
        if self.result.completion_errors:
            figures["failed calls"] = self.result.completion_errors
        if self.result.retries:
            figures["retries"] = self.result.retries
        if self.result.broken_environments:
            figures["broken environments"] = self.result.broken_environments
        progress.update(len(self._finished), figures)


def _comparable(header: dict[str, Any]) -> dict[str, Any]:
    """What of a header must not change between runs; a server may move to another address."""
    kept = {name: value for name, value in header.items() if name != "versions"}
    policy = header.get("policy") or {}
    return kept | {"policy": {name: policy[name] for name in policy if name != "base_url"}}
