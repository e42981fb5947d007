"""How long episodes are and what their calls take, recorded: shipped, or of a work directory of one's own.

The shipped file (tools/record_distributions.py makes it) holds the quickstart's episodes, played by the
embedded model, and scripted ones of the larger games. A script writes short answers and plays at random,
so of those only prompts tell much; see forecast.stages.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automem_jax.config import ExperimentConfig
from automem_jax.files import write_json
from automem_jax.forecast.amounts import Range
from automem_jax.live import disk
from automem_jax.traces.schema import Trace
from automem_jax.traces.store import list_traces, read_ends, read_trace

SHIPPED = Path(__file__).with_name("recorded.json")
BASE, SPECIALIST, CONTROL = "base", "specialist", "control"
EXACT, SAME_TASK, SAME_GAME, OTHER_GAME = (
    1.15,
    1.3,
    1.6,
    3.0,
)  # how far means may differ, by likeness
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Group:
    """Episodes of one template and one role of the memory model.

    Attributes:
      role: BASE, SPECIALIST or CONTROL (an adapter trained on random decisions).
      scripted: no model played, and texts are counted in characters.
      max_steps: the cap they were played under. episodes: how many there are.
      steps, calls, prompt, generated, memory_turns: mean and standard deviation an episode; tokens, or
        characters where it is scripted. memory_turns: turns with a memory operation.
    """

    env: str
    task: str
    template: str
    role: str
    scripted: bool
    max_steps: int
    episodes: int
    steps: tuple[float, float]
    calls: tuple[float, float]
    prompt: tuple[float, float]
    generated: tuple[float, float]
    memory_turns: tuple[float, float]

    def mean(self, name: str, likeness: float) -> Range:
        """The mean an episode of a new set: by its standard error here, and a factor for what differs."""
        mean, sd = getattr(self, name)
        error = _STANDARD_ERRORS * sd / math.sqrt(max(1, self.episodes))
        return Range(max(mean - error, mean / 4), mean, mean + error).wider(likeness)


@dataclass(frozen=True)
class Groups:
    """Recorded groups, and speeds and shares that were measured with them; 0: not known.

    Attributes:
      source: where it is from, for a person.
      tokens_per_s, train_tokens_per_s: of the in-process model, everything included; model: which.
      selected_share: of the memory turns, in a selection by lineage.
    """

    source: str
    groups: tuple[Group, ...]
    model: str = ""
    tokens_per_s: float = 0.0
    train_tokens_per_s: float = 0.0
    selected_share: float = 0.0

    def find(self, config: ExperimentConfig, role: str) -> tuple[Group, float] | None:
        """The group most like what the config plays, and by what factor its means may differ."""
        best: tuple[float, Group] | None = None
        for group in self.groups:
            if group.role != role:
                continue
            likeness = OTHER_GAME
            if group.env == config.env.name:
                likeness = SAME_GAME
                if group.task == config.env.task:
                    same = group.template.startswith(Path(config.agent.template).stem)
                    likeness = EXACT if same else SAME_TASK
            if best is None or likeness < best[0]:
                best = likeness, group
        return None if best is None else (best[1], best[0])


def groups_of(config: ExperimentConfig, workdir: str | Path | None = None) -> Groups:
    """The recorded groups to forecast `config` by: of `workdir`, else the shipped ones.

    Raises:
      ValueError: the work directory has no finished episodes.
    """
    return read_groups(SHIPPED) if workdir is None else measure_workdir(workdir)


def measure_workdir(workdir: str | Path) -> Groups:
    """What a work directory's own episodes, selections and timing tell.

    Raises:
      ValueError: no such directory, or no finished episodes in it.
    """
    workdir = Path(workdir)
    by_kind: dict[tuple, list[dict[str, float]]] = {}
    config = disk.read_config(workdir)
    cap = config.env.max_steps if config else 0
    for path in list_traces(workdir / "traces"):
        try:
            header, end = read_ends(path)
            row = {
                "steps": end["steps"],
                "calls": end["tokens"]["calls"],
                "prompt": end["tokens"]["prompt"],
                "generated": end["tokens"]["completion"],
                "memory_turns": end["memory_stats"].get("ops", 0),
            }
            template = header["template"]["id"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged trace tells nothing; the report names it
        key = (header.get("env", ""), header.get("task", ""), template, _role(header))
        by_kind.setdefault(key, []).append(row)
    if not by_kind:
        raise ValueError(
            f"{workdir}: holds no finished episodes to forecast by; run `automem rollout` there first"
        )
    groups = tuple(group_of(key, rows, cap) for key, rows in sorted(by_kind.items()))
    return Groups(
        source=f"episodes of {workdir}",
        groups=groups,
        model=config.model.source if config and config.policy.kind == "local" else "",
        tokens_per_s=_rollout_speed(workdir),
        train_tokens_per_s=_training_speed(workdir, config),
        selected_share=_selected_share(workdir),
    )


def group_of(
    key: tuple[str, str, str, str],
    rows: Sequence[dict[str, float]],
    cap: int,
    scripted: bool = False,
) -> Group:
    """The group of episodes with these counts."""
    figures = {}
    for name in ("steps", "calls", "prompt", "generated", "memory_turns"):
        values = [float(row[name]) for row in rows]
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        figures[name] = (round(statistics.fmean(values), 3), round(sd, 3))
    return Group(*key, scripted=scripted, max_steps=cap, episodes=len(rows), **figures)


def count_characters(trace: Trace) -> dict[str, float]:
    """An episode's counts with texts in characters."""
    turns = [turn for step in trace.steps for phase in step.phases for turn in phase.turns]
    return {
        "steps": trace.end["steps"],
        "calls": len(turns),
        "prompt": sum(len(message.content) for turn in turns for message in turn.messages),
        "generated": sum(len(turn.completion.text) for turn in turns),
        "memory_turns": sum(bool(turn.operations) for turn in turns),
    }


def read_characters(paths: Iterable[Path]) -> list[dict[str, float]]:
    """`count_characters` of traces."""
    return [count_characters(read_trace(path)) for path in paths]


def write_groups(path: Path, groups: Groups) -> None:
    """Writes the file that `read_groups` reads."""
    write_json(path, dataclasses.asdict(groups))


def read_groups(path: Path) -> Groups:
    """Groups from a file of ours."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = data.pop("groups")
    pairs = ("steps", "calls", "prompt", "generated", "memory_turns")
    groups = tuple(
        Group(**{k: tuple(v) if k in pairs else v for k, v in row.items()}) for row in rows
    )
    return Groups(groups=groups, **data)


def _role(header: dict[str, Any]) -> str:
    if not header.get("two_model"):
        return BASE
    return CONTROL if str(header.get("arm")).startswith("control") else SPECIALIST


def _rollout_speed(workdir: Path) -> float:
    """Tokens a second of the stages that play, everything included."""
    timing = disk.read_object(workdir / "timing.json").get("stages") or {}
    stages = {"rollout collect": "collect/", "evaluate": "evaluate/"}
    tokens = seconds = 0.0
    for stage, folder in stages.items():
        rows = [row for row in disk.episodes(workdir) if row.folder.startswith(folder)]
        if stage in timing and rows:
            seconds += timing[stage]
            tokens += sum(row.prompt_tokens + row.generated_tokens for row in rows)
    return round(tokens / seconds, 1) if seconds else 0.0


def _training_speed(workdir: Path, config: ExperimentConfig | None) -> float:
    """Row tokens a second of the trainings, everything included."""
    timing = disk.read_object(workdir / "timing.json").get("stages") or {}
    tokens = seconds = 0.0
    for training in disk.trainings(workdir):
        if config and training.finished and f"train {training.name}" in timing:
            tokens += training.steps * config.training.batch_rows * config.training.row_tokens
            seconds += timing[f"train {training.name}"]
    return round(tokens / seconds, 1) if seconds else 0.0


def _selected_share(workdir: Path) -> float:
    report = disk.read_object(workdir / "select" / "lineage" / "selection.json")
    turns, count = report.get("memory_turns") or 0, report.get("count") or 0
    return round(count / turns, 4) if turns else 0.0
