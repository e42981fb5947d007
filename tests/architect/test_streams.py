"""Streamed answers of both APIs against a real HTTP server on loopback: whole, broken, refused."""

import json

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from scripted_api import answers, make_context, propose, says, streamed, submit, use, with_budget
from toy_evolution import TEMPLATE

from automem_jax.architect import ArchitectError
from automem_jax.config import PriceConfig
from automem_jax.policies.loopback import Reply

PRICE = PriceConfig(input=3.0, output=15.0)
ONE_ANSWER = {"prompt_tokens": 100, "completion_tokens": 20, "calls": 1, "dollars": 0.0006}


def spends(ledger):
    return [row["spend"] for row in ledger.rows]


def test_a_streamed_review_is_the_same_as_one_in_whole_answers(tmp_path, kind):
    whole = [
        says(kind, use("list_episodes"), use("memory_files", episode=0, step=1), text="Hm, well."),
        says(kind, ("read_steps", '{"episode": 1,'), text="half an argument"),
        says(kind, submit(TEMPLATE)),
    ]
    found = {}
    for name, script in {"whole": whole, "streamed": [streamed(kind, r) for r in whole]}.items():
        context, ledger = with_budget(make_context(tmp_path / name), tmp_path / name)
        proposal, received = propose(kind, script, context, price=PRICE)
        rows = list(map(json.loads, context.conversation.read_text().splitlines()))
        told = [r["response"] for r in rows]
        assert all(r.body["stream"] is True for r in received)
        assert "not JSON" in answers(received[2])[0]["error"]
        asked = [r.body["messages"] for r in received]
        texts = [json.dumps(r, sort_keys=True).count("half an argument") for r in told]
        found[name] = (proposal, asked, spends(ledger), texts, [r["key"] for r in rows])
    assert found["whole"] == found["streamed"]
    assert found["whole"][2] == [ONE_ANSWER] * 3


@pytest.mark.parametrize("cut", ["stream", "end", "body", "error", "garbage"])
def test_an_answer_broken_off_in_the_middle_is_asked_for_again_and_paid_once(tmp_path, kind, cut):
    look, last = says(kind, use("list_episodes"), text="Hm."), says(kind, submit(TEMPLATE))
    sse = {"Content-Type": "text/event-stream"}
    told = {"error": {"type": "overloaded_error", "message": "Overloaded"}}
    broken = {
        "stream": streamed(kind, last, cut=True),  # the connection ends between two events
        "end": streamed(kind, last, until=3),  # the stream ends as if all were well
        "body": Reply(body=last.body, cut=True),
        "error": Reply(body=f"data: {json.dumps(told)}\n\n".encode(), headers=sse),
        "garbage": Reply(body=b'data: {"type": "mess\n\n', headers=sse),
    }[cut]
    waits = []
    context, ledger = with_budget(make_context(tmp_path, count=1), tmp_path)
    script = [streamed(kind, look), broken, streamed(kind, last)]
    proposal, received = propose(kind, script, context, waits, price=PRICE)
    assert proposal.template.parent == "memento_v0"
    assert (proposal.calls, len(received), len(waits)) == (2, 3, 1)
    assert received[1].body == received[2].body
    assert spends(ledger) == [ONE_ANSWER] * 2


def test_a_server_that_breaks_every_stream_off_ends_the_run_in_one_line(tmp_path, kind):
    context, ledger = with_budget(make_context(tmp_path, count=1), tmp_path)
    script = [streamed(kind, says(kind, submit(TEMPLATE)), until=2)]
    error, received = propose(kind, script, context)
    assert isinstance(error, ArchitectError) and "the stream ended before" in str(error)
    assert len(received) == 3 and ledger.rows == []


def test_a_server_that_cannot_stream_is_asked_for_whole_answers(tmp_path, kind):
    script = [
        Reply("stream: streaming is not supported for this model", status=400),
        says(kind, use("list_episodes")),
        says(kind, submit(TEMPLATE)),
    ]
    proposal, received = propose(kind, script, make_context(tmp_path, count=1))
    assert proposal.calls == 2
    assert [bool(r.body.get("stream")) for r in received] == [True, False, False]


def test_parallel_calls_that_a_server_numbers_alike_stay_apart(tmp_path):
    calls = [
        {"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}}
        for name in ("list_episodes", "show_template")
    ]
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
        for call in calls
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    first = Reply(body=body.encode(), headers={"Content-Type": "text/event-stream"})
    script = [first, says("openai", submit(TEMPLATE))]
    _, received = propose("openai", script, make_context(tmp_path, count=1))
    listed, shown = answers(received[1])
    assert listed["episodes"] == 1 and shown["template"] == "memento_v0"
