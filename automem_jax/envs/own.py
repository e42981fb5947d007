"""Environments that users write: `env.name` is then "module:Class".

The class implements `envs.base.TextEnv` and is called with the EnvConfig. Its module lies beside the
config file, or anywhere that Python finds modules.
"""

from __future__ import annotations

import importlib
import inspect

from automem_jax.config import EnvConfig
from automem_jax.envs.base import TextEnv

_METHODS = ("reset", "step", "frame", "progression", "snapshot", "restore", "close")
_FIELDS = ("num_slots", "actions", "fallback_action", "max_steps", "instructions")


def is_own(name: str) -> bool:
    """Whether an environment's name stands for a class of the user's."""
    return ":" in name


def make_own(config: EnvConfig) -> TextEnv:
    """The environment of the user's class.

    Nothing but a class that is defined in that module and has every method of TextEnv is called.

    Raises:
      ValueError: there is no such module or class, or it is not a text environment; says what is missing.
    """
    place = f"env.name {config.name!r}"
    module_name, _, class_name = config.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise  # found, and broken inside
        raise ValueError(
            f"{place}: there is no module {module_name!r}; put {module_name}.py beside the config file, "
            "or its folder on PYTHONPATH"
        ) from error
    made = getattr(module, class_name, None)
    if not inspect.isclass(made) or made.__module__ != module.__name__:
        own = [
            n for n, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module_name
        ]
        raise ValueError(
            f"{place}: {module.__file__} defines no class {class_name!r}; it has {', '.join(own) or 'none'}"
        )
    missing = [name for name in _METHODS if not callable(getattr(made, name, None))]
    if missing:
        raise ValueError(
            f"{place}: the class lacks {', '.join(missing)}; see automem_jax.envs.base.TextEnv"
        )
    env = made(config)
    missing = [name for name in _FIELDS if not hasattr(env, name)]
    if missing:
        raise ValueError(
            f"{place}: its instance lacks {', '.join(missing)}; see automem_jax.envs.base.TextEnv"
        )
    if env.fallback_action not in env.actions:
        raise ValueError(
            f"{place}: fallback_action {env.fallback_action!r} is none of its actions "
            f"{', '.join(env.actions)}"
        )
    return env
