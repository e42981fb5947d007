"""Renders a conversation to tokens AND, in the same pass, which tokens are supervised.

One function does both, so that a mask can never drift from the text it belongs to.

Worked example, format "roles", one supervised assistant message (weight row below the tokens):

    <|user|> see lichen <|end|> <|assistant|> <|APPEND|> notes | lichen <|END|> <|end|>
        0     0    0       0         0             1       1   1    1       1      1

The weight sits on the token that is to be predicted; the loss shifts by one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from automem_jax.text.messages import Message
from automem_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChatFormat:
    """How a turn is written. Parts are control tokens ("<|...|>" in `controls`) or plain text.

    `role_prefix` has "{role}" replaced by the turn's role; `default_system` is what the model's own
    template adds where a conversation has no system message.
    """

    controls: tuple[str, ...]
    start: tuple[str, ...]
    role_prefix: tuple[str, ...]
    close: tuple[str, ...]
    default_system: str | None = None


_COUNTED_TURNS = 4096

FORMATS = {
    "roles": ChatFormat(
        controls=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        start=(),
        role_prefix=("<|{role}|>",),
        close=("<|end|>",),
    ),
    "chatml": ChatFormat(
        controls=("<|im_start|>", "<|im_end|>"),
        start=(),
        role_prefix=("<|im_start|>", "{role}\n"),
        close=("<|im_end|>", "\n"),
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "llama3": ChatFormat(
        controls=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        start=("<|begin_of_text|>",),
        role_prefix=("<|start_header_id|>", "{role}", "<|end_header_id|>", "\n\n"),
        close=("<|eot_id|>",),
    ),
}


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, *, add_generation_prompt: bool = True
) -> list[int]:
    """Token ids of a conversation, ready for the model to answer."""
    ids, _ = _render(messages, tokenizer, {})
    if add_generation_prompt:
        ids += _parts(FORMATS[tokenizer.chat_format].role_prefix, "assistant", tokenizer)
    return ids


def render_supervised(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    spans: Sequence[tuple[int, int, int]],
) -> tuple[list[int], list[float]]:
    """Token ids and a weight per token: 1.0 where it is supervised, else 0.0.

    Args:
      messages: the conversation, the supervised assistant turns included.
      spans: (message index, start, end) character spans that are supervised. A token counts when
        its characters overlap the span. Where a span reaches the end of its message, the
        end-of-turn token is supervised too: the model must learn to stop.

    Raises:
      ValueError: a span names a message that is not the assistant's, lies outside its text, or no
        token at all is supervised.
    """
    by_message: dict[int, list[tuple[int, int]]] = {}
    for index, start, end in spans:
        if not 0 <= index < len(messages) or messages[index].role != "assistant":
            raise ValueError(
                f"supervised span {(index, start, end)}: message {index} is not an assistant turn"
            )
        if not 0 <= start < end <= len(messages[index].content):
            raise ValueError(
                f"supervised span {(index, start, end)} lies outside its message of "
                f"{len(messages[index].content)} characters"
            )
        by_message.setdefault(index, []).append((start, end))
    ids, weights = _render(messages, tokenizer, by_message)
    if not any(weights):
        raise ValueError("no token is supervised; give at least one non-empty span")
    return ids, weights


def _render(messages, tokenizer, spans_by_message) -> tuple[list[int], list[float]]:
    chat = FORMATS[tokenizer.chat_format]
    ids = _parts(chat.start, "", tokenizer)
    if chat.default_system is not None and (not messages or messages[0].role != "system"):
        ids += _turn(Message("system", chat.default_system), tokenizer, chat)
    weights = [0.0] * len(ids)
    for index, message in enumerate(messages):
        spans = spans_by_message.get(index)
        if not spans:
            turn = _turn(message, tokenizer, chat)
            ids += turn
            weights += [0.0] * len(turn)
            continue
        opening = _parts(chat.role_prefix, message.role, tokenizer)
        content, offsets = tokenizer.encode_with_offsets(message.content)
        closing = _parts(chat.close, message.role, tokenizer)
        ids += opening + content + closing
        weights += [0.0] * len(opening)
        weights += [float(any(s < end and start < e for s, e in spans)) for start, end in offsets]
        ends = any(e == len(message.content) for _, e in spans)
        weights += [float(ends)] + [0.0] * (len(closing) - 1)
    return ids, weights


def _turn(message: Message, tokenizer: Tokenizer, chat: ChatFormat) -> list[int]:
    return (
        _parts(chat.role_prefix, message.role, tokenizer)
        + tokenizer.encode(message.content)
        + _parts(chat.close, message.role, tokenizer)
    )


def _parts(parts: tuple[str, ...], role: str, tokenizer: Tokenizer) -> list[int]:
    ids = []
    for part in parts:
        part = part.replace("{role}", role)
        is_control = part.startswith("<|") and part.endswith("|>")
        ids += [tokenizer.control(part)] if is_control else tokenizer.encode(part)
    return ids


class TokenCount:
    """How many tokens `render` makes of a conversation, generation prompt included; each turn is
    encoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        chat = FORMATS[tokenizer.chat_format]
        self._default = chat.default_system
        self._constant = len(_parts(chat.start, "", tokenizer))
        self._constant += len(_parts(chat.role_prefix, "assistant", tokenizer))
        self._turn = functools.lru_cache(maxsize=_COUNTED_TURNS)(
            lambda role, content: len(_turn(Message(role, content), tokenizer, chat))
        )

    def __call__(self, messages: Sequence[Message]) -> int:
        total = self._constant + sum(self._turn(m.role, m.content) for m in messages)
        if self._default is not None and (not messages or messages[0].role != "system"):
            total += self._turn("system", self._default)
        return total
