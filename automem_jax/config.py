"""Experiment configuration: an ml_collections ConfigDict in, frozen dataclasses out.

Defaults live here and only here. A config file overrides what it names; an unknown key raises and
names its nearest match.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

import ml_collections


class ConfigError(ValueError):
    """A config holds an unknown key or a value of the wrong kind; the message names place and mend."""


@dataclass(frozen=True)
class EnvConfig:
    """Which environment and task. `name` is one of minihack, nethack, craftax_classic, craftax.

    `task` is a registered MiniHack id; the others have one task each: NetHackChallenge,
    Craftax-Classic and Craftax.

    `slots` episodes run at once; `workers` 0 steps engines in this process, N > 0 in N worker
    processes (a native crash then costs one episode). `max_steps` 0 keeps the task's own cap.
    A worker that takes longer than `step_timeout_s` over one step or reset counts as hung.

    NetHack and MiniHack: `prompt_mode` "hybrid" puts the terminal's map into the long text, as
    BALROG does for text agents, "language" leaves it out and tells the statistics instead;
    `numeric_distances` says "3 tiles" where BALROG says "near"; `autopickup` was on in the paper's
    runs and is off in BALROG. `levels_dir` holds Boxoban's level files, see envs.boxoban.
    """

    name: str = "minihack"
    task: str = "MiniHack-Memento-Short-F2-v0"
    slots: int = 64
    workers: int = 0
    max_steps: int = 100
    autopickup: bool = False
    prompt_mode: str = "hybrid"
    numeric_distances: bool = False
    levels_dir: str = ""
    step_timeout_s: float = 60.0


@dataclass(frozen=True)
class ModelConfig:
    """The decoder. `source` is a directory with config.json and safetensors, or the name of a model that is
    shipped or was fetched, see text.sources.

    `quantization` of the frozen base: none, int8 or nf4.
    """

    source: str = "embedded"
    dtype: str = "float32"
    quantization: str = "none"
    max_context: int = 256
    slots: int = 64


@dataclass(frozen=True)
class PolicyConfig:
    """Who answers requests: kind local, openai or anthropic.

    The key is read from the environment variable named by `api_key_env` (empty: OPENAI_API_KEY or
    ANTHROPIC_API_KEY, by kind), never from the config.
    `adapter_model` is the server's name for base + adapter (vLLM --lora-modules); empty: the
    base answers both roles. `timeout_s` bounds one try, from its first byte to its last.
    `prices` is a JSON file of prices in US dollars per million tokens, see policies.prices; empty:
    no money is counted.
    """

    kind: str = "local"
    base_url: str = ""
    model: str = ""
    adapter_model: str = ""
    api_key_env: str = ""
    timeout_s: float = 120.0
    max_retries: int = 5
    backoff_s: float = 1.0
    concurrency: int = 16
    max_tokens: int = 4096
    prices: str = ""


BASELINES = ("window", "window_cot")  # agents without memory

# How a server is reached, not what it answers: a run may go on with other values of these.
CONNECTION_FIELDS = (
    "base_url",
    "api_key_env",
    "timeout_s",
    "max_retries",
    "backoff_s",
    "concurrency",
    "prices",
)


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of the agent's models. max_tokens bounds one turn."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 48


@dataclass(frozen=True)
class AgentConfig:
    """`template` is a name in configs/templates or a path to a .py or .json template.

    `kind` memory is the agent with files; window and window_cot see the last `window` steps as a chat
    and have no memory (window_cot reasons before it acts). `carry_memory` lets the template's
    persistent files go on into the run's next episode; its episodes are then played one after the
    other, in the order of their seeds.
    """

    template: str = "memento_v0"
    kind: str = "memory"
    window: int = 16
    carry_memory: bool = False


@dataclass(frozen=True)
class SeedsConfig:
    """Disjoint ranges of environment seeds: first seed and how many, a set each.

    search: traces the architect reads; gate: keep-or-drop decisions; collect: training data of
    loop 2; heldout: the final evaluation, looked at once.
    """

    search_start: int = 10_000
    search: int = 64
    gate_start: int = 20_000
    gate: int = 128
    collect_start: int = 30_000
    collect: int = 256
    heldout_start: int = 42
    heldout: int = 128


@dataclass(frozen=True)
class GateConfig:
    """How a candidate template is judged on the gate seeds, see architect.gate.

    Pairs are added `batch` at a time, half as many where a candidate is nearly kept. It is dropped early
    where the mean difference is surely below `min_gain`, or its chance to be kept in the pairs left falls
    below `futility` (0: never).
    """

    batch: int = 8
    min_gain: float = 0.01
    futility: float = 0.1


@dataclass(frozen=True)
class BudgetConfig:
    """Caps of loop 1, 0 for none: US dollars and tokens of the servers asked, episodes, seconds."""

    dollars: float = 0.0
    tokens: int = 0
    episodes: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True)
class PriceConfig:
    """US dollars per million tokens of the architect's model; 0 input and output: not known.

    0 of the two cache prices means that of `input`.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float = 0.0
    cache_write: float = 0.0


@dataclass(frozen=True)
class ReviewConfig:
    """Bounds on one review of the api architect; 0 of tokens and seconds: none.

    turns: replies of the model. tokens: prompt and completion tokens of all its calls. seconds: waited
    for the server. tool_tokens: of one answer of a tool, which goes on page by page.
    """

    turns: int = 40
    tokens: int = 3_000_000
    seconds: float = 3_600.0
    tool_tokens: int = 4_000


@dataclass(frozen=True)
class ArchitectConfig:
    """Loop 1. `kind` catalog (offline, documented edits) or api (`api` says which server).

    `search` attempts: so many attempts a revision from the best template so far, fresh ones and their
    continuations in turn; population: as many proposals in all, from a pool of templates that win some
    seeds. All together a template without an effect is kept with a chance of 1 - `confidence` at most.
    `price` prices api.model where api.prices names no file. `replay` is a recorded conversation, or a
    directory of them (WORKDIR/evolve/conversations): the api architect then answers from it, without a
    network.
    """

    kind: str = "catalog"
    revisions: int = 1
    attempts: int = 3
    confidence: float = 0.95
    bootstrap_samples: int = 10_000
    search: str = "attempts"
    gate: GateConfig = field(default_factory=GateConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    price: PriceConfig = field(default_factory=PriceConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    replay: str = ""
    api: PolicyConfig = field(
        default_factory=lambda: PolicyConfig(kind="openai", max_tokens=16_384, timeout_s=600.0)
    )


@dataclass(frozen=True)
class SignalWeights:
    """What each signal's vote on a decision weighs; 0 leaves it out. See selection.combine."""

    lineage: float = 1.0
    followed: float = 0.5
    avoided_repeat: float = 0.25
    novelty: float = 0.0
    outcome: float = 0.0
    counterfactual: float = 0.0
    judge: float = 0.0
    surprise: float = 0.0


@dataclass(frozen=True)
class CounterfactualConfig:
    """Branching of episodes, where selection.weights.counterfactual is above 0; see rollout.branching.

    `decisions` are measured at most, the best by the other signals first and a share of `explore` by
    chance, each `continuations` times with and without it, until `max_calls` model calls (0: no limit).
    `alteration` drop or resample. `horizon` as for branching. An effect counts where its interval of
    `confidence` lies above 0.
    """

    decisions: int = 256
    continuations: int = 16
    confidence: float = 0.9
    horizon: int = 0
    alteration: str = "drop"
    explore: float = 0.1
    max_calls: int = 0


@dataclass(frozen=True)
class JudgeConfig:
    """An API model's ratings, where selection.weights.judge is above 0; see selection.judge.

    `decisions` are rated at most, `batch` in one call; `criteria` replaces what the judge is told to look
    for, if not empty.
    """

    decisions: int = 256
    batch: int = 8
    criteria: str = ""
    api: PolicyConfig = field(default_factory=lambda: PolicyConfig(kind="openai"))


@dataclass(frozen=True)
class SelectionConfig:
    """Loop 2's choice of decisions. `kind` is lineage, signals or random (the control).

    lineage: a decision's credit must reach `min_credit`, and lie `min_standard_errors` above zero where
    like lines were read in enough episodes to tell; see selection.credit.
    The control draws the same number of decisions with the same mix of phases.

    signals: every decision that no gate stops (`gates`: idle, redundant, contradicted) is voted on by
    the signals with `weights`; its score must reach `min_score`; see selection.combine. Progression counts
    up to `horizon` steps after a read (0: all), with `discount` a step. `max_near_copies` texts may have
    a word overlap of `near_copy` or more. Fewer than `min_examples` is an error.

    `workers` processes read the traces (0: by their size).
    """

    kind: str = "lineage"
    min_credit: float = 0.1
    min_standard_errors: float = 3.0
    max_examples: int = 512
    max_per_episode: int = 4
    max_repeats: int = 128
    seed: int = 0
    weights: SignalWeights = field(default_factory=SignalWeights)
    gates: tuple[str, ...] = ("idle", "redundant", "contradicted")
    min_score: float = 0.1
    horizon: int = 0
    discount: float = 0.99
    near_copy: float = 0.8
    max_near_copies: int = 128
    min_examples: int = 1
    counterfactual: CounterfactualConfig = field(default_factory=CounterfactualConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    workers: int = 0


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out. `fsdp` 0: what the other axes leave; the product is the device count.

    data: copies of everything, each with its own rows. fsdp: rows, and a share of every weight.
    tensor: shares of heads and hidden units. sequence: parts of a row. `slices`: how many times
    that lies side by side, connected by the data-centre network only (copies, as data).
    """

    data: int = 1
    fsdp: int = 0
    tensor: int = 1
    sequence: int = 1
    slices: int = 1


@dataclass(frozen=True)
class LoraConfig:
    """Adapter: rank, alpha, dropout, and targets "all_linear", "attention", "qv" or "mlp"."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all_linear"


@dataclass(frozen=True)
class TrainingConfig:
    """LoRA fine-tuning on selected decisions.

    `loss` is last_turn, all_assistant_turns or memory_ops. After a linear warm-up over `warmup` of
    all steps, `schedule` (cosine, linear, constant) rules. `checkpoint_every` counts optimizer steps;
    the last `keep_checkpoints` are kept, and the best.

    An optimizer step sees `batch_rows` rows of `row_tokens` tokens, in all; `microbatch_rows` of them
    at a time (0: all), as memory allows. `packing` is best_fit (rows as full as can be) or
    first_fit (in the order of the shuffle). Items of a row that begin with `share_prefix` equal
    tokens have them computed once; 0: never.

    `objective` sft, weighted_sft or dpo: see training.objectives. weighted_sft takes an example's weight
    from its `weight_signal`, by `weighting` linear or advantage (exp(signal / `weight_beta`)), at most
    `max_weight`: see training.weighting. dpo trains on pairs, with `dpo_beta`. `kl_weight` holds the
    specialist near the base on the tokens it is trained on; 0: nothing does.

    `heldout_share` of the episodes is held out and scored every `heldout_every` steps (0:
    with every checkpoint); the best adapter is kept. After `patience` scores that are no
    better than the best, training stops (0: never).

    `attention` auto, plain, chunked, splash or cudnn; `remat` none, full, attention, dots or offload:
    what the backward pass computes again, see models.settings; `loss_chunk`: labels of a row that are
    unembedded at a time.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    loss: str = "last_turn"
    objective: str = "sft"
    weight_signal: str = "weight"
    weighting: str = "linear"
    weight_beta: float = 0.5
    max_weight: float = 10.0
    dpo_beta: float = 0.1
    kl_weight: float = 0.0
    epochs: int = 4
    learning_rate: float = 5e-5
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    row_tokens: int = 512
    batch_rows: int = 4
    microbatch_rows: int = 0
    packing: str = "best_fit"
    share_prefix: int = 0
    heldout_share: float = 0.0
    heldout_every: int = 0
    patience: int = 0
    attention: str = "auto"
    remat: str = "none"
    loss_chunk: int = 512
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    seed: int = 0


@dataclass(frozen=True)
class RecipesConfig:
    """Loop 2's outer search, see recipes.search. `kind` local (priors, then steps from the best) or
    api (`api` says which server).

    At most `proposals` recipes are tried an iteration, in `rungs` trainings of growing length; `survivors`
    of them play the gate seeds. `validation_share` of the collected episodes scores recipes and trains
    none. `artifact_reads`: how many times an API architect may ask for artifacts of the ledger.
    Episodes for recipes that regenerate their data have seeds from `regenerate_start` on.
    """

    kind: str = "local"
    iterations: int = 2
    proposals: int = 4
    rungs: int = 2
    survivors: int = 1
    validation_share: float = 0.15
    regenerate_start: int = 50_000
    confidence: float = 0.95
    bootstrap_samples: int = 10_000
    artifact_reads: int = 4
    api: PolicyConfig = field(default_factory=lambda: PolicyConfig(kind="openai"))


@dataclass(frozen=True)
class OnlineConfig:
    """Online rounds after loop 2: the specialist collects, is selected from, and is trained on. 0: none.

    Round r plays `episodes` seeds from `first_seed` + (r - 1) * `episodes`. `kl_weight` guards drift while
    training; where the specialist has left the base by more than `max_kl` nats a memory token, the round is
    dropped and no other follows.
    """

    rounds: int = 0
    episodes: int = 64
    first_seed: int = 40_000
    kl_weight: float = 0.1
    max_kl: float = 2.0


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out evaluation. `arms` lists what is compared; see evaluation.evaluate. `baselines` adds
    agents without memory (window, window_cot) as arms of their own, so that memory's share shows."""

    arms: tuple[str, ...] = ("base_v0", "base_best", "specialist_best", "control_best")
    baselines: tuple[str, ...] = ()
    confidence: float = 0.95
    bootstrap_samples: int = 10_000


@dataclass(frozen=True)
class TrackingConfig:
    """Where a run's figures go besides WORKDIR; see live.tracking.

    `tensorboard` writes event files to WORKDIR/tensorboard. `wandb` is off, offline or online (`pip
    install 'automem_jax[wandb]'`), under `wandb_project`.
    """

    tensorboard: bool = True
    wandb: str = "off"
    wandb_project: str = "automem_jax"


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: everything a run depends on besides code and weights."""

    name: str = "experiment"
    seed: int = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    architect: ArchitectConfig = field(default_factory=ArchitectConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    recipes: RecipesConfig = field(default_factory=RecipesConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def default_config() -> ml_collections.ConfigDict:
    """A ConfigDict holding every field of ExperimentConfig at its default, for config files to edit."""
    return ml_collections.ConfigDict(dataclasses.asdict(ExperimentConfig()))


def from_config_dict(
    source: typing.Mapping[str, Any] | ml_collections.ConfigDict,
    cls: type | None = None,
    place: str = "config",
) -> Any:
    """Builds the frozen dataclass `cls` (ExperimentConfig unless given) from nested mappings.

    Raises:
      ConfigError: unknown key (the nearest match is named) or a value of the wrong kind.
    """
    cls = cls or ExperimentConfig
    if isinstance(source, ml_collections.ConfigDict):
        source = source.to_dict()
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in source.items():
        if key not in known:
            raise ConfigError(f"{place}.{key}: {unknown_key(key, known)}")
        values[key] = _convert(value, hints[key], f"{place}.{key}")
    return cls(**values)


def unknown_key(key: str, known: typing.Iterable[str]) -> str:
    """The phrase that tells a user that `key` does not exist, and what is nearest to it."""
    known = sorted(known)
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def _convert(value: Any, kind: Any, place: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not hasattr(value, "items"):
            raise ConfigError(
                f"{place}: expected a mapping with {kind.__name__}'s keys, got {value!r}"
            )
        return from_config_dict(value, kind, place)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{place}: expected a list, got {value!r}")
        inner = typing.get_args(kind)[0]
        if inner is str:  # a flag --config.x=a,b arrives as one text
            value = [p for v in value for p in (v.split(",") if isinstance(v, str) else [v])]
        return tuple(_convert(v, inner, f"{place}[{i}]") for i, v in enumerate(value))
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"{place}: expected {kind.__name__}, got {value!r} ({type(value).__name__})"
        )
    return value


def config_hash(config: Any) -> str:
    """First 16 hex digits of the SHA-256 of a config dataclass's canonical JSON."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_sets(seeds: SeedsConfig) -> dict[str, range]:
    """The four seed sets by name."""
    return {
        "search": range(seeds.search_start, seeds.search_start + seeds.search),
        "gate": range(seeds.gate_start, seeds.gate_start + seeds.gate),
        "collect": range(seeds.collect_start, seeds.collect_start + seeds.collect),
        "heldout": range(seeds.heldout_start, seeds.heldout_start + seeds.heldout),
    }


def shared_seeds(sets: typing.Mapping[str, range]) -> list[tuple[str, str, range]]:
    """Pairs of sets that share seeds, in the order of `sets`, with the seeds they share."""
    found = []
    for (a, first), (b, second) in itertools.combinations(sets.items(), 2):
        shared = range(max(first.start, second.start), min(first.stop, second.stop))
        if shared:
            found.append((a, b, shared))
    return found


def check(config: ExperimentConfig) -> None:
    """Raises ConfigError where fields contradict each other, naming both."""
    sets = seed_sets(config.seeds)
    for name, seeds in sets.items():
        if len(seeds) < 1 or seeds.start < 0:
            raise ConfigError(f"config.seeds.{name}: needs at least one seed from 0, got {seeds}")
    for first, second, shared in shared_seeds(dict(sorted(sets.items()))):
        raise ConfigError(
            f"config.seeds: {first} and {second} share seeds {shared.start}..{shared.stop - 1}; "
            "every set must be disjoint from the others"
        )
    for place, value, low in (
        ("env.slots", config.env.slots, 1),
        ("env.workers", config.env.workers, 0),
        ("agent.window", config.agent.window, 0),
        ("model.slots", config.model.slots, 1),
        ("model.max_context", config.model.max_context, 32),
        ("sampling.max_tokens", config.sampling.max_tokens, 1),
        ("architect.revisions", config.architect.revisions, 0),
        ("architect.attempts", config.architect.attempts, 1),
        ("architect.review.turns", config.architect.review.turns, 1),
        ("architect.review.tokens", config.architect.review.tokens, 0),
        ("architect.review.seconds", config.architect.review.seconds, 0),
        ("architect.review.tool_tokens", config.architect.review.tool_tokens, 500),
        ("architect.gate.batch", config.architect.gate.batch, 1),
        *(
            (f"architect.{part}.{name}", value, 0)
            for part in ("budget", "price")
            for name, value in dataclasses.asdict(getattr(config.architect, part)).items()
        ),
        ("training.epochs", config.training.epochs, 1),
        ("training.row_tokens", config.training.row_tokens, 16),
        ("training.batch_rows", config.training.batch_rows, 1),
        ("training.lora.rank", config.training.lora.rank, 1),
        ("training.microbatch_rows", config.training.microbatch_rows, 0),
        ("training.share_prefix", config.training.share_prefix, 0),
        ("training.heldout_every", config.training.heldout_every, 0),
        ("training.patience", config.training.patience, 0),
        ("training.loss_chunk", config.training.loss_chunk, 1),
        ("recipes.iterations", config.recipes.iterations, 1),
        ("recipes.proposals", config.recipes.proposals, 1),
        ("recipes.rungs", config.recipes.rungs, 1),
        ("recipes.survivors", config.recipes.survivors, 1),
        ("recipes.regenerate_start", config.recipes.regenerate_start, 0),
        ("recipes.artifact_reads", config.recipes.artifact_reads, 0),
        ("online.rounds", config.online.rounds, 0),
        ("online.episodes", config.online.episodes, 1),
        ("online.first_seed", config.online.first_seed, 0),
        ("training.checkpoint_every", config.training.checkpoint_every, 1),
        ("training.keep_checkpoints", config.training.keep_checkpoints, 1),
        ("training.mesh.data", config.training.mesh.data, 1),
        ("training.mesh.fsdp", config.training.mesh.fsdp, 0),
        ("training.mesh.tensor", config.training.mesh.tensor, 1),
        ("training.mesh.sequence", config.training.mesh.sequence, 1),
        ("training.mesh.slices", config.training.mesh.slices, 1),
        ("selection.max_examples", config.selection.max_examples, 1),
        ("selection.min_examples", config.selection.min_examples, 1),
        ("selection.max_near_copies", config.selection.max_near_copies, 1),
        ("selection.horizon", config.selection.horizon, 0),
        ("selection.workers", config.selection.workers, 0),
        (
            "selection.counterfactual.continuations",
            config.selection.counterfactual.continuations,
            1,
        ),
        ("selection.counterfactual.horizon", config.selection.counterfactual.horizon, 0),
        ("selection.judge.batch", config.selection.judge.batch, 1),
    ):
        if value < low:
            raise ConfigError(f"config.{place}: must be at least {low}, got {value}")
    for place, value, allowed in (
        ("env.prompt_mode", config.env.prompt_mode, ("hybrid", "language")),
        ("agent.kind", config.agent.kind, ("memory", *BASELINES)),
        *(("evaluation.baselines", kind, BASELINES) for kind in config.evaluation.baselines),
        ("model.quantization", config.model.quantization, ("none", "int8", "nf4")),
        ("tracking.wandb", config.tracking.wandb, ("off", "offline", "online")),
        ("policy.kind", config.policy.kind, ("local", "openai", "anthropic")),
        ("architect.kind", config.architect.kind, ("catalog", "api")),
        ("architect.search", config.architect.search, ("attempts", "population")),
        ("architect.api.kind", config.architect.api.kind, ("openai", "anthropic")),
        ("recipes.kind", config.recipes.kind, ("local", "api")),
        ("recipes.api.kind", config.recipes.api.kind, ("openai", "anthropic")),
        ("selection.kind", config.selection.kind, ("lineage", "signals", "random")),
        *(
            ("selection.gates", gate, ("idle", "redundant", "contradicted"))
            for gate in config.selection.gates
        ),
        (
            "selection.counterfactual.alteration",
            config.selection.counterfactual.alteration,
            ("drop", "resample"),
        ),
        ("selection.judge.api.kind", config.selection.judge.api.kind, ("openai", "anthropic")),
        ("training.loss", config.training.loss, ("last_turn", "all_assistant_turns", "memory_ops")),
        ("training.objective", config.training.objective, ("sft", "weighted_sft", "dpo")),
        ("training.weighting", config.training.weighting, ("linear", "advantage")),
        (
            "training.lora.targets",
            config.training.lora.targets,
            ("all_linear", "attention", "qv", "mlp"),
        ),
        ("training.schedule", config.training.schedule, ("cosine", "linear", "constant")),
        ("training.packing", config.training.packing, ("best_fit", "first_fit")),
        (
            "training.attention",
            config.training.attention,
            ("auto", "plain", "chunked", "splash", "cudnn"),
        ),
        (
            "training.remat",
            config.training.remat,
            ("none", "full", "attention", "dots", "offload"),
        ),
    ):
        if value not in allowed:
            raise ConfigError(f"config.{place}: {value!r} is none of {', '.join(allowed)}")
    if config.agent.carry_memory and config.agent.kind != "memory":
        raise ConfigError(
            f"config.agent: carry_memory needs kind 'memory', got {config.agent.kind!r}, which has none"
        )
    if len(set(config.evaluation.baselines)) < len(config.evaluation.baselines):
        raise ConfigError("config.evaluation.baselines: a kind is listed twice; list it once")
    if config.env.name != "minihack" and config.env.task.startswith("MiniHack"):
        own = {
            "nethack": "NetHackChallenge",
            "craftax_classic": "Craftax-Classic",
            "craftax": "Craftax",
        }
        raise ConfigError(
            f"config.env.task: {config.env.task!r} is no task of {config.env.name!r}; set env.task to "
            f"{own.get(config.env.name, 'its own name')!r}"
        )
    _check_selection(config.selection)
    if not 0.5 < config.architect.confidence < 1:
        raise ConfigError(
            f"config.architect.confidence: {config.architect.confidence} must lie between 0.5 and 1"
        )
    _check_training(config.training)
    _check_rounds(config, sets)
    if not 0 <= config.sampling.min_p < 1 or not 0 < config.sampling.top_p <= 1:
        raise ConfigError(
            f"config.sampling: top_p {config.sampling.top_p} must be in (0, 1], "
            f"min_p {config.sampling.min_p} in [0, 1)"
        )


def _check_rounds(config: ExperimentConfig, sets: dict[str, range]) -> None:
    if not 0 < config.recipes.validation_share < 1:
        raise ConfigError(
            f"config.recipes.validation_share: must be in (0, 1), got {config.recipes.validation_share}"
        )
    online = config.online
    if online.rounds:
        played = range(online.first_seed, online.first_seed + online.rounds * online.episodes)
        for first, second, shared in shared_seeds({"online": played, **sets}):
            raise ConfigError(
                f"config.online: its rounds play seeds {shared.start}..{shared.stop - 1} of "
                f"config.seeds.{second if first == 'online' else first}; move online.first_seed"
            )
    if online.kl_weight < 0 or online.max_kl <= 0:
        raise ConfigError("config.online: kl_weight must be at least 0, max_kl above 0")


def _check_selection(selection: SelectionConfig) -> None:
    if not 0 < selection.discount <= 1 or not 0 < selection.near_copy <= 1:
        raise ConfigError(
            f"config.selection: discount {selection.discount} and near_copy {selection.near_copy} must "
            "be in (0, 1]"
        )
    branching = selection.counterfactual
    if not 0 <= branching.explore <= 1 or not 0 < branching.confidence < 1:
        raise ConfigError(
            f"config.selection.counterfactual: explore {branching.explore} must be in [0, 1], "
            f"confidence {branching.confidence} in (0, 1)"
        )
    weights = dataclasses.asdict(selection.weights)
    if selection.kind == "signals" and not any(weights.values()):
        raise ConfigError("config.selection.weights: every weight is 0; give a signal one")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ConfigError(
                f"config.selection.weights.{name}: must be finite and at least 0, got {weight}"
            )


def _check_training(training: TrainingConfig) -> None:
    for place, value, below in (
        ("heldout_share", training.heldout_share, 1.0),
        ("lora.dropout", training.lora.dropout, 1.0),
    ):
        if not 0 <= value < below:
            raise ConfigError(f"config.training.{place}: must be in [0, {below:g}), got {value}")
    for place, value in (
        ("weight_beta", training.weight_beta),
        ("max_weight", training.max_weight),
        ("dpo_beta", training.dpo_beta),
    ):
        if not 0 < value < float("inf"):
            raise ConfigError(f"config.training.{place}: must be finite and above 0, got {value}")
    if not 0 <= training.kl_weight < float("inf"):
        raise ConfigError(
            f"config.training.kl_weight: must be finite and at least 0, got {training.kl_weight}"
        )
    if training.objective == "dpo" and training.loss == "all_assistant_turns":
        raise ConfigError(
            "config.training.loss: 'all_assistant_turns' trains on turns that both answers of a pair "
            "share; use 'last_turn' or 'memory_ops' with training.objective 'dpo'"
        )
    if training.patience and not training.heldout_share:
        raise ConfigError(
            f"config.training.patience: {training.patience} needs held-out items to watch; set "
            "training.heldout_share too"
        )
    if training.microbatch_rows and training.batch_rows % training.microbatch_rows:
        raise ConfigError(
            f"config.training.batch_rows: {training.batch_rows} is not a multiple of "
            f"training.microbatch_rows {training.microbatch_rows}"
        )
    if training.share_prefix and training.packing == "first_fit":
        raise ConfigError(
            "config.training.share_prefix: needs training.packing 'best_fit', which looks for "
            "common prefixes"
        )
