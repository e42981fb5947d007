"""Selection from end to end: traces -> credited decisions -> examples.jsonl and selection.json.

Two passes over the traces, one trace in memory at a time: the first follows lineages and measures
credit, the second copies out the prompts of what was chosen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.agent.grammar import OPERATIONS
from automem_jax.config import SelectionConfig, config_hash
from automem_jax.files import atomic_file
from automem_jax.selection.cleanup import CleanTurn, clean_turn, vocabulary_of
from automem_jax.selection.credit import Credit, CreditTable
from automem_jax.selection.filters import cap, idle, invalid, is_memory_turn
from automem_jax.selection.lineage import EpisodeLineage, TurnKey, TurnRecord, follow
from automem_jax.traces.schema import Trace, Turn
from automem_jax.traces.store import read_trace

KINDS = ("lineage", "random")
EXAMPLES_FILE = "examples.jsonl"
REPORT_FILE = "selection.json"
GROUPS_REPORTED = 20


class SelectionError(ValueError):
    """Traces that may not be selected from, or a selection that does not match its traces."""


@dataclass(frozen=True)
class SelectionReport:
    """What selection.json says.

    Attributes:
      examples: path of examples.jsonl.
      count, phases: how many examples, and how many a phase.
      traces, episodes_used: finished traces read, and how many of them gave an example.
      memory_turns: memory decisions considered; every one is either kept or counted in `rejected`.
      rejected: how many fell out, by reason.
      operations, tasks, repeated_texts: coverage of what was kept (repeated_texts: distinct texts and
        the share of the commonest).
      groups: the groups of lines with the best lower confidence credit, with the figures behind it.
      seeds: environment seeds of all traces read.
      short: examples that a control could not draw, a phase.
    """

    kind: str
    examples: str
    count: int
    phases: dict[str, int]
    traces: int
    unfinished: int
    episodes_used: int
    memory_turns: int
    rejected: dict[str, int]
    operations: dict[str, int]
    tasks: dict[str, int]
    repeated_texts: dict[str, float]
    groups: list[dict[str, Any]]
    seeds: list[int]
    config: dict[str, Any]
    fingerprint: str
    examples_sha256: str
    short: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A decision that may become an example. `text` is the cleaned one."""

    trace: str
    key: TurnKey
    task: str
    text: str
    rank: float
    signals: Mapping[str, Any]

    @property
    def phase(self) -> str:
        return self.key.phase


def select(
    trace_paths: Sequence[str | Path],
    config: SelectionConfig,
    out_dir: str | Path,
    *,
    memory_ops: Iterable[str] | None = None,
    forbidden_seeds: Iterable[int] = (),
    match: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SelectionReport:
    """Chooses decisions worth training on and writes them, with a report, into `out_dir`.

    Work that is finished for the same traces and settings is not done again.

    Args:
      trace_paths: trace files of finished episodes (unfinished ones are counted and left out).
      config: kind "lineage", or "random": the control, drawn uniformly from all valid memory turns of
        the same traces in the number and mix of phases of `match`.
      memory_ops: names of the memory operations; None for those of the template that was played.
      forbidden_seeds: environment seeds that training must never see.
      match: selection.json of the lineage selection that a control matches.
      progress: called with traces read and traces to read (each is read twice at most).

    Raises:
      SelectionError: a forbidden seed, an unknown kind, a control without `match`, or nothing to keep.
    """
    if config.kind not in KINDS:
        raise SelectionError(f"selection.kind {config.kind!r}: use one of {', '.join(KINDS)}")
    if config.kind == "random" and match is None:
        raise SelectionError(
            "a random control needs `match`: the selection.json whose mix it copies"
        )
    paths = sorted(str(path) for path in trace_paths)
    if not paths:
        raise SelectionError("no traces to select from; collect some first")
    out = Path(out_dir)
    vocabulary = None if memory_ops is None else frozenset(memory_ops)
    wanted = json.loads(Path(match).read_text())["phases"] if config.kind == "random" else {}
    fingerprint = _fingerprint(paths, config, vocabulary, wanted)
    finished = _finished(out, fingerprint)
    if finished is not None:
        _refuse_seeds(finished.seeds, forbidden_seeds)
        return finished

    tick = progress or (lambda done, total: None)
    episodes, unfinished = [], 0
    for index, path in enumerate(paths):
        trace = read_trace(path)
        _refuse_seeds([trace.header["seed"]], forbidden_seeds, path)
        if trace.end is None:
            unfinished += 1
        else:
            episodes.append(follow(trace, path))
        tick(index + 1, 2 * len(paths))
    table = CreditTable(episodes)
    rejected: Counter[str] = Counter()
    candidates, considered = _candidates(episodes, table, config, vocabulary, rejected)
    short: dict[str, int] = {}
    if config.kind == "lineage":
        kept = cap(candidates, config, rejected)
    else:
        kept, short = _draw(candidates, wanted, config.seed)
        rejected["not_drawn"] += len(candidates) - len(kept)
    if not kept:
        reasons = ", ".join(f"{reason} {n}" for reason, n in rejected.most_common())
        raise SelectionError(
            f"none of {considered} memory turns in {len(episodes)} episodes was kept "
            f"({reasons or 'no turns'}); collect more episodes or lower selection.min_credit"
        )
    kept = sorted(kept, key=lambda c: (c.trace, c.key.t, c.key.phase, c.key.turn))
    out.mkdir(parents=True, exist_ok=True)
    lines = _example_lines(kept, out, vocabulary, lambda n: tick(len(paths) + n, 2 * len(paths)))
    digest = _write_lines(out / EXAMPLES_FILE, lines)
    texts = Counter(c.text for c in kept)
    report = SelectionReport(
        kind=config.kind,
        examples=str(out / EXAMPLES_FILE),
        count=len(kept),
        phases=dict(sorted(Counter(c.phase for c in kept).items())),
        traces=len(episodes),
        unfinished=unfinished,
        episodes_used=len({c.trace for c in kept}),
        memory_turns=considered,
        rejected={reason: n for reason, n in rejected.most_common() if n},
        operations=dict(Counter(op for c in kept for op in c.signals["operations"]).most_common()),
        tasks=dict(Counter(c.task for c in kept).most_common()),
        repeated_texts={"distinct": len(texts), "largest_share": max(texts.values()) / len(kept)},
        groups=_best_groups(table),
        seeds=sorted({e.seed for e in episodes}),
        config=dataclasses.asdict(config),
        fingerprint=fingerprint,
        examples_sha256=digest,
        short=short,
    )
    _write_lines(out / REPORT_FILE, [json.dumps(dataclasses.asdict(report), indent=1)])
    return report


def load_examples(path: str | Path) -> Iterator[dict[str, Any]]:
    """The examples of a file, in order."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def verify_examples(examples_path: str | Path, *, memory_ops: Iterable[str] | None = None) -> int:
    """Checks every example against its trace: the hash of the verbatim turn, prompt and cleaned text.

    Returns how many were checked.

    Raises:
      SelectionError: an example does not match; names its line and trace.
    """
    given = None if memory_ops is None else frozenset(memory_ops)
    root = Path(examples_path).parent
    read: tuple[str, Trace] | None = None
    count = 0
    for number, example in enumerate(load_examples(examples_path), start=1):
        source = example["provenance"]
        if read is None or read[0] != source["trace"]:
            read = source["trace"], read_trace(root / source["trace"])
        key = TurnKey(source["t"], source["phase"], source["turn"])
        place = f"{examples_path}:{number} ({source['trace']}, {key})"
        turns = _turns(read[1])
        turn = turns.get(key)
        if turn is None:
            raise SelectionError(f"{place}: the trace has no such turn; select again")
        if text_hash(turn.completion.text) != source["sha256"]:
            raise SelectionError(
                f"{place}: the trace's text has changed since it was selected; select again"
            )
        vocabulary = given or vocabulary_of(read[1].header)
        cleaned = clean_turn(turn.completion.text, vocabulary)
        body = _example_body(turn, cleaned, vocabulary) | {"token_ids": _token_ids(turns, key)}
        if any(example.get(name, body["token_ids"]) != value for name, value in body.items()):
            raise SelectionError(f"{place}: messages differ from the trace; select again")
        count += 1
    return count


def text_hash(text: str) -> str:
    """SHA-256 of a verbatim text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _candidates(
    episodes: Sequence[EpisodeLineage],
    table: CreditTable,
    config: SelectionConfig,
    vocabulary: frozenset[str] | None,
    rejected: Counter[str],
) -> tuple[list[Candidate], int]:
    candidates, considered = [], 0
    for episode in episodes:
        for turn in episode.turns:
            if not is_memory_turn(episode, turn):
                continue
            considered += 1
            cleaned = clean_turn(turn.text, vocabulary or episode.vocabulary)
            # Credit goes to what stays: the clean-up cuts operations off the end only.
            turn = dataclasses.replace(turn, operations=turn.operations[: len(cleaned.spans)])
            reason = cleaned.reason or invalid(turn)
            if reason is None and len(cleaned.spans) > len(turn.operations):
                reason = "not_executed"  # limits.turn_ops left some out
            credit = table.decision(episode, turn)
            if config.kind == "lineage" and reason is None:
                reason = idle(turn) or credit.reason or _unconvincing(credit, config)
            if reason is not None:
                rejected[reason] += 1
                continue
            candidates.append(_candidate(episode, turn, cleaned, credit))
    return candidates, considered


def _unconvincing(credit: Credit, config: SelectionConfig) -> str | None:
    if credit.value < config.min_credit:
        return "below_min_credit"
    return "not_specific" if credit.may_be_chance(config.min_standard_errors) else None


def _candidate(
    episode: EpisodeLineage, turn: TurnRecord, cleaned: CleanTurn, credit: Credit
) -> Candidate:
    line = episode.lines.get(credit.line)
    signals: dict[str, Any] = {
        "operations": [operation["op"] for operation in turn.operations],
        "progression": episode.progression,
        "success_step": episode.success_step,
        "wrote": list(turn.wrote),
        "read": list(turn.read),
    }
    if line is not None:
        signals |= {
            "credit": round(credit.value, 6),
            "std_error": round(credit.std_error, 6) if credit.std_error < float("inf") else None,
            "own": round(credit.own, 6),
            "group": credit.group,
            "line": line.id,
            "written_at": dataclasses.asdict(line.writer),
            "first_read_at": dataclasses.asdict(line.first_read.at),
            "first_read_via": line.first_read.via,
        }
    return Candidate(episode.trace, turn.key, episode.task, cleaned.text, credit.value, signals)


def _draw(
    candidates: Sequence[Candidate], wanted: Mapping[str, int], seed: int
) -> tuple[list[Candidate], dict[str, int]]:
    """Uniformly, without replacement, as many of each phase as wanted; and what was missing."""
    pools: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        pools[candidate.phase].append(candidate)
    drawn, short = [], {}
    source = random.Random(seed)
    for phase, count in sorted(wanted.items()):
        pool = pools[phase]
        drawn += source.sample(pool, min(count, len(pool)))
        if len(pool) < count:
            short[phase] = count - len(pool)
    return drawn, short


def _turns(trace: Trace) -> dict[TurnKey, Turn]:
    return {
        TurnKey(step.t, phase.phase, index): turn
        for step in trace.steps
        for phase in step.phases
        for index, turn in enumerate(phase.turns)
    }


def _example_lines(
    kept: Sequence[Candidate],
    out: Path,
    given: frozenset[str] | None,
    tick: Callable[[int], None],
) -> Iterator[str]:
    by_trace: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in kept:
        by_trace[candidate.trace].append(candidate)
    for index, (path, chosen) in enumerate(by_trace.items()):
        trace = read_trace(path)
        turns = _turns(trace)
        vocabulary = given or vocabulary_of(trace.header)
        for candidate in chosen:
            key, turn = candidate.key, turns[candidate.key]
            cleaned = clean_turn(turn.completion.text, vocabulary)
            example = _example_body(turn, cleaned, vocabulary) | {
                "token_ids": _token_ids(turns, key),
                "weight": 1.0,
                "phase": key.phase,
                "provenance": {
                    "trace": os.path.relpath(path, out),
                    "seed": trace.header["seed"],
                    "t": key.t,
                    "phase": key.phase,
                    "turn": key.turn,
                    "sha256": text_hash(turn.completion.text),
                    "cleaned": cleaned.text != turn.completion.text,
                },
                "signals": candidate.signals,
            }
            yield json.dumps(example, separators=(",", ":"))
        tick(index + 1)


def _example_body(turn: Turn, cleaned: CleanTurn, vocabulary: Iterable[str]) -> dict[str, Any]:
    """Prompt verbatim and the cleaned turn; `history`: the cleaned form of earlier assistant turns, for
    the loss that trains on them too (a turn that the clean-up leaves nothing of is not listed)."""
    messages = [{"role": m.role, "content": m.content} for m in turn.messages]
    history = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            earlier = clean_turn(message["content"], vocabulary)
            if earlier.reason is None:
                history.append({"message": index, "text": earlier.text})
    last = len(messages)
    return {
        "messages": [*messages, {"role": "assistant", "content": cleaned.text}],
        "supervised": [{"message": last, "start": s, "end": e} for s, e in cleaned.spans],
        "history": history,
    }


def _token_ids(turns: Mapping[TurnKey, Turn], key: TurnKey) -> list[dict[str, Any]]:
    """The sampler's tokens of the assistant turns of an example, where the trace holds them: of the
    text as sampled, so what the clean-up took off the end is still at their end."""
    turn = turns[key]
    found, earlier = [], 0
    for index, message in enumerate(turn.messages):
        if message.role != "assistant":
            continue
        for number in range(earlier, key.turn):
            before = turns.get(TurnKey(key.t, key.phase, number))
            if before is not None and before.completion.text == message.content:
                found.append({"message": index, "ids": list(before.completion.token_ids)})
                earlier = number + 1
                break
    found.append({"message": len(turn.messages), "ids": list(turn.completion.token_ids)})
    return [entry for entry in found if entry["ids"]]


def _best_groups(table: CreditTable) -> list[dict[str, Any]]:
    ranked = sorted(table.groups.items(), key=lambda item: (-item[1].lower, item[0]))
    return [
        {"task": task, **dataclasses.asdict(group), "lower": group.lower}
        for (task, _), group in ranked[:GROUPS_REPORTED]
        if group.std_error < float("inf")
    ]


def _refuse_seeds(seeds: Iterable[int], forbidden: Iterable[int], path: str = "") -> None:
    clash = sorted(set(seeds) & set(forbidden))
    if clash:
        where = f"{path}: " if path else ""
        raise SelectionError(
            f"{where}seeds {', '.join(map(str, clash))} are kept for evaluation and may not be trained on; "
            "collect traces from config.seeds.collect_start on"
        )


def _fingerprint(
    paths: Sequence[str],
    config: SelectionConfig,
    vocabulary: frozenset[str] | None,
    wanted: Mapping[str, int],
) -> str:
    digest = hashlib.sha256(config_hash(config).encode())
    digest.update(json.dumps([sorted(vocabulary or OPERATIONS), sorted(wanted.items())]).encode())
    for path in paths:
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        digest.update(f"{os.path.basename(path)} {content}\n".encode())
    return digest.hexdigest()


def _finished(out: Path, fingerprint: str) -> SelectionReport | None:
    """The report of the same selection, where it is complete and its examples are as written."""
    try:
        report = SelectionReport(**json.loads((out / REPORT_FILE).read_text()))
        digest = hashlib.sha256((out / EXAMPLES_FILE).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError):
        return None
    matches = report.fingerprint == fingerprint and report.examples_sha256 == digest
    return dataclasses.replace(report, examples=str(out / EXAMPLES_FILE)) if matches else None


def _write_lines(path: Path, lines: Iterable[str]) -> str:
    """Writes a file that appears whole or not at all; returns its SHA-256."""
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for line in lines:
            data = line.encode() + b"\n"
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
