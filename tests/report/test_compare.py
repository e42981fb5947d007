"""Several work directories on one page, and in BALROG's layout."""

import json
import shutil

import pytest
from report_workdir import SEEDS, write_trace

from automem_jax.cli.main import run
from automem_jax.evaluation.results import ResultsError, summarise
from automem_jax.files import write_json
from automem_jax.report.compare import differences, read_compared, write_comparison


@pytest.fixture(scope="module")
def other(workdir, tmp_path_factory):
    """The same experiment; its specialist lost six more episodes, and a seed was played here only."""
    place = tmp_path_factory.mktemp("compare") / "<b>other"
    place.mkdir()
    config = json.loads((workdir / "config.json").read_text())
    config["training"]["epochs"] = 9
    write_json(place / "config.json", config)
    arms = {"specialist_best": place / "traces" / "evaluate" / "specialist_best"}
    for seed in [*SEEDS, 99]:
        write_trace(arms["specialist_best"], seed, won=seed > 47, logs=True, reads=True)
    shutil.copytree(workdir / "traces/evaluate/base_v0", place / "traces/evaluate/base_v0")
    arms["base_v0"] = place / "traces" / "evaluate" / "base_v0"
    results = json.loads((workdir / "results.json").read_text())
    write_json(place / "results.json", results | summarise(arms, samples=500))
    return place


def test_arms_are_paired_on_the_seeds_that_both_played(workdir, other):
    found = {d.arm: d.paired for d in differences(read_compared([workdir, other]))}
    assert found.keys() == {"base_v0", "specialist_best"}
    specialist = found["specialist_best"]
    assert (specialist.n, specialist.wins, specialist.losses) == (10, 0, 6)
    assert specialist.mean == pytest.approx(-0.6)
    assert found["base_v0"].mean == 0.0


def test_the_page_says_what_differs(workdir, other, tmp_path, open_watched, serious_violations):
    path = write_comparison([workdir, other], tmp_path / "compare.html")
    page = open_watched(path.as_uri(), width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    text = page.locator("main").inner_text()
    for words in ("<b>other:", "-60.0 points", "only 10 episodes are paired", "training.epochs"):
        assert words in text, words
    assert page.locator("main b").count() == 0
    assert serious_violations(page) == []
    rows = json.loads((tmp_path / "compare_data" / "differences.json").read_text())["rows"]
    row = next(r for r in rows if r["arm"] == "specialist_best")
    assert (row["n"], row["better"], row["worse"], row["same"]) == (10, 0, 6, 4)


def test_the_command_prints_the_same_differences(workdir, other, tmp_path, capsys):
    run(["automem", "compare", str(workdir), str(other), f"--out={tmp_path / 'c.html'}"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = next(line for line in lines if line[:1] == ["specialist_best"] and "-" in line)
    assert row[4:6] == ["10", "-60.0"] and row[-1] == "0/6/4"
    assert (tmp_path / "c.html").exists()


def test_what_cannot_be_compared_is_refused_by_name(workdir, tmp_path):
    with pytest.raises(ResultsError, match="two different work directories"):
        read_compared([workdir])
    with pytest.raises(ResultsError, match="two different work directories"):
        read_compared([workdir, workdir])
    with pytest.raises(ResultsError, match="automem evaluate"):
        read_compared([workdir, tmp_path])


def test_export_prints_balrogs_summary(workdir, tmp_path, capsys):
    out = tmp_path / "balrog"
    run(["automem", "export", str(workdir), str(out), "--arm=base_best"])
    assert "| minihack | 10 | 70.00 | 15.28 |" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["Final score"] == pytest.approx(70.0)
    with pytest.raises(SystemExit):
        run(["automem", "export", str(workdir), str(out)])
    assert "exists; name a directory that does not" in capsys.readouterr().err
