"""The in-process policy: the sampler behind the policy contract."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import Adapter, with_adapters
from automem_jax.models.weights import base_hash
from automem_jax.sampling.sampler import Generation, Sampler
from automem_jax.text import chat
from automem_jax.text.messages import Completion, Request
from automem_jax.text.tokenizer import Tokenizer


@dataclass
class Usage:
    """What a policy has done so far."""

    requests: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class LocalPolicy:
    """Answers requests with one base model and at most one memory specialist beside it.

    Role "memory" goes to the adapter where there is one, "gameplay" always to the base.

    Args:
      model: the base; its arrays are shared, not copied, and the model itself is not changed.
      tokenizer: of that model.
      slots, max_context, run_seed: as for `Sampler`.
      adapter: the specialist, or None.
      buckets: compiled prompt lengths, as for `Sampler`.

    Raises:
      ValueError: the tokenizer's vocabulary does not fit the model, or the adapter does not.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        slots: int,
        max_context: int,
        run_seed: int,
        adapter: Adapter | None = None,
        buckets: Sequence[int] | None = None,
    ):
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}; "
                "load the tokenizer that belongs to the model"
            )
        if max_context > model.config.max_position:
            raise ValueError(
                f"max_context {max_context} is beyond the model's {model.config.max_position} "
                "positions; lower it"
            )
        self.max_batch = slots
        self.usage = Usage()
        self._tokenizer = tokenizer
        self._memory_adapter = 0 if adapter is None else 1
        model = with_adapters(model, [] if adapter is None else [adapter])
        self._sampler: Sampler | None = Sampler(
            model, tokenizer, slots, max_context, run_seed, buckets
        )
        self._identity = {
            "kind": "local",
            "base_hash": base_hash(model),
            "adapter_hash": None if adapter is None else adapter.hash(),
            "slots": slots,
            "max_context": max_context,
            "buckets": list(self._sampler.buckets),
        }

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in the order of the requests.

        A prompt that leaves no room for max_tokens within max_context is answered with
        finish_reason "error": one episode's overlong prompt must not end the others.

        Raises:
          RuntimeError: the policy was closed.
        """
        if self._sampler is None:
            raise RuntimeError("this policy was closed; make another")
        started = time.perf_counter()
        answers: list[Completion | None] = [None] * len(requests)
        places, generations = [], []
        for place, request in enumerate(requests):
            prompt = chat.render(request.messages, self._tokenizer, add_generation_prompt=True)
            room = self._sampler.max_context - request.sampling.max_tokens
            if len(prompt) > room:
                answers[place] = Completion(
                    "",
                    finish_reason="error",
                    error=f"prompt of {len(prompt)} tokens, room for {room} before max_tokens within "
                    f"max_context {self._sampler.max_context}; raise model.max_context or shorten "
                    "the template",
                )
                continue
            adapter = self._memory_adapter if request.role == "memory" else 0
            places.append(place)
            generations.append(Generation(prompt, request.sampling, request.key, adapter))
        generated = self._sampler.generate(generations) if generations else []
        for place, generation, answer in zip(places, generations, generated, strict=True):
            answers[place] = Completion(
                text=answer.text,
                token_ids=answer.token_ids,
                logprobs=answer.logprobs,
                finish_reason=answer.finish_reason,
                prompt_tokens=len(generation.prompt),
                completion_tokens=len(answer.token_ids),
            )
            self.usage.prompt_tokens += len(generation.prompt)
            self.usage.completion_tokens += len(answer.token_ids)
        self.usage.requests += len(requests)
        self.usage.calls += 1
        self.usage.seconds += time.perf_counter() - started
        return answers

    def describe(self) -> dict[str, Any]:
        """kind, base_hash, adapter_hash (None without adapter), slots, max_context, buckets."""
        return dict(self._identity)

    def close(self) -> None:
        """Frees weights and cache."""
        self._sampler = None
