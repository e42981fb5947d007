"""Chat completions: a checked request becomes generations, their events an answer or a stream."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from automem_jax.sampling.requests import Event, Generated, GenerationRequest, QueueFull
from automem_jax.serve import protocol
from automem_jax.serve.asgi import Answer, ClientGone, Limits, Receive, disconnected
from automem_jax.serve.driver import Driver, EngineFailed
from automem_jax.serve.protocol import ApiError, ChatRequest
from automem_jax.text import chat
from automem_jax.text.tokenizer import Tokenizer

_SEED_DOMAIN = 0x53455256  # keeps a client's seeds apart from a rollout's keys
_LONG_PROMPT = 20_000  # characters; tokenised beside the loop, so that others are served meanwhile


class Completions:
    """Answers checked chat requests with the driver's engine.

    Args:
      base: the name that means the base; any other is an adapter's.
      max_context: the engine's, in tokens.

    Attributes:
      in_flight: requests that are being answered.
    """

    def __init__(
        self,
        driver: Driver,
        tokenizer: Tokenizer,
        *,
        base: str,
        max_context: int,
        limits: Limits,
    ):
        self.in_flight = 0
        self._driver, self._tokenizer = driver, tokenizer
        self._base, self._max_context, self._limits = base, max_context, limits
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among those that are answered at once. Raises ApiError (429): there is none."""
        if self.in_flight >= self._limits.requests:
            raise _busy(f"{self.in_flight} requests are being answered")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def answer(self, request: ChatRequest, receive: Receive, answer: Answer) -> None:
        """Answers one request, whole or as a stream.

        Raises:
          ApiError: it cannot be answered. ClientGone, EngineFailed: it was not.
        """
        if sum(len(m.content) for m in request.messages) < _LONG_PROMPT:
            asked = self._generations(request)
        else:
            asked = await asyncio.to_thread(self._generations, request)
        await self._answer_chat(request, asked, receive, answer)

    def _generations(self, request: ChatRequest) -> list[GenerationRequest]:
        prompt = chat.render(request.messages, self._tokenizer, add_generation_prompt=True)
        room = self._max_context - len(prompt)
        wanted = request.sampling.max_tokens
        if room < max(1, wanted):
            raise ApiError(
                400,
                f"this model's context is {self._max_context} tokens; the messages take "
                f"{len(prompt)}, and {wanted or 'at least 1'} more are asked for; shorten one or "
                "the other",
                code="context_length_exceeded",
                param="messages",
            )
        if self._limits.max_tokens:
            if wanted > self._limits.max_tokens:
                raise ApiError(
                    400,
                    f"max_tokens {wanted} is beyond this server's {self._limits.max_tokens}",
                    param="max_tokens",
                )
            room = min(room, self._limits.max_tokens)
        sampling = dataclasses.replace(request.sampling, max_tokens=wanted or room)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        adapter = None if request.model == self._base else request.model
        return [
            GenerationRequest(
                id=next(self._numbers),
                prompt_ids=prompt,
                sampling=sampling,
                key=_random_words(seed, index),
                adapter=adapter,
                top_logprobs=request.top_logprobs,
            )
            for index in range(request.choices)
        ]

    async def _answer_chat(
        self,
        request: ChatRequest,
        asked: list[GenerationRequest],
        receive: Receive,
        answer: Answer,
    ) -> None:
        events: asyncio.Queue[tuple[int, Event | BaseException]] = asyncio.Queue()
        gone = asyncio.ensure_future(disconnected(receive))
        gone.add_done_callback(lambda _: events.put_nowait((-1, ClientGone())))
        submitted = []
        try:
            for index, generation in enumerate(asked):
                submitted.append(generation.id)
                try:
                    await self._driver.submit(
                        generation, lambda event, index=index: events.put_nowait((index, event))
                    )
                except QueueFull as error:
                    raise _busy("the queue is full") from error
                except ValueError as error:
                    raise ApiError(400, str(error)) from error
            stream = self._events(events, len(asked))
            if request.stream:
                await self._stream(request, asked, stream, answer)
            else:
                await self._whole(request, asked, stream, answer)
        finally:
            for id in submitted:  # of those that are answered the driver knows nothing more
                self._driver.cancel(id)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _events(
        self, events: asyncio.Queue[tuple[int, Event | BaseException]], open_choices: int
    ) -> AsyncIterator[tuple[int, Event]]:
        """(choice, event) until every choice has ended. Raises ClientGone, EngineFailed."""
        while open_choices:
            index, event = await events.get()
            if isinstance(event, BaseException):
                raise event
            open_choices -= event.finished is not None
            yield index, event

    async def _whole(self, request, asked, stream, answer: Answer) -> None:
        finished: dict[int, Generated] = {}
        async for index, event in stream:
            if event.finished is not None:
                finished[index] = event.finished
        generated = [finished[index] for index in range(len(asked))]
        body = protocol.completion_body(
            request,
            _answer_id(),
            int(time.time()),
            generated,
            len(asked[0].prompt_ids),
            self._tokenizer,
        )
        await answer.json(200, body)

    async def _stream(self, request, asked, stream, answer: Answer) -> None:
        answer_id, created = _answer_id(), int(time.time())

        def chunk(index: int, delta: Mapping[str, Any], **more: Any) -> dict[str, Any]:
            return protocol.chunk_body(request, answer_id, created, index, delta, **more)

        await answer.start_stream()
        for index in range(len(asked)):
            await answer.event(chunk(index, {"role": "assistant", "content": ""}))
        sent = [0] * len(asked)
        finished: dict[int, Generated] = {}
        try:
            async for index, event in stream:
                entries = self._entries(request, event)
                text, matched = event.text, None
                if event.finished is not None:
                    whole, matched = protocol.visible_text(
                        event.finished.text, request.sampling.stop, request.keep_stop
                    )
                    text = whole[sent[index] :]
                sent[index] += len(text)
                if text or entries:
                    await answer.event(chunk(index, {"content": text}, logprobs=entries))
                if event.finished is not None:
                    finished[index] = event.finished
                    reason = protocol.finish_reason(event.finished)
                    await answer.event(chunk(index, {}, finished=reason, matched=matched))
        except EngineFailed as error:
            await answer.event(ApiError(503, str(error), kind="server_error").body())
            await answer.end_stream()
            return
        if request.include_usage:
            generated = [finished[index] for index in range(len(asked))]
            counts = protocol.usage(len(asked[0].prompt_ids), generated)
            await answer.event(protocol.usage_chunk(request, answer_id, created, counts))
        await answer.end_stream()

    def _entries(self, request: ChatRequest, event: Event) -> list[dict[str, Any]] | None:
        """The log-probabilities that go with an event. The alternatives come with the whole answer, so
        where they are asked for all go with its end."""
        if not request.logprobs or (request.top_logprobs and event.finished is None):
            return None
        told = event.finished if request.top_logprobs else event
        top = told.top_logprobs if request.top_logprobs else ()
        return protocol.logprob_entries(self._tokenizer, told.token_ids, told.logprobs, top)


def _busy(why: str) -> ApiError:
    return ApiError(
        429,
        f"{why}; try again",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": "1"},
    )


def _random_words(seed: int, choice: int) -> tuple[int, int, int, int, int]:
    """The words that one choice's randomness follows from."""
    mask = 0xFFFFFFFF
    return _SEED_DOMAIN, seed & mask, (seed >> 32) & mask, choice, 0


def _answer_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
