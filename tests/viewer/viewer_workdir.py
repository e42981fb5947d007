"""A small work directory: two runs of one seed, played by the agent itself, with hostile text in both."""

import dataclasses

from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.template import load_template
from automem_jax.testing import ScriptedPolicy, ToyEnv
from automem_jax.text.messages import Completion, SamplingSettings
from automem_jax.traces.store import TraceWriter

HOSTILE = (
    '<script>window.owned = 1</script><img src=x onerror="window.owned = 1">'
    "</script></pre></style>javascript:window.owned=1 \x1b[31mred\x1b]0;title\x07 \u202ereversed"
)
STEPS = 50
FAILURES = (7, 23, 41)  # steps whose reply asks for a file that there is none of
LEFT_AT = 30  # from here on the two runs act differently


class HostileEnv(ToyEnv):
    """Says hostile things in every observation."""

    def _percept(self, seed, position, step, *rest):
        percept = super()._percept(seed, position, step, *rest)
        text = f"{percept.long_text}\nstep {step}: {HOSTILE}"
        fields = {**percept.fields, "map": f"-----\n|.@.|\n|{step % 10}<d|\n-----"}
        return dataclasses.replace(percept, long_text=text, fields=fields)


def answer(arm):
    def reply(request):
        t, turn = request.key.step, request.key.turn
        if request.key.phase == "log":
            if t % 5 == 1:
                return f"<|APPEND|>notes|note {t} caf\u00e9 \U0001f511 {HOSTILE}<|END|><|DONE|>"
            return "<|DONE|>"
        if turn == 0 and t in FAILURES:
            return "\U0001f600 <|READ|>missing<|END|>"
        if turn == 0 and t % 7 == 2:
            return "<|READ|>notes<|END|>"
        if t == STEPS - 1:
            return Completion("", error="the endpoint answered 500")
        return f"<|ACTION|>{'forward' if arm == 'base_v0' and t >= LEFT_AT else 'wait'}<|END|>"

    return reply


def play(directory, arm, seed, steps=STEPS, finish=True):
    env, policy = HostileEnv(length=1000, max_steps=10_000), ScriptedPolicy(answer(arm))
    agent = Agent(
        load_template("memento_v0"),
        SamplingSettings(),
        episode=seed,
        two_model=False,
        instructions=env.instructions,
    )
    percept = env.reset([0], [seed])[0]
    header = {
        "env": "toy",
        "task": "Toy",
        "seed": seed,
        "arm": arm,
        "template": {"id": "memento_v0"},
    }
    with TraceWriter(directory, f"Toy-{seed}", header) as writer:
        for _ in range(steps):
            out = agent.observe(percept)
            while not isinstance(out, Decision):
                out = agent.receive(policy.complete([out])[0])
            writer.step(out.record)
            percept = env.step({0: out.action})[0]
        if finish:
            writer.end(agent.end_record(percept))
    return writer


def make(workdir):
    """Writes it; the runs are evaluate/base_v0 and evaluate/specialist_best."""
    for arm in ("base_v0", "specialist_best"):
        for seed in (42, 43):
            play(workdir / "traces" / "evaluate" / arm, arm, seed)
    return workdir
