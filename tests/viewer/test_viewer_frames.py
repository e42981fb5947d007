"""Pictures come from playing an episode again, and only where that gives what was recorded."""

import io
import json

import pytest

from automem_jax import envs
from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.template import load_template
from automem_jax.config import EnvConfig
from automem_jax.testing import ScriptedPolicy
from automem_jax.text.messages import SamplingSettings
from automem_jax.traces.store import TraceWriter
from automem_jax.viewer.frames import FramePlayer, NoFrame, env_settings
from automem_jax.viewer.library import Library

SETTINGS = EnvConfig(slots=1)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Four steps of a real game."""
    workdir = tmp_path_factory.mktemp("frames")
    env = envs.make(SETTINGS)
    policy = ScriptedPolicy(lambda request: "<|ACTION|>east<|END|>")
    agent = Agent(
        load_template("memento_v0"),
        SamplingSettings(),
        episode=5,
        two_model=False,
        instructions=env.instructions,
    )
    percept = env.reset([0], [5])[0]
    header = {"env": SETTINGS.name, "task": SETTINGS.task, "seed": 5}
    with TraceWriter(workdir / "traces", "game-5", header) as writer:
        for _ in range(4):
            out = agent.observe(percept)
            while not isinstance(out, Decision):
                out = agent.receive(policy.complete([out])[0])
            writer.step(out.record)
            percept = env.step({0: out.action})[0]
        writer.end(agent.end_record(percept))
    env.close()
    other = {"name": SETTINGS.name, "prompt_mode": SETTINGS.prompt_mode, "slots": 64, "gone": 1}
    (workdir / "config.json").write_text(json.dumps({"env": other}))
    return workdir


def test_pictures_in_any_order(workdir):
    from PIL import Image

    library = Library(workdir)
    (episode,) = library.refresh()
    pictures = {step: library.frame(episode.id, step)[0] for step in (3, 0, 4, 1)}
    for picture in pictures.values():
        image = Image.open(io.BytesIO(picture))
        assert image.format == "PNG" and image.width > 100
    assert len(set(pictures.values())) == 4  # the walker is elsewhere in each
    assert library.frame(episode.id, 3)[0] == pictures[3]
    with pytest.raises(NoFrame, match="5 observations"):
        library.frame(episode.id, 99)
    library.close()


def test_a_replay_that_differs_shows_nothing(workdir, tmp_path):
    (path,) = (workdir / "traces").glob("*.jsonl")
    header, *rest = path.read_text().splitlines()
    changed = tmp_path / "game-6.jsonl"
    changed.write_text("\n".join([json.dumps({**json.loads(header), "seed": 6}), *rest]) + "\n")
    player = FramePlayer(changed, env_settings({"env": SETTINGS.name, "task": SETTINGS.task}, None))
    with pytest.raises(NoFrame, match="differs from the record at step 0"):
        player.frame(2)
    player.close()
    with pytest.raises(NoFrame):
        player.frame(1)


def test_what_cannot_be_played_is_told(workdir, tmp_path):
    with pytest.raises(NoFrame, match="'toy' is no environment"):
        env_settings({"env": "toy"}, None)
    player = FramePlayer(tmp_path / "none.jsonl", {})
    with pytest.raises(NoFrame, match="cannot be played here"):
        player.frame(0)
    player.close()
