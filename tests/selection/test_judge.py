"""The judge against a scripted server: batches, cache, budget, and answers that cannot be used."""

import dataclasses
import json
import re

import pytest
from handmade import play

from automem_jax.config import JudgeConfig, PolicyConfig, SelectionConfig, SignalWeights
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.selection import select
from automem_jax.selection.by_signals import score
from automem_jax.selection.examples import scan_signals
from automem_jax.selection.judge import JudgeError, rate, table_name
from automem_jax.testing import ScriptedPolicy
from automem_jax.text.messages import Completion
from automem_jax.traces.store import list_traces

openai = pytest.importorskip("openai")

CONFIG = SelectionConfig(kind="signals", weights=dataclasses.replace(SignalWeights(), judge=1.0))


@pytest.fixture
def decisions(tmp_path):
    for seed in range(6):
        play(seed, cue="saw a lichen", trivia=seed % 2 == 0, consult=True).write(
            tmp_path / "traces", float(seed % 2)
        )
    return score(scan_signals(list_traces(tmp_path / "traces"), CONFIG), CONFIG)


def policy(server: LoopbackServer):
    from automem_jax.policies.openai import OpenAIPolicy

    config = PolicyConfig(kind="openai", base_url=server.base_url, model="judge", max_retries=0)
    return OpenAIPolicy(config)


def answer(received) -> Reply:
    """4 for what speaks of the lichen, else 1."""
    told = received.body["messages"][-1]["content"]
    parts = re.split(r"# Decision \d+: ", told)[1:]
    ratings = [
        {"id": n, "rating": 4 if "lichen" in part.split("[reply to rate]")[1] else 1, "why": "x"}
        for n, part in enumerate(parts, start=1)
    ]
    return Reply("Sure:\n" + json.dumps({"ratings": ratings}))


def test_ratings_come_in_batches_are_kept_and_agree_with_what_is_measured(
    decisions, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "loopback")
    config = JudgeConfig(batch=4)
    with LoopbackServer(answer) as server:
        asked = policy(server)
        table = tmp_path / table_name(asked, config)
        few = rate(decisions, asked, dataclasses.replace(config, decisions=4), table)
        assert (few.rated, few.new, len(server.received)) == (4, 4, 1)
        rest = rate(decisions, asked, config, table)
        assert (rest.rated, rest.new) == (len(decisions), len(decisions) - 4)
        calls = len(server.received)
        assert calls == 1 + -(-(len(decisions) - 4) // 4)
        again = rate(decisions, asked, config, table)
        assert (again.new, len(server.received)) == (0, calls)
        system = server.received[0].body["messages"][0]["content"]
        assert "Criteria" in system and "never instructions" in system
        other = dataclasses.replace(config, criteria="- Short.")
        assert table_name(asked, other) != table_name(asked, config)
        with pytest.raises(ValueError, match="other settings"):
            rate(decisions, asked, other, table)
    paths = list_traces(tmp_path / "traces")
    rated = score(scan_signals(paths, CONFIG), CONFIG, None, table)
    assert {one.values["judge"] for one in rated} == {0.25, 1.0}
    report = select(
        paths, dataclasses.replace(CONFIG, min_score=-1.0), tmp_path / "s", ratings=table
    )
    assert {"followed", "outcome"} <= set(report.details["agreement"]["judge"])
    unrated = score(scan_signals(paths, CONFIG), CONFIG)
    assert {one.reason for one in unrated if one.decision.idle is None} <= {
        "unmeasured", "redundant", "not_observed"
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        "no json at all",
        '{"ratings": [{"id": 1, "rating": 9}]}',
        '{"ratings": [{"id": 2, "rating": 1}]}',
        '{"ratings": [{"id": 1, "rating": true}]}',
        '{"ratings": 5}',
        "[" * 100_000,
    ],
)
def test_an_answer_that_cannot_be_used_is_asked_for_again_once(decisions, tmp_path, bad):
    said = []

    def reply(request):
        said.append(request.messages[-1].content)
        return bad

    found = rate(decisions[:1], ScriptedPolicy(reply), JudgeConfig(), tmp_path / "t.jsonl")
    assert (found.rated, found.unrated, len(said)) == (0, 1, 2)
    assert "Not usable" in said[1]


def test_a_server_that_fails_ends_the_judging_and_keeps_what_is_paid_for(decisions, tmp_path):
    calls = iter([True, False])

    def reply(request):
        if next(calls):
            return '{"ratings": [{"id": 1, "rating": 2}]}'
        return Completion("", finish_reason="error", error="no credit", outage=True)

    config = JudgeConfig(batch=1)
    judge = ScriptedPolicy(reply, max_batch=1)
    with pytest.raises(JudgeError, match="no credit"):
        rate(decisions[:2], judge, config, tmp_path / "t.jsonl")
    good = ScriptedPolicy(lambda _: '{"ratings": [{"id": 1, "rating": 2}]}')
    assert rate(decisions[:2], good, config, tmp_path / "t.jsonl").new == 1
