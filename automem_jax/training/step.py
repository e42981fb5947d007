"""One optimizer step, compiled once: trained parameters change, everything else cannot.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from automem_jax.models.decoder import BaseWeight
from automem_jax.training.loss import next_token_loss

ADAPTER_AXIS = 1  # of lora_a [L, N, in, R] and lora_b [L, N, R, out]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a step changes, and nothing else.

    Attributes:
      step: int32 [], optimizer steps taken.
      params: trained arrays by dotted path; an adapter's have N = 1.
      opt_state: the optimizer's, shaped like params.
      rng: key data of the run; saved with the rest. The objective draws nothing from it so far.
    """

    step: Array
    params: dict[str, Array]
    opt_state: Any
    rng: Array


class ParameterError(ValueError):
    """A parameter is neither trained nor frozen, or both; the message lists them."""


@dataclass(frozen=True)
class Partition:
    """A model's variables, split by what may change.

    Attributes:
      graphdef: the model without its arrays.
      trained: the variables that the optimizer sees, whole (all adapters).
      frozen: all others.
      adapter: number of the adapter that is trained, from 1; None: `trained` as a whole.
    """

    graphdef: Any
    trained: nnx.State
    frozen: nnx.State
    adapter: int | None

    def params(self) -> dict[str, Array]:
        """The trained arrays: of an adapter its own slice."""
        return {path: self._own(value) for path, value in _arrays(self.trained).items()}

    def model(self, params: dict[str, Array], trained: nnx.State, frozen: nnx.State) -> nnx.Module:
        """The model with `params` in place; `trained` and `frozen` as in this partition."""
        filled = {path: self._put(value, params[path]) for path, value in _arrays(trained).items()}
        merged = _with_arrays(trained, filled)
        return nnx.merge(self.graphdef, merged, frozen, copy=True)

    def install(self, model: nnx.Module, params: dict[str, Array]) -> None:
        """Writes `params` into `model`, in place."""
        filled = {path: self._put(v, params[path]) for path, v in _arrays(self.trained).items()}
        nnx.update(model, _with_arrays(self.trained, filled))

    def _own(self, value: Array) -> Array:
        if self.adapter is None:
            return jnp.copy(value)  # the step gives its buffers away; the model keeps its own
        return jax.lax.slice_in_dim(value, self.adapter - 1, self.adapter, axis=ADAPTER_AXIS)

    def _put(self, whole: Array, own: Array) -> Array:
        if self.adapter is None or whole.shape == own.shape:
            return own
        return jax.lax.dynamic_update_slice_in_dim(whole, own, self.adapter - 1, axis=ADAPTER_AXIS)


def partition(
    model: nnx.Module,
    *,
    trainable: type = nnx.LoRAParam,
    frozen: type = BaseWeight,
    adapter: int | None = 1,
) -> Partition:
    """Splits a model into what is trained and what is frozen.

    To pretrain a base: `trainable=BaseWeight, frozen=nnx.LoRAParam, adapter=None`.

    Raises:
      ParameterError: nothing is trained, a variable is of neither kind or of both, or there is no
        such adapter.
    """
    neither, both, trained_count = [], [], 0
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        kinds = isinstance(variable, trainable), isinstance(variable, frozen)
        place = f"{'.'.join(map(str, path))} ({type(variable).__name__})"
        trained_count += kinds[0]
        if kinds == (False, False):
            neither.append(place)
        if kinds == (True, True):
            both.append(place)
        if kinds[0] and adapter is not None and not 1 <= adapter <= variable.shape[ADAPTER_AXIS]:
            raise ParameterError(
                f"{place} holds {variable.shape[ADAPTER_AXIS]} adapters, so there is no adapter {adapter}"
            )
    for places, wrong in (
        (neither, "neither trained nor frozen"),
        (both, "both trained and frozen"),
    ):
        if places:
            raise ParameterError(
                f"parameters {wrong}: {', '.join(places)}; name their kind in `trainable` or `frozen`"
            )
    if not trained_count:
        raise ParameterError(
            f"no parameter of kind {trainable.__name__}; add an adapter before training"
        )
    graphdef, trained, rest = nnx.split(model, trainable, ...)
    return Partition(graphdef, trained, rest, adapter)


def initial_state(
    parts: Partition, optimizer: optax.GradientTransformation, seed: int = 0
) -> TrainState:
    """State before the first step."""
    params = parts.params()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        rng=jax.random.key_data(jax.random.key(seed)),
    )


def make_train_step(
    parts: Partition, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The compiled step: (state, batch) -> (state, figures).

    `batch` holds tokens, segment_ids, positions, weights, each [B, T]. Figures: loss (mean a supervised
    token), supervised_tokens (sum of weights), grad_norm (before clipping). The state's buffers are
    given away to the new state.
    """

    def loss_of(params, trained, frozen, batch):
        model = parts.model(params, trained, frozen)
        adapter_ids = None
        if parts.adapter is not None:
            adapter_ids = jnp.full((batch["tokens"].shape[0],), parts.adapter, jnp.int32)
        logits = model(
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            adapter_ids=adapter_ids,
        )
        total, count = next_token_loss(
            logits, batch["tokens"], batch["segment_ids"], batch["weights"]
        )
        return total / jnp.maximum(count, 1e-9), count

    def step(state, trained, frozen, batch):
        (loss, count), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, trained, frozen, batch
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            rng=state.rng,
        )
        figures = {
            "loss": loss,
            "supervised_tokens": count,
            "grad_norm": optax.tree.norm(grads),
        }
        return new, figures

    compiled = jax.jit(step, donate_argnums=0)
    return lambda state, batch: compiled(state, parts.trained, parts.frozen, batch)


def _arrays(state: nnx.State) -> dict[str, Array]:
    return {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)}


def _with_arrays(state: nnx.State, arrays: dict[str, Array]) -> nnx.State:
    flat = [
        (path, variable.replace(arrays[".".join(map(str, path))]))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(flat)
