"""What the report says of cost, searches, rounds, attribution and commands; its figures as data."""

import csv
import json
import shutil

import pytest

from automem_jax.architect.gate import judge
from automem_jax.files import write_json
from automem_jax.provenance import record_command, source
from automem_jax.report import write_report
from automem_jax.report.attribution import attribution
from automem_jax.report.cost import cost, forecast, spent
from automem_jax.report.data import DataFiles
from automem_jax.report.material import Material, read_material
from automem_jax.report.provenance import reproduce
from automem_jax.report.searches import online, recipes
from automem_jax.report.summary import summary


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_has_its_numbers_beside_it(workdir, tmp_path):
    page = write_report(workdir, tmp_path / "page.html")
    folder = tmp_path / "page_data"
    names = {path.stem for path in folder.iterdir()}
    assert {"progression", "differences", "loss", "behaviour", "tokens", "times"} <= names
    for name in names:
        for kind in ("csv", "json"):
            assert f'href="page_data/{name}.{kind}"' in page.read_text()
    results = json.loads((workdir / "results.json").read_text())
    arm = results["arms"]["specialist_best"]
    row = next(r for r in rows(folder / "progression.csv") if r["name"] == "specialist_best")
    assert float(row["mean"]) == arm["mean"] and int(row["n"]) == 10
    assert (float(row["interval_low"]), float(row["interval_high"])) == tuple(arm["interval"])
    assert len(rows(folder / "loss.csv")) == 120
    table = json.loads((folder / "differences.json").read_text())["rows"]
    assert [r["mean"] for r in table] == [r["mean"] for r in results["paired_differences"]]


def test_no_text_in_the_data_is_a_formula_or_steers_a_terminal(tmp_path):
    data = DataFiles()
    data.keep("x", ("name", "value", "ends.."), [("=1+1", -1.5, (1, 2)), ("a\x1b[31m", None, None)])
    data.write(tmp_path / "report.html")
    text = (tmp_path / "report_data" / "x.csv").read_text()
    assert text == "name,value,ends_low,ends_high\n'=1+1,-1.5,1,2\na␛[31m,,,\n"
    held = json.loads((tmp_path / "report_data" / "x.json").read_text())
    assert held["rows"][0] == {"name": "=1+1", "value": -1.5, "ends_low": 1, "ends_high": 2}


def test_the_summary_says_what_it_took(workdir):
    text = summary(read_material(workdir))
    assert "It took 40 episodes of 200 steps, 16,000 prompt and 3,200 generated tokens" in text
    for cell in ("Both loops together", "50.0", "100.0", "+50.0"):
        assert cell in text[text.index("<table") : text.index("</table")]


def test_money_is_that_of_servers_and_of_the_architect():
    usage = {"calls": 3, "retries": 0, "failed": 0, "prompt_tokens": 9, "completion_tokens": 2}
    material = Material(None)
    material.usage = {"stages": {"evaluate": {"m": usage | {"cost_usd": 0.5}}}}
    material.ledger = [{"type": "charge", "what": "call", "spend": {"dollars": 0.25}}]
    assert (spent(material).dollars, spent(material).unpriced) == (0.75, False)
    text = cost(material)
    assert "0.5000" in text and "evaluate" in text
    material.usage["stages"]["select"] = {"<b>m": usage | {"cost_usd": None}}
    assert (spent(material).dollars, spent(material).unpriced) == (0.75, True)
    assert "<b>m" not in cost(material) and "servers" in material.data.tables


def test_forecast_stands_beside_what_was_taken(tmp_path):
    assert "No forecast" in forecast(read_material(tmp_path))
    band = {"low": 10.0, "expected": 60.0, "high": 100.0}
    row = {"stage": "evolve", "episodes": band | {"high": 4000.0}, "seconds": band}
    write_json(tmp_path / "forecast.json", {"schema": 1, "rows": [row], "chips": 0})
    write_json(tmp_path / "timing.json", {"stages": {"evolve": 101.5}})
    material = read_material(tmp_path)
    text = forecast(material)
    assert "evolve: seconds" in text and "4,000" in text and "0 of 2 figures" in text
    kept = {row[:2]: row[-2:] for row in material.data.tables["forecast"][1]}
    assert kept["evolve", "seconds"] == (101.5, False) and kept["evolve", "episodes"] == (
        None,
        None,
    )


def _gate(scores):
    base = {seed: float(seed % 2) for seed in range(20)}
    return judge(base, scores, list(base), samples=200).to_data()


def test_recipes_show_losses_verdicts_and_refusals():
    own = {"iteration": 1, "recipe": "r1"}
    material = Material(None)
    material.recipes = [
        {"type": "proposal", **own, "verdict": "accepted", "reason": "<i>more data"},
        {"type": "proposal", "recipe": "bad", "verdict": "refused", "reason": "rank is 0"},
        {"type": "data", **own, "verdict": "ready", "examples": 12},
        {"type": "rung", **own, "rung": 1, "verdict": "trained", "validation_loss": 0.5},
        {"type": "rung", **own, "rung": 2, "verdict": "trained", "validation_loss": 0.25},
        {"type": "gate", **own, "against": "base", "verdict": "kept", "reason": "better",
         "gate": _gate({seed: 1.0 for seed in range(20)})},
        {"type": "end", "best": "r1"},
    ]  # fmt: skip
    text = recipes(material)
    for words in ("1 recipe was tried, 1 refused. Best: r1.", "0.500, 0.250", "kept: better",
                  "rank is 0", "&lt;i&gt;more data", "r1 − base"):  # fmt: skip
        assert words in text, words
    assert material.data.tables["recipes"][1][0][:3] == ("r1", "base", "kept")


def test_online_rounds_say_why_one_was_dropped():
    material = Material(None)
    row = {"kept": True, "examples": 8, "steps": 2, "loss": 0.5, "kl": 0.01, "played_tokens": 100}
    dropped = row | {"number": 2, "kept": False, "reason": "KL is above online.max_kl"}
    material.online = {"best": "x", "rounds": [row | {"number": 1, "reason": ""}, dropped]}
    text = online(material)
    assert "KL is above" in text and "dropped" in text and "0.010" in text


def test_attribution_shows_differences_and_that_the_base_stayed_itself():
    difference = {"arm": "specialist_on_signals", "baseline": "base_best", "n": 5, "mean": 0.2,
                  "standard_error": 0.1, "interval": [0.1, 0.3]}  # fmt: skip
    emission = {"turns": 10, "emitted": 2, "stripped": 2, "committed": 0, "rate": 0.2}
    material = Material(None)
    material.attribution = {
        "paired_differences": [difference],
        "actions_of_the_specialist": {"specialist_on_signals": emission},
        "base_logits": {"identical": True},
    }
    text = attribution(material)
    assert "+20.0" in text and "[+10.0, +30.0]" in text and "the same bits" in text
    material.attribution["base_logits"]["identical"] = False
    assert "DIFFER" in attribution(material)


def test_commands_are_recorded_with_commit_and_versions_and_without_secrets(tmp_path):
    address = "--config.policy.base_url=https://me:p@secret@host/v1?key=secret#secret"
    record_command(tmp_path, ["automem", "rollout", address])
    (row,) = map(json.loads, (tmp_path / "commands.jsonl").read_text().splitlines())
    assert row["command"][-1] == "--config.policy.base_url=https://host/v1"
    assert row["commit"] == source()["commit"] and row["versions"]["jax"] != "not installed"
    text = reproduce(read_material(tmp_path))
    assert "automem rollout" in text and "secret" not in text and "configs/recorded.py:" in text


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_opens_in_a_browser(
    hostile_workdir, tmp_path, open_watched, serious_violations, width, scheme
):
    page_path = write_report(hostile_workdir, tmp_path / "report.html")
    page = open_watched(page_path.as_uri(), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator("figure svg.narrow" if width == 400 else "figure svg.broad")
    assert shown.count() == 3 and all(svg.is_visible() for svg in shown.all())
    page.locator("nav a", has_text="Episode").click()
    page.get_by_role("button", name="Next").click()
    assert page.locator(".step.shown").get_attribute("data-label") == "Step 1"
    assert '<script>alert("pwned")</script>' in page.locator(".step.shown").inner_text()
    assert page.locator("main script, main img, main iframe").count() == 0
    assert serious_violations(page) == []


def test_print_is_dark_on_white_and_shows_one_step(workdir, tmp_path, open_watched):
    page = open_watched(write_report(workdir, tmp_path / "report.html").as_uri(), scheme="dark")
    page.emulate_media(media="print")
    colours = (
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert page.evaluate(colours) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert page.locator(".step:visible").count() == 1
    assert not page.locator("nav").is_visible() and not page.locator(".player").is_visible()
    assert page.locator("figure svg.broad").first.is_visible()


def test_a_damaged_optional_file_costs_its_own_section_only(workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    (copy / "attribution.json").write_text('{"paired_differences": [{"arm": 1}]}')
    text = write_report(copy).read_text()
    assert text.count("Could not be shown") == 1
