"""A trace opened at any step shows what reading it whole shows."""

import json
import os

import pytest
import viewer_workdir

from automem_jax.agent.store_files import files_at
from automem_jax.selection.lineage import follow
from automem_jax.traces.schema import TraceError
from automem_jax.traces.store import read_trace
from automem_jax.viewer import records
from automem_jax.viewer.index import TraceIndex
from automem_jax.viewer.runs import find_episodes


@pytest.fixture(scope="module")
def path(workdir):
    return workdir / "traces" / "evaluate" / "base_v0" / "Toy-42.jsonl"


@pytest.fixture
def index(path):
    index = TraceIndex(path)
    yield index
    index.close()


def all_steps(index):
    return [(chunk, step) for chunk in index.chunks() for step in chunk["steps"]]


def test_every_step_is_as_recorded_in_whatever_order_it_is_asked_for(index, path):
    trace = read_trace(path)
    last = index.chunk((len(trace.steps) - 1) // records.CHUNK_STEPS)  # before any other
    assert last["steps"][-1]["action"] == trace.steps[-1].action
    found = all_steps(index)
    assert len(found) == len(trace.steps) == viewer_workdir.STEPS
    for (chunk, step), recorded in zip(found, trace.steps, strict=True):
        texts = chunk["texts"]
        assert texts[step["percept"]["long_text"]] == recorded.percept["long_text"]
        assert [p["phase"] for p in step["phases"]] == [p.phase for p in recorded.phases]
        for phase, recorded_phase in zip(step["phases"], recorded.phases, strict=True):
            told = []
            for turn, recorded_turn in zip(phase["turns"], recorded_phase.turns, strict=True):
                told += [texts[text] for _, text in turn["prompt"]]
                assert told == [m.content for m in recorded_turn.messages]
                assert texts[turn["text"]] == recorded_turn.completion.text
                answers = [texts[o["answer"]] for o in turn["operations"]]
                assert answers == [o["answer"] for o in recorded_turn.operations]


def test_a_chunk_starts_with_the_files_as_they_were(index, path):
    trace = read_trace(path)
    for chunk in index.chunks():
        expected = files_at(trace.steps, chunk["first"] - 1)
        found = {
            name: tuple((number, chunk["texts"][text]) for number, text in lines)
            for name, lines in chunk["memory"].items()
        }
        assert found == expected


def test_columns_tell_what_happened(index, path):
    index.wait()
    summary, trace = index.summary(), read_trace(path)
    columns = summary["columns"]
    assert summary["steps"] == len(trace.steps) and summary["end"]["steps"] == len(trace.steps)
    assert [summary["actions"][a] for a in columns["action"]] == [s.action for s in trace.steps]
    failed = [t for t, flags in enumerate(columns["flags"]) if flags & records.OPERATION_FAILED]
    assert failed == list(viewer_workdir.FAILURES)
    calls = [t for t, flags in enumerate(columns["flags"]) if flags & records.CALL_FAILED]
    assert calls == [viewer_workdir.STEPS - 1]
    turns = [turn for s in trace.steps for p in s.phases if p.phase == "log" for turn in p.turns]
    writes = sum(operation["ok"] for turn in turns for operation in turn.operations)
    assert sum(columns["writes"]) == writes > 0
    rest = index.summary(40)
    assert rest["columns"]["action"] == columns["action"][40:]


def test_lineage_agrees_with_the_selection(index, path):
    lineage = follow(read_trace(path), str(path))
    found = {line["id"]: line for line in index.lines()["lines"]}
    assert found.keys() == lineage.lines.keys()
    written = 0
    for number, line in lineage.lines.items():
        row = found[number]
        assert (row["text"], row["file"], row["born"]) == (line.text, line.file, line.t)
        if line.writer is None:
            assert row["writer"] is None
            continue
        written += 1
        assert row["writer"] == [line.writer.t, line.writer.phase, line.writer.turn, "APPEND"]
        assert len(row["reads"]) == line.asked
        prompts = sum(last - first + 1 for first, last in row["shown"])
        assert prompts == line.reads - line.asked
    assert written == len([t for t in range(viewer_workdir.STEPS) if t % 5 == 1])


def test_search_finds_in_each_scope(index):
    assert [t for t, *_ in index.search("MISSING", "operations")["hits"]] == [7, 23, 41]
    hit = index.search("note 6 caf", "memory")["hits"][0]
    assert hit[0] == 6 and hit[3] == "note 6 caf"
    assert index.search("step 12:", "seen")["hits"][0][0] == 12
    assert index.search("", "all")["hits"] == []
    assert len(index.search("script", "seen")["hits"]) == viewer_workdir.STEPS
    with pytest.raises(ValueError, match="scope"):
        index.search("x", "elsewhere")


def test_a_running_episode_grows(tmp_path, path):
    lines = path.read_bytes().splitlines(keepends=True)
    growing = tmp_path / "traces" / "Toy-42.jsonl.partial"
    growing.parent.mkdir()
    growing.write_bytes(b"".join(lines[:21]) + lines[21][:30])  # 20 steps and a torn one
    (episode,) = find_episodes(tmp_path)
    assert episode.end is None and episode.row()["running"]
    index = TraceIndex(growing)
    index.wait()
    assert index.summary()["steps"] == 20 and index.summary()["end"] is None
    short = index.chunk(1)
    assert len(short["steps"]) == 20 - records.CHUNK_STEPS
    with open(growing, "ab") as file:
        file.write(lines[21][30:] + b"".join(lines[22:]))
    os.rename(growing, growing.with_suffix(""))
    index.go_on()
    index.wait()
    assert index.summary()["steps"] == viewer_workdir.STEPS and index.finished
    index.close()
    (ended,) = find_episodes(tmp_path)
    assert ended.id == episode.id and ended.end["steps"] == viewer_workdir.STEPS


def test_what_cannot_be_read_is_told(tmp_path, path):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10] = b'{"type":"step"}\n'
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b"".join(lines))
    index = TraceIndex(broken)
    index.wait()
    assert index.summary()["steps"] == 9 and "line 11" in index.summary()["problem"]
    with pytest.raises(ValueError, match="chunk 5"):
        index.chunk(5)
    index.close()
    broken.write_text(json.dumps({"type": "header", "schema": 99}) + "\n")
    with pytest.raises(TraceError, match="schema 99"):
        TraceIndex(broken)


def test_only_traces_are_episodes(workdir, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1}\n')
    (tmp_path / "empty.jsonl").write_text("")
    assert find_episodes(tmp_path) == []
    with pytest.raises(ValueError, match="does not exist"):
        find_episodes(tmp_path / "none")
    found = find_episodes(workdir)
    assert len({episode.id for episode in found}) == 4
    assert {episode.run for episode in found} == {"evaluate/base_v0", "evaluate/specialist_best"}
