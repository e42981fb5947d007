import pytest
from handmade import READ, Episode, append

from automem_jax.selection.filters import invalid
from automem_jax.selection.lineage import ReadBack, TurnKey, follow, success_step
from automem_jax.traces.store import read_trace


def lineage(episode, tmp_path, progression=1.0):
    path = episode.write(tmp_path, progression)
    return follow(read_trace(path), str(path))


def test_a_written_line_is_followed_to_its_first_read(tmp_path):
    episode = Episode(7)
    (cue,) = episode.log(append("blue jelly"), [{"write": ["blue jelly"]}])
    (trivia,) = episode.log(append("went east"), [{"write": ["went east"]}])
    episode.act()
    episode.act()
    episode.plan(READ, [{"read": [cue]}])
    episode.act()
    episode.plan(READ, [{"read": [cue]}])
    episode.act()
    found = lineage(episode, tmp_path)
    assert (found.seed, found.task, found.progression) == (7, "toy/toy", 1.0)
    line = found.lines[cue]
    assert (line.text, line.writer, line.reads) == ("blue jelly", TurnKey(0, "log", 0), 2)
    assert line.first_read == ReadBack(TurnKey(2, "plan", 0), "read")
    assert found.lines[trivia].writer == TurnKey(0, "log", 1)
    assert found.lines[trivia].first_read is None
    assert [t.wrote for t in found.turns] == [(cue,), (trivia,), (), ()]
    assert [t.read for t in found.turns] == [(), (), (cue,), (cue,)]


def test_lines_shown_in_a_plan_prompt_count_and_those_of_other_files_or_outside_do_not(tmp_path):
    episode = Episode(1)
    (one,) = episode.log(append("a"), [{"write": ["a"]}])
    (two,) = episode.log(append("b"), [{"write": ["b"]}], file="other")
    (three,) = episode.log(append("c"), [{"write": ["c"]}])
    (late,) = episode.log(append("d"), [{"write": ["d"]}])
    episode.act()
    episode.act()
    episode.plan("<|ACTION|>east<|END|>", shown={"notes": [[one, three]]})
    episode.act()
    lines = lineage(episode, tmp_path).lines
    assert lines[one].first_read == ReadBack(TurnKey(2, "plan", 0), "shown")
    assert lines[three].first_read is not None
    assert lines[two].first_read is None and lines[late].first_read is None


def test_a_reply_that_the_token_limit_cut_inside_an_operation_is_known(tmp_path):
    episode = Episode(1)
    cut = [
        "<|APPEND|>notes|blue je",
        append("a") + "<|APPEND|>notes|b<|EN",
        "<|READ|>notes<|END|> so",
    ]
    for text in cut:
        episode.log(text, completion=episode.completion(text) | {"finish_reason": "length"})
    episode.log(cut[0])
    episode.act()
    turns = lineage(episode, tmp_path).turns
    assert [turn.cut_off for turn in turns] == [True, True, False, False]
    assert [invalid(turn) for turn in turns] == ["cut_off", "cut_off", None, None]


def test_a_read_before_the_write_in_the_same_turn_does_not_count(tmp_path):
    episode = Episode(1)
    episode.log(READ + append("a"), [{"read": [0]}, {"write": ["a"]}])
    episode.act()
    assert lineage(episode, tmp_path).lines[0].first_read is None


def test_system_lines_have_no_writer_and_no_credited_read(tmp_path):
    episode = Episode(1)
    line = episode.system_line("a map")
    episode.plan(READ, [{"read": [line]}])
    episode.act()
    found = lineage(episode, tmp_path)
    assert found.lines[line].writer is None
    assert list(found.credited_reads()) == []


def test_reads_after_the_success_are_not_credited(tmp_path):
    episode = Episode(1)
    (early,) = episode.log(append("a"), [{"write": ["a"]}])
    (late,) = episode.log(append("b"), [{"write": ["b"]}])
    episode.plan(READ, [{"read": [early]}])
    episode.act(progression=0.0)
    episode.plan(READ, [{"read": [early, late]}])
    episode.act(progression=0.5)
    found = lineage(episode, tmp_path, progression=0.5)
    assert found.success_step == 0
    assert [line.id for line in found.credited_reads()] == [early]


def test_two_model_traces_are_recognised(tmp_path):
    episode = Episode(1)
    episode.plan(READ, role="memory")
    episode.plan("<|ACTION|>east<|END|>", role="gameplay")
    episode.act()
    assert lineage(episode, tmp_path).two_model


@pytest.mark.parametrize(
    ("progressions", "wanted"),
    [([0, 0, 1], 1), ([0, 0.5, 0.5, 1, 1], 2), ([0, 0], None), ([0.5, 0.2, 0.4], None), ([], None)],
)
def test_success_is_the_last_step_that_raised_progression(progressions, wanted):
    assert success_step(progressions) == wanted


def test_an_unfinished_trace_is_refused(tmp_path):
    episode = Episode(1)
    episode.act()
    path = episode.write(tmp_path, 0.0, finished=False)
    with pytest.raises(ValueError, match="not finished"):
        follow(read_trace(path), str(path))
