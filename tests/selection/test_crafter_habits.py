"""A scripted player of Crafter whose habits are known: the best decile by signal is its good ones."""

import random
import re

import pytest

from automem_jax import envs
from automem_jax.agent.template import load_template
from automem_jax.config import EnvConfig, SelectionConfig
from automem_jax.rollout.branching import BranchPoint, BranchSettings, measure
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.selection.by_signals import score
from automem_jax.selection.examples import scan_signals
from automem_jax.testing import ScriptedPolicy
from automem_jax.text.messages import SamplingSettings

EPISODES, STEPS = 8, 160
GOALS = {"tree": "wood", "water": "", "cow": "", "grass": "sapling"}  # what is met -> what it gives
MOVES = {"north": "Move North", "south": "Move South", "east": "Move East", "west": "Move West"}
FOLLOWED_STEPS = 14


class Player:
    """Wanders until a note tells it what to do.

    Good habits: it notes a goal when it sees what that needs, looks the note up soon after, and follows
    it; nothing else than a followed note brings it anywhere on purpose. Bad habits: lines of no use that
    are never read, lines written twice, false claims on the inventory, searches that find nothing.
    `good` holds the keys of the good decisions, `bad` of the others.
    """

    def __init__(self) -> None:
        self.good: set[tuple] = set()
        self.bad: set[tuple] = set()
        self._noted: dict[int, dict[str, int]] = {}
        self._done: dict[int, set[str]] = {}
        self._following: dict[int, tuple[str, int]] = {}

    def answer(self, request) -> str:
        key = request.key
        text = request.messages[1].content
        rng = random.Random(f"{key.episode} {key.step} {key.phase} {key.turn}")
        name = (f"Craftax-Classic-{key.episode}", key.step, key.phase, key.turn)
        if key.phase == "log":
            return self._log(key, text, rng, name)
        return self._plan(key, request, text, rng, name)

    def _log(self, key, text, rng, name) -> str:
        if key.turn:
            return "<|DONE|>"
        noted = self._noted.setdefault(key.episode, {})
        new = [g for g in GOALS if g not in noted and _place(text, g) is not None]
        if new and rng.random() < 0.3:
            noted[new[0]] = key.step
            self.good.add(name)
            return _op("APPEND", f"goals|next goal: go to {new[0]} and use it") + "<|DONE|>"
        if rng.random() < 0.15:
            self.bad.add(name)
            line = rng.choice(
                [
                    f"journal|walked around at step {key.step}",
                    "journal|this is a nice place to be",
                    f"journal|wood: {rng.randint(20, 90)}, stone: {rng.randint(20, 90)}, health: 99",
                    f"journal|felt {rng.choice(('fine', 'bored', 'lost'))} at step {key.step}",
                ]
            )
            return _op("APPEND", line) + "<|DONE|>"
        return "<|DONE|>"

    def _plan(self, key, request, text, rng, name) -> str:
        episode = key.episode
        noted, done = self._noted.get(episode, {}), self._done.setdefault(episode, set())
        goal, since = self._following.get(episode, ("", -99))
        if key.turn == 0 and key.step - since > FOLLOWED_STEPS:
            waiting = [g for g, t in noted.items() if g not in done and _place(text, g) is not None]
            if waiting and rng.random() < 0.6:
                self._following[episode] = waiting[0], key.step
                done.add(waiting[0])
                self.good.add(name)
                return _op("SEARCH", f"goals|{waiting[0]}")
            if rng.random() < 0.05:
                self.bad.add(name)
                return _op("SEARCH", f"journal|{rng.choice(('dragon', 'castle', 'princess'))}")
        if goal and key.step - since <= FOLLOWED_STEPS:
            return _act(_towards(text, goal, rng))
        return _act(rng.choice(list(MOVES.values())))


def _op(op: str, args: str) -> str:
    return f"<|{op}|>{args}<|END|>"


def _act(name: str) -> str:
    return f"<|ACTION|>{name}<|END|>"


def _place(text: str, thing: str) -> str | None:
    if f"You face {thing} at" in text:
        return ""
    found = re.search(rf"- {thing} \d+ steps? to your ([a-z-]+)", text)
    return found.group(1) if found else None


def _towards(text: str, thing: str, rng: random.Random) -> str:
    place = _place(text, thing)
    if place == "":
        return "Do"
    if place is None or rng.random() < 0.15:
        return rng.choice(list(MOVES.values()))
    return MOVES[rng.choice(place.split("-"))]


CONFIG = EnvConfig(name="craftax_classic", task="Craftax-Classic", slots=EPISODES, max_steps=STEPS)
SPEC = RolloutSpec(
    env_name="craftax_classic",
    task="Craftax-Classic",
    template=load_template("crafter_v0"),
    arm="base",
    run_seed=0,
    sampling=SamplingSettings(),
    two_model=False,
    behaviour_hash="0" * 16,
)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    player, env = Player(), envs.make(CONFIG)
    folder = tmp_path_factory.mktemp("crafter")
    policy = ScriptedPolicy(player.answer)
    paths = run_episodes(env, policy, SPEC, range(EPISODES), folder, show_progress=False).paths
    env.close()
    return paths, player


def test_the_top_decile_is_made_of_good_habits(played):
    paths, player = played
    config = SelectionConfig(kind="signals", horizon=30)
    scored = score(scan_signals(paths, config), config)
    known = [one for one in scored if one.name in player.good | player.bad]
    assert len(known) == len(scored) >= 80
    share = sum(one.name in player.good for one in known) / len(known)
    assert 0.1 < share < 0.6  # chance would do no better
    ranked = sorted(known, key=lambda one: (one.reason is None, one.score), reverse=True)
    decile = ranked[: max(1, len(ranked) // 10)]
    precision = sum(one.name in player.good for one in decile) / len(decile)
    print(f"{len(known)} decisions, {share:.2f} good, precision of the top decile {precision:.2f}")
    assert precision >= 0.9
    kept = [one for one in known if one.reason is None]
    assert sum(one.name in player.bad for one in kept) <= 0.1 * len(kept)


def test_its_decisions_can_be_branched_from_a_copy_of_the_world(played, tmp_path):
    """A player that stands still and never reads: no note is worth anything to it."""
    paths, player = played
    seed, t, phase, turn = min((name[0], *name[1:]) for name in player.good if name[2] == "log")
    path = next(path for path in paths if path.stem == seed)
    still = ScriptedPolicy(
        lambda r: "<|DONE|>" if r.key.phase == "log" else "<|ACTION|>Noop<|END|>"
    )
    env = envs.make(CONFIG)
    points = [
        BranchPoint(str(path), t, phase, turn, alteration) for alteration in ("drop", "resample")
    ]
    rows = measure(
        env, still, SPEC, points, tmp_path / "t.jsonl", BranchSettings(continuations=2, horizon=6)
    ).rows
    env.close()
    assert [row["broken"] for row in rows] == [0, 0]
    assert all(row["as_was"] == row["altered"] and len(row["as_was"]) == 2 for row in rows)
