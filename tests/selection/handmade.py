"""Hand-made traces: an episode is a list of steps, a step a list of (phase, turns)."""

from __future__ import annotations

from pathlib import Path

from automem_jax.agent.grammar import parse
from automem_jax.traces.store import TraceWriter


class Episode:
    """Builds one trace file; hands out line ids as lines are written.

    `log` and `plan` add a turn: the reply's text and, per operation, what it wrote (texts) or read (line
    ids). Call `act` to close a step.
    """

    def __init__(self, seed: int, task: str = "toy"):
        self.seed, self.task = seed, task
        self.steps: list[dict] = []
        self._next_line = 0
        self._start_step()

    def _start_step(self):
        self._phases: list[dict] = []
        self._memory: list[dict] = []

    def log(self, text, outcomes=(), role="memory", **extra):
        return self._turn("log", text, outcomes, role, {}, **extra)

    def plan(self, text, outcomes=(), role="gameplay", shown=None, **extra):
        return self._turn("plan", text, outcomes, role, shown or {}, **extra)

    def _turn(self, phase, text, outcomes, role, shown, file="notes", **extra) -> list[int]:
        written = []
        operations = []
        parsed = parse(text)
        for index, operation in enumerate(parsed.operations):
            outcome = dict(outcomes[index]) if index < len(outcomes) else {}
            wrote = []
            for line in outcome.pop("write", ()):
                wrote.append(self._next_line)
                self._next_line += 1
                insert = {
                    "op": "insert",
                    "file": file,
                    "at": wrote[-1],
                    "lines": [[wrote[-1], line]],
                }
                self._memory.append(insert)
            written += wrote
            operations.append(
                {
                    "op": operation.op,
                    "args": list(operation.args),
                    "file": file,
                    "start": operation.start,
                    "end": operation.end,
                    "ok": True,
                    "answer": "fine",
                    "error": None,
                    "wrote": wrote,
                    "read": [],
                    "redundant": False,
                    "empty": False,
                }
                | outcome
            )
        if not self._phases or self._phases[-1]["phase"] != phase:
            self._phases.append({"phase": phase, "shown": shown, "turns": []})
            opening = [("system", "play"), ("user", f"{phase} of step {len(self.steps)}")]
            prompt = [{"role": r, "keep": 0, "text": t} for r, t in opening]
        else:
            before = self._phases[-1]["turns"][-1]["completion"]["text"]
            turns = (("assistant", before), ("user", "results"))
            prompt = [{"role": r, "text": t} for r, t in turns]
        record = {
            "role": role,
            "prompt": prompt,
            "completion": self.completion(text),
            "operations": operations,
            "action": parsed.action,
            "done": parsed.done,
            "stripped_action": None,
            "errors": [],
        }
        self._phases[-1]["turns"].append(record | extra)
        return written

    @staticmethod
    def completion(text, error=None) -> dict:
        return {
            "text": text,
            "token_ids": [],
            "logprobs": [],
            "finish_reason": "error" if error else "stop",
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "error": error,
        }

    def system_line(self, text, file="notes") -> int:
        line = self._next_line
        self._next_line += 1
        insert = {"op": "insert", "file": file, "at": 0, "lines": [[line, text]]}
        self._memory.append(insert)
        return line

    def remove(self, *ids, file="notes"):
        self._memory.append({"op": "remove", "file": file, "ids": list(ids)})

    def act(self, progression=0.0, action="east"):
        """Closes the step; `progression` is what was seen before acting."""
        percept = {"long_text": "", "short_text": "", "reward": 0.0, "done": False}
        self.steps.append(
            {
                "type": "step",
                "t": len(self.steps),
                "percept": percept | {"progression": progression},
                "phases": self._phases,
                "memory": self._memory,
                "action": action,
                "action_source": "model",
                "proposed": action,
                "errors": [],
            }
        )
        self._start_step()

    def write(self, folder: Path, progression: float, finished: bool = True) -> Path:
        header = {"env": "toy", "task": self.task, "seed": self.seed}
        writer = TraceWriter(folder, f"{self.task}-{self.seed}", header)
        for step in self.steps:
            writer.step(step)
        if finished:
            return writer.end({"type": "end", "progression": progression, "steps": len(self.steps)})
        writer.close()
        return folder / f"{self.task}-{self.seed}.jsonl.partial"


def append(text: str) -> str:
    return f"<|APPEND|>notes|{text}<|END|>"


READ = "<|READ|>notes<|END|>"


def play(seed: int, *, cue: str | None, trivia: bool, consult: bool, task: str = "toy") -> Episode:
    """Two notes at most, then perhaps a consultation that reads all of them."""
    episode = Episode(seed, task)
    episode.plan("<|ACTION|>east<|END|>")
    episode.act()
    ids = []
    if trivia:
        ids += episode.log(
            append(f"step {seed} went east"), [{"write": [f"step {seed} went east"]}]
        )
    if cue:
        ids += episode.log(append(cue), [{"write": [cue]}])
    episode.plan("<|ACTION|>east<|END|>")
    episode.act()
    if consult:
        read = {"read": ids} if ids else {"empty": True}
        episode.plan(READ + "<|ACTION|>north<|END|>", [read])
    else:
        episode.plan("<|ACTION|>north<|END|>")
    episode.act()
    return episode
