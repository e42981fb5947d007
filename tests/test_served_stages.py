"""The stages where a server holds the adapter: what it was asked is counted, select finds its traces."""

import dataclasses
import json

import pytest

pytest.importorskip("openai")

from automem_jax.config import ConfigError, ExperimentConfig
from automem_jax.evaluation.evaluate import print_table
from automem_jax.evaluation.results import summarise
from automem_jax.live.status import read_status
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.selection.examples import SelectionError
from automem_jax.stages import BASE_ALONE, Stages
from automem_jax.traces.store import list_traces, read_trace


def config(server, tmp_path, **policy):
    base = ExperimentConfig()
    prices = tmp_path / "prices.json"
    row = {"input": 1_000_000, "output": 0}
    prices.write_text(json.dumps({"m": row, "m-memory": row}))
    policy = {"adapter_model": "m-memory", "max_retries": 1, "backoff_s": 0.001} | policy
    policy |= {"kind": "openai", "model": "m", "base_url": server.base_url, "prices": str(prices)}
    return dataclasses.replace(
        base,
        env=dataclasses.replace(base.env, max_steps=3, slots=2),
        policy=dataclasses.replace(base.policy, **policy),
        seeds=dataclasses.replace(base.seeds, collect=2, heldout=2),
        evaluation=dataclasses.replace(base.evaluation, arms=("base_v0",), bootstrap_samples=10),
    )


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def walk(received):
    log = received.body["messages"][-1]["content"].endswith("log: note what matters")
    return Reply("<|DONE|>" if log else "<|ACTION|>east<|END|>", prompt_tokens=2)


def test_a_pipeline_that_cannot_end_says_so_before_it_begins(tmp_path):
    with LoopbackServer(walk) as server:
        full = dataclasses.replace(
            config(server, tmp_path), evaluation=ExperimentConfig().evaluation
        )
        with Stages(full, tmp_path / "run") as stages:
            with pytest.raises(ConfigError, match="specialist_best, control_best.*--adapter=none"):
                stages.pipeline()
    assert server.received == [] and not (tmp_path / "run").exists()


def test_select_reads_what_the_base_played_and_usage_is_kept(tmp_path, capsys):
    workdir = tmp_path / "run"
    with LoopbackServer(walk) as server:
        with Stages(config(server, tmp_path), workdir) as stages:
            stages.rollout("collect", "", "")
            assert f"--adapter={BASE_ALONE}" in capsys.readouterr().out
            with pytest.raises(ConfigError, match=r"memento_v0\+served was played with an adapter"):
                stages.select("lineage")
            served = {r.body["model"] for r in server.received}
            assert served == {"m", "m-memory"}
            calls = len(server.received)
            stages.rollout("collect", "", BASE_ALONE)
            assert {r.body["model"] for r in server.received[calls:]} == {"m"}
            calls = len(server.received)
            with pytest.raises(SelectionError, match="in 2 episodes"):  # nothing was written there
                stages.select("lineage")
        usage = json.loads((workdir / "usage.json").read_text())
    models = usage["stages"]["rollout collect"]
    assert sum(row["calls"] for row in models.values()) == calls
    assert sum(row["prompt_tokens"] for row in models.values()) == 2 * calls
    assert usage["cost_usd"] == pytest.approx(2.0 * calls)


def test_failed_calls_and_fallback_actions_are_listed_with_their_cause(tmp_path, capsys):
    """One episode's calls fail here and there, another answers nonsense: each is told for what it is."""

    def script(received):
        text = str(received.body["messages"])
        number = len(server.received)
        if number in (5, 6, 7, 8):  # a call and its retry, of both episodes at times
            return Reply(status=500)
        if not text.endswith("log: note what matters'}]") and number > 10:
            return Reply("<|ACTION|>fly<|END|>")
        return walk(received)

    workdir = tmp_path / "run"
    with LoopbackServer(script) as server:
        settings = config(server, tmp_path, adapter_model="", concurrency=1)
        with Stages(settings, workdir) as stages:
            stages.evaluate()
    output = capsys.readouterr().out
    results = json.loads((workdir / "results.json").read_text())
    arm = results["arms"]["base_v0"]
    paths = list_traces(workdir / "traces")
    turns = [
        turn
        for path in paths
        for step in read_trace(path).steps
        for phase in step.phases
        for turn in phase.turns
    ]
    failed = sum(turn.completion.error is not None for turn in turns)
    assert arm["failed_calls"] == failed == 2
    assert sum(e["failed_calls"] for e in arm["episodes"]) == 2
    assert arm["failed"] == [e["seed"] for e in arm["episodes"] if e["failed_calls"]]
    steps = [step for path in paths for step in read_trace(path).steps]
    fallbacks = [step for step in steps if step.action_source == "fallback"]
    assert sum(arm["fallbacks"].values()) == len(fallbacks) > 0
    assert arm["fallbacks"]["unknown action"] > 0
    assert all(step.errors for step in fallbacks)  # the cause, in words
    assert "base_v0: 2 model calls failed in" in output and "for unknown action" in output
    usage = json.loads((workdir / "usage.json").read_text())["stages"]["evaluate"]["m"]
    assert usage["failed"] == 2 and usage["calls"] == len(turns)
    assert usage["calls"] + usage["retries"] == len(server.received)
    status = read_status(workdir)
    assert (status["state"], status["stage"]) == ("done", "evaluate")
    assert status["failures"]["failed calls"] == 2 == status["spent"]["failed"]
    assert status["failures"]["retries"] == usage["retries"] == status["spent"]["retries"]
    assert status["spent"]["calls"] == usage["calls"]
    assert list((workdir / "tensorboard" / "evaluate" / "base_v0").glob("events.*"))
    again = summarise({"base_v0": workdir / "traces" / "evaluate" / "base_v0"}, samples=10)
    print_table(again)
    assert "2 model calls failed" in capsys.readouterr().out
