"""Tokenizers: SentencePiece (the embedded model) and Hugging Face tokenizer.json (Qwen, Llama).

Plain text never yields a control token: text from an environment, a file or a model cannot open or
close a chat turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """What sampling, chat rendering and training need of a tokenizer."""

    vocab_size: int
    pad_id: int
    eos_id: int  # ends an assistant turn
    chat_format: str  # a key of chat.FORMATS

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; never a control token."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and, for each, its [start, end) character span in `text`."""

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; control tokens are left out, undecodable bytes become U+FFFD."""

    def control(self, name: str) -> int:
        """Id of the control token written `name`, e.g. "<|user|>".

        Raises:
          KeyError: the vocabulary has no such control token.
        """


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback, no normalisation and chat roles as control symbols."""

    chat_format = "roles"

    def __init__(self, path: str | Path):
        import sentencepiece

        if not Path(path).is_file():
            raise FileNotFoundError(f"tokenizer model {str(path)!r} does not exist")
        self._sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.vocab_size: int = self._sp.vocab_size()
        self.pad_id: int = self._sp.pad_id()
        self._control = {
            self._sp.id_to_piece(i): i for i in range(self.vocab_size) if self._sp.is_control(i)
        }
        self._bytes = {i for i in range(self.vocab_size) if self._sp.is_byte(i)}
        self.eos_id: int = self.control("<|end|>")

    def encode(self, text: str) -> list[int]:
        return self._sp.encode(_no_lone_surrogates(text))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self.encode(text)
        offsets, position, pending = [], 0, b""
        for token in ids:
            start = position
            if token in self._bytes:
                pending += bytes([int(self._sp.id_to_piece(token)[3:5], 16)])
                try:
                    position += len(pending.decode("utf-8"))
                    pending = b""
                    offsets.append((start, position))
                except UnicodeDecodeError:
                    offsets.append((start, start + 1))
                continue
            position += len(self._sp.id_to_piece(token))
            offsets.append((start, position))
        return ids, offsets

    def decode(self, ids: list[int]) -> str:
        return self._sp.decode([int(i) for i in ids if int(i) not in self._control.values()])

    def control(self, name: str) -> int:
        if name not in self._control:
            raise KeyError(
                f"no control token {name!r}; this vocabulary has {sorted(self._control)}"
            )
        return self._control[name]


class HuggingFaceTokenizer:
    """A checkpoint directory's tokenizer.json, read by the `tokenizers` library."""

    def __init__(self, directory: str | Path):
        import tokenizers

        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(path)!r} does not exist; a checkpoint directory needs its tokenizer.json"
            )
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True  # special tokens written in text stay text
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder()
        self._control = {token.content: i for i, token in added.items() if token.special}
        self._control_ids = set(self._control.values())
        self.chat_format = "llama3" if "<|eot_id|>" in self._control else "chatml"
        self.eos_id = self.control("<|eot_id|>" if self.chat_format == "llama3" else "<|im_end|>")
        self.pad_id = self._control.get("<|endoftext|>", self.eos_id)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(_no_lone_surrogates(text), add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._tokenizer.encode(_no_lone_surrogates(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int]) -> str:
        kept = [int(i) for i in ids if int(i) not in self._control_ids]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def control(self, name: str) -> int:
        if name not in self._control:
            raise KeyError(
                f"no control token {name!r}; this vocabulary has {sorted(self._control)}"
            )
        return self._control[name]


def load_tokenizer(source: str) -> Tokenizer:
    """Tokenizer of a model source: "embedded", or a directory with tokenizer.json or tokenizer.model.

    Raises:
      FileNotFoundError: the directory has neither.
    """
    if source == "embedded":
        from importlib import resources

        with resources.as_file(resources.files("automem_jax.models") / "assets") as assets:
            return SentencePieceTokenizer(assets / "tokenizer.model")
    directory = Path(source)
    if (directory / "tokenizer.json").is_file():
        return HuggingFaceTokenizer(directory)
    if (directory / "tokenizer.model").is_file():
        return SentencePieceTokenizer(directory / "tokenizer.model")
    raise FileNotFoundError(
        f"model directory {source!r} holds neither tokenizer.json nor tokenizer.model"
    )


def _no_lone_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
