"""What comes back from either API: one JSON body, or server-sent events put together to the same.

A long answer that is streamed is not taken for a dead connection by what lies between here and the
server. What was put together is what `Api.read` reads and what is recorded; a stream that ends before
the answer does is no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from automem_jax.policies.retry import GarbledAnswer

MAX_STREAM_CHARS = 50_000_000  # of a whole stream; no answer is longer
MAX_RESPONSE_DEPTH = 200
Json = dict[str, Any]


async def whole(answer: Any, assemble: Callable[[AsyncIterator[str]], Awaitable[Json]]) -> Json:
    """An answer's JSON: from its stream or, where the server does not stream, from its body.

    Args:
      answer: of an SDK's `with_streaming_response`. assemble: openai_answer or anthropic_answer.

    Raises:
      GarbledAnswer: it is no answer, or not a whole one.
    """
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        return decoded(await answer.read())
    return await assemble(data_of(answer.iter_lines()))


def refuses_streams(said: str) -> bool:
    """Whether what a server says of a bad request is about streaming."""
    return bool(re.search(r"\bstream(?:ing|_options)?\b", said, re.IGNORECASE))


async def data_of(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The data of each event, the lines of one joined; names, comments and ids are passed over.

    Raises:
      GarbledAnswer: the stream is endless.
    """
    held: list[str] = []
    seen = 0
    async for line in lines:
        seen += len(line)
        if seen > MAX_STREAM_CHARS:
            raise GarbledAnswer(f"the stream is longer than {MAX_STREAM_CHARS} characters")
        line = line.rstrip("\r\n")
        if line.startswith("data:"):
            held.append(line[5:].removeprefix(" "))
        elif not line and held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


async def openai_answer(events: AsyncIterator[str]) -> Json:
    """A chat completion from its chunks.

    Raises:
      GarbledAnswer: a chunk is none, the server reports an error, or the stream ends before [DONE].
    """
    answer: Json = {"choices": []}
    message: Json = {"role": "assistant", "content": None}
    calls: list[Json] = []
    reason = None
    async for data in events:
        if data.strip() == "[DONE]":
            break
        chunk = _no_error(decoded(data))
        answer |= {name: chunk[name] for name in ("id", "model", "usage") if chunk.get(name)}
        for choice in _mappings(chunk.get("choices")):
            if choice.get("index"):
                continue  # one answer was asked for
            delta = choice.get("delta")
            if isinstance(delta, Mapping):
                for name in ("content", "refusal"):
                    if delta.get(name):
                        message[name] = (message.get(name) or "") + _text(delta[name], name)
                for part in _mappings(delta.get("tool_calls")):
                    _add_to_call(calls, part)
            reason = choice.get("finish_reason") or reason
    else:
        raise GarbledAnswer("the stream ended before the answer did")
    if reason is None:
        raise GarbledAnswer("the streamed answer holds no finish_reason")
    if calls:
        message["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index"} for call in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return answer | {"object": "chat.completion", "choices": [choice]}


def _add_to_call(calls: list[Json], part: Mapping[str, Any]) -> None:
    """A call comes in pieces: its id and name once, its arguments bit by bit."""
    index, name = part.get("index", len(calls)), part.get("id")
    found = [call for call in calls if call["index"] == index]
    # Some servers number all calls alike, and only their ids tell them apart.
    call = next((c for c in reversed(found) if not name or c.get("id") in (None, name)), None)
    if call is None:
        call = {"index": index, "type": "function", "function": {"name": "", "arguments": ""}}
        calls.append(call)
    function = part.get("function")
    if isinstance(function, Mapping):
        call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
        call["function"]["arguments"] += _text(function.get("arguments") or "", "arguments")
    call |= {k: v for k, v in part.items() if v and k not in ("index", "function")}


async def anthropic_answer(events: AsyncIterator[str]) -> Json:
    """A message from its events.

    Raises:
      GarbledAnswer: an event is none, the server reports an error, or the stream ends before message_stop.
    """
    answer: Json | None = None
    blocks: dict[Any, Json] = {}
    arguments: dict[Any, str] = {}
    async for data in events:
        event = _no_error(decoded(data))
        kind = event.get("type")
        if kind == "message_start":
            answer = dict(_mapping(event, "message"))
            answer["usage"] = dict(_mapping(answer, "usage"))
        elif answer is None:
            continue
        elif kind == "content_block_start":
            blocks[event.get("index")] = dict(_mapping(event, "content_block"))
        elif kind == "content_block_delta":
            block = blocks.get(event.get("index"))
            if block is None:
                raise GarbledAnswer("the stream goes on with a block that it never began")
            delta = _mapping(event, "delta")
            if delta.get("type") == "input_json_delta":
                told = _text(delta.get("partial_json", ""), "partial_json")
                arguments[event["index"]] = arguments.get(event["index"], "") + told
            else:
                _add_to_block(block, delta)
        elif kind == "message_delta":
            answer |= {k: v for k, v in _mapping(event, "delta").items() if v is not None}
            usage = event.get("usage")
            if isinstance(usage, Mapping):
                answer["usage"] |= {k: v for k, v in usage.items() if v is not None}
        elif kind == "message_stop":
            break
    else:
        raise GarbledAnswer("the stream ended before the answer did")
    for index, text in arguments.items():
        blocks[index]["input"] = _object_or_text(text)
    return answer | {"content": list(blocks.values())}


def _add_to_block(block: Json, delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "citation":
            block["citations"] = [*(block.get("citations") or ()), value]
        elif name in ("text", "thinking", "signature"):
            block[name] = (block.get(name) or "") + _text(value, name)


def _object_or_text(text: str) -> Any:
    """Arguments as the object they are; what cannot be read stays text, for `Api.read` to complain of."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _no_error(event: Json) -> Json:
    error = event.get("error")
    if error:
        said = error.get("message") or error.get("type") if isinstance(error, Mapping) else error
        raise GarbledAnswer(f"the server broke the stream off: {' '.join(str(said).split())[:200]}")
    return event


def _mapping(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = event.get(name)
    if not isinstance(value, Mapping):
        raise GarbledAnswer(f"an event of the stream holds no {name}")
    return value


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    for item in value if isinstance(value, list) else ():
        if not isinstance(item, Mapping):
            raise GarbledAnswer("a chunk of the stream holds something that is no object")
        yield item


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise GarbledAnswer(f"{name} of a streamed answer is no text")
    return value


def decoded(data: bytes | str) -> Json:
    """A JSON object that a server sent.

    Raises:
      GarbledAnswer: it is none, or nested too deeply.
    """
    try:
        value = json.loads(data, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise GarbledAnswer(f"the answer is not JSON ({type(error).__name__}: {error})") from None
    if deeper(value, MAX_RESPONSE_DEPTH):
        raise GarbledAnswer("the answer is nested too deeply")
    if not isinstance(value, dict):
        raise GarbledAnswer("the answer is no JSON object")
    return value


def no_constant(name: str) -> Any:
    """Refuses NaN and infinities, for json.loads(parse_constant=...)."""
    raise ValueError(f"{name} is no JSON value")


def deeper(value: Any, most: int) -> bool:
    """Whether lists and objects lie deeper in one another than `most`."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(value, (dict, list)) for value in level)
