"""`automem template` and `automem memory` as their users meet them."""

import json

import pytest

from automem_jax.agent.template import from_data, load_template, to_data, to_json
from automem_jax.cli import template as cli
from automem_jax.cli.main import run
from automem_jax.rollout.preview import preview
from automem_jax.testing import ToyEnv


def automem(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(["automem", *arguments])
        raise SystemExit(0)
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def changed(tmp_path, name, **changes):
    """memento_v0 as an architect would rewrite it, in JSON."""
    data = to_data(load_template("memento_v0")) | {"id": name}
    for path, value in changes.items():
        node = data
        *folders, last = path.split("__")
        for folder in folders:
            node = node[folder]
        node[last] = value
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(data))
    return str(path)


def test_check_names_every_problem_of_every_file(capsys, tmp_path):
    bad = changed(tmp_path, "bad", files__notes__kind="pile", phases__log__max_turns=0)
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    code, out, _ = automem(capsys, "template", "check", "memento_v0", bad, str(torn), "mementa_v0")
    assert code == 1
    assert "memento_v0: good" in out
    for part in (
        "files.notes.kind: unknown value 'pile'",
        "mend: ",
        "phases.log.max_turns: 0 turns",
    ):
        assert part in out
    assert "not JSON" in out and "mementa_v0" in out and "memento_v0" in out
    code, out, _ = automem(capsys, "template", "check", "--json", bad)
    (row,) = json.loads(out)
    assert code == 1 and {p["place"] for p in row["problems"]} >= {"files.notes.kind"}
    code, _, _ = automem(capsys, "template", "check", "memento_v0", "crafter_v0")
    assert code == 0


def test_diff_tells_structure_from_wording(capsys, tmp_path):
    new = changed(
        tmp_path,
        "new",
        text__task="Find the way.\nThen stop.",
        files__notes__soft_lines=9,
        slots__log__label="now: ",
    )
    code, out, _ = automem(capsys, "template", "diff", "memento_v0", new)
    structure, wording = out.split("wording:")
    assert code == 0
    assert "files.notes.soft_lines: 0 -> 9" in structure and "text.task" not in structure
    assert "+Find the way." in wording and 'slots.log.label: "" -> "now: "' in wording
    assert "soft_lines" not in wording
    _, out, _ = automem(capsys, "template", "diff", "--json", "memento_v0", new)
    found = json.loads(out)
    assert found["structure"] == [{"path": "files.notes.soft_lines", "before": 0, "after": 9}]
    assert {d["path"] for d in found["wording"]} >= {"id", "text.task", "slots.log.label"}
    _, out, _ = automem(capsys, "template", "diff", "memento_v0", "memento_v0")
    assert out == "structure: no differences\nwording: no differences\n"


def test_show_prints_the_prompts_the_agent_sends(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("automem_jax.envs.make", lambda config: ToyEnv(length=9))
    code, out, _ = automem(capsys, "template", "show", "memento_v0", "--step", "3", "--json")
    shown = json.loads(out)
    assert code == 0 and [p["phase"] for p in shown["phases"]] == ["log", "plan"]
    log = shown["phases"][0]
    assert log["operations"] == ["READ", "SEARCH", "APPEND"]
    assert {s["slot"] for s in log["slots"]} >= {"task", "see"} and log["tokens"] > 0
    assert log["messages"][1]["content"].startswith("see: ")
    code, out, _ = automem(capsys, "template", "show", "memento_v0", "--step", "3")
    assert code == 0 and "=== PLAN" in out and "--- system" in out
    code, _, err = automem(capsys, "template", "show", "memento_v0", "--step", "500")
    assert code == 1 and "ask for an earlier one" in err


def test_a_preview_says_what_the_budget_cut():
    data = to_data(load_template("memento_v0"))
    data["files"]["notes"]["seed"] = "\n".join(f"{i}: walk on and on" for i in range(400))
    data["slots"]["memory"] = {"file": "notes", "priority": 0}
    data["phases"]["log"]["slots"].append("memory")
    data["limits"]["phase_tokens"] = 1_500
    env = ToyEnv(length=5)
    template = from_data(data)
    phases = preview(template, env, task="toy", seed=1, step=1)
    (cut,) = [s for s in phases[0].slots if s.cut]
    assert cut.slot == "memory" and cut.cut[1] == cut.characters > cut.cut[0]


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        (["template"], 2, "check|show|diff"),
        (["template", "--help"], 0, "automem template diff FILE FILE"),
        (["template", "check"], 2, "FILE"),
        (["template", "diff", "memento_v0"], 2, "FILE"),
        (["template", "show", "memento_v0", "--env=chess"], 1, "no such environment"),
        (["memory", "export", "nowhere.jsonl", "out"], 1, "nowhere.jsonl"),
    ],
)
def test_wrong_usage_says_what_is_right(capsys, arguments, code, told):
    found, out, err = automem(capsys, *arguments)
    assert found == code and told in out + err


def test_json_made_from_a_template_is_the_same_template(capsys, tmp_path):
    path = tmp_path / "same.json"
    path.write_text(to_json(load_template("memento_v0")))
    _, out, _ = automem(capsys, "template", "diff", "memento_v0", str(path))
    assert out == "structure: no differences\nwording: no differences\n"
    assert cli._at({"a": {"b.c": {"d": 1}}}, "a.b.c.d") == 1
