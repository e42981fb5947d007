"""Craftax's pixel renderers, at one texture size and with textures kept in the user's cache.

Craftax itself resizes every texture to three sizes on first use (half a minute) and keeps them
inside its installed package, which may be read-only.
"""

from __future__ import annotations

import importlib.metadata
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import numpy as np

from automem_jax.files import atomic_file

BLOCK_PIXELS = 16


def pixel_renderer(
    game: str, constants: ModuleType, renderer: ModuleType
) -> Callable[[Any], jax.Array]:
    """The compiled renderer of one Craftax game: state -> RGB [height, width, 3], 0..255.

    Args:
      game: names the kept textures.
      constants, renderer: the game's modules of these names.
    """
    textures = _textures(game, constants)
    # The renderer asks for all sizes and uses one.
    with mock.patch.object(renderer, "load_all_textures", lambda: {BLOCK_PIXELS: textures}):
        return jax.jit(renderer.make_craftax_pixel_renderer(BLOCK_PIXELS))


def _textures(game: str, constants: ModuleType) -> dict[str, jax.Array]:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    version = importlib.metadata.version("craftax")
    path = Path(root) / "automem_jax" / "textures" / f"{game}-{version}-{BLOCK_PIXELS}.npz"
    try:
        with np.load(path) as kept:
            return {name: jax.device_put(kept[name]) for name in kept.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        pass  # not there, or not whole: made below
    textures = constants.load_all_textures_given_size(BLOCK_PIXELS)
    try:
        with atomic_file(path) as file:
            np.savez_compressed(file, **jax.device_get(textures))
    except OSError:
        pass  # a cache that cannot be written only costs time
    return textures
