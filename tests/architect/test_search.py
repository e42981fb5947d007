import dataclasses
import json

import pytest
from toy_evolution import TEMPLATE, make_config, run_template, shows_notes
from toy_traces import simple_episode

from automem_jax.agent.template import to_data
from automem_jax.architect import Proposal, evolve
from automem_jax.architect.ledger import read_ledger
from automem_jax.architect.merge import merge_names, merge_templates
from automem_jax.architect.pool import Member, Pool
from automem_jax.architect.proposal import checked
from automem_jax.config import BudgetConfig
from automem_jax.report.attempts import attempts


def changed(name, parent=TEMPLATE, **places):
    """A child of `parent` with values at dotted places."""
    data = to_data(parent)
    for place, value in places.items():
        *path, last = place.split("__")
        node = data
        for key in path:
            node = node[key]
        node[last] = value
    return checked(data, parent, name)


LONGER = {"phases__plan__max_turns": 6}
SEARCHING = {"limits__search_hits": 9}


def test_a_merge_takes_what_each_side_changed():
    a, b = changed("a", **LONGER), changed("b", **SEARCHING)
    merged = checked(merge_templates(TEMPLATE, a, b), a, "ab")
    assert merged.phases.plan.max_turns == 6 and merged.limits.search_hits == 9
    assert merged.phases.log == TEMPLATE.phases.log


def test_where_both_changed_one_value_the_first_has_it():
    a, b = changed("a", **LONGER), changed("b", phases__plan__max_turns=9)
    data = merge_templates(TEMPLATE, a, b)
    assert data["phases"]["plan"]["max_turns"] == 6


def test_lists_of_names_merge_by_insertions_and_removals():
    assert merge_names("abcd", "axbcd", "abdy") == ["a", "x", "b", "d", "y"]
    assert merge_names("ab", "a", "zab") == ["z", "a"]
    assert merge_names((), (), "a") == ["a"]


def pool_of(**scores):
    pool = Pool()
    for name, values in scores.items():
        parents = () if name == "s" else ("s",)
        template = changed(name, phases__plan__max_turns=len(pool.members) + 4)
        pool.add(Member(template, dict(enumerate(values)), parents))
    return pool


def test_the_front_keeps_what_wins_some_seed_and_drops_what_others_cover():
    pool = pool_of(s=[0.1, 0.1, 0.1], a=[0.9, 0.2, 0.1], b=[0.1, 0.2, 0.9], c=[0.9, 0.1, 0.1])
    assert pool.front() == {"a": {0, 1}, "b": {1, 2}}
    drawn = {pool.draw_parent(n).template.id for n in range(40)}
    assert drawn == {"a", "b"}
    assert pool.draw_parent(3) == pool.draw_parent(3)
    pool.exhausted.update("ab")
    assert pool.draw_parent(1).template.id == "c"


def test_a_merge_is_due_once_after_a_change_that_joined():
    pool = pool_of(s=[0.1, 0.1], a=[0.9, 0.1], b=[0.1, 0.8])
    assert pool.pair_to_merge(1) is None
    pool.tried({"parents": ["s"], "pooled": True})
    first, second, ancestor = pool.pair_to_merge(2)
    assert (first.template.id, second.template.id, ancestor.template.id) == ("a", "b", "s")
    pool.tried({"parents": ["a", "b"], "pooled": False})
    pool.tried({"parents": ["s"], "pooled": True})
    assert pool.pair_to_merge(3) is None


def gains(template):
    """Two changes that each win a third of the seeds, and lose half of the third that was won."""
    return (template.phases.plan.max_turns == 6) + 2 * (template.limits.search_hits == 9)


def thirds(template, seeds, out_dir):
    worth = gains(template)
    paths = []
    for seed in seeds:
        path = out_dir / f"Toy-v0-{seed}.jsonl"
        if not path.exists():
            kind = seed % 3
            won = not worth or seed % 2 if kind == 0 else worth & kind
            path = simple_episode(out_dir, seed, float(bool(won)))
        paths.append(path)
    return paths


class Halves:
    """Proposes either change of the start template, and useless ones of everything else."""

    def __init__(self):
        self.asked = 0

    def propose(self, context):
        self.asked += 1
        change = [LONGER, SEARCHING][context.revision % 2]
        if context.template.id != TEMPLATE.id:
            change = {"limits__read_chars": 200 + context.revision}
        return Proposal(changed(context.candidate_id, context.template, **change), "seen", "hope")


@pytest.fixture
def config():
    config = make_config(revisions=4, attempts=3, search="population")
    seeds = dataclasses.replace(config.seeds, search_start=500, search=24, gate=60)
    return dataclasses.replace(config, seeds=seeds)


def rows(workdir, kind="candidate"):
    return [r for r in read_ledger(workdir / "evolve" / "ledger.jsonl") if r["type"] == kind]


@pytest.mark.parametrize("seed", [2, 3])  # the two changes must be drawn of the same parent
def test_a_population_merges_what_two_members_learnt(tmp_path, config, seed):
    architect = Halves()
    best = evolve(dataclasses.replace(config, seed=seed), tmp_path, thirds, architect)
    assert gains(best) == 3
    merge = next(row for row in rows(tmp_path) if row.get("edit") == "merge")
    assert len(merge["parents"]) == 2 and merge["pooled"] and merge["template"] == best.id
    assert [row["template"] for row in rows(tmp_path) if row["verdict"] == "kept"] == [best.id]
    assert architect.asked == sum(
        "edit" in row and row["edit"] != "merge" for row in rows(tmp_path)
    )
    screened = [row for row in rows(tmp_path) if not row.get("pooled")]
    assert screened and all(row["gate"] is None for row in screened)


def test_a_population_goes_on_where_it_stopped(tmp_path, config):
    evolve(config, tmp_path / "whole", thirds, Halves())
    expected = read_ledger(tmp_path / "whole" / "evolve" / "ledger.jsonl")
    for episodes in (30, 70, 130, 0):
        budget = BudgetConfig(episodes=episodes)
        part = dataclasses.replace(
            config, architect=dataclasses.replace(config.architect, budget=budget)
        )
        evolve(part, tmp_path / "parts", thirds, Halves())
        spent = sum(row["spend"].get("episodes", 0) for row in rows(tmp_path / "parts", "charge"))
        assert not episodes or spent <= episodes
    found = read_ledger(tmp_path / "parts" / "evolve" / "ledger.jsonl")
    stops = [row for row in found if row["type"] == "stop"]
    assert len(stops) == 3 and "architect.budget.episodes" in stops[0]["reason"]
    assert [row for row in found if row["type"] != "stop"] == expected


def test_the_toy_template_is_found_in_population_mode_too(tmp_path):
    best = evolve(make_config(search="population"), tmp_path, run_template)
    assert shows_notes(best)
    # Four search seeds make no clear lead, so it is judged when all proposals are made.
    joined, judged = (row for row in rows(tmp_path) if row["template"] == best.id)
    assert (joined["gate"], joined["pooled"], judged["verdict"]) == (None, True, "kept")
    assert joined["template_hash"] == judged["template_hash"] and judged["against"] == TEMPLATE.id
    (told,) = (a for a in attempts(rows(tmp_path)) if a.template == best.id)
    assert told.kept and told.diagnosis == joined["diagnosis"] and told.gate == judged["gate"]
    before = (tmp_path / "evolve" / "ledger.jsonl").read_bytes()
    assert evolve(make_config(search="population"), tmp_path, run_template) == best
    assert (tmp_path / "evolve" / "ledger.jsonl").read_bytes() == before
    assert json.loads((tmp_path / "evolve" / "best.json").read_text())["id"] == best.id
