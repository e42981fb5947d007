import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import WordTokenizer, example, toy_examples, write_examples

from automem_jax.training.data import DataError, fill, load_items, packed_batches, tokenise
from automem_jax.training.packing import first_fit


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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 4))
def test_first_fit_places_every_item_once_and_never_overfills(lengths, open_rows):
    rows = first_fit(lengths, 30, open_rows)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 30 for row in rows)


def make_batches(tmp_path, **changes):
    path = write_examples(tmp_path / "e.jsonl", toy_examples())
    dataset = load_items(path, WordTokenizer(), loss="last_turn", row_tokens=32)
    options = {"row_tokens": 32, "batch_rows": 2, "epochs": 3, "seed": 1, "pad_id": 0} | changes
    return dataset, packed_batches(dataset.items, **options)


def segments(batches):
    """All items found in the rows, as token tuples, in order."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            ids = batch["segment_ids"][row]
            for segment in range(1, ids.max() + 1):
                where = ids == segment
                assert np.array_equal(batch["positions"][row][where], np.arange(where.sum()))
                found.append((*batch["tokens"][row][where], *batch["weights"][row][where]))
            assert not batch["weights"][row][ids == 0].any()
    return found


def test_rows_hold_every_item_once_an_epoch_with_its_own_weights(tmp_path):
    dataset, batches = make_batches(tmp_path)
    wanted = [(*item.ids, *item.weights) for item in dataset.items]
    found = segments(batches)
    assert sorted(found) == sorted(wanted * 3)
    per_epoch = [sorted(found[i : i + 12]) for i in (0, 12, 24)]
    assert per_epoch == [sorted(wanted)] * 3  # no row mixes epochs
    assert found[:12] != found[12:24]  # shuffled anew
    assert {b["tokens"].shape for b in batches} == {(2, 32)}
    assert 0.5 < fill(dataset.items, batches, 32, 2, 3) <= 1


def test_order_depends_on_the_seed_alone(tmp_path):
    _, one = make_batches(tmp_path)
    _, same = make_batches(tmp_path)
    _, other = make_batches(tmp_path, seed=2)
    assert segments(one) == segments(same) != segments(other)


def test_iterator_state_restores_exactly(tmp_path):
    _, batches = make_batches(tmp_path)
    iterator = iter(batches.to_iter_dataset())
    next(iterator), next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = [b["tokens"] for b in iterator]
    again = iter(batches.to_iter_dataset())
    again.set_state(state)
    assert all(np.array_equal(a, b["tokens"]) for a, b in zip(rest, again, strict=True))
