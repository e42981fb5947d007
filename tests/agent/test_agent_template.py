"""Templates: strict reading, validator, structural differences."""

import copy
import dataclasses
import json

import pytest

from automem_jax.agent.template import (
    from_data,
    load_template,
    structural_change,
    template_hash,
    to_data,
    to_json,
)
from automem_jax.agent.validate import validate
from automem_jax.config import ConfigError

NAMES = ["memento_v0", "minihack_v0", "crafter_v0"]


def edited(edit, name="minihack_v0"):
    data = copy.deepcopy(to_data(load_template(name)))
    edit(data)
    return from_data(data)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_templates_are_valid_and_survive_json(name, tmp_path):
    template = load_template(name)
    assert validate(template) == []
    path = tmp_path / "t.json"
    path.write_text(to_json(template))
    again = load_template(path)
    assert again == template and template_hash(again) == template_hash(template)
    assert len(template_hash(template)) == 16


def test_unknown_keys_name_place_and_nearest(tmp_path):
    data = to_data(load_template("memento_v0"))
    data["files"]["notes"]["dedup"] = "exact"
    with pytest.raises(
        ConfigError, match=r"template\.files\.notes\.dedup: .*did you mean 'dedupe'"
    ):
        from_data(data)
    with pytest.raises(ConfigError, match=r"template\.phases\.log\.max_turns: expected int"):
        from_data({"id": "x", "phases": {"log": {"max_turns": "2"}}})
    with pytest.raises(ConfigError, match="lacks 'id'"):
        from_data({})
    with pytest.raises(ConfigError, match="did you mean 'memento_v0'"):
        load_template("mementov0")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_template(bad)


def put(path, value):
    def edit(data):
        *parents, last = path
        for key in parents:
            data = data[key]
        data[last] = value

    return edit


def guard(kind, **params):
    return {"type": kind, "params": params}


OBSERVER = "phases.plan.guards[0].params.observer"
NEEDS = "phases.plan.guards[0].params.needs"
PROBLEMS = [
    (["observers", "x"], {"type": "glyf_map"}, "observers.x.type"),
    (["observers", "x"], {"type": "events"}, "observers.x.params"),
    (["slots", "y"], {"source": "nowhere.at"}, "slots.y.source"),
    (["slots", "y"], {"text": "role", "builtin": "actions"}, "slots.y"),
    (["slots", "y"], {"file": "jornal"}, "slots.y.file"),
    (["slots", "y"], {"file": "journal", "view": "tail:x"}, "slots.y.view"),
    (["slots", "y"], {"text": "role", "when": {"maybe": []}}, "slots.y.when"),
    (["phases", "plan", "slots"], ["observatoin"], "phases.plan.slots"),
    (["phases", "plan", "ops"], ["APPEND"], "phases.plan.ops"),
    (["phases", "log", "ops"], ["READ"], "phases.log.ops"),
    (["phases", "log", "max_turns"], 0, "phases.log.max_turns"),
    (["phases", "plan", "nudge"], "", "phases.plan.nudge"),
    (["phases", "plan", "guards"], [{"type": "near_lava"}], "phases.plan.guards[0].type"),
    (["phases", "plan", "guards"], [guard("max_run", limit=1, observer="percept.x")], OBSERVER),
    (["phases", "plan", "guards"], [guard("materials", needs="wood")], NEEDS),
    (["phases", "plan", "guards"], [guard("materials", needs={"cut": "wood"})], NEEDS + ".cut"),
    (["phases", "plan", "guards"], [guard("materials", needs={"cut": {"x": 1}})], NEEDS + ".cut"),
    (["observers", "x"], {"type": "obs_diff", "params": {"paths": 3}}, "observers.x.params.paths"),
    (
        ["observers", "x"],
        {"type": "obs_diff", "params": {"clocks": [1]}},
        "observers.x.params.clocks",
    ),
    (["observers", "x"], {"type": "events", "params": {"path": 3}}, "observers.x.params.path"),
    (
        ["slots", "y"],
        {"text": "role", "when": {"compare": ["percept.step", {}, 1]}},
        "slots.y.when",
    ),
    (["text", "role"], "see {obs.text}", "text.role"),
    (["text", "role"], "x" * 60_000, "phases.log"),
    (["files", "Journal"], {}, "files.Journal"),
    (["files", "j"], {"kind": "mop"}, "files.j.kind"),
    (["files", "j"], {"kind": "map"}, "files.j.key"),
    (["files", "j"], {"kind": "auto"}, "files.j.source"),
    (["files", "j"], {"ops": ["APPEND"]}, "files.j"),
    (["files", "j"], {"hard_lines": 3, "keep_lines": 3, "pin_head": 1}, "files.j.hard_lines"),
    (["files", "j"], {"keep_lines": -1}, "files.j.keep_lines"),
    (["files", "j"], {"max_line_chars": 1}, "files.j.max_line_chars"),
    (["files", "j"], {"kind": "reference", "ops": ["WRITE", "READ"]}, "files.j.ops"),
    (["actions", "fallback"], "", "actions.fallback"),
    (["limits", "read_chars"], 0, "limits.read_chars"),
    (["overrides"], [{"task": "*", "patch": {"fils": {}}}], "overrides[0].patch"),
]


@pytest.mark.parametrize("path,value,place", PROBLEMS)
def test_every_problem_has_its_place_and_remedy(path, value, place):
    problems = validate(edited(put(path, value)))
    assert place in [p.place for p in problems]
    assert all(p.message and p.remedy for p in problems)


def test_no_file_of_the_agents_own():
    def edit(data):
        data["files"] = {"facts": {"kind": "reference", "seed": "x"}}
        data["new_files"] = {"allow": False}

    places = [p.place for p in validate(edited(edit))]
    assert "files" in places and "phases.log.ops" in places


def test_structural_change_ignores_wording_only():
    a = load_template("minihack_v0")
    wording = edited(put(["text", "role"], "Other words."))
    wording = dataclasses.replace(wording, id="child", parent="minihack_v0", notes="n")
    assert structural_change(a, wording) == []
    assert structural_change(a, edited(put(["slots", "files", "label"], "Index: "))) == []
    b = edited(put(["phases", "log", "max_turns"], 3))
    b = dataclasses.replace(b, files={**b.files, "extra": b.files["plan"]})
    assert structural_change(a, b) == ["files.extra", "phases.log.max_turns"]


def test_overrides_patch_matching_tasks():
    override = {"task": "*Boxoban*", "patch": {"phases": {"log": {"max_turns": 2}}}}
    template = edited(put(["overrides"], [override]))
    assert validate(template) == []
    assert template.for_task("MiniHack-Boxoban-Hard-v0").phases.log.max_turns == 2
    assert template.for_task("MiniHack-MazeWalk-9x9-v0").phases.log.max_turns == 10


def test_json_is_data():
    assert json.loads(to_json(load_template("memento_v0")))["id"] == "memento_v0"
