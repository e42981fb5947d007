"""The tokenizer inside a GGUF file, as Hugging Face's tokenizer.json and tokenizer_config.json.

Byte-level BPE only (what GGUF calls "gpt2": Qwen, Llama 3, SmolLM2). The split into words is named by
tokenizer.ggml.pre; the patterns are those of the models' own tokenizer.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|DIGITS| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "qwen2": _WORDS.replace("DIGITS", r"\p{N}"),
    "llama-bpe": _WORDS.replace("DIGITS", r"\p{N}{1,3}"),
}


def open_gguf(path: str | Path) -> Any:
    """A GGUFReader of the `gguf` package.

    Raises:
      FileNotFoundError: no such file. ImportError: the package is not installed.
      ValueError: not a GGUF file, or one cut short.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(f"{path}: reading GGUF needs `pip install gguf`") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist; check the path or fetch it again")
    try:
        return GGUFReader(str(path))
    except Exception as error:  # the reader lets whatever a broken file causes through
        raise ValueError(
            f"{path}: not a readable GGUF file ({type(error).__name__}: {error}); fetch it again"
        ) from error


def metadata(reader: Any, key: str, default: Any = None) -> Any:
    """The value of a metadata key, or `default`."""
    field = reader.get_field(key)
    return default if field is None else field.contents()


def tokenizer_files(path: str | Path) -> dict[str, dict[str, Any]]:
    """File name -> JSON content of the tokenizer that the GGUF file holds.

    Raises:
      ValueError: not byte-level BPE, or a word split that is not known. Also as `open_gguf`.
    """
    reader = open_gguf(path)
    kind, split = metadata(reader, "tokenizer.ggml.model"), metadata(reader, "tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ValueError(
            f"{path}: tokenizer {kind!r} cannot be read, only byte-level BPE ('gpt2'); put the "
            "model's own tokenizer.json beside it"
        )
    tokens = metadata(reader, "tokenizer.ggml.tokens")
    kinds = metadata(reader, "tokenizer.ggml.token_type") or [1] * len(tokens)
    merges = metadata(reader, "tokenizer.ggml.merges")
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    vocabulary = {t: i for i, (t, k) in enumerate(zip(tokens, kinds, strict=True)) if k != _UNUSED}
    name = {
        part: tokens[index]
        for part, index in (
            (part, metadata(reader, f"tokenizer.ggml.{part}_token_id"))
            for part in ("bos", "eos", "padding", "unknown")
        )
        if index is not None
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": _pre_tokenizer(split, path),
        "post_processor": None,
        "decoder": _byte_level(False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split == "llama-bpe",
            "vocab": vocabulary,
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata(
            reader, f"{metadata(reader, 'general.architecture')}.context_length", 2048
        ),
        "clean_up_tokenization_spaces": False,
        "bos_token": name.get("bos"),
        "eos_token": name.get("eos"),
        "pad_token": name.get("padding"),
        "unk_token": name.get("unknown"),
    }
    template = metadata(reader, "tokenizer.chat_template")
    if template:
        config["chat_template"] = template
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def _pre_tokenizer(split: str | None, path: str | Path) -> dict[str, Any]:
    if split == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, _byte_level(True)]}
    if split in ("gpt-2", "default", None):
        return _byte_level(True)
    if split not in _PATTERNS:
        known = ", ".join(["smollm", "gpt-2", *_PATTERNS])
        raise ValueError(
            f"{path}: word split {split!r} (tokenizer.ggml.pre) is not known, only {known}; put the "
            "model's own tokenizer.json beside it"
        )
    pattern = {"type": "Split", "pattern": {"Regex": _PATTERNS[split]}}
    pattern |= {"behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [pattern, _byte_level(False)]}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": use_regex,
    }
