"""What every template must satisfy, a person's as well as an architect's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from automem_jax.agent import conditions
from automem_jax.agent.actions import REPAIRS
from automem_jax.agent.budget import LEAST_ROOM, estimate_tokens
from automem_jax.agent.grammar import MARKERS, OPERATIONS, READ_OPERATIONS, WRITE_OPERATIONS
from automem_jax.agent.guards import GUARDS, TEXT_NAMES
from automem_jax.agent.memory import file_name
from automem_jax.agent.observers import OBSERVERS, has_output, percept_paths, update_order
from automem_jax.agent.paths import percept_value
from automem_jax.agent.problems import (
    Problem,
    check_choice,
    check_condition,
    check_name,
    check_params,
    check_path,
    check_values,
)
from automem_jax.agent.template import (
    BUILTINS,
    DEDUPE_RULES,
    FILE_KINDS,
    NEW_FILE_SPECS,
    OWN_KINDS,
    GuardSpec,
    Limits,
    ObserverSpec,
    OverrideSpec,
    SlotSpec,
    Template,
    from_data,
    operations_of,
    to_data,
)
from automem_jax.config import ConfigError, unknown_key
from automem_jax.envs.base import Percept

_VIEW = re.compile(r"full|open_items|tail:[1-9][0-9]{0,5}|keys_near:[0-9]{1,4}")
_SPELLING = re.compile(r"[A-Z][A-Z_]{0,31}")
_LEAST_PHASE_TOKENS = 128
_LEAST_LINE_CHARS = 16
_GIVEN = ("self", "resolve")  # what no template gives an observer


def operations_offered(
    template: Template, phase: str, mode_ops: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Operations that a phase offers: its own list (LOG: all, PLAN: reads, unless named), less what
    no file takes."""
    spec = template.phases.log if phase == "log" else template.phases.plan
    named = mode_ops or spec.ops or (OPERATIONS if phase == "log" else READ_OPERATIONS)
    usable = {op for file in template.files.values() for op in operations_of(file)}
    if template.new_files.allow:
        usable.update(("CREATE", *(op for s in NEW_FILE_SPECS.values() for op in operations_of(s))))
    return tuple(op for op in OPERATIONS if op in named and op in usable)


def validate(template: Template) -> list[Problem]:
    """Everything wrong with a template, each with its place; empty for a good one."""
    problems = [*_files(template), *_phases(template), *_slots(template), *_observers(template)]
    problems += [*_texts(template), *_actions(template), *_limits(template), *_memory(template)]
    problems += _operations(template)
    for i, override in enumerate(template.overrides):
        problems += _override(template, override, f"overrides[{i}]")
    return problems


def check(template: Template) -> None:
    """Raises ConfigError naming every problem, if there are any."""
    problems = validate(template)
    if problems:
        raise ConfigError(f"template {template.id!r}:\n" + "\n".join(map(str, problems)))


def check_percept(template: Template, percept: Percept) -> None:
    """What an environment's percepts lack is a user's mistake too: said at the first one.

    Raises:
      ConfigError: a slot, auto file, observer or guard names a percept path that is not there.
    """
    places = [(f"slots.{n}.source", s.source) for n, s in template.slots.items()]
    places += [(f"files.{n}.source", s.source) for n, s in template.files.items()]
    specs: list[tuple[str, ObserverSpec | GuardSpec]] = []
    specs += [(f"observers.{n}", spec) for n, spec in template.observers.items()]
    specs += [(f"phases.plan.guards[{i}]", g) for i, g in enumerate(template.phases.plan.guards)]
    places += [(f"{place}.params", path) for place, spec in specs for path in percept_paths(spec)]
    for place, path in places:
        if path.startswith("percept."):
            try:
                percept_value(percept, path)
            except KeyError as error:
                raise ConfigError(
                    f"template {template.id!r}: {place}: {error}; "
                    "name what this environment's percepts have"
                ) from error


def _operations(template: Template) -> Iterator[Problem]:
    """Renamed operations: known ones, under names that the grammar can tell apart."""
    for op, spelling in template.operations.items():
        place = f"operations.{op}"
        yield from check_choice(place, op, OPERATIONS)
        if not _SPELLING.fullmatch(spelling):
            yield Problem(place, f"{spelling!r} is no name", "use capital letters and _")
        elif spelling in MARKERS:
            yield Problem(place, f"{spelling} has a meaning of its own", "use another name")
        elif spelling != op and spelling in OPERATIONS:
            yield Problem(place, f"{spelling} is another operation's name", "use a new name")
        elif list(template.operations.values()).count(spelling) > 1:
            yield Problem(place, f"{spelling} names two operations", "give each its own name")


def _files(template: Template) -> Iterator[Problem]:
    for name, spec in template.files.items():
        place = f"files.{name}"
        try:
            plain = file_name(name, template.limits.name_chars)
        except ValueError as error:
            yield Problem(place, str(error), "rename the file")
        else:
            if plain != name:
                yield Problem(place, f"the agent would see it as {plain!r}", f"name it {plain!r}")
        yield from check_choice(f"{place}.kind", spec.kind, FILE_KINDS)
        yield from check_choice(f"{place}.dedupe", spec.dedupe, DEDUPE_RULES)
        if spec.persistent and spec.kind in ("reference", "auto"):
            yield Problem(
                f"{place}.persistent", f"a {spec.kind} file is the system's", "remove persistent"
            )
        for op in spec.ops:
            yield from check_choice(f"{place}.ops", op, OPERATIONS)
            if op in WRITE_OPERATIONS and spec.kind in ("reference", "auto"):
                yield Problem(
                    f"{place}.ops", f"{op} on a {spec.kind} file", "remove it or use kind document"
                )
        for op, needed, field in (("UPSERT", "map", "key"), ("CHECK", "checklist", "items")):
            if spec.kind == needed and not getattr(spec, field):
                yield Problem(f"{place}.{field}", f"a {needed} needs {field}", f"list its {field}")
            if op in spec.ops and spec.kind != needed:
                yield Problem(f"{place}.ops", f"{op} needs a {needed}", f"set kind to {needed}")
        if spec.kind == "auto" and not spec.source:
            yield Problem(f"{place}.source", "an auto file needs a source", "name a path to copy")
        if spec.source:
            yield from check_path(template, spec.source, f"{place}.source")
        if spec.hard_lines and spec.pin_head + spec.keep_lines > spec.hard_lines:
            yield Problem(
                f"{place}.hard_lines",
                f"pin_head {spec.pin_head} + keep_lines {spec.keep_lines} exceed it",
                f"raise it to at least {spec.pin_head + spec.keep_lines}",
            )
        for field in ("soft_lines", "hard_lines", "keep_lines", "pin_head"):
            if getattr(spec, field) < 0:
                yield Problem(f"{place}.{field}", f"{getattr(spec, field)}", "use 0 or more")
        if spec.max_line_chars and spec.max_line_chars < _LEAST_LINE_CHARS:
            yield Problem(
                f"{place}.max_line_chars",
                f"{spec.max_line_chars}",
                f"use 0 for no limit, or at least {_LEAST_LINE_CHARS}",
            )
        for i, item in enumerate(spec.items):
            if item.done_when is not None:
                yield from check_condition(
                    template, item.done_when, f"{place}.items[{i}].done_when"
                )


def _phases(template: Template) -> Iterator[Problem]:
    log, plan = template.phases.log, template.phases.plan
    for name, phase in (("log", log), ("plan", plan)):
        place = f"phases.{name}"
        if phase.max_turns < 1:
            yield Problem(f"{place}.max_turns", f"{phase.max_turns} turns", "allow at least 1")
        for op in phase.ops:
            yield from check_choice(f"{place}.ops", op, OPERATIONS)
        for part in ("system", "slots"):
            for slot in getattr(phase, part):
                yield from check_name(f"{place}.{part}", slot, template.slots, "slots")
        if not phase.slots:
            yield Problem(f"{place}.slots", "the prompt would be empty", "name at least one slot")
        if phase.after_results:
            yield from check_name(
                f"{place}.after_results", phase.after_results, template.text, "text"
            )
    for field in ("nudge", "last_request"):
        name = getattr(plan, field)
        if name:
            yield from check_name(f"phases.plan.{field}", name, template.text, "text")
        else:
            yield Problem(
                f"phases.plan.{field}", "no text asks for the action", "name an entry of text"
            )
    yield from check_condition(template, log.when, "phases.log.when")
    if log.if_no_write:
        place = "phases.log.if_no_write"
        yield from check_name(f"{place}.file", log.if_no_write.file, template.files, "files")
        for path in conditions.placeholders(log.if_no_write.text):
            yield from check_path(template, path, f"{place}.text")
    for i, mode in enumerate(plan.modes):
        place = f"phases.plan.modes[{i}]"
        yield from check_condition(template, mode.when, f"{place}.when")
        for slot in mode.slots:
            yield from check_name(f"{place}.slots", slot, template.slots, "slots")
        for op in mode.ops:
            yield from check_choice(f"{place}.ops", op, OPERATIONS)
    for i, guard in enumerate(plan.guards):
        place = f"phases.plan.guards[{i}]"
        yield from check_condition(template, guard.when, f"{place}.when")
        if guard.type not in GUARDS:
            yield Problem(f"{place}.type", "unknown guard type", unknown_key(guard.type, GUARDS))
            continue
        yield from _guard(template, guard, place)


def _guard(template: Template, guard: GuardSpec, place: str) -> Iterator[Problem]:
    kind = GUARDS[guard.type]
    known = (*kind.needed, *kind.optional)
    yield from check_params(f"{place}.params", guard.params, known, kind.needed)
    yield from check_values(template, guard.type, guard.params, f"{place}.params")
    for path in conditions.placeholders(guard.text):
        if path not in TEXT_NAMES:
            yield from check_path(template, path, f"{place}.text")
    if "observer" not in guard.params or "observer" not in kind.needed:
        return
    name, place = guard.params["observer"], f"{place}.params.observer"
    if not isinstance(name, str) or name not in template.observers:
        yield from check_name(place, str(name), template.observers, "observers")
        return
    spec = template.observers[name]
    missing = [o for o in kind.outputs if spec.type in OBSERVERS and not has_output(spec, o)]
    if missing:
        yield Problem(
            place,
            f"{name!r} ({spec.type}) has no {', '.join(missing)}",
            f"name an observer of type {kind.observer_type}",
        )


def _slots(template: Template) -> Iterator[Problem]:
    for name, slot in template.slots.items():
        place = f"slots.{name}"
        sources = [s for s in ("text", "file", "source", "builtin") if getattr(slot, s)]
        if len(sources) != 1:
            found = ", ".join(sources) or "none"
            yield Problem(
                place, f"needs one of text, file, source, builtin; has {found}", "keep one"
            )
        if slot.text:
            yield from check_name(f"{place}.text", slot.text, template.text, "text")
        if slot.file:
            yield from check_name(f"{place}.file", slot.file, template.files, "files")
            if not _VIEW.fullmatch(slot.view):
                yield Problem(
                    f"{place}.view",
                    f"unknown view {slot.view!r}",
                    "use full, tail:N, open_items or keys_near:R",
                )
        yield from _near(template, slot, place)
        if not 0 <= slot.priority <= 9:
            yield Problem(f"{place}.priority", f"{slot.priority}", "use 0 (cut first) to 9 (last)")
        if slot.source:
            yield from check_path(template, slot.source, f"{place}.source")
        if slot.builtin:
            yield from check_choice(f"{place}.builtin", slot.builtin, BUILTINS)
        yield from check_choice(f"{place}.form", slot.form, ("full", "short"))
        if slot.max_chars < 0:
            yield Problem(f"{place}.max_chars", f"{slot.max_chars}", "use 0 for no limit, or more")
        yield from check_condition(template, slot.when, f"{place}.when")


def _observers(template: Template) -> Iterator[Problem]:
    for name, spec in template.observers.items():
        place = f"observers.{name}"
        if name == "percept" or not re.fullmatch(conditions.PATH, name) or "." in name:
            yield Problem(place, "cannot be an observer's name", "use letters, digits and _")
        if spec.type not in OBSERVERS:
            yield Problem(
                f"{place}.type", "unknown observer type", unknown_key(spec.type, OBSERVERS)
            )
            continue
        cls = OBSERVERS[spec.type]
        signature = inspect.signature(cls.__init__).parameters.values()
        needed = [p.name for p in signature if p.default is p.empty and p.name not in _GIVEN]
        yield from check_params(f"{place}.params", spec.params, cls.PARAMS, needed)
        yield from check_values(template, spec.type, spec.params, f"{place}.params")
        for i, band in enumerate(spec.bands):
            yield from check_condition(template, band.when, f"{place}.bands[{i}].when")
            for path in conditions.placeholders(band.text):
                yield from check_path(template, path, f"{place}.bands[{i}].text")
    if all(spec.type in OBSERVERS for spec in template.observers.values()):
        for ring in update_order(template.observers)[1]:
            yield Problem(
                f"observers.{ring[0]}",
                f"looks at itself: {' -> '.join(ring)}",
                "take one of these references out",
            )


def _texts(template: Template) -> Iterator[Problem]:
    for name, text in template.text.items():
        for path in conditions.placeholders(text):
            yield from check_path(template, path, f"text.{name}")
    yield from _sizes(template)


def _sizes(template: Template) -> Iterator[Problem]:
    """What is constant in a prompt must fit into it, and leave room for an answer to be read."""
    budget, plan = template.limits.phase_tokens, template.phases.plan
    prompts = [("phases.log", template.phases.log.system, template.phases.log.slots)]
    prompts.append(("phases.plan", plan.system, plan.slots))
    prompts += [
        (f"phases.plan.modes[{i}]", plan.system, mode.slots or plan.slots)
        for i, mode in enumerate(plan.modes)
    ]
    for place, system, slots in prompts:
        named = [template.slots[s] for s in (*system, *slots) if s in template.slots]
        words = [f"{s.label}{template.text.get(s.text, '')}" for s in named if s.text]
        words += [
            s.label + template.files[s.file].seed
            for s in named
            if s.file in template.files
            and template.files[s.file].kind == "reference"
            and not s.max_chars
        ]
        tokens = estimate_tokens("\n".join(words)) + LEAST_ROOM
        if tokens > budget:
            yield Problem(
                place,
                f"what is constant in the prompt takes about {tokens} tokens of phase_tokens {budget}",
                "shorten texts or references, or raise limits.phase_tokens",
            )


def _near(template: Template, slot: SlotSpec, place: str) -> Iterator[Problem]:
    """The slot's view of a map's surroundings, and where the player is."""
    wanted = slot.view.startswith("keys_near:")
    if not wanted:
        if slot.near:
            yield Problem(f"{place}.near", "only keys_near:R looks at it", "remove it")
        return
    spec = template.files.get(slot.file)
    if spec is not None and (spec.kind != "map" or len(spec.key) < 2):
        yield Problem(
            f"{place}.view",
            f"{slot.file!r} is no map whose key ends in two coordinates",
            "use a file of kind map with key [x, y] or [level, x, y]",
        )
    if not slot.near:
        yield Problem(f"{place}.near", "no observer tells the place", "name a pose observer")
        return
    yield from check_name(f"{place}.near", slot.near, template.observers, "observers")
    if slot.near in template.observers:
        needed = ("x", "y", "level") if spec is not None and len(spec.key) > 2 else ("x", "y")
        for output in needed:
            yield from check_path(template, f"{slot.near}.{output}", f"{place}.near")


def _actions(template: Template) -> Iterator[Problem]:
    for kind in template.actions.repairs:
        yield from check_choice("actions.repairs", kind, REPAIRS)
    if not template.actions.fallback:
        yield Problem("actions.fallback", "no action stands in", "name a harmless action")


def _limits(template: Template) -> Iterator[Problem]:
    for name in Limits.__dataclass_fields__:
        if getattr(template.limits, name) < 1:
            yield Problem(f"limits.{name}", f"{getattr(template.limits, name)}", "use 1 or more")
    if 1 <= template.limits.phase_tokens < _LEAST_PHASE_TOKENS:
        yield Problem(
            "limits.phase_tokens",
            f"{template.limits.phase_tokens}",
            f"use {_LEAST_PHASE_TOKENS} or more: the chat format alone takes tokens",
        )


def _memory(template: Template) -> Iterator[Problem]:
    """The agent model itself must be able to write and to read back."""
    own = {name for name, spec in template.files.items() if spec.kind in OWN_KINDS}
    if not own and not template.new_files.allow:
        kinds = ", ".join(OWN_KINDS)
        yield Problem("files", "no file is the agent's own", f"add one of kind {kinds}")
    writes = [op for op in operations_offered(template, "log") if op in WRITE_OPERATIONS]
    if not writes:
        yield Problem(
            "phases.log.ops", "LOG offers no write", "offer APPEND, or files that take one"
        )
    plan_ops = operations_offered(template, "plan")
    if not any(op in READ_OPERATIONS for op in plan_ops):
        yield Problem(
            "phases.plan.ops", "PLAN offers no read", "offer READ, or files that take one"
        )
    displayed = {
        template.slots[s].file
        for phase in (template.phases.log, template.phases.plan)
        for s in (*phase.system, *phase.slots)
        if s in template.slots
    }
    displayed |= {
        template.slots[s].file
        for mode in template.phases.plan.modes
        for s in mode.slots
        if s in template.slots
    }
    log_ops = operations_offered(template, "log")
    for name, spec in template.files.items():
        readable = any(
            op in READ_OPERATIONS and op in (*plan_ops, *log_ops) for op in operations_of(spec)
        )
        if name not in displayed and not readable:
            yield Problem(
                f"files.{name}", "nothing shows or reads it", "show it in a slot or allow READ"
            )


def _override(template: Template, override: OverrideSpec, place: str) -> Iterator[Problem]:
    if "overrides" in override.patch:
        yield Problem(f"{place}.patch", "an override cannot hold overrides", "remove them")
        return
    name = override.task.replace("*", "x").replace("?", "x").replace("[", "x")
    data = to_data(template)
    data["overrides"] = [{"task": "*", "patch": override.patch}]
    try:
        patched = from_data(data).for_task(name)
    except ConfigError as error:
        yield Problem(f"{place}.patch", str(error), "mend the patch")
        return
    data["overrides"] = []
    before = set(validate(from_data(data)))
    for problem in validate(patched):
        if problem not in before:
            yield Problem(f"{place}.patch.{problem.place}", problem.message, problem.remedy)
