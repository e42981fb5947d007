import dataclasses
import json

from report_workdir import HOSTILE

from automem_jax.files import write_json
from automem_jax.recipes.attribution import ActionEmission, findings
from automem_jax.recipes.online import Round
from automem_jax.report import loop2
from automem_jax.report.material import read_material

LEFT_OUT = "specialist_on_signals-without-lineage"


def test_attribution_tells_means_actions_and_whether_the_base_changed(tmp_path):
    arm = {"mean": 0.95, "interval": [0.9, 1.0], "behaviour": {}}
    difference = {
        "arm": LEFT_OUT,
        "baseline": "base_best",
        "n": 8,
        "mean": 0.2,
        "interval": [0.1, 0.3],
    }
    results = {
        "arms": {"base_best": arm | {"mean": 0.75}, LEFT_OUT: arm},
        "paired_differences": [difference | {"wins": 3, "losses": 1}],
    }  # fmt: skip
    same = {"signals-without-idle": "signals"}
    emissions = {LEFT_OUT: ActionEmission(turns=400, emitted=3, stripped=3, committed=0)}
    for hashes, words in ((["a", "a"], "the same bits"), (["a", "b"], "they differ")):
        write_json(tmp_path / "attribution.json", findings(results, emissions, hashes, same))
        page = str(loop2.attribution(read_material(tmp_path)))
        for part in (
            words,
            "specialist on signals without lineage less base + best template",
            "+20.0",
            "3 / 1",
            "0.75 %",
            "95.0",
            "signals-without-idle selects what signals does",
        ):
            assert part in page, part
    assert ("warning" in page) == (words == "they differ")


def test_recipes_and_rounds_are_told_with_their_verdicts(tmp_path):
    proposal = {"type": "proposal", "iteration": 1}
    gate = {"mean_difference": 0.1, "interval": [0.02, 0.2]}
    rows = [
        {"type": "start"},
        {"type": "gate", "recipe": "base", "mean": 0.7},
        proposal | {"number": 1, "recipe": "own", "verdict": "accepted", "reason": "prior"},
        proposal | {"number": 2, "recipe": HOSTILE, "verdict": "refused", "reason": "constraint clean_up"},
        {"type": "data", "recipe": "own", "verdict": "ready", "examples": 198},
        {"type": "rung", "recipe": "own", "verdict": "trained", "validation_loss": 0.125},
        {"type": "gate", "recipe": "own", "verdict": "kept", "reason": "better", "gate": gate},
    ]  # fmt: skip
    path = tmp_path / "recipes" / "ledger.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"type": "end", "be')
    rounds = [
        Round(1, True, "", 900, examples=31, loss=0.2, kl=0.05),
        Round(2, False, "nothing to learn", 900),
    ]
    write_json(
        tmp_path / "online.json",
        {"best": "train/online_1/a", "rounds": [dataclasses.asdict(r) for r in rounds]},
    )
    material = read_material(tmp_path)
    page = str(loop2.recipes(material))
    for part in (
        "198",
        "0.1250",
        "+10.0",
        "kept",
        "refused",
        "constraint clean_up",
        "not come to its end",
        "0.050",
        "dropped: nothing to learn",
    ):
        assert part in page, part
    assert "<script>" not in page and not material.problems
    path.write_text(
        path.read_text().rsplit("\n", 1)[0]
        + '\n{"type": "end", "best": "own", "costs_in_all": {"trained_tokens": 1200}}\n'
    )
    assert "Best: own. Spent: 1,200 trained tokens." in str(loop2.recipes(read_material(tmp_path)))


def test_without_either_the_sections_say_so(tmp_path):
    material = read_material(tmp_path)
    assert "Not asked yet" in loop2.attribution(material)
    assert "Neither recipes nor online rounds" in loop2.recipes(material)
