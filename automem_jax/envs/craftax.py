"""Craftax-Classic (Crafter in JAX) as a text environment: every slot in one compiled call.

The compiled call turns each state into its 9 x 7 view, the nearest of each thing, vitals and
inventory; the host only puts them into words (`crafter_text`).

Percept fields:
  view: 9 x 7 names, view[x][y], the player at [4][3]; None outside the world.
  facing: (dx, dy) of the cell in front.   inventory: vitals and items by name.
  health, food, drink, energy: 0..9.   sleeping, dead: bool.   daylight: 0 (night) to 1.
  achievements: names unlocked so far.
  grid: the view as a typed map (envs.grid.Grid) around the player, who stands at x 4, y 3.

Array legend: S slots, X 9 view columns, Y 7 view rows, N names of things.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs import crafter_text
from automem_jax.envs.craftax_slots import (
    CraftaxEnv,
    Game,
    Words,
    nearest_of_each,
    place_things,
    window,
)
from automem_jax.envs.craftax_textures import pixel_renderer
from automem_jax.envs.grid import Grid, Terrain, Thing
from automem_jax.envs.progression import crafter_progression

MAX_STEPS = 2_000
ACTIONS = (
    "Noop",
    "Move West",
    "Move East",
    "Move North",
    "Move South",
    "Do",
    "Sleep",
    "Place Stone",
    "Place Table",
    "Place Furnace",
    "Place Plant",
    "Make Wood Pickaxe",
    "Make Stone Pickaxe",
    "Make Iron Pickaxe",
    "Make Wood Sword",
    "Make Stone Sword",
    "Make Iron Sword",
)
INVENTORY = (
    "health",
    "food",
    "drink",
    "energy",
    "sapling",
    "wood",
    "stone",
    "coal",
    "iron",
    "diamond",
    "wood_pickaxe",
    "stone_pickaxe",
    "iron_pickaxe",
    "wood_sword",
    "stone_sword",
    "iron_sword",
)
# Names by Craftax block id; then the things that stand on blocks. Ripe plants are told as plants.
_BLOCKS = (None, None, "grass", "water", "stone", "tree", "wood", "path", "coal", "iron") + (
    "diamond",
    "table",
    "furnace",
    "sand",
    "lava",
    "plant",
    "plant",
)
_THINGS = ("zombie", "cow", "skeleton", "arrow", crafter_text.PLAYER)
_NAMES: tuple[str | None, ...] = _BLOCKS + _THINGS
_OUTSIDE = 1
_PLANT, _RIPE_PLANT = 15, 16
_FIRST_THING = len(_BLOCKS)
_PLAYER = len(_NAMES) - 1
_VIEW_X, _VIEW_Y = crafter_text.VIEW_X, crafter_text.VIEW_Y
_CELLS = _VIEW_X * _VIEW_Y
# Terrain by the same codes; what stands on a block hides it. Placed wood is no block one can meet.
_TERRAIN = np.array(
    [Terrain.OUTSIDE, Terrain.OUTSIDE]
    + [Terrain[(name or "").upper()] if name != "wood" else Terrain.FLOOR for name in _BLOCKS[2:]]
    + [Terrain.HIDDEN] * len(_THINGS),
    np.uint8,
)
_KINDS = {name: "monster" for name in _THINGS} | {"arrow": "projectile"}
_INSTRUCTIONS = (
    "You are playing Crafter: gather, craft, build, fight and stay alive in an open world, and "
    "unlock as many of the 22 achievements as you can: collect wood, place table, eat cow, collect "
    "sapling, collect drink, make wood pickaxe, make wood sword, place plant, defeat zombie, "
    "collect stone, place stone, eat plant, defeat skeleton, make stone pickaxe, make stone sword, "
    "wake up, place furnace, collect coal, collect iron, collect diamond, make iron pickaxe, "
    "make iron sword. Each step you choose one action.\nActions: {actions}"
)


class Sight(NamedTuple):
    """What the host needs of each slot, made in the compiled call.

    Attributes:
      view: uint8 [S, X, Y], index into the names table.
      first, nearest: uint8 [S, N], see `nearest_of_each`.
      facing: int8 [S, 2], (dx, dy).
      inventory: int32 [S, 16], order of INVENTORY.
      sleeping, dead: bool [S].
      daylight: float32 [S].
      achievements: bool [S, 22].
    """

    view: jax.Array
    first: jax.Array
    nearest: jax.Array
    facing: jax.Array
    inventory: jax.Array
    sleeping: jax.Array
    dead: jax.Array
    daylight: jax.Array
    achievements: jax.Array


def sight(state: Any) -> Sight:
    """One world's sight (no slot axis); pure, jit- and vmap-able."""
    from craftax.craftax_classic.constants import DIRECTIONS
    from craftax.craftax_classic.game_logic import is_game_over

    centre = state.player_position
    view = window(state.map, centre, _VIEW_X, _VIEW_Y, _OUTSIDE)
    view = jnp.where(view == _RIPE_PLANT, _PLANT, view)
    for code, mobs in enumerate((state.zombies, state.cows, state.skeletons, state.arrows)):
        view = place_things(view, centre, mobs.position, mobs.mask, _FIRST_THING + code)
    view = view.at[_VIEW_Y // 2, _VIEW_X // 2].set(_PLAYER).T
    first, nearest = nearest_of_each(view, len(_NAMES))
    # Neither the player nor what lies outside the world is told.
    told = jnp.array([name not in (None, crafter_text.PLAYER) for name in _NAMES])
    items = state.inventory
    carried = [
        getattr(state, f"player_{name}") if name in crafter_text.VITALS else getattr(items, name)
        for name in INVENTORY
    ]
    return Sight(
        view=view.astype(jnp.uint8),
        first=jnp.where(told, first, _CELLS).astype(jnp.uint8),
        nearest=nearest,
        facing=DIRECTIONS[state.player_direction][::-1].astype(jnp.int8),
        inventory=jnp.stack([jnp.asarray(c, jnp.int32) for c in carried]),
        sleeping=jnp.asarray(state.is_sleeping, bool),
        dead=is_game_over(state, _rules()[0]),
        daylight=jnp.asarray(state.light_level, jnp.float32),
        achievements=state.achievements.astype(bool),
    )


def words(seen: Sight, slots: Sequence[int]) -> list[Words]:
    """Puts the sights of `slots` into words; the text is `crafter_text.describe`'s."""
    chosen = Sight(*(leaf[list(slots)] for leaf in seen))
    # No two names are first seen in the same cell, so this is the order of the scan.
    order = chosen.first.argsort(axis=1).tolist()
    counts = (chosen.first < _CELLS).sum(axis=1).tolist()
    facing = chosen.facing.astype(int)
    front = chosen.view[
        range(len(slots)),
        crafter_text.CENTRE_X + facing[:, 0],
        crafter_text.CENTRE_Y + facing[:, 1],
    ].tolist()
    lines = _lines()
    grids = _grids(chosen.view)
    told = []
    for i, (nearest, carried, sleeping, dead, daylight, faced) in enumerate(
        zip(
            chosen.nearest.tolist(),
            chosen.inventory.tolist(),
            chosen.sleeping.tolist(),
            chosen.dead.tolist(),
            chosen.daylight.tolist(),
            facing.tolist(),
            strict=True,
        )
    ):
        inventory = dict(zip(INVENTORY, carried, strict=True))
        unlocked = _unlocked(chosen.achievements[i].tobytes())
        fields = {
            "view": _view(chosen.view[i].tobytes()),
            "facing": tuple(faced),
            "inventory": inventory,
            **{name: inventory[name] for name in crafter_text.VITALS},
            "sleeping": sleeping,
            "dead": dead,
            "daylight": daylight,
            "achievements": unlocked,
            "grid": grids[i],
        }
        told.append(
            Words(
                long_text=crafter_text.describe_scene(
                    [lines[code][nearest[code]] for code in order[i][: counts[i]]],
                    _NAMES[front[i]] or crafter_text.NOTHING,
                    sleeping,
                    dead,
                ),
                short_text=_status(tuple(carried)),
                fields=fields,
                end_reason="death" if dead else None,
                progression=crafter_progression(chosen.achievements[i]),
            )
        )
    return told


def _grids(views: np.ndarray) -> list[Grid]:
    """The typed map of each view; views: uint8 [S, X, Y]."""
    rows = views.transpose(0, 2, 1)
    terrain = _TERRAIN[rows]
    things: list[list[Thing]] = [[] for _ in views]
    slots, ys, xs = np.nonzero((rows >= _FIRST_THING) & (rows != _PLAYER))
    for slot, y, x in zip(slots.tolist(), ys.tolist(), xs.tolist(), strict=True):
        name = _NAMES[rows[slot, y, x]]
        things[slot].append(Thing(_KINDS[name], name, x, y))
    here = crafter_text.CENTRE_X, crafter_text.CENTRE_Y
    return [
        Grid(ground, *here, tuple(seen), relative=True, diagonals=False)
        for ground, seen in zip(terrain, things, strict=True)
    ]


@functools.cache
def _lines() -> tuple[tuple[str, ...], ...]:
    """What is said of each name in each cell of the view."""
    places = [
        crafter_text.rough_place(x - crafter_text.CENTRE_X, y - crafter_text.CENTRE_Y)
        for x in range(_VIEW_X)
        for y in range(_VIEW_Y)
    ]
    return tuple(
        tuple(crafter_text.sighting(name or crafter_text.NOTHING, place) for place in places)
        for name in _NAMES
    )


def _view(codes: bytes) -> tuple[tuple[str | None, ...], ...]:
    return tuple(_column(codes[i : i + _VIEW_Y]) for i in range(0, _CELLS, _VIEW_Y))


@functools.lru_cache(maxsize=1 << 16)
def _column(codes: bytes) -> tuple[str | None, ...]:
    return tuple(_NAMES[code] for code in codes)


@functools.lru_cache(maxsize=1 << 12)
def _status(carried: tuple[int, ...]) -> str:
    return crafter_text.describe_status(dict(zip(INVENTORY, carried, strict=True)))


@functools.lru_cache(maxsize=1 << 12)
def _unlocked(flags: bytes) -> tuple[str, ...]:
    from craftax.craftax_classic.constants import Achievement

    return tuple(
        a.name.lower() for a in sorted(Achievement, key=lambda a: a.value) if flags[a.value]
    )


@functools.cache
def game() -> Game:
    """Craftax-Classic. Loads its modules, whose tables must not be made inside a traced function."""
    from craftax.craftax_classic import constants, game_logic, renderer, world_gen

    params, static = _rules()
    return Game(
        name="craftax_classic",
        actions=ACTIONS,
        instructions=_INSTRUCTIONS.format(actions=", ".join(ACTIONS)),
        new_world=lambda key: world_gen.generate_world(key, params, static),
        advance=lambda key, state, action: game_logic.craftax_step(
            key, state, action, params, static
        ),
        sight=sight,
        words=words,
        picture=functools.cache(lambda: pixel_renderer("craftax_classic", constants, renderer)),
    )


@functools.cache
def _rules() -> tuple[Any, Any]:
    """The engine's parameters and static parameters."""
    from craftax.craftax_classic.envs.craftax_state import EnvParams, StaticEnvParams

    # The step cap is counted on the host; the engine's own must never fire.
    return EnvParams(max_timesteps=2**30), StaticEnvParams()


def make_craftax_classic(config: EnvConfig) -> CraftaxEnv:
    """Craftax-Classic for `config.slots` worlds; max_steps 0 means the benchmark's 2,000."""
    return CraftaxEnv(game(), config.slots, config.max_steps or MAX_STEPS)
