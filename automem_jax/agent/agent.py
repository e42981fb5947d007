"""The agent: percepts and completions in, requests and actions out. No model, no clock, no I/O.

A step is LOG (from step 1: what the last action brought is written down) and PLAN (memory is
consulted, then one action is committed). Each is a fresh conversation; only files cross steps.
With two models the specialist (role "memory") runs LOG and consults first in PLAN; any action it
writes is stripped, and the base (role "gameplay") sees the same conversation and commits.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.agent import actions, guards, prompts
from automem_jax.agent import budget as token_budget
from automem_jax.agent.budget import CountTokens
from automem_jax.agent.conditions import holds, substitute
from automem_jax.agent.conversation import Budget, Conversation, Heard, without_action
from automem_jax.agent.effects import ObsDiff
from automem_jax.agent.grammar import READ_OPERATIONS, WRITE_OPERATIONS, Parsed, parse, spellings
from automem_jax.agent.memory import MemoryStore
from automem_jax.agent.observers import Scope
from automem_jax.agent.record import (
    STATISTICS,
    completion_record,
    count_operation,
    end_record,
    operation_record,
    step_record,
)
from automem_jax.agent.template import Template
from automem_jax.agent.upkeep import Upkeep
from automem_jax.agent.validate import check, check_percept, operations_offered
from automem_jax.envs.base import Percept
from automem_jax.text.messages import Completion, Phase, Request, SamplingSettings

_NO_ROOM = "no room left in limits.phase_tokens"


@dataclass(frozen=True)
class Decision:
    """An action for the environment, and the trace's record of the step (JSON-ready)."""

    action: str
    record: dict[str, Any]


class Agent:
    """One episode's agent. Exactly one request is in flight at a time."""

    def __init__(
        self,
        template: Template,
        sampling: SamplingSettings,
        *,
        episode: int,
        two_model: bool,
        instructions: str,
        task: str = "",
        count_tokens: CountTokens | None = None,
        context_tokens: int | None = None,
        carried: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
          template: the memory template; overrides for `task` are applied here.
          sampling: passed on with every request.
          episode: the episode's environment seed; names requests.
          two_model: a specialist is loaded; it runs LOG and consults in PLAN.
          instructions: the environment's description of the task.
          task: the task's name.
          count_tokens: tokens of a conversation, chat format included (text.chat.TokenCount);
            estimated on the safe side unless given.
          context_tokens: the longest prompt that the model takes; limits.phase_tokens where smaller.
          carried: lines of persistent files, as the episode before left them.

        Raises:
          ConfigError: the template does not validate; all problems are named.
        """
        check(template)
        self.template = template.for_task(task)
        self.store = MemoryStore(
            self.template.files,
            self.template.limits,
            self.template.new_files,
            self.template.operations,
        )
        self._vocabulary = spellings(self.template.operations)
        for name, lines in (carried or {}).items():
            if name in self.template.files and self.template.files[name].persistent:
                self.store.set_lines(name, "\n".join(lines))
        limit = self.template.limits.phase_tokens
        self._budget = Budget(
            limit if context_tokens is None else min(limit, context_tokens),
            count_tokens or token_budget.estimated_counter(),
        )
        self._constants: dict[Any, Any] = {}
        self._offered: dict[Any, tuple[str, ...]] = {}
        self._sampling = sampling
        self._episode = episode
        self._two_model = two_model
        self._instructions = instructions
        self._scope = Scope(self.template.observers)
        self._upkeep = Upkeep(self.template.files, self.store, self._scope)
        # The template's own observer of effects tells what the statistics need, if it has one.
        own = (
            n for n, s in self.template.observers.items() if s.type == "obs_diff" and not s.params
        )
        self._effect = next(own, None)
        self._outcome = ObsDiff(where=self._scope.where) if self._effect is None else None
        self._changed: bool | None = None
        self._percept: Percept | None = None
        self._conversation: Conversation | None = None
        self._record: dict[str, Any] = {}
        self._stats = dict.fromkeys(STATISTICS, 0)
        self._tokens = {"prompt": 0, "completion": 0, "calls": 0}

    def observe(self, percept: Percept) -> Request | Decision:
        """Takes the next percept and starts the step.

        Raises:
          ValueError: the episode is over, or a request is still in flight.
          ConfigError: a slot shows a percept path that this environment does not have.
        """
        if percept.done:
            raise ValueError("the episode is over; call end_record instead of observe")
        if self._conversation is not None:
            raise ValueError("a request is in flight; call receive with its completion first")
        if self._percept is None:
            check_percept(self.template, percept)
        self._see(percept)
        self._upkeep.show_files()
        self._record = step_record(percept, self._changed)
        if percept.step >= 1 and holds(self.template.phases.log.when, self._scope.resolve):
            return self._start_log()
        return self._start_plan()

    def receive(self, completion: Completion) -> Request | Decision:
        """Takes the answer to the request in flight.

        Raises:
          ValueError: no request is in flight.
        """
        talk = self._conversation
        if talk is None:
            raise ValueError("no request is in flight; call observe first")
        self._tokens["prompt"] += completion.prompt_tokens
        self._tokens["completion"] += completion.completion_tokens
        self._tokens["calls"] += 1
        turn = talk.record["turns"][-1]
        turn["completion"] = completion_record(completion)
        if completion.finish_reason == "error":
            return self._receive_error(talk, turn, completion)
        parsed = parse(completion.text, self._vocabulary)
        turn["action"], turn["done"] = parsed.action, parsed.done
        talk.turn += 1
        if talk.phase == "log":
            return self._receive_log(talk, turn, parsed, completion.text)
        if talk.consulting:
            return self._receive_consultation(talk, turn, parsed, completion.text)
        return self._receive_plan(talk, turn, parsed, completion.text)

    def end_record(self, percept: Percept | None, error: str | None = None) -> dict[str, Any]:
        """The trace's end record.

        Args:
          percept: the final percept; None if the episode never had one.
          error: what broke the episode off, if something outside the environment did.
        """
        if percept is not None and percept is not self._percept:
            self._see(percept)
        return end_record(percept, error, self._tokens, self._stats, self._changed)

    def fork(self, episode: int | None = None) -> Agent:
        """A copy that goes on by itself, from between two steps.

        Args:
          episode: names the copy's requests; unless given, they have this agent's names.

        Raises:
          ValueError: a request is in flight.
        """
        if self._conversation is not None:
            raise ValueError("a request is in flight; fork before observe")
        shared = (self._budget, self._sampling, self._percept, *_parts(self.template))
        memo: dict[int, Any] = {id(item): item for item in shared}
        memo[id(self._record)] = {}  # the last step's, which the caller holds
        other = copy.deepcopy(self, memo)
        other._episode = self._episode if episode is None else episode
        return other

    def scene(self, operations: Sequence[str]) -> prompts.Scene:
        """What a prompt that offers these operations is rendered from, after `observe`."""
        return prompts.Scene(
            template=self.template,
            store=self.store,
            resolve=self._scope.resolve,
            instructions=self._instructions,
            actions=self._percept.actions,
            previous_action=self._percept.action,
            operations=operations,
            constants=self._constants,
        )

    # --- LOG ------------------------------------------------------------------------------------

    def _start_log(self) -> Request:
        log = self.template.phases.log
        operations = self._operations("log")
        return self._open("log", log.system, log.slots, operations)

    def _receive_log(
        self, talk: Conversation, turn: dict[str, Any], parsed: Parsed, text: str
    ) -> Request | Decision:
        log = self.template.phases.log
        turn["action"], turn["stripped_action"] = None, parsed.action
        heard = self._execute(talk, turn, parsed)
        reads = any(o.op in READ_OPERATIONS for o in parsed.operations)
        finished = (parsed.done and not reads) or not heard
        if finished or talk.turn >= log.max_turns or talk.is_full:
            return self._finish_log(talk)
        if parsed.action is not None:
            heard.errors.append("no action is taken here")
        if not talk.reply(text, heard, self._text(log.after_results)):
            return self._finish_log(talk)
        return self._ask(talk)

    def _finish_log(self, talk: Conversation) -> Request | Decision:
        auto = self.template.phases.log.if_no_write
        wrote = any(op["wrote"] for turn in talk.record["turns"] for op in turn["operations"])
        if auto and not wrote:
            self.store.add_lines(auto.file, substitute(auto.text, self._scope.resolve))
            self._upkeep.written.add(auto.file)
        return self._start_plan()

    # --- PLAN -----------------------------------------------------------------------------------

    def _start_plan(self) -> Request:
        self._upkeep.maintain()
        self._upkeep.show_files()
        plan = self.template.phases.plan
        mode = next((m for m in plan.modes if holds(m.when, self._scope.resolve)), None)
        operations = self._operations("plan", mode.ops if mode else ())
        slots = mode.slots if mode and mode.slots else plan.slots
        consulting = self._two_model and bool(operations)
        return self._open("plan", plan.system, slots, operations, consulting)

    def _receive_consultation(
        self, talk: Conversation, turn: dict[str, Any], parsed: Parsed, text: str
    ) -> Request | Decision:
        """The specialist's turn: operations count, its action does not."""
        plan = self.template.phases.plan
        turn["action"], turn["stripped_action"] = None, parsed.action
        heard = self._execute(talk, turn, parsed)
        reads = any(o.op in READ_OPERATIONS for o in parsed.operations)
        leaving = parsed.done or parsed.action is not None
        kept = without_action(text, parsed)
        more = bool(kept) and (reads or bool(heard.errors) or (bool(heard.answers) and not leaving))
        last = talk.turn >= max(1, plan.max_turns - 1) or talk.is_full
        talk.consulting = more and not last
        if not talk.consulting:
            talk.closed = talk.turn >= plan.max_turns or talk.is_full
        if kept:
            after = plan.after_results if heard else plan.nudge
            closing = self._text(plan.last_request) if talk.closed else ""
            if not talk.reply(kept, heard, self._text(after), closing):
                talk.consulting, talk.closed = False, True
        return self._ask(talk)

    def _receive_plan(
        self, talk: Conversation, turn: dict[str, Any], parsed: Parsed, text: str
    ) -> Request | Decision:
        plan = self.template.phases.plan
        heard = self._execute(talk, turn, parsed)
        reads = any(o.op in READ_OPERATIONS for o in parsed.operations)
        was_closed = talk.closed
        at_cap = was_closed or talk.turn >= plan.max_turns or talk.is_full
        talk.closed = at_cap
        closing = self._text(plan.last_request) if at_cap else ""
        if parsed.action is not None and (at_cap or not (reads or heard.errors)):
            return self._commit(talk, turn, parsed.action, text, heard, closing)
        if was_closed:
            return self._decide(None, "fallback", "no action in the last request")
        after = plan.after_results if heard else plan.nudge
        if not talk.reply(text, heard, self._text(after), closing):
            if parsed.action is not None:
                return self._act(parsed.action)
            return self._decide(None, "fallback", f"no action, and {_NO_ROOM}")
        return self._ask(talk)

    def _commit(
        self,
        talk: Conversation,
        turn: dict[str, Any],
        written: str,
        text: str,
        heard: Heard,
        closing: str,
    ) -> Request | Decision:
        """Repairs the action, asks the guards, and acts or sends the reason back."""
        plan = self.template.phases.plan
        legal, previous = self._percept.actions, self._percept.action
        if talk.rejections < plan.max_rejections:
            action = actions.repair(written, legal, self.template.actions)
            reason = guards.objection(
                plan.guards, written, action, legal, previous, self._scope.resolve
            )
            told = Heard(heard.answers, heard.records, [reason or ""])
            if reason and talk.reply(text, told, closing):
                talk.rejections += 1
                turn["errors"].append(reason)
                turn["rejected"] = written
                self._stats["rejections"] += 1
                return self._ask(talk)
        return self._act(written)

    def _act(self, written: str) -> Decision:
        """Takes the action that was written, mended where that is needed and possible."""
        action = actions.repair(written, self._percept.actions, self.template.actions)
        if action is None:
            return self._decide(written, "fallback", f"{written[:80]!r} is no action of this task")
        return self._decide(written, "model" if action == written else "repair", None, action)

    # --- shared by the phases -------------------------------------------------------------------

    def _open(
        self,
        phase: Phase,
        system: Sequence[str],
        slots: Sequence[str],
        operations: tuple[str, ...],
        consulting: bool = False,
    ) -> Request:
        scene = self.scene(operations)
        closing = self._text(self.template.phases.plan.last_request) if phase == "plan" else ""
        reserve = self._budget.reserve(closing) if phase == "plan" else 0
        prompt = prompts.render_within(
            system,
            slots,
            scene,
            self._budget.tokens,
            self._budget.count,
            reserve + self._budget.tokens // 8,
        )
        record = {"phase": phase, "shown": prompt.shown, "cuts": prompt.cuts, "turns": []}
        self._record["phases"].append(record)
        talk = Conversation(
            phase, list(prompt.messages), operations, record, self._budget, consulting, reserve
        )
        self._conversation = talk
        return self._ask(talk)

    def _ask(self, talk: Conversation) -> Request:
        return talk.ask(self._episode, self._record["t"], self._sampling)

    def _receive_error(
        self, talk: Conversation, turn: dict[str, Any], completion: Completion
    ) -> Request | Decision:
        """A failed call is recorded; LOG and consulting end, and the base's turn falls back."""
        error = f"{talk.phase} call failed: {completion.error or 'no reason given'}"
        turn["errors"].append(error)
        self._stats["failed_calls"] += 1
        talk.turn += 1
        if talk.phase == "log":
            self._record["errors"].append(error)
            return self._finish_log(talk)
        if talk.consulting:
            self._record["errors"].append(error)
            talk.consulting = False
            talk.closed = talk.turn >= self.template.phases.plan.max_turns
            return self._ask(talk)
        return self._decide(None, "fallback", error)

    def _execute(self, talk: Conversation, turn: dict[str, Any], parsed: Parsed) -> Heard:
        """Executes a reply's operations in the order written."""
        heard = Heard()
        limit = self.template.limits.turn_ops
        for operation in parsed.operations[:limit]:
            allowed = () if talk.closed else talk.operations
            result = self.store.execute(operation.op, operation.args, allowed)
            if result.ok and result.file and operation.op in WRITE_OPERATIONS:
                self._upkeep.written.add(result.file)
            count_operation(self._stats, talk.phase, operation.op, result)
            heard.answers.append(result.answer)
            heard.records.append(operation_record(operation, result))
        turn["operations"].extend(heard.records)
        errors = list(parsed.errors[:limit])
        if len(parsed.errors) > limit:
            errors.append(f"{len(parsed.errors) - limit} more errors like these")
        left = len(parsed.operations) - limit
        if left > 0:
            errors.append(f"only {limit} operations a reply are executed; {left} were not")
        turn["errors"].extend(errors)
        heard.errors = errors
        return heard

    def _decide(
        self, written: str | None, source: str, error: str | None, action: str | None = None
    ) -> Decision:
        if source == "fallback":
            action = actions.fallback(self._percept.actions, self.template.actions)
            self._stats["fallbacks"] += 1
        self._stats["repairs"] += source == "repair"
        self._stats["actions"] += 1
        if error:
            self._record["errors"].append(error)
        self._record["action"] = action
        self._record["action_source"] = source
        self._record["proposed"] = written
        self._record["memory"] = self.store.changes()
        self._conversation = None
        return Decision(action, self._record)

    def _see(self, percept: Percept) -> None:
        """Observers and the one statistic that needs percepts."""
        self._scope.update(percept)
        if self._outcome is not None:
            self._outcome.update(percept)
        if self._percept is not None:
            if self._outcome is not None:
                self._changed = bool(self._outcome.outputs()["changed"])
            else:
                self._changed = bool(self._scope.resolve(f"{self._effect}.changed"))
            self._stats["unproductive_actions"] += not self._changed
        self._percept = percept

    def _operations(self, phase: Phase, mode_ops: tuple[str, ...] = ()) -> tuple[str, ...]:
        key = phase, mode_ops
        if key not in self._offered:
            self._offered[key] = operations_offered(self.template, phase, mode_ops)
        return self._offered[key]

    def _text(self, name: str) -> str:
        return prompts.named_text(name, self.template, self._scope.resolve)


def _parts(value: Any) -> Iterator[Any]:
    """A template's part and all that is in it: immutable, so that copies of an agent share it."""
    yield value
    inner: Iterable[Any] = ()
    if dataclasses.is_dataclass(value):
        inner = (getattr(value, field.name) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, tuple):
        inner = value
    for part in inner:
        yield from _parts(part)
