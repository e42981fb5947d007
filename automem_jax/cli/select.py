"""Loop 2: picks memory decisions from the collected traces.

Examples go to WORKDIR/select/KIND/examples.jsonl, counts and reasons to selection.json beside it. Kind
signals also writes signals.jsonl, a row a decision with all that is known of it; what has a weight in
selection.weights is measured first, within its budget. --without=SIGNAL leaves one signal out and goes to
select/signals-without-SIGNAL, --only=SIGNAL goes by one alone, to select/signals-only-SIGNAL; `automem train
--kind` and the arm specialist_on_... take these names.
--preview then shows which tokens of the first ones are learnt, and with which weight, in the terminal and
in preview.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from automem_jax import stages
from automem_jax.cli import flags

if TYPE_CHECKING:
    from automem_jax.text.tokenizer import Tokenizer

_KIND = flags.stage_flag(
    "kind",
    "",
    "'lineage', 'signals', or 'random' for the control of the same size. Empty: selection.kind.",
    ["", "lineage", "signals", "random"],
)
_WITHOUT = flags.stage_flag("without", "", "Signal or gate to leave out of kind signals.")
_ONLY = flags.stage_flag("only", "", "Signal that kind signals goes by alone.")
_PREVIEW = flags.stage_flag("preview", False, "Show which tokens of the examples are learnt.")
_PREVIEW_COUNT = flags.stage_flag("preview_count", "5", "How many examples --preview shows.")


def main(experiment: flags.Experiment) -> None:
    flags.require_workdir(experiment)
    flags.record_config(experiment)
    with stages.Stages(experiment.config, experiment.workdir, "select") as loop:
        examples = loop.select(_name(_KIND.value or experiment.config.selection.kind))
        if _PREVIEW.value:
            show_preview(examples, loop.runner.tokenizer, experiment.config.training.loss)


def _name(kind: str) -> str:
    """The selection's name, with the signal that is left out or alone in it."""
    from automem_jax.evaluation.attribution import ONLY, WITHOUT

    asked = [f for f in (_WITHOUT, _ONLY) if f.value]
    if len(asked) == 2:
        raise flags.UsageError(f"--without={_WITHOUT.value} and --only={_ONLY.value}: give one")
    if asked and kind != "signals":
        given = f"--{asked[0].name}={asked[0].value}"
        raise flags.UsageError(f"{given} needs --kind=signals, got {kind!r}")
    marks = {_WITHOUT.name: WITHOUT, _ONLY.name: ONLY}
    return kind + "".join(f"{marks[f.name]}{f.value}" for f in asked)


def show_preview(examples: Path, tokenizer: Tokenizer, loss: str) -> None:
    """Prints the first examples and writes preview.html beside them."""
    from automem_jax.report import preview

    if not _PREVIEW_COUNT.value.isdigit() or int(_PREVIEW_COUNT.value) < 1:
        raise flags.UsageError(f"--preview_count={_PREVIEW_COUNT.value}: give a number from 1 on")
    shown = list(preview.previews(examples, tokenizer, loss, int(_PREVIEW_COUNT.value)))
    preview.print_previews(shown)
    page = examples.parent / "preview.html"
    preview.write_html(page, shown, loss)
    print(f"preview: {page}")
