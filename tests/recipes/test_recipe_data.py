"""What recipes are trained on: pairs from traces, and the check of what was selected."""

import dataclasses
import json

import pytest
from handmade import READ, Episode, append
from toy_search import make_config

from automem_jax.config import SelectionConfig
from automem_jax.recipes.constraints import ConstraintError, check_examples, data_seeds
from automem_jax.recipes.preferences import write_pairs
from automem_jax.recipes.recipe import own_recipe, recipe_from_data, recipe_to_data
from automem_jax.recipes.workshop import validation_seeds
from automem_jax.selection import select

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


def test_pairs_are_kept_against_dropped_at_the_same_prompt(chosen, tmp_path):
    paths, report = chosen
    count = write_pairs(report.examples, paths, tmp_path / "pairs.jsonl")
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == count == 3
    assert {p["chosen"]["text"] for p in pairs} == {append(CUE)}
    assert [p["times_dropped"] for p in pairs] == sorted(
        (p["times_dropped"] for p in pairs), reverse=True
    )
    assert {p["rejected"]["text"] for p in pairs} == {
        append(f"went {'far ' * n}east") for n in range(3)
    }
    for pair in pairs:
        assert pair["messages"][-1] == {"role": "user", "content": "log of step 1"}
        end = len(pair["rejected"]["text"])
        assert pair["rejected"]["supervised"] == [{"start": 0, "end": end}]  # DONE is gone
    assert write_pairs(report.examples, paths, tmp_path / "few.jsonl", rejected_per_answer=1) == 1
    assert write_pairs(report.examples, paths[::2], tmp_path / "none.jsonl") == 0


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
