"""NetHack, evolved class: a map of the dungeon by coordinates, status and inventory kept by the
harness, and the way down told first and last.
"""

from ml_collections import ConfigDict

_TEXT = {
    "role": "You are an agent in the dungeons of NetHack. The score is how deep you get and which "
    "experience level you reach, the highest of the game; dying ends it. Nothing carries over from one "
    "step to the next except your memory files.",
    "keys": """\
How actions work
- A compass word moves one cell, attacks what stands there, or answers a question about a direction. \
"far east" runs until something of interest. up and down take the stairs that you stand on.
- A command may ask a question; then only an answer works: a compass word, a letter of those offered \
in brackets, y or n, esc to leave it. more goes on after a text, and ends a line typed letter by letter.
- Digits before a command repeat it: 2, 0, search searches 20 times and stops when something appears. \
No step is wasted that way.
- travel, then down (or up), then wait walks to the known stairs down (or up), also over long ways.
- open, close and kick ask for a direction; apply, eat, quaff, read, wear, wield, throw and zap for an \
item's letter. pickup and look concern the cell you stand on. wait passes a turn.
- On the map: @ is you, . floor or a doorway, # corridor (or a sink or tree), | and - walls (or open \
doors), + a closed door (or a book), > stairs down, < stairs up, { fountain, _ altar, ^ trap, } water \
or lava. Letters are creatures; a d or f that starts beside you is your pet. Other signs are things.
- Coordinates: x is the column, grows to the east; y is the row, grows to the south. They are those of \
Position; the observation's cursor line counts rows of the screen, one more.""",
    "guide": """\
What experience teaches
Going down
- Each level has stairs down somewhere. Explore by the nearest edge of the known: doors, doorways and \
corridors first, each room once. Travel to the stairs as soon as they are seen.
- No way left: search next to dead ends, at corridor ends and along walls that face empty parts of the \
map, 10 to 20 turns a place, then the next place.
- A closed door: open; a locked one: kick it until it breaks. No diagonal moves into or out of a \
doorway with an open door; an empty or broken one lets you.
- A boulder in a corridor is pushed by walking; if it is stuck, another way around or search.
- Levels 2 to 4 have a second stairs down: it leads to the Gnomish Mines, wide caves without rooms. \
They are a dead end about 8 levels further down, and full of hostile gnomes and dwarves unless you are \
a gnome or a dwarf. The main dungeon goes deeper: its levels have rooms and corridors.
- Trap doors and holes take you down for nothing.
- Going down too fast kills: creatures get harder with depth and with your experience level. Around \
experience 5 to 8 before level 5 or 6 is a good pace; take the easy kills on the way.
Fighting
- Fight in corridors and doorways, so that one creature at a time reaches you. Let them come to you.
- Keep a ranged attack for what must not be touched: throw daggers, fire arrows, zap wands.
- Never attack a floating eye (blue e) with a weapon in hand: its gaze paralyses, and you die of it. \
Leave acid blobs and other passive things alone. Never touch a cockatrice (yellow c) with bare hands.
- Peaceful creatures: the game asks before you hit them; answer esc. Do not hit your pet: walking into \
it swaps places. Shopkeepers, watchmen and priests are never to be attacked.
- Werecreatures, soldier ants and dwarves with axes kill beginners: fight them at full HP or go away by \
the stairs; only what stands next to you follows.
Staying alive
- HP below a third: stop fighting. Stairs, then rest with 2, 0, search where nothing is near.
- HP below a seventh (or below 6): pray, once. Prayer heals and feeds when you are Weak; it is safe \
after turn 300 and then again about 1,000 turns after the last one; sooner it angers your god.
- Elbereth written in the dust (engrave, minus, the letters, more) keeps most creatures away, but not \
humans (@) and minotaurs; attacking from it rubs it out. Letters can come out wrong: look afterwards.
- Hungry: eat. Corpses are safe only fresh, killed by you within about 30 turns; lichen corpses never \
rot. Never eat cockatrice, green slime, dogs, cats, your own race, bats, or what is poisonous or acidic \
(kobolds, killer bees, soldier ants). Never eat when Satiated. Weak: eat at once or pray.
- Put on armour that you find unless it may be cursed: what your pet steps on reluctantly is cursed.
- Unknown potions and scrolls: read scrolls when no danger is near; keep them for a hopeless moment.
- Burdened: drop what you do not use.""",
    "form": "Memory operations are executed in the order in which you write them; text around them is "
    "free.",
    "log_rules": """\
Phase LOG: your last action has been executed. Keep what later steps need and the files lack, then \
<|DONE|>. Most steps need nothing but <|DONE|>.
- dungeon: stairs, doors, forks, dead ends, altars, shops, traps, things left behind, walls already \
searched, by level, x, y as in Position: <|UPSERT|>dungeon|level,x,y|! stairs down<|END|>. One line a \
place; a text that starts with ! survives when old lines are pruned.
- lessons: a rule that you have learnt the hard way; a line that starts with ! is kept.
- plan: at most 12 lines, next goals first; rewrite it when it changed.
- journal: what happened and why, one line: levels reached, fights, prayers (with the turn).
Status and inventory are written by the harness; never copy them. Write what you saw, never what you \
expect.""",
    "plan_rules": """\
Phase PLAN: decide on one action. Look up what you need with the operations, then commit \
<|ACTION|>name<|END|>. Weigh, in this order: danger of death, hunger, the way down, experience.""",
    "log_task": "Phase LOG: write what is new, then <|DONE|>.",
    "plan_task": "Phase PLAN: look up, or commit <|ACTION|>name<|END|>.",
    "asked": "The game waits for an answer to its question: commit the answer, or esc to leave it. "
    "No other command works now.",
    "nudge": "Commit one action now: <|ACTION|>name<|END|>",
    "last_request": "Memory is closed for this step. Answer with <|ACTION|>name<|END|> only.",
}

_LESSONS = """\
! An action that changed nothing will change nothing again: look at the map and do something else.
! Note prayers with their turn in the journal; pray only when HP is below a seventh or when Weak."""

_PLAN = """\
1. find the stairs down, note them in dungeon, take the easy kills on the way
2. eat when Hungry, rest below half HP, then go down"""


def get_config() -> ConfigDict:
    system = ["role", "instructions", "keys", "guide", "form"]
    known = ["lessons", "plan_file"]
    danger = ["hostile", "advice", "notices"]
    return ConfigDict(
        {
            "id": "nethack_v2",
            "env": "nethack",
            "parent": "nethack_v0",
            "notes": "Dungeon map by level and coordinates, automatic status and inventory, the way "
            "down at both ends of PLAN.",
            "text": _TEXT,
            "files": {
                "lessons": {
                    "kind": "document",
                    "seed": _LESSONS,
                    "ops": ["READ", "SEARCH", "APPEND"],
                    "dedupe": "normalized",
                    "pin_head": len(_LESSONS.splitlines()),
                    "pin_mark": "!",
                    "soft_lines": 25,
                    "hard_lines": 40,
                    "keep_lines": 25,
                    "max_line_chars": 240,
                },
                "plan": {
                    "kind": "document",
                    "seed": _PLAN,
                    "ops": ["READ", "WRITE", "APPEND"],
                    "soft_lines": 12,
                    "hard_lines": 20,
                    "keep_lines": 12,
                    "max_line_chars": 240,
                },
                "dungeon": {
                    "kind": "map",
                    "key": ["level", "x", "y"],
                    "ops": ["READ", "SEARCH", "UPSERT", "DELETE"],
                    "dedupe": "normalized",
                    "pin_mark": "!",
                    "soft_lines": 250,
                    "hard_lines": 300,
                    "keep_lines": 250,
                    "max_line_chars": 200,
                },
                "journal": {
                    "kind": "log",
                    "dedupe": "exact",
                    "pin_mark": "!",
                    "soft_lines": 250,
                    "hard_lines": 300,
                    "keep_lines": 200,
                    "max_line_chars": 300,
                },
                "status": {"kind": "auto", "source": "state.text"},
                "inventory": {"kind": "auto", "source": "percept.inventory"},
            },
            "new_files": {"allow": True, "max": 3},
            "phases": {
                "log": {
                    "system": [*system, "log_rules", "help", *known],
                    "slots": [
                        "near",
                        "journal",
                        "files",
                        "file_health",
                        "carried",
                        "pose",
                        "ground",
                        "status",
                        "notices",
                        "language",
                        "effect",
                        "message",
                        "previous",
                        "log_task",
                    ],
                    "max_turns": 6,
                    "ops": ["READ", "SEARCH", "APPEND", "WRITE", "CREATE", "UPSERT", "DELETE"],
                },
                "plan": {
                    "system": [*system, "plan_rules", "help", *known],
                    "slots": [
                        "stairs_head",
                        "near",
                        "journal",
                        "carried",
                        "observation",
                        "status",
                        "pose",
                        "ground",
                        "explore",
                        *danger,
                        "effect",
                        "recent",
                        "previous",
                        "stairs_tail",
                        "plan_task",
                    ],
                    "max_turns": 6,
                    "ops": ["READ", "SEARCH", "TAIL"],
                    "nudge": "nudge",
                    "last_request": "last_request",
                    "modes": [
                        {
                            "when": "ask.waiting",
                            "slots": [
                                "carried",
                                "status",
                                "language",
                                "hostile",
                                "previous",
                                "question",
                                "options",
                                "asked",
                            ],
                            "ops": ["READ"],
                        }
                    ],
                    "guards": [
                        {"type": "in_vocabulary"},
                        {"type": "prompt_reply", "params": {"observer": "ask"}},
                        {
                            "type": "refuse",
                            "params": {"actions": ["pray"]},
                            "when": {
                                "all": [
                                    {"not": "ask.waiting"},
                                    {
                                        "any": [
                                            "state.turn < 300",
                                            {
                                                "all": [
                                                    "prayed.ever",
                                                    "prayed.steps < 800",
                                                ]
                                            },
                                        ]
                                    },
                                ]
                            },
                            "text": "Too early to pray: it is safe after turn 300, and then about 1,000 "
                            "turns after the last prayer (steps since yours: {prayed.steps}).",
                        },
                        {
                            "type": "refuse",
                            "params": {"actions": ["pray"]},
                            "when": {
                                "all": [
                                    {"not": "ask.waiting"},
                                    "state.hp_share > 0.143",
                                    "state.hp >= 6",
                                    {"not": {"in": ["state.hunger", ["Weak", "Fainting"]]}},
                                ]
                            },
                            "text": "You are not in trouble (HP {state.hp} of {state.max_hp}): a prayer "
                            "now angers your god.",
                        },
                        {
                            "type": "near_hazard",
                            "params": {"observer": "ground"},
                            "when": {"not": "ask.waiting"},
                        },
                        {
                            "type": "blocked_move",
                            "params": {"observer": "ground"},
                            "when": {"not": "ask.waiting"},
                        },
                        {
                            "type": "max_run",
                            "params": {"limit": 4, "observer": "effect"},
                            "when": {
                                "all": [
                                    {"not": "ask.waiting"},
                                    {"not": "percept.action == search"},
                                ]
                            },
                        },
                        {
                            "type": "max_run",
                            "params": {"limit": 20, "observer": "effect"},
                            "when": "percept.action == search",
                            "text": "Nothing found here: search somewhere else, or use digits to search "
                            "many turns in one go.",
                        },
                    ],
                    "max_rejections": 2,
                },
            },
            "slots": {
                "role": {"text": "role", "priority": 9},
                "instructions": {"builtin": "instructions", "priority": 9},
                "keys": {"text": "keys", "priority": 8},
                "guide": {"text": "guide", "priority": 6},
                "form": {"text": "form", "priority": 8},
                "help": {"builtin": "memory_help", "label": "Memory operations:\n", "priority": 8},
                "log_rules": {"text": "log_rules", "priority": 8},
                "plan_rules": {"text": "plan_rules", "priority": 8},
                "lessons": {
                    "file": "lessons",
                    "label": "File lessons:\n",
                    "priority": 5,
                    "max_chars": 4000,
                },
                "plan_file": {
                    "file": "plan",
                    "label": "File plan:\n",
                    "priority": 5,
                    "max_chars": 2400,
                },
                "near": {
                    "file": "dungeon",
                    "view": "keys_near:20",
                    "near": "pose",
                    "label": "File dungeon, this level within 20 cells (level,x,y):\n",
                    "priority": 4,
                    "max_chars": 1500,
                },
                "journal": {
                    "file": "journal",
                    "view": "tail:5",
                    "label": "Journal, last lines:\n",
                    "priority": 2,
                    "max_chars": 1200,
                },
                "files": {"builtin": "file_index", "label": "Your files:\n", "priority": 4},
                "file_health": {
                    "source": "health.text",
                    "label": "Files to tidy: ",
                    "priority": 3,
                    "max_chars": 400,
                },
                "carried": {
                    "file": "inventory",
                    "label": "File inventory:\n",
                    "priority": 5,
                    "max_chars": 1500,
                },
                "status": {
                    "file": "status",
                    "label": "File status: ",
                    "priority": 8,
                    "max_chars": 400,
                },
                "stairs_head": {"source": "stairs.text", "priority": 8, "max_chars": 400},
                "stairs_tail": {"source": "stairs.text", "priority": 8, "max_chars": 400},
                "ground": {
                    "source": "ground.text",
                    "label": "Next to you: ",
                    "priority": 6,
                    "max_chars": 500,
                },
                "explore": {
                    "source": "explore.text",
                    "label": "Exploring: ",
                    "priority": 6,
                    "max_chars": 400,
                },
                "pose": {
                    "source": "pose.text",
                    "label": "Position: ",
                    "priority": 6,
                    "max_chars": 200,
                },
                "hostile": {"source": "hostile.text", "priority": 7, "max_chars": 400},
                "advice": {
                    "source": "advice.advice",
                    "label": "Advice: ",
                    "priority": 8,
                    "max_chars": 700,
                },
                "notices": {
                    "source": "notices.advice",
                    "label": "Notice: ",
                    "priority": 6,
                    "max_chars": 500,
                },
                "effect": {"source": "effect.effect", "label": "Effect: ", "max_chars": 300},
                "recent": {
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
                "language": {
                    "source": "percept.language",
                    "label": "You see:\n",
                    "priority": 5,
                    "max_chars": 1500,
                },
                "message": {
                    "source": "percept.message",
                    "label": "Message: ",
                    "priority": 8,
                    "max_chars": 1500,
                },
                "previous": {
                    "builtin": "previous_action",
                    "label": "Last action: ",
                    "priority": 8,
                },
                "question": {
                    "source": "ask.question",
                    "label": "Question: ",
                    "priority": 9,
                    "max_chars": 1500,
                },
                "options": {
                    "source": "ask.options",
                    "label": "Answers: ",
                    "priority": 9,
                    "max_chars": 300,
                },
                "asked": {"text": "asked", "priority": 9},
                "log_task": {"text": "log_task", "priority": 9},
                "plan_task": {"text": "plan_task", "priority": 9},
            },
            "observers": {
                "effect": {"type": "obs_diff"},
                "window": {"type": "action_window", "params": {"size": 10}},
                "ground": {"type": "glyph_map", "params": {"radius": 5}},
                "pose": {"type": "pose"},
                "explore": {"type": "explore"},
                "stairs": {
                    "type": "goal_nav",
                    "params": {
                        "goals": ["stairs down", "ladder down"],
                        "avoid": ["lava", "water", "trap"],
                    },
                    "bands": [
                        {
                            "when": "stairs.here",
                            "text": "STAIRS: you stand on the stairs down; down takes them.",
                        },
                        {
                            "when": {"all": ["stairs.detour", "stairs.distance >= 1"]},
                            "text": "STAIRS: {stairs.goal} at {stairs.x},{stairs.y}, {stairs.distance} "
                            "steps around what bars the straight way. Next: {stairs.direction}.",
                        },
                        {
                            "when": "stairs.distance >= 1",
                            "text": "STAIRS: {stairs.goal} at {stairs.x},{stairs.y}, "
                            "{stairs.distance} steps. Next: {stairs.direction}, or travel, down, wait.",
                        },
                        {
                            "when": "stairs.seen",
                            "text": "STAIRS: {stairs.goal} at {stairs.x},{stairs.y}, no known way yet: "
                            "explore towards it.",
                        },
                        {
                            "when": "explore.frontier",
                            "text": "STAIRS: none down seen on level {state.level}. Nearest unexplored "
                            "edge: {explore.frontier}, {explore.frontier_distance} steps.",
                        },
                        {
                            "when": True,
                            "text": "STAIRS: none down seen on level {state.level}, and no unexplored "
                            "edge: search for hidden passages, or look behind doors and boulders.",
                        },
                    ],
                },
                "hostile": {
                    "type": "entities",
                    "params": {"kinds": ["monster"], "radius": 8},
                    "bands": [
                        {
                            "when": {"all": ["hostile.within >= 1", "hostile.distance <= 1"]},
                            "text": "DANGER: a {hostile.nearest} is next to you, {hostile.direction}; "
                            "creatures within 8 cells: {hostile.within}.",
                        },
                        {
                            "when": "hostile.within >= 1",
                            "text": "Creatures within 8 cells: {hostile.within}, the nearest a "
                            "{hostile.nearest} {hostile.distance} {hostile.direction}.",
                        },
                    ],
                },
                "eye": {"type": "entities", "params": {"names": ["floating eye"], "radius": 4}},
                "cockatrice": {
                    "type": "entities",
                    "params": {"names": ["cockatrice", "chickatrice"], "radius": 4},
                },
                "ask": {"type": "game_prompt"},
                "state": {"type": "status"},
                "prayed": {"type": "since", "params": {"when": "percept.action == pray"}},
                "health": {"type": "file_health", "params": {"stale_steps": 2000}},
                "advice": {
                    "type": "advisor",
                    "params": {
                        "rules": [
                            {
                                "when": {
                                    "all": [
                                        "state.max_hp >= 1",
                                        {"any": ["state.hp_share < 0.143", "state.hp <= 5"]},
                                    ]
                                },
                                "say": "HP {state.hp} of {state.max_hp}: pray if you have not within "
                                "1,000 turns, else flee by stairs, quaff, or write Elbereth.",
                            },
                            {
                                "when": "state.hp_share < 0.34",
                                "say": "HP {state.hp} of {state.max_hp}: do not fight on; get away and "
                                "rest.",
                            },
                            {
                                "when": {"in": ["state.hunger", ["Weak", "Fainting"]]},
                                "say": "{state.hunger}: eat at once, or pray if you have no food.",
                            },
                            {"when": "state.hunger == Hungry", "say": "Hungry: eat something."},
                            {
                                "when": "eye.within >= 1",
                                "say": "A floating eye: never hit it with a weapon in hand; walk around.",
                            },
                            {
                                "when": "cockatrice.within >= 1",
                                "say": "A cockatrice: keep away, never touch it.",
                            },
                            {
                                "when": "state.conditions",
                                "say": "Condition: {state.conditions}. Wait it out where it is safe.",
                            },
                            {
                                "when": {
                                    "all": [
                                        "stairs.here",
                                        "state.hp_share >= 0.6",
                                    ]
                                },
                                "say": "Going down is possible right now.",
                            },
                        ],
                        "most": 3,
                    },
                },
                "notices": {
                    "type": "advisor",
                    "params": {
                        "rules": [
                            {
                                "when": "window.oscillating",
                                "say": "You go back and forth: {window.text}.",
                            },
                            {
                                "when": "effect.run_length >= 4",
                                "say": "Nothing has changed for {effect.run_length} steps.",
                            },
                            {
                                "when": "pose.visits >= 8",
                                "say": "{pose.visits} times on this cell: explore elsewhere.",
                            },
                            {
                                "when": "pose.failed",
                                "say": "Tried in vain from here: {pose.failed}.",
                            },
                        ],
                        "most": 2,
                    },
                },
            },
            "actions": {
                "aliases": {
                    "go down": "down",
                    "descend": "down",
                    "go up": "up",
                    "ascend": "up",
                    "pick up": "pickup",
                    "rest": "wait",
                    "escape": "esc",
                    "yes": "y",
                    "no": "n",
                    "enter": "more",
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
                "fallback": "search",
            },
        }
    )
