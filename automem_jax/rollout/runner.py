"""Builds environment, model and policies of an experiment once, and runs episodes with them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automem_jax.agent.template import Template
from automem_jax.config import ExperimentConfig, MeshConfig
from automem_jax.policies.base import Policy
from automem_jax.policies.prices import ModelUsage
from automem_jax.progress import Progress
from automem_jax.rollout.branching import (
    BranchPoint,
    BranchResult,
    BranchSettings,
    measure,
    table_name,
)
from automem_jax.rollout.engine import MakeProgress, RolloutResult, RolloutSpec, run_episodes
from automem_jax.text.messages import SamplingSettings

if TYPE_CHECKING:
    from jax.sharding import Mesh

_NOT_BEHAVIOUR = ("slots", "workers", "step_timeout_s", "levels_dir")  # of EnvConfig
SERVED = Path("served")  # the specialist is base + adapter on the policy's server


class Runner:
    """Holds what is costly to build (engines, weights, compiled functions) between stages.

    Everything is built on first use, so that a stage that plays nothing starts at once.
    """

    def __init__(self, config: ExperimentConfig, progress: MakeProgress = Progress):
        """`progress` makes what shows how far a rollout is."""
        self.config, self._progress = config, progress
        self._env = None
        self._model = None
        self._tokenizer = None
        self._policies: dict[str | None, Policy] = {}

    @property
    def env(self):
        if self._env is None:
            from automem_jax import envs

            self._env = envs.make(self.config.env)
        return self._env

    @property
    def tokenizer(self):
        if self._tokenizer is None:
            from automem_jax.text.tokenizer import load_tokenizer

            self._tokenizer = load_tokenizer(self.config.model.source)
        return self._tokenizer

    @property
    def model(self):
        """The frozen base with its adapter slot; loaded once, shared by every policy and by training."""
        if self._model is None:
            from automem_jax.models.weights import load_model

            model = self.config.model
            quantization = None if model.quantization == "none" else model.quantization
            self._model = load_model(
                model.source,
                model.dtype,
                weights_mesh(self.config.training.mesh),
                quantization=quantization,
            )[0]
        return self._model

    def policy(self, adapter: Path | None = None) -> Policy:
        """The policy of the config, with the adapter file as its memory specialist if given."""
        key = None if adapter is None else str(adapter)
        if key not in self._policies:
            self._policies[key] = self._make_policy(adapter)
        return self._policies[key]

    def release(self, adapter: Path) -> None:
        """Frees the policy of an adapter that is not played any more; what it was asked is forgotten."""
        policy = self._policies.pop(str(adapter), None)
        if policy is not None:
            policy.close()

    def _make_policy(self, adapter: Path | None) -> Policy:
        config = self.config.policy
        if config.kind == "local":
            from automem_jax.models.lora import load_adapter
            from automem_jax.policies.local import LocalPolicy

            return LocalPolicy(
                self.model,
                self.tokenizer,
                slots=self.config.model.slots,
                max_context=self.config.model.max_context,
                run_seed=self.config.seed,
                adapter=None if adapter is None else load_adapter(adapter),
                mesh=weights_mesh(self.config.training.mesh),
            )
        if adapter not in (None, SERVED):
            raise ValueError(
                f"policy.kind {config.kind!r} serves its adapter itself; name it in "
                "policy.adapter_model instead of a local adapter file"
            )
        if adapter is None:
            config = dataclasses.replace(config, adapter_model="")
        if config.kind == "openai":
            from automem_jax.policies.openai import OpenAIPolicy

            return OpenAIPolicy(config, seed=self.config.seed)
        if config.kind == "anthropic":
            from automem_jax.policies.anthropic import AnthropicPolicy

            return AnthropicPolicy(config, seed=self.config.seed)
        raise ValueError(f"policy.kind {config.kind!r} is none of local, openai, anthropic")

    def run(
        self,
        arm: str,
        template: Template,
        seeds: Sequence[int],
        out_dir: Path,
        *,
        adapter: Path | None = None,
        kind: str = "",
        policy: Policy | None = None,
    ) -> RolloutResult:
        """Plays one episode a seed under `template`; finished episodes in `out_dir` are kept.

        Args:
          adapter: the memory specialist: an adapter file, or SERVED for a server's
            policy.adapter_model. None plays the base alone.
          kind: of agent; "" for the config's agent.kind.
          policy: answers in place of the config's own.
        """
        spec = self._spec(arm, template, adapter, kind)
        result = run_episodes(
            self.env,
            policy or self.policy(adapter),
            spec,
            seeds,
            out_dir,
            progress=self._progress,
            **self._prompt_limits(),
        )
        if result.completion_errors:
            print(
                f"warning: arm {arm!r}: failed model calls: {result.completion_errors}, in "
                f"{result.failed_episodes} of {result.new_episodes} episodes, which are listed as "
                f"failed (delete their traces in {out_dir} to play them again); first: "
                f"{result.first_error}",
                file=sys.stderr,
            )
        if result.broken_environments:
            print(
                f"warning: arm {arm!r}: in {result.broken_environments} of {result.new_episodes} "
                "episodes the environment broke; they count at the progression they reached; first: "
                f"{result.first_break}",
                file=sys.stderr,
            )
        return result

    def branch(
        self,
        template: Template,
        points: Sequence[BranchPoint],
        settings: BranchSettings,
        folder: Path,
    ) -> tuple[Path, BranchResult]:
        """Measures decisions of the base's traces under `template` by branching their episodes.

        Returns:
          The table in `folder`, named by all that its figures depend on, and what is in it.
        """
        spec, policy = self._spec("", template, None, "memory"), self.policy()
        table = folder / table_name(policy, spec, settings)
        with self._progress("counterfactual", max(1, len(points)), "decisions") as bar:
            result = measure(
                self.env,
                policy,
                spec,
                points,
                table,
                settings,
                progress=lambda done, total: bar.update(done, {}),
                **self._prompt_limits(),
            )
        return table, result

    def hold(self, name: str, policy: Policy) -> Policy:
        """Keeps a policy that is asked beside the episodes': its usage is counted, and it is closed."""
        self._policies[name] = policy
        return policy

    def _spec(self, arm: str, template: Template, adapter: Path | None, kind: str) -> RolloutSpec:
        config = self.config
        sampling = config.sampling
        return RolloutSpec(
            env_name=config.env.name,
            task=config.env.task,
            template=template,
            arm=arm,
            run_seed=config.seed,
            sampling=SamplingSettings(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                max_tokens=sampling.max_tokens,
            ),
            two_model=adapter is not None,
            behaviour_hash=behaviour_hash(config),
            kind=kind or config.agent.kind,
            window=config.agent.window,
            carry_memory=config.agent.carry_memory and (kind or config.agent.kind) == "memory",
        )

    def take_usage(self) -> dict[str, ModelUsage]:
        """Calls, tokens and money by the server's models since this was last asked; empty in process."""
        return _by_model(getattr(p, "take_usage", dict)() for p in self._policies.values())

    def usage(self) -> dict[str, ModelUsage]:
        """What `take_usage` would give, which it still gives."""
        policies = list(self._policies.values())  # another thread may ask
        return _by_model(dict(p.usage) for p in policies if hasattr(p, "take_usage"))

    def _prompt_limits(self) -> dict[str, Any]:
        """The local model's tokenizer and longest prompt; a server's are not known here."""
        if self.config.policy.kind != "local":
            return {}
        from automem_jax.text.chat import TokenCount

        room = self.config.model.max_context - self.config.sampling.max_tokens
        return {"count_tokens": TokenCount(self.tokenizer), "context_tokens": max(1, room)}

    def close(self) -> None:
        for policy in self._policies.values():
            policy.close()
        if self._env is not None:
            self._env.close()


def _by_model(usages: Iterable[Mapping[str, ModelUsage]]) -> dict[str, ModelUsage]:
    total: dict[str, ModelUsage] = {}
    for usage in usages:
        for model, counts in usage.items():
            total.setdefault(model, ModelUsage()).add(counts)
    return total


def weights_mesh(config: MeshConfig) -> Mesh | None:
    """The mesh that the base's weights are read onto: training's; None on a single device.

    Raises:
      sharding.ShardingError: the axes do not fit the devices.
    """
    import jax

    from automem_jax.sharding import configured_mesh

    return None if jax.device_count() == 1 else configured_mesh(config)


def behaviour_hash(config: ExperimentConfig) -> str:
    """Hash of the configuration that shapes an episode; how many run at once is not part of it."""
    parts = {
        "env": {k: v for k, v in dataclasses.asdict(config.env).items() if k not in _NOT_BEHAVIOUR},
        "model": dataclasses.asdict(config.model),
        "policy": {
            k: getattr(config.policy, k) for k in ("kind", "model", "adapter_model", "max_tokens")
        },
        "sampling": dataclasses.asdict(config.sampling),
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def compilation_cache_dir() -> str:
    """Where compiled programs are kept between processes; JAX_COMPILATION_CACHE_DIR overrides."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(root, "automem_jax", "xla")
