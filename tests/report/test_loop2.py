"""Loop 2's sections on records as its own code writes them."""

import dataclasses
import json

from report_workdir import HOSTILE

from automem_jax.files import write_json
from automem_jax.recipes.attribution import ActionEmission, findings
from automem_jax.recipes.online import Round
from automem_jax.report.attribution import attribution
from automem_jax.report.material import read_material
from automem_jax.report.searches import online, recipes

LEFT_OUT = "specialist_on_signals-without-lineage"


def test_attribution_tells_gains_actions_and_whether_the_base_changed(tmp_path):
    arm = {"mean": 0.95, "interval": [0.9, 1.0], "behaviour": {}}
    difference = {
        "arm": LEFT_OUT,
        "baseline": "base_best",
        "n": 8,
        "mean": 0.2,
        "standard_error": 0.05,
        "interval": [0.1, 0.3],
    }
    results = {
        "arms": {"base_best": arm | {"mean": 0.75}, LEFT_OUT: arm},
        "paired_differences": [difference | {"wins": 3, "losses": 1}],
    }
    same = {"signals-without-idle": "signals"}
    emissions = {LEFT_OUT: ActionEmission(turns=400, emitted=3, stripped=3, committed=0)}
    for hashes, words in ((["a", "a"], "the same bits"), (["a", "b"], "DIFFER")):
        write_json(tmp_path / "attribution.json", findings(results, emissions, hashes, same))
        page = str(attribution(read_material(tmp_path)))
        for part in (
            words,
            "specialist on signals without lineage",
            "+20.0",
            "3/1",
            "400",
            "signals-without-idle selects what signals does",
        ):
            assert part in page, part
    assert ("warning" in page) == (words == "DIFFER")


def test_recipes_and_rounds_are_told_with_their_verdicts(tmp_path):
    proposal = {"type": "proposal", "iteration": 1}
    gate = {"n": 8, "mean_difference": 0.1, "interval": [0.02, 0.2]}
    own = {"recipe": "own", "iteration": 1}
    rows = [
        {"type": "start"},
        {"type": "gate", "recipe": "base", "mean": 0.7},
        proposal | {"number": 1, "recipe": "own", "verdict": "accepted", "reason": "prior"},
        proposal | {"number": 2, "recipe": HOSTILE, "verdict": "refused", "reason": "clean_up"},
        {"type": "data", **own, "verdict": "ready", "examples": 198},
        {"type": "rung", **own, "verdict": "trained", "validation_loss": 0.125},
        {"type": "gate", **own, "against": "base", "verdict": "kept", "reason": "better", "gate": gate},
    ]  # fmt: skip
    path = tmp_path / "recipes" / "ledger.jsonl"
    path.parent.mkdir()
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(whole + '{"type": "end", "be')
    rounds = [
        Round(1, True, "", 900, examples=31, loss=0.2, kl=0.05),
        Round(2, False, "nothing to learn", 900),
    ]
    write_json(
        tmp_path / "online.json",
        {"best": "train/online_1/a", "rounds": [dataclasses.asdict(r) for r in rounds]},
    )
    material = read_material(tmp_path)
    page = str(recipes(material)) + str(online(material))
    for part in (
        "198",
        "0.125",
        "+10.0",
        "kept",
        "clean_up",
        "not come to its end",
        "0.050",
        "nothing to learn",
    ):
        assert part in page, part
    assert "<script>" not in page and not material.problems
    end = {"type": "end", "best": "own", "costs_in_all": {"trained_tokens": 1200}}
    path.write_text(whole + json.dumps(end) + "\n")
    page = str(recipes(read_material(tmp_path)))
    assert "Best: own." in page and "Spent: 1,200 trained tokens." in page
