"""Loop 1: an architect rewrites the memory template, and a gate decides what stays."""

from automem_jax.architect.brief import Brief, make_brief
from automem_jax.architect.budget import Budget, BudgetSpent, Limits
from automem_jax.architect.catalog import CatalogArchitect
from automem_jax.architect.evolve import evolve
from automem_jax.architect.gate import Gate, GateResult, check_disjoint, judge
from automem_jax.architect.ledger import Ledger, LedgerError, read_ledger
from automem_jax.architect.proposal import (
    Architect,
    ArchitectError,
    Context,
    NoProposal,
    Proposal,
    ProposalError,
)
from automem_jax.architect.propose import make_architect
from automem_jax.architect.review import ApiArchitect

__all__ = [
    "ApiArchitect",
    "Architect",
    "ArchitectError",
    "Brief",
    "Budget",
    "BudgetSpent",
    "CatalogArchitect",
    "Context",
    "Gate",
    "GateResult",
    "Ledger",
    "LedgerError",
    "Limits",
    "NoProposal",
    "Proposal",
    "ProposalError",
    "check_disjoint",
    "evolve",
    "judge",
    "make_architect",
    "make_brief",
    "read_ledger",
]
