"""Native tool calling of two APIs: OpenAI's chat completions and Anthropic's messages.

An `Api` translates between a conversation and the JSON that its server takes and gives; it knows no
retries; wire.py sends what it makes, streams.py puts streamed answers together. Between the two lies
what recorded.py keeps: requests and responses as JSON, without key or header.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from automem_jax.architect.streams import (
    anthropic_answer,
    deeper,
    no_constant,
    openai_answer,
    refuses_streams,
    whole,
)
from automem_jax.config import ConfigError, PolicyConfig
from automem_jax.policies.endpoint import missing_sdk
from automem_jax.policies.prices import ModelUsage
from automem_jax.policies.retry import GarbledAnswer, words

MAX_ARGUMENT_CHARS = 400_000
MAX_ARGUMENT_DEPTH = 64
MAX_HISTORY_CHARS = 20_000  # of a reply's prose that the model is shown again
Json = dict[str, Any]


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model is told of it; `schema` is the JSON schema of its arguments (an object)."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """One call. `problem` says why `arguments` cannot be used; empty where they can."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class ToolAnswer:
    """What goes back for one call."""

    text: str
    error: bool = False


@dataclass(frozen=True)
class Reply:
    """One answer of the model.

    Attributes:
      text: its prose. calls: the tools it calls, in order.
      message: itself, in the form in which the API takes it back.
      cut: it was ended by the limit of tokens. refused: why it was withheld; empty where it was not.
      usage: tokens of this answer, without a cost. cache_written_tokens: put into the server's cache.
    """

    text: str
    calls: tuple[ToolCall, ...]
    message: Json
    cut: bool
    refused: str
    usage: ModelUsage
    cache_written_tokens: int = 0


class Api(Protocol):
    """One API's JSON."""

    kind: str

    def body(self, system: str, messages: Sequence[Json], tools: Sequence[ToolSpec]) -> Json:
        """A whole request."""

    def user(self, text: str) -> Json:
        """A user message."""

    def results(self, calls: Sequence[ToolCall], answers: Sequence[ToolAnswer]) -> list[Json]:
        """The messages that answer all calls of a reply."""

    def read(self, response: Mapping[str, Any]) -> Reply:
        """A response in neutral form.

        Raises:
          GarbledAnswer: it is no completion.
        """

    def connect(self, config: PolicyConfig, key: str) -> Any:
        """The SDK's client.

        Raises:
          ConfigError: its package is not installed.
        """

    async def send(self, client: Any, body: Json) -> Json:
        """Asks the server once."""


def make_api(config: PolicyConfig) -> Api:
    """The API that a config names.

    Raises:
      ConfigError: a kind that is no API, or no model.
    """
    if config.kind not in ("openai", "anthropic"):
        raise ConfigError(f"architect.api.kind is {config.kind!r}; it is openai or anthropic")
    if not config.model:
        raise ConfigError("architect.api.model is empty; name the model that reviews the traces")
    return OpenAIApi(config) if config.kind == "openai" else AnthropicApi(config)


class OpenAIApi:
    """Chat completions with function tools: OpenAI, and servers that speak alike."""

    kind = "openai"

    def __init__(self, config: PolicyConfig):
        self._config = config
        self._limit = "max_tokens" if config.base_url else "max_completion_tokens"
        self._stream: Json = {"stream": True, "stream_options": {"include_usage": True}}

    def body(self, system: str, messages: Sequence[Json], tools: Sequence[ToolSpec]) -> Json:
        functions = [
            {"name": t.name, "description": t.description, "parameters": dict(t.schema)}
            for t in tools
        ]
        return {
            "model": self._config.model,
            "max_tokens": self._config.max_tokens,
            "messages": [{"role": "system", "content": system}, *messages],
            "tools": [{"type": "function", "function": function} for function in functions],
        }

    def user(self, text: str) -> Json:
        return {"role": "user", "content": text}

    def results(self, calls: Sequence[ToolCall], answers: Sequence[ToolAnswer]) -> list[Json]:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": answer.text}
            for call, answer in zip(calls, answers, strict=True)
        ]

    def read(self, response: Mapping[str, Any]) -> Reply:
        choices = response.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if not isinstance(message, Mapping):
            raise GarbledAnswer("the answer holds no choices[0].message")
        text, asked = message.get("content") or "", message.get("tool_calls") or []
        if not isinstance(text, str) or not isinstance(asked, list):
            raise GarbledAnswer("choices[0].message.content is no text, or tool_calls no list")
        reason = str(choice.get("finish_reason"))
        refused = message.get("refusal") or (reason if reason.startswith("content_filter") else "")
        calls, kept = [], []
        for number, raw in enumerate(asked):
            function = raw.get("function") if isinstance(raw, Mapping) else None
            if not isinstance(function, Mapping):
                raise GarbledAnswer(f"choices[0].message.tool_calls[{number}] is no function call")
            call = _call(raw.get("id"), function.get("name"), function.get("arguments"), number)
            arguments = "{}" if call.problem else json.dumps(call.arguments, ensure_ascii=False)
            calls.append(call)
            # Whatever else stands in a call (such as a signature of its reasoning) goes back too.
            kept.append(
                {**raw, "id": call.id, "type": "function"}
                | {"function": {"name": call.name, "arguments": arguments}}
            )
        told = {"role": "assistant", "content": _shown(text) or (None if kept else "(empty)")}
        if kept:
            told["tool_calls"] = kept
        usage = response.get("usage")
        prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
        counts = ModelUsage(
            calls=1,
            prompt_tokens=prompt,
            # Some servers leave the thinking out of completion_tokens, but not out of the total.
            completion_tokens=max(completion, _count(usage, "total_tokens") - prompt),
            cached_tokens=_count(details, "cached_tokens"),
        )
        return Reply(text, tuple(calls), told, reason == "length", str(refused), counts)

    def connect(self, config: PolicyConfig, key: str) -> Any:
        try:
            import openai
        except ImportError as error:
            raise missing_sdk("openai") from error
        url = server_url(self, config)
        return openai.AsyncOpenAI(
            api_key=key, base_url=url, timeout=config.timeout_s, max_retries=0
        )

    async def send(self, client: Any, body: Json) -> Json:
        while True:
            sent = {name: value for name, value in body.items() if name != "max_tokens"}
            sent[self._limit] = body["max_tokens"]
            ask = client.chat.completions.with_streaming_response.create
            try:
                async with ask(**sent, **self._stream) as answer:
                    return await whole(answer, openai_answer)
            except Exception as error:
                bad = getattr(error, "status_code", None) in (400, 422)
                if not bad or not self._learn(words(error)):
                    raise

    def _learn(self, said: str) -> bool:
        """Whether a refusal names what this server does not know; it is not sent from now on."""
        if self._stream and refuses_streams(said):
            self._stream = {}
            return True
        # OpenAI's newer models take max_completion_tokens only, some other servers max_tokens only.
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
        unknown = re.search("unsupported|not supported|unknown|unrecognized|instead", said, re.I)
        first = re.search(r"\bmax(?:_completion)?_tokens\b", said)
        if not unknown or not first or first[0] != self._limit:
            return False
        self._limit = other[self._limit]
        return True


class AnthropicApi:
    """Messages with tool_use and tool_result blocks."""

    kind = "anthropic"

    def __init__(self, config: PolicyConfig):
        self._config = config
        self._stream = True

    def body(self, system: str, messages: Sequence[Json], tools: Sequence[ToolSpec]) -> Json:
        return {
            "model": self._config.model,
            "max_tokens": self._config.max_tokens,
            "system": [{"type": "text", "text": system}],
            "messages": list(messages),
            "tools": [
                {"name": t.name, "description": t.description, "input_schema": dict(t.schema)}
                for t in tools
            ],
        }

    def user(self, text: str) -> Json:
        return {"role": "user", "content": [{"type": "text", "text": text}]}

    def results(self, calls: Sequence[ToolCall], answers: Sequence[ToolAnswer]) -> list[Json]:
        blocks = []
        for call, answer in zip(calls, answers, strict=True):
            block = {"type": "tool_result", "tool_use_id": call.id, "content": answer.text}
            blocks.append(block | ({"is_error": True} if answer.error else {}))
        return [{"role": "user", "content": blocks}]

    def read(self, response: Mapping[str, Any]) -> Reply:
        content = response.get("content")
        if not isinstance(content, list) or not all(isinstance(b, Mapping) for b in content):
            raise GarbledAnswer("the answer holds no content")
        texts, calls, kept = [], [], []
        for block in content:
            if block.get("type") == "text":
                text = block.get("text")
                if not isinstance(text, str):
                    raise GarbledAnswer("a text block of the answer holds no text")
                texts.append(text)
                if text.strip():
                    kept.append({"type": "text", "text": _shown(text)})
            elif block.get("type") == "tool_use":
                call = _call(block.get("id"), block.get("name"), block.get("input"), len(calls))
                calls.append(call)
                told = {} if call.problem else dict(call.arguments)
                kept.append({"type": "tool_use", "id": call.id, "name": call.name, "input": told})
            else:  # thinking: goes back as it is
                kept.append(dict(block))
        usage, reason = response.get("usage"), response.get("stop_reason")
        read, written = "cache_read_input_tokens", "cache_creation_input_tokens"
        counts = ModelUsage(
            calls=1,
            prompt_tokens=sum(_count(usage, name) for name in ("input_tokens", read, written)),
            completion_tokens=_count(usage, "output_tokens"),
            cached_tokens=_count(usage, read),
        )
        return Reply(
            text="".join(texts),
            calls=tuple(calls),
            message={
                "role": "assistant",
                "content": kept or [{"type": "text", "text": "(empty)"}],
            },
            cut=reason in ("max_tokens", "model_context_window_exceeded"),
            refused="refusal" if reason == "refusal" else "",
            usage=counts,
            cache_written_tokens=_count(usage, written),
        )

    def connect(self, config: PolicyConfig, key: str) -> Any:
        try:
            import anthropic
        except ImportError as error:
            raise missing_sdk("anthropic") from error
        url = server_url(self, config)
        return anthropic.AsyncAnthropic(
            api_key=key, base_url=url, timeout=config.timeout_s, max_retries=0
        )

    async def send(self, client: Any, body: Json) -> Json:
        while True:
            ask = client.messages.with_streaming_response.create
            try:
                async with ask(**_cached(body), stream=self._stream) as answer:
                    return await whole(answer, anthropic_answer)
            except Exception as error:
                bad = getattr(error, "status_code", None) in (400, 422)
                if not bad or not self._stream or not refuses_streams(words(error)):
                    raise
                self._stream = False


def _cached(body: Json) -> Json:
    """The request with marks where the server's prompt cache may begin and go on.

    The rules and tools are the same for every review, the conversation grows at its end: one mark
    after each, and one at the last place that was marked, of which the cache knows already.
    """
    marked = copy.deepcopy(body)
    mark = {"cache_control": {"type": "ephemeral"}}
    marked["system"][-1] |= mark
    own = [message for message in marked["messages"] if message["role"] == "user"]
    for message in own[-2:]:
        message["content"][-1] |= mark
    return marked


def server_url(api: Api, config: PolicyConfig) -> str:
    """Where requests go."""
    if config.base_url:
        return config.base_url
    return "https://api.openai.com/v1" if api.kind == "openai" else "https://api.anthropic.com"


def _call(call_id: Any, name: Any, given: Any, number: int) -> ToolCall:
    """A call in neutral form; whatever the model wrote as arguments is data."""
    call_id = call_id if isinstance(call_id, str) and call_id else f"call_{number}"
    name = name if isinstance(name, str) and re.fullmatch(r"[\w-]{1,64}", name) else "unnamed"
    if isinstance(given, str):
        if len(given) > MAX_ARGUMENT_CHARS:
            problem = f"arguments: {len(given)} characters; at most {MAX_ARGUMENT_CHARS} are read"
            return ToolCall(call_id, name, {}, problem)
        try:
            given = json.loads(given or "{}", parse_constant=no_constant)
        except RecursionError:
            return ToolCall(call_id, name, {}, "arguments: JSON nested too deeply")
        except ValueError as error:
            begin = given[:80] + ("..." if len(given) > 80 else "")
            return ToolCall(call_id, name, {}, f"arguments: not JSON ({error}): {begin!r}")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        return ToolCall(call_id, name, {}, f"arguments: a JSON object is wanted, not {kind}")
    if deeper(given, MAX_ARGUMENT_DEPTH):
        return ToolCall(call_id, name, {}, "arguments: JSON nested too deeply")
    return ToolCall(call_id, name, given)


def _shown(text: str) -> str:
    return text if len(text) <= MAX_HISTORY_CHARS else text[:MAX_HISTORY_CHARS] + " [cut]"


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
