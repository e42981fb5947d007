"""Observers on hand-made percepts: what each offers, how they look at each other, what is refused."""

import time

import pytest

from automem_jax.agent import observers
from automem_jax.agent.observers import OBSERVERS, Scope, update_order
from automem_jax.agent.template import FileSpec, from_data, load_template, to_data
from automem_jax.agent.validate import validate
from automem_jax.config import ConfigError
from automem_jax.envs.base import Percept

ACTIONS = ("Noop", "Move North", "Move South", "Move West", "Move East", "Do")


def percept(step=0, action=None, text="", **fields):
    return Percept(
        long_text=text, short_text="", fields=fields, actions=ACTIONS, step=step, action=action
    )


def template_with(**specs):
    data = to_data(load_template("memento_v0"))
    return from_data(data | {"observers": specs})


def scope_of(**specs):
    return Scope(template_with(**specs).observers)


def watch(specs, percepts, *paths):
    """The values at the paths after each percept."""
    scope = scope_of(**specs)
    seen = []
    for one in percepts:
        scope.update(one)
        seen.append(tuple(scope.resolve(path) for path in paths))
    return seen


def test_delta_of_a_mapping_and_of_a_number():
    specs = {
        "bag": {"type": "delta", "params": {"path": "percept.inventory"}},
        "wood": {"type": "delta", "params": {"path": "percept.inventory", "names": ["wood"]}},
        "hp": {"type": "delta", "params": {"path": "percept.hp"}},
    }
    bags = [{"wood": 1, "stone": 2}, {"wood": 1, "stone": 2}, {"wood": 3, "stone": 1}, {"wood": 3}]
    percepts = [percept(i, inventory=bag, hp=9 - i) for i, bag in enumerate(bags)]
    assert watch(specs, percepts, "bag.gained", "bag.lost", "bag.since_gain", "bag.since_loss") == [
        ((), (), -1, -1),
        ((), (), -1, -1),
        (("wood +2",), ("stone -1",), 0, 0),
        ((), ("stone -1",), 1, 0),
    ]
    assert watch(specs, percepts, "wood.text") == [("",), ("",), ("wood +2",), ("",)]
    assert watch(specs, percepts, "hp.text", "hp.since_loss")[-1] == ("hp -1", 0)
    with pytest.raises(ConfigError, match=r"delta: percept\.hp holds 'many'"):
        watch(specs, [percept(inventory={}, hp="many")], "hp.text")


def test_since_counts_percepts():
    specs = {"thirst": {"type": "since", "params": {"when": "percept.drink <= 3"}}}
    percepts = [percept(i, drink=drink) for i, drink in enumerate([5, 3, 2, 6, 7])]
    seen = watch(specs, percepts, "thirst.steps", "thirst.ever", "thirst.times")
    assert seen == [(-1, False, 0), (0, True, 1), (0, True, 2), (1, True, 2), (2, True, 2)]


def test_vitals_are_told_from_the_lowest():
    paths = {"food": "percept.food", "drink": "percept.drink", "mana": "percept.mana"}
    specs = {"vit": {"type": "vitals", "params": {"paths": paths, "low": 4, "critical": 2}}}
    outputs = ("vit.low", "vit.critical", "vit.lowest", "vit.text")
    assert watch(specs, [percept(food=4, drink=2), percept(food=5, drink=9)], *outputs) == [
        (("drink", "food"), ("drink",), "drink", "drink 2 (critical), food 4 (low)"),
        ((), (), "food", ""),
    ]


def test_game_prompt_and_status_of_a_game_without_them():
    specs = {"ask": {"type": "game_prompt"}, "st": {"type": "status"}}
    question = {"kind": "choice", "text": "Eat it? [ynq]", "options": ("y", "n", "q")}
    told = watch(
        specs,
        [percept(), percept(prompt="choice", question=question), percept(prompt="more")],
        "ask.waiting",
        "ask.kind",
        "ask.question",
        "ask.options",
    )
    assert told == [
        (False, "", "", ()),
        (True, "choice", "Eat it? [ynq]", ("y", "n", "q")),
        (True, "more", "", ()),
    ]
    nethack = {
        "hp": 7,
        "max_hp": 14,
        "dlvl": 3,
        "hunger_word": "Hungry",
        "conditions": ("Blind",),
        "experience_level": 2,
        "experience_points": 21,
        "gold": 5,
        "ac": 6,
        "turn": 300,
    }
    (nh,) = watch(specs, [percept(**nethack)], "st.hp_share", "st.level", "st.text")
    assert nh[:2] == (0.5, 3)
    assert nh[2] == "level 3, HP 7/14, Hungry, Blind, experience 2/21, gold 5, ac 6, turn 300"
    assert watch(specs, [percept(4, health=3)], "st.hp_share", "st.text") == [
        (1 / 3, "HP 3/9, turn 4")
    ]
    assert watch(specs, [percept(4)], "st.hp", "st.conditions", "st.text") == [(0, (), "turn 4")]


def test_inventory_of_numbers_leaves_vitals_out():
    specs = {"inv": {"type": "inventory"}}
    bag = {"health": 9, "wood": 0, "stone": 1}
    percepts = [
        percept(inventory=bag, health=9),
        percept(inventory=bag | {"wood": 2}, health=9),
        percept(inventory=bag | {"wood": 3, "stone": 0}, health=9),
        percept(inventory=bag | {"wood": 3, "stone": 0}, health=9),
    ]
    assert watch(specs, percepts, "inv.count", "inv.new", "inv.lost", "inv.text") == [
        (1, (), (), "stone 1"),
        (2, ("wood",), (), "wood 2, stone 1"),
        (1, (), ("stone",), "wood 3"),
        (1, (), (), "wood 3"),
    ]
    assert watch(specs, percepts[:1], "inv.items.wood", "inv.items.stone") == [(0, 1)]


def test_inventory_of_letters():
    specs = {"inv": {"type": "inventory"}}
    items = (("a", "a long sword (weapon in hand)"), ("b", "3 apples"))
    percepts = [percept(items=items), percept(items=(("b", "2 apples"), ("c", "a tin")))]
    first, second = watch(specs, percepts, "inv.items", "inv.new", "inv.lost", "inv.text")
    assert first[0] == dict(items) and first[1:3] == ((), ())
    assert second[1:] == (("a tin",), ("a long sword (weapon in hand)",), "b: 2 apples, c: a tin")
    with pytest.raises(ConfigError, match="inventory: percept.items holds 7"):
        watch(specs, [percept(items=7)], "inv.text")


def test_events_text():
    specs = {"e": {"type": "events", "params": {"path": "percept.done_", "all": ["a", "b", "c"]}}}
    percepts = [percept(done_=("b",)), percept(done_=("b", "c"))]
    assert watch(specs, percepts, "e.text", "e.new", "e.remaining") == [
        ("1 of 3 done; new: b; remaining: a, c", ("b",), ("a", "c")),
        ("2 of 3 done; new: c; remaining: a", ("c",), ("a",)),
    ]


def moves(actions, places=None, texts=None):
    percepts = [percept(text="start", **({"x": 0, "y": 0} if places else {}))]
    for i, action in enumerate(actions, 1):
        fields = {"x": places[i - 1], "y": 0} if places else {}
        percepts.append(percept(i, action, texts[i - 1] if texts else f"seen {i}", **fields))
    return percepts


@pytest.mark.parametrize(
    "percepts,wanted",
    [
        (moves(["Move West", "Move East", "Move West", "Move East"]), True),
        (moves(["Move West", "Move East", "Move West"]), False),
        (moves(["Do", "Move West", "Do", "Move West"]), False),  # a tunnel
        (moves(["Do", "Noop", "Do", "Noop"], texts=["a", "b", "a", "b"]), True),
        (moves(["Do"] * 8, texts=["a"] * 8), False),  # a run, not a swing
        (moves(["far east", "far west", "far east"], places=[5, 0, 5]), True),
        (moves(["far east"] * 4, places=[5, 9, 12, 13]), False),
        (moves(list("abcdef"), texts=list("123123")), True),
        (moves(list("abcdef"), texts=list("123124")), False),
    ],
)
def test_oscillation(percepts, wanted):
    seen = watch({"w": {"type": "action_window"}}, percepts, "w.oscillating", "w.text")
    assert seen[-1][0] is wanted
    assert seen[-1][1].endswith("(going back and forth)") is wanted


def test_action_window_text_counts_runs():
    percepts = moves(["Do", "Do", "Noop", "Do"])
    specs = {"w": {"type": "action_window", "params": {"size": 3}}}
    paths = ("w.recent", "w.repeats", "w.reversals", "w.unique", "w.text")
    assert watch(specs, percepts, *paths)[-1] == (
        ("Do", "Noop", "Do"),
        1,
        1,
        2,
        "Do, Noop, Do",
    )
    assert watch(specs, percepts[:3], "w.text")[-1] == ("Do x2",)


def test_advisor_gives_the_first_rules_that_hold():
    rules = [
        {"when": "percept.wood >= 5", "say": "Build a table ({percept.wood} wood)."},
        {"when": {"not": "percept.wood >= 5"}, "say": "Gather wood."},
        {"when": True, "say": "Stay alive."},
    ]
    specs = {
        "one": {"type": "advisor", "params": {"rules": rules}},
        "two": {"type": "advisor", "params": {"rules": rules, "most": 2}},
        "none": {"type": "advisor", "params": {"rules": []}},
    }
    percepts = [percept(wood=0), percept(wood=6)]
    assert watch(specs, percepts, "one.advice", "two.advice", "two.count", "none.advice") == [
        ("Gather wood.", "Gather wood.\nStay alive.", 2, ""),
        ("Build a table (6 wood).", "Build a table (6 wood).\nStay alive.", 2, ""),
    ]


def test_file_health():
    scope = scope_of(h={"type": "file_health", "params": {"stale_steps": 3}})
    journal, facts = FileSpec(kind="log", soft_lines=2), FileSpec(kind="reference")
    seen = []
    for step in range(6):
        scope.update(percept(step))
        lines = 1 if step < 4 else 3
        written = ("goals",) if step == 2 else ()
        index = [("journal", journal, lines), ("facts", facts, 9), ("goals", FileSpec(), 1)]
        scope.update_files(index, written)
        seen.append(tuple(scope.resolve(f"h.{name}") for name in ("oversized", "stale")))
    assert seen == [
        ((), ()),
        ((), ()),
        ((), ()),
        ((), ("journal",)),
        (("journal",), ()),
        (("journal",), ("goals",)),
    ]
    assert scope.resolve("h.text") == (
        "journal has 3 lines of 2; nothing written to goals for 3 steps"
    )


def test_observers_look_at_each_other_whatever_their_names():
    specs = {
        # in the order of names each would look at the percept before
        "a_since": {"type": "since", "params": {"when": "b_delta.lost"}},
        "b_delta": {"type": "delta", "params": {"path": "c_status.hp"}},
        "c_status": {
            "type": "status",
            "bands": [{"when": "d_vit.low", "text": "low: {d_vit.text}"}],
        },
        "d_vit": {"type": "vitals", "params": {"paths": {"hp": "c_status.hp"}}},
        "e_since": {"type": "since", "params": {"when": "c_status.text has low"}},
    }
    assert validate(template_with(**specs)) == []
    percepts = [percept(hp=9, max_hp=9), percept(hp=3, max_hp=9), percept(hp=3, max_hp=9)]
    assert watch(specs, percepts, "a_since.steps", "c_status.text", "e_since.times") == [
        (-1, "", 0),
        (0, "low: hp 3 (low)", 1),
        (1, "low: hp 3 (low)", 2),
    ]


def test_rings_are_found():
    def since(path):
        return {"type": "since", "params": {"when": path}}

    specs = {"a": since("b.ever"), "b": since("c.ever"), "c": since("a.ever")}
    assert update_order(template_with(**specs).observers)[1] == [["a", "b", "c", "a"]]
    problems = {p.place: p for p in validate(template_with(**specs))}
    assert "a -> b -> c -> a" in problems["observers.a"].message
    own = {"s": {"type": "status", "bands": [{"when": True, "text": "{s.text}!"}]}}
    assert [p.place for p in validate(template_with(**own))] == ["observers.s.text"]


def test_outputs_are_worked_out_once_a_percept_and_only_when_asked(monkeypatch):
    calls = []

    class Spy:
        OUTPUTS = ("value",)
        PARAMS = ()

        def update(self, percept):
            calls.append("update")

        def outputs(self):
            calls.append("outputs")
            return {"value": 1}

    monkeypatch.setitem(observers.OBSERVERS, "spy", Spy)
    scope = scope_of(s={"type": "spy"})
    scope.update(percept())
    assert calls == ["update"]
    assert scope.resolve("s.value") == scope.resolve("s.value") == 1
    assert calls == ["update", "outputs"]
    with pytest.raises(KeyError, match="no 'valeu' here; there is value"):
        scope.resolve("s.valeu")
    with pytest.raises(KeyError, match="no observer 't'; observers: s"):
        scope.resolve("t.value")


@pytest.mark.parametrize(
    "condition,wanted",
    [
        ("percept.names has zombie", True),
        ("percept.names has zomb", False),
        ("percept.bag has wood", True),
        ("percept.message has YOU SEE", True),
        ("percept.digits has 3", True),
        ("percept.step has 3", False),
        ("percept.nothing has x", False),
        ({"compare": ["percept.names", "has", "cow"]}, True),
        ({"not": "percept.names has cow"}, False),
        ({"in": ["percept.message", ["a", "You see here."]]}, True),
    ],
)
def test_has_and_in(condition, wanted):
    fields = {"names": ("zombie", "cow"), "bag": {"wood": 0}, "message": "You see here."}
    specs = {"s": {"type": "since", "params": {"when": condition}}}
    assert validate(template_with(**specs)) == []
    assert watch(specs, [percept(digits=("3",), **fields)], "s.ever") == [(wanted,)]


PROBLEMS = [
    ({"type": "delta"}, "params", "lacks 'path'"),
    ({"type": "delta", "params": {"path": 3}}, "params.path", "no path"),
    ({"type": "delta", "params": {"path": "s.hq"}}, "params.path", "has no 'hq'"),
    ({"type": "events", "params": {"path": "s.hp"}}, "params.path", "no percept path"),
    ({"type": "since", "params": {"when": "a +"}}, "params.when", "no condition"),
    ({"type": "since", "params": {"when": "t.x > 1"}}, "params.when", "leads nowhere"),
    ({"type": "since", "params": {"when": "s.hp.x"}}, "params.when", "has no 'hp.x'"),
    ({"type": "vitals", "params": {"paths": ["percept.hp"]}}, "params.paths", "no mapping"),
    ({"type": "vitals", "params": {"paths": {"hp": "s.h"}}}, "params.paths.hp", "has no 'h'"),
    ({"type": "vitals", "params": {"paths": {}, "low": "x"}}, "params.low", "no number"),
    ({"type": "advisor", "params": {"rules": "x"}}, "params.rules", "no list"),
    ({"type": "advisor", "params": {"rules": [{"when": True}]}}, "params.rules[0]", "no rule"),
    (
        {"type": "advisor", "params": {"rules": [{"when": "q.x", "say": "{s.nix}"}]}},
        "params.rules[0].say",
        "has no 'nix'",
    ),
    ({"type": "advisor", "params": {"rules": [], "most": 0}}, "params.most", "no count"),
    ({"type": "action_window", "params": {"size": True}}, "params.size", "no count"),
    ({"type": "action_window", "params": {"sise": 3}}, "params", "'size'"),
    ({"type": "file_health", "params": {"stale_steps": -1}}, "params.stale_steps", "no count"),
    ({"type": "pose", "params": {"actions": {"Go": "up"}}}, "params.actions.Go", "compass"),
    ({"type": "goal_nav", "params": {"goals": "stairs"}}, "params.goals", "no list"),
    ({"type": "glyph_map", "params": {"radius": 1.5}}, "params.radius", "no count"),
]


@pytest.mark.parametrize("spec,place,wanted", PROBLEMS)
def test_every_problem_of_an_observer_has_its_place_and_mend(spec, place, wanted):
    problems = validate(template_with(x=spec, s={"type": "status"}))
    found = [p for p in problems if p.place == f"observers.x.{place}"]
    assert found and all(p.remedy for p in problems)
    assert any(wanted in str(p) for p in found), found


def test_every_type_has_outputs_and_is_documented():
    for name, cls in OBSERVERS.items():
        assert cls.__doc__, name
        assert len(set(cls.OUTPUTS)) == len(cls.OUTPUTS) > 0, name
        assert set(getattr(cls, "MAPPINGS", ())) <= set(cls.OUTPUTS), name


def test_a_mapping_output_is_a_path_on():
    specs = {
        "inv": {"type": "inventory"},
        "s": {"type": "since", "params": {"when": "inv.items.a"}},
    }
    assert validate(template_with(**specs)) == []
    assert watch(specs, [percept(items=(("a", "an axe"),)), percept(items=())], "s.steps") == [
        (0,),
        (1,),
    ]


def test_the_cost_of_a_step_does_not_grow():
    specs = {
        "inv": {"type": "inventory"},
        "bag": {"type": "delta", "params": {"path": "percept.inventory"}},
        "w": {"type": "action_window"},
        "s": {"type": "since", "params": {"when": "w.oscillating"}},
        "a": {"type": "advisor", "params": {"rules": [{"when": "inv.items.n99 > 5", "say": "x"}]}},
    }
    scope = scope_of(**specs)
    times = []
    for step in range(3_000):
        one = percept(
            step, ACTIONS[step % 6], f"t{step}", inventory={f"n{i}": i for i in range(16)}
        )
        start = time.process_time()
        scope.update(one)
        scope.resolve("a.advice"), scope.resolve("w.text"), scope.resolve("inv.text")
        times.append(time.process_time() - start)
    early, late = sorted(times[100:400]), sorted(times[-300:])
    assert late[150] < 2 * early[150]
