import dataclasses
import json

import pytest

from automem_jax.agent.template import load_template
from automem_jax.rollout.engine import PolicyDown, PolicyRefuses, RolloutSpec, run_episodes
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import Completion, Request, SamplingSettings
from automem_jax.traces.store import TraceError, read_trace

SEEDS = list(range(7))


def spec(**changes) -> RolloutSpec:
    fields = {
        "env_name": "toy",
        "task": "toy",
        "template": load_template("memento_v0"),
        "arm": "base",
        "run_seed": 3,
        "sampling": SamplingSettings(max_tokens=8),
        "two_model": False,
        "behaviour_hash": "0" * 16,
    }
    return RolloutSpec(**(fields | changes))


def answer(request: Request) -> str:
    """Notes the sign, reads the notes at the fork, takes the side they name."""
    told = request.messages[-1].content
    if request.key.phase == "log":
        if "a sign says" in told:
            return f"<|APPEND|>notes|{told.split('a sign says ')[1].split()[0]}<|END|><|DONE|>"
        return "<|DONE|>"
    if "the fork" in told and request.key.turn == 0:
        return "<|READ|>notes<|END|>"
    if "READ" in told:
        return f"<|ACTION|>{'left' if 'left' in told else 'right'}<|END|>"
    return f"<|ACTION|>{'wait' if request.key.step == 0 else 'forward'}<|END|>"


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_traces_do_not_depend_on_how_many_episodes_run_at_once(tmp_path, slots):
    run_episodes(ToyEnv(2), ScriptedPolicy(answer), spec(), SEEDS, tmp_path / "a")
    result = run_episodes(ToyEnv(slots), ScriptedPolicy(answer), spec(), SEEDS, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    ends = [read_trace(path).end for path in result.paths]
    assert [end["progression"] for end in ends] == [1.0] * len(SEEDS)
    assert all(end["tokens"]["calls"] > 0 for end in ends)


def test_finished_episodes_are_kept_and_not_asked_again(tmp_path):
    run_episodes(ToyEnv(4), ScriptedPolicy(answer), spec(), SEEDS, tmp_path)
    policy = ScriptedPolicy(answer)
    result = run_episodes(ToyEnv(4), policy, spec(), SEEDS, tmp_path)
    assert policy.requests == [] and result.new_episodes == 0
    assert len(result.paths) == len(SEEDS)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 9, 23])
def test_a_killed_rollout_goes_on_with_its_recorded_completions(tmp_path, after):
    whole = ScriptedPolicy(answer)
    run_episodes(ToyEnv(2), whole, spec(), SEEDS, tmp_path / "whole")

    calls = 0

    def until_killed(request):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return answer(request)

    with pytest.raises(Killed):
        run_episodes(ToyEnv(2), ScriptedPolicy(until_killed), spec(), SEEDS, tmp_path / "cut")
    again = ScriptedPolicy(answer)
    run_episodes(ToyEnv(2), again, spec(), SEEDS, tmp_path / "cut")
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
    assert len(again.requests) <= len(whole.requests)
    if after >= 9:  # whole steps were on disk by then, so less is asked the second time
        assert len(again.requests) < len(whole.requests)


def test_traces_of_other_settings_are_refused_by_name(tmp_path):
    run_episodes(ToyEnv(2), ScriptedPolicy(answer), spec(), SEEDS, tmp_path)
    with pytest.raises(TraceError, match=r"run_seed = 3, now it is 4; use another --workdir"):
        run_episodes(ToyEnv(2), ScriptedPolicy(answer), spec(run_seed=4), SEEDS, tmp_path)
    other = dataclasses.replace(load_template("memento_v0"), id="other")
    with pytest.raises(TraceError, match="template"):
        run_episodes(ToyEnv(2), ScriptedPolicy(answer), spec(template=other), SEEDS, tmp_path)


def test_failed_model_calls_are_counted_and_the_episode_is_listed_as_failed(tmp_path):
    def failing(request):
        if request.key.episode == 2 and request.key.step == 1:
            return Completion("", finish_reason="error", error="server answered 500")
        return answer(request)

    result = run_episodes(ToyEnv(3), ScriptedPolicy(failing), spec(), SEEDS, tmp_path)
    assert result.completion_errors == 2 and result.first_error == "server answered 500"
    failed = [read_trace(path) for path in result.paths if read_trace(path).end["failed"]]
    assert [trace.header["seed"] for trace in failed] == [2]
    assert "500" in failed[0].end["error"]


def failing_from(call: int, **fields):
    """Answers well until `call`, then every call fails."""
    calls = iter(range(10_000))

    def policy(request):
        failed = Completion("", finish_reason="error", error="no room", **fields)
        return answer(request) if next(calls) < call else failed

    return ScriptedPolicy(policy)


@pytest.mark.parametrize("answered, asked_in_vain", [(0, 1 * 3), (12, 3 * 3)])
def test_an_outage_ends_the_rollout_and_running_again_goes_on(tmp_path, answered, asked_in_vain):
    run_episodes(ToyEnv(3), ScriptedPolicy(answer), spec(), SEEDS, tmp_path / "whole")
    policy = failing_from(answered, outage=True)
    with pytest.raises(PolicyDown, match="no room; mend that and run the same command again"):
        run_episodes(ToyEnv(3), policy, spec(), SEEDS, tmp_path / "cut")
    assert len(policy.requests) == answered + asked_in_vain
    run_episodes(ToyEnv(3), ScriptedPolicy(answer), spec(), SEEDS, tmp_path / "cut")
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
    assert issubclass(PolicyDown, OSError)  # loop 1 does not blame its candidate for it


def test_requests_refused_from_the_start_end_the_rollout_later_ones_do_not(tmp_path):
    with pytest.raises(PolicyRefuses, match="from the start: no room"):
        run_episodes(ToyEnv(3), failing_from(0), spec(), SEEDS, tmp_path)
    result = run_episodes(ToyEnv(3), failing_from(1), spec(), SEEDS[:3], tmp_path)
    assert result.failed_episodes == 3
    result = run_episodes(ToyEnv(3), failing_from(0), spec(), SEEDS, tmp_path)
    assert (result.new_episodes, result.failed_episodes) == (4, 4)


def test_a_server_may_move_but_not_its_model(tmp_path):
    class At(ScriptedPolicy):
        def __init__(self, base_url, model="function"):
            super().__init__(answer)
            self.described = {"kind": "openai", "model": model, "base_url": base_url}

        def describe(self):
            return self.described

    run_episodes(ToyEnv(2), At("http://a"), spec(), SEEDS, tmp_path)
    moved = At("http://b")
    run_episodes(ToyEnv(2), moved, spec(), SEEDS, tmp_path)
    assert moved.requests == []
    with pytest.raises(TraceError, match="policy"):
        run_episodes(ToyEnv(2), At("http://b", "other"), spec(), SEEDS, tmp_path)


def test_a_trace_is_free_of_clocks(tmp_path):
    result = run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), [0], tmp_path)
    header = json.loads(result.paths[0].read_text().splitlines()[0])
    assert not {"time", "date", "started", "host"} & header.keys()


def test_a_repeated_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="listed twice"):
        run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), [1, 1], tmp_path)
