"""Checkpoints of a training run (Orbax): what a step changes, and where the input stood.

The frozen base is not saved again; its hash is, and restoring onto another base is refused.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from automem_jax.distributed import barrier
from automem_jax.training.step import TrainState

HELDOUT_LOSS = "heldout_loss"
UNREADABLE = "checkpoints_unreadable"


class CheckpointError(ValueError):
    """A checkpoint that belongs to another run, or that cannot be written; says what and the remedy."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint: the state, the input iterator's state, and what else the loop had saved."""

    state: TrainState
    iterator: dict[str, Any]
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the one with the least held-out loss.

    Saving goes on in the background. `identity` names what a run is made of (base hash,
    configuration, examples): a checkpoint is only restored where all of it is the same. It may be
    restored onto another mesh and number of devices. One that cannot be read, or whose content
    differs from the checksums saved with it, is moved aside with a word on standard error.
    """

    def __init__(self, directory: str | Path, *, keep: int, identity: dict[str, str]):
        self._directory = Path(directory).absolute()
        self._identity = identity
        best = BestN(
            get_metric_fn=_negative_heldout_loss, n=1, keep_checkpoints_without_metrics=False
        )
        self._options = ocp.CheckpointManagerOptions(
            create=True,
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            best_fn=_negative_heldout_loss,  # without it a new process does not know their metrics
        )
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def save(
        self,
        state: TrainState,
        iterator_state: dict[str, Any],
        *,
        notes: dict[str, Any] | None = None,
        heldout_loss: float | None = None,
    ) -> None:
        """Saves the state under its step number; returns before it is on disk.

        Raises:
          CheckpointError: there is no room for it, or an earlier save failed; those before it stay.
        """
        tree = _tree(state)
        self._require_room(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        run = {
            "identity": self._identity,
            "iterator": iterator_state,
            "checksums": checksums(tree),
            "notes": notes or {},
        }
        with self._clear_errors():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree), run=ocp.args.JsonSave(run)
                ),
                metrics=None if heldout_loss is None else {HELDOUT_LOSS: heldout_loss},
            )

    def restore(self, like: TrainState, step: int | None = None) -> Restored | None:
        """The newest checkpoint that can be read (or that of `step`), or None where there is none.

        Args:
          like: a state of the same shapes, laid out as the result is to be; its values are not read.

        Raises:
          CheckpointError: the checkpoint was made with another base, configuration or data; or
            `step` is asked for and cannot be read.
        """
        self.wait()
        if step is not None:
            return self._read(step, like)
        for candidate in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read(candidate, like)
            except _Unreadable as problem:
                self._set_aside(candidate, str(problem))
        return None

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when everything saved so far is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with self._clear_errors():
            self._manager.wait_until_finished()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self.close()
        except CheckpointError:
            if kind is None:  # else the error under way says more
                raise

    def close(self) -> None:
        """Finishes pending saves and frees the manager."""
        with self._clear_errors():
            self._manager.close()

    def _read(self, step: int, like: TrainState) -> Restored:
        place = self._directory / str(step)
        try:
            run = json.loads((place / "run" / "metadata").read_text(encoding="utf-8"))
            saved = run["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Unreadable(f"{place}: {type(error).__name__}: {error}") from error
        require_same(saved, self._identity, f"checkpoint {place}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            ).state
        except Exception as error:  # whatever the storage layers make of broken files
            raise _Unreadable(f"{place}: {type(error).__name__}: {error}") from error
        if checksums(restored) != run["checksums"]:
            raise _Unreadable(f"{place}: its content is not what was saved")
        leaves = jax.tree.leaves(restored["opt_state"])
        opt_state = jax.tree.unflatten(jax.tree.structure(like.opt_state), leaves)
        state = TrainState(restored["step"], restored["params"], opt_state, restored["rng"])
        return Restored(state, run["iterator"], run["notes"])

    def _set_aside(self, step: int, problem: str) -> None:
        target = self._directory.parent / UNREADABLE / str(step)
        first_line = problem.splitlines()[0][:300]
        print(
            f"checkpoint of step {step} cannot be read and is moved to {target}; trying the one "
            f"before ({first_line})",
            file=sys.stderr,
        )
        if jax.process_index() == 0:
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self._directory / str(step), target)
        barrier(f"set aside {step}")
        self._manager.close()
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def _require_room(self, size: int) -> None:
        free = shutil.disk_usage(self._directory).free
        if free < size:
            raise CheckpointError(
                f"{self._directory}: a checkpoint needs {size / 2**20:,.1f} MiB, {free / 2**20:,.1f} "
                "MiB are free; make room and run the same command, earlier checkpoints are intact"
            )

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            if not _is_storage_error(error):
                raise
            raise CheckpointError(
                f"{self._directory}: a checkpoint could not be written ({_one_line(error)}); make "
                "room there and run the same command, earlier checkpoints are intact"
            ) from error


class _Unreadable(CheckpointError):
    """Files that are missing, torn or changed."""


def require_same(saved: dict[str, str], now: dict[str, str], what: str) -> None:
    """Raises CheckpointError where the identity of saved work is not that of this run."""
    for name, value in now.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"{what} was made with {name} {saved.get(name)}, this run has {value}; "
                "use the same, or another output directory"
            )


def checksums(tree: Any) -> list[int]:
    """A 32-bit checksum of each leaf's bits, whatever devices they lie on; the same for equal arrays."""
    return [int(value) for value in jax.device_get(_checksums(tree))]


@jax.jit
def _checksums(tree: Any) -> list[jax.Array]:
    found = []
    for leaf in jax.tree.leaves(tree):
        width = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
        # Odd factors that differ by place: swapped values and a flipped bit both show.
        factors = jnp.ones((), jnp.uint32)
        for axis in range(leaf.ndim):
            place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            factors = factors * (2 * place * jnp.uint32(2654435761) + 1)
        found.append(jnp.sum(bits * factors, dtype=jnp.uint32))
    return found


def _negative_heldout_loss(metrics: Any) -> float:
    """Greater is better, for Orbax."""
    return -float(metrics[HELDOUT_LOSS])


def _is_storage_error(error: BaseException) -> bool:
    words = ("no space left", "resource_exhausted", "file too large", "disk quota", "i/o error")
    codes = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in codes:
            return True
        if any(word in str(seen).lower() for word in words):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _tree(state: TrainState) -> dict[str, Any]:
    """Plain containers: the optimizer's leaves by position, so that no class name is stored."""
    leaves = {f"{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {"step": state.step, "params": state.params, "opt_state": leaves, "rng": state.rng}
