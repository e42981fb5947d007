"""Test doubles that users may use too: a policy that is a function, and a tiny environment."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from automem_jax.agent.grammar import OPERATIONS, parse
from automem_jax.agent.template import Template, operations_of
from automem_jax.agent.validate import operations_offered
from automem_jax.envs.base import Percept
from automem_jax.policies.base import Policy
from automem_jax.text.messages import Completion, Request, RequestKey


class ScriptedPolicy:
    """Answers each request with what `answer(request)` returns: text, or a whole Completion.

    Token counts are words, so that traces have some. `requests` keeps everything that was asked.
    """

    def __init__(
        self, answer: Callable[[Request], str | Completion], max_batch: int = 1024
    ) -> None:
        self.max_batch = max_batch
        self.requests: list[Request] = []
        self._answer = answer

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in order."""
        return [self._complete(request) for request in requests]

    def describe(self) -> dict[str, Any]:
        """A fixed identity."""
        return {"kind": "scripted", "model": "function", "base_hash": "", "adapter_hash": None}

    def close(self) -> None:
        """Nothing to free."""

    def _complete(self, request: Request) -> Completion:
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Completion):
            return answer
        return Completion(
            text=answer,
            prompt_tokens=sum(len(m.content.split()) for m in request.messages),
            completion_tokens=len(answer.split()),
        )


class ChoicePolicy(ScriptedPolicy):
    """Draws each answer from the few that `choices(request)` lists with their probabilities.

    What is drawn is a function of `run_seed` and the request's key, so requests of equal keys draw with
    the same number. The list lets a test enumerate every way an episode can go.
    """

    def __init__(
        self,
        choices: Callable[[Request], Sequence[tuple[str, float]]],
        run_seed: int = 0,
        max_batch: int = 1024,
    ) -> None:
        super().__init__(self._draw, max_batch)
        self.choices = choices
        self._run_seed = run_seed

    def _complete(self, request: Request) -> Completion:
        completion = super()._complete(request)
        self.requests.clear()
        return completion

    def _draw(self, request: Request) -> str:
        key, options = request.key, self.choices(request)
        name = f"{self._run_seed} {key.episode} {key.step} {key.phase} {key.turn}"
        texts, weights = zip(*options, strict=True)
        return random.Random(name).choices(texts, weights)[0]


class PlantedPolicy:
    """Passes requests on to a policy and puts bad memory decisions in the place of some of its answers.

    Args:
      policy: what answers. plant: (request, answer, random source) -> a bad text to put in its place, or
        None to leave the answer. rate: share of the memory decisions (answers that hold an operation)
        that are replaced where `plant` has something.

    Attributes:
      planted: keys of the replaced answers.
    """

    def __init__(
        self,
        policy: Policy,
        plant: Callable[[Request, Completion, random.Random], str | None],
        rate: float = 0.3,
    ) -> None:
        self.max_batch = policy.max_batch
        self.planted: set[RequestKey] = set()
        self._policy, self._plant, self._rate = policy, plant, rate

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers in order."""
        answers = self._policy.complete(requests)
        return [self._spoilt(r, a) for r, a in zip(requests, answers, strict=True)]

    def _spoilt(self, request: Request, answer: Completion) -> Completion:
        key = request.key
        source = random.Random(f"planted {key.episode} {key.step} {key.phase} {key.turn}")
        if source.random() >= self._rate or not parse(answer.text).operations:
            return answer
        text = self._plant(request, answer, source)
        if text is None:
            return answer
        self.planted.add(key)
        return dataclasses.replace(answer, text=text, token_ids=(), logprobs=())

    def describe(self) -> dict[str, Any]:
        """The inner policy's identity, marked."""
        return self._policy.describe() | {"planted": self._rate}

    def close(self) -> None:
        """Closes the inner policy."""
        self._policy.close()


class ScriptedPlayer(ScriptedPolicy):
    """Plays any template without a model: writes and reads memory as one would, acts at random.

    Which files and operations there are is taken from the template. In LOG it appends a line to a log
    or document in about one step of three, sets a map's place in one of five, rewrites a short
    document now and then, searches before some writes; in PLAN it looks something up in one step of
    three. What it does depends on the request's key alone.

    Args:
      template: as the agent plays it. actions: of the environment.
    """

    def __init__(self, template: Template, actions: Sequence[str], max_batch: int = 1024) -> None:
        super().__init__(self._reply, max_batch)
        self._actions = [a for a in actions if a not in _NO_PLAY] or list(actions)
        self._moves = [a for a in self._actions if _MOVE.search(a.casefold())] or self._actions
        self._spelling = dict(template.operations)
        self._offered = {
            "log": operations_offered(template, "log"),
            "plan": operations_offered(template, "plan"),
        }
        self._files = {
            op: [name for name, spec in template.files.items() if op in operations_of(spec)]
            for op in OPERATIONS
        }
        self._short = [
            name
            for name in self._files["WRITE"]
            if 0 < template.files[name].soft_lines <= _SHORT_FILE
        ]
        self._keys = {name: len(spec.key) for name, spec in template.files.items() if spec.key}

    def _complete(self, request: Request) -> Completion:
        completion = super()._complete(request)
        self.requests.clear()  # an episode of thousands of steps would not fit
        return completion

    def _reply(self, request: Request) -> str:
        key = request.key
        rng = random.Random(f"{key.episode} {key.step} {key.phase} {key.turn}")
        if key.phase == "log":
            return self._log(key, rng)
        looks = rng.random()
        if key.turn == 0 and looks < 0.35:
            asked = self._ask("plan", rng)
            if asked:
                return f"Let me see what I know about this place. {asked}"
        action = rng.choice(self._moves if rng.random() < 0.7 else self._actions)
        return f"I go on with the plan. <|ACTION|>{action}<|END|>"

    def _log(self, key: RequestKey, rng: random.Random) -> str:
        parts = []
        if key.turn == 0 and rng.random() < 0.1:
            asked = self._ask("log", rng)
            if asked:
                return asked
        if rng.random() < 0.33:
            parts.append(self._write("APPEND", rng, _observation(key.step, rng)))
        if rng.random() < 0.2:
            parts.append(self._write("UPSERT", rng, _observation(key.step, rng)))
        if self._short and rng.random() < 0.03:
            lines = [f"{n}. {_observation(key.step, rng)}" for n in range(1, 6)]
            text = "\n".join(lines)
            parts.append(self._operation("log", "WRITE", rng.choice(self._short), text))
        return "".join(part for part in parts if part) + "<|DONE|>"

    def _write(self, op: str, rng: random.Random, text: str) -> str:
        files = self._files[op]
        if not files:
            return ""
        name = rng.choice(files)
        if op == "UPSERT":
            parts = self._keys.get(name, 1)
            place = [str(rng.randint(1, 4))] * (parts - 2)
            place += [str(rng.randint(-30, 30)) for _ in range(min(parts, 2))]
            text = f"{','.join(place)}|{text}"
        return self._operation("log", op, name, text)

    def _ask(self, phase: str, rng: random.Random) -> str:
        offered = [op for op in ("READ", "TAIL", "SEARCH") if op in self._offered[phase]]
        offered = [op for op in offered if self._files[op]]
        if not offered:
            return ""
        op = rng.choice(offered)
        argument = {"TAIL": "10", "SEARCH": rng.choice(_THINGS)}.get(op, "")
        return self._operation(phase, op, rng.choice(self._files[op]), argument)

    def _operation(self, phase: str, op: str, name: str, text: str) -> str:
        if op not in self._offered[phase]:
            return ""
        bar = f"|{text}" if text else ""
        return f"<|{self._spelling.get(op, op)}|>{name}{bar}<|END|>"


_SHORT_FILE = 30  # files kept below so many lines are rewritten as a whole
_MOVE = re.compile(r"north|south|east|west|^do$|^search$")
_NO_PLAY = ("Noop",)
_THINGS = ("wood", "coal", "water", "stairs", "door", "table", "dog", "iron", "gold", "cow")


def _observation(step: int, rng: random.Random) -> str:
    """A line such as a player might note."""
    first, second = rng.sample(_THINGS, 2)
    side = rng.choice(("north", "east", "south", "west"))
    outcome = rng.choice(("found", "lost sight of", "could not reach", "came back to"))
    return f"step {step}: {outcome} {first} {rng.randint(1, 9)} {side} of the {second}"


class ToyEnv:
    """A corridor of `length` cells with a cue at its start and a fork at its end.

    The cue says "left" (even seeds) or "right" (odd seeds) and is visible in the first cell only.
    "forward" walks on; at the fork "left" or "right" ends the episode, with reward 1 and
    progression 1 if it is what the cue said. "wait" does nothing. Percept fields: language,
    message, position.
    """

    actions = ("forward", "left", "right", "wait")
    fallback_action = "wait"
    instructions = (
        "Walk forward to the fork and take the side that the sign names.\n"
        "Actions: forward, left, right, wait"
    )

    def __init__(self, num_slots: int = 1, length: int = 3, max_steps: int = 20) -> None:
        self.num_slots = num_slots
        self.max_steps = max_steps
        self._length = length
        self._seeds: dict[int, int] = {}
        self._percepts: dict[int, Percept] = {}

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts episodes; see TextEnv."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._seeds[slot] = seed
            self._percepts[slot] = self._percept(seed, 0, 0, None, "")
        return {slot: self._percepts[slot] for slot in slots}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """Steps the named slots; see TextEnv."""
        for slot, written in actions.items():
            before = self._percepts.get(slot)
            if before is None or before.done:
                raise ValueError(f"slot {slot}: no running episode; call reset first")
            unknown = None if written in self.actions else written
            action = self.fallback_action if unknown else written
            position, seed, step = before.fields["position"], self._seeds[slot], before.step + 1
            message, reward, reason = "", 0.0, None
            if action == "forward" and position < self._length:
                position += 1
            elif action in ("left", "right") and position == self._length:
                solved = action == self._cue(seed)
                reward, reason = (1.0, "task solved") if solved else (-1.0, "task failed")
            elif action != "wait":
                message = "You bump into a wall."
            if reason is None and step >= self.max_steps:
                reason = "step limit"
            self._percepts[slot] = self._percept(
                seed, position, step, action, message, reward, reason, unknown
            )
        return {slot: self._percepts[slot] for slot in actions}

    def frame(self, slot: int) -> np.ndarray:
        """The corridor as one row of pixels, the walker in white."""
        picture = np.zeros((1, self._length + 1, 3), np.uint8)
        picture[0, self._percepts[slot].fields["position"]] = 255
        return picture

    def progression(self, slot: int) -> float:
        """1.0 once solved."""
        return self._percepts[slot].progression

    def snapshot(self, slot: int) -> tuple[int, Percept]:
        """Seed and percept, which are all there is to an episode; see TextEnv."""
        if slot not in self._percepts:
            raise ValueError(f"slot {slot} was never reset; call reset first")
        return self._seeds[slot], self._percepts[slot]

    def restore(self, slot: int, snapshot: tuple[int, Percept]) -> Percept:
        """Goes on from a snapshot; see TextEnv."""
        self._seeds[slot], self._percepts[slot] = snapshot
        return snapshot[1]

    def close(self) -> None:
        """Nothing to free."""

    @staticmethod
    def _cue(seed: int) -> str:
        return "right" if seed % 2 else "left"

    def _percept(
        self,
        seed: int,
        position: int,
        step: int,
        action: str | None,
        message: str,
        reward: float = 0.0,
        reason: str | None = None,
        unknown: str | None = None,
    ) -> Percept:
        if position == 0:
            language = f"a sign says {self._cue(seed)}"
        else:
            language = "the fork" if position == self._length else "a corridor"
        return Percept(
            long_text=f"message:\n{message}\n\nobservation:\n{language}",
            short_text=f"step {step}",
            fields={"language": language, "message": message, "position": position},
            actions=self.actions,
            step=step,
            reward=reward,
            done=reason is not None,
            end_reason=reason,
            progression=1.0 if reason == "task solved" else 0.0,
            action=action,
            unknown_action=unknown,
        )
