"""The engine: requests in, tokens out, many at a time.

Each step admits what there is room for, draws a few tokens for every row that is past its prompt, and
computes some chunks of prompts: on one CPU device both at once, since decoding waits for memory and chunks
for the processor. A request's tokens depend on its prompt, settings, key and adapter alone: not
on what runs beside it, nor on what of its prompt was cached.

For that, a program has one number of rows whatever `slots` is (sums may round differently in programs of
other shapes), and sums over cached tokens run as `paged_cache` says.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from automem_jax.models.decoder import Decoder
from automem_jax.models.lora import Adapter
from automem_jax.models.paged_cache import PagedCache, empty_paged_cache
from automem_jax.sampling.adapter_bank import AdapterBank, Version
from automem_jax.sampling.answers import Answer
from automem_jax.sampling.desk import Desk
from automem_jax.sampling.placement import (
    BLOCK_TOKENS,
    default_blocks,
    made_cache,
    placed_weights,
)
from automem_jax.sampling.prefix_cache import PrefixCache
from automem_jax.sampling.programs import (
    BURST,
    Burst,
    Chunks,
    DecodeRows,
    Lay,
    Touched,
    Weights,
    decode_burst,
    keep_rows,
    lay_rows,
    prefill_chunks,
)
from automem_jax.sampling.requests import (
    TOP_LOGPROBS,
    Event,
    Generated,
    GenerationRequest,
    QueueFull,
    check_request,
)
from automem_jax.sampling.scheduler import Running, Scheduler
from automem_jax.sampling.token_choice import ChoiceSettings
from automem_jax.text.tokenizer import Tokenizer

__all__ = ["TOP_LOGPROBS", "Engine", "QueueFull"]

KV_DTYPES = (None, "int8")
# Of a pass over prompts: on CPU enough to keep it busy with products, elsewhere likewise.
CHUNK_TOKENS, JOINED_CHUNK_TOKENS = 256, 512
# Rows of a decode program on CPU: a small model's step costs much the same with many.
_CPU_ROWS, _CPU_ROWS_SMALL, _SMALL_PARAMETERS = 8, 64, 8_000_000
# Passes over chunks of prompts in a step, at most, and while fewer than half the rows decode. On CPU as many
# as make a chunk for every row: they take about as long as a burst.
_PASSES, _PASSES_TO_FILL = 4, 12
_LATENCIES = 1024  # newest requests that the percentiles are of


@dataclass(frozen=True)
class _Begun:
    """A burst that runs: who lies in each row, what was given, and what waits for (rows, drawn)."""

    placed: list[Running | None]
    given: DecodeRows
    result: Callable[[], tuple[Any, Burst]]


class Engine:
    """Continuous batching over one model. One thread drives it: submit, step, submit, step ...

    Args:
      model: its base weights are shared, its own adapters left out.
      tokenizer: gives eos_id and the text of tokens.
      slots: requests that run at once.
      max_context: prompt plus generated tokens of a request.
      block_tokens: tokens of a cache block, a divisor of paged_cache.PART.
      cache_blocks: blocks in all; None: room for `slots` + 1 whole contexts.
      prefix_reuse: whether prompts share what is cached.
      kv_dtype: None (the model's) or "int8" (with a scale a token and head).
      mesh: devices to lie over: weights over the axis tensor and copied over the others, the cache over
        KV heads. None: one device.
      queue_limit: requests that may wait.
      max_adapters: resident at once. adapters: those to begin with, by name.
      joined: how the cache lies and layers run (`paged_cache`); None: joined unless on one CPU.
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
        block_tokens: int = BLOCK_TOKENS,
        cache_blocks: int | None = None,
        prefix_reuse: bool = True,
        kv_dtype: str | None = None,
        mesh: Mesh | None = None,
        queue_limit: int = 1024,
        max_adapters: int = 8,
        adapters: dict[str, Adapter] | None = None,
        burst: int = 8,
        joined: bool | None = None,
    ):
        config = model.config
        per_context = -(-max_context // block_tokens)
        blocks = default_blocks(slots, max_context, block_tokens)
        if cache_blocks is not None:
            blocks = 1 + cache_blocks
        _check_sizes(slots, max_context, config.max_position, kv_dtype, burst)
        if blocks - 1 < per_context:
            raise ValueError(
                f"cache_blocks {blocks - 1} hold less than one context of {per_context} blocks; "
                "raise cache_blocks or lower max_context"
            )
        self.max_context, self.block_tokens = max_context, block_tokens
        self._tokenizer, self._mesh, self._burst = tokenizer, mesh, burst
        self._vocab_size, self._dtype = config.vocab_size, model.embed.get_value().dtype
        on_cpu = jax.default_backend() == "cpu"
        self._joined = (not on_cpu or mesh is not None) if joined is None else joined
        self._graphdef, self._weights = placed_weights(model, mesh, self._joined)
        self._bank = AdapterBank(model, max_adapters, mesh, stacked=self._joined)
        self._cache: PagedCache = made_cache(
            functools.partial(
                empty_paged_cache,
                config,
                blocks,
                block_tokens,
                self._dtype,
                int8=kv_dtype == "int8",
                joined=self._joined,
            ),
            mesh,
        )
        self._prefixes = PrefixCache(blocks, block_tokens, prefix_reuse)
        self._scheduler = Scheduler(self._prefixes, slots, queue_limit)
        self._answers: dict[Hashable, Answer] = {}
        self._decode_rows = slots if self._joined else _cpu_rows(self._weights)
        chunk_tokens = JOINED_CHUNK_TOKENS if self._joined else CHUNK_TOKENS
        self._chunk_rows = max(1, chunk_tokens // block_tokens)
        per_row = max(1, self._decode_rows // self._chunk_rows)
        self._passes = _PASSES if self._joined else per_row
        if not self._joined:
            int8 = kv_dtype == "int8"
            self._desk = Desk(config, self._decode_rows, block_tokens, self._dtype, int8)
            # JAX runs what one thread starts one after the other.
            self._decoder = ThreadPoolExecutor(1, "decoding")
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
        check_request(request, self.max_context, self._vocab_size)
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
        """A burst of decoding and some chunks of prompts; what came of them, an event a request."""
        for running in self._scheduler.admit():
            reused = running.reused * self.block_tokens
            self._answers[running.request.id].reused_tokens = reused
            self._counts["prompt_tokens"] += len(running.request.prompt_ids)
            self._counts["reused_tokens"] += reused
        rows, width = list(self._scheduler.decoding), self._decode_rows
        # Groups without adapters take the cheaper program.
        if not self._joined and len(rows) > width:
            rows.sort(key=lambda r: self._answers[r.request.id].version is not None)
        begun = self._begin(rows[:width]) if rows else None
        self._fill()
        events = self._end_burst(begun) if begun else []
        for start in range(width, len(rows), width):
            events += self._end_burst(self._begin(rows[start : start + width]))
        return events

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Runs until these are answered, in order. For use without `step`; events of others are lost.

        Raises:
          ValueError: as `submit`; none of them runs then.
        """
        for request in requests:
            check_request(request, self.max_context, self._vocab_size)
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

    def _fill(self) -> None:
        """Starts passes over chunks of prompts."""
        for passes in range(_PASSES_TO_FILL):
            many = 2 * len(self._scheduler.decoding) >= self._scheduler.slots
            if passes >= self._passes and many:
                break
            # Beside a burst a pass costs little; after one, as much as if it were full.
            waits = self._joined and self._scheduler.pass_can_wait(self._chunk_rows)
            chunks = self._scheduler.chunks(0 if waits else self._chunk_rows)
            if not chunks:
                break
            self._prefill(chunks)

    def _prefill(self, chunks: list[tuple[Running, int]]) -> None:
        rows = self._chunk_rows
        size, width = self.block_tokens, self._table_width(self.max_context)
        tokens = np.zeros((rows, size), np.int32)
        tables = np.zeros((rows, width), np.int32)
        starts, blocks, chosen = (np.zeros((rows,), np.int32) for _ in range(3))
        for row, (running, chunk) in enumerate(sorted(chunks, key=lambda c: c[1])):
            given = running.request.prompt_ids[chunk * size : (chunk + 1) * size]
            tokens[row, : len(given)] = given
            starts[row], blocks[row] = chunk * size, running.blocks[chunk].index
            tables[row, : chunk + 1] = [block.index for block in running.blocks[: chunk + 1]]
            version = self._answers[running.request.id].version
            chosen[row] = 0 if version is None else version.code
        given = Chunks(tokens, starts, blocks, tables, chosen)
        self._cache = self._run("prefill", (rows,), chosen, self._cache, given)
        self._counts["prefill_passes"] += 1

    def _begin(self, group: list[Running]) -> _Begun:
        """Starts a burst."""
        longest = max(self._answers[r.request.id].position for r in group) + BURST
        width = self._table_width(min(longest, self.max_context))
        if self._joined:
            placed = [*group, *[None] * (self._decode_rows - len(group))]
        else:
            width, placed, fresh = self._desk.place(group, width)
        given = self._rows(placed, width)
        key = (self._decode_rows, width, given.allowed is not None)
        if self._joined:
            self._cache, drawn = self._run("decode", key, given.chosen, self._cache, given)
            return _Begun(placed, given, lambda: (None, drawn))
        if fresh:
            self._lay(given.tables, fresh)
        laid, self._desk.laid = self._desk.laid, None
        run = self._decoder.submit(self._run, "decode", key, given.chosen, laid, given)
        return _Begun(placed, given, run.result)

    def _end_burst(self, begun: _Begun) -> list[Event]:
        """Waits for a burst and takes what it drew."""
        laid, drawn = begun.result()
        drawn = jax.device_get(drawn)
        if not self._joined:
            self._desk.laid = laid
            keep = self._program("keep", begun.given.tables.shape, keep_rows, 0)
            self._cache = keep(self._cache, laid, self._touched(begun, drawn.counts))
        self._counts["decode_steps"] += int(drawn.counts.max())
        return [
            self._take(running, self._answers[running.request.id], drawn, row)
            for row, running in enumerate(begun.placed)
            if running is not None
        ]

    def _touched(self, begun: _Begun, counts: np.ndarray) -> Touched:
        """The blocks that a burst of so many tokens a row has written to."""
        size = self.block_tokens
        found = []
        for row, running in enumerate(begun.placed):
            if running is not None:
                first = int(begun.given.positions[row])
                for place in range(first // size, (first + int(counts[row]) - 1) // size + 1):
                    found.append((row, place, running.blocks[place].index))
        touched = np.zeros((3, len(begun.placed) * ((BURST + size - 2) // size + 1)), np.int32)
        touched[:, : len(found)] = np.asarray(found, np.int32).reshape(-1, 3).T
        return Touched(*touched, np.int32(len(found)))

    def _lay(self, tables: np.ndarray, fresh: list[int]) -> None:
        rows, width = tables.shape
        order = np.asarray([*fresh, *[0] * (rows - len(fresh))], np.int32)
        lay = Lay(order, np.int32(len(fresh)), tables)
        run = self._program("lay", (rows, width), lay_rows, 1)
        self._desk.laid = run(self._cache, self._desk.laid, lay)

    def _rows(self, placed: list[Running | None], width: int) -> DecodeRows:
        answers = [None if r is None else self._answers[r.request.id] for r in placed]

        def column(value: Callable[[Answer], Any], dtype, idle=0) -> np.ndarray:
            return np.asarray([idle if a is None else value(a) for a in answers], dtype)

        tables = np.zeros((len(placed), width), np.int32)
        for row, running in enumerate(placed):
            if running is not None:
                held = [block.index for block in running.blocks[:width]]
                tables[row, : len(held)] = held
        keys = column(lambda a: a.request.key, np.uint32, (0,) * 5)
        allowed = None
        if any(a is not None and a.request.constraint is not None for a in answers):
            allowed = np.ones((len(placed), self._vocab_size), bool)
            for row, answer in enumerate(answers):
                mask = None if answer is None else answer.mask()
                if mask is not None:
                    allowed[row] = mask
        return DecodeRows(
            tokens=column(lambda a: a.newest, np.int32),
            positions=column(lambda a: a.position, np.int32),
            remaining=column(lambda a: a.remaining, np.int32),
            indices=column(lambda a: len(a.token_ids), np.int32),
            tables=tables,
            chosen=column(lambda a: a.version.code if a.version else 0, np.int32),
            seeds=keys[:, 0],
            choice=ChoiceSettings(
                temperature=column(lambda a: a.request.sampling.temperature, np.float32),
                top_p=column(lambda a: a.request.sampling.top_p, np.float32, 1.0),
                top_k=column(lambda a: a.request.sampling.top_k, np.int32),
                min_p=column(lambda a: a.request.sampling.min_p, np.float32),
                key=keys[:, 1:],
            ),
            allowed=allowed,
            steps=np.int32(self._burst),
            wants_top=np.bool_(any(a is not None and a.request.top_logprobs for a in answers)),
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

    def _run(self, kind: str, shape: tuple, chosen: np.ndarray, kept: Any, given: Any) -> Any:
        """Runs a program of the model, which may write over `kept`."""
        # A base row has the same bits with and without adapters on CPU, so it takes the cheaper way.
        adapters = self._bank.layers
        if not self._joined and not chosen.any():
            adapters = None
        program = functools.partial(prefill_chunks, self._graphdef)
        if kind == "decode":
            program = functools.partial(decode_burst, self._graphdef, eos_id=self._tokenizer.eos_id)
        columns = self._bank.columns() if adapters else ()
        run = self._program(kind, (*shape, *columns), program, 1)
        weights = Weights(self._weights.state, self._weights.layers, adapters)
        mesh = contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)
        with mesh:
            return run(weights, kept, given)

    def _program(self, kind: str, shape: tuple, program: Callable, donated: int) -> Callable:
        """The program of that kind and shape, compiled at its first use and never again."""
        key = (kind, *shape)
        if key not in self._programs:
            self._programs[key] = _compiled_once(kind, program, donated)
        return self._programs[key]

    def _table_width(self, tokens: int) -> int:
        """Blocks of a table: of 1, 2, 3, 4, 6, 8, 12, ... parts of the cache, max_context at most."""
        part = self._cache[0].part
        most = -(-self.max_context // part)
        if self._joined:  # blocks are read where they lie, and only as many as there are
            return most * part // self.block_tokens
        wanted = -(-tokens // part)
        power = 1 << max(0, wanted - 1).bit_length()
        parts = 3 * power // 4 if power >= 4 and 3 * power // 4 >= wanted else power
        return min(parts, most) * part // self.block_tokens


def _compiled_once(kind: str, program: Callable, donated: int) -> Callable:
    """The jitted program; being traced a second time is an error, since every shape has its own."""
    traced = 0

    def run(*given):
        nonlocal traced
        traced += 1
        assert traced == 1, f"{kind} was traced again: its arguments have changed type or shape"
        return program(*given)

    return jax.jit(run, donate_argnums=donated)


def _cache_key(version: Version | None) -> int:
    return 0 if version is None else version.number


def _cpu_rows(weights: Weights) -> int:
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
