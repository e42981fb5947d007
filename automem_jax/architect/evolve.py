"""Loop 1: search traces -> proposals -> gate -> ledger -> next proposal from the best.

This file holds what every search needs: episodes, verdicts, the budget, and the files of a run. Which
template is changed next is the business of architect.search. The ledger and what lies beside it decide
where to go on: killed anywhere and run again, the loop ends with the same ledger as an unbroken run.
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
from automem_jax.architect.budget import Budget, BudgetSpent, Limits, Spend
from automem_jax.architect.gate import Gate, GateResult, check_disjoint
from automem_jax.architect.ledger import Ledger, LedgerError, looks_at_seeds
from automem_jax.architect.proposal import (
    Architect,
    Context,
    Proposal,
    proposal_from_data,
    proposal_to_data,
    unified_diff,
)
from automem_jax.architect.propose import make_architect
from automem_jax.architect.review import model_price
from automem_jax.architect.search import OUTSIDE_FAILURES, SEARCHES, Row
from automem_jax.architect.sequential import AlphaWealth
from automem_jax.config import CONNECTION_FIELDS, ConfigError, ExperimentConfig, seed_sets
from automem_jax.evaluation.results import episode_result
from automem_jax.files import write_json
from automem_jax.policies.prices import load_prices
from automem_jax.traces.schema import TraceError
from automem_jax.traces.store import read_trace

RunTemplate = Callable[[Template, Sequence[int], Path], Iterable[Path]]
Say = Callable[[str], None]

_NOT_PLANNED = ("budget", "price", "replay", "bootstrap_samples")  # may change in a begun run


@dataclasses.dataclass(frozen=True)
class Scores:
    """Progression and trace by seed, and the seeds of failed episodes, which count at what they reached."""

    progression: dict[int, float] = dataclasses.field(default_factory=dict)
    traces: dict[int, Path] = dataclasses.field(default_factory=dict)
    failed: frozenset[int] = frozenset()

    def __or__(self, other: Scores) -> Scores:
        return Scores(
            self.progression | other.progression,
            self.traces | other.traces,
            self.failed | other.failed,
        )

    def of(self, seeds: Iterable[int]) -> Scores:
        """Those of these seeds, in their order."""
        wanted = [seed for seed in seeds if seed in self.progression]
        return Scores(
            {seed: self.progression[seed] for seed in wanted},
            {seed: self.traces[seed] for seed in wanted},
            self.failed & set(wanted),
        )


def evolve(
    config: ExperimentConfig,
    workdir: str | Path,
    run_template: RunTemplate,
    architect: Architect | None = None,
    *,
    template: Template | None = None,
    say: Say | None = None,
) -> Template:
    """Improves the config's template and returns the best one found.

    Where a cap of `architect.budget` is reached, it ends cleanly with what was kept; run again with a
    higher cap, it goes on.

    Args:
      run_template: plays one episode a seed under a template into a directory and returns the
        traces' paths, skipping finished episodes. An exception that is not the machine's fault
        counts as the candidate's crash, and the candidate loses.
      architect: proposes templates; unless given, the one the config names.
      template: where to start; unless given, the config's `agent.template`.
      say: told, in a line, what was judged and spent after every batch.

    Writes, under `workdir`: traces/search/<id>, traces/gate/<id>, and in evolve/: ledger.jsonl,
    templates/<id>.json, proposals/<id>.json, conversations/<id>.jsonl, clock.json, best.json.

    Raises:
      ConfigError: overlapping seed sets, an invalid start template, an unknown architect, or a cap in
        dollars without prices.
      LedgerError: the work directory holds an evolution with other settings.
      ArchitectError: the architect's server cannot be used; run again to go on.
    """
    check_disjoint(config.seeds)
    start = template or load_template(config.agent.template)
    check(start)
    check_prices(config)
    evolution = Evolution(config, Path(workdir), run_template, start, architect, say)
    return evolution.run()


def check_prices(config: ExperimentConfig) -> None:
    """Raises ConfigError where dollars are capped, and a server is asked whose price is not known."""
    if not config.architect.budget.dollars:
        return
    asked = []
    if config.architect.kind == "api" and model_price(config.architect) is None:
        asked.append("architect.api.prices or architect.price")
    if config.policy.kind != "local" and not config.policy.prices:
        asked.append("policy.prices")
    if asked:
        raise ConfigError(
            f"config.architect.budget.dollars: a cap needs prices; set {' and '.join(asked)}"
        )


def _attempt_in_words(search: str, attempt: int) -> str:
    """As in the paper, a fresh attempt that fails is followed by one continuation of it."""
    if search == "population":
        return "Its parent was drawn from a pool of templates; what others of the pool tried is in the brief."
    if attempt == 1:
        return "This is a fresh attempt."
    if attempt % 2:
        return (
            "This is a fresh attempt: those before it were not kept. Start anew from the current template, "
            "with another diagnosis than theirs."
        )
    return (
        f"This is a continuation of attempt {attempt - 1}, which was not kept. Go on from what it showed: "
        "mend its change, or take another one for the same diagnosis."
    )


class Evolution:
    """One run of the loop: where things are, what is known so far, and what may still be spent.

    Attributes:
      best: the best template so far. wealth: what is left of the chance of a wrong keep.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        workdir: Path,
        run_template: RunTemplate,
        start: Template,
        architect: Architect | None = None,
        say: Say | None = None,
    ):
        self.config, self.workdir, self.start = config, workdir, start
        self._run_template, self._architect = run_template, architect
        self._say = say or (lambda line: None)
        sets = seed_sets(config.seeds)
        self.search_seeds, self.gate_seeds = list(sets["search"]), list(sets["gate"])
        self.folder = workdir / "evolve"
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        self.best = start
        self.templates: dict[str, Template] = {start.id: start}
        tries = max(1, config.architect.revisions * config.architect.attempts)
        self.wealth = AlphaWealth(1.0 - config.architect.confidence, tries)
        self._played: dict[tuple[str, str], Scores] = {}  # by seed set and template, this process
        self._paid: dict[tuple[str, str], set[int]] = {}  # seeds charged, by any process
        for row in self.ledger.rows:
            if row.get("what") == "episodes":
                paid = self._paid.setdefault((row["set"], row["template"]), set())
                paid.update(row["seeds"])

    def run(self) -> Template:
        """Runs the search to its end, or to the end of the budget."""
        self._open_ledger()
        self.budget = Budget(
            Limits(**dataclasses.asdict(self.config.architect.budget)),
            self.ledger,
            self._prices(),
            self.folder / "clock.json",
        )
        self._write_template(self.start)
        try:
            SEARCHES[self.config.architect.search](self)
        except BudgetSpent as stop:
            return self._finish("stop", str(stop))
        finally:
            self.budget.save_clock()
        return self._finish("end")

    # What searches are made of.

    def find(self, revision: int, attempt: int) -> Row | None:
        """The ledger's verdict on this proposal; None where it was not made yet."""
        return self.ledger.find(type="candidate", revision=revision, attempt=attempt)

    def record(self, row: Row) -> Row:
        """Adds a candidate's row, and takes up what it decided."""
        row = self.ledger.append(row)
        self.settle(row)
        return row

    def settle(self, row: Row) -> None:
        """Takes up what a candidate's row decided: the best template, the wealth left."""
        gate = row.get("gate")
        if gate is None:
            self.wealth.skip()
        else:
            self.wealth.settle(row["verdict"] == "kept", gate["capital"])
        if row.get("template_hash"):
            self.templates[row["template"]] = self._read_template(row)
        if row["verdict"] == "kept":
            self.best = self.templates[row["template"]]
            self._write_best()

    def context(self, parent: Template, revision: int, attempt: int, name: str) -> Context:
        """What an architect may know who is to change `parent`; plays it on the search seeds."""
        played = {
            name: self.play(self.templates[name], "search", sorted(seeds))
            for (stage, name), seeds in list(self._paid.items())
            if stage == "search" and name in self.templates
        }
        played[parent.id] = self.play(parent, "search", self.search_seeds)
        runs = {name: sorted(scores.traces.values()) for name, scores in played.items()}
        traces = runs[parent.id]
        gate = sorted((self.workdir / "traces" / "gate").glob("*/*.jsonl"))
        return Context(
            env=self.config.env.name,
            task=self.config.env.task,
            instructions=read_trace(traces[0]).header.get("instructions", "") if traces else "",
            revision=revision,
            attempt=attempt,
            candidate_id=name,
            template=parent,
            brief=make_brief(parent, (read_trace(path) for path in traces)),
            traces=traces,
            history=[row for row in self.ledger.rows if row["type"] == "candidate"],
            budget=self.budget,
            conversation=self.folder / "conversations" / f"{name}.jsonl",
            gate_traces=gate,
            runs=runs,
            templates=dict(self.templates),
            seeds=seed_sets(self.config.seeds),
            note=_attempt_in_words(self.config.architect.search, attempt),
        )

    def propose(self, context: Context) -> Proposal | None:
        """A proposal is on disk before it is played, so that a resumed run pays for it once.

        Raises:
          NoProposal, ArchitectError: see Architect. BudgetSpent: nothing may be spent any more.
        """
        path = self.folder / "proposals" / f"{context.candidate_id}.json"
        if path.exists():
            return proposal_from_data(json.loads(path.read_text(encoding="utf-8")))
        self.budget.require()
        self._architect = self._architect or make_architect(self.config.architect, self.config.env)
        proposal = self._architect.propose(context)
        if proposal is not None:
            write_json(path, proposal_to_data(proposal))
        return proposal

    def accept(self, proposal: Proposal, parent: Template) -> Row:
        """Writes the candidate's file and returns what its row says before any verdict."""
        candidate = proposal.template
        self._write_template(candidate)
        return {
            "template_hash": template_hash(candidate),
            "edit": proposal.edit,
            "diagnosis": proposal.diagnosis,
            "expected_effect": proposal.expected_effect,
            "calls": proposal.calls,
            "structural_changes": structural_change(parent, candidate),
            "diff": unified_diff(parent, candidate),
        }

    def play(self, template: Template, stage: str, seeds: Sequence[int]) -> Scores:
        """One episode a seed; finished ones are taken from disk, the others paid for.

        Raises:
          BudgetSpent: the episodes would go beyond a cap.
        """
        known = self._played.get((stage, template.id), Scores())
        due = [seed for seed in seeds if seed not in known.progression]
        if due:
            paid = self._paid.setdefault((stage, template.id), set())
            unpaid = [seed for seed in due if seed not in paid]
            if unpaid:
                self.budget.require(self._expected(len(unpaid)))
            folder = self.workdir / "traces" / stage / template.id
            try:
                paths = list(self._run_template(template, due, folder))
            except OUTSIDE_FAILURES:
                raise
            except Exception:
                self._charge(stage, template, unpaid, Spend(episodes=len(unpaid)))
                raise
            fresh, spend = self._read_episodes(paths, unpaid)
            self._charge(stage, template, unpaid, spend)
            known = known | fresh.of(due)
            self._played[stage, template.id] = known
        return known.of(seeds)

    def gate(self, candidate: Template, parent: Template) -> GateResult:
        """Judges a candidate against its parent, batch by batch; every look is a row of the ledger.

        Raises:
          BudgetSpent: before it was decided. Nothing is lost: run again, it goes on from there.
        """
        gate = Gate(self.gate_seeds, self.wealth.stake(), self.config.architect.gate)
        failed = {"candidate": 0, "baseline": 0}
        while gate.kept is None:
            batch = gate.next_batch()
            base = self._baseline(parent, batch)
            failed["baseline"] += len(base.failed)
            scores = Scores()
            try:
                scores = self.play(candidate, "gate", batch)
            except OUTSIDE_FAILURES:
                raise
            except (
                Exception
            ) as error:  # whatever a template makes the harness raise is its own loss
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                gate.crash(base.progression, reason)
            else:
                gate.add(base.progression, scores.progression)
            failed["candidate"] += len(scores.failed) + len(batch) - len(scores.progression)
            self._look(candidate, parent, batch, gate)
        samples = self.config.architect.bootstrap_samples
        return gate.result(failed["candidate"], failed["baseline"], samples)

    def say(self, line: str) -> None:
        """Tells a line, and what was spent so far."""
        spent = self.budget.spent()
        parts = [f"{spent.episodes:,} episodes", f"{spent.wall_s:,.0f} s"]
        if spent.calls or spent.tokens:
            parts.insert(1, f"{spent.calls:,} calls, {spent.tokens:,} tokens")
            parts.insert(2, f"{spent.dollars:,.4f} USD" + (" +?" if spent.unpriced else ""))
        self._say(f"{line}; spent {', '.join(parts)}")

    def _baseline(self, parent: Template, batch: Sequence[int]) -> Scores:
        base = self.play(parent, "gate", batch)
        missing = [seed for seed in batch if seed not in base.progression]
        if missing:
            raise TraceError(
                f"{self.workdir / 'traces' / 'gate' / parent.id}: no trace for gate seed "
                f"{missing[0]}; the parent must be played on every gate seed"
            )
        return base

    def _look(
        self, candidate: Template, parent: Template, batch: Sequence[int], gate: Gate
    ) -> None:
        result = gate.result(samples=1).to_data()
        row = {"type": "look", "template": candidate.id, "parent": parent.id, "seeds": list(batch)}
        row |= {name: result[name] for name in ("n", "mean_difference", "interval", "capital")}
        if self.ledger.find(type="look", template=candidate.id, n=row["n"]) is None:
            self.ledger.append(row)
        low, high = row["interval"]
        self.say(
            f"gate {candidate.id}: {row['n']} of {result['most']} pairs, "
            f"{100 * row['mean_difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        )

    def _charge(self, stage: str, template: Template, seeds: Sequence[int], spend: Spend) -> None:
        if seeds:
            self._paid.setdefault((stage, template.id), set()).update(seeds)
            facts = {"what": "episodes", "set": stage, "template": template.id}
            key = f"{stage}/{template.id}/{_named(seeds)}"
            self.budget.charge(key, spend, **facts, seeds=list(seeds))

    def _read_episodes(self, paths: Iterable[Path], unpaid: Sequence[int]) -> tuple[Scores, Spend]:
        scores, traces, failed = {}, {}, set()
        prompt = completion = 0
        for path in paths:
            result = episode_result(read_trace(path))
            scores[result.seed], traces[result.seed] = result.progression, Path(path)
            if result.failed:
                failed.add(result.seed)
            if result.seed in unpaid:
                prompt += result.tokens["prompt"]
                completion += result.tokens["completion"]
        spend = Spend(episodes=len(unpaid))
        if self.config.policy.kind != "local":
            price = self._prices().get(self.config.policy.model)
            dollars = price.cost_usd(prompt, completion) if price else 0.0
            spend = dataclasses.replace(
                spend, dollars=dollars, prompt_tokens=prompt, completion_tokens=completion
            )
        return Scores(scores, traces, frozenset(failed)), spend

    def _expected(self, episodes: int) -> Spend:
        """What so many episodes will cost, by those already paid for."""
        rows = [row["spend"] for row in self.ledger.rows if row.get("what") == "episodes"]
        played = sum(row.get("episodes", 0) for row in rows)
        share = episodes / played if played else 0.0
        return Spend(
            episodes=episodes,
            dollars=share * sum(row.get("dollars", 0.0) for row in rows),
            prompt_tokens=int(share * sum(row.get("prompt_tokens", 0) for row in rows)),
            completion_tokens=int(share * sum(row.get("completion_tokens", 0) for row in rows)),
        )

    def _prices(self) -> dict[str, Any]:
        policy, architect = self.config.policy, self.config.architect
        prices = load_prices(policy.prices, (policy.model,)) if policy.kind != "local" else {}
        price = model_price(architect) if architect.kind == "api" else None
        return prices | ({architect.api.model: price} if price else {})

    def _open_ledger(self) -> None:
        """The first row pins what the run depends on; a resumed run must depend on the same."""
        architect = dataclasses.asdict(self.config.architect)
        for name in CONNECTION_FIELDS:
            architect["api"].pop(name)
        for name in _NOT_PLANNED:
            architect.pop(name)
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

    def _write_template(self, template: Template) -> None:
        write_json(self.folder / "templates" / f"{template.id}.json", to_data(template))

    def _read_template(self, row: Mapping[str, Any]) -> Template:
        path = self.folder / "templates" / f"{row['template']}.json"
        template = load_template(path)
        if template_hash(template) != row["template_hash"]:
            raise LedgerError(
                f"{path}: differs from the template the ledger records; restore the file"
            )
        return template

    def _write_best(self) -> None:
        write_json(self.folder / "best.json", to_data(self.best))

    def _finish(self, kind: str, reason: str = "") -> Template:
        """The last row: where the run stands, what it spent and how often each seed was looked at."""
        self._write_best()
        spend = {k: v for k, v in dataclasses.asdict(self.budget.spent()).items() if k != "wall_s"}
        row = {"type": kind, "template": self.best.id, "template_hash": template_hash(self.best)}
        row |= {"reason": reason} if reason else {}
        row |= {"spend": spend, "looks": looks_at_seeds(self.ledger.rows)}
        last = [row for row in self.ledger.rows if row["type"] != "heldout"][-1]
        if last["type"] not in ("end", "stop") or (last["type"], kind) == ("stop", "end"):
            self.ledger.append(row)
        if reason:
            self.say(f"stopped with {self.best.id}: {reason}")
        return self.best


def _named(seeds: Iterable[int]) -> str:
    """Runs of seeds in words: 200-207,210."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)


def _span(seeds: Sequence[int]) -> list[int]:
    return [seeds[0], len(seeds)] if seeds else []
