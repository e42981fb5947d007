import json
import os
import signal

import pytest
from toy_search import ToyWorkshop, make_config

from automem_jax.config import ConfigError
from automem_jax.recipes.ledger import CLOCK, LedgerError, read_ledger, totals, without_clock
from automem_jax.recipes.proposers import GivenProposer, LocalProposer, Proposals
from automem_jax.recipes.search import rung_epochs, search


def run(folder, strike=lambda: None, config=None, proposer=None):
    config = config or make_config()
    workshop = ToyWorkshop(config, folder, strike)
    best = search(config, folder, workshop, proposer or LocalProposer())
    return best, workshop


def ledger(folder):
    return read_ledger(folder / "recipes" / "ledger.jsonl")


def recipe(name, rate=1e-3, **fields):
    training = {"learning_rate": rate} | fields.pop("training", {})
    return {"name": name, "training": training, **fields}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *run(folder)


def test_search_tries_priors_then_steps_and_keeps_what_wins(unbroken):
    folder, best, _ = unbroken
    rows = ledger(folder)
    proposed = [r for r in rows if r["type"] == "proposal"]
    first = [r["recipe"] for r in proposed if r["iteration"] == 1]
    assert first == ["own", "paper_crafter", "paper_minihack", "paper_nethack"]
    paper = proposed[1]["data"]
    assert paper["training"]["lora"] == {
        "rank": 256,
        "alpha": 512.0,
        "dropout": 0.0,
        "targets": "attention",
    }
    assert (paper["training"]["epochs"], paper["training"]["batch_rows"]) == (4, 32)
    assert paper["data"]["selection"]["max_examples"] == 1597
    failed = [r for r in rows if r.get("verdict") == "failed"]
    assert [r["recipe"] for r in failed] == ["paper_nethack"] and "none of 9" in failed[0]["reason"]
    halved = [r for r in rows if r["type"] == "halving"]
    assert [len(r["order"]) for r in halved[:2]] == [3, 2]
    assert [len(r["kept"]) for r in halved[:2]] == [2, 1]
    steps = [r for r in proposed if r["iteration"] == 2]
    assert len(steps) == 4 and len({r["hash"] for r in proposed}) == 8
    recorded = json.loads((folder / "recipes" / "best.json").read_text())
    assert recorded["best"] == best.name == rows[-1]["best"]
    gates = [r for r in rows if r["type"] == "gate"]
    assert gates[0]["recipe"] == "base" and gates[0]["n"] == 12
    assert all(r["gate"]["interval"] is not None for r in gates[1:])


def test_every_row_has_a_clock_or_needs_none_and_costs_add_up(unbroken):
    rows = ledger(unbroken[0])
    for row in rows:
        if row["type"] in ("data", "rung", "gate"):
            assert row[CLOCK]["seconds"] >= 0
    costs = totals(rows)
    trainings = [r for r in rows if r["type"] == "rung"]
    assert costs["trained_tokens"] == sum(100 * r["epochs"] for r in trainings) > 0
    assert rows[-1]["costs_in_all"]["played_tokens"] == costs["played_tokens"]
    assert not any(CLOCK in row for row in without_clock(rows))


def killed_at(folder, strike_number):
    """Runs a search in a child that kills itself at the given place; whether it came that far."""
    child = os.fork()
    if child == 0:
        left = strike_number

        def strike():
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            run(folder, strike)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_anywhere_and_run_again_the_ledger_is_the_same(unbroken, tmp_path):
    wanted = without_clock(ledger(unbroken[0]))
    best = (unbroken[0] / "recipes" / "best.json").read_bytes()
    number = 0
    while killed_at(tmp_path / str(number), number):
        folder = tmp_path / str(number)
        before = ledger(folder)
        path = folder / "recipes" / "ledger.jsonl"
        if number % 3 == 0:
            path.write_bytes(path.read_bytes() + b'{"type": "dat')  # torn by the kill
        run(folder)
        assert without_clock(ledger(folder)) == wanted, number
        assert ledger(folder)[: len(before)] == before  # append-only
        assert (folder / "recipes" / "best.json").read_bytes() == best
        number += 1
    assert number > 30


def test_killed_between_ledger_rows(unbroken, tmp_path):
    """The ledger cut after any row, with all that lies beside it still there."""
    import shutil

    rows = (unbroken[0] / "recipes" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    wanted = without_clock(ledger(unbroken[0]))
    for count in range(len(rows)):
        folder = tmp_path / str(count)
        shutil.copytree(unbroken[0], folder)
        (folder / "recipes" / "ledger.jsonl").write_bytes(b"".join(rows[:count]))
        _, workshop = run(folder)
        assert without_clock(ledger(folder)) == wanted, count
        assert workshop.done == []  # nothing was done twice


def test_finished_search_changes_nothing_and_another_one_is_refused(unbroken):
    folder, best, _ = unbroken
    before = (folder / "recipes" / "ledger.jsonl").read_bytes()
    again, workshop = run(folder)
    assert (again.name, workshop.done) == (best.name, [])
    assert (folder / "recipes" / "ledger.jsonl").read_bytes() == before
    with pytest.raises(LedgerError, match="another"):
        run(folder, config=make_config(rungs=3))


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"trains": "base"}, "base_frozen"),
        ({"clean_up": False}, "clean_up"),
        ({"two_models": False}, "two_models"),
        ({"data": {"first_seed": 400, "episodes": 2}}, "evaluation_seeds"),
        (
            {"data": {"source": "regenerate", "first_seed": 195, "episodes": 10}},
            "evaluation_seeds",
        ),
        ({"data": {"first_seed": 310, "episodes": 20}}, "evaluation_seeds"),
    ],
)
def test_forbidden_recipes_are_refused_by_name_and_the_others_tried(change, constraint, tmp_path):
    given = GivenProposer([recipe("bad", **change), recipe("good")])
    best, workshop = run(tmp_path, proposer=given)
    rows = ledger(tmp_path)
    refused = [r for r in rows if r.get("verdict") == "refused"]
    assert [(r["recipe"], r["constraint"]) for r in refused] == [("bad", constraint)]
    assert f"constraint {constraint}" in refused[0]["reason"]
    assert not any(r["type"] in ("data", "rung") and r["recipe"] == "bad" for r in rows)
    assert best.name == "good"
    assert not (tmp_path / "recipes" / "tried" / "bad").exists()
    with pytest.raises(ConfigError, match=f"constraint {constraint}"):
        run(tmp_path / "alone", proposer=GivenProposer([recipe("bad", **change)]))


def test_junk_is_refused_with_a_reason(tmp_path):
    junk = [
        "text",
        {"name": "../x"},
        recipe("a", training={"rank": 4}),
        recipe("b", training={"lora": {"targets": "embeddings"}}),
        recipe("c", training={"epochs": 0}),
        recipe("d", data={"source": "internet"}),
        recipe("e", training={"objective": "ppo"}),
        recipe("f", training={"row_tokens": 64}),
        recipe("base"),
        recipe("good"),
        recipe("good", rate=2e-3),
        recipe("same"),
    ]
    config = make_config(proposals=20)
    run(tmp_path, config=config, proposer=GivenProposer(junk))
    reasons = [r["reason"] for r in ledger(tmp_path) if r.get("verdict") == "refused"]
    assert len(reasons) == 11
    for reason, words in zip(
        reasons,
        (
            "expected an object",
            "must be 1 to 64",
            "unknown key 'rank'",
            "targets",
            "epochs",
            "source",
            "objective",
            "training.row_tokens: is the experiment's",
            "taken",
            "taken",
            "earlier one",
        ),
        strict=True,
    ):
        assert words in reason


def test_no_more_recipes_than_allowed_are_tried(tmp_path):
    many = [recipe(f"r{i}", rate=1e-3 * (1 + i)) for i in range(6)]
    run(tmp_path, proposer=GivenProposer(many))
    rows = [r for r in ledger(tmp_path) if r["type"] == "proposal"]
    assert [r["verdict"] for r in rows] == ["accepted"] * 4 + ["refused"] * 2
    assert "recipes.proposals = 4" in rows[-1]["reason"]


def test_a_search_that_finds_nothing_better_keeps_the_base(tmp_path):
    best, _ = run(tmp_path, proposer=GivenProposer([recipe("wild", rate=1.0)]))
    assert best.name == "base" and best.adapter is None
    assert json.loads((tmp_path / "recipes" / "best.json").read_text())["recipe"] is None


def test_a_proposer_is_asked_once_an_iteration(tmp_path):
    asked = []

    class Counting(LocalProposer):
        def propose(self, context):
            asked.append(context.iteration)
            return Proposals(super().propose(context).recipes, "counting", {"dollars": 0.5})

    run(tmp_path, proposer=Counting())
    run(tmp_path, proposer=Counting())
    assert asked == [1, 2]
    assert totals(ledger(tmp_path))["dollars"] == 1.0


def test_rungs_double():
    assert [rung_epochs(8, rung, 3) for rung in (1, 2, 3)] == [2, 4, 8]
    assert [rung_epochs(1, rung, 2) for rung in (1, 2)] == [1, 1]
    assert [rung_epochs(5, rung, 2) for rung in (1, 2)] == [3, 5]
