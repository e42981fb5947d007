"""The offline architect: a fixed set of template edits, each set off by a statistic of the traces.

    edit                    set off by                                       change
    show_file_in_plan       a written file is seldom displayed in PLAN       PLAN shows it in full
    normalized_dedupe       writes often repeat what the file holds          dedupe: normalized
    bound_big_file          a file grows long                                soft limit, tail views
    more_plan_turns         PLAN is often ended by its turn cap              twice the turns
    more_log_turns          LOG is often ended by its turn cap               twice the turns
    drop_log_when_unchanged LOG after a fruitless action writes nothing      LOG needs a change

An edit is a pure function from a template's data to a template's data. Proposals are ordered by an
expected effect in [0, 1]: roughly, the share of decisions the edit can reach. It orders, no more; the
gate decides.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.agent.template import OWN_KINDS, Template, template_hash, to_data
from automem_jax.architect.brief import Brief
from automem_jax.architect.proposal import Context, Proposal, ProposalError, checked

Data = dict[str, Any]

MIN_WRITTEN_SHARE = 0.05  # a file written in fewer episodes is not worth an edit
MAX_CONSULTED_SHARE = 0.9  # above it PLAN sees the file often enough
MIN_REDUNDANT_SHARE = 0.1
BIG_FILE_LINES = 40
MIN_CAPPED_SHARE = 0.05
MAX_TURNS = 20
MIN_QUIET_LOGS = 10
MIN_QUIET_EMPTY_SHARE = 0.9


@dataclass(frozen=True)
class Edit:
    """One applicable edit: its name, why, how much it may reach, and the change itself."""

    name: str
    diagnosis: str
    effect: float
    apply: Callable[[Data], Data]


Finder = Callable[[Template, Brief], Iterable[Edit]]


class CatalogArchitect:
    """Proposes applicable edits, best first, none twice for the same parent.

    Args:
      finders: what finds edits in a template and the brief of its traces; unless given, FINDERS.
    """

    def __init__(self, finders: Sequence[Finder] | None = None):
        self._finders = finders

    def propose(self, context: Context) -> Proposal | None:
        """The next untried edit of the parent; None when all were tried."""
        parent = template_hash(context.template)
        tried = {row.get("edit") for row in context.history if row.get("parent_hash") == parent}
        for edit in applicable_edits(context.template, context.brief, self._finders):
            if edit.name in tried:
                continue
            data = edit.apply(copy.deepcopy(to_data(context.template)))
            try:
                template = checked(data, context.template, context.candidate_id)
            except ProposalError:
                continue  # the edit does not fit this template; the next one may
            return Proposal(
                template=template,
                diagnosis=edit.diagnosis,
                expected_effect=f"reaches about {100 * edit.effect:.0f} % of decisions",
                edit=edit.name,
            )
        return None


def applicable_edits(
    template: Template, brief: Brief, finders: Sequence[Finder] | None = None
) -> list[Edit]:
    """Edits whose trigger holds, by falling expected effect, then name."""
    edits = [
        edit for find in (FINDERS if finders is None else finders) for edit in find(template, brief)
    ]
    return sorted(edits, key=lambda edit: (-edit.effect, edit.name))


def _own_files(template: Template, brief: Brief) -> Iterator[str]:
    for name, spec in template.files.items():
        if spec.kind in OWN_KINDS and name in brief.files:
            yield name


def _show_file_in_plan(template: Template, brief: Brief) -> Iterator[Edit]:
    for file in _own_files(template, brief):
        written, consulted = brief.written_share(file), brief.consulted_share(file)
        if written < MIN_WRITTEN_SHARE or consulted >= MAX_CONSULTED_SHARE:
            continue
        if any(_shows_in_full(template, name, file) for name in template.phases.plan.slots):
            continue
        yield Edit(
            name=f"show_file_in_plan:{file}",
            diagnosis=(
                f"{file} is written in {100 * written:.0f} % of episodes, but only "
                f"{100 * consulted:.0f} % of the PLANs that could see a line of it do: what is logged "
                "does not reach the decision"
            ),
            effect=written * (1.0 - consulted),
            apply=lambda data, file=file: show_file_in_plan(data, file),
        )


def _shows_in_full(template: Template, slot_name: str, file: str) -> bool:
    slot = template.slots[slot_name]
    return slot.file == file and slot.view == "full" and slot.when is True


def show_file_in_plan(data: Data, file: str) -> Data:
    """PLAN's prompt gets the whole file, as far as one READ could show it.

    A slot of the file that PLAN already has is widened; else one is added, with the label the file
    has elsewhere, before the first slot that changes with the observation, so that as much of the prompt
    as possible stays the same from step to step.
    """
    slots, plan = data["slots"], data["phases"]["plan"]
    wide = {"view": "full", "when": True}
    for name in plan["slots"]:
        if slots[name]["file"] == file:
            slots[name] |= wide
            return data
    others = [slot for slot in slots.values() if slot["file"] == file]
    one_line = data["separator"] == "\n"  # slots of such a template are "label: content" lines
    label = others[0]["label"] if others else f"{file}: " if one_line else f"{file}:\n"
    limit = data["limits"]["read_chars"]
    name = _free_name(f"plan_{_identifier(file)}", slots)
    slots[name] = {"file": file, "label": label, "max_chars": limit} | wide
    for phase in (plan, *plan["modes"]):
        if phase["slots"]:
            phase["slots"].insert(_first_changing(phase["slots"], slots), name)
    return data


def _first_changing(names: list[str], slots: Data) -> int:
    for position, name in enumerate(names):
        slot = slots[name]
        if slot.get("source") or slot.get("builtin") == "previous_action":
            return position
    return len(names)


def _normalized_dedupe(template: Template, brief: Brief) -> Iterator[Edit]:
    for file in _own_files(template, brief):
        use, spec = brief.files[file], template.files[file]
        if not use.writes or spec.dedupe == "normalized" or spec.kind not in ("document", "log"):
            continue
        redundant = use.redundant / use.writes
        if redundant < MIN_REDUNDANT_SHARE or brief.written_share(file) < MIN_WRITTEN_SHARE:
            continue
        yield Edit(
            name=f"normalized_dedupe:{file}",
            diagnosis=(
                f"{100 * redundant:.0f} % of the writes to {file} repeat what it holds: the file grows "
                "without saying more"
            ),
            effect=0.25 * redundant * brief.written_share(file),
            apply=lambda data, file=file: normalized_dedupe(data, file),
        )


def normalized_dedupe(data: Data, file: str) -> Data:
    """Lines that a file holds already, case and punctuation aside, are not written again."""
    data["files"][file]["dedupe"] = "normalized"
    return data


def _bound_big_file(template: Template, brief: Brief) -> Iterator[Edit]:
    for file in _own_files(template, brief):
        use, spec = brief.files[file], template.files[file]
        if use.max_lines <= BIG_FILE_LINES or spec.kind not in ("document", "log"):
            continue
        if 0 < spec.soft_lines <= BIG_FILE_LINES:
            continue
        yield Edit(
            name=f"bound_big_file:{file}",
            diagnosis=(
                f"{file} grows to {use.max_lines} lines: reading it costs much and finds little"
            ),
            effect=0.2 * brief.written_share(file),
            apply=lambda data, file=file: bound_big_file(data, file),
        )


def bound_big_file(data: Data, file: str) -> Data:
    """Writes warn above 40 lines, and prompts show the last 40 instead of all."""
    data["files"][file]["soft_lines"] = BIG_FILE_LINES
    for slot in data["slots"].values():
        if slot["file"] == file and slot["view"] == "full":
            slot["view"] = f"tail:{BIG_FILE_LINES}"
    return data


def _more_turns(template: Template, brief: Brief) -> Iterator[Edit]:
    counts = {
        "plan": (brief.plan_capped, brief.plan_phases),
        "log": (brief.log_capped, brief.log_phases),
    }
    for phase, (capped, phases) in counts.items():
        turns = getattr(template.phases, phase).max_turns
        if not phases or turns >= MAX_TURNS or capped / phases < MIN_CAPPED_SHARE:
            continue
        yield Edit(
            name=f"more_{phase}_turns",
            diagnosis=(
                f"{100 * capped / phases:.0f} % of {phase.upper()} conversations are ended by the cap of "
                f"{turns} turns before the agent is done"
            ),
            effect=0.5 * capped / phases,
            apply=lambda data, phase=phase: more_turns(data, phase),
        )


def more_turns(data: Data, phase: str) -> Data:
    """Twice as many turns in a phase, 20 at most."""
    spec = data["phases"][phase]
    spec["max_turns"] = min(MAX_TURNS, max(1, 2 * spec["max_turns"]))
    return data


def _drop_log_when_unchanged(template: Template, brief: Brief) -> Iterator[Edit]:
    quiet, empty = brief.quiet_logs, brief.quiet_logs_without_write
    if template.phases.log.when is not True or template.phases.log.if_no_write:
        return
    if quiet < MIN_QUIET_LOGS or empty / quiet < MIN_QUIET_EMPTY_SHARE:
        return
    yield Edit(
        name="drop_log_when_unchanged",
        diagnosis=(
            f"{100 * empty / quiet:.0f} % of the LOG conversations after an action that changed nothing "
            "write nothing: they cost tokens for no memory"
        ),
        effect=0.05 * quiet / max(1, brief.log_phases),
        apply=drop_log_when_unchanged,
    )


def drop_log_when_unchanged(data: Data) -> Data:
    """LOG runs only after an action that changed what the agent sees."""
    existing = [n for n, spec in data["observers"].items() if spec["type"] == "obs_diff"]
    name = existing[0] if existing else _free_name("obs_diff", data["observers"])
    if not existing:
        data["observers"][name] = {"type": "obs_diff"}
    data["phases"]["log"]["when"] = f"{name}.changed"
    return data


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "file"


def _free_name(wanted: str, taken: Data) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


FINDERS: tuple[Finder, ...] = (
    _show_file_in_plan,
    _normalized_dedupe,
    _bound_big_file,
    _more_turns,
    _drop_log_when_unchanged,
)
