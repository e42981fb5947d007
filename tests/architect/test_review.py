"""The api architect against a real HTTP server on loopback, in both APIs' own JSON."""

import dataclasses
import json
import logging
import re

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from scripted_api import (
    SECRET,
    answers,
    architect,
    last_text,
    make_context,
    propose,
    says,
    settings,
    streamed,
    submit,
    tool_names,
    use,
    with_budget,
)
from toy_evolution import TEMPLATE, make_config, run_template

from automem_jax.agent import template
from automem_jax.agent.actions import REPAIRS
from automem_jax.agent.grammar import OPERATIONS
from automem_jax.agent.guards import GUARDS
from automem_jax.agent.observers import OBSERVERS
from automem_jax.agent.template import to_data
from automem_jax.architect import ArchitectError, NoProposal, evolve
from automem_jax.architect.budget import BudgetSpent
from automem_jax.architect.clients import OpenAIApi
from automem_jax.architect.conversation import MAX_CALLS, MAX_SILENT
from automem_jax.architect.ledger import read_ledger
from automem_jax.architect.recorded import Recorder, ReplayError
from automem_jax.architect.review import ApiArchitect, describe_request, system_prompt
from automem_jax.architect.tools import MAX_SUBMISSIONS
from automem_jax.config import (
    ArchitectConfig,
    BudgetConfig,
    ConfigError,
    PolicyConfig,
    PriceConfig,
    ReviewConfig,
)
from automem_jax.policies.loopback import LoopbackServer, Reply

# --- the conversation -----------------------------------------------------------------------------


def test_tools_are_called_in_parallel_and_a_submission_ends_the_review(tmp_path, kind):
    script = [
        says(kind, use("list_episodes"), use("read_steps", episode=1, first=0, last=2), text="Hm."),
        says(kind, submit(TEMPLATE), use("list_episodes")),
    ]
    proposal, received = propose(kind, script, make_context(tmp_path))
    assert proposal.template.slots["plan_notes"].file == "notes"
    assert (proposal.template.id, proposal.template.parent) == ("next", "memento_v0")
    assert (proposal.diagnosis, proposal.expected_effect) == ("notes unread", "+0.5")
    assert proposal.calls == len(received) == 2
    listed, read = answers(received[1])
    assert [row["episode"] for row in listed["items"]] == [0, 2, 1, 3]
    assert read["items"][0]["observation"] == "You see a lichen."
    assert tool_names(received[0]) == tool_names(received[1])
    assert "submit_template" in tool_names(received[0])


def test_every_answer_goes_back_under_its_calls_id(tmp_path, kind):
    script = [
        says(kind, use("list_episodes"), use("nonsense"), text="Hm."),
        says(kind, submit(TEMPLATE)),
    ]
    _, received = propose(kind, script, make_context(tmp_path))
    *_, asked, answered = (
        received[1].body["messages"]
        if kind == "anthropic"
        else (
            None,
            received[1].body["messages"][2],
            received[1].body["messages"][3:],
        )
    )
    if kind == "openai":
        assert [c["id"] for c in asked["tool_calls"]] == ["c0", "c1"]
        assert [m["tool_call_id"] for m in answered] == ["c0", "c1"]
    else:
        assert [b["id"] for b in asked["content"][1:]] == ["c0", "c1"]
        blocks = answered["content"]
        assert [b["tool_use_id"] for b in blocks] == ["c0", "c1"]
        assert [b.get("is_error", False) for b in blocks] == [False, True]
    assert asked["role"] == "assistant"
    assert "no tool 'nonsense'" in answers(received[1])[1]["error"]


def test_anthropic_is_told_where_its_prompt_cache_may_go_on(tmp_path):
    script = [says("anthropic", use("list_episodes"))] * 3 + [says("anthropic", submit(TEMPLATE))]
    _, received = propose("anthropic", script, make_context(tmp_path))
    for request in received:
        users = [m for m in request.body["messages"] if m["role"] == "user"]
        marked = [m for m in users if "cache_control" in m["content"][-1]]
        assert marked == users[-2:] and "cache_control" in request.body["system"][-1]
        assert json.dumps(request.body).count("cache_control") <= 4


def test_the_brief_holds_figures_template_history_and_no_trace(tmp_path, kind):
    row = {
        "template": "old",
        "parent": "memento_v0",
        "verdict": "dropped",
        "reason": "no gain",
        "diagnosis": "earlier guess",
        "structural_changes": ["files.notes.dedupe"],
        "gate": {"mean_difference": -0.1, "interval": [-0.2, 0.0], "seeds": {"20001": 1.0}},
    }
    context = make_context(tmp_path, history=[row], note="A continuation of old.")
    _, received = propose(kind, [says(kind, submit(TEMPLATE))], context)
    messages = received[0].body["messages"]
    user = last_text(received[0])
    for part in (
        "mean progression 0.5",
        "Walk.",
        '"id": "memento_v0"',
        "earlier guess",
        '"mean_difference": -0.1',
        "A continuation of old.",
    ):
        assert part in user
    assert "20001" not in user and "You see a lichen." not in json.dumps(messages)
    system = received[0].body.get("system") or messages[0]["content"]
    assert system_prompt() in (system if kind == "openai" else system[0]["text"])


def test_the_architect_is_told_all_that_a_template_may_hold():
    told = system_prompt()
    known = [*OBSERVERS, *GUARDS, *REPAIRS, *OPERATIONS, *template.FILE_KINDS, *template.BUILTINS]
    for cls in OBSERVERS.values():
        known += [*cls.PARAMS, *cls.OUTPUTS]
    for guard in GUARDS.values():
        known += [*guard.needed, *guard.optional]
    parts = [c for c in vars(template).values() if dataclasses.is_dataclass(c)]
    known += [field.name for cls in parts for field in dataclasses.fields(cls)]
    words = set(re.findall(r"\w+", told))
    assert [name for name in known if name not in words] == []
    assert "<language>" not in told


# --- what models do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('{"episode": 1,', "not JSON"),
        ('{"episode": NaN}', "NaN is no JSON value"),
        ("[1]", "a JSON object is wanted"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested too deeply"),
        ('{"x": "' + "a" * 400_001 + '"}', "at most 400000"),
        ('{"episode": 99, "first": 0, "last": 1}', "episode 99: there is none; there are 0, 1"),
        ('{"episode": "one", "first": 0, "last": 1}', "integer is wanted, got 'one'"),
        ('{"episode": 1, "first": 0}', "lacks 'last'"),
        ('{"episode": 1, "first": 0, "last": 1, "tempate": "x"}', "did you mean 'template'"),
        ('{"episode": 1, "first": 7, "last": 9}', "the episode has steps 0..2"),
    ],
    ids=range(11),
)
def test_arguments_that_cannot_be_used_come_back_as_an_error(tmp_path, kind, given, problem):
    script = [says(kind, ("read_steps", given)), says(kind, submit(TEMPLATE))]
    proposal, received = propose(kind, script, make_context(tmp_path))
    assert proposal.calls == 2
    assert problem in answers(received[1])[0]["error"]
    told = json.dumps(received[1].body["messages"])
    assert len(told) < 60_000  # what cannot be used is not sent back whole
    if kind == "openai":  # servers decode the arguments of earlier calls again
        json.loads(received[1].body["messages"][2]["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"template_json": to_data(TEMPLATE)}, "wording only"),
        ({"template_json": {"fiels": {}}}, "did you mean 'files'"),
        ({"template_json": "{oops"}, "template_json: not JSON"),
        ({"template_json": 3}, "object is wanted"),
        ({"diagnosis": " "}, "diagnosis: is empty"),
        ({"template_json": None}, "give template_json"),
        ({"template_json": None, "patch": [{"op": "copy"}]}, "'copy' is none of"),
        (
            {"template_json": None, "patch": [{"op": "replace", "path": "/file", "value": {}}]},
            "patch[0]: replace '/file' does not apply",
        ),
    ],
)
def test_an_unusable_submission_comes_back_with_its_reason(tmp_path, kind, fields, problem):
    script = [says(kind, submit(TEMPLATE, **fields)), says(kind, submit(TEMPLATE))]
    proposal, received = propose(kind, script, make_context(tmp_path))
    assert proposal.calls == 2 and problem in answers(received[1])[0]["error"]


def test_a_patch_is_a_proposal(tmp_path, kind):
    patch = [{"op": "replace", "path": "/phases/plan/max_turns", "value": 7}]
    call = submit(TEMPLATE, template_json=None, patch=patch)
    proposal, _ = propose(kind, [says(kind, call)], make_context(tmp_path))
    assert proposal.template.phases.plan.max_turns == 7
    expected = to_data(TEMPLATE) | {"id": "next", "parent": "memento_v0"}
    expected["phases"]["plan"]["max_turns"] = 7
    assert to_data(proposal.template) == expected


def test_after_so_many_refused_submissions_the_attempt_is_given_up(tmp_path, kind):
    script = [says(kind, submit(TEMPLATE, template_json={"x": 1}))]
    error, received = propose(kind, script, make_context(tmp_path))
    assert isinstance(error, NoProposal) and error.calls == len(received) == MAX_SUBMISSIONS
    assert "unknown key 'x'" in str(error)


def test_a_refusal_ends_the_review(tmp_path, kind):
    script = [says(kind, use("list_episodes")), says(kind, refused=True)]
    error, received = propose(kind, script, make_context(tmp_path))
    assert isinstance(error, NoProposal) and "refused" in str(error)
    assert error.calls == len(received) == 2


def test_a_model_that_only_talks_is_reminded_then_given_up(tmp_path, kind):
    script = [says(kind, text="Let me think."), says(kind)]
    error, received = propose(kind, script, make_context(tmp_path))
    assert isinstance(error, NoProposal) and len(received) == MAX_SILENT
    assert "Nothing was called" in last_text(received[1])
    assert "(empty)" in json.dumps(received[2].body["messages"][-2])


def test_a_cut_reply_executes_its_whole_calls_only(tmp_path, kind):
    last = submit(TEMPLATE) if kind == "anthropic" else ("submit_template", '{"template_json": {')
    script = [
        says(kind, use("list_episodes"), last, cut=True),
        says(kind, text="and so on " * 9_000, cut=True),
        says(kind, submit(TEMPLATE)),
    ]
    proposal, received = propose(kind, script, make_context(tmp_path))
    assert proposal.calls == 3
    listed, cut = answers(received[1])
    assert "items" in listed and "cut at its token limit" in cut["error"]
    assert "cut at its token limit" in last_text(received[2])
    assert len(json.dumps(received[2].body["messages"][-2])) < 25_000


def test_more_calls_than_one_reply_may_hold_are_not_executed(tmp_path, kind):
    many = [use("show_template")] * (MAX_CALLS + 2)
    script = [says(kind, *many), says(kind, submit(TEMPLATE))]
    _, received = propose(kind, script, make_context(tmp_path))
    found = answers(received[1])
    assert len(found) == MAX_CALLS + 2
    assert ["error" in answer for answer in found] == [False] * MAX_CALLS + [True] * 2


def test_turns_run_out_with_a_warning(tmp_path, kind):
    script = [says(kind, use("show_template"))]
    error, received = propose(kind, script, make_context(tmp_path), review=ReviewConfig(turns=5))
    assert isinstance(error, NoProposal) and "5 turns" in str(error) and len(received) == 5
    assert ["note" in answers(r)[0] for r in received[1:]] == [False, True, True, True]


def test_a_review_ends_at_its_tokens(tmp_path, kind):
    script = [says(kind, use("show_template"), prompt=400, completion=100)]
    review = ReviewConfig(tokens=1_200)
    error, received = propose(kind, script, make_context(tmp_path), review=review)
    assert isinstance(error, NoProposal) and "1200 tokens" in str(error) and len(received) == 3


# --- what servers do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "calls"),
    [
        (Reply(status=429, headers={"Retry-After": "9"}), 3),
        (Reply(status=500), 3),
        (Reply(body=b"<html>"), 3),
        (Reply(body=b"[]"), 3),
        (Reply(body=b'{"a": NaN, "choices": [], "content": []}'), 3),
        (Reply(body=b'{"a":' * 400 + b"1" + b"}" * 400), 3),
        (Reply(body=b"\xff\xfe"), 3),
        (Reply(body=b'{"content": [3], "choices": [{"message": {"tool_calls": [1]}}]}'), 3),
        (Reply(reset=True), 3),
        (Reply("half", cut=True), 3),
        (Reply(hang=True), 3),
        (Reply(status=401), 1),
        (Reply(status=400), 1),
    ],
    ids=[
        "429",
        "500",
        "html",
        "list",
        "nan",
        "deep",
        "bytes",
        "garbled",
        "reset",
        "cut",
        "hang",
        "401",
        "400",
    ],
)
def test_a_server_that_fails_for_good_is_one_line(tmp_path, kind, bad, calls):
    waits = []
    timeout_s = 0.5 if bad.hang else 20.0
    error, received = propose(
        kind, [bad], make_context(tmp_path, count=1), waits, timeout_s=timeout_s
    )
    assert isinstance(error, ArchitectError) and "run again" in str(error)
    assert len(received) == calls and len(waits) == calls - 1
    assert "\n" not in str(error) and "architect-model" in str(error)
    if bad.headers:
        assert all(9.0 <= wait <= 9.9 for wait in waits) and len(waits) == 2  # jitter on top


def test_passing_failures_are_waited_out_and_paid_for_once(tmp_path, kind):
    whole = says(kind, submit(TEMPLATE))
    script = [
        Reply(status=429, headers={"Retry-After": "3"}),
        Reply(reset=True),
        says(kind, use("list_episodes")),
        dataclasses.replace(whole, cut=True),
        whole,
    ]
    waits = []
    context, ledger = with_budget(make_context(tmp_path, count=1), tmp_path)
    proposal, received = propose(kind, script, context, waits)
    assert proposal.calls == 2 and len(received) == 5
    assert 3.0 <= waits[0] <= 3.3 and len(waits) == 3
    assert [row["spend"] for row in ledger.rows] == [
        {"prompt_tokens": 100, "completion_tokens": 20, "calls": 1, "unpriced": 1}
    ] * 2


def test_a_request_that_grew_too_long_ends_the_review_not_the_loop(tmp_path, kind):
    script = [says(kind, use("list_episodes")), Reply("prompt is too long", status=400)]
    error, _ = propose(kind, script, make_context(tmp_path))
    assert isinstance(error, NoProposal) and "too long" in str(error) and error.calls == 1


def test_openai_servers_name_the_token_limit_in_two_ways(tmp_path):
    refusal = "Unsupported parameter: 'max_tokens'; use 'max_completion_tokens' instead."
    script = [Reply(refusal, status=400), says("openai", submit(TEMPLATE))]
    proposal, received = propose("openai", script, make_context(tmp_path))
    assert proposal.calls == 1
    assert "max_tokens" in received[0].body and "max_tokens" not in received[1].body
    assert received[1].body["max_completion_tokens"] == 2_000


def test_reasoning_that_belongs_to_a_call_goes_back_with_it():
    api = OpenAIApi(PolicyConfig(kind="openai", model="m"))
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    call["extra_content"] = {"google": {"thought_signature": "xyz"}}
    reply = api.read({"choices": [{"message": {"content": None, "tool_calls": [call]}}]})
    assert reply.message["tool_calls"] == [call]


# --- budget, record, replay -----------------------------------------------------------------------


def test_a_cap_stops_before_the_call_that_might_break_it(tmp_path, kind):
    price = PriceConfig(input=10.0, output=100.0)
    script = [says(kind, use("show_template"), prompt=1_000, completion=100)]
    context, ledger = with_budget(make_context(tmp_path), tmp_path, dollars=0.50)
    error, received = propose(kind, script, context, price=price)
    assert isinstance(error, BudgetSpent) and "0.5000 USD allowed" in str(error)
    spent = sum(row["spend"]["dollars"] for row in ledger.rows)
    assert len(ledger.rows) == len(received) >= 2
    assert spent == pytest.approx(0.02 * len(received)) and spent <= 0.50
    first = json.dumps(received[0].body)
    assert 0.50 - spent < len(first) * 1e-5 + 2_000 * 1e-4 + 0.10  # and not much earlier


def test_a_broken_off_review_goes_on_and_pays_nothing_twice(tmp_path, kind):
    looks = [
        use("list_episodes"),
        use("read_steps", episode=0, first=0, last=2),
        use("memory_files", episode=0, step=1),
    ]
    whole = [*(says(kind, look) for look in looks), says(kind, submit(TEMPLATE))]
    context, ledger = with_budget(make_context(tmp_path), tmp_path / "whole")
    expected, received = propose(kind, whole, context)
    rows = (tmp_path / "whole" / "ledger.jsonl").read_bytes()
    assert len(received) == 4

    context, ledger = with_budget(make_context(tmp_path), tmp_path / "broken")
    error, first = propose(kind, [*whole[:2], Reply(status=401)], context)
    assert isinstance(error, ArchitectError) and len(first) == 3
    with open(context.conversation, "ab") as file:
        file.write(b'{"key": "torn')  # a kill in the middle of a line
    ledger.path.write_bytes(ledger.path.read_bytes().splitlines(keepends=True)[0])  # and before one
    context, ledger = with_budget(make_context(tmp_path), tmp_path / "broken")
    proposal, second = propose(kind, whole[2:], context)
    assert proposal == expected and len(second) == 2
    assert [r.body["messages"] for r in second] == [r.body["messages"] for r in received[2:]]
    assert (tmp_path / "broken" / "ledger.jsonl").read_bytes() == rows
    again, third = propose(kind, [Reply(status=500)], context)
    assert again == expected and third == []


def test_a_record_is_replayed_without_key_package_or_network(tmp_path, kind, monkeypatch):
    script = [says(kind, use("list_episodes")), says(kind, submit(TEMPLATE))]
    context, _ = with_budget(make_context(tmp_path), tmp_path)
    expected, _ = propose(kind, script, context)
    monkeypatch.delenv("TEST_KEY")
    monkeypatch.setitem(__import__("sys").modules, kind, None)
    fresh = make_context(tmp_path)
    for place in (context.conversation, context.conversation.parent):
        config = settings(kind, None, replay=str(place))
        assert ApiArchitect(config).propose(fresh) == expected
    other = dataclasses.replace(fresh, instructions="Run.")
    with pytest.raises(ReplayError, match=r"turn 1 of next \(request \w{12}, model 'architect-mod"):
        ApiArchitect(config).propose(other)
    with pytest.raises(ReplayError, match="no recorded conversation"):
        ApiArchitect(settings(kind, None, replay=str(tmp_path / "none")))


_CACHE = {"cache_read_input_tokens": 4_000, "cache_creation_input_tokens": 1_000}


@pytest.mark.parametrize(
    ("fields", "dollars"),
    [
        (_CACHE, (300 * 3 + 4_000 * 0.3 + 1_000 * 11.25 + 100 * 15) / 1e6),
        ({}, (300 * 3 + 100 * 15) / 1e6),
    ],
)
def test_what_a_call_cost_is_exact_with_its_cache(tmp_path, fields, dollars):
    reply = json.loads(says("anthropic", submit(TEMPLATE), prompt=300, completion=100).body)
    reply["usage"] |= fields
    context, ledger = with_budget(make_context(tmp_path), tmp_path)
    price = PriceConfig(input=3.0, output=15.0, cached_input=0.3, cache_write=11.25)
    propose("anthropic", [Reply(body=json.dumps(reply).encode())], context, price=price)
    (row,) = ledger.rows
    assert row["spend"]["dollars"] == pytest.approx(dollars)
    assert row["spend"]["prompt_tokens"] == 300 + sum(fields.values())


def test_a_broken_record_is_named_with_its_line(tmp_path):
    context, _ = with_budget(make_context(tmp_path), tmp_path)
    context.conversation.parent.mkdir()
    context.conversation.write_text('{"key": 3}\n')
    with pytest.raises(ReplayError, match=r"next.jsonl:1: no recorded exchange"):
        propose_raising(context)


def propose_raising(context):
    ApiArchitect(settings("openai"), sleep=[].append).propose(context)


def test_a_record_does_not_repeat_what_it_holds(tmp_path, kind):
    script = [says(kind, use("show_template"))] * 20 + [says(kind, submit(TEMPLATE))]
    context, _ = with_budget(make_context(tmp_path), tmp_path)
    _, received = propose(kind, script, context)
    lines = context.conversation.read_text().splitlines()
    assert len(lines) == 21
    last = json.dumps(received[-1].body)
    assert context.conversation.stat().st_size < 2 * len(last)


# --- the whole loop -------------------------------------------------------------------------------


def test_evolve_with_a_server_and_no_key_in_any_file_or_log(tmp_path, kind, caplog):
    caplog.set_level(logging.DEBUG)
    script = [
        says(kind, text=f"your key is {SECRET}"),
        says(kind, use("search_traces", text=SECRET)),
        says(kind, submit(TEMPLATE, diagnosis=f"key {SECRET} seen")),
    ]
    script = [streamed(kind, reply) for reply in script]  # the key may come in two pieces
    with LoopbackServer(script) as server:
        config = dataclasses.replace(make_config(), architect=settings(kind, server))
        best = evolve(config, tmp_path, run_template, architect(kind, server))
    assert best.parent == "memento_v0" and len(server.received) == 3
    ledger = (tmp_path / "evolve" / "ledger.jsonl").read_text()
    assert "key *** seen" in ledger and '"calls":3' in ledger
    holding = [p for p in tmp_path.rglob("*") if p.is_file() and SECRET in p.read_text()]
    assert holding == [] and SECRET not in caplog.text
    assert all(SECRET not in json.dumps(r.body) for r in server.received)


def test_the_model_is_told_what_an_attempt_is_and_what_became_of_the_others(tmp_path, kind):
    patches = [[{"op": "replace", "path": "/phases/plan/max_turns", "value": n}] for n in (7, 8, 9)]
    script = [
        says(kind, submit(TEMPLATE, template_json=None, patch=patch, diagnosis=f"guess {number}"))
        for number, patch in enumerate(patches, 1)
    ]
    with LoopbackServer(script) as server:
        settled = dataclasses.replace(settings(kind, server), attempts=3)
        config = dataclasses.replace(make_config(), architect=settled)
        evolve(config, tmp_path, run_template, architect(kind, server))
    told = [last_text(received) for received in server.received]
    assert [text.count("not kept") for text in told] == [0, 1, 1]
    assert "attempt 1: review" in told[0] and "This is a fresh attempt." in told[0]
    assert "attempt 2: review" in told[1] and "a continuation of attempt 1" in told[1]
    assert "attempt 3: review" in told[2] and "a fresh attempt: those before it" in told[2]
    assert '"verdict": "dropped"' in told[1] and "guess 1" in told[1] and "guess 1" not in told[0]
    assert "guess 2" in told[2] and '"mean_difference"' in told[2]


def scripted_model(kind):
    """A model whose next call follows from how far its conversation is, as a real one's would."""
    looks = [use("list_episodes"), use("show_template"), use("search_traces", text="lichen")]

    def answer(received):
        said = sum(message["role"] == "assistant" for message in received.body["messages"])
        return says(kind, looks[said] if said < len(looks) else submit(TEMPLATE))

    return answer


class Killed(BaseException):
    """The process dies here."""


def test_a_killed_evolution_and_a_replayed_one_end_with_the_same_ledger(
    tmp_path, kind, monkeypatch
):
    def run(workdir, config):
        architect = ApiArchitect(config.architect, sleep=[].append)
        evolve(config, workdir, run_template, architect)
        return (workdir / "evolve" / "ledger.jsonl").read_bytes()

    with LoopbackServer(scripted_model(kind)) as server:
        price = PriceConfig(input=3.0, output=15.0)
        config = dataclasses.replace(make_config(), architect=settings(kind, server, price=price))
        expected = run(tmp_path / "whole", config)
        asked = len(server.received)
        assert asked == 4 and expected.count(b'"type":"charge"') >= 4
        add, count = Recorder.add, 0
        for point in range(1, asked + 1):
            server.received.clear()

            def dying(self, *arguments, point=point):
                nonlocal count
                row = add(self, *arguments)
                count += 1
                if count == point:
                    raise Killed
                return row

            count = 0
            monkeypatch.setattr(Recorder, "add", dying)
            with pytest.raises(Killed):
                run(tmp_path / f"k{point}", config)
            monkeypatch.setattr(Recorder, "add", add)
            assert run(tmp_path / f"k{point}", config) == expected
            assert len(server.received) == asked
    monkeypatch.delenv("TEST_KEY")
    record = tmp_path / "whole" / "evolve" / "conversations"
    offline = dataclasses.replace(config.architect, replay=str(record))
    assert run(tmp_path / "r", dataclasses.replace(config, architect=offline)) == expected


@pytest.mark.parametrize(
    ("cap", "asked"),
    [({"dollars": 0.02}, 0), ({"tokens": 3_000}, 0), ({"episodes": 10}, 4), ({"wall_s": 1e-6}, 0)],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_cap_ends_the_run_before_it_is_passed_and_a_higher_one_goes_on(tmp_path, cap, asked):
    ((name, limit),) = cap.items()
    with LoopbackServer(scripted_model("openai")) as server:
        price = PriceConfig(input=3.0, output=15.0)
        free = dataclasses.replace(make_config(), architect=settings("openai", server, price=price))
        evolve(free, tmp_path / "free", run_template)
        architect = dataclasses.replace(free.architect, budget=BudgetConfig(**cap))
        capped = dataclasses.replace(free, architect=architect)
        server.received.clear()
        assert evolve(capped, tmp_path / "capped", run_template) == TEMPLATE
        assert len(server.received) == asked
        ledger = tmp_path / "capped" / "evolve" / "ledger.jsonl"
        *charges, stop = read_ledger(ledger)
        assert stop["type"] == "stop" and f"architect.budget.{name}" in stop["reason"]
        spent = stop["spend"] | {"tokens": stop["spend"]["prompt_tokens"]}
        assert name == "wall_s" or spent[name] <= limit
        assert spent["calls"] == asked
        best = evolve(free, tmp_path / "capped", run_template)
    assert best.parent == TEMPLATE.id
    expected = read_ledger(tmp_path / "free" / "evolve" / "ledger.jsonl")
    assert [row for row in read_ledger(ledger) if row["type"] != "stop"] == expected


def test_a_failing_server_leaves_no_key_and_a_ledger_to_go_on_from(tmp_path, kind, caplog):
    caplog.set_level(logging.DEBUG)
    with LoopbackServer([Reply(f"no such key {SECRET}", status=401)]) as server:
        config = dataclasses.replace(make_config(), architect=settings(kind, server))
        with pytest.raises(ArchitectError) as caught:
            evolve(config, tmp_path, run_template, architect(kind, server))
    assert SECRET not in str(caught.value) + caplog.text
    assert SECRET not in (tmp_path / "evolve" / "ledger.jsonl").read_text()


def test_the_kind_of_server_its_key_and_its_package_are_checked_at_once(monkeypatch):
    with pytest.raises(ConfigError, match="architect.api.kind is 'local'"):
        ApiArchitect(ArchitectConfig(api=PolicyConfig(kind="local", model="m")))
    with pytest.raises(ConfigError, match="architect.api.model is empty"):
        ApiArchitect(ArchitectConfig(api=PolicyConfig(kind="openai", api_key_env="TEST_KEY")))
    api = PolicyConfig(kind="openai", model="m", api_key_env="TEST_KEY")
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'automem_jax\[api\]'"):
        ApiArchitect(ArchitectConfig(api=api))
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(ConfigError, match="TEST_KEY is not set"):
        ApiArchitect(ArchitectConfig(api=dataclasses.replace(api, kind="anthropic")))


def test_a_request_is_described_without_a_call(tmp_path, kind, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    context = make_context(tmp_path)
    told = describe_request(settings(kind), context)
    assert "mean progression 0.5" in told.user and told.prompt_tokens > 5_000
    assert "submit_template" in told.text() and "architect-model" in told.text()
    assert "preview_prompt" not in [tool.name for tool in told.tools]
