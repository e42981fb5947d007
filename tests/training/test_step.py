import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from toy import WordTokenizer, tiny_decoder, toy_config, toy_examples, write_examples

from automem_jax.models.decoder import BaseWeight
from automem_jax.models.lora import add_adapters
from automem_jax.models.weights import base_hash
from automem_jax.training.data import load_items
from automem_jax.training.loss import next_token_loss, target_weights
from automem_jax.training.optimizer import learning_rate
from automem_jax.training.packing import pack_row
from automem_jax.training.step import ParameterError, initial_state, make_train_step, partition


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    path = write_examples(tmp_path_factory.mktemp("examples") / "e.jsonl", toy_examples(4))
    return load_items(path, WordTokenizer(), loss="last_turn", row_tokens=64).items


def batch_of(rows):
    return {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}


def with_adapters(count=1):
    model = tiny_decoder()
    add_adapters(model, count, 2, 4.0, "all_linear", nnx.Rngs(params=1))
    return model


def test_weights_belong_to_the_predicted_token_and_never_cross_items():
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    weights = jnp.array([[0.0, 0.0, 2.0, 9.0, 1.0, 7.0]])
    assert target_weights(segments, weights).tolist() == [[0.0, 2.0, 0.0, 1.0, 0.0]]


def test_loss_is_the_log_probability_of_the_supervised_tokens():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 5))
    tokens = jnp.array([[0, 1, 2, 3]])
    weights = jnp.array([[0.0, 0.0, 1.0, 3.0]])
    total, count = next_token_loss(logits, tokens, jnp.ones_like(tokens), weights)
    log_probability = jax.nn.log_softmax(logits)[0]
    assert count == 4.0
    np.testing.assert_allclose(
        total, -(log_probability[1, 2] + 3 * log_probability[2, 3]), rtol=1e-6
    )


def test_unsupervised_tokens_do_not_matter_to_the_loss(items):
    row = pack_row(items[:1], 64, 0)
    logits = jax.random.normal(jax.random.key(0), (1, 64, 64))
    changed = logits.at[0, : int(np.argmax(row["weights"] > 0)) - 1].add(5.0)
    batch = batch_of([row])
    arguments = batch["tokens"], batch["segment_ids"], batch["weights"]
    assert next_token_loss(logits, *arguments)[0] == next_token_loss(changed, *arguments)[0]


def test_packed_loss_equals_separate_loss(items):
    model = tiny_decoder()

    @nnx.jit
    def loss(model, batch):
        logits = model(batch["tokens"], batch["positions"], batch["segment_ids"])
        return next_token_loss(logits, batch["tokens"], batch["segment_ids"], batch["weights"])

    assert sum(len(item) for item in items) <= 64
    packed = loss(model, batch_of([pack_row(items, 64, 0)]))
    separate = [loss(model, batch_of([pack_row([item], 64, 0)])) for item in items]
    np.testing.assert_allclose(packed[0], sum(s[0] for s in separate), rtol=1e-5)
    assert packed[1] == sum(s[1] for s in separate)


def test_step_trains_one_adapter_and_nothing_else(items):
    model = with_adapters(2)
    before = jax.tree.map(jnp.copy, nnx.state(model))
    parts = partition(model, adapter=1)
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    state = initial_state(parts, optimizer)
    step = make_train_step(parts, optimizer)
    batch = batch_of([pack_row(items, 64, 0)])
    losses = []
    for _ in range(3):
        state, figures = step(state, batch)
        losses.append(float(figures["loss"]))
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[2]
    assert float(figures["supervised_tokens"]) == sum(float(i.weights.sum()) for i in items)
    untouched = base_hash(model)
    parts.install(model, state.params)
    assert base_hash(model) == untouched
    for (path, old), (_, new) in zip(
        nnx.to_flat_state(before), nnx.to_flat_state(nnx.state(model)), strict=True
    ):
        old, new = np.asarray(old[...]), np.asarray(new[...])
        if "lora" in path[-1]:
            assert np.array_equal(old[:, 1], new[:, 1]), path  # the other adapter, decay and all
            assert not np.array_equal(old[:, 0], new[:, 0]), path
        else:
            assert np.array_equal(old, new), path


def test_step_pretrains_a_base(items):
    model = tiny_decoder()
    parts = partition(model, trainable=BaseWeight, frozen=nnx.LoRAParam, adapter=None)
    optimizer = optax.adamw(3e-3)
    state = initial_state(parts, optimizer)
    step = make_train_step(parts, optimizer)
    batch = batch_of([pack_row(items, 64, 0)])
    losses = []
    for _ in range(4):
        state, figures = step(state, batch)
        losses.append(float(figures["loss"]))
    assert losses[-1] < losses[0]
    before = base_hash(model)
    parts.install(model, state.params)
    assert base_hash(model) != before


def test_gradient_over_a_batch_is_a_mean_per_token_not_per_row(items):
    """Two rows of unequal supervision give the same loss as one row that holds both."""
    parts = partition(with_adapters())
    optimizer = optax.sgd(1.0)
    step = make_train_step(parts, optimizer)
    one, _ = step(initial_state(parts, optimizer), batch_of([pack_row(items, 64, 0)]))
    rows = [pack_row(items[:1], 64, 0), pack_row(items[1:], 64, 0)]
    two, _ = step(initial_state(parts, optimizer), batch_of(rows))
    for path, value in one.params.items():
        np.testing.assert_allclose(value, two.params[path], atol=1e-6)


def test_every_parameter_is_trained_or_frozen():
    model = with_adapters()
    model.stray = nnx.Param(jnp.ones(2))
    with pytest.raises(ParameterError, match=r"neither trained nor frozen: stray \(Param\)"):
        partition(model)
    model = with_adapters()
    with pytest.raises(ParameterError, match="both trained and frozen"):
        partition(model, trainable=nnx.LoRAParam, frozen=nnx.Variable)
    with pytest.raises(ParameterError, match="there is no adapter 2"):
        partition(model, adapter=2)
    with pytest.raises(ParameterError, match="add an adapter"):
        partition(tiny_decoder())


def test_schedule_warms_up_and_decays_to_zero():
    schedule = learning_rate(toy_config(learning_rate=1.0, warmup=0.1), 100)
    values = [float(schedule(i)) for i in range(101)]
    assert values[0] == 0.0 and values[5] == pytest.approx(0.5) and values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True) and values[100] == pytest.approx(
        0, abs=1e-6
    )
    for steps in (1, 2):  # short runs have a schedule too
        assert max(float(learning_rate(toy_config(), steps)(i)) for i in range(steps)) >= 0
