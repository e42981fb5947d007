"""Craftax games by slot: every world in one compiled call, the host only puts states into words.

A `Game` says what is particular to one of them (rules, what of a state is visible, its words);
everything else, from the compiled calls to snapshots, is here. A compiled reset makes worlds one
after the other, so a world depends on its seed alone; the compiled step moves all worlds at once.
A slot that takes no action in a call keeps its state. The randomness of a step is a function of
the episode's seed and the step's number.

Array legend: S slots, X view columns, Y view rows, N names of things.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automem_jax.envs.base import Percept

State = Any  # one world's state, a pytree; with a leading slot axis, all of them


class Words(NamedTuple):
    """One slot's sight, told: the parts of a percept that the state alone decides."""

    long_text: str
    short_text: str
    fields: dict[str, Any]
    end_reason: str | None
    progression: float


@dataclass(frozen=True, eq=False)
class Game:
    """One Craftax game.

    Attributes:
      name: tells its snapshots from those of another.
      actions: names, in the game's own order; the first does nothing and is the fallback.
      instructions: the task in plain words.
      new_world: (key) -> state; pure.
      advance: (key, state, action) -> (state, reward); pure.
      sight: state -> named tuple of small arrays, all that the words need; pure.
      words: (sights with a slot axis, on the host; slots) -> one Words for each of the slots.
      picture: () -> compiled function from a state to RGB [height, width, 3], 0..255.
    """

    name: str
    actions: tuple[str, ...]
    instructions: str
    new_world: Callable[[jax.Array], State]
    advance: Callable[[jax.Array, State, jax.Array], tuple[State, jax.Array]]
    sight: Callable[[State], Any]
    words: Callable[[Any, Sequence[int]], list[Words]]
    picture: Callable[[], Callable[[State], jax.Array]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An episode at one moment; opaque to callers, free of any slot and device, may be pickled."""

    game: str
    state: State
    seed: np.uint32
    percept: Percept


class CraftaxEnv:
    """A Craftax game by slot; see envs.base.TextEnv.

    Args:
      game: which one.
      slots: worlds stepped in one call.
      max_steps: cap of an episode.
    """

    def __init__(self, game: Game, slots: int, max_steps: int) -> None:
        self.num_slots = slots
        self.actions = game.actions
        self.fallback_action = game.actions[0]
        self.max_steps = max_steps
        self.instructions = game.instructions
        self._game = game
        self._index = {name: i for i, name in enumerate(game.actions)}
        self._engine = _engine(game, slots)
        self._states = self._engine.empty()
        self._seeds = np.zeros(slots, np.uint32)
        self._percepts: dict[int, Percept] = {}

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts a new episode in each slot."""
        if len(slots) != len(seeds):
            raise ValueError(f"reset: {len(slots)} slots but {len(seeds)} seeds")
        for slot in slots:
            self._check(slot)
        chosen = dict(zip(slots, seeds, strict=True))
        where = np.zeros(self.num_slots, np.int32)
        which = np.zeros(self.num_slots, np.uint32)
        for i, (slot, seed) in enumerate(chosen.items()):
            where[i] = slot
            which[i] = self._seeds[slot] = np.uint32(seed & 0xFFFFFFFF)
        self._states, seen = self._engine.place(self._states, where, which, np.int32(len(chosen)))
        told = self._game.words(jax.device_get(seen), tuple(chosen))
        for slot, words in zip(chosen, told, strict=True):
            self._percepts[slot] = self._percept(words, step=0)
        return {slot: self._percepts[slot] for slot in slots}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """One step in each named slot; ValueError for a slot with no running episode."""
        codes = np.zeros(self.num_slots, np.int32)
        steps = np.zeros(self.num_slots, np.int32)
        active = np.zeros(self.num_slots, bool)
        for slot, action in actions.items():
            before = self._known(slot)
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
        rewards = rewards.tolist()
        for slot, words in zip(actions, self._game.words(seen, tuple(actions)), strict=True):
            before = self._percepts[slot]
            self._percepts[slot] = self._percept(
                words, before.step + 1, actions[slot], rewards[slot], before.progression
            )
        return {slot: self._percepts[slot] for slot in actions}

    def snapshot(self, slot: int) -> Snapshot:
        """The slot's episode as it stands, to go on with later, here or in another slot."""
        percept = self._known(slot)
        state = jax.device_get(self._engine.take(self._states, np.int32(slot)))
        return Snapshot(self._game.name, state, self._seeds[slot], percept)

    def restore(self, slot: int, snapshot: Snapshot) -> Percept:
        """Puts a snapshot into the slot; the percept is the one it was taken at.

        Raises:
          ValueError: no such slot, or the snapshot is of another game.
        """
        self._check(slot)
        if not isinstance(snapshot, Snapshot) or snapshot.game != self._game.name:
            raise ValueError(f"slot {slot}: this is no snapshot of {self._game.name}")
        self._states = self._engine.put(self._states, np.int32(slot), snapshot.state)
        self._seeds[slot] = snapshot.seed
        self._percepts[slot] = snapshot.percept
        return snapshot.percept

    def progression(self, slot: int) -> float:
        """Share of the game's achievements unlocked."""
        return self._known(slot).progression

    def frame(self, slot: int) -> np.ndarray:
        """The game's own picture, uint8 [height, width, 3]."""
        self._known(slot)
        state = self._engine.take(self._states, np.int32(slot))
        return np.asarray(self._game.picture()(state)).clip(0, 255).astype(np.uint8)

    def close(self) -> None:
        """Frees the worlds."""
        self._states = None
        self._percepts.clear()

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.num_slots:
            raise ValueError(f"slot {slot} is outside 0..{self.num_slots - 1}")

    def _known(self, slot: int) -> Percept:
        if slot not in self._percepts:
            raise ValueError(f"slot {slot} was never reset; call reset([{slot}], [seed]) first")
        return self._percepts[slot]

    def _percept(
        self,
        words: Words,
        step: int,
        action: str | None = None,
        reward: float = 0.0,
        progression: float = 0.0,
    ) -> Percept:
        end_reason = words.end_reason or ("step cap" if step >= self.max_steps else None)
        unknown = action if action is not None and action not in self._index else None
        return Percept(
            long_text=words.long_text,
            short_text=words.short_text,
            fields=words.fields,
            actions=self.actions,
            step=step,
            reward=reward,
            done=end_reason is not None,
            end_reason=end_reason,
            progression=max(words.progression, progression),
            action=self.fallback_action if unknown is not None else action,
            unknown_action=unknown,
        )


class _Engine:
    """The compiled functions, shared by all environments of one game and slot count."""

    def __init__(self, game: Game, slots: int) -> None:
        def new_world(seed: jax.Array) -> State:
            world = game.new_world(jax.random.key_data(jax.random.fold_in(_key(seed), 0)))
            # Python-number leaves would be weakly typed and compile the step a second time.
            return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.asarray(leaf).dtype), world)

        def place(
            states: State, where: jax.Array, seeds: jax.Array, count: jax.Array
        ) -> tuple[State, Any]:
            def place_one(i: jax.Array, states: State) -> State:
                return put(states, where[i], new_world(seeds[i]))

            states = jax.lax.fori_loop(0, count, place_one, states)
            return states, jax.vmap(game.sight)(states)

        def advance(
            states: State, seeds: jax.Array, steps: jax.Array, actions: jax.Array, active: jax.Array
        ) -> tuple[State, Any, jax.Array]:
            def one(state: State, seed: Any, step: Any, action: Any, moves: Any) -> Any:
                key = jax.random.key_data(jax.random.fold_in(_key(seed), step))
                new, reward = game.advance(key, state, action)
                kept = jax.tree.map(
                    lambda after, before: jnp.where(moves, after, before).astype(before.dtype),
                    new,
                    state,
                )
                return kept, game.sight(kept), jnp.where(moves, reward, 0.0)

            return jax.vmap(one)(states, seeds, steps, actions, active)

        def take(states: State, slot: jax.Array) -> State:
            return jax.tree.map(lambda all_: all_[slot], states)

        def put(states: State, slot: jax.Array, state: State) -> State:
            return jax.tree.map(lambda all_, one: all_.at[slot].set(one), states, state)

        self.place = jax.jit(place, donate_argnums=0)
        self.advance = jax.jit(advance, donate_argnums=0)
        self.take = jax.jit(take)
        self.put = jax.jit(put, donate_argnums=0)
        self._shapes = jax.eval_shape(new_world, jax.ShapeDtypeStruct((), jnp.uint32))
        self._slots = slots

    def empty(self) -> State:
        """States of the right shape, before any world is made."""
        return jax.tree.map(
            lambda leaf: jax.device_put(np.zeros((self._slots, *leaf.shape), leaf.dtype)),
            self._shapes,
        )


def _key(seed: jax.Array) -> jax.Array:
    # Spelt out so that a changed JAX default cannot change episodes.
    return jax.random.key(seed, impl="threefry2x32")


@functools.lru_cache(maxsize=8)
def _engine(game: Game, slots: int) -> _Engine:
    return _Engine(game, slots)


def window(grid: jax.Array, centre: jax.Array, columns: int, rows: int, outside: Any) -> jax.Array:
    """The cells [rows, columns] of a (row, column) map around `centre`; `outside` beyond its edge."""
    reach = max(columns, rows)
    corner = centre - jnp.array([rows // 2, columns // 2]) + reach
    padded = jnp.pad(grid, reach, constant_values=outside)
    return jax.lax.dynamic_slice(padded, corner, (rows, columns))


def place_things(
    view: jax.Array, centre: jax.Array, positions: jax.Array, present: jax.Array, names: jax.Array
) -> jax.Array:
    """Writes things at world `positions` [n, 2] into a `window` around `centre`, where in view."""
    at = positions - centre + jnp.array(view.shape) // 2
    beyond = max(view.shape)  # dropped; a negative index would wrap around
    at = jnp.where(present[:, None] & (at >= 0), at, beyond)
    return view.at[at[:, 0], at[:, 1]].set(names, mode="drop")


def nearest_of_each(view: jax.Array, names: int) -> tuple[jax.Array, jax.Array]:
    """Where each name is seen in `view` [X, Y]: the cell seen first and the nearest cell.

    Cells are numbered x * Y + y; uint8 [N] each, X * Y for a name that is not in view. Nearest
    counts steps east-west plus north-south from the middle; of equally near cells the lowest.
    """
    columns, rows = view.shape
    cells = columns * rows
    cell = np.arange(cells)
    steps = abs(cell // rows - columns // 2) + abs(cell % rows - rows // 2)
    here = view.reshape(-1) == jnp.arange(names)[:, None]
    first = jnp.min(jnp.where(here, cell, cells), axis=1)
    rank = jnp.min(jnp.where(here, steps * 256 + cell, 256 * 255 + cells), axis=1)
    return first.astype(jnp.uint8), (rank % 256).astype(jnp.uint8)
