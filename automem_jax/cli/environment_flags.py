"""Flags that the environment commands share: which environments, how many worker processes."""

from __future__ import annotations

import dataclasses

from automem_jax import config as config_lib
from automem_jax.cli import flags

_TASKS = {
    "minihack": config_lib.EnvConfig().task,
    "nethack": "NetHackChallenge",
    "craftax_classic": "Craftax-Classic",
    "craftax": "Craftax",
}
_ENV = flags.stage_flag(
    "env", "", "Environments, separated by commas, or 'all'. Empty: the config's own."
)
_WORKERS = flags.stage_flag(
    "workers", "", "Numbers of worker processes, separated by commas. Empty: the command's own."
)


def chosen(own: config_lib.EnvConfig) -> list[config_lib.EnvConfig]:
    """The config's environment, or those that --env names; others than it play their own task.

    Raises:
      UsageError: no such environment.
    """
    from automem_jax import envs

    names = list(envs.NAMES) if _ENV.value == "all" else _ENV.value.split(",")
    if names == [""]:
        return [own]
    for name in names:
        if name not in envs.NAMES:
            raise flags.UsageError(
                f"--env: {config_lib.unknown_key(name, envs.NAMES).replace('key', 'environment')}"
            )
    return [own if name == own.name else _default_of(own, name) for name in names]


def _default_of(own: config_lib.EnvConfig, name: str) -> config_lib.EnvConfig:
    return dataclasses.replace(own, name=name, task=_TASKS.get(name, name), max_steps=0)


def worker_counts(default: str, *, least: int) -> list[int]:
    """What --workers says, or else the command's own default."""
    return whole_numbers("workers", _WORKERS.value or default, least=least)


def whole_numbers(flag: str, text: str, *, least: int, most: int | None = None) -> list[int]:
    """The numbers of a comma-separated flag, each at least `least`, `most` of them at most.

    Raises:
      UsageError: something else is written there.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least or len(numbers) > (most or len(numbers)):
        wanted = "one whole number" if most == 1 else "whole numbers, separated by commas,"
        raise flags.UsageError(f"--{flag}={text}: expected {wanted} from {least}")
    return numbers
