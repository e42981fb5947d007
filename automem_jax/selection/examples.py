"""Selection from end to end: traces -> judged decisions -> examples.jsonl and selection.json.

Two passes over the traces: the first follows lineages and measures, the second copies out the prompts of
what was chosen. Kind lineage goes by credit alone, kind signals by all signals (by_signals.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automem_jax.agent.grammar import OPERATIONS
from automem_jax.config import SelectionConfig, config_hash
from automem_jax.files import atomic_file
from automem_jax.selection import by_signals
from automem_jax.selection.by_signals import (
    TABLE_FILE,
    Rejections,
    concentration,
    coverage,
)
from automem_jax.selection.cleanup import CleanTurn, clean_turn
from automem_jax.selection.credit import Credit, CreditTable
from automem_jax.selection.filters import cap, idle, invalid, is_memory_turn
from automem_jax.selection.lineage import EpisodeLineage, TurnRecord
from automem_jax.selection.scan import Scan, in_processes
from automem_jax.selection.signals import EpisodeSignals
from automem_jax.selection.verbatim import (
    Candidate,
    SelectionError,
    example_lines,
)

KINDS = ("lineage", "signals", "random")
EXAMPLES_FILE = "examples.jsonl"
REPORT_FILE = "selection.json"
GROUPS_REPORTED = 20


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
      details: concentration, coverage of prompt shapes, examples of what was rejected; of kind signals
        also the signals measured and their agreement.
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
    details: dict[str, Any] = field(default_factory=dict)


def select(
    trace_paths: Sequence[str | Path],
    config: SelectionConfig,
    out_dir: str | Path,
    *,
    memory_ops: Iterable[str] | None = None,
    forbidden_seeds: Iterable[int] = (),
    match: str | Path | None = None,
    episodes: Sequence[EpisodeSignals] | None = None,
    counterfactual: str | Path | None = None,
    ratings: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SelectionReport:
    """Chooses decisions worth training on and writes them, with a report, into `out_dir`.

    Work that is finished for the same traces and settings is not done again. Kind signals also writes
    signals.jsonl: every decision with all that is known of it.

    Args:
      trace_paths: trace files of finished episodes (unfinished ones are counted and left out).
      config: kind "lineage", "signals", or "random": the control, drawn uniformly from all valid memory
        turns of the same traces in the number and mix of phases of `match`.
      memory_ops: names of the memory operations; None for those of the template that was played.
      forbidden_seeds: environment seeds that training must never see.
      match: selection.json of the selection that a control matches.
      episodes: what `scan_signals` found in the same traces, where that was done already.
      counterfactual, ratings: tables measured on these traces, for kind signals; see by_signals.score.
      progress: called with traces read and traces to read (each is read twice at most).

    Raises:
      SelectionError: a forbidden seed, an unknown kind, a control without `match`, or too little to keep.
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
    measured = [path for path in (counterfactual, ratings) if path is not None]
    fingerprint = _fingerprint(paths, config, vocabulary, wanted, measured)
    finished = _finished(out, fingerprint)
    if finished is not None:
        _refuse_seeds(finished.seeds, forbidden_seeds)
        return finished

    tick = progress or (lambda done, total: None)
    rejected: Counter[str] = Counter()
    short: dict[str, int] = {}
    details: dict[str, Any] = {}
    table: Iterable[str] = ()
    if config.kind == "signals":
        if episodes is None:
            episodes = scan_signals(
                paths,
                config,
                memory_ops=vocabulary,
                forbidden_seeds=forbidden_seeds,
                progress=lambda done: tick(done, 2 * len(paths)),
            )
        lineages = [episode.lineage for episode in episodes]
        scored = by_signals.score(episodes, config, counterfactual, ratings)
        considered = len(scored)
        chosen, details = by_signals.pick(scored, config, rejected)
        kept = [
            Candidate(
                one.episode.lineage.trace,
                one.decision.key,
                one.episode.lineage.task,
                one.decision.text,
                one.score,
                by_signals.example_signals(one),
            )
            for one in chosen
        ]
        table = by_signals.table_rows(scored, chosen, out)
        groups = _best_groups(CreditTable(lineages))
    else:
        lineages = _scan(
            paths, config, Scan(), forbidden_seeds, lambda done: tick(done, 2 * len(paths))
        )
        credits = CreditTable(lineages)
        candidates, shapes, shown = _candidates(lineages, credits, config, vocabulary, rejected)
        considered = len(shapes)
        if config.kind == "lineage":
            kept = cap(candidates, config, rejected)
        else:
            kept, short = _draw(candidates, wanted, config.seed)
            rejected["not_drawn"] += len(candidates) - len(kept)
        groups = _best_groups(credits)
        details = {
            "shapes": coverage(shapes, [c.signals["shape"] for c in kept]),
            "rejected_examples": shown.examples,
        }
    if len(kept) < config.min_examples:
        reasons = ", ".join(f"{reason} {n}" for reason, n in rejected.most_common())
        few = f"only {len(kept)}" if kept else "none"
        raise SelectionError(
            f"{few} of {considered} memory turns in {len(lineages)} episodes was kept "
            f"({reasons or 'no turns'}); collect more episodes or lower "
            f"selection.{'min_score' if config.kind == 'signals' else 'min_credit'}"
        )
    kept = sorted(kept, key=lambda c: (c.trace, c.key.t, c.key.phase, c.key.turn))
    out.mkdir(parents=True, exist_ok=True)
    lines = example_lines(
        kept, out, vocabulary, config.workers, lambda n: tick(len(paths) + n, 2 * len(paths))
    )
    digest = _write_lines(out / EXAMPLES_FILE, lines)
    if config.kind == "signals":
        _write_lines(out / TABLE_FILE, table)
    texts = Counter(c.text for c in kept)
    report = SelectionReport(
        kind=config.kind,
        examples=str(out / EXAMPLES_FILE),
        count=len(kept),
        phases=dict(sorted(Counter(c.phase for c in kept).items())),
        traces=len(lineages),
        unfinished=len(paths) - len(lineages),
        episodes_used=len({c.trace for c in kept}),
        memory_turns=considered,
        rejected={reason: n for reason, n in rejected.most_common() if n},
        operations=dict(Counter(op for c in kept for op in c.signals["operations"]).most_common()),
        tasks=dict(Counter(c.task for c in kept).most_common()),
        repeated_texts={"distinct": len(texts), "largest_share": max(texts.values()) / len(kept)},
        groups=groups,
        seeds=sorted({e.seed for e in lineages}),
        config=json.loads(json.dumps(dataclasses.asdict(config))),
        fingerprint=fingerprint,
        examples_sha256=digest,
        short=short,
        details={"concentration": concentration([c.trace for c in kept])} | details,
    )
    _write_lines(out / REPORT_FILE, [json.dumps(dataclasses.asdict(report), indent=1)])
    return report


def scan_signals(
    trace_paths: Sequence[str | Path],
    config: SelectionConfig,
    *,
    memory_ops: Iterable[str] | None = None,
    forbidden_seeds: Iterable[int] = (),
    progress: Callable[[int], None] | None = None,
) -> list[EpisodeSignals]:
    """Measures finished traces, for `select` and for what spends a budget on their decisions.

    Raises:
      SelectionError: a forbidden seed.
    """
    paths = sorted(str(path) for path in trace_paths)
    vocabulary = None if memory_ops is None else frozenset(memory_ops)
    scan = Scan(True, config.horizon, config.discount, vocabulary)
    return _scan(paths, config, scan, forbidden_seeds, progress or (lambda done: None))


def _scan(
    paths: Sequence[str],
    config: SelectionConfig,
    scan: Scan,
    forbidden_seeds: Iterable[int],
    tick: Callable[[int], None],
) -> list[Any]:
    forbidden = frozenset(forbidden_seeds)
    found = []
    for number, (path, (seed, episode)) in enumerate(
        zip(paths, in_processes(scan, paths, paths, config.workers), strict=True), start=1
    ):
        _refuse_seeds([seed], forbidden, path)
        if episode is not None:
            found.append(episode)
        tick(number)
    return found


def _candidates(
    episodes: Sequence[EpisodeLineage],
    table: CreditTable,
    config: SelectionConfig,
    vocabulary: frozenset[str] | None,
    rejected: Counter[str],
) -> tuple[list[Candidate], list[str], Rejections]:
    """What may be kept, the prompt shapes of all memory decisions, and some that may not."""
    candidates, shapes, shown = [], [], Rejections()
    for episode in episodes:
        for turn in episode.turns:
            if not is_memory_turn(episode, turn):
                continue
            shapes.append(turn.shape)
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
                values = {"credit": credit.value} if credit.reason is None else {}
                shown.add(reason, episode.episode, turn.key, turn.text, values)
                continue
            candidates.append(_candidate(episode, turn, cleaned, credit))
    return candidates, shapes, shown


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
        "shape": turn.shape,
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
    measured: Sequence[str | Path],
) -> str:
    config = dataclasses.replace(config, workers=0)  # how it is read, not what is chosen
    digest = hashlib.sha256(config_hash(config).encode())
    digest.update(json.dumps([sorted(vocabulary or OPERATIONS), sorted(wanted.items())]).encode())
    for path in (*paths, *map(str, measured)):
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
