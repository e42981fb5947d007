"""Prompts: slots to conversations. All wording is the template's; values are put in as plain text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent import budget as token_budget
from automem_jax.agent.budget import CountTokens, Piece
from automem_jax.agent.conditions import Resolve, as_text, holds, placeholders, substitute
from automem_jax.agent.memory import Lines, MemoryStore, open_items
from automem_jax.agent.reminders import FileIndex
from automem_jax.agent.template import SlotSpec, Template, operations_of
from automem_jax.text.messages import Message

_CONSTANT_BUILTINS = ("instructions", "actions", "memory_help")
_HELP = {
    "READ": "<|READ|>file<|END|> shows a file",
    "SEARCH": "<|SEARCH|>file|words<|END|> shows the lines that hold all the words",
    "TAIL": "<|TAIL|>file|n<|END|> shows the last n lines",
    "COUNT": "<|COUNT|>file<|END|> counts the lines",
    "APPEND": "<|APPEND|>file|text<|END|> adds lines at the end",
    "WRITE": "<|WRITE|>file|text<|END|> replaces the whole file",
    "CREATE": "<|CREATE|>file|text<|END|> makes a new file",
    "UPSERT": "<|UPSERT|>file|key|text<|END|> sets the one line of that key",
    "CHECK": "<|CHECK|>file|item<|END|> ticks an item off",
    "DELETE": "<|DELETE|>file|line<|END|> removes a line; without a line, the file",
}


@dataclass(frozen=True)
class Scene:
    """What a phase's first prompt is rendered from.

    Attributes:
      template, store: the words and the files.
      resolve: observers' and percept's paths.
      instructions: the environment's, constant for the task.
      actions: legal action names. previous_action: None after a reset.
      operations: offered in this phase.
      constants: keeps rendered slots: those that never change within an episode, and files' until they
        change.
    """

    template: Template
    store: MemoryStore
    resolve: Resolve
    instructions: str
    actions: Sequence[str]
    previous_action: str | None
    operations: Sequence[str]
    constants: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A phase's first prompt.

    Attributes:
      messages: a system message (if any of its slots has content) and a user message.
      shown: file -> ranges [first id, last id] of lines displayed.
      cuts: what the token budget took; see schema.PhaseRecord.
      fits: it keeps the budget.
    """

    messages: tuple[Message, ...]
    shown: dict[str, list[list[int]]]
    cuts: list[dict[str, Any]] = field(default_factory=list)
    fits: bool = True


@dataclass
class _Rendered:
    """A slot's content, the ids of the lines of the file that it shows, and the ranges they make."""

    text: str
    ids: tuple[int, ...] = ()
    ranges: list[list[int]] = field(default_factory=list)


_Place = tuple[str, int, int, tuple[int, str]]  # level, x, y, the line with its id
_Slots = list[tuple[str, list[tuple[str, SlotSpec, _Rendered]]]]  # by role


def render(
    system: Sequence[str], slots: Sequence[str], scene: Scene
) -> tuple[tuple[Message, ...], dict[str, list[list[int]]]]:
    """A phase's first prompt without a token budget: its messages, and the lines it shows."""
    prompt = render_within(system, slots, scene, None)
    return prompt.messages, prompt.shown


def render_within(
    system: Sequence[str],
    slots: Sequence[str],
    scene: Scene,
    budget: int | None,
    count: CountTokens | None = None,
    reserve: int = 0,
) -> Prompt:
    """A phase's first prompt; slots are cut, lowest priority first, where it exceeds the budget.

    Args:
      budget: tokens at most, chat format included. None: no limit.
      count: tokens of a conversation; estimated unless given.
      reserve: tokens that a prompt that must be cut anyway leaves free for later turns.
    """
    fixed = scene.constants.setdefault((tuple(scene.operations), tuple(scene.actions)), {})
    parts: _Slots = []
    for role, names in (("system", system), ("user", slots)):
        found = []
        for name in names:
            slot = scene.template.slots[name]
            rendered = fixed.get(name) or _slot(name, slot, scene, fixed)
            if rendered.text or slot.empty:
                found.append((name, slot, rendered))
        parts.append((role, found))
    messages = _messages(
        [(role, [s.label + (r.text or s.empty) for _, s, r in found]) for role, found in parts],
        scene.template.separator,
    )
    if budget is not None and token_budget.byte_size(messages) > budget:
        count = count or token_budget.estimated_counter()
        if count(messages) > budget:
            return _cut_to_fit(parts, scene, budget, count, reserve)
    return Prompt(messages, _shown(parts, scene.store))


def _messages(parts: Sequence[tuple[str, list[str]]], separator: str) -> tuple[Message, ...]:
    """Texts by role as messages; no system message without texts."""
    joined = [(role, separator.join(texts)) for role, texts in parts]
    return tuple(Message(role, text) for role, text in joined if text or role == "user")


def _shown(parts: _Slots, store: MemoryStore) -> dict[str, list[list[int]]]:
    """The ranges of lines that uncut slots show, by file."""
    found: dict[str, list[_Rendered]] = {}
    for _, slots in parts:
        for _, slot, rendered in slots:
            if rendered.ids:
                found.setdefault(slot.file, []).append(rendered)
    return {
        file: several[0].ranges
        if len(several) == 1
        else store.ranges(file, {number for rendered in several for number in rendered.ids})
        for file, several in found.items()
    }


def _cut_to_fit(
    parts: _Slots, scene: Scene, budget: int, count: CountTokens, reserve: int
) -> Prompt:
    """A prompt whose slots are cut; see render_within."""
    every: list[Piece] = []
    by_role: list[tuple[str, list[Piece]]] = []
    files: list[tuple[str, Piece, tuple[int, ...]]] = []
    for role, slots in parts:
        pieces: list[Piece] = []
        for name, slot, rendered in slots:
            piece = _piece(name, slot, rendered.text or slot.empty, scene.template)
            piece.order = (*piece.order, len(files), len(pieces))
            pieces.append(piece)
            if rendered.ids:
                files.append((slot.file, piece, rendered.ids))
        by_role.append((role, pieces))
        every += pieces

    def compose(_: Sequence[Piece] = ()) -> tuple[Message, ...]:
        shown = [(role, [t for piece in pieces if (t := piece.shown)]) for role, pieces in by_role]
        return _messages(shown, scene.template.separator)

    fits = token_budget.fit(every, compose, budget - reserve, count)
    messages = compose()
    shown: dict[str, set[int]] = {}
    for file, piece, ids in files:
        shown.setdefault(file, set()).update(_kept(ids, piece))
    ranges = {file: scene.store.ranges(file, ids) for file, ids in shown.items() if ids}
    fits = fits or count(messages) <= budget
    return Prompt(messages, ranges, token_budget.cuts(every, 0), fits)


def _help(op: str, template: Template) -> str:
    """What an operation does, as this template writes it."""
    return _HELP[op].replace(f"<|{op}|>", f"<|{template.operations.get(op, op)}|>")


def named_text(name: str, template: Template, resolve: Resolve) -> str:
    """An entry of the template's `text` with its paths filled in; empty for no name."""
    return substitute(template.text[name], resolve) if name else ""


def _piece(name: str, slot: SlotSpec, text: str, template: Template) -> Piece:
    """A slot's content as what may be cut; see SlotSpec.priority for the order."""
    kind = template.files[slot.file].kind if slot.file else ""
    if slot.file:
        rank = 3 if kind == "reference" else 0
    elif slot.source:
        rank = 1
    else:
        rank = 4 if slot.text or slot.builtin in _CONSTANT_BUILTINS else 2
    keep = "head" if not slot.file else "first" if kind in ("reference", "checklist") else "last"
    return Piece(name, text, (slot.priority, rank, -len(text)), keep, slot.label)


def _kept(ids: tuple[int, ...], piece: Piece) -> tuple[int, ...]:
    """The lines that a piece still shows; a mark may stand among its lines."""
    if piece.gone:
        return ()
    if piece.kept == len(piece.text):
        return ids
    return ids[: piece.lines] if piece.keep == "first" else ids[max(0, len(ids) - piece.lines) :]


def _slot(name: str, slot: SlotSpec, scene: Scene, fixed: dict[str, _Rendered]) -> _Rendered:
    """A slot's content; what never changes goes into `fixed`."""
    if not holds(slot.when, scene.resolve):
        return _Rendered("")
    if slot.file:
        rendered = _file(name, slot, scene)
    else:
        if slot.text:
            content = named_text(slot.text, scene.template, scene.resolve)
        elif slot.source:
            content = as_text(scene.resolve(slot.source))
        else:
            content = _builtin(slot, scene)
        rendered = _Rendered(_cut(content, slot.max_chars).strip("\n"))
    if _is_constant(slot, scene.template):
        fixed[name] = rendered
    return rendered


def _is_constant(slot: SlotSpec, template: Template) -> bool:
    """Whether a slot's content never changes within an episode, given operations and actions."""
    if slot.when is not True:
        return False
    if slot.file:
        return template.files[slot.file].kind == "reference"
    if slot.text:
        return not placeholders(template.text[slot.text])
    return slot.builtin in _CONSTANT_BUILTINS


def _builtin(slot: SlotSpec, scene: Scene) -> str:
    if slot.builtin == "instructions":
        return scene.instructions
    if slot.builtin == "actions":
        return ", ".join(scene.actions)
    if slot.builtin == "previous_action":
        return scene.previous_action or ""
    if slot.builtin == "memory_help":
        return "\n".join(_help(op, scene.template) for op in scene.operations)
    index = scene.store.index()
    place = ("index", slot.form, tuple(scene.operations))
    known = scene.constants.get(place)
    if known is None or known[0] != index:
        known = scene.constants[place] = index, _file_index(index, slot, scene)
    return known[1]


def _file_index(index: FileIndex, slot: SlotSpec, scene: Scene) -> str:
    if slot.form == "short":
        return ", ".join(f"{name} {count}" for name, _, count in index)
    lines = []
    for name, spec, count in index:
        spelt = scene.template.operations
        offered = [spelt.get(op, op) for op in operations_of(spec) if op in scene.operations]
        long = f", keep under {spec.soft_lines}" if 0 < spec.soft_lines < count else ""
        lines.append(
            f"{name} ({spec.kind}, lines: {count}{long}): {' '.join(offered) or 'shown only'}"
        )
    return "\n".join(lines)


def _file(name: str, slot: SlotSpec, scene: Scene) -> _Rendered:
    """A file's lines; with max_chars the last ones that fit, under a mark that counts the rest."""
    store = scene.store
    state: Any = store.version(slot.file)  # what the content follows from
    lines: Lines | None = None
    if slot.view.startswith("keys_near:"):
        state = lines = _near(_places(slot.file, state, scene), slot, scene)
    known = scene.constants.get(("file", name))
    if known is not None and known[0] == state:
        return known[1]
    if slot.view.startswith("tail:"):
        lines = store.tail(slot.file, int(slot.view[5:]))
    elif lines is None:
        lines = store.lines(slot.file)
        if slot.view == "open_items":
            lines = open_items(lines)
    first = 0
    if slot.max_chars:
        used, first = 0, len(lines)
        while first and used + len(lines[first - 1][1]) + 1 <= slot.max_chars:
            first -= 1
            used += len(lines[first][1]) + 1
    mark = [f"[{first} earlier lines cut]"] if first else []
    text = "\n".join(mark + [line for _, line in lines[first:]])
    ids = tuple(number for number, _ in lines[first:])
    rendered = _Rendered(text, ids, store.ranges(slot.file, ids))
    scene.constants["file", name] = state, rendered
    return rendered


def _places(file: str, version: tuple[int, ...], scene: Scene) -> list[_Place]:
    """A map's lines that have a place, read anew only when the file changed."""
    known = scene.constants.get(("places", file))
    if known is not None and known[0] == version:
        return known[1]
    lines = scene.store.lines(file)
    found = [(*place, (n, line)) for n, line in lines if (place := _place(line)) is not None]
    scene.constants["places", file] = version, found
    return found


def _near(places: Sequence[_Place], slot: SlotSpec, scene: Scene) -> Lines:
    """A map's lines around the player; none while the place is not known."""
    resolve, radius = scene.resolve, int(slot.view.partition(":")[2])
    x, y = resolve(f"{slot.near}.x"), resolve(f"{slot.near}.y")
    if x is None or y is None:
        return ()
    if len(scene.template.files[slot.file].key) > 2:
        level = as_text(resolve(f"{slot.near}.level")).strip().casefold()
        places = [place for place in places if place[0] == level]
    left, right, top, bottom = x - radius, x + radius, y - radius, y + radius
    return tuple(
        [line for _, px, py, line in places if left <= px <= right and top <= py <= bottom]
    )


@functools.lru_cache(maxsize=1 << 14)
def _place(line: str) -> tuple[str, int, int] | None:
    """Level (empty where the key has none) and coordinates of a map's line; None if it has none."""
    *rest, x, y = ("", *line.partition(":")[0].split(","))
    try:
        return (rest[-1].strip().casefold() if rest else ""), int(x), int(y)
    except ValueError:
        return None


def _cut(text: str, max_chars: int) -> str:
    if not max_chars or len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} …[cut: {len(text) - max_chars} more characters]"
