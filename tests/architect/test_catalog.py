import dataclasses
import random

import pytest
from plant_bad_edits import bad_edits, showing_start
from toy_evolution import TEMPLATE, make_config, noting_episode, shows_notes
from toy_traces import op, step, turn, write_episode

from automem_jax.agent.template import structural_change, template_hash
from automem_jax.agent.validate import validate
from automem_jax.architect import evolve
from automem_jax.architect.brief import Brief, FileUse, format_brief, make_brief
from automem_jax.architect.catalog import FINDERS, CatalogArchitect, applicable_edits
from automem_jax.architect.ledger import read_ledger
from automem_jax.architect.proposal import Context, ProposalError, checked
from automem_jax.traces.store import read_trace


def brief_with(**fields):
    brief = Brief("memento_v0", scores={1: 0.0, 2: 1.0}, log_phases=100, plan_phases=100)
    brief.files = {"notes": FileUse()}
    for name, value in fields.items():
        setattr(brief, name, value)
    return brief


def notes(**fields):
    return {"notes": FileUse(**fields)}


BRIEFS = {
    "show_file_in_plan:notes": brief_with(
        files=notes(episodes_written=2, writes=4, plan_phases=80, plan_consulted=20)
    ),
    "normalized_dedupe:notes": brief_with(files=notes(episodes_written=2, writes=10, redundant=5)),
    "bound_big_file:notes": brief_with(files=notes(episodes_written=2, writes=90, max_lines=90)),
    "more_plan_turns": brief_with(plan_capped=30),
    "more_log_turns": brief_with(log_capped=30),
    "drop_log_when_unchanged": brief_with(quiet_logs=50, quiet_logs_without_write=49),
}


def propose(brief, template=TEMPLATE, history=()):
    context = Context("minihack", "Toy-v0", 1, 1, "next", template, brief, history=history)
    return CatalogArchitect().propose(context)


@pytest.mark.parametrize("name", BRIEFS)
def test_each_edit_answers_its_trigger_with_a_valid_structural_change(name):
    proposal = propose(BRIEFS[name])
    assert proposal.edit == name
    assert validate(proposal.template) == []
    assert structural_change(TEMPLATE, proposal.template)
    assert (proposal.template.id, proposal.template.parent) == ("next", "memento_v0")
    assert proposal.diagnosis and "%" in proposal.expected_effect


@pytest.mark.parametrize("name", BRIEFS)
@pytest.mark.parametrize("template", ["crafter_v0", "minihack_v0"])
def test_every_edit_is_valid_on_the_other_hand_written_templates(name, template):
    from automem_jax.agent.template import OWN_KINDS, load_template

    start = load_template(template)
    own = [n for n, spec in start.files.items() if spec.kind in OWN_KINDS]
    brief = dataclasses.replace(BRIEFS[name], files={n: BRIEFS[name].files["notes"] for n in own})
    edits = applicable_edits(start, brief)
    tried, history = [], []
    while proposal := propose(brief, start, history):
        tried.append(proposal.edit)
        history.append({"edit": proposal.edit, "parent_hash": template_hash(start)})
        assert validate(proposal.template) == []
    assert sorted(tried) == sorted(edit.name for edit in edits)


def test_quiet_traces_set_nothing_off():
    assert propose(brief_with()) is None


def test_the_shown_file_stands_before_what_changes():
    template = propose(BRIEFS["show_file_in_plan:notes"]).template
    slots = template.phases.plan.slots
    name = slots[0]
    assert template.slots[name].file == "notes" and template.slots[name].view == "full"
    assert slots[1:] == TEMPLATE.phases.plan.slots
    assert template.phases.log.slots == TEMPLATE.phases.log.slots


def test_a_file_that_plan_shows_is_not_shown_twice():
    brief = BRIEFS["show_file_in_plan:notes"]
    shown = propose(brief).template
    assert propose(brief, shown) is None


def test_turns_double_and_stop_at_twenty():
    template, turns = TEMPLATE, []
    while proposal := propose(BRIEFS["more_plan_turns"], template):
        template = proposal.template
        turns.append(template.phases.plan.max_turns)
    assert turns == [6, 12, 20]


def test_log_needs_a_change_in_view_after_the_edit():
    template = propose(BRIEFS["drop_log_when_unchanged"]).template
    assert template.phases.log.when == "obs_diff.changed"
    assert template.observers["obs_diff"].type == "obs_diff"


def test_the_largest_expected_effect_comes_first_and_none_twice():
    brief = brief_with(
        files=notes(episodes_written=2, writes=10, redundant=5, plan_phases=10, plan_consulted=1),
        plan_capped=10,
    )
    history, names = [], []
    while proposal := propose(brief, history=history):
        names.append(proposal.edit)
        history.append({"edit": proposal.edit, "parent_hash": template_hash(TEMPLATE)})
    assert names == ["show_file_in_plan:notes", "normalized_dedupe:notes", "more_plan_turns"]


def test_the_brief_counts_what_traces_hold(tmp_path):
    noting_episode(tmp_path, 1, 0.0, repeats=3)
    asked = [turn(op("READ", "notes", read=[0])), turn(action="east")]
    steps = [
        step("a", memory=[{"op": "create", "file": "notes"}]),
        step("a", log=[turn(op("SEARCH", "notes", empty=True)), turn(op("SEARCH", "notes"))]),
        step("a", log=[turn(done=True)], plan=[turn(), turn(), turn(), turn(action="east")]),
    ]
    write_episode(tmp_path, 2, steps, progression=1.0)
    noted = [
        {"op": "create", "file": "notes"},
        {"op": "insert", "file": "notes", "at": 0, "lines": [[0, "x"]]},
    ]
    write_episode(tmp_path, 3, [step("a", memory=noted), step("b", plan=asked)])
    traces = [read_trace(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    brief = make_brief(TEMPLATE, traces)
    assert brief.scores == {1: 0.0, 2: 1.0, 3: 0.0}
    assert (brief.log_phases, brief.log_without_write, brief.log_capped) == (3, 2, 1)
    assert (brief.plan_phases, brief.plan_capped) == (8, 1)
    assert (brief.quiet_logs, brief.quiet_logs_without_write) == (2, 2)
    use = brief.files["notes"]
    assert (use.episodes_written, use.writes, use.redundant) == (1, 4, 3)
    assert (use.plan_phases, use.plan_consulted, use.plan_asked) == (4, 1, 1)
    assert '"notes": written in 1 episodes' in format_brief(brief)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"fiels": {}}, "did you mean 'files'"),
        ({"files": []}, "expected a mapping"),
        ({"files": {}}, "files|write|memory"),
        ([], "expected a JSON object"),
        ({"phases": {"log": {"when": "os.system('x')"}}}, "log"),
    ],
)
def test_a_bad_template_is_refused_with_its_place(data, message):
    with pytest.raises(ProposalError, match=message):
        checked(data, TEMPLATE, "next")


def test_new_wording_alone_is_refused():
    from automem_jax.agent.template import to_data

    data = to_data(TEMPLATE)
    data["text"]["task"] = "Walk well."
    with pytest.raises(ProposalError, match="wording only"):
        checked(data, TEMPLATE, "next")


def worth(template):
    """Chance to win an episode, as measured of the embedded model with and without the cue in view."""
    if "notes" not in template.files or template.files["notes"].hard_lines:
        return 0.5
    return 0.77 if shows_notes(template) else 0.68


@pytest.mark.parametrize("first", [0, 10])
def test_planted_bad_edits_are_never_kept_in_seeded_runs(tmp_path, first):
    for number in range(first, first + 10):

        def run(template, seeds, out_dir, number=number):
            paths = []
            for seed in seeds:
                path = out_dir / f"Toy-v0-{seed}.jsonl"
                if not path.exists():
                    luck = random.Random(f"{number} {seed}").random()  # a pair shares its luck
                    own = random.Random(f"{number} {seed} {template.id}").random() < 0.1
                    won = float(own or luck < worth(template))
                    noting_episode(out_dir, seed, won, template)
                paths.append(path)
            return paths

        start = showing_start()
        workdir = tmp_path / str(number)
        architect = CatalogArchitect([bad_edits, *FINDERS])
        config = make_config(revisions=1, attempts=3)
        best = evolve(config, workdir, run, architect, template=start)
        rows = [r for r in read_ledger(workdir / "evolve" / "ledger.jsonl") if r.get("edit")]
        assert [row["edit"] for row in rows] == ["delete_cues", "hide_cues", "shrink_cues"]
        assert best == start and all(row["verdict"] == "dropped" for row in rows)
