import dataclasses
import json
import os
import random
import subprocess
import sys

import pytest
import toy_evolution
from toy_evolution import TEMPLATE, make_config, run_template, shows_notes
from toy_traces import simple_episode

from automem_jax.agent.template import from_data, load_template, template_hash, to_data
from automem_jax.architect import ArchitectError, LedgerError, NoProposal, Proposal, evolve
from automem_jax.architect.ledger import Ledger, read_ledger
from automem_jax.architect.proposal import checked
from automem_jax.config import ConfigError, GateConfig


def rows(workdir):
    return read_ledger(workdir / "evolve" / "ledger.jsonl")


def turns_template(turns, candidate_id, parent=TEMPLATE):
    data = to_data(parent)
    data["phases"]["plan"]["max_turns"] = turns
    return checked(data, parent, candidate_id)


class Scripted:
    """Proposes PLAN turn counts in order; an exception in the list is raised."""

    def __init__(self, *turns):
        self.turns = list(turns)
        self.contexts = []

    def propose(self, context):
        self.contexts.append(context)
        item = self.turns.pop(0) if self.turns else None
        if isinstance(item, Exception):
            raise item
        if item is None:
            return None
        return Proposal(
            turns_template(item, context.candidate_id, context.template), "seen", "hope"
        )


def by_turns(gain):
    """The first `gain[max_turns]` seeds of a set are won: a template's worth is its PLAN turns."""

    def run(template, seeds, out_dir):
        paths = []
        for seed in seeds:
            path = out_dir / f"Toy-v0-{seed}.jsonl"
            if not path.exists():
                worth = gain[template.phases.plan.max_turns]
                if isinstance(worth, Exception):
                    raise worth
                path = simple_episode(out_dir, seed, float(seed % 100 < worth))
            paths.append(path)
        return paths

    return run


def test_the_catalog_finds_the_edit_that_helps_and_the_ledger_tells_why(tmp_path):
    best = evolve(make_config(), tmp_path, run_template)
    assert shows_notes(best) and best.parent == "memento_v0"
    start, *_, candidate, end = rows(tmp_path)
    charges = [r for r in rows(tmp_path) if r["type"] == "charge"]
    assert [(r["set"], r["template"], len(r["seeds"])) for r in charges] == [
        ("search", "memento_v0", 4),
        ("gate", "memento_v0", 8),
        ("gate", best.id, 8),
        ("gate", "memento_v0", 4),
        ("gate", best.id, 4),
    ]
    assert [r["n"] for r in rows(tmp_path) if r["type"] == "look"] == [8, 12]
    assert end["spend"]["episodes"] == 28 and start["type"] == "start"
    assert end["looks"] == {
        "search": {"seeds": 4, "looks": 4, "most": 1},
        "gate": {"seeds": 12, "looks": 12, "most": 1},
    }
    assert candidate["verdict"] == "kept" and candidate["edit"] == "show_file_in_plan:notes"
    assert (candidate["gate"]["n"], candidate["gate"]["wins"]) == (12, 6)
    assert candidate["gate"]["mean_difference"] == 0.5 and candidate["gate"]["interval"][0] > 0
    assert "phases.plan.slots" in candidate["structural_changes"]
    assert '+    "plan_notes"' in candidate["diff"]
    assert candidate["template_hash"] == end["template_hash"] == template_hash(best)
    assert load_template(tmp_path / "evolve" / "best.json") == best
    assert load_template(tmp_path / "evolve" / "templates" / f"{best.id}.json") == best


def test_every_candidate_meets_the_same_gate_seeds_and_search_stays_apart(tmp_path):
    asked = []

    def run(template, seeds, out_dir):
        asked.append((template.id, out_dir.parent.name, tuple(seeds)))
        return by_turns({3: 0, 4: 0, 5: 0, 6: 0})(template, seeds, out_dir)

    evolve(make_config(gate=GateConfig(futility=0)), tmp_path, run, Scripted(4, 5, 6))
    assert asked[0] == ("memento_v0", "search", (100, 101, 102, 103))
    assert [(t, seeds) for t, stage, seeds in asked[1:] if stage == "gate"] == [
        (name, tuple(batch))
        for names in (("memento_v0", "memento_v0_r1a1"), ("memento_v0_r1a2",), ("memento_v0_r1a3",))
        for batch in (range(200, 208), range(208, 216), range(216, 224))
        for name in names
    ]
    assert rows(tmp_path)[-1]["looks"]["gate"] == {"seeds": 24, "looks": 72, "most": 3}


def test_a_revision_starts_from_the_best_and_gates_against_it(tmp_path):
    architect = Scripted(4, 5, 6)
    run = by_turns({3: 0, 4: 12, 5: 6, 6: 24})
    best = evolve(make_config(revisions=2), tmp_path, run, architect)
    assert best.phases.plan.max_turns == 6
    kept = [r for r in rows(tmp_path) if r["type"] == "candidate"]
    assert [(r["revision"], r["attempt"], r["verdict"]) for r in kept] == [
        (1, 1, "kept"),
        (2, 1, "dropped"),
        (2, 2, "kept"),
    ]
    assert [r["parent"] for r in kept] == ["memento_v0", "memento_v0_r1a1", "memento_v0_r1a1"]
    assert [r["gate"]["n"] for r in kept] == [8, 8, 20]
    assert [len(c.history) for c in architect.contexts] == [0, 1, 2]
    assert architect.contexts[1].brief.template_id == "memento_v0_r1a1"


def test_nothing_better_leaves_the_start_template(tmp_path):
    best = evolve(make_config(), tmp_path, by_turns({3: 12, 4: 12}), Scripted(4))
    assert best == TEMPLATE
    assert rows(tmp_path)[-2]["verdict"] == "exhausted"


def test_a_template_that_crashes_loses_and_the_loop_goes_on(tmp_path):
    run = by_turns({3: 0, 4: KeyError("slot"), 5: 24})
    best = evolve(make_config(), tmp_path, run, Scripted(4, 5))
    first, second = (r for r in rows(tmp_path) if r["type"] == "candidate")
    assert first["verdict"] == "dropped" and first["reason"] == "crashed: KeyError: 'slot'"
    assert first["gate"]["candidate_failed"] == 8 and first["gate"]["n"] == 8
    assert second["verdict"] == "kept" and best.phases.plan.max_turns == 5


def test_a_broken_machine_is_not_the_templates_fault(tmp_path):
    run = by_turns({3: 0, 4: OSError("disk full")})
    with pytest.raises(OSError, match="disk full"):
        evolve(make_config(), tmp_path, run, Scripted(4))
    assert {r["type"] for r in rows(tmp_path)} == {"start", "charge"}


def test_failed_episodes_count_at_what_they_reached(tmp_path):
    def run(template, seeds, out_dir):
        better = template.phases.plan.max_turns == 4
        return [simple_episode(out_dir, s, 0.75 if better else 0.25, failed=better) for s in seeds]

    evolve(make_config(), tmp_path, run, Scripted(4))
    candidate = next(r for r in rows(tmp_path) if r["type"] == "candidate")
    assert candidate["gate"]["candidate_mean"] == 0.75
    assert (
        candidate["gate"]["candidate_failed"] == candidate["gate"]["n"]
        and candidate["verdict"] == "kept"
    )


def test_an_attempt_without_a_proposal_is_recorded_and_paid_for(tmp_path):
    architect = Scripted(NoProposal("no usable template in 3 answers", 3), 4)
    evolve(make_config(), tmp_path, by_turns({3: 0, 4: 24}), architect)
    failed, kept = (r for r in rows(tmp_path) if r["type"] == "candidate")
    assert (failed["verdict"], failed["calls"], failed["gate"]) == ("dropped", 3, None)
    assert (kept["attempt"], kept["verdict"]) == (2, "kept")


def test_overlapping_seeds_stop_the_loop_before_it_plays(tmp_path):
    config = make_config()
    config = dataclasses.replace(
        config, seeds=dataclasses.replace(config.seeds, gate_start=102, gate=4)
    )
    with pytest.raises(ConfigError, match="seeds.search and seeds.gate overlap in 102..103"):
        evolve(config, tmp_path, None)
    assert not (tmp_path / "evolve").exists()


def test_other_settings_do_not_go_on_in_an_old_work_directory(tmp_path):
    evolve(make_config(), tmp_path, run_template)
    with pytest.raises(LedgerError, match="other"):
        evolve(make_config(confidence=0.9), tmp_path, run_template)


def test_a_finished_run_is_not_repeated(tmp_path):
    best = evolve(make_config(), tmp_path, run_template)
    before = (tmp_path / "evolve" / "ledger.jsonl").read_bytes()
    architect = Scripted(ArchitectError("must not be asked"))
    assert evolve(make_config(), tmp_path, run_template, architect) == best
    assert architect.contexts == []
    assert (tmp_path / "evolve" / "ledger.jsonl").read_bytes() == before


def test_a_server_failure_stops_the_loop_and_running_again_goes_on(tmp_path):
    run = by_turns({3: 0, 4: 3, 5: 24})
    with pytest.raises(ArchitectError):
        evolve(make_config(), tmp_path, run, Scripted(4, ArchitectError("server gone")))
    best = evolve(make_config(), tmp_path, run, Scripted(5))
    assert best.phases.plan.max_turns == 5
    verdicts = [r["verdict"] for r in rows(tmp_path) if r["type"] == "candidate"]
    assert verdicts == ["dropped", "kept"]


def killed_at(sync, workdir, evolution):
    """Runs `evolution` in a forked child that dies, unannounced, before its sync number `sync`.

    Returns whether it died.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def fsync(handle):
            nonlocal count
            count += 1
            if count == sync:
                os._exit(9)

        os.fsync = fsync
        try:
            evolution(workdir)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_anywhere_and_run_again_gives_the_same_ledger(tmp_path):
    # In an interpreter of its own: forking one in which other tests started JAX's threads may hang.
    program = (
        "import pathlib, sys, test_evolve; test_evolve.kill_everywhere(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def kill_everywhere(tmp_path):
    assert "jax" not in sys.modules
    os.fsync = lambda handle: None  # a process dies here, not the machine
    run = by_turns({3: 0, 4: 3, 5: 12, 6: 8, 7: 24})
    config = make_config(revisions=2, attempts=2)

    class Stateless:
        def propose(self, context):
            turns = 2 * context.revision + context.attempt + 1
            return Proposal(turns_template(turns, context.candidate_id, context.template), "d")

    def evolution(workdir):
        evolve(config, workdir, run, Stateless())

    syncs = counted_syncs(lambda: evolution(tmp_path / "whole"))
    expected = (tmp_path / "whole" / "evolve" / "ledger.jsonl").read_bytes()
    assert expected.count(b'"verdict":"kept"') == 2
    for point in sorted(random.Random(7).sample(range(1, syncs), 10)):
        workdir = tmp_path / f"k{point}"
        assert killed_at(point, workdir, evolution)
        killed_at(2, workdir, evolution)  # and once more, just after it went on
        evolution(workdir)
        assert (workdir / "evolve" / "ledger.jsonl").read_bytes() == expected, point


def counted_syncs(work):
    count = 0

    def fsync(handle):
        nonlocal count
        count += 1

    os.fsync = fsync
    work()
    os.fsync = lambda handle: None
    return count


def test_a_torn_ledger_line_is_cut_and_a_corrupt_one_reported(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append({"type": "a", "text": "line\nbreak \ud800"})
    with open(path, "ab") as file:
        file.write(b'{"type": "tor')
    assert [row["type"] for row in read_ledger(path)] == ["a"]
    Ledger(path).append({"type": "b"})
    assert [row["type"] for row in read_ledger(path)] == ["a", "b"]
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(LedgerError, match=r"ledger.jsonl:1: not JSON"):
        Ledger(path)


def test_a_template_file_changed_behind_the_ledger_is_noticed(tmp_path):
    best = evolve(make_config(), tmp_path, run_template)
    path = tmp_path / "evolve" / "templates" / f"{best.id}.json"
    data = json.loads(path.read_text())
    data["limits"]["turn_ops"] = 9
    path.write_text(json.dumps(data))
    with pytest.raises(LedgerError, match="differs from the template"):
        evolve(make_config(), tmp_path, run_template)


def test_toy_world_is_what_the_tests_think():
    assert from_data(to_data(TEMPLATE)) == TEMPLATE
    assert not toy_evolution.shows_notes(TEMPLATE)
