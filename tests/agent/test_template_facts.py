"""What the shipped templates say about the games, checked against the games themselves."""

import fnmatch
import functools
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from automem_jax import envs
from automem_jax.agent.template import load_template
from automem_jax.config import EnvConfig
from automem_jax.envs.grid import Terrain
from automem_jax.envs.minihack import BENCHMARK_TASKS, task_ids

TEMPLATES = Path(__file__).resolve().parents[2] / "configs" / "templates"


@functools.cache
def module(name):
    spec = importlib.util.spec_from_file_location(name, TEMPLATES / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def numbers(pattern, text):
    """The whole numbers that a statement of a template gives; it must be there."""
    found = re.search(pattern, text)
    assert found, pattern
    return tuple(int(group) for group in found.groups())


# --- Crafter: prepared worlds, stepped by Craftax-Classic's own logic ----------------------------

V5 = module("crafter_v5")
HERE = (32, 32)  # row, column; the player faces the cell to the east
FRONT = (32, 33)
AROUND = [(r, c) for r in (31, 32, 33) for c in (31, 32, 33) if (r, c) not in (HERE, FRONT)]


@pytest.fixture(scope="module")
def crafter():
    """The engine: `step(state, action, key)`, an empty meadow, and names of its blocks."""
    import jax
    import jax.numpy as jnp
    from craftax.craftax_classic.constants import Achievement, Action, BlockType

    from automem_jax.envs.craftax import ACTIONS, game

    engine = game()
    advance = jax.jit(lambda key, state, action: engine.advance(key, state, action)[0])
    world = jax.jit(engine.new_world)(jax.random.key(0))
    nobody = {
        kind: getattr(world, kind).replace(mask=getattr(world, kind).mask & False)
        for kind in ("zombies", "cows", "skeletons", "arrows")
    }
    meadow = world.replace(
        map=jnp.full_like(world.map, BlockType.GRASS.value),
        mob_map=jnp.zeros_like(world.mob_map),
        player_position=jnp.array(HERE, world.player_position.dtype),
        player_direction=jnp.asarray(Action.RIGHT.value, jnp.int32),
        **nobody,
    )
    names = {b: b.name.lower() for b in BlockType}
    names |= {BlockType.CRAFTING_TABLE: "table", BlockType.RIPE_PLANT: "plant"}

    def step(state, action, key=0):
        number = jnp.asarray(ACTIONS.index(action), jnp.int32)
        state = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), state, meadow)
        return advance(jax.random.key(key), state, number)

    def block(state, cell, kind):
        return state.replace(map=state.map.at[cell].set(kind.value))

    def carrying(state, **items):
        return state.replace(inventory=state.inventory.replace(**items))

    def at(state, cell):
        return BlockType(int(state.map[cell]))

    def done(state):
        return {a.name.lower() for a in Achievement if bool(state.achievements[a.value])}

    def creature(state, kind, cell, health, **more):
        mobs = getattr(state, kind)
        mobs = mobs.replace(
            position=mobs.position.at[0].set(jnp.array(cell, mobs.position.dtype)),
            mask=mobs.mask.at[0].set(True),
            health=mobs.health.at[0].set(health),
            attack_cooldown=mobs.attack_cooldown.at[0].set(more.get("cooldown", 0)),
        )
        return state.replace(**{kind: mobs}, mob_map=state.mob_map.at[cell].set(True))

    def walled(state):
        for cell in ((31, 32), (33, 32), (32, 31), (32, 33)):
            state = block(state, cell, BlockType.STONE)
        return state

    return SimpleNamespace(
        step=step,
        meadow=meadow,
        block=block,
        carrying=carrying,
        at=at,
        done=done,
        creature=creature,
        walled=walled,
        names=names,
        Block=BlockType,
        Achievement=Achievement,
        jnp=jnp,
    )


def stage(crafter, action):
    """The meadow with what an action needs around it."""
    state = crafter.meadow
    if action in V5.AT_TABLE:
        state = crafter.block(state, (31, 31), crafter.Block.CRAFTING_TABLE)
    if action in V5.AT_FURNACE:
        state = crafter.block(state, (33, 31), crafter.Block.FURNACE)
    return state


def achievement_of(action):
    return action.lower().replace(" ", "_")


def test_the_checklist_is_the_games_list(crafter):
    assert list(V5.ACHIEVEMENTS) == [a.name.lower() for a in crafter.Achievement]
    items = load_template("crafter_v5").files["achievements"].items
    assert [item.id for item in items] == list(V5.ACHIEVEMENTS) and len(items) == 22


def test_every_crafting_and_placing_action_has_a_cost(crafter):
    from automem_jax.envs.craftax import ACTIONS

    assert set(V5.COSTS) == {a for a in ACTIONS if a.startswith(("Make", "Place"))}


@pytest.mark.parametrize("action", V5.COSTS)
def test_costs(crafter, action):
    cost = V5.COSTS[action]
    exact = crafter.step(crafter.carrying(stage(crafter, action), **cost), action)
    assert achievement_of(action) in crafter.done(exact)
    assert all(int(getattr(exact.inventory, item)) == 0 for item in cost)
    for item in cost:  # one less of any of them is not enough
        short = crafter.carrying(stage(crafter, action), **{**cost, item: cost[item] - 1})
        assert achievement_of(action) not in crafter.done(crafter.step(short, action))


@pytest.mark.parametrize("action", V5.AT_TABLE)
def test_table_and_furnace_must_be_in_the_cells_around(crafter, action):
    cost, blocks = V5.COSTS[action], crafter.Block
    needed = [blocks.CRAFTING_TABLE] + [blocks.FURNACE] * (action in V5.AT_FURNACE)
    for missing in needed:
        state = crafter.carrying(stage(crafter, action), **cost)
        for cell in AROUND:
            if crafter.at(state, cell) == missing:
                state = crafter.block(state, cell, blocks.GRASS)
        state = crafter.block(state, (30, 32), missing)  # two cells away is too far
        assert achievement_of(action) not in crafter.done(crafter.step(state, action))
    if action == "Make Wood Pickaxe":
        for cell in [*AROUND, FRONT]:
            state = crafter.carrying(crafter.meadow, **cost)
            state = crafter.block(state, cell, blocks.CRAFTING_TABLE)
            assert achievement_of(action) in crafter.done(crafter.step(state, action)), cell


@pytest.mark.parametrize("action", V5.PLACED_ON)
def test_what_may_be_placed_on_what(crafter, action):
    for kind, name in crafter.names.items():
        if name in ("invalid", "out_of_bounds", "wood"):  # nothing of the kind lies in a world
            continue
        state = crafter.block(crafter.carrying(crafter.meadow, **V5.COSTS[action]), FRONT, kind)
        placed = achievement_of(action) in crafter.done(crafter.step(state, action))
        assert placed == (name in V5.PLACED_ON[action]), kind
    occupied = crafter.carrying(crafter.meadow, **V5.COSTS[action])
    occupied = crafter.creature(occupied, "cows", FRONT, 3)
    assert achievement_of(action) not in crafter.done(crafter.step(occupied, action))


def test_the_prose_recipes_are_the_tables(crafter):
    text = V5._KNOWLEDGE
    for action in ("Place Table", "Place Furnace", "Place Stone", "Place Plant"):
        ((item, count),) = V5.COSTS[action].items()
        assert numbers(rf"{action}: (\d+) {item}", text) == (count,)
    assert "Make Wood Pickaxe, Make Wood Sword: 1 wood each" in text
    assert "Make Stone Pickaxe, Make Stone Sword: 1 wood and 1 stone each" in text
    assert "Make Iron Pickaxe, Make Iron Sword: 1 wood, 1 stone, 1 coal and 1 iron each" in text
    for action in V5.AT_TABLE:
        assert set(V5.COSTS[action].values()) == {1}
    total = {item: 0 for item in ("wood", "stone", "coal", "iron")}
    for action, cost in V5.COSTS.items():
        for item, count in cost.items():
            if action != "Place Plant":
                total[item] += count
    stated = numbers(r"together: (\d+) wood, (\d+) stone, (\d+) coal, (\d+) iron", text)
    assert stated == tuple(total.values())


def test_what_do_takes_and_with_which_tool(crafter):
    blocks = crafter.Block
    tools = {
        "wood": (blocks.TREE, {}, blocks.GRASS),
        "stone": (blocks.STONE, {"wood_pickaxe": 1}, blocks.PATH),
        "coal": (blocks.COAL, {"wood_pickaxe": 1}, blocks.PATH),
        "iron": (blocks.IRON, {"stone_pickaxe": 1}, blocks.PATH),
        "diamond": (blocks.DIAMOND, {"iron_pickaxe": 1}, blocks.PATH),
    }
    order = ["wood_pickaxe", "stone_pickaxe", "iron_pickaxe"]
    for item, (kind, tool, left) in tools.items():
        state = crafter.block(crafter.meadow, FRONT, kind)
        after = crafter.step(crafter.carrying(state, **tool), "Do")
        assert int(getattr(after.inventory, item)) == 1 and crafter.at(after, FRONT) == left
        if tool:
            needed = order.index(*tool)
            lesser = dict.fromkeys(order[:needed], 1)
            after = crafter.step(crafter.carrying(state, **lesser), "Do")
            assert int(getattr(after.inventory, item)) == 0 and crafter.at(after, FRONT) == kind
            stated = V5.ACHIEVEMENTS[f"collect_{item}"]
            assert stated == f"needs a{'n' if item == 'diamond' else ''} {order[needed]}".replace(
                "_", " "
            )
    assert "used up and turns to grass" in V5._KNOWLEDGE.replace("\n", " ")
    assert "what was mined turns to path" in V5._KNOWLEDGE.replace("\n", " ")
    full = crafter.step(
        crafter.carrying(crafter.block(crafter.meadow, FRONT, blocks.TREE), wood=9), "Do"
    )
    assert (int(full.inventory.wood),) == numbers(r"at most (\d+) of each", V5._TEXT["world"])


def test_saplings_plants_food_and_water(crafter):
    blocks, jnp = crafter.Block, crafter.jnp
    got = sum(int(crafter.step(crafter.meadow, "Do", key).inventory.sapling) for key in range(300))
    assert 15 <= got <= 50 and "one in ten tries" in V5._KNOWLEDGE  # 30 expected
    (ripe_after, food) = numbers(
        r"it is ripe (\d+) steps later.*?gives (\d+) food", V5._KNOWLEDGE.replace("\n", " ")
    )
    planted = crafter.step(crafter.carrying(crafter.meadow, sapling=1), "Place Plant")
    assert crafter.at(planted, FRONT) == blocks.PLANT

    def aged(steps):
        age = planted.growing_plants_age.at[0].set(steps - 1)
        return crafter.step(planted.replace(growing_plants_age=age), "Noop")

    assert crafter.at(aged(ripe_after - 1), FRONT) == blocks.PLANT
    ripe = aged(ripe_after)
    assert crafter.at(ripe, FRONT) == blocks.RIPE_PLANT
    hungry = {"player_food": jnp.asarray(1, jnp.int32)}
    early = crafter.step(planted.replace(**hungry), "Do")
    assert crafter.at(early, FRONT) == blocks.PLANT and "eat_plant" not in crafter.done(early)
    eaten = crafter.step(ripe.replace(**hungry), "Do")
    assert int(eaten.player_food) == 1 + food and "eat_plant" in crafter.done(eaten)
    assert crafter.at(eaten, FRONT) == blocks.PLANT
    (cow, drink) = numbers(r"cow (\d+), three.*Water: (\d+) drink", V5._KNOWLEDGE)
    state = crafter.creature(crafter.meadow.replace(**hungry), "cows", FRONT, 1)
    assert int(crafter.step(state, "Do").player_food) == 1 + cow
    state = crafter.block(crafter.meadow, FRONT, blocks.WATER)
    state = state.replace(player_drink=jnp.asarray(3, jnp.int32))
    assert int(crafter.step(state, "Do").player_drink) == 3 + drink


def steps_until(crafter, state, changed, most=60):
    for count in range(1, most):
        state = crafter.step(state, "Noop")
        if changed(state):
            return count
    raise AssertionError("it never happened")


def test_how_fast_vitals_change(crafter):
    jnp, text = crafter.jnp, V5._KNOWLEDGE.replace("\n", " ")
    shut_in = crafter.walled(crafter.meadow)
    food, drink, energy = numbers(
        r"Food falls by 1 in (\d+) steps, drink in (\d+), energy in (\d+)", text
    )
    assert steps_until(crafter, shut_in, lambda s: int(s.player_food) == 8) == food
    assert steps_until(crafter, shut_in, lambda s: int(s.player_drink) == 8) == drink
    assert steps_until(crafter, shut_in, lambda s: int(s.player_energy) == 8) == energy
    up, down = numbers(
        r"health rises by 1 in (\d+) steps; while one is 0 it falls by 1 in (\d+)", text
    )
    hurt = shut_in.replace(player_health=jnp.asarray(5, jnp.int32))
    assert steps_until(crafter, hurt, lambda s: int(s.player_health) == 6) == up
    starving = hurt.replace(player_food=jnp.asarray(0, jnp.int32))
    assert steps_until(crafter, starving, lambda s: int(s.player_health) == 4) == down


def test_sleep(crafter):
    jnp, text = crafter.jnp, V5._KNOWLEDGE.replace("\n", " ")
    limit, steps = numbers(r"Sleep works below (\d+) energy only and gives 1 energy in (\d+)", text)
    shut_in = crafter.walled(crafter.meadow)
    assert not bool(crafter.step(shut_in, "Sleep").is_sleeping)  # energy is full
    tired = shut_in.replace(player_energy=jnp.asarray(limit - 2, jnp.int32))
    asleep = crafter.step(tired, "Sleep")
    assert bool(asleep.is_sleeping)
    moved = crafter.step(crafter.block(asleep, FRONT, crafter.Block.GRASS), "Move East")
    assert tuple(int(v) for v in moved.player_position) == HERE  # asleep, actions do nothing
    gained = 1 + steps_until(crafter, asleep, lambda s: int(s.player_energy) == limit - 1)
    assert gained == steps
    nearly = asleep.replace(player_energy=jnp.asarray(limit, jnp.int32))
    awake = crafter.step(nearly, "Noop")
    assert not bool(awake.is_sleeping) and "wake_up" in crafter.done(awake)


def test_blows_and_arrows(crafter):
    blocks, jnp, text = crafter.Block, crafter.jnp, V5._KNOWLEDGE.replace("\n", " ")
    hits = numbers(r"hand (\d+), wood sword (\d+), stone sword (\d+), iron sword (\d+)", text)
    swords = ({}, {"wood_sword": 1}, {"stone_sword": 1}, {"iron_sword": 1})
    for damage, sword in zip(hits, swords, strict=True):
        state = crafter.creature(crafter.carrying(crafter.meadow, **sword), "zombies", FRONT, 9)
        assert 9 - int(crafter.step(state, "Do").zombies.health[0]) == damage
    from craftax.craftax_classic.envs.craftax_state import EnvParams

    zombie, others = numbers(r"Zombie (\d+) health, cow and skeleton (\d+)", text)
    rules = EnvParams()
    assert (rules.zombie_health, rules.cow_health, rules.skeleton_health) == (
        zombie,
        others,
        others,
    )
    awake, asleep, pause = numbers(
        r"A zombie takes (\d+) health \((\d+) from a sleeper\), then waits (\d+) steps", text
    )
    (arrow,) = numbers(r"an arrow takes (\d+)", text)
    state = crafter.creature(crafter.meadow, "zombies", FRONT, 5)
    struck = crafter.step(state, "Noop")
    assert int(struck.player_health) == 9 - awake
    assert int(struck.zombies.attack_cooldown[0]) == pause
    tired = state.replace(
        is_sleeping=jnp.asarray(True), player_energy=jnp.asarray(5, state.player_energy.dtype)
    )
    woken = crafter.step(tired, "Noop")
    assert int(woken.player_health) == 9 - asleep and not bool(woken.is_sleeping)
    assert f"hits a sleeper for {asleep}" in V5._TEXT["method"].replace("\n", " ")

    def shot(cell):
        shooting = crafter.creature(crafter.meadow, "arrows", cell, 0)
        directions = shooting.arrow_directions.at[0].set(jnp.array([0, -1]))
        return shooting.replace(arrow_directions=directions, mob_map=crafter.meadow.mob_map)

    assert int(crafter.step(shot(FRONT), "Noop").player_health) == 9 - arrow
    for kind in (blocks.CRAFTING_TABLE, blocks.FURNACE):
        state = crafter.block(shot((32, 35)), (32, 34), kind)
        assert crafter.at(crafter.step(state, "Noop"), (32, 34)) == blocks.PATH


def test_moving_turning_and_lava(crafter):
    blocks = crafter.Block
    for kind, name in crafter.names.items():
        if name in ("invalid", "out_of_bounds", "wood"):
            continue
        state = crafter.block(crafter.meadow, (31, 32), kind)
        after = crafter.step(state, "Move North")
        moved = int(after.player_position[0]) == 31
        assert moved == (name in V5.FREE_GROUND), kind
        assert int(after.player_direction) == 3  # turned north whether it moved or not
        assert (int(after.player_health) == 0) == (kind == blocks.LAVA)


def test_crafter_names_are_the_observations(crafter):
    template = load_template("crafter_v5")
    from automem_jax.envs.craftax import ACTIONS, INVENTORY

    words = {t.word for t in Terrain} | {"zombie", "skeleton", "arrow", "cow"}
    for spec in template.observers.values():
        assert set(spec.params.get("names", ())) <= words | set(INVENTORY)
    for guard in template.phases.plan.guards:
        assert set(guard.params.get("needs", ())) <= set(ACTIONS)
        assert set(guard.params.get("actions", ())) <= set(ACTIONS)
    assert set(template.actions.aliases.values()) <= set(ACTIONS)
    for name in ("crafter_v0", "crafter_v5"):
        assert load_template(name).actions.fallback in ACTIONS
    for names in V5.PLACED_ON.values():
        assert set(names) <= set(crafter.names.values())


# --- MiniHack -------------------------------------------------------------------------------------

V4 = module("minihack_v4")


def actions_of(task):
    if "Boxoban" in task:  # its engine wants level files; its keys it shares with MiniHack's own
        from minihack.envs.boxohack import MOVE_ACTIONS

        from automem_jax.envs.nethack import action_names

        return action_names(MOVE_ACTIONS)
    env = envs.make(EnvConfig(task=task, slots=1))
    env.close()
    return env.actions


@pytest.mark.parametrize("task", BENCHMARK_TASKS)
def test_each_task_has_one_strategy_and_a_legal_fallback(task):
    base = load_template("minihack_v4")
    matching = [o for o in base.overrides if fnmatch.fnmatchcase(task, o.task)]
    assert len(matching) == 1 and "strategy" in matching[0].patch["text"]
    legal = actions_of(task)
    assert base.for_task(task).actions.fallback in legal
    assert load_template("minihack_v0").for_task(task).actions.fallback in legal


def test_every_override_is_of_some_registered_task():
    known = task_ids()
    for override in load_template("minihack_v4").overrides:
        assert fnmatch.filter(known, override.task), override.task


def test_boxoban_has_four_moves_as_its_strategy_says():
    assert set(actions_of("MiniHack-Boxoban-Hard-v0")) == {"north", "east", "south", "west"}
    assert "north, east, south and west only" in V4._BOXOBAN


def test_letters_are_answered_by_the_commands_that_share_their_key():
    env = envs.make(EnvConfig(task="MiniHack-Quest-Easy-v0", slots=1))
    env.reset([0], [1])
    keys = {
        chr(key): name
        for key, name in zip(env._slots[0].engine.actions, env.actions, strict=True)
        if chr(key).isascii() and chr(key).islower()
    }
    env.close()
    assert keys == V4.ANSWERS
    legal = set(env.actions) | {"north"}
    assert set(load_template("minihack_v4").actions.aliases.values()) <= legal


def test_quest_levels_hold_what_the_strategy_tells():
    import minihack

    for name in ("quest_easy", "quest_medium"):
        level = (Path(minihack.__file__).parent / "dat" / f"{name}.des").read_text()
        assert "L" in level and '"cold"' in level and "frost horn" in level and "down" in level
        (start,) = re.findall(r"BRANCH:\((\d+,\d+)", level)
        assert level.count(f"({start}),blessed") == 2  # both lie where the player begins


# --- NetHack --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dungeon():
    env = envs.make(EnvConfig(name="nethack", slots=1, max_steps=500))
    yield env
    env.close()


def play(env, *actions):
    percepts = [env.step({0: action})[0] for action in actions]
    assert not any(p.unknown_action for p in percepts)
    return percepts


def test_nethack_actions_are_legal(dungeon):
    legal = set(dungeon.actions)
    for name in ("nethack_v0", "nethack_v2"):
        template = load_template(name)
        assert template.actions.fallback in legal
        assert set(template.actions.aliases.values()) <= legal
        for guard in template.phases.plan.guards:
            assert set(guard.params.get("actions", ())) <= legal
        commands = (
            "up down esc more search travel wait open close kick apply eat quaff read wear wield "
            "throw zap pickup look"
        )
        for command in commands.split():
            assert command in legal and re.search(rf"\b{command}\b", template.text["keys"]), command
        assert {"2", "0", "minus", "pray", "engrave", "far east", "y", "n"} <= legal


def test_digits_repeat_a_command(dungeon):
    before = dungeon.reset([0], [42])[0].fields["turn"]
    after = play(dungeon, "2", "0", "search")[-1].fields["turn"]
    assert after - before == 20


def test_travel_takes_its_way_to_the_stairs(dungeon):
    start = dungeon.reset([0], [42])[0].fields
    away = play(dungeon, "south", "south")[-1].fields
    assert (away["x"], away["y"]) != (start["x"], start["y"])
    back = play(dungeon, "travel", "up", "wait")[-1].fields
    assert (back["x"], back["y"]) == (start["x"], start["y"])  # a game begins on the stairs up


def test_elbereth_is_written_as_told(dungeon):
    read = []
    for seed in range(4):  # the dust takes a letter wrong now and then, as the guide says
        dungeon.reset([0], [seed])
        play(dungeon, "engrave", "minus", *"Elbereth", "more")
        read.append(play(dungeon, "look")[0].fields["message"])
    assert any('"Elbereth"' in message for message in read), read
    assert "Letters can come out wrong" in load_template("nethack_v2").text["guide"]


def test_praying_at_once_angers_the_god(dungeon):
    dungeon.reset([0], [42])
    play(dungeon, "pray")
    told = play(dungeon, "y")[0].fields["message"]
    assert "angry" in told or "arrogant" in told or "displeased" in told


def test_hunger_and_condition_words():
    from automem_jax.envs.nethack_text import HUNGER

    text = repr(load_template("nethack_v2").observers["advice"].params)
    text += repr([g.when for g in load_template("nethack_v2").phases.plan.guards])
    used = set(re.findall(r"\bstate\.hunger == (\w+)", text))
    for words in re.findall(r"'state\.hunger', \(([^)]*)\)", text):
        used |= set(re.findall(r"'([A-Za-z ]+)'", words))
    assert {"Weak", "Fainting", "Hungry"} <= used <= set(HUNGER)
    assert HUNGER.index("Weak") == 3 and HUNGER.index("Satiated") == 0


def test_goals_hazards_and_creatures_have_the_maps_names():
    from nle import nethack

    creatures = {nethack.permonst(m).mname for m in range(nethack.NUMMONS)}
    assert {"floating eye", "cockatrice", "soldier ant", "minotaur", "lichen"} <= creatures
    terrain = {t.word for t in Terrain}
    for name in ("minihack_v4", "nethack_v2"):
        observers = load_template(name).observers
        assert set(observers["stairs"].params["goals"]) <= terrain
        assert set(observers["stairs"].params["avoid"]) <= terrain
    guide = load_template("nethack_v2").text["guide"]
    by_name = {nethack.permonst(m).mname: nethack.permonst(m) for m in range(nethack.NUMMONS)}
    blue, yellow = 4, 11
    for name, colour, words in (
        ("floating eye", blue, "blue e"),
        ("cockatrice", yellow, "yellow c"),
    ):
        kind = by_name[name]
        assert f"{name} ({words})" in guide and kind.mcolor == colour
        assert nethack.class_sym.from_mlet(kind.mlet).sym == words[-1]
