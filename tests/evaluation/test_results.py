import io
import json

import pytest
from toy_traces import simple_episode, step, write_episode

from automem_jax.config import EvaluationConfig, ExperimentConfig, SeedsConfig
from automem_jax.evaluation import (
    Arm,
    ResultsError,
    evaluate,
    export_balrog,
    print_table,
    summarise,
)
from automem_jax.evaluation.balrog import summary_table
from automem_jax.files import write_json

FAST = {"samples": 200}


def two_arms(tmp_path):
    for seed, (before, after) in enumerate([(0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.25, 0.5)]):
        simple_episode(tmp_path / "base", seed, before)
        simple_episode(tmp_path / "best", seed, after, failed=seed == 3, end_reason="crash")
    return {"base": tmp_path / "base", "best": tmp_path / "best"}


def test_results_hold_every_episode_and_compare_arms_by_seed(tmp_path):
    results = summarise(two_arms(tmp_path), **FAST)
    base, best = results["arms"]["base"], results["arms"]["best"]
    assert (base["n"], base["mean"], best["mean"]) == (4, 0.3125, 0.625)
    assert [e["seed"] for e in best["episodes"]] == [0, 1, 2, 3]
    assert base["episodes"][0]["tokens"] == {"prompt": 100, "completion": 10, "calls": 2}
    (difference,) = results["paired_differences"]
    assert (difference["arm"], difference["baseline"]) == ("best", "base")
    assert (difference["mean"], difference["wins"], difference["ties"]) == (0.3125, 2, 2)
    assert results["base_hash"] == "b45e"
    json.dumps(results, allow_nan=False)


def test_a_failed_episode_counts_at_its_progression_and_is_listed(tmp_path):
    best = summarise(two_arms(tmp_path), **FAST)["arms"]["best"]
    assert best["failed"] == [3]
    assert best["episodes"][3]["progression"] == 0.5
    assert best["episodes"][3]["error"] == "crash"


def test_the_same_traces_give_the_same_bytes(tmp_path):
    arms = two_arms(tmp_path)
    write_json(tmp_path / "a.json", summarise(arms, **FAST))
    write_json(tmp_path / "b.json", summarise(arms, **FAST))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_an_arm_without_traces_or_seeds_is_an_error(tmp_path):
    arms = two_arms(tmp_path)
    with pytest.raises(ResultsError, match="no traces"):
        summarise({"empty": tmp_path / "empty"})
    with pytest.raises(ResultsError, match="1 of 5 seeds.*first 4"):
        summarise(arms, expected={"base": range(5)}, **FAST)
    with pytest.raises(ResultsError, match="names arm 'bset'"):
        summarise(arms, comparisons=[("bset", "base")], **FAST)


def test_a_seed_run_twice_is_an_error(tmp_path):
    simple_episode(tmp_path / "a", 1, 0.0)
    simple_episode(tmp_path / "a" / "again", 1, 1.0)
    with pytest.raises(ResultsError, match="repeats seed 1"):
        summarise({"a": tmp_path / "a"})


def test_traces_of_seeds_that_are_not_asked_for_do_not_count(tmp_path):
    arms = two_arms(tmp_path)
    base = summarise(arms, expected={"base": [0, 2], "best": [0, 2]}, **FAST)["arms"]["base"]
    assert (base["n"], base["mean"]) == (2, 0.5)
    simple_episode(tmp_path / "base", 2, 0.0, task="Other-v0")
    with pytest.raises(
        ResultsError, match="traces of 'Other-v0' and 'Toy-v0'; use another --workdir"
    ):
        summarise(arms, expected={"base": [0, 2]}, **FAST)


def test_arms_on_other_seeds_cannot_be_compared(tmp_path):
    simple_episode(tmp_path / "a", 1, 0.0)
    simple_episode(tmp_path / "b", 2, 0.0)
    with pytest.raises(ResultsError, match="share no seed"):
        summarise({"a": tmp_path / "a", "b": tmp_path / "b"})


def test_one_episode_arms_are_summarised_without_a_spread(tmp_path):
    simple_episode(tmp_path / "a", 1, 0.5)
    results = summarise({"a": tmp_path / "a"})
    assert results["arms"]["a"]["standard_error"] is None
    print_table(results, file=io.StringIO())


def test_balrog_layout_and_percentages(tmp_path):
    for seed in (43, 42):
        for task, value in (("Maze-v0", 1.0), ("Quest-v0", 0.0)):
            write_episode(
                tmp_path / "a",
                seed,
                [step("x"), step("y")],
                progression=value,
                task=task,
                reward=value,
            )
    results = summarise({"a": tmp_path / "a"}, **FAST)
    export_balrog([results], "a", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["Final score"] == 50.0
    assert summary["environments"]["toy"]["episodes_played"] == 4
    env = json.loads((tmp_path / "out" / "toy" / "toy_summary.json").read_text())
    assert env["tasks"]["Maze-v0"]["progression_percentage"] == 100.0
    assert env["average_steps"] == 2.0
    run = json.loads((tmp_path / "out" / "toy" / "Maze-v0" / "Maze-v0_run_00.json").read_text())
    assert (run["seed"], run["num_steps"], run["episode_return"]) == (42, 2, 1.0)
    assert run["action_frequency"] == {"north": 2}


def test_balrog_export_of_several_environments(tmp_path):
    results = []
    for env, value in (("nethack", 0.0), ("minihack", 1.0)):
        for seed in (1, 2, 3):
            write_episode(
                tmp_path / env, seed, [step("x")], progression=value * (seed > 1), task=env, env=env
            )
        results.append(summarise({"a": tmp_path / env}, **FAST))
    summary = export_balrog(results, "a", tmp_path / "out")
    assert list(summary["environments"]) == ["nle", "minihack"]
    assert (tmp_path / "out" / "nle" / "nethack" / "nethack_run_02.json").exists()
    table = (tmp_path / "out" / "summary.md").read_text()
    assert "| minihack | 3 | 66.67 | 33.33 |" in table and "| all episodes | 6 | 33.33 |" in table
    assert summary_table(summary) + "\n" == table
    with pytest.raises(ResultsError, match="seed 1 of 'nethack' is in two"):
        export_balrog([results[0], results[0]], "a", tmp_path / "twice")
    with pytest.raises(ResultsError, match="no arm 'b'; name one of a"):
        export_balrog(results, "b", tmp_path / "none")


def test_evaluate_runs_arms_on_heldout_seeds_and_writes_results(tmp_path):
    config = ExperimentConfig(
        seeds=SeedsConfig(heldout_start=42, heldout=5),
        evaluation=EvaluationConfig(bootstrap_samples=100),
    )
    asked = []

    def run_arm(arm, seeds, directory):
        asked.append((arm.name, list(seeds)))
        for seed in seeds:
            simple_episode(directory, seed, 1.0 if arm.adapter_path else seed % 2)

    arms = [Arm("base", "v0"), Arm("specialist", "v0", tmp_path / "adapter")]
    results = evaluate(config, arms, run_arm, tmp_path)
    assert asked == [("base", [42, 43, 44, 45, 46]), ("specialist", [42, 43, 44, 45, 46])]
    assert json.loads((tmp_path / "results.json").read_text())["arms"].keys() == {
        "base",
        "specialist",
    }
    assert results["arms"]["specialist"]["mean"] == 1.0
    assert (tmp_path / "evaluate" / "base" / "balrog" / "summary.json").exists()


def test_an_arm_that_skips_a_seed_fails_the_evaluation(tmp_path):
    config = ExperimentConfig(seeds=SeedsConfig(heldout_start=0, heldout=3))

    def run_arm(arm, seeds, directory):
        simple_episode(directory, seeds[0], 1.0)

    with pytest.raises(ResultsError, match="2 of 3 seeds"):
        evaluate(config, [Arm("base", "v0")], run_arm, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_the_table_is_plain_where_there_is_no_terminal(tmp_path):
    out = io.StringIO()
    print_table(summarise(two_arms(tmp_path), **FAST), file=out)
    text = out.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["arm", "n", "mean"]
    assert lines[1].startswith("base") and " 31.2 " in lines[1]
    assert any(line.startswith("best - base") and "+31.2" in line for line in lines)
