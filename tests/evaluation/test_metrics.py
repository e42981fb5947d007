import pytest
from toy_traces import create, insert, op, simple_episode, step, turn, write_episode

from automem_jax.evaluation.metrics import (
    BehaviourCounter,
    CueCounter,
    CueProbe,
    behaviour,
    oscillating,
    probe_for,
    unproductive_actions,
    without_effect,
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


def test_a_cue_of_two_parts_is_logged_by_a_line_that_holds_both(tmp_path):
    probe = probe_for("MiniHack-Memento-F4-v0")
    found = []
    for seed, line in enumerate(("Red mold, BLUE jelly", "blue jelly", "blue jelly, green mold")):
        steps = [
            step("red mold very near south\nblue jelly very near north"),
            step(
                "hall",
                log=[turn(op("APPEND", wrote=[7]))],
                memory=[create("n"), insert("n", (7, line))],
            ),
        ]
        counter = CueCounter(probe)
        counter.add(read_trace(write_episode(tmp_path, seed, steps)))
        found.append(counter.result()["cue_logged"])
    assert found == [1.0, 0.0, 0.0]


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


def logged(*texts, first=0, file="notes.txt", op_name="APPEND"):
    """A LOG turn that writes these lines, and the change that records it."""
    ids = list(range(first, first + len(texts)))
    change = insert(file, *zip(ids, texts, strict=True), at=first)
    return {"log": [turn(op(op_name, file=file, wrote=ids))], "memory": [change]}


def test_a_write_is_contradicted_by_the_numbers_the_agent_saw(tmp_path):
    status = "Your status:\n- health: {}/9\nYour inventory:\n- wood: {}"
    lines = [
        ("health: 7, wood: 2", False),  # true now
        ("health is 9", False),  # true one percept ago
        ("wood = 5 now", True),
        ("need wood: 5 for a table; health: 7", False),  # an aim is no claim
        ("health was 3", False),  # nor is the past
        ("iron: 4", False),  # never seen: cannot be judged
        ("tree 3 steps north", False),
        ("all fine and health: 2", True),
    ]
    for seed, (line, contradicted) in enumerate(lines):
        steps = [
            step("a", short=status.format(9, 2)),
            step("b", short=status.format(7, 2), **logged(line)),
        ]
        result = counted(write_episode(tmp_path / str(seed), seed, steps))
        assert result["contradicted_write_share"] == float(contradicted), line


def test_an_item_that_is_used_up_counts_as_none(tmp_path):
    steps = [step("a", short="- wood: 3"), step("b"), step("c", **logged("wood: 3"))]
    assert counted(write_episode(tmp_path, 1, steps))["contradicted_write_share"] == 1.0


def test_lines_taken_back_soon_are_told_from_pruned_and_rewritten_ones(tmp_path):
    def removing(ids, *new, first, writer="UPSERT"):
        made = logged(*new, first=first, op_name=writer)
        made["memory"].insert(0, {"op": "remove", "file": "notes.txt", "ids": ids})
        return made

    pruned = {"memory": [{"op": "remove", "file": "notes.txt", "ids": [1]}]}
    steps = [
        step("a", memory=[create("notes.txt")]),
        step("b", **logged("door: shut", "old", "kept")),
        step("c", **removing([0], "door: open", first=3)),  # taken back
        step("d", **pruned),  # by the system
        step(
            "e", **removing([2, 3], "Kept!", "door: open", first=4, writer="WRITE")
        ),  # written again
        *(step(f"{t}") for t in range(12)),
        step("f", **removing([4], "news", first=6)),  # long after
    ]
    result = counted(write_episode(tmp_path, 1, steps))
    assert result["retracted_write_share"] == 1 / 7


def test_read_back_and_asked_back(tmp_path):
    steps = [
        step("a", memory=[create("notes.txt")]),
        step("b", **logged("one", "two", "three")),
        step("c", plan=[turn(op("READ", read=[1])), turn(action="north")]),
        step("d", shown={"notes.txt": [[1, 2]]}),
    ]
    result = counted(write_episode(tmp_path, 1, steps))
    assert result["write_read_back_share"] == 2 / 3
    assert result["write_asked_back_share"] == 1 / 3


def test_memory_growth_leaves_the_seed_out(tmp_path):
    seed = [create("notes.txt"), insert("notes.txt", (0, "x" * 500))]
    steps = [
        step("a", memory=seed),
        step("b", **logged("four", "five", first=1)),
        step("c", memory=[{"op": "remove", "file": "notes.txt", "ids": [1]}]),
        step("d", memory=[create("own"), {"op": "delete", "file": "own"}]),
        step("e"),
    ]
    result = counted(write_episode(tmp_path, 1, steps))
    assert result["memory_lines_per_step"] == 1 / 4
    assert result["memory_characters_per_step"] == 1.0
    assert counted(write_episode(tmp_path / "x", 2, [step("a")]))["memory_lines_per_step"] is None


def test_oscillation_by_actions_and_by_what_is_seen(tmp_path):
    def verdicts(seed, *pairs, **last):
        steps = [step(text, action=action) for text, action in pairs]
        steps[-1]["percept"] |= last
        return oscillating(read_trace(write_episode(tmp_path / str(seed), seed, steps)))

    swinging = [(f"room {i}", "east" if i % 2 else "west") for i in range(5)]
    assert verdicts(1, *swinging) == [False, False, False, True, False]  # the end
    assert verdicts(2, *swinging, reward=1.0) == [False, False, False, False, False]
    same = [(f"room {i}", "west") for i in range(5)]
    assert not any(verdicts(3, *same)), "pressing on is no oscillation"
    back = [("hall T:1", "west"), ("den T:2", "dig"), ("hall T:3", "wait")]
    assert verdicts(4, *back) == [False, True, False]


def test_the_typed_comparison_overrules_the_texts(tmp_path):
    steps = [step("cow north"), step("cow west"), step("a wall"), step("a wall")]
    for record, changed in zip(steps[1:], (False, True, True), strict=True):
        record["percept"]["changed"] = changed
    result = without_effect(read_trace(write_episode(tmp_path, 1, steps)))
    assert result[:3] == [True, False, False]


def test_invalid_mended_and_rejected_actions(tmp_path):
    steps = [step("a"), step("b"), step("c"), step("d")]
    steps[0] |= {"action_source": "fallback", "proposed": "fly"}
    steps[1] |= {"action_source": "fallback", "proposed": None}  # a failed call
    steps[2] |= {"action_source": "repair", "proposed": "North!"}
    steps[3]["percept"]["unknown_action"] = "nrth"  # of step 2
    steps[3]["phases"][-1]["turns"] = [turn(action="sleep"), turn(action="north")]
    steps[3]["phases"][-1]["turns"][0]["rejected"] = "sleep"
    result = counted(write_episode(tmp_path, 1, steps))
    assert result["invalid_action_share"] == 2 / 4
    assert result["repaired_action_share"] == 1 / 4
    assert result["rejected_actions_per_step"] == 1 / 4
    assert result["fallback_action_share"] == 2 / 4


def test_empty_searches_are_told_from_empty_reads(tmp_path):
    asked = [turn(op("SEARCH", empty=True), op("SEARCH"), op("READ", empty=True)), turn(action="x")]
    result = counted(write_episode(tmp_path, 1, [step("a", plan=asked)]))
    assert result["empty_search_share"] == 1 / 2 and result["empty_read_share"] == 2 / 3
