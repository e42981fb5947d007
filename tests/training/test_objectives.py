"""Every objective against a reference written out by hand, item by item, without packing."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from toy import WordTokenizer, example, tiny_decoder, toy_config, toy_examples, write_examples

from automem_jax.models.lora import add_adapters, load_adapter
from automem_jax.training.data import DataError, batches_of, plan_rows
from automem_jax.training.loop import TrainingError, train
from automem_jax.training.objective_data import load_for, load_pairs, packer_of
from automem_jax.training.objectives import Objective, label_scores, objective_of
from automem_jax.training.pairs import Pair, pack_pairs, trained_tokens
from automem_jax.training.step import initial_state, make_train_step, partition
from automem_jax.training.weighting import example_weight

HERE = Path(__file__).parent


def toy_pairs(count=8):
    colours = ["red", "blue", "green"]
    pairs = []
    for i in range(count):
        seen, other = colours[i % 3], colours[(i + 1) % 3]
        prompt = [
            {"role": "system", "content": "play"},
            {"role": "user", "content": f"see {seen} door {'far ' * (i % 4)}now"},
        ]
        pairs.append(
            {
                "messages": prompt,
                "chosen": {"text": f"note {seen} door"},
                "rejected": {"text": f"note {other} {'maybe ' * (i % 2)}door"},
                "weight": 1.0 + i % 2,
                "provenance": {"trace": f"e{i}.jsonl", "t": i, "phase": "log", "turn": 0},
            }
        )
    return pairs


def weighted_examples(count=8):
    examples = toy_examples(count)
    for i, one in enumerate(examples):
        one["signals"] = {"credit": [0.0, 0.4, 1.0, -0.2][i % 4], "note": "text"}
    return examples


@pytest.fixture(scope="module")
def model():
    """A tiny decoder whose adapter already differs from the base."""
    model = tiny_decoder()
    add_adapters(model, 1, 2, 4.0, "all_linear", nnx.Rngs(params=1))
    lora_b = model.layers.q_proj.lora_b
    lora_b.set_value(0.3 * jax.random.normal(jax.random.key(3), lora_b.shape))
    lora_b = model.layers.down_proj.lora_b
    lora_b.set_value(0.2 * jax.random.normal(jax.random.key(4), lora_b.shape))
    return model


def reference_loss(params, parts, items, config):
    """The configuration's loss over all items, from its definition: each in a row of its own, with all
    logits of both models."""
    sides = [s for i in items for s in ((i.chosen, i.rejected) if isinstance(i, Pair) else (i,))]
    longest = max(map(len, sides))
    ids = jnp.stack([jnp.pad(jnp.asarray(s.ids), (0, longest - len(s))) for s in sides])
    weights = jnp.stack([jnp.pad(jnp.asarray(s.weights), (0, longest - len(s))) for s in sides])
    weights = weights[:, 1:]
    model = parts.model(params, parts.trained, parts.frozen)
    logs = []
    for adapter in (1, 0):
        hidden, _ = model.hidden(ids, adapter_ids=adapter)
        logs.append(jax.nn.log_softmax(model.unembed(hidden)[:, :-1].astype(jnp.float32)))
    logs[1] = jax.lax.stop_gradient(logs[1])
    score, base_score = (jnp.take_along_axis(x, ids[:, 1:, None], axis=-1)[..., 0] for x in logs)
    divergence = jnp.sum(jnp.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)
    taught = weights > 0
    if config.objective != "dpo":
        counted = weights if config.objective == "sft" else taught
        total = -jnp.sum(weights * score) + config.kl_weight * jnp.sum(counted * divergence)
        return total / jnp.sum(counted)
    gain = jnp.sum(weights * (score - base_score), axis=1)
    loss = -jnp.log(jax.nn.sigmoid(config.dpo_beta * (gain[0::2] - gain[1::2])))
    drift, count = jnp.sum(taught * divergence, axis=1), jnp.sum(taught, axis=1)
    loss += config.kl_weight * (drift[0::2] + drift[1::2]) / (count[0::2] + count[1::2])
    pair_weights = jnp.array([pair.weight for pair in items])
    return jnp.sum(pair_weights * loss) / jnp.sum(pair_weights)


def load(config, folder):
    lines = toy_pairs() if config.objective == "dpo" else weighted_examples()
    path = write_examples(folder / "lines.jsonl", lines)
    return load_for(config, path, WordTokenizer()).items


OBJECTIVES = {
    "sft with kl": {"kl_weight": 0.7},
    "weighted": {"objective": "weighted_sft", "weight_signal": "credit"},
    "advantage with kl": {
        "objective": "weighted_sft",
        "weight_signal": "credit",
        "weighting": "advantage",
        "kl_weight": 0.5,
    },
    "dpo": {"objective": "dpo", "dpo_beta": 0.6},
    "dpo with kl": {"objective": "dpo", "dpo_beta": 0.6, "kl_weight": 0.4, "loss_chunk": 5},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_definition(name, model, tmp_path):
    config = toy_config(**OBJECTIVES[name], row_tokens=48, batch_rows=4, share_prefix=2)
    items = load(config, tmp_path)
    parts, pack = partition(model), packer_of(config)
    plan = plan_rows(
        items, row_tokens=48, batch_rows=4, epochs=1, seed=0, share_prefix=2, pack=pack
    )
    assert plan.steps == 1 and plan.nested
    batch = batches_of(plan, items, 0, pack=pack)[0]
    step = make_train_step(
        parts,
        optax.sgd(1.0),
        microbatches=2,
        loss_chunk=config.loss_chunk,
        objective=objective_of(config),
    )
    before = jax.tree.map(jnp.copy, parts.params())
    state, figures = step(initial_state(parts, optax.sgd(1.0)), batch)
    found = {path: before[path] - value for path, value in state.params.items()}
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda params: reference_loss(params, parts, items, config))
    )(before)
    np.testing.assert_allclose(figures["loss"], loss, rtol=1e-5)
    assert max(float(jnp.abs(g).max()) for g in gradient.values()) > 1e-3
    for path, value in gradient.items():
        np.testing.assert_allclose(found[path], value, atol=1e-5, err_msg=path)
    assert ("kl" in figures) == (config.kl_weight > 0 or config.objective == "dpo")
    if config.objective == "dpo":
        margin = figures["chosen_reward"] - figures["rejected_reward"]
        np.testing.assert_allclose(figures["margin"], margin, rtol=1e-4, atol=1e-6)
        assert 0 <= figures["accuracy"] <= 1


def test_chunks_change_no_score():
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, base = (jax.random.normal(key, (2, 9, 4)) for key in keys[:2])
    head = jax.random.normal(keys[2], (4, 11))
    at, labels = (jax.random.randint(key, (2, 7), 0, 9) for key in keys[3:])

    def total(hidden, chunk):
        found = label_scores(hidden, base, at, labels, lambda x: x @ head, chunk=chunk)
        return sum(jnp.sum(jnp.sin(x)) for x in found)

    whole = jax.value_and_grad(total)(hidden, 512)
    for chunk in (1, 3):
        parts = jax.value_and_grad(total)(hidden, chunk)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, parts
        )


def test_a_pair_is_two_branches_of_one_trunk(tmp_path):
    path = write_examples(tmp_path / "p.jsonl", toy_pairs(2))
    tokenizer = WordTokenizer()
    pairs = load_pairs(path, tokenizer, loss="last_turn", row_tokens=64).items
    row = pack_pairs(pairs, 64, 0)
    words = tokenizer.decode(row["tokens"]).split()
    assert words.count("play") == 1  # also across pairs
    answers = {}
    for at, label, weight, pair in zip(
        *(row[n] for n in ("predict_at", "labels", "label_weights", "label_pairs")), strict=True
    ):
        answers.setdefault((int(pair), float(weight)), []).append(tokenizer.decode([label]))
        assert at < np.count_nonzero(row["ends"])
    assert answers == {
        (0, 1.0): ["note", "red", "door", "<|end|>"],
        (0, -1.0): ["note", "blue", "door", "<|end|>"],
        (1, 1.0): ["note", "blue", "door", "<|end|>"],
        (1, -1.0): ["note", "green", "maybe", "door", "<|end|>"],
    }
    assert row["pair_weights"][:2].tolist() == [1.0, 2.0] and not row["pair_weights"][2:].any()
    np.testing.assert_allclose(row["label_shares"].sum(), 3.0, rtol=1e-6)
    assert trained_tokens(pairs[0]) == len(pairs[0].chosen) + len(pairs[0].rejected)
    with pytest.raises(ValueError, match="more than the row's 12 tokens"):
        pack_pairs(pairs, 12, 0)


def test_pairs_lose_the_same_earlier_turns(tmp_path):
    long = toy_pairs(1)[0]
    turns = [
        {"role": "user", "content": "one two three four"},
        {"role": "assistant", "content": "five"},
    ]
    long["messages"][1:1] = turns
    path = write_examples(tmp_path / "p.jsonl", [long])
    whole = load_pairs(path, WordTokenizer(), loss="last_turn", row_tokens=64)
    cut = load_pairs(path, WordTokenizer(), loss="last_turn", row_tokens=18)
    assert (whole.shortened, cut.shortened) == (0, 1)
    assert len(whole.items[0].chosen) - len(cut.items[0].chosen) == 9
    assert len(whole.items[0].rejected) - len(cut.items[0].rejected) == 9
    with pytest.raises(DataError, match=r"no pair to train on \(1 longer than 8"):
        load_pairs(path, WordTokenizer(), loss="last_turn", row_tokens=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": {"text": "note red door"}}, r"p.jsonl:1: chosen and rejected are the same"),
        ({"weight": 0}, "must be finite and above 0"),
        ({"rejected": {"text": ""}}, "no character is supervised"),
        ({"rejected": "text"}, r"p.jsonl:1"),
    ],
)
def test_a_useless_pair_is_an_error_that_names_its_line(change, message, tmp_path):
    path = write_examples(tmp_path / "p.jsonl", [toy_pairs(1)[0] | change])
    with pytest.raises(DataError, match=message):
        load_pairs(path, WordTokenizer(), loss="last_turn", row_tokens=64)


def test_memory_operations_alone_are_compared(tmp_path):
    pair = toy_pairs(1)[0]
    pair["chosen"]["supervised"] = [{"start": 5, "end": 8}]
    pair["rejected"]["supervised"] = [{"start": 5, "end": 9}]
    path, tokenizer = write_examples(tmp_path / "p.jsonl", [pair]), WordTokenizer()
    (found,) = load_pairs(path, tokenizer, loss="memory_ops", row_tokens=64).items
    row = pack_pairs([found], 64, 0)
    assert tokenizer.decode(row["labels"]) == "red blue"


def test_equal_weights_are_plain_training(tmp_path):
    """Whatever the common weight is: the mean a supervised token is 1."""
    examples = toy_examples(8)
    for one in examples:
        one["signals"] = {"credit": 0.25}
    path = write_examples(tmp_path / "e.jsonl", examples)
    losses = []
    for changes in ({}, {"objective": "weighted_sft", "weight_signal": "credit"}):
        config = toy_config(epochs=1, share_prefix=3, **changes)
        out = tmp_path / config.objective
        train(config, tiny_decoder(), WordTokenizer(), path, out)
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses.append([(line["loss"], line["grad_norm"]) for line in lines])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_weights_come_from_the_signal():
    config = toy_config(objective="weighted_sft", weight_signal="credit", max_weight=3.0)
    advantage = dataclasses.replace(config, weighting="advantage", weight_beta=0.5)
    values = (-1.0, 0.0, 0.5, 9.0)
    assert [example_weight({"signals": {"credit": v}}, config) for v in values] == [0, 0, 0.5, 3]
    np.testing.assert_allclose(
        [example_weight({"signals": {"credit": v}}, advantage) for v in values],
        [math.exp(-2), 1, math.e, 3],
    )
    for wrong in ({}, {"signals": {"credit": "high"}}, {"signals": {"credit": float("nan")}}):
        with pytest.raises(ValueError, match="weight_signal 'credit'"):
            example_weight(wrong, config)


def test_items_without_weight_are_left_out_and_counted(tmp_path):
    path = write_examples(tmp_path / "e.jsonl", weighted_examples(8))
    config = toy_config(objective="weighted_sft", weight_signal="credit")
    dataset = load_for(config, path, WordTokenizer())
    assert dataset.dropped == {"weight 0": 4} and len(dataset.items) == 4
    taught = np.concatenate([i.weights[i.weights > 0] for i in dataset.items])
    np.testing.assert_allclose(taught.mean(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(taught.max() / taught.min(), 2.5, rtol=1e-6)
    none = write_examples(tmp_path / "none.jsonl", [example("a", "b") | {"signals": {"credit": 0}}])
    with pytest.raises(DataError, match="1 of weight 0"):
        load_for(config, none, WordTokenizer())


def test_preference_training_prefers_and_names_what_is_not_finite(tmp_path):
    path = write_examples(tmp_path / "p.jsonl", toy_pairs())
    config = toy_config(
        objective="dpo", dpo_beta=1.0, epochs=8, heldout_share=0.25, heldout_every=3
    )
    result = train(config, tiny_decoder(), WordTokenizer(), path, tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # still the base
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["loss"] < 0.6 and lines[-1]["accuracy"] >= 0.75 and lines[-1]["margin"] > 0.2
    assert lines[-1]["kl"] > 0.001 and result.heldout_items == 2
    assert "heldout_loss" in lines[-1]
    wild = dataclasses.replace(config, learning_rate=1e30, clip_norm=1e30, weight_decay=1e30)
    with pytest.raises(TrainingError, match=r"step \d+: (loss|grad_norm) is .*trace e\d.jsonl, t"):
        train(wild, tiny_decoder(), WordTokenizer(), path, tmp_path / "wild")


def test_kl_holds_the_specialist_near_the_base_and_training_goes_on_from_an_adapter(tmp_path):
    path, arguments = (
        write_examples(tmp_path / "e.jsonl", toy_examples()),
        (
            tiny_decoder(),
            WordTokenizer(),
        ),
    )
    drift = {}
    for weight in (1e-6, 300.0):
        out = tmp_path / str(weight)
        train(toy_config(epochs=6, kl_weight=weight), *arguments, path, out)
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        drift[weight] = last["kl"]
    assert 0 < drift[300.0] < 0.5 * drift[1e-6]
    first = load_adapter(tmp_path / "1e-06" / "adapter.safetensors")
    again = train(toy_config(epochs=1), *arguments, path, tmp_path / "again", start=first)
    fresh = train(toy_config(epochs=1), *arguments, path, tmp_path / "fresh")
    lines = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("again", "fresh")
    ]
    assert lines[0]["loss"] < lines[1]["loss"] - 0.1
    assert again.base_hash == fresh.base_hash


def test_objectives_have_names():
    with pytest.raises(ValueError, match="one of sft, weighted_sft, dpo"):
        Objective("ppo")
    assert Objective().is_plain and not Objective(kl_weight=0.1).is_plain


def test_many_devices_change_nothing(tmp_path):
    """On four fake devices, by rows and by tensor and sequence: losses and gradient norms of one."""
    write_examples(tmp_path / "dpo.jsonl", toy_pairs(16))
    write_examples(tmp_path / "weighted_sft.jsonl", weighted_examples(16))
    flags = f"--xla_force_host_platform_device_count=4 {os.environ['AUTOMEM_QUICK_COMPILE']}"
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(HERE / "objective_runs.py"), str(tmp_path)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["one"][0][0] > 0 and len(found) == 3
        for mesh in found:
            np.testing.assert_allclose(
                found[mesh], found["one"], rtol=2e-5, atol=1e-6, err_msg=f"{name} {mesh}"
            )
