"""What a run records, shows and logs while it goes on, and how it is found out that it died."""

import dataclasses
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from automem_jax import terminal
from automem_jax.config import ConfigError, ExperimentConfig, TrackingConfig
from automem_jax.files import write_json
from automem_jax.live import record
from automem_jax.live.board import Board
from automem_jax.live.dashboard import Display, lines, render, seconds, sparkline
from automem_jax.live.status import describe, read_status
from automem_jax.live.tracking import TensorBoard
from automem_jax.progress import Progress

HOSTILE = "\x1b[31m\x1b]0;owned\x07[red]x[/red]\x9b\u202e\r\nsecond"


def assert_inert(text):
    assert not any(c in text for c in "\x1b\x07\x9b\u202e\r")


def status_when(workdir, told):
    """The status as soon as `told` is true of it; the record is written by a thread."""
    deadline = time.monotonic() + 20
    while not told(status := read_status(workdir)):
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    return status


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_speed_and_time_left_count_what_this_run_did():
    clock = Clock()
    progress = Progress("train", 100, "steps", done=40, clock=clock)
    assert progress.left_s is None
    for step in range(41, 61):
        clock.now += 2.0
        progress.update(step, {"loss": 1.0 / step})
    assert progress.per_s == pytest.approx(0.5)
    assert progress.left_s == pytest.approx(80.0)
    for step in range(61, 101):
        clock.now += 1.0
        progress.update(step, {"loss": 1.0 / step})
    assert progress.left_s == 0.0
    assert len(progress.trend) <= 48 and progress.trend[0] == pytest.approx(1 / 41)
    assert progress.trend == sorted(progress.trend, reverse=True)


def test_a_run_leaves_stages_tasks_failures_and_its_end(tmp_path, capsys):
    with Board(tmp_path, "evolve", usage=lambda: {"big": {"calls": 3, "cost_usd": 0.5}}) as board:
        with board.stage("evolve"):
            with board.task("rollout a", 4, "episodes") as task:
                task.update(2, {"progression": 0.5, "failed calls": 3, "retries": 1})
                during = status_when(tmp_path, lambda status: status["failures"])
                live = board.snapshot()["tasks"][0]
            board.say("kept a_r1a1")
    assert during["state"] == record.RUNNING and during["stage"] == "evolve"
    assert live["done"] == 2 and live["figures"]["progression"] == 0.5
    after = read_status(tmp_path)
    assert after["state"] == record.DONE
    assert after["failures"] == {"failed calls": 3, "retries": 1}
    run = after["runs"][0]
    assert run["stages"][0]["ended"] and run["tasks"][0]["ended"] == "done"
    assert run["lines"] == ["kept a_r1a1"] and run["pid"] == os.getpid()
    text = "\n".join(describe(after))
    assert "evolve: done" in text and "3 failed calls" in text and "rollout a: 2/4 episodes" in text
    assert "rollout a: 2/4 episodes" in capsys.readouterr().out  # a plain line without a terminal


@pytest.mark.parametrize(
    "error, state, words",
    [
        (KeyboardInterrupt(), record.INTERRUPTED, "Ctrl-C"),
        (SystemExit(143), record.INTERRUPTED, "SIGTERM"),
        (SystemExit(75), record.INTERRUPTED, "SIGTERM"),
        (SystemExit(0), record.DONE, ""),
        (ValueError("no such\n\x1b[31mseed"), record.FAILED, "no such \u241b[31mseed"),
    ],
)
def test_how_a_run_ended_is_told(tmp_path, error, state, words):
    with pytest.raises(type(error)), Board(tmp_path, "rollout") as board, board.stage("rollout"):
        raise error
    run = read_status(tmp_path)["runs"][0]
    assert (run["state"], run["error"]) == (state, words)


def test_a_command_that_is_refused_leaves_no_record(tmp_path):
    with pytest.raises(ValueError), Board(tmp_path / "run", "select"):
        raise ValueError("nothing was collected")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, capsys):
    with Board(tmp_path, "train", speaks=False) as board, board.stage("train"):
        with board.task("train", 1, "steps") as task:
            task.update(1, {"loss": 1.0})
        board.say("said")
    assert list(tmp_path.iterdir()) == []


CHILD = """
import sys, time
from automem_jax.live.board import Board
with Board(sys.argv[1], "rollout") as board, board.stage("rollout collect"):
    with board.task("rollout a", 9, "episodes") as task:
        task.update(3, {"steps/s": 5.0})
        while not [r for r in board.snapshot()["tasks"] if r["done"] == 3]:
            pass
        from automem_jax.live.record import read_all
        from pathlib import Path
        while not [t for r in read_all(Path(sys.argv[1])) for t in r["tasks"] if t["done"] == 3]:
            time.sleep(0.01)
        print("there", flush=True)
        time.sleep(60)
"""


def test_a_killed_run_is_told_from_a_running_one(tmp_path, capsys):
    from automem_jax.cli.main import run

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "there\n"
        assert read_status(tmp_path)["state"] == record.RUNNING
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    run(["automem", "status", str(tmp_path)])
    told = capsys.readouterr().out
    assert "rollout: KILLED" in told and "rollout a: 3/9 episodes" in told
    run(["automem", "status", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["state"] == record.KILLED
    run(["automem", "status", str(tmp_path), "--watch"])  # ends at once: nothing is under way
    assert "KILLED" in capsys.readouterr().out
    with Board(tmp_path, "rollout") as board, board.stage("x"):  # takes the dead one's place
        assert [run["state"] for run in read_status(tmp_path)["runs"]] == [record.RUNNING]


def test_a_reused_process_number_and_another_machine():
    data = record.begin("train", "host")
    assert record.state_of(data) == record.RUNNING
    assert record.state_of(data | {"process": "1"}) == record.KILLED  # started at another time
    later = data["heartbeat"] + 100
    assert record.state_of(data, later) == record.SILENT
    elsewhere = data | {"machine": "another", "process": "1"}
    assert record.state_of(elsewhere) == record.RUNNING  # only its heartbeat can be judged
    assert record.state_of(elsewhere, later) == record.SILENT
    assert record.state_of({"state": "running"}) == record.KILLED
    assert record.state_of({}) == record.KILLED


def test_damaged_and_foreign_files_do_not_stop_the_status(tmp_path):
    folder = tmp_path / "status"
    folder.mkdir()
    (folder / "a.json").write_text("{half")
    (folder / "b.json").write_text("[" * 100_000)
    write_json(folder / "c.json", {"schema": 99})
    write_json(folder / "d.json", {"schema": 1, "state": "running", "tasks": [{}], "stages": [{}]})
    (tmp_path / "usage.json").write_text("[]")
    (tmp_path / "forecast.json").write_text('{"rows": [1]}')
    (tmp_path / "config.json").write_text('{"no": 1}')
    (tmp_path / "train" / "x").mkdir(parents=True)
    (tmp_path / "train" / "x" / "metrics.jsonl").write_text(
        '{"step": 3, "loss": 0.5}\n{"step": 4, "l'
    )
    (tmp_path / "traces" / "a").mkdir(parents=True)
    (tmp_path / "traces" / "a" / "x.jsonl").write_text("no trace")
    status = read_status(tmp_path)
    assert len(status["runs"]) == 1 and status["trainings"][0]["steps"] == 3
    assert status["episodes"][0]["unreadable"] == 1
    assert "KILLED" in "\n".join(describe(status))
    with pytest.raises(ValueError, match="does not exist"):
        read_status(tmp_path / "none")


def hostile_record():
    data = record.begin(HOSTILE, HOSTILE)
    task = {"title": HOSTILE, "unit": HOSTILE, "done": 1, "total": 2, "figures": {HOSTILE: HOSTILE}}
    data["tasks"] = [task | {"trend": [1.0, 0.5], "stage": HOSTILE, "ended": ""}]
    data["stages"] = [{"name": HOSTILE, "began": data["began"], "ended": None}]
    return data | {"error": HOSTILE, "lines": [HOSTILE], "state": record.FAILED}


def test_texts_from_outside_are_inert_in_status_and_dashboard(tmp_path):
    data = hostile_record()
    plain = lines(data)
    assert len(plain) == 5  # no line break of theirs makes a line
    assert_inert("\n".join(plain))
    assert "[red]x[/red]" in "\n".join(plain)
    out = io.StringIO()
    console = terminal.console(out, force_terminal=True, color_system=None, width=400)
    console.print(render(data, more=[HOSTILE]))
    assert_inert(out.getvalue().replace("\r", ""))
    assert out.getvalue().count("[red]x[/red]") >= 5
    write_json(tmp_path / "status" / "x.json", data)
    assert_inert("\n".join(describe(read_status(tmp_path))))


def test_the_dashboard_draws_and_lets_lines_run_above_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    data = hostile_record() | {"command": "train", "state": record.RUNNING}
    display = Display(lambda: data)
    display.open()
    print(f"said {HOSTILE}")
    display._live.refresh()
    display.close()
    assert sys.stdout is out
    text = out.getvalue()
    assert "said \u241b[31m" in text and "train: running" in text
    assert "\x1b[31m" not in text and "\x1b]0;owned" not in text and "\x9b" not in text


def test_words_for_seconds_and_courses():
    assert [seconds(s) for s in (0.4, 65, 7320, 100_000)] == [
        "0 s", "1 min 05 s", "2 h 02 min", "1 d 3 h",
    ]  # fmt: skip
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█" and sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


class Kept:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.points, self.closed = [], False

    def scalars(self, run, step, figures):
        self.points.append((run, step, dict(figures)))

    def close(self):
        self.closed = True


def test_trackers_get_standard_names_and_absolute_steps(tmp_path):
    tracker = Kept()
    with Board(tmp_path, "pipeline", trackers=[tracker]) as board:
        with board.stage("train lineage"), board.task("train specialist", 6, "steps", 3) as task:
            for step in (4, 5, 6):
                figures = {"step": step, "loss": 1.0 / step, "heldout_loss": 2.0, "grad_norm": 0.1}
                task.update(step, {"loss": 1.0 / step}, figures)
        with board.stage("evolve"):
            for _ in range(2):
                with board.task("rollout a", 4, "episodes") as task:
                    task.update(4, {"steps/s": 9.0, "progression": 0.5, "failed calls": 1})
    train = [point for point in tracker.points if point[0] == "train lineage/specialist"]
    assert [step for _, step, _ in train] == [4, 5, 6]  # those of a run that went on from step 3
    assert train[0][2] == {"train/loss": 0.25, "eval/loss": 2.0, "train/grad_norm": 0.1}
    rollouts = [point for point in tracker.points if point[0] == "evolve/a"]
    assert [step for _, step, _ in rollouts] == [4, 8]  # the second batch follows the first
    assert rollouts[0][2] == {
        "perf/steps_per_s": 9.0, "rollout/progression": 0.5, "rollout/failed_calls": 1.0,
    }  # fmt: skip
    assert tracker.closed


def test_heartbeats_go_on_while_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(record, "WRITE_EVERY_S", 0.01)
    with Board(tmp_path, "train") as board, board.stage("train"):
        first = read_status(tmp_path)["runs"][0]["heartbeat"]
        assert status_when(tmp_path, lambda status: status["runs"][0]["heartbeat"] > first)


def test_spend_adds_stages_architect_and_what_is_under_way(tmp_path):
    usage = {"calls": 5, "retries": 1, "failed": 0, "prompt_tokens": 100, "completion_tokens": 10}
    write_json(
        tmp_path / "usage.json",
        {"cost_usd": 0.2, "stages": {"evaluate": {"m": usage | {"cost_usd": 0.2}}}},
    )
    ledger = tmp_path / "evolve" / "ledger.jsonl"
    ledger.parent.mkdir()
    spend = {"dollars": 0.1, "prompt_tokens": 7, "completion_tokens": 3, "calls": 1}
    rows = [
        {"type": "charge", "key": "k", "what": "call", "spend": spend},
        {"type": "charge", "key": "e", "what": "episodes", "spend": {"episodes": 4, "dollars": 9}},
        {"type": "candidate", "verdict": "kept"},
    ]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pending = {"m": usage | {"cost_usd": None}}
    board = Board(tmp_path, "evaluate", usage=lambda: pending)
    with board, board.stage("evaluate"):
        status = status_when(tmp_path, lambda status: "" in status["spend"])
    assert status["spent"]["calls"] == 11 and status["spent"]["dollars"] == pytest.approx(0.3)
    assert set(status["spend"]) == {"evaluate", "", "architect"}
    assert status["evolve"] == {"charge": 2, "candidate kept": 1}
    assert "spent in all: 11 calls" in "\n".join(describe(status))


def events(folder):
    """What a TensorBoard event file holds: length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        found.append(Event.FromString(data[place + 12 : place + 12 + size]))
        place += size + 16
    return found


def test_tensorboard_files_hold_scalars_text_and_picture(tmp_path):
    tracker = TensorBoard(tmp_path)
    run = "evaluate/a/../b"
    for step in (5, 6):
        tracker.scalars(run, step, {"train/loss": 1.0 / step})
    tracker.text(run, "rollout/episode", f"# {HOSTILE}")
    tracker.image(run, "rollout/last_frame", np.zeros((4, 6, 3), np.uint8))
    tracker.close()
    assert [p.name for p in tmp_path.iterdir()] == ["evaluate"]  # nothing climbs out of it
    found = events(tmp_path / "evaluate" / "a" / "run" / "b")
    values = [(event.step, value) for event in found for value in event.summary.value]
    scalars = [(step, v.tag, v.simple_value) for step, v in values if v.tag == "train/loss"]
    assert scalars == [
        (5, "train/loss", pytest.approx(0.2)),
        (6, "train/loss", pytest.approx(1 / 6)),
    ]
    starts = [event.step for event in found if event.session_log.status]
    assert starts == [5]  # what a killed run wrote from here on does not count
    (text,) = [v.tensor.string_val[0].decode() for _, v in values if "episode" in v.tag]
    assert text.startswith("    # \u241b[31m")  # indented: a block as it is, no heading
    assert_inert(text)
    (image,) = [v.image for _, v in values if "last_frame" in v.tag]
    assert (image.height, image.width) == (4, 6)


class FakeWandb:
    """The few calls that are made, kept."""

    def __init__(self):
        self.calls, self.ids = [], set()

    def init(self, **options):
        self.options = options
        self.ids.add(options["id"])
        return self

    def define_metric(self, name, **options):
        self.calls.append((name, options))

    def log(self, row):
        self.calls.append(row)

    def Table(self, columns, data):
        return data

    def Image(self, picture):
        return picture.shape

    def finish(self):
        self.calls.append("finished")


def test_wandb_gets_an_axis_a_run_and_the_same_run_again(tmp_path, monkeypatch):
    from automem_jax.live.tracking import make_trackers

    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = TrackingConfig(tensorboard=False, wandb="offline", wandb_project="mine")
    for _ in range(2):
        (tracker,) = make_trackers(config, tmp_path, {"seed": 1})
        assert fake.options["resume"] == "allow"
        assert fake.options["mode"] == "offline" and fake.options["project"] == "mine"
    assert len(fake.ids) == 1  # the second command goes on with the first one's run
    tracker.scalars("train lineage/specialist", 3, {"train/loss": 0.5})
    tracker.text("evaluate/a", "rollout/episode", HOSTILE)
    tracker.close()
    run = "train_lineage/specialist"
    assert fake.calls[:3] == [
        (f"{run}/step", {"hidden": True}),
        (f"{run}/*", {"step_metric": f"{run}/step"}),
        {f"{run}/step": 3, f"{run}/train/loss": 0.5},
    ]
    assert_inert(str(fake.calls[3]))
    assert fake.calls[-1] == "finished"


def test_wandb_that_is_not_installed_is_said(tmp_path, monkeypatch):
    from automem_jax.live.tracking import make_trackers

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"automem_jax\[wandb\]"):
        make_trackers(TrackingConfig(wandb="offline"), tmp_path, {})
    assert make_trackers(TrackingConfig(tensorboard=False), tmp_path, {}) == []


def test_a_work_directory_begun_before_there_were_trackers_goes_on(tmp_path):
    from automem_jax.cli.flags import Experiment, record_config

    experiment = Experiment(ExperimentConfig(), tmp_path)
    record_config(experiment)
    path = tmp_path / "config.json"
    before = json.loads(path.read_text())
    del before["tracking"]
    path.write_text(json.dumps(before))
    record_config(experiment)
    other = dataclasses.replace(experiment.config, tracking=TrackingConfig(tensorboard=False))
    record_config(dataclasses.replace(experiment, config=other))
    with pytest.raises(ConfigError, match="seed"):
        record_config(dataclasses.replace(experiment, config=dataclasses.replace(other, seed=5)))
