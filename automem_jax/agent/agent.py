"""The agent: percepts and completions in, requests and actions out. No model, no clock, no I/O.

A step is LOG (from step 1: what the last action brought is written down) and PLAN (memory is
consulted, then one action is committed). Each is a fresh conversation; only files cross steps.
With two models the specialist (role "memory") runs LOG and consults first in PLAN; any action it
writes is stripped, and the base (role "gameplay") sees the same conversation and commits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent import actions, guards, prompts
from automem_jax.agent import budget as token_budget
from automem_jax.agent.budget import LEAST_ROOM, CountTokens, Piece
from automem_jax.agent.conditions import as_text, holds, substitute
from automem_jax.agent.effects import ObsDiff
from automem_jax.agent.grammar import (
    READ_OPERATIONS,
    WRITE_OPERATIONS,
    Parsed,
    parse,
    spellings,
)
from automem_jax.agent.memory import MemoryStore
from automem_jax.agent.observers import Scope, percept_paths
from automem_jax.agent.paths import percept_value
from automem_jax.agent.template import Template
from automem_jax.agent.validate import check, operations_offered
from automem_jax.config import ConfigError
from automem_jax.envs.base import Percept
from automem_jax.text.messages import (
    Completion,
    Message,
    Phase,
    PolicyRole,
    Request,
    RequestKey,
    SamplingSettings,
)

_NO_ROOM = "no room left in limits.phase_tokens"
_NOTHING_SAID = "(no answer)"  # stands in for an empty reply: chat formats want turns to alternate
_LOGPROB_FLOOR = -1e4  # JSON has no infinity

STATISTICS = (
    "ops",
    "valid",
    "redundant",
    "empty_searches",
    "reads",
    "writes",
    "writes_log",
    "searches_log",
    "actions",
    "unproductive_actions",
    "repairs",
    "rejections",
    "fallbacks",
    "failed_calls",
)


@dataclass(frozen=True)
class Decision:
    """An action for the environment, and the trace's record of the step (JSON-ready)."""

    action: str
    record: dict[str, Any]


@dataclass
class _Conversation:
    """The phase that is under way.

    Attributes:
      operations: offered in this phase. turn: replies received. asked: messages that requests held.
      reserve: tokens that answers leave free, for the last request.
      consulting: PLAN with two models, before the base has its say.
      closed: the last request went out; memory operations are refused.
      rejections: actions that guards sent back.
    """

    phase: Phase
    messages: list[Message]
    operations: tuple[str, ...]
    record: dict[str, Any]
    consulting: bool = False
    closed: bool = False
    turn: int = 0
    asked: int = 0
    reserve: int = 0
    rejections: int = 0


@dataclass
class _Heard:
    """What a reply's operations brought: answers, each with its record, and other errors."""

    answers: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.answers or self.errors)


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
        self._count_tokens = count_tokens or token_budget.estimated_counter()
        limit = self.template.limits.phase_tokens
        self._budget = limit if context_tokens is None else min(limit, context_tokens)
        self._least_room = min(LEAST_ROOM, self._budget // 16)
        self._constants: dict[Any, Any] = {}
        self._written: set[str] = set()
        self._sampling = sampling
        self._episode = episode
        self._two_model = two_model
        self._instructions = instructions
        self._scope = Scope(self.template.observers)
        # The template's own observer of effects tells what the statistics need, if it has one.
        own = (
            n for n, s in self.template.observers.items() if s.type == "obs_diff" and not s.params
        )
        self._effect = next(own, None)
        self._outcome = ObsDiff() if self._effect is None else None
        self._changed: bool | None = None
        self._percept: Percept | None = None
        self._conversation: _Conversation | None = None
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
            self._check_paths(percept)
        self._see(percept)
        self._show_files()
        self._record = {
            "type": "step",
            "t": percept.step,
            "percept": percept_record(percept, self._changed),
            "phases": [],
            "memory": [],
            "action": "",
            "action_source": "",
            "proposed": None,
            "errors": [],
        }
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
        operations = operations_offered(self.template, "log")
        return self._open("log", log.system, log.slots, operations)

    def _receive_log(
        self, talk: _Conversation, turn: dict[str, Any], parsed: Parsed, text: str
    ) -> Request | Decision:
        log = self.template.phases.log
        turn["action"], turn["stripped_action"] = None, parsed.action
        heard = self._execute(talk, turn, parsed)
        reads = any(o.op in READ_OPERATIONS for o in parsed.operations)
        finished = (parsed.done and not reads) or not heard
        if finished or talk.turn >= log.max_turns or self._is_full(talk):
            return self._finish_log(talk)
        if parsed.action is not None:
            heard.errors.append("no action is taken here")
        if not self._reply(talk, text, heard, self._text(log.after_results)):
            return self._finish_log(talk)
        return self._ask(talk)

    def _finish_log(self, talk: _Conversation) -> Request | Decision:
        auto = self.template.phases.log.if_no_write
        wrote = any(op["wrote"] for turn in talk.record["turns"] for op in turn["operations"])
        if auto and not wrote:
            self.store.add_lines(auto.file, substitute(auto.text, self._scope.resolve))
            self._written.add(auto.file)
        return self._start_plan()

    # --- PLAN -----------------------------------------------------------------------------------

    def _start_plan(self) -> Request:
        self._maintain()
        self._show_files()
        plan = self.template.phases.plan
        mode = next((m for m in plan.modes if holds(m.when, self._scope.resolve)), None)
        operations = operations_offered(self.template, "plan", mode.ops if mode else ())
        slots = mode.slots if mode and mode.slots else plan.slots
        consulting = self._two_model and bool(operations)
        return self._open("plan", plan.system, slots, operations, consulting)

    def _receive_consultation(
        self, talk: _Conversation, turn: dict[str, Any], parsed: Parsed, text: str
    ) -> Request | Decision:
        """The specialist's turn: operations count, its action does not."""
        plan = self.template.phases.plan
        turn["action"], turn["stripped_action"] = None, parsed.action
        heard = self._execute(talk, turn, parsed)
        reads = any(o.op in READ_OPERATIONS for o in parsed.operations)
        leaving = parsed.done or parsed.action is not None
        kept = _without_action(text, parsed)
        more = bool(kept) and (reads or bool(heard.errors) or (bool(heard.answers) and not leaving))
        last = talk.turn >= max(1, plan.max_turns - 1) or self._is_full(talk)
        talk.consulting = more and not last
        if not talk.consulting:
            talk.closed = talk.turn >= plan.max_turns or self._is_full(talk)
        if kept:
            after = plan.after_results if heard else plan.nudge
            closing = self._text(plan.last_request) if talk.closed else ""
            if not self._reply(talk, kept, heard, self._text(after), closing):
                talk.consulting, talk.closed = False, True
        return self._ask(talk)

    def _receive_plan(
        self, talk: _Conversation, turn: dict[str, Any], parsed: Parsed, text: str
    ) -> Request | Decision:
        plan = self.template.phases.plan
        heard = self._execute(talk, turn, parsed)
        reads = any(o.op in READ_OPERATIONS for o in parsed.operations)
        was_closed = talk.closed
        at_cap = was_closed or talk.turn >= plan.max_turns or self._is_full(talk)
        talk.closed = at_cap
        closing = self._text(plan.last_request) if at_cap else ""
        if parsed.action is not None and (at_cap or not (reads or heard.errors)):
            return self._commit(talk, turn, parsed.action, text, heard, closing)
        if was_closed:
            return self._decide(None, "fallback", "no action in the last request")
        after = plan.after_results if heard else plan.nudge
        if not self._reply(talk, text, heard, self._text(after), closing):
            if parsed.action is not None:
                return self._act(parsed.action)
            return self._decide(None, "fallback", f"no action, and {_NO_ROOM}")
        return self._ask(talk)

    def _commit(
        self,
        talk: _Conversation,
        turn: dict[str, Any],
        written: str,
        text: str,
        heard: _Heard,
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
            told = _Heard(heard.answers, heard.records, [reason or ""])
            if reason and self._reply(talk, text, told, closing):
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
        reserve = 0
        if phase == "plan":
            closing = [Message("assistant", _NOTHING_SAID)]
            closing.append(Message("user", self._text(self.template.phases.plan.last_request)))
            reserve = self._count_tokens(closing) - self._count_tokens([])
            reserve = min(reserve, self._budget // 4)
        prompt = prompts.render_within(
            system,
            slots,
            scene,
            self._budget,
            self._count_tokens,
            reserve + self._budget // 8,
        )
        record = {"phase": phase, "shown": prompt.shown, "cuts": prompt.cuts, "turns": []}
        self._record["phases"].append(record)
        talk = _Conversation(phase, list(prompt.messages), operations, record, consulting)
        talk.reserve = reserve
        self._conversation = talk
        return self._ask(talk)

    def _ask(self, talk: _Conversation) -> Request:
        role: PolicyRole = "memory" if talk.phase == "log" or talk.consulting else "gameplay"
        index = len(talk.record["turns"])
        talk.record["turns"].append(
            {
                "role": role,
                "prompt": [
                    {"role": m.role, "text": m.content} for m in talk.messages[talk.asked :]
                ],
                "completion": None,
                "operations": [],
                "action": None,
                "done": False,
                "stripped_action": None,
                "rejected": None,
                "errors": [],
            }
        )
        talk.asked = len(talk.messages)
        key = RequestKey(self._episode, self._record["t"], talk.phase, index)
        return Request(role, tuple(talk.messages), self._sampling, key)

    def _reply(self, talk: _Conversation, text: str, heard: _Heard, *more: str) -> bool:
        """Appends the model's words and what it is told about them, cut to what there is room for.

        Returns:
          Whether there was room; if not, nothing is appended.
        """
        answers = [Piece("answer", text, (0, -len(text)), "first") for text in heard.answers]
        errors = Piece("errors", "\n".join(f"error: {error}" for error in heard.errors), (1,))
        closing = Piece("closing", "\n".join(part for part in more if part), (3,))
        # A reply out of all proportion goes before the answers to it.
        last = -1 if len(text) > self._budget else 2
        reply = Piece("reply", text.strip() or _NOTHING_SAID, (last,))
        told = [*answers, errors, closing]

        def compose(_: Sequence[Piece] = ()) -> list[Message]:
            content = "\n".join(text for piece in told if (text := piece.shown))
            words = Message("assistant", reply.shown or _NOTHING_SAID)
            return [*talk.messages, words, Message("user", content or "-")]

        every = [reply, *told]
        budget = self._budget - (0 if talk.closed else talk.reserve)
        if not token_budget.fit(every, compose, budget, self._count_tokens):
            return False
        talk.messages = compose()
        cut = token_budget.cuts(every, talk.turn)
        if cut:
            talk.record["cuts"].extend(cut)
            for record, piece in zip(heard.records, answers, strict=True):
                if piece.kept < len(piece.text):
                    record["answer"] = piece.shown
                    record["read"] = record["read"][: max(0, piece.lines - 1)]
        return True

    def _receive_error(
        self, talk: _Conversation, turn: dict[str, Any], completion: Completion
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

    def _execute(self, talk: _Conversation, turn: dict[str, Any], parsed: Parsed) -> _Heard:
        """Executes a reply's operations in the order written."""
        heard = _Heard()
        limit = self.template.limits.turn_ops
        for operation in parsed.operations[:limit]:
            allowed = () if talk.closed else talk.operations
            result = self.store.execute(operation.op, operation.args, allowed)
            if result.ok and result.file and operation.op in WRITE_OPERATIONS:
                self._written.add(result.file)
            self._count(talk.phase, operation.op, result)
            heard.answers.append(result.answer)
            heard.records.append(
                {
                    "op": operation.op,
                    "args": list(operation.args),
                    "file": result.file,
                    "start": operation.start,
                    "end": operation.end,
                    "ok": result.ok,
                    "answer": result.answer,
                    "error": result.error,
                    "wrote": list(result.wrote),
                    "read": list(result.read),
                    "redundant": result.redundant,
                    "empty": result.empty,
                }
            )
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

    def _count(self, phase: str, op: str, result: Any) -> None:
        stats = self._stats
        stats["ops"] += 1
        stats["valid"] += result.ok
        stats["redundant"] += result.redundant
        stats["empty_searches"] += op == "SEARCH" and result.empty
        stats["reads"] += op in READ_OPERATIONS
        stats["writes"] += op in WRITE_OPERATIONS
        stats["writes_log"] += phase == "log" and op in WRITE_OPERATIONS
        stats["searches_log"] += phase == "log" and op == "SEARCH"

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

    def _maintain(self) -> None:
        """Pruning, auto files and checklist items that tick themselves."""
        self.store.prune()
        for name, spec in self.template.files.items():
            if spec.kind == "auto":
                self.store.set_lines(name, as_text(self._scope.resolve(spec.source)))
            for item in spec.items:
                if item.done_when is not None and holds(item.done_when, self._scope.resolve):
                    self.store.tick(name, item.id)

    def _show_files(self) -> None:
        """Lets observers of files see them."""
        self._scope.update_files(self.store.index(), tuple(sorted(self._written)))
        self._written.clear()

    def _is_full(self, talk: _Conversation) -> bool:
        """Whether the conversation has no room for another memory turn."""
        most = self._budget - talk.reserve - self._least_room
        if token_budget.byte_size(talk.messages) <= most:
            return False
        return self._count_tokens(talk.messages) > most

    def _text(self, name: str) -> str:
        return prompts.named_text(name, self.template, self._scope.resolve)

    def _check_paths(self, percept: Percept) -> None:
        """What this environment cannot fill in slots, auto files and observers is a user's mistake: say
        so now. Paths of observers were checked with the template."""
        template = self.template
        places = [(f"slots.{n}.source", s.source) for n, s in template.slots.items()]
        places += [(f"files.{n}.source", s.source) for n, s in template.files.items()]
        places += [
            (f"observers.{n}.params", path)
            for n, spec in template.observers.items()
            for path in percept_paths(spec)
        ]
        for place, path in places:
            if not path.startswith("percept."):
                continue
            try:
                percept_value(percept, path)
            except KeyError as error:
                raise ConfigError(
                    f"template {self.template.id!r}: {place}: {error.args[0]}; "
                    "name what this environment's percepts have"
                ) from error


def end_record(
    percept: Percept | None,
    error: str | None,
    tokens: Mapping[str, int],
    statistics: Mapping[str, int],
    changed: bool | None = None,
) -> dict[str, Any]:
    """The end record of an agent of any kind; see Agent.end_record."""
    broken = percept is None or percept.failed or error is not None
    reason = percept.end_reason if percept is not None else None
    return {
        "type": "end",
        "progression": float(percept.progression) if percept is not None else 0.0,
        "steps": percept.step if percept is not None else 0,
        "end_reason": reason or ("error" if broken else "cut off"),
        "failed": broken,
        "error": error,
        "percept": percept_record(percept, changed) if percept is not None else None,
        "tokens": dict(tokens),
        "memory_stats": dict(statistics),
    }


def percept_record(percept: Percept, changed: bool | None = None) -> dict[str, Any]:
    """What a trace keeps of a percept; `map` where the environment draws one, `changed` (whether the
    last action did anything that the agent can see) where there was an action."""
    drawn = percept.fields.get("map")
    record = {
        "long_text": percept.long_text,
        "short_text": percept.short_text,
        "reward": float(percept.reward),
        "done": bool(percept.done),
        "progression": float(percept.progression),
        "end_reason": percept.end_reason,
        "action": percept.action,
        "unknown_action": percept.unknown_action,
        "failed": bool(percept.failed),
    }
    if changed is not None:
        record["changed"] = changed
    if drawn:
        record["map"] = _without_blank_edges(drawn)
    return record


def _without_blank_edges(drawn: str) -> str:
    """A drawn map without the blank rows above and below it."""
    rows = drawn.split("\n")
    filled = [i for i, row in enumerate(rows) if row.strip()]
    return "\n".join(rows[filled[0] : filled[-1] + 1]) if filled else ""


def completion_record(completion: Completion) -> dict[str, Any]:
    """What a trace keeps of a completion; log-probabilities rounded to four places."""
    return {
        "text": completion.text,
        "token_ids": [int(i) for i in completion.token_ids],
        "logprobs": [
            round(float(p), 4) if math.isfinite(p) else _LOGPROB_FLOOR for p in completion.logprobs
        ],
        "finish_reason": completion.finish_reason,
        "prompt_tokens": int(completion.prompt_tokens),
        "completion_tokens": int(completion.completion_tokens),
        "error": completion.error,
    }


def _without_action(text: str, parsed: Parsed) -> str:
    """A specialist's reply as the base may see it: no ACTION, and nothing after it but operations."""
    end = len(text)
    cuts = list(parsed.action_spans)
    if cuts:
        end = max([cuts[0][0], *(o.end for o in parsed.operations)])
    if not parsed.operations and parsed.done_start is not None:
        end = min(end, parsed.done_start)
    kept, position = [], 0
    for start, stop in cuts:
        kept.append(text[position : min(start, end)])
        position = max(position, min(stop, end))
    kept.append(text[position:end])
    return "".join(kept).strip()
