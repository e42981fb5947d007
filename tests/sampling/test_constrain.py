import numpy as np
import pytest
from models.tiny import tiny_decoder
from sampling.letters import LetterTokenizer

from automem_jax.agent.grammar import parse
from automem_jax.agent.template import load_template, operations_of
from automem_jax.sampling.constrain import TEXT, OperationGrammar, PieceTree, grammar_of
from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import GenerationRequest
from automem_jax.text.messages import SamplingSettings
from automem_jax.text.tokenizer import load_tokenizer

ACTIONS = ("north", "north east", "Do")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def tree(tokenizer):
    return PieceTree(tokenizer, tokenizer.vocab_size)


def accepts(grammar, tokenizer, text):
    """Whether a text may be written and the turn ended after it."""
    state = grammar.start()
    for token in tokenizer.encode(text):
        mask = grammar.allowed(state)
        if mask is not None and not mask[token]:
            return False
        state = grammar.advance(state, token)
    mask = grammar.allowed(state)
    return mask is None or bool(mask[tokenizer.eos_id])


def test_only_what_the_phase_can_execute_gets_through(tree, tokenizer):
    template = load_template("crafter_v0")
    own = next(name for name, spec in template.files.items() if "APPEND" in operations_of(spec))
    log = grammar_of(template, "log", ACTIONS, tree)
    plan = grammar_of(template, "plan", ACTIONS, tree)
    for text in (
        "free text, a < b, <b> and <<|DONE|>",
        f"I note it. <|APPEND|>{own}|a < b and | more<|END|> then <|DONE|>",
        f"<|READ|>{own}<|END|>",
    ):
        assert accepts(log, tokenizer, text), text
    for text in (
        f"<|APPEND|>{own}<|END|>",
        "<|APPEND|>no_such_file|x<|END|>",
        "<|FORGET|>x<|END|>",
        f"<|APPEND|>{own}|x",
        f"<|APPEND|>{own}|x<|DONE|>",
        "<|ACTION|>north<|END|>",
        "<|",
    ):
        assert not accepts(log, tokenizer, text), text
    for action in ACTIONS:
        assert accepts(plan, tokenizer, f"Go. <|ACTION|>{action}<|END|>")
    assert not accepts(plan, tokenizer, "<|ACTION|>north west<|END|>")
    assert not accepts(plan, tokenizer, f"<|APPEND|>{own}|x<|END|>")


def test_a_mask_says_what_walking_the_bytes_says(tree, tokenizer):
    grammar = OperationGrammar(tree, {"READ": (("notes", "no"), "no")}, ("no", "north"))
    state = grammar.start()
    for token in tokenizer.encode("so <|ACTION|>no"):
        mask = grammar.allowed(state)
        for candidate in range(tokenizer.vocab_size):
            try:
                grammar.advance(state, candidate)
                fits = bool(tree.pieces[candidate])
            except ValueError:
                fits = False
            if candidate == tokenizer.eos_id:
                fits = state[0] == "text"
            assert (
                (mask is None and fits)
                or not tree.pieces[candidate]
                or mask is None
                or (bool(mask[candidate]) == fits)
            )
        state = grammar.advance(state, token)


def test_a_model_of_noise_writes_operations_that_parse(tree, tokenizer):
    """Random weights under a constraint: every operation that was opened is whole and executable."""
    model = tiny_decoder(vocab_size=tokenizer.vocab_size)
    actions = ("a", "bb", "cc c")
    grammar = OperationGrammar(tree, {"NOTE": (("x", "yy"), "must")}, actions)
    engine = Engine(model, tokenizer, slots=8, max_context=96)
    opened = tokenizer.encode("hm <|")
    settings = SamplingSettings(max_tokens=40, temperature=2.0)

    class Opened(OperationGrammar):
        def start(self):
            return grammar._opening

    started = Opened(tree, {"NOTE": (("x", "yy"), "must")}, actions)
    requests = [
        GenerationRequest(i, [5 + i, *opened], settings, (i, 0, 0, 0, 0), None, started)
        for i in range(8)
    ]
    together = engine.generate(requests)
    kinds = set()
    for answer in together:
        text = "<|" + answer.text
        found = parse(text, {"NOTE": "APPEND"})
        if found.operations and answer.finish_reason == "stop":
            assert found.operations[0].args[0] in ("x", "yy")
        if found.action is not None and text.startswith("<|ACTION"):
            assert found.action in actions or answer.finish_reason == "length"
        kinds.add(text[:4])
        assert text.startswith(("<|NOTE|>x|", "<|NOTE|>yy|", "<|ACTION|>", "<|DONE|>"))
    assert len(kinds) > 1
    alone = [engine.generate([request])[0].token_ids for request in requests[:2]]
    assert alone == [answer.token_ids for answer in together[:2]]
    other = Engine(model, tokenizer, slots=8, max_context=96, burst=1)
    assert [a.token_ids for a in other.generate(requests)] == [a.token_ids for a in together]
    assert grammar.allowed(TEXT) is None or np.any(grammar.allowed(TEXT))


def test_a_tokenizer_that_hides_its_bytes_is_refused():
    with pytest.raises(ValueError, match="without a constraint"):
        PieceTree(LetterTokenizer(), 64)
