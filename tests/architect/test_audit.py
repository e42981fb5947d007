"""The leakage audit: answers to single episodes are found, general advice is not."""

import copy

import pytest
from toy_traces import insert, step, write_episode

from automem_jax.agent.template import from_data, load_template, to_data
from automem_jax.architect.audit import LeakageAudit

TEMPLATE = load_template("memento_v0")
SEEDS = {"search": range(10_000, 10_008), "gate": range(20_000, 20_008), "heldout": range(42, 50)}
ROW = "|....<.......#####...>..{..|"
NOTE = "the silver key lies under the third boulder from the left wall"
MOVES = ["north", "east", "east", "south", "west", "west", "north", "north"]


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """Eight search and eight gate episodes; gate seed 20003 has things of its own."""
    folder = tmp_path_factory.mktemp("traces")
    paths = []
    for seed in (*SEEDS["search"], *SEEDS["gate"]):
        own = seed == 20_003
        same = "You are in a hall of stone with two doors; the start is at (2, 3)."
        texts = [same, f"Turn {seed % 7}. You hear the splashing of a fountain."]
        if own:
            texts += [f"{NOTE}, beyond the stairs at (61, 7)", f"-----\n{ROW}\n-----"]
        actions = MOVES if own else ["north", "south"] * 4
        steps = [
            step(texts[min(t, len(texts) - 1)], action=action) for t, action in enumerate(actions)
        ]
        if own:
            memory = [{"op": "create", "file": "notes"}]
            memory.append(
                insert("notes", (0, "opened the north gate with the rusty lever at row 4"))
            )
            steps[1]["memory"] = memory
        paths.append(write_episode(folder, seed, steps))
    return LeakageAudit(paths, SEEDS)


def saying(text, place=("text", "advice")):
    data = copy.deepcopy(to_data(TEMPLATE))
    at = data
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = text
    return from_data(data)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"Remember: {NOTE}.", "text"),
        ("Note that THE SILVER KEY lies under the third boulder from the left!", "text"),
        ("opened the north gate with the rusty lever at row", "text"),
        (f"The map is\n{ROW}\n", "text"),
        ("The stairs are at (61, 7).", "coordinates"),
        ("Stairs: x=61, y=7", "coordinates"),
        ("In this game the exit is at (12, 40).", "coordinates"),
        ("Write it as e.g. level|(61, 7)|stairs", "coordinates"),
        ("If the seed is 42, take the north arm.", "seed"),
        ("In episode 20003 go north.", "seed"),
        ("10003: north; 10004: south", "seed"),
        ("Walk north, east, east, then south, west, west and north.", "actions"),
        ("north->east->east->south->west->west->north->north", "actions"),
    ],
)
def test_answers_are_found(audit, text, kind):
    found = audit.findings(saying(text), TEMPLATE)
    assert kind in {finding.kind for finding in found}, found
    assert all(finding.place == "text.advice" for finding in found)


@pytest.mark.parametrize(
    "text",
    [
        "Write down what the first room shows; read it before you choose a side at the fork.",
        "You are in a hall of stone with two doors; the start is at (2, 3).",  # all say it
        "Note each place as level, x, y: UPSERT map|1,12,5|stairs down.",
        "Keep 3, 5 or 10 lines; at most 10000 characters, 20000 in all.",
        "Use coordinates such as (10, 4) for places.",
        "Moves: north, south, east, west, northeast, northwest, southeast, southwest, wait.",
        "Search 10 times, then go back. After 42 steps read your notes again.",
        "You hear the splashing of a fountain: note where.",
        "| operation | file | text |\n|-----------|------|------|",
        "",
    ],
)
def test_general_advice_is_none(audit, text):
    assert audit.findings(saying(text), TEMPLATE) == []


def test_what_the_parent_says_already_is_none(audit):
    parent = saying(f"{NOTE} at (61, 7); seed 42")
    assert audit.findings(parent, parent) == []
    more = to_data(parent)
    more["text"]["other"] = "Read before you act."
    assert audit.findings(from_data(more), parent) == []


@pytest.mark.parametrize(
    "condition",
    [
        {"all": ["pose.x == 61", "pose.y == 7"]},
        {"all": [{"compare": ["pose.x", "==", 61]}, {"compare": ["pose.y", "==", 7]}]},
        "percept.long_text has seed 20003",
    ],
)
def test_conditions_are_audited_too(audit, condition):
    data = to_data(TEMPLATE)
    data["phases"]["log"]["when"] = condition
    assert audit.findings(from_data(data), TEMPLATE) != []


def test_real_templates_hold_no_answers_of_these_episodes(audit):
    for name in ("crafter_v5", "nethack_v2", "minihack_v4"):
        assert audit.findings(load_template(name), TEMPLATE) == [], name
