"""The section on what it takes to get a run again."""

from __future__ import annotations

import json
import shlex
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

_COMMANDS_SHOWN = 20


def reproduce(material: Material) -> Html:
    """Hashes, versions, seeds, commands."""
    parts = [_hashes(material)]
    config = material.config
    last = material.commands[-1] if material.commands else {}
    versions = {"python": last["python"]} if last.get("python") else {}
    versions |= (material.header or {}).get("versions") or last.get("versions") or {}
    if versions:
        parts.append(
            table(
                ("package", "version"),
                list(versions.items()),
                "Versions",
                numeric=False,
            )
        )
    seeds = _seeds(config)
    if seeds:
        parts.append(table(("seed set", "seeds"), seeds, "Seeds", numeric=False))
    parts += [tag("h3", "Commands"), *_commands(material)]
    if config:
        text = json.dumps(config, indent=1, ensure_ascii=False)
        parts.append(details("The whole configuration (config.json)", preformatted(text)))
    else:
        parts.append(missing("No config.json in the work directory."))
    return join(parts)


def _commands(material: Material) -> list[Html]:
    """The commands that made this, and the one that makes it again."""
    again = "automem pipeline --config=configs/recorded.py:WORKDIR/config.json --workdir=NEW"
    parts = [
        paragraph(
            "The same experiment in a new directory, from the configuration recorded in this one:"
        ),
        preformatted(again),
        paragraph(
            "A stage alone is asked for in place of pipeline (evolve, rollout, select, train, evaluate, "
            "report); what is finished in a directory is kept.",
            cls="quiet",
        ),
    ]
    if not material.commands:
        return [*parts, missing("The commands that were run are not recorded here.")]
    rows = []
    for row in material.commands[-_COMMANDS_SHOWN:]:
        commit = str(row.get("commit") or "-")[:12] + (" + changes" if row.get("changed") else "")
        command = " ".join(shlex.quote(str(word)) for word in row.get("command") or ())
        rows.append((row.get("time", "-"), tag("code", command), tag("code", commit)))
    caption = "Commands run in this directory"
    if len(material.commands) > _COMMANDS_SHOWN:
        caption += f", the last {_COMMANDS_SHOWN} of {len(material.commands)}"
    return [
        *parts,
        table(("time (UTC)", "command", "source commit"), rows, caption, numeric=False),
    ]


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
