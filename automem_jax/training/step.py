"""One optimizer step, compiled once: trained parameters change, everything else cannot.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from automem_jax.distributed import put
from automem_jax.models.decoder import BaseWeight
from automem_jax.training.loss import supervised_loss
from automem_jax.training.objectives import Objective, objective_sums
from automem_jax.training.objectives import figures as objective_figures

PLAIN = Objective()
ADAPTER_AXIS = 1  # of lora_a [L, N, in, R] and lora_b [L, N, R, out]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a step changes, and nothing else.

    Attributes:
      step: int32 [], optimizer steps taken.
      params: trained arrays by dotted path; an adapter's have N = 1.
      opt_state: the optimizer's, shaped like params.
      rng: key data of the run; dropout is drawn from it and the step number.
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
    parts: Partition,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> TrainState:
    """State before the first step; on `mesh`, the optimizer's moments lie as their parameters do."""
    params = parts.params()
    scalars = jnp.zeros((), jnp.int32), jax.random.key_data(jax.random.key(seed))
    if mesh is None:
        return TrainState(scalars[0], params, optimizer.init(params), scalars[1])
    replicated = NamedSharding(mesh, PartitionSpec())
    shardings = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, params),
        jax.tree.map(lambda value: value.sharding, params),
        transform_non_params=lambda _: replicated,
    )
    step, rng = (put(np.asarray(value), replicated) for value in scalars)
    return TrainState(step, params, jax.jit(optimizer.init, out_shardings=shardings)(params), rng)


def make_train_step(
    parts: Partition,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    loss_chunk: int = 512,
    dropout: bool = False,
    mesh: Mesh | None = None,
    objective: Objective = PLAIN,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The compiled step: (state, batch) -> (state, figures).

    `batch` is what data.batches_of makes. Its B rows are seen in `microbatches` parts of equal size, one
    at a time; gradients are sums over all supervised tokens of the batch, divided once by
    the sum of all weights, so neither parts nor devices change what a token weighs.

    Figures: loss (mean a supervised token), supervised_tokens (its divisor), grad_norm (before
    clipping), row_loss (each row's sum, [B]), and the objective's own, see objectives.figures. The
    state's buffers are given away to the new state.

    Args:
      dropout: whether adapters drop; the key depends on the state's rng, step and microbatch.
      mesh: where the state lies; new states lie the same.
      objective: what is minimised; its divisor takes the place of the sum of weights.
    """
    loss_of = _loss_of(parts, loss_chunk, objective)
    gradient_of = jax.value_and_grad(loss_of, has_aux=True)

    def accumulate(params, trained, frozen, batch, key):
        def add(sums, numbered):
            index, part = numbered
            part_key = jax.random.fold_in(key, index) if dropout else None
            (_, rows), grads = gradient_of(params, trained, frozen, part, part_key)
            return jax.tree.map(jnp.add, sums, grads), rows

        zeros = jax.tree.map(jnp.zeros_like, params)
        if microbatches == 1:
            return add(zeros, (0, batch))
        parts_of_batch = jax.tree.map(lambda x: _parts(x, microbatches), batch)
        grads, rows = jax.lax.scan(add, zeros, (jnp.arange(microbatches), parts_of_batch))
        return grads, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1), rows)

    def step(state, trained, frozen, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        grads, (row_loss, row_weight, sums) = accumulate(state.params, trained, frozen, batch, key)
        count = jnp.sum(row_weight)
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1e-9), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            rng=state.rng,
        )
        figures = {
            "loss": jnp.sum(row_loss) / jnp.maximum(count, 1e-9),
            "supervised_tokens": count,
            "grad_norm": optax.tree.norm(grads),
            "row_loss": row_loss,
        }
        return new, figures | objective_figures(sums, count)

    def compiled_for(state: TrainState):
        layout = None
        if mesh is not None:
            # Without it XLA may lay the new state out anew, and the second step compiles again.
            replicated = NamedSharding(mesh, PartitionSpec())
            layout = jax.tree.map(lambda x: x.sharding, state), replicated
        return jax.jit(step, donate_argnums=0, out_shardings=layout)

    compiled = None

    def run(state: TrainState, batch: dict[str, Array]):
        nonlocal compiled
        if compiled is None:
            compiled = compiled_for(state)
        return compiled(state, parts.trained, parts.frozen, batch)

    # Of shapes alone: for compiling ahead of time.
    run.lower = lambda state, batch: compiled_for(state).lower(
        state, parts.trained, parts.frozen, batch
    )
    return run


def make_score(
    parts: Partition,
    *,
    loss_chunk: int = 512,
    mesh: Mesh | None = None,
    objective: Objective = PLAIN,
) -> Callable[[dict[str, Array], dict[str, Array]], tuple[Array, Array, dict[str, Array]]]:
    """The compiled held-out loss: (params, batch) -> (sum of losses, their divisor, the sums of the
    objective's own figures)."""
    loss_of = _loss_of(parts, loss_chunk, objective)

    def score(params, trained, frozen, batch):
        total, (_, weights, sums) = loss_of(params, trained, frozen, batch, None)
        return total, jnp.sum(weights), jax.tree.map(jnp.sum, sums)

    layout = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(score, out_shardings=layout)
    return lambda params, batch: compiled(params, parts.trained, parts.frozen, batch)


def _loss_of(parts: Partition, loss_chunk: int, objective: Objective):
    """(params, trained, frozen, batch, dropout key) -> (sum of losses, (row sums, row divisors, row sums
    of the objective's own figures))."""

    def loss_of(params, trained, frozen, batch, key):
        model = parts.model(params, trained, frozen)
        visible = {name: batch[name] for name in ("ends", "segment_ids") if name in batch}
        hidden, _ = model.hidden(
            batch["tokens"],
            positions=batch["positions"],
            adapter_ids=parts.adapter,
            dropout_key=key,
            with_cache=False,
            **visible,
        )
        if not objective.is_plain:
            base_hidden = None
            if objective.needs_base:
                base_hidden, _ = model.hidden(
                    batch["tokens"],
                    positions=batch["positions"],
                    adapter_ids=0,
                    with_cache=False,
                    **visible,
                )
            rows, weights, sums = objective_sums(
                objective, hidden, base_hidden, batch, model.unembed, chunk=loss_chunk
            )
            return jnp.sum(rows), (rows, weights, sums)
        rows, weights = supervised_loss(
            hidden,
            batch["predict_at"],
            batch["labels"],
            batch["label_weights"],
            model.unembed,
            chunk=loss_chunk,
        )
        return jnp.sum(rows), (rows, weights, {})

    return loss_of


def _parts(x: Array, count: int) -> Array:
    """[B, ...] -> [count, B / count, ...]; each part takes as many rows from every device."""
    return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)


def _arrays(state: nnx.State) -> dict[str, Array]:
    return {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)}


def _with_arrays(state: nnx.State, arrays: dict[str, Array]) -> nnx.State:
    flat = [
        (path, variable.replace(arrays[".".join(map(str, path))]))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(flat)
