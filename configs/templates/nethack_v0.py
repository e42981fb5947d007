"""NetHack, the starting agent: a journal and a few documents, read when the agent asks."""

from ml_collections import ConfigDict

_TEXT = {
    "role": "You are an agent in the dungeons of NetHack. You see only what is near or was seen, and "
    "nothing carries over from one step to the next except what stands in your memory files. Get as "
    "deep as you can, gain experience levels, and stay alive.",
    "keys": """\
How actions work
- A compass word moves one cell, attacks what stands there, or answers a question about a direction. \
"far east" runs until something of interest. up and down take the stairs that you stand on.
- A command may ask a question; then the next action answers it, by a compass word, by a letter of \
those offered in brackets, by y or n, or by esc to leave it. more goes on after a text, and ends a \
line that you typed letter by letter.
- Digits before a command repeat it: 2, 0, search searches 20 times.
- travel, then down (or up), then wait walks to the known stairs down (or up).
- open, close and kick ask for a direction; apply, eat, quaff, read, wear, wield, throw and zap ask \
for an item's letter; pickup and look concern the cell you stand on.
- wait passes a turn; search also looks for what is hidden next to you: doors, passages, traps. Moving \
onto a door or stairs is one move like any other; diagonal moves through an open door are not possible.
- eat takes food from the inventory or from the floor (it asks about each thing there, y or n). wield \
chooses the weapon, wear puts armour on, takeoff takes it off, puton and remove are for rings and \
amulets. fire shoots what is quivered, quiver chooses it. engrave with minus writes in the dust.
- pray asks your god for help; it works rarely, and in real need only. esc leaves any question.
- Moving onto a creature that is peaceful asks first; onto your pet you swap places with it.
- The observation tells the last message, what is in sight with its direction, where the cursor is, and \
the map with two lines of statistics: Dlvl is the dungeon level, HP hit points (of), AC armour class (the \
lower the better), Xp experience level/points, T the turn. "near", "far" and so on are distances: \
adjacent is the next cell, very near 2 cells, near up to 5, far up to 19.
- On the map: @ is you, . floor, # corridor, | and - walls, + a closed door, > stairs down, < stairs \
up, { fountain, ^ trap, letters are creatures, other signs are things.""",
    "form": "Operations are executed in the order in which you write them; text around them is free.",
    "log_task": "Phase LOG. Your last action has been executed. Decide what its outcome teaches and "
    "keep it: places, stairs, dangers, what a thing or a creature did. Write only what you saw, "
    "nothing you merely expect, and nothing that is in the files already. Finish with <|DONE|>.",
    "plan_task": "Phase PLAN. Look up what you need in your files, then commit one action of the list "
    "with <|ACTION|>name<|END|>. What you look up is shown to you before you act.",
    "log_now": "Phase LOG: write what is new, then <|DONE|>.",
    "plan_now": "Phase PLAN: look up, or commit <|ACTION|>name<|END|>.",
    "nudge": "Commit one action now: <|ACTION|>name<|END|>",
    "last_request": "Memory is closed for this step. Answer with <|ACTION|>name<|END|> only.",
}


def get_config() -> ConfigDict:
    constant = ["role", "instructions", "keys", "form"]
    return ConfigDict(
        {
            "id": "nethack_v0",
            "env": "nethack",
            "notes": "Starting point: nothing is shown in PLAN but the index of the files.",
            "text": _TEXT,
            "files": {
                "journal": {"kind": "log", "soft_lines": 200, "max_line_chars": 400},
                "map": {"kind": "document", "soft_lines": 80, "max_line_chars": 400},
                "plan": {"kind": "document", "soft_lines": 30, "max_line_chars": 400},
            },
            "new_files": {"allow": True, "max": 5},
            "phases": {
                "log": {
                    "system": [*constant, "log_task", "help"],
                    "slots": ["status", "files", "observation", "previous", "log_now"],
                    "max_turns": 10,
                    "ops": ["READ", "SEARCH", "TAIL", "COUNT", "APPEND", "WRITE", "CREATE"],
                },
                "plan": {
                    "system": [*constant, "plan_task", "help"],
                    "slots": ["status", "files", "observation", "previous", "plan_now"],
                    "max_turns": 10,
                    "nudge": "nudge",
                    "last_request": "last_request",
                },
            },
            "slots": {
                "role": {"text": "role", "priority": 9},
                "instructions": {"builtin": "instructions", "priority": 9},
                "keys": {"text": "keys", "priority": 8},
                "form": {"text": "form", "priority": 8},
                "help": {"builtin": "memory_help", "label": "Memory operations:\n", "priority": 8},
                "files": {"builtin": "file_index", "label": "Your files:\n", "priority": 7},
                "observation": {
                    "source": "percept.long_text",
                    "label": "Observation:\n",
                    "max_chars": 8000,
                    "priority": 9,
                },
                "status": {"source": "percept.short_text", "max_chars": 3000, "priority": 6},
                "previous": {"builtin": "previous_action", "label": "Last action: ", "priority": 8},
                "log_task": {"text": "log_task", "priority": 9},
                "plan_task": {"text": "plan_task", "priority": 9},
                "log_now": {"text": "log_now", "priority": 9},
                "plan_now": {"text": "plan_now", "priority": 9},
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
                "fallback": "search",
            },
        }
    )
