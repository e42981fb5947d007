"""What a run takes, told beforehand, and what it took."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from configs_by_path import config_of

from automem_jax.architect.forecast import forecast as forecast_evolution
from automem_jax.config import ConfigError, ExperimentConfig, from_config_dict
from automem_jax.files import write_json
from automem_jax.forecast import (
    Amounts,
    Groups,
    Range,
    Throughput,
    compare,
    forecast,
    groups_of,
    read_forecast,
    write_forecast,
)
from automem_jax.forecast.amounts import between
from automem_jax.forecast.compare import TOTAL
from automem_jax.forecast.recorded import BASE, SPECIALIST, Group


@pytest.fixture(autouse=True)
def flags_as_they_were():
    """absl keeps flags between commands of one process."""
    yield
    from absl import flags

    for name in ("workdir", "json", "save", "prefill", "call_s", "from"):
        if name in flags.FLAGS:
            flags.FLAGS[name].unparse()


def pair(mean):
    return (float(mean), 0.0)


def group(**changes):
    """Episodes of 10 steps and 20 calls, each of 100 prompt and 5 generated tokens, all alike."""
    fields = {
        "env": "minihack", "task": "MiniHack-Memento-Short-F2-v0", "template": "memento_v0",
        "role": BASE, "scripted": False, "max_steps": 100, "episodes": 50, "steps": pair(10),
        "calls": pair(20), "prompt": pair(2000), "generated": pair(100), "memory_turns": pair(2),
    }  # fmt: skip
    return Group(**fields | changes)


def config(**sections):
    return from_config_dict(dataclasses.asdict(ExperimentConfig()) | sections)


def server_config(tmp_path, **more):
    prices = tmp_path / "prices.json"
    write_json(prices, {"m": {"input": 1.0, "cached_input": 0.1, "output": 10.0}})
    policy = {"kind": "openai", "base_url": "http://h/v1", "model": "m", "concurrency": 8}
    return config(policy=policy | {"prices": str(prices)} | more)


def test_ranges_add_multiply_and_divide_end_by_end():
    a, b = Range(1, 2, 4), Range(2, 2, 8)
    assert a + b == Range(3, 4, 12) and a * b == Range(2, 4, 32) and 2 * a == Range(2, 4, 8)
    assert a / b == Range(1 / 8, 1.0, 2.0)  # the least by the most
    assert a.at_most(3) == Range(1, 2, 3) and 3 in a and 5 not in a
    told = between(1, 10_000)
    assert told == Range(1, 100, 1000)
    assert between(20, 10) == Range(20, 20, 20)  # a cap below what was seen
    known = Amounts(calls=a) + Amounts(dollars=b)
    assert known.calls == a and known.dollars == b and known.seconds is None


def test_episodes_and_tokens_of_every_stage_follow_from_the_seeds():
    found = forecast(config(), Groups("here", (group(), group(role=SPECIALIST)), "embedded"))
    seeds = config().seeds
    collect, evaluate = found.rows["rollout collect"], found.rows["evaluate"]
    assert collect.episodes == Range.of(seeds.collect)
    assert evaluate.episodes == Range.of(4 * seeds.heldout)
    assert collect.calls.expected == pytest.approx(20 * seeds.collect)
    assert collect.prompt_tokens.expected == pytest.approx(2000 * seeds.collect)
    assert collect.generated_tokens.expected == pytest.approx(100 * seeds.collect)
    assert collect.calls.low < collect.calls.expected < collect.calls.high
    names = ["evolve", "rollout collect", "select lineage", "train lineage"]
    assert list(found.rows) == [*names, "select random", "train random", "evaluate"]
    assert found.total.episodes.expected == sum(
        row.episodes.expected for row in found.rows.values() if row.episodes
    )
    told = forecast_evolution(config())
    ends = found.rows["evolve"].episodes
    assert (ends.low, ends.expected, ends.high) == (
        told.least.episodes, told.middle.episodes, told.most.episodes,
    )  # fmt: skip
    assert told.least.episodes < told.middle.episodes < told.most.episodes


def test_training_is_bounded_by_what_may_be_selected():
    groups = Groups("here", (group(memory_turns=pair(20)),), "embedded", selected_share=0.5)
    settings = config(selection={"max_examples": 64}).training
    trained = forecast(config(selection={"max_examples": 64}), groups).rows["train lineage"]
    length = (2000 + 100) / 20
    rows = 64 * length / settings.row_tokens / 0.9
    steps = math.ceil(rows * settings.epochs / settings.batch_rows)
    size = settings.batch_rows * settings.row_tokens
    assert trained.trained_tokens.expected == steps * size
    assert trained.calls is None


def test_money_by_the_price_table_cached_prompts_being_cheaper(tmp_path):
    groups = Groups("here", (group(), group(role=SPECIALIST)), "embedded", tokens_per_s=1000.0)
    found = forecast(server_config(tmp_path), groups, Throughput(call_s=4.0))
    row = found.rows["rollout collect"]
    prompt, generated = row.prompt_tokens.expected, row.generated_tokens.expected
    cost = (0.3 * prompt * 1.0 + 0.7 * prompt * 0.1 + generated * 10.0) / 1e6
    assert row.dollars.expected == pytest.approx(cost)
    assert row.dollars.low < cost < row.dollars.high
    assert row.seconds.expected == pytest.approx(row.calls.expected * 4.0 / 8)
    assert row.accelerator_hours is None  # a server's chips are its own
    assert found.total.dollars.expected == pytest.approx(
        sum(r.dollars.expected for r in found.rows.values() if r.dollars)
    )
    assert found.total.seconds is None  # training's speed was not stated
    unpriced = forecast(server_config(tmp_path, prices=""), groups)
    assert unpriced.total.dollars is None
    assert any("policy.prices" in line for line in unpriced.assumptions)
    with pytest.raises(ConfigError, match="no price of model 'other'"):
        forecast(server_config(tmp_path, model="other"), groups)


def test_accelerator_hours_by_stated_speeds():
    groups = Groups("here", (group(), group(role=SPECIALIST)), "embedded")
    speed = Throughput(prefill=1000.0, decode=100.0, training=500.0, chips=4)
    found = forecast(config(model={"source": "big"}), groups, speed)
    row = found.rows["rollout collect"]
    seconds = row.prompt_tokens.expected * 0.3 / 1000 + row.generated_tokens.expected / 100
    assert row.seconds.expected == pytest.approx(seconds)
    assert row.accelerator_hours.expected == pytest.approx(seconds * 4 / 3600)
    trained = found.rows["train lineage"]
    assert trained.seconds.expected == pytest.approx(trained.trained_tokens.expected / 500)
    assert found.total.accelerator_hours.expected > row.accelerator_hours.expected
    silent = forecast(config(model={"source": "big"}), groups)
    assert silent.total.seconds is None and silent.total.accelerator_hours is None
    assert any("--prefill" in line for line in silent.assumptions)


def test_signals_and_recipes_have_their_own_costs(tmp_path):
    prices = tmp_path / "judge.json"
    write_json(prices, {"j": {"input": 2.0, "output": 8.0}})
    judge = {"decisions": 40, "batch": 8, "api": {"model": "j", "prices": str(prices)}}
    branching = {"decisions": 10, "continuations": 4}
    selection = {"kind": "signals", "judge": judge, "counterfactual": branching}
    weights = {"judge": 1.0, "counterfactual": 1.0}
    groups = Groups("here", (group(), group(role=SPECIALIST)), "embedded")
    plain = forecast(config(selection=selection), groups)
    assert plain.rows["select signals"].calls is None and "train signals" in plain.rows
    settings = config(selection=selection | {"weights": weights})
    row = forecast(settings, groups).rows["select signals"]
    branched = 10 * 2 * 4 * 0.5 * 20  # decisions, both sides, continuations, what is left, calls
    assert row.calls.expected == pytest.approx(branched + 40 / 8)
    read = row.prompt_tokens.expected - branched * 100
    written = row.generated_tokens.expected - branched * 5
    assert row.dollars.expected == pytest.approx((2.0 * read + 8.0 * written) / 1e6)
    capped = branching | {"max_calls": 100}
    few = config(selection=selection | {"weights": weights, "counterfactual": capped})
    assert forecast(few, groups).rows["select signals"].calls.expected == pytest.approx(105)
    judge["api"] = {"model": "j"}
    unpriced = forecast(config(selection=selection | {"weights": weights}), groups)
    assert unpriced.rows["select signals"].dollars is None and unpriced.total.dollars is None
    recipes = forecast(config(), groups, recipes=True).rows["recipes"]
    own = config().recipes
    assert recipes.episodes.expected == own.iterations * own.survivors * config().seeds.gate
    one = forecast(config(), groups).rows["train lineage"].trained_tokens.expected
    # four recipes for half the epochs, two for all of them, in each of two iterations
    assert recipes.trained_tokens.expected == pytest.approx(one * (4 / 2 + 2) * own.iterations)


def test_a_forecast_needs_no_jax():
    code = "import sys; import automem_jax.forecast; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_script_tells_the_least_and_the_config_caps_the_most():
    scripted = group(scripted=True, prompt=pair(7600), generated=pair(380))
    settings = config(env={"max_steps": 1000}, sampling={"max_tokens": 4096})
    row = forecast(settings, Groups("here", (scripted,))).rows["rollout collect"]
    calls = row.calls
    assert calls.expected / calls.low > 5  # a script's 10 steps, a cap of 1,000
    assert row.generated_tokens.high <= calls.high * 4096
    answer = 380 / 20 / 3.8
    assert row.generated_tokens.low == pytest.approx(calls.low * answer)
    assert any(
        "script" in line for line in forecast(settings, Groups("x", (scripted,))).assumptions
    )


def test_the_most_alike_episodes_are_taken_and_less_alike_ones_widen():
    near, far = group(), group(task="MiniHack-Other-v0", prompt=pair(9000))
    both = Groups("here", (far, near))
    assert both.find(config(), BASE)[0] is near
    found = {
        name: forecast(config(), Groups("here", (one,))).rows["rollout collect"].prompt_tokens
        for name, one in {"near": near, "far": far}.items()
    }
    width = {name: r.high / r.low for name, r in found.items()}
    assert width["far"] > width["near"]
    with pytest.raises(ValueError, match="no episode of the base model"):
        forecast(config(), Groups("here", (group(role=SPECIALIST),)))


@pytest.mark.parametrize(
    "name",
    ["quickstart", "qwen2_5_32b_crafter", "qwen2_5_32b_minihack", "qwen2_5_32b_nethack",
     "crafter_endpoint"],
)  # fmt: skip
def test_shipped_configs_have_a_forecast_from_shipped_episodes(name):
    settings = config_of(name)
    found = forecast(settings, groups_of(settings))
    assert found.total.episodes.low >= settings.seeds.collect
    for row in (*found.rows.values(), found.total):
        for quantity in dataclasses.fields(row):
            value = getattr(row, quantity.name)
            if value is not None:
                assert 0 <= value.low <= value.expected <= value.high < math.inf, quantity.name


def test_the_quickstarts_published_figures_lie_in_its_forecast():
    found = forecast(config_of("quickstart"), groups_of(config_of("quickstart")))
    assert 192 + 64 in found.rows["evolve"].episodes
    assert 24.2 in found.rows["rollout collect"].seconds
    assert 11.8 in found.rows["train lineage"].seconds
    assert 32 * 4 * 512 in found.rows["train lineage"].trained_tokens
    assert found.total.seconds.expected == pytest.approx(264, rel=0.25)
    assert found.total.dollars == Range.of(0.0)


def automem(*arguments):
    """In a process of its own: flags of all stages that a process has seen share one name space."""
    command = [sys.executable, "-m", "automem_jax", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_what_the_report_compares(tmp_path):
    told = automem("forecast", f"--workdir={tmp_path}").stdout
    assert "rollout collect" in told and "expected (low to high)" in told
    data = read_forecast(tmp_path)
    stages = [row["stage"] for row in data["rows"]]
    assert stages[0] == "evolve" and stages[-1] == TOTAL
    collect = config_of("quickstart").seeds.collect
    assert data["rows"][1]["episodes"] == {"low": collect, "expected": collect, "high": collect}
    assert data["rows"][1]["trained_tokens"] is None
    assert compare(tmp_path)[0].actual is None  # nothing has run
    told = automem("forecast", f"--workdir={tmp_path}", "--json", "--save=False").stdout
    assert json.loads(told)["rows"]["total"]["episodes"]["low"] > 0
    for wrong in ("--prefill=5", "--call_s=soon", "--from=/no/such"):
        stopped = automem("forecast", f"--workdir={tmp_path}", wrong)
        assert stopped.returncode == 1
        assert wrong[2:].partition("=")[0] in stopped.stderr or "/no/such" in wrong


def test_a_file_of_another_version_is_no_forecast(tmp_path):
    assert read_forecast(tmp_path) is None and compare(tmp_path) == []
    write_json(tmp_path / "forecast.json", {"schema": 99, "rows": []})
    assert read_forecast(tmp_path) is None
    write_forecast(tmp_path, forecast(config(), Groups("here", (group(),))))
    assert read_forecast(tmp_path)["assumptions"][0] == "recorded: here"
