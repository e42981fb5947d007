"""The shipped templates: each is valid, renders on its own game, and does what it is for."""

import dataclasses
import functools
import random
import re

import numpy as np
import pytest

from automem_jax import envs
from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.template import load_template, structural_change
from automem_jax.agent.validate import validate
from automem_jax.config import EnvConfig
from automem_jax.envs import crafter_text
from automem_jax.envs.base import Percept
from automem_jax.envs.grid import Grid, Terrain, Thing
from automem_jax.text.messages import Completion, SamplingSettings

EVOLVED = {"crafter_v5": "crafter_v0", "minihack_v4": "minihack_v0", "nethack_v2": "nethack_v0"}
NAMES = ["memento_v0", *EVOLVED, *EVOLVED.values()]
GAMES = {
    "crafter": EnvConfig(name="craftax_classic", slots=4, max_steps=0),
    "minihack": EnvConfig(task="MiniHack-Corridor-R3-v0", slots=1, max_steps=0),
    "nethack": EnvConfig(name="nethack", slots=1, max_steps=0),
}


@functools.cache
def game(name):
    return envs.make(GAMES[name])


@functools.cache
def episode(name, steps=12):
    """Percepts of one seeded episode under random moves."""
    env, rng = game(name), random.Random(0)
    percepts = [env.reset([0], [42])[0]]
    moves = [a for a in env.actions if re.fullmatch(r"(Move )?(north|south|east|west)", a, re.I)]
    while len(percepts) < steps and not percepts[-1].done:
        percepts.append(env.step({0: rng.choice(moves)})[0])
    return percepts


class Player:
    """An agent whose model's replies are given; keeps every request and record."""

    def __init__(self, name, task="", instructions="Play."):
        self.agent = Agent(
            load_template(name),
            SamplingSettings(),
            episode=0,
            two_model=False,
            instructions=instructions,
            task=task,
        )
        self.requests, self.records = [], []

    def see(self, percept, log="<|DONE|>", plan=()):
        """Plays one step. `plan`: replies of PLAN, the last one again until the step is over."""
        plan = list(plan) or [f"<|ACTION|>{self.agent.template.actions.fallback}<|END|>"]
        self.requests = []
        out = self.agent.observe(percept)
        while not isinstance(out, Decision):
            self.requests.append(out)
            if out.key.phase == "log":
                reply = log if out.key.turn == 0 else "<|DONE|>"
            else:
                reply = plan.pop(0) if len(plan) > 1 else plan[0]
            out = self.agent.receive(Completion(reply))
        self.records.append(out.record)
        return out

    def prompt(self, phase):
        """(system, user) of the last step's first prompt of a phase."""
        messages = next(r for r in self.requests if r.key.phase == phase).messages
        return [m.content for m in messages]

    def lines(self, file):
        return [text for _, text in self.agent.store.lines(file)]

    def objections(self, percept, action):
        """What the guards say to an action at a percept."""
        self.see(percept, plan=[f"<|ACTION|>{action}<|END|>"])
        turns = self.records[-1]["phases"][-1]["turns"]
        return [error for turn in turns for error in turn["errors"]]


# --- all templates --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_valid(name):
    assert validate(load_template(name)) == []


@pytest.mark.parametrize("name", EVOLVED)
def test_evolved_differ_in_structure_from_their_parents(name):
    template = load_template(name)
    assert template.parent == EVOLVED[name]
    changed = structural_change(load_template(template.parent), template)
    assert {"files", "observers", "phases"} <= {path.partition(".")[0] for path in changed}


@pytest.mark.parametrize("name", [n for n in NAMES if n != "memento_v0"])
def test_prompts_on_real_steps(name):
    """LOG and PLAN are filled in, constant parts first, most of a prompt is that of a step ago."""
    env_name = name.partition("_")[0]
    env = game(env_name)
    player = Player(name, GAMES[env_name].task, env.instructions)
    seen, total, shared = {"log": [], "plan": []}, 0, 0
    for t, percept in enumerate(episode(env_name)):
        log = f"<|APPEND|>journal|note {t}<|END|><|DONE|>" if t % 3 == 1 else "<|DONE|>"
        out = player.see(percept, log)
        assert out.action in env.actions
        for request in player.requests:
            text = "\n".join(m.content for m in request.messages)
            assert not re.search(r"\{[a-z_]+\.[a-z_.]+\}", text)  # every path was filled in
            assert [m.role for m in request.messages][:2] == ["system", "user"]
            assert request.messages[0].content.startswith(player.agent.template.text["role"])
            if request.key.turn:
                continue
            total += len(text)
            earlier = seen[request.key.phase][-1:]
            shared += max((_common(text, other) for other in earlier), default=0)
            seen[request.key.phase].append(text)
    assert len(seen["log"]) == len(seen["plan"]) - 1 > 5
    assert env.instructions in seen["plan"][0] and percept.long_text in seen["plan"][-1]
    if env_name != "minihack":
        assert shared >= 0.55 * total  # the first prompts, which nothing precedes, weigh in here


def _common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(min(a, b)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_first_is_cut_last(name):
    template = load_template(name)
    if name == "memento_v0":
        return
    for phase in (template.phases.log, template.phases.plan):
        least = min(template.slots[s].priority for s in phase.system if template.slots[s].text)
        assert least >= 6 and template.slots["observation"].priority == 9
        assert template.slots[phase.slots[-1]].priority == 9


# --- Crafter --------------------------------------------------------------------------------------

CREATURES = ("zombie", "skeleton", "cow", "arrow")
CARRIED = ("sapling", "wood", "stone", "coal", "iron", "diamond") + tuple(
    f"{material}_{tool}" for tool in ("pickaxe", "sword") for material in ("wood", "stone", "iron")
)


def meadow(
    cells=None, facing=(1, 0), step=0, action=None, sleeping=False, done=(), vitals=None, **items
):
    """A Crafter percept: grass all around but for `cells` {(dx, dy) from the player: name}."""
    view = [["grass"] * 7 for _ in range(9)]
    view[4][3] = "player"
    terrain = np.full((7, 9), Terrain.GRASS, np.uint8)
    terrain[3, 4] = Terrain.HIDDEN
    things = []
    for (dx, dy), name in (cells or {}).items():
        view[4 + dx][3 + dy] = name
        if name in CREATURES:
            kind = "projectile" if name == "arrow" else "monster"
            things.append(Thing(kind, name, 4 + dx, 3 + dy))
            terrain[3 + dy, 4 + dx] = Terrain.HIDDEN
        else:
            terrain[3 + dy, 4 + dx] = Terrain[name.upper()]
    state = {"health": 9, "food": 9, "drink": 9, "energy": 6} | (vitals or {})
    inventory = state | {name: items.get(name, 0) for name in CARRIED}
    view = tuple(map(tuple, view))
    long_text, short_text = crafter_text.describe(view, facing, inventory, sleeping, False)
    fields = state | {
        "view": view,
        "facing": facing,
        "inventory": inventory,
        "sleeping": sleeping,
        "dead": False,
        "daylight": 1.0,
        "achievements": tuple(done),
        "grid": Grid(terrain, 4, 3, tuple(things), relative=True, diagonals=False),
    }
    return Percept(long_text, short_text, fields, game("crafter").actions, step=step, action=action)


@pytest.fixture
def crafter():
    return Player("crafter_v5", "", "Crafter.")


def test_handmade_percepts_are_like_the_games(crafter):
    real = episode("crafter")[0]
    made = meadow()
    assert set(real.fields) == set(made.fields)
    assert real.fields["inventory"].keys() == made.fields["inventory"].keys()
    assert (real.fields["grid"].x, real.fields["grid"].y) == (4, 3)


def test_crafter_plan_shows_knowledge_and_goals_in_full(crafter):
    crafter.see(meadow())
    user = crafter.prompt("plan")[1]
    for file in ("knowledge", "goals"):
        seed = load_template("crafter_v5").files[file].seed
        assert seed in user and user.index(seed) < user.index("Observation:")


def test_crafter_checklist_of_22_ticks_itself(crafter):
    crafter.see(meadow())
    assert crafter.prompt("plan")[1].count("[ ] ") == 22
    crafter.see(meadow(step=1, action="Do", wood=1, done=("collect_wood", "wake_up")))
    assert "New achievement: collect_wood, wake_up" in crafter.prompt("log")[1]
    user = crafter.prompt("plan")[1]
    assert user.count("[ ] ") == 20 and "[ ] collect_wood" not in user
    assert sum(line.startswith("[x] ") for line in crafter.lines("achievements")) == 2


def test_crafter_vitals_bands(crafter):
    for vitals, words in (
        ({"food": 4}, "Low: food"),
        ({"food": 4, "drink": 1}, "URGENT: drink"),
        ({"health": 2}, "DANGER: health 2"),
    ):
        crafter.see(meadow(vitals=vitals))
        assert words in crafter.prompt("plan")[1]
    crafter.see(meadow(vitals={"energy": 9}))
    assert not re.search(r"^(Low|URGENT|DANGER)", crafter.prompt("plan")[1], re.M)


def test_crafter_threat_bands(crafter):
    crafter.see(meadow({(2, -1): "zombie"}))
    assert "A zombie is 3 " in crafter.prompt("plan")[1]
    crafter.see(meadow({(0, 1): "zombie"}))
    assert "A zombie is next to you, south" in crafter.prompt("plan")[1]
    crafter.see(meadow({(0, 2): "skeleton", (-2, 0): "zombie"}))
    assert "Enemies within 4 steps: 2, the nearest a" in crafter.prompt("plan")[1]
    crafter.see(meadow({(4, 3): "zombie", (1, 0): "cow"}))
    assert not re.search("A zombie is|Enemies within", crafter.prompt("plan")[1])


def test_crafter_tells_of_crafting_that_failed(crafter):
    crafter.see(meadow(wood=1))
    crafter.see(meadow(step=1, action="Make Wood Pickaxe", wood=1))
    assert "Notice: Make Wood Pickaxe failed" in crafter.prompt("log")[1]
    assert "Notice: Make Wood Pickaxe failed" in crafter.prompt("plan")[1]
    crafter.see(meadow({(1, 0): "table"}, step=2, action="Make Wood Pickaxe", wood_pickaxe=1))
    assert "failed: nothing was used up" not in crafter.prompt("plan")[1]


def test_crafter_tells_of_stagnation(crafter):
    told = "No new achievement for a long time"
    crafter.see(meadow(step=149))
    assert told not in crafter.prompt("plan")[1]
    crafter.see(meadow(step=150))
    assert told in crafter.prompt("plan")[1]
    crafter.see(meadow(step=151, done=("wake_up",)))
    assert told not in crafter.prompt("plan")[1]
    for step in range(152, 302):
        crafter.see(meadow(step=step, done=("wake_up",)))
    assert told in crafter.prompt("plan")[1]


IRON_KIT = {"wood": 1, "stone": 1, "coal": 1, "iron": 1}


@pytest.mark.parametrize(
    "cells,items,done,words",
    [
        ({}, {}, (), "Collect wood, 4 in all"),
        ({}, {"wood": 3}, (), "Place Table on free ground"),
        ({(1, 1): "table"}, {"wood": 1}, (), "Make Wood Pickaxe now"),
        ({(-1, 0): "table"}, {"wood": 1, "wood_pickaxe": 1}, (), "Make Wood Sword now"),
        ({}, {"wood_pickaxe": 1, "stone": 2}, (), "Place Stone once"),
        ({}, {"wood_pickaxe": 1}, ("place_stone",), "Mine stone with Do"),
        (
            {(0, -1): "table"},
            {"wood": 1, "stone": 1, "wood_pickaxe": 1, "wood_sword": 1},
            ("place_stone",),
            "Make Stone Pickaxe now",
        ),
        (
            {(0, -1): "table", (0, 1): "furnace"},
            IRON_KIT | {"wood_pickaxe": 1, "wood_sword": 1, "stone_pickaxe": 1, "stone_sword": 1},
            ("place_stone", "place_furnace", "collect_coal"),
            "Make Iron Pickaxe now",
        ),
        (
            {},
            {"stone_pickaxe": 1, "wood_pickaxe": 1, "stone": 1},
            ("place_stone", "place_furnace", "collect_coal"),
            "Find iron and mine it",
        ),
        (
            {},
            {"wood_pickaxe": 1, "stone_pickaxe": 1, "iron_pickaxe": 1},
            ("place_stone", "place_furnace", "collect_coal"),
            "Find a diamond",
        ),
    ],
)
def test_crafter_technology_tree(crafter, cells, items, done, words):
    crafter.see(meadow(cells, done=done, **items))
    assert f"Next tool: {words}" in crafter.prompt("plan")[1]


@pytest.mark.parametrize(
    "action,bad,good,words",
    [
        ("Place Table", {"wood": 1}, {"wood": 2}, "wood 2"),
        ("Place Furnace", {}, {"stone": 1}, "stone 1"),
        ("Place Plant", {}, {"sapling": 1}, "sapling 1"),
        (
            "Make Stone Sword",
            {"wood": 1, "cells": {(1, 1): "table"}},
            {"wood": 1, "stone": 1, "cells": {(1, 1): "table"}},
            "stone 1",
        ),
        (
            "Make Wood Pickaxe",
            {"wood": 1, "cells": {(2, 0): "table"}},
            {"wood": 1, "cells": {(-1, -1): "table"}},
            "No table is next to you",
        ),
        (
            "Make Iron Sword",
            IRON_KIT | {"cells": {(1, 0): "table"}},
            IRON_KIT | {"cells": {(1, 0): "table", (-1, 1): "furnace"}},
            "No furnace is next to you",
        ),
        ("Place Plant", {"sapling": 1, "cells": {(1, 0): "sand"}}, {"sapling": 1}, "grass"),
        (
            "Place Table",
            {"wood": 2, "cells": {(1, 0): "water"}},
            {"wood": 2, "cells": {(1, 0): "sand"}},
            "water",
        ),
        ("Sleep", {"cells": {(3, 0): "zombie"}}, {}, "it would hit you asleep"),
        ("Sleep", {"vitals": {"energy": 9}}, {"vitals": {"energy": 8}}, "Energy is full"),
        ("Noop", {}, {"sleeping": True}, "Noop wastes a step"),
        ("Move East", {"cells": {(1, 0): "lava"}}, {"cells": {(1, 0): "sand"}}, "lava"),
        ("Dance", {}, None, "is no action"),
    ],
)
def test_crafter_guards(crafter, action, bad, good, words):
    told = crafter.objections(meadow(**bad), action)
    assert len(told) == 2 and all(words in text for text in told), told  # twice a step at most
    reply = [m.content for m in crafter.requests[1].messages][-1]
    assert told[0] in reply  # the model is told why
    if good is not None:
        assert Player("crafter_v5").objections(meadow(**good), action) == []


def test_crafter_stops_what_changes_nothing(crafter):
    wall = {(1, 0): "stone"}
    for step in range(4):
        crafter.see(meadow(wall, step=step, action="Do" if step else None))
    assert any(
        "changed nothing" in t for t in crafter.objections(meadow(wall, step=4, action="Do"), "Do")
    )
    patient = Player("crafter_v5")  # grass gives a sapling in one try of ten: that takes patience
    for step in range(10):
        patient.see(meadow(step=step, action="Do" if step else None))
    assert patient.objections(meadow(step=10, action="Do"), "Do") == []


def test_crafter_warns_of_long_files(crafter):
    crafter.see(meadow())
    longer = "\n".join(f"goal {i}" for i in range(14))
    crafter.see(meadow(step=1), log=f"<|WRITE|>goals|{longer}<|END|><|DONE|>")
    crafter.see(meadow(step=2))
    assert "Files to tidy: goals has 14 lines of 12" in crafter.prompt("log")[1]


def test_crafter_asleep_has_a_short_plan_and_no_log(crafter):
    crafter.see(meadow())
    long = len(crafter.prompt("plan")[1])
    crafter.see(meadow(step=1, action="Sleep", sleeping=True))
    assert [r.key.phase for r in crafter.requests] == ["plan"]
    system, user = crafter.prompt("plan")
    assert "You are asleep" in user and len(user) < long / 3 and "<|SEARCH|>" not in system


def test_crafter_shows_places_that_are_near(crafter):
    crafter.see(meadow())
    writes = "<|UPSERT|>places|3,4|coal<|END|><|UPSERT|>places|90,4|far iron<|END|>"
    crafter.see(meadow(step=1), log=writes + "<|UPSERT|>places|3,4|coal, two cells<|END|><|DONE|>")
    assert crafter.lines("places") == ["90,4: far iron", "3,4: coal, two cells"]
    user = crafter.prompt("plan")[1]
    assert "3,4: coal, two cells" in user and "far iron" not in user


def test_crafter_knowledge_outlives_pruning(crafter):
    seed = load_template("crafter_v5").files["knowledge"].seed.splitlines()
    crafter.see(meadow())
    for step in range(1, 12):
        facts = "\n".join(f"fact {step} {i}" for i in range(5))
        crafter.see(meadow(step=step), log=f"<|APPEND|>knowledge|{facts}<|END|><|DONE|>")
    kept = crafter.lines("knowledge")
    assert kept[: len(seed)] == seed and kept[-1] == "fact 11 4" and len(kept) <= 40


# --- MiniHack -------------------------------------------------------------------------------------

SYMBOLS = {
    " ": Terrain.UNKNOWN,
    ".": Terrain.FLOOR,
    "#": Terrain.WALL,
    "L": Terrain.LAVA,
    ">": Terrain.STAIRS_DOWN,
    "@": Terrain.HIDDEN,
    "r": Terrain.HIDDEN,
}


def room(env_name, rows, step=0, action=None, **fields):
    """A real percept with another map; `@` is the player, `r` a rat; row 0 is y 5, column 0 x 10."""
    terrain = np.zeros((21, 79), np.uint8)
    x = y = 0
    things = []
    for dy, row in enumerate(rows):
        for dx, mark in enumerate(row):
            terrain[5 + dy, 10 + dx] = SYMBOLS[mark]
            if mark == "@":
                x, y = 10 + dx, 5 + dy
            elif mark == "r":
                things.append(Thing("monster", "sewer rat", 10 + dx, 5 + dy))
    real = episode(env_name)[0]
    new = {
        **real.fields,
        "grid": Grid(terrain, x, y, tuple(things), level="1"),
        "x": x,
        "y": y,
        "message": "",
        **fields,
    }
    return dataclasses.replace(real, fields=new, step=step, action=action)


LAVA = ["#########", "#@L....>#", "#.L.....#", "#.......#", "#########"]


@pytest.fixture
def minihack():
    return Player("minihack_v4", "MiniHack-Corridor-R3-v0")


def test_minihack_finds_the_way_around_lava(minihack):
    minihack.see(room("minihack", LAVA))
    user = minihack.prompt("plan")[1]
    assert "STAIRS: stairs down at 17,6" in user
    steps, first = re.search(r"around it are (\d+) steps. Next: (\w+)\.", user).groups()
    assert (int(steps), first) == (7, "south")
    closed = [*LAVA[:3], "#.L.....#", LAVA[4]]
    told = Player("minihack_v4")
    told.see(room("minihack", closed))
    assert "no known way there" in told.prompt("plan")[1]
    straight = Player("minihack_v4")
    straight.see(room("minihack", ["#####", "#@.>#", "#####"]))
    assert "2 steps. Next: east." in straight.prompt("plan")[1]
    nothing = Player("minihack_v4")
    nothing.see(room("minihack", ["####", "#@.#", "####"]))
    assert "STAIRS: not seen yet" in nothing.prompt("plan")[1]


def corridor(at, length=6):
    return ["#" * length, "".join("@" if i == at else "." for i in range(length)), "#" * length]


def test_minihack_counts_visits_and_names_the_least_visited(minihack):
    minihack.see(room("minihack", corridor(2)))
    for step, (at, action) in enumerate(((3, "east"), (2, "west"), (3, "east"), (2, "west")), 1):
        minihack.see(room("minihack", corridor(at), step=step, action=action))
    user = minihack.prompt("plan")[1]
    assert "visits: east 2, west 0" in user
    assert "Circles: 3 times on this cell. Least visited neighbour: west." in user
    assert "You go back and forth: east, west, east, west" in user


def test_minihack_has_a_short_plan_while_the_game_asks():
    player = Player("minihack_v4", "MiniHack-Quest-Easy-v0")
    asked = {
        "prompt": "choice",
        "question": {"kind": "choice", "text": "In what direction?", "options": ("north", "east")},
    }
    calm = room("minihack", LAVA)
    player.see(calm)
    long = len(player.prompt("plan")[1])
    player.see(room("minihack", LAVA, step=1, action="kick", **asked))
    system, user = player.prompt("plan")
    assert "Question: In what direction?\n\nAnswers: north, east" in user and "STAIRS" not in user
    assert len(user) < long and "<|SEARCH|>" not in system and "<|READ|>" in system
    told = player.objections(room("minihack", LAVA, step=2, action="kick", **asked), "search")
    assert told and "search is no answer" in told[0]
    assert player.objections(room("minihack", LAVA, step=3, **asked), "north") == []


def test_minihack_logs_a_line_when_log_wrote_nothing(minihack):
    minihack.see(room("minihack", corridor(2)))
    minihack.see(room("minihack", corridor(3), step=1, action="east"))
    assert minihack.lines("journal") == ["step 1: east -> moved east; at 13,6"]
    own = "<|APPEND|>journal|my own words<|END|><|DONE|>"
    minihack.see(room("minihack", corridor(4), step=2, action="east"), log=own)
    assert minihack.lines("journal")[1:] == ["my own words"]
    operations = [
        op
        for record in minihack.records
        for p in record["phases"]
        for t in p["turns"]
        for op in t["operations"]
    ]
    assert len(operations) == 1  # the system's line is nobody's write


@pytest.mark.parametrize(
    "task,title",
    [
        ("MiniHack-Boxoban-Hard-v0", "Strategy: Boxoban"),
        ("MiniHack-Boxoban-Medium-v0", "Strategy: Boxoban"),
        ("MiniHack-MazeWalk-9x9-v0", "Strategy: maze"),
        ("MiniHack-Corridor-R3-v0", "Strategy: corridor"),
        ("MiniHack-CorridorBattle-Dark-v0", "Strategy: battle in a corridor"),
        ("MiniHack-Quest-Medium-v0", "Strategy: quest"),
        ("MiniHack-Room-5x5-v0", "Strategy\n"),
    ],
)
def test_minihack_overrides_by_task(task, title):
    player = Player("minihack_v4", task)
    player.see(room("minihack", LAVA))
    system, user = player.prompt("plan")
    assert title in system and system.count("Strategy") == 1
    assert ("STAIRS" in user) == ("Boxoban" not in task)
    if "Boxoban" in task:
        assert player.agent.template.files["plan"].soft_lines == 30


def test_minihack_guards_against_lava_walls_and_vain_moves(minihack):
    beside = ["#####", "#.L.#", "#.@.#", "#####"]
    told = minihack.objections(room("minihack", beside), "north")
    assert told and "lava" in told[0]
    told = minihack.objections(room("minihack", beside, step=1), "south")
    assert told and "blocked" in told[0]
    assert minihack.objections(room("minihack", beside, step=2), "west") == []


def test_minihack_tells_of_creatures(minihack):
    minihack.see(room("minihack", ["#####", "#@r.#", "#...#", "#####"]))
    assert (
        "A sewer rat is next to you, east; creatures within 6 cells: 1"
        in (minihack.prompt("plan")[1])
    )


# --- NetHack --------------------------------------------------------------------------------------


@pytest.fixture
def nethack():
    return Player("nethack_v2")


def test_nethack_upserts_a_map_by_level_and_coordinates(nethack):
    nethack.see(room("nethack", LAVA))
    writes = "".join(
        f"<|UPSERT|>dungeon|{key}|{text}<|END|>"
        for key, text in (
            ("1,12,7", "fountain"),
            ("2,12,7", "altar"),
            ("1,70,7", "far door"),
            ("1,12,7", "fountain, dried up"),
        )
    )
    nethack.see(room("nethack", LAVA, step=1, action="search"), log=writes + "<|DONE|>")
    assert nethack.lines("dungeon") == [
        "2,12,7: altar",
        "1,70,7: far door",
        "1,12,7: fountain, dried up",
    ]
    user = nethack.prompt("plan")[1]
    assert "1,12,7: fountain, dried up" in user
    assert "altar" not in user and "far door" not in user  # another level, too far


def test_nethack_pruning_keeps_pinned_lines(nethack):
    nethack.see(room("nethack", LAVA))
    first = "<|UPSERT|>dungeon|1,3,4|! stairs down<|END|><|APPEND|>lessons|! never again<|END|>"
    nethack.see(room("nethack", LAVA, step=1), log=first + "<|DONE|>")
    for step in range(2, 14):
        many = "".join(f"<|UPSERT|>dungeon|{step},{i},1|floor<|END|>" for i in range(28))
        lessons = "\n".join(f"lesson {step} {i}" for i in range(6))
        many += f"<|APPEND|>lessons|{lessons}<|END|>"
        nethack.see(room("nethack", LAVA, step=step), log=many + "<|DONE|>")
    dungeon, lessons = nethack.lines("dungeon"), nethack.lines("lessons")
    assert "1,3,4: ! stairs down" in dungeon and "2,0,1: floor" not in dungeon
    assert len(dungeon) <= 300 and dungeon[-1] == "13,27,1: floor"
    seed = load_template("nethack_v2").files["lessons"].seed.splitlines()
    assert lessons[: len(seed)] == seed and "! never again" in lessons and len(lessons) <= 40
    assert "lesson 2 0" not in lessons


def test_nethack_keeps_status_and_inventory_by_itself(nethack):
    nethack.see(room("nethack", LAVA, hp=16, max_hp=16, turn=1))
    assert "HP 16/16" in nethack.lines("status")[0]
    carried = nethack.lines("inventory")
    assert carried == episode("nethack")[0].fields["inventory"].splitlines()
    fewer = {"inventory": "a: a dagger", "items": (("a", "a dagger"),)}
    nethack.see(room("nethack", LAVA, step=1, action="drop", hp=7, max_hp=16, turn=2, **fewer))
    assert nethack.lines("inventory") == ["a: a dagger"]
    assert "HP 7/16" in nethack.lines("status")[0] and "turn 2" in nethack.lines("status")[0]
    user = nethack.prompt("plan")[1]
    assert "File inventory:\na: a dagger" in user and "File status: level" in user
    refused = "<|APPEND|>status|x<|END|><|DONE|>"
    nethack.see(room("nethack", LAVA, step=2), log=refused)
    turn = nethack.records[-1]["phases"][0]["turns"][0]
    assert "not allowed on this file" in turn["operations"][0]["error"]


def test_nethack_tells_the_stairs_first_and_last(nethack):
    nethack.see(room("nethack", LAVA))
    pieces = nethack.prompt("plan")[1].split("\n\n")
    assert pieces[0].startswith("STAIRS: stairs down at 17,6") and pieces[0] == pieces[-2]
    assert pieces[-1].startswith("Phase PLAN")
    on = ["#####", "#.@.#", "#####"]
    nethack.see(room("nethack", ["#####", "#@>.#", "#####"], step=1))
    nethack.see(room("nethack", on, step=2, action="east"))  # the map remembers what is underfoot
    assert nethack.prompt("plan")[1].startswith("STAIRS: you stand on the stairs down")
    fresh = Player("nethack_v2")
    fresh.see(room("nethack", ["####", "#@..", "####"]))
    assert "STAIRS: none down seen on level" in fresh.prompt("plan")[1]


def test_nethack_prays_in_need_only_and_not_twice():
    fine = {"hp": 16, "max_hp": 16, "turn": 900}
    dying = {"hp": 2, "max_hp": 16, "turn": 900}
    told = Player("nethack_v2").objections(room("nethack", LAVA, **fine), "pray")
    assert told and "not in trouble" in told[0]
    told = Player("nethack_v2").objections(room("nethack", LAVA, **dying | {"turn": 120}), "pray")
    assert told and "Too early" in told[0]
    player = Player("nethack_v2")
    assert player.objections(room("nethack", LAVA, **dying), "pray") == []
    again = room("nethack", LAVA, step=1, action="pray", **dying)
    assert "Too early" in player.objections(again, "pray")[0]


def test_nethack_advises_on_danger_and_hunger(nethack):
    for fields, words in (
        ({"hp": 2, "max_hp": 16}, "pray if you have not"),
        ({"hp": 5, "max_hp": 40}, "pray if you have not"),
        ({"hp": 4, "max_hp": 12}, "pray if you have not"),
        ({"hp": 10, "max_hp": 40}, "do not fight on"),
        ({"hunger_word": "Hungry"}, "Hungry: eat something"),
        ({"hunger_word": "Weak"}, "Weak: eat at once"),
        ({"conditions": ("Confused",)}, "Condition: Confused"),
    ):
        nethack.see(room("nethack", LAVA, **fields))
        assert words in nethack.prompt("plan")[1], fields
    nethack.see(room("nethack", ["#####", "#@r.#", "#####"], step=1))
    assert "DANGER: a sewer rat is next to you, east" in nethack.prompt("plan")[1]


def test_nethack_has_a_short_plan_while_the_game_asks(nethack):
    asked = {
        "prompt": "choice",
        "question": {"kind": "choice", "text": "Eat it? [yn]", "options": ("y", "n")},
    }
    nethack.see(room("nethack", LAVA, **asked))
    system, user = nethack.prompt("plan")
    assert "Question: Eat it? [yn]" in user and "Observation:" not in user
    assert "<|SEARCH|>" not in system
    told = nethack.objections(room("nethack", LAVA, step=1, **asked), "down")
    assert told and "down is no answer" in told[0]
