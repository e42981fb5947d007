import json

import numpy as np
import pytest
from toy import WordTokenizer, example, toy_examples, write_examples

from automem_jax.training.data import (
    DataError,
    batches_of,
    load_items,
    plan_rows,
    split_heldout,
    tokenise,
)
from automem_jax.training.packing import Item


def weighted_words(item, tokenizer):
    return tokenizer.decode(item.ids[item.weights > 0])


def test_last_turn_supervises_the_answer_and_its_end_and_nothing_else():
    tokenizer = WordTokenizer()
    item, shortened = tokenise(example("see door", "well READ a"), tokenizer, "last_turn", 32)
    words = "<|system|> play <|end|> <|user|> see door <|end|> <|assistant|> well READ a <|end|>"
    assert tokenizer.decode(item.ids) == words
    assert item.weights.tolist() == [0.0] * 8 + [1.0] * 4
    assert not shortened


def test_memory_ops_supervises_spans_only():
    tokenizer = WordTokenizer()
    item, _ = tokenise(example("see door", "well READ a", [(5, 11)]), tokenizer, "memory_ops", 32)
    assert weighted_words(item, tokenizer) == "READ a <|end|>"


def test_all_assistant_turns_trains_cleaned_history_and_skips_what_had_no_operation():
    tokenizer = WordTokenizer()
    source = example(
        "third",
        "READ c",
        earlier=[("first", "chat only"), ("second", "READ b chat")],
        history=[{"message": 4, "text": "READ b"}],
    )
    item, _ = tokenise(source, tokenizer, "all_assistant_turns", 64)
    assert weighted_words(item, tokenizer) == "READ b <|end|> READ c <|end|>"
    assert "chat only" in tokenizer.decode(item.ids)
    assert "READ b chat" not in tokenizer.decode(item.ids)


def test_the_samplers_own_tokens_are_learnt_where_they_spell_the_text():
    class Syllables(WordTokenizer):
        """Words may also be spelt letter by letter."""

        def pieces(self, ids):
            return [self.decode([i]).encode() for i in ids]

    tokenizer = Syllables()
    letters = [tokenizer.encode(letter)[0] for letter in "ab"]
    source = example("see", "ab")
    plain, _ = tokenise(source, tokenizer, "last_turn", 32)

    def with_ids(ids):
        return source | {"token_ids": [{"message": 2, "ids": ids}]}

    own, _ = tokenise(with_ids(letters), tokenizer, "last_turn", 32)
    other, _ = tokenise(with_ids(letters[:1] * 2), tokenizer, "last_turn", 32)
    assert len(own) == len(plain) + 1 and own.ids[-3:-1].tolist() == letters
    assert own.weights[-4:].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert other.ids.tolist() == plain.ids.tolist()
    assert (own.retokenised, other.retokenised) == (0, 1)


def test_example_weight_scales_its_tokens():
    item, _ = tokenise(example("a", "b") | {"weight": 0.5}, WordTokenizer(), "last_turn", 32)
    assert sorted(set(item.weights.tolist())) == [0.0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0.0}, "no token is supervised"),
        ({"supervised": []}, "no character is supervised"),
        ({"supervised": [{"message": 1, "start": 0, "end": 1}]}, r"message 1 \(user\) is part of"),
    ],
)
def test_bad_supervision_is_an_error_that_names_the_line(tmp_path, change, message):
    path = write_examples(tmp_path / "e.jsonl", [example("a", "b"), example("a", "b") | change])
    with pytest.raises(DataError, match=rf"e\.jsonl:2: .*{message}"):
        load_items(path, WordTokenizer(), loss="memory_ops", row_tokens=32)


def test_broken_line_names_the_line(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps(example("a", "b")) + "\n{broken\n")
    with pytest.raises(DataError, match=r"e\.jsonl:2"):
        load_items(path, WordTokenizer(), loss="last_turn", row_tokens=32)


def test_long_item_loses_whole_earliest_turns_then_is_dropped(tmp_path):
    tokenizer = WordTokenizer()
    earlier = [("first " * 4, "READ one"), ("second " * 2, "READ two")]
    source = example("third", "READ c", earlier=earlier)
    item, shortened = tokenise(source, tokenizer, "last_turn", 20)
    text = tokenizer.decode(item.ids)
    assert shortened and "first" not in text and "one" not in text
    assert text.startswith(
        "<|system|> play <|end|> <|user|> second second <|end|> <|assistant|> READ"
    )
    assert weighted_words(item, tokenizer) == "READ c <|end|>"

    item, _ = tokenise(source, tokenizer, "last_turn", 14)
    assert "second" not in tokenizer.decode(item.ids)

    path = write_examples(tmp_path / "e.jsonl", [example("a " * 40, "b"), example("a", "b")])
    dataset = load_items(path, tokenizer, loss="last_turn", row_tokens=20)
    assert dataset.dropped == {"longer than a row": 1} and len(dataset.items) == 1
    with pytest.raises(DataError, match="no item to train on"):
        load_items(path, tokenizer, loss="last_turn", row_tokens=5)


def make_batches(tmp_path, **changes):
    path = write_examples(tmp_path / "e.jsonl", toy_examples())
    dataset = load_items(path, WordTokenizer(), loss="last_turn", row_tokens=32)
    options = {"row_tokens": 32, "batch_rows": 2, "epochs": 3, "seed": 1} | changes
    plan = plan_rows(dataset.items, **options)
    return dataset, plan, batches_of(plan, dataset.items, 0)


def items_found(batches):
    """All items of the rows as (tokens, supervised tokens with their weights), in order."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            ids = batch["segment_ids"][row]
            at, labels, weights = (
                batch[name][row] for name in ("predict_at", "labels", "label_weights")
            )
            for segment in range(1, ids.max() + 1):
                where = np.flatnonzero(ids == segment)
                assert np.array_equal(batch["positions"][row][where], np.arange(len(where)))
                own = (weights > 0) & np.isin(at, where)
                assert np.array_equal(batch["tokens"][row][at[own] + 1], labels[own])
                supervised = tuple(zip(at[own] + 1 - where[0], weights[own], strict=True))
                found.append((tuple(batch["tokens"][row][where]), supervised))
            assert not weights[ids[at] == 0].any()
    return found


def wanted_items(dataset):
    return [
        (tuple(i.ids), tuple((p, i.weights[p]) for p in np.flatnonzero(i.weights)))
        for i in dataset.items
    ]


@pytest.mark.parametrize("packing", ["best_fit", "first_fit"])
def test_rows_hold_every_item_once_an_epoch_with_its_own_weights(tmp_path, packing):
    dataset, plan, batches = make_batches(tmp_path, packing=packing)
    wanted = wanted_items(dataset)
    found = items_found(batches)
    assert sorted(found) == sorted(wanted * 3)
    per_epoch = [sorted(found[i : i + 12]) for i in (0, 12, 24)]
    assert per_epoch == [sorted(wanted)] * 3  # no row mixes epochs
    assert found[:12] != found[12:24]  # shuffled anew
    assert {b["tokens"].shape for b in batches} == {(2, 32)}
    assert {b["labels"].shape for b in batches} == {(2, plan.labels)}
    assert not plan.nested and plan.saving == 0
    padding = sum(int((b["segment_ids"] == 0).sum()) for b in batches)
    assert plan.fill == pytest.approx(1 - padding / (plan.steps * 64)) and plan.fill > 0.5


def test_order_depends_on_the_seed_alone(tmp_path):
    one, same, other = (items_found(make_batches(tmp_path, seed=s)[2]) for s in (1, 1, 2))
    assert one == same != other


def test_iterator_state_restores_exactly(tmp_path):
    batches = make_batches(tmp_path)[2]
    iterator = iter(batches.to_iter_dataset())
    next(iterator), next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = [b["tokens"] for b in iterator]
    again = iter(batches.to_iter_dataset())
    again.set_state(state)
    assert all(np.array_equal(a, b["tokens"]) for a, b in zip(rest, again, strict=True))


def test_a_process_feeds_its_own_rows(tmp_path):
    dataset, plan, batches = make_batches(tmp_path)
    halves = [batches_of(plan, dataset.items, 0, own_rows=[row]) for row in (0, 1)]
    for whole, first, second in zip(batches, *halves, strict=True):
        for name, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([first[name], second[name]]))


def test_heldout_items_are_whole_episodes():
    items = [
        Item(np.arange(3, dtype=np.int32), np.ones(3, np.float32), f"{e} {i}", f"episode {e}")
        for e in range(10)
        for i in range(e + 1)
    ]
    kept, held = split_heldout(items, 0.2, seed=0)
    episodes = {i.episode for i in held}
    assert len(episodes) == 2 and not episodes & {i.episode for i in kept}
    assert sorted(i.name for i in (*kept, *held)) == sorted(i.name for i in items)
    assert split_heldout(items, 0.2, seed=0) == (kept, held)
    assert {i.episode for i in split_heldout(items, 0.2, seed=1)[1]} != episodes
    assert split_heldout(items, 0.0, seed=0) == (tuple(items), ())
    with pytest.raises(DataError, match="one episode"):
        split_heldout(items[:1], 0.2, seed=0)
