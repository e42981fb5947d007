"""Text environments, batched by slot. `make` builds one from its config."""

from __future__ import annotations

import difflib

from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.envs.own import is_own, make_own

NAMES = ("minihack", "nethack", "craftax_classic", "craftax")

__all__ = ["NAMES", "Percept", "TextEnv", "make"]


def make(config: EnvConfig) -> TextEnv:
    """The environment that `config` names, its games in worker processes if `config.workers` > 0.

    A name "module:Class" is a class of the user's, see envs.own: give no name that comes from a trace.

    Raises:
      ValueError: unknown name or task (the nearest ones are named).
    """
    own = is_own(config.name)
    if config.name not in NAMES and not own:
        near = difflib.get_close_matches(config.name, NAMES, n=1, cutoff=0.4)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMES)}, or module:Class"
        )
        raise ValueError(f"env.name: unknown environment {config.name!r}; {hint}")
    if config.name == "craftax_classic":
        from automem_jax.envs.craftax import make_craftax_classic

        return make_craftax_classic(config)  # one compiled call steps every slot: no workers
    if config.name == "craftax":
        from automem_jax.envs.craftax_full import make_craftax

        return make_craftax(config)
    if config.workers > 0:
        from automem_jax.envs.pool import WorkerPool

        return WorkerPool(config)
    if own:
        return make_own(config)
    if config.name == "minihack":
        from automem_jax.envs.minihack import make_minihack

        return make_minihack(config)
    from automem_jax.envs.nethack import make_nethack

    return make_nethack(config)
