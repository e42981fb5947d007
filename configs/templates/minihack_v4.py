"""MiniHack, evolved class: the harness keeps count of where the agent was, finds the way to the
stairs around lava, and notes what LOG leaves out. Each kind of task has its own strategy.
"""

from ml_collections import ConfigDict

# Where no letters can be typed, the command that has the letter's key answers for it.
ANSWERS = {
    "a": "apply",
    "b": "southwest",
    "c": "close",
    "d": "drop",
    "e": "eat",
    "f": "fire",
    "g": "rush",
    "h": "west",
    "i": "inventory",
    "j": "south",
    "k": "north",
    "l": "east",
    "m": "move",
    "n": "southeast",
    "o": "open",
    "p": "pay",
    "q": "quaff",
    "r": "read",
    "s": "search",
    "t": "throw",
    "u": "northeast",
    "v": "versionshort",
    "w": "wield",
    "x": "swap",
    "y": "northwest",
    "z": "zap",
}

_TEXT = {
    "role": "You are an agent in a small dungeon, built with NetHack's rules, and you have few steps. "
    "Nothing carries over from one step to the next except your memory files.",
    "rules": """\
How this dungeon works
- On the map: @ is you, . floor, # corridor, | and - walls, + a closed door, > stairs down, < stairs \
up, } water or lava, { a fountain. Letters are creatures. A blank is unknown or solid rock. What the \
map hides, the observation in words tells: "stairs down far east".
- Coordinates: x is the column, grows to the east; y is the row, grows to the south. They are those of \
Position; the observation's cursor line counts rows of the screen, one more.
- A move takes you one cell. Moving into a creature attacks it. Moving against a wall does nothing.
- A doorway with an open door is neither entered nor left diagonally; an empty or broken one may be.
- A closed door: open, then the direction. A locked one: kick, then the direction, until it breaks.
- A boulder moves one cell when you walk against it, if the cell behind it is free; it cannot be \
pulled.
- Stepping into lava is death. Deep water is no way either. Lava and water that were frozen carry you.
- Dark rooms show only the cells next to you; what you saw stays on the map.
- search looks for hidden doors and passages next to you; where everything else was tried, search \
five to fifteen times at dead ends and along long blank walls.
- You are there when you stand on the stairs.""",
    "strategy": """\
Strategy
- Stairs in sight: follow the way that the harness names; it goes around lava and walls.
- Not in sight: go to the nearest edge of what is known; prefer cells that you never visited.
- A cell visited three times means that you walk in circles: take the least visited neighbour and \
write down which way was a dead end.
- Fight weak creatures where only one can reach you: in a corridor or a doorway.""",
    "answers": "A question about an item wants its letter. Where no letters are among the actions, "
    "give the command with that key: "
    + ", ".join(f"{letter} {action}" for letter, action in ANSWERS.items())
    + ".",
    "form": "Memory operations are executed in the order in which you write them; text around them is "
    "free.",
    "log_rules": """\
Phase LOG: your last action has been executed. Keep what later steps need and the files lack, then \
<|DONE|>. Where nothing is new, <|DONE|> alone will do: the harness notes the bare step by itself.
- places: doors, dead ends, forks, things, dangers, by coordinates: \
<|UPSERT|>places|x,y|dead end<|END|>.
- journal: what an action brought about, with the reason when it failed.
- plan: at most 10 lines, the next goals and what was tried in vain.
Write what you saw, never what you expect.""",
    "plan_rules": """\
Phase PLAN: decide on one action. Look up what you need with the operations, then commit \
<|ACTION|>name<|END|>. The advice of the harness comes from the map; your notes tell what it cannot \
know.""",
    "log_task": "Phase LOG: write what is new, then <|DONE|>.",
    "plan_task": "Phase PLAN: look up, or commit <|ACTION|>name<|END|>.",
    "asked": "The game waits for an answer to its question: commit the answer, or esc to leave it. "
    "No other command works now.",
    "nudge": "Commit one action now: <|ACTION|>name<|END|>",
    "last_request": "Memory is closed for this step. Answer with <|ACTION|>name<|END|> only.",
}

_BOXOBAN = """\
Strategy: Boxoban
- Every boulder has to be pushed onto a fountain ({); there are as many fountains as boulders. The \
whole level is in sight from the start, and you move north, east, south and west only.
- To push a boulder east stand on its west side and go east, and so on; the cell beyond must hold \
neither wall nor boulder. You can never pull: a boulder in a corner that is no fountain is lost, and \
one along a wall can leave that wall no more.
- Before the first push write into plan which boulder goes to which fountain, in which order, and for \
each the pushes; then follow it. Push the ones last that would block the way.
- Walking costs a step too: plan the way around a boulder before you push it.
- A boulder that stands on a fountain hides it: leave it there."""

_MAZE = """\
Strategy: maze
- The stairs down lie somewhere in a maze of corridors one cell wide; the map grows as you walk.
- Take the never visited neighbour if there is one, that towards the unknown part first.
- At a dead end go back to the last fork with an untried branch, and note the dead end in places.
- Diagonal steps around a corner save time where both cells are open."""

_CORRIDOR = """\
Strategy: corridor
- Rooms are joined by corridors; the stairs down are in one of the rooms, usually the farthest.
- Leave a room by a door or a gap in its wall, and follow the corridor (#) cell by cell, diagonals too.
- Where a corridor seems to end, search there a few times; a room without another exit has a hidden \
one: search along the walls that face unknown parts.
- Note each door with where it led."""

_BATTLE = """\
Strategy: battle in a corridor
- Many creatures (mostly rats) come for you. In the open they surround you: stand in the corridor or \
in a doorway, where one at a time reaches you, and let them come.
- Attack by moving towards the adjacent creature. When none is adjacent, go deeper into the corridor \
instead of running into the room.
- When they are dead, cross to the stairs down beyond the room. It is dark: you see only the cells \
next to you."""

_QUEST = """\
Strategy: quest
- A river of lava bars the way to the stairs down. Something that helps lies where you start: look at \
what is on your cell and pick it up (pickup; or step off and on again where things are picked up by \
themselves), then look at the inventory.
- A wand of cold is zapped, a frost horn is applied: zap or apply, the item's letter, then the \
direction. Stand in line with the lava, next to it or a few cells away; the frozen cells can be walked.
- Creatures may stand in between; fight rats where one at a time reaches you.
- Never step onto lava that is not frozen: look at the map, not at your plan."""


def _only(*slots):
    """PLAN's slots for a task in which the way to stairs is no help."""
    return [*_KNOWN, *slots, *_NOW]


_KNOWN = ["status", "plan_file", "places", "journal"]
_NOW = ["notices", "effect", "recent", "observation", "previous", "plan_task"]


def get_config() -> ConfigDict:
    system = ["role", "instructions", "rules", "strategy", "answers", "form"]
    return ConfigDict(
        {
            "id": "minihack_v4",
            "env": "minihack",
            "parent": "minihack_v0",
            "notes": "Way-finding by the harness, short PLAN at questions, a strategy a task.",
            "text": _TEXT,
            "files": {
                "plan": {
                    "kind": "document",
                    "ops": ["READ", "WRITE", "APPEND"],
                    "soft_lines": 10,
                    "hard_lines": 20,
                    "keep_lines": 12,
                    "max_line_chars": 240,
                },
                "places": {
                    "kind": "map",
                    "key": ["x", "y"],
                    "ops": ["READ", "SEARCH", "UPSERT", "DELETE"],
                    "dedupe": "normalized",
                    "soft_lines": 60,
                    "hard_lines": 80,
                    "keep_lines": 60,
                    "max_line_chars": 160,
                },
                "journal": {
                    "kind": "log",
                    "dedupe": "exact",
                    "soft_lines": 150,
                    "hard_lines": 200,
                    "keep_lines": 150,
                    "max_line_chars": 240,
                },
            },
            "new_files": {"allow": True, "max": 3},
            "phases": {
                "log": {
                    "system": [*system, "log_rules", "help"],
                    "slots": [
                        *_KNOWN,
                        "files",
                        "file_health",
                        "pose",
                        "stairs",
                        "notices",
                        "effect",
                        "observation",
                        "previous",
                        "log_task",
                    ],
                    "max_turns": 6,
                    "ops": ["READ", "SEARCH", "APPEND", "WRITE", "CREATE", "UPSERT", "DELETE"],
                    "if_no_write": {
                        "file": "journal",
                        "text": "step {percept.step}: {percept.action} -> {effect.effect}; at "
                        "{pose.x},{pose.y}",
                    },
                },
                "plan": {
                    "system": [*system, "plan_rules", "help"],
                    "slots": _only("stairs", "ground", "explore", "pose", "hostile"),
                    "max_turns": 6,
                    "ops": ["READ", "SEARCH", "TAIL"],
                    "nudge": "nudge",
                    "last_request": "last_request",
                    "modes": [
                        {
                            "when": "ask.waiting",
                            "slots": [
                                "status",
                                "language",
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
                            "params": {"limit": 3, "observer": "effect"},
                            "when": {
                                "all": [
                                    {"not": "ask.waiting"},
                                    {"not": "percept.action == search"},
                                ]
                            },
                        },
                    ],
                    "max_rejections": 2,
                },
            },
            "slots": {
                "role": {"text": "role", "priority": 9},
                "instructions": {"builtin": "instructions", "priority": 9},
                "rules": {"text": "rules", "priority": 7},
                "strategy": {"text": "strategy", "priority": 7},
                "answers": {
                    "text": "answers",
                    "when": "percept.actions has esc",
                    "priority": 6,
                },
                "form": {"text": "form", "priority": 8},
                "help": {"builtin": "memory_help", "label": "Memory operations:\n", "priority": 8},
                "log_rules": {"text": "log_rules", "priority": 8},
                "plan_rules": {"text": "plan_rules", "priority": 8},
                "plan_file": {
                    "file": "plan",
                    "label": "File plan:\n",
                    "priority": 6,
                    "max_chars": 2500,
                },
                "places": {
                    "file": "places",
                    "label": "File places:\n",
                    "priority": 4,
                    "max_chars": 2500,
                },
                "journal": {
                    "file": "journal",
                    "view": "tail:8",
                    "label": "Journal, last lines:\n",
                    "priority": 2,
                    "max_chars": 1600,
                },
                "files": {"builtin": "file_index", "label": "Your files:\n", "priority": 4},
                "file_health": {
                    "source": "health.text",
                    "label": "Files to tidy: ",
                    "priority": 3,
                    "max_chars": 400,
                },
                "stairs": {"source": "stairs.text", "priority": 8, "max_chars": 400},
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
                "boxes": {
                    "source": "boxes.visible",
                    "label": "Boulders: ",
                    "priority": 7,
                    "max_chars": 500,
                },
                "goals": {
                    "source": "ground.targets",
                    "label": "In sight: ",
                    "priority": 7,
                    "max_chars": 500,
                },
                "notices": {
                    "source": "notices.advice",
                    "label": "Notice: ",
                    "priority": 7,
                    "max_chars": 600,
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
                    "label": "You see: ",
                    "priority": 5,
                    "max_chars": 1500,
                },
                "status": {"source": "percept.short_text", "priority": 5, "max_chars": 1500},
                "previous": {
                    "builtin": "previous_action",
                    "label": "Last action: ",
                    "priority": 8,
                },
                "question": {
                    "source": "ask.question",
                    "label": "Question: ",
                    "priority": 9,
                    "max_chars": 600,
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
                "ground": {"type": "glyph_map", "params": {"radius": 4}},
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
                            "text": "STAIRS: you stand on them; down takes them.",
                        },
                        {
                            "when": {"all": ["stairs.detour", "stairs.distance >= 1"]},
                            "text": "STAIRS: {stairs.goal} at {stairs.x},{stairs.y}. The straight way is "
                            "barred; around it are {stairs.distance} steps. Next: {stairs.direction}.",
                        },
                        {
                            "when": "stairs.distance >= 1",
                            "text": "STAIRS: {stairs.goal} at {stairs.x},{stairs.y}, "
                            "{stairs.distance} steps. Next: {stairs.direction}.",
                        },
                        {
                            "when": "stairs.seen",
                            "text": "STAIRS: {stairs.goal} at {stairs.x},{stairs.y}, and no known way "
                            "there: explore its surroundings, or make a way.",
                        },
                        {"when": True, "text": "STAIRS: not seen yet."},
                    ],
                },
                "hostile": {
                    "type": "entities",
                    "params": {"kinds": ["monster"], "radius": 6},
                    "bands": [
                        {
                            "when": {"all": ["hostile.within >= 1", "hostile.distance <= 1"]},
                            "text": "A {hostile.nearest} is next to you, {hostile.direction}; "
                            "creatures within 6 cells: {hostile.within}.",
                        },
                        {
                            "when": "hostile.within >= 1",
                            "text": "Creatures within 6 cells: {hostile.within}, the nearest a "
                            "{hostile.nearest} {hostile.distance} {hostile.direction}.",
                        },
                    ],
                },
                "boxes": {"type": "entities", "params": {"kinds": ["boulder"], "radius": 10}},
                "ask": {"type": "game_prompt"},
                "state": {"type": "status"},
                "health": {"type": "file_health", "params": {"stale_steps": 60}},
                "notices": {
                    "type": "advisor",
                    "params": {
                        "rules": [
                            {
                                "when": "state.hp_share <= 0.34",
                                "say": "HP {state.hp} of {state.max_hp}: do not fight in the open.",
                            },
                            {
                                "when": {"all": ["pose.visits >= 3", "explore.least_visited"]},
                                "say": "Circles: {pose.visits} times on this cell. Least visited "
                                "neighbour: {explore.least_visited}.",
                            },
                            {
                                "when": "window.oscillating",
                                "say": "You go back and forth: {window.text}. Choose another way and "
                                "note why this one failed.",
                            },
                            {
                                "when": "effect.run_length >= 3",
                                "say": "Nothing has changed for {effect.run_length} steps.",
                            },
                            {
                                "when": "pose.failed",
                                "say": "Tried in vain from this cell: {pose.failed}.",
                            },
                        ],
                        "most": 3,
                    },
                },
            },
            "actions": {
                "aliases": {
                    "n": "north",
                    "s": "south",
                    "e": "east",
                    "w": "west",
                    "ne": "northeast",
                    "nw": "northwest",
                    "se": "southeast",
                    "sw": "southwest",
                    "escape": "esc",
                    "pick up": "pickup",
                    "rest": "wait",
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
                "fallback": "north",
            },
            "overrides": [
                {
                    "task": "MiniHack-Boxoban-*",
                    "patch": {
                        "text": {"strategy": _BOXOBAN},
                        "files": {"plan": {"soft_lines": 30, "hard_lines": 60, "keep_lines": 40}},
                        "phases": {
                            "plan": {"slots": _only("goals", "boxes", "ground", "pose")},
                        },
                    },
                },
                {"task": "MiniHack-MazeWalk-*", "patch": {"text": {"strategy": _MAZE}}},
                {
                    "task": "MiniHack-Corridor-*",
                    "patch": {
                        "text": {"strategy": _CORRIDOR},
                        "actions": {"fallback": "search"},
                    },
                },
                {"task": "MiniHack-CorridorBattle-*", "patch": {"text": {"strategy": _BATTLE}}},
                {
                    "task": "MiniHack-Quest-*",
                    "patch": {"text": {"strategy": _QUEST}, "actions": {"fallback": "wait"}},
                },
            ],
        }
    )
