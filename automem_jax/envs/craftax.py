"""Craftax-Classic (Crafter in JAX) as a text environment: every slot in one compiled call.

The compiled step moves all worlds and turns each state into its 9 x 7 view, vitals and inventory;
the host only puts them into words (`crafter_text`). Worlds are made one at a time, so a world
depends on its seed alone. A slot that takes no action in a call keeps its state.

Percept fields:
  view: 9 x 7 names, view[x][y], the player at [4][3]; None outside the world.
  facing: (dx, dy) of the cell in front.   inventory: vitals and items by name.
  health, food, drink, energy: 0..9.   sleeping, dead: bool.   daylight: 0 (night) to 1.
  achievements: names unlocked so far.

Array legend: S slots, X 9 view columns, Y 7 view rows.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs import crafter_text
from automem_jax.envs.base import Percept
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
# Names by Craftax block id; then the things that stand on blocks.
_BLOCKS = (None, None, "grass", "water", "stone", "tree", "wood", "path", "coal", "iron") + (
    "diamond",
    "table",
    "furnace",
    "sand",
    "lava",
    "plant",
    "plant",
)
_THINGS = ("zombie", "cow", "skeleton", "arrow", "player")
_NAMES: tuple[str | None, ...] = _BLOCKS + _THINGS
_FIRST_THING = len(_BLOCKS)
_VIEW_X, _VIEW_Y = 9, 7
_FRAME_BLOCK_PIXELS = 16
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
      facing: int8 [S, 2], (dx, dy).
      inventory: int32 [S, 16], order of INVENTORY.
      sleeping, dead: bool [S].
      daylight: float32 [S].
      achievements: bool [S, 22].
    """

    view: jax.Array
    facing: jax.Array
    inventory: jax.Array
    sleeping: jax.Array
    dead: jax.Array
    daylight: jax.Array
    achievements: jax.Array


def sight(state: Any, params: Any) -> Sight:
    """One world's sight (no slot axis); pure, jit- and vmap-able."""
    from craftax.craftax_classic.constants import DIRECTIONS
    from craftax.craftax_classic.game_logic import is_game_over

    # Craftax positions are (row, column); the padding lets the view hang over the map's edge.
    pad = max(_VIEW_X, _VIEW_Y)
    corner = state.player_position - jnp.array([_VIEW_Y // 2, _VIEW_X // 2])
    view = jax.lax.dynamic_slice(
        jnp.pad(state.map, pad, constant_values=1), corner + pad, (_VIEW_Y, _VIEW_X)
    )
    for code, mobs in enumerate((state.zombies, state.cows, state.skeletons, state.arrows)):
        at = mobs.position - corner
        at = jnp.where(mobs.mask[:, None] & (at >= 0), at, pad)  # off the view: dropped
        view = view.at[at[:, 0], at[:, 1]].set(_FIRST_THING + code, mode="drop")
    view = view.at[_VIEW_Y // 2, _VIEW_X // 2].set(_FIRST_THING + len(_THINGS) - 1)
    items = state.inventory
    carried = [
        getattr(state, f"player_{name}") if name in crafter_text.VITALS else getattr(items, name)
        for name in INVENTORY
    ]
    return Sight(
        view=view.T.astype(jnp.uint8),
        facing=DIRECTIONS[state.player_direction][::-1].astype(jnp.int8),
        inventory=jnp.stack([jnp.asarray(c, jnp.int32) for c in carried]),
        sleeping=jnp.asarray(state.is_sleeping, bool),
        dead=is_game_over(state, params),
        daylight=jnp.asarray(state.light_level, jnp.float32),
        achievements=state.achievements.astype(bool),
    )


class _Engine:
    """The compiled functions, shared by all environments of one slot count."""

    def __init__(self, slots: int) -> None:
        from craftax.craftax_classic.envs.craftax_state import EnvParams, StaticEnvParams
        from craftax.craftax_classic.game_logic import craftax_step
        from craftax.craftax_classic.world_gen import generate_world

        self.slots = slots
        # The step cap is counted on the host; the engine's own must never fire.
        params = EnvParams(max_timesteps=2**30)
        static = StaticEnvParams()

        def new_world(seed: jax.Array) -> Any:
            world = generate_world(
                jax.random.key_data(jax.random.fold_in(_key(seed), 0)), params, static
            )
            # Python-number leaves would be weakly typed and compile the step a second time.
            return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.asarray(leaf).dtype), world)

        def place(states: Any, slot: jax.Array, seed: jax.Array) -> tuple[Any, Sight]:
            world = new_world(seed)
            states = jax.tree.map(lambda all_, one: all_.at[slot].set(one), states, world)
            return states, sight(world, params)

        def advance(
            states: Any, seeds: jax.Array, steps: jax.Array, actions: jax.Array, active: jax.Array
        ) -> tuple[Any, Sight, jax.Array]:
            def one(state: Any, seed: Any, step: Any, action: Any, moves: Any) -> Any:
                key = jax.random.key_data(jax.random.fold_in(_key(seed), step))
                new, reward = craftax_step(key, state, action, params, static)
                kept = jax.tree.map(
                    lambda after, before: jnp.where(moves, after, before).astype(before.dtype),
                    new,
                    state,
                )
                return kept, sight(kept, params), jnp.where(moves, reward, 0.0)

            return jax.vmap(one)(states, seeds, steps, actions, active)

        self.place = jax.jit(place, donate_argnums=0)
        self.advance = jax.jit(advance, donate_argnums=0)
        shapes = jax.eval_shape(new_world, jax.ShapeDtypeStruct((), jnp.uint32))
        self.empty = lambda: jax.tree.map(
            lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), shapes
        )


def _key(seed: jax.Array) -> jax.Array:
    # Spelt out so that a changed JAX default cannot change episodes.
    return jax.random.key(seed, impl="threefry2x32")


@functools.lru_cache(maxsize=4)
def _engine(slots: int) -> _Engine:
    return _Engine(slots)


@functools.cache
def _pixel_renderer() -> Any:
    from craftax.craftax_classic.renderer import make_craftax_pixel_renderer

    # Craftax resizes its textures on first use (half a minute), keeps them, and prints about it.
    with contextlib.redirect_stdout(io.StringIO()):
        return jax.jit(make_craftax_pixel_renderer(_FRAME_BLOCK_PIXELS))


class CraftaxClassicEnv:
    """Craftax-Classic by slot; see envs.base.TextEnv.

    Args:
      slots: worlds stepped in one call.
      max_steps: cap of an episode.
    """

    def __init__(self, slots: int, max_steps: int = MAX_STEPS) -> None:
        self.num_slots = slots
        self.actions = ACTIONS
        self.fallback_action = ACTIONS[0]
        self.max_steps = max_steps
        self.instructions = _INSTRUCTIONS.format(actions=", ".join(ACTIONS))
        self._index = {name: i for i, name in enumerate(ACTIONS)}
        self._engine = _engine(slots)
        self._states = self._engine.empty()
        self._seeds = np.zeros(slots, np.uint32)
        self._percepts: dict[int, Percept] = {}

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts a new episode in each slot."""
        if len(slots) != len(seeds):
            raise ValueError(f"reset: {len(slots)} slots but {len(seeds)} seeds")
        for slot in slots:
            if not 0 <= slot < self.num_slots:
                raise ValueError(f"slot {slot} is outside 0..{self.num_slots - 1}")
        seen = {}
        for slot, seed in zip(slots, seeds, strict=True):
            self._seeds[slot] = np.uint32(seed & 0xFFFFFFFF)
            self._states, seen[slot] = self._engine.place(
                self._states, np.int32(slot), self._seeds[slot]
            )
        for slot, one in jax.device_get(seen).items():
            self._percepts[slot] = self._percept(one, before=None)
        return {slot: self._percepts[slot] for slot in slots}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """One step in each named slot; ValueError for a slot with no running episode."""
        codes = np.zeros(self.num_slots, np.int32)
        steps = np.zeros(self.num_slots, np.int32)
        active = np.zeros(self.num_slots, bool)
        for slot, action in actions.items():
            before = self._running(slot)
            if before.done:
                raise ValueError(
                    f"slot {slot}: its episode is over ({before.end_reason}); reset it"
                )
            codes[slot] = self._index.get(action, 0)
            steps[slot] = before.step + 1
            active[slot] = True
        self._states, seen, rewards = self._engine.advance(
            self._states, self._seeds, steps, codes, active
        )
        seen, rewards = jax.device_get((seen, rewards))
        for slot, action in actions.items():
            one = Sight(*(leaf[slot] for leaf in seen))
            self._percepts[slot] = self._percept(
                one, self._percepts[slot], action, float(rewards[slot])
            )
        return {slot: self._percepts[slot] for slot in actions}

    def progression(self, slot: int) -> float:
        """Share of the 22 achievements unlocked."""
        return self._running(slot).progression

    def frame(self, slot: int) -> np.ndarray:
        """The game's own picture, uint8 [height, width, 3]."""
        self._running(slot)
        state = jax.tree.map(lambda leaf: leaf[slot], self._states)
        return np.asarray(_pixel_renderer()(state)).clip(0, 255).astype(np.uint8)

    def close(self) -> None:
        """Frees the worlds."""
        self._states = None
        self._percepts.clear()

    def _running(self, slot: int) -> Percept:
        if slot not in self._percepts:
            raise ValueError(f"slot {slot} was never reset; call reset([{slot}], [seed]) first")
        return self._percepts[slot]

    def _percept(
        self,
        one: Sight,
        before: Percept | None,
        action: str | None = None,
        reward: float = 0.0,
    ) -> Percept:
        view = tuple(tuple(_NAMES[code] for code in column) for column in one.view.tolist())
        inventory = dict(zip(INVENTORY, one.inventory.tolist(), strict=True))
        facing = tuple(one.facing.tolist())
        sleeping, dead = bool(one.sleeping), bool(one.dead)
        long, short = crafter_text.describe(view, facing, inventory, sleeping, dead)
        step = before.step + 1 if before else 0
        end_reason = "death" if dead else "step cap" if step >= self.max_steps else None
        unknown = action if action is not None and action not in self._index else None
        fields = {
            "view": view,
            "facing": facing,
            "inventory": inventory,
            **{name: inventory[name] for name in crafter_text.VITALS},
            "sleeping": sleeping,
            "dead": dead,
            "daylight": float(one.daylight),
            "achievements": tuple(np.array(_achievements())[one.achievements].tolist()),
        }
        return Percept(
            long_text=long,
            short_text=short,
            fields=fields,
            actions=ACTIONS,
            step=step,
            reward=reward,
            done=end_reason is not None,
            end_reason=end_reason,
            progression=max(
                crafter_progression(one.achievements), before.progression if before else 0.0
            ),
            action=self.fallback_action if unknown is not None else action,
            unknown_action=unknown,
        )


@functools.cache
def _achievements() -> tuple[str, ...]:
    from craftax.craftax_classic.constants import Achievement

    return tuple(a.name.lower() for a in sorted(Achievement, key=lambda a: a.value))


def make_craftax_classic(config: EnvConfig) -> CraftaxClassicEnv:
    """Craftax-Classic for `config.slots` worlds; max_steps 0 means the benchmark's 2,000."""
    return CraftaxClassicEnv(config.slots, config.max_steps or MAX_STEPS)
