"""Plays recorded episodes in a browser: what the agent saw, wrote, read and did, step by step.

  automem view WORKDIR                          serves a page on this machine; stop it with Ctrl-C
  automem view WORKDIR --export FILE.html       one file that needs no server and no network

WORKDIR may also be a single trace. Keys: ? on the page lists them.
"""

from __future__ import annotations

import argparse


def command(arguments: list[str]) -> None:
    """Serves until interrupted, or writes one file."""
    parser = argparse.ArgumentParser(
        prog="automem view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", metavar="WORKDIR")
    parser.add_argument("--export", metavar="FILE.html", help="write one self-contained file")
    parser.add_argument(
        "--episodes",
        metavar="PATTERN",
        default="*",
        help="with --export: only these, by RUN/EPISODE, e.g. 'evaluate/*-42' (default: all)",
    )
    parser.add_argument(
        "--frames",
        action="store_true",
        help="with --export: play short episodes again and put the game's pictures in",
    )
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1, reachable from this machine only"
    )
    options = parser.parse_args(arguments)

    from automem_jax.viewer.library import Library

    library = Library(options.workdir)
    try:
        if options.export:
            _export(library, options)
        else:
            _serve(library, options)
    finally:
        library.close()


def _export(library, options: argparse.Namespace) -> None:
    from automem_jax.viewer.export import export

    held, of = export(
        library,
        options.export,
        options.episodes,
        frames=options.frames,
        tell=print,
    )
    left = "" if held == of else f"; {of - held} had no room, --episodes chooses others"
    print(f"{options.export}: {held} of {of} episodes{left}")


def _serve(library, options: argparse.Namespace) -> None:
    from automem_jax.viewer.server import ViewerServer

    try:
        server = ViewerServer(library, options.host, options.port)
    except OSError as error:
        where = f"{options.host} port {options.port}"
        raise OSError(f"{where}: {error.strerror}; --port 0 takes a free one") from error
    with server:
        try:
            print(f"{server.url}  (Ctrl-C stops)", flush=True)
            if options.host not in ("127.0.0.1", "localhost", "::1"):
                print("reachable from other machines: whoever reaches it can read every trace")
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print()
