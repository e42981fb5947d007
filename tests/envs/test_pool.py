"""Worker processes: the same episodes as in process, and what breaks costs one episode at most."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys

import breaking_env
import numpy as np
import pytest

from automem_jax import envs
from automem_jax.agent.template import load_template
from automem_jax.config import EnvConfig
from automem_jax.envs import selftest
from automem_jax.envs.branching import BranchError
from automem_jax.envs.pool import Incident, WorkerPool
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import SamplingSettings
from automem_jax.traces.store import read_trace

MEMENTO = EnvConfig(task="MiniHack-Memento-Short-F2-v0", slots=6, workers=2, max_steps=12)


def toy_pool(slots=4, workers=2, timeout_s=30.0, make=breaking_env.make, **options):
    config = EnvConfig(slots=slots, workers=workers, step_timeout_s=timeout_s)
    return WorkerPool(config, make=make, **options)


def undisturbed(seeds, actions):
    env = ToyEnv(len(seeds), length=5)
    percepts = env.reset(range(len(seeds)), seeds)
    for action in actions:
        percepts = env.step(dict.fromkeys(percepts, action))
    return percepts


def step_all(pool, action="forward", slots=(0, 1, 2, 3)):
    return pool.step(dict.fromkeys(slots, action))


@pytest.mark.parametrize("name", ["minihack", "nethack"])
def test_one_two_and_four_workers_play_what_this_process_plays(name):
    config = EnvConfig(name=name, slots=5, max_steps=0)
    rows = selftest.check(config, range(700, 705), steps=12, worker_counts=(1, 2, 4))
    assert [row.how for row in rows][:2] == ["in process", "other slots"]
    assert len(rows) == 5 and len({row.digest for row in rows}) == 1
    assert all(row.episodes == 5 and row.percepts > 20 and not row.failed for row in rows)
    assert not any(row.differences for row in rows)


def test_pool_looks_like_the_environment():
    with_workers, here = envs.make(MEMENTO), envs.make(dataclasses.replace(MEMENTO, workers=0))
    try:
        for name in ("actions", "fallback_action", "max_steps", "instructions", "num_slots"):
            assert getattr(with_workers, name) == getattr(here, name)
        mine, theirs = with_workers.reset([5], [9])[5], here.reset([5], [9])[5]
        assert selftest.part_digests(mine) == selftest.part_digests(theirs)
        assert mine.actions is with_workers.actions  # not one copy a percept
        assert np.array_equal(with_workers.frame(5), here.frame(5))
    finally:
        with_workers.close()
        here.close()


@pytest.mark.parametrize(
    "seed, reason",
    [
        (101, "process killed by SIGSEGV"),
        (102, "RuntimeError: boom"),
        (103, "no answer in 0.4 s"),
        (104, "process ended with exit code 3"),
    ],
)
def test_a_broken_episode_is_the_only_one_lost(seed, reason):
    pool = toy_pool(timeout_s=0.4)
    try:
        seeds = [seed, 1, 2, 3]  # slot 2 shares the worker with slot 0
        pool.reset(range(4), seeds)
        step_all(pool)
        out = step_all(pool)
        assert (out[0].failed, out[0].done, out[0].step) == (True, True, 2)
        assert out[0].end_reason == f"environment crashed: {reason}"
        expected = undisturbed(seeds, ["forward"] * 2)
        for slot in (1, 2, 3):
            assert out[slot] == expected[slot]
        with pytest.raises(ValueError, match="slot 0: its episode is over"):
            pool.step({0: "forward"})
        with pytest.raises(ValueError, match="slot 0: its engine is gone"):
            pool.frame(0)
        expected = undisturbed(seeds, ["forward"] * 3)
        assert step_all(pool, slots=(1, 2, 3)) == {s: expected[s] for s in (1, 2, 3)}
        crashed = [Incident(0, reason, 0, (2,))]
        assert pool.incidents == ([] if reason.startswith("RuntimeError") else crashed)
        assert not pool.reset([0], [7])[0].failed
        assert not pool.step({0: "forward"})[0].failed
    finally:
        pool.close()


def test_a_worker_killed_between_steps_costs_no_episode():
    pool = toy_pool()
    try:
        pool.reset(range(4), range(4))
        step_all(pool)
        os.kill(pool.process_ids[1], signal.SIGKILL)
        assert pool.frame(3).max() > 0
        assert step_all(pool) == undisturbed(range(4), ["forward"] * 2)
        assert pool.incidents == [Incident(1, "process killed by SIGKILL", None, (1, 3))]
    finally:
        pool.close()


def test_a_game_that_ended_before_the_crash_stays_ended():
    pool = toy_pool()
    try:
        pool.reset(range(4), range(4))
        for _ in range(5):
            step_all(pool)
        ended = pool.step({0: "left"})[0]
        assert ended.done and ended.progression == 1.0
        os.kill(pool.process_ids[0], signal.SIGKILL)
        assert not pool.step({2: "wait"})[2].failed
        assert pool.progression(0) == 1.0
        with pytest.raises(ValueError, match=r"slot 0: its episode is over \(task solved\)"):
            pool.step({0: "forward"})
        with pytest.raises(ValueError, match="slot 9 was never reset"):
            pool.step({9: "forward"})
    finally:
        pool.close()


def test_a_game_that_kills_every_reset_is_failed_from_its_start():
    pool = toy_pool()
    try:
        out = pool.reset(range(4), [0, breaking_env.KILLED_AT_RESET, 2, 3])
        assert [out[slot].failed for slot in range(4)] == [False, True, False, False]
        assert (out[1].done, out[1].step) == (True, 0) and "SIGSEGV" in out[1].end_reason
        assert step_all(pool, slots=(0, 2, 3))[3] == undisturbed(range(4), ["forward"])[3]
        assert not pool.reset([1], [1])[1].failed
    finally:
        pool.close()


def test_an_episode_that_cannot_be_played_again_is_told_so():
    pool = toy_pool(make=breaking_env.make_forgetful)
    try:
        pool.reset(range(4), range(4))
        os.kill(pool.process_ids[0], signal.SIGKILL)
        out = step_all(pool)
        assert [out[slot].failed for slot in range(4)] == [True, False, True, False]
        assert "replay of seed 2 and 0 actions parted from the episode" in out[2].end_reason
    finally:
        pool.close()


def test_workers_are_renewed_without_a_trace_in_the_episodes():
    pool = toy_pool(resets_per_worker=3)
    try:
        pool.reset(range(4), range(4))
        step_all(pool)
        first = pool.process_ids
        for seed in range(10, 14):
            pool.reset([0], [seed])
        assert pool.process_ids[0] != first[0] and pool.process_ids[1] == first[1]
        expected = undisturbed(range(4), ["forward"] * 2)
        out = step_all(pool)
        assert [out[slot] for slot in (1, 2, 3)] == [expected[slot] for slot in (1, 2, 3)]
        assert pool.incidents == []
    finally:
        pool.close()


def test_a_snapshot_goes_on_in_any_slot_as_the_episode_did():
    pool = envs.make(MEMENTO)
    try:
        pool.reset([0, 1], [5, 6])
        pool.step({0: "east", 1: "no such action"})
        before = selftest.part_digests(pool.step({1: "west"})[1])
        taken = pool.snapshot(1)
        ahead = [pool.step({1: action})[1] for action in ("east", "north")]
        restored = pool.restore(4, taken)  # another worker
        assert selftest.part_digests(restored) == before
        again = [pool.step({4: action})[4] for action in ("east", "north")]
        assert list(map(selftest.part_digests, again)) == list(map(selftest.part_digests, ahead))
        assert not pool.step({0: "east", 1: "east"})[0].failed
        wrong = dataclasses.replace(taken, seed=7)
        with pytest.raises(BranchError, match="slot 2 cannot be restored: .* parted"):
            pool.restore(2, wrong)
        with pytest.raises(ValueError, match="slot 2 was never reset"):
            pool.step({2: "east"})
    finally:
        pool.close()


def policy_that(disturbs):
    def answer(request):
        disturbs(request)
        if request.key.phase == "log":
            return "<|APPEND|>notes|seen<|END|><|DONE|>"
        return f"<|ACTION|>{('east', 'north', 'east')[request.key.step % 3]}<|END|>"

    return ScriptedPolicy(answer)


def play(out_dir, disturb=lambda pool, request: None):
    spec = RolloutSpec(
        env_name="minihack",
        task=MEMENTO.task,
        template=load_template("memento_v0"),
        arm="base",
        run_seed=0,
        sampling=SamplingSettings(max_tokens=8),
        two_model=False,
        behaviour_hash="0" * 16,
    )
    pool = envs.make(MEMENTO)
    try:
        policy = policy_that(lambda request: disturb(pool, request))
        result = run_episodes(pool, policy, spec, range(9), out_dir, show_progress=False)
        return {path.name: path.read_bytes() for path in result.paths}, pool.incidents
    finally:
        pool.close()


def test_a_rollout_goes_on_after_kill_9_and_equals_an_undisturbed_one(tmp_path):
    whole, _ = play(tmp_path / "whole")
    killed = []

    def kill(pool, request):
        if (request.key.step, request.key.episode) in ((3, 4), (7, 6)) and len(killed) < 2:
            killed.append(pool.process_ids[len(killed)])
            os.kill(killed[-1], signal.SIGKILL)

    disturbed, incidents = play(tmp_path / "killed", kill)
    assert len(killed) == 2
    assert [incident.reason for incident in incidents] == ["process killed by SIGKILL"] * 2
    assert [incident.lost for incident in incidents] == [None, None]
    assert disturbed == whole


def test_a_rollout_lists_the_one_episode_that_broke(tmp_path):
    spec = RolloutSpec(
        "toy", "toy", load_template("memento_v0"), "base", 0, SamplingSettings(), False, "0" * 16
    )
    answer = ScriptedPolicy(lambda request: "<|ACTION|>forward<|END|><|DONE|>")
    seeds = [1, 2, 101, 3, 102, 4]
    pool = toy_pool(slots=3)
    try:
        broken = run_episodes(pool, answer, spec, seeds, tmp_path / "a", show_progress=False)
    finally:
        pool.close()
    ends = {path.stem: read_trace(path).end for path in broken.paths}
    failed = {name for name, end in ends.items() if end["failed"]}
    assert failed == {"toy-101", "toy-102"}
    assert all("crashed" in ends[name]["end_reason"] for name in failed)
    whole = run_episodes(
        ToyEnv(3, length=5), answer, spec, seeds, tmp_path / "b", show_progress=False
    )
    for mine, theirs in zip(broken.paths, whole.paths, strict=True):
        assert (mine.read_bytes() == theirs.read_bytes()) == (mine.stem not in failed)


def test_close_leaves_nothing_behind():
    pool = toy_pool()
    pool.reset(range(4), range(4))
    os.kill(pool.process_ids[0], signal.SIGKILL)
    os.kill(pool.process_ids[1], signal.SIGSTOP)  # hears nothing any more
    ids = pool.process_ids
    pool.close()
    pool.close()
    assert not {child.pid for child in multiprocessing.active_children()} & set(ids)
    for process_id in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)
    with pytest.raises(ValueError, match="the pool is closed"):
        pool.step({0: "wait"})


_INTERRUPTED = """
import os, signal, sys, threading
sys.path.insert(0, {tests!r})
import test_pool
if __name__ == "__main__":
    pool = test_pool.toy_pool(timeout_s=600.0)
    pool.reset([0, 1], [103, 2])
    pool.step({{0: "wait", 1: "wait"}})
    print(*pool.process_ids, flush=True)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    pool.step({{0: "wait", 1: "wait"}})  # hangs until the interrupt
"""


def test_an_interrupt_ends_hung_workers_too():
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    script = _INTERRUPTED.format(tests=os.path.dirname(__file__))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "KeyboardInterrupt" in result.stderr
    ids = [int(word) for word in result.stdout.split()]
    assert len(ids) == 2
    for process_id in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)
    if os.path.isdir("/dev/shm"):
        assert not [n for n in set(os.listdir("/dev/shm")) - before if n.startswith("pym-")]


def test_a_bad_task_is_refused_at_once():
    with pytest.raises(ValueError, match=MEMENTO.task):
        envs.make(dataclasses.replace(MEMENTO, task="MiniHack-Memento-Shrt-F2-v0"))


def test_the_self_test_names_seed_step_and_field():
    one = {5: [{"long_text": "a", "fields.x": "1"}, {"long_text": "b", "fields.x": "2"}], 6: [{}]}
    other = {5: [one[5][0], {"long_text": "b", "fields.x": "3"}], 6: [{}, {}]}
    assert selftest.first_differences(one, one) == []
    assert selftest.first_differences(one, other) == [
        selftest.Difference(5, 1, "fields.x"),
        selftest.Difference(6, 1, "number of steps"),
    ]
