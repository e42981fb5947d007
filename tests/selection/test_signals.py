"""Signals of hand-made episodes: what is measured, how it is combined, what is chosen."""

import dataclasses
import json
import math
from collections import Counter

import pytest
from handmade import READ, Episode, append

from automem_jax.config import ConfigError, ExperimentConfig, SelectionConfig, SignalWeights, check
from automem_jax.selection import SelectionError, load_examples, select, verify_examples
from automem_jax.selection.balance import choose
from automem_jax.selection.by_signals import concentration, score
from automem_jax.selection.combine import agreement, priorities
from automem_jax.selection.duplicates import NearCopies, overlap
from automem_jax.selection.effects import effect, effect_scale
from automem_jax.selection.examples import scan_signals
from automem_jax.selection.lineage import follow
from automem_jax.selection.signals import episode_signals
from automem_jax.traces.store import list_traces, read_trace

NONE = SignalWeights(0, 0, 0, 0, 0, 0, 0, 0)


def only(**weights) -> SignalWeights:
    return dataclasses.replace(NONE, **weights)


def signals(episode, folder, progression=1.0, **settings):
    path = episode.write(folder, progression)
    trace = read_trace(path)
    return episode_signals(trace, follow(trace, str(path)), **settings)


def see(episode, text, **more):
    """The text that the agent saw in the step that was closed last."""
    episode.steps[-1]["percept"] |= {"long_text": text} | more


def test_novelty_counts_what_memory_and_the_step_did_not_hold_yet(tmp_path):
    episode = Episode(1)
    first = episode.log(append("iron lies north"), [{"write": ["iron lies north"]}])
    episode.log(append("iron lies south"), [{"write": ["iron lies south"]}])
    episode.log(append("iron lies north"), [{"write": ["iron lies north"]}])
    episode.plan(READ, [{"read": first}])
    episode.plan(READ, [{"read": first}])
    episode.act()
    found = [d.novelty for d in signals(episode, tmp_path).decisions]
    # Pairs of "iron lies south" that were there: (start, iron), (iron, lies).
    assert found == [1.0, pytest.approx(1 / 3), 0.0, 1.0, 0.0]


def test_a_rewritten_file_holds_nothing_new_and_a_removed_line_may_come_again(tmp_path):
    episode = Episode(1)
    (old,) = episode.log(append("dig here"), [{"write": ["dig here"]}])
    episode.act()
    episode.remove(old)
    episode.log("<|WRITE|>notes|dig here<|END|>", [{"write": ["dig here"]}])
    episode.act()
    (again,) = (i for d in signals(episode, tmp_path).decisions[1:] for i in d.wrote)
    episode.remove(again)
    episode.act()
    episode.log(append("dig here"), [{"write": ["dig here"]}])
    episode.act()
    found = [d.novelty for d in signals(episode, tmp_path).decisions]
    assert found == [1.0, 0.0, 1.0]


def test_what_the_observation_denies_and_what_no_observation_showed(tmp_path):
    said = ["health is 3", "health is 9", "need health is 3", "saw a lichen", "saw a jelly"]
    episode = Episode(1)
    for text in said:
        episode.log(append(text), [{"write": [text]}])
    episode.act()
    see(episode, "a jelly behind bars\nhealth: 9")
    found = signals(episode, tmp_path)
    assert [d.denied for d in found.decisions] == [True, False, False, False, False]
    assert [sorted(d.unseen) for d in found.decisions][3:] == [["lichen", "saw"], ["saw"]]
    other = Episode(2)
    other.act()
    see(other, "a lichen behind bars")
    other.write(tmp_path, 0.0)
    episodes = scan_signals(list_traces(tmp_path), SelectionConfig(kind="signals"))
    reasons = [one.reason for one in score(episodes, SelectionConfig(kind="signals"))]
    assert (
        reasons[0] == "contradicted" and reasons[3] == "not_observed"
    )  # a lichen is seen elsewhere
    assert not {"contradicted", "not_observed"} & {reasons[i] for i in (1, 2, 4)}
    open_gate = SelectionConfig(kind="signals", gates=("idle", "redundant"))
    assert "contradicted" not in {one.reason for one in score(episodes, open_gate)}


@pytest.mark.parametrize(
    ("horizon", "discount", "wanted"),
    [(0, 1.0, [1.0, 1.0, 0.5, 0.5]), (0, 0.5, [0.3125, 0.625, 0.25, 0.5]), (2, 1.0, [0.5, 0.5, 0.5, 0.5])],
)  # fmt: skip
def test_progression_still_to_come_is_discounted_up_to_the_horizon(
    tmp_path, horizon, discount, wanted
):
    episode = Episode(1)
    for progression in (0.0, 0.0, 0.5, 0.5):
        episode.plan("<|ACTION|>east<|END|>")
        episode.act(progression)
    found = signals(episode, tmp_path, 1.0, horizon=horizon, discount=discount)
    assert found.follows == pytest.approx(wanted)


def read_and_win(seed, line, won, steps=3):
    """One line written at once, read back, and then won or not."""
    episode = Episode(seed)
    ids = episode.log(append(line), [{"write": [line]}])
    episode.act()
    episode.plan(READ, [{"read": ids}])
    episode.act()
    for _ in range(steps):
        episode.act()
    return episode, float(won)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Forty episodes: a cue that is read back wins, trivia that is read back loses."""
    folder = tmp_path_factory.mktemp("played")
    for seed in range(40):
        good = seed % 2 == 0
        line = (
            "the cue is a jelly" if good else f"walked over {'grass' if seed % 4 == 1 else 'sand'}"
        )
        episode, won = read_and_win(seed, line, good)
        episode.write(folder, won)
    return folder


def test_followed_is_what_came_after_reads_against_other_episodes(played):
    config = SelectionConfig(kind="signals", weights=only(followed=1.0), discount=1.0)
    scored = score(scan_signals(list_traces(played), config), config)
    by_text = {}
    for one in scored:
        by_text.setdefault(one.decision.text, set()).add(round(one.values["followed"], 3))
    # All steps of a won episode have 1 to come: 1 - 19/39 at a level-0 step against the 39 others.
    (cue,) = by_text[append("the cue is a jelly")]
    assert cue == pytest.approx(1 - 19 / 39, abs=0.02)
    assert max(by_text[append("walked over sand")]) < 0
    kept = [one for one in scored if one.reason is None]
    assert {one.episode.lineage.progression for one in kept} == {1.0} and len(kept) == 40


def test_a_failed_action_that_is_not_repeated_after_reading_about_it(tmp_path):
    """Everyone runs into the wall again; those who read their note do not."""
    for seed in range(12):
        reads = seed < 4
        episode = Episode(seed)
        episode.act(action="east")
        ids = episode.log(append("a wall is east"), [{"write": ["a wall is east"]}])
        episode.act(action="north")
        see(episode, "a wall", changed=False, action="east")
        if reads:
            episode.plan(READ, [{"read": ids}])
        episode.act(action="north" if reads else "east")
        see(episode, "a wall", changed=True, action="north")
        episode.act()
        see(episode, "a wall", changed=reads, action="north" if reads else "east")
        episode.write(tmp_path, 0.0)
    config = SelectionConfig(kind="signals", weights=only(avoided_repeat=1.0))
    scored = score(scan_signals(list_traces(tmp_path), config), config)
    found = [one.values["avoided_repeat"] for one in scored if "avoided_repeat" in one.values]
    # Of the 11 others' first failures 8 come again, and those 8 second ones do not: 8 of 19.
    assert found == pytest.approx([8 / 19] * 8)
    assert sum("avoided_repeat" not in one.values for one in scored) == 8


def test_surprise_is_nats_a_token_and_votes_for_the_middle(tmp_path):
    config = SelectionConfig(kind="signals", weights=only(surprise=1.0))
    for seed in range(9):
        episode = Episode(seed)
        answer = Episode.completion(append("x")) | {
            "token_ids": [1, 2],
            "logprobs": [-1.0, -1.0 - (20.0 if seed == 0 else 0.1 * seed)],
        }
        episode.log(append("x"), [{"write": ["x"]}], completion=answer)
        episode.act()
        episode.write(tmp_path, 0.0)
    scored = score(scan_signals(list_traces(tmp_path), config), config)
    assert scored[0].values["surprise"] == pytest.approx(11.0)
    assert scored[0].score == -1.0 and scored[4].score > 0.5


def measured(scored, effects, **more):
    """Rows as rollout.branching writes them, by decision."""
    return {
        one.name: {"as_was": [1.0] * 8, "altered": [1.0 - e] * 8} | more
        for one, e in zip(scored, effects, strict=True)
        if e is not None
    }


def test_what_was_measured_overrules_what_was_inferred(played, tmp_path):
    config = SelectionConfig(
        kind="signals", weights=only(lineage=1.0, counterfactual=1.0), counterfactual=None
    )
    config = dataclasses.replace(config, counterfactual=SelectionConfig().counterfactual)
    episodes = scan_signals(list_traces(played), config)
    plain = score(episodes, dataclasses.replace(config, weights=only(lineage=1.0)))
    good = [one for one in plain if one.reason is None]
    assert len(good) == 40
    effects = [None if n < 3 else 0.0 if n < 6 else 1.0 for n in range(len(plain))]
    table = tmp_path / "t.jsonl"
    rows = measured(plain, effects)
    from automem_jax.selection.by_signals import text_hash

    lines = [
        dict(zip(("episode", "t", "phase", "turn"), name, strict=True))
        | row
        | {"alteration": "drop", "sha256": text_hash(one.decision.verbatim)}
        for one in plain
        for name, row in [(one.name, rows.get(one.name))]
        if row
    ]
    lines[-1] = lines[-1] | {"sha256": "another text"}
    table.write_text("".join(json.dumps(line) + "\n" for line in [{"type": "header"}, *lines]))
    found = score(episodes, config, table)
    reasons = Counter(one.reason for one in found)
    assert reasons["unmeasured"] == 3 + 1 and reasons["no_effect"] == 3
    assert all(one.effect is None or one.reason is not None or one.effect.is_clear for one in found)
    cf_only = dataclasses.replace(config, weights=only(counterfactual=1.0))
    kept = [one for one in score(episodes, cf_only, table) if one.reason is None]
    assert len(kept) == len(lines) - 3 - 1


def test_effects_and_their_intervals():
    assert effect([], []) is None
    sure = effect([1.0] * 8, [0.0] * 8)
    assert sure.value == 1.0 and 0 < sure.low < sure.high and sure.is_clear
    none = effect([1.0] * 8, [1.0] * 8)
    assert none.value == 0.0 and none.low == -none.high < 0 and not none.is_clear
    # By hand: differences 1, 0 with scale 1: n 4, mean 1/4, variance 2/4 - 1/16, t(3, 0.975) 3.1824.
    two = effect([1.0, 0.0], [0.0, 0.0])
    assert two.high == pytest.approx(0.25 + 3.182446 * math.sqrt((0.5 - 1 / 16) / 4), rel=1e-5)
    small = effect([0.1] * 8, [0.0] * 8, scale=0.1)
    assert small.low == pytest.approx(sure.low / 10)
    assert effect_scale([([0.2, 0.0], [0.0, 0.5])]) == 0.5 and effect_scale([]) == 1.0


def test_intervals_cover_at_the_nominal_rate_where_outcomes_are_wins_and_losses():
    import random

    source = random.Random(0)
    for a, b in ((0.5, 0.5), (0.9, 0.5), (1.0, 0.5), (0.1, 0.0), (1.0, 0.0), (0.7, 0.2)):
        covered = 0
        for _ in range(400):
            draws = [source.random() for _ in range(8)]  # common random numbers
            found = effect([float(u < a) for u in draws], [float(u < b) for u in draws])
            covered += found.low <= a - b <= found.high
        assert covered >= 0.94 * 400, (a, b, covered)


def test_budgets_go_to_the_best_first_and_some_to_chance(played):
    config = SelectionConfig(kind="signals")
    scored = score(scan_signals(list_traces(played), config), config)
    first = priorities(scored, config, 20, 0.0)
    assert {one.episode.lineage.progression for one in first} == {1.0} and len(first) == 20
    mixed = priorities(scored, config, 40, 0.5)
    assert 0.0 in {one.episode.lineage.progression for one in mixed}
    assert len({one.name for one in mixed}) == 40
    assert len(priorities(scored, config, 10_000, 0.1)) == len(scored)


def test_kinds_take_turns_and_near_copies_are_capped(played):
    config = SelectionConfig(kind="signals", weights=only(followed=1.0), max_near_copies=5)
    scored = score(scan_signals(list_traces(played), config), config)
    rejected: Counter = Counter()
    kept = choose(scored, config, rejected)
    assert Counter(one.decision.key.phase for one in kept) == {"log": 5, "plan": 5}
    assert rejected["near_copy_cap"] == 30 and len(kept) + sum(rejected.values()) == len(scored)
    scored = score(scan_signals(list_traces(played), config), config)
    few = dataclasses.replace(config, max_examples=3, max_near_copies=100)
    assert Counter(o.decision.key.phase for o in choose(scored, few, Counter())) == {
        "log": 2,
        "plan": 1,
    } or len(kept)  # whose turn comes first is the better one's
    assert concentration(["a", "a", "b", "b"]) == {
        "largest_episode_share": 0.5,
        "effective_episodes": 2.0,
    }


def test_near_copies_are_found_by_overlap():
    copies = NearCopies(0.7)
    first = copies.original("found iron three steps north of the table in the cave")
    assert copies.original("found iron three steps north of the table in the caves") == first
    assert copies.original("the sign says left") != first
    assert copies.original("") != first and copies.original("") == copies.original("")
    assert overlap(frozenset({1, 2}), frozenset({2, 3})) == pytest.approx(1 / 3)


def test_selection_by_signals_end_to_end(played, tmp_path):
    config = SelectionConfig(kind="signals", max_examples=20)
    report = select(list_traces(played), config, tmp_path / "a")
    examples = list(load_examples(report.examples))
    assert report.count == len(examples) == 20 and report.phases == {"log": 10, "plan": 10}
    assert verify_examples(report.examples) == 20
    assert all(e["signals"]["score"] >= config.min_score for e in examples)
    rows = [json.loads(line) for line in (tmp_path / "a" / "signals.jsonl").open()]
    assert len(rows) == report.memory_turns == 80 and sum(row["kept"] for row in rows) == 20
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    assert sum(report.rejected.values()) + report.count == report.memory_turns
    details = report.details
    assert sum(s["kept"] for s in details["shapes"].values()) == 20
    assert details["signals"]["lineage"]["measured"] == 80
    assert details["concentration"]["effective_episodes"] > 5
    assert set(details["rejected_examples"]) == set(report.rejected)
    assert select(list_traces(played), config, tmp_path / "a") == report
    in_processes = dataclasses.replace(config, workers=2)
    again = select(list_traces(played), in_processes, tmp_path / "b")
    assert again.examples_sha256 == report.examples_sha256
    with pytest.raises(SelectionError, match="only 20 of 80"):
        select(list_traces(played), dataclasses.replace(config, min_examples=21), tmp_path / "c")
    with pytest.raises(SelectionError, match="kept for evaluation"):
        select(list_traces(played), config, tmp_path / "d", forbidden_seeds=[3])


def test_agreement_is_a_rank_correlation(played):
    config = SelectionConfig(kind="signals")
    scored = score(scan_signals(list_traces(played), config), config)
    for one in scored:
        one.values["judge"] = one.values["followed"] ** 3
    assert agreement(scored, "judge")["followed"] == 1.0
    assert agreement(scored, "counterfactual") == {}


def test_a_config_that_weighs_nothing_is_refused():
    bad = SelectionConfig(kind="signals", weights=NONE)
    with pytest.raises(ConfigError, match="every weight is 0"):
        check(dataclasses.replace(ExperimentConfig(), selection=bad))
    gate = SelectionConfig(kind="signals", gates=("boredom",))
    with pytest.raises(ConfigError, match="'boredom' is none of"):
        check(dataclasses.replace(ExperimentConfig(), selection=gate))
