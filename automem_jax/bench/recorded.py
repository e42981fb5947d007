"""Requests of played episodes, kept in a small file to replay: what a server of rollouts is asked.

A gzipped JSONL file: a line an episode, with the texts of its messages once each and its requests, in
the order in which they were asked, as references to them. Traces can be replayed as well.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.files import write_atomically
from automem_jax.text.messages import Message, Request, RequestKey, SamplingSettings
from automem_jax.traces.schema import Trace
from automem_jax.traces.store import list_traces, read_trace

SHIPPED = Path(__file__).with_name("recorded_requests.jsonl.gz")
_VERSION = 1


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode's requests in order; each was asked when the one before it was answered."""

    env: str
    template: str
    seed: int
    requests: tuple[Request, ...]


def from_trace(trace: Trace, first_step: int = 0) -> RecordedEpisode:
    """The requests of a trace, from a step on. Their sampling settings are the default ones."""
    seed = int(trace.header["seed"])
    requests = tuple(
        Request(
            turn.role,
            turn.messages,
            SamplingSettings(),
            RequestKey(seed, step.t, phase.phase, turn.index),
        )
        for step in trace.steps
        if step.t >= first_step
        for phase in step.phases
        for turn in phase.turns
    )
    return RecordedEpisode(trace.header["env"], trace.header["template"]["id"], seed, requests)


def write_recorded(path: Path, episodes: Iterable[RecordedEpisode]) -> None:
    """Writes the file, whole or not at all; the same episodes give the same bytes."""
    lines = [json.dumps(_packed(e), ensure_ascii=False, separators=(",", ":")) for e in episodes]
    data = "".join(line + "\n" for line in lines).encode()
    write_atomically(path, gzip.compress(data, 9, mtime=0))


def read_recorded(path: Path) -> list[RecordedEpisode]:
    """Episodes of a file of ours, or of a directory of traces.

    Raises:
      ValueError: the file is none of ours, or there are no traces.
    """
    if path.is_dir():
        episodes = [from_trace(read_trace(trace)) for trace in list_traces(path)]
        if not episodes:
            raise ValueError(f"{path} holds no traces; run `automem rollout` first")
        return episodes
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [_unpacked(json.loads(line)) for line in file]
    except (gzip.BadGzipFile, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is no file of recorded requests ({error})") from error


def _packed(episode: RecordedEpisode) -> dict[str, Any]:
    texts: dict[str, int] = {}
    rows = []
    for request in episode.requests:
        messages = [
            [message.role[0], texts.setdefault(message.content, len(texts))]
            for message in request.messages
        ]
        key = request.key
        rows.append([request.role, key.step, key.phase, key.turn, messages])
    return {
        "version": _VERSION,
        "env": episode.env,
        "template": episode.template,
        "seed": episode.seed,
        "texts": list(texts),
        "requests": rows,
    }


def _unpacked(line: dict[str, Any]) -> RecordedEpisode:
    if line["version"] != _VERSION:
        raise ValueError(f"version {line['version']!r}, this one reads {_VERSION}")
    roles = {"s": "system", "u": "user", "a": "assistant"}
    requests = tuple(
        Request(
            role,
            tuple(Message(roles[letter], line["texts"][text]) for letter, text in messages),
            SamplingSettings(),
            RequestKey(line["seed"], step, phase, turn),
        )
        for role, step, phase, turn, messages in line["requests"]
    )
    return RecordedEpisode(line["env"], line["template"], line["seed"], requests)
