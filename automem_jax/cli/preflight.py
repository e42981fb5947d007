"""Compiles the training and decode steps for named hardware, on this machine, and says whether they fit.

`automem preflight --config=FILE --topology=v6e:2x4[,cuda:h100x8,...]`. Nothing is loaded: a checkpoint's
config.json, or the name of a known model, is enough. Needs the compiler's package: libtpu or jax[cuda12].
An answer is kept by the hash of all that it depends on; --fresh asks again. Exit status 3: does not fit.
"""

from __future__ import annotations

import json
import sys

from automem_jax import terminal
from automem_jax.cli import flags
from automem_jax.config import MeshConfig, unknown_key

_TOPOLOGY = flags.stage_flag("topology", "", "One or several, by commas: v6e:2x4, cuda:h100x8 ...")
_MESH = flags.stage_flag("mesh", "", "Instead of the config's: fsdp=2,tensor=4. Empty: chosen.")
_FIND = flags.stage_flag(
    "find",
    False,
    "Walk the listed slices, cheapest first, to the first that fits; with --topology, of its kind.",
)
_PROGRAMS = flags.stage_flag("programs", "train,prefill,decode", "Which to compile.")
_LABELS = flags.stage_flag("labels", "0", "Supervised tokens a row at most; 0: an eighth of it.")
_FRESH = flags.stage_flag("fresh", False, "Compile even where an answer is kept.")
_JSON = flags.stage_flag("json", "", "Also write all figures here; - : print only them.")
_PYTHON = flags.stage_flag("python", "", "Interpreter that has the compiler. Empty: this one.")

DOES_NOT_FIT = 3


def main(experiment: flags.Experiment) -> None:
    from automem_jax.files import write_json
    from automem_jax.preflight import check, hardware, report
    from automem_jax.preflight.compile import Compiler

    topologies = [hardware.parse(name) for name in _TOPOLOGY.value.split(",") if name.strip()]
    if not topologies and not _FIND.value:
        raise flags.UsageError("--topology=v6e:2x4 (or --find) is missing; see --help")
    compiler = Compiler(python=_PYTHON.value, fresh=_FRESH.value)
    settings = {
        "mesh": parse_mesh(_MESH.value),
        "labels": _number("labels", _LABELS.value),
        "names": _names(_PROGRAMS.value),
    }
    quiet = _JSON.value == "-"

    def say(words: str) -> None:
        if not quiet:
            print(words, flush=True)

    found, chosen = [], []
    for topology in topologies if not _FIND.value else ():
        found.append(check.check(experiment.config, topology, compiler, **settings, show=_show))
        _clear()
        say(report.text(found[-1]))
    if _FIND.value:
        for like in topologies or [None]:
            best = check.smallest(
                experiment.config,
                like,
                compiler,
                **settings,
                show=_show,
                passed=lambda one: (_clear(), say(f"{one.topology.name}: {report.verdict(one)}")),
            )
            if best is None:
                say(f"none of the listed slices{f' of {like.kind}' if like else ''} fits")
            else:
                say(f"smallest listed slice that fits: {best.topology.name}")
                say(report.text(best))
                chosen.append(best.topology.name)
                found.append(best)
    else:
        for likely in check.likely(found):
            say(likely)
    facts = {"topologies": [one.to_json() for one in found], "versions": compiler.versions()}
    if _FIND.value:
        facts["smallest_that_fits"] = chosen
    if quiet:
        print(json.dumps(facts, indent=1))
    elif _JSON.value:
        write_json(_JSON.value, facts)
    if not found or not all(one.fits for one in found):
        sys.exit(DOES_NOT_FIT)


def parse_mesh(text: str) -> MeshConfig | None:
    """A mesh written fsdp=2,tensor=4; None where empty.

    Raises:
      UsageError: an unknown axis, or a size that is no number from 1.
    """
    if not text:
        return None
    sizes = {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in ("data", "fsdp", "tensor", "sequence", "slices"):
            known = ("data", "fsdp", "tensor", "sequence", "slices")
            raise flags.UsageError(f"--mesh: {unknown_key(name, known).replace('key', 'axis')}")
        if not size.isdigit() or int(size) < 1:
            raise flags.UsageError(f"--mesh: {part!r} is not written AXIS=SIZE, e.g. tensor=8")
        sizes[name] = int(size)
    return MeshConfig(**sizes)


def _names(text: str) -> tuple[str, ...]:
    from automem_jax.preflight.check import PROGRAMS

    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in PROGRAMS:
            raise flags.UsageError(f"--programs: {name!r} is none of {', '.join(PROGRAMS)}")
    return names or PROGRAMS


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise flags.UsageError(f"--{name}: {text!r} is no number")
    return int(text)


_LAST = -60.0


def _show(name: str, seconds: float) -> None:
    """Elapsed time: on one line in a terminal, else a line a minute; on stderr."""
    global _LAST
    if sys.stderr.isatty():
        line = f"\rcompiling {name}: {seconds:.0f} s "
        print(line, end="", file=terminal.raw(sys.stderr), flush=True)
    elif seconds < 1 or seconds - _LAST >= 60:
        if seconds - _LAST >= 60 or _LAST > seconds:
            print(f"compiling {name}: {seconds:.0f} s", file=sys.stderr, flush=True)
            _LAST = seconds


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=terminal.raw(sys.stderr), flush=True)
