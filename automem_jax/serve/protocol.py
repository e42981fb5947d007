"""OpenAI's chat completions as data: a request's JSON in, checked; answers and chunks out.

Sans I/O. What the model cannot do is refused by name, not ignored; a field that asks for nothing (null,
a penalty of 0) is let through.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.sampling.requests import Generated
from automem_jax.text.messages import Message, SamplingSettings
from automem_jax.text.tokenizer import Tokenizer

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_READ = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "seed",
        "n",
        "stop",
    }
    | {"max_completion_tokens", "stream", "stream_options", "logprobs", "top_logprobs"}
    | {"include_stop_str_in_output", "no_stop_trim"}  # vLLM's and SGLang's words for one thing
)
_OF_NO_EFFECT = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier"}) | {
    "prompt_cache_key"
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # what may be said of what is not there
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "ignore_eos": (False,),
}


class ApiError(Exception):
    """An error as the API tells it. `status` is HTTP's; `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON that OpenAI's SDKs read."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


@dataclass(frozen=True)
class ChatRequest:
    """A checked request for chat completions.

    Attributes:
      sampling: max_tokens 0: the client named none.
      seed: None: the client named none.
      choices: how many answers. keep_stop: whether the stop string stays in the text.
      logprobs: whether to tell each token's; top_logprobs: how many others with each.
      include_usage: a stream ends with a chunk of token counts.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: SamplingSettings
    seed: int | None = None
    choices: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    keep_stop: bool = False


def decode_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises ApiError: anything else."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object")
    return data


def parse_chat(data: Mapping[str, Any]) -> ChatRequest:
    """Checks a request. Raises ApiError (400) that names the field, its value and what it may be."""
    data = {name: value for name, value in data.items() if value is not None}
    _refuse_unknown(data)
    model = data.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model", "name the model; GET /v1/models lists them")
    stop = data.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stop, list)
        or len(stop) > MAX_STOP_STRINGS
        or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_LENGTH for s in stop)
    ):
        raise _bad(
            "stop",
            f"must be a string or up to {MAX_STOP_STRINGS} of them, each of 1 to {MAX_STOP_LENGTH} "
            "characters",
        )
    limits = {
        name: _integer(data, name, 0, 1, MAX_SEED)
        for name in ("max_tokens", "max_completion_tokens")
    }
    sampling = SamplingSettings(
        temperature=_number(data, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(data, "top_p", 1.0, 0.0, 1.0, above=True),
        top_k=max(0, _integer(data, "top_k", 0, -1, 2**31 - 1)),
        min_p=_number(data, "min_p", 0.0, 0.0, 1.0),
        max_tokens=limits["max_completion_tokens"] or limits["max_tokens"],
        stop=tuple(dict.fromkeys(stop)),
    )
    seed = None
    if "seed" in data:
        seed = _integer(data, "seed", 0, -MAX_SEED, MAX_SEED)
    options = data.get("stream_options", {})
    if not isinstance(options, dict):
        raise _bad("stream_options", "must be an object")
    logprobs = _flag(data, "logprobs")
    top_logprobs = _integer(data, "top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top_logprobs and not logprobs:
        raise _bad("top_logprobs", "needs logprobs to be true")
    return ChatRequest(
        model=model,
        messages=_messages(data.get("messages")),
        sampling=sampling,
        seed=seed,
        choices=_integer(data, "n", 1, 1, MAX_CHOICES),
        stream=_flag(data, "stream"),
        include_usage=_flag(options, "include_usage"),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        keep_stop=_flag(data, "include_stop_str_in_output") or _flag(data, "no_stop_trim"),
    )


def _refuse_unknown(data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        if name in _READ or name in _OF_NO_EFFECT:
            continue
        if name in _NEUTRAL:
            if any(value == neutral for neutral in _NEUTRAL[name]):
                continue
            raise _bad(name, "is not supported by this server; leave it out")
        near = difflib.get_close_matches(name, _READ, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise _bad(name, f"is no argument that this server knows{hint}", "unknown_parameter")


def _messages(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise _bad("messages", "must be a list of at least one message")
    messages = []
    for index, message in enumerate(given):
        place = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise _bad(f"{place}.role", f"{_shown(role)} is none of {', '.join(_ROLES)}")
        if message.get("tool_calls"):
            raise _bad(f"{place}.tool_calls", "is not supported by this server; leave it out")
        messages.append(Message(_ROLES[role], _content(message.get("content"), f"{place}.content")))
    return tuple(messages)


def _content(content: Any, place: str) -> str:
    """The text of a message: a string, or a list of text parts."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise _bad(place, "must be a string or a list of text parts")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise _bad(place, "holds a part that is no text; this model reads text only")
        texts.append(text)
    joined = "".join(texts)
    if not joined.isascii() and any("\ud800" <= c <= "\udfff" for c in joined):
        raise _bad(place, "holds half a surrogate pair, which is no character")
    return joined


def _number(
    data: Mapping[str, Any], name: str, default: float, low: float, high: float, above: bool = False
) -> float:
    value = data.get(name, default)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= value <= high or (above and value == low) or math.isnan(value):
        span = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise _bad(name, f"must be a number {span}, got {_shown(value)}")
    return float(value)


def _integer(data: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = data.get(name, default)
    if name in data and (
        not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high
    ):
        raise _bad(name, f"must be a whole number from {low}, at most {high}, got {_shown(value)}")
    return value


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(name, f"must be true or false, got {_shown(value)}")
    return bool(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _bad(param: str, problem: str, code: str | None = None) -> ApiError:
    return ApiError(400, f"{param}: {problem}", code=code, param=param)


def visible_text(text: str, stop: Sequence[str], keep_stop: bool) -> tuple[str, str | None]:
    """The text as a client sees it, and the stop string that ended it (None: none did).

    It ends before the earliest stop string, or after it with `keep_stop`.
    """
    found = [(text.find(s), -len(s), s) for s in stop if s in text]
    if not found:
        return text, None
    place, _, matched = min(found)
    return text[: place + (len(matched) if keep_stop else 0)], matched


def logprob_entries(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    top: Sequence[Sequence[tuple[int, float]]] = (),
) -> list[dict[str, Any]]:
    """`logprobs.content` of some tokens; the end-of-turn token, which has no text, is left out."""
    entries = []
    for place, (token, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
        if token == tokenizer.eos_id:
            continue
        others = top[place] if place < len(top) else ()
        entry = _token(tokenizer, token, logprob)
        entry["top_logprobs"] = [_token(tokenizer, *other) for other in others]
        entries.append(entry)
    return entries


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    pieces = tokenizer.pieces([token]) if hasattr(tokenizer, "pieces") else None
    if pieces and not pieces[0] and hasattr(tokenizer, "name"):
        text = tokenizer.name(token)  # a control token: how the vocabulary writes it
        piece = text.encode()
    elif pieces:
        piece = pieces[0]
        text = piece.decode("utf-8", "replace")
    else:
        text = tokenizer.decode([token])
        piece = text.encode()
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(piece)}


def finish_reason(generated: Generated) -> str:
    """OpenAI's word: "length" where max_tokens ended it, else "stop"."""
    return "length" if generated.finish_reason == "length" else "stop"


def usage(prompt_tokens: int, generated: Sequence[Generated]) -> dict[str, Any]:
    """Token counts of an answer; the prompt counts once, however many choices were drawn."""
    completion = sum(len(g.token_ids) for g in generated)
    cached = generated[0].reused_tokens if generated else 0
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def completion_body(
    request: ChatRequest,
    answer_id: str,
    created: int,
    generated: Sequence[Generated],
    prompt_tokens: int,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """The whole answer of a request that does not stream."""
    choices = []
    for index, answer in enumerate(generated):
        text, matched = visible_text(answer.text, request.sampling.stop, request.keep_stop)
        entries = None
        if request.logprobs:
            entries = logprob_entries(
                tokenizer, answer.token_ids, answer.logprobs, answer.top_logprobs
            )
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None if entries is None else {"content": entries, "refusal": None},
                "finish_reason": finish_reason(answer),
                "stop_reason": matched,
            }
        )
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": choices,
        "usage": usage(prompt_tokens, generated),
    }


def chunk_body(
    request: ChatRequest,
    answer_id: str,
    created: int,
    index: int,
    delta: Mapping[str, Any],
    *,
    logprobs: Sequence[Mapping[str, Any]] | None = None,
    finished: str | None = None,
    matched: str | None = None,
) -> dict[str, Any]:
    """One chunk of a stream."""
    choice: dict[str, Any] = {
        "index": index,
        "delta": dict(delta),
        "logprobs": None if logprobs is None else {"content": list(logprobs), "refusal": None},
        "finish_reason": finished,
    }
    if finished is not None:
        choice["stop_reason"] = matched
    return _chunk(request, answer_id, created) | {"choices": [choice]}


def usage_chunk(
    request: ChatRequest, answer_id: str, created: int, counts: Mapping[str, Any]
) -> dict[str, Any]:
    """The last chunk of a stream that was asked for token counts."""
    return _chunk(request, answer_id, created) | {"choices": [], "usage": dict(counts)}


def _chunk(request: ChatRequest, answer_id: str, created: int) -> dict[str, Any]:
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": request.model,
    }
