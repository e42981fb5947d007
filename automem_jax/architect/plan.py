"""The dry run: what an evolution would do, ask and cost, without playing or calling anything."""

from __future__ import annotations

from pathlib import Path

from automem_jax.agent.template import Template, load_template
from automem_jax.agent.validate import check
from automem_jax.architect.brief import format_brief, make_brief
from automem_jax.architect.catalog import applicable_edits
from automem_jax.architect.evolve import check_prices
from automem_jax.architect.forecast import describe, forecast
from automem_jax.architect.gate import check_disjoint
from automem_jax.architect.ledger import read_ledger
from automem_jax.architect.proposal import Context
from automem_jax.architect.review import describe_request
from automem_jax.config import ExperimentConfig, seed_sets
from automem_jax.evaluation.results import episode_result
from automem_jax.traces.store import list_traces, read_trace


def dry_run(config: ExperimentConfig, workdir: str | Path, template: Template | None = None) -> str:
    """Plan, forecast and the architect's first prompt, as text. Writes nothing.

    The prompt's figures are those of the search traces that are there; the first run makes them.

    Raises:
      ConfigError: as `evolve`.
    """
    check_disjoint(config.seeds)
    check_prices(config)
    start = template or load_template(config.agent.template)
    check(start)
    context = _context(config, Path(workdir), start)
    played = f"{len(context.traces)} of {config.seeds.search} search episodes are there"
    if config.architect.kind == "api":
        request = describe_request(config.architect, context, config.env)
        told = f"the architect's first request ({played}):\n{request.text()}"
        tokens = request.prompt_tokens
    else:
        tokens = 0
        edits = [
            f"  {edit.name}: {edit.diagnosis}" for edit in applicable_edits(start, context.brief)
        ]
        told = (
            f"the catalog asks nobody; its brief ({played}):\n{format_brief(context.brief)}\n"
            "edits that these traces set off, in the order they would be tried:\n"
            + ("\n".join(edits) or "  none yet")
        )
    head = describe(config, forecast(config, tokens))
    return f"{head}\n\n{told}"


def _context(config: ExperimentConfig, workdir: Path, start: Template) -> Context:
    folder, wanted = (
        workdir / "traces" / "search" / start.id,
        set(seed_sets(config.seeds)["search"]),
    )
    paths = [
        path for path in list_traces(folder) if episode_result(read_trace(path)).seed in wanted
    ] if folder.is_dir() else []  # fmt: skip
    first = read_trace(paths[0]).header if paths else {}
    rows = read_ledger(workdir / "evolve" / "ledger.jsonl")
    return Context(
        env=config.env.name,
        task=config.env.task,
        instructions=first.get("instructions", "(the environment's instructions)"),
        revision=1,
        attempt=1,
        candidate_id=f"{start.id}_r1a1",
        template=start,
        brief=make_brief(start, (read_trace(path) for path in paths)),
        traces=paths,
        history=[row for row in rows if row["type"] == "candidate"],
        runs={start.id: paths},
        templates={start.id: start},
        seeds=seed_sets(config.seeds),
    )
