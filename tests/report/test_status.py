"""`automem status` on work directories as stages leave them."""

import json
import shutil

from automem_jax.cli.main import run
from automem_jax.live.status import read_status


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
