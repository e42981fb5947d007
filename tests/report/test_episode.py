from report_workdir import write_trace

from automem_jax.agent.memory import replay
from automem_jax.report.episode import MarkedLine, _as_changes, choose, episode, marked_lines
from automem_jax.report.material import Material
from automem_jax.traces.schema import PhaseRecord, Step
from automem_jax.traces.store import read_trace


def _step(memory, shown=None):
    phases = (PhaseRecord("plan", shown or {}, ()),)
    return Step(1, {}, phases, tuple(memory), "east", "model")


def test_lines_are_marked_where_they_stood():
    before = {"a": ((0, "zero"), (1, "one"), (2, "two")), "b": ((3, "three"),)}
    step = _step(
        [
            {"op": "remove", "file": "a", "ids": [1]},
            {"op": "insert", "file": "a", "at": 1, "lines": [[4, "new"]]},
            {"op": "delete", "file": "b"},
        ],
        {"a": [[2, 4]], "b": []},
    )
    after = replay([*_as_changes(before), *step.memory])
    assert after == {"a": ((0, "zero"), (4, "new"), (2, "two"))}
    assert marked_lines(before, after, step) == {
        "a": [
            MarkedLine("zero", "kept", False, ""),
            MarkedLine("one", "removed", False, ""),
            MarkedLine("new", "added", True, "system"),
            MarkedLine("two", "kept", True, ""),
        ],
        "b": [MarkedLine("three", "removed", False, "")],
    }


def test_files_at_every_step_equal_the_replay_of_all_changes(tmp_path):
    trace = read_trace(write_trace(tmp_path, 42, won=True, logs=True, reads=True))
    files = replay(())
    for step in trace.steps:
        files = replay([*_as_changes(files), *step.memory])
        assert files == replay(trace.changes(before=step.t + 1))
    assert files["notes"] == ((1, "saw a lichen"),)
    assert files["now"] == ((2, "walking east"),)


def test_agent_and_system_lines_are_told_apart(tmp_path):
    trace = read_trace(write_trace(tmp_path, 42, won=True, logs=True, reads=True))
    before, states = replay(()), []
    for step in trace.steps:
        after = replay([*_as_changes(before), *step.memory])
        states.append(
            {
                (line.text, line.state, line.by, line.read)
                for lines in marked_lines(before, after, step).values()
                for line in lines
            }
        )
        before = after
    assert ("start", "added", "system", False) in states[0]
    assert ("saw a lichen", "added", "agent", False) in states[1]
    assert ("start", "removed", "", False) in states[2]
    assert ("saw a lichen", "kept", "", True) in states[3]


def test_choice_wants_a_win_that_read_what_it_wrote(tmp_path):
    folder = tmp_path / "traces" / "evaluate" / "specialist_best"
    write_trace(folder, 42, won=True, logs=False, reads=False)
    write_trace(folder, 43, won=False, logs=True, reads=True)
    write_trace(folder, 44, won=True, logs=True, reads=True)
    assert choose(Material(tmp_path))[1].header["seed"] == 44


def test_choice_falls_back_to_any_arm(tmp_path):
    write_trace(tmp_path / "traces" / "gate" / "v0", 7, won=False, logs=False, reads=False)
    assert choose(Material(tmp_path))[1].header["seed"] == 7
    assert choose(Material(tmp_path / "none")) is None


def test_step_shows_conversations_results_and_files(tmp_path):
    write_trace(tmp_path / "traces" / "gate" / "v0", 42, won=True, logs=True, reads=True)
    page = episode(Material(tmp_path))
    assert page.count('class="step"') == 5
    assert "<ins>saw a lichen</ins>" in page and "<del>start</del>" in page
    assert "added by the agent" in page and "&lt;|READ|&gt;notes&lt;|END|&gt;" in page
    assert "error: APPEND missing: no such file" in page
    assert "reward +1, win" in page


def test_map_of_the_percept_stands_beside_the_files(tmp_path):
    path = write_trace(tmp_path / "traces" / "gate" / "v0", 42, won=True, logs=True, reads=True)
    text = path.read_text().replace(
        '"percept":{"long_text"', '"percept":{"map":"#@#\\n---","long_text"'
    )
    path.write_text(text)
    assert '<pre class="map">#@#\n---</pre>' in episode(Material(tmp_path))
