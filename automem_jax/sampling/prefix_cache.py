"""Which blocks of the cache hold which tokens: a radix tree over blocks of tokens, on the host.

A node is one whole block of a prompt, below the node of the block before it; the root stands for an
adapter, since the same tokens have other keys and values under another one. Running requests hold
references; what nobody holds is kept until room is needed, least recently used first.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Block:
    """One block of the cache.

    Attributes:
      index: where it lies on the device, from 1.
      computed: its keys and values are written (or will be, by a program started before any reader).
      references: requests that hold it.
      tokens: what it holds; None for a block of one request alone.
    """

    index: int
    computed: bool = False
    references: int = 0
    tokens: tuple[int, ...] | None = None
    parent: Block | None = None
    children: dict[tuple[int, ...], Block] = field(default_factory=dict)
    used: int = 0


class PrefixCache:
    """Blocks 1 .. blocks - 1 of a device cache (0 is for padding).

    Args:
      reuse: False keeps nothing and shares nothing.
    """

    def __init__(self, blocks: int, block_tokens: int, reuse: bool = True):
        self.block_tokens, self.reuse = block_tokens, reuse
        self.total = blocks - 1
        self._free = list(range(blocks - 1, 0, -1))
        self._roots: dict[Hashable, Block] = {}
        self._kept = 0
        self._clock = 0
        self._leaves: list[tuple[int, int, Block]] = []  # heap of (used, tie, leaf); may be stale
        self.evicted = 0

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def kept(self) -> int:
        """Blocks that hold a prefix and that no request holds."""
        return self._kept

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self.total - self.free - self.kept

    def acquire(
        self, prompt: Sequence[int], shared_tokens: int, blocks: int, adapter: Hashable
    ) -> tuple[list[Block], int] | None:
        """`blocks` blocks for a request, and how many of them others have made or are making.

        Args:
          prompt: its tokens; whole blocks among the first `shared_tokens` may be shared.
          adapter: names the adapter's version.

        Returns:
          None where there is no room now; nothing has changed then.
        """
        path: list[Block] = []
        wanted = self._blocks_of(prompt, shared_tokens)
        root = self._roots.setdefault(adapter, Block(0)) if self.reuse else None
        node = root
        for tokens in wanted:
            node = node.children.get(tokens)
            if node is None:
                break
            path.append(node)
        held = len(path)
        for block in path:
            self._hold(block)
        if not self._make_room(blocks - held):
            self.release(path)
            return None
        node = path[-1] if path else root
        for tokens in wanted[held:]:
            block = Block(self._free.pop(), references=1, tokens=tokens, parent=node)
            node.children[tokens] = block
            path.append(block)
            node = block
        path += [Block(self._free.pop(), references=1) for _ in range(blocks - len(path))]
        return path, held

    def release(self, blocks: Sequence[Block]) -> None:
        """Gives up one reference to each."""
        for block in reversed(blocks):
            block.references -= 1
            if block.references:
                continue
            if block.tokens is None:
                self._free.append(block.index)
            elif not block.computed:  # nobody will: those below it are held by nobody either
                self._kept += 1
                self._forget(block)
            else:
                self._clock += 1
                block.used = self._clock
                self._kept += 1
                self._offer(block)

    def forget(self, adapter: Hashable) -> None:
        """Drops what is kept of an adapter that no request uses any more."""
        root = self._roots.pop(adapter, None)
        waiting = list(root.children.values()) if root else []
        while waiting:
            block = waiting.pop()
            waiting += block.children.values()
            block.children = {}
            block.tokens = None
            block.parent = None
            if not block.references:
                self._kept -= 1
                self._free.append(block.index)

    def clear(self) -> None:
        """Drops everything that no request holds."""
        self._make_room(self.free + self.kept)

    def _blocks_of(self, prompt: Sequence[int], tokens: int) -> list[tuple[int, ...]]:
        if not self.reuse:
            return []
        size = self.block_tokens
        return [tuple(prompt[i : i + size]) for i in range(0, tokens - size + 1, size)]

    def _hold(self, block: Block) -> None:
        if not block.references:
            self._kept -= 1
        block.references += 1

    def _make_room(self, blocks: int) -> bool:
        """Evicts until `blocks` are free; False, and nothing evicted, where that cannot be."""
        if blocks > self.free + self.kept:
            return False
        while self.free < blocks:
            used, _, block = heapq.heappop(self._leaves)
            if self._is_leaf(block) and block.used == used:
                self.evicted += 1
                self._forget(block)
        return True

    def _forget(self, block: Block) -> None:
        parent = block.parent
        del parent.children[block.tokens]
        block.tokens = block.parent = None
        self._kept -= 1
        self._free.append(block.index)
        self._offer(parent)

    def _is_leaf(self, block: Block) -> bool:
        return not block.references and not block.children and block.tokens is not None

    def _offer(self, block: Block) -> None:
        if self._is_leaf(block) and block.computed:
            heapq.heappush(self._leaves, (block.used, block.index, block))
