"""The API architect of recipes against a real HTTP server on loopback."""

import json

import pytest

pytest.importorskip("openai")

from toy_search import ToyWorkshop, make_config

from automem_jax.architect.proposal import ArchitectError
from automem_jax.config import PolicyConfig
from automem_jax.policies.loopback import LoopbackServer, Reply
from automem_jax.recipes.architect import ApiProposer, artifacts
from automem_jax.recipes.ledger import read_ledger, totals
from automem_jax.recipes.search import search

GOOD = {"name": "good", "reason": "a higher rate", "training": {"learning_rate": 1e-3}}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", "sk-recipes-0123456789")


def settings(server, tmp_path, **recipes):
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"m": {"input": 1000.0, "output": 2000.0}}))
    api = PolicyConfig(
        kind="openai",
        base_url=server.base_url,
        model="m",
        api_key_env="TEST_KEY",
        max_retries=1,
        backoff_s=0.01,
        timeout_s=20.0,
        prices=str(prices),
    )
    return make_config(kind="api", api=api, **recipes)


def run(config, folder):
    return search(config, folder, ToyWorkshop(config, folder), ApiProposer(config.recipes))


def answers(*objects):
    return [Reply(o if isinstance(o, str) else json.dumps(o)) for o in objects]


def prompts(server):
    return ["\n".join(m["content"] for m in r.body["messages"]) for r in server.received]


def test_it_reads_artifacts_of_the_ledger_then_proposes_and_is_paid_once(tmp_path):
    bad = {"name": "bad", "trains": "base"}
    script = answers(
        {"recipes": [GOOD, bad]},
        {"read": ["tried/good/recipe.json", "ledger.jsonl", "../../etc/passwd", 5]},
        'I see. ```json\n{"recipes": [{"name": "next", "training": {"epochs": 2}}]}\n```',
    )
    with LoopbackServer(script) as server:
        config = settings(server, tmp_path)
        best = run(config, tmp_path)
        run(config, tmp_path)
        assert len(server.received) == 3  # a finished search asks no more
        asked = prompts(server)
    assert best.name == "good"
    assert "at most 4 recipes" in asked[0] and "paper_crafter" in asked[0]
    assert "constraint base_frozen" in asked[1] and "tried/good/recipe.json" in asked[1]
    told = asked[2].split("# tried/good/recipe.json")[1]
    assert '"learning_rate": 0.001' in told and '"type":"halving"' in told
    assert told.count("no such artifact") == 2 and "root:" not in told
    rows = read_ledger(tmp_path / "recipes" / "ledger.jsonl")
    verdicts = {r["recipe"]: r["verdict"] for r in rows if r["type"] == "proposal"}
    assert verdicts == {"good": "accepted", "bad": "refused", "next": "accepted"}
    costs = totals(rows)
    assert (costs["api_calls"], costs["api_prompt_tokens"]) == (3, 33)
    assert costs["dollars"] == pytest.approx(3 * (11 * 1000 + 7 * 2000) / 1e6)
    assert "sk-recipes" not in "".join(map(json.dumps, rows))
    assert server.base_url not in "".join(map(json.dumps, rows))


def test_useless_answers_are_sent_back_and_then_given_up(tmp_path):
    script = answers("I would rather not.", {"answer": 1}, {"read": "everything"})
    with LoopbackServer(script) as server:
        best = run(settings(server, tmp_path), tmp_path)
        asked = prompts(server)
    assert best.name == "base" and len(asked) == 3
    assert asked[1].count("Not usable:") == 1 and asked[2].count("Not usable:") == 2


def test_reading_is_bounded(tmp_path):
    script = answers(*[{"read": ["ledger.jsonl"]}] * 3, {"recipes": [GOOD]})
    with LoopbackServer(script) as server:
        run(settings(server, tmp_path, artifact_reads=2, iterations=1), tmp_path)
        assert "no more artifacts may be read" in prompts(server)[3]


def test_a_dead_server_stops_the_search_which_then_goes_on(tmp_path):
    script = [Reply(status=400, body=b"{}"), *answers({"recipes": [GOOD]})]
    with LoopbackServer(script) as server:
        config = settings(server, tmp_path, iterations=1)
        with pytest.raises(ArchitectError, match="run again"):
            run(config, tmp_path)
        assert run(config, tmp_path).name == "good"


def test_only_records_are_artifacts(tmp_path):
    for name in (
        "ledger.jsonl",
        "tried/a/done.json",
        "tried/a/checkpoints/x.json",
        ".x.json",
        "b.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    assert sorted(artifacts(tmp_path)) == ["ledger.jsonl", "tried/a/done.json"]
