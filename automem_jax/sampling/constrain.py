"""Grammar-constrained decoding: after an opening `<|` only an operation that can be executed gets through.

Text is free. Once `<|` is written, what follows is spelt from the template: an operation that the phase
offers, one of its files, its text where it takes any, `<|END|>`; `<|DONE|>`; or `<|ACTION|>` with an action
that there is. The machine reads bytes; which tokens it lets through is found by walking all tokens' bytes
as one tree, and kept for each state.

A state is a tuple: ("text", seen) with `seen` 1 after a "<"; ("words", node) inside a choice of words;
("argument", seen) inside an operation's text, where `seen` counts the bytes of `<|END|>` matched.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from automem_jax.agent.template import Template, operations_of
from automem_jax.agent.validate import operations_offered
from automem_jax.text.tokenizer import Tokenizer

TEXT = ("text", 0)
_OPEN, _CLOSE = b"<|", b"<|END|>"
_NEEDS_TEXT = ("SEARCH", "APPEND", "WRITE", "UPSERT", "CHECK")
_MAY_TEXT = ("TAIL",)


@dataclass(eq=False)
class _Node:
    """A choice of what may be written next: byte -> node; `then` is the state after a whole word."""

    next: dict[int, _Node] = field(default_factory=dict)
    then: tuple | None = None

    def add(self, word: bytes, then: tuple) -> None:
        node = self
        for byte in word:
            node = node.next.setdefault(byte, _Node())
        node.then = then


class PieceTree:
    """The bytes of all tokens of a tokenizer as one tree. Built once for a tokenizer, shared.

    Raises:
      ValueError: a tokenizer that cannot tell the bytes of its tokens.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        known = min(vocab_size, tokenizer.vocab_size)
        pieces_of = getattr(tokenizer, "pieces", None)
        pieces = None if pieces_of is None else pieces_of(list(range(known)))
        if pieces is None:
            raise ValueError(
                "this tokenizer cannot tell the bytes of its tokens; decode without a constraint"
            )
        self.vocab_size, self.eos_id, self.pieces = vocab_size, tokenizer.eos_id, pieces
        self.root: dict = {}
        for token, piece in enumerate(pieces):
            if piece:
                node = self.root
                for byte in piece:
                    node = node.setdefault(byte, {})
                node.setdefault(-1, []).append(token)


class OperationGrammar:
    """A `requests.Constraint` for one phase of a template.

    Args:
      operations: spelling -> (files it may name, whether it takes text: "no", "may" or "must").
      actions: that may be committed; empty: no ACTION here.
    """

    def __init__(
        self,
        tree: PieceTree,
        operations: Mapping[str, tuple[Sequence[str], str]],
        actions: Iterable[str] = (),
    ):
        self._tree = tree
        self._nodes: list[_Node] = []
        self._masks: dict[Hashable, np.ndarray | None] = {}
        opening = _Node()
        opening.add(b"DONE|>", TEXT)
        for spelling, (files, text) in operations.items():
            named = _Node()
            for name in files:
                if text != "must":
                    named.add(name.encode() + _CLOSE, TEXT)
                if text != "no":
                    named.add(name.encode() + b"|", ("argument", 0))
            if files:
                opening.add(spelling.encode() + b"|>", self._words(named))
        choice = _Node()
        for action in actions:
            choice.add(action.encode() + _CLOSE, TEXT)
        if choice.next:
            opening.add(b"ACTION|>", self._words(choice))
        self._opening = self._words(opening)

    def start(self) -> Hashable:
        """Free text."""
        return TEXT

    def advance(self, state: Hashable, token: int) -> Hashable:
        """The state after `token`. ValueError: it was not allowed."""
        if token == self._tree.eos_id:
            return TEXT
        for byte in self._tree.pieces[token]:
            state = self._step(state, byte)
            if state is None:
                raise ValueError(f"token {token} cannot follow here; it was not allowed")
        return state

    def allowed(self, state: Hashable) -> np.ndarray | None:
        """[V] bool; None where every token that has text, and the end of turn, may follow."""
        if state not in self._masks:
            mask = np.zeros(self._tree.vocab_size, bool)
            waiting = [(self._tree.root, state)]
            while waiting:
                node, at = waiting.pop()
                for byte, child in node.items():
                    if byte == -1:
                        mask[child] = True
                    elif (after := self._step(at, byte)) is not None:
                        waiting.append((child, after))
            mask[self._tree.eos_id] = state[0] == "text"
            texts = sum(map(bool, self._tree.pieces))
            free = state[0] == "text" and int(mask.sum()) == texts + 1
            self._masks[state] = None if free else mask
        return self._masks[state]

    def _words(self, node: _Node) -> tuple:
        """The state at the start of a choice."""
        return "words", self._number(node)

    def _number(self, node: _Node) -> int:
        if node not in self._nodes:
            self._nodes.append(node)
        return self._nodes.index(node)

    def _step(self, state: tuple, byte: int) -> tuple | None:
        kind, at = state
        if kind == "text":
            if at and byte == _OPEN[1]:
                return self._opening
            return "text", int(byte == _OPEN[0])
        if kind == "words":
            node = self._nodes[at].next.get(byte)
            if node is None:
                return None
            return node.then if node.then is not None else ("words", self._number(node))
        if byte == _CLOSE[at]:
            return TEXT if at + 1 == len(_CLOSE) else ("argument", at + 1)
        if at >= len(_OPEN):  # after "<|" nothing but the closing tag is an operation's end
            return None
        return "argument", int(byte == _CLOSE[0])


def grammar_of(
    template: Template, phase: str, actions: Sequence[str], tree: PieceTree
) -> OperationGrammar:
    """What a phase ("log" or "plan") of a template can execute, in the template's own spelling.

    Actions may be committed in "plan" only.
    """
    operations = {}
    for op in operations_offered(template, phase):
        files = [name for name, spec in template.files.items() if op in operations_of(spec)]
        text = "must" if op in _NEEDS_TEXT else "may" if op in _MAY_TEXT else "no"
        if files:
            operations[template.operations.get(op, op)] = (files, text)
    return OperationGrammar(tree, operations, actions if phase == "plan" else ())
