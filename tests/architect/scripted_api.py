"""A scripted model on loopback that calls tools, in the JSON of either API."""

import dataclasses
import json
import random

from toy_evolution import TEMPLATE, noting_episode

from automem_jax.agent.template import to_data
from automem_jax.architect import ArchitectError, Context, NoProposal
from automem_jax.architect.brief import make_brief
from automem_jax.architect.budget import Budget, BudgetSpent, Limits
from automem_jax.architect.catalog import show_file_in_plan
from automem_jax.architect.ledger import Ledger
from automem_jax.architect.review import ApiArchitect
from automem_jax.config import ArchitectConfig, PolicyConfig
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.traces.store import read_trace

SECRET = "sk-architect-0123456789"


def use(name, /, **arguments):
    """A tool call of a scripted reply."""
    return (name, arguments)


def says(kind, *calls, text="", prompt=100, completion=20, cut=False, refused=False, **more):
    """A whole response of the API `kind`; `more` goes to Reply.

    A call's arguments may be text: then they are sent as they are.
    """
    if kind == "openai":
        message = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [
                {
                    "id": f"c{number}",
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": given if isinstance(given, str) else json.dumps(given),
                    },
                }
                for number, (name, given) in enumerate(calls)
            ]
        if refused:
            message["refusal"] = "I cannot help with that."
        reason = "length" if cut else "tool_calls" if calls else "stop"
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
    else:
        content = [{"type": "text", "text": text}] if text else []
        content += [
            {"type": "tool_use", "id": f"c{number}", "name": name, "input": given}
            for number, (name, given) in enumerate(calls)
        ]
        reason = "max_tokens" if cut else "tool_use" if calls else "end_turn"
        body = {
            "id": "x",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": content,
            "stop_reason": "refusal" if refused else reason,
            "stop_sequence": None,
            "usage": {"input_tokens": prompt, "output_tokens": completion},
        }
    return Reply(body=json.dumps(body).encode(), **more)


def answers(received):
    """The tool answers that a request ends with, decoded, in order."""
    messages = received.body["messages"]
    if "system" in received.body:
        blocks = messages[-1]["content"]
        return [json.loads(b["content"]) for b in blocks if b["type"] == "tool_result"]
    found = []
    while messages and messages[-1]["role"] == "tool":
        found.insert(0, json.loads(messages[-1]["content"]))
        messages = messages[:-1]
    return found


def last_text(received):
    """The words of a request's last message."""
    content = received.body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def tool_names(received):
    """The tools that a request offers."""
    return [t.get("name") or t["function"]["name"] for t in received.body["tools"]]


def settings(kind, server=None, **fields):
    """An architect's config for a loopback server; without one, for no server that there is."""
    if server is None:
        url = "http://host.invalid/v1"
    else:
        url = server.base_url if kind == "openai" else server.root_url
    review = fields.pop("review", None)
    more = {"review": review} if review else {}
    more |= {name: fields.pop(name) for name in ("replay", "price") if name in fields}
    api = PolicyConfig(
        kind=kind,
        base_url=url,
        model="architect-model",
        api_key_env="TEST_KEY",
        **{"timeout_s": 20.0, "max_retries": 2, "backoff_s": 1.0, "max_tokens": 2_000} | fields,
    )
    return ArchitectConfig(kind="api", api=api, bootstrap_samples=200, attempts=2, **more)


def showing_notes(parent):
    """A whole proposal that shows the file notes in PLAN."""
    return show_file_in_plan(to_data(parent), "notes")


def submit(parent, **fields):
    """A call that submits it."""
    given = {"template_json": showing_notes(parent), "diagnosis": "notes unread"}
    return use("submit_template", **given | {"expected_effect": "+0.5"} | fields)


def streamed(kind, reply, *, until=None, **more):
    """A whole response of `says`, as the server-sent events it is streamed in; `more` goes to Reply.

    Texts and arguments come in two pieces. With `until` the stream ends, well-formed, after so many events.
    """
    whole = json.loads(reply.body)
    events = (_openai_events if kind == "openai" else _anthropic_events)(whole)
    events = events if until is None else events[:until]
    body = "".join(f": ping\n{event}\n\n" for event in events).encode()
    return Reply(body=body, headers={"Content-Type": "text/event-stream"}, **more)


def _halves(text):
    return [half for half in (text[: len(text) // 2], text[len(text) // 2 :]) if half]


def _openai_events(whole):
    choice, usage = whole["choices"][0], whole["usage"]
    message = choice["message"]
    deltas = [{"content": half} for half in _halves(message["content"] or "")]
    deltas += [{"refusal": message["refusal"]}] if message.get("refusal") else []
    for number, call in enumerate(message.get("tool_calls", ())):
        first = {**call, "index": number, "function": {**call["function"], "arguments": ""}}
        deltas.append({"tool_calls": [first]})
        for half in _halves(call["function"]["arguments"]):
            deltas.append({"tool_calls": [{"index": number, "function": {"arguments": half}}]})
    chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    chunks += [{"choices": [last]}, {"choices": [], "usage": usage}]
    return [f"data: {json.dumps(chunk)}" for chunk in chunks] + ["data: [DONE]"]


def _anthropic_events(whole):
    usage = whole["usage"]
    start = whole | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    events = [{"type": "message_start", "message": start}]
    for index, block in enumerate(whole["content"]):
        text = block["type"] == "text"
        empty = {"text": ""} if text else {"input": {}}
        begun = {"type": "content_block_start", "index": index, "content_block": block | empty}
        events += [begun, {"type": "ping"}]
        given = block["text"] if text else json.dumps(block["input"])
        if not text and isinstance(block["input"], str):
            given = block["input"]
        kind, name = ("text_delta", "text") if text else ("input_json_delta", "partial_json")
        for half in _halves(given):
            delta = {"type": kind, name: half}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    used = {"output_tokens": usage["output_tokens"]}
    events += [{"type": "message_delta", "delta": ended, "usage": used}, {"type": "message_stop"}]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}" for event in events]


def architect(kind, server, waits=None, **fields):
    sleep = (waits if waits is not None else []).append
    return ApiArchitect(settings(kind, server, **fields), sleep=sleep, rng=random.Random(0))


def make_context(tmp_path, count=4, **fields):
    paths = [noting_episode(tmp_path / "t", seed, float(seed % 2)) for seed in range(count)]
    brief = make_brief(TEMPLATE, map(read_trace, paths))
    context = Context(
        "minihack", "Memento", 1, 1, "next", TEMPLATE, brief, traces=paths, instructions="Walk."
    )
    return dataclasses.replace(context, **fields)


def propose(kind, script, context, waits=None, **fields):
    """(proposal or what was raised, the requests as they came in)."""
    with LoopbackServer(script) as server:
        try:
            found = architect(kind, server, waits, **fields).propose(context)
        except (NoProposal, ArchitectError, BudgetSpent) as error:
            found = error
    return found, server.received


def with_budget(context, tmp_path, **limits):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    path = tmp_path / "conversations" / f"{context.candidate_id}.jsonl"
    budget = Budget(Limits(**limits), ledger)
    return dataclasses.replace(context, budget=budget, conversation=path), ledger
