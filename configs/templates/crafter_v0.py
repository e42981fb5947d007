"""Crafter, the starting agent: a journal and a few documents, read when the agent asks."""

from ml_collections import ConfigDict

_TEXT = {
    "role": "You are an agent in Crafter, a world of gathering, crafting and survival. You see a small "
    "area around you, and nothing carries over from one step to the next except what stands in your "
    "memory files. Unlock as many different achievements as you can and stay alive.",
    "form": "Operations are executed in the order in which you write them; text around them is free.",
    "log_task": "Phase LOG. Your last action has been executed. Decide what its outcome teaches and "
    "keep it: where resources are, what a recipe took, what failed and why. Write only what you saw, "
    "nothing you merely expect, and nothing that is in the files already. Finish with <|DONE|>.",
    "plan_task": "Phase PLAN. Look up what you need in your files, then commit one action of the list "
    "with <|ACTION|>name<|END|>. What you look up is shown to you before you act.",
    "log_now": "Phase LOG: write what is new, then <|DONE|>.",
    "plan_now": "Phase PLAN: look up, or commit <|ACTION|>name<|END|>.",
    "nudge": "Commit one action now: <|ACTION|>name<|END|>",
    "last_request": "Memory is closed for this step. Answer with <|ACTION|>name<|END|> only.",
}


def get_config() -> ConfigDict:
    constant = ["role", "instructions", "form"]
    changing = ["files", "observation", "status", "previous"]
    return ConfigDict(
        {
            "id": "crafter_v0",
            "env": "craftax_classic",
            "notes": "Starting point: nothing is shown in PLAN but the index of the files.",
            "text": _TEXT,
            "files": {
                "journal": {"kind": "log", "soft_lines": 200, "max_line_chars": 400},
                "knowledge": {"kind": "document", "soft_lines": 60, "max_line_chars": 400},
                "goals": {"kind": "document", "soft_lines": 30, "max_line_chars": 400},
            },
            "new_files": {"allow": True, "max": 5},
            "phases": {
                "log": {
                    "system": [*constant, "log_task", "help"],
                    "slots": [*changing, "log_now"],
                    "max_turns": 10,
                    "ops": ["READ", "SEARCH", "TAIL", "COUNT", "APPEND", "WRITE", "CREATE"],
                },
                "plan": {
                    "system": [*constant, "plan_task", "help"],
                    "slots": [*changing, "plan_now"],
                    "max_turns": 10,
                    "nudge": "nudge",
                    "last_request": "last_request",
                },
            },
            "slots": {
                "role": {"text": "role", "priority": 9},
                "instructions": {"builtin": "instructions", "priority": 9},
                "form": {"text": "form", "priority": 8},
                "help": {"builtin": "memory_help", "label": "Memory operations:\n", "priority": 8},
                "files": {"builtin": "file_index", "label": "Your files:\n", "priority": 7},
                "observation": {
                    "source": "percept.long_text",
                    "label": "Observation:\n",
                    "max_chars": 8000,
                    "priority": 9,
                },
                "status": {"source": "percept.short_text", "max_chars": 1000, "priority": 8},
                "previous": {"builtin": "previous_action", "label": "Last action: ", "priority": 8},
                "log_task": {"text": "log_task", "priority": 9},
                "plan_task": {"text": "plan_task", "priority": 9},
                "log_now": {"text": "log_now", "priority": 9},
                "plan_now": {"text": "plan_now", "priority": 9},
            },
            "actions": {"fallback": "Noop"},
        }
    )
