"""Memory as plain files: there and back, and nothing outside the directory."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automem_jax.agent.memory import MemoryStore, replay
from automem_jax.agent.store_files import export_files, files_at, import_files, load_store
from automem_jax.agent.template import FileSpec, ItemSpec, Limits, NewFiles
from automem_jax.traces.schema import Step


def store():
    return MemoryStore(
        {
            "notes": FileSpec(kind="log"),
            "map": FileSpec(kind="map", key=("x", "y"), seed="1,2: altar"),
            "goals": FileSpec(
                kind="checklist", items=(ItemSpec("wood", "collect"), ItemSpec("bed"))
            ),
        },
        Limits(file_bytes=10_000, total_bytes=30_000),
        NewFiles(True, 20),
    )


def contents(memory):
    return {name: [line for _, line in lines] for name, lines in memory.snapshot().items()}


NAMES = st.sampled_from(["notes", "map", "goals", "a", "a/b", "a/b/c", "plan.txt", "é/ü"])
LINES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["APPEND", "WRITE", "CREATE", "UPSERT", "CHECK"]),
            NAMES,
            st.one_of(LINES, st.sampled_from(["3,4|door: open", "npc: bob|at 5: north", "wood"])),
        ),
        max_size=12,
    )
)
def test_there_and_back(tmp_path_factory, operations):
    memory = store()
    for operation in operations:
        memory.execute(operation[0], operation[1:])
    directory = tmp_path_factory.mktemp("memory") / "out"
    export_files(memory.snapshot(), directory)
    again = store()
    load_store(again, directory)
    assert contents(again) == contents(memory)
    changes = again.changes()
    assert replay(changes) == again.snapshot()
    for name in ("map", "a"):  # keys survive: UPSERT replaces what it replaced before
        for memory_store in (memory, again):
            memory_store.execute("UPSERT", (name, "3,4|shut"))
            memory_store.execute("UPSERT", (name, "npc: bob|gone"))
        if "UPSERT" in allowed(memory, name) and "UPSERT" in allowed(again, name):
            assert contents(again).get(name) == contents(memory).get(name)


def allowed(memory, name):
    return next((spec.ops or ("UPSERT",) for n, spec, _ in memory.index() if n == name), ())


def test_checklists_tick_after_an_import(tmp_path):
    memory = store()
    memory.execute("CHECK", ("goals", "wood"))
    export_files(memory.snapshot(), tmp_path / "out")
    again = store()
    load_store(again, tmp_path / "out")
    assert again.execute("CHECK", ("goals", "wood")).redundant
    assert again.execute("CHECK", ("goals", "bed")).ok
    assert contents(again)["goals"] == ["[x] wood: collect", "[x] bed"]


def test_a_file_and_a_folder_of_one_name(tmp_path):
    files = {"a": ((0, "one"),), "a/b": ((1, "two"),), "empty": ()}
    paths = export_files(files, tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in paths) == ["a%", "a/b", "empty"]
    assert import_files(tmp_path / "out") == {"a": "one\n", "a/b": "two\n", "empty": ""}


def test_an_export_replaces_an_export_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    export_files({"old": ((0, "x"),)}, target)
    export_files({"new": ((0, "y"),)}, target)
    assert import_files(target) == {"new": "y\n"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("keep")
    with pytest.raises(ValueError, match="no exported memory"):
        export_files({"new": ()}, other)
    assert (other / "precious").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"], "nothing is left behind"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "A", "x\x00", "%kinds.json"])
def test_names_cannot_leave_the_directory(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be exported"):
        export_files({name: ((0, "x"),)}, tmp_path / "deep" / "out")
    assert not (tmp_path / "x").exists()


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("hidden")
    for kind in ("file", "folder"):
        source = tmp_path / kind
        source.mkdir()
        os.symlink(secret / "key" if kind == "file" else secret, source / "link")
        with pytest.raises(ValueError, match="no plain file"):
            import_files(source)
    os.symlink(secret, tmp_path / "door")
    with pytest.raises(ValueError, match="no plain directory"):
        export_files({"a": ()}, tmp_path / "door")


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="latin: not UTF-8"):
        import_files(tmp_path)
    (tmp_path / "latin").write_text("x" * 20_000)
    with pytest.raises(
        ValueError, match="'latin' cannot be put into memory: the file would exceed"
    ):
        load_store(store(), tmp_path)
    with pytest.raises(ValueError, match="no directory"):
        import_files(tmp_path / "nowhere")


def test_the_files_of_a_trace_at_a_step():
    memory, steps = store(), []
    for t in range(4):
        memory.execute("APPEND", ("notes", f"line {t}"))
        steps.append(Step(t, {}, (), tuple(memory.changes()), "", "model"))
    assert [line for _, line in files_at(steps, 1)["notes"]] == ["line 0", "line 1"]
    assert files_at(steps) == memory.snapshot()
