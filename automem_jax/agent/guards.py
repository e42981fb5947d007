"""Guards: checks of a legal action that may send it back to the model with a reason.

Types and params:
  in_vocabulary: {}: what was written is no action, even after repair (else: the fallback).
  max_run: {limit, observer}: the same action again although the last `limit` changed nothing;
    `observer` is an obs_diff's id.
  materials: {needs: {action: {path: least}}}: something is missing for the action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from automem_jax.agent.conditions import Resolve, holds, substitute
from automem_jax.agent.template import GuardSpec

GUARDS: dict[str, tuple[str, ...]] = {
    "in_vocabulary": (),
    "max_run": ("limit", "observer"),
    "materials": ("needs",),
}


def objection(
    guards: Sequence[GuardSpec],
    written: str,
    action: str | None,
    legal: Sequence[str],
    previous: str | None,
    resolve: Resolve,
) -> str | None:
    """The first guard's reason against an action, for the model; None if all let it pass.

    Args:
      guards: in the order in which they are asked.
      written: the action as the model wrote it.
      action: what repair made of it; None if nothing.
      legal: legal action names.
      previous: the last action taken.
      resolve: the template's paths.
    """
    for guard in guards:
        if not holds(guard.when, resolve):
            continue
        reason = _reason(guard, written, action, legal, previous, resolve)
        if reason:
            return substitute(guard.text, resolve) or reason
    return None


def _reason(
    guard: GuardSpec,
    written: str,
    action: str | None,
    legal: Sequence[str],
    previous: str | None,
    resolve: Resolve,
) -> str | None:
    if guard.type == "in_vocabulary":
        shown = written if len(written) <= 40 else written[:40] + "…"
        return None if action else f"'{shown}' is no action; actions: {', '.join(legal)}"
    if guard.type == "max_run":
        run = resolve(f"{guard.params['observer']}.run_length") - 1
        if action == previous and action is not None and run >= guard.params["limit"]:
            return f"{action} changed nothing {run} times in a row; choose another action"
        return None
    needs: Mapping[str, int] = guard.params["needs"].get(action, {})
    for path, least in needs.items():
        if not holds({"compare": [path, ">=", least]}, resolve):
            return f"{action} needs {path.rpartition('.')[2]} {least}"
    return None
