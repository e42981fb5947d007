"""`automem convert`, `automem models` and the preview of `automem select`, as a user calls them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import automem_jax
from automem_jax.report import preview
from automem_jax.text.tokenizer import load_tokenizer

ROOT = Path(automem_jax.__file__).parents[1]


def automem(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "automem_jax", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
    )


def test_convert_writes_once_and_says_what_is_wrong(tmp_path):
    done = automem("convert", "embedded", "--to=hf", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {"config.json", "model.safetensors", "tokenizer.model"} <= set(
        os.listdir(tmp_path / "out")
    )
    again = automem("convert", "embedded", "--to=hf", tmp_path / "out")
    assert again.returncode == 1 and "not overwritten" in again.stderr


def test_models_names_what_is_unknown(tmp_path):
    done = automem("models", "get", "smollm3", AUTOMEM_CACHE=str(tmp_path))
    assert done.returncode == 1 and "one of smollm2-135m" in done.stderr


def test_preview_colours_what_is_learnt_and_escapes_the_rest(tmp_path):
    from rich.console import Console

    tokenizer = load_tokenizer("embedded")
    answer = "<|APPEND|>notes|<b>x</b><|END|>"
    example = {
        "messages": [
            {"role": "user", "content": "<script>alert(1)</script>\x1b[31m"},
            {"role": "assistant", "content": answer},
        ],
        "supervised": [{"message": 1, "start": 0, "end": len(answer)}],
        "history": [],
        "token_ids": [{"message": 1, "ids": tokenizer.encode(answer)}],
        "provenance": {"seed": 7, "t": 3},
    }
    path = tmp_path / "examples.jsonl"
    path.write_text((json.dumps(example) + "\n") * 3)
    shown = list(preview.previews(path, tokenizer, "memory_ops", 2))
    assert len(shown) == 2 and "seed 7" in shown[0].title
    assert "".join(t.text for t in shown[0].tokens if t.weight and not t.control) == answer
    assert (shown[0].sampled, shown[0].retokenised) == (1, 0)
    preview.write_html(tmp_path / "p.html", shown, "memory_ops")
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page and "<b>" not in page and "\x1b" not in page
    assert page.count("class=learnt") == 2 * shown[0].supervised
    out = io.StringIO()
    preview.print_previews(shown, Console(file=out, force_terminal=True, width=200))
    assert "\x1b[31m" not in out.getvalue() and "\u241b[31m" in out.getvalue()
