"""`automem status` on work directories as stages leave them."""

import json
import shutil
import time

import pytest

from automem_jax.cli.main import run
from automem_jax.config import ExperimentConfig
from automem_jax.files import write_json
from automem_jax.forecast import (
    Throughput,
    actuals,
    compare,
    forecast,
    groups_of,
    measure_workdir,
    read_forecast,
    write_forecast,
)
from automem_jax.live.board import Board
from automem_jax.live.status import describe, read_status


def test_what_is_finished_is_told_without_a_record(hostile_workdir, tmp_path, capsys):
    workdir = shutil.copytree(hostile_workdir, tmp_path / "run")
    (workdir / "traces" / "collect").mkdir()
    trace = next((workdir / "traces" / "evaluate" / "base_v0").glob("*.jsonl"))
    (workdir / "traces" / "collect" / "x.jsonl.partial").write_bytes(trace.read_bytes()[:500])
    run(["automem", "status", str(workdir)])
    told = capsys.readouterr().out
    for words in (
        "no command has left a record here",
        "traces/evaluate/base_v0: 10 of 128 episodes, progression 0.500",
        "traces/collect: 0 of 256 episodes, 1 begun",
        "train/lineage: 60 steps, loss 0.2582, finished",
        "evolve/ledger.jsonl: 1 start, 1 baseline, 2 candidate dropped, 1 candidate kept, 1 end",
        "played in all: 400 calls, 16,000 prompt and 3,200 generated tokens",
        "results.json",
    ):
        assert words in told, told
    assert not any(ord(c) < 32 and c != "\n" for c in told)
    run(["automem", "status", str(workdir), "--json"])
    status = json.loads(capsys.readouterr().out)
    assert status["runs"] == [] and status["state"] is None
    arms = {row["folder"]: row for row in status["episodes"]}
    assert arms["evaluate/specialist_best"]["calls"] == 100
    assert arms["evaluate/specialist_best"]["prompt_tokens"] == 4000
    assert read_status(workdir)["results"]


def test_actuals_and_forecast_stand_side_by_side(workdir, tmp_path):
    mine = shutil.copytree(workdir, tmp_path / "run")
    times = {"evolve": 61.5, "train lineage": 180.0, "evaluate": 90.0}
    write_json(mine / "timing.json", {"stages": times})
    took = actuals(mine)
    assert took["evaluate"]["episodes"] == 40 and took["evaluate"]["seconds"] == 90.0
    assert took["evaluate"]["prompt_tokens"] == 40 * 400 and took["evaluate"]["dollars"] == 0.0
    settings = ExperimentConfig().training
    size = settings.batch_rows * settings.row_tokens
    assert took["train lineage"]["trained_tokens"] == 60 * size
    groups = measure_workdir(mine)
    assert [(g.role, g.episodes, g.calls) for g in groups.groups] == [("base", 40, (10.0, 0.0))]
    stated = Throughput(prefill=1e5, decode=1e4, training=1e4, chips=8)
    write_forecast(mine, forecast(ExperimentConfig(), groups, stated))
    assert actuals(mine)["evaluate"]["accelerator_hours"] == pytest.approx(8 * 90 / 3600)
    rows = {(row.stage, row.quantity): row for row in compare(mine)}
    row = rows["evaluate", "calls"]
    assert row.actual == 400 and row.expected == pytest.approx(4 * 128 * 10)
    assert row.inside is False and row.ratio == pytest.approx(400 / 5120)
    assert rows["rollout collect", "calls"].actual is None  # it has not run here
    assert rows["total", "calls"].actual == 400 and rows["total", "calls"].expected == row.expected
    with pytest.raises(ValueError, match="no finished episodes"):
        measure_workdir(tmp_path / "run" / "select")


def test_a_pipeline_under_way_is_told_when_its_forecast_expects_the_end(tmp_path, capsys):
    workdir = tmp_path / "run"
    write_forecast(workdir, forecast(ExperimentConfig(), groups_of(ExperimentConfig())))
    rows = {row["stage"]: row["seconds"]["expected"] for row in read_forecast(workdir)["rows"]}
    with Board(workdir, "pipeline") as board:
        with board.stage("evolve"):
            pass
        with board.stage("rollout collect"), board.task("rollout a", 4, "episodes") as task:
            task.update(0)
            deadline = time.monotonic() + 20
            while not (told := read_status(workdir)["whole_left_s"]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            text = "\n".join(describe(read_status(workdir)))
    assert told == pytest.approx(rows["total"] - rows["evolve"], abs=5)
    assert "by forecast.json: " in text and "to the end of the pipeline" in text
    assert read_status(workdir)["whole_left_s"] is None  # it has ended
