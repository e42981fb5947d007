"""Craftax, the full game, as a text environment: every slot in one compiled call.

Nine floors, 67 achievements, spells, potions, bows, armour and enchantments. The compiled call
turns each state into what its player can see; the host puts that into words
(`craftax_full_text`). All names come from the game's enums.

Percept fields:
  view: 11 x 9 names, view[x][y], the player at [5][4]; "darkness" where there is no light, None
    outside the world. Creatures hide items, items hide ground.
  facing: (dx, dy) of the cell in front.   direction: its name.   under: what the player stands on.
  inventory: items by name, those not carried too (0).
  enchantments: item name -> element ("fire", "ice"), for those carried.
  health (a float), food, drink, energy, mana: now.   limits: the most there can be of each.
  dexterity, strength, intelligence: 1..5.   experience: unspent points.   spells: those learned.
  floor: 0..8.   floor_name.   way_down_open: enough monsters slain to use this floor's ladder down.
  sleeping, resting, dead, won: bool.   daylight: 0 (night) to 1, felt on floor 0.
  achievements: names unlocked so far.

Array legend: S slots, X 11 view columns, Y 9 view rows, N names of things.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs import craftax_full_text as text
from automem_jax.envs import crafter_text
from automem_jax.envs.craftax_full_names import MOB_TYPES, tables
from automem_jax.envs.craftax_slots import (
    CraftaxEnv,
    Game,
    Words,
    nearest_of_each,
    place_things,
    window,
)
from automem_jax.envs.craftax_textures import pixel_renderer
from automem_jax.envs.progression import crafter_progression

MAX_STEPS = 100_000  # the game's own
VITALS = (*crafter_text.VITALS, "mana")
ATTRIBUTES = ("dexterity", "strength", "intelligence")
# What is carried in numbers, by the names of the game's inventory.
COUNTED = ("wood", "stone", "coal", "iron", "diamond", "sapphire", "ruby", "sapling") + (
    "torches",
    "arrows",
    "books",
)
ARMOUR_PIECES = ("helmet", "chestplate", "pants", "boots")
_LIT = 0.05  # light above which the game shows a cell
_DIRECTIONS = {(-1, 0): "west", (1, 0): "east", (0, -1): "north", (0, 1): "south"}
_CELLS = text.VIEW_X * text.VIEW_Y
_INSTRUCTIONS = (
    "You are playing Craftax: gather, craft, build, fight and stay alive in a world of nine floors, "
    "and unlock as many of the {count} achievements as you can: {achievements}. A ladder_down can "
    "be used (Descend, standing on it) once eight monsters are slain on its floor. Cells without "
    "light show as darkness. Each step you choose one action.\nActions: {actions}"
)


class Sight(NamedTuple):
    """What the host needs of each slot, made in the compiled call.

    Attributes:
      view: uint8 [S, X, Y], index into the names table.
      first, nearest: uint8 [S, N], see `nearest_of_each`.
      under: uint8 [S], index into the names table.
      facing: int8 [S, 2], (dx, dy).
      vitals: float32 [S, 5], order of VITALS; limits: int32 [S, 5].
      attributes: int32 [S, 3], order of ATTRIBUTES.
      experience, floor: int32 [S].
      counted: int32 [S, 11], order of COUNTED; potions: int32 [S, 6], by colour.
      gear: int32 [S, 3], tiers of pickaxe and sword, and the bow; 0 is none.
      armour: int32 [S, 4], material of each piece; 0 is none.
      enchantments: int32 [S, 6], of sword, bow and armour pieces; 0 none, 1 fire, 2 ice.
      spells: bool [S, 2].
      flags: bool [S, 5], sleeping, resting, dead, won, way down open.
      daylight: float32 [S].
      achievements: bool [S, 67].
    """

    view: jax.Array
    first: jax.Array
    nearest: jax.Array
    under: jax.Array
    facing: jax.Array
    vitals: jax.Array
    limits: jax.Array
    attributes: jax.Array
    experience: jax.Array
    floor: jax.Array
    counted: jax.Array
    potions: jax.Array
    gear: jax.Array
    armour: jax.Array
    enchantments: jax.Array
    spells: jax.Array
    flags: jax.Array
    daylight: jax.Array
    achievements: jax.Array


def sight(state: Any) -> Sight:
    """One world's sight (no slot axis); pure, jit- and vmap-able."""
    from craftax.craftax import constants as game
    from craftax.craftax.util import game_logic_utils as rules

    table = tables()
    floor, centre = state.player_level, state.player_position
    codes = jnp.asarray(table.codes)
    block, item = game.BlockType, game.ItemType
    ground = window(state.map[floor], centre, text.VIEW_X, text.VIEW_Y, block.OUT_OF_BOUNDS.value)
    items = window(state.item_map[floor], centre, text.VIEW_X, text.VIEW_Y, item.NONE.value)
    light = window(state.light_map[floor], centre, text.VIEW_X, text.VIEW_Y, 1.0)

    # As the game draws them: the boss open to attack, the way down shut.
    boss = jnp.where(
        rules.is_boss_vulnerable(state),
        block.NECROMANCER_VULNERABLE.value,
        block.NECROMANCER.value,
    )
    ground = jnp.where(ground == block.NECROMANCER.value, boss, ground)
    way_down_open = state.monsters_killed[floor] >= game.MONSTERS_KILLED_TO_CLEAR_LEVEL
    shut = (items == item.LADDER_DOWN.value) & ~way_down_open
    items = jnp.where(shut, item.LADDER_DOWN_BLOCKED.value, items)

    view = jnp.where(items == item.NONE.value, ground, table.items + items)
    under = view[text.CENTRE_Y, text.CENTRE_X]
    for code, mobs in (
        (table.creatures, state.passive_mobs),
        (table.creatures + MOB_TYPES, state.melee_mobs),
        (table.creatures + 2 * MOB_TYPES, state.ranged_mobs),
        (table.projectiles, state.mob_projectiles),
        (table.projectiles + MOB_TYPES, state.player_projectiles),
    ):
        names = code + mobs.type_id[floor]
        view = place_things(view, centre, mobs.position[floor], mobs.mask[floor], names)
    lit = light > _LIT
    view = codes[jnp.where(lit, view, block.DARKNESS.value)]
    under = codes[jnp.where(lit[text.CENTRE_Y, text.CENTRE_X], under, block.DARKNESS.value)]
    view = view.at[text.CENTRE_Y, text.CENTRE_X].set(len(table.names) - 1).T
    first, nearest = nearest_of_each(view, len(table.names))
    told = np.array([name not in (None, crafter_text.PLAYER) for name in table.names])

    carried = state.inventory
    limits = (
        rules.get_max_health,
        rules.get_max_food,
        rules.get_max_drink,
        rules.get_max_energy,
        rules.get_max_mana,
    )

    def ints(*values: Any) -> jax.Array:
        return jnp.stack([jnp.asarray(value, jnp.int32) for value in values])

    return Sight(
        view=view.astype(jnp.uint8),
        first=jnp.where(told, first, _CELLS).astype(jnp.uint8),
        nearest=nearest,
        under=under.astype(jnp.uint8),
        facing=game.DIRECTIONS[state.player_direction][::-1].astype(jnp.int8),
        vitals=jnp.stack(
            [jnp.asarray(getattr(state, f"player_{name}"), jnp.float32) for name in VITALS]
        ),
        limits=ints(*(limit(state) for limit in limits)),
        attributes=ints(*(getattr(state, f"player_{name}") for name in ATTRIBUTES)),
        experience=ints(state.player_xp)[0],
        floor=ints(floor)[0],
        counted=ints(*(getattr(carried, name) for name in COUNTED)),
        potions=carried.potions.astype(jnp.int32),
        gear=ints(carried.pickaxe, carried.sword, carried.bow),
        armour=carried.armour.astype(jnp.int32),
        enchantments=ints(
            state.sword_enchantment, state.bow_enchantment, *state.armour_enchantments
        ),
        spells=state.learned_spells.astype(bool),
        flags=jnp.stack(
            [
                jnp.asarray(state.is_sleeping, bool),
                jnp.asarray(state.is_resting, bool),
                state.player_health <= 0,
                rules.has_beaten_boss(state, _rules()[1]),
                way_down_open,
            ]
        ),
        daylight=jnp.asarray(state.light_level, jnp.float32),
        achievements=state.achievements.astype(bool),
    )


def words(seen: Sight, slots: Sequence[int]) -> list[Words]:
    """Puts the sights of `slots` into words."""
    chosen = Sight(*(leaf[list(slots)] for leaf in seen))
    order = chosen.first.argsort(axis=1).tolist()
    counts = (chosen.first < _CELLS).sum(axis=1).tolist()
    facing = chosen.facing.astype(int)
    front = chosen.view[
        range(len(slots)), text.CENTRE_X + facing[:, 0], text.CENTRE_Y + facing[:, 1]
    ].tolist()
    plain = Sight(*(leaf.tolist() for leaf in chosen._replace(view=facing, achievements=facing)))
    table, lines = tables(), _lines()
    told = []
    for i in range(len(slots)):
        sleeping, resting, dead, won, way_down_open = plain.flags[i]
        status, short_text = _status(
            tuple(plain.vitals[i]),
            tuple(plain.limits[i]),
            tuple(plain.attributes[i]),
            plain.experience[i],
            tuple(plain.spells[i]),
            _Carried(
                tuple(plain.counted[i]),
                tuple(plain.potions[i]),
                tuple(plain.gear[i]),
                tuple(plain.armour[i]),
                tuple(plain.enchantments[i]),
            ),
        )
        floor, nearest = plain.floor[i], plain.nearest[i]
        floor_name = table.floors[floor]
        direction = _DIRECTIONS[tuple(plain.facing[i])]
        under = table.names[plain.under[i]] or crafter_text.NOTHING
        fields = {
            "view": _view(chosen.view[i].tobytes()),
            "facing": tuple(plain.facing[i]),
            "direction": direction,
            "under": under,
            **{name: dict(value) if isinstance(value, dict) else value for name, value in status},
            "floor": floor,
            "floor_name": floor_name,
            "way_down_open": way_down_open,
            "sleeping": sleeping,
            "resting": resting,
            "dead": dead,
            "won": won,
            "daylight": plain.daylight[i],
            "achievements": _unlocked(chosen.achievements[i].tobytes()),
        }
        long_text = text.describe_scene(
            [lines[code][nearest[code]] for code in order[i][: counts[i]]],
            front=table.names[front[i]] or crafter_text.NOTHING,
            under=under,
            place=text.describe_place(floor, len(table.floors) - 1, floor_name, plain.daylight[i]),
            direction=direction,
            sleeping=sleeping,
            resting=resting,
            dead=dead,
        )
        told.append(
            Words(
                long_text=long_text,
                short_text=short_text,
                fields=fields,
                end_reason="death" if dead else "game won" if won else None,
                progression=crafter_progression(chosen.achievements[i]),
            )
        )
    return told


class _Carried(NamedTuple):
    counted: tuple[int, ...]
    potions: tuple[int, ...]
    gear: tuple[int, ...]
    armour: tuple[int, ...]
    enchantments: tuple[int, ...]

    def inventory(self) -> dict[str, int]:
        """All items by name, 0 for those not carried."""
        table = tables()
        pickaxe, sword, bow = self.gear
        held = dict(zip(COUNTED, self.counted, strict=True))
        held |= zip(table.potions, self.potions, strict=True)
        held |= {name: int(tier == pickaxe) for tier, name in enumerate(table.pickaxes, 1)}
        held |= {name: int(tier == sword) for tier, name in enumerate(table.swords, 1)}
        held["bow"] = bow
        for material, name in enumerate(table.armours, 1):
            for piece, worn in zip(ARMOUR_PIECES, self.armour, strict=True):
                held[f"{name}_{piece}"] = int(worn == material)
        return held

    def enchanted(self) -> dict[str, str]:
        """Elements by the name of the carried item that bears it."""
        table = tables()
        _, sword, bow = self.gear
        bearers = [(*("",), *table.swords)[sword], "bow" if bow else ""]
        bearers += [
            f"{table.armours[worn - 1]}_{piece}" if worn else ""
            for piece, worn in zip(ARMOUR_PIECES, self.armour, strict=True)
        ]
        return {
            name: table.elements[element - 1]
            for name, element in zip(bearers, self.enchantments, strict=True)
            if name and element
        }


@functools.lru_cache(maxsize=1 << 12)
def _status(
    vitals: tuple[float, ...],
    limits: tuple[int, ...],
    attributes: tuple[int, ...],
    experience: int,
    spells: tuple[bool, ...],
    carried: _Carried,
) -> tuple[tuple[tuple[str, Any], ...], str]:
    """(fields, text); the fields' mappings are copied by the caller."""
    health, *others = vitals
    points = {"health": round(health, 3)}
    points |= zip(VITALS[1:], map(int, others), strict=True)
    most = dict(zip(VITALS, limits, strict=True))
    levels = dict(zip(ATTRIBUTES, attributes, strict=True))
    known = tuple(n for n, learned in zip(tables().spells, spells, strict=True) if learned)
    inventory, enchanted = carried.inventory(), carried.enchanted()
    highest = _rules()[0].max_attribute
    short_text = text.describe_status(
        points, most, levels, highest, experience, known, inventory, enchanted
    )
    fields = {
        "inventory": inventory,
        "enchantments": enchanted,
        **points,
        "limits": most,
        **levels,
        "experience": experience,
        "spells": known,
    }
    return tuple(fields.items()), short_text


@functools.cache
def _lines() -> tuple[tuple[str, ...], ...]:
    """What is said of each name in each cell of the view."""
    places = [
        crafter_text.rough_place(x - text.CENTRE_X, y - text.CENTRE_Y)
        for x in range(text.VIEW_X)
        for y in range(text.VIEW_Y)
    ]
    return tuple(
        tuple(crafter_text.sighting(name or crafter_text.NOTHING, place) for place in places)
        for name in tables().names
    )


def _view(codes: bytes) -> tuple[tuple[str | None, ...], ...]:
    return tuple(_column(codes[i : i + text.VIEW_Y]) for i in range(0, _CELLS, text.VIEW_Y))


@functools.lru_cache(maxsize=1 << 16)
def _column(codes: bytes) -> tuple[str | None, ...]:
    names = tables().names
    return tuple(names[code] for code in codes)


@functools.lru_cache(maxsize=1 << 12)
def _unlocked(flags: bytes) -> tuple[str, ...]:
    return tuple(n for n, flag in zip(tables().achievements, flags, strict=True) if flag)


@functools.cache
def game() -> Game:
    """Craftax. Loads its modules, whose tables must not be made inside a traced function."""
    from craftax.craftax import constants, game_logic, renderer
    from craftax.craftax.world_gen import world_gen

    params, static = _rules()
    table = tables()
    return Game(
        name="craftax",
        actions=table.actions,
        instructions=_INSTRUCTIONS.format(
            count=len(table.achievements),
            achievements=", ".join(name.replace("_", " ") for name in table.achievements),
            actions=", ".join(table.actions),
        ),
        new_world=lambda key: world_gen.generate_world(key, params, static),
        advance=lambda key, state, action: game_logic.craftax_step(
            key, state, action, params, static
        ),
        sight=sight,
        words=words,
        picture=functools.cache(lambda: pixel_renderer("craftax", constants, renderer)),
    )


@functools.cache
def _rules() -> tuple[Any, Any]:
    """The engine's parameters and static parameters."""
    from craftax.craftax.craftax_state import EnvParams, StaticEnvParams

    # The step cap is counted on the host; the engine's own must never fire.
    return EnvParams(max_timesteps=2**30), StaticEnvParams()


def make_craftax(config: EnvConfig) -> CraftaxEnv:
    """Craftax for `config.slots` worlds; max_steps 0 means the game's own 100,000."""
    return CraftaxEnv(game(), config.slots, config.max_steps or MAX_STEPS)
