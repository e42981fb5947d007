"""Loop 1: search traces -> proposals -> gate -> ledger -> next revision from the best.

The ledger and what lies beside it decide where to go on: killed anywhere and run again, the loop ends
with the same ledger as an unbroken run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from automem_jax.agent.template import (
    Template,
    load_template,
    structural_change,
    template_hash,
    to_data,
)
from automem_jax.agent.validate import check
from automem_jax.architect.brief import make_brief
from automem_jax.architect.gate import GateResult, check_disjoint, judge
from automem_jax.architect.ledger import Ledger, LedgerError
from automem_jax.architect.proposal import (
    Architect,
    Context,
    NoProposal,
    Proposal,
    proposal_from_data,
    proposal_to_data,
    unified_diff,
)
from automem_jax.architect.propose import make_architect
from automem_jax.config import CONNECTION_FIELDS, ExperimentConfig, seed_sets
from automem_jax.evaluation.results import episode_result
from automem_jax.files import write_json
from automem_jax.traces.schema import TraceError
from automem_jax.traces.store import read_trace

RunTemplate = Callable[[Template, Sequence[int], Path], Iterable[Path]]

# Failures of the machine or the server, not of the template: they stop the loop, which can go on.
_OUTSIDE_FAILURES = (OSError, MemoryError, TraceError)


@dataclasses.dataclass(frozen=True)
class _Scores:
    progression: dict[int, float]
    failed: int


def evolve(
    config: ExperimentConfig,
    workdir: str | Path,
    run_template: RunTemplate,
    architect: Architect | None = None,
    *,
    template: Template | None = None,
) -> Template:
    """Improves the config's template and returns the best one found.

    Args:
      run_template: plays one episode a seed under a template into a directory and returns the
        traces' paths, skipping finished episodes. An exception that is not the machine's fault
        counts as the candidate's crash, and the candidate loses.
      architect: proposes templates; unless given, the one the config names.
      template: where to start; unless given, the config's `agent.template`.

    Writes, under `workdir`: traces/search/<id>, traces/gate/<id>, evolve/ledger.jsonl,
    evolve/templates/<id>.json, evolve/proposals/<id>.json, evolve/best.json.

    Raises:
      ConfigError: overlapping seed sets, an invalid start template, or an unknown architect.
      LedgerError: the work directory holds an evolution with other settings.
      ArchitectError: the architect's server cannot be used; run again to go on.
    """
    check_disjoint(config.seeds)
    start = template or load_template(config.agent.template)
    check(start)
    return _Evolution(config, Path(workdir), run_template, start).run(architect)


class _Evolution:
    """One run of the loop; holds where things are and what is known so far."""

    def __init__(
        self, config: ExperimentConfig, workdir: Path, run_template: RunTemplate, start: Template
    ):
        self.config = config
        self.workdir = workdir
        self.run_template = run_template
        self.start = start
        sets = seed_sets(config.seeds)
        self.search_seeds, self.gate_seeds = list(sets["search"]), list(sets["gate"])
        self.folder = workdir / "evolve"
        self.ledger = Ledger(self.folder / "ledger.jsonl")

    def run(self, architect: Architect | None) -> Template:
        self._open_ledger()
        best = self.start
        self._write_template(best)
        scores = self._baseline()
        for revision in range(1, self.config.architect.revisions + 1):
            context = None
            for attempt in range(1, self.config.architect.attempts + 1):
                row = self.ledger.find(type="candidate", revision=revision, attempt=attempt)
                if row is None:
                    architect = architect or make_architect(self.config.architect)
                    context = context or self._review(best)
                    row = self._attempt(architect, context, revision, attempt, scores)
                if row["verdict"] == "exhausted":
                    return self._finish(best)
                if row["verdict"] == "kept":
                    best = self._read_template(row)
                    scores = self._scores(self._gate_traces(best))
                    self._write_best(best)
                    break
        return self._finish(best)

    def _open_ledger(self) -> None:
        """The first row pins what the run depends on; a resumed run must depend on the same."""
        architect = dataclasses.asdict(self.config.architect)
        for name in CONNECTION_FIELDS:
            architect["api"].pop(name)
        plan = {
            "type": "start",
            "template": self.start.id,
            "template_hash": template_hash(self.start),
            "env": self.config.env.name,
            "task": self.config.env.task,
            "seeds": {"search": _span(self.search_seeds), "gate": _span(self.gate_seeds)},
            "architect": architect,
        }
        digest = json.dumps(plan, sort_keys=True).encode()
        plan["plan_hash"] = hashlib.sha256(digest).hexdigest()[:16]
        if not self.ledger.rows:
            self.ledger.append(plan)
        elif self.ledger.rows[0].get("plan_hash") != plan["plan_hash"]:
            raise LedgerError(
                f"{self.ledger.path}: holds an evolution with another template, seeds or architect; "
                "use another work directory, or move evolve/ and traces/ away"
            )

    def _baseline(self) -> _Scores:
        scores = self._scores(self._gate_traces(self.start))
        missing = [s for s in self.gate_seeds if s not in scores.progression]
        if missing:
            raise TraceError(
                f"{self.workdir / 'traces' / 'gate' / self.start.id}: no trace for gate seed "
                f"{missing[0]}; the baseline must be run on every gate seed"
            )
        if self.ledger.find(type="baseline") is None:
            values = list(scores.progression.values())
            self.ledger.append(
                {
                    "type": "baseline",
                    "revision": 0,
                    "template": self.start.id,
                    "template_hash": template_hash(self.start),
                    "n": len(values),
                    "mean": sum(values) / len(values),
                    "failed": scores.failed,
                }
            )
        return scores

    def _review(self, best: Template) -> Context:
        folder = self.workdir / "traces" / "search" / best.id
        paths = list(self.run_template(best, self.search_seeds, folder))
        brief = make_brief(best, (read_trace(path) for path in paths))
        instructions = read_trace(paths[0]).header.get("instructions", "") if paths else ""
        return Context(
            env=self.config.env.name,
            task=self.config.env.task,
            instructions=instructions,
            revision=0,
            attempt=0,
            candidate_id="",
            template=best,
            brief=brief,
            traces=paths,
        )

    def _attempt(
        self,
        architect: Architect,
        review: Context,
        revision: int,
        attempt: int,
        scores: _Scores,
    ) -> dict[str, Any]:
        """Proposes, gates and records one candidate."""
        parent = review.template
        candidate_id = f"{self.start.id}_r{revision}a{attempt}"
        row: dict[str, Any] = {
            "type": "candidate",
            "revision": revision,
            "attempt": attempt,
            "template": candidate_id,
            "parent": parent.id,
            "parent_hash": template_hash(parent),
        }
        context = dataclasses.replace(
            review,
            revision=revision,
            attempt=attempt,
            candidate_id=candidate_id,
            history=[r for r in self.ledger.rows if r["type"] == "candidate"],
        )
        try:
            proposal = self._propose(architect, context)
        except NoProposal as error:
            row |= {"verdict": "dropped", "reason": str(error), "calls": error.calls, "gate": None}
            return self.ledger.append(row)
        if proposal is None:
            row |= {"verdict": "exhausted", "reason": "the architect has nothing more to propose"}
            return self.ledger.append(row)
        candidate = proposal.template
        self._write_template(candidate)
        result = self._gate(candidate, scores)
        row |= {
            "template_hash": template_hash(candidate),
            "edit": proposal.edit,
            "diagnosis": proposal.diagnosis,
            "expected_effect": proposal.expected_effect,
            "calls": proposal.calls,
            "structural_changes": structural_change(parent, candidate),
            "diff": unified_diff(parent, candidate),
            "gate": result.to_data(),
            "verdict": "kept" if result.kept else "dropped",
            "reason": result.reason,
        }
        return self.ledger.append(row)

    def _propose(self, architect: Architect, context: Context) -> Proposal | None:
        """A proposal is on disk before it is gated, so that a resumed run pays for it once."""
        path = self.folder / "proposals" / f"{context.candidate_id}.json"
        if path.exists():
            return proposal_from_data(json.loads(path.read_text(encoding="utf-8")))
        proposal = architect.propose(context)
        if proposal is not None:
            write_json(path, proposal_to_data(proposal))
        return proposal

    def _gate(self, candidate: Template, baseline: _Scores) -> GateResult:
        crashed = None
        scores = _Scores({}, 0)
        try:
            scores = self._scores(self._gate_traces(candidate))
        except _OUTSIDE_FAILURES:
            raise
        except Exception as error:  # whatever a template makes the harness raise is its own loss
            crashed = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        unplayed = len(self.gate_seeds) - len(scores.progression)
        return judge(
            baseline.progression,
            scores.progression,
            self.gate_seeds,
            confidence=self.config.architect.confidence,
            samples=self.config.architect.bootstrap_samples,
            seed=self.config.seed,
            candidate_failed=scores.failed + unplayed,
            baseline_failed=baseline.failed,
            crashed=crashed,
        )

    def _gate_traces(self, template: Template) -> list[Path]:
        folder = self.workdir / "traces" / "gate" / template.id
        return list(self.run_template(template, self.gate_seeds, folder))

    def _scores(self, paths: Iterable[Path]) -> _Scores:
        wanted = set(self.gate_seeds)
        progression: dict[int, float] = {}
        failed = 0
        for path in paths:
            result = episode_result(read_trace(path))
            if result.seed in wanted:
                progression[result.seed] = result.progression
                failed += result.failed
        return _Scores(progression, failed)

    def _write_template(self, template: Template) -> None:
        write_json(self.folder / "templates" / f"{template.id}.json", to_data(template))

    def _read_template(self, row: Mapping[str, Any]) -> Template:
        path = self.folder / "templates" / f"{row['template']}.json"
        template = load_template(path)
        if template_hash(template) != row["template_hash"]:
            raise LedgerError(
                f"{path}: differs from the template the ledger kept; restore the file"
            )
        return template

    def _write_best(self, best: Template) -> None:
        write_json(self.folder / "best.json", to_data(best))

    def _finish(self, best: Template) -> Template:
        self._write_best(best)
        if self.ledger.find(type="end") is None:
            self.ledger.append(
                {"type": "end", "template": best.id, "template_hash": template_hash(best)}
            )
        return best


def _span(seeds: Sequence[int]) -> list[int]:
    return [seeds[0], len(seeds)] if seeds else []
