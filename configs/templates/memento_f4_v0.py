"""MiniHack Memento with four arms: two creatures at the start tell which arm of the far fork is right.

As memento_v0, for the long corridor of MiniHack-Memento-F4-v0, which looks the same for some fifty steps:
LOG runs only after steps that changed the view.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    slots = ["see", "message", "last", "files"]
    return ConfigDict(
        {
            "id": "memento_f4_v0",
            "env": "minihack",
            "notes": "Starting point: one log file, read only when asked for; LOG where the view changed.",
            "separator": "\n",
            "text": {
                "task": "Two creatures at the start tell the way at the far fork.",
                "log": "log: note what matters",
                "plan": "plan: read notes or act",
                "act": "act now",
            },
            "files": {"notes": {"kind": "log", "ops": ["READ", "SEARCH", "APPEND"]}},
            "phases": {
                "log": {
                    "system": ["task"],
                    "slots": slots + ["log"],
                    "max_turns": 2,
                    "when": "view.changed",
                },
                "plan": {
                    "system": ["task"],
                    "slots": slots + ["plan"],
                    "max_turns": 3,
                    "nudge": "act",
                    "last_request": "act",
                },
            },
            "slots": {
                "task": {"text": "task"},
                "see": {"source": "percept.language", "label": "see: ", "max_chars": 400},
                "message": {"source": "percept.message", "label": "message: ", "max_chars": 120},
                "last": {"builtin": "previous_action", "label": "last: "},
                "files": {"builtin": "file_index", "form": "short", "label": "files: "},
                "log": {"text": "log"},
                "plan": {"text": "plan"},
            },
            "observers": {"view": {"type": "obs_diff", "params": {"paths": ["percept.language"]}}},
            "actions": {"fallback": "east"},
            "limits": {"read_chars": 240, "search_hits": 4, "turn_ops": 4, "phase_tokens": 512},
        }
    )
