import json
import random
from collections import Counter

import pytest
from handmade import READ, Episode, append, play

from automem_jax.config import SelectionConfig
from automem_jax.selection import SelectionError, load_examples, select, verify_examples
from automem_jax.traces.store import list_traces

CUES = ("saw a blue jelly", "saw a lichen")


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Sixty episodes: who reads a cue back wins, the others win half the time."""
    folder = tmp_path_factory.mktemp("traces")
    source = random.Random(3)
    for seed in range(100, 160):
        cue = source.choice(CUES) if source.random() < 0.6 else None
        consult = source.random() < 0.6
        episode = play(seed, cue=cue, trivia=source.random() < 0.5, consult=consult)
        won = (cue and consult) or source.random() < 0.4
        episode.write(folder, float(bool(won)))
    return folder


def choose(traces, out, match=None, forbidden_seeds=(), **config):
    return select(
        list_traces(traces),
        SelectionConfig(**({"min_standard_errors": 2.0} | config)),
        out,
        forbidden_seeds=forbidden_seeds,
        match=match,
    )


def test_lineage_keeps_cue_writes_and_the_reads_that_returned_them(traces, tmp_path):
    report = choose(traces, tmp_path)
    examples = list(load_examples(tmp_path / "examples.jsonl"))
    assert len(examples) == report.count == sum(report.phases.values())
    assert report.phases["log"] >= 10 and report.phases["plan"] >= 10
    answers = Counter(e["messages"][-1]["content"] for e in examples)
    assert set(answers) == {append(CUES[0]), append(CUES[1]), READ}  # no trivia, action stripped
    assert all(e["signals"]["credit"] >= 0.05 for e in examples)
    assert report.memory_turns == report.count + sum(report.rejected.values())
    assert {"no_success", "never_read_back"} <= set(report.rejected)
    shapes = report.details["shapes"]
    assert sum(counts["decisions"] for counts in shapes.values()) == report.memory_turns
    assert sum(counts["kept"] for counts in shapes.values()) == report.count
    shown = report.details["rejected_examples"]["never_read_back"]
    assert len(shown) == 3 and all("<|APPEND|>" in one["text"] for one in shown)
    assert report.operations == {"APPEND": report.phases["log"], "READ": report.phases["plan"]}
    assert {g["text"] for g in report.groups[:2]} == set(CUES)
    written = json.loads((tmp_path / "selection.json").read_text())
    assert written["count"] == report.count and written["seeds"] == list(range(100, 160))


def test_an_example_is_the_prompt_verbatim_and_the_cleaned_turn(traces, tmp_path):
    choose(traces, tmp_path)
    example = next(e for e in load_examples(tmp_path / "examples.jsonl") if e["phase"] == "plan")
    assert example["messages"] == [
        {"role": "system", "content": "play"},
        {"role": "user", "content": "plan of step 2"},
        {"role": "assistant", "content": READ},
    ]
    assert example["supervised"] == [{"message": 2, "start": 0, "end": len(READ)}]
    assert example["provenance"]["cleaned"] and example["provenance"]["t"] == 2
    assert example["weight"] == 1.0 and example["history"] == []


def test_control_matches_number_and_mix_and_is_drawn_from_all_valid_turns(traces, tmp_path):
    report = choose(traces, tmp_path / "lineage")
    match = tmp_path / "lineage" / "selection.json"
    control = choose(traces, tmp_path / "random", match, kind="random")
    assert control.phases == report.phases and control.count == report.count
    answers = [e["messages"][-1]["content"] for e in load_examples(control.examples)]
    assert any("went east" in a for a in answers)
    again = choose(traces, tmp_path / "again", match, kind="random")
    other = choose(traces, tmp_path / "other", match, kind="random", seed=1)
    assert again.examples_sha256 == control.examples_sha256 != other.examples_sha256
    assert verify_examples(control.examples) == control.count
    with pytest.raises(SelectionError, match="needs `match`"):
        choose(traces, tmp_path / "x", kind="random")


def test_a_control_that_cannot_match_says_what_is_missing(traces, tmp_path):
    match = tmp_path / "selection.json"
    match.write_text(json.dumps({"phases": {"log": 10_000, "plan": 1}}))
    control = choose(traces, tmp_path / "random", match, kind="random")
    assert control.short == {"log": 10_000 - control.phases["log"]}


def test_forbidden_seeds_are_refused_by_name(traces, tmp_path):
    with pytest.raises(SelectionError, match="seeds 101 are kept for evaluation"):
        choose(traces, tmp_path, forbidden_seeds=[42, 101])
    assert not (tmp_path / "examples.jsonl").exists()
    choose(traces, tmp_path)
    with pytest.raises(SelectionError, match="seeds 101, 102"):  # finished work is no way around
        choose(traces, tmp_path, forbidden_seeds=[101, 102])


def test_finished_selection_is_not_done_again_and_a_damaged_one_is(traces, tmp_path):
    report = choose(traces, tmp_path)
    path = tmp_path / "examples.jsonl"
    before = path.stat().st_mtime_ns
    assert choose(traces, tmp_path) == report
    assert path.stat().st_mtime_ns == before
    path.write_text("{}\n")
    assert choose(traces, tmp_path).examples_sha256 == report.examples_sha256
    assert path.stat().st_mtime_ns != before
    assert choose(traces, tmp_path, max_examples=3).count == 3


def test_caps(traces, tmp_path):
    report = choose(traces, tmp_path / "a", max_per_episode=1)
    per_episode = Counter(e["provenance"]["seed"] for e in load_examples(report.examples))
    assert set(per_episode.values()) == {1} and report.rejected["episode_cap"] > 0
    report = choose(traces, tmp_path / "b", max_repeats=2)
    texts = Counter(e["messages"][-1]["content"] for e in load_examples(report.examples))
    assert set(texts.values()) == {2} and report.rejected["repeat_cap"] > 0
    report = choose(traces, tmp_path / "c", max_examples=4)
    assert report.count == 4 and report.rejected["max_examples"] > 0


def test_verification_catches_a_changed_trace_and_a_changed_example(tmp_path):
    folder = tmp_path / "traces"
    for seed in range(4):
        episode = play(seed, cue="jelly" if seed < 2 else None, trivia=False, consult=True)
        episode.write(folder, float(seed < 2))
    report = choose(folder, tmp_path / "out")
    assert verify_examples(report.examples) == report.count == 4
    path = tmp_path / "out" / "examples.jsonl"
    good = path.read_text()
    path.write_text(good.replace("plan of step 2", "plan of step 3", 1))
    with pytest.raises(SelectionError, match="messages differ"):
        verify_examples(path)
    path.write_text(good)
    trace = folder / "toy-0.jsonl"
    trace.write_text(trace.read_text().replace("jelly", "Jelly"))
    with pytest.raises(SelectionError, match=r"examples\.jsonl:1 .*has changed"):
        verify_examples(path)


def test_validity_redundancy_and_empty_reads_are_rejected_with_their_reason(tmp_path):
    folder = tmp_path / "traces"
    good = play(0, cue="jelly", trivia=False, consult=True)
    good.log(append("x"), [{"ok": False}])
    good.log(append("y"), [{"redundant": True}])
    good.log(READ, [{"empty": True}])
    good.log("<|DONE|>")
    good.log(append("z ``` z"))
    good.log("<|LOOKUP|>w<|END|>" + READ)
    good.log(append("w"), completion=good.completion(append("w"), "timed out"))
    good.act()
    good.write(folder, 1.0)
    for seed in range(1, 4):
        play(seed, cue=None, trivia=False, consult=False).write(folder, 0.0)
    report = choose(folder, tmp_path / "out")
    assert report.rejected == {
        "invalid_operation": 1,
        "redundant": 1,
        "empty_read": 1,
        "fence": 1,
        "malformed": 1,
        "policy_error": 1,
    }
    assert report.count == 2


def test_two_model_traces_give_the_specialists_turns_only(tmp_path):
    folder = tmp_path / "traces"
    for seed in range(4):
        episode = Episode(seed)
        won = seed < 2
        ids = episode.log(append("jelly"), [{"write": ["jelly"]}])
        episode.plan(READ, [{"read": ids if won else []}], role="memory")
        episode.plan(READ, [{"read": ids if won else []}], role="gameplay")
        episode.plan("<|ACTION|>east<|END|>", role="gameplay")
        episode.act()
        episode.write(folder, float(won))
    report = choose(folder, tmp_path / "out")
    examples = list(load_examples(report.examples))
    assert report.phases == {"log": 2, "plan": 2}
    assert {(e["phase"], e["provenance"]["turn"]) for e in examples} == {("log", 0), ("plan", 0)}


def test_earlier_turns_are_offered_in_their_cleaned_form(tmp_path):
    folder = tmp_path / "traces"
    for seed in range(4):
        episode = Episode(seed)
        won = seed < 2
        ids = episode.log("```\n" + append("jelly") + "\n```", [{"write": ["jelly"]}])
        episode.log(append("more") + "<|DONE|>", [{"write": ["more"]}])
        episode.plan(READ, [{"read": [*ids, ids[0] + 1] if won else []}])
        episode.act()
        episode.write(folder, float(won))
    report = choose(folder, tmp_path / "out")
    second = next(e for e in load_examples(report.examples) if e["provenance"]["turn"] == 1)
    assert second["messages"][2]["content"] == "```\n" + append("jelly") + "\n```"  # verbatim
    assert second["history"] == [{"message": 2, "text": append("jelly")}]
    assert second["messages"][-1]["content"] == append("more")


def test_nothing_to_keep_and_unfinished_traces_are_told(tmp_path):
    folder = tmp_path / "traces"
    for seed in range(2):
        play(seed, cue="jelly", trivia=False, consult=True).write(folder, 0.0)
    with pytest.raises(SelectionError, match=r"none of 4 memory turns .*no_success 4"):
        choose(folder, tmp_path / "out")
    with pytest.raises(SelectionError, match="no traces"):
        select([], SelectionConfig(), tmp_path / "out")
    with pytest.raises(SelectionError, match="'outcome': use one of lineage, signals, random"):
        choose(folder, tmp_path / "out", kind="outcome")
    unfinished = play(9, cue=None, trivia=False, consult=False).write(folder, 1.0, finished=False)
    for seed in range(2, 4):
        play(seed, cue="lichen", trivia=False, consult=True).write(folder, 1.0)
    report = select([*list_traces(folder), unfinished], SelectionConfig(), tmp_path / "out")
    assert report.unfinished == 1 and report.traces == 4


def test_operations_that_were_not_executed_are_not_trained_on(tmp_path):
    for seed in range(4):
        episode = Episode(seed)
        turn = append("a") + append("b")
        (line,) = episode.log(turn, [{"write": ["a"]}])
        if seed % 2:  # the limit on operations a reply left the second one out
            del episode._phases[-1]["turns"][-1]["operations"][1:]
        episode.plan(READ, [{"read": [line]} if seed < 2 else {"empty": True}])
        episode.act()
        episode.write(tmp_path / "traces", float(seed < 2))
    report = choose(tmp_path / "traces", tmp_path)
    assert report.rejected["not_executed"] == 2
