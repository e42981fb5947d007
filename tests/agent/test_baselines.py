"""Agents without memory: same engine, same trace, only a window of the past."""

import dataclasses

import pytest

from automem_jax.agent.agent import Decision
from automem_jax.agent.template import ActionsSpec, load_template
from automem_jax.agent.window import WindowAgent
from automem_jax.config import ConfigError, ExperimentConfig, check, from_config_dict
from automem_jax.evaluation.results import summarise
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.chat import render
from automem_jax.text.messages import Completion, SamplingSettings
from automem_jax.text.tokenizer import load_tokenizer
from automem_jax.traces.store import TraceError, read_trace

EMBEDDED = load_tokenizer("embedded")


def play(replies, *, steps=4, length=3, **settings):
    env = ToyEnv(length=length)
    agent = WindowAgent(
        SamplingSettings(),
        episode=0,
        instructions=env.instructions,
        actions_spec=ActionsSpec(fallback="wait"),
        **settings,
    )
    percept, requests, records = env.reset([0], [0])[0], [], []
    replies = iter(replies)
    for _ in range(steps):
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            requests.append(out)
            out = agent.receive(Completion(next(replies, "<|ACTION|>wait<|END|>")))
        records.append(out.record)
        percept = env.step({0: out.action})[0]
        if percept.done:
            break
    return requests, records, agent.end_record(percept)


def said(request):
    return [f"{m.role}: {m.content}" for m in request.messages]


def test_the_window_is_a_chat_of_observations_and_actions():
    requests, records, end = play(
        ["<|ACTION|>forward<|END|>", "Forward it is. <|ACTION|>Forward!<|END|>"], window=1
    )
    first, second, third, _ = map(said, requests)
    assert first[0].startswith("system: Walk forward to the fork") and len(first) == 2
    assert first[1] == "user: message:\n\n\nobservation:\na sign says left\n\nstep 0"
    assert second[1:] == [
        "user: message:\n\n\nobservation:\na sign says left",
        "assistant: <|ACTION|>forward<|END|>",
        "user: message:\n\n\nobservation:\na corridor\n\nstep 1",
    ]
    assert "says" not in "".join(third) and len(third) == 4  # out of the window, out of mind
    assert [r["action_source"] for r in records] == ["model", "repair", "model", "model"]
    assert {r.role for r in requests} == {"gameplay"}
    assert end["memory_stats"]["ops"] == 0 and end["memory_stats"]["unproductive_actions"] == 3


def test_reasoning_comes_before_the_action_and_stays_out_of_the_window():
    replies = ["I see a sign. It says left. <|ACTION|>forward<|END|>"]
    requests, _, _ = play(replies, kind="window_cot", steps=2)
    assert "Think first" in requests[0].messages[0].content
    assert said(requests[1])[2] == "assistant: <|ACTION|>forward<|END|>"
    with pytest.raises(ValueError, match="none of window, window_cot"):
        play([], kind="windov")


def test_no_action_is_asked_for_once_more_then_the_fallback_is_taken():
    requests, records, _ = play(["hm", "well"], steps=1)
    assert said(requests[1])[2:] == [
        "assistant: hm",
        "user: No action was found in that. Answer with <|ACTION|>name<|END|> only.",
    ]
    assert (records[0]["action"], records[0]["action_source"]) == ("wait", "fallback")
    _, records, _ = play(["<|ACTION|>fly<|END|>"], steps=1)
    assert records[0]["errors"] == ["'fly' is no action of this task"]


@pytest.mark.parametrize("budget", [220, 300, 500])
def test_the_oldest_steps_go_first_where_the_context_is_short(budget):
    def count(messages):
        return len(render(messages, EMBEDDED))

    requests, records, _ = play(
        ["wordy " * 200], steps=12, length=30, count_tokens=count, context_tokens=budget
    )
    assert max(count(request.messages) for request in requests) <= budget
    cuts = records[-1]["phases"][0]["cuts"]
    assert cuts[0]["slot"] == "steps" and cuts[0]["kept"] < cuts[0]["of"] == 11


def spec(kind, **changes):
    fields = {
        "env_name": "toy",
        "task": "toy",
        "template": load_template("memento_v0"),
        "arm": kind,
        "run_seed": 3,
        "sampling": SamplingSettings(max_tokens=8),
        "two_model": False,
        "behaviour_hash": "0" * 16,
        "kind": kind,
    }
    return RolloutSpec(**(fields | changes))


def answer(request):
    seen = " ".join(m.content for m in request.messages)
    if "the fork" in request.messages[-1].content:
        return f"<|ACTION|>{'left' if 'says left' in seen else 'right'}<|END|>"
    return "<|ACTION|>forward<|END|>"


def test_the_engine_plays_baselines_and_the_results_show_them_beside_memory(tmp_path):
    seeds = list(range(6))
    for name, settings in {"window": {}, "window_cot": {"window": 1}}.items():
        run_episodes(
            ToyEnv(3), ScriptedPolicy(answer), spec(name, **settings), seeds, tmp_path / name
        )
    results = summarise({name: tmp_path / name for name in ("window", "window_cot")})
    assert results["arms"]["window"]["mean"] == 1.0  # the sign is within 16 steps
    assert results["arms"]["window_cot"]["mean"] == 0.5  # one step back it is not
    assert results["arms"]["window"]["behaviour"]["operations_per_step"] == 0
    trace = read_trace(tmp_path / "window" / "toy-2.jsonl")
    assert trace.header["agent"] == {"kind": "window", "window": 16}
    assert [s.t for s in trace.steps] == [0, 1, 2, 3] and not trace.changes()
    with pytest.raises(TraceError, match="agent"):
        run_episodes(
            ToyEnv(3), ScriptedPolicy(answer), spec("window", window=4), seeds, tmp_path / "window"
        )


def test_the_config_names_baselines():
    good = {"evaluation": {"baselines": ["window", "window_cot"]}, "agent": {"kind": "window_cot"}}
    check(from_config_dict(good))
    for bad, message in {
        "agent": r"agent\.kind: 'windov' is none of memory, window, window_cot",
        "evaluation": r"evaluation\.baselines: 'windov' is none of window, window_cot",
    }.items():
        field = {"agent": {"kind": "windov"}, "evaluation": {"baselines": ["windov"]}}[bad]
        with pytest.raises(ConfigError, match=message):
            check(from_config_dict({bad: field}))
    config = ExperimentConfig()
    carrying = dataclasses.replace(config.agent, carry_memory=True, kind="window")
    with pytest.raises(ConfigError, match="carry_memory needs kind 'memory'"):
        check(dataclasses.replace(config, agent=carrying))
