"""The same requests by transformers' `generate`, in a process of its own that has torch.

It is asked for a few requests at a time, at every batch size, while a replay pauses; so what disturbs the
machine disturbs both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automem_jax.bench.decode import Place, Prompts
from automem_jax.files import write_json
from automem_jax.models.decoder import Decoder
from automem_jax.models.weights import save_model
from automem_jax.sampling.requests import Generated

SCRIPT = Path(__file__).with_name("decode_torch.py")
BATCHES = (1, 8)


class NoTransformers(RuntimeError):
    """The interpreter lacks torch or transformers, or cannot read the weights; says why."""


class Transformers:
    """A process that holds the weights; use as a context manager.

    Args:
      python: interpreter with torch and transformers; "": this one.
      model: its weights are written out for the process.
      threads: of torch.

    Raises:
      NoTransformers: it does not start.
    """

    def __init__(self, python: str, model: Decoder, eos_id: int, new_tokens: int, threads: int):
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        save_model(model, folder / "model")
        job = {"eos_id": eos_id, "new_tokens": new_tokens, "threads": threads}
        write_json(folder / "job.json", job)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._errors = (folder / "errors").open("w+")
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, str(SCRIPT), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
            )
            self.facts = self._read()
        except (OSError, NoTransformers) as error:
            self.close()
            raise NoTransformers(str(error)) from error

    def __enter__(self) -> Transformers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if process := getattr(self, "_process", None):
            process.kill()
            process.communicate()
        self._errors.close()
        self._folder.cleanup()

    def answer(self, prompts: Sequence[Sequence[int]], batch: int) -> tuple[float, list[list[int]]]:
        """Seconds, and the tokens of each answer. Raises NoTransformers: it broke down."""
        asked = {"batch": batch, "prompts": [[int(t) for t in p] for p in prompts]}
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended; reading says why
        told = self._read()
        return told["seconds"], told["tokens"]

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        raise NoTransformers(said[-1] if said else f"exit status {status}")


class Comparison:
    """Requests in groups, each answered by transformers at every batch size in one pause of a replay."""

    def __init__(self, transformers: Transformers, prompts: Prompts, groups: Sequence[list[Place]]):
        self._transformers, self._prompts, self._groups = transformers, prompts, groups
        self._seconds = dict.fromkeys(BATCHES, 0.0)
        self._tokens: dict[int, list[list[int]]] = {batch: [] for batch in BATCHES}

    def pauses(self) -> list[Callable[[], None]]:
        """What `replay` is to call."""
        return [lambda group=group: self._measure(group) for group in self._groups]

    def _measure(self, group: list[Place]) -> None:
        prompts = [self._prompts[place] for place in group]
        for batch in BATCHES:
            seconds, tokens = self._transformers.answer(prompts, batch)
            print(
                f"  transformers, batch {batch}: {len(group)} requests, {seconds:.1f} s", flush=True
            )
            self._seconds[batch] += seconds
            self._tokens[batch] += tokens

    def figures(
        self, ours: Mapping[str, Any], answers: Mapping[Place, Generated]
    ) -> dict[str, Any]:
        """Theirs beside ours: requests/s at each batch size, times faster, and the share of equal answers."""
        places = [place for group in self._groups for place in group]
        found: dict[str, Any] = dict(self._transformers.facts)
        found["requests"] = len(places)
        found["mean_prompt_tokens"] = float(np.mean([len(self._prompts[p]) for p in places]))
        speeds = {}
        for batch in BATCHES:
            tokens, seconds = self._tokens[batch], self._seconds[batch]
            same = sum(list(answers[p].token_ids) == t for p, t in zip(places, tokens, strict=True))
            speeds[batch] = len(places) / seconds
            found[f"batch_{batch}"] = {
                "requests_per_s": speeds[batch],
                "generated_tokens_per_s": sum(map(len, tokens)) / seconds,
                "same_answers": same / len(places),
                "ours_is_times_faster": ours["requests_per_s"] / speeds[batch],
            }
        best = max(speeds, key=speeds.get)
        found["better_batch"] = best
        found["ours_is_times_faster"] = ours["requests_per_s"] / speeds[best]
        return found
