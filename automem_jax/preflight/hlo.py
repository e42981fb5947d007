"""Collectives of an optimised HLO module, by kind: how often they run and how many bytes they give.

The bodies of loops count as often as they run, where the compiler knows how often.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "token": 0}
_COMPUTATION = re.compile(r"^\s*(?:ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_OPERATION = re.compile(r"(?:^|[\s)}])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|async_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"\bs32\[\]\S*\s+constant\((\d+)\)")
_SHAPE = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


@dataclass
class Collectives:
    """Of one device and one run of the program.

    Attributes:
      counts, bytes: by kind.
      loops_unknown: loops with collectives in them whose number of turns is not known; counted once.
    """

    counts: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)
    loops_unknown: int = 0


@dataclass
class _Computation:
    own: list[tuple[str, int]] = field(default_factory=list)
    called: list[tuple[str, int | None]] = field(default_factory=list)
    constants: list[int] = field(default_factory=list)


def collectives(text: str) -> Collectives:
    """Counts the collectives of the entry computation and all that it calls."""
    computations, entry = _computations(text)
    found = Collectives()

    def visit(name: str, times: int) -> bool:
        computation = computations.get(name)
        if computation is None:
            return False
        for kind, size in computation.own:
            found.counts[kind] += times
            found.bytes[kind] += times * size
        any_here = bool(computation.own)
        for called, turns in computation.called:
            inside = visit(called, times * (1 if turns is None else turns))
            found.loops_unknown += inside and turns is None
            any_here |= inside
        return any_here

    visit(entry, 1)
    return found


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    found: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    loops: list[tuple[_Computation, str, str]] = []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = found.setdefault(header[1], _Computation())
            if line.lstrip().startswith("ENTRY"):
                entry = header[1]
            continue
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            continue
        body = instruction[2]
        operation = _OPERATION.search(body)
        if operation is None:
            continue
        name, shape = operation[1], body[: operation.start()]
        constant = _CONSTANT.match(body)
        if constant:
            current.constants.append(int(constant[1]))
        kind = name.removesuffix("-start")
        if kind in KINDS:
            current.own.append((kind, _bytes(shape, started=name.endswith("-start"))))
        elif name == "while":
            inner = _CALLED.search(body)
            trips, condition = _TRIPS.search(body), _CONDITION.search(body)
            if inner and trips:
                current.called.append((inner[1], int(trips[1])))
            elif inner:
                loops.append((current, inner[1], condition[1] if condition else ""))
        elif name == "conditional":
            branches = _BRANCHES.search(body)
            for branch in branches[1].split(",") if branches else ():
                current.called.append((branch.strip().lstrip("%"), 1))
        elif not name.endswith(("-done", "-update")):
            current.called += [(called, 1) for called in _CALLED.findall(body)]
    for computation, inner, condition in loops:
        bounds = found[condition].constants if condition in found else []
        computation.called.append((inner, bounds[0] if len(bounds) == 1 else None))
    return found, entry


def _bytes(shape: str, started: bool) -> int:
    """Of the result; a started operation's shape also names what goes in, which comes first."""
    arrays = [(kind, dims) for kind, dims in _SHAPE.findall(shape) if kind != "token"]
    sizes = [math.prod(map(int, filter(None, d.split(",")))) * _bits(k) // 8 for k, d in arrays]
    if not started or len(sizes) < 2:
        return sum(sizes)
    plain = [size for size, (_, dims) in zip(sizes, arrays, strict=True) if dims]
    return sum(plain[len(plain) // 2 :])


def _bits(kind: str) -> int:
    if kind in _BITS:
        return _BITS[kind]
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else 32
