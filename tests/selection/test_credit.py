import math
import random

import pytest
from handmade import play

from automem_jax.selection.credit import Credit, CreditTable, group_credits, normalised
from automem_jax.selection.lineage import follow
from automem_jax.traces.store import read_trace


def test_normalised_masks_case_numbers_and_spaces():
    assert normalised("Saw  Lichen at 12,7 ") == normalised("saw lichen at 3,11")


def by_text(credits):
    return {credit.text: credit for credit in credits}


def test_difference_and_standard_error_by_hand():
    outcomes = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 0.0, "f": 1.0}
    (group,) = group_credits(outcomes, {"cue": {"a", "b", "c"}})
    assert group.difference == pytest.approx(1 - 1 / 3)
    deviation = math.sqrt(sum((y - 4 / 6) ** 2 for y in outcomes.values()) / 5)
    assert group.std_error == pytest.approx(deviation * math.sqrt(1 / 3 + 1 / 3))
    assert (group.episodes_read, group.episodes_not) == (3, 3)


def test_a_line_read_in_every_episode_says_nothing():
    (group,) = group_credits({"a": 1.0, "b": 0.0}, {"always": {"a", "b"}})
    assert group.difference == 0.0 and group.std_error == math.inf


def test_trivia_read_together_with_the_cue_is_explained_away():
    """Trivia alone is worth nothing; beside the cue it looks as good as the cue until held equal."""
    source = random.Random(0)
    outcomes, cue, trivia = {}, set(), set()
    for i in range(200):
        read_cue = source.random() < 0.4
        if read_cue:
            cue.add(i)
        if source.random() < (0.8 if read_cue else 0.1):
            trivia.add(i)
        outcomes[i] = float(source.random() < (0.97 if read_cue else 0.5))
    groups = by_text(group_credits(outcomes, {"cue": cue, "trivia": trivia}))
    alone = by_text(group_credits(outcomes, {"trivia": trivia}))
    assert alone["trivia"].lower > 0.1
    assert groups["cue"].lower > 0.3
    assert abs(groups["trivia"].difference) < 0.15 < alone["trivia"].difference


def test_two_kinds_of_cue_that_exclude_each_other_both_keep_their_credit():
    outcomes = {i: float(i < 40 or i % 2) for i in range(80)}
    members = {"jelly": set(range(20)), "lichen": set(range(20, 40))}
    groups = by_text(group_credits(outcomes, members))
    assert groups["jelly"].lower > 0 and groups["lichen"].lower > 0


def lineages(tmp_path, episodes):
    found = []
    for episode, progression in episodes:
        path = episode.write(tmp_path, progression)
        found.append(follow(read_trace(path), str(path)))
    return found


def test_a_unique_line_falls_back_to_its_own_outcome_against_the_others(tmp_path):
    found = lineages(
        tmp_path,
        [
            (play(0, cue="jelly", trivia=False, consult=True), 1.0),
            (play(1, cue=None, trivia=False, consult=False), 0.0),
            (play(2, cue=None, trivia=False, consult=False), 0.5),
        ],
    )
    table = CreditTable(found)
    write = found[0].turns[1]
    credit = table.decision(found[0], write)
    assert credit.value == credit.own == pytest.approx(1.0 - 0.25)


def test_base_rule_comes_first(tmp_path):
    found = lineages(
        tmp_path,
        [
            (play(0, cue="jelly", trivia=False, consult=True), 1.0),
            (play(1, cue="jelly", trivia=False, consult=True), 0.0),
            (play(2, cue="jelly", trivia=False, consult=False), 1.0),
            (play(3, cue=None, trivia=False, consult=True), 1.0),
        ],
    )
    table = CreditTable(found)
    write, read = 1, 3
    assert table.decision(found[0], found[0].turns[write]).reason is None
    assert table.decision(found[0], found[0].turns[read]).reason is None
    assert table.decision(found[1], found[1].turns[write]).reason == "no_success"
    assert table.decision(found[2], found[2].turns[write]).reason == "never_read_back"
    assert table.decision(found[3], found[3].turns[2]).reason == "nothing_followed"
    alone = CreditTable(found[:1])
    assert alone.decision(found[0], found[0].turns[write]).reason == "no_baseline"


def test_tasks_are_not_compared_with_each_other(tmp_path):
    found = lineages(
        tmp_path,
        [
            (play(0, cue="jelly", trivia=False, consult=True, task="easy"), 1.0),
            (play(1, cue=None, trivia=False, consult=False, task="easy"), 1.0),
            (play(2, cue=None, trivia=False, consult=False, task="hard"), 0.0),
        ],
    )
    assert CreditTable(found).own(found[0]) == 0.0


def test_a_common_line_must_lie_clear_of_zero_and_a_rare_one_is_judged_by_its_episode():
    common = Credit(value=0.07, std_error=0.045, episodes_read=87)
    assert common.may_be_chance(2.0) and not common.may_be_chance(1.0)
    rare = Credit(value=0.4, std_error=0.5, episodes_read=1)
    assert not rare.may_be_chance(2.0)
