"""Crafter, evolved class: what the game's rules are is known from the start, and the agent's notes
are about this world. The prompt is ordered by how often a part changes.

Numbers are Craftax-Classic's (tests/agent/test_template_facts.py plays them in the game's logic);
Python Crafter's differ, for the table above all.
"""

from ml_collections import ConfigDict

ACHIEVEMENTS = {
    "collect_wood": "Do facing a tree",
    "place_table": "2 wood",
    "eat_cow": "Do facing a cow until it is eaten",
    "collect_sapling": "Do facing grass, one try in ten succeeds",
    "collect_drink": "Do facing water",
    "make_wood_pickaxe": "next to a table, 1 wood",
    "make_wood_sword": "next to a table, 1 wood",
    "place_plant": "a sapling, facing grass",
    "defeat_zombie": "Do facing a zombie until it is gone",
    "collect_stone": "needs a wood pickaxe",
    "place_stone": "1 stone",
    "eat_plant": "Do facing a plant that has ripened for 600 steps",
    "defeat_skeleton": "Do facing a skeleton, in dark tunnels",
    "make_stone_pickaxe": "next to a table, 1 wood and 1 stone",
    "make_stone_sword": "next to a table, 1 wood and 1 stone",
    "wake_up": "Sleep until energy is full again",
    "place_furnace": "1 stone",
    "collect_coal": "needs a wood pickaxe",
    "collect_iron": "needs a stone pickaxe",
    "collect_diamond": "needs an iron pickaxe",
    "make_iron_pickaxe": "next to table and furnace, 1 wood, 1 stone, 1 coal, 1 iron",
    "make_iron_sword": "next to table and furnace, 1 wood, 1 stone, 1 coal, 1 iron",
}

# What an action takes from the inventory. Making takes place next to a table, iron also next to a
# furnace: in one of the eight cells around the player.
COSTS = {
    "Place Table": {"wood": 2},
    "Place Furnace": {"stone": 1},
    "Place Stone": {"stone": 1},
    "Place Plant": {"sapling": 1},
    "Make Wood Pickaxe": {"wood": 1},
    "Make Wood Sword": {"wood": 1},
    "Make Stone Pickaxe": {"wood": 1, "stone": 1},
    "Make Stone Sword": {"wood": 1, "stone": 1},
    "Make Iron Pickaxe": {"wood": 1, "stone": 1, "coal": 1, "iron": 1},
    "Make Iron Sword": {"wood": 1, "stone": 1, "coal": 1, "iron": 1},
}
AT_TABLE = tuple(action for action in COSTS if action.startswith("Make"))
AT_FURNACE = tuple(action for action in AT_TABLE if "Iron" in action)
# What may be in front, by name of the cell. Nothing may be placed where a creature stands.
FREE_GROUND = ("grass", "sand", "path", "lava")
PLACED_ON = {
    "Place Table": FREE_GROUND,
    "Place Furnace": FREE_GROUND,
    "Place Stone": (*FREE_GROUND, "water"),
    "Place Plant": ("grass",),
}

_TEXT = {
    "role": "You are an agent in Crafter, a world of gathering, crafting and survival, for up to "
    "2,000 steps. The score is how many of the 22 achievements you unlock; each counts once. Dying "
    "ends the game. Nothing carries over from one step to the next except your memory files.",
    "world": """\
How the world works
- You see 9 columns and 7 rows around you. "3 steps to your north-east" counts the steps north plus \
the steps east; only the nearest thing of a kind is told.
- A move first turns you, then takes you there if the cell is free. Grass, sand and path are free. \
Water, trees, stone, ores, tables, furnaces, plants and creatures block; moving against them only \
turns you. There are no diagonal moves.
- Lava does not block: stepping on it is death. In dark areas and near diamonds look before each step.
- Do acts on the one cell in front of you. Face it first ("You face tree at your front.").
- Night falls and the view gets dark and noisy; zombies are then more frequent on grass.
- Zombies walk up to you and strike; skeletons live on the path of dark tunnels and shoot arrows \
along straight lines. An arrow that hits a table or a furnace destroys it.
- You carry at most 9 of each thing.""",
    "method": """\
How to play well
- Take what is near and still missing before what is far; several achievements cost a step or two.
- Early: wood, table, wood pickaxe and sword, sapling planted, cow, water. Then stone, its tools, \
coal, furnace. Then iron and both iron tools, then diamond.
- Plan materials for the trip: before going to the mountains carry wood for tools made there \
(1 each) and 2 for a table there. A new table is often cheaper than the way back.
- Keep each vital above 3. Drink until full when at water; that is one step for each point.
- Fight zombies one at a time, facing them, with a sword and with health above 4. Step out of a \
skeleton's line or close in on it.
- Sleep when energy is low or at night, but first close the four cells around you (stone, water, \
table, tree or plant will do); a zombie hits a sleeper for 7.
- An action that changed nothing will change nothing again: turn, move or do something else.""",
    "form": "Memory operations are executed in the order in which you write them; text around them is "
    "free. Coordinates: x grows to the east, y to the south; you started at 0,0.",
    "log_rules": """\
Phase LOG: your last action has been executed. Write down what is worth knowing many steps from now \
and is not in the files yet, then <|DONE|>. Most steps need nothing but <|DONE|>.
- places: where things are that you may need again (water, trees, tunnels, coal, iron, diamond, \
table, furnace, plant with the step it was planted), by coordinates: \
<|UPSERT|>places|x,y|coal, two cells<|END|>. Never the ground you merely walked on.
- knowledge: a rule of this world that you have seen and that the file lacks, or a correction.
- goals: rewrite it when the plan changed, at most 12 lines, next things first.
- journal: what happened in one line, with the reason when something failed.
Write what you saw happen, never what you expect.""",
    "plan_rules": """\
Phase PLAN: decide on one action. Your knowledge, your goals, the open achievements and the places \
near you stand below; look further things up with the operations, then commit \
<|ACTION|>name<|END|>. Weigh, in this order: danger, a vital that is low, the next goal within \
reach, the way to it.""",
    "log_task": "Phase LOG: write what is new, then <|DONE|>.",
    "plan_task": "Phase PLAN: look up, or commit <|ACTION|>name<|END|>.",
    "asleep": "You are asleep: actions do nothing until energy is full or something hurts you.",
    "nudge": "Commit one action now: <|ACTION|>name<|END|>",
    "last_request": "Memory is closed for this step. Answer with <|ACTION|>name<|END|> only.",
}

_KNOWLEDGE = """\
Collect: wood from a tree by hand (the tree is used up and turns to grass); stone and coal with a \
wood pickaxe; iron with a stone pickaxe; diamond with an iron pickaxe; what was mined turns to path.
Place Table: 2 wood. Place Furnace: 1 stone. Place Stone: 1 stone. Place Plant: 1 sapling on grass.
Place on free ground in front (grass, sand, path; lava too), stone also on water: a bridge.
Make Wood Pickaxe, Make Wood Sword: 1 wood each, with a table in one of the 8 cells around you.
Make Stone Pickaxe, Make Stone Sword: 1 wood and 1 stone each, next to a table.
Make Iron Pickaxe, Make Iron Sword: 1 wood, 1 stone, 1 coal and 1 iron each, next to a table and a \
furnace at once.
All tools, table, furnace and one placed stone together: 8 wood, 6 stone, 2 coal, 2 iron.
Sapling: Do on grass, one in ten tries; planted, it is ripe 600 steps later; Do before that does \
nothing, and the observation says "plant" both times. A ripe one gives 4 food and grows again.
Food: cow 6, three hits by hand. Water: 1 drink a Do. Vitals are 9 at most.
Food falls by 1 in 26 steps, drink in 21, energy in 31. While none is 0, health rises by 1 in 26 \
steps; while one is 0 it falls by 1 in 16.
Sleep works below 9 energy only and gives 1 energy in 11 steps; you wake when it is 9 or when hurt.
Damage of a hit: hand 1, wood sword 2, stone sword 3, iron sword 5. Zombie 5 health, cow and \
skeleton 3. A zombie takes 2 health (7 from a sleeper), then waits 5 steps; an arrow takes 2."""

_GOALS = """\
1. wood 4; table; wood pickaxe; wood sword
2. on the way: sapling from grass and plant it (ripens 600 steps: early), cow, water
3. stone 5; place one stone; stone pickaxe and stone sword (2 wood more)
4. coal; furnace next to a table; iron 2; iron pickaxe first, iron sword next
5. diamond; a skeleton in the tunnels; a zombie when health allows
6. sleep behind walls when energy is low; eat the ripe plant"""


def _has(path, name):
    return f"{path} has {name}"


def _open(name):
    return {"not": _has("ach.done", name)}


def _both(*conditions):
    return {"all": list(conditions)}


def _carried(**least):
    return [f"percept.inventory.{item} >= {count}" for item, count in least.items()]


def _lacks(item, least):
    return f"percept.inventory.{item} < {least}"


_AROUND = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")


def _next_to(word):
    return {"any": [f"ground.adjacent.{direction} == {word}" for direction in _AROUND]}


_AT_TABLE, _AT_FURNACE = (
    "table.steps == 0",
    "furnace.steps == 0",
)  # observers, looked at once a step
_NO_TABLE = "table.steps != 0"

# The technology tree: the first rule that holds is shown. A tool is judged by the inventory.
_TREE = [
    (
        _both(_lacks("wood_pickaxe", 1), _AT_TABLE, *_carried(wood=1)),
        "Make Wood Pickaxe now: a table is next to you.",
    ),
    (
        _both(_lacks("wood_pickaxe", 1), _NO_TABLE, *_carried(wood=3)),
        "Place Table on free ground (2 wood), then Make Wood Pickaxe (1 wood).",
    ),
    (
        _lacks("wood_pickaxe", 1),
        "Collect wood, 4 in all: table 2, pickaxe 1, sword 1. You have {percept.inventory.wood}.",
    ),
    (
        _both(_lacks("wood_sword", 1), _AT_TABLE, *_carried(wood=1)),
        "Make Wood Sword now: a table is next to you.",
    ),
    (
        _both(_lacks("stone_pickaxe", 1), _AT_TABLE, *_carried(wood=1, stone=1)),
        "Make Stone Pickaxe now: a table is next to you.",
    ),
    (
        _both(_lacks("stone_sword", 1), _AT_TABLE, *_carried(wood=1, stone=1)),
        "Make Stone Sword now: a table is next to you.",
    ),
    (
        _both(_open("place_stone"), *_carried(stone=1)),
        "Place Stone once on free ground in front, and mine it back.",
    ),
    (
        _both(_lacks("stone_pickaxe", 1), _lacks("stone", 1)),
        "Mine stone with Do: 1 for the pickaxe, 1 the sword, 1 the furnace, 2 for iron tools.",
    ),
    (
        _both(_lacks("stone_pickaxe", 1), _lacks("wood", 1)),
        "Collect wood: a stone pickaxe takes 1, a stone sword 1, a table near the stone 2.",
    ),
    (
        _lacks("stone_pickaxe", 1),
        "Go to a table, or place one here for 2 wood, and Make Stone Pickaxe.",
    ),
    (
        _both(
            _lacks("iron_pickaxe", 1),
            _AT_TABLE,
            _AT_FURNACE,
            *_carried(wood=1, stone=1, coal=1, iron=1),
        ),
        "Make Iron Pickaxe now: table and furnace are next to you.",
    ),
    (
        _both(
            _lacks("iron_sword", 1),
            _AT_TABLE,
            _AT_FURNACE,
            *_carried(wood=1, stone=1, coal=1, iron=1),
        ),
        "Make Iron Sword now: table and furnace are next to you.",
    ),
    (
        _both(_open("place_furnace"), _AT_TABLE, *_carried(stone=1)),
        "Place Furnace now: 1 stone, and a table is next to you.",
    ),
    (
        _both(_open("place_furnace"), _lacks("stone", 1)),
        "Mine stone: the furnace takes 1, each iron tool 1.",
    ),
    (_open("collect_coal"), "Find coal and mine it (wood pickaxe): each iron tool takes 1."),
    (
        _both(_lacks("iron_pickaxe", 1), _lacks("iron", 1)),
        "Find iron and mine it (stone pickaxe); look in tunnels and dark areas.",
    ),
    (
        _lacks("iron_pickaxe", 1),
        "For the iron pickaxe stand next to table and furnace with 1 wood, 1 stone, 1 coal, 1 iron; "
        "you have {percept.inventory.wood}, {percept.inventory.stone}, {percept.inventory.coal}, "
        "{percept.inventory.iron}.",
    ),
    (
        _open("collect_diamond"),
        "Find a diamond and mine it (iron pickaxe); it lies near lava and water in the mountains.",
    ),
    (
        _lacks("iron_sword", 1),
        "For the iron sword: 1 wood, 1 stone, 1 coal, 1 iron, next to table and furnace.",
    ),
    (True, "The tools are complete: work on the open achievements."),
]

# Openings for the achievements that need no tool: up to two are shown.
_CHANCES = [
    (
        _both(_open("eat_cow"), "cow.within >= 1"),
        "A cow is {cow.distance} {cow.direction}: face it and Do until it is eaten.",
    ),
    (
        _both(_open("collect_drink"), "water.within >= 1"),
        "Water is near: face it and Do.",
    ),
    (
        _both(_open("place_plant"), *_carried(sapling=1)),
        "You carry a sapling: face grass and Place Plant, away from where zombies come.",
    ),
    (
        _both(_open("collect_sapling"), "percept.step >= 20"),
        "No sapling yet: Do on grass in front, about ten times.",
    ),
    (
        _both(_open("wake_up"), "percept.energy <= 5", {"not": "hostile.within >= 1"}),
        "Energy {percept.energy}: a good time to close yourself in and Sleep.",
    ),
]

# Do on grass for a sapling fails nine times in ten; other actions that fail once fail again.
_FACES_GRASS = "percept.long_text has You face grass"
_NOTICES = [
    (
        _both(
            {"in": ["percept.action", list(COSTS)]},
            {"not": "change.gained"},
            {"not": "change.lost"},
        ),
        "{percept.action} failed: nothing was used up. Check materials, table and furnace next to "
        "you, and the cell in front.",
    ),
    (
        _both("percept.action == Do", {"not": "effect.changed"}, {"not": _FACES_GRASS}),
        "Do changed nothing: what you face cannot be taken, or takes a better tool.",
    ),
    ("effect.run_length >= 4", "Nothing has changed for {effect.run_length} steps."),
    ("window.oscillating", "You go back and forth: {window.text}."),
    (
        {"any": ["stall.steps >= 150", _both("stall.steps == -1", "percept.step >= 150")]},
        "No new achievement for a long time: choose another goal and another direction.",
    ),
]


def _rules(pairs):
    return [{"when": when, "say": say} for when, say in pairs]


def get_config() -> ConfigDict:
    system = ["role", "instructions", "world", "method", "form"]
    known = ["knowledge", "goals", "achievements", "places", "journal"]
    now = ["window", "observation", "status", "previous"]
    return ConfigDict(
        {
            "id": "crafter_v5",
            "env": "craftax_classic",
            "parent": "crafter_v0",
            "notes": "Knowledge, goals and open achievements stand in PLAN; the harness ticks, warns "
            "and advises; guards stop actions that cannot work.",
            "text": _TEXT,
            "files": {
                "knowledge": {
                    "kind": "document",
                    "seed": _KNOWLEDGE,
                    "ops": ["READ", "SEARCH", "APPEND"],
                    "dedupe": "normalized",
                    "pin_head": len(_KNOWLEDGE.splitlines()),
                    "soft_lines": 30,
                    "hard_lines": 40,
                    "keep_lines": 20,
                    "max_line_chars": 300,
                },
                "goals": {
                    "kind": "document",
                    "seed": _GOALS,
                    "ops": ["READ", "WRITE", "APPEND"],
                    "soft_lines": 12,
                    "hard_lines": 20,
                    "keep_lines": 12,
                    "max_line_chars": 200,
                },
                "achievements": {
                    "kind": "checklist",
                    "ops": ["READ"],
                    "items": [
                        {"id": name, "label": how, "done_when": _has("ach.done", name)}
                        for name, how in ACHIEVEMENTS.items()
                    ],
                },
                "places": {
                    "kind": "map",
                    "key": ["x", "y"],
                    "ops": ["READ", "SEARCH", "UPSERT", "DELETE"],
                    "dedupe": "normalized",
                    "soft_lines": 80,
                    "hard_lines": 120,
                    "keep_lines": 80,
                    "max_line_chars": 160,
                },
                "journal": {
                    "kind": "log",
                    "dedupe": "exact",
                    "soft_lines": 150,
                    "hard_lines": 200,
                    "keep_lines": 120,
                    "max_line_chars": 240,
                },
            },
            "new_files": {"allow": True, "max": 3},
            "phases": {
                "log": {
                    "system": [*system, "log_rules", "help"],
                    "slots": [
                        "knowledge",
                        "goals",
                        "places",
                        "journal",
                        "files",
                        "file_health",
                        "new",
                        "effect",
                        "notices",
                        "pose",
                        *now,
                        "log_task",
                    ],
                    "when": {"any": [{"not": "percept.sleeping"}, "ach.new"]},
                    "max_turns": 6,
                    "ops": ["READ", "SEARCH", "APPEND", "WRITE", "CREATE", "UPSERT", "DELETE"],
                },
                "plan": {
                    "system": [*system, "plan_rules", "help"],
                    "slots": [
                        *known,
                        "tree",
                        "chances",
                        "notices",
                        "vitals",
                        "threat",
                        "pose",
                        "explore",
                        "known",
                        *now,
                        "plan_task",
                    ],
                    "max_turns": 6,
                    "ops": ["READ", "SEARCH", "TAIL"],
                    "nudge": "nudge",
                    "last_request": "last_request",
                    "modes": [
                        {
                            "when": "percept.sleeping",
                            "slots": ["asleep", "threat", "observation", "status", "plan_task"],
                            "ops": ["READ"],
                        }
                    ],
                    "guards": [
                        {"type": "in_vocabulary"},
                        {
                            "type": "materials",
                            "params": {
                                "needs": {
                                    action: {
                                        f"percept.inventory.{item}": count
                                        for item, count in cost.items()
                                    }
                                    for action, cost in COSTS.items()
                                }
                            },
                        },
                        {
                            "type": "refuse",
                            "params": {"actions": list(AT_TABLE)},
                            "when": _NO_TABLE,
                            "text": "No table is next to you: go to one, or Place Table (2 wood).",
                        },
                        {
                            "type": "refuse",
                            "params": {"actions": list(AT_FURNACE)},
                            "when": {"not": _AT_FURNACE},
                            "text": "No furnace is next to you: iron tools need table and furnace in "
                            "the cells around you.",
                        },
                        {
                            "type": "facing",
                            "params": {"needs": {a: list(on) for a, on in PLACED_ON.items()}},
                        },
                        {
                            "type": "refuse",
                            "params": {"actions": ["Sleep"]},
                            "when": {"all": ["hostile.within >= 1", {"not": "percept.sleeping"}]},
                            "text": "{hostile.text}: it would hit you asleep. Fight it, or shut it "
                            "out with stone, first.",
                        },
                        {
                            "type": "refuse",
                            "params": {"actions": ["Sleep"]},
                            "when": _both("percept.energy >= 9", {"not": "percept.sleeping"}),
                            "text": "Energy is full: Sleep would do nothing.",
                        },
                        {
                            "type": "refuse",
                            "params": {"actions": ["Noop"]},
                            "when": {"not": "percept.sleeping"},
                            "text": "Noop wastes a step: use it for something on the list of open "
                            "achievements.",
                        },
                        {"type": "near_hazard", "params": {"observer": "ground"}},
                        {
                            "type": "max_run",
                            "params": {"limit": 3, "observer": "effect"},
                            "when": _both({"not": "percept.sleeping"}, {"not": _FACES_GRASS}),
                        },
                        {
                            "type": "max_run",
                            "params": {"limit": 15, "observer": "effect"},
                            "when": _FACES_GRASS,
                            "text": "{reason}: try another patch of grass later.",
                        },
                    ],
                    "max_rejections": 2,
                },
            },
            "slots": {
                "role": {"text": "role", "priority": 9},
                "instructions": {"builtin": "instructions", "priority": 9},
                "world": {"text": "world", "priority": 7},
                "method": {"text": "method", "priority": 6},
                "form": {"text": "form", "priority": 8},
                "help": {"builtin": "memory_help", "label": "Memory operations:\n", "priority": 8},
                "log_rules": {"text": "log_rules", "priority": 8},
                "plan_rules": {"text": "plan_rules", "priority": 8},
                "knowledge": {
                    "file": "knowledge",
                    "label": "File knowledge:\n",
                    "priority": 5,
                    "max_chars": 6000,
                },
                "goals": {
                    "file": "goals",
                    "label": "File goals:\n",
                    "priority": 5,
                    "max_chars": 2000,
                },
                "achievements": {
                    "file": "achievements",
                    "view": "open_items",
                    "label": "Open achievements:\n",
                    "empty": "All achievements are unlocked.",
                    "priority": 4,
                    "max_chars": 2400,
                },
                "places": {
                    "file": "places",
                    "view": "keys_near:16",
                    "near": "pose",
                    "label": "File places, within 16 steps:\n",
                    "priority": 3,
                    "max_chars": 1500,
                },
                "journal": {
                    "file": "journal",
                    "view": "tail:6",
                    "label": "Journal, last lines:\n",
                    "priority": 2,
                    "max_chars": 1500,
                },
                "files": {"builtin": "file_index", "label": "Your files:\n", "priority": 4},
                "file_health": {
                    "source": "health.text",
                    "label": "Files to tidy: ",
                    "priority": 4,
                    "max_chars": 400,
                },
                "new": {"source": "ach.new", "label": "New achievement: ", "max_chars": 200},
                "effect": {"source": "effect.effect", "label": "Effect: ", "max_chars": 300},
                "tree": {"source": "tree.advice", "label": "Next tool: ", "max_chars": 400},
                "chances": {"source": "chances.advice", "label": "Chances: ", "max_chars": 500},
                "notices": {
                    "source": "notices.advice",
                    "label": "Notice: ",
                    "priority": 7,
                    "max_chars": 700,
                },
                "vitals": {"source": "vitals.text", "priority": 8, "max_chars": 300},
                "known": {
                    "source": "ground.targets",
                    "label": "Nearest known of each kind: ",
                    "priority": 5,
                    "max_chars": 500,
                },
                "threat": {"source": "hostile.text", "priority": 8, "max_chars": 300},
                "pose": {"source": "pose.text", "label": "Position: ", "max_chars": 200},
                "explore": {
                    "source": "explore.text",
                    "label": "Around: ",
                    "priority": 3,
                    "max_chars": 300,
                },
                "window": {
                    "source": "window.text",
                    "label": "Recent actions: ",
                    "priority": 3,
                    "max_chars": 300,
                },
                "observation": {
                    "source": "percept.long_text",
                    "label": "Observation:\n",
                    "priority": 9,
                    "max_chars": 6000,
                },
                "status": {"source": "percept.short_text", "priority": 9, "max_chars": 1000},
                "previous": {
                    "builtin": "previous_action",
                    "label": "Last action: ",
                    "priority": 8,
                },
                "asleep": {"text": "asleep", "priority": 9},
                "log_task": {"text": "log_task", "priority": 9},
                "plan_task": {"text": "plan_task", "priority": 9},
            },
            "observers": {
                "effect": {"type": "obs_diff"},
                "window": {"type": "action_window", "params": {"size": 8}},
                "change": {
                    "type": "delta",
                    "params": {
                        "path": "percept.inventory",
                        "names": [
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
                        ],
                    },
                },
                "ach": {
                    "type": "events",
                    "params": {"path": "percept.achievements", "all": list(ACHIEVEMENTS)},
                },
                "stall": {"type": "since", "params": {"when": "ach.new"}},
                "vitals": {
                    "type": "vitals",
                    "params": {
                        "paths": {
                            "health": "percept.health",
                            "food": "percept.food",
                            "drink": "percept.drink",
                            "energy": "percept.energy",
                        },
                        "low": 4,
                        "critical": 2,
                    },
                    "bands": [
                        {
                            "when": "percept.health <= 2",
                            "text": "DANGER: health {percept.health}. Leave every fight, wall "
                            "yourself in, eat and drink.",
                        },
                        {
                            "when": "vitals.critical",
                            "text": "URGENT: {vitals.critical} nearly used up. See to it before "
                            "anything else.",
                        },
                        {
                            "when": "vitals.low",
                            "text": "Low: {vitals.low}. See to it on the way.",
                        },
                    ],
                },
                "hostile": {
                    "type": "entities",
                    "params": {"names": ["zombie", "skeleton", "arrow"], "radius": 4},
                    "bands": [
                        {
                            "when": _both("hostile.within >= 1", "hostile.distance <= 1"),
                            "text": "A {hostile.nearest} is next to you, {hostile.direction}",
                        },
                        {
                            "when": "hostile.within >= 2",
                            "text": "Enemies within 4 steps: {hostile.within}, the nearest a "
                            "{hostile.nearest} {hostile.distance} {hostile.direction}",
                        },
                        {
                            "when": "hostile.within >= 1",
                            "text": "A {hostile.nearest} is {hostile.distance} {hostile.direction}",
                        },
                    ],
                },
                "cow": {"type": "entities", "params": {"names": ["cow"], "radius": 5}},
                "water": {"type": "entities", "params": {"names": ["water"], "radius": 5}},
                "table": {"type": "since", "params": {"when": _next_to("table")}},
                "furnace": {"type": "since", "params": {"when": _next_to("furnace")}},
                "ground": {"type": "glyph_map", "params": {"radius": 3}},
                "pose": {"type": "pose"},
                "explore": {"type": "explore"},
                "health": {"type": "file_health", "params": {"stale_steps": 400}},
                "tree": {"type": "advisor", "params": {"rules": _rules(_TREE), "most": 1}},
                "chances": {"type": "advisor", "params": {"rules": _rules(_CHANCES), "most": 2}},
                "notices": {"type": "advisor", "params": {"rules": _rules(_NOTICES), "most": 3}},
            },
            "actions": {
                "aliases": {
                    "north": "Move North",
                    "south": "Move South",
                    "east": "Move East",
                    "west": "Move West",
                    "up": "Move North",
                    "down": "Move South",
                    "right": "Move East",
                    "left": "Move West",
                    "interact": "Do",
                    "collect": "Do",
                    "mine": "Do",
                    "attack": "Do",
                    "drink": "Do",
                    "eat": "Do",
                    "place sapling": "Place Plant",
                    "rest": "Sleep",
                    "wait": "Noop",
                },
                "repairs": [
                    "casefold",
                    "strip_punctuation",
                    "alias",
                    "two_step",
                    "diagonal",
                    "strip_prefix",
                    "nearest_prefix",
                ],
                "fallback": "Noop",
            },
        }
    )
