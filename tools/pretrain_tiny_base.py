"""Makes the shipped bases "embedded" and "embedded_f4" (weights, config, tokenizer, recipe).

    python tools/pretrain_tiny_base.py --out=automem_jax/models/assets
    python tools/pretrain_tiny_base.py --task=f4 --out=automem_jax/models/assets_f4

A scripted player (memento_player.py) plays MiniHack-Memento-Short-F2-v0 through the agent's own
protocol under many variants of the memento template, with mixed memory habits; a decoder of 0.6 M
parameters imitates it. With --task=f4 the embedded base goes on learning, from a player of
MiniHack-Memento-F4-v0. Seeded; minutes on 2 cores. `recipe.json` beside the weights records every
setting, and its hash is in the weights' own metadata. Run it again with the same settings and
versions and the same bytes come out on the same kind of machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import memento_player
import numpy as np
from absl import app, flags
from flax import nnx

from automem_jax import envs
from automem_jax.agent.agent import Agent, Decision
from automem_jax.agent.grammar import OPERATIONS
from automem_jax.agent.template import Template, from_data, load_template, to_data
from automem_jax.architect.catalog import show_file_in_plan
from automem_jax.config import EnvConfig, TrainingConfig
from automem_jax.evaluation.results import summarise
from automem_jax.files import write_atomically, write_json
from automem_jax.models.config import embedded
from automem_jax.models.decoder import BaseWeight, Decoder
from automem_jax.models.weights import base_hash, load_model, save_model
from automem_jax.policies.local import LocalPolicy
from automem_jax.progress import Progress
from automem_jax.rollout.engine import RolloutSpec, run_episodes
from automem_jax.text.chat import render_supervised
from automem_jax.text.messages import Completion, Message, SamplingSettings
from automem_jax.text.tokenizer import SentencePieceTokenizer
from automem_jax.training.data import packed_batches
from automem_jax.training.optimizer import make_optimizer
from automem_jax.training.packing import Item
from automem_jax.training.step import initial_state, make_train_step, partition

FLAGS = flags.FLAGS
flags.DEFINE_enum("task", "short", ["short", "f4"], "Which Memento the base is for.")
flags.DEFINE_string("out", "runs/tiny_base", "Where weights, tokenizer and recipe go.")
flags.DEFINE_integer("episodes", 0, "Overrides the recipe's number of scripted episodes.")
flags.DEFINE_integer("epochs", 0, "Overrides the recipe's number of epochs.")


# What a base must show: above chance, with memory that is neither absent nor good.
WANTED = {
    "short": {
        "progression": (0.57, 0.72),
        "cue_logged": (0.35, 0.55),
        "win_given_read": (0.95, 1.0),
        "shown_win_given_read": (0.95, 1.0),
    },
    "f4": {
        "progression": (0.3, 0.65),
        "cue_logged": (0.35, 0.6),
        "win_given_read": (0.9, 1.0),
        "shown_win_given_read": (0.9, 1.0),
    },
}
TOKENIZER = resources.files("automem_jax.models") / "assets" / "tokenizer.model"
PLAYERS = {
    "short": memento_player.MementoPlayer,
    "f4": memento_player.MementoF4Player,
}


@dataclass(frozen=True)
class Recipe:
    """Everything the shipped file depends on.

    Environment seeds `first_seed`... are apart from every set of the shipped configs. `keep_routine`
    is the share kept of conversations other than LOG in sight of the cue and PLAN at the fork and on the
    turn into an arm: most of an episode is the same walk. PLAN at the fork is learnt `fork_repeats`
    times. Both depend on phase and square alone, so the habits' frequencies stay as drawn. `start` is the
    model that goes on learning, with its tokenizer; empty: a fresh one. Measured with prompts of
    `max_context` tokens.
    """

    kind: str = "short"
    task: str = "MiniHack-Memento-Short-F2-v0"
    template: str = "memento_v0"
    start: str = ""
    max_steps: int = 30
    max_context: int = 256
    seed: int = 0
    first_seed: int = 1_000_000
    episodes: int = 7_000
    keep_routine: float = 0.12
    fork_repeats: int = 2
    habits: memento_player.Habits = field(default_factory=memento_player.Habits)
    vocab_size: int = 512
    measured_seed: int = 2_000_000
    measured_episodes: int = 512
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=2,
            learning_rate=3e-3,
            warmup=0.05,
            weight_decay=0.01,
            row_tokens=192,
            batch_rows=32,
        )
    )


RECIPES = {
    "short": Recipe(),
    "f4": Recipe(
        kind="f4",
        task="MiniHack-Memento-F4-v0",
        template="memento_f4_v0",
        start="embedded",
        max_steps=100,
        max_context=384,
        episodes=1_600,
        keep_routine=0.03,
        fork_repeats=8,
        measured_episodes=192,
        training=TrainingConfig(
            epochs=4,
            learning_rate=2e-3,
            warmup=0.05,
            weight_decay=0.01,
            row_tokens=256,
            batch_rows=24,
        ),
    ),
}


@dataclass(frozen=True)
class Conversation:
    """One phase's conversation; `learnt` holds the indices of the assistant messages with loss."""

    messages: tuple[Message, ...]
    learnt: tuple[int, ...]


def play(recipe: Recipe) -> list[Conversation]:
    """Scripted episodes, one template variant each; a conversation a phase."""
    env = envs.make(EnvConfig(task=recipe.task, slots=1, max_steps=recipe.max_steps))
    base = load_template(recipe.template)
    conversations = []
    with Progress("scripted episodes", recipe.episodes, "episodes") as progress:
        for index in range(recipe.episodes):
            rng = np.random.default_rng((recipe.seed, index))
            template, notes = vary(base, rng)
            player = PLAYERS[recipe.kind](recipe.habits, rng, notes)
            seed = recipe.first_seed + index
            for conversation, kind in play_episode(env, template, player, seed, recipe.task):
                if kind == "fork":
                    conversations += [conversation] * recipe.fork_repeats
                elif kind in ("cue", "turn") or rng.random() < recipe.keep_routine:
                    conversations.append(conversation)
            progress.update(index + 1, {"conversations": len(conversations)})
    env.close()
    return conversations


def vary(base: Template, rng: np.random.Generator) -> tuple[Template, str]:
    """A variant of the template, as an architect might write it, and its notes file's name.

    Four in ten episodes keep the template as it is. In the others, each with its own probability: the
    notes are shown in full or in part, in PLAN or in LOG, under one label or another; lines are not
    written twice; the file has another name; LOG runs on a change only; wording differs.
    """
    data = to_data(base)
    notes = "notes"
    if rng.random() < 0.4:
        return base, notes
    slots = [s for s in data["phases"]["plan"]["slots"] if s != "plan"]
    for phase, chance in (("plan", 0.75), ("log", 0.15)):
        if rng.random() < chance:
            view = "full" if rng.random() < 0.7 else f"tail:{rng.integers(1, 9)}"
            name = f"{phase}_notes"
            label = str(rng.choice(["notes: ", "notes:\n", "notes (full): "]))
            empty = str(rng.choice(["", "(empty)", "nothing"]))
            data["slots"][name] = {"file": notes, "view": view, "label": label, "empty": empty}
            at = int(rng.integers(0, len(slots) + 1))
            data["phases"][phase]["slots"] = [*slots[:at], name, *slots[at:], phase]
    if rng.random() < 0.4:
        data["files"][notes]["dedupe"] = str(rng.choice(["exact", "normalized"]))
    if rng.random() < 0.2:
        data["phases"]["plan"]["max_turns"] = int(rng.integers(2, 6))
    if rng.random() < 0.2:
        data["phases"]["log"]["max_turns"] = int(rng.integers(1, 4))
    if rng.random() < 0.2:
        data["text"]["plan"] = str(rng.choice(["plan: act", "plan: think of your notes"]))
    if rng.random() < 0.2:
        data["text"]["log"] = str(rng.choice(["log: done?", "log: write down what helps"]))
    if rng.random() < 0.15:
        data["files"] = {"memo": data["files"].pop(notes)}
        text = json.dumps(data["slots"]).replace(f'"file": "{notes}"', '"file": "memo"')
        data["slots"] = json.loads(text.replace("notes", "memo"))
        data["phases"] = json.loads(json.dumps(data["phases"]).replace("_notes", "_memo"))
        data["slots"] = {k.replace("_notes", "_memo"): v for k, v in data["slots"].items()}
        notes = "memo"
    return from_data(data), notes


def play_episode(
    env, template: Template, player: memento_player.MementoPlayer, seed: int, task: str
) -> Iterator[tuple[Conversation, str]]:
    """Every phase's conversation of one episode, and which it is: "cue", "fork", "turn" or "routine"."""
    agent = Agent(
        template,
        SamplingSettings(),
        episode=seed,
        two_model=False,
        instructions=env.instructions,
        task=task,
    )
    percept = env.reset([0], [seed])[0]
    while not percept.done:
        if player.skips(percept):
            percept = env.step({0: "east"})[0]
            continue
        out = agent.observe(percept)
        talks: dict[str, tuple[tuple[Message, ...], list[int]]] = {}
        while not isinstance(out, Decision):
            answer = player.answer(out, percept)
            messages = (*out.messages, Message("assistant", answer.text))
            learnt = talks[out.key.phase][1] if out.key.phase in talks else []
            learnt += [len(messages) - 1] * answer.learnt
            talks[out.key.phase] = messages, learnt
            out = agent.receive(Completion(answer.text))
        in_sight = bool(player.cue(percept.fields["language"]))
        for phase, (messages, learnt) in talks.items():
            if learnt:
                kind = "cue" if phase == "log" and in_sight else "routine"
                if phase == "plan" and (player.at_fork or player.turning):
                    kind = "fork" if player.at_fork else "turn"
                yield Conversation(messages, tuple(learnt)), kind
        percept = env.step({0: out.action})[0]


def train_tokenizer(recipe: Recipe, conversations: Sequence[Conversation], path: Path) -> None:
    """A BPE SentencePiece model over the conversations' text; byte fallback covers the rest."""
    import sentencepiece

    rng = np.random.default_rng(recipe.seed)
    texts = [m.content for c in conversations for m in c.messages]
    chosen = [texts[i] for i in rng.permutation(len(texts))[:20_000]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in chosen for line in text.split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=recipe.vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        control_symbols=["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        user_defined_symbols=["\n", *_tags()],
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        split_by_whitespace=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    write_atomically(path, model.getvalue())


def _tags() -> list[str]:
    return [f"<|{name}|>" for name in ("END", "DONE", "ACTION", *OPERATIONS)]


def tokenise(conversations: Sequence[Conversation], tokenizer) -> list[Item]:
    """Items with loss on what the player's script said, each with its end-of-turn token."""
    items = []
    for conversation in conversations:
        spans = [(i, 0, len(conversation.messages[i].content)) for i in conversation.learnt]
        ids, weights = render_supervised(conversation.messages, tokenizer, spans)
        items.append(Item(np.asarray(ids, np.int32), np.asarray(weights, np.float32)))
    return items


def pretrain(recipe: Recipe, items: Sequence[Item], tokenizer) -> Decoder:
    """Trains a decoder on the items."""
    training = recipe.training
    if recipe.start:
        model = load_model(recipe.start)[0]
    else:
        model = Decoder(embedded(tokenizer.vocab_size), rngs=nnx.Rngs(params=recipe.seed))
    parts = partition(model, trainable=BaseWeight, frozen=nnx.LoRAParam, adapter=None)
    batches = packed_batches(
        items,
        row_tokens=training.row_tokens,
        batch_rows=training.batch_rows,
        epochs=training.epochs,
        seed=recipe.seed,
        pad_id=tokenizer.pad_id,
        packing="first_fit",
    )
    optimizer = make_optimizer(training, len(batches))
    state, step = initial_state(parts, optimizer), make_train_step(parts, optimizer)
    losses = []
    with Progress("pretraining", len(batches), "steps") as progress:
        for index, batch in enumerate(batches):
            state, figures = step(state, batch)
            losses.append(float(figures["loss"]))
            progress.update(index + 1, {"loss": float(np.mean(losses[-50:]))})
    parts.install(model, state.params)
    return model


def main(_) -> None:
    recipe = RECIPES[FLAGS.task]
    if FLAGS.episodes:
        recipe = dataclasses.replace(recipe, episodes=FLAGS.episodes)
    if FLAGS.epochs:
        training = dataclasses.replace(recipe.training, epochs=FLAGS.epochs)
        recipe = dataclasses.replace(recipe, training=training)
    out = Path(FLAGS.out)
    started = time.monotonic()
    conversations = play(recipe)
    print(f"{len(conversations)} conversations in {time.monotonic() - started:.0f} s")
    if recipe.start:
        write_atomically(out / "tokenizer.model", TOKENIZER.read_bytes())
    else:
        train_tokenizer(recipe, conversations, out / "tokenizer.model")
    tokenizer = SentencePieceTokenizer(out / "tokenizer.model")
    items = tokenise(conversations, tokenizer)
    lengths = np.array([len(item) for item in items])
    print(
        f"tokens a conversation: mean {lengths.mean():.0f}, max {lengths.max()}; {lengths.sum():,} in all"
    )
    model = pretrain(recipe, items, tokenizer)
    save_model(model, out, {"recipe_sha256": recipe_hash(recipe)})
    content = {"sha256": recipe_hash(recipe), "recipe": dataclasses.asdict(recipe)}
    content["base_hash"] = base_hash(model)
    content["measured"] = measure(recipe, model, tokenizer, out)
    write_json(out / "recipe.json", content)
    print(json.dumps(content["measured"], indent=1))
    for name, (low, high) in WANTED[recipe.kind].items():
        if not low <= content["measured"][name] <= high:
            raise SystemExit(f"do not ship this base: {name} is outside {low}..{high}; see Recipe")
    print(f"base {content['base_hash'][:16]} in {out}, {time.monotonic() - started:.0f} s in all")


def measure(recipe: Recipe, model: Decoder, tokenizer, workdir: Path) -> dict[str, float]:
    """Habits and skill of the base on seeds it never saw.

    Under the unchanged template, and with PLAN showing the notes in full ("shown_...").
    """
    policy = LocalPolicy(
        model, tokenizer, slots=64, max_context=recipe.max_context, run_seed=recipe.seed
    )
    env = envs.make(EnvConfig(task=recipe.task, slots=64, max_steps=recipe.max_steps))
    seeds = range(recipe.measured_seed, recipe.measured_seed + recipe.measured_episodes)
    plain = load_template(recipe.template)
    shown = from_data(show_file_in_plan(to_data(plain), "notes"))
    figures = {}
    for prefix, template in (("", plain), ("shown_", shown)):
        spec = RolloutSpec(
            env_name="minihack",
            task=recipe.task,
            template=template,
            arm="base",
            run_seed=recipe.seed,
            sampling=SamplingSettings(min_p=0.03, max_tokens=32),
            two_model=False,
            behaviour_hash="",
        )
        with tempfile.TemporaryDirectory(dir=workdir) as directory:
            run_episodes(env, policy, spec, seeds, Path(directory))
            arm = summarise({"base": directory})["arms"]["base"]
        figures[f"{prefix}progression"] = arm["mean"]
        for name in ("cue_logged", "cue_read", "win_given_read", "win_given_not_read"):
            figures[prefix + name] = arm["cue"][name]
    env.close()
    return figures


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 hex of the recipe's settings and of the two scripts that carry it out."""
    here = Path(__file__).parent
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    for name in ("memento_player.py", "pretrain_tiny_base.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    app.run(main)
