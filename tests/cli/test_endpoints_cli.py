"""Servers instead of the in-process model, through the command: healthy, failing, mended."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("openai")
pytest.importorskip("anthropic")

from automem_jax.agent.template import load_template, to_data
from automem_jax.architect.catalog import show_file_in_plan
from automem_jax.policies.endpoint import request_seed
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.rollout.engine import OUTAGE_WAVES
from automem_jax.text.messages import RequestKey
from automem_jax.traces.store import list_traces, read_trace

SECRET = "sk-cli-secret-0123456789"
SEEDS = (30_000, 30_001)
NORTH_CUE = "blue jelly"
STEPS = 4
DOWN = Reply(status=500)


class Server:
    """One loopback server for all tests, so that traces name one address; its answers change."""

    def __init__(self):
        self.loopback = LoopbackServer(lambda received: self._answer(received))

    def play(self, answer) -> None:
        self.loopback.received.clear()
        self._answer = answer

    @property
    def received(self):
        return self.loopback.received


@pytest.fixture(scope="module")
def server():
    server = Server()
    with server.loopback:
        yield server


def automem(*arguments, **environment):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and name.lower() not in ("http_proxy", "all_proxy")
    }
    return subprocess.run(
        [sys.executable, "-m", "automem_jax", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=kept | {"COLUMNS": "200"} | environment,
    )


def rollout(server, workdir, *more, steps=STEPS, seeds=2, **environment):
    return automem(
        "rollout",
        f"--workdir={workdir}",
        "--config.policy.kind=openai",
        f"--config.policy.base_url={server.loopback.base_url}",
        "--config.policy.model=m",
        "--config.policy.backoff_s=0.001",
        f"--config.seeds.collect={seeds}",
        f"--config.env.max_steps={steps}",
        "--config.env.slots=2",
        *more,
        **environment,
    )


def assert_succeeded(result):
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""


def assert_one_line_error(result, *parts):
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr


def assert_never_told(workdir, *results):
    """The key that the server was sent, and sent back, is in no file and was not printed."""
    for path in workdir.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert not any(SECRET in result.stdout + result.stderr for result in results)


def traces(workdir):
    return [read_trace(path) for path in list_traces(workdir / "traces")]


def trace_bytes(workdir):
    return {path.name: path.read_bytes() for path in list_traces(workdir / "traces")}


def turns(trace):
    return [turn for step in trace.steps for phase in step.phases for turn in phase.turns]


def prompt(received) -> str:
    return received.body["messages"][-1]["content"]


def is_log(received) -> bool:
    return prompt(received).endswith("log: note what matters")


def walk_east(received) -> Reply:
    """Notes every step and walks on until the step cap; an answer depends on its prompt alone."""
    last = "last: east" in prompt(received)
    note = f"<|APPEND|>notes|walked {'on' if last else 'off'}<|END|><|DONE|>"
    return Reply(note if is_log(received) else "<|ACTION|>east<|END|>")


class Winner:
    """Plays one episode of Memento Short by the script of its map; wins."""

    def __init__(self):
        self._north = False
        self._moves = 0

    def __call__(self, received) -> Reply:
        self._north |= NORTH_CUE in prompt(received)
        if is_log(received):
            return Reply("<|DONE|>")
        if received.body["model"] == "m-memory":
            return Reply("<|READ|>notes<|END|><|ACTION|>west<|END|>")
        side = "north" if self._north else "south"
        path = ["east"] * 6 + [f"{side}east", side, f"{side}east"]
        move = path[self._moves] if self._moves < len(path) else "east"
        self._moves += 1
        return Reply(f"<|ACTION|>{move}<|END|>")


@pytest.fixture(scope="module")
def clean(server, tmp_path_factory):
    """Trace contents of a rollout without any failure."""
    workdir = tmp_path_factory.mktemp("clean")
    server.play(walk_east)
    assert_succeeded(rollout(server, workdir))
    assert len(trace_bytes(workdir)) == len(SEEDS)
    assert not any(trace.end["failed"] for trace in traces(workdir))
    return trace_bytes(workdir)


def test_an_episode_is_won_over_the_wire(server, tmp_path):
    server.play(Winner())
    assert_succeeded(rollout(server, tmp_path, steps=30, seeds=1))
    (trace,) = traces(tmp_path)
    assert (trace.end["progression"], trace.end["failed"]) == (1.0, False)
    assert trace.end["tokens"]["calls"] == len(server.received) == len(turns(trace))
    assert {received.body["model"] for received in server.received} == {"m"}
    assert trace.header["policy"]["base_url"] == server.loopback.base_url


def test_memory_turns_go_to_the_adapter_and_actions_come_from_the_base(server, tmp_path):
    server.play(Winner())
    result = rollout(server, tmp_path, "--config.policy.adapter_model=m-memory", steps=30, seeds=1)
    assert_succeeded(result)
    (trace,) = traces(tmp_path)
    assert trace.end["progression"] == 1.0  # the adapter's "west" never moved anybody
    roles = [turn.role for turn in turns(trace)]
    models = [{"m": "gameplay", "m-memory": "memory"}[r.body["model"]] for r in server.received]
    assert models == roles and {"gameplay", "memory"} == set(roles)
    assert all((turn.action is None) == (turn.role == "memory") for turn in turns(trace))
    assert any(turn.stripped_action == "west" for turn in turns(trace))


def test_anthropic_is_spoken_too(server, tmp_path):
    server.play(walk_east)
    result = rollout(
        server,
        tmp_path,
        "--config.policy.kind=anthropic",
        f"--config.policy.base_url={server.loopback.root_url}",
    )
    assert_succeeded(result)
    assert [trace.end["failed"] for trace in traces(tmp_path)] == [False, False]
    assert {received.path for received in server.received} == {"/v1/messages"}


def test_passing_failures_are_retried_and_leave_the_same_traces(server, tmp_path, clean):
    failures = {0: Reply(status=429, headers={"Retry-After": "0.05"}), 3: DOWN, 4: DOWN}

    def stumbling(received):
        return failures.get(len(server.received) - 1) or walk_east(received)

    server.play(stumbling)
    result = rollout(server, tmp_path, "--config.policy.concurrency=1")
    assert_succeeded(result)
    assert "retries 3" in result.stdout
    assert trace_bytes(tmp_path) == clean


def test_single_calls_that_fail_for_good_are_counted_and_their_episodes_listed(server, tmp_path):
    bad = [
        DOWN,
        Reply(body=b'{"choices": "none"}'),
        Reply(body=b"<html>gateway</html>"),
        Reply(reset=True),
        Reply(hang=True),
        Reply(finish_reason="content_filter"),
    ]
    steps = len(bad) + 2
    wrong = {
        request_seed(0, RequestKey(SEEDS[1], step, "log", 0)): reply
        for step, reply in enumerate(bad, 1)
    }

    def play(received):
        reply = wrong.get(received.body["seed"]) or walk_east(received)
        echo = f" {received.headers['authorization']}" if reply.text or reply is DOWN else ""
        return dataclasses.replace(reply, text=reply.text + echo)

    server.play(play)
    few = ("--config.policy.max_retries=1", "--config.policy.timeout_s=0.5")
    result = rollout(server, tmp_path, *few, steps=steps, OPENAI_API_KEY=SECRET)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1
    assert "failed model calls: 6, in 1 of 2 episodes" in result.stderr
    assert "500" in result.stderr and str(tmp_path / "traces" / "collect") in result.stderr
    good, failed = traces(tmp_path)
    assert not good.end["failed"]
    assert failed.end["failed"] and "500" in failed.end["error"]
    assert failed.end["memory_stats"]["failed_calls"] == len(bad)
    errors = [turn.completion.error for turn in turns(failed) if turn.completion.error]
    parts = ("500", "choices", "JSONDecodeError", "Connection", "timed out", "withheld")
    assert all(part in error for part, error in zip(parts, errors, strict=True)), errors
    assert "***" in errors[0] and any("***" in turn.completion.text for turn in turns(good))
    assert_never_told(tmp_path, result)


def test_a_server_that_is_down_ends_the_rollout_which_then_goes_on(server, tmp_path, clean):
    """Down from the start, then silent midway, then healthy at another address."""
    few = ("--config.policy.max_retries=1", "--config.policy.timeout_s=0.5")
    server.play(lambda received: DOWN)
    result = rollout(server, tmp_path, few[0])
    assert_one_line_error(result, "no model call is answered", "'m'", "500", "run the same command")
    assert len(server.received) == 2 * len(SEEDS)  # the first wave, each call tried twice
    assert trace_bytes(tmp_path) == {}

    answered = 6
    silent, heard, unheard = Reply(hang=True), set(), []

    def fall_silent(received):
        seed = received.body["seed"]  # one request, however often it is tried
        if seed in heard or len(heard) < answered:
            heard.add(seed)
            return walk_east(received)
        unheard.append(seed)
        return silent

    server.play(fall_silent)
    assert_one_line_error(rollout(server, tmp_path, *few), "no model call is answered", "timed out")
    # a slow machine may let an answered call time out too, and its episode ask out of step
    assert 0 <= len(unheard) - OUTAGE_WAVES * 2 * len(SEEDS) <= 2
    assert trace_bytes(tmp_path) == {}

    with LoopbackServer(walk_east) as other:
        moved = f"--config.policy.base_url={other.base_url}"
        assert_succeeded(rollout(server, tmp_path, moved))
        old, new = server.loopback.base_url.encode(), other.base_url.encode()
        assert {n: data.replace(new, old) for n, data in trace_bytes(tmp_path).items()} == clean
        assert len(other.received) < sum(len(turns(trace)) for trace in traces(tmp_path))


def test_a_missing_key_is_named_before_any_call(server, tmp_path):
    server.play(walk_east)
    result = rollout(server, tmp_path, "--config.policy.base_url=http://host.invalid/v1")
    assert_one_line_error(result, "OPENAI_API_KEY is not set", "api_key_env")
    result = automem(
        "evolve",
        f"--workdir={tmp_path / 'evolve'}",
        "--config.architect.kind=api",
        "--config.architect.api.model=big",
        "--config.architect.api.api_key_env=MISSING_KEY",
    )
    assert_one_line_error(result, "MISSING_KEY is not set")
    assert server.received == [] and not (tmp_path / "evolve" / "traces").exists()


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"files": {"notes": {"kind": "diary"}}}, ["files.notes.kind", "'diary'", "log"]),
        ({"slotz": {}}, ["bad.json.slotz", "did you mean 'slots'"]),
        (None, ["bad.json", "not JSON", "line 1"]),
    ],
)
def test_a_bad_template_is_one_line_with_place_and_remedy(server, tmp_path, change, parts):
    data = None if change is None else to_data(load_template("memento_v0")) | change
    path = tmp_path / "bad.json"
    path.write_text("{oops" if data is None else json.dumps(data))
    result = rollout(server, tmp_path / "run", f"--template={path}")
    assert_one_line_error(result, *parts)


def test_a_dry_run_prints_prompts_plan_and_forecast_and_calls_nobody(server, tmp_path):
    server.play(walk_east)
    result = automem(
        "evolve",
        "--dry-run",
        f"--workdir={tmp_path / 'run'}",
        "--config.policy.kind=openai",
        f"--config.policy.base_url={server.loopback.base_url}",
        "--config.policy.model=m",
        "--config.architect.kind=api",
        f"--config.architect.api.base_url={server.loopback.base_url}",
        "--config.architect.api.model=big",
        "--config.architect.api.api_key_env=MISSING_KEY",
        "--config.architect.price.input=3",
        "--config.architect.price.output=15",
        "--config.architect.budget.dollars=100",
        "--config.policy.prices=" + str(prices(tmp_path)),
    )
    assert_succeeded(result)
    for part in (
        "plan: attempts search, architect api, 3 proposals at most",
        "seeds: search 10000..10063, gate 20000..",
        "forecast, at most: ",
        "calls, ",
        " USD",
        "caps: dollars 100",
        "--- system\nYou improve the memory scaffold",
        "--- user\n# Environment\nminihack",
        '"id": "memento_v0"',
        "- submit_template: ",
        "prompt tokens for the first of a review's calls to big",
    ):
        assert part in result.stdout
    assert server.received == [] and not (tmp_path / "run").exists()


def prices(folder):
    path = folder / "prices.json"
    path.write_text(json.dumps({"m": {"input": 1.0, "output": 2.0}}))
    return path


def evolve(server, workdir):
    return automem(
        "evolve",
        f"--workdir={workdir}",
        "--config.seeds.search=3",
        "--config.seeds.gate=8",
        "--config.env.max_steps=6",
        "--config.architect.kind=api",
        "--config.architect.attempts=2",
        "--config.architect.bootstrap_samples=200",
        f"--config.architect.api.base_url={server.loopback.base_url}",
        "--config.architect.api.model=big",
        "--config.architect.api.api_key_env=ARCHITECT_KEY",
        "--config.architect.api.max_retries=1",
        "--config.architect.api.backoff_s=0.001",
        ARCHITECT_KEY=SECRET,
    )


def calls(name, **arguments):
    """A reply that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    message = {
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": {}}
    return Reply(body=json.dumps(body).encode())


def submission(template):
    return calls(
        "submit_template",
        template_json=template,
        diagnosis="notes go unread",
        expected_effect="they are read",
    )


def test_an_architect_behind_a_server(server, tmp_path):
    """Down, then up: a refusal ends an attempt, invalid templates are sent back, a valid one is gated."""
    workdir = tmp_path / "run"
    told = []

    server.play(lambda received: Reply(f"no: {received.headers['authorization']}", status=500))
    result = evolve(server, workdir)
    assert_one_line_error(result, "architect", "500", "run again")
    told.append(result)
    baseline = {path: path.stat().st_mtime_ns for path in list_traces(workdir / "traces")}
    assert len(baseline) >= 3
    rows = (workdir / "evolve" / "ledger.jsonl").read_bytes()

    template = to_data(load_template("memento_v0"))
    invalid = template | {"files": {"notes": {"kind": "diary"}}}
    answers = [
        lambda received: Reply("Let me think."),
        lambda received: Reply("", finish_reason="content_filter"),
        lambda received: calls("search_traces", text=received.headers["authorization"]),
        lambda received: submission(template),  # differs in nothing
        lambda received: submission(invalid),
        lambda received: submission(show_file_in_plan(template, "notes")),
    ]
    server.play(lambda received: answers[len(server.received) - 1](received))
    result = evolve(server, workdir)
    assert_succeeded(result)
    told.append(result)
    assert len(server.received) == len(answers)
    assert "wording only" in prompt(server.received[-2])
    assert "files.notes.kind" in prompt(server.received[-1])
    assert {path: path.stat().st_mtime_ns for path in baseline} == baseline

    ledger = (workdir / "evolve" / "ledger.jsonl").read_bytes()
    assert ledger.startswith(rows)
    first, second = [r for r in map(json.loads, ledger.splitlines()) if r["type"] == "candidate"]
    assert (first["verdict"], first["calls"], first["gate"]) == ("dropped", 2, None)
    assert "refused" in first["reason"]
    assert second["calls"] == 4 and second["gate"]["n"] == 8
    assert second["verdict"] in ("kept", "dropped")
    best = load_template(workdir / "evolve" / "best.json").id
    assert best == (second["template"] if second["verdict"] == "kept" else "memento_v0")

    assert_never_told(workdir, *told)
    assert all(r.headers["authorization"] == f"Bearer {SECRET}" for r in server.received)
