"""The in-process policy: the engine behind the policy contract."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import Adapter
from automem_jax.models.weights import base_hash
from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import Generated, GenerationRequest, random_key
from automem_jax.text import chat
from automem_jax.text.messages import Completion, Request
from automem_jax.text.tokenizer import Tokenizer

SPECIALIST = "memory"  # the adapter's name in the engine


@dataclass
class Usage:
    """What a policy has done so far. `reused_tokens` of the prompts came from the cache."""

    requests: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class LocalPolicy:
    """Answers requests with one base model and at most one memory specialist beside it.

    Role "memory" goes to the adapter where there is one, "gameplay" always to the base.

    Args:
      model: the base; its arrays are shared, not copied, and the model itself is not changed.
      tokenizer: of that model.
      slots, max_context, prefix_reuse, mesh, kv_dtype: as for `Engine`.
      run_seed: the run's seed; with a request's key it decides what is drawn.
      adapter: the specialist, or None.

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
        prefix_reuse: bool = True,
        mesh: Mesh | None = None,
        kv_dtype: str | None = None,
    ):
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}; "
                "load the tokenizer that belongs to the model"
            )
        self.max_batch = slots
        self.usage = Usage()
        self._tokenizer = tokenizer
        self._run_seed = run_seed
        self._asked = 0
        self.engine: Engine | None = Engine(
            model,
            tokenizer,
            slots=slots,
            max_context=max_context,
            prefix_reuse=prefix_reuse,
            mesh=mesh,
            kv_dtype=kv_dtype,
            adapters={} if adapter is None else {SPECIALIST: adapter},
        )
        self._memory_adapter = None if adapter is None else SPECIALIST
        self._identity = {
            "kind": "local",
            "base_hash": base_hash(model),
            "adapter_hash": None if adapter is None else adapter.hash(),
            "slots": slots,
            "max_context": max_context,
        }

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in the order of the requests.

        A prompt that leaves no room for max_tokens within max_context is answered with
        finish_reason "error": one episode's overlong prompt must not end the others.

        Raises:
          RuntimeError: the policy was closed.
        """
        if self.engine is None:
            raise RuntimeError("this policy was closed; make another")
        started = time.perf_counter()
        answers: list[Completion | None] = [None] * len(requests)
        places: list[int] = []
        generations: list[GenerationRequest] = []
        for place, request in enumerate(requests):
            prompt = chat.render(request.messages, self._tokenizer, add_generation_prompt=True)
            room = self.engine.max_context - request.sampling.max_tokens
            if len(prompt) > room:
                answers[place] = Completion(
                    "",
                    finish_reason="error",
                    error=f"prompt of {len(prompt)} tokens, room for {room} before max_tokens within "
                    f"max_context {self.engine.max_context}; raise model.max_context or shorten "
                    "the template",
                )
                continue
            adapter = self._memory_adapter if request.role == "memory" else None
            key = random_key(self._run_seed, request.key)
            self._asked += 1
            places.append(place)
            generations.append(
                GenerationRequest(self._asked, prompt, request.sampling, key, adapter)
            )
        generated: list[Generated] = self.engine.generate(generations)
        for place, answer in zip(places, generated, strict=True):
            answers[place] = Completion(
                text=answer.text,
                token_ids=answer.token_ids,
                logprobs=answer.logprobs,
                finish_reason=answer.finish_reason,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=len(answer.token_ids),
            )
            self.usage.prompt_tokens += answer.prompt_tokens
            self.usage.reused_tokens += answer.reused_tokens
            self.usage.completion_tokens += len(answer.token_ids)
        self.usage.requests += len(requests)
        self.usage.calls += 1
        self.usage.seconds += time.perf_counter() - started
        return answers

    def describe(self) -> dict[str, Any]:
        """kind, base_hash, adapter_hash (None without adapter), slots, max_context."""
        return dict(self._identity)

    def close(self) -> None:
        """Frees weights and cache."""
        self.engine = None
