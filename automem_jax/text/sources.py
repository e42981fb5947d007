"""Where a model's files lie: a directory, a GGUF file, or the name of one that is shipped or was fetched."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

# Shipped: name -> folder beside the code of the models.
EMBEDDED = {"embedded": "assets", "embedded_f4": "assets_f4"}
FETCHED = ("smollm2-135m",)  # what `automem models get` can bring


def cache_directory() -> Path:
    """Directory of fetched models: AUTOMEM_CACHE, else automem_jax in the user's cache directory."""
    chosen = os.environ.get("AUTOMEM_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "automem_jax"


def model_directory(name: str) -> Path:
    """Directory of the fetched model `name`, there or not."""
    return cache_directory() / "models" / name


def resolve(source: str | Path) -> Path:
    """The directory or GGUF file that a model source means.

    Raises:
      FileNotFoundError: a model that was not fetched yet, or a path that does not exist.
    """
    path = Path(source)
    if str(source) in EMBEDDED:
        return Path(str(resources.files("automem_jax") / "models" / EMBEDDED[str(source)]))
    if str(source) in FETCHED and not path.exists():
        path = model_directory(str(source))
        if not path.is_dir():
            raise FileNotFoundError(
                f"model {str(source)!r} is not in {path.parent}; fetch it once with "
                f"`automem models get {source}`"
            )
    if not path.exists():
        raise FileNotFoundError(
            f"model {str(source)!r} does not exist; give a directory with config.json and "
            f"safetensors, a .gguf file, or one of: {', '.join([*EMBEDDED, *FETCHED])}"
        )
    return path


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that a directory without safetensors holds; else None.

    Raises:
      ValueError: the directory holds several.
    """
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    found = sorted(path.glob("*.gguf"))
    if not found or any(path.glob("*.safetensors*")):
        return None
    if len(found) > 1:
        raise ValueError(
            f"{path} holds {len(found)} GGUF files ({', '.join(p.name for p in found)}); name one"
        )
    return found[0]
