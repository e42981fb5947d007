"""`automem evolve`, agent and architect behind a loopback server, killed with SIGKILL again and again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from test_endpoints_cli import SECRET, assert_never_told, calls, submission, walk_east

from automem_jax.agent.template import load_template, to_data
from automem_jax.architect.catalog import show_file_in_plan
from automem_jax.policies.loopback import LoopbackServer

KILLS = int(os.environ.get("AUTOMEM_TEST_KILLS", "4"))  # a process each


def asks_architect(received):
    return "tools" in received.body


def play(received):
    """The agent walks east; the architect looks twice and submits, each answer by its prompt alone."""
    if not asks_architect(received):
        return walk_east(received)
    said = sum(message["role"] == "assistant" for message in received.body["messages"])
    if said < 2:
        return calls(["list_episodes", "show_template"][said])
    return submission(show_file_in_plan(to_data(load_template("memento_v0")), "notes"))


def start(server, workdir):
    arguments = [
        "evolve",
        f"--workdir={workdir}",
        "--config.policy.kind=openai",
        f"--config.policy.base_url={server.base_url}",
        "--config.policy.model=m",
        "--config.seeds.search=3",
        "--config.seeds.gate=8",
        "--config.env.max_steps=4",
        "--config.env.slots=2",
        "--config.architect.kind=api",
        "--config.architect.attempts=1",
        "--config.architect.bootstrap_samples=200",
        f"--config.architect.api.base_url={server.base_url}",
        "--config.architect.api.model=big",
        "--config.architect.api.api_key_env=ARCHITECT_KEY",
        "--config.architect.price.input=3",
        "--config.architect.price.output=15",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "automem_jax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"ARCHITECT_KEY": SECRET, "OPENAI_API_KEY": SECRET},
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def ledger(workdir):
    return (workdir / "evolve" / "ledger.jsonl").read_bytes()


def test_killed_at_random_times_it_ends_with_the_ledger_of_an_unbroken_run(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rng = random.Random(5)
    with LoopbackServer(play) as server:
        finish(start(server, whole))
        expected, asked = ledger(whole), len(server.received)
        reviewed = Counter(json.dumps(r.body) for r in server.received if asks_architect(r))
        server.received.clear()
        killed = in_flight = 0
        while killed < KILLS:
            before, wanted = len(server.received), rng.randint(1, asked // (KILLS + 1))
            process = start(server, broken)
            while process.poll() is None and len(server.received) - before < wanted:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.01))
            if process.poll() is not None:
                break  # it ended before this kill
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            in_flight += any(map(asks_architect, server.received[-1:]))
        output = finish(start(server, broken))
        print(f"killed {killed} times, {in_flight} times in a call of the architect")
    assert killed > KILLS // 2 and ledger(broken) == expected
    again = Counter(json.dumps(r.body) for r in server.received if asks_architect(r)) - reviewed
    assert again.total() <= in_flight  # an answer that had come in was not asked for again
    assert_never_told(tmp_path)
    assert SECRET not in output
