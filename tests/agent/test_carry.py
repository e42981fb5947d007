"""Persistent files: what one episode learnt the next one of the run knows. And a map's surroundings."""

import dataclasses

import pytest

from automem_jax.agent.agent import Agent
from automem_jax.agent.memory import replay
from automem_jax.agent.template import from_data, load_template, to_data
from automem_jax.agent.validate import validate
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import SamplingSettings
from automem_jax.traces.store import TraceError, read_trace

SEEDS = [4, 2, 9, 7]


def template():
    data = to_data(load_template("memento_v0"))
    data["actions"]["fallback"] = "wait"
    data["files"]["lessons"] = {"kind": "document", "persistent": True, "seed": "lessons:"}
    data["files"]["places"] = {"kind": "map", "key": ["x", "y"], "persistent": True}
    data["slots"]["lessons"] = {"file": "lessons"}
    data["phases"]["plan"]["slots"].insert(0, "lessons")
    return from_data(data)


def spec(**changes):
    fields = {
        "env_name": "toy",
        "task": "toy",
        "template": template(),
        "arm": "base",
        "run_seed": 3,
        "sampling": SamplingSettings(max_tokens=8),
        "two_model": False,
        "behaviour_hash": "0" * 16,
        "carry_memory": True,
    }
    return RolloutSpec(**(fields | changes))


def answer(request):
    key = request.key
    if key.phase == "log" and key.step == 1:
        return (
            f"<|APPEND|>lessons|played {key.episode}<|END|><|APPEND|>notes|own {key.episode}<|END|>"
            f"<|UPSERT|>places|1,2|last seen in {key.episode}<|END|><|DONE|>"
        )
    if key.phase == "log":
        return "<|DONE|>"
    return "<|ACTION|>left<|END|>" if key.step == 3 else "<|ACTION|>forward<|END|>"


def files(path):
    lines = replay(read_trace(path).changes())
    return {name: [text for _, text in rows] for name, rows in lines.items()}


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_persistent_files_go_on_in_the_order_of_the_seeds(tmp_path):
    result = run_episodes(ToyEnv(4), ScriptedPolicy(answer), spec(), SEEDS, tmp_path)
    last = files(result.paths[-1])
    assert last["lessons"] == ["lessons:", "played 4", "played 2", "played 9", "played 7"]
    assert last["places"] == ["1,2: last seen in 7"]  # still one line a key
    assert last["notes"] == ["own 7"]
    second = read_trace(result.paths[1])
    assert "played 4" in second.steps[0].phases[0].turns[0].messages[-1].content
    assert second.header["carried"]["from"] == "toy-4"
    assert read_trace(result.paths[0]).header["carried"]["from"] is None
    assert result.new_episodes == 4


def test_it_is_off_unless_asked_for(tmp_path):
    result = run_episodes(
        ToyEnv(4), ScriptedPolicy(answer), spec(carry_memory=False), SEEDS, tmp_path
    )
    assert [files(p)["lessons"][1:] for p in result.paths] == [[f"played {s}"] for s in SEEDS]
    assert "carried" not in read_trace(result.paths[0]).header


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 6, 12, 20])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, after):
    run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), SEEDS, tmp_path / "whole")
    calls = iter(range(1000))

    def until_killed(request):
        if next(calls) >= after:
            raise Killed
        return answer(request)

    with pytest.raises(Killed):
        run_episodes(ToyEnv(3), ScriptedPolicy(until_killed), spec(), SEEDS, tmp_path / "cut")
    again = ScriptedPolicy(answer)
    run_episodes(ToyEnv(3), again, spec(), SEEDS, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert len(again.requests) <= 28 - after + 3  # of a step that was under way, at most
    third = ScriptedPolicy(answer)
    assert run_episodes(ToyEnv(3), third, spec(), SEEDS, tmp_path / "cut").new_episodes == 0
    assert not third.requests


def test_a_lost_episode_is_played_again_and_the_later_ones_are_kept(tmp_path):
    result = run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), SEEDS, tmp_path)
    before = contents(tmp_path)
    result.paths[1].unlink()
    again = run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), SEEDS, tmp_path)
    assert again.new_episodes == 1 and contents(tmp_path) == before


def test_episodes_that_carried_something_else_are_refused(tmp_path):
    run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), SEEDS[:2], tmp_path)
    with pytest.raises(TraceError, match="carried"):
        run_episodes(ToyEnv(1), ScriptedPolicy(answer), spec(), [9, 2], tmp_path)


def mapped(radius=2, key=("level", "x", "y"), seed="", **slot):
    data = to_data(load_template("memento_v0"))
    data["files"]["places"] = {"kind": "map", "key": list(key), "seed": seed}
    data["observers"] = {"pose": {"type": "pose"}}
    view = {"file": "places", "view": f"keys_near:{radius}", "near": "pose"}
    data["slots"]["near"] = view | slot
    data["phases"]["plan"]["slots"].insert(0, "near")
    return from_data(data)


SEED = """\
1,5,5: door
1,7,6: two away
1,8,5: three away
2,5,5: other level
1,5: too short
rubbish"""


def shown_near(monkeypatch, template, place):
    """What the slot shows at a place, and the ranges of the trace."""
    agent = Agent(template, SamplingSettings(), episode=0, two_model=False, instructions="")
    resolve = agent._scope.resolve

    def at(path):
        return place[path] if path in place else resolve(path)

    monkeypatch.setattr(agent._scope, "resolve", at)
    request = agent.observe(ToyEnv().reset([0], [0])[0])
    shown = agent._record["phases"][0]["shown"].get("places", [])
    return request.messages[-1].content.split("\nsee:")[0].splitlines(), shown


def test_a_slot_shows_a_maps_lines_near_the_player(monkeypatch):
    here = {"pose.x": 5, "pose.y": 5, "pose.level": "1"}
    lines, shown = shown_near(monkeypatch, mapped(seed=SEED), here)
    assert lines == ["1,5,5: door", "1,7,6: two away"] and shown == [[0, 1]]
    lines, shown = shown_near(monkeypatch, mapped(3, seed=SEED), here | {"pose.level": "2"})
    assert lines == ["2,5,5: other level"] and shown == [[3, 3]]
    flat = mapped(0, ("x", "y"), "5,5: here\n5,6: not here\n-1,2: far")
    assert shown_near(monkeypatch, flat, here)[0] == ["5,5: here"]
    unknown = {"pose.x": None, "pose.y": None, "pose.level": "1"}
    assert shown_near(monkeypatch, mapped(seed=SEED, empty="none"), unknown)[0] == ["none"]


@pytest.mark.parametrize(
    "changes,place,words",
    [
        ({"near": ""}, "slots.near.near", "no observer tells the place"),
        ({"near": "pos"}, "slots.near.near", "did you mean 'pose'"),
        ({"view": "keys_near:x"}, "slots.near.view", "keys_near:R"),
        ({"view": "full"}, "slots.near.near", "only keys_near"),
        ({"file": "notes"}, "slots.near.view", "is no map"),
    ],
)
def test_the_validator_names_what_keys_near_lacks(changes, place, words):
    problems = validate(mapped(**changes))
    assert any(p.place == place and words in str(p) for p in problems), problems
    assert not validate(mapped())


def test_only_the_agents_own_files_persist():
    broken = template()
    files = dict(broken.files) | {
        "lessons": dataclasses.replace(broken.files["lessons"], kind="reference", ops=())
    }
    problems = validate(dataclasses.replace(broken, files=files))
    assert [p.place for p in problems] == ["files.lessons.persistent"]
