"""The operation grammar: order, spans, tolerance, round trip."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.agent.grammar import OPERATIONS, format_operation, parse

PIECES = st.sampled_from(
    ["<|", "|>", "<", ">", "}", "|", "READ", "append", "END", "DONE", "ACTION", "notes", " ", "\n"]
    + ["```", "</", "<|END|>", "<|READ|>", "<|APPEND|>", "<|ACTION|>", "<|WAT|>", "\x00", "{x}"]
    + ["\ud800", "../", "é"]
)
REPLIES = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


def ops(text):
    return [(o.op, *o.args) for o in parse(text).operations]


@settings(max_examples=400, deadline=None)
@given(REPLIES)
def test_never_raises_and_spans_rise_and_reparse(text):
    parsed = parse(text)
    position = 0
    for operation in parsed.operations:
        assert position <= operation.start < operation.end <= len(text)
        position = operation.end
        again = parse(text[operation.start : operation.end])
        assert [(o.op, o.args) for o in again.operations] == [(operation.op, operation.args)]
    for start, end in parsed.action_spans:
        assert text[start] == "<" and end <= len(text)


ARGUMENT = st.text(st.characters(exclude_characters="<|`", exclude_categories=["Cs"])).map(
    str.strip
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(OPERATIONS), ARGUMENT.filter(bool), st.none() | ARGUMENT),
        max_size=5,
    ),
    st.sampled_from(["", "\n", " and then ", "```\n"]),
)
def test_printed_operations_parse_back_in_order(items, between):
    wanted = [(op, *(a for a in args if a is not None)) for op, *args in items]
    text = between.join(format_operation(*item) for item in wanted)
    assert ops(text) == wanted
    assert parse(text).errors == ()


def test_printer_refuses_what_the_grammar_cannot_say():
    for args in [("a|b", "c"), ("notes", "x <|END|> y"), ("notes", " padded")]:
        with pytest.raises(ValueError, match="cannot be written"):
            format_operation("APPEND", *args)


def test_order_is_the_order_written():
    text = "<|WRITE|>a|one<|END|> then <|READ|>a<|END|><|APPEND|>a|two|three<|END|>"
    assert ops(text) == [("WRITE", "a", "one"), ("READ", "a"), ("APPEND", "a", "two|three")]


def test_missing_end_does_not_swallow_the_next_operation():
    text = "<|APPEND|>a|one\n<|READ|>a\n<|ACTION|>north"
    parsed = parse(text)
    assert ops(text) == [("APPEND", "a", "one"), ("READ", "a")]
    assert parsed.action == "north"
    assert text[parsed.operations[0].start : parsed.operations[0].end] == "<|APPEND|>a|one"


@pytest.mark.parametrize(
    "text",
    [
        "<READ>notes<END>",
        "<|read|>notes<|end|>",
        "<|READ|}notes<|END|}",
        "<|READ>notes<END|>",
        "< READ >notes</READ>",
        "```\n<|READ|>notes\n```",
        "```\n<|READ|>notes<|END|>\n```",
        "<|READ|>notes<|EN",
    ],
)
def test_tolerated_forms(text):
    assert ops(text) == [("READ", "notes")]
    assert parse(text).errors == ()


def test_last_action_wins_and_a_retracted_one_does_not():
    parsed = parse("<|ACTION|>north<|END|> no, lava. <|ACTION|>south<|END|>")
    assert parsed.action == "south"
    assert len(parsed.action_spans) == 2


def test_done_and_its_place():
    parsed = parse("<|APPEND|>a|b<|END|><|DONE|> bye")
    assert parsed.done and parsed.done_start == 20


def test_unknown_operations_are_named_with_the_nearest():
    assert parse("<|SERCH|>a<|END|>").errors == ("SERCH: no such operation; did you mean SEARCH?",)
    assert parse("<SERCH>a<END>").errors == ("SERCH: no such operation; did you mean SEARCH?",)
    assert "there are" in parse("<|zzz|>").errors[0]
    assert parse("a <b> and x<y>z, 3 < 4 > 2").errors == ()
    assert parse("<|READ|>a<|END|>", ("APPEND",)).errors[0].startswith("READ: no such operation")


def test_a_narrowed_vocabulary_and_empty_parts():
    assert ops("<|READ|><|END|>") == [("READ",)]
    assert ops("<|WRITE|>a|<|END|>") == [("WRITE", "a", "")]
    assert parse("<|ACTION|> <|END|>").action is None
    assert parse("<|ACTION|> <|END|>").errors


def test_huge_replies_take_linear_time():
    assert len(parse("<|APPEND|>a|" + "x" * 5_000_000 + "<|END|>").operations) == 1
    assert len(parse("<|READ|>a" * 20_000).operations) == 20_000
    assert parse("<" * 1_000_000 + "|" * 1_000_000).operations == ()
    assert parse("<|" * 500_000).operations == ()
