"""Who runs when: a bounded queue, rows for running requests, chunks of prompts and bursts of decoding.

Requests are admitted in the order they came, as soon as a row and all blocks they can ever need are
free: so none starves, and none that runs has to give way. Prompts are computed in the order of
admission, a bounded number of chunks between two bursts, so that running rows go on meanwhile.

Pure bookkeeping: no arrays, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from automem_jax.sampling.prefix_cache import Block, PrefixCache
from automem_jax.sampling.requests import GenerationRequest, QueueFull

PATIENCE = 2  # steps


@dataclass(eq=False)
class Running:
    """A request that was admitted.

    Attributes:
      blocks: of its whole context, prompt first. reused: prompt blocks that others made.
      adapter: version that it began with; see `PrefixCache`.
      next_chunk: prompt blocks before it are computed, or a pass that computes them was started.
      waited: steps in which its prompt stood still, for want of others to fill a pass with.
    """

    request: GenerationRequest
    adapter: Hashable
    blocks: list[Block] = field(default_factory=list)
    reused: int = 0
    next_chunk: int = 0
    waited: int = 0

    @property
    def prefix_tokens(self) -> int:
        """Prompt tokens that the passes over chunks compute: all but the last."""
        return len(self.request.prompt_ids) - 1


class Scheduler:
    """Requests by their state.

    Args:
      slots: requests that run at once.
      queue_limit: requests that may wait.
    """

    def __init__(self, cache: PrefixCache, slots: int, queue_limit: int):
        self.cache, self.slots, self.queue_limit = cache, slots, queue_limit
        self.waiting: deque[Running] = deque()
        self.filling: list[Running] = []  # their prompt is being computed
        self.decoding: list[Running] = []
        self._by_id: dict[Hashable, Running] = {}

    def __contains__(self, id: Hashable) -> bool:
        return id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def submit(self, running: Running) -> None:
        """Queues a request.

        Raises:
          QueueFull: as many wait as may.
          ValueError: the id is in use.
        """
        if running.request.id in self._by_id:
            raise ValueError(f"request id {running.request.id!r} is in use; choose another")
        if len(self.waiting) >= self.queue_limit:
            raise QueueFull(
                f"{len(self.waiting)} requests wait, the queue holds no more; try again later"
            )
        self._by_id[running.request.id] = running
        self.waiting.append(running)

    def admit(self) -> list[Running]:
        """Moves waiting requests to rows while there is room, and returns them."""
        admitted = []
        size = self.cache.block_tokens
        while self.waiting and len(self.filling) + len(self.decoding) < self.slots:
            running = self.waiting[0]
            request = running.request
            tokens = len(request.prompt_ids) + request.sampling.max_tokens
            found = self.cache.acquire(
                request.prompt_ids, running.prefix_tokens, -(-tokens // size), running.adapter
            )
            if found is None:
                break
            running.blocks, running.reused = found
            self.waiting.popleft()
            self.filling.append(running)
            admitted.append(running)
        return admitted

    def pass_can_wait(self, most: int) -> bool:
        """Whether chunks fill less than a pass of `most` while nearly all rows decode: more may join them.

        A pass costs the same however full it is. A prompt stands still for PATIENCE steps at most.
        """
        if 8 * len(self.decoding) < 7 * self.slots:
            return False
        missing: set[int] = set()
        for running in self.filling:
            if running.waited >= PATIENCE:
                return False
            last = -(-running.prefix_tokens // self.cache.block_tokens)
            blocks = running.blocks[running.next_chunk : last]
            missing.update(block.index for block in blocks if not block.computed)
            if len(missing) >= most:
                return False
        if not missing:  # what they wait for is computed already
            return False
        for running in self.filling:
            running.waited += 1
        return True

    def chunks(self, most: int) -> list[tuple[Running, int]]:
        """The next chunks to compute, (request, block of its prompt), each block once.

        They count as computed from here on, since programs run in the order they are started. Requests
        with nothing left to compute start decoding.
        """
        picked: list[tuple[Running, int]] = []
        size = self.cache.block_tokens
        for running in self.filling:
            last = -(-running.prefix_tokens // size)
            while running.next_chunk < last:
                block = running.blocks[running.next_chunk]
                if not block.computed:
                    if len(picked) == most:
                        break
                    picked.append((running, running.next_chunk))
                    block.computed = True
                running.next_chunk += 1
        ready = [r for r in self.filling if r.next_chunk >= -(-r.prefix_tokens // size)]
        self.decoding += ready
        self.filling = [r for r in self.filling if r not in ready]
        return picked

    def end(self, running: Running) -> None:
        """Takes a request out, whatever its state; its blocks are given up."""
        del self._by_id[running.request.id]
        for group in (self.filling, self.decoding):
            if running in group:
                group.remove(running)
        if running in self.waiting:
            self.waiting.remove(running)
        self.cache.release(running.blocks)
        running.blocks = []

    def find(self, id: Hashable) -> Running | None:
        """The request of that name that has not ended."""
        return self._by_id.get(id)

    def of_adapter(self, adapter: Hashable) -> int:
        """Requests that use this version of an adapter."""
        return sum(running.adapter == adapter for running in self._by_id.values())
