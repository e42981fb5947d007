"""The server answers its own page and nobody else, and names files to nobody."""

import http.client
import json
import threading

import pytest

from automem_jax.viewer.library import Library
from automem_jax.viewer.server import ViewerServer


@pytest.fixture(scope="module")
def server(workdir):
    library = Library(workdir)
    with ViewerServer(library) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    library.close()


def ask(server, path, method="GET", **headers):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    headers.setdefault("Host", f"127.0.0.1:{port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")


def test_the_page_and_every_part_of_it_come_with_a_strict_policy(server):
    response, body = ask(server, "/")
    policy = response.headers["Content-Security-Policy"]
    assert response.status == 200 and "default-src 'none'" in policy and "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    text = body.decode()
    assert "http://" not in text and "https://" not in text
    parts = [part.split('"')[0] for part in text.split('"/static/')[1:]]
    assert len(parts) > 10
    for part in parts:
        assert ask(server, f"/static/{part}")[0].status == 200


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1:1", "", "localhost.evil.example:{port}", "localhost"]
)
def test_another_name_for_this_machine_is_refused(server, host):
    host = host.format(port=server.server_address[1])
    response, body = ask(server, "/api/runs", Host=host)
    assert response.status == 403 and b"Toy" not in body


def test_another_sites_page_is_refused(server):
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert ask(server, "/api/runs", **headers)[0].status == 403
    own = {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
    assert ask(server, "/api/runs", **own)[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/../../etc/passwd",
        "/api/trace/../../etc/passwd",
        "/api/trace/000000000000",
        "/api/trace/evaluate%2fbase_v0%2fToy-42",
        "/static/index.html",
        "/favicon.ico",
    ],
)
def test_nothing_but_its_own_names_is_found(server, path):
    response, body = ask(server, path)
    assert response.status == 404 and b"root:" not in body and b"import" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_answers_questions(server, method):
    assert ask(server, "/api/runs", method)[0].status == 501


def test_bad_requests_are_told(server):
    (episode, *_) = json.loads(ask(server, "/api/runs")[1])["episodes"]
    base = f"/api/trace/{episode['id']}"
    for path, words in [
        (f"{base}/chunk/99", "the trace has 50 steps"),
        (f"{base}/summary?from=x", "step number"),
        (f"{base}/search?q=a&in=b", "scope"),
        (f"{base}/frame/3", "no environment"),
    ]:
        response, body = ask(server, path)
        assert response.status in (400, 404) and words in json.loads(body)["error"]
    assert json.loads(ask(server, f"{base}/chunk/1")[1])["first"] > 0
