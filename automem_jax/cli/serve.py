"""The model behind an OpenAI-compatible HTTP API: chat completions, streams, adapters as model names.

The model is the config's model.source; --adapters names specialists to serve beside it, of this
--workdir ('lineage') or elsewhere ('name=path': our adapter file or a PEFT directory). Clients, and
`automem rollout` on other hosts with --config.policy.kind=openai, take the URL that is printed.

Listens on this machine only unless --host says otherwise; then a key is needed, in the environment
variable that --api_key_env names. SIGTERM or Ctrl-C lets running requests end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from automem_jax.cli import flags

_HOST = flags.stage_flag("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.stage_flag("port", "8000", "Port to listen on; 0 takes a free one.")
_NAME = flags.stage_flag("served_name", "", "The base's model name. Empty: from model.source.")
_ADAPTERS = flags.stage_flag(
    "adapters", "", "Adapters, separated by commas: 'lineage', 'random' or NAME=PATH."
)
_ADAPTER_ROOT = flags.stage_flag(
    "adapter_root", "", "Directory whose adapters clients may load while it runs. Empty: none."
)
_KEY = flags.stage_flag(
    "api_key_env", "AUTOMEM_API_KEY", "Environment variable with the key that clients must send."
)
_REQUESTS = flags.stage_flag("max_requests", "512", "Requests in flight; more get status 429.")
_BODY = flags.stage_flag("max_body_kib", "4096", "The largest request body, in KiB.")
_TOKENS = flags.stage_flag("max_tokens", "0", "The most a request may generate. 0: the context.")
_SHUTDOWN = flags.stage_flag("shutdown_s", "30", "Seconds that running requests get to end.")


def main(experiment: flags.Experiment) -> None:
    from automem_jax.serve import server

    address = server.Address(
        _HOST.value, _number("port", _PORT.value, 0), _number("shutdown_s", _SHUTDOWN.value, 1)
    )
    if address.port > 65535:
        raise flags.UsageError(f"--port={address.port}: ports end at 65535")
    key = os.environ.get(_KEY.value, "").strip()
    if not key and not server.is_loopback(address.host):
        raise flags.UsageError(
            f"--host={address.host} can be reached from other machines; export a key for clients in "
            f"{_KEY.value}, or listen on 127.0.0.1"
        )
    adapters = adapter_paths(_ADAPTERS.value, experiment.workdir)
    root = Path(_ADAPTER_ROOT.value) if _ADAPTER_ROOT.value else None
    if root is not None and not root.is_dir():
        raise flags.UsageError(f"--adapter_root={str(root)!r} is not a directory")
    name = _NAME.value or Path(experiment.config.model.source).name
    if name in adapters:
        raise flags.UsageError(f"--served_name={name}: an adapter has this name too")

    from automem_jax.live.board import Board
    from automem_jax.serve.app import ChatApp, Limits

    limits = Limits(
        body_bytes=_number("max_body_kib", _BODY.value, 1) * 2**10,
        requests=_number("max_requests", _REQUESTS.value, 1),
        max_tokens=_number("max_tokens", _TOKENS.value, 0),
    )
    flags.use_compilation_cache()
    bound = server.bind(address)  # before the model is loaded: a port in use is told at once
    engine, tokenizer, base = make_engine(experiment, adapters, limits.requests)
    app = ChatApp(
        engine,
        tokenizer,
        model=name,
        max_context=experiment.config.model.max_context,
        api_key=key,
        limits=limits,
        adapter_root=root,
        load_adapter=lambda path: read_adapter(path, base),
    )

    def ready(url: str) -> None:
        names = ", ".join([name, *adapters])
        print(f"serving {names} at {url}", flush=True)

    known = experiment.workdir.is_dir()  # a server alone makes no work directory
    board = Board(experiment.workdir, "serve", figures=app.figures, speaks=known, draw=False)
    with board, board.stage("serve"):
        server.serve(app, address, bound, ready)
    print("ended", file=sys.stderr)


def make_engine(experiment: flags.Experiment, adapters: dict[str, Path], queue_limit: int):
    """The engine of the config's model with these adapters, the model's tokenizer, and the base's hash."""
    from automem_jax.models.weights import base_hash
    from automem_jax.rollout.runner import Runner
    from automem_jax.sampling.engine import Engine

    config = experiment.config.model
    runner = Runner(experiment.config)
    model, tokenizer = runner.model, runner.tokenizer
    if config.max_context > model.config.max_position:
        raise ValueError(
            f"model.max_context {config.max_context} is beyond the model's "
            f"{model.config.max_position} positions; lower it"
        )
    base = base_hash(model)
    engine = Engine(
        model,
        tokenizer,
        slots=config.slots,
        max_context=config.max_context,
        queue_limit=queue_limit,
        adapters={name: read_adapter(path, base) for name, path in adapters.items()},
    )
    return engine, tokenizer, base


def adapter_paths(text: str, workdir: Path) -> dict[str, Path]:
    """Name -> file or directory of --adapters.

    Raises:
      UsageError: there is no such file, or a name is given twice.
    """
    found: dict[str, Path] = {}
    for part in filter(None, text.split(",")):
        name, equals, place = part.partition("=")
        path = Path(place) if equals else workdir / "train" / name / "adapter.safetensors"
        if not name or not path.exists():
            raise flags.UsageError(f"--adapters: {part!r}: {str(path)!r} does not exist")
        if name in found:
            raise flags.UsageError(f"--adapters: {name!r} is given twice")
        found[name] = path
    return found


def read_adapter(path: Path, base_hash: str):
    """An adapter of this base from our file, or from a PEFT directory."""
    if path.is_dir():
        from automem_jax.models.peft import import_peft

        return import_peft(path)
    from automem_jax.models.lora import load_adapter

    return load_adapter(path, base_hash)


def _number(flag: str, text: str, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise flags.UsageError(f"--{flag}={text}: expected a whole number from {least}")
    return int(text)
