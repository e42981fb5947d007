"""Conversions between formats: each streams, goes on where it was stopped, and overwrites nothing.

While a conversion is under way its directory holds CONVERSION_FILE, which says from what and how; the
same call finds it and goes on, another is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automem_jax.files import write_atomically, write_json
from automem_jax.models import export, peft, weights
from automem_jax.models.lora import Adapter, AdapterError, load_adapter, save_adapter
from automem_jax.models.tensors import ModelSource, TensorSource, read_json, row_chunks
from automem_jax.text.sources import gguf_of, resolve

KINDS = ("hf", "merged", "peft", "orbax", "adapter")
CONVERSION_FILE = "conversion.json"
_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json",
    "LICENSE", "NOTICE",
)  # fmt: skip

Progress = Callable[[int, int], None]


class ConversionError(ValueError):
    """A conversion that was asked for wrongly, or that would overwrite something."""


def convert(
    source: str | Path,
    to: str,
    out: str | Path,
    *,
    base: str | Path = "",
    dtype: str | None = None,
    any_base: bool = False,
    shard_bytes: int = export.SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Converts `source` and returns where the result lies.

    Args:
      source: for "hf" and "orbax" a model, see `weights.load_model`; for "merged" and "peft" an adapter
        (our file or a PEFT directory); for "adapter" a PEFT directory.
      to: "hf": safetensors with config and tokenizer. "merged": the same of `base` with the adapter
        merged in. "peft": adapter directory for the `peft` package. "orbax": base checkpoint.
        "adapter": our adapter file (`out` is the file).
      base: the model that the adapter belongs to: needed for "merged", noted in "peft".
      dtype: float32, bfloat16 or float16; None: as stored (quantised weights: float32).
      any_base: merge into a base that is not the one the adapter was trained on.
      progress: called with bytes done and bytes to do.

    Raises:
      ConversionError: an unknown kind, a base that is missing, or `out` holds something else.
      AdapterError: the adapter does not fit the base. Others: see `weights.load_model`.
    """
    if to not in KINDS:
        raise ConversionError(f"--to={to}: use one of {', '.join(KINDS)}")
    if to == "merged" and not base:
        raise ConversionError("merging needs the base model: give --base=DIRECTORY")
    if dtype is not None and dtype not in export.DTYPES:
        raise ConversionError(f"dtype {dtype!r}: use one of {', '.join(export.DTYPES)}")
    out, tick = Path(out), progress or (lambda done, total: None)
    if to == "adapter":
        if out.exists():
            raise ConversionError(f"{out} exists and is not overwritten; choose another name")
        save_adapter(out, peft.import_peft(source))
        return out
    model = resolve(base if to == "merged" else source) if to != "peft" else None
    plan = {
        "to": to,
        "source": _fingerprint(model if to in ("hf", "orbax") else Path(source)),
        "base": _fingerprint(model) if to == "merged" else str(base),
        "dtype": dtype,
        "shard_bytes": shard_bytes,
    }
    _begin(out, plan)
    if to == "peft":
        (out / peft.CONFIG_FILE).unlink(missing_ok=True)  # ours: `_begin` lets nothing else pass
        peft.export_peft(read_adapter(source), out, str(base), tick)
    elif to == "orbax":
        _to_orbax(model, out, dtype, tick)
    else:
        adapter = read_adapter(source) if to == "merged" else None
        _to_hf(model, out, adapter, dtype, any_base, shard_bytes, tick)
    (out / CONVERSION_FILE).unlink()
    return out


def read_adapter(path: str | Path) -> Adapter:
    """An adapter from our file or from a PEFT directory."""
    return peft.import_peft(path) if Path(path).is_dir() else load_adapter(path)


def tensors_hashes(source: TensorSource, names: Sequence[str]) -> dict[str, str]:
    """`weights.base_hash` of these tensors, as stored and as each dtype would round them; streamed."""
    digests = {dtype: hashlib.sha256() for dtype in export.DTYPES}
    for name in sorted(names):
        shape = source.shape(name)
        for digest in digests.values():
            digest.update(f"{name}{shape}\n".encode())
        columns = shape[1] if len(shape) > 1 else 1
        for start, stop in row_chunks(range(shape[0]), columns, "float32", export.CHUNK_BYTES):
            block = source.read(name, slice(start, stop))
            for dtype, digest in digests.items():
                rounded = block.astype(_numpy_dtype(dtype)).astype("<f4")
                digest.update(np.ascontiguousarray(rounded).data)
    return {dtype: digest.hexdigest() for dtype, digest in digests.items()}


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copies tokenizer, generation settings and licence; from a GGUF file, writes out its tokenizer."""
    directory = source if source.is_dir() else source.parent
    gguf = gguf_of(source)
    inside = gguf is not None and (source.is_file() or not (directory / "tokenizer.json").is_file())
    if inside:
        from automem_jax.text.gguf_tokenizer import tokenizer_files

        for name, content in tokenizer_files(gguf).items():
            write_atomically(out / name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    for name in _COPIED:
        if not (inside and name.startswith("tokenizer")) and (directory / name).is_file():
            shutil.copyfile(directory / name, out / name)


def _to_hf(model, out, adapter, dtype, any_base, shard_bytes, tick) -> None:
    if (model / weights.ORBAX_DIRECTORY).is_dir():
        loaded, config = weights.load_model(model, dtype or _stored_dtype(model))
        tensors: TensorSource = ModelSource(loaded)
    else:
        tensors, config = weights.open_tensors(model)
    if adapter is not None and adapter.base_hash and not any_base:
        export.check_adapter(adapter, config)
        skipped = {"lm_head.weight"} if config.tie_embeddings else set()
        hashes = tensors_hashes(tensors, [n for n in tensors.names() if n not in skipped])
        if adapter.base_hash not in hashes.values():
            raise AdapterError(
                f"the adapter was trained on base {adapter.base_hash[:12]}, {model} is "
                f"{hashes['float32'][:12]}; give the base it was trained on, or --any_base=yes"
            )
    own = model / "config.json"
    content = (
        read_json(own) if own.is_file() else config.to_hf() | getattr(tensors, "token_ids", {})
    )
    export.write_hf(
        tensors,
        config,
        out,
        adapter,
        dtype,
        tick,
        config_json=content,
        shard_bytes=shard_bytes,
    )
    copy_tokenizer(model, out)


def _to_orbax(model: Path, out: Path, dtype: str | None, tick: Progress) -> None:
    chosen = dtype or _stored_dtype(model)
    loaded, _ = weights.load_model(
        model, chosen, progress=lambda done, total: tick(done, total + 1)
    )
    if (out / weights.ORBAX_DIRECTORY).exists():  # Orbax gives it this name when it is whole
        shutil.rmtree(out / weights.ORBAX_DIRECTORY)
    weights.save_orbax(loaded, out)
    copy_tokenizer(model, out)
    tick(1, 1)


def _stored_dtype(model: Path) -> str:
    if (model / weights.ORBAX_DIRECTORY).is_dir():
        return str(read_json(model / "config.json").get("torch_dtype", "float32"))
    tensors, _ = weights.open_tensors(model)
    stored = tensors.dtype("model.embed_tokens.weight")
    return "float32" if stored == "float64" else stored


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Marks the directory as being converted into, or goes on with the same conversion.

    Raises:
      ConversionError: it holds something else.
    """
    marker = out / CONVERSION_FILE
    if marker.is_file():
        if read_json(marker) != json.loads(json.dumps(plan)):
            raise ConversionError(
                f"{out} holds an unfinished conversion of something else (see {marker.name}); choose "
                "another directory or delete it"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError(f"{out} exists and is not overwritten; choose another directory")
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, plan)


def _fingerprint(path: Path) -> list[list[Any]]:
    """Names, sizes and times of the files that a source consists of."""
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist; check the path")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        [str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()
    ]


def _numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, None) or name)
