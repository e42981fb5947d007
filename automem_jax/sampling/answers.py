"""An answer in the making: tokens, text, where it ends."""

from __future__ import annotations

import numpy as np

from automem_jax.sampling.adapter_bank import Version
from automem_jax.sampling.programs import Burst
from automem_jax.sampling.requests import Event, Generated, GenerationRequest
from automem_jax.sampling.text_stream import TextStream
from automem_jax.text.tokenizer import Tokenizer


class Answer:
    """One request's state beside its blocks.

    Attributes:
      version: of the adapter that it began with; None: the base.
      submitted: time.perf_counter() of its submission.
      token_ids, logprobs, top_logprobs: as in Generated, so far.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        version: Version | None,
        submitted: float,
    ):
        self.request, self.version, self.submitted = request, version, submitted
        self.reused_tokens = 0
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[tuple[tuple[int, float], ...]] = []
        self._eos_id = tokenizer.eos_id
        self._stream = TextStream(tokenizer, request.sampling.stop)
        self._state = None if request.constraint is None else request.constraint.start()

    @property
    def newest(self) -> int:
        """The token that decoding goes on from."""
        return self.token_ids[-1] if self.token_ids else int(self.request.prompt_ids[-1])

    @property
    def position(self) -> int:
        """Where that token stands."""
        return len(self.request.prompt_ids) + len(self.token_ids) - 1

    @property
    def remaining(self) -> int:
        """Tokens that may still be drawn."""
        return self.request.sampling.max_tokens - len(self.token_ids)

    def mask(self) -> np.ndarray | None:
        """[V] bool, what may come next; None: anything."""
        constraint = self.request.constraint
        return None if constraint is None else constraint.allowed(self._state)

    def take(self, burst: Burst, row: int) -> Event:
        """Takes what a burst drew for this row, up to where the answer ends.

        Under a constraint only the burst's first token was masked: what comes after a token that leads to
        a mask is left to be drawn again.
        """
        start, reason = len(self.token_ids), None
        for step in range(int(burst.counts[row])):
            if step and self.mask() is not None:
                break
            token = int(burst.tokens[row, step])
            self._put(token, burst, row, step)
            if token == self._eos_id:
                reason = "stop"
            elif self._stream.add(token):
                reason = "stop_string"
            elif not self.remaining:
                reason = "length"
            if reason:
                break
        finished = None
        delta = self._stream.delta(last=reason is not None)
        if reason:
            finished = Generated(
                tuple(self.token_ids),
                tuple(self.logprobs),
                self._stream.text,
                reason,
                len(self.request.prompt_ids),
                self.reused_tokens,
                tuple(self.top_logprobs),
            )
        ids, logprobs = tuple(self.token_ids[start:]), tuple(self.logprobs[start:])
        return Event(self.request.id, ids, logprobs, delta, finished)

    def _put(self, token: int, burst: Burst, row: int, step: int) -> None:
        self.token_ids.append(token)
        self.logprobs.append(float(burst.logprobs[row, step]))
        count = self.request.top_logprobs
        if count:
            pairs = zip(burst.top_ids[row, step], burst.top_logprobs[row, step], strict=True)
            self.top_logprobs.append(tuple((int(i), float(p)) for i, p in list(pairs)[:count]))
        if self.request.constraint is not None:
            self._state = self.request.constraint.advance(self._state, token)
