"""The policy contract: prompts in, completions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from automem_jax.text.messages import Completion, Request


class Policy(Protocol):
    """Answers batches of requests. Order of the answers is the order of the requests."""

    max_batch: int  # how many requests `complete` serves at once without queueing

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers every request; a failed call is a Completion with finish_reason "error"."""

    def describe(self) -> dict[str, Any]:
        """Identity for trace headers: kind, model, base hash, adapter hash. No secrets."""

    def close(self) -> None:
        """Frees what the policy holds."""
