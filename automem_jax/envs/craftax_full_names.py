"""The names that Craftax, the full game, gives its blocks, items, creatures, actions and aims.

All are read off the game's own enums and tables, in lower case.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from automem_jax.envs import crafter_text

MOB_TYPES = 8  # of each class of creature; the game's tables have this width


@dataclass(frozen=True)
class Tables:
    """The game's enums as names.

    Attributes:
      actions: in the game's order.
      names: what a code of the view is called: blocks, items, creatures by class and type,
        projectiles of monsters and of the player, the player. None is not shown.
      codes: int32 [N], the lowest code of the same name, for each code.
      items, creatures, projectiles: the codes at which these start.
      pickaxes, swords, armours: gear by tier, from the lowest.
      potions, spells, elements, floors, achievements: in the game's order.
    """

    actions: tuple[str, ...]
    names: tuple[str | None, ...]
    codes: np.ndarray
    items: int
    creatures: int
    projectiles: int
    pickaxes: tuple[str, ...]
    swords: tuple[str, ...]
    armours: tuple[str, ...]
    potions: tuple[str, ...]
    spells: tuple[str, ...]
    elements: tuple[str, ...]
    floors: tuple[str, ...]
    achievements: tuple[str, ...]


@functools.cache
def tables() -> Tables:
    """Reads the names off the game's enums."""
    from craftax.craftax import constants as game

    moves = {"NOOP": "Noop", "LEFT": "Move West", "RIGHT": "Move East", "UP": "Move North"}
    moves["DOWN"] = "Move South"
    unlock = {a.value: a.name.lower() for a in game.Achievement}
    unseen = (game.BlockType.INVALID, game.BlockType.OUT_OF_BOUNDS, game.ItemType.NONE)

    def things(enum: Any) -> list[str | None]:
        # GRAVE2 and ARROW2 are other looks of the same thing.
        plain = [None if e in unseen else e.name.lower().rstrip("0123456789") for e in enum]
        assert [e.value for e in enum] == list(range(len(plain)))
        return plain

    def after(prefix: str, suffix: str = "") -> tuple[str, ...]:
        found = (a.name for a in game.Action)
        return tuple(
            name.removeprefix(prefix).lower()
            for name in found
            if name.startswith(prefix) and name.endswith(suffix)
        )

    # Creatures have no enum: each is named by the achievement of eating or defeating it. The
    # tables' order is passive, melee, ranged; unused places hold the first achievement.
    mobs = [
        unlock[code].partition("_")[2].replace("solider", "soldier") if code else None
        for code in np.asarray(game.MOB_ACHIEVEMENT_MAP).reshape(-1).tolist()
    ]
    shots = things(game.ProjectileType)
    blocks, items = things(game.BlockType), things(game.ItemType)
    names = (*blocks, *items, *mobs, *shots, *(f"your_{s}" for s in shots), crafter_text.PLAYER)
    floors = np.asarray(game.LEVEL_ACHIEVEMENT_MAP).tolist()
    return Tables(
        actions=tuple(
            moves.get(a.name) or a.name.replace("_", " ").title()
            for a in sorted(game.Action, key=lambda a: a.value)
        ),
        names=names,
        codes=np.array([names.index(name) for name in names], np.int32),
        items=len(blocks),
        creatures=len(blocks) + len(items),
        projectiles=len(blocks) + len(items) + len(mobs),
        pickaxes=after("MAKE_", "_PICKAXE"),
        swords=after("MAKE_", "_SWORD"),
        armours=tuple(name.partition("_")[0] for name in after("MAKE_", "_ARMOUR")),
        potions=tuple(f"potion_{colour}" for colour in after("DRINK_POTION_")),
        spells=after("CAST_"),
        elements=tuple(
            b.name.rpartition("_")[2].lower()
            for b in game.BlockType
            if b.name.startswith("ENCHANTMENT_TABLE_")
        ),
        floors=("overworld", *(unlock[code].removeprefix("enter_") for code in floors[1:])),
        achievements=tuple(unlock[code] for code in range(len(unlock))),
    )
