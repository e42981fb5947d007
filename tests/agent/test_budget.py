"""No prompt exceeds its token budget, whatever the world and the model say; cuts are visible."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.budget import (
    Piece,
    byte_size,
    cuts,
    estimate_tokens,
    estimated_counter,
    fit,
)
from automem_jax.agent.template import from_data, load_template, to_data
from automem_jax.agent.validate import validate
from automem_jax.testing import ToyEnv
from automem_jax.text.chat import TokenCount, render
from automem_jax.text.messages import Completion, Message, SamplingSettings
from automem_jax.text.tokenizer import load_tokenizer

EMBEDDED = load_tokenizer("embedded")
RNG = random.Random(0)
DUNGEON = "\n".join("".join(RNG.choice(" .|-#@dk+>") for _ in range(79)) for _ in range(21))
NOTES = "\n".join(f"step {i}: found coal {i % 7} west of the table, 2 wood left" for i in range(90))
JUNK = "".join(chr(RNG.randrange(0x20, 0x3000)) for _ in range(900)) + "\U0001f600\ud800" * 50


def exact(messages):
    return len(render(messages, EMBEDDED))


def crowded(budget=600, **slots):
    """A template that shows two files and the observation, all of it more than fits."""
    data = to_data(load_template("memento_v0"))
    data["actions"]["fallback"] = "wait"
    data["limits"] |= {"phase_tokens": budget, "read_chars": 4000}
    data["files"]["notes"]["seed"] = NOTES
    data["files"]["rules"] = {"kind": "reference", "seed": "rule one\nrule two"}
    data["slots"]["notes"] = {"file": "notes", "label": "notes:\n", "priority": 2}
    data["slots"]["rules"] = {"file": "rules", "priority": 8}
    data["slots"]["see"] = {"source": "percept.language", "label": "see: ", "priority": 4}
    for name, changes in slots.items():
        data["slots"][name] |= changes
    for phase in ("log", "plan"):
        data["phases"][phase]["slots"][:0] = ["rules", "notes"]
        data["phases"][phase]["max_turns"] = 6
    return from_data(data)


def play(template, replies, language="a corridor", steps=1, count=exact, **agent):
    """Requests and records of a few steps; every step's observation is `language`."""
    env = ToyEnv()
    agent = Agent(
        template,
        SamplingSettings(),
        episode=0,
        two_model=agent.pop("two_model", False),
        instructions="",
        count_tokens=count,
        **agent,
    )
    percept, requests, records = env.reset([0], [0])[0], [], []
    replies = iter(replies)
    for _ in range(steps):
        fields = {**percept.fields, "language": language}
        out = agent.observe(dataclasses.replace(percept, fields=fields))
        while not isinstance(out, Decision):
            requests.append(out)
            out = agent.receive(Completion(next(replies, "<|ACTION|>forward<|END|>")))
        records.append(out.record)
        percept = env.step({0: out.action})[0]
    return requests, records


@pytest.mark.parametrize("budget", [260, 600, 1500, 4000])
@pytest.mark.parametrize("language", ["a corridor", DUNGEON, NOTES, JUNK])
def test_no_prompt_of_a_long_conversation_exceeds_the_budget(budget, language):
    read = "<|READ|>notes<|END|><|SEARCH|>notes|coal<|END|>"
    replies = [JUNK + read, read, "hm", read, "x" * 5000, read] * 4
    for two_model in (False, True):
        requests, records = play(crowded(budget), replies, language, steps=4, two_model=two_model)
        sizes = [exact(request.messages) for request in requests]
        assert max(sizes) <= budget and len(sizes) >= 8
        assert all(record["action"] in ToyEnv.actions for record in records)


def test_slots_are_cut_lowest_priority_first_and_say_so():
    requests, records = play(crowded(900), [], "you see " + "grass " * 30)
    (user,) = (m.content for m in requests[0].messages if m.role == "user")
    phase = records[0]["phases"][0]
    (cut,) = phase["cuts"]
    assert (cut["turn"], cut["slot"], cut["of"]) == (0, "notes", len(NOTES))
    assert 0 < cut["kept"] < cut["of"]
    kept = NOTES[-cut["kept"] :]
    assert f"notes:\n[cut: {len(NOTES) - cut['kept']} characters]\n{kept}\n" in user
    assert kept.startswith("step ") and "rule one\nrule two" in user  # whole lines, the last ones
    first, last = phase["shown"]["notes"][0]
    assert last == 89 and kept.count("\n") == last - first
    assert user.startswith("rule one") and "grass grass" in user


def test_more_is_cut_where_the_first_slot_does_not_suffice():
    requests, records = play(crowded(400), [], "grass " * 300)
    user = requests[0].messages[-1].content
    kept = {cut["slot"]: cut["kept"] for cut in records[0]["phases"][0]["cuts"]}
    assert kept["notes"] == 0 and 0 < kept["see"] < 1800
    assert "see: grass" in user and "…[cut: " in user and user.endswith("plan: read notes or act")
    assert "notes" not in records[0]["phases"][0]["shown"]
    requests, _ = play(crowded(400, see={"priority": 1}), [], "grass " * 300)
    assert "see:  …[cut: 1800 characters]" in requests[0].messages[-1].content


def test_answers_are_cut_visibly_and_what_was_read_is_what_was_shown():
    data = to_data(crowded(900))
    for phase in ("log", "plan"):
        data["phases"][phase]["slots"].remove("notes")
    requests, records = play(from_data(data), ["<|READ|>notes<|END|>"])
    answer = requests[1].messages[-1].content
    phase = records[0]["phases"][0]
    operation = phase["turns"][0]["operations"][0]
    assert operation["answer"] == answer and answer.startswith("READ notes:\nstep 0: ")
    assert answer.splitlines()[-1].startswith("[cut: ")
    assert operation["read"] == list(range(answer.count("\n") - 1)) and len(operation["read"]) > 3
    assert [(c["turn"], c["slot"]) for c in phase["cuts"]] == [(1, "answer")]


def test_a_conversation_without_room_closes_with_the_last_request():
    data = to_data(crowded(700))
    data["phases"]["plan"]["max_turns"] = 10
    requests, records = play(from_data(data), ["<|READ|>notes<|END|>"] * 9)
    assert len(requests) < 6 and requests[-1].messages[-1].content.endswith("act now")
    last = records[0]["phases"][0]["turns"][-1]
    assert last["operations"][0]["error"] == "READ is not allowed here; allowed: none"
    assert records[0]["action_source"] == "fallback"


def test_what_fits_is_left_alone_and_not_even_counted():
    def never(messages):
        raise AssertionError("bytes suffice")

    data = to_data(load_template("memento_v0"))
    data["limits"]["phase_tokens"] = 2000
    closing = [[], [Message("assistant", "(no answer)"), Message("user", "act now")]]
    requests, records = play(
        from_data(data), [], count=lambda m: 20 if list(m) in closing else never(m)
    )
    assert records[0]["phases"][0]["cuts"] == []
    assert requests[0].messages[1].content.startswith("see: a corridor")


def test_the_models_context_bounds_prompts_too():
    requests, _ = play(crowded(4000), ["<|READ|>notes<|END|>"] * 3, context_tokens=300)
    assert max(exact(request.messages) for request in requests) <= 300


@given(
    st.lists(st.text(max_size=300) | st.sampled_from([NOTES, DUNGEON]), min_size=1, max_size=5),
    st.integers(80, 3000),
    st.lists(st.sampled_from(["head", "first", "last"]), min_size=5, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_fit_keeps_any_budget_or_says_that_it_cannot(texts, budget, keeps):
    pieces = [Piece(f"p{i}", t, (i,), keeps[i]) for i, t in enumerate(texts)]

    def compose(_=()):
        return [Message("user", "\n\n".join(piece.shown for piece in pieces))]

    count = estimated_counter()
    assert fit(pieces, compose, budget, count)
    assert count(compose()) <= budget
    for cut in cuts(pieces, 0):
        assert 0 <= cut["kept"] <= cut["of"]
    for piece in pieces:
        if piece.kept and not piece.gone and piece.keep != "last":
            assert piece.shown.startswith(piece.text[: piece.kept])


def byte_level(vocabulary):
    """A byte-level vocabulary like those of Qwen and Llama, learnt from this repository's sources."""
    import pathlib

    import automem_jax

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    root = pathlib.Path(automem_jax.__file__).parent
    made.train_from_iterator([p.read_text() for p in sorted(root.rglob("*.py"))], trainer)
    return made


def test_the_estimate_bounds_a_byte_level_vocabulary():
    made = byte_level(10_000)
    letters = "".join(RNG.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(3000))
    mixed = "".join(RNG.choice("abcXYZ019+/") for _ in range(3000))
    numbers = " ".join(str(RNG.randrange(99)) for _ in range(500))
    blank = "\n".join(" " * 40 + "|..@..|" + " " * 32 for _ in range(21))
    for text in (DUNGEON, NOTES, letters, mixed, numbers, blank, "A" * 500, "\x00\x1b" * 99):
        assert len(made.encode(text).ids) <= estimate_tokens(text) <= len(text.encode()) + 2
    plain = JUNK.replace("\ud800", "?")
    assert len(made.encode(plain).ids) <= estimate_tokens(plain)
    assert estimate_tokens(NOTES) < 0.8 * len(NOTES)  # no use if it were bytes


def test_the_count_of_a_local_model_is_exact():
    count = TokenCount(EMBEDDED)
    talk = [Message("system", "rules"), Message("user", NOTES), Message("assistant", "x\ny")]
    for end in range(1, 4):
        assert count(talk[:end]) == len(render(talk[:end], EMBEDDED))
        assert count(talk[:end]) <= byte_size(talk[:end])


def test_constant_text_that_cannot_fit_is_an_error_with_its_place():
    data = to_data(crowded(600))
    data["text"]["plan"] = "a long rule. " * 200
    problems = [str(p) for p in validate(from_data(data)) if p.place == "phases.plan"]
    assert len(problems) == 1 and "of phase_tokens 600; shorten texts" in problems[0]
    data["limits"]["phase_tokens"] = 9000
    assert not validate(from_data(data))
    data["limits"]["phase_tokens"] = 50
    assert any(p.place == "limits.phase_tokens" for p in validate(from_data(data)))
    data = to_data(crowded(600, see={"priority": 10}))
    assert [p.place for p in validate(from_data(data))] == ["slots.see.priority"]
