"""Recorded requests and their replay."""

import json
import sys
import time

import pytest
from models.tiny import tiny_decoder
from sampling.letters import LetterTokenizer

from automem_jax.agent.template import load_template
from automem_jax.bench import decode, generate, mixed
from automem_jax.bench.recorded import SHIPPED, from_trace, read_recorded, write_recorded
from automem_jax.config import LoraConfig
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.sampling.engine import Engine
from automem_jax.testing import ScriptedPlayer, ToyEnv
from automem_jax.text.messages import SamplingSettings
from automem_jax.traces.store import read_trace


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    template, env = load_template("memento_v0"), ToyEnv(4, length=6, max_steps=4)
    spec = RolloutSpec(
        env_name="toy",
        task="toy",
        template=template,
        arm="base",
        run_seed=0,
        sampling=SamplingSettings(),
        two_model=False,
        behaviour_hash="0" * 16,
    )
    out = tmp_path_factory.mktemp("traces")
    player = ScriptedPlayer(template, env.actions)
    run_episodes(env, player, spec, range(4), out, show_progress=False)
    return out


def test_a_file_gives_back_what_was_asked(traces, tmp_path):
    episodes = read_recorded(traces)
    path = tmp_path / "r.jsonl.gz"
    write_recorded(path, episodes)
    assert read_recorded(path) == episodes
    first = path.read_bytes()
    write_recorded(path, episodes)
    assert path.read_bytes() == first
    trace = read_trace(sorted(traces.glob("*.jsonl"))[1])
    assert from_trace(trace) == episodes[1]
    late = from_trace(trace, first_step=3).requests
    assert late == tuple(r for r in episodes[1].requests if r.key.step >= 3) and late


def test_what_is_no_such_file_is_told(tmp_path):
    for name, data in (("a", b"x"), ("b", b"\x1f\x8b\x08")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="no file of recorded requests"):
            read_recorded(tmp_path / name)
    with pytest.raises(ValueError, match="no traces"):
        read_recorded(tmp_path)
    with pytest.raises(OSError):
        read_recorded(tmp_path / "missing")


def test_the_shipped_file_has_both_games_and_both_kinds_of_template():
    episodes = read_recorded(SHIPPED)
    kinds = {(e.env, e.template) for e in episodes}
    assert kinds == {
        ("craftax_classic", "crafter_v0"),
        ("craftax_classic", "crafter_v5"),
        ("nethack", "nethack_v0"),
        ("nethack", "nethack_v2"),
    }
    assert SHIPPED.stat().st_size < 200_000
    for kind in kinds:
        own = [e for e in episodes if (e.env, e.template) == kind]
        assert len(own) >= 4 and all(len(e.requests) >= 8 for e in own)
        assert {r.role for e in own for r in e.requests} == {"memory", "gameplay"}
        assert len({r.messages[-1].content for e in own for r in e.requests}) > 20


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_decoder(max_position=2048), LetterTokenizer(), slots=4, max_context=1024)


def test_a_replay_answers_everything_and_counts_it(traces, engine):
    prompts = decode.tokenise(read_recorded(traces), LetterTokenizer(), 1024 - 4)
    assert prompts.dropped == 0
    decode.warm_up(engine, prompts, 3, 4)
    figures, answers = decode.replay(engine, prompts, 3, 4)
    assert len(answers) == len(prompts.lengths) == figures["requests"]
    assert figures["prompt_tokens"] == sum(prompts.lengths)
    assert figures["generated_tokens"] == sum(len(a.token_ids) for a in answers.values())
    assert 0.3 < figures["prefix_reuse"] < 1
    assert 0 < figures["time_to_first_token_p50_s"] <= figures["time_to_first_token_p95_s"]
    assert figures["requests_per_s"] == pytest.approx(figures["requests"] / figures["seconds"])
    engine.clear_cache()
    _, alone = decode.replay(engine, prompts, 1, 4)
    assert {k: a.token_ids for k, a in alone.items()} == {
        k: a.token_ids for k, a in answers.items()
    }
    assert json.dumps(figures)


def test_what_adapters_cost_is_measured_on_the_same_prompts(traces, engine):
    prompts = decode.tokenise(read_recorded(traces), LetterTokenizer(), 1024 - 4)
    made = mixed.random_adapters(tiny_decoder(max_position=2048), 2, LoraConfig(rank=2, alpha=4.0))
    for name, adapter in zip("ab", made, strict=True):
        engine.load_adapter(name, adapter)
    before = engine.counters()["requests"]
    figures = mixed.measure(engine, prompts, "ab", 4, 4, rounds=1)
    assert (
        engine.counters()["requests"] - before == 2 * 2 * 2 * 4
    )  # turns, ways, with and without the clock
    assert 0 < figures["tokens"] <= 4 * 4
    share = figures["mixed_tokens_per_s"] / figures["base_tokens_per_s"]
    assert figures["mixed_share_of_base"] == pytest.approx(share)
    for name in "ab":
        engine.unload_adapter(name)


def test_prompts_beyond_the_context_are_left_out_and_counted(traces):
    episodes = read_recorded(traces)
    every = decode.tokenise(episodes, LetterTokenizer(), 10_000)
    middle = sorted(every.lengths)[len(every.lengths) // 2]
    some = decode.tokenise(episodes, LetterTokenizer(), middle)
    assert some.dropped == sum(length > middle for length in every.lengths) > 0
    assert max(some.lengths) <= middle
    assert len(decode.tokenise(episodes, LetterTokenizer(), 10_000, 2).lengths) == 8
    with pytest.raises(ValueError, match="raise model.max_context"):
        decode.tokenise(episodes, LetterTokenizer(), 10)


def test_pauses_are_spread_and_do_not_count(traces, engine, monkeypatch):
    prompts = decode.tokenise(read_recorded(traces), LetterTokenizer(), 1024 - 4)
    answered, slept_s, clock = [], 0.0, time.perf_counter

    def pause():
        nonlocal slept_s
        answered.append(engine.counters()["requests"] - before)
        slept_s += 1000.0

    monkeypatch.setattr(decode.time, "perf_counter", lambda: clock() + slept_s)

    before = engine.counters()["requests"]
    figures, _ = decode.replay(engine, prompts, 4, 4, [pause] * 3)
    total = len(prompts.lengths)
    assert len(answered) == 3 and answered == sorted(answered)
    assert answered[0] < total / 2 < answered[2] <= total + 4
    assert 0 < figures["answer_p95_s"] <= figures["seconds"] < 1000


def test_groups_are_of_different_episodes_and_spread():
    prompts = decode.Prompts(tuple(((1,),) * 6 for _ in range(8)), (), 0)
    (one, other) = prompts.windows(16, 8)
    assert {e for e, _ in one} == {e for e, _ in other} == set(range(8))
    assert {n for _, n in one} == {0} and {n for _, n in other} == {3}
    assert [len(g) for g in prompts.windows(3, 8)] == [3]
    assert prompts.windows(0, 8) == []
    every = [place for group in prompts.windows(10_000, 8) for place in group]
    assert len(every) == len(set(every)) == 48


def test_without_torch_the_reason_is_told(tmp_path):
    python = str(tmp_path / "python")
    with pytest.raises(generate.NoTransformers, match="No such file"):
        generate.Transformers(python, tiny_decoder(), 4, 4, 1)
    script(tmp_path / "python", "import sys; sys.exit('No module named torch')")
    with pytest.raises(generate.NoTransformers, match="No module named torch"):
        generate.Transformers(python, tiny_decoder(), 4, 4, 1)


def test_scripts_for_another_interpreter_find_its_standard_library():
    """Their folder comes first where they look for modules."""
    own = {path.stem for path in generate.SCRIPT.parent.glob("*.py")}
    assert "decode_torch" in own and not own & sys.stdlib_module_names


def script(path, text):
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)


def test_the_better_batch_is_what_counts(traces, engine, tmp_path):
    """A stand-in for transformers that says what it was asked and how long that took."""
    script(
        tmp_path / "python",
        "import json, sys\n"
        "print(json.dumps({'torch': 'none'}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    n = len(asked['prompts'])\n"
        "    told = {'seconds': n / (2 if asked['batch'] == 1 else 3), 'tokens': [[0]] * n}\n"
        "    print(json.dumps(told), flush=True)\n",
    )
    prompts = decode.tokenise(read_recorded(traces), LetterTokenizer(), 1020)
    groups = prompts.windows(10, 8)
    with generate.Transformers(str(tmp_path / "python"), tiny_decoder(), 4, 4, 1) as transformers:
        comparison = generate.Comparison(transformers, prompts, groups)
        _, answers = decode.replay(engine, prompts, 4, 4, comparison.pauses())
        found = comparison.figures({"requests_per_s": 6.0}, answers)
    assert found["requests"] == 10 and found["torch"] == "none"
    assert (found["better_batch"], found["ours_is_times_faster"]) == (8, pytest.approx(2.0))
    assert found["batch_1"]["ours_is_times_faster"] == pytest.approx(3.0)
    assert found["batch_8"]["same_answers"] == 0.0
    assert json.dumps(found)
