"""The engine: requests in, tokens out, many at a time.

Each step admits what there is room for, computes some chunks of prompts, and draws a few tokens for every
row that is past its prompt. A request's tokens depend on its prompt, settings, key and adapter alone: not
on what runs beside it, nor on what of its prompt was cached.

For that, a program has one number of rows whatever `slots` is (sums may round differently in programs of
other shapes), and sums over cached tokens run as `paged_cache` says.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.models.lora import Adapter
from automem_jax.models.paged_cache import PAGE_AXES, PART, PagedCache, empty_paged_cache
from automem_jax.sampling.adapter_bank import AdapterBank, Version
from automem_jax.sampling.answers import Answer
from automem_jax.sampling.prefix_cache import PrefixCache
from automem_jax.sampling.programs import (
    BURST,
    TOP_LOGPROBS,
    Burst,
    Chunks,
    DecodeRows,
    Weights,
    decode_burst,
    prefill_chunks,
)
from automem_jax.sampling.requests import Event, Generated, GenerationRequest, QueueFull
from automem_jax.sampling.scheduler import Running, Scheduler
from automem_jax.sampling.token_choice import ChoiceSettings
from automem_jax.sharding import DEFAULT_RULES, activation_spec, variable_sharding
from automem_jax.text.tokenizer import Tokenizer

__all__ = ["TOP_LOGPROBS", "Engine", "QueueFull"]

KV_DTYPES = (None, "int8")
CHUNK_TOKENS = 256  # of a pass over prompts
# Rows of a decode program on CPU: a small model's step costs much the same with many.
_CPU_ROWS, _CPU_ROWS_SMALL, _SMALL_PARAMETERS = 8, 64, 8_000_000
_PASSES = 4  # over chunks of prompts between two bursts, at most
_LATENCIES = 1024  # newest requests that the percentiles are of


class Engine:
    """Continuous batching over one model. One thread drives it: submit, step, submit, step ...

    Args:
      model: its base weights are shared, its own adapters left out.
      tokenizer: gives eos_id and the text of tokens.
      slots: requests that run at once.
      max_context: prompt plus generated tokens of a request.
      block_tokens: tokens of a cache block, a divisor of paged_cache.PART.
      cache_blocks: blocks in all; None: room for `slots` whole contexts and half as much again for prefixes.
      prefix_reuse: whether prompts share what is cached.
      kv_dtype: None (the model's) or "int8" (with a scale a token and head).
      mesh: devices to lie over: weights over the axis tensor and copied over the others, the cache over
        KV heads. None: one device.
      queue_limit: requests that may wait.
      max_adapters: resident at once. adapters: those to begin with, by name.
      burst: tokens that a row draws in a step, at most; 1 .. programs.BURST.

    Raises:
      ValueError: a size that does not fit.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        slots: int,
        max_context: int,
        block_tokens: int = 32,
        cache_blocks: int | None = None,
        prefix_reuse: bool = True,
        kv_dtype: str | None = None,
        mesh: Mesh | None = None,
        queue_limit: int = 1024,
        max_adapters: int = 8,
        adapters: dict[str, Adapter] | None = None,
        burst: int = 12,
    ):
        config = model.config
        per_context = -(-max_context // block_tokens)
        blocks = 1 + (
            3 * slots * per_context // 2 + per_context if cache_blocks is None else cache_blocks
        )
        _check_sizes(slots, max_context, config.max_position, kv_dtype, burst)
        if blocks - 1 < per_context:
            raise ValueError(
                f"cache_blocks {blocks - 1} hold less than one context of {per_context} blocks; "
                "raise cache_blocks or lower max_context"
            )
        self.max_context, self.block_tokens = max_context, block_tokens
        self._tokenizer, self._mesh, self._burst = tokenizer, mesh, burst
        self._vocab_size = config.vocab_size
        self._graphdef, self._weights = _weights(model, mesh)
        self._bank = AdapterBank(model, max_adapters, mesh)
        self._cache: PagedCache = _placed_cache(
            empty_paged_cache(
                config,
                blocks,
                block_tokens,
                model.embed.get_value().dtype,
                int8=kv_dtype == "int8",
            ),
            mesh,
        )
        self._prefixes = PrefixCache(blocks, block_tokens, prefix_reuse)
        self._scheduler = Scheduler(self._prefixes, slots, queue_limit)
        self._answers: dict[Hashable, Answer] = {}
        on_cpu = jax.default_backend() == "cpu"
        self._on_cpu = on_cpu
        self._decode_rows = _decode_rows(slots, self._weights, on_cpu)
        self._chunk_rows = max(1, CHUNK_TOKENS // block_tokens)
        self._programs: dict[tuple, Callable] = {}
        self._counts = dict.fromkeys(
            ("requests", "finished", "cancelled", "generated_tokens", "prompt_tokens"), 0
        ) | {"reused_tokens": 0, "prefill_passes": 0, "decode_steps": 0}
        self._first_token_s: deque[float] = deque(maxlen=_LATENCIES)
        for name, adapter in (adapters or {}).items():
            self.load_adapter(name, adapter)

    # Requests -------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> None:
        """Queues a request.

        Raises:
          QueueFull: as many wait as may.
          ValueError: one that can never run: an empty or overlong prompt, a token or adapter that there is
            not, an id in use, settings out of range.
        """
        _check_request(request, self.max_context, self._vocab_size)
        version = self._bank.find(request.adapter)
        answer = Answer(request, self._tokenizer, version, time.perf_counter())
        self._scheduler.submit(Running(request, _cache_key(version)))
        self._answers[request.id] = answer
        self._counts["requests"] += 1

    def cancel(self, id: Hashable) -> bool:
        """Ends a request at once, no event follows; False where there is none such."""
        running = self._scheduler.find(id)
        if running is None:
            return False
        self._end(running)
        self._counts["cancelled"] += 1
        return True

    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not len(self._scheduler)

    def step(self) -> list[Event]:
        """Some chunks of prompts and a burst of decoding; what came of them, an event a request."""
        for running in self._scheduler.admit():
            reused = running.reused * self.block_tokens
            self._answers[running.request.id].reused_tokens = reused
            self._counts["prompt_tokens"] += len(running.request.prompt_ids)
            self._counts["reused_tokens"] += reused
        for _ in range(_PASSES):
            chunks = self._scheduler.chunks(self._chunk_rows)
            if not chunks:
                break
            self._prefill(chunks)
        events = []
        rows, width = list(self._scheduler.decoding), self._decode_rows
        if self._on_cpu and len(rows) > width:  # groups without adapters take the cheaper program
            rows.sort(key=lambda r: self._answers[r.request.id].version is not None)
        for start in range(0, len(rows), width):
            events += self._decode(rows[start : start + width])
        return events

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Runs until these are answered, in order. For use without `step`; events of others are lost.

        Raises:
          ValueError: as `submit`; none of them runs then.
        """
        for request in requests:
            _check_request(request, self.max_context, self._vocab_size)
            self._bank.find(request.adapter)
        answers: dict[Hashable, Generated] = {}
        waiting = deque(requests)
        while len(answers) < len(requests):
            while waiting:
                try:
                    self.submit(waiting[0])
                except QueueFull:
                    break
                waiting.popleft()
            answers |= {e.id: e.finished for e in self.step() if e.finished is not None}
        return [answers[request.id] for request in requests]

    # Adapters -------------------------------------------------------------------------------------

    def load_adapter(self, name: str, adapter: Adapter) -> int:
        """Makes an adapter resident, also over one of the same name; its number. Requests that already
        run with an older one of that name go on with the older.

        Raises:
          AdapterError: it does not fit the model, or there is no room for another.
        """
        self._drop_unused()
        version = self._bank.load(name, adapter)
        self._drop_unused()
        return version.number

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; requests that already run with it go on. KeyError: it is unknown."""
        self._bank.retire(name)
        self._drop_unused()

    def adapters(self) -> dict[str, int]:
        """Names and numbers of what requests may name."""
        return {name: version.number for name, version in self._bank.current().items()}

    def _drop_unused(self) -> None:
        for version in self._bank.old_versions():
            if not self._scheduler.of_adapter(_cache_key(version)):
                self._bank.drop(version)
                self._prefixes.forget(_cache_key(version))

    # Figures --------------------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """What happened so far, and how it stands.

        requests, finished, cancelled; prompt_tokens and, of these, reused_tokens; generated_tokens;
        prefill_passes, decode_steps; blocks_total, blocks_free, blocks_used (held by requests),
        blocks_cached (kept, held by none), blocks_evicted; queued, running; time_to_first_token_p50_s and
        _p95_s (from `submit`, of the newest requests; 0 before any); programs: compiled.
        """
        cache, scheduler = self._prefixes, self._scheduler
        waits = np.asarray(self._first_token_s or [0.0])
        return self._counts | {
            "blocks_total": cache.total,
            "blocks_free": cache.free,
            "blocks_used": cache.used,
            "blocks_cached": cache.kept,
            "blocks_evicted": cache.evicted,
            "queued": len(scheduler.waiting),
            "running": len(scheduler.filling) + len(scheduler.decoding),
            "time_to_first_token_p50_s": float(np.percentile(waits, 50)),
            "time_to_first_token_p95_s": float(np.percentile(waits, 95)),
            "programs": len(self._programs),
        }

    def clear_cache(self) -> None:
        """Forgets every prefix that no request holds."""
        self._prefixes.clear()

    # Programs -------------------------------------------------------------------------------------

    def _prefill(self, chunks: list[tuple[Running, int]]) -> None:
        rows = self._chunk_rows
        size, width = self.block_tokens, self._table_width(self.max_context)
        tokens = np.zeros((rows, size), np.int32)
        tables = np.zeros((rows, width), np.int32)
        starts, blocks, chosen = (np.zeros((rows,), np.int32) for _ in range(3))
        for row, (running, chunk) in enumerate(chunks):
            given = running.request.prompt_ids[chunk * size : (chunk + 1) * size]
            tokens[row, : len(given)] = given
            starts[row], blocks[row] = chunk * size, running.blocks[chunk].index
            tables[row, : chunk + 1] = [block.index for block in running.blocks[: chunk + 1]]
            version = self._answers[running.request.id].version
            chosen[row] = 0 if version is None else version.code
        parts = np.int32((int(starts.max()) + size - 1) // PART + 1)
        given = Chunks(tokens, starts, blocks, tables, chosen, parts)
        self._cache = self._run("prefill", (rows,), chosen, given)
        self._counts["prefill_passes"] += 1

    def _decode(self, group: list[Running]) -> list[Event]:
        answers = [self._answers[running.request.id] for running in group]
        rows = self._decode_rows
        longest = max(answer.position for answer in answers) + BURST
        width = self._table_width(min(longest, self.max_context))
        given = self._rows(group, answers, rows, width)
        key = (rows, width, given.allowed is not None)
        self._cache, burst = self._run("decode", key, given.chosen, given)
        burst = jax.device_get(burst)
        self._counts["decode_steps"] += int(burst.counts.max())
        return [
            self._take(*one, burst, row) for row, one in enumerate(zip(group, answers, strict=True))
        ]

    def _rows(
        self, group: list[Running], answers: list[Answer], rows: int, width: int
    ) -> DecodeRows:
        def column(values, dtype, idle=0):
            return np.asarray([*values, *[idle] * (rows - len(group))], dtype)

        settings = [answer.request.sampling for answer in answers]
        tables = np.zeros((rows, width), np.int32)
        for row, running in enumerate(group):
            held = [block.index for block in running.blocks[:width]]
            tables[row, : len(held)] = held
        keys = np.zeros((rows, 5), np.uint32)
        keys[: len(group)] = [answer.request.key for answer in answers]
        masks = [answer.mask() for answer in answers]
        allowed = None
        if any(answer.request.constraint is not None for answer in answers):
            allowed = np.ones((rows, self._vocab_size), bool)
            for row, mask in enumerate(masks):
                if mask is not None:
                    allowed[row] = mask
        return DecodeRows(
            tokens=column([answer.newest for answer in answers], np.int32),
            positions=column([answer.position for answer in answers], np.int32),
            remaining=column([answer.remaining for answer in answers], np.int32),
            indices=column([len(answer.token_ids) for answer in answers], np.int32),
            tables=tables,
            chosen=column([a.version.code if a.version else 0 for a in answers], np.int32),
            seeds=keys[:, 0],
            choice=ChoiceSettings(
                temperature=column([s.temperature for s in settings], np.float32),
                top_p=column([s.top_p for s in settings], np.float32, 1.0),
                top_k=column([s.top_k for s in settings], np.int32),
                min_p=column([s.min_p for s in settings], np.float32),
                key=keys[:, 1:],
            ),
            allowed=allowed,
            steps=np.int32(self._burst),
            wants_top=np.bool_(any(a.request.top_logprobs for a in answers)),
        )

    def _take(self, running: Running, answer: Answer, burst: Burst, row: int) -> Event:
        first = not answer.token_ids
        event = answer.take(burst, row)
        self._counts["generated_tokens"] += len(event.token_ids)
        if first:
            self._first_token_s.append(time.perf_counter() - answer.submitted)
        if event.finished is not None:
            self._end(running)
            self._counts["finished"] += 1
        return event

    def _end(self, running: Running) -> None:
        self._scheduler.end(running)
        version = self._answers.pop(running.request.id).version
        if version is not None:
            self._drop_unused()

    def _run(self, kind: str, shape: tuple, chosen: np.ndarray, given: Any) -> Any:
        """Runs a program, compiled at its first use for this shape and never again."""
        # A base row has the same bits with and without adapters on CPU, so it takes the cheaper way.
        adapters = self._bank.layers
        if self._on_cpu and not chosen.any():
            adapters = None
        columns = {n: a.shape[1] for n, (a, _) in adapters[0].items()} if adapters else {}
        key = (kind, *shape, *sorted(columns.items()))
        if key not in self._programs:
            self._programs[key] = _compiled_once(kind, self._tokenizer.eos_id)
        weights = Weights(self._weights.state, self._weights.layers, adapters)
        mesh = contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)
        with mesh:
            return self._programs[key](self._graphdef, weights, self._cache, given)

    def _table_width(self, tokens: int) -> int:
        """Blocks of a table for so many tokens: PART, 2 PART, 4 PART ... tokens, max_context at most."""
        size, most = PART, -(-self.max_context // PART) * PART
        while size < min(tokens, most):
            size *= 2
        return min(size, most) // self.block_tokens


def _compiled_once(kind: str, eos_id: int) -> Callable:
    """The jitted program; being traced a second time is an error, since every shape has its own."""
    traced = 0

    def run(graphdef, weights, cache, given):
        nonlocal traced
        traced += 1
        assert traced == 1, f"{kind} was traced again: its arguments have changed type or shape"
        if kind == "prefill":
            return prefill_chunks(graphdef, weights, cache, given)
        return decode_burst(graphdef, weights, cache, given, eos_id=eos_id)

    return jax.jit(run, static_argnums=0, donate_argnums=2)


def _weights(model: Decoder, mesh: Mesh | None) -> tuple[Any, Weights]:
    """The graph and base weights of `model`; on one CPU also cut into layers, which saves a copy of all
    weights at every token (and costs one in memory)."""
    base = nnx.merge(*nnx.split(model), copy=True)
    for linear in base.linears().values():
        linear.lora_a = linear.lora_b = nnx.data(None)
    base.adapter_count = 0
    if mesh is not None:
        rules = DEFAULT_RULES.__class__(embed=None)
        for _, variable in nnx.iter_graph(base):
            if isinstance(variable, BaseWeight):
                sharding = variable_sharding(variable, mesh, rules)
                variable.set_value(jax.device_put(variable.get_value(), sharding))
    graphdef, state = nnx.split(base)
    layers = tuple(base.unstacked_layers()) if jax.default_backend() == "cpu" else None
    return graphdef, Weights(state, layers, None)


def _placed_cache(cache: PagedCache, mesh: Mesh | None) -> PagedCache:
    if mesh is None:
        return cache
    with jax.set_mesh(mesh):
        return jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(mesh, activation_spec(PAGE_AXES, x.shape))),
            cache,
        )


def _cache_key(version: Version | None) -> int:
    return 0 if version is None else version.number


def _decode_rows(slots: int, weights: Weights, on_cpu: bool) -> int:
    if not on_cpu:
        return slots
    size = sum(leaf.size for leaf in jax.tree.leaves(weights.state))
    return _CPU_ROWS_SMALL if size < _SMALL_PARAMETERS else _CPU_ROWS


def _check_sizes(slots, max_context, max_position, kv_dtype, burst) -> None:
    if slots < 1 or max_context < 2:
        raise ValueError(
            f"slots {slots} must be at least 1 and max_context {max_context} at least 2"
        )
    if max_context > max_position:
        raise ValueError(
            f"max_context {max_context} is beyond the model's {max_position} positions; lower it"
        )
    if kv_dtype not in KV_DTYPES:
        raise ValueError(f"kv_dtype {kv_dtype!r} unknown; one of {KV_DTYPES}")
    if not 1 <= burst <= BURST:
        raise ValueError(f"burst {burst} must be 1 .. {BURST}")


def _check_request(request: GenerationRequest, max_context: int, vocab_size: int) -> None:
    prompt, settings = request.prompt_ids, request.sampling
    name = f"request {request.id!r}"
    if not len(prompt) or settings.max_tokens < 1:
        raise ValueError(
            f"{name}: prompt of {len(prompt)} tokens with max_tokens {settings.max_tokens}; both must "
            "be at least 1"
        )
    if len(prompt) + settings.max_tokens > max_context:
        raise ValueError(
            f"{name}: prompt of {len(prompt)} tokens leaves no room for max_tokens "
            f"{settings.max_tokens} within max_context {max_context}; shorten the prompt or raise "
            "max_context"
        )
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise ValueError(f"{name}: its prompt has tokens outside 0 .. {vocab_size - 1}")
    if (
        not 0 <= settings.temperature < float("inf")
        or not 0 < settings.top_p <= 1
        or not 0 <= settings.min_p < 1
        or settings.top_k < 0
    ):
        raise ValueError(
            f"{name}: temperature {settings.temperature} and top_k {settings.top_k} must be at least 0, "
            f"top_p {settings.top_p} in (0, 1], min_p {settings.min_p} in [0, 1)"
        )
    if not 0 <= request.top_logprobs <= TOP_LOGPROBS:
        raise ValueError(f"{name}: top_logprobs {request.top_logprobs} is not 0 .. {TOP_LOGPROBS}")
    if len(request.key) != 5 or not all(0 <= word < 2**32 for word in request.key):
        raise ValueError(f"{name}: key {request.key} is not five unsigned 32-bit words")
