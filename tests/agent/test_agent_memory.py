"""The store: ids, limits, answers, replay."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.agent.grammar import OPERATIONS, parse
from automem_jax.agent.memory import MemoryStore, replay
from automem_jax.agent.template import FileSpec, ItemSpec, Limits, NewFiles

ALL = OPERATIONS


def store(**specs):
    files = {"notes": FileSpec(kind="log", ops=ALL), **specs}
    return MemoryStore(files, Limits(file_bytes=2000, total_bytes=4000), NewFiles(True, 3))


def run(memory, text):
    return [memory.execute(o.op, o.args) for o in parse(text).operations]


def contents(memory, name):
    return [line for _, line in memory.lines(name)]


TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["one", "One!", "two\nthree", "1,2|altar", "a:b|c", "k: v", "a", "5", "\ud800"]
    ),
    st.sampled_from(["x" * 900, "{percept.step}", "1|y", "<b>", "\x00\x1b[2J"]),
)
NAMES = st.sampled_from(
    ["notes", "Notes", "map", "goals", "new1", "a/b", "../x", "", "n\x00", "y" * 99]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), NAMES, st.none() | TEXTS), max_size=25))
def test_replaying_changes_rebuilds_the_store(operations):
    memory = store(
        map=FileSpec(kind="map", key=("x", "y"), ops=(*ALL,)),
        goals=FileSpec(kind="checklist", items=(ItemSpec("a", "first"), ItemSpec("b")), ops=ALL),
    )
    changes, seen = [], set()
    for op, name, text in operations:
        before = {n for lines in memory.snapshot().values() for n, _ in lines}
        seen |= before
        result = memory.execute(op, (name,) if text is None else (name, text))
        after = {n for lines in memory.snapshot().values() for n, _ in lines}
        assert not (set(result.wrote) & seen), "line ids are never reused"
        assert set(result.read) <= before
        assert result.ok or (result.error and before == after)
        memory.prune()
        changes += memory.changes()
        assert replay(changes) == memory.snapshot()
        for lines in memory.snapshot().values():
            assert all(line.splitlines() == [line] for _, line in lines)
            assert sum(len(line.encode()) + 1 for _, line in lines) <= 2000


def test_write_then_append_keeps_the_append():
    memory = store()
    run(memory, "<|WRITE|>notes|one<|END|><|APPEND|>notes|two\nthree<|END|>")
    assert memory.lines("notes") == ((0, "one"), (1, "two"), (2, "three"))


def test_answers_the_model_can_act_on():
    memory = store()
    answers = {
        "<|READ|>note<|END|>": "error: READ note: no such file; did you mean notes?",
        "<|READ|>zzz<|END|>": "error: READ zzz: no such file; files: notes",
        "<|READ|><|END|>": "error: READ names no file; files: notes",
        "<|TAIL|>notes|all<|END|>": "error: TAIL notes: 'all' is no number of lines; write 1 or more",
        "<|READ|>../../etc<|END|>": "error: bad file name '../../etc'; use letters, digits, _ and -",
        "<|READ|>notes<|END|>": "READ notes: empty",
        "<|SEARCH|>notes|jelly<|END|>": "SEARCH notes: nothing with 'jelly'",
    }
    for text, wanted in answers.items():
        (result,) = run(memory, text)
        assert result.answer == wanted
        assert result.empty and not result.read
    (refused,) = [memory.execute("WRITE", ("notes", "x"), ("READ",))]
    assert refused.answer == "error: WRITE is not allowed here; allowed: READ"


def test_reads_name_the_lines_they_show():
    memory = store()
    run(memory, "<|APPEND|>notes|Blue jelly NE\nbars north\njelly, blue<|END|>")
    read, tail, search, count = run(
        memory,
        "<|READ|>notes<|END|><|TAIL|>notes|2<|END|><|SEARCH|>blue jelly<|END|><|COUNT|>notes|bars<|END|>",
    )
    assert read.read == (0, 1, 2) and tail.read == (1, 2) and search.read == (0, 2)
    assert search.answer == "SEARCH all files:\nnotes: Blue jelly NE\nnotes: jelly, blue"
    assert count.answer == "COUNT notes: 1 line with 'bars'"


def test_redundant_writes_and_dedupe_rules():
    for rule, lines in (("none", 3), ("exact", 2), ("normalized", 1)):
        memory = store(log=FileSpec(kind="log", dedupe=rule))
        first, second, third = run(
            memory, "<|APPEND|>log|a b<|END|><|APPEND|>log|A  b!<|END|><|APPEND|>log|a b<|END|>"
        )
        assert [first.redundant, second.redundant, third.redundant] == [False, True, True]
        assert len(memory.lines("log")) == lines
    assert second.answer == "APPEND log: already there"


def test_upsert_keeps_one_line_a_key_and_survives_newlines():
    memory = store(map=FileSpec(kind="map", key=("level", "x", "y")))
    run(memory, "<|UPSERT|>map|1,2,3|altar\nof law<|END|><|UPSERT|>map|1, 2, 4: door<|END|>")
    result = run(memory, "<|UPSERT|>map|1,2,3|broken altar<|END|>")[0]
    assert contents(memory, "map") == ["1,2,4: door", "1,2,3: broken altar"]
    assert result.answer == "UPSERT map: replaced 1,2,3"
    assert "must have 3 parts" in run(memory, "<|UPSERT|>map|1,2|x<|END|>")[0].answer
    assert not run(memory, "<|UPSERT|>map|x<|END|>")[0].ok


def test_a_maps_seed_lines_have_their_keys():
    memory = store(map=FileSpec(kind="map", key=("name",), seed="Altar: north\nno key\ndoor: a: b"))
    run(memory, "<|UPSERT|>map|altar|south<|END|><|UPSERT|>map|door|shut<|END|>")
    assert contents(memory, "map") == ["no key", "altar: south", "door: shut"]


def test_ranges_hold_the_lines_asked_for_and_no_other_of_the_file():
    memory = store(map=FileSpec(kind="map", key=("k",)))
    assert memory.ranges("map", []) == memory.ranges("nowhere", []) == []
    run(memory, "<|UPSERT|>map|a|1<|END|><|UPSERT|>map|b|1<|END|><|UPSERT|>map|c|1<|END|>")
    run(memory, "<|APPEND|>notes|other file<|END|><|UPSERT|>map|d|1<|END|>")
    assert memory.ranges("map", [4, 0, 1, 2]) == [[0, 4]]  # 3 is of another file
    assert memory.ranges("map", [0, 2, 4]) == [[0, 0], [2, 4]]
    run(memory, "<|UPSERT|>map|b|2<|END|>")  # line 1 is gone, 5 is new
    ids = [number for number, _ in memory.lines("map")]
    assert ids == [0, 2, 4, 5]
    assert memory.ranges("map", ids) == [[0, 0], [2, 5]]
    run(memory, "<|WRITE|>notes|x\ny<|END|>")
    assert memory.ranges("notes", [6, 7]) == [[6, 7]]


def test_checklist_ticks_in_place():
    memory = store(
        goals=FileSpec(kind="checklist", items=(ItemSpec("wood", "collect"), ItemSpec("bed")))
    )
    first, again, wrong = run(
        memory, "<|CHECK|>goals|Wood<|END|><|CHECK|>goals|wood<|END|><|CHECK|>goals|bedd<|END|>"
    )
    assert contents(memory, "goals") == ["[x] wood: collect", "[ ] bed"]
    assert first.wrote == (2,) and again.redundant
    assert wrong.answer == "error: CHECK goals: no item 'bedd'; did you mean bed?"


def test_names_do_not_collide_and_cannot_leave():
    memory = store()
    run(memory, "<|CREATE|>a/notes|in a<|END|><|CREATE|>b/Notes.txt|in b<|END|>")
    assert list(memory.snapshot()) == ["notes", "a/notes", "b/notes.txt"]
    for name in ["../x", "a/../../x", "/..", "x\x00y", "a\x1bb", "é" * 300, "\ud800", "{x}"]:
        assert not memory.execute("CREATE", (name, "x")).ok
    assert memory.execute("READ", ("/./A//Notes",)).file == "a/notes"
    run(memory, "<|CREATE|>c|x<|END|>")
    assert "no more than 3 new files" in run(memory, "<|APPEND|>d|x<|END|>")[0].answer


def test_hostile_texts_leave_an_intact_store():
    memory = store()
    start = time.monotonic()
    assert not memory.execute("APPEND", ("notes", "x" * 20_000_000)).ok
    assert not memory.execute("CREATE", ("big", "y\n" * 1_500)).ok
    assert not memory.execute("SEARCH", ("notes", "w " * 900)).ok
    assert memory.execute("APPEND", ("notes", "a\x00b\ud800 {percept.step}\u2028c")).ok
    assert contents(memory, "notes") == ["a\ufffdb\ufffd {percept.step}", "c"]
    assert list(memory.snapshot()) == ["notes"]
    assert time.monotonic() - start < 5


def test_pruning_keeps_head_and_tail():
    memory = store(log=FileSpec(kind="log", hard_lines=5, keep_lines=2, pin_head=1, soft_lines=4))
    answers = [memory.execute("APPEND", ("log", f"line {i}")).answer for i in range(6)]
    assert answers[4] == "APPEND log: 1 line (5 lines now, keep it under 4)"
    memory.prune()
    assert contents(memory, "log") == ["line 0", "line 4", "line 5"]


def test_long_answers_are_cut_visibly():
    memory = MemoryStore(
        {"log": FileSpec(kind="log", seed="aaaa\nbbbb\ncccc")}, Limits(read_chars=10)
    )
    result = memory.execute("READ", ("log",))
    assert result.answer == "READ log:\naaaa\nbbbb\n[1 line left out; use TAIL or SEARCH]"
    assert result.read == (0, 1)


def test_delete_lines_and_files():
    memory = store()
    run(memory, "<|APPEND|>notes|one\ntwo<|END|><|CREATE|>own|x<|END|><|DELETE|>notes|One<|END|>")
    run(memory, "<|DELETE|>own<|END|><|DELETE|>notes<|END|>")
    assert memory.snapshot() == {"notes": ()}


def test_append_upsert_and_tail_do_not_slow_down():
    limits = Limits(file_bytes=10**9, total_bytes=10**9)
    memory = MemoryStore(
        {"log": FileSpec(kind="log"), "map": FileSpec(kind="map", key=("k",))}, limits
    )

    def timed(count):
        start = time.perf_counter()
        for i in itertools.islice(itertools.count(), count):
            memory.execute("APPEND", ("log", f"line {i}"))
            memory.execute("UPSERT", ("map", f"{i % 50}|value {i}"))
            memory.execute("TAIL", ("log", "3"))
        memory.changes()
        return time.perf_counter() - start

    early = timed(500)
    timed(5_000)
    assert timed(500) < 6 * early + 0.2


@pytest.mark.parametrize(
    "change",
    [
        {"op": "insert", "file": "x", "at": 0, "lines": []},
        {"op": "wat", "file": "notes"},
    ],
)
def test_replay_refuses_what_does_not_fit(change):
    with pytest.raises(ValueError, match="memory change"):
        replay([{"op": "create", "file": "notes"}, change])


def test_replay_of_every_prefix_is_what_the_store_was():
    memory = store(log=FileSpec(kind="log", hard_lines=6, keep_lines=3, pin_head=1))
    changes, states = [], []
    for i in range(40):
        memory.execute(("APPEND", "WRITE", "DELETE")[i % 7 % 3], ("notes", f"n {i}"))
        memory.execute("APPEND", ("log", f"line {i}"))
        memory.prune()
        changes.append(memory.changes())
        states.append(memory.snapshot())
    for t, state in enumerate(states):
        assert replay([c for step in changes[: t + 1] for c in step]) == state


def test_tail_and_search_keep_the_newest_and_a_long_line_is_cut_visibly():
    memory = MemoryStore(
        {"log": FileSpec(kind="log", seed="a 1111\na 2222\na 3333")}, Limits(read_chars=13)
    )
    tail = memory.execute("TAIL", ("log", "3"))
    assert tail.answer == "TAIL log:\n[1 line before these left out]\na 2222\na 3333"
    assert tail.read == (1, 2) == memory.execute("SEARCH", ("log", "a")).read
    memory = MemoryStore({"log": FileSpec(kind="log", seed="x" * 50)}, Limits(read_chars=20))
    for op in ("READ", "TAIL"):
        answer = memory.execute(op, ("log",)).answer
        assert answer == f"{op} log:\n{'x' * 20} …[cut: 30 more characters]"


def test_pinned_lines_survive_pruning_also_when_they_are_replaced():
    spec = FileSpec(
        kind="map", key=("k",), hard_lines=5, keep_lines=2, pin_head=1, pin_mark="!", seed="home: a"
    )
    memory = store(map=spec)
    for text in ["x|1", "altar|!of law", "y|2", "home|b", "z|3", "w|4"]:
        assert memory.execute("UPSERT", ("map", text)).ok
    memory.prune()
    assert contents(memory, "map") == ["altar: !of law", "home: b", "z: 3", "w: 4"]
    for i in range(50):  # the agent cannot pin without end
        memory.execute("UPSERT", ("map", f"{i}|!pin"))
        memory.prune()
    assert "home: b" in contents(memory, "map") and len(memory.lines("map")) <= 5


def test_keys_hold_no_colon_that_reads_as_the_one_before_the_value():
    memory = store(map=FileSpec(kind="map", key=("k",), max_line_chars=20))
    memory.execute("UPSERT", ("map", "Npc: Bob:|at 5: north"))
    assert contents(memory, "map") == ["npc:bob: at 5: north"]
    memory.execute("UPSERT", ("map", "npc:bob: gone"))
    assert contents(memory, "map") == ["npc:bob: gone"]
    assert "is too long" in memory.execute("UPSERT", ("map", "k" * 20 + "|x")).answer
    assert memory.execute(
        "DELETE", ("map", "NPC:Bob")
    ).answer == "error: DELETE map: not allowed " + (
        "on this file; allowed: READ, SEARCH, TAIL, COUNT, UPSERT"
    )


def test_a_full_file_says_what_can_be_done():
    full = {"log": FileSpec(kind="log"), "doc": FileSpec(kind="document")}
    memory = MemoryStore(full, Limits(file_bytes=10))
    assert memory.execute("APPEND", ("log", "0123456789")).error.endswith(
        "write less, or elsewhere"
    )
    assert memory.execute("APPEND", ("doc", "0123456789")).error.endswith("first with WRITE")


def test_an_unknown_operation_is_refused():
    assert store().execute("FOO", ("notes",)).error == "'FOO' is not allowed here; allowed: none"


def test_answers_use_the_templates_words():
    words = {"APPEND": "NOTE", "SEARCH": "FIND"}
    memory = MemoryStore({"notes": FileSpec(kind="log")}, renamed=words)
    assert memory.execute("APPEND", ("notes", "a")).answer == "NOTE notes: 1 line"
    assert memory.execute("SEARCH", ("notes", "b")).answer == "FIND notes: nothing with 'b'"
    refused = memory.execute("WRITE", ("notes", "b")).answer
    assert refused.endswith("allowed: READ, FIND, TAIL, COUNT, NOTE")


def test_cost_of_an_operation_does_not_depend_on_what_the_file_has_seen():
    """At 100 and at 50,000 lines, and after as many were removed again from either end."""
    limits = Limits(file_bytes=10**9, total_bytes=10**9)
    files = {"log": FileSpec(kind="log", ops=ALL[:-4] + ("DELETE",)), "map": FileSpec(kind="map")}

    def timed(memory):
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            for i in range(100):
                memory.execute("APPEND", ("log", f"x {i}"))
                memory.execute("UPSERT", ("map", f"{i % 5}|v {i}"))
                memory.execute("TAIL", ("log", "3"))
                memory.ranges("log", [number for number, _ in memory.tail("log", 5)])
                memory.index()
            memory.changes()
            best = min(best, time.process_time() - start)
        return best

    def filled(count):
        memory = MemoryStore(files, limits)
        memory.add_lines("log", "\n".join(f"line {i}" for i in range(count)))
        for i in range(count // 5):
            memory.execute("UPSERT", ("map", f"{i % 5}|value {i}"))
        memory.changes()
        return memory

    few, many = filled(100), filled(50_000)
    at_few = timed(few)
    assert timed(many) < 4 * at_few + 0.05
    for lines in (many.lines("log")[:-2_000], many.lines("log")[-1_000:]):
        many.execute("DELETE", ("log", "\n".join(text for _, text in lines)[: 10**9]))
    assert timed(many) < 4 * at_few + 0.05
