"""Which template is changed next, and which changes are judged: fresh attempts, or a population.

attempts    as in the paper: a revision starts from the best template so far and takes so many
            attempts until one is kept, a fresh one and its continuation in turn, each told what the
            ones before it did and what came of it.
population  a pool of templates, all played on the search seeds. Parents are drawn from those that win
            some seed; two of them that have changed different things are merged, which asks no architect.
            A proposal is played on a few search seeds first, and on all if it does better than its parent
            there. One that is clearly ahead there of the best so far is judged against it on the gate
            seeds at once; at the end the leader of the others is. What leads by a little mostly does not
            lead, and to judge it costs as much as several proposals (tools/compare_search.py).

Both read the ledger first: a proposal that has its row is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from automem_jax.agent.template import Template, template_hash
from automem_jax.architect.budget import BudgetSpent
from automem_jax.architect.merge import merge_templates
from automem_jax.architect.pool import Member, Pool, lead
from automem_jax.architect.proposal import NoProposal, Proposal, ProposalError, checked
from automem_jax.traces.schema import TraceError

if TYPE_CHECKING:
    from automem_jax.architect.evolve import Evolution

Row = dict[str, Any]

# Failures of the machine or the server, not of the template: they stop the loop, which can go on.
OUTSIDE_FAILURES = (OSError, MemoryError, TraceError, BudgetSpent)

SCREEN_SEEDS = 8  # search seeds a proposal is played on before the others
CLEAR_LEAD = 4.0  # standard errors on the search seeds that get a member of the pool judged at once


def attempts(run: Evolution) -> None:
    """Revisions from the best template, each with fresh attempts and continuations."""
    settings = run.config.architect
    for revision in range(1, settings.revisions + 1):
        for attempt in range(1, settings.attempts + 1):
            row = run.find(revision, attempt)
            if row is None:
                row = _attempt(run, revision, attempt)
            else:
                run.settle(row)
            if row["verdict"] == "exhausted":
                return
            if row["verdict"] == "kept":
                break


def _attempt(run: Evolution, revision: int, attempt: int) -> Row:
    """Proposes, gates and records one candidate."""
    parent = run.best
    name = f"{run.start.id}_r{revision}a{attempt}"
    row = _head(run, revision, attempt, name, parent.id)
    try:
        proposal = run.propose(run.context(parent, revision, attempt, name))
    except NoProposal as error:
        return run.record(row | _nothing(error))
    if proposal is None:
        return run.record(row | _EXHAUSTED)
    row |= run.accept(proposal, parent)
    return run.record(row | _judged(run, proposal.template))


def population(run: Evolution) -> None:
    """A pool of templates on the search seeds, its leaders judged on the gate seeds."""
    settings = run.config.architect
    pool = Pool(run.config.seed)
    pool.add(Member(run.start, run.play(run.start, "search", run.search_seeds).progression, ()))
    proposals = settings.revisions * settings.attempts
    for number in range(1, proposals + 1):
        row = run.find(number, 1)
        if row is None:
            row = _proposal(run, pool, number)
        else:
            run.settle(row)
        if row["verdict"] == "exhausted":
            pool.exhausted.add(row["parent"])
            if len(pool.exhausted) == len(pool.members):
                break
        if row.get("pooled"):
            template = run.templates[row["template"]]
            scores = run.play(template, "search", run.search_seeds).progression
            pool.add(Member(template, scores, tuple(row["parents"])))
        pool.tried(row)
    row = run.find(proposals + 1, 1)
    if row is None:
        _judge_leader(run, pool, proposals + 1)
    else:
        run.settle(row)


def _judge_leader(run: Evolution, pool: Pool, number: int) -> None:
    """At the end: the best of those whose lead on the search seeds was not put to the test yet."""
    judged = {row["template"] for row in run.ledger.rows if row.get("gate")}
    least = pool.mean_of(run.best.id)
    open_ = [m for m in pool.members.values() if m.template.id not in judged and m.mean > least]
    if not open_:
        return
    leader = max(open_, key=lambda member: member.mean)
    row = _head(run, number, 1, leader.template.id, *leader.parents)
    row |= {"template_hash": template_hash(leader.template), "pooled": True}
    run.record(row | {"search_mean": round(leader.mean, 6)} | _judged(run, leader.template))


def _proposal(run: Evolution, pool: Pool, number: int) -> Row:
    name = f"{run.start.id}_p{number}"
    pair = pool.pair_to_merge(number)
    if pair is not None:
        first, second, ancestor = pair
        row = _head(run, number, 1, name, first.template.id, second.template.id)
        data = merge_templates(ancestor.template, first.template, second.template)
        try:
            proposal = Proposal(
                template=checked(data, first.template, name),
                diagnosis=f"{first.template.id} and {second.template.id} win different seeds and "
                f"changed {ancestor.template.id} in different places",
                expected_effect="the seeds of both",
                edit="merge",
            )
        except ProposalError as error:
            return run.record(row | _nothing(NoProposal(f"merge: {error}")))
        parent = first
    else:
        parent = pool.draw_parent(number)
        row = _head(run, number, 1, name, parent.template.id)
        try:
            proposal = run.propose(run.context(parent.template, number, 1, name))
        except NoProposal as error:
            return run.record(row | _nothing(error))
        if proposal is None:
            return run.record(row | _EXHAUSTED)
    row |= run.accept(proposal, parent.template)
    return run.record(row | _screened(run, pool, parent, proposal, row))


def _screened(run: Evolution, pool: Pool, parent: Member, proposal: Proposal, row: Row) -> Row:
    """Plays a proposal on a few search seeds, on all, and on the gate seeds, as far as it gets."""
    candidate = proposal.template
    few = pool.screen(run.search_seeds, SCREEN_SEEDS, row["revision"])
    try:
        scores = run.play(candidate, "search", few).progression
        mine, its = (sum(s.get(seed, 0.0) for seed in few) for s in (scores, parent.scores))
        row = {"screen": {"seeds": len(few), "candidate": mine, "parent": its}, "gate": None}
        row |= {"verdict": "dropped", "pooled": False}
        if mine <= its:
            reason = f"progression {mine:.3f} on {len(few)} search seeds, its parent's {its:.3f}"
            return row | {"reason": reason}
        scores = run.play(candidate, "search", run.search_seeds).progression
    except OUTSIDE_FAILURES:
        raise
    except Exception as error:  # whatever a template makes the harness raise is its own loss
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return {"verdict": "dropped", "pooled": False, "gate": None, "reason": f"crashed: {reason}"}
    member, best = Member(candidate, scores), pool.members[run.best.id]
    ahead = lead(member, best)
    row |= {"pooled": True, "search_mean": round(member.mean, 6)}
    if ahead < CLEAR_LEAD:
        reason = (
            f"joins the pool: {member.mean:.3f} on the search seeds, the best template's {best.mean:.3f} "
            f"({ahead:+.1f} standard errors)"
        )
        return row | {"reason": reason}
    return row | _judged(run, candidate)


def _judged(run: Evolution, candidate: Template) -> Row:
    result = run.gate(candidate, run.best)
    return {
        "against": run.best.id,
        "gate": result.to_data(),
        "verdict": "kept" if result.kept else "dropped",
        "reason": result.reason,
    }


def _head(run: Evolution, revision: int, attempt: int, name: str, *parents: str) -> Row:
    return {
        "type": "candidate",
        "revision": revision,
        "attempt": attempt,
        "template": name,
        "parent": parents[0],
        "parents": list(parents),
        "parent_hash": template_hash(run.templates[parents[0]]),
    }


def _nothing(error: NoProposal) -> Row:
    return {"verdict": "dropped", "reason": str(error), "calls": error.calls, "gate": None}


_EXHAUSTED = {"verdict": "exhausted", "reason": "the architect has nothing more to propose"}

SEARCHES: dict[str, Callable[[Evolution], None]] = {
    "attempts": attempts,
    "population": population,
}
