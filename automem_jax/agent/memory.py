"""The agent's files, kept in RAM: what each operation does and what it answers.

Nothing the model writes can raise: what cannot be done is answered in words that say what can. The
cost of APPEND, UPSERT, TAIL and the file index does not depend on how long the episode has run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automem_jax.agent.grammar import OPERATIONS, READ_OPERATIONS
from automem_jax.agent.memory_table import MemoryFile, MemoryTable, replay
from automem_jax.agent.memory_texts import (
    Lines,
    clean,
    count_of,
    file_name,
    item_line,
    key_and_value,
    map_key,
    normal,
    open_items,
    quoted,
    shortened,
    split_lines,
    stored_bytes,
    without_repeats,
)
from automem_jax.agent.template import (
    NEW_FILE_SPECS,
    FileSpec,
    Limits,
    NewFiles,
    operations_of,
)

__all__ = ["Lines", "MemoryStore", "Result", "file_name", "open_items", "replay"]

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


class _Refused(Exception):
    """An operation that cannot be executed; the message is for the model."""


class MemoryStore:
    """All files of one episode.

    Args:
      files: declared files by name; each is created at once, with its seed or checklist.
      limits: sizes and counts that no operation may exceed.
      new_files: whether the agent may create files of its own, and how many.
      renamed: operation -> how the agent writes it; answers use the same word.
    """

    def __init__(
        self,
        files: Mapping[str, FileSpec] | None = None,
        limits: Limits | None = None,
        new_files: NewFiles | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self._specs = dict(files or {})
        self._limits = limits or Limits()
        self._new_files = new_files or NewFiles()
        self._words = {op: op for op in OPERATIONS} | dict(renamed or {})
        self._table = MemoryTable()
        self._files = self._table.files
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
            self._table.create(name, spec)
            seed = [item_line(item.id, item.label, False) for item in spec.items]
            self._table.append(name, self._split(seed or spec.seed, spec)[0])

    # --- what the agent, the slots and the trace see -------------------------------------------

    def execute(self, op: str, args: Sequence[str], allowed: Iterable[str] | None = None) -> Result:
        """Executes one operation. Never raises.

        Args:
          op: an operation's name, upper case.
          args: as split by the grammar: at most a file and a text.
          allowed: operations that the current phase offers; None for all.
        """
        if op not in OPERATIONS or (allowed is not None and op not in allowed):
            offered = ", ".join(self._words[o] for o in (allowed or ())) or "none"
            error = f"{self._words.get(op, quoted(op))} is not allowed here; allowed: {offered}"
            return Result(False, f"error: {error}", error=error)
        file = None
        before = set(self._files)
        word = self._words[op]
        try:
            text = args[1] if len(args) > 1 else None
            if text is not None and len(text) > self._limits.file_bytes:
                raise _Refused(
                    f"{word}: the text exceeds {self._limits.file_bytes} bytes; shorten it"
                )
            if op == "SEARCH":
                return self._search(args)
            if not args or not args[0]:
                raise _Refused(f"{word} names no file; {self._which_files()}")
            file = self._name(args[0])
            return self._operations[op](file, text)
        except _Refused as refusal:
            for name in set(self._files) - before:
                self._table.delete(name)
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
        return file.tail(count) if file else ()

    def version(self, name: str) -> tuple[int, ...]:
        """What is equal only as long as the file's lines are the same; ids are never reused."""
        file = self._files.get(name)
        if file is None:
            return ()
        return file.given, len(file.lines), next(reversed(file.lines), -1)

    def ranges(self, name: str, ids: Iterable[int]) -> list[list[int]]:
        """Runs [first, last] that cover these lines of a file and none that it holds or held besides."""
        file = self._files.get(name)
        return file.ranges(ids) if file else []

    def index(self) -> list[tuple[str, FileSpec, int]]:
        """(name, spec, number of lines) of every file: declared ones first, then the agent's."""
        return [(name, file.spec, len(file.lines)) for name, file in self._files.items()]

    def snapshot(self) -> dict[str, Lines]:
        """Every file's lines, for tests and viewers."""
        return {name: self.lines(name) for name in self._files}

    def changes(self) -> list[dict[str, Any]]:
        """Changes since the last call, JSON-ready and in order; `replay` rebuilds files from them."""
        return self._table.changes()

    # --- what the system does by itself; no operation claims these lines ------------------------

    def add_lines(self, name: str, text: str) -> None:
        """Appends text to a declared file on the system's behalf, under the file's dedupe rule."""
        file = self._files[name]
        texts = self._unknown(file, self._split(text, file.spec)[0])
        if self._no_room(file, texts) is None:
            self._table.append(name, texts)

    def set_lines(self, name: str, text: str) -> None:
        """Rewrites a declared file (kind auto) unless it holds this text already."""
        file = self._files[name]
        texts = self._split(text, file.spec)[0]
        if list(file.lines.values()) != texts:
            self._table.remove(name, list(file.lines))
            self._table.append(name, texts)

    def put(self, name: str, text: str, kind: str = "document") -> None:
        """Puts an imported file's text in the place of what the store holds under this name.

        Args:
          name: a declared file, which keeps its rules, or one of the agent's own, made where it is
            missing.
          text: the file's lines.
          kind: of a file that has to be made: document or map.

        Raises:
          ValueError: a name or size that the limits do not allow.
        """
        if file_name(name, self._limits.name_chars) != name:
            raise ValueError(f"file name {quoted(name)} has another spelling; rename it")
        file = self._files.get(name)
        spec = file.spec if file else NEW_FILE_SPECS[kind]
        texts = self._split(text, spec)[0]
        problem = self._no_room(file or MemoryFile(spec), texts, replaced=file.size if file else 0)
        if file is None and len(self._files) >= self._limits.files:
            problem = f"there may be {self._limits.files} files"
        if problem:
            raise ValueError(f"file {name!r} cannot be put into memory: {problem}")
        if file is None:
            self._table.create(name, spec)
        else:
            self._table.remove(name, list(file.lines))
        self._table.append(name, texts)

    def tick(self, name: str, item: str) -> None:
        """Ticks a checklist's item on the system's behalf."""
        self._check(name, item)

    def hide(self, ids: Iterable[int]) -> None:
        """Takes lines away wherever they stand, for a copy that must not show them."""
        hidden = set(ids)
        for name, file in self._files.items():
            self._table.remove(name, [number for number in file.lines if number in hidden])

    def prune(self) -> None:
        """Cuts files above `hard_lines` down to their pinned lines and their last `keep_lines`."""
        for name, file in self._files.items():
            self._table.remove(name, file.excess())

    # --- operations -----------------------------------------------------------------------------

    def _op_read(self, name: str, text: str | None) -> Result:
        del text
        lines = self._get("READ", name).lines
        return self._show("READ", name, lines.items(), len(lines))

    def _op_tail(self, name: str, text: str | None) -> Result:
        self._get("TAIL", name)
        wanted = (text or str(_TAIL_LINES)).strip()
        if not _NUMBER.fullmatch(wanted):
            raise _Refused(
                f"{self._words['TAIL']} {name}: {quoted(wanted)} is no number of lines; "
                "write 1 or more"
            )
        return self._show_last("TAIL", name, self.tail(name, int(wanted)))

    def _op_count(self, name: str, text: str | None) -> Result:
        word = self._words["COUNT"]
        lines = self._get("COUNT", name).lines
        if not text:
            return Result(True, f"{word} {name}: {count_of(len(lines))}", name, empty=not lines)
        words = self._query("COUNT", text)
        found = sum(1 for line in lines.values() if _matches(words, line))
        answer = f"{word} {name}: {count_of(found)} with {quoted(text)}"
        return Result(True, answer, name, empty=not found)

    def _search(self, args: Sequence[str]) -> Result:
        name, query = None, args[0] if args else ""
        if len(args) > 1:
            query = args[1]
            if args[0]:
                name = self._name(args[0])
                self._get("SEARCH", name)
        words = self._query("SEARCH", query)
        if not words:
            raise _Refused(
                f"{self._words['SEARCH']} has no words to look for; write "
                f"{self._words['SEARCH']} with file|words"
            )
        names = (
            [name]
            if name
            else [n for n, f in self._files.items() if "SEARCH" in operations_of(f.spec)]
        )
        hits = [
            (number, line if name else f"{n}: {line}")
            for n in names
            for number, line in self._files[n].lines.items()
            if _matches(words, line)
        ]
        where = name or "all files"
        if not hits:
            answer = f"{self._words['SEARCH']} {where}: nothing with {quoted(query)}"
            return Result(True, answer, name, empty=True)
        shown = hits[-self._limits.search_hits :]
        answer, read = self._cut_first(shown)
        left = f" (last {len(shown)} of {len(hits)})" if len(shown) < len(hits) else ""
        return Result(True, f"{self._words['SEARCH']} {where}{left}:\n{answer}", name, read=read)

    def _op_append(self, name: str, text: str | None) -> Result:
        word = self._words["APPEND"]
        nothing = f"{word} {name}: no text; write {word} with file|text"
        if not text:
            raise _Refused(nothing)
        file = self._get("APPEND", name, create=True)
        texts, cut = self._split(text, file.spec)
        if not texts:
            raise _Refused(nothing)
        redundant = all(normal(line) in file.known for line in texts)
        kept = self._unknown(file, texts)
        self._fit("APPEND", name, file, kept)
        ids = self._table.append(name, kept)
        if not kept:
            return Result(True, f"{word} {name}: already there", name, redundant=True)
        note = self._notes(file, cut, len(texts) - len(kept))
        return Result(
            True, f"{word} {name}: {count_of(len(ids))}{note}", name, wrote=ids, redundant=redundant
        )

    def _op_write(self, name: str, text: str | None) -> Result:
        word = self._words["WRITE"]
        if text is None:
            raise _Refused(f"{word} {name}: no text; write {word} with file|text")
        file = self._get("WRITE", name, create=True)
        texts, cut = self._split(text, file.spec)
        texts = without_repeats(texts, file.spec.dedupe)
        redundant = bool(file.lines) and list(map(normal, file.lines.values())) == list(
            map(normal, texts)
        )
        self._fit("WRITE", name, file, texts, replaced=file.size)
        self._table.remove(name, list(file.lines))
        ids = self._table.append(name, texts)
        note = self._notes(file, cut, 0)
        return Result(
            True, f"{word} {name}: {count_of(len(ids))}{note}", name, wrote=ids, redundant=redundant
        )

    def _op_create(self, name: str, text: str | None) -> Result:
        word = self._words["CREATE"]
        if name in self._files:
            offered = self._offered(self._files[name].spec)
            raise _Refused(f"{word} {name}: it exists; it takes {offered}")
        file = self._get("CREATE", name, create=True)
        texts, cut = self._split(text or "", file.spec)
        self._fit("CREATE", name, file, texts)
        ids = self._table.append(name, texts)
        note = self._notes(file, cut, 0)
        return Result(True, f"{word} {name}: {count_of(len(ids))}{note}", name, wrote=ids)

    def _op_upsert(self, name: str, text: str | None) -> Result:
        word = self._words["UPSERT"]
        file = self._get("UPSERT", name, create=True)
        fields = file.spec.key
        form = f"{word} with file|{','.join(fields) or 'key'}|text"
        key, bar, value = (text or "").partition("|")
        key, value = (map_key(key), value) if bar else key_and_value(text or "")
        value = " / ".join(line.strip() for line in split_lines(value))
        if not key.strip(",") or not value:
            raise _Refused(f"{word} {name}: needs a key and a text; write {form}")
        if fields and key.count(",") + 1 != len(fields):
            raise _Refused(
                f"{word} {name}: key {quoted(key)} must have {len(fields)} parts; write {form}"
            )
        limit = file.spec.max_line_chars
        if limit and len(key) + 4 > limit:
            raise _Refused(f"{word} {name}: key {quoted(key)} is too long; lines hold {limit}")
        (line,), cut = self._split([f"{key}: {value}"], file.spec)
        old = file.keys.get(key)
        redundant = old is not None and normal(file.lines[old]) == normal(line)
        if redundant and file.spec.dedupe != "none":
            return Result(True, f"{word} {name}: already there", name, redundant=True)
        replaced = stored_bytes(file.lines[old]) if old is not None else 0
        self._fit("UPSERT", name, file, [line], replaced=replaced)
        pinned = old in file.pinned
        if old is not None:
            self._table.remove(name, [old])
        ids = self._table.append(name, [line], key)
        if pinned:
            file.pinned.update(ids)
        answer = f"{word} {name}: {'added' if old is None else 'replaced'} {key}"
        note = self._notes(file, cut, 0)
        return Result(True, answer + note, name, wrote=ids, redundant=redundant)

    def _op_check(self, name: str, text: str | None) -> Result:
        word = self._words["CHECK"]
        file = self._get("CHECK", name)
        items = {item.id.casefold(): item.id for item in file.spec.items}
        wanted = items.get(" ".join((text or "")[:_QUERY_CHARS].split()).casefold())
        if wanted is None:
            near = difflib.get_close_matches((text or "")[:80].casefold(), items, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"items: {', '.join(items.values())}"
            raise _Refused(f"{word} {name}: no item {quoted(text or '')}; {hint}")
        ids = self._check(name, wanted)
        if not ids:
            return Result(True, f"{word} {name}: {wanted} was done", name, redundant=True)
        return Result(True, f"{word} {name}: {wanted} done", name, wrote=ids)

    def _op_delete(self, name: str, text: str | None) -> Result:
        word = self._words["DELETE"]
        file = self._get("DELETE", name)
        if not text:
            count = len(file.lines)
            self._table.delete(name)
            if name in self._specs:
                self._table.create(name, file.spec)
            return Result(True, f"{word} {name}: {count_of(count)} gone", name)
        wanted = {normal(line) for line in split_lines(text)}
        ids = [number for number, line in file.lines.items() if normal(line) in wanted]
        if not ids and map_key(text[:_QUERY_CHARS]) in file.keys:
            ids = [file.keys[map_key(text[:_QUERY_CHARS])]]
        if not ids:
            raise _Refused(f"{word} {name}: no such line; give a whole line, or no text for all")
        self._table.remove(name, ids)
        return Result(True, f"{word} {name}: {count_of(len(ids))} gone", name)

    def _check(self, name: str, item: str) -> tuple[int, ...]:
        """Ticks an item in place, or adds it where its line is gone; () if it was ticked."""
        file = self._files[name]
        label = next(i.label for i in file.spec.items if i.id == item)
        (unticked, ticked), _ = self._split(
            [item_line(item, label, False), item_line(item, label, True)], file.spec
        )
        if unticked in file.exact:
            for at, (number, line) in enumerate(file.lines.items()):
                if line == unticked:
                    pinned = number in file.pinned
                    self._table.remove(name, [number])
                    ids = self._table.insert(name, at, [ticked])
                    if pinned:
                        file.pinned.update(ids)
                    return ids
        return () if ticked in file.exact else self._table.append(name, [ticked])

    # --- names, texts, limits -------------------------------------------------------------------

    def _name(self, text: str) -> str:
        try:
            return file_name(text, self._limits.name_chars)
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _get(self, op: str, name: str, create: bool = False) -> MemoryFile:
        word, file = self._words[op], self._files.get(name)
        if file is None:
            near = difflib.get_close_matches(name, self._files, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else self._which_files()
            if not create or not self._new_files.allow:
                raise _Refused(f"{word} {name}: no such file; {hint}")
            own = sum(1 for n in self._files if n not in self._specs)
            most = max(0, min(self._new_files.max, self._limits.files - len(self._specs)))
            if own >= most:
                raise _Refused(f"{word} {name}: no more than {most} new files; {hint}")
            return self._table.create(name, NEW_FILE_SPECS["map" if op == "UPSERT" else "document"])
        if op not in operations_of(file.spec) and op != "CREATE":
            raise _Refused(
                f"{word} {name}: not allowed on this file; allowed: {self._offered(file.spec)}"
            )
        return file

    def _offered(self, spec: FileSpec) -> str:
        return ", ".join(self._words[op] for op in operations_of(spec)) or "none"

    def _which_files(self) -> str:
        return f"files: {', '.join(self._files) or 'none'}"

    def _query(self, op: str, text: str) -> list[str]:
        if len(text) > _QUERY_CHARS:
            raise _Refused(
                f"{self._words[op]}: the query is too long; at most {_QUERY_CHARS} characters"
            )
        return clean(text).casefold().split()

    def _split(self, text: str | Sequence[str], spec: FileSpec) -> tuple[list[str], int]:
        """Clean lines without blanks, and how many were cut to `max_line_chars`."""
        texts = split_lines(text) if isinstance(text, str) else [clean(line) for line in text]
        limit = spec.max_line_chars
        if not limit:
            return texts, 0
        cut = sum(1 for line in texts if len(line) > limit)
        return [line if len(line) <= limit else line[: limit - 2] + " …" for line in texts], cut

    def _unknown(self, file: MemoryFile, texts: list[str]) -> list[str]:
        """The lines that the file's dedupe rule lets in."""
        if file.spec.dedupe == "exact":
            return [t for t in without_repeats(texts, "exact") if t not in file.exact]
        if file.spec.dedupe == "normalized":
            return [t for t in without_repeats(texts, "normalized") if normal(t) not in file.known]
        return texts

    def _no_room(self, file: MemoryFile, texts: list[str], replaced: int = 0) -> str | None:
        """Why these lines do not fit; None if they do."""
        size = sum(map(stored_bytes, texts)) - replaced
        if file.size + size > self._limits.file_bytes:
            return f"the file would exceed {self._limits.file_bytes} bytes"
        if self._table.total + size > self._limits.total_bytes:
            return f"all files would exceed {self._limits.total_bytes} bytes"
        return None

    def _fit(
        self, op: str, name: str, file: MemoryFile, texts: list[str], replaced: int = 0
    ) -> None:
        problem = self._no_room(file, texts, replaced)
        if problem is None:
            return
        ways = [self._words[o] for o in ("WRITE", "DELETE") if o in operations_of(file.spec)]
        mend = f"shorten it first with {' or '.join(ways)}" if ways else "write less, or elsewhere"
        raise _Refused(f"{self._words[op]} {name}: {problem}; {mend}")

    def _notes(self, file: MemoryFile, cut: int, dropped: int) -> str:
        """What the model should know about a write that succeeded."""
        notes = []
        if dropped:
            notes.append(f"{count_of(dropped)} already there")
        if cut:
            notes.append(f"{count_of(cut)} cut to {file.spec.max_line_chars} characters")
        if file.spec.soft_lines and len(file.lines) > file.spec.soft_lines:
            notes.append(f"{count_of(len(file.lines))} now, keep it under {file.spec.soft_lines}")
        return f" ({'; '.join(notes)})" if notes else ""

    # --- answers of bounded length --------------------------------------------------------------

    def _show(self, op: str, name: str, lines: Iterable[tuple[int, str]], count: int) -> Result:
        """The first lines that `read_chars` holds, and how many there are besides."""
        shown, ids, used = [], [], 0
        for number, line in lines:
            if shown and used + len(line) > self._limits.read_chars:
                break
            shown.append(shortened(line, self._limits.read_chars))
            used += len(line) + 1
            ids.append(number)
        if count > len(shown):
            more = f"use {self._words['TAIL']} or {self._words['SEARCH']}"
            shown.append(f"[{count_of(count - len(shown))} left out; {more}]")
        return self._shown(op, name, "\n".join(shown), tuple(ids))

    def _show_last(self, op: str, name: str, lines: Lines) -> Result:
        return self._shown(op, name, *self._cut_first(lines))

    def _shown(self, op: str, name: str, answer: str, read: tuple[int, ...]) -> Result:
        if not read:
            return Result(True, f"{self._words[op]} {name}: empty", name, empty=True)
        return Result(True, f"{self._words[op]} {name}:\n{answer}", name, read=read)

    def _cut_first(self, lines: Sequence[tuple[int, str]]) -> tuple[str, tuple[int, ...]]:
        """The last lines that `read_chars` holds under a mark that counts the others; their ids."""
        shown, used = [], 0
        for number, line in reversed(lines):
            if shown and used + len(line) > self._limits.read_chars:
                break
            shown.append((number, shortened(line, self._limits.read_chars)))
            used += len(line) + 1
        shown.reverse()
        left = len(lines) - len(shown)
        mark = [f"[{count_of(left)} before these left out]"] if left else []
        return "\n".join(mark + [line for _, line in shown]), tuple(n for n, _ in shown)


def _matches(words: Sequence[str], line: str) -> bool:
    line = line.casefold()
    return all(word in line for word in words)
