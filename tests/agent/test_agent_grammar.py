"""The operation grammar: order, spans, tolerance, round trip."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.agent.grammar import OPERATIONS, format_operation, parse, spellings

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


def test_what_is_not_closed_or_not_known_is_told():
    assert parse("<|READ notes<|END|>").errors == ("READ: its tag is not closed; write <|READ|>",)
    assert parse("<READ|notes|END|>").errors == ("READ: its tag is not closed; write <|READ|>",)
    assert parse("<|READ|notes<|END|>").errors == ("READ: its tag is not closed; write <|READ|>",)
    assert parse("<|LIST FILES|>").errors[0].startswith("LIST FILES: no such operation")
    assert parse("<|READ2|>a<|END|>").errors == ("READ2: no such operation; did you mean READ?",)
    assert parse("so <|APPE").errors == (
        "the reply breaks off inside <|APPE; write the operation again",
    )
    assert parse("<|READ|>a<|END|").errors == parse("see <|x and 3>2").errors == ()
    assert ops("<|READ|>a<|END|\n<|TAIL|>b|2<|END|>") == [("READ", "a"), ("TAIL", "b", "2")]


def test_errors_are_bounded_and_counted():
    parsed = parse("<|OOPS|>" * 500)
    assert len(parsed.errors) == 101 and parsed.errors[-1] == "400 more errors like these"
    assert parse("<|ACTION|>" + "x" * 300).action is None
    assert "300 characters" in parse("<|ACTION|>" + "x" * 300).errors[0]


def test_the_last_action_counts_even_if_it_is_empty():
    assert parse("<|ACTION|>north<|END|>no: <|ACTION|><|END|>").action is None
    assert parse("<|ACTION|>north\nbecause of lava").action == "north"


RENAMED = spellings({"APPEND": "NOTE", "SEARCH": "LOOK_FOR"})


def test_renamed_operations_are_canonical_in_the_result():
    parsed = parse("<|note|>a|b<|END|><LOOK_FOR>a|x<END></NOTE><|READ|>a<|END|>", RENAMED)
    assert [o.op for o in parsed.operations] == ["APPEND", "SEARCH", "READ"]
    assert parse("<|APPEND|>a|b<|END|>", RENAMED).errors == (
        "APPEND: no such operation; it is written NOTE here",
    )
    assert format_operation("APPEND", "a", "b", spelling="NOTE") == "<|NOTE|>a|b<|END|>"


@settings(max_examples=200, deadline=None)
@given(REPLIES)
def test_spans_are_exact(text):
    """What a span holds is the operation and nothing of its neighbours; a renamed vocabulary gives
    the same operations under other spellings."""
    parsed = parse(text)
    stops = [0]
    for operation in parsed.operations:
        written = text[operation.start : operation.end]
        assert written[0] == "<" and operation.start >= stops[-1]
        assert all(argument in written for argument in operation.args)
        stops.append(operation.end)
    for start, end in parsed.action_spans:
        assert not any(o.start < end and start < o.end for o in parsed.operations)


def test_a_hundred_thousand_random_strings():
    source = random.Random(7)
    tokens = ["<|", "|>", "<", ">", "}", "|", "</", "READ", "append", "END", "ACTION", "DONE", "OP"]
    tokens += ["notes", " ", "\n", "```", "<|END|>", "<|READ|>", "<|APPEND|>a|", "\ud800", "é", "x"]
    for _ in range(100_000):
        text = "".join(source.choices(tokens, k=source.randrange(12)))
        parsed = parse(text)
        position = 0
        for operation in parsed.operations:
            assert position <= operation.start < operation.end <= len(text)
            position = operation.end


@pytest.mark.parametrize(
    "piece",
    ["<|", "<|READ", "<|APPEND ", "<READ>", "<|x|>", "<ABC>", "<    ", "```", " ", "<|ACTION|>"]
    + ["<|READ|>a", "<|" + "A" * 64, "<|END|>"],
)
def test_time_is_linear_in_hostile_text(piece):
    def timed(size):
        text = "<|APPEND|>a|" + piece * (size // len(piece))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            parse(text)
            best = min(best, time.process_time() - start)
        return best

    timed(1_000)
    assert timed(200_000) < 50 * timed(10_000) + 0.3  # 20 times as much; a square would be 400
