"""The agent's files: lines with ids, kept in RAM, every change recorded.

A line's id is unique in the episode and never reused, so a trace can tell who wrote what a later
step read. The cost of APPEND, UPSERT, TAIL and the file index does not depend on how long the
episode has run. Nothing the model writes can raise: what cannot be done is answered in words.
"""

from __future__ import annotations

import bisect
import collections
import difflib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automem_jax.agent.grammar import READ_OPERATIONS
from automem_jax.agent.template import (
    NEW_FILE_SPECS,
    FileSpec,
    Limits,
    NewFiles,
    operations_of,
)

Lines = tuple[tuple[int, str], ...]

_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)*")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_TAIL_LINES = 10  # what TAIL shows when no number is given
_QUERY_CHARS = 1000


@dataclass(frozen=True)
class Result:
    """What an operation did, and the words that tell the model.

    Attributes:
      ok: it was executed.
      answer: text for the model; starts with the operation and the file's name.
      file: the normalised file name; None where none was named or several were searched.
      error: why it was not executed; None if ok.
      wrote: ids of the lines it created; read: ids of the lines it displayed.
      redundant: a write whose text (case and punctuation aside) the file already held.
      empty: a read or search that found nothing.
    """

    ok: bool
    answer: str
    file: str | None = None
    error: str | None = None
    wrote: tuple[int, ...] = ()
    read: tuple[int, ...] = ()
    redundant: bool = False
    empty: bool = False


@dataclass
class _File:
    """Lines by id, in file order, and what makes single operations cheap."""

    spec: FileSpec
    lines: dict[int, str] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)  # rising; removed ones too, since it was empty
    known: collections.Counter = field(default_factory=collections.Counter)  # normalised texts
    exact: collections.Counter = field(default_factory=collections.Counter)
    keys: dict[str, int] = field(default_factory=dict)  # a map's key -> id of its line
    key_of: dict[int, str] = field(default_factory=dict)  # and back
    size: int = 0  # bytes of UTF-8, a newline a line


class _Refused(Exception):
    """An operation that cannot be executed; the message is for the model."""


class MemoryStore:
    """All files of one episode.

    Args:
      files: declared files by name; each is created at once, with its seed or checklist.
      limits: sizes and counts that no operation may exceed.
      new_files: whether the agent may create files of its own, and how many.
    """

    def __init__(
        self,
        files: Mapping[str, FileSpec] | None = None,
        limits: Limits | None = None,
        new_files: NewFiles | None = None,
    ) -> None:
        self._specs = dict(files or {})
        self._limits = limits or Limits()
        self._new_files = new_files or NewFiles()
        self._files: dict[str, _File] = {}
        self._next_id = 0
        self._total = 0
        self._changes: list[dict[str, Any]] = []
        self._operations: dict[str, Callable[[str, str | None], Result]] = {
            "READ": self._op_read,
            "TAIL": self._op_tail,
            "COUNT": self._op_count,
            "APPEND": self._op_append,
            "WRITE": self._op_write,
            "CREATE": self._op_create,
            "UPSERT": self._op_upsert,
            "CHECK": self._op_check,
            "DELETE": self._op_delete,
        }
        for name, spec in self._specs.items():
            self._create(name)
            seed = [_item_line(item.id, item.label, False) for item in spec.items]
            self._append(name, self._split(seed or spec.seed, spec)[0])

    # --- what the agent, the slots and the trace see -------------------------------------------

    def execute(self, op: str, args: Sequence[str], allowed: Iterable[str] | None = None) -> Result:
        """Executes one operation. Never raises.

        Args:
          op: an operation's name, upper case.
          args: as split by the grammar: at most a file and a text.
          allowed: operations that the current phase offers; None for all.
        """
        if allowed is not None and op not in allowed:
            error = f"{op} is not allowed here; allowed: {', '.join(allowed) or 'none'}"
            return Result(False, f"error: {error}", error=error)
        file = None
        before = set(self._files)
        try:
            text = args[1] if len(args) > 1 else None
            if text is not None and len(text) > self._limits.file_bytes:
                raise _Refused(
                    f"{op}: the text exceeds {self._limits.file_bytes} bytes; shorten it"
                )
            if op == "SEARCH":
                return self._search(args)
            if not args or not args[0]:
                raise _Refused(f"{op} names no file; {self._which_files()}")
            file = self._name(args[0])
            return self._operations[op](file, text)
        except _Refused as refusal:
            for name in set(self._files) - before:
                self._delete(name)
            return Result(
                False, f"error: {refusal}", file, str(refusal), empty=op in READ_OPERATIONS
            )

    def lines(self, name: str) -> Lines:
        """(id, text) of every line, in file order; empty for a file that does not exist."""
        file = self._files.get(name)
        return tuple(file.lines.items()) if file else ()

    def tail(self, name: str, count: int) -> Lines:
        """The last `count` lines, oldest first."""
        file = self._files.get(name)
        if file is None or count <= 0:
            return ()
        return tuple(reversed(list(itertools.islice(reversed(file.lines.items()), count))))

    def ranges(self, name: str, ids: Iterable[int]) -> list[list[int]]:
        """Runs [first, last] that cover these lines of a file and none that it holds or held besides."""
        file = self._files.get(name)
        ever = file.ids if file else []
        runs: list[list[int]] = []
        expected = -1
        for number in sorted(ids):
            place = bisect.bisect_left(ever, number)
            if place == expected:
                runs[-1][1] = number
            else:
                runs.append([number, number])
            expected = place + 1
        return runs

    def index(self) -> list[tuple[str, FileSpec, int]]:
        """(name, spec, number of lines) of every file: declared ones first, then the agent's."""
        return [(name, file.spec, len(file.lines)) for name, file in self._files.items()]

    def snapshot(self) -> dict[str, Lines]:
        """Every file's lines, for tests and viewers."""
        return {name: self.lines(name) for name in self._files}

    def changes(self) -> list[dict[str, Any]]:
        """Changes since the last call, JSON-ready and in order; `replay` rebuilds files from them."""
        taken, self._changes = self._changes, []
        return taken

    # --- what the system does by itself; no operation claims these lines ------------------------

    def add_lines(self, name: str, text: str) -> None:
        """Appends text to a declared file on the system's behalf, under the file's dedupe rule."""
        file = self._files[name]
        texts = self._unknown(file, self._split(text, file.spec)[0])
        if self._room(file, texts) is None:
            self._append(name, texts)

    def set_lines(self, name: str, text: str) -> None:
        """Rewrites a declared file (kind auto) unless it holds this text already."""
        file = self._files[name]
        texts = self._split(text, file.spec)[0]
        if list(file.lines.values()) != texts:
            self._remove(name, list(file.lines))
            self._append(name, texts)

    def tick(self, name: str, item: str) -> None:
        """Ticks a checklist's item on the system's behalf."""
        self._check(name, item)

    def prune(self) -> None:
        """Cuts files above `hard_lines` down to their pinned head and their last `keep_lines`."""
        for name, file in self._files.items():
            spec = file.spec
            if spec.hard_lines and len(file.lines) > spec.hard_lines:
                keep = spec.keep_lines or spec.hard_lines - spec.pin_head
                ids = list(file.lines)
                self._remove(name, ids[spec.pin_head : max(spec.pin_head, len(ids) - keep)])

    # --- operations -----------------------------------------------------------------------------

    def _op_read(self, name: str, text: str | None) -> Result:
        del text
        return self._show("READ", name, self._get("READ", name).lines.items(), "empty")

    def _op_tail(self, name: str, text: str | None) -> Result:
        self._get("TAIL", name)
        wanted = (text or str(_TAIL_LINES)).strip()
        if not _NUMBER.fullmatch(wanted):
            raise _Refused(f"TAIL {name}: {_quote(wanted)} is no number of lines; write 1 or more")
        return self._show("TAIL", name, self.tail(name, int(wanted)), "empty")

    def _op_count(self, name: str, text: str | None) -> Result:
        lines = self._get("COUNT", name).lines
        if not text:
            return Result(True, f"COUNT {name}: {_lines(len(lines))}", name, empty=not lines)
        if len(text) > _QUERY_CHARS:
            raise _Refused(f"COUNT: the query is too long; at most {_QUERY_CHARS} characters")
        found = sum(1 for line in lines.values() if _matches(_words(text), line))
        return Result(
            True, f"COUNT {name}: {_lines(found)} with {_quote(text)}", name, empty=not found
        )

    def _search(self, args: Sequence[str]) -> Result:
        name, query = None, args[0] if args else ""
        if len(args) > 1:
            query = args[1]
            if args[0]:
                name = self._name(args[0])
                self._get("SEARCH", name)
        if len(query) > _QUERY_CHARS:
            raise _Refused(f"SEARCH: the query is too long; at most {_QUERY_CHARS} characters")
        words = _words(query)
        if not words:
            raise _Refused("SEARCH has no words to look for; write SEARCH with file|words")
        names = [name] if name else [n for n, f in self._files.items() if _may(f.spec, "SEARCH")]
        hits = [
            (number, line, n)
            for n in names
            for number, line in self._files[n].lines.items()
            if _matches(words, line)
        ]
        where = name or "all files"
        if not hits:
            return Result(True, f"SEARCH {where}: nothing with {_quote(query)}", name, empty=True)
        shown = hits[-self._limits.search_hits :]
        texts = [(number, line if name else f"{n}: {line}") for number, line, n in shown]
        answer, read = self._cut(texts)
        left = f" (last {len(shown)} of {len(hits)})" if len(shown) < len(hits) else ""
        return Result(True, f"SEARCH {where}{left}:\n{answer}", name, read=read)

    def _op_append(self, name: str, text: str | None) -> Result:
        if not text:
            raise _Refused(f"APPEND {name}: no text; write APPEND with file|text")
        file = self._get("APPEND", name, create=True)
        texts, cut = self._split(text, file.spec)
        if not texts:
            raise _Refused(f"APPEND {name}: no text; write APPEND with file|text")
        redundant = all(_normal(line) in file.known for line in texts)
        kept = self._unknown(file, texts)
        self._fit("APPEND", name, file, kept)
        ids = self._append(name, kept)
        if not kept:
            return Result(True, f"APPEND {name}: already there", name, redundant=True)
        note = self._notes(file, cut, len(texts) - len(kept))
        return Result(
            True, f"APPEND {name}: {_lines(len(ids))}{note}", name, wrote=ids, redundant=redundant
        )

    def _op_write(self, name: str, text: str | None) -> Result:
        if text is None:
            raise _Refused(f"WRITE {name}: no text; write WRITE with file|text")
        file = self._get("WRITE", name, create=True)
        texts, cut = self._split(text, file.spec)
        texts = _dedupe(texts, file.spec.dedupe)
        old = list(file.lines)
        redundant = bool(old) and [_normal(t) for t in file.lines.values()] == [
            _normal(t) for t in texts
        ]
        self._fit("WRITE", name, file, texts, replaced=file.size)
        self._remove(name, old)
        ids = self._append(name, texts)
        note = self._notes(file, cut, 0)
        return Result(
            True, f"WRITE {name}: {_lines(len(ids))}{note}", name, wrote=ids, redundant=redundant
        )

    def _op_create(self, name: str, text: str | None) -> Result:
        if name in self._files:
            raise _Refused(f"CREATE {name}: it exists; use APPEND or WRITE")
        file = self._get("CREATE", name, create=True)
        texts, cut = self._split(text or "", file.spec)
        self._fit("CREATE", name, file, texts)
        ids = self._append(name, texts)
        return Result(
            True, f"CREATE {name}: {_lines(len(ids))}{self._notes(file, cut, 0)}", name, wrote=ids
        )

    def _op_upsert(self, name: str, text: str | None) -> Result:
        file = self._get("UPSERT", name, create=True)
        fields = file.spec.key
        form = f"UPSERT with file|{','.join(fields) or 'key'}|text"
        key, bar, value = (text or "").partition("|")
        if not bar:
            key, bar, value = (text or "").partition(":")
        key = _map_key(key)
        value = " / ".join(line.strip() for line in _split_lines(value))
        if not bar or not key.strip(",") or not value:
            raise _Refused(f"UPSERT {name}: needs a key and a text; write {form}")
        if fields and key.count(",") + 1 != len(fields):
            raise _Refused(
                f"UPSERT {name}: key {_quote(key)} must have {len(fields)} parts; write {form}"
            )
        (line,), cut = self._split([f"{key}: {value}"], file.spec)
        old = file.keys.get(key)
        redundant = old is not None and _normal(file.lines[old]) == _normal(line)
        if redundant and file.spec.dedupe != "none":
            return Result(True, f"UPSERT {name}: already there", name, redundant=True)
        replaced = _bytes(file.lines[old]) if old is not None else 0
        self._fit("UPSERT", name, file, [line], replaced=replaced)
        if old is not None:
            self._remove(name, [old])
        ids = self._append(name, [line], key)
        verb = "added" if old is None else "replaced"
        return Result(
            True,
            f"UPSERT {name}: {verb} {key}{self._notes(file, cut, 0)}",
            name,
            wrote=ids,
            redundant=redundant,
        )

    def _op_check(self, name: str, text: str | None) -> Result:
        file = self._get("CHECK", name)
        items = {item.id.casefold(): item.id for item in file.spec.items}
        wanted = items.get(" ".join((text or "").split()).casefold())
        if wanted is None:
            near = difflib.get_close_matches((text or "")[:80].casefold(), items, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"items: {', '.join(items.values())}"
            raise _Refused(f"CHECK {name}: no item {_quote(text or '')}; {hint}")
        ids = self._check(name, wanted)
        if not ids:
            return Result(True, f"CHECK {name}: {wanted} was done", name, redundant=True)
        return Result(True, f"CHECK {name}: {wanted} done", name, wrote=ids)

    def _op_delete(self, name: str, text: str | None) -> Result:
        file = self._get("DELETE", name)
        if not text:
            count = len(file.lines)
            self._delete(name)
            if name in self._specs:
                self._create(name)
            return Result(True, f"DELETE {name}: {_lines(count)} gone", name)
        wanted = {_normal(line) for line in _split_lines(text)}
        ids = [number for number, line in file.lines.items() if _normal(line) in wanted]
        if not ids:
            raise _Refused(f"DELETE {name}: no such line; give a whole line, or no text for all")
        self._remove(name, ids)
        return Result(True, f"DELETE {name}: {_lines(len(ids))} gone", name)

    # --- names, texts, limits -------------------------------------------------------------------

    def _name(self, text: str) -> str:
        try:
            return file_name(text, self._limits.name_chars)
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _get(self, op: str, name: str, create: bool = False) -> _File:
        file = self._files.get(name)
        if file is None:
            near = difflib.get_close_matches(name, self._files, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else self._which_files()
            if not create or not self._new_files.allow:
                raise _Refused(f"{op} {name}: no such file; {hint}")
            own = sum(1 for n in self._files if n not in self._specs)
            most = min(self._new_files.max, self._limits.files - len(self._specs))
            if own >= most:
                raise _Refused(f"{op} {name}: no more than {most} new files; {hint}")
            return self._create(name, "map" if op == "UPSERT" else "document")
        if not _may(file.spec, op) and op != "CREATE":
            offered = ", ".join(operations_of(file.spec)) or "none"
            raise _Refused(f"{op} {name}: not allowed on this file; allowed: {offered}")
        return file

    def _which_files(self) -> str:
        return f"files: {', '.join(self._files) or 'none'}"

    def _split(self, text: str | Sequence[str], spec: FileSpec) -> tuple[list[str], int]:
        """Clean lines without blanks, and how many were cut to `max_line_chars`."""
        texts = _split_lines(text) if isinstance(text, str) else [_clean(line) for line in text]
        limit = spec.max_line_chars
        if not limit:
            return texts, 0
        cut = sum(1 for line in texts if len(line) > limit)
        return [line if len(line) <= limit else line[: limit - 2] + " …" for line in texts], cut

    def _unknown(self, file: _File, texts: list[str]) -> list[str]:
        """The lines that the file's dedupe rule lets in."""
        if file.spec.dedupe == "exact":
            return [t for t in _dedupe(texts, "exact") if t not in file.exact]
        if file.spec.dedupe == "normalized":
            return [t for t in _dedupe(texts, "normalized") if _normal(t) not in file.known]
        return texts

    def _room(self, file: _File, texts: list[str], replaced: int = 0) -> str | None:
        """Why these lines do not fit; None if they do."""
        size = sum(map(_bytes, texts)) - replaced
        if file.size + size > self._limits.file_bytes:
            return f"the file would exceed {self._limits.file_bytes} bytes; shorten it first"
        if self._total + size > self._limits.total_bytes:
            return f"all files would exceed {self._limits.total_bytes} bytes; shorten one first"
        return None

    def _fit(self, op: str, name: str, file: _File, texts: list[str], replaced: int = 0) -> None:
        problem = self._room(file, texts, replaced)
        if problem:
            raise _Refused(f"{op} {name}: {problem}")

    def _notes(self, file: _File, cut: int, dropped: int) -> str:
        """What the model should know about a write that succeeded."""
        notes = []
        if dropped:
            notes.append(f"{_lines(dropped)} already there")
        if cut:
            notes.append(f"{_lines(cut)} cut to {file.spec.max_line_chars} characters")
        if file.spec.soft_lines and len(file.lines) > file.spec.soft_lines:
            notes.append(f"{_lines(len(file.lines))} now, keep it under {file.spec.soft_lines}")
        return f" ({'; '.join(notes)})" if notes else ""

    def _show(self, op: str, name: str, lines: Iterable[tuple[int, str]], nothing: str) -> Result:
        answer, read = self._cut(lines)
        if not read:
            return Result(True, f"{op} {name}: {nothing}", name, empty=True)
        return Result(True, f"{op} {name}:\n{answer}", name, read=read)

    def _cut(self, lines: Iterable[tuple[int, str]]) -> tuple[str, tuple[int, ...]]:
        """Lines up to `read_chars`, a mark where some were left out, and the ids shown."""
        shown, ids, used, left = [], [], 0, 0
        for number, line in lines:
            if left or shown and used + len(line) > self._limits.read_chars:
                left += 1
                continue
            line = line[: self._limits.read_chars]
            used += len(line) + 1
            shown.append(line)
            ids.append(number)
        if left:
            shown.append(f"[{_lines(left)} left out; use TAIL or SEARCH]")
        return "\n".join(shown), tuple(ids)

    # --- the only places that change lines, each leaving its change -----------------------------

    def _create(self, name: str, kind: str = "document") -> _File:
        self._changes.append({"op": "create", "file": name})
        self._files[name] = _File(self._specs.get(name) or NEW_FILE_SPECS[kind])
        return self._files[name]

    def _append(self, name: str, texts: Sequence[str], key: str = "") -> tuple[int, ...]:
        """Adds lines at the end. A map's get their key: `key`, or what stands before their colon."""
        file = self._files[name]
        ids = self._insert(name, len(file.lines), texts)
        if file.spec.kind == "map":
            for number, text in zip(ids, texts, strict=True):
                own = key or (_map_key(text.partition(":")[0]) if ":" in text else "")
                if own and own not in file.keys:
                    file.keys[own] = number
                    file.key_of[number] = own
        return ids

    def _insert(self, name: str, at: int, texts: Sequence[str]) -> tuple[int, ...]:
        if not texts:
            return ()
        file = self._files[name]
        new = dict(zip(itertools.count(self._next_id), texts))
        self._next_id += len(new)
        if at == len(file.lines):
            file.lines.update(new)
        else:
            old = list(file.lines.items())
            file.lines = dict(old[:at] + list(new.items()) + old[at:])
        for text in texts:
            file.known[_normal(text)] += 1
            file.exact[text] += 1
        file.ids.extend(new)
        size = sum(map(_bytes, texts))
        file.size += size
        self._total += size
        lines = [[number, text] for number, text in new.items()]
        self._changes.append({"op": "insert", "file": name, "at": at, "lines": lines})
        return tuple(new)

    def _remove(self, name: str, ids: Sequence[int]) -> None:
        if not ids:
            return
        file = self._files[name]
        for number in ids:
            text = file.lines.pop(number)
            for counter, form in ((file.known, _normal(text)), (file.exact, text)):
                counter[form] -= 1
                if not counter[form]:
                    del counter[form]
            if number in file.key_of:
                del file.keys[file.key_of.pop(number)]
            file.size -= _bytes(text)
            self._total -= _bytes(text)
        if not file.lines:
            file.ids.clear()
        self._changes.append({"op": "remove", "file": name, "ids": list(ids)})

    def _delete(self, name: str) -> None:
        self._total -= self._files.pop(name).size
        self._changes.append({"op": "delete", "file": name})

    def _check(self, name: str, item: str) -> tuple[int, ...]:
        """Ticks an item in place; () if it was ticked."""
        file = self._files[name]
        spec = next(i for i in file.spec.items if i.id == item)
        open_line = _item_line(item, spec.label, False)
        for at, (number, line) in enumerate(file.lines.items()):
            if line == open_line:
                self._remove(name, [number])
                return self._insert(name, at, [_item_line(item, spec.label, True)])
        return ()


def replay(changes: Iterable[Mapping[str, Any]]) -> dict[str, Lines]:
    """Rebuilds every file's (id, text) lines from a trace's changes; equals MemoryStore.snapshot().

    Raises:
      ValueError: a change does not fit what came before it.
    """
    files: dict[str, dict[int, str]] = {}
    for change in changes:
        op, name = change["op"], change["file"]
        if op == "create":
            files[name] = {}
            continue
        if name not in files:
            raise ValueError(
                f"memory change {op!r} on {name!r}, which does not exist; trace incomplete"
            )
        lines = files[name]
        if op == "insert":
            new = [(number, text) for number, text in change["lines"]]
            if change["at"] == len(lines):
                lines.update(new)
            else:
                old = list(lines.items())
                files[name] = dict(old[: change["at"]] + new + old[change["at"] :])
        elif op == "remove":
            for number in change["ids"]:
                if lines.pop(number, None) is None:
                    raise ValueError(f"memory change removes line {number}, not in {name!r}")
        elif op == "delete":
            del files[name]
        else:
            raise ValueError(f"unknown memory change {op!r}; known: create, insert, remove, delete")
    return {name: tuple(lines.items()) for name, lines in files.items()}


def file_name(text: str, limit: int) -> str:
    """The one spelling of a file's name: case folded, folders kept apart, nothing above the root.

    Raises:
      ValueError: too long, or not a name; in words for the model.
    """
    shown = _quote(text)
    too_long = f"file name {shown} is too long; at most {limit} characters"
    if len(text) > 4 * limit:
        raise ValueError(too_long)
    first_line = (text.splitlines() or [""])[0]
    name = unicodedata.normalize("NFKC", first_line).casefold().replace("\\", "/")
    name = "_".join(name.split()).strip("`'\"")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if ".." in parts or not _NAME.fullmatch(name):
        raise ValueError(f"bad file name {shown}; use letters, digits, _ and -")
    if len(name) > limit:
        raise ValueError(too_long)
    return name


def open_items(lines: Lines) -> Lines:
    """A checklist's lines that are not ticked."""
    return tuple((number, line) for number, line in lines if line.startswith("[ ]"))


def _item_line(item: str, label: str, ticked: bool) -> str:
    return _clean(
        f"[{'x' if ticked else ' '}] {item}: {label}"
        if label
        else f"[{'x' if ticked else ' '}] {item}"
    )


def _may(spec: FileSpec, op: str) -> bool:
    return op in operations_of(spec)


def _split_lines(text: str) -> list[str]:
    return [line for line in map(_clean, text.splitlines()) if line]


def _clean(line: str) -> str:
    """One line without control characters, lone surrogates and white space at its end."""
    return _CONTROL.sub("\ufffd", " ".join(line.splitlines())).rstrip()


def _map_key(text: str) -> str:
    """A key's one spelling: parts without outer or repeated white space, case folded."""
    return ",".join(" ".join(part.split()).casefold() for part in _clean(text).split(","))


def _normal(text: str) -> str:
    """What two lines are compared by: words and numbers, case and punctuation aside."""
    return " ".join(_WORD.findall(text.casefold())) or text


def _dedupe(texts: Sequence[str], rule: str) -> list[str]:
    """Drops later copies within one write."""
    if rule == "none":
        return list(texts)
    form = _normal if rule == "normalized" else str
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(form(text), text)
    return list(first.values())


def _words(query: str) -> list[str]:
    return query.casefold().split()


def _matches(words: Sequence[str], line: str) -> bool:
    line = line.casefold()
    return all(word in line for word in words)


def _bytes(text: str) -> int:
    return len(text.encode()) + 1


def _lines(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"


def _quote(text: str) -> str:
    text = _clean(" ".join(text[:80].split()))
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"
