"""`automem view`: its file, and its errors in one line."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import zlib

import pytest
import viewer_workdir

from automem_jax.cli.main import run
from automem_jax.viewer import export as export_module
from automem_jax.viewer.library import Library


def blocks(path):
    found = re.findall(r'<script type="text/plain" id="([^"]+)">([^<]*)</script>', path.read_text())
    return {name: json.loads(zlib.decompress(base64.b64decode(data))) for name, data in found}


def test_one_file_holds_the_episodes_that_were_named(workdir, tmp_path, capsys):
    path = tmp_path / "seed.html"
    run(["automem", "view", str(workdir), f"--export={path}", "--episodes=*/Toy-43"])
    assert "2 of 2 episodes" in capsys.readouterr().out
    held = blocks(path)
    assert {row["seed"] for row in held["runs"]["episodes"]} == {43}
    for row in held["runs"]["episodes"]:
        assert held[f"{row['id']}-summary"]["steps"] == viewer_workdir.STEPS
        chunks = [name for name in held if name.startswith(f"{row['id']}-chunk-")]
        assert sum(len(held[name]["steps"]) for name in chunks) == viewer_workdir.STEPS


def test_what_has_no_room_is_left_out_and_told(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_module, "MOST_BYTES", 1)
    path = tmp_path / "small.html"
    run(["automem", "view", str(workdir), f"--export={path}"])
    assert "1 of 4 episodes; 3 had no room" in capsys.readouterr().out
    runs = blocks(path)["runs"]
    assert len(runs["episodes"]) == 1 and runs["of"] == 4


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["/no/such/place"], "does not exist"),
        (["{workdir}", "--export=x.html", "--episodes=none*"], "no episode is called"),
        (["{workdir}", "--port={taken}"], "--port 0"),
    ],
)
def test_errors_are_one_line(workdir, arguments, words, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"workdir": workdir, "taken": taken.getsockname()[1]}
        with pytest.raises(SystemExit) as stopped:
            run(["automem", "view", *(a.format(**values) for a in arguments)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_it_serves_until_it_is_stopped(workdir):
    command = [sys.executable, "-m", "automem_jax", "view", str(workdir), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert re.match(r"http://127\.0\.0\.1:\d+/ ", line)


def test_one_trace_can_be_named(workdir):
    path = workdir / "traces" / "evaluate" / "base_v0" / "Toy-42.jsonl"
    library = Library(path)
    (episode,) = library.refresh()
    library.index(episode.id).wait()
    assert library.index(episode.id).summary()["steps"] == viewer_workdir.STEPS
    library.close()


def test_hostile_names_do_not_reach_the_terminal(tmp_path, capsys):
    viewer_workdir.play(tmp_path / "traces" / "run\x1b[31m", "base_v0", 42, steps=3)
    (trace,) = (tmp_path / "traces").rglob("*.jsonl")
    trace.write_bytes(trace.read_bytes().replace(b'"schema":2', b'"schema":9', 1))
    run(["automem", "view", str(tmp_path), f"--export={tmp_path / 'x.html'}"])
    out = capsys.readouterr().out
    assert "left out" in out and "\x1b" not in out
