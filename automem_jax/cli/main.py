"""`automem <stage> [flags]`: finds the stage, parses its flags, turns known errors into one line."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

STAGES = {
    "pipeline": "the whole loop: evolve, collect, select, train, evaluate, report",
    "rollout": "play episodes and write traces",
    "evolve": "loop 1: improve the memory template, gated on paired seeds",
    "select": "loop 2: pick good memory decisions from traces",
    "train": "loop 2: train the memory specialist's adapter",
    "recipes": "loop 2: search for the data and LoRA settings of the best specialist",
    "online": "loop 2: rounds of collecting with the specialist and training on",
    "attribute": "train without each signal in turn and evaluate: what each is worth",
    "evaluate": "two-model evaluation and attribution on held-out seeds",
    "serve": "the model and its adapters behind an OpenAI-compatible HTTP API",
    "preflight": "compile for named hardware on any machine: does it fit, and what it costs",
    "report": "write the HTML report of a work directory",
    "forecast": "episodes, calls, tokens, money and time of a run, before it is begun",
    "status": "how the runs of a work directory stand, alive or dead",
    "compare": "several work directories on one page, paired where seeds are the same",
    "export": "results in BALROG's format, with its summary table",
    "view": "play recorded episodes in a browser, or export them as one file",
    "template": "check, show, diff: memory templates, their prompts and differences",
    "memory": "export: the files of a recorded episode as they were after a step",
    "models": "get: fetch a small model by name, checked by hash",
    "convert": "weights and adapters to and from hf, merged, peft, orbax",
    "envs": "check: play every environment twice and compare all observations",
    "bench": "env, harness, select, train, decode: what each costs, and what others take for the same",
}


def run(argv: list[str] | None = None) -> None:
    """Console entry point. Exit status 0 done, 1 a known error, 2 wrong usage, 130 interrupted."""
    argv = list(sys.argv if argv is None else argv)
    if len(argv) < 2 or argv[1] in ("-h", "--help", "help"):
        print(_usage())
        sys.exit(0 if len(argv) >= 2 else 2)
    if argv[1] == "--version":
        from automem_jax import __version__

        print(f"automem_jax {__version__}")
        sys.exit(0)
    stage = argv[1]
    if stage not in STAGES:
        from automem_jax.config import unknown_key

        print(f"automem: {unknown_key(stage, STAGES).replace('key', 'stage')}", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from automem_jax.terminal import inert_output

    with inert_output():
        try:
            _run_stage(stage, argv[2:])
        except Exception:  # the interpreter would print it past the filter
            traceback.print_exc()
            sys.exit(1)


def _run_stage(stage: str, arguments: list[str]) -> None:
    module = importlib.import_module(f"automem_jax.cli.{stage}")
    from automem_jax.cli import flags

    main = getattr(module, "main", None)
    try:
        if hasattr(module, "command"):  # a tool with arguments of its own, on no experiment
            module.command(arguments)
            return
        if hasattr(module, "WORDS"):
            stage, arguments = _with_word(stage, module.WORDS, arguments)
            main = getattr(module, f"main_{stage.split()[-1]}", main)
        positional = getattr(module, "POSITIONAL", ())
        experiment = flags.parse(f"automem {stage}", module.__doc__, arguments, positional)
        main(experiment)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where this one stopped", file=sys.stderr)
        sys.exit(130)
    except flags.known_errors() as error:
        print(f"automem {stage}: {flags.one_line(error)}", file=sys.stderr)
        if os.environ.get("AUTOMEM_TRACEBACK"):
            raise
        sys.exit(1)


def _with_word(stage: str, words: tuple[str, ...], arguments: list[str]) -> tuple[str, list[str]]:
    """Splits off the word that says which of the stage's tools to run; it comes right after it.

    Raises:
      UsageError: no such word; the nearest one is named.
    """
    from automem_jax.cli import flags
    from automem_jax.config import unknown_key

    if arguments and arguments[0] in words:
        return f"{stage} {arguments[0]}", arguments[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        return stage, arguments
    if not arguments or arguments[0].startswith("-"):
        raise flags.UsageError(f"which one? automem {stage} {'|'.join(words)} [flags]")
    problem = unknown_key(arguments[0], words).replace("key", "word").replace("words:", "ones:")
    raise flags.UsageError(f"{problem}; automem {stage} {'|'.join(words)} [flags]")


def _usage() -> str:
    lines = ["usage: automem STAGE [--config=FILE] [--workdir=DIR] [--config.field=value ...]", ""]
    lines += [f"  {name:<10} {what}" for name, what in STAGES.items()]
    lines += [
        "",
        "`automem STAGE --help` lists a stage's flags. Every stage continues where it stopped.",
        "AUTOMEM_TRACEBACK=1 in the environment shows where an error came from.",
    ]
    return "\n".join(lines)
