"""The api architect against a real HTTP server on loopback."""

import dataclasses
import json
import logging
import random
import re

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from toy_evolution import TEMPLATE, make_config, noting_episode, run_template

from automem_jax.agent import template
from automem_jax.agent.actions import REPAIRS
from automem_jax.agent.grammar import OPERATIONS
from automem_jax.agent.guards import GUARDS
from automem_jax.agent.observers import OBSERVERS
from automem_jax.agent.template import to_data
from automem_jax.architect import ArchitectError, Context, NoProposal, ProposalError, evolve
from automem_jax.architect.brief import make_brief
from automem_jax.architect.catalog import show_file_in_plan
from automem_jax.architect.propose import ApiArchitect, extract_json, system_prompt
from automem_jax.architect.render import choose_traces, render_trace
from automem_jax.config import ArchitectConfig, ConfigError, PolicyConfig
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.traces.store import read_trace

SECRET = "sk-architect-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", SECRET)


@pytest.fixture(params=["openai", "anthropic"])
def kind(request):
    return request.param


def settings(kind, server, **fields):
    api = PolicyConfig(
        kind=kind,
        base_url=server.base_url if kind == "openai" else server.root_url,
        model="architect-model",
        api_key_env="TEST_KEY",
        **{"timeout_s": 20.0, "max_retries": 2, "backoff_s": 1.0} | fields,
    )
    return ArchitectConfig(kind="api", api=api, bootstrap_samples=200, attempts=2)


def make_architect(kind, server, waits=None, **fields):
    sleep = (waits if waits is not None else []).append
    return ApiArchitect(settings(kind, server, **fields), sleep=sleep, rng=random.Random(0))


def make_context(tmp_path, count=4):
    paths = [noting_episode(tmp_path, seed, float(seed % 2)) for seed in range(count)]
    brief = make_brief(TEMPLATE, map(read_trace, paths))
    return Context(
        "minihack", "Memento", 1, 1, "next", TEMPLATE, brief, traces=paths, instructions="Walk."
    )


def good_answer(**fields):
    template = show_file_in_plan(to_data(TEMPLATE), "notes")
    answer = {"diagnosis": "notes unread", "expected_effect": "+", "template": template} | fields
    return json.dumps(answer, indent=1)


def test_a_fenced_answer_becomes_a_checked_proposal(tmp_path, kind):
    text = f"Notes are never read {{sic}}.\n```json\n{good_answer()}\n```\nGood luck {{x}}"
    with LoopbackServer([Reply(text)]) as server:
        proposal = make_architect(kind, server).propose(make_context(tmp_path))
    assert proposal.template.slots["plan_notes"].file == "notes"
    assert (proposal.template.id, proposal.template.parent) == ("next", "memento_v0")
    assert (proposal.diagnosis, proposal.calls) == ("notes unread", 1)


def test_the_prompt_holds_figures_template_history_and_whole_traces(tmp_path, kind):
    row = {
        "template": "old",
        "parent": "memento_v0",
        "verdict": "dropped",
        "reason": "no gain",
        "diagnosis": "earlier guess",
        "structural_changes": ["files.notes.dedupe"],
        "gate": {"mean_difference": -0.1, "interval": [-0.2, 0.0]},
    }
    context = dataclasses.replace(make_context(tmp_path), history=[row])
    with LoopbackServer([Reply(good_answer())]) as server:
        make_architect(kind, server).propose(context)
    body = server.received[0].body
    user = [m for m in body["messages"] if m["role"] == "user"][0]["content"]
    for part in ("mean progression 0.5", "Walk.", '"id": "memento_v0"', "earlier guess", "-0.1000"):
        assert part in user
    for seed in range(4):
        assert f"=== episode seed {seed}:" in user
    assert "You see a lichen." in user
    system = body.get("system") or body["messages"][0]["content"]
    assert "Answer with one JSON object" in system


def test_the_architect_is_told_all_that_a_template_may_hold():
    told = system_prompt()
    known = [*OBSERVERS, *GUARDS, *REPAIRS, *OPERATIONS, *template.FILE_KINDS, *template.BUILTINS]
    for cls in OBSERVERS.values():
        known += [*cls.PARAMS, *cls.OUTPUTS]
    for kind in GUARDS.values():
        known += [*kind.needed, *kind.optional]
    parts = [c for c in vars(template).values() if dataclasses.is_dataclass(c)]
    known += [field.name for cls in parts for field in dataclasses.fields(cls)]
    words = set(re.findall(r"\w+", told))
    assert [name for name in known if name not in words] == []
    assert "<language>" not in told and "Answer with one JSON object" in told


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("I would rather not.", "no whole JSON object"),
        ('{"diagnosis": "x", "template": {"files": {}', "no whole JSON object"),
        ("{" * 5000, "no whole JSON object"),
        ("[" + "{}" * 3 + "]", "'template' must be an object"),
        ('{"template": 3, "diagnosis": "x"}', "'template' must be an object"),
        (good_answer(diagnosis=None), "'diagnosis' must be text"),
        (good_answer(template=to_data(TEMPLATE)), "wording only"),
        (good_answer(template={"fiels": {}}), "did you mean 'files'"),
        ('{"template": {"id": NaN}, "diagnosis": ""}', "NaN is no JSON value"),
        ("x" * 400_001, "at most 400000"),
        ('{"diagnosis": "", "template": ' + "[" * 100_000, "nested too deeply"),
        ("", "no whole JSON object"),
    ],
    ids=range(12),
)
def test_an_unusable_answer_is_sent_back_with_its_error(tmp_path, bad, problem):
    with LoopbackServer([Reply(bad), Reply(good_answer())]) as server:
        proposal = make_architect("openai", server).propose(make_context(tmp_path))
    assert proposal.calls == 2
    second = server.received[1].body["messages"]
    assert [m["role"] for m in second] == ["system", "user", "assistant", "user"]
    assert "Not usable" in second[-1]["content"] and problem in second[-1]["content"]


def test_after_three_unusable_answers_the_attempt_is_given_up(tmp_path, kind):
    with LoopbackServer([Reply('{"template": {}}')]) as server:
        with pytest.raises(NoProposal, match="in 3 answers") as caught:
            make_architect(kind, server).propose(make_context(tmp_path))
    assert caught.value.calls == 3 and len(server.received) == 3


def test_a_cut_answer_is_told_so(tmp_path, kind):
    reason = "length" if kind == "openai" else "max_tokens"
    cut = Reply(good_answer()[:200], finish_reason=reason)
    with LoopbackServer([cut, Reply(good_answer())]) as server:
        make_architect(kind, server).propose(make_context(tmp_path))
    assert "cut at the token limit" in server.received[1].body["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("bad", "calls"),
    [
        (Reply(status=429, headers={"Retry-After": "9"}), 3),
        (Reply(status=500), 3),
        (Reply(body=b"<html>"), 3),
        (Reply(reset=True), 3),
        (Reply(hang=True), 3),
        (Reply(status=401), 1),
    ],
    ids=["429", "500", "garbage", "reset", "hang", "401"],
)
def test_a_server_that_fails_for_good_is_one_line(tmp_path, kind, bad, calls):
    waits = []
    timeout_s = 0.15 if bad.hang else 20.0
    with LoopbackServer([bad]) as server:
        architect = make_architect(kind, server, waits, timeout_s=timeout_s)
        with pytest.raises(ArchitectError) as caught:
            architect.propose(make_context(tmp_path, count=1))
    assert len(server.received) == calls and len(waits) == calls - 1
    assert "\n" not in str(caught.value) and "architect-model" in str(caught.value)
    if bad.headers:
        assert all(9.0 <= wait <= 9.9 for wait in waits) and len(waits) == 2  # jitter on top


def test_transient_failures_are_waited_out(tmp_path, kind):
    script = [
        Reply(status=429, headers={"Retry-After": "3"}),
        Reply(reset=True),
        Reply(good_answer()),
    ]
    waits = []
    with LoopbackServer(script) as server:
        proposal = make_architect(kind, server, waits).propose(make_context(tmp_path, count=1))
    assert proposal.calls == 1 and 3.0 <= waits[0] <= 3.3 and len(waits) == 2


def test_evolve_with_a_server_and_no_key_in_any_file_or_log(tmp_path, kind, caplog):
    caplog.set_level(logging.DEBUG)
    script = [
        Reply(f"your key is {SECRET}"),
        Reply(good_answer(diagnosis=f"key {SECRET} seen")),
    ]
    with LoopbackServer(script) as server:
        config = dataclasses.replace(make_config(), architect=settings(kind, server))
        architect = make_architect(kind, server)
        best = evolve(config, tmp_path, run_template, architect)
    assert best.parent == "memento_v0" and len(server.received) == 2
    ledger = (tmp_path / "evolve" / "ledger.jsonl").read_text()
    assert "key *** seen" in ledger and '"calls":2' in ledger
    holding = [p for p in tmp_path.rglob("*") if p.is_file() and SECRET in p.read_text()]
    assert holding == [] and SECRET not in caplog.text


def test_a_failing_server_leaves_no_key_and_a_ledger_to_go_on_from(tmp_path, kind, caplog):
    caplog.set_level(logging.DEBUG)
    with LoopbackServer([Reply(f"no such key {SECRET}", status=401)]) as server:
        config = dataclasses.replace(make_config(), architect=settings(kind, server))
        with pytest.raises(ArchitectError) as caught:
            evolve(config, tmp_path, run_template, make_architect(kind, server))
    assert SECRET not in str(caught.value) + caplog.text
    lines = (tmp_path / "evolve" / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 2 and SECRET not in "".join(lines)


def test_the_kind_of_server_and_its_key_are_checked_at_once(monkeypatch):
    with pytest.raises(ConfigError, match="architect.api.kind is 'local'"):
        ApiArchitect(ArchitectConfig(api=PolicyConfig(kind="local", model="m")))
    monkeypatch.delenv("TEST_KEY")
    api = PolicyConfig(kind="anthropic", model="m", api_key_env="TEST_KEY")
    with pytest.raises(ConfigError, match="TEST_KEY is not set"):
        ApiArchitect(ArchitectConfig(api=api))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    api = PolicyConfig(kind="openai", model="m", api_key_env="TEST_KEY")
    with pytest.raises(ConfigError, match=r"pip install 'automem_jax\[api\]'"):
        ApiArchitect(ArchitectConfig(api=api))


def test_extract_json_takes_the_object_with_a_template():
    text = 'first {"note": 1} then {"template": {"a": "}{"}, "b": 2} and {"template": {}}'
    assert extract_json(text) == {"template": {"a": "}{"}, "b": 2}
    assert extract_json('{"other": 1}') == {"other": 1}
    with pytest.raises(ProposalError, match="Expecting"):
        extract_json('{"diagnosis": "long enough", "template": {"a": 1,, "b": {"c": 2}}}')


def test_traces_shown_are_worst_and_best_in_turn(tmp_path):
    context = make_context(tmp_path, count=6)
    chosen = choose_traces(context.traces, context.brief.scores, 3)
    assert [read_trace(p).header["seed"] for p in chosen] == [0, 5, 2]


def test_a_long_trace_keeps_its_start_and_end_within_the_budget(tmp_path):
    from toy_traces import step, write_episode

    steps = [step(f"place {t} " + "x" * 100) for t in range(200)]
    trace = read_trace(write_episode(tmp_path, 1, steps))
    text = render_trace(trace, 3000)
    assert len(text) <= 3000
    assert "place 0 " in text and "place 199 " in text and "steps left out" in text
    assert "place 100 " not in text
