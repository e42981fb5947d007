"""The architects a config can name."""

from __future__ import annotations

from automem_jax.architect.catalog import CatalogArchitect
from automem_jax.architect.proposal import Architect
from automem_jax.architect.review import ApiArchitect
from automem_jax.config import ArchitectConfig, ConfigError, EnvConfig


def make_architect(config: ArchitectConfig, env: EnvConfig | None = None) -> Architect:
    """The architect a config names; `env` lets the api one preview prompts.

    Raises:
      ConfigError: unknown kind, or a missing key, model or package for the api kind.
      ReplayError: `config.replay` cannot be read.
    """
    if config.kind == "catalog":
        return CatalogArchitect()
    if config.kind == "api":
        return ApiArchitect(config, env)
    raise ConfigError(f"architect.kind is {config.kind!r}; it is catalog or api")
