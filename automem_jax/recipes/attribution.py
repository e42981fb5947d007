"""What an improvement is owed to: the variants that are compared, and what must not have changed.

Variants, all on held-out seeds with paired intervals (evaluation.results): the base under the start
template, the base under the best one, the specialist, the control trained on random decisions, and a
specialist trained without each of the signals that selected, or by each alone (evaluation.attribution).
Two checks go with them: how often the specialist writes an action, which must be stripped, and that the
base's logits are the same bits before and after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from automem_jax.agent.grammar import parse
from automem_jax.config import SelectionConfig
from automem_jax.evaluation.attribution import ONLY, WITHOUT
from automem_jax.selection import load_examples
from automem_jax.selection.cleanup import vocabulary_of
from automem_jax.traces.schema import Trace
from automem_jax.traces.store import iter_traces

if TYPE_CHECKING:
    from automem_jax.models.decoder import Decoder

PROBE_TOKENS = 64
_PROBES = 4


@dataclasses.dataclass(frozen=True)
class ActionEmission:
    """Actions that the specialist wrote.

    Attributes:
      turns: of the specialist. emitted: those with an action in them. stripped: those whose action the
        agent took out. committed: those whose action was taken, which must be 0.
    """

    turns: int = 0
    emitted: int = 0
    stripped: int = 0
    committed: int = 0

    @property
    def rate(self) -> float | None:
        """Share of turns with an action; None without turns."""
        return self.emitted / self.turns if self.turns else None


def action_emission(traces: str | os.PathLike) -> ActionEmission:
    """Counts over a directory of two-model traces, one in memory at a time."""
    total = ActionEmission()
    for _, trace in iter_traces(traces):
        counts = dataclasses.astuple(total), dataclasses.astuple(_emission(trace))
        total = ActionEmission(*map(sum, zip(*counts, strict=True)))
    return total


def _emission(trace: Trace) -> ActionEmission:
    vocabulary = vocabulary_of(trace.header)
    turns = [
        turn
        for step in trace.steps
        for phase in step.phases
        for turn in phase.turns
        if turn.role == "memory"
    ]
    return ActionEmission(
        turns=len(turns),
        emitted=sum(bool(parse(t.completion.text, vocabulary).action_spans) for t in turns),
        stripped=sum(t.stripped_action is not None for t in turns),
        committed=sum(t.action is not None for t in turns),
    )


def variants(selection: SelectionConfig, alone: bool = False) -> list[str]:
    """Names of the selections to train on: the specialist's, the control's, and without each signal where
    more than one decides; with `alone` also by each signal alone."""
    names = [selection.kind, "random"]
    if selection.kind == "signals":
        weights = dataclasses.asdict(selection.weights)
        used = [name for name, weight in weights.items() if weight > 0]
        several = used if len(used) > 1 else []
        names += [f"signals{WITHOUT}{name}" for name in (*several, *selection.gates)]
        names += [f"signals{ONLY}{name}" for name in several if alone]
    return names


def taught_hash(examples: str | os.PathLike) -> str:
    """SHA-256 of what plain training sees of a selection: prompts, answers, what is supervised."""
    digest = hashlib.sha256()
    for example in load_examples(examples):
        seen = [example.get(name) for name in ("messages", "supervised", "token_ids")]
        digest.update(json.dumps(seen).encode() + b"\n")
    return digest.hexdigest()


def base_logits_hash(model: Decoder, adapter_ids: int | None = None) -> str:
    """SHA-256 of the logits of fixed token sequences, bit for bit.

    Args:
      adapter_ids: 0 runs a model that holds adapters with all of them off.
    """
    import jax.numpy as jnp

    tokens = np.random.default_rng(0).integers(
        0, model.config.vocab_size, (_PROBES, PROBE_TOKENS), dtype=np.int32
    )
    logits = np.asarray(model(jnp.asarray(tokens), adapter_ids=adapter_ids), np.float32)
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()


def findings(
    results: Mapping[str, Any],
    emissions: Mapping[str, ActionEmission],
    hashes: Sequence[str],
    same: Mapping[str, str],
) -> dict[str, Any]:
    """attribution.json: each arm's mean and differences, the specialists' actions, the base's logits.

    Args:
      same: selections that teach the same as another one, which was trained on for both.
    """
    return {
        "same_selection": dict(same),
        "means": {name: arm["mean"] for name, arm in results["arms"].items()},
        "intervals": {name: arm["interval"] for name, arm in results["arms"].items()},
        "paired_differences": list(results["paired_differences"]),
        "behaviour": {name: arm["behaviour"] for name, arm in results["arms"].items()},
        "actions_of_the_specialist": {
            name: dataclasses.asdict(found) | {"rate": found.rate}
            for name, found in emissions.items()
        },
        "base_logits": {"hashes": list(hashes), "identical": len(set(hashes)) == 1},
    }
