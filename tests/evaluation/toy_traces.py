"""Builds small traces for tests, through the real writer."""

from automem_jax.text.messages import Message
from automem_jax.traces.store import TraceWriter


def op(
    name, file="notes.txt", *, args=(), ok=True, wrote=(), read=(), redundant=False, empty=False
):
    return {
        "op": name,
        "args": [file, *args],
        "file": file,
        "start": 0,
        "end": 10,
        "ok": ok,
        "answer": f"{name} {file}",
        "error": None if ok else "refused",
        "wrote": list(wrote),
        "read": list(read),
        "redundant": redundant,
        "empty": empty,
    }


def turn(*operations, action=None, done=False, errors=(), finish="stop", tokens=(50, 5), text="ok"):
    return {
        "role": "gameplay",
        "operations": list(operations),
        "completion": {
            "text": text,
            "token_ids": [],
            "logprobs": [],
            "finish_reason": finish,
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "error": None,
        },
        "action": action,
        "done": done,
        "stripped_action": None,
        "errors": list(errors),
    }


def step(text, *, log=None, plan=None, shown=None, memory=(), action="north", **percept):
    """`log` and `plan` are lists of turns; a PLAN that takes `action` unless given."""
    phases = []
    if log is not None:
        phases.append({"phase": "log", "shown": {}, "turns": log})
    plan = [turn(action=action)] if plan is None else plan
    phases.append({"phase": "plan", "shown": shown or {}, "turns": plan})
    return {
        "percept": percept_of(text, **percept),
        "phases": phases,
        "memory": list(memory),
        "action": action,
        "action_source": "model",
        "proposed": action,
        "errors": [],
    }


def percept_of(text, *, reward=0.0, done=False, progression=0.0, short="", end_reason=None):
    return {
        "long_text": text,
        "short_text": short,
        "reward": reward,
        "done": done,
        "progression": progression,
        "end_reason": end_reason,
        "action": None,
        "unknown_action": None,
        "failed": False,
    }


def insert(file, *lines, at=0):
    return {"op": "insert", "file": file, "at": at, "lines": [list(line) for line in lines]}


def create(file):
    return {"op": "create", "file": file}


def write_episode(
    directory,
    seed,
    steps,
    *,
    progression=0.0,
    failed=False,
    end_reason="task solved",
    task="Toy-v0",
    template=None,
    reward=0.0,
    system="instructions",
    env="toy",
):
    """Writes one finished trace and returns its path."""
    header = {
        "env": env,
        "task": task,
        "seed": seed,
        "run_seed": 0,
        "arm": "arm",
        "template": template or {"id": "v0", "hash": "abc"},
        "policy": {"kind": "scripted", "base_hash": "b45e"},
        "config_hash": "c0",
        "versions": {},
        "instructions": "go",
    }
    tokens = {"prompt": 0, "completion": 0, "calls": 0}
    with TraceWriter(directory, f"{task}-{seed}", header) as writer:
        for t, record in enumerate(steps):
            for phase in record["phases"]:
                messages = [Message("system", system), Message("user", f"{phase['phase']} {t}")]
                for index, one in enumerate(phase["turns"]):
                    new = messages if index == 0 else messages[-2:]
                    one["prompt"] = [{"role": m.role, "text": m.content} for m in new]
                    messages += [
                        Message("assistant", one["completion"]["text"]),
                        Message("user", "results"),
                    ]
                    tokens["prompt"] += one["completion"]["prompt_tokens"]
                    tokens["completion"] += one["completion"]["completion_tokens"]
                    tokens["calls"] += 1
            writer.step({"type": "step", "t": t, **record})
        return writer.end(
            {
                "type": "end",
                "progression": progression,
                "steps": len(steps),
                "end_reason": end_reason,
                "failed": failed,
                "error": "crash" if failed else None,
                "percept": percept_of(
                    "the end",
                    done=True,
                    progression=progression,
                    end_reason=end_reason,
                    reward=reward,
                ),
                "tokens": tokens,
                "memory_stats": {},
            }
        )


def simple_episode(directory, seed, progression, **settings):
    """Two steps, no memory."""
    return write_episode(
        directory, seed, [step("a"), step("b")], progression=progression, **settings
    )
