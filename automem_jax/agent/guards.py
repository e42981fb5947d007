"""Guards: checks of a legal action that may send it back to the model with a reason.

Types and params (those in brackets have defaults):
  in_vocabulary: {}: what was written is no action, even after repair (else: the fallback).
  max_run: {limit, observer}: the same action again although the last `limit` changed nothing;
    `observer` is an obs_diff's id.
  materials: {needs: {action: {path: least}}}: something is missing for the action.
  near_hazard: {observer, [moves]}: a move into what the map calls a hazard; `observer` is a
    glyph_map's id, `moves` gives actions' directions where their names do not.
  blocked_move: {observer, [moves]}: a move that the map says would do nothing.
  prompt_reply: {observer, [allowed]}: an action that does not answer what the game asks; `observer`
    is a game_prompt's id, `allowed` are actions that are let through all the same.
  facing: {needs: {action: [names]}, [path]}: what is in front of the player (at `path`; by default,
    in the view of a percept that has one) is none of those that the action works on.
  refuse: {actions: [...]}: these actions, while the guard's `when` holds.

No guard looks at an answer to the game's question, but prompt_reply and in_vocabulary.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.agent.compass import OFFSETS, direction_of
from automem_jax.agent.conditions import Resolve, holds, substitute
from automem_jax.agent.template import GuardSpec


@dataclass(frozen=True)
class GuardType:
    """A guard's params, and the outputs that its `observer` must have.

    Attributes:
      needed, optional: names of params.
      outputs: of the observer that `observer` names. observer_type: one that has them.
    """

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    observer_type: str = ""


GUARDS: dict[str, GuardType] = {
    "in_vocabulary": GuardType(),
    "max_run": GuardType(("limit", "observer"), (), ("run_length",), "obs_diff"),
    "materials": GuardType(("needs",)),
    "near_hazard": GuardType(("observer",), ("moves",), ("hazards", "adjacent"), "glyph_map"),
    "blocked_move": GuardType(
        ("observer",), ("moves",), ("blocked", "passable", "adjacent"), "glyph_map"
    ),
    "prompt_reply": GuardType(("observer",), ("allowed",), ("kind", "options"), "game_prompt"),
    "facing": GuardType(("needs",), ("path",)),
    "refuse": GuardType(("actions",)),
}
TEXT_NAMES = ("action", "reason")  # what a guard's text may name besides paths
_NO_COMPASS = ("up", "down", "wait")  # directions too: of a spell, a wand, a pick-axe
_DIRECTION_KEYS = tuple("hjklyubn")
_MORE = ("more", "esc", "space")
_LINE_KEYS = (*_MORE, "minus", "plus", "quote", "apos", "dollar")


def objection(
    guards: Sequence[GuardSpec],
    written: str,
    action: str | None,
    legal: Sequence[str],
    previous: str | None,
    resolve: Resolve,
) -> str | None:
    """The first guard's reason against an action, for the model; None if all let it pass.

    A guard's own text stands in for the reason; it may hold `{action}`, `{reason}` and paths.

    Args:
      guards: in the order in which they are asked.
      written: the action as the model wrote it.
      action: what repair made of it; None if nothing.
      legal: legal action names.
      previous: the last action taken.
      resolve: the template's paths.
    """
    proposal = _Proposal(written, action, tuple(legal), previous, resolve)
    for guard in guards:
        if not holds(guard.when, resolve):
            continue
        reason = _CHECKS[guard.type](guard.params, proposal)
        if reason:
            own = {"action": action or proposal.shown, "reason": reason}

            def value(path: str, own: Mapping[str, str] = own) -> Any:
                return own[path] if path in own else resolve(path)

            return substitute(guard.text, value) or reason
    return None


@dataclass(frozen=True)
class _Proposal:
    """The action in question; see `objection`."""

    written: str
    action: str | None
    legal: tuple[str, ...]
    previous: str | None
    resolve: Resolve

    @property
    def shown(self) -> str:
        return self.written if len(self.written) <= 40 else self.written[:40] + "…"

    def get(self, path: str, default: Any = None) -> Any:
        try:
            return self.resolve(path)
        except KeyError:
            return default

    def direction(self, params: Mapping[str, Any]) -> str:
        """Where a move leads; "" for other actions and while the game waits for an answer."""
        if self.action is None or self.get("percept.prompt"):
            return ""
        return params.get("moves", {}).get(self.action) or direction_of(self.action)


def _in_vocabulary(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    if proposal.action is not None:
        return None
    return f"'{proposal.shown}' is no action; actions: {', '.join(proposal.legal)}"


def _max_run(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    run = proposal.resolve(f"{params['observer']}.run_length") - 1
    if proposal.action is None or proposal.action != proposal.previous or run < params["limit"]:
        return None
    return f"{proposal.action} changed nothing {run} times in a row; choose another action"


def _materials(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    if proposal.action is None or proposal.get("percept.prompt"):
        return None
    needs: Mapping[str, float] = params["needs"].get(proposal.action, {})
    missing = []
    for path, least in needs.items():
        if not holds({"compare": [path, ">=", least]}, proposal.resolve):
            have = proposal.get(path)
            known = isinstance(have, (int, float))
            root, _, rest = path.partition(".")
            nested = root == "percept" or "." in rest
            name = (rest.rpartition(".")[2] if nested else f"{root} {rest}").replace("_", " ")
            missing.append(f"{name} {least:g}" + (f" (there is {have:g})" if known else ""))
    return f"{proposal.action} needs {', '.join(missing)}" if missing else None


def _near_hazard(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    direction = proposal.direction(params)
    if not direction or direction not in proposal.get(f"{params['observer']}.hazards", ()):
        return None
    what = _adjacent(params, proposal, direction) or "something dangerous"
    return f"{proposal.action} leads into {what}"


def _blocked_move(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    observer, direction = params["observer"], proposal.direction(params)
    if not direction or direction not in proposal.get(f"{observer}.blocked", ()):
        return None
    what = _adjacent(params, proposal, direction) or "no way"
    free = ", ".join(proposal.get(f"{observer}.passable", ())) or "none"
    return f"{proposal.action} is blocked ({direction}: {what}); free directions: {free}"


def _adjacent(params: Mapping[str, Any], proposal: _Proposal, direction: str) -> str:
    around = proposal.get(f"{params['observer']}.adjacent", {})
    return str(around.get(direction, "")) if isinstance(around, Mapping) else ""


def _prompt_reply(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    kind = proposal.get(f"{params['observer']}.kind", "")
    action = proposal.action
    if not kind or action is None or action in (*params.get("allowed", ()), "esc"):
        return None
    options = proposal.get(f"{params['observer']}.options", ())
    fitting = [name for name in options if name in proposal.legal]
    if set(fitting) & set(OFFSETS):
        fitting += [name for name in _NO_COMPASS if name in proposal.legal]
        if action in _DIRECTION_KEYS:
            return None
    if kind == "more":
        fitting += [name for name in _MORE if name in proposal.legal and name not in fitting]
    elif kind == "text" and not fitting:
        fitting = _line_keys(proposal.legal)
    if not fitting or action in fitting:
        return None
    question = str(proposal.get(f"{params['observer']}.question", "") or "")
    asked = f" asks: {question[-200:]}" if question else " waits for an answer"
    return f"the game{asked} {action} is no answer; answer with one of: {', '.join(fitting)}"


@functools.lru_cache(maxsize=64)
def _line_keys(legal: tuple[str, ...]) -> tuple[str, ...]:
    """The actions that type a line."""
    return tuple(name for name in legal if len(name) == 1 or name in _LINE_KEYS)


def _facing(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    wanted = params["needs"].get(proposal.action)
    if wanted is None:
        return None
    path = params.get("path", "")
    faced = proposal.get(path) if path else _in_front(proposal)
    if faced is None or _plain(faced) in map(_plain, wanted):
        return None
    return f"{proposal.action} works on {' or '.join(wanted)}; in front is {faced or 'nothing'}"


def _in_front(proposal: _Proposal) -> str | None:
    """The thing in front in a view [x][y] with the player in the middle; None without a view."""
    view, facing = proposal.get("percept.view"), proposal.get("percept.facing")
    if not view or not facing:
        return None
    x, y = len(view) // 2 + facing[0], len(view[0]) // 2 + facing[1]
    return view[x][y] or ""


def _refuse(params: Mapping[str, Any], proposal: _Proposal) -> str | None:
    if proposal.action is None or proposal.action not in params["actions"]:
        return None
    return f"not {proposal.action} now"


def _plain(text: Any) -> str:
    return re.sub(r"[\s_-]+", " ", str(text)).strip().casefold()


_CHECKS = {
    "in_vocabulary": _in_vocabulary,
    "max_run": _max_run,
    "materials": _materials,
    "near_hazard": _near_hazard,
    "blocked_move": _blocked_move,
    "prompt_reply": _prompt_reply,
    "facing": _facing,
    "refuse": _refuse,
}
