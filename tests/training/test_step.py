import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from toy import WordTokenizer, tiny_decoder, toy_config, toy_examples, write_examples

from automem_jax.models.decoder import BaseWeight
from automem_jax.models.lora import add_adapters
from automem_jax.models.settings import Settings
from automem_jax.models.weights import base_hash
from automem_jax.training.data import load_items
from automem_jax.training.loss import supervised_loss
from automem_jax.training.optimizer import learning_rate
from automem_jax.training.packing import Item, pack_row
from automem_jax.training.step import ParameterError, initial_state, make_train_step, partition


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    path = write_examples(tmp_path_factory.mktemp("examples") / "e.jsonl", toy_examples(4))
    return load_items(path, WordTokenizer(), loss="last_turn", row_tokens=64).items


def batch_of(rows):
    """A batch whose rows are given by `ends`."""
    names = [name for name in rows[0] if name != "segment_ids"]
    return {name: jnp.stack([row[name] for row in rows]) for name in names}


def with_adapters(count=1):
    model = tiny_decoder()
    add_adapters(model, count, 2, 4.0, "all_linear", nnx.Rngs(params=1))
    return model


def loss_of(model, batch, **options):
    """(sum of losses, sum of weights) of a batch."""
    visible = {"ends": batch["ends"]}
    hidden, _ = model.hidden(batch["tokens"], positions=batch["positions"], **visible)
    places = (batch[name] for name in ("predict_at", "labels", "label_weights"))
    totals, weights = supervised_loss(hidden, *places, model.unembed, **options)
    return jnp.sum(totals), jnp.sum(weights)


def test_loss_is_the_log_probability_of_the_supervised_tokens():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 5))
    at, labels, weights = jnp.array([[0, 2, 0]]), jnp.array([[1, 3, 0]]), jnp.array([[1.0, 3.0, 0]])
    total, count = supervised_loss(logits, at, labels, weights, lambda x: x)
    log_probability = jax.nn.log_softmax(logits)[0]
    assert count == 4.0
    np.testing.assert_allclose(
        total[0], -(log_probability[0, 1] + 3 * log_probability[2, 3]), rtol=1e-6
    )


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_change_neither_loss_nor_gradient(chunk):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, head = jax.random.normal(keys[0], (2, 9, 4)), jax.random.normal(keys[1], (4, 11))
    at = jax.random.randint(keys[2], (2, 7), 0, 9)
    labels, weights = (
        jax.random.randint(keys[3], (2, 7), 0, 11),
        jnp.linspace(0, 2, 14).reshape(2, 7),
    )

    def loss(hidden, head, chunk):
        arguments = hidden, at, labels, weights, lambda x: x @ head
        return jnp.sum(supervised_loss(*arguments, chunk=chunk)[0])

    value_and_grad = jax.value_and_grad(loss, (0, 1))
    whole, chunked = value_and_grad(hidden, head, 512), value_and_grad(hidden, head, chunk)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, chunked
    )


def test_logits_exist_for_one_chunk_of_labels_at_a_time():
    def loss(hidden):
        at = jnp.zeros((1, 64), jnp.int32)
        unembed = lambda x: x @ jnp.ones((4, 1000))  # noqa: E731
        return jnp.sum(supervised_loss(hidden, at, at, at + 1.0, unembed, chunk=8)[0])

    program = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((1, 64, 4))))
    assert "f32[1,8,1000]" in program and "f32[1,64,1000]" not in program


def test_packed_loss_equals_separate_loss(items):
    model = tiny_decoder()
    loss = nnx.jit(loss_of)
    assert sum(len(item) for item in items) <= 64
    packed = loss(model, batch_of([pack_row(items, 64, 0, labels=32)]))
    separate = [loss(model, batch_of([pack_row([item], 64, 0, labels=32)])) for item in items]
    np.testing.assert_allclose(packed[0], sum(s[0] for s in separate), rtol=1e-5)
    assert packed[1] == sum(s[1] for s in separate)


def nested_items():
    """A tree with nested trunks, supervised in trunks and branches; an identical pair; a stranger."""
    source = np.random.default_rng(0)
    trunk, inner = source.integers(0, 64, 12), source.integers(0, 64, 5)
    bodies = [[*trunk, *source.integers(0, 64, n)] for n in (4, 7)]
    bodies += [[*trunk, *inner, *source.integers(0, 64, n)] for n in (3, 6)]
    bodies += [bodies[1], [*trunk, *inner], [*source.integers(0, 64, 9)]]
    return [
        Item(np.array(b, np.int32), (np.arange(len(b)) % 4 * (0.5 + i % 2)).astype(np.float32))
        for i, b in enumerate(bodies)
    ]


@pytest.mark.parametrize("settings", [Settings(), Settings(attention="chunked", remat="full")])
def test_gradient_of_shared_prefixes_equals_that_of_separate_items(settings):
    items = nested_items()
    model = with_adapters()
    model.layers.q_proj.lora_b.set_value(jnp.full_like(model.layers.q_proj.lora_b[...], 0.05))
    model.settings = settings
    parts = partition(model)
    separate = batch_of([pack_row([item], 80, 0, labels=80) for item in items])
    shared = batch_of([pack_row(items, 80, 0, labels=80, share_prefix=4)])
    placed = int(jnp.count_nonzero(shared["ends"]))
    assert placed == 12 + 4 + 7 + 5 + 3 + 6 + 9 < sum(map(len, items))

    @jax.jit
    def loss(params, batch):
        whole = parts.model(params, parts.trained, parts.frozen)
        hidden, _ = whole.hidden(
            batch["tokens"],
            positions=batch["positions"],
            ends=batch["ends"],
            adapter_ids=jnp.ones(len(batch["tokens"]), jnp.int32),
        )
        places = (batch[name] for name in ("predict_at", "labels", "label_weights"))
        totals, weights = supervised_loss(hidden, *places, whole.unembed)
        return jnp.sum(totals) / jnp.sum(weights)

    one, two = (jax.value_and_grad(loss)(parts.params(), batch) for batch in (separate, shared))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
    assert max(float(jnp.abs(g).max()) for g in one[1].values()) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[1], two[1])


def test_step_trains_one_adapter_and_nothing_else(items):
    model = with_adapters(2)
    before = jax.tree.map(jnp.copy, nnx.state(model))
    parts = partition(model, adapter=1)
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    state = initial_state(parts, optimizer)
    step = make_train_step(parts, optimizer)
    batch = batch_of([pack_row(items, 64, 0, labels=32)])
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
    batch = batch_of([pack_row(items, 64, 0, labels=32)])
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
    one, _ = step(initial_state(parts, optimizer), batch_of([pack_row(items, 64, 0, labels=32)]))
    rows = [pack_row(part, 64, 0, labels=32) for part in (items[:1], items[1:])]
    two, _ = step(initial_state(parts, optimizer), batch_of(rows))
    for path, value in one.params.items():
        np.testing.assert_allclose(value, two.params[path], atol=1e-6)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_accumulated_microbatches_equal_one_big_batch(items, microbatches):
    rows = [pack_row([item], 24, 0, labels=16) for item in (*items, *items)]
    rows = [rows[i] for i in (0, 1, 2, 3, 4, 4, 4, 7)]
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
    results = []
    for count in (1, microbatches):
        parts = partition(with_adapters())
        step = make_train_step(parts, optimizer, microbatches=count)
        results.append(step(initial_state(parts, optimizer), batch_of(rows)))
    (one, one_figures), (many, many_figures) = results
    for path, value in one.params.items():
        np.testing.assert_allclose(value, many.params[path], atol=1e-5)
    for name, value in one_figures.items():
        np.testing.assert_allclose(value, many_figures[name], rtol=1e-5, err_msg=name)
    assert many_figures["row_loss"].shape == (8,)


def test_dropout_depends_on_the_step_and_the_seed_alone(items):
    batch = batch_of([pack_row(items, 64, 0, labels=32)])

    def gradient_norms(seed, dropout=0.5):
        model = tiny_decoder()
        add_adapters(model, 1, 2, 4.0, "all_linear", nnx.Rngs(params=1), dropout)
        parts, optimizer = partition(model), optax.sgd(0.0)
        step = make_train_step(parts, optimizer, dropout=dropout > 0)
        state, norms = initial_state(parts, optimizer, seed), []
        for _ in range(3):
            state, figures = step(state, batch)
            norms.append(float(figures["grad_norm"]))
        return norms

    assert gradient_norms(0) == gradient_norms(0) != gradient_norms(1)
    assert len(set(gradient_norms(0))) == 3
    assert len(set(gradient_norms(0, dropout=0.0))) == 1


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


def test_linear_and_constant_schedules():
    steps = 100
    linear, constant = (
        learning_rate(toy_config(learning_rate=1.0, warmup=0.1, schedule=kind), steps)
        for kind in ("linear", "constant")
    )
    for schedule in (linear, constant):
        assert float(schedule(0)) == 0.0 and float(schedule(5)) == pytest.approx(0.5)
        assert float(schedule(10)) == 1.0
    assert float(linear(55)) == pytest.approx(0.5) and float(linear(100)) == 0.0
    assert {float(constant(i)) for i in range(10, 101)} == {1.0}
