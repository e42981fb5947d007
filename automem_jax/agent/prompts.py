"""Prompts: slots to conversations. All wording is the template's; values are put in as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from automem_jax.agent.conditions import Resolve, as_text, holds, substitute
from automem_jax.agent.memory import Lines, MemoryStore, open_items
from automem_jax.agent.template import SlotSpec, Template, operations_of
from automem_jax.text.messages import Message

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
    """

    template: Template
    store: MemoryStore
    resolve: Resolve
    instructions: str
    actions: Sequence[str]
    previous_action: str | None
    operations: Sequence[str]


def render(
    system: Sequence[str], slots: Sequence[str], scene: Scene
) -> tuple[tuple[Message, ...], dict[str, list[list[int]]]]:
    """A phase's first prompt, and which lines of which files it shows.

    Returns:
      messages: a system message (if any of its slots has content) and a user message.
      shown: file -> ranges [first id, last id] of lines displayed.
    """
    shown: dict[str, set[int]] = {}
    messages = []
    for role, names in (("system", system), ("user", slots)):
        pieces = [_slot(scene.template.slots[name], scene, shown) for name in names]
        content = scene.template.separator.join(piece for piece in pieces if piece)
        if content or role == "user":
            messages.append(Message(role, content))
    ranges = {file: scene.store.ranges(file, ids) for file, ids in shown.items() if ids}
    return tuple(messages), ranges


def named_text(name: str, template: Template, resolve: Resolve) -> str:
    """An entry of the template's `text` with its paths filled in; empty for no name."""
    return substitute(template.text[name], resolve) if name else ""


def _slot(slot: SlotSpec, scene: Scene, shown: dict[str, set[int]]) -> str:
    if not holds(slot.when, scene.resolve):
        return ""
    if slot.file:
        content = _file(slot, scene.store, shown.setdefault(slot.file, set()))
    elif slot.text:
        content = _cut(named_text(slot.text, scene.template, scene.resolve), slot.max_chars)
    elif slot.source:
        content = _cut(as_text(scene.resolve(slot.source)), slot.max_chars)
    else:
        content = _cut(_builtin(slot, scene), slot.max_chars)
    content = content.strip("\n") or slot.empty
    return slot.label + content if content else ""


def _builtin(slot: SlotSpec, scene: Scene) -> str:
    if slot.builtin == "instructions":
        return scene.instructions
    if slot.builtin == "actions":
        return ", ".join(scene.actions)
    if slot.builtin == "previous_action":
        return scene.previous_action or ""
    if slot.builtin == "memory_help":
        return "\n".join(_HELP[op] for op in scene.operations)
    index = scene.store.index()
    if slot.form == "short":
        return ", ".join(f"{name} {count}" for name, _, count in index)
    lines = []
    for name, spec, count in index:
        offered = [op for op in operations_of(spec) if op in scene.operations]
        long = f", keep under {spec.soft_lines}" if 0 < spec.soft_lines < count else ""
        lines.append(
            f"{name} ({spec.kind}, lines: {count}{long}): {' '.join(offered) or 'shown only'}"
        )
    return "\n".join(lines)


def _file(slot: SlotSpec, store: MemoryStore, shown: set[int]) -> str:
    """A file's lines; with max_chars the last ones that fit, under a mark that counts the rest."""
    lines: Lines
    if slot.view.startswith("tail:"):
        lines = store.tail(slot.file, int(slot.view[5:]))
    else:
        lines = store.lines(slot.file)
        if slot.view == "open_items":
            lines = open_items(lines)
    first = 0
    if slot.max_chars:
        used, first = 0, len(lines)
        while first and used + len(lines[first - 1][1]) + 1 <= slot.max_chars:
            first -= 1
            used += len(lines[first][1]) + 1
    shown.update(number for number, _ in lines[first:])
    mark = [f"[{first} earlier lines cut]"] if first else []
    return "\n".join(mark + [line for _, line in lines[first:]])


def _cut(text: str, max_chars: int) -> str:
    if not max_chars or len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} …[cut: {len(text) - max_chars} more characters]"
