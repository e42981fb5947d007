import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.agent.grammar import parse
from automem_jax.selection.cleanup import (
    clean_turn,
    cut_at_done,
    drop_fences,
    strip_actions,
    trim_after_last_operation,
)

READ = "<|READ|>notes<|END|>"
NOTE = "<|APPEND|>notes|lichen<|END|>"


@pytest.mark.parametrize(
    ("step", "text", "wanted"),
    [
        (drop_fences, f"```\n{READ}\n```", f"{READ}\n"),
        (drop_fences, f"```text\n{READ}```", READ),
        (drop_fences, f"``` {READ} ```", f" {READ} "),
        (drop_fences, "<|APPEND|>notes|a ``` b<|END|>", "<|APPEND|>notes|a ``` b<|END|>"),
        (cut_at_done, f"{NOTE}<|DONE|>{READ}", NOTE),
        (cut_at_done, NOTE, NOTE),
        (strip_actions, f"{READ}<|ACTION|>east<|END|>{NOTE}<|ACTION|>west<|END|>", READ + NOTE),
        (trim_after_last_operation, f"so: {READ} and on I go", f"so: {READ}"),
        (trim_after_last_operation, "nothing here", ""),
    ],
)
def test_each_step(step, text, wanted):
    assert step(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"```\n{NOTE}\n```\n<|DONE|>", NOTE),
        (f"I saw it. {NOTE}\n{READ}<|DONE|>\n", f"I saw it. {NOTE}\n{READ}"),
        (f"{READ}\nThen <|ACTION|>east<|END|>", READ),
        (f"<|ACTION|>east<|END|>{READ}", READ),
        (NOTE, NOTE),
    ],
)
def test_a_turn_ends_as_a_chain_of_operations(text, wanted):
    cleaned = clean_turn(text)
    assert (cleaned.text, cleaned.reason) == (wanted, None)
    assert all(cleaned.text[start:end].startswith("<|") for start, end in cleaned.spans)
    assert cleaned.spans[-1][1] == len(cleaned.text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<|DONE|>", "no_memory_operation"),
        ("<|ACTION|>east<|END|>", "no_memory_operation"),
        (f"<|DONE|>{NOTE}", "no_memory_operation"),
        ("<|APPEND|>notes|a ``` b<|END|>", "fence"),
        (f"<|LOOKUP|>x<|END|>{READ}", "malformed"),
        ("<|READ|>notes<|ACTION|>east<|END|> too <|READ|>x<|END|>", "changed_operations"),
    ],
)
def test_what_cannot_be_trained_on_says_why(text, reason):
    assert clean_turn(text).reason == reason


def test_the_vocabulary_decides_what_is_an_operation():
    assert clean_turn("<|LOOKUP|>notes<|END|>").reason == "no_memory_operation"
    assert clean_turn("<|LOOKUP|>notes<|END|>", {"LOOKUP"}).reason is None


PIECES = st.sampled_from(
    [READ, NOTE, "<|DONE|>", "<|ACTION|>east<|END|>", "<|ACTION|>", "<|END|>", "<|READ|>", "```",
     "```text\n", "\n", " ", "word", "|", "<", "AD|>x", "<|RE", "READ>", "`", "</READ>", "é"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_cleaning_twice_is_cleaning_once_and_only_takes_away(text):
    once = clean_turn(text)
    assert clean_turn(once.text).text == once.text
    remaining = iter(text)
    assert all(character in remaining for character in once.text)  # a subsequence
    if once.reason is None:
        assert clean_turn(once.text) == once
        parsed = parse(once.text)
        assert not parsed.done and not parsed.action_spans and "```" not in once.text
        written = [(o.op, o.args) for o in parse(text).operations]
        assert [(o.op, o.args) for o in parsed.operations] == written[: len(parsed.operations)]
