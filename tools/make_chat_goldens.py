"""Writes tests/data/chat_golden.json: conversations and the tokens that chat templates give them.

Needs transformers. The tokenizer is a small byte-level BPE with Qwen's split and control tokens, kept in
the file; the templates are those that Qwen2.5 and SmolLM2 publish (without Qwen's tools part). With a
second argument, a directory with SmolLM2's own tokenizer, its tokens too.

    python tools/make_chat_goldens.py tests/data [DIRECTORY]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)
TEMPLATES = {"qwen2.5": QWEN, "smollm2": SMOLLM2}
CONVERSATIONS = [
    [("user", "see: lichen")],
    [
        ("system", "Keep notes."),
        ("user", "step 12\n\nmessage:\n"),
        ("assistant", "<|APPEND|>a|b<|END|>"),
    ],
    [
        ("user", "\n\n  leading space"),
        ("assistant", " \nx"),
        ("user", "trailing  \n"),
        ("assistant", ""),
    ],
    [("system", ""), ("user", "zażółć 🦊\t日本語 I'm we'LL 3.14  2024"), ("assistant", "ok\n")],
    [
        ("user", "a"),
        ("assistant", "b"),
        ("system", "later"),
        ("user", "\r\n c"),
        ("assistant", "  d"),
    ],
]


def small_tokenizer() -> dict[str, Any]:
    """A tokenizer.json of about 400 tokens."""
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated"), byte_level]
    )
    made.decoder = decoders.ByteLevel()
    texts = [text for turns in CONVERSATIONS for _, text in turns] + ["\n\n", "\n\n\n", "system\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(texts * 3, trainer)
    return json.loads(made.to_str())


def template_ids(directory: str | Path, template: str | None) -> list[list[list[int]]]:
    """For each conversation: the template's tokens with and without a generation prompt."""
    from transformers import PreTrainedTokenizerFast

    file = str(Path(directory) / "tokenizer.json")
    made = PreTrainedTokenizerFast(tokenizer_file=file, clean_up_tokenization_spaces=False)
    if template is None:
        config = json.loads((Path(directory) / "tokenizer_config.json").read_text())
        template = config["chat_template"]
    found = []
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": text} for role, text in turns]
        found.append(
            [
                list(
                    made.apply_chat_template(
                        messages,
                        chat_template=template,
                        add_generation_prompt=prompt,
                        return_dict=False,
                    )
                )
                for prompt in (True, False)
            ]
        )
    return found


def main(directory: str, smollm2: str = "") -> None:
    tokenizer = small_tokenizer()
    content: dict[str, Any] = {
        "tokenizer": tokenizer, "templates": TEMPLATES, "conversations": CONVERSATIONS, "ids": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "tokenizer.json").write_text(json.dumps(tokenizer))
        for name, template in TEMPLATES.items():
            content["ids"][name] = template_ids(place, template)
    if smollm2:
        content["ids"]["smollm2-135m"] = template_ids(smollm2, None)
    path = Path(directory) / "chat_golden.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
