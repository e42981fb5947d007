"""Boxoban levels: reading, fetching, and an engine whose reset picks a level by its seed.

MiniHack's own Boxoban picks with Python's global random over an unsorted directory, takes no seed
in `reset`, and looks for levels inside the installed package. Here levels come from a directory:

    <directory>/hard/*.txt
    <directory>/medium/{train,valid}/*.txt
    <directory>/unfiltered/{train,valid,test}/*.txt

Each file holds blocks of "; number", ten rows of ten characters ("#" wall, "@" player, "$" box,
"." target) and a blank line: https://github.com/google-deepmind/boxoban-levels.

    python -c "from automem_jax.envs import boxoban; boxoban.download('levels')"
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import urllib.error
import urllib.request
import warnings
import zipfile
from pathlib import Path
from typing import Any

ARCHIVE_URL = "https://github.com/google-deepmind/boxoban-levels/archive/refs/heads/master.zip"
HASH_FILE = "levels.sha256"


class LevelsError(ValueError):
    """Level files are missing, damaged or not to be had; the message says what to do."""


def download(
    directory: str | os.PathLike, sha256: str | None = None, url: str = ARCHIVE_URL
) -> str:
    """Fetches the public level files into `directory` and checks them.

    The hash is over the level files' paths and contents (`levels_hash`), not over the archive,
    whose bytes the server may pack differently. No published value exists and none could be
    verified when this was written: without `sha256` the first download is trusted, its hash is
    written to `levels.sha256` beside the levels and returned, for you to pin; later downloads into
    the same directory must match that file.

    Args:
      directory: created where it does not exist.
      sha256: the hash that the levels must have.
      url: a zip archive of the level files, `file:` included.

    Raises:
      LevelsError: no connection, no level files in the archive, or another hash; nothing is
        written then.
    """
    directory = Path(directory)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    except (urllib.error.URLError, OSError, zipfile.BadZipFile) as error:
        raise LevelsError(
            f"could not fetch {url} ({error}). On a machine with internet, download that archive, "
            f"unpack it, and copy its hard/, medium/ and unfiltered/ folders into {directory}"
        ) from error
    levels = {}
    for name in archive.namelist():
        parts = Path(name).parts
        at = next((i for i, part in enumerate(parts) if part in LEVEL_SETS), None)
        if at is not None and name.endswith(".txt") and ".." not in parts:
            levels["/".join(parts[at:])] = archive.read(name)
    if not levels:
        raise LevelsError(f"{url} holds no level files (hard/*.txt, medium/*/*.txt, ...)")
    found = levels_hash(levels)
    known = directory / HASH_FILE
    expected = sha256 or (known.read_text().strip() if known.exists() else None)
    if expected is not None and found != expected:
        raise LevelsError(
            f"the levels at {url} have SHA-256 {found}, expected {expected}"
            f"{'' if sha256 else f' (from {known}; delete it to accept the new ones)'}"
        )
    for name, content in levels.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    known.write_text(found + "\n")
    return found


LEVEL_SETS = ("hard", "medium", "unfiltered")


def levels_hash(levels: dict[str, bytes]) -> str:
    """SHA-256 over the sorted paths and contents of level files."""
    total = hashlib.sha256()
    for name in sorted(levels):
        total.update(f"{name}\0{len(levels[name])}\0".encode())
        total.update(levels[name])
    return total.hexdigest()


@functools.lru_cache(maxsize=8)
def read_levels(directory: str, level_set: str, split: str) -> tuple[tuple[str, ...], ...]:
    """All levels of a set, each a tuple of rows, in the order of sorted file names.

    Raises:
      LevelsError: no directory given, no level files there, or a damaged one.
    """
    remedy = (
        "set env.levels_dir to a directory with Boxoban's level files; where there is internet, "
        "automem_jax.envs.boxoban.download(directory) fetches them"
    )
    if not directory:
        raise LevelsError(f"env.levels_dir is empty: {remedy}")
    folder = Path(directory) / level_set / split
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise LevelsError(f"env.levels_dir: no level files in {folder}: {remedy}")
    levels = []
    for file in files:
        rows: list[str] = []
        for number, line in enumerate([*file.read_text().splitlines(), ""], 1):
            if line and not line.startswith(";"):
                rows.append(line)
            elif rows:
                together = "".join(rows)
                if together.count("@") != 1 or together.count("$") != together.count("."):
                    raise LevelsError(
                        f"{file}:{number}: the level that ends here needs one player (@) and as many "
                        "boxes ($) as targets (.)"
                    )
                levels.append(tuple(rows))
                rows = []
    return tuple(levels)


def pick(seed: int, count: int) -> int:
    """The level of a seed: the same on every machine, evenly spread over seeds."""
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big") % count


def describe_level(level: tuple[str, ...]) -> Any:
    """A level as MiniHack's generator: bars for walls, boulders for boxes, fountains for targets."""
    from minihack import LevelGenerator

    floor = str.maketrans({"#": "F", " ": ".", "@": ".", "$": "."})
    generator = LevelGenerator(
        map="\n".join(row.translate(floor) for row in level),
        lit=True,
        flags=("noteleport", "premapped"),
        solidfill=" ",
    )
    cells = [(x, y, mark) for y, row in enumerate(level) for x, mark in enumerate(row)]
    for x, y, mark in cells:
        if mark == "$":
            generator.add_boulder((x, y))
    for x, y, mark in cells:
        if mark == ".":
            generator.add_fountain((x, y))
        elif mark == "@":
            generator.set_start_pos((x, y))
    return generator


@functools.cache
def engine_class(task: str) -> type:
    """A seedable engine for one of MiniHack's Boxoban tasks, by its registered id.

    Its `seed` picks the level of the next `reset` too. Build it with `levels_dir` and the keyword
    arguments of MiniHack's environments; "chars" must be among `observation_keys`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from minihack import MiniHackNavigation
        from minihack.envs.boxohack import MOVE_ACTIONS, BoxoHack

    level_set = next(name for name in LEVEL_SETS if name.capitalize() in task)
    split = "" if level_set == "hard" else "train"

    class SeededBoxoban(BoxoHack):
        """Boxoban with MiniHack's rules and rewards, its levels chosen by the seed."""

        def __init__(self, *args: Any, levels_dir: str = "", **kwargs: Any) -> None:
            self._levels = read_levels(levels_dir, level_set, split)
            self._level = 0
            kwargs.pop("penalty_time", None)  # MiniHack's Boxoban tasks have their own
            self._time_penalty, self._reward_shaping_coefficient = -0.001, 0.1
            self._goal_pos_set: set | None = None
            kwargs = {"max_episode_steps": 400, "actions": MOVE_ACTIONS} | kwargs
            description = describe_level(self._levels[0]).get_des()
            MiniHackNavigation.__init__(self, *args, des_file=description, **kwargs)

        def seed(self, core: Any = None, disp: Any = None, reseed: bool = False, lgen: Any = None):
            seeds = super().seed(core, disp, reseed, lgen)
            self._level = pick(seeds[0], len(self._levels))
            return seeds

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            if seed is not None:
                self.seed(seed, seed, reseed=False)
            self.update(describe_level(self._levels[self._level]).get_des())
            self._goal_pos_set = None  # NLE asks for the end of the episode before it is known
            first = MiniHackNavigation.reset(self, options=options)
            self._goal_pos_set = self._object_positions(self.last_observation, "{")
            return first

        def close(self) -> None:
            with contextlib.suppress(AttributeError):  # levels were missing: nothing was opened
                super().close()

    return SeededBoxoban
