"""A memory template of one's own: one file of notes, read only when the agent asks.

`automem template check configs/own/fork_v0.py` names every problem of such a file.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    slots = ["see", "message", "last", "files"]
    return ConfigDict(
        {
            "id": "fork_v0",
            "env": "fork_env:Fork",
            "notes": "Starting point.",
            "separator": "\n",
            "text": {
                "task": "A cue at the start tells the way at the fork.",
                "log": "log: note what matters",
                "plan": "plan: read notes or act",
                "act": "act now",
            },
            "files": {"notes": {"kind": "log", "ops": ["READ", "SEARCH", "APPEND"]}},
            "phases": {
                "log": {"system": ["task"], "slots": [*slots, "log"], "max_turns": 2},
                "plan": {
                    "system": ["task"],
                    "slots": [*slots, "plan"],
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
            "actions": {"fallback": "east"},
            "limits": {"read_chars": 240, "search_hits": 4, "turn_ops": 4, "phase_tokens": 512},
        }
    )
