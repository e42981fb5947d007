"""Memory as a directory of plain files: one UTF-8 text a file, a line a line.

A file named "a/b" lies at a/b. Where another file's folder has the same name, "a" lies at "a%": no
file's name holds a percent sign. `%kinds.json` says which of the agent's own files are maps.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from automem_jax.agent.memory import MemoryStore, replay
from automem_jax.agent.memory_texts import Lines, file_name, key_and_value

_KINDS = "%kinds.json"
_MOST_NAME_CHARS = 1024


def export_files(files: Mapping[str, Lines], directory: str | os.PathLike) -> list[pathlib.Path]:
    """Writes a snapshot (`MemoryStore.snapshot`, `replay`) into a directory, all of it or nothing.

    Args:
      files: name -> (id, text) lines.
      directory: does not exist, is empty, or was written by this function and is replaced.

    Returns:
      The paths written, by name.

    Raises:
      ValueError: a name that would leave the directory, or a directory that holds something else.
      OSError: the file system refuses, e.g. a name that is too long for it.
    """
    target = pathlib.Path(directory)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target} is no plain directory; name another")
    if target.is_dir() and any(target.iterdir()) and not (target / _KINDS).is_file():
        raise ValueError(
            f"{target} holds files that are no exported memory; name another directory"
        )
    places = _places(files)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, place in places.items():
            path = made / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                "".join(f"{text}\n" for _, text in files[name]).encode("utf-8", "replace")
            )
        kinds = {name: "map" for name in sorted(files) if _is_map(files[name])}
        (made / _KINDS).write_text(json.dumps(kinds, indent=1) + "\n", encoding="utf-8")
        made.chmod(0o755)
        if target.is_dir():
            old = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            os.replace(target, old)
            os.replace(made, target)
            shutil.rmtree(old)
        else:
            os.replace(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return [target / place for place in places.values()]


def import_files(directory: str | os.PathLike) -> dict[str, str]:
    """Reads a directory of plain files: name -> text, sorted by name. Follows no links.

    Raises:
      ValueError: no directory, a link or another thing that is no plain file, a name that no memory
        file can have, two files of one name, or a file that is not UTF-8; the path is named.
    """
    root = pathlib.Path(directory)
    if not root.is_dir():
        raise ValueError(f"{root} is no directory; name one that holds exported memory")
    texts: dict[str, str] = {}
    for folder, folders, names in os.walk(root, followlinks=False):
        for name in sorted((*folders, *names)):
            path = pathlib.Path(folder, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path} is no plain file; remove it")
            if name in folders or path == root / _KINDS:
                continue
            own = path.relative_to(root).as_posix().removesuffix("%")
            if file_name(own, _MOST_NAME_CHARS) != own:
                raise ValueError(f"{path}: memory would call it otherwise; rename it")
            if own in texts:
                raise ValueError(f"{path}: there are two files {own!r}; remove one")
            texts[own] = _read(path)
    return dict(sorted(texts.items()))


def load_store(store: MemoryStore, directory: str | os.PathLike) -> None:
    """Puts a directory's files into a store; its other files stay as they are.

    Raises:
      ValueError: as `import_files`, and files that the store's limits do not allow.
    """
    root = pathlib.Path(directory)
    texts, kinds = import_files(root), {}
    if (root / _KINDS).is_file():
        try:
            kinds = json.loads((root / _KINDS).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{root / _KINDS} is not JSON ({error}); remove it") from error
    for name, text in texts.items():
        is_map = isinstance(kinds, dict) and kinds.get(name) == "map"
        store.put(name, text, "map" if is_map else "document")


def files_at(steps: Iterable[Any], last: int | None = None) -> dict[str, Lines]:
    """The files of a trace as they were after step `last` (None: its last step).

    Args:
      steps: a trace's steps, in order (`traces.schema.Step`).
    """
    kept = [step for step in steps if last is None or step.t <= last]
    return replay(change for step in kept for change in step.memory)


def _places(files: Mapping[str, Lines]) -> dict[str, str]:
    folders = {
        "/".join(parts[:depth])
        for parts in (name.split("/") for name in files)
        for depth in range(1, len(parts))
    }
    places = {}
    for name in files:
        try:
            plain = file_name(name, _MOST_NAME_CHARS)
        except ValueError as error:
            raise ValueError(f"{error}; it cannot be exported") from None
        if plain != name:
            raise ValueError(f"file {name!r} would lie at {plain!r}; it cannot be exported")
        places[name] = f"{name}%" if name in folders else name
    return places


def _is_map(lines: Lines) -> bool:
    """Whether every line has a key of its own, as UPSERT leaves them."""
    keys = [key_and_value(text)[0] for _, text in lines]
    return bool(keys) and all(keys) and len(set(keys)) == len(keys)


def _read(path: pathlib.Path) -> str:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error}); convert it") from error
