"""One review: a model and its tools in turn, until it submits or a limit ends it.

Every exchange goes through the record first, so that a conversation that was broken off is replayed up
to where it stood, and paid for once.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from automem_jax.agent.budget import estimate_tokens
from automem_jax.architect.budget import Budget, Spend
from automem_jax.architect.clients import (
    Json,
    Reply,
    ToolAnswer,
    ToolCall,
    ToolSpec,
)
from automem_jax.architect.proposal import ArchitectError, NoProposal
from automem_jax.architect.recorded import Recorder, request_key
from automem_jax.architect.wire import Wire, clean, with_cost
from automem_jax.policies.prices import ModelUsage
from automem_jax.policies.retry import REQUEST_FAULTS, EndpointError

MAX_CALLS = 16  # of one reply that are executed
MAX_SILENT = 3  # replies in a row without a call
WARN_TURNS = 3  # from so many left on the model is told


class Tools(Protocol):
    """What the model may call."""

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """All tools; the same for the whole conversation."""

    @property
    def result(self) -> Any:
        """What the conversation was for; None until a call delivered it."""

    def call(self, call: ToolCall) -> ToolAnswer:
        """Executes one call; what is wrong with it is said in the answer, never raised.

        Raises:
          NoProposal: the model has used up its submissions.
        """


@dataclass(frozen=True)
class Limits:
    """Where a conversation ends: replies, prompt + completion tokens of all calls, seconds waited for
    the server. 0 is no limit."""

    turns: int = 40
    tokens: int = 0
    seconds: float = 0.0


class Conversation:
    """Runs one conversation.

    Args:
      wire: the model. recorder: where exchanges are kept. tools: what may be called.
      limits: of this conversation. budget: of the whole evolution; None: no limit.
      name: whose conversation this is, for errors and for the keys of charges.
      clock: seconds, monotonic.

    Attributes:
      usage: of all answers, replayed ones too.
    """

    def __init__(
        self,
        wire: Wire,
        recorder: Recorder,
        tools: Tools,
        limits: Limits,
        *,
        budget: Budget | None = None,
        name: str = "review",
        clock: Callable[[], float] = time.monotonic,
    ):
        self.usage = ModelUsage()
        self._wire, self._recorder, self._tools, self._limits = wire, recorder, tools, limits
        self._budget, self._name, self._clock = budget, name, clock
        self._seconds = 0.0
        self._prompt_tokens = 0  # of the next request, estimated on the safe side

    def run(self, system: str, user: str) -> Any:
        """The tools' result.

        Raises:
          NoProposal: the model refused, fell silent, or came to a limit without a result.
          ArchitectError: the server failed for good, or a replay lacks a request.
          BudgetSpent: the next call might go beyond a cap of the evolution.
        """
        api, tools = self._wire.api, self._tools
        messages = [api.user(clean(user))]
        opening = json.dumps(api.body(system, messages, tools.specs), ensure_ascii=False)
        self._prompt_tokens = estimate_tokens(opening)
        silent = 0
        for turn in range(1, self._limits.turns + 1):
            self._check_limits()
            reply = self._exchange(turn, api.body(clean(system), messages, tools.specs))
            if reply.refused:
                raise self._given_up(f"the model refused ({_line(reply.refused)})")
            new = [reply.message]
            if reply.calls:
                silent = 0
                answers = self._answers(reply, self._limits.turns - turn)
                if tools.result is not None:
                    return tools.result
                new += api.results(reply.calls, answers)
            else:
                silent += 1
                if silent == MAX_SILENT:
                    raise self._given_up(f"{MAX_SILENT} replies in a row called no tool")
                new.append(api.user(_nudge(reply)))
            messages += new
            told = json.dumps(new[1:], ensure_ascii=False)
            self._prompt_tokens += estimate_tokens(told)
        raise self._given_up(f"no template was submitted in {self._limits.turns} turns")

    def _answers(self, reply: Reply, turns_left: int) -> list[ToolAnswer]:
        answers: list[ToolAnswer] = []
        for number, call in enumerate(reply.calls):
            if self._tools.result is not None:
                break
            if number >= MAX_CALLS:
                text = f"not executed: at most {MAX_CALLS} calls of one reply are; ask again"
                answers.append(_error(text))
            elif reply.cut and number == len(reply.calls) - 1:
                text = (
                    "not executed: the reply was cut at its token limit, so these arguments may not "
                    "be whole; say less at once (submit_template takes a patch)"
                )
                answers.append(_error(text))
            elif call.problem:
                answers.append(_error(call.problem))
            else:
                try:
                    answers.append(self._tools.call(call))
                except NoProposal as error:
                    raise NoProposal(str(error), self.usage.calls) from None
        if self._tools.result is None and 0 < turns_left <= WARN_TURNS:
            answers[-1] = _warned(answers[-1], turns_left)
        return [dataclasses.replace(answer, text=clean(answer.text)) for answer in answers]

    def _exchange(self, turn: int, body: Json) -> Reply:
        """One request and its answer, from the record where it is there, and charged for."""
        key = request_key(self._wire.api.kind, body)
        row = self._recorder.find(key)
        if row is None and self._wire.replay is not None:
            row = self._wire.replay.find(key, f"turn {turn} of {self._name}", body)
            row = self._recorder.add(key, turn, body, row["response"], row["tries"])
        if row is None:
            row = self._ask(key, turn, body)
        reply = self._wire.api.read(row["response"])
        usage = with_cost(reply, self._wire.price, row["tries"])
        self.usage.add(usage)
        if self._budget is not None:
            self._budget.charge_call(f"{self._name}/call{turn}", self._wire.model, usage)
        counted = usage.prompt_tokens + usage.completion_tokens
        self._prompt_tokens = counted or self._prompt_tokens
        return reply

    def _ask(self, key: str, turn: int, body: Json) -> Json:
        if self._budget is not None:
            self._budget.require(self._most())
        started = self._clock()
        try:
            response, tries = self._wire.endpoint.send(body)
        except EndpointError as error:
            # A request that grew until the server would not take it ends this review, not the loop.
            if turn > 1 and error.status in REQUEST_FAULTS:
                raise self._given_up(f"the server refused the request: {error}") from None
            raise ArchitectError(f"architect: {error}; run again to go on from here") from None
        finally:
            self._seconds += self._clock() - started
        return self._recorder.add(key, turn, body, response, tries)

    def _most(self) -> Spend:
        """What the next call may cost: nothing cached, everything written to the cache."""
        prompt, completion = self._prompt_tokens, self._wire.max_tokens
        most = self._budget.estimate(self._wire.model, prompt, completion)
        if self._wire.price is None:
            return most
        price = self._wire.price
        dearest = max(price.input, price.cache_write, price.cached_input)
        return dataclasses.replace(
            most, dollars=(prompt * dearest + completion * price.output) / 1e6
        )

    def _check_limits(self) -> None:
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        if self._limits.tokens and tokens >= self._limits.tokens:
            raise self._given_up(f"its limit of {self._limits.tokens} tokens is used up ({tokens})")
        if self._limits.seconds and self._seconds >= self._limits.seconds:
            raise self._given_up(f"its limit of {self._limits.seconds:g} s is used up")

    def _given_up(self, why: str) -> NoProposal:
        return NoProposal(f"no usable template: {why}", self.usage.calls)


def _nudge(reply: Reply) -> str:
    if reply.cut:
        return "Your reply was cut at its token limit. Say less at once, and call a tool."
    return "Nothing was called. Call a tool; submit_template ends the review."


def _warned(answer: ToolAnswer, turns_left: int) -> ToolAnswer:
    note = f"{turns_left} turn{'s' if turns_left > 1 else ''} left; submit_template before they end"
    try:
        return dataclasses.replace(
            answer, text=json.dumps({**json.loads(answer.text), "note": note}, ensure_ascii=False)
        )
    except (ValueError, TypeError):
        return answer


def _error(text: str) -> ToolAnswer:
    return ToolAnswer(json.dumps({"error": text}, ensure_ascii=False), error=True)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
