"""Renders a conversation to tokens AND, in the same pass, which tokens are supervised.

One function does both, so that a mask can never drift from the text it belongs to.

Worked example, format "roles", one supervised assistant message (weight row below the tokens):

    <|user|> see lichen <|end|> <|assistant|> <|APPEND|> notes | lichen <|END|> <|end|>
        0     0    0       0         0             1       1   1    1       1      1

The weight sits on the token that is to be predicted; the loss shifts by one.

A turn that is only read is encoded with its role line in one stretch, as the tokenizer's own template
does. A turn that is learnt starts anew after its role line, as generation does, and takes the
sampler's own tokens where they are given: what is trained is what was sampled, not another spelling
of the same text.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from automem_jax.text.messages import Message
from automem_jax.text.tokenizer import Tokenizer

Span = tuple[int, int, int] | tuple[int, int, int, float]


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

_CHATML = ChatFormat(
    controls=("<|im_start|>", "<|im_end|>"),
    start=(),
    role_prefix=("<|im_start|>", "{role}\n"),
    close=("<|im_end|>", "\n"),
)
FORMATS = {
    "roles": ChatFormat(
        controls=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        start=(),
        role_prefix=("<|{role}|>",),
        close=("<|end|>",),
    ),
    "chatml": dataclasses.replace(
        _CHATML,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "smollm2": dataclasses.replace(
        _CHATML,
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ),
    "llama3": ChatFormat(
        controls=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        start=("<|begin_of_text|>",),
        role_prefix=("<|start_header_id|>", "{role}", "<|end_header_id|>", "\n\n"),
        close=("<|eot_id|>",),
    ),
}


@dataclass(frozen=True)
class TurnTokens:
    """Where a turn lies in the ids: [start, content) opens it, [content, close) is its text, and
    [close, stop) ends it. `message` is its index, -1 for a system message that the format added."""

    message: int
    role: str
    start: int
    content: int
    close: int
    stop: int


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
      ids, weights: equal lengths; `weights[i]` is the loss weight of predicting `ids[i]`.
      turns: in order.
      sampled: learnt turns that are in the sampler's own tokens.
      retokenised: learnt turns whose given tokens do not spell the text, so it was encoded anew.
    """

    ids: list[int]
    weights: list[float]
    turns: tuple[TurnTokens, ...]
    sampled: int = 0
    retokenised: int = 0


def chat_format(tokenizer: Tokenizer) -> ChatFormat:
    """The tokenizer's format, with the default system message of its own template if it names one."""
    chat = FORMATS[tokenizer.chat_format]
    if hasattr(tokenizer, "default_system"):
        chat = dataclasses.replace(chat, default_system=tokenizer.default_system)
    return chat


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, *, add_generation_prompt: bool = True
) -> list[int]:
    """Token ids of a conversation, ready for the model to answer."""
    ids = _render(messages, tokenizer, {}, {}).ids
    if add_generation_prompt:
        ids = ids + _parts(chat_format(tokenizer).role_prefix, "assistant", tokenizer)
    return ids


def render_supervised(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    spans: Sequence[Span],
    sampled_ids: Mapping[int, Sequence[int]] | None = None,
) -> tuple[list[int], list[float]]:
    """Token ids and a weight per token; see `render_conversation`."""
    rendered = render_conversation(messages, tokenizer, spans, sampled_ids)
    return rendered.ids, rendered.weights


def render_conversation(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    spans: Sequence[Span],
    sampled_ids: Mapping[int, Sequence[int]] | None = None,
) -> Rendered:
    """A conversation with a weight per token: that of the span it lies in, else 0.0.

    Args:
      messages: the conversation, the supervised assistant turns included.
      spans: (message index, start, end) or (message index, start, end, weight): character spans
        that are supervised, with weight 1.0 where none is given. A token counts when its characters
        overlap the span; in several, with the largest weight. Where a span reaches the end of its
        message, the end-of-turn token is supervised too: the model must learn to stop.
      sampled_ids: message index -> the tokens that the sampler drew, an end-of-turn token included
        or not. Used for supervised turns whose text they spell, or begin with; the text of other
        turns was encoded for the model when it was sampled, and is here.

    Raises:
      ValueError: a span names a message that is not the assistant's, lies outside its text, has a
        weight that is negative or not finite, or no token at all is supervised.
    """
    by_message: dict[int, list[tuple[int, int, float]]] = {}
    for span in spans:
        index, start, end = span[:3]
        weight = float(span[3]) if len(span) > 3 else 1.0
        if not 0 <= index < len(messages) or messages[index].role != "assistant":
            raise ValueError(
                f"supervised span {tuple(span)}: message {index} is not an assistant turn"
            )
        if not 0 <= start < end <= len(messages[index].content):
            raise ValueError(
                f"supervised span {tuple(span)} lies outside its message of "
                f"{len(messages[index].content)} characters"
            )
        if not 0.0 <= weight < float("inf"):
            raise ValueError(f"supervised span {tuple(span)}: weight must be finite, at least 0")
        if weight > 0.0:
            by_message.setdefault(index, []).append((start, end, weight))
    rendered = _render(messages, tokenizer, by_message, sampled_ids or {})
    check_supervision(rendered, by_message)
    return rendered


def check_supervision(rendered: Rendered, supervised: Sequence[int] | Mapping[int, object]) -> None:
    """Refuses weights that would teach something else than the `supervised` messages (by index).

    Raises:
      ValueError: no token is supervised; one of the prompt is (a system or user turn, or what opens a
        turn); one of a masked turn is, its end of turn included; or one after the end of a turn.
    """
    if not any(rendered.weights):
        raise ValueError("no token is supervised; give at least one non-empty span")
    if len(rendered.weights) != len(rendered.ids):
        raise ValueError(f"{len(rendered.weights)} weights for {len(rendered.ids)} tokens")

    def taught(start: int, stop: int) -> bool:
        return any(rendered.weights[start:stop])

    if rendered.turns and taught(0, rendered.turns[0].start):
        raise ValueError("tokens before the first turn are supervised")
    for turn in rendered.turns:
        name = f"message {turn.message} ({turn.role})"
        if turn.role != "assistant" and taught(turn.start, turn.stop):
            raise ValueError(f"{name} is part of the prompt but is supervised")
        if taught(turn.start, turn.content):
            raise ValueError(f"the opening of {name} is part of the prompt but is supervised")
        if turn.message not in supervised:
            if taught(turn.close, turn.stop):
                raise ValueError(f"the end of turn of {name} is supervised, the turn is masked")
            if taught(turn.content, turn.close):
                raise ValueError(f"{name} is masked history but is supervised")
        if taught(turn.close + 1, turn.stop):
            raise ValueError(f"tokens after the end of {name} are supervised")


def _render(messages, tokenizer, spans_by_message, sampled_ids) -> Rendered:
    chat = chat_format(tokenizer)
    ids = _parts(chat.start, "", tokenizer)
    weights = [0.0] * len(ids)
    turns: list[TurnTokens] = []
    sampled = retokenised = 0
    numbered = list(enumerate(messages))
    if chat.default_system is not None and (not messages or messages[0].role != "system"):
        numbered.insert(0, (-1, Message("system", chat.default_system)))
    for index, message in numbered:
        start, spans = len(ids), spans_by_message.get(index)
        if spans:
            ids += _parts(chat.role_prefix, message.role, tokenizer)
            content_start = len(ids)
            spelt = None
            if index in sampled_ids:
                spelt = spelling(message.content, sampled_ids[index], tokenizer)
                sampled, retokenised = sampled + (spelt is not None), retokenised + (spelt is None)
            content, offsets = spelt or tokenizer.encode_with_offsets(message.content)
            ids += content
            weights += [0.0] * (content_start - start)
            weights += [_weight(s, e, spans) for s, e in offsets]
        else:
            opening, content = _read_turn(message, tokenizer, chat)
            ids += opening + content
            content_start = start + len(opening)
            weights += [0.0] * (len(ids) - start)
        close = len(ids)
        ids += _parts(chat.close, message.role, tokenizer)
        end = len(message.content)
        ending = max((weight for _, e, weight in spans or () if e == end), default=0.0)
        weights += [ending] + [0.0] * (len(ids) - close - 1)
        turns.append(TurnTokens(index, message.role, start, content_start, close, len(ids)))
    return Rendered(ids, weights, tuple(turns), sampled, retokenised)


def spelling(
    text: str, ids: Sequence[int], tokenizer: Tokenizer
) -> tuple[list[int], list[tuple[int, int]]] | None:
    """The leading tokens of `ids` that spell exactly `text`, and the character span of each.

    None where they do not: another text, one that ends inside a token, a control token before its
    end, or a tokenizer that cannot tell the bytes of a token.
    """
    pieces_of = getattr(tokenizer, "pieces", None)
    try:
        wanted = text.encode("utf-8")
        pieces = None if pieces_of is None else pieces_of([int(i) for i in ids])
    except (UnicodeEncodeError, IndexError, OverflowError):
        return None
    if pieces is None or not wanted:
        return None
    kept, position = [], 0
    for token, piece in zip(ids, pieces, strict=True):
        if position == len(wanted) or not piece:
            break
        kept.append(int(token))
        position += len(piece)
    pieces = pieces[: len(kept)]
    if b"".join(pieces) != wanted:
        return None
    # characters that begin before each byte; a token that starts inside one belongs to it too
    begun = [0, *accumulate(int(byte & 0xC0 != 0x80) for byte in wanted)]
    offsets, start = [], 0
    for piece in pieces:
        stop = start + len(piece)
        offsets.append((begun[start] - (wanted[start] & 0xC0 == 0x80), begun[stop]))
        start = stop
    return kept, offsets


def _weight(start: int, end: int, spans: Sequence[tuple[int, int, float]]) -> float:
    return max((weight for s, e, weight in spans if s < end and start < e), default=0.0)


def _read_turn(message: Message, tokenizer: Tokenizer, chat: ChatFormat):
    """(opening, content) of a turn that is only read: the role line's last words and the text are one
    stretch of text to the tokenizer, which may join what meets there."""
    *before, last = chat.role_prefix
    if _is_control(last):
        return _parts(chat.role_prefix, message.role, tokenizer), tokenizer.encode(message.content)
    opening = _parts(before, message.role, tokenizer)
    alone = last.replace("{role}", message.role)
    joint, apart = tokenizer.encode(alone + message.content), tokenizer.encode(alone)
    cut = len(apart) if joint[: len(apart)] == apart else 0
    return opening + joint[:cut], joint[cut:]


def _is_control(part: str) -> bool:
    return part.startswith("<|") and part.endswith("|>")


def _parts(parts: Sequence[str], role: str, tokenizer: Tokenizer) -> list[int]:
    ids = []
    for part in parts:
        is_control, part = _is_control(part), part.replace("{role}", role)
        ids += [tokenizer.control(part)] if is_control else tokenizer.encode(part)
    return ids


class TokenCount:
    """How many tokens `render` makes of a conversation, generation prompt included; each turn is
    encoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        chat = chat_format(tokenizer)
        self._default = chat.default_system
        self._constant = len(_parts(chat.start, "", tokenizer))
        self._constant += len(_parts(chat.role_prefix, "assistant", tokenizer))

        def turn(role: str, content: str) -> int:
            opening, text = _read_turn(Message(role, content), tokenizer, chat)
            return len(opening) + len(text) + len(_parts(chat.close, role, tokenizer))

        self._turn = functools.lru_cache(maxsize=_COUNTED_TURNS)(turn)

    def __call__(self, messages: Sequence[Message]) -> int:
        total = self._constant + sum(self._turn(m.role, m.content) for m in messages)
        if self._default is not None and (not messages or messages[0].role != "system"):
            total += self._turn("system", self._default)
        return total
