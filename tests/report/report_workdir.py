"""A small work directory with everything in it, written by the stages' own functions where they are pure."""

import dataclasses
import json

from automem_jax.agent.memory import MemoryStore
from automem_jax.agent.template import FileSpec
from automem_jax.architect.gate import judge
from automem_jax.config import ExperimentConfig
from automem_jax.evaluation.results import summarise
from automem_jax.files import write_json
from automem_jax.traces.store import TraceWriter

SEEDS = range(42, 52)
TASK = "MiniHack-Memento-Short-F2-v0"
HOSTILE = (
    '<script>alert("pwned")</script><img src=x onerror=alert(1)></pre></script>\x1b[31mred\u202e'
)

_ARMS = {  # arm: (wins of 10, cue logged, cue read)
    "base_v0": (5, False, False),
    "base_best": (7, True, False),
    "specialist_best": (10, True, True),
    "control_best": (6, False, False),
}


def _operation(store, op, args):
    result = store.execute(op, args)
    return {
        "op": op,
        "args": args,
        "file": result.file,
        "start": 0,
        "end": 10,
        "ok": result.ok,
        "answer": result.answer,
        "error": result.error,
        "wrote": list(result.wrote),
        "read": list(result.read),
        "redundant": result.redundant,
        "empty": result.empty,
    }


def _turn(role, prompt, text, operations=(), action=None, done=False):
    return {
        "role": role,
        "prompt": prompt,
        "completion": {
            "text": text,
            "token_ids": [],
            "logprobs": [],
            "finish_reason": "stop",
            "prompt_tokens": 40,
            "completion_tokens": 8,
            "error": None,
        },
        "operations": list(operations),
        "action": action,
        "done": done,
        "stripped_action": None,
        "errors": [o["error"] for o in operations if o["error"]],
    }


def _percept(text, reward=0.0, done=False, progression=0.0, action=None):
    return {
        "long_text": text,
        "short_text": "",
        "reward": reward,
        "done": done,
        "progression": progression,
        "end_reason": "win" if done else None,
        "action": action,
        "unknown_action": None,
        "failed": False,
    }


def _user(text):
    return [
        {"role": "system", "keep": 0, "text": "Play."},
        {"role": "user", "keep": 0, "text": text},
    ]


def write_trace(directory, seed, *, won, logs, reads, arm="specialist_best", extra=""):
    """An episode of five steps: cue, LOG, walking, PLAN that reads, decision."""
    cue = "blue jelly" if seed % 2 else "lichen"
    store = MemoryStore(
        {"notes": FileSpec(kind="log"), "now": FileSpec(kind="document", seed="start")}
    )
    header = {
        "env": "minihack",
        "task": TASK,
        "seed": seed,
        "run_seed": 0,
        "arm": arm,
        "template": {"id": "memento_v0", "hash": "ab" * 8},
        "policy": {"kind": "local", "base_hash": "b" * 64},
        "config_hash": "c" * 16,
        "versions": {"automem_jax": "0.1.0", "jax": "0.10.2"},
        "instructions": "Reach the goal." + extra,
    }
    with TraceWriter(directory, f"{TASK}-{seed}", header) as writer:
        for t in range(5):
            phases = []
            text = f"You see {cue} behind iron bars.{extra}" if t == 0 else f"A corridor, T:{t}."
            if t > 0:
                operations = []
                if t == 1 and logs:
                    operations = [_operation(store, "APPEND", ["notes", f"saw a {cue}{extra}"])]
                if t == 2:
                    operations = [_operation(store, "WRITE", ["now", "walking east"])]
                if t == 3:
                    operations = [_operation(store, "APPEND", ["missing", "x"])]
                reply = f"<|APPEND|>notes|saw a {cue}{extra}<|END|>"
                turn = _turn("memory", _user("What happened?"), reply, operations, done=True)
                phases.append({"phase": "log", "shown": {}, "turns": [turn]})
            turns = [_turn("gameplay", _user(text), "<|ACTION|>east<|END|>", action="east")]
            if t == 3 and reads:
                found = _operation(store, "READ", ["notes"])
                answer = [
                    {"role": "assistant", "text": "<|READ|>notes<|END|>"},
                    {"role": "user", "text": found["answer"]},
                ]
                turns = [
                    _turn("memory", _user(text), "<|READ|>notes<|END|>", [found]),
                    _turn("gameplay", answer, "<|ACTION|>east<|END|>", action="east"),
                ]
            phases.append({"phase": "plan", "shown": {}, "turns": turns})
            writer.step(
                {
                    "type": "step",
                    "t": t,
                    "percept": _percept(text, action="east" if t else None),
                    "phases": phases,
                    "memory": store.changes(),
                    "action": "east",
                    "action_source": "model",
                    "proposed": "east",
                    "errors": [],
                }
            )
        reward = 1.0 if won else -1.0
        return writer.end(
            {
                "type": "end",
                "progression": float(won),
                "steps": 5,
                "end_reason": "win" if won else "loss",
                "failed": False,
                "error": None,
                "percept": _percept("The end.", reward, True, float(won), "east"),
                "tokens": {"prompt": 400, "completion": 80, "calls": 10},
                "memory_stats": {},
            }
        )


def write_results(workdir, extra=""):
    directories = {}
    for arm, (wins, logs, reads) in _ARMS.items():
        directories[arm] = workdir / "traces" / "evaluate" / arm
        for number, seed in enumerate(SEEDS):
            write_trace(
                directories[arm],
                seed,
                won=number < wins,
                logs=logs,
                reads=reads,
                arm=arm,
                extra=extra,
            )
    results = {"experiment": "quickstart", "env": "minihack", "task": TASK}
    write_json(workdir / "results.json", results | summarise(directories, samples=500))


def _candidate(attempt, scores, reason_text, edit):
    base = {seed: float(seed % 2) for seed in range(20)}
    gate = judge(base, scores, list(base), samples=500)
    return {
        "type": "candidate",
        "revision": 1,
        "attempt": attempt,
        "template": f"memento_v0_r1a{attempt}",
        "parent": "memento_v0",
        "parent_hash": "ab" * 8,
        "template_hash": "cd" * 8,
        "edit": edit,
        "diagnosis": reason_text,
        "expected_effect": "The note is read.",
        "calls": 0,
        "structural_changes": ["phases.plan.slots"],
        "diff": '--- memento_v0\n+++ memento_v0_r1\n@@ -1,2 +1,2 @@\n "slots": [\n-  "index"\n+  "notes"',
        "gate": gate.to_data(),
        "verdict": "kept" if gate.kept else "dropped",
        "reason": gate.reason,
    }


def write_ledger(workdir, extra=""):
    worse = {seed: 0.0 for seed in range(20)}
    better = {seed: 1.0 for seed in range(20)}
    rows = [
        {"type": "start", "template": "memento_v0", "plan_hash": "0" * 16},
        {"type": "baseline", "template": "memento_v0", "mean": 0.5, "n": 20},
        _candidate(1, worse, f"Nothing is logged.{extra}", "shorter_prompt"),
        _candidate(2, better, "Notes are written, seldom read.", "show_file_in_plan"),
        {
            "type": "candidate",
            "revision": 2,
            "attempt": 1,
            "template": "memento_v0_r2a1",
            "parent": "memento_v0_r1a2",
            "verdict": "dropped",
            "reason": f"template.files: unknown key{extra}",
            "calls": 3,
            "gate": None,
        },
        {"type": "end", "template": "memento_v0_r1a2"},
    ]
    folder = workdir / "evolve"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "best.json", {"id": "memento_v0_r1a2"})


def write_selection(workdir, kind, extra=""):
    folder = workdir / "select" / kind
    folder.mkdir(parents=True)
    report = {
        "kind": kind,
        "count": 6,
        "phases": {"log": 4, "plan": 2},
        "traces": 20,
        "unfinished": 0,
        "episodes_used": 5,
        "memory_turns": 80,
        "rejected": {"idle": 60, "below_min_credit": 14},
        "operations": {"APPEND": 4, "READ": 2},
        "repeated_texts": {"distinct": 3, "largest_share": 0.5},
        "short": {},
    }
    write_json(folder / "selection.json", report)
    rows = []
    for n in range(6):
        phase = "log" if n < 4 else "plan"
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"What happened?{extra}"},
                    {"role": "assistant", "content": f"<|APPEND|>notes|lichen {n}{extra}<|END|>"},
                ],
                "supervised": [],
                "phase": phase,
                "provenance": {
                    "trace": "../x.jsonl",
                    "seed": 30_000 + n,
                    "t": 1,
                    "phase": phase,
                    "turn": 0,
                    "sha256": "f" * 64,
                    "cleaned": n == 0,
                },
                "signals": {"credit": 0.4},
            }
        )
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_training(workdir, kind, steps=60, done=True):
    folder = workdir / "train" / kind
    folder.mkdir(parents=True)
    rows = [{"step": n, "loss": 2.0 / n**0.5, "supervised_tokens": 40} for n in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        facts = {
            "steps": steps,
            "final_loss": rows[-1]["loss"],
            "items": 6,
            "dropped": {"too_long": 1},
            "shortened": 0,
            "fill": 0.91,
            "base_hash_before": "b" * 64,
            "base_hash_after": "b" * 64,
            "adapter_hash": "d" * 64,
        }
        write_json(folder / "done.json", facts)


def write_workdir(workdir, extra=""):
    """All stages finished. `extra` goes into every text that comes from a model or environment."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", dataclasses.asdict(ExperimentConfig(name="quickstart")))
    write_results(workdir, extra)
    write_ledger(workdir, extra)
    for kind in ("lineage", "random"):
        write_selection(workdir, kind, extra)
        write_training(workdir, kind)
    write_json(
        workdir / "timing.json", {"stages": {"evolve": 61.5, "train": 180.0, "evaluate": 90.0}}
    )
    return workdir
