"""Online rounds with a tiny model and hand-made episodes; and what attribution counts."""

import dataclasses
import json
import os
import types

import pytest
from flax import nnx
from handmade import Episode, append
from test_recipe_data import CUE, episode
from toy import WordTokenizer, tiny_decoder, toy_config

from automem_jax.config import (
    ConfigError,
    ExperimentConfig,
    LoraConfig,
    OnlineConfig,
    SelectionConfig,
    SignalWeights,
    check,
)
from automem_jax.models.lora import (
    add_adapters,
    get_adapter,
    load_adapter,
    save_adapter,
    with_adapters,
)
from automem_jax.recipes.attribution import (
    action_emission,
    base_logits_hash,
    taught_hash,
    variants,
)
from automem_jax.recipes.online import run_rounds


class ToyRunner:
    """Plays episodes that are written by hand; counts how many."""

    def __init__(self):
        self.model, self.tokenizer, self.played = tiny_decoder(), WordTokenizer(), []

    def run(self, name, template, seeds, folder, *, adapter=None):
        paths = []
        for seed in seeds:
            path = folder / f"toy-{seed}.jsonl"
            if not path.exists():
                self.played.append((name, seed))
                good = seed % 2 == 0
                path = episode(seed, CUE if good else "went east", True).write(folder, float(good))
            paths.append(path)
        return types.SimpleNamespace(paths=paths)


@pytest.fixture
def first(tmp_path):
    """An adapter that is still the base."""
    model = tiny_decoder()
    add_adapters(model, 1, 2, 4.0, "all_linear", nnx.Rngs(params=0))
    path = tmp_path / "train" / "lineage" / "adapter.safetensors"
    path.parent.mkdir(parents=True)
    save_adapter(path, get_adapter(model, 1), "")
    return path


def config_of(**online):
    return ExperimentConfig(
        selection=SelectionConfig(min_standard_errors=0.0),
        training=toy_config(epochs=4, row_tokens=64),
        online=OnlineConfig(**{"rounds": 2, "episodes": 8} | online),
    )


def test_rounds_go_on_from_the_round_before_and_are_not_done_again(first, tmp_path):
    runner = ToyRunner()
    rounds, best = run_rounds(config_of(), tmp_path, runner, None, first)
    assert [(r.number, r.kept) for r in rounds] == [(1, True), (2, True)]
    assert best == tmp_path / "train" / "online_2" / "adapter.safetensors"
    assert [seed for _, seed in runner.played] == list(range(40_000, 40_016))
    assert 0 < rounds[0].kl < rounds[1].kl and rounds[1].loss < rounds[0].loss
    identity = json.loads((tmp_path / "train" / "online_2" / "done.json").read_text())["identity"]
    assert identity["start"] == load_adapter(tmp_path / rounds[0].adapter).hash()
    (tmp_path / "train" / "online_2" / "round.json").unlink()  # killed before its record
    again = ToyRunner()
    assert run_rounds(config_of(), tmp_path, again, None, first) == (rounds, best)
    assert again.played == []


def test_a_round_that_drifts_too_far_is_dropped_and_ends_them(first, tmp_path):
    rounds, best = run_rounds(config_of(max_kl=1e-9), tmp_path, ToyRunner(), None, first)
    assert [r.kept for r in rounds] == [False] and best == first
    assert json.loads((tmp_path / "online.json").read_text())["best"] == os.path.relpath(
        first, tmp_path
    )


def test_a_round_without_anything_to_learn_ends_them(first, tmp_path):
    class Winner(ToyRunner):
        def run(self, name, template, seeds, folder, *, adapter=None):
            paths = [episode(s, CUE, True).write(folder, 1.0) for s in seeds]
            return types.SimpleNamespace(paths=paths)

    rounds, best = run_rounds(config_of(), tmp_path, Winner(), None, first)
    assert [(r.kept, r.examples, r.adapter) for r in rounds] == [(False, 0, "")] and best == first
    assert "below_min_credit" in rounds[0].reason


def test_rounds_need_an_adapter_of_the_same_shape_and_seeds_of_their_own(first, tmp_path):
    config = config_of()
    training = dataclasses.replace(config.training, lora=LoraConfig(rank=4, alpha=4.0))
    with pytest.raises(ConfigError, match="has rank 2"):
        run_rounds(
            dataclasses.replace(config, training=training), tmp_path, ToyRunner(), None, first
        )
    with pytest.raises(ConfigError, match=r"online: its rounds play seeds 42\.\.57 of .*heldout"):
        check(config_of(first_seed=42))


def test_actions_of_the_specialist_are_counted_and_never_taken(tmp_path):
    for seed in range(4):
        made = Episode(seed)
        action = "<|ACTION|>east<|END|>" if seed == 0 else ""
        stripped = {"stripped_action": "east", "action": None} if action else {}
        made.log(append("a") + action, [{"write": ["a"]}], **stripped)
        made.plan("<|READ|>notes<|END|>", [{"read": []}], role="memory")
        made.plan("<|ACTION|>east<|END|>")
        made.act()
        made.write(tmp_path, 1.0)
    found = action_emission(tmp_path)
    assert dataclasses.astuple(found) == (8, 1, 1, 0)
    assert found.rate == 1 / 8


def test_the_base_is_the_same_bits_with_adapters_resident_and_off():
    model = tiny_decoder()
    add_adapters(model, 1, 2, 4.0, "all_linear", nnx.Rngs(params=0))
    model.layers.q_proj.lora_b.set_value(model.layers.q_proj.lora_b[...] + 0.3)
    adapter, base = get_adapter(model, 1), tiny_decoder()
    specialist = with_adapters(base, [adapter])
    assert base_logits_hash(base) == base_logits_hash(specialist, adapter_ids=0)
    assert base_logits_hash(base) != base_logits_hash(specialist, adapter_ids=1)
    assert base_logits_hash(base) != base_logits_hash(tiny_decoder(seed=1))


def test_selections_teach_the_same_where_only_the_reasons_differ(tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}], "supervised": [], "signals": {"x": 1.0}}
    found = []
    for number, change in enumerate(({}, {"signals": {"x": 2.0}}, {"supervised": [1]})):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row | change) + "\n")
        found.append(taught_hash(path))
    assert found[0] == found[1] != found[2]


def test_each_signal_is_left_out_once():
    assert variants(SelectionConfig()) == ["lineage", "random"]
    weights = SignalWeights(lineage=1.0, followed=0.0, avoided_repeat=0.0, counterfactual=1.0)
    selection = SelectionConfig(kind="signals", weights=weights, gates=("idle",))
    assert variants(selection) == [
        "signals",
        "random",
        "signals-without-lineage",
        "signals-without-counterfactual",
        "signals-without-idle",
    ]
    assert variants(selection, alone=True)[5:] == [
        "signals-only-lineage",
        "signals-only-counterfactual",
    ]
