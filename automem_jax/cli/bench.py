"""Benchmarks. `automem bench env` measures environments: steps/s with text and without, resets,
compilation and worker processes; where the `balrog` package is installed, its environments too.
`automem bench train` measures fine-tuning as the config sets it: tokens/s, packing, share of the measured
matmul peak, memory, compilation; where torch, transformers and peft are installed (here or in
--torch_python), the same job by them.

`automem bench decode` replays the requests of recorded episodes (--requests: a file of them or a
directory of traces) with the config's model: requests/s, tokens/s, prefix reuse, time to first token,
memory; where torch and transformers are installed (here or in --torch_python), --torch_requests of them
by `generate` on the same weights, one at a time and in batches of 8, in pauses of the replay. --adapters=2
measures what adapters cost in a mixed batch.

`automem bench harness` plays an episode under --config.agent.template with a scripted player, in one
environment (--env), and measures what the agent costs besides environment and model: time a step early
and late, trace size, prompts, and the share of prompt tokens that a prefix cache could reuse.

`automem bench select` selects by signals from --traces episodes of --play_steps steps of that player, of
which --distinct are no copies, and from half as long ones: wall time, processor time, memory.

Prints tables and writes WORKDIR/bench/env.json, harness.json, select.json, train.json or decode.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from automem_jax import terminal
from automem_jax.cli import environment_flags, flags
from automem_jax.files import write_json

WORDS = ("env", "harness", "select", "train", "decode")
WORKERS = "0,1,2"

_BATCH = flags.stage_flag("batch", "16,64,256", "Numbers of slots to measure.")
_SECONDS = flags.stage_flag("seconds", "3", "Seconds to measure each combination for.")
_COMPILE = flags.stage_flag(
    "compile", "yes", "Time a first step with an empty and a filled cache.", ["yes", "no"]
)
_PLAYED = flags.stage_flag("play_steps", "2000", "harness, select: steps of an episode.")
_TRACES = flags.stage_flag("traces", "100", "select: episodes to select from.")
_DISTINCT = flags.stage_flag("distinct", "10", "select: how many of them are played, not copied.")


_EXAMPLES = flags.stage_flag(
    "examples", "", "train: examples.jsonl to train on. Empty: turns of a scripted player."
)
_STEPS = flags.stage_flag("steps", "6", "train: optimizer steps to time, after one that compiles.")
_TORCH_PYTHON = flags.stage_flag(
    "torch_python",
    "",
    "train, decode: Python interpreter that has torch, transformers and (train) peft.",
)
_TORCH = flags.stage_flag(
    "torch",
    "yes",
    "train: the same items by transformers + PEFT, between the steps.",
    ["yes", "no"],
)
_REQUESTS = flags.stage_flag(
    "requests", "", "decode: file of recorded requests, or traces. Empty: the shipped file."
)
_RECORDED = flags.stage_flag(
    "recorded", "craftax_classic", "decode: take episodes whose env or template is this; all: all."
)
_EPISODES = flags.stage_flag("episodes", "8", "decode: episodes that are replayed side by side.")
_PER_EPISODE = flags.stage_flag(
    "requests_per_episode", "0", "decode: take the first so many of each episode; 0: all."
)
_NEW_TOKENS = flags.stage_flag("new_tokens", "32", "decode: the longest answer, in tokens.")
_REUSE = flags.stage_flag("prefix_reuse", "on", "decode: reuse cached prefixes.", ["on", "off"])
_TORCH_REQUESTS = flags.stage_flag(
    "torch_requests", "16", "decode: requests to time with transformers; 0: none; all: all."
)
_ADAPTERS = flags.stage_flag(
    "adapters", "0", "decode: also measure rows of so many random adapters and the base, mixed."
)
ITEMS = 256


def main_harness(experiment: flags.Experiment) -> None:
    """`automem bench harness`."""
    from automem_jax.agent.template import load_template
    from automem_jax.agent.validate import check
    from automem_jax.bench import env as bench
    from automem_jax.bench import harness

    configs = environment_flags.chosen(experiment.config.env)
    steps = environment_flags.whole_numbers(
        "play_steps", _PLAYED.value, least=2 * harness.WINDOW, most=1
    )[0]
    template = load_template(experiment.config.agent.template)
    check(template)
    flags.use_compilation_cache()
    folder = experiment.workdir / "bench"
    rows = harness.run(configs, template, steps, folder / "harness")
    write_json(folder / "harness.json", {"machine": bench.machine(), "measured": rows})
    for row in rows:
        shares = ", ".join(f"{role} {share:.1%}" for role, share in row["prefix_share"].items())
        print(
            f"{row['env']}, {row['template']}, steps {row['steps']} (worlds {row['worlds']}, operations "
            f"{row['operations']}, lines of memory {row['memory_lines']})\n"
            f"  harness ms/step: {row['early_ms']:.2f} around step {harness.EARLY_STEP}, "
            f"{row['late_ms']:.2f} at the end; processor time {row['early_cpu_ms']:.2f} and "
            f"{row['late_cpu_ms']:.2f}, ratio {row['ratio']:.2f}\n"
            f"  trace KB/step: {row['trace_kb_per_step']:.2f}; first quarter {row['early_kb']:.2f}, last "
            f"quarter {row['late_kb']:.2f}\n"
            f"  prompts/step: {row['prompts_per_step']:.2f}, of {row['prompt_bytes']:,.0f} bytes, at most "
            f"{row['prompt_tokens']:,.0f} tokens\n"
            f"  unchanged prefix: {shares}"
        )
    print(f"written: {folder / 'harness.json'}")


def main_select(experiment: flags.Experiment) -> None:
    """`automem bench select`."""
    from automem_jax.agent.template import load_template
    from automem_jax.bench import env as bench
    from automem_jax.bench import selecting

    steps, traces, distinct = (
        environment_flags.whole_numbers(name, flag.value, least=least, most=1)[0]
        for name, flag, least in (
            ("play_steps", _PLAYED, 2),
            ("traces", _TRACES, 2),
            ("distinct", _DISTINCT, 1),
        )
    )
    flags.use_compilation_cache()
    path = experiment.workdir / "bench" / "select.json"
    reports = selecting.run(
        environment_flags.chosen(experiment.config.env)[0],
        load_template(experiment.config.agent.template),
        # Whatever the score, so that the examples' writing is timed too.
        dataclasses.replace(experiment.config.selection, kind="signals", min_score=-1.0),
        path.with_suffix(""),
        episodes=traces,
        distinct=min(distinct, traces),
        steps=steps,
    )
    write_json(
        path, {"machine": bench.machine(), "measured": list(map(dataclasses.asdict, reports))}
    )
    for row in reports:
        print(
            f"{row.episodes} episodes of {row.steps} steps ({row.distinct} distinct, "
            f"{row.trace_mb:,.0f} MB): {row.wall_s:.1f} s, {row.cpu_s:.1f} s of processor time, "
            f"{row.ms_per_step:.3f} ms a step; {row.peak_gib:.2f} GiB in all; "
            f"{row.kept:,} of {row.decisions:,} decisions kept"
        )
    print(f"written: {path}")


def main_train(experiment: flags.Experiment) -> None:
    """`automem bench train`."""
    from automem_jax.bench import train as bench
    from automem_jax.bench.env import machine
    from automem_jax.bench.items import scripted_examples
    from automem_jax.rollout.runner import Runner
    from automem_jax.training.data import load_items

    steps = environment_flags.whole_numbers("steps", _STEPS.value, least=1)[0]
    config, out = experiment.config, experiment.workdir / "bench"
    flags.use_compilation_cache()
    runner = Runner(config)
    examples = Path(_EXAMPLES.value or scripted_examples(config, out / "items", ITEMS))
    training = config.training
    dataset = load_items(
        examples, runner.tokenizer, loss=training.loss, row_tokens=training.row_tokens
    )
    other = None
    if _TORCH.value == "yes":
        other = bench.TorchJob(_TORCH_PYTHON.value, training, runner.model, dataset.items)
    ours = bench.measure(training, runner.model, dataset, runner.tokenizer.pad_id, steps, other)
    lengths = [len(item) for item in dataset.items]
    print(
        f"{len(lengths)} items of {min(lengths)}..{max(lengths)} tokens, mean "
        f"{sum(lengths) / len(lengths):.0f}; dropped {dataset.dropped or 'none'}"
    )
    for name, value in ours.items():
        if name != "losses":
            print(f"  {name:<26} {_figure(value)}")
    theirs = {"why": "not asked for"} if other is None else other.figures()
    for name in ("padded", "unpadded"):
        if name in theirs:
            speed = theirs[name]["supervised_tokens_per_s"]
            times = ours["supervised_tokens_per_s"] / speed
            theirs[name]["ours_is_times_faster"] = times
            print(
                f"transformers + PEFT, {name} rows: {speed:.1f} supervised tokens/s, "
                f"{theirs[name]['row_tokens_per_s']:.0f} tokens/s; ours {times:.2f} times that"
            )
    if "why" in theirs:
        print(f"transformers + PEFT: not measured ({theirs['why']})")
    path = out / "train.json"
    facts = {"machine": machine(), "examples": str(examples), "items": len(lengths)}
    write_json(
        path, facts | {"training": dataclasses.asdict(training), "ours": ours, "peft": theirs}
    )
    print(f"written: {path}")


def main_decode(experiment: flags.Experiment) -> None:
    """`automem bench decode`."""
    from automem_jax.bench import decode as bench
    from automem_jax.bench import generate
    from automem_jax.bench import mixed as mixed_bench
    from automem_jax.bench.env import machine
    from automem_jax.bench.recorded import SHIPPED, read_recorded
    from automem_jax.rollout.runner import Runner
    from automem_jax.sampling.engine import Engine

    def number(flag: str, text: str, least: int) -> int:
        return environment_flags.whole_numbers(flag, text, least=least, most=1)[0]

    new_tokens, concurrent = number("new_tokens", _NEW_TOKENS.value, 1), _EPISODES.value
    concurrent = number("episodes", concurrent, 1)
    adapter_count = number("adapters", _ADAPTERS.value, 0)
    torch_requests = None
    if _TORCH_REQUESTS.value != "all":
        torch_requests = number("torch_requests", _TORCH_REQUESTS.value, 0)
    per_episode = number("requests_per_episode", _PER_EPISODE.value, 0)
    source = Path(_REQUESTS.value) if _REQUESTS.value else SHIPPED
    recorded = read_recorded(source)
    kinds = sorted({name for e in recorded for name in (e.env, e.template)})
    if _RECORDED.value != "all":
        recorded = [e for e in recorded if _RECORDED.value in (e.env, e.template)]
    if not recorded:
        raise flags.UsageError(f"--recorded={_RECORDED.value}: {source} has {', '.join(kinds)}")
    config, path = experiment.config.model, experiment.workdir / "bench" / "decode.json"
    flags.use_compilation_cache()
    runner = Runner(experiment.config)
    prompts = bench.tokenise(
        recorded, runner.tokenizer, config.max_context - new_tokens, per_episode
    )
    engine = Engine(
        runner.model,
        runner.tokenizer,
        slots=concurrent,  # as many run together, whatever the config has room for
        max_context=config.max_context,
        prefix_reuse=_REUSE.value == "on",
    )
    lengths = prompts.lengths
    print(
        f"{len(lengths)} requests of {len(prompts.episodes)} episodes, prompts of {min(lengths)}.."
        f"{max(lengths)} tokens, mean {sum(lengths) / len(lengths):.0f}; {prompts.dropped} too long for "
        f"model.max_context {config.max_context}",
        flush=True,
    )
    print("compiling ...", flush=True)
    bench.warm_up(engine, prompts, concurrent, new_tokens)
    groups = prompts.windows(
        len(lengths) if torch_requests is None else torch_requests, max(generate.BATCHES)
    )
    theirs: dict[str, Any] = {"why": "not asked for"}
    with contextlib.ExitStack() as stack:
        comparison = None
        if groups:
            try:
                transformers = generate.Transformers(
                    _TORCH_PYTHON.value,
                    runner.model,
                    runner.tokenizer.eos_id,
                    new_tokens,
                    len(os.sched_getaffinity(0)),
                )
            except generate.NoTransformers as error:
                theirs = {"why": str(error)}
            else:
                stack.enter_context(transformers)
                comparison = generate.Comparison(transformers, prompts, groups)
        pauses = comparison.pauses() if comparison else ()
        ours, answers = bench.replay(engine, prompts, concurrent, new_tokens, pauses)
        if comparison:
            theirs = comparison.figures(ours, answers)
    for name, value in ours.items():
        print(f"  {name:<26} {_figure(value)}")
    for batch in generate.BATCHES:
        if row := theirs.get(f"batch_{batch}"):
            print(
                f"transformers generate, batch {batch}: {row['requests_per_s']:.3f} requests/s, "
                f"{row['generated_tokens_per_s']:.1f} tokens/s; ours "
                f"{row['ours_is_times_faster']:.2f} times that; {row['same_answers']:.0%} of the "
                "answers are the same"
            )
    if "requests" in theirs:
        print(
            f"transformers answered {theirs['requests']} of the requests, of "
            f"{theirs['mean_prompt_tokens']:.0f} tokens on the average, in pauses of the replay"
        )
    if "why" in theirs:
        print(f"transformers generate: not measured ({theirs['why']})")
    facts = {"machine": machine(), "requests": str(source), "recorded": _RECORDED.value}
    facts |= {"model": dataclasses.asdict(config), "dropped": prompts.dropped}
    mixed = None
    if adapter_count:
        lora = experiment.config.training.lora
        made = mixed_bench.random_adapters(runner.model, adapter_count, lora)
        names = [f"adapter{number}" for number in range(1, adapter_count + 1)]
        for name, adapter in zip(names, made, strict=True):
            engine.load_adapter(name, adapter)
        mixed = mixed_bench.measure(engine, prompts, names, concurrent, new_tokens)
        print(
            f"{adapter_count} adapters of rank {lora.rank} and the base in one batch: "
            f"{mixed['mixed_tokens_per_s']:.1f} tokens/s, {mixed['mixed_share_of_base']:.2f} of the "
            f"base alone ({mixed['base_tokens_per_s']:.1f})"
        )
    write_json(path, facts | {"ours": ours, "transformers": theirs, "mixed": mixed})
    print(f"written: {path}")


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.3g}" if abs(value) < 1 or abs(value) >= 1e6 else f"{value:,.1f}"


def main(experiment: flags.Experiment) -> None:
    """`automem bench env`."""
    from automem_jax.bench import env as bench

    configs = environment_flags.chosen(experiment.config.env)
    batches = environment_flags.whole_numbers("batch", _BATCH.value, least=1)
    workers = environment_flags.worker_counts(WORKERS, least=0)
    try:
        seconds = float(_SECONDS.value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise flags.UsageError(f"--seconds={_SECONDS.value}: must be a positive number of seconds")
    flags.use_compilation_cache()
    found: dict[str, list[Any]] = {"speed": [], "first_step": [], "balrog": []}
    measured = bench.run(configs, batches, workers, seconds, compile_probe=_COMPILE.value == "yes")
    for kind, row in measured:
        found[kind].append(row if isinstance(row, dict) else dataclasses.asdict(row))
        print(_progress_line(kind, found[kind][-1]), flush=True)
    path = experiment.workdir / "bench" / "env.json"
    write_json(path, {"machine": bench.machine(), "seconds": seconds, **found})
    _print_tables(found, path)


def _progress_line(kind: str, row: dict[str, Any]) -> str:
    if kind == "speed":
        return (
            f"{row['env']}: batch {row['batch']}, workers {row['workers']}: "
            f"{row['steps_per_s']:,.0f} steps/s"
        )
    if kind == "first_step":
        return (
            f"{row['env']}: first step of a process, {row['cache']} cache: {row['total_s']:.1f} s"
        )
    figure = f"{row['steps_per_s']:,.0f} steps/s" if "steps_per_s" in row else row["why"]
    return f"balrog's {row['env']}: {figure}"


def _print_tables(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from rich.table import Table

    def show(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(title=title, box=None, padding=(0, 2, 0, 0), title_justify="left")
        for head in heads:
            table.add_column(head, justify="left" if head in ("env", "cache") else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()

    console = terminal.console()
    show(
        "agent-visible steps/s",
        ("env", "batch", "workers", "text", "+ resets", "a core", "raw", "reset", "start"),
        [
            (
                row["env"],
                str(row["batch"]),
                str(row["workers"]),
                f"{row['steps_per_s']:,.0f}",
                f"{row['steps_per_s_with_resets']:,.0f}",
                f"{row['steps_per_cpu_s']:,.0f}" if row["steps_per_cpu_s"] else "",
                f"{row['raw_steps_per_s']:,.0f}",
                f"{row['reset_ms']:.1f}",
                f"{row['start_s']:.1f}",
            )
            for row in found["speed"]
        ],
    )
    if found["first_step"]:
        names = ("import_s", "reset_s", "step_s", "total_s")
        show(
            "a fresh process until its first step, s",
            ("env", "batch", "cache", "import", "reset", "step", "in all"),
            [
                (row["env"], str(row["batch"]), row["cache"], *(f"{row[n]:.1f}" for n in names))
                for row in found["first_step"]
            ],
        )
    print(
        "text: with full text, resets not counted; + resets: with them; a core: by processor time;"
    )
    print(
        "raw: the engine alone, as its package gives it, in this process; reset: of one slot, ms;"
    )
    print("start: until all slots have been reset, s")
    print(f"written: {path}")
