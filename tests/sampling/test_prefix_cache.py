import random

import pytest

from automem_jax.sampling.prefix_cache import PrefixCache
from automem_jax.sampling.requests import GenerationRequest, QueueFull
from automem_jax.sampling.scheduler import PATIENCE, Running, Scheduler
from automem_jax.text.messages import SamplingSettings


def computed(path):
    for block in path:
        block.computed = True
    return path


def test_a_prefix_is_shared_by_whole_blocks_and_by_its_own_adapter_only():
    cache = PrefixCache(17, 4)
    prompt = list(range(11))
    path, held = cache.acquire(prompt, 10, 4, "base")
    assert (len(path), held, cache.used) == (4, 0, 4)
    again, held = cache.acquire([*prompt[:7], 99, 98], 8, 3, "base")
    assert held == 1 and again[0] is path[0] and again[1] is not path[1]
    other, held = cache.acquire(prompt, 10, 4, "adapter")
    assert held == 0 and not {b.index for b in other} & {b.index for b in path}
    for held_path in (path, again, other):
        cache.release(computed(held_path))
    # Two whole blocks of the first, one more of the second, two of the adapter's are kept.
    assert (cache.used, cache.kept, cache.free) == (0, 5, 11)
    _, held = cache.acquire(prompt, 10, 4, "base")
    assert held == 2


def test_the_least_recently_used_leaf_goes_first_and_nothing_held_goes():
    cache = PrefixCache(5, 2)
    first = computed(cache.acquire([1, 2, 3, 4], 4, 2, 0)[0])
    cache.release(first)
    second = computed(cache.acquire([5, 6], 2, 1, 0)[0])
    cache.release(second)
    held = cache.acquire([1, 2], 2, 1, 0)[
        0
    ]  # the root part of the first is in use, its leaf is not
    assert cache.acquire([7] * 6, 6, 4, 0) is None
    assert (cache.used, cache.kept, cache.free) == (1, 2, 1)
    newer = computed(cache.acquire([8, 8, 8, 8], 4, 2, 0)[0])
    assert cache.evicted == 1 and cache.acquire([5, 6], 2, 1, 0)[1] == 1
    assert held[0].tokens == (1, 2) and newer[1].tokens == (8, 8)


def test_blocks_never_computed_are_not_kept_and_reuse_can_be_off():
    cache = PrefixCache(9, 2)
    path, _ = cache.acquire([1, 2, 3, 4], 4, 3, 0)
    sharer, held = cache.acquire([1, 2, 3, 4], 4, 3, 0)
    assert held == 2
    path[0].computed = True
    cache.release(path)
    cache.release(sharer)
    assert (cache.kept, cache.free) == (1, 7)
    off = PrefixCache(9, 2, reuse=False)
    off.release(computed(off.acquire([1, 2, 3, 4], 4, 2, 0)[0]))
    assert off.kept == 0 and off.acquire([1, 2, 3, 4], 4, 2, 0)[1] == 0


def test_counts_hold_whatever_comes_and_goes():
    rng = random.Random(0)
    cache = PrefixCache(33, 2)
    held = []
    for _ in range(3000):
        if held and rng.random() < 0.5:
            path = held.pop(rng.randrange(len(held)))
            for block in path[: rng.randint(0, len(path))]:
                block.computed = True
            cache.release(path)
        else:
            prompt = [rng.randint(0, 1) for _ in range(rng.randint(1, 12))]
            blocks = -(-len(prompt) // 2) + 1
            found = cache.acquire(prompt, len(prompt), blocks, rng.randint(0, 1))
            if found is None:
                assert cache.free + cache.kept < blocks
            else:
                held.append(found[0])
        indices = {block.index for path in held for block in path}
        assert len(indices) == cache.used
        assert cache.used + cache.kept + cache.free == 32 and min(cache.kept, cache.free) >= 0
    for path in held:
        cache.release(path)
    cache.clear()
    assert cache.free == 32


def running(name, prompt, max_tokens=2):
    return Running(GenerationRequest(name, prompt, SamplingSettings(max_tokens=max_tokens)), 0)


def test_requests_enter_in_order_and_a_prefix_that_two_need_is_computed_once():
    scheduler = Scheduler(PrefixCache(20, 4), slots=3, queue_limit=3)
    for name in "abc":
        scheduler.submit(running(name, list(range(10))))
    with pytest.raises(QueueFull, match="3 requests wait"):
        scheduler.submit(running("d", [1]))
    assert [r.request.id for r in scheduler.admit()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="'a' is in use"):
        scheduler.submit(running("a", [1]))
    # 9 of 10 tokens are computed in chunks: two shared blocks and a rest of each one's own.
    first = scheduler.chunks(2)
    assert [(r.request.id, chunk) for r, chunk in first] == [("a", 0), ("a", 1)]
    second = scheduler.chunks(2)
    assert [(r.request.id, chunk) for r, chunk in second] == [("a", 2), ("b", 2)]
    assert [r.request.id for r in scheduler.decoding] == ["a", "b"]
    assert [(r.request.id, chunk) for r, chunk in scheduler.chunks(2)] == [("c", 2)]
    for name in "abc":
        scheduler.end(scheduler.find(name))
    assert scheduler.cache.used == 0 and scheduler.cache.kept == 2


def test_a_part_of_a_pass_waits_for_company_while_nearly_all_rows_decode_but_not_for_long():
    scheduler = Scheduler(PrefixCache(60, 4), slots=8, queue_limit=9)
    for name in range(7):
        scheduler.submit(running(name, [1]))  # nothing to compute
    scheduler.submit(running("late", list(range(20, 30))))
    scheduler.admit()
    assert not scheduler.pass_can_wait(4)  # nobody decodes yet
    assert scheduler.chunks(0) == [] and len(scheduler.decoding) == 7
    assert not scheduler.pass_can_wait(3)  # it fills a pass of three
    for _ in range(PATIENCE):
        assert scheduler.pass_can_wait(4)
    assert not scheduler.pass_can_wait(4)
    assert [chunk for _, chunk in scheduler.chunks(4)] == [0, 1, 2]
    scheduler.end(scheduler.find(0))
    scheduler.end(scheduler.find(1))
    scheduler.submit(running("next", list(range(40, 50))))
    scheduler.admit()
    assert not scheduler.pass_can_wait(4)  # two rows of eight are idle


def test_a_large_request_waits_for_room_and_is_not_overtaken():
    scheduler = Scheduler(PrefixCache(9, 2), slots=4, queue_limit=9)
    scheduler.submit(running("small", [1, 2], 4))
    scheduler.submit(running("large", [1] * 9, 3))
    scheduler.submit(running("late", [1], 1))
    assert [r.request.id for r in scheduler.admit()] == ["small"]
    assert scheduler.admit() == []
    scheduler.end(scheduler.find("small"))
    assert [r.request.id for r in scheduler.admit()] == ["large", "late"]
