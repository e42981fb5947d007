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
    "nudge": "Commit one action now: <|ACTION|>name<|END|>",
    "last_request": "Memory is closed for this step. Answer with <|ACTION|>name<|END|> only.",
}


def get_config() -> ConfigDict:
    constant = ["role", "instructions", "form", "help"]
    changing = ["observation", "previous", "files"]
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
                    "system": constant,
                    "slots": changing + ["log_task"],
                    "max_turns": 10,
                    "ops": ["READ", "SEARCH", "TAIL", "COUNT", "APPEND", "WRITE", "CREATE"],
                },
                "plan": {
                    "system": constant,
                    "slots": changing + ["plan_task"],
                    "max_turns": 10,
                    "nudge": "nudge",
                    "last_request": "last_request",
                },
            },
            "slots": {
                "role": {"text": "role"},
                "instructions": {"builtin": "instructions"},
                "form": {"text": "form"},
                "help": {"builtin": "memory_help", "label": "Memory operations:\n"},
                "observation": {
                    "source": "percept.long_text",
                    "label": "Observation:\n",
                    "max_chars": 8000,
                },
                "previous": {"builtin": "previous_action", "label": "Last action: "},
                "files": {"builtin": "file_index", "label": "Your files:\n"},
                "log_task": {"text": "log_task"},
                "plan_task": {"text": "plan_task"},
            },
            "actions": {"fallback": "Noop"},
        }
    )
