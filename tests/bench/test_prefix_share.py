"""The share of prompt tokens that an earlier prompt of the same role begins with."""

import random

import pytest

from automem_jax.agent.template import load_template
from automem_jax.bench.prefix_share import prefix_share, prompts_share
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.testing import ScriptedPlayer, ToyEnv
from automem_jax.text.messages import Message, SamplingSettings
from automem_jax.traces.store import read_trace


def words(text):
    return text.split()


def prompt(role, system, *rest):
    roles = ("user", "assistant") * len(rest)
    talk = [Message(r, text) for r, text in zip(roles, rest, strict=False)]
    return role, (Message("system", system), *talk)


def test_hand_made_prompts():
    found = prompts_share(
        [
            prompt("memory", "a b c", "d e"),  # 7 tokens with two openings, nothing before it
            prompt("memory", "a b c", "d x"),  # 6 of 7: all but x
            prompt("gameplay", "a b c", "d e"),  # another role: nothing
            prompt("memory", "a b c", "d e", "f", "g"),  # 7 of 11: continues the first
            prompt("memory", "a b c", "d e", "f", "h"),  # 10 of 11
            prompt("memory", "z"),  # an opening alone
        ],
        words,
    )
    assert found.tokens == {"memory": 7 + 7 + 11 + 11 + 2, "gameplay": 7}
    assert found.shared == {"memory": 6 + 7 + 10 + 1, "gameplay": 0}
    assert found.share("memory") == 24 / 38 and found.share("gameplay") == 0
    assert found.share() == 24 / 45 and found.share("nobody") is None
    assert found.prompts == {"memory": 5, "gameplay": 1}


def test_the_best_match_of_all_earlier_prompts_counts():
    rng = random.Random(1)
    prompts = [
        prompt("memory", " ".join(rng.choice("ab") for _ in range(rng.randint(1, 9))))
        for _ in range(200)
    ]
    brute, seen = 0, []
    for _, messages in prompts:
        tokens = ["system", *words(messages[0].content)]
        common = [
            next((i for i, (a, b) in enumerate(zip(tokens, s, strict=False)) if a != b), None)
            or min(len(tokens), len(s))
            for s in seen
        ]
        brute += max(common, default=0)
        seen.append(tokens)
    assert prompts_share(prompts, words).shared["memory"] == brute


@pytest.mark.parametrize("name", ["crafter_v0", "minihack_v0"])
def test_constant_parts_come_first_in_a_played_episode(tmp_path, name):
    """Prompts of an episode begin as earlier ones did: with all that does not change."""
    template, env = load_template(name), ToyEnv(length=60, max_steps=40)
    spec = RolloutSpec(
        env_name="toy",
        task="toy",
        template=template,
        arm="base",
        run_seed=0,
        sampling=SamplingSettings(),
        two_model=False,
        behaviour_hash="0" * 16,
    )
    player = ScriptedPlayer(template, env.actions)
    result = run_episodes(env, player, spec, [0], tmp_path, show_progress=False)
    trace = read_trace(result.paths[0])
    share = prefix_share(trace)
    assert share.share("memory") > 0.6 and share.share("gameplay") > 0.6
    first, second = (
        next(p for p in step.phases if p.phase == "plan").turns[0].messages
        for step in trace.steps[1:3]
    )
    assert first[0] == second[0]  # the system message holds nothing that changes
