"""A server in a thread of this process."""

import contextlib
import json
import threading
import time
import urllib.request

from automem_jax.serve import server


@contextlib.contextmanager
def serving(app, shutdown_s=5):
    """Yields the base URL; at the end the server has stopped, its engine's thread too."""
    address = server.Address(port=0, shutdown_s=shutdown_s)
    bound = server.bind(address)
    running = server.make_server(app, address)
    app.server = running
    thread = threading.Thread(target=lambda: running.run(sockets=[bound]), daemon=True)
    thread.start()
    wait_for(lambda: running.started or not thread.is_alive())
    try:
        yield server.url_of(bound)
    finally:
        running.should_exit = True
        thread.join(20)
        bound.close()
        assert not thread.is_alive(), "the server did not end"


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def get(url, path):
    """Status and text of a plain GET beside the API's base."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url.removesuffix("/v1") + path, timeout=20) as answer:
        return answer.status, answer.read().decode()


def metrics(url):
    """Name -> value of /metrics."""
    lines = get(url, "/metrics")[1].splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: json.loads(value) for name, value in pairs}
