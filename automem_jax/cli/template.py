"""Memory templates: check them, see their prompts, compare two.

  automem template check FILE...     every problem, with its place and what mends it
  automem template show FILE         the LOG and PLAN prompts of a percept, tokens slot by slot
  automem template diff FILE FILE    what differs in structure, and what in wording only

FILE is the name of a template in configs/templates, or the path of a .py or .json file.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import sys
from typing import Any

from automem_jax.agent.template import (
    Template,
    load_template,
    structural_change,
    template_hash,
    to_data,
    wording_change,
)
from automem_jax.agent.validate import Problem, validate
from automem_jax.config import ConfigError, EnvConfig

_TASKS = {
    "minihack": EnvConfig().task,
    "nethack": "NetHackChallenge",
    "craftax_classic": "Craftax-Classic",
    "craftax": "Craftax",
}


def command(arguments: list[str]) -> None:
    """Runs one of the words with its own arguments. Exit status 1 where a template has problems."""
    options = _parser().parse_args(arguments)
    sys.exit(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="automem template",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = parser.add_subparsers(required=True, metavar="check|show|diff")

    def word(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = words.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="print one JSON value")
        return added

    check = word("check", _check, "Names every problem of every template; exit status 1 if any.")
    check.add_argument("files", nargs="+", metavar="FILE")
    show = word("show", _show, "Prints the first prompts of LOG and PLAN and what each slot takes.")
    show.add_argument("file", metavar="FILE")
    show.add_argument("--trace", help="a recorded episode: its actions and replies are taken")
    show.add_argument("--step", type=int, default=12, help="environment step (default: 12)")
    show.add_argument("--env", help=f"without --trace: {', '.join(_TASKS)} (default: template's)")
    show.add_argument("--task", help="without --trace: the environment's task")
    show.add_argument("--seed", type=int, default=0, help="without --trace: seed (default: 0)")
    show.add_argument("--prompt-mode", default="hybrid", choices=("hybrid", "language"))
    diff = word("diff", _diff, "Shows structural and wording differences apart.")
    diff.add_argument("files", nargs=2, metavar="FILE")
    return parser


# --- check ----------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    found: list[dict[str, Any]] = []
    for name in options.files:
        template, problems = _load(name)
        found.append(
            {
                "file": name,
                "id": template.id if template else None,
                "hash": template_hash(template) if template else None,
                "problems": [dataclasses.asdict(problem) for problem in problems],
            }
        )
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for row in found:
            print(_checked(row))
    return int(any(row["problems"] for row in found))


def _load(name: str) -> tuple[Template | None, list[Problem]]:
    """A template and all that is wrong with it; None where it cannot even be read."""
    try:
        template = load_template(name)
    except ConfigError as error:
        message, _, remedy = str(error).partition("; ")
        return None, [Problem(name, message, remedy or "mend it")]
    except Exception as error:  # a template file is a person's own Python
        kind = type(error).__name__
        return None, [Problem(name, f"{kind}: {error}", "the file must run by itself")]
    return template, validate(template)


def _checked(row: dict[str, Any]) -> str:
    if not row["problems"]:
        return f"{row['file']}: good ({row['id']}, {row['hash']})"
    count = len(row["problems"])
    lines = [f"{row['file']}: {count} problem{'s' if count > 1 else ''}"]
    for problem in row["problems"]:
        lines.append(f"  {problem['place']}: {problem['message']}\n    mend: {problem['remedy']}")
    return "\n".join(lines)


# --- show -----------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    from automem_jax import envs
    from automem_jax.rollout.preview import preview
    from automem_jax.traces.store import read_trace

    template = load_template(options.file)
    trace = read_trace(options.trace) if options.trace else None
    if options.step < 0:
        raise ValueError(f"--step={options.step}: must be 0 or more")
    if trace:
        name, task, seed = (trace.header[key] for key in ("env", "task", "seed"))
        if options.step >= len(trace.steps):
            raise ValueError(
                f"--step={options.step}: the trace has {len(trace.steps)} steps, from 0"
            )
    else:
        name = options.env or template.env
        if name not in _TASKS:
            raise ValueError(f"--env={name}: no such environment; name one of {', '.join(_TASKS)}")
        task, seed = options.task or _TASKS[name], options.seed
    if name.startswith("craftax"):
        from automem_jax.cli.flags import use_compilation_cache

        use_compilation_cache()
    config = EnvConfig(name=name, task=task, slots=1, max_steps=0, prompt_mode=options.prompt_mode)
    env = envs.make(config)
    try:
        phases = preview(template, env, task=task, seed=seed, step=options.step, trace=trace)
    finally:
        env.close()
    played = {"env": name, "task": task, "seed": seed, "step": options.step}
    if options.json:
        shown = [{**dataclasses.asdict(phase), "tokens": phase.tokens} for phase in phases]
        print(json.dumps({"template": template.id, **played, "phases": shown}, indent=1))
        return 0
    print(f"{template.id} on {name} {task}, seed {seed}, step {options.step}")
    for phase in phases:
        _print_phase(phase, template.limits.phase_tokens)
    return 0


def _print_phase(phase: Any, most: int) -> None:
    offered = " ".join(phase.operations) or "none"
    print(
        f"\n=== {phase.phase.upper()}: about {phase.tokens} of {most} tokens; operations: {offered}"
    )
    for slot in phase.slots:
        cut = f"  cut to {slot.cut[0]} of {slot.cut[1]} characters" if slot.cut else ""
        print(
            f"  {slot.role:<6} {slot.slot:<24} {slot.tokens:>6} tokens {slot.characters:>7} "
            f"characters{cut}"
        )
    for message in phase.messages:
        print(f"\n--- {message.role}\n{message.content}")


# --- diff -----------------------------------------------------------------------------------------


def _diff(options: argparse.Namespace) -> int:
    first, second = (load_template(name) for name in options.files)
    a, b = to_data(first), to_data(second)
    kinds = {
        "structure": structural_change(first, second),
        "wording": wording_change(first, second),
    }
    if options.json:
        found = {
            kind: [{"path": p, "before": _at(a, p), "after": _at(b, p)} for p in paths]
            for kind, paths in kinds.items()
        }
        print(json.dumps(found, indent=1))
        return 0
    for kind, paths in kinds.items():
        print(f"{kind}: {len(paths) or 'no'} difference{'' if len(paths) == 1 else 's'}")
        for path in paths:
            print(_difference(path, _at(a, path), _at(b, path), options.files))
    return 0


def _at(data: Any, path: str) -> Any:
    """The value at a path of `structural_change`; None where there is none.

    Names may hold dots (files), so the longest key that fits is taken.
    """
    if not path:
        return data
    if not isinstance(data, dict):
        return None
    for key in sorted(data, key=len, reverse=True):
        if path == key:
            return data[key]
        if path.startswith(f"{key}."):
            return _at(data[key], path[len(key) + 1 :])
    return None


def _difference(path: str, before: Any, after: Any, names: list[str]) -> str:
    old, new = _lines(before), _lines(after)
    if len(old) <= 1 and len(new) <= 1 and len("".join((*old, *new))) <= 70:
        shown = [json.dumps(value, ensure_ascii=False) for value in (before, after)]
        return f"  {path}: {shown[0]} -> {shown[1]}"
    changes = list(difflib.unified_diff(old, new, names[0], names[1], lineterm="", n=2))
    return "\n".join([f"  {path}:", *(f"    {line}" for line in changes)])


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    return text.splitlines()
