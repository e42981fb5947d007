"""Loop 1 with bad edits planted in the catalog, on the embedded model: does the gate keep any?

It starts from the template that the quickstart accepts, which shows the cue file, and proposes to delete
that file, to hide it, and to shrink it to less than the cue. Each run has search and gate seeds of
its own.

    python tools/plant_bad_edits.py --workdir=DIR --runs=20
"""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from automem_jax.agent.template import Template, load_template, to_data
from automem_jax.architect.brief import Brief
from automem_jax.architect.catalog import CatalogArchitect, Edit, show_file_in_plan
from automem_jax.architect.evolve import evolve
from automem_jax.architect.ledger import read_ledger
from automem_jax.architect.proposal import checked

CUES = "notes"  # the cue file of memento_v0
FIRST_SEED, SEEDS_A_RUN = 800_000, 1_000


def delete_cues(data: dict[str, Any]) -> dict[str, Any]:
    """The agent keeps a file of another name, and no prompt speaks of the old one."""
    data["files"] = {"other": data["files"][CUES] | {"ops": ["READ", "APPEND"], "seed": ""}}
    for name in [n for n, slot in data["slots"].items() if slot["file"] == CUES]:
        del data["slots"][name]
        for phase in data["phases"].values():
            phase["slots"] = [slot for slot in phase["slots"] if slot != name]
    return data


def hide_cues(data: dict[str, Any]) -> dict[str, Any]:
    """No prompt shows the file, and PLAN may not search it either."""
    data["phases"]["plan"]["slots"].remove(f"plan_{CUES}")
    data["files"][CUES]["ops"] = ["READ", "APPEND"]
    return data


def shrink_cues(data: dict[str, Any]) -> dict[str, Any]:
    """One line of 16 characters is left of the file."""
    data["files"][CUES] |= {"hard_lines": 2, "keep_lines": 1, "max_line_chars": 16}
    return data


BAD_EDITS = (delete_cues, hide_cues, shrink_cues)


def shows_cues(template: Template) -> bool:
    """Whether PLAN's prompt shows the cue file."""
    return any(template.slots[name].file == CUES for name in template.phases.plan.slots)


def bad_edits(template: Template, brief: Brief) -> Iterator[Edit]:
    """Bad edits that promise more than any good one, for a template that shows the cues."""
    if shows_cues(template):
        for edit in BAD_EDITS:
            yield Edit(edit.__name__, "it only costs tokens", 2.0, edit)


def showing_start() -> Template:
    """The template that the quickstart accepts."""
    start = load_template("memento_v0")
    return checked(show_file_in_plan(to_data(start), CUES), start, "memento_shown")


def main() -> None:
    from automem_jax.cli.flags import use_compilation_cache
    from automem_jax.config import from_config_dict
    from automem_jax.rollout.runner import Runner

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--search", type=int, default=8)
    parser.add_argument("--gate", type=int, default=64)
    arguments = parser.parse_args()
    use_compilation_cache()
    start, kept, pairs = showing_start(), 0, 0
    quickstart = Path(__file__).parents[1] / "configs" / "quickstart.py"
    config = from_config_dict(runpy.run_path(str(quickstart))["get_config"]())
    runner = Runner(config)

    def run_template(template: Template, seeds: Sequence[int], folder: Path) -> list[Path]:
        return runner.run(template.id, template, seeds, folder).paths

    for number in range(arguments.runs):
        first = FIRST_SEED + SEEDS_A_RUN * number
        seeds = dataclasses.replace(
            config.seeds,
            search_start=first,
            search=arguments.search,
            gate_start=first + SEEDS_A_RUN // 2,
            gate=arguments.gate,
        )
        workdir = arguments.workdir / f"run{number:02d}"
        planted = dataclasses.replace(config, seeds=seeds)
        evolve(planted, workdir, run_template, CatalogArchitect([bad_edits]), template=start)
        for row in read_ledger(workdir / "evolve" / "ledger.jsonl"):
            if row["type"] == "candidate" and row.get("gate"):
                gate = row["gate"]
                kept += row["verdict"] == "kept"
                pairs += gate["n"]
                print(
                    f"run {number:2d} {row['edit']:12s} {row['verdict']:8s} {gate['n']:3d} pairs "
                    f"{100 * gate['candidate_mean']:5.1f} % against {100 * gate['baseline_mean']:5.1f} %",
                    flush=True,
                )
    runner.close()
    tried = arguments.runs * len(BAD_EDITS)
    print(f"{kept} of {tried} bad edits kept in {arguments.runs} runs, {pairs} pairs played")


if __name__ == "__main__":
    main()
