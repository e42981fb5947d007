"""What architects get and give: a context in, a checked proposal out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from automem_jax.agent.template import (
    Template,
    from_data,
    structural_change,
    to_data,
    to_json,
)
from automem_jax.agent.validate import check
from automem_jax.architect.brief import Brief
from automem_jax.architect.budget import Budget
from automem_jax.config import ConfigError


class ArchitectError(RuntimeError):
    """An architect cannot work at all (server, key, package). One line; running again goes on."""


class NoProposal(ValueError):
    """An attempt that gave no usable template. `calls` counts the answers paid for."""

    def __init__(self, message: str, calls: int = 0):
        super().__init__(message)
        self.calls = calls


class ProposalError(ValueError):
    """A template is not acceptable; the message names the place and the mend."""


@dataclass(frozen=True)
class Context:
    """Everything an architect may know when it proposes.

    Attributes:
      env, task, instructions: the environment in words.
      revision, attempt: both from 1.
      candidate_id: id the proposed template gets.
      template: the best template so far, the parent of the proposal.
      brief: statistics of its traces on the search seeds.
      traces: those traces' files.
      history: ledger rows of earlier candidates, oldest first.
      budget: what the architect may still spend; None: no limit, nothing recorded.
      conversation: file for the answers paid for so far, so that a resumed attempt replays them;
        None: nothing is kept.
      gate_traces: traces of gate episodes, for the leakage audit alone: no architect may see them.
      runs, templates: search-seed traces, and the templates themselves, by template id, of every
        template that was played on them; the parent's own alone unless given.
      seeds: the run's seed sets by name, for the audit: none of them may stand in a template.
      note: what this attempt is (fresh, a continuation, a merge), in words.
    """

    env: str
    task: str
    revision: int
    attempt: int
    candidate_id: str
    template: Template
    brief: Brief
    traces: Sequence[Path] = ()
    history: Sequence[Mapping[str, Any]] = ()
    instructions: str = ""
    budget: Budget | None = None
    conversation: Path | None = None
    gate_traces: Sequence[Path] = ()
    runs: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    templates: Mapping[str, Template] = field(default_factory=dict)
    seeds: Mapping[str, range] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Proposal:
    """A checked candidate.

    Attributes:
      template: valid, and structurally different from its parent.
      diagnosis: what the architect saw. expected_effect: what it hopes for.
      edit: the catalog's name for the edit; empty for a written template.
      calls: API answers used.
    """

    template: Template
    diagnosis: str
    expected_effect: str = ""
    edit: str = ""
    calls: int = 0


class Architect(Protocol):
    """Proposes templates."""

    def propose(self, context: Context) -> Proposal | None:
        """The next proposal; None when there is nothing more to try.

        Raises:
          NoProposal: this attempt failed; another may follow.
          ArchitectError: no attempt can succeed now.
        """


def checked(data: Mapping[str, Any], parent: Template, candidate_id: str) -> Template:
    """Builds a candidate from nested data and checks it. Nothing in it is executed.

    Id, parent and environment are ours to give, whatever the data says.

    Raises:
      ProposalError: unknown keys, wrong kinds, an invalid template, or no structural change.
    """
    if not isinstance(data, Mapping):
        raise ProposalError(f"template: expected a JSON object, got {type(data).__name__}")
    named = {**data, "id": candidate_id, "parent": parent.id, "env": parent.env}
    try:
        template = from_data(named)
        check(template)
    except ConfigError as error:
        raise ProposalError(str(error)) from error
    except RecursionError:
        raise ProposalError("template: nested too deeply") from None
    if not structural_change(parent, template):
        raise ProposalError(
            "template: differs from the current one in wording only; change at least one of files, "
            "slots, phases, observers, actions or limits"
        )
    return template


def unified_diff(parent: Template, candidate: Template) -> str:
    """Unified diff of the two templates' JSON."""
    lines = difflib.unified_diff(
        to_json(parent).splitlines(),
        to_json(candidate).splitlines(),
        parent.id,
        candidate.id,
        n=2,
        lineterm="",
    )
    return "\n".join(lines)


def proposal_to_data(proposal: Proposal) -> dict[str, Any]:
    """JSON-ready form of a proposal."""
    return {
        "diagnosis": proposal.diagnosis,
        "expected_effect": proposal.expected_effect,
        "edit": proposal.edit,
        "calls": proposal.calls,
        "template": to_data(proposal.template),
    }


def proposal_from_data(data: Mapping[str, Any]) -> Proposal:
    """Reads back what `proposal_to_data` wrote."""
    return Proposal(
        template=from_data(data["template"]),
        diagnosis=data["diagnosis"],
        expected_effect=data["expected_effect"],
        edit=data["edit"],
        calls=data["calls"],
    )
