"""Tokenizers: SentencePiece (the embedded model) and Hugging Face tokenizer.json (Qwen, Llama).

Plain text never yields a control token: text from an environment, a file or a model cannot open or
close a chat turn.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from automem_jax.text.sources import gguf_of, resolve


class Tokenizer(Protocol):
    """What sampling, chat rendering and training need of a tokenizer.

    Where it has an attribute `default_system` (text or None), that replaces the chat format's own.
    """

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

    def pieces(self, ids: list[int]) -> list[bytes] | None:
        """The bytes that each id adds to the text, b"" for a control token; None where the bytes of a
        token depend on its neighbours."""

    def name(self, token: int) -> str:
        """How the vocabulary writes a token, control tokens included; for people to read."""

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
        self._control_ids = set(self._control.values())
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
        return self._sp.decode([int(i) for i in ids if int(i) not in self._control_ids])

    def pieces(self, ids: list[int]) -> list[bytes] | None:
        return [
            b""
            if token in self._control_ids
            else bytes([int(self._sp.id_to_piece(token)[3:5], 16)])
            if token in self._bytes
            else self._sp.id_to_piece(token).replace("\u2581", " ").encode()
            for token in ids
        ]

    def name(self, token: int) -> str:
        return self._sp.id_to_piece(int(token))

    def control(self, name: str) -> int:
        if name not in self._control:
            raise KeyError(
                f"no control token {name!r}; this vocabulary has {sorted(self._control)}"
            )
        return self._control[name]


class HuggingFaceTokenizer:
    """A tokenizer.json, read by the `tokenizers` library.

    Args:
      source: a checkpoint directory, or the contents of its files by name: "tokenizer.json" and,
        where it has one, "tokenizer_config.json".

    Every added token that is written like a control token ("<|...|>") is one, also where the file does
    not mark it special, so that text cannot forge it.
    """

    def __init__(self, source: str | Path | Mapping[str, Any]):
        import tokenizers

        files = source if isinstance(source, Mapping) else _read_files(Path(source))
        content = dict(files["tokenizer.json"])
        content["added_tokens"] = [
            token | {"special": token["special"] or _is_control(token["content"])}
            for token in content.get("added_tokens") or ()
        ]
        _keep_offsets(content)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer.json cannot be read ({error}); fetch it again") from error
        self._tokenizer.encode_special_tokens = True  # special tokens written in text stay text
        added = self._tokenizer.get_added_tokens_decoder()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._control = {token.content: i for i, token in added.items() if token.special}
        self._control_ids = set(self._control.values())
        self._added = {i: token.content for i, token in added.items()}
        self._byte_level = (content.get("decoder") or {}).get("type") == "ByteLevel"
        self._set_chat_format(files.get("tokenizer_config.json", {}).get("chat_template"))
        self.pad_id = self._control.get("<|endoftext|>", self.eos_id)

    def _set_chat_format(self, template: Any) -> None:
        if isinstance(template, list):  # several, by name
            template = next((t["template"] for t in template if t["name"] == "default"), None)
        self.chat_format = "llama3" if "<|eot_id|>" in self._control else "chatml"
        if self.chat_format == "chatml" and template:
            found = re.search(
                r"<\|im_start\|>system\n([^'\"{}]*?)<\|im_end\|>", _unescaped(template)
            )
            self.default_system = found[1] if found else None
            if self.default_system and "SmolLM" in self.default_system:
                self.chat_format = "smollm2"
        self.eos_id = self.control("<|eot_id|>" if self.chat_format == "llama3" else "<|im_end|>")

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(_no_lone_surrogates(text), add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._tokenizer.encode(_no_lone_surrogates(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int]) -> str:
        kept = [int(i) for i in ids if int(i) not in self._control_ids]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def pieces(self, ids: list[int]) -> list[bytes] | None:
        if not self._byte_level:
            return None
        letters, found = _byte_of_letter(), []
        for token in ids:
            if token in self._control_ids:
                found.append(b"")
            elif token in self._added:
                found.append(self._added[token].encode())
            else:
                piece = self._tokenizer.id_to_token(token)
                if piece is None or any(letter not in letters for letter in piece):
                    return None
                found.append(bytes(letters[letter] for letter in piece))
        return found

    def name(self, token: int) -> str:
        return self._tokenizer.id_to_token(int(token)) or ""

    def control(self, name: str) -> int:
        if name not in self._control:
            raise KeyError(
                f"no control token {name!r}; this vocabulary has {sorted(self._control)}"
            )
        return self._control[name]


def load_tokenizer(source: str) -> Tokenizer:
    """Tokenizer of a model source: the name of a shipped or fetched model, a GGUF file, or a directory with
    tokenizer.json, tokenizer.model or a GGUF file.

    Raises:
      FileNotFoundError: there is none. ValueError: it cannot be read.
    """
    path = resolve(source)
    if (path / "tokenizer.json").is_file():
        return HuggingFaceTokenizer(path)
    if (path / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path / "tokenizer.model")
    gguf = gguf_of(path)
    if gguf is not None:
        from automem_jax.text.gguf_tokenizer import tokenizer_files

        return HuggingFaceTokenizer(tokenizer_files(gguf))
    raise FileNotFoundError(
        f"model directory {source!r} holds neither tokenizer.json nor tokenizer.model"
    )


class VocabularyError(ValueError):
    """A tokenizer of another vocabulary than the model's."""


def check_vocabulary(tokens: int, rows: int, place: str) -> None:
    """Refuses a tokenizer of `tokens` ids beside an embedding of `rows` rows.

    Checkpoints pad their embedding for even sharding (Qwen2.5: 151,665 tokens, up to 152,064 rows), so
    some rows may be left over: 128, or 2 % where that is more.

    Raises:
      VocabularyError: it knows more tokens than there are rows, or far fewer.
    """
    if tokens <= rows <= tokens + max(128, rows // 50):
        return
    raise VocabularyError(
        f"{place}: the tokenizer has {tokens:,} tokens, the model's embedding {rows:,} rows; they are "
        "of different models: use the tokenizer that came with these weights"
    )


def _read_files(directory: Path) -> dict[str, Any]:
    """The tokenizer's JSON files of a directory; chat_template.jinja goes where it belongs."""
    if not (directory / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{str(directory / 'tokenizer.json')!r} does not exist; a checkpoint directory needs it"
        )
    files: dict[str, Any] = {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = directory / name
        try:
            files[name] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}); fetch it again") from error
    template = directory / "chat_template.jinja"
    if template.is_file():
        files["tokenizer_config.json"]["chat_template"] = template.read_text(encoding="utf-8")
    return files


def _is_control(text: str) -> bool:
    return text.startswith("<|") and text.endswith("|>")


def _unescaped(template: str) -> str:
    """A template's text with the line breaks inside its literals as such."""
    return template.replace("\\n", "\n")


def _keep_offsets(content: dict[str, Any]) -> None:
    """Lets a token's characters include its leading space: a token of nothing else has some too."""
    for part in ("pre_tokenizer", "post_processor"):
        stage = content.get(part) or {}
        for each in (stage, *(stage.get("pretokenizers") or stage.get("processors") or ())):
            if each.get("type") == "ByteLevel":
                each["trim_offsets"] = False


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as a letter: printable ones as themselves, others from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    letters = {chr(256 + index): byte for index, byte in enumerate(others)}
    return letters | {chr(byte): byte for byte in printable}


def _no_lone_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
