"""Shipped configs by name."""

import importlib.util
from pathlib import Path

from automem_jax.config import from_config_dict

CONFIGS = Path(__file__).parents[2] / "configs"


def config_of(name):
    """The checked config of configs/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return from_config_dict(module.get_config())
