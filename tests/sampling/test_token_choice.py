import jax
import jax.numpy as jnp
import numpy as np

from automem_jax.sampling.token_choice import ChoiceSettings, choose, key_words, row_keys
from automem_jax.text.messages import RequestKey

LOGITS = jnp.log(jnp.array([0.4, 0.3, 0.15, 0.1, 0.05]))


def draws(count=3000, *, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, sort=True):
    """Shares of each token over `count` draws of one distribution, and their log-probabilities."""
    words = np.zeros((count, 4), np.uint32)
    words[:, 0] = np.arange(count)
    fill = lambda v, d: jnp.full((count,), v, d)  # noqa: E731
    settings = ChoiceSettings(
        fill(temperature, jnp.float32),
        fill(top_p, jnp.float32),
        fill(top_k, jnp.int32),
        fill(min_p, jnp.float32),
        words,
    )
    logits = jnp.broadcast_to(LOGITS, (count, 5))
    run = jax.jit(choose, static_argnames="needs_sort")
    tokens, logprobs = run(logits, row_keys(7, words), 0, settings, needs_sort=sort)
    return np.bincount(tokens, minlength=5) / count, np.asarray(tokens), np.asarray(logprobs)


def test_temperature_one_draws_the_distribution():
    share, tokens, logprobs = draws(sort=False)
    np.testing.assert_allclose(share, [0.4, 0.3, 0.15, 0.1, 0.05], atol=0.03)
    np.testing.assert_allclose(logprobs, np.asarray(LOGITS)[tokens], atol=1e-6)


def test_filters_keep_what_they_say_and_renormalise():
    np.testing.assert_allclose(draws(top_k=2)[0], [4 / 7, 3 / 7, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(draws(top_p=0.65)[0], [4 / 7, 3 / 7, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(draws(top_p=0.71)[0][3:], [0, 0])
    assert draws(top_p=0.71)[0][2] > 0.1
    assert (draws(top_p=1e-6)[0] == [1, 0, 0, 0, 0]).all()
    np.testing.assert_allclose(draws(min_p=0.3, sort=False)[0][3:], [0, 0])
    assert draws(min_p=0.3, sort=False)[0][2] > 0.1
    # top-p works on what top-k left: of two tokens 4/7 and 3/7, 0.5 keeps the first alone
    assert draws(top_k=2, top_p=0.5)[0][0] == 1


def test_greedy_and_logprobs_ignore_filters_and_temperature():
    share, _, logprobs = draws(temperature=0.0, min_p=0.3)
    assert share[0] == 1
    np.testing.assert_allclose(logprobs, np.log(0.4), atol=1e-6)
    share, tokens, logprobs = draws(temperature=0.25, top_k=3)
    assert share[0] > 0.7
    np.testing.assert_allclose(logprobs, np.asarray(LOGITS)[tokens], atol=1e-6)


def test_switched_off_filters_draw_the_same_tokens_as_no_sort():
    np.testing.assert_array_equal(draws(sort=True)[1], draws(sort=False)[1])


def test_keys_differ_in_every_word():
    base = RequestKey(5, 3, "log", 0)
    others = [
        RequestKey(6, 3, "log", 0),
        RequestKey(5, 4, "log", 0),
        RequestKey(5, 3, "plan", 0),
        RequestKey(5, 3, "log", 1),
    ]
    words = np.array([key_words(k) for k in [base, *others, base]], np.uint32)
    data = np.asarray(jax.random.key_data(row_keys(0, words)))
    assert len({tuple(row) for row in data}) == 5 and (data[0] == data[-1]).all()
    assert (np.asarray(jax.random.key_data(row_keys(1, words))) != data).any()
