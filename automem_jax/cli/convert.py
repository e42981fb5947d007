"""Converts weights: `automem convert SOURCE --to=KIND OUT`.

hf: a model (GGUF, Orbax, Hugging Face) to a Hugging Face directory. orbax: a model to an Orbax base
checkpoint. merged: adapter SOURCE merged into --base, as a Hugging Face directory. peft: adapter SOURCE
to a directory that `peft` loads. adapter: a PEFT directory to our adapter file.

A conversion that was stopped goes on with the same command. Nothing is overwritten.
"""

from __future__ import annotations

from automem_jax.cli import flags
from automem_jax.progress import Progress

POSITIONAL = ("SOURCE", "OUT")

_TO = flags.stage_flag("to", "", "hf, merged, peft, orbax or adapter.")
_BASE = flags.stage_flag("base", "", "The model that the adapter belongs to (merged, peft).")
_DTYPE = flags.stage_flag(
    "dtype",
    "",
    "Of the weights written. Empty: as stored, float32 for quantised ones.",
    ["", "float32", "bfloat16", "float16"],
)
_ANY_BASE = flags.stage_flag(
    "any_base", "no", "Merge into a base that the adapter was not trained on.", ["yes", "no"]
)


def main(experiment: flags.Experiment) -> None:
    from automem_jax.models.convert import convert

    if len(experiment.arguments) != 2 or not _TO.value:
        raise flags.UsageError("automem convert SOURCE --to=hf|merged|peft|orbax|adapter OUT")
    source, out = experiment.arguments
    with Progress(f"convert to {_TO.value}", 0, "steps") as bar:

        def show(done: int, total: int) -> None:
            large = total > 2**20
            bar.unit, scale = ("MiB", 2**20) if large else ("steps", 1)
            bar.total = -(-total // scale)
            bar.update(-(-done // scale))

        path = convert(
            source,
            _TO.value,
            out,
            base=_BASE.value,
            dtype=_DTYPE.value or None,
            any_base=_ANY_BASE.value == "yes",
            progress=show,
        )
    print(f"written: {path}")
