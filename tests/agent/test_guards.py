"""Guards: what each sends back, in which words, what it lets through, and what a template may say."""

import pytest

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.guards import GUARDS, objection
from automem_jax.agent.observers import percept_paths
from automem_jax.agent.template import GuardSpec, from_data, load_template, to_data
from automem_jax.agent.validate import validate
from automem_jax.config import ConfigError
from automem_jax.testing import ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings

NETHACK = ("north", "east", "far east", "northeast", "search", "down", "esc", "more", "y", "n", "q")
CRAFTER = ("Noop", "Move East", "Do", "Sleep", "Place Table", "Make Wood Pickaxe")


def reason(guard, action, values=None, legal=NETHACK, previous=None, written=""):
    values = values or {}

    def resolve(path):
        return values[path]  # KeyError where there is none, like Scope

    return objection([guard], written or action or "?", action, legal, previous, resolve)


def guard(kind, text="", when=True, **params):
    return GuardSpec(kind, params, text, when)


def test_in_vocabulary():
    told = reason(guard("in_vocabulary"), None, written="x" * 99, legal=("north", "search"))
    assert told == f"'{'x' * 40}…' is no action; actions: north, search"
    assert reason(guard("in_vocabulary"), "north") is None


@pytest.mark.parametrize(
    "action,previous,run,stopped",
    [
        ("search", "search", 4, True),
        ("search", "search", 3, False),
        ("search", "north", 9, False),
        (None, None, 9, False),
    ],
)
def test_max_run(action, previous, run, stopped):
    told = reason(
        guard("max_run", limit=3, observer="diff"),
        action,
        {"diff.run_length": run},
        previous=previous,
    )
    assert told == (
        "search changed nothing 3 times in a row; choose another action" if stopped else None
    )


def test_materials_names_what_is_missing():
    needs = {"Make Wood Pickaxe": {"inv.items.wood": 1, "near.table": 1}}
    check = guard("materials", needs=needs)
    assert reason(check, "Make Wood Pickaxe", {"inv.items.wood": 0}, CRAFTER) == (
        "Make Wood Pickaxe needs wood 1 (there is 0), near table 1"
    )
    assert reason(check, "Make Wood Pickaxe", {"inv.items.wood": 3, "near.table": 1}) is None
    assert reason(check, "Do", {}, CRAFTER) is None
    assert reason(check, None) is None


MAP = {
    "map.hazards": ("east",),
    "map.passable": ("north", "east"),
    "map.blocked": ("northeast",),
    "map.adjacent": {"east": "lava", "north": "floor", "northeast": "wall", "south": "goblin"},
}


def test_near_hazard_knows_moves_by_name_and_by_params():
    check = guard("near_hazard", observer="map")
    assert reason(check, "east", MAP) == "east leads into lava"
    assert reason(check, "far east", MAP) == "far east leads into lava"
    assert reason(check, "Move East", MAP, CRAFTER) == "Move East leads into lava"
    assert reason(check, "north", MAP) is None
    assert reason(check, "search", MAP) is None
    assert reason(check, "jump", MAP) is None
    assert reason(guard("near_hazard", observer="map", moves={"jump": "east"}), "jump", MAP)
    assert reason(check, "east", MAP | {"percept.prompt": "choice"}) is None, "an answer, no move"


def test_blocked_move():
    check = guard("blocked_move", observer="map")
    told = reason(check, "northeast", MAP)
    assert told == "northeast is blocked (northeast: wall); free directions: north, east"
    assert reason(check, "north", MAP) is None
    assert reason(check, "south", MAP) is None, "a goblin can be fought"
    assert reason(check, "Move West", MAP) is None, "nothing is known of that cell"
    assert reason(check, "northeast", MAP | {"percept.prompt": "choice"}) is None


def asks(kind, question="", options=()):
    return {"ask.kind": kind, "ask.question": question, "ask.options": options}


def test_prompt_reply():
    check = guard("prompt_reply", observer="ask", allowed=("search",))
    eat = asks("choice", "Eat it? [ynq]", ("y", "n", "q"))
    assert reason(check, "north", eat) == (
        "the game asks: Eat it? [ynq] north is no answer; answer with one of: y, n, q"
    )
    for action in ("y", "q", "esc", "search"):
        assert reason(check, action, eat) is None, action
    assert reason(check, "north", asks("")) is None
    more = asks("more")
    assert reason(check, "more", more) is None
    assert reason(check, "north", more).endswith("answer with one of: more, esc")
    where = asks("choice", "In what direction?", ("north", "east"))
    assert reason(check, "down", where) is None, "down is a direction, too"
    assert reason(check, "far east", where) is not None
    assert reason(check, "y", asks("text", "Call it:")) is None
    assert reason(check, "north", asks("text", "Call it:")).endswith("one of: esc, more, y, n, q")
    assert reason(check, "north", asks("choice", "Which?", ("z",))) is None, "nothing legal fits"


def test_facing_by_view_and_by_path():
    view = tuple(tuple("grass" for _ in range(7)) for _ in range(9))
    east_of_player = {"percept.view": (*view[:5], ("tree",) * 7, *view[6:])}
    check = guard("facing", needs={"Do": ["tree", "stone"], "Place Table": ["grass", "sand"]})
    east = east_of_player | {"percept.facing": (1, 0)}
    assert reason(check, "Do", east, CRAFTER) is None
    assert reason(check, "Place Table", east, CRAFTER) == (
        "Place Table works on grass or sand; in front is tree"
    )
    west = east_of_player | {"percept.facing": (-1, 0)}
    assert reason(check, "Do", west, CRAFTER) == "Do works on tree or stone; in front is grass"
    assert reason(check, "Noop", west, CRAFTER) is None
    assert reason(check, "Do", {}, CRAFTER) is None, "no view: no objection"
    by_path = guard("facing", needs={"Do": ["Iron Ore"]}, path="e.nearest")
    assert reason(by_path, "Do", {"e.nearest": "iron_ore"}, CRAFTER) is None
    assert reason(by_path, "Do", {"e.nearest": ""}, CRAFTER).endswith("in front is nothing")


def test_refuse_when_and_own_text():
    text = "{action} with {e.within} around? {reason}; {nowhere}"
    check = guard("refuse", text, "e.within > 0", actions=("Sleep",))
    assert reason(check, "Sleep", {"e.within": 2}, CRAFTER) == (
        "Sleep with 2 around? not Sleep now; {nowhere}"
    )
    assert reason(check, "Sleep", {"e.within": 0}, CRAFTER) is None
    assert reason(check, "Do", {"e.within": 2}, CRAFTER) is None


def test_braces_in_what_the_model_wrote_are_plain_text():
    check = guard("in_vocabulary", "{reason} {action}")
    assert reason(check, None, written="{reason}", legal=("a",)) == (
        "'{reason}' is no action; actions: a {reason}"
    )


def test_what_a_guard_reads_is_named():
    needs = {"Do": {"percept.inventory.wood": 1, "inv.count": 2}}
    assert percept_paths(guard("materials", needs=needs)) == ["percept.inventory.wood", "inv.count"]
    assert percept_paths(guard("facing", needs={"Do": ["x"]}, path="percept.x")) == ["percept.x"]


def test_the_first_objection_counts():
    guards = [
        guard("refuse", "no", actions=("east",), when=False),
        guard("near_hazard", observer="map"),
        guard("refuse", "never", actions=("east",)),
    ]
    assert objection(guards, "east", "east", NETHACK, None, MAP.__getitem__) == (
        "east leads into lava"
    )


def with_guard(**edited):
    data = to_data(load_template("memento_v0"))
    data["actions"]["fallback"] = "wait"
    data["observers"] = {
        "map": {"type": "glyph_map"},
        "ask": {"type": "game_prompt"},
        "diff": {"type": "obs_diff", "params": {"paths": ["percept.long_text"]}},
    }
    data["phases"]["plan"]["guards"] = [edited]
    return from_data(data)


PROBLEMS = [
    ({"type": "near_hazard", "params": {"observer": "ask"}}, "params.observer", "hazards"),
    ({"type": "blocked_move", "params": {"observer": "diff"}}, "params.observer", "glyph_map"),
    ({"type": "prompt_reply", "params": {"observer": "map"}}, "params.observer", "kind"),
    ({"type": "max_run", "params": {"limit": 1, "observer": "ask"}}, "params.observer", "obs_diff"),
    ({"type": "max_run", "params": {"limit": 1, "observer": 3}}, "params.observer", "no '3'"),
    ({"type": "max_run", "params": {"limit": 0, "observer": "diff"}}, "params.limit", "no count"),
    ({"type": "max_run", "params": {"limit": 2}}, "params", "lacks 'observer'"),
    ({"type": "refuse"}, "params", "lacks 'actions'"),
    ({"type": "refuse", "params": {"actions": "Sleep"}}, "params.actions", "no list"),
    ({"type": "facing", "params": {"needs": {"Do": "tree"}}}, "params.needs.Do", "no list"),
    (
        {"type": "facing", "params": {"needs": {}, "path": "map.ahead"}},
        "params.path",
        "has no 'ahead'",
    ),
    (
        {"type": "near_hazard", "params": {"observer": "map", "moves": {"Jump": "up"}}},
        "params.moves.Jump",
        "no compass word",
    ),
    ({"type": "materials", "params": {"needs": {"Do": {"ask.x": 1}}}}, "params.needs.Do", "no 'x'"),
    ({"type": "in_vocabulary", "params": {"limit": 1}}, "params", "'limit'"),
    ({"type": "in_vocabulary", "text": "{ask.x}"}, "text", "has no 'x'"),
    ({"type": "in_vocabulary", "when": "ask.x"}, "when", "has no 'x'"),
]


@pytest.mark.parametrize("edited,place,wanted", PROBLEMS)
def test_every_problem_of_a_guard_has_its_place_and_mend(edited, place, wanted):
    problems = validate(with_guard(**edited))
    found = [p for p in problems if p.place == f"phases.plan.guards[0].{place}"]
    assert found and all(p.remedy for p in problems)
    assert any(wanted in str(p) for p in found), found


def test_good_guards_validate():
    assert set(GUARDS) == {
        "in_vocabulary",
        "max_run",
        "materials",
        "near_hazard",
        "blocked_move",
        "prompt_reply",
        "facing",
        "refuse",
    }
    for kind, params in {
        "in_vocabulary": {},
        "max_run": {"limit": 2, "observer": "diff"},
        "materials": {"needs": {"Do": {"percept.inventory.wood": 1}}},
        "near_hazard": {"observer": "map", "moves": {"Jump": "north"}},
        "blocked_move": {"observer": "map"},
        "prompt_reply": {"observer": "ask", "allowed": ["esc"]},
        "facing": {"needs": {"Do": ["tree"]}, "path": "percept.ahead"},
        "refuse": {"actions": ["Sleep"]},
    }.items():
        assert validate(with_guard(type=kind, params=params, text="{action}: {reason}")) == [], kind


def test_a_guard_gives_in_after_max_rejections():
    data = to_data(with_guard(type="refuse", params={"actions": ["wait"]}, text="do not {action}"))
    data["observers"] = {}
    data["phases"]["plan"] |= {"max_rejections": 2, "max_turns": 5}
    agent = Agent(from_data(data), SamplingSettings(), episode=0, two_model=False, instructions="")
    out, asked = agent.observe(ToyEnv().reset([0], [0])[0]), 0
    while not isinstance(out, Decision):
        asked += 1
        out = agent.receive(Completion("<|ACTION|>wait<|END|>"))
    assert (asked, out.action, out.record["action_source"]) == (3, "wait", "model")
    errors = [turn["errors"] for turn in out.record["phases"][-1]["turns"]]
    assert errors == [["do not wait"], ["do not wait"], []]


def test_a_guards_percept_path_is_looked_for_at_the_first_percept():
    data = to_data(load_template("memento_v0"))
    needs = {"forward": {"percept.inventory.wood": 1}}
    data["phases"]["plan"]["guards"] = [{"type": "materials", "params": {"needs": needs}}]
    agent = Agent(from_data(data), SamplingSettings(), episode=0, two_model=False, instructions="")
    with pytest.raises(ConfigError, match=r"guards\[0\]\.params: percept\.inventory\.wood: no"):
        agent.observe(ToyEnv().reset([0], [0])[0])
