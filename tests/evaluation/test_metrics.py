import pytest
from toy_traces import create, insert, op, simple_episode, step, turn, write_episode

from automem_jax.evaluation.metrics import (
    BehaviourCounter,
    CueCounter,
    CueProbe,
    behaviour,
    probe_for,
    unproductive_actions,
)
from automem_jax.traces.store import read_trace

PROBE = CueProbe(pattern=r"a (blue jelly|lichen)", decisive_from_end=1)


def counted(path):
    return behaviour([read_trace(path)])


def test_behaviour_shares_of_a_written_out_episode(tmp_path):
    steps = [
        step("room", plan=[turn(op("READ", empty=True), tokens=(10, 1)), turn(action="north")]),
        step(
            "hall",
            log=[
                turn(op("APPEND", wrote=[0]), op("APPEND", redundant=True), tokens=(30, 2)),
                turn(op("SEARCH", read=[0]), op("WRITE", ok=False), done=True, tokens=(40, 3)),
            ],
            memory=[create("notes.txt"), insert("notes.txt", (0, "hall"))],
        ),
    ]
    result = counted(write_episode(tmp_path, 1, steps))
    assert result["valid_operation_share"] == 4 / 5
    assert result["redundant_write_share"] == 1 / 2
    assert result["empty_read_share"] == 1 / 2
    assert result["writes_per_search_in_log"] == 3.0
    assert result["episodes_with_write_share"] == 1.0
    assert result["episodes_with_read_share"] == 1.0
    assert result["input_tokens_per_step"] == (10 + 50 + 30 + 40 + 50) / 2
    assert result["calls_per_step"] == 5 / 2


def test_what_was_never_asked_is_none_not_zero(tmp_path):
    result = counted(simple_episode(tmp_path, 1, 0.0))
    for name in ("valid_operation_share", "redundant_write_share", "empty_read_share"):
        assert result[name] is None
    assert result["episodes_with_write_share"] == 0.0


def test_text_the_grammar_could_not_read_counts_as_invalid(tmp_path):
    log = [turn(op("APPEND", ok=False), op("APPEND"), errors=["refused"], text="<|FOO|>x<|END|>")]
    rejected = [turn(errors=["'fly' is no action"], action="fly"), turn(action="north")]
    result = counted(write_episode(tmp_path, 1, [step("a", log=log, plan=rejected)]))
    assert result["valid_operation_share"] == 1 / 3  # a guard's objection is no operation


def test_no_episode_gives_no_shares():
    assert BehaviourCounter().result()["operations_per_step"] is None


def test_unproductive_actions_ignore_clocks_but_not_health(tmp_path):
    steps = [
        step("a wall", short="HP:9 T:1"),
        step("a wall", short="HP:9 T:2"),
        step("a wall", short="HP:8 T:3"),
        step("a wall", short="HP:8 T:4", reward=1.0),
        step("a door", short="HP:8 T:5", progression=0.5),
    ]
    trace = read_trace(write_episode(tmp_path, 1, steps))
    assert unproductive_actions(trace) == [True, False, False, False, False]


def cue_episode(directory, seed, *, progression, text="You see a lichen.", **plan_step):
    """Cue at t 0, logged at t 1 as line 7, two corridor steps, the last one decisive."""
    noted = [create("notes.txt"), insert("notes.txt", (7, "Lichen in the room"))]
    steps = [
        step(text),
        step("hall", log=[turn(op("APPEND", wrote=[7]))], memory=noted),
        step("fork", **plan_step),
        step("arm"),
    ]
    return write_episode(directory, seed, steps, progression=progression)


def cue_result(*paths):
    counter = CueCounter(PROBE)
    for path in paths:
        counter.add(read_trace(path))
    return counter.result()


def test_a_cue_read_by_the_agent_is_told_from_one_shown(tmp_path):
    asked = [turn(op("READ", read=[7])), turn(action="north")]
    result = cue_result(
        cue_episode(tmp_path, 1, progression=1.0, plan=asked),
        cue_episode(tmp_path, 2, progression=1.0, shown={"notes.txt": [[5, 9]]}),
        cue_episode(tmp_path, 3, progression=0.0),
        cue_episode(tmp_path, 4, progression=1.0),
        cue_episode(tmp_path, 5, progression=1.0, text="nothing here"),
    )
    assert result == {
        "episodes_with_cue": 4,
        "cue_logged": 1.0,
        "cue_read": 0.5,
        "cue_shown": 0.25,
        "cue_asked": 0.25,
        "win_given_read": 1.0,
        "win_given_not_read": 0.5,
    }


def test_a_range_of_another_file_does_not_show_the_cue(tmp_path):
    path = cue_episode(tmp_path, 1, progression=1.0, shown={"map.txt": [[5, 9]]})
    assert cue_result(path)["cue_read"] == 0.0


def test_a_read_after_the_decision_does_not_count(tmp_path):
    steps = [
        step(
            "a blue jelly",
            memory=[create("n"), insert("n", (0, "blue jelly"))],
            plan=[turn(op("APPEND", wrote=[0])), turn(action="east")],
        ),
        step("fork"),
        step("arm"),
        step("arm", shown={"n": [[0, 0]]}),
    ]
    early = write_episode(tmp_path, 1, steps, progression=1.0)
    probe = CueProbe(pattern="blue jelly", decisive_from_end=2)
    counter = CueCounter(probe)
    counter.add(read_trace(early))
    assert counter.result()["cue_logged"] == 1.0
    assert counter.result()["cue_read"] == 0.0


def test_lines_the_system_wrote_are_neither_logged_nor_read(tmp_path):
    copied = [create("auto"), insert("auto", (0, "lichen"))]
    steps = [step("a lichen", memory=copied, shown={"auto": [[0, 0]]}), step("b")]
    result = cue_result(write_episode(tmp_path, 1, steps))
    assert result["cue_logged"] == result["cue_read"] == 0.0


@pytest.mark.parametrize("late", [0, 1])
def test_a_late_cue_is_no_cue(tmp_path, late):
    text = "a lichen" if late else "nothing"
    path = write_episode(tmp_path, 1, [step("x"), step("x"), step("x"), step(text)])
    assert cue_result(path)["episodes_with_cue"] == 0


def test_memento_has_a_probe_and_other_tasks_none():
    assert probe_for("MiniHack-Memento-Short-F2-v0").pattern == "(blue jelly|lichen)"
    assert probe_for("NetHackChallenge-v0") is None
