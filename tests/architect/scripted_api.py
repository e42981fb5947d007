"""A scripted model on loopback that calls tools, in the JSON of either API."""

import json

from automem_jax.agent.template import to_data
from automem_jax.architect.catalog import show_file_in_plan
from automem_jax.config import ArchitectConfig, PolicyConfig
from automem_jax.policies.loopback import Reply

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
