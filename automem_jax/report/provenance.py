"""Sections on what a run cost, and on what it takes to get it again."""

from __future__ import annotations

import json
from typing import Any

from automem_jax.config import ConfigError, config_hash, from_config_dict, seed_sets
from automem_jax.report.loops import kind_title
from automem_jax.report.material import Material
from automem_jax.report.page import (
    Html,
    details,
    join,
    missing,
    paragraph,
    preformatted,
    table,
    tag,
)

_STAGES = ("evolve", "rollout", "select", "train", "evaluate", "report")


def cost(material: Material) -> Html:
    """Tokens by directory of traces, and seconds by stage."""
    parts = []
    if material.groups:
        kinds = ("prompt", "completion", "calls")
        rows = [
            (g.name, f"{g.episodes:,}", f"{g.steps:,}", *(f"{g.tokens[k]:,}" for k in kinds))
            for g in material.groups
        ]
        total = [sum(g.tokens[k] for g in material.groups) for k in kinds]
        episodes, steps = (
            sum(getattr(g, n) for g in material.groups) for n in ("episodes", "steps")
        )
        rows.append(("all", f"{episodes:,}", f"{steps:,}", *(f"{n:,}" for n in total)))
        head = ("traces", "episodes", "steps", "prompt tokens", "completion tokens", "model calls")
        parts.append(table(head, rows, "Tokens, from the traces of finished episodes"))
    else:
        parts.append(missing("No finished episodes yet."))
    if material.timing:
        whole = sum(material.timing.values())
        rows = [
            (name, _seconds(s), f"{100 * s / whole:.0f} %" if whole else "-")
            for name, s in material.timing.items()
        ]
        rows.append(("all", _seconds(whole), "100 %" if whole else "-"))
        parts.append(table(("stage", "time", "share"), rows, "Time, interrupted runs included"))
    else:
        parts.append(missing("No stage times recorded yet."))
    return join(parts)


def reproduce(material: Material) -> Html:
    """Hashes, versions, seeds, commands."""
    parts = [_hashes(material)]
    config = material.config
    versions = (material.header or {}).get("versions") or {}
    if versions:
        parts.append(
            table(
                ("package", "version"),
                list(versions.items()),
                "Versions, from a trace",
                numeric=False,
            )
        )
    seeds = _seeds(config)
    if seeds:
        parts.append(table(("seed set", "seeds"), seeds, "Seeds", numeric=False))
    workdir = tag("code", "WORKDIR")
    name = (config or {}).get("name")
    commands = "\n".join(
        [
            f"automem {stage} --config=CONFIG --workdir=WORKDIR"
            for stage in ("pipeline", "evaluate", "report")
        ]
    )
    parts.append(tag("h3", "Commands"))
    parts.append(
        paragraph(
            f"With CONFIG the file of this experiment ({name or 'see config.json'}) and ", workdir,
            " a directory: the whole loop; its evaluation alone; this page alone. Stages: "
            + ", ".join(_STAGES) + ". Finished work is kept.",
        )
    )  # fmt: skip
    parts.append(preformatted(commands))
    if config:
        text = json.dumps(config, indent=1, ensure_ascii=False)
        parts.append(details("The whole configuration (config.json)", preformatted(text)))
    else:
        parts.append(missing("No config.json in the work directory."))
    return join(parts)


def _hashes(material: Material) -> Html:
    rows: list[tuple[object, object]] = []
    config = material.config
    if config:
        try:
            rows.append(("configuration", _code(config_hash(from_config_dict(config)))))
        except ConfigError as error:
            rows.append(("configuration", f"of another version ({error})"))
    header = material.header or {}
    if header.get("config_hash"):
        rows.append(("settings that shape an episode, from a trace", _code(header["config_hash"])))
    if (material.results or {}).get("base_hash"):
        rows.append(("base weights, evaluated", _code(material.results["base_hash"])))
    for kind, training in material.trainings.items():
        done = training.done or {}
        for words, name in (
            ("base weights before training", "base_hash_before"),
            ("base weights after training", "base_hash_after"),
            ("adapter", "adapter_hash"),
        ):
            if done.get(name):
                rows.append((f"{kind_title(kind)}: {words}", _code(done[name])))
    for name, arm in material.arms().items():
        template = arm.get("template") or {}
        if template.get("hash"):
            rows.append((f"template of {name}: {template.get('id')}", _code(template["hash"])))
    if not rows:
        return missing("No hashes recorded yet.")
    return table(("hash of", "value"), rows, "Hashes", numeric=False)


def _seeds(config: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not config:
        return []
    try:
        experiment = from_config_dict(config)
    except ConfigError:
        return [(name, str(value)) for name, value in (config.get("seeds") or {}).items()]
    rows = [
        (name, f"{seeds.start} to {seeds.stop - 1} ({len(seeds)})")
        for name, seeds in seed_sets(experiment.seeds).items()
    ]
    return [*rows, ("sampling and bootstrap", str(experiment.seed))]


def _code(value: object) -> Html:
    return tag("code", value)


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
