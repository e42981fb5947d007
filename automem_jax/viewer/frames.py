"""The game's own pictures of a recorded episode. A trace holds none; its actions are played again.

A process of its own plays, so that an engine that crashes or hangs takes nothing with it, and so that
the viewer needs none of the engines. Every observation is compared with the recorded one: where the
replay leaves the record there is no picture, never a wrong one.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

ENVIRONMENTS = ("minihack", "nethack", "craftax_classic", "craftax")
_KEPT = 512  # pictures of an episode
_LENGTH_BYTES = 8


class NoFrame(ValueError):
    """There is no picture of this step; the message says why."""


class FramePlayer:
    """Pictures of one episode, played on demand in a process that is started with the first one."""

    def __init__(self, trace: Path, settings: Mapping[str, Any]) -> None:
        """Args:
        trace: the trace's file.
        settings: fields of EnvConfig that differ from their defaults.
        """
        self._arguments = [str(trace), json.dumps(dict(settings))]
        self._process: subprocess.Popen | None = None
        self._broken: str | None = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[bytes, dict[str, int]]] = OrderedDict()

    def frame(self, step: int) -> tuple[bytes, dict[str, int]]:
        """A PNG of what the percept of `step` showed, and achievements: name -> step that unlocked it.

        Raises:
          NoFrame: the engine is not installed, or the replay differs from the record.
        """
        with self._lock:
            if step in self._kept:
                self._kept.move_to_end(step)
                return self._kept[step]
            if self._broken:
                raise NoFrame(self._broken)
            answer = self._ask(step)
            self._kept[step] = answer
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return answer

    def close(self) -> None:
        """Ends the process. Safe to call twice, and while a picture is waited for."""
        process, self._broken = self._process, "the viewer is closing"
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        pass

    def _ask(self, step: int) -> tuple[bytes, dict[str, int]]:
        if self._process is None:
            self._process = _start(self._arguments)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{step}\n".encode())
            process.stdin.flush()
            about = json.loads(_read(process.stdout))
            picture = _read(process.stdout)
        except (OSError, ValueError) as error:
            self._broken = f"the game's process ended (status {process.poll()})"
            raise NoFrame(self._broken) from error
        if about.get("error"):
            if about.get("last"):
                self._broken = str(about["error"])
            raise NoFrame(str(about["error"]))
        return picture, dict(about["achievements"])


def env_settings(header: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The environment that a trace was played in: the work directory's, where it is the same game.

    Raises:
      NoFrame: the header names no environment that can be played.
    """
    from automem_jax.config import EnvConfig

    name = header.get("env")
    if name not in ENVIRONMENTS:
        raise NoFrame(f"{name!r} is no environment that can be played again")
    known = {field.name for field in fields(EnvConfig)}
    recorded = (config or {}).get("env")
    recorded = recorded if isinstance(recorded, Mapping) and recorded.get("name") == name else {}
    settings = {key: value for key, value in recorded.items() if key in known}
    settings.setdefault("max_steps", 0)
    if header.get("task"):
        settings["task"] = header["task"]
    return settings | {"name": name, "slots": 1, "workers": 0}


def _start(arguments: Sequence[str]) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "automem_jax.viewer.frames", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _read(pipe: Any) -> bytes:
    head = pipe.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        raise ValueError("the pipe was closed")
    return pipe.read(int.from_bytes(head, "big"))


class _Replay:
    """Plays a trace's actions; runs in the process of its own."""

    def __init__(self, trace: str, settings: Mapping[str, Any]) -> None:
        from automem_jax import envs
        from automem_jax.config import EnvConfig
        from automem_jax.traces.store import read_trace

        read = read_trace(trace)
        self._seed = int(read.header["seed"])
        self._actions = [step.action for step in read.steps]
        self._seen = [step.percept["long_text"] for step in read.steps]
        if read.end is not None and read.end.get("percept"):
            self._seen.append(read.end["percept"]["long_text"])
        self._env = envs.make(replace(EnvConfig(), **settings))
        self._percept: Any = None
        self._at = 0
        self._left: int | None = None  # step at which the replay left the record
        self._achieved: dict[str, int] = {}  # achievement -> step of the percept that told it first

    def frame(self, step: int) -> tuple[bytes, dict[str, int]]:
        if self._left is not None and step >= self._left:
            raise self._differs()
        if not 0 <= step < len(self._seen):
            raise NoFrame(f"step {step}: the trace has {len(self._seen)} observations")
        if self._percept is None or step < self._at:
            self._percept, self._at = self._env.reset([0], [self._seed])[0], 0
            self._compare()
        while self._at < step:
            if self._percept.done:
                self._left = self._at + 1
                raise self._differs()
            self._percept = self._env.step({0: self._actions[self._at]})[0]
            self._at += 1
            self._compare()
        return _png(self._env.frame(0)), self._achieved

    def _compare(self) -> None:
        if self._percept.long_text != self._seen[self._at]:
            self._left, self._percept = self._at, None
            raise self._differs()
        for name in self._percept.fields.get("achievements", ()):
            self._achieved.setdefault(str(name), self._at)

    def _differs(self) -> NoFrame:
        return NoFrame(
            f"played again, the episode differs from the record at step {self._left}; "
            "the text is as recorded"
        )


def _png(frame: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _serve(arguments: Sequence[str]) -> None:
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an engine prints must not get between the answers

    def answer(about: Mapping[str, Any], picture: bytes = b"") -> None:
        for part in (json.dumps(about).encode(), picture):
            channel.write(len(part).to_bytes(_LENGTH_BYTES, "big") + part)
        channel.flush()

    replay: _Replay | None = None
    for line in sys.stdin:
        try:
            if replay is None:
                replay = _Replay(arguments[0], json.loads(arguments[1]))
            picture, achieved = replay.frame(int(line))
            answer({"achievements": achieved}, picture)
        except NoFrame as error:
            answer({"error": str(error)})
        except Exception as error:  # an engine may raise anything; the page says what
            lost = "" if replay else "the game cannot be played here: "
            answer({"error": f"{lost}{type(error).__name__}: {error}", "last": replay is None})


if __name__ == "__main__":
    _serve(sys.argv[1:])
