"""Every line that memory held in an episode: who wrote it, who read it, when it left."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Any


class LineTable:
    """Follows a trace's steps in order. Costs a step what happens in it, not what memory holds."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[str, Any]] = {}
        self._ids: dict[str, list[int]] = {}  # a file's line ids, rising
        self._held: dict[str, set[int]] = {}
        self._shown: list[tuple[int, str, list]] = []  # (step, file, ranges), where they changed
        self._last: dict[str, list] = {}
        self._steps = 0

    def follow(self, step: int, record: Mapping[str, Any]) -> None:
        """Takes the next step's full record."""
        self._steps = step + 1
        for change in record["memory"]:
            self._change(step, change)
        for phase in record["phases"]:
            if phase["phase"] == "plan":
                self._note_shown(step, phase["shown"])
            for index, turn in enumerate(phase["turns"]):
                at = [step, phase["phase"], index]
                for operation in turn["operations"]:
                    for number in operation["read"]:
                        if number in self._lines:
                            self._lines[number]["reads"].append(at)
                    for number in operation["wrote"]:
                        if number in self._lines:
                            self._lines[number]["writer"] = [*at, operation["op"]]

    def table(self) -> dict[str, Any]:
        """JSON-ready: `lines`, each with

        id, file, text, born (the step that added it), died (the step that took it away, or None),
        writer ([step, phase, turn, operation]; None: the system), reads ([step, phase, turn]: an
        operation returned it) and shown ([first, last] steps in which the first PLAN prompt
        displayed it without being asked).
        """
        shown: dict[int, list[list[int]]] = {}
        now: dict[str, set[int]] = {}
        for step, file, ranges in self._shown:
            before, lines = now.get(file, set()), self._within(file, ranges)
            for number in before - lines:
                shown[number][-1][1] = step - 1
            for number in lines - before:
                shown.setdefault(number, []).append([step, self._steps - 1])
            now[file] = lines
        rows = []
        for line in self._lines.values():
            last = self._steps - 1 if line["died"] is None else line["died"]
            spans = [[a, min(b, last)] for a, b in shown.get(line["id"], ()) if a <= last]
            rows.append({**line, "shown": spans})
        return {"lines": rows, "steps": self._steps}

    def _change(self, step: int, change: Mapping[str, Any]) -> None:
        file = change["file"]
        if change["op"] == "insert":
            for number, text in change["lines"]:
                self._lines[number] = {
                    "id": number,
                    "file": file,
                    "text": text,
                    "born": step,
                    "died": None,
                    "writer": None,
                    "reads": [],
                }
                self._ids.setdefault(file, []).append(number)
                self._held.setdefault(file, set()).add(number)
        elif change["op"] == "remove":
            for number in change["ids"]:
                self._die(step, file, number)
        elif change["op"] == "delete":
            for number in self._held.pop(file, set()):
                self._lines[number]["died"] = step

    def _die(self, step: int, file: str, number: int) -> None:
        self._held.get(file, set()).discard(number)
        if number in self._lines:
            self._lines[number]["died"] = step

    def _note_shown(self, step: int, shown: Mapping[str, list]) -> None:
        for file in self._last.keys() - shown.keys():
            self._shown.append((step, file, []))
            del self._last[file]
        for file, ranges in shown.items():
            if self._last.get(file) != ranges:
                self._last[file] = ranges
                self._shown.append((step, file, ranges))

    def _within(self, file: str, ranges: list) -> set[int]:
        ids = self._ids.get(file, [])
        found: set[int] = set()
        for first, last in ranges:
            found.update(ids[bisect.bisect_left(ids, first) : bisect.bisect_right(ids, last)])
        return found
