"""Renamed operations, from the template to the trace and to training examples."""

import pytest

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.template import from_data, load_template, structural_change, to_data
from automem_jax.agent.validate import validate
from automem_jax.selection.cleanup import clean_turn, vocabulary_of
from automem_jax.testing import ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings


def renamed(operations):
    data = to_data(load_template("memento_v0"))
    data["operations"] = operations
    data["slots"]["help"] = {"builtin": "memory_help"}
    data["slots"]["index"] = {"builtin": "file_index"}
    data["phases"]["log"]["system"] = ["help", "index"]
    data["limits"]["phase_tokens"] = 2_048
    return from_data(data)


TEMPLATE = renamed({"APPEND": "NOTE", "READ": "RECALL"})


def test_from_prompt_to_trace():
    assert validate(TEMPLATE) == []
    env = ToyEnv()
    agent = Agent(
        TEMPLATE, SamplingSettings(), episode=1, two_model=False, instructions=env.instructions
    )
    percept = env.reset([0], [1])[0]
    texts = {
        (1, "log", 0): "<|NOTE|>notes|sign: left<|END|><|APPEND|>notes|again<|END|>",
        (1, "log", 1): "<|RECALL|>notes<|END|>",
    }
    requests = []
    for _ in range(2):
        out = agent.observe(percept)
        while not isinstance(out, Decision):
            requests.append(out)
            usual = "<|DONE|>" if out.key.phase == "log" else "<|ACTION|>forward<|END|>"
            key = (out.key.step, out.key.phase, out.key.turn)
            out = agent.receive(Completion(texts.get(key, usual)))
        percept = env.step({0: out.action})[0]
    log = out.record["phases"][0]["turns"]
    system = requests[1].messages[0].content
    assert "<|NOTE|>file|text<|END|> adds lines" in system and "<|RECALL|>file" in system
    assert "APPEND" not in system and "READ" not in system
    assert [o["op"] for turn in log for o in turn["operations"]] == ["APPEND", "READ"]
    assert log[0]["operations"][0]["answer"] == "NOTE notes: 1 line"
    assert log[0]["errors"] == ["APPEND: no such operation; it is written NOTE here"]
    assert log[1]["operations"][0]["answer"] == "RECALL notes:\nsign: left"


def test_selection_reads_the_spelling_from_the_trace():
    vocabulary = vocabulary_of({"template": {"id": "x", "operations": dict(TEMPLATE.operations)}})
    cleaned = clean_turn("Well. <|NOTE|>a|b<|END|> done <|DONE|>", vocabulary)
    assert (cleaned.text, cleaned.reason) == ("Well. <|NOTE|>a|b<|END|>", None)
    assert clean_turn("<|NOTE|>a|b<|END|>", vocabulary_of({})).reason == "no_memory_operation"


def test_renaming_is_a_structural_change():
    assert structural_change(renamed({}), TEMPLATE) == ["operations.APPEND", "operations.READ"]


@pytest.mark.parametrize(
    "operations, told",
    [
        ({"APPEND": "note"}, "operations.APPEND: 'note' is no name"),
        ({"APPEND": "DONE"}, "operations.APPEND: DONE has a meaning of its own"),
        ({"APPEND": "READ"}, "operations.APPEND: READ is another operation's name"),
        ({"APPEND": "X", "READ": "X"}, "operations.APPEND: X names two operations"),
        ({"APEND": "X"}, "operations.APEND: unknown value 'APEND'"),
    ],
)
def test_bad_names_are_refused_with_their_place(operations, told):
    assert any(str(problem).startswith(told) for problem in validate(renamed(operations)))
