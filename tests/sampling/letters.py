"""A tokenizer for tests: one token a letter, a few pieces of several letters, chat controls."""

PIECES = ["<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PIECES += list("abcdefghijklmnopqrstuvwxyz </>.") + ["ab", "</", "a>", "</a>", "b</", "><"]


class LetterTokenizer:
    """decode joins pieces; encode reads letter by letter."""

    vocab_size = len(PIECES)
    pad_id, eos_id = 0, 4
    chat_format = "roles"

    def encode(self, text):
        return [PIECES.index(c) if c in PIECES else PIECES.index(".") for c in text]

    def decode(self, ids):
        return "".join(PIECES[i] for i in ids if 5 <= i < len(PIECES))

    def control(self, name):
        return PIECES.index(name)
