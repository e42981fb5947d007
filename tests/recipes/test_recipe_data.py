"""What recipes are trained on: pairs from traces, and the check of what was selected."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from handmade import READ, Episode, append
from toy_search import make_config

from automem_jax.config import CounterfactualConfig, SelectionConfig
from automem_jax.evaluation.attribution import only
from automem_jax.recipes.constraints import ConstraintError, check_examples, data_seeds
from automem_jax.recipes.preferences import write_pairs
from automem_jax.recipes.proposers import SearchContext, neighbours
from automem_jax.recipes.recipe import own_recipe, recipe_from_data, recipe_hash, recipe_to_data
from automem_jax.recipes.workshop import validation_seeds
from automem_jax.selection import load_examples, select
from automem_jax.selection.by_signals import text_hash

CUE = "the door is red"


def episode(seed, note, consult):
    """Notes at step 1, consults at step 2; every episode sees the same prompts."""
    made = Episode(seed)
    made.plan("<|ACTION|>east<|END|>")
    made.act()
    ids = made.log(append(note) + "<|DONE|>", [{"write": [note]}])
    made.plan("<|ACTION|>east<|END|>")
    made.act()
    if consult:
        made.plan(READ + "<|ACTION|>north<|END|>", [{"read": ids}])
    made.plan("<|ACTION|>north<|END|>")
    made.act()
    return made


@pytest.fixture
def chosen(tmp_path):
    paths = []
    for seed in range(300, 316):
        good = seed % 2 == 0
        note = CUE if good else f"went {'far ' * (seed % 3)}east"
        paths.append(episode(seed, note, True).write(tmp_path / "traces", float(good)))
    config = SelectionConfig(min_standard_errors=0.0)
    report = select(paths, config, tmp_path / "select")
    return paths, report


def read_pairs(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_kept_decision_is_held_against_a_dropped_one_at_its_prompt(chosen, tmp_path):
    paths, report = chosen
    count = write_pairs(report.examples, paths, tmp_path / "pairs.jsonl")
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    logs = [e for e in load_examples(report.examples) if e["phase"] == "log"]
    assert (
        len(pairs) == count == len(logs) == 8
    )  # reads are kept everywhere: nothing to hold against
    assert [p["provenance"] for p in pairs] == [e["provenance"] for e in logs]
    assert {p["chosen"]["text"] for p in pairs} == {append(CUE)}
    # Seeds 301, 303, ... wrote so; each of them stands once, the commonest mistake most often.
    assert Counter(p["rejected"]["text"] for p in pairs) == Counter(
        append(f"went {'far ' * (seed % 3)}east") for seed in range(301, 316, 2)
    )
    for pair in pairs:
        assert pair["messages"][-1] == {"role": "user", "content": "log of step 1"}
        end = len(pair["rejected"]["text"])
        assert pair["rejected"]["supervised"] == [{"start": 0, "end": end}]  # DONE is gone
    assert write_pairs(report.examples, paths, tmp_path / "more.jsonl", rejected=3) == 24
    assert write_pairs(report.examples, paths[::2], tmp_path / "none.jsonl") == 0


def test_what_did_worse_when_asked_again_is_held_against_the_kept(chosen, tmp_path):
    paths, report = chosen
    points = [
        {"episode": path.stem, "t": 1, "phase": "log", "turn": 0, "alteration": "resample"}
        for path in paths[::2]
    ]
    said = ["it rains<|DONE|>", append("it rains") + "<|DONE|>", append(CUE), append("it snows")]
    rows = [
        point
        | {"sha256": text_hash(append(CUE) + "<|DONE|>"), "answers": said * 4}
        | {"as_was": [1.0] * 16, "altered": [0.0, 0.0, 0.0, 1.0] * 4}
        for point in points
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [{"type": "header"}, *rows]))
    config = SelectionConfig(
        kind="signals",
        weights=only(SelectionConfig(), "counterfactual").weights,
        counterfactual=CounterfactualConfig(alteration="resample"),
    )
    report = select(paths, config, tmp_path / "measured", counterfactual=table)
    assert report.count == 8
    count = write_pairs(report.examples, paths, tmp_path / "pairs.jsonl")
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    assert count == 8 and {p["chosen"]["text"] for p in pairs} == {append(CUE)}
    assert {p["rejected"]["text"] for p in pairs} == {append("it rains")}
    assert pairs[0]["rejected"]["supervised"] == [{"start": 0, "end": len(append("it rains"))}]


def test_what_was_selected_is_checked_again(chosen, tmp_path):
    _, report = chosen
    config, path = make_config(), tmp_path / "select" / "examples.jsonl"
    assert check_examples(path, range(300, 316), config) == report.count
    with pytest.raises(ConstraintError, match="constraint evaluation_seeds: .*seed 300 is none"):
        check_examples(path, range(301, 316), config)
    seeds = dataclasses.replace(config.seeds, heldout_start=310)
    with pytest.raises(ConstraintError, match=r"evaluation_seeds: .*seed 310 .*seeds\.heldout"):
        check_examples(path, range(300, 316), dataclasses.replace(config, seeds=seeds))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["messages"][-1]["content"] += "<|ACTION|>east<|END|>"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConstraintError, match="constraint clean_up: .*messages differ"):
        check_examples(path, range(300, 316), config)


def test_recipes_round_trip_and_own_fields_fill_what_is_left_out():
    config = make_config()
    recipe = own_recipe(config)
    assert recipe_from_data(json.loads(json.dumps(recipe_to_data(recipe))), config) == recipe
    short = recipe_from_data({"name": "own", "training": {"lora": {"rank": 3}}}, config)
    assert short.training.lora.rank == 3 and short.training.lora.alpha == 32.0
    assert short.data == recipe.data
    assert list(data_seeds(recipe, config)) == list(range(300, 320))
    fresh = recipe_from_data({"name": "n", "data": {"source": "regenerate"}}, config)
    assert list(data_seeds(fresh, config)) == list(range(50_000, 50_020))
    part = recipe_from_data({"name": "n", "data": {"first_seed": 305, "episodes": 5}}, config)
    assert list(data_seeds(part, config)) == list(range(305, 310))


def test_validation_episodes_are_some_of_the_collected_and_always_the_same():
    config = make_config(validation_share=0.25)
    seeds = validation_seeds(config)
    assert len(seeds) == 5 and set(seeds) < set(range(300, 320))
    assert seeds == validation_seeds(config)
    assert seeds != validation_seeds(dataclasses.replace(config, seed=1))


@pytest.mark.parametrize(
    ("kind", "signal", "least"),
    [("lineage", "credit", "min_credit"), ("signals", "score", "min_score")],
)
def test_steps_from_a_recipe_change_what_its_selection_goes_by(kind, signal, least):
    config = make_config()
    config = dataclasses.replace(config, selection=dataclasses.replace(config.selection, kind=kind))
    own = own_recipe(config)
    context = SearchContext(config, 2, 99, own, frozenset(), [], Path())
    found = neighbours(context)
    assert {r.training.weight_signal for r in found} == {signal, own.training.weight_signal}
    values = {getattr(r.data.selection, least) for r in found}
    assert values == {0.05, 0.1, 0.2}
    assert all(recipe_hash(r) != recipe_hash(own) for r in found)
