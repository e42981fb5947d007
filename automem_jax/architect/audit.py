"""The leakage audit: does a proposed template hold answers to single episodes?

What makes a template better on the seeds it was written for and on no others: their numbers, their
coordinates, their texts. Three things are looked for in the words that a proposal adds:

  seed        the number of one of the run's seeds
  coordinates a literal place that episodes know differently, or that is stated as a fact
  text        a run of WORDS words, or a row of a map, that stands in few episodes' texts
  actions     a run of MOVES actions that few episodes took

Words that the parent, the template language or (nearly) all episodes have alike are nobody's answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.agent.template import Template, to_data
from automem_jax.architect.language import describe_language
from automem_jax.traces.schema import Trace
from automem_jax.traces.store import read_trace

WORDS = 8  # a run so long, found in few episodes, is a quotation
MOVES = 6
ALIKE = 0.8  # a share of the episodes from which on they all say it
FEW = 0.1  # a share of the episodes up to which a text is some episodes' own
LEAST_SEED = 1_000  # smaller numbers, and its multiples, are seeds only where they are called so
_MAP_ROW = 12  # characters of a row that are no letters
_SHOWN = 120

_WORD = re.compile(r"\w+")
_SEED = re.compile(
    r"\b(?:seed|episode)s?\b(?:\W+(?:is|was|are|equals|number|no|nr)\b)?\W{0,4}(\d+)", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.,])\d{4,9}(?![\w.])")
_PAIR = re.compile(
    r"\(\s*(?P<a>\d{1,3})\s*,\s*(?P<b>\d{1,3})\s*\)"
    r"|\bx\s*[=:]?\s*(?P<c>\d{1,3})\W{1,3}(?:and\s+)?y\s*[=:]?\s*(?P<d>\d{1,3})"
    r"|\brow\s*[=:]?\s*(?P<e>\d{1,3})\W{1,3}(?:and\s+)?col(?:umn)?\s*[=:]?\s*(?P<f>\d{1,3})"
    r"|\bcol(?:umn)?\s*[=:]?\s*(?P<g>\d{1,3})\W{1,3}(?:and\s+)?row\s*[=:]?\s*(?P<h>\d{1,3})"
    r"|(?<![\w.,|])(?P<i>\d{1,3})\s*,\s*(?P<j>\d{1,3})(?![\w.,])",
    re.IGNORECASE,
)
_COMPARED = re.compile(r"\b\w+\.(x|y|row|column)\s*==\s*\d+")
_EXAMPLE = re.compile(r"(?:e\.g\.|for example|example|such as|for instance|like|format)[^.]{0,60}$")
_FACT = re.compile(
    r"\b(?:is|are|lies?|stands?|waits?|located|found|go|walk|travel|stairs|exit|door|altar|chest)\b"
    r"[^.\n]{0,24}$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """One thing a proposal should not know: its kind, where it stands, and why it is a leak."""

    kind: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class LeakageAudit:
    """Audits proposals against the texts of recorded episodes.

    Traces are read once, at the first audit. Those of one seed count as one episode, whatever the
    templates they were played with.

    Args:
      paths: traces of search and gate episodes, of any template.
      seeds: the run's seed sets by name.
      known: what was read of traces already, by path; added to.
    """

    def __init__(
        self,
        paths: Iterable[Path] = (),
        seeds: Mapping[str, Iterable[int]] | None = None,
        known: dict[Path, Episode] | None = None,
    ):
        self._paths = sorted(set(paths))
        self._seeds = {seed: name for name, several in (seeds or {}).items() for seed in several}
        self._known = {} if known is None else known
        self._by_seed: dict[int, list[Episode]] | None = None

    def findings(self, template: Template, parent: Template) -> list[Finding]:
        """What a template should not know, in the order of its texts; empty for a clean one."""
        old = "\n".join(text for _, text in _strings(to_data(parent)))
        known = f"{old}\n{describe_language()}"
        known_grams = set(_grams(_words(known), WORDS))
        old_lines = set(old.splitlines())
        found: list[Finding] = []
        for place, text in _strings(to_data(template)):
            if place in ("id", "parent", "env") or text in old_lines:
                continue
            fresh = "\n".join(line for line in text.splitlines() if line not in old_lines)
            found += self._seed_numbers(place, fresh, known)
            found += self._coordinates(place, fresh, known)
            found += self._quotations(place, fresh, known_grams)
            found += self._map_rows(place, fresh)
            found += self._action_runs(place, fresh, old)
        return found + list(_compared_places(template, old))

    def _seed_numbers(self, place: str, text: str, known: str) -> Iterator[Finding]:
        told = [(m, int(m[1])) for m in _SEED.finditer(text)]
        # A round number is a limit or a count, unless it is called a seed.
        told += [(m, int(m[0])) for m in _NUMBER.finditer(text) if int(m[0]) % LEAST_SEED]
        for match, seed in _once(told):
            if seed in self._seeds and match[0] not in known:
                yield Finding(
                    "seed", place, f"{match[0]!r} names a seed of the {self._seeds[seed]} set"
                )

    def _coordinates(self, place: str, text: str, known: str) -> Iterator[Finding]:
        found = []
        for match in _PAIR.finditer(text):
            a, b = (int(value) for value in match.groups() if value is not None)
            if match[0] not in known:
                found.append((match, (a, b)))
        for match, pair in _once(found):
            holding, count = self._holders(lambda e, pair=pair: pair in e.pairs)
            share = len(holding) / max(1, count)
            before = text[max(0, match.start() - 70) : match.start()]
            example = bool(_EXAMPLE.search(before.lower())) or "|" in before[-24:]
            bare = match["i"] is not None and not _FACT.search(before)  # two numbers of a list
            if bare or (share >= ALIKE and count > 1):
                continue
            if holding and (_few(len(holding), count) or not example):
                where = f"stands in {_episodes_told(holding, count)}"
            elif not example and _FACT.search(before):
                where = "is a place of one episode's world stated as a fact"
            else:
                continue
            yield Finding("coordinates", place, f"coordinates {match[0]!r}: {where}")

    def _quotations(self, place: str, text: str, known: set) -> Iterator[Finding]:
        words = _words(text)
        grams = {gram: i for i, gram in enumerate(_grams(words, WORDS)) if gram not in known}
        holders: dict[int, list[int]] = defaultdict(list)  # first word -> seeds
        seeds_read = self._read() if grams else {}
        for seed, episodes in seeds_read.items():
            for gram in set().union(*(episode.holding(grams) for episode in episodes)):
                holders[grams[gram]].append(seed)
        covered = -1
        for first in sorted(holders):
            seeds = holders[first]
            if first <= covered or not _few(len(seeds), len(seeds_read)):
                continue
            last = first
            while last + 1 in holders:
                last += 1
            covered = last
            quoted = " ".join(words[first : last + WORDS])[:_SHOWN]
            yield Finding(
                "text",
                place,
                f"{quoted!r} is word for word in {_episodes_told(seeds, len(seeds_read))}",
            )

    def _map_rows(self, place: str, text: str) -> Iterator[Finding]:
        for line in dict.fromkeys(map(str.strip, text.splitlines())):
            glyphs = sum(not c.isalnum() and not c.isspace() for c in line)
            if glyphs < _MAP_ROW or len(set(line)) < 3:
                continue
            seeds, count = self._holders(lambda e, line=line: line in e.rows)
            if seeds and _few(len(seeds), count):
                told = _episodes_told(seeds, count)
                yield Finding("text", place, f"the row {line[:_SHOWN]!r} stands in {told}")

    def _action_runs(self, place: str, text: str, old: str) -> Iterator[Finding]:
        names = {name for several in self._read().values() for e in several for name in e.actions}
        if not names:
            return
        # Between two actions of a list stand commas, arrows, numbers and words such as "then".
        steps = [w for w in re.findall(r"\w+(?:-\w+)*", text.lower()) if w not in _LINKS]
        kept = {name.lower().replace(" ", "_"): name for name in names}
        run: list[str] = []
        for word in [*steps, ""]:
            if word.replace("-", "_") in kept or word in kept:
                run.append(kept.get(word) or kept[word.replace("-", "_")])
                continue
            if len(run) >= MOVES and len(set(run)) > 1:
                seeds, count = self._holders(lambda e, run=run: _holds_run(e.actions, run))
                if seeds and _few(len(seeds), count) and " ".join(run) not in old:
                    told = _episodes_told(seeds, count)
                    yield Finding(
                        "actions", place, f"{' '.join(run)[:_SHOWN]!r} is what {told} did"
                    )
            run = []

    def _holders(self, holds: Callable[[Episode], bool]) -> tuple[list[int], int]:
        """Seeds of which an episode holds something, and how many seeds there are."""
        read = self._read()
        return [seed for seed, several in read.items() if any(map(holds, several))], len(read)

    def _read(self) -> dict[int, list[Episode]]:
        if self._by_seed is None:
            by_seed: dict[int, list[Episode]] = {}
            for path in self._paths:
                if path not in self._known:
                    self._known[path] = Episode(read_trace(path))
                episode = self._known[path]
                by_seed.setdefault(episode.seed, []).append(episode)
            self._by_seed = by_seed
        return self._by_seed


def _compared_places(template: Template, old: str) -> Iterator[Finding]:
    """Conditions that compare a position with a literal place."""
    values: dict[str, tuple[str, str]] = {}
    for place, text in _strings(to_data(template)):
        for match in _COMPARED.finditer(text):
            if match[0] not in old:
                values.setdefault(match[1], (place, match[0]))
    if {"x", "y"} <= values.keys() or {"row", "column"} <= values.keys():
        for place, told in values.values():
            yield Finding(
                "coordinates", place, f"{told!r} compares a position with a literal place"
            )


_LINKS = frozenset({"then", "and", "now", "next", "go", "move", "walk", "once", "again", "finally"})


class Episode:
    """What one episode says: the lines of its observations and of the agent's notes, each once; the
    coordinates in them; its actions."""

    def __init__(self, trace: Trace):
        self.seed = int(trace.header["seed"])
        self.actions = [step.action for step in trace.steps]
        self.rows: set[str] = set()
        self.pairs: set[tuple[int, int]] = set()
        self._neighbours: set[str] = set()  # two lines that follow each other, as one text
        for text in _texts_of(trace):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            self.rows.update(lines)
            self._neighbours.update(map(" ".join, zip(lines, [*lines[1:], ""], strict=False)))
        for match in (m for line in self.rows for m in _PAIR.finditer(line)):
            a, b = (int(value) for value in match.groups() if value is not None)
            self.pairs.add((a, b))

    def holding(self, grams: Mapping[tuple[str, ...], Any]) -> set[tuple[str, ...]]:
        """Those of some runs of WORDS words that stand within two lines that follow each other."""
        held: set[tuple[str, ...]] = set()
        for text in self._neighbours:
            held.update(gram for gram in _grams(_words(text), WORDS) if gram in grams)
        return held


def _texts_of(trace: Trace) -> Iterator[str]:
    final = (trace.end or {}).get("percept")
    for percept in (*(step.percept for step in trace.steps), *([final] if final else ())):
        yield percept["long_text"]
        yield percept["short_text"]
    for change in trace.changes():
        if change["op"] == "insert":
            yield "\n".join(text for _, text in change["lines"])


def _strings(data: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(Place, text) of every text and key of a template's data."""
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            inner = f"{place}.{key}" if place else str(key)
            yield inner, str(key)
            yield from _strings(value, inner)
    elif isinstance(data, Sequence):
        if len(data) == 3 and data[1] == "==":  # a comparison in its long form
            yield place, f"{data[0]} == {data[2]}"
        for number, value in enumerate(data):
            yield from _strings(value, f"{place}[{number}]")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[first:] for first in range(count)), strict=False)


def _once(found: Iterable[tuple[re.Match, Any]]) -> Iterator[tuple[re.Match, Any]]:
    seen = set()
    for match, value in found:
        if value not in seen:
            seen.add(value)
            yield match, value


def _few(holding: int, count: int) -> bool:
    return holding == 1 or holding / count <= FEW


def _holds_run(actions: Sequence[str], run: Sequence[str]) -> bool:
    count = len(run)
    return any(
        list(actions[first : first + count]) == list(run)
        for first in range(len(actions) - count + 1)
    )


def _episodes_told(seeds: Sequence[int], count: int) -> str:
    return f"{len(seeds)} of {count} episodes" if len(seeds) > 1 else f"one of {count} episodes"
