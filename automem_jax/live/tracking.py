"""Figures, texts and pictures of a run for TensorBoard and, where asked for, Weights & Biases.

A *run* is a folder: `train_lineage/specialist`, `evaluate/base_v0`. Tags are the same in every run, so that
runs lie over each other in one chart: train/loss, eval/loss, train/grad_norm, train/learning_rate,
perf/tokens_per_s, perf/steps_per_s, rollout/progression, rollout/failed_calls.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from automem_jax.config import ConfigError, TrackingConfig
from automem_jax.files import write_atomically
from automem_jax.terminal import printable

_TAGS = {
    "loss": "train/loss",
    "heldout_loss": "eval/loss",
    "tokens_per_s": "perf/tokens_per_s",
    "tokens/s": "perf/tokens_per_s",
    "steps/s": "perf/steps_per_s",
    "progression": "rollout/progression",
}
_TEXT_LIMIT = 60_000


class Tracker(Protocol):
    """Takes what a run has to show; `step` counts optimizer steps or episodes."""

    def scalars(self, run: str, step: int, figures: Mapping[str, float]) -> None:
        """Figures by standard tag."""

    def text(self, run: str, tag: str, text: str) -> None:
        """A text, to be shown as it is."""

    def image(self, run: str, tag: str, picture: Any) -> None:
        """An RGB picture, uint8 [height, width, 3]."""

    def close(self) -> None:
        """Writes what is left."""


def standard(figures: Mapping[str, Any], *, training: bool) -> dict[str, float]:
    """Figures under their standard tags; what is no number is left out."""
    group = "train" if training else "rollout"
    return {
        _TAGS.get(name) or f"{group}/{_slug(name)}": float(value)
        for name, value in figures.items()
        if isinstance(value, (int, float)) and name != "step"
    }


def make_trackers(config: TrackingConfig, workdir: Path, facts: Mapping[str, Any]) -> list[Tracker]:
    """The trackers that a config asks for. `facts` is the public configuration.

    Raises:
      ConfigError: Weights & Biases is asked for and not installed.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(workdir / "tensorboard"))
    if config.wandb != "off":
        trackers.append(WeightsAndBiases(config, workdir, facts))
    return trackers


class TensorBoard:
    """Event files under `folder`, one subfolder a run, opened when they are first written to."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def scalars(self, run: str, step: int, figures: Mapping[str, float]) -> None:
        """See Tracker."""
        writer = self._writer(run, step if "train/loss" in figures else None)
        for tag, value in figures.items():
            writer.add_scalar(tag, value, step)

    def text(self, run: str, tag: str, text: str) -> None:
        """See Tracker. An indented block is shown as it is, not read as Markdown."""
        block = "\n".join(f"    {line}" for line in printable(text)[:_TEXT_LIMIT].split("\n"))
        self._writer(run).add_text(tag, block, 0)

    def image(self, run: str, tag: str, picture: Any) -> None:
        """See Tracker."""
        self._writer(run).add_image(tag, picture, 0, dataformats="HWC")

    def close(self) -> None:
        """See Tracker."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: str, goes_on_at: int | None = None) -> Any:
        if run not in self._writers:
            from tensorboardX import SummaryWriter

            place = self._folder.joinpath(*map(_slug, run.split("/")))
            # Steps that a killed training took beyond its last checkpoint are taken, and written, again.
            self._writers[run] = SummaryWriter(str(place), purge_step=goes_on_at, flush_secs=20)
        return self._writers[run]


class WeightsAndBiases:
    """One W&B run a work directory, which later commands go on with; `offline` writes to disk only."""

    def __init__(self, config: TrackingConfig, workdir: Path, facts: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                f"config.tracking.wandb: {config.wandb!r} needs the wandb package; run: "
                "pip install 'automem_jax[wandb]'"
            ) from error
        folder = workdir / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / "run_id.txt"
        if not name.exists():
            write_atomically(name, uuid.uuid4().hex[:12])
        self._wandb = wandb
        self._run = wandb.init(
            project=config.wandb_project,
            name=workdir.resolve().name,
            id=name.read_text(encoding="utf-8").strip(),
            resume="allow",
            mode=config.wandb,
            dir=str(workdir),
            config=dict(facts),
        )
        self._defined: set[str] = set()

    def scalars(self, run: str, step: int, figures: Mapping[str, float]) -> None:
        """See Tracker."""
        run = "/".join(map(_slug, run.split("/")))
        axis = f"{run}/step"
        if run not in self._defined:
            self._defined.add(run)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{run}/*", step_metric=axis)
        self._run.log({axis: step} | {f"{run}/{tag}": value for tag, value in figures.items()})

    def text(self, run: str, tag: str, text: str) -> None:
        """See Tracker. A one-cell table: W&B shows its cells as text, never as HTML."""
        table = self._wandb.Table(columns=["text"], data=[[printable(text)[:_TEXT_LIMIT]]])
        self._run.log({f"{run}/{tag}": table})

    def image(self, run: str, tag: str, picture: Any) -> None:
        """See Tracker."""
        self._run.log({f"{run}/{tag}": self._wandb.Image(picture)})

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()


def _slug(name: str) -> str:
    """A name fit for a folder or a tag."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "run"
