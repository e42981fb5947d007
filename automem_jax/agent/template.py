"""Memory templates: everything about an agent's memory that an architect may edit, as data.

A template says which files there are, which operations each phase offers, what a prompt is made of
and in which words. It comes from a ConfigDict (configs/templates/*.py) or from JSON with the same
keys, is converted strictly into the frozen dataclasses below, and is never executed.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import fnmatch
import hashlib
import importlib.util
import json
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_collections

from automem_jax.config import ConfigError, unknown_key

_KIND_OPERATIONS: dict[str, tuple[str, ...]] = {
    "document": ("READ", "SEARCH", "TAIL", "COUNT", "APPEND", "WRITE"),
    "log": ("READ", "SEARCH", "TAIL", "COUNT", "APPEND"),
    "map": ("READ", "SEARCH", "TAIL", "COUNT", "UPSERT"),
    "checklist": ("READ", "SEARCH", "COUNT", "CHECK"),
    "reference": ("READ", "SEARCH", "TAIL", "COUNT"),
    "auto": ("READ", "SEARCH", "TAIL", "COUNT"),
}
FILE_KINDS = tuple(_KIND_OPERATIONS)
OWN_KINDS = ("document", "log", "map", "checklist")  # kinds whose lines the agent writes
DEDUPE_RULES = ("none", "exact", "normalized")
BUILTINS = ("instructions", "actions", "file_index", "previous_action", "memory_help")


@dataclass(frozen=True)
class ItemSpec:
    """One entry of a checklist. `done_when` is a condition that ticks it without the agent."""

    id: str
    label: str = ""
    done_when: Any = None


@dataclass(frozen=True)
class FileSpec:
    """One file.

    Attributes:
      kind: document | log | map | checklist | reference (read-only) | auto (rewritten each step).
      seed: lines it starts with.
      ops: operations the agent may use on it; empty means those of its kind.
      key: names of the parts of a map's key, e.g. (level, x, y); UPSERT takes file|a,b,c|text.
      items: a checklist's entries.
      source: an auto file's path, e.g. "percept.short_text".
      dedupe: none | exact | normalized (case and punctuation aside): lines not written twice.
      soft_lines: above it a write's answer warns. hard_lines: above it the system prunes to the
        first `pin_head` and the last `keep_lines` lines (0: what fits). 0 switches off.
      pin_mark: lines (of a map: texts) that start with it survive pruning too, as far as
        `hard_lines` allows.
      max_line_chars: longer lines are cut, visibly. 0: no limit.
      persistent: its lines go on into the next episode of the run, where agent.carry_memory is on.
    """

    kind: str = "document"
    seed: str = ""
    ops: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    items: tuple[ItemSpec, ...] = ()
    source: str = ""
    dedupe: str = "none"
    soft_lines: int = 0
    hard_lines: int = 0
    keep_lines: int = 0
    pin_head: int = 0
    pin_mark: str = ""
    max_line_chars: int = 0
    persistent: bool = False


NEW_FILE_SPECS: dict[str, FileSpec] = {  # files that the agent made itself
    kind: FileSpec(kind=kind, ops=(*_KIND_OPERATIONS[kind], "DELETE"))
    for kind in ("document", "map")
}


@dataclass(frozen=True)
class NewFiles:
    """Whether the agent may create files of its own, and how many."""

    allow: bool = False
    max: int = 0


@dataclass(frozen=True)
class SlotSpec:
    """One piece of a prompt; exactly one of text, file, source and builtin.

    Attributes:
      text: name of an entry in the template's `text`.
      file, view: a file's lines: full | tail:N | open_items (of a checklist) | keys_near:R (of a
        map: lines whose key's last two parts lie within R of the player, on the same level where the
        key has three).
      near: keys_near's observer, one with outputs x and y (and level), e.g. a pose.
      source: an observer's or the percept's path, e.g. "percept.long_text".
      builtin: instructions | actions | file_index | previous_action | memory_help.
      form: file_index only: full (a line a file, with its operations) or short (one line).
      label: put before the content; `empty`: stands in where there is no content. Without
        content and `empty` the slot leaves no trace.
      when: condition. max_chars: cut, visibly; 0 for no limit.
      priority: 0..9. Where a prompt would exceed limits.phase_tokens, slots are cut, visibly, lowest
        priority first; among equals files before sources, builtins and texts, the longest first.
    """

    text: str = ""
    file: str = ""
    view: str = "full"
    source: str = ""
    builtin: str = ""
    form: str = "full"
    label: str = ""
    empty: str = ""
    when: Any = True
    max_chars: int = 0
    near: str = ""
    priority: int = 5


@dataclass(frozen=True)
class IfNoWrite:
    """A line the system logs when LOG wrote nothing; `{path}`s are filled in."""

    file: str
    text: str


@dataclass(frozen=True)
class LogPhase:
    """LOG: what of the last step is worth keeping.

    Attributes:
      system, slots: slots of the system and of the user message, in order, constant ones first.
      when: condition for running it at all (from step 1).
      max_turns: replies of the model at most.
      ops: operations offered; empty means all that some file takes.
      after_results: name of a text that follows the results of a turn; empty for none.
    """

    system: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    when: Any = True
    max_turns: int = 10
    ops: tuple[str, ...] = ()
    after_results: str = ""
    if_no_write: IfNoWrite | None = None


@dataclass(frozen=True)
class ModeSpec:
    """Another PLAN while `when` holds (the first mode that does); slots replace PLAN's."""

    when: Any
    slots: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuardSpec:
    """A check of the proposed action; see guards.py for types and params."""

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    when: Any = True


@dataclass(frozen=True)
class PlanPhase:
    """PLAN: consult memory, then act.

    Attributes:
      system, slots, max_turns, ops, after_results: as for LOG; `ops` empty means all reads. After
        `max_turns` replies without an action the model is asked once more, without memory.
      nudge: name of the text that asks for an action when a reply held neither operation nor action.
      last_request: name of the text that says that memory is closed.
      modes, guards: see ModeSpec and GuardSpec. max_rejections: a guard's, per step.
    """

    system: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    max_turns: int = 10
    ops: tuple[str, ...] = ()
    after_results: str = ""
    nudge: str = ""
    last_request: str = ""
    modes: tuple[ModeSpec, ...] = ()
    guards: tuple[GuardSpec, ...] = ()
    max_rejections: int = 1


@dataclass(frozen=True)
class Phases:
    """The two conversations of a step."""

    log: LogPhase = field(default_factory=LogPhase)
    plan: PlanPhase = field(default_factory=PlanPhase)


@dataclass(frozen=True)
class BandSpec:
    """A text shown at `<observer>.text` while `when` holds (the first band that does)."""

    when: Any
    text: str


@dataclass(frozen=True)
class ObserverSpec:
    """Computes paths from percepts; see observers.py for types, params and outputs."""

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    bands: tuple[BandSpec, ...] = ()


@dataclass(frozen=True)
class ActionsSpec:
    """How a written action becomes a legal one.

    Attributes:
      aliases: other spellings -> legal action names.
      repairs: which mends are tried, in this order; see actions.py.
      fallback: what is done without a usable action; where the task lacks it, its first action.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    repairs: tuple[str, ...] = (
        "casefold",
        "strip_punctuation",
        "alias",
        "strip_prefix",
        "nearest_prefix",
    )
    fallback: str = ""


@dataclass(frozen=True)
class Limits:
    """Bounds on one episode's memory and on one phase.

    Attributes:
      read_chars: characters of one answer. search_hits: lines of one search.
      files: files in all. file_bytes, total_bytes: UTF-8. name_chars: of a file's name.
      turn_ops: operations executed of one reply.
      phase_tokens: no prompt of a phase, chat format included, is longer. Slots and answers are cut
        to fit, visibly; a conversation without room gets no further memory turn. Counted with the
        model's tokenizer where it is at hand, else by an estimate on the safe side.
    """

    read_chars: int = 8_000
    search_hits: int = 100
    files: int = 64
    file_bytes: int = 262_144
    total_bytes: int = 1_048_576
    name_chars: int = 64
    turn_ops: int = 32
    phase_tokens: int = 16_384


@dataclass(frozen=True)
class OverrideSpec:
    """A patch (nested keys of a template) for tasks whose name matches the glob."""

    task: str
    patch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """One memory template. `text` entries hold `{path}`s, which are filled in, never evaluated.

    `operations` renames: operation -> how the agent writes it, e.g. {"APPEND": "NOTE"}.
    """

    id: str
    env: str = ""
    parent: str | None = None
    notes: str = ""
    separator: str = "\n\n"  # between the slots of a message
    text: Mapping[str, str] = field(default_factory=dict)
    operations: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileSpec] = field(default_factory=dict)
    new_files: NewFiles = field(default_factory=NewFiles)
    phases: Phases = field(default_factory=Phases)
    slots: Mapping[str, SlotSpec] = field(default_factory=dict)
    observers: Mapping[str, ObserverSpec] = field(default_factory=dict)
    actions: ActionsSpec = field(default_factory=ActionsSpec)
    limits: Limits = field(default_factory=Limits)
    overrides: tuple[OverrideSpec, ...] = ()

    def for_task(self, task: str) -> Template:
        """This template with the patches of all matching overrides applied, in order."""
        data = to_data(self)
        patches = [o.patch for o in self.overrides if fnmatch.fnmatchcase(task, o.task)]
        if not patches:
            return self
        data["overrides"] = []
        for patch in patches:
            data = _merge(data, patch)
        return from_data(data)


def operations_of(spec: FileSpec) -> tuple[str, ...]:
    """Operations the agent may use on a file."""
    return spec.ops or _KIND_OPERATIONS.get(spec.kind, ())


def load_template(name_or_path: str | os.PathLike) -> Template:
    """Loads a template by name (configs/templates/<name>.py), or from a .py or .json path.

    A .py file is run, so its path must come from the user; what an architect produced is JSON.

    Raises:
      ConfigError: no such template, unknown keys, values of the wrong kind, or bad JSON.
    """
    path = pathlib.Path(name_or_path)
    if path.suffix not in (".py", ".json"):
        path = _named(str(name_or_path))
    if not path.is_file():
        raise ConfigError(f"{path}: no such template file; give a name or a .py or .json path")
    if path.suffix == ".json":
        try:
            return from_data(json.loads(path.read_text()), str(path))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{path}: not JSON ({error}); templates are one JSON object"
            ) from error
    spec = importlib.util.spec_from_file_location(f"template_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(
            f"{path}: defines no get_config(); a template file returns its ConfigDict there"
        )
    return from_data(module.get_config(), str(path))


def from_data(
    data: Mapping[str, Any] | ml_collections.ConfigDict, place: str = "template"
) -> Template:
    """Builds a Template from nested mappings; strict about keys and kinds.

    Raises:
      ConfigError: place, what is wrong, and the nearest known key.
    """
    if isinstance(data, ml_collections.ConfigDict):
        data = data.to_dict()
    return _convert(data, Template, place)


def to_data(template: Template) -> dict[str, Any]:
    """Nested dicts and lists with every field, mappings sorted; `from_data` takes it back."""
    return _plain(template)


def to_json(template: Template) -> str:
    """Indented JSON of `to_data`."""
    return json.dumps(to_data(template), indent=1, ensure_ascii=False) + "\n"


def template_hash(template: Template) -> str:
    """First 16 hex digits of the SHA-256 of the template's canonical JSON."""
    text = json.dumps(to_data(template), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def structural_change(a: Template, b: Template) -> list[str]:
    """Sorted paths that differ between two templates other than in wording; empty if none do.

    Wording is: id, parent, notes, separator, the texts, and every text that stands in a file, slot,
    item, band, guard or if_no_write.
    """
    return sorted(set(_differences(_structure(to_data(a)), _structure(to_data(b)), "")))


def wording_change(a: Template, b: Template) -> list[str]:
    """Sorted paths that differ between two templates in wording only (see structural_change)."""
    structural = structural_change(a, b)
    paths = sorted(set(_differences(to_data(a), to_data(b), "")))
    return [p for p in paths if not any(p == s or p.startswith(f"{s}.") for s in structural)]


def _named(name: str) -> pathlib.Path:
    folders = [
        pathlib.Path(__file__).resolve().parents[2] / "configs" / "templates",
        pathlib.Path("configs/templates"),
    ]
    for folder in folders:
        for suffix in (".py", ".json"):
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    known = sorted({p.stem for folder in folders for p in folder.glob("*_v*.py")})
    raise ConfigError(f"template: {unknown_key(name, known)}")


def _convert(value: Any, kind: Any, place: str) -> Any:
    if kind is Any:
        return _frozen(value)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(value, kind, place)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(value, next(k for k in inner if k is not type(None)), place)
    if origin is tuple:
        if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{place}: expected a list, got {value!r}")
        return tuple(_convert(v, inner[0], f"{place}[{i}]") for i, v in enumerate(value))
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: expected a mapping, got {value!r}")
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{place}: key {key!r} must be text")
        return types.MappingProxyType(
            {key: _convert(value[key], inner[1], f"{place}.{key}") for key in sorted(value)}
        )
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"{place}: expected {kind.__name__}, got {value!r} ({type(value).__name__})"
        )
    return value


def _convert_dataclass(value: Any, kind: type, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: expected a mapping with {kind.__name__}'s keys, got {value!r}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for key in value:
        if key not in known:
            raise ConfigError(f"{place}.{key}: {unknown_key(key, known)}")
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in value:
            raise ConfigError(f"{place}: lacks {f.name!r}, which a {kind.__name__} must have")
    return kind(**{key: _convert(v, hints[key], f"{place}.{key}") for key, v in value.items()})


def _frozen(value: Any) -> Any:
    """Free-form data (conditions, params, patches): tuples and read-only mappings."""
    if isinstance(value, Mapping):
        return types.MappingProxyType({str(k): _frozen(value[k]) for k in sorted(value, key=str)})
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"template: {value!r} is not data; use text, numbers, lists and mappings")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _merge(data: Any, patch: Any) -> Any:
    if not (isinstance(data, Mapping) and isinstance(patch, Mapping)):
        return _plain(patch)
    merged = dict(data)
    for key, value in patch.items():
        merged[key] = _merge(data[key], value) if key in data else _plain(value)
    return merged


def _structure(data: dict[str, Any]) -> dict[str, Any]:
    """A template's data with all wording blanked."""
    for key in ("id", "parent", "notes", "separator", "text"):
        data.pop(key)
    for spec in data["files"].values():
        spec.pop("seed")
        for item in spec["items"]:
            item.pop("label")
    for spec in data["slots"].values():
        spec.pop("label")
        spec.pop("empty")
    for spec in data["observers"].values():
        for band in spec["bands"]:
            band.pop("text")
    for guard in data["phases"]["plan"]["guards"]:
        guard.pop("text")
    if data["phases"]["log"]["if_no_write"]:
        data["phases"]["log"]["if_no_write"].pop("text")
    return data


def _differences(a: Any, b: Any, place: str) -> typing.Iterator[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            inner = f"{place}.{key}" if place else key
            if key in a and key in b:
                yield from _differences(a[key], b[key], inner)
            else:
                yield inner
    elif a != b:
        yield place
